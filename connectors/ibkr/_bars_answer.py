"""The gateway's answer to one request for bars: its fields made into columns, checked, cut to what was asked for.

Pure: the asking is in `bars`, the wire in `_bars_link`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pyarrow as pa

from connectors.ibkr.bar_requests import day_window
from connectors.ibkr.errors import BadAnswer
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.bars import BAR_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from connectors.ibkr.bar_requests import BarsRequest

HEAD_FIELDS: Final = 5
"""Fields of message 17 before the bars: its number, the request's, start and end as text, the number of bars."""

BAR_FIELDS: Final = 8
"""Fields of one bar: time, open, high, low, close, volume, WAP, number of trades."""

_NS: Final = 1_000_000_000
_HOUR_S: Final = 3600
# Beyond it a float is no exact number of trades.
_MOST_TRADES: Final = 2**53
# `20250905` is a day; seconds since 1970 have nine digits or more since 1973.
_EPOCH_DIGITS: Final = 9
_WITH_ZONE: Final = re.compile(r"(\d{8})[ -]+(\d{2}:\d{2}:\d{2}) (\S+)")


@dataclass(frozen=True)
class BarsAnswer:
    """The bars of one request.

    Attributes:
        request: What was asked.
        table: `contracts.v1.bars.BAR_SCHEMA`: bars inside the request's windows, strictly increasing times, each
            ended when it was asked; may have no rows.
        is_no_data: The vendor has none for the whole span: it said so, or its answer ended without a bar.
        asked_at_ns: When the question that was answered was sent, nanoseconds since 1970 UTC.
        attempts: How often it was asked; pacing and lost connections do not count.
        duplicates: Bars that came more than once; of each time the last one is kept.
        outside: Bars left out: outside the windows, or still forming.
    """

    request: BarsRequest
    table: pa.Table
    is_no_data: bool
    asked_at_ns: int
    attempts: int
    duplicates: int = 0
    outside: int = 0


def no_bars(request: BarsRequest, *, asked_at_ns: int, attempts: int) -> BarsAnswer:
    """The answer of a vendor who has none."""
    return BarsAnswer(request, BAR_SCHEMA.empty_table(), True, asked_at_ns, attempts)


def answer_of(request: BarsRequest, fields: Sequence[str], *, asked_at_ns: int, attempts: int) -> BarsAnswer:
    """Make what the gateway sent into an answer.

    Args:
        request: What was asked.
        fields: Message 17 as it came, all of its fields.
        asked_at_ns: When it was asked; bars that ended later were still forming.
        attempts: How often it was asked.

    Raises:
        BadAnswer: It cannot be true; says what, and names the first such bar.
    """
    rows = _rows(request, fields)
    seconds = _seconds(request, fields[HEAD_FIELDS::BAR_FIELDS])
    try:
        numbers = [
            np.fromiter(map(float, fields[HEAD_FIELDS + column :: BAR_FIELDS]), np.float64, rows)
            for column in range(1, BAR_FIELDS)
        ]
    except ValueError as error:
        raise _bad(request, f"a bar holds what is no number: {str(error)[:80]}") from error

    kept = _kept(request, seconds, asked_at_ns)
    order = np.flatnonzero(kept)
    order = order[np.argsort(seconds[order], kind="stable")]
    ordered = seconds[order]
    # Of bars of one time the one that came last counts.
    is_last = np.ones(len(order), np.bool_)
    is_last[:-1] = ordered[1:] != ordered[:-1]
    order = order[is_last]
    seconds, numbers = seconds[order], [column[order] for column in numbers]
    _check(request, seconds, numbers)
    return BarsAnswer(
        request,
        _table(seconds, numbers),
        is_no_data=not rows,
        asked_at_ns=asked_at_ns,
        attempts=attempts,
        duplicates=len(is_last) - len(order),
        outside=rows - len(is_last),
    )


def _rows(request: BarsRequest, fields: Sequence[str]) -> int:
    try:
        rows = int(fields[HEAD_FIELDS - 1])
    except (ValueError, IndexError) as error:
        raise _bad(request, "it does not say how many bars it holds") from error
    if rows < 0 or len(fields) != HEAD_FIELDS + rows * BAR_FIELDS:
        raise _bad(request, f"it says that it holds {rows} bars, but has {len(fields) - HEAD_FIELDS} fields for them")
    return rows


def _seconds(request: BarsRequest, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """The bars' times, seconds since 1970 UTC."""
    try:
        if all(map(str.isdecimal, texts)) and all(len(text) >= _EPOCH_DIGITS for text in texts):
            return np.fromiter(map(int, texts), np.int64, len(texts))
        return np.fromiter(map(_epoch, texts), np.int64, len(texts))
    except (ValueError, OverflowError) as error:
        raise _bad(request, f"the time of a bar is no time with a zone: {str(error)[:80]}") from error


def _epoch(text: str) -> int:
    """One time as seconds since 1970 UTC: as asked for, or with the name of a zone, as some gateways write it."""
    if text.isdecimal() and len(text) >= _EPOCH_DIGITS:
        return int(text)
    match = _WITH_ZONE.fullmatch(text)
    if match is None:
        raise ValueError(repr(text))
    try:
        zone = ZoneInfo(match[3])
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(repr(text)) from error
    return int(datetime.strptime(f"{match[1]} {match[2]}", "%Y%m%d %H:%M:%S").replace(tzinfo=zone).timestamp())


def _kept(request: BarsRequest, seconds: npt.NDArray[np.int64], asked_at_ns: int) -> npt.NDArray[np.bool_]:
    starts = np.array([window.start_ns // _NS for window in request.windows], np.int64)
    ends = np.array([window.end_ns // _NS for window in request.windows], np.int64)
    window = np.searchsorted(starts, seconds, "right") - 1
    inside = (window >= 0) & (seconds < ends[np.maximum(window, 0)])
    # The bar of 09:30 is half an hour long: the next one begins on the hour.
    bar_ends = (seconds // request.bar_s + 1) * request.bar_s
    return np.asarray(inside & (bar_ends <= asked_at_ns // _NS))


def _check(request: BarsRequest, seconds: npt.NDArray[np.int64], numbers: Sequence[npt.NDArray[np.float64]]) -> None:
    opened, high, low, close, volume, _, count = numbers
    on_grid = seconds % request.bar_s == 0
    if request.bar_s == _HOUR_S and not on_grid.all():
        opens = [day_window(day, use_rth=True).start_ns // _NS for day in request.days]
        on_grid |= np.isin(seconds, opens)
    is_finite = np.isfinite(opened) & np.isfinite(high) & np.isfinite(low) & np.isfinite(close)
    is_counted = np.isfinite(volume) & (np.abs(count) < _MOST_TRADES)
    # What is no number compares as false, so it is told first.
    is_ordered = (low <= opened) & (opened <= high) & (low <= close) & (close <= high)
    for is_good, what in (
        (on_grid, "begins off the grid of its size"),
        (is_finite, "has a price that is no number"),
        (is_counted, "has a volume or a count that is no number"),
        (is_ordered, "has a low above or a high below its other prices"),
    ):
        if not is_good.all():
            at = int(np.argmin(is_good))
            when = iso_utc_from_ns(seconds[at : at + 1] * _NS)[0].as_py()[:19]
            raise _bad(request, f"the bar of {when} UTC {what} ({int((~is_good).sum())} such bars)")


def _table(seconds: npt.NDArray[np.int64], numbers: Sequence[npt.NDArray[np.float64]]) -> pa.Table:
    opened, high, low, close, volume, wap, count = numbers
    # The broker sends -1 where a kind of bar has none, and an average of 0 where nothing was traded.
    volume = np.maximum(volume, 0.0)
    no_wap = ~np.isfinite(wap) | (wap < 0) | ((wap == 0) & (volume == 0))
    arrays = [
        iso_utc_from_ns(seconds * _NS),
        *(pa.array(prices) for prices in (opened, high, low, close)),
        pa.array(volume),
        pa.array(np.maximum(count, 0.0).astype(np.int64)),
        pa.array(wap, mask=no_wap),
    ]
    return pa.Table.from_arrays(arrays, schema=BAR_SCHEMA)


def _bad(request: BarsRequest, what: str) -> BadAnswer:
    return BadAnswer(f"{request}: the gateway's answer cannot be true: {what}", symbol=request.symbol)

"""Hypothesis strategies of everything in the contract: what they make is valid, unless they are asked for wild things.

    from hypothesis import given
    from contracts.testing import strategies as marketdata

    @given(table=marketdata.snapshot_tables(levels=10))
    def test_features_have_one_row_per_snapshot(table):
        assert len(my_features(table)) == table.num_rows

Documents come as models of `contracts`, tables with the contract's columns. Nothing is written to disk.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, get_args

import numpy as np
import pyarrow as pa

from contracts.layout import Level2Kind, Level2Name
from contracts.sessions import parse_window
from contracts.testing._backfill import sample_metadata
from contracts.testing._strategies_bars import bar_tables, bars_manifest_lines, bars_names, coverage
from contracts.testing._strategies_values import (
    MOST_CENTS,
    MS,
    amounts,
    counts,
    days,
    ids,
    maybe,
    roots,
    st,
    symbols,
    timestamps_ns,
    utc_times,
    windows,
)
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.backfill import BackfillCounts, BackfillManifestLine, BackfillStatus, BackfillSummary
from contracts.v1.depth_messages import DepthMessage, DepthMessages, Operation, Side
from contracts.v1.gaps import Gap, GapCause
from contracts.v1.level2 import DEFAULT_LEVELS, SnapshotMetadata, snapshot_schema
from contracts.v1.quality import Quality, VendorCondition
from contracts.v1.session_stats import SessionStats

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

__all__ = [
    "bar_tables",
    "bars_manifest_lines",
    "bars_names",
    "books",
    "coverage",
    "days",
    "depth_messages",
    "gaps",
    "level2_names",
    "manifest_lines",
    "qualities",
    "session_stats",
    "snapshot_metadata",
    "snapshot_tables",
    "summaries",
    "symbols",
    "timestamps_ns",
    "windows",
]

Book = tuple[list[float], list[int], list[float], list[int]]
"""Bid prices, bid sizes, ask prices, ask sizes, N values each, best first."""

_Change = tuple[Operation, int, int, int]
"""Operation, level, price in cents, size."""


def books(levels: int = DEFAULT_LEVELS) -> SearchStrategy[Book]:
    """Books of `levels` levels per side: shallow, one-sided, empty, locked and crossed ones too, each side in order."""
    bids, asks = (_book_side(levels, direction) for direction in (-1, 1))
    return st.tuples(bids, asks).map(lambda sides: (*sides[0], *sides[1]))


@st.composite
def snapshot_metadata(draw: DrawFn, levels: int | None = None, interval_ms: int | None = None) -> SnapshotMetadata:
    """Footers of snapshots files of both sources; `levels` is N or any, `interval_ms` that or any usual one, also 0."""
    return sample_metadata(
        draw(symbols()),
        draw(days()),
        window_et=str(draw(windows())),
        levels=draw(st.integers(1, 20)) if levels is None else levels,
        interval_ms=draw(st.sampled_from([0, 100, 250, 1000])) if interval_ms is None else interval_ms,
        source=draw(st.sampled_from(["databento", "ibkr"])),
    )


@st.composite
def snapshot_tables(
    draw: DrawFn, levels: int | None = None, interval_ms: int | None = None, *, max_rows: int = 20
) -> pa.Table:
    """Rows of a snapshots file, at least one, with the footer metadata in the table's schema.

    `levels` is N or any; `interval_ms` that or any usual one. Sampled rows stand on the grid and end with the last grid
    point of the window, as those of a book that became known late; rows per event (`interval_ms` 0) stand anywhere in
    the window.
    """
    metadata = draw(snapshot_metadata(levels, interval_ms))
    start, end = _bounds_ns(metadata)
    if metadata.interval_ms:
        step = metadata.interval_ms * MS
        points = range(start, end, step)
        ns = list(points[-draw(st.integers(1, min(max_rows, len(points)))) :])
    else:
        ns = sorted(draw(st.lists(st.integers(start, end - 1), min_size=1, max_size=max_rows)))
    rows = draw(st.lists(books(metadata.levels), min_size=len(ns), max_size=len(ns)))
    columns = [iso_utc_from_ns(np.array(ns, np.int64)), *([row[at] for row in rows] for at in range(4))]
    return pa.table(columns, schema=snapshot_schema(metadata))


@st.composite
def depth_messages(
    draw: DrawFn,
    symbol: str | None = None,
    *,
    levels: int = DEFAULT_LEVELS,
    max_size: int = 50,
    start_ns: int | None = None,
    wild: bool = False,
) -> DepthMessages:
    """Streams of depth messages in the order of time.

    Plausible ones begin with an empty book, can all be applied, and keep each side in strict order, so that snapshots
    replayed from them are valid. Wild ones may say anything of any level: adds that leave holes, removes of what is not
    there, levels beyond the book, prices in no order, size 0. `start_ns` is the time of the first message, nanoseconds
    since 1970 UTC; it and the symbol are any unless given.
    """
    name = draw(symbols()) if symbol is None else symbol
    ns = draw(timestamps_ns()) if start_ns is None else start_ns
    sides: dict[Side, list[int]] = {"bid": [], "ask": []}
    messages = []
    for side, change, pause_ns in draw(st.lists(_changes(levels), max_size=max_size)):
        applied = change if wild else _plausible(change, sides[side], levels, falls=side == "bid")
        operation, level, cents, size = applied
        messages.append(
            DepthMessage(
                timestamp=iso_utc_from_ns(np.array([ns], np.int64))[0].as_py(),
                operation=operation,
                side=side,
                level=level,
                price=cents / 100,
                size=size,
                symbol=name,
            )
        )
        ns += pause_ns
    return DepthMessages(tuple(messages))


@st.composite
def gaps(draw: DrawFn) -> Gap:
    """Gap records, also empty ones, with and without detail."""
    start = draw(timestamps_ns())
    both = np.array([start, start + draw(st.integers(0, 3600 * 1000 * MS))], np.int64)
    gap_start, gap_end = iso_utc_from_ns(both).to_pylist()
    return Gap(
        symbol=draw(symbols()),
        session_id=draw(ids()),
        gap_start=gap_start,
        gap_end=gap_end,
        cause=draw(st.sampled_from(get_args(GapCause))),
        detail=draw(maybe(st.text())),
    )


@st.composite
def session_stats(draw: DrawFn) -> SessionStats:
    """Stats of capture sessions, also of empty ones and with the required keys only."""
    started_at = draw(utc_times())
    is_full = draw(st.booleans())
    required = {
        "symbol": draw(symbols()),
        "levels": draw(st.integers(1, 20)),
        "interval_ms": draw(st.sampled_from([0, 100])),
        "num_snapshots": draw(counts()),
        "num_messages": draw(counts()),
        "paper_mode": draw(st.booleans()),
        "recording_date": started_at,
    }
    if not is_full:
        return SessionStats(**required)
    stamped = level2_names().filter(lambda name: name.kind in ("snapshots", "messages") and name.stamp is not None)
    return SessionStats(
        **required,
        session_id=draw(ids()),
        files=tuple(sorted(name.filename for name in draw(st.lists(stamped, max_size=4, unique=True)))),
        started_at=started_at,
        ended_at=started_at + draw(st.timedeltas(timedelta(), timedelta(hours=8))),
        end_reason=draw(st.sampled_from(["duration", "interrupted", "crash"])),
        gaps=draw(st.integers(0, 5)),
        anomalies=draw(st.dictionaries(st.sampled_from(["remove_missing", "add_hole"]), counts())),
        max_lag_ms=draw(amounts()),
    )


@st.composite
def level2_names(draw: DrawFn) -> Level2Name:
    """Names of every kind of Level-2 file."""
    kind = draw(st.sampled_from(get_args(Level2Kind)))
    is_live = kind in ("messages", "session_stats") or (kind == "snapshots" and draw(st.booleans()))
    if is_live:
        return Level2Name(kind, draw(days()), draw(st.times()).replace(microsecond=0))
    tag = st.builds(str.__add__, st.sampled_from("dmz"), st.text("abz09", max_size=5))
    return Level2Name(kind, draw(days()), source_tag=draw(st.just("databento") | tag))


@st.composite
def qualities(draw: DrawFn) -> Quality:
    """Quality records, with and without what may be unknown."""
    rows = draw(counts())
    first, last = sorted(draw(st.tuples(timestamps_ns(), timestamps_ns())))
    first_ts, last_ts = iso_utc_from_ns(np.array([first, last], np.int64)).to_pylist()
    return Quality(
        vendor_condition=draw(maybe(st.sampled_from(get_args(VendorCondition)))),
        rows=rows,
        events=draw(counts()),
        crossed=draw(st.integers(0, rows)),
        locked=draw(st.integers(0, rows)),
        one_sided=draw(st.integers(0, rows)),
        maybe_bad_book=draw(counts()),
        max_gap_ms=draw(maybe(amounts())),
        first_ts=first_ts if rows else None,
        last_ts=last_ts if rows else None,
    )


@st.composite
def manifest_lines(draw: DrawFn) -> BackfillManifestLine:
    """Lines of the backfill manifest of every status, with all that it brings along and with the required keys only."""
    symbol, day = draw(symbols()), draw(days())
    status = draw(st.sampled_from(get_args(BackfillStatus)))
    if draw(st.booleans()):
        return BackfillManifestLine(symbol=symbol, date=day, status=status)
    has_file = status in ("WRITE", "SKIP")
    filename = Level2Name("snapshots", day, source_tag="databento").filename
    return BackfillManifestLine(
        symbol=symbol,
        date=day,
        status=status,
        run_id=draw(ids()),
        written_at=draw(utc_times()),
        source="databento",
        path=str(draw(roots()) / "level2" / symbol / filename) if has_file else None,
        rows=draw(st.integers(1, 2**40)) if has_file else None,
        interval_ms=draw(st.sampled_from([0, 100])),
        window_et=str(draw(windows())),
        cost_usd=draw(maybe(amounts())),
        quality=draw(maybe(qualities())) if has_file else None,
        error=draw(st.text()) if status == "ERROR" else None,
        reason=draw(st.sampled_from(["market closed", "no rows"])) if not has_file else None,
    )


@st.composite
def summaries(draw: DrawFn) -> BackfillSummary:
    """Summaries of backfill runs whose counts, tasks without rows and errors agree, also of a run without tasks."""
    tasks = draw(st.lists(st.tuples(symbols(), days()), max_size=6, unique=True))
    empty = draw(st.integers(0, len(tasks)))
    failed = [f"{symbol} {day.isoformat()}: {draw(st.text(max_size=20))}" for symbol, day in tasks[empty:]]
    write, skip = draw(st.integers(0, 1000)), draw(st.integers(0, 1000))
    return BackfillSummary(
        counts=BackfillCounts(WRITE=write, SKIP=skip, EMPTY=empty, ERROR=len(failed)),
        zero_row_tasks=tuple(tasks[:empty]),
        errors=tuple(failed),
        total_tasks=write + skip + len(tasks),
        duration_sec=draw(amounts()),
        strict=draw(st.booleans()),
        force=draw(st.booleans()),
        max_tasks=draw(maybe(st.integers(write + skip + len(tasks), 10_000))),
        concurrency=draw(st.integers(1, 64)),
        run_id=draw(maybe(ids())),
        started_at=draw(maybe(utc_times())),
        window_et=draw(maybe(windows().map(str))),
        cost_usd=draw(maybe(amounts())),
        bytes_written=draw(maybe(counts())),
    )


def _book_side(levels: int, direction: int) -> SearchStrategy[tuple[list[float], list[int]]]:
    """Prices and sizes of one side, best first; `direction` is that in which prices run, 1 or -1."""

    def build(parts: tuple[int, bytes, bytes, int]) -> tuple[list[float], list[int]]:
        best, steps, sizes, lot = parts
        missing = levels - len(steps)
        prices = [(best + direction * (sum(steps[:level]) + level)) / 100 for level in range(len(steps))]
        return prices + [0.0] * missing, [lot * (1 + size) for size in sizes[: len(steps)]] + [0] * missing

    # Bytes are one choice to Hypothesis, however many; a number for each level of each row would soon be too many.
    steps, sizes = st.binary(max_size=levels), st.binary(min_size=levels, max_size=levels)
    return st.tuples(st.integers(256 * levels, MOST_CENTS), steps, sizes, st.sampled_from([1, 100, 2**33])).map(build)


def _changes(levels: int) -> SearchStrategy[tuple[Side, _Change, int]]:
    """Side, any change, nanoseconds until the next one."""
    change = st.tuples(
        st.sampled_from(get_args(Operation)),
        st.integers(0, levels + 2),
        st.integers(-MOST_CENTS, MOST_CENTS),
        st.integers(0, 2**40),
    )
    return st.tuples(st.sampled_from(get_args(Side)), change, st.integers(0, 500 * MS))


def _plausible(change: _Change, prices: list[int], levels: int, *, falls: bool) -> _Change:
    """Return the change nearest to any one that can be applied and keeps the side in order.

    Args:
        change: Any.
        prices: The side before it, in cents, best first; changed along.
        levels: Levels per side.
        falls: Whether prices fall from level to level, as those of bids do.
    """
    operation, level, cents, size = change
    if operation == "remove" and prices:
        level %= len(prices)
        return operation, level, prices.pop(level), 0
    level %= min(len(prices) + 1, levels)
    is_new = operation != "update" or level == len(prices)
    below = level if is_new else level + 1
    better = prices[level - 1] if level else None
    worse = prices[below] if below < len(prices) else None
    upper, lower = (better, worse) if falls else (worse, better)
    low, high = 1 if lower is None else lower + 1, MOST_CENTS if upper is None else upper - 1
    if low > high:
        # No price fits in between: a level goes, which always can.
        level = max(level - 1, 0)
        return "remove", level, prices.pop(level), 0
    cents = low + cents % (high - low + 1)
    prices[level : level if is_new else level + 1] = [cents]
    del prices[levels:]
    return "add" if operation == "remove" else operation, level, cents, size + 1


def _bounds_ns(metadata: SnapshotMetadata) -> tuple[int, int]:
    return parse_window(metadata.window_et).bounds_ns(metadata.session_date)

"""Builders of bars: rows and footer of a file, its manifest line, the coverage of some lines. Nothing is written."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from contracts.layout import BarSize, BarsName
from contracts.sessions import ET, parse_window
from contracts.testing._backfill import SAMPLE_SYMBOL
from contracts.timestamps import iso_utc_from_ns, ns_from_iso_utc
from contracts.v1.bars import (
    BAR_SCHEMA,
    COVERAGE_VERSION,
    MANIFEST_VERSION,
    BarsCoverage,
    BarsManifestLine,
    BarsMetadata,
    CoverageDay,
    CoverageEntry,
    CoverageTotal,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contracts.layout import DataRoot

BARS_DAY: Final = date(2025, 11, 26)
"""A whole session, the day before Thanksgiving."""

BARS_HALF_DAY: Final = date(2025, 11, 28)
"""The session after it, which closes at 13:00."""

BARS_WRITTEN_AT: Final = datetime(2025, 11, 29, 1, 2, 3, tzinfo=UTC)

_SECONDS: Final[dict[BarSize, int]] = {"1 hour": 3600, "1 min": 60, "1 sec": 1}
_NS: Final = 1_000_000_000


def sample_bars(
    bar_size: BarSize = "1 min", day: date = BARS_DAY, *, window_et: str = "09:30-16:00", rows: int | None = None
) -> pa.Table:
    """Return plausible bars of a window; every 60th has no trades and no `WAP`.

    Bars begin at the start of the window and then at multiples of their size, as IBKR's do: hours at 09:30, 10:00, ...

    Args:
        bar_size: `1 hour`, `1 min` or `1 sec`.
        day: The ET day.
        window_et: ET wall clock of the bars, `HH:MM-HH:MM`; with a half day end it at 13:00.
        rows: Only so many from the start of the window; all by default.
    """
    start, end = parse_window(window_et).bounds_ns(day)
    step = _SECONDS[bar_size] * _NS
    ns = np.union1d([start], np.arange(-(-start // step) * step, end, step, dtype=np.int64))[:rows]
    count = len(ns)
    # A saw of whole cents: every close is the next open.
    cents = 23_000 + np.abs(np.arange(count + 1) % 40 - 20)
    opens, closes = cents[:-1], cents[1:]
    trades = np.where(np.arange(count) % 60 == 59, 0, 7)  # noqa: PLR2004 - the last one of an hour of minutes
    average = pa.array((opens + closes) / 200, mask=trades == 0)
    columns = [
        iso_utc_from_ns(ns),
        opens / 100,
        (np.maximum(opens, closes) + 2) / 100,
        (np.minimum(opens, closes) - 2) / 100,
        closes / 100,
        trades * 100.0,
        trades.astype(np.int64),
        average,
    ]
    return pa.table(columns, schema=BAR_SCHEMA)


def sample_bars_metadata(
    symbol: str = SAMPLE_SYMBOL, bar_size: BarSize = "1 min", day: date = BARS_DAY, *, complete: bool = True
) -> BarsMetadata:
    """Return the footer's metadata of a bars file; `bars_schema` of it is the schema to write."""
    return BarsMetadata(
        symbol=BarsName(bar_size, symbol, day).symbol,
        bar_size=bar_size,
        source="ibkr",
        session_date=day,
        what_to_show="TRADES",
        use_rth=True,
        price_adjustment="raw",
        complete=complete,
        producer="marketdata-contracts samples",
    )


def sample_bars_manifest_line(
    root: DataRoot,
    bars: pa.Table,
    bar_size: BarSize = "1 min",
    day: date = BARS_DAY,
    *,
    symbol: str = SAMPLE_SYMBOL,
    written_at: datetime = BARS_WRITTEN_AT,
    complete: bool = True,
) -> BarsManifestLine:
    """Return the manifest line of a bars file with these rows, at least one, in its place below a root."""
    first, last = (
        datetime.fromtimestamp(int(ns) // _NS, ET) for ns in ns_from_iso_utc(bars.column("timestamp"))[[0, -1]]
    )
    path = root.bars_path(bar_size, symbol, day)
    return BarsManifestLine(
        schema_version=MANIFEST_VERSION,
        written_at=written_at,
        vendor="IBKR",
        file_format="parquet",
        symbol=BarsName(bar_size, symbol, day).symbol,
        bar_size=bar_size,
        path=str(path.absolute()),
        filename=path.name,
        rows=bars.num_rows,
        columns=tuple(bars.schema.names),
        time_start=first,
        time_end=last,
        what_to_show="TRADES",
        use_rth=True,
        price_adjustment="raw",
        complete=complete,
    )


def sample_coverage(
    lines: Iterable[BarsManifestLine], *, generated_at: datetime = BARS_WRITTEN_AT + timedelta(hours=1)
) -> BarsCoverage:
    """Return the coverage of lines of which no two paths are for the same symbol, bar size and day.

    A later line of a path replaces earlier ones. `contracts.coverage` derives that of any manifest.

    Args:
        lines: With `time_start`, as `sample_bars_manifest_line` makes them.
        generated_at: When it is said to have been derived, aware.
    """
    newest = {line.path: line for line in lines}
    ordered = sorted((line.symbol, line.bar_size, line.filename, line) for line in newest.values())
    entries = []
    for (symbol, bar_size), group in groupby(ordered, key=lambda item: item[:2]):
        days = tuple(_coverage_day(line) for *_, line in group)
        total = CoverageTotal(date_start=days[0].date, date_end=days[-1].date)
        entries.append(CoverageEntry(symbol=symbol, bar_size=bar_size, total=total, days=days))
    return BarsCoverage(schema_version=COVERAGE_VERSION, generated_at=generated_at, entries=tuple(entries))


def _coverage_day(line: BarsManifestLine) -> CoverageDay:
    if line.time_start is None:
        raise ValueError(f"the line of {line.path} has no time_start, so no day")
    return CoverageDay(
        date=line.time_start.date(),
        time_start=line.time_start,
        time_end=line.time_end,
        path=line.path,
        filename=line.filename,
        rows=line.rows,
    )

"""Hypothesis strategies of bars: names, rows, manifest lines, coverage; used through `contracts.testing.strategies`."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Final, get_args

import numpy as np
import pyarrow as pa

from contracts.layout import BarSize, BarsName
from contracts.sessions import ET
from contracts.testing._strategies_values import MOST_CENTS, MS, days, roots, st, symbols, utc_times
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.bars import (
    BAR_SCHEMA,
    COVERAGE_VERSION,
    MANIFEST_VERSION,
    BarsCoverage,
    BarsManifestLine,
    CoverageDay,
    CoverageEntry,
    CoverageTotal,
)

if TYPE_CHECKING:
    from pathlib import PurePosixPath

    from hypothesis.strategies import DrawFn

_Bar = tuple[float, float, float, float, float, int, float | None]
"""The columns of a bar behind its time."""

_BAR_SECONDS: Final[dict[BarSize, int]] = {"1 hour": 3600, "1 min": 60, "1 sec": 1}


@st.composite
def bars_names(draw: DrawFn) -> BarsName:
    """Places of bars files of every size."""
    return BarsName(draw(st.sampled_from(get_args(BarSize))), draw(symbols()), draw(days()))


@st.composite
def bar_tables(
    draw: DrawFn, bar_size: BarSize | None = None, day: date | None = None, *, max_rows: int = 20
) -> pa.Table:
    """Rows of a bars file, at least one, of one size and session or of any; with holes and bars without trades."""
    size = draw(st.sampled_from(get_args(BarSize))) if bar_size is None else bar_size
    start = int(datetime.combine(draw(days()) if day is None else day, time(4), ET).timestamp())
    most = 16 * 3600 // _BAR_SECONDS[size]
    steps = sorted(draw(st.sets(st.integers(0, most - 1), min_size=1, max_size=min(max_rows, most))))
    ns = np.array([(start + step * _BAR_SECONDS[size]) * 1000 * MS for step in steps], np.int64)
    rows = draw(st.lists(_BARS, min_size=len(steps), max_size=len(steps)))
    columns = [iso_utc_from_ns(ns), *([row[at] for row in rows] for at in range(len(BAR_SCHEMA) - 1))]
    return pa.table(columns, schema=BAR_SCHEMA)


@st.composite
def bars_manifest_lines(draw: DrawFn) -> BarsManifestLine:
    """Lines of the bars manifest, with times of one session, and with the required keys only."""
    name, root = draw(bars_names()), draw(roots())
    required = {
        "schema_version": MANIFEST_VERSION,
        "written_at": draw(utc_times()),
        "vendor": "IBKR",
        "file_format": "parquet",
        "symbol": name.symbol,
        "bar_size": name.bar_size,
        "path": str(root / name.relative_path),
        "filename": name.relative_path.name,
        "rows": draw(st.integers(1, 60_000)),
        "columns": tuple(BAR_SCHEMA.names),
    }
    if draw(st.booleans()):
        return BarsManifestLine(**required)
    first, last = draw(_bar_times(name))
    return BarsManifestLine(
        **required,
        time_start=first,
        time_end=last,
        what_to_show="TRADES",
        use_rth=draw(st.booleans()),
        price_adjustment="raw",
        complete=draw(st.booleans()),
    )


@st.composite
def coverage(draw: DrawFn) -> BarsCoverage:
    """Coverage documents, sorted as they must be, also without entries."""
    root = draw(roots())
    entries = []
    for symbol, bar_size in sorted(draw(st.sets(st.tuples(symbols(), st.sampled_from(get_args(BarSize))), max_size=3))):
        names = [BarsName(bar_size, symbol, day) for day in sorted(draw(st.sets(days(), min_size=1, max_size=4)))]
        listed = tuple(draw(_coverage_days(root, name)) for name in names)
        total = CoverageTotal(date_start=listed[0].date, date_end=listed[-1].date)
        entries.append(CoverageEntry(symbol=symbol, bar_size=bar_size, total=total, days=listed))
    return BarsCoverage(schema_version=COVERAGE_VERSION, generated_at=draw(utc_times()), entries=tuple(entries))


@st.composite
def _coverage_days(draw: DrawFn, root: PurePosixPath, name: BarsName) -> CoverageDay:
    first, last = draw(_bar_times(name)) if draw(st.booleans()) else (None, None)
    return CoverageDay(
        date=name.day,
        time_start=first,
        time_end=last,
        path=str(root / name.relative_path),
        filename=name.relative_path.name,
        rows=draw(st.integers(1, 60_000)),
    )


@st.composite
def _bar_times(draw: DrawFn, name: BarsName) -> tuple[datetime, datetime]:
    seconds = _BAR_SECONDS[name.bar_size]
    start = datetime.combine(name.day, time(4), ET)
    first, last = sorted(draw(st.tuples(*[st.integers(0, 16 * 3600 // seconds - 1)] * 2)))
    return start + timedelta(seconds=first * seconds), start + timedelta(seconds=last * seconds)


def _bar(parts: tuple[int, bytes, int]) -> _Bar:
    low, above, trades = parts
    opened, closed, average, over = (low + cents for cents in above)
    high = max(opened, closed, average, over)
    return opened / 100, high / 100, low / 100, closed / 100, 100.0 * trades, trades, average / 100 if trades else None


_BARS: Final = st.tuples(st.integers(1, MOST_CENTS), st.binary(min_size=4, max_size=4), st.integers(0, 1000)).map(_bar)

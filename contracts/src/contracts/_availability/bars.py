"""The verdict on each day of bars, from the coverage index; no bars file is opened."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from contracts._availability.days import DaysReport, DayState, Hole, clock_text, closing_times, day_text
from contracts._reader.bars import place_of
from contracts.errors import InvalidName
from contracts.layout import BarSize, DataRoot
from contracts.sessions import ET, today_et
from contracts.symbols import canonical_symbol
from contracts.v1.bars import BarsCoverage, CoverageDay, CoverageEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

BarsMissingWhy = Literal["closed", "not_yet", "never_downloaded", "empty", "file_gone"]
"""closed: no session of XNYS. not_yet: a day to come. never_downloaded: not in the coverage index. empty: its file has
no rows. file_gone: its file is not there (told when data roots are given)."""

_OPEN: Final = time(9, 30)
_LENGTHS: Final[dict[BarSize, timedelta]] = {
    "1 hour": timedelta(hours=1),
    "1 min": timedelta(minutes=1),
    "1 sec": timedelta(seconds=1),
}


@dataclass(frozen=True)
class BarsDay:
    """One ET day of a symbol and bar size.

    Attributes:
        day: The day.
        state: `partial` when regular trading hours are not covered up to one bar at either end.
        why: Why it is missing, else None.
        path: The file: where it lies when data roots are given, else as the index says.
        rows: Bars in it.
        time_start: First bar, aware, New York time; None when the index does not tell.
        time_end: Start of the last bar, likewise.
        holes: What is missing of regular trading hours, 09:30 to the close, at the start and the end. Unknown times
            tell no hole.
    """

    day: date
    state: DayState
    why: BarsMissingWhy | None = None
    path: Path | None = None
    rows: int = 0
    time_start: datetime | None = None
    time_end: datetime | None = None
    holes: tuple[Hole, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, when there is one to load."""
        return () if self.path is None or self.state == "missing" else (self.path,)

    def __str__(self) -> str:
        parts: list[str] = [] if self.why is None else [self.why]
        if self.path is not None:
            parts.append(f"{self.rows} rows")
            ends = [clock_text(moment) if moment else "unknown" for moment in (self.time_start, self.time_end)]
            parts.append(f"first bar {ends[0]}, last bar {ends[1]}")
        if self.holes:
            parts.append("no data " + ", ".join(map(str, self.holes)))
        return day_text(self.day, self.state, parts)

    def to_document(self) -> dict[str, Any]:
        """Return the day as a JSON document; what there is nothing to say about is left out."""
        document = {
            "date": self.day.isoformat(),
            "state": self.state,
            "why": self.why,
            "path": None if self.path is None else str(self.path),
            "rows": None if self.path is None else self.rows,
            "time_start": None if self.time_start is None else self.time_start.isoformat(),
            "time_end": None if self.time_end is None else self.time_end.isoformat(),
            "holes": [hole.to_document() for hole in self.holes],
        }
        return {key: value for key, value in document.items() if value not in (None, [])}


@dataclass(frozen=True, repr=False)
class BarsAvailability(DaysReport[BarsDay]):
    """Which days of bars of one size a symbol has; `print` it for a table.

    Attributes:
        bar_size: `1 hour`, `1 min` or `1 sec`.
    """

    bar_size: BarSize

    @property
    def files(self) -> list[Path]:
        """The files of all days that can be loaded, by day; what `fingerprint` hashes."""
        return [path for day in self.days for path in day.files]

    def __str__(self) -> str:
        return self._lines(f"{self.symbol} {self.bar_size} bars")

    def to_document(self) -> dict[str, Any]:
        """Return the report as a JSON document."""
        return {
            "symbol": self.symbol,
            "bar_size": self.bar_size,
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "counts": self.counts,
            "days": [day.to_document() for day in self.days],
        }


def bars_availability(
    coverage: BarsCoverage | Iterable[CoverageEntry],
    symbol: str,
    bar_size: BarSize,
    start: date,
    end: date | None = None,
    *,
    roots: Sequence[DataRoot] = (),
) -> BarsAvailability:
    """Tell which days of bars are there, which are missing or cut short, and why.

    A day is complete when its first bar begins no later than one bar after 09:30 and its last bar begins no earlier
    than one bar before the close (13:00 on half days). A day whose times the index does not tell counts as present.

    Args:
        coverage: The coverage index, or entries of it.
        symbol: Any spelling.
        bar_size: `1 hour`, `1 min` or `1 sec`.
        start: First ET day.
        end: Last ET day, inclusive; None for one day.
        roots: Where files are looked for, as a data root may have moved or been copied: in their place below a root,
            else at the path of the index. Without roots the index is believed.

    Raises:
        InvalidName: A day is no date, or there is no such bar size.
        InvalidSymbol: The symbol has no canonical form.
        OutsideCalendar: The exchange calendar does not know the days.
    """
    name = canonical_symbol(symbol)
    if bar_size not in get_args(BarSize):
        raise InvalidName(bar_size, f"the bar size must be one of {', '.join(get_args(BarSize))}")
    last = start if end is None else end
    closes = closing_times(start, last)
    entries = coverage.entries if isinstance(coverage, BarsCoverage) else coverage
    listed = {
        day.date: day for entry in entries if (entry.symbol, entry.bar_size) == (name, bar_size) for day in entry.days
    }
    days = tuple(_judge(day, close, listed.get(day), name, bar_size, roots) for day, close in closes.items())
    return BarsAvailability(name, start, last, days, bar_size)


def _judge(
    day: date,
    close: time | None,
    listed: CoverageDay | None,
    symbol: str,
    bar_size: BarSize,
    roots: Sequence[DataRoot],
) -> BarsDay:
    if listed is None:
        why: BarsMissingWhy = "not_yet" if day > today_et() else "never_downloaded"
        return BarsDay(day, "missing", "closed" if close is None else why)
    path = _place(listed, symbol, bar_size, roots)
    facts = (path or Path(listed.path), listed.rows, listed.time_start, listed.time_end)
    if listed.rows == 0:
        return BarsDay(day, "missing", "empty", *facts)
    if path is None:
        return BarsDay(day, "missing", "file_gone", *facts)
    holes = () if close is None else _holes(listed, day, close, _LENGTHS[bar_size])
    return BarsDay(day, "partial" if holes else "present", None, *facts, holes)


def _place(listed: CoverageDay, symbol: str, bar_size: BarSize, roots: Sequence[DataRoot]) -> Path | None:
    if not roots:
        return Path(listed.path)
    places = (place_of(listed, root, symbol, bar_size) for root in roots)
    return next((path for path in places if os.path.isfile(path)), None)  # noqa: PTH113 - Path.is_file raises for odd names


def _holes(listed: CoverageDay, day: date, close: time, bar: timedelta) -> tuple[Hole, ...]:
    opens, closes = (datetime.combine(day, clock, ET) for clock in (_OPEN, close))
    first, last = listed.time_start, listed.time_end
    holes = []
    if first is not None and first > opens + bar:
        holes.append(Hole("start", opens, min(first, closes)))
    if last is not None and last < closes - bar:
        holes.append(Hole("end", max(last + bar, opens), closes))
    return tuple(holes)

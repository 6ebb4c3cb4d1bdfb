"""What people are told of the days of one symbol and bar size: counts, and what is missing or partial and why.

How the verdict on a day is reached is in `coverage_judge`; how it looks on a terminal is in `coverage_text`.
"""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from connectors.ibkr.bar_requests import BAR_SECONDS
from contracts.coverage import UNKNOWN_NS
from contracts.sessions import ET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connectors.store.bars import BarsNotes, EmptyNote, ErrorNote
    from contracts.coverage import CoverageTable
    from contracts.layout import BarSize, DataRoot

Days = npt.NDArray[np.datetime64]
Int64 = npt.NDArray[np.int64]

PRESENT: Final = 0
PARTIAL: Final = 1
MISSING: Final = 2
NO_BARS: Final = 3
"""Missing, and the vendor said that it has none."""
TO_COME: Final = 4

_NS: Final = 1_000_000_000


@dataclass(frozen=True)
class BarsHole:
    """A part of regular trading hours without bars.

    Attributes:
        kind: `start` or `end`.
        start_ns: nanoseconds since 1970 UTC, inclusive.
        end_ns: the same, exclusive.
    """

    kind: str
    start_ns: int
    end_ns: int

    def __str__(self) -> str:
        return f"{clock(self.start_ns)}-{clock(self.end_ns)}"


@dataclass(frozen=True)
class GroupDays:
    """The days of one symbol and bar size, each with its verdict; columns of shape (days,).

    Attributes:
        root: the data root.
        symbol: canonical.
        bar_size: `1 hour`, `1 min` or `1 sec`.
        start: first ET day of the range.
        end: last ET day, inclusive; before `start` when there is no day to judge.
        days: the sessions of the range, and other days of it that have bars, sorted.
        state: `PRESENT`, `PARTIAL`, `MISSING`, `NO_BARS` or `TO_COME`.
        rows: bars that can be loaded.
        open_ns: when the session begins, nanoseconds since 1970 UTC; 0 for days that are no sessions.
        close_ns: when it ends, likewise.
        place: the row in `table`; -1 for days that the coverage does not have.
        table: the coverage of the group; None when there is no coverage at all.
        files: days with a file where it belongs.
        notes: what downloads noted.
        oldest: first day that the vendor can be asked for.
    """

    root: DataRoot
    symbol: str
    bar_size: BarSize
    start: dt.date
    end: dt.date
    days: Days
    state: npt.NDArray[np.uint8]
    rows: Int64
    open_ns: Int64
    close_ns: Int64
    place: Int64
    table: CoverageTable | None
    files: set[dt.date]
    notes: BarsNotes
    oldest: dt.date

    @cached_property
    def counts(self) -> list[int]:
        """Number of days of each state."""
        counts: list[int] = np.bincount(self.state, minlength=TO_COME + 1).tolist()
        return counts

    @property
    def to_fetch(self) -> int:
        """Number of days that are partial or missing and can still be had, as far as is known."""
        lacks = (self.state == PARTIAL) | (self.state == MISSING)
        return int(np.count_nonzero(lacks & (self.days >= np.datetime64(self.oldest))))

    @property
    def there(self) -> Days:
        """The days with bars."""
        days: Days = self.days[self.state <= PARTIAL]
        return days

    def lacking(self) -> Iterator[LackingDay]:
        """Yield the days that are partial or missing, those to come aside."""
        for row in np.flatnonzero((self.state != PRESENT) & (self.state != TO_COME)).tolist():
            yield LackingDay(self, row)

    @cached_property
    def _folder(self) -> Path:
        return self.root.bars_path(self.bar_size, self.symbol, self.start).parent

    def file(self, row: int) -> Path:
        """Where the file of a row of the coverage lies, or belongs when it is gone; as `bars_availability` finds it."""
        if self.table is None:
            raise LookupError("without coverage there is no file")
        day: dt.date = self.table.days[row].item()
        here = self._folder / f"{day.isoformat()}.parquet"
        if self.table.in_place[row] and day in self.files:
            return here
        told, name = self.table.path(row), PureWindowsPath(self.table.filename(row)).name
        here = here.with_name(name) if name else here
        # A root can be moved or copied; a copy has files of its own, also while the original is there.
        is_ours = PureWindowsPath(told).parts[-4:] == here.parts[-4:]
        return here if (is_ours and is_file(here)) or not is_file(Path(told)) else Path(told)

    def to_document(self) -> dict[str, Any]:
        """The counts as a JSON document."""
        there = self.there
        is_empty = self.end < self.start
        return {
            "symbol": self.symbol,
            "bar_size": self.bar_size,
            "start": None if is_empty else self.start.isoformat(),
            "end": None if is_empty else self.end.isoformat(),
            "first": str(there[0]) if len(there) else None,
            "last": str(there[-1]) if len(there) else None,
            "days": len(there),
            "present": self.counts[PRESENT],
            "partial": self.counts[PARTIAL],
            "missing": self.counts[MISSING] + self.counts[NO_BARS],
            "vendor_has_none": self.counts[NO_BARS],
            "to_come": self.counts[TO_COME],
            "rows": int(self.rows.sum()),
            "kinds": sorted(self.notes.kinds),
        }


@dataclass(frozen=True, eq=False)
class LackingDay:
    """A day that is missing or partial.

    Attributes:
        group: the group it is a day of.
        row: which one.
    """

    group: GroupDays
    row: int

    @cached_property
    def day(self) -> dt.date:
        """The ET day."""
        day: dt.date = self.group.days[self.row].item()
        return day

    @property
    def is_partial(self) -> bool:
        """Whether a part of it is there."""
        return bool(self.group.state[self.row] == PARTIAL)

    @property
    def state(self) -> str:
        """`partial` or `missing`."""
        return "partial" if self.is_partial else "missing"

    @property
    def why(self) -> str | None:
        """Why it is missing: `never_downloaded`, `vendor_has_none`, `empty` (its file has no rows) or `file_gone`."""
        if self.is_partial:
            return None
        if self.group.table is None or self._at < 0:
            return "vendor_has_none" if self.group.state[self.row] == NO_BARS else "never_downloaded"
        return "file_gone" if self.group.table.rows[self._at] else "empty"

    @property
    def path(self) -> Path | None:
        """The file, where it lies or, when it is gone, where the coverage says; None without one."""
        if self.group.table is None or self._at < 0:
            return None
        path = self.group.file(self._at)
        return path if is_file(path) else Path(self.group.table.path(self._at))

    @property
    def ends_ns(self) -> tuple[int | None, int | None]:
        """Starts of the first and the last bar, nanoseconds since 1970 UTC; None where nobody tells."""
        if self.group.table is None or self._at < 0:
            return None, None
        first, last = (int(times[self._at]) for times in (self.group.table.start_ns, self.group.table.end_ns))
        return None if first == UNKNOWN_NS else first, None if last == UNKNOWN_NS else last

    @property
    def holes(self) -> tuple[BarsHole, ...]:
        """What is missing of regular trading hours, of a partial day."""
        if not self.is_partial:
            return ()
        opens, closes = int(self.group.open_ns[self.row]), int(self.group.close_ns[self.row])
        bar_ns = BAR_SECONDS[self.group.bar_size] * _NS
        first, last = self.ends_ns
        holes = []
        if first is not None and first > opens + bar_ns:
            holes.append(BarsHole("start", opens, min(first, closes)))
        if last is not None and last < closes - bar_ns:
            holes.append(BarsHole("end", max(last + bar_ns, opens), closes))
        return tuple(holes)

    @property
    def is_unlisted(self) -> bool:
        """Whether a file lies in its place, but no line of the ledger tells of it."""
        return self._at < 0 and self.day in self.group.files

    @property
    def is_out_of_reach(self) -> bool:
        """Whether the vendor does not keep bars of this size for so long."""
        return self.day < self.group.oldest

    @property
    def empty(self) -> EmptyNote | None:
        """That the vendor has no bars, if a download noted it."""
        return self.group.notes.empty.get(self.day)

    @property
    def error(self) -> ErrorNote | None:
        """Why the last download failed, if it did."""
        return self.group.notes.errors.get(self.day)

    @property
    def _at(self) -> int:
        return int(self.group.place[self.row])

    def to_document(self) -> dict[str, Any]:
        """The day as a JSON document, like a day of `bars_availability`, without what there is nothing to say about."""
        first, last = self.ends_ns
        document = {
            "symbol": self.group.symbol,
            "bar_size": self.group.bar_size,
            "date": self.day.isoformat(),
            "state": self.state,
            "why": self.why,
            "path": None if self.path is None else str(self.path),
            "rows": int(self.group.rows[self.row]) or None,
            "time_start": iso(first),
            "time_end": iso(last),
            "holes": [{"kind": hole.kind, "start": iso(hole.start_ns), "end": iso(hole.end_ns)} for hole in self.holes],
            "file_without_line": self.is_unlisted or None,
            "out_of_reach": self.is_out_of_reach or None,
            **notes_document(self.empty, self.error),
        }
        return {key: value for key, value in document.items() if value not in (None, [])}


def notes_document(empty: EmptyNote | None, error: ErrorNote | None) -> dict[str, Any]:
    """The notes of a day as a JSON document; None where there is none."""
    return {
        "vendor_has_none": None if empty is None else {"kind": empty.kind, "asked_at": iso(empty.asked_at_ns)},
        "last_error": None if error is None else {"text": error.text, "at": iso(error.at_ns)},
    }


def et_day(ns: int) -> dt.date:
    """The ET day of a moment in nanoseconds since 1970 UTC."""
    return dt.datetime.fromtimestamp(ns // _NS, ET).date()


def clock(ns: int) -> str:
    """ET wall clock, with seconds where there are some: `09:30`, `09:30:05`."""
    moment = dt.datetime.fromtimestamp(ns // _NS, ET)
    return f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"


def iso(ns: int | None) -> str | None:
    """ISO 8601 with the New York offset, whole seconds; None for None."""
    return None if ns is None else dt.datetime.fromtimestamp(ns // _NS, ET).isoformat()


def is_file(path: Path) -> bool:
    """Whether a file lies there; no name is so odd that it raises."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for names that no disk takes

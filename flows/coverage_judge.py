"""The verdict on many days of bars at once, for people: present, partial, missing or to come.

It says of each day what `contracts.availability.bars_availability` says, by whole columns, so that hundreds of symbols
take a second. Beyond that it opens the files of partial days, for a day whose hours were all asked for has no more
bars, and it knows the notes of the downloads. What a download would fetch is decided in `bars_plan`.
"""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.ibkr.bar_requests import BAR_SECONDS, REACH_DAYS, day_window
from connectors.store.bars import listing, load_notes
from contracts.coverage import UNKNOWN_NS
from contracts.errors import ContractError, NotASession, OutsideCalendar
from contracts.sessions import FIRST_CALENDAR_DAY, Window, is_session, session_close_et, sessions_between
from contracts.v1.bars import SCHEMA_VERSION, BarsMetadata
from flows.coverage_days import MISSING, NO_BARS, PARTIAL, PRESENT, TO_COME, GroupDays, et_day, is_file

if TYPE_CHECKING:
    from pathlib import Path

    from connectors.store.bars import EmptyNote
    from contracts.coverage import CoverageIndex, CoverageTable
    from contracts.layout import BarSize, DataRoot
    from flows.coverage_days import Days, Int64

_OPEN: Final = dt.time(9, 30)
_NS: Final = 1_000_000_000
_DAY_NS: Final = 86_400 * _NS
_LONGEST_CLOSURE: Final = dt.timedelta(days=14)
"""The exchange has never been closed for so long since the calendar begins."""


@dataclass(frozen=True)
class Sessions:
    """Some sessions with their regular hours.

    Attributes:
        days: sorted.
        open_ns: when each begins, nanoseconds since 1970 UTC.
        close_ns: when each ends.
    """

    days: Days
    open_ns: Int64
    close_ns: Int64

    @classmethod
    def of_year(cls, year: int) -> Sessions:
        """The sessions of a calendar year, which the exchange calendar must know."""
        days = sessions_between(dt.date(year, 1, 1), dt.date(year, 12, 31))
        hours = [Window(_OPEN, session_close_et(day)).bounds_ns(day) for day in days]
        return cls(np.array(days, "datetime64[D]"), *np.array(hours, np.int64).reshape(-1, 2).T)

    def between(self, start: dt.date, end: dt.date) -> Sessions:
        """Those from `start` to `end`, both inclusive."""
        span = slice(
            np.searchsorted(self.days, np.datetime64(start)), np.searchsorted(self.days, np.datetime64(end), "right")
        )
        return Sessions(self.days[span], self.open_ns[span], self.close_ns[span])


_COLUMNS: Final = ("days", "open_ns", "close_ns")
_NO_SESSIONS: Final = Sessions(np.empty(0, "datetime64[D]"), np.empty(0, np.int64), np.empty(0, np.int64))


class DaysJudge:
    """Judges the days of groups of one data root.

    Args:
        root: the data root.
        index: its coverage; None when it has none.
        now_ns: the present, nanoseconds since 1970 UTC.
        kind: what a download would ask for; that there is none of another kind says nothing.
    """

    def __init__(
        self, root: DataRoot, index: CoverageIndex | None, *, now_ns: int, kind: str = "TRADES/regular"
    ) -> None:
        self._root = root
        self._kind = kind
        self._index = index
        self._now_ns = now_ns
        self._today = et_day(now_ns)
        self._years: dict[int, Sessions] = {}
        self._folders: dict[str, set[str]] = {}

    def last_over(self) -> dt.date:
        """The last session that is over; that of today from its close on."""
        recent = self._sessions(self._today - _LONGEST_CLOSURE, self._today)
        day: dt.date = recent.days[recent.close_ns <= self._now_ns][-1].item()
        return day

    def group(self, symbol: str, bar_size: BarSize, start: dt.date | None, end: dt.date | None) -> GroupDays:
        """Judge the days of one symbol and bar size.

        Args:
            symbol: canonical.
            bar_size: `1 hour`, `1 min` or `1 sec`.
            start: first ET day; the first that the coverage has when None.
            end: last ET day, inclusive; the last that the coverage has when None, or today when that is before `start`.

        Raises:
            InvalidDocument: the coverage of the group is damaged.
            OutsideCalendar: the exchange calendar does not know the days.
            StoreError: the folder or the notes of the group cannot be read.
        """
        table = None if self._index is None else self._index.table(symbol, bar_size)
        listed: Days = np.empty(0, "datetime64[D]") if table is None else table.days
        first, last = self._range(listed, start, end)
        sessions = self._sessions(first, last)
        rows_listed = np.flatnonzero((listed >= np.datetime64(first)) & (listed <= np.datetime64(last)))
        days: Days = np.union1d(sessions.days, listed[rows_listed])
        hours = np.zeros((2, len(days)), np.int64)
        hours[:, np.searchsorted(days, sessions.days)] = sessions.open_ns, sessions.close_ns
        place = np.full(len(days), -1, np.int64)
        place[np.searchsorted(days, listed[rows_listed])] = rows_listed
        reach = REACH_DAYS.get(bar_size)
        group = GroupDays(
            root=self._root,
            symbol=symbol,
            bar_size=bar_size,
            start=first,
            end=last,
            days=days,
            state=np.full(len(days), MISSING, np.uint8),
            rows=np.zeros(len(days), np.int64),
            open_ns=hours[0],
            close_ns=hours[1],
            place=place,
            table=table,
            files=listing(self._root, bar_size, symbol),
            notes=load_notes(self._root, bar_size, symbol),
            oldest=dt.date.min if reach is None else self._today - dt.timedelta(days=reach),
        )
        self._judge_absent(group)
        if table is not None:
            self._judge_listed(group, table)
        return group

    def _range(self, listed: Days, start: dt.date | None, end: dt.date | None) -> tuple[dt.date, dt.date]:
        # A ledger can name any day, and only a person's own days must be right.
        known = (FIRST_CALENDAR_DAY, dt.date(self._today.year + 1, 12, 31))
        for given in (start, end):
            if given is not None:
                is_session(given)
        if start is None:
            start = min(max(listed[0].item(), known[0]), known[1]) if len(listed) else None
        if end is None:
            end = min(max(listed[-1].item(), known[0]), known[1]) if len(listed) else None
            if start is not None and (end is None or end < start):
                end = max(self._today, start)
        if start is None or end is None:
            return self._today + dt.timedelta(days=1), self._today
        return start, end

    def _sessions(self, start: dt.date, end: dt.date) -> Sessions:
        parts = [_NO_SESSIONS]
        for year in range(start.year, end.year + 1):
            if year not in self._years:
                self._years[year] = Sessions.of_year(year)
            parts.append(self._years[year].between(start, end))
        return Sessions(*(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS))

    def _judge_absent(self, group: GroupDays) -> None:
        """Judge the days that the coverage does not have."""
        state = group.state
        none = [day for day, note in group.notes.empty.items() if is_final(note, day, self._kind)]
        if none:
            state[np.isin(group.days, np.array(none, "datetime64[D]"))] = NO_BARS
        # A session of today that has not opened is no more missing than that of tomorrow.
        state[(group.days > np.datetime64(self._today)) | (group.open_ns > self._now_ns)] = TO_COME

    def _judge_listed(self, group: GroupDays, table: CoverageTable) -> None:
        """Judge the days that the coverage has."""
        where = np.flatnonzero(group.place >= 0)
        at = group.place[where]
        first_ns, last_ns, open_ns = table.start_ns[at], table.end_ns[at], group.open_ns[where]
        bar_ns = BAR_SECONDS[group.bar_size] * _NS
        is_cut = (first_ns != UNKNOWN_NS) & (first_ns > open_ns + bar_ns)
        is_cut |= (last_ns != UNKNOWN_NS) & (last_ns < group.close_ns[where] - bar_ns)
        state = np.where(is_cut & (open_ns > 0), PARTIAL, PRESENT).astype(np.uint8)
        state[table.rows[at] == 0] = MISSING
        days = group.days[where].tolist()
        elsewhere = [n for n, day in enumerate(days) if state[n] != MISSING and day not in group.files]
        for number, told in zip(elsewhere, table.paths(at[elsewhere].tolist()), strict=True):
            is_plain = bool(table.in_place[at[number]])
            if not (self._is_there(told) if is_plain else is_file(group.file(int(at[number])))):
                state[number] = MISSING
        for number in np.flatnonzero(state == PARTIAL).tolist():
            if is_whole(group.file(int(at[number])), group.symbol, group.bar_size, days[number]):
                state[number] = PRESENT
        group.state[where] = state
        group.rows[where] = np.where(state == MISSING, 0, table.rows[at])

    def _is_there(self, path: str) -> bool:
        """Whether a file lies there; each folder is looked at once."""
        folder, _, name = path.rpartition("/")
        if folder not in self._folders:
            try:
                with os.scandir(folder) as entries:
                    self._folders[folder] = {entry.name for entry in entries if entry.is_file()}
            except (OSError, ValueError):
                self._folders[folder] = set()
        return name in self._folders[folder]


def is_final(note: EmptyNote, day: dt.date, kind: str) -> bool:
    """Whether a note that the vendor has no bars of a day is believed: of this kind, and a day after its end.

    The same rule as in `bars_judge`: other days are asked for again.
    """
    if note.kind != kind:
        return False
    try:
        end_ns = day_window(day, use_rth=kind.endswith("/regular")).end_ns
    except (NotASession, OutsideCalendar):
        return False
    return note.asked_at_ns >= end_ns + _DAY_NS


def is_whole(path: Path, symbol: str, bar_size: BarSize, day: dt.date) -> bool:
    """Whether the footer of a file says that all hours of the day were asked for after they were over."""
    # Compared as it stands there: the model would take longer than the reading.
    wanted = {"schema_version": SCHEMA_VERSION, "symbol": symbol, "bar_size": bar_size, "session_date": day.isoformat()}
    footer = _raw_footer(path)
    return all(footer.get(key.encode()) == value.encode() for key, value in {**wanted, "complete": "true"}.items())


def footer_of(path: Path) -> BarsMetadata | None:
    """What the footer of a bars file tells; None when it cannot be read, or tells nothing."""
    try:
        return BarsMetadata.from_footer(_raw_footer(path))
    except ContractError:
        return None


def _raw_footer(path: Path) -> dict[bytes, bytes]:
    try:
        found: dict[bytes, bytes] | None = pq.read_metadata(path).metadata
    except (OSError, ValueError, pa.ArrowException):
        return {}
    return found or {}

"""The verdict on each day of one symbol and bar size: whole, cut short, gone, empty, in the way; for `bars_plan`.

The coverage index decides where it can, for all days at once. A file's footer is opened only where it cannot: days that
do not reach from end to end (an illiquid share has no bars there), days written before they had settled, and all days
of a group in which another kind of bars was published.
"""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from connectors.ibkr.bar_requests import BAR_SECONDS, REACH_DAYS, DayWindow, day_window
from connectors.store.bars import existing, kind_text, load_notes
from connectors.store.errors import store_errors
from contracts.coverage import UNKNOWN_NS
from contracts.sessions import ET, sessions_between

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connectors.store.bars import BarsNotes, ExistingBars
    from contracts.coverage import CoverageTable
    from contracts.layout import BarSize, DataRoot

SETTLE_S: Final = 300
"""A day is complete only if it was asked for at least so many seconds after the end of its window."""

_NS: Final = 1_000_000_000
_SETTLE_NS: Final = SETTLE_S * _NS
_DAY_NS: Final = 86_400 * _NS
# Of older days nobody asks when their file was written; more than the longest look-back.
_RECENT_NS: Final = 40 * _DAY_NS
_SUFFIX: Final = ".parquet"

_Bools = npt.NDArray[np.bool_]
_Int64 = npt.NDArray[np.int64]
_Rows = npt.NDArray[np.intp]


class Verdict(IntEnum):
    """What there is to say about a day; each has exactly one."""

    MISSING = 0
    PARTIAL = 1
    FILE_GONE = 2
    FORCED = 3
    PRESENT = 4
    KNOWN_EMPTY = 5
    OUT_OF_REACH = 6
    OTHER_KIND = 7


LAST_TO_FETCH: Final = Verdict.FORCED
"""Days with this verdict or one before it are fetched."""


@dataclass(frozen=True, eq=False)
class Sessions:
    """Sessions of one bar size, up to now, as columns of shape (sessions,).

    Attributes:
        bar_size: `1 hour`, `1 min` or `1 sec`.
        now_ns: Now, nanoseconds since 1970 UTC.
        windows: The hours asked for of each, in order; those of today up to the last whole bar.
        days: `datetime64[D]`.
        start_ns: Of each window.
        end_ns: Likewise.
        whole_end_ns: The end of each day's hours, also when it is still to come.
        names: File name of each day.
        is_reachable: Which can be asked for.
    """

    bar_size: BarSize
    now_ns: int
    windows: tuple[DayWindow, ...]
    days: npt.NDArray[np.datetime64]
    start_ns: _Int64
    end_ns: _Int64
    whole_end_ns: _Int64
    names: tuple[str, ...]
    is_reachable: _Bools

    @classmethod
    def between(cls, bar_size: BarSize, first: dt.date, last: dt.date, *, use_rth: bool, now_ns: int) -> Sessions:
        """The sessions of a range, both ends inclusive, whose hours have begun.

        Raises:
            OutsideCalendar: `first` is outside the exchange calendar.
        """
        days = sessions_between(first, min(last, _today(now_ns)))
        return cls.of(bar_size, days, use_rth=use_rth, now_ns=now_ns)

    @classmethod
    def of(cls, bar_size: BarSize, days: Iterable[dt.date], *, use_rth: bool, now_ns: int) -> Sessions:
        """Some sessions, in order, whose hours have begun.

        Raises:
            NotASession: The market is closed on one of the days.
        """
        bar_ns = BAR_SECONDS[bar_size] * _NS
        reached_ns = now_ns // bar_ns * bar_ns
        whole = [day_window(day, use_rth=use_rth) for day in days]
        whole = [window for window in whole if window.start_ns < reached_ns]
        # The same object where nothing is cut: most groups share most windows.
        windows = [window if window.end_ns <= reached_ns else replace(window, end_ns=reached_ns) for window in whole]
        texts = [window.day.isoformat() for window in whole]
        column = np.array(texts, "datetime64[D]")
        reach = REACH_DAYS.get(bar_size)
        oldest = np.datetime64("0001-01-01") if reach is None else np.datetime64(_today(now_ns) - dt.timedelta(reach))
        return cls(
            bar_size=bar_size,
            now_ns=now_ns,
            windows=tuple(windows),
            days=column,
            start_ns=np.array([window.start_ns for window in windows], np.int64),
            end_ns=np.array([window.end_ns for window in windows], np.int64),
            whole_end_ns=np.array([window.end_ns for window in whole], np.int64),
            names=tuple(f"{text}{_SUFFIX}" for text in texts),
            is_reachable=column >= oldest,
        )

    def only(self, days: Iterable[dt.date]) -> Sessions:
        """Those of some days."""
        rows = np.flatnonzero(np.isin(self.days, np.array([*days], "datetime64[D]")))
        return replace(
            self,
            windows=tuple(self.windows[row] for row in rows.tolist()),
            days=self.days[rows],
            start_ns=self.start_ns[rows],
            end_ns=self.end_ns[rows],
            whole_end_ns=self.whole_end_ns[rows],
            names=tuple(self.names[row] for row in rows.tolist()),
            is_reachable=self.is_reachable[rows],
        )

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def bar_ns(self) -> int:
        """Length of a bar."""
        return BAR_SECONDS[self.bar_size] * _NS


@dataclass(frozen=True, eq=False)
class Judged:
    """The verdicts on the sessions of a group.

    Attributes:
        verdicts: int8, shape (sessions,), values of `Verdict`.
        starts: Of partial days, by number of the session, from when on they are needed; others are needed whole.
        resumed: Numbers of the sessions whose file stays.
        unlisted: Numbers of the sessions with a readable file, not of another kind, that no ledger line names.
        other_kind: Kind of the files that are of another one, by number of the session.
    """

    verdicts: npt.NDArray[np.int8]
    starts: dict[int, int] = field(default_factory=dict)
    resumed: set[int] = field(default_factory=set)
    unlisted: set[int] = field(default_factory=set)
    other_kind: dict[int, str] = field(default_factory=dict)


class Folders:
    """The names of the files in folders, each looked at once."""

    def __init__(self) -> None:
        self._known: dict[str, set[str]] = {}

    def names(self, folder: str) -> set[str]:
        """The files of a folder; none when it cannot be looked at."""
        try:
            return self._names(folder)
        except (OSError, ValueError):
            # ValueError: a name that no disk takes.
            return self._known.setdefault(folder, set())

    def own_names(self, folder: Path) -> set[str]:
        """The files of a folder of the data root; none when there is no such folder.

        Raises:
            StoreError: It cannot be looked at.
        """
        with store_errors("list", folder):
            try:
                return self._names(str(folder))
            except FileNotFoundError:
                return set()

    def _names(self, folder: str) -> set[str]:
        if folder not in self._known:
            with os.scandir(folder) as entries:
                self._known[folder] = {entry.name for entry in entries if entry.is_file()}
        return self._known[folder]


class GroupJudge:
    """Judges the days of one symbol and bar size.

    Args:
        root: The data root.
        symbol: Canonical.
        bar_size: `1 hour`, `1 min` or `1 sec`.
        what_to_show: What is asked for.
        use_rth: Regular hours only.
        folders: Shared by the groups of one plan.
    """

    def __init__(
        self,
        root: DataRoot,
        symbol: str,
        bar_size: BarSize,
        *,
        what_to_show: str,
        use_rth: bool,
        folders: Folders | None = None,
    ) -> None:
        self._root = root
        self._symbol = symbol
        self._bar_size: BarSize = bar_size
        self._kind = kind_text(what_to_show, use_rth)
        # Extended bars hold the regular ones, but for hours: the bar of 09:00 is not that of 09:30.
        has_served = use_rth and bar_size != "1 hour"
        self._serving = frozenset({kind_text(what_to_show, use_rth=False)} if has_served else ())
        self._folders = folders or Folders()
        self._folder = root.bars_path(bar_size, symbol, dt.date(2025, 9, 15)).parent

    def judge(self, sessions: Sessions, table: CoverageTable | None) -> Judged:
        """Judge by the coverage index, and by footers where it does not decide.

        Args:
            sessions: What is asked for.
            table: The days of the group in the index; None when there is no index.

        Raises:
            StoreError: The folder or the notes of the group cannot be read.
        """
        notes = load_notes(self._root, self._bar_size, self._symbol)
        is_here = self._is_here(sessions)
        listed = _Listed.of(sessions, table)
        is_own = listed.is_listed & listed.is_own & is_here
        is_there = is_own | self._is_elsewhere(sessions, listed, listed.is_listed & ~is_own)
        is_present = is_there & (listed.is_whole | ~(listed.is_known | is_own))
        judged = Judged(np.full(len(sessions), Verdict.MISSING, np.int8))
        judged.verdicts[listed.is_listed & ~is_there] = Verdict.FILE_GONE
        judged.verdicts[is_there] = Verdict.PARTIAL
        judged.verdicts[is_present] = Verdict.PRESENT
        in_doubt = self._unsettled(sessions, is_present & is_own)
        if notes.kinds - self._serving - {self._kind}:
            in_doubt |= is_present & is_own
        looked_at = sessions.is_reachable & is_here & (~is_present | in_doubt)
        for row in np.flatnonzero(looked_at).tolist():
            self._look(row, sessions, judged, is_listed=bool(is_own[row]))
        self._reach(sessions, judged, notes, is_here)
        return judged

    def judge_files(self, sessions: Sessions, unlisted: frozenset[dt.date] = frozenset()) -> Judged:
        """Judge by the files and notes alone.

        Args:
            sessions: What is asked for.
            unlisted: Days whose file no ledger line names; those of all others are named.

        Raises:
            StoreError: The folder or the notes of the group cannot be read.
        """
        notes = load_notes(self._root, self._bar_size, self._symbol)
        judged = Judged(np.full(len(sessions), Verdict.MISSING, np.int8))
        is_here = self._is_here(sessions)
        for row in np.flatnonzero(is_here & sessions.is_reachable).tolist():
            self._look(row, sessions, judged, is_listed=sessions.windows[row].day not in unlisted)
        self._reach(sessions, judged, notes, is_here)
        return judged

    def _is_here(self, sessions: Sessions) -> _Bools:
        """Which days have a file in its place; whether it is sound is not seen."""
        names = self._folders.own_names(self._folder)
        if not names:
            return np.zeros(len(sessions), np.bool_)
        return np.fromiter(map(names.__contains__, sessions.names), np.bool_, len(sessions))

    def _is_elsewhere(self, sessions: Sessions, listed: _Listed, asked: _Bools) -> _Bools:
        """Which listed files lie at the path of the index, or under another name in the group's folder."""
        found = np.zeros(len(sessions), np.bool_)
        rows, table = np.flatnonzero(asked), listed.table
        if table is None or not len(rows):
            return found
        for folder, inside in table.folders().items():
            if names := self._folders.names(folder):
                own = rows[inside[listed.rows[rows]]]
                found[own] = [sessions.names[row] in names for row in own.tolist()]
        others = rows[~listed.is_own[rows]]
        here = self._folders.own_names(self._folder)
        for row, path in zip(others.tolist(), table.paths(listed.rows[others]), strict=True):
            name = PureWindowsPath(table.filename(int(listed.rows[row]))).name or sessions.names[row]
            found[row] = name in here or Path(path).name in self._folders.names(str(Path(path).parent))
        return found

    def _unsettled(self, sessions: Sessions, asked: _Bools) -> _Bools:
        """Which recent days are over, but have a file that was written before they had settled."""
        found = np.zeros(len(sessions), np.bool_)
        settled_ns = sessions.whole_end_ns + _SETTLE_NS
        is_recent = (settled_ns <= sessions.now_ns) & (settled_ns > sessions.now_ns - _RECENT_NS)
        for row in np.flatnonzero(asked & is_recent).tolist():
            try:
                found[row] = (self._folder / sessions.names[row]).stat().st_mtime_ns < settled_ns[row]
            except OSError:
                found[row] = True
        return found

    def _look(self, row: int, sessions: Sessions, judged: Judged, *, is_listed: bool) -> None:
        """Judge a day by the file in its place, which a ledger line names or not."""
        window = sessions.windows[row]
        file = existing(self._root, self._bar_size, self._symbol, window.day)
        if file is None:
            if is_listed:
                judged.verdicts[row] = Verdict.FILE_GONE
            return
        kind = _kind_of(file)
        is_whole, has_start = self._reaches(row, sessions, file)
        if kind not in (None, self._kind) and not (kind in self._serving and is_whole):
            judged.verdicts[row] = Verdict.OTHER_KIND
            judged.other_kind[row] = str(kind)
            return
        if not is_listed:
            judged.unlisted.add(row)
        if is_whole and (is_listed or kind is not None):
            judged.verdicts[row] = Verdict.PRESENT
            return
        judged.verdicts[row] = Verdict.MISSING if is_whole else Verdict.PARTIAL
        judged.resumed.add(row)
        last_ns = file.last_ns // _NS * _NS
        if has_start and not is_whole and window.start_ns < last_ns < window.end_ns:
            judged.starts[row] = last_ns

    def _reaches(self, row: int, sessions: Sessions, file: ExistingBars) -> tuple[bool, bool]:
        """Whether a file has all of the window, and whether it has the window from its start up to its last bar."""
        window = sessions.windows[row]
        from_start = file.first_ns <= window.start_ns + sessions.bar_ns
        to_end = file.last_ns >= window.end_ns - sessions.bar_ns
        if file.metadata is None:
            return from_start and to_end, from_start
        if file.metadata.complete:
            return True, True
        if _kind_of(file) != self._kind:
            return from_start and to_end, True
        # Nothing more can be had of a day that has not settled; afterwards it is asked once more.
        is_settled = sessions.now_ns >= sessions.whole_end_ns[row] + _SETTLE_NS
        return to_end and not is_settled, True

    def _reach(self, sessions: Sessions, judged: Judged, notes: BarsNotes, is_here: _Bools) -> None:
        """Take out what need not or cannot be asked for."""
        # A note is newer than any file that was in its place: publishing clears it.
        in_question = (judged.verdicts <= LAST_TO_FETCH) & ~is_here
        for row in np.flatnonzero(in_question).tolist() if notes.empty else ():
            note = notes.empty.get(sessions.windows[row].day)
            final_ns = sessions.whole_end_ns[row] + _DAY_NS
            if note is not None and note.kind == self._kind and note.asked_at_ns >= final_ns:
                judged.verdicts[row] = Verdict.KNOWN_EMPTY
        judged.verdicts[(judged.verdicts <= LAST_TO_FETCH) & ~sessions.is_reachable] = Verdict.OUT_OF_REACH


def judge_forced(sessions: Sessions) -> Judged:
    """Everything is fetched that can be."""
    verdicts = np.where(sessions.is_reachable, Verdict.FORCED, Verdict.OUT_OF_REACH)
    return Judged(verdicts.astype(np.int8))


@dataclass(frozen=True, eq=False)
class _Listed:
    """What the index says of sessions, shape (sessions,).

    Attributes:
        table: The days of the group in the index; None when it has none.
        rows: Row of the table of each; of no meaning where nothing is listed.
        is_listed: Which have bars.
        is_own: Which paths are those of files in their place, below whatever root.
        is_known: Of which it tells the times.
        is_whole: Which reach from end to end.
    """

    table: CoverageTable | None
    rows: _Rows
    is_listed: _Bools
    is_own: _Bools
    is_known: _Bools
    is_whole: _Bools

    @classmethod
    def of(cls, sessions: Sessions, table: CoverageTable | None) -> _Listed:
        if table is None or not len(table):
            nothing = np.zeros(len(sessions), np.bool_)
            return cls(None, np.zeros(len(sessions), np.intp), nothing, nothing, nothing, nothing)
        rows = np.minimum(np.searchsorted(table.days, sessions.days), len(table) - 1)
        first, last = table.start_ns[rows], table.end_ns[rows]
        is_known = (first != UNKNOWN_NS) & (last != UNKNOWN_NS)
        reaches = (first <= sessions.start_ns + sessions.bar_ns) & (last >= sessions.end_ns - sessions.bar_ns)
        is_listed = (table.days[rows] == sessions.days) & (table.rows[rows] > 0)
        return cls(table, rows, is_listed, table.in_place[rows], is_known, is_known & reaches)


def _kind_of(file: ExistingBars) -> str | None:
    metadata = file.metadata
    return None if metadata is None else kind_text(metadata.what_to_show, metadata.use_rth)


def _today(now_ns: int) -> dt.date:
    return dt.datetime.fromtimestamp(now_ns // _NS, ET).date()

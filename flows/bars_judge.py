"""The verdict on each day of one symbol and bar size: whole, cut short, gone, empty, in the way; for `bars_plan`.

The coverage index decides where it can, for all days at once, with the notes of the group: which days are complete
though their bars do not reach from end to end (an illiquid share has none there), and which were cut short. Where both
do not decide, a file's footer is opened, and its times are read only when the footer does not say that all was asked
for. So it is with days that do not reach and are not noted, and with all days of a group in which another kind of bars
was published.

Files that are older than the notes (`BarsNotes.seen`: copied without them, damaged notes, another writer) may be of any
kind. Of those the footers are opened once: all when at most `FEW_FILES` of them are asked for, else those of the first,
the middle and the latest ones, for nobody mixes kinds file by file. When one is of another kind, all are opened.
"""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property, lru_cache
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from connectors.ibkr.bar_requests import is_at_edge
from connectors.store.bars import existing, footer, kind_text, load_notes
from connectors.store.errors import store_errors
from contracts.coverage import UNKNOWN_NS

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from connectors.store.bars import BarsFooter, BarsNotes, ExistingBars
    from contracts.coverage import CoverageTable
    from contracts.layout import BarSize, DataRoot
    from flows.bars_sessions import Sessions

SETTLE_S: Final = 300
"""A day is complete only if it was asked for at least so many seconds after the end of its window."""

FEW_FILES: Final = 30
"""Of so many files that nobody knows the kind of, each footer is opened; of more, those of so many."""

_NS: Final = 1_000_000_000
_SETTLE_NS: Final = SETTLE_S * _NS
_DAY_NS: Final = 86_400 * _NS
# Days up to which a look at each file is quicker than one at the folder.
_FEW_DAYS: Final = 64
_MOST_FOLDERS: Final = 64

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


@dataclass(eq=False)
class Judged:
    """The verdicts on the sessions of a group.

    Attributes:
        verdicts: int8, shape (sessions,), values of `Verdict`.
        starts: Of partial days, by number of the session, from when on they are needed; others are needed whole.
        resumed: Numbers of the sessions whose file stays.
        unlisted: Numbers of the sessions with a readable file, not of another kind, that no ledger line names.
        other_kind: Kind of the files that are of another one, by number of the session.
        opened: What the footers said that had to be opened, for the notes.
        seen: First and last day of those whose kind need not be looked for any more; None when it was not.
    """

    verdicts: npt.NDArray[np.int8]
    starts: dict[int, int] = field(default_factory=dict)
    resumed: set[int] = field(default_factory=set)
    unlisted: set[int] = field(default_factory=set)
    other_kind: dict[int, str] = field(default_factory=dict)
    opened: list[BarsFooter] = field(default_factory=list)
    seen: tuple[dt.date, dt.date] | None = None


class Folders:
    """The names in folders of other roots, most of them looked at once."""

    def __init__(self) -> None:
        self._known: dict[str, frozenset[str]] = {}

    def names(self, folder: str) -> frozenset[str]:
        """The names in a folder; none when it cannot be looked at."""
        if folder not in self._known:
            if len(self._known) > _MOST_FOLDERS:
                self._known.clear()
            try:
                self._known[folder] = _names(folder)
            except (OSError, ValueError):
                # ValueError: a name that no disk takes.
                self._known[folder] = frozenset()
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
        self._folder = f"{_size_folder(root, bar_size)}/{symbol}"

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
        is_noted = self._take_notes(sessions, listed, is_own, notes, judged)
        in_question = sessions.is_reachable & is_own & ~is_noted
        in_doubt = in_question & is_present
        looked_at = in_question & (~is_present | self._is_cut(sessions, notes))
        if self._has_foreign(notes.kinds):
            looked_at |= in_doubt
        else:
            looked_at |= self._unseen(sessions, in_doubt, notes, judged)
        looked_at |= sessions.is_reachable & is_here & ~is_own & ~is_present
        for row in np.flatnonzero(looked_at).tolist():
            self._look(row, sessions, judged, is_listed=bool(is_own[row]), reaches=bool(is_present[row]))
        if self._has_foreign({each.kind for each in judged.opened if each.kind is not None}):
            # Where one of another kind came into the group, others may have.
            for row in np.flatnonzero(in_doubt & ~looked_at).tolist():
                self._look(row, sessions, judged, is_listed=True, reaches=True)
        if (in_doubt & (judged.verdicts == Verdict.FILE_GONE)).any():
            # The index believes a file that cannot be read: it is to be looked at until it is replaced.
            judged.seen = None
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

    @cached_property
    def _own_names(self) -> frozenset[str]:
        """The names in the group's folder.

        Raises:
            StoreError: It cannot be looked at.
        """
        with store_errors("list", Path(self._folder)):
            try:
                return _names(self._folder)
            except FileNotFoundError:
                return frozenset()

    def _is_here(self, sessions: Sessions) -> _Bools:
        """Which days have a file in its place; whether it is sound is not seen."""
        if len(sessions) <= _FEW_DAYS:
            here = (os.path.isfile(f"{self._folder}/{name}") for name in sessions.names)  # noqa: PTH113 - for speed
            return np.fromiter(here, np.bool_, len(sessions))
        names = self._own_names
        if sessions.all_names <= names:
            return np.ones(len(sessions), np.bool_)
        return np.fromiter(map(names.__contains__, sessions.names), np.bool_, len(sessions))

    def _is_elsewhere(self, sessions: Sessions, listed: _Listed, asked: _Bools) -> _Bools:
        """Which listed files lie at the path of the index, or under another name in the group's folder."""
        found = np.zeros(len(sessions), np.bool_)
        rows, table = np.flatnonzero(asked), listed.table
        if table is None or not len(rows):
            return found
        for folder, inside in table.folders().items():
            if folder != self._folder and (names := self._folders.names(folder)):
                own = rows[inside[listed.rows[rows]]]
                found[own] = [sessions.names[row] in names for row in own.tolist()]
        others = rows[~listed.is_own[rows]]
        for row, path in zip(others.tolist(), table.paths(listed.rows[others]), strict=True):
            name = PureWindowsPath(table.filename(int(listed.rows[row]))).name or sessions.names[row]
            found[row] = name in self._own_names or Path(path).name in self._folders.names(str(Path(path).parent))
        return found

    def _has_foreign(self, kinds: AbstractSet[str]) -> bool:
        """Whether some kinds are neither the one asked for nor serve for it."""
        return bool(kinds - self._serving - {self._kind})

    def _take_notes(
        self, sessions: Sessions, listed: _Listed, is_own: _Bools, notes: BarsNotes, judged: Judged
    ) -> _Bools:
        """Judge the days that are noted as whole; returns which they are."""
        found = np.zeros(len(sessions), np.bool_)
        if not notes.whole or listed.table is None:
            return found
        counts = listed.table.rows[listed.rows]
        for kind, (days, rows) in notes.whole.columns:
            places = np.minimum(np.searchsorted(days, sessions.days), len(days) - 1)
            # A file with another number of rows is another file.
            same = is_own & (days[places] == sessions.days) & (rows[places] == counts)
            found |= same
            if kind == self._kind or kind in self._serving:
                judged.verdicts[same] = Verdict.PRESENT
                continue
            same &= sessions.is_reachable
            judged.verdicts[same] = Verdict.OTHER_KIND
            judged.other_kind.update(dict.fromkeys(np.flatnonzero(same).tolist(), kind))
        return found

    @staticmethod
    def _is_cut(sessions: Sessions, notes: BarsNotes) -> _Bools:
        """Which days have settled, but have a file that was cut short."""
        if not notes.cut:
            return np.zeros(len(sessions), np.bool_)
        is_settled = sessions.whole_end_ns + _SETTLE_NS <= sessions.now_ns
        return is_settled & np.isin(sessions.days, np.array([*notes.cut], "datetime64[D]"))

    @staticmethod
    def _unseen(sessions: Sessions, in_doubt: _Bools, notes: BarsNotes, judged: Judged) -> _Bools:
        """Which files are to be opened because the notes do not know their kind."""
        unseen = in_doubt.copy()
        if notes.seen is not None:
            first, last = (np.datetime64(day) for day in notes.seen)
            unseen &= (sessions.days < first) | (sessions.days > last)
        rows = np.flatnonzero(unseen)
        if len(rows):
            judged.seen = sessions.windows[rows[0]].day, sessions.windows[rows[-1]].day
        if len(rows) > FEW_FILES:
            # Of the latest ones another may have been cut short.
            unseen[:] = False
            unseen[[rows[0], rows[len(rows) // 2], *rows[2 - FEW_FILES :]]] = True
        return unseen

    def _look(
        self, row: int, sessions: Sessions, judged: Judged, *, is_listed: bool, reaches: bool | None = None
    ) -> None:
        """Judge a day by the file in its place.

        Args:
            row: Number of the session.
            sessions: Of the group.
            judged: Takes the verdict.
            is_listed: A ledger line names the file.
            reaches: The index says that the bars reach from end to end; None when it was not asked.
        """
        if is_listed and self._tell_by_footer(row, sessions, judged, reaches=reaches):
            return
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
        # At the edge of the broker's reach, bars in front of the last one may be missing, too.
        has_start = has_start and not is_whole and not is_at_edge(self._bar_size, window.day, sessions.now_ns)
        if has_start and window.start_ns < last_ns < window.end_ns:
            judged.starts[row] = last_ns

    def _tell_by_footer(self, row: int, sessions: Sessions, judged: Judged, *, reaches: bool | None) -> bool:
        """Judge a day by the footer of its listed file; returns whether it told all that is to be known."""
        found = footer(self._root, self._bar_size, self._symbol, sessions.windows[row].day)
        if found is None:
            judged.verdicts[row] = Verdict.FILE_GONE
            return True
        judged.opened.append(found)
        serves = found.kind in self._serving
        if found.kind not in (None, self._kind) and not serves:
            judged.verdicts[row] = Verdict.OTHER_KIND
            judged.other_kind[row] = str(found.kind)
            return True
        if found.complete or (reaches and found.kind != self._kind):
            judged.verdicts[row] = Verdict.PRESENT
            return True
        return False

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


@lru_cache
def _size_folder(root: DataRoot, bar_size: BarSize) -> str:
    return str(root.bars_path(bar_size, "A", dt.date(2025, 9, 15)).parent.parent)


def _names(folder: str) -> frozenset[str]:
    # Whether each is a file is not asked: of a million names that alone takes seconds.
    return frozenset(os.listdir(folder))  # noqa: PTH208 - and so do paths


def _kind_of(file: ExistingBars) -> str | None:
    metadata = file.metadata
    return None if metadata is None else kind_text(metadata.what_to_show, metadata.use_rth)

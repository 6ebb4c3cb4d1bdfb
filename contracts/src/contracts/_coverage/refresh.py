"""Coverage of a ledger that has grown: only days that the new lines touch are judged again.

A new line touches its own day, the day of the line whose path it takes over, and the days of lines that have the same
times as one of these (rule 2 can drop or revive them). The lines of these days, and those that share times with them,
are read again from the ledger; the rules on them give what they would give on all.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from contracts._coverage.full import low_bits, times_bits
from contracts._coverage.ledger_columns import LinesBuilder
from contracts._coverage.ledger_line import LONGEST_LINE, LedgerLine, read_line
from contracts._coverage.rules import best_of_days, last_of_paths, newest_of_times
from contracts._coverage.state import COLUMNS, NoState, State

if TYPE_CHECKING:
    from contracts._coverage.ledger_columns import Bools, Entries, Key, Lines

MOST_NEW_LINES: Final = 20_000
"""More lines than these are read faster all at once, by a full derivation."""

_Rows = npt.NDArray[np.intp]
_FEW: Final = 4
_USUAL_LINE: Final = 2048
_PLACES: Final = 1 << 16


@dataclass(frozen=True)
class Refreshed:
    """The coverage of a ledger that has grown.

    Attributes:
        old: What was known of it before.
        state: The last line of each path now.
        texts: New texts of days, with separators, by entry and day; None for a day that has no file any more. Some may
            be what stands in the coverage file already.
    """

    old: State
    state: State
    texts: dict[Key, dict[int, bytes | None]]


def refresh(old: State, ledger: int, new: Lines, entries: Entries) -> Refreshed:
    """Apply the rules to what new lines touch.

    Args:
        old: The state of the ledger before.
        ledger: The ledger, open for reading.
        new: The new lines.
        entries: What their entry numbers mean.

    Raises:
        NoState: A full derivation is faster, or the ledger is not what the state says.
        OSError: The ledger cannot be read.
    """
    if len(new) > MOST_NEW_LINES:
        raise NoState("many lines are new")
    new = new.take(last_of_paths(new))
    work = _Work(old, ledger, entries, new)
    dead = work.rows_taken_over()
    touched = work.touched_days(dead)
    loaded = work.lines_to_judge(touched, dead)
    if len(loaded) > MOST_NEW_LINES:
        raise NoState("many lines are touched")
    return work.judge(touched, dead, loaded)


class _Work:
    def __init__(self, old: State, ledger: int, entries: Entries, new: Lines) -> None:
        self._old = old
        self._ledger = ledger
        self._entries = entries
        self._new = new
        self._edges = np.concatenate(([0], np.cumsum(old.counts)))
        self._numbers = {key: number for number, key in enumerate(old.keys)}

    def rows_taken_over(self) -> _Rows:
        """Return the rows of the old state, ascending, whose path a new line has."""
        maybe = _rows_with(self._old.path, low_bits(self._new.path_hash))
        paths = set(self._new.paths_of(np.arange(len(self._new))).to_pylist())
        lines = [self._read(row) for row in maybe.tolist()]
        return maybe[[line.path.encode() in paths for line in lines]] if lines else maybe

    def touched_days(self, dead: _Rows) -> dict[Key, set[int]]:
        """Return the days to be judged again."""
        days: dict[Key, set[int]] = defaultdict(set)
        times: dict[Key, set[int]] = defaultdict(set)
        keys = self._entries.keys()
        new = self._new
        for entry, day, bits in zip(new.entry.tolist(), new.day.tolist(), times_bits(new).tolist(), strict=True):
            days[keys[entry]].add(day)
            times[keys[entry]].add(bits)
        for row in dead.tolist():
            key = self._key(row)
            days[key].add(int(self._old.day[row]))
            times[key].add(int(self._old.times[row]))
        for key, bits_of_key in times.items():
            rows = self._rows_of(key, self._old.times, bits_of_key - {0})
            days[key].update(self._old.day[rows].tolist())
        return days

    def lines_to_judge(self, touched: dict[Key, set[int]], dead: _Rows) -> _Rows:
        """Return the rows of the old state on these days, and those with the same times as one of them."""
        found = [np.empty(0, np.intp)]
        for key, days in touched.items():
            rows = self._rows_of(key, self._old.day, days)
            found += [rows, self._rows_of(key, self._old.times, set(self._old.times[rows].tolist()) - {0})]
        return np.setdiff1d(np.concatenate(found), dead)

    def judge(self, touched: dict[Key, set[int]], dead: _Rows, loaded: _Rows) -> Refreshed:
        """Apply the rules."""
        old = self._old
        builder = LinesBuilder(self._entries)
        for row in loaded.tolist():
            builder.add_line(self._read(row), int(old.offset[row]))
        lines = self._new.with_more(builder.build())
        keys = self._entries.keys()
        where = list(zip([keys[entry] for entry in lines.entry.tolist()], lines.day.tolist(), strict=True))
        is_touched = np.array([day in touched.get(key, ()) for key, day in where], np.bool_)
        rows = np.flatnonzero(newest_of_times(lines) & is_touched)
        place = (lines.entry[rows] << 32) + lines.day[rows]
        order = np.argsort(place)
        rows = rows[order]
        best = rows[best_of_days(lines.take(rows), place[order])]
        texts: dict[Key, dict[int, bytes | None]] = {key: dict.fromkeys(sorted(days)) for key, days in touched.items()}
        sizes = np.zeros(len(lines), np.uint32)
        for row, text in zip(best.tolist(), lines.texts_of(best).to_pylist(), strict=True):
            key, day = where[row]
            texts[key][day] = text
            sizes[row] = len(text)
        return Refreshed(old, self._new_state(lines, sizes, dead, loaded, is_touched), texts)

    def _new_state(
        self, lines: Lines, sizes: npt.NDArray[np.uint32], dead: _Rows, loaded: _Rows, is_touched: Bools
    ) -> State:
        old = self._old
        is_old = np.isin(lines.offset, old.offset[loaded])
        if np.count_nonzero(is_old) != len(loaded):
            raise NoState("the ledger is not the one that was read")
        places = loaded[np.argsort(old.offset[loaded])][
            np.searchsorted(np.sort(old.offset[loaded]), lines.offset[is_old])
        ]
        columns: dict[str, npt.NDArray[Any]] = {
            "day": lines.day.astype(np.int32),
            "size": sizes,
            "path": low_bits(lines.path_hash),
            "times": times_bits(lines),
            "offset": lines.offset,
        }
        if any((columns[name][is_old] != getattr(old, name)[places]).any() for name in ("day", "path", "times")):
            raise NoState("the ledger is not the one that was read")
        changed = old.size.copy()
        judged = is_touched[is_old]
        changed[places[judged]] = sizes[is_old][judged]
        return self._merged({**_columns(old), "size": changed}, dead, lines.take(~is_old), columns, ~is_old)

    def _merged(
        self,
        old: dict[str, npt.NDArray[Any]],
        dead: _Rows,
        new: Lines,
        columns: dict[str, npt.NDArray[Any]],
        is_new: Bools,
    ) -> State:
        """Return the old rows without the dead ones, and the new rows among them."""
        all_keys = self._entries.keys()
        keys = [all_keys[entry] for entry in new.entry.tolist()]
        order = sorted(range(len(keys)), key=lambda row: (keys[row], int(new.day[row])))
        fresh = {name: column[is_new][order] for name, column in columns.items()}
        counts = dict(zip(self._old.keys, self._old.counts.tolist(), strict=True))
        # Where to cut the old rows: before a new row, and around a dead one.
        cuts: list[tuple[int, int, int]] = []
        for number, row in enumerate(order):
            counts[keys[row]] = counts.get(keys[row], 0) + 1
            cuts.append((self._place(keys[row], int(new.day[row])), 0, number))
        for row in dead.tolist():
            counts[self._key(row)] -= 1
            cuts.append((row, 1, 0))
        merged = {name: _spliced(column, fresh[name], sorted(cuts)) for name, column in old.items()}
        left = sorted((key, count) for key, count in counts.items() if count)
        return State([key for key, _ in left], np.array([count for _, count in left], np.int64), **merged)

    def _place(self, key: Key, day: int) -> int:
        """Return the old row before which a new one belongs."""
        number = self._numbers.get(key)
        if number is None:
            return int(self._edges[bisect_left(self._old.keys, key)])
        begin, end = self._edges[number], self._edges[number + 1]
        return int(begin + np.searchsorted(self._old.day[begin:end], day, side="right"))

    def _key(self, row: int) -> Key:
        return self._old.keys[int(np.searchsorted(self._edges, row, side="right")) - 1]

    def _rows_of(self, key: Key, column: npt.NDArray[Any], values: set[int]) -> _Rows:
        """Return the old rows of an entry that have one of these values in a column."""
        number = self._numbers.get(key)
        if number is None or not values:
            return np.empty(0, np.intp)
        begin, end = self._edges[number], self._edges[number + 1]
        part = column[begin:end]
        if len(values) <= _FEW:
            found = np.zeros(len(part), np.bool_)
            for value in values:
                found |= part == value
        else:
            found = np.isin(part, np.array(sorted(values)))
        rows: _Rows = begin + np.flatnonzero(found)
        return rows

    def _read(self, row: int) -> LedgerLine:
        """Read the line of an old row again."""
        offset = int(self._old.offset[row])
        data = os.pread(self._ledger, _USUAL_LINE, offset)
        if b"\n" not in data:
            data = os.pread(self._ledger, LONGEST_LINE + 2, offset)
        line = read_line(data.partition(b"\n")[0].removesuffix(b"\r"))
        if not isinstance(line, LedgerLine) or (line.symbol, line.bar_size) != self._key(row):
            raise NoState("the ledger is not the one that was read")
        return line


def _rows_with(column: npt.NDArray[np.uint32], values: npt.NDArray[np.uint32]) -> _Rows:
    """Return the rows, ascending, with one of these values; much faster than a sort of the column."""
    is_wanted = np.zeros(_PLACES, np.bool_)
    is_wanted[values % _PLACES] = True
    maybe = np.flatnonzero(is_wanted[(column % np.uint32(_PLACES)).astype(np.uint16)])
    found: _Rows = maybe[np.isin(column[maybe], values)]
    return found


def _spliced(old: npt.NDArray[Any], fresh: npt.NDArray[Any], cuts: list[tuple[int, int, int]]) -> npt.NDArray[Any]:
    """Return an array with rows put in and left out; a cut is (old row, whether it goes, number of the new row)."""
    parts = []
    begin = 0
    for row, goes, number in cuts:
        parts.append(old[begin:row])
        if not goes:
            parts.append(fresh[number : number + 1])
        begin = row + goes
    parts.append(old[begin:])
    return np.concatenate(parts)


def _columns(state: State) -> dict[str, npt.NDArray[Any]]:
    return {name: getattr(state, name) for name in COLUMNS}

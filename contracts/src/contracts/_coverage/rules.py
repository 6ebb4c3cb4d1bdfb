"""Which lines of the ledger make the coverage: the three rules of the contract (section 6) on columns.

1. A later line for the same path replaces the earlier ones, over the whole ledger; paths are compared as exact texts.
2. Of lines with equal symbol, bar size, `time_start` and `time_end`, compared as instants, the newest `written_at`
   stays; of equal ones the later line. Lines without both times take no part.
3. Per symbol, bar size and ET day the best is the one with most rows, then the longest span (0 without both times),
   then the newest `written_at`, then the smallest path text.

Each rule looks at what the rule before left. How lines are read is in `ledger_line`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from contracts._coverage.ledger_columns import NO_TIME, UInt64, mixed

if TYPE_CHECKING:
    from contracts._coverage.ledger_columns import Bools, Int64, Lines

_Rows = npt.NDArray[np.intp]


def last_of_paths(lines: Lines) -> _Rows:
    """Rule 1: return the rows, ascending, that no later line for the same path replaces."""
    rows = _with_equals(lines.path_hash)
    keep = np.ones(len(lines), np.bool_)
    if len(rows):
        # Equal hashes are looked at: the texts decide.
        encoded = lines.paths_of(rows).dictionary_encode()
        codes = np.frombuffer(encoded.indices.buffers()[1], np.int32, len(rows))
        order = np.lexsort((lines.offset[rows], codes))
        is_last = np.append(codes[order][1:] != codes[order][:-1], np.True_)
        keep[rows[order[~is_last]]] = False
    return np.flatnonzero(keep)


def newest_of_times(lines: Lines) -> Bools:
    """Rule 2: return which rows stay."""
    has_both = (lines.start_us != NO_TIME) & (lines.end_us != NO_TIME)
    keep = np.ones(len(lines), np.bool_)
    rows = np.flatnonzero(has_both)
    rows = rows[_with_equals(mixed(times_hash(lines) ^ lines.entry.astype(np.uint64))[rows])]
    if len(rows):
        keys = (lines.entry[rows], lines.start_us[rows], lines.end_us[rows])
        order = np.lexsort((lines.offset[rows], lines.written_us[rows], *keys))
        differs = np.zeros(len(rows) - 1, np.bool_)
        for key in keys:
            differs |= key[order][1:] != key[order][:-1]
        keep[rows[order[:-1][~differs]]] = False
    return keep


def best_of_days(lines: Lines, place: Int64) -> _Rows:
    """Rule 3: return the rows, ascending by place, of the best files.

    Args:
        lines: What rules 1 and 2 left.
        place: Shape (lines,), ascending; equal for lines of one symbol, bar size and day.
    """
    starts, sizes = _runs(place)
    best = starts.copy()
    shared = np.repeat(sizes > 1, sizes)
    if shared.any():
        best[sizes > 1] = _best_of_shared(lines, place, np.flatnonzero(shared))
    return best


def _best_of_shared(lines: Lines, place: Int64, rows: _Rows) -> _Rows:
    """Return the best row of each place, sorted by place."""
    merits = (place[rows], -lines.rows[rows], -spans_us(lines)[rows], -lines.written_us[rows])
    order = np.lexsort(merits[::-1])
    rows = rows[order]
    starts, sizes = _runs(place[rows])
    best = rows[starts]
    ties = np.ones(len(rows) - 1, np.bool_)
    for merit in merits:
        ties &= merit[order][1:] == merit[order][:-1]
    for number in np.flatnonzero((sizes > 1) & np.append(ties, np.False_)[starts]).tolist():
        group = rows[starts[number] : starts[number] + sizes[number]]
        differs = ~ties[starts[number] : starts[number] + sizes[number] - 1]
        equals = group[: int(np.argmax(differs)) + 1] if differs.any() else group
        paths = dict(zip(equals.tolist(), lines.paths_of(equals).to_pylist(), strict=True))
        best[number] = min(paths, key=paths.__getitem__)
    return best


def spans_us(lines: Lines) -> Int64:
    """Return the span of each row in microseconds, 0 without both times."""
    has_both = (lines.start_us != NO_TIME) & (lines.end_us != NO_TIME)
    return np.where(has_both, lines.end_us - lines.start_us, 0)


def times_hash(lines: Lines) -> UInt64:
    """Return a 64-bit hash of each row's times; equal ones must be looked at."""
    return mixed(mixed(lines.start_us.view(np.uint64)) ^ lines.end_us.view(np.uint64))


def _with_equals(hashes: UInt64) -> _Rows:
    """Return the rows, ascending, whose hash another row has too."""
    if len(hashes) == 0:
        return np.empty(0, np.intp)
    order = np.argsort(hashes)
    equal = hashes[order][1:] == hashes[order][:-1]
    shared = np.append(equal, np.False_) | np.concatenate(([np.False_], equal))
    return np.sort(order[shared])


def _runs(values: Int64) -> tuple[_Rows, _Rows]:
    """Return starts and lengths of runs of equal values."""
    if len(values) == 0:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    starts = np.flatnonzero(np.append(np.True_, values[1:] != values[:-1]))
    return starts, np.diff(starts, append=len(values))

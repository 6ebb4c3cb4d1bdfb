"""Coverage from all lines of the ledger: the rules, and the whole coverage file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from contracts._coverage.file import ENTRY_END, ENTRY_SEPARATOR, FILE_END, entry_head, entry_size
from contracts._coverage.ledger_columns import NO_TIME, characters
from contracts._coverage.ledger_line import DAY_SEPARATOR
from contracts._coverage.rules import best_of_days, last_of_paths, newest_of_times, times_hash
from contracts._coverage.state import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from contracts._coverage.ledger_columns import Key, Lines, UInt64

_SLICE_DAYS: Final = 16_384
_LOW: Final = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class Derived:
    """The coverage of a whole ledger.

    Attributes:
        state: The last line of each path.
        lines: The same lines in the same order.
        size: Bytes of the coverage file without its head.
    """

    state: State
    lines: Lines
    size: int

    def parts(self) -> Iterator[bytes]:
        """Yield the coverage file without its head."""
        state = self.state
        best = np.flatnonzero(state.size)
        # Days of each entry, as places in `best`.
        edges = np.searchsorted(best, np.concatenate(([0], np.cumsum(state.counts)))).tolist()
        entry = 0
        for begin in range(0, len(best), _SLICE_DAYS):
            end = min(begin + _SLICE_DAYS, len(best))
            texts = self.lines.texts_of(best[begin:end])
            offsets, data = characters(texts)
            view = data.data
            pieces: list[bytes | memoryview] = []
            at = begin
            while at < end:
                if at == edges[entry]:
                    days = state.day[best[[at, edges[entry + 1] - 1]]]
                    pieces += [ENTRY_SEPARATOR if entry else b"", entry_head(state.keys[entry], *day_texts(days))]
                stop = min(end, edges[entry + 1])
                piece = view[offsets[at - begin] : offsets[stop - begin]]
                if stop == edges[entry + 1]:
                    pieces += [piece[: -len(DAY_SEPARATOR)], ENTRY_END]
                    entry += 1
                else:
                    pieces.append(piece)
                at = stop
            yield b"".join(pieces)
        yield FILE_END


def derive(lines: Lines, keys: list[Key]) -> Derived:
    """Apply the rules to the lines of a whole ledger.

    Args:
        lines: In any order.
        keys: Symbol and bar size of each entry number; those without lines are left out.
    """
    lines = lines.take(last_of_paths(lines))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    ranks = np.empty(len(keys), np.int64)
    ranks[order] = np.arange(len(keys))
    place = (ranks[lines.entry] << 32) + lines.day
    by_place = np.argsort(place)
    lines, place = lines.take(by_place), place[by_place]
    kept = np.flatnonzero(newest_of_times(lines))
    best = kept[best_of_days(lines.take(kept), place[kept])]
    sizes = np.zeros(len(lines), np.uint32)
    sizes[best] = lines.text_sizes()[best]
    counts = np.bincount(ranks[lines.entry], minlength=len(keys))
    present = [
        (key, count) for key, count in zip([keys[number] for number in order], counts.tolist(), strict=True) if count
    ]
    state = State(
        keys=[key for key, _ in present],
        counts=np.array([count for _, count in present], np.int64),
        day=lines.day.astype(np.int32),
        size=sizes,
        path=low_bits(lines.path_hash),
        times=times_bits(lines),
        offset=lines.offset,
    )
    return Derived(state, lines, body_size(state))


def body_size(state: State) -> int:
    """Return the bytes of the coverage file without its head."""
    edges = np.concatenate(([0], np.cumsum(state.counts)))
    total = np.concatenate(([0], np.cumsum(state.size, dtype=np.int64)))
    days_sizes = (total[edges[1:]] - total[edges[:-1]]).tolist()
    entries = sum(entry_size(key, size) for key, size in zip(state.keys, days_sizes, strict=True))
    return entries + max(len(state.keys) - 1, 0) * len(ENTRY_SEPARATOR) + len(FILE_END)


def day_texts(days: npt.NDArray[np.int32]) -> list[str]:
    """Return days since 1970-01-01 as `YYYY-MM-DD`."""
    texts: list[str] = days.astype("datetime64[D]").astype(str).tolist()
    return texts


def low_bits(hashes: UInt64) -> npt.NDArray[np.uint32]:
    """Return the part of hashes that the state keeps."""
    return (hashes & _LOW).astype(np.uint32)


def times_bits(lines: Lines) -> npt.NDArray[np.uint32]:
    """Return hashes of the times, 0 for lines without both times."""
    bits = np.maximum(low_bits(times_hash(lines)), np.uint32(1))
    bits[(lines.start_us == NO_TIME) | (lines.end_us == NO_TIME)] = 0
    return bits

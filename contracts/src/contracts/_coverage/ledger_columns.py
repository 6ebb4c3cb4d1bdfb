"""The lines of the ledger that count, as columns: built from blocks of lines and from single ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from contracts.layout import BAR_FOLDERS, BarSize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contracts._coverage.ledger_line import LedgerLine

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Key = tuple[str, BarSize]

NO_TIME: Final = np.iinfo(np.int64).min
"""Stands for a time that a line does not have."""

BAR_SIZES: Final[tuple[BarSize, ...]] = tuple(sorted(BAR_FOLDERS))

NUMBERS: Final = ("entry", "day", "start_us", "end_us", "rows", "written_us", "path_hash", "offset")
"""The columns of `Lines` that are numbers."""

WORD_MASKS: Final = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
"""The first so many bytes of a little-endian word of eight."""

_MOST_SINGLE: Final = 8192
_HASH_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_SHIFT: Final = np.uint64(29)


@dataclass(frozen=True)
class Lines:
    """Lines that count, in any order; all arrays of shape (lines,).

    Attributes:
        entry: Number of the (symbol, bar size), as given by `Entries`.
        day: Days from 1970-01-01 to the ET day.
        start_us: Microseconds from 1970-01-01 UTC, or `NO_TIME`.
        end_us: The same of the last bar.
        rows: Bars in the file.
        written_us: Microseconds from 1970-01-01 UTC to `written_at`.
        path_hash: `hash_texts` of the path.
        offset: Byte of the ledger where the line begins; later lines have larger ones.
        source: Where in `paths` and `texts` each line's are; these two are never copied.
        paths: Path texts, large binary.
        texts: Texts of days in the coverage file with separators, large binary.
    """

    entry: Int64
    day: Int64
    start_us: Int64
    end_us: Int64
    rows: Int64
    written_us: Int64
    path_hash: UInt64
    offset: Int64
    source: Int64
    paths: pa.Array
    texts: pa.Array

    def __len__(self) -> int:
        return len(self.entry)

    def take(self, rows: npt.NDArray[Any]) -> Lines:
        """Return some of the lines, by their places or by a mask."""
        numbers = {name: getattr(self, name)[rows] for name in (*NUMBERS, "source")}
        return Lines(**numbers, paths=self.paths, texts=self.texts)

    def paths_of(self, rows: npt.NDArray[np.intp]) -> pa.Array:
        """Return the paths of some lines."""
        return self.paths.take(indices(self.source[rows]))

    def texts_of(self, rows: npt.NDArray[np.intp]) -> pa.Array:
        """Return the texts of some lines."""
        return self.texts.take(indices(self.source[rows]))

    def text_sizes(self) -> Int64:
        """Return the bytes of each line's text."""
        return np.diff(characters(self.texts)[0])[self.source]

    def with_more(self, other: Lines) -> Lines:
        """Return these lines and then others, whose entries have the same numbers."""
        numbers = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in NUMBERS}
        source = np.concatenate([self.source, other.source + len(self.paths)])
        paths, texts = (pa.concat_arrays([getattr(self, n), getattr(other, n)]) for n in ("paths", "texts"))
        return Lines(**numbers, source=source, paths=paths, texts=texts)


class Entries:
    """Numbers for the pairs of symbol and bar size: symbols in the order of their first sight, bar sizes within."""

    def __init__(self) -> None:
        self._symbols: dict[str, int] = {}

    def symbol_number(self, symbol: str) -> int:
        """Return the number of a symbol; a new one gets the next."""
        return self._symbols.setdefault(symbol, len(self._symbols))

    def number(self, key: Key) -> int:
        """Return the number of a pair, which is `symbol_number * len(BAR_SIZES) + its place in BAR_SIZES`."""
        symbol, bar_size = key
        return self.symbol_number(symbol) * len(BAR_SIZES) + BAR_SIZES.index(bar_size)

    def keys(self) -> list[Key]:
        """Return the pair of each number, also of those that no line has."""
        return [(symbol, bar_size) for symbol in self._symbols for bar_size in BAR_SIZES]


class LinesBuilder:
    """Gathers lines, whole blocks or one by one, and is used up by `build`.

    Args:
        entries: Gives the numbers of entries.
    """

    def __init__(self, entries: Entries | None = None) -> None:
        self.entries = entries or Entries()
        self._numbers: list[dict[str, npt.NDArray[Any]]] = []
        self._paths = _Texts()
        self._texts = _Texts()
        self._single: list[tuple[int, LedgerLine]] = []

    def add_block(self, numbers: dict[str, npt.NDArray[Any]], paths: pa.Array, texts: pa.Array) -> None:
        """Take columns as `Lines` has them."""
        self._numbers.append(numbers)
        self._paths.add(paths)
        self._texts.add(texts)

    def add_line(self, line: LedgerLine, offset: int) -> None:
        """Take one line."""
        self._single.append((offset, line))
        if len(self._single) == _MOST_SINGLE:
            self._add_single()

    def build(self) -> Lines:
        """Return all lines taken."""
        self._add_single()
        numbers = {name: np.concatenate([block.pop(name) for block in self._numbers]) for name in NUMBERS}
        paths, texts = self._paths.build(), self._texts.build()
        return Lines(**numbers, source=np.arange(len(paths)), paths=paths, texts=texts)

    def _add_single(self) -> None:
        lines = [line for _, line in self._single]
        paths = binary([line.path.encode() for line in lines])
        numbers: dict[str, npt.NDArray[Any]] = {
            "entry": _int64([self.entries.number((line.symbol, line.bar_size)) for line in lines]),
            "day": _int64([line.day for line in lines]),
            "start_us": _int64([NO_TIME if line.start_us is None else line.start_us for line in lines]),
            "end_us": _int64([NO_TIME if line.end_us is None else line.end_us for line in lines]),
            "rows": _int64([line.rows for line in lines]),
            "written_us": _int64([line.written_us for line in lines]),
            "offset": _int64([offset for offset, _ in self._single]),
            "path_hash": hash_texts(paths),
        }
        self.add_block(numbers, paths, binary([line.text for line in lines]))
        self._single = []


class _Texts:
    """Texts one after the other in memory that grows in place."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._sizes: list[npt.NDArray[Any]] = []

    def add(self, texts: pa.Array) -> None:
        offsets, data = characters(texts)
        self._data += data[offsets[0] : offsets[-1]].data
        self._sizes.append(np.diff(offsets))

    def build(self) -> pa.Array:
        count = sum(len(sizes) for sizes in self._sizes)
        offsets = np.zeros(count + 1, np.int64)
        np.cumsum(np.concatenate([np.empty(0, np.int64), *self._sizes]), out=offsets[1:])
        return pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(self._data)]
        )


def indices(rows: npt.NDArray[Any]) -> pa.Array:
    """Return 64-bit numbers as an Arrow array over the same memory, without the pandas import of `pa.array`."""
    whole = np.ascontiguousarray(rows, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(whole), [None, pa.py_buffer(whole)])


def binary(texts: Sequence[bytes]) -> pa.Array:
    """Return texts as a binary array, likewise."""
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))]
    )


def hash_texts(texts: pa.Array) -> UInt64:
    """Return a 64-bit hash of each text of a binary array without nulls; equal texts have equal ones, for ever.

    Others can have equal ones too, so a match must be looked at.
    """
    offsets, data = characters(texts)
    lengths = np.diff(offsets)
    hashes = lengths.astype(np.uint64) * _HASH_MIX
    # Eight bytes at a time; the words at the ends of texts are cut to what belongs to the text.
    padded = np.concatenate([data, np.zeros(8, np.uint8)])
    words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
    active = np.arange(len(lengths))
    starts, remaining = offsets[:-1].astype(np.int64), lengths.astype(np.int64)
    while len(active):
        if (remaining <= 0).any():
            keep = remaining > 0
            active, starts, remaining = active[keep], starts[keep], remaining[keep]
            if not len(active):
                break
        word = words[starts] & WORD_MASKS[np.minimum(remaining, 8)]
        hashes[active] = mixed(hashes[active] ^ word)
        starts = starts + 8
        remaining = remaining - 8
    return hashes


def mixed(words: UInt64) -> UInt64:
    """Return each word with its bits stirred; different words stay different."""
    stirred = words * _HASH_MIX
    return np.asarray(stirred ^ (stirred >> _SHIFT), np.uint64)


def characters(texts: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Return the offsets, shape (texts + 1,), and the bytes that they point into, both views."""
    rows = len(texts)
    _, offset_buffer, data = texts.buffers()
    if rows == 0:
        return np.zeros(1, np.int32), np.empty(0, np.uint8)
    width = np.int64 if pa.types.is_large_binary(texts.type) else np.int32
    offsets = np.frombuffer(offset_buffer, width)[texts.offset : texts.offset + rows + 1]
    return offsets, np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)


def _int64(values: list[int]) -> Int64:
    return np.array(values, np.int64)

"""A block of the ledger as bytes: where lines and texts begin and end, found for all lines at once.

What the bytes mean is not known here; `ledger_template` asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from contracts._coverage.ledger_columns import WORD_MASKS, indices

if TYPE_CHECKING:
    from contracts._coverage.ledger_columns import Bools, Int64

UInt8 = npt.NDArray[np.uint8]

KEY_WIDTH: Final = 16
"""Bytes of a key: a text of at most 15 characters, and its length."""

PADDING: Final = bytes(KEY_WIDTH)
"""What a block needs behind its lines, so that whole words and keys can be read everywhere."""

_WORD: Final = 8
_QUOTES: Final = np.uint64(int.from_bytes(b'"' * 8))
_LOWEST_BITS: Final = np.uint64(0x0101010101010101)
_TOP_BITS: Final = np.uint64(0x8080808080808080)


class Block:
    """Whole lines of the ledger.

    Attributes:
        data: The lines, and `PADDING`.
        offset: Byte of the ledger where they begin.
        starts: Shape (lines,), where each line begins in `data`.
        ends: The same for its end, without line end.
    """

    def __init__(self, data: bytes, offset: int, starts: Int64, ends: Int64) -> None:
        self.data = data
        self.offset = offset
        self.starts = starts
        self.ends = ends
        self._words = self._windows("<u8", 8)

    def _windows(self, dtype: str, width: int) -> npt.NDArray[Any]:
        """Return a view with the `width` bytes from each byte of `data` on as one element."""
        return np.ndarray((len(self.data) - width + 1,), dtype, self.data, strides=(1,))

    def equal(self, places: Int64, ends: Int64, constant: bytes) -> Bools:
        """Return where the constant stands before the end of the line."""
        fits = places + len(constant) <= ends
        places = places if fits.all() else np.where(fits, places, 0)
        size = len(constant)
        whole = size - size % _WORD
        if whole:
            found = self._windows(f"V{whole}", whole)[places].view("<u8").reshape(-1, whole // _WORD)
            same = found == np.frombuffer(constant, "<u8", whole // _WORD)
            if not same.all():
                fits &= same.all(axis=1)
        if size > whole:
            rest = int.from_bytes(constant[whole:], "little")
            fits &= (self._words[places + whole] & WORD_MASKS[size - whole]) == np.uint64(rest)
        return fits

    def next_quote(self, places: Int64, ends: Int64) -> Int64:
        """Return the first quote from each place on, or the end of the line."""
        found = ends.copy()
        waiting = np.flatnonzero(places < ends)
        places = places[waiting]
        while len(waiting):
            # In the words of eight characters each quote becomes a zero byte, and the lowest of these its top bit.
            word = self._words[places] ^ _QUOTES
            marks = (word - _LOWEST_BITS) & ~word & _TOP_BITS
            has_quote = marks != 0
            below = (marks & (~marks + np.uint64(1))) - np.uint64(1)
            before = (((below & _LOWEST_BITS) * _LOWEST_BITS) >> np.uint64(56)).astype(np.int64) - 1
            if has_quote.all():
                found[waiting] = places + before
                break
            found[waiting[has_quote]] = (places + before)[has_quote]
            places = places + _WORD
            goes_on = ~has_quote & (places < ends[waiting])
            waiting, places = waiting[goes_on], places[goes_on]
        return np.minimum(found, ends)

    def matrix(self, places: Int64, width: int) -> UInt8:
        """Return shape (places, width), so many bytes from each place on."""
        return self._windows(f"V{width}", width)[places].view(np.uint8).reshape(-1, width)

    def keys(self, places: Int64, lengths: Int64) -> UInt8:
        """Return shape (places, 16), texts of at most 15 characters filled up with zeros, and their lengths."""
        matrix = self.matrix(places, KEY_WIDTH)
        words = matrix.view("<u8")
        words[:, 0] &= WORD_MASKS[np.minimum(lengths, _WORD)]
        words[:, 1] &= WORD_MASKS[np.clip(lengths - _WORD, 0, _WORD)]
        matrix[:, -1] = lengths
        return matrix

    def texts(self, places: Int64, ends: Int64) -> pa.Array:
        """Return the bytes between places and ends, which must ascend, as a binary array."""
        offsets = np.stack([places, ends], axis=1).astype(np.int32).ravel()
        parts = pa.BinaryArray.from_buffers(
            pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(self.data)]
        )
        return parts.take(indices(np.arange(0, len(offsets), 2)))

"""How a DBN stream goes out: records compressed block by block, and every way a body can be spoilt on its way.

`pieces` turns an answer into compressed pieces; the server only writes them. A piece says how many records it holds,
so that the ledger counts what was really sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Protocol, cast

import numpy as np
import zstandard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from connectors.sandbox._api import StreamAnswer

# On these records level -1 packs as small as level 1 (about 11:1) and takes two thirds of the time.
_LEVEL: Final = -1
_MOST_RECORDS: Final = 65_536  # in one piece, whatever the market hands over
_TAIL_LOST: Final = 9  # bytes kept back before a cut, so that it falls inside a zstd block


class _Compressor(Protocol):
    def compress(self, data: bytes | memoryview, /) -> bytes: ...
    def flush(self, flush_mode: int = ..., /) -> bytes: ...


@dataclass(frozen=True)
class Piece:
    """Bytes of the body and the number of records that end in them."""

    data: bytes
    records: int = 0


@dataclass(frozen=True)
class Break:
    """What happens to the connection at this place: `cut`, or `stall`."""

    kind: str


def pieces(answer: StreamAnswer, *, multi_frame: bool = False) -> Iterator[Piece | Break]:
    """The body of an answer, with its fault carried out.

    Args:
        answer: what to send.
        multi_frame: end the zstd frame after every block and begin another; the decoded bytes are the same.
    """
    fault = answer.fault
    kind = fault.kind if fault else ""
    spoil_at = answer.count // 2 if fault is None or fault.records is None else fault.records
    body = _compressed(answer, kind, spoil_at, multi_frame)
    if kind == "corrupt-byte":
        body = _corrupted(body, spoil_at)
    if kind == "drip":
        body = _dripped(body)
    if kind in ("cut-mid-stream", "stall"):
        yield from _broken(body, spoil_at, "cut" if kind == "cut-mid-stream" else "stall")
    else:
        yield from body


def _compressed(answer: StreamAnswer, kind: str, spoil_at: int, multi_frame: bool) -> Iterator[Piece]:
    compressor = _new_frame()
    data = compressor.compress(answer.dbn_header)
    sent = 0
    for block in answer.blocks:
        for part in _split(block, spoil_at - sent):
            if kind == "cut-on-record" and sent >= spoil_at:
                break
            if kind == "wrong-instrument-id":
                part = part.copy()  # noqa: PLW2901 - the market's arrays are not ours to change
                part["instrument_id"] += 1
            data += compressor.compress(np.ascontiguousarray(part).view(np.uint8).data)
            data += compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
            if multi_frame:
                data += compressor.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)
                compressor = _new_frame()
            sent += len(part)
            yield Piece(data, len(part))
            data = b""
        if kind == "cut-on-record" and sent >= spoil_at:
            break
    if not (multi_frame and sent):  # else the last frame ended with the last block
        yield Piece(data + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH))


def _new_frame() -> _Compressor:
    return cast("_Compressor", zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj())


def _split(block: NDArray[np.void], at: int) -> Iterator[NDArray[np.void]]:
    """`block` in parts of bounded length, with a boundary after `at` records if that lies inside."""
    edges = {0, len(block), *range(0, len(block), _MOST_RECORDS)} | ({at} if 0 < at < len(block) else set())
    ordered = sorted(edges)
    for first, last in pairwise(ordered):
        yield block[first:last]


def _corrupted(body: Iterator[Piece], spoil_at: int) -> Iterator[Piece]:
    sent, done = 0, False
    for piece in body:
        sent += piece.records
        if not done and sent >= spoil_at:
            done = True
            middle = len(piece.data) // 2
            flipped = bytes([piece.data[middle] ^ 0x55])
            yield Piece(piece.data[:middle] + flipped + piece.data[middle + 1 :], piece.records)
        else:
            yield piece


def _dripped(body: Iterator[Piece]) -> Iterator[Piece]:
    for piece in body:
        for byte in piece.data[:-1]:
            yield Piece(bytes([byte]))
        yield Piece(piece.data[-1:], piece.records)


def _broken(body: Iterator[Piece], spoil_at: int, what: str) -> Iterator[Piece | Break]:
    sent = 0
    for piece in body:
        sent += piece.records
        if sent >= spoil_at:
            yield Piece(piece.data[:-_TAIL_LOST], piece.records)
            yield Break(what)
            return
        yield piece

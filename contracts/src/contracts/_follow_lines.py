"""Whole lines of a file that others append to, from a place in it, and how to tell that it is still the same file.

What the lines say is of no concern here; that is `contracts.follow` and, for coverage of days, `_availability.ledgers`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MARK_BYTES: Final = 4096
"""Bytes at the head of the file, and before the place, by which the file is known again."""

LONGEST_LINE: Final = 1 << 20
"""Of a longer line only the beginning is kept, so that memory stays bounded."""

_BLOCK: Final = 1 << 18
_BOM: Final = b"\xef\xbb\xbf"


def sha256(text: bytes | bytearray) -> str:
    """Return the hash as 64 hex digits."""
    return hashlib.sha256(text).hexdigest()


NOTHING: Final = sha256(b"")


@dataclass(frozen=True)
class Place:
    """Where a reader stands in a file, always behind a line end.

    Attributes:
        offset: Bytes before the place.
        line: Lines before the place.
        head: SHA-256 of the first bytes of the file, 4 KiB or up to the place.
        tail: SHA-256 of the last bytes before the place, 4 KiB or from the beginning.
    """

    offset: int = 0
    line: int = 0
    head: str = NOTHING
    tail: str = NOTHING


@dataclass(frozen=True)
class RawLine:
    """One whole line.

    Attributes:
        offset: Where it begins, in bytes.
        number: From 1.
        text: Its bytes without a byte order mark at the beginning of the file; None when it is too long.
    """

    offset: int
    number: int
    text: bytes | None


class LineReader:
    """The whole lines of an open file from a place on, up to the size that the file had when it was opened.

    Args:
        file: The file, open for reading bytes.
        size: Its size at opening.
        place: Where to begin; the file's beginning when it does not fit.

    Attributes:
        restarted: Why the place did not fit this file, or None.
    """

    def __init__(self, file: IO[bytes], size: int, place: Place) -> None:
        self._file = file
        self._size = size
        head, tail = self._marks(place.offset)
        self.restarted = self._why_not(place, head, tail)
        if self.restarted is not None:
            place, head, tail = Place(), b"", b""
        self._offset, self._line = place.offset, place.line
        # The place is told from bytes that were seen, not read again: what was read is what it vouches for.
        self._head, self._tail = bytearray(head), bytearray(tail)
        file.seek(self._offset)

    @property
    def place(self) -> Place:
        """Where the reader stands, behind the last line it gave."""
        return Place(self._offset, self._line, sha256(self._head), sha256(self._tail[-MARK_BYTES:]))

    def __iter__(self) -> Iterator[RawLine]:
        while (line := self._next()) is not None:
            yield line

    def has_more(self) -> bool:
        """Tell whether another whole line follows."""
        at, room = self._offset, self._size - self._offset
        self._file.seek(at)
        while room > 0 and (block := self._file.read(min(_BLOCK, room))):
            if b"\n" in block:
                self._file.seek(at)
                return True
            room -= len(block)
        return False

    def _next(self) -> RawLine | None:
        room = self._size - self._offset
        text = self._file.readline(min(room, LONGEST_LINE + 1))
        length, is_short, tail = len(text), len(text) <= LONGEST_LINE, text
        while not tail.endswith(b"\n"):
            # Either the file ends here, or the line is too long: then its end is looked for, and little is kept.
            rest = b"" if is_short else self._file.readline(min(room - length, _BLOCK))
            if not rest:
                return None
            length += len(rest)
            tail = tail[-MARK_BYTES:] + rest
        line = RawLine(self._offset, self._line + 1, _without_bom(text, self._offset) if is_short else None)
        if len(self._head) < MARK_BYTES:
            self._head += text[: MARK_BYTES - len(self._head)]
        self._tail += tail
        if len(self._tail) > _BLOCK:
            del self._tail[:-MARK_BYTES]
        self._offset += length
        self._line += 1
        return line

    def _marks(self, offset: int) -> tuple[bytes, bytes]:
        length = min(MARK_BYTES, offset)
        self._file.seek(0)
        head = self._file.read(length)
        self._file.seek(offset - length)
        return head, self._file.read(length)

    def _why_not(self, place: Place, head: bytes, tail: bytes) -> str | None:
        if self._size < place.offset:
            return f"the file was truncated: it has {self._size} bytes, the cursor stands behind {place.offset}"
        if sha256(head) != place.head:
            return "it is another file: its first bytes are not those that were read"
        if sha256(tail) != place.tail:
            return f"the file was rewritten: the bytes before byte {place.offset} are not those that were read"
        return None


class NotAFileError(OSError):
    """Something at the path that has no lines: a folder, a pipe, a device."""


@contextmanager
def whole_lines(path: Path, place: Place) -> Iterator[LineReader | None]:
    """Open a file for reading its whole lines; None when there is no file.

    Raises:
        NotAFileError: It is no regular file.
        OSError: It cannot be read.
    """
    try:
        # Opening a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        yield None
        return
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise NotAFileError(f"{path} is not a regular file")
    with os.fdopen(descriptor, "rb", buffering=_BLOCK) as file:
        yield LineReader(file, status.st_size, place)


def _without_bom(text: bytes, offset: int) -> bytes:
    return text.removeprefix(_BOM) if offset == 0 else text

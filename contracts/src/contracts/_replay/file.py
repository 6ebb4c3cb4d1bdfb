"""The records of a messages file one by one, in bounded memory.

The file is one JSON array. Writers put one record on a line, but any layout is read: whole stretches of records go
through the parser at once, and only where that fails, one record at a time.
"""

from __future__ import annotations

import json
import re
import stat
from typing import TYPE_CHECKING, Any, Final, TextIO

from contracts._json import NotJson, loads
from contracts.errors import InvalidDocument

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READ_CHARACTERS: Final = 1 << 20
"""Characters read at a time, and so what is held in memory."""

_LONGEST_RECORD: Final = 1 << 24
_BLANK: Final = re.compile(r"[ \t\n\r]*")
_LAST: Final = frozenset('}]"')
_FOLLOWING: Final = frozenset(",] \t\n\r")
_DECODER: Final = json.JSONDecoder()


def read_records(path: Path, what: str, *, read_characters: int = READ_CHARACTERS) -> Iterator[Any]:
    """Yield the elements of the array in a file, as parsed from standard JSON.

    Args:
        path: The file.
        what: How errors name the file.
        read_characters: How much is read at a time, from 1; a longer record is read whole.

    Raises:
        InvalidDocument: It is no array of standard JSON: malformed or torn, not UTF-8, with a byte order mark, a `NaN`
            or a key twice, or with a record of over 16 million characters. Elements before the fault were yielded;
            `row` is that of the fault where one can be told.
        OSError: It cannot be read.
    """
    # Opening a pipe would wait for a writer.
    if not stat.S_ISREG(path.stat().st_mode):
        raise InvalidDocument(what, f"{path} is not a regular file")
    with path.open(encoding="utf-8", newline="") as file:
        yield from _Array(file, what, read_characters).elements()


class _Array:
    """A JSON array that is read as it is parsed; `text[at:]` is what was read and not parsed yet."""

    def __init__(self, file: TextIO, what: str, read_characters: int) -> None:
        self._file = file
        self._what = what
        self._read_characters = read_characters
        self._text = ""
        self._at = 0
        self._row = 0
        self._whole_stretches = True

    def elements(self) -> Iterator[Any]:
        self._read_more()
        if self._text.startswith("\ufeff"):
            raise InvalidDocument(self._what, "it starts with a byte order mark")
        if self._next_character() != "[":
            raise InvalidDocument(self._what, "it is not a JSON array")
        self._at += 1
        if self._next_character() != "]":
            yield from self._stretch()
            while (separator := self._next_character()) == ",":
                self._at += 1
                self._next_character()
                yield from self._stretch()
            if separator != "]":
                reason = "a comma or the end of the array is expected" if separator else "the file ends in the array"
                raise InvalidDocument(self._what, reason, row=self._row)
        self._at += 1
        if self._next_character():
            raise InvalidDocument(self._what, "something follows the array")

    def _stretch(self) -> list[Any]:
        """Parse at least one element; all that were read whole, if they parse at once."""
        end = self._text.rfind("},", self._at) + 1 if self._whole_stretches else 0
        self._whole_stretches = end > 0
        if end > 0:
            try:
                # JSON has one reading: if this much is a list of elements, it is so in the whole file too.
                elements: list[Any] = loads(f"[{self._text[self._at : end]}]")
            except NotJson:
                self._whole_stretches = False
            else:
                self._at = end
                self._row += len(elements)
                return elements
        return [self._element()]

    def _element(self) -> Any:
        while True:
            try:
                _, end = _DECODER.raw_decode(self._text, self._at)
                # A number may go on in what is not read yet; the others show their end.
                ended = self._text[end - 1] in _LAST or self._text[end : end + 1] in _FOLLOWING
                fault = None if ended else "a comma or the end of the array is expected"
            except json.JSONDecodeError as error:
                fault = f"not JSON ({error.msg})"
            except RecursionError:
                raise InvalidDocument(self._what, "nested too deeply", row=self._row) from None
            except ValueError as error:
                fault = f"not JSON ({error})"
            if fault is None:
                break
            if len(self._text) - self._at > _LONGEST_RECORD:
                raise InvalidDocument(self._what, f"{fault}, or a record is too long", row=self._row)
            if not self._read_more():
                fault = fault if self._text else "the file ends in the array"
                raise InvalidDocument(self._what, fault, row=self._row)
        try:
            element = loads(self._text[self._at : end])
        except NotJson as error:
            raise InvalidDocument(self._what, str(error), row=self._row) from None
        self._at = end
        self._row += 1
        return element

    def _next_character(self) -> str:
        """Return the next character that is not blank, without passing it; empty at the end of the file."""
        while True:
            match = _BLANK.match(self._text, self._at)
            self._at = self._at if match is None else match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def _read_more(self) -> bool:
        left = self._text[self._at :]
        try:
            # Doubling keeps the work linear however long a record is.
            more = self._file.read(max(self._read_characters, len(left)))
        except UnicodeDecodeError as error:
            raise InvalidDocument(self._what, f"not UTF-8 ({error.reason})") from None
        self._text, self._at = left + more, 0
        self._whole_stretches = True
        return bool(more)

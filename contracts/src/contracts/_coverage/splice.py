"""The coverage file of a ledger that has grown: what did not change is taken over from the file before as it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from contracts._coverage.file import (
    ENTRY_END,
    ENTRY_HEAD_WIDTH,
    ENTRY_SEPARATOR,
    FILE_END,
    entry_head,
    entry_size,
)
from contracts._coverage.full import body_size, day_texts
from contracts._coverage.ledger_line import DAY_SEPARATOR
from contracts._coverage.state import NoState

if TYPE_CHECKING:
    from contracts._coverage.file import Sink
    from contracts._coverage.ledger_columns import Int64, Key
    from contracts._coverage.refresh import Refreshed
    from contracts._coverage.state import State

_Range = tuple[int, int]


class Splice:
    """The new coverage file, as bytes and ranges of the old one.

    Args:
        refreshed: What changed.
        source: The old coverage file, open for reading.
        head_size: Bytes before its first entry.

    Raises:
        NoState: It is not what the state says.
        OSError: It cannot be read.
    """

    def __init__(self, refreshed: Refreshed, source: int, head_size: int) -> None:
        self._source = source
        self._old = _Places(refreshed.old, head_size)
        self._new = _Places(refreshed.state, head_size)
        if os.fstat(source).st_size != head_size + body_size(refreshed.old):
            raise NoState("the coverage file is not the one that was written")
        self._texts = {
            key: changed
            for key, texts in refreshed.texts.items()
            if (changed := {day: text for day, text in texts.items() if self._differs(key, day, text)})
        }
        self._size = body_size(refreshed.state)

    def _differs(self, key: Key, day: int, text: bytes | None) -> bool:
        start, size = self._old.day(key, day)
        before = os.pread(self._source, max(size - len(DAY_SEPARATOR), 0), start)
        return before != (text or b"")[: -len(DAY_SEPARATOR)]

    @property
    def is_empty(self) -> bool:
        """Whether the entries stay as they are."""
        return not self._texts

    @property
    def size(self) -> int:
        """Bytes of the new file behind its head."""
        return self._size

    def write(self, sink: Sink) -> None:
        """Write the new file behind its head."""
        pending: _Range | None = None
        separator = b""
        for key in self._new.keys:
            if key not in self._texts:
                start, end = self._old.entry(key)
                if pending is not None and pending[1] + len(ENTRY_SEPARATOR) == start:
                    pending = pending[0], end
                    continue
                separator = self._flush(sink, pending, separator)
                pending = start, end
                continue
            separator = self._flush(sink, pending, separator)
            pending = None
            sink.write(separator + entry_head(key, *self._new.first_and_last(key)))
            self._write_days(sink, key)
            sink.write(ENTRY_END)
            separator = ENTRY_SEPARATOR
        self._flush(sink, pending, separator)
        sink.write(FILE_END)

    def _flush(self, sink: Sink, pending: _Range | None, separator: bytes) -> bytes:
        if pending is None:
            return separator
        sink.write(separator)
        sink.copy(self._source, pending[0], pending[1] - pending[0])
        return ENTRY_SEPARATOR

    def _write_days(self, sink: Sink, key: Key) -> None:
        parts: list[bytes | _Range] = []
        at, end = self._old.days(key)
        for day, text in sorted(self._texts[key].items()):
            start, size = self._old.day(key, day)
            if start > at:
                parts.append((at, start - len(DAY_SEPARATOR)))
            if text is not None:
                parts.append(text[: -len(DAY_SEPARATOR)])
            at = start + size
        if end > at:
            parts.append((at, end - len(DAY_SEPARATOR)))
        for number, part in enumerate(parts):
            if number:
                sink.write(DAY_SEPARATOR)
            if isinstance(part, bytes):
                sink.write(part)
            else:
                sink.copy(self._source, part[0], part[1] - part[0])


class _Places:
    """Where entries and days stand in the coverage file of a state."""

    def __init__(self, state: State, head_size: int) -> None:
        self.keys = list(state.keys)
        self._state = state
        self._rows: Int64 = np.concatenate(([0], np.cumsum(state.counts)))
        self._sizes: Int64 = np.concatenate(([0], np.cumsum(state.size, dtype=np.int64)))
        self._numbers = {key: number for number, key in enumerate(state.keys)}
        self._starts: list[int] = []
        place = head_size
        edges = self._sizes[self._rows].tolist()
        for number, key in enumerate(state.keys):
            self._starts.append(place)
            place += entry_size(key, edges[number + 1] - edges[number]) + len(ENTRY_SEPARATOR)
        self._starts.append(place)

    def entry(self, key: Key) -> _Range:
        """Return begin and end of an entry, without separator."""
        number = self._numbers[key]
        return self._starts[number], self._starts[number + 1] - len(ENTRY_SEPARATOR)

    def days(self, key: Key) -> _Range:
        """Return begin and end of the days of an entry as if a separator stood behind each; empty without the entry."""
        number = self._numbers.get(key)
        if number is None:
            return 0, 0
        start = self._starts[number] + ENTRY_HEAD_WIDTH + len(key[0]) + len(key[1])
        first, last = self._rows[number], self._rows[number + 1]
        return start, start + int(self._sizes[last] - self._sizes[first])

    def day(self, key: Key, day: int) -> _Range:
        """Return where a day stands or would stand, and its bytes with separator, 0 when it is not there."""
        number = self._numbers.get(key)
        if number is None:
            return 0, 0
        first, last = int(self._rows[number]), int(self._rows[number + 1])
        begin, end = np.searchsorted(self._state.day[first:last], [day, day + 1]) + first
        start = self.days(key)[0] + int(self._sizes[begin] - self._sizes[first])
        return start, int(self._sizes[end] - self._sizes[begin])

    def first_and_last(self, key: Key) -> list[str]:
        """Return the first and the last day of an entry."""
        number = self._numbers[key]
        rows = slice(self._rows[number], self._rows[number + 1])
        days = self._state.day[rows][self._state.size[rows] > 0]
        return day_texts(days[[0, -1]])

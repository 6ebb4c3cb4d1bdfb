"""All days of a coverage entry as columns: lines of our own form at once, by their shape, others by the model.

Two lines have one shape when they differ in their date, wherever it stands, in the digits of their times and in those
of their rows, and in nothing else. What is read so is what the model would read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from contracts._coverage.ledger_columns import NO_TIME
from contracts.errors import InvalidDocument
from contracts.layout import BAR_FOLDERS
from contracts.v1.bars import COVERAGE_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from contracts.layout import BarSize
    from contracts.v1.bars import CoverageDay

UNKNOWN_NS: Final = NO_TIME
"""Stands in `CoverageTable` for a time that the coverage does not tell, or that 64 bits of nanoseconds cannot."""

_Bools = npt.NDArray[np.bool_]
_Bytes = npt.NDArray[np.uint8]
_Int64 = npt.NDArray[np.int64]
_Days = npt.NDArray[np.datetime64]
_Rows = npt.NDArray[np.intp]

_SECOND: Final = 1_000_000_000
_DAY_S: Final = 86_400
_HOUR_S: Final = 3600
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LONGEST_NS: Final = 2**63 - 1
# The years in which any clock has nanoseconds in 64 bits, and New York has its zone.
_FIRST_DAY, _LAST_DAY = np.datetime64("1900-01-01"), np.datetime64("2261-12-31")

_TIME: Final = rb"[0-9-]{10}T[0-9]{2}:[0-9]{2}:[0-9]{2}-0[45]:00"
_SHAPE: Final = re.compile(
    rb'\{"date":"(?P<date>[0-9-]{10})","time_start":"(?P<start>' + _TIME + rb')","time_end":"(?P<end>' + _TIME + rb')",'
    rb'"path":"(?P<path>(?:[^"\\]|\\.)+)","filename":"(?P<name>(?:[^"\\]|\\.)+)","rows":(?P<rows>[0-9]{1,18})\},?'
)
_IN_ESCAPE: Final = re.compile(rb"\\u[0-9a-fA-F]{0,3}$")
_CLOCK: Final = 11  # where HH:MM:SS is in a time
_CLOCK_DIGITS: Final = tuple(_CLOCK + place for place in (0, 1, 3, 4, 6, 7))
_OFFSET: Final = 21  # where the hour of the offset is
_OFFSETS: Final = (4, 5)
_LOW_NIBBLES: Final = np.uint64(int.from_bytes(b"\x0f\x0f\x00\x0f\x0f\x00\x0f\x0f", "little"))
_CLOCK_FORM: Final = np.uint64(int.from_bytes(b"00:00:00", "little"))
_SIXES: Final = np.uint64(int.from_bytes(b"\x06\x06\x00\x06\x06\x00\x06\x06", "little"))
_DATE_WIDTH: Final = 10
_NAME_WIDTH: Final = len("2025-09-15.parquet")
_WORD: Final = 8
_NINE: Final = 9
_ZERO: Final = np.uint8(ord("0"))
_COMMA: Final = ord(",")
_MOST_SHAPES: Final = 8
_SINGLY: Final = -1
_HAS_ONE_DATE: Final = 2  # pieces of a text that is cut once

_Pieces = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class CoverageTable:
    """The best file of each ET day of a symbol and bar size, as columns of shape (days,).

    Attributes:
        days: ET days, sorted, `datetime64[D]`.
        start_ns: int64, start of the first bar, nanoseconds since 1970-01-01 UTC; `UNKNOWN_NS` when it is not told.
        end_ns: int64, start of the last bar, likewise.
        rows: int64, bars in the file.
        in_place: bool, whether the path ends as that of a file in its place: `/bars/minute/AAPL/2025-09-15.parquet`.
    """

    days: _Days
    start_ns: _Int64
    end_ns: _Int64
    rows: _Int64
    in_place: _Bools
    # Of each row the number of its shape; of each shape path and file name, cut where the date stands.
    _shape: npt.NDArray[np.int16]
    _shapes: Sequence[tuple[_Pieces, _Pieces]]
    _singly: dict[int, tuple[str, str]]

    def __len__(self) -> int:
        return len(self.days)

    def path(self, row: int) -> str:
        """Return the path of the file of a row, as the coverage has it."""
        return self.paths([row])[0]

    def paths(self, rows: Iterable[int]) -> list[str]:
        """Return the paths of the files of some rows."""
        return self._texts(rows, 0)

    def filename(self, row: int) -> str:
        """Return the file name of a row, as the coverage has it."""
        return self._texts([row], 1)[0]

    def folders(self) -> dict[str, _Bools]:
        """Return which rows lie in each folder, of the files that are `in_place`."""
        found: dict[str, _Bools] = {}
        singly = self._shape == _SINGLY
        for number, (path, _) in enumerate(self._shapes):
            rows = self._shape == number
            if len(path) == _HAS_ONE_DATE and (rows & self.in_place).any():
                found[path[0][:-1]] = found.get(path[0][:-1], False) | (rows & self.in_place)
            elif len(path) != _HAS_ONE_DATE:
                singly |= rows
        rows = np.flatnonzero(singly & self.in_place)
        for row, text in zip(rows.tolist(), self.paths(rows), strict=True):
            found.setdefault(text[: -_NAME_WIDTH - 1], np.zeros(len(self), np.bool_))[row] = True
        return found

    def _texts(self, rows: Iterable[int], which: int) -> list[str]:
        chosen = np.fromiter(rows, np.intp)
        shapes = self._shape[chosen].tolist()
        dates = self.days[chosen].astype(str).tolist()
        return [
            self._singly[row][which] if shape == _SINGLY else date.join(self._shapes[shape][which])
            for row, shape, date in zip(chosen.tolist(), shapes, dates, strict=True)
        ]


def table_of(
    lines: bytes,
    days: _Days,
    starts: _Rows,
    symbol: str,
    bar_size: BarSize,
    parse: Callable[[bytes], Sequence[CoverageDay]],
) -> CoverageTable:
    """Read the lines of an entry.

    Args:
        lines: One day each, separated as in the coverage file.
        days: Their ET days, which are known to be right.
        starts: Where each line begins.
        symbol: Canonical symbol of the entry.
        bar_size: Its bar size.
        parse: Reads some lines by the model.

    Raises:
        InvalidDocument: A line breaks the model, from `parse`, or has several days.
    """
    reader = _Reader(lines, days, starts, f"/bars/{BAR_FOLDERS[bar_size]}/{symbol}/", parse)
    if len(days):
        reader.read()
    return reader.table()


class _Reader:
    def __init__(
        self, lines: bytes, days: _Days, starts: _Rows, place: str, parse: Callable[[bytes], Sequence[CoverageDay]]
    ) -> None:
        self._data = lines
        self._padded = lines + bytes(_WORD)
        self._days = days
        self._place = place
        self._parse = parse
        self._characters = np.frombuffer(lines, np.uint8)
        self._starts = starts
        self._ends = np.append(starts[1:] - 1, len(lines))
        self._start_ns, self._end_ns = (np.full(len(days), UNKNOWN_NS, np.int64) for _ in range(2))
        self._rows = np.zeros(len(days), np.int64)
        self._in_place = np.zeros(len(days), np.bool_)
        self._shape = np.full(len(days), _SINGLY, np.int16)
        self._shapes: list[tuple[_Pieces, _Pieces]] = []
        self._singly: dict[int, tuple[str, str]] = {}

    def table(self) -> CoverageTable:
        return CoverageTable(
            self._days,
            self._start_ns,
            self._end_ns,
            self._rows,
            self._in_place,
            self._shape,
            self._shapes,
            self._singly,
        )

    def read(self) -> None:
        commas = self._characters[self._ends - 1] == _COMMA
        if commas[-1] or not commas[:-1].all():
            # As a whole it is no JSON: the error says so.
            self._parse(self._data)
        sizes = self._ends - commas - self._starts
        pending = (self._days >= _FIRST_DAY) & (self._days <= _LAST_DAY)
        for _ in range(_MOST_SHAPES):
            if not pending.any():
                break
            first = int(np.argmax(pending))
            shape = _Shape.of(self._line(first))
            if shape is not None:
                alike = self._read_alike(shape, np.flatnonzero(pending & (sizes == sizes[first])), int(sizes[first]))
                pending[alike] = False
            # When it has a shape and is not read all the same, its times or its date are no such.
            pending[first] = False
        self._read_singly(np.flatnonzero(self._shape == _SINGLY))

    def _line(self, row: int) -> bytes:
        return self._data[self._starts[row] : self._ends[row]].removesuffix(b",")

    def _read_singly(self, rows: _Rows) -> None:
        """Read lines by the model."""
        found = self._parse(b",\n".join(map(self._line, rows.tolist()))) if len(rows) else ()
        if len(found) != len(rows):
            raise InvalidDocument(COVERAGE_VERSION, "a line has several days", field="days")
        for row, day in zip(rows.tolist(), found, strict=True):
            self._start_ns[row], self._end_ns[row] = _nanoseconds(day.time_start), _nanoseconds(day.time_end)
            self._rows[row] = day.rows
            self._singly[row] = day.path, day.filename
            name = f"{day.date.isoformat()}.parquet"
            self._in_place[row] = day.filename == name and day.path.endswith(self._place + name)

    def _read_alike(self, shape: _Shape, rows: _Rows, size: int) -> _Rows:
        """Read lines at once; returns those that have the shape."""
        width = -(-size // _WORD) * _WORD
        windows: npt.NDArray[Any] = np.ndarray(
            (len(self._padded) - width + 1,), f"V{width}", self._padded, strides=(1,)
        )
        matrix: _Bytes = windows[self._starts[rows]].view(np.uint8).reshape(-1, width)
        fits, start_ns, end_ns, numbers = shape.read(matrix, self._days[rows].astype(np.int64) * _DAY_S)
        rows = rows[fits]
        self._start_ns[rows] = start_ns[fits]
        self._end_ns[rows] = end_ns[fits]
        self._rows[rows] = numbers[fits]
        self._in_place[rows] = (
            len(shape.path) > 1
            and shape.path[-2].endswith(self._place)
            and shape.path[-1:] + shape.name == (".parquet", "", ".parquet")
        )
        self._shape[rows] = len(self._shapes)
        self._shapes.append((shape.path, shape.name))
        return rows


@dataclass(frozen=True, eq=False)
class _Shape:
    """What lines of our own form have in common with one of them.

    Attributes:
        line: The bytes of that one, filled up to whole words.
        is_fixed: 255 where a line must have the same byte, else 0.
        date: Where its date begins.
        dates: Where the same date stands otherwise.
        start: Where its first time begins.
        end: Where its last time begins.
        digits: Where its rows are.
        path: Its path, cut at the date.
        name: Its file name, likewise.
    """

    line: _Bytes
    is_fixed: _Bytes
    date: int
    dates: tuple[int, ...]
    start: int
    end: int
    digits: slice
    path: _Pieces
    name: _Pieces

    @classmethod
    def of(cls, line: bytes) -> _Shape | None:
        """Return the shape of a line; None when only the model can tell what it means."""
        match = _SHAPE.fullmatch(line)
        if match is None:
            return None
        date = match["date"]
        try:
            texts = [(_text(match[name]), match[name]) for name in ("path", "name")]
        except ValueError:
            return None
        times = match.start("start"), match.start("end")
        dates = [place for place in _places(line, date) if place > match.end("end")]
        if (
            any(text.count(date.decode()) != raw.count(date) for text, raw in texts)
            or any(_IN_ESCAPE.search(line, 0, place) for place in dates)
            or any(not match[name].startswith(date) for name in ("start", "end"))
        ):
            return None
        is_fixed = np.frombuffer(bytearray(_padded(b"\xff" * len(line))), np.uint8)
        for place in (match.start("date"), *times, *dates):
            is_fixed[place : place + _DATE_WIDTH] = 0
        for time in times:
            is_fixed[[time + digit for digit in (*_CLOCK_DIGITS, _OFFSET)]] = 0
        is_fixed[match.start("rows") : match.end("rows")] = 0
        path, name = (tuple(text.split(date.decode())) for text, _ in texts)
        return cls(
            line=np.frombuffer(_padded(line), np.uint8),
            is_fixed=is_fixed,
            date=match.start("date"),
            dates=(*times, *dates),
            start=times[0],
            end=times[1],
            digits=slice(*match.span("rows")),
            path=path,
            name=name,
        )

    def read(self, matrix: _Bytes, midnights: _Int64) -> tuple[_Bools, _Int64, _Int64, _Int64]:
        """Read lines.

        Args:
            matrix: Shape (lines, bytes), in whole words.
            midnights: Seconds from 1970 to the date of each line.

        Returns:
            Which lines have this shape; of them both times in nanoseconds since 1970 UTC, and the rows.
        """
        words, line, is_fixed = (part.view(np.uint64) for part in (matrix, self.line, self.is_fixed))
        differs = words ^ line
        differs &= is_fixed
        fits = np.bitwise_or.reduce(differs, axis=1) == 0
        for part in (0, _DATE_WIDTH - _WORD):
            date = _words(matrix, self.date + part)
            for place in self.dates:
                fits &= _words(matrix, place + part) == date
        times = []
        for place in (self.start, self.end):
            seconds, is_time = _clock(_words(matrix, place + _CLOCK))
            hours = matrix[:, place + _OFFSET] - _ZERO
            fits &= is_time & ((hours == _OFFSETS[0]) | (hours == _OFFSETS[1]))
            # The offset is negative: New York is behind.
            times.append((midnights + seconds + hours * np.int64(_HOUR_S)) * _SECOND)
        rows = np.zeros(len(matrix), np.int64)
        for place in range(self.digits.start, self.digits.stop):
            digits = matrix[:, place] - _ZERO
            fits &= digits <= _NINE
            rows *= 10
            rows += digits
        if self.digits.stop - self.digits.start > 1:
            # JSON has no leading zeros.
            fits &= matrix[:, self.digits.start] != _ZERO
        return fits, times[0], times[1], rows


def _padded(line: bytes) -> bytes:
    return line + bytes(-len(line) % _WORD)


def _words(matrix: _Bytes, place: int) -> npt.NDArray[np.uint64]:
    """Return the eight bytes from a place on, of each line."""
    words: npt.NDArray[np.uint64] = matrix[:, place : place + _WORD].view("<u8")[:, 0]
    return words


def _clock(words: npt.NDArray[np.uint64]) -> tuple[_Int64, _Bools]:
    """Return the seconds of texts HH:MM:SS, one in each word, and which of them are such times."""
    digits = words & _LOW_NIBBLES
    is_time = (words & ~_LOW_NIBBLES) == _CLOCK_FORM
    is_time &= ((digits + _SIXES) & ~_LOW_NIBBLES) == 0
    # A pair of digits makes a number in the byte of its first: ten times the first, and the second.
    pairs = digits * np.uint64(10) + (digits >> np.uint64(8))
    hours, minutes, seconds = ((pairs >> np.uint64(shift)) & np.uint64(255) for shift in (0, 24, 48))
    is_time &= (hours < 24) & (minutes < 60) & (seconds < 60)  # noqa: PLR2004 - a day has so many
    return (hours * np.uint64(_HOUR_S) + minutes * np.uint64(60) + seconds).astype(np.int64), is_time


def _text(raw: bytes) -> str:
    """Return a JSON text of which the inside is given.

    Raises:
        ValueError: It is none, or has characters that the model changes.
    """
    if b"\\" not in raw and raw.isascii() and raw.decode().isprintable():
        return raw.decode()
    text: str = json.loads(b'"%b"' % raw)
    text.encode()
    return text


def _places(line: bytes, text: bytes) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(text), line)]


def _nanoseconds(moment: datetime | None) -> int:
    ns = UNKNOWN_NS if moment is None else (moment - _EPOCH) // _MICROSECOND * 1000
    return ns if abs(ns) <= _LONGEST_NS else UNKNOWN_NS

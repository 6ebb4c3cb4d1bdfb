"""Many lines of the ledger at once: lines of one shape are read with a few vectorised steps instead of one by one.

A writer's lines differ in a handful of values only. A template is made of one line that was read strictly: what lies
between its values is constant, and a line fits when its constants are the same bytes and each of its values is plain.
Values that repeat (symbols, hours of times) are judged once each, by the strict reader. So what fits would have been
read the same by `ledger_line`; all else is left to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from contracts._coverage.ledger_block import KEY_WIDTH
from contracts._coverage.ledger_columns import BAR_SIZES, binary, characters, hash_texts, indices
from contracts._coverage.ledger_line import DAY_SEPARATOR, day_number, microseconds
from contracts._json import loads
from contracts.errors import ContractError, InvalidSymbol
from contracts.symbols import canonical_symbol
from contracts.v1.bars import MANIFEST_VERSION, BarsManifestLine, with_new_forms

if TYPE_CHECKING:
    from collections.abc import Callable

    from contracts._coverage.ledger_block import Block, UInt8
    from contracts._coverage.ledger_columns import Bools, Int64, LinesBuilder


_TIMES: Final = ("written_at", "time_start", "time_end")
_VARYING: Final = ("symbol", "bar_size", "path", "filename", *_TIMES)
_PLAIN_LINE: Final = re.compile(rb"[ -\[\]-~]*")
_PLAIN_TEXT: Final = re.compile(rb"[ !#-\[\]-~]*")
_ROWS_CELL: Final = re.compile(rb"\s*:\s*([0-9]+)\s*[,}]\s*")
_PLAIN_ROWS: Final = re.compile(rb"0|[1-9][0-9]*")
_PLAIN_TIME: Final = re.compile(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.([0-9]{1,9}))?(?:Z|[+-][0-9]{2}:00)?"
)
_SHORTEST: Final = dict.fromkeys([*_VARYING, "rows"], 1)
_LONGEST: Final = dict.fromkeys(["symbol", "bar_size", "rows"], KEY_WIDTH - 1)
_LONGEST_TEXT: Final = 1024
_HOUR_END: Final = len("2025-09-15T09")
_SECOND_END: Final = len("2025-09-15T09:30:00")
_POINT: Final = 1
_MICROSECOND_DIGITS: Final = 6
_MINUTE_US: Final = 60_000_000
_SECOND_US: Final = 1_000_000
_BEFORE_START: Final = b'{"date":"0000-00-00","time_start":"'
_BEFORE_END: Final = b'","time_end":"'
_BEFORE_PATH: Final = b'","path":"'
_BEFORE_FILENAME: Final = b'","filename":"'
_ET_WIDTH: Final = len("2025-09-15T09:30:00-04:00")
_START_AT: Final = len(_BEFORE_START)
_END_AT: Final = _START_AT + _ET_WIDTH + len(_BEFORE_END)
_HEAD: Final = np.frombuffer(_BEFORE_START + b"0" * _ET_WIDTH + _BEFORE_END + b"0" * _ET_WIDTH + _BEFORE_PATH, np.uint8)
_DATE_AT: Final = len('{"date":"')
_DATE_WIDTH: Final = len("2025-09-15")


@dataclass(frozen=True)
class _Slot:
    """A value of a line.

    Attributes:
        name: Its key, empty when its value is not needed.
        before: The constant in front of it.
        width: Its width if that is fixed.
        after: From its end to the next quote, or to the end of the line if there is none.
    """

    name: str
    before: bytes
    width: int | None
    after: int


@dataclass(frozen=True)
class _Hour:
    """What the strict reader makes of the first second of an hour; minutes and seconds only add to it."""

    us: int
    day: int
    et_hour: bytes
    et_offset: bytes


class Template:
    """The shape of one line: its constants, and where its values are."""

    def __init__(self, slots: list[_Slot], tail: bytes, document: dict[str, Any]) -> None:
        self._slots = slots
        self._tail = tail
        self._shortest = sum(len(slot.before) + (slot.width or 1) for slot in slots) + len(tail)
        written: dict[bytes, _Hour | None] = {}
        bars: dict[bytes, _Hour | None] = {}
        self._times = {key: _TimeSlot(key, document[key], written if key == "written_at" else bars) for key in _TIMES}
        self._known: dict[str, dict[bytes, Any]] = {name: {} for name in _JUDGES}

    @classmethod
    def of(cls, line: bytes) -> Template | None:
        """Make the template of a line that was read strictly; None when its shape is too odd."""
        if not _PLAIN_LINE.fullmatch(line):
            return None
        spans = _find_values(line)
        if not {*_VARYING, "rows"} <= {span.name for span in spans}:
            return None
        document = loads(line)
        for key in _TIMES:
            match = _PLAIN_TIME.fullmatch(document[key].encode())
            if match is None or (match[1] is not None and key != "written_at"):
                return None
        slots = []
        place = 0
        for span in spans:
            width = span.end - span.start if span.name in _TIMES else None
            next_quote = line.find(b'"', span.end)
            after = (len(line) if next_quote < 0 else next_quote) - span.end
            slots.append(_Slot(span.name, line[place : span.start], width, after))
            place = span.end
        return cls(slots, line[place:], document)

    def read(self, block: Block, lines: npt.NDArray[np.intp], builder: LinesBuilder) -> Bools:
        """Read the lines that fit.

        Args:
            block: The block.
            lines: Numbers of lines in it.
            builder: Takes what was read.

        Returns:
            Shape (len(lines),), which of them fit.
        """
        fits = np.zeros(len(lines), np.bool_)
        chosen = np.flatnonzero(block.ends[lines] - block.starts[lines] >= self._shortest)
        if not len(chosen):
            return fits
        place, end = block.starts[lines[chosen]], block.ends[lines[chosen]]
        spans: list[tuple[Int64, Int64]] = []
        for slot in self._slots:
            same = block.equal(place, end, slot.before)
            if not same.all():
                chosen, place, end = chosen[same], place[same], end[same]
                spans = [(first[same], last[same]) for first, last in spans]
            first = place + len(slot.before)
            place = first + slot.width if slot.width else block.next_quote(first, end) - slot.after
            spans.append((first, place))
        same = block.equal(place, end, self._tail) & (place + len(self._tail) == end)
        for slot, (first, last) in zip(self._slots, spans, strict=True):
            same &= (last - first >= _SHORTEST.get(slot.name, 0)) & (
                last - first <= _LONGEST.get(slot.name, _LONGEST_TEXT)
            )
        chosen = chosen[same]
        if not len(chosen):
            return fits
        values = _Values(len(chosen))
        for slot, (first, last) in zip(self._slots, spans, strict=True):
            self._judge(slot.name, block, first[same], last[same], values)
        chosen = chosen[self._take(values, block.offset + block.starts[lines[chosen]], builder)]
        fits[chosen] = True
        return fits

    def _judge(self, name: str, block: Block, first: Int64, last: Int64, values: _Values) -> None:
        """Read the values of one slot, and note in `values.plain` which of them are plain."""
        if name in _TIMES:
            times = self._times[name]
            values.times[name] = times.read(block.matrix(first, times.width))
            values.plain &= values.times[name].plain
        elif name in _JUDGES:
            values.coded[name] = _coded(block.keys(first, last - first), self._known[name], _JUDGES[name])
            values.plain &= values.coded[name].plain
        else:
            values.texts[name] = block.texts(first, last)
            values.plain &= _is_plain(values.texts[name])

    def _take(self, values: _Values, offsets: Int64, builder: LinesBuilder) -> npt.NDArray[np.intp]:
        """Hand over the lines where all values are plain; returns which."""
        start, end = values.times["time_start"], values.times["time_end"]
        symbols, sizes, rows = (values.coded[name] for name in ("symbol", "bar_size", "rows"))
        # Lines over midnight and over a change of the clock are rare and read one by one.
        plain = values.plain & (start.day == end.day) & (start.us <= end.us) & (start.offset == end.offset)
        symbol_numbers = np.array([0 if s is None else builder.entries.symbol_number(s) for s in symbols.values])
        size_numbers = np.array([size or 0 for size in sizes.values])
        numbers: dict[str, npt.NDArray[Any]] = {
            "entry": symbol_numbers[symbols.codes] * len(BAR_SIZES) + size_numbers[sizes.codes],
            "day": start.day,
            "start_us": start.us,
            "end_us": end.us,
            "rows": np.array([count or 0 for count in rows.values], np.int64)[rows.codes],
            "written_us": values.times["written_at"].us,
            "path_hash": hash_texts(values.texts["path"]),
            "offset": offsets,
        }
        paths, texts = values.texts["path"], _day_texts(values)
        chosen = np.flatnonzero(plain)
        if len(chosen) < len(plain):
            numbers = {name: column[chosen] for name, column in numbers.items()}
            texts, paths = texts.take(indices(chosen)), paths.take(indices(chosen))
        if len(chosen):
            builder.add_block(numbers, paths, texts)
        return chosen


@dataclass
class _Values:
    """The values of lines that have a template's constants, by key."""

    lines: int
    times: dict[str, _Times] = field(default_factory=dict)
    coded: dict[str, _Coded] = field(default_factory=dict)
    texts: dict[str, pa.Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plain: Bools = np.ones(self.lines, np.bool_)


@dataclass(frozen=True)
class _Coded:
    """A column of repeating values: which are plain, the code of each row, and what each code stands for."""

    plain: Bools
    codes: Int64
    values: list[Any]


@dataclass(frozen=True)
class _Times:
    """A column of times; `hours` holds what each code stands for, with a stand-in for those that are not plain."""

    plain: Bools
    us: Int64
    codes: Int64
    hours: list[_Hour]
    characters: UInt8

    @property
    def day(self) -> Int64:
        """Shape (rows,), days from 1970-01-01 to the ET day."""
        return np.array([hour.day for hour in self.hours], np.int64)[self.codes]

    @property
    def offset(self) -> npt.NDArray[Any]:
        """Shape (rows,), the offset of New York as text."""
        return np.array([hour.et_offset for hour in self.hours])[self.codes]

    def texts(self) -> UInt8:
        """Return shape (rows, 25), the times in New York with offset."""
        et = np.frombuffer(b"".join(hour.et_hour + b":00:00" + hour.et_offset for hour in self.hours), np.uint8)
        texts = et.reshape(-1, _ET_WIDTH)[self.codes]
        texts[:, _HOUR_END:_SECOND_END] = self.characters[:, _HOUR_END:_SECOND_END]
        return texts


_SOUND: Final = {
    "schema_version": MANIFEST_VERSION,
    "written_at": "2025-09-15T20:05:01+00:00",
    "vendor": "IBKR",
    "file_format": "parquet",
    "symbol": "AAPL",
    "bar_size": "1 min",
    "path": "-",
    "filename": "-",
    "rows": 1,
    "columns": ["-"],
}
"""A line in which a time is the only thing that can be refused."""

_NO_HOUR: Final = _Hour(0, 0, b"0000-00-00T00", b"-00:00")


class _TimeSlot:
    """Reads the times of one slot, all as wide as that of the template's line."""

    def __init__(self, key: str, text: str, known_hours: dict[bytes, _Hour | None]) -> None:
        match = _PLAIN_TIME.fullmatch(text.encode())
        self._key = key
        self._digits = len(match[1]) if match and match[1] else 0
        self._zone_at = _SECOND_END + (self._digits + _POINT if self._digits else 0)
        self.width = len(text)
        self._hours = known_hours

    def read(self, characters: UInt8) -> _Times:
        """Read times, shape (rows, width)."""
        keys = np.delete(characters, np.s_[_HOUR_END : self._zone_at], axis=1)
        hours = _coded(keys, self._hours, self._hour)
        clock = characters[:, _HOUR_END : self._zone_at].T
        plain = hours.plain & (clock[0] == ord(":")) & (clock[3] == ord(":"))
        digits = clock - np.uint8(ord("0"))
        plain &= (digits[[1, 4]] <= 5).all(axis=0) & (digits[[2, 5]] <= 9).all(axis=0)  # noqa: PLR2004 - 00 to 59
        clock_us = (digits[1] * np.uint8(10) + digits[2]).astype(np.int64) * _MINUTE_US
        clock_us += (digits[4] * np.uint8(10) + digits[5]).astype(np.int64) * _SECOND_US
        if self._digits:
            plain &= (clock[6] == ord(".")) & (digits[7:] <= 9).all(axis=0)  # noqa: PLR2004 - a digit
            for place, digit in enumerate(digits[7 : 7 + _MICROSECOND_DIGITS], 1):
                clock_us += digit.astype(np.int64) * 10 ** (_MICROSECOND_DIGITS - place)
        known = [hour or _NO_HOUR for hour in hours.values]
        us = np.array([hour.us for hour in known], np.int64)[hours.codes] + clock_us
        return _Times(plain, us, hours.codes, known, characters)

    def _hour(self, key: bytes) -> _Hour | None:
        zone = key[_HOUR_END:]
        if len(zone) > 1 and not zone.endswith(b":00"):
            return None
        try:
            text = (key[:_HOUR_END] + b":00:00" + zone).decode()
            line = BarsManifestLine.from_document(with_new_forms({**_SOUND, self._key: text}))
        except (ContractError, UnicodeDecodeError):
            return None
        moment = getattr(line, self._key)
        et = moment.isoformat().encode()
        return _Hour(microseconds(moment), day_number(moment.date()), et[:_HOUR_END], et[_SECOND_END:])


class _Span(NamedTuple):
    name: str
    start: int
    end: int


def _find_values(line: bytes) -> list[_Span]:
    """Find the values that may vary: those that coverage is made of, and texts of keys that the model does not know."""
    # Without backslashes each quote begins or ends a text: every second cell is one, the others lie between.
    cells = line.split(b'"')
    places = [0]
    for cell in cells:
        places.append(places[-1] + len(cell) + 1)
    spans = []
    depth = 0
    for at in range(0, len(cells) - 2, 2):
        depth += sum(1 if character in b"{[" else -1 for character in cells[at] if character in b"{[}]")
        key, following = cells[at + 1].decode(), cells[at + 2]
        rows = _ROWS_CELL.fullmatch(following)
        if depth != 1:
            continue
        if key == "rows" and rows:
            spans.append(_Span(key, places[at + 2] + rows.start(1), places[at + 2] + rows.end(1)))
        elif following.strip() == b":" and (key in _VARYING or key not in BarsManifestLine.model_fields):
            spans.append(_Span(key if key in _VARYING else "", places[at + 3], places[at + 4] - 1))
    return spans


def _coded(keys: UInt8, known: dict[bytes, Any], judge: Callable[[bytes], Any]) -> _Coded:
    """Judge each different key of shape (rows, width) once; what it stands for is None when it is not plain."""
    rows, width = keys.shape
    buffer = pa.py_buffer(np.ascontiguousarray(keys))
    encoded = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), rows, [None, buffer]).dictionary_encode()
    values = []
    for key in encoded.dictionary.to_pylist():
        if key not in known:
            known[key] = judge(key)
        values.append(known[key])
    codes = np.frombuffer(encoded.indices.buffers()[1], np.int32, rows).astype(np.int64)
    return _Coded(np.array([value is not None for value in values], np.bool_)[codes], codes, values)


def _symbol(key: bytes) -> str | None:
    text = key[: key[-1]]
    try:
        return canonical_symbol(text.decode()) if _PLAIN_TEXT.fullmatch(text) else None
    except InvalidSymbol:
        return None


def _bar_size(key: bytes) -> int | None:
    text = key[: key[-1]]
    return next((number for number, size in enumerate(BAR_SIZES) if size.encode() == text), None)


def _rows(key: bytes) -> int | None:
    text = key[: key[-1]]
    return int(text) if _PLAIN_ROWS.fullmatch(text) else None


_JUDGES: Final[dict[str, Callable[[bytes], Any]]] = {"symbol": _symbol, "bar_size": _bar_size, "rows": _rows}


def _is_plain(texts: pa.Array) -> Bools:
    """Return which texts have only printable ASCII without backslashes, which JSON writes as they are."""
    offsets, data = characters(texts)
    # From 0x20 to 0x7E; what is below wraps around to above.
    odd = (data - np.uint8(0x20) > 0x7E - 0x20) | (data == ord("\\"))
    plain = np.ones(len(texts), np.bool_)
    if odd.any():
        plain[np.searchsorted(offsets, np.flatnonzero(odd), side="right") - 1] = False
    return plain


def _day_texts(values: _Values) -> pa.Array:
    """Write each line as a day of the coverage file."""
    start = values.times["time_start"].texts()
    head = np.empty((values.lines, len(_HEAD)), np.uint8)
    head[:] = _HEAD
    head[:, _DATE_AT : _DATE_AT + _DATE_WIDTH] = start[:, :_DATE_WIDTH]
    head[:, _START_AT : _START_AT + _ET_WIDTH] = start
    head[:, _END_AT : _END_AT + _ET_WIDTH] = values.times["time_end"].texts()
    offsets = np.arange(0, (len(head) + 1) * len(_HEAD), len(_HEAD), dtype=np.int32)
    heads = pa.BinaryArray.from_buffers(pa.binary(), len(head), [None, pa.py_buffer(offsets), pa.py_buffer(head)])
    counts = values.coded["rows"]
    rows = binary([b'","rows":%d}%b' % (count or 0, DAY_SEPARATOR) for count in counts.values])
    # One array of all pieces, taken in the order of the text: the pieces of a line then lie one after the other.
    pieces = pa.concat_arrays([heads, values.texts["path"], values.texts["filename"], rows, binary([_BEFORE_FILENAME])])
    order = np.empty((values.lines, 5), np.int64)
    order[:, 0] = np.arange(values.lines)
    order[:, 1] = order[:, 0] + values.lines
    order[:, 2] = len(pieces) - 1
    order[:, 3] = order[:, 1] + values.lines
    order[:, 4] = counts.codes + 3 * values.lines
    places, data = characters(pieces.take(indices(order.ravel())))
    texts = np.ascontiguousarray(places[::5])
    return pa.BinaryArray.from_buffers(pa.binary(), values.lines, [None, pa.py_buffer(texts), pa.py_buffer(data)])

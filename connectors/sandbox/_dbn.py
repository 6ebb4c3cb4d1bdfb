"""The Databento Binary Encoding as bytes: headers of versions 1 to 3, MBP record layouts, reading of files.

Written against the published format with `struct` and numpy, because only `connectors.databento` imports the
vendor's package; tests hold it against the vendor's decoder. What the records mean lives elsewhere.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, BinaryIO, Final, cast

import numpy as np
import zstandard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

DBN_VERSION: Final = 3
UNDEF_PRICE: Final = 2**63 - 1
SCHEMA_CODE: Final = {"mbp-1": 1, "mbp-10": 2}
SCHEMA_LEVELS: Final = {"mbp-1": 1, "mbp-10": 10}
SCHEMA_RTYPE: Final = {"mbp-1": 1, "mbp-10": 10}
STYPE_INSTRUMENT_ID: Final = 0
STYPE_RAW_SYMBOL: Final = 1

_MAGIC: Final = b"DBN"
_NULL_U8: Final = 0xFF
_NULL_U64: Final = 2**64 - 1
_SYMBOL_BYTES: Final = {1: 22, 2: 71, 3: 71}
_V1: Final = 1
_PREFIX: Final = struct.Struct("<3sBI")  # magic, version, bytes that follow
_FIXED_V1: Final = struct.Struct("<16sHQQQQBBB47x")  # the extra u64 is v1's record count
_FIXED_V2: Final = struct.Struct("<16sHQQQBBBH53x")
_U32: Final = struct.Struct("<I")
_ALIGNMENT: Final = 8  # v3 pads the header so that records start on 8 bytes


class DbnFormatError(ValueError):
    """Bytes that are not a DBN header or stream this module can read."""


@dataclass(frozen=True)
class Interval:
    """A symbol's instrument id on the UTC dates `[start_date, end_date)`."""

    start_date: date
    end_date: date
    instrument_id: int


@dataclass(frozen=True)
class DbnHeader:
    """The metadata in front of the records; times in ns since the epoch, `end_ns` exclusive, `limit` 0 = none."""

    dataset: str
    schema: str
    start_ns: int
    end_ns: int | None
    limit: int = 0
    symbols: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    not_found: tuple[str, ...] = ()
    mappings: dict[str, tuple[Interval, ...]] = field(default_factory=dict)
    version: int = DBN_VERSION


def record_dtype(schema: str) -> np.dtype[np.void]:
    """The numpy layout of one record: 80 bytes for `mbp-1`, 368 bytes for `mbp-10`, little endian."""
    fields: list[tuple[str, str]] = [
        ("length", "u1"),
        ("rtype", "u1"),
        ("publisher_id", "<u2"),
        ("instrument_id", "<u4"),
        ("ts_event", "<u8"),
        ("price", "<i8"),
        ("size", "<u4"),
        ("action", "S1"),
        ("side", "S1"),
        ("flags", "u1"),
        ("depth", "u1"),
        ("ts_recv", "<u8"),
        ("ts_in_delta", "<i4"),
        ("sequence", "<u4"),
    ]
    for level in range(SCHEMA_LEVELS[schema]):
        fields += [
            (f"bid_px_{level:02d}", "<i8"),
            (f"ask_px_{level:02d}", "<i8"),
            (f"bid_sz_{level:02d}", "<u4"),
            (f"ask_sz_{level:02d}", "<u4"),
            (f"bid_ct_{level:02d}", "<u4"),
            (f"ask_ct_{level:02d}", "<u4"),
        ]
    return np.dtype(fields)


RECORD_DTYPE: Final = {schema: record_dtype(schema) for schema in SCHEMA_CODE}
RECORD_BYTES: Final = {schema: dtype.itemsize for schema, dtype in RECORD_DTYPE.items()}


def _yyyymmdd(day: date) -> int:
    return day.year * 10_000 + day.month * 100 + day.day


def _from_yyyymmdd(number: int) -> date:
    return date(number // 10_000, number // 100 % 100, number % 100)


def encode_header(header: DbnHeader) -> bytes:
    """`header` as DBN of `header.version`, ready to stand before the records.

    Raises:
        DbnFormatError: a symbol does not fit the version's fixed-length strings.
    """
    width = _SYMBOL_BYTES[header.version]

    def text(symbol: str) -> bytes:
        raw = symbol.encode("ascii")
        if len(raw) >= width:
            raise DbnFormatError(f"symbol {symbol!r} does not fit the {width} bytes of DBN v{header.version}")
        return raw.ljust(width, b"\0")

    dataset = header.dataset.encode("ascii").ljust(16, b"\0")
    end_ns = _NULL_U64 if header.end_ns is None else header.end_ns
    times = (SCHEMA_CODE[header.schema], header.start_ns, end_ns, header.limit)
    if header.version == _V1:
        fixed = _FIXED_V1.pack(dataset, *times, _NULL_U64, STYPE_RAW_SYMBOL, STYPE_INSTRUMENT_ID, 0)
    else:
        fixed = _FIXED_V2.pack(dataset, *times, STYPE_RAW_SYMBOL, STYPE_INSTRUMENT_ID, 0, width)
    body = bytearray(fixed)
    body += _U32.pack(0)  # no schema definition follows
    for names in (header.symbols, header.partial, header.not_found):
        body += _U32.pack(len(names))
        for name in names:
            body += text(name)
    body += _U32.pack(len(header.mappings))
    for symbol, intervals in header.mappings.items():
        body += text(symbol) + _U32.pack(len(intervals))
        for interval in intervals:
            body += _U32.pack(_yyyymmdd(interval.start_date)) + _U32.pack(_yyyymmdd(interval.end_date))
            body += text(str(interval.instrument_id))
    if header.version > 2:  # noqa: PLR2004 - the version that began to pad
        body += b"\0" * (-(_PREFIX.size + len(body)) % _ALIGNMENT)
    return _PREFIX.pack(_MAGIC, header.version, len(body)) + bytes(body)


class _Cursor:
    """Reads the variable part of a header in order."""

    def __init__(self, raw: bytes, offset: int, width: int) -> None:
        self._raw = raw
        self._offset = offset
        self._width = width

    def number(self) -> int:
        (value,) = _U32.unpack_from(self._raw, self._offset)
        self._offset += _U32.size
        return int(value)

    def text(self) -> str:
        raw = self._raw[self._offset : self._offset + self._width]
        self._offset += self._width
        return raw.split(b"\0", 1)[0].decode("ascii")

    def texts(self) -> tuple[str, ...]:
        return tuple(self.text() for _ in range(self.number()))

    def interval(self) -> Interval:
        start, end = _from_yyyymmdd(self.number()), _from_yyyymmdd(self.number())
        return Interval(start, end, int(self.text()))


def read_header(stream: BinaryIO) -> DbnHeader:
    """The header of an uncompressed DBN stream (versions 1 to 3), which then stands at the first record.

    Raises:
        DbnFormatError: not DBN, another version, a schema other than mbp-1 and mbp-10, or a torn header.
    """
    prefix = stream.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size or prefix[:3] != _MAGIC:
        raise DbnFormatError("not a DBN stream: it does not begin with 'DBN'")
    _, version, length = _PREFIX.unpack(prefix)
    if version not in _SYMBOL_BYTES:
        raise DbnFormatError(f"DBN version {version} is not one of {sorted(_SYMBOL_BYTES)}")
    raw = stream.read(length)
    if len(raw) < length:
        raise DbnFormatError("the DBN header is cut off")
    if version == _V1:
        dataset, code, start, end, limit, _, stype_in, stype_out, _ = _FIXED_V1.unpack_from(raw)
        width = _SYMBOL_BYTES[_V1]
    else:
        dataset, code, start, end, limit, stype_in, stype_out, _, width = _FIXED_V2.unpack_from(raw)
    schema = next((name for name, number in SCHEMA_CODE.items() if number == code), None)
    if schema is None:
        raise DbnFormatError(f"schema number {code} is not one of {sorted(SCHEMA_CODE)}")
    if stype_in not in (STYPE_RAW_SYMBOL, _NULL_U8) or stype_out != STYPE_INSTRUMENT_ID:
        raise DbnFormatError("only files that map raw symbols to instrument ids can be replayed")
    cursor = _Cursor(raw, _FIXED_V2.size, width)  # both fixed parts have the same length
    cursor.number()  # length of the schema definition, always 0
    symbols, partial, not_found = cursor.texts(), cursor.texts(), cursor.texts()
    mappings = {cursor.text(): tuple(cursor.interval() for _ in range(cursor.number())) for _ in range(cursor.number())}
    return DbnHeader(
        dataset=dataset.split(b"\0", 1)[0].decode("ascii"),
        schema=schema,
        start_ns=start,
        end_ns=None if end in (0, _NULL_U64) else end,
        limit=limit,
        symbols=symbols,
        partial=partial,
        not_found=not_found,
        mappings=mappings,
        version=version,
    )


def open_dbn(path: Path) -> BinaryIO:
    """An uncompressed byte stream of a `.dbn` or `.dbn.zst` file; the caller closes it."""
    raw = path.open("rb")
    if path.suffix != ".zst":
        return raw
    reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=True)
    return cast("BinaryIO", io.BufferedReader(cast("io.RawIOBase", reader), 1 << 20))


def read_blocks(stream: BinaryIO, schema: str, records: int = 16_384) -> Iterator[NDArray[np.void]]:
    """Record arrays of at most `records` rows from a stream that stands behind its header.

    Raises:
        DbnFormatError: the stream ends inside a record, or holds records of another length.
    """
    dtype = RECORD_DTYPE[schema]
    while raw := stream.read(records * dtype.itemsize):
        if len(raw) % dtype.itemsize:
            raise DbnFormatError("the file ends inside a record")
        block = np.frombuffer(raw, dtype)
        if (block["length"] != dtype.itemsize // 4).any():
            raise DbnFormatError(f"the file holds records that are not {schema}")
        yield block

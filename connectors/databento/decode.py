"""Reads MBP records out of a DBN file, in chunks, in constant memory, and refuses a file that is not what it should be.

`DbnFile.chunks` is the only reader: it counts records, refuses bytes left over at the end, foreign records and
instrument ids that the file's symbol mappings do not allow, so that a broken file cannot pass as a short day. `verify`
is a whole pass over a finished download. What the records become lies in `shape`.
"""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Protocol

import numpy as np
import zstandard
from databento_dbn import DBNError, Metadata, VersionUpgradePolicy

from connectors.databento._sanity import RecordCheck
from connectors.databento.errors import UnresolvedSymbol, VerificationFailed, WrongContent
from connectors.databento.request import SCHEMA_LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedReader
    from pathlib import Path

    from numpy.typing import NDArray

    from connectors.databento.request import DayRequest

UNDEF_PRICE = np.iinfo(np.int64).max
"""The vendor's price of a level that is not there."""

MBP_RTYPES = {"mbp-10": 10, "mbp-1": 1}

CHUNK_RECORDS = 8_192
"""Records per read: 3 MB of MBP-10, which stays in a large cache."""

AHEAD_CHUNKS = 4
"""So many times larger are the reads of another thread: smaller ones spend their time changing threads."""

MOST_METADATA_BYTES = 1 << 26
"""No metadata are longer: a damaged length must not be allocated. One symbol's take a few hundred bytes."""

_NS_PER_DAY = 86_400_000_000_000


def record_dtype(schema: str) -> np.dtype[np.void]:
    """The wire layout of one MBP record; `levels` is a (levels,) array of price, size and count pairs."""
    level = np.dtype(
        [
            ("bid_px", "<i8"),
            ("ask_px", "<i8"),
            ("bid_sz", "<u4"),
            ("ask_sz", "<u4"),
            ("bid_ct", "<u4"),
            ("ask_ct", "<u4"),
        ]
    )
    return np.dtype(
        [
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
            ("levels", level, (SCHEMA_LEVELS[schema],)),
        ]
    )


class Reader(Protocol):
    """A plain file or zstandard's reader."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a part of the buffer; 0 at the end."""


@dataclass(frozen=True)
class FileFacts:
    """What a DBN file says of itself.

    Attributes:
        dataset: vendor dataset code.
        schema: vendor schema of its records.
        version: DBN version.
        not_found: symbols that did not resolve on any day.
        mapped: (first day, first day no longer, instrument id) of every symbol mapping; UTC days since 1970-01-01.
        limit: record limit of the query, None without one.
    """

    dataset: str
    schema: str
    version: int
    not_found: tuple[str, ...]
    mapped: tuple[tuple[int, int, int], ...]
    limit: int | None

    def maps(self, day: int, instrument_id: int) -> bool:
        """Whether a symbol mapping allows the id on a UTC day, in days since 1970-01-01."""
        return any(first <= day < end and found == instrument_id for first, end, found in self.mapped)


class DbnFile:
    """One MBP file on disk.

    Args:
        path: a DBN file, zstd-compressed or not.
        name: what messages call it; the file's name by default.

    Raises:
        VerificationFailed: when the file is not MBP data the vendor's library can open.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self.path = path
        self.name = name or path.name
        with path.open("rb") as raw:
            try:
                metadata = Metadata.decode(
                    self._header(_decompressed(raw)),
                    VersionUpgradePolicy.AS_IS,  # type: ignore[arg-type]  # its stub types the members as ints
                )
            except (DBNError, zstandard.ZstdError) as exc:
                raise VerificationFailed(f"{self.name}: not a DBN file: {exc}", reason="not_dbn") from exc
        schema = str(metadata.schema) if metadata.schema is not None else "mixed"
        if schema not in SCHEMA_LEVELS:
            raise WrongContent(
                f"{self.name}: holds {schema}, not one of {', '.join(SCHEMA_LEVELS)}",
                reason="wrong_schema",
            )
        self.facts = FileFacts(
            dataset=metadata.dataset,
            schema=schema,
            version=metadata.version,
            not_found=tuple(metadata.not_found),
            mapped=_mapped(metadata),
            limit=metadata.limit,
        )
        self.dtype = record_dtype(schema)

    def chunks(self, *, ahead: bool = False) -> Iterator[NDArray[np.void]]:
        """Every record of the file, in chunks.

        Args:
            ahead: decompress the next chunk in another thread, which needs no interpreter, while this one is used. It
                pays when little is done with each record; with much to do, threads only get in each other's way.

        Yields:
            Structured arrays of `record_dtype`. Two buffers take turns: a chunk is gone when the next is asked for.

        Raises:
            VerificationFailed: on corrupt bytes, an incomplete last record, foreign records or unmapped instrument ids.
        """
        size = self.dtype.itemsize * CHUNK_RECORDS * (AHEAD_CHUNKS if ahead else 1)
        buffers = cycle([memoryview(bytearray(size)) for _ in range(2 if ahead else 1)])
        seen: set[tuple[int, int]] = set()
        with self.path.open("rb") as raw, ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(1, "dbn")) if ahead else None
            reader = _decompressed(raw)
            try:
                self._header(reader)
                view = next(buffers)
                filled = _filling(pool, reader, view)
                while count := filled():
                    current, view = view, next(buffers)
                    filled = _filling(pool, reader, view) if count == size else int
                    whole, left = divmod(count, self.dtype.itemsize)
                    if left:
                        raise VerificationFailed(
                            f"{self.name}: {left} bytes are left over after the last whole record",
                            reason="stream_cut",
                        )
                    chunk = np.frombuffer(current, self.dtype, count=whole)
                    self._check(chunk, seen)
                    yield chunk
            except zstandard.ZstdError as exc:
                raise VerificationFailed(f"{self.name}: corrupt bytes: {exc}", reason="corrupt") from exc

    def _header(self, reader: Reader) -> bytes:
        """Magic, version and metadata of any DBN version; the reader then stands at the first record."""
        prefix = self._exactly(reader, 8)
        size = int.from_bytes(prefix[4:], "little")
        if prefix[:3] != b"DBN" or size > MOST_METADATA_BYTES:
            raise VerificationFailed(f"{self.name}: not a DBN file", reason="not_dbn")
        return prefix + self._exactly(reader, size)

    def _exactly(self, reader: Reader, size: int) -> bytes:
        buffer = bytearray(size)
        if _fill(reader, memoryview(buffer)) != size:
            raise VerificationFailed(f"{self.name}: the file ends inside its metadata", reason="stream_cut")
        return bytes(buffer)

    def _check(self, chunk: NDArray[np.void], seen: set[tuple[int, int]]) -> None:
        # One pass over the first word (length, rtype, publisher, instrument id) and one over the times: what is spread
        # over large records is dear to read.
        heads = np.ascontiguousarray(chunk.view("<u8").reshape(len(chunk), -1)[:, 0])
        recv_ns = np.ascontiguousarray(chunk["ts_recv"])
        first_day, last_day = int(recv_ns.min()) // _NS_PER_DAY, int(recv_ns.max()) // _NS_PER_DAY
        uniform = bool((heads == heads[0]).all())
        rtypes = chunk["rtype"][: 1 if uniform else None]
        if (rtypes != MBP_RTYPES[self.facts.schema]).any():
            raise WrongContent(f"{self.name}: holds records of another type", reason="foreign_record")
        if uniform and first_day == last_day:
            pairs = {(first_day, int(chunk["instrument_id"][0]))}
        else:
            days = recv_ns // _NS_PER_DAY
            pairs = set(zip(days.tolist(), chunk["instrument_id"].tolist(), strict=True))
        for day, instrument_id in pairs - seen:
            if not self.facts.maps(day, instrument_id):
                raise WrongContent(
                    f"{self.name}: instrument id {instrument_id} on UTC day number {day} since 1970 "
                    "is not in the file's symbol mappings",
                    reason="unmapped_instrument",
                )
        seen |= pairs


def verify(path: Path, request: DayRequest, *, expected_records: int) -> FileFacts:
    """Verify a finished download against what was asked for.

    Raises:
        UnresolvedSymbol: the vendor says in the file that it does not know the symbol.
        VerificationFailed: with the reason: wrong dataset or schema, bytes left over, corrupt bytes or records,
            unmapped instrument ids, or a record count other than `expected_records`.
    """
    file = DbnFile(path, name=request.label)
    facts = file.facts
    if (facts.dataset, facts.schema) != (request.dataset, request.schema):
        raise WrongContent(
            f"{request.label}: asked for {request.dataset} {request.schema}, got {facts.dataset} {facts.schema}",
            reason="wrong_schema",
        )
    if facts.not_found:
        raise UnresolvedSymbol(
            f"{request.label}: {request.dataset} does not know {', '.join(facts.not_found)} "
            "[correct the symbol or add it to SYMBOL_MAPPING_FILE]",
            reason="unresolved_symbol",
        )
    sanity = RecordCheck(request)
    records = 0
    for chunk in file.chunks(ahead=True):
        sanity.check(chunk)
        records += len(chunk)
    if records != expected_records:
        raise VerificationFailed(
            f"{request.label}: the vendor counts {expected_records} records, the download holds {records}",
            reason="record_count",
        )
    return facts


def _mapped(metadata: Metadata) -> tuple[tuple[int, int, int], ...]:
    epoch = dt.date(1970, 1, 1)
    return tuple(
        (first, max((interval["end_date"] - epoch).days, first + 1), int(interval["symbol"]))
        for intervals in metadata.mappings.values()
        for interval in intervals
        if str(interval["symbol"]).isdigit()
        for first in [(interval["start_date"] - epoch).days]
    )


def _decompressed(raw: BufferedReader) -> Reader:
    """The bytes of a file, decompressed when they are zstd."""
    compressed = raw.read(4) == zstandard.FRAME_HEADER
    raw.seek(0)
    return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) if compressed else raw


def _filling(pool: ThreadPoolExecutor | None, reader: Reader, view: memoryview) -> Callable[[], int]:
    """Fill the view in another thread from now on, or here when the result is asked for; what is called then."""
    return partial(_fill, reader, view) if pool is None else pool.submit(_fill, reader, view).result


def _fill(reader: Reader, view: memoryview) -> int:
    """Fill the view as far as the stream goes; the number of bytes read."""
    filled = 0
    while filled < len(view):
        count = reader.readinto(view[filled:])
        if not count:
            break
        filled += count
    return filled

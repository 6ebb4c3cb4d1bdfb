"""Reads MBP records out of a DBN file, in chunks, in constant memory, and refuses a file that is not what it should be.

`DbnFile.chunks` is the only reader: it counts records, refuses bytes left over at the end, foreign records and
instrument ids that the file's symbol mappings do not allow, so that a broken file cannot pass as a short day. `verify`
is a whole pass over a finished download. What the records become lies in `shape`.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import zstandard
from databento import DBNStore
from databento.common.error import BentoError

from connectors.databento.errors import VerificationFailed
from connectors.databento.request import SCHEMA_LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from connectors.databento.request import DayRequest

UNDEF_PRICE = np.iinfo(np.int64).max
"""The vendor's price of a level that is not there."""

MBP_RTYPES = {"mbp-10": 10, "mbp-1": 1}

CHUNK_RECORDS = 8_192
"""Records per read: 3 MB of MBP-10, which stays in a large cache."""

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


@dataclass(frozen=True)
class FileFacts:
    """What a DBN file says of itself.

    Attributes:
        dataset: vendor dataset code.
        schema: vendor schema of its records.
        version: DBN version.
        not_found: symbols that did not resolve on any day.
        instrument_ids: ids per UTC day number (days since 1970-01-01) that the mappings allow.
        limit: record limit of the query, None without one.
    """

    dataset: str
    schema: str
    version: int
    not_found: tuple[str, ...]
    instrument_ids: dict[int, frozenset[int]]
    limit: int | None


class DbnFile:
    """One MBP file on disk.

    Args:
        path: a DBN file, zstd-compressed or not.

    Raises:
        VerificationFailed: when the file is not MBP data the vendor's library can open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            store = DBNStore.from_file(path)
        except (BentoError, ValueError, zstandard.ZstdError, OSError) as exc:
            if isinstance(exc, FileNotFoundError | PermissionError):
                raise
            raise VerificationFailed(f"{path.name}: not a DBN file: {exc}", reason="not_dbn") from exc
        try:
            schema = str(store.schema) if store.schema is not None else "mixed"
            if schema not in SCHEMA_LEVELS:
                raise VerificationFailed(
                    f"{path.name}: holds {schema}, not one of {', '.join(SCHEMA_LEVELS)}",
                    reason="wrong_schema",
                )
            self._store = store
            self.facts = FileFacts(
                dataset=store.dataset,
                schema=schema,
                version=store.metadata.version,
                not_found=tuple(store.metadata.not_found),
                instrument_ids=_ids_by_day(store),
                limit=store.limit,
            )
            self.dtype = record_dtype(schema)
        finally:
            store.reader.close()

    def chunks(self, chunk_records: int = CHUNK_RECORDS) -> Iterator[NDArray[np.void]]:
        """Every record of the file, in chunks.

        Args:
            chunk_records: records per chunk.

        Yields:
            Structured arrays of `record_dtype`. They share one buffer: a chunk is gone when the next is asked for.

        Raises:
            VerificationFailed: on corrupt bytes, an incomplete last record, foreign records or unmapped instrument ids.
        """
        buffer = bytearray(self.dtype.itemsize * chunk_records)
        view = memoryview(buffer)
        records = np.frombuffer(buffer, dtype=self.dtype)
        seen: set[tuple[int, int]] = set()
        with self.path.open("rb") as raw:
            compressed = raw.read(4) == b"\x28\xb5\x2f\xfd"
            raw.seek(0)
            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) if compressed else raw
            try:
                # Magic and version, then the length of the metadata that follows (DBN, all versions).
                _exactly(reader, int.from_bytes(_exactly(reader, 8)[4:], "little"))
                filled = len(view)
                while filled == len(view):
                    filled = _fill(reader, view)
                    whole, left = divmod(filled, self.dtype.itemsize)
                    if left:
                        raise VerificationFailed(
                            f"{self.path.name}: {left} bytes are left over after the last whole record",
                            reason="stream_cut",
                        )
                    if whole:
                        chunk = records[:whole]
                        self._check(chunk, seen)
                        yield chunk
            except zstandard.ZstdError as exc:
                raise VerificationFailed(f"{self.path.name}: corrupt bytes: {exc}", reason="corrupt") from exc

    def _check(self, chunk: NDArray[np.void], seen: set[tuple[int, int]]) -> None:
        rtypes = chunk["rtype"]
        if rtypes.min() != rtypes.max() or rtypes[0] != MBP_RTYPES[self.facts.schema]:
            raise VerificationFailed(f"{self.path.name}: holds records of another type", reason="foreign_record")
        ids = chunk["instrument_id"]
        days = chunk["ts_recv"] // _NS_PER_DAY
        if ids.min() == ids.max() and days.min() == days.max():
            pairs = {(int(days[0]), int(ids[0]))}
        else:
            pairs = set(zip(days.tolist(), ids.tolist(), strict=True))
        for day, instrument_id in pairs - seen:
            if instrument_id not in self.facts.instrument_ids.get(day, frozenset()):
                raise VerificationFailed(
                    f"{self.path.name}: instrument id {instrument_id} on UTC day number {day} since 1970 "
                    "is not in the file's symbol mappings",
                    reason="unmapped_instrument",
                )
        seen |= pairs


def verify(path: Path, request: DayRequest, *, expected_records: int) -> FileFacts:
    """Verify a finished download against what was asked for.

    Raises:
        VerificationFailed: with the reason: wrong dataset or schema, symbol not found, bytes left over, corrupt bytes,
            unmapped instrument ids, or a record count other than `expected_records`.
    """
    file = DbnFile(path)
    facts = file.facts
    if (facts.dataset, facts.schema) != (request.dataset, request.schema):
        raise VerificationFailed(
            f"{request.label}: asked for {request.dataset} {request.schema}, got {facts.dataset} {facts.schema}",
            reason="wrong_schema",
        )
    records = sum(len(chunk) for chunk in file.chunks())
    if records != expected_records:
        raise VerificationFailed(
            f"{request.label}: the vendor counts {expected_records} records, the download holds {records}",
            reason="record_count",
        )
    return facts


def _ids_by_day(store: DBNStore) -> dict[int, frozenset[int]]:
    """Instrument ids the mappings allow, per UTC day number."""
    epoch = dt.date(1970, 1, 1)
    ids: dict[int, set[int]] = {}
    for intervals in store.mappings.values():
        for interval in intervals:
            if not str(interval["symbol"]).isdigit():
                continue
            first = (interval["start_date"] - epoch).days
            # An interval may be open-ended; a file never spans more than a few days.
            last = min((interval["end_date"] - epoch).days, first + 4_000)
            for day in range(first, max(last, first + 1)):
                ids.setdefault(day, set()).add(int(interval["symbol"]))
    return {day: frozenset(found) for day, found in ids.items()}


def _fill(reader: object, view: memoryview) -> int:
    """Fill the view as far as the stream goes; the number of bytes read."""
    filled = 0
    while filled < len(view):
        count = reader.readinto(view[filled:])  # type: ignore[attr-defined]  # zstandard's reader and a plain file
        if not count:
            break
        filled += count
    return filled


def _exactly(reader: object, size: int) -> bytes:
    buffer = bytearray(size)
    if _fill(reader, memoryview(buffer)) != size:
        raise VerificationFailed("the file ends inside its metadata", reason="stream_cut")
    return bytes(buffer)

"""Whether the snapshots of live files are what their messages give, row for row; used through `contracts.validate`."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts._replay.file import read_records
from contracts._validate.rows import first_line
from contracts.book import Replayer
from contracts.errors import ContractError, shown
from contracts.timestamps import iso_utc_from_ns, ns_from_text
from contracts.v1.depth_messages import SCHEMA_VERSION
from contracts.v1.level2 import SNAPSHOT_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from contracts.v1.level2 import SnapshotMetadata

_CHUNK_RECORDS: Final = 16_384
_BATCH_ROWS: Final = 16_384


@dataclass(frozen=True)
class Segment:
    """One segment of live capture, its two files; without a row it has no snapshots file."""

    messages: Path
    snapshots: Path | None


@dataclass(frozen=True)
class Difference:
    """The first row that is not what the messages give.

    Attributes:
        path: The file, mostly of snapshots.
        message: What differs.
        row: Zero-based row of the file, when it is a row that differs.
        field: The column.
    """

    path: Path
    message: str
    row: int | None = None
    field: str | None = None


class BookReplay:
    """A book that goes through segments one after the other.

    Args:
        metadata: Of the snapshots files; all segments must agree in it, and at least one has such a file.
    """

    def __init__(self, metadata: SnapshotMetadata) -> None:
        self.metadata = metadata
        start_ns, self._end_ns = metadata.bounds_ns()
        self._replayer = Replayer(metadata.levels, metadata.interval_ms, start_ns)

    def on(self, metadata: SnapshotMetadata) -> Self:
        """Return a replay of another day that begins with a copy of this book."""
        following = type(self)(metadata)
        book = copy.deepcopy(self._replayer.book)
        symbol, is_known, removes = self._replayer.symbol, book.is_known, book.clear()
        if symbol is not None and is_known:
            # A book that is known and empty is made by a row that comes and goes.
            changes = [("add", *remove[1:]) for remove in reversed(removes)]
            changes = changes or [("add", "bid", 0, 1.0, 1), ("remove", "bid", 0, 1.0, 1)]
            eve = iso_utc_from_ns(np.array([metadata.bounds_ns()[0] - 1], np.int64))[0].as_py()
            names = ("operation", "side", "level", "price", "size")
            following._replayer.feed(  # noqa: SLF001 - one of us
                {"timestamp": eve, "symbol": symbol, **dict(zip(names, change, strict=True))} for change in changes
            )
        return following

    def first_difference(self, segments: Sequence[Segment]) -> Difference | None:
        """Replay further segments and return the first row that differs from their snapshots, in bounded memory.

        After the last message a snapshots file may go on with the last book, or end.
        """
        try:
            return self._first_difference(segments)
        except (ContractError, ValueError, OSError, pa.ArrowException) as error:
            return Difference(segments[0].messages, f"the messages cannot be replayed: {first_line(error)}")

    def _first_difference(self, segments: Sequence[Segment]) -> Difference | None:
        written = _Written([segment.snapshots for segment in segments if segment.snapshots is not None])
        last_ns = 0
        for segment in segments:
            records = read_records(segment.messages, f"{SCHEMA_VERSION} {segment.messages}")
            while chunk := list(islice(records, _CHUNK_RECORDS)):
                self._replayer.feed(chunk)
                last_ns = ns_from_text(chunk[-1]["timestamp"])
                difference = self._compare(written, last_ns)
                if difference is not None:
                    return difference
        # On a grid the last book may have been written on; what was, must be that book.
        return self._compare(written, max(last_ns, written.last_ns()) + 1) or written.rest()

    def _compare(self, written: _Written, end_ns: int) -> Difference | None:
        replayed = self._replayer.rows_until(min(end_ns, self._end_ns)).combine_chunks()
        for batch in replayed.to_batches():
            difference = written.compare(batch)
            if difference is not None:
                return difference
        return None


class _Written:
    """The rows of several snapshots files as one stream."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._rows = self._read()
        self._batch: pa.RecordBatch | None = None
        self._at = self._row = 0
        self._path = paths[0]

    def compare(self, replayed: pa.RecordBatch) -> Difference | None:
        """Hold the next rows against as many replayed ones."""
        done = 0
        while done < replayed.num_rows:
            batch = self._rest_of_batch()
            if batch is None:
                text = replayed.column(0)[done].as_py()
                return Difference(self._path, f"it ends before {text}, of which its messages tell")
            count = min(replayed.num_rows - done, batch.num_rows)
            ours, theirs = batch.slice(0, count), replayed.slice(done, count)
            for name in SNAPSHOT_SCHEMA.names:
                one, two = ours.column(name), theirs.column(name)
                if not one.equals(two):
                    return self._first(name, one, two)
            done, self._at, self._row = done + count, self._at + count, self._row + count
        return None

    def last_ns(self) -> int:
        """Return the time of the last row of all, or 0 when there is none."""
        for path in reversed(self._paths):
            with pq.ParquetFile(path) as file:
                if file.metadata.num_rows:
                    groups = [file.metadata.num_row_groups - 1]
                    times = file.read_row_groups(groups, columns=["timestamp"]).column(0)
                    return ns_from_text(times[-1].as_py())
        return 0

    def rest(self) -> Difference | None:
        """Return the first row that has no replayed counterpart."""
        if self._rest_of_batch() is None:
            return None
        return Difference(self._path, "its messages do not give this row", self._row, "timestamp")

    def _rest_of_batch(self) -> pa.RecordBatch | None:
        """Return the rows of a batch that were not compared yet, at least one; None after the last."""
        while self._batch is None or self._at == self._batch.num_rows:
            following = next(self._rows, None)
            if following is None:
                return None
            path, self._batch = following
            self._row, self._path = (self._row, path) if path == self._path else (0, path)
            self._at = 0
        return self._batch.slice(self._at)

    def _read(self) -> Iterator[tuple[Path, pa.RecordBatch]]:
        for path in self._paths:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    yield path, batch

    def _first(self, name: str, ours: pa.Array, theirs: pa.Array) -> Difference:
        values: Any = zip(ours.to_pylist(), theirs.to_pylist(), strict=True)
        at, (one, two) = next((at, both) for at, both in enumerate(values) if both[0] != both[1])
        message = f"it says {shown(one)}, its messages give {shown(two)}"
        return Difference(self._path, message, self._row + at, name)

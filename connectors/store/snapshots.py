"""Parquet files of a data root: published whole, with the same bytes for the same rows, and looked up by their footer.

The Arrow schema and its metadata come from `contracts`; how rows are made is the vendor connectors' matter.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.store.atomic import atomic_path
from connectors.store.errors import InvalidRows, from_os_error
from contracts.errors import InvalidDocument, UnknownSchemaVersion
from contracts.v1.level2 import SNAPSHOT_SCHEMA, SnapshotMetadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_log = logging.getLogger(__name__)

ROW_GROUP_ROWS: Final = 32_768
"""Rows of every row group but the last: 25 MB of ten-level rows in memory, 77 groups in a day of 5 million events."""

# On generated books as fast as level 1 and a quarter (events) to a half (sampled rows) smaller.
_ZSTD_LEVEL: Final = 3
_WRITER_OPTIONS: Final = {
    "version": "2.6",
    "compression": "zstd",
    "compression_level": _ZSTD_LEVEL,
    "use_dictionary": False,
    "store_schema": True,
}


@dataclass(frozen=True)
class Published:
    """A file that is in place.

    Attributes:
        path: Where.
        rows: How many rows it has, at least one.
        size_bytes: Its size.
    """

    path: Path
    rows: int
    size_bytes: int


@dataclass(frozen=True)
class ExistingSnapshots:
    """A readable snapshots file that was found.

    Attributes:
        path: Where.
        rows: How many rows its footer says, at least one.
        metadata: What its footer says about it, None when it says nothing (old and foreign writers).
    """

    path: Path
    rows: int
    metadata: SnapshotMetadata | None


class _ProducerError(Exception):
    """Carries a producer's OSError past the code that would take it for one of the target's disk."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _UnusableError(Exception):
    """A parquet file that is no snapshots file; the text says why."""


def publish(target: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Published | None:
    """Write record batches to a parquet file that appears whole or not at all.

    The bytes depend on the rows, the schema with its metadata and the pyarrow version, not on how the rows are cut
    into batches: they are cut anew into row groups of `ROW_GROUP_ROWS`. Memory holds two row groups at most, besides
    what the producer holds.

    Args:
        target: The file to write or replace.
        schema: Columns and footer metadata.
        batches: Rows; consumed once, in order. The batches' own metadata is ignored.

    Returns:
        What was written, or None when there was no row: then no file is made, and an old one stays.

    Raises:
        InvalidRows: A batch has other columns than `schema`, or a null.
        StoreError: The disk refuses; the target is as it was. Errors of the producer pass unchanged.
    """
    with prepared(target, schema, batches) as published:
        return published


@contextmanager
def prepared(target: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[Published | None]:
    """As `publish`, but the file appears only when the block ends well, so that files can appear together.

    Yields:
        What will be there, or None when there was no row.
    """
    groups = _row_groups(target, schema, _carried(batches))
    try:
        with ExitStack() as publishing:
            first = next(groups, None)
            if first is None:
                yield None
                return
            rows = 0
            temp = publishing.enter_context(atomic_path(target))
            # One row group is encoded in the other thread, which needs no interpreter, while the next one is made.
            with pq.ParquetWriter(temp, schema, **_WRITER_OPTIONS) as writer, ThreadPoolExecutor(1, "parquet") as pool:
                writing: Future[None] | None = None
                for group in chain([first], groups):
                    if writing is not None:
                        writing.result()
                    writing = pool.submit(writer.write_table, group, row_group_size=ROW_GROUP_ROWS)
                    rows += group.num_rows
                if writing is not None:
                    writing.result()
            yield Published(target, rows, temp.stat().st_size)
    except _ProducerError as carrier:
        raise carrier.error from carrier.error.__cause__


def holds_rows(path: Path, schema: pa.Schema) -> bool:
    """Whether a parquet file of these columns and types with at least one row lies at a path, by its footer.

    Raises:
        StoreError: There is something that cannot be opened.
    """
    try:
        with path.open("rb") as raw, pq.ParquetFile(raw) as file:
            return bool(file.metadata.num_rows) and bool(file.schema_arrow.equals(schema, check_metadata=False))
    except FileNotFoundError:
        return False
    except pa.ArrowException:
        return False
    except OSError as error:
        if error.errno is not None:
            raise from_os_error(error, "read", path) from error
        return False


def existing(path: Path) -> ExistingSnapshots | None:
    """Look up a snapshots file by its footer, in about a millisecond.

    Returns:
        The file, or None when there is none that can be read as one: absent, empty, torn, without rows, with other
        columns or types than `SNAPSHOT_SCHEMA`, or with footer metadata of an unknown version or of ours but broken:
        what readers refuse is not there.

    Raises:
        StoreError: There is something that cannot be opened (a folder, no permission, a disk error): it must not be
            taken for absent, and bought and written again.
    """
    try:
        return _read_footer(path)
    except FileNotFoundError:
        return None
    except _UnusableError as error:
        reason = str(error)
    except (pa.ArrowException, InvalidDocument, UnknownSchemaVersion) as error:
        reason = str(error)
    except OSError as error:
        # pyarrow reports some broken footers as OSError; those have no errno.
        if error.errno is not None:
            raise from_os_error(error, "read", path) from error
        reason = str(error)
    _log.warning("%s counts as absent: %s", path, reason)
    return None


def _read_footer(path: Path) -> ExistingSnapshots:
    # pyarrow opening the path itself would report a folder there like a broken file.
    with path.open("rb") as raw, pq.ParquetFile(raw) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    if rows == 0:
        raise _UnusableError("it has no rows")
    if not schema.equals(SNAPSHOT_SCHEMA, check_metadata=False):
        raise _UnusableError("its columns are not those of a snapshots file")
    return ExistingSnapshots(path, rows, SnapshotMetadata.from_footer(schema.metadata))


def _row_groups(target: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Cut batches into tables of ROW_GROUP_ROWS rows, each column in one piece."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        _check(target, schema, batch)
        start = 0
        while start < batch.num_rows:
            piece = batch.slice(start, min(batch.num_rows - start, ROW_GROUP_ROWS - count))
            waiting.append(piece)
            start += piece.num_rows
            count += piece.num_rows
            if count == ROW_GROUP_ROWS:
                group = _in_one_piece(waiting, schema)
                waiting, count = [], 0
                yield group
    if count:
        yield _in_one_piece(waiting, schema)


def _in_one_piece(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    # parquet ends pages where pieces end, so the pieces' number would show in the bytes.
    return pa.Table.from_batches([batch.cast(schema) for batch in batches], schema).combine_chunks()


def _check(target: Path, schema: pa.Schema, batch: pa.RecordBatch) -> None:
    if not batch.schema.equals(schema, check_metadata=False):
        raise InvalidRows(
            f"nothing was written to {target}: a batch has the columns\n{batch.schema.remove_metadata()}\n"
            f"but the file has\n{schema.remove_metadata()}\nMake the batches with the file's schema.",
            path=target,
        )
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.null_count or (pa.types.is_list(column.type) and column.flatten().null_count):
            raise InvalidRows(
                f"nothing was written to {target}: column {name} has nulls. A missing level is price 0.0 and size 0.",
                path=target,
            )


def _carried(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except OSError as error:
        raise _ProducerError(error) from error

"""Parquet files opened to be read, snapshots and bars alike: what is no such file, or changes meanwhile, is refused.

Which columns a file must have and what its rows mean is in `files`, `rows` and `bars`.
"""

from __future__ import annotations

import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from contracts._validate.rows import first_line
from contracts.errors import InvalidBarsFile, InvalidSnapshotFile

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

Refusal = type[InvalidSnapshotFile] | type[InvalidBarsFile]
"""The error that names a file of its kind."""

_CHANGED: Final = "it changed since it was looked at: ask again"


@dataclass(frozen=True)
class FileIdentity:
    """What tells one state of a file from another, without reading it."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """Take it from a status."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def identity_of(path: Path, refusal: Refusal) -> FileIdentity:
    """Return the identity of a regular file.

    Raises:
        InvalidSnapshotFile: Or what `refusal` is: there is none, or something else than a regular file.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise refusal(path, f"it cannot be looked at ({_words(error)})") from error
    if not stat.S_ISREG(status.st_mode):
        raise refusal(path, "not a regular file")
    if status.st_size == 0:
        raise refusal(path, "the file has no bytes, its writer was interrupted")
    return FileIdentity.of(status)


@contextmanager
def opened(
    path: Path, identity: FileIdentity, refusal: Refusal, *, footer: pq.FileMetaData | None = None
) -> Iterator[pq.ParquetFile]:
    """Open a parquet file for the block; every failure to read it there is a refusal of the file.

    Args:
        path: The file.
        identity: What it was when it was looked at; a file is never read half before and half after a change.
        refusal: What to raise.
        footer: The footer, if it was read already.

    Raises:
        InvalidSnapshotFile: Or what `refusal` is.
    """
    # Looked at before it is opened: opening a pipe would wait for a writer.
    _check_unchanged(path, identity, refusal)
    try:
        # Not mapped into memory: a mapped file that is cut meanwhile kills the process.
        with path.open("rb") as raw, pq.ParquetFile(raw, metadata=footer, pre_buffer=False) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        _check_unchanged(path, identity, refusal)
        raise refusal(path, f"not a readable parquet file ({_words(error)})") from error
    _check_unchanged(path, identity, refusal)


def _check_unchanged(path: Path, identity: FileIdentity, refusal: Refusal) -> None:
    if identity_of(path, refusal) != identity:
        raise refusal(path, _CHANGED)


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)

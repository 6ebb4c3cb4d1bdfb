"""Answers of a gateway, kept until the day they belong to is published: an interrupted day repeats none of them.

A cache: anything wrong with it costs a request, never a day.
"""

from __future__ import annotations

import hashlib
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.store.atomic import atomic_path
from connectors.store.errors import StoreError
from connectors.store.temps import sweep_stale_temps
from contracts.v1.bars import BAR_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_log = logging.getLogger(__name__)

KEEP_S: Final = 7 * 86_400.0
"""An answer that nobody took for a week belongs to a day that was given up."""

_SUFFIX: Final = ".answer"
_DIGEST_BYTES: Final = hashlib.sha256().digest_size


class AnswerShelf:
    """Keeps answers by the key of their request; shared by any number of processes.

    Args:
        folder: Where, made when the first answer is put there; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._has_warned = False

    def get(self, key: str) -> pa.Table | None:
        """Return the answer of a request.

        Returns:
            The table as it was put, with the metadata of its schema; None when there is none, also when the file is
            damaged, foreign, or cannot be read.
        """
        if self._folder is None:
            return None
        path = self._path(self._folder, key)
        try:
            kept = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("the kept answer %s counts as none: %s", path, error)
            return None
        digest, data = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
        # Looked at first: on some damages pyarrow ends the process.
        if digest != _digest(key, data):
            _log.warning("the kept answer %s counts as none: it is damaged, or the answer of another request", path)
            return None
        return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).combine_chunks()

    def put(self, key: str, table: pa.Table) -> None:
        """Keep an answer; a disk that refuses is logged once, and the answer is not kept.

        Args:
            key: Everything that makes two requests identical.
            table: `BAR_SCHEMA`; may have no rows. The metadata of its schema is kept with it.
        """
        if self._folder is None:
            return
        sink = pa.BufferOutputStream()
        schema = BAR_SCHEMA.with_metadata(table.schema.metadata)
        pq.write_table(table.cast(schema), sink, compression="zstd", use_dictionary=False)
        data = bytes(sink.getvalue())
        try:
            with atomic_path(self._path(self._folder, key)) as temp:
                temp.write_bytes(_digest(key, data) + data)
        except StoreError as error:
            if not self._has_warned:
                _log.warning("answers are not kept, an interrupted day will ask for them again: %s", error)
            self._has_warned = True

    def drop(self, keys: Iterable[str]) -> None:
        """Remove the answers of some requests; those that are not there, or cannot be removed, are passed over."""
        if self._folder is None:
            return
        for key in keys:
            with suppress(OSError):
                self._path(self._folder, key).unlink(missing_ok=True)

    def sweep(self) -> list[Path]:
        """Remove answers older than a week and temporary files of dead processes; returns what was removed, sorted."""
        if self._folder is None:
            return []
        removed = sweep_stale_temps(self._folder)
        oldest_s = time.time() - KEEP_S
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):
                if not path.name.startswith(".") and path.lstat().st_mtime < oldest_s:
                    path.unlink()
                    removed.append(path)
        return sorted(removed)

    @staticmethod
    def _path(folder: Path, key: str) -> Path:
        return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}{_SUFFIX}"


def _digest(key: str, data: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + data).digest()

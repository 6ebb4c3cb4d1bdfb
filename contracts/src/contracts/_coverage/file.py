"""The bytes of `bars_coverage_manifest.json` and their way to the disk; what they say is decided elsewhere.

One day stands on one line, an entry's head on another: a reader can find its way without parsing all, and a refresh can
take over what did not change as it is.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from contracts._coverage.ledger_line import DAY_SEPARATOR
from contracts.v1.bars import COVERAGE_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from contracts._coverage.ledger_columns import Key

ENTRY_SEPARATOR: Final = b",\n"
ENTRY_END: Final = b"\n]}"
FILE_END: Final = b"\n]}\n"
LONGEST_HEAD: Final = 200

_MODE: Final = 0o644
_SYNC_BYTES: Final = 16 << 20
_COPY_BYTES: Final = 1 << 20
_NO_SUCH_CALL: Final = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)

HEAD: Final = re.compile(
    rb'\{"schema_version":"' + re.escape(COVERAGE_VERSION.encode()) + rb'","generated_at":"([^"\\]+)","entries":\[\n'
)
"""How a file of this layout begins; the group is `generated_at`."""


def file_head(generated_at: datetime) -> bytes:
    """Return the begin of the file, up to the first entry."""
    stamp = generated_at.isoformat()
    return f'{{"schema_version":"{COVERAGE_VERSION}","generated_at":"{stamp}","entries":[\n'.encode()


def entry_head(key: Key, first: str, last: str) -> bytes:
    """Return the begin of an entry, up to its first day; as long for all days.

    Args:
        key: Symbol and bar size.
        first: First day, `YYYY-MM-DD`.
        last: Last day.
    """
    document = {"symbol": key[0], "bar_size": key[1], "total": {"date_start": first, "date_end": last}}
    return json.dumps(document, separators=(",", ":"))[:-1].encode() + b',"days":[\n'


ENTRY_HEAD_WIDTH: Final = len(entry_head(("", "1 min"), "2025-09-15", "2025-09-15")) - len("1 min")


def entry_size(key: Key, days_size: int) -> int:
    """Return the bytes of an entry whose days, separators included, take `days_size`; without its separator."""
    head = ENTRY_HEAD_WIDTH + len(key[0]) + len(key[1])
    return head + days_size - len(DAY_SEPARATOR) + len(ENTRY_END)


class Sink:
    """A file being written; what it has taken goes to the disk while more is coming.

    Args:
        fd: Open for writing, empty.
        size: Bytes that will be written.
        durable: Whether it must survive a power cut.

    Attributes:
        taken: Bytes written so far.
    """

    def __init__(self, fd: int, size: int, *, durable: bool) -> None:
        self._fd = fd
        self._durable = durable
        self.taken = 0
        self._synced = 0
        self._syncing: threading.Thread | None = None
        if durable and size > _SYNC_BYTES and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(fd, 0, size)
            except OSError as error:
                if error.errno not in _NO_SUCH_CALL:
                    raise

    def write(self, data: bytes | memoryview) -> None:
        """Take bytes."""
        view = memoryview(data)
        while view:
            written = os.write(self._fd, view)
            view = view[written:]
            self.taken += written
        self._sync_ahead()

    def copy(self, source: int, start: int, size: int) -> None:
        """Take bytes of another open file.

        Raises:
            OSError: Also when the file is shorter.
        """
        end = start + size
        while start < end:
            copied = self._copy_some(source, start, min(end - start, _SYNC_BYTES))
            start += copied
            self.taken += copied
            self._sync_ahead()

    def close(self) -> None:
        """Bring all to the disk; the file descriptor stays open."""
        if self._syncing is not None:
            self._syncing.join()
        if self._durable:
            os.ftruncate(self._fd, self.taken)
            os.fsync(self._fd)

    def _copy_some(self, source: int, start: int, size: int) -> int:
        copied = 0
        if hasattr(os, "copy_file_range"):
            try:
                copied = os.copy_file_range(source, self._fd, size, offset_src=start)
            except OSError as error:
                if error.errno not in _NO_SUCH_CALL:
                    raise
        if not copied:
            copied = os.write(self._fd, os.pread(source, min(size, _COPY_BYTES), start))
        if not copied:
            raise OSError(errno.EIO, "the coverage file became shorter while it was read")
        return copied

    def _sync_ahead(self) -> None:
        is_busy = self._syncing is not None and self._syncing.is_alive()
        if not self._durable or is_busy or self.taken - self._synced < _SYNC_BYTES:
            return
        self._synced = self.taken
        # Only a head start: what it misses, and its errors, are those of the last fsync.
        self._syncing = threading.Thread(target=_sync_quietly, args=(self._fd,), name="coverage-sync")
        self._syncing.start()


@contextmanager
def atomic_file(target: Path, size: int, *, durable: bool = True) -> Iterator[Sink]:
    """Replace a file: the old one or the whole new one is there.

    Args:
        target: The file; its folder exists.
        size: Bytes that will be written.
        durable: Also after a power cut; else what reads it must notice that it is not whole.

    Yields:
        What takes the new content. The temp lies beside the target; when the block raises, it is removed.

    Raises:
        OSError: The disk refuses; the target is as it was.
    """
    temp = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    fd = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        try:
            sink = Sink(fd, size, durable=durable)
            try:
                yield sink
            finally:
                sink.close()
        finally:
            os.close(fd)
        temp.replace(target)
    except BaseException:
        with suppress(OSError):
            temp.unlink()
        raise
    if durable:
        _sync_folder(target.parent)


def remove_temps(target: Path) -> None:
    """Remove what killed writers of a file left; call it as the only writer."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.tmp")
    for path in target.parent.iterdir():
        if pattern.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()


def is_same(path: Path, parts: Iterable[bytes | memoryview]) -> bool:
    """Whether a file holds exactly these bytes."""
    with path.open("rb") as file:
        return all(file.read(len(part)) == part for part in parts) and not file.read(1)


def _sync_quietly(fd: int) -> None:
    with suppress(OSError):
        os.fdatasync(fd) if hasattr(os, "fdatasync") else os.fsync(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems cannot flush a folder; they order renames themselves.
        if error.errno not in _NO_SUCH_CALL:
            raise
    finally:
        os.close(fd)

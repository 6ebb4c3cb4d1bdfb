"""Writing files so that a reader, and a kill -9 at any moment, sees the old file or the new one, never a torn one.

Whole files are written to a temp beside the target and renamed; manifests are appended to, one whole line at a time,
under a lock. What the files hold is not known here.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from connectors.store.errors import InvalidLine, from_os_error, is_storage_error, store_errors
from connectors.store.locks import locked_file
from connectors.store.temps import new_temp_path, sweep_stale_temps

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["append_line", "atomic_path", "make_folder", "publish_temp", "sweep_stale_temps", "write_json_atomic"]

_log = logging.getLogger(__name__)

_APPEND_TIMEOUT_S: Final = 60.0  # an append takes milliseconds: whoever holds the file this long is stopped
_TAIL_BLOCK_BYTES: Final = 1 << 16
_UMASK_LINE: Final = b"Umask:"


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Write a file that appears whole or not at all.

    The block writes to the yielded path, which does not exist yet and lies beside the target. When the block ends, the
    file is flushed to the disk, made readable as the umask allows (0666 less the umask) and renamed over the target.
    When it raises, the temp is removed and the target is as it was. Missing folders are made.

    Args:
        target: The file to write or replace.

    Yields:
        A unique path in the target's folder.

    Raises:
        StoreError: The disk refuses, here or in the block. Other errors of the block pass unchanged.
    """
    make_folder(target.parent)
    temp = new_temp_path(target)
    try:
        try:
            yield temp
        except OSError as error:
            if is_storage_error(error):
                raise from_os_error(error, "write", target) from error
            raise
        publish_temp(temp, target)
    except BaseException:
        with suppress(OSError):
            temp.unlink()
        raise


def publish_temp(temp: Path, target: Path) -> None:
    """Flush a finished temp to the disk and rename it over its target; the temp stays when that fails.

    Args:
        temp: A closed file in the target's folder.
        target: Its final name.

    Raises:
        StoreError: The disk refuses.
    """
    with store_errors("write", target):
        _make_readable(temp)
        _fsync(temp)
        temp.replace(target)
        fsync_folder(target.parent)


def write_json_atomic(target: Path, document: Any) -> None:
    """Replace a JSON file atomically: UTF-8, indented, keys in the order given, a line end at the end.

    Raises:
        StoreError: The disk refuses.
        ValueError: The document has NaN or infinities, which JSON lacks.
        TypeError: The document has values that JSON lacks.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(target) as temp:
        temp.write_bytes(text.encode() + b"\n")


def append_line(path: Path, line: str) -> None:
    """Append one line to a JSON Lines file; a reader never sees lines glued together.

    Under an exclusive lock on the file itself, which needs no second file and does not disturb readers: first a torn
    tail of an earlier crash is repaired (a whole JSON object without its line end gets one; anything else is moved to
    `<name>.torn` beside the file and logged), then the line is written by one write and flushed to the disk. If the
    disk refuses, the file is cut back to where it was. The file and its folders are made if missing.

    Args:
        path: The file.
        line: The text, with or without its line end.

    Raises:
        InvalidLine: It is empty or has a line end inside.
        StoreBusy: Another process held the file for a minute.
        StoreError: The disk refuses; the file has its earlier lines.
    """
    text = line.removesuffix("\n")
    if not text.strip() or "\n" in text or "\r" in text:
        raise InvalidLine(f"not one line, nothing was appended to {path}: {text[:80]!r}", path=path)
    try:
        payload = text.encode() + b"\n"
    except UnicodeEncodeError as error:
        raise InvalidLine(f"cannot be written as UTF-8, nothing was appended to {path}: {error}", path=path) from error
    make_folder(path.parent)
    with store_errors("append to", path):
        is_new = not path.exists()
        with locked_file(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, timeout_s=_APPEND_TIMEOUT_S) as fd:
            glue = _repair_tail(path, fd)
            _append(fd, glue + payload)
        if is_new:
            fsync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably; one that exists is fine.

    Raises:
        StoreError: The disk refuses, or something that is not a folder is in the way.
    """
    with store_errors("make the folder", folder):
        missing = []
        for place in (folder, *folder.parents):
            if place.is_dir():
                break
            missing.append(place)
        for place in reversed(missing):
            place.mkdir(exist_ok=True)
            fsync_folder(place.parent)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's names to the disk, so that a rename survives a power cut.

    Raises:
        OSError: The disk refuses.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems cannot flush a folder; they order renames themselves.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF):
            raise
    finally:
        os.close(fd)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _make_readable(path: Path) -> None:
    mode = 0o666 & ~_umask()
    if path.stat().st_mode & 0o777 != mode:
        # File systems without modes refuse; there everyone may read anyway.
        with suppress(PermissionError):
            path.chmod(mode)


def _umask() -> int:
    # Asking through os.umask means setting it, and another thread's new file would get the wrong mode meanwhile.
    with suppress(OSError):
        for field in Path("/proc/self/status").read_bytes().splitlines():
            if field.startswith(_UMASK_LINE):
                return int(field.removeprefix(_UMASK_LINE), 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _append(fd: int, payload: bytes) -> None:
    size = os.fstat(fd).st_size
    try:
        written = os.write(fd, payload)
        if written < len(payload):
            # The second try learns why the first was short: a full disk reports itself only now.
            written += os.write(fd, payload[written:])
        if written < len(payload):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301 - handled as the system's own
        os.fsync(fd)
    except OSError:
        with suppress(OSError):
            os.ftruncate(fd, size)
            os.fsync(fd)
        raise


def _repair_tail(path: Path, fd: int) -> bytes:
    """Cut a torn tail away; returns what must precede the next line (a line end for a whole object without one)."""
    tail = _unfinished_tail(fd)
    if not tail:
        return b""
    if _is_json_object(tail):
        _log.warning("the last line of %s lacked its line end; it is whole and stays", path)
        return b"\n"
    torn = path.with_name(f"{path.name}.torn")
    # Kept before it is cut: a crash in between keeps it twice, never not at all.
    with torn.open("ab") as sidecar:
        sidecar.write(tail + b"\n")
        sidecar.flush()
        os.fsync(sidecar.fileno())
    fsync_folder(path.parent)
    os.ftruncate(fd, os.fstat(fd).st_size - len(tail))
    _log.warning("moved a torn last line (%d bytes) of %s to %s", len(tail), path, torn)
    return b""


def _unfinished_tail(fd: int) -> bytes:
    """Return the bytes after the last line end."""
    start = os.fstat(fd).st_size
    blocks: list[bytes] = []
    while start > 0:
        begin = max(0, start - _TAIL_BLOCK_BYTES)
        block = os.pread(fd, start - begin, begin)
        at = block.rfind(b"\n")
        blocks.append(block[at + 1 :])
        if at >= 0:
            break
        start = begin
    return b"".join(reversed(blocks))


def _is_json_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data.decode()), dict)
    except ValueError:
        return False

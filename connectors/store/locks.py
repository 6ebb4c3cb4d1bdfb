"""Kernel locks on files (`flock`): one on a file that is written anyway, and a lock file that says who holds it.

The kernel frees such a lock when its process dies, however it dies. `filelock` is not used: releases inside our
range truncate the lock file while waiting, which would erase the holder's name, and on a disk without `flock` it falls
back to marker files that kill -9 leaves behind. Here such a disk is an error. POSIX only.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from connectors.store.errors import StoreBusy, store_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_POLL_S: Final = 0.01


@dataclass(frozen=True)
class Holder:
    """Who holds a lock file.

    Attributes:
        pid: Process id on `host`.
        host: Host name.
        run_id: The run, if it said so.
        since: When it got the lock, UTC, ISO 8601.
    """

    pid: int
    host: str
    run_id: str | None
    since: str

    def __str__(self) -> str:
        run = f" run {self.run_id}" if self.run_id else ""
        return f"process {self.pid} on {self.host},{run} since {self.since}"


def try_lock_path(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int | None:
    """Open a file and take its exclusive lock if that is free.

    Args:
        path: The file.
        flags: As for `os.open`; must allow writing, since network file systems lock only files open for writing.

    Returns:
        The descriptor that holds the lock until it is closed, or None when somebody else has the lock.

    Raises:
        OSError: It cannot be opened, or the file system has no such locks.
    """
    while True:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever moved the file away meanwhile left us with a lock on nothing.
            if _is_still(path, fd):
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def unlock(fd: int) -> None:
    """Free a lock and close its descriptor."""
    try:
        # Closing alone would leave it to children that inherited the descriptor by a fork.
        fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


@contextmanager
def locked_file(path: Path, flags: int, *, timeout_s: float) -> Iterator[int]:
    """Open a file and hold its exclusive lock; whoever only reads it is not disturbed.

    Args:
        path: The file; created when `flags` say so.
        flags: As for `os.open`; must allow writing.
        timeout_s: Seconds to wait.

    Yields:
        The file descriptor.

    Raises:
        StoreBusy: Somebody held it for `timeout_s`.
        OSError: It cannot be opened or locked.
    """
    began = time.monotonic()
    while (fd := try_lock_path(path, flags)) is None:
        waited_s = time.monotonic() - began
        if waited_s >= timeout_s:
            raise StoreBusy(path, "another process", waited_s)
        time.sleep(_POLL_S)
    try:
        yield fd
    finally:
        unlock(fd)


@contextmanager
def lock_file(
    path: Path,
    *,
    run_id: str | None = None,
    timeout_s: float | None = None,
    on_wait: Callable[[Holder | None], None] | None = None,
    while_waiting: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold a lock file, with the holder's name inside; the file itself stays for ever.

    Two threads of one process exclude each other too. Taking it twice in one thread waits for ever.

    Args:
        path: The lock file; its folder must exist.
        run_id: Written into it.
        timeout_s: Seconds to wait; None waits as long as it takes, 0 tries once.
        on_wait: Called once per holder that is waited for; None when the holder has not written its name yet.
        while_waiting: Called before every pause of the wait; may raise to give up.

    Raises:
        StoreBusy: Somebody held it until the time was over.
        StoreError: The lock file cannot be opened, locked or written.
    """
    fd = _wait_for(path, timeout_s, on_wait, while_waiting)
    try:
        with store_errors("lock", path):
            _write_holder(fd, run_id)
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(fd, 0)
    finally:
        unlock(fd)


def read_holder(path: Path) -> Holder | None:
    """Return who wrote its name into a lock file, None when nobody did.

    A name can outlive its process: only a lock that cannot be taken is held.
    """
    try:
        document = json.loads(path.read_bytes())
        return Holder(
            pid=int(document["pid"]),
            host=str(document["host"]),
            run_id=document["run_id"],
            since=str(document["since"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _wait_for(
    path: Path,
    timeout_s: float | None,
    on_wait: Callable[[Holder | None], None] | None,
    while_waiting: Callable[[], None],
) -> int:
    began = time.monotonic()
    told: list[Holder | None] = []
    while True:
        with store_errors("lock", path):
            fd = try_lock_path(path)
        if fd is not None:
            return fd
        holder = read_holder(path)
        waited_s = time.monotonic() - began
        if timeout_s is not None and waited_s >= timeout_s:
            raise StoreBusy(path, str(holder or "another process"), waited_s)
        # A holder writes its name a moment after it has the lock: only after a while is "unknown" worth telling.
        if on_wait is not None and holder not in told and (holder is not None or waited_s > 1.0):
            told.append(holder)
            on_wait(holder)
        while_waiting()
        time.sleep(_POLL_S if waited_s < 1.0 else 20 * _POLL_S)


def _write_holder(fd: int, run_id: str | None) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    document = {"pid": os.getpid(), "host": socket.gethostname(), "run_id": run_id, "since": since}
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(document).encode(), 0)


def _is_still(path: Path, fd: int) -> bool:
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(fd)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)

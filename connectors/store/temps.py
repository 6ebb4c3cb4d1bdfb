"""Names of temporary files, and the sweep that removes those of dead processes.

A temp lies beside its target, so that a rename never crosses file systems, and its name says who writes it:
`.{target}.{host}-{pid}-{start}.{token}.tmp`. `host` is a hash over machine and pid namespace, `start` the process's
start in centiseconds since boot, which tells a process from a later one with the same pid. Writing and renaming is in
`atomic`.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import stat
import time
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)

FOREIGN_TEMP_AGE_S: Final = 24 * 3600.0
"""A temp of another host, whose processes cannot be looked at, is dead after a day without a write."""

_TEMP_NAME: Final = re.compile(
    r"\..+\.(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]{1,10})-(?P<start>[0-9]{1,15})\.[0-9a-f]{8}\.tmp", re.DOTALL
)
_START_TOLERANCE_CS: Final = 200  # the kernel's boot time wavers by a second


def new_temp_path(target: Path) -> Path:
    """Return a new name beside `target`; nothing is created."""
    pid = os.getpid()
    return target.with_name(f".{target.name}.{_host_token()}-{pid}-{_own_start_cs(pid)}.{secrets.token_hex(4)}.tmp")


def sweep_stale_temps(root: Path) -> list[Path]:
    """Remove the temps below a folder whose writer is dead, and nothing else.

    Only regular files whose name has our pattern; on this host when the process is gone (or its pid belongs to a
    later one), from another host or container when it was not written to for 24 hours. Links are not followed. What
    cannot be removed is logged and stays.

    Args:
        root: Any folder; one that does not exist has no temps.

    Returns:
        What was removed, sorted.
    """
    removed = []
    for path in _temps_below(root):
        try:
            if _is_stale(path):
                path.unlink()
                removed.append(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            _log.warning("stale temp %s stays: %s", path, error.strerror)
    if removed:
        _log.info("removed %d temp files of dead processes below %s", len(removed), root)
    return sorted(removed)


def _temps_below(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            if _TEMP_NAME.fullmatch(name):
                yield Path(folder, name)


def _is_stale(path: Path) -> bool:
    parts = _TEMP_NAME.fullmatch(path.name)
    status = path.lstat()
    if parts is None or not stat.S_ISREG(status.st_mode):
        return False
    if parts["host"] != _host_token():
        return time.time() - status.st_mtime > FOREIGN_TEMP_AGE_S
    start_cs = _start_cs(int(parts["pid"]))
    return start_cs is None or abs(start_cs - int(parts["start"])) > _START_TOLERANCE_CS


def _start_cs(pid: int) -> int | None:
    """Return when a process started, in centiseconds since boot; None when it is dead."""
    try:
        # Both come from the same clock, so that the difference survives a step of the wall clock.
        booted_s = psutil.boot_time()
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return max(0, round((process.create_time() - booted_s) * 100))
    except (psutil.NoSuchProcess, OverflowError):
        return None


@cache
def _own_start_cs(pid: int) -> int:
    # Keyed by pid: a forked child is another process.
    return _start_cs(pid) or 0


@cache
def _host_token() -> str:
    parts = [socket.gethostname()]
    for path in ("/etc/machine-id", "/proc/self/ns/pid"):
        try:
            # Containers may share a host name and a folder, but not the table of processes.
            parts.append(os.readlink(path) if path.startswith("/proc") else Path(path).read_text().strip())  # noqa: PTH115 - the link's text, not a path
        except OSError:
            continue
    return blake2b("\0".join(parts).encode(), digest_size=4).hexdigest()

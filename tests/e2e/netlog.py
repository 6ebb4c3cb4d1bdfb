"""Every connection that the Python processes of a test try to make: an audit hook in each, read from one folder."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

# Python runs it at the start of every process that has its folder on PYTHONPATH; it must never raise.
_HOOK = """
import os, sys

def _log(event, args, _folder=os.environ.get("E2E_NETLOG"), _of_interest=frozenset(
    ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")
)):
    if _folder is None or event not in _of_interest:
        return
    address = args[1] if event in ("socket.connect", "socket.sendto") else args[:2]
    if isinstance(address, tuple) and len(address) >= 2:
        line = f"{event}\\t{address[0]}\\t{address[1]}\\n".encode()
        log = os.open(f"{_folder}/{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(log, line)
        os.close(log)

sys.addaudithook(_log)
"""


class Attempt(NamedTuple):
    """One try to reach somebody."""

    pid: int
    event: str
    host: str
    port: str


class NetLog:
    """The hook and what it wrote.

    Attributes:
        env: for the processes that are watched.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "attempts"
        self._folder.mkdir(parents=True)
        hook = folder / "hook"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(_HOOK)
        self.env = {"PYTHONPATH": str(hook), "E2E_NETLOG": str(self._folder)}

    def attempts(self) -> list[Attempt]:
        """All so far."""
        return [
            Attempt(int(path.name), *line.split("\t"))
            for path in self._folder.iterdir()
            for line in path.read_text().splitlines()
        ]


def is_on_this_machine(host: str) -> bool:
    """Whether a name or address is this machine without asking anybody."""
    if host in {"", "None", "localhost", socket.gethostname()}:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified

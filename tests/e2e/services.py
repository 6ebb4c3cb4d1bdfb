"""PostgreSQL and Redis on loopback for one test run, in a folder that goes away with them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from support.prefect_server import until

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDED = ("initdb", "postgres", "redis-server")
_USER = "postgres"


def missing() -> list[str]:
    """Programs that are not here."""
    return [name for name in NEEDED if shutil.which(name) is None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres() -> Iterator[str]:
    """A database server with an empty database; yields its URL."""
    # Not below pytest's folder, into which only its owner may look: the server refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="e2e-postgres-"))
    is_root = os.geteuid() == 0
    if is_root:
        shutil.chown(folder, _USER)
    as_user = ["runuser", "-u", _USER, "--"] if is_root else []
    port, data = free_port(), folder / "data"
    try:
        subprocess.run(
            [*as_user, "initdb", "--pgdata", data, "--username", "prefect", "--auth", "trust", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 200,
        }
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with ended_at_last([*as_user, "postgres", "-D", data, "-p", port, *given], folder, port):
            # Every cluster has a database of this name.
            yield f"postgresql://prefect@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def redis() -> Iterator[int]:
    """A Redis that keeps nothing; yields its port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="e2e-redis-") as folder:
        command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with ended_at_last(command, Path(folder), port):
            yield port


@contextmanager
def ended_at_last(command: list[object], folder: Path, port: int) -> Iterator[None]:
    """A process that listens on a port, until it is ended."""
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen(
            [str(part) for part in command], cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        try:

            def listens() -> bool:
                assert process.poll() is None, (folder / "log").read_text()
                with socket.socket() as probe:
                    return probe.connect_ex(("127.0.0.1", port)) == 0

            until(listens, 60)
            yield
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

"""A sandbox vendor as a process: how it announces itself, how its parent waits for that, and when it ends.

Nothing here knows which vendor it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_PARENT_POLL_S: Final = 0.5
_STOP_S: Final = 15.0


class SandboxDidNotStartError(RuntimeError):
    """The sandbox process ended or stayed silent; the message carries what it wrote on stderr."""


def announce(values: dict[str, Any], target: str) -> None:
    """Write the one JSON line that says the process is ready.

    Args:
        values: what a client needs to know.
        target: a file (written whole, under its name at once), `-` for stdout.
    """
    line = json.dumps(values)
    if target == "-":
        print(line, flush=True)  # noqa: T201 - the command's answer
        return
    path = Path(target)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_text(line + "\n", encoding="utf-8")
    partial.replace(path)


def serve_until_told(announced: Callable[[], None], *, parent_pid: int | None, until_stdin_ends: bool) -> None:
    """Return after SIGINT, SIGTERM, the end of the parent, or of stdin; for a main thread.

    Args:
        announced: called once signals are handled; it says that the process is ready.
        parent_pid: end when this process is gone.
        until_stdin_ends: end when stdin is closed at the other side.
    """
    ended = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        announced()
        if until_stdin_ends:
            threading.Thread(target=_set_at_eof, args=(ended,), daemon=True).start()
        _wait(ended, parent_pid)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def read_announcement(child: subprocess.Popen[bytes], stderr: IO[bytes], within_s: float) -> dict[str, Any]:
    """The JSON line of a child whose stdout is a pipe.

    Raises:
        SandboxDidNotStartError: it did not come in time.
    """
    if child.stdout is None:
        raise RuntimeError("the child has no pipe on stdout")
    line = b""
    deadline = time.monotonic() + within_s
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            more = os.read(child.stdout.fileno(), 4096) if ready else b""
            if not more:
                stderr.seek(0)
                said = stderr.read().decode(errors="replace").strip() or "nothing on stderr"
                raise SandboxDidNotStartError(f"the sandbox vendor did not start within {within_s:g} s: {said}")
            line += more
    values: dict[str, Any] = json.loads(line)
    return values


def end_child(child: subprocess.Popen[bytes]) -> None:
    """End a child and wait for it; harmless when it is gone."""
    child.terminate()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _set_at_eof(ended: threading.Event) -> None:
    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 1024):
            pass
    ended.set()


def _wait(ended: threading.Event, parent_pid: int | None) -> None:
    parent: psutil.Process | None = None
    if parent_pid is not None:
        try:
            parent = psutil.Process(parent_pid)
        except psutil.NoSuchProcess:
            return
    while not ended.wait(_PARENT_POLL_S):
        if parent is not None and not parent.is_running():  # also tells a reused pid from the parent
            return

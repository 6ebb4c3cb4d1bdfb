"""Runs a program of `_capture_client` under the sandbox gateway's load and measures it from outside.

The gateway has one core, the program and what it starts the other; on a machine with one core, or without affinities,
they share what there is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from _capture_client import memory_mb

from connectors.sandbox.ib_gateway_process import IbGatewayProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connectors.sandbox.ib_gateway import GatewayBook, SentBatch

CLIENT = Path(__file__).with_name("_capture_client.py")
SYMBOLS = ("AAPL", "MSFT")
LEVELS = 10
POLL_S = 0.25
LONGEST_WAIT_S = 120.0
IDLE_SHARE = 0.1
"""A client that uses less than this of a core has nothing to do."""

IDLE_TURNS = 4


@contextmanager
def on_core(number: int) -> Iterator[None]:
    """What is started in this block runs on that core alone; 0 is the first this process may use."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(allowed) < 2:
        yield
        return
    os.sched_setaffinity(0, {allowed[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class Client:
    """A program of `_capture_client`, on the first core or, with `spread`, on all.

    Attributes:
        said: its last JSON line.
    """

    def __init__(
        self, *arguments: object, folder: Path, env: dict[str, str] | None = None, spread: bool = False
    ) -> None:
        self.said: dict[str, Any] = {}
        with nullcontext() if spread else on_core(0):
            self._child = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, str(CLIENT), *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Without a .env.
                cwd=folder,
                env={**os.environ, **(env or {})},
            )
        self.process = psutil.Process(self._child.pid)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self.said = json.loads(line)

    @property
    def is_alive(self) -> bool:
        return self._child.poll() is None

    def check_alive(self) -> None:
        """End the benchmark when the program ended by itself; it said why on stderr."""
        if not self.is_alive:
            sys.exit(f"{CLIENT.name} ended by itself")

    def cpu_s(self) -> float:
        """User and system time so far, without that of what it started."""
        times = self.process.cpu_times()
        return times.user + times.system

    def end(self) -> dict[str, Any]:
        """Let it come to its end; returns its last line."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()
        self._reader.join()
        if self._child.returncode:
            sys.exit(f"{CLIENT.name} failed with status {self._child.returncode}")
        return self.said


@dataclass
class LoadRun:
    """What one load showed.

    Attributes:
        sent: messages by symbol, the opening books included.
        batches: the load's writes.
        books: of the gateway at the end.
        cpu_s: user and system time of the client from the first message until it had all.
        seconds: from the first message until it had all.
        rss_mb: second of the load, and memory of the client then.
        peak_mb: of the client.
        closing_peak_mb: of what the client started.
        said: the client's last line.
    """

    sent: dict[str, int] = field(default_factory=dict)
    batches: list[SentBatch] = field(default_factory=list)
    books: dict[str, GatewayBook] = field(default_factory=dict)
    cpu_s: float = 0.0
    seconds: float = 0.0
    rss_mb: list[tuple[float, float]] = field(default_factory=list)
    peak_mb: float = 0.0
    closing_peak_mb: float = 0.0
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> int:
        return sum(self.sent.values())


def run_load(
    program: str, rate: float, seconds: float, folder: Path, *, settled: bool = False, **env: object
) -> LoadRun:
    """Let a program take two symbols that share a rate; its data root is `folder/data`.

    `settled`: the load begins when the program has done what it does once, such as loading the exchange's calendar.
    """
    folder.mkdir()
    with on_core(1):
        gateway = IbGatewayProcess(rate_per_s=0, start_within_s=60)
        gateway.__enter__()
    try:
        text = {name: str(value) for name, value in env.items()}
        return _run(gateway, program, rate, seconds, folder, settled=settled, env=text)
    finally:
        gateway.stop()


def _run(
    gateway: IbGatewayProcess,
    program: str,
    rate: float,
    seconds: float,
    folder: Path,
    *,
    settled: bool,
    env: dict[str, str],
) -> LoadRun:
    env = {**gateway.env(), "DATA_PATH_OVERRIDE": str(folder / "data"), "L2_MIN_FREE_GB": "0", **env}
    client = Client(program, ",".join(SYMBOLS), LEVELS, folder / "samples.json", folder=folder, env=env)
    run = LoadRun()
    gateway.wait_for(lambda seen: seen.depth_lines_used == len(SYMBOLS) or not client.is_alive, timeout_s=60)
    client.check_alive()
    if settled:
        wait_until_idle(client)
    before_s = client.cpu_s()
    for symbol in SYMBOLS:
        gateway.load(symbol, rate / len(SYMBOLS), seconds)
    began_s = time.monotonic()
    while gateway.is_loading():
        look(run, client, began_s)
    run.sent = gateway.sent_counts
    wait_until_taken(run, client, began_s)
    run.cpu_s, run.seconds = client.cpu_s() - before_s, time.monotonic() - began_s
    run.batches = gateway.batches
    run.books = {symbol: gateway.book(symbol) for symbol in SYMBOLS}
    run.peak_mb = memory_mb("VmHWM", client.process.pid)
    with peaks_below(client.process) as peaks:
        run.said = client.end()
    run.closing_peak_mb = max(peaks, default=0.0)
    if gateway.violations:
        sys.exit(f"the gateway complains: {gateway.violations}")
    return run


def look(run: LoadRun, client: Client, began_s: float) -> None:
    time.sleep(POLL_S)
    client.check_alive()
    run.rss_mb.append((time.monotonic() - began_s, memory_mb("VmRSS", client.process.pid)))


def wait_until_taken(run: LoadRun, client: Client, began_s: float) -> None:
    """Wait until the client has all that was sent: it says so, or it uses no processor any more."""
    deadline_s = time.monotonic() + LONGEST_WAIT_S
    while client.said and client.said["messages"] < run.messages and time.monotonic() < deadline_s:
        look(run, client, began_s)
    if not client.said:
        wait_until_idle(client)


def wait_until_idle(client: Client) -> None:
    deadline_s = time.monotonic() + LONGEST_WAIT_S
    idle = 0
    was_s = client.cpu_s()
    while idle < IDLE_TURNS and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
        now_s = client.cpu_s()
        idle = idle + 1 if now_s - was_s < IDLE_SHARE * POLL_S else 0
        was_s = now_s


@contextmanager
def peaks_below(process: psutil.Process) -> Iterator[list[float]]:
    """Collects the peak memory of the processes that a process starts."""
    peaks: dict[int, float] = {}
    shown: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            with suppress(psutil.Error, OSError, IndexError):
                for child in process.children(recursive=True):
                    peaks[child.pid] = memory_mb("VmHWM", child.pid)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield shown
    finally:
        ended.set()
        watcher.join()
        shown.extend(peaks.values())

"""Kill -9 at any moment of a run: nothing torn is ever visible, and the next run completes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest

from contracts.v1.backfill import parse_manifest_line
from contracts.validate import validate_path

SYMBOLS = ("AAPL", "AMD", "INTC", "MSFT", "NVDA", "TSLA")

FORKS = """
import json, os, sys
import exchange_calendars, pyarrow.parquet
from flows.cli_backfill import run
import flows.backfill_job
flows.backfill_job.assemble(symbols=["AAPL"], start=__import__("datetime").date(2025, 9, 5))
nothing = dict(symbols=None, start=None, end=None, since_days=None, last=None, tasks_file=None, force=False,
    strict=False, max_tasks=None, max_workers=None, interval_ms=None, with_events=False, max_cost_usd=None,
    dry_run=False)
import datetime as dt
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.environ.update(job["env"])
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(run({**nothing, "symbols": job["symbols"], "start": dt.date.fromisoformat(job["day"]),
            "max_workers": 2, "with_events": True}, sandbox=False, as_flow=False))
    print(pid, flush=True)
"""


class Forks:
    """Runs that start at once: forks of a process that has imported everything and started no thread."""

    def __init__(self, place):
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKS],
            cwd=place.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def start(self, place, symbols=SYMBOLS) -> psutil.Process:
        env = {name: os.environ[name] for name in ("DATA_PATH_OVERRIDE", "CACHE_PATH")}
        self._process.stdin.write(json.dumps({"env": env, "symbols": symbols, "day": str(place.day)}) + "\n")
        self._process.stdin.flush()
        return psutil.Process(int(self._process.stdout.readline()))

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@pytest.fixture
def forks(place):
    running = Forks(place)
    yield running
    running.stop()


def test_kill_9_at_any_moment_leaves_nothing_torn_and_the_next_run_completes(place, forks, tmp_path):
    def new_root(name: str) -> None:
        place.root, place.cache = tmp_path / name / "data", tmp_path / name / "cache"
        place.set(DATA_PATH_OVERRIDE=place.root, CACHE_PATH=place.cache)

    new_root("whole")
    forks.start(place).wait(60)  # warms what is still cold
    new_root("measured")
    began = time.monotonic()
    forks.start(place).wait(60)
    whole_s = time.monotonic() - began
    assert [line.status for line in place.lines] == ["WRITE"] * len(SYMBOLS)

    moments = random.Random(20250905)  # noqa: S311 - picks moments, guards no secret
    unfinished = 0
    for number in range(10):
        new_root(f"killed-{number}")
        run = forks.start(place)
        # One moment in each tenth of a run.
        wait_s = whole_s * (number + moments.random()) / 10
        threading.Event().wait(wait_s)
        with suppress(psutil.NoSuchProcess):
            run.send_signal(signal.SIGKILL)
        run.wait(10)

        # What is visible is whole: files, and every line of the manifest up to a last one that may be torn.
        torn = [finding for finding in validate_path(place.root).findings if finding.rule != "torn-line"]
        assert torn == [] or not place.root.exists()
        kept = place.manifest.read_bytes().splitlines(keepends=True) if place.manifest.exists() else []
        lines = [parse_manifest_line(line) for line in kept if line.endswith(b"\n")]
        assert [line.symbol for line in lines] == list(SYMBOLS[: len(lines)])
        assert all(place.snapshots(line.symbol).exists() for line in lines)
        unfinished += len(lines) < len(SYMBOLS)

        result = place.backfill(*SYMBOLS, with_events=True)

        assert result.summary["counts"]["ERROR"] == 0
        assert {line.symbol for line in place.lines if line.status in {"WRITE", "SKIP"}} == set(SYMBOLS)
        assert [line.symbol for line in place.lines[-len(SYMBOLS) :]] == list(SYMBOLS)
        place.check()
    assert unfinished >= 5

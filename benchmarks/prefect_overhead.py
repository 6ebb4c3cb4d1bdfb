"""What Prefect costs a backfill: the same cohort by the plain run and as a flow run, in turns, and the ratio of times.

A real server with this project's settings and the sandbox vendor, which answers each download late, run in processes of
their own. Every run has a data root and a cache of its own, so that each buys all days. A small cohort (up to 200 days)
makes a task run of each day, a large one batches them. `make bench` runs it; on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import signal
import socket
import statistics
import string
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connectors.sandbox.databento_process import SandboxProcess
from flows.server_settings import client_env

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROMISED = 1.05
"""A flow run takes at most so much of the time of the plain run."""

WEEK = (date(2025, 9, 8), date(2025, 9, 12))
DAYS_OF_THE_WEEK = 5
START_S = 180.0


@dataclass(frozen=True)
class Timing:
    """One run.

    Attributes:
        wall_s: wall clock.
        cpu_s: CPU time of this process, the server's not included.
    """

    wall_s: float
    cpu_s: float


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A Prefect server as `trading-data server` starts it; yields the URL of its API."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("trading-data"), "server", "--port", str(port), "--home", folder]
    with (folder / "server.log").open("wb") as log:
        # Our own command.
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)  # noqa: S603
    try:
        deadline = time.monotonic() + START_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"Prefect's server does not start:\n{(folder / 'server.log').read_text()}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def parameters(days: int, workers: int) -> dict[str, Any]:
    """Of a backfill of so many days with a session."""
    names = ("".join(letters) for letters in itertools.product(string.ascii_uppercase, repeat=3))
    symbols = list(itertools.islice(names, -(-days // DAYS_OF_THE_WEEK)))
    return {"symbols": symbols, "start": WEEK[0], "end": WEEK[1], "max_tasks": days, "max_workers": workers}


def plain(given: dict[str, Any]) -> dict[str, Any]:
    """The run without Prefect, as the command makes it where no API is set."""
    from flows.backfill_job import assemble  # noqa: PLC0415 - reads the environment that is set below
    from flows.backfill_run import run_backfill  # noqa: PLC0415

    job = assemble(**given)
    return run_backfill(job.context, job.tasks, job.options).summary


def as_flow(given: dict[str, Any]) -> dict[str, Any]:
    """The run as a flow run of a real API: task runs, page, events, shared limits."""
    from flows.backfill_l2 import backfill_l2  # noqa: PLC0415 - likewise

    summary: dict[str, Any] = backfill_l2(**given)
    return summary


def measure(run: Callable[[dict[str, Any]], dict[str, Any]], given: dict[str, Any], folder: Path) -> Timing:
    """Run once in a new data root.

    Raises:
        SystemExit: not every day was written.
    """
    os.environ["DATA_PATH_OVERRIDE"], os.environ["CACHE_PATH"] = str(folder / "data"), str(folder / "cache")
    began, cpu_began = time.perf_counter(), time.process_time()
    summary = run(given)
    timing = Timing(time.perf_counter() - began, time.process_time() - cpu_began)
    if summary["counts"]["WRITE"] != given["max_tasks"]:
        raise SystemExit(f"not every day was written: {summary['counts']} {summary['errors'][:1]}")
    return timing


def compare(days: int, workers: int, repeats: int, folder: Path) -> float:
    """Run both ways in turns, print a line, and return the ratio of the medians."""
    given = parameters(days, workers)
    found: dict[str, list[Timing]] = {"plain": [], "flow": []}
    for number in range(repeats):
        # Who goes first changes, so that whatever warms up favours nobody.
        ways = [("plain", plain), ("flow", as_flow)]
        for name, run in ways if number % 2 == 0 else reversed(ways):
            with tempfile.TemporaryDirectory(dir=folder) as place:
                found[name].append(measure(run, given, Path(place)))
    wall = {name: statistics.median(each.wall_s for each in timings) for name, timings in found.items()}
    cpu = {name: statistics.median(each.cpu_s for each in timings) for name, timings in found.items()}
    ratio = wall["flow"] / wall["plain"]
    print(
        f"{days:>5} days: plain {wall['plain']:7.2f} s (CPU {cpu['plain']:6.2f} s), "
        f"flow {wall['flow']:7.2f} s (CPU {cpu['flow']:6.2f} s), ratio {ratio:.3f}, "
        f"{1_000 * (wall['flow'] - wall['plain']) / days:+.1f} ms per day",
        flush=True,
    )
    return ratio


def main() -> int:
    """Print a line per cohort; exit code 1 when Prefect costs more than was promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, nargs="+", default=[120, 400], help="sizes of cohorts")
    parser.add_argument("--workers", type=int, default=4, help="days at a time")
    parser.add_argument("--repeats", type=int, default=3, help="runs each way")
    parser.add_argument("--answer-s", type=float, default=0.5, help="seconds until the vendor answers a download")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, home = Path(name), Path(name) / "prefect"
        home.mkdir()
        late = f"slow:endpoint=get_range,seconds={chosen.answer_s}"
        vendor = SandboxProcess(faults=[late], records_per_hour=2_000, now=date(2025, 12, 1))
        os.environ |= client_env()
        # Limits of this machine lie in the home; those of a real run shall not be touched.
        os.environ |= {"PREFECT_HOME": str(home), "HOME": str(folder), "PREFECT_LOGGING_LEVEL": "ERROR"}
        os.environ |= {"L2_BACKFILL_WINDOW_ET": "09:30-09:40", "L2_TRADING_WINDOW_ET": "09:30-11:00"}
        os.environ |= {"L2_SNAPSHOT_INTERVAL_MS": "1000", "L2_MIN_FREE_GB": "0", "LOG_LEVEL": "ERROR"}
        with vendor, server(home) as url:
            os.environ |= vendor.env() | {"PREFECT_API_URL": url}
            logging.disable(logging.WARNING)
            # Both are imported and have run once before a clock runs.
            for run in (plain, as_flow):
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    measure(run, parameters(chosen.workers, chosen.workers), Path(place))
            print(f"answers take {chosen.answer_s} s, {chosen.workers} days at a time, medians of {chosen.repeats}")
            ratios = [compare(days, chosen.workers, chosen.repeats, folder) for days in chosen.days]
    is_kept = max(ratios) <= PROMISED
    print(f"promised at most {PROMISED:.2f}: {'kept' if is_kept else 'NOT kept'}")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())

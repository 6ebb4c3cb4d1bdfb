"""`make demo`: the main job from end to end against the bundled vendor, on a machine with nothing but Python.

Starts the sandbox vendor and a Prefect server on loopback, backfills a small task list as a Prefect flow, deploys all
flows and runs the same by deployment, captures two books from the sandbox gateway for some seconds, downloads bars from
it, validates everything that was written, shows what lies where, and stops what it started.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from connectors.sandbox.databento_process import SandboxProcess
from contracts.sessions import sessions_between, today_et
from flows.server_settings import client_env

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("DEMO_DATA") or REPOSITORY / "demo-data")
BIN = Path(sys.executable).parent

DAYS = {
    "2025-03-07": "Friday before the clocks change: 09:30 ET is 14:30Z",
    "2025-03-10": "Monday after it: 09:30 ET is 13:30Z",
    "2025-11-26": "day before Thanksgiving",
    "2025-11-27": "Thanksgiving: the exchange is closed",
    "2025-11-28": "half day: the exchange closes at 13:00",
}
SYMBOLS = ("AAPL", "MSFT", "BRK.B")
EMPTY = ("QUIET", "2025-11-28")
FAILING = ("GONE", "2025-11-28")
FAULTS = (
    f"zero-rows:symbol={EMPTY[0]},day={EMPTY[1]}",
    f"unknown-symbol:symbol={FAILING[0]}",
    "cut-mid-stream:endpoint=timeseries.get_range,symbol=MSFT,times=1",
)
CAPTURED = ("AAPL", "MSFT")
CAPTURE_MINUTES = 0.1
BARS_SYMBOLS = ("AAPL", "MSFT")
BARS_WEEK = ("2025-11-24", "2025-11-28")
SERVER_START_S = 120.0

PREFECT_ENV = {
    **client_env(),
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # How often a worker asks for runs: the demo shall not wait 10 s for it.
    "PREFECT_WORKER_QUERY_SECONDS": "1",
}


def say(text: str = "") -> None:
    """Print a line of the story."""
    print(text, flush=True)


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def prefect_server(home: Path, log: Path) -> Iterator[str]:
    """A Prefect server on loopback; yields its API URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = {**os.environ, **PREFECT_ENV, "PREFECT_HOME": str(home), "PREFECT_API_URL": url}
    with log.open("wb") as output:
        server = subprocess.Popen(
            [BIN / "trading-data", "server", "--port", str(port)],
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + SERVER_START_S
        while not answers(f"{url}/health"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the Prefect server did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def answers(url: str) -> bool:
    """Whether a URL answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - loopback, our own server
            return bool(answer.status == 200)  # noqa: PLR2004 - HTTP OK
    except (urllib.error.URLError, OSError):
        return False


def write_task_list(path: Path) -> None:
    """The list a trader would keep: ticker and date."""
    rows = [(symbol, day) for day in DAYS for symbol in SYMBOLS] + [EMPTY, FAILING]
    path.write_text("ticker,date\n" + "".join(f"{symbol},{day}\n" for symbol, day in rows), encoding="utf-8")


def show(console: Console, outcome: list[dict[str, Any]]) -> None:
    """What lies where."""
    table = Table(title="What was asked for, and what lies where", title_justify="left")
    for column in ("symbol", "date", "status", "rows", "KiB", "note"):
        table.add_column(column, justify="right" if column in ("rows", "KiB") else "left")
    for line in outcome:
        size = Path(line["path"]).stat().st_size // 1024 if line.get("path") else None
        note = line.get("reason") or DAYS.get(line["date"], "")
        table.add_row(
            line["symbol"],
            line["date"],
            line["status"],
            str(line.get("rows") or ""),
            str(size or ""),
            note,
        )
    console.print(table)


@contextmanager
def worker(env: dict[str, str], log: Path) -> Iterator[None]:
    """A worker that runs what is deployed; stopped when nothing of it runs any more."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [BIN / "prefect", "worker", "start", "--pool", "trading-data"],
            env=env,
            cwd=log.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
        subprocess.run([BIN / "trading-data", "stop"], env=env, cwd=log.parent, check=True)
    finally:
        process.terminate()
        process.wait()


def by_deployment(env: dict[str, str], scratch: Path, tasks: Path) -> int:
    """Deploy everything, and run the backfill as a person or a program would by Prefect; the exit code of the run."""
    if code := subprocess.run([BIN / "trading-data", "deploy"], env=env, cwd=scratch, check=False).returncode:
        return code
    log = scratch / "worker.log"
    with worker(env, log):
        run = subprocess.run(
            [BIN / "prefect", "deployment", "run", "backfill-l2/on-demand", "-p", f"tasks_file={tasks}", "--watch"],
            env=env,
            cwd=scratch,
            check=False,
        )
    if run.returncode:
        say(log.read_text(errors="replace")[-3000:])
    return run.returncode


def trading_data(*arguments: str) -> int:
    """Run a command of the CLI without Prefect on the demo's data root; its exit code."""
    env = {
        **os.environ,
        "DATA_PATH_OVERRIDE": str(DATA / "data"),
        "CACHE_PATH": str(DATA / "cache"),
        "L2_MIN_FREE_GB": "0.2",
    }
    return subprocess.run([BIN / "trading-data", *arguments], env=env, cwd=DATA, check=False).returncode


def of_symbols(names: tuple[str, ...]) -> list[str]:
    """The options that name symbols."""
    return [argument for symbol in names for argument in ("--symbol", symbol)]


def capture() -> int:
    """Capture live books for some seconds; the exit code."""
    options = ["--sandbox", "--no-prefect", "--duration", str(CAPTURE_MINUTES)]
    return trading_data("record-depth", *options, *of_symbols(CAPTURED))


def download_bars() -> int:
    """Download hours and minutes of a week with a holiday and a half day, and the seconds of the last session."""
    options = ["--sandbox", "--no-prefect"]
    of_week = ["--bar-size", "1 hour", "--bar-size", "1 min", "--start", BARS_WEEK[0], "--end", BARS_WEEK[1]]
    if code := trading_data("bars", *options, *of_symbols(BARS_SYMBOLS), *of_week):
        return code
    yesterday = today_et() - dt.timedelta(days=1)
    last = sessions_between(yesterday - dt.timedelta(days=10), yesterday)[-1].isoformat()
    of_day = ["--bar-size", "1 sec", "--start", last, "--end", last]
    if code := trading_data("bars", *options, *of_symbols(BARS_SYMBOLS[:1]), *of_day):
        return code
    return trading_data("coverage", "show")


def show_captures(console: Console) -> None:
    """What the captures of this and earlier demos left."""
    table = Table(title="What was captured live", title_justify="left")
    for column in ("symbol", "began (UTC)", "messages", "snapshots", "gaps", "ended", "files"):
        table.add_column(column, justify="right" if column in ("messages", "snapshots", "gaps") else "left")
    for path in sorted(DATA.glob("data/level2/*/session_stats_*.json")):
        stats = json.loads(path.read_text(encoding="utf-8"))
        table.add_row(
            stats["symbol"],
            stats["recording_date"][:19],
            str(stats["num_messages"]),
            str(stats["num_snapshots"]),
            str(stats["gaps"]),
            stats["end_reason"],
            "\n".join(stats["files"]),
        )
    console.print(table)


def backfill(tasks: Path) -> int:
    """The task list twice: by the command line as a flow, and by deployment; the exit code."""
    with tempfile.TemporaryDirectory(prefix="trading-data-demo-") as scratch:
        say("1. Starting the sandbox vendor (Databento's protocol on loopback) and a Prefect server ...")
        with (
            SandboxProcess(faults=FAULTS) as vendor,
            prefect_server(Path(scratch), Path(scratch) / "prefect.log") as api_url,
        ):
            env = {
                **os.environ,
                **PREFECT_ENV,
                **vendor.env(),
                "PREFECT_HOME": scratch,
                "PREFECT_API_URL": api_url,
                "DATA_PATH_OVERRIDE": str(DATA / "data"),
                "CACHE_PATH": str(DATA / "cache"),
                "L2_MIN_FREE_GB": "0.2",
            }
            say(f"   vendor {vendor.gateway_url}, Prefect {api_url.removesuffix('/api')}")
            say(f"2. Backfilling {tasks.name}: {len(SYMBOLS)} symbols, {len(DAYS)} days, one symbol nobody knows,")
            say("   one day without a record, one stream that breaks once ...")
            run = subprocess.run(
                [BIN / "trading-data", "backfill", "--tasks", tasks], env=env, cwd=scratch, check=False
            )
            if run.returncode:
                return run.returncode
            say("3. Deploying all flows, and the same backfill by deployment: everything is there already ...")
            if code := by_deployment(env, Path(scratch), tasks):
                return code
    return 0


def say_what_next() -> None:
    """Commands to go on with."""
    say("Try next:")
    say("  make demo                                   again: everything that exists is SKIP, a new capture is added")
    say("  .venv/bin/trading-data backfill --sandbox --symbol NVDA --date 2025-09-05 --dry-run")
    say("  .venv/bin/trading-data backfill --sandbox --symbol NVDA --date 2025-09-05 --interval-ms 0")
    say("  .venv/bin/trading-data sandbox databento    the vendor alone, for your own experiments")
    say("  .venv/bin/trading-data sandbox ib-gateway   the gateway alone, for any TWS API client")
    say("  .venv/bin/trading-data record-depth --sandbox --symbol NVDA --duration 1")
    say("  .venv/bin/trading-data bars --sandbox --symbol NVDA --bar-size '1 min' --dry-run")
    say("  .venv/bin/trading-data describe --all")
    say("  docs/OPERATIONS.md                          unattended: server, worker, schedules, alerts, more machines")


def main() -> int:
    """Run the demo; 0 when everything is as promised."""
    DATA.mkdir(parents=True, exist_ok=True)
    tasks = DATA / "trades.csv"
    write_task_list(tasks)
    manifest = DATA / "data" / "backfill_l2_manifest.jsonl"
    seen = manifest.stat().st_size if manifest.exists() else 0
    if code := backfill(tasks):
        return code
    seconds = round(CAPTURE_MINUTES * 60)
    say(
        f"4. Capturing {' and '.join(CAPTURED)} live for {seconds} s from the sandbox gateway (TWS API on loopback) ..."
    )
    if code := capture():
        return code
    say("5. Downloading bars: a week with a holiday and a half day, then the seconds of the last session,")
    say("   13 requests under the broker's pacing rules ...")
    if code := download_bars():
        return code
    say("6. Stopped what was started. Validating every file that was written ...")
    check = subprocess.run([BIN / "marketdata-contracts", "validate", "--strict", DATA / "data"], check=False)
    with manifest.open("rb") as lines:
        lines.seek(seen)
        outcome = [json.loads(line) for line in lines]
    # The first run; that by deployment found everything there.
    outcome = [line for line in outcome if line["run_id"] == outcome[0]["run_id"]]
    console = Console(width=120)
    show(console, outcome)
    show_captures(console)
    closed = ", ".join(day for day in DAYS if day not in {line["date"] for line in outcome})
    say(f"Dropped from the list, for the exchange was closed: {closed}")
    say(f"Snapshots: {DATA / 'data' / 'level2'}/<SYMBOL>/<date>_snapshots_databento.parquet")
    say(f"Captures:  {DATA / 'data' / 'level2'}/<SYMBOL>/<date>_messages_<HHMMSS>.json and _snapshots_<HHMMSS>.parquet")
    say(f"Gaps:      {DATA / 'data' / 'l2_gaps.jsonl'}")
    say(f"Bars:      {DATA / 'data' / 'bars'}/{{hour,minute,second}}/<SYMBOL>/<date>.parquet")
    say(f"           ledger {DATA / 'data' / 'bars_download_manifest.jsonl'}")
    say(f"           index  {DATA / 'data' / 'bars_coverage_manifest.json'}")
    say(f"Manifest:  {manifest}")
    say(f"Summary:   {DATA / 'data' / 'backfill_l2_summary.json'}")
    say(f"Kept vendor files, so that nothing is paid for twice: {DATA / 'cache'}")
    say()
    say_what_next()
    return check.returncode


if __name__ == "__main__":
    sys.exit(main())

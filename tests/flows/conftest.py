"""A place to backfill into, and one sandbox vendor for the flow tests of a process; nothing here knows Prefect."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from connectors.sandbox.databento_server import DatabentoSandbox
from contracts.v1.backfill import parse_manifest_line
from contracts.validate import validate_path
from flows.backfill_job import assemble
from flows.backfill_run import run_backfill
from flows.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connectors.sandbox.databento_server import LoggedRequest
    from contracts.v1.backfill import BackfillManifestLine
    from flows.backfill_run import RunResult

KEY = "db-flow-tests-1618033988749894848"
DAY = date(2025, 9, 5)
COMMAND = Path(sys.executable).with_name("trading-data")


class Place:
    """A data root, a cache and an environment of one test, and the vendor's log of what this test asked."""

    key = KEY
    day = DAY

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, vendor: DatabentoSandbox) -> None:
        self.folder = folder
        self.root = folder / "data"
        self.cache = folder / "cache"
        self.vendor = vendor
        self._patch = patch
        self.forget_requests()
        self.set(
            **vendor.env(),
            DATA_PATH_OVERRIDE=self.root,
            CACHE_PATH=self.cache,
            L2_BACKFILL_WINDOW_ET="09:30-09:40",
            L2_TRADING_WINDOW_ET="09:30-11:00",
            L2_SNAPSHOT_INTERVAL_MS=1_000,
            L2_MIN_FREE_GB=0,
            L2_TASK_BACKOFF_BASE_MS=1,
            L2_TASK_BACKOFF_MAX_MS=2,
            RETRY_ATTEMPTS=1,
            DATABENTO_TIMEOUT_S=10,
            LOG_LEVEL="INFO",
        )

    def set(self, **values: object) -> None:
        for name, value in values.items():
            self._patch.setenv(name, str(value))

    def unset(self, *names: str) -> None:
        for name in names:
            self._patch.delenv(name, raising=False)

    # --- running ---------------------------------------------------------------------------------------------------

    def backfill(self, *symbols: str, start: date | None = DAY, progress: Any = None, **parameters: Any) -> RunResult:
        """A run in this process, as the command line assembles it."""
        job = assemble(symbols=symbols, start=start, **parameters)
        return run_backfill(job.context, job.tasks, job.options, progress=progress)

    def command(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True, check=False, timeout=120
        )

    def start_command(self, *arguments: object, stderr: Any = subprocess.PIPE) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    @staticmethod
    def until(condition: Callable[[], object], within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.005)

    # --- looking ---------------------------------------------------------------------------------------------------

    def forget_requests(self) -> None:
        self._before = len(self.vendor.requests)
        self._before_usd = self.vendor.billed_usd

    @property
    def requests(self) -> list[LoggedRequest]:
        return self.vendor.requests[self._before :]

    @property
    def downloads(self) -> list[str]:
        """Vendor symbols of the billable calls, in order."""
        return [entry.params["symbols"] for entry in self.requests if entry.endpoint == "timeseries.get_range"]

    @property
    def billed_usd(self) -> float:
        return self.vendor.billed_usd - self._before_usd

    @property
    def manifest(self) -> Path:
        return self.root / "backfill_l2_manifest.jsonl"

    @property
    def lines(self) -> list[BackfillManifestLine]:
        """Every line of the manifest; each must be whole."""
        if not self.manifest.exists():
            return []
        data = self.manifest.read_bytes()
        assert data.endswith(b"\n")
        return [parse_manifest_line(line) for line in data.splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.root / "backfill_l2_summary.json").read_text())

    def snapshots(self, symbol: str, day: date = DAY) -> Path:
        return self.root / "level2" / symbol / f"{day}_snapshots_databento.parquet"

    def events(self, symbol: str, day: date = DAY) -> Path:
        return self.root / "level2" / symbol / f"{day}_events_databento.parquet"

    def temps(self) -> list[Path]:
        return [path for top in (self.root, self.cache) for path in top.rglob("*.tmp")]

    def tree(self) -> dict[str, bytes | None]:
        """Everything below the test's folder, by relative path."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else None
            for path in self.folder.rglob("*")
        }

    def check(self) -> None:
        """All that was written keeps to the contract, and nothing half-written lies about."""
        assert [str(finding) for finding in validate_path(self.root).findings] == []
        assert self.temps() == []


@pytest.fixture(scope="session")
def flows_vendor() -> Iterator[DatabentoSandbox]:
    with DatabentoSandbox(api_key=KEY, now=date(2025, 12, 1), records_per_hour=2_000) as sandbox:
        yield sandbox


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine, and an empty folder to stand in."""
    for name in (*Settings.model_fields, "prefect_api_url"):
        monkeypatch.delenv(name.upper(), raising=False)
    # Where ML_BASE_PATH lies by default.
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def place(
    clean_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flows_vendor: DatabentoSandbox
) -> Iterator[Place]:
    yield Place(tmp_path, monkeypatch, flows_vendor)
    flows_vendor.clear_faults()


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """The command line takes over the process's log and signals; afterwards they are pytest's again."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    noisy = {name: logging.getLogger(name).level for name in ("databento", "urllib3", "httpx", "httpcore")}
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environment = dict(os.environ)
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in noisy.items():
        logging.getLogger(name).setLevel(before)
    for number, handler in signals.items():
        signal.signal(number, handler)
    os.environ.clear()
    os.environ.update(environment)

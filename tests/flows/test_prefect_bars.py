"""The flows `download-bars` and `refresh-coverage` as Prefect runs them: a real API, the sandbox gateway."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from support.prefect_server import PrefectServer, until

from connectors.sandbox.ib_gateway import IbGateway
from contracts.layout import DataRoot
from contracts.sessions import sessions_between, today_et
from contracts.testing import write_sample_root
from contracts.validate import validate_path
from flows.download_bars import download_bars
from flows.errors import BarsFailed, ConfigurationError
from flows.limits import SystemClock
from flows.refresh_coverage import refresh_coverage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Prefect's own client and server code raises these inside its threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

DAY = sessions_between(today_et() - dt.timedelta(10), today_et() - dt.timedelta(1))[-1]
ONE = {"symbols": ["AAPL"], "bar_sizes": ["1 hour"], "start": DAY, "end": DAY}


class FastClock(SystemClock):
    """The machine's clock, so much faster that the pacing rules cost nothing; the gateway of this module has none."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns() * 1_000

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 1_000)


@pytest.fixture(scope="module")
def gateway() -> Iterator[IbGateway]:
    with IbGateway(pacing=False) as running:
        yield running


@pytest.fixture
def root(
    prefect_api: PrefectServer,
    clean_environment: None,
    gateway: IbGateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    for key, value in {
        "DATA_PATH_OVERRIDE": tmp_path / "data",
        "CACHE_PATH": tmp_path / "cache",
        "L2_MIN_FREE_GB": 0,
        "IB_HOST": gateway.host,
        "IB_PORT": gateway.port,
        "CONNECTION_TIMEOUT": 5,
    }.items():
        monkeypatch.setenv(key, str(value))
    monkeypatch.setattr("flows.limits.SystemClock", FastClock)
    yield tmp_path / "data"
    gateway.clear_faults()


def test_a_run_downloads_names_its_parts_and_says_how_it_went_and_the_next_has_nothing_to_do(root, gateway):
    state = download_bars(
        symbols=["AAPL", "brk.b"], bar_sizes=["1 hour", "1 min"], start=DAY, end=DAY, return_state=True
    )

    document = state.result()
    assert (state.name, state.message) == ("Completed", "WRITE 4, SKIP 0, EMPTY 0, ERROR 0")
    assert (document["total"], document["files"], document["coverage"]["entry_count"]) == (4, 4, 4)
    assert [str(finding) for finding in validate_path(root).findings] == []
    run_filter = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        name = f"AAPL BRK-B, 1 hour + 1 min, {DAY}"
        assert client.read_flow_run(state.state_details.flow_run_id).name == name
        # The server files what runs report with a delay.
        until(lambda: client.read_task_runs(flow_run_filter=run_filter))
        (task_run,) = client.read_task_runs(flow_run_filter=run_filter)
        assert task_run.name == f"download {name}"
        artifacts = {each.key: each for each in client.read_artifacts(flow_run_filter=run_filter)}
    label = f"aapl-brk-b-1-hour-1-min-{DAY}"
    progress = artifacts[f"download-bars-progress-{label}"]
    assert (progress.data, progress.description) == (100, "4 of 4 days")
    assert "| WRITE | 4 |" in artifacts[f"download-bars-summary-{label}"].data
    coverage = json.loads(artifacts[f"download-bars-coverage-{label}"].data)
    assert [(row["symbol"], row["bar size"], row["first"], row["last"], row["days"]) for row in coverage] == [
        (symbol, size, str(DAY), str(DAY), 1) for symbol in ("AAPL", "BRK-B") for size in ("1 hour", "1 min")
    ]
    assert {(row["missing"], row["partial"]) for row in coverage} == {(0, 0)}
    asked = len(gateway.bars_requests)
    state = download_bars(**ONE, return_state=True)
    assert state.message == "WRITE 0, SKIP 1, EMPTY 0, ERROR 0"
    assert len(gateway.bars_requests) == asked


def test_an_error_fails_a_strict_run_alone(root):
    parameters = {**ONE, "symbols": ["GONE", "AAPL"]}
    lenient = download_bars(**parameters, return_state=True)
    assert lenient.is_completed()
    strict = download_bars(**parameters, strict=True, return_state=True)
    error = strict.result(raise_on_failure=False)
    assert isinstance(error, BarsFailed)
    assert "GONE" in str(error)
    assert error.summary["counts"] == {"WRITE": 0, "SKIP": 1, "EMPTY": 0, "ERROR": 1}


def test_a_gateway_that_is_not_there_fails_the_run(root, monkeypatch):
    monkeypatch.setenv("IB_PORT", "1")
    monkeypatch.setenv("CONNECTION_TIMEOUT", "0.2")
    state = download_bars(**ONE, return_state=True)
    error = state.result(raise_on_failure=False)
    assert isinstance(error, BarsFailed)
    assert error.summary["remaining"] == 1


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"symbols": ["AAPL"], "bar_sizes": ["5 mins"]}, "5 mins"),
        ({}, "WarriorTrading_Trades"),
    ],
    ids=str,
)
def test_bad_parameters_fail_the_run_before_any_work(root, parameters, named):
    state = download_bars(**parameters, return_state=True)
    assert state.is_failed()
    assert named in str(state.result(raise_on_failure=False))
    assert not root.exists()


def test_a_dry_run_returns_a_preview_and_writes_nothing(root):
    document = download_bars(**ONE, dry_run=True)
    assert document["pieces"] == 1
    assert not root.exists()


@pytest.mark.operations
def test_ctrl_c_in_a_command_that_runs_as_a_flow_keeps_what_is_complete(root, gateway):
    gateway.add_fault("bars-no-answer:size=1 min")
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "flows.cli", "bars", "--prefect", "--symbol", "AAPL"),
            *("--bar-size", "1 hour", "--bar-size", "1 min", "--start", str(DAY), "--end", str(DAY)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until(lambda: (root / "bars_download_manifest.jsonl").exists() and gateway.bars_open == 1)
    os.kill(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=100)
    assert child.returncode == 130, err
    assert out.startswith("SUMMARY WRITE=1 SKIP=0 EMPTY=0 ERROR=0 total=1 ")
    assert [str(finding) for finding in validate_path(root).findings] == []


def test_a_refresh_derives_the_coverage_mirrors_it_and_reads_only_what_is_new(root, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("ML_BACKUP_PATH", str(tmp_path / "backup"))
    data = DataRoot(root)
    write_sample_root(data.path)
    data.bars_coverage.unlink()

    state = refresh_coverage(return_state=True)

    assert state.result() == {
        "wrote": str(data.bars_coverage),
        "changed": True,
        "entry_count": 3,
        "days": 6,
        "lines": 7,
        "new_lines": 7,
        "skipped": {},
        "mode": "full",
    }
    assert validate_path(data.path).ok
    assert (tmp_path / "backup" / data.bars_coverage.name).read_bytes() == data.bars_coverage.read_bytes()
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(state.state_details.flow_run_id)
    assert (run.name, run.state.message) == (
        f"bars coverage {today_et()}",
        "3 entries, 6 days of 7 lines; 7 lines were new",
    )

    with data.bars_manifest.open("a") as file:
        file.write("}{\n")
    with caplog.at_level(logging.WARNING, "connectors"):
        document = refresh_coverage()
    assert (document["mode"], document["new_lines"], document["changed"]) == ("incremental", 1, False)
    assert document["skipped"] == {"not-json": 1}
    assert "1 line does not count" in caplog.text


def test_a_refresh_without_a_ledger_fails_and_creates_nothing(root):
    state = refresh_coverage(return_state=True)
    assert state.is_failed()
    error = state.result(raise_on_failure=False)
    assert isinstance(error, ConfigurationError)
    assert str(DataRoot(root).bars_manifest) in str(error)
    assert not root.exists()

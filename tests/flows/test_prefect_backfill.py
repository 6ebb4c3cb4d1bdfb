"""The flow `backfill-l2` as Prefect runs it, against a real API and the sandbox vendor."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from support.prefect_server import PrefectServer, until

from connectors.sandbox.databento_server import DatabentoSandbox, parse_fault
from contracts.v1.backfill import parse_manifest_line
from contracts.validate import validate_path
from flows.backfill_l2 import backfill_l2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "db-prefect-test-key-3141592653"

# Prefect's own client and server code raises these inside its threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def vendor() -> Iterator[DatabentoSandbox]:
    faults = [parse_fault("unknown-symbol:symbol=GONE"), parse_fault("zero-rows:symbol=QUIET")]
    with DatabentoSandbox(api_key=KEY, faults=faults, records_per_hour=2_000) as sandbox:
        yield sandbox


@pytest.fixture
def root(prefect_api: PrefectServer, vendor: DatabentoSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, value in vendor.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DATA_PATH_OVERRIDE", str(tmp_path / "data"))
    monkeypatch.setenv("CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setenv("L2_MIN_FREE_GB", "0")
    return tmp_path / "data"


def task_runs(flow_run_id: object) -> dict[str, str]:
    """Name and state of every task run of a flow run, as the API has them."""
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])))
    return {run.name: f"{run.state_type.value}:{run.state_name}" for run in runs}


def test_a_flow_run_writes_what_the_plain_run_would_and_names_its_tasks(root: Path) -> None:
    state = backfill_l2(
        symbols=["AAPL", "GONE", "QUIET", "BRK.B"], start="2025-09-05", max_workers=2, return_state=True
    )
    summary = state.result()
    assert summary["counts"] == {"WRITE": 2, "SKIP": 0, "EMPTY": 1, "ERROR": 1}
    lines = [parse_manifest_line(line) for line in (root / "backfill_l2_manifest.jsonl").read_text().splitlines()]
    assert [(line.symbol, line.status) for line in lines] == [
        ("AAPL", "WRITE"),
        ("GONE", "ERROR"),
        ("QUIET", "EMPTY"),
        ("BRK-B", "WRITE"),
    ]
    assert validate_path(root).ok
    expected = {
        "AAPL 2025-09-05": "COMPLETED:WRITE",
        "GONE 2025-09-05": "FAILED:Failed",
        "QUIET 2025-09-05": "COMPLETED:EMPTY",
        "fetch AAPL 2025-09-05": "COMPLETED:Completed",
    }
    # The server takes them in batches, after the run.
    until(lambda: expected.items() <= task_runs(state.state_details.flow_run_id).items())


def test_a_second_run_skips_and_asks_the_vendor_nothing(root: Path, vendor: DatabentoSandbox) -> None:
    backfill_l2(symbols=["MSFT"], start="2025-09-05")
    asked = len(vendor.requests)
    assert backfill_l2(symbols=["MSFT"], start="2025-09-05")["counts"]["SKIP"] == 1
    assert len(vendor.requests) == asked


def test_a_strict_run_fails_after_everything_is_recorded(root: Path) -> None:
    state = backfill_l2(symbols=["GONE", "AAPL"], start="2025-09-05", strict=True, return_state=True)
    assert state.is_failed()
    summary = json.loads((root / "backfill_l2_summary.json").read_text())
    assert summary["counts"] == {"WRITE": 1, "SKIP": 0, "EMPTY": 0, "ERROR": 1}


def test_a_run_of_a_list_is_named_by_what_the_list_holds(root: Path, tmp_path: Path) -> None:
    listed = tmp_path / "trades.csv"
    listed.write_text("ticker,date\nAAPL,2025-09-05\nMSFT,2025-09-04\n")

    state = backfill_l2(tasks_file=listed, dry_run=True, return_state=True)

    assert state.is_completed()
    with get_client(sync_client=True) as client:
        name = client.read_flow_run(state.state_details.flow_run_id).name
    assert name == "trades.csv (dry run): 2 days of AAPL, MSFT 2025-09-04 to 2025-09-05"


def test_a_dry_run_returns_a_preview_and_writes_nothing(root: Path) -> None:
    document = backfill_l2(symbols=["AAPL"], start="2025-09-05", dry_run=True)
    assert document["totals"]["download"] == 1
    assert document["tasks"][0]["records"] > 0
    assert not root.exists()
    assert not (root.parent / "cache").exists()


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"symbols": ["../x"], "start": "2025-09-05"}, "x"),
        ({"symbols": ["AAPL"], "start": "2025-09-05", "end": "2025-09-01"}, "2025-09-01"),
        ({"symbols": ["AAPL"], "start": "not a day"}, "start"),
        ({"symbols": ["AAPL"], "start": "2025-09-05", "max_workers": 0}, "max_workers"),
    ],
)
def test_bad_parameters_fail_the_run_before_any_work(root: Path, parameters: dict[str, object], named: str) -> None:
    state = backfill_l2(**parameters, return_state=True)
    assert state.is_failed()
    assert named in str(state.result(raise_on_failure=False))
    assert not root.exists()


def test_the_key_reaches_neither_the_api_nor_a_log(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        state = backfill_l2(symbols=["NVDA", "GONE"], start="2025-09-05", return_state=True)
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(state.state_details.flow_run_id)
        of_the_run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        until(lambda: len(client.read_task_runs(flow_run_filter=of_the_run)) == 4)
        runs = client.read_task_runs(flow_run_filter=of_the_run)
    seen = caplog.text + flow_run.model_dump_json() + "".join(run.model_dump_json() for run in runs)
    assert runs
    assert KEY not in seen
    for path in root.parent.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_bars_of_the_same_days_come_in_the_same_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_FAKE_IB", "1")

    state = backfill_l2(symbols=["AAPL"], start="2025-09-05", fetch_bars=True, return_state=True)

    assert state.is_completed()
    assert state.result()["counts"]["WRITE"] == 1
    assert state.result()["bars"]["counts"] == {"WRITE": 2, "SKIP": 0, "EMPTY": 0, "ERROR": 0}
    assert sorted(path.parts[-3] for path in root.glob("bars/*/AAPL/*.parquet")) == ["hour", "minute"]
    assert validate_path(root).ok


def test_bars_that_cannot_be_had_fail_the_run_and_level_2_stands(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IB_LIBRARY", "ib_async")

    state = backfill_l2(symbols=["AAPL"], start="2025-09-05", fetch_bars=True, return_state=True)

    assert state.is_failed()
    assert "Level 2 is done, but bars are not" in state.message
    assert len(list(root.glob("level2/AAPL/*.parquet"))) == 1

"""The flow `record-depth` as Prefect runs it: a real API that is killed and started again, the sandbox gateway."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterName
from prefect.deployments import run_deployment
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling
from support.prefect_server import PrefectServer as Server
from support.prefect_server import until

from connectors.sandbox.ib_gateway import IbGateway
from contracts.sessions import ET
from contracts.validate import validate_path
from flows import record_depth as module
from flows.errors import CaptureFailed, ConfigurationError
from flows.record_depth import record_depth

if TYPE_CHECKING:
    from collections.abc import Iterator

BIN = Path(sys.executable).parent

# Prefect's own client and server code raises these inside its threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # What this process tells Prefect goes to the server that it was first told to; this one is another.
    EventsWorker.drain_all(timeout=5)
    running = Server(tmp_path_factory.mktemp("prefect"))
    running.start()
    yield running
    running.kill()
    EventsWorker.drain_all(timeout=5)


@pytest.fixture(scope="module")
def gateway() -> Iterator[IbGateway]:
    with IbGateway(rate_per_s=100) as running:
        yield running


@pytest.fixture
def root(
    clean_environment: None, server: Server, gateway: IbGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    for key, value in {
        **server.env,
        **gateway.env(),
        "DATA_PATH_OVERRIDE": tmp_path / "data",
        "L2_MIN_FREE_GB": 0,
        "L2_FLUSH_SECONDS": 0.2,
    }.items():
        monkeypatch.setenv(key, str(value))
    with temporary_settings({PREFECT_API_URL: server.url}):
        yield tmp_path / "data"


def stats_of(root: Path, symbol: str) -> list[dict[str, Any]]:
    paths = sorted((root / "level2" / symbol).glob("session_stats_*.json"))
    return [json.loads(path.read_text()) for path in paths]


def is_over(root: Path, symbol: str) -> bool:
    """Whether the files of a capture are final."""
    return any("ended_at" in stats for stats in stats_of(root, symbol)) and not list(root.glob(".capture/*/"))


def journaled(root: Path) -> int:
    return sum(path.read_bytes().count(b'{"timestamp"') for path in root.glob(".capture/*/*.journal"))


def check(root: Path) -> None:
    assert [str(finding) for finding in validate_path(root).findings] == []
    assert list(root.rglob("*.tmp")) == []


def test_a_run_captures_names_its_parts_and_shows_how_it_went(root, server):
    state = record_depth(symbols=["AAPL", "brk.b"], minutes=0.03, interval_ms=50, return_state=True)

    document = state.result()
    assert [(row["symbol"], row["end"]) for row in document["symbols"]] == [
        ("AAPL", "duration"),
        ("BRK-B", "duration"),
    ]
    assert [row["messages"] for row in document["symbols"]] == [
        stats_of(root, symbol)[0]["num_messages"] for symbol in ("AAPL", "BRK-B")
    ]
    check(root)
    run_filter = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        day = dt.datetime.now(ET).date()
        assert client.read_flow_run(state.state_details.flow_run_id).name == f"AAPL BRK-B {day}"
        # The server files what runs report with a delay.
        until(lambda: client.read_task_runs(flow_run_filter=run_filter))
        (task_run,) = client.read_task_runs(flow_run_filter=run_filter)
        assert task_run.name == f"capture AAPL BRK-B {day}"
        artifacts = {each.key: each.data for each in client.read_artifacts(flow_run_filter=run_filter)}
    label = f"aapl-brk-b-{day}"
    assert artifacts[f"record-depth-progress-{label}"] == 100
    counted = [(row["symbol"], row["messages"]) for row in document["symbols"]]
    books = json.loads(artifacts[f"record-depth-books-{label}"])
    assert [(row["symbol"], int(row["messages"])) for row in books] == counted
    left = json.loads(artifacts[f"record-depth-result-{label}"])
    assert [(row["symbol"], row["messages"]) for row in left] == counted
    snapshots, gaps = (sum(row[name] for row in left) for name in ("snapshots", "gaps"))
    aapl, brk_b = (count for _, count in counted)
    assert (state.name, state.message) == (
        "Completed",
        f"{aapl + brk_b} messages, {snapshots} snapshots, {gaps} gaps: AAPL {aapl}, BRK-B {brk_b}",
    )


def test_a_refused_symbol_fails_the_run_after_the_others_are_on_the_disk(root):
    state = record_depth(symbols=["GONE", "AAPL"], minutes=0.02, return_state=True)

    assert state.is_failed()
    error = state.result(raise_on_failure=False)
    assert isinstance(error, CaptureFailed)
    assert "GONE" in str(error)
    assert [row["end"] for row in error.summary["symbols"]] == ["refused", "duration"]
    assert stats_of(root, "AAPL")[0]["num_messages"] > 0
    check(root)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"symbols": ["../x"], "minutes": 1}, "x"),
        ({"symbols": ["AAPL"], "minutes": 0}, "minutes"),
        ({"symbols": ["AAPL"], "minutes": 1, "levels": 99}, "levels"),
        ({"symbols": ["AAPL"], "window": "late"}, "late"),
        ({"minutes": 1}, "WarriorTrading_Trades"),
    ],
    ids=str,
)
def test_bad_parameters_fail_the_run_before_any_work(root, parameters, named):
    state = record_depth(**parameters, return_state=True)
    assert state.is_failed()
    assert named in str(state.result(raise_on_failure=False))
    assert not root.exists()


def at(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let the flow begin at another time of New York."""
    now_ns = round(dt.datetime.fromisoformat(text).replace(tzinfo=ET).timestamp()) * 10**9
    monkeypatch.setattr(
        module, "time", SimpleNamespace(time_ns=lambda: now_ns, monotonic=time.monotonic, sleep=time.sleep)
    )


def test_a_day_without_a_session_is_completed_as_closed(root, monkeypatch):
    at(monkeypatch, "2025-09-06 09:00")
    state = record_depth(return_state=True)
    assert (state.is_completed(), state.name) == (True, "Closed")
    assert "2025-09-06" in state.message
    assert not root.exists()


def test_a_window_that_is_over_fails_the_run(root, monkeypatch):
    at(monkeypatch, "2025-09-05 12:00")
    state = record_depth(symbols=["AAPL"], return_state=True)
    assert isinstance(state.result(raise_on_failure=False), ConfigurationError)
    assert not root.exists()


@pytest.mark.operations
def test_a_cancelled_run_has_flushed_cleanly(root, tmp_path):
    served = tmp_path / "serve.py"
    served.write_text(
        "from flows.record_depth import record_depth\n"
        "if __name__ == '__main__':\n"
        "    record_depth.serve(name='served', pause_on_shutdown=False)\n"
    )
    with (tmp_path / "serve.log").open("wb") as log:
        serving = subprocess.Popen(
            [sys.executable, served],
            env={**os.environ, "PREFECT_RUNNER_POLL_FREQUENCY": "1", "PREFECT_LOGGING_EXTRA_LOGGERS": "flows"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with get_client(sync_client=True) as client:

            def is_deployed() -> bool:
                try:
                    return bool(client.read_deployment_by_name("record-depth/served"))
                except Exception:  # noqa: BLE001 - not yet
                    return False

            until(is_deployed)
            run = run_deployment("record-depth/served", parameters={"symbols": ["AAPL"], "minutes": 5}, timeout=0)
            until(lambda: journaled(root) > 30)
            client.set_flow_run_state(run.id, Cancelling())

            def is_final() -> bool:
                return client.read_flow_run(run.id).state.is_final()

            until(is_final)
            state = client.read_flow_run(run.id).state
    finally:
        serving.terminate()
        serving.wait(60)
    assert state.is_cancelled(), (tmp_path / "serve.log").read_text()
    (stats,) = stats_of(root, "AAPL")
    assert stats["end_reason"] == "sigterm"
    assert stats["num_messages"] > 30
    assert is_over(root, "AAPL")
    check(root)


@pytest.mark.operations
def test_a_capture_outlives_the_api_and_its_state_catches_up(root, server):
    child = subprocess.Popen(
        [BIN / "trading-data", "record-depth", "--symbol", "AAPL", "--duration", "0.1", "--prefect"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: journaled(root) > 30)
    server.kill()
    at_kill = journaled(root)
    until(lambda: is_over(root, "AAPL"))
    assert child.poll() is None, child.communicate()
    server.start()
    out, err = child.communicate(timeout=120)

    assert child.returncode == 0, err
    (stats,) = stats_of(root, "AAPL")
    assert out.startswith(f"RECORDED AAPL messages={stats['num_messages']} ")
    assert stats["num_messages"] > at_kill
    assert stats["end_reason"] == "duration"
    check(root)
    name = f"AAPL {dt.datetime.now(ET).date()}"
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
    latest = max(runs, key=lambda run: run.start_time)
    assert (latest.state.is_completed(), latest.state.name) == (True, "Completed")

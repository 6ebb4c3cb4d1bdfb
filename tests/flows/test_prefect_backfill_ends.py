"""However a run of `backfill-l2` ends, what it finished is recorded, by itself or by the next; and large cohorts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling
from support.prefect_server import PrefectServer, until

from flows.backfill_l2 import backfill_l2
from flows.backfill_names import list_name, run_name
from flows.backfill_request import DayTask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

BIN = Path(sys.executable).parent
SYMBOLS = ["AAPL", "AMD", "INTC", "MSFT"]

# Prefect's own client and server code raises these inside its threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def site(place, prefect_api):
    """A place whose runs use the shared server; the place first, for it empties the environment."""
    return place


@pytest.fixture
def served(site, tmp_path: Path) -> Iterator[psutil.Process]:
    """A process that serves the flow."""
    script = tmp_path / "serve.py"
    script.write_text(
        "from flows.backfill_l2 import backfill_l2\n"
        "if __name__ == '__main__':\n"
        "    backfill_l2.serve(name='served', pause_on_shutdown=False)\n"
    )
    with (tmp_path / "serve.log").open("wb") as log:
        serving = subprocess.Popen(
            [sys.executable, script],
            env={**os.environ, "PREFECT_RUNNER_POLL_FREQUENCY": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    until(lambda: "backfill-l2/served" in (tmp_path / "serve.log").read_text())
    yield psutil.Process(serving.pid)
    serving.terminate()
    serving.wait(60)


def flow_process(served: psutil.Process) -> psutil.Process:
    """The process of the one flow run that is served."""
    marks = ("prefect.engine", "prefect.flow_engine", "spawn_main")
    (found,) = [
        each for each in served.children(recursive=True) if any(mark in " ".join(each.cmdline()) for mark in marks)
    ]
    return found


def start(**parameters: Any) -> UUID:
    return run_deployment("backfill-l2/served", parameters=parameters, timeout=0).id


def state_of(run_id: UUID) -> Any:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run_id).state


def task_runs_of(run_id: UUID) -> list[Any]:
    """All task runs that the API has of a flow run, page by page."""
    found: list[Any] = []
    with get_client(sync_client=True) as client:
        while page := client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])), offset=len(found), limit=200
        ):
            found += page
    return found


def task_states(run_id: UUID) -> dict[str, str]:
    return {run.name: run.state.name for run in task_runs_of(run_id)}


def recorded(place) -> list[str]:
    return [line.symbol for line in place.lines]


@pytest.mark.slow
def test_a_cancelled_run_has_recorded_what_it_did(site, served):
    site.vendor.add_fault("slow:symbol=INTC,endpoint=get_range,seconds=120,times=1")
    run_id = start(symbols=SYMBOLS, start=str(site.day), max_workers=1)
    until(lambda: "INTC" in site.downloads and recorded(site) == ["AAPL", "AMD"])

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, Cancelling())
    until(lambda: state_of(run_id).is_final())

    assert state_of(run_id).is_cancelled()
    until((site.root / "backfill_l2_summary.json").exists)
    assert recorded(site) == ["AAPL", "AMD"]
    assert (site.summary["stopped"], site.summary["remaining"]) == (
        "interrupted",
        [["INTC", "2025-09-05"], ["MSFT", "2025-09-05"]],
    )
    site.check()
    assert site.backfill(*SYMBOLS).summary["counts"] == {"WRITE": 2, "SKIP": 2, "EMPTY": 0, "ERROR": 0}


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_killed_run_leaves_what_it_did_to_itself_or_to_the_next_run(site, served, number):
    """The first day is under way; the others are done, and may not be recorded before it."""
    site.vendor.add_fault("slow:symbol=AAPL,endpoint=get_range,seconds=120,times=1")
    run_id = start(symbols=SYMBOLS, start=str(site.day), max_workers=4)
    checkpoints = site.root / ".backfill"
    until(lambda: sum(path.read_bytes().count(b"\n") for path in checkpoints.glob("*.jsonl")) == 3)
    assert recorded(site) == []

    run = flow_process(served)
    run.send_signal(number)
    assert psutil.wait_procs([run], timeout=60)[1] == []

    assert recorded(site) == (SYMBOLS[1:] if number == signal.SIGTERM else [])
    # Who asks for the end gets a run that says so; nobody is alerted.
    until(lambda: state_of(run_id).is_final())
    assert state_of(run_id).is_cancelled() if number == signal.SIGTERM else state_of(run_id).is_crashed()
    result = site.backfill(*SYMBOLS)
    assert recorded(site)[:3] == SYMBOLS[1:]
    assert len({line.run_id for line in site.lines[:3]}) == 1
    assert result.summary["counts"] == {"WRITE": 1, "SKIP": 3, "EMPTY": 0, "ERROR": 0}
    assert sorted(site.downloads) == ["AAPL", *SYMBOLS] or number == signal.SIGTERM
    assert not checkpoints.exists()
    site.check()


@pytest.mark.parametrize(
    "parameters",
    [
        {"symbols": ["../x"], "start": "2025-09-05"},
        {"symbols": ["AAPL"], "start": "5 September"},
        {"symbols": "AAPL"},
        {"max_workers": 0},
        {"max_workers": 65},
        {"interval_ms": -1},
        {"max_cost_usd": -0.5},
        {"last": 0},
        {"tasks_file": "trades.pdf"},
        {"force": "perhaps"},
    ],
    ids=str,
)
def test_the_api_refuses_bad_parameters_before_there_is_a_run(deployment, parameters):
    with pytest.raises(PrefectHTTPStatusError, match=r"409|422"):
        run_deployment(deployment, parameters=parameters, timeout=0)


def test_the_api_takes_what_the_flow_takes(deployment):
    good = {"symbols": ["brk.b", " NA "], "start": "2025-09-05", "end": None, "tasks_file": "a b/List.CSV", "last": 3}
    run = run_deployment(deployment, parameters=good, timeout=0)
    with get_client(sync_client=True) as client:
        client.delete_flow_run(run.id)


def test_an_unknown_parameter_fails_the_run_before_any_work(site, deployment):
    """The API takes any name; the run does not."""
    flow_run = run_deployment(deployment, parameters={"sybols": ["AAPL"], "start": "2025-09-05"}, timeout=0)

    state = run_flow(backfill_l2, flow_run=flow_run, return_type="state", parameters=flow_run.parameters)

    assert state.is_failed()
    assert "sybols" in state.message
    assert state_of(flow_run.id).is_failed()
    assert not site.root.exists()
    assert site.requests == []


@pytest.fixture(scope="module")
def deployment(prefect_server: PrefectServer) -> Iterator[str]:
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        backfill_l2.to_deployment(name="form").apply()
        yield "backfill-l2/form"


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"symbols": ["aapl"], "start": date(2025, 9, 5)}, "AAPL 2025-09-05"),
        ({"symbols": ["A", "B", "C", "D"], "start": "2025-09-01", "end": "2025-09-05"}, None),
        ({}, "task list"),
        ({"since_days": 7}, "task list, since 7 days ago"),
        ({"tasks_file": "/data/trades.csv", "last": 2, "dry_run": True}, "trades.csv, last 2 days (dry run)"),
        ({"symbols": ["AAPL"]}, "AAPL task list"),
    ],
)
def test_the_name_of_a_run_says_symbols_and_days(parameters, name):
    assert run_name(parameters) == (name or "A, B, C and 1 more 2025-09-01 to 2025-09-05")


@pytest.mark.parametrize(
    ("days", "name"),
    [
        ([], "trades.csv: no days"),
        ([("AAPL", 5)], "trades.csv: AAPL 2025-09-05"),
        ([("MSFT", 5), ("AAPL", 5)], "trades.csv: 2 days of AAPL, MSFT 2025-09-05"),
        (
            [("A", 4), ("B", 5), ("C", 3), ("D", 5), ("A", 5)],
            "trades.csv: 5 days 2025-09-03 to 2025-09-05",
        ),
    ],
)
def test_the_name_of_a_list_run_says_what_the_list_holds(days, name):
    assert list_name("trades.csv", [DayTask(symbol, date(2025, 9, day)) for symbol, day in days]) == name


@pytest.mark.slow
def test_a_run_outlives_the_api_and_its_states_catch_up(place, tmp_path):
    own = PrefectServer(tmp_path)
    own.start()
    place.set(**own.env)
    place.vendor.add_fault("slow:symbol=INTC,endpoint=get_range,seconds=3,times=1")
    log = tmp_path / "run.log"
    try:
        symbols = [part for symbol in SYMBOLS for part in ("--symbol", symbol)]
        with log.open("w") as stderr:
            run = place.start_command(
                *("backfill", *symbols, "--date", place.day, "--max-workers", 1, "--prefect"), stderr=stderr
            )
        until(lambda: "INTC" in place.downloads)
        own.kill()
        until(lambda: recorded(place) == SYMBOLS)
        until(lambda: "its return is waited for" in log.read_text())
        assert run.poll() is None
        own.start()
        out, _ = run.communicate(timeout=60)
        assert run.returncode == 0, log.read_text()
        assert out.startswith("SUMMARY WRITE=4 ")
        with temporary_settings({PREFECT_API_URL: own.url}), get_client(sync_client=True) as client:
            (flow_run,) = client.read_flow_runs()
            assert flow_run.state.is_completed()
            until(lambda: all(task_states(flow_run.id).get(f"{symbol} {place.day}") == "WRITE" for symbol in SYMBOLS))
    finally:
        own.kill()
    place.check()


def closed_days(site, count: int) -> Any:
    """A run of days on which the exchange is closed."""
    site.set(L2_SKIP_WEEKENDS=0)
    symbols = [f"S{number}" for number in range(count // 2)]
    return backfill_l2(symbols=symbols, start="2025-09-06", end="2025-09-07", max_workers=2, return_state=True)


def check_cohort(site, state: Any, count: int, most_runs: int) -> None:
    summary = state.result()
    assert (summary["counts"]["EMPTY"], summary["total_tasks"]) == (count, count)
    assert site.summary == summary
    assert [(line.symbol, str(line.date)) for line in site.lines] == [
        (f"S{number}", f"2025-09-0{day}") for day in (6, 7) for number in range(count // 2)
    ]
    run_id = state.state_details.flow_run_id

    def days_on_record() -> int:
        runs = task_runs_of(run_id)
        assert len(runs) <= most_runs
        messages = [run.state.message or "" for run in runs if run.state.is_completed()]
        return sum(int(message.split()[0]) for message in messages)

    until(lambda: days_on_record() == count, within_s=60)
    assert any("(8 days)" in run.name for run in task_runs_of(run_id))


def test_a_cohort_is_batched_and_every_day_is_on_record(site):
    check_cohort(site, closed_days(site, 300), 300, most_runs=60)


@pytest.mark.slow
def test_a_cohort_of_10_000_days_loses_nothing(site):
    check_cohort(site, closed_days(site, 10_000), 10_000, most_runs=300)

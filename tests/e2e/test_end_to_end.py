"""The whole thing as a user runs it, from `trading-data server` to a cancelled and a killed run; see `make test-e2e`.

The tests share one installation and follow each other as a day would, so that the target stays short.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from e2e.browser import CHROMIUM, page
from e2e.installation import artifacts_of, ended, flow_run, runs_of, state_of, states_of, task_runs_of
from e2e.netlog import is_on_this_machine
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import IntervalSchedule
from support.prefect_server import until

from connectors.sandbox.faults import Fault
from contracts.validate import validate_path
from flows.automations import DEAD_RUNS, Patience, automations

if TYPE_CHECKING:
    from e2e.conftest import Subscriber
    from e2e.installation import Installation
    from e2e.netlog import NetLog
    from prefect.client.schemas.objects import FlowRun
    from prefect.events import Event

    from connectors.sandbox.databento_server import DatabentoSandbox

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    # Prefect's own client code raises these inside its threads.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

DAY = "2025-09-05"


def check_files(root: Path) -> None:
    """All that was written keeps to the contract, and nothing half-written lies about."""
    assert [str(finding) for finding in validate_path(root).findings] == []
    assert list(root.rglob("*.tmp")) == []


def test_a_second_deploy_changes_nothing(place: Installation):
    again = place.trading_data("deploy", "--json")
    assert again.returncode == 0, again.stderr
    things = json.loads(again.stdout)["things"]
    assert len(things) > 12
    assert {thing["what"] for thing in things} == {"same"}


def test_a_backfill_on_demand_brings_files_lines_events_and_a_page(place: Installation, subscriber: Subscriber):
    run, code = place.run("backfill-l2/on-demand", symbols=["AAPL", "brk.b"], start=DAY)

    assert code == 0
    state = ended(run)
    assert state.is_completed(), state
    assert all(part in flow_run(run.id).name for part in ("AAPL", "BRK", DAY))
    assert sorted((line["symbol"], line["date"], line["status"]) for line in place.manifest_lines) == [
        ("AAPL", DAY, "WRITE"),
        ("BRK-B", DAY, "WRITE"),
    ]
    summary = json.loads((place.root / "backfill_l2_summary.json").read_text())
    assert summary["counts"]["WRITE"] == 2
    check_files(place.root)
    # The server files what runs report with a delay.
    until(lambda: {f"AAPL {DAY}", f"BRK-B {DAY}"} <= {task.name for task in task_runs_of(run)})
    kinds = {artifact.type for artifact in artifacts_of(run).values()}
    assert {"markdown", "table", "progress"} <= kinds
    until(lambda: subscriber.named("level2.day.written", symbol="AAPL", date=DAY))
    (event,) = subscriber.named("level2.day.written", symbol="AAPL", date=DAY)
    assert (place.root / event.payload["path"]).is_file()


def test_a_run_that_ends_makes_the_coverage_fresh_and_a_program_hears_of_it(
    place: Installation, subscriber: Subscriber
):
    run, code = place.run("download-bars/on-demand", symbols=["AAPL"], bar_sizes=["1 hour"], start=DAY, end=DAY)
    assert code == 0
    assert ended(run).is_completed()

    # Prefect's server on SQLite now and then stands still for a minute when the machine is busy.
    until(lambda: runs_of("refresh-coverage/after-download"), 150)
    (chained,) = runs_of("refresh-coverage/after-download")
    assert ended(chained).is_completed()

    def heard() -> list[Event]:
        source = f"prefect.flow-run.{chained.id}"
        told = subscriber.named("coverage.refreshed")
        return [event for event in told if source in {each.id for each in event.related}]

    until(heard)
    (event,) = heard()
    assert event.payload["entry_count"] == 1
    index = json.loads((place.root / event.payload["path"]).read_text())
    assert "AAPL" in json.dumps(index)
    assert subscriber.named("bars.day.written", symbol="AAPL", date=DAY)
    check_files(place.root)


def test_a_schedule_fires_while_another_run_writes_and_no_line_is_lost(place: Installation):
    """The nightly, brought forward, and one on demand, on one root: nobody's lines are lost or torn."""
    days = ["2025-09-02", "2025-09-03", "2025-09-04"]
    span = {"start": days[0], "end": days[-1]}
    wanted = {"since_days": None, "symbols": ["NVDA", "MSFT"], **span}
    before = len(place.manifest_lines)
    with get_client(sync_client=True) as client:
        nightly = client.read_deployment_by_name("backfill-l2/nightly")
        regular = runs_of("backfill-l2/nightly")
        assert {run.auto_scheduled for run in regular} == {True}
        assert min(run.expected_start_time for run in regular) > dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)
        soon = DeploymentScheduleCreate(
            # Again and again: on a busy machine the server may make its runs when the first time is over.
            schedule=IntervalSchedule(interval=dt.timedelta(seconds=20), anchor_date=dt.datetime.now(dt.UTC)),
            active=True,
            parameters=wanted,
            slug="soon",
        )
        (schedule,) = client.create_deployment_schedules(nightly.id, [soon])

        def fired() -> list[Any]:
            return [
                run
                for run in runs_of("backfill-l2/nightly")
                if run.parameters.get("symbols") == wanted["symbols"] and not run.state.is_scheduled()
            ]

        until(fired, 150)
        # What it has made and nobody has started goes with it.
        client.delete_deployment_schedule(nightly.id, schedule.id)
    other, code = place.run("backfill-l2/on-demand", symbols=["TSLA", "AMD"], **span)
    assert code == 0
    assert state_of(other).is_completed()
    scheduled = fired()
    assert all(run.auto_scheduled for run in scheduled)
    assert all(ended(run).is_completed() for run in scheduled)

    lines = place.manifest_lines[before:]
    assert sorted((line["symbol"], line["date"]) for line in lines) == sorted(
        (symbol, day) for symbol in ("NVDA", "MSFT", "TSLA", "AMD") for day in days
    )
    assert {line["status"] for line in lines} == {"WRITE"}
    assert len({run_id for run_id, _ in groupby(line["run_id"] for line in lines)}) == 2
    check_files(place.root)


@pytest.fixture(scope="module")
def dead_run(place: Installation, vendor: DatabentoSandbox) -> FlowRun:
    """A run whose worker's machine died; it takes a while to be found out, so the next tests do not wait for that."""
    with get_client(sync_client=True) as client:
        # As deployed, but nobody here waits for four minutes.
        (quick,) = [each for each in automations(None, Patience(dead_s=35)) if each.name == DEAD_RUNS]
        client.update_automation(client.read_automations_by_name(DEAD_RUNS)[0].id, quick)
    vendor.add_fault(Fault("slow", symbol="SLOW", seconds=25))
    run, _ = place.run("backfill-l2/on-demand", watch=False, symbols=["ORCL", "SLOW"], start=DAY)
    until((place.root / "level2" / "ORCL" / f"{DAY}_snapshots_databento.parquet").exists, 120)
    place.kill_tree("worker")
    vendor.clear_faults()
    assert state_of(run).is_running()
    place.start_worker("worker-2")
    return run


@pytest.mark.usefixtures("dead_run")
def test_a_cancelled_capture_keeps_what_it_captured(place: Installation):
    run, _ = place.run("record-depth/session", watch=False, symbols=["AAPL"], minutes=10)
    until(lambda: any(path.stat().st_size > 10_000 for path in place.root.glob(".capture/*/*.journal")), 120)
    done = place.prefect("flow-run", "cancel", run.id)
    assert done.returncode == 0, done.stderr

    until(lambda: state_of(run).is_cancelled())
    assert states_of(run) == ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "CANCELLED"]
    (stats,) = (place.root / "level2" / "AAPL").glob("session_stats_*.json")
    document = json.loads(stats.read_text())
    assert document["end_reason"] == "sigterm"
    assert document["num_messages"] > 50
    assert list(place.root.glob(".capture/*/")) == []
    check_files(place.root)


@pytest.mark.usefixtures("dead_run")
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM} here")
def test_the_page_of_a_run_shows_it(place: Installation, tmp_path: Path):
    folder = Path(os.environ.get("E2E_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    (run,) = runs_of("backfill-l2/on-demand", lambda run: run.parameters.get("symbols") == ["AAPL", "brk.b"])
    with page(place.url.removesuffix("/api") + f"/runs/flow-run/{run.id}") as tab:
        # Its name, its state, and a task of it: all of the page is there.
        until(lambda: all(part in tab.text() for part in (run.name, "Completed", f"AAPL {DAY}")))
        assert tab.colours() > 20
        (folder / "flow-run.png").write_bytes(tab.picture())


def test_a_run_whose_machine_died_is_marked_and_can_simply_be_run_again(place: Installation, dead_run: FlowRun):
    until(lambda: state_of(dead_run).is_crashed(), 150)
    assert place.trading_data("deploy").returncode == 0

    again, code = place.run("backfill-l2/on-demand", symbols=["ORCL", "SLOW"], start=DAY)
    assert code == 0
    assert ended(again).is_completed()
    found = {line["symbol"]: line["status"] for line in place.manifest_lines if line["symbol"] in {"ORCL", "SLOW"}}
    assert found["SLOW"] == "WRITE"
    assert found["ORCL"] in {"SKIP", "WRITE"}
    check_files(place.root)


def test_nothing_left_the_machine(place: Installation, net: NetLog):
    attempts = net.attempts()
    assert [attempt for attempt in attempts if not is_on_this_machine(attempt.host)] == []
    # The hook was there, in every kind of process.
    assert len({attempt.pid for attempt in attempts}) >= 8
    port = place.url.split(":")[2].split("/")[0]
    assert sum(attempt.port == port for attempt in attempts) > 50

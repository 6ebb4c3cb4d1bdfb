"""`trading-data doctor` on a real machine and a real Prefect server: what is well, what is not, and the exit code."""

from __future__ import annotations

import datetime as dt
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate, GlobalConcurrencyLimitUpdate, WorkPoolUpdate
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Running, Scheduled
from support.prefect_server import until

from connectors.sandbox.ib_gateway import IbGateway
from connectors.store.call_log import SystemClock
from connectors.store.checkpoints import FOLDER_NAME
from connectors.store.live import CaptureFolder
from connectors.store.manifests import run_lock
from flows.automations import DEAD_RUNS, HEARTBEAT, PATIENCE
from flows.cli_deploy import deploy
from flows.cli_doctor import doctor, examine
from flows.deployments import CAPTURE_POOL, POOL
from flows.doctor_prefect import prefect_section
from flows.server_settings import ServerSetting, client_env
from flows.settings import load_settings
from flows.vendor_checks import COST, CREDENTIALS, ENTITLEMENT, GATEWAY, LIST, RANGE
from flows.vendor_gate import DatabentoGate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Place
    from prefect.client.orchestration import SyncPrefectClient
    from support.prefect_server import PrefectServer

    from flows.vendor_checks import CheckResult

# Prefect's own client and server code raises these inside its threads.
pytestmark = [
    pytest.mark.operations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KEY = "db-doctor-tests-2718281828459045"
DRIFTED = "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE"


@pytest.fixture
def machine(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A machine that is as it should be, without Prefect."""
    place.set(DATABENTO_API_KEY=KEY, PREFECT_HOME=place.folder / "prefect", **client_env())
    place.root.mkdir()
    return place


def found(*, vendors: bool = False) -> dict[str, CheckResult]:
    return {row.check: row for section in examine(vendors=vendors).sections for row in section.rows}


def test_without_prefect_and_with_nothing_wrong_it_ends_with_0_and_shows_no_key(machine, capsys):
    done = machine.command("doctor", "--json")
    with temporary_settings({PREFECT_API_URL: None}):
        assert doctor(False, False) == 0

    document, text = json.loads(done.stdout), capsys.readouterr().out
    assert (done.returncode, done.stderr, document["wrong"]) == (0, "", False)
    assert list(document["sections"]) == ["settings", "storage", "left behind", "Prefect"]
    assert document["sections"]["Prefect"] == [
        {
            "check": "API",
            "state": "skipped",
            "detail": "PREFECT_API_URL is not set: commands run without Prefect",
            "what to do": "",
        }
    ]
    assert document["limits"][3] == {
        "limit": "databento.streams",
        "vendor": "100 at once",
        "ours": "10 at once",
        "kept by": "Slots, Prefect",
        "used now": "0",
        "all machines": "-",
        "source": "Databento API reference, Historical, Rate limits: concurrent connections",
    }
    assert "DATABENTO_API_KEY is set" in text
    assert text.splitlines()[-1].startswith("all is well: ")
    for row in [*document["limits"], *document["sections"]["storage"]]:
        assert row.get("limit", row.get("check")) in text
    assert KEY not in done.stdout + text


@pytest.mark.parametrize(
    ("values", "check", "told"),
    [
        ({"L2_LEVELS": "many", "IB_PORT": "x"}, "settings", "L2_LEVELS: "),
        ({"L2_BACKFILL_WINDOW_ET": "noon"}, "window", "noon"),
        ({"L2_MIN_FREE_GB": 10**6}, "data root", "GB free"),
        ({}, "API", "no Prefect API answers at http://127.0.0.1:1/api"),
    ],
)
def test_what_is_wrong_is_said_and_ends_with_1(machine, capsys, values, check, told):
    machine.set(**values)

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api" if check == "API" else None}):
        assert doctor(True, False) == 1

    document = json.loads(capsys.readouterr().out)
    rows = {row["check"]: row for section in document["sections"].values() for row in section}
    assert rows[check]["state"] == "wrong"
    assert told in rows[check]["detail"]
    assert rows[check]["what to do"]


def test_with_vendors_the_checks_before_the_night_are_run_too_and_buy_nothing(machine, capsys):
    with IbGateway() as gateway, temporary_settings({PREFECT_API_URL: None}):
        machine.set(IB_HOST=gateway.host, IB_PORT=gateway.port)
        assert doctor(True, True) == 1

    rows = {row["check"]: row["state"] for row in json.loads(capsys.readouterr().out)["sections"]["vendors"]}
    # This vendor ended in 2025, and nobody wrote a task list.
    assert rows == {
        LIST: "wrong",
        CREDENTIALS: "ok",
        ENTITLEMENT: "ok",
        RANGE: "wrong",
        COST: "skipped",
        GATEWAY: "ok",
    }
    assert machine.billed_usd == 0
    assert machine.downloads == []


def test_what_is_held_and_what_runs_left_behind_is_seen_and_stays_as_it_is(machine, monkeypatch):
    monkeypatch.setattr(SystemClock, "monotonic_ns", lambda _: 10**15)
    gate = DatabentoGate(machine.cache)
    for _ in range(3):
        gate.acquire("metadata")
    dead = machine.root / FOLDER_NAME / "20250905T120000Z-dead.jsonl"
    dead.parent.mkdir()
    dead.write_text("")
    before = machine.tree()

    with gate.stream():
        held = {row["limit"]: row["used now"] for row in examine(vendors=False).to_document()["limits"]}
    after = {row["limit"]: row["used now"] for row in examine(vendors=False).to_document()["limits"]}
    left = found()
    with run_lock(load_settings().data_root, run_id="the-nightly"):
        busy = found()

    assert (held["databento.metadata"], held["databento.timeseries"], held["databento.streams"]) == ("3", "0", "1")
    assert (after["databento.streams"], after["ibkr.sessions"]) == ("0", "-")
    assert left["dead backfills"].state == "warning"
    assert "20250905T120000Z-dead" in left["dead backfills"].detail
    assert left["run lock"].detail == "free: no run writes to the data root"
    assert f"held by process {os.getpid()} on " in busy["run lock"].detail
    assert "run the-nightly" in busy["run lock"].detail
    # The lines of a run that is alive are its own.
    assert busy["dead backfills"].state == "ok"
    assert {name for name in machine.tree().keys() - before.keys() if "lock" not in name} == set()


def test_a_capture_that_was_killed_waits_for_recover(machine):
    with CaptureFolder(load_settings().data_root, "dead-1").create({"symbols": ["AAPL"]}):
        alive = found()["dead captures"]
    dead = found()["dead captures"]

    assert (alive.state, dead.state) == ("ok", "warning")
    assert (dead.detail, dead.todo) == ("1 to recover: dead-1", "run `trading-data recover`")


# --- on a server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def client(machine: Place, prefect_api: PrefectServer) -> Iterator[SyncPrefectClient]:
    # `machine` takes the address away that the other fixture may have set before.
    machine.set(**prefect_api.env)
    with get_client(sync_client=True) as running:
        yield running


@pytest.fixture
def deployed(client: SyncPrefectClient, capsys: pytest.CaptureFixture[str]) -> SyncPrefectClient:
    assert deploy(None, False, True) == 0
    capsys.readouterr()
    return client


def run_of(client: SyncPrefectClient, deployment: str, **options: Any) -> Any:
    return client.create_flow_run_from_deployment(client.read_deployment_by_name(deployment).id, **options)


def test_what_is_missing_and_a_pool_that_nobody_polls_are_wrong(deployed, monkeypatch, capsys):
    (automation,) = deployed.read_automations_by_name(DEAD_RUNS)
    deployed.delete_automation(automation.id)
    deployed.delete_deployment(deployed.read_deployment_by_name("backfill-l2/on-demand").id)
    deployed.delete_global_concurrency_limit_by_name("databento.streams")
    for worker in deployed.read_workers_for_work_pool(POOL):
        deployed.request(
            "DELETE",
            "/work_pools/{work_pool_name}/workers/{name}",
            path_params={"work_pool_name": POOL, "name": worker.name},
        )
    missing = found()
    assert deploy(None, False, True) == 0
    capsys.readouterr()
    deployed.send_worker_heartbeat(POOL, "night-shift", heartbeat_interval_seconds=30)
    monkeypatch.setattr("flows.doctor_prefect.SETTINGS", (ServerSetting(DRIFTED, "7", "it was measured"),))
    document = examine(vendors=False).to_document()

    assert (missing[f"pool {POOL}"].state, missing[f"pool {CAPTURE_POOL}"].state) == ("wrong", "wrong")
    assert missing["server settings"].state == "ok"
    assert missing["limit databento.streams"].todo == "run `trading-data deploy`"
    assert missing["deployment backfill-l2/on-demand"].detail == "missing"
    assert missing[f"automation {DEAD_RUNS}"].state == "wrong"
    rows = {row["check"]: row for row in document["sections"]["Prefect"]}
    assert rows[f"pool {POOL}"]["detail"] == "1 workers online: night-shift"
    assert rows["server settings"]["detail"] == f"{DRIFTED}=200 instead of 7: it was measured"
    assert (rows["deployments"]["state"], rows["automations"]["state"]) == ("ok", "ok")
    assert {row["limit"]: row["all machines"] for row in document["limits"]}["databento.streams"] == "0 of 10"


def test_what_people_changed_or_paused_is_a_warning(deployed):
    nightly = deployed.read_deployment_by_name("download-bars/nightly")
    session = deployed.read_deployment_by_name("record-depth/session")
    (automation,) = deployed.read_automations_by_name(DEAD_RUNS)
    deployed.update_deployment(nightly.id, DeploymentUpdate(description="mine"))
    deployed.update_deployment_schedule(session.id, session.schedules[0].id, active=False)
    deployed.update_global_concurrency_limit("databento.streams", GlobalConcurrencyLimitUpdate(limit=4))
    deployed.update_work_pool(POOL, WorkPoolUpdate(is_paused=True))
    deployed.pause_automation(automation.id)
    try:
        report = examine(vendors=False)
    finally:
        deployed.update_deployment_schedule(session.id, session.schedules[0].id, active=True)
        deployed.update_global_concurrency_limit("databento.streams", GlobalConcurrencyLimitUpdate(limit=10))
        deployed.update_work_pool(POOL, WorkPoolUpdate(is_paused=False))
        deployed.resume_automation(automation.id)
        assert deploy(None, False, True) == 0

    rows = {row.check: row for section in report.sections for row in section.rows}
    shared = {use.limit.name: use.shared for use in report.limits}
    told = {name: row.detail for name, row in rows.items() if row.state == "warning"}
    assert "description mine -> Download bars" in told["deployment download-bars/nightly"]
    assert "before-the-window is paused by somebody" in told["deployment record-depth/session"]
    assert told["limit databento.streams"] == "4 instead of 10"
    assert told[f"pool {POOL}"] == "paused: nothing starts"
    assert told[f"automation {DEAD_RUNS}"] == "switched off by somebody"
    # Nothing is to be served while no capture is scheduled.
    assert rows[f"pool {CAPTURE_POOL}"].state == "ok"
    assert shared["databento.streams"] == "0 of 4"


def test_runs_that_wait_too_long_and_runs_without_a_sign_of_life_are_wrong(deployed):
    now = dt.datetime.now(dt.UTC)
    late = run_of(
        deployed,
        "backfill-l2/on-demand",
        name="late one",
        state=Scheduled(scheduled_time=now - dt.timedelta(minutes=10)),
    )
    dead = run_of(deployed, "check-vendors/nightly", name="dead one")
    alive = run_of(deployed, "download-bars/on-demand", name="living one")
    for run in (dead, alive):
        assert deployed.set_flow_run_state(run.id, Running(), force=True).state.is_running()
    now = dt.datetime.now(dt.UTC)
    emit_event(HEARTBEAT, resource={"prefect.resource.id": f"prefect.flow-run.{alive.id}"})
    later = now + dt.timedelta(seconds=PATIENCE.dead_s)
    EventsWorker.instance().drain()

    def row(check: str, at: dt.datetime) -> CheckResult:
        section, _ = prefect_section(None, at)
        return next(row for row in section.rows if row.check == check)

    try:
        until(lambda: "late one" in row("late runs", now).detail, 60)
        until(lambda: "living one" not in row("dead runs", later).detail, 30)
        assert row("late runs", now).state == "wrong"
        assert "the oldest by 10 min" in row("late runs", now).detail
        assert row("dead runs", later).state == "wrong"
        assert "dead one" in row("dead runs", later).detail
        # Not `trading-data stop --cancel`, which would end what is alive as well.
        assert f"prefect flow-run cancel {dead.id}" in row("dead runs", later).todo
        assert "stop" not in row("dead runs", later).todo
        # What has only just begun need not have said anything.
        assert row("dead runs", now).state == "ok"
    finally:
        for run in (late, dead, alive):
            deployed.set_flow_run_state(run.id, Completed(), force=True)

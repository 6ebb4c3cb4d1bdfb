"""`trading-data deploy` on a real server: what it creates, what it leaves alone, what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate, GlobalConcurrencyLimitUpdate, WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Pending
from support.prefect_server import until

from flows.cli_deploy import deploy
from flows.deployments import CAPTURE_POOL, POOL

# Prefect's own client and server code raises these inside its threads.
pytestmark = [
    pytest.mark.operations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SECRET = "db-deploy-tests-1618033988749894"
REPOSITORY = Path(__file__).resolve().parents[2]
LIMITS = ("databento.streams", "ibkr.depth-lines", "ibkr.sessions")
NAMES = (
    "backfill-l2/nightly",
    "backfill-l2/on-demand",
    "record-depth/session",
    "record-depth/on-demand",
    "download-bars/nightly",
    "download-bars/on-demand",
    "refresh-coverage/after-download",
    "refresh-coverage/on-demand",
    "check-vendors/nightly",
)
AUTOMATIONS = (
    "trading-data: coverage after a download",
    "trading-data: dead runs",
    "trading-data: failed nightly",
    "trading-data: late nightly",
    "trading-data: empty or degraded day",
)


@pytest.fixture
def client(prefect_api, clean_environment, monkeypatch):
    # `clean_environment` takes the address away that the fixture before it has set.
    for key, value in prefect_api.env.items():
        monkeypatch.setenv(key, value)
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def said(client, capsys):
    """What a deploy says, as (kind, name) to (what, details)."""

    def run(*, dry_run: bool = False):
        assert deploy(None, dry_run, True) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["dry_run"] == dry_run
        return {(each["kind"], each["name"]): (each["what"], "; ".join(each["details"])) for each in document["things"]}

    return run


@pytest.fixture
def deployed(client, capsys):
    """Everything is there, and as it should be."""
    if deploy(None, True, False) == 0 and set(first_words(capsys.readouterr().out)) != {"same", "dry"}:
        remove_all(client)
        assert deploy(None, False, False) == 0
        capsys.readouterr()
    yield
    # A deploy leaves them switched off, and tests of other files have the same server.
    for name in AUTOMATIONS:
        for found in client.read_automations_by_name(name):
            client.resume_automation(found.id)


def first_words(text):
    return [line.split()[0] for line in text.splitlines()]


def remove_all(client):
    for deployment in client.read_deployments():
        if "trading-data" in deployment.tags:
            client.delete_deployment(deployment.id)
    for name in AUTOMATIONS:
        for found in client.read_automations_by_name(name):
            client.delete_automation(found.id)
    for delete, names in (
        (client.delete_work_pool, (POOL, CAPTURE_POOL)),
        (client.delete_global_concurrency_limit_by_name, LIMITS),
    ):
        for name in names:
            with suppress(ObjectNotFound):
                delete(name)


def test_the_first_time_everything_is_created_and_the_second_time_nothing_changes(client, capsys):
    remove_all(client)
    assert deploy(None, True, False) == 0
    preview = capsys.readouterr().out
    assert preview.endswith("dry run: nothing was changed\n")
    assert [pool.name for pool in client.read_work_pools() if pool.name in (POOL, CAPTURE_POOL)] == []

    assert deploy(None, False, False) == 0
    first = capsys.readouterr().out
    assert first.splitlines() == preview.splitlines()[:-1]
    assert set(first_words(first)) == {"created"}
    for name in (*NAMES, *AUTOMATIONS, *LIMITS, POOL, CAPTURE_POOL):
        assert name in first

    assert deploy(None, False, False) == 0
    second = capsys.readouterr().out
    assert set(first_words(second)) == {"same"}
    assert len(second.splitlines()) == len(first.splitlines())
    # With one of the wrong versions of its own dependencies Prefect's scheduler silently makes no runs.
    night = client.read_deployment_by_name("check-vendors/nightly")
    only = DeploymentFilter(id=DeploymentFilterId(any_=[night.id]))
    until(lambda: client.read_flow_runs(deployment_filter=only))
    begins = client.read_flow_runs(deployment_filter=only)[0].next_scheduled_start_time
    assert begins.astimezone(ZoneInfo("America/New_York")).strftime("%H:%M") == "19:45"


@pytest.mark.slow
def test_prefects_own_command_gives_the_same_deployments(client, deployed, said):
    for name in NAMES:
        client.delete_deployment(client.read_deployment_by_name(name).id)
    done = subprocess.run(
        [Path(sys.executable).with_name("prefect"), "--no-prompt", "deploy", "--all"],
        cwd=REPOSITORY,
        env={**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = said()
    assert {name: found["deployment", name] for name in NAMES} == dict.fromkeys(NAMES, ("same", ""))
    assert {name: found["automation", name][0] for name in AUTOMATIONS} == dict.fromkeys(AUTOMATIONS, "same")


def test_what_a_person_paused_or_allowed_stays_so_and_is_told(client, deployed, said):
    night = client.read_deployment_by_name("backfill-l2/nightly")
    (schedule,) = night.schedules
    client.update_deployment_schedule(night.id, schedule.id, active=False)
    client.pause_deployment(client.read_deployment_by_name("record-depth/session").id)
    client.create_deployment_schedules(night.id, [(CronSchedule(cron="0 3 * * *", timezone="UTC"), True)])
    (trigger,) = client.read_automations_by_name(AUTOMATIONS[0])
    client.pause_automation(trigger.id)
    client.update_global_concurrency_limit("databento.streams", GlobalConcurrencyLimitUpdate(limit=5))
    client.update_work_pool(POOL, WorkPoolUpdate(is_paused=True, concurrency_limit=3))

    found = said()

    what, details = found["deployment", "backfill-l2/nightly"]
    assert what == "same"
    assert "schedule weekday-evening is paused by somebody" in details
    assert "somebody's own" in details
    assert found["deployment", "record-depth/session"] == ("same", "paused by somebody")
    assert found["automation", AUTOMATIONS[0]] == ("same", "switched off by somebody")
    assert found["limit", "databento.streams"] == ("drift", "5 instead of 10; left as it is")
    assert found["pool", POOL] == ("same", "paused")
    assert client.read_global_concurrency_limit_by_name("databento.streams").limit == 5
    assert client.read_work_pool(POOL).concurrency_limit == 3
    # Nor does a deploy that has something else to change in it touch them.
    client.update_deployment_schedule(night.id, schedule.id, schedule=CronSchedule(cron="0 1 * * *", timezone="UTC"))
    what, details = said()["deployment", "backfill-l2/nightly"]
    assert what == "changed"
    assert "schedule weekday-evening cron 0 1 * * * -> 30 20 * * 1-5" in details
    after = {each.slug: each for each in client.read_deployment_by_name("backfill-l2/nightly").schedules}
    assert (after["weekday-evening"].active, after["weekday-evening"].schedule.cron) == (False, "30 20 * * 1-5")
    assert after[None].active


def test_what_differs_otherwise_is_changed_back_field_by_field(client, deployed, said):
    night = client.read_deployment_by_name("backfill-l2/nightly")
    client.update_deployment(
        night.id,
        DeploymentUpdate(
            tags=["mine"],
            parameters={"since_days": 1},
            concurrency_limit=4,
            job_variables={"env": {"DATABENTO_API_KEY": SECRET, "PREFECT_LOGGING_EXTRA_LOGGERS": SECRET}},
        ),
    )
    client.delete_deployment_schedule(night.id, night.schedules[0].id)
    (dead,) = client.read_automations_by_name("trading-data: dead runs")
    (coverage,) = client.read_automations_by_name(AUTOMATIONS[0])
    for each in (dead, coverage):
        mine = each.model_dump(exclude={"id", "owner_resource"}) | {"description": "mine", "enabled": False}
        client.update_automation(each.id, AutomationCore.model_validate(mine))
    client.create_automation(AutomationCore.model_validate(mine | {"name": dead.name}))

    preview = said(dry_run=True)
    found = said()

    assert preview == found
    what, details = found["deployment", "backfill-l2/nightly"]
    assert what == "changed"
    for text in (
        "tags ['mine'] -> ['trading-data'",
        "parameters {'since_days': 1} -> {'since_days': 7}",
        "concurrency_limit 4 -> 1",
        "job_variables differ in env.DATABENTO_API_KEY, env.PREFECT_FLOWS_HEARTBEAT_FREQUENCY, env.PREFECT_LOGGING",
        "schedule weekday-evening added",
    ):
        assert text in details
    # A key that an operator put into the environment of a deployment is nobody else's business.
    assert SECRET not in str(found)
    what, details = found["automation", "trading-data: dead runs"]
    assert what == "changed"
    assert "description mine -> A run that gives no sign of life" in details
    assert "one of the same name removed" in details
    what, details = found["automation", AUTOMATIONS[0]]
    assert what == "changed"
    assert "description mine -> A run of download-bars has ended" in details
    assert "switched off by somebody" in details
    assert not client.read_automations_by_name(AUTOMATIONS[0])[0].enabled
    assert {what for what, _ in said().values()} == {"same"}
    after = client.read_deployment_by_name("backfill-l2/nightly")
    assert after.global_concurrency_limit.limit == 1
    assert after.concurrency_options.collision_strategy == "ENQUEUE"


@pytest.mark.parametrize(
    ("deployment", "parameters", "named"),
    [
        ("backfill-l2/on-demand", {"symbols": "AAPL"}, "symbols"),
        ("backfill-l2/on-demand", {"max_workers": 0}, "max_workers"),
        ("backfill-l2/nightly", {"max_cost_usd": -1}, "max_cost_usd"),
        ("record-depth/session", {"minutes": 1441}, "minutes"),
        ("record-depth/session", {"levels": 51}, "levels"),
        ("download-bars/on-demand", {"start": 20250905}, "start"),
        ("check-vendors/nightly", {"vendors": ["reuters"]}, "vendors"),
    ],
    ids=str,
)
def test_bad_parameters_are_refused_before_a_run_exists(client, deployed, deployment, parameters, named):
    found = client.read_deployment_by_name(deployment)
    with pytest.raises(PrefectHTTPStatusError, match=named) as caught:
        client.create_flow_run_from_deployment(found.id, parameters=parameters)
    assert caught.value.response.status_code in (409, 422)


@pytest.mark.parametrize(
    ("deployment", "name"),
    [("backfill-l2/on-demand", "AwaitingConcurrencySlot"), ("record-depth/session", "Cancelled")],
)
def test_a_second_run_waits_and_a_second_capture_is_cancelled(client, deployed, deployment, name):
    found = client.read_deployment_by_name(deployment)
    first, second = (client.create_flow_run_from_deployment(found.id) for _ in range(2))
    try:
        client.set_flow_run_state(first.id, Pending())
        assert client.read_flow_run(first.id).state_name == "Pending"
        client.set_flow_run_state(second.id, Pending())
        assert client.read_flow_run(second.id).state_name == name
    finally:
        for run in (first, second):
            client.set_flow_run_state(run.id, Completed(), force=True)


def test_without_an_api_it_says_what_to_do(client, capsys):
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert deploy(None, False, False) == 2
    assert "trading-data server" in capsys.readouterr().err
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert deploy(None, False, False) == 2
    assert "PREFECT_API_URL is not set" in capsys.readouterr().err


def test_what_cannot_be_used_is_told_before_anything_is_changed(client, deployed, capsys, tmp_path, monkeypatch):
    assert deploy(tmp_path / "none.yaml", False, False) == 2
    assert "none.yaml" in capsys.readouterr().err
    monkeypatch.setenv("ALERTS_BLOCK", "slack-webhook/not-there")
    assert deploy(None, False, False) == 2
    assert "slack-webhook/not-there" in capsys.readouterr().err

"""What Prefect looks after, on a real server: dead runs, failed and late nights, thin data, stale coverage."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from uuid import uuid4

import psutil
import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import StateType
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed, Pending, Running, State
from support.prefect_server import PrefectServer, until

from flows.automations import HEARTBEAT, Patience, apply_automation, automations
from flows.cli_deploy import deploy
from flows.deployments import POOL

# Prefect's own client and server code raises these inside its threads.
pytestmark = [
    pytest.mark.operations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SHORT = Patience(dead_s=10, late_s=10)
ENOUGH = Patience(dead_s=100)
SLEEPER = """
import time
from prefect import flow

@flow(name="sleeper")
def sleeper():
    time.sleep(3600)
"""


class Inbox:
    """Where the notification block writes to: a small web server."""

    def __init__(self) -> None:
        self.messages: SimpleQueue[dict[str, str]] = SimpleQueue()
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                inbox.messages.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def subject(self) -> str:
        return self.messages.get(timeout=60)["subject"]


@pytest.fixture
def inbox():
    made = Inbox()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def client(prefect_api, clean_environment, monkeypatch, inbox):
    """A server with everything deployed, and alerts that come to the inbox."""
    for key, value in prefect_api.env.items():
        monkeypatch.setenv(key, value)
    CustomWebhookNotificationBlock(
        name="desk", url=inbox.url, json_data={"subject": "{{subject}}", "body": "{{body}}"}
    ).save("trading-data-tests", overwrite=True)
    monkeypatch.setenv("ALERTS_BLOCK", "custom-webhook/trading-data-tests")
    assert deploy(None, False, True) == 0
    with get_client(sync_client=True) as client:
        yield client
        for wanted in automations(None):
            for found in client.read_automations_by_name(wanted.name):
                client.delete_automation(found.id)


def start(client, deployment, *states, **parameters):
    """A run of a deployment that goes through states, as a worker would report them."""
    found = client.read_deployment_by_name(deployment)
    run = client.create_flow_run_from_deployment(found.id, **parameters)
    for state in states:
        client.set_flow_run_state(run.id, state)
    return run


def end(client, run, state):
    client.set_flow_run_state(run.id, state)


def emit(client, event, resource, related=()):
    document = {
        "id": str(uuid4()),
        "event": event,
        "occurred": dt.datetime.now(dt.UTC).isoformat(),
        "resource": resource,
        "related": list(related),
        "payload": {"reason": "no rows"},
    }
    client.request("POST", "/events", json=[document])


def day(client, symbol, event, status, quality):
    labels = {"symbol": symbol, "date": "2025-09-05", "status": status, "quality": quality}
    emit(client, event, {"prefect.resource.id": f"trading-data.level2.{symbol}.2025-09-05", **labels})


def test_coverage_is_refreshed_once_for_each_download_that_has_ended_however_its_end_is_called(client):
    refresh = client.read_deployment_by_name("refresh-coverage/after-download")
    only = DeploymentFilter(id=DeploymentFilterId(any_=[refresh.id]))
    before = len(client.read_flow_runs(deployment_filter=only))
    for count, last in enumerate(
        (Completed(name="Stopped"), Failed(message="no gateway"), State(type=StateType.CRASHED), Completed()), start=1
    ):
        run = start(client, "download-bars/on-demand", Pending(), Running())
        client.set_flow_run_name(run.id, "renamed while it runs")
        end(client, run, last)
        until(lambda: len(client.read_flow_runs(deployment_filter=only)) >= before + count)  # noqa: B023 - used at once
        assert len(client.read_flow_runs(deployment_filter=only)) == before + count
    # Its own end, and those of others, start nothing.
    end(client, start(client, "refresh-coverage/on-demand", Pending(), Running()), Completed())
    end(client, start(client, "download-bars/on-demand", Pending(), Running()), Completed())
    until(lambda: len(client.read_flow_runs(deployment_filter=only)) > before + count)
    assert len(client.read_flow_runs(deployment_filter=only)) == before + count + 1


def test_a_night_that_failed_is_told_and_a_run_by_hand_is_not(client, inbox):
    end(client, start(client, "backfill-l2/on-demand", Pending(), Running()), Failed(message="by hand"))
    night = start(client, "backfill-l2/nightly", Pending(), Running(), name="the night of Friday")
    end(client, night, Failed(message="401 from the vendor"))
    message = inbox.messages.get(timeout=60)
    assert message["subject"] == "backfill-l2: the night of Friday failed"
    assert "401 from the vendor" in message["body"]
    assert str(night.id) in message["body"]
    session = start(client, "record-depth/session", Pending(), Running(), name="Friday's capture")
    end(client, session, State(type=StateType.CRASHED, message="power"))
    assert inbox.subject() == "record-depth: Friday's capture failed"


def test_a_night_that_its_limit_cancelled_is_told_and_one_that_a_person_cancelled_is_not(client, inbox):
    """An attended capture is not in its way: it is of another deployment, with a limit of its own."""
    attended = start(client, "record-depth/on-demand", Pending(), Running())
    first = start(client, "record-depth/session", Pending(), Running(), name="Monday's capture")
    assert client.read_flow_run(first.id).state_name == "Running"
    by_person = start(client, "check-vendors/nightly", State(type=StateType.CANCELLED, message="by hand"))
    assert client.read_flow_run(by_person.id).state_name == "Cancelled"
    second = start(client, "record-depth/session", Pending(), name="the capture of the day")
    assert client.read_flow_run(second.id).state_name == "Cancelled"
    message = inbox.messages.get(timeout=60)
    assert message["subject"] == "record-depth: the capture of the day did not run"
    assert message["body"].startswith("Deployment concurrency limit reached.")
    end(client, first, State(type=StateType.CANCELLED))
    end(client, attended, State(type=StateType.CRASHED, message="nobody is told of it"))
    last = start(client, "check-vendors/nightly", Pending(), Running(), name="last")
    end(client, last, Failed())
    assert inbox.subject() == "check-vendors: last failed"


def test_an_empty_day_and_a_degraded_one_are_told_once_an_hour_each_and_good_ones_never(client, inbox):
    day(client, "GOOD", "level2.day.written", "WRITE", "ok")
    day(client, "POOR", "level2.day.written", "WRITE", "degraded")
    assert inbox.subject() == "Level 2 of POOR 2025-09-05: WRITE, quality degraded"
    day(client, "POOR2", "level2.day.written", "WRITE", "degraded")
    day(client, "NONE", "level2.day.empty", "EMPTY", "ok")
    message = inbox.messages.get(timeout=60)
    assert message["subject"] == "Level 2 of NONE 2025-09-05: EMPTY, quality ok"
    assert message["body"].startswith("no rows")


def test_a_run_that_went_silent_is_marked_crashed_and_one_that_nobody_begins_is_told(client, inbox):
    """The same triggers as the real ones, with less patience."""
    block = client.read_block_document_by_name("trading-data-tests", "custom-webhook").id
    for wanted in automations(block, SHORT):
        apply_automation(client, wanted, dry_run=False)
    tag = {"prefect.resource.id": "prefect.tag.trading-data", "prefect.resource.role": "tag"}

    def beat(run, *related):
        emit(client, HEARTBEAT, {"prefect.resource.id": f"prefect.flow-run.{run.id}"}, related)

    silent, ended, foreign, alive = (
        start(client, deployment, Pending(), Running())
        for deployment in (
            "download-bars/nightly",
            "check-vendors/nightly",
            "refresh-coverage/on-demand",
            "backfill-l2/nightly",
        )
    )
    late = start(client, "record-depth/session", State(type=StateType.SCHEDULED, name="Late"), name="Monday's capture")
    for run in (silent, ended, alive):
        beat(run, tag)
    beat(foreign)
    end(client, ended, Completed(name="Stopped"))

    def crashed():
        beat(alive, tag)
        time.sleep(1)
        return client.read_flow_run(silent.id).state_name == "Crashed"

    until(crashed)
    assert "no sign of life for 10 s" in client.read_flow_run(silent.id).state.message
    subjects = {inbox.subject(), inbox.subject()}
    assert "record-depth: Monday's capture has not begun" in subjects
    assert [client.read_flow_run(run.id).state_name for run in (ended, foreign, alive)] == [
        "Stopped",
        "Running",
        "Running",
    ]
    for run in (foreign, alive):
        end(client, run, Completed())
    client.delete_flow_run(late.id)


@contextmanager
def worker(server, folder):
    """A worker with the runs that it starts, which can be killed together as a power cut would."""
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("prefect"), "worker", "start", "--pool", POOL],
            env={**os.environ, **server.env, "PYTHONPATH": str(folder), "PREFECT_WORKER_QUERY_SECONDS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        # Its runs are in process groups of their own.
        for each in (*psutil.Process(process.pid).children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_power_cut_marks_runs_crashed_and_an_api_that_is_away_for_half_a_minute_marks_none(
    clean_environment, tmp_path, monkeypatch, capsys
):
    """With less patience than is deployed, and yet enough."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    server = PrefectServer(tmp_path)
    for key, value in server.env.items():
        monkeypatch.setenv(key, value)
    try:
        server.start()
        with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
            assert deploy(None, False, True) == 0
            for wanted in automations(None, ENOUGH):
                apply_automation(client, wanted, dry_run=False)
            like = client.read_deployment_by_name("backfill-l2/on-demand")
            made = client.create_deployment(
                flow_id=client.create_flow_from_name("sleeper"),
                name="test",
                entrypoint="sleeper.sleeper",
                work_pool_name=POOL,
                job_variables=like.job_variables,
                tags=like.tags,
            )
            run = client.create_flow_run_from_deployment(made)

            def beats():
                page = client.read_events(
                    EventFilter(
                        event=EventNameFilter(name=[HEARTBEAT]),
                        resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
                        occurred=EventOccurredFilter(since=run.created),
                    ),
                    limit=50,
                )
                return sorted(event.occurred for event in page.events)

            with worker(server, tmp_path):
                until(lambda: len(beats()) >= 2, 180)
                server.kill()
                away = dt.datetime.now(dt.UTC)
                time.sleep(30)
                server.start()
                # Nothing that the outage swallowed may be believed later: the whole patience passes.
                until(lambda: beats()[-1] > away + dt.timedelta(seconds=ENOUGH.dead_s + 30), 600)
                assert client.read_flow_run(run.id).state_name == "Running"
                seen = beats()
                gap = max((later - earlier).total_seconds() for earlier, later in pairwise(seen))
                assert gap < ENOUGH.dead_s
            killed = dt.datetime.now(dt.UTC)
            until(lambda: client.read_flow_run(run.id).state_name == "Crashed", ENOUGH.dead_s + 60)
            took = (dt.datetime.now(dt.UTC) - killed).total_seconds()
            with capsys.disabled():
                sys.stdout.write(
                    f"\nlongest silence {gap:.0f} s in an outage of 30 s; Crashed {took:.0f} s after kill\n"
                )
    finally:
        server.kill()

"""`trading-data stop` with a real worker: nothing new starts, what runs ends or is cancelled, the dead are buried."""

from __future__ import annotations

import contextvars
import datetime as dt
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Completed, Pending, Running
from support.prefect_server import PrefectServer, until

from flows.cli_deploy import deploy
from flows.cli_stop import drain, stop
from flows.deployments import CAPTURE_POOL, POOL

# Prefect's own client and server code raises these inside its threads.
pytestmark = [
    pytest.mark.operations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

DEAD_S = 12
PATIENT = """
import time
from pathlib import Path
from prefect import flow

@flow(name="patient")
def patient(folder: str):
    place = Path(folder)
    (place / "begun").touch()
    try:
        while not (place / "end").exists():
            time.sleep(0.05)
    finally:
        (place / "published").touch()
"""


@pytest.fixture
def client(prefect_api, clean_environment, monkeypatch, capsys):
    for key, value in prefect_api.env.items():
        monkeypatch.setenv(key, value)
    assert deploy(None, False, True) == 0
    capsys.readouterr()
    # No worker is about to take a run here; where one is, the test says so.
    monkeypatch.setattr("flows.cli_stop._SETTLE_S", 0.1)
    with get_client(sync_client=True) as client:
        yield client
        assert stop(None, False, True) == 0
        for name in (POOL, CAPTURE_POOL):
            client.update_work_pool(name, WorkPoolUpdate(is_paused=False))


@pytest.fixture
def patient(client, prefect_api, tmp_path):
    """Starts a run that a worker executes, which ends when its folder says so; returns run and folder."""
    (tmp_path / "patient_flow.py").write_text(PATIENT)
    made = client.create_deployment(
        flow_id=client.create_flow_from_name("patient"),
        name="test",
        entrypoint="patient_flow.patient",
        work_pool_name=POOL,
    )
    with (tmp_path / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("prefect"), "worker", "start", "--pool", POOL],
            env={
                **os.environ,
                **prefect_api.env,
                "PYTHONPATH": str(tmp_path),
                "PREFECT_WORKER_QUERY_SECONDS": "1",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def start(name):
        folder = tmp_path / name
        folder.mkdir()
        return client.create_flow_run_from_deployment(made, parameters={"folder": str(folder)}, name=name), folder

    yield start
    # Its runs are in process groups of their own.
    for each in (*psutil.Process(process.pid).children(recursive=True), process):
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    client.delete_deployment(made)


def state(client, run):
    return client.read_flow_run(run.id).state_name


@pytest.mark.slow
def test_what_runs_may_end_nothing_new_starts_and_after_a_resume_it_does_until_it_is_cancelled(client, patient, capsys):
    first, folder = patient("first")
    until((folder / "begun").exists)

    assert stop(0.1, False, False) == 1
    told = capsys.readouterr().err
    assert f"pool {POOL} is paused" in told
    assert "first (Running for 0 min)" in told
    assert "not ended after 0.1 s: first" in told
    second, second_folder = patient("second")
    (folder / "end").touch()
    assert stop(None, False, False) == 0
    assert "nothing runs" in capsys.readouterr().out
    assert state(client, first) == "Completed"
    assert state(client, second) in {"Scheduled", "Late"}

    assert stop(None, False, True) == 0
    assert f"pool {POOL} goes on" in capsys.readouterr().out
    until((second_folder / "begun").exists)
    assert stop(60, True, False) == 0
    assert "cancelling second" in capsys.readouterr().err
    assert state(client, second) == "Cancelled"
    assert (second_folder / "published").exists()


def test_a_run_that_nobody_answers_for_is_marked_crashed_after_a_grace(client, capsys):
    found = client.read_deployment_by_name("backfill-l2/on-demand")
    runs = [client.create_flow_run_from_deployment(found.id, name=name) for name in ("dead", "picked-up")]
    client.set_flow_run_state(runs[0].id, Pending())
    client.set_flow_run_state(runs[0].id, Running())
    client.set_flow_run_state(runs[1].id, Pending(), force=True)
    assert drain(client, timeout_s=1, cancel=False, dead_s=3600) == 1
    assert [state(client, run) for run in runs] == ["Running", "Pending"]
    # Whether the API was away, and lost signs of life, nobody knows who has only just begun to ask.
    began = client.read_flow_run(runs[0].id).start_time
    until(lambda: dt.datetime.now(dt.UTC) - began > dt.timedelta(seconds=4))
    assert drain(client, timeout_s=1, cancel=False, dead_s=3) == 1
    assert [state(client, run) for run in runs] == ["Running", "Pending"]
    assert drain(client, timeout_s=60, cancel=True, dead_s=3) == 0
    assert [state(client, run) for run in runs] == ["Crashed", "Crashed"]
    assert "marked Crashed: dead" in capsys.readouterr().err


def test_a_stop_pauses_what_a_serving_process_asks_for_and_a_resume_leaves_what_a_person_paused(client, capsys):
    session = client.read_deployment_by_name("record-depth/session").id
    client.update_work_pool(POOL, WorkPoolUpdate(is_paused=True))
    for _ in range(2):
        assert stop(30, False, False) == 0
        assert client.read_work_pool(CAPTURE_POOL).is_paused
        assert client.read_deployment(session).paused
    assert stop(None, False, True) == 0
    assert client.read_work_pool(POOL).is_paused
    assert not client.read_work_pool(CAPTURE_POOL).is_paused
    assert not client.read_deployment(session).paused
    capsys.readouterr()
    assert stop(None, False, True) == 0
    assert capsys.readouterr().out == "nothing is paused by `trading-data stop`\n"


def test_without_pools_it_says_who_makes_them(client, capsys):
    client.delete_work_pool(CAPTURE_POOL)
    assert stop(30, False, False) == 0
    assert f"there is no pool {CAPTURE_POOL} [trading-data deploy creates it]" in capsys.readouterr().err
    assert deploy(None, False, True) == 0


def test_one_pool_is_stopped_and_goes_on_without_the_other(client, capsys):
    """As the unit of the worker does at each stop and start."""
    capture = client.create_flow_run_from_deployment(client.read_deployment_by_name("record-depth/session").id)
    client.set_flow_run_state(capture.id, Running(), force=True)
    try:
        assert stop(30, True, False, [POOL]) == 0
        assert state(client, capture) == "Running"
        assert client.read_work_pool(POOL).is_paused
        assert not client.read_work_pool(CAPTURE_POOL).is_paused
        assert not client.read_deployment_by_name("record-depth/session").paused
    finally:
        client.set_flow_run_state(capture.id, Completed(), force=True)
    # Now all is stopped by a person, too, and only the worker's pool goes on with its unit.
    assert stop(30, False, False) == 0
    assert stop(1, False, True, [POOL]) == 0
    assert not client.read_work_pool(POOL).is_paused
    assert client.read_work_pool(CAPTURE_POOL).is_paused
    assert stop(None, False, True) == 0
    assert not client.read_work_pool(CAPTURE_POOL).is_paused
    assert not client.read_deployment_by_name("record-depth/on-demand").paused
    capsys.readouterr()
    for resume in (False, True):
        assert stop(1, False, resume, ["trading-dat"]) == 2
        assert "there is no pool trading-dat" in capsys.readouterr().err


def test_a_run_that_a_worker_had_fetched_before_the_pause_is_waited_for(client, monkeypatch):
    monkeypatch.setattr("flows.cli_stop._SETTLE_S", 3.0)
    made = client.read_deployment_by_name("backfill-l2/on-demand").id
    run = client.create_flow_run_from_deployment(made, name="fetched")

    def taken_late():
        until(lambda: client.read_work_pool(POOL).is_paused)
        # After the first look, as far as that can be: what is seen at once is waited for anyway.
        time.sleep(1)
        client.set_flow_run_state(run.id, Pending(), force=True)

    # With the address of the server, which is a setting of this context.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(taken_late,))
    thread.start()
    try:
        assert stop(5, False, False) == 1
        assert state(client, run) == "Pending"
    finally:
        thread.join()
        client.set_flow_run_state(run.id, Completed(), force=True)


@pytest.mark.slow
def test_after_an_outage_a_run_has_all_its_time_to_be_heard_of(clean_environment, tmp_path, monkeypatch, capsys):
    """Its signs of life were lost while the API was away; that says nothing about the run."""
    server = PrefectServer(tmp_path)
    for key, value in server.env.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("flows.cli_stop._POLL_S", 0.2)
    ended: list[int] = []
    try:
        server.start()
        with temporary_settings({PREFECT_API_URL: server.url}):
            assert deploy(None, False, True) == 0
            with get_client(sync_client=True) as client:
                made = client.read_deployment_by_name("backfill-l2/on-demand").id
                run = client.create_flow_run_from_deployment(made, name="living")
                client.set_flow_run_state(run.id, Running(), force=True)
                began = time.monotonic()

                def drained():
                    with (
                        temporary_settings({PREFECT_API_URL: server.url, PREFECT_CLIENT_MAX_RETRIES: 0}),
                        get_client(sync_client=True, httpx_settings={"timeout": 5}) as own,
                    ):
                        ended.append(drain(own, timeout_s=None, cancel=False, dead_s=DEAD_S))

                thread = threading.Thread(target=drained)
                thread.start()
                server.kill()
                until(lambda: time.monotonic() - began > DEAD_S, 60)
                server.start()
                back = time.monotonic()
                while time.monotonic() - back < DEAD_S / 2:
                    assert client.read_flow_run(run.id).state_name == "Running"
                    time.sleep(0.2)
                client.set_flow_run_state(run.id, Completed(), force=True)
                thread.join(60)
        assert ended == [0]
        assert "marked Crashed" not in capsys.readouterr().err
    finally:
        server.kill()


@pytest.mark.parametrize("resume", [False, True])
def test_without_an_api_it_says_what_to_do(capsys, resume):
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert stop(None, False, resume) == 2
    assert "trading-data server" in capsys.readouterr().err


def test_an_api_that_goes_away_is_waited_for(capsys):
    """Against a client of a server that is gone: the deadline ends it, not the error."""
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        get_client(sync_client=True, httpx_settings={"timeout": 1}) as away,
    ):
        assert drain(away, timeout_s=0, cancel=False) == 1
    assert "does not answer, its return is waited for" in capsys.readouterr().err

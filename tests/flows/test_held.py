"""Slots of shared limits: real servers that are killed and started again, real processes that hold and die."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_API_URL, temporary_settings
from support.prefect_server import PrefectServer, until

from flows.errors import ConfigurationError
from flows.held import LEASE_S, LimitBusy, held
from flows.prefect_api import limit_states
from flows.settings import Settings

pytestmark = [
    pytest.mark.operations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

STREAMS = "databento.streams"
SESSIONS = "ibkr.sessions"

# Holds slots until a line comes; says when it began.
HOLD = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
from flows.held import held
with held({sys.argv[1]: int(sys.argv[2])}, what="another run"):
    print("held", flush=True)
    sys.stdin.readline()
print("given back", flush=True)
"""

# Three threads hold again and again, and write down when.
CROWD = """
import os, sys, threading, time
from flows.held import held
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def work():
    for _ in range(3):
        with held({"databento.streams": 4}, what="one of a crowd"):
            began = time.monotonic_ns()
            time.sleep(0.2)
            os.write(log, b"%d %d\\n" % (began, time.monotonic_ns()))
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.fixture
def quick(monkeypatch):
    """Renewals and tries more often than in earnest; leases are as long as ever."""
    monkeypatch.setattr("flows.held._RENEW_S", 0.3)
    monkeypatch.setattr("flows.held._RETRY_S", 0.3)
    monkeypatch.setattr("flows.held._NOT_THERE_S", 0.5)


@pytest.fixture
def own_server(tmp_path, monkeypatch):
    """A server that a test may kill; not started yet."""
    home = tmp_path / "prefect"
    home.mkdir()
    server = PrefectServer(home)
    for key, value in server.env.items():
        monkeypatch.setenv(key, value)
    with temporary_settings({PREFECT_API_URL: server.url}):
        yield server
    server.kill()


@contextmanager
def holder(name, count, log=None):
    """A process that holds slots."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, name, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log or subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def active(name):
    (state,) = [state for state in limit_states(Settings()) if state.name == name]
    return state.active_slots


def leases(server):
    """The leases on the server's disk, by id: until when they last."""
    folder = Path(server.env["PREFECT_HOME"]) / "concurrency_leases"
    return {
        path.stem: json.loads(path.read_text())["expiration"]
        for path in folder.glob("*.json")
        if path.stem != "expirations"
    }


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "flows.held" and record.levelno >= 30]


# --- taking --------------------------------------------------------------------------------------------------------


def test_slots_are_held_during_the_block_and_given_back_after_it(prefect_api):
    with held({STREAMS: 4, SESSIONS: 1, "ibkr.depth-lines": 0}, what="AAPL 2025-09-05"):
        assert (active(STREAMS), active(SESSIONS), active("ibkr.depth-lines")) == (4, 1, 0)
    assert (active(STREAMS), active(SESSIONS)) == (0, 0)
    with pytest.raises(RuntimeError), held({STREAMS: 4}, what="a run that fails"):
        raise RuntimeError
    assert active(STREAMS) == 0


def test_a_limit_that_is_missing_is_made_before_anything_is_let_through(prefect_api):
    with held({STREAMS: 1}, what="a run"):
        pass
    with get_client(sync_client=True) as client:
        client.delete_global_concurrency_limit_by_name(STREAMS)
    with held({STREAMS: 10}, what="a run"), pytest.raises(LimitBusy), held({STREAMS: 1}, what="b", timeout_s=0):
        pass


def test_processes_and_threads_never_hold_more_than_there_is(prefect_api, tmp_path):
    crowd = [subprocess.Popen([sys.executable, "-c", CROWD, str(tmp_path / "log")]) for _ in range(2)]
    assert [process.wait(120) for process in crowd] == [0, 0]

    spans = [tuple(map(int, line.split())) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(spans) == 18
    at_once = [sum(began <= start < ended for began, ended in spans) for start, _ in spans]
    # 4 of 10 each: two fit, and two were at it together.
    assert max(at_once) == 2
    assert active(STREAMS) == 0


def test_a_run_that_waits_too_long_says_who_holds_what_it_wants(prefect_api, caplog):
    @flow(name="some-flow", flow_run_name="AAPL 2025-09-05")
    def holding():
        with held({STREAMS: 8}, what="AAPL 2025-09-05"):
            with pytest.raises(LimitBusy) as caught:
                held({STREAMS: 4}, what="MSFT 2025-09-05", timeout_s=1).__enter__()
            return caught.value

    error = holding()

    assert 1 <= error.waited_s < 6
    assert error.name == STREAMS
    assert error.holders == ("run 'AAPL 2025-09-05' (8 for AAPL 2025-09-05)",)
    assert "MSFT 2025-09-05: the limit databento.streams gave no 4 slot(s)" in str(error)
    assert "held by run 'AAPL 2025-09-05'" in str(error)
    assert len(warnings_of(caplog)) == 1
    # Whoever has ended holds nothing.
    assert all(state.holders == () for state in limit_states(Settings()))


def test_a_waiting_run_goes_on_when_a_slot_is_free(prefect_api):
    gone_on = threading.Event()

    def wait():
        with held({STREAMS: 10}, what="the second"):
            gone_on.set()

    with held({STREAMS: 1}, what="the first"):
        thread = threading.Thread(target=copy_context().run, args=(wait,))
        thread.start()
        assert not gone_on.wait(1)
    assert gone_on.wait(30)
    thread.join()


def test_more_than_a_limit_allows_is_held_as_far_as_it_goes_and_told(prefect_api, caplog):
    with held({STREAMS: 11}, what="a run"):
        assert active(STREAMS) == 10
    assert "allows 10, 11 are wanted" in caplog.text


def test_a_limit_that_lets_nothing_through_refuses_at_once(prefect_api):
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(STREAMS, 0)
        try:
            with pytest.raises(ConfigurationError, match=r"databento\.streams allows 0, 4 are wanted"):
                held({STREAMS: 4}, what="a run").__enter__()
        finally:
            client.upsert_global_concurrency_limit_by_name(STREAMS, 10)


def test_a_limit_that_nobody_knows_is_a_mistake(prefect_api):
    with pytest.raises(KeyError, match=r"ibkr\.sessions"):
        held({"nobody": 1}, what="a run").__enter__()


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TerminationSignal)]
)
def test_a_signal_ends_the_wait(prefect_api, request, number, raised):
    def handler(number, frame):
        raise raised(number)

    # As Prefect does it in a flow run.
    before = signal.signal(number, handler)
    request.addfinalizer(lambda: signal.signal(number, before))
    with held({STREAMS: 10}, what="the first"):
        began = time.monotonic()
        timer = threading.Timer(1.5, os.kill, (os.getpid(), number))
        timer.start()
        with pytest.raises(raised):
            held({STREAMS: 1}, what="the second").__enter__()
        assert time.monotonic() - began < 10
        assert active(STREAMS) == 10
    assert active(STREAMS) == 0


# --- holding -------------------------------------------------------------------------------------------------------


def test_a_lost_lease_is_taken_again_and_what_others_took_is_told_once(prefect_api, quick, caplog):
    caplog.set_level(logging.INFO)
    before = set(leases(prefect_api))
    with held({STREAMS: 10}, what="a run"):
        (lease,) = set(leases(prefect_api)) - before
        with get_client(sync_client=True) as client:
            # As the server does it with a lease that nobody renewed.
            client.release_concurrency_slots_with_lease(lease)
        until(lambda: set(leases(prefect_api)) - before - {lease})
        assert active(STREAMS) == 10
        assert warnings_of(caplog) == []

        (lease,) = set(leases(prefect_api)) - before
        with get_client(sync_client=True) as client:
            client.release_concurrency_slots_with_lease(lease)
            client.increment_concurrency_slots([STREAMS], 1, "concurrency")
        until(lambda: warnings_of(caplog))
        with get_client(sync_client=True) as client:
            client.release_concurrency_slots([STREAMS], 1, 1.0)
        until(lambda: active(STREAMS) == 10)
    assert active(STREAMS) == 0
    (told,) = warnings_of(caplog)
    assert "gave its slots away" in told
    assert "a run: Prefect counts databento.streams again" in caplog.text


def test_a_run_begins_without_an_api_says_so_once_and_is_counted_when_it_is_there(own_server, quick, caplog):
    with held({STREAMS: 4, SESSIONS: 1}, what="AAPL 2025-09-05"):
        own_server.start()
        until(lambda: active(STREAMS) == 4 and active(SESSIONS) == 1)
    assert (active(STREAMS), active(SESSIONS)) == (0, 0)
    (told,) = warnings_of(caplog)
    assert told.startswith("AAPL 2025-09-05: Prefect's API does not answer")
    assert "limited on this machine alone" in told


def test_without_an_api_nothing_is_asked_and_nothing_waits(caplog):
    caplog.set_level(logging.INFO)
    with temporary_settings({PREFECT_API_URL: None}):
        began = time.monotonic()
        with held({STREAMS: 4}, what="a run"):
            assert time.monotonic() - began < 1
            assert not any(thread.name.startswith("holds ") for thread in threading.enumerate())
    assert "no Prefect API is set" in caplog.text
    assert warnings_of(caplog) == []


# --- minutes -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_holder_frees_its_slots_in_about_a_minute(prefect_api):
    with holder(STREAMS, 10) as process:
        began = time.monotonic()
        process.kill()
        process.wait()
        with held({STREAMS: 10}, what="the next", timeout_s=150):
            freed_s = time.monotonic() - began
    # The server looks every 15 s for leases that are over.
    assert LEASE_S - 20 < freed_s < LEASE_S + 45, freed_s


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_api_away_for_half_a_minute_changes_nothing_for_a_holder(own_server, tmp_path):
    own_server.start()
    with (tmp_path / "log").open("w") as log, holder(STREAMS, 10, log) as process:
        ((lease, until_when),) = leases(own_server).items()
        own_server.kill()
        time.sleep(30)
        assert process.poll() is None
        own_server.start()
        # The leases are on disk: a restart keeps the slots.
        with pytest.raises(LimitBusy):
            held({STREAMS: 1}, what="the next", timeout_s=80).__enter__()
        assert set(leases(own_server)) == {lease}
        assert leases(own_server)[lease] > until_when
        assert active(STREAMS) == 10
        out, _ = process.communicate("go\n", timeout=30)
        assert out == "given back\n"
        assert active(STREAMS) == 0
    # A server that needs long to start may bring the outage beyond a lease: that is told once.
    assert (tmp_path / "log").read_text().count("flows.held WARNING") <= 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_api_away_for_longer_than_a_lease_costs_the_run_nothing(own_server, tmp_path):
    own_server.start()
    with (tmp_path / "log").open("w") as log, holder(STREAMS, 10, log) as process:
        own_server.kill()
        time.sleep(LEASE_S + 15)
        assert process.poll() is None
        own_server.start()
        until(lambda: "Prefect counts databento.streams again" in (tmp_path / "log").read_text())
        until(lambda: active(STREAMS) == 10)
        process.communicate("go\n", timeout=30)
        assert active(STREAMS) == 0
    told = [line for line in (tmp_path / "log").read_text().splitlines() if "flows.held WARNING" in line]
    assert len(told) == 1, told


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_temporary_api_holds_nothing_that_a_killed_run_could_leave_behind(tmp_path):
    code = (
        "from prefect import flow\n"
        "from flows.held import held\n"
        "from flows.prefect_api import limit_states\n"
        "@flow\n"
        "def work():\n"
        "    with held({'databento.streams': 4}, what='a run'):\n"
        "        return limit_states()[0].active_slots\n"
        "print(work())\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    env |= {
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "DO_NOT_TRACK": "1",
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["0"], done.stderr

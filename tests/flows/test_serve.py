"""`trading-data record-depth --serve`: a real server of Prefect, the sandbox gateway, a process of its own."""

from __future__ import annotations

import contextvars
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelling
from support.prefect_server import PrefectServer, until

from connectors.sandbox.ib_gateway import IbGateway
from contracts.validate import validate_path
from flows.cli_deploy import deploy
from flows.cli_stop import stop
from flows.errors import ConfigurationError
from flows.serving import RunServer

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = Path(sys.executable).with_name("trading-data")
NAME = "record-depth/session"
POOL = "trading-data-capture"

# Prefect's own client and server code raises these inside its threads.
pytestmark = [
    pytest.mark.operations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@contextmanager
def deployed(server: PrefectServer) -> Iterator[PrefectServer]:
    """All of this project's deployments are there, and none of its schedules fires: it would take our place."""
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: server.url}):
        for key, value in server.env.items():
            patch.setenv(key, value)
        assert deploy(None, False, True) == 0
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name(NAME)
            for schedule in deployment.schedules:
                client.update_deployment_schedule(deployment.id, schedule.id, active=False)
            yield server
            for schedule in deployment.schedules:
                client.update_deployment_schedule(deployment.id, schedule.id, active=True)


@pytest.fixture(scope="module")
def server(prefect_server: PrefectServer) -> Iterator[PrefectServer]:
    with deployed(prefect_server):
        yield prefect_server


@pytest.fixture(scope="module")
def gateway() -> Iterator[IbGateway]:
    with IbGateway(rate_per_s=100) as running:
        yield running


@contextmanager
def placed(server: PrefectServer, gateway: IbGateway, folder: Path) -> Iterator[Path]:
    """This process and those that it starts use the server and a data root of their own."""
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: server.url}):
        for key, value in {
            **server.env,
            **gateway.env(),
            "DATA_PATH_OVERRIDE": folder / "data",
            "CACHE_PATH": folder / "cache",
            "L2_MIN_FREE_GB": 0,
            "L2_FLUSH_SECONDS": 0.2,
            "PREFECT_RUNNER_POLL_FREQUENCY": 1,
        }.items():
            patch.setenv(key, str(value))
        yield folder / "data"


@pytest.fixture
def root(clean_environment: None, server: PrefectServer, gateway: IbGateway, tmp_path: Path) -> Iterator[Path]:
    with placed(server, gateway, tmp_path) as root:
        yield root


class Serving:
    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        # As a terminal does with Ctrl-C: the whole group.
        os.killpg(self.process.pid, number)
        return self.process.wait(60)


@contextmanager
def serving(folder: Path) -> Iterator[Serving]:
    log = folder / "serve.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [COMMAND, "record-depth", "--serve"], cwd=folder, stdout=file, stderr=file, start_new_session=True
        )
    running = Serving(process, log)
    try:
        yield running
    except BaseException:
        print(running.log)  # noqa: T201 - what pytest shows of a failure
        raise
    finally:
        if process.poll() is None:
            running.end()


def start(name: str = NAME, **parameters: Any) -> Any:
    wanted = {"symbols": ["AAPL"], "minutes": 5, **parameters}
    return run_deployment(name, parameters=wanted, timeout=0)


def state_of(run: Any) -> Any:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run.id).state


def states_of(run: Any) -> list[str]:
    """All that a run has been; who watches for crashes is told of each."""
    with get_client(sync_client=True) as client:
        return [state.type.value for state in client.read_flow_run_states(run.id)]


def cancel(run: Any) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Cancelling())


def journaled(root: Path) -> int:
    return sum(path.read_bytes().count(b'{"timestamp"') for path in root.glob(".capture/*/*.journal"))


def captured(root: Path) -> dict[str, Any]:
    """The stats of the one capture; it is final, and all that was written keeps to the contract."""
    (path,) = (root / "level2" / "AAPL").glob("session_stats_*.json")
    stats = json.loads(path.read_text())
    assert "ended_at" in stats
    assert list(root.glob(".capture/*/")) == []
    assert list(root.rglob("*.tmp")) == []
    assert [str(finding) for finding in validate_path(root).findings] == []
    return dict(stats)


def what_was_deployed() -> dict[str, Any]:
    """All of the deployment that a person or `trading-data deploy` has set."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(NAME).model_dump(mode="json")
    limit = deployment.pop("global_concurrency_limit")["limit"]
    return {key: value for key, value in deployment.items() if key not in {"status", "last_polled", "updated"}} | {
        "limit": limit
    }


def test_runs_of_the_deployment_are_served_until_the_server_ends_which_ends_a_capture_cleanly(root, tmp_path):
    before = what_was_deployed()
    with serving(tmp_path) as server:
        first = start()
        until(lambda: journaled(root) > 30)
        second = start()
        until(lambda: state_of(second).is_final())
        assert state_of(second).is_cancelled()
        assert "concurrency" in state_of(second).message.lower()
        by_hand = start("record-depth/on-demand", symbols=["MSFT"], minutes=0.02)
        until(lambda: state_of(by_hand).is_final())
        assert state_of(by_hand).is_completed()
        assert server.end() == 0
    assert captured(root)["end_reason"] == "sigterm"
    assert captured(root)["num_messages"] > 30
    assert states_of(first) == ["SCHEDULED", "PENDING", "RUNNING", "CANCELLED"]
    assert what_was_deployed() == before


def test_without_an_api_or_a_deployment_it_says_what_to_do(root, monkeypatch):
    with pytest.raises(ConfigurationError, match=r"no deployment record-depth/nothing .*`trading-data deploy`"):
        RunServer(["record-depth/nothing"], limit=1, poll_s=1).check()

    monkeypatch.delenv("PREFECT_API_URL")
    ended = subprocess.run([COMMAND, "record-depth", "--serve"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "PREFECT_API_URL is not set" in ended.stderr


class LossyProxy:
    """Hands requests on to the server; the answer to the first that takes a run is lost on its way."""

    def __init__(self, target: str) -> None:
        self.lost = 0
        outer, host = self, target.split("/")[2]

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def hand_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                onward = HTTPConnection(host, timeout=60)
                onward.request(self.command, self.path, body, dict(self.headers))
                answer = onward.getresponse()
                data = answer.read()
                onward.close()
                if outer.lost == 0 and self.path.endswith("/set_state") and b"PENDING" in body:
                    outer.lost += 1
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in {"transfer-encoding", "content-length", "connection", "date", "server"}:
                        self.send_header(name, value)
                if answer.status != HTTPStatus.NO_CONTENT:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = hand_on  # noqa: N815 - the names that are called

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/api"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.mark.parametrize(
    "tries",
    [
        pytest.param(0, id="and-not-asked-for-again"),
        pytest.param(5, id="and-asked-for-again", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_taken_is_started_though_the_answer_was_lost(root, server, tries):
    """Nobody else starts it: for the API it is taken."""
    ending = threading.Event()
    run = start(symbols=["MSFT"], minutes=0.02)
    with (
        LossyProxy(server.url) as proxy,
        temporary_settings({PREFECT_API_URL: proxy.url, PREFECT_CLIENT_MAX_RETRIES: tries}),
    ):
        context = contextvars.copy_context()
        serving = threading.Thread(target=context.run, args=(RunServer([NAME], limit=1, poll_s=0.5).serve, ending))
        serving.start()
        try:
            until(lambda: state_of(run).is_final())
        finally:
            ending.set()
            serving.join(60)
    assert proxy.lost == 1
    assert states_of(run) == ["SCHEDULED", "PENDING", "RUNNING", "COMPLETED"]


@pytest.mark.slow
def test_a_cancel_ends_a_capture_cleanly_and_frees_its_place(root, tmp_path):
    with serving(tmp_path) as server:
        run = start()
        until(lambda: journaled(root) > 30)
        cancel(run)
        until(lambda: state_of(run).is_cancelled())
        assert captured(root)["end_reason"] == "sigterm"
        assert "CRASHED" not in states_of(run)

        short = start(symbols=["MSFT"], minutes=0.02)
        until(lambda: state_of(short).is_final())
        assert state_of(short).is_completed()
        assert server.end() == 0


@pytest.mark.slow
def test_ctrl_c_ends_a_capture_cleanly(root, tmp_path):
    with serving(tmp_path) as server:
        run = start()
        until(lambda: journaled(root) > 30)
        assert server.end(signal.SIGINT) == 0
    assert captured(root)["end_reason"] == "sigterm"
    assert state_of(run).is_cancelled()
    assert "CRASHED" not in states_of(run)


@pytest.mark.slow
def test_a_stop_that_cancels_waits_for_a_served_capture_and_a_resume_lets_the_next_one_start(root, tmp_path, capsys):
    with serving(tmp_path) as server:
        run = start()
        until(lambda: journaled(root) > 30)
        try:
            assert stop(60, True, False) == 0
            assert "cancelling AAPL" in capsys.readouterr().err
            # It waited until all is written.
            assert captured(root)["end_reason"] == "sigterm"
            assert states_of(run) == ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "CANCELLED"]
            following = start(symbols=["MSFT"], minutes=0.02)
            until(lambda: f"{POOL} is paused" in server.log)
            assert state_of(following).is_scheduled()
        finally:
            assert stop(None, False, True) == 0
        until(lambda: state_of(following).is_final())
        assert state_of(following).is_completed()
        assert server.end() == 0


@pytest.fixture
def own_root(
    clean_environment: None, gateway: IbGateway, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, PrefectServer]]:
    """As `root`, with a server to kill."""
    own = PrefectServer(tmp_path_factory.mktemp("prefect"))
    try:
        own.start()
        with deployed(own), placed(own, gateway, tmp_path) as root:
            yield root, own
    finally:
        own.kill()


@pytest.mark.slow
def test_a_capture_outlives_30_s_without_the_api_and_can_be_cancelled_afterwards(own_root, tmp_path):
    root, server = own_root
    with serving(tmp_path) as running:
        run = start()
        until(lambda: journaled(root) > 30)
        server.kill()
        back_at = time.monotonic() + 30
        until(lambda: "gives trouble" in running.log)
        at_outage = journaled(root)
        until(lambda: time.monotonic() > back_at)
        assert journaled(root) > at_outage + 500
        server.start()
        until(lambda: "answers again" in running.log)
        assert running.log.count("gives trouble") == 1
        assert state_of(run).is_running()
        cancel(run)
        until(lambda: state_of(run).is_cancelled())
    assert captured(root)["num_messages"] > at_outage + 500
    assert "CRASHED" not in states_of(run)


@pytest.mark.slow
def test_a_process_that_was_killed_makes_its_run_crashed_and_a_paused_pool_starts_nothing(root, tmp_path):
    with serving(tmp_path) as server, get_client(sync_client=True) as client:
        run = start()
        until(lambda: journaled(root) > 0)
        os.kill(int(client.read_flow_run(run.id).infrastructure_pid.rpartition(":")[2]), signal.SIGKILL)
        until(lambda: state_of(run).is_crashed())

        client.update_work_pool(POOL, WorkPoolUpdate(is_paused=True))
        waiting = start(minutes=0.02)
        until(lambda: f"{POOL} is paused" in server.log)
        assert server.end() == 0
        assert state_of(waiting).is_scheduled()
        client.update_work_pool(POOL, WorkPoolUpdate(is_paused=False))
        client.delete_flow_run(waiting.id)

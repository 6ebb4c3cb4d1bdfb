"""A whole installation on loopback: the server, a worker, the server of captures, and the commands a person types."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter, FlowRunFilterId
from support.prefect_server import until

from flows.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefect.client.schemas.objects import Artifact, FlowRun, State, TaskRun

BIN = Path(sys.executable).parent
COMMAND_S = 300


class Installation:
    """Processes of one installation; each has a log in its folder.

    Attributes:
        folder: home of everything.
        root: the data root.
        url: of the API.
        env: of every process.
    """

    def __init__(self, folder: Path, **env: object) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.folder = folder
        self.root = folder / "data"
        self.url = f"http://127.0.0.1:{self._port}/api"
        ours = {name.upper() for name in Settings.model_fields}
        self.env = {
            **{key: value for key, value in os.environ.items() if key not in ours and not key.startswith("PREFECT")},
            "HOME": str(folder / "home"),
            "PREFECT_HOME": str(folder / "prefect" / "home"),
            "PREFECT_API_URL": self.url,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "PREFECT_CLI_PROMPT": "false",
            "DO_NOT_TRACK": "1",
            "DATA_PATH_OVERRIDE": str(self.root),
            "CACHE_PATH": str(folder / "cache"),
            **{key: str(value) for key, value in env.items()},
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "home").mkdir(parents=True)

    # --- processes -------------------------------------------------------------------------------------------------

    def start(self, name: str, *command: object) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes[name] = process
        return process

    def start_server(self, *options: object) -> None:
        process = self.start("server", BIN / "trading-data", "server", "--port", self._port, *options)

        def answers() -> bool:
            assert process.poll() is None, self.log("server")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:  # noqa: S310 - our own server
                    return bool(answer.status == 200)
            except OSError:
                return False

        until(answers, 120)

    def start_worker(self, name: str = "worker", *options: object) -> None:
        self.start(name, BIN / "prefect", "worker", "start", "--pool", "trading-data", "--name", name, *options)

    def start_serving(self) -> None:
        self.start("serving", BIN / "trading-data", "record-depth", "--serve")

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def kill_tree(self, name: str) -> None:
        """As a machine dies: the process and all that it started, at once."""
        process = self._processes.pop(name)
        dying = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for each in dying:
            each.kill()
        psutil.wait_procs(dying, 30)
        process.wait()

    def end(self) -> dict[str, int]:
        """End what still runs, the server last; exit codes by name."""
        codes = {}
        for name in sorted(self._processes, key=lambda name: name == "server"):
            process = self._processes[name]
            if process.poll() is None:
                process.terminate()
            try:
                codes[name] = process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                codes[name] = process.wait()
        self._processes.clear()
        return codes

    # --- what a person types ---------------------------------------------------------------------------------------

    def trading_data(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return self._run(BIN / "trading-data", *arguments)

    def prefect(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return self._run(BIN / "prefect", *arguments)

    def _run(self, *command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(part) for part in command],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_S,
        )

    def run(self, deployment: str, *, watch: bool = True, **parameters: object) -> tuple[FlowRun, int]:
        """`prefect deployment run`, with the run that it made and its exit code."""
        given = [part for key, value in parameters.items() for part in ("--param", f"{key}={json.dumps(value)}")]
        done = self.prefect("deployment", "run", deployment, *given, *(["--watch"] if watch else []))
        found = re.search(r"UUID: ([0-9a-f-]{36})", done.stdout)
        assert found is not None, done.stdout + done.stderr
        return flow_run(UUID(found[1])), done.returncode

    # --- what is on disk -------------------------------------------------------------------------------------------

    @property
    def manifest_lines(self) -> list[dict[str, Any]]:
        """Lines of the backfill's manifest, each of which must be whole."""
        data = (self.root / "backfill_l2_manifest.jsonl").read_bytes()
        assert data.endswith(b"\n")
        return [json.loads(line) for line in data.splitlines()]


def flow_run(run_id: UUID) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run_id)


def state_of(run: FlowRun) -> State[Any]:
    state = flow_run(run.id).state
    assert state is not None
    return state


def states_of(run: FlowRun) -> list[str]:
    """All that a run has been; who watches for crashes is told of each."""
    with get_client(sync_client=True) as client:
        return [state.type.value for state in client.read_flow_run_states(run.id)]


def ended(run: FlowRun, within_s: float = 150.0) -> State[Any]:
    """The last state of a run, when it has one."""
    until(lambda: state_of(run).is_final(), within_s)
    return state_of(run)


def runs_of(deployment: str, wanted: Callable[[FlowRun], bool] = lambda _run: True) -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        known = client.read_deployment_by_name(deployment)
        runs = client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[known.id])))
    return [run for run in runs if wanted(run)]


def artifacts_of(run: FlowRun) -> dict[str, Artifact]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))
    return {str(each.key): each for each in found}


def task_runs_of(run: FlowRun) -> list[TaskRun]:
    with get_client(sync_client=True) as client:
        return client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))

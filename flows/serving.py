"""Runs of the captures' deployments, each in a process of its own that is never killed: for live captures.

A worker kills its flows when it is stopped and leaves them Running; Prefect's Runner ignores a paused pool and the
environment of the deployment, and kills after 30 s what is still writing. This server polls for the same runs, starts
each as a worker would (`python -m prefect.engine`), hands a cancel or its own end on as one SIGTERM, waits, and sees to
it that the run ends in a final state. It changes nothing about a deployment. While the API is away nothing is
polled, what runs goes on, and what is to be told is told later.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed, Pending

from flows.errors import ConfigurationError
from flows.server_settings import client_env

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse, OrchestrationResult

logger = logging.getLogger(__name__)

_API_TIMEOUT_S: Final = 5.0
_TICK_S: Final = 0.25
_CANCELS_EVERY_S: Final = 2.0
_HEARTBEAT_S: Final = 30.0
_AHEAD_S: Final = 10.0
"""A run is fetched so long before its time, for its process takes seconds to start; it begins in time by itself."""
_LAST_WORD_S: Final = 60.0
"""How long the end of the server waits for the API to tell how its runs ended."""
_SAY_AGAIN_S: Final = 30.0


@dataclass
class _Child:
    """A run in its process.

    Attributes:
        asked: why it was asked to end; None while nobody did.
        code: its exit code when it has ended.
    """

    id: UUID
    name: str
    process: subprocess.Popen[bytes]
    asked: str | None = None
    code: int | None = None

    def ask(self, why: str) -> None:
        """Let it end cleanly; only once, for a second signal would reach it in the midst of that."""
        if self.asked is None:
            self.asked = why
            self.process.send_signal(signal.SIGTERM)


class RunServer:
    """Serves the runs of some deployments in one work pool.

    Args:
        deployments: their full names, such as `record-depth/session`; the first must be there, and has the pool.
        limit: so many runs at once; what else is due waits.
        poll_s: seconds between two looks for runs that are due.
    """

    def __init__(self, deployments: Sequence[str], *, limit: int, poll_s: float) -> None:
        self._names = tuple(deployments)
        self._limit = limit
        self._poll_s = poll_s
        self._children: dict[UUID, _Child] = {}
        self._problem: str | None = None
        self._next_heartbeat = 0.0
        self._is_paused = False
        # Taken, as far as it is known: the answer was lost.
        self._unsure: dict[UUID, tuple[FlowRun, DeploymentResponse]] = {}
        self._waiting: set[UUID] = set()
        self._mark = f"taken by {socket.gethostname()}:{os.getpid()} ({secrets.token_hex(4)})"

    def check(self) -> None:
        """See that there is something to serve.

        Raises:
            ConfigurationError: there is no such deployment, or it has no work pool.
            Exception: whatever the client raises when the API does not answer.
        """
        with _client() as client:
            self._read_deployments(client)

    def serve(self, stop: threading.Event) -> None:
        """Start what is due until the event is set; then let what runs end, and wait for it."""
        next_poll = next_cancels = 0.0
        while not stop.is_set():
            self._reap()
            now = time.monotonic()
            if now >= next_poll:
                self._patiently(self._poll)
                next_poll = time.monotonic() + self._poll_s
            if self._children and now >= next_cancels:
                self._patiently(self._hand_on_cancels)
                next_cancels = time.monotonic() + _CANCELS_EVERY_S
            stop.wait(_TICK_S)
        self._end()

    # --- one look --------------------------------------------------------------------------------------------------

    def _poll(self, client: SyncPrefectClient) -> None:
        deployments, pool = self._read_deployments(client)
        if time.monotonic() >= self._next_heartbeat:
            # So the pool shows that somebody is there for it.
            client.send_worker_heartbeat(
                pool, f"record-depth --serve on {socket.gethostname()}", heartbeat_interval_seconds=_HEARTBEAT_S
            )
            self._next_heartbeat = time.monotonic() + _HEARTBEAT_S
        self._tell_ends(client)
        for run, deployment in list(self._unsure.values()):
            is_ours = self._is_ours(client, run)
            del self._unsure[run.id]
            if is_ours:
                self._launch(client, run, deployment)
        is_paused = client.read_work_pool(pool).is_paused
        if is_paused != self._is_paused:
            logger.info("the work pool %s %s", pool, "is paused: nothing is started" if is_paused else "goes on")
            self._is_paused = is_paused
        if is_paused:
            return
        due = client.get_scheduled_flow_runs_for_work_pool(
            pool,
            work_queue_names=sorted({each.work_queue_name or "default" for each in deployments.values()}),
            scheduled_before=datetime.now(UTC) + timedelta(seconds=_AHEAD_S),
        )
        runs = [each.flow_run for each in due if each.flow_run.deployment_id in deployments]
        for run in sorted(runs, key=lambda run: run.next_scheduled_start_time or datetime.now(UTC)):
            if len(self._children) >= self._limit:
                if run.id not in self._waiting:
                    logger.info("%s is due and waits: %d run already", run.name, len(self._children))
                self._waiting.add(run.id)
                continue
            self._waiting.discard(run.id)
            if run.deployment_id is not None:
                self._take(client, run, deployments[run.deployment_id])

    def _read_deployments(self, client: SyncPrefectClient) -> tuple[dict[UUID, DeploymentResponse], str]:
        """The deployments by id, as they are now, and their pool."""
        first = _read(client, self._names[0])
        if first is None:
            raise ConfigurationError(
                f"there is no deployment {self._names[0]} at {client.api_url}; run `trading-data deploy`"
            )
        if first.work_pool_name is None:
            raise ConfigurationError(f"{self._names[0]} has no work pool to poll; run `trading-data deploy`")
        others = [_read(client, name) for name in self._names[1:]]
        found = [first, *(each for each in others if each is not None and each.work_pool_name == first.work_pool_name)]
        return {each.id: each for each in found}, first.work_pool_name

    def _take(self, client: SyncPrefectClient, run: FlowRun, deployment: DeploymentResponse) -> None:
        # Until there is an answer it may be ours.
        self._unsure[run.id] = (run, deployment)
        answer: OrchestrationResult[Any] = client.set_flow_run_state(run.id, Pending(message=self._mark))
        is_accepted = answer.status == SetStateStatus.ACCEPT and answer.state is not None and answer.state.is_pending()
        # The client asks again when an answer is lost, and then we are refused what we have.
        is_ours = is_accepted or self._is_ours(client, run)
        del self._unsure[run.id]
        if not is_ours:
            # The limit of the deployment, or somebody else was quicker.
            logger.info("%s is not started: %s", run.name, getattr(answer.details, "reason", None) or answer.status)
            return
        self._launch(client, run, deployment)

    def _is_ours(self, client: SyncPrefectClient, run: FlowRun) -> bool:
        """Whether it is this server that has taken a run, which nobody else will start then."""
        try:
            state = client.read_flow_run(run.id).state
        except ObjectNotFound:
            return False
        return state is not None and state.is_pending() and state.message == self._mark

    def _launch(self, client: SyncPrefectClient, run: FlowRun, deployment: DeploymentResponse) -> None:
        try:
            process = _start(run, deployment)
        except OSError as error:
            client.set_flow_run_state(run.id, Crashed(message=f"its process could not be started: {error}"))
            raise
        self._children[run.id] = _Child(run.id, run.name, process)
        logger.info("started %s (process %d)", run.name, process.pid)
        client.update_flow_run(run.id, infrastructure_pid=f"{socket.gethostname()}:{process.pid}")

    def _hand_on_cancels(self, client: SyncPrefectClient) -> None:
        running = [child for child in self._children.values() if child.asked is None and child.code is None]
        if not running:
            return
        cancelling = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                id=FlowRunFilterId(any_=[child.id for child in running]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CANCELLING])),
            )
        )
        for run in cancelling:
            logger.info("%s is to be cancelled; what it has captured is written", run.name)
            self._children[run.id].ask("cancelled")

    # --- ends ------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        for child in self._children.values():
            if child.code is None and (code := child.process.poll()) is not None:
                child.code = code
                self._patiently(self._tell_ends)
                return

    def _tell_ends(self, client: SyncPrefectClient) -> None:
        """See that each run whose process is over is in a final state."""
        for child in [child for child in self._children.values() if child.code is not None]:
            self._tell_end(client, child)
            del self._children[child.id]

    def _tell_end(self, client: SyncPrefectClient, child: _Child) -> None:
        try:
            run = client.read_flow_run(child.id)
        except ObjectNotFound:
            logger.warning("%s ended, and somebody has deleted the run", child.name)
            return
        state = run.state
        if state is None or (not state.is_final() and not state.is_scheduled()) or (child.asked and state.is_crashed()):
            if child.asked is not None:
                state = Cancelled(message=f"{child.asked}; what was captured is on disk")
            else:
                state = Crashed(message=f"its process ended with code {child.code} and said nothing")
            client.set_flow_run_state(child.id, state, force=True)
        # Its flow has named it meanwhile.
        logger.info("%s ended: %s", run.name, state.name)

    def _end(self) -> None:
        """Let every run end, and wait as long as that takes: a capture is worth more than a quick end."""
        for child in self._children.values():
            if child.code is None:
                logger.info("ending %s; what it has captured is written", child.name)
                child.ask("the server of captures was stopped")
        for child in self._children.values():
            while child.code is None:
                try:
                    child.code = child.process.wait(_SAY_AGAIN_S)
                except subprocess.TimeoutExpired:
                    logger.warning("%s (process %d) is still writing; please wait", child.name, child.process.pid)
        until = time.monotonic() + _LAST_WORD_S
        while self._children and not self._patiently(self._tell_ends) and time.monotonic() < until:
            time.sleep(_TICK_S)
        for child in self._children.values():
            logger.warning("Prefect could not be told that %s ended; its files are on disk", child.name)

    def _patiently(self, look: Any) -> bool:
        """Ask the API; trouble is said once, and once that it is over.

        Returns:
            Whether it worked.
        """
        try:
            with _client() as client:
                look(client)
        except Exception as error:  # noqa: BLE001 - whatever a client, a server or a network can come up with
            problem = str(error) or type(error).__name__
            if self._problem is None:
                logger.warning("Prefect's API gives trouble; what runs goes on, and it is asked again: %s", problem)
            self._problem = problem
            return False
        if self._problem is not None:
            logger.warning("Prefect's API answers again")
            self._problem = None
        return True


def _read(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _client() -> Any:
    """A new client each time: one that has been connected before waits for minutes when the API is away."""
    return get_client(sync_client=True, httpx_settings={"timeout": _API_TIMEOUT_S})


def _start(run: FlowRun, deployment: DeploymentResponse) -> subprocess.Popen[bytes]:
    """The process of a run, in a session of its own: Ctrl-C at a terminal is for the server, which hands it on."""
    env = {**client_env(), **os.environ}
    for variables in (deployment.job_variables, run.job_variables):
        env |= {key: str(value) for key, value in ((variables or {}).get("env") or {}).items() if value is not None}
    env["PREFECT__FLOW_RUN_ID"] = str(run.id)
    return subprocess.Popen(
        [sys.executable, "-m", "prefect.engine"],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        start_new_session=True,
    )

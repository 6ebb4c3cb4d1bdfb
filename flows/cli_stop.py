"""What `trading-data stop` does: nothing new starts, and what runs comes to its end before a worker is stopped.

SIGTERM to a worker kills its runs without a chance to clean up; this is the way round. What it paused is kept in a
variable of the server, so that `--resume` undoes that and nothing that a person had paused.
"""

from __future__ import annotations

import datetime as dt
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from httpx import HTTPError
from prefect.client.schemas.actions import VariableCreate, VariableUpdate, WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Crashed

from flows.automations import HEARTBEAT, PATIENCE
from flows.cli_deploy import reachable_api
from flows.deployments import CAPTURE_POOL, POOL
from flows.errors import ConfigurationError
from flows.prefect_api import api_answers, api_is_known

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

DONE, STILL_RUNNING, USAGE = 0, 1, 2

_POOLS: Final = (POOL, CAPTURE_POOL)
_MARK: Final = "trading-data-stopped"
_POLL_S: Final = 2.0
_SETTLE_S: Final = 5.0
"""A worker may have fetched a run before its pool was paused; within this time the run is Pending."""
_BREAK_S: Final = 30.0
"""The client asks again by itself when there is no answer; answers so far apart mean that the API was away."""
_SAY_EVERY_S: Final = 30.0
_ALIVE: Final = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_MOST_RUNS: Final = 200


def stop(timeout_s: float | None, cancel: bool, resume: bool, pools: Collection[str] | None = None) -> int:
    """Pause work pools, and wait until none of their runs is alive; or undo the pause.

    Args:
        timeout_s: longest wait in seconds; None for as long as it takes. With `resume`, the longest wait for an API
            that is only just being started; None does not wait.
        cancel: cancel the runs, which publish what is complete, instead of letting them end.
        resume: undo what an earlier call paused.
        pools: the work pools that are meant; None for all of this project.

    Returns:
        The exit code: 0 done, 1 something still runs after the time, 2 there is no API or no such pool.
    """
    try:
        if resume and timeout_s is not None:
            _await_api(timeout_s)
        with reachable_api() as client:
            if pools is not None:
                _check(client, pools)
            meant = _POOLS if pools is None else tuple(dict.fromkeys(pools))
            if resume:
                _resume(client, meant)
                return DONE
            _pause(client, meant)
            return drain(client, timeout_s=timeout_s, cancel=cancel, pools=meant)
    except ConfigurationError as error:
        _say(f"trading-data stop: {error}")
        return USAGE


def drain(
    client: SyncPrefectClient,
    *,
    timeout_s: float | None,
    cancel: bool,
    pools: Collection[str] = _POOLS,
    dead_s: float = PATIENCE.dead_s,
) -> int:
    """Wait until no run of the pools is alive; the API may be away meanwhile.

    Nothing must be alive in two looks that lie some seconds apart, which may exceed the longest wait by as much.

    Args:
        client: a client of the server.
        timeout_s: longest wait in seconds; None for as long as it takes.
        cancel: cancel the runs first.
        pools: the work pools that are meant.
        dead_s: seconds without a sign of life after which a run is marked Crashed; the API must have answered here
            for as long without a break, for it lost the signs of life of the time that it was away.

    Returns:
        The exit code, 0 or 1.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    watch = _Watch(client, cancel=cancel, pools=pools, dead_s=dead_s)
    idle_since: float | None = None
    while True:
        try:
            alive = watch.look()
        except HTTPError as error:
            _say(f"Prefect's API does not answer, its return is waited for: {error}")
            alive = None
        if alive == []:
            idle_since = time.monotonic() if idle_since is None else idle_since
            left_s = idle_since + _SETTLE_S - time.monotonic()
            if left_s > 0:
                time.sleep(min(_POLL_S, left_s))
                continue
            _out("nothing runs; workers, serving processes and the server can be stopped")
            return DONE
        idle_since = None
        if deadline is not None and time.monotonic() >= deadline:
            names = "the API does not answer" if alive is None else ", ".join(each.name for each in alive)
            _say(f"not ended after {timeout_s:g} s: {names}")
            return STILL_RUNNING
        time.sleep(_POLL_S if deadline is None else max(0.0, min(_POLL_S, deadline - time.monotonic())))


class _Watch:
    """What is alive, what was said of it, and what was asked to end."""

    def __init__(self, client: SyncPrefectClient, *, cancel: bool, pools: Collection[str], dead_s: float) -> None:
        self._client = client
        self._cancel = cancel
        self._pools = pools
        self._dead_s = dead_s
        # Of this process's clock: since when the API has answered without a break, and when it did last.
        self._answers_since: float | None = None
        self._answered = 0.0
        self._cancelled: set[UUID] = set()
        self._said: set[tuple[UUID, str]] = set()
        self._said_at = 0.0

    def look(self) -> list[FlowRun]:
        """The runs that are alive; those without a sign of life are marked Crashed, others cancelled when wished.

        Raises:
            httpx.HTTPError: the API did not answer.
        """
        alive = [run for run in self._running() if not self._is_dead(run)]
        for run in alive:
            if self._cancel and run.id not in self._cancelled and run.state_type is not StateType.CANCELLING:
                self._client.set_flow_run_state(run.id, Cancelling(message="asked for by `trading-data stop --cancel`"))
                self._cancelled.add(run.id)
                _say(f"cancelling {_described(run)}")
        self._tell(alive)
        return alive

    def _running(self) -> list[FlowRun]:
        """The runs that are alive, as far as the API knows."""
        try:
            found = _running(self._client, self._pools)
        except HTTPError:
            self._answers_since = None
            raise
        now = time.monotonic()
        if self._answers_since is None or now - self._answered > _BREAK_S:
            self._answers_since = now
        self._answered = now
        return found

    def _is_dead(self, run: FlowRun) -> bool:
        """Whether nobody answers for a run; such a one is marked Crashed."""
        if self._answers_since is None or time.monotonic() - self._answers_since < self._dead_s:
            return False
        seen = _last_sign_of_life(self._client, run)
        if seen is None or (dt.datetime.now(dt.UTC) - seen).total_seconds() < self._dead_s:
            return False
        message = f"no sign of life since {seen:%Y-%m-%d %H:%M:%S} UTC: its process is gone"
        if self._client.read_flow_run(run.id).state_type in _ALIVE:
            # Forced, because Prefect lets a run that is being cancelled end as Cancelled only, by a worker.
            self._client.set_flow_run_state(run.id, Crashed(message=message), force=True)
        _say(f"marked Crashed: {_described(run)}, {message}")
        return True

    def _tell(self, alive: Iterable[FlowRun]) -> None:
        now = {(run.id, str(run.state_name)) for run in alive}
        if now and (now != self._said or time.monotonic() - self._said_at > _SAY_EVERY_S):
            _say(f"{len(now)} still alive: {', '.join(map(_described, alive))}")
            self._said_at = time.monotonic()
        self._said = now


@dataclass(frozen=True)
class _Paused:
    """What this command has paused, by name or id."""

    pools: tuple[str, ...] = ()
    deployments: tuple[str, ...] = ()

    @classmethod
    def read(cls, client: SyncPrefectClient) -> _Paused:
        found = client.read_variable_by_name(_MARK)
        value: Any = {} if found is None else found.value
        return cls(tuple(value.get("pools", ())), tuple(value.get("deployments", ())))

    def write(self, client: SyncPrefectClient) -> None:
        value: Any = {"pools": list(self.pools), "deployments": list(self.deployments)}
        if client.read_variable_by_name(_MARK) is None:
            client.create_variable(VariableCreate(name=_MARK, value=value))
        else:
            client.update_variable(VariableUpdate(name=_MARK, value=value))


def _await_api(timeout_s: float) -> None:
    """Services of a machine start in any order; without an answer the caller says what is wrong."""
    until = time.monotonic() + timeout_s
    while api_is_known() and not api_answers() and time.monotonic() < until:
        time.sleep(_POLL_S)


def _check(client: SyncPrefectClient, pools: Iterable[str]) -> None:
    """A misspelt pool would seem to be idle.

    Raises:
        ConfigurationError: there is no such pool.
    """
    for name in pools:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            raise ConfigurationError(f"there is no pool {name} [this project's are {' and '.join(_POOLS)}]") from None


def _pause(client: SyncPrefectClient, wanted: Collection[str]) -> None:
    """Let nothing new start; says first what it is about to pause, so that an interruption can be undone."""
    before = _Paused.read(client)
    pools = [name for name in wanted if not _is_paused(client, name)]
    # A serving process asks for runs of its deployments and does not look at the pool.
    deployments = [
        each
        for each in client.read_deployments(
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[CAPTURE_POOL]))
        )
        if CAPTURE_POOL in wanted and not each.paused
    ]
    _Paused(
        (*before.pools, *(name for name in pools if name not in before.pools)),
        (*before.deployments, *(str(each.id) for each in deployments if str(each.id) not in before.deployments)),
    ).write(client)
    for name in pools:
        client.update_work_pool(name, WorkPoolUpdate(is_paused=True))
        _say(f"pool {name} is paused")
    for each in deployments:
        client.pause_deployment(each.id)
        _say(f"deployment {each.name} of pool {CAPTURE_POOL} is paused")


def _resume(client: SyncPrefectClient, wanted: Collection[str]) -> None:
    """Undo what this command paused of some pools; what it paused of others it still knows then."""
    paused = _Paused.read(client)
    mine = _Paused(
        tuple(name for name in paused.pools if name in wanted),
        paused.deployments if CAPTURE_POOL in wanted else (),
    )
    for name in mine.pools:
        try:
            client.update_work_pool(name, WorkPoolUpdate(is_paused=False))
        except ObjectNotFound:
            continue
        _out(f"pool {name} goes on")
    for identity in mine.deployments:
        try:
            client.resume_deployment(identity)
        except ObjectNotFound:
            continue
        _out(f"deployment {client.read_deployment(identity).name} of pool {CAPTURE_POOL} goes on")
    if mine == _Paused():
        _out("nothing is paused by `trading-data stop`")
    elif mine == paused:
        client.delete_variable_by_name(_MARK)
    else:
        _Paused(
            tuple(name for name in paused.pools if name not in mine.pools),
            tuple(each for each in paused.deployments if each not in mine.deployments),
        ).write(client)


def _is_paused(client: SyncPrefectClient, pool: str) -> bool:
    """Whether a pool lets nothing start; one that is not there cannot."""
    try:
        return client.read_work_pool(pool).is_paused
    except ObjectNotFound:
        _say(f"there is no pool {pool} [trading-data deploy creates it]")
        return True


def _running(client: SyncPrefectClient, pools: Iterable[str]) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_ALIVE))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=list(pools))),
        limit=_MOST_RUNS,
    )


def _last_sign_of_life(client: SyncPrefectClient, run: FlowRun) -> dt.datetime | None:
    """When a run was last heard of (UTC): its last heartbeat, else when it began or was picked up."""
    began = run.start_time or (None if run.state is None else run.state.timestamp)
    page = client.read_events(
        EventFilter(
            event=EventNameFilter(name=[HEARTBEAT]),
            resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
            occurred=EventOccurredFilter(since=began or run.created),
        ),
        limit=1,
    )
    return max((event.occurred for event in page.events), default=began)


def _described(run: FlowRun) -> str:
    began = run.start_time
    since = "" if began is None else f" for {(dt.datetime.now(dt.UTC) - began).total_seconds() / 60:.0f} min"
    return f"{run.name} ({run.state_name}{since})"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _out(text: str) -> None:
    sys.stdout.write(f"{text}\n")

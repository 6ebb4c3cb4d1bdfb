"""Questions to Prefect's API which may be slow or gone: whether it is there, and the limits that it counts.

Nothing here starts Prefect's temporary server, and nothing waits in the client's own retries, which last a minute.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from httpx import HTTPError, Timeout
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext, SettingsContext, TaskRunContext, get_settings_context
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES
from prefect.settings import Settings as PrefectSettings

from flows.errors import FlowError
from flows.limits import shared_limits
from flows.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse

__all__ = [
    "HOLDS",
    "ApiAway",
    "LimitState",
    "api_answers",
    "api_is_known",
    "ensure_limits",
    "holders_of",
    "is_supervised",
    "limit_states",
    "make_limit",
    "patient_client",
    "wait_for_api",
]

logger = logging.getLogger(__name__)

HOLDS: Final = "trading-data.holds."
"""A flow run's label that begins so says what it holds; the rest is the limit's name."""

_POLL_S: Final = 1.0
_ANSWER_S: Final = 30.0
_RUNS_LOOKED_AT: Final = 200


class ApiAway(FlowError):  # noqa: N818 - says what happened
    """Prefect's API is not set, does not answer, or answers with an error."""


@dataclass(frozen=True)
class LimitState:
    """A limit that Prefect counts, as it is and as it should be.

    Attributes:
        name: as in `flows.limits.LIMITS`.
        wanted: what this version and its settings want.
        configured: what Prefect allows; None when it has no such limit.
        active_slots: how many are held now.
        is_on: whether Prefect counts it at all; an operator can switch a limit off.
        created: it was missing, and has been created just now.
        holders: who holds it, as far as the API tells: a run's name, how many, and what for.
    """

    name: str
    wanted: int
    configured: int | None
    active_slots: int = 0
    is_on: bool = True
    created: bool = False
    holders: tuple[str, ...] = ()

    @property
    def drift(self) -> str | None:
        """What differs from what is wanted, in words; None when nothing does."""
        if self.configured is None:
            return f"missing, {self.wanted} wanted: run `trading-data deploy`"
        if not self.is_on:
            return "switched off: nothing is counted"
        if self.configured != self.wanted:
            return f"{self.configured} instead of {self.wanted}"
        return None


def api_is_known() -> bool:
    """Whether there is an API to ask: its address is set, or a run of this process uses a temporary one."""
    return bool(PREFECT_API_URL.value()) or FlowRunContext.get() is not None or TaskRunContext.get() is not None


_made: list[tuple[PrefectSettings, PrefectSettings]] = []
"""The settings last asked for, and the same without the client's own retries: to make them takes 0.2 s."""


def _impatient(settings: PrefectSettings) -> PrefectSettings:
    for asked, without in _made[-1:]:
        if asked is settings:
            return without
    without = settings.copy_with_update(updates={PREFECT_CLIENT_MAX_RETRIES: 0})
    _made[:] = [(settings, without)]
    return without


@contextmanager
def patient_client(timeout_s: float = 5.0, *, read_s: float | None = None) -> Iterator[SyncPrefectClient]:
    """A client that leaves patience to its user: it gives up at once where Prefect's would go on for a minute.

    Args:
        timeout_s: longest wait to connect, to send, and between two reads.
        read_s: the last where it is another.

    Raises:
        ApiAway: no API is set. Where one is set, a request raises `httpx.HTTPError`.
    """
    if not api_is_known():
        raise ApiAway("no Prefect API is set; set PREFECT_API_URL")
    context = get_settings_context()
    with (
        SettingsContext(profile=context.profile, settings=_impatient(context.settings)),
        get_client(
            sync_client=True, httpx_settings={"timeout": Timeout(timeout_s, read=read_s or timeout_s)}
        ) as client,
    ):
        yield client


def api_answers(timeout_s: float = 5.0) -> bool:
    """Whether Prefect's API answers within a time, in seconds; False when none is set."""
    with suppress(Exception), patient_client(timeout_s) as client:
        return client.api_healthcheck() is None
    return False


def wait_for_api(patience_s: float = 300.0) -> bool:
    """Wait until the API answers, so that a run's end can be told; its files are on disk already.

    Call it before a flow returns: what a run reports while the API is away is lost. It says once that it waits.

    Returns:
        Whether it answers; False at once when no API is set.
    """
    if not api_is_known():
        return False
    until = time.monotonic() + patience_s
    said = False
    while not api_answers():
        if not said:
            logger.warning("Prefect's API does not answer; the files are on disk, its return is waited for")
            said = True
        if time.monotonic() > until:
            logger.warning("Prefect's API did not come back within %.0f s", patience_s)
            return False
        time.sleep(_POLL_S)
    return True


def is_supervised() -> bool:
    """Whether a runner or a worker started this process for the run."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None


def ensure_limits(settings: Settings) -> list[LimitState]:
    """Create the limits that Prefect does not have; what an operator changed stays, and shows as drift.

    Raises:
        ApiAway: there is no API, or it refused.
    """
    return _states(settings, create=True)


def limit_states(settings: Settings | None = None) -> list[LimitState]:
    """How Prefect's limits are, and who holds them; changes nothing.

    Args:
        settings: of which IB_MAX_DEPTH_LINES is wanted; those of this process when None.

    Raises:
        ApiAway: there is no API, or it refused.
    """
    return _states(settings or load_settings(), create=False)


def make_limit(client: SyncPrefectClient, name: str, limit: int) -> bool:
    """Create a limit unless it exists; two processes may try at once.

    Returns:
        Whether it was created here.

    Raises:
        httpx.HTTPError: the API refused, or did not answer.
    """
    try:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=limit))
    except ObjectAlreadyExists:
        return False
    logger.info("Prefect limit %s created: %d at once", name, limit)
    return True


def holders_of(client: SyncPrefectClient) -> dict[str, tuple[str, ...]]:
    """Who holds what: texts for people by a limit's name, from the labels of runs that have not ended.

    Prefect counts slots but does not tell who has them, so each of our runs says it itself (`flows.held`).

    Raises:
        httpx.HTTPError: the API refused, or did not answer.
    """
    alive = [StateType.RUNNING, StateType.CANCELLING]
    found: dict[str, list[str]] = {}
    for run in client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=alive))),
        limit=_RUNS_LOOKED_AT,
    ):
        for label, text in run.labels.items():
            if label.startswith(HOLDS) and text:
                found.setdefault(label.removeprefix(HOLDS), []).append(f"run {run.name!r} ({text})")
    return {name: tuple(texts) for name, texts in found.items()}


def _states(settings: Settings, *, create: bool) -> list[LimitState]:
    states = []
    try:
        with patient_client(read_s=_ANSWER_S) as client:
            holders = holders_of(client)
            for name, wanted in shared_limits(settings).items():
                created = False
                found = _read(client, name)
                if found is None and create:
                    created = make_limit(client, name, wanted)
                    found = _read(client, name)
                states.append(
                    LimitState(name, wanted, None)
                    if found is None
                    else LimitState(
                        name, wanted, found.limit, found.active_slots, found.active, created, holders.get(name, ())
                    )
                )
    except HTTPError as error:
        raise ApiAway(f"Prefect's API cannot be asked: {error} [is `trading-data server` up?]") from error
    return states


def _read(client: SyncPrefectClient, name: str) -> GlobalConcurrencyLimitResponse | None:
    try:
        return client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        return None

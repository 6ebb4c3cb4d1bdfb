"""What `trading-data doctor` finds in Prefect: the server, what differs from this version; what is paused, late, dead.

Asks only. Without an API it says so, which is no error: everything runs without one.
"""

from __future__ import annotations

import datetime as dt
import os
from typing import TYPE_CHECKING, Any, Final

import prefect
from httpx import HTTPError
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import DeploymentStatus, StateType, WorkerStatus
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from flows.automations import DEAD_RUNS, HEARTBEAT, PATIENCE
from flows.cli_deploy import bring_up, reachable_api
from flows.deployments import CAPTURE_POOL, POOL, TAG, Change, find_prefect_yaml
from flows.doctor import Section
from flows.errors import ConfigurationError
from flows.prefect_api import ApiAway, limit_states
from flows.server_settings import SETTINGS
from flows.vendor_checks import CheckResult, split_hint

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

    from flows.settings import Settings

DEPLOY: Final = "run `trading-data deploy`"
_RUNS: Final = 200
_NAMED: Final = 5


def prefect_section(settings: Settings | None, now: dt.datetime) -> tuple[Section, dict[str, str]]:
    """What is to be said of Prefect.

    Args:
        settings: the environment; None when it cannot be used, then nothing is compared.
        now: the time, aware.

    Returns:
        The answers; and by limit, what Prefect counts over all machines.
    """
    if not PREFECT_API_URL.value():
        row = CheckResult("API", "skipped", "PREFECT_API_URL is not set: commands run without Prefect")
        return Section("Prefect", (row,)), {}
    rows: list[CheckResult] = []
    shared: dict[str, str] = {}
    try:
        with reachable_api() as client:
            rows += [_api(client), *_server_settings(client), _environment()]
            rows += _pools(client)
            if settings is not None:
                limits, shared = _limits(settings)
                rows += limits
                rows += _drift(client, settings)
            rows += [_late(client, now), _dead(client, now)]
    except ConfigurationError as error:
        rows.append(CheckResult("API", "wrong", *split_hint(str(error))))
    except (HTTPError, ApiAway) as error:
        rows.append(CheckResult("API", "wrong", f"it went away: {error}", "look at the server"))
    return Section("Prefect", tuple(rows)), shared


def _api(client: SyncPrefectClient) -> CheckResult:
    there, here = client.api_version(), prefect.__version__
    detail = f"{PREFECT_API_URL.value()}: server {there}, client {here}"
    if there != here:
        return CheckResult("API", "warning", detail, "let server, workers and commands have one version")
    return CheckResult("API", "ok", detail)


def _server_settings(client: SyncPrefectClient) -> list[CheckResult]:
    """What the server says of its settings against the table of this project."""
    told = client.request("GET", "/admin/settings").json()
    differing = []
    for setting in SETTINGS:
        if not setting.name.startswith("PREFECT_SERVER_"):
            continue
        have: Any = told
        for part in getattr(prefect.settings, setting.name).accessor.split("."):
            have = have.get(part) if isinstance(have, dict) else None
        # Leases in Redis hold as well as those in files.
        holds = setting.name.endswith("LEASE_STORAGE") and _words(have) == _words("prefect_redis.lease_storage")
        if _words(have) != _words(setting.value) and not holds:
            differing.append(f"{setting.name}={_text(have)} instead of {setting.value}: {setting.why}")
    if not differing:
        return [CheckResult("server settings", "ok", "as this project wants them")]
    todo = "start it with `trading-data server`, or with what its --print-env prints"
    return [CheckResult("server settings", "warning", each, todo) for each in differing]


def _environment() -> CheckResult:
    """Settings of clients; those of workers cannot be seen from here."""
    missing = [
        f"{setting.name}={setting.value}"
        for setting in SETTINGS
        if setting.place == "all" and (os.environ.get(setting.name) or "").lower() != setting.value
    ]
    if not missing:
        return CheckResult("environment", "ok", "nothing is reported to Prefect's makers")
    return CheckResult(
        "environment", "warning", f"not set here: {', '.join(missing)}", "set it here and where workers run"
    )


def _pools(client: SyncPrefectClient) -> list[CheckResult]:
    """Whether there is somebody who takes the runs of each pool."""
    rows = []
    deployments = client.read_deployments(limit=_RUNS)
    for name in (POOL, CAPTURE_POOL):
        check = f"pool {name}"
        try:
            pool = client.read_work_pool(name)
        except ObjectNotFound:
            rows.append(CheckResult(check, "wrong", "it does not exist", DEPLOY))
            continue
        waiting = [each.name for each in deployments if each.work_pool_name == name and _is_scheduled(each)]
        if pool.is_paused:
            rows.append(CheckResult(check, "warning", "paused: nothing starts", "run `trading-data stop --resume`"))
        elif name == POOL:
            rows.append(_workers(client, check, has_schedules=bool(waiting)))
        else:
            rows.append(_served(check, [each for each in deployments if each.work_pool_name == name]))
    return rows


def _workers(client: SyncPrefectClient, check: str, *, has_schedules: bool) -> CheckResult:
    workers = client.read_workers_for_work_pool(POOL)
    online = [worker.name for worker in workers if worker.status == WorkerStatus.ONLINE]
    if online:
        return CheckResult(check, "ok", f"{len(online)} workers online: {_shown(online)}")
    return CheckResult(
        check,
        "wrong" if has_schedules else "warning",
        f"no worker is online ({len(workers)} were)",
        f"start one: `prefect worker start --pool {POOL}`",
    )


def _served(check: str, deployments: list[DeploymentResponse]) -> CheckResult:
    served = [each for each in deployments if each.status == DeploymentStatus.READY]
    if served:
        return CheckResult(check, "ok", "a process serves its captures")
    scheduled = [each for each in deployments if _is_scheduled(each)]
    if not scheduled:
        return CheckResult(check, "ok", "no process serves captures, and none is scheduled")
    return CheckResult(
        check,
        "wrong",
        "no process serves its captures",
        "start `trading-data record-depth --serve`, or pause the schedule of record-depth/session",
    )


def _is_scheduled(deployment: DeploymentResponse) -> bool:
    return not deployment.paused and any(schedule.active for schedule in deployment.schedules)


def _limits(settings: Settings) -> tuple[list[CheckResult], dict[str, str]]:
    """Drift of what Prefect counts, and its use."""
    states = limit_states(settings)
    shared = {
        state.name: "missing" if state.configured is None else f"{state.active_slots} of {state.configured}"
        for state in states
    }
    rows = [
        CheckResult(f"limit {state.name}", "warning", state.drift, DEPLOY if state.configured is None else "")
        for state in states
        if state.drift is not None
    ]
    held = [text for state in states for text in state.holders]
    told = f"as wanted; held by {_shown(held)}" if held else "as wanted; nothing is held"
    return rows or [CheckResult("limits", "ok", told)], shared


def _drift(client: SyncPrefectClient, settings: Settings) -> list[CheckResult]:
    """What `trading-data deploy` would change, and what people have paused."""
    try:
        changes = bring_up(client, find_prefect_yaml(), settings, dry_run=True)
    except ConfigurationError as error:
        text, hint = split_hint(str(error))
        return [CheckResult("deployments", "wrong", text, hint or DEPLOY)]
    rows: list[CheckResult] = []
    for kind in ("deployment", "automation"):
        mine = [change for change in changes if change.kind == kind]
        found = [_changed(change) for change in mine if change.what != "same" or change.details]
        rows += found or [CheckResult(f"{kind}s", "ok", f"all {len(mine)} are as this version wants them")]
    return rows


def _changed(change: Change) -> CheckResult:
    check = f"{change.kind} {change.name}"
    if change.what == "created":
        return CheckResult(check, "wrong", "missing", DEPLOY)
    todo = DEPLOY if change.what == "changed" else ""
    return CheckResult(check, "warning", "; ".join(change.details) or change.what, todo)


def _late(client: SyncPrefectClient, now: dt.datetime) -> CheckResult:
    """Runs that should have begun and have not."""
    late = _runs(client, FlowRunFilterState(name=FlowRunFilterStateName(any_=["Late"])))
    if not late:
        return CheckResult("late runs", "ok", "none")
    oldest = min((run.expected_start_time for run in late if run.expected_start_time), default=now)
    told = f"{len(late)}, the oldest by {_age(now - oldest)}: {_shown(run.name for run in late)}"
    return CheckResult("late runs", "wrong", told, "start a worker, or cancel them")


def _dead(client: SyncPrefectClient, now: dt.datetime) -> CheckResult:
    """Runs that are Running and give no sign of life; a run that somebody started by hand gives none."""
    since = now - dt.timedelta(seconds=PATIENCE.dead_s)
    running = [
        run
        for run in _runs(client, FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
        if run.deployment_id is not None and run.start_time is not None and run.start_time < since
    ]
    dead = [run for run in running if not _has_heartbeat(client, run.id, since)]
    if not dead:
        return CheckResult("dead runs", "ok", f"none; {len(running)} have been running for some minutes")
    return CheckResult(
        "dead runs",
        "wrong",
        f"{len(dead)} have given no sign of life for {PATIENCE.dead_s:g} s: {_shown(run.name for run in dead)}",
        f"wait some minutes for the automation `{DEAD_RUNS}`; then, where its process is gone: "
        + _shown(f"`prefect flow-run cancel {run.id}`" for run in dead),
    )


def _runs(client: SyncPrefectClient, state: FlowRunFilterState) -> list[FlowRun]:
    mine = FlowRunFilter(state=state, tags=FlowRunFilterTags(all_=[TAG]))
    return client.read_flow_runs(flow_run_filter=mine, limit=_RUNS)


def _has_heartbeat(client: SyncPrefectClient, run_id: UUID, since: dt.datetime) -> bool:
    wanted = {
        "filter": {
            "event": {"name": [HEARTBEAT]},
            "resource": {"id": [f"prefect.flow-run.{run_id}"]},
            "occurred": {"since": since.isoformat()},
        },
        "limit": 1,
    }
    return bool(client.request("POST", "/events/filter", json=wanted).json()["events"])


def _words(value: object) -> str:
    """A setting in one form, whatever the server or the environment writes it as."""
    parts = _text(value).lower().split(",")
    return ",".join(sorted(part.strip() for part in parts))


def _text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(sorted(map(str, value)))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _age(span: dt.timedelta) -> str:
    minutes = max(0, round(span.total_seconds() / 60))
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"  # noqa: PLR2004 - two hours


def _shown(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return f"{', '.join(listed[:_NAMED])}{more}"

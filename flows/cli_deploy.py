"""What `trading-data deploy` does: pools, limits, deployments, automations; a second time changes nothing."""

from __future__ import annotations

import copy
import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from httpx import TransportError
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker

from flows.automations import alerts_block, apply_automation, automations
from flows.deployments import (
    CAPTURE_POOL,
    HEARTBEAT_S,
    POOL,
    Change,
    apply_deployment,
    find_prefect_yaml,
    read_deployments,
)
from flows.errors import ConfigurationError
from flows.prefect_api import ApiAway, api_answers, ensure_limits, limit_states
from flows.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prefect.client.orchestration import SyncPrefectClient

    from flows.settings import Settings

DONE, USAGE = 0, 2

_POOLS: Final = {
    POOL: f"Runs of trading-data; `prefect worker start --pool {POOL}` takes them.",
    CAPTURE_POOL: "Live captures; `trading-data record-depth --serve` takes them, a worker would kill them on SIGTERM.",
}
_POOL_ENV: Final = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}
_API_TIMEOUT_S: Final = 30.0


def deploy(file: Path | None, dry_run: bool, as_json: bool) -> int:
    """Bring Prefect to what this version wants, and print what became of each thing.

    Args:
        file: another prefect.yaml than the one of this version.
        dry_run: print what would be done; change nothing.
        as_json: print one JSON object instead of lines.

    Returns:
        The exit code: 0 done, 2 something must be put right first, or there is no API.
    """
    try:
        settings = load_settings()
        with reachable_api() as client:
            changes = bring_up(client, find_prefect_yaml(file), settings, dry_run=dry_run)
            if as_json:
                _out(json.dumps({"dry_run": dry_run, "things": [each.to_document() for each in changes]}, indent=2))
                return DONE
            for change in changes:
                _out(change)
            if dry_run:
                _out("dry run: nothing was changed")
            return DONE
    except ConfigurationError as error:
        _say(f"trading-data deploy: {error}")
        return USAGE


def bring_up(client: SyncPrefectClient, file: Path, settings: Settings, *, dry_run: bool) -> list[Change]:
    """Everything that this version wants in Prefect.

    Raises:
        ConfigurationError: something cannot be used, or the server refuses it; what came before it is done.
    """
    wanted = read_deployments(file)
    block = alerts_block(client, settings.alerts_block)
    pools = {POOL: None, CAPTURE_POOL: None} | dict.fromkeys(each.work_pool.name for each in wanted)
    changes = [_pool(client, name, dry_run=dry_run) for name in pools]
    changes += _limits(settings, dry_run=dry_run)
    for deployment in wanted:
        change, identity = apply_deployment(client, deployment, dry_run=dry_run)
        changes.append(change)
        for trigger in deployment.triggers:
            if identity is None:
                changes.append(Change("automation", str(trigger.name), "created"))
                continue
            trigger.set_deployment_id(identity)
            changes.append(apply_automation(client, trigger.as_automation(), dry_run=dry_run, owner=identity))
    changes += [apply_automation(client, each, dry_run=dry_run) for each in automations(block)]
    return changes


@contextmanager
def reachable_api() -> Iterator[SyncPrefectClient]:
    """A client of the configured server.

    Raises:
        ConfigurationError: no server is configured, it does not answer, or it refuses something.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise ConfigurationError("PREFECT_API_URL is not set [start `trading-data server`, and set what it prints]")
    if not api_answers():
        raise ConfigurationError(f"no Prefect API answers at {url} [start it: `trading-data server`]")
    try:
        with get_client(sync_client=True, httpx_settings={"timeout": _API_TIMEOUT_S}) as client:
            yield client
    except PrefectHTTPStatusError as error:
        raise ConfigurationError(f"Prefect's API at {url} refuses it: {_refusal(error)}") from None
    except (TransportError, ApiAway) as error:
        raise ConfigurationError(
            f"Prefect's API at {url} went away [run this again when it is back]: {error}"
        ) from error


def _limits(settings: Settings, *, dry_run: bool) -> list[Change]:
    """A limit that is there stays as it is: somebody may have had a reason."""
    changes = []
    for state in limit_states(settings) if dry_run else ensure_limits(settings):
        if state.configured is None or state.created:
            changes.append(Change("limit", state.name, "created", (f"{state.wanted} at once",)))
        elif state.drift is not None:
            changes.append(Change("limit", state.name, "drift", (f"{state.drift}; left as it is",)))
        else:
            changes.append(Change("limit", state.name, "same"))
    return changes


def _pool(client: SyncPrefectClient, name: str, *, dry_run: bool) -> Change:
    """A pool that is there keeps its type and template; only signs of life are added to its environment."""
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        if not dry_run:
            template, _ = _with_env(ProcessWorker.get_default_base_job_template())
            client.create_work_pool(
                WorkPoolCreate(name=name, description=_POOLS.get(name), type="process", base_job_template=template)
            )
        return Change("pool", name, "created", ("type process",))
    notes = [] if found.type == "process" else [f"type {found.type}"]
    if found.is_paused:
        notes.append("paused")
    template, added = _with_env(found.base_job_template)
    if added and not dry_run:
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
    return Change("pool", name, "changed" if added else "same", (*(f"env {each} added" for each in added), *notes))


def _with_env(template: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A template whose runs have our environment, and what had to be added to it."""
    changed = copy.deepcopy(template)
    variable = changed.get("variables", {}).get("properties", {}).get("env")
    if variable is None:
        return changed, []
    there = variable.get("default") or {}
    added = {key: value for key, value in _POOL_ENV.items() if key not in there}
    variable["default"] = there | added
    return changed, [f"{key}={value}" for key, value in added.items()]


def _out(text: object) -> None:
    sys.stdout.write(f"{text}\n")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _refusal(error: PrefectHTTPStatusError) -> str:
    """Why, without what was sent: the environment of a deployment may hold a secret."""
    text = f"status {error.response.status_code}"
    try:
        details = error.response.json()["exception_detail"]
        told = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in details]
    except (ValueError, KeyError, TypeError):
        return text
    return f"{text}, {'; '.join(told)}"

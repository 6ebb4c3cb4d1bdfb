"""How a Prefect server and its workers are set up for this project; each value with what was measured without it.

`trading-data server` starts a server so; who starts one by other means copies the environment that
`trading-data server --print-env` prints. No Prefect here: these are only names and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_BATCH: Final = "200"
_BATCHED: Final = "by default a task run costs the server 22 ms of CPU and a short flow 2 s; with 200, 7 ms and 0.1 s"


@dataclass(frozen=True)
class ServerSetting:
    """One setting of Prefect.

    Attributes:
        name: the environment key.
        value: what this project sets.
        why: what goes wrong without it.
        place: who needs it, the `server` alone or every process (`all`).
    """

    name: str
    value: str
    why: str
    place: str = "server"


SETTINGS: Final = (
    ServerSetting(
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE",
        "prefect.server.concurrency.lease_storage.filesystem",
        "with leases in memory, slots that are held when the server restarts are lost for good",
    ),
    ServerSetting(
        "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION",
        "60",
        "a run that dies before it begins holds its deployment's slot for as long; 300 by default",
    ),
    ServerSetting("PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE", _BATCH, _BATCHED),
    ServerSetting("PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE", _BATCH, _BATCHED),
    ServerSetting("PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE", _BATCH, _BATCHED),
    ServerSetting("PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE", _BATCH, _BATCHED),
    ServerSetting("PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE", _BATCH, _BATCHED),
    ServerSetting(
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED",
        "events,flow_runs",
        "the database grows by 19 KB per task run for ever; so runs are forgotten after 90 days",
    ),
    ServerSetting("PREFECT_SERVER_ANALYTICS_ENABLED", "false", "the server would report its use to its makers", "all"),
    ServerSetting("DO_NOT_TRACK", "1", "client and command line would report their use", "all"),
    ServerSetting("PREFECT_CLI_PROMPT", "false", "a command without a terminal would wait for an answer", "all"),
)
"""Every setting that this project wants of Prefect."""


def server_env(settings: tuple[ServerSetting, ...] = SETTINGS) -> dict[str, str]:
    """The environment of a server."""
    return {setting.name: setting.value for setting in settings}


def client_env() -> dict[str, str]:
    """The environment of everything else: workers, flows, commands."""
    return {setting.name: setting.value for setting in SETTINGS if setting.place == "all"}


def differing(env: Mapping[str, str]) -> dict[str, tuple[str | None, str]]:
    """Keys whose value in an environment is not ours, with what is there and what should be."""
    return {
        setting.name: (env.get(setting.name), setting.value)
        for setting in SETTINGS
        if env.get(setting.name) != setting.value
    }

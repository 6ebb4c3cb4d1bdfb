"""What runs the task runs of a backfill: threads of the flow's process, or Dask (TASK_RUNNER, DASK_ADDRESS).

Chosen when a run begins and not when its flow is loaded, so that one deployment serves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.errors import ConfigurationError

if TYPE_CHECKING:
    from flows.settings import Settings


@dataclass(frozen=True)
class Runner:
    """A task runner that is not started yet.

    Attributes:
        runner: use it in a `with` block.
        is_remote: its tasks run in other processes.
    """

    runner: TaskRunner[Any]
    is_remote: bool


def task_runner(settings: Settings, workers: int) -> Runner:
    """The task runner that the settings ask for.

    Args:
        settings: the environment.
        workers: task runs at a time.

    Raises:
        ConfigurationError: Dask is asked for and not installed.
    """
    if settings.task_runner == "threads":
        return Runner(ThreadPoolTaskRunner(max_workers=workers), is_remote=False)
    try:
        from prefect_dask.task_runners import DaskTaskRunner  # noqa: PLC0415 - an extra, and it takes a second
    except ImportError as error:
        raise ConfigurationError(
            "TASK_RUNNER=dask needs the extra: pip install 'trading-data[dask]' [or use TASK_RUNNER=threads]"
        ) from error
    if settings.dask_address:
        return Runner(DaskTaskRunner(address=settings.dask_address), is_remote=True)
    cluster = {
        "n_workers": workers,
        "threads_per_worker": 1,
        # Nobody else reaches it, and nothing is shown over the network.
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
    }
    return Runner(DaskTaskRunner(cluster_kwargs=cluster), is_remote=True)

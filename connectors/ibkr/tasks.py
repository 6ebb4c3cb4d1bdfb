"""The gateway's steps as Prefect tasks, so that a run page shows the session and how it ended.

A session is never tried again as a whole: the client reconnects by itself, and what was captured or downloaded is on
disk. The tasks have no tags: for each tag Prefect asks its API before the task may begin, and the API may be away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


@task(
    name="capture-level2",
    task_run_name="capture {label}",
    description="Hold a session with the gateway and journal the depth messages of its symbols until it ends.",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def capture_level2(session: Callable[[], T], *, label: str) -> T:
    """Hold a capture session.

    Args:
        session: holds it and returns what became of it.
        label: symbols and day, for the name of the run.
    """
    del label
    return session()


@task(
    name="download-bars",
    task_run_name="download {label}",
    description="Hold a session with the gateway and bring the missing bars until all is there.",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def download_historical_bars(session: Callable[[], T], *, label: str) -> T:
    """Hold a session that downloads bars.

    Args:
        session: holds it and returns what became of it.
        label: symbols, sizes and days, for the name of the run.
    """
    del label
    return session()

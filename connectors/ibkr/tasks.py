"""The gateway's step as a Prefect task, so that a run page shows the session and how it ended.

A session is never tried again as a whole: the client reconnects by itself, and what was captured is on disk.
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
    tags=["ibkr"],
)
def capture_level2(session: Callable[[], T], *, label: str) -> T:
    """Hold a capture session.

    Args:
        session: holds it and returns what became of it.
        label: symbols and day, for the name of the run.
    """
    del label
    return session()

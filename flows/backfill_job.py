"""From the parameters of a backfill, as the flow, its deployments and the CLI take them, to tasks and a context."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows import bars_job
from flows.backfill_context import BackfillContext, DayOptions
from flows.backfill_request import BackfillRequest, DayTask, plan_tasks
from flows.backfill_run import RunOptions
from flows.errors import ConfigurationError
from flows.settings import load_settings

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence
    from pathlib import Path

    from flows.bars_job import BarsJob


@dataclass(frozen=True)
class BackfillJob:
    """A backfill ready to run.

    Attributes:
        context: what its days share.
        tasks: its tasks, in order.
        options: how the run goes.
        bars: the download of bars of the same symbols and days that follows it; None when none was asked for.
    """

    context: BackfillContext
    tasks: tuple[DayTask, ...]
    options: RunOptions
    bars: BarsJob | None = None


def assemble(
    *,
    symbols: Sequence[str] | None = None,
    start: dt.date | None = None,
    end: dt.date | None = None,
    since_days: int | None = None,
    last: int | None = None,
    tasks_file: Path | None = None,
    force: bool = False,
    strict: bool = False,
    max_tasks: int | None = None,
    max_workers: int | None = None,
    interval_ms: int | None = None,
    with_events: bool = False,
    max_cost_usd: float | None = None,
    dry_run: bool = False,
    fetch_bars: bool = False,
) -> BackfillJob:
    """Check the parameters of a backfill and plan its tasks; asks no vendor and writes nothing.

    With `fetch_bars` bars of all sizes are to follow for the same symbols and days.

    Raises:
        ConfigurationError: a parameter, a setting, the task list or the symbol mapping cannot be used.
    """
    settings = load_settings()
    interval = settings.l2_snapshot_interval_ms if interval_ms is None else interval_ms
    workers = settings.workers if max_workers is None else max_workers
    ceiling = settings.databento_max_cost_usd if max_cost_usd is None else max_cost_usd
    if interval < 0:
        raise ConfigurationError(f"the interval must be 0 (every event) or more milliseconds, it is {interval}")
    if workers < 1:
        raise ConfigurationError(f"max_workers must be at least 1, it is {workers}")
    if ceiling is not None and not 0 <= ceiling < float("inf"):
        raise ConfigurationError(f"max_cost_usd must be 0 or more US dollars, it is {ceiling}")
    request = BackfillRequest(
        symbols=tuple(symbols or ()),
        start=start,
        end=end,
        since_days=since_days,
        last=last,
        tasks_file=tasks_file,
        max_tasks=max_tasks,
    )
    options = DayOptions(
        force=force, interval_ms=interval, with_events=with_events, max_cost_usd=ceiling, read_only=dry_run
    )
    # The window, the data root and the mapping are checked before a list is opened.
    context = BackfillContext(settings, options)
    tasks = plan_tasks(request, settings)
    context.days = frozenset(task.day for task in tasks)
    bars = None
    if fetch_bars and tasks:
        pairs = [(task.symbol, task.day) for task in tasks]
        bars = bars_job.assemble(now_ns=time.time_ns(), pairs=pairs, dry_run=dry_run, strict=strict)
    return BackfillJob(context, tuple(tasks), RunOptions(strict=strict, max_tasks=max_tasks, workers=workers), bars)

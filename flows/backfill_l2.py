"""The flow `backfill-l2`: plan, then one task per (symbol, day), then manifest lines in input order and a summary.

It names the steps; what they do lies in `backfill_day` and `backfill_run`, which run and are tested without Prefect.
The manifest has one writer, this flow; its tasks only make outcomes.
"""

from __future__ import annotations

import datetime as dt
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State  # noqa: TC002 - Prefect reads the annotation
from prefect.futures import wait
from prefect.states import Completed, Failed
from pydantic import Field

from connectors.databento.tasks import fetch_level2_day
from flows.backfill_day import DayOutcome
from flows.backfill_job import assemble
from flows.backfill_preview import preview
from flows.backfill_run import attempt_day, run_backfill
from flows.bars_run import preview_job
from flows.download_bars import bring_bars
from flows.errors import BackfillFailed, ConfigurationError
from flows.progress import watching
from flows.run_log import show_own_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prefect.futures import PrefectFuture

    from connectors.databento.fetch import RawDay
    from flows.backfill_context import BackfillContext
    from flows.backfill_request import DayTask


class DayFailed(Exception):  # noqa: N818 - says what happened
    """A day ended with ERROR; carries the outcome through Prefect's failed state."""

    def __init__(self, outcome: DayOutcome) -> None:
        super().__init__(outcome.error or outcome.task.label)
        self.outcome = outcome


@task(name="level2-day", task_run_name="{day.label}", cache_policy=NO_CACHE, persist_result=False)
def level2_day(context: BackfillContext, day: DayTask) -> State[Any]:
    """Fetch, shape and publish one (symbol, day)."""
    outcome = attempt_day(context, day, fetch_with=_fetch)
    if outcome is None:
        return Completed(message=f"{day.label}: left for the next run", name="Remaining")
    if outcome.status == "ERROR":
        return Failed(message=outcome.error, data=DayFailed(outcome))
    return Completed(message=f"{day.label}: {outcome.status} {outcome.rows} rows", name=outcome.status, data=outcome)


@flow(name="backfill-l2", validate_parameters=True, log_prints=False)
def backfill_l2(
    symbols: list[str] | None = None,
    start: dt.date | None = None,
    end: dt.date | None = None,
    since_days: Annotated[int, Field(ge=0)] | None = None,
    last: Annotated[int, Field(ge=1)] | None = None,
    tasks_file: Path | None = None,
    force: bool = False,
    strict: bool = False,
    max_tasks: Annotated[int, Field(ge=0)] | None = None,
    max_workers: Annotated[int, Field(ge=1)] | None = None,
    interval_ms: Annotated[int, Field(ge=0)] | None = None,
    with_events: bool = False,
    max_cost_usd: Annotated[float, Field(ge=0)] | None = None,
    dry_run: bool = False,
    fetch_bars: bool = False,
) -> dict[str, Any]:
    """Bring Level-2 snapshots of (symbol, day) pairs from Databento to the data root.

    Args:
        symbols: Symbols in any spelling. With dates: these pairs. Without: narrows the task list.
        start: First ET day.
        end: Last ET day, included; the start day when empty.
        since_days: Of the task list, only days at most so many days ago.
        last: Of the task list, only its last so many distinct days.
        tasks_file: A task list (.csv, .xlsx) instead of the configured one.
        force: Write again what exists.
        strict: Fail the run when a task ends with ERROR.
        max_tasks: Process at most so many tasks.
        max_workers: Tasks at a time; L2_MAX_WORKERS when empty.
        interval_ms: Grid distance in milliseconds, 0 for one row per event; L2_SNAPSHOT_INTERVAL_MS when empty.
        with_events: Also write the vendor's events.
        max_cost_usd: Spend ceiling of this run in US dollars; DATABENTO_MAX_COST_USD when empty.
        dry_run: Return what would be done and what it would cost; write nothing.
        fetch_bars: Then download bars of all sizes for the same symbols and days from Interactive Brokers.

    Returns:
        The summary, with `bars` when they were asked for, or the preview of a dry run.

    Raises:
        ConfigurationError: something given cannot be used; nothing was done.
        BackfillFailed: a strict run met an ERROR, or the gateway gave no bars; manifest and summary are written.
    """
    job = assemble(
        symbols=symbols,
        start=start,
        end=end,
        since_days=since_days,
        last=last,
        tasks_file=tasks_file,
        force=force,
        strict=strict,
        max_tasks=max_tasks,
        max_workers=max_workers,
        interval_ms=interval_ms,
        with_events=with_events,
        max_cost_usd=max_cost_usd,
        dry_run=dry_run,
        fetch_bars=fetch_bars,
    )
    show_own_lines(job.context.settings.log_level)
    if dry_run:
        document = preview(job.context, job.tasks)
        return document if job.bars is None else document | {"bars": preview_job(job.bars)}
    with watching(len(job.tasks)) as progress:
        result = run_backfill(job.context, job.tasks, job.options, execute=run_as_tasks, progress=progress)
    summary, problems = result.summary, []
    if strict and summary["counts"]["ERROR"]:
        problems.append(f"{summary['counts']['ERROR']} of {len(job.tasks)} tasks ended with ERROR")
    if job.bars is not None and not result.stopped:
        try:
            bars = bring_bars(job.bars)
        except ConfigurationError as error:
            # Level 2 is there: that nothing was done would be wrong.
            problems.append(f"Level 2 is done, but bars are not: {error}")
        else:
            summary = summary | {"bars": bars.to_document()}
            if bars.problem is not None:
                problems.append(f"Level 2 is done, but not all bars are: {bars.problem}")
    if problems:
        raise BackfillFailed("; ".join(problems))
    return summary


def run_as_tasks(context: BackfillContext, tasks: Sequence[DayTask], workers: int) -> Iterator[tuple[int, DayOutcome]]:
    """Process tasks as Prefect task runs, at most `workers` at a time.

    Yields:
        Position and outcome, as tasks finish.
    """
    finished: SimpleQueue[PrefectFuture[Any]] = SimpleQueue()
    positions: dict[PrefectFuture[Any], int] = {}
    todo = iter(enumerate(tasks))
    try:
        while True:
            for index, day in islice(todo, workers - len(positions)):
                future = level2_day.submit(context, day)
                positions[future] = index
                future.add_done_callback(finished.put)
            if not positions:
                break
            future = finished.get()
            index = positions.pop(future)
            result = future.result(raise_on_failure=False)
            if (outcome := _outcome(result)) is not None:
                yield index, outcome
    except BaseException:
        context.circuit.stopping.set()
        wait(list(positions))
        raise


def _outcome(result: object) -> DayOutcome | None:
    """The outcome in a task run's result, failed or not; None when the run left the day alone."""
    if isinstance(result, DayFailed):
        return result.outcome
    if isinstance(result, BaseException):
        raise result
    return result if isinstance(result, DayOutcome) else None


def _fetch(context: BackfillContext, day: DayTask) -> RawDay:
    raw: RawDay = fetch_level2_day(
        context.client,
        context.plan,
        context.request(day),
        shelf=context.shelf,
        ceiling=context.ceiling,
        max_records=context.settings.l2_max_rows_per_task,
        deadline_s=context.settings.databento_deadline_s,
    )
    return raw

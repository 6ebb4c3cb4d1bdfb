"""The flow `backfill-l2`: plan, task runs of one or many (symbol, day), manifest lines in input order, a summary.

It names the steps; what they do lies in `backfill_day`, `backfill_batches` and `backfill_run`, which run and are
tested without Prefect. The manifest has one writer, this flow; its tasks only make outcomes. The run has a thread of
its own, so that Prefect's signals reach this one, which waits, and never a line that is being written.
"""

# No `from __future__ import annotations`: `serve()` loads this file under a name at which pydantic cannot find the
# types of the parameters again.
import logging
import threading
import uuid
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any, Final

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner
from pydantic import Field

from connectors.databento.fetch import RawDay
from connectors.databento.tasks import fetch_level2_day
from flows import events
from flows.attended import attended
from flows.backfill_attempts import Attempts
from flows.backfill_batches import Batch, BatchLost, BatchResult, BatchWorker, run_batches, work_through
from flows.backfill_context import BackfillContext
from flows.backfill_day import DayOutcome
from flows.backfill_job import BackfillJob, assemble
from flows.backfill_names import is_of_list, list_name, run_name
from flows.backfill_page import BackfillPage
from flows.backfill_preview import preview
from flows.backfill_remote import RemoteShares, RemoteWorker, passing_on
from flows.backfill_request import DayTask
from flows.backfill_run import INTERRUPTED, RunResult, run_backfill
from flows.bars_run import preview_job
from flows.download_bars import bring_bars
from flows.errors import BackfillFailed, ConfigurationError
from flows.followup import follow_up
from flows.held import held
from flows.limits import limit_named
from flows.parameters import Day, Symbols
from flows.prefect_api import is_supervised, patient_client, wait_for_api
from flows.progress import watching
from flows.run_log import show_own_lines
from flows.stopping import Stop
from flows.task_runner import task_runner
from flows.vendor_gate import STREAMS

logger = logging.getLogger(__name__)

_STOPPED: Final = "Stopped"
_RENAME_S: Final = 2.0

TaskList = Annotated[Path, Field(json_schema_extra={"pattern": r"\.([cC][sS][vV]|[xX][lL][sS][xX])$"})]


class _BatchFailed(Exception):  # noqa: N818 - says what happened
    """Days of a batch ended with ERROR; carries the result through Prefect's failed state."""

    def __init__(self, result: BatchResult) -> None:
        super().__init__(result)
        self.result = result

    def __str__(self) -> str:
        return self.result.describe()


@task(name="level2-days", task_run_name="{batch.label}", cache_policy=NO_CACHE, persist_result=False)
def level2_days(worker: BatchWorker, batch: Batch) -> State[Any]:
    """Fetch, shape and publish the days of a batch; a day that fails makes it a failed task run."""
    result = worker(batch)
    message = result.describe()
    if result.errors:
        if batch.is_single:
            message = result.errors[0].error or message
        return Failed(message=message, data=_BatchFailed(result))
    name = None
    if batch.is_single:
        name = result.outcomes[0][1].status if result.outcomes else "Remaining"
    return Completed(message=message, name=name, data=result)


def _run_name() -> str:
    return run_name(flow_run.parameters)


def _rename(name: str) -> None:
    """Show another name; a name is not worth a failure, nor a wait."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    try:
        with patient_client(_RENAME_S) as client:
            client.update_flow_run(context.flow_run.id, name=name)
    except Exception:
        logger.debug("the run is not renamed", exc_info=True)


@flow(name="backfill-l2", flow_run_name=_run_name, validate_parameters=True, log_prints=False)
def backfill_l2(
    symbols: Symbols | None = None,
    start: Day | None = None,
    end: Day | None = None,
    since_days: Annotated[int, Field(ge=0, le=36_500)] | None = None,
    last: Annotated[int, Field(ge=1, le=36_500)] | None = None,
    tasks_file: TaskList | None = None,
    force: bool = False,
    strict: bool = False,
    max_tasks: Annotated[int, Field(ge=0, le=10_000_000)] | None = None,
    max_workers: Annotated[int, Field(ge=1, le=64)] | None = None,
    interval_ms: Annotated[int, Field(ge=0, le=3_600_000)] | None = None,
    with_events: bool = False,
    max_cost_usd: Annotated[float, Field(ge=0, le=1_000_000)] | None = None,
    dry_run: bool = False,
    fetch_bars: bool = False,
) -> dict[str, Any] | State[Any]:
    """Bring Level-2 snapshots of (symbol, day) pairs from Databento to the data root.

    Args:
        symbols: Symbols in any spelling. With dates: these pairs. Without: narrows the task list.
        start: First ET day.
        end: Last ET day, included; the start day when empty.
        since_days: Of the task list, only days at most so many days ago.
        last: Of the task list, only its last so many distinct days.
        tasks_file: A task list (.csv, .xlsx) instead of the configured one, on the machine of the worker.
        force: Write again what exists.
        strict: Fail the run when a task ends with ERROR.
        max_tasks: Process at most so many tasks.
        max_workers: Tasks at a time, 1 to 64; L2_MAX_WORKERS when empty.
        interval_ms: Grid distance in milliseconds, 0 for one row per event; L2_SNAPSHOT_INTERVAL_MS when empty.
        with_events: Also write the vendor's events.
        max_cost_usd: Spend ceiling of this run in US dollars; DATABENTO_MAX_COST_USD when empty.
        dry_run: Return what would be done and what it would cost; write nothing.
        fetch_bars: Then download bars of all sizes for the same symbols and days from Interactive Brokers.

    Returns:
        The summary, with `bars` when they were asked for, or the preview of a dry run.

    Raises:
        ConfigurationError: something given cannot be used; nothing was done.
        BackfillFailed: the run stopped early (a refused key, the spend ceiling, no room), a strict run met an ERROR,
            or the gateway gave no bars; manifest and summary are written.
    """
    parameters: dict[str, Any] = {
        "symbols": symbols,
        "start": start,
        "end": end,
        "since_days": since_days,
        "last": last,
        "tasks_file": tasks_file,
        "force": force,
        "strict": strict,
        "max_tasks": max_tasks,
        "max_workers": max_workers,
        "interval_ms": interval_ms,
        "with_events": with_events,
        "max_cost_usd": max_cost_usd,
        "dry_run": dry_run,
        "fetch_bars": fetch_bars,
    }
    job = assemble(**parameters)
    show_own_lines(job.context.settings.log_level)
    label = run_name(parameters)
    if is_of_list(parameters):
        _rename(list_name(label, job.tasks))
    if dry_run:
        document = preview(job.context, job.tasks)
        return document if job.bars is None else document | {"bars": preview_job(job.bars)}
    streams = min(job.options.workers, limit_named(STREAMS).limit) if job.tasks else 0
    with held({STREAMS: streams}, what=label):
        result, signalled = _bring_days(job, label)
    ceiling = job.context.ceiling
    rest_usd = None if ceiling.max_usd is None else ceiling.max_usd - ceiling.spent_usd
    follow_up(result.outcomes, job.context.window, flow_run.parameters, rest_usd=rest_usd)
    if signalled is not None or result.stopped == INTERRUPTED:
        return _ended_early(result, signalled)
    return _finish(job, result, strict=strict)


def _finish(job: BackfillJob, result: RunResult, *, strict: bool) -> dict[str, Any] | State[Any]:
    """Bring the bars, if they were asked for, and say how all of it went.

    Raises:
        BackfillFailed: not all is as it was asked for.
    """
    summary, problems = result.summary, [result.stopped] if result.stopped else []
    if strict and summary["counts"]["ERROR"]:
        problems.append(f"{summary['counts']['ERROR']} of {len(job.tasks)} tasks ended with ERROR")
    if job.bars is not None and not result.stopped:
        try:
            bars = bring_bars(job.bars)
        except TerminationSignal as signal_error:
            return _ended_early(result, signal_error)
        except ConfigurationError as error:
            # Level 2 is there: that nothing was done would be wrong.
            problems.append(f"Level 2 is done, but bars are not: {error}")
        else:
            summary = summary | {"bars": bars.to_document()}
            if bars.problem is not None:
                problems.append(f"Level 2 is done, but not all bars are: {bars.problem}")
    # What a run reports while the API is away is lost.
    wait_for_api()
    if problems:
        raise BackfillFailed("; ".join(problems))
    return summary


def _ended_early(result: RunResult, signalled: BaseException | None) -> State[Any]:
    """The state of a run that somebody ended; all that was done is recorded.

    Raises:
        TerminationSignal: no runner asked, so that the process shall end by it.
    """
    # What a run reports while the API is away is lost.
    wait_for_api()
    message = f"interrupted; {len(result.summary.get('remaining') or ())} days remain"
    if not isinstance(signalled, TerminationSignal):
        return Completed(name=_STOPPED, message=message, data=result.summary)
    if not is_supervised():
        raise signalled
    # Raised, it would make the run Crashed first, and alert somebody.
    return Cancelled(message=message, data=result.summary)


def _bring_days(job: BackfillJob, label: str) -> tuple[RunResult, BaseException | None]:
    """Run in a thread, and wait for it whatever happens here meanwhile.

    Returns:
        The result, and the signal that ended the run, if one did; what was done is recorded.
    """
    stop = _Stop(job.context.circuit.stopping)
    work = partial(_run, job, label)
    return attended(work, stop, name="backfill-l2", saying="ending the run; what was done is recorded")


class _Stop(Stop):
    """A wish to end that reaches the workers of a backfill."""

    def __init__(self, stopping: threading.Event) -> None:
        super().__init__()
        self._stopping = stopping

    def ask(self, reason: str) -> None:
        """See `Stop`."""
        super().ask(reason)
        self._stopping.set()


def _run(job: BackfillJob, label: str) -> RunResult:
    context, run_id = job.context, uuid.uuid4().hex[:12]
    page = BackfillPage(
        label, len(job.tasks), root=context.root, run_id=run_id, max_cost_usd=context.options.max_cost_usd
    )
    with watching(len(job.tasks)) as progress:
        result = run_backfill(
            context,
            job.tasks,
            job.options,
            execute=run_as_tasks,
            progress=progress,
            recorded=page.recorded,
            recovered=lambda dead_run_id, outcome: events.level2_day(outcome, run_id=dead_run_id, root=context.root),
            run_id=run_id,
        )
    # What a run reports while the API is away is lost.
    wait_for_api()
    page.finish(result.summary, result.outcomes)
    return result


def run_as_tasks(
    attempts: Attempts, tasks: Sequence[DayTask], workers: int
) -> Generator[tuple[int, DayOutcome], None, None]:
    """Process tasks as Prefect task runs: each day one in a small run, batches of days in a large one.

    Yields:
        Position and outcome, as days finish.

    Raises:
        ConfigurationError: Dask is asked for and not installed.
    """
    context, checkpoints = attempts.context, attempts.checkpoints
    finished: SimpleQueue[Any] = SimpleQueue()
    chosen = task_runner(context.settings, workers)
    with ExitStack() as stack:
        runner = stack.enter_context(chosen.runner)
        if chosen.is_remote:
            stack.enter_context(passing_on(checkpoints, context.circuit.stopping))
            worker: BatchWorker = RemoteWorker(context, checkpoints.run_id)
            shares = RemoteShares(attempts, workers)
        else:
            worker, shares = _ThreadWorker(attempts, finished), None
        submit = partial(_submit, runner, worker)
        yield from run_batches(attempts, tasks, workers, submit=submit, finished=finished, shares=shares)


class _ThreadWorker:
    """Works on batches in a thread of this process and hands on each outcome as soon as it is there."""

    def __init__(self, attempts: Attempts, finished: "SimpleQueue[Any]") -> None:
        self._attempts = attempts
        self._finished = finished

    def __call__(self, batch: Batch) -> BatchResult:
        # A day of a small run shows its download as a task run of its own.
        attempt = partial(self._attempts, fetch_with=_fetch) if batch.is_single else self._attempts

        def one(position: int, day: DayTask) -> DayOutcome | None:
            outcome = attempt(position, day)
            if outcome is not None:
                self._finished.put((position, outcome))
            return outcome

        return work_through(batch, one)


class _TaskFuture:
    """A task run under way, as `run_batches` wants it."""

    def __init__(self, future: PrefectFuture[Any]) -> None:
        self._future = future

    def add_done_callback(self, fn: Any) -> None:
        self._future.add_done_callback(lambda _: fn(self))

    def result(self) -> BatchResult:
        try:
            result = self._future.result(raise_on_failure=False)
        except Exception as error:
            # Not what the task raised, which is returned: its process is gone, or it could not reach Prefect's API.
            wait_for_api()
            raise BatchLost(str(error)) from error
        if isinstance(result, _BatchFailed):
            return result.result
        if isinstance(result, BaseException):
            raise result
        return result  # type: ignore[no-any-return]  # `run_batches` looks


def _submit(runner: TaskRunner[Any], worker: BatchWorker, batch: Batch) -> _TaskFuture:
    return _TaskFuture(runner.submit(level2_days, {"worker": worker, "batch": batch}))


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

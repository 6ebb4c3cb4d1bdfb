"""A whole backfill, without Prefect: tasks in, manifest lines in input order, one summary out.

The run holds the data root's lock from its first write to its summary. Workers only make outcomes; one recorder
appends manifest lines, each as soon as all tasks before it are done, so a run that dies keeps the lines of what it
finished.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from connectors.databento.client import Stopped
from connectors.store.errors import StorageGuardHit, StoreError
from connectors.store.manifests import append_backfill_line, run_lock, write_backfill_summary
from connectors.store.mirror import mirror
from connectors.store.temps import sweep_stale_temps
from contracts.v1.backfill import BackfillCounts, BackfillManifestLine, BackfillSummary
from flows.backfill_context import SOURCE, BackfillContext
from flows.backfill_day import DayOutcome, fetch, run_day, without_vendor
from flows.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from connectors.databento.fetch import RawDay
    from flows.backfill_request import DayTask

logger = logging.getLogger(__name__)

INTERRUPTED = "interrupted"


class Progress(Protocol):
    """Somebody who watches a run."""

    def done(self, outcome: DayOutcome, finished: int, total: int) -> None:
        """A task has an outcome; called from one thread at a time."""


class Executor(Protocol):
    """Runs tasks, some at a time, and yields each outcome with the task's position as soon as it is there."""

    def __call__(
        self, context: BackfillContext, tasks: Sequence[DayTask], workers: int
    ) -> Iterator[tuple[int, DayOutcome]]:
        """Leaves tasks alone once the context's circuit is stopping or its `pause` is set."""


@dataclass(frozen=True)
class RunOptions:
    """What a run is told besides its tasks.

    Attributes:
        strict: an ERROR makes the run fail; recorded here, acted on by the caller.
        max_tasks: as given, for the summary.
        workers: tasks at a time.
    """

    strict: bool = False
    max_tasks: int | None = None
    workers: int = 4


@dataclass(frozen=True)
class RunResult:
    """A finished or stopped run.

    Attributes:
        summary: the summary document as written.
        outcomes: outcomes of the processed tasks, in input order.
        stopped: why the run ended early, None when it did not.
    """

    summary: dict[str, Any]
    outcomes: tuple[DayOutcome, ...]
    stopped: str | None

    @property
    def summary_line(self) -> str:
        """The one line of a batch's stdout."""
        counts = " ".join(f"{key}={self.summary['counts'][key]}" for key in ("WRITE", "SKIP", "EMPTY", "ERROR"))
        return (
            f"SUMMARY {counts} total={self.summary['total_tasks']} "
            f"concurrency={self.summary['concurrency']} duration={self.summary['duration_sec']:.3f}s"
        )


class Recorder:
    """Turns outcomes into manifest lines in input order, and into the summary.

    Args:
        context: the run's context.
        tasks: all tasks, in input order.
        run_id: the run's id.
    """

    def __init__(self, context: BackfillContext, tasks: Sequence[DayTask], run_id: str) -> None:
        self._context = context
        self._tasks = tasks
        self._run_id = run_id
        self._outcomes: dict[int, DayOutcome] = {}
        self._recorded = 0

    @property
    def outcomes(self) -> tuple[DayOutcome, ...]:
        """Outcomes so far, in input order."""
        return tuple(self._outcomes[index] for index in sorted(self._outcomes))

    def add(self, index: int, outcome: DayOutcome) -> None:
        """Keep an outcome; append the lines of the finished prefix."""
        self._outcomes[index] = outcome
        while self._recorded in self._outcomes:
            self._append(self._outcomes[self._recorded])
            self._recorded += 1

    def finish(self) -> tuple[DayTask, ...]:
        """Append what finished behind an unfinished task; the tasks that were not processed."""
        for index in sorted(index for index in self._outcomes if index >= self._recorded):
            self._append(self._outcomes[index])
        return tuple(task for index, task in enumerate(self._tasks) if index not in self._outcomes)

    def _append(self, outcome: DayOutcome) -> None:
        append_backfill_line(self._context.root, manifest_line(outcome, self._run_id))


def manifest_line(outcome: DayOutcome, run_id: str) -> BackfillManifestLine:
    """The manifest line of an outcome, written now."""
    return BackfillManifestLine(
        symbol=outcome.task.symbol,
        date=outcome.task.day,
        status=outcome.status,
        run_id=run_id,
        written_at=dt.datetime.now(dt.UTC),
        source=SOURCE,
        path=str(outcome.path) if outcome.path else None,
        rows=outcome.rows,
        interval_ms=outcome.interval_ms,
        window_et=outcome.window_et,
        cost_usd=outcome.cost_usd,
        quality=outcome.quality,
        error=outcome.error,
        reason=outcome.reason,
    )


def run_backfill(
    context: BackfillContext,
    tasks: Sequence[DayTask],
    options: RunOptions,
    *,
    execute: Executor | None = None,
    progress: Progress | None = None,
    run_id: str | None = None,
) -> RunResult:
    """Process tasks and record what became of them.

    Args:
        context: what the days share.
        tasks: unique tasks, in the order the manifest shall have.
        options: strictness, workers.
        execute: how tasks run; threads of this process by default.
        progress: told of every outcome.
        run_id: recorded in every line; made up by default.

    Returns:
        The result, also when a storage guard or a wish to stop ended the run early.

    Raises:
        ConfigurationError: the vendor is needed and may not be asked, or nothing at all may be written for want of
            space.
        KeyboardInterrupt: the run was stopped while it waited for another one.
        StoreError: the disk failed while the run was under way.
    """
    run_id = run_id or uuid.uuid4().hex[:12]
    check_ready(context, tasks)
    started_at = dt.datetime.now(dt.UTC)
    began = time.perf_counter()
    recorder = Recorder(context, tasks, run_id)
    with ExitStack() as held:
        try:
            held.enter_context(run_lock(context.root, run_id=run_id, while_waiting=context.circuit.check_stopping))
            sweep_stale_temps(context.root.path)
            context.shelf.sweep()
        except StoreError as error:
            raise ConfigurationError(f"nothing was done: {error}") from error
        except Stopped:
            raise KeyboardInterrupt from None
        signalled = _process(context, tasks, recorder, execute or run_in_threads, options.workers, progress)
        remaining = recorder.finish()
        stopped = _why_stopped(context) if remaining else None
        outcomes = recorder.outcomes
        summary = BackfillSummary(
            counts=_counts(outcomes),
            zero_row_tasks=tuple((o.task.symbol, o.task.day) for o in outcomes if o.status == "EMPTY"),
            errors=tuple(o.error or o.task.label for o in outcomes if o.status == "ERROR"),
            total_tasks=len(outcomes),
            duration_sec=round(time.perf_counter() - began, 3),
            strict=options.strict,
            force=context.options.force,
            max_tasks=options.max_tasks,
            concurrency=options.workers,
            run_id=run_id,
            started_at=started_at,
            window_et=str(context.window),
            cost_usd=round(context.ceiling.total_usd, 9) if context.ceiling.total_usd is not None else None,
            bytes_written=sum(o.bytes_written for o in outcomes),
            remaining=tuple((task.symbol, task.day) for task in remaining) if stopped else None,
            stopped=stopped,
        )
        write_backfill_summary(context.root, summary)
        mirror(
            [path for path in (context.root.backfill_manifest, context.root.backfill_summary) if path.exists()],
            context.root.path,
            context.settings.ml_backup_path,
        )
    if stopped:
        logger.warning("the run stopped early: %s", stopped)
        for task in remaining:
            logger.warning("remains: %s", task.label)
    if signalled is not None:
        raise signalled
    return RunResult(summary.to_document(), outcomes, stopped)


def _process(
    context: BackfillContext,
    tasks: Sequence[DayTask],
    recorder: Recorder,
    execute: Executor,
    workers: int,
    progress: Progress | None,
) -> BaseException | None:
    """Run the tasks and record each outcome; the signal to pass on when all is recorded, if any."""
    try:
        for index, outcome in execute(context, tasks, workers):
            recorder.add(index, outcome)
            if progress is not None:
                progress.done(outcome, len(recorder.outcomes), len(tasks))
    except KeyboardInterrupt:
        context.circuit.stopping.set()
    except Exception:
        raise
    except BaseException as signalled:  # noqa: BLE001 - Prefect's word for SIGTERM: recorded first, then passed on
        context.circuit.stopping.set()
        return signalled
    return None


def _why_stopped(context: BackfillContext) -> str | None:
    if context.circuit.stopping.is_set():
        return INTERRUPTED
    return str(context.pause) if context.pause is not None else None


def check_ready(context: BackfillContext, tasks: Sequence[DayTask]) -> None:
    """Find out before any work whether the run can work at all.

    Raises:
        ConfigurationError: a task needs the vendor, and there is no key or it is switched off; or a storage guard is
            hit already.
    """
    _check_places(context)
    try:
        context.require_vendor()
    except ConfigurationError:
        if any(
            without_vendor(context, task) is None and context.shelf.find(context.request(task)) is None
            for task in tasks
        ):
            raise
    try:
        if tasks:
            context.guard()
    except StorageGuardHit as guard:
        plan = ", ".join(task.label for task in tasks[:5]) + (" ..." if len(tasks) > 5 else "")  # noqa: PLR2004
        raise ConfigurationError(f"{guard} Nothing was done; {len(tasks)} tasks remain: {plan}") from guard


def _check_places(context: BackfillContext) -> None:
    """Refuse what is a file where a folder must be, or the other way round."""
    cache = context.settings.cache_path
    if any(place.exists() and not place.is_dir() for place in (cache, *cache.absolute().parents)):
        raise ConfigurationError(f"CACHE_PATH {cache} is a file or lies below one; name a folder")
    for path in (context.root.backfill_manifest, context.root.backfill_summary):
        if path.is_dir():
            raise ConfigurationError(f"{path} is a folder; move it away, a file of that name is written")
    bundle = os.environ.get("REQUESTS_CA_BUNDLE")
    if bundle and not os.path.exists(bundle):  # noqa: PTH110 - an environment text, perhaps no path at all
        raise ConfigurationError(f"REQUESTS_CA_BUNDLE {bundle} does not exist; correct or unset it")


def run_in_threads(
    context: BackfillContext, tasks: Sequence[DayTask], workers: int
) -> Iterator[tuple[int, DayOutcome]]:
    """Process tasks in threads of this process, until done or until the context's circuit is told to stop.

    Yields:
        Position and outcome, as tasks finish.
    """
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="backfill") as pool:
        futures = {pool.submit(attempt_day, context, task): index for index, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                if (outcome := future.result()) is not None:
                    yield futures[future], outcome
        except BaseException:
            # The pool waits for its threads: let them end soon.
            context.circuit.stopping.set()
            raise


def attempt_day(
    context: BackfillContext,
    task: DayTask,
    *,
    fetch_with: Callable[[BackfillContext, DayTask], RawDay] = fetch,
) -> DayOutcome | None:
    """Process one task unless the run is ending; None when it was left alone."""
    if context.pause is not None or context.circuit.stopping.is_set():
        return None
    try:
        return run_day(context, task, fetch_with=fetch_with)
    except StorageGuardHit as guard:
        context.pause = guard
    except Stopped:
        pass
    return None


def _counts(outcomes: Sequence[DayOutcome]) -> BackfillCounts:
    statuses = [outcome.status for outcome in outcomes]
    return BackfillCounts(
        WRITE=statuses.count("WRITE"),
        SKIP=statuses.count("SKIP"),
        EMPTY=statuses.count("EMPTY"),
        ERROR=statuses.count("ERROR"),
    )

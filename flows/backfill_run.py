"""A whole backfill, without Prefect: tasks in, manifest lines in input order, one summary out.

The run holds the data root's lock from its first write to its summary. Workers only make outcomes; one recorder
appends manifest lines, each as soon as all tasks before it are done. A run that dies keeps the lines of what it
finished, and what it could not record yet is recorded by the next run (`connectors.store.checkpoints`).
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from connectors.databento.client import Stopped
from connectors.store.checkpoints import Checkpoints, record_unfinished
from connectors.store.errors import StorageGuardHit, StoreError
from connectors.store.manifests import append_backfill_line, run_lock, write_backfill_summary
from connectors.store.mirror import mirror
from connectors.store.temps import sweep_stale_temps
from contracts.v1.backfill import BackfillCounts, BackfillSummary
from flows.backfill_attempts import Attempts, manifest_line, outcome_of
from flows.backfill_day import without_vendor
from flows.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from flows.backfill_context import BackfillContext
    from flows.backfill_day import DayOutcome
    from flows.backfill_request import DayTask

    Outcomes = Generator[tuple[int, DayOutcome], None, None]

logger = logging.getLogger(__name__)

INTERRUPTED = "interrupted"


class Progress(Protocol):
    """Somebody who watches a run."""

    def done(self, outcome: DayOutcome, finished: int, total: int) -> None:
        """A task has an outcome; called from one thread at a time."""


class Executor(Protocol):
    """Runs tasks, some at a time, and yields each outcome with the task's position as soon as it is there."""

    def __call__(self, attempts: Attempts, tasks: Sequence[DayTask], workers: int) -> Outcomes:
        """Makes one attempt at each task; those that were left alone have no outcome."""


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
        recovered: what earlier runs on this root had finished when they died, recorded by this one: run id and
            outcome.
    """

    summary: dict[str, Any]
    outcomes: tuple[DayOutcome, ...]
    stopped: str | None
    recovered: tuple[tuple[str, DayOutcome], ...] = ()

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
        recorded: told of every outcome whose line is on disk.
    """

    def __init__(
        self,
        context: BackfillContext,
        tasks: Sequence[DayTask],
        run_id: str,
        recorded: Callable[[DayOutcome], None] | None = None,
    ) -> None:
        self._context = context
        self._tasks = tasks
        self._run_id = run_id
        self._tell = recorded
        self._outcomes: dict[int, DayOutcome] = {}
        self._recorded = 0

    @property
    def outcomes(self) -> tuple[DayOutcome, ...]:
        """Outcomes so far, in input order."""
        return tuple(self._outcomes[index] for index in sorted(self._outcomes))

    @property
    def count(self) -> int:
        """How many outcomes there are."""
        return len(self._outcomes)

    def has(self, index: int) -> bool:
        """Whether the task at a position has an outcome."""
        return index in self._outcomes

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
        if self._tell is None:
            return
        try:
            self._tell(outcome)
        except Exception:
            logger.exception("%s is recorded, but not all who wait for it were told", outcome.task.label)


def run_backfill(
    context: BackfillContext,
    tasks: Sequence[DayTask],
    options: RunOptions,
    *,
    execute: Executor | None = None,
    progress: Progress | None = None,
    recorded: Callable[[DayOutcome], None] | None = None,
    recovered: Callable[[str, DayOutcome], None] | None = None,
    run_id: str | None = None,
) -> RunResult:
    """Process tasks and record what became of them.

    Args:
        context: what the days share.
        tasks: unique tasks, in the order the manifest shall have.
        options: strictness, workers.
        execute: how tasks run; threads of this process by default.
        progress: told of every outcome.
        recorded: told of every outcome once its manifest line is on disk.
        recovered: told at once, with the id of its run, of what earlier runs on this root had finished when they died.
        run_id: recorded in every line; made up by default.

    Returns:
        The result, also when the run ended early: a storage guard, a wish to stop, or nothing more to be had of the
        vendor (a refused key, the spend ceiling).

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
    recorder = Recorder(context, tasks, run_id, recorded)
    attempts = Attempts(context, Checkpoints(context.root, run_id))
    with ExitStack() as held:
        try:
            held.enter_context(run_lock(context.root, run_id=run_id, while_waiting=context.circuit.check_stopping))
            sweep_stale_temps(context.root.path)
            context.shelf.sweep()
            found = tuple((line.run_id or "", outcome_of(line)) for line in record_unfinished(context.root))
        except StoreError as error:
            raise ConfigurationError(f"nothing was done: {error}") from error
        except Stopped:
            raise KeyboardInterrupt from None
        if recovered is not None:
            for dead_run_id, outcome in found:
                recovered(dead_run_id, outcome)
        signalled = _process(attempts, tasks, recorder, execute or run_in_threads, options.workers, progress)
        if context.circuit.stopping.is_set():
            _add_unheard(attempts.checkpoints, recorder)
        remaining = recorder.finish()
        _remove(attempts.checkpoints)
        # An open circuit is told also when it was the last day that met it.
        stopped = _why_stopped(context) if remaining or context.circuit.reason else None
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
    return RunResult(summary.to_document(), outcomes, stopped, found)


def _add_unheard(checkpoints: Checkpoints, recorder: Recorder) -> None:
    """Add what workers finished after nobody listened to them any more."""
    try:
        kept = checkpoints.read()
    except StoreError as error:
        logger.warning("what finished while the run was ending may lack its manifest line: %s", error)
        return
    for position in sorted(kept):
        if not recorder.has(position):
            each = kept[position]
            recorder.add(
                position, outcome_of(each.line, bytes_written=each.bytes_written, duration_ms=each.duration_ms)
            )


def _remove(checkpoints: Checkpoints) -> None:
    try:
        checkpoints.remove()
    except StoreError as error:
        # The next run finds that all of it is recorded.
        logger.warning("checkpoints of a finished run stay: %s", error)


def _process(
    attempts: Attempts,
    tasks: Sequence[DayTask],
    recorder: Recorder,
    execute: Executor,
    workers: int,
    progress: Progress | None,
) -> BaseException | None:
    """Run the tasks and record each outcome; the signal to pass on when all is recorded, if any."""
    try:
        # Closed, so that no worker is at anything when this returns.
        with closing(execute(attempts, tasks, workers)) as outcomes:
            for index, outcome in outcomes:
                recorder.add(index, outcome)
                if progress is not None:
                    progress.done(outcome, recorder.count, len(tasks))
    except KeyboardInterrupt:
        attempts.context.circuit.stopping.set()
    except Exception:
        raise
    except BaseException as signalled:  # noqa: BLE001 - Prefect's word for SIGTERM: recorded first, then passed on
        attempts.context.circuit.stopping.set()
        return signalled
    return None


def _why_stopped(context: BackfillContext) -> str | None:
    if context.circuit.stopping.is_set():
        return INTERRUPTED
    why = context.pause or context.circuit.reason
    return str(why) if why is not None else None


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


def run_in_threads(attempts: Attempts, tasks: Sequence[DayTask], workers: int) -> Outcomes:
    """Process tasks in threads of this process, until done or until the context's circuit is told to stop.

    Yields:
        Position and outcome, as tasks finish.
    """
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="backfill") as pool:
        futures = {pool.submit(attempts, index, task): index for index, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                if (outcome := future.result()) is not None:
                    yield futures[future], outcome
        except BaseException:
            # The pool waits for its threads: let them end soon.
            attempts.context.circuit.stopping.set()
            raise


def _counts(outcomes: Sequence[DayOutcome]) -> BackfillCounts:
    statuses = [outcome.status for outcome in outcomes]
    return BackfillCounts(
        WRITE=statuses.count("WRITE"),
        SKIP=statuses.count("SKIP"),
        EMPTY=statuses.count("EMPTY"),
        ERROR=statuses.count("ERROR"),
    )

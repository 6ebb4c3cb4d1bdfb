"""Batches of a backfill in other processes and on other machines (Dask): what such a worker needs, may use, and leaves.

A worker builds its own context from its own environment, so that no key travels; root and window must be those of the
run. What the run may spend and write is kept by grants: a batch gets a share of what is left and tells what it used,
and one whose worker died counts as having spent its share. No Prefect and no Dask here.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from connectors.databento.errors import CeilingReached
from connectors.store.checkpoints import Checkpoints
from connectors.store.errors import StoreError
from flows.backfill_attempts import Attempts, outcome_of
from flows.backfill_batches import Batch, BatchLost, BatchResult, Grant, Item, work_through
from flows.backfill_context import BackfillContext, DayOptions
from flows.backfill_day import DayOutcome
from flows.errors import ConfigurationError, FlowError
from flows.run_log import show_own_lines
from flows.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

WORKER_DIED: Final = "worker_died"
_MOST_DEATHS: Final = 2
_MOST_UNBEGUN: Final = 10
_LOOK_S: Final = 0.5


class RemoteWorker:
    """Works on batches of a run in another process; carries no key, and reads the environment where it works.

    Args:
        context: of the run.
        run_id: of the run.
    """

    def __init__(self, context: BackfillContext, run_id: str) -> None:
        self._root: Path = context.root.path.absolute()
        self._window = str(context.window)
        self._options: DayOptions = context.options
        self._run_id = run_id

    def __call__(self, batch: Batch) -> BatchResult:
        """Process the days of a batch until its slice is over.

        Raises:
            BatchLost: another worker began it, and so died.
            ConfigurationError: this worker's environment is not that of the run.
            FlowError: the data root cannot be written here.
        """
        settings = load_settings()
        show_own_lines(settings.log_level)
        context = BackfillContext(settings, self._options, [task.day for _, task in batch.items])
        if (context.root.path.absolute(), str(context.window)) != (self._root, self._window):
            raise ConfigurationError(
                f"this worker would fill {context.window} of {context.root.path.absolute()}, the run fills "
                f"{self._window} of {self._root}; give both the same environment and folder"
            )
        checkpoints = Checkpoints(context.root, self._run_id)
        try:
            is_first = checkpoints.begin(batch.number)
        except StoreError as error:
            # Errors of the store do not travel between processes.
            raise FlowError(str(error)) from None
        if not is_first:
            raise BatchLost(f"{batch.label}: the worker that began it died; its days are given out again")
        grant = batch.grant or Grant()
        _use(context, grant)
        with _watching(context, checkpoints):
            result = work_through(batch, Attempts(context, checkpoints, has_share=not grant.is_all))
        total = context.ceiling.total_usd
        result.spent_usd = None if total is None else total - _preset(context, grant)
        result.written_bytes = context.budget.written_bytes - grant.written_bytes
        result.circuit = context.circuit.reason
        result.pause = str(context.pause) if context.pause is not None else None
        return result


class RemoteShares:
    """Hands out what a run may use to batches in other processes, and takes stock of what they used.

    Args:
        attempts: of the run.
        workers: batches at a time.
    """

    def __init__(self, attempts: Attempts, workers: int) -> None:
        self._context = attempts.context
        self._checkpoints = attempts.checkpoints
        self._workers = workers
        self._out_usd: dict[int, float] = {}
        self._is_tight = False
        self._deaths: Counter[int] = Counter()
        self._unbegun = 0

    def grant(self, batch: Batch, under_way: int) -> bool:
        """Give a batch its share; False when it has to wait for what others may hand back."""
        context = self._context
        grant = Grant(written_bytes=context.budget.written_bytes, circuit=context.circuit.reason)
        limit = context.ceiling.max_usd
        if limit is not None:
            left = max(0.0, limit - context.ceiling.spent_usd - sum(self._out_usd.values()))
            if under_way and (self._is_tight or left <= 0):
                return False
            share = left if self._is_tight else left / max(1, self._workers - under_way)
            grant.is_all = share == left and not under_way
            grant.spent_usd = limit - share
            self._out_usd[batch.number] = share
        batch.grant = grant
        return True

    def settle(self, batch: Batch, result: BatchResult) -> Sequence[Item]:
        """Count what a batch used; the days that go to other batches."""
        context = self._context
        self._out_usd.pop(batch.number, None)
        context.budget.count(result.written_bytes)
        self._bill(batch, result.spent_usd)
        if result.pause is not None and context.pause is None:
            context.pause = StoreError(result.pause, path=context.root.path)
        if result.circuit is None:
            return result.rest
        if isinstance(result.circuit, CeilingReached) and batch.grant is not None and not batch.grant.is_all:
            # Its share was too small, not the run's ceiling: from now on one batch at a time gets all that is left.
            self._is_tight = True
            return [*result.left, *result.rest]
        context.circuit.open(result.circuit)
        return result.rest

    def lost(self, batch: Batch) -> BatchResult:
        """What a batch had done when its worker died; it counts as having spent its share.

        Raises:
            FlowError: no batch begins at all.
        """
        if not self._checkpoints.has_begun(batch.number):
            return self._never_began(batch)
        self._unbegun = 0
        found = self._checkpoints.read()
        done = [(position, found[position]) for position, _ in batch.items if position in found]
        outcomes = [
            (position, outcome_of(each.line, bytes_written=each.bytes_written, duration_ms=each.duration_ms))
            for position, each in done
        ]
        rest = [item for item in batch.items if item[0] not in found]
        result = BatchResult(outcomes, rest, (), 0.0)
        share = self._out_usd.get(batch.number)
        # Without a ceiling nobody knows what the day cost that it was at.
        result.spent_usd = share
        result.written_bytes = sum(outcome.bytes_written for _, outcome in outcomes)
        logger.warning("%s: its worker died, %d days are given out again", batch.label, len(rest))
        if rest:
            position, task = rest[0]
            result.rest = tuple(rest[1:])
            self._deaths[position] += 1
            if self._deaths[position] < _MOST_DEATHS:
                result.suspect = rest[0]
            else:
                text = f"{task.label}: {_MOST_DEATHS} workers died at this day [look into the log of the Dask workers]"
                died = DayOutcome(task, "ERROR", reason=WORKER_DIED, error=text, window_et=str(self._context.window))
                result.outcomes = (*outcomes, (position, died))
        return result

    def _never_began(self, batch: Batch) -> BatchResult:
        """All of it is given out again: no worker was at it, so nothing was spent."""
        self._unbegun += 1
        if self._unbegun > _MOST_UNBEGUN:
            raise FlowError(
                f"{_MOST_UNBEGUN} batches in a row did not begin, the last {batch.label} "
                "[look into the log of the Dask workers]"
            )
        self._out_usd.pop(batch.number, None)
        return BatchResult((), batch.items, (), 0.0)

    def _bill(self, batch: Batch, spent_usd: float | None) -> None:
        if spent_usd == 0:
            return
        ceiling = self._context.ceiling
        if spent_usd is not None and ceiling.max_usd is not None:
            # Sums of doubles: what was kept to there must not fail here.
            spent_usd = max(0.0, min(spent_usd, ceiling.max_usd - ceiling.spent_usd))
        reservation = ceiling.reserve(batch.label, spent_usd)
        reservation.bill()
        reservation.close()


def _preset(context: BackfillContext, grant: Grant) -> float:
    return grant.spent_usd if context.ceiling.max_usd is not None else 0.0


def _use(context: BackfillContext, grant: Grant) -> None:
    """Let a context begin where its run is."""
    if preset := _preset(context, grant):
        reservation = context.ceiling.reserve("the run so far", preset)
        reservation.bill()
        reservation.close()
    context.budget.count(grant.written_bytes)
    if grant.circuit is not None:
        context.circuit.open(grant.circuit)


@contextmanager
def _watching(context: BackfillContext, checkpoints: Checkpoints) -> Iterator[None]:
    """End with the run, whose process this is not."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_S):
            if checkpoints.stop_asked:
                context.circuit.stopping.set()

    thread = threading.Thread(target=look, name="backfill-stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def passing_on(checkpoints: Checkpoints, stopping: threading.Event) -> Iterator[None]:
    """During the block, a wish to stop reaches the workers in other processes."""
    done = threading.Event()

    def pass_on() -> None:
        while not done.is_set():
            if stopping.wait(_LOOK_S):
                checkpoints.ask_to_stop()
                return

    thread = threading.Thread(target=pass_on, name="backfill-stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

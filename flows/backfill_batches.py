"""A cohort cut into batches: a workflow engine's task run costs milliseconds and a record, so it gets seconds of work.

A batch is some days and a slice of time. Whoever works on it goes day after day until the slice is over, at least one
day, and hands the rest back. A small cohort is not batched: each day is a task run, and can be seen as one. No Prefect
here: what runs a batch is handed in.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Final, Protocol

from flows.backfill_request import DayTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from queue import SimpleQueue

    from connectors.databento.errors import CircuitOpen
    from flows.backfill_attempts import Attempts
    from flows.backfill_day import DayOutcome

logger = logging.getLogger(__name__)

MOST_SINGLE_DAYS: Final = 200
"""Runs of at most so many days make one task run of each."""

MOST_DAYS: Final = 500
SLICE_S: Final = 3.0
_LONGER_EVERY: Final = 500
_LAST_STRETCH: Final = 1_500
_LONGER_EVERY_THEN: Final = 50
_FIRST_DAYS: Final = 8
_LEAST_S: Final = 0.5
_NAMED_ERRORS: Final = 20

Item = tuple[int, DayTask]
"""Position in the run's input, and the day."""


class Grant:
    """What a batch in another process may use of what the run may.

    Attributes:
        spent_usd: counts there as spent already, so that the share is what is left of the ceiling.
        is_all: no other batch holds a share: who meets the ceiling with this one has met the run's.
        written_bytes: what the run has written so far.
        circuit: why nothing can be had of the vendor any more, None while it can.
    """

    def __init__(
        self, *, spent_usd: float = 0.0, is_all: bool = True, written_bytes: int = 0, circuit: CircuitOpen | None = None
    ) -> None:
        self.spent_usd = spent_usd
        self.is_all = is_all
        self.written_bytes = written_bytes
        self.circuit = circuit


class Batch:
    """Some days of a run for one worker; no dataclass, for Prefect would look for task runs in each of its days.

    Attributes:
        number: of this run, from 0 on.
        items: positions and days.
        slice_s: seconds after which no further day is begun.
        is_single: one day of a small cohort, which may show its steps.
        grant: what it may use; None where the run's own limits hold.
    """

    def __init__(
        self, number: int, items: Sequence[Item], slice_s: float, *, is_single: bool = False, grant: Grant | None = None
    ) -> None:
        self.number = number
        self.items = tuple(items)
        self.slice_s = slice_s
        self.is_single = is_single
        self.grant = grant

    @property
    def label(self) -> str:
        """Symbols and days, for names and messages."""
        first, last = self.items[0][1], self.items[-1][1]
        return first.label if len(self.items) == 1 else f"{first.label} to {last.label} ({len(self.items)} days)"


class BatchResult:
    """What became of a batch.

    Attributes:
        outcomes: positions and outcomes of the days that were done, in their order.
        rest: what the slice had no time for.
        left: days that were left alone, because the run is ending or can have no more.
        seconds: wall clock.
        spent_usd: in another process: what it spent, None when the vendor gave no price.
        written_bytes: likewise: what it wrote, the vendor's files included.
        circuit: likewise: why nothing more can be had of the vendor there.
        pause: likewise: why there is no room, for people.
        suspect: the day that a worker was at when it died; it is given out alone.
    """

    def __init__(
        self, outcomes: Sequence[tuple[int, DayOutcome]], rest: Sequence[Item], left: Sequence[Item], seconds: float
    ) -> None:
        self.outcomes = tuple(outcomes)
        self.rest = tuple(rest)
        self.left = tuple(left)
        self.seconds = seconds
        self.spent_usd: float | None = 0.0
        self.written_bytes = 0
        self.circuit: CircuitOpen | None = None
        self.pause: str | None = None
        self.suspect: Item | None = None

    @property
    def errors(self) -> tuple[DayOutcome, ...]:
        """Days that ended with ERROR."""
        return tuple(outcome for _, outcome in self.outcomes if outcome.status == "ERROR")

    def describe(self) -> str:
        """One line: what was done, what not, and the days that failed by name."""
        counts = Counter(outcome.status for _, outcome in self.outcomes)
        parts = [f"{len(self.outcomes)} days: " + ", ".join(f"{status} {n}" for status, n in sorted(counts.items()))]
        if self.rest:
            parts.append(f"{len(self.rest)} days go to another batch")
        if self.left:
            parts.append(f"{len(self.left)} days left for the next run")
        if errors := self.errors:
            named = ", ".join(f"{outcome.task.label} ({outcome.reason})" for outcome in errors[:_NAMED_ERRORS])
            more = f" and {len(errors) - _NAMED_ERRORS} more" if len(errors) > _NAMED_ERRORS else ""
            parts.append(f"failed: {named}{more}")
        return "; ".join(parts)


class BatchLost(Exception):  # noqa: N818 - says what happened
    """The worker of a batch died, and the batch was handed to another: its days are given out again."""


class BatchWorker(Protocol):
    """Works on a batch, here or elsewhere."""

    def __call__(self, batch: Batch) -> BatchResult:
        """Processes the days of a batch until its slice is over."""


class BatchFuture(Protocol):
    """A batch under way."""

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """`fn` is called with this future when it is done."""

    def result(self) -> Any:
        """Its `BatchResult`; raises what the worker raised."""


def work_through(batch: Batch, attempt: Callable[[int, DayTask], DayOutcome | None]) -> BatchResult:
    """Process the days of a batch, one after the other, until its slice is over; at least one."""
    began = time.monotonic()
    outcomes: list[tuple[int, DayOutcome]] = []
    left: list[Item] = []
    rest: Sequence[Item] = ()
    for number, (position, task) in enumerate(batch.items):
        if number and time.monotonic() - began >= batch.slice_s:
            rest = batch.items[number:]
            break
        outcome = attempt(position, task)
        if outcome is None:
            left.append((position, task))
        else:
            outcomes.append((position, outcome))
    return BatchResult(outcomes, rest, left, time.monotonic() - began)


class Cutter:
    """Cuts what is to do into batches, by the pace of those that are done.

    Args:
        tasks: the run's tasks, in order.
        workers: batches at a time.
    """

    def __init__(self, tasks: Iterable[DayTask], workers: int) -> None:
        self._todo: deque[Item] = deque(enumerate(tasks))
        self._workers = workers
        self._is_small = len(self._todo) <= MOST_SINGLE_DAYS
        self._alone: deque[Item] = deque()
        self._day_s: float | None = None
        self.made = 0

    def next(self, *, is_refused: bool = False) -> Batch | None:
        """The next batch, None when there is nothing to do.

        Args:
            is_refused: nothing can be had of the vendor any more: what is left needs no task run for each day.
        """
        slice_s = slice_of(self.made)
        if self._alone:
            items = [self._alone.popleft()]
        else:
            days = MOST_DAYS if is_refused else self._days(slice_s)
            items = [self._todo.popleft() for _ in range(min(days, len(self._todo)))]
        if not items:
            return None
        self.made += 1
        return Batch(self.made - 1, items, slice_s, is_single=self._is_small and not is_refused)

    def give_back(self, items: Iterable[Item]) -> None:
        """Days that come next."""
        self._todo.extendleft(reversed(list(items)))

    def give_alone(self, item: Item) -> None:
        """A day that comes next, in a batch of its own."""
        self._alone.append(item)

    def learn(self, days: int, seconds: float) -> None:
        """How long days took; the last batches count most."""
        if days:
            pace = seconds / days
            self._day_s = pace if self._day_s is None else (self._day_s + pace) / 2

    def _days(self, slice_s: float) -> int:
        if self._is_small:
            return 1
        # At the end every worker shall have something to do, but not less than a task run is worth.
        share = max(1, len(self._todo) // (2 * self._workers))
        if self._day_s is None:
            return min(share, _FIRST_DAYS)
        pace_s = max(self._day_s, 1e-6)
        return min(max(share, int(_LEAST_S / pace_s)), MOST_DAYS, math.ceil(slice_s / pace_s))


def slice_of(made: int) -> float:
    """Seconds for a batch of a run that has made so many: ever longer, so that a run makes fewer than 2,000."""
    doublings = min(made, _LAST_STRETCH) // _LONGER_EVERY + max(0, made - _LAST_STRETCH) // _LONGER_EVERY_THEN
    return float(SLICE_S * 2 ** min(doublings, 20))


class Shares(Protocol):
    """What batches in other processes may use, and what becomes of those whose worker died."""

    def grant(self, batch: Batch, under_way: int) -> bool:
        """Give a batch its share; False when it has to wait for others."""

    def settle(self, batch: Batch, result: BatchResult) -> Sequence[Item]:
        """Count what a batch used; the days that go to other batches."""

    def lost(self, batch: Batch) -> BatchResult:
        """What a batch had done when its worker died; its rest goes to other batches."""


def run_batches(
    attempts: Attempts,
    tasks: Sequence[DayTask],
    workers: int,
    *,
    submit: Callable[[Batch], BatchFuture],
    finished: SimpleQueue[Any],
    shares: Shares | None = None,
) -> Iterator[tuple[int, DayOutcome]]:
    """Process tasks in batches, at most `workers` at a time.

    Args:
        attempts: of this run.
        tasks: all tasks, in order.
        workers: batches at a time.
        submit: begins a batch.
        finished: where a worker in this process puts position and outcome as soon as they are there; futures that are
            done are put there, too.
        shares: for workers in other processes, whose outcomes come with the batch; None for this process.

    Yields:
        Position and outcome, as days finish.
    """
    circuit = attempts.context.circuit
    cutter = Cutter(tasks, workers)
    under_way: dict[Any, Batch] = {}
    waiting: Batch | None = None
    try:
        while True:
            while len(under_way) < workers and not circuit.stopping.is_set() and attempts.context.pause is None:
                batch = waiting or cutter.next(is_refused=circuit.reason is not None)
                waiting = None
                if batch is None:
                    break
                if shares is not None and not shares.grant(batch, len(under_way)):
                    waiting = batch
                    break
                future = submit(batch)
                under_way[future] = batch
                future.add_done_callback(finished.put)
            if not under_way:
                return
            item = finished.get()
            if isinstance(item, tuple):
                yield item
                continue
            batch = under_way.pop(item)
            result = _result(batch, item, shares)
            cutter.learn(len(result.outcomes), result.seconds)
            if shares is None:
                cutter.give_back(result.rest)
                continue
            yield from result.outcomes
            cutter.give_back(shares.settle(batch, result))
            if result.suspect is not None:
                cutter.give_alone(result.suspect)
    except BaseException:
        circuit.stopping.set()
        _wait_for(list(under_way))
        raise


def _result(batch: Batch, future: BatchFuture, shares: Shares | None) -> BatchResult:
    try:
        result = future.result()
    except BatchLost:
        if shares is None:
            raise
        return shares.lost(batch)
    if not isinstance(result, BatchResult):
        raise TypeError(f"{batch.label}: a batch ends with a BatchResult, not with {result!r}")
    return result


def _wait_for(futures: Sequence[Any]) -> None:
    done: list[Future[None]] = []
    for future in futures:
        ended: Future[None] = Future()
        future.add_done_callback(lambda _, ended=ended: ended.set_result(None))
        done.append(ended)
    wait(done)

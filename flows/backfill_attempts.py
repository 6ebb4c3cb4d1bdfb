"""One attempt at a day of a run, by the same rules in threads, in Prefect tasks and on other machines.

An outcome is checkpointed on the disk before it is handed on. A run that is ending, or that has no room, leaves its
days alone. Once nothing more can be had of the vendor, the day that met it says why, days that need the vendor are left
for the next run, and days that do not (there already, no session, vendor file kept) are still done.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from connectors.databento.client import Stopped
from connectors.databento.errors import CeilingReached
from connectors.store.checkpoints import Checkpoint, Checkpoints
from connectors.store.errors import StorageGuardHit, StoreError
from contracts.v1.backfill import BackfillManifestLine
from flows.backfill_context import SOURCE, BackfillContext
from flows.backfill_day import DayOutcome, fetch, run_day
from flows.backfill_request import DayTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.databento.fetch import RawDay

logger = logging.getLogger(__name__)


class Attempts:
    """Processes days of one run; safe to use from several threads.

    Args:
        context: what the days share.
        checkpoints: where outcomes are kept until the run has recorded them.
        has_share: the ceiling kept here is only this worker's share of the run's: who meets it is left, for the run
            may give more.
    """

    def __init__(self, context: BackfillContext, checkpoints: Checkpoints, *, has_share: bool = False) -> None:
        self.context = context
        self.checkpoints = checkpoints
        self._lock = threading.Lock()
        self._has_share = has_share
        # A worker that begins late has been told why.
        self._why_is_said = context.circuit.reason is not None

    def __call__(
        self, position: int, task: DayTask, *, fetch_with: Callable[[BackfillContext, DayTask], RawDay] = fetch
    ) -> DayOutcome | None:
        """Process one day unless the run is ending.

        Args:
            position: its place in the run's input.
            task: symbol and day.
            fetch_with: how raw data is brought; a flow hands in a Prefect task.

        Returns:
            What became of it; None when it was left alone.
        """
        context = self.context
        if context.pause is not None or context.circuit.stopping.is_set():
            return None

        def ask(context: BackfillContext, task: DayTask) -> RawDay:
            # Nothing is begun that an open circuit ends at once.
            context.circuit.check()
            return fetch_with(context, task)

        try:
            outcome = run_day(context, task, fetch_with=ask)
        except StorageGuardHit as guard:
            context.pause = guard
            return None
        except Stopped:
            return None
        if self._is_left(outcome):
            return None
        if outcome.status != "SKIP":
            self._keep(position, outcome)
        return outcome

    def _is_left(self, outcome: DayOutcome) -> bool:
        """Whether a day failed only because nothing can be had any more, cost nothing, and is not the one to say so."""
        reason = self.context.circuit.reason
        if reason is None or outcome.status != "ERROR" or outcome.reason != reason.reason:
            return False
        with self._lock:
            is_said, self._why_is_said = self._why_is_said, True
        is_told = is_said or (self._has_share and isinstance(reason, CeilingReached))
        return is_told and outcome.cost_usd == 0

    def _keep(self, position: int, outcome: DayOutcome) -> None:
        line = manifest_line(outcome, self.checkpoints.run_id)
        try:
            self.checkpoints.add(Checkpoint(position, line, outcome.bytes_written, outcome.duration_ms))
        except StoreError as error:
            # It only matters when the run dies; its line in the manifest is to come.
            logger.warning("%s: not checkpointed: %s", outcome.task.label, error)


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


def outcome_of(line: BackfillManifestLine, *, bytes_written: int = 0, duration_ms: float = 0.0) -> DayOutcome:
    """The outcome that a manifest line tells of."""
    return DayOutcome(
        DayTask(line.symbol, line.date),
        line.status,
        rows=line.rows or 0,
        path=Path(line.path) if line.path else None,
        interval_ms=line.interval_ms,
        window_et=line.window_et,
        cost_usd=line.cost_usd,
        quality=line.quality,
        reason=line.reason,
        error=line.error,
        bytes_written=bytes_written,
        duration_ms=duration_ms,
    )

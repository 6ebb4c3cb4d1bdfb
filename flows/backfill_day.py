"""One (symbol, day) of a Level-2 backfill, without Prefect: look, fetch, shape, publish.

A day ends in a `DayOutcome` whatever happens to vendor or disk; only what concerns the whole run (a storage guard, a
wish to stop) is raised.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from connectors.databento.client import Stopped
from connectors.databento.errors import TerminalError, VendorError, VerificationFailed
from connectors.databento.fetch import RawDay, fetch_day
from connectors.databento.shape import BookCounts, event_batches, snapshot_batches
from connectors.store.errors import StorageGuardHit, StoreError, from_os_error
from connectors.store.snapshots import ExistingSnapshots, Published, existing, holds_rows, prepared
from contracts.errors import ContractError, InvalidWindow
from contracts.sessions import parse_window
from contracts.v1.level2 import snapshot_schema
from contracts.v1.level2_events import EVENTS_SCHEMA, events_schema
from flows.backfill_context import SOURCE, BackfillContext
from flows.backfill_notes import events_metadata, quality, snapshot_metadata, venue
from flows.backfill_request import session_on
from flows.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import pyarrow as pa

    from contracts.v1.backfill import BackfillStatus
    from contracts.v1.quality import Quality
    from flows.backfill_request import DayTask

logger = logging.getLogger(__name__)

MARKET_CLOSED = "market closed"
NO_RECORDS = "no records"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class DayOutcome:
    """What became of one task.

    Attributes:
        task: the task.
        status: manifest word.
        rows: rows of the file; 0 without one.
        path: the file, None without one.
        interval_ms: interval of the file, None when unknown or without one.
        window_et: window of the file or of the attempt.
        cost_usd: spent by this task in this run; None when the vendor gave no price.
        quality: how trustworthy the rows are; None when nothing was read.
        reason: short word for programs, None when all went as usual.
        error: sentence for people, None without one.
        bytes_written: bytes of published files.
        duration_ms: wall clock.
    """

    task: DayTask
    status: BackfillStatus
    rows: int = 0
    path: Path | None = None
    interval_ms: int | None = None
    window_et: str | None = None
    cost_usd: float | None = None
    quality: Quality | None = None
    reason: str | None = None
    error: str | None = None
    bytes_written: int = 0
    duration_ms: float = field(default=0.0, compare=False)


def without_vendor(context: BackfillContext, task: DayTask) -> DayOutcome | None:
    """The outcome of a task that needs no data: the exchange was closed, or the file is there. None otherwise."""
    if not session_on(task.day):
        return DayOutcome(task, "EMPTY", reason=MARKET_CLOSED, window_et=str(context.window))
    if context.options.force:
        return None
    found = existing(context.target(task))
    if found is None or not _answers(found, context, task):
        return None
    if context.options.with_events and not holds_rows(
        context.root.events_path(task.symbol, task.day, SOURCE), EVENTS_SCHEMA
    ):
        return None
    meta = found.metadata
    return DayOutcome(
        task,
        "SKIP",
        rows=found.rows,
        path=found.path,
        interval_ms=meta.interval_ms if meta else None,
        window_et=meta.window_et if meta else None,
    )


def fetch(context: BackfillContext, task: DayTask) -> RawDay:
    """The verified vendor file of a task, kept or bought."""
    return fetch_day(
        context.client,
        context.plan,
        context.request(task),
        shelf=context.shelf,
        ceiling=context.ceiling,
        max_records=context.settings.l2_max_rows_per_task,
        deadline_s=context.settings.databento_deadline_s,
    )


def write(context: BackfillContext, task: DayTask, raw: RawDay) -> DayOutcome:
    """Shape a vendor file and publish the result.

    Raises:
        VerificationFailed: the file is broken; nothing was published.
        StoreError: the disk refuses; the old file is untouched.
        TerminalError: more rows than L2_MAX_ROWS_PER_TASK.
    """
    target = context.target(task)
    if raw.path is None:
        return _empty(context, task, raw, BookCounts())
    counts = BookCounts()
    levels, interval_ms = context.settings.l2_levels, context.options.interval_ms
    bounds_ns = context.window.bounds_ns(task.day)
    schema = snapshot_schema(snapshot_metadata(context, task, raw.request))
    batches = snapshot_batches(
        raw.path,
        schema=schema,
        window_ns=bounds_ns,
        levels=levels,
        interval_ms=interval_ms,
        records=raw.records,
        counts=counts,
    )
    cap = context.settings.l2_max_rows_per_task
    # Both files or none: neither gets its name before both are written.
    with (
        prepared(target, schema, _capped(batches, cap, task) if cap else batches) as published,
        _events(context, task, raw) as events,
    ):
        if published is None:
            # A kept file may be wider than the window, and the window hold nothing.
            return _empty(context, task, raw, counts)
    size_bytes = published.size_bytes + (events.size_bytes if events else 0)
    context.count_written(size_bytes + (raw.path.stat().st_size if not raw.reused else 0))
    return DayOutcome(
        task,
        "WRITE",
        rows=published.rows,
        path=published.path,
        interval_ms=interval_ms,
        window_et=str(context.window),
        cost_usd=raw.cost_usd,
        quality=quality(counts, raw),
        bytes_written=size_bytes,
    )


@contextmanager
def _events(context: BackfillContext, task: DayTask, raw: RawDay) -> Iterator[Published | None]:
    """The vendor's events, in place when the block ends well; None when they are not asked for."""
    if not context.options.with_events or raw.path is None:
        yield None
        return
    metadata = events_metadata(context, task)
    batches = event_batches(
        raw.path,
        symbol=task.symbol,
        exchange=venue(raw.request),
        window_ns=context.window.bounds_ns(task.day),
        records=raw.records,
    )
    with prepared(context.root.events_path(task.symbol, task.day, SOURCE), events_schema(metadata), batches) as events:
        yield events


def run_day(
    context: BackfillContext,
    task: DayTask,
    *,
    fetch_with: Callable[[BackfillContext, DayTask], RawDay] = fetch,
) -> DayOutcome:
    """Process one task; trouble with vendor or disk becomes an ERROR outcome.

    Args:
        context: what the run shares.
        task: symbol and day.
        fetch_with: how raw data is brought; a flow hands in a Prefect task.

    Raises:
        StorageGuardHit: a guard was hit before the task began; the run should pause.
        Stopped: the run was asked to stop; the task left nothing behind.
    """
    began = time.perf_counter()
    try:
        outcome = without_vendor(context, task)
        if outcome is None:
            context.guard()
            outcome = _fetch_and_write(context, task, fetch_with)
    except (StorageGuardHit, Stopped):
        raise
    except Exception as error:  # noqa: BLE001 - one day must not take the run's other days with it
        outcome = _failed(context, task, error)
    return replace(outcome, duration_ms=round((time.perf_counter() - began) * 1_000, 3))


class _FailedAfterPaying(Exception):  # noqa: N818 - says what happened
    """Carries what a day cost past the failure to write it."""

    def __init__(self, error: Exception, cost_usd: float | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.cost_usd = cost_usd


def _failed(context: BackfillContext, task: DayTask, error: Exception) -> DayOutcome:
    """The ERROR outcome of a failure; a full disk also pauses the run."""
    cost_usd: float | None = None
    if isinstance(error, _FailedAfterPaying):
        cost_usd, error = error.cost_usd, error.error
    elif isinstance(error, VendorError):
        cost_usd = error.paid_usd
    text = str(error)
    if isinstance(error, VendorError):
        reason = error.reason
    elif isinstance(error, StoreError | OSError):
        reason = "storage"
        stored = (
            error if isinstance(error, StoreError) else from_os_error(error, "write to", context.settings.cache_path)
        )
        text = str(stored)
        if stored.errno in _FULL:
            # No other day may be bought that there is no room for.
            context.pause = stored
    elif isinstance(error, ContractError | ConfigurationError):
        reason = "configuration"
    else:
        logger.error("%s: unexpected failure", task.label, exc_info=error)
        reason, text = "internal", f"{type(error).__name__}: {error}"
    text = text if task.label in text else f"{task.label}: {text}"
    return DayOutcome(
        task,
        "ERROR",
        reason=reason,
        error=" ".join(text.split()),
        window_et=str(context.window),
        cost_usd=cost_usd,
    )


def _fetch_and_write(
    context: BackfillContext, task: DayTask, fetch_with: Callable[[BackfillContext, DayTask], RawDay]
) -> DayOutcome:
    # Nothing is bought for a place that cannot be written.
    _check_writable(context.target(task).parent)
    # A kept file needs no vendor, and so no key.
    raw = context.shelf.find(context.request(task)) or fetch_with(context, task)
    try:
        return _written(context, task, raw)
    except VerificationFailed as error:
        if not raw.reused:
            raise
        context.shelf.discard(raw, str(error))
    return _written(context, task, fetch_with(context, task))


def _written(context: BackfillContext, task: DayTask, raw: RawDay) -> DayOutcome:
    try:
        return write(context, task, raw)
    except VerificationFailed as error:
        error.paid_usd = raw.cost_usd
        raise
    except (VendorError, StoreError, OSError) as error:
        raise _FailedAfterPaying(error, raw.cost_usd) from error
    finally:
        context.shelf.release(raw)


def _check_writable(folder: Path) -> None:
    """Refuse a place that cannot be written; nothing is made, for a symbol without data shall leave no folder."""
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise StoreError(
            f"cannot write to {place}: it is no folder, the disk is read-only or this user may not; change that, or "
            "configure another data root.",
            path=place,
            errno=errno.EACCES,
        )


def _empty(context: BackfillContext, task: DayTask, raw: RawDay, counts: BookCounts) -> DayOutcome:
    """EMPTY, which means that there is no file: one that is there must not be contradicted, nor removed."""
    if counts.events:
        raise TerminalError(
            f"{task.label}: {counts.events} records, the first after the last grid point of the window "
            "[sample at a shorter interval]",
            reason="no_grid_point",
        )
    target = context.target(task)
    if existing(target) is not None:
        raise TerminalError(
            f"{task.label}: the vendor has no records, yet {target} holds rows; it was left alone "
            "[remove it by hand if the vendor is right]",
            reason="empty_but_file_exists",
        )
    return DayOutcome(
        task,
        "EMPTY",
        reason=NO_RECORDS,
        window_et=str(context.window),
        cost_usd=raw.cost_usd,
        quality=quality(counts, raw),
    )


def _capped(batches: Iterable[pa.RecordBatch], cap: int, task: DayTask) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in batches:
        rows += len(batch)
        if rows > cap:
            raise TerminalError(
                f"{task.label}: more than L2_MAX_ROWS_PER_TASK={cap} rows [raise it, or sample more coarsely]",
                reason="row_cap",
            )
        yield batch


def _answers(found: ExistingSnapshots, context: BackfillContext, task: DayTask) -> bool:
    """Whether a file is what this run would write: a file that says nothing of itself is taken as it is."""
    meta = found.metadata
    if meta is None:
        return True
    try:
        window = parse_window(meta.window_et)
    except InvalidWindow:
        return False
    covers = window.start <= context.window.start and context.window.end <= window.end
    same = (meta.interval_ms, meta.levels) == (context.options.interval_ms, context.settings.l2_levels)
    same = same and (meta.symbol, meta.session_date) == (task.symbol, task.day)
    if not (covers and same):
        logger.info(
            "%s holds %s %s, interval %d ms, %d levels, window %s: it is written again as asked",
            found.path,
            meta.symbol,
            meta.session_date,
            meta.interval_ms,
            meta.levels,
            meta.window_et,
        )
    return covers and same

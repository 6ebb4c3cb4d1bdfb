"""What other programs call; none of it needs a Prefect server.

`backfill_l2` for one day, `find_warrior_tasks` and `run_warrior_backfill` for lists.
"""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from typing import TYPE_CHECKING, Any

from connectors.store.errors import StorageGuardHit, StoreError
from connectors.store.manifests import append_backfill_line
from contracts.errors import ContractError
from contracts.symbols import canonical_symbol
from flows.backfill_attempts import manifest_line
from flows.backfill_context import BackfillContext, DayOptions
from flows.backfill_day import DayOutcome, run_day
from flows.backfill_request import DayTask, find_list_tasks, unique
from flows.backfill_run import RunOptions, run_backfill
from flows.errors import BackfillFailed, ConfigurationError
from flows.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contracts.v1.backfill import BackfillStatus

logger = logging.getLogger(__name__)

_WORDS: dict[BackfillStatus, str] = {"WRITE": "written", "SKIP": "skipped", "EMPTY": "skipped", "ERROR": "error"}


def backfill_l2(symbol: str, trading_day: dt.date, *, force: bool = False, strict: bool = False) -> dict[str, Any]:
    """Bring one symbol's Level-2 snapshots of one ET day to disk.

    Appends one manifest line; the summary belongs to batches and is left alone.

    Args:
        symbol: any spelling of a symbol.
        trading_day: ET day.
        force: write again what exists.
        strict: raise instead of returning an error.

    Returns:
        `symbol, date, status (written|skipped|error), rows, path (None when there is no file), duration_ms, zero_rows,
        error`. A day without rows, or on which the exchange was closed, is `skipped` with `zero_rows` True.

    Raises:
        ConfigurationError: the symbol or a setting cannot be used.
        BackfillFailed: with `strict`, when vendor or disk failed.
    """
    settings = load_settings()
    try:
        task = _task(symbol, trading_day)
    except ContractError as error:
        raise ConfigurationError(str(error)) from error
    options = DayOptions(
        force=force, interval_ms=settings.l2_snapshot_interval_ms, max_cost_usd=settings.databento_max_cost_usd
    )
    context = BackfillContext(settings, options, [trading_day])
    try:
        outcome = run_day(context, task)
    except StorageGuardHit as guard:
        outcome = DayOutcome(task, "ERROR", reason="storage", error=f"{task.label}: {guard}")
    try:
        append_backfill_line(context.root, manifest_line(outcome, uuid.uuid4().hex[:12]))
    except StoreError as error:
        logger.error("%s: the manifest line could not be written: %s", task.label, error)  # noqa: TRY400 - said whole
        if outcome.status != "ERROR":
            outcome = DayOutcome(task, "ERROR", reason="storage", error=f"{task.label}: {error}", path=outcome.path)
    if strict and outcome.status == "ERROR":
        raise BackfillFailed(outcome.error or task.label, reason=outcome.reason)
    return {
        "symbol": task.symbol,
        "date": task.day.isoformat(),
        "status": _WORDS[outcome.status],
        "rows": outcome.rows,
        "path": str(outcome.path) if outcome.path else None,
        "duration_ms": outcome.duration_ms,
        "zero_rows": outcome.status == "EMPTY",
        "error": outcome.error,
    }


def find_warrior_tasks(since_days: int | None = None, last: int | None = None) -> list[tuple[str, dt.date]]:
    """The task list's (symbol, ET day) pairs, unique, sorted by (day, symbol), on days the exchange is open.

    Args:
        since_days: only days at most so many days before the ET today.
        last: only the last so many distinct days.

    Raises:
        ConfigurationError: there is no list, or it cannot be read.
    """
    return find_list_tasks(load_settings(), since_days=since_days, last=last)


def run_warrior_backfill(
    tasks: Iterable[tuple[str, dt.date]],
    *,
    force: bool = False,
    strict: bool = False,
    max_tasks: int | None = None,
    max_workers: int | None = None,
) -> dict[str, Any]:
    """Process (symbol, ET day) pairs in their order, without duplicates.

    Args:
        tasks: pairs in any spelling; a day on which the exchange was closed is EMPTY.
        force: write again what exists.
        strict: recorded in the summary, whose `counts["ERROR"]` tells the caller whether to fail.
        max_tasks: process at most so many.
        max_workers: tasks at a time; None takes L2_MAX_WORKERS.

    Returns:
        The summary (`contracts.v1.backfill.BackfillSummary` as a document).

    Raises:
        ConfigurationError: a symbol, a setting or the vendor's key cannot be used; nothing was done.
        StoreError: the data root cannot be written.
    """
    settings = load_settings()
    if max_tasks is not None and max_tasks < 0:
        raise ConfigurationError(f"max_tasks must be at least 0, it is {max_tasks}")
    try:
        wanted = unique(_task(symbol, day) for symbol, day in tasks)[:max_tasks]
    except ContractError as error:
        raise ConfigurationError(str(error)) from error
    options = DayOptions(
        force=force, interval_ms=settings.l2_snapshot_interval_ms, max_cost_usd=settings.databento_max_cost_usd
    )
    workers = max_workers if max_workers is not None else settings.workers
    if workers < 1:
        raise ConfigurationError(f"max_workers must be at least 1, it is {workers}")
    context = BackfillContext(settings, options, [task.day for task in wanted])
    result = run_backfill(context, wanted, RunOptions(strict=strict, max_tasks=max_tasks, workers=workers))
    return result.summary


def _task(symbol: str, day: dt.date) -> DayTask:
    if isinstance(day, dt.datetime) or not isinstance(day, dt.date):
        raise ConfigurationError(f"{symbol}: the trading day must be a datetime.date, the ET day, it is {day!r}")
    return DayTask(canonical_symbol(symbol), day)

"""What a backfill would do and cost, without doing it: nothing is written, not even in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectors.databento.errors import VendorError
from connectors.store.errors import StoreError
from flows.backfill_day import without_vendor
from flows.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.backfill_context import BackfillContext
    from flows.backfill_request import DayTask

ACTIONS = {"SKIP": "skip", "EMPTY": "closed"}


def preview(context: BackfillContext, tasks: Sequence[DayTask]) -> dict[str, Any]:
    """Look every task up.

    Args:
        context: made with `read_only`.
        tasks: the tasks, in order.

    Returns:
        A JSON document: `tasks` with `symbol, date, action` (`skip`, `closed`, `reuse`: the vendor file is kept,
        `download`, `error`) and what is known of each (`path, records, bytes, cost_usd, condition, error`), and
        `totals`. Costs are null when the vendor cannot be asked; `vendor` says why.
    """
    rows = [_row(context, task) for task in tasks]
    downloads = [row for row in rows if row["action"] == "download"]
    costs = [row["cost_usd"] for row in downloads]
    ceiling = context.options.max_cost_usd
    total = round(sum(cost for cost in costs if cost is not None), 9)
    return {
        "data_root": str(context.root.path),
        "window_et": str(context.window),
        "interval_ms": context.options.interval_ms,
        "vendor": _vendor(context),
        "tasks": rows,
        "totals": {
            **{action: sum(row["action"] == action for row in rows) for action in _ORDER},
            "tasks": len(rows),
            "records": sum(row.get("records") or 0 for row in downloads),
            "cost_usd": None if None in costs else total,
            "max_cost_usd": ceiling,
            "within_ceiling": None if ceiling is None or None in costs else total <= ceiling,
        },
    }


_ORDER = ("skip", "closed", "reuse", "download", "error")


def _row(context: BackfillContext, task: DayTask) -> dict[str, Any]:
    row: dict[str, Any] = {"symbol": task.symbol, "date": task.day.isoformat()}
    try:
        early = without_vendor(context, task)
        if early is not None:
            return {**row, "action": ACTIONS[early.status], "path": str(early.path) if early.path else None}
        request = context.request(task)
        row |= {"vendor_symbol": request.vendor_symbol, "dataset": request.dataset, "schema": request.schema}
        row |= {"start": request.start.isoformat(), "end": request.end.isoformat(), "path": str(context.target(task))}
        kept = context.shelf.find(request)
        if kept is not None:
            return {**row, "action": "reuse", "records": kept.records, "cost_usd": 0.0, "condition": kept.condition}
        if _vendor(context)["enabled"] is False:
            return {**row, "action": "download", "records": None, "cost_usd": None, "condition": None}
        day = context.plan.day(request, max_records=context.settings.l2_max_rows_per_task)
    except (VendorError, StoreError, OSError) as error:
        return {**row, "action": "error", "error": str(error)}
    return {**row, "action": "download", "records": day.records, "cost_usd": day.cost_usd, "condition": day.condition}


def _vendor(context: BackfillContext) -> dict[str, Any]:
    try:
        context.require_vendor()
    except ConfigurationError as error:
        return {"enabled": False, "problem": str(error)}
    return {"enabled": True, "problem": None}

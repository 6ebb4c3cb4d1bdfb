"""Names of backfill runs: symbols and days, as far as they are known. No Prefect here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flows.backfill_request import DayTask

_NAMED: Final = 3


def is_of_list(parameters: Mapping[str, Any]) -> bool:
    """Whether the days of a run stand in a task list."""
    return bool(parameters.get("tasks_file")) or not (parameters.get("symbols") and parameters.get("start"))


def run_name(parameters: Mapping[str, Any]) -> str:
    """Symbols and days of a run, as far as its parameters tell."""
    symbols = [str(symbol).strip().upper() for symbol in parameters.get("symbols") or ()]
    what = ", ".join(symbols[:_NAMED]) + (f" and {len(symbols) - _NAMED} more" if len(symbols) > _NAMED else "")
    start, end = parameters.get("start"), parameters.get("end")
    days = f"{start} to {end}" if end and str(end) != str(start) else str(start or "")
    narrowed = [f"last {parameters['last']} days"] if parameters.get("last") else []
    if parameters.get("since_days") is not None:
        narrowed.append(f"since {parameters['since_days']} days ago")
    if is_of_list(parameters):
        tasks_file = parameters.get("tasks_file")
        narrowed.insert(0, Path(tasks_file).name if tasks_file else "task list")
    text = " ".join(part for part in (what, days, ", ".join(narrowed)) if part)
    return f"{text} (dry run)" if parameters.get("dry_run") else text


def list_name(name: str, tasks: Sequence[DayTask]) -> str:
    """The name of a run of a task list, now that its days are known: how many, and from when to when."""
    days = sorted({task.day for task in tasks})
    if not days:
        return f"{name}: no days"
    if len(tasks) == 1:
        return f"{name}: {tasks[0].label}"
    symbols = sorted({task.symbol for task in tasks})
    of = f" of {', '.join(symbols)}" if len(symbols) <= _NAMED else ""
    return f"{name}: {len(tasks)} days{of} {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "")

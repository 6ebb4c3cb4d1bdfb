"""A run a person can watch: a bar on a terminal, one line per task elsewhere. All of it on stderr."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flows.backfill_day import DayOutcome
    from flows.backfill_run import Progress as Watcher

logger = logging.getLogger(__name__)


def describe(outcome: DayOutcome) -> str:
    """One line about a task."""
    parts = [f"{outcome.status:<5} {outcome.task.label}"]
    if outcome.rows:
        parts.append(f"{outcome.rows} rows")
    if outcome.cost_usd:
        parts.append(f"{outcome.cost_usd:.4f} USD")
    if outcome.reason:
        parts.append(outcome.reason)
    parts.append(f"{outcome.duration_ms / 1_000:.2f} s")
    return ", ".join(parts) + (f": {outcome.error}" if outcome.error else "")


class _Lines:
    """One log line per task."""

    def done(self, outcome: DayOutcome, finished: int, total: int) -> None:
        level = logging.WARNING if outcome.status == "ERROR" else logging.INFO
        logger.log(level, "[%d/%d] %s", finished, total, describe(outcome))


class _Bar:
    """A bar; what needs a person's eye is printed above it."""

    def __init__(self, bar: Progress, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("backfill", total=total)

    def done(self, outcome: DayOutcome, finished: int, total: int) -> None:
        del total
        if outcome.status in ("ERROR", "EMPTY"):
            self._bar.console.print(describe(outcome), highlight=False, markup=False, soft_wrap=True)
        self._bar.update(self._task, completed=finished, description=outcome.task.label)


@contextmanager
def watching(total: int) -> Iterator[Watcher]:
    """A watcher for a run of `total` tasks."""
    console = Console(stderr=True)
    if not console.is_terminal or total == 0:
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield _Bar(bar, total)

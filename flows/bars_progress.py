"""A download of bars that a person can watch: what is to come as a log line, a bar on a terminal; all on stderr."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from connectors.ibkr.bar_requests import REACH_DAYS
from connectors.store.bars import load_notes
from flows.bars_result import days_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contracts.layout import DataRoot
    from flows.bars_plan import BarsPlan
    from flows.bars_result import PieceOutcome

logger = logging.getLogger(__name__)

_NOTHING_YET: Final = "bars"


class Watcher(Protocol):
    """Somebody who watches a download; told from one thread, must not wait."""

    def begin(self, pieces: int, requests: int, pacing_s: float) -> None:
        """So many days are to be brought by so many requests, for which the pacing rules need so many seconds."""

    def done(self, outcome: PieceOutcome | None, finished: int, total: int) -> None:
        """So many days of all are over, the last one with this outcome; None when somebody else had brought it."""


class Lines:
    """Tells nothing but the start; what is written and what fails is logged by the download itself."""

    def begin(self, pieces: int, requests: int, pacing_s: float) -> None:
        """Log what is to come."""
        logger.info(
            "days to bring: %d; requests: %d, for which the pacing rules need %s",
            *(pieces, requests, span_text(pacing_s)),
        )

    def done(self, outcome: PieceOutcome | None, finished: int, total: int) -> None:
        """Nothing."""


class _Bar(Lines):
    """A bar besides."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def begin(self, pieces: int, requests: int, pacing_s: float) -> None:
        super().begin(pieces, requests, pacing_s)
        self._task = self._bar.add_task(_NOTHING_YET, total=pieces)

    def done(self, outcome: PieceOutcome | None, finished: int, total: int) -> None:
        if self._task is not None:
            label = _NOTHING_YET if outcome is None else outcome.label
            self._bar.update(self._task, completed=finished, total=total, description=label)


def tell_plan(root: DataRoot, plan: BarsPlan, *, sandbox: bool) -> None:
    """Log what a person would miss otherwise: days that cannot be had, invented ones, that there is nothing to do.

    Args:
        root: the data root.
        plan: what a download has to bring.
        sandbox: the run has a sandbox gateway of its own.

    Raises:
        StoreError: the notes of a group cannot be read.
    """
    if sandbox:
        logger.warning("the gateway is this project's sandbox: the bars are invented, and their files say so")
    else:
        invented = [group for group in plan.groups if load_notes(root, group.bar_size, group.symbol).invented]
        if invented:
            logger.warning(
                "%d of %d series in %s hold bars that the sandbox invented (%s %s and so on); days that are there are "
                "not downloaded again: use another data root for the broker's (DATA_PATH_OVERRIDE)",
                *(len(invented), len(plan.groups), root.path, invented[0].symbol, invented[0].bar_size),
            )
    if gone := plan.total("out_of_reach"):
        sizes = ", ".join(dict.fromkeys(group.bar_size for group in plan.groups if group.out_of_reach))
        logger.warning(
            "%d days of %s are out of reach: the broker keeps bars of that size for %d days only",
            *(gone, sizes, min(REACH_DAYS.values())),
        )
    for group in plan.groups:
        for kind in sorted(set(group.other_kind.values())):
            days = [day for day, found in group.other_kind.items() if found == kind]
            logger.warning(
                "%s %s: %s left alone, the files there are of %s: a data root holds one kind per symbol, bar size and "
                "day; use another root, or replace them (--force-bars)",
                *(group.symbol, group.bar_size, days_text(days), kind),
            )
    if plan.pieces:
        return
    there, none = plan.total("present"), plan.total("known_empty")
    if there or none:
        of_none = f", of {none} days the broker has no bars" if none else ""
        logger.info("nothing to download: %d days are there%s", there, of_none)
    elif not gone and not plan.total("other_kind"):
        logger.info("nothing to download: no session of the exchange has begun in the days that were asked for")


@contextmanager
def on_stderr() -> Iterator[Watcher]:
    """A watcher for a person, or for a log when stderr is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        yield _Bar(bar)


def span_text(seconds: float) -> str:
    """Seconds for a person: `35 s`, `12 min`, `4.6 h`."""
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"

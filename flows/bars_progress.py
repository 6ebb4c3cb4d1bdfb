"""A download of bars that a person can watch: what is to come as a log line, a bar on a terminal; all on stderr."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

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

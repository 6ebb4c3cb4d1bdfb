"""What a backfill was asked for, and the (symbol, day) tasks that follow from it; no vendor, no writing.

Two ways to ask. Explicitly: symbols and dates; every pair is processed. By list: a task list, narrowed by symbols,
dates, `since_days` and `last`; days on which the exchange is closed are dropped with a count.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from connectors.tasklist.errors import TaskListError
from connectors.tasklist.warrior import find_list, read_tasks, select
from contracts.errors import ContractError
from contracts.sessions import is_session, today_et
from contracts.symbols import canonical_symbol
from flows.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flows.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_RANGE_DAYS = 3_700
_SATURDAY = 5


@dataclass(frozen=True)
class DayTask:
    """One unit of work.

    Attributes:
        symbol: canonical symbol.
        day: ET trading day.
    """

    symbol: str
    day: dt.date

    @property
    def label(self) -> str:
        """Symbol and day, for messages."""
        return f"{self.symbol} {self.day.isoformat()}"


@dataclass(frozen=True)
class BackfillRequest:
    """A backfill as a person or a schedule asks for it; everything optional, with nothing the task list is taken.

    Attributes:
        symbols: symbols in any spelling.
        start: first ET day.
        end: last ET day, included; `start` when None.
        since_days: of a list, only days at most so many days ago.
        last: of a list, only its last so many distinct days.
        tasks_file: a task list instead of the configured one.
        max_tasks: process at most so many tasks.
    """

    symbols: Sequence[str] = ()
    start: dt.date | None = None
    end: dt.date | None = None
    since_days: int | None = None
    last: int | None = None
    tasks_file: Path | None = None
    max_tasks: int | None = None


def plan_tasks(request: BackfillRequest, settings: Settings) -> list[DayTask]:
    """The tasks of a request, in processing order, without duplicates.

    Explicit requests are ordered by day, then by symbol as given; lists by (day, symbol).

    Raises:
        ConfigurationError: the request contradicts itself, or names a symbol, day or list that cannot be used.
    """
    _check(request)
    symbols = unique(_symbol(text) for text in request.symbols)
    if symbols and request.start is not None and request.tasks_file is None:
        if request.since_days is not None or request.last is not None:
            raise ConfigurationError(
                "since and last narrow a task list; leave them out when symbols and dates are given"
            )
        days = _days(request.start, request.end or request.start, skip_weekends=settings.l2_skip_weekends)
        tasks = [DayTask(symbol, day) for day in days for symbol in symbols]
    else:
        tasks = [DayTask(symbol, day) for symbol, day in _listed(request, settings)]
        if symbols:
            tasks = [task for task in tasks if task.symbol in symbols]
        if request.start is not None:
            last = request.end or request.start
            tasks = [task for task in tasks if request.start <= task.day <= last]
    return list(islice(unique(tasks), request.max_tasks))


def find_list_tasks(
    settings: Settings,
    *,
    tasks_file: Path | None = None,
    since_days: int | None = None,
    last: int | None = None,
) -> list[tuple[str, dt.date]]:
    """The (symbol, ET day) pairs of a task list, sorted by (day, symbol), on days the exchange is open.

    Raises:
        ConfigurationError: there is no list, or it cannot be read.
    """
    try:
        path = tasks_file or find_list(
            settings.data_root.path,
            Path(os.path.expandvars(settings.ml_base_path)).expanduser(),
            settings.warrior_trades_filename,
        )
        chosen = select(read_tasks(path).tasks, since_days=since_days, last=last, today_et=today_et())
    except (TaskListError, ValueError) as error:
        raise ConfigurationError(str(error)) from error
    open_tasks = [(symbol, day) for symbol, day in chosen if session_on(day)]
    if closed := len(chosen) - len(open_tasks):
        logger.warning("%s: %d of %d tasks dropped, the exchange was closed on their days", path, closed, len(chosen))
    return open_tasks


def session_on(day: dt.date) -> bool:
    """Whether the exchange trades on an ET day.

    Raises:
        ConfigurationError: the calendar does not reach that day.
    """
    try:
        return is_session(day)
    except ContractError as error:
        raise ConfigurationError(str(error)) from error


def unique(items: Iterable[T]) -> list[T]:
    """The items without later duplicates, in order."""
    return list(dict.fromkeys(items))


def _listed(request: BackfillRequest, settings: Settings) -> list[tuple[str, dt.date]]:
    return find_list_tasks(settings, tasks_file=request.tasks_file, since_days=request.since_days, last=request.last)


def _check(request: BackfillRequest) -> None:
    if request.end is not None and request.start is None:
        raise ConfigurationError("an end day needs a start day")
    if request.start is not None and request.end is not None and request.end < request.start:
        raise ConfigurationError(f"the end day {request.end} lies before the start day {request.start}")
    if request.start is not None and (request.end or request.start) - request.start > dt.timedelta(LONGEST_RANGE_DAYS):
        raise ConfigurationError(f"{request.start} to {request.end} is more than {LONGEST_RANGE_DAYS} days: split it")
    for name, least in (("since_days", 0), ("last", 1), ("max_tasks", 0)):
        value = getattr(request, name)
        if value is not None and value < least:
            raise ConfigurationError(f"{name} must be at least {least}, it is {value}")


def _symbol(text: str) -> str:
    try:
        return canonical_symbol(text)
    except ContractError as error:
        raise ConfigurationError(str(error)) from error


def _days(start: dt.date, end: dt.date, *, skip_weekends: bool) -> list[dt.date]:
    """Every day of a range; a single day is asked for explicitly and stays, whatever day of the week it is."""
    days = [start + dt.timedelta(days=offset) for offset in range((end - start).days + 1)]
    if start == end or not skip_weekends:
        return days
    return [day for day in days if day.weekday() < _SATURDAY]

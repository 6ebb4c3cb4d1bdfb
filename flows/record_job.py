"""From the parameters of a live capture, as the flow, its deployments and the CLI take them, to a checked job.

Nothing here connects, waits or writes; `record_run` does what a job says.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from connectors.store.errors import StorageGuardHit
from connectors.store.guard import FreeSpaceGuard
from contracts.errors import ContractError
from contracts.sessions import ET, Window, parse_window, today_et
from contracts.symbols import canonical_symbol
from flows.backfill_request import find_list_tasks, session_on, unique
from flows.errors import ConfigurationError
from flows.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contracts.layout import DataRoot
    from flows.settings import Settings

LONGEST_MINUTES: Final = 24 * 60.0
MOST_LEVELS: Final = 50
LONGEST_INTERVAL_MS: Final = 3_600_000
_NS_PER_MINUTE: Final = 60 * 10**9


@dataclass(frozen=True)
class RecordJob:
    """A live capture ready to run.

    Attributes:
        settings: the environment.
        root: the data root it writes to.
        symbols: canonical, unique, in the order in which they get the account's depth lines; empty when `closed`.
        day: the ET day on which it was asked for.
        levels: rows per side.
        interval_ms: grid distance of the snapshots; 0: one row per message.
        exchange: SMART, or one exchange.
        minutes: how long it goes from its start on; None when a window says it.
        window: the window of `day` it goes over; None when `minutes` says it.
        sandbox: it starts the bundled gateway for itself.
    """

    settings: Settings
    root: DataRoot
    symbols: tuple[str, ...]
    day: dt.date
    levels: int
    interval_ms: int
    exchange: str
    minutes: float | None
    window: Window | None
    sandbox: bool

    @property
    def closed(self) -> bool:
        """Whether there is nothing to do, for the exchange is closed on the day of the window."""
        return not self.symbols

    @property
    def label(self) -> str:
        """Symbols and day, for the names of runs."""
        return f"{' '.join(self.symbols) or 'closed'} {self.day.isoformat()}"

    @property
    def start_ns(self) -> int | None:
        """When capture may start at the earliest, nanoseconds since 1970 UTC; None for at once."""
        return None if self.window is None else self.window.bounds_ns(self.day)[0]

    def end_ns(self, started_ns: int) -> int:
        """When a capture that started at `started_ns` ends; both nanoseconds since 1970 UTC."""
        if self.window is not None:
            return self.window.bounds_ns(self.day)[1]
        return started_ns + round((self.minutes or 0) * _NS_PER_MINUTE)

    def free_space(self) -> FreeSpaceGuard:
        """The guard of the data root's disk."""
        return FreeSpaceGuard(self.root.path, self.settings.l2_min_free_gb)


def assemble(
    *,
    now_ns: int,
    symbols: Sequence[str] | None = None,
    minutes: float | None = None,
    levels: int | None = None,
    interval_ms: int | None = None,
    window: str | None = None,
    exchange: str | None = None,
) -> RecordJob:
    """Check the parameters of a live capture; connects to nothing and writes nothing.

    Without `symbols`, those of the task list whose day is the ET today are taken. Without `minutes`, the capture goes
    over `window` of the ET today, or over the effective L2 window of the settings.

    Args:
        now_ns: the present, nanoseconds since 1970 UTC.
        symbols: symbols in any spelling.
        minutes: length of the capture from now on.
        levels: rows per side; L2_LEVELS when None.
        interval_ms: grid distance of the snapshots; L2_SNAPSHOT_INTERVAL_MS when None.
        window: `HH:MM-HH:MM`, ET.
        exchange: SMART or the broker's name of an exchange; IB_EXCHANGE when None.

    Raises:
        ConfigurationError: a parameter, a setting or the task list cannot be used, or the window is over.
    """
    settings = load_settings() if exchange is None else load_settings(ib_exchange=exchange)
    root = settings.data_root
    _check_minutes(minutes, window)
    levels = _within("levels", settings.l2_levels if levels is None else levels, 1, MOST_LEVELS)
    interval_ms = _within(
        "interval_ms", settings.l2_snapshot_interval_ms if interval_ms is None else interval_ms, 0, LONGEST_INTERVAL_MS
    )
    wanted = _canonical(symbols)
    span = None if minutes is not None else settings.window if window is None else _window(window)
    day = dt.datetime.fromtimestamp(now_ns // 10**9, tz=ET).date()
    if span is not None and not session_on(day):
        wanted = ()
    else:
        if span is not None and now_ns >= span.bounds_ns(day)[1]:
            raise ConfigurationError(
                f"the window {span} ET of {day} is over; give a length in minutes, or a window that is still to come"
            )
        wanted = wanted or _listed(settings, day)
    return RecordJob(
        settings=settings,
        root=root,
        symbols=wanted,
        day=day,
        levels=levels,
        interval_ms=interval_ms,
        exchange=settings.ib_exchange,
        minutes=minutes,
        window=span,
        sandbox=settings.force_fake_ib,
    )


def check_ready(job: RecordJob) -> None:
    """Find out before any work whether there is room for it.

    Raises:
        ConfigurationError: too little space is free.
        StoreError: the disk cannot be asked.
    """
    try:
        job.free_space().check()
    except StorageGuardHit as guard:
        raise ConfigurationError(f"{guard} Nothing was captured.") from guard


def _check_minutes(minutes: float | None, window: str | None) -> None:
    if minutes is None:
        return
    if window is not None:
        raise ConfigurationError("a length in minutes and a window contradict each other: give one or the other")
    if not (math.isfinite(minutes) and 0 < minutes <= LONGEST_MINUTES):
        raise ConfigurationError(
            f"the length must be more than 0 and at most {LONGEST_MINUTES:g} minutes (a day), it is {minutes}"
        )


def _within(name: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise ConfigurationError(f"{name} must be from {least} to {most}, it is {value}")
    return value


def _canonical(symbols: Sequence[str] | None) -> tuple[str, ...]:
    if symbols is None:
        return ()
    if not symbols:
        raise ConfigurationError("the list of symbols is empty: name at least one, or leave it out for the task list")
    try:
        return tuple(unique(canonical_symbol(text) for text in symbols))
    except ContractError as error:
        raise ConfigurationError(str(error)) from error


def _listed(settings: Settings, day: dt.date) -> tuple[str, ...]:
    """The symbols that the task list has for a day."""
    age_days = max(0, (today_et() - day).days)
    found = tuple(symbol for symbol, listed in find_list_tasks(settings, since_days=age_days) if listed == day)
    if not found:
        raise ConfigurationError(
            f"the task list has no symbol for {day} (ET today); give symbols, or add lines of that day to the list"
        )
    return found


def _window(text: str) -> Window:
    try:
        return parse_window(text)
    except ContractError as error:
        raise ConfigurationError(str(error)) from error

"""What the vendors allow, and keeping to it across all processes of this machine; no Prefect here.

`LIMITS` is the one table. Request rates are exact sliding windows over a log of calls in a small SQLite file in the
cache folder (`RequestWindows`); things held for long, such as streams, are numbered lock files (`Slots`); the pacing
rules for IBKR's historical requests are kept by a `Pacer`, which `bars_pacer` makes. All survive a kill -9. The cache
folder must be on a local disk. What several machines share is besides counted by Prefect (`flows.held`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from connectors.ibkr.pacing import Pacer, PacingClock, PacingRules
from connectors.store.call_log import CallLog, Clock, Counted, SystemClock
from connectors.store.slots import LimitTimeout, Slot, Slots

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from flows.settings import Settings

__all__ = [
    "LIMITS",
    "Clock",
    "Limit",
    "LimitTimeout",
    "PacerClock",
    "RequestWindows",
    "Slot",
    "Slots",
    "SystemClock",
    "bars_pacer",
    "limit_named",
    "shared_limits",
    "window_of",
]

_NS: Final = 10**9


@dataclass(frozen=True)
class Limit:
    """One thing a vendor limits.

    Attributes:
        name: How code asks for it.
        vendor: Whose limit it is.
        limit: What we keep to: calls in any window, or things held at once.
        window_s: Length of the window in seconds, or None for things held.
        vendor_limit: What the vendor says. Ours is lower, or its window longer: calls may bunch up on their way.
        source: Where the vendor says so.
        kept_by: What keeps it; `Prefect` is a global concurrency limit of this name, over all machines, which a run
            takes once for its whole life.
        vendor_window_s: The vendor's window where ours is longer.
    """

    name: str
    vendor: str
    limit: int
    window_s: float | None
    vendor_limit: int
    source: str
    kept_by: str
    vendor_window_s: float | None = None

    @property
    def is_shared(self) -> bool:
        """Whether Prefect counts it, too, over all machines."""
        return "Prefect" in self.kept_by


_DATABENTO_SOURCE: Final = "Databento API reference, Historical, Rate limits"
_IBKR_SOURCE: Final = "IBKR Campus, TWS API, Historical Data Limitations"
_DEPTH_SOURCE: Final = "IBKR Campus, TWS API, Market Depth: 3 unless the account has more, at most 60; then error 309"
_SESSIONS_SOURCE: Final = "IBKR Campus, TWS API, Connection: 32 client applications at a gateway"
_BOTH: Final = "Slots, Prefect"
_DEPTH_LINES: Final = "ibkr.depth-lines"
_IBKR: Final = PacingRules()

LIMITS: Final[tuple[Limit, ...]] = (
    Limit("databento.timeseries", "databento", 80, 1.0, 100, _DATABENTO_SOURCE, "RequestWindows"),
    Limit("databento.symbology", "databento", 80, 1.0, 100, _DATABENTO_SOURCE, "RequestWindows"),
    Limit("databento.metadata", "databento", 12, 1.0, 20, _DATABENTO_SOURCE, "RequestWindows"),
    Limit("databento.streams", "databento", 10, None, 100, f"{_DATABENTO_SOURCE}: concurrent connections", _BOTH),
    Limit("ibkr.bars", "ibkr", _IBKR.budget, _IBKR.budget_window_s, 60, _IBKR_SOURCE, "Pacer", 600.0),
    Limit("ibkr.identical", "ibkr", 1, _IBKR.identical_window_s, 1, _IBKR_SOURCE, "Pacer", 15.0),
    Limit("ibkr.burst", "ibkr", _IBKR.burst, _IBKR.burst_window_s, 5, _IBKR_SOURCE, "Pacer", 2.0),
    Limit("ibkr.messages", "ibkr", _IBKR.messages, _IBKR.messages_window_s, 50, _IBKR_SOURCE, "Pacer", 1.0),
    Limit("ibkr.open", "ibkr", _IBKR.open_requests, None, 50, _IBKR_SOURCE, "Slots"),
    Limit(_DEPTH_LINES, "ibkr", 3, None, 60, _DEPTH_SOURCE, "Prefect"),
    Limit("ibkr.sessions", "ibkr", 8, None, 32, _SESSIONS_SOURCE, "Prefect"),
)
"""Every limit this project keeps."""


def limit_named(name: str) -> Limit:
    """Return a row of `LIMITS`.

    Raises:
        KeyError: There is none of this name.
    """
    for row in LIMITS:
        if row.name == name:
            return row
    raise KeyError(f"no limit is called {name!r}; there are {', '.join(row.name for row in LIMITS)}")


def shared_limits(settings: Settings) -> dict[str, int]:
    """Return what Prefect counts over all machines: how much of each may be held at once, by name."""
    own = {_DEPTH_LINES: settings.ib_max_depth_lines}
    return {row.name: own.get(row.name, row.limit) for row in LIMITS if row.is_shared}


@dataclass(frozen=True)
class _Window:
    """A row of the table as the log counts it."""

    name: str
    limit: int
    window_ns: int
    key: str = ""
    cost: int = 1
    only_while: str | None = None
    stopped_by: str | None = None


def window_of(row: Limit) -> Counted:
    """Return a request rate as a `CallLog` counts it.

    Raises:
        ValueError: The row has no window.
    """
    if row.window_s is None:
        raise ValueError(f"{row.name} is held, and has no window")
    return _Window(row.name, row.limit, round(row.window_s * _NS))


class RequestWindows:
    """Exact sliding windows: never more than N calls in any window of the given length.

    All threads and all processes that use the same file count together. Nothing is created before the first call. When
    the file cannot be written, the limits hold in this process alone, and that is logged once. A damaged file is made
    anew and counts as used up, so that even then no limit is passed.

    Args:
        path: The SQLite file, in the cache folder; None keeps the log in memory (`in_memory`).
        rules: Rows with a window; others, and those that a `Pacer` keeps, are ignored.
        clock: The time.
        patience_s: A file that somebody else keeps locked this long counts as damaged.
    """

    def __init__(
        self,
        path: Path | None,
        rules: Iterable[Limit] = LIMITS,
        *,
        clock: Clock | None = None,
        patience_s: float = 10.0,
    ) -> None:
        self._clock = clock or SystemClock()
        self._log = CallLog(path, clock=self._clock, patience_s=patience_s)
        self._windows = {
            row.name: window_of(row) for row in rules if row.window_s is not None and row.kept_by != "Pacer"
        }

    @classmethod
    def in_memory(cls, rules: Iterable[Limit] = LIMITS, *, clock: Clock | None = None) -> RequestWindows:
        """Return windows that hold in this process alone and touch no file."""
        return cls(None, rules, clock=clock)

    def acquire(self, name: str, timeout_s: float | None = None) -> float:
        """Wait until one more call is allowed, and enter it.

        Args:
            name: A rule's name.
            timeout_s: Seconds to wait; None waits as long as it takes, 0 does not wait.

        Returns:
            The seconds waited.

        Raises:
            LimitTimeout: It is not allowed in time; known and raised at once, and nothing is entered.
            KeyError: There is no such rule.
        """
        if name not in self._windows:
            raise KeyError(f"no request rate is called {name!r}; there are {', '.join(self._windows)}")
        began_ns = self._clock.monotonic_ns()
        while True:
            wait_ns = max(self._log.enter([self._windows[name]]).values(), default=0)
            waited_ns = self._clock.monotonic_ns() - began_ns
            if not wait_ns:
                return waited_ns / _NS
            if timeout_s is not None and waited_ns + wait_ns > timeout_s * _NS:
                raise LimitTimeout(name, waited_ns / _NS)
            self._clock.sleep(wait_ns / _NS)


class PacerClock(Clock, PacingClock, Protocol):
    """The time as a pacer and its log see it."""


def bars_pacer(
    cache: Path | None,
    gateway: str,
    *,
    all_sizes: bool = False,
    rules: PacingRules = _IBKR,
    clock: PacerClock | None = None,
) -> Pacer:
    """Make the pacer for the historical requests to one gateway.

    Args:
        cache: CACHE_PATH, where all processes of this machine meet; None keeps everything in this process and writes
            nothing.
        gateway: `host:port`; whoever uses the same one counts together.
        all_sizes: Bars larger than 30 s count in the 60 of 10 minutes, too.
        rules: The figures, for tests.
        clock: The time.
    """
    clock = clock or SystemClock()
    rules = replace(rules, all_sizes=rules.all_sizes or all_sizes)
    place = _file_name(gateway)
    folder = None if cache is None else cache / "limits"
    log = CallLog(None if folder is None else folder / f"ibkr-{place}.sqlite", clock=clock, blocks=False)
    slots = Slots(folder, f"ibkr.open-{place}", rules.open_requests)
    return Pacer(log, slots, rules=rules, clock=clock)


def _file_name(gateway: str) -> str:
    """A gateway's name as part of a file name, different for different gateways."""
    host, colon, port = gateway.strip().lower().rpartition(":")
    # The same gateway under its usual names.
    same = f"127.0.0.1:{port}" if colon and host in {"localhost", "::1", "[::1]"} else f"{host}{colon}{port}"
    plain = re.sub(r"[^a-z0-9.]+", "-", same)[:60]
    return plain if plain == same.replace(":", "-") else f"{plain}-{hashlib.sha256(same.encode()).hexdigest()[:8]}"

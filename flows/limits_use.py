"""How much of the vendors' limits this machine uses now, read from what its processes share; no Prefect here.

Looking creates no file and enters no call. What Prefect counts over all machines tells `flows.prefect_api`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from connectors.ibkr.pacing import Pacer, PacingRules
from connectors.store.call_log import CallLog, SystemClock
from connectors.store.slots import Slots
from flows.limits import LIMITS, PacerClock, limit_named, window_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["LimitUse", "slots_in_use", "window_use"]

_NS: Final = 10**9
_FOLDER: Final = "limits"
_REQUESTS: Final = "requests.sqlite"
_STREAMS: Final = "databento.streams"
_BARS: Final = "ibkr.bars"
_OPEN: Final = "ibkr.open"


@dataclass(frozen=True)
class LimitUse:
    """What is used of a limit now.

    Attributes:
        name: As in `flows.limits.LIMITS`.
        limit: What we keep to.
        used: What counts now, or is held.
        free_in_s: Seconds until one more may go; 0 when it may go now, None when nobody knows: a slot is free when its
            holder gives it back.
        gateway: Whose, such as `127.0.0.1-4002`; empty where there is one for all.
        held_s: Seconds that a pacing violation still holds up everything that counts.
    """

    name: str
    limit: int
    used: int
    free_in_s: float | None
    gateway: str = ""
    held_s: float = 0.0


def window_use(cache_path: Path, *, clock: PacerClock | None = None) -> list[LimitUse]:
    """Tell the use of each request rate, and for each gateway of its budget for bars.

    A log that cannot be read counts as full, and that is logged.

    Args:
        cache_path: CACHE_PATH.
        clock: The time.
    """
    clock = clock or SystemClock()
    log = CallLog(cache_path / _FOLDER / _REQUESTS, clock=clock)
    found = []
    for row in LIMITS:
        if row.kept_by == "RequestWindows":
            window = window_of(row)
            leaves = log.in_window(window)
            used = sum(cost for _, cost in leaves)
            free_in_s = 0.0
            excess = used + 1 - row.limit
            for left_ns, cost in leaves:
                if excess <= 0:
                    break
                excess -= cost
                free_in_s = left_ns / _NS
            found.append(LimitUse(row.name, row.limit, min(used, row.limit), free_in_s))
    rules = PacingRules()
    for gateway in _gateways(cache_path):
        paced = CallLog(cache_path / _FOLDER / f"ibkr-{gateway}.sqlite", clock=clock)
        usage = Pacer(paced, Slots.in_memory(_OPEN, rules.open_requests), rules=rules, clock=clock).usage()
        found.append(LimitUse(_BARS, usage.of, usage.used, usage.free_in_s, gateway, usage.held_s))
    return found


def slots_in_use(cache_path: Path) -> list[LimitUse]:
    """Tell how many streams, and for each gateway how many requests for bars, are open now.

    Args:
        cache_path: CACHE_PATH.

    Raises:
        OSError: The lock files cannot be opened.
    """
    folder = cache_path / _FOLDER
    found = [_held(_STREAMS, Slots(folder, _STREAMS, limit_named(_STREAMS).limit))]
    for gateway in _gateways(cache_path):
        count = limit_named(_OPEN).limit
        found.append(_held(_OPEN, Slots(folder, f"{_OPEN}-{gateway}", count), gateway))
    return found


def _held(name: str, slots: Slots, gateway: str = "") -> LimitUse:
    used = slots.in_use()
    return LimitUse(name, slots.count, used, 0.0 if used < slots.count else None, gateway)


def _gateways(cache_path: Path) -> Iterator[str]:
    """The gateways that were asked from this machine, by the names of their logs."""
    for path in sorted((cache_path / _FOLDER).glob("ibkr-*.sqlite")):
        yield path.stem.removeprefix("ibkr-")

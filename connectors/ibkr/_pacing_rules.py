"""The vendor's pacing rules as figures, what they see of a request, and where it is counted; private to `pacing`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

NS: Final = 10**9

BUDGET: Final = "ibkr.bars"
IDENTICAL: Final = "ibkr.identical"
BURST: Final = "ibkr.burst"
MESSAGES: Final = "ibkr.messages"
HOLD: Final = "ibkr.hold"
ALL_SIZES: Final = "ibkr.all_sizes"

_TWICE: Final = "BID_ASK"


@dataclass(frozen=True)
class PacedRequest:
    """A historical request as the rules see it.

    Attributes:
        instrument: Which instrument, such as `AAPL`.
        exchange: Where, such as `SMART`.
        what_to_show: `TRADES`, `BID_ASK` and so on; the vendor's "tick type".
        bar_s: Seconds of one bar; 0 for a head time stamp.
        identity: Equal for two requests that ask for the very same.
    """

    instrument: str
    exchange: str
    what_to_show: str
    bar_s: int
    identity: str


@dataclass(frozen=True)
class PacingRules:
    """The rules, with our margins: the gateway counts arrivals, and those bunch up on their way.

    A window is closed: requests exactly one window apart still count together. Source of the vendor's figures: the
    broker's page "Historical Data Limitations".

    Attributes:
        small_bar_s: Bars up to this many seconds, and head time stamps, count in the budget.
        budget: Requests in any `budget_window_s` (vendor: not more than 60 in 600 s).
        identical_window_s: An identical request waits longer than this (vendor: 15 s).
        burst: Requests for the same instrument, exchange and what_to_show in any `burst_window_s` (vendor: fewer than
            six in 2 s).
        messages: Requests of all kinds in any `messages_window_s` (vendor: 50 messages in 1 s; other messages need
            room, too).
        open_requests: Open at once in all processes (vendor: 50; it learns of an end a little later).
        open_per_process: Open at once by one pacer.
        bid_ask_cost: What a BID_ASK request counts, in the budget and in the burst.
        all_sizes: Larger bars count in the budget, too.
        hold_s: What everything that counts waits after the first, second, ... violation in a row.
        calm_s: A violation that comes later than this after the last wait begins with the first of `hold_s` again.
        all_sizes_s: For so long larger bars count, too, after a violation by one of them.

    Raises:
        ValueError: A figure with which nothing could ever go.
    """

    small_bar_s: int = 30
    budget: int = 60
    budget_window_s: float = 605.0
    identical_window_s: float = 15.5
    burst: int = 5
    burst_window_s: float = 2.25
    messages: int = 40
    messages_window_s: float = 1.25
    open_requests: int = 48
    open_per_process: int = 8
    bid_ask_cost: int = 2
    all_sizes: bool = False
    hold_s: tuple[float, ...] = (15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 600.0)
    calm_s: float = 600.0
    all_sizes_s: float = 3600.0

    def __post_init__(self) -> None:
        if min(self.budget, self.burst) < self.bid_ask_cost or self.bid_ask_cost < 1:
            raise ValueError(
                f"a BID_ASK request counts {self.bid_ask_cost}: more than the budget of {self.budget} or the burst of "
                f"{self.burst} would never let it go; use larger ones"
            )
        if min(self.messages, self.open_requests, self.open_per_process) < 1:
            raise ValueError("at least one message, and one open request, must be allowed")
        if not self.hold_s:
            raise ValueError("hold_s says how long to wait after a violation: at least one figure")

    def counts_in_budget(self, request: PacedRequest) -> bool:
        """Tell whether a request counts in the budget, whatever violations there were."""
        return self.all_sizes or request.bar_s <= self.small_bar_s

    def cost(self, request: PacedRequest) -> int:
        """Return what a request counts, in the budget and in the burst."""
        return self.bid_ask_cost if request.what_to_show == _TWICE else 1

    def uses(self, request: PacedRequest) -> tuple[PacingUse, ...]:
        """Return the windows that a request counts in."""
        cost = self.cost(request)
        about = f"{request.instrument}|{request.exchange}|{request.what_to_show}"
        return (
            self.budget_use(cost, only_while=None if self.counts_in_budget(request) else ALL_SIZES),
            PacingUse(IDENTICAL, 1, round(self.identical_window_s * NS), request.identity),
            PacingUse(BURST, self.burst, round(self.burst_window_s * NS), about, cost),
            PacingUse(MESSAGES, self.messages, round(self.messages_window_s * NS)),
        )

    def budget_use(self, cost: int = 1, *, only_while: str | None = None) -> PacingUse:
        """Return the window of the budget."""
        return PacingUse(BUDGET, self.budget, round(self.budget_window_s * NS), "", cost, only_while, HOLD)


@dataclass(frozen=True)
class PacingUse:
    """A window that a request counts in: at most `limit` in any `window_ns`, both ends included.

    Attributes:
        name: Of the window.
        limit: How much may be in it.
        window_ns: Its length.
        key: What is counted apart, such as an instrument.
        cost: How much the request counts.
        only_while: It counts only while this mark of the log holds.
        stopped_by: If it counts, it waits while this mark holds.
    """

    name: str
    limit: int
    window_ns: int
    key: str = ""
    cost: int = 1
    only_while: str | None = None
    stopped_by: str | None = None


@dataclass(frozen=True)
class Usage:
    """How much of the budget is used, by all processes.

    Attributes:
        used: What counts now.
        of: The budget.
        free_in_s: Seconds until one more may go; 0 when it may go now.
        held_s: Seconds that a violation still holds up everything that counts; 0 when none does.
        all_sizes: Larger bars count, too.
    """

    used: int
    of: int
    free_in_s: float
    held_s: float
    all_sizes: bool


class PacingLog(Protocol):
    """Where it is written what was let through; `connectors.store.call_log.CallLog` is one."""

    def enter(self, uses: Sequence[PacingUse], *, ticket: str = "", since_ns: int = 0) -> dict[str, int]:
        """Enter a request if all windows allow it; else return the wait in ns by the name of what refuses."""

    def withdraw(self, ticket: str) -> None:
        """Give up the place of a request that waits no longer."""

    def mark(self, name: str, lengths_ns: Sequence[int], *, calm_ns: int = 0) -> int:
        """Set a mark that holds for the first, second, ... of the lengths, and return the ns that it holds."""

    def marked_ns(self, name: str) -> int:
        """Return for how long a mark holds; writes nothing."""

    def in_window(self, use: PacingUse) -> list[tuple[int, int]]:
        """Return what counts in a window as (ns until it counts no more, cost), in this order; writes nothing."""


class HeldSlot(Protocol):
    """One of the requests that may be open at once."""

    def release(self) -> None:
        """Let another have it."""


class PacingSlots(Protocol):
    """The requests that may be open at once in all processes; `connectors.store.slots.Slots` is one."""

    def try_acquire(self) -> HeldSlot | None:
        """Hold a slot, or return None at once when there is none."""


class PacingClock(Protocol):
    """The time as the rules see it; the log's clock."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds on a clock that never steps and is the same in all processes of this machine."""

    async def pause(self, seconds: float) -> None:
        """Sleep, and let the event loop go on."""

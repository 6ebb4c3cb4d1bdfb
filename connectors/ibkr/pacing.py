"""The vendor's pacing rules for historical requests, kept by all processes that use one gateway.

`Pacer.admit` lets a request through when every rule allows it. What was let through stands in a log (`PacingLog`) and
what is open holds a slot (`PacingSlots`); both are given, since where they are kept is not known here
(`flows.limits.bars_pacer` puts the parts together). Nothing is sent here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from connectors.ibkr._pacing_estimate import last_start_s
from connectors.ibkr._pacing_rules import (
    ALL_SIZES,
    BUDGET,
    HOLD,
    NS,
    HeldSlot,
    PacedRequest,
    PacingClock,
    PacingLog,
    PacingRules,
    PacingSlots,
    PacingUse,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

__all__ = [
    "HeldSlot",
    "PacedRequest",
    "Pacer",
    "PacingClock",
    "PacingLog",
    "PacingRules",
    "PacingSlots",
    "PacingUse",
    "Usage",
]

_log = logging.getLogger(__name__)

_SLOT_POLL_NS: Final = 50_000_000
_LONG_WAIT_NS: Final = 10 * NS

_Key = tuple[str, str]
_OPEN: Final[_Key] = ("open", "")
_COUNTING: Final[_Key] = (BUDGET, "")


class _Waiter:
    """A request on its way through.

    `blocked` are the windows that hold it up: requests that came later and count in one of them wait behind it.
    """

    def __init__(self, request: PacedRequest, uses: tuple[PacingUse, ...], ticket: str, since_ns: int) -> None:
        self.request = request
        self.uses = uses
        self.keys = frozenset({_OPEN, *((use.name, use.key) for use in uses if use.only_while is None)})
        self.ticket = ticket
        self.since_ns = since_ns
        self.blocked: frozenset[_Key] = frozenset()
        self.waits_for_turn = False
        self.has_asked = False
        self.wake: asyncio.Future[None] | None = None

    def rouse(self) -> None:
        """Let it try again."""
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)


class Pacer:
    """Lets requests through so that no rule is broken; one per run, used in one event loop.

    Fair: first come, first served among those that may go, also across processes. A request that waits for the budget
    holds up none that does not count in it, and a waiting request holds no slot.

    After a violation, counting requests go one at a time until one of them was answered without another.

    Args:
        log: Where it is written what was let through.
        slots: The requests that may be open at once.
        clock: The log's.
        rules: What to keep to.

    Attributes:
        waits: How many requests had to wait.
        violations: How often `violated` was called.
    """

    def __init__(
        self, log: PacingLog, slots: PacingSlots, *, clock: PacingClock, rules: PacingRules | None = None
    ) -> None:
        self.rules = rules or PacingRules()
        self.waits = 0
        self.violations = 0
        self._log = log
        self._slots = slots
        self._clock = clock
        self._name = secrets.token_hex(6)
        self._admitted = 0
        self._queue: dict[_Waiter, None] = {}
        self._open = 0
        self._open_counting = 0
        self._is_doubtful = False
        self._larger_count = False
        self._waiting_since_ns: int | None = None
        self._waited_ns = 0
        self._told_until_ns = 0

    @property
    def waited_s(self) -> float:
        """Seconds during which at least one request waited."""
        since_ns = self._waiting_since_ns
        now_ns = 0 if since_ns is None else self._clock.monotonic_ns() - since_ns
        return (self._waited_ns + now_ns) / NS

    @asynccontextmanager
    async def admit(self, request: PacedRequest) -> AsyncIterator[float]:
        """Wait until the request may be sent, enter it, and hold one of the open-request slots during the block.

        Send at the beginning of the block, before any `await`: then nothing comes between the entry and the request.
        Cancelling a waiting `admit` leaves nothing entered. Leave the block when the gateway has answered; call
        `violated` inside it.

        Yields:
            The seconds waited.
        """
        began_ns = self._clock.monotonic_ns()
        self._admitted += 1
        waiter = _Waiter(request, self.rules.uses(request), f"{self._name}-{self._admitted:09d}", began_ns)
        slot = await self._let_through(waiter)
        counts, violations = self._counts(request), self.violations
        self._open += 1
        self._open_counting += counts
        try:
            yield (self._clock.monotonic_ns() - began_ns) / NS
            if counts and violations == self.violations:
                self._is_doubtful = self._larger_count = False
        finally:
            self._open -= 1
            self._open_counting -= counts
            slot.release()
            self._hand_on(has_ended=True)

    def violated(self, request: PacedRequest) -> float:
        """Take note that the gateway answered this request with a pacing violation.

        Everything that counts waits 15, 30, 60 ... 600 s, in all processes; several answers at once are one violation.
        After one by a larger bar all sizes count for an hour. Ask again through `admit`.

        Returns:
            The seconds until the next request that counts may go.
        """
        self.violations += 1
        self._is_doubtful = True
        if not self.rules.counts_in_budget(request):
            self._larger_count = True
            left_s = self._log.mark(ALL_SIZES, [round(self.rules.all_sizes_s * NS)]) / NS
            _log.warning(
                "bars of %d s are paced, too: the next %.0f min bars of all sizes count", request.bar_s, left_s / 60
            )
        hold_ns = [round(seconds * NS) for seconds in self.rules.hold_s]
        return self._log.mark(HOLD, hold_ns, calm_ns=round(self.rules.calm_s * NS)) / NS

    def estimate_s(self, requests: Iterable[PacedRequest] | Mapping[PacedRequest, int]) -> float:
        """Tell how long the rules need until the last of these may be sent, from what is used now; writes nothing.

        Args:
            requests: In the order in which they will be asked for, no two identical; or a sample of each kind (its
                identity does not matter) and how many there are of it.
        """
        return last_start_s(
            requests,
            self.rules,
            used=[(left_ns / NS, cost) for left_ns, cost in self._log.in_window(self.rules.budget_use())],
            held_s=self._log.marked_ns(HOLD) / NS,
            all_sizes=self.rules.all_sizes or self._log.marked_ns(ALL_SIZES) > 0,
        )

    def usage(self) -> Usage:
        """Tell how much of the budget is used, by all processes; writes nothing."""
        leaves = self._log.in_window(self.rules.budget_use())
        used = sum(cost for _, cost in leaves)
        held_s = self._log.marked_ns(HOLD) / NS
        all_sizes = self.rules.all_sizes or self._log.marked_ns(ALL_SIZES) > 0
        excess, free_in_s = used + 1 - self.rules.budget, held_s
        for left_ns, cost in leaves:
            if excess <= 0:
                break
            excess -= cost
            free_in_s = max(held_s, left_ns / NS)
        return Usage(min(used, self.rules.budget), self.rules.budget, free_in_s, held_s, all_sizes)

    def _counts(self, request: PacedRequest) -> bool:
        return self._larger_count or self.rules.counts_in_budget(request)

    async def _let_through(self, waiter: _Waiter) -> HeldSlot:
        self._queue[waiter] = None
        is_through = False
        try:
            slot, wait_ns = self._try(waiter)
            if slot is None:
                self.waits += 1
                if self._waiting_since_ns is None:
                    self._waiting_since_ns = waiter.since_ns
            while slot is None:
                self._tell(wait_ns)
                await self._rest(waiter, wait_ns)
                slot, wait_ns = self._try(waiter)
            is_through = True
        finally:
            del self._queue[waiter]
            if waiter.has_asked and not is_through:
                self._log.withdraw(waiter.ticket)
            if not self._queue and self._waiting_since_ns is not None:
                self._waited_ns += self._clock.monotonic_ns() - self._waiting_since_ns
                self._waiting_since_ns = None
            self._hand_on()
        return slot

    def _try(self, waiter: _Waiter) -> tuple[HeldSlot | None, int | None]:
        """Enter the request and return a slot; or None, and the ns to wait (None: until somebody rouses it)."""
        ahead = self._blocked_ahead_of(waiter)
        waiter.waits_for_turn = bool(ahead)
        # Behind others it asks once all the same: that keeps its place among those of other processes.
        if ahead and (waiter.has_asked or ahead != {_COUNTING}):
            waiter.blocked = ahead
            return None, None
        if self._is_doubtful and self._open_counting and self._counts(waiter.request):
            waiter.blocked = frozenset({_COUNTING})
            return None, None
        waiter.blocked = frozenset({_OPEN})
        if self._open >= self.rules.open_per_process:
            return None, None
        slot = self._slots.try_acquire()
        if slot is None:
            return None, _SLOT_POLL_NS
        waits = None
        try:
            waits = self._log.enter(waiter.uses, ticket=waiter.ticket, since_ns=waiter.since_ns)
        finally:
            if waits != {}:
                slot.release()
        return (None, self._refused(waiter, waits, ahead)) if waits else (slot, None)

    def _refused(self, waiter: _Waiter, waits: dict[str, int], ahead: frozenset[_Key]) -> int | None:
        """Note what holds a request up, and return the ns to wait (None: until somebody rouses it)."""
        waiter.has_asked = True
        self._is_doubtful |= HOLD in waits
        if ahead:
            waiter.blocked = ahead
            return None
        # What is free earlier than the rest is left to others until then.
        wait_ns = max(waits.values())
        last = {BUDGET if name == HOLD else name for name, each_ns in waits.items() if each_ns == wait_ns}
        waiter.blocked = frozenset((use.name, use.key) for use in waiter.uses if use.name in last) or frozenset({_OPEN})
        self._hand_on()
        return wait_ns

    def _tell(self, wait_ns: int | None) -> None:
        """Say once that a long wait begins: who watches must not think that it hangs."""
        now_ns = self._clock.monotonic_ns()
        if wait_ns is not None and wait_ns >= _LONG_WAIT_NS and now_ns >= self._told_until_ns:
            self._told_until_ns = now_ns + wait_ns
            _log.info("the pacing rules let the next request through in %.0f s", wait_ns / NS)

    def _blocked_ahead_of(self, waiter: _Waiter) -> frozenset[_Key]:
        """What this request needs and an earlier one waits for."""
        ahead: set[_Key] = set()
        for other in self._queue:
            if other is waiter:
                break
            ahead |= other.blocked
        return waiter.keys & ahead

    def _hand_on(self, *, has_ended: bool = False) -> None:
        """Rouse those whose turn it is, now that a request has gone on; or has ended, and left its slot."""
        ahead: set[_Key] = set()
        for waiter in self._queue:
            behind = waiter.keys & ahead
            if waiter.waits_for_turn and behind:
                waiter.blocked = behind
            elif waiter.waits_for_turn or (has_ended and waiter.blocked & {_OPEN, _COUNTING}):
                waiter.rouse()
            ahead |= waiter.blocked

    async def _rest(self, waiter: _Waiter, wait_ns: int | None) -> None:
        waiter.wake = asyncio.get_running_loop().create_future()
        if wait_ns is None:
            await waiter.wake
            return
        alarm = asyncio.ensure_future(self._clock.pause(wait_ns / NS))
        try:
            await asyncio.wait({waiter.wake, alarm}, return_when=asyncio.FIRST_COMPLETED)
            if alarm.done():
                alarm.result()
        finally:
            alarm.cancel()

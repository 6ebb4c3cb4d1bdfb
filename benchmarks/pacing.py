"""How much of the vendor's pacing budget a download of one-second bars uses, and whether it breaches the rules.

The project's pacer on its real log file, and three ways that scripts commonly have: they sleep 10 s after each answer,
send 60 and then wait 600 s, or take from a token bucket. Time is simulated, so the hours of a download take seconds
here; a model of the gateway answers after a while and counts what arrives, by the vendor's figures. `make bench` runs
it.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import selectors
import sys
import tempfile
import time
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connectors.ibkr.pacing import PacedRequest
from flows.limits import SystemClock, bars_pacer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

USED_AT_LEAST = 0.95
"""While work remains, so much of the budget is used."""

S = 10**9
WORKERS = 4
CHUNKS_OF_A_DAY = 13
BUDGET, BUDGET_S = 60, 600
GATEWAY = "127.0.0.1:4002"


class Jumps(selectors.DefaultSelector):
    """When there is nothing to do, the time jumps to when there is."""

    now_ns = 5_000 * S

    def select(self, timeout: float | None = None) -> Any:
        """Never wait."""
        events = super().select(0)
        if not events and timeout:
            self.now_ns += max(1, math.ceil(timeout * S))
        return events


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop on simulated time."""

    def __init__(self) -> None:
        self.jumps = Jumps()
        super().__init__(self.jumps)

    def time(self) -> float:
        """Return the simulated seconds."""
        return self.jumps.now_ns / S


class SimulatedClock(SystemClock):
    """The pacer's clock, on simulated time."""

    def monotonic_ns(self) -> int:
        """Return the simulated nanoseconds."""
        return now_ns()

    async def pause(self, seconds: float) -> None:
        """Sleep, simulated."""
        await asyncio.sleep(seconds)


def now_ns() -> int:
    return asyncio.get_running_loop().jumps.now_ns  # type: ignore[attr-defined] # the loop above


class Gateway:
    """Answers after a while, and counts what arrives by the vendor's figures."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - the same answers each time
        self.arrived: list[tuple[int, PacedRequest]] = []
        self.sent_ns: list[int] = []

    async def answer(self, request: PacedRequest) -> None:
        """Take a request, and be ready with it after a while."""
        self.sent_ns.append(now_ns())
        way_s, answer_s = self._chance.uniform(0.001, 0.2), self._chance.uniform(0.5, 4.0)
        await asyncio.sleep(way_s)
        self.arrived.append((now_ns(), request))
        await asyncio.sleep(answer_s)

    def breaches(self) -> int:
        """Requests that break a rule on their arrival."""
        budget: deque[int] = deque()
        same: dict[str, int] = {}
        bursts: dict[str, deque[int]] = {}
        found = 0
        for at_ns, request in self.arrived:
            twice = 2 if request.what_to_show == "BID_ASK" else 1
            burst = bursts.setdefault(f"{request.instrument} {request.what_to_show}", deque())
            for times, window_s in ((budget, BUDGET_S), (burst, 2)):
                while times and at_ns - times[0] > window_s * S:
                    times.popleft()
                times.extend([at_ns] * twice)
            is_same = at_ns - same.get(request.identity, -(10**18)) <= 15 * S
            same[request.identity] = at_ns
            found += len(budget) > BUDGET or len(burst) > 5 or is_same
        return found


class OurPacer:
    """The project's own."""

    workers = WORKERS

    def __init__(self, cache: Path) -> None:
        self._pacer = bars_pacer(cache, GATEWAY, clock=SimulatedClock())

    def admit(self, request: PacedRequest) -> Any:
        """As `Pacer.admit`; the others have the same form."""
        return self._pacer.admit(request)


class SleepTen:
    """One request after the other, and 10 s after each answer."""

    workers = 1

    @asynccontextmanager
    async def admit(self, _request: PacedRequest) -> AsyncIterator[None]:
        """Let a request go when this way allows it."""
        yield
        await asyncio.sleep(10)


class BurstThenWait:
    """60 as fast as may be, then a wait of 600 s."""

    workers = WORKERS

    def __init__(self) -> None:
        self._count = 0
        self._is_free = asyncio.Event()
        self._is_free.set()

    @asynccontextmanager
    async def admit(self, _request: PacedRequest) -> AsyncIterator[None]:
        """Let a request go when this way allows it."""
        while not self._is_free.is_set():
            await self._is_free.wait()
        self._count += 1
        if self._count == BUDGET:
            self._is_free.clear()
            asyncio.get_running_loop().call_later(BUDGET_S, self._free)
        yield

    def _free(self) -> None:
        self._count = 0
        self._is_free.set()


class TokenBucket:
    """60 tokens, one more every 10 s."""

    workers = WORKERS

    def __init__(self) -> None:
        self._tokens, self._since_ns = float(BUDGET), now_ns()
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def admit(self, _request: PacedRequest) -> AsyncIterator[None]:
        """Let a request go when this way allows it."""
        async with self._lock:
            while True:
                passed_s = (now_ns() - self._since_ns) / S
                self._tokens = min(BUDGET, self._tokens + passed_s * BUDGET / BUDGET_S)
                self._since_ns = now_ns()
                if self._tokens >= 1 - 1e-9:
                    break
                await asyncio.sleep((1 - self._tokens) * BUDGET_S / BUDGET)
            self._tokens -= 1
        yield


async def batch(way: Any, work: deque[PacedRequest], gateway: Gateway) -> None:
    """What one process does: workers that take the next request."""

    async def worker() -> None:
        while work:
            request = work.popleft()
            async with way.admit(request):
                await gateway.answer(request)

    await asyncio.gather(*(worker() for _ in range(way.workers)))


def plan(symbols: int, days: int, what: str = "TRADES") -> list[PacedRequest]:
    return [
        PacedRequest(f"S{symbol}", "SMART", what, 1, f"S{symbol} {day} {chunk} {what}")
        for symbol in range(symbols)
        for day in range(days)
        for chunk in range(CHUNKS_OF_A_DAY)
    ]


async def one_batch(make: Callable[[], Any], gateway: Gateway, days: int) -> int:
    work = deque(plan(4, days))
    units = len(work)
    await batch(make(), work, gateway)
    return units


async def bid_ask(make: Callable[[], Any], gateway: Gateway, days: int) -> int:
    work = deque(plan(2, days, "BID_ASK"))
    units = 2 * len(work)
    await batch(make(), work, gateway)
    return units


async def restarted(make: Callable[[], Any], gateway: Gateway, days: int) -> int:
    """Killed after 5 minutes, and started again at once."""
    work = deque(plan(4, days))
    first = asyncio.ensure_future(batch(make(), work, gateway))
    await asyncio.sleep(300)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    asked = len(gateway.sent_ns)
    units = asked + len(work)
    await batch(make(), work, gateway)
    return units


async def two_at_once(make: Callable[[], Any], gateway: Gateway, days: int) -> int:
    work = plan(4, days)
    half = len(work) // 2
    await asyncio.gather(
        batch(make(), deque(work[:half]), gateway),
        batch(make(), deque(work[half:]), gateway),
    )
    return len(work)


@dataclass(frozen=True)
class Result:
    """Of one way in one case: hours until the last request was sent, share of the budget, breaches."""

    hours: float
    share: float
    breaches: int


WAYS = {
    "our pacer": OurPacer,
    "sleep 10 s after each": lambda _: SleepTen(),
    "burst of 60, wait 600 s": lambda _: BurstThenWait(),
    "token bucket 60, 0.1/s": lambda _: TokenBucket(),
}
CASES = {
    "one batch": one_batch,
    "BID_ASK (counts twice)": bid_ask,
    "killed and started again": restarted,
    "two batches at once": two_at_once,
}


def measure(way: str, case: str, days: int) -> Result:
    gateway = Gateway(seed=1)
    with (
        tempfile.TemporaryDirectory(prefix="bench-pacing-") as folder,
        asyncio.Runner(loop_factory=SimulatedLoop) as runner,
    ):
        units = runner.run(CASES[case](lambda: WAYS[way](Path(folder)), gateway, days))
    took_s = (gateway.sent_ns[-1] - gateway.sent_ns[0]) / S
    # The vendor allows 60 at once, and 60 more each time that 600 s have passed.
    needed_s = (math.ceil(units / BUDGET) - 1) * BUDGET_S
    return Result(took_s / 3600, needed_s / took_s, gateway.breaches())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--days", type=int, default=15, help="days of each symbol (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a promise is not kept")
    options = parser.parse_args()
    began = time.perf_counter()
    results = {(way, case): measure(way, case, options.days) for case in CASES for way in WAYS}
    print(
        f"{options.days} days of one-second bars of 4 symbols (BID_ASK: 2), {CHUNKS_OF_A_DAY} requests a day; simulated"
    )
    for case in CASES:
        print(f"\n{case:28}{'hours':>8}{'budget used':>14}{'breaches':>10}")
        for way in WAYS:
            result = results[way, case]
            print(f"  {way:26}{result.hours:8.2f}{result.share:13.1%} {result.breaches:10}")
    ours = [results["our pacer", case] for case in CASES]
    share, breaches = min(result.share for result in ours), sum(result.breaches for result in ours)
    kept = share >= USED_AT_LEAST, breaches == 0
    words = ["PASS" if passed else "FAIL" for passed in kept]
    print(f"\n{words[0]}  our pacer uses {share:.1%} of the budget (promised: at least {USED_AT_LEAST:.0%})")
    print(f"{words[1]}  our pacer breaches the rules {breaches} times (promised: never)")
    print(f"({time.perf_counter() - began:.1f} s)")
    return 0 if all(kept) or not options.strict else 1


if __name__ == "__main__":
    sys.exit(main())

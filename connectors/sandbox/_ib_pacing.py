"""The vendor's pacing rules for historical data, judged exactly, on the times at which requests arrived.

Rules and figures: the broker's page "Historical Data Limitations". The ten-minute rule is for bars of 30 seconds or
less and head time stamps; the two short ones are applied to every size here, which is stricter than the vendor's page.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from connectors.sandbox._ib_bars_request import BarsQuery

IDENTICAL_S: Final = 15.0
BURST: Final = 6
BURST_S: Final = 2.0
MOST_IN_WINDOW: Final = 60
WINDOW_S: Final = 600.0
MOST_OPEN: Final = 50
BREACHES_UNTIL_THE_END: Final = 5

_SECOND_NS: Final = 1_000_000_000


class PacingWatch:
    """Counts requests of all clients, those that break a rule too.

    Args:
        speed: every window is so many times shorter; for tests.
        slack_s: real seconds by which every window is shorter still, for how late a busy gateway may read.
    """

    def __init__(self, speed: float = 1.0, slack_s: float = 0.0) -> None:
        self._identical_ns, self._burst_ns, self._window_ns = (
            max(0, round((window_s / speed - slack_s) * _SECOND_NS)) for window_s in (IDENTICAL_S, BURST_S, WINDOW_S)
        )
        self._identical: dict[tuple[object, ...], int] = {}
        self._bursts: dict[tuple[object, ...], deque[int]] = {}
        self._window: deque[tuple[int, int]] = deque()
        self._in_window = 0

    def breaches(self, query: BarsQuery, at_ns: int) -> list[tuple[str, str]]:
        """Count a request; the rules that it breaks, as kind and detail.

        Args:
            query: that came.
            at_ns: when, on a clock that only goes forward; not before the one of the last call.
        """
        found = [self._is_identical(query, at_ns), self._is_burst(query, at_ns), self._is_over(query, at_ns)]
        return [breach for breach in found if breach]

    def _is_identical(self, query: BarsQuery, at_ns: int) -> tuple[str, str] | None:
        seen = self._identical
        last_ns = seen.pop(query.identity, None)
        while seen and at_ns - next(iter(seen.values())) >= self._identical_ns:
            del seen[next(iter(seen))]
        seen[query.identity] = at_ns
        if last_ns is None or at_ns - last_ns >= self._identical_ns:
            return None
        return "pacing_identical", f"{query.named}: the same again after {_seconds(at_ns - last_ns)}"

    def _is_burst(self, query: BarsQuery, at_ns: int) -> tuple[str, str] | None:
        bursts = self._bursts
        times = bursts.pop(query.tick_type, None) or deque(maxlen=BURST)
        while bursts and at_ns - next(iter(bursts.values()))[-1] >= self._burst_ns:
            del bursts[next(iter(bursts))]
        times.append(at_ns)
        bursts[query.tick_type] = times
        if len(times) < BURST or at_ns - times[0] >= self._burst_ns:
            return None
        return "pacing_burst", f"{query.named}: {BURST} within {_seconds(at_ns - times[0])}"

    def _is_over(self, query: BarsQuery, at_ns: int) -> tuple[str, str] | None:
        if not query.is_small:
            return None
        while self._window and at_ns - self._window[0][0] >= self._window_ns:
            self._in_window -= self._window.popleft()[1]
        cost = 2 if query.what == "BID_ASK" else 1
        self._window.append((at_ns, cost))
        self._in_window += cost
        if self._in_window <= MOST_IN_WINDOW:
            return None
        return "pacing_window", f"{query.named}: {self._in_window} within {_seconds(at_ns - self._window[0][0])}"


def _seconds(ns: int) -> str:
    return f"{ns / _SECOND_NS:.3f} s"

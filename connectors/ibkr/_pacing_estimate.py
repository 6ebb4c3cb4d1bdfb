"""How long the pacing rules need for requests that are yet to be made; private to `pacing`, and pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from connectors.ibkr._pacing_rules import PacedRequest, PacingRules


def last_start_s(
    requests: Iterable[PacedRequest] | Mapping[PacedRequest, int],
    rules: PacingRules,
    *,
    used: Sequence[tuple[float, int]] = (),
    held_s: float = 0.0,
    all_sizes: bool = False,
) -> float:
    """Return the seconds until the last of the requests may be sent, each sent as early as the rules allow.

    Those that count in the budget go in the order given, the others beside them. No two are taken to be identical, and
    answers to take no time.

    Args:
        requests: One by one; or a sample of each kind and how many there are of it.
        rules: What is kept to.
        used: What counts in the budget now: (seconds until it counts no more, cost), first to leave first.
        held_s: Nothing that counts goes before this.
        all_sizes: All of them count.
    """
    leaves = [left_s for left_s, cost in used for _ in range(cost)][-rules.budget :]
    counting, others = _Lane(rules, leaves, held_s), _Lane(rules, None, 0.0)
    total = 0
    for request, number in requests.items() if isinstance(requests, Mapping) else _runs(requests):
        lane = counting if all_sizes or rules.counts_in_budget(request) else others
        lane.add(request, number)
        total += number
    messages_s = max(0, total - 1) // rules.messages * rules.messages_window_s
    return max(counting.last_s, others.last_s, messages_s)


def _runs(requests: Iterable[PacedRequest]) -> Iterator[tuple[PacedRequest, int]]:
    """Count requests of one kind in a row."""
    for _, run in groupby(requests, key=attrgetter("instrument", "exchange", "what_to_show", "bar_s")):
        first, *others = run
        yield first, 1 + len(others)


class _Lane:
    """Requests that go in order, but for those that the burst holds up, and the times at which they do."""

    def __init__(self, rules: PacingRules, leaves: list[float] | None, begin_s: float) -> None:
        self.last_s = 0.0
        self._rules = rules
        self._begin_s = begin_s
        # When each unit of the budget becomes free, in order.
        self._units = None if leaves is None else deque([0.0] * (rules.budget - len(leaves)) + leaves)
        self._bursts: dict[tuple[str, str, str], deque[float]] = {}

    def add(self, request: PacedRequest, number: int) -> None:
        """Let that many requests of one kind go."""
        rules, units, begin_s, cost = self._rules, self._units, self._begin_s, self._rules.cost(request)
        about = (request.instrument, request.exchange, request.what_to_show)
        burst = self._bursts.setdefault(about, deque([0.0] * rules.burst))
        at_s = 0.0
        for _ in range(number):
            at_s = max(begin_s, burst[cost - 1], 0.0 if units is None else units[cost - 1])
            for _ in range(cost):
                burst.popleft()
                burst.append(at_s + rules.burst_window_s)
                if units is not None:
                    units.popleft()
                    units.append(at_s + rules.budget_window_s)
        self.last_s = max(self.last_s, at_s)

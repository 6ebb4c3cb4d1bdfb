"""Which request comes next: the groups of a lane, some of them open at a time, their requests in turn.

A lane holds the groups whose requests wait for the same thing: small bars wait for the pacing budget, the others hardly
ever. So no lane holds up the other. A group that another batch works on is left to the end, and then waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from connectors.ibkr.bar_requests import BarsRequest
    from flows.bars_pieces import Group
    from flows.bars_plan import GroupPlan

logger = logging.getLogger(__name__)

BUSY_POLL_S: Final = 0.25
LONGEST_POLL_S: Final = 5.0
"""Another batch can be at work for hours: who waits for it looks ever less often, and at some groups only."""

_BUSY_AT_A_TIME: Final = 16


class GroupBusy(Exception):  # noqa: N818 - says what is the matter
    """Another batch works on the group."""


class Lane:
    """Hands out requests to the workers of one lane.

    Args:
        plans: its groups, in the order of the work.
        width: groups that are open at a time.
        open_group: claims a group; None when it needs nothing any more.
        close_group: gives up the claim of one that nobody works on and that has nothing more to ask.
        stopping: when it is set, nothing more is handed out.
    """

    def __init__(
        self,
        plans: Iterable[GroupPlan],
        width: int,
        open_group: Callable[[GroupPlan], Awaitable[Group | None]],
        close_group: Callable[[Group], Awaitable[None]],
        stopping: asyncio.Event,
    ) -> None:
        self._waiting = deque(plans)
        self._busy: list[GroupPlan] = []
        self._asking: deque[Group] = deque()
        self._width = width
        self._open_group = open_group
        self._close_group = close_group
        self._stopping = stopping
        self._one_at_a_time = asyncio.Lock()
        self._pause_s = BUSY_POLL_S

    async def next(self) -> tuple[Group, BarsRequest] | None:
        """The next request and its group, which counts it as open; None when there is nothing more to do.

        Raises:
            StoreError: a claim or the files of a group cannot be looked at.
        """
        async with self._one_at_a_time:
            while not self._stopping.is_set():
                await self._fill()
                while self._asking:
                    group = self._asking[0]
                    request = group.take()
                    if request is None:
                        self._asking.popleft()
                        # Two batches that wait for each other's groups must not keep what they are done with.
                        if not group.open:
                            await self._close_group(group)
                        break
                    self._asking.rotate(-1)
                    group.open += 1
                    return group, request
                else:
                    if not self._busy:
                        return None
                    await self._pause()
                    self._waiting.extend(self._busy[:_BUSY_AT_A_TIME])
                    del self._busy[:_BUSY_AT_A_TIME]
        return None

    async def _fill(self) -> None:
        while self._waiting and len(self._asking) < self._width and not self._stopping.is_set():
            plan = self._waiting.popleft()
            try:
                group = await self._open_group(plan)
            except GroupBusy:
                self._busy.append(plan)
                continue
            self._pause_s = BUSY_POLL_S
            if group is not None:
                self._asking.append(group)

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self._pause_s)
        self._pause_s = min(LONGEST_POLL_S, 1.5 * self._pause_s)

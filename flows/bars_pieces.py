"""The pieces of one group while they are downloaded: what is still out, what came in, which days are whole by now.

Bookkeeping of one event loop: no gateway, no disk, no waiting. Who asks and who publishes is in `bars_run` and
`bars_publish`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from connectors.ibkr.bar_requests import is_at_edge, oldest_day, requests_for
from connectors.store.bars import kind_text
from contracts.timestamps import ns_from_iso_utc
from flows.bars_judge import SETTLE_S

if TYPE_CHECKING:
    import asyncio
    import datetime as dt
    from collections.abc import Callable, Collection, Iterable

    import pyarrow as pa

    from connectors.ibkr.bar_requests import BarsRequest, DayWindow
    from connectors.ibkr.bars import BarsAnswer
    from contracts.layout import BarSize
    from flows.bars_plan import BarsScope, GroupPlan

_SETTLE_NS = SETTLE_S * 10**9


@dataclass(frozen=True)
class Part:
    """The bars of one window of a request.

    Attributes:
        bar_size: `1 hour`, `1 min` or `1 sec`.
        window: what was asked for of its day.
        table: `BAR_SCHEMA`, inside the window; may have no rows.
        asked_at_ns: when it was asked, nanoseconds since 1970 UTC.
        key: its name on the shelf.
        is_sandbox: the sandbox invented it.
    """

    bar_size: BarSize
    window: DayWindow
    table: pa.Table
    asked_at_ns: int
    key: str
    is_sandbox: bool

    @property
    def is_settled(self) -> bool:
        """Whether it was asked so long after its end that nothing more can come."""
        return self.asked_at_ns >= self.window.end_ns + _SETTLE_NS

    @property
    def is_proof(self) -> bool:
        """Whether the broker's having no bars would mean that there were none."""
        return bool(self.table.num_rows) or not is_at_edge(self.bar_size, self.window.day, self.asked_at_ns)


@dataclass
class Piece:
    """One day of a group.

    Attributes:
        window: what is needed of it.
        is_resumed: its file stays, and what comes is merged into it.
        parts: what came.
        is_over: something became of it, or is becoming.
    """

    window: DayWindow
    is_resumed: bool
    parts: list[Part] = field(default_factory=list)
    is_over: bool = False

    @property
    def day(self) -> dt.date:
        """The ET day."""
        return self.window.day

    @property
    def is_whole(self) -> bool:
        """Whether all that is needed came."""
        came_ns = sum(part.window.end_ns - part.window.start_ns for part in self.parts)
        return came_ns >= self.window.end_ns - self.window.start_ns

    @property
    def asked_at_ns(self) -> int:
        """When its oldest part was asked."""
        return min(part.asked_at_ns for part in self.parts)


class Group:
    """One claimed symbol and bar size at work.

    Args:
        plan: what it needs, as found after the claim.
        scope: what was asked for.
        release: gives the claim back.

    Attributes:
        open: requests that somebody works on.
        fetches: those that wait for the gateway.
    """

    def __init__(self, plan: GroupPlan, scope: BarsScope, release: Callable[[], None]) -> None:
        self.plan = plan
        self.release = release
        self.open = 0
        self.fetches: set[asyncio.Task[BarsAnswer]] = set()
        self._scope = scope
        self._pieces = {window.day: Piece(window, window.day in plan.resumed) for window in plan.windows}
        self._requests = iter(self.requests(plan.windows))

    @property
    def symbol(self) -> str:
        """Canonical."""
        return self.plan.symbol

    @property
    def bar_size(self) -> BarSize:
        """`1 hour`, `1 min` or `1 sec`."""
        return self.plan.bar_size

    @property
    def label(self) -> str:
        """Symbol and size, for messages."""
        return f"{self.symbol} {self.bar_size}"

    @property
    def is_done(self) -> bool:
        """Whether something became of every day."""
        return all(piece.is_over for piece in self._pieces.values())

    @property
    def left(self) -> list[dt.date]:
        """Days that nothing became of yet, in order."""
        return [day for day, piece in self._pieces.items() if not piece.is_over]

    def requests(self, windows: Collection[DayWindow]) -> Iterable[BarsRequest]:
        """The requests that bring some windows."""
        return requests_for(
            self.symbol,
            self.bar_size,
            windows,
            what_to_show=self._scope.what_to_show,
            use_rth=self._scope.use_rth,
            newest_first=self._scope.newest_first,
        )

    def take(self) -> BarsRequest | None:
        """The next request that is still of use; None when there is none."""
        return next((request for request in self._requests if self.needs(request.days)), None)

    def needs(self, days: Iterable[dt.date]) -> bool:
        """Whether one of some days is still wanted."""
        return any(not self._pieces[day].is_over for day in days)

    def forgotten(self, days: Iterable[dt.date], now_ns: int) -> list[dt.date]:
        """Those of some days that have passed out of the broker's reach."""
        oldest = oldest_day(self.bar_size, now_ns)
        return [day for day in days if day < oldest]

    def add(self, parts: Iterable[Part]) -> list[Piece]:
        """Take in what came; returns the days that are whole by that, each once and for good."""
        whole = []
        for part in parts:
            piece = self._pieces[part.window.day]
            if piece.is_over:
                continue
            piece.parts.append(part)
            if piece.is_whole:
                piece.is_over = True
                whole.append(piece)
        return whole

    def give_up(self, days: Iterable[dt.date] | None = None) -> list[dt.date]:
        """Want some days, or all, no longer; returns those that were wanted till now."""
        gone = [day for day in (self._pieces if days is None else days) if not self._pieces[day].is_over]
        for day in gone:
            self._pieces[day].is_over = True
            self._pieces[day].parts.clear()
        return gone

    def shelf_key(self, window: DayWindow) -> str:
        """The name of a window's answer on the shelf; who forces wants none that was not forced."""
        kind = kind_text(self._scope.what_to_show, self._scope.use_rth)
        forced = "|forced" if self._scope.force else ""
        return f"{self.symbol}|{self.bar_size}|{kind}|{window.start_ns}-{window.end_ns}{forced}"


def parts_of(group: Group, answer: BarsAnswer, *, is_sandbox: bool) -> list[Part]:
    """Cut the answer to a request into the parts of its windows."""
    table = answer.table
    ns = ns_from_iso_utc(table.column("timestamp"))
    parts = []
    for window in answer.request.windows:
        first, after = np.searchsorted(ns, (window.start_ns, window.end_ns))
        rows = table.slice(int(first), int(after - first))
        parts.append(Part(group.bar_size, window, rows, answer.asked_at_ns, group.shelf_key(window), is_sandbox))
    return parts


def reason_of(error: Exception, request: BarsRequest) -> str:
    """Why a request failed, without the request: what is told of it is told of days."""
    return str(error).removeprefix(f"{request}: ")

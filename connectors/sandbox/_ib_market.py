"""The invented market behind the sandbox gateway's depth: a random walk, and the operations that show it row by row.

`Market` is an order book somewhat deeper than what is shown; each `step` changes it and gives the operations that carry
the shown rows from before to after. `Rows` is the client's side of it: what a book must hold after these operations.
Nothing here knows sockets or time. No symbol's numbers resemble its real ones.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ADD: Final = 0
UPDATE: Final = 1
REMOVE: Final = 2
ASK: Final = 0
BID: Final = 1

Overflow = Literal["implicit", "explicit"]

SMART_VENUES: Final = ("ARCA", "BATS", "BYX", "DRCTEDGE", "EDGEA", "IEX", "ISLAND", "MEMX", "NYSE", "PEARL")
_MARKET_MAKERS: Final = {"SMART": SMART_VENUES, "ISLAND": ("NSDQ", "SBXA", "SBXB"), "NASDAQ": ("NSDQ", "SBXA", "SBXB")}

_HIDDEN_ROWS: Final = 3
_LOWEST_TICKS: Final = 200
_TICKS_PER_USD: Final = 100
_DROP: Final = 0.4
_LONGEST_SWEEP: Final = 4


class DepthOperation(NamedTuple):
    """One depth message without its request: side 0 ask and 1 bid, operation 0 add, 1 update and 2 remove.

    A remove carries price and size 0, as the vendor's does.
    """

    position: int
    operation: int
    side: int
    price: float
    size: float
    market_maker: str = ""


class Row(NamedTuple):
    """A row of a book."""

    price: float
    size: float
    market_maker: str = ""


def market_makers(exchange: str) -> tuple[str, ...]:
    """Who quotes on an exchange; empty for those whose depth comes without market makers, such as ARCA."""
    return _MARKET_MAKERS.get(exchange, ())


class Rows:
    """The rows a client must hold after the operations it was sent, at most `limit` on each side.

    An add shifts the rows below it down, and what goes beyond the limit is gone; a remove shifts them up; an update at
    the end appends. An operation on a row that cannot be is ignored.

    Attributes:
        ask: best first.
        bid: best first.
        limit: as given.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.ask: list[Row] = []
        self.bid: list[Row] = []

    def apply(self, operation: DepthOperation) -> None:
        """Carry out one operation."""
        if operation.side not in (ASK, BID):
            return
        rows = self.bid if operation.side else self.ask
        position, kind = operation.position, operation.operation
        row = Row(operation.price, operation.size, operation.market_maker)
        if kind == ADD and 0 <= position <= len(rows) and position < self.limit:
            rows.insert(position, row)
            del rows[self.limit :]
        elif kind == UPDATE and 0 <= position < len(rows):
            rows[position] = row
        elif kind == UPDATE and position == len(rows) < self.limit:
            rows.append(row)
        elif kind == REMOVE and 0 <= position < len(rows):
            del rows[position]

    def clear(self) -> None:
        """Empty both sides."""
        self.ask.clear()
        self.bid.clear()

    def inserts(self) -> list[DepthOperation]:
        """The adds that build these rows from nothing."""
        return [
            DepthOperation(at, ADD, side, *row)
            for side, rows in ((BID, self.bid), (ASK, self.ask))
            for at, row in enumerate(rows)
        ]

    def removes(self) -> list[DepthOperation]:
        """The removes that empty these rows, from the end."""
        return [
            DepthOperation(at, REMOVE, side, 0.0, 0, rows[at].market_maker)
            for side, rows in ((BID, self.bid), (ASK, self.ask))
            for at in reversed(range(len(rows)))
        ]


class _Quote:
    """One quote of the full book; the key sorts a side best first, equal prices in order of arrival."""

    __slots__ = ("key", "maker", "size", "ticks")

    def __init__(self, key: int, ticks: int, maker: str, size: int) -> None:
        self.key = key
        self.ticks = ticks
        self.maker = maker
        self.size = size


class Market:
    """A plausible order book that walks at random, the same for the same seed.

    Args:
        seed: any text.
        makers: who quotes; several may stand at one price. Empty: one row per price, without a name.
        rows: rows shown on each side.
        overflow: how an add into a full side is told: `explicit` removes the last row first, `implicit` lets it shift
            out.
        fair_ticks: where the price starts, in cents; None: drawn from the seed.
    """

    def __init__(
        self,
        seed: str,
        makers: Sequence[str] = SMART_VENUES,
        rows: int = 10,
        overflow: Overflow = "explicit",
        fair_ticks: int | None = None,
    ) -> None:
        self._random = random.Random(seed)  # noqa: S311 - invented quotes, no secret
        drawn_ticks = self._random.randrange(2_000, 50_000)
        self.fair_ticks = max(_LOWEST_TICKS, fair_ticks if fair_ticks is not None else drawn_ticks)
        self._makers = tuple(makers) or ("",)
        self._rows = rows
        self._explicit = overflow == "explicit"
        self._usual = rows + _HIDDEN_ROWS
        self._quotes: tuple[list[_Quote], list[_Quote]] = ([], [])
        for side in (BID, ASK):
            while len(self._quotes[side]) < self._usual:
                self._add(side)

    def shown(self) -> Rows:
        """The rows as they are to be seen now."""
        rows = Rows(self._rows)
        rows.ask = [self._row(quote) for quote in self._quotes[ASK][: self._rows]]
        rows.bid = [self._row(quote) for quote in self._quotes[BID][: self._rows]]
        return rows

    def opening(self) -> list[DepthOperation]:
        """The adds that a new subscription gets first."""
        return self.shown().inserts()

    def step(self) -> list[DepthOperation]:
        """Let something happen; the operations, at least one, are to be sent in this order."""
        operations: list[DepthOperation] = []
        while not operations:
            operations = self._happening()
        return operations

    def _happening(self) -> list[DepthOperation]:
        chance = self._random.random()
        side = self._random.getrandbits(1)
        quotes = self._quotes[side]
        if chance < 0.03:  # noqa: PLR2004 - shares of what happens, named by what follows
            return self._move()
        if chance < 0.036 and len(quotes) > 1:  # noqa: PLR2004 - likewise
            return self._sweep(side)
        if chance < 0.04 and quotes:  # noqa: PLR2004 - likewise
            return self._remove(side, len(quotes) - 1)
        if chance < 0.55 and quotes:  # noqa: PLR2004 - likewise
            return self._resize(side, self._somewhere(len(quotes)))
        wanted = _DROP + (self._usual - len(quotes)) * 0.15
        if not quotes or self._random.random() < wanted:
            return self._add(side)
        return self._remove(side, self._somewhere(len(quotes)))

    def _somewhere(self, length: int) -> int:
        """A row, more often near the top."""
        return min(length - 1, int(self._random.expovariate(3.0 / self._usual)))

    def _move(self) -> list[DepthOperation]:
        """The fair price steps, seldom jumps; quotes that would cross it go."""
        distance = self._random.choice((1, 1, 1, 1, 2, 5)) * self._random.choice((-1, 1))
        self.fair_ticks = max(_LOWEST_TICKS, self.fair_ticks + distance)
        operations: list[DepthOperation] = []
        for side in (BID, ASK):
            quotes = self._quotes[side]
            while quotes and (quotes[0].ticks - self.fair_ticks) * (1 if side else -1) >= 0:
                operations += self._remove(side, 0)
        return operations

    def _sweep(self, side: int) -> list[DepthOperation]:
        """Several rows go at once, from the top or from anywhere."""
        operations: list[DepthOperation] = []
        for _ in range(self._random.randint(2, _LONGEST_SWEEP)):
            if quotes := self._quotes[side]:
                operations += self._remove(side, self._random.choice((0, self._random.randrange(len(quotes)))))
        return operations

    def _resize(self, side: int, at: int) -> list[DepthOperation]:
        quote = self._quotes[side][at]
        quote.size = self._size()
        return [DepthOperation(at, UPDATE, side, *self._row(quote))] if at < self._rows else []

    def _add(self, side: int) -> list[DepthOperation]:
        quotes = self._quotes[side]
        away = 1 + int(self._random.expovariate(2.0 / self._usual))
        ticks = max(1, self.fair_ticks - away if side else self.fair_ticks + away)
        maker = self._random.choice(self._makers)
        for at, quote in enumerate(quotes):
            if quote.ticks == ticks and quote.maker == maker:
                return self._resize(side, at)
        key = -ticks if side else ticks
        at = bisect_right(quotes, key, key=lambda quote: quote.key)
        was_full = len(quotes) >= self._rows
        last = quotes[self._rows - 1].maker if was_full else ""
        quotes.insert(at, _Quote(key, ticks, maker, self._size()))
        if at >= self._rows:
            return []
        operations = [DepthOperation(at, ADD, side, *self._row(quotes[at]))]
        if was_full and self._explicit:
            operations.insert(0, DepthOperation(self._rows - 1, REMOVE, side, 0.0, 0, last))
        return operations

    def _remove(self, side: int, at: int) -> list[DepthOperation]:
        quotes = self._quotes[side]
        gone = quotes.pop(at)
        if at >= self._rows:
            return []
        operations = [DepthOperation(at, REMOVE, side, 0.0, 0, gone.maker)]
        if len(quotes) >= self._rows:
            # The row that was hidden below the last one comes into sight.
            operations.append(DepthOperation(self._rows - 1, ADD, side, *self._row(quotes[self._rows - 1])))
        return operations

    def _size(self) -> int:
        return 100 * (1 + int(self._random.expovariate(0.25)))

    @staticmethod
    def _row(quote: _Quote) -> Row:
        return Row(quote.ticks / _TICKS_PER_USD, quote.size, quote.maker)


def cycle(market: Market, length: int) -> list[DepthOperation]:
    """At least `length` operations that begin and end with the same rows, so that they can be repeated for ever."""
    begin = market.shown()
    operations: list[DepthOperation] = []
    while len(operations) < length:
        operations += market.step()
    return [*operations, *market.shown().removes(), *begin.inserts()]


def replayed(operations: Iterable[DepthOperation], limit: int) -> Rows:
    """The rows after these operations."""
    rows = Rows(limit)
    for operation in operations:
        rows.apply(operation)
    return rows

"""Depth subscriptions of the sandbox gateway: who has which line, what flows on it, and the rows its client must hold.

All of it runs in the gateway's event loop. Requests are read in `_ib_answers`; load mode is in `_ib_load`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from connectors.sandbox._ib_market import DepthOperation, Market, Overflow, Rows, market_makers
from connectors.sandbox._ib_records import SentDepth
from connectors.sandbox._ib_wire import error_text, frame

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Iterator

    from connectors.sandbox._ib_load import Load
    from connectors.sandbox._ib_records import Records
    from connectors.sandbox._ib_session import Session

SHORTEST_TICK_S: Final = 0.004
_LONGEST_TICK_S: Final = 0.1
_LONGEST_CATCH_UP_S: Final = 0.5


@dataclass(eq=False)
class Subscription:
    """One depth line of one client.

    Attributes:
        session: the connection it came on.
        request_id: its ticker id.
        symbol: of the instrument.
        exchange: `SMART` or a direct one.
        is_smart: isSmartDepth as asked for.
        rows: what the client must hold; its limit is what was asked for.
        makers: who quotes; empty: messages 12 without market maker.
        market: where generated messages come from; None until they do.
        is_halted: after 316: nothing flows, the line is used until it is cancelled.
        is_dead: its farm came back without it: nothing flows until a new request.
        is_loading: load mode is being prepared or running on it; nothing is generated meanwhile.
        load: once it runs.
        paced: messages due are counted from this loop time on, and how many were made since.
    """

    session: Session
    request_id: int
    symbol: str
    exchange: str
    is_smart: bool
    rows: Rows
    makers: tuple[str, ...]
    market: Market | None = None
    is_halted: bool = False
    is_dead: bool = False
    is_loading: bool = False
    load: Load | None = None
    paced: list[float] = field(default_factory=lambda: [0.0, 0])
    timer: asyncio.TimerHandle | None = None

    def encode(self, operations: Iterable[DepthOperation]) -> list[bytes]:
        """The frames of these operations on this subscription."""
        if not self.makers:
            return [
                frame(12, 1, self.request_id, at, kind, side, _decimal(price), _decimal(size))
                for at, kind, side, price, size, _ in operations
            ]
        smart = int(self.is_smart)
        return [
            frame(13, 1, self.request_id, at, maker, kind, side, _decimal(price), _decimal(size), smart)
            for at, kind, side, price, size, maker in operations
        ]


def _decimal(value: float) -> str:
    """A number as the vendor writes it: without a fraction when it has none."""
    return str(int(value)) if value == value // 1 else str(value)


class DepthLines:
    """Every depth subscription of the gateway.

    Args:
        loop: the gateway's.
        records: where sent messages go.
        seed: of the invented market.
        rate_per_s: generated messages per second and subscription; 0: none, and no book at the start.
        rows: rows per side whatever is asked for; None: as asked.
        overflow: how an add into a full side is told.

    Attributes:
        rate_per_s: for symbols without their own rate.
        is_paused: nothing flows on any line (1100, a broken farm, a gateway that hangs).
        silent: symbols on which nothing flows.
        all_silent: nothing flows for any symbol.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        records: Records,
        *,
        seed: int,
        rate_per_s: float,
        rows: int | None,
        overflow: Overflow,
    ) -> None:
        self._loop = loop
        self._records = records
        self._seed = seed
        self._rows = rows
        self._overflow = overflow
        self._rates: dict[str, float] = {}
        self._markets_made: dict[str, int] = {}
        self._fair_ticks: dict[str, int] = {}
        self._lines: dict[tuple[Session, int], Subscription] = {}
        self.rate_per_s = rate_per_s
        self.is_paused = False
        self.silent: set[str] = set()
        self.all_silent = False

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(list(self._lines.values()))

    def __contains__(self, line: object) -> bool:
        return line in self._lines.values()

    def get(self, session: Session, request_id: int) -> Subscription | None:
        """The subscription of a ticker id."""
        return self._lines.get((session, request_id))

    def of(self, symbol: str) -> list[Subscription]:
        """The subscriptions of a symbol.

        Raises:
            ValueError: there is none.
        """
        lines = [line for line in self._lines.values() if line.symbol == symbol]
        if not lines:
            raise ValueError(f"nothing is subscribed for {symbol}; wait for its depth request first")
        return lines

    def open(self, session: Session, request_id: int, symbol: str, exchange: str, rows: int, *, is_smart: bool) -> None:
        """Begin a subscription; with generated messages its book is sent as soon as anything flows."""
        makers = market_makers(exchange)
        line = Subscription(session, request_id, symbol, exchange, is_smart, Rows(rows), makers)
        self._lines[session, request_id] = line
        self.start_flow(line)

    def close(self, line: Subscription) -> None:
        """End a subscription: its line is free."""
        self._lines.pop((line.session, line.request_id), None)
        self.stop_flow(line)
        if line.load:
            line.load.stop()

    def cancel(self, line: Subscription, late_messages: int = 0) -> None:
        """The client's cancel; so many messages come late on purpose."""
        self.close(line)
        late: list[DepthOperation] = []
        while len(late) < late_messages:
            line.market = line.market or self.new_market(line)
            late += line.market.step()
        self.send(line, late[:late_messages], is_late=True)

    def close_all(self, session: Session | None = None) -> None:
        """End the subscriptions of a connection, or all of them."""
        for line in self:
            if session in (None, line.session):
                self.close(line)

    def rate_of(self, symbol: str) -> float:
        """Generated messages per second of a symbol."""
        return self._rates.get(symbol, self.rate_per_s)

    def set_rate(self, rate_per_s: float, symbol: str | None = None) -> None:
        """From now on so many generated messages; the ones that have none yet get their book first."""
        if symbol is None:
            self.rate_per_s = rate_per_s
            self._rates.clear()
        else:
            self._rates[symbol] = rate_per_s
        for line in self:
            if symbol in (None, line.symbol):
                self.stop_flow(line)
                self.start_flow(line)

    def new_market(self, line: Subscription) -> Market:
        """The next market of a symbol; it goes on at the price where the last one was."""
        number = self._markets_made.get(line.symbol, 0)
        self._markets_made[line.symbol] = number + 1
        return Market(
            f"{self._seed}:{line.symbol}:{number}",
            line.makers,
            self._rows or line.rows.limit,
            self._overflow,
            self._fair_ticks.get(line.symbol),
        )

    def start_flow(self, line: Subscription) -> None:
        """Make generated messages flow on a line from the rows of its market, if any are wanted."""
        if self.rate_of(line.symbol) <= 0 or line.is_halted or line.is_loading:
            return
        if self.is_flowing(line):
            self.show_market(line)
        line.paced = [self._loop.time(), 0]
        self._next_tick(line)

    def show_market(self, line: Subscription) -> Market:
        """Bring the client's rows to those of the line's market, which is made when there is none."""
        if line.market is None:
            line.market = self.new_market(line)
        shown = line.market.shown()
        if (shown.ask[: line.rows.limit], shown.bid[: line.rows.limit]) != (line.rows.ask, line.rows.bid):
            self.send(line, [*line.rows.removes(), *line.market.opening()])
        return line.market

    @staticmethod
    def stop_flow(line: Subscription) -> None:
        """No more generated messages on a line until `start_flow`."""
        if line.timer:
            line.timer.cancel()
            line.timer = None

    def _next_tick(self, line: Subscription) -> None:
        pause_s = min(_LONGEST_TICK_S, max(SHORTEST_TICK_S, 1 / self.rate_of(line.symbol)))
        line.timer = self._loop.call_later(pause_s, self._tick, line)

    def is_flowing(self, line: Subscription) -> bool:
        """Whether messages may come on a line now."""
        is_silent = self.is_paused or self.all_silent or line.symbol in self.silent
        return not (is_silent or line.is_halted or line.is_dead)

    def _tick(self, line: Subscription) -> None:
        rate = self.rate_of(line.symbol)
        now = self._loop.time()
        since, made = line.paced
        due = int((now - since) * rate - made)
        if not self.is_flowing(line) or due > rate * _LONGEST_CATCH_UP_S + 1:
            line.paced = [now, 0]
        elif line.market is None:
            self.show_market(line)
        elif due > 0:
            operations: list[DepthOperation] = []
            while len(operations) < due:
                operations += line.market.step()
            line.paced[1] += len(operations)
            self._fair_ticks[line.symbol] = line.market.fair_ticks
            self.send(line, operations)
        self._next_tick(line)

    def send(self, line: Subscription, operations: list[DepthOperation], *, is_late: bool = False) -> None:
        """Send operations on a line and keep the rows its client must hold."""
        if not operations:
            return
        if not is_late:
            for operation in operations:
                line.rows.apply(operation)
        data = b"".join(line.encode(operations))

        def written(at_ns: int) -> None:
            self._records.depth(
                [
                    SentDepth(
                        line.symbol,
                        line.request_id,
                        at_ns,
                        one.position,
                        one.market_maker if line.makers else "",
                        one.operation,
                        one.side,
                        one.price,
                        one.size,
                        is_late,
                    )
                    for one in operations
                ]
            )

        line.session.write(data, written)

    def script(self, symbol: str, operations: Iterable[DepthOperation]) -> None:
        """Send the operations of a script on every line of a symbol.

        Raises:
            ValueError: nothing is subscribed for the symbol.
        """
        wanted = list(operations)
        for line in self.of(symbol):
            self.send(line, wanted)

    def reset(self, line: Subscription, *, refill: bool = True) -> None:
        """317: the client's rows are gone; then the book comes afresh, a scripted one only with `refill`."""
        rows = self.held(line).inserts()
        line.rows.clear()
        line.session.error(line.request_id, 317, error_text(317))
        if line.market and not line.is_loading:
            self.show_market(line)
        elif line.is_loading or refill:
            self.send(line, rows)

    @staticmethod
    def held(line: Subscription) -> Rows:
        """The rows the client of a line must hold now."""
        if line.load:
            line.load.settle()
        return line.rows

    def halt(self, line: Subscription) -> None:
        """316; nothing more flows on the line, which stays used until it is cancelled."""
        line.is_halted = True
        self.stop_flow(line)
        if line.load:
            line.load.stop()
        line.rows.clear()
        line.session.error(line.request_id, 316, error_text(316))


def operation_of(values: Iterable[object]) -> DepthOperation:
    """A scripted operation: position, operation, side, price, size, and a market maker if there is one.

    Raises:
        ValueError: not five or six values of these kinds.
    """
    given = tuple(values)
    try:
        position, kind, side, price, size, *maker = given[:6]
        return DepthOperation(
            int(position),  # type: ignore[call-overload] # anything is tried, the error is caught
            int(kind),  # type: ignore[call-overload] # likewise
            int(side),  # type: ignore[call-overload] # likewise
            float(price),  # type: ignore[arg-type] # likewise
            float(size),  # type: ignore[arg-type] # likewise
            str(maker[0]) if maker else "",
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"a depth operation is position, operation, side, price, size[, market maker]: {error}"
        ) from None

"""Live capture of order books: the session that keeps a gateway connected and hands every depth message to a sink.

Reading the socket, the state of each symbol and the clock live elsewhere (`session`, `_lines`, `clock`); what becomes
of the messages is the sink's affair. Works in one event loop and never blocks it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from connectors.ibkr import library as libraries
from connectors.ibkr._hours import RegularHours
from connectors.ibkr._line import DepthSink, LineState
from connectors.ibkr._lines import DepthLines
from connectors.ibkr._wire import DepthWire
from connectors.ibkr.errors import (
    ClientIdsInUse,
    GatewayUnreachable,
    IbkrError,
    InvalidRequest,
    redact_accounts,
)
from connectors.ibkr.session import Backoff, GatewayAddress, GatewayConnection, GatewayInfo, connect
from contracts.errors import InvalidSymbol
from contracts.symbols import canonical_symbol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connectors.ibkr.clock import ReceiptClock
    from connectors.ibkr.library import Library

__all__ = ["CaptureOutcome", "DepthCapture", "DepthRequest", "DepthSink", "LineState", "capture_depth"]

_log = logging.getLogger(__name__)

SMART: Final = "SMART"
_TICK_S: Final = 0.1
_CLOCK_CHECK_S: Final = 1.0
_STEADY_S: Final = 10.0
_SAY_AGAIN_S: Final = 60.0
_GIVE_UP_TIMEOUTS: Final = 3
_DEPTH_MESSAGES: Final = ("12", "13")
_NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True)
class DepthRequest:
    """Whose books are captured.

    Attributes:
        symbols: Canonical, each once, in the order in which they get depth lines.
        levels: Rows per side to ask for.
        exchange: `SMART` for the consolidated book, or one exchange, e.g. `ISLAND`.
        currency: Of the instruments.
        max_lines: Depth requests that the account may have at once; further symbols wait.
        silence_s: Seconds without a message in regular hours after which a book is asked for anew.

    Raises:
        InvalidRequest: One of them cannot be.
    """

    symbols: Sequence[str]
    levels: int
    exchange: str = SMART
    currency: str = "USD"
    max_lines: int = 3
    silence_s: float = 60.0

    def __post_init__(self) -> None:
        for symbol in self.symbols:
            try:
                is_canonical = canonical_symbol(symbol) == symbol
            except InvalidSymbol as error:
                raise InvalidRequest(str(error)) from error
            if not is_canonical:
                raise InvalidRequest(f"{symbol!r} is not canonical: write {canonical_symbol(symbol)}")
        if not self.symbols or len(set(self.symbols)) < len(self.symbols):
            raise InvalidRequest(f"the symbols are {list(self.symbols)}: name at least one, and each once")
        if self.levels < 1 or self.max_lines < 1:
            raise InvalidRequest(f"levels is {self.levels}, max_lines {self.max_lines}: both are at least 1")
        if not (self.silence_s > 0 and math.isfinite(self.silence_s)):
            raise InvalidRequest(f"silence_s is {self.silence_s}: use a number above 0")
        if not self.exchange or not self.currency:
            raise InvalidRequest("the exchange or the currency is empty: use SMART and USD")

    @property
    def is_smart(self) -> bool:
        """Whether the consolidated book is asked for; a request must be cancelled with the same answer."""
        return self.exchange == SMART


@dataclass(frozen=True)
class CaptureOutcome:
    """How a capture stood when it ended.

    Attributes:
        states: By symbol, before the requests were cancelled.
        refusals: Why the gateway refused a symbol.
        reconnects: Connections after the first.
        gateway: The last one; None when there was no connection.
        lines: Depth requests at once, as learned from the gateway.
        unknown_messages: Depth messages of requests that were never made; not handed on.
    """

    states: dict[str, LineState]
    refusals: dict[str, str]
    reconnects: int
    gateway: GatewayInfo | None
    lines: int
    unknown_messages: int = 0


@dataclass
class _Progress:
    """What a capture counts."""

    connections: int = 0
    gateway: GatewayInfo | None = None
    client_id: int | None = None
    states: dict[str, LineState] = field(default_factory=dict)
    said: str = ""
    said_at_s: float = -math.inf


class DepthCapture:
    """One capture session over as many connections as it takes; `run` it once.

    Args:
        address: The gateway.
        request: Whose books.
        sink: Takes what is seen, called in the loop's thread.
        clock: Stamps it.
        end_ns: When to end, nanoseconds since 1970 UTC, exclusive.
        stop: Ends it earlier.
        library: `ib_insync` or `ib_async`; None takes the installed one.
        on_connected: Called after every handshake; what it raises ends the session.
        keep_trying: Go on until the end when there is no first connection.
        give_up_s: Otherwise give up after so many seconds; None is three times the address's time-out.
        is_market_open: Regular hours, asked about silent books; None looks XNYS up.
    """

    def __init__(
        self,
        address: GatewayAddress,
        request: DepthRequest,
        sink: DepthSink,
        *,
        clock: ReceiptClock,
        end_ns: int,
        stop: asyncio.Event,
        library: str | None = None,
        on_connected: Callable[[GatewayInfo], None] | None = None,
        keep_trying: bool = False,
        give_up_s: float | None = None,
        is_market_open: Callable[[int], bool] | None = None,
    ) -> None:
        self._address = address
        self._request = request
        self._clock = clock
        self._end_ns = end_ns
        self._stop = stop
        self._library_name = library
        self._on_connected = on_connected
        self._give_up_s = math.inf if keep_trying else give_up_s
        if self._give_up_s is None:
            self._give_up_s = _GIVE_UP_TIMEOUTS * address.connect_timeout_s
        hours = RegularHours()
        self._hours = hours if is_market_open is None else None
        self._progress = _Progress()
        self._backoff = Backoff()
        self._lines = DepthLines(
            request.symbols,
            sink,
            max_lines=request.max_lines,
            silence_s=request.silence_s,
            now_ns=clock.now_ns,
            is_market_open=is_market_open or hours.is_open,
        )

    def states(self) -> dict[str, LineState]:
        """How each symbol stands now, in the order given; also after the end."""
        return dict(self._progress.states) or self._lines.states()

    @property
    def reconnects(self) -> int:
        """Connections after the first, so far."""
        return max(0, self._progress.connections - 1)

    async def run(self) -> CaptureOutcome:
        """Capture until the end, the stop, or a failure; every request is cancelled and the socket closed then.

        Raises:
            GatewayUnreachable: No first connection came about in time, and it was not to keep trying.
            ClientIdsInUse: Likewise, because eight client ids are in use.
            GatewayTooOld: The gateway's protocol is too old.
            LibraryMissing: No client library is installed.
            Exception: Whatever the sink or `on_connected` raised.
        """
        library = libraries.load(self._library_name)
        loop = asyncio.get_running_loop()
        stopped = loop.create_task(self._stop.wait())
        helpers: list[asyncio.Task[Any]] = [stopped]
        if self._hours is not None and self._left_s() > self._request.silence_s:
            helpers.append(loop.create_task(self._load_hours(self._hours)))
        try:
            await self._run(library, stopped, loop.time())
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        if self._lines.failure is not None:
            raise self._lines.failure
        return CaptureOutcome(
            states=self.states(),
            refusals=dict(self._lines.refusals),
            reconnects=self.reconnects,
            gateway=self._progress.gateway,
            lines=self._lines.limit,
            unknown_messages=self._lines.unknown_messages,
        )

    async def _run(self, library: Library, stopped: asyncio.Task[Any], begun_s: float) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_over():
            try:
                connection = await self._connect(library, stopped)
            except (GatewayUnreachable, ClientIdsInUse) as error:
                left_s = self._give_up(error, begun_s)
                self._say(error)
                await self._pause(min(self._backoff.next_s(), left_s), stopped)
                continue
            if connection is None:
                break
            opened_s = loop.time()
            wire = DepthWire(connection, library, self._request, self._lines)
            try:
                self._begin(connection, wire)
                await self._serve(connection, stopped)
            finally:
                if not connection.gone.done():
                    self._progress.states = self._lines.states()
                    self._lines.close()
                wire.end()
                await connection.close()
            if loop.time() - opened_s >= _STEADY_S:
                self._backoff.reset()
            self._progress.client_id = connection.info.client_id + int(connection.is_id_busy)
            if not self._is_over():
                pause_s = self._backoff.next_s()
                _log.warning(
                    "%s: connection lost (%s), next try in %.1f s", self._address, connection.gone.result(), pause_s
                )
                await self._pause(pause_s, stopped)

    async def _connect(self, library: Library, stopped: asyncio.Task[Any]) -> GatewayConnection | None:
        """Connect; None when the session ended meanwhile."""
        attempt = asyncio.get_running_loop().create_task(
            connect(
                library,
                self._address,
                now_ns=self._clock.now_ns,
                first_id=self._progress.client_id,
                unread=self._unread,
            )
        )
        try:
            await asyncio.wait({attempt, stopped}, timeout=self._left_s(), return_when=asyncio.FIRST_COMPLETED)
            if attempt.done():
                return attempt.result()
        finally:
            if not attempt.done():
                attempt.cancel()
                await asyncio.wait({attempt})
                if not attempt.cancelled() and attempt.exception() is None:
                    await attempt.result().close()
        return None

    def _begin(self, connection: GatewayConnection, wire: DepthWire) -> None:
        progress, info = self._progress, connection.info
        progress.connections += 1
        progress.gateway = info
        progress.said = ""
        _log.info(
            "%s: connected with client id %d, server version %d", self._address, info.client_id, info.server_version
        )
        if connection.gone.done():
            # It was closed as soon as it was open; nothing can be asked of it.
            return
        self._check_clock()
        if self._on_connected is not None:
            self._on_connected(info)
        connection.ib.wrapper.updateMktDepthL2 = self._lines.depth_hook()
        self._lines.attach(wire, connection.accounts)
        connection.listen(on_error=self._guarded(self._lines.error), on_lost=self._guarded(self._lines.detach))

    def _check_clock(self) -> None:
        jump = self._clock.check()
        if jump is not None:
            self._lines.jump(jump)

    async def _pause(self, pause_s: float, stopped: asyncio.Task[Any]) -> None:
        """Wait, with an eye on the clock: the machine may sleep meanwhile, and the end must not come later for it."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + pause_s
        while (left_s := min(until_s - loop.time(), self._left_s())) > 0 and not self._is_over():
            await asyncio.wait({stopped}, timeout=min(left_s, _CLOCK_CHECK_S))
            self._check_clock()

    async def _serve(self, connection: GatewayConnection, stopped: asyncio.Task[Any]) -> None:
        loop = asyncio.get_running_loop()
        check_at_s = loop.time()
        while not self._is_over() and not connection.gone.done():
            if loop.time() >= check_at_s:
                check_at_s = loop.time() + _CLOCK_CHECK_S
                self._check_clock()
            connection.watch()
            self._lines.tick()
            timeout_s = min(_TICK_S, self._left_s())
            await asyncio.wait({connection.gone, stopped}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    def _give_up(self, error: IbkrError, begun_s: float) -> float:
        """Return the seconds for which to go on trying; raises the error when there are none."""
        if self._progress.connections or self._give_up_s is None:
            return math.inf
        left_s = self._give_up_s - (asyncio.get_running_loop().time() - begun_s)
        is_final = isinstance(error, ClientIdsInUse) and math.isfinite(self._give_up_s)
        if left_s <= 0 or is_final:
            raise error
        return left_s

    def _say(self, error: IbkrError) -> None:
        """Log a failed attempt; the same one once a minute."""
        now_s = asyncio.get_running_loop().time()
        if str(error) != self._progress.said or now_s - self._progress.said_at_s >= _SAY_AGAIN_S:
            self._progress.said, self._progress.said_at_s = str(error), now_s
            _log.warning("%s It is tried again.", error)

    def _guarded(self, react: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            try:
                react(*arguments)
            except Exception as error:  # noqa: BLE001 - the library would only log it
                self._lines.fail(error)

        return call

    def _unread(self, fields: list[str]) -> None:
        if fields and fields[0] in _DEPTH_MESSAGES and len(fields) > 2 and fields[2].isdigit():  # noqa: PLR2004 - its id
            self._guarded(self._lines.unreadable)(int(fields[2]))

    async def _load_hours(self, hours: RegularHours) -> None:
        try:
            # In a thread: the first question loads a calendar for a second.
            await asyncio.to_thread(hours.load, self._clock.now_ns(), self._end_ns)
        except Exception as error:  # noqa: BLE001 - a capture must not end for want of a calendar
            _log.warning("silent books are not noticed, for the calendar failed: %s", redact_accounts(repr(error)))

    def _left_s(self) -> float:
        return max(0.0, (self._end_ns - self._clock.now_ns()) / _NS_PER_S)

    def _is_over(self) -> bool:
        return (
            self._stop.is_set()
            or self._lines.failure is not None
            or self._lines.is_hopeless()
            or self._clock.now_ns() >= self._end_ns
        )


async def capture_depth(
    address: GatewayAddress,
    request: DepthRequest,
    sink: DepthSink,
    *,
    clock: ReceiptClock,
    end_ns: int,
    stop: asyncio.Event,
    **options: Any,
) -> CaptureOutcome:
    """Capture in one call; arguments, options and errors are those of `DepthCapture` and its `run`."""
    return await DepthCapture(address, request, sink, clock=clock, end_ns=end_ns, stop=stop, **options).run()

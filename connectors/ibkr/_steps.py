"""What can be done with the depth lines: asked for, released, declared blind, seen again, refused; and the hot path.

When any of it is done is decided in `_lines`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from connectors.ibkr._line import Line, LineState, backoff_s
from connectors.ibkr.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from connectors.ibkr._line import DepthSink, Wire
    from contracts.v1.gaps import GapCause

_log = logging.getLogger("connectors.ibkr.depth")

NS_PER_S: Final = 1_000_000_000
_STEADY_NS: Final = 60 * NS_PER_S
_DETAILS_NS: Final = 15 * NS_PER_S
_INFINITE: Final = float("inf")
_UNSET: Final = 2.0**63
"""Sizes from here on fit no file; they are the gateway's way to say that there is none."""


class LineSteps:
    """The lines of one session, over all of its connections.

    Args:
        symbols: Canonical, in the order in which they get lines.
        sink: Takes what is seen.
        max_lines: Depth requests at once.
        silence_s: Seconds without a message in regular hours after which a book is asked for again.
        now_ns: The session's clock.
        is_market_open: Whether regular hours are on at a moment.

    Attributes:
        failure: What the sink raised; the session must end.
        refusals: Why, by symbol.
        unknown_messages: Depth messages of requests that were never made.
        limit: Depth requests at once, as learned from the gateway.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        sink: DepthSink,
        *,
        max_lines: int,
        silence_s: float,
        now_ns: Callable[[], int],
        is_market_open: Callable[[int], bool],
    ) -> None:
        self._sink = sink
        self._max_lines = max_lines
        self._silence_s = silence_s
        self._now_ns = now_ns
        self._is_market_open = is_market_open
        self._lines = [Line(symbol, now_ns()) for symbol in symbols]
        self._wire: Wire | None = None
        self._accounts: Collection[str] = ()
        self._by_request: dict[int, Line] = {}
        self._by_details: dict[int, Line] = {}
        self._retired: dict[int, Line] = {}
        self._farms: dict[str, int] = {}
        self._warned: set[tuple[str, int]] = set()
        self._outage_ns: int | None = None
        self._last_id = self._unjudged_id = 0
        self._watch_from_ns = 0
        self._probe_at_ns = 0
        self._was_connected = False
        self._closed = False
        self.limit = max_lines
        self.refusals: dict[str, str] = {}
        self.failure: BaseException | None = None
        self.unknown_messages = 0

    def states(self) -> dict[str, LineState]:
        """How each symbol stands, in the order given."""
        return {
            line.symbol: line.state if self._was_connected or line.state == "refused" else "never_connected"
            for line in self._lines
        }

    def is_hopeless(self) -> bool:
        """Whether the gateway has refused every symbol."""
        return all(line.is_refused for line in self._lines)

    def depth_hook(self) -> Callable[..., None]:
        """Return the function that takes the depth messages: the arguments of `updateMktDepthL2`; it never raises."""
        # Locals of a closure: this runs for every message.
        line_of, now_ns, message = self._by_request.get, self._now_ns, self._sink.message

        def update_depth(
            request_id: int,
            position: int,
            market_maker: str,
            operation: int,
            side: int,
            price: float,
            size: float,
            _is_smart: bool = False,
        ) -> None:
            try:
                line = line_of(request_id)
                if line is None:
                    self._late(request_id)
                    return
                ns = now_ns()
                if not (
                    0 <= operation <= 2  # noqa: PLR2004 - add, update, remove
                    and 0 <= side <= 1
                    and position >= 0
                    and -_INFINITE < price < _INFINITE
                    and 0 <= size < _UNSET
                ):
                    self._sink.note(line.symbol, "unreadable")
                    return
                if line.is_blind:
                    self._see(line, ns)
                line.last_ns = ns
                if not message(line.symbol, ns, operation, side, position, price, size, market_maker):
                    self._overflow(line, ns)
            except Exception as error:  # noqa: BLE001 - the library would only log it and lose the message
                self.fail(error)

        return update_depth

    def unreadable(self, request_id: int) -> None:
        """A depth message that the client library could not read."""
        line = self._by_request.get(request_id)
        if line is not None:
            self._sink.note(line.symbol, "unreadable")

    def close(self) -> None:
        """Cancel every request; nothing is told to the sink from now on."""
        self._closed = True
        requests = list(self._by_request)
        self._by_request.clear()
        if self._wire is not None:
            for request_id in requests:
                self._wire.cancel(request_id)

    def fail(self, error: BaseException) -> None:
        """Remember what makes this session end; the first is kept."""
        self.failure = self.failure or error

    def _late(self, request_id: int) -> None:
        if self._closed:
            return
        line = self._retired.get(request_id)
        if line is None:
            self.unknown_messages += 1
            return
        self._sink.note(line.symbol, "late")
        if line.stale_id == request_id and self._wire is not None:
            # The gateway was believed to have dropped it; now a line is free.
            line.stale_id = None
            self._wire.cancel(request_id)
            self.limit = self._max_lines
            self._pump(self._now_ns())

    def _see(self, line: Line, ns: int) -> None:
        if line.is_held:
            return
        line.state = "live"
        line.seen_ns = ns
        line.is_blind = line.is_kept = False
        _log.info("%s: seen", line.symbol)
        self._sink.seen(line.symbol, ns)
        if self._outage_ns is not None:
            # What still comes during an outage is kept, but nobody knows what else there was.
            self._lose(line, ns, "disconnect", "the gateway has no connection to the broker", since_ns=ns, clear=False)

    def _overflow(self, line: Line, ns: int) -> None:
        self._release(line, cancel=True)
        line.needs_room = True
        self._lose(line, ns, "queue_drop", "the queue of the recorder is full", since_ns=ns)

    def _ask_again(self, line: Line, now_ns: int, detail: str, *, since_ns: int) -> None:
        self._release(line, cancel=True)
        self._lose(line, now_ns, "data_lost", detail, since_ns=since_ns)

    def _lose(
        self, line: Line, now_ns: int, cause: GapCause, detail: str, *, since_ns: int, clear: bool = True
    ) -> None:
        """Open a gap; an incident of the same kind while nothing was seen since is the same hole."""
        if line.is_blind and not line.is_held and line.cause == cause and not (clear and line.is_kept):
            return
        line.is_held = not clear and (line.is_kept or not line.is_blind)
        line.is_kept = line.is_held
        line.is_blind = True
        line.cause = cause
        since_ns = min(max(since_ns, line.seen_ns), now_ns)
        _log.warning("%s: not seen: %s: %s", line.symbol, cause, detail)
        self._sink.lost(line.symbol, now_ns, cause, detail, since_ns=since_ns, clear=clear)

    def _release(self, line: Line, *, cancel: bool) -> None:
        request_id, line.request_id = line.request_id, None
        if request_id is None:
            return
        del self._by_request[request_id]
        self._retired[request_id] = line
        line.state = "lost"
        if cancel and self._wire is not None:
            self._wire.cancel(request_id)

    def _pump(self, now_ns: int) -> None:
        """Ask for everything that may be asked for now."""
        wire = self._wire
        if wire is None or self._outage_ns is not None:
            return
        ahead = 0
        for line in self._lines:
            if line.is_refused or line.request_id is not None:
                continue
            is_due = now_ns >= line.retry_at_ns and not line.needs_room
            if line.instrument is None and line.details_id is None and is_due:
                self._ask_details(wire, line, now_ns)
            if len(self._by_request) + ahead >= self.limit:
                self._tell_queued(line, now_ns)
                continue
            if line.instrument is not None and is_due:
                request_id = self._last_id = wire.new_id()
                line.request_id = request_id
                line.asked_ns = now_ns
                line.state = "subscribing"
                self._by_request[request_id] = line
                wire.subscribe(request_id, line.instrument)
            elif not line.yields:
                # Its place is kept for it.
                ahead += 1

    def _tell_queued(self, line: Line, now_ns: int) -> None:
        if line.is_blind and line.cause == "connect" and not line.is_told and line.state == "queued":
            line.is_told = True
            detail = f"waits for a depth line, {self.limit} in use (IB_MAX_DEPTH_LINES)"
            _log.warning("%s: %s", line.symbol, detail)
            # The same hole, which now has a reason.
            self._sink.lost(line.symbol, now_ns, "connect", detail, since_ns=now_ns, clear=True)

    def _ask_details(self, wire: Wire, line: Line, now_ns: int) -> None:
        line.details_id = wire.new_id()
        line.details_until_ns = now_ns + _DETAILS_NS
        self._by_details[line.details_id] = line
        wire.request_details(line.details_id, line.symbol)

    def _retry_later(self, line: Line, now_ns: int, *, least_tries: int = 0) -> None:
        if now_ns - line.asked_ns > _STEADY_NS and line.instrument is not None:
            line.tries = 0
        line.tries = max(line.tries, least_tries)
        line.retry_at_ns = now_ns + int(backoff_s(line.tries) * NS_PER_S)
        line.tries += 1

    def _refuse(self, line: Line, now_ns: int, code: int | None, text: str) -> None:
        reason = str(refusal(line.symbol, code, text))
        line.stale_id = line.request_id
        self._release(line, cancel=False)
        if line.is_blind:
            # Of a book that was never seen it is the same hole, which now has a reason.
            self._sink.lost(line.symbol, now_ns, line.cause, reason, since_ns=now_ns, clear=True)
        else:
            self._lose(line, now_ns, "data_lost", reason, since_ns=now_ns)
        line.is_held = line.is_kept = False
        line.state = "refused"
        self.refusals[line.symbol] = reason
        _log.error("%s", reason)

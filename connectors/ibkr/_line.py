"""One symbol's depth line, and what its machine (`_lines`) needs of others: a sink for what is seen, a wire to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

if TYPE_CHECKING:
    from contracts.v1.gaps import GapCause

LineState = Literal["never_connected", "queued", "subscribing", "live", "lost", "refused"]
"""No connection yet; waiting for a line or for the instrument; asked for, nothing received yet; receiving; asked for
before and to be asked for again; refused by the gateway."""

_BACKOFF_CAP_S: Final = 30.0


class DepthSink(Protocol):
    """Takes what a capture sees. Times are nanoseconds since 1970 UTC and never decrease over all calls.

    While a gap that was opened without `clear` is open, messages may come: the book is not wholly seen, but not lost.
    """

    def message(
        self, symbol: str, ns: int, operation: int, side: int, level: int, price: float, size: float, market_maker: str
    ) -> bool:
        """Take one depth message: operation 0 add, 1 update, 2 remove; side 0 ask, 1 bid.

        Returns:
            False when there is no room; the message was not taken then.
        """
        ...

    def lost(self, symbol: str, ns: int, cause: GapCause, detail: str, *, since_ns: int, clear: bool) -> None:
        """From `since_ns` on the book is not, or not wholly, seen; `clear`: it is emptied at `ns`."""
        ...

    def seen(self, symbol: str, ns: int) -> None:
        """The book is seen again from `ns` on."""
        ...

    def note(self, symbol: str, kind: str) -> None:
        """Count something that is no message of the book: `late`, `unreadable`."""
        ...

    def has_room(self) -> bool:
        """Tell whether at least half of the queue is free."""
        ...


class Wire(Protocol):
    """What the lines ask of a connection. None of these raises; on a dead connection they do nothing."""

    def new_id(self) -> int:
        """Return a request id that was never used on this connection."""
        ...

    def request_details(self, request_id: int, symbol: str) -> None:
        """Ask for the instrument of a symbol."""
        ...

    def forget_details(self, request_id: int) -> None:
        """Wait no longer for an instrument."""
        ...

    def subscribe(self, request_id: int, instrument: Any) -> None:
        """Ask for the depth of an instrument."""
        ...

    def cancel(self, request_id: int) -> None:
        """End a depth request."""
        ...


class Line:
    """One symbol.

    Attributes:
        symbol: Canonical.
        state: See `LineState`.
        instrument: The library's own object; None until the gateway told it.
        request_id: Of the depth request; None when there is none.
        stale_id: Of one that the gateway is believed to have dropped.
        details_id: Of the question for the instrument.
        details_until_ns: When to stop waiting for its answer.
        asked_ns: When the depth was asked for last.
        last_ns: Receipt of the last message.
        seen_ns: When the last gap ended.
        retry_at_ns: Not to be asked for before.
        tries: Failed ones in a row.
        silences: Silent books in a row.
        needs_room: The recorder's queue must drain before.
        yields: Symbols behind it may take its place.
        is_blind: A gap is open.
        is_held: It is an outage's that goes on: what comes does not end it.
        is_kept: The gap left the book as it was.
        is_told: It was said that the symbol waits for a line.
        cause: Of the open gap.
    """

    __slots__ = (
        "asked_ns",
        "cause",
        "details_id",
        "details_until_ns",
        "instrument",
        "is_blind",
        "is_held",
        "is_kept",
        "is_told",
        "last_ns",
        "needs_room",
        "request_id",
        "retry_at_ns",
        "seen_ns",
        "silences",
        "stale_id",
        "state",
        "symbol",
        "tries",
        "yields",
    )

    def __init__(self, symbol: str, now_ns: int) -> None:
        self.symbol = symbol
        self.state: LineState = "queued"
        self.instrument: Any = None
        self.request_id: int | None = None
        self.stale_id: int | None = None
        self.details_id: int | None = None
        self.details_until_ns = 0
        self.asked_ns = 0
        self.last_ns = 0
        self.seen_ns = now_ns
        self.retry_at_ns = 0
        self.tries = 0
        self.silences = 0
        self.needs_room = False
        self.yields = False
        # Every session begins with a gap of its own, which the sink opened itself.
        self.is_blind = True
        self.is_held = False
        self.is_kept = False
        self.is_told = False
        self.cause: GapCause = "connect"

    @property
    def is_refused(self) -> bool:
        """The gateway will not give it."""
        return self.state == "refused"


def backoff_s(tries: int) -> float:
    """Seconds before the next try after so many in a row: 0, 1, 2, 4 and so on, at most 30."""
    return 0.0 if tries == 0 else min(_BACKOFF_CAP_S, 2.0 ** min(tries - 1, 10))

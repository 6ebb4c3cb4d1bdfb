"""What the sandbox gateway remembers: depth messages sent, depth requests, broken rules; and its log file."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter, deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

KEPT_SENT: Final = 250_000
KEPT_REQUESTS: Final = 100_000
_REQUESTS_PER_S: Final = 50
_SPANS_S: Final = (1, 2, 5, 10)
_SECOND_NS: Final = 1_000_000_000
_LATE_NS: Final = 200_000_000


class Violation(NamedTuple):
    """A rule of the vendor that a client broke.

    Attributes:
        kind: `rate` (more than 50 messages a second, see `RateWatch`), `depth_limit` (more depth lines than the account
            has), `cancel_mismatch` (a cancel with another isSmartDepth than its request), `unknown_cancel` (a cancel of
            no subscription), `duplicate_id` (a ticker id that is in use), `protocol` (bytes that are no TWS API); of
            historical data `pacing_identical` (the same again within 15 s), `pacing_burst` (six of an instrument,
            exchange and tick type within 2 s), `pacing_window` (more than 60 small ones within 600 s),
            `open_requests` (more than 50 open at once).
        detail: what came.
        at_ns: nanoseconds since 1970 UTC.
    """

    kind: str
    detail: str
    at_ns: int


class SentDepth(NamedTuple):
    """A depth message as it was given to the socket.

    Attributes:
        symbol: of the request.
        request_id: ticker id of the request.
        at_ns: nanoseconds since 1970 UTC.
        position: row, 0 is the best.
        market_maker: empty where depth comes without.
        operation: 0 add, 1 update, 2 remove.
        side: 0 ask, 1 bid.
        price: 0 for a remove.
        size: 0 for a remove.
        is_late: sent after the client cancelled the request.
    """

    symbol: str
    request_id: int
    at_ns: int
    position: int
    market_maker: str
    operation: int
    side: int
    price: float
    size: float
    is_late: bool = False


class DepthRequest(NamedTuple):
    """A depth request or its cancel as it came.

    Attributes:
        kind: `subscribe` or `cancel`.
        request_id: ticker id.
        symbol: of the subscription; empty for a cancel of none.
        exchange: `SMART` or a direct one.
        rows: rows asked for; 0 for a cancel.
        is_smart: isSmartDepth as sent.
        client_id: of the connection.
        answer: error code that it was answered with, 0 when it was carried out.
        at_ns: nanoseconds since 1970 UTC.
    """

    kind: str
    request_id: int
    symbol: str
    exchange: str
    rows: int
    is_smart: bool
    client_id: int
    answer: int
    at_ns: int


class BarsRequest(NamedTuple):
    """A request for historical bars or a head time stamp, or its cancel, as it came.

    Attributes:
        kind: `bars`, `head` or `cancel`.
        request_id: the client's.
        symbol: as written; of a cancel: of the request it met, empty when that was not open.
        exchange: likewise.
        bar_size: as written, empty where there is none, like the five below it.
        what_to_show: `TRADES` and so on.
        use_rth: regular hours alone.
        duration: as written.
        end: as written.
        client_id: of the connection.
        answer: error code that it was answered with at once; 0: it was open from then on.
        at_ns: when it was carried out, nanoseconds since 1970 UTC.
        arrived_ns: when it arrived, on the gateway's monotonic clock.
    """

    kind: str
    request_id: int
    symbol: str
    exchange: str
    bar_size: str = ""
    what_to_show: str = ""
    use_rth: bool = False
    duration: str = ""
    end: str = ""
    client_id: int = -1
    answer: int = 0
    at_ns: int = 0
    arrived_ns: int = 0


class SentBatch(NamedTuple):
    """Depth messages of load mode that were given to the socket at once.

    Attributes:
        symbol: of the request.
        request_id: ticker id of the request.
        first: number of the first message, counted from 0 within this load.
        messages: how many.
        at_ns: nanoseconds since 1970 UTC.
    """

    symbol: str
    request_id: int
    first: int
    messages: int
    at_ns: int


class RateWatch:
    """Notices more than 50 messages a second, once per excess.

    Counted over 1, 2, 5 and 10 seconds, each less what messages may be late: what a client sent in one second and the
    next can arrive closer together.
    """

    def __init__(self) -> None:
        self._times: deque[int] = deque(maxlen=_REQUESTS_PER_S * _SPANS_S[-1] + 1)
        self._is_over = False

    def is_exceeded_by(self, at_ns: int) -> bool:
        """Count a message; whether it is the one that breaks the rule."""
        times = self._times
        times.append(at_ns)
        is_over = any(
            len(times) > _REQUESTS_PER_S * span_s
            and at_ns - times[-1 - _REQUESTS_PER_S * span_s] < span_s * _SECOND_NS - _LATE_NS
            for span_s in _SPANS_S
        )
        was_over, self._is_over = self._is_over, is_over
        return is_over and not was_over


class Records:
    """Written by the gateway's loop, read from any thread; the lists only grow, up to a bound.

    Args:
        log: a file that gets one JSON line per client request and per fault; names, ids and symbols only.

    Attributes:
        violations: oldest first.
        sent: depth messages outside load mode, oldest first; of more than `KEPT_SENT` the older half is dropped.
        depth_requests: oldest first.
        bars_requests: oldest first.
        batches: of load mode, oldest first.
        sent_counts: every depth message by symbol, those of load mode included.
        requests: every client message by name.
    """

    def __init__(self, log: Path | None = None) -> None:
        self.violations: list[Violation] = []
        self.sent: list[SentDepth] = []
        self.depth_requests: list[DepthRequest] = []
        self.bars_requests: list[BarsRequest] = []
        self.batches: list[SentBatch] = []
        self.sent_counts: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._log = None if log is None else os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def close(self) -> None:
        """Close the log; later lines are dropped."""
        with self._lock:
            log, self._log = self._log, None
            if log is not None:
                os.close(log)

    def violation(self, kind: str, detail: str) -> None:
        """Remember a broken rule."""
        _keep(self.violations, Violation(kind, detail, time.time_ns()), KEPT_REQUESTS)
        self.log(violation=kind, detail=detail)

    def depth_request(self, request: DepthRequest) -> None:
        """Remember a depth request or cancel."""
        _keep(self.depth_requests, request, KEPT_REQUESTS)

    def bars_request(self, request: BarsRequest) -> None:
        """Remember a historical request or its cancel."""
        _keep(self.bars_requests, request, KEPT_REQUESTS)

    def depth(self, messages: list[SentDepth]) -> None:
        """Remember depth messages of one symbol."""
        self.sent += messages
        if len(self.sent) > KEPT_SENT:
            del self.sent[: KEPT_SENT // 2]
        self.sent_counts[messages[0].symbol] += len(messages)

    def batch(self, batch: SentBatch) -> None:
        """Remember messages of load mode."""
        _keep(self.batches, batch, KEPT_SENT)
        self.sent_counts[batch.symbol] += batch.messages

    def log(self, **what: object) -> None:
        """Append a line to the log, if there is one."""
        if self._log is None:
            return
        line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="microseconds"), **what}) + "\n"
        with self._lock:
            if self._log is not None:
                os.write(self._log, line.encode())


def _keep(items: list[T], item: T, most: int) -> None:
    items.append(item)
    if len(items) > most:
        del items[: most // 2]

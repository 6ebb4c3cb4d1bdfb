"""Requests for bars over one connection: each gets an id and a future, and whatever the gateway says of it ends that.

Which request is made when, and what becomes of an outcome, is decided in `bars`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from connectors.ibkr.errors import CodeRule, bars_rule_for, redact_accounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.ibkr.bar_requests import BarsRequest
    from connectors.ibkr.library import Library
    from connectors.ibkr.session import GatewayConnection

_log = logging.getLogger("connectors.ibkr.bars")

_BARS_MESSAGE: Final = 17
_EPOCH_SECONDS: Final = 2
_NO_REQUEST: Final = -1


@dataclass(frozen=True)
class Answered:
    """The gateway sent bars: the fields of message 17, unread; they are complete."""

    fields: list[str]


@dataclass(frozen=True)
class Refused:
    """The gateway sent a code instead."""

    rule: CodeRule
    code: int
    text: str


@dataclass(frozen=True)
class Lost:
    """The connection, or the gateway's own to the broker, went while the request was open."""

    why: str


Outcome = Answered | Refused | Lost


class BarsLink:
    """One open connection as requests for bars need it.

    Args:
        connection: Open; its messages are taken from here on.
        library: Makes the instruments.
        on_change: Called when `is_usable` has changed.

    Attributes:
        outage_since_s: Since when the gateway has no way to the broker, by the loop's clock; None while it has one.
        was_answered: Whether any request was answered, by bars or by a code.
    """

    def __init__(self, connection: GatewayConnection, library: Library, *, on_change: Callable[[], None]) -> None:
        self.outage_since_s: float | None = None
        self.was_answered = False
        self._connection = connection
        self._client = connection.ib.client
        self._library = library
        self._on_change = on_change
        self._open: dict[int, asyncio.Future[Outcome]] = {}
        self._said: set[int] = set()
        # All requests are ours; the library would not count while a connection is just ending.
        self._ids = count(int(self._client.getReqId()) if self._client.isReady() else 1)
        # The library would make an object of each bar; and the times of its parser can be without a zone.
        self._client.decoder.handlers[_BARS_MESSAGE] = self._bars
        connection.listen(on_error=self._error, on_lost=self._lost)

    @property
    def is_usable(self) -> bool:
        """Whether a request may be answered."""
        return self.outage_since_s is None and not self._connection.gone.done()

    def ask(self, request: BarsRequest) -> tuple[int, asyncio.Future[Outcome]]:
        """Send a request; the future has the outcome, unless `forget` comes first."""
        request_id = next(self._ids)
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._open[request_id] = outcome
        # The broker writes class shares with a blank.
        instrument = self._library.Stock(request.symbol.replace("-", " "), request.exchange, request.currency)
        self._connection.send(
            self._client.reqHistoricalData,
            request_id,
            instrument,
            request.wire_end,
            request.duration,
            request.wire_bar_size,
            request.what_to_show,
            int(request.use_rth),
            _EPOCH_SECONDS,
            False,
            [],
        )
        return request_id, outcome

    def forget(self, request_id: int) -> None:
        """Wait no longer for a request: it is cancelled when it is still open. What comes of it is not heard."""
        if self._open.pop(request_id, None) is not None and self.is_usable:
            self._connection.send(self._client.cancelHistoricalData, request_id)

    def end(self, why: str) -> None:
        """End all open requests; the connection is going."""
        for outcome in self._open.values():
            _settle(outcome, Lost(why))
        self._open.clear()

    def _bars(self, fields: list[str]) -> None:
        outcome = self._open.pop(int(fields[1]), None)
        if outcome is not None:
            self.was_answered = True
            _settle(outcome, Answered(fields))

    def _error(self, request_id: int, code: int, text: str) -> None:
        text = redact_accounts(text, self._connection.accounts)
        rule = bars_rule_for(code, text)
        if rule.kind == "outage":
            self._outage(code, text)
        elif rule.kind in ("restored_lost", "restored_kept"):
            self._restored(code, text)
        elif rule.kind in ("info", "warning", "farm_ok", "farm_broken") or request_id not in self._open:
            self._say(request_id, rule, code, text)
        else:
            self.was_answered = True
            _settle(self._open.pop(request_id), Refused(rule, code, text))

    def _outage(self, code: int, text: str) -> None:
        if self.outage_since_s is not None:
            return
        _log.warning("the gateway lost the broker (%d: %s): bars are asked for again when it is back", code, text)
        for request_id in list(self._open):
            # Without the broker it may stay open at the gateway for ever, and count among those open.
            self._connection.send(self._client.cancelHistoricalData, request_id)
        self.outage_since_s = asyncio.get_running_loop().time()
        self.end(f"error {code}: {text}")
        self._on_change()

    def _restored(self, code: int, text: str) -> None:
        if self.outage_since_s is not None:
            _log.warning("the gateway has the broker again (%d: %s)", code, text)
            self.outage_since_s = None
            self._on_change()

    def _say(self, request_id: int, rule: CodeRule, code: int, text: str) -> None:
        # What concerns one request that is over, or was said before, is no news.
        is_news = request_id == _NO_REQUEST and rule.kind not in ("info", "farm_ok") and code not in self._said
        self._said.add(code)
        _log.log(logging.WARNING if is_news else logging.DEBUG, "code %d, %s: %s", code, rule.meaning, text)

    def _lost(self, _since_ns: int, reason: str) -> None:
        self.end(reason)
        self._on_change()


def _settle(future: asyncio.Future[Any], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)

"""Historical bars from a gateway: a session that stays connected and brings the bars of one request after another.

One request in, one checked table out, or an error that says what to do. Which requests there are is decided by
`bar_requests` and the plan, when one may be sent by `pacing`; what becomes of a table is the caller's affair. Works in
one event loop and never blocks it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING

from connectors.ibkr import library as libraries
from connectors.ibkr._bars_answer import BarsAnswer
from connectors.ibkr._bars_keeper import LinkKeeper
from connectors.ibkr._bars_link import Outcome, Refused
from connectors.ibkr._bars_tries import Tries, TryRules
from connectors.ibkr.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from connectors.ibkr.bar_requests import BarsRequest
    from connectors.ibkr.pacing import Pacer
    from connectors.ibkr.session import GatewayAddress, GatewayInfo

__all__ = ["BarsAnswer", "BarsSession"]

_log = logging.getLogger(__name__)


class BarsSession:
    """Brings bars over as many connections as it takes; one per run, `async with`, any number of `fetch` at once.

    The first `fetch` connects. A connection that is lost is made anew while somebody waits for bars; what was open is
    asked again. When nothing could be reached for `give_up_s`, all that wait and all that come get the same error.

    Args:
        address: The gateway.
        pacer: Lets requests through.
        library: `ib_insync` or `ib_async`; None takes the installed one.
        timeout_s: Longest wait for one answer.
        attempts: How often a request is asked that is not answered, or cannot be answered now.
        backoff_s: Pause before the second attempt, then doubled, shortened by up to a quarter.
        again_s: The same when the gateway said that it cannot answer now.
        give_up_s: Seconds without a usable connection after which the session ends; None is three times the
            address's time-out before the first connection, 600 s later.
        on_connected: Called after every handshake; what it raises ends the session.
        now_ns: The time, nanoseconds since 1970 UTC; decides which bars have ended.

    Raises:
        InvalidRequest: One of the numbers cannot be.
    """

    def __init__(
        self,
        address: GatewayAddress,
        pacer: Pacer,
        *,
        library: str | None = None,
        timeout_s: float = 60.0,
        attempts: int = 3,
        backoff_s: float = 1.0,
        again_s: float = 15.0,
        give_up_s: float | None = None,
        on_connected: Callable[[GatewayInfo], None] | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        pauses_s = (backoff_s, again_s, give_up_s or 0.0)
        if attempts < 1 or not (timeout_s > 0 and math.isfinite(timeout_s)) or not min(pauses_s) >= 0:
            raise InvalidRequest(
                f"attempts is {attempts}, timeout_s {timeout_s}, backoff_s {backoff_s}, again_s {again_s}, give_up_s "
                f"{give_up_s}: use at least 1 attempt, a time-out above 0, and pauses of 0 or more"
            )
        self._address = address
        self._pacer = pacer
        self._library_name = library
        self._rules = TryRules(timeout_s, attempts, backoff_s, again_s)
        self._give_up_s = give_up_s
        self._on_connected = on_connected
        self._now_ns = now_ns
        self._keeper: LinkKeeper | None = None
        self._requests_sent = 0
        self._violations = 0
        self._waited_s = 0.0

    @property
    def gateway(self) -> GatewayInfo | None:
        """What the last connected gateway said of itself; None before the first connection."""
        return None if self._keeper is None else self._keeper.gateway

    @property
    def reconnects(self) -> int:
        """Connections after the first, so far."""
        return 0 if self._keeper is None else max(0, self._keeper.connections - 1)

    @property
    def requests_sent(self) -> int:
        """Requests sent so far, each try counted."""
        return self._requests_sent

    @property
    def pacing_waits(self) -> int:
        """How often the gateway said that it was asked too often."""
        return self._violations

    @property
    def pacing_wait_s(self) -> float:
        """Seconds by the pacer's clock that requests waited to be let through, summed over requests."""
        return self._waited_s

    async def __aenter__(self) -> Self:
        """Load the library; nothing is connected yet.

        Raises:
            LibraryMissing: No client library is installed.
        """
        self._keeper = LinkKeeper(
            libraries.load(self._library_name),
            self._address,
            give_up_s=self._give_up_s,
            on_connected=self._on_connected,
        )
        self._keeper.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection; a `fetch` that still waits fails."""
        if self._keeper is not None:
            await self._keeper.stop()

    async def fetch(self, request: BarsRequest) -> BarsAnswer:
        """Bring the bars of one request; waits for pacing and for the gateway.

        Pacing violations and lost connections are waited out, and count as no attempt. Cancelling it cancels the
        request at the gateway.

        Raises:
            InstrumentUnknown: The gateway knows no such instrument, or several.
            NoPermission: The account may not see its data.
            BarsRefused: The gateway refuses the request; its text is in the message.
            BarsTimeout: No answer came, as often as was tried.
            BarsUnavailable: The gateway could not answer now, as often as was tried, or was lost over it ten times.
            BadAnswer: What came cannot be true, twice.
            GatewayUnreachable: Nothing could be reached for too long; ends the session.
            ClientIdsInUse: Likewise, because eight client ids are in use.
            GatewayTooOld: The gateway's protocol is too old; ends the session.
            IbkrError: The session was closed.
            Exception: Whatever `on_connected` raised.
            RuntimeError: The session was never entered.
        """
        if self._keeper is None:
            raise RuntimeError("enter the session first: `async with BarsSession(...) as session`")
        tries = Tries(request, self._rules)
        while True:
            asked_at_ns, outcome = await self._ask(self._keeper, request)
            if isinstance(outcome, Refused) and outcome.rule.kind == "pacing":
                continue
            judged = tries.judge(outcome, asked_at_ns)
            if isinstance(judged, BarsAnswer):
                return judged
            await asyncio.sleep(judged)

    async def _ask(self, keeper: LinkKeeper, request: BarsRequest) -> tuple[int, Outcome | None]:
        """Ask once; when it was sent, and the outcome, None when its time ran out."""
        while True:
            await keeper.wait()
            async with self._pacer.admit(request.paced) as waited_s:
                self._waited_s += waited_s
                link = keeper.usable()
                if link is None:
                    # Lost while it waited to be let through: nothing was asked.
                    continue
                self._requests_sent += 1
                asked_at_ns = self._now_ns()
                request_id, future = link.ask(request)
                try:
                    await asyncio.wait({future}, timeout=self._rules.timeout_s)
                finally:
                    link.forget(request_id)
                outcome = future.result() if future.done() else None
                if isinstance(outcome, Refused) and outcome.rule.kind == "pacing":
                    self._violations += 1
                    self._pacer.violated(request.paced)
                    _log.info("%s: asked too often (%s), it waits and is asked again", request, outcome.text)
                return asked_at_ns, outcome

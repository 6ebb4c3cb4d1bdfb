"""Keeps a gateway connected while somebody wants bars: connects late, anew after a loss, and gives up in the end."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, Final

from connectors.ibkr._bars_link import BarsLink
from connectors.ibkr.errors import ClientIdsInUse, GatewayUnreachable, IbkrError
from connectors.ibkr.session import Backoff, GatewayAddress, GatewayConnection, GatewayInfo, connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.ibkr.library import Library

_log = logging.getLogger("connectors.ibkr.bars")

_GIVE_UP_TIMEOUTS: Final = 3
_GIVE_UP_LATER_S: Final = 600.0
_LONGEST_OUTAGE_S: Final = 120.0
_STEADY_S: Final = 10.0
_TICK_S: Final = 0.25
_SAY_AGAIN_S: Final = 60.0


class LinkKeeper:
    """One usable link at a time; `start` it, `stop` it.

    Args:
        library: The client library.
        address: The gateway.
        give_up_s: Seconds without a usable link, while one is wanted, after which it fails for good; None is three
            times the address's time-out before the first connection, 600 s later.
        on_connected: Called after every handshake; what it raises fails the keeper.

    Attributes:
        gateway: What the last connected gateway said of itself.
        connections: How many there were.
    """

    def __init__(
        self,
        library: Library,
        address: GatewayAddress,
        *,
        give_up_s: float | None,
        on_connected: Callable[[GatewayInfo], None] | None,
    ) -> None:
        self.gateway: GatewayInfo | None = None
        self.connections = 0
        self._library = library
        self._address = address
        self._give_up_s = give_up_s
        self._on_connected = on_connected
        self._link: BarsLink | None = None
        self._client_id: int | None = None
        self._failure: Exception | None = None
        self._backoff = Backoff()
        self._blind_since_s: float | None = None
        self._said = ""
        self._said_at_s = -math.inf
        # Set while there is a usable link, and for good when there never will be one.
        self._ready = asyncio.Event()
        # Set while somebody waits for one.
        self._wanted = asyncio.Event()
        self._waiting = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; nothing is connected before somebody wants a link."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Close the connection; who waits for a link fails."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._fail(IbkrError("the session of bars is closed"))

    def usable(self) -> BarsLink | None:
        """Return the link when it can be used now."""
        return self._link if self._link is not None and self._link.is_usable else None

    async def wait(self) -> None:
        """Wait until there is a usable link.

        Raises:
            GatewayUnreachable: There was none for too long.
            ClientIdsInUse: Likewise, because the client ids are in use.
            GatewayTooOld: The gateway's protocol is too old.
            IbkrError: The keeper was stopped.
            Exception: Whatever `on_connected` raised.
        """
        self._waiting += 1
        self._wanted.set()
        try:
            while self._failure is None and self.usable() is None:
                await self._ready.wait()
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._wanted.clear()
        if self._failure is not None:
            # Many get the same error; without this each would lengthen its traceback.
            raise self._failure.with_traceback(None)

    async def _run(self) -> None:
        try:
            while True:
                if not self._wanted.is_set():
                    self._blind_since_s = None
                await self._wanted.wait()
                await self._serve(await self._connect())
        except Exception as error:  # noqa: BLE001 - handed to everybody who waits
            self._fail(error)

    async def _connect(self) -> GatewayConnection:
        while True:
            left_s = self._left_s()
            try:
                return await connect(self._library, self._address, now_ns=time.monotonic_ns, first_id=self._client_id)
            except (GatewayUnreachable, ClientIdsInUse) as error:
                if left_s <= 0:
                    raise
                self._say(str(error), f"It is tried again for {left_s:.0f} s.")
            await asyncio.sleep(min(self._backoff.next_s(), left_s))

    async def _serve(self, connection: GatewayConnection) -> None:
        opened_s = asyncio.get_running_loop().time()
        link = BarsLink(connection, self._library, on_change=self._tell)
        try:
            self._connected(connection.info)
            self._link = link
            self._tell()
            while not connection.gone.done():
                await asyncio.wait({connection.gone}, timeout=_TICK_S)
                connection.watch()
                self._watch(link, connection, opened_s)
        finally:
            self._link = None
            self._tell()
            link.end("the session ended")
            await connection.close()
        self._client_id = connection.info.client_id + int(connection.is_id_busy)
        if asyncio.get_running_loop().time() - opened_s >= _STEADY_S:
            self._backoff.reset()
        lost, left_s = f"{self._address}: connection lost ({connection.gone.result()})", self._left_s()
        if left_s <= 0:
            raise GatewayUnreachable(f"{lost}, and so were those before it. Is TWS or IB Gateway well, and logged in?")
        pause_s = min(self._backoff.next_s(), left_s)
        self._say(lost, f"Next try in {pause_s:.1f} s.")
        await asyncio.sleep(pause_s)

    def _connected(self, info: GatewayInfo) -> None:
        self.connections += 1
        self.gateway = info
        self._said = ""
        _log.info(
            "%s: connected with client id %d, server version %d", self._address, info.client_id, info.server_version
        )
        if self._on_connected is not None:
            self._on_connected(info)

    def _watch(self, link: BarsLink, connection: GatewayConnection, opened_s: float) -> None:
        now_s = asyncio.get_running_loop().time()
        if link.outage_since_s is None:
            if now_s - opened_s >= _STEADY_S or link.was_answered:
                self._blind_since_s = None
        elif self._wanted.is_set() and self._left_s() <= 0:
            raise GatewayUnreachable(
                f"{self._address}: the gateway has had no way to the broker for {now_s - link.outage_since_s:.0f} s. "
                "Is TWS or IB Gateway logged in, and the broker not in its nightly reset?"
            )
        elif now_s - link.outage_since_s >= _LONGEST_OUTAGE_S:
            # Its end may never be told; a new connection shows how things are.
            connection.abort(f"the gateway had no way to the broker for {_LONGEST_OUTAGE_S:.0f} s")

    def _left_s(self) -> float:
        """Seconds until the keeper gives up; begins to count when it is first asked."""
        now_s = asyncio.get_running_loop().time()
        if self._blind_since_s is None:
            self._blind_since_s = now_s
        first_s = _GIVE_UP_TIMEOUTS * self._address.connect_timeout_s
        limit_s = self._give_up_s if self._give_up_s is not None else _GIVE_UP_LATER_S if self.connections else first_s
        return limit_s - (now_s - self._blind_since_s)

    def _tell(self) -> None:
        if self._failure is not None or self.usable() is not None:
            self._ready.set()
        else:
            self._ready.clear()

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._tell()

    def _say(self, what: str, then: str) -> None:
        """Warn; the same thing again once a minute, in short."""
        now_s = asyncio.get_running_loop().time()
        if what != self._said:
            _log.warning("%s %s", what, then)
        elif now_s - self._said_at_s >= _SAY_AGAIN_S:
            _log.warning("%s: still no connection. %s", self._address, then)
        else:
            return
        self._said, self._said_at_s = what, now_s

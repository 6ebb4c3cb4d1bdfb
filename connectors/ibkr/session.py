"""A connection to TWS or IB Gateway: where it is, how it comes about, how its end is noticed, how it is ended.

Only the API handshake is made: no account data, positions or orders are asked for, so nothing can be traded. What is
captured over a connection is not known here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from connectors.ibkr.errors import (
    ClientIdsInUse,
    GatewayTooOld,
    GatewayUnreachable,
    IbkrError,
    InvalidRequest,
    redact_accounts,
    rule_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.ibkr.library import Library

_log = logging.getLogger(__name__)

CLIENT_IDS_TRIED: Final = 8
SANDBOX_ACCOUNT: Final = "DUSANDBOX"
"""The one account of this project's own sandbox gateway."""

_FIRST_BACKOFF_S: Final = 0.5
_BACKOFF_CAP_S: Final = 30.0
_QUIET_NS: Final = 30_000_000_000
_ANSWER_NS: Final = 10_000_000_000
_CLOSE_S: Final = 2.0
_CALM_S: Final = 5.0
_READ_BYTES: Final = 1 << 15
_HIGHEST_PORT: Final = 65_535
_HIGHEST_CLIENT_ID: Final = 2**31 - 1 - CLIENT_IDS_TRIED
_PAPER_PREFIXES: Final = ("DU", "DF", "DI")


@dataclass(frozen=True)
class GatewayAddress:
    """Where a gateway listens, and as whom to connect.

    Attributes:
        host: Name or address.
        port: TCP port of its API.
        client_id: The first id to try; when it is in use, the seven after it.
        connect_timeout_s: The most that one attempt may take.

    Raises:
        InvalidRequest: One of them cannot be.
    """

    host: str
    port: int
    client_id: int
    connect_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.host.strip():
            raise InvalidRequest("the gateway's host is empty: set IB_HOST")
        if not 1 <= self.port <= _HIGHEST_PORT:
            raise InvalidRequest(f"the gateway's port is {self.port}, not 1 to {_HIGHEST_PORT}: set IB_PORT")
        if not 0 <= self.client_id <= _HIGHEST_CLIENT_ID:
            raise InvalidRequest(f"the client id is {self.client_id}, not 0 to {_HIGHEST_CLIENT_ID}: set IB_CLIENT_ID")
        if not (self.connect_timeout_s > 0 and math.isfinite(self.connect_timeout_s)):
            raise InvalidRequest(f"the time-out is {self.connect_timeout_s} s: set CONNECTION_TIMEOUT above 0")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def port_for(
    *,
    port: int | None,
    paper: bool,
    use_tws: bool,
    live: int = 7496,
    paper_tws: int = 7497,
    gateway_live: int = 4001,
    gateway_paper: int = 4002,
) -> int:
    """Return the port to connect to.

    Args:
        port: The one that was set; it wins.
        paper: A paper account's gateway.
        use_tws: TWS rather than IB Gateway.
        live: Of TWS with a live account.
        paper_tws: Of TWS with a paper account.
        gateway_live: Of IB Gateway with a live account.
        gateway_paper: Of IB Gateway with a paper account.
    """
    if port is not None:
        return port
    if use_tws:
        return paper_tws if paper else live
    return gateway_paper if paper else gateway_live


@dataclass(frozen=True)
class GatewayInfo:
    """What a gateway said of itself; no account number is kept.

    Attributes:
        accounts_are_paper: Whether all accounts are paper accounts; None when it named none.
        is_sandbox: It is this project's sandbox.
        server_version: Of the API protocol.
        client_id: The id that this connection got.
    """

    accounts_are_paper: bool | None
    is_sandbox: bool
    server_version: int
    client_id: int


class Backoff:
    """Growing pauses between attempts: half a second first, doubled up to 30 s, shortened by up to a quarter."""

    def __init__(self) -> None:
        self._tries = 0

    def next_s(self) -> float:
        """Return the pause before the next attempt, in seconds."""
        longest_s = min(_BACKOFF_CAP_S, _FIRST_BACKOFF_S * 2.0 ** min(self._tries, 10))
        self._tries += 1
        return longest_s * random.uniform(0.75, 1.0)  # noqa: S311 - keeps clients apart, guards nothing

    def reset(self) -> None:
        """Begin with half a second again."""
        self._tries = 0


class ClientIdInUse(IbkrError):  # noqa: N818 - says what is the matter
    """One client id is in use; the next one is tried."""


class GatewayConnection:
    """One connection, opened once; the next attempt is another object, so that nothing of the old one is left.

    Args:
        library: The client library.
        address: Where.
        now_ns: The session's clock.
        unread: Gets the fields of a message that the library cannot read.

    Attributes:
        ib: The library's own connection.
        gone: Done when the connection has ended, for whatever reason; the result says why.
        last_data_ns: When anything was received last.
        info: What the gateway said of itself; after `open`.
        accounts: Their numbers, only for cutting them out of texts.
        is_id_busy: The gateway said that the client id is in use, though it had let us in.
    """

    def __init__(
        self,
        library: Library,
        address: GatewayAddress,
        *,
        now_ns: Callable[[], int],
        unread: Callable[[list[str]], None] | None = None,
    ) -> None:
        self.ib = library.new_ib(unread)
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.last_data_ns = now_ns()
        self.info = GatewayInfo(None, False, 0, -1)
        self.accounts: tuple[str, ...] = ()
        self.is_id_busy = False
        self._address = address
        self._now_ns = now_ns
        self._on_error: Callable[[int, int, str], None] | None = None
        self._on_lost: Callable[[int, str], None] | None = None
        self._early_errors: list[tuple[int, int, str]] = []
        self._refusal: asyncio.Future[IbkrError] = asyncio.get_running_loop().create_future()
        self._reason = ""
        self._probe_ns = 0
        self._is_closing = False
        self._calm = asyncio.Event()
        self._calm.set()
        client = self.ib.client
        self.ib.errorEvent.connect(self._error, keep_ref=True)
        # After the client's own slots: what a packet brought is handled when its time is taken.
        client.conn.hasData.connect(self._received, keep_ref=True)
        client.conn.disconnected.connect(self._disconnected, keep_ref=True)
        client.apiError.connect(self._api_error, keep_ref=True)
        client.throttleStart.connect(self._throttle_started, keep_ref=True)
        client.throttleEnd.connect(self._throttle_ended, keep_ref=True)

    async def open(self, client_id: int) -> None:
        """Connect and wait until requests can be made.

        Raises:
            ClientIdInUse: Another program has this id.
            GatewayTooOld: Its protocol is too old.
            GatewayUnreachable: Nobody listens, it closes the connection, or it does not answer in time.
        """
        client = self.ib.client
        self.ib.wrapper.clientId = client_id
        # The library's own time-out would not end early on 326; 0 is none.
        attempt = asyncio.get_running_loop().create_task(
            client.connectAsync(self._address.host, self._address.port, client_id, 0)
        )
        try:
            await self._handshake(attempt)
        except BaseException:
            attempt.cancel()
            try:
                await asyncio.wait({attempt})
            finally:
                await self.close()
            # Asked for, so that nobody reports it as never retrieved.
            if attempt.done() and not attempt.cancelled():
                attempt.exception()
            raise
        transport = client.conn.transport
        if hasattr(transport, "max_size"):
            # The library cuts each message off the front of all that was read: quadratic, so less at a time is cheaper.
            transport.max_size = _READ_BYTES
        self.accounts = tuple(client.getAccounts())
        self.info = GatewayInfo(
            accounts_are_paper=all(each.startswith(_PAPER_PREFIXES) for each in self.accounts),
            is_sandbox=self.accounts == (SANDBOX_ACCOUNT,),
            server_version=client.serverVersion(),
            client_id=client_id,
        )

    async def _handshake(self, attempt: asyncio.Task[Any]) -> None:
        timeout_s = self._address.connect_timeout_s
        await asyncio.wait({attempt, self._refusal}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self._refusal.done():
            raise self._refusal.result()
        if not attempt.done():
            was_accepted = self.ib.client.conn.transport is not None
            what = "it accepts connections but does not answer" if was_accepted else "it does not answer"
            raise self._unreachable(f"{what}, waited {timeout_s:g} s")
        try:
            attempt.result()
        except OSError as error:
            # asyncio puts its own text where the system's belongs; a name that is not found has a negative number.
            has_number = error.errno is not None and error.errno > 0
            why = os.strerror(error.errno or 0) if has_number else error.strerror or str(error)
            raise self._unreachable(why) from error

    def listen(self, *, on_error: Callable[[int, int, str], None], on_lost: Callable[[int, str], None]) -> None:
        """Hand on what the gateway says from now on, and what it said since the handshake.

        Args:
            on_error: Request id (-1: none), code, text.
            on_lost: The connection ended without our doing: when it last brought anything, and why.
        """
        self._on_error, self._on_lost = on_error, on_lost
        for early in self._early_errors:
            on_error(*early)
        self._early_errors.clear()

    def send(self, method: Callable[..., Any], *arguments: Any) -> None:
        """Make a request of the library's client; nothing happens when the connection is just ending."""
        with suppress(ConnectionError):
            method(*arguments)

    def watch(self) -> None:
        """Notice a dead connection: after 30 s without a byte the time is asked for, 10 s later it is dropped."""
        now_ns = self._now_ns()
        if now_ns - self.last_data_ns < _QUIET_NS:
            self._probe_ns = 0
        elif not self._probe_ns:
            self._probe_ns = now_ns
            self.send(self.ib.client.reqCurrentTime)
        elif now_ns - self._probe_ns >= _ANSWER_NS:
            self.abort(f"the gateway has not answered for {(now_ns - self.last_data_ns) / 1e9:.0f} s")

    def abort(self, reason: str) -> None:
        """End the connection at once; nothing more is sent."""
        self._reason = self._reason or reason
        transport = self.ib.client.conn.transport
        if transport is not None:
            transport.abort()

    async def close(self) -> None:
        """End the connection: what was asked is sent, the socket is closed; takes a few seconds at most."""
        self._is_closing = True
        client = self.ib.client
        transport = client.conn.transport
        try:
            if transport is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_CALM_S):
                        await self._calm.wait()
                # Its orderly way fails on a socket that the other side has reset.
                with suppress(OSError):
                    client.disconnect()
                await asyncio.wait({self.gone}, timeout=_CLOSE_S)
        finally:
            if transport is not None and not self.gone.done():
                transport.abort()
            self._refusal.cancel()
        if transport is not None:
            await asyncio.wait({self.gone}, timeout=_CLOSE_S)
        elif not self.gone.done():
            self.gone.set_result("never connected")

    def _unreachable(self, why: str) -> GatewayUnreachable:
        said = "".join(f"; it said: {code} {text}" for _, code, text in self._early_errors[-1:])
        return GatewayUnreachable(
            f"no connection to {self._address}: {why}{said}. Is TWS or IB Gateway running and logged in? Is its API "
            f"enabled (Configure, API, Settings: Enable ActiveX and Socket Clients) on port {self._address.port}? "
            "Is this machine among its trusted addresses?"
        )

    def _refuse(self, error: IbkrError) -> None:
        if not self._refusal.done():
            self._refusal.set_result(error)

    def _error(self, request_id: int, code: int, text: str, *_: Any) -> None:
        kind = rule_for(code).kind
        if kind == "busy_client_id":
            self.is_id_busy = True
            self._refuse(ClientIdInUse(f"client id {self.ib.client.clientId} is in use"))
            if self._on_error is not None:
                self.abort(f"error {code}: the client id is in use")
        elif kind == "too_old" and self._on_error is None:
            self._refuse(GatewayTooOld(f"{self._address}: {redact_accounts(text)}. Update TWS or IB Gateway."))
        elif self._on_error is None:
            self._early_errors.append((request_id, code, redact_accounts(text)))
        else:
            self._on_error(request_id, code, text)

    def _api_error(self, text: str) -> None:
        if text.startswith("TWS/gateway version"):
            self._refuse(GatewayTooOld(f"{self._address}: {text}. Update TWS or IB Gateway."))

    def _received(self, _data: bytes) -> None:
        self.last_data_ns = self._now_ns()

    def _disconnected(self, text: str) -> None:
        reason = self._reason or text or "the gateway closed the connection"
        self._refuse(self._unreachable(reason))
        if not self.gone.done():
            self.gone.set_result(reason)
        if self._on_lost is not None and not self._is_closing:
            self._on_lost(self.last_data_ns, reason)

    def _throttle_started(self, *_: Any) -> None:
        self._calm.clear()

    def _throttle_ended(self, *_: Any) -> None:
        self._calm.set()


async def connect(
    library: Library,
    address: GatewayAddress,
    *,
    now_ns: Callable[[], int],
    first_id: int | None = None,
    unread: Callable[[list[str]], None] | None = None,
) -> GatewayConnection:
    """Connect with the first client id that is free.

    Args:
        library: The client library.
        address: Where, and the first id.
        now_ns: The session's clock.
        first_id: An id to begin with instead.
        unread: Gets the fields of a message that the library cannot read.

    Raises:
        ClientIdsInUse: Eight ids in a row are in use.
        GatewayTooOld: Its protocol is too old.
        GatewayUnreachable: No connection came about.
    """
    ids = [first_id] if first_id is not None else []
    ids += [address.client_id + n for n in range(CLIENT_IDS_TRIED) if address.client_id + n != first_id]
    for client_id in ids:
        connection = GatewayConnection(library, address, now_ns=now_ns, unread=unread)
        try:
            await connection.open(client_id)
        except ClientIdInUse:
            _log.warning("%s: client id %d is in use, the next one is tried", address, client_id)
        else:
            return connection
    raise ClientIdsInUse(
        f"{address}: the client ids {address.client_id} to {address.client_id + CLIENT_IDS_TRIED - 1} are in use: "
        "end the programs that hold them, or set IB_CLIENT_ID"
    )

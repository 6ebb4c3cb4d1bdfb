"""The sandbox IB gateway: start it, point the real client library at it, look at what it sent and what it was asked.

    with IbGateway() as gateway:
        asyncio.run(session(gateway.host, gateway.port))  # ib.connectAsync(host, port, clientId=1)

It serves in a thread of this process; `ib_gateway_process.IbGatewayProcess` runs it in a process of its own. What the
package is and is not: see `connectors.sandbox`.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final, Self

from connectors.sandbox._ib_control import ControlServer
from connectors.sandbox._ib_controls import GatewayBook, GatewayControls
from connectors.sandbox._ib_core import LOOPBACK, GatewayCore
from connectors.sandbox._ib_faults import parse_gateway_fault
from connectors.sandbox._ib_market import DepthOperation, Row
from connectors.sandbox._ib_records import DepthRequest, SentBatch, SentDepth, Violation
from connectors.sandbox._ib_wire import NEWEST_VERSION

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from connectors.sandbox._ib_market import Overflow

__all__ = [
    "DEFAULT_SERVER_VERSION",
    "SANDBOX_ACCOUNT",
    "DepthOperation",
    "DepthRequest",
    "GatewayBook",
    "IbGateway",
    "Row",
    "SentBatch",
    "SentDepth",
    "Violation",
]

SANDBOX_ACCOUNT: Final = "DUSANDBOX"
"""The one managed account, by which a client can tell the sandbox; DU is how paper accounts begin."""

DEFAULT_SERVER_VERSION: Final = 176
_CALL_S: Final = 30.0
_MOST_PER_S: Final = 1_000_000
_OLDEST_VERSION: Final = 100  # the first with this handshake


class IbGateway(GatewayControls):
    """A TWS API server on 127.0.0.1, alive inside a `with` block.

    Args:
        port: 0 takes a free one.
        accounts: managed accounts.
        depth_lines: depth subscriptions at once, of all clients together; more get error 309.
        rate_per_s: generated depth messages per second and subscription. 0: none and no book at the start, for scripts.
        rows: rows per side whatever is asked for; None: as asked.
        overflow: how an add into a full side is told: `explicit` removes the last row first, `implicit` lets it shift
            out without a word.
        seed: of the invented market; with the same one a symbol's subscriptions get the same messages again.
        unknown: symbols that exist nowhere: error 200.
        refused: symbols whose depth is refused, and with which code (354, 10092, 10186); a code that is a warning
            (2152, 10167) is sent and depth flows.
        busy_client_ids: client ids that get error 326, as if another program used them.
        server_version: spoken if the client speaks it too; the lower of both sides' is used.
        log: a file that gets one JSON line per client request and per fault.
        answer_delay_s: how much later every request is carried out.
        faults: in force from the start, in written form, see `_ib_faults.KINDS`.

    Attributes:
        host: `127.0.0.1`.
        port: where it listens.

    Raises:
        ValueError: an argument or fault that cannot be used.
        OSError: on entering: the port is taken, or the log cannot be written.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        accounts: Sequence[str] = (SANDBOX_ACCOUNT,),
        depth_lines: int = 3,
        rate_per_s: float = 50.0,
        rows: int | None = None,
        overflow: Overflow = "explicit",
        seed: int = 0,
        unknown: Collection[str] = ("GONE",),
        refused: Mapping[str, int] | None = None,
        busy_client_ids: Collection[int] = (),
        server_version: int = DEFAULT_SERVER_VERSION,
        log: Path | None = None,
        answer_delay_s: float = 0.0,
        faults: Iterable[str] = (),
    ) -> None:
        _check(accounts, depth_lines, rate_per_s, rows, server_version)
        for fault in (faults := tuple(faults)):
            parse_gateway_fault(fault)
        self.host = LOOPBACK
        self.port = port
        self._options: dict[str, Any] = {
            "port": port,
            "accounts": accounts,
            "depth_lines": depth_lines,
            "rate_per_s": rate_per_s,
            "rows": rows,
            "overflow": overflow,
            "seed": seed,
            "unknown": unknown,
            "refused": refused or {},
            "busy_client_ids": busy_client_ids,
            "server_version": server_version,
            "log": log,
            "answer_delay_s": answer_delay_s,
            "faults": faults,
        }
        self._loop: asyncio.AbstractEventLoop | None = None
        self._core: GatewayCore | None = None
        self._control: ControlServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Bind the port and serve."""
        if self._thread is not None:
            raise RuntimeError("an IbGateway starts once; make another one")
        loop = asyncio.new_event_loop()
        self._loop = loop
        self._thread = threading.Thread(target=self._serve, args=(loop,), name="sandbox-ib-gateway", daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._begin(), loop).result(_CALL_S)
        except BaseException:
            self.stop()
            raise

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    async def _begin(self) -> None:
        core = GatewayCore(**self._options)
        self._core = core
        await core.start()
        self.port = core.port

    def stop(self) -> None:
        """End every connection and the thread, free the port; harmless when not running. What was seen can be read."""
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        if self._control is not None:
            asyncio.run_coroutine_threadsafe(self._control.stop(), loop).result(_CALL_S)
        if self._core is not None:
            asyncio.run_coroutine_threadsafe(self._core.stop(), loop).result(_CALL_S)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()

    def open_control(self, port: int = 0) -> int:
        """Take controls of another process too, see `_ib_control`; returns the loopback port.

        Raises:
            OSError: the port is taken.
        """
        if self._core is None or self._loop is None:
            raise RuntimeError("the sandbox gateway is not running; use it inside its `with` block")
        self._control = ControlServer(self._core)
        return asyncio.run_coroutine_threadsafe(self._control.start(port), self._loop).result(_CALL_S)

    def _do(self, control: str, **arguments: Any) -> Any:
        core, loop = self._core, self._loop
        if core is None:
            raise RuntimeError("the sandbox gateway is not running; use it inside its `with` block")
        if loop is None:
            return core.actions.call(control, arguments)  # ended: what was seen can still be read

        async def call() -> Any:
            return core.actions.call(control, arguments)

        return asyncio.run_coroutine_threadsafe(call(), loop).result(_CALL_S)

    @property
    def violations(self) -> list[Violation]:
        """Rules that clients broke, oldest first; the gateway's own list, which grows."""
        return self._core.records.violations if self._core else []

    @property
    def sent(self) -> list[SentDepth]:
        """Every depth message outside load mode, oldest first; the gateway's own list, which grows."""
        return self._core.records.sent if self._core else []

    @property
    def batches(self) -> list[SentBatch]:
        """What load mode sent, write by write; the gateway's own list, which grows."""
        return self._core.records.batches if self._core else []

    @property
    def requests(self) -> list[DepthRequest]:
        """Depth subscriptions and cancels as they came, oldest first; the gateway's own list, which grows."""
        return self._core.records.depth_requests if self._core else []


def _check(accounts: Sequence[str], depth_lines: int, rate_per_s: float, rows: int | None, server_version: int) -> None:
    if isinstance(accounts, str) or not accounts or not all(accounts):
        raise ValueError("accounts is a list of at least one name")
    if depth_lines < 0:
        raise ValueError(f"depth_lines is {depth_lines}, it cannot be negative")
    if not 0 <= rate_per_s <= _MOST_PER_S:
        raise ValueError(f"rate_per_s is {rate_per_s}, not from 0 to {_MOST_PER_S}")
    if rows is not None and rows < 1:
        raise ValueError(f"rows is {rows}, a book has at least one")
    if not _OLDEST_VERSION <= server_version <= NEWEST_VERSION:
        raise ValueError(f"server_version is {server_version}, not from {_OLDEST_VERSION} to {NEWEST_VERSION}")

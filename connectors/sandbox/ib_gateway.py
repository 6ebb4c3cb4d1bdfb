"""The sandbox IB gateway: start it, point the real client library at it, look at what it sent and what it was asked.

    with IbGateway() as gateway:
        asyncio.run(session(gateway.host, gateway.port))  # ib.connectAsync(host, port, clientId=1)

It serves in a thread of this process; `ib_gateway_process.IbGatewayProcess` runs it in a process of its own. What the
package is and is not: see `connectors.sandbox`.
"""

from __future__ import annotations

import asyncio
import math
import threading
from typing import TYPE_CHECKING, Any, Final, Self

from connectors.sandbox._ib_bars_truth import BarRow, bars_truth
from connectors.sandbox._ib_control import ControlServer
from connectors.sandbox._ib_controls import GatewayBook, GatewayControls
from connectors.sandbox._ib_core import LOOPBACK, GatewayCore
from connectors.sandbox._ib_faults import moment_of, parse_gateway_fault
from connectors.sandbox._ib_market import DepthOperation, Row
from connectors.sandbox._ib_records import BarsRequest, DepthRequest, SentBatch, SentDepth, Violation
from connectors.sandbox._ib_wire import NEWEST_VERSION

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from connectors.sandbox._ib_market import Overflow

__all__ = [
    "DEFAULT_SERVER_VERSION",
    "SANDBOX_ACCOUNT",
    "BarRow",
    "BarsRequest",
    "DepthOperation",
    "DepthRequest",
    "GatewayBook",
    "IbGateway",
    "Row",
    "SentBatch",
    "SentDepth",
    "Violation",
    "bars_truth",
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
        now: the moment it is when the gateway starts, from which time goes on: ISO 8601 with an offset; None: the real
            time. Bars after it do not exist, seconds older than six months neither.
        pacing: whether the rules for historical data are enforced: a breach is a violation and error 162, and the
            fifth of a connection ends it.
        pacing_speed: the rules' windows are so many times shorter; for tests with a fast clock.
        pacing_slack_s: real seconds by which the windows are shorter still: how late a busy gateway may read.
        bars_delay_s: how long every historical answer takes at least.
        calendar_durations: seconds and days of a duration are counted by the calendar, not in trading time.
        faults: in force from the start, in written form, see `_ib_faults.KINDS`.

    Attributes:
        host: `127.0.0.1`.
        port: where it listens.
        seed: as given.

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
        now: str | None = None,
        pacing: bool = True,
        pacing_speed: float = 1.0,
        pacing_slack_s: float = 0.0,
        bars_delay_s: float = 0.0,
        calendar_durations: bool = False,
        faults: Iterable[str] = (),
    ) -> None:
        _check(accounts, depth_lines, rate_per_s, rows, server_version)
        _check_bars(pacing_speed, pacing_slack_s, bars_delay_s)
        for fault in (faults := tuple(faults)):
            parse_gateway_fault(fault)
        self.host = LOOPBACK
        self.port = port
        self.seed = seed
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
            "now": None if now is None else moment_of(now),
            "pacing": pacing,
            "pacing_speed": pacing_speed,
            "pacing_slack_s": pacing_slack_s,
            "bars_delay_s": bars_delay_s,
            "calendar_durations": calendar_durations,
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

    @property
    def bars_requests(self) -> list[BarsRequest]:
        """Historical requests and their cancels as they came, oldest first; the gateway's own list, which grows."""
        return self._core.records.bars_requests if self._core else []


def _check_bars(pacing_speed: float, pacing_slack_s: float, bars_delay_s: float) -> None:
    if not 0 < pacing_speed < math.inf:
        raise ValueError(f"pacing_speed is {pacing_speed}, not a number above 0")
    for name, value_s in (("pacing_slack_s", pacing_slack_s), ("bars_delay_s", bars_delay_s)):
        if not 0 <= value_s < math.inf:
            raise ValueError(f"{name} is {value_s}, not a number of seconds")


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

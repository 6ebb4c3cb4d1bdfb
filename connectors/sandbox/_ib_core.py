"""The sandbox gateway itself, as its event loop sees it: connections, their handshake, and what happens to them.

Every method here is called in the loop. What a test or a person can have happen is in `_ib_actions`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from connectors.sandbox._ib_actions import GatewayActions
from connectors.sandbox._ib_answers import answer, welcome
from connectors.sandbox._ib_bars import HistoricalBars
from connectors.sandbox._ib_depth import DepthLines
from connectors.sandbox._ib_faults import FaultBook, parse_gateway_fault
from connectors.sandbox._ib_instruments import Instruments
from connectors.sandbox._ib_market import DepthOperation
from connectors.sandbox._ib_pacing import PacingWatch
from connectors.sandbox._ib_records import Records
from connectors.sandbox._ib_session import Session
from connectors.sandbox._ib_wire import (
    NEWEST_VERSION,
    OLDEST_CLIENT,
    REQUEST_NAMES,
    error_frame,
    error_text,
    frame,
    number,
    request_id_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
    from pathlib import Path

    from connectors.sandbox._ib_market import Overflow
    from connectors.sandbox._ib_wire import Greeting

LOOPBACK: Final = "127.0.0.1"
_START_API: Final = 71
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LISTEN_AGAIN_S: Final = 0.05


class GatewayCore:
    """The gateway's state and everything that can be done to it.

    Args are those of `ib_gateway.IbGateway`.

    Attributes:
        accounts: managed accounts.
        depth_lines: lines of the account.
        instruments: what can be asked for.
        lines: the depth subscriptions.
        bars: the historical requests.
        faults: in force.
        records: what came and went.
        delay_s: how late everything is written.
        arrived_ns: when the message arrived that is being carried out, on the monotonic clock.
        loop: it all runs in.
    """

    def __init__(
        self,
        *,
        port: int,
        accounts: Sequence[str],
        depth_lines: int,
        rate_per_s: float,
        rows: int | None,
        overflow: Overflow,
        seed: int,
        unknown: Collection[str],
        refused: Mapping[str, int],
        busy_client_ids: Collection[int],
        server_version: int,
        log: Path | None,
        answer_delay_s: float,
        now: datetime | None,
        pacing: bool,
        pacing_speed: float,
        pacing_slack_s: float,
        bars_delay_s: float,
        calendar_durations: bool,
        faults: Iterable[str],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.accounts = tuple(accounts)
        self.depth_lines = depth_lines
        self.instruments = Instruments(unknown)
        self.records = Records(log)
        self.lines = DepthLines(self.loop, self.records, seed=seed, rate_per_s=rate_per_s, rows=rows, overflow=overflow)
        self.actions = GatewayActions(self)
        self.faults = FaultBook(self.loop, self.actions.carry_out, depth_lines, dict(refused), tuple(busy_client_ids))
        self._is_fast = pacing and pacing_speed > 1
        self.bars = HistoricalBars(
            self,
            seed=seed,
            pacing=PacingWatch(pacing_speed, pacing_slack_s) if pacing else None,
            delay_s=bars_delay_s,
            by_calendar=calendar_durations,
        )
        self.arrived_ns = time.monotonic_ns()
        self.set_now(now)
        self._server_version = server_version
        self._answer_delay_s = answer_delay_s
        self.delay_s = 0.0
        self._sessions: set[Session] = set()
        self._sessions_made = 0
        self._paused_by: set[str] = set()
        self._server: asyncio.Server | None = None
        self._refusing: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._held_back: list[Callable[[], None]] = []
        self.port = port
        for fault in faults:
            self.faults.add(parse_gateway_fault(fault))

    async def start(self) -> None:
        """Bind the port; `port` says which."""
        if self._is_fast:  # a fast clock leaves no time to load anything while requests arrive
            await self.bars.warm_up()
        self._server = await self.loop.create_server(self._new_session, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        if self._refusing:
            self._refusing.cancel()
        self.faults.clear()
        self.lines.close_all()
        await self.bars.stop()
        for task in list(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._server:
            self._server.close()
        for session in list(self._sessions):
            session.close()
        for _ in range(20):
            if not self._sessions:
                break
            await asyncio.sleep(0.005)
        for session in list(self._sessions):
            session.abort()
        await asyncio.sleep(0)
        self.records.close()

    def set_now(self, now: datetime | None) -> None:
        """From now on it is this moment, aware, and time goes on from there; None: the real time."""
        self._ahead_ns = 0
        if now is not None:
            self._ahead_ns = (now - _EPOCH) // timedelta(microseconds=1) * 1_000 - time.time_ns()

    def now_ns(self) -> int:
        """The moment in the gateway's world, nanoseconds since 1970 UTC."""
        return time.time_ns() + self._ahead_ns

    # A connection, from its first byte to its end.

    def _new_session(self) -> Session:
        self._sessions_made += 1
        return Session(self, self._sessions_made, lambda: self.delay_s)

    def connected(self, session: Session) -> None:
        """A client is there."""
        self._sessions.add(session)
        self.records.log(connection=session.number, event="connected")

    def greeted(self, session: Session, greeting: Greeting) -> None:
        """Agree on a version, the lower of both sides' newest, or refuse a client that is too old."""
        if "hang" in self._paused_by:
            self._held_back.append(lambda: self.greeted(session, greeting))
            return
        if self.faults.is_mute:
            return
        newest = min(greeting.newest, self._server_version, NEWEST_VERSION)
        if greeting.newest < OLDEST_CLIENT:
            self.records.log(connection=session.number, event="refused", oldest=greeting.oldest, newest=greeting.newest)
            session.write(error_frame(newest, -1, 506, error_text(506)))
            session.close()
            return
        session.version = newest
        session.write(frame(newest, time.strftime("%Y%m%d %H:%M:%S EST")))

    def received(self, session: Session, fields: list[str]) -> None:
        """Log a message, watch the client's rate, and answer, late if so wished."""
        arrived_ns = time.monotonic_ns()
        kind = number(fields, 0)
        name = REQUEST_NAMES.get(kind, f"message {kind}")
        request_id = request_id_of(fields)
        self.records.requests[name] += 1
        self.records.log(
            connection=session.number,
            client_id=session.client_id,
            request=name,
            **({"request_id": request_id} if request_id >= 0 else {}),
            **({"symbol": fields[4]} if kind in (9, 10) and len(fields) > 4 else {}),  # noqa: PLR2004 - wire fields
            **({"symbol": fields[3]} if kind in (20, 87) and len(fields) > 4 else {}),  # noqa: PLR2004 - likewise
        )
        if session.rate.is_exceeded_by(time.time_ns()):
            self.records.violation("rate", f"client {session.client_id}: more than 50 messages in a second, at {name}")
            session.error(-1, 100, error_text(100))
        if self._answer_delay_s > 0:
            self.loop.call_later(self._answer_delay_s, self._answer, session, fields, arrived_ns)
        else:
            self._answer(session, fields, arrived_ns)

    def _answer(self, session: Session, fields: list[str], arrived_ns: int) -> None:
        self.arrived_ns = arrived_ns
        if "hang" in self._paused_by:
            self._held_back.append(lambda: self._answer(session, fields, arrived_ns))
        elif not session.is_open:
            return
        elif number(fields, 0) == _START_API and session.client_id < 0:
            self._start_api(session, number(fields, 2))
        elif session.client_id < 0:
            self.unreadable(session, f"message {fields[0]!r} comes before startApi")
        else:
            answer(self, session, fields)

    def _start_api(self, session: Session, client_id: int) -> None:
        used = {other.client_id for other in self._sessions if other is not session and other.is_open}
        if client_id < 0:
            self.unreadable(session, "startApi has no client id")
        elif client_id in used or self.faults.is_busy(client_id):
            self.records.log(connection=session.number, event="refused", client_id=client_id, code=326)
            session.error(-1, 326, error_text(326))
            session.close()
        else:
            session.client_id = client_id
            welcome(self, session)

    def unreadable(self, session: Session, what: str) -> None:
        """It sent what is no TWS API: remember and hang up."""
        self.records.violation("protocol", f"connection {session.number}: {what}")
        session.close()

    def closed(self, session: Session) -> None:
        """A client is gone, and with it its subscriptions."""
        self._sessions.discard(session)
        self.lines.close_all(session)
        self.bars.forget(session)
        self.records.log(connection=session.number, event="closed")

    # What `_ib_actions` does to the connections.

    def clients(self) -> list[int]:
        """Client ids that are connected and have begun."""
        return sorted(session.client_id for session in self._sessions if session.is_open and session.client_id >= 0)

    def tell_all(self, code: int, text: str = "") -> None:
        """Send a code with request id -1 to every client."""
        for session in self._sessions:
            if session.is_open and session.client_id >= 0:
                session.error(-1, code, text or error_text(code))

    def close_all(self, *, mid_message: bool = False) -> None:
        """Close every connection, inside a message if so wished."""
        for session in list(self._sessions):
            half = b""
            if mid_message:
                line = next((line for line in self.lines if line.session is session), None)
                whole = line.encode([DepthOperation(0, 1, 1, 100.25, 100)])[0] if line else frame(49, 1, 0)
                half = whole[: len(whole) // 2]
            session.close(last_bytes=half)

    def refuse_connections(self, for_s: float) -> None:
        """Free the port for a while."""
        if self._server:
            self._server.close()
            self._server = None
            self._refusing = self.loop.call_later(for_s, lambda: self.run(self._listen_again()))

    async def _listen_again(self) -> None:
        while True:
            try:
                return await self.start()
            except OSError:  # somebody else has the port at this moment
                await asyncio.sleep(_LISTEN_AGAIN_S)

    def pause(self, by: str) -> None:
        """Nothing flows until everything that paused it resumes."""
        self._paused_by.add(by)
        self.lines.is_paused = True
        if by != "farm":
            self.bars.pause(by)

    def resume(self, by: str) -> None:
        """The other end of `pause`; requests that came while it hung are answered."""
        self._paused_by.discard(by)
        self.lines.is_paused = bool(self._paused_by)
        if "hang" not in self._paused_by:
            held_back, self._held_back = self._held_back, []
            for go_on in held_back:
                go_on()
        self.bars.resume(by)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Let work go on in the loop; it is ended with the gateway."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def is_working(self) -> bool:
        """Whether such work goes on."""
        return bool(self._tasks)

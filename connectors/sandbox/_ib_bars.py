"""Historical bars and head time stamps of the sandbox gateway: open requests, pacing, faults, and their answers.

Bars are made and encoded in one worker thread, so that the gateway's loop answers everything else meanwhile. What is
asked is read in `_ib_bars_request`, the market is `_ib_bars_market`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

from connectors.sandbox._ib_bars_calendar import ET, FIRST_DAY, et_date, first_second, midnight_s, session_of
from connectors.sandbox._ib_bars_request import REACH_DAYS, BarsQuery, Refused, bars_query
from connectors.sandbox._ib_pacing import BREACHES_UNTIL_THE_END, MOST_OPEN, PacingWatch
from connectors.sandbox._ib_records import BarsRequest
from connectors.sandbox._ib_wire import error_text, frame, number

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.sandbox._ib_bars_market import BarsMarket
    from connectors.sandbox._ib_bars_truth import BarRow
    from connectors.sandbox._ib_core import GatewayCore
    from connectors.sandbox._ib_faults import GatewayFault
    from connectors.sandbox._ib_session import Session

_HMDS: Final = 162
_SERVICE: Final = "Historical Market Data Service error message:"
_BARS, _HEAD = 17, 88
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400


@dataclass(eq=False)
class OpenQuery:
    """A request that has no answer yet.

    Attributes:
        session: the connection it came on.
        query: what was asked.
        faults: that meet it.
        timer: until its answer is begun.
        answer: made and held back until the gateway may send again.
    """

    session: Session
    query: BarsQuery
    faults: dict[str, GatewayFault] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None
    answer: Callable[[], None] | None = None


class HistoricalBars:
    """Every historical request of the gateway.

    Args:
        core: the gateway.
        seed: of the invented market.
        pacing: what judges requests; None: nothing does.
        delay_s: how long every answer takes at least.
        by_calendar: durations are counted by the calendar, not in trading time.
    """

    def __init__(
        self, core: GatewayCore, *, seed: int, pacing: PacingWatch | None, delay_s: float, by_calendar: bool
    ) -> None:
        self._core = core
        self._seed = seed
        self._pacing = pacing
        self._delay_s = delay_s
        self._by_calendar = by_calendar
        self._open: dict[tuple[Session, int], OpenQuery] = {}
        self._breaches: dict[Session, int] = {}
        self._market: BarsMarket | None = None
        self._worker = ThreadPoolExecutor(1, "sandbox-ib-bars")
        self._makings: set[asyncio.Task[None]] = set()
        self._paused_by: set[str] = set()

    def __len__(self) -> int:
        return len(self._open)

    async def warm_up(self) -> None:
        """Load what making bars needs, a second or two that the first answer would take otherwise."""
        await self._core.loop.run_in_executor(self._worker, self._load)

    def _load(self) -> BarsMarket:
        from connectors.sandbox._ib_bars_market import BarsMarket  # noqa: PLC0415 - numpy, only when bars are asked for

        if self._market is None:
            session_of(FIRST_DAY)  # loads the calendar
            self._market = BarsMarket(self._seed)
        return self._market

    async def stop(self) -> None:
        """Forget every request, end the worker."""
        self.forget()
        for making in list(self._makings):
            making.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await making
        await asyncio.to_thread(self._worker.shutdown, wait=True, cancel_futures=True)

    def ask(self, session: Session, fields: list[str]) -> None:
        """Take reqHistoricalData or reqHeadTimeStamp: refuse it, or answer later.

        Raises:
            IndexError: fields are missing.
            ValueError: the request id is none.
        """
        request_id = int(fields[1])
        try:
            query = bars_query(fields, self._core.instruments)
        except Refused as refused:
            self._note(session, fields, refused.code)
            session.error(request_id, refused.code, refused.text)
            return
        if (session, request_id) in self._open:
            self._core.records.violation("duplicate_id", f"request id {request_id} is in use")
            self._note(session, fields, 322)
            session.error(request_id, 322, error_text(322))
            return
        breaches = self._pacing_breaches(query)
        faults = {} if breaches else self._core.faults.meeting(query, self._core.now_ns() // 10**9)
        is_refused = bool(breaches) or "bars-pacing" in faults
        self._note(session, fields, _HMDS if is_refused else 0)
        for kind, detail in breaches:
            self._core.records.violation(kind, f"client {session.client_id}: {detail}")
        if is_refused:
            session.error(request_id, _HMDS, f"{_SERVICE}Historical data request pacing violation")
        else:
            self._begin(OpenQuery(session, query, faults))
        self._core.faults.historical()
        self._count_breaches(session, len(breaches))

    def cancel(self, session: Session, request_id: int, *, is_head: bool) -> None:
        """The client's cancel: 162 for a request that is open, 366 for bars that are not, else nothing.

        Both libraries cancel every head time stamp that has come.
        """
        query = self._open.pop((session, request_id), None)
        symbol, exchange = (query.query.instrument.symbol, query.query.instrument.exchange) if query else ("", "")
        self._core.records.bars_request(
            BarsRequest(
                kind="cancel",
                request_id=request_id,
                symbol=symbol,
                exchange=exchange,
                client_id=session.client_id,
                answer=_HMDS if query else 0 if is_head else 366,
                at_ns=time.time_ns(),
                arrived_ns=self._core.arrived_ns,
            )
        )
        if query:
            if query.timer:
                query.timer.cancel()
            session.error(request_id, _HMDS, f"{_SERVICE}API historical data query cancelled: {request_id}")
        elif not is_head:
            session.error(request_id, 366, error_text(366, request_id=request_id))

    def forget(self, session: Session | None = None) -> None:
        """Answer nothing that is open now, of a connection or of all."""
        for key, query in list(self._open.items()):
            if session in (None, query.session):
                del self._open[key]
                if query.timer:
                    query.timer.cancel()
        if session is not None:
            self._breaches.pop(session, None)

    def pause(self, by: str) -> None:
        """No answers until everything that paused them resumes; requests are taken."""
        self._paused_by.add(by)

    def resume(self, by: str) -> None:
        """The other end of `pause`: what was made meanwhile is sent."""
        self._paused_by.discard(by)
        if self._paused_by:
            return
        for query in list(self._open.values()):
            if query.answer:
                self._send(query, query.answer)

    def _note(self, session: Session, fields: list[str], code: int) -> None:
        is_head = number(fields, 0) == 87  # noqa: PLR2004 - reqHeadTimeStamp
        self._core.records.bars_request(
            BarsRequest(
                kind="head" if is_head else "bars",
                request_id=number(fields, 1),
                symbol=fields[3],
                exchange=fields[9],
                bar_size="" if is_head else fields[16],
                what_to_show=fields[16 if is_head else 19],
                use_rth=fields[15 if is_head else 18] == "1",
                duration="" if is_head else fields[17],
                end="" if is_head else fields[15],
                client_id=session.client_id,
                answer=code,
                at_ns=time.time_ns(),
                arrived_ns=self._core.arrived_ns,
            )
        )

    def _pacing_breaches(self, query: BarsQuery) -> list[tuple[str, str]]:
        if self._pacing is None:
            return []
        breaches = self._pacing.breaches(query, self._core.arrived_ns)
        if len(self._open) >= MOST_OPEN:
            breaches.append(("open_requests", f"{query.named}: {len(self._open)} are open"))
        return breaches

    def _count_breaches(self, session: Session, count: int) -> None:
        """The vendor ends the connection of a client that goes on breaking its rules."""
        if count:
            self._breaches[session] = self._breaches.get(session, 0) + 1
            if self._breaches[session] >= BREACHES_UNTIL_THE_END:
                self._core.records.log(connection=session.number, event="closed for pacing violations")
                session.close()

    # From a request to its answer.

    def _begin(self, query: OpenQuery) -> None:
        self._open[query.session, query.query.request_id] = query
        if "bars-no-answer" in query.faults:
            return
        delay_s = self._delay_s
        if slow := query.faults.get("bars-slow"):
            delay_s += slow.values["delay_s"]
        if delay_s > 0:
            query.timer = self._core.loop.call_later(delay_s, self._make, query)
        else:
            self._make(query)

    def _make(self, query: OpenQuery) -> None:
        making = self._core.loop.create_task(self._answer(query))
        self._makings.add(making)
        making.add_done_callback(self._makings.discard)

    async def _answer(self, query: OpenQuery) -> None:
        asked, session, faults = query.query, query.session, query.faults
        request_id = asked.request_id
        refusal = self._refusal(query)
        data: bytes | None = None
        if refusal is None:
            now_s = self._core.now_ns() // 10**9
            listed_s = self._core.faults.listed_s(asked.instrument.symbol)
            try:
                data = await self._core.loop.run_in_executor(
                    self._worker, self._encoded, asked, now_s, listed_s, frozenset(faults)
                )
            except Exception as error:  # noqa: BLE001 - the client gets an answer, whatever was wrong
                refusal = (_HMDS, f"{_SERVICE}the sandbox gateway cannot make these bars: {error!r}")
        if data is None and refusal is None:
            refusal = (_HMDS, f"{_SERVICE}HMDS query returned no data: {asked.named}")

        def send() -> None:
            if refusal:
                session.error(request_id, *refusal)
            elif data is not None and "bars-drop" in faults:
                session.close(last_bytes=data[: len(data) // 2])
            elif data is not None:
                session.write(data)

        self._send(query, send)

    def _send(self, query: OpenQuery, answer: Callable[[], None]) -> None:
        key = (query.session, query.query.request_id)
        if self._open.get(key) is not query:
            return  # cancelled, or its client is gone
        if self._paused_by:
            query.answer = answer
            return
        del self._open[key]
        answer()

    @staticmethod
    def _refusal(query: OpenQuery) -> tuple[int, str] | None:
        """The error a fault answers with."""
        faults, instrument = query.faults, query.query.instrument
        if "bars-permission" in faults:
            return _HMDS, f"{_SERVICE}No market data permissions for {instrument.primary_exchange} STK"
        if fault := faults.get("bars-error"):
            code, text = fault.values["code"], fault.values["text"]
            return code, text or (
                f"{_SERVICE}Starting time must occur before ending time" if code == _HMDS else error_text(code)
            )
        if "bars-none" in faults:
            return _HMDS, f"{_SERVICE}HMDS query returned no data: {query.query.named}"
        return None

    def _encoded(self, query: BarsQuery, now_s: int, listed_s: int, faults: frozenset[str]) -> bytes | None:
        """The answer as bytes, None when there is no bar; in the worker."""
        market = self._load()
        end_s = now_s if query.end_s is None else query.end_s
        start_s = max(query.start_s(now_s, by_calendar=self._by_calendar), listed_s)
        if query.is_head:
            first_s = first_second(start_s, use_rth=query.use_rth)
            return frame(_HEAD, query.request_id, _time_text(first_s, query.format_date))
        if query.is_small:
            start_s = max(start_s, midnight_s(et_date(now_s - REACH_DAYS * _DAY_S)))
        until_s = min(end_s, now_s)
        rows: list[BarRow] = []
        if "bars-outside" in faults:
            more_s = _HOUR_S if query.is_small else 4 * _DAY_S  # longer than a weekend
            start_s, until_s = start_s - more_s, min(until_s + more_s, now_s)
        if start_s < until_s:
            rows = market.bars(
                query.instrument.symbol,
                query.bar_s,
                start_s,
                until_s,
                use_rth=query.use_rth,
                what=query.what,
                forming="bars-forming" in faults,
            ).rows()
        if not rows:
            return None
        rows = _damaged(rows, faults)
        form = 0 if "bars-naive" in faults else query.format_date
        return _bars_frame(query.request_id, rows, start_s, end_s, form)


def _damaged(rows: list[BarRow], faults: frozenset[str]) -> list[BarRow]:
    """The bars as the faults have them; the same every time."""
    dice = random.Random(rows[0].start_ns)  # noqa: S311 - a fault, not a secret
    if "bars-bad" in faults:
        at = dice.randrange(len(rows))
        rows[at] = rows[at]._replace(low=rows[at].high + 1)
    if "bars-duplicates" in faults:
        twice = sorted({0, len(rows) - 1, *(dice.randrange(len(rows)) for _ in range(3))})
        for at in reversed(twice):
            rows.insert(at + 1, rows[at])
    if "bars-unordered" in faults:
        dice.shuffle(rows)
    return rows


def _bars_frame(request_id: int, rows: list[BarRow], start_s: int, end_s: int, form: int) -> bytes:
    """Message 17."""
    span = [datetime.fromtimestamp(at_s, ET).strftime("%Y%m%d %H:%M:%S US/Eastern") for at_s in (start_s, end_s)]
    bars = "\0".join(
        f"{_time_text(row.start_ns // 10**9, form)}\0{row.open}\0{row.high}\0{row.low}\0{row.close}\0{row.volume}"
        f"\0{row.wap}\0{row.trades}"
        for row in rows
    )
    return frame(_BARS, request_id, *span, len(rows), bars)


def _time_text(at_s: int, form: int) -> str:
    if form == 2:  # noqa: PLR2004 - the wire's number for it
        return str(at_s)
    moment = datetime.fromtimestamp(at_s, ET)
    return moment.strftime("%Y%m%d %H:%M:%S US/Eastern" if form else "%Y%m%d  %H:%M:%S")

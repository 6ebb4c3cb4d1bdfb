"""Historical bars from the sandbox IB gateway, as the unmodified client library gets them.

TRADING_DATA_IB_LIBRARY=ib_async runs these tests with the other library.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from connectors.sandbox.ib_gateway import BarRow, IbGateway, bars_truth
from connectors.sandbox.ib_gateway_process import IbGatewayProcess

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

ET = ZoneInfo("America/New_York")
LIBRARY = os.environ.get("TRADING_DATA_IB_LIBRARY", "ib_insync")
IB_ASYNC = Path(sys.prefix) / "ib_async"
NOW = "2025-09-05T16:30:00-04:00"
TESTS = (__file__, "-k", "(truly_are and MIDPOINT) or text_times or present or head_time or cancelled")
SERVICE = "Historical Market Data Service error message:"


def at(text: str) -> datetime:
    """A moment in New York."""
    return datetime.fromisoformat(text).replace(tzinfo=ET)


def ns(text: str) -> int:
    return int(at(text).timestamp()) * 10**9


class Client:
    """A connected client; `errors` holds (request id, code, text) of requests."""

    def __init__(self, ib: Any, library: Any) -> None:
        self.ib = ib
        self.library = library
        self.errors: list[tuple[int, int, str]] = []
        ib.errorEvent += self._on_error

    def _on_error(self, request_id: int, code: int, text: str, *_: object) -> None:
        if request_id >= 0:
            self.errors.append((request_id, code, text))

    async def bars(
        self, end: str, duration: str, size: str, symbol: str = "AAPL", what: str = "TRADES", **options: Any
    ) -> list[Any]:
        """Until a moment in New York, regular hours unless told otherwise."""
        options = {"useRTH": True, "formatDate": 2, **options}
        stock = self.library.Stock(symbol, options.pop("exchange", "SMART"), "USD")
        moment = at(end).astimezone(UTC) if end else ""
        return list(await self.ib.reqHistoricalDataAsync(stock, moment, duration, size, what, **options))

    async def rows(self, *request: str, **options: Any) -> list[BarRow]:
        return [row_of(bar) for bar in await self.bars(*request, **options)]

    async def head(self, symbol: str = "AAPL", *, use_rth: bool = True) -> Any:
        stock = self.library.Stock(symbol, "SMART", "USD")
        return await self.ib.reqHeadTimeStampAsync(stock, "TRADES", use_rth, 2)

    @property
    def codes(self) -> list[int]:
        return [code for _, code, _ in self.errors]


def row_of(bar: Any) -> BarRow:
    start_ns = int(bar.date.timestamp()) * 10**9
    return BarRow(start_ns, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.average, bar.barCount)


def with_client(gateway: IbGateway | IbGatewayProcess, work: Callable[[Client], Awaitable[Any]]) -> Any:
    """Run `work(client)` with a connected client in a loop of its own."""

    async def session() -> Any:
        library = importlib.import_module(LIBRARY)  # only works inside the running loop
        ib = library.IB()
        await ib.client.connectAsync(gateway.host, gateway.port, 5, timeout=5)
        try:
            return await asyncio.wait_for(work(Client(ib, library)), timeout=60)
        finally:
            ib.disconnect()

    return asyncio.run(session())


@pytest.fixture(scope="module")
def gateway() -> Iterator[IbGateway]:
    with IbGateway(rate_per_s=0, now=NOW, pacing=False) as running:
        yield running


@pytest.fixture(autouse=True)
def _a_fresh_moment(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "gateway" in request.fixturenames:
        request.getfixturevalue("gateway").set_now(NOW)


SPANS = [
    ("1 hour", "4 W", "2025-08-08T16:00", 7 * 19),  # 19 sessions: Labor Day
    ("1 min", "5 D", "2025-08-28T20:00", 5 * 390),
    ("1 secs", "1800 S", "2025-09-05T15:30", None),
]


@pytest.mark.parametrize("what", ["TRADES", "MIDPOINT", "BID", "ASK", "BID_ASK"])
@pytest.mark.parametrize(("size", "duration", "start", "count"), SPANS)
def test_bars_come_as_they_truly_are(gateway, size, duration, start, count, what):
    end = "2025-09-05T16:00"
    rows = with_client(gateway, lambda client: client.rows(end, duration, size, what=what))
    assert rows == gateway.bars_truth("AAPL", size, ns(start), ns(end), what=what)
    if count:
        assert len(rows) == count
    assert all(row.low <= min(row.open, row.close) <= max(row.open, row.close) <= row.high for row in rows)
    if what == "TRADES":
        assert all(row.volume >= row.trades >= 1 and row.low <= row.wap <= row.high for row in rows)
    else:
        assert {(row.volume, row.wap, row.trades) for row in rows} == {(-1, -1, -1)}


def test_extended_hours_begin_at_four_and_hours_are_whole_ones(gateway):
    async def look(client: Client) -> tuple[Any, Any]:
        regular = await client.bars("2025-09-04T16:00", "1 D", "1 hour")
        return regular, await client.bars("2025-09-04T20:00", "1 D", "1 hour", useRTH=False)

    regular, extended = with_client(gateway, look)
    starts = [bar.date.astimezone(ET).strftime("%H:%M") for bar in regular]
    assert starts == ["09:30", "10:00", "11:00", "12:00", "13:00", "14:00", "15:00"]
    assert [bar.date.astimezone(ET).hour for bar in extended] == list(range(4, 20))
    assert {bar.date.minute for bar in extended} == {0}
    assert regular[0].date.utcoffset() == timedelta(0)


def test_text_times_are_those_of_new_york(gateway):
    bars = with_client(gateway, lambda client: client.bars("2025-09-04T16:00", "1 D", "1 hour", formatDate=1))
    assert bars[0].date == at("2025-09-04T09:30")


def test_an_answer_of_four_weeks_is_quick_and_does_not_hold_up_others(gateway):
    async def look(client: Client) -> tuple[float, list[float]]:
        await client.bars("2025-09-04T16:00", "1 D", "1 hour")  # the calendar is loaded
        began = time.perf_counter()
        asked = [
            asyncio.ensure_future(client.bars("2025-09-05T16:00", "4 W", "1 hour", symbol, useRTH=False))
            for symbol in ("MSFT", "NVDA", "TSLA", "AMZN")
        ]
        waits: list[float] = []
        while not all(one.done() for one in asked):
            before = time.perf_counter()
            await client.ib.reqCurrentTimeAsync()
            waits.append(time.perf_counter() - before)
        return (time.perf_counter() - began) / len(asked), waits

    each_s, waits = with_client(gateway, look)
    assert each_s < 1.0  # 0.2 alone on a machine
    assert sorted(waits)[len(waits) // 2] < 0.1


def test_the_present_is_where_bars_end(gateway):
    gateway.set_now("2025-09-04T11:07:13-04:00")

    async def look(client: Client) -> list[Any]:
        return [
            await client.rows(end, duration, size)
            for end in ("", "2025-09-04T16:00", "2025-12-04T16:00")
            for size, duration in (("1 hour", "1 D"), ("1 min", "1 D"), ("1 secs", "433 S"))
        ]

    now = with_client(gateway, look)
    for hours, minutes, seconds in (now[:3], now[3:6], now[6:]):
        assert [row.start_ns for row in hours] == [ns("2025-09-04T09:30"), ns("2025-09-04T10:00")]
        assert minutes == gateway.bars_truth("AAPL", "1 min", ns("2025-09-04T09:30"), ns("2025-09-04T11:07"))
        assert seconds[0].start_ns in range(ns("2025-09-04T11:00"), ns("2025-09-04T11:00:30"))
        assert ns("2025-09-04T11:07:05") < seconds[-1].start_ns < ns("2025-09-04T11:08")


def test_seconds_are_there_for_six_months_and_minutes_for_ever(gateway):
    async def look(client: Client) -> tuple[Any, ...]:
        kept = await client.bars("2025-03-06T10:00", "1800 S", "1 secs")
        gone = await client.bars("2025-03-05T10:00", "1800 S", "1 secs")
        return kept, gone, await client.bars("2005-03-04T16:00", "1 D", "1 min"), client.errors

    kept, gone, old, errors = with_client(gateway, look)
    assert kept
    assert gone == []
    assert [(code, text) for _, code, text in errors] == [
        (162, f"{SERVICE}HMDS query returned no data: AAPL@SMART Trades")
    ]
    assert len(old) == 390


@pytest.mark.parametrize(
    ("by_calendar", "end", "duration", "starts"),
    [
        # Five minutes after the open: the rest of half an hour comes from before the weekend.
        (False, "2025-09-08T09:35", "1800 S", "2025-09-05T15:35"),
        (True, "2025-09-08T09:35", "1800 S", "2025-09-08T09:30"),
        (False, "2025-09-08T11:00", "2 D", "2025-09-05T09:30"),
        (True, "2025-09-08T11:00", "2 D", "2025-09-08T09:30"),
        (True, "2025-09-08T16:00", "3 D", "2025-09-08T09:30"),
        (True, "2025-09-08T16:00", "4 D", "2025-09-05T09:30"),
        (False, "2025-09-08T16:00", "1 W", "2025-09-02T09:30"),
        (True, "2025-09-08T16:00", "1 W", "2025-09-02T09:30"),
    ],
)
def test_durations_count_trading_time_or_the_calendar(by_calendar, end, duration, starts):
    size = "1 secs" if "S" in duration else "1 min"
    with IbGateway(now="2025-09-10T12:00:00Z", calendar_durations=by_calendar) as gateway:
        rows = with_client(gateway, lambda client: client.rows(end, duration, size))
    assert rows == bars_truth("AAPL", size, ns(starts), ns(end))


@pytest.mark.parametrize(
    ("size", "most", "too_much"),
    [("1 secs", "2000 S", "2001 S"), ("1 secs", "1800 S", "1 D"), ("1 min", "1 W", "2 W"), ("1 hour", "1 M", "2 Y")],
)
def test_a_duration_that_is_too_long_for_its_bars_is_an_invalid_step(gateway, size, most, too_much):
    async def look(client: Client) -> tuple[Any, Any, Any]:
        end = "2025-09-05T16:00"
        return await client.bars(end, most, size), await client.bars(end, too_much, size), client.errors

    taken, refused, errors = with_client(gateway, look)
    assert taken
    assert refused == []
    assert [(code, text) for _, code, text in errors] == [(162, f"{SERVICE}invalid step: {too_much.split()[0]}")]


def test_what_cannot_be_asked_is_refused_with_its_reason(gateway):
    async def look(client: Client) -> list[tuple[int, str]]:
        end, stock = "2025-09-05T16:00", client.library.Stock("AAPL", "SMART", "USD")
        await client.bars(end, "1 D", "7 mins")
        await client.bars(end, "1 D", "1 day")
        await client.bars(end, "1D", "1 min")
        await client.bars(end, "0 D", "1 min")
        await client.bars(end, "1 D", "1 min", what="PRICES")
        await client.bars(end, "1 D", "1 min", symbol="GONE")
        await client.ib.reqHistoricalDataAsync(stock, "yesterday", "1 D", "1 min", "TRADES", True)
        await client.ib.reqHistoricalDataAsync(stock, "20250905 16:00:00 Mars/North", "1 D", "1 min", "TRADES", True)
        return [(code, text) for _, code, text in client.errors]

    errors = with_client(gateway, look)
    assert [code for code, _ in errors] == [321, 321, 321, 321, 321, 200, 10314, 10314]
    assert "1 secs, 5 secs" in errors[0][1]
    assert "1 day" in errors[1][1]


def test_end_times_with_and_without_a_zone_mean_what_they_say(gateway):
    async def look(client: Client) -> list[Any]:
        stock = client.library.Stock("AAPL", "SMART", "USD")
        ends = ("20250904 16:00:00 US/Eastern", "20250904-20:00:00", "20250904 20:00:00 UTC", "20250904 16:00:00")
        return [
            [row_of(bar) for bar in await client.ib.reqHistoricalDataAsync(stock, end, "1 D", "1 hour", "TRADES", True)]
            for end in ends
        ]

    one, *others = with_client(gateway, look)
    assert [one] * 3 == others
    assert one[-1].start_ns == ns("2025-09-04T15:00")


def test_a_cancelled_request_is_told_so_and_never_answered():
    async def look(client: Client) -> tuple[int, int, int]:
        stock = client.library.Stock("AAPL", "SMART", "USD")
        open_id, answered_id = client.ib.client.getReqId(), client.ib.client.getReqId()
        client.ib.client.reqHistoricalData(open_id, stock, "", "1 D", "1 min", "TRADES", 1, 2, False, [])
        await asyncio.to_thread(gateway.wait_for, lambda running: running.bars_open)
        client.ib.client.cancelHistoricalData(open_id)
        client.ib.client.cancelHistoricalData(answered_id)
        client.ib.client.reqHistoricalData(open_id, stock, "", "2 D", "1 min", "TRADES", 1, 2, False, [])
        client.ib.client.reqHistoricalData(open_id, stock, "", "3 D", "1 min", "TRADES", 1, 2, False, [])
        await client.ib.reqCurrentTimeAsync()
        assert client.errors == [
            (open_id, 162, f"{SERVICE}API historical data query cancelled: {open_id}"),
            (answered_id, 366, f"No historical data query found for ticker id:{answered_id}"),
            (open_id, 322, "Error processing request.-'bR' : cause - Duplicate ticker id"),
        ]

    with IbGateway(now=NOW, bars_delay_s=30) as gateway:
        with_client(gateway, look)
        gateway.wait_for(lambda running: not running.bars_open)  # its client is gone
        assert [(one.kind, one.answer) for one in gateway.bars_requests] == [
            ("bars", 0),
            ("cancel", 162),
            ("cancel", 366),
            ("bars", 0),
            ("bars", 322),
        ]
        assert [one.kind for one in gateway.violations] == ["duplicate_id"]


def test_head_time_stamps_and_listings():
    async def look(client: Client) -> tuple[Any, ...]:
        heads = [await client.head(), await client.head("NEWCO"), await client.head("NEWCO", use_rth=False)]
        before = await client.bars("2025-05-30T16:00", "1 D", "1 min", "NEWCO")
        return heads, before, await client.bars("2025-06-04T16:00", "1 W", "1 hour", "NEWCO"), client.codes

    with IbGateway(now=NOW, faults=["listed:symbol=NEWCO,day=2025-06-02"]) as gateway:
        heads, before, after, codes = with_client(gateway, look)
        assert gateway.bars_requests[0].kind == "head"
    assert heads == [at("2000-01-03T09:30"), at("2025-06-02T09:30"), at("2025-06-02T04:00")]
    assert before == []
    assert codes == [162]
    assert after[0].date == at("2025-06-02T09:30")


def test_every_request_is_kept_as_it_came(gateway):
    before = len(gateway.bars_requests)
    with_client(
        gateway, lambda client: client.bars("2025-09-05T10:00", "600 S", "1 secs", useRTH=False, exchange="NYSE")
    )
    (request,) = gateway.bars_requests[before:]
    assert (request.symbol, request.exchange, request.bar_size, request.duration) == ("AAPL", "NYSE", "1 secs", "600 S")
    assert (request.end, request.use_rth, request.what_to_show) == ("20250905 14:00:00 UTC", False, "TRADES")
    assert (request.client_id, request.answer) == (5, 0)
    assert abs(request.at_ns - time.time_ns()) < 60 * 10**9
    assert request.arrived_ns <= time.monotonic_ns()


def test_a_child_takes_the_options_of_bars_and_makes_the_same_of_the_same_seed():
    async def look(client: Client) -> tuple[Any, ...]:
        began = time.perf_counter()
        rows = await client.rows("2025-09-08T09:35", "1800 S", "1 secs")
        took_s = time.perf_counter() - began
        for _ in range(8):
            await client.bars("2025-09-08T09:35", "1800 S", "1 secs")
        gateway.set_now("2025-09-08T09:31:00-04:00")
        return rows, took_s, await client.rows("", "60 S", "1 secs"), client.errors

    start, end = ns("2025-09-08T09:30"), ns("2025-09-08T09:35")
    with IbGatewayProcess(
        now="2025-09-08T12:00:00-04:00", seed=7, pacing=False, bars_delay_s=0.2, calendar_durations=True
    ) as gateway:
        rows, took_s, minute, errors = with_client(gateway, look)
        assert gateway.violations == []
        assert len(gateway.bars_requests) == 10
        assert gateway.bars_open == 0
        assert rows == gateway.bars_truth("AAPL", "1 sec", start, end)
    assert rows == bars_truth("AAPL", "1 secs", start, end, seed=7)
    assert [row.close for row in rows] != [row.close for row in bars_truth("AAPL", "1 sec", start, end)]
    assert took_s > 0.2
    assert minute[0].start_ns == start
    assert errors == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"now": "2025-09-05T16:30:00"}, "has no offset"),
        ({"now": "noon"}, "noon"),
        ({"pacing_speed": 0}, "pacing_speed is 0"),
        ({"bars_delay_s": -1}, "bars_delay_s is -1"),
        ({"faults": ["bars-none:size=2 hours"]}, "cannot read 'size=2 hours'"),
        ({"faults": ["listed:symbol=A"]}, "needs day="),
    ],
)
def test_options_that_cannot_be_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        IbGateway(**options)


@pytest.mark.slow
@pytest.mark.skipif(not IB_ASYNC.is_dir() or LIBRARY == "ib_async", reason="ib_async is not beside the environment")
def test_with_ib_async(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'inner'}", *TESTS],
        env={**os.environ, "PYTHONPATH": str(IB_ASYNC), "TRADING_DATA_IB_LIBRARY": "ib_async"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert " passed" in ended.stdout

"""Historical requests that go wrong on purpose: each fault of the sandbox gateway as a client sees it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from connectors.sandbox.ib_gateway import IbGateway, bars_truth

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

ET = ZoneInfo("America/New_York")
NOW = "2025-09-05T16:30:00-04:00"
SERVICE = "Historical Market Data Service error message:"
OPEN_S = int(datetime(2025, 9, 4, 9, 30, tzinfo=ET).timestamp())
TRUTH = [
    (str(row.start_ns // 10**9), *row[1:])
    for row in bars_truth("AAPL", "1 min", OPEN_S * 10**9, (OPEN_S + 23_400) * 10**9)
]


class Client:
    """A connected client; what it is told by request id, times as they came on the wire."""

    def __init__(self, ib: Any, library: Any) -> None:
        self.ib = ib
        self.library = library
        self.codes: list[int] = []
        self.errors: dict[int, tuple[int, str]] = {}
        self.bars: dict[int, list[tuple[Any, ...]]] = {}
        self.ended: set[int] = set()
        ib.errorEvent += self._on_error
        ib.wrapper.historicalData = self._on_bar
        ib.wrapper.historicalDataEnd = lambda request_id, *_: self.ended.add(request_id)

    def _on_error(self, request_id: int, code: int, text: str, *_: object) -> None:
        self.codes.append(code)
        if request_id >= 0:
            self.errors[request_id] = (code, text)

    def _on_bar(self, request_id: int, bar: Any) -> None:
        row = (bar.date, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.average, bar.barCount)
        self.bars.setdefault(request_id, []).append(row)

    def ask(
        self, symbol: str = "AAPL", day: str = "20250904", size: str = "1 min", duration: str = "1 D", form: int = 2
    ) -> int:
        request_id = self.ib.client.getReqId()
        stock = self.library.Stock(symbol, "SMART", "USD")
        end = f"{day} 20:00:00 UTC"
        self.ib.client.reqHistoricalData(request_id, stock, end, duration, size, "TRADES", 1, form, False, [])
        return request_id

    async def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "it never came"
            await asyncio.sleep(0.002)

    async def told(self, *request_ids: int) -> None:
        await self.until(lambda: set(request_ids) <= self.ended | set(self.errors))

    async def day(self, **asked: Any) -> list[tuple[Any, ...]]:
        request_id = self.ask(**asked)
        await self.told(request_id)
        return self.bars.get(request_id, [])

    async def refusal(self, **asked: Any) -> tuple[int, str]:
        request_id = self.ask(**asked)
        await self.told(request_id)
        return self.errors[request_id]


def with_client(gateway: IbGateway, work: Callable[[Client], Awaitable[Any]]) -> Any:
    """Run `work(client)` with a connected client in a loop of its own."""

    async def session() -> Any:
        import ib_insync  # noqa: PLC0415 - only works inside the running loop

        ib = ib_insync.IB()
        await ib.client.connectAsync(gateway.host, gateway.port, 5, timeout=5)
        try:
            return await work(Client(ib, ib_insync))
        finally:
            ib.disconnect()

    return asyncio.run(session())


@pytest.fixture(scope="module")
def shared() -> Iterator[IbGateway]:
    with IbGateway(rate_per_s=0, now=NOW, pacing=False) as running:
        yield running


@pytest.fixture
def gateway(shared) -> Iterator[IbGateway]:
    yield shared
    shared.clear_faults()


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [
        ("bars-none", (162, f"{SERVICE}HMDS query returned no data: AAPL@SMART Trades")),
        ("bars-pacing", (162, f"{SERVICE}Historical data request pacing violation")),
        ("bars-permission", (162, f"{SERVICE}No market data permissions for AMEX STK")),
        ("bars-error:code=354", (354, "Requested market data is not subscribed.")),
        (
            "bars-error:code=162,text=HMDS server connection was successful.",
            (162, "HMDS server connection was successful."),
        ),
        ("bars-error", (162, f"{SERVICE}Starting time must occur before ending time")),
    ],
)
def test_refusals_have_the_vendor_s_words(gateway, fault, refusal):
    gateway.add_fault(f"{fault}{',' if ':' in fault else ':'}times=1")

    async def look(client: Client) -> None:
        assert await client.refusal() == refusal
        assert await client.day() == TRUTH

    with_client(gateway, look)
    assert gateway.violations == []


def test_a_fault_meets_what_it_names_so_often_as_it_says(gateway):
    gateway.add_fault("bars-none:symbol=MSFT,size=1 min,day=2025-09-03,after=1,times=2")

    async def look(client: Client) -> None:
        async def is_refused(**asked: Any) -> bool:
            return not await client.day(**{"symbol": "MSFT", "day": "20250903", **asked})

        assert not await is_refused()
        assert not await is_refused(symbol="AAPL")
        assert not await is_refused(size="1 hour")
        assert not await is_refused(day="20250904", duration="3600 S")
        assert await is_refused()
        assert await is_refused(day="20250904", duration="2 D")
        assert not await is_refused()

    with_client(gateway, look)


def test_no_answer_is_none_until_the_cancel(gateway):
    gateway.add_fault("bars-no-answer:times=1")

    async def look(client: Client) -> None:
        silent, answered = client.ask(), client.ask(size="1 hour")
        await client.told(answered)
        assert gateway.bars_open == 1
        client.ib.client.cancelHistoricalData(silent)
        await client.told(silent)
        assert client.errors[silent] == (162, f"{SERVICE}API historical data query cancelled: {silent}")

    with_client(gateway, look)


def test_a_slow_answer_holds_up_no_other(gateway):
    gateway.add_fault("bars-slow:delay_s=0.4,times=1")

    async def look(client: Client) -> None:
        began = time.monotonic()
        slow, quick = client.ask(), client.ask(size="1 hour")
        await client.told(quick)
        assert slow not in client.ended
        await client.told(slow)
        assert time.monotonic() - began > 0.4
        assert client.bars[slow] == TRUTH

    with_client(gateway, look)


def test_damaged_answers_are_damaged_as_they_say(gateway):
    async def with_fault(client: Client, fault: str, **asked: Any) -> list[tuple[Any, ...]]:
        gateway.clear_faults()
        gateway.add_fault(fault)
        return await client.day(**asked)

    async def look(client: Client) -> None:
        twice = await with_fault(client, "bars-duplicates")
        assert len(TRUTH) + 2 <= len(twice) <= len(TRUTH) + 5
        assert sorted(set(twice)) == TRUTH
        assert twice == sorted(twice)
        mixed = await with_fault(client, "bars-unordered")
        assert sorted(mixed) == TRUTH != mixed
        outside = await with_fault(client, "bars-outside")
        assert set(outside) > set(TRUTH)
        assert outside[0] < TRUTH[0]
        assert outside[-1] > TRUTH[-1]
        bad = await with_fault(client, "bars-bad")
        assert len([row for row in bad if row[3] > row[2]]) == 1
        assert len(set(bad) & set(TRUTH)) == len(TRUTH) - 1
        naive = await with_fault(client, "bars-naive")
        assert naive[0] == ("20250904  09:30:00", *TRUTH[0][1:])

    with_client(gateway, look)


def test_the_forming_bar_comes_only_when_asked_for():
    with IbGateway(now="2025-09-04T11:07:30-04:00", pacing=False) as gateway:

        async def look(client: Client) -> None:
            whole = await client.day()
            gateway.add_fault("bars-forming")
            *same, forming = await client.day()
            assert same == whole
            assert whole[-1] == TRUTH[96]
            assert int(forming[0]) == OPEN_S + 97 * 60
            assert forming[1] == TRUTH[97][1]
            assert 0 < forming[5] < TRUTH[97][5]

        with_client(gateway, look)


def test_a_connection_can_drop_inside_an_answer(gateway):
    gateway.add_fault("bars-drop:times=1")

    async def look(client: Client) -> None:
        over = asyncio.Event()
        client.ib.disconnectedEvent += over.set
        cut = client.ask()
        await asyncio.wait_for(over.wait(), timeout=10)
        assert cut not in client.ended

    with_client(gateway, look)
    assert with_client(gateway, lambda client: client.day()) == TRUTH


def test_while_the_farm_of_history_is_broken_nothing_is_answered():
    async def look(client: Client) -> None:
        await client.ib.reqCurrentTimeAsync()  # after the greeting, which tells of the farms too
        client.codes.clear()
        asked = client.ask()
        await client.until(lambda: client.codes == [2105])
        await client.ib.reqCurrentTimeAsync()
        assert asked not in client.ended
        await client.told(asked)
        assert client.codes == [2105, 2106]
        assert client.bars[asked] == TRUTH

    with IbGateway(now=NOW, faults=["bars-farm:for_s=0.3"]) as gateway:
        with_client(gateway, look)


@pytest.mark.parametrize("data_lost", [False, True])
def test_a_lost_broker_answers_later_or_forgets(gateway, data_lost):
    async def look(client: Client) -> None:
        gateway.lose()
        asked = client.ask()
        await client.until(lambda: gateway.bars_open)
        gateway.restore(data_lost=data_lost)
        await client.until(lambda: {1101, 1102} & set(client.codes))
        if data_lost:
            assert gateway.bars_open == 0
            assert await client.day() == TRUTH
            assert asked not in client.ended
        else:
            await client.told(asked)
            assert client.bars[asked] == TRUTH

    with_client(gateway, look)


def test_faults_of_the_whole_gateway_begin_with_the_first_historical_request():
    async def look(client: Client) -> None:
        over = asyncio.Event()
        client.ib.disconnectedEvent += over.set
        await client.ib.reqCurrentTimeAsync()
        client.ask()
        await asyncio.wait_for(over.wait(), timeout=10)

    with IbGateway(now=NOW, faults=["drop:after_s=0.05"]) as gateway:
        with_client(gateway, look)
        assert with_client(gateway, lambda client: client.day(symbol="MSFT"))


def test_a_gateway_that_hangs_answers_afterwards(gateway):
    async def look(client: Client) -> None:
        asked = client.ask()
        gateway.hang()
        more = client.ask(size="1 hour")
        gateway.hang(on=False)
        await client.told(asked, more)
        assert client.bars[asked] == TRUTH

    with_client(gateway, look)


def test_a_stop_with_requests_open_is_quick():
    began = time.monotonic()
    with IbGateway(now=datetime.now(UTC).isoformat(), bars_delay_s=60) as gateway:

        async def look(client: Client) -> None:
            client.ask()
            await client.until(lambda: gateway.bars_open)
            await asyncio.to_thread(gateway.stop)

        with_client(gateway, look)
    assert time.monotonic() - began < 10

"""The pacing rules of the sandbox gateway: exact, on arrival times, with the real clock and with a fast one."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.sandbox._ib_bars_request import BarsQuery, bars_query
from connectors.sandbox._ib_instruments import Instruments
from connectors.sandbox._ib_pacing import PacingWatch
from connectors.sandbox.ib_gateway import IbGateway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NOW = "2025-09-05T16:30:00-04:00"
PACING = "Historical Market Data Service error message:Historical data request pacing violation"
SECOND = 10**9


def query(symbol: str = "AAPL", size: str = "1 secs", number: int = 0, what: str = "TRADES") -> BarsQuery:
    instrument = ["0", symbol, "STK", "", "0.0", "", "", "SMART", "", "USD", "", ""]
    if size == "head":
        return bars_query(["87", "1", *instrument, "0", "1", what, "2"], Instruments())
    end = f"20250905-14:{number:02d}:00"
    return bars_query(["20", "1", *instrument, "0", end, size, "600 S", "1", what, "2", "0", ""], Instruments())


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["AAPL", "MSFT"]),
        st.sampled_from(["1 secs", "30 secs", "1 min", "head"]),
        st.integers(0, 3),
        st.sampled_from(["TRADES", "BID_ASK"]),
        st.sampled_from([0, 1, SECOND // 3, SECOND, 2 * SECOND, 14 * SECOND, 15 * SECOND, 15 * SECOND + 1]),
    ),
    max_size=150,
)


@settings(max_examples=50, deadline=None)
@given(REQUESTS)
def test_the_rules_are_those_of_the_vendor_counted_one_by_one(requests):
    watch = PacingWatch()
    seen: list[tuple[int, BarsQuery]] = []
    at_ns = 0
    for symbol, size, number, what, pause_ns in requests:
        at_ns += pause_ns
        asked = query(symbol, size, number, what)
        seen.append((at_ns, asked))

        def within(seconds: int, now_ns: int = at_ns) -> list[BarsQuery]:
            return [one for when, one in seen if now_ns - when < seconds * SECOND]

        expected = set()
        if sum(one.identity == asked.identity for one in within(15)) > 1:
            expected.add("pacing_identical")
        if sum(one.tick_type == asked.tick_type for one in within(2)) >= 6:
            expected.add("pacing_burst")
        small = [one for one in within(600) if one.bar_size != "1 min"]
        if asked in small and sum(2 if one.what == "BID_ASK" else 1 for one in small) > 60:
            expected.add("pacing_window")
        assert {kind for kind, _ in watch.breaches(asked, at_ns)} == expected


def test_a_fast_clock_divides_every_window_and_slack_shortens_it():
    watch = PacingWatch(speed=100.0, slack_s=0.01)
    assert watch.breaches(query(), 0) == []
    assert [kind for kind, _ in watch.breaches(query(), 139_999_999)] == ["pacing_identical"]
    assert watch.breaches(query(), 139_999_999 + 140_000_000) == []
    symbols = [f"A{letter}" for letter in "ABCDEFGHIJKL"]
    watch = PacingWatch(speed=100.0)
    for number in range(60):
        assert watch.breaches(query(symbols[number % 12], number=number), number) == []
    assert watch.breaches(query("B"), 5_999_999_999)[0][0] == "pacing_window"
    assert watch.breaches(query("C"), 6_000_000_060) == []


class Client:
    """A connected client that asks without waiting; `errors` holds (request id, code, text) of requests."""

    def __init__(self, ib: Any, library: Any) -> None:
        self.ib = ib
        self.library = library
        self.errors: list[tuple[int, int, str]] = []
        self.ended: set[int] = set()
        ib.errorEvent += self._on_error
        ib.wrapper.historicalDataEnd = lambda request_id, *_: self.ended.add(request_id)

    def _on_error(self, request_id: int, code: int, text: str, *_: object) -> None:
        if request_id >= 0:
            self.errors.append((request_id, code, text))

    def ask(self, symbol: str = "AAPL", end: str = "20250905 14:00:00 UTC", size: str = "1 min") -> int:
        request_id = self.ib.client.getReqId()
        stock = self.library.Stock(symbol, "SMART", "USD")
        self.ib.client.reqHistoricalData(request_id, stock, end, "60 S", size, "TRADES", 1, 2, False, [])
        return request_id

    async def all_ended(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while len(self.ended) + len(self.errors) < count:
            assert time.monotonic() < deadline, "it never came"
            await asyncio.sleep(0.002)


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


def test_the_same_again_is_refused_with_162_and_everything_else_answered():
    async def look(client: Client) -> None:
        first, again, other = client.ask(), client.ask(), client.ask(end="20250905 15:00:00 UTC")
        await client.all_ended(3)
        assert client.errors == [(again, 162, PACING)]
        assert client.ended == {first, other}

    with IbGateway(now=NOW) as gateway:
        with_client(gateway, look)
        assert [one.kind for one in gateway.violations] == ["pacing_identical"]
        assert "AAPL@SMART Trades" in gateway.violations[0].detail
        assert [one.answer for one in gateway.bars_requests] == [0, 162, 0]


def test_the_sixth_of_an_instrument_within_two_seconds_is_refused():
    async def look(client: Client) -> None:
        for minute in range(6):
            client.ask("MSFT", f"20250905 14:0{minute}:00 UTC")
            client.ask("AAPL" if minute < 5 else "NVDA", f"20250905 14:0{minute}:00 UTC")
        await client.all_ended(12)
        assert [code for _, code, _ in client.errors] == [162]

    with IbGateway(now=NOW) as gateway:
        with_client(gateway, look)
        assert [one.kind for one in gateway.violations] == ["pacing_burst"]
        times = [one.arrived_ns for one in gateway.bars_requests]
        assert times == sorted(times)


def test_the_sixty_first_small_one_is_refused_and_large_ones_are_not_counted():
    async def look(client: Client) -> None:
        for number in range(60):
            client.ask(f"S{chr(65 + number // 10)}{chr(65 + number % 10)}", size="1 min" if number % 2 else "1 secs")
        await client.all_ended(60)
        for number in range(30):
            client.ask(f"T{chr(65 + number // 10)}{chr(65 + number % 10)}", size="30 secs")
        await client.all_ended(90)
        client.ask("U", size="1 min")
        late = client.ask("U", size="1 secs")
        await client.all_ended(92)
        assert client.errors == [(late, 162, PACING)]

    # The client sends 45 messages a second at most, as the library does.
    with IbGateway(now=NOW) as gateway:
        with_client(gateway, look)
        assert [one.kind for one in gateway.violations] == ["pacing_window"]


def test_a_fast_clock_forgets_quickly():
    async def look(client: Client) -> None:
        client.ask()
        await client.all_ended(1)
        await asyncio.sleep(15 / 50)  # what the rule asks for, after the answer
        client.ask()
        await client.all_ended(2)
        assert client.errors == []

    with IbGateway(now=NOW, pacing_speed=50.0) as gateway:
        with_client(gateway, look)
        assert gateway.violations == []


def test_the_fifty_first_open_request_is_refused():
    async def look(client: Client) -> None:
        for number in range(51):
            client.ask(f"S{chr(65 + number // 10)}{chr(65 + number % 10)}")
        await client.all_ended(1)
        assert gateway.bars_open == 50
        assert [code for _, code, _ in client.errors] == [162]

    with IbGateway(now=NOW, bars_delay_s=60) as gateway:
        with_client(gateway, look)
        assert [one.kind for one in gateway.violations] == ["open_requests"]


def test_a_client_that_goes_on_is_disconnected():
    async def look(client: Client) -> None:
        over = asyncio.Event()
        client.ib.disconnectedEvent += over.set
        for _ in range(6):
            client.ask()
        await asyncio.wait_for(over.wait(), timeout=10)
        assert [code for _, code, _ in client.errors] == [162] * 5

    with IbGateway(now=NOW) as gateway:
        with_client(gateway, look)
        assert {one.kind for one in gateway.violations} == {"pacing_identical", "pacing_burst"}


@pytest.mark.parametrize("pacing", [True, False])
def test_answer_delays_do_not_change_when_a_request_arrived(pacing):
    async def look(client: Client) -> None:
        for _ in range(2):
            client.ask()
        await client.all_ended(2)
        assert len(client.errors) == pacing

    with IbGateway(now=NOW, pacing=pacing, answer_delay_s=0.3) as gateway:
        with_client(gateway, look)
        assert [one.kind for one in gateway.violations] == ["pacing_identical"] * pacing
        for one in gateway.bars_requests:
            assert (time.time_ns() - one.at_ns) + 0.25 * SECOND < time.monotonic_ns() - one.arrived_ns

"""Depth from the sandbox IB gateway, as the raw callback of the unmodified ib_insync client sees it."""

from __future__ import annotations

import asyncio
import math
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.sandbox._ib_market import Market, Rows, cycle, market_makers, replayed
from connectors.sandbox.ib_gateway import IbGateway
from contracts.book import Book

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

OPERATIONS = ("add", "update", "remove")
SIDES = ("ask", "bid")
MARKETS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "exchange": st.sampled_from(["SMART", "ISLAND", "ARCA"]),
        "rows": st.sampled_from([1, 2, 3, 5, 10, 20]),
        "overflow": st.sampled_from(["implicit", "explicit"]),
    }
)


class Client:
    """A connected ib_insync client whose raw depth messages are kept."""

    def __init__(self, gateway: IbGateway, ib: Any, library: Any) -> None:
        self.gateway = gateway
        self.ib = ib
        self.library = library
        self.messages: list[tuple[Any, ...]] = []
        self.errors: list[tuple[int, int]] = []
        ib.wrapper.updateMktDepthL2 = lambda *message: self.messages.append(message)
        ib.errorEvent += lambda request_id, code, *_: self.errors.append((request_id, code))

    def subscribe(self, symbol: str = "AAPL", rows: int = 10, exchange: str = "SMART", **options: Any) -> int:
        request_id = options.get("request_id") or self.ib.client.getReqId()
        instrument = self.library.Stock(symbol, exchange, "USD")
        is_smart = options.get("is_smart", exchange == "SMART")
        self.ib.client.reqMktDepth(request_id, instrument, rows, is_smart, None)
        return request_id

    def received(self) -> list[tuple[Any, ...]]:
        """Request, position, market maker, operation, side, price, size."""
        return [message[:7] for message in self.messages]

    def codes(self) -> list[int]:
        """Of errors about a request."""
        return [code for request_id, code in self.errors if request_id >= 0]

    async def until(self, condition: Callable[[], object], within_s: float = 10.0) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, "it never came"
            await asyncio.sleep(0.002)

    async def all_that_was_sent(self) -> None:
        """Wait for what the gateway has sent until now."""
        await self.ib.reqCurrentTimeAsync()


def with_client(gateway: IbGateway, work: Callable[[Client], Awaitable[Any]]) -> Any:
    """Run `work(client)` with a connected client in a loop of its own."""

    async def session() -> Any:
        import ib_insync  # noqa: PLC0415 - only works inside the running loop

        ib = ib_insync.IB()
        await ib.client.connectAsync(gateway.host, gateway.port, 5, timeout=5)
        try:
            return await work(Client(gateway, ib, ib_insync))
        finally:
            ib.disconnect()

    return asyncio.run(session())


def sent(gateway: IbGateway) -> list[tuple[Any, ...]]:
    return [
        (one.request_id, one.position, one.market_maker, one.operation, one.side, one.price, one.size)
        for one in gateway.sent
    ]


def book_of(messages: list[tuple[Any, ...]], levels: int) -> Book:
    """The book of the contract that raw callbacks build."""
    book = Book(levels)
    for _, position, _, operation, side, price, size, *_ in messages:
        book.apply(OPERATIONS[operation], SIDES[side], position, price, int(size))
    return book


def columns(rows: Rows | Any, levels: int) -> tuple[list[float], ...]:
    """The gateway's own rows in the form of the contract's."""
    lists: list[list[float]] = []
    for side in (rows.bid, rows.ask):
        lists += [[row.price for row in side[:levels]], [row.size for row in side[:levels]]]
    return tuple(values + [0] * (levels - len(values)) for values in lists)


@settings(max_examples=60, deadline=None)
@given(MARKETS)
def test_after_every_message_the_contracts_book_is_the_market_itself(options):
    market = Market(f"{options['seed']}", market_makers(options["exchange"]), options["rows"], options["overflow"])
    book = Book(options["rows"])
    kinds: set[int] = set()
    equal_prices = False
    operations = market.opening()
    for _ in range(400):
        for position, operation, side, price, size, _ in operations:
            assert book.apply(OPERATIONS[operation], SIDES[side], position, price, int(size))
            kinds.add(operation)
        shown = market.shown()
        assert book.row() == columns(shown, options["rows"])
        for side, sign in ((shown.bid, -1), (shown.ask, 1)):
            prices = [sign * row.price for row in side]
            assert prices == sorted(prices)
            assert len({(row.price, row.market_maker) for row in side}) == len(side)
            equal_prices = equal_prices or len(set(prices)) < len(prices)
        if shown.bid and shown.ask:
            assert shown.bid[0].price < shown.ask[0].price
        operations = market.step()
    assert kinds == {0, 1, 2}
    if options["exchange"] == "ARCA":
        assert not equal_prices
    elif options["rows"] >= 10:
        assert equal_prices


@settings(max_examples=30, deadline=None)
@given(MARKETS)
def test_a_load_begins_and_ends_with_the_same_rows(options):
    market = Market(f"{options['seed']}", market_makers(options["exchange"]), options["rows"], options["overflow"])
    begin = market.shown()
    rows = replayed([*begin.inserts(), *cycle(market, 300)], options["rows"])
    assert (rows.bid, rows.ask) == (begin.bid, begin.ask)


@settings(max_examples=25, deadline=None)
@given(MARKETS)
def test_what_the_client_hears_is_what_was_sent_and_builds_the_gateways_book(options):
    async def listen(client: Client) -> None:
        client.subscribe(rows=options["rows"], exchange=options["exchange"])
        await client.until(lambda: len(client.messages) > 150)
        client.gateway.set_rate(0)
        await client.all_that_was_sent()
        assert client.received() == sent(client.gateway)
        assert all(0 <= message[1] < options["rows"] for message in client.messages)
        assert all((len(message) == 7) == (options["exchange"] == "ARCA") for message in client.messages)
        book = book_of(client.messages, options["rows"])
        assert book.row() == columns(client.gateway.book("AAPL"), options["rows"])
        assert not book.anomalies

    with IbGateway(rate_per_s=5_000, seed=options["seed"], overflow=options["overflow"]) as gateway:
        with_client(gateway, listen)
        assert gateway.violations == []


def test_smart_rows_carry_venues_and_equal_prices_stand_side_by_side():
    async def listen(client: Client) -> None:
        smart = client.subscribe()
        direct = client.subscribe(exchange="ARCA")
        makers = client.subscribe(exchange="ISLAND")
        await client.until(lambda: len(client.messages) > 600)
        by_request = {wanted: [m for m in client.messages if m[0] == wanted] for wanted in (smart, direct, makers)}
        assert len({message[2] for message in by_request[smart]}) > 5
        assert {message[7] for message in by_request[smart]} == {True}
        assert {message[2] for message in by_request[direct]} == {""}
        assert "NSDQ" in {message[2] for message in by_request[makers]}
        assert {message[7] for message in by_request[makers]} == {False}

    with IbGateway(rate_per_s=1_000) as gateway:
        with_client(gateway, listen)


def test_the_same_seed_sends_the_same_messages_and_another_one_others():
    async def listen(client: Client) -> list[tuple[Any, ...]]:
        client.subscribe()
        await client.until(lambda: len(client.messages) > 100)
        return [message[1:] for message in client.messages[:100]]

    heard = []
    for seed in (1, 1, 2):
        with IbGateway(rate_per_s=2_000, seed=seed) as gateway:
            heard.append(with_client(gateway, listen))
    assert heard[0] == heard[1] != heard[2]


def test_a_new_request_goes_on_near_the_price_where_the_last_one_was():
    async def listen(client: Client) -> None:
        first = client.subscribe()
        await client.until(lambda: len(client.messages) > 400)
        client.ib.client.cancelMktDepth(first, True)
        await client.all_that_was_sent()
        last = client.gateway.sent[-1]
        second = client.subscribe()
        await client.until(lambda: client.messages[-1][0] == second)
        prices = [message[5] for message in client.messages if message[0] == second]
        assert abs(prices[0] - max(m[5] for m in client.messages[-400 : -len(prices)])) < 2
        assert last.request_id == first

    with IbGateway(rate_per_s=2_000) as gateway:
        with_client(gateway, listen)


def test_a_script_is_sent_as_written_possible_or_not():
    script = [
        (0, 0, 1, 230.01, 300, "ARCA"),
        (1, 0, 1, 230.0, 200, "BATS"),
        (0, 0, 0, 230.02, 2**40, "IEX"),
        (0, 1, 1, 230.01, 0.5, "ARCA"),
        (7, 1, 1, 229.0, 100, "NYSE"),
        (1, 2, 1, 0.0, 0, "BATS"),
        (9, 9, 9, math.inf, -1, "X"),
        (-1, 0, 0, math.nan, 1),
    ]

    async def listen(client: Client) -> None:
        request_id = client.subscribe()
        await client.until(lambda: client.gateway.depth_lines_used)
        await client.all_that_was_sent()
        assert client.messages == []
        client.gateway.send_depth("AAPL", script)
        await client.until(lambda: len(client.messages) == len(script))
        expected = [
            (request_id, position, *(maker or [""]), operation, side, price, size)
            for position, operation, side, price, size, *maker in script
        ]
        assert repr(client.received()) == repr([(*row[:6], float(row[6])) for row in expected])
        book = client.gateway.book("AAPL")
        assert [tuple(row) for row in book.bid] == [(230.01, 0.5, "ARCA")]
        assert [tuple(row) for row in book.ask] == [(230.02, 2**40, "IEX")]
        with pytest.raises(ValueError, match="nothing is subscribed for MSFT"):
            client.gateway.send_depth("MSFT", script)
        with pytest.raises(ValueError, match="position, operation, side, price, size"):
            client.gateway.send_depth("AAPL", [(1, 2, 3)])

    with IbGateway(rate_per_s=0) as gateway:
        with_client(gateway, listen)


def test_rows_can_be_other_than_asked_for():
    async def listen(client: Client) -> None:
        client.subscribe(rows=5)
        await client.until(lambda: len(client.messages) > 300)
        client.gateway.set_rate(0)
        await client.all_that_was_sent()
        assert max(message[1] for message in client.messages) == client.rows - 1
        book = book_of(client.messages, 5)
        assert book.row() == columns(client.gateway.book("AAPL"), 5)

    for rows in (2, 8):
        with IbGateway(rate_per_s=2_000, rows=rows, seed=4) as gateway:

            async def listen_for(client: Client, rows: int = rows) -> None:
                client.rows = rows
                await listen(client)

            with_client(gateway, listen_for)


def test_a_line_more_than_the_account_has_is_309_until_one_is_cancelled():
    async def listen(client: Client) -> None:
        ids = [client.subscribe(symbol) for symbol in ("AAPL", "MSFT", "NVDA")]
        await client.until(client.codes)
        assert client.errors[-1] == (ids[2], 309)
        assert client.gateway.depth_lines_used == 2
        client.ib.client.cancelMktDepth(ids[0], True)
        again = client.subscribe("NVDA")
        await client.until(lambda: any(message[0] == again for message in client.messages))
        assert {message[0] for message in client.messages} == {ids[0], ids[1], again}

    with IbGateway(depth_lines=2) as gateway:
        with_client(gateway, listen)
        assert [violation.kind for violation in gateway.violations] == ["depth_limit"]
        gateway.wait_for(lambda _: gateway.depth_lines_used == 0)
        assert [(request.kind, request.symbol, request.answer) for request in gateway.requests] == [
            ("subscribe", "AAPL", 0),
            ("subscribe", "MSFT", 0),
            ("subscribe", "NVDA", 309),
            ("cancel", "AAPL", 0),
            ("subscribe", "NVDA", 0),
        ]


def test_a_cancel_with_another_is_smart_keeps_the_line_in_use():
    async def listen(client: Client) -> None:
        request_id = client.subscribe()
        client.ib.client.cancelMktDepth(request_id, False)
        await client.until(client.codes)
        assert client.errors[-1] == (request_id, 310)
        assert client.gateway.depth_lines_used == 1
        before = len(client.messages)
        await client.until(lambda: len(client.messages) > before + 5)
        client.ib.client.cancelMktDepth(request_id, True)
        client.ib.client.cancelMktDepth(request_id, True)
        await client.until(lambda: len(client.codes()) == 2)
        assert client.gateway.depth_lines_used == 0
        after = len(client.messages)
        await client.all_that_was_sent()
        assert len(client.messages) == after

    with IbGateway(rate_per_s=500) as gateway:
        with_client(gateway, listen)
        assert [violation.kind for violation in gateway.violations] == ["cancel_mismatch", "unknown_cancel"]


def test_a_ticker_id_in_use_is_refused_and_the_first_one_goes_on():
    async def listen(client: Client) -> None:
        request_id = client.subscribe()
        client.subscribe("MSFT", request_id=request_id)
        await client.until(client.codes)
        assert client.errors[-1] == (request_id, 102)
        assert [line.symbol for line in client.gateway.requests if not line.answer] == ["AAPL"]

    with IbGateway() as gateway:
        with_client(gateway, listen)
        assert [violation.kind for violation in gateway.violations] == ["duplicate_id"]


def test_depth_of_what_cannot_be_is_refused():
    async def listen(client: Client) -> None:
        asked = [
            client.subscribe("GONE"),
            client.subscribe("AAPL", rows=0),
            client.subscribe("AAPL", is_smart=False),
            client.subscribe("AAPL", exchange="ARCA", is_smart=True),
            client.subscribe("MSFT"),
            client.subscribe("NVDA"),
        ]
        await client.until(lambda: len(client.codes()) == 6)
        assert client.errors[-6:] == list(zip(asked, [200, 321, 10092, 10092, 10186, 2152], strict=True))
        await client.until(lambda: client.messages)
        assert {message[0] for message in client.messages} == {asked[-1]}

    with IbGateway(refused={"MSFT": 10186, "NVDA": 2152}) as gateway:
        with_client(gateway, listen)
        assert gateway.violations == []


def test_messages_can_follow_a_cancel():
    async def listen(client: Client) -> None:
        request_id = client.subscribe()
        await client.until(lambda: client.messages)
        client.gateway.late_after_cancel(3)
        client.ib.client.cancelMktDepth(request_id, True)
        await client.until(lambda: not client.gateway.depth_lines_used)
        await client.all_that_was_sent()
        assert client.received() == sent(client.gateway)
        assert [one.is_late for one in client.gateway.sent[-4:]] == [False, True, True, True]

    with IbGateway() as gateway:
        with_client(gateway, listen)


def test_two_clients_have_their_own_lines_and_books():
    async def listen(client: Client) -> None:
        async def other_session() -> None:
            ib = client.library.IB()
            await ib.client.connectAsync(gateway.host, gateway.port, 6, timeout=5)
            other = Client(gateway, ib, client.library)
            second = other.subscribe("AAPL", rows=3)
            await other.until(lambda: len(other.messages) > 50)
            assert gateway.depth_lines_used == 2
            assert second == first
            ib.disconnect()

        first = client.subscribe("AAPL", rows=5)
        await other_session()
        await client.until(lambda: gateway.depth_lines_used == 1)
        gateway.set_rate(0)
        await client.all_that_was_sent()
        assert book_of(client.messages, 5).row() == columns(gateway.book("AAPL"), 5)

    with IbGateway(rate_per_s=500) as gateway:
        with_client(gateway, listen)


def test_a_load_comes_at_its_rate_evenly_and_ends_in_the_gateways_book():
    async def listen(client: Client) -> None:
        asked = [client.subscribe(rows=10), client.subscribe("MSFT", rows=5, exchange="ARCA")]
        await client.until(lambda: len(client.messages) > 20)
        gateway.set_rate(0)
        await client.all_that_was_sent()
        before = gateway.sent_counts
        gateway.load("AAPL", 12_000, 2)
        gateway.load("MSFT", 3_000, 1)
        await client.until(lambda: not gateway.is_loading(), within_s=20)
        await client.all_that_was_sent()
        aapl, msft = ([message for message in client.messages if message[0] == request] for request in asked)
        extra = {symbol: count - before[symbol] for symbol, count in gateway.sent_counts.items()}
        assert extra["AAPL"] == 24_000
        assert extra["MSFT"] == 3_000
        assert len(client.messages) == sum(gateway.sent_counts.values())
        for messages, symbol, levels in ((aapl, "AAPL", 10), (msft, "MSFT", 5)):
            book = book_of(messages, levels)
            assert not book.anomalies
            assert book.row() == columns(gateway.book(symbol), levels)

    with IbGateway(rate_per_s=500) as gateway:
        with_client(gateway, listen)
        batches = [batch for batch in gateway.batches if batch.symbol == "AAPL"]
    assert sum(batch.messages for batch in batches) == 24_000
    assert [batch.first for batch in batches[:2]] == [0, batches[0].messages]
    # However late a busy machine lets it be, it is never ahead of its pace by more than one such delay.
    begin, sent_before = batches[0].at_ns, batches[0].messages
    for batch in batches[1:]:
        sent_before += batch.messages
        assert sent_before - batches[0].messages <= 12_000 * ((batch.at_ns - begin) / 1e9 + 0.1)
    assert len(batches) > 100


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_the_clients_book_stays_the_gateways(seed):
    async def listen(client: Client) -> None:
        client.ib.errorEvent += lambda _request, code, *_: client.messages.append(("reset",)) if code == 317 else None
        chance = random.Random(seed)  # noqa: S311 - a test's own choice
        happenings = [
            lambda: gateway.reset("AAPL"),
            lambda: gateway.error(317, symbol="AAPL"),
            lambda: gateway.set_rate(chance.choice([0, 100, 3_000])),
            lambda: gateway.load("AAPL", 20_000, 0.02),
            lambda: gateway.silence(on=chance.random() < 0.5),
        ]
        client.subscribe(rows=6)
        await client.until(lambda: client.messages)
        for _ in range(25):
            chance.choice(happenings)()
            await asyncio.sleep(chance.random() / 50)
        gateway.silence(on=False)
        await client.until(lambda: not gateway.is_loading())
        gateway.set_rate(0)
        await client.all_that_was_sent()
        book = Book(6)
        for message in client.messages:
            if message == ("reset",):
                book.clear()
            else:
                _, position, _, operation, side, price, size, *_ = message
                assert book.apply(OPERATIONS[operation], SIDES[side], position, price, int(size))
        assert book.row() == columns(gateway.book("AAPL"), 6)
        assert ("reset",) in client.messages

    with IbGateway(rate_per_s=500, seed=seed) as gateway:
        with_client(gateway, listen)

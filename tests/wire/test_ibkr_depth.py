"""Live capture against the sandbox gateway with the unmodified client library: every row of the table of incidents.

TRADING_DATA_IB_LIBRARY names the library; `test_ibkr_async` runs this file again with the other one.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import threading
import time

import pytest

from connectors.ibkr import session
from connectors.ibkr.clock import ReceiptClock
from connectors.ibkr.depth import DepthCapture, DepthRequest
from connectors.ibkr.session import GatewayAddress
from connectors.sandbox.ib_gateway import IbGateway
from contracts.book import Book

LIBRARY = os.environ.get("TRADING_DATA_IB_LIBRARY")
S = 1_000_000_000
OPERATIONS = ("add", "update", "remove")


class Capture:
    """A capture in a thread of its own loop; what its sink was told can be read at any time.

    `told` holds ("lost", symbol, ns, cause, since_ns, clear), ("seen", symbol, ns), ("note", symbol, kind), and
    ("message", symbol, ns, (position, market maker, operation, side, price, size)).
    """

    def __init__(self, gateway, symbols=("AAPL",), *, levels=10, seconds=60.0, timeout_s=10.0, clock=None, **options):
        words = {name: options.pop(name) for name in ("exchange", "max_lines", "silence_s") if name in options}
        self.request = DepthRequest(list(symbols), levels, **words)
        self.address = GatewayAddress(gateway.host, gateway.port, 2011, timeout_s)
        self.clock = clock or ReceiptClock()
        self.end_ns = self.clock.now_ns() + int(seconds * S)
        self.options = {"library": LIBRARY, "is_market_open": lambda _: True, **options}
        self.told = []
        self.room = 10**9
        self.has_half = True
        self.outcome = self.error = None
        self.complaints = []
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self):
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.stop = asyncio.Event()
        self.capture = DepthCapture(
            self.address, self.request, self, clock=self.clock, end_ns=self.end_ns, stop=self.stop, **self.options
        )
        self.task = asyncio.create_task(self.capture.run())
        self.ready.set()
        try:
            self.outcome = await self.task
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        self.left_over = asyncio.all_tasks() - {asyncio.current_task()}
        del self.task
        gc.collect()
        await asyncio.sleep(0)

    def __enter__(self):
        self.thread.start()
        self.ready.wait(10)
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Stop, wait for the end; returns the outcome. Nothing may be left behind."""
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.stop.set)
        return self.join()

    def join(self, within_s=20.0):
        self.thread.join(within_s)
        assert not self.thread.is_alive()
        assert not self.left_over
        assert not self.complaints
        return self.outcome

    # The sink.

    def message(self, symbol, ns, operation, side, level, price, size, market_maker):
        if self.room <= 0:
            return False
        self.room -= 1
        self.told.append(("message", symbol, ns, (level, market_maker, operation, side, price, size)))
        return True

    def lost(self, symbol, ns, cause, detail, *, since_ns, clear):
        assert detail
        self.told.append(("lost", symbol, ns, cause, since_ns, clear))

    def seen(self, symbol, ns):
        self.told.append(("seen", symbol, ns))

    def note(self, symbol, kind):
        self.told.append(("note", symbol, kind))

    def has_room(self):
        return self.has_half

    # What a test asks.

    def messages(self, symbol="AAPL"):
        return [entry[3] for entry in list(self.told) if entry[:2] == ("message", symbol)]

    def incidents(self, symbol="AAPL"):
        """The gaps since the start, as (cause, clear), with "seen" where they ended."""
        return [
            entry[3::2] if entry[0] == "lost" else entry[0]
            for entry in list(self.told)
            if entry[1] == symbol and entry[0] in ("lost", "seen")
        ]

    def wait_for(self, condition, within_s=15.0):
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, self.told[-20:]
            assert self.thread.is_alive() or condition(), self.error
            time.sleep(0.005)

    def wait_live(self, *symbols):
        self.wait_for(
            lambda: all(self.capture.states()[symbol] == "live" for symbol in symbols or self.request.symbols)
        )


def rows(count, *, first=0, side=1):
    """So many adds, each at the top."""
    return [(0, 0, side, 230.0 + n, 100.0 + n, "ARCA") for n in range(first, first + count)]


def sent(gateway, symbol="AAPL"):
    """What the gateway sent of a symbol on requests that it had not seen cancelled."""
    return [
        (each.position, each.market_maker, each.operation, each.side, each.price, each.size)
        for each in gateway.sent
        if each.symbol == symbol and not each.is_late
    ]


def all_arrived(gateway, capture, symbol="AAPL"):
    capture.wait_for(lambda: len(capture.messages(symbol)) == len(sent(gateway, symbol)))
    assert capture.messages(symbol) == sent(gateway, symbol)


def requests(gateway):
    return [(each.kind, each.symbol) for each in gateway.requests]


def stamps_are_orderly(capture):
    stamps = [entry[2] for entry in capture.told if entry[0] != "note"]
    assert stamps == sorted(stamps)


@pytest.fixture
def scripted():
    """A gateway that sends what it is told to."""
    with IbGateway(rate_per_s=0, depth_lines=3) as gateway:
        yield gateway
        assert gateway.violations == []
        gateway.wait_for(lambda gateway: not gateway.clients)


@pytest.fixture
def seen(scripted):
    """A capture of AAPL that has seen three rows."""
    with Capture(scripted) as capture:
        scripted.wait_for(lambda gateway: gateway.depth_lines_used == 1)
        scripted.send_depth("AAPL", rows(3))
        capture.wait_live()
        all_arrived(scripted, capture)
        yield capture
    assert capture.error is None
    stamps_are_orderly(capture)


@pytest.mark.parametrize("overflow", ["explicit", "implicit"])
def test_every_message_is_handed_on_once_and_gives_the_gateway_s_own_book(overflow):
    symbols = ("AAPL", "MSFT", "NVDA")
    with IbGateway(rate_per_s=500, overflow=overflow) as gateway:
        with Capture(gateway, symbols, levels=5) as capture:
            capture.wait_for(lambda: all(len(capture.messages(symbol)) > 200 for symbol in symbols))
            gateway.set_rate(0)
            for symbol in symbols:
                all_arrived(gateway, capture, symbol)
                book = Book(5)
                for level, _, operation, side, price, size in capture.messages(symbol):
                    book.apply(OPERATIONS[operation], "bid" if side else "ask", level, price, int(size))
                held = gateway.book(symbol)
                bid_prices, bid_sizes, ask_prices, ask_sizes = book.row()
                for prices, sizes, side in ((bid_prices, bid_sizes, held.bid), (ask_prices, ask_sizes, held.ask)):
                    assert [(price, size) for price, size in zip(prices, sizes, strict=True) if size] == [
                        (row.price, row.size) for row in side
                    ]
        assert gateway.violations == []
    assert capture.outcome.states == dict.fromkeys(symbols, "live")
    assert all(capture.incidents(symbol) == ["seen"] for symbol in symbols)
    stamps_are_orderly(capture)
    sent_ns = [each.at_ns for each in gateway.sent if each.symbol == "AAPL"]
    seen_ns = [entry[2] for entry in capture.told if entry[:2] == ("message", "AAPL")]
    assert max(abs(a - b) for a, b in zip(sent_ns, seen_ns, strict=True)) < S


@pytest.mark.parametrize(("exchange", "has_makers"), [("ISLAND", True), ("ARCA", False)])
def test_depth_of_one_exchange_is_asked_for_and_cancelled_as_such(scripted, exchange, has_makers):
    with Capture(scripted, exchange=exchange) as capture:
        scripted.wait_for(lambda gateway: gateway.depth_lines_used == 1)
        scripted.send_depth("AAPL", rows(3))
        all_arrived(scripted, capture)
        assert bool(capture.messages()[0][1]) == has_makers
    assert [(each.exchange, each.is_smart, each.answer) for each in scripted.requests] == [(exchange, False, 0)] * 2


def test_a_class_share_is_asked_for_as_the_broker_writes_it(scripted):
    with Capture(scripted, ["BRK-B"]) as capture:
        scripted.wait_for(lambda gateway: gateway.depth_lines_used == 1)
        scripted.send_depth("BRK B", rows(1))
        capture.wait_live("BRK-B")
        assert len(capture.messages("BRK-B")) == 1


def test_a_reset(scripted, seen):
    scripted.error(317, symbol="AAPL")
    seen.wait_for(lambda: seen.incidents()[1:] == [("reset_317", True)])
    scripted.send_depth("AAPL", rows(2, first=9))
    all_arrived(scripted, seen)
    assert seen.incidents() == ["seen", ("reset_317", True), "seen"]
    assert requests(scripted) == [("subscribe", "AAPL")]


def test_a_reset_among_messages_comes_in_its_place(scripted, seen):
    for n in range(20):
        scripted.send_depth("AAPL", rows(3, first=10 * n))
        scripted.error(317, symbol="AAPL")
    scripted.send_depth("AAPL", rows(3))
    all_arrived(scripted, seen)
    log = [entry[0] for entry in seen.told]
    assert log == ["seen", *["message"] * 6, *["lost", "seen", "message", "message", "message"] * 20]


def test_a_halt(scripted, seen):
    scripted.halt("AAPL")
    seen.wait_for(lambda: len(scripted.requests) == 3)
    assert requests(scripted)[1:] == [("cancel", "AAPL"), ("subscribe", "AAPL")]
    scripted.send_depth("AAPL", rows(2, first=9))
    all_arrived(scripted, seen)
    assert seen.incidents() == ["seen", ("halt_316", True), "seen"]


def test_a_lost_broker_who_kept_the_data(scripted, seen):
    scripted.lose()
    seen.wait_for(lambda: seen.incidents()[1:] == [("disconnect", False)])
    scripted.restore(data_lost=False)
    scripted.send_depth("AAPL", rows(2, first=9))
    seen.wait_for(lambda: seen.incidents()[2:] == ["seen"])
    all_arrived(scripted, seen)
    assert len(seen.incidents()) == 3
    assert requests(scripted) == [("subscribe", "AAPL")]
    assert set(scripted.request_names) == {"startApi", "reqContractDetails", "reqMktDepth"}, "nothing of the account"


def test_a_lost_broker_who_lost_the_data(scripted, seen):
    scripted.lose()
    scripted.restore(data_lost=True)
    seen.wait_for(lambda: len(scripted.requests) == 2)
    scripted.send_depth("AAPL", rows(2, first=9))
    all_arrived(scripted, seen)
    assert seen.incidents() == ["seen", ("disconnect", False), ("data_lost", True), "seen"]
    assert requests(scripted) == [("subscribe", "AAPL")] * 2, "without a cancel"


def test_a_farm_that_returns_without_a_feed(scripted):
    with Capture(scripted, ("AAPL", "MSFT")) as capture:
        scripted.wait_for(lambda gateway: gateway.depth_lines_used == 2)
        for symbol in ("AAPL", "MSFT"):
            scripted.send_depth(symbol, rows(2))
        capture.wait_live()
        scripted.farm(0.3, dead=["AAPL"], flowing=True)
        scripted.send_depth("MSFT", rows(1))
        scripted.wait_for(lambda gateway: len(gateway.requests) == 4)
        scripted.send_depth("AAPL", rows(1))
        capture.wait_for(lambda: capture.incidents() == ["seen", ("data_lost", True), "seen"])
        assert capture.incidents("MSFT") == ["seen"]
        assert requests(scripted)[2:] == [("cancel", "AAPL"), ("subscribe", "AAPL")]
        (lost,) = [entry for entry in capture.told if entry[0] == "lost"]
        assert 0.2 * S < lost[2] - lost[4] < 2 * S, "since the farm broke"


@pytest.mark.parametrize("mid_message", [False, True])
def test_a_dropped_connection(scripted, seen, mid_message):
    scripted.drop(mid_message=mid_message, refuse_for_s=0.8)
    seen.wait_for(lambda: seen.incidents()[1:] == [("disconnect", True)])
    assert seen.capture.states() == {"AAPL": "lost"}
    seen.wait_for(lambda: len(scripted.requests) == 2)
    before = len(seen.messages())
    scripted.send_depth("AAPL", rows(2, first=9))
    seen.wait_for(lambda: len(seen.messages()) == before + 2)
    assert seen.incidents() == ["seen", ("disconnect", True), "seen"]
    lost = next(entry for entry in seen.told if entry[0] == "lost")
    assert max(entry[2] for entry in seen.told[:4]) <= lost[4] <= lost[2]
    assert seen.end().reconnects == 1


def test_a_silent_book_in_regular_hours_and_a_closed_market():
    with IbGateway(rate_per_s=0) as gateway:
        with Capture(gateway, silence_s=0.4) as capture:
            gateway.wait_for(lambda gateway: gateway.depth_lines_used == 1)
            gateway.send_depth("AAPL", rows(1))
            gateway.wait_for(lambda gateway: len(gateway.requests) >= 3)
            gateway.send_depth("AAPL", rows(1))
            capture.wait_for(lambda: capture.incidents() == ["seen", ("data_lost", True), "seen"])
            lost = next(entry for entry in capture.told if entry[0] == "lost")
            assert lost[4] == capture.told[1][2], "since its last message"
        assert requests(gateway)[:3] == [("subscribe", "AAPL"), ("cancel", "AAPL"), ("subscribe", "AAPL")]
        with Capture(gateway, silence_s=0.2, is_market_open=lambda _: False, seconds=1.0) as capture:
            capture.join()
        assert requests(gateway)[-2:] == [("subscribe", "AAPL"), ("cancel", "AAPL")]
        assert gateway.violations == []


def test_a_gateway_that_says_nothing_at_all_is_asked_and_then_dropped(scripted, monkeypatch):
    monkeypatch.setattr(session, "_QUIET_NS", S // 2)
    monkeypatch.setattr(session, "_ANSWER_NS", S // 2)
    with Capture(scripted) as capture:
        scripted.wait_for(lambda gateway: gateway.depth_lines_used == 1)
        scripted.send_depth("AAPL", rows(1))
        capture.wait_live()
        scripted.wait_for(lambda gateway: gateway.request_names.get("reqCurrentTime", 0) >= 2)
        assert capture.incidents() == ["seen"], "it answers"
        scripted.hang()
        capture.wait_for(lambda: capture.incidents()[1:] == [("disconnect", True)])
        scripted.hang(on=False)
        capture.wait_for(lambda: capture.capture.reconnects == 1)
        scripted.hang()
        begun = time.monotonic()
        capture.end()
        assert time.monotonic() - begun < 5, "the end waits for nobody"
    scripted.hang(on=False)


def test_more_symbols_than_the_gateway_has_lines():
    with IbGateway(rate_per_s=50, depth_lines=2, unknown=("GONE",)) as gateway:
        with Capture(gateway, ("GONE", "AAPL", "MSFT", "NVDA"), max_lines=3) as capture:
            capture.wait_live("AAPL", "MSFT")
            capture.wait_for(lambda: capture.capture.states()["NVDA"] == "queued" and len(gateway.requests) == 3)
            assert gateway.requests[2].answer == 309
            assert capture.capture.states()["GONE"] == "refused"
            assert capture.incidents("NVDA") == [("connect", True)], "the same hole, with a reason"
            # The gateway refuses a book and goes on sending it all the same: its line is freed by a cancel.
            gateway.error(354, symbol="AAPL")
            capture.wait_live("NVDA")
            assert capture.capture.states()["AAPL"] == "refused"
        assert ("cancel", "AAPL") in requests(gateway)
        assert {violation.kind for violation in gateway.violations} == {"depth_limit"}
    assert "354" in capture.outcome.refusals["AAPL"]


def test_four_symbols_on_three_lines_with_one_refused():
    with IbGateway(rate_per_s=50, refused={"MSFT": 10092, "AAPL": 2152}) as gateway:
        with Capture(gateway, ("AAPL", "MSFT", "NVDA", "TSLA", "AMZN")) as capture:
            capture.wait_live("AAPL", "NVDA", "TSLA")
            assert capture.capture.states()["AMZN"] == "queued"
            assert capture.incidents("AMZN") == [("connect", True)], "it says what it waits for"
            assert capture.incidents("MSFT") == [("connect", True)], "it says why nothing will come"
        assert gateway.violations == []
    assert list(capture.outcome.refusals) == ["MSFT"]


def test_a_session_whose_symbols_are_all_refused_ends_at_once():
    with IbGateway(unknown=("GONE",), refused={"MSFT": 354}) as gateway:
        with Capture(gateway, ("GONE", "MSFT"), seconds=600) as capture:
            outcome = capture.join()
        assert capture.clock.now_ns() < capture.end_ns - 500 * S
    assert list(outcome.refusals) == ["GONE", "MSFT"]


def test_late_messages_of_a_cancelled_request_are_counted_only(scripted, seen):
    scripted.late_after_cancel(5)
    scripted.halt("AAPL")
    seen.wait_for(lambda: seen.told.count(("note", "AAPL", "late")) == 5)
    scripted.send_depth("AAPL", rows(2, first=9))
    all_arrived(scripted, seen)


def test_a_full_queue(scripted, seen):
    seen.has_half = False
    seen.room = 2
    scripted.send_depth("AAPL", rows(6, first=9))
    seen.wait_for(lambda: seen.incidents()[1:] == [("queue_drop", True)])
    lost = next(entry for entry in seen.told if entry[0] == "lost")
    assert lost[2] == lost[4], "since the first message that was not taken"
    scripted.wait_for(lambda gateway: requests(gateway)[1:] == [("cancel", "AAPL")])
    seen.room = 10**9
    seen.has_half = True
    scripted.wait_for(lambda gateway: len(gateway.requests) == 3)
    scripted.send_depth("AAPL", rows(2, first=30))
    seen.wait_for(lambda: len(seen.messages()) == 3 + 2 + 2)
    assert seen.incidents() == ["seen", ("queue_drop", True), "seen"]


def test_a_wall_clock_that_is_set(scripted):
    offset_ns = 0
    clock = ReceiptClock(lambda: time.time_ns() + offset_ns)
    with Capture(scripted, clock=clock, seconds=7200) as capture:
        scripted.wait_for(lambda gateway: gateway.depth_lines_used == 1)
        scripted.send_depth("AAPL", rows(1))
        capture.wait_live()
        offset_ns = 3600 * S
        capture.wait_for(lambda: capture.incidents() == ["seen", ("clock", False), "seen"])
        lost = next(entry for entry in capture.told if entry[0] == "lost")
        assert 3599 * S < lost[2] - lost[4] < 3605 * S
        scripted.send_depth("AAPL", rows(1))
        all_arrived(scripted, capture)
        assert requests(scripted) == [("subscribe", "AAPL")], "nothing is due earlier for it"
    stamps_are_orderly(capture)


def test_an_unreadable_price_is_counted(scripted, seen):
    scripted.send_depth("AAPL", [(0, 0, 1, float("nan"), 1.0, "X"), (0, 7, 1, 1.0, 1.0, "X"), *rows(1)])
    seen.wait_for(lambda: len(seen.messages()) == 4)
    assert seen.told.count(("note", "AAPL", "unreadable")) == 2


def test_the_end_comes_at_its_time_and_leaves_nothing(scripted):
    with Capture(scripted, seconds=1.0) as capture:
        outcome = capture.join()
    # Not a measure of speed: a machine may be busy.
    assert 0 <= capture.clock.now_ns() - capture.end_ns < 10 * S
    assert outcome.states == {"AAPL": "subscribing"}
    assert requests(scripted) == [("subscribe", "AAPL"), ("cancel", "AAPL")]


@pytest.mark.parametrize("when", ["connecting", "live"])
def test_a_cancelled_capture_leaves_nothing(when):
    with IbGateway(rate_per_s=100, answer_delay_s=0.5 if when == "connecting" else 0.0) as gateway:
        with Capture(gateway) as capture:
            if when == "live":
                capture.wait_live()
            else:
                gateway.wait_for(lambda gateway: gateway.request_names.get("startApi") or gateway.clients or True)
            capture.loop.call_soon_threadsafe(capture.task.cancel)
            capture.join()
            assert isinstance(capture.error, asyncio.CancelledError)
            gateway.wait_for(lambda gateway: not gateway.clients and not gateway.depth_lines_used)
        assert gateway.violations == []


@pytest.mark.parametrize("culprit", ["message", "seen", "on_connected"])
def test_what_the_recorder_raises_ends_the_session_cleanly(scripted, culprit):
    def broken(*_, **__):
        raise OSError("the disk")

    capture = Capture(scripted, **({"on_connected": broken} if culprit == "on_connected" else {}))
    if culprit != "on_connected":
        setattr(capture, culprit, broken)
    with capture:
        if culprit != "on_connected":
            scripted.wait_for(lambda gateway: gateway.depth_lines_used == 1)
            scripted.send_depth("AAPL", rows(3))
        capture.join()
    assert str(capture.error) == "the disk"
    scripted.wait_for(lambda gateway: not gateway.clients and not gateway.depth_lines_used)


def test_forty_symbols_stay_below_the_request_rate_and_are_all_cancelled():
    symbols = ["".join(letters) for letters in itertools.islice(itertools.product("ABCDE", repeat=3), 40)]
    with IbGateway(rate_per_s=1, depth_lines=40) as gateway:
        with Capture(gateway, symbols, max_lines=40) as capture:
            gateway.wait_for(lambda gateway: gateway.depth_lines_used == 40)
            capture.end()
            assert gateway.depth_lines_used == 0
        assert gateway.violations == []
        assert len(gateway.requests) == 80


def test_the_log_says_things_once_and_no_account_number(caplog):
    caplog.set_level(logging.DEBUG)
    accounts = ("DU1234567", "U7654321")
    with IbGateway(rate_per_s=50, accounts=accounts, refused={"MSFT": 354}) as gateway:
        with Capture(gateway, ("AAPL", "MSFT")) as capture:
            capture.wait_live("AAPL")
            gateway.error(2152, "Account DU1234567 misses depth of U7654321", symbol="AAPL")
            gateway.error(317, symbol="AAPL")
            gateway.error(1100, "for DU1234567")
            capture.wait_for(lambda: len(capture.incidents()) >= 4)
        assert capture.outcome.gateway.accounts_are_paper is False
        assert capture.outcome.gateway.is_sandbox is False
    ours = [record for record in caplog.records if record.name.startswith("connectors.ibkr")]
    assert not [record for record in caplog.records if record.name.startswith("ib_")]
    text = "\n".join(record.getMessage() for record in ours)
    assert "DU1234567" not in text
    assert "U7654321" not in text
    assert len([line for line in text.splitlines() if "354" in line]) == 1
    assert len([line for line in text.splitlines() if "2152" in line]) == 1
    assert len(ours) < 20


def test_the_sandbox_is_known_by_its_account(scripted):
    infos = []
    with Capture(scripted, on_connected=infos.append) as capture:
        capture.wait_for(lambda: infos)
    (info,) = infos
    assert (info.is_sandbox, info.accounts_are_paper, info.server_version, info.client_id) == (True, True, 176, 2011)

"""Historical bars from the sandbox gateway with the unmodified client library: truth, troubles, pacing.

TRADING_DATA_IB_LIBRARY names the library; `test_ibkr_bars_async` runs this file again with the other one.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import logging
import os
import socket
import struct
import time
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest

from connectors.ibkr import _bars_keeper
from connectors.ibkr import session as gateway_session
from connectors.ibkr.bar_requests import DayWindow, day_window, requests_for
from connectors.ibkr.bars import BarsSession
from connectors.ibkr.errors import (
    BadAnswer,
    BarsRefused,
    BarsTimeout,
    BarsUnavailable,
    GatewayUnreachable,
    IbkrError,
    InstrumentUnknown,
    InvalidRequest,
    NoPermission,
)
from connectors.ibkr.pacing import PacingRules
from connectors.ibkr.session import GatewayAddress
from connectors.sandbox.ib_gateway import IbGateway, bars_truth
from contracts.timestamps import ns_from_iso_utc
from contracts.v1.bars import BAR_SCHEMA
from flows.limits import SystemClock, bars_pacer

LIBRARY = os.environ.get("TRADING_DATA_IB_LIBRARY")
ET = ZoneInfo("America/New_York")
S = 1_000_000_000
DAY = dt.date(2025, 9, 5)
NOW = "2025-10-01T20:30:00-04:00"
# The gateway's rules are off in most tests: what is tested then is everything but the pacing.
EASY = PacingRules(
    budget=10_000,
    identical_window_s=0.001,
    burst=1_000,
    messages=1_000,
    open_per_process=20,
    hold_s=(0.02,),
    calm_s=1.0,
)


@pytest.fixture(scope="module", autouse=True)
def _young():
    """What was there before is not looked through each time that a test collects its own garbage.

    The market is made before that: a gateway's first answer must not come too late for want of it.
    """
    bars_truth("AAPL", "1 sec", now_ns(), now_ns() + S)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def gateway():
    with IbGateway(now=NOW, pacing=False) as running:
        yield running


def now_ns(text=NOW):
    return int(dt.datetime.fromisoformat(text).timestamp()) * S


def session(gateway, *, pacer=None, now=NOW, connect_timeout_s=5.0, **options):
    address = GatewayAddress(gateway.host, gateway.port, 2011, connect_timeout_s)
    words = {"library": LIBRARY, "timeout_s": 10.0, "backoff_s": 0.01, "again_s": 0.02, **options}
    pacer = pacer or bars_pacer(None, str(address), rules=EASY)
    return BarsSession(address, pacer, now_ns=lambda: now_ns(now), **words)


def requests_of(size="1 min", *days, symbol="AAPL", **words):
    use_rth = words.get("use_rth", True)
    windows = [day_window(day, use_rth=use_rth) for day in days or (DAY,)]
    return list(requests_for(symbol, size, windows, **words))


def one(size="1 min", **words):
    return requests_of(size, **words)[0]


def run(work, *, within_s=30.0):
    """Run a coroutine; nothing may be left behind in its loop."""
    complaints = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        try:
            async with asyncio.timeout(within_s):
                return await work()
        finally:
            assert asyncio.all_tasks() == {asyncio.current_task()}
            gc.collect()

    try:
        return asyncio.run(main())
    finally:
        assert not complaints


def fetch(gateway, *requests, **options):
    """The answers to some requests asked at once, and the session."""

    async def work():
        async with session(gateway, **options) as bars:
            return await asyncio.gather(*map(bars.fetch, requests)), bars

    return run(work)


def fetch_one(gateway, request=None, **options):
    (answer,), bars = fetch(gateway, request or one(), **options)
    return answer, bars


def rows_of(table):
    columns = [table[name].to_pylist() for name in table.column_names[1:]]
    return list(zip(ns_from_iso_utc(table["timestamp"]).tolist(), *columns, strict=True))


def truth(gateway, request, *, symbol=None):
    """What the invented market has in the request's windows, as rows of a table."""
    rows = []
    for window in request.windows:
        found = gateway.bars_truth(
            symbol or request.symbol,
            request.bar_size,
            window.start_ns,
            window.end_ns,
            request.use_rth,
            request.what_to_show,
        )
        for row in found:
            wap = None if row.wap < 0 or not (row.wap or row.volume) else row.wap
            counted = (float(max(row.volume, 0)), max(row.trades, 0), wap)
            rows.append((row.start_ns, row.open, row.high, row.low, row.close, *counted))
    return rows


def until(condition, within_s=10.0):
    async def wait():
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 - the gateway, in its own thread, can set no event of this loop
                await asyncio.sleep(0.005)

    return wait()


# The truth.


@pytest.mark.parametrize("by_calendar", [False, True])
@pytest.mark.parametrize(
    ("size", "use_rth", "days"),
    [
        ("1 sec", True, [DAY]),
        ("1 sec", False, [DAY]),
        ("1 min", True, [dt.date(2025, 9, 2), dt.date(2025, 9, 3), DAY]),
        ("1 min", False, [dt.date(2025, 9, 22), dt.date(2025, 9, 26)]),
        ("1 min", True, [dt.date(2024, 11, 29)]),
        ("1 hour", True, [dt.date(2024, 11, 27), dt.date(2024, 11, 29), dt.date(2024, 12, 2)]),
        ("1 hour", False, [dt.date(2025, 3, 7), dt.date(2025, 3, 10)]),
        ("1 hour", True, [dt.date(2025, 8, 11), dt.date(2025, 9, 2), DAY]),
    ],
)
def test_the_bars_of_every_size_are_those_of_the_market(size, use_rth, days, by_calendar):
    with IbGateway(now=NOW, pacing=False, calendar_durations=by_calendar) as gateway:
        requests = requests_of(size, *days, use_rth=use_rth)[:4]
        answers, bars = fetch(gateway, *requests)
        for request, answer in zip(requests, answers, strict=True):
            assert answer.table.schema.equals(BAR_SCHEMA)
            assert answer.table.num_rows > 0
            assert rows_of(answer.table) == truth(gateway, request)
            assert (answer.request, answer.attempts, answer.is_no_data) == (request, 1, False)
        assert bars.requests_sent == len(requests)
        assert not gateway.violations


@pytest.mark.parametrize("what", ["MIDPOINT", "BID", "ASK", "BID_ASK"])
def test_quotes_have_no_volume_and_no_average(gateway, what):
    request = one(what_to_show=what)
    answer, _ = fetch_one(gateway, request)
    assert rows_of(answer.table) == truth(gateway, request)
    assert answer.table["WAP"].null_count == answer.table.num_rows == 390


def test_a_class_share_is_asked_for_in_the_broker_s_spelling(gateway):
    request = one(symbol="BRK-B")
    answer, _ = fetch_one(gateway, request)
    assert gateway.bars_requests[0].symbol == "BRK B"
    assert rows_of(answer.table) == truth(gateway, request, symbol="BRK B")


def test_seconds_without_trades_are_not_there(gateway):
    requests = requests_of("1 sec", symbol="THINCO", newest_first=False)[:2]
    answers, _ = fetch(gateway, *requests)
    for request, answer in zip(requests, answers, strict=True):
        assert rows_of(answer.table) == truth(gateway, request)
        assert answer.table.num_rows < 900


@pytest.mark.parametrize("fault", ["bars-duplicates", "bars-unordered", "bars-outside"])
@pytest.mark.parametrize("size", ["1 sec", "1 min", "1 hour"])
def test_an_untidy_answer_is_put_in_order(gateway, fault, size):
    gateway.add_fault(fault)
    request = requests_of(size)[-1]
    answer, _ = fetch_one(gateway, request)
    assert rows_of(answer.table) == truth(gateway, request)
    assert bool(answer.duplicates) == (fault == "bars-duplicates")
    assert bool(answer.outside) == (fault == "bars-outside")


def test_of_today_only_what_has_ended(gateway):
    now = "2025-09-05T11:07:13-04:00"
    gateway.set_now(now)
    gateway.add_fault("bars-forming")
    open_ns = day_window(DAY, use_rth=True).start_ns
    for size, end in (("1 sec", "11:07:13"), ("1 min", "11:07:00"), ("1 hour", "11:00:00")):
        end_ns = now_ns(f"2025-09-05T{end}-04:00")
        (request, *_) = requests_for("AAPL", size, [DayWindow(DAY, open_ns, end_ns)])
        # Asked for a minute more than there can be.
        answer, _ = fetch_one(gateway, request, now=now)
        assert rows_of(answer.table) == truth(gateway, request)
        whole = one(size) if size != "1 sec" else requests_of(size)[9]
        ended, _ = fetch_one(gateway, whole, now=now)
        assert rows_of(ended.table)[-1] == rows_of(answer.table)[-1]


# What there is none of, and what is refused.


def test_no_data_is_no_error(gateway):
    gateway.add_fault("bars-none")
    answer, bars = fetch_one(gateway)
    assert (answer.is_no_data, answer.table.num_rows, answer.attempts) == (True, 0, 1)
    assert answer.table.schema.equals(BAR_SCHEMA)
    assert answer.asked_at_ns == now_ns()
    assert bars.requests_sent == 1


def test_before_its_listing_a_symbol_has_none(gateway):
    gateway.add_fault("listed:symbol=NEWCO,day=2025-09-04")
    requests = requests_of("1 min", dt.date(2025, 9, 2), dt.date(2025, 9, 3), DAY, symbol="NEWCO")
    (answer,), _ = fetch(gateway, *requests)
    assert {row["timestamp"][:10] for row in answer.table.to_pylist()} == {"2025-09-05"}
    answer, _ = fetch_one(gateway, one(symbol="NEWCO", newest_first=True))
    assert not answer.is_no_data
    (answer,), _ = fetch(gateway, *requests_of("1 hour", dt.date(2025, 8, 4), symbol="NEWCO"))
    assert answer.is_no_data


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ("bars-permission", NoPermission, "162 .*No market data permissions for [A-Z]+ STK"),
        ("bars-error:code=354", NoPermission, "no market-data subscription 354"),
        ("bars-error:code=10089", NoPermission, "10089"),
        ("bars-error:code=10090", NoPermission, "10090"),
        ("bars-error:code=10186", NoPermission, "10186"),
        ("bars-error:code=10187,text=Failed to request historical ticks", NoPermission, "10187"),
        ("bars-error:code=162,text=Service:You are not subscribed", NoPermission, "not subscribed"),
        ("bars-error:code=200", InstrumentUnknown, "no such instrument 200"),
        ("bars-error:code=321,text=Error validating request", BarsRefused, "321 .*Error validating request"),
        ("bars-error:code=162,text=Servicios históricos:invalid step: 1", BarsRefused, "invalid step: 1"),
        ("bars-error:code=162,text=Die Abfrage ergab keine Daten", BarsRefused, "ergab keine Daten"),
        ("bars-error:code=162", BarsRefused, "Starting time must occur before ending time"),
        ("bars-error:code=4711,text=news of account DU1234567", BarsRefused, r"4711 \(news of account \*\*\*\)"),
    ],
)
def test_a_refusal_says_why_and_is_not_tried_again(gateway, fault, error, says):
    gateway.add_fault(fault)

    async def work():
        async with session(gateway) as bars:
            with pytest.raises(error, match=f"^AAPL 1 min 2025-09-05 09:30:00-16:00:00: .*{says}") as caught:
                await bars.fetch(one())
            assert bars.requests_sent == 1
            assert caught.value.symbol == "AAPL"
            assert str(caught.value.code) in str(caught.value)

    run(work)


def test_an_unknown_symbol_does_not_harm_the_others(gateway):
    async def work():
        async with session(gateway) as bars:
            refused, good = await asyncio.gather(
                bars.fetch(one(symbol="GONE")), bars.fetch(one()), return_exceptions=True
            )
            assert isinstance(refused, InstrumentUnknown)
            assert rows_of(good.table) == truth(gateway, one())

    run(work)


def test_a_span_that_is_too_long_for_the_broker_is_refused_with_its_text(gateway):
    request = one("1 sec")
    object.__setattr__(request, "duration", "1 D")
    with pytest.raises(BarsRefused, match="invalid step"):
        fetch_one(gateway, request)


# Answers that cannot be true, that do not come, that cannot come now.


@pytest.mark.parametrize(("fault", "says"), [("bars-bad", "a low above"), ("bars-naive", "no time with a zone")])
def test_a_bad_answer_is_asked_for_once_more(gateway, fault, says):
    gateway.add_fault(f"{fault}:times=1")
    answer, bars = fetch_one(gateway)
    assert (answer.attempts, bars.requests_sent) == (2, 2)
    assert rows_of(answer.table) == truth(gateway, one())

    gateway.clear_faults()
    gateway.add_fault(fault)
    with pytest.raises(BadAnswer, match=says):
        fetch_one(gateway)
    assert len(gateway.bars_requests) == 4


def test_a_request_that_is_not_answered_is_cancelled_and_asked_again(gateway):
    gateway.add_fault("bars-no-answer:times=1")
    answer, bars = fetch_one(gateway, timeout_s=0.5)
    assert (answer.attempts, bars.requests_sent) == (2, 2)
    assert rows_of(answer.table) == truth(gateway, one())
    assert [each.kind for each in gateway.bars_requests] == ["bars", "cancel", "bars"]
    assert gateway.bars_open == 0


def test_a_request_that_is_never_answered_ends_with_an_error(gateway):
    gateway.add_fault("bars-no-answer:symbol=AAPL")

    async def work():
        async with session(gateway, timeout_s=0.3, attempts=2) as bars:
            late, good = await asyncio.gather(bars.fetch(one()), bars.fetch(one(symbol="MSFT")), return_exceptions=True)
            assert isinstance(late, BarsTimeout)
            assert "no answer in 0.3 s, 2 times" in str(late)
            assert good.attempts == 1
            await until(lambda: gateway.bars_open == 0)

    run(work)


def test_an_answer_that_comes_too_late_is_not_taken_for_another(gateway):
    gateway.add_fault("bars-slow:delay_s=0.8,times=1")
    answer, _ = fetch_one(gateway, timeout_s=0.5)
    assert answer.attempts == 2
    assert rows_of(answer.table) == truth(gateway, one())


@pytest.mark.parametrize(
    "fault",
    [
        "bars-error:code=10197",
        "bars-error:code=504",
        "bars-error:code=502",
        "bars-error:code=162,text=Service:Trading TWS session is connected from a different IP address",
        "bars-error:code=162,text=Service:HMDS server disconnect occurred.  Attempting reconnection...",
        "bars-error:code=162,text=Service:API historical data query cancelled: 1",
    ],
)
def test_what_cannot_be_answered_now_is_asked_again_later(gateway, fault):
    gateway.add_fault(f"{fault},times=2")
    answer, _ = fetch_one(gateway)
    assert answer.attempts == 3
    assert rows_of(answer.table) == truth(gateway, one())

    gateway.clear_faults()
    gateway.add_fault(fault)
    with pytest.raises(BarsUnavailable, match="3 times; try again later"):
        fetch_one(gateway)


@pytest.mark.parametrize("code", [165, 2106, 366])
def test_what_is_no_error_does_not_end_a_request(gateway, code):
    gateway.add_fault(f"bars-error:code={code},times=1")
    answer, _ = fetch_one(gateway, timeout_s=0.5)
    assert answer.attempts == 2

    gateway.clear_faults()
    gateway.add_fault("bars-slow:delay_s=0.2")

    async def work():
        async with session(gateway) as bars:
            asking = asyncio.create_task(bars.fetch(one()))
            await until(lambda: gateway.bars_open == 1)
            gateway.error(code, "a word")
            assert (await asking).attempts == 1

    run(work)


# Connections.


def test_nothing_is_connected_before_it_is_wanted_and_no_account_is_asked_for(gateway):
    async def work():
        async with session(gateway) as bars:
            assert bars.gateway is None
            assert gateway.clients == []
            await bars.fetch(one())
            assert bars.gateway is not None
            assert bars.gateway.is_sandbox
            assert bars.reconnects == 0
            assert gateway.clients == [2011]
        await until(lambda: gateway.clients == [])

    run(work)
    assert set(gateway.request_names) == {"startApi", "reqHistoricalData"}


def test_many_at_once(gateway):
    days = [dt.date(2025, 9, n) for n in (2, 3, 4, 5)]
    requests = [
        request for symbol in ("AAPL", "MSFT", "TSLA") for request in requests_of("1 sec", *days, symbol=symbol)
    ]
    requests = requests[::4]
    answers, bars = fetch(gateway, *requests)
    for request, answer in zip(requests, answers, strict=True):
        assert rows_of(answer.table) == truth(gateway, request)
    assert bars.requests_sent == len(requests) == 39
    assert not gateway.violations


def test_a_connection_lost_inside_an_answer_is_made_anew_and_all_is_asked_again(gateway):
    gateway.add_fault("bars-slow:symbol=MSFT,delay_s=0.3")
    gateway.add_fault("bars-drop:symbol=AAPL,times=1")
    (first, second), bars = fetch(gateway, one(), one(symbol="MSFT"))
    assert (first.attempts, second.attempts, bars.reconnects) == (1, 1, 1)
    assert rows_of(first.table) == truth(gateway, one())
    assert rows_of(second.table) == truth(gateway, one(symbol="MSFT"))


@pytest.mark.parametrize("data_lost", [False, True])
def test_when_the_gateway_loses_the_broker_open_requests_wait_and_are_asked_again(gateway, data_lost):
    gateway.add_fault("bars-no-answer:times=1")

    async def work():
        async with session(gateway) as bars:
            asking = asyncio.create_task(bars.fetch(one()))
            await until(lambda: gateway.bars_open == 1)
            gateway.lose()
            await until(lambda: [each.kind for each in gateway.bars_requests] == ["bars", "cancel"])
            later = asyncio.create_task(bars.fetch(one(symbol="MSFT")))
            done, _ = await asyncio.wait({asking, later}, timeout=0.3)
            assert not done
            assert bars.requests_sent == 1
            gateway.restore(data_lost=data_lost)
            answers = await asyncio.gather(asking, later)
            assert [answer.attempts for answer in answers] == [1, 1]
            assert (bars.reconnects, bars.requests_sent) == (0, 3)

    run(work)


def test_a_broker_who_does_not_come_back_ends_all_that_wait(gateway):
    gateway.add_fault("bars-no-answer")

    async def work():
        async with session(gateway, give_up_s=0.4) as bars:
            asking = asyncio.create_task(bars.fetch(one()))
            await until(lambda: gateway.bars_open == 1)
            gateway.lose()
            both = await asyncio.gather(asking, bars.fetch(one(symbol="MSFT")), return_exceptions=True)
            assert [type(error) for error in both] == [GatewayUnreachable] * 2
            assert "no way to the broker" in str(both[0])

    run(work)


def test_an_outage_whose_end_is_never_told_ends_with_a_new_connection(gateway, monkeypatch):
    monkeypatch.setattr(_bars_keeper, "_LONGEST_OUTAGE_S", 0.3)

    async def work():
        async with session(gateway) as bars:
            await bars.fetch(one())
            gateway.lose()
            asking = asyncio.create_task(bars.fetch(one("1 hour")))
            await until(lambda: bars.reconnects >= 1)
            gateway.restore(data_lost=False)
            assert (await asking).attempts == 1

    run(work)


def test_a_connection_that_is_dead_without_a_word_is_noticed(gateway, monkeypatch):
    monkeypatch.setattr(gateway_session, "_QUIET_NS", S // 5)
    monkeypatch.setattr(gateway_session, "_ANSWER_NS", S // 5)

    async def work():
        async with session(gateway, attempts=1) as bars:
            await bars.fetch(one())
            gateway.hang()
            asking = asyncio.create_task(bars.fetch(one("1 hour")))
            await until(lambda: gateway.clients == [])
            gateway.hang(on=False)
            assert (await asking).attempts == 1
            assert bars.reconnects >= 1

    run(work)


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()

    nowhere = SimpleNamespace(host=host, port=port)

    async def work():
        began = time.monotonic()
        async with session(nowhere, connect_timeout_s=0.5) as bars:
            both = await asyncio.gather(bars.fetch(one()), bars.fetch(one("1 hour")), return_exceptions=True)
            assert [type(error) for error in both] == [GatewayUnreachable] * 2
            assert f"{host}:{port}" in str(both[0])
            # It stays so.
            with pytest.raises(GatewayUnreachable):
                await bars.fetch(one())
            assert bars.gateway is None
        assert 0.5 < time.monotonic() - began < 5

    run(work)


@pytest.mark.parametrize("more", [(), (4, 2, -1, 1100, "Connectivity has been lost", "")])
def test_a_gateway_that_ends_every_connection_at_once_holds_nobody_for_ever(more):
    def message(*fields):
        data = b"".join(str(field).encode() + b"\0" for field in fields)
        return struct.pack(">I", len(data)) + data

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"v157..17")
            writer.write(message(176, "20251001 20:30:00 EST"))
            await reader.readuntil(b"71\0")
            # All that makes a connection, and its end right behind, or as soon as the client has read that.
            writer.write(message(15, 1, "DUSANDBOX") + message(9, 1, 1) + (message(*more) if more else b""))
            await asyncio.sleep(0.05 if more else 0)
        writer.close()

    async def work():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            async with session(SimpleNamespace(host=host, port=port), give_up_s=1.0) as bars:
                with pytest.raises((GatewayUnreachable, BarsUnavailable)):
                    await bars.fetch(one())

    run(work)


def test_a_gateway_that_goes_for_good_ends_what_waits(gateway):
    gateway.add_fault("bars-no-answer:symbol=MSFT")

    async def work():
        async with session(gateway, give_up_s=0.5) as bars:
            await bars.fetch(one())
            asking = asyncio.create_task(bars.fetch(one(symbol="MSFT")))
            await until(lambda: gateway.bars_open == 1)
            await asyncio.to_thread(gateway.stop)
            with pytest.raises(GatewayUnreachable):
                await asking

    run(work)


def test_a_gateway_that_falls_over_one_request_does_not_hold_it_for_ever(gateway, monkeypatch):
    monkeypatch.setattr(_bars_keeper.Backoff, "next_s", lambda _: 0.01)
    gateway.add_fault("bars-drop")
    with pytest.raises(BarsUnavailable, match="lost 10 times"):
        fetch_one(gateway)


def test_a_cancelled_fetch_is_cancelled_at_the_gateway(gateway):
    gateway.add_fault("bars-no-answer")

    async def work():
        async with session(gateway) as bars:
            asking = asyncio.create_task(bars.fetch(one()))
            await until(lambda: gateway.bars_open == 1)
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
            await until(lambda: gateway.bars_open == 0)
            assert gateway.bars_requests[-1].kind == "cancel"
            assert gateway.clients == [2011]

    run(work)


def test_a_session_that_is_closed_ends_what_waits(gateway):
    gateway.add_fault("bars-no-answer")

    async def work():
        async with session(gateway) as bars:
            asking = asyncio.create_task(bars.fetch(one()))
            await until(lambda: gateway.bars_open == 1)
        with pytest.raises(IbkrError, match="closed"):
            await asking
        with pytest.raises(IbkrError, match="closed"):
            await bars.fetch(one())

    run(work)


def test_what_the_caller_finds_wrong_with_the_gateway_ends_the_session(gateway):
    def refuse(info):
        raise ValueError(f"paper is {info.accounts_are_paper}")

    async def work():
        async with session(gateway, on_connected=refuse) as bars:
            for _ in range(2):
                with pytest.raises(ValueError, match="paper is True"):
                    await bars.fetch(one())
        await until(lambda: gateway.clients == [])

    run(work)
    assert gateway.bars_requests == []


def test_the_log_has_no_account_and_says_things_once(gateway, caplog):
    gateway.add_fault("bars-error:code=162,text=Trading session of DU7654321 is connected from a different IP,times=1")
    with caplog.at_level(logging.INFO, "connectors.ibkr"):
        fetch_one(gateway)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("connectors.ibkr")]
    assert not any("DU7654321" in line or "DUSANDBOX" in line for line in said)
    assert sum("different IP" in line for line in said) == 1
    assert sum("connected with client id" in line for line in said) == 1


# Pacing.


def test_a_pacing_violation_is_waited_out_and_no_attempt(gateway):
    gateway.add_fault("bars-pacing:times=4")
    answer, bars = fetch_one(gateway, attempts=1)
    assert (answer.attempts, bars.requests_sent, bars.pacing_waits) == (1, 5, 4)
    assert rows_of(answer.table) == truth(gateway, one())


def test_too_many_open_requests_are_a_pacing_violation_too(gateway):
    text = "Error processing request: Only 50 simultaneous API historical data requests allowed."
    gateway.add_fault(f"bars-error:code=322,text={text},times=1")
    answer, bars = fetch_one(gateway, attempts=1)
    assert (answer.attempts, bars.pacing_waits) == (1, 1)


def test_sixty_in_ten_minutes_are_never_exceeded():
    speed = 400.0
    clock = SystemClock(speed=speed)
    requests = [
        *requests_of("1 sec", dt.date(2025, 9, 3), DAY, symbol="AAPL", use_rth=False),
        *requests_of("1 hour", DAY, symbol="TSLA"),
    ]
    # The slack is for a busy machine: the long window alone is judged, the short ones are shorter than it here.
    with IbGateway(now=NOW, pacing_speed=speed, pacing_slack_s=0.1) as gateway:
        pacer = bars_pacer(None, f"{gateway.host}:{gateway.port}", clock=clock)
        answers, bars = fetch(gateway, *requests, pacer=pacer)
        assert not gateway.violations
        assert bars.requests_sent == len(requests) == 65
        assert bars.pacing_waits == 0
        assert bars.pacing_wait_s > 600
        assert {answer.attempts for answer in answers} == {1}


# Before any work.


@pytest.mark.parametrize(
    "options", [{"attempts": 0}, {"timeout_s": 0}, {"timeout_s": float("nan")}, {"backoff_s": -1}, {"give_up_s": -1}]
)
def test_numbers_that_cannot_be_are_refused(gateway, options):
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        session(gateway, **options)


def test_a_session_that_was_not_entered_says_so(gateway):
    with pytest.raises(RuntimeError, match="async with"):
        asyncio.run(session(gateway).fetch(one()))

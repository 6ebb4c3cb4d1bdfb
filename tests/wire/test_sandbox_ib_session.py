"""The sandbox IB gateway and the unmodified ib_insync client: connecting, looking around, and asking for too much."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest

from connectors.sandbox._ib_records import RateWatch
from connectors.sandbox.ib_gateway import IbGateway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def with_client(gateway: IbGateway, work: Callable[[Any, Any], Awaitable[Any]], **options: Any) -> Any:
    """Run `work(ib, library)` with a connected client in a loop of its own."""

    async def session() -> Any:
        import ib_insync  # noqa: PLC0415 - only works inside the running loop

        ib = ib_insync.IB()
        errors: list[tuple[int, int, str]] = []
        ib.errorEvent += lambda request_id, code, text, _: errors.append((request_id, code, text))
        ib.errors = errors
        await ib.connectAsync(gateway.host, gateway.port, **{"clientId": 5, "timeout": 5, **options})
        try:
            return await work(ib, ib_insync)
        finally:
            ib.disconnect()

    return asyncio.run(session())


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.005)


@pytest.fixture(scope="module")
def gateway():
    with IbGateway() as running:
        yield running


def raw(gateway: IbGateway, *pieces: bytes) -> bytes:
    """What the gateway answers to these bytes until it hangs up or falls silent."""
    with socket.create_connection((gateway.host, gateway.port), timeout=5) as client:
        for piece in pieces:
            client.sendall(piece)
        client.settimeout(0.3)
        answer = b""
        try:
            while more := client.recv(4096):
                answer += more
        except TimeoutError:
            answer += b"<open>"
        return answer


def message(*fields: object) -> bytes:
    body = "".join(f"{field}\0" for field in fields).encode()
    return struct.pack(">I", len(body)) + body


def greeting(versions: str) -> bytes:
    return b"API\0" + struct.pack(">I", len(versions)) + versions.encode()


@pytest.mark.parametrize("readonly", [True, False])
def test_a_client_connects_at_once_and_finds_one_empty_paper_account(gateway, readonly, caplog):
    async def look(ib, _):
        return ib.managedAccounts(), ib.positions(), ib.openTrades(), ib.fills(), ib.errors, ib.client.serverVersion()

    began = time.monotonic()
    accounts, positions, trades, fills, notices, version = with_client(gateway, look, readonly=readonly)
    assert time.monotonic() - began < 2
    assert accounts == ["DUSANDBOX"]
    assert (positions, trades, fills) == ([], [], [])
    assert [(request_id, code) for request_id, code, _ in notices] == [(-1, 2104), (-1, 2106), (-1, 2158)]
    assert version == 176
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("version", [157, 163, 164, 166, 176])
def test_details_decode_with_every_server_version(version):
    async def look(ib, library):
        (details,) = await ib.reqContractDetailsAsync(library.Stock("MSFT", "SMART", "USD"))
        nothing = await ib.reqContractDetailsAsync(library.Stock("GONE", "SMART", "USD"))
        return details, nothing, ib.errors[-1], ib.client.serverVersion()

    with IbGateway(server_version=version) as old:
        details, nothing, error, spoken = with_client(old, look)
    assert spoken == version
    assert details.contract.symbol == "MSFT"
    assert details.contract.exchange == "SMART"
    assert details.minTick == 0.01
    assert details.timeZoneId == "US/Eastern"
    assert details.stockType == "COMMON"
    assert {"SMART", "ISLAND", "ARCA", "IEX"} <= set(details.validExchanges.split(","))
    if version >= 164:
        assert details.minSize == 0.0001
        assert details.suggestedSizeIncrement == 100
    sessions = [part for part in details.liquidHours.split(";") if not part.endswith("CLOSED")]
    assert sessions
    assert all(part[8:14] == ":0930-" and part.endswith(":1600") for part in sessions)
    assert nothing == []
    assert error[1:] == (200, "No security definition has been found for the request")


def test_an_instrument_keeps_its_id_and_is_found_by_it(gateway):
    async def look(ib, library):
        (first,) = await ib.reqContractDetailsAsync(library.Stock("BRK B", "SMART", "USD", primaryExchange="NYSE"))
        (again,) = await ib.reqContractDetailsAsync(library.Contract(conId=first.contract.conId))
        (island,) = await ib.qualifyContractsAsync(library.Stock("BRK B", "ISLAND", "USD"))
        return first.contract, again.contract, island

    first, again, island = with_client(gateway, look)
    with IbGateway() as another:
        assert with_client(another, look)[0].conId == first.conId
    assert first.conId == again.conId == island.conId
    assert first.symbol == again.symbol == "BRK B"
    assert first.primaryExchange == "NYSE"
    assert island.exchange == "ISLAND"


def test_what_is_no_us_stock_is_unknown(gateway):
    async def look(ib, library):
        asked = [
            library.Stock("BRK.B", "SMART", "USD"),
            library.Stock("aapl", "SMART", "USD"),
            library.Stock("", "SMART", "USD"),
            library.Stock("AAPL", "SMART", "EUR"),
            library.Stock("AAPL", "MOON", "USD"),
            library.Stock("AAPL", "SMART", "USD", conId=1),
            library.Future("ES", "202512", "CME"),
        ]
        answers = [await ib.reqContractDetailsAsync(instrument) for instrument in asked]
        return answers, [code for _, code, _ in ib.errors if code < 2000]

    answers, codes = with_client(gateway, look)
    assert answers == [[]] * 7
    assert codes == [200] * 7


def test_the_rest_of_what_a_client_asks_for_is_answered(gateway):
    async def look(ib, _):
        return (
            await ib.reqCurrentTimeAsync(),
            await ib.reqMktDepthExchangesAsync(),
            await ib.reqMatchingSymbolsAsync("AAPL"),
            await ib.reqMarketRuleAsync(26),
            await ib.accountSummaryAsync(),
            await ib.reqAllOpenOrdersAsync(),
            await ib.reqSmartComponentsAsync("a"),
            await ib.reqNewsProvidersAsync(),
        )

    now, exchanges, matches, rule, summary, orders, components, news = with_client(gateway, look)
    assert abs(now.timestamp() - time.time()) < 5
    assert {"ISLAND", "ARCA"} <= {row.exchange for row in exchanges}
    assert [match.contract.symbol for match in matches] == ["AAPL"]
    assert rule[0].increment == 0.01
    assert {row.tag for row in summary} == {"NetLiquidation", "TotalCashValue"}
    assert (orders, components, news) == ([], [], [])


def test_what_the_sandbox_does_not_have_ends_in_an_error_and_not_in_a_wait(gateway):
    async def look(ib, library):
        stock = library.Stock("AAPL", "SMART", "USD")
        bars = await asyncio.wait_for(ib.reqHistogramDataAsync(stock, useRTH=True, period="1 day"), timeout=5)
        trade = ib.placeOrder(stock, library.MarketOrder("BUY", 1))
        ib.client.send(199, 1, 2)
        ib.client.send(9, 8, "not a number")
        await until(lambda: len(ib.errors) >= 7)
        await ib.reqCurrentTimeAsync()
        return list(bars or []), trade.orderStatus.status, [(code, text) for _, code, text in ib.errors[3:]]

    bars, status, errors = with_client(gateway, look)
    assert bars == []
    assert status == "Cancelled"
    assert [code for code, _ in errors] == [321, 321, 505, 320]
    assert "reqHistogramData" in errors[0][1]
    assert "Read-Only" in errors[1][1]
    assert gateway.violations[-1].kind == "protocol"


def test_a_client_id_in_use_gets_326_at_once_while_the_client_still_waits(gateway):
    async def second(ib, library):
        other = library.IB()
        codes: list[int] = []
        other.errorEvent += lambda _request_id, code, _text, _: codes.append(code)
        connecting = asyncio.ensure_future(other.connectAsync(gateway.host, gateway.port, clientId=5, timeout=1))
        began = time.monotonic()
        await until(lambda: codes)
        told_after_s, waits = time.monotonic() - began, not connecting.done()
        with pytest.raises(TimeoutError):
            await connecting
        await other.connectAsync(gateway.host, gateway.port, clientId=6, timeout=5)
        clients = gateway.clients
        other.disconnect()
        return codes[0], told_after_s, waits, clients, ib.isConnected()

    code, told_after_s, waits, clients, first_lives = with_client(gateway, second)
    assert code == 326
    assert told_after_s < 0.5
    assert waits
    assert clients == [5, 6]
    assert first_lives


def test_client_ids_can_be_busy_from_the_start():
    async def nothing(_ib, _):
        return "connected"

    with IbGateway(busy_client_ids=[5], faults=["busy-client-id:ids=6+7"]) as busy:
        for taken in (5, 6, 7):
            with pytest.raises(TimeoutError):
                with_client(busy, nothing, clientId=taken, timeout=0.2)
        assert with_client(busy, nothing, clientId=8) == "connected"


def test_versions_are_agreed_on_and_too_old_ones_end(gateway):
    assert raw(gateway, greeting("v100..150")).endswith(
        b"\x00".join([b"4", b"2", b"-1", b"506", b"Unsupported version\x00"])
    )
    assert raw(gateway, greeting("v157..170"))[4:].startswith(b"170\0")
    assert raw(gateway, greeting("v157..300 +PACEAPI"))[4:].startswith(b"176\0")

    async def nothing(_ib, _):
        return None

    with IbGateway(server_version=150) as old, pytest.raises(TimeoutError):
        with_client(old, nothing, timeout=0.3)


def test_bytes_that_are_no_api_end_the_connection_and_nothing_else(gateway):
    before = len(gateway.violations)
    assert raw(gateway, b"GET / HTTP/1.1\r\n\r\n") == b""
    assert raw(gateway, b"API\0" + struct.pack(">I", 1 << 31)) == b""
    assert raw(gateway, greeting("hello")) == b""
    ready = [greeting("v157..176"), message(71, 2, 91, "")]
    assert raw(gateway, greeting("v157..176"), message(49, 1)).endswith(b"\0")  # its version, then the end
    assert not raw(gateway, *ready, struct.pack(">I", 3) + b"abc").endswith(b"<open>")
    assert raw(gateway, *ready, *(bytes([byte]) for byte in message(49, 1))).endswith(b"<open>")
    assert [violation.kind for violation in gateway.violations[before:]] == ["protocol"] * 5


def test_more_than_fifty_messages_in_a_second_is_a_violation(gateway):
    async def hurry(ib, _, most):
        ib.client.MaxRequests = most
        for _ in range(60):
            ib.client.reqCurrentTime()
        await until(lambda: gateway.request_names["reqCurrentTime"] >= asked_before + 60)

    for most, violations in ((0, 1), (45, 0)):
        before = [violation.kind for violation in gateway.violations].count("rate")
        asked_before = gateway.request_names.get("reqCurrentTime", 0)
        with_client(gateway, lambda ib, library, most=most: hurry(ib, library, most))
        assert [violation.kind for violation in gateway.violations].count("rate") == before + violations


def test_answers_can_come_late():
    async def ask(ib, _):
        began = time.monotonic()
        await ib.reqCurrentTimeAsync()
        return time.monotonic() - began

    with IbGateway(answer_delay_s=0.2) as late:
        assert 0.2 <= with_client(late, ask) < 2


def test_the_log_has_a_line_per_request_and_fault_and_no_account(tmp_path):
    log = tmp_path / "gateway.jsonl"

    async def ask(ib, library):
        await ib.reqContractDetailsAsync(library.Stock("AAPL", "SMART", "USD"))
        ib.client.reqAccountUpdates(True, "U7654321")
        await ib.reqCurrentTimeAsync()

    with IbGateway(log=log) as gateway:
        with_client(gateway, ask)
        gateway.lose()
        gateway.restore(data_lost=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["fault"] for line in lines if "fault" in line] == ["lose", "restore"]
    requests = [line for line in lines if "request" in line]
    assert requests[0]["request"] == "startApi"
    (details,) = [line for line in requests if line["request"] == "reqContractDetails"]
    assert details["symbol"] == "AAPL"
    assert details["client_id"] == 5
    assert details["request_id"] > 0
    assert "U7654321" not in log.read_text()


def test_a_port_in_use_and_bad_arguments_are_clear_errors(gateway):
    with pytest.raises(OSError, match="address"), IbGateway(port=gateway.port):
        pass
    for options, says in (
        ({"accounts": ()}, "accounts"),
        ({"accounts": "DU1"}, "accounts"),
        ({"rows": 0}, "rows"),
        ({"rate_per_s": -1}, "rate_per_s"),
        ({"server_version": 300}, "100 to 178"),
        ({"faults": ["explode"]}, "known are .*reset-317"),
    ):
        with pytest.raises(ValueError, match=says):
            IbGateway(**options)
    with pytest.raises(RuntimeError, match="with"):
        IbGateway().lose()


@pytest.mark.parametrize(
    ("per_second", "burst", "is_violation"),
    [(45, 45, False), (50, 50, False), (50, 1, False), (60, 1, True), (53, 1, True), (51, 51, True)],
)
def test_the_rate_rule_bears_late_messages_and_no_lasting_excess(per_second, burst, is_violation):
    """Bursts at each second that may arrive 0.1 s late, and even streams, for 12 seconds."""
    chance = random.Random(1)  # noqa: S311 - a test's own choice
    watch = RateWatch()
    sent_s = [number // burst * burst / per_second for number in range(per_second * 12)]
    arrived_ns = [int((at_s + chance.random() * 0.1) * 1e9) for at_s in sent_s]
    assert any(watch.is_exceeded_by(at_ns) for at_ns in sorted(arrived_ns)) == is_violation

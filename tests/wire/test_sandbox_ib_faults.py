"""Every fault of the sandbox IB gateway, as the unmodified ib_insync client meets it, by method and in written form."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from connectors.sandbox._ib_faults import KINDS
from connectors.sandbox.ib_gateway import IbGateway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Client:
    """An ib_insync client that keeps what it hears in order: depth messages, codes, the end of the connection."""

    def __init__(self, gateway: IbGateway, ib: Any, library: Any) -> None:
        self.gateway = gateway
        self.ib = ib
        self.library = library
        self.heard: list[tuple[Any, ...]] = []
        ib.wrapper.updateMktDepthL2 = lambda *message: self.heard.append(("depth", *message[:7]))
        ib.errorEvent += lambda request_id, code, *_: self.heard.append(("code", request_id, code))
        ib.disconnectedEvent += lambda: self.heard.append(("disconnected",))

    def subscribe(self, symbol: str = "AAPL") -> int:
        request_id = self.ib.client.getReqId()
        self.ib.client.reqMktDepth(request_id, self.library.Stock(symbol, "SMART", "USD"), 5, True, None)
        return request_id

    def depth(self, request_id: int | None = None) -> int:
        """Depth messages heard, of a request or of all."""
        return sum(1 for what, *about in self.heard if what == "depth" and request_id in (None, about[0]))

    def codes(self) -> list[int]:
        """Codes heard but those every client hears after connecting."""
        return [about[1] for what, *about in self.heard if what == "code"]

    async def until(self, condition: Callable[[], object], within_s: float = 10.0) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"it never came; the last heard is {self.heard[-5:]}"
            await asyncio.sleep(0.002)

    async def more_depth(self, request_id: int | None = None, count: int = 5) -> None:
        """Wait for so many more depth messages."""
        wanted = self.depth(request_id) + count
        await self.until(lambda: self.depth(request_id) >= wanted)

    async def no_more_depth(self, request_id: int | None = None) -> None:
        """Everything sent so far has come, and in 50 ms, at 1,000 messages a second, there is no more."""
        await self.ib.reqCurrentTimeAsync()
        before = self.depth(request_id)
        await asyncio.sleep(0.05)
        assert self.depth(request_id) == before


def with_client(gateway: IbGateway, work: Callable[[Client], Awaitable[Any]], **options: Any) -> Any:
    """Run `work(client)` with a client in a loop of its own, connected and its first notices forgotten."""

    async def session() -> Any:
        import ib_insync  # noqa: PLC0415 - only works inside the running loop

        ib = ib_insync.IB()
        client = Client(gateway, ib, ib_insync)
        await ib.client.connectAsync(gateway.host, gateway.port, options.get("client_id", 5), timeout=5)
        await client.until(lambda: 2158 in client.codes())
        client.heard.clear()
        try:
            return await work(client)
        finally:
            ib.disconnect()

    return asyncio.run(session())


def scene(work: Callable[[Client], Awaitable[Any]], **options: Any) -> IbGateway:
    """Play it with a gateway that sends 1,000 messages a second; the gateway, ended, comes back."""
    with IbGateway(**{"rate_per_s": 1_000, **options}) as gateway:
        with_client(gateway, work)
    assert gateway.violations == []
    return gateway


@pytest.mark.parametrize("how", ["method", "error", "text"])
def test_317_is_followed_by_the_whole_book_again(how):
    async def watch(client: Client) -> None:
        request_id = client.subscribe()
        await client.more_depth()
        if how == "method":
            client.gateway.reset("AAPL")
        elif how == "error":
            client.gateway.error(317, symbol="AAPL")
        await client.until(lambda: 317 in client.codes())
        await client.more_depth(count=12)
        at = client.heard.index(("code", request_id, 317))
        after = [about for what, *about in client.heard[at + 1 :]][:10]
        assert {(position, operation, side) for _, position, _, operation, side, *_ in after} == {
            (position, 0, side) for position in range(5) for side in (0, 1)
        }

    scene(watch, faults=["reset-317:symbol=AAPL,after_s=0.05"] if how == "text" else ())


@pytest.mark.parametrize("how", ["method", "error", "text"])
def test_316_ends_the_flow_and_keeps_the_line_until_it_is_cancelled(how):
    async def watch(client: Client) -> None:
        first, other = client.subscribe(), client.subscribe("MSFT")
        await client.more_depth(first)
        if how == "method":
            client.gateway.halt("AAPL")
        elif how == "error":
            client.gateway.error(316, symbol="AAPL")
        await client.until(lambda: ("code", first, 316) in client.heard)
        assert client.heard[-1] == ("code", first, 316) or client.heard[-1][1] == other
        await client.no_more_depth(first)
        await client.more_depth(other)
        assert client.gateway.depth_lines_used == 2
        client.ib.client.cancelMktDepth(first, True)
        again = client.subscribe()
        await client.more_depth(again)
        assert client.gateway.depth_lines_used == 2

    scene(watch, depth_lines=2, faults=["halt-316:symbol=AAPL,after_s=0.05"] if how == "text" else ())


@pytest.mark.parametrize("how", ["method", "text"])
def test_1100_then_1102_goes_on_with_the_same_book(how):
    async def watch(client: Client) -> None:
        request_id = client.subscribe()
        await client.more_depth()
        if how == "method":
            client.gateway.lose()
        await client.until(lambda: 1100 in client.codes())
        await client.no_more_depth()
        if how == "method":
            client.gateway.restore(data_lost=False)
        await client.until(lambda: 1102 in client.codes())
        await client.more_depth(request_id)
        lost, restored = client.heard.index(("code", -1, 1100)), client.heard.index(("code", -1, 1102))
        assert restored == lost + 1

    scene(watch, faults=["lose:after_s=0.05,for_s=0.2"] if how == "text" else ())


@pytest.mark.parametrize("how", ["method", "text"])
def test_1100_then_1101_forgets_every_subscription(how):
    async def watch(client: Client) -> None:
        first, _ = client.subscribe(), client.subscribe("MSFT")
        await client.more_depth(first)
        if how == "method":
            client.gateway.lose()
            client.gateway.restore(data_lost=True)
        await client.until(lambda: 1101 in client.codes())
        assert client.gateway.depth_lines_used == 0
        await client.no_more_depth()
        again = client.subscribe()
        await client.more_depth(again)

    scene(watch, depth_lines=2, faults=["lose:after_s=0.05,for_s=0.1,data_lost=1"] if how == "text" else ())


def test_a_cancel_of_what_1101_forgot_is_an_unknown_one():
    async def watch(client: Client) -> None:
        request_id = client.subscribe()
        await client.more_depth()
        client.gateway.lose()
        client.gateway.restore(data_lost=True)
        client.ib.client.cancelMktDepth(request_id, True)
        await client.until(lambda: ("code", request_id, 310) in client.heard)

    with IbGateway(rate_per_s=1_000) as gateway:
        with_client(gateway, watch)
        assert [violation.kind for violation in gateway.violations] == ["unknown_cancel"]


@pytest.mark.parametrize("how", ["method", "text"])
def test_a_feed_can_stay_dead_after_its_farm_is_back(how):
    async def watch(client: Client) -> None:
        dead, alive = client.subscribe(), client.subscribe("MSFT")
        await client.more_depth(dead)
        await client.more_depth(alive)
        if how == "method":
            client.gateway.farm(0.2, ["AAPL"])
        await client.until(lambda: 2103 in client.codes())
        await client.no_more_depth()
        await client.until(lambda: 2104 in client.codes())
        await client.more_depth(alive)
        await client.no_more_depth(dead)
        client.ib.client.cancelMktDepth(dead, True)
        await client.more_depth(client.subscribe())

    scene(watch, faults=["farm:after_s=0.1,for_s=0.2,dead=AAPL"] if how == "text" else ())


def test_messages_can_go_on_while_a_farm_is_broken():
    async def watch(client: Client) -> None:
        client.subscribe()
        await client.more_depth()
        client.gateway.farm(0.1, flowing=True)
        await client.until(lambda: 2104 in client.codes())
        broken, mended = (client.heard.index(("code", -1, code)) for code in (2103, 2104))
        assert mended > broken + 5

    scene(watch)


@pytest.mark.parametrize("mid_message", [False, True])
@pytest.mark.parametrize("how", ["method", "text"])
def test_a_dropped_connection_has_delivered_whole_messages_and_can_be_refused_for_a_while(how, mid_message):
    async def watch(client: Client) -> None:
        client.subscribe()
        await client.more_depth()
        if how == "method":
            client.gateway.drop(mid_message=mid_message, refuse_for_s=0.3)
        await client.until(lambda: ("disconnected",) in client.heard)
        assert client.depth() == len(client.gateway.sent)
        assert client.gateway.depth_lines_used == 0
        began = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            await client.ib.client.connectAsync(client.gateway.host, client.gateway.port, 5, timeout=5)
        while not client.ib.client.isReady():
            assert time.monotonic() < began + 5
            try:
                await client.ib.client.connectAsync(client.gateway.host, client.gateway.port, 5, timeout=5)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
        await client.no_more_depth()  # nothing is subscribed again by itself
        await client.more_depth(client.subscribe())

    text = f"drop:after_s=0.05,mid_message={int(mid_message)},refuse_for_s=0.3"
    scene(watch, faults=[text] if how == "text" else ())


def test_silence_stops_depth_and_nothing_else():
    async def watch(client: Client) -> None:
        aapl, msft = client.subscribe(), client.subscribe("MSFT")
        await client.more_depth(aapl)
        client.gateway.silence("AAPL")
        await client.no_more_depth(aapl)
        again = client.subscribe()
        await client.more_depth(msft)
        assert client.depth(again) == 0
        client.gateway.silence("AAPL", on=False)
        await client.more_depth(aapl)
        await client.more_depth(again)
        client.gateway.add_fault("silence:for_s=0.2")
        await client.no_more_depth()
        await client.more_depth(aapl)

    scene(watch)


def test_a_gateway_that_hangs_answers_nothing_until_it_goes_on():
    async def watch(client: Client) -> None:
        client.subscribe()
        await client.more_depth()
        client.gateway.hang()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.ib.reqCurrentTimeAsync(), timeout=0.1)
        assert client.ib.client.isConnected()
        other = client.library.IB()
        connecting = asyncio.ensure_future(other.client.connectAsync(client.gateway.host, client.gateway.port, 6, 5))
        await asyncio.sleep(0.05)
        assert not connecting.done()
        client.gateway.hang(on=False)
        await connecting
        other.disconnect()
        await client.more_depth()
        await client.ib.reqCurrentTimeAsync()

    scene(watch)


def test_a_slow_gateway_delivers_all_of_it_late_and_in_order():
    async def watch(client: Client) -> None:
        client.subscribe()
        await client.more_depth()
        client.gateway.slow(0.3)
        began = time.monotonic()
        await client.ib.reqCurrentTimeAsync()
        assert time.monotonic() - began >= 0.3
        client.gateway.slow(0.0)
        client.gateway.set_rate(0)
        await client.ib.reqCurrentTimeAsync()
        sent = [(one.request_id, one.position, one.market_maker, one.operation) for one in client.gateway.sent]
        assert [about[:4] for what, *about in map(list, client.heard) if what == "depth"] == [list(row) for row in sent]

    scene(watch)


def test_slow_comes_and_goes_in_written_form():
    async def watch(client: Client) -> None:
        client.subscribe()
        await client.more_depth(count=100)
        client.gateway.set_rate(0)
        began = time.monotonic()
        await client.ib.reqCurrentTimeAsync()
        assert time.monotonic() - began < 0.3

    scene(watch, faults=["slow:delay_s=0.4,for_s=0.05"])


def test_permissions_lines_and_late_messages_in_written_form():
    async def watch(client: Client) -> None:
        refused = client.subscribe("MSFT")
        await client.until(lambda: ("code", refused, 354) in client.heard)
        first = client.subscribe()
        await client.more_depth(first)
        second = client.subscribe("NVDA")
        await client.until(lambda: ("code", second, 309) in client.heard)
        client.gateway.set_rate(0)
        await client.ib.reqCurrentTimeAsync()
        before = client.depth(first)
        client.ib.client.cancelMktDepth(first, True)
        await client.until(lambda: client.depth(first) == before + 4)
        client.gateway.clear_faults()
        client.gateway.set_rate(100)
        await client.more_depth(client.subscribe("MSFT"))
        await client.more_depth(client.subscribe("NVDA"))

    # 309 below what the account is known to have is no fault of the client: no violation.
    scene(watch, faults=["no-permission:symbol=MSFT", "depth-lines:lines=1", "late-after-cancel:count=4"])


def test_any_code_can_be_sent_to_requests_and_to_all():
    async def watch(client: Client) -> None:
        request_id = client.subscribe()
        await client.more_depth()
        client.gateway.error(2110)
        client.gateway.error(10197, symbol="AAPL")
        await client.until(lambda: {2110, 10197, 1100} <= set(client.codes()))
        assert ("code", -1, 2110) in client.heard
        assert ("code", request_id, 10197) in client.heard
        await client.more_depth()  # a code alone changes nothing

    scene(watch, faults=["error:code=1100,after_s=0.05"])


def test_a_gateway_that_takes_connections_and_never_answers_lets_them_time_out():
    async def nothing(_client: Client) -> None:
        """Never reached."""

    async def session(gateway: IbGateway) -> None:
        import ib_insync  # noqa: PLC0415 - only works inside the running loop

        with pytest.raises(TimeoutError):
            await ib_insync.IB().client.connectAsync(gateway.host, gateway.port, 5, timeout=0.3)

    with IbGateway(faults=["no-answer"]) as gateway:
        asyncio.run(session(gateway))
        gateway.clear_faults()
        with_client(gateway, nothing)


def test_a_fault_can_come_again_and_again():
    async def watch(client: Client) -> None:
        client.subscribe()
        await client.until(lambda: client.codes().count(317) == 3)
        await client.more_depth()

    scene(watch, faults=["reset-317:times=3,every_s=0.05"])


def test_symbol_faults_without_a_symbol_meet_every_one_from_its_own_first_request_on():
    async def watch(client: Client) -> None:
        first = client.subscribe()
        await client.until(lambda: ("code", first, 316) in client.heard)
        second = client.subscribe("MSFT")
        await client.more_depth(second, 1)
        await client.until(lambda: ("code", second, 316) in client.heard)
        assert client.codes() == [316, 316]

    scene(watch, faults=["halt-316:after_s=0.05"])


def test_written_faults_that_cannot_be_read_say_what_can():
    with IbGateway() as gateway:
        for text, says in (
            ("explode", "known are .*busy-client-id.*slow"),
            ("lose:until=3", "it has after_s, times, every_s, for_s, data_lost"),
            ("lose:for_s=soon", "cannot read 'for_s=soon'"),
            ("lose:for_s=-1", "0 to 1000000 seconds"),
            ("lose:data_lost=maybe", "neither 1 nor 0"),
            ("lose:for_s", "not NAME=VALUE"),
            ("depth-lines:lines=-1", "negative"),
            ("busy-client-id", "needs ids"),
            ("no-answer:x=1", "no values"),
        ):
            with pytest.raises(ValueError, match=says):
                gateway.add_fault(text)
    assert set(KINDS) >= {"reset-317", "halt-316", "lose", "farm", "drop", "silence", "slow", "no-permission"}

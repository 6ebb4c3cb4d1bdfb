"""Connections that do not come about, end badly, or are disturbed on the way, with the unmodified client library.

TRADING_DATA_IB_LIBRARY names the library; `test_ibkr_async` runs this file again with the other one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import struct
import threading
import time

import pytest

from connectors.ibkr import library as libraries
from connectors.ibkr.clock import ReceiptClock
from connectors.ibkr.depth import DepthCapture, DepthRequest
from connectors.ibkr.errors import ClientIdsInUse, GatewayTooOld, GatewayUnreachable
from connectors.ibkr.session import CLIENT_IDS_TRIED, GatewayAddress, connect
from connectors.sandbox.ib_gateway import IbGateway

LIBRARY = os.environ.get("TRADING_DATA_IB_LIBRARY")
S = 1_000_000_000
IDS = range(2011, 2011 + CLIENT_IDS_TRIED)


class Sink:
    """Writes everything down."""

    def __init__(self):
        self.told = []

    def message(self, *message):
        self.told.append(("message", *message))
        return True

    def lost(self, symbol, _ns, cause, _detail, *, since_ns, clear):
        self.told.append(("lost", symbol, cause, clear))

    def seen(self, symbol, _ns):
        self.told.append(("seen", symbol))

    def note(self, symbol, kind):
        self.told.append(("note", symbol, kind))

    def has_room(self):
        return True


class Proxy:
    """Stands between client and gateway, and does what a gateway cannot be told to do."""

    def __init__(self, gateway):
        self._gateway = gateway
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        self._pairs = []
        self._is_resetting = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(5)
        for pair in self._pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for pair in self._pairs:
            for each in pair:
                each.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((self._gateway.host, self._gateway.port))
                self._pairs.append((client, server))
                for source, target in ((client, server), (server, client)):
                    thread = threading.Thread(target=self._carry, args=(source, target))
                    self._threads.append(thread)
                    thread.start()

    def _carry(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        if not self._is_resetting:
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)

    def inject(self, *fields):
        """A message of the gateway's that it would never send; nothing else may flow."""
        data = b"".join(str(field).encode() + b"\0" for field in fields)
        self._pairs[-1][0].sendall(struct.pack(">I", len(data)) + data)

    def reset(self):
        """RST instead of an orderly end."""
        client, server = self._pairs[-1]
        self._is_resetting = True
        client.shutdown(socket.SHUT_RD)
        server.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[-2:]:
            thread.join(5)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        self._is_resetting = False


def run(work, *, within_s=30.0):
    """Run a session's coroutine; nothing may be left behind in its loop."""
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


async def capture(address, sink, *, seconds=10.0, during=None, **options):
    """A capture of AAPL, and something to do meanwhile, after which it is stopped."""
    clock, stop = ReceiptClock(), asyncio.Event()
    session = DepthCapture(
        address,
        DepthRequest(["AAPL"], 10),
        sink,
        clock=clock,
        end_ns=clock.now_ns() + int(seconds * S),
        stop=stop,
        library=LIBRARY,
        is_market_open=lambda _: False,
        **options,
    )
    task = asyncio.create_task(session.run())
    try:
        if during is not None:
            await during(session)
            stop.set()
        return await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def until(condition, within_s=10.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def address_of(gateway, timeout_s=5.0, client_id=2011):
    return GatewayAddress(gateway.host, gateway.port, client_id, timeout_s)


def test_client_ids_in_use_are_passed_over_at_once():
    with IbGateway(busy_client_ids=list(IDS)[:3]) as gateway:

        async def work():
            library = libraries.load(LIBRARY)
            begun = time.monotonic()
            connection = await connect(library, address_of(gateway, 30.0), now_ns=ReceiptClock().now_ns)
            assert time.monotonic() - begun < 5
            await connection.close()
            return connection.info

        assert run(work).client_id == 2014
        gateway.wait_for(lambda gateway: not gateway.clients)


def test_eight_ids_in_use_are_a_clear_error():
    with IbGateway(busy_client_ids=IDS) as gateway, pytest.raises(ClientIdsInUse, match=r"2011 to 2018.*IB_CLIENT_ID"):
        run(lambda: capture(address_of(gateway), Sink()))


def test_a_reconnect_takes_the_next_id_while_the_gateway_still_holds_the_old_one():
    with IbGateway() as gateway:
        sink = Sink()

        async def during(session):
            await until(lambda: session.states() == {"AAPL": "live"})
            gateway.add_fault("busy-client-id:ids=2011")
            gateway.drop()
            await until(lambda: session.reconnects == 1 and session.states() == {"AAPL": "live"})

        outcome = run(lambda: capture(address_of(gateway), sink, during=during))
        assert outcome.gateway.client_id == 2012
        assert gateway.violations == []


def test_a_gateway_that_never_answers_cannot_hang_a_session(caplog):
    with IbGateway(faults=["no-answer"]) as gateway:
        begun = time.monotonic()
        with pytest.raises(GatewayUnreachable, match=r"does not answer.*Enable ActiveX"):
            run(lambda: capture(address_of(gateway, 0.4), Sink()))
        assert 1.0 < time.monotonic() - begun < 8, "three times the time-out"
    said = [record for record in caplog.records if "tried again" in record.getMessage()]
    assert len(said) == 1, "the same thing is said once"


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    address = GatewayAddress("127.0.0.1", port, 2011, 5.0)
    with pytest.raises(GatewayUnreachable, match=rf"127.0.0.1:{port}: Connection refused.*port {port}"):
        run(lambda: capture(address, Sink(), give_up_s=0.7))
    outcome = run(lambda: capture(address, Sink(), seconds=1.0, keep_trying=True))
    assert (outcome.states, outcome.gateway) == ({"AAPL": "never_connected"}, None)


def test_a_host_that_does_not_exist():
    address = GatewayAddress("no-such-host.invalid", 4002, 2011, 5.0)
    with pytest.raises(GatewayUnreachable, match=r"no-such-host\.invalid"):
        run(lambda: capture(address, Sink(), give_up_s=0.0))


def test_a_gateway_that_comes_later_is_found():
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    sink = Sink()

    async def during(session):
        await asyncio.sleep(0.6)
        with IbGateway(port=port):
            await until(lambda: session.states() == {"AAPL": "live"})

    outcome = run(lambda: capture(GatewayAddress("127.0.0.1", port, 2011, 5.0), sink, during=during))
    assert outcome.states == {"AAPL": "lost"}, "it went before the session ended"


def test_a_gateway_that_closes_during_the_handshake():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close_all():
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        thread = threading.Thread(target=close_all)
        thread.start()
        try:
            with pytest.raises(GatewayUnreachable, match=r"closed the connection|Connection reset"):
                run(lambda: capture(GatewayAddress(*listener.getsockname(), 2011, 5.0), Sink(), give_up_s=0.2))
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def test_a_gateway_that_is_too_old():
    with IbGateway(server_version=150) as gateway, pytest.raises(GatewayTooOld, match="Update TWS"):
        run(lambda: capture(address_of(gateway), Sink()))


def test_a_slow_handshake_and_the_stop_of_a_session_that_waits_for_it():
    with IbGateway(answer_delay_s=0.4) as gateway:
        sink = Sink()

        async def during(session):
            await until(lambda: session.states() == {"AAPL": "live"})

        run(lambda: capture(address_of(gateway), sink, during=during))

        async def at_once(_session):
            await asyncio.sleep(0.2)

        begun = time.monotonic()
        outcome = run(lambda: capture(address_of(gateway), sink, during=at_once))
        assert time.monotonic() - begun < 3
        assert outcome.states == {"AAPL": "never_connected"}
        gateway.wait_for(lambda gateway: not gateway.clients)


def test_a_connection_that_is_reset_is_seen_and_made_anew():
    with IbGateway(rate_per_s=0) as gateway, Proxy(gateway) as proxy:
        sink = Sink()

        async def during(session):
            await until(lambda: gateway.depth_lines_used == 1)
            gateway.send_depth("AAPL", [(0, 0, 1, 230.0, 1.0, "ARCA")])
            await until(lambda: len(sink.told) == 2)
            await asyncio.to_thread(proxy.reset)
            await until(lambda: session.reconnects == 1 and gateway.depth_lines_used == 1)

        run(lambda: capture(address_of(proxy), sink, during=during))
        assert sink.told[2:] == [("lost", "AAPL", "disconnect", True)]


@pytest.mark.parametrize(
    "fields",
    [
        (13, 1, "ID", 0, "ARCA", 0, 1, "230.0", "many", 1),
        (13, 1, "ID", "first", "ARCA", 0, 1, "230.0", "1", 1),
        (12, 1, "ID", 0, 0, 1, "dear", "1"),
    ],
)
def test_a_message_that_the_library_cannot_read_is_counted_and_its_contents_are_not_logged(fields, caplog):
    with IbGateway(rate_per_s=0) as gateway, Proxy(gateway) as proxy:
        sink = Sink()

        async def during(_session):
            await until(lambda: gateway.depth_lines_used == 1)
            request_id = gateway.requests[0].request_id
            proxy.inject(*[request_id if field == "ID" else field for field in fields])
            proxy.inject(15, 1, "DU7777777")
            proxy.inject(6, 2, "DU7777777")
            await until(lambda: sink.told)
            gateway.send_depth("AAPL", [(0, 0, 1, 230.0, 1.0, "ARCA")])
            await until(lambda: len(sink.told) == 3)

        run(lambda: capture(address_of(proxy), sink, during=during))
    assert [entry[0] for entry in sink.told] == ["note", "seen", "message"]
    assert sink.told[0] == ("note", "AAPL", "unreadable")
    assert "could not be read" in caplog.text
    assert "DU7777777" not in caplog.text


def test_a_session_that_is_stopped_before_it_begins_does_nothing():
    with IbGateway() as gateway:

        async def work():
            stop = asyncio.Event()
            stop.set()
            clock = ReceiptClock()
            session = DepthCapture(
                address_of(gateway),
                DepthRequest(["AAPL"], 10),
                Sink(),
                clock=clock,
                end_ns=clock.now_ns() + 3600 * S,
                stop=stop,
                library=LIBRARY,
            )
            return await session.run()

        assert run(work).states == {"AAPL": "never_connected"}
        assert gateway.request_names == {}

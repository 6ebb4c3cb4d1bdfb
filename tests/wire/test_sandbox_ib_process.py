"""The sandbox IB gateway as a process of its own, with clients in this process and in others, and ib_async's client."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import connectors
from connectors.sandbox.__main__ import main
from connectors.sandbox.ib_gateway import IbGateway
from connectors.sandbox.ib_gateway_process import IbGatewayProcess, SandboxDidNotStartError
from contracts.book import Book

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

COMMAND = [sys.executable, "-m", "connectors.sandbox", "ib-gateway"]
IB_ASYNC = Path(connectors.__file__).parents[1] / ".venv" / "ib_async"
LISTENER = """
import asyncio, json, sys
library = __import__(sys.argv[1])
host, port, seconds = sys.argv[2], int(sys.argv[3]), float(sys.argv[4])

async def main():
    ib = library.IB()
    codes, messages = [], []
    ib.errorEvent += lambda request_id, code, *_: codes.append([request_id, code])
    await ib.connectAsync(host, port, clientId=9, timeout=10)
    (details,) = await ib.reqContractDetailsAsync(library.Stock("AAPL", "SMART", "USD"))
    unknown = await ib.reqContractDetailsAsync(library.Stock("GONE", "SMART", "USD"))
    ib.wrapper.updateMktDepthL2 = lambda *message: messages.append(message[:7])
    smart, direct = ib.client.getReqId(), ib.client.getReqId()
    ib.client.reqMktDepth(smart, details.contract, 10, True, None)
    ib.client.reqMktDepth(direct, library.Stock("MSFT", "ARCA", "USD"), 5, False, None)
    await asyncio.sleep(seconds)
    ib.client.cancelMktDepth(smart, True)
    ib.client.cancelMktDepth(direct, False)
    await ib.reqCurrentTimeAsync()
    version = ib.client.serverVersion()
    print(json.dumps({"library": library.__name__, "version": version, "accounts": ib.managedAccounts(),
        "symbol": details.contract.symbol, "tick": details.minTick, "unknown": len(unknown or []),
        "codes": codes, "messages": messages, "requests": [smart, direct]}))
    ib.disconnect()

asyncio.run(main())
"""


def until(condition: Callable[[], object], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def listen(gateway: Any, library: str, seconds: float = 0.5) -> dict[str, Any]:
    """What a client process heard."""
    environment = {**os.environ, **({"PYTHONPATH": str(IB_ASYNC)} if library == "ib_async" else {})}
    done = subprocess.run(
        [sys.executable, "-c", LISTENER, library, gateway.host, str(gateway.port), str(seconds)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("overflow", ["implicit", "explicit"])
@pytest.mark.parametrize(
    "library",
    [
        "ib_insync",
        pytest.param(
            "ib_async",
            marks=pytest.mark.skipif(not IB_ASYNC.is_dir(), reason="ib_async is not installed in .venv/ib_async"),
        ),
    ],
)
def test_both_client_libraries_hear_what_was_sent(library, overflow):
    with IbGateway(rate_per_s=800, overflow=overflow, server_version=178) as gateway:
        heard = listen(gateway, library)
        books = {"AAPL": Book(10), "MSFT": Book(5)}
        sent = [[o.request_id, o.position, o.market_maker, o.operation, o.side, o.price, o.size] for o in gateway.sent]
        assert heard["messages"] == sent
        assert len(sent) > 300
        for one in gateway.sent:
            operation, side = ("add", "update", "remove")[one.operation], ("ask", "bid")[one.side]
            assert books[one.symbol].apply(operation, side, one.position, one.price, int(one.size))
        assert gateway.violations == []
        assert gateway.depth_lines_used == 0
    assert heard["library"] == library
    assert heard["version"] == {"ib_insync": 176, "ib_async": 178}[library]
    assert heard["accounts"] == ["DUSANDBOX"]
    assert (heard["symbol"], heard["tick"], heard["unknown"]) == ("AAPL", 0.01, 0)
    assert [code for _, code in heard["codes"]] == [2104, 2106, 2158, 200]


class Client:
    """An ib_insync client of a gateway in another process."""

    def __init__(self, gateway: IbGatewayProcess, library: Any) -> None:
        self.gateway = gateway
        self.library = library
        self.ib = library.IB()
        self.codes: list[int] = []
        self.messages: list[tuple[Any, ...]] = []
        self.ib.errorEvent += lambda _request_id, code, *_: self.codes.append(code)
        self.ib.wrapper.updateMktDepthL2 = lambda *message: self.messages.append(message)

    def subscribe(self, symbol: str) -> int:
        request_id = self.ib.client.getReqId()
        self.ib.client.reqMktDepth(request_id, self.library.Stock(symbol, "SMART", "USD"), 4, True, None)
        return request_id

    async def wait(self, condition: Callable[[], object]) -> None:
        await asyncio.to_thread(self.gateway.wait_for, lambda _: condition())


def with_client(gateway: IbGatewayProcess, work: Callable[[Client], Awaitable[None]]) -> None:
    """Run `work(client)` with a connected client in a loop of its own."""

    async def session() -> None:
        import ib_insync  # noqa: PLC0415 - only works inside the running loop

        client = Client(gateway, ib_insync)
        await client.ib.client.connectAsync(gateway.host, gateway.port, 5, timeout=5)
        try:
            await work(client)
        finally:
            client.ib.disconnect()

    asyncio.run(session())


def test_a_child_is_steered_as_a_thread_is_and_is_gone_afterwards(tmp_path):
    async def work(client: Client) -> None:
        client.subscribe("AAPL")
        await client.wait(lambda: gateway.sent_counts.get("AAPL", 0) > 50)
        gateway.reset("AAPL")
        await client.wait(lambda: 317 in client.codes)
        gateway.set_rate(0)
        gateway.send_depth("AAPL", [(0, 1, 1, 99.5, 100, "IEX")])
        await client.wait(lambda: client.messages[-1][5] == 99.5)
        assert tuple(gateway.book("AAPL").bid[0]) == (99.5, 100, "IEX")
        gateway.load("AAPL", 5_000, 0.5)
        await client.wait(lambda: not gateway.is_loading())
        assert sum(batch.messages for batch in gateway.batches) == 2_500
        gateway.lose()
        gateway.restore(data_lost=False)
        await client.wait(lambda: {1100, 1102} <= set(client.codes))
        await client.ib.reqCurrentTimeAsync()
        assert len(client.messages) == sum(gateway.sent_counts.values())
        assert gateway.clients == [5]
        assert gateway.depth_lines_used == 1

    log = tmp_path / "gateway.jsonl"
    with IbGatewayProcess(rate_per_s=500, log=log) as gateway:
        assert gateway.env() == {"IB_HOST": "127.0.0.1", "IB_PORT": str(gateway.port)}
        with_client(gateway, work)
        assert gateway.sent[0].symbol == "AAPL"
        with pytest.raises(ValueError, match="nothing is subscribed for NVDA"):
            gateway.reset("NVDA")
        with pytest.raises(ValueError, match="unknown fault"):
            gateway.add_fault("explode")
        with pytest.raises(TimeoutError):
            gateway.wait_for(lambda _: False, timeout_s=0.05)
        pid = gateway.pid
        assert pid != os.getpid()
    assert gone(pid)
    faults = [json.loads(line).get("fault") for line in log.read_text().splitlines()]
    assert [fault for fault in faults if fault] == ["reset-317", "lose", "restore"]
    with pytest.raises(RuntimeError, match="with"):
        gateway.lose()


def test_a_child_takes_every_option_of_the_thread():
    async def work(client: Client) -> None:
        assert client.ib.client.getAccounts() == ["DU1", "DU2"]
        assert client.ib.client.serverVersion() == 170
        asked = client.subscribe("AAPL")
        for symbol in ("TSLA", "NOPE", "GONE"):
            client.subscribe(symbol)
        await client.wait(lambda: {10092, 200} <= set(client.codes) and gateway.depth_lines_used == 2)
        await client.wait(lambda: len(client.messages) > 100)
        assert max(message[1] for message in client.messages) == 2
        client.ib.client.cancelMktDepth(asked, False)
        await client.wait(lambda: gateway.violations)

    with IbGatewayProcess(
        rate_per_s=500,
        depth_lines=2,
        seed=3,
        rows=3,
        overflow="implicit",
        refused={"TSLA": 10092},
        busy_client_ids=[77],
        unknown=["NOPE"],
        accounts=["DU1", "DU2"],
        server_version=170,
        answer_delay_s=0.01,
        faults=["late-after-cancel:count=2"],
    ) as gateway:
        with_client(gateway, work)
        assert gateway.violations[0].kind == "cancel_mismatch"
        assert [(one.kind, one.symbol, one.answer) for one in gateway.requests] == [
            ("subscribe", "AAPL", 0),
            ("subscribe", "TSLA", 10092),
            ("subscribe", "NOPE", 200),
            ("subscribe", "GONE", 0),
            ("cancel", "AAPL", 310),
        ]
        assert gateway.request_names["reqMktDepth"] == 4


def test_the_control_port_takes_json_lines_and_survives_bad_ones():
    with IbGatewayProcess() as gateway, socket.create_connection(("127.0.0.1", gateway.control_port), 5) as control:
        lines = control.makefile("rwb")

        def ask(line: bytes) -> dict[str, Any]:
            lines.write(line + b"\n")
            lines.flush()
            return json.loads(lines.readline())

        assert ask(b'{"control": "clients"}') == {"answer": []}
        assert "there is no control '__init__'" in ask(b'{"control": "__init__"}')["error"]
        for private in ("carry_out", "call", "names", "_log"):
            assert "there are add_fault" in ask(json.dumps({"control": private}).encode())["error"]
        for bad in (b"hello", b"[]", b"{}", b'{"control": "reset", "arguments": {"sym": 1}}', b'{"control": ["x"]}'):
            assert ask(bad)["error"]
        assert ask(b'{"control": "depth_lines_used", "arguments": {}}') == {"answer": 0}
        lines.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_with_a_client_connected(number, tmp_path):
    announce = tmp_path / "ready.json"
    child = subprocess.Popen(
        [*COMMAND, "--announce", str(announce)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    until(announce.exists)
    ready = json.loads(announce.read_text())
    assert set(ready) == {"host", "port", "control_port", "pid"}
    assert ready["pid"] == child.pid

    async def connected() -> None:
        import ib_insync  # noqa: PLC0415 - only works inside the running loop

        ib = ib_insync.IB()
        await ib.connectAsync(ready["host"], ready["port"], clientId=1, timeout=5)
        over = asyncio.Event()
        ib.disconnectedEvent += over.set
        child.send_signal(number)
        await asyncio.wait_for(over.wait(), timeout=5)

    asyncio.run(connected())
    out, err = child.communicate(timeout=20)
    assert child.returncode == 0
    assert out == ""
    assert f"export IB_PORT='{ready['port']}'" in err
    assert "Traceback" not in err
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((ready["host"], ready["port"]), 5)


@pytest.mark.parametrize("watch", ["stdin", "pid"])
def test_it_ends_when_its_parent_is_killed(watch):
    arguments = {"stdin": ["--until-stdin-ends"], "pid": ["--parent-pid", "MINE"]}[watch]
    program = (
        "import os, subprocess, sys\n"
        f"command = {[*COMMAND, *arguments]!r}\n"
        "command = [str(os.getpid()) if part == 'MINE' else part for part in command]\n"
        f"child = subprocess.Popen(command, stdin={'subprocess.PIPE' if watch == 'stdin' else 'subprocess.DEVNULL'})\n"
        "child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        pid = json.loads(parent.stdout.readline())["pid"]
        parent.kill()
        parent.wait()
        until(lambda: gone(pid))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--fault", "explode"], "unknown fault 'explode'"),
        (["--fault", "lose:for_s=x"], "cannot read"),
        (["--rate", "-1"], "rate_per_s"),
        (["--server-version", "9"], "server_version"),
        (["--refuse", "AAPL=none"], "--refuse"),
        (["--log", "/nowhere/at/all.jsonl"], "/nowhere/at/all.jsonl"),
    ],
)
def test_bad_arguments_are_one_clear_line_and_exit_code_2(arguments, says, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["ib-gateway", *arguments])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_a_child_that_cannot_start_says_why():
    with pytest.raises(SandboxDidNotStartError, match="server_version"), IbGatewayProcess(server_version=9):
        pass


def test_help_lists_every_fault(capsys):
    with pytest.raises(SystemExit):
        main(["ib-gateway", "--help"])
    said = capsys.readouterr().out
    for kind in ("reset-317", "busy-client-id", "late-after-cancel", "no-answer"):
        assert kind in said


@pytest.mark.skipif(os.cpu_count() == 1, reason="load and client need a processor each")
def test_twenty_thousand_messages_a_second_cost_the_gateway_little():
    symbols = ["AAPL", "MSFT", "NVDA", "TSLA"]

    async def work(client: Client) -> None:
        for symbol in symbols:
            client.subscribe(symbol)
        await client.wait(lambda: gateway.depth_lines_used == 4)
        for symbol in symbols:
            gateway.load(symbol, 5_000, 2)
        await client.wait(lambda: not gateway.is_loading())
        gateway.set_rate(0)
        await client.ib.reqCurrentTimeAsync()
        assert len(client.messages) == sum(gateway.sent_counts.values()) > 40_000

    with IbGatewayProcess(rate_per_s=50, depth_lines=4) as gateway:
        before = psutil.Process(gateway.pid).cpu_times()
        with_client(gateway, work)
        after = psutil.Process(gateway.pid).cpu_times()
        batches = gateway.batches
    assert sum(batch.messages for batch in batches) == 40_000
    for symbol in symbols:
        assert sum(batch.messages for batch in batches if batch.symbol == symbol) == 10_000
    # Mostly it is encoding the cycles, once; a busy machine may double it.
    assert after.user + after.system - before.user - before.system < 3.0

"""`trading-data record-depth` and `recover` as a person runs them: lines, exit codes, signals, kill -9."""

from __future__ import annotations

import datetime as dt
import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from connectors.sandbox.ib_gateway import IbGateway
from contracts.sessions import ET
from contracts.validate import validate_path
from flows.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = Path(sys.executable).with_name("trading-data")
RECORDED = re.compile(r"RECORDED ([A-Z-]+) messages=(\d+) snapshots=(\d+) gaps=(\d+) segments=(\d+) end=([a-z]+)\n")
RECOVERED = re.compile(r"RECOVERED ([A-Z-]+) session=(\w+) messages=(\d+) snapshots=(\d+) gaps=(\d+) segments=(\d+)\n")


@pytest.fixture(scope="module")
def gateway() -> Iterator[IbGateway]:
    with IbGateway(rate_per_s=100) as running:
        yield running


class Place:
    """A data root and an environment of one test."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.root = folder / "data"
        self._patch = patch
        self.set(DATA_PATH_OVERRIDE=self.root, L2_MIN_FREE_GB=0, L2_FLUSH_SECONDS=0.2, LOG_LEVEL="INFO")

    def set(self, **values: object) -> None:
        for name, value in values.items():
            self._patch.setenv(name, str(value))

    def run(self, *arguments: object) -> tuple[int, str, str]:
        """A command in this process: (exit code, stdout, stderr)."""
        done = CliRunner().invoke(app, list(map(str, arguments)))
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """A capture in a process of its own."""
        return subprocess.Popen(
            [COMMAND, "record-depth", *map(str, arguments)],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def until_journaled(self, child: subprocess.Popen[str], records: int = 30, within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while self.journaled() < records:
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < deadline, "nothing was journaled"
            time.sleep(0.01)

    def journaled(self) -> int:
        """Records in the journals of running or dead sessions."""
        return sum(path.read_bytes().count(b'{"timestamp"') for path in self.root.glob(".capture/*/*.journal"))

    def stats(self, symbol: str) -> list[dict[str, Any]]:
        paths = sorted((self.root / "level2" / symbol).glob("session_stats_*.json"))
        return [json.loads(path.read_text()) for path in paths]

    def gaps(self, symbol: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.root / "l2_gaps.jsonl").read_text().splitlines()]
        return [line for line in lines if line["symbol"] == symbol]

    def check(self) -> None:
        """All that was written keeps to the contract, and nothing half-written lies about."""
        assert [str(finding) for finding in validate_path(self.root).findings] == []
        assert list(self.root.rglob("*.tmp")) == []
        assert not list(self.root.glob(".capture/*/"))


@pytest.fixture
def place(clean_environment: None, restored_logging: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


@pytest.fixture
def at_gateway(place: Place, gateway: IbGateway) -> tuple[object, ...]:
    """The options that name the gateway of this module."""
    return "--host", gateway.host, "--port", gateway.port


def test_the_bundled_gateway_serves_a_capture_that_knows_no_other(place):
    child = place.start("--sandbox", "--symbol", "AAPL", "--symbol", "msft", "--duration", 0.05)
    out, err = child.communicate(timeout=120)

    assert child.returncode == 0, err
    rows = RECORDED.findall(out)
    assert "".join(match.group() for match in RECORDED.finditer(out)) == out
    assert [(row[0], row[5]) for row in rows] == [("AAPL", "duration"), ("MSFT", "duration")]
    for symbol, messages, snapshots, gaps, segments, _ in rows:
        (stats,) = place.stats(symbol)
        assert (int(messages), int(snapshots)) == (stats["num_messages"], stats["num_snapshots"])
        assert int(messages) > 50
        # A boundary of quarter hours may fall into the three seconds.
        assert int(segments) in (1, 2)
        assert int(gaps) == stats["gaps"] == len(place.gaps(symbol)) == 1
    assert "session " in err
    assert "DUSANDBOX" not in out + err
    place.check()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_flushes_once_and_is_no_failure_and_a_second_one_tears_nothing(place, at_gateway, number):
    child = place.start(*at_gateway, "--symbol", "AAPL", "--duration", 5)
    place.until_journaled(child)
    # A capture that lives is none of recovery's business.
    code, out, err = place.run("recover")
    assert (code, out) == (0, "")
    assert "nothing to recover" in err
    child.send_signal(number)
    # The second one comes in the middle of the flush.
    while "is written" not in (line := child.stderr.readline()):
        assert line, "it ended without a word"
    child.send_signal(number)
    out, err = child.communicate(timeout=60)

    assert child.returncode == 0, err
    ((symbol, messages, *_, end),) = RECORDED.findall(out)
    assert (symbol, end) == ("AAPL", number.name.lower())
    (stats,) = place.stats("AAPL")
    assert stats["num_messages"] == int(messages) >= 30
    assert stats["end_reason"] == end
    place.check()


def test_after_a_kill_everything_journaled_is_recovered_once(place, at_gateway):
    child = place.start(*at_gateway, "--symbol", "AAPL", "--duration", 5)
    place.until_journaled(child)
    child.kill()
    child.communicate(timeout=60)
    journaled = place.journaled()

    code, out, _ = place.run("recover")

    ((symbol, session, messages, snapshots, gaps, segments),) = RECOVERED.findall(out)
    assert (code, symbol, int(messages)) == (0, "AAPL", journaled)
    assert int(snapshots) > 0
    (stats,) = place.stats("AAPL")
    assert (stats["session_id"], stats["end_reason"]) == (session, "crash")
    assert [gap["cause"] for gap in place.gaps("AAPL")] == ["connect", "crash"]
    assert (int(gaps), int(segments)) == (2, 1)
    place.check()

    before = {path: path.read_bytes() for path in place.root.rglob("*") if path.is_file()}
    code, out, err = place.run("recover")
    assert (code, out) == (0, "")
    assert "nothing to recover" in err
    assert {path: path.read_bytes() for path in place.root.rglob("*") if path.is_file()} == before


def test_the_next_start_recovers_what_a_kill_left_and_logs_it(place, at_gateway):
    child = place.start(*at_gateway, "--symbol", "AAPL", "--duration", 5)
    place.until_journaled(child)
    child.kill()
    child.communicate(timeout=60)
    journaled = place.journaled()

    code, out, err = place.run("record-depth", *at_gateway, "--symbol", "MSFT", "--duration", 0.02)

    assert code == 0, err
    assert [row[0] for row in RECORDED.findall(out)] == ["MSFT"]
    assert "recovering 1 sessions" in err
    (stats,) = place.stats("AAPL")
    assert (stats["num_messages"], stats["end_reason"]) == (journaled, "crash")
    assert "recovery: {" in err
    place.check()


def test_a_prefect_api_that_does_not_answer_costs_no_capture(place, at_gateway):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place.set(PREFECT_API_URL=f"http://127.0.0.1:{taken.getsockname()[1]}/api")
        code, out, err = place.run("record-depth", *at_gateway, "--symbol", "AAPL", "--duration", 0.02)

    assert code == 0, err
    assert RECORDED.match(out)
    assert "does not answer" in err
    assert "Traceback" not in err


def test_two_captures_of_one_symbol_are_told(place, at_gateway):
    with place.start(*at_gateway, "--symbol", "AAPL", "--symbol", "MSFT", "--duration", 1) as first:
        place.until_journaled(first)
        code, _, err = place.run("record-depth", *at_gateway, "--client-id", 77, "--symbol", "AAPL", "--duration", 0.02)
        first.send_signal(signal.SIGINT)
        _, first_err = first.communicate(timeout=60)

    assert code == 0
    assert re.search("WARNING.*captures AAPL at the same time", err)
    assert "at the same time" not in first_err


def test_a_refused_symbol_is_exit_code_1_and_named(place, at_gateway):
    code, out, err = place.run("record-depth", *at_gateway, "--symbol", "GONE", "--symbol", "AAPL", "--duration", 0.02)

    assert code == 1
    assert [(row[0], row[5]) for row in RECORDED.findall(out)] == [("GONE", "refused"), ("AAPL", "duration")]
    assert re.search("trading-data record-depth: GONE.*200", err)
    (gap,) = place.gaps("GONE")
    assert gap["cause"] == "connect"
    assert "200" in gap["detail"]
    place.check()


def test_no_gateway_is_exit_code_1_and_says_what_to_check(place):
    place.set(CONNECTION_TIMEOUT=0.2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    code, out, err = place.run("record-depth", "--port", port, "--symbol", "AAPL", "--duration", 1)

    assert code == 1
    assert out == "RECORDED AAPL messages=0 snapshots=0 gaps=1 segments=0 end=unreachable\n"
    assert "Is TWS or IB Gateway running" in err
    assert "Traceback" not in err
    assert [gap["cause"] for gap in place.gaps("AAPL")] == ["connect"]
    place.check()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--symbol", "../x", "--duration", "1"],
        ["--symbol", "AAPL", "--duration", "0"],
        ["--symbol", "AAPL", "--duration", "1441"],
        ["--symbol", "AAPL", "--duration", "nan"],
        ["--symbol", "AAPL", "--duration", "1", "--window", "09:30-16:00"],
        ["--symbol", "AAPL", "--window", "16:00-09:30"],
        ["--symbol", "AAPL", "--duration", "1", "--levels", "0"],
        ["--symbol", "AAPL", "--duration", "1", "--interval", "-1"],
        ["--symbol", "AAPL", "--duration", "1", "--exchange", "no exchange"],
        ["--symbol", "AAPL", "--duration", "1", "--sandbox", "--port", "4002"],
        ["--symbol", "AAPL", "--duration", "1", "--port", "70000"],
        ["--duration", "1"],
        ["--unheard-of"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("as_flow", [False, True], ids=["plain", "flow"])
def test_usage_errors_are_exit_code_2_before_any_work(place, arguments, as_flow):
    code, out, err = place.run("record-depth", *arguments, *(["--prefect"] if as_flow else []))

    assert (code, out) == (2, "")
    assert err
    assert "Traceback" not in err
    assert not place.root.exists()


@pytest.mark.parametrize(
    ("env", "key"),
    [
        ({"L2_MIN_FREE_GB": "1e9"}, "L2_MIN_FREE_GB"),
        ({"IB_PORT": "many"}, "IB_PORT"),
        ({"L2_ROTATE_MINUTES": "0"}, "L2_ROTATE_MINUTES"),
        ({"IB_PAPER_TRADING": "perhaps"}, "IB_PAPER_TRADING"),
        ({"L2_TRADING_WINDOW_ET": "12:00-13:00"}, "L2_TRADING_WINDOW_ET"),
    ],
    ids=str,
)
def test_configuration_errors_are_exit_code_2_and_name_the_key(place, env, key):
    place.set(**env)
    length = () if "WINDOW" in key else ("--duration", 1)

    code, out, err = place.run("record-depth", "--symbol", "AAPL", *length)

    assert (code, out) == (2, "")
    assert key in err
    assert not place.root.exists()


@pytest.mark.parametrize("as_flow", [False, True], ids=["plain", "flow"])
def test_a_day_without_a_session_is_no_failure_and_one_clear_line(place, monkeypatch, as_flow):
    saturday_ns = round(dt.datetime(2025, 9, 6, 9, 0, tzinfo=ET).timestamp()) * 10**9
    monkeypatch.setattr("flows.cli_record.time.time_ns", lambda: saturday_ns)

    code, out, err = place.run("record-depth", *(["--prefect"] if as_flow else []))

    assert (code, out) == (0, "")
    assert err == "trading-data record-depth: the exchange is closed today, nothing to do\n"
    assert not place.root.exists()


def test_options_reach_gateway_files_and_settings(place, gateway, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    code, _, err = place.run(
        *("record-depth", "--host", gateway.host, "--port", gateway.port, "--client-id", 77, "--live"),
        *("--symbol", "AAPL", "--levels", 3, "--interval", 250, "--exchange", "ISLAND", "--duration", 0.02),
        *("--output", elsewhere),
    )

    assert code == 0, err
    assert "client id 77" in err
    assert not place.root.exists()
    place.root = elsewhere
    (stats,) = place.stats("AAPL")
    assert (stats["levels"], stats["interval_ms"], stats["paper_mode"]) == (3, 250, False)
    assert gateway.requests[-1].symbol == "AAPL"
    place.check()
    code, out, _ = place.run("recover", "--output", elsewhere)
    assert (code, out) == (0, "")

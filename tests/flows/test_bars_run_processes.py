"""The real command in processes of its own: killed, stopped, and two at once on one data root.

The commands run unchanged but for a faster clock of the pacing rules, which the gateway shares.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from connectors.ibkr.bar_requests import count_requests, day_window
from connectors.sandbox.ib_gateway import IbGateway
from contracts.layout import DataRoot
from contracts.sessions import sessions_between, today_et
from contracts.timestamps import ns_from_iso_utc
from contracts.v1.bars import parse_bars_manifest_line
from contracts.validate import validate_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SPEED = 40.0
SIZES = ("1 hour", "1 min", "1 sec")
# The commands believe in the real time, and seconds reach back half a year.
DAY = sessions_between(today_et() - dt.timedelta(10), today_et() - dt.timedelta(1))[-1]
PER_SYMBOL = sum(count_requests(size, [day_window(DAY, use_rth=True)]) for size in SIZES)
COMMAND = f"""
import asyncio, time
from flows import limits

class FastClock(limits.SystemClock):
    def monotonic_ns(self):
        return round(time.monotonic_ns() * {SPEED})
    def sleep(self, seconds):
        time.sleep(seconds / {SPEED})
    async def pause(self, seconds):
        await asyncio.sleep(seconds / {SPEED})

limits.SystemClock = FastClock
from flows.cli import main
main()
"""


class Machine:
    """A gateway and a data root, and commands on them."""

    def __init__(self, folder: Path, gateway: IbGateway) -> None:
        self.folder = folder
        self.root = DataRoot(folder / "data")
        self.gateway = gateway
        self._env = {
            **os.environ,
            "DATA_PATH_OVERRIDE": str(self.root.path),
            "CACHE_PATH": str(folder / "cache"),
            "L2_MIN_FREE_GB": "0",
            "IB_HOST": gateway.host,
            "IB_PORT": str(gateway.port),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, "bars", *arguments],
            cwd=self.folder,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> dict[str, str]:
        return summary(self.start(*arguments))

    @property
    def requests(self) -> list[tuple[str, ...]]:
        return [
            (each.symbol, each.bar_size, each.end, each.duration)
            for each in self.gateway.bars_requests
            if each.kind == "bars"
        ]

    @property
    def lines(self) -> list[Any]:
        data = self.root.bars_manifest.read_bytes()
        assert data.endswith(b"\n")
        return [parse_bars_manifest_line(line) for line in data.splitlines()]

    def check(self, *symbols: str) -> None:
        """Every file is the market's truth, each piece has one line, and the coverage is what the lines say."""
        assert self.gateway.violations == []
        assert [str(finding) for finding in validate_path(self.root.path).findings] == []
        assert list(self.root.path.rglob("*.tmp")) == []
        assert [path for path in (self.folder / "cache" / "bars").rglob("*") if path.is_file()] == []
        window = day_window(DAY, use_rth=True)
        expected: dict[tuple[str, str], dict[str, int]] = {}
        for symbol in symbols:
            for size in SIZES:
                truth = self.gateway.bars_truth(symbol, size, window.start_ns, window.end_ns)
                table = pq.read_table(self.root.bars_path(size, symbol, DAY), partitioning=None)
                assert ns_from_iso_utc(table["timestamp"]).tolist() == [row.start_ns for row in truth]
                assert table["close"].to_pylist() == [row.close for row in truth]
                expected[symbol, size] = {DAY.isoformat(): len(truth)}
        assert sorted(line.path for line in self.lines) == sorted(
            str(self.root.bars_path(size, symbol, DAY)) for symbol, size in expected
        )
        document = json.loads(self.root.bars_coverage.read_text())
        assert {
            (entry["symbol"], entry["bar_size"]): {day["date"]: day["rows"] for day in entry["days"]}
            for entry in document["entries"]
        } == expected


def summary(child: subprocess.Popen[str], code: int = 0) -> dict[str, str]:
    """The figures of a command's one line."""
    out, err = child.communicate(timeout=100)
    assert child.returncode == code, err
    (line,) = out.splitlines()
    assert line.startswith("SUMMARY ")
    return dict(part.split("=") for part in line.split()[1:])


def until(condition: Callable[[], object], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def bars_of(*symbols: str) -> list[str]:
    names = [word for symbol in symbols for word in ("--symbol", symbol)]
    return [*names, "--start", str(DAY), "--end", str(DAY)]


@pytest.fixture
def machine(clean_environment: None, tmp_path: Path) -> Iterator[Machine]:
    with IbGateway(pacing_speed=SPEED, pacing_slack_s=0.02) as gateway:
        yield Machine(tmp_path, gateway)


def test_a_killed_download_repeats_nothing_that_was_answered(machine):
    answered = 12
    machine.gateway.add_fault(f"bars-no-answer:after={answered}")
    child = machine.start(*bars_of("AAPL", "MSFT"))
    # The four requests for large bars were among the first; four for seconds hang.
    until(lambda: machine.gateway.bars_open == 4 and len(machine.requests) == answered + 4)
    until(lambda: machine.root.bars_manifest.exists() and len(machine.lines) == 4)
    until(lambda: len(list((machine.folder / "cache" / "bars").rglob("*.answer"))) == answered - 4)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    machine.gateway.clear_faults()

    done = machine.run(*bars_of("AAPL", "MSFT"))

    assert (done["WRITE"], done["SKIP"], done["total"]) == ("2", "4", "6")
    again = machine.requests[answered + 4 :]
    assert len(again) == PER_SYMBOL * 2 - answered
    assert set(again) >= set(machine.requests[answered : answered + 4])
    assert len(set(machine.requests)) == PER_SYMBOL * 2
    machine.check("AAPL", "MSFT")
    assert machine.run(*bars_of("AAPL", "MSFT"))["SKIP"] == "6"


def test_sigterm_ends_a_download_with_its_line_and_what_is_complete(machine):
    machine.gateway.add_fault("bars-no-answer:after=6,size=1 secs")
    child = machine.start(*bars_of("AAPL"))
    until(lambda: machine.gateway.bars_open == 4 and len(machine.requests) == 12)
    child.terminate()
    done = summary(child, 130)
    assert (done["WRITE"], done["ERROR"], done["total"]) == ("2", "0", "2")
    assert {line.bar_size for line in machine.lines} == {"1 min", "1 hour"}
    machine.gateway.clear_faults()
    assert machine.run(*bars_of("AAPL"))["WRITE"] == "1"
    assert len(machine.requests) == PER_SYMBOL + 4
    machine.check("AAPL")


@pytest.mark.parametrize(
    ("one", "other"),
    [(("AAPL", "MSFT"), ("NVDA", "AMD")), (("AAPL", "MSFT"), ("MSFT", "AAPL"))],
    ids=["disjoint", "the same"],
)
def test_two_downloads_at_once_on_one_root_share_the_work_and_the_budget(machine, one, other):
    both = [machine.start(*bars_of(*symbols)) for symbols in (one, other)]
    done = [summary(child) for child in both]

    symbols = sorted({*one, *other})
    assert sum(int(each["WRITE"]) for each in done) == 3 * len(symbols)
    assert all(int(each["WRITE"]) + int(each["SKIP"]) == 6 for each in done)
    # Nothing was asked for twice.
    assert len(machine.requests) == len(set(machine.requests)) == PER_SYMBOL * len(symbols)
    machine.check(*symbols)

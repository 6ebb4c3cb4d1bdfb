"""A capture of 20,000 messages a second for ten seconds, by the command as people start it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from connectors.sandbox.ib_gateway_process import IbGatewayProcess
from contracts.book import Book
from contracts.v1.gaps import parse_gap_line
from contracts.validate import validate_path

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).with_name("trading-data")
SYMBOLS = ("AAPL", "MSFT")
RATE = 20_000
SECONDS = 10
MEMORY_MB = 250


def until(condition: Callable[[], object], within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def journaled(root: Path, symbol: str) -> int:
    """How many messages of a symbol are in its journals, by the end of the newest."""
    newest = max(root.glob(f".capture/*/{symbol}-*.journal"), default=None)
    if newest is None:
        return 0
    with newest.open("rb") as file:
        file.seek(max(0, newest.stat().st_size - 65_536))
        numbers = re.findall(rb'"seq": (\d+)\}\n', file.read())
    return int(numbers[-1]) + 1 if numbers else 0


def messages(root: Path, symbol: str) -> list[dict[str, object]]:
    files = sorted((root / "level2" / symbol).glob("*_messages_*.json"))
    return [record for path in files for record in json.loads(path.read_bytes())]


def bids_after(records: list[dict[str, object]]) -> list[tuple[float, int]]:
    book = Book(10)
    for record in records:
        book.apply(record["operation"], record["side"], record["level"], record["price"], record["size"])
    assert not book.anomalies
    prices, sizes, _, _ = book.row()
    return list(zip(prices, sizes, strict=True))


def test_a_command_at_20_000_messages_a_second_loses_none_in_little_memory(
    clean_environment: None, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    peak_mb = 0.0
    with IbGatewayProcess(rate_per_s=0) as gateway:
        command = subprocess.Popen(
            [COMMAND, "record-depth", "--levels=10", "--duration=30", *(f"--symbol={symbol}" for symbol in SYMBOLS)],
            cwd=tmp_path,
            env={**os.environ, **gateway.env(), "DATA_PATH_OVERRIDE": str(root), "L2_MIN_FREE_GB": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        recorder = psutil.Process(command.pid)

        def looked(condition: Callable[[], bool]) -> Callable[[], bool]:
            def look() -> bool:
                nonlocal peak_mb
                peak_mb = max(peak_mb, recorder.memory_info().rss / 1e6)
                return condition()

            return look

        try:
            gateway.wait_for(lambda seen: seen.depth_lines_used == len(SYMBOLS), timeout_s=60)
            for symbol in SYMBOLS:
                gateway.load(symbol, RATE / len(SYMBOLS), SECONDS)
            until(looked(lambda: not gateway.is_loading()))
            sent = gateway.sent_counts
            until(looked(lambda: all(journaled(root, symbol) == sent[symbol] for symbol in SYMBOLS)))
            books = {symbol: gateway.book(symbol) for symbol in SYMBOLS}
            command.send_signal(signal.SIGINT)
            out, err = command.communicate(timeout=120)
        finally:
            command.kill()
            command.wait()
        assert gateway.violations == []

    assert command.returncode == 0, err
    assert sum(sent.values()) >= RATE * SECONDS
    for symbol in SYMBOLS:
        recorded = messages(root, symbol)
        assert [record["seq"] for record in recorded] == list(range(sent[symbol]))
        assert f"RECORDED {symbol} messages={sent[symbol]} " in out
        assert [(row.price, row.size) for row in books[symbol].bid] == bids_after(recorded)
    gaps = [parse_gap_line(line) for line in (root / "l2_gaps.jsonl").read_text().splitlines()]
    assert sorted((gap.symbol, gap.cause) for gap in gaps) == [(symbol, "connect") for symbol in SYMBOLS]
    assert [str(finding) for finding in validate_path(root).findings] == []
    assert not list(root.glob(".capture/*/"))
    assert peak_mb < MEMORY_MB

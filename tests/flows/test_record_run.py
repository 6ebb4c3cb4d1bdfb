"""A capture as a whole: a job in, files and one result out, whatever ends it; against the sandbox gateway."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.util
import json
import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from connectors.sandbox.ib_gateway import IbGateway
from contracts.sessions import ET, Window
from contracts.validate import validate_path
from flows.errors import ConfigurationError
from flows.record_job import assemble
from flows.record_result import RecordResult
from flows.record_run import record
from flows.stopping import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flows.capture_progress import CaptureStatus
    from flows.record_job import RecordJob


@pytest.fixture(scope="module")
def gateway() -> Iterator[IbGateway]:
    with IbGateway(rate_per_s=100) as running:
        yield running


@pytest.fixture
def root(
    clean_environment: None, restored_logging: None, gateway: IbGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    for key, value in (
        ("DATA_PATH_OVERRIDE", tmp_path / "data"),
        ("L2_MIN_FREE_GB", 0),
        ("IB_HOST", gateway.host),
        ("IB_PORT", gateway.port),
        ("CONNECTION_TIMEOUT", 5),
    ):
        monkeypatch.setenv(key, str(value))
    return tmp_path / "data"


def a_job(*symbols: str, minutes: float = 10, **parameters: Any) -> RecordJob:
    return assemble(now_ns=time.time_ns(), symbols=symbols, minutes=minutes, **parameters)


class Run:
    """A capture in a thread of its own, as the flow has it."""

    def __init__(self, job: RecordJob) -> None:
        self.stop = Stop()
        self.result: RecordResult | None = None
        self._thread = threading.Thread(target=self._record, args=(job,))
        self._status: Callable[[], CaptureStatus] | None = None
        self._thread.start()

    def _record(self, job: RecordJob) -> None:
        @contextmanager
        def watch(status: Callable[[], CaptureStatus]) -> Iterator[None]:
            self._status = status
            yield

        self.result = record(job, stop=self.stop, watchers=[watch])

    def until(self, condition: Callable[[CaptureStatus], object], within_s: float = 30.0) -> CaptureStatus:
        deadline = time.monotonic() + within_s
        while self._status is None or not condition(self._status()):
            assert self._thread.is_alive(), "the capture has ended"
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.01)
        return self._status()

    def end(self, reason: str | None = None) -> RecordResult:
        if reason is not None:
            self.stop.ask(reason)
        self._thread.join(60)
        assert self.result is not None
        return self.result


def stats_of(root: Path, symbol: str) -> dict[str, Any]:
    (path,) = (root / "level2" / symbol).glob("session_stats_*.json")
    return json.loads(path.read_text())


def gaps_of(root: Path, symbol: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (root / "l2_gaps.jsonl").read_text().splitlines()]
    return [line for line in lines if line["symbol"] == symbol]


def check(root: Path) -> None:
    assert [str(finding) for finding in validate_path(root).findings] == []
    assert list(root.rglob("*.tmp")) == []
    assert not list(root.glob(".capture/*/"))


def test_a_capture_ends_at_its_planned_end_and_its_result_is_what_lies_on_the_disk(root):
    result = record(a_job("AAPL", "MSFT", minutes=0.03, interval_ms=50, levels=5))

    assert (result.end_reason, result.failures, result.is_stopped) == ("duration", (), False)
    assert [row.symbol for row in result.symbols] == ["AAPL", "MSFT"]
    for row in result.symbols:
        stats = stats_of(root, row.symbol)
        assert (row.messages, row.snapshots, row.gaps) == (
            stats["num_messages"],
            stats["num_snapshots"],
            stats["gaps"],
        )
        assert stats["session_id"] == result.session_id
        assert list(row.files) == stats["files"]
        assert row.messages > 50
        # 1.8 s at 50 ms, less what the connection took.
        assert 20 <= row.snapshots <= 36
        assert [gap["cause"] for gap in gaps_of(root, row.symbol)] == ["connect"]
    assert RecordResult.from_document(json.loads(json.dumps(result.to_document()))) == result
    check(root)


def test_whoever_watches_sees_book_and_time_and_a_wish_to_stop_ends_it_cleanly(root):
    run = Run(a_job("AAPL", "MSFT", minutes=5))
    seen = run.until(lambda status: all(row.messages > 20 and row.bid for row in status.symbols))
    result = run.end("sigterm")

    assert [row.state for row in seen.symbols] == ["live", "live"]
    assert all(row.bid < row.ask and row.gap is None for row in seen.symbols)
    assert not seen.waiting
    assert 0 < seen.elapsed_s < 60
    assert seen.elapsed_s + seen.left_s == pytest.approx(300, abs=0.1)
    assert (result.end_reason, result.failures, result.is_stopped) == ("sigterm", (), True)
    assert result.symbols[0].end == stats_of(root, "AAPL")["end_reason"] == "sigterm"
    check(root)


def test_symbols_without_a_line_wait_and_are_no_failure(root, monkeypatch):
    monkeypatch.setenv("IB_MAX_DEPTH_LINES", "1")
    run = Run(a_job("AAPL", "MSFT"))
    status = run.until(lambda status: status.messages > 5)
    result = run.end("sigterm")

    assert [row.state for row in status.symbols] == ["live", "queued"]
    assert result.failures == ()
    assert (result.symbols[1].messages, result.symbols[1].end) == (0, "queued")
    assert stats_of(root, "MSFT")["num_messages"] == 0
    (gap,) = [
        gap
        for line in (root / "l2_gaps.jsonl").read_text().splitlines()
        if (gap := json.loads(line))["symbol"] == "MSFT"
    ]
    assert "IB_MAX_DEPTH_LINES" in gap["detail"]
    check(root)


def test_a_refused_symbol_is_a_failure_and_the_others_go_on(root):
    result = record(a_job("GONE", "AAPL", minutes=0.02))

    assert [row.end for row in result.symbols] == ["refused", "duration"]
    assert result.symbols[1].messages > 10
    (failure,) = result.failures
    assert "GONE" in failure
    assert "200" in failure
    check(root)


def test_a_full_disk_ends_the_session_and_says_so(root, monkeypatch):
    monkeypatch.setenv("L2_MIN_FREE_GB", "1e9")

    result = record(a_job("AAPL"))

    assert result.end_reason.startswith("storage: ")
    assert "L2_MIN_FREE_GB" in result.failures[0]
    assert result.symbols[0].end == "storage"
    assert "L2_MIN_FREE_GB" in stats_of(root, "AAPL")["end_reason"]
    check(root)


def test_what_the_gateway_says_of_itself_is_told_and_stats_and_gaps_are_mirrored(root, monkeypatch, caplog, tmp_path):
    backup = tmp_path / "backup"
    monkeypatch.setenv("ML_BACKUP_PATH", str(backup))
    monkeypatch.setenv("IB_PAPER_TRADING", "0")
    with caplog.at_level(logging.DEBUG):
        record(a_job("AAPL", minutes=0.015))

    # Its one account tells a sandbox, though nobody had said so.
    (path,) = (root / "level2" / "AAPL").glob("*.parquet")
    assert pq.read_schema(path).metadata[b"producer"].endswith(b"(sandbox)")
    assert "accounts are paper ones" in caplog.text
    assert stats_of(root, "AAPL")["paper_mode"] is False
    (stats,) = (root / "level2" / "AAPL").glob("session_stats_*.json")
    assert {str(path.relative_to(backup)) for path in backup.rglob("*.json*")} == {
        "l2_gaps.jsonl",
        str(stats.relative_to(root)),
    }
    assert "DUSANDBOX" not in caplog.text
    for written in root.rglob("*"):
        assert written.is_dir() or b"DUSANDBOX" not in written.read_bytes(), written


def test_a_wait_for_the_window_ends_on_a_wish_and_leaves_nothing(root):
    now = dt.datetime.now(ET)
    if now.hour == 23:
        pytest.skip("no window is to come today")
    to_come = Window(dt.time(23, 58), dt.time(23, 59))
    run = Run(dataclasses.replace(a_job("AAPL"), minutes=None, window=to_come, day=now.date()))
    run.until(lambda status: status.waiting and status.left_s > 60)
    result = run.end("sigterm")

    assert result == RecordResult(None, "sigterm")
    assert not root.exists()


def test_a_window_that_has_begun_is_captured_from_now_to_its_end(root):
    today = dt.datetime.now(ET).date()
    run = Run(dataclasses.replace(a_job("AAPL"), minutes=None, window=Window(dt.time(0), dt.time(23, 59)), day=today))
    status = run.until(lambda status: status.messages > 5)
    run.end("sigint")

    midnight_s = (dt.datetime.combine(today, dt.time(23, 59), tzinfo=ET) - dt.datetime.now(ET)).total_seconds()
    assert status.left_s == pytest.approx(midnight_s, abs=30)
    check(root)


@pytest.mark.skipif(importlib.util.find_spec("ib_async") is not None, reason="ib_async is installed here")
def test_a_client_library_that_is_not_there_is_refused_before_anything_is_written(root, monkeypatch):
    monkeypatch.setenv("IB_LIBRARY", "ib_async")
    with pytest.raises(ConfigurationError, match="ib_async is not installed"):
        record(a_job("AAPL", minutes=0.01))
    assert not root.exists()


def test_a_root_that_cannot_be_written_is_refused(root):
    root.mkdir()
    (root / ".capture").write_text("in the way")
    with pytest.raises(ConfigurationError, match="nothing was captured"):
        record(a_job("AAPL", minutes=0.01))

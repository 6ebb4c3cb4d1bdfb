"""Disks that refuse and children that die: a session ends and says what is missing, and is recovered later."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time

import pytest

from connectors.store.errors import StoreError
from connectors.store.live import dead_sessions
from contracts.layout import DataRoot
from contracts.validate import validate_path
from flows.capture_recorder import Recorder
from flows.capture_recover import recover
from flows.capture_spec import SessionSpec

S = 10**9
START_NS = 1_757_000_400 * S


class Clock:
    ns = START_NS

    def __call__(self):
        return self.ns


def make_spec(**changed):
    told = {
        "session_id": "s-1",
        "symbols": ("AAPL",),
        "levels": 3,
        "interval_ms": 100,
        "start_ns": START_NS,
        "planned_end_ns": START_NS + 3600 * S,
        "paper_mode": True,
        "producer": "test 1",
    }
    return SessionSpec(**{**told, **changed})


def session(root, *, before_finish=lambda: None):
    clock = Clock()
    with Recorder(DataRoot(root), make_spec(), now_ns=clock) as recorder:
        recorder.seen("AAPL", clock.ns + S)
        for number in range(50):
            clock.ns = START_NS + S + number * S // 10
            assert recorder.message("AAPL", clock.ns, 0, number % 2, 0, 100.0, 100.0, "")
        before_finish()
        return recorder.finish(START_NS + 10 * S, "duration")


def gaps_of(root):
    return [json.loads(line) for line in (root / "l2_gaps.jsonl").read_text().splitlines()]


def check_whole(root, recovered):
    """What was left to the recovery is as if nothing had happened: the session ended well, there is no crash."""
    (one,) = recovered
    assert one.problems == ()
    left = one.symbols["AAPL"]
    assert (left.messages, left.snapshots, left.gaps, left.end_reason) == (50, 90, 1, "duration")
    assert [gap["cause"] for gap in gaps_of(root)] == ["connect"]
    assert validate_path(root).findings == []
    assert recover(DataRoot(root)) == []


def test_a_child_that_dies_leaves_the_journal_to_the_recovery(tmp_path, monkeypatch):
    """Here Python itself cannot start in the child."""
    with monkeypatch.context() as broken:
        result = session(tmp_path, before_finish=lambda: broken.setenv("PYTHONHOME", str(tmp_path / "none")))
    (problem,) = result.problems
    assert "segment 0 of AAPL is not published, its journal is kept" in problem
    assert "trading-data recover" in problem
    assert result.symbols["AAPL"].messages == 0
    (stats_path,) = tmp_path.glob("level2/AAPL/session_stats_*.json")
    stats = json.loads(stats_path.read_text())
    assert (stats["num_messages"], stats["end_reason"]) == (0, "duration")
    assert validate_path(tmp_path).findings == []
    check_whole(tmp_path, recover(DataRoot(tmp_path)))


def test_gap_records_that_cannot_be_written_keep_the_journal(tmp_path):
    """A folder lies where the gap records go: without them no journal may go either."""
    in_the_way = tmp_path / "l2_gaps.jsonl"
    in_the_way.mkdir()
    result = session(tmp_path)
    assert any("1 gap records are not written" in problem for problem in result.problems)
    assert result.symbols["AAPL"].gaps == 0
    (unfinished,) = recover(DataRoot(tmp_path))
    assert "l2_gaps.jsonl" in unfinished.problems[0]
    in_the_way.rmdir()
    check_whole(tmp_path, recover(DataRoot(tmp_path)))


def test_a_disk_that_refuses_at_the_start_is_told_at_once(tmp_path):
    (tmp_path / "level2").mkdir()
    (tmp_path / "level2" / "MSFT").write_text("")
    with pytest.raises(StoreError, match="MSFT"):
        Recorder(DataRoot(tmp_path), make_spec(symbols=("AAPL", "MSFT")), now_ns=Clock()).start()
    # A session that could not begin is no session that died.
    assert dead_sessions(DataRoot(tmp_path)) == []
    assert list(tmp_path.rglob("session_stats_*")) == []


def test_two_sessions_of_one_id_are_refused(tmp_path):
    other = Recorder(DataRoot(tmp_path), make_spec(), now_ns=Clock())
    with Recorder(DataRoot(tmp_path), make_spec(), now_ns=Clock()), pytest.raises(StoreError, match="exists already"):
        other.start()


FULL = """
import json, resource, sys, time
from pathlib import Path
import flows.capture_recorder
from contracts.layout import DataRoot
from flows.capture_recorder import Recorder
from flows.capture_spec import SessionSpec

S = 10**9
START_NS = 1_757_000_400 * S
ns = START_NS
flows.capture_recorder._GIVE_UP_S = 0.5
spec = SessionSpec("s-1", ("AAPL", "MSFT"), 3, 100, START_NS, START_NS + 3600 * S, True, "test 1", queue_messages=2000)
recorder = Recorder(DataRoot(Path(sys.argv[1])), spec, now_ns=lambda: ns)
recorder.start()
# No file may grow beyond this from here on, as on a full disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
recorder.seen("AAPL", ns)
taken = number = 0
deadline = time.monotonic() + 60
while recorder.failed is None:
    ns = START_NS + number * 1_000_000
    if recorder.message("AAPL", ns, 0, number % 2, 0, 100.0, 100.0, ""):
        taken += 1
    else:
        time.sleep(0.01)
    number += 1
    while number == 300 and recorder.progress().messages < 300:
        time.sleep(0.01)
    assert time.monotonic() < deadline
limit = {"freed": resource.RLIM_INFINITY, "fuller": 20_000}[sys.argv[2]]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
result = recorder.finish(ns + 1, "the disk is full")
print(json.dumps({"failed": recorder.failed, "problems": result.problems, "taken": taken,
                  "messages": result.symbols["AAPL"].messages}))
"""


def run_on_a_full_disk(root, *, then):
    done = subprocess.run(
        [sys.executable, "-P", "-c", FULL, str(root), then], check=True, capture_output=True, text=True, timeout=120
    )
    return json.loads(done.stdout)


def test_a_full_disk_ends_the_session_and_what_was_journaled_is_kept(tmp_path):
    told = run_on_a_full_disk(tmp_path, then="fuller")
    assert "ulimit" in told["failed"]
    assert told["problems"][0] == told["failed"]
    # The messages file is as long as the journal: it is made once there is room.
    assert any("its journal is kept" in problem for problem in told["problems"])
    assert dead_sessions(DataRoot(tmp_path)) == ["s-1"]
    (recovered,) = recover(DataRoot(tmp_path))
    assert recovered.problems == ()
    left = recovered.symbols["AAPL"]
    assert 300 <= left.messages < told["taken"]
    assert left.end_reason == "the disk is full"
    # What waited and was lost is one hole to the end; nothing is said twice.
    gaps = [gap for gap in gaps_of(tmp_path) if gap["symbol"] == "AAPL"]
    assert [gap["cause"] for gap in gaps] == ["connect", "queue_drop"]
    (path,) = tmp_path.glob("level2/AAPL/*_messages_*.json")
    assert gaps[1]["gap_start"] == json.loads(path.read_text())[-1]["timestamp"]
    assert validate_path(tmp_path).findings == []


def test_a_disk_that_is_freed_in_time_loses_nothing_that_was_taken(tmp_path):
    told = run_on_a_full_disk(tmp_path, then="freed")
    assert told["messages"] == told["taken"]
    assert len(told["problems"]) == 1
    assert validate_path(tmp_path).findings == []


def test_a_recorder_that_meets_an_error_of_its_own_fails_and_ends(tmp_path, caplog):
    """A message of a symbol that the session does not have is a fault of the program, and must not pass unseen."""
    clock = Clock()
    with caplog.at_level(logging.CRITICAL), Recorder(DataRoot(tmp_path), make_spec(), now_ns=clock) as recorder:
        recorder.message("AAPL", clock.ns, 0, 0, 0, 100.0, 100.0, "")
        recorder.message("MSFT", clock.ns, 0, 0, 0, 100.0, 100.0, "")
        deadline_s = time.monotonic() + 30
        while recorder.failed is None:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert "KeyError" in recorder.failed
        result = recorder.finish(clock.ns + S, "failed")
    assert "KeyError" in result.problems[0]
    assert result.symbols["AAPL"].messages == 1
    (gap,) = gaps_of(tmp_path)
    assert (gap["cause"], gap["gap_end"]) == ("queue_drop", "2025-09-04T15:40:01.000000000+00:00")
    assert recover(DataRoot(tmp_path)) == []
    assert validate_path(tmp_path).findings == []

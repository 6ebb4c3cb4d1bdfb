"""How sessions end: what is told after their end, and why each symbol ended."""

from __future__ import annotations

import json

import pytest

from contracts.layout import DataRoot
from contracts.timestamps import ns_from_text
from contracts.validate import validate_path
from flows.capture_recorder import Recorder
from flows.capture_spec import SessionSpec

S = 10**9
START_NS = 1_757_000_400 * S
END_NS = START_NS + 20 * S
CLOSED = "connection closed"


@pytest.fixture
def recorder(tmp_path):
    spec = SessionSpec("s-1", ("AAPL", "MSFT"), 3, 100, START_NS, END_NS, True, "test 1")
    with Recorder(DataRoot(tmp_path), spec, now_ns=lambda: START_NS) as recorder:
        recorder.seen("AAPL", START_NS + S)
        recorder.message("AAPL", START_NS + S, 0, 1, 0, 100.0, 100.0, "")
        yield recorder
    assert validate_path(tmp_path).findings == []


def gaps_of(root, symbol):
    gaps = [json.loads(line) for line in (root / "l2_gaps.jsonl").read_text().splitlines()]
    return [
        (gap["cause"], (ns_from_text(gap["gap_start"]) - START_NS) / S, (ns_from_text(gap["gap_end"]) - START_NS) / S)
        for gap in gaps
        if gap["symbol"] == symbol
    ]


def test_a_clock_that_jumped_past_the_end_leaves_its_hole(recorder, tmp_path):
    """The hole began before the end, though it is told after it."""
    recorder.lost("AAPL", END_NS + 9 * S, "clock", "on by 20 s", since_ns=START_NS + 9 * S, clear=False)
    recorder.seen("AAPL", END_NS + 9 * S)
    recorder.finish(END_NS + 9 * S, "duration")
    assert gaps_of(tmp_path, "AAPL") == [("connect", 0, 1), ("clock", 9, 20)]


def test_what_begins_at_the_end_is_no_hole_of_the_session(recorder, tmp_path):
    recorder.lost("AAPL", END_NS, "disconnect", CLOSED, since_ns=END_NS, clear=True)
    recorder.finish(END_NS, "duration")
    assert gaps_of(tmp_path, "AAPL") == [("connect", 0, 1)]


def test_a_symbol_can_end_for_a_reason_of_its_own(recorder, tmp_path):
    result = recorder.finish(END_NS, "duration", {"MSFT": "refused: error 354"})
    assert {name: found.end_reason for name, found in result.symbols.items()} == {
        "AAPL": "duration",
        "MSFT": "refused: error 354",
    }
    for symbol, found in result.symbols.items():
        stats = json.loads(found.stats_path.read_text())
        assert (stats["symbol"], stats["end_reason"]) == (symbol, found.end_reason)

"""Checkpoints: what a dead run had finished comes into the manifest once, in its order, whatever was torn."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.store.checkpoints import Checkpoint, Checkpoints, record_unfinished
from connectors.store.manifests import append_backfill_line
from contracts.layout import DataRoot
from contracts.v1.backfill import BackfillManifestLine, parse_manifest_line
from contracts.validate import validate_path

EARLY = datetime(2025, 9, 6, tzinfo=UTC)


def line(symbol: str, run_id: str = "dead", day: int = 5) -> BackfillManifestLine:
    return BackfillManifestLine(
        symbol=symbol, date=date(2025, 9, day), status="EMPTY", run_id=run_id, written_at=EARLY, reason="no records"
    )


def symbols(root: DataRoot) -> list[str]:
    return [parse_manifest_line(text).symbol for text in root.backfill_manifest.read_bytes().splitlines()]


@pytest.fixture
def root(tmp_path):
    return DataRoot(tmp_path / "data")


def test_what_was_added_is_read_back_by_position(root):
    kept = Checkpoints(root, "dead")
    kept.add(Checkpoint(7, line("MSFT"), bytes_written=12, duration_ms=3.5))
    kept.add(Checkpoint(2, line("AAPL")))

    assert Checkpoints(root, "dead").read() == {
        2: Checkpoint(2, line("AAPL")),
        7: Checkpoint(7, line("MSFT"), bytes_written=12, duration_ms=3.5),
    }


def test_nothing_is_written_before_there_is_something(root):
    kept = Checkpoints(root, "dead")
    assert (kept.read(), kept.stop_asked, record_unfinished(root)) == ({}, False, ())
    kept.remove()
    assert not root.path.exists()


def test_a_batch_is_begun_once(root):
    assert Checkpoints(root, "dead").begin(0)
    assert Checkpoints(root, "dead").begin(1)
    assert not Checkpoints(root, "dead").begin(0)
    assert Checkpoints(root, "other").begin(0)
    assert Checkpoints(root, "dead").read() == {}


def test_a_wish_to_stop_ends_with_the_run(root):
    Checkpoints(root, "dead").ask_to_stop()
    assert Checkpoints(root, "dead").stop_asked
    Checkpoints(root, "dead").remove()
    assert not Checkpoints(root, "dead").stop_asked
    assert list(root.path.iterdir()) == []


def test_lines_of_a_dead_run_are_recorded_in_input_order_and_say_when(root):
    append_backfill_line(root, line("BEFORE", "another"))
    kept = Checkpoints(root, "dead")
    for position, symbol in ((3, "C"), (1, "A"), (2, "B")):
        kept.add(Checkpoint(position, line(symbol)))
    append_backfill_line(root, line("A"))

    appended = record_unfinished(root)

    assert symbols(root) == ["BEFORE", "A", "B", "C"]
    assert [each.symbol for each in appended] == ["B", "C"]
    assert all(each.written_at > EARLY for each in appended)
    assert not (root.path / ".backfill").exists()
    assert record_unfinished(root) == ()
    assert validate_path(root.path).ok


def test_two_dead_runs_keep_their_own_ids(root):
    for run_id in ("first", "second"):
        Checkpoints(root, run_id).add(Checkpoint(0, line("AAPL", run_id)))
    record_unfinished(root)
    lines = [parse_manifest_line(text) for text in root.backfill_manifest.read_bytes().splitlines()]
    assert sorted(each.run_id for each in lines) == ["first", "second"]


def test_a_worker_that_outlives_its_run_is_recorded_by_the_run_after(root):
    kept = Checkpoints(root, "dead")
    kept.add(Checkpoint(0, line("AAPL")))
    record_unfinished(root)
    kept.add(Checkpoint(1, line("MSFT")))
    kept.add(Checkpoint(0, line("AAPL")))

    record_unfinished(root)

    assert symbols(root) == ["AAPL", "MSFT"]


@settings(max_examples=40, deadline=None)
@given(
    done=st.lists(st.integers(0, 9), unique=True, min_size=1, max_size=8),
    recorded=st.integers(0, 8),
    torn=st.integers(0, 40),
)
def test_whatever_was_recorded_and_torn_each_whole_day_has_one_line(tmp_path_factory, done, recorded, torn):
    root = DataRoot(tmp_path_factory.mktemp("root"))
    kept = Checkpoints(root, "dead")
    for position in done:
        kept.add(Checkpoint(position, line(f"S{position}")))
    for position in sorted(done)[:recorded]:
        append_backfill_line(root, line(f"S{position}"))
    path = root.path / ".backfill" / "dead.jsonl"
    path.write_bytes(path.read_bytes() + Checkpoint(9, line("S9")).to_json_line().encode()[:torn])

    record_unfinished(root)
    record_unfinished(root)

    assert symbols(root) == [f"S{position}" for position in sorted(done)]


def test_threads_and_processes_append_whole_lines(root):
    script = """
import sys
from datetime import date
from pathlib import Path
from connectors.store.checkpoints import Checkpoint, Checkpoints
from contracts.layout import DataRoot
from contracts.v1.backfill import BackfillManifestLine
kept = Checkpoints(DataRoot(Path(sys.argv[1])), "dead")
for number in range(100):
    position = int(sys.argv[2]) + 2 * number
    kept.add(Checkpoint(position, BackfillManifestLine(symbol="AAPL", date=date(2025, 9, 5), status="EMPTY")))
"""
    running = [subprocess.Popen([sys.executable, "-c", script, str(root.path), str(n)]) for n in range(2)]
    assert [each.wait(60) for each in running] == [0, 0]
    assert sorted(Checkpoints(root, "dead").read()) == list(range(200))

"""Recorders that are killed, and what is made of what they leave."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from connectors.store.journal import read_journal
from connectors.store.live import CaptureFolder, dead_sessions
from contracts.layout import DataRoot
from contracts.timestamps import ns_from_text
from contracts.validate import validate_path
from flows.capture_recorder import Recorder
from flows.capture_recover import recover
from flows.capture_spec import SessionSpec

S = 10**9

RECORD = """
import os, sys, time
from pathlib import Path
from contracts.layout import DataRoot
from flows.capture_recorder import Recorder
from flows.capture_spec import SessionSpec

root, session_id, rotate_minutes = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
now = time.time_ns
start_ns = now()
spec = SessionSpec(session_id, ("AAPL", "MSFT"), 3, 100, start_ns, start_ns + 120 * 10**9, True, "test 1",
                   rotate_minutes=rotate_minutes, flush_s=0.2)
recorder = Recorder(DataRoot(root, "Level2"), spec, now_ns=now)
recorder.start()
number = 0
while True:
    ns = now()
    if number % 50 == 40:
        recorder.lost("AAPL", ns, "data_lost", "told", since_ns=ns, clear=True)
    if number % 50 in (0, 45):
        recorder.seen("AAPL", ns)
    if number % 50 < 40:
        recorder.message("AAPL", ns, 0, number % 2, 0, 100.0, 100.0, f"M{number}")
    # What was said this long before a kill must be found again.
    os.write(1, f"{number} {ns}\\n".encode())
    number += 1
    time.sleep(0.005)
"""


def start(root, session_id="s-1", rotate_minutes=0.02):
    return subprocess.Popen(
        [sys.executable, "-P", "-c", RECORD, str(root), session_id, str(rotate_minutes)], stdout=subprocess.PIPE
    )


def kill(child) -> list[tuple[int, int]]:
    """End a recorder at once; returns number and time of what it had said."""
    child.send_signal(signal.SIGKILL)
    out, _ = child.communicate()
    assert child.returncode == -signal.SIGKILL
    return [tuple(map(int, line.split())) for line in out.decode().splitlines()]


def journaled(root, session_id):
    """Every record of AAPL that is in a journal or in a file already."""
    found = {}
    folder = CaptureFolder(DataRoot(root, "Level2"), session_id)
    for path in (root / "Level2" / "AAPL").glob("*_messages_*.json"):
        for record in json.loads(path.read_text()):
            found[record["seq"]] = record
    for file in folder.journals():
        if file.symbol == "AAPL":
            for line, is_control in read_journal(file.path).lines():
                if not is_control:
                    record = json.loads(line)
                    found[record["seq"]] = record
    return found


def gaps_of(root):
    found = defaultdict(list)
    for line in (root / "l2_gaps.jsonl").read_text().splitlines():
        gap = json.loads(line)
        found[gap["session_id"], gap["symbol"]].append(gap)
    return found


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def check_recovered(root, session_id, said, before, killed_ns):
    """A killed session is whole again: every record once, its gaps from end to end, its stats final."""
    assert not (root / ".capture" / session_id).exists()
    report = validate_path(root)
    assert [finding for finding in report.findings if finding.severity == "error"] == []
    folder = root / "Level2" / "AAPL"
    (stats,) = [
        document
        for path in folder.glob("session_stats_*.json")
        if (document := json.loads(path.read_text()))["session_id"] == session_id
    ]
    names = sorted(name for name in stats["files"] if name.endswith(".json"))
    records = [record for name in names for record in json.loads((folder / name).read_text())]
    assert [record["seq"] for record in records] == list(range(len(records)))
    assert {record["seq"]: record for record in records} == before
    assert stats["end_reason"] == "crash"
    # All that was said more than the flush time before the kill is there.
    makers = {record["market_maker"] for record in records if "market_maker" in record}
    assert makers >= {f"M{number}" for number, ns in said if number % 50 < 40 and ns < killed_ns - S // 2}
    for symbol in ("AAPL", "MSFT"):
        gaps = gaps_of(root)[session_id, symbol]
        assert [gap["cause"] for gap in gaps].count("crash") == 1
        assert gaps[-1]["cause"] == "crash"
        assert len({(gap["gap_start"], gap["cause"]) for gap in gaps}) == len(gaps)
        spans = [(ns_from_text(gap["gap_start"]), ns_from_text(gap["gap_end"])) for gap in gaps]
        assert spans == sorted(spans)
        last_ns = spans[-1][0]
        assert killed_ns - S < last_ns <= killed_ns
        # MSFT never came: its hole goes from end to end.
        if symbol == "MSFT":
            assert all(before[1] == after[0] for before, after in pairwise(spans))
            assert spans[-1][1] > killed_ns
    assert all(gap["cause"] in ("connect", "data_lost", "crash") for gap in gaps_of(root)[session_id, "AAPL"])


@pytest.mark.parametrize("lived_s", [0.05, 2.0])
def test_a_killed_recorder_loses_nothing_that_was_journaled(tmp_path, lived_s):
    """Segments of a second, so that children publish some of them while the recorder lives and after it died."""
    child = start(tmp_path)
    assert child.stdout.readline().startswith(b"0 ")
    time.sleep(lived_s)
    killed_ns = time.time_ns()
    said = kill(child)
    wait_until_published(tmp_path)
    before = journaled(tmp_path, "s-1")
    (recovered,) = recover(DataRoot(tmp_path))
    assert recovered.problems == ()
    check_recovered(tmp_path, "s-1", said, before, killed_ns)
    assert recovered.symbols["AAPL"].messages == len(before)
    assert recovered.symbols["AAPL"].end_reason == "crash"
    files = contents(tmp_path)
    assert recover(DataRoot(tmp_path)) == []
    assert contents(tmp_path) == files


def wait_until_published(root):
    """A child that publishes outlives its recorder; only so that what is there can be listed in peace."""
    deadline_s = time.monotonic() + 60
    while any(name for name in _children(root)):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def _children(root):
    needle = str(root).encode()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes()
        except OSError:
            continue
        if needle in command and b"flows.capture_close" in command:
            yield command


def test_a_recovery_that_is_killed_too_is_repeated(tmp_path):
    """At whatever moment: two recoveries at once, killed, and then one that is left alone."""
    child = start(tmp_path, rotate_minutes=0.005)
    assert child.stdout.readline().startswith(b"0 ")
    time.sleep(1.2)
    killed_ns = time.time_ns()
    said = kill(child)
    wait_until_published(tmp_path)
    before = journaled(tmp_path, "s-1")
    source = random.Random(5)  # noqa: S311 - not for secrets
    for _ in range(2):
        with ExitStack() as running:
            pair = [running.enter_context(_recovery(tmp_path)) for _ in range(2)]
            time.sleep(0.8 + source.random())
            for process in pair:
                process.kill()
            for process in pair:
                process.communicate()
    with _recovery(tmp_path) as last:
        _, errors = last.communicate()
    assert (last.returncode, errors) == (0, b"")
    check_recovered(tmp_path, "s-1", said, before, killed_ns)


def _recovery(root):
    command = [sys.executable, "-P", "-m", "flows.capture_recover", str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_two_recoveries_at_once_do_the_work_once(tmp_path):
    killed = {}
    for name in ("one", "two"):
        child = start(tmp_path, name, rotate_minutes=15)
        assert child.stdout.readline().startswith(b"0 ")
        time.sleep(0.3)
        killed_ns = time.time_ns()
        killed[name] = (kill(child), journaled(tmp_path, name), killed_ns)
    with ExitStack() as running:
        pair = [running.enter_context(_recovery(tmp_path)) for _ in range(2)]
        outputs = [process.communicate() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    told = [json.loads(line) for out, _ in outputs for line in out.splitlines()]
    assert sorted(session["session_id"] for session in told) == ["one", "two"]
    assert all(session["problems"] == [] for session in told)
    for name, (said, before, killed_ns) in killed.items():
        check_recovered(tmp_path, name, said, before, killed_ns)


# --- moments of a crash, made by hand ------------------------------------------------------------------------------


def begin(root, start_ns, minutes=60):
    """What a recorder leaves that dies before its first journal."""
    spec = SessionSpec("s-1", ("AAPL",), 3, 100, start_ns, start_ns + minutes * 60 * S, True, "test 1")
    with CaptureFolder(root, "s-1").create(spec.to_document()):
        return spec


def test_a_recorder_that_died_before_its_first_journal_saw_nothing(tmp_path):
    root = DataRoot(tmp_path)
    start_ns = 1_757_000_000 * S
    spec = begin(root, start_ns)
    now_ns = start_ns + 600 * S
    (recovered,) = recover(root, now_ns=lambda: now_ns)
    assert (recovered.problems, recovered.symbols["AAPL"].end_reason) == ((), "crash")
    (gap,) = gaps_of(tmp_path)["s-1", "AAPL"]
    moments = [
        f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000):%H:%M:%S}" for ns in (start_ns, now_ns)
    ]
    assert (gap["cause"], gap["gap_start"][11:19], gap["gap_end"][11:19]) == ("crash", *moments)
    assert validate_path(tmp_path).findings == []
    assert spec.planned_end_ns > now_ns


def test_a_crash_gap_ends_with_the_planned_session(tmp_path):
    root = DataRoot(tmp_path)
    start_ns = 1_757_000_000 * S
    spec = begin(root, start_ns, minutes=5)
    recover(root, now_ns=lambda: start_ns + 86_400 * S)
    (gap,) = gaps_of(tmp_path)["s-1", "AAPL"]
    assert ns_from_text(gap["gap_end"]) == spec.planned_end_ns


def test_a_crash_gap_ends_where_the_next_session_of_the_symbol_began(tmp_path):
    root = DataRoot(tmp_path)
    start_ns = 1_757_000_000 * S
    begin(root, start_ns)
    for name, symbol, after_s in (("s-2", "MSFT", 50), ("s-3", "AAPL", 100), ("s-4", "AAPL", 300)):
        begun_ns = start_ns + after_s * S + 123
        spec = SessionSpec(name, (symbol,), 3, 100, begun_ns, begun_ns + 60 * S, True, "test 1")
        recorder = Recorder(root, spec, now_ns=lambda begun_ns=begun_ns: begun_ns + S)
        recorder.start()
        assert recorder.finish(begun_ns + 30 * S, "duration").problems == ()
    recover(root, now_ns=lambda: start_ns + 600 * S)
    (gap,) = gaps_of(tmp_path)["s-1", "AAPL"]
    first_seen = gaps_of(tmp_path)["s-3", "AAPL"][0]["gap_start"]
    assert 0 <= ns_from_text(gap["gap_end"]) - ns_from_text(first_seen) < 1000
    assert validate_path(tmp_path).findings == []


def test_a_session_whose_description_is_damaged_is_reported_and_stays(tmp_path):
    child = start(tmp_path, rotate_minutes=15)
    assert child.stdout.readline().startswith(b"0 ")
    kill(child)
    spec_path = tmp_path / ".capture" / "s-1" / "session.json"
    text = spec_path.read_bytes()
    spec_path.write_bytes(text[:40])
    (recovered,) = recover(DataRoot(tmp_path))
    assert "session.json" in recovered.problems[0]
    assert dead_sessions(DataRoot(tmp_path)) == ["s-1"]
    spec_path.write_bytes(text)
    (recovered,) = recover(DataRoot(tmp_path))
    assert recovered.problems == ()
    assert validate_path(tmp_path).ok


def test_a_damaged_journal_does_not_hold_up_the_other_sessions(tmp_path):
    killed = {}
    for name in ("one", "two"):
        child = start(tmp_path, name, rotate_minutes=15)
        assert child.stdout.readline().startswith(b"0 ")
        time.sleep(0.3)
        killed_ns = time.time_ns()
        killed[name] = (kill(child), journaled(tmp_path, name), killed_ns)
    journal = tmp_path / ".capture" / "one" / "AAPL-000000.journal"
    text = journal.read_bytes()
    journal.write_bytes(
        text.replace(b'"price": 100.0', b'"price": 1e0.0', 5).replace(b'"price": 1e0.0', b'"price": 100.0', 4)
    )
    sessions = {session.session_id: session for session in recover(DataRoot(tmp_path))}
    assert "AAPL" in sessions["one"].problems[0]
    assert sessions["two"].problems == ()
    assert dead_sessions(DataRoot(tmp_path)) == ["one"]
    journal.write_bytes(text)
    assert recover(DataRoot(tmp_path))[0].problems == ()
    for name, (said, before, killed_ns) in killed.items():
        check_recovered(tmp_path, name, said, before, killed_ns)


def test_a_crash_is_told_although_the_clock_was_set_back(tmp_path):
    root = DataRoot(tmp_path)
    start_ns = 1_757_000_000 * S
    begin(root, start_ns)
    recover(root, now_ns=lambda: start_ns - 600 * S)
    (gap,) = gaps_of(tmp_path)["s-1", "AAPL"]
    assert (gap["cause"], gap["gap_start"]) == ("crash", gap["gap_end"])


def test_nothing_to_recover_is_fine(tmp_path):
    assert recover(DataRoot(tmp_path / "none")) == []
    assert not (tmp_path / "none").exists()
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - the question is whether anything is there

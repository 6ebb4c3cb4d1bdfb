"""kill -9 before every single step of a capture session: recovery ends in the files of a session that nobody killed."""

import os
import subprocess
import sys

import pyarrow as pa
import pytest

from connectors.store.journal import JournalWriter
from connectors.store.live import CaptureFolder, SegmentRows, publish_segment
from contracts.layout import DataRoot
from contracts.v1.level2 import SNAPSHOT_SCHEMA

# The children are forked from one process that has everything imported, so that a round takes milliseconds. Before
# each of its steps a child may be killed; a write is killed in its middle.
ROUNDS = """
import datetime as dt, json, os, random, signal, sys
from pathlib import Path
import pyarrow as pa
from connectors.store.journal import JournalWriter, read_journal
from connectors.store.live import *
from connectors.store.temps import sweep_stale_temps
from contracts.layout import DataRoot
from contracts.v1.level2 import SNAPSHOT_SCHEMA
from contracts.v1.session_stats import SessionStats

top = Path(sys.argv[1])
random.seed(1)
KINDS = {"os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def killed(step, work, *args):
    # Run work in a child and kill it before its step-th step; False when it ended before that.
    pid = os.fork()
    if pid:
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status) or status == 0, "the child failed"
        return os.WIFSIGNALED(status)
    done = 0
    def stepping():
        nonlocal done
        done += 1
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)
    def hook(event, arguments):
        if event in KINDS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
            stepping()
    real_write = os.write
    def write(fd, data):
        if done + 1 == step:
            real_write(fd, bytes(data)[: len(data) // 2])
        stepping()
        return real_write(fd, data)
    os.write = write
    sys.addaudithook(hook)
    try:
        work(*args)
        os._exit(0)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)

def record(seq):
    timestamp = f"2025-09-04T13:30:00.{seq:09d}+00:00"
    return json.dumps({"timestamp": timestamp, "symbol": "AAPL", "seq": seq}) + "\\n"

def rows(journal, messages):
    # As replaying does, from the messages alone.
    times = [message["timestamp"] for message in json.loads(messages.read_bytes())]
    prices, sizes = [[0.0]] * len(times), [[0]] * len(times)
    batch = pa.record_batch([times, prices, sizes, prices, sizes], schema=SNAPSHOT_SCHEMA)
    return SegmentRows(SNAPSHOT_SCHEMA, [batch], lambda: {"seen": len(times)})

def stats(folder):
    published = folder.segments("AAPL")
    files = [name for one in published for name in one.files]
    return SessionStats(
        symbol="AAPL", levels=1, interval_ms=100, paper_mode=True, session_id=folder.session_id,
        num_snapshots=sum(one.rows for one in published), num_messages=sum(one.messages for one in published),
        recording_date=dt.datetime(2025, 9, 4, 13, 30, tzinfo=dt.UTC), files=files,
    )

def session(root, recorded):
    folder = CaptureFolder(root, "s1")
    with folder.create({"session_id": "s1"}):
        path = claim_stats(folder, stats(folder))
        with JournalWriter(folder.journal_path("AAPL", 1), {"number": 1}) as writer:
            for seq in range(0, 4, 2):
                writer.write([record(seq), record(seq + 1)])
                writer.sync()
        recorded.mkdir()
        publish_segment(folder, "AAPL", 1, rows)
        write_stats(path, stats(folder))
        folder.remove()

def recover(root):
    sweep_stale_temps(root.path)
    for session_id in dead_sessions(root):
        with CaptureFolder(root, session_id).open_dead() as folder:
            folder.spec()
            path = claim_stats(folder, stats(folder))
            for journal in folder.journals():
                publish_segment(folder, journal.symbol, journal.number, rows)
            write_stats(path, stats(folder))
            folder.remove()

def tree(root):
    return {path.name: path.read_bytes() for path in sorted(root.symbol_dir("AAPL").glob("*"))}

def check_journals(root):
    for path in root.path.glob(".capture/s1/*.journal"):
        seen = [json.loads(line)["seq"] for line, _ in read_journal(path).lines()]
        assert seen == list(range(len(seen)))

def check_files(root):
    found = tree(root)
    for name, content in found.items():
        if name.startswith("."):
            continue
        if name.endswith(".json"):
            json.loads(content)
        else:
            pa.parquet.read_table(root.symbol_dir("AAPL") / name)

import pyarrow.parquet
assert not killed(0, session, DataRoot(top / "whole"), top / "whole-recorded")
whole = tree(DataRoot(top / "whole"))
assert len(whole) == 3, list(whole)

step = 0
while True:
    step += 1
    root, recorded = DataRoot(top / str(step)), top / f"{step}-recorded"
    if not killed(step, session, root, recorded):
        break
    check_journals(root)
    check_files(root)
    # Recovery is killed too, now and then.
    while random.random() < 0.3 and killed(random.randrange(1, 40), recover, root):
        check_files(root)
    assert not killed(0, recover, root)
    found = tree(root)
    assert not list(root.path.rglob("*.tmp")), "temps stay"
    assert not list(root.path.glob(".capture/*/")), "a session stays"
    assert not list(root.path.glob(".capture/.*.discarded")), "a removal was not finished"
    if recorded.exists():
        assert found == whole, (step, sorted(found), sorted(whole))
    else:
        # What was journaled before the kill is there, under the names of the whole session.
        for name, content in found.items():
            if "messages" in name:
                messages = json.loads(content)
                assert messages == json.loads(whole[name])[: len(messages)]
        assert set(found) <= set(whole)
assert tree(root) == whole
print(step)
"""


def test_kill_9_before_any_step_of_a_session_and_of_its_recovery(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ROUNDS, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=250,
    )
    told = [line for line in done.stderr.splitlines() if "moved a torn last line" not in line and "removed" not in line]
    assert (done.returncode, told) == (0, [])
    # So many steps there are, at least.
    assert int(done.stdout) > 50


@pytest.fixture
def steps(monkeypatch):
    """What happens on the disk, in order: (what, file name)."""
    seen = []

    def noting(what, real):
        def step(*args, **options):
            if what == "flush":
                name = os.path.basename(os.readlink(f"/proc/self/fd/{args[0]}"))  # noqa: PTH115, PTH119 - a link's text
            else:
                name = os.path.basename(args[-1])  # noqa: PTH119 - of any kind of path
            result = real(*args, **options)
            seen.append((what, name))
            return result

        return step

    for what, function in (("flush", "fsync"), ("link", "link"), ("rename", "replace"), ("remove", "unlink")):
        monkeypatch.setattr(os, function, noting(what, getattr(os, function)))
    return seen


def test_every_step_of_a_publication_is_on_the_disk_before_the_next(tmp_path, steps):
    root = DataRoot(tmp_path)
    with CaptureFolder(root, "s1").create({}) as folder:
        with JournalWriter(folder.journal_path("AAPL", 1), {}) as writer:
            writer.write(['{"timestamp": "2025-09-04T13:30:00.000000000+00:00"}\n'])
        steps.clear()
        batch = pa.record_batch([["2025-09-04T13:30:00.000000000+00:00"], *[[[0]]] * 4], schema=SNAPSHOT_SCHEMA)
        publish_segment(folder, "AAPL", 1, lambda *_: SegmentRows(SNAPSHOT_SCHEMA, [batch]))
    temps = [(what, name) for what, name in steps if name.startswith(".") and what == "flush"]
    assert sum("s1-AAPL-1.json" in name for _, name in temps) == 1
    assert sum("s1-AAPL-1.parquet" in name for _, name in temps) == 1
    claimed = steps.index(("rename", "AAPL-000001.claim.json"))
    assert all(steps.index(temp) < claimed for temp in temps if "s1-AAPL-1" in temp[1])
    after = [step for step in steps[claimed:] if not step[1].endswith(".tmp")]
    assert after == [
        ("rename", "AAPL-000001.claim.json"),
        ("flush", "s1"),
        ("link", "2025-09-04_messages_093000.json"),
        ("flush", "AAPL"),
        ("link", "2025-09-04_snapshots_093000.parquet"),
        ("flush", "AAPL"),
        ("flush", "segments.jsonl"),
        ("flush", "s1"),
        ("remove", "AAPL-000001.journal"),
        ("remove", "AAPL-000001.claim.json"),
    ]

"""Kills at every step, several writers at once, full disks: file and ledger line agree in the end, nothing is torn."""

import contextlib
import errno
import json
import resource
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from connectors.store.bars import existing, load_notes, publish_day, repair
from connectors.store.errors import StoreError
from contracts.coverage import build_coverage
from contracts.layout import DataRoot
from contracts.testing import BARS_DAY, BARS_HALF_DAY, sample_bars, sample_bars_metadata
from contracts.timestamps import ns_from_iso_utc
from contracts.v1.bars import parse_bars_manifest_line
from contracts.validate import validate_path

# Children are forked from one process that has everything imported and no threads. The interpreter tells a child of
# every file it is about to open, link, rename, remove, lock or list; it kills itself before the n-th of them.
STEPS = """
import os, random, signal, sys, traceback
from pathlib import Path
import jsonschema, pandas, pyarrow.compute  # each child would import them for itself
from connectors.store.bars import existing, publish_day, repair
from contracts.coverage import build_coverage
from contracts.layout import DataRoot
from contracts.testing import BARS_DAY, BARS_HALF_DAY, sample_bars, sample_bars_metadata
from contracts.validate import validate_path

SEEN = {"open", "os.rename", "os.remove", "os.link", "os.chmod", "os.mkdir", "os.listdir", "os.scandir", "fcntl.flock"}
folder = Path(sys.argv[1])
PART, WHOLE = 20, 60

def started(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid

def child(work):
    return os.waitstatus_to_exitcode(os.waitpid(started(work), 0)[1])

def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)

def killed_before(step, prepare, work):
    def counting():
        prepare()
        left = step
        def hook(event, args):
            nonlocal left
            if event in SEEN and (event == "fcntl.flock" or str(folder) in str(args)):
                left -= 1
                if left < 0:
                    kill_me()
        sys.addaudithook(hook)
        work()
    return child(counting) == -signal.SIGKILL

def publish_part(root):
    publish_day(root, sample_bars_metadata(complete=False), sample_bars(rows=PART))

def publish_whole(root):
    publish_day(root, sample_bars_metadata(), sample_bars(rows=WHOLE))

def place(root):
    return root.bars_path("1 min", "AAPL", BARS_DAY)

def keep_bytes(publish, name):
    publish(DataRoot(folder / name))
    place(DataRoot(folder / name)).rename(folder / f"{name}.parquet")

def rounds(prepare, victim, heal, make_root=lambda root: None):
    "Kill `victim` before its first step, its second, ... until it lives; `heal` each time and tell what it did."
    child(lambda: keep_bytes(publish_part, "part"))
    child(lambda: keep_bytes(publish_whole, "whole"))
    known = [(folder / f"{name}.parquet").read_bytes() for name in ("part", "whole")]

    def check(root):
        path = place(root)
        assert not path.exists() or path.read_bytes() in known, "torn, or other bytes for the same rows"
        outcome = heal(root)
        left = sorted(p.name for p in root.path.rglob("*") if p.suffix in (".tmp", ".intent", ".torn"))
        assert left == [], left
        assert not path.exists() or path.read_bytes() in known
        if root.bars_manifest.exists():
            build_coverage(root)
        found = [str(finding) for finding in validate_path(root.path).findings]
        assert found == [], found
        print(outcome, flush=True)

    for step in range(1000):
        root = DataRoot(folder / str(step))
        make_root(root)
        was_killed = killed_before(step, lambda: prepare(root), lambda: victim(root))
        assert child(lambda: check(root)) == 0, step
        if not was_killed:
            return
"""

REPAIR = """
def heal(root):
    done = repair(root)
    assert done in ([], [place(root)])
    assert repair(root) == []
    return "healed" if done else "kept"

rounds(publish_part, publish_whole, heal)
"""

NEXT_DAY = """
def heal(root):
    publish_day(root, sample_bars_metadata(day=BARS_HALF_DAY), sample_bars(day=BARS_HALF_DAY, rows=7))
    # A temp from before the intent is found by the repair that begins every batch.
    assert repair(root) == []
    return "healed" if len(root.bars_manifest.read_text().splitlines()) == 2 else "kept"

rounds(lambda root: None, publish_whole, heal)
"""

REPAIR_KILLED = """
def between_file_and_line(root):
    def until_the_ledger():
        publish_part(root)
        def hook(event, args):
            if event == "open" and str(args[0]) == str(root.bars_manifest) and args[2] & os.O_APPEND:
                kill_me()
        sys.addaudithook(hook)
        publish_whole(root)
    assert child(until_the_ledger) == -signal.SIGKILL
    assert existing(root, "1 min", "AAPL", BARS_DAY).rows == WHOLE
    assert len(root.bars_manifest.read_text().splitlines()) == 1

def heal(root):
    repair(root)
    assert existing(root, "1 min", "AAPL", BARS_DAY).rows == WHOLE
    assert len(root.bars_manifest.read_text().splitlines()) == 2
    return "healed"

rounds(lambda root: None, repair, heal, make_root=between_file_and_line)
"""


@pytest.mark.parametrize(
    ("script", "fewest_healed"),
    [(REPAIR, 1), (NEXT_DAY, 1), pytest.param(REPAIR_KILLED, 5, marks=pytest.mark.slow)],
    ids=["repair", "next day", "repair killed"],
)
def test_a_kill_before_any_step_is_repaired(tmp_path, script, fewest_healed):
    told = run_script(script, tmp_path).split()
    assert len(told) > 10
    assert told.count("healed") >= fewest_healed


def run_script(script, folder):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", STEPS + script, str(folder)],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


WRITERS = """
def write(seed, count, told):
    random.seed(seed)
    for number in range(count):
        symbol, day = random.choice(["AAPL", "MSFT"]), random.choice([BARS_DAY, BARS_HALF_DAY])
        table = sample_bars(day=day, rows=random.randrange(1, 200))
        publish_day(DataRoot(folder), sample_bars_metadata(symbol, day=day), table)
        os.write(told, b".")
        if number % 7 == 0:
            repair(DataRoot(folder))

read_end, write_end = os.pipe()
quiet = os.open(os.devnull, os.O_WRONLY)
victim = started(lambda: write(99, 100_000, write_end))
writers = [started(lambda: write(seed, 25, quiet)) for seed in range(3)]
os.close(write_end)
for _ in range(8):
    assert os.read(read_end, 1)
os.kill(victim, signal.SIGKILL)
assert os.WIFSIGNALED(os.waitpid(victim, 0)[1])
assert [os.waitpid(pid, 0)[1] for pid in writers] == [0, 0, 0]
with open(read_end, "rb") as rest:
    print(3 * 25 + 8 + len(rest.read()))
"""


def assert_lines_describe_files(root):
    last = {line.path: line for line in map(parse_bars_manifest_line, root.bars_manifest.read_text().splitlines())}
    for path, line in last.items():
        table = pq.read_table(path)
        first_ns, *_, last_ns = ns_from_iso_utc(table.column("timestamp")).tolist() * 2
        assert (line.rows, line.time_start.timestamp(), line.time_end.timestamp()) == (
            table.num_rows,
            first_ns / 1e9,
            last_ns / 1e9,
        )
    build_coverage(root)
    assert [str(finding) for finding in validate_path(root.path).findings] == []
    return last


def test_writers_of_the_same_and_other_days_leave_whole_lines_that_describe_the_files(tmp_path):
    """Four at once; one of them is killed in the middle of its work."""
    root = DataRoot(tmp_path / "root")
    published = int(run_script(WRITERS, root.path))
    repair(root)
    assert len(assert_lines_describe_files(root)) == 4
    # The victim's last line may have come without it telling of it, or twice.
    assert published <= len(root.bars_manifest.read_text().splitlines()) <= published + 2


@contextlib.contextmanager
def largest_file(size_bytes):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def state_of(root):
    return {
        str(path.relative_to(root.path)): path.read_bytes()
        for path in root.path.rglob("*")
        if path.is_file() and ".lock" not in path.name
    }


@pytest.mark.parametrize("has_old_file", [True, False], ids=["old file", "no file"])
def test_a_ledger_that_cannot_grow_leaves_the_day_as_it_was(tmp_path, has_old_file):
    root = DataRoot(tmp_path)
    day = BARS_DAY if has_old_file else BARS_HALF_DAY
    while not root.bars_manifest.exists() or root.bars_manifest.stat().st_size < 20_000:
        publish_day(root, sample_bars_metadata(), sample_bars(rows=3))
    before = state_of(root)
    metadata, table = sample_bars_metadata(day=day), sample_bars(day=day)
    with largest_file(root.bars_manifest.stat().st_size + 10), pytest.raises(StoreError, match="ulimit") as caught:
        publish_day(root, metadata, table)
    assert caught.value.errno == errno.EFBIG
    assert str(root.bars_manifest) in str(caught.value)
    assert state_of(root) == before
    assert repair(root) == []
    assert publish_day(root, metadata, table).rows == existing(root, "1 min", "AAPL", day).rows == table.num_rows
    assert_lines_describe_files(root)


NO_LINKS = """
import errno
root = DataRoot(folder)

def refused():
    publish_part(root)
    def hook(event, args):
        if event == "os.link":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        if event == "open" and str(args[0]) == str(root.bars_manifest) and args[2] & os.O_APPEND:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    sys.addaudithook(hook)
    try:
        publish_whole(root)
    except OSError:
        return 1
    except Exception as error:
        print(error, flush=True)

assert child(refused) == 0
"""


def test_on_a_disk_without_hard_links_the_line_is_appended_later(tmp_path):
    """The old file cannot be kept there, so the new one stays, and its line comes with the next repair."""
    root = DataRoot(tmp_path)
    assert "free some space" in run_script(NO_LINKS, tmp_path)
    path = root.bars_path("1 min", "AAPL", BARS_DAY)
    assert existing(root, "1 min", "AAPL", BARS_DAY).rows == 60
    assert len(root.bars_manifest.read_text().splitlines()) == 1
    assert repair(root) == [path]
    assert_lines_describe_files(root)


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path):
    root = DataRoot(tmp_path)
    publish_day(root, sample_bars_metadata(bar_size="1 sec"), sample_bars("1 sec", rows=3))
    before = state_of(root)
    with largest_file(20_000), pytest.raises(StoreError, match="ulimit") as caught:
        publish_day(root, sample_bars_metadata(bar_size="1 sec"), sample_bars("1 sec"))
    assert str(root.bars_path("1 sec", "AAPL", BARS_DAY)) in str(caught.value)
    assert state_of(root) == before
    assert_lines_describe_files(root)


def leave_intent(root, **changes):
    """An intent as a kill before the ledger line leaves it."""
    published = publish_day(root, sample_bars_metadata(), sample_bars(rows=9))
    data = published.path.read_bytes()
    root.bars_manifest.unlink()
    import hashlib  # noqa: PLC0415 - here only

    document = {
        "line": published.line.to_document(),
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "ledger_end": 0,
        **changes,
    }
    path = root.path / ".bars" / "minute" / "AAPL.intent"
    path.write_text(json.dumps(document))
    return path


def test_a_file_without_its_line_gets_it_wherever_the_root_was_moved_to(tmp_path, caplog):
    intent = leave_intent(DataRoot(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    root = DataRoot(tmp_path / "there")
    path = root.bars_path("1 min", "AAPL", BARS_DAY)
    assert repair(root) == [path]
    assert f"{path} was in place without its ledger line" in caplog.text
    (line,) = root.bars_manifest.read_text().splitlines()
    assert parse_bars_manifest_line(line).rows == 9
    assert not (root.path / intent.relative_to(tmp_path / "here")).exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": "0" * 64},
        {"size_bytes": 3},
        {"line": None},
        {"line": {"schema_version": "bars_manifest.v1"}},
        {"ledger_end": "x"},
    ],
    ids=["other bytes", "other size", "no line", "half a line", "damaged"],
)
def test_an_intent_that_does_not_describe_the_file_is_dropped(tmp_path, changes):
    root = DataRoot(tmp_path)
    intent = leave_intent(root, **changes)
    assert repair(root) == []
    assert not intent.exists()
    assert not root.bars_manifest.exists()


def test_an_intent_of_another_group_is_dropped(tmp_path):
    root = DataRoot(tmp_path)
    intent = leave_intent(root)
    other = intent.with_name("MSFT.intent")
    intent.rename(other)
    foreign = intent.with_name("what is this.intent")
    foreign.write_text("mine")
    assert repair(root) == []
    assert not other.exists()
    assert foreign.read_text() == "mine"


def test_a_line_that_is_there_already_is_not_repeated(tmp_path):
    root = DataRoot(tmp_path)
    intent = leave_intent(root)
    text = intent.read_text()
    assert len(repair(root)) == 1
    # As after a power cut that undid the removal; then with a ledger that was replaced by a shorter one.
    for ledger_end in (0, 10**9):
        intent.write_text(json.dumps(json.loads(text) | {"ledger_end": ledger_end}))
        assert repair(root) == []
    assert len(root.bars_manifest.read_text().splitlines()) == 1


def test_there_is_nothing_to_repair_where_nothing_is(tmp_path):
    root = DataRoot(tmp_path / "nowhere")
    assert repair(root) == []
    assert not root.path.exists()


def test_the_repair_passes_over_a_group_that_a_stopped_process_holds(tmp_path, caplog):
    """Its owner, or whoever publishes next in the group, completes it."""
    root = DataRoot(tmp_path)
    leave_intent(root)
    hold = """
import fcntl, sys
with open(sys.argv[1], "r+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.readline()
"""
    lock = root.path / ".bars" / "minute" / "AAPL.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        assert repair(root, timeout_s=0.1) == []
        assert "AAPL 1 min is not repaired now" in caplog.text
    finally:
        holder.kill()
        holder.communicate()
    publish_day(root, sample_bars_metadata(day=BARS_HALF_DAY), sample_bars(day=BARS_HALF_DAY))
    assert len(root.bars_manifest.read_text().splitlines()) == 2
    assert load_notes(root, "1 min", "AAPL").errors == {}

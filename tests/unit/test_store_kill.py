"""kill -9 at any moment: the old file or the new one, whole lines, whole cache entries, free locks."""

import json
import subprocess
import sys

import pytest

from connectors.store.errors import StoreBusy
from connectors.store.manifests import run_lock
from contracts.layout import DataRoot

# Children are forked from one process that has everything imported, so that a round takes milliseconds.
ROUNDS = """
import json, os, random, signal, sys, time
from pathlib import Path

folder = Path(sys.argv[1])
random.seed(int(sys.argv[2]))

def rounds(count, work, check, longest_s):
    for number in range(count):
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                step = 0
                while True:
                    work(number, step)
                    if step == 0:
                        os.write(write_end, b".")
                    step += 1
            finally:
                os._exit(1)
        os.close(write_end)
        assert os.read(read_end, 1) == b".", "the child died by itself"
        time.sleep(random.random() * longest_s)
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), "the child died by itself"
        os.close(read_end)
        check(number)

def leftovers():
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.tmp"))
"""

PARQUET = """
import pyarrow as pa
from connectors.store.snapshots import publish
from connectors.store.temps import sweep_stale_temps
schema = pa.schema([("x", pa.int64())])
contents = [[pa.record_batch([pa.array(range(k, k + 70_000))], schema=schema)] for k in (0, 1)]
target = folder / "AAPL" / "f.parquet"

def expected(k):
    # Made in a child: this process must have no threads when it forks.
    if os.fork() == 0:
        publish(folder / str(k), schema, contents[k])
        os._exit(0)
    os.wait()
    return (folder / str(k)).read_bytes()

whole = [expected(0), expected(1)]
interrupted = 0

def check(number):
    global interrupted
    assert target.read_bytes() in whole, "torn file"
    swept = sweep_stale_temps(folder)
    interrupted += len(swept)
    assert leftovers() == []

rounds(30, lambda number, step: publish(target, schema, contents[step % 2]), check, 0.02)
assert sorted(p.name for p in target.parent.iterdir()) == ["f.parquet"]
print(interrupted)
"""

LINES = """
from connectors.store.atomic import append_line
path = folder / "m.jsonl"
filler = "y" * 20_000

def line(number, step):
    return json.dumps({"round": number, "step": step, "filler": filler})

def check(number):
    steps = {}
    for text in path.read_bytes().split(b"\\n")[:-1]:
        found = json.loads(text)
        assert found["filler"] == filler
        steps.setdefault(found["round"], []).append(found["step"])
    assert sorted(steps) == list(range(number + 1)), "a finished line is missing"
    for seen in steps.values():
        assert seen == list(range(len(seen)))

rounds(30, lambda number, step: append_line(path, line(number, step)), check, 0.01)
append_line(path, "{}")
print(sum(1 for text in path.read_bytes().splitlines() if isinstance(json.loads(text), dict)))
"""

CACHE = """
from datetime import UTC, datetime
from connectors.store.raw_cache import RawCache, RawEntry, RawKey, fingerprint
cache = RawCache(folder)
key = RawKey(dataset="XNAS.ITCH", schema="mbp-10", symbol="AAPL", vendor_symbol="AAPL", start_ns=1, end_ns=9)

def work(number, step):
    temp = cache.new_download_path(key)
    temp.write_bytes(random.Random(step).randbytes(50_000 + step))
    size, digest = fingerprint(temp)
    cache.commit(temp, RawEntry(**key.model_dump(), records=step, size_bytes=size, sha256=digest,
                                fetched_at=datetime.now(UTC)))

entries = 0

def check(number):
    global entries
    found = cache.find(key)
    if found is not None:
        assert cache.is_intact(found), "a torn entry"
        entries += 1
    cache.sweep()
    assert leftovers() == []

rounds(30, work, check, 0.01)
print(entries)
"""


@pytest.mark.parametrize("script", [PARQUET, LINES, CACHE], ids=["parquet", "lines", "cache"])
def test_kill_9_at_any_moment_leaves_nothing_torn(tmp_path, script):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ROUNDS + script, str(tmp_path), "1"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    # A kill does tear a line now and then; the next append moves the piece away and says so.
    told = [line for line in done.stderr.splitlines() if not line.startswith("moved a torn last line")]
    assert (done.returncode, told) == (0, [])
    assert int(done.stdout) > 0


HOLD = """
import sys
from pathlib import Path
from connectors.store.manifests import run_lock
from contracts.layout import DataRoot
with run_lock(DataRoot(Path(sys.argv[1])), run_id="run-7"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other_run(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "root")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_lock_of_a_killed_run_is_free_at_once(tmp_path, other_run):
    root = DataRoot(tmp_path / "root")
    with pytest.raises(StoreBusy, match="run-7"), run_lock(root, timeout_s=0):
        pass
    other_run.kill()
    other_run.wait()
    with run_lock(root, run_id="next", timeout_s=0):
        assert json.loads((root.path / ".trading-data.lock").read_bytes())["run_id"] == "next"

"""A day is decoded, shaped and published in memory that does not grow with it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import zstandard

MS = 1_000_000
LIMIT_MB = 300
BLOCK = 25_000

# Peak of the process image alone: ru_maxrss would count the parent's pages at the moment of the fork as well.
CHILD = """
import json, resource, sys
from pathlib import Path
from connectors.databento.shape import BookCounts, event_batches, snapshot_batches
from connectors.store.snapshots import publish
from contracts.v1.level2 import SNAPSHOT_SCHEMA
from contracts.v1.level2_events import EVENTS_SCHEMA

source, target, start_ns, end_ns, records, mode = sys.argv[1:]
window_ns, records = (int(start_ns), int(end_ns)), int(records)
if mode == "events":
    batches = event_batches(Path(source), symbol="AAPL", exchange="XNAS", window_ns=window_ns, records=records)
    schema = EVENTS_SCHEMA
else:
    schema = SNAPSHOT_SCHEMA
    batches = snapshot_batches(
        Path(source), schema=schema, window_ns=window_ns, levels=10, interval_ms=int(mode), records=records,
        counts=BookCounts(),
    )
rows = publish(Path(target), schema, batches).rows
try:
    status = Path("/proc/self/status").read_text()
    peak_kb = int(status.split("VmHWM:")[1].split()[0])
except OSError:
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
print(json.dumps({"rows": rows, "peak_mb": peak_kb * 1024 / 1e6}))
"""


def write_long_day(dbn, path, count):
    """`count` records, 6 ms apart, made of one block of books over and over."""
    block = dbn.records(dbn.open_ns + np.arange(BLOCK) * 6 * MS)
    rng = np.random.default_rng(4)
    for side, sign in (("bid", -1), ("ask", 1)):
        best = 10_000 + sign + rng.integers(-50, 50, BLOCK)
        for level in range(10):
            block[f"{side}_px_{level:02d}"] = (best + sign * level) * 10_000_000
            block[f"{side}_sz_{level:02d}"] = rng.integers(1, 5_000, BLOCK)
    with path.open("wb") as raw, zstandard.ZstdCompressor(level=1).stream_writer(raw) as out:
        out.write(dbn.metadata(block, intervals=[(dbn.day, dbn.day.replace(month=10), dbn.instrument_id)]))
        for _ in range(count // BLOCK):
            out.write(block.tobytes())
            block["ts_recv"] += BLOCK * 6 * MS
    return path


def peak(dbn, tmp_path, source, count, mode):
    end_ns = dbn.open_ns + count * 6 * MS
    command = [sys.executable, "-c", CHILD, source, tmp_path / "out.parquet", dbn.open_ns, end_ns, count, mode]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def long_day(dbn, tmp_path_factory):
    count = 1_500_000
    return write_long_day(dbn, tmp_path_factory.mktemp("long") / "day.dbn.zst", count), count


@pytest.mark.parametrize(("mode", "rows"), [("0", 1_500_000), ("100", 90_000), ("events", 1_500_000)])
def test_a_day_of_a_million_and_a_half_records_fits_in_300_mb(dbn, tmp_path, long_day, mode, rows):
    source, count = long_day
    found = peak(dbn, tmp_path, source, count, mode)
    assert found["rows"] == rows
    assert found["peak_mb"] < LIMIT_MB


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "rows"), [("0", 5_000_000), ("100", 300_000), ("events", 5_000_000)])
def test_five_million_records_need_no_more(dbn, tmp_path, mode, rows):
    source = write_long_day(dbn, tmp_path / "day.dbn.zst", 5_000_000)
    found = peak(dbn, tmp_path, source, 5_000_000, mode)
    assert found["rows"] == rows
    assert found["peak_mb"] < LIMIT_MB

"""Speed and memory of the way from a Databento file to the contract's columns, beside the alternatives.

Makes one day of MBP-10 records with the bundled sandbox vendor, downloads it with the real client, and runs every
variant in a process of its own, interleaved, so that time and peak memory are honest. Absolute times hold for one
machine only; the two ratios are what the project promises. `make bench` runs it.
"""

# ruff: noqa: PLC0415 - a process imports what its own variant needs and nothing else

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLED_AT_MOST = 1.5
"""Sampled decode and publish take at most so many times the bare decode."""

EVENTS_AT_LEAST = 8.0
"""Event mode is at least so many times as fast as pandas with list columns."""

INTERVAL_MS = 100
LEVELS = 10
SYMBOL = "AAPL"
DAY = dt.date(2025, 9, 5)
PANDAS_PART = 10
"""pandas gets one record in so many, for a whole day needs 7 GB; its time is scaled up."""


@dataclass(frozen=True)
class Job:
    """What one process is given: the file, its window and record count, and where to write."""

    source: Path
    target: Path
    window_ns: tuple[int, int]
    records: int


def zstd_alone(job: Job) -> Callable[[], None]:
    import zstandard

    def work() -> None:
        view = memoryview(bytearray(3_000_000))
        with job.source.open("rb") as raw:
            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            while reader.readinto(view):
                pass

    return work


def bare_decode(job: Job) -> Callable[[], None]:
    from databento import DBNStore

    def work() -> None:
        seen = sum(len(chunk) for chunk in DBNStore.from_file(job.source).to_ndarray(count=65_536))
        assert seen == job.records

    return work


def ours(interval_ms: int) -> Callable[[Job], Callable[[], None]]:
    def prepare(job: Job) -> Callable[[], None]:
        import pyarrow.compute  # noqa: F401 - pyarrow imports it at the first cast, 0.2 s

        from connectors.databento.shape import BookCounts, snapshot_batches
        from connectors.store.snapshots import publish
        from contracts.v1.level2 import BookScope, SnapshotMetadata, snapshot_schema

        metadata = SnapshotMetadata(
            symbol=SYMBOL,
            source="databento",
            levels=LEVELS,
            interval_ms=interval_ms,
            session_date=DAY.isoformat(),
            window_et="08:30-11:00",
            book_scope=BookScope(venues=("XNAS",), odd_lots="included", time_basis="receive", levels=LEVELS),
            producer="benchmark",
        )
        schema = snapshot_schema(metadata)

        def work() -> None:
            batches = snapshot_batches(
                job.source,
                schema=schema,
                window_ns=job.window_ns,
                levels=LEVELS,
                interval_ms=interval_ms,
                records=job.records,
                counts=BookCounts(),
            )
            assert publish(job.target, schema, batches) is not None

        return work

    return prepare


def pandas_lists(job: Job) -> Callable[[], None]:
    """The contract's columns by the vendor's `to_df` and pandas, without loops over rows."""
    import numpy as np
    import pandas as pd
    from databento import DBNStore

    def work() -> None:
        frame = DBNStore.from_file(job.source).to_df(map_symbols=False)
        times = np.datetime_as_string(frame.index.tz_localize(None).to_numpy(), unit="ns").astype(object) + "+00:00"
        columns: dict[str, Any] = {"timestamp": times}
        for side in ("bid", "ask"):
            prices = frame[[f"{side}_px_{level:02d}" for level in range(LEVELS)]].fillna(0.0)
            sizes = frame[[f"{side}_sz_{level:02d}" for level in range(LEVELS)]].astype("int64")
            columns[f"{side}_prices"] = list(prices.to_numpy())
            columns[f"{side}_sizes"] = list(sizes.to_numpy())
        pd.DataFrame(columns).to_parquet(job.target, compression="zstd", index=False)

    return work


def vendor_parquet(job: Job) -> Callable[[], None]:
    from databento import DBNStore

    return lambda: DBNStore.from_file(job.source).to_parquet(job.target)


@dataclass(frozen=True)
class Variant:
    """One row of the table; `prepare` imports what it needs and returns the work to be timed."""

    title: str
    prepare: Callable[[Job], Callable[[], None]]
    part: int = 1


VARIANTS = {
    "zstd": Variant("zstd decompression alone", zstd_alone),
    "bare": Variant("bare decode: DBNStore.to_ndarray(count=65536)", bare_decode),
    "sampled": Variant(f"ours, sampled every {INTERVAL_MS} ms, published", ours(INTERVAL_MS)),
    "events": Variant("ours, one row per record, published", ours(0)),
    "parquet": Variant("vendor's to_parquet (flat columns, not the contract's)", vendor_parquet),
    "pandas": Variant("to_df, pandas list columns, to_parquet", pandas_lists, part=PANDAS_PART),
}


def child(name: str, job: Job) -> None:
    """Run one variant in this process and print what it took."""
    work = VARIANTS[name].prepare(job)
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    size = job.target.stat().st_size if job.target.exists() else 0
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb(), "output_mb": size / 1e6}))


def peak_mb() -> float:
    """Peak resident memory of this process image; `ru_maxrss` would count the parent's pages at the fork as well."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(name: str, job: Job) -> dict[str, float]:
    """One run of a variant in a process of its own."""
    job.target.unlink(missing_ok=True)
    start_ns, end_ns = job.window_ns
    numbers = [str(start_ns), str(end_ns), str(job.records)]
    command = [sys.executable, __file__, "--child", name, str(job.source), str(job.target), *numbers]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this very file
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout))


def make_day(folder: Path, records: int) -> Job:
    """Download one day of about so many records, 08:30 to 11:00 ET, from the sandbox vendor."""
    from connectors.databento.client import DatabentoClient
    from connectors.databento.request import DayRequest
    from connectors.sandbox.databento_server import DatabentoSandbox
    from contracts.sessions import parse_window

    window_ns = parse_window("08:30-11:00").bounds_ns(DAY)
    request = DayRequest(SYMBOL, DAY, SYMBOL, "XNAS.ITCH", "mbp-10", *window_ns)
    per_hour = records / 5.0
    for attempt in range(2):
        with DatabentoSandbox(records_per_hour=per_hour) as sandbox:
            os.environ.update(sandbox.env())
            client = DatabentoClient(sandbox.api_key, gateway=sandbox.gateway_url)
            count = client.record_count(request)
            if attempt:
                source = folder / "day.dbn.zst"
                client.download(request, source, deadline_s=3_600)
                return Job(source, folder / "out.parquet", window_ns, count)
        # The first count tells how dense the window is.
        per_hour *= records / count
    raise AssertionError


def part_of(job: Job, part: int) -> Job:
    """The first of `part` equal parts of a day, as a file of its own."""
    import zstandard

    from connectors.databento.request import RECORD_BYTES

    count = job.records // part
    target = job.source.with_name(f"part{part}.dbn.zst")
    with job.source.open("rb") as raw, target.open("wb") as out:
        reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        prefix = read_exactly(reader, 8)
        metadata = read_exactly(reader, int.from_bytes(prefix[4:], "little"))
        body = read_exactly(reader, count * RECORD_BYTES["mbp-10"])
        out.write(zstandard.ZstdCompressor().compress(prefix + metadata + body))
    return Job(target, job.target, job.window_ns, count)


def read_exactly(reader: Any, size: int) -> bytes:
    """Read so many bytes; a zstd reader stops at the end of a frame."""
    parts = []
    while size:
        parts.append(reader.read(size))
        size -= len(parts[-1])
    return b"".join(parts)


def report(job: Job, runs: dict[str, list[dict[str, float]]]) -> bool:
    """Print the table and the two promises; whether both are kept."""
    medians = {
        name: {field: statistics.median(run[field] for run in measured) for field in measured[0]}
        for name, measured in runs.items()
    }
    seconds = {name: found["seconds"] * VARIANTS[name].part for name, found in medians.items()}
    raw_mb, file_mb = job.records * 368 / 1e6, job.source.stat().st_size / 1e6
    print(f"\n{job.records:,} MBP-10 records ({raw_mb:,.0f} MB, {file_mb:,.0f} MB as zstd DBN), {os.cpu_count()} cores")
    print(f"{'':56}{'seconds':>9}{'x bare':>8}{'peak MB':>9}{'out MB':>8}")
    for name, variant in VARIANTS.items():
        found = medians[name]
        note = " *" if variant.part > 1 else ""
        output = f"{found['output_mb'] * variant.part:8.1f}" if found["output_mb"] else f"{'':8}"
        ratio = seconds[name] / seconds["bare"]
        print(f"{variant.title:56}{seconds[name]:9.2f}{ratio:8.2f}{found['peak_mb']:9.0f}{output}{note}")
    print(f"* run on one record in {PANDAS_PART}: time and output scaled up by {PANDAS_PART}, peak memory as it was\n")
    sampled = seconds["sampled"] / seconds["bare"]
    events = seconds["pandas"] / seconds["events"]
    kept = sampled <= SAMPLED_AT_MOST, events >= EVENTS_AT_LEAST
    words = ["PASS" if passed else "FAIL" for passed in kept]
    print(f"{words[0]}  sampled: {sampled:.2f} x the time of the bare decode (promised: at most {SAMPLED_AT_MOST})")
    print(f"{words[1]}  events: {events:.1f} x as fast as pandas list columns (promised: at least {EVENTS_AT_LEAST:g})")
    return all(kept)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=3_000_000, help="records of the day (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each variant (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a promise is not kept")
    parser.add_argument("--child", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, source, target, start_ns, end_ns, records = options.child
        child(name, Job(Path(source), Path(target), (int(start_ns), int(end_ns)), int(records)))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-decode-") as folder:
        print(f"making about {options.records:,} records ...", flush=True)
        job = make_day(Path(folder), options.records)
        parts = {1: job, PANDAS_PART: part_of(job, PANDAS_PART)}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
        for number in range(options.runs):
            print(f"run {number + 1} of {options.runs} ...", flush=True)
            for name, variant in VARIANTS.items():
                runs[name].append(measure(name, parts[variant.part]))
        kept = report(job, runs)
    return 0 if kept or not options.strict else 1


if __name__ == "__main__":
    sys.exit(main())

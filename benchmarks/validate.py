"""Speed of the validator beside the alternatives: all rows of a large file, footers of many files, a long manifest.

Makes the files once, runs every variant in a process of its own, interleaved, and prints time and peak memory.
Absolute times hold for one machine that does nothing else; ratios travel. Ends with 1 when a target is not met.
"""

# ruff: noqa: PLC0415 - a process imports what its own variant needs and nothing else

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS_PER_S_AT_LEAST = 2_000_000
"""Full validation of a snapshots file."""

FOOTERS_AT_MOST_S = 20.0
"""Footer-only validation of all files of a root."""

LINES_AT_MOST_S = 10.0
"""Validation of a bars manifest."""

FOOTER_FILES = 10_000
MANIFEST_LINES = 100_000
LEVELS = 10
DAY = date(2025, 9, 4)
PANDAS_PART = 100
"""pandas checks one row in so many, in a loop, as one would write it first; its time is scaled up."""

SCHEMA_PART = 20
"""jsonschema checks one line in so many; its time is scaled up."""


@dataclass(frozen=True)
class Sizes:
    """How much there is to validate."""

    rows: int
    files: int
    lines: int


def snapshots_ours(folder: Path) -> Callable[[], None]:
    import pyarrow.parquet  # noqa: F401 - not what is measured

    from contracts import validate_path

    def work() -> None:
        report = validate_path(folder / "AAPL")
        assert report.findings == []

    return work


def snapshots_reading(folder: Path) -> Callable[[], None]:
    import pyarrow.parquet as pq

    def work() -> None:
        with pq.ParquetFile(snapshots_path(folder)) as file:
            for _ in file.iter_batches(batch_size=32_768):
                pass

    return work


def snapshots_pandas(folder: Path) -> Callable[[], None]:
    """The rules of a row in a loop over rows, as one would write them first."""
    import math

    import pandas as pd
    import pyarrow.parquet as pq

    with pq.ParquetFile(snapshots_path(folder)) as file:
        rows = file.metadata.num_rows // PANDAS_PART
        batch = next(file.iter_batches(batch_size=rows))

    def work() -> None:
        last = pd.Timestamp(0, tz="UTC")
        for row in batch.to_pandas().itertuples():
            moment = pd.Timestamp(row.timestamp)
            assert moment >= last
            last = moment
            for prices, sizes, rises in (
                (row.bid_prices, row.bid_sizes, False),
                (row.ask_prices, row.ask_sizes, True),
            ):
                assert len(prices) == len(sizes) == LEVELS
                present = [(p, s) for p, s in zip(prices, sizes, strict=True) if p or s]
                assert all(math.isfinite(p) and p and s > 0 for p, s in present)
                best_first = [p for p, _ in present]
                assert best_first == sorted(set(best_first), reverse=not rises)

    return work


def footers_ours(folder: Path) -> Callable[[], None]:
    import pyarrow.parquet  # noqa: F401 - not what is measured

    from contracts import validate_path

    def work() -> None:
        report = validate_path(folder / "root", full=False)
        assert report.findings == []

    return work


def footers_alone(folder: Path) -> Callable[[], None]:
    import pyarrow.parquet as pq

    def work() -> None:
        for path in (folder / "root").rglob("*.parquet"):
            pq.read_metadata(path)

    return work


def lines_ours(folder: Path) -> Callable[[], None]:
    from contracts import validate_path

    def work() -> None:
        assert validate_path(folder / "bars_download_manifest.jsonl").findings == []

    return work


def lines_json(folder: Path) -> Callable[[], None]:
    def work() -> None:
        with (folder / "bars_download_manifest.jsonl").open("rb") as file:
            for line in file:
                json.loads(line)

    return work


def lines_schema(folder: Path) -> Callable[[], None]:
    from itertools import islice

    from contracts.schemas import schema_validator

    validator = schema_validator("bars_manifest.v1")
    with (folder / "bars_download_manifest.jsonl").open("rb") as file:
        lines = list(islice(file, None, None, SCHEMA_PART))

    def work() -> None:
        assert all(validator.is_valid(json.loads(line)) for line in lines)

    return work


@dataclass(frozen=True)
class Variant:
    """One row of the table; `prepare` imports what it needs and returns the work to be timed."""

    what: str
    title: str
    prepare: Callable[[Path], Callable[[], None]]
    part: int = 1


VARIANTS = {
    "rows": Variant("rows", "ours, every row", snapshots_ours),
    "rows_reading": Variant("rows", "reading alone", snapshots_reading),
    "rows_pandas": Variant("rows", "pandas, a loop over rows", snapshots_pandas, PANDAS_PART),
    "files": Variant("files", "ours, footers only", footers_ours),
    "files_alone": Variant("files", "pyarrow read_metadata alone", footers_alone),
    "lines": Variant("lines", "ours", lines_ours),
    "lines_json": Variant("lines", "json.loads alone", lines_json),
    "lines_schema": Variant("lines", "jsonschema, validator reused", lines_schema, SCHEMA_PART),
}


def snapshots_path(folder: Path) -> Path:
    return folder / "AAPL" / f"{DAY}_snapshots_databento.parquet"


def make(folder: Path, sizes: Sizes) -> None:
    """Write a snapshots file with a row per event, a root of small files, and a bars manifest."""
    import pyarrow.parquet as pq

    from contracts.layout import DataRoot
    from contracts.testing import sample_bars, sample_bars_manifest_line, sample_metadata, sample_snapshots

    make_snapshots(snapshots_path(folder), sizes.rows)
    root = DataRoot(folder / "root")
    for number in range(sizes.files):
        metadata = sample_metadata(f"S{number // 1000}", date(2020, 1, 1) + timedelta(days=number % 1000))
        path = root.snapshots_path(metadata.symbol, metadata.session_date)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(sample_snapshots(metadata, rows=20), path, compression="zstd", use_dictionary=False)
    line = sample_bars_manifest_line(DataRoot(Path("/data")), sample_bars()).to_json_line()
    # Days of winter, which share the offset of the sample's.
    days = [date(year, 1, 1) + timedelta(days=day) for year in range(2016, 2026) for day in range(50)]
    with (folder / "bars_download_manifest.jsonl").open("w") as file:
        for number in range(sizes.lines):
            symbol, day = f"S{number // len(days)}", days[number % len(days)]
            file.write(line.replace("AAPL", symbol).replace("2025-11-26", str(day)))


def make_snapshots(path: Path, rows: int) -> None:
    """Write a row per event, of which each changes one size and some the price, so that the file is as a real one."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from contracts import iso_utc_from_ns, parse_window, snapshot_schema
    from contracts.testing import sample_metadata

    metadata = sample_metadata().model_copy(update={"interval_ms": 0, "window_et": "08:30-11:00"})
    start, end = parse_window(metadata.window_et).bounds_ns(DAY)
    random = np.random.default_rng(0)
    middle = 23_000 + np.where(random.random(rows) < 0.02, random.integers(-1, 2, rows), 0).cumsum()
    steps = np.arange(LEVELS)
    path.parent.mkdir(parents=True)
    with pq.ParquetWriter(path, snapshot_schema(metadata), compression="zstd", use_dictionary=False) as writer:
        for at in range(0, rows, 100_000):
            part = middle[at : at + 100_000, None]
            ns = start + np.arange(at, at + len(part), dtype=np.int64) * ((end - start) // rows)
            # Each size holds until its level is the one that changes.
            changed = random.integers(0, 2 * LEVELS, part.shape) == np.arange(2 * LEVELS)
            last = np.maximum.accumulate(np.where(changed, np.arange(len(part))[:, None], 0))
            sizes = np.take_along_axis(100 * random.integers(1, 20, changed.shape), last, axis=0)
            matrices = [(part - steps) / 100, sizes[:, :LEVELS], (part + 1 + steps) / 100, sizes[:, LEVELS:]]
            offsets = pa.array(np.arange(0, part.size * LEVELS + 1, LEVELS, dtype=np.int32))
            lists = [pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(m).ravel())) for m in matrices]
            writer.write_table(pa.table([iso_utc_from_ns(ns), *lists], schema=snapshot_schema(metadata)))


def child(name: str, folder: Path) -> None:
    """Run one variant in this process and print what it took."""
    work = VARIANTS[name].prepare(folder)
    started = time.perf_counter()
    work()
    print(json.dumps({"seconds": time.perf_counter() - started, "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Peak resident memory of this process image; `ru_maxrss` would count the parent's pages at the fork as well."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(name: str, folder: Path) -> dict[str, float]:
    """One run of a variant in a process of its own."""
    command = [sys.executable, __file__, "--child", name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this very file
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout))


def report(sizes: Sizes, runs: dict[str, list[dict[str, float]]]) -> bool:
    """Print the tables and the promises; whether all are kept."""
    # The fastest run: whatever else a machine does only adds.
    seconds = {name: min(run["seconds"] for run in found) * VARIANTS[name].part for name, found in runs.items()}
    titles = {
        "rows": f"{sizes.rows:,} snapshot rows of {LEVELS} levels",
        "files": f"{sizes.files:,} parquet files",
        "lines": f"{sizes.lines:,} lines of a bars manifest",
    }
    print(f"\n{os.cpu_count()} cores")
    for what, title in titles.items():
        print(f"\n{title:48}{'seconds':>9}{'x ours':>8}{'peak MB':>9}")
        for name, variant in VARIANTS.items():
            if variant.what == what:
                note = f"  * one in {variant.part}, scaled up" if variant.part > 1 else ""
                ratio, peak = seconds[name] / seconds[what], max(run["peak_mb"] for run in runs[name])
                print(f"{variant.title:48}{seconds[name]:9.2f}{ratio:8.2f}{peak:9.0f}{note}")
    per_s = sizes.rows / seconds["rows"]
    # The targets of files and lines are for so many; fewer are held to their share.
    files_s = seconds["files"] * FOOTER_FILES / sizes.files
    lines_s = seconds["lines"] * MANIFEST_LINES / sizes.lines
    promises = (
        (per_s >= ROWS_PER_S_AT_LEAST, f"rows: {per_s:,.0f} a second (at least {ROWS_PER_S_AT_LEAST:,})"),
        (
            files_s <= FOOTERS_AT_MOST_S,
            f"footers: {files_s:.1f} s for {FOOTER_FILES:,} files (at most {FOOTERS_AT_MOST_S:g})",
        ),
        (lines_s <= LINES_AT_MOST_S, f"lines: {lines_s:.1f} s for {MANIFEST_LINES:,} (at most {LINES_AT_MOST_S:g})"),
    )
    print()
    for kept, text in promises:
        print(f"{'PASS' if kept else 'FAIL'}  {text}")
    return all(kept for kept, _ in promises)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=3_000_000, help="rows of the snapshots file (default: %(default)s)")
    parser.add_argument("--files", type=int, default=FOOTER_FILES, help="files of the root (default: %(default)s)")
    parser.add_argument("--lines", type=int, default=MANIFEST_LINES, help="manifest lines (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each variant (default: %(default)s)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, folder = options.child
        child(name, Path(folder))
        return 0
    sizes = Sizes(options.rows, options.files, options.lines)
    with tempfile.TemporaryDirectory(prefix="bench-validate-") as name:
        folder = Path(name)
        print("making the files ...", flush=True)
        make(folder, sizes)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
        for number in range(options.runs):
            print(f"run {number + 1} of {options.runs} ...", flush=True)
            for variant in VARIANTS:
                runs[variant].append(measure(variant, folder))
        kept = report(sizes, runs)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

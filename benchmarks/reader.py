"""Speed and memory of the way from a snapshots file to `(rows, levels)` matrices, beside the alternatives.

Writes one day in event mode as the store does, and runs every variant in a process of its own, interleaved, so that
time and peak memory are honest. Absolute times hold for one machine only; the ratio to pandas with list columns and the
memory are what the project promises. `make bench` runs it.
"""

# ruff: noqa: PLC0415 - a process imports what its own variant needs and nothing else

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

PANDAS_AT_LEAST = 10.0
"""Loading matrices is at least so many times as fast as pandas with list columns."""

MEMORY_AT_MOST = 1.2
"""Loading matrices takes at most so many times the memory of its result, what the imports take aside."""

LEVELS = 10
SYMBOL = "AAPL"
DAY = dt.date(2025, 9, 4)
ROW_GROUP_ROWS = 32_768
LISTS = ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes")
PART = 10
"""The slow variants get one row in so many, for pandas needs 7 GB for all; their time is scaled up."""


def ours(path: Path) -> Callable[[], list[Any]]:
    import pyarrow.compute  # noqa: F401 - pyarrow imports it at the first cast, 0.2 s

    from contracts.reader import MarketData

    def work() -> list[Any]:
        books = MarketData(path.parents[2]).matrices(SYMBOL, DAY)
        return [books.ts_ns, *(getattr(books, name) for name in LISTS)]

    return work


def ours_table(path: Path) -> Callable[[], list[Any]]:
    """The same rows, checked in the same way, as an Arrow table."""
    from contracts.reader import MarketData

    return lambda: [MarketData(path.parents[2]).snapshots(SYMBOL, DAY)]


def pandas_lists(path: Path) -> Callable[[], list[Any]]:
    """What a competent user writes: list columns stacked, times by `to_datetime`."""
    import numpy as np
    import pandas as pd

    def work() -> list[Any]:
        frame = pd.read_parquet(path)
        times = pd.to_datetime(frame["timestamp"], format="ISO8601").astype("int64").to_numpy()
        return [times, *(np.stack(frame[name].to_numpy()) for name in LISTS)]

    return work


def pyarrow_lists(path: Path) -> Callable[[], list[Any]]:
    """Python lists in between, as tutorials do."""
    import numpy as np
    import pyarrow.parquet as pq

    def work() -> list[Any]:
        table = pq.read_table(path)
        times = np.array([text[:-6] for text in table.column("timestamp").to_pylist()], "datetime64[ns]")
        return [times.astype(np.int64), *(np.array(table.column(name).to_pylist()) for name in LISTS)]

    return work


def polars_arrays(path: Path) -> Callable[[], list[Any]]:
    import polars as pl

    def work() -> list[Any]:
        frame = pl.read_parquet(path)
        times = frame["timestamp"].str.to_datetime("%+", time_unit="ns", time_zone="UTC").cast(pl.Int64).to_numpy()
        return [times, *(frame[name].list.to_array(LEVELS).to_numpy() for name in LISTS)]

    return work


def duckdb_arrays(path: Path) -> Callable[[], list[Any]]:
    import duckdb
    import numpy as np

    def work() -> list[Any]:
        columns = ", ".join(
            f"{name}::{'DOUBLE' if 'price' in name else 'BIGINT'}[{LEVELS}] AS {name}" for name in LISTS
        )
        query = f"SELECT epoch_ns(timestamp::TIMESTAMPTZ) AS ns, {columns} FROM read_parquet('{path}')"  # noqa: S608 - our own path
        found = duckdb.sql(query).fetchnumpy()
        return [found["ns"], *(np.ma.getdata(found[name]).reshape(-1, LEVELS) for name in LISTS)]

    return work


@dataclass(frozen=True)
class Variant:
    """One row of the table; `prepare` imports what it needs and returns the work to be timed."""

    title: str
    prepare: Callable[[Path], Callable[[], list[Any]]]
    part: int = 1
    needs: str | None = None


VARIANTS = {
    "ours": Variant("ours: MarketData.matrices, every row checked", ours),
    "table": Variant("ours: MarketData.snapshots, an Arrow table", ours_table),
    "polars": Variant("polars, list.to_array, unchecked", polars_arrays, needs="polars"),
    "duckdb": Variant("duckdb, arrays, unchecked", duckdb_arrays, needs="duckdb"),
    "pandas": Variant("pandas list columns, np.stack, to_datetime", pandas_lists, part=PART, needs="pandas"),
    "pylist": Variant("pyarrow to_pylist, np.array", pyarrow_lists, part=PART),
}


def child(name: str, path: Path) -> None:
    """Run one variant in this process and print what it took, and a sum that tells whether it read the same."""
    work = VARIANTS[name].prepare(path)
    before_mb = peak_mb()
    # Once untimed: the first time pays for late imports and, in a virtual machine, seconds per GB that the host gives.
    result = work()
    found = {"peak_mb": peak_mb(), "before_mb": before_mb, "sum": 0.0}
    found["result_mb"] = sum(part.nbytes for part in result) / 1e6
    if len(result) > 1:
        found["sum"] = float(sum(float(part[:: len(part) // 1000].sum()) for part in result))
    del result
    started = time.perf_counter()
    work()
    found["seconds"] = time.perf_counter() - started
    print(json.dumps(found))


def peak_mb() -> float:
    """Peak resident memory of this process image; `ru_maxrss` would count the parent's pages at the fork as well."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(name: str, path: Path) -> dict[str, float]:
    """One run of a variant in a process of its own."""
    command = [sys.executable, __file__, "--child", name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this very file
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout))


def make_day(root: Path, rows: int) -> Path:
    """Write one day of event-mode books: each row changes the size of one level, some move the price."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from contracts.layout import DataRoot
    from contracts.sessions import parse_window
    from contracts.timestamps import iso_utc_from_ns
    from contracts.v1.level2 import BookScope, SnapshotMetadata, snapshot_schema

    metadata = SnapshotMetadata(
        symbol=SYMBOL,
        source="databento",
        levels=LEVELS,
        interval_ms=0,
        session_date=DAY.isoformat(),
        window_et="08:30-11:00",
        book_scope=BookScope(venues=("XNAS",), odd_lots="included", time_basis="receive", levels=LEVELS),
        producer="benchmark",
    )
    start_ns, end_ns = parse_window(metadata.window_et).bounds_ns(DAY)
    path = DataRoot(root).snapshots_path(SYMBOL, DAY)
    path.parent.mkdir(parents=True)
    random = np.random.default_rng(1)
    schema = snapshot_schema(metadata)
    steps = np.arange(LEVELS)
    cents, now_ns = 23_000, start_ns
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=3, use_dictionary=False) as writer:
        for at in range(0, rows, ROW_GROUP_ROWS):
            count = min(ROW_GROUP_ROWS, rows - at)
            ns = now_ns + np.cumsum(random.integers(0, 2 * (end_ns - start_ns) // rows, count))
            bests = cents + np.cumsum(random.integers(-1, 2, count) * (random.random(count) < 0.05))
            cents, now_ns = int(bests[-1]), int(ns[-1])
            changed = np.zeros((count, 2 * LEVELS), bool)
            changed[np.arange(count), random.integers(0, 2 * LEVELS, count)] = True
            changed[0] = True
            newest = np.maximum.accumulate(np.where(changed, np.arange(count)[:, None], 0), axis=0)
            sizes = np.take_along_axis(random.integers(1, 50, (count, 2 * LEVELS)) * 100, newest, axis=0)
            bids, asks = (bests[:, None] - steps) / 100, (bests[:, None] + 1 + steps) / 100
            matrices = (bids, sizes[:, :LEVELS], asks, sizes[:, LEVELS:])
            columns = [iso_utc_from_ns(ns), *map(list_column, matrices)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return path


def list_column(matrix: npt.NDArray[np.float64 | np.int64]) -> Any:
    """Return shape (rows, levels) as an Arrow list column."""
    import numpy as np
    import pyarrow as pa

    rows, levels = matrix.shape
    offsets = pa.array(np.arange(0, rows * levels + 1, levels, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(matrix).ravel()))


def part_of(path: Path, root: Path) -> Path:
    """The first of `PART` equal parts of a day, as a file of its own."""
    import pyarrow.parquet as pq

    target = root / path.relative_to(path.parents[2])
    target.parent.mkdir(parents=True)
    whole = pq.ParquetFile(path)
    rows = whole.metadata.num_rows // PART
    groups = range(-(-rows // ROW_GROUP_ROWS))
    table = whole.read_row_groups(list(groups)).slice(0, rows)
    pq.write_table(table, target, row_group_size=ROW_GROUP_ROWS, compression="zstd", use_dictionary=False)
    return target


def report(rows: int, path: Path, runs: dict[str, list[dict[str, float]]]) -> bool:
    """Print the table and the promises; whether they are kept."""
    # Other work on the machine only ever slows a run down, and one of two threads more than the only one.
    best = {name: min(measured, key=lambda run: run["seconds"]) for name, measured in runs.items()}
    seconds = {name: found["seconds"] * VARIANTS[name].part for name, found in best.items()}
    size_mb = path.stat().st_size / 1e6
    print(f"\n{rows:,} rows of {LEVELS} levels ({size_mb:,.0f} MB file), {os.cpu_count()} cores")
    print(f"{'':52}{'seconds':>9}{'x ours':>8}{'peak MB':>9}{'result MB':>11}")
    for name, found in best.items():
        note = " *" if VARIANTS[name].part > 1 else ""
        ratio = seconds[name] / seconds["ours"]
        numbers = f"{seconds[name]:9.2f}{ratio:8.2f}{found['peak_mb']:9.0f}{found['result_mb']:11.0f}"
        print(f"{VARIANTS[name].title:52}{numbers}{note}")
    print(f"* run on one row in {PART}: time scaled up by {PART}, peak memory and result as they were\n")
    ours_found = best["ours"]
    memory = (ours_found["peak_mb"] - ours_found["before_mb"]) / ours_found["result_mb"]
    kept = [memory <= MEMORY_AT_MOST]
    print(f"{word(kept[0])}  memory: {memory:.2f} x the result (promised: at most {MEMORY_AT_MOST})")
    if "pandas" in seconds:
        faster = seconds["pandas"] / seconds["ours"]
        kept.append(faster >= PANDAS_AT_LEAST)
        print(f"{word(kept[1])}  speed: {faster:.1f} x as fast as pandas (promised: at least {PANDAS_AT_LEAST:g})")
    return all(kept)


def word(passed: bool) -> str:
    return "PASS" if passed else "FAIL"


def check_equal(part: Path, names: list[str]) -> None:
    """Every variant reads the same numbers from the same file."""
    sums = {name: measure(name, part)["sum"] for name in names if name != "table"}
    if len(set(sums.values())) > 1:
        sys.exit(f"the variants disagree: {sums}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=3_000_000, help="rows of the day (default: %(default)s)")
    parser.add_argument(
        "--runs", type=int, default=5, help="runs of each variant, the best counts (default: %(default)s)"
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]))
        return 0
    names = [name for name, found in VARIANTS.items() if found.needs is None or importlib.util.find_spec(found.needs)]
    with tempfile.TemporaryDirectory(prefix="bench-reader-") as folder:
        print(f"making {options.rows:,} rows ...", flush=True)
        path = make_day(Path(folder, "whole"), options.rows)
        parts = {1: path, PART: part_of(path, Path(folder, "part"))}
        check_equal(parts[PART], names)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for number in range(options.runs):
            print(f"run {number + 1} of {options.runs} ...", flush=True)
            for name in names:
                runs[name].append(measure(name, parts[VARIANTS[name].part]))
        kept = report(options.rows, path, runs)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

"""Speed and memory of the way from the bars ledger to the coverage file, beside a plain `json.loads` loop.

Writes a ledger as years of daily downloads leave it, and derives its coverage in processes of their own, interleaved,
so that time and peak memory are honest: all of it with this package, all of it with the loop, and what is left to do
after 100 more lines. Each writes the whole coverage file and brings it to the disk. Absolute times hold for one machine
only; the two ratios are what the project promises. `make bench` runs it.
"""

# ruff: noqa: PLC0415 - a process imports what its own variant needs and nothing else

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FULL_AT_LEAST = 3.0
"""A full derivation is at least so many times as fast as the loop."""

REFRESH_AT_LEAST = 10.0
"""After 100 new lines a derivation is at least so many times as fast as a full one."""

NEW_LINES = 100
SYMBOLS = 250
SIZES = (("1 hour", "hour", 7), ("1 min", "minute", 390), ("1 sec", "second", 23_400))
REWRITTEN = 0.05
ET = ZoneInfo("America/New_York")
COLUMNS = ["timestamp", "open", "high", "low", "close", "volume", "barCount", "WAP"]


def ledger_lines(first_day: dt.date) -> Iterator[str]:
    """Yield the lines of daily downloads for ever: each day all symbols and sizes, some twice."""
    chance = random.Random(1)  # noqa: S311 - the same ledger each time
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    symbols = {
        "".join(chance.choices(letters, k=chance.choice((1, 2, 3, 3, 4, 4, 5)))): None for _ in range(2 * SYMBOLS)
    }
    day = first_day
    while True:
        if day.weekday() < 5:
            offset = dt.datetime.combine(day, dt.time(12), ET).isoformat()[-6:]
            for symbol in list(symbols)[:SYMBOLS]:
                for bar_size, folder, rows in SIZES:
                    for _ in range(2 if chance.random() < REWRITTEN else 1):
                        clock = f"{chance.randrange(60):02d}:{chance.randrange(60):02d}"
                        name = f"{day}.parquet"
                        document = {
                            "schema_version": "bars_manifest.v1",
                            "written_at": f"{day}T21:{clock}+00:00",
                            "vendor": "IBKR",
                            "file_format": "parquet",
                            "symbol": symbol,
                            "bar_size": bar_size,
                            "path": f"/data/ML/bars/{folder}/{symbol}/{name}",
                            "filename": name,
                            "rows": rows - chance.randrange(3),
                            "columns": COLUMNS,
                            "time_start": f"{day}T09:30:00{offset}",
                            "time_end": f"{day}T15:{clock}{offset}",
                            "what_to_show": "TRADES",
                            "use_rth": True,
                            "price_adjustment": "raw",
                            "complete": True,
                        }
                        yield json.dumps(document, separators=(",", ":")) + "\n"
        day += dt.timedelta(1)


def ours(root: Path) -> Callable[[], dict[str, Any]]:
    import pyarrow.compute  # noqa: F401 - pyarrow imports it at the first use, 0.2 s

    from contracts.coverage import build_coverage
    from contracts.layout import DataRoot

    def work() -> dict[str, Any]:
        result = build_coverage(DataRoot(root))
        assert result.written
        return {"mode": result.report.mode, "days": result.report.days}

    return work


def plain_loop(root: Path) -> Callable[[], dict[str, Any]]:
    """The same rules by `json.loads` and dictionaries, without the checks of nasty lines that ours makes as well."""

    def work() -> dict[str, Any]:
        # By path: entry, times as seconds, merit, and what the coverage says.
        by_path: dict[str, tuple[Any, ...]] = {}
        with (root / "bars_download_manifest.jsonl").open("rb") as file:
            for line in file:
                record = json.loads(line)
                if record.get("schema_version") != "bars_manifest.v1" or not isinstance(record["rows"], int):
                    continue
                start, end, path = record["time_start"], record["time_end"], record["path"]
                start_s, end_s, written_s = seconds(start), seconds(end), seconds(record["written_at"])
                by_path.pop(path, None)
                by_path[path] = (
                    (record["symbol"], record["bar_size"]),
                    start_s,
                    end_s,
                    (-record["rows"], start_s - end_s, -written_s, path),
                    (start, end, record["filename"]),
                )
        by_times: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for found in by_path.values():
            before = by_times.get(found[:3])
            if before is None or found[3][2] <= before[3][2]:
                by_times[found[:3]] = found
        best: dict[tuple[str, str], dict[str, tuple[Any, ...]]] = {}
        for entry, _, _, merit, told in by_times.values():
            days = best.setdefault(entry, {})
            day = told[0][:10]
            if day not in days or merit < days[day][0]:
                days[day] = merit, told
        write_atomic(root / "bars_coverage_manifest.json", coverage_parts(best))
        return {"mode": "loop", "days": sum(map(len, best.values()))}

    return work


def seconds(text: str) -> float:
    """Read a time as seconds since 1970; one without zone is New York wall clock."""
    moment = dt.datetime.fromisoformat(text)
    return (moment.replace(tzinfo=ET) if moment.tzinfo is None else moment).timestamp()


def coverage_parts(best: dict[tuple[str, str], dict[str, tuple[Any, ...]]]) -> Iterator[str]:
    """Yield the text of the coverage file, an entry at a time."""
    yield f'{{"schema_version":"bars_coverage.v1","generated_at":"{dt.datetime.now(dt.UTC).isoformat()}","entries":['
    for number, ((symbol, bar_size), days) in enumerate(sorted(best.items())):
        listed = [
            {
                "date": day,
                "time_start": told[0],
                "time_end": told[1],
                "path": merit[3],
                "filename": told[2],
                "rows": -merit[0],
            }
            for day, (merit, told) in sorted(days.items())
        ]
        total = {"date_start": listed[0]["date"], "date_end": listed[-1]["date"]}
        entry = {"symbol": symbol, "bar_size": bar_size, "total": total, "days": listed}
        yield ("," if number else "") + json.dumps(entry, separators=(",", ":"))
    yield "]}"


def write_atomic(path: Path, parts: Iterator[str]) -> None:
    temp = path.with_suffix(".tmp")
    with temp.open("w") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    temp.replace(path)


VARIANTS = {"loop": plain_loop, "full": ours, "refresh": ours}
TITLES = {
    "loop": "json.loads loop, all lines",
    "full": "ours, all lines",
    "refresh": f"ours, {NEW_LINES} new lines",
}


def child(name: str, root: Path) -> None:
    """Run one variant in this process and print what it took."""
    work = VARIANTS[name](root)
    started = time.perf_counter()
    seen = work()
    print(json.dumps({"seconds": time.perf_counter() - started, "peak_mb": peak_mb(), **seen}))


def peak_mb() -> float:
    """Peak resident memory of this process image; `ru_maxrss` would count the parent's pages at the fork as well."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(name: str, root: Path) -> dict[str, Any]:
    """One run of a variant in a process of its own."""
    command = [sys.executable, __file__, "--child", name, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this very file
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout))


def one_round(root: Path, new_lines: list[str], runs: dict[str, list[dict[str, Any]]]) -> None:
    """Measure each variant once; the ledger is as before afterwards."""
    ledger, out = root / "bars_download_manifest.jsonl", root / "bars_coverage_manifest.json"
    size = ledger.stat().st_size
    for name in ("loop", "full"):
        out.unlink(missing_ok=True)
        runs[name].append(measure(name, root))
    with ledger.open("a") as file:
        file.writelines(new_lines)
    runs["refresh"].append(measure("refresh", root))
    os.truncate(ledger, size)
    modes = [runs[name][-1]["mode"] for name in VARIANTS]
    days = [runs[name][-1]["days"] for name in VARIANTS]
    assert modes == ["loop", "full", "incremental"], modes
    assert days[0] == days[1] < days[2], days


def report(root: Path, lines: int, runs: dict[str, list[dict[str, Any]]]) -> bool:
    """Print the table and the two promises; whether both are kept."""
    taken = {name: statistics.median(run["seconds"] for run in measured) for name, measured in runs.items()}
    in_mb, out_mb = (
        (root / name).stat().st_size / 1e6 for name in ("bars_download_manifest.jsonl", "bars_coverage_manifest.json")
    )
    print(f"\n{lines:,} ledger lines ({in_mb:,.0f} MB) -> {out_mb:,.0f} MB of coverage, {os.cpu_count()} cores")
    print(f"{'':36}{'seconds':>9}{'x faster than the loop':>24}{'peak MB':>9}")
    for name, title in TITLES.items():
        peak = statistics.median(run["peak_mb"] for run in runs[name])
        print(f"{title:36}{taken[name]:9.2f}{taken['loop'] / taken[name]:24.1f}{peak:9.0f}")
    full, refresh = taken["loop"] / taken["full"], taken["full"] / taken["refresh"]
    kept = full >= FULL_AT_LEAST, refresh >= REFRESH_AT_LEAST
    words = ["PASS" if passed else "FAIL" for passed in kept]
    print(f"\n{words[0]}  full: {full:.1f} x as fast as the loop (promised: at least {FULL_AT_LEAST:g})")
    print(f"{words[1]}  refresh: {refresh:.1f} x as fast as full (promised: at least {REFRESH_AT_LEAST:g})")
    return all(kept)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lines", type=int, default=1_000_000, help="lines of the ledger (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each variant (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a promise is not kept")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]))
        return 0
    folder = Path(tempfile.mkdtemp(prefix="bench-coverage-"))
    try:
        print(f"making {options.lines:,} lines ...", flush=True)
        coming = ledger_lines(dt.date(2020, 1, 2))
        with (folder / "bars_download_manifest.jsonl").open("w") as file:
            for _ in range(options.lines):
                file.write(next(coming))
        new_lines = [next(coming) for _ in range(NEW_LINES)]
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
        for number in range(options.runs):
            print(f"run {number + 1} of {options.runs} ...", flush=True)
            one_round(folder, new_lines, runs)
        kept = report(folder, options.lines, runs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if kept or not options.strict else 1


if __name__ == "__main__":
    sys.exit(main())

"""Speed of planning a bars download, beside plain loops over the parsed coverage.

Writes a ledger as years of daily downloads leave it, derives its coverage once, and plans 200 symbols, three bar sizes
and five years in processes of their own, interleaved: with every file in its place, with a tenth of them gone, and
with nothing there. Then the same of illiquid shares, whose bars end before the close: as noted, and for one symbol by
the footers alone, as the first time. The loops do what one would write first: `json.load`, the models, one day after
the other. Absolute times hold for one machine only; the promise is the limit for a plan of ours, and the ratio says why
it is kept. `make bench` runs it.
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

LIMIT_S = 2.0
"""Opening the coverage and making a plan takes at most so long, with the exchange calendar and the requests counted."""

ILLIQUID_LIMIT_S = 3.0
"""The same for illiquid shares, of which the notes of half a million days are read."""

SYMBOLS = 250
ASKED_SYMBOLS = 200
SIZES = (("1 hour", "hour", 7), ("1 min", "minute", 390), ("1 sec", "second", 23_400))
NOW = dt.datetime(2025, 12, 20, 17, tzinfo=dt.UTC)
FIRST, LAST = dt.date(2020, 12, 21), dt.date(2025, 12, 19)
GONE = 0.1
BARS_SHORT = 3
"""So many bars before the close the last bar of an illiquid share lies."""
ET = ZoneInfo("America/New_York")
WIDTHS = (10, 7, 7, 10, 7, 9, 8, 7)
COLUMNS = ["timestamp", "open", "high", "low", "close", "volume", "barCount", "WAP"]


def names() -> list[str]:
    return [f"S{number:03d}" for number in range(SYMBOLS)]


def days_back() -> Iterator[dt.date]:
    """Yield weekdays from the last one back for ever."""
    day = LAST
    while True:
        if day.weekday() < 5:
            yield day
        day -= dt.timedelta(1)


def ledger_lines(root: Path, count: int) -> list[str]:
    """Return so many lines, in the order of the days: each day all symbols and sizes."""
    from contracts.sessions import is_session, session_close_et

    lines: list[str] = []
    for day in days_back():
        if not is_session(day):
            continue
        offset = dt.datetime.combine(day, dt.time(12), ET).isoformat()[-6:]
        close = dt.datetime.combine(day, session_close_et(day))
        for bar_size, folder, rows in SIZES:
            length = {"1 hour": 3600, "1 min": 60, "1 sec": 1}[bar_size]
            end = f"{(close - dt.timedelta(seconds=length)).isoformat()}{offset}"
            for symbol in names():
                name = f"{day}.parquet"
                document = {
                    "schema_version": "bars_manifest.v1",
                    "written_at": f"{day}T23:00:00+00:00",
                    "vendor": "IBKR",
                    "file_format": "parquet",
                    "symbol": symbol,
                    "bar_size": bar_size,
                    "path": f"{root}/bars/{folder}/{symbol}/{name}",
                    "filename": name,
                    "rows": rows,
                    "columns": COLUMNS,
                    "time_start": f"{day}T09:30:00{offset}",
                    "time_end": end,
                    "what_to_show": "TRADES",
                    "use_rth": True,
                    "price_adjustment": "raw",
                    "complete": True,
                }
                lines.append(json.dumps(document, separators=(",", ":")) + "\n")
                if len(lines) == count:
                    return lines[::-1]
    raise AssertionError


def note_groups(root: Path, *, whole: bool = False) -> None:
    """Leave the notes of groups whose files were all published by this system, so that no footer needs to be opened."""
    from connectors.store.bars import ALL_DAYS, BarsFooter, listing, note_files
    from contracts.layout import DataRoot

    data = DataRoot(root)
    for bar_size, _, rows in SIZES:
        for symbol in names()[:ASKED_SYMBOLS]:
            footers = []
            for day in listing(data, bar_size, symbol) if whole and bar_size != "1 hour" else ():
                file = data.bars_path(bar_size, symbol, day).stat()
                footers.append(BarsFooter(day, "TRADES/regular", True, rows, (file.st_ino, file.st_mtime_ns)))
            note_files(data, bar_size, symbol, footers, seen=ALL_DAYS)


def make_illiquid(root: Path) -> None:
    """Let minutes and seconds end before the close in the ledger, and note that the days are whole all the same."""
    from contracts.coverage import build_coverage
    from contracts.layout import DataRoot

    ledger = root / "bars_download_manifest.jsonl"
    lengths = {"1 hour": 0, "1 min": 60, "1 sec": 1}
    lines = []
    for line in ledger.read_text().splitlines():
        document = json.loads(line)
        end = dt.datetime.fromisoformat(document["time_end"])
        end -= dt.timedelta(seconds=BARS_SHORT * lengths[document["bar_size"]])
        lines.append(json.dumps(document | {"time_end": end.isoformat()}, separators=(",", ":")) + "\n")
    ledger.write_text("".join(lines))
    build_coverage(DataRoot(root), full=True)
    note_groups(root, whole=True)


def first_look(root: Path) -> tuple[int, float]:
    """Give one illiquid symbol real files without notes and plan it; returns how many files, and the seconds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from connectors.store.bars import listing
    from contracts.coverage import load_coverage
    from contracts.layout import DataRoot
    from contracts.v1.bars import BarsMetadata, bars_schema
    from flows.bars_plan import BarsScope, make_plan

    data, symbol, bar_size = DataRoot(root), names()[0], "1 min"
    (root / ".bars" / "minute" / f"{symbol}.json").unlink()
    days = listing(data, bar_size, symbol)
    for day in days:
        metadata = BarsMetadata(
            symbol=symbol,
            bar_size=bar_size,
            source="ibkr",
            session_date=day,
            what_to_show="TRADES",
            use_rth=True,
            price_adjustment="raw",
            complete=True,
            producer="benchmark",
        )
        count = 390
        columns = [[f"{day}T15:00:00.000000000+00:00"] * count, *[[1.0] * count] * 5, [1] * count, [1.0] * count]
        pq.write_table(pa.table(columns, schema=bars_schema(metadata)), data.bars_path(bar_size, symbol, day))
    scope = BarsScope((symbol,), {bar_size: (FIRST, LAST)})
    coverage = load_coverage(data.bars_coverage)
    began = time.perf_counter()
    plan = make_plan(data, scope, now_ns=int(NOW.timestamp()) * 10**9, coverage=coverage)
    seconds = time.perf_counter() - began
    assert len(plan.groups[0].opened) == plan.total("present") > 0, plan.total("present")
    return len(plan.groups[0].opened), seconds


def make_files(lines: list[str]) -> None:
    """Put a file in its place for each line; a plan looks at their names only."""
    known: set[str] = set()
    for line in lines:
        path: str = json.loads(line)["path"]
        if (folder := path.rpartition("/")[0]) not in known:
            Path(folder).mkdir(parents=True)
            known.add(folder)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def take_away(root: Path) -> None:
    """Remove a part of the files."""
    chance = random.Random(1)  # noqa: S311 - the same files each time
    for place in sorted((root / "bars").glob("*/*")):
        for path in sorted(place.iterdir()):
            if chance.random() < GONE:
                path.unlink()


def ours(root: Path) -> Callable[[], dict[str, Any]]:
    from contracts.coverage import is_current, load_coverage
    from contracts.layout import DataRoot
    from flows.bars_plan import BarsScope, make_plan

    def work() -> dict[str, Any]:
        data = DataRoot(root)
        scope = BarsScope(tuple(names()[:ASKED_SYMBOLS]), {size: (FIRST, LAST) for size, _, _ in SIZES})
        began = time.perf_counter()
        assert is_current(data)
        coverage = load_coverage(data.bars_coverage)
        opened = time.perf_counter()
        plan = make_plan(data, scope, now_ns=int(NOW.timestamp()) * 10**9, coverage=coverage)
        planned = time.perf_counter()
        return {
            "pieces": plan.pieces,
            "present": plan.total("present"),
            "requests": plan.requests,
            "open_s": opened - began,
            "plan_s": planned - opened,
            "requests_s": time.perf_counter() - planned,
        }

    return work


def plain_loops(root: Path) -> Callable[[], dict[str, Any]]:
    """The rule of the index, with a look at each file, as one would write it first."""
    from connectors.ibkr.bar_requests import REACH_DAYS
    from contracts.sessions import session_close_et, sessions_between
    from contracts.v1.bars import CoverageDay

    def work() -> dict[str, Any]:
        document = json.loads((root / "bars_coverage_manifest.json").read_bytes())
        listed = {(entry["symbol"], entry["bar_size"]): entry["days"] for entry in document["entries"]}
        oldest = NOW.astimezone(ET).date() - dt.timedelta(REACH_DAYS["1 sec"])
        pieces = present = 0
        for symbol in names()[:ASKED_SYMBOLS]:
            for bar_size, folder, _ in SIZES:
                found = (CoverageDay.model_validate(day) for day in listed.get((symbol, bar_size), ()))
                by_day = {day.date: day for day in found}
                bar = dt.timedelta(hours=1) if bar_size == "1 hour" else dt.timedelta(minutes=1)
                bar = dt.timedelta(seconds=1) if bar_size == "1 sec" else bar
                for day in sessions_between(FIRST, LAST):
                    told = by_day.get(day)
                    opens = dt.datetime.combine(day, dt.time(9, 30), ET)
                    closes = dt.datetime.combine(day, session_close_et(day), ET)
                    if (
                        told is not None
                        and (root / "bars" / folder / symbol / told.filename).is_file()
                        and told.time_start is not None
                        and told.time_end is not None
                        and told.time_start <= opens + bar
                        and told.time_end >= closes - bar
                    ):
                        present += 1
                    elif bar_size != "1 sec" or day >= oldest:
                        pieces += 1
        return {"pieces": pieces, "present": present}

    return work


VARIANTS = {"ours": ours, "loops": plain_loops}


def child(name: str, root: Path) -> None:
    """Run one variant in this process and print what it took."""
    work = VARIANTS[name](root)
    began = time.perf_counter()
    from contracts.sessions import is_session

    is_session(LAST)
    calendar = time.perf_counter()
    seen = work()
    total = time.perf_counter()
    print(json.dumps({"seconds": total - began, "calendar_s": calendar - began, **seen}))


def measure(name: str, root: Path) -> dict[str, Any]:
    """One run of a variant in a process of its own."""
    command = [sys.executable, __file__, "--child", name, str(root)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this very file
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return {**json.loads(done.stdout), "process_s": time.perf_counter() - began}


def measured(root: Path, runs: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Medians of both variants on a root as it is now; they must find the same."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for number in range(runs):
        found["ours"].append(measure("ours", root))
        if number == 0:
            # The loops take minutes; their time is no promise.
            found["loops"].append(measure("loops", root))
    mine, loops = medians(found["ours"]), medians(found["loops"])
    assert all(mine[key] == loops[key] for key in ("pieces", "present")), (mine, loops)
    return mine, loops


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure of several runs."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def row(title: str, mine: dict[str, Any], loops: dict[str, Any] | None) -> None:
    """Print what was measured."""
    keys = ("calendar_s", "open_s", "plan_s", "requests_s", "seconds", "process_s")
    times = [mine[key] for key in keys]
    if loops is not None:
        times += [loops["seconds"], loops["seconds"] / mine["seconds"]]
    columns = "".join(f"{value:{width}.2f}" for value, width in zip(times, WIDTHS, strict=False))
    print(f"{title:22}{mine['pieces']:10,.0f}{columns}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lines", type=int, default=1_000_000, help="lines of the ledger (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each plan (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a promise is not kept")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]))
        return 0
    from contracts.coverage import build_coverage
    from contracts.layout import DataRoot

    root = Path(tempfile.mkdtemp(prefix="bench-bars-plan-"))
    try:
        print(f"making {options.lines:,} lines and their files ...", flush=True)
        lines = ledger_lines(root, options.lines)
        (root / "bars_download_manifest.jsonl").write_text("".join(lines))
        build_coverage(DataRoot(root))
        note_groups(root)
        make_files(lines)
        del lines
        print(f"{ASKED_SYMBOLS} symbols x {len(SIZES)} sizes x 5 years, {os.cpu_count()} cores; seconds:")
        heads = zip(("calendar", "open", "plan", "requests", "all", "process", "loops", "ratio"), WIDTHS, strict=True)
        print(f"{'':22}{'to fetch':>10}" + "".join(f"{head:>{width}}" for head, width in heads))
        worst = 0.0
        for title, change in (
            ("every file there", lambda _: None),
            ("a tenth gone", take_away),
            ("every file gone", lambda root: (root / "bars").rename(root / "before")),
            ("nothing there", forget),
        ):
            change(root)
            mine, loops = measured(root, options.runs)
            worst = max(worst, mine["seconds"])
            row(title, mine, loops)
        (root / "before").rename(root / "bars")
        remember(root)
        make_illiquid(root)
        mine = medians([measure("ours", root) for _ in range(options.runs)])
        assert mine["present"], mine
        illiquid_s = mine["seconds"]
        row("illiquid, noted", mine, None)
        files, seconds = first_look(root)
        print(f"illiquid, the first time: {seconds / files * 1e3:.2f} ms for each file ({files:,} files)")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    kept = worst <= LIMIT_S and illiquid_s <= ILLIQUID_LIMIT_S
    print(
        f"\n{'PASS' if kept else 'FAIL'}  the slowest plan took {worst:.2f} s (promised: at most {LIMIT_S:g} s), "
        f"that of illiquid shares {illiquid_s:.2f} s (at most {ILLIQUID_LIMIT_S:g} s)"
    )
    return 0 if kept or not options.strict else 1


def forget(root: Path) -> None:
    """Leave a ledger of other symbols, as long as before."""
    rename_symbols(root, "S", "T")


def remember(root: Path) -> None:
    """Leave the ledger as it was before."""
    rename_symbols(root, "T", "S")


def rename_symbols(root: Path, old: str, new: str) -> None:
    from contracts.coverage import build_coverage
    from contracts.layout import DataRoot

    ledger = root / "bars_download_manifest.jsonl"
    ledger.write_text(ledger.read_text().replace(f'"symbol":"{old}', f'"symbol":"{new}'))
    build_coverage(DataRoot(root), full=True)


if __name__ == "__main__":
    sys.exit(main())

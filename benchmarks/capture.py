"""Live capture under load: loss, lag and memory; its cost beside the bare client library; a day of a compressed clock.

Every part runs in processes of its own: the sandbox gateway on one core, what is measured on another. Absolute times
hold for one machine only; the ratio of the costs is what the project promises, and lag and memory at 20,000 messages a
second on one core. `make bench` runs all three parts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from _capture_runs import SYMBOLS, Client, LoadRun, peaks_below, run_load

if TYPE_CHECKING:
    from collections.abc import Sequence

LAG_P99_MS_AT_MOST = 250.0
"""From receipt to the journal, at the rate promised."""

MEMORY_MB_BELOW = 250.0
GROWTH_AT_MOST = 0.10
"""Memory is flat when its last fifth is at most so much above its second fifth."""

COST_AT_MOST = 3.0
"""The whole recorder takes at most so many times the processor time of the bare library."""

SEGMENT_S = 900

_TIME = re.compile(rb'^\{"timestamp": "([^+]+)', re.MULTILINE)
_SEQ = re.compile(rb'"seq": (\d+)\}')

COSTS = {
    "bare": "bare library: reqMktDepth, nothing done with the ticks",
    "old": "the way before: the library's ticks appended to a list",
    "ours": "ours: the whole recorder, journaled",
}


class Verdicts:
    """Promises and whether they were kept."""

    def __init__(self) -> None:
        self.all_kept = True

    def check(self, words: str, *, kept: bool) -> None:
        """Say how a promise fared."""
        print(f"{'PASS' if kept else 'FAIL'}  {words}")
        self.all_kept = self.all_kept and kept


def load_of_machine() -> str:
    return "load average " + " ".join(f"{value:.2f}" for value in os.getloadavg())


# --- load ------------------------------------------------------------------------------------------------------------


def load(verdicts: Verdicts, folder: Path, rate: float, seconds: float, rotate_minutes: float) -> None:
    print(
        f"\nload: {rate:,.0f} messages/s of {len(SYMBOLS)} symbols for {seconds:g} s, recorder on one core", flush=True
    )
    print(f"  {load_of_machine()} before")
    run = run_load("ours", rate, seconds, folder, L2_ROTATE_MINUTES=rotate_minutes)
    print(f"  {load_of_machine()} after")
    result = run.said["result"]
    recorded = {row["symbol"]: row["messages"] for row in result["symbols"]}
    times = {symbol: receipts(folder / "data", symbol) for symbol in SYMBOLS}
    lags_ms = np.array(json.loads((folder / "samples.json").read_text()))
    during = lags_ms[lags_ms[:, 0] <= run.batches[-1].at_ns / 1e9]
    during = during[during[:, 0] >= run.batches[0].at_ns / 1e9]
    lag, queue = during[:, 2], during[:, 1]
    longest_ms = max(stats["max_lag_ms"] for stats in session_stats(folder / "data"))
    receipt = np.concatenate([sent_to_receipt_ms(run, symbol, times[symbol]) for symbol in SYMBOLS])
    print(f"  sent {run.messages:,}, recorded {sum(recorded.values()):,}, all taken after {run.seconds:.1f} s")
    print(f"  processor: {run.cpu_s:.1f} s = {100 * run.cpu_s / run.seconds:.0f} % of the core,", end=" ")
    print(f"{1e6 * run.cpu_s / run.messages:.1f} us a message; closing {run.said['closing_cpu_s']:.1f} s")
    print(f"  receipt to journal, ms: {spread(lag)} (sampled), longest of all {longest_ms:.0f}")
    print(f"  send to receipt, ms:    {spread(receipt)} (every message)")
    print(f"  queue: at most {queue.max():,.0f} sampled; gaps {[row['gaps'] for row in result['symbols']]}", end=", ")
    print(f"segments {[row['segments'] for row in result['symbols']]}")
    memory = [mb for at, mb in run.rss_mb if at <= seconds]
    fifths = [statistics.median(part) for part in np.array_split(memory, 5)]
    print(
        f"  memory, MB: {' '.join(f'{mb:.0f}' for mb in fifths)} by fifth of the load, peak {run.peak_mb:.0f}", end=""
    )
    print(f"; closing children {run.closing_peak_mb:.0f}")
    for failure in result["failures"]:
        print(f"  ! {failure}")
    whole = all(
        recorded[symbol] == run.sent[symbol] == len(times[symbol])
        and sequence(folder / "data", symbol) == list(range(run.sent[symbol]))
        for symbol in SYMBOLS
    )
    verdicts.check(f"nothing lost: {run.messages:,} sent, each of them recorded once and in order", kept=whole)
    verdicts.check(
        "no gap but the one before the first message", kept=all(row["gaps"] == 1 for row in result["symbols"])
    )
    p99 = float(np.percentile(lag, 99))
    verdicts.check(f"lag p99 {p99:.0f} ms (promised: below {LAG_P99_MS_AT_MOST:g})", kept=p99 < LAG_P99_MS_AT_MOST)
    verdicts.check(
        f"memory {run.peak_mb:.0f} MB (promised: below {MEMORY_MB_BELOW:g})", kept=run.peak_mb < MEMORY_MB_BELOW
    )
    check_flat(verdicts, fifths[1], fifths[-1])
    findings = checked(folder)["findings"]
    verdicts.check(f"the validator finds nothing {findings or ''}", kept=not findings)


def spread(values: np.ndarray) -> str:
    p50, p99 = np.percentile(values, [50, 99])
    return f"p50 {p50:.1f}, p99 {p99:.1f}, max {values.max():.1f}"


def check_flat(verdicts: Verdicts, early_mb: float, late_mb: float) -> None:
    growth = late_mb / early_mb - 1
    verdicts.check(
        f"memory flat: {early_mb:.0f} MB early, {late_mb:.0f} MB late ({growth:+.1%}, at most {GROWTH_AT_MOST:.0%})",
        kept=growth <= GROWTH_AT_MOST,
    )


def messages_files(root: Path, symbol: str) -> list[Path]:
    return sorted((root / "level2" / symbol).glob("*_messages_*.json"))


def receipts(root: Path, symbol: str) -> np.ndarray:
    """Receipt of every recorded message, nanoseconds since 1970 UTC, in order."""
    texts = [text for path in messages_files(root, symbol) for text in _TIME.findall(path.read_bytes())]
    return np.array(texts, "S29").astype("U29").astype("datetime64[ns]").astype(np.int64)


def sequence(root: Path, symbol: str) -> list[int]:
    return [int(text) for path in messages_files(root, symbol) for text in _SEQ.findall(path.read_bytes())]


def session_stats(root: Path) -> list[dict[str, float]]:
    return [json.loads(path.read_text()) for path in root.glob("level2/*/session_stats_*.json")]


def sent_to_receipt_ms(run: LoadRun, symbol: str, received_ns: np.ndarray) -> np.ndarray:
    """From the gateway's write to the stamp of each message of the load; both clocks are this machine's."""
    batches = [batch for batch in run.batches if batch.symbol == symbol]
    sent_ns = np.repeat([batch.at_ns for batch in batches], [batch.messages for batch in batches])
    # The opening book came before.
    loaded = received_ns[run.sent[symbol] - len(sent_ns) :]
    count = min(len(loaded), len(sent_ns))
    return (loaded[:count] - sent_ns[:count]) / 1e6


def checked(folder: Path) -> dict[str, list[str]]:
    return Client("validate", folder / "data", folder=folder, spread=True).end()


# --- cost ------------------------------------------------------------------------------------------------------------


def cost(verdicts: Verdicts, folder: Path, rates: Sequence[float], seconds: float, runs: int) -> None:
    print(f"\ncost: processor time a message, {seconds:g} s of load, median of {runs} interleaved runs", flush=True)
    print(f"  {load_of_machine()} before")
    found: dict[tuple[float, str], list[LoadRun]] = {}
    for number in range(runs):
        for rate in rates:
            for name in COSTS:
                target = folder / f"{name}-{rate:.0f}-{number}"
                run = run_load(name, rate, seconds, target, settled=True, L2_ROTATE_MINUTES=60)
                check_taken(name, run)
                found.setdefault((rate, name), []).append(run)
                shutil.rmtree(target)
    print(f"  {load_of_machine()} after")
    closed = [run for rate in rates for run in found[rate, "ours"]]
    # A process per segment, which is far longer than a run: what it takes to start is told apart by the two rates.
    each_s, start_s = np.polyfit([run.messages for run in closed], [run.said["closing_cpu_s"] for run in closed], 1)
    print(f"{'':60}{'messages/s':>12}{'us each':>9}{'x bare':>8}{'MB':>6}{'runs, us each':>24}")
    for rate in rates:
        bare_us, ours_us = us_each(found[rate, "bare"]), us_each(found[rate, "ours"])
        for name, title in COSTS.items():
            each = " ".join(f"{us_each([run]):.1f}" for run in found[rate, name])
            peak_mb = max(run.peak_mb for run in found[rate, name])
            each_us = us_each(found[rate, name])
            print(f"{title:60}{rate:12,.0f}{each_us:9.1f}{each_us / bare_us:8.2f}{peak_mb:6.0f}{each:>24}")
        both_us = ours_us + 1e6 * (each_s + start_s / (rate * SEGMENT_S))
        title = "ours, and the process that makes the files of 15 minutes"
        print(f"{title:60}{rate:12,.0f}{both_us:9.1f}{both_us / bare_us:8.2f}")
    print(f"  that process: {1e6 * each_s:.1f} us a message, {start_s:.1f} s a segment")
    for rate in rates:
        ratio = us_each(found[rate, "ours"]) / us_each(found[rate, "bare"])
        words = f"{ratio:.2f} x the bare library's time at {rate:,.0f}/s (promised: at most {COST_AT_MOST:g})"
        verdicts.check(words, kept=ratio <= COST_AT_MOST)


def us_each(runs: Sequence[LoadRun]) -> float:
    return statistics.median(1e6 * run.cpu_s / run.messages for run in runs)


def check_taken(name: str, run: LoadRun) -> None:
    """A client that did not do its work was not measured."""
    if name == "ours":
        recorded = {row["symbol"]: row["messages"] for row in run.said["result"]["symbols"]}
        assert recorded == run.sent, (recorded, run.sent)
        return
    assert name == "bare" or run.said["kept"] == run.messages, (run.said["kept"], run.messages)
    for symbol, book in run.books.items():
        assert run.said["bids"][symbol] == [row.price for row in book.bid], symbol


# --- day -------------------------------------------------------------------------------------------------------------


def day(verdicts: Verdicts, folder: Path, hours: float, messages_per_s: float) -> None:
    print(f"\nday: {hours:g} h at 50 ms and 20 levels, {messages_per_s:g} messages/s, compressed clock", flush=True)
    print(f"  {load_of_machine()} before")
    folder.mkdir()
    client = Client("day", folder / "data", hours, messages_per_s, folder=folder, spread=True)
    with peaks_below(client.process) as peaks:
        found = client.end()
    print(f"  {load_of_machine()} after")
    wall_s, fed_s = found["whole_s"], found["feed_s"]
    print(f"  {found['messages']:,} messages, {found['rows']:,} rows, {found['segments']} segments", end=" ")
    print(f"in {wall_s:.0f} s ({hours * 3600 / wall_s:.0f} x real time), of which fed and journaled {fed_s:.0f} s")
    print(f"  processor: feed and recorder {found['cpu_s']:.0f} s, closing {found['closing_cpu_s']:.0f} s")
    memory = " ".join(f"{mb:.0f}" for mb in found["rss_mb"])
    print(f"  memory of the recorder, MB: {memory} by quarter; closing children at most {max(peaks, default=0):.0f}")
    grid = round(hours * 3600 * 1000 / 50)
    whole = found["messages"] == found["sent"] and found["rows"] == grid and not found["problems"]
    verdicts.check(
        f"whole: {found['sent']:,} messages given, {grid:,} points of the grid {found['problems'] or ''}", kept=whole
    )
    top_mb = max(*found["rss_mb"], *peaks)
    verdicts.check(f"memory {top_mb:.0f} MB (promised: below {MEMORY_MB_BELOW:g})", kept=top_mb < MEMORY_MB_BELOW)
    check_flat(verdicts, found["rss_mb"][0], found["rss_mb"][-1])
    report = checked(folder)
    print(f"  validated in {report['seconds']:.0f} s, peak {report['peak_mb']:.0f} MB")
    verdicts.check(f"the validator finds nothing {report['findings'] or ''}", kept=not report["findings"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", help="load, cost, day (default: all)")
    parser.add_argument("--rate", type=float, default=20_000, help="messages/s of the load (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="length of the load (default: %(default)s)")
    parser.add_argument("--rotate-minutes", type=float, default=15, help="its segments (default: %(default)s)")
    parser.add_argument("--cost-seconds", type=float, default=10, help="length of a cost run (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="cost runs of each variant (default: %(default)s)")
    parser.add_argument("--hours", type=float, default=6.5, help="length of the day (default: %(default)s)")
    parser.add_argument("--day-rate", type=float, default=200, help="messages/s of the day (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a promise is not kept")
    options = parser.parse_args()
    if unknown := set(options.parts) - {"load", "cost", "day"}:
        parser.error(f"no such part: {' '.join(sorted(unknown))}")
    parts = options.parts or ["load", "cost", "day"]
    verdicts = Verdicts()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory(prefix="bench-capture-") as name:
        top = Path(name)
        if "load" in parts:
            load(verdicts, top / "load", options.rate, options.seconds, options.rotate_minutes)
        if "cost" in parts:
            (top / "cost").mkdir()
            cost(verdicts, top / "cost", (5_000, 20_000), options.cost_seconds, options.runs)
        if "day" in parts:
            day(verdicts, top / "day", options.hours, options.day_rate)
    return 0 if verdicts.all_kept or not options.strict else 1


if __name__ == "__main__":
    sys.exit(main())

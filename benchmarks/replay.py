"""Speed of the book of depth messages and of its replay, beside the alternatives.

Makes the messages of one busy symbol, applies them to our book, to bare lists without any check, to a book of numpy
arrays and to one that is built anew for each message, then replays them from memory and from a file. Variants run
interleaved in one process. Absolute times hold for one machine only; the ratios are what the project promises.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.book import Book, replay, replay_batches
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.depth_messages import DepthMessage, DepthMessages

if TYPE_CHECKING:
    from collections.abc import Callable

APPLY_AT_MOST = 2.0
"""Our book takes at most so many times the bare lists, which check nothing."""

NUMPY_AT_LEAST = 1.5
"""Our book is at least so many times as fast as one of numpy arrays."""

MODELS_AT_LEAST = 1.5
"""Replaying a file is at least so many times as fast as reading it into models alone, with nothing replayed."""

LEVELS = 10
INTERVAL_MS = 100
SYMBOL = "AAPL"
MODELS = "DepthMessages.from_json of the file, nothing replayed"
START_NS = 1_756_992_600_000_000_000
SESSION_NS = 9_000 * 10**9

Message = dict[str, Any]
Step = tuple[str, str, int, float, int]


def make_messages(count: int) -> list[Message]:
    """What a broker sends: mostly new sizes; rows that come push the last one out, rows that go are filled up."""
    rng = random.Random(1)  # noqa: S311 - not for secrets
    times = iso_utc_from_ns(START_NS + np.sort(np.random.default_rng(1).integers(0, SESSION_NS, count))).to_pylist()
    depth = {"bid": 0, "ask": 0}
    messages = []
    for timestamp in times:
        side = rng.choice(("bid", "ask"))
        rows = depth[side]
        what = rng.random()
        if rows < LEVELS and (what < 0.5 or not rows):
            operation, level = "add", rows
            depth[side] += 1
        elif what < 0.7:
            operation, level = "update", rng.randrange(rows)
        elif what < 0.85:
            operation, level = "add", rng.randrange(rows)
            depth[side] = min(rows + 1, LEVELS)
        else:
            operation, level = "remove", rng.randrange(rows)
            depth[side] -= 1
        price = 230 + (level + 1) / 100 * (1 if side == "ask" else -1)
        messages.append(
            {
                "timestamp": timestamp,
                "operation": operation,
                "side": side,
                "level": level,
                "price": price,
                "size": rng.randrange(1, 900),
                "symbol": SYMBOL,
            }
        )
    return messages


def bare_lists(steps: list[Step]) -> list[float]:
    sides: dict[str, tuple[list[float], list[int]]] = {"bid": ([], []), "ask": ([], [])}

    def apply(operation: str, side: str, level: int, price: float, size: int) -> None:
        prices, sizes = sides[side]
        if operation == "update":
            prices[level] = price
            sizes[level] = size
        elif operation == "add":
            prices.insert(level, price)
            sizes.insert(level, size)
            del prices[LEVELS:], sizes[LEVELS:]
        else:
            del prices[level], sizes[level]

    for step in steps:
        apply(*step)
    return sides["bid"][0]


def our_book(steps: list[Step]) -> list[float]:
    book = Book(LEVELS)
    apply = book.apply
    for step in steps:
        apply(*step)
    assert not book.anomalies
    return [price for price in book.row()[0] if price]


def numpy_book(steps: list[Step]) -> list[float]:
    sides = {side: (np.zeros(LEVELS), np.zeros(LEVELS, np.int64)) for side in ("bid", "ask")}

    def apply(operation: str, side: str, level: int, price: float, size: int) -> None:
        prices, sizes = sides[side]
        if operation == "remove":
            prices[level:-1] = prices[level + 1 :]
            sizes[level:-1] = sizes[level + 1 :]
            prices[-1] = sizes[-1] = 0
            return
        if operation == "add":
            prices[level + 1 :] = prices[level:-1]
            sizes[level + 1 :] = sizes[level:-1]
        prices[level] = price
        sizes[level] = size

    for step in steps:
        apply(*step)
    return [price for price in sides["bid"][0].tolist() if price]


def rebuilt_book(steps: list[Step]) -> list[float]:
    """A book that is never changed: each message makes a new side out of the old one."""
    sides: dict[str, tuple[tuple[float, int], ...]] = {"bid": (), "ask": ()}
    for operation, side, level, price, size in steps:
        rows = sides[side]
        kept = rows[level:] if operation == "add" else rows[level + 1 :]
        new = () if operation == "remove" else ((price, size),)
        sides[side] = (rows[:level] + new + kept)[:LEVELS]
    return [price for price, _ in sides["bid"]]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    # A collection of what another variant left would be charged to this one.
    gc.collect()
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def write_file(path: Path, messages: list[Message]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for number, message in enumerate(messages):
            file.write(f"{',' if number else '['}\n{DepthMessage.model_construct(**message).to_json()}")
        file.write("\n]\n")
    return path


def report(count: int, file_mb: float, seconds: dict[str, float]) -> bool:
    """Print the table and the promises; whether all are kept."""
    print(f"\n{count:,} depth messages ({file_mb:,.0f} MB as a file), {LEVELS} levels, {os.cpu_count()} cores")
    print(f"{'':58}{'seconds':>9}{'ns each':>9}{'x bare':>8}")
    bare = seconds["bare lists, nothing checked"]
    for name, found in seconds.items():
        print(f"{name:58}{found:9.2f}{found / count * 1e9:9.0f}{found / bare:8.2f}")
    ours = seconds["Book.apply"]
    numpy_ratio = seconds["numpy arrays, shifted in place"] / ours
    models_ratio = seconds[MODELS] / seconds[f"replay, sampled every {INTERVAL_MS} ms, from the file"]
    promises = {
        f"Book.apply: {ours / bare:.2f} x the bare lists (promised: at most {APPLY_AT_MOST:g})": (
            ours / bare <= APPLY_AT_MOST
        ),
        f"Book.apply: {numpy_ratio:.1f} x as fast as numpy arrays (promised: at least {NUMPY_AT_LEAST:g})": (
            numpy_ratio >= NUMPY_AT_LEAST
        ),
        f"replay of the file: {models_ratio:.1f} x as fast as its models (promised: at least {MODELS_AT_LEAST:g})": (
            models_ratio >= MODELS_AT_LEAST
        ),
    }
    print()
    for words, kept in promises.items():
        print(f"{'PASS' if kept else 'FAIL'}  {words}")
    return all(promises.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=1_000_000, help="how many (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each variant (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a promise is not kept")
    options = parser.parse_args()
    print(f"making {options.messages:,} messages ...", flush=True)
    messages = make_messages(options.messages)
    keys = ("operation", "side", "level", "price", "size")
    steps: list[Step] = [tuple(message[key] for key in keys) for message in messages]
    with tempfile.TemporaryDirectory(prefix="bench-replay-") as folder:
        file = write_file(Path(folder) / "messages.json", messages)
        books: dict[str, Callable[[], list[float]]] = {
            "bare lists, nothing checked": lambda: bare_lists(steps),
            "Book.apply": lambda: our_book(steps),
            "numpy arrays, shifted in place": lambda: numpy_book(steps),
            "tuples, built anew for each message": lambda: rebuilt_book(steps),
        }
        replays: dict[str, Callable[[], int]] = {
            f"replay, sampled every {INTERVAL_MS} ms, from memory": lambda: replay(messages).num_rows,
            f"replay, sampled every {INTERVAL_MS} ms, from the file": lambda: replay(file).num_rows,
            "replay_batches, one row per message, from memory": lambda: sum(
                batch.num_rows for batch in replay_batches(messages, interval_ms=0)
            ),
            MODELS: lambda: len(DepthMessages.from_json(file.read_bytes()).root),
        }
        # Millions of old objects would be visited again and again at the cost of whichever variant makes new ones.
        gc.freeze()
        seconds: dict[str, list[float]] = {name: [] for name in (*books, *replays)}
        for number in range(options.runs):
            print(f"run {number + 1} of {options.runs} ...", flush=True)
            best = set()
            for name, work in books.items():
                took, prices = timed(work)
                seconds[name].append(took)
                best.add(tuple(prices))
            assert len(best) == 1, "the books differ"
            for name, count_rows in replays.items():
                took, rows = timed(count_rows)
                seconds[name].append(took)
                assert rows > 0
        kept = report(
            options.messages,
            file.stat().st_size / 1e6,
            {name: statistics.median(runs) for name, runs in seconds.items()},
        )
    return 0 if kept or not options.strict else 1


if __name__ == "__main__":
    sys.exit(main())

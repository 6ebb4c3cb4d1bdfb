"""The programs that `capture.py` measures, each in a process of its own: `python _capture_client.py NAME ARGUMENTS`.

A client of the gateway runs until its stdin ends, then prints one JSON line about what it has. The recorder prints one
before, four times a second, with the number of messages in its journals.
"""

# ruff: noqa: PLC0415 - a process imports what its own program needs and nothing else

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flows.capture_progress import CaptureStatus

SAMPLE_S = 0.05
SAMPLES_PER_LINE = 5
QUARTERS = 4
DAY_START = "2025-09-05T13:30:00+00:00"
"""09:30 in New York."""


def say(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)


def when_stdin_ends(act: Callable[[], None]) -> None:
    def wait() -> None:
        with suppress(OSError):
            while os.read(0, 1024):
                pass
        act()

    threading.Thread(target=wait, daemon=True).start()


# --- the library by itself -------------------------------------------------------------------------------------------


def bare(symbols: list[str], levels: int) -> None:
    """The client library with a plain depth request and nothing done with the ticks."""
    asyncio.run(library_alone(symbols, levels, keeps=False))


def old(symbols: list[str], levels: int) -> None:
    """The way before: the library's ticks of every update appended to a list."""
    asyncio.run(library_alone(symbols, levels, keeps=True))


async def library_alone(symbols: list[str], levels: int, *, keeps: bool) -> None:
    from ib_insync import IB, Stock

    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    ib = IB()
    await ib.connectAsync(os.environ["IB_HOST"], int(os.environ["IB_PORT"]), clientId=7, timeout=30, readonly=True)
    kept: list[Any] = []
    tickers = []
    for symbol in symbols:
        instrument = Stock(symbol, "SMART", "USD")
        await ib.qualifyContractsAsync(instrument)
        ticker = ib.reqMktDepth(instrument, numRows=levels, isSmartDepth=True)
        if keeps:
            ticker.updateEvent += lambda changed: kept.extend(changed.domTicks)
        tickers.append(ticker)
    when_stdin_ends(lambda: loop.call_soon_threadsafe(ended.set))
    await ended.wait()
    bids = {ticker.contract.symbol: [row.price for row in ticker.domBids] for ticker in tickers}
    say({"kept": len(kept), "bids": bids})
    ib.disconnect()


# --- the recorder ----------------------------------------------------------------------------------------------------


class Probe:
    """Watches a capture: samples of what waits and of the lag, and a line for the parent now and then."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, int, float]] = []
        self._ended = threading.Event()

    @contextmanager
    def watch(self, status: Callable[[], CaptureStatus]) -> Iterator[None]:
        watcher = threading.Thread(target=self._run, args=(status,))
        watcher.start()
        try:
            yield
        finally:
            self._ended.set()
            watcher.join()

    def _run(self, status: Callable[[], CaptureStatus]) -> None:
        while not self._ended.wait(SAMPLE_S):
            now = status()
            self.samples.append((time.time(), now.queue, now.lag_ms))
            if len(self.samples) % SAMPLES_PER_LINE == 0:
                say({"messages": now.messages})


def ours(symbols: list[str], levels: int, samples: Path) -> None:
    """A whole capture as the command runs it, without its terminal."""
    from flows.record_job import assemble
    from flows.record_run import Stop, record

    job = assemble(now_ns=time.time_ns(), symbols=symbols, minutes=60, levels=levels, interval_ms=100)
    stop, probe = Stop(), Probe()
    when_stdin_ends(lambda: stop.ask("measured"))
    result = record(job, stop=stop, watchers=[probe.watch])
    samples.write_text(json.dumps(probe.samples))
    spent = os.times()
    say({"closing_cpu_s": spent.children_user + spent.children_system, "result": result.to_document()})


# --- a day with a compressed clock -----------------------------------------------------------------------------------


def day(root: Path, hours: float, messages_per_s: float) -> None:
    """The recorder through its sink, as fast as it takes: 20 levels, a row every 50 ms."""
    from contracts.layout import DataRoot
    from contracts.timestamps import ns_from_text
    from flows.capture_recorder import Recorder
    from flows.capture_spec import SessionSpec

    symbol, levels = "AAPL", 20
    operations = day_operations(levels)
    start_ns = ns_from_text(DAY_START)
    end_ns = start_ns + round(hours * 3_600 * 1_000_000_000)
    clock = [start_ns]
    spec = SessionSpec("bench", (symbol,), levels, 50, start_ns, end_ns, paper_mode=True, producer="benchmark")
    pauses = random.Random(4)  # noqa: S311 - the same day every time
    step_ns = 1_000_000_000 / messages_per_s
    rss: list[float] = []
    lines: list[int] = []
    quarter_ns = (end_ns - start_ns) / QUARTERS
    began_s = time.perf_counter()
    with Recorder(DataRoot(root, "level2"), spec, now_ns=lambda: clock[0]) as recorder:
        recorder.seen(symbol, start_ns)
        ns, sent = start_ns, 0
        while ns < end_ns:
            while not recorder.has_room():
                time.sleep(0.001)
            for _ in range(512):
                one = operations[sent % len(operations)]
                clock[0] = ns
                assert recorder.message(symbol, ns, one[1], one[2], one[0], one[3], one[4], one[5])
                sent += 1
                ns += int(step_ns * (0.5 + pauses.random()))
                if ns >= end_ns:
                    break
            rss.append(rss_mb())
            lines.append(min(QUARTERS - 1, int((ns - start_ns) / quarter_ns)))
        clock[0] = end_ns
        fed_s = time.perf_counter() - began_s
        result = recorder.finish(end_ns, "window")
    found = result.symbols[symbol]
    spent = os.times()
    say(
        {
            "sent": sent,
            "messages": found.messages,
            "rows": found.snapshots,
            "segments": found.segments,
            "anomalies": dict(found.anomalies),
            "problems": list(result.problems),
            "feed_s": fed_s,
            "whole_s": time.perf_counter() - began_s,
            "cpu_s": spent.user + spent.system,
            "closing_cpu_s": spent.children_user + spent.children_system,
            "rss_mb": [max(mb for mb, at in zip(rss, lines, strict=True) if at == part) for part in range(QUARTERS)],
        }
    )


def day_operations(levels: int) -> list[Any]:
    """Operations that begin and end with an empty book, so that they can be repeated."""
    from connectors.sandbox._ib_market import SMART_VENUES, Market, cycle

    market = Market("bench", SMART_VENUES, levels)
    opening = market.shown()
    return [*opening.inserts(), *cycle(market, 50_000), *opening.removes()]


def validate(root: Path) -> None:
    """Everything below a data root against the contract."""
    from contracts.validate import validate_path

    began_s = time.perf_counter()
    report = validate_path(root)
    say(
        {
            "seconds": time.perf_counter() - began_s,
            "findings": [str(finding) for finding in report.findings],
            "peak_mb": memory_mb("VmHWM"),
        }
    )


def memory_mb(field: str, pid: int | str = "self") -> float:
    """VmRSS or VmHWM (the peak) of a process."""
    return int(Path(f"/proc/{pid}/status").read_text().split(f"{field}:")[1].split()[0]) * 1024 / 1e6


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    name, *arguments = sys.argv[1:]
    if name in ("bare", "old", "ours"):
        symbols, levels = arguments[0].split(","), int(arguments[1])
        if name == "ours":
            ours(symbols, levels, Path(arguments[2]))
        else:
            (bare if name == "bare" else old)(symbols, levels)
    elif name == "day":
        day(Path(arguments[0]), float(arguments[1]), float(arguments[2]))
    else:
        validate(Path(arguments[0]))


if __name__ == "__main__":
    main()

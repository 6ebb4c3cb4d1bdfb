"""A download as a whole: a job in, files, ledger, coverage and one result out; against the sandbox gateway.

The gateway enforces the broker's pacing rules on a fast clock, and the pacer runs on the same one: no test may end with
a violation.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import json
import logging
import os
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from connectors.ibkr.bar_requests import day_window, requests_for
from connectors.sandbox.ib_gateway import IbGateway
from connectors.store.bars import load_notes, publish_day, read_day
from contracts.layout import DataRoot
from contracts.timestamps import ns_from_iso_utc
from contracts.v1.bars import BarsMetadata, parse_bars_manifest_line
from contracts.validate import validate_path
from flows import bars_watch
from flows.bars_job import assemble
from flows.bars_result import BarsResult
from flows.bars_run import download, preview_job
from flows.errors import ConfigurationError
from flows.limits import SystemClock, bars_pacer
from flows.stopping import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from connectors.sandbox.ib_gateway import BarsRequest
    from flows.bars_result import PieceOutcome

SPEED = 40.0
S = 10**9
LATE = "2025-10-01T21:00:00-04:00"
FRIDAY = dt.date(2025, 9, 5)
MONDAY = dt.date(2025, 9, 8)
HALF_DAY = dt.date(2025, 7, 3)


class FastClock(SystemClock):
    """The machine's clock, so many times faster."""

    def __init__(self, speed: float) -> None:
        self._speed = speed

    def monotonic_ns(self) -> int:
        return round(time.monotonic_ns() * self._speed)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / self._speed)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._speed)


def moment_ns(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp()) * S


class Bars:
    """A gateway, a data root, and the time of day that both believe in."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, gateway: IbGateway, *, now: str, pacing_speed: float, **_: object
    ) -> None:
        self.folder = folder
        self.speed = pacing_speed
        self.root = DataRoot(folder / "data")
        self.gateway = gateway
        self._patch = patch
        self._now_ns, self._at_ns = moment_ns(now), time.monotonic_ns()
        self.set(
            DATA_PATH_OVERRIDE=folder / "data",
            CACHE_PATH=folder / "cache",
            L2_MIN_FREE_GB=0,
            IB_HOST=gateway.host,
            IB_PORT=gateway.port,
            CONNECTION_TIMEOUT=5,
            BARS_TIMEOUT_S=20,
            RETRY_ATTEMPTS=1,
        )

    def set(self, **values: object) -> None:
        for name, value in values.items():
            self._patch.setenv(name, str(value))

    def set_now(self, text: str) -> None:
        self.gateway.set_now(text)
        self._now_ns, self._at_ns = moment_ns(text), time.monotonic_ns()

    def now_ns(self) -> int:
        return self._now_ns + time.monotonic_ns() - self._at_ns

    # --- running ---------------------------------------------------------------------------------------------------

    def job(self, *symbols: str, start: dt.date | None = FRIDAY, end: dt.date | None = None, **parameters: Any) -> Any:
        end = end or start
        return assemble(now_ns=self.now_ns(), symbols=symbols or ["AAPL"], start=start, end=end, **parameters)

    def pacer(self) -> Any:
        address = f"{self.gateway.host}:{self.gateway.port}"
        return bars_pacer(self.folder / "cache", address, clock=FastClock(self.speed))

    def download(self, *symbols: str, stop: Stop | None = None, progress: Any = None, **parameters: Any) -> BarsResult:
        return self.run(self.job(*symbols, **parameters), stop=stop, progress=progress)

    def run(self, job: Any, *, stop: Stop | None = None, progress: Any = None) -> BarsResult:
        return download(job, stop=stop, progress=progress, pacer=self.pacer(), now_ns=self.now_ns)

    # --- looking ---------------------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[BarsRequest]:
        return [each for each in self.gateway.bars_requests if each.kind == "bars"]

    def path(self, day: dt.date, symbol: str = "AAPL", size: Any = "1 min") -> Path:
        return self.root.bars_path(size, symbol, day)

    def footer(self, day: dt.date, symbol: str = "AAPL", size: Any = "1 min") -> BarsMetadata:
        return BarsMetadata.from_footer(pq.read_schema(self.path(day, symbol, size)).metadata)

    @property
    def lines(self) -> list[Any]:
        """The ledger; each line must be whole."""
        data = self.root.bars_manifest.read_bytes()
        assert data.endswith(b"\n")
        return [parse_bars_manifest_line(line) for line in data.splitlines()]

    def rows(self, day: dt.date, symbol: str = "AAPL", size: Any = "1 min") -> list[tuple[Any, ...]]:
        table = pq.read_table(self.path(day, symbol, size), partitioning=None)
        columns = [table[name].to_pylist() for name in table.column_names[1:]]
        return list(zip(ns_from_iso_utc(table["timestamp"]).tolist(), *columns, strict=True))

    def truth(
        self,
        day: dt.date,
        symbol: str = "AAPL",
        size: Any = "1 min",
        *,
        use_rth: bool = True,
        what: str = "TRADES",
        until: str | None = None,
    ) -> list[tuple[Any, ...]]:
        window = day_window(day, use_rth=use_rth)
        end_ns = window.end_ns if until is None else moment_ns(until)
        found = self.gateway.bars_truth(symbol, size, window.start_ns, end_ns, use_rth, what)
        return [
            (
                row.start_ns,
                *(row.open, row.high, row.low, row.close),
                *(float(max(row.volume, 0)), max(row.trades, 0), row.wap if row.wap > 0 else None),
            )
            for row in found
        ]

    def coverage(self) -> dict[tuple[str, str], dict[str, int]]:
        """Rows by symbol, size and day, as the coverage file has them."""
        document = json.loads(self.root.bars_coverage.read_text())
        return {
            (entry["symbol"], entry["bar_size"]): {day["date"]: day["rows"] for day in entry["days"]}
            for entry in document["entries"]
        }

    def check(self) -> None:
        """Nothing was asked too often, and all that was written keeps to the contract and to itself."""
        assert self.gateway.violations == []
        assert [str(finding) for finding in validate_path(self.root.path).findings] == []
        assert [path for path in self.folder.rglob("*.tmp") if path.exists()] == []
        assert list(self.root.path.glob(".bars/*/*.intent")) == []
        last = {line.path: line for line in self.lines}
        derived: dict[tuple[str, str], dict[str, int]] = {}
        for line in last.values():
            derived.setdefault((line.symbol, line.bar_size), {})[str(line.time_start.date())] = line.rows
        assert self.coverage() == derived
        for path, line in last.items():
            assert pq.read_metadata(path).num_rows == line.rows

    def shelved(self) -> list[Path]:
        """Answers that wait for the rest of their day."""
        return [path for path in (self.folder / "cache" / "bars").rglob("*") if path.is_file()]


@pytest.fixture
def bars(
    request: pytest.FixtureRequest,
    clean_environment: None,
    restored_logging: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bars]:
    options = {"now": LATE, "pacing_speed": SPEED, "pacing_slack_s": 0.02, **getattr(request, "param", {})}
    with IbGateway(**options) as gateway:
        yield Bars(tmp_path, monkeypatch, gateway, **options)


def with_gateway(**options: Any) -> Any:
    return pytest.mark.parametrize("bars", [options], indirect=True, ids=["gateway"])


def counts(result: BarsResult) -> tuple[int, int, int, int]:
    return tuple(result.counts[status] for status in ("WRITE", "SKIP", "EMPTY", "ERROR"))


# --- files -----------------------------------------------------------------------------------------------------------


def test_all_sizes_of_a_day_a_half_day_and_an_illiquid_stock_are_what_the_market_was(bars):
    days = (dt.date(2025, 7, 2), HALF_DAY)
    result = bars.download("AAPL", "thinly", start=days[0], end=dt.date(2025, 7, 4))

    assert counts(result) == (12, 0, 0, 0)
    for symbol in ("AAPL", "THINLY"):
        for size in ("1 hour", "1 min", "1 sec"):
            for day in days:
                assert bars.rows(day, symbol, size) == bars.truth(day, symbol, size), (symbol, size, day)
                assert bars.footer(day, symbol, size).complete
    assert len(bars.rows(HALF_DAY)) == 210
    assert result.rows == sum(line.rows for line in bars.lines)
    # Two days of one week: a request for minutes and one for hours each; half hours of seconds: 13 and 7.
    assert result.requests == len(bars.requests) == 2 * (1 + 1 + 13 + 7)
    assert (result.files, result.remaining, result.stopped, result.problem) == (12, 0, None, None)
    assert result.summary_line.startswith("SUMMARY WRITE=12 SKIP=0 EMPTY=0 ERROR=0 total=12 concurrency=4 duration=")
    assert BarsResult.from_document(json.loads(json.dumps(result.to_document()))) == result
    assert result.coverage["entry_count"] == 6
    assert bars.shelved() == []
    bars.check()


def test_a_second_run_connects_to_nothing(bars):
    bars.download(bar_sizes=["1 min", "1 hour"], start=FRIDAY, end=MONDAY)
    before = bars.root.bars_manifest.read_bytes(), bars.root.bars_coverage.read_bytes()
    bars.gateway.stop()

    result = bars.download(bar_sizes=["1 min", "1 hour"], start=FRIDAY, end=MONDAY)

    assert counts(result) == (0, 4, 0, 0)
    assert (result.requests, result.problem) == (0, None)
    assert (bars.root.bars_manifest.read_bytes(), bars.root.bars_coverage.read_bytes()) == before


def test_extended_hours_and_other_kinds_have_their_own_root_or_are_refused(bars):
    result = bars.download(bar_sizes=["1 hour", "1 min"], extended_hours=True)
    assert counts(result) == (2, 0, 0, 0)
    for size in ("1 hour", "1 min"):
        assert bars.rows(FRIDAY, size=size) == bars.truth(FRIDAY, size=size, use_rth=False)
    assert len(bars.rows(FRIDAY, size="1 hour")) == 16

    # The extended file of minutes holds the regular ones; hours are cut otherwise, quotes are another thing.
    assert counts(bars.download(bar_sizes=["1 min"])) == (0, 1, 0, 0)
    refused = bars.download(bar_sizes=["1 min"], what_to_show="MIDPOINT")
    assert counts(refused) == (0, 0, 0, 1)
    assert "AAPL 1 min 2025-09-05" in refused.errors[0]
    assert "TRADES/extended" in refused.errors[0]
    forced = bars.download(bar_sizes=["1 min"], what_to_show="midpoint", force=True)
    assert counts(forced) == (1, 0, 0, 0)
    assert bars.rows(FRIDAY) == bars.truth(FRIDAY, what="MIDPOINT")
    assert bars.footer(FRIDAY).what_to_show == "MIDPOINT"
    bars.check()


@with_gateway(now="2025-09-05T11:07:13-04:00")
def test_today_is_partial_and_is_completed_into_the_same_file(bars):
    sizes = ["1 hour", "1 min", "1 sec"]
    result = bars.download(bar_sizes=sizes)
    assert counts(result) == (3, 0, 0, 0)
    assert not any(bars.footer(FRIDAY, size=size).complete for size in sizes)
    assert bars.rows(FRIDAY) == bars.truth(FRIDAY, until="2025-09-05T11:07:00-04:00")
    assert bars.rows(FRIDAY, size="1 hour") == bars.truth(FRIDAY, size="1 hour", until="2025-09-05T11:00:00-04:00")
    seconds = bars.rows(FRIDAY, size="1 sec")
    assert seconds == bars.truth(FRIDAY, size="1 sec")[: len(seconds)]
    assert seconds[-1][0] >= moment_ns("2025-09-05T11:07:00-04:00")
    bars.check()

    # Nothing new in the same minute but seconds; nothing is written that says the same.
    asked, lines = len(bars.requests), len(bars.lines)
    bars.set_now("2025-09-05T11:07:20-04:00")
    assert counts(bars.download(bar_sizes=["1 min"]))[1:] == (1, 0, 0)
    assert len(bars.lines) == lines
    assert len(bars.requests) <= asked + 1

    # The last bar can still change until a while after the close.
    bars.set_now("2025-09-05T16:01:00-04:00")
    bars.download(bar_sizes=sizes)
    assert not any(bars.footer(FRIDAY, size=size).complete for size in sizes)
    bars.set_now("2025-09-05T16:30:00-04:00")
    assert bars.download(bar_sizes=sizes).counts["ERROR"] == 0
    for size in sizes:
        assert bars.rows(FRIDAY, size=size) == bars.truth(FRIDAY, size=size)
        assert bars.footer(FRIDAY, size=size).complete
    assert len({line.path for line in bars.lines}) == 3
    assert counts(bars.download(bar_sizes=sizes)) == (0, 3, 0, 0)
    bars.check()


def test_days_that_the_broker_has_nothing_of_are_empty_and_not_asked_again(bars):
    bars.gateway.add_fault("listed:symbol=NEWCO,day=2025-09-08")
    first = bars.download("NEWCO", bar_sizes=["1 min", "1 hour"], start=dt.date(2025, 9, 3), end=MONDAY)
    assert counts(first) == (2, 0, 6, 0)
    assert not bars.path(FRIDAY, "NEWCO").exists()
    assert set(load_notes(bars.root, "1 min", "NEWCO").empty) == {dt.date(2025, 9, 3), dt.date(2025, 9, 4), FRIDAY}
    asked = len(bars.requests)

    again = bars.download("NEWCO", bar_sizes=["1 min", "1 hour"], start=dt.date(2025, 9, 3), end=MONDAY)
    assert counts(again) == (0, 2, 6, 0)
    assert len(bars.requests) == asked
    bars.check()


def test_seconds_older_than_the_broker_keeps_are_never_asked_for(bars):
    result = bars.download(bar_sizes=["1 sec"], start=dt.date(2025, 3, 3), end=dt.date(2025, 3, 4))
    assert (counts(result), result.out_of_reach, result.requests) == ((0, 0, 0, 0), 2, 0)
    assert bars.requests == []


@with_gateway(now="2025-09-06T23:59:50-04:00", pacing_speed=1000.0, bars_delay_s=0.05)
def test_a_day_that_passes_out_of_reach_while_the_run_goes_on_is_an_error(bars):
    edge = dt.date(2025, 3, 10)
    bars.set(MAX_WORKERS=1)

    def pass_midnight() -> None:
        until(lambda: len(bars.requests) >= 5)
        bars.set_now("2025-09-07T01:10:00-04:00")

    thread = threading.Thread(target=pass_midnight)
    thread.start()
    result = bars.download(bar_sizes=["1 sec"], start=edge)
    thread.join()
    assert counts(result) == (0, 0, 0, 1)
    assert result.errors == ("AAPL 1 sec 2025-03-10: passed out of the broker's reach while the run went on",)
    assert len(bars.requests) < 8
    assert not bars.path(edge, size="1 sec").exists()
    assert load_notes(bars.root, "1 sec", "AAPL").empty == {}
    assert bars.download(bar_sizes=["1 sec"], start=edge).out_of_reach == 1


@with_gateway(now="2025-09-06T12:00:00-04:00", pacing_speed=1000.0)
def test_no_bars_are_no_proof_at_the_edge_of_what_the_broker_keeps(bars):
    near, edge = dt.date(2025, 3, 20), dt.date(2025, 3, 19)
    bars.gateway.add_fault("bars-none:symbol=AAPL")
    result = bars.download(bar_sizes=["1 sec"], start=edge, end=near)
    assert counts(result) == (0, 0, 1, 1)
    (error,) = result.errors
    assert error.startswith("AAPL 1 sec 2025-03-19: the broker has no bars of it, but it lies at the edge")
    assert set(load_notes(bars.root, "1 sec", "AAPL").empty) == {near}
    assert bars.shelved() == []

    # A morning that is missing there may have been forgotten, too: it is asked for again, not the end alone.
    bars.gateway.clear_faults()
    bars.gateway.add_fault("bars-none:symbol=AAPL,after=5")
    assert counts(bars.download(bar_sizes=["1 sec"], start=edge)) == (1, 0, 0, 0)
    assert bars.footer(edge, size="1 sec").complete is False
    assert 0 < len(bars.rows(edge, size="1 sec")) < 10_000
    bars.gateway.clear_faults()
    assert counts(bars.download(bar_sizes=["1 sec"], start=edge)) == (1, 0, 0, 0)
    assert bars.footer(edge, size="1 sec").complete is True
    assert bars.rows(edge, size="1 sec") == bars.truth(edge, size="1 sec")
    assert counts(bars.download(bar_sizes=["1 sec"], start=edge)) == (0, 1, 0, 0)
    bars.check()


@with_gateway(now="2025-09-05T16:01:00-04:00", pacing_speed=1000.0, bars_delay_s=0.05)
def test_a_day_whose_end_was_asked_for_too_early_is_asked_once_more_whenever_it_was_published(bars):
    bars.set(MAX_WORKERS=1)

    def wait_for_the_budget() -> None:
        until(lambda: len(bars.requests) >= 3)
        bars.set_now("2025-09-05T16:25:00-04:00")

    thread = threading.Thread(target=wait_for_the_budget)
    thread.start()
    assert counts(bars.download(bar_sizes=["1 sec"])) == (1, 0, 0, 0)
    thread.join()
    assert bars.footer(FRIDAY, size="1 sec").complete is False
    bars.set_now("2025-09-08T18:00:00-04:00")
    result = bars.download(bar_sizes=["1 sec"])
    assert (counts(result), result.requests) == ((1, 0, 0, 0), 1)
    assert bars.footer(FRIDAY, size="1 sec").complete is True
    bars.check()


def test_without_the_notes_a_file_of_another_kind_is_not_taken_for_what_is_asked_for(bars):
    bars.download(bar_sizes=["1 min"], start=FRIDAY, end=MONDAY, what_to_show="MIDPOINT")
    shutil.rmtree(bars.root.path / ".bars")
    before = sorted(bars.root.path.rglob("*"))
    job = bars.job(bar_sizes=["1 min"], start=FRIDAY, end=MONDAY)
    assert preview_job(job, pacer=bars.pacer(), now_ns=bars.now_ns)["other_kind"] == 2
    assert sorted(bars.root.path.rglob("*")) == before
    assert counts(bars.run(job)) == (0, 0, 0, 2)
    # What the run saw is noted: the next one does not open the files, and so does not see that they are torn.
    notes = load_notes(bars.root, "1 min", "AAPL")
    assert (notes.kinds, set(notes.whole)) == ({"MIDPOINT/regular"}, {FRIDAY, MONDAY})
    bars.path(MONDAY).write_bytes(b"torn")
    assert counts(bars.run(job)) == (0, 0, 0, 2)


def test_an_illiquid_stock_is_known_to_be_complete_without_a_look_at_its_files(bars):
    bars.download("THINX", bar_sizes=["1 min", "1 sec"], start=FRIDAY, end=MONDAY)
    for size in ("1 min", "1 sec"):
        assert set(load_notes(bars.root, size, "THINX").whole) == {FRIDAY, MONDAY}
        bars.path(FRIDAY, "THINX", size).write_bytes(b"torn")
    result = bars.download("THINX", bar_sizes=["1 min", "1 sec"], start=FRIDAY, end=MONDAY)
    assert (counts(result), result.requests) == ((0, 4, 0, 0), 0)


def test_force_downloads_again_and_the_same_bytes_come(bars):
    bars.download(bar_sizes=["1 min"])
    before = bars.path(FRIDAY).read_bytes()
    result = bars.download(bar_sizes=["1 min"], force=True)
    assert counts(result) == (1, 0, 0, 0)
    assert bars.path(FRIDAY).read_bytes() == before
    assert len(bars.lines) == 2
    bars.check()


def test_oldest_first_is_another_order_of_the_same(bars):
    bars.download(bar_sizes=["1 min"], start=dt.date(2025, 8, 18), end=FRIDAY, oldest_first=True)
    ends = [request.end for request in bars.requests]
    # Four are asked at a time.
    assert ends[0] < ends[-1]
    newest = [str(window.days[-1]) for window in requests_for("AAPL", "1 min", [day_window(FRIDAY, use_rth=True)])]
    assert newest == ["2025-09-05"]
    bars.check()


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_an_impossible_bar_costs_its_own_day_alone(bars):
    first, bad = dt.date(2025, 9, 2), dt.date(2025, 9, 4)
    bars.gateway.add_fault("bars-bad:symbol=AAPL,day=2025-09-04")

    result = bars.download("AAPL", bar_sizes=["1 min"], start=first, end=bad)

    assert counts(result) == (2, 0, 0, 1)
    assert result.errors[0].startswith("AAPL 1 min 2025-09-04: ")
    assert bars.rows(first) == bars.truth(first)
    assert not bars.path(bad).exists()
    bars.check()


def test_coverage_follows_the_files_while_a_run_goes_on(bars, monkeypatch):
    monkeypatch.setattr(bars_watch, "COVERAGE_EVERY_S", 0.05)
    bars.gateway.add_fault("bars-slow:symbol=LATE,delay_s=2")
    is_over, seen = threading.Event(), threading.Event()

    def read() -> None:
        while not is_over.wait(0.01):
            if bars.root.bars_coverage.exists() and bars.coverage().keys() == {("AAPL", "1 min")}:
                seen.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        bars.download("AAPL", "LATE", bar_sizes=["1 min"], start=FRIDAY, end=FRIDAY)
    finally:
        is_over.set()
        reader.join()
    assert seen.is_set()
    assert bars.coverage().keys() == {("AAPL", "1 min"), ("LATE", "1 min")}


def test_one_symbol_s_trouble_is_told_apart_and_the_rest_is_written(bars):
    bars.set(BARS_TIMEOUT_S=0.5)
    bars.gateway.add_fault("bars-permission:symbol=SHUT")
    bars.gateway.add_fault("bars-no-answer:symbol=MUTE")
    bars.gateway.add_fault("bars-error:symbol=ODD,code=321,text=Error validating request")
    bars.gateway.add_fault("bars-bad:symbol=BADLY")
    bars.gateway.add_fault("bars-pacing:symbol=SLOW,times=2")
    bars.gateway.add_fault("bars-duplicates:symbol=TWICE")
    bars.gateway.add_fault("bars-unordered:symbol=TWICE")
    bars.gateway.add_fault("bars-outside:symbol=TWICE")
    symbols = ["AAPL", "GONE", "SHUT", "MUTE", "ODD", "BADLY", "SLOW", "TWICE"]

    result = bars.download(*symbols, bar_sizes=["1 min"], start=dt.date(2025, 8, 25), end=FRIDAY)

    assert counts(result) == (27, 0, 0, 45)
    errors = {text.split()[0]: text for text in result.errors}
    assert errors.keys() == {"GONE", "SHUT", "MUTE", "ODD", "BADLY"}
    assert "2025-08-25 to 2025-09-05 (9 days)" in errors["GONE"]
    for symbol, words in {
        "GONE": "no such instrument",
        "SHUT": "permission",
        "MUTE": "no answer",
        "ODD": "321",
        "BADLY": "low",
    }.items():
        assert words in errors[symbol], symbol
    for symbol in ("AAPL", "SLOW", "TWICE"):
        for day in (dt.date(2025, 8, 25), FRIDAY):
            assert bars.rows(day, symbol) == bars.truth(day, symbol)
    # An unknown or forbidden symbol has two weeks, and is asked for hardly more than once.
    assert sum(request.symbol == "GONE" for request in bars.requests) <= 2
    notes = load_notes(bars.root, "1 min", "SHUT")
    assert len(notes.errors) == 9
    assert "permission" in notes.errors[FRIDAY].text
    assert (result.stopped, result.problem, result.remaining) == (None, None, 0)
    assert "ERROR" in dataclasses.replace(result, strict=True).problem
    bars.check()

    bars.gateway.clear_faults()
    mended = bars.download(*symbols, bar_sizes=["1 min"], start=dt.date(2025, 8, 25), end=FRIDAY)
    assert counts(mended) == (36, 27, 0, 9)
    assert load_notes(bars.root, "1 min", "SHUT").errors == {}
    bars.check()


def test_an_unknown_symbol_is_asked_for_in_one_size_and_given_up_in_all(bars):
    result = bars.download("GONE", "AAPL", start=FRIDAY)
    assert counts(result) == (3, 0, 0, 3)
    assert sum(request.symbol == "GONE" for request in bars.requests) <= 8
    assert {text.partition(":")[0] for text in result.errors} == {
        f"GONE {size} 2025-09-05" for size in ("1 hour", "1 min", "1 sec")
    }
    bars.check()


def test_a_half_hour_that_fails_makes_its_day_an_error_and_the_next_run_asks_for_that_alone(bars):
    bars.set(RETRY_ATTEMPTS=0)
    bars.gateway.add_fault("bars-error:size=1 secs,code=162,text=odd,after=12,times=1")
    result = bars.download(bar_sizes=["1 sec"])
    assert counts(result) == (0, 0, 0, 1)
    assert "odd" in result.errors[0]
    assert len(bars.requests) == 13
    assert len(bars.shelved()) == 12

    mended = bars.download(bar_sizes=["1 sec"])
    assert counts(mended) == (1, 0, 0, 0)
    assert (mended.requests, mended.answers_kept) == (1, 12)
    assert bars.rows(FRIDAY, size="1 sec") == bars.truth(FRIDAY, size="1 sec")
    assert bars.shelved() == []
    bars.check()


def test_a_gateway_that_goes_away_in_the_middle_and_comes_back_is_waited_for(bars):
    bars.gateway.add_fault("bars-drop:after=2,times=1")
    result = bars.download("AAPL", "MSFT", bar_sizes=["1 min"], start=dt.date(2025, 8, 25), end=FRIDAY)
    assert counts(result) == (18, 0, 0, 0)
    for symbol in ("AAPL", "MSFT"):
        assert bars.rows(FRIDAY, symbol) == bars.truth(FRIDAY, symbol)
    bars.check()


def test_a_gateway_that_is_not_there_fails_the_run_and_what_remains_is_told(bars):
    bars.set(CONNECTION_TIMEOUT=0.2)
    bars.gateway.stop()
    result = bars.download("AAPL", "MSFT", bar_sizes=["1 min", "1 sec"])
    assert counts(result) == (0, 0, 0, 0)
    assert result.remaining == 4
    assert {group["symbol"] for group in result.remaining_groups} == {"AAPL", "MSFT"}
    assert result.remaining_groups[0]["first"] == "2025-09-05"
    assert "no connection" in result.problem
    assert result.stopped in result.problem
    assert not bars.root.bars_manifest.exists()


def test_a_gateway_that_answers_nothing_ends_the_run_before_everything_was_tried(bars):
    bars.set(BARS_TIMEOUT_S=0.2, RETRY_ATTEMPTS=0)
    bars.gateway.add_fault("bars-no-answer")
    result = bars.download(bar_sizes=["1 min"], start=dt.date(2025, 1, 6), end=FRIDAY)
    assert "in a row" in result.problem
    assert result.counts["ERROR"] > 0
    assert result.remaining > 50
    assert len(bars.requests) < 20


def test_a_wish_to_stop_publishes_what_is_complete_and_the_next_run_brings_the_rest(bars):
    stop = Stop()

    class AtThird:
        def begin(self, *_: object) -> None: ...

        def done(self, outcome: PieceOutcome | None, finished: int, total: int) -> None:
            if finished == 3:
                stop.ask("sigterm")

    weeks = {"start": dt.date(2025, 6, 2), "end": FRIDAY, "bar_sizes": ["1 min"]}
    result = bars.download(stop=stop, progress=AtThird(), **weeks)

    assert result.stopped == "sigterm"
    assert result.problem is None
    assert 3 <= result.files < 67
    assert result.files + result.remaining == 67
    bars.check()
    rest = bars.download(**weeks)
    assert counts(rest) == (67 - result.files, result.files, 0, 0)
    bars.check()


def test_a_stop_in_the_middle_of_a_day_of_seconds_repeats_no_half_hour(bars):
    stop = Stop()
    bars.gateway.add_fault("bars-no-answer:after=6")

    def stop_when_stuck() -> None:
        until(lambda: len(bars.requests) == 10 and bars.gateway.bars_open == 4)
        stop.ask("sigint")

    thread = threading.Thread(target=stop_when_stuck)
    thread.start()
    result = bars.download(stop=stop, bar_sizes=["1 sec"])
    thread.join()
    assert (result.stopped, result.remaining, counts(result)) == ("sigint", 1, (0, 0, 0, 0))

    bars.gateway.clear_faults()
    asked = len(bars.requests)
    result = bars.download(bar_sizes=["1 sec"])
    assert counts(result) == (1, 0, 0, 0)
    assert (result.requests, result.answers_kept, len(bars.requests) - asked) == (7, 6, 7)
    assert bars.rows(FRIDAY, size="1 sec") == bars.truth(FRIDAY, size="1 sec")
    bars.check()


@pytest.mark.parametrize(("was_forced", "kept"), [(False, 0), (True, 6)])
@with_gateway(now=LATE, pacing_speed=1000.0)
def test_who_forces_is_not_served_what_was_not_forced(bars, was_forced, kept):
    stop = Stop()
    bars.gateway.add_fault("bars-no-answer:after=6")

    def stop_when_stuck() -> None:
        until(lambda: len(bars.requests) == 10 and bars.gateway.bars_open == 4)
        stop.ask("sigint")

    thread = threading.Thread(target=stop_when_stuck)
    thread.start()
    bars.download(stop=stop, bar_sizes=["1 sec"], force=was_forced)
    thread.join()
    bars.gateway.clear_faults()
    result = bars.download(bar_sizes=["1 sec"], force=True)
    assert (counts(result), result.answers_kept) == ((1, 0, 0, 0), kept)
    bars.check()


def test_a_disk_without_room_is_refused_before_anything_is_asked(bars):
    bars.set(L2_MIN_FREE_GB="1e9")
    with pytest.raises(ConfigurationError, match="L2_MIN_FREE_GB"):
        bars.download(bar_sizes=["1 min"])
    assert bars.requests == []
    assert not bars.root.path.exists()


def test_a_disk_that_fills_up_pauses_the_run_and_what_remains_is_told(bars):
    filler = bars.folder / "filler"
    free = shutil.disk_usage(bars.folder).free
    bars.set(L2_MIN_FREE_GB=(free - 500_000_000) / 1e9)

    class Fill:
        def begin(self, *_: object) -> None: ...

        def done(self, outcome: PieceOutcome | None, finished: int, total: int) -> None:
            if not filler.exists():
                with filler.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, 1_000_000_000)

    weeks = {"start": dt.date(2025, 6, 2), "end": FRIDAY, "bar_sizes": ["1 min"]}
    result = bars.download(progress=Fill(), **weeks)
    filler.unlink()

    assert "L2_MIN_FREE_GB" in result.stopped
    assert (result.problem, result.counts["ERROR"]) == (None, 0)
    assert result.files + result.remaining == 67
    assert result.remaining > 0
    bars.check()
    bars.set(L2_MIN_FREE_GB=0)
    assert counts(bars.download(**weeks)) == (result.remaining, result.files, 0, 0)


def test_a_ledger_that_cannot_be_written_ends_the_run_and_the_next_one_loses_nothing(bars):
    bars.root.bars_manifest.mkdir(parents=True)
    result = bars.download(bar_sizes=["1 min"], start=dt.date(2025, 6, 2), end=FRIDAY)
    assert str(bars.root.bars_manifest) in result.problem
    assert (result.remaining, counts(result)) == (67, (0, 0, 0, 0))
    assert len(bars.requests) < 10
    bars.root.bars_manifest.rmdir()
    assert sum(counts(bars.download(bar_sizes=["1 min"], start=dt.date(2025, 6, 2), end=FRIDAY))[:2]) == 67
    bars.check()


def test_a_day_that_the_sandbox_invented_is_not_completed_by_a_broker_nor_the_other_way_round(bars):
    bars.download(bar_sizes=["1 min"])
    table = read_day(bars.path(FRIDAY)).slice(0, 100)
    theirs = bars.footer(FRIDAY).model_copy(update={"producer": "trading-data 0.1.0", "complete": False})
    publish_day(bars.root, theirs, table)

    result = bars.download(bar_sizes=["1 min"])
    assert counts(result) == (0, 0, 0, 1)
    assert "sandbox" in result.errors[0]
    assert len(bars.rows(FRIDAY)) == 100
    assert bars.download(bar_sizes=["1 min"], force=True).files == 1
    assert bars.rows(FRIDAY) == bars.truth(FRIDAY)
    bars.check()


def test_a_file_between_its_writer_and_its_line_gets_its_line(bars):
    bars.download(bar_sizes=["1 min"])
    ledger = bars.root.bars_manifest
    # The coverage of a ledger that has lost a line is another one.
    ledger.write_bytes(b"")
    bars.gateway.stop()

    result = bars.download(bar_sizes=["1 min"])

    assert counts(result) == (0, 1, 0, 0)
    (line,) = bars.lines
    assert line.path == str(bars.path(FRIDAY))
    assert bars.coverage() == {("AAPL", "1 min"): {"2025-09-05": 390}}


def test_a_file_that_has_gone_is_downloaded_again(bars):
    bars.download(bar_sizes=["1 min"], start=FRIDAY, end=MONDAY)
    bars.path(FRIDAY).unlink()
    result = bars.download(bar_sizes=["1 min"], start=FRIDAY, end=MONDAY)
    assert counts(result) == (1, 1, 0, 0)
    assert bars.rows(FRIDAY) == bars.truth(FRIDAY)
    bars.check()


def test_invented_bars_say_so_and_are_told(bars, caplog):
    with caplog.at_level(logging.INFO):
        bars.download(bar_sizes=["1 hour"])
    assert bars.footer(FRIDAY, size="1 hour").producer.endswith("(sandbox)")
    assert "sandbox" in caplog.text
    assert "DUSANDBOX" not in caplog.text


def test_ledger_and_coverage_are_mirrored(bars, tmp_path):
    bars.set(ML_BACKUP_PATH=tmp_path / "backup")
    bars.download(bar_sizes=["1 hour"])
    for path in (bars.root.bars_manifest, bars.root.bars_coverage):
        assert (tmp_path / "backup" / path.name).read_bytes() == path.read_bytes()


# --- pacing ----------------------------------------------------------------------------------------------------------


@with_gateway(pacing_speed=80.0, pacing_slack_s=0.04)
def test_the_budget_of_small_bars_is_used_and_never_passed_and_large_bars_do_not_wait(bars):
    # 5 days of seconds are 65 requests: five more than ten minutes allow.
    finished: dict[str, float] = {}

    class Watch:
        def begin(self, pieces: int, requests: int, pacing_s: float) -> None:
            self.pieces, self.requests, self.pacing_s = pieces, requests, pacing_s

        def done(self, outcome: PieceOutcome | None, finished_count: int, total: int) -> None:
            finished[outcome.bar_size] = time.monotonic()

    watch = Watch()
    start = dt.date(2025, 8, 29)
    result = bars.download(progress=watch, start=start, end=FRIDAY)

    assert counts(result) == (15, 0, 0, 0)
    small = [request.arrived_ns for request in bars.requests if request.bar_size == "1 secs"]
    assert len(small) == 65
    # The sixty-first may go ten minutes after the first.
    waited_s = (small[60] - small[0]) / S * bars.speed
    assert 598 <= waited_s <= 600 / 0.95
    assert watch.pacing_s == pytest.approx(605, rel=0.02)
    assert (watch.pieces, watch.requests) == (15, 68)
    assert result.pacing_wait_s > 0
    assert finished["1 hour"] < finished["1 sec"] - 3
    assert finished["1 min"] < finished["1 sec"] - 3
    bars.check()


# --- a dry run -------------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_pieces_requests_and_time_and_writes_nothing(bars):
    job = bars.job("AAPL", "MSFT", start=dt.date(2025, 9, 2), end=FRIDAY, dry_run=True)
    document = preview_job(job, now_ns=bars.now_ns)
    assert json.loads(json.dumps(document)) == document
    # Four days of 13 half hours, twice; one request for minutes and hours each.
    assert (document["pieces"], document["requests"]) == (24, 2 * (52 + 1 + 1))
    assert 595 <= document["pacing_seconds"] <= 660
    assert len(document["groups"]) == 6
    assert bars.requests == []
    assert not bars.root.path.exists()
    assert not (bars.folder / "cache").exists()

    bars.download("AAPL", bar_sizes=["1 min"], start=dt.date(2025, 9, 2), end=FRIDAY)
    # Neither a stale coverage nor one that is not there is mended by looking.
    shutil.copy(bars.root.bars_coverage, bars.folder / "kept.json")
    bars.root.bars_coverage.unlink()
    before = tree(bars.root.path)
    document = preview_job(job, now_ns=bars.now_ns)
    assert (document["pieces"], document["present"]) == (20, 4)
    assert tree(bars.root.path) == before


def tree(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)

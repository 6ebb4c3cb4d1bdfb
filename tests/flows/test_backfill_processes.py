"""Real processes: two runs at once, signals in mid-run, a disk that is full."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import contextmanager
from itertools import groupby

import pytest

from connectors.store.manifests import run_lock
from contracts.layout import DataRoot

SYMBOLS = ("AAPL", "AMD", "INTC", "MSFT", "NVDA", "TSLA")


def asked(place, symbol: str) -> bool:
    return symbol in place.downloads


def options(symbols) -> list[str]:
    return [part for symbol in symbols for part in ("--symbol", symbol)]


def test_two_runs_on_one_root_go_one_after_the_other_and_both_complete(place):
    # Long enough for the second command to have started, also on a busy machine.
    place.vendor.add_fault("slow:symbol=AAPL,endpoint=get_range,seconds=8,times=1")
    first = place.start_command("backfill", *options(["AAPL", "AMD"]), "--date", place.day)
    place.until(lambda: asked(place, "AAPL"))
    second = place.start_command("backfill", *options(["MSFT", "AAPL"]), "--date", place.day)

    outputs = [run.communicate(timeout=60) for run in (first, second)]

    assert [run.returncode for run in (first, second)] == [0, 0]
    assert "waiting: one run at a time" in outputs[1][1]
    by_run = [[line.symbol for line in lines] for _, lines in groupby(place.lines, key=lambda line: line.run_id)]
    assert by_run == [["AAPL", "AMD"], ["MSFT", "AAPL"]]
    assert [line.status for line in place.lines] == ["WRITE", "WRITE", "WRITE", "SKIP"]
    assert [out.startswith("SUMMARY ") for out, _ in outputs] == [True, True]
    place.check()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_mid_run_ends_it_with_what_was_done_recorded(place, number):
    place.vendor.add_fault("slow:symbol=INTC,endpoint=get_range,seconds=3")
    run = place.start_command("backfill", *options(SYMBOLS), "--date", place.day, "--max-workers", "1")
    place.until(lambda: place.manifest.exists() and asked(place, "INTC"))

    run.send_signal(number)
    out, err = run.communicate(timeout=30)

    assert run.returncode == 130, err
    assert f"{number.name}: stopping" in err
    done = [line.symbol for line in place.lines]
    assert done[:2] == ["AAPL", "AMD"]
    assert {line.status for line in place.lines} == {"WRITE"}
    assert place.summary["stopped"] == "interrupted"
    assert done + [symbol for symbol, _ in place.summary["remaining"]] == list(SYMBOLS)
    assert place.summary["total_tasks"] == len(done) < len(SYMBOLS)
    assert out.count("\n") == 1
    assert out.startswith(f"SUMMARY WRITE={len(done)} SKIP=0 EMPTY=0 ERROR=0 total={len(done)} ")
    assert "NVDA" not in place.downloads
    place.check()


def test_a_signal_ends_a_request_that_waits_for_its_first_byte(place):
    place.set(DATABENTO_TIMEOUT_S=60)
    place.vendor.add_fault("stall-before-headers:endpoint=get_range")
    with ended(place.start_command("backfill", *options(["AAPL"]), "--date", place.day)) as run:
        place.until(lambda: asked(place, "AAPL"))
        run.send_signal(signal.SIGINT)
        run.wait(4)
        assert run.returncode == 130
    assert place.summary["remaining"] == [["AAPL", "2025-09-05"]]


def test_a_signal_ends_the_wait_for_another_run(place):
    with (
        run_lock(DataRoot(place.root), run_id="another"),
        ended(place.start_command("backfill", *options(["AAPL"]), "--date", place.day)) as run,
    ):
        assert any("waiting: one run at a time" in line for line in run.stderr)
        run.send_signal(signal.SIGTERM)
        run.wait(3)
        assert run.returncode == 130


@contextmanager
def ended(run):
    """However a test ends, its process is gone."""
    try:
        yield run
    finally:
        run.kill()
        run.communicate()


def test_a_run_without_space_in_its_root_records_errors_and_ends(place):
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "sys.argv = ['trading-data', *sys.argv[1:]]; from flows.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "backfill", *options(["AAPL", "MSFT"]), "--date", str(place.day)],
        cwd=place.folder, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert [(line.status, line.reason) for line in place.lines] == [("ERROR", "storage")] * 2
    # A full disk is no reason to buy again.
    assert sorted(place.downloads) == ["AAPL", "MSFT"]
    assert done.stdout.startswith("SUMMARY WRITE=0 SKIP=0 EMPTY=0 ERROR=2 ")
    place.check()

"""What other programs call: the words they get, and that trouble with vendor or disk is an answer, not an exception."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date

import pyarrow.parquet as pq
import pytest

from contracts.v1.backfill import parse_summary
from flows.api import backfill_l2, find_warrior_tasks, run_warrior_backfill
from flows.errors import BackfillFailed, ConfigurationError

KEYS = ["symbol", "date", "status", "rows", "path", "duration_ms", "zero_rows", "error"]
SATURDAY = date(2025, 9, 6)


def test_a_day_that_is_written_and_then_there(place):
    first = backfill_l2("aapl", place.day)
    second = backfill_l2("AAPL", place.day)

    assert list(first) == list(second) == KEYS
    rows = pq.read_metadata(place.snapshots("AAPL")).num_rows
    assert first.pop("duration_ms") > 0
    assert first == {
        "symbol": "AAPL",
        "date": "2025-09-05",
        "status": "written",
        "rows": rows,
        "path": str(place.snapshots("AAPL")),
        "zero_rows": False,
        "error": None,
    }
    assert {**second, "status": "written", "duration_ms": 0} == {**first, "duration_ms": 0}
    assert second["status"] == "skipped"
    assert [line.status for line in place.lines] == ["WRITE", "SKIP"]
    assert not (place.root / "backfill_l2_summary.json").exists()
    json.dumps(second)


def test_force_writes_again(place):
    backfill_l2("AAPL", place.day)
    assert backfill_l2("AAPL", place.day, force=True)["status"] == "written"


@pytest.mark.parametrize(("symbol", "day"), [("QUIET", None), ("AAPL", SATURDAY)])
def test_a_day_without_rows_is_skipped_with_zero_rows(place, symbol, day):
    place.vendor.add_fault("zero-rows:symbol=QUIET")

    found = backfill_l2(symbol, day or place.day)

    assert (found["status"], found["zero_rows"], found["rows"], found["path"]) == ("skipped", True, 0, None)
    assert found["error"] is None
    assert place.lines[0].status == "EMPTY"


TROUBLE = {
    "unknown symbol": ("unknown-symbol", {}),
    "cut streams": ("cut-mid-stream", {}),
    "a refused key": ("unauthorized", {}),
    "no key": (None, {"DATABENTO_API_KEY": ""}),
    "the vendor switched off": (None, {"DATABENTO_ENABLE_BACKFILL": "0"}),
    "no space": (None, {"L2_MIN_FREE_GB": "1e9"}),
    "no trust": (None, {"REQUESTS_CA_BUNDLE": ""}),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_with_vendor_or_disk_is_an_answer(place, trouble):
    fault, env = TROUBLE[trouble]
    place.set(**env)
    if fault:
        place.vendor.add_fault(fault)

    found = backfill_l2("AAPL", place.day)

    assert (found["status"], found["rows"], found["path"], found["zero_rows"]) == ("error", 0, None, False)
    assert found["error"].startswith("AAPL 2025-09-05") or "AAPL 2025-09-05" in found["error"]
    assert place.key not in found["error"]
    assert [line.status for line in place.lines] == ["ERROR"]

    with pytest.raises(BackfillFailed, match="AAPL 2025-09-05") as caught:
        backfill_l2("AAPL", place.day, strict=True)
    assert caught.value.reason == place.lines[-1].reason


def test_a_manifest_that_cannot_be_written_is_an_answer_too(place):
    place.manifest.mkdir(parents=True)

    found = backfill_l2("AAPL", place.day)

    assert found["status"] == "error"
    assert "backfill_l2_manifest.jsonl" in found["error"]


@pytest.mark.parametrize("symbol", ["../x", "", "\uff21\uff21\uff30\uff2c", "CON", "WAYTOOLONGFORASYMBOL"])
def test_a_symbol_that_can_be_none_is_refused_before_the_disk_is_touched(place, symbol):
    with pytest.raises(ConfigurationError):
        backfill_l2(symbol, place.day)
    with pytest.raises(ConfigurationError):
        run_warrior_backfill([(symbol, place.day)])
    assert not place.root.exists()


def test_a_setting_that_cannot_be_used_is_refused(place):
    place.set(L2_LEVELS="many")
    with pytest.raises(ConfigurationError, match="L2_LEVELS"):
        backfill_l2("AAPL", place.day)


def test_a_list_is_found_and_run_in_its_order_without_duplicates(place):
    place.root.mkdir()
    (place.root / "WarriorTrading_Trades.csv").write_text("Ticker;Date\nMSFT;9/5/2025\nAAPL;2025-09-05\nX;2025-09-06\n")
    tasks = find_warrior_tasks()
    assert tasks == [("AAPL", place.day), ("MSFT", place.day)]

    summary = run_warrior_backfill([("msft", place.day), *tasks, ("AAPL", SATURDAY)], max_workers=3, strict=True)

    assert [(line.symbol, line.date, line.status) for line in place.lines] == [
        ("MSFT", place.day, "WRITE"),
        ("AAPL", place.day, "WRITE"),
        ("AAPL", SATURDAY, "EMPTY"),
    ]
    assert summary == place.summary
    assert parse_summary(json.dumps(summary)).total_tasks == 3
    assert (summary["concurrency"], summary["strict"], summary["max_tasks"]) == (3, True, None)


def test_the_number_of_tasks_and_workers_is_what_was_asked_else_what_is_set(place):
    place.set(L2_MAX_WORKERS=2)
    summary = run_warrior_backfill([("AAPL", place.day), ("MSFT", place.day)], max_tasks=1)
    assert (summary["total_tasks"], summary["max_tasks"], summary["concurrency"]) == (1, 1, 2)
    assert run_warrior_backfill([("AAPL", place.day)], max_tasks=0)["total_tasks"] == 0


@pytest.mark.parametrize("parameters", [{"max_tasks": -1}, {"max_workers": 0}], ids=str)
def test_numbers_out_of_range_are_refused(place, parameters):
    with pytest.raises(ConfigurationError, match=next(iter(parameters))):
        run_warrior_backfill([("AAPL", place.day)], **parameters)


def test_a_batch_returns_its_errors_strict_or_not(place):
    place.vendor.add_fault("unknown-symbol:symbol=GONE")
    for strict in (False, True):
        summary = run_warrior_backfill([("GONE", place.day)], strict=strict)
        assert summary["counts"]["ERROR"] == 1


@pytest.mark.parametrize("arguments", [{"last": 0}, {"last": -1}, {"since_days": -1}, {}], ids=str)
def test_a_list_that_cannot_be_chosen_from_is_refused(place, arguments):
    if arguments:
        place.root.mkdir()
        (place.root / "WarriorTrading_Trades.csv").write_text("ticker,date\nMSFT,2025-09-05\n")
    with pytest.raises(ConfigurationError):
        find_warrior_tasks(**arguments)


def test_none_of_it_needs_prefect(place):
    script = (
        "import sys, json; from datetime import date; from flows.api import backfill_l2, run_warrior_backfill;"
        "one = backfill_l2('AAPL', date(2025, 9, 5));"
        "more = run_warrior_backfill([('MSFT', date(2025, 9, 5))]);"
        "print(json.dumps([one['status'], more['counts']['WRITE'], sorted(m for m in sys.modules if 'prefect' in m)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=place.folder, capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == ["written", 1, []]

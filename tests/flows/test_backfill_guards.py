"""What stops a run before it does harm: row caps, little space, much written, a vendor that may not be asked."""

from __future__ import annotations

from datetime import date

import pytest

from flows.errors import ConfigurationError

SYMBOLS = ("AAPL", "MSFT", "NVDA", "TSLA")


def test_more_records_than_the_cap_are_an_error_and_not_bought(place):
    place.set(L2_MAX_ROWS_PER_TASK=10)

    place.backfill("AAPL")

    assert [(line.status, line.reason) for line in place.lines] == [("ERROR", "row_cap")]
    assert place.downloads == []
    assert not place.snapshots("AAPL").exists()


def test_more_rows_than_the_cap_are_an_error_and_never_a_short_file(place):
    # Far more grid points than records.
    place.set(L2_MAX_ROWS_PER_TASK=3_000)

    place.backfill("AAPL", interval_ms=100)

    assert [(line.status, line.reason) for line in place.lines] == [("ERROR", "row_cap")]
    assert place.downloads == ["AAPL"]
    assert not place.snapshots("AAPL").exists()
    assert place.temps() == []


def test_too_little_free_space_refuses_before_any_work(place):
    place.set(L2_MIN_FREE_GB=1e9)

    with pytest.raises(ConfigurationError, match=r"(?s)L2_MIN_FREE_GB.*4 tasks remain: AAPL 2025-09-05, MSFT"):
        place.backfill(*SYMBOLS)

    assert place.requests == []
    assert not place.root.exists()
    assert not place.cache.exists()


def test_a_run_that_has_written_what_it_may_pauses_with_what_remains(place):
    place.set(L2_MAX_RUN_GB=0.000_001)

    result = place.backfill(*SYMBOLS, max_workers=1)

    assert [(line.symbol, line.status) for line in place.lines] == [("AAPL", "WRITE")]
    assert "L2_MAX_RUN_GB" in result.stopped
    assert place.summary["stopped"] == result.stopped
    assert place.summary["remaining"] == [[symbol, "2025-09-05"] for symbol in SYMBOLS[1:]]
    assert place.summary["total_tasks"] == 1
    assert place.downloads == ["AAPL"]
    place.check()

    # Running again goes on where it stopped.
    place.set(L2_MAX_RUN_GB=0)
    assert place.backfill(*SYMBOLS).summary["counts"] == {"WRITE": 3, "SKIP": 1, "EMPTY": 0, "ERROR": 0}


def test_tasks_under_way_when_the_guard_is_hit_are_finished_and_recorded(place):
    place.set(L2_MAX_RUN_GB=0.000_001)
    place.vendor.add_fault("slow:endpoint=get_range,symbol=AAPL,seconds=1")

    place.backfill(*SYMBOLS, max_workers=2)

    done = [line.symbol for line in place.lines]
    remaining = [symbol for symbol, _ in place.summary["remaining"]]
    assert done == ["AAPL", "MSFT"]
    assert done + remaining == list(SYMBOLS)
    assert {line.status for line in place.lines} == {"WRITE"}


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"DATABENTO_API_KEY": ""}, "DATABENTO_API_KEY is empty"),
        ({"DATABENTO_API_KEY": "   "}, "DATABENTO_API_KEY is empty"),
        ({"DATABENTO_ENABLE_BACKFILL": "0"}, "DATABENTO_ENABLE_BACKFILL=0"),
        ({"DATABENTO_GATEWAY": "https://"}, "DATABENTO_GATEWAY"),
        ({"L2_BACKFILL_WINDOW_ET": "later"}, "L2_BACKFILL_WINDOW_ET"),
        ({"DATA_PATH_OVERRIDE": "$NOT_THERE/x"}, "DATA_PATH_OVERRIDE"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_before_any_work(place, env, words):
    place.set(**env)

    with pytest.raises(ConfigurationError, match=words):
        place.backfill("AAPL")

    assert place.requests == []
    assert not place.root.exists()


def test_a_key_alone_switches_the_vendor_on(place):
    place.unset("DATABENTO_ENABLE_BACKFILL")
    assert place.backfill("AAPL").summary["counts"]["WRITE"] == 1


def test_days_without_need_of_the_vendor_need_no_key(place):
    place.set(DATABENTO_API_KEY="")
    assert place.backfill("AAPL", start=date(2025, 9, 6)).summary["counts"]["EMPTY"] == 1


def test_kept_vendor_files_need_no_key(place):
    place.backfill("AAPL")
    place.set(DATABENTO_API_KEY="")
    assert place.backfill("AAPL", force=True).summary["counts"]["WRITE"] == 1


@pytest.mark.parametrize(
    "trouble",
    [
        "row cap",
        "disk",
    ],
)
def test_a_day_that_fails_after_its_download_still_tells_what_it_cost(place, trouble):
    if trouble == "disk":
        place.snapshots("AAPL").mkdir(parents=True)
        place.snapshots("AAPL").joinpath("in the way").touch()
        place.backfill("AAPL", force=True)
    else:
        place.set(L2_MAX_ROWS_PER_TASK=3_000)
        place.backfill("AAPL", interval_ms=100)

    assert [line.status for line in place.lines] == ["ERROR"]
    assert place.summary["cost_usd"] == pytest.approx(place.billed_usd, abs=2e-9)
    assert place.lines[0].cost_usd == pytest.approx(place.billed_usd, abs=2e-9)

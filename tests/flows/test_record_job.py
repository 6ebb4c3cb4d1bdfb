"""A live capture is checked whole before anything begins: symbols, the list of today, length or window, room."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.sessions import ET
from flows.errors import ConfigurationError
from flows.record_job import assemble, check_ready

if TYPE_CHECKING:
    from pathlib import Path

MINUTE_NS = 60 * 10**9


def at(text: str) -> int:
    """Nanoseconds of an ET wall clock."""
    moment = dt.datetime.fromisoformat(text).replace(tzinfo=ET)
    return round(moment.timestamp()) * 10**9


FRIDAY_8_00 = at("2025-09-05 08:00")


@pytest.fixture(autouse=True)
def root(clean_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATA_PATH_OVERRIDE", str(tmp_path / "data"))
    monkeypatch.setenv("L2_MIN_FREE_GB", "0")
    return tmp_path / "data"


def write_list(root: Path, *lines: str) -> None:
    root.mkdir(exist_ok=True)
    (root / "WarriorTrading_Trades.csv").write_text("ticker,date\n" + "".join(f"{line}\n" for line in lines))


def test_symbols_become_canonical_and_unique_and_keep_their_order():
    job = assemble(now_ns=FRIDAY_8_00, symbols=[" msft", "brk.b", "MSFT", "aapl"], minutes=1)
    assert job.symbols == ("MSFT", "BRK-B", "AAPL")


@pytest.mark.parametrize("bad", ["../x", "", "AAPL;rm", "CON", "\uff21\uff21\uff30\uff2c"])
def test_a_symbol_that_cannot_be_one_is_refused(root, bad):
    with pytest.raises(ConfigurationError):
        assemble(now_ns=FRIDAY_8_00, symbols=["AAPL", bad], minutes=1)
    assert not root.exists()


def test_an_empty_list_of_symbols_is_not_the_task_list(root):
    write_list(root, "AAPL,2025-09-05")
    with pytest.raises(ConfigurationError, match="at least one"):
        assemble(now_ns=FRIDAY_8_00, symbols=[], minutes=1)


def test_without_symbols_those_of_the_list_for_the_et_today_are_taken(root):
    write_list(root, "NVDA,2025-09-04", "TSLA,2025-09-05", "AAPL,09/05/2025", "AMD,2025-09-08", "AAPL,2025-09-05")
    assert assemble(now_ns=FRIDAY_8_00, minutes=1).symbols == ("AAPL", "TSLA")
    # Late on Thursday in New York it is Friday in London.
    assert assemble(now_ns=at("2025-09-04 23:30"), minutes=1).symbols == ("NVDA",)


@pytest.mark.parametrize("lines", [(), ("NVDA,2025-09-04",)], ids=["empty", "other days"])
def test_a_list_without_a_symbol_for_today_is_refused_and_says_what_to_do(root, lines):
    write_list(root, *lines)
    with pytest.raises(ConfigurationError, match=r"2025-09-05.*give symbols"):
        assemble(now_ns=FRIDAY_8_00, minutes=1)


def test_a_list_that_is_not_there_is_refused_and_named():
    with pytest.raises(ConfigurationError, match="WarriorTrading_Trades"):
        assemble(now_ns=FRIDAY_8_00, minutes=1)


@settings(max_examples=50, deadline=None)
@given(minutes=st.floats(min_value=0.001, max_value=24 * 60))
def test_a_length_counts_from_the_start_of_the_capture(minutes):
    job = assemble(now_ns=FRIDAY_8_00, symbols=["AAPL"], minutes=minutes)
    started_ns = FRIDAY_8_00 + 12_345
    assert job.start_ns is None
    assert job.end_ns(started_ns) - started_ns == pytest.approx(minutes * MINUTE_NS, abs=1)


@pytest.mark.parametrize("minutes", [0, -1, 24 * 60 + 0.001, float("nan"), float("inf")])
def test_a_length_must_be_between_nothing_and_a_day(minutes):
    with pytest.raises(ConfigurationError, match="minutes"):
        assemble(now_ns=FRIDAY_8_00, symbols=["AAPL"], minutes=minutes)


def test_without_a_length_the_effective_window_of_today_is_captured():
    job = assemble(now_ns=FRIDAY_8_00, symbols=["AAPL"])
    assert str(job.window) == "08:30-11:00"
    assert job.start_ns == at("2025-09-05 08:30")
    assert job.end_ns(job.start_ns) == job.end_ns(at("2025-09-05 10:59")) == at("2025-09-05 11:00")


def test_a_window_of_ones_own_beats_the_settings_and_follows_the_clocks(monkeypatch):
    monkeypatch.setenv("L2_TRADING_WINDOW_ET", "09:30-10:00")
    assert str(assemble(now_ns=FRIDAY_8_00, symbols=["AAPL"]).window) == "09:30-10:00"
    before = assemble(now_ns=at("2025-03-07 05:00"), symbols=["AAPL"], window="9:30-16:00")
    after = assemble(now_ns=at("2025-03-10 05:00"), symbols=["AAPL"], window="9:30-16:00")
    assert after.start_ns - before.start_ns == (3 * 24 - 1) * 60 * MINUTE_NS


@pytest.mark.parametrize("now", ["2025-09-06 08:00", "2025-01-09 08:00", "2025-11-27 23:00"])
def test_on_a_day_without_a_session_there_is_nothing_to_do_whatever_the_list_says(root, now):
    job = assemble(now_ns=at(now))
    assert job.closed
    assert job.symbols == ()
    assert assemble(now_ns=at(now), symbols=["AAPL"]).closed
    assert not root.exists()


def test_a_length_is_captured_on_any_day():
    assert not assemble(now_ns=at("2025-09-06 08:00"), symbols=["AAPL"], minutes=1).closed


@pytest.mark.parametrize("now", ["2025-09-05 11:00", "2025-09-05 23:59"])
def test_a_window_that_is_over_is_refused(now):
    with pytest.raises(ConfigurationError, match=r"08:30-11:00 ET of 2025-09-05 is over"):
        assemble(now_ns=at(now), symbols=["AAPL"])


@pytest.mark.parametrize("window", ["", "11:00-08:30", "08:30-24:00", "8-9", "08:30 - 11:00"])
def test_a_window_that_cannot_be_read_is_refused(window):
    with pytest.raises(ConfigurationError):
        assemble(now_ns=FRIDAY_8_00, symbols=["AAPL"], window=window)


def test_a_length_and_a_window_contradict_each_other():
    with pytest.raises(ConfigurationError, match="one or the other"):
        assemble(now_ns=FRIDAY_8_00, symbols=["AAPL"], minutes=1, window="08:30-11:00")


def test_what_is_not_given_comes_from_the_settings(monkeypatch):
    for key, value in (("L2_LEVELS", 5), ("L2_SNAPSHOT_INTERVAL_MS", 250), ("IB_EXCHANGE", "island")):
        monkeypatch.setenv(key, str(value))
    job = assemble(now_ns=FRIDAY_8_00, symbols=["AAPL"], minutes=1)
    assert (job.levels, job.interval_ms, job.exchange, job.sandbox) == (5, 250, "ISLAND", False)
    job = assemble(now_ns=FRIDAY_8_00, symbols=["AAPL"], minutes=1, levels=20, interval_ms=0, exchange="ARCA")
    assert (job.levels, job.interval_ms, job.exchange) == (20, 0, "ARCA")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"levels": 0}, "levels"),
        ({"levels": 51}, "levels"),
        ({"interval_ms": -1}, "interval_ms"),
        ({"interval_ms": 3_600_001}, "interval_ms"),
        ({"exchange": "no exchange"}, "IB_EXCHANGE"),
    ],
    ids=str,
)
def test_other_parameters_are_checked_too(given, named):
    with pytest.raises(ConfigurationError, match=named):
        assemble(now_ns=FRIDAY_8_00, symbols=["AAPL"], minutes=1, **given)


def test_a_label_says_symbols_and_day():
    assert assemble(now_ns=FRIDAY_8_00, symbols=["AAPL", "MSFT"], minutes=1).label == "AAPL MSFT 2025-09-05"
    assert assemble(now_ns=at("2025-09-06 08:00")).label == "closed 2025-09-06"


def test_a_disk_without_room_is_refused_and_the_key_named(root, monkeypatch):
    monkeypatch.setenv("L2_MIN_FREE_GB", "1e9")
    job = assemble(now_ns=FRIDAY_8_00, symbols=["AAPL"], minutes=1)
    with pytest.raises(ConfigurationError, match="L2_MIN_FREE_GB"):
        check_ready(job)
    assert not root.exists()

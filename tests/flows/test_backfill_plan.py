"""What was asked for becomes tasks: which pairs, in which order, and what is refused before any work."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.sessions import is_session, today_et
from flows.backfill_job import assemble
from flows.backfill_request import BackfillRequest, find_list_tasks, plan_tasks
from flows.errors import ConfigurationError
from flows.settings import load_settings

FRIDAY, SATURDAY, SUNDAY, MONDAY = (date(2025, 9, day) for day in (5, 6, 7, 8))
HOLIDAY = date(2025, 9, 1)  # Labor Day, a Monday

pytestmark = pytest.mark.usefixtures("clean_environment")


def plan(**request):
    return [(task.symbol, task.day) for task in plan_tasks(BackfillRequest(**request), load_settings(None))]


def write_list(path: Path, *rows: tuple[str, date]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("ticker,date\n" + "".join(f"{symbol},{day}\n" for symbol, day in rows))
    return path


def recent_sessions(count: int) -> list[date]:
    """The last sessions before today, oldest first."""
    days = (today_et() - timedelta(days=back) for back in range(1, 60))
    return sorted([day for day in days if is_session(day)][:count])


def test_symbols_and_dates_give_every_pair_day_by_day_in_the_order_of_the_symbols():
    assert plan(symbols=["msft", "AAPL"], start=FRIDAY, end=MONDAY) == [
        ("MSFT", FRIDAY), ("AAPL", FRIDAY), ("MSFT", MONDAY), ("AAPL", MONDAY),
    ]  # fmt: skip


def test_spellings_of_one_symbol_are_one_task():
    assert plan(symbols=["brk.b", "BRK-B", " BRK B "], start=FRIDAY) == [("BRK-B", FRIDAY)]


def test_weekends_stay_in_a_range_when_asked(monkeypatch):
    monkeypatch.setenv("L2_SKIP_WEEKENDS", "0")
    assert plan(symbols=["AAPL"], start=FRIDAY, end=MONDAY) == [
        ("AAPL", day) for day in (FRIDAY, SATURDAY, SUNDAY, MONDAY)
    ]


@pytest.mark.parametrize("end", [None, SATURDAY])
def test_a_single_day_stays_whatever_day_it_is(end):
    assert plan(symbols=["AAPL"], start=SATURDAY, end=end) == [("AAPL", SATURDAY)]


def test_a_range_of_a_weekend_alone_is_no_task():
    assert plan(symbols=["AAPL"], start=SATURDAY, end=SUNDAY) == []


def test_a_holiday_stays_in_a_range_to_be_reported_as_closed():
    assert plan(symbols=["AAPL"], start=HOLIDAY, end=HOLIDAY + timedelta(days=1))[0] == ("AAPL", HOLIDAY)


def test_with_nothing_given_the_task_list_of_the_data_root_is_taken_by_day_then_symbol(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_PATH_OVERRIDE", str(tmp_path / "data"))
    write_list(tmp_path / "data" / "WarriorTrading_Trades.csv", ("TSLA", MONDAY), ("msft", FRIDAY), ("AAPL", MONDAY))
    assert plan() == [("MSFT", FRIDAY), ("AAPL", MONDAY), ("TSLA", MONDAY)]


@pytest.mark.parametrize("base", ["{tmp}/base", "$MARKET_HOME/base", "~/base"])
def test_the_list_is_also_found_under_ml_base_path_however_that_is_written(tmp_path, monkeypatch, base):
    for name in ("MARKET_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("DATA_PATH_OVERRIDE", str(tmp_path / "data"))
    monkeypatch.setenv("ML_BASE_PATH", base.replace("{tmp}", str(tmp_path)))
    write_list(tmp_path / "base" / "WarriorTrading_Trades.csv", ("AAPL", FRIDAY))
    assert plan() == [("AAPL", FRIDAY)]


def test_closed_days_of_a_list_are_dropped_and_their_number_logged(tmp_path, caplog):
    path = write_list(
        tmp_path / "t.csv", ("AAPL", FRIDAY), ("AAPL", SATURDAY), ("MSFT", HOLIDAY), ("AAPL", date(2025, 1, 9))
    )
    assert plan(tasks_file=path) == [("AAPL", FRIDAY)]
    assert "3 of 4 tasks dropped, the exchange was closed" in caplog.text


@pytest.mark.parametrize(
    ("narrowing", "expected"),
    [
        ({"symbols": ["msft"]}, [("MSFT", FRIDAY), ("MSFT", MONDAY)]),
        ({"start": MONDAY}, [("AAPL", MONDAY), ("MSFT", MONDAY)]),
        ({"start": FRIDAY, "end": SUNDAY}, [("AAPL", FRIDAY), ("MSFT", FRIDAY)]),
        ({"symbols": ["AAPL"], "start": MONDAY}, [("AAPL", MONDAY)]),
        ({"last": 1}, [("AAPL", MONDAY), ("MSFT", MONDAY)]),
        ({"last": 1, "symbols": ["NVDA"]}, []),
        ({"max_tasks": 3}, [("AAPL", FRIDAY), ("MSFT", FRIDAY), ("AAPL", MONDAY)]),
        ({"max_tasks": 0}, []),
    ],
    ids=str,
)
def test_a_list_is_narrowed_by_what_is_given(tmp_path, narrowing, expected):
    rows = [(symbol, day) for day in (MONDAY, FRIDAY) for symbol in ("MSFT", "AAPL", "MSFT")]
    assert plan(tasks_file=write_list(tmp_path / "t.csv", *rows), **narrowing) == expected


def test_since_counts_days_back_from_today_in_new_york(tmp_path):
    days = recent_sessions(6)
    path = write_list(tmp_path / "t.csv", *(("AAPL", day) for day in days))
    back = (today_et() - days[2]).days
    assert plan(tasks_file=path, since_days=back) == [("AAPL", day) for day in days[2:]]
    assert find_list_tasks(load_settings(None), tasks_file=path, last=2) == [("AAPL", day) for day in days[-2:]]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"symbols": ["AAPL"], "end": FRIDAY}, "start"),
        ({"symbols": ["AAPL"], "start": MONDAY, "end": FRIDAY}, "before"),
        ({"symbols": ["AAPL"], "start": date(1990, 1, 1), "end": MONDAY}, "split"),
        ({"symbols": ["AAPL"], "start": FRIDAY, "last": 2}, "narrow a task list"),
        ({"symbols": ["AAPL"], "start": FRIDAY, "since_days": 2}, "narrow a task list"),
        ({"symbols": ["AAPL"], "start": FRIDAY, "max_tasks": -1}, "max_tasks"),
        ({"symbols": ["../x"], "start": FRIDAY}, "../x"),
        ({"symbols": [""], "start": FRIDAY}, "symbol"),
        ({"since_days": -1}, "since"),
        ({"last": 0}, "last"),
        ({"last": -3}, "last"),
        ({}, "task list"),
        ({"tasks_file": Path("nowhere.csv")}, "nowhere.csv"),
    ],
    ids=str,
)
def test_what_contradicts_itself_or_cannot_be_read_is_refused_in_words(request_, words):
    with pytest.raises(ConfigurationError, match=words):
        plan(**request_)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"max_workers": 0}, "max_workers"),
        ({"interval_ms": -1}, "interval"),
        ({"max_cost_usd": -0.01}, "max_cost_usd"),
        ({"max_cost_usd": float("nan")}, "max_cost_usd"),
        ({"max_cost_usd": float("inf")}, "max_cost_usd"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(parameters, words):
    with pytest.raises(ConfigurationError, match=words):
        assemble(symbols=["AAPL"], start=FRIDAY, **parameters)


def test_windows_that_do_not_meet_are_refused_before_a_list_is_opened(monkeypatch):
    monkeypatch.setenv("L2_BACKFILL_WINDOW_ET", "08:00-08:30")
    with pytest.raises(ConfigurationError, match="L2_BACKFILL_WINDOW_ET"):
        assemble(tasks_file=Path("nowhere.csv"))


@given(
    symbols=st.lists(st.sampled_from(["AAPL", "aapl", "BRK.B", "BRK-B", "MSFT"]), min_size=1, max_size=6),
    first=st.dates(date(2024, 1, 1), date(2025, 6, 1)),
    span=st.integers(0, 40),
    most=st.none() | st.integers(0, 20),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_pair_comes_twice_and_days_never_run_backwards(symbols, first, span, most):
    tasks = plan(symbols=symbols, start=first, end=first + timedelta(days=span), max_tasks=most)
    assert len(set(tasks)) == len(tasks)
    assert [day for _, day in tasks] == sorted(day for _, day in tasks)
    assert most is None or len(tasks) <= most
    assert span == 0 or all(day.weekday() < 5 for _, day in tasks)

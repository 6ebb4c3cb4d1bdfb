"""A download of bars is checked whole before anything begins: symbols, sizes, days, kind, the task list."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.sessions import ET
from flows.bar_sizes import BAR_SIZES
from flows.bars_job import assemble
from flows.bars_run import download
from flows.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def at(text: str) -> int:
    """Nanoseconds of an ET wall clock."""
    moment = dt.datetime.fromisoformat(text).replace(tzinfo=ET)
    return round(moment.timestamp()) * 10**9


def day(text: str) -> dt.date:
    return dt.date.fromisoformat(text)


NOW = at("2025-09-10 18:00")


@pytest.fixture(autouse=True)
def root(clean_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATA_PATH_OVERRIDE", str(tmp_path / "data"))
    return tmp_path / "data"


def write_list(root: Path, *lines: str) -> None:
    root.mkdir(exist_ok=True)
    (root / "WarriorTrading_Trades.csv").write_text("ticker,date\n" + "".join(f"{line}\n" for line in lines))


def test_symbols_become_canonical_and_unique_and_keep_their_order():
    job = assemble(now_ns=NOW, symbols=[" msft", "brk.b", "MSFT", "aapl"])
    assert job.scope.symbols == ("MSFT", "BRK-B", "AAPL")


@pytest.mark.parametrize("bad", ["../x", "", "AAPL;rm", "CON", "\uff21\uff21\uff30\uff2c"])
def test_a_symbol_that_cannot_be_one_is_refused(root, bad):
    with pytest.raises(ConfigurationError):
        assemble(now_ns=NOW, symbols=["AAPL", bad])
    assert not root.exists()


def test_without_dates_each_size_looks_back_by_its_setting(monkeypatch):
    monkeypatch.setenv("BAR_LOOKBACK_DAYS_SEC_1", "0")
    job = assemble(now_ns=NOW, symbols=["AAPL"])
    assert job.scope.ranges == {
        "1 sec": (day("2025-09-10"), day("2025-09-10")),
        "1 min": (day("2025-09-05"), day("2025-09-10")),
        "1 hour": (day("2025-08-11"), day("2025-09-10")),
    }
    # Late in New York it is the next day in London.
    late = assemble(now_ns=at("2025-09-10 23:30"), symbols=["AAPL"], bar_sizes=["1 sec"])
    assert late.scope.ranges == {"1 sec": (day("2025-09-10"), day("2025-09-10"))}


@settings(max_examples=25, deadline=None)
@given(start=st.dates(day("2016-01-01"), day("2025-09-10")), length=st.none() | st.integers(0, 3_700))
def test_dates_hold_for_all_sizes_and_end_today_at_the_latest(start, length):
    end = None if length is None else start + dt.timedelta(length)
    job = assemble(now_ns=NOW, symbols=["AAPL"], bar_sizes=["1 sec", "1 hour"], start=start, end=end)
    last = min(end or day("2025-09-10"), day("2025-09-10"))
    assert job.scope.ranges == dict.fromkeys(("1 hour", "1 sec"), (start, last))


def test_sizes_come_once_and_in_one_order():
    job = assemble(now_ns=NOW, symbols=["AAPL"], bar_sizes=["1 sec", "1 hour", "1 sec"])
    assert tuple(job.scope.ranges) == ("1 hour", "1 sec")
    assert tuple(assemble(now_ns=NOW, symbols=["AAPL"]).scope.ranges) == BAR_SIZES


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"symbols": []}, "at least one"),
        ({"bar_sizes": []}, "bar sizes is empty"),
        ({"bar_sizes": ["1 week"]}, "'1 week'; there are 1 hour, 1 min, 1 sec"),
        ({"bar_sizes": ["5 mins"]}, "5 mins"),
        ({"end": day("2025-09-05")}, "needs a start"),
        ({"start": day("2025-09-05"), "end": day("2025-09-04")}, "before the start"),
        ({"start": day("2025-09-11")}, "still to come"),
        ({"start": day("2010-01-04")}, "split it"),
        ({"start": day("1985-01-04"), "end": day("1985-01-07")}, "1990"),
        ({"what_to_show": "ADJUSTED_LAST"}, "ADJUSTED_LAST"),
        ({"pairs": [("AAPL", day("2025-09-05"))]}, "pairs"),
        ({"symbols": None, "start": day("2025-09-05"), "pairs": [("AAPL", day("2025-09-05"))]}, "pairs"),
        ({"symbols": None, "pairs": [("../x", day("2025-09-05"))]}, "x"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_and_named(root, given, named):
    with pytest.raises(ConfigurationError, match=named):
        assemble(now_ns=NOW, **{"symbols": ["AAPL"], **given})
    assert not root.exists()


def test_without_symbols_those_of_the_list_with_a_day_in_the_range_are_taken(root):
    write_list(root, "NVDA,2025-09-04", "TSLA,2025-09-05", "AAPL,09/08/2025", "AMD,2025-09-09", "TSLA,2025-09-08")
    job = assemble(now_ns=NOW, start=day("2025-09-05"), end=day("2025-09-08"))
    assert job.scope.symbols == ("TSLA", "AAPL")
    assert assemble(now_ns=NOW, start=day("2025-09-09")).scope.symbols == ("AMD",)
    assert set(assemble(now_ns=NOW).scope.symbols) == {"NVDA", "TSLA", "AAPL", "AMD"}


@pytest.mark.parametrize("lines", [(), ("NVDA,2025-09-04",)], ids=["empty", "other days"])
def test_a_list_without_a_symbol_for_the_range_is_nothing_to_do_and_told(root, lines, caplog):
    write_list(root, *lines)
    job = assemble(now_ns=NOW, start=day("2025-09-05"), end=day("2025-09-08"))
    assert job.scope.symbols == ()
    assert "no symbol for 2025-09-05 to 2025-09-08" in caplog.text
    assert job.label.startswith("no symbols, ")
    assert download(job).total == 0


def test_a_list_that_is_not_there_is_refused_and_named():
    with pytest.raises(ConfigurationError, match="WarriorTrading_Trades"):
        assemble(now_ns=NOW)


def test_pairs_stand_for_themselves():
    pairs = [("msft", day("2025-09-05")), ("AAPL", day("2025-09-03")), ("MSFT", day("2025-09-04"))]
    job = assemble(now_ns=NOW, pairs=pairs)
    assert job.scope.symbols == ("MSFT", "AAPL")
    assert job.scope.pairs == {
        ("MSFT", day("2025-09-05")),
        ("AAPL", day("2025-09-03")),
        ("MSFT", day("2025-09-04")),
    }
    assert job.scope.ranges == dict.fromkeys(BAR_SIZES, (day("2025-09-03"), day("2025-09-05")))
    assert assemble(now_ns=NOW, pairs=[]).scope.symbols == ()


def test_what_is_not_given_comes_from_the_settings(monkeypatch):
    plain = assemble(now_ns=NOW, symbols=["AAPL"])
    assert (plain.scope.what_to_show, plain.scope.use_rth, plain.scope.newest_first) == ("TRADES", True, True)
    assert (plain.workers, plain.sandbox, plain.strict, plain.dry_run) == (4, False, False, False)
    for key, value in {
        "BARS_WHAT_TO_SHOW": "BID",
        "BARS_EXTENDED_HOURS": "1",
        "BARS_OLDEST_FIRST": "1",
        "MAX_WORKERS": "2",
        "FORCE_FAKE_IB": "1",
    }.items():
        monkeypatch.setenv(key, value)
    job = assemble(now_ns=NOW, symbols=["AAPL"])
    assert (job.scope.what_to_show, job.scope.use_rth, job.scope.newest_first) == ("BID", False, False)
    assert (job.workers, job.sandbox) == (2, True)
    told = assemble(
        now_ns=NOW, symbols=["AAPL"], what_to_show=" ask", extended_hours=False, oldest_first=False, strict=True
    )
    assert (told.scope.what_to_show, told.scope.use_rth, told.scope.newest_first, told.strict) == (
        *("ASK", True, True),
        True,
    )


def test_a_label_says_symbols_sizes_and_days():
    job = assemble(now_ns=NOW, symbols=["AAPL", "MSFT"], bar_sizes=["1 min"], start=day("2025-09-05"))
    assert job.label == "AAPL MSFT, 1 min, 2025-09-05 to 2025-09-10"
    many = assemble(now_ns=NOW, symbols=list("ABCDEF"), start=day("2025-09-10"))
    assert many.label == "6 symbols, 1 hour + 1 min + 1 sec, 2025-09-10"

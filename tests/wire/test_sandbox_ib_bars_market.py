"""The invented market behind the sandbox gateway's bars: what holds for every symbol, day and bar size."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from itertools import groupby, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.sandbox.ib_gateway import BarRow, bars_truth
from contracts.sessions import session_close_et, sessions_between

ET = ZoneInfo("America/New_York")
DAYS = sessions_between(date(2024, 11, 1), date(2025, 9, 5))
HALF_DAYS = [date(2024, 11, 29), date(2024, 12, 24), date(2025, 7, 3)]
WHAT = ["TRADES", "MIDPOINT", "BID", "ASK", "BID_ASK"]


def span_ns(day: date) -> tuple[int, int]:
    midnight = datetime(day.year, day.month, day.day, tzinfo=ET)
    return int(midnight.timestamp()) * 10**9, int((midnight + timedelta(days=1)).timestamp()) * 10**9


def day_of(symbol: str, size: str, day: date, **options: object) -> list[BarRow]:
    return bars_truth(symbol, size, *span_ns(day), **options)


def clock(row: BarRow) -> str:
    return datetime.fromtimestamp(row.start_ns // 10**9, ET).strftime("%H:%M:%S")


def made_of(rows: list[BarRow], bar_s: int, opens_ns: int, what: str) -> list[BarRow]:
    """Larger bars, one by one."""
    larger = []
    for start_s, group in groupby(rows, key=lambda row: row.start_ns // 10**9 // bar_s * bar_s):
        part = list(group)
        volume = sum(row.volume for row in part) if what == "TRADES" else -1
        larger.append(
            BarRow(
                max(start_s * 10**9, opens_ns),
                part[0].open,
                max(row.high for row in part),
                min(row.low for row in part),
                part[-1].close,
                volume,
                sum(row.wap * row.volume for row in part) / volume if what == "TRADES" else -1,
                sum(row.trades for row in part) if what == "TRADES" else -1,
            )
        )
    return larger


@settings(max_examples=60, deadline=None)
@given(
    symbol=st.sampled_from(["AAPL", "THINX", "BRK B", "Q"]),
    day=st.sampled_from([*DAYS, *HALF_DAYS]),
    use_rth=st.booleans(),
    what=st.sampled_from(WHAT[:4]),
    hour=st.integers(3, 18),
    seed=st.integers(0, 3),
)
def test_seconds_make_minutes_and_minutes_make_hours(symbol, day, use_rth, what, hour, seed):
    midnight_ns = span_ns(day)[0]
    start_ns, end_ns = (midnight_ns + whole * 3600 * 10**9 for whole in (hour, hour + 2))
    seconds, minutes, hours = (
        bars_truth(symbol, size, start_ns, end_ns, use_rth=use_rth, what=what, seed=seed)
        for size in ("1 sec", "1 min", "1 hour")
    )
    opens_ns = midnight_ns + (34_200 if use_rth else 0) * 10**9
    for smaller, bar_s, larger in ((seconds, 60, minutes), (minutes, 3600, hours)):
        expected = made_of(smaller, bar_s, opens_ns, what)
        assert [row._replace(wap=0) for row in larger] == [row._replace(wap=0) for row in expected]
        assert [row.wap for row in larger] == pytest.approx([row.wap for row in expected], abs=1.1e-4)


@settings(max_examples=25, deadline=None)
@given(symbol=st.from_regex("[A-Z]{1,5}", fullmatch=True), day=st.sampled_from(DAYS), seed=st.integers(0, 10**6))
def test_prices_are_whole_cents_in_their_order_and_quotes_enclose_the_middle(symbol, day, seed):
    shown = {what: day_of(symbol, "1 min", day, what=what, seed=seed) for what in WHAT}
    for what, rows in shown.items():
        for row in rows:
            assert 0 < row.low <= min(row.open, row.close) <= max(row.open, row.close) <= row.high
            if what in ("TRADES", "BID", "ASK"):
                assert {round(price, 2) for price in row[1:5]} == set(row[1:5])
    for mid, low, high, wide in zip(*(shown[what] for what in WHAT[1:]), strict=True):
        assert low.close < mid.close < high.close
        assert wide.low == low.low
        assert wide.high == high.high
        assert low.low <= wide.open <= low.high
        assert high.low <= wide.close <= high.high


@pytest.mark.parametrize("day", [date(2025, 3, 7), date(2025, 3, 10), *HALF_DAYS])
def test_hours_are_those_of_the_calendar(day):
    close = session_close_et(day)
    regular = day_of("AAPL", "1 min", day)
    assert clock(regular[0]) == "09:30:00"
    assert len(regular) == (close.hour * 60 + close.minute) - 570
    assert [clock(row) for row in day_of("AAPL", "1 hour", day)] == [
        "09:30:00",
        *(f"{hour}:00:00" for hour in range(10, close.hour)),
    ]
    extended = day_of("AAPL", "1 min", day, use_rth=False)
    assert clock(extended[0]) == "04:00:00"
    assert len(extended) == (close.hour + 4 - 4) * 60
    assert set(day_of("AAPL", "1 sec", day)) < set(day_of("AAPL", "1 sec", day, use_rth=False))


def test_nothing_happens_on_closed_days_or_before_the_market():
    for closed in (date(2025, 9, 6), date(2025, 9, 1), date(2025, 1, 9), date(1999, 12, 31)):
        assert day_of("AAPL", "1 min", closed, use_rth=False) == []
    assert len(day_of("AAPL", "1 min", date(2000, 1, 3))) == 390


def test_a_liquid_symbol_trades_nearly_every_second_and_a_thin_one_hardly_ever():
    day = date(2025, 9, 5)
    regular, extended = day_of("AAPL", "1 sec", day), day_of("AAPL", "1 sec", day, use_rth=False)
    assert 0.9 * 23_400 < len(regular) < 23_400
    assert (clock(regular[0]), clock(regular[-1])) == ("09:30:00", "15:59:59")
    assert 0.1 * 34_200 < len(extended) - len(regular) < 0.4 * 34_200
    for number in range(20):
        thin = day_of(f"THIN{number}", "1 min", day)
        assert 0 < len(thin) < 200
        assert clock(thin[0]) > "09:45"
        assert thin == day_of(f"THIN{number}", "1 min", day, use_rth=False)
        assert len(day_of(f"THIN{number}", "1 min", day, what="MIDPOINT")) == 390


def test_prices_move_and_stay_plausible_over_months():
    start, end = span_ns(date(2020, 1, 2))[0], span_ns(date(2020, 9, 30))[1]
    hours = bars_truth("AAPL", "1 hour", start, end)
    closes = [row.close for row in hours]
    steps = [abs(later / earlier - 1) for earlier, later in pairwise(closes)]
    assert min(closes) > 1
    assert max(steps) < 0.1
    assert len(set(closes)) > len(closes) / 4


def test_bars_are_those_that_lie_wholly_inside():
    minute = 60 * 10**9
    nine_thirty = span_ns(date(2025, 9, 5))[0] + 570 * minute
    rows = bars_truth("AAPL", "1 min", nine_thirty + 1, nine_thirty + 4 * minute - 1)
    assert [clock(row) for row in rows] == ["09:31:00", "09:32:00"]
    with pytest.raises(ValueError, match="1 secs, 5 secs"):
        bars_truth("AAPL", "2 hours", 0, 1)
    with pytest.raises(ValueError, match="MIDPOINT"):
        bars_truth("AAPL", "1 min", 0, 1, what="LAST")

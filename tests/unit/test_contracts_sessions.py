"""Windows in New York time and the sessions of XNYS."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import (
    ET,
    InvalidWindow,
    NotASession,
    OutsideCalendar,
    Window,
    effective_window,
    is_session,
    named_session,
    parse_window,
    session_close_et,
    sessions_between,
    today_et,
)

MINUTES = st.builds(time, st.integers(0, 23), st.integers(0, 59))
WINDOWS = st.tuples(MINUTES, MINUTES).filter(lambda w: w[0] < w[1]).map(lambda w: Window(*w))


@given(WINDOWS)
def test_a_window_written_as_text_parses_to_itself(window):
    assert parse_window(str(window)) == window


@given(WINDOWS, st.dates(date(1970, 1, 2), date(2260, 1, 1)))
def test_bounds_in_utc_are_the_wall_clock_of_new_york(window, day):
    start, end = window.bounds_utc(day)
    # 02:00-03:00 does not exist on the day the clocks go forward.
    if window.start.hour != 2 and window.end.hour != 2:
        assert start.astimezone(ET).replace(tzinfo=None) == datetime.combine(day, window.start)
        assert end.astimezone(ET).replace(tzinfo=None) == datetime.combine(day, window.end)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    exact = tuple((moment - epoch) // timedelta(microseconds=1) * 1000 for moment in (start, end))
    assert window.bounds_ns(day) == exact


@pytest.mark.parametrize(
    ("text", "expected"), [("8:30-11:00", "08:30-11:00"), ("08:30-11:00", "08:30-11:00"), ("0:00-23:59", "00:00-23:59")]
)
def test_hours_may_have_one_digit(text, expected):
    assert str(parse_window(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8",
        "08:30",
        "08:30-24:00",
        "08:30\u201311:00",
        "08:30\u201411:00",
        "08:30 - 11:00",
        " 08:30-11:00",
        "08:30-11:00\n",
        "08:60-11:00",
        "8:3-11:00",
        "11:00-08:30",
        "08:30-08:30",
        "-1:00-08:30",
        "\uff108:30-11:00",
        "08:30:00-11:00:00",
        "08:30-11:00-12:00",
    ],
)
def test_any_other_window_is_refused_by_name(text):
    with pytest.raises(InvalidWindow) as caught:
        parse_window(text)
    assert caught.value.text == text
    assert ascii(text)[1:-1] in str(caught.value)


def test_a_window_has_whole_minutes():
    with pytest.raises(InvalidWindow, match="whole minutes"):
        Window(time(8, 30, 1), time(9))


def test_the_effective_window_is_the_intersection_when_enforced():
    assert str(effective_window("08:00-11:30", "08:30-11:00", enforce=True)) == "08:30-11:00"
    assert str(effective_window("08:00-11:30", "08:30-11:00", enforce=False)) == "08:00-11:30"
    assert str(effective_window("09:00-16:00", "08:30-11:00", enforce=True)) == "09:00-11:00"


def test_windows_that_only_touch_have_no_intersection():
    with pytest.raises(InvalidWindow, match=r"08:00-08:30 and 08:30-11:00.*no minute in common"):
        effective_window("08:00-08:30", "08:30-11:00", enforce=True)


@pytest.mark.parametrize("enforce", [True, False])
def test_a_mistyped_trading_window_is_refused_even_when_it_is_not_used(enforce):
    with pytest.raises(InvalidWindow):
        effective_window("08:00-11:30", "8-11", enforce=enforce)


@pytest.mark.parametrize(
    ("day", "utc_hour"), [(date(2025, 3, 7), 14), (date(2025, 3, 10), 13), (date(2025, 11, 3), 14)]
)
def test_the_open_moves_in_utc_with_daylight_saving(day, utc_hour):
    start, _ = parse_window("09:30-11:00").bounds_utc(day)
    assert start == datetime(day.year, day.month, day.day, utc_hour, 30, tzinfo=UTC)
    assert parse_window("09:30-11:00").bounds_ns(day)[0] == int(start.timestamp()) * 10**9


def test_a_day_without_utc_time_is_a_clear_error():
    with pytest.raises(InvalidWindow, match="no UTC time"):
        parse_window("09:30-23:00").bounds_utc(date.max)


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (date(2025, 1, 8), True),
        (date(2025, 1, 9), False),
        (date(2025, 1, 11), False),
        (date(2025, 7, 4), False),
        (date(2025, 4, 18), False),
        (date(2001, 9, 12), False),
        (date(1990, 1, 2), True),
        (date(2025, 11, 28), True),
    ],
)
def test_weekends_holidays_and_special_closures_are_no_sessions(day, expected):
    assert is_session(day) is expected


def test_sessions_between_has_both_ends_and_skips_closed_days():
    expected = [date(2025, 7, 2), date(2025, 7, 3), date(2025, 7, 7)]
    assert sessions_between(date(2025, 7, 2), date(2025, 7, 7)) == expected
    assert sessions_between(date(2025, 7, 7), date(2025, 7, 2)) == []
    assert len(sessions_between(date(2024, 1, 1), date(2024, 12, 31))) == 252


@pytest.mark.parametrize("day", [date(1989, 12, 29), date(1, 1, 1), date(2200, 1, 2), date.max])
def test_days_the_calendar_cannot_know_are_an_error_not_a_guess(day):
    for ask in (is_session, session_close_et, lambda d: sessions_between(d, d)):
        with pytest.raises(OutsideCalendar) as caught:
            ask(day)
        assert caught.value.day == day
    with pytest.raises(OutsideCalendar):
        sessions_between(date(2025, 1, 2), date.max)


def test_next_year_is_known():
    next_year = today_et().year + 1
    assert len(sessions_between(date(next_year, 1, 1), date(next_year, 12, 31))) in range(245, 256)


def test_half_days_close_at_one():
    assert session_close_et(date(2025, 11, 28)) == time(13)
    assert session_close_et(date(2025, 11, 26)) == time(16)
    with pytest.raises(NotASession):
        session_close_et(date(2025, 11, 27))


def test_named_sessions_are_utc_bounds_of_the_exchange_day():
    l2 = parse_window("08:30-11:00")

    def bounds(name, day):
        return [moment.astimezone(ET).strftime("%H:%M") for moment in named_session(name, day, l2)]

    assert bounds("l2", date(2025, 11, 26)) == ["08:30", "11:00"]
    assert bounds("regular", date(2025, 11, 26)) == ["09:30", "16:00"]
    assert bounds("regular", date(2025, 11, 28)) == ["09:30", "13:00"]
    assert bounds("extended", date(2025, 11, 28)) == ["04:00", "20:00"]
    assert named_session("regular", date(2025, 3, 10), l2)[0] == datetime(2025, 3, 10, 13, 30, tzinfo=UTC)
    with pytest.raises(NotASession):
        named_session("l2", date(2025, 1, 9), l2)
    with pytest.raises(InvalidWindow, match="named windows"):
        named_session("lunch", date(2025, 3, 10), l2)


def test_many_threads_get_the_calendar_at_once_without_a_warning():
    """In a fresh process, where the first question loads it, with warnings as errors."""
    program = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from datetime import date\n"
        "import contracts\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    answers = list(pool.map(contracts.is_session, [date(2025, 1, 8), date(2025, 1, 9)] * 8))\n"
        "assert answers == [True, False] * 8\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_table_is_shared_between_threads():
    days = [date(2025, 1, 1) + timedelta(days=n) for n in range(365)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(is_session, days)) == [is_session(day) for day in days]

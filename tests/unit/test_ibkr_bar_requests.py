"""Requests for bars: everything that is needed is asked for once, inside what the broker answers."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from bisect import bisect_right
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.ibkr.bar_requests import (
    BAR_SECONDS,
    WHAT_TO_SHOW,
    BarsRequest,
    DayWindow,
    count_requests,
    count_requests_of_days,
    day_window,
    requests_for,
)
from connectors.ibkr.errors import InvalidRequest
from contracts.errors import NotASession
from contracts.sessions import sessions_between

ET = ZoneInfo("America/New_York")
S = 1_000_000_000
DAY_S = 86_400
# Both changes of daylight-saving time, Thanksgiving with its half day, Christmas.
SESSIONS = sessions_between(dt.date(2024, 2, 1), dt.date(2025, 4, 30))
SIZES = list(BAR_SECONDS)


def ns(text):
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=ET).timestamp()) * S


@st.composite
def needs(draw):
    """A size, hours, and windows of some sessions: whole ones, or cut at either end as a plan cuts them."""
    size, use_rth = draw(st.sampled_from(SIZES)), draw(st.booleans())
    first = draw(st.integers(0, len(SESSIONS) - 1))
    near = SESSIONS[first : first + draw(st.integers(1, 90))]
    days = draw(st.lists(st.sampled_from(near), unique=True, max_size=30))
    windows = []
    for day in days:
        whole = day_window(day, use_rth=use_rth)
        seconds = (whole.end_ns - whole.start_ns) // S
        start_s = draw(st.just(0) | st.integers(0, seconds - 1))
        end_s = draw(st.just(seconds) | st.integers(start_s + 1, seconds))
        windows.append(DayWindow(day, whole.start_ns + start_s * S, whole.start_ns + end_s * S))
    return size, use_rth, windows


def seconds_of(duration):
    """What a duration spans at the least, were its days calendar days of 24 hours."""
    number, unit = duration.split()
    return int(number) * {"S": 1, "D": DAY_S, "W": 7 * DAY_S}[unit]


def starts_by_trading_days(request):
    """Where the answer begins when the vendor counts back trading days, the day of the end being the first."""
    number, unit = request.duration.split()
    if unit == "S":
        return request.end_ns - int(number) * S
    end = dt.datetime.fromtimestamp(request.end_ns // S - 1, ET).date()
    last = bisect_right(SESSIONS, end) - 1
    count = int(number) * (5 if unit == "W" else 1)
    return day_window(SESSIONS[max(0, last - count + 1)], use_rth=request.use_rth).start_ns


@settings(max_examples=100, deadline=None)
@given(needs(), st.booleans())
def test_every_needed_moment_is_in_exactly_one_request(need, newest_first):
    size, use_rth, windows = need
    requests = list(requests_for("AAPL", size, windows, use_rth=use_rth, newest_first=newest_first))

    asked = sorted((part.start_ns, part.end_ns, part.day) for request in requests for part in request.windows)
    joined = []
    for start_ns, end_ns, day in asked:
        if joined and joined[-1][1:] == [start_ns, day]:
            joined[-1][1] = end_ns
        else:
            joined.append([start_ns, end_ns, day])
    assert joined == [[window.start_ns, window.end_ns, window.day] for window in sorted(windows, key=lambda w: w.day)]

    ends = [request.end_ns for request in requests]
    assert ends == sorted(ends, reverse=newest_first)
    assert len({request.key for request in requests}) == len(requests)
    assert count_requests(size, windows) == len(requests)
    ordered = sorted(windows, key=lambda window: window.day)
    assert count_requests_of_days(
        size,
        np.array([window.day for window in ordered], "datetime64[D]"),
        np.array([window.start_ns for window in ordered], np.int64),
        np.array([window.end_ns for window in ordered], np.int64),
    ) == len(requests)


@settings(max_examples=100, deadline=None)
@given(needs())
def test_every_request_is_one_that_the_broker_answers_in_full(need):
    size, use_rth, windows = need
    for request in requests_for("AAPL", size, windows, use_rth=use_rth):
        assert re.fullmatch(r"[1-9][0-9]* [SDW]", request.duration)
        assert request.use_rth == use_rth
        most_s = {"1 sec": 1800, "1 min": 5 * DAY_S, "1 hour": 28 * DAY_S}[size]
        assert 0 < seconds_of(request.duration) <= most_s
        if size == "1 min":
            weeks = {day.isocalendar()[:2] for day in request.days}
            assert len(weeks) == 1
        if size == "1 sec":
            assert request.start_ns % (1800 * S) == 0
            assert request.end_ns - request.start_ns == seconds_of(request.duration) * S
        # Whichever way the broker counts, the answer reaches back to the first moment that is needed.
        first_ns = request.windows[0].start_ns
        assert request.start_ns <= first_ns
        assert request.end_ns - seconds_of(request.duration) * S <= first_ns
        assert starts_by_trading_days(request) <= first_ns
        assert request.end_ns == request.windows[-1].end_ns


@settings(max_examples=25, deadline=None)
@given(needs())
def test_sessions_that_fit_one_request_are_not_asked_for_in_two(need):
    size, use_rth, windows = need
    requests = list(requests_for("AAPL", size, windows, use_rth=use_rth, newest_first=False))
    for one, other in itertools.pairwise(requests):
        if size == "1 hour":
            assert (other.days[-1] - one.days[-1]).days > 27
        if size == "1 min":
            assert one.days[-1].isocalendar()[:2] != other.days[-1].isocalendar()[:2]


@pytest.mark.parametrize(
    ("day", "use_rth", "start", "end", "chunks"),
    [
        ("2025-09-05", True, "09:30", "16:00", 13),
        ("2024-11-29", True, "09:30", "13:00", 7),
        ("2025-09-05", False, "04:00", "20:00", 32),
        ("2024-11-29", False, "04:00", "20:00", 32),
        ("2025-03-10", True, "09:30", "16:00", 13),
    ],
)
def test_the_window_of_a_session_and_its_half_hours(day, use_rth, start, end, chunks):
    window = day_window(dt.date.fromisoformat(day), use_rth=use_rth)
    assert window.start_ns == ns(f"{day}T{start}")
    assert window.end_ns == ns(f"{day}T{end}")
    requests = list(requests_for("AAPL", "1 sec", [window], use_rth=use_rth))
    assert [request.duration for request in requests] == ["1800 S"] * chunks


def test_what_goes_over_the_wire():
    week = [day_window(day, use_rth=True) for day in sessions_between(dt.date(2025, 9, 2), dt.date(2025, 9, 5))]
    (minutes,) = requests_for("BRK-B", "1 min", week)
    assert (minutes.wire_bar_size, minutes.duration, minutes.wire_end) == ("1 min", "4 D", "20250905 20:00:00 UTC")
    assert minutes.days == tuple(window.day for window in week)

    month = [day_window(day, use_rth=True) for day in sessions_between(dt.date(2025, 8, 11), dt.date(2025, 9, 5))]
    (hours,) = requests_for("AAPL", "1 hour", month)
    assert (hours.wire_bar_size, hours.duration, hours.wire_end) == ("1 hour", "4 W", "20250905 20:00:00 UTC")

    until_now = DayWindow(dt.date(2025, 9, 5), ns("2025-09-05T09:30"), ns("2025-09-05T11:07:13"))
    newest, *_, oldest = requests_for("AAPL", "1 sec", [until_now])
    assert (newest.wire_bar_size, newest.duration, newest.wire_end) == ("1 secs", "433 S", "20250905 15:07:13 UTC")
    assert (oldest.duration, oldest.wire_end) == ("1800 S", "20250905 14:00:00 UTC")
    assert str(newest) == "AAPL 1 sec 2025-09-05 11:00:00-11:07:13"


def test_a_day_of_which_only_the_end_is_needed_asks_for_whole_half_hours_and_cuts_the_answer():
    rest = DayWindow(dt.date(2025, 9, 5), ns("2025-09-05T15:10:05"), ns("2025-09-05T16:00"))
    late, early = requests_for("AAPL", "1 sec", [rest])
    assert early.start_ns == ns("2025-09-05T15:00")
    assert early.windows == (DayWindow(rest.day, rest.start_ns, ns("2025-09-05T15:30")),)
    assert late.start_ns == ns("2025-09-05T15:30")
    whole = requests_for("AAPL", "1 sec", [day_window(rest.day, use_rth=True)])
    assert [late.wire_key, early.wire_key] == [next(whole).wire_key, next(whole).wire_key]
    assert early.key not in {
        request.key for request in requests_for("AAPL", "1 sec", [day_window(rest.day, use_rth=True)])
    }


@pytest.mark.parametrize(
    "change",
    [
        {"what_to_show": "BID"},
        {"use_rth": False},
        {"exchange": "ISLAND"},
        {"currency": "CAD"},
        {"symbol": "AAPL-U"},
        {"bar_size": "1 hour"},
    ],
)
def test_requests_that_differ_in_anything_are_not_taken_for_one_another(change):
    words = {"symbol": "AAPL", "bar_size": "1 min", "windows": [day_window(dt.date(2025, 9, 5), use_rth=True)]}
    (one,) = requests_for(**words)
    (other,) = requests_for(**{**words, **change})
    assert one.wire_key != other.wire_key
    assert one.key != other.key


def test_nothing_needed_nothing_asked():
    assert list(requests_for("AAPL", "1 min", [])) == []
    assert [count_requests(size, []) for size in SIZES] == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"symbol": "aapl"}, "write AAPL"),
        ({"symbol": "../x"}, r"\.\./x"),
        ({"bar_size": "1 secs"}, "'1 secs', it can be"),
        ({"what_to_show": "trades"}, "'trades', it can be TRADES"),
        ({"exchange": ""}, "use SMART"),
        ({"windows": [day_window(dt.date(2025, 9, 5), use_rth=True)] * 2}, "2025-09-05 is needed twice"),
        ({"windows": [day_window(dt.date(2025, 9, 5), use_rth=False)]}, "outside the regular hours"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(change, says):
    words = {"symbol": "AAPL", "bar_size": "1 min", "windows": [], **change}
    with pytest.raises(InvalidRequest, match=says):
        requests_for(**words)


def test_a_closed_day_is_never_asked_for():
    holiday = dt.date(2025, 1, 9)
    with pytest.raises(NotASession):
        day_window(holiday, use_rth=True)
    with pytest.raises(NotASession):
        requests_for("AAPL", "1 min", [DayWindow(holiday, ns("2025-01-09T09:30"), ns("2025-01-09T16:00"))])


@pytest.mark.parametrize(("start_ns", "end_ns"), [(S, S), (2 * S, S), (1, S), (0, S + 1)])
def test_a_window_holds_whole_seconds(start_ns, end_ns):
    with pytest.raises(InvalidRequest, match="2025-09-05"):
        DayWindow(dt.date(2025, 9, 5), start_ns, end_ns)


def test_a_request_made_by_hand_is_checked_too():
    window = day_window(dt.date(2025, 9, 5), use_rth=True)
    good = {
        "symbol": "AAPL",
        "bar_size": "1 min",
        "windows": (window,),
        "start_ns": window.start_ns,
        "end_ns": window.end_ns,
        "duration": "1 D",
        "what_to_show": WHAT_TO_SHOW[0],
        "use_rth": True,
    }
    BarsRequest(**good)
    for change in ({"windows": ()}, {"end_ns": window.end_ns - S}, {"windows": (window, window)}):
        with pytest.raises(InvalidRequest):
            BarsRequest(**{**good, **change})

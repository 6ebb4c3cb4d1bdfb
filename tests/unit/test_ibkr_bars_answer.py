"""What the gateway sent becomes the bars that were asked for, or an error that says what is wrong with it."""

from __future__ import annotations

import datetime as dt
import math
import time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.ibkr._bars_answer import answer_of
from connectors.ibkr.bar_requests import DayWindow, day_window, requests_for
from connectors.ibkr.errors import BadAnswer
from contracts.v1.bars import BAR_SCHEMA

ET = ZoneInfo("America/New_York")
S = 1_000_000_000
DAY = dt.date(2025, 9, 5)
LATER_NS = int(dt.datetime(2025, 9, 10, tzinfo=ET).timestamp()) * S


def seconds(clock, day=DAY):
    return int(dt.datetime.combine(day, dt.time.fromisoformat(clock), tzinfo=ET).timestamp())


def request_of(size="1 min", day=DAY, *, use_rth=True, windows=None):
    (request, *_) = requests_for(
        "AAPL", size, windows or [day_window(day, use_rth=use_rth)], use_rth=use_rth, newest_first=False
    )
    return request


def message(*bars):
    """Message 17 with bars of (time, open, high, low, close, volume, WAP, count)."""
    return ["17", "7", "a start", "an end", str(len(bars)), *(str(field) for bar in bars for field in bar)]


def bar(at, opened=10.0, high=11.0, low=9.0, close=10.5, volume=100, wap=10.2, count=3):
    return (at, opened, high, low, close, volume, wap, count)


def rows_of(answer):
    return answer.table.to_pylist()


def answered(request, *bars, asked_at_ns=LATER_NS):
    return answer_of(request, message(*bars), asked_at_ns=asked_at_ns, attempts=1)


def stamp(at):
    return f"{dt.datetime.fromtimestamp(at, dt.UTC):%Y-%m-%dT%H:%M:%S}.000000000+00:00"


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_order_and_any_repetition_gives_each_bar_of_the_windows_once(data):
    days = [dt.date(2025, 9, 2), dt.date(2025, 9, 3), DAY]
    cut = st.integers(0, 389)
    windows = []
    for day in days:
        whole, start = day_window(day, use_rth=True), data.draw(cut)
        end = data.draw(st.integers(start + 1, 390))
        windows.append(DayWindow(day, whole.start_ns + start * 60 * S, whole.start_ns + end * 60 * S))
    request = request_of(windows=windows)
    times = [seconds("09:00", day) + 60 * n for day in days for n in range(0, 450, 7)]
    drawn = data.draw(st.lists(st.tuples(st.sampled_from(times), st.integers(1, 99)), max_size=60))
    asked_at_s = data.draw(st.sampled_from([LATER_NS // S, seconds("10:37"), seconds("10:37") + 59]))

    answer = answered(
        request,
        *(bar(at, cents / 100, cents / 100, cents / 100, cents / 100) for at, cents in drawn),
        asked_at_ns=asked_at_s * S,
    )

    kept = [
        (at, cents)
        for at, cents in drawn
        if any(window.start_ns <= at * S < window.end_ns for window in windows) and at + 60 <= asked_at_s
    ]
    expected = dict(kept)
    assert [(row["timestamp"], row["close"]) for row in rows_of(answer)] == [
        (stamp(at), expected[at] / 100) for at in sorted(expected)
    ]
    assert answer.table.schema.equals(BAR_SCHEMA)
    assert answer.duplicates == len(kept) - len(expected)
    assert answer.outside == len(drawn) - len(kept)
    assert answer.is_no_data == (not drawn)


def test_a_bar_is_what_the_gateway_sent():
    at = seconds("09:30")
    answer = answered(request_of(), bar(at, "10.01", "11.125", "9.5", "10", "1234567890", "10.2", "321"))
    assert rows_of(answer) == [
        {
            "timestamp": "2025-09-05T13:30:00.000000000+00:00",
            "open": 10.01,
            "high": 11.125,
            "low": 9.5,
            "close": 10.0,
            "volume": 1234567890.0,
            "barCount": 321,
            "WAP": 10.2,
        }
    ]
    assert (answer.attempts, answer.asked_at_ns, answer.duplicates, answer.outside) == (1, LATER_NS, 0, 0)


@pytest.mark.parametrize(
    ("volume", "wap", "count", "expected"),
    [
        (-1, -1, -1, (0.0, None, 0)),
        (0, 0, 0, (0.0, None, 0)),
        (0, 10.2, 0, (0.0, 10.2, 0)),
        (5, "nan", 1, (5.0, None, 1)),
        (5, 0, 1, (5.0, 0.0, 1)),
    ],
)
def test_what_the_broker_has_none_of(volume, wap, count, expected):
    (row,) = rows_of(answered(request_of(), bar(seconds("09:30"), volume=volume, wap=wap, count=count)))
    assert (row["volume"], row["WAP"], row["barCount"]) == expected


def test_of_two_bars_of_one_time_the_later_one_counts():
    at = seconds("09:31")
    answer = answered(request_of(), bar(at, close=10.1), bar(at - 60), bar(at, close=10.2), bar(at - 60))
    assert [row["close"] for row in rows_of(answer)] == [10.5, 10.2]
    assert answer.duplicates == 2


@pytest.mark.parametrize(
    ("size", "at", "ends"),
    [
        ("1 sec", "09:30:00", "09:30:01"),
        ("1 min", "09:30:00", "09:31:00"),
        ("1 hour", "09:30:00", "10:00:00"),
        ("1 hour", "10:00:00", "11:00:00"),
    ],
)
def test_a_bar_that_is_still_forming_is_left_out(size, at, ends):
    ended = answered(request_of(size), bar(seconds(at)), asked_at_ns=seconds(ends) * S)
    forming = answered(request_of(size), bar(seconds(at)), asked_at_ns=seconds(ends) * S - 1)
    assert (ended.table.num_rows, forming.table.num_rows, forming.outside) == (1, 0, 1)


@pytest.mark.parametrize("form", ["20250905 {:%H:%M:%S} US/Eastern", "20250905 {:%H:%M:%S} America/New_York"])
def test_times_with_a_zone_are_read(form):
    (row,) = rows_of(answered(request_of(), bar(form.format(dt.time(9, 30)))))
    assert row["timestamp"] == stamp(seconds("09:30"))


@pytest.mark.parametrize(
    "at",
    [
        "20250905  09:30:00",
        "20250905 09:30:00",
        "20250905",
        "2025-09-05 09:30:00",
        "",
        "-1",
        "12.5",
        "1e9",
        "9" * 30,
        "9" * 9999,
        "20250905 09:30:00 Nowhere/City",
        "20250905 09:30:00 ../etc/passwd",
        "20251305 09:30:00 UTC",
    ],
)
def test_a_time_that_is_no_moment_is_refused(at):
    with pytest.raises(BadAnswer, match=r"^AAPL 1 min 2025-09-05 09:30:00-16:00:00: .*time") as caught:
        answered(request_of(), bar(seconds("09:30")), bar(at))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("size", "at"), [("1 min", "09:30:01"), ("1 min", "15:59:59"), ("1 hour", "10:30:00"), ("1 hour", "09:31:00")]
)
def test_a_bar_off_the_grid_of_its_size_is_refused(size, at):
    with pytest.raises(BadAnswer, match=f"{seconds(at) // 3600 % 24:02d}:{at[3:]} UTC begins off the grid"):
        answered(request_of(size), bar(seconds(at)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"low": 10.2}, "a low above"),
        ({"high": 10.2}, "a high below"),
        ({"opened": 8.99}, "a low above"),
        ({"opened": "nan"}, "a price that is no number"),
        ({"high": "inf"}, "a price that is no number"),
        ({"close": "-inf"}, "a price that is no number"),
        ({"volume": "nan"}, "a volume or a count"),
        ({"count": "1e300"}, "a volume or a count"),
        ({"low": "cheap"}, "what is no number"),
        ({"count": ""}, "what is no number"),
    ],
)
def test_a_bar_that_cannot_be_is_refused(change, says):
    with pytest.raises(BadAnswer, match=says) as caught:
        answered(request_of(), bar(seconds("09:30")), bar(seconds("09:31"), **change))
    assert caught.value.symbol == "AAPL"


def test_only_what_is_kept_is_judged():
    answer = answered(request_of(), bar(seconds("09:29"), low=99), bar(seconds("09:30")))
    assert (answer.table.num_rows, answer.outside) == (1, 1)


@pytest.mark.parametrize("fields", [["17", "7"], message()[:4], [*message(), "1"], message(bar(1))[:-1]])
def test_an_answer_that_does_not_hold_what_it_says_is_refused(fields):
    with pytest.raises(BadAnswer):
        answer_of(request_of(), fields, asked_at_ns=LATER_NS, attempts=1)


@pytest.mark.parametrize("count", ["-1", "two", "1"])
def test_a_number_of_bars_that_cannot_be_is_refused(count):
    with pytest.raises(BadAnswer, match="bars"):
        answer_of(request_of(), ["17", "7", "", "", count], asked_at_ns=LATER_NS, attempts=1)


def test_thousands_of_bars_take_milliseconds():
    request = request_of("1 min", use_rth=False, windows=[day_window(DAY, use_rth=False)])
    first = seconds("04:00")
    fields = message(*(bar(first + 60 * n, wap=math.pi) for n in range(-4000, 960)))
    best_s = math.inf
    for _ in range(5):
        began = time.perf_counter()
        answer = answer_of(request, fields, asked_at_ns=LATER_NS, attempts=1)
        best_s = min(best_s, time.perf_counter() - began)
    assert (answer.table.num_rows, answer.outside) == (960, 4000)
    assert best_s < 0.05

"""The rules of a capture that need no disk: gaps, days, windows, grids, and what a session may be."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.capture_gaps import ClosedGap, GapState, OpenGap
from flows.capture_spec import SessionSpec
from flows.capture_time import (
    day_bounds,
    day_of,
    first_grid_point,
    next_boundary,
    session_window,
    utc_text,
    window_bounds,
)
from flows.errors import ConfigurationError

S = 10**9
HOUR = 3600 * S
ET = ZoneInfo("America/New_York")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def at(text: str, fold: int = 0) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=ET, fold=fold)
    return (moment.astimezone(UTC) - EPOCH) // timedelta(microseconds=1) * 1000


# --- gaps ----------------------------------------------------------------------------------------------------------


def test_incidents_in_a_hole_leave_contiguous_records():
    state = GapState(OpenGap(0, "connect", "", clear=True))
    records = [
        state.seen(10),
        state.lost(20, "reset_317", "317", clear=True),
        state.lost(25, "halt_316", "316", clear=True),
        state.seen(40),
        state.seen(50),
    ]
    assert records == [
        ClosedGap(0, 10, "connect", ""),
        None,
        ClosedGap(20, 25, "reset_317", "317"),
        ClosedGap(25, 40, "halt_316", "316"),
        None,
    ]


def test_what_is_learned_after_a_lost_connection_takes_over_its_start():
    """1100 and then 1101 is one loss of data, from the 1100 on."""
    state = GapState()
    assert state.lost(10, "disconnect", "1100", clear=False) is None
    assert state.lost(15, "data_lost", "1101", clear=True) is None
    assert state.seen(20) == ClosedGap(10, 20, "data_lost", "1101")


def test_a_book_that_is_never_seen_leaves_one_record_with_the_reason():
    state = GapState(OpenGap(0, "connect", "not connected yet", clear=True))
    assert state.lost(10, "connect", "error 354", clear=True) is None
    assert state.seen(90) == ClosedGap(0, 90, "connect", "error 354")


def test_a_cleared_book_is_an_incident_of_its_own():
    state = GapState()
    state.lost(10, "disconnect", "closed", clear=True)
    assert state.lost(15, "data_lost", "1101", clear=True) == ClosedGap(10, 15, "disconnect", "closed")


def test_a_hole_without_length_is_told_unless_the_next_one_hides_it():
    state = GapState()
    state.lost(10, "clock", "back", clear=False)
    assert state.seen(10) == ClosedGap(10, 10, "clock", "back")
    state.lost(10, "reset_317", "", clear=True)
    assert state.lost(10, "halt_316", "", clear=True) is None
    assert state.current == OpenGap(10, "halt_316", "", clear=True)
    assert state.cut(10) is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 9), st.booleans()), max_size=30))
def test_holes_never_overlap_and_none_is_forgotten(steps):
    state, ns, records, lost_since = GapState(OpenGap(0, "connect", "", clear=True)), 0, [], 0
    for is_lost, later, back, clear in steps:
        ns += later
        if is_lost:
            # Nothing begins before the last moment that was seen.
            since = max(ns - back, records[-1].end_ns if records else 0)
            lost_since = since if lost_since is None else lost_since
            records.append(state.lost(since, "data_lost" if clear else "disconnect", "", clear=clear))
        else:
            records.append(state.seen(ns))
            lost_since = None
        records = [record for record in records if record is not None]
    assert (lost_since is None) == (state.current is None)
    for before, after in itertools.pairwise(records):
        assert before.start_ns <= before.end_ns <= after.start_ns


# --- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "rotate_minutes", "boundary"),
    [
        ("2025-09-04T09:30:00", 15, "2025-09-04T09:45:00"),
        ("2025-09-04T09:44:59.999999", 15, "2025-09-04T09:45:00"),
        ("2025-09-04T09:31:00", 0.5, "2025-09-04T09:31:30"),
        ("2025-09-04T23:50:00", 15, "2025-09-05T00:00:00"),
        ("2025-09-04T23:50:00", 7, "2025-09-04T23:55:00"),
        ("2025-09-04T23:56:00", 7, "2025-09-05T00:00:00"),
        ("2025-09-04T09:30:00", 10_000, "2025-09-05T00:00:00"),
    ],
)
def test_segments_end_at_multiples_since_midnight_and_at_midnight(moment, rotate_minutes, boundary):
    assert next_boundary(at(moment), rotate_minutes) == at(boundary)


def test_days_of_23_and_25_hours_are_cut_at_their_own_midnight():
    for text, hours in (("2025-03-09", 23), ("2025-11-02", 25), ("2025-09-04", 24)):
        start_ns, end_ns = day_bounds(date.fromisoformat(text))
        assert (start_ns, end_ns - start_ns) == (at(f"{text}T00:00"), hours * HOUR)
        assert day_of(start_ns) == day_of(end_ns - 1) == date.fromisoformat(text)
        assert next_boundary(end_ns - 1, 45) == end_ns


@pytest.mark.parametrize(
    ("start", "end", "day", "window"),
    [
        ("2025-09-04T09:30:00", "2025-09-04T11:00:00", "2025-09-04", "09:30-11:00"),
        ("2025-09-04T09:30:59.9", "2025-09-04T10:59:00.1", "2025-09-04", "09:30-11:00"),
        ("2025-09-04T23:50:00", "2025-09-05T00:20:00", "2025-09-04", "23:50-23:59"),
        ("2025-09-04T23:50:00", "2025-09-05T00:20:00", "2025-09-05", "00:00-00:20"),
        ("2025-09-04T23:59:30", "2025-09-05T00:20:00", "2025-09-04", "23:58-23:59"),
        ("2025-09-04T23:50:00", "2025-09-04T23:59:30", "2025-09-04", "23:50-23:59"),
        ("2025-09-04T09:30:00", "2025-09-04T09:30:01", "2025-09-04", "09:30-09:31"),
    ],
)
def test_a_window_is_the_session_in_whole_minutes_of_its_day(start, end, day, window):
    found = session_window(at(start), at(end), date.fromisoformat(day))
    assert str(found) == window


@given(
    start=st.one_of(
        st.integers(at("2025-11-01T20:00"), at("2025-11-02T06:00")),
        st.integers(at("2025-03-08T20:00"), at("2025-03-09T06:00")),
        st.integers(at("2025-09-04T00:00"), at("2025-09-05T00:00") - 1),
    ),
    length=st.integers(1, 20 * HOUR),
)
def test_a_window_always_holds_its_session(start, length):
    """Also in the night in which New York's clock runs back."""
    end = start + length
    for moment in (start, end - 1):
        day = day_of(moment)
        first_ns, last_ns = day_bounds(day)
        window_start_ns, window_end_ns = window_bounds(session_window(start, end, day), day)
        assert first_ns <= window_start_ns <= max(start, first_ns)
        assert min(end, last_ns) <= window_end_ns <= last_ns


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.sampled_from([1, 100, 700]))
def test_the_first_grid_point_is_the_next_one(ns, start_ns, interval_ms):
    point_ns = first_grid_point(ns, start_ns, interval_ms)
    assert 0 <= point_ns - ns < interval_ms * 1_000_000
    assert (point_ns - start_ns) % (interval_ms * 1_000_000) == 0


def test_times_are_told_to_the_nanosecond():
    assert utc_text(at("2025-09-04T09:30:00") + 123_456_789) == "2025-09-04T13:30:00.123456789+00:00"


# --- the session ---------------------------------------------------------------------------------------------------

GOOD = {
    "session_id": "s-1",
    "symbols": ("AAPL",),
    "levels": 10,
    "interval_ms": 100,
    "start_ns": at("2025-09-04T09:30"),
    "planned_end_ns": at("2025-09-04T11:00"),
    "paper_mode": True,
    "producer": "test 1",
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("session_id", ""),
        ("session_id", "../x"),
        ("symbols", ()),
        ("symbols", ("AAPL", "AAPL")),
        ("symbols", ("brk.b",)),
        ("levels", 0),
        ("interval_ms", -1),
        ("planned_end_ns", GOOD["start_ns"]),
        ("planned_end_ns", GOOD["start_ns"] + 49 * HOUR),
        ("producer", ""),
        ("rotate_minutes", 0.0),
        ("rotate_minutes", float("nan")),
        ("flush_s", 0.0),
        ("queue_messages", 1),
    ],
)
def test_a_session_that_cannot_be_is_refused(key, value):
    with pytest.raises(ConfigurationError, match=key if key != "planned_end_ns" else "the session from"):
        SessionSpec(**{**GOOD, key: value})


def test_a_session_survives_its_folder():
    spec = SessionSpec(**GOOD, rotate_minutes=0.5)
    assert SessionSpec.from_document({**spec.to_document(), "of a later version": 1}) == spec
    with pytest.raises(ConfigurationError, match="session_id"):
        SessionSpec.from_document({})


def test_the_footer_says_what_the_book_contains():
    metadata = SessionSpec(**GOOD, exchange="ISLAND").metadata("AAPL", date(2025, 9, 4))
    assert (metadata.source, metadata.window_et, metadata.book_scope.venues) == ("ibkr", "09:30-11:00", ("ISLAND",))
    assert metadata.book_scope.odd_lots == "excluded"

"""Regular hours as the silence watchdog asks for them."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from connectors.ibkr._hours import RegularHours


def et(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("America/New_York")).timestamp()) * 10**9


@pytest.fixture(scope="module")
def hours():
    loaded = RegularHours()
    # Two sessions before and after the clocks change, Thanksgiving and the half day after it.
    loaded.load(et("2025-10-30T12:00"), et("2025-11-28T12:00"))
    return loaded


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2025-10-31T09:29:59", False),
        ("2025-10-31T09:30:00", True),
        ("2025-10-31T15:59:59", True),
        ("2025-10-31T16:00:00", False),
        ("2025-11-01T12:00:00", False),
        ("2025-11-03T09:29:59", False),
        ("2025-11-03T09:30:00", True),
        ("2025-11-27T12:00:00", False),
        ("2025-11-28T12:59:59", True),
        ("2025-11-28T13:00:00", False),
        ("2025-10-29T12:00:00", False),
        ("2025-12-01T12:00:00", False),
    ],
)
def test_the_market_is_open_from_half_past_nine_to_the_close(hours, moment, is_open):
    assert hours.is_open(et(moment)) == is_open


def test_before_it_has_loaded_nothing_is_open():
    assert not RegularHours().is_open(et("2025-10-31T12:00:00"))


def test_days_outside_the_calendar_are_closed_and_no_failure(caplog):
    far = RegularHours()
    far.load(et("1970-01-02T12:00"), et("1970-01-03T12:00"))
    assert not far.is_open(et("1970-01-02T12:00:00"))
    assert "silent books are not noticed" in caplog.text

"""Days, segment boundaries, windows and grids of a live capture: whole numbers of nanoseconds since 1970 UTC.

The clock itself is the caller's. A day is that of New York, which has 23 or 25 hours twice a year.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final

import numpy as np

from contracts.sessions import ET, Window
from contracts.timestamps import iso_utc_from_ns

_NS: Final = 1_000_000_000
_MINUTE_NS: Final = 60 * _NS
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MINUTE: Final = time(23, 59)


def day_of(ns: int) -> date:
    """Return the day in New York of a moment."""
    return datetime.fromtimestamp(ns // _NS, ET).date()


@lru_cache(maxsize=16)
def day_bounds(day: date) -> tuple[int, int]:
    """Return start (inclusive) and end (exclusive) of a day in New York."""
    return _midnight(day), _midnight(day + timedelta(days=1))


def next_boundary(ns: int, rotate_minutes: float) -> int:
    """Return the first moment after `ns` at which a segment ends: a multiple of the rotation, or midnight."""
    start_ns, end_ns = day_bounds(day_of(ns))
    length_ns = max(1, round(rotate_minutes * _MINUTE_NS))
    return min(start_ns + ((ns - start_ns) // length_ns + 1) * length_ns, end_ns)


def session_window(start_ns: int, end_ns: int, day: date) -> Window:
    """Return the part of a day that a session covers, widened to whole minutes of ET wall clock.

    An end of 23:59 means to midnight, for a window cannot say 24:00. Where the wall clock runs back within the session
    the window is the whole day.
    """
    whole = Window(time(0), _LAST_MINUTE)
    first_ns, last_ns = day_bounds(day)
    begins = datetime.fromtimestamp(max(start_ns, first_ns) // _NS, ET).time().replace(second=0)
    if end_ns >= last_ns:
        ends = _LAST_MINUTE
    else:
        ends = datetime.fromtimestamp(-(-end_ns // _MINUTE_NS) * 60, ET).time()
        # Up to the last minute rounds up to midnight, which has another name here.
        ends = _LAST_MINUTE if ends == time(0) else ends
    if begins == _LAST_MINUTE:
        begins = time(23, 58)
    if begins >= ends:
        return whole
    window = Window(begins, ends)
    window_start_ns, window_end_ns = window_bounds(window, day)
    is_inside = window_start_ns <= max(start_ns, first_ns) and min(end_ns, last_ns) <= window_end_ns
    return window if is_inside else whole


def window_bounds(window: Window, day: date) -> tuple[int, int]:
    """Return start and end of a window of a live file; 23:59 at its end means midnight."""
    start_ns, end_ns = window.bounds_ns(day)
    return start_ns, day_bounds(day)[1] if window.end == _LAST_MINUTE else end_ns


def first_grid_point(ns: int, start_ns: int, interval_ms: int) -> int:
    """Return the first point at or after a moment of the grid that begins at `start_ns`; with 0 the moment itself."""
    if interval_ms == 0:
        return ns
    interval_ns = interval_ms * 1_000_000
    return start_ns - (start_ns - ns) // interval_ns * interval_ns


def wall_clock(ns: int) -> time:
    """Return the ET wall clock of a moment in whole seconds, as in file names."""
    return datetime.fromtimestamp(ns // _NS, ET).time()


def utc_text(ns: int) -> str:
    """Return a moment as a text of fixed width, such as `2025-09-04T13:30:00.100000000+00:00`."""
    text: str = iso_utc_from_ns(np.array([ns], np.int64))[0].as_py()
    return text


def utc_datetime(ns: int) -> datetime:
    """Return a moment as an aware UTC datetime, cut to microseconds."""
    return _EPOCH + timedelta(microseconds=ns // 1000)


def ns_of_datetime(moment: datetime) -> int:
    """Return an aware datetime in nanoseconds since 1970 UTC."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _midnight(day: date) -> int:
    return ns_of_datetime(datetime.combine(day, time(0), tzinfo=ET))

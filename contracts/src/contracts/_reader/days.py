"""ET trading days as callers of the reader give them, and their bounds."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta

from contracts.errors import InvalidName
from contracts.sessions import ET


def to_day(value: date | str) -> date:
    """Return a day given as a date or as `YYYY-MM-DD`.

    Raises:
        InvalidName: It is neither. A datetime is not: which day it means depends on its zone.
    """
    if isinstance(value, str):
        try:
            day = date.fromisoformat(value)
        except ValueError:
            raise InvalidName(value, "expected a day as YYYY-MM-DD") from None
        if day.isoformat() != value:
            raise InvalidName(value, "expected a day as YYYY-MM-DD")
        return day
    if isinstance(value, datetime) or not isinstance(value, date):
        raise InvalidName(value, "expected an ET trading day, a datetime.date or YYYY-MM-DD; a time has .date()")
    return value


def to_range(start: date | str, end: date | str | None) -> tuple[date, date]:
    """Return first and last day of a range; without an end it is one day.

    Raises:
        InvalidName: As `to_day`; also when the end is before the start.
    """
    first = to_day(start)
    last = first if end is None else to_day(end)
    if last < first:
        raise InvalidName(f"{first} to {last}", "the last day is before the first")
    return first, last


def day_bounds_ns(day: date) -> tuple[int, int]:
    """Return the midnights in which an ET day lies, nanoseconds since 1970-01-01 UTC, the end exclusive.

    A day at the very end of the calendar has no bounds; then they are equal, and no time lies in it.
    """
    try:
        midnights = [datetime.combine(at, time(), tzinfo=ET) for at in (day, day + timedelta(days=1))]
        start, stop = (int(midnight.timestamp()) * 1_000_000_000 for midnight in midnights)
    except (OverflowError, ValueError):
        return 0, 0
    return start, stop

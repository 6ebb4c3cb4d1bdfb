"""Time windows in New York time, and the sessions of the exchange calendar XNYS.

Windows need only the standard library. The calendar (exchange_calendars, which pulls pandas) is imported at the first
question about a session, reduced to a table of days and closing times, and never seen outside this module.
"""

from __future__ import annotations

import re
import threading
import warnings
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

from contracts.errors import InvalidWindow, NotASession, OutsideCalendar

ET: Final = ZoneInfo("America/New_York")
"""The clock of names, windows and trading days."""

SessionName = Literal["l2", "regular", "extended"]

FIRST_CALENDAR_DAY: Final = date(1990, 1, 1)
_YEARS_AHEAD: Final = 2
_OPEN_ET: Final = time(9, 30)
_EXTENDED_ET: Final = (time(4), time(20))
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WINDOW: Final = re.compile(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})")


@dataclass(frozen=True)
class Window:
    """A part of every day, in whole minutes of ET wall clock.

    Attributes:
        start: First minute, inclusive.
        end: The end, exclusive; later than `start`.

    Raises:
        InvalidWindow: `start` is not before `end`, or one is no naive time in whole minutes.
    """

    start: time
    end: time

    def __post_init__(self) -> None:
        for clock in (self.start, self.end):
            if clock.second or clock.microsecond or clock.tzinfo is not None:
                raise InvalidWindow(f"{self.start}-{self.end}", "times are ET wall clock in whole minutes")
        if self.start >= self.end:
            raise InvalidWindow(str(self), "the start must be before the end")

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"

    def intersect(self, other: Window) -> Window:
        """Return the part common to both.

        Raises:
            InvalidWindow: There is none.
        """
        start, end = max(self.start, other.start), min(self.end, other.end)
        if start >= end:
            raise InvalidWindow(f"{self} and {other}", "they have no minute in common")
        return Window(start, end)

    def bounds_utc(self, day: date) -> tuple[datetime, datetime]:
        """Return start and end on an ET day as aware UTC datetimes, by the daylight-saving rules of that day.

        Raises:
            InvalidWindow: The day is so late that UTC has no date for it.
        """
        try:
            return _to_utc(day, self.start), _to_utc(day, self.end)
        except OverflowError:
            raise InvalidWindow(str(self), f"it has no UTC time on {day.isoformat()}") from None

    def bounds_ns(self, day: date) -> tuple[int, int]:
        """Return start and end on an ET day in nanoseconds since 1970-01-01 UTC.

        Raises:
            InvalidWindow: As `bounds_utc`.
        """
        start, end = self.bounds_utc(day)
        return _to_ns(start), _to_ns(end)


def parse_window(text: str) -> Window:
    """Parse `HH:MM-HH:MM` (also `H:MM`), New York time, start inclusive, end exclusive.

    Strict: nothing around it, no other dash, no `24:00`.

    Raises:
        InvalidWindow: Anything else; the error names the text.
    """
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise InvalidWindow(text, "it is not of the form HH:MM-HH:MM")
    try:
        start, end = (time(int(match[i]), int(match[i + 1])) for i in (1, 3))
    except ValueError as error:
        raise InvalidWindow(text, f"no such time of day ({error})") from None
    if start >= end:
        raise InvalidWindow(text, "the start must be before the end")
    return Window(start, end)


def effective_window(backfill: str, trading: str, enforce: bool) -> Window:
    """Return the window a backfill fills.

    Both texts are checked even when one is not used, so that a mistyped setting never waits for its day.

    Args:
        backfill: `L2_BACKFILL_WINDOW_ET`.
        trading: `L2_TRADING_WINDOW_ET`.
        enforce: `L2_ENFORCE_TRADING_WINDOW`; the trading window applies, the result is the intersection.

    Raises:
        InvalidWindow: One cannot be parsed, or the intersection is empty.
    """
    wide, narrow = parse_window(backfill), parse_window(trading)
    return wide.intersect(narrow) if enforce else wide


def today_et() -> date:
    """Return the current day in New York."""
    return datetime.now(ET).date()


def is_session(day: date) -> bool:
    """Tell whether XNYS opens on a day; special closures such as 2025-01-09 are known.

    Raises:
        OutsideCalendar: The day is before 1990 or more than two calendar years ahead.
    """
    return day in _calendar().covering(day)


def sessions_between(start: date, end: date) -> list[date]:
    """Return the sessions from `start` to `end`, both inclusive, in order; none when `start` is after `end`.

    Raises:
        OutsideCalendar: As `is_session`, for either end.
    """
    closes = _calendar().covering(start, end)
    days = (start + timedelta(days=n) for n in range((end - start).days + 1))
    return [day for day in days if day in closes]


def session_close_et(day: date) -> time:
    """Return the ET wall clock at which XNYS closes: 16:00, on half days 13:00.

    Raises:
        NotASession: The market is closed on that day.
        OutsideCalendar: As `is_session`.
    """
    close = _calendar().covering(day).get(day)
    if close is None:
        raise NotASession(day)
    return close


def named_session(name: SessionName, day: date, l2_window: Window) -> tuple[datetime, datetime]:
    """Return start (inclusive) and end (exclusive) of a named window of a session as aware UTC datetimes.

    `l2` is the effective Level-2 window as it is, not cut on half days: the files are not cut either. `regular` is
    09:30 to the close. `extended` is 04:00-20:00 on every session, half days included.

    Args:
        name: `l2`, `regular` or `extended`.
        day: The ET trading day.
        l2_window: What `effective_window` returned.

    Raises:
        NotASession: The market is closed on that day.
        OutsideCalendar: As `is_session`.
        InvalidWindow: The name is unknown.
    """
    close = session_close_et(day)
    if name == "l2":
        return l2_window.bounds_utc(day)
    if name == "regular":
        return _to_utc(day, _OPEN_ET), _to_utc(day, close)
    if name == "extended":
        return _to_utc(day, _EXTENDED_ET[0]), _to_utc(day, _EXTENDED_ET[1])
    raise InvalidWindow(name, "named windows are l2, regular and extended")


@dataclass(frozen=True)
class _Calendar:
    last: date
    closes: dict[date, time]

    def covering(self, *days: date) -> dict[date, time]:
        for day in days:
            if not FIRST_CALENDAR_DAY <= day <= self.last:
                raise OutsideCalendar(day, FIRST_CALENDAR_DAY, self.last)
        return self.closes


_calendar_lock = threading.Lock()
_loaded: _Calendar | None = None


def _calendar() -> _Calendar:
    global _loaded  # noqa: PLW0603 - one table per process, filled once under the lock
    with _calendar_lock:
        if _loaded is None:
            _loaded = _load_calendar()
        return _loaded


def _load_calendar() -> _Calendar:
    last = date(today_et().year + _YEARS_AHEAD, 12, 31)
    # exchange_calendars 4.13 warns on pandas 3.1 while it builds a calendar; that is not the caller's affair.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import exchange_calendars  # noqa: PLC0415 - it pulls pandas, a second that most callers need not pay

        xnys = exchange_calendars.get_calendar("XNYS", start=FIRST_CALENDAR_DAY.isoformat(), end=last.isoformat())
        closes_ns = [int(close) for close in xnys.closes_nanos]
    at = (datetime.fromtimestamp(close // 10**9, tz=ET) for close in closes_ns)
    return _Calendar(last, {close.date(): close.time() for close in at})


def _to_utc(day: date, clock: time) -> datetime:
    return datetime.combine(day, clock, tzinfo=ET).astimezone(UTC)


def _to_ns(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000

"""What a client asks for with a historical request: fields, bar sizes, durations, end times.

Pure: nothing here answers, waits or knows the market, except that a duration counted in trading time needs its
sessions. Wordings of refusals are the vendor's where they were seen in its documentation or in public reports.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from connectors.sandbox._ib_bars_calendar import ET, FIRST_DAY, midnight_s, sessions_back
from connectors.sandbox._ib_wire import number

if TYPE_CHECKING:
    from datetime import date

    from connectors.sandbox._ib_instruments import Instrument, Instruments

BAR_SIZES: Final = {
    "1 secs": 1,
    "5 secs": 5,
    "10 secs": 10,
    "15 secs": 15,
    "30 secs": 30,
    "1 min": 60,
    "2 mins": 120,
    "3 mins": 180,
    "5 mins": 300,
    "10 mins": 600,
    "15 mins": 900,
    "20 mins": 1200,
    "30 mins": 1800,
    "1 hour": 3600,
}
"""Seconds of the bar sizes that are answered."""

LARGER_SIZES: Final = frozenset({"2 hours", "3 hours", "4 hours", "8 hours", "1 day", "1 week", "1 month", "1W", "1M"})
"""The vendor has them, the sandbox does not."""

WHAT_TO_SHOW: Final = {"TRADES": "Trades", "MIDPOINT": "Midpoint", "BID": "Bid", "ASK": "Ask", "BID_ASK": "Bid_Ask"}
"""What is answered, and how the vendor writes it in errors."""

SMALL_BAR_S: Final = 30
"""Bars of so many seconds or less count in the ten-minute rule."""

REACH_DAYS: Final = 183
"""Bars of 30 seconds or less are gone after so many days, the vendor's six months."""

# The longest duration in days by seconds of a bar: the vendor's limits as public reports have them.
_LONGEST_DAYS: Final = ((1, 2_000 / 86_400), (5, 10_000 / 86_400), (15, 0.5), (30, 1), (60, 7), (600, 31), (3600, 366))
_OTHER_DATA: Final = frozenset({"ADJUSTED_LAST", "AGGTRADES", "FEE_RATE", "HISTORICAL_VOLATILITY", "SCHEDULE"})
_LONGEST_S: Final = 86_400
_DAYS: Final = {"D": 1, "W": 7, "M": 31, "Y": 366}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,6}) ([SDWMY])")
_END: Final = re.compile(r"([0-9]{8})[ -]+([0-9]{2}:[0-9]{2}:[0-9]{2})(?: ([A-Za-z0-9_/+-]+))?")
_HEAD_FIELDS: Final = 18
_BARS_FIELDS: Final = 22


class Refused(Exception):  # noqa: N818 - a refusal is an answer here, not a failure
    """The vendor's server refuses the request before it looks for data.

    Attributes:
        code: of the error.
        text: of the error.
    """

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(f"{code} {text}")


@dataclass(frozen=True)
class BarsQuery:
    """A request for bars, or for the time of the first one.

    Attributes:
        request_id: the client's.
        instrument: that it names.
        bar_s: seconds of a bar; 0: a head time stamp.
        bar_size: as written; empty for a head time stamp.
        what: `TRADES` and so on.
        use_rth: regular hours alone.
        end_s: seconds since 1970 UTC; None: now.
        end: as written.
        duration: as written.
        amount: of the duration.
        unit: S, D, W, M or Y.
        format_date: 2: seconds since 1970 UTC; 1: text.
    """

    request_id: int
    instrument: Instrument
    bar_s: int
    bar_size: str
    what: str
    use_rth: bool
    end_s: int | None
    end: str
    duration: str
    amount: int
    unit: str
    format_date: int

    @property
    def is_head(self) -> bool:
        """Whether it asks for the time of the first bar."""
        return self.bar_s == 0

    @property
    def is_small(self) -> bool:
        """Whether it counts in the ten-minute rule."""
        return self.bar_s <= SMALL_BAR_S

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal in requests that the vendor takes for identical."""
        whose = (self.instrument.con_id, self.instrument.exchange, self.what, self.use_rth)
        return (*whose, self.bar_s, self.end_s, self.duration, self.format_date)

    @property
    def tick_type(self) -> tuple[object, ...]:
        """Equal in requests of the same instrument, exchange and tick type."""
        return (self.instrument.con_id, self.instrument.exchange, self.what)

    @property
    def named(self) -> str:
        """How the vendor names it in errors: `AAPL@SMART Trades`."""
        return f"{self.instrument.symbol}@{self.instrument.exchange} {WHAT_TO_SHOW[self.what]}"

    def calendar_start_s(self, end_s: int) -> int:
        """Where its duration begins when it is counted by the calendar."""
        if self.unit == "S":
            return end_s - self.amount
        if self.unit in ("D", "W"):
            return int((_et(end_s) - timedelta(days=self.amount * _DAYS[self.unit])).timestamp())
        ends = _et(end_s)
        months = ends.year * 12 + ends.month - 1 - self.amount * (12 if self.unit == "Y" else 1)
        first = ends.replace(year=months // 12, month=months % 12 + 1, day=1)
        wanted = first + timedelta(days=ends.day - 1)
        return int((wanted if wanted.month == first.month else wanted.replace(day=1)).timestamp())

    def start_s(self, now_s: int, *, by_calendar: bool) -> int:
        """Where its duration begins, seconds since 1970 UTC.

        Seconds and days are counted in trading time unless `by_calendar`, as the vendor does: half an hour that ends
        five minutes after the open begins in the session before, and a day is a session that has begun. Weeks, months
        and years are always the calendar's. A head time stamp begins with the market.
        """
        if self.is_head:
            return midnight_s(FIRST_DAY)
        end_s = now_s if self.end_s is None else self.end_s
        if by_calendar or self.unit not in ("S", "D"):
            return self.calendar_start_s(end_s)
        end_s = min(end_s, now_s)
        left, start_s = self.amount, midnight_s(FIRST_DAY)
        for session in sessions_back(end_s, use_rth=self.use_rth):
            opens, closes = session.hours(use_rth=self.use_rth)
            length = min(closes, end_s) - opens if self.unit == "S" else 1
            if left <= length:
                start_s = min(closes, end_s) - left if self.unit == "S" else opens
                break
            left -= length
        return start_s

    def touches(self, day: date, now_s: int) -> bool:
        """Whether its span by the calendar touches an ET day."""
        end_s = now_s if self.end_s is None else self.end_s
        return _et(self.calendar_start_s(end_s)).date() <= day <= _et(end_s - 1).date()


def bars_query(fields: list[str], instruments: Instruments) -> BarsQuery:
    """Read reqHistoricalData (20) or reqHeadTimeStamp (87).

    Raises:
        Refused: the vendor refuses such a request.
        IndexError: fields are missing.
        ValueError: the request id is none.
    """
    is_head = number(fields, 0) == 87  # noqa: PLR2004 - reqHeadTimeStamp
    if len(fields) < (_HEAD_FIELDS if is_head else _BARS_FIELDS):
        raise IndexError(f"{len(fields)} fields are too few")
    instrument = instruments.find(fields, 2)
    if instrument is None:
        raise Refused(200, "No security definition has been found for the request")
    use_rth, what, format_date = (fields[at] for at in ((15, 16, 17) if is_head else (18, 19, 20)))
    if what in _OTHER_DATA:
        raise _invalid(f"the sandbox gateway has no {what}")
    if what not in WHAT_TO_SHOW:
        raise _invalid("What to show field is missing or incorrect.")
    if format_date not in ("1", "2"):
        raise _invalid("Date format must be 1 or 2.")
    size, duration, end = ("", "", "") if is_head else (fields[16].strip(), fields[17].strip(), fields[15].strip())
    amount, unit, bar_s = 0, "", 0
    if not is_head:
        bar_s = _bar_s(size)
        amount, unit = _duration(duration, bar_s)
    if not is_head and fields[21] == "1":
        raise _invalid("the sandbox gateway does not keep bars up to date")
    return BarsQuery(
        request_id=int(fields[1]),
        instrument=instrument,
        bar_s=bar_s,
        bar_size=size,
        what=what,
        use_rth=use_rth == "1",
        end_s=_end_s(end),
        end=end,
        duration=duration,
        amount=amount,
        unit=unit,
        format_date=int(format_date),
    )


def bar_size_s(text: str) -> int:
    """Seconds of a bar size as a fault names it: `1 sec`, `1 min`, `1 hour` or the vendor's spelling.

    Raises:
        ValueError: there are no such bars here.
    """
    size = {"1 sec": "1 secs"}.get(text, text)
    if size not in BAR_SIZES:
        raise ValueError(f"it is none of {', '.join(BAR_SIZES)}")
    return BAR_SIZES[size]


def _bar_s(size: str) -> int:
    if size in LARGER_SIZES:
        raise _invalid(f"the sandbox gateway has no bars of {size}")
    if size not in BAR_SIZES:
        legal = ", ".join(BAR_SIZES)
        raise _invalid(f"Historical data bar size setting is invalid. Legal ones are: {legal}")
    return BAR_SIZES[size]


def _duration(text: str, bar_s: int) -> tuple[int, str]:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise _invalid("Historical data duration string is invalid: <integer>{SPACE}<unit (S|D|W|M|Y)> is wanted.")
    amount, unit = int(match[1]), match[2]
    days = amount / 86_400 if unit == "S" else amount * _DAYS[unit]
    longest = next(days for most_s, days in _LONGEST_DAYS if bar_s <= most_s)
    if days > longest or (unit == "S" and amount > _LONGEST_S):
        raise Refused(162, f"Historical Market Data Service error message:invalid step: {amount}")
    return amount, unit


def _end_s(text: str) -> int | None:
    if not text:
        return None
    match = _END.fullmatch(text)
    if match is None:
        raise _no_time()
    try:
        zone = ZoneInfo(match[3]) if match[3] else UTC if "-" in text else ET
        moment = datetime.strptime(f"{match[1]} {match[2]}", "%Y%m%d %H:%M:%S").replace(tzinfo=zone)
    except (ValueError, ZoneInfoNotFoundError, OSError):
        raise _no_time() from None
    return int(moment.timestamp())


def _no_time() -> Refused:
    return Refused(
        10314,
        "End Date/Time: The date, time, or time-zone entered is invalid. The correct format is yyyymmdd hh:mm:ss "
        "xx/xxxx where yyyymmdd and xx/xxxx are optional. E.g.: 20031126 15:59:00 US/Eastern",
    )


def _invalid(cause: str) -> Refused:
    return Refused(321, f"Error validating request.-'bQ' : cause - {cause}")


def _et(at_s: int) -> datetime:
    return datetime.fromtimestamp(at_s, ET)

"""Which requests bring the bars that are needed: spans and durations within what the broker answers; nothing is asked.

Pure arithmetic on days and nanoseconds. What is needed is decided by the plan, when a request may be made by `pacing`,
and the asking is done by `bars`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final, get_args

import numpy as np

from connectors.ibkr.errors import InvalidRequest
from connectors.ibkr.pacing import PacedRequest
from contracts.errors import InvalidSymbol
from contracts.layout import BarSize
from contracts.sessions import ET, named_session, parse_window
from contracts.symbols import canonical_symbol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt

SMALL_BAR_S: Final = 30
"""Bars of so many seconds or less fall under the broker's strictest rule (its page "Historical Data Limitations")."""

REACH_DAYS: Final[dict[BarSize, int]] = {"1 sec": 180}
"""How many calendar days back bars of a size are asked for; sizes not named have no such end (same page).

The broker keeps six months, which are at least 181 days.
"""

_EDGE_DAYS: Final = 10

WHAT_TO_SHOW: Final = ("TRADES", "MIDPOINT", "BID", "ASK", "BID_ASK")
"""Kinds of bars that the broker makes of a share."""

BAR_SECONDS: Final[dict[BarSize, int]] = {"1 sec": 1, "1 min": 60, "1 hour": 3600}
"""Length of a bar."""

CHUNK_S: Final = 1800
"""Longest span of one request for seconds; it begins on a half hour, which is one in New York and in UTC."""

_WIRE_SIZES: Final[dict[BarSize, str]] = {"1 sec": "1 secs", "1 min": "1 min", "1 hour": "1 hour"}
_NS: Final = 1_000_000_000
_CHUNK_NS: Final = CHUNK_S * _NS
_MOST_HOUR_DAYS: Final = 28
_MOST_D: Final = 5
_DAYS_PER_WEEK: Final = 7
_EPOCH: Final = date(1970, 1, 1).toordinal()
# 1970-01-01 was a Thursday: with this added, weeks begin on Mondays.
_MONDAYS: Final = 3
_ANY_L2_WINDOW: Final = parse_window("08:00-11:30")


@dataclass(frozen=True, slots=True)
class DayWindow:
    """What is needed of one session.

    Attributes:
        day: The ET day.
        start_ns: From when, inclusive, nanoseconds since 1970 UTC, a whole second.
        end_ns: To when, exclusive, likewise.

    Raises:
        InvalidRequest: There is nothing between them, or one is no whole second.
    """

    day: date
    start_ns: int
    end_ns: int

    def __post_init__(self) -> None:
        if self.start_ns >= self.end_ns or self.start_ns % _NS or self.end_ns % _NS:
            raise InvalidRequest(
                f"{self.day}: the window {self.start_ns} to {self.end_ns} is empty or not of whole seconds: "
                "begin from `day_window` and cut it"
            )


@dataclass(frozen=True)
class BarsRequest:
    """One question for bars. `requests_for` makes them; all of its limits are kept there.

    Attributes:
        symbol: Canonical.
        bar_size: `1 hour`, `1 min` or `1 sec`.
        windows: What is needed of it, in the order of time, each day once; the answer is cut to them.
        start_ns: Where the asked span begins at the latest, nanoseconds since 1970 UTC; the broker may answer more.
        end_ns: Where it ends, exclusive.
        duration: Its length as the broker wants it: `1800 S`, `5 D`, `4 W`.
        what_to_show: One of `WHAT_TO_SHOW`.
        use_rth: Regular trading hours only.
        exchange: `SMART`, or one exchange.
        currency: Of the instrument.

    Raises:
        InvalidRequest: One of them cannot be.
    """

    symbol: str
    bar_size: BarSize
    windows: tuple[DayWindow, ...]
    start_ns: int
    end_ns: int
    duration: str
    what_to_show: str
    use_rth: bool
    exchange: str = "SMART"
    currency: str = "USD"

    def __post_init__(self) -> None:
        _check_names(self.symbol, self.bar_size, self.what_to_show, self.exchange, self.currency)
        if not self.windows or self.start_ns > self.windows[0].start_ns or self.end_ns < self.windows[-1].end_ns:
            raise InvalidRequest(f"{self.symbol} {self.bar_size}: the asked span must hold at least one window")
        if any(one.end_ns > other.start_ns for one, other in itertools.pairwise(self.windows)):
            raise InvalidRequest(f"{self.symbol} {self.bar_size}: the windows must be in the order of time")

    @property
    def bar_s(self) -> int:
        """Length of a bar in seconds."""
        return BAR_SECONDS[self.bar_size]

    @property
    def days(self) -> tuple[date, ...]:
        """The ET days of the windows, in order."""
        return tuple(window.day for window in self.windows)

    @property
    def wire_bar_size(self) -> str:
        """The bar size as the broker spells it: `1 secs`, `1 min`, `1 hour`."""
        return _WIRE_SIZES[self.bar_size]

    @property
    def wire_end(self) -> str:
        """The end as the broker reads it: `20250905 20:00:00 UTC`."""
        return f"{datetime.fromtimestamp(self.end_ns // _NS, UTC):%Y%m%d %H:%M:%S} UTC"

    @property
    def wire_key(self) -> str:
        """What makes two requests the same for the broker; for pacing."""
        hours = "regular" if self.use_rth else "extended"
        return (
            f"{self.symbol}|{self.exchange}|{self.currency}|{self.wire_bar_size}|{self.duration}|{self.wire_end}|"
            f"{self.what_to_show}|{hours}"
        )

    @property
    def paced(self) -> PacedRequest:
        """The request as the pacing rules see it."""
        return PacedRequest(self.symbol, self.exchange, self.what_to_show, self.bar_s, self.wire_key)

    @property
    def key(self) -> str:
        """What makes two answers the same: `wire_key`, and the windows to which an answer is cut; for the shelf."""
        spans = ",".join(f"{window.start_ns // _NS}-{window.end_ns // _NS}" for window in self.windows)
        return f"{self.wire_key}|{spans}"

    def __str__(self) -> str:
        days = (
            f"{self.windows[0].day}" if len(self.windows) == 1 else f"{self.windows[0].day} to {self.windows[-1].day}"
        )
        start, end = (f"{datetime.fromtimestamp(ns // _NS, ET):%H:%M:%S}" for ns in (self.start_ns, self.end_ns))
        return f"{self.symbol} {self.bar_size} {days} {start}-{end}"


@lru_cache(maxsize=1 << 15)
def day_window(day: date, *, use_rth: bool) -> DayWindow:
    """Return the whole window of a session: 09:30 ET to the close (13:00 on half days), or 04:00 to 20:00.

    The same object for the same question, so that a million pieces share a few thousand windows.

    Raises:
        NotASession: The market is closed on that day.
        OutsideCalendar: The calendar does not know the day.
    """
    bounds = named_session("regular" if use_rth else "extended", day, _ANY_L2_WINDOW)
    start_ns, end_ns = (int(moment.timestamp()) * _NS for moment in bounds)
    return DayWindow(day, start_ns, end_ns)


def oldest_day(bar_size: BarSize, now_ns: int) -> date:
    """Return the oldest ET day whose bars of a size can be asked for now; `date.min` when there is no such end.

    Args:
        bar_size: `1 hour`, `1 min` or `1 sec`.
        now_ns: Now, nanoseconds since 1970 UTC.
    """
    reach = REACH_DAYS.get(bar_size)
    if reach is None:
        return date.min
    return datetime.fromtimestamp(now_ns // _NS, ET).date() - timedelta(reach)


def is_at_edge(bar_size: BarSize, day: date, now_ns: int) -> bool:
    """Tell whether a day is so near to the end of the broker's reach that its having no bars proves nothing.

    Nobody knows the moment when the broker forgets a day; from then on it says that there are none.

    Args:
        bar_size: `1 hour`, `1 min` or `1 sec`.
        day: ET day.
        now_ns: Now, nanoseconds since 1970 UTC.
    """
    return bar_size in REACH_DAYS and day < oldest_day(bar_size, now_ns) + timedelta(_EDGE_DAYS)


def requests_for(
    symbol: str,
    bar_size: BarSize,
    windows: Iterable[DayWindow],
    *,
    what_to_show: str = "TRADES",
    use_rth: bool = True,
    newest_first: bool = True,
    exchange: str = "SMART",
    currency: str = "USD",
) -> Iterator[BarsRequest]:
    """Return the requests that bring everything within some windows of one symbol and size, made one by one.

    Seconds: half hours by the clock (`1800 S`), the last one cut where the window ends. Minutes: the sessions of one
    week together (`5 D` at most). Hours: sessions within 28 calendar days together (`4 W` at most), counted back from
    the newest. A duration is the number of calendar days, so it is long enough whether the broker counts calendar days
    or trading days; what it then answers too much is for the receiver to cut.

    Args:
        symbol: Canonical.
        bar_size: `1 hour`, `1 min` or `1 sec`.
        windows: What is needed, in any order, each day once.
        what_to_show: One of `WHAT_TO_SHOW`.
        use_rth: Regular trading hours only.
        newest_first: The latest request first; else the earliest.
        exchange: `SMART`, or one exchange.
        currency: Of the instrument.

    Raises:
        InvalidRequest: One of them cannot be: a day twice, a window outside its session's hours. At once, not later.
        NotASession: The market is closed on one of the days.
        OutsideCalendar: The calendar does not know one of the days.
    """
    _check_names(symbol, bar_size, what_to_show, exchange, currency)
    needed = sorted(windows, key=lambda window: window.start_ns)
    _check_windows(needed, use_rth=use_rth)
    return (
        BarsRequest(symbol, bar_size, *span, what_to_show, use_rth, exchange, currency)
        for span in _spans(bar_size, needed, newest_first=newest_first)
    )


def count_requests(bar_size: BarSize, windows: Sequence[DayWindow]) -> int:
    """Return how many requests `requests_for` would make for one symbol, without making them.

    Args:
        bar_size: `1 hour`, `1 min` or `1 sec`.
        windows: As for `requests_for`; not checked.
    """
    if bar_size == "1 sec":
        return sum(-(-window.end_ns // _CHUNK_NS) - window.start_ns // _CHUNK_NS for window in windows)
    days = np.fromiter((window.day.toordinal() for window in windows), np.int64, len(windows))
    return len(_day_groups(bar_size, np.sort(days - _EPOCH)))


def count_requests_of_days(
    bar_size: BarSize,
    days: npt.NDArray[np.datetime64],
    start_ns: npt.NDArray[np.int64],
    end_ns: npt.NDArray[np.int64],
) -> int:
    """Return the same as `count_requests` for windows in arrays of shape (windows,), sorted by day.

    Args:
        bar_size: `1 hour`, `1 min` or `1 sec`.
        days: ET days, `datetime64[D]`.
        start_ns: From when each is needed; not looked at but for seconds.
        end_ns: To when, exclusive; likewise.
    """
    if bar_size == "1 sec":
        return int((-(-end_ns // _CHUNK_NS) - start_ns // _CHUNK_NS).sum())
    return len(_day_groups(bar_size, days.astype("datetime64[D]").astype(np.int64)))


def _spans(
    bar_size: BarSize, needed: Sequence[DayWindow], *, newest_first: bool
) -> Iterator[tuple[tuple[DayWindow, ...], int, int, str]]:
    """The windows, start, end and duration of each request."""
    if bar_size == "1 sec":
        for window in reversed(needed) if newest_first else needed:
            yield from _chunks(window, newest_first=newest_first)
        return
    days = np.fromiter((window.day.toordinal() for window in needed), np.int64, len(needed)) - _EPOCH
    groups = _day_groups(bar_size, days)
    for first, last in reversed(groups) if newest_first else groups:
        inside = tuple(needed[first : last + 1])
        yield inside, inside[0].start_ns, inside[-1].end_ns, _duration(int(days[last] - days[first]) + 1)


def _chunks(window: DayWindow, *, newest_first: bool) -> Iterator[tuple[tuple[DayWindow, ...], int, int, str]]:
    first, last = window.start_ns // _CHUNK_NS, (window.end_ns - 1) // _CHUNK_NS
    for chunk in range(last, first - 1, -1) if newest_first else range(first, last + 1):
        start_ns, end_ns = chunk * _CHUNK_NS, min((chunk + 1) * _CHUNK_NS, window.end_ns)
        inside = DayWindow(window.day, max(start_ns, window.start_ns), end_ns)
        yield (inside,), start_ns, end_ns, f"{(end_ns - start_ns) // _NS} S"


def _day_groups(bar_size: BarSize, days: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """First and last index of the days that one request brings, of sorted days since 1970."""
    if not len(days):
        return []
    if bar_size == "1 min":
        changes = np.flatnonzero(np.diff((days + _MONDAYS) // _DAYS_PER_WEEK))
        lasts = [*changes.tolist(), len(days) - 1]
        return list(zip([0, *(last + 1 for last in lasts[:-1])], lasts, strict=True))
    groups, last = [], len(days) - 1
    while last >= 0:
        first = int(np.searchsorted(days, days[last] - (_MOST_HOUR_DAYS - 1)))
        groups.append((first, last))
        last = first - 1
    return groups[::-1]


def _duration(days: int) -> str:
    return f"{days} D" if days <= _MOST_D else f"{-(-days // _DAYS_PER_WEEK)} W"


def _check_names(symbol: str, bar_size: str, what_to_show: str, exchange: str, currency: str) -> None:
    try:
        canonical = canonical_symbol(symbol)
    except InvalidSymbol as error:
        raise InvalidRequest(str(error)) from error
    if canonical != symbol:
        raise InvalidRequest(f"{symbol!r} is not canonical: write {canonical}")
    if bar_size not in _WIRE_SIZES:
        raise InvalidRequest(f"{symbol}: the bar size is {bar_size!r}, it can be {', '.join(get_args(BarSize))}")
    if what_to_show not in WHAT_TO_SHOW:
        raise InvalidRequest(f"{symbol}: what_to_show is {what_to_show!r}, it can be {', '.join(WHAT_TO_SHOW)}")
    if not exchange or not currency:
        raise InvalidRequest(f"{symbol}: the exchange or the currency is empty: use SMART and USD")


def _check_windows(needed: Sequence[DayWindow], *, use_rth: bool) -> None:
    for window in needed:
        whole = day_window(window.day, use_rth=use_rth)
        if window.start_ns < whole.start_ns or window.end_ns > whole.end_ns:
            hours = "regular" if use_rth else "extended"
            raise InvalidRequest(f"{window.day}: what is needed is outside the {hours} hours of that day")
    for one, other in itertools.pairwise(needed):
        if one.day == other.day:
            raise InvalidRequest(f"{one.day} is needed twice: give each day one window")

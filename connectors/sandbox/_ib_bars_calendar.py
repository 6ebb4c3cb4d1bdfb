"""The sessions of the sandbox gateway's bars, in seconds since 1970 UTC.

They are those of XNYS, with trading from 04:00 in New York until four hours after the close.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

ET: Final = ZoneInfo("America/New_York")
FIRST_DAY: Final = date(2000, 1, 3)
"""Nothing was traded before, unless a symbol was listed later."""

BEFORE, REGULAR, AFTER = range(3)
_SECONDS_PER_DAY: Final = 86_400
_OPEN_S: Final = 34_200  # 09:30
_EXTENDED_OPEN_S: Final = 14_400  # 04:00
_AFTER_CLOSE_S: Final = 14_400  # so that extended trading ends at 17:00 on half days


class Part(NamedTuple):
    """A stretch of a session without a pause.

    Attributes:
        kind: 0 before regular hours, 1 regular, 2 after.
        start_s: seconds since 1970 UTC.
        end_s: likewise, exclusive.
    """

    kind: int
    start_s: int
    end_s: int


class SessionDay(NamedTuple):
    """A session.

    Attributes:
        day: in New York.
        midnight_s: its 00:00 by the clock of its trading hours, seconds since 1970 UTC.
        parts: of extended hours, in order.
    """

    day: date
    midnight_s: int
    parts: tuple[Part, Part, Part]

    def hours(self, *, use_rth: bool) -> tuple[int, int]:
        """Start and end (exclusive) of its trading, seconds since 1970 UTC."""
        if use_rth:
            return self.parts[REGULAR].start_s, self.parts[REGULAR].end_s
        return self.parts[0].start_s, self.parts[-1].end_s


def et_date(at_s: float) -> date:
    """The day in New York."""
    return datetime.fromtimestamp(at_s, ET).date()


def midnight_s(day: date) -> int:
    """The start of a day in New York, seconds since 1970 UTC."""
    return int(datetime.combine(day, time(), ET).timestamp())


@lru_cache(maxsize=20_000)
def session_of(day: date) -> SessionDay | None:
    """The session of a day, None when the market is closed.

    Raises:
        OutsideCalendar: the day is more than two calendar years ahead.
    """
    from contracts.sessions import is_session, session_close_et  # noqa: PLC0415 - pulls pandas

    if day < FIRST_DAY or not is_session(day):
        return None
    close = session_close_et(day)
    midnight = int(datetime.combine(day, time(12), ET).timestamp()) - _SECONDS_PER_DAY // 2
    closes = close.hour * 3600 + close.minute * 60
    edges = [midnight + at for at in (_EXTENDED_OPEN_S, _OPEN_S, closes, closes + _AFTER_CLOSE_S)]
    before, regular, after = (Part(kind, edges[kind], edges[kind + 1]) for kind in range(3))
    return SessionDay(day, midnight, (before, regular, after))


def sessions_back(end_s: int, *, use_rth: bool) -> Iterator[SessionDay]:
    """The sessions whose trading begins before a moment, newest first."""
    day = et_date(end_s)
    while day >= FIRST_DAY:
        session = session_of(day)
        if session and session.hours(use_rth=use_rth)[0] < end_s:
            yield session
        day -= timedelta(days=1)


def first_second(at_s: int, *, use_rth: bool) -> int:
    """The start of the first session's trading at or after a moment, seconds since 1970 UTC."""
    day = et_date(at_s)
    while (session := session_of(day)) is None or session.hours(use_rth=use_rth)[0] < at_s:
        day += timedelta(days=1)
    return session.hours(use_rth=use_rth)[0]

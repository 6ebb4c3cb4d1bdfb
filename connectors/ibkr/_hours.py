"""Regular hours of XNYS as nanosecond spans, so that asking for them in the loop costs nothing."""

from __future__ import annotations

import bisect
import logging
from datetime import UTC, datetime, time, timedelta
from typing import Final

from contracts.errors import OutsideCalendar
from contracts.sessions import ET, Window, session_close_et, sessions_between

_log = logging.getLogger(__name__)

_OPEN_ET: Final = time(9, 30)
_MOST_DAYS: Final = 60


class RegularHours:
    """When XNYS trades: 09:30 to the close of every session; never open before `load` has ended."""

    def __init__(self) -> None:
        self._opens_ns: list[int] = []
        self._closes_ns: list[int] = []

    def load(self, start_ns: int, end_ns: int) -> None:
        """Look the sessions up; takes a second at the first time, so call it in a thread.

        Args:
            start_ns: Nanoseconds since 1970 UTC.
            end_ns: End, likewise; at most sixty days are looked up.
        """
        first, last = (datetime.fromtimestamp(ns // 10**9, tz=UTC).astimezone(ET).date() for ns in (start_ns, end_ns))
        try:
            days = sessions_between(first, min(last, first + timedelta(days=_MOST_DAYS)))
        except OutsideCalendar as error:
            _log.warning("silent books are not noticed in this session: %s", error)
            return
        spans = [Window(_OPEN_ET, session_close_et(day)).bounds_ns(day) for day in days]
        # The list that is asked first is filled last: a question in between finds it empty.
        self._closes_ns = [close for _, close in spans]
        self._opens_ns = [open_ for open_, _ in spans]

    def is_open(self, ns: int) -> bool:
        """Tell whether the market is in regular hours at a moment, nanoseconds since 1970 UTC."""
        at = bisect.bisect_right(self._opens_ns, ns) - 1
        return at >= 0 and ns < self._closes_ns[at]

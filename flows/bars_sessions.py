"""Sessions of one bar size as columns: which days of a range can be asked for, from when to when; for `bars_judge`.

Calendar and clock only; what there is of each day is not known here.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from connectors.ibkr.bar_requests import BAR_SECONDS, DayWindow, day_window, oldest_day
from contracts.sessions import ET, sessions_between

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contracts.layout import BarSize

_NS: Final = 1_000_000_000
_SUFFIX: Final = ".parquet"

_Bools = npt.NDArray[np.bool_]
_Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sessions:
    """Sessions of one bar size, up to now, as columns of shape (sessions,).

    Attributes:
        bar_size: `1 hour`, `1 min` or `1 sec`.
        now_ns: Now, nanoseconds since 1970 UTC.
        windows: The hours asked for of each, in order; those of today up to the last whole bar.
        days: `datetime64[D]`.
        start_ns: Of each window.
        end_ns: Likewise.
        whole_end_ns: The end of each day's hours, also when it is still to come.
        names: File name of each day.
        is_reachable: Which can be asked for.
    """

    bar_size: BarSize
    now_ns: int
    windows: tuple[DayWindow, ...]
    days: npt.NDArray[np.datetime64]
    start_ns: _Int64
    end_ns: _Int64
    whole_end_ns: _Int64
    names: tuple[str, ...]
    is_reachable: _Bools

    @classmethod
    def between(cls, bar_size: BarSize, first: dt.date, last: dt.date, *, use_rth: bool, now_ns: int) -> Sessions:
        """The sessions of a range, both ends inclusive, whose hours have begun.

        Raises:
            OutsideCalendar: `first` is outside the exchange calendar.
        """
        days = sessions_between(first, min(last, _today(now_ns)))
        return cls.of(bar_size, days, use_rth=use_rth, now_ns=now_ns)

    @classmethod
    def of(cls, bar_size: BarSize, days: Iterable[dt.date], *, use_rth: bool, now_ns: int) -> Sessions:
        """Some sessions, in order, whose hours have begun.

        Raises:
            NotASession: The market is closed on one of the days.
        """
        bar_ns = BAR_SECONDS[bar_size] * _NS
        reached_ns = now_ns // bar_ns * bar_ns
        whole = [day_window(day, use_rth=use_rth) for day in days]
        whole = [window for window in whole if window.start_ns < reached_ns]
        # The same object where nothing is cut: most groups share most windows.
        windows = [window if window.end_ns <= reached_ns else replace(window, end_ns=reached_ns) for window in whole]
        texts = [window.day.isoformat() for window in whole]
        column = np.array(texts, "datetime64[D]")
        return cls(
            bar_size=bar_size,
            now_ns=now_ns,
            windows=tuple(windows),
            days=column,
            start_ns=np.array([window.start_ns for window in windows], np.int64),
            end_ns=np.array([window.end_ns for window in windows], np.int64),
            whole_end_ns=np.array([window.end_ns for window in whole], np.int64),
            names=tuple(f"{text}{_SUFFIX}" for text in texts),
            is_reachable=column >= np.datetime64(oldest_day(bar_size, now_ns)),
        )

    def only(self, days: Iterable[dt.date]) -> Sessions:
        """Those of some days."""
        rows = np.flatnonzero(np.isin(self.days, np.array([*days], "datetime64[D]")))
        return replace(
            self,
            windows=tuple(self.windows[row] for row in rows.tolist()),
            days=self.days[rows],
            start_ns=self.start_ns[rows],
            end_ns=self.end_ns[rows],
            whole_end_ns=self.whole_end_ns[rows],
            names=tuple(self.names[row] for row in rows.tolist()),
            is_reachable=self.is_reachable[rows],
        )

    def __len__(self) -> int:
        return len(self.windows)

    @cached_property
    def all_names(self) -> frozenset[str]:
        """The file names."""
        return frozenset(self.names)

    @property
    def bar_ns(self) -> int:
        """Length of a bar."""
        return BAR_SECONDS[self.bar_size] * _NS


def _today(now_ns: int) -> dt.date:
    return dt.datetime.fromtimestamp(now_ns // _NS, ET).date()

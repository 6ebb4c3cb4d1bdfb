"""What a coverage report is made of, for Level 2 and bars alike: states, holes, and days counted by state."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeVar

from contracts.errors import InvalidName
from contracts.sessions import ET, session_close_et, sessions_between

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import time

    from contracts.v1.gaps import GapCause

DayState = Literal["present", "partial", "missing"]
"""missing: nothing can be loaded. partial: something can, but not all of what was asked for."""

HoleKind = Literal["start", "between", "end", "no_rows", "gap"]
"""Where minutes are missing: at the window's start, between files or rows, at its end, all of it; or a gap record."""

NS: Final = 1_000_000_000


@dataclass(frozen=True)
class Hole:
    """A time of one day for which there are no data.

    Attributes:
        kind: Where it is, or `gap` for a gap record.
        start: Aware, New York time, inclusive.
        end: Likewise, exclusive.
        cause: The cause that a gap record tells.
        detail: Its detail.
    """

    kind: HoleKind
    start: datetime
    end: datetime
    cause: GapCause | None = None
    detail: str | None = None

    def __str__(self) -> str:
        return f"{clock_text(self.start)}-{clock_text(self.end)}{f' ({self.cause})' if self.cause else ''}"

    def to_document(self) -> dict[str, Any]:
        """Return the hole as a JSON document."""
        document = {"kind": self.kind, "start": self.start.isoformat(), "end": self.end.isoformat()}
        extra = {"cause": self.cause, "detail": self.detail}
        return {**document, **{key: value for key, value in extra.items() if value is not None}}


class Day(Protocol):
    """What the days of all reports have."""

    @property
    def day(self) -> date:
        """The ET trading day."""

    @property
    def state(self) -> DayState:
        """Whether it can be loaded."""

    @property
    def why(self) -> str | None:
        """Why it is missing."""

    def to_document(self) -> dict[str, Any]:
        """Return the day as a JSON document."""


DayT = TypeVar("DayT", bound=Day)


@dataclass(frozen=True, repr=False)
class DaysReport(Generic[DayT]):
    """The days of a range, each with its state.

    Attributes:
        symbol: The canonical symbol.
        start: First ET day.
        end: Last ET day, inclusive.
        days: Every calendar day of the range, in order; those on which the exchange is closed are `missing` because
            `closed`, unless there are data all the same.
    """

    symbol: str
    start: date
    end: date
    days: tuple[DayT, ...]

    @property
    def present_days(self) -> list[date]:
        """Days with all that was asked for."""
        return self._days("present")

    @property
    def partial_days(self) -> list[date]:
        """Days with a part of it."""
        return self._days("partial")

    @property
    def missing_days(self) -> list[date]:
        """Sessions of the exchange with nothing to load; days on which it is closed are not missed."""
        return self._days("missing")

    @property
    def closed_days(self) -> list[date]:
        """Days without data on which the exchange is closed."""
        return [day.day for day in self.days if day.why == "closed"]

    @property
    def counts(self) -> dict[str, int]:
        """Number of `present`, `partial`, `missing` and `closed` days; their sum is the number of calendar days."""
        lists = (self.present_days, self.partial_days, self.missing_days, self.closed_days)
        return dict(zip(("present", "partial", "missing", "closed"), map(len, lists), strict=True))

    @property
    def missing_by_why(self) -> dict[str, int]:
        """Number of missing days by why, `closed` ones too."""
        return dict(Counter(day.why for day in self.days if day.why is not None))

    def day(self, day: date) -> DayT:
        """Return one day of the range.

        Raises:
            KeyError: It is not in the range.
        """
        if not self.start <= day <= self.end:
            raise KeyError(f"{day.isoformat()} is not from {self.start.isoformat()} to {self.end.isoformat()}")
        return self.days[(day - self.start).days]

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"<{type(self).__name__} {self.symbol} {self.start.isoformat()} to {self.end.isoformat()}: {counts}>"

    def _days(self, state: DayState) -> list[date]:
        return [day.day for day in self.days if day.state == state and day.why != "closed"]

    def _lines(self, title: str) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        head = f"{title} {self.start.isoformat()} to {self.end.isoformat()}: {counts}"
        return "\n".join([head, *(f"  {day}" for day in self.days if day.why != "closed")])


def closing_times(start: date, end: date) -> dict[date, time | None]:
    """Return every calendar day from `start` to `end` and when the exchange closes on it, None when it is closed.

    Raises:
        InvalidName: A day is no date, or has a time.
        OutsideCalendar: The exchange calendar does not know the days.
    """
    for day in (start, end):
        # A datetime is a date too, but which day it means depends on its zone.
        if isinstance(day, datetime) or not isinstance(day, date):
            raise InvalidName(str(day), "the day must be a datetime.date, the ET trading day")
    sessions = set(sessions_between(start, end))
    days = (start + timedelta(days=n) for n in range((end - start).days + 1))
    return {day: session_close_et(day) if day in sessions else None for day in days}


def day_text(day: date, state: DayState, parts: Sequence[str]) -> str:
    """Return one line of a table."""
    return f"{day.isoformat()}  {state:<7}  {'; '.join(parts)}".rstrip()


def clock_text(moment: datetime | time) -> str:
    """Return ET wall clock as short as it is exact to the microsecond: `09:30`, `09:30:05`, `09:30:05.100`."""
    if moment.microsecond:
        return f"{moment:%H:%M:%S.%f}".removesuffix("000")
    return f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"


def et_from_ns(ns: int) -> datetime:
    """Return nanoseconds since 1970-01-01 UTC as an aware datetime in New York, cut to microseconds."""
    return datetime.fromtimestamp(ns // NS, ET).replace(microsecond=ns % NS // 1000)


def merged_seconds(spans: Sequence[tuple[int, int]]) -> float:
    """Return how many seconds lie in at least one of the spans, which are in nanoseconds."""
    total, reach = 0, None
    for start, end in sorted(spans):
        begin = start if reach is None else max(start, reach)
        total += max(0, end - begin)
        reach = end if reach is None else max(end, reach)
    return total / NS

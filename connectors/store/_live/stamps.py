"""The seconds of New York's clock that name live files."""

from __future__ import annotations

from datetime import date, datetime, time
from itertools import chain
from typing import TYPE_CHECKING, Final

from contracts.sessions import ET

if TYPE_CHECKING:
    from collections.abc import Iterator

_NS: Final = 1_000_000_000
_SECONDS: Final = 86_400


def et_second(ns: int) -> tuple[date, time]:
    """Return New York's date and whole second of nanoseconds since 1970 UTC."""
    moment = datetime.fromtimestamp(ns // _NS, ET)
    return moment.date(), time(moment.hour, moment.minute, moment.second)


def seconds_of_the_day(wanted: time) -> Iterator[time]:
    """Yield the wanted second, then those after it to the end of the day, then those before it, the latest first."""
    start = wanted.hour * 3600 + wanted.minute * 60 + wanted.second
    for second in chain(range(start, _SECONDS), range(start - 1, -1, -1)):
        yield time(second // 3600, second // 60 % 60, second % 60)

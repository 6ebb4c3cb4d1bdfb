"""Hypothesis strategies of plain values: symbols, days, windows, times; used through `contracts.testing.strategies`."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from pathlib import PurePosixPath
from string import ascii_uppercase, digits
from typing import TYPE_CHECKING, Final, TypeVar

from contracts.errors import InvalidSymbol
from contracts.sessions import Window, sessions_between
from contracts.symbols import canonical_symbol

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "contracts.testing.strategies needs hypothesis: pip install marketdata-contracts[testing]"
    ) from error

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = [
    "MOST_CENTS",
    "MS",
    "amounts",
    "counts",
    "days",
    "ids",
    "maybe",
    "roots",
    "st",
    "symbols",
    "timestamps_ns",
    "utc_times",
    "windows",
]

MS: Final = 1_000_000
"""Nanoseconds of a millisecond."""

MOST_CENTS: Final = 1_000_000
"""The highest price."""

_FIRST_DAY: Final = date(2018, 1, 2)
_LAST_DAY: Final = date(2026, 12, 31)
_LETTERS: Final = ascii_uppercase + digits + "-"
_T = TypeVar("_T")


def _is_symbol(text: str) -> bool:
    try:
        return canonical_symbol(text) == text
    except InvalidSymbol:
        return False


def _window(minutes: tuple[int, int]) -> Window:
    start, end = (time(*divmod(minute, 60)) for minute in sorted(minutes))
    return Window(start, end)


# Made once: examples draw from them by the hundred, and making and checking a strategy takes longer than drawing.
_SYMBOLS: Final = st.sampled_from(["AAPL", "BRK-B", "NA", "TRUE", "F"]) | st.builds(
    str.__add__, st.sampled_from(ascii_uppercase), st.text(_LETTERS, max_size=14)
).filter(_is_symbol)
_MINUTE: Final = st.integers(0, 24 * 60 - 1)
_WINDOWS: Final = st.tuples(_MINUTE, _MINUTE).filter(lambda pair: pair[0] != pair[1]).map(_window)


@cache
def _sessions(first: date, last: date) -> SearchStrategy[date]:
    days_between = sessions_between(first, last)
    if not days_between:
        raise ValueError(f"there is no session from {first.isoformat()} to {last.isoformat()}")
    return st.sampled_from(days_between)


def symbols() -> SearchStrategy[str]:
    """Canonical symbols, also those that look like something else, such as `NA` and `TRUE`."""
    return _SYMBOLS


def days(first: date = _FIRST_DAY, last: date = _LAST_DAY) -> SearchStrategy[date]:
    """Sessions of XNYS, half days among them.

    Args:
        first: The earliest, inclusive.
        last: The latest, inclusive.

    Raises:
        OutsideCalendar: The calendar does not know one of them.
        ValueError: There is no session between them.
    """
    return _sessions(first, last)


def windows() -> SearchStrategy[Window]:
    """Windows of whole minutes within a day, down to a minute."""
    return _WINDOWS


def timestamps_ns(first: date = _FIRST_DAY, last: date = _LAST_DAY) -> SearchStrategy[int]:
    """Nanoseconds since 1970 UTC within the UTC days from `first` to `last`, both inclusive."""
    return st.integers(_utc_ns(first), _utc_ns(last + timedelta(days=1)) - 1)


def maybe(strategy: SearchStrategy[_T]) -> SearchStrategy[_T | None]:
    """None, or what the strategy makes."""
    return st.none() | strategy


def counts() -> SearchStrategy[int]:
    """Whole numbers from 0 that fit into 64 bits."""
    return st.integers(0, 2**63 - 1)


def amounts() -> SearchStrategy[float]:
    """Finite numbers from 0."""
    return st.floats(0, 1e15)


def ids() -> SearchStrategy[str]:
    """Run and session ids."""
    return st.text("0123456789abcdef", min_size=1, max_size=8)


def roots() -> SearchStrategy[PurePosixPath]:
    """Absolute paths of data roots, with a blank and a letter outside ASCII among them."""
    return st.sampled_from([PurePosixPath("/data"), PurePosixPath("/srv/Machine Learning"), PurePosixPath("/d/\u00fc")])


def utc_times() -> SearchStrategy[datetime]:
    """Aware UTC times."""
    return st.datetimes(datetime(2018, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - Hypothesis adds the zone


def _utc_ns(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp()) * 1000 * MS

"""What the server asks of a market, whoever plays it: symbols, days, counts, and records in order of `ts_recv`.

Here are the question (`Query`), the answer's shape (`Market`) and the merge of several symbols into one stream.
The two markets are `_generated` (an invented one) and `_replay` (files in a folder).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from connectors.sandbox._dbn import Interval

NS_PER_DAY: Final = 86_400 * 1_000_000_000
_EPOCH: Final = date(1970, 1, 1)


def utc_day(ns: int) -> date:
    """The UTC date of an instant in ns since the epoch."""
    return _EPOCH + timedelta(days=ns // NS_PER_DAY)


def utc_days(start_ns: int, end_ns: int) -> list[date]:
    """The UTC dates that `[start_ns, end_ns)` touches."""
    first, last = start_ns // NS_PER_DAY, (end_ns - 1) // NS_PER_DAY
    return [_EPOCH + timedelta(days=number) for number in range(first, last + 1)]


def day_start_ns(day: date) -> int:
    """Midnight UTC at the start of `day`, in ns since the epoch."""
    return (day - _EPOCH).days * NS_PER_DAY


def ns_of(moment: datetime) -> int:
    """An aware datetime in ns since the epoch, exact to the microsecond."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000


@dataclass(frozen=True)
class Query:
    """A request for records: `start_ns <= ts_recv < end_ns`, at most `limit` of them."""

    dataset: str
    schema: str
    symbols: tuple[str, ...]
    start_ns: int
    end_ns: int
    limit: int | None = None


class Market(Protocol):
    """Where records come from."""

    def datasets(self) -> list[str]:
        """Codes of all datasets."""

    def schemas(self, dataset: str) -> list[str]:
        """Schemas of one dataset."""

    def first_day(self, dataset: str) -> date:
        """The first UTC date with data."""

    def condition_days(self, dataset: str, first: date, last: date) -> list[date]:
        """Dates with data between `first` and `last`, both inclusive."""

    def all_symbols(self, dataset: str) -> list[str]:
        """What `ALL_SYMBOLS` stands for."""

    def malformed(self, dataset: str, symbol: str) -> bool:
        """Whether the dataset could never have such a symbol."""

    def resolve(self, dataset: str, symbol: str, start_ns: int, end_ns: int) -> list[Interval]:
        """Instrument ids on the UTC dates that `[start_ns, end_ns)` touches and the symbol is known on, in order."""

    def count(self, query: Query, resolved: dict[str, list[Interval]]) -> int:
        """How many records `blocks` yields, `limit` left aside."""

    def blocks(self, query: Query, resolved: dict[str, list[Interval]]) -> Iterator[NDArray[np.void]]:
        """The records in order of `ts_recv`, in arrays of bounded length, `limit` left aside."""


def ids_by_day_number(intervals: Iterable[Interval]) -> dict[int, int]:
    """Instrument id by UTC day number (days since the epoch)."""
    return {
        number: interval.instrument_id
        for interval in intervals
        for number in range((interval.start_date - _EPOCH).days, (interval.end_date - _EPOCH).days)
    }


def merge_by_ts_recv(sources: Sequence[Iterator[NDArray[np.void]]]) -> Iterator[NDArray[np.void]]:
    """Merge streams that are each in order of `ts_recv`, holding one block of each.

    A single stream is passed on as it is. Among equal times the order of `sources` decides.
    """
    if len(sources) == 1:
        yield from sources[0]
        return
    heads: list[NDArray[np.void] | None] = [None] * len(sources)
    open_sources = set(range(len(sources)))
    while True:
        for index in sorted(open_sources):
            head = heads[index]
            if head is None or not len(head):
                heads[index] = next(sources[index], None)
                if heads[index] is None:
                    open_sources.discard(index)
        if not open_sources:
            return
        # Everything up to the earliest last record is complete: no source can still send something before it.
        ready_until = min(int(h["ts_recv"][-1]) for h in heads if h is not None)
        parts = []
        for index in sorted(open_sources):
            head = heads[index]
            if head is None:
                continue
            cut = int(np.searchsorted(head["ts_recv"], ready_until, side="right"))
            parts.append(head[:cut])
            heads[index] = head[cut:]
        merged = np.concatenate(parts)
        yield merged[np.argsort(merged["ts_recv"], kind="stable")]

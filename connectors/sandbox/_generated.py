"""The invented market: which datasets, symbols and days exist, and the tapes behind them.

Any well-formed symbol is listed on every session of the exchange calendar, except the few names in
`NEVER_LISTED`. Instrument ids are new every UTC day, as at the vendor, so an evening session in winter has two.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from connectors.sandbox._dbn import Interval
from connectors.sandbox._market import day_start_ns, ids_by_day_number, merge_by_ts_recv, ns_of, utc_day, utc_days
from connectors.sandbox._tape import MAX_RECORDS_PER_HOUR, SessionTape, TapeKey, stable_hash

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from connectors.sandbox._market import Query

ET: Final = ZoneInfo("America/New_York")
NEVER_LISTED: Final = frozenset({"NOSUCH", "ZZZZZ"})
DEFAULT_RECORDS_PER_HOUR: Final = 3_600.0  # about 20,000 records between 08:30 and 11:00 ET

_FIRST_DAY: Final = date(2018, 5, 1)
_OPEN_ET: Final = time(4)
_AFTER_CLOSE: Final = timedelta(hours=4)
_KEPT_TAPES: Final = 64
# A symbol begins with a letter; the vendor refuses anything else as malformed rather than unknown.
_WELL_FORMED: Final = re.compile(r"[A-Z][A-Z0-9 .+=^#*-]{0,20}")


@dataclass(frozen=True)
class _Venue:
    publisher_id: int
    venue: str
    description: str
    schemas: tuple[str, ...]
    listed: re.Pattern[str]  # how this venue spells a share class


_DOT: Final = re.compile(r"[A-Z]{1,6}(\.[A-Z]{1,2})?")
_BLANK: Final = re.compile(r"[A-Z]{1,6}( [A-Z]{1,2})?")
_DEPTH: Final = ("mbp-1", "mbp-10")
_VENUES: Final = {
    "XNAS.ITCH": _Venue(2, "XNAS", "Nasdaq TotalView-ITCH", _DEPTH, _DOT),
    "XNYS.PILLAR": _Venue(9, "XNYS", "NYSE Integrated", _DEPTH, _BLANK),
    "ARCX.PILLAR": _Venue(43, "ARCX", "NYSE Arca Integrated", _DEPTH, _BLANK),
    "EQUS.MINI": _Venue(95, "EQUS", "Databento US Equities Mini", ("mbp-1",), _DOT),
}
PUBLISHERS: Final = [
    {
        "publisher_id": venue.publisher_id,
        "dataset": dataset,
        "venue": venue.venue,
        "description": venue.description,
    }
    for dataset, venue in _VENUES.items()
]


@dataclass(frozen=True)
class _Session:
    """The extended session of one ET trading day, as UTC instants in ns."""

    day: date
    open_ns: int
    close_ns: int


class GeneratedMarket:
    """A market that exists only here.

    Args:
        records_per_hour: mean MBP-10 records per hour of a symbol's full session (04:00-20:00 ET).

    Raises:
        ValueError: `records_per_hour` is not above 0 and at most 20,000,000.
    """

    def __init__(self, records_per_hour: float = DEFAULT_RECORDS_PER_HOUR) -> None:
        if not 0 < records_per_hour <= MAX_RECORDS_PER_HOUR:
            raise ValueError(
                f"records_per_hour must be above 0 and at most {MAX_RECORDS_PER_HOUR:,}, not {records_per_hour}"
            )
        self._records_per_hour = float(records_per_hour)
        self._tapes: OrderedDict[TapeKey, SessionTape] = OrderedDict()
        self._lock = threading.Lock()

    def datasets(self) -> list[str]:
        """Codes of all datasets."""
        return list(_VENUES)

    def schemas(self, dataset: str) -> list[str]:
        """Schemas of one dataset."""
        return list(_VENUES[dataset].schemas)

    def first_day(self, dataset: str) -> date:  # noqa: ARG002 - the same for all
        """The first UTC date with data."""
        return _FIRST_DAY

    def condition_days(self, dataset: str, first: date, last: date) -> list[date]:  # noqa: ARG002 - the same for all
        """Sessions between `first` and `last`, both inclusive."""
        from contracts.sessions import is_session  # noqa: PLC0415 - pulls pandas

        days = (first + timedelta(days=n) for n in range((last - first).days + 1))
        return [day for day in days if is_session(day)]

    def all_symbols(self, dataset: str) -> list[str]:
        """What `ALL_SYMBOLS` stands for: a handful, because every well-formed name is listed."""
        return [name for name in ("AAPL", "AMD", "MSFT", "NVDA", "TSLA") if not self.malformed(dataset, name)]

    def malformed(self, dataset: str, symbol: str) -> bool:  # noqa: ARG002 - the same for all
        """Whether no venue could have such a symbol."""
        return not _WELL_FORMED.fullmatch(symbol)

    def resolve(self, dataset: str, symbol: str, start_ns: int, end_ns: int) -> list[Interval]:
        """Instrument ids on sessions, and on the UTC dates into which the wanted time of an evening session reaches.

        So a window on a Saturday resolves nothing, except for the first hour (UTC) that still is Friday in winter.
        """
        from contracts.sessions import is_session  # noqa: PLC0415 - pulls pandas

        if symbol in NEVER_LISTED or not _VENUES[dataset].listed.fullmatch(symbol):
            return []
        return [
            Interval(day, day + timedelta(days=1), 1 + stable_hash(dataset, symbol, day, "id") % 2**24)
            for day in utc_days(start_ns, end_ns)
            if is_session(day)
            or self._sessions(max(start_ns, day_start_ns(day)), min(end_ns, day_start_ns(day + timedelta(days=1))))
        ]

    def count(self, query: Query, resolved: dict[str, list[Interval]]) -> int:
        """How many records `blocks` yields."""
        total = 0
        for symbol, intervals in resolved.items():
            for session in self._sessions(query.start_ns, query.end_ns):
                tape = self._tape(query.dataset, symbol, session)
                for first_ns, end_ns in self._resolved_spans(query, session, intervals):
                    total += tape.count(query.schema, first_ns, end_ns)
        return total

    @staticmethod
    def _resolved_spans(query: Query, session: _Session, intervals: list[Interval]) -> list[tuple[int, int]]:
        """The parts of the session inside the query on which the symbol resolves."""
        spans = []
        for interval in intervals:
            first_ns = max(day_start_ns(interval.start_date), query.start_ns, session.open_ns)
            end_ns = min(day_start_ns(interval.end_date), query.end_ns, session.close_ns)
            if first_ns < end_ns:
                spans.append((first_ns, end_ns))
        return spans

    def blocks(self, query: Query, resolved: dict[str, list[Interval]]) -> Iterator[NDArray[np.void]]:
        """The records in order of `ts_recv`."""
        for session in self._sessions(query.start_ns, query.end_ns):
            first_ns = max(query.start_ns, session.open_ns)
            end_ns = min(query.end_ns, session.close_ns)
            sources = [
                self._tape(query.dataset, symbol, session).blocks(
                    query.schema, first_ns, end_ns, ids_by_day_number(intervals)
                )
                for symbol, intervals in resolved.items()
            ]
            yield from merge_by_ts_recv(sources)

    def _sessions(self, start_ns: int, end_ns: int) -> list[_Session]:
        """The sessions that `[start_ns, end_ns)` touches, in order."""
        from contracts.sessions import is_session, session_close_et  # noqa: PLC0415 - pulls pandas

        found = []
        day = utc_day(start_ns) - timedelta(days=1)  # an evening session reaches into the next UTC day
        while day_start_ns(day) < end_ns:
            if is_session(day):
                open_ns = ns_of(datetime.combine(day, _OPEN_ET, ET))
                close_ns = ns_of(datetime.combine(day, session_close_et(day), ET) + _AFTER_CLOSE)
                if open_ns < end_ns and start_ns < close_ns:
                    found.append(_Session(day, open_ns, close_ns))
            day += timedelta(days=1)
        return found

    def _tape(self, dataset: str, symbol: str, session: _Session) -> SessionTape:
        key = TapeKey(
            dataset=dataset,
            publisher_id=_VENUES[dataset].publisher_id,
            symbol=symbol,
            day=session.day,
            open_ns=session.open_ns,
            close_ns=session.close_ns,
            records_per_hour=self._records_per_hour,
        )
        with self._lock:
            tape = self._tapes.pop(key, None) or SessionTape(key)
            self._tapes[key] = tape
            if len(self._tapes) > _KEPT_TAPES:
                self._tapes.popitem(last=False)
        return tape

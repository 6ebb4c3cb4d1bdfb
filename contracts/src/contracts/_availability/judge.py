"""The verdict on each day of Level 2, from facts already read: what is there, what is missing in it, and why.

Nothing here touches the disk. The facts come from `files` and `ledgers`; what a verdict
looks like is in `level2`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Final

from contracts._availability.days import NS, Hole, HoleKind, closing_times, et_from_ns, merged_seconds
from contracts._availability.files import LIVE_SOURCE
from contracts._availability.ledgers import DayRecord, day_records, source_of
from contracts._availability.level2 import DayCoverage, Level2Coverage, MissingWhy, SourceDay
from contracts.errors import InvalidName
from contracts.layout import Level2Name
from contracts.sessions import ET, Window, parse_window, today_et
from contracts.symbols import canonical_symbol
from contracts.timestamps import ns_from_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contracts._availability.days import DayState
    from contracts._availability.files import SnapshotsFacts
    from contracts.follow import Skipped
    from contracts.v1.backfill import BackfillManifestLine
    from contracts.v1.gaps import Gap

_USUAL_CLOSE: Final = time(16)
_MINUTE_NS: Final = 60 * NS
_RANK: Final[dict[DayState, int]] = {"present": 0, "partial": 1, "missing": 2}

_Bounds = tuple[int, int]
_GapSpan = tuple[int, int, "Gap"]


def assess_level2(
    symbol: str,
    start: date,
    end: date,
    *,
    files: Iterable[SnapshotsFacts] = (),
    lines: Iterable[BackfillManifestLine] = (),
    gaps: Iterable[Gap] = (),
    skipped: Iterable[Skipped] = (),
    source: str | Sequence[str] | None = None,
    window: Window | str | None = None,
) -> Level2Coverage:
    """Judge the days of a range from facts already read; the disk is not touched.

    Args:
        symbol: Any spelling.
        start: First ET day.
        end: Last ET day, inclusive.
        files: The symbol's snapshots files.
        lines: Backfill manifest lines, oldest first; those of other symbols do not count.
        gaps: Gap records, likewise.
        skipped: What could not be read; handed on.
        source: Only this source or these: `ibkr`, or a source tag.
        window: What is needed of each day; None holds each day against what it promises itself.

    Raises:
        InvalidName: A day is no date, or a source is no tag.
        InvalidSymbol: The symbol has no canonical form.
        InvalidWindow: The window cannot be parsed.
        OutsideCalendar: The exchange calendar does not know the days.
    """
    name, wanted = canonical_symbol(symbol), sources_asked(source)
    asked = parse_window(window) if isinstance(window, str) else window
    closes = closing_times(start, end)
    records = day_records(lines, name, wanted)
    live = wanted is None or LIVE_SOURCE in wanted
    gaps_of_day = _by_day((gap for gap in gaps if gap.symbol == name and live), list(closes))
    of_day: defaultdict[date, list[SnapshotsFacts]] = defaultdict(list)
    for facts in files:
        if wanted is None or facts.source in wanted:
            of_day[facts.day].append(facts)
    days = tuple(
        _Judge(day, close, asked, records.get(day, DayRecord()), gaps_of_day[day]).verdict(of_day[day])
        for day, close in closes.items()
    )
    return Level2Coverage(name, start, end, days, asked, wanted, tuple(skipped))


def sources_asked(source: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the sources asked for, sorted; None for all.

    Raises:
        InvalidName: One is not a source.
    """
    if source is None:
        return None
    if not isinstance(source, Iterable):
        raise InvalidName(source, "a source is `ibkr` or a source tag such as `databento`, or several")
    names = sorted({source} if isinstance(source, str) else set(source), key=str)
    for name in names:
        try:
            Level2Name("snapshots", date.min, source_tag=name)
        except (InvalidName, TypeError):
            raise InvalidName(name, "a source is `ibkr` or a source tag such as `databento`") from None
    return tuple(names)


@dataclass(frozen=True)
class _Span:
    """What one readable file covers, in nanoseconds since 1970-01-01 UTC.

    Attributes:
        begin: From where on rows can be expected: the file's own window of a historical file, else the first row.
        end: Up to where they reach, exclusive.
        first_ns: First row.
        last_ns: Last row.
        step: A time without rows that is a hole: the grid's interval, or a minute when there is no grid.
        slack: A late start that is a hole, not only a book that was not known yet.
        is_exact: Whether `end` can be relied on: rows stand on a grid, or the file's own window is known.
        own_start: Start of the file's own window; None for live files and when it is not known.
    """

    begin: int
    end: int
    first_ns: int
    last_ns: int
    step: int
    slack: int
    is_exact: bool
    own_start: int | None = None


class _Judge:
    """One day of one symbol.

    Args:
        day: The ET day.
        close: When the exchange closes, None when it does not open.
        asked: The window asked for.
        record: What the manifest says.
        gaps: The symbol's gap records of live capture that touch the day.
    """

    def __init__(
        self,
        day: date,
        close: time | None,
        asked: Window | None,
        record: DayRecord,
        gaps: Sequence[_GapSpan],
    ) -> None:
        self._day, self._close, self._asked, self._record = day, close, asked, record
        self._promised = None if record.window_et is None else parse_window(record.window_et)
        self._day_bounds = _midnight_ns(day), _midnight_ns(day + timedelta(days=1))
        self._gaps = sorted(gaps, key=lambda gap: gap[:2])

    def verdict(self, files: Sequence[SnapshotsFacts]) -> DayCoverage:
        """Judge the day by the files of all sources asked for."""
        names = {facts.source for facts in files}
        judged = [self._source(name, [facts for facts in files if facts.source == name]) for name in names]
        judged.sort(key=lambda source: (_RANK[source.state], source.missing_s, source.source))
        holding, error = self._record.holding, self._record.error
        gone = holding is not None and holding.status in ("WRITE", "SKIP") and source_of(holding) not in names
        quality = self._record.quality or (error.quality if error is not None else None)
        condition = None if quality is None else quality.vendor_condition
        state: DayState = judged[0].state if judged else "missing"
        return DayCoverage(
            day=self._day,
            state=state,
            why=None
            if state != "missing"
            else self._why(has_files=bool(judged), has_rows=any(one.rows for one in judged), is_gone=gone),
            sources=tuple(judged),
            status=None if holding is None else holding.status,
            reason=None if holding is None else holding.reason,
            error=None if error is None else ": ".join(filter(None, (error.reason, error.error))) or "without a reason",
            vendor_condition=None if condition == "available" else condition,
            file_gone=gone,
            gaps=self._gap_holes(self._bounds(self._asked) if self._asked else self._day_bounds),
        )

    def _why(self, *, has_files: bool, has_rows: bool, is_gone: bool) -> MissingWhy:
        if has_files:
            return "no_rows" if has_rows else "unreadable"
        if self._close is None:
            return "closed"
        if is_gone:
            return "file_gone"
        if self._record.holding is not None:
            return "empty"
        if self._record.error is not None:
            return "error"
        return "not_yet" if self._day > today_et() else "never_tried"

    def _source(self, source: str, files: Sequence[SnapshotsFacts]) -> SourceDay:
        faults = [(facts.path, facts.fault) for facts in files if facts.fault is not None]
        spans = sorted(
            ((span, facts) for facts in files if (span := self._span(facts)) is not None),
            key=lambda pair: (pair[0].first_ns, pair[1].path.name),
        )
        latest = spans[0] if spans else None
        for span, facts in spans[1:]:
            if latest is not None and span.first_ns <= latest[0].last_ns:
                faults.append((facts.path, f"its rows overlap those of {latest[1].path.name} in time"))
            latest = max(latest or (span, facts), (span, facts), key=lambda pair: pair[0].last_ns)
        unreadable = tuple(faults)
        if not spans:
            return SourceDay(source, "missing", (), unreadable, 0)
        readable = [facts for _, facts in spans]
        window = self._asked or self._widest(source, readable)
        bounds = None if window is None else self._bounds(window)
        covered = [span for span, _ in spans]
        if window is not None and bounds is None:
            # A window after the close of a half day: nothing lacks in it, but something can be there.
            whole = window.bounds_ns(self._day)
            is_empty = all(span.last_ns < whole[0] or span.first_ns >= whole[1] for span in covered)
            holes: list[tuple[HoleKind, int, int]] = [("no_rows", *whole)] if is_empty else []
        else:
            holes = _holes(covered, bounds)
        if source == LIVE_SOURCE and self._asked is None:
            # Its window is told in whole minutes, and its session may have ended within the last one.
            holes = [hole for hole in holes if hole[0] != "end" or hole[2] - hole[1] >= _MINUTE_NS]
        late = None if bounds is None else _late_start(covered, bounds, holes)
        holes = sorted([*holes, *_inner_holes(readable, bounds)], key=lambda hole: hole[1:])
        ends = [(hole[1], hole[2]) for hole in holes]
        told = [Hole(kind, et_from_ns(start), et_from_ns(end)) for kind, start, end in holes]
        if source == LIVE_SOURCE:
            place = self._day_bounds if window is None else bounds
            told += self._gap_holes(place, but_first_minute=True)
            inside = [] if place is None else self._inside(place, but_first_minute=True)
            ends += [] if place is None else [(max(a, place[0]), min(b, place[1])) for a, b, _ in inside]
        state: DayState = "partial" if told or unreadable else "present"
        if any(hole.kind == "no_rows" for hole in told):
            state = "missing"
        return SourceDay(
            source,
            state,
            tuple(facts.path for facts in readable),
            unreadable,
            sum(facts.rows for facts in readable),
            window,
            et_from_ns(min(span.first_ns for span in covered)),
            et_from_ns(max(span.last_ns for span in covered)),
            None if late is None else et_from_ns(late).time(),
            tuple(told),
            merged_seconds(ends),
        )

    def _widest(self, source: str, files: Sequence[SnapshotsFacts]) -> Window | None:
        windows = [parse_window(facts.metadata.window_et) for facts in files if facts.metadata is not None]
        if self._promised is not None and self._is_promised(source):
            windows.append(self._promised)
        if not windows:
            return None
        return Window(min(window.start for window in windows), max(window.end for window in windows))

    def _is_promised(self, source: str) -> bool:
        holding = self._record.holding
        return holding is not None and holding.status in ("WRITE", "SKIP") and source_of(holding) == source

    def _bounds(self, window: Window) -> _Bounds | None:
        """Return where rows are expected: the window, on half days up to the close; None when nothing is left."""
        start, end = window.bounds_ns(self._day)
        if self._close is not None and self._close < _USUAL_CLOSE:
            end = min(end, int(datetime.combine(self._day, self._close, ET).timestamp()) * NS)
        return (start, end) if start < end else None

    def _span(self, facts: SnapshotsFacts) -> _Span | None:
        if facts.first_ns is None or facts.last_ns is None:
            return None
        metadata, is_live = facts.metadata, facts.stamp is not None
        promised = self._promised if not is_live and self._is_promised(facts.source) else None
        interval_ms = self._record.interval_ms if promised is not None else None
        own = promised
        if metadata is not None:
            interval_ms = metadata.interval_ms
            own = None if is_live else parse_window(metadata.window_et)
        grid = (interval_ms or 0) * 1_000_000
        step = grid or _MINUTE_NS
        end = facts.last_ns + (grid or 1)
        if own is None:
            return _Span(facts.first_ns, end, facts.first_ns, facts.last_ns, step, max(step, _MINUTE_NS), bool(grid))
        start, stop = own.bounds_ns(self._day)
        # Without a grid quiet minutes have no rows; what was asked of the vendor tells how far the file reaches.
        end = end if grid else max(stop, end)
        return _Span(
            min(start, facts.first_ns), end, facts.first_ns, facts.last_ns, step, 1, is_exact=True, own_start=start
        )

    def _inside(self, bounds: _Bounds, *, but_first_minute: bool = False) -> list[_GapSpan]:
        """Return the gaps in a time; of a session that connects, the first minute is a late start and no hole."""
        start, end = bounds
        excused_ns = start + _MINUTE_NS if but_first_minute else start
        return [
            gap
            for gap in self._gaps
            if gap[0] < end
            and (gap[1] > start or gap[0] == start)
            and not (gap[2].cause == "connect" and gap[1] < excused_ns)
        ]

    def _gap_holes(self, bounds: _Bounds | None, *, but_first_minute: bool = False) -> tuple[Hole, ...]:
        if bounds is None:
            return ()
        return tuple(
            Hole("gap", et_from_ns(max(start, bounds[0])), et_from_ns(min(end, bounds[1])), gap.cause, gap.detail)
            for start, end, gap in self._inside(bounds, but_first_minute=but_first_minute)
        )


def _midnight_ns(day: date) -> int:
    return int(datetime.combine(day, time(), ET).timestamp()) * NS


def _by_day(gaps: Iterable[Gap], days: Sequence[date]) -> dict[date, list[_GapSpan]]:
    """Return the gap records that touch each day."""
    found: dict[date, list[_GapSpan]] = {day: [] for day in days}
    midnights = [_midnight_ns(day) for day in days]
    for gap in gaps:
        start, end = ns_from_text(gap.gap_start), ns_from_text(gap.gap_end)
        for at in range(max(0, bisect_right(midnights, start) - 1), bisect_right(midnights, end)):
            if start < _midnight_ns(days[at] + timedelta(days=1)):
                found[days[at]].append((start, end, gap))
    return found


def _holes(spans: Sequence[_Span], bounds: _Bounds | None) -> list[tuple[HoleKind, int, int]]:
    """Return what the files of one source leave out; without bounds only what lies between them."""
    spans = sorted(spans, key=lambda span: span.begin)
    low, high = bounds or (spans[0].begin, max(span.end for span in spans))
    if not any(span.first_ns < high and span.last_ns >= low for span in spans):
        return [("no_rows", low, high)]
    holes: list[tuple[HoleKind, int, int]] = []
    if spans[0].begin - low >= spans[0].slack:
        holes.append(("start", low, spans[0].begin))
    last = spans[0]
    for span in spans[1:]:
        if span.begin - last.end >= span.step and max(last.end, low) < min(span.begin, high):
            holes.append(("between", max(last.end, low), min(span.begin, high)))
        last = max(last, span, key=lambda span: span.end)
    if high - last.end >= (1 if last.is_exact else _MINUTE_NS):
        holes.append(("end", last.end, high))
    return holes


def _inner_holes(files: Sequence[SnapshotsFacts], bounds: _Bounds | None) -> list[tuple[HoleKind, int, int]]:
    """Return what sampled files leave out between their own ends, within the bounds."""
    inner = [hole for facts in files for hole in facts.holes_ns]
    low, high = bounds or (-(2**63), 2**63)
    return [("between", max(start, low), min(end, high)) for start, end in inner if start < high and end > low]


def _late_start(spans: Sequence[_Span], bounds: _Bounds, holes: Sequence[tuple[HoleKind, int, int]]) -> int | None:
    """Return the first row when rows were to be expected before it, and no hole says so already."""
    low, high = bounds
    span = min((span for span in spans if span.end > low), key=lambda span: span.begin, default=None)
    if span is None or span.first_ns >= high:
        return None
    expected = low if span.own_start is None else max(low, span.own_start)
    if span.first_ns - expected < span.step:
        return None
    is_told = any(start <= expected and end >= span.first_ns for _, start, end in holes)
    return None if is_told else span.first_ns

"""What a bars download has to bring: scope, coverage, calendar and notes make groups of days that are still needed.

A *group* is one symbol and bar size, a *piece* one day of it. How one day is judged is in `bars_judge`; which requests
bring the pieces is in `connectors.ibkr.bar_requests`. Nothing is asked and nothing is written here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from connectors.ibkr.bar_requests import DayWindow, count_requests
from connectors.store.bars import kind_text
from contracts.sessions import sessions_between
from flows.bars_judge import LAST_TO_FETCH, SETTLE_S, Folders, GroupJudge, Judged, Verdict, judge_forced
from flows.bars_sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.store.bars import BarsFooter
    from contracts.coverage import CoverageIndex
    from contracts.layout import BarSize, DataRoot

__all__ = ["SETTLE_S", "BarsPlan", "BarsScope", "GroupPlan", "make_plan", "preview", "replan"]

_FETCHED: Final = ("missing", "partial", "file_gone", "forced")
_SETTLED: Final = ("present", "known_empty", "out_of_reach")
_OTHERS: Final = ("other_kind", "unlisted")
_MOST_RANGES: Final = 8


@dataclass(frozen=True)
class BarsScope:
    """What a download is asked for.

    Attributes:
        symbols: Canonical, each once, in the order of the work.
        ranges: First and last ET day, both inclusive, of each bar size; sizes that are not in it are not wanted.
        what_to_show: `TRADES`, `MIDPOINT`, `BID`, `ASK` or `BID_ASK`.
        use_rth: Regular hours, 09:30 to the close; else extended hours, 04:00 to 20:00 ET.
        force: Everything is fetched whole, whatever there is.
        newest_first: The order of the requests of a group.
        pairs: Only these symbols' ET days, within the ranges; None for all.
    """

    symbols: tuple[str, ...]
    ranges: Mapping[BarSize, tuple[date, date]]
    what_to_show: str = "TRADES"
    use_rth: bool = True
    force: bool = False
    newest_first: bool = True
    pairs: frozenset[tuple[str, date]] | None = None


@dataclass(frozen=True)
class GroupPlan:
    """What one symbol and bar size still needs.

    Each session of the scope, up to now, is counted once: in `missing`, `partial`, `file_gone` or `forced`, whose sum
    is the number of `windows`; or in `present`, `known_empty` or `out_of_reach`; or it is in `other_kind`.

    Attributes:
        symbol: Canonical.
        bar_size: `1 hour`, `1 min` or `1 sec`.
        windows: What is to be fetched of each day, in the order of time. Of a day that has a part already from its last
            bar on; of today up to the last whole bar.
        resumed: Days among `windows` whose file stays: what is fetched is merged into it.
        unlisted: Days with a file in place that no ledger line names. When it has our metadata, its line is to be
            written: publish what `read_day` reads with the metadata of `existing`. Days of such whole files are
            `present`, the others are among `windows`.
        other_kind: Days whose file is of another kind, such as `MIDPOINT/regular`; not touched, an ERROR each.
        missing: Days without a file.
        partial: Days with a part.
        file_gone: Days whose file the coverage names, but nothing that can be read lies there.
        forced: Days that are fetched whatever there is.
        present: Days that need nothing.
        known_empty: Days of which the vendor has no bars, asked long enough after they ended.
        out_of_reach: Days that are needed but too old to be asked for.
        opened: What the footers said that had to be opened; to be noted, so that they need not be again.
        seen: First and last day of those whose kind was looked for; to be noted with them.
    """

    symbol: str
    bar_size: BarSize
    windows: tuple[DayWindow, ...]
    resumed: frozenset[date] = frozenset()
    unlisted: frozenset[date] = frozenset()
    other_kind: Mapping[date, str] = field(default_factory=dict)
    missing: int = 0
    partial: int = 0
    file_gone: int = 0
    forced: int = 0
    present: int = 0
    known_empty: int = 0
    out_of_reach: int = 0
    opened: tuple[BarsFooter, ...] = field(default=(), compare=False, repr=False)
    seen: tuple[date, date] | None = field(default=None, compare=False)

    @cached_property
    def requests(self) -> int:
        """How many requests bring the windows."""
        return count_requests(self.bar_size, self.windows)

    def count(self, name: str) -> int:
        """Return a count by its name; of `other_kind`, `resumed` and `unlisted` how many days there are."""
        value = getattr(self, name)
        return value if isinstance(value, int) else len(value)


@dataclass(frozen=True)
class BarsPlan:
    """What a download has to bring.

    Attributes:
        scope: What was asked for.
        groups: One of each symbol and bar size, by symbol in the order of the scope, also those that need nothing.
        now_ns: The moment it holds for, nanoseconds since 1970 UTC.
    """

    scope: BarsScope
    groups: tuple[GroupPlan, ...]
    now_ns: int

    @property
    def to_fetch(self) -> tuple[GroupPlan, ...]:
        """The groups that need something from the vendor."""
        return tuple(group for group in self.groups if group.windows)

    @property
    def pieces(self) -> int:
        """Number of days to fetch, of all groups."""
        return sum(len(group.windows) for group in self.groups)

    @cached_property
    def requests(self) -> int:
        """Number of requests that bring them."""
        return sum(group.requests for group in self.groups)

    @cached_property
    def requests_by_size(self) -> dict[BarSize, int]:
        """The same by bar size; sizes without are left out."""
        found: dict[BarSize, int] = {}
        for group in self.to_fetch:
            found[group.bar_size] = found.get(group.bar_size, 0) + group.requests
        return found

    def total(self, count: str) -> int:
        """Return the sum of a count over the groups: `missing`, `present`, `other_kind` and so on."""
        return sum(group.count(count) for group in self.groups)


def make_plan(root: DataRoot, scope: BarsScope, *, now_ns: int, coverage: CoverageIndex | None) -> BarsPlan:
    """Find what a download has to bring.

    A day is believed to be there when the coverage says that its bars reach from end to end of the asked hours, up to
    one bar, and its file exists. Only where that does not decide is a file's footer opened.

    Args:
        root: The data root; its files are looked for, nothing is written.
        scope: What is asked for.
        now_ns: Now, nanoseconds since 1970 UTC.
        coverage: The coverage of the ledger as it is; None when there is no ledger.

    Raises:
        OutsideCalendar: A range begins before the exchange calendar.
        InvalidDocument: An entry of the coverage is damaged.
        StoreError: A folder or the notes of a group cannot be read.
    """
    sessions = {
        bar_size: Sessions.between(bar_size, first, last, use_rth=scope.use_rth, now_ns=now_ns)
        for bar_size, (first, last) in scope.ranges.items()
    }
    days_of = _days_of(scope)
    folders = Folders()
    groups = []
    for symbol in scope.symbols:
        for bar_size, wanted in sessions.items():
            own = wanted if days_of is None else wanted.only(days_of.get(symbol, ()))
            if scope.force:
                judged = judge_forced(own)
            else:
                table = None if coverage is None else coverage.table(symbol, bar_size)
                judged = _judge_of(root, scope, symbol, bar_size, folders).judge(own, table)
            groups.append(_group_of(symbol, own, judged))
    return BarsPlan(scope, tuple(groups), now_ns)


def replan(
    root: DataRoot,
    scope: BarsScope,
    symbol: str,
    bar_size: BarSize,
    *,
    now_ns: int,
    planned: GroupPlan | None = None,
) -> GroupPlan:
    """Find what one group needs now, from its files and notes alone; for the moment after its claim.

    Args:
        root: The data root.
        scope: What is asked for.
        symbol: Canonical.
        bar_size: `1 hour`, `1 min` or `1 sec`.
        now_ns: Now, nanoseconds since 1970 UTC.
        planned: The group as it was planned: only the days that it names are judged again. None for all days of the
            scope, each of whose files is then opened.

    Raises:
        OutsideCalendar: As `make_plan`.
        StoreError: As `make_plan`.
    """
    if planned is None:
        days_of = _days_of(scope)
        sessions = Sessions.between(bar_size, *scope.ranges[bar_size], use_rth=scope.use_rth, now_ns=now_ns)
        sessions = sessions if days_of is None else sessions.only(days_of.get(symbol, ()))
    else:
        days = {window.day for window in planned.windows} | planned.unlisted | planned.other_kind.keys()
        sessions = Sessions.of(bar_size, sorted(days), use_rth=scope.use_rth, now_ns=now_ns)
    if scope.force:
        judged = judge_forced(sessions)
    else:
        unlisted = frozenset[date]() if planned is None else planned.unlisted
        judged = _judge_of(root, scope, symbol, bar_size, Folders()).judge_files(sessions, unlisted)
    group = _group_of(symbol, sessions, judged)
    if planned is None:
        return group
    # Days that were judged before and are not judged again count as they did.
    again = len(planned.unlisted - {window.day for window in planned.windows})
    return replace(
        group,
        present=group.present + planned.present - again,
        known_empty=group.known_empty + planned.known_empty,
        out_of_reach=group.out_of_reach + planned.out_of_reach,
    )


def preview(plan: BarsPlan, estimate_s: float | None) -> dict[str, Any]:
    """Return what a download would do, as a JSON document; short also for many groups.

    Args:
        plan: The plan.
        estimate_s: Seconds that the pacing rules need for its requests; None when nobody knows.

    Returns:
        `pieces, requests, pacing_seconds`, the counts of `GroupPlan` summed, `kind`, and `groups`: those that have
        something to fetch or in the way, each with `symbol, bar_size, days, first, last, ranges` (first and last day of
        runs of sessions, the latest ones; `more_ranges` tells how many are left off), `requests` and its counts.
    """
    first = min((group.windows[0].day for group in plan.to_fetch), default=None)
    last = max((group.windows[-1].day for group in plan.to_fetch), default=None)
    sessions = [] if first is None or last is None else sessions_between(first, last)
    numbers = {day: number for number, day in enumerate(sessions)}
    return {
        "kind": kind_text(plan.scope.what_to_show, plan.scope.use_rth),
        "pieces": plan.pieces,
        "requests": plan.requests,
        "pacing_seconds": None if estimate_s is None else round(estimate_s, 1),
        **{name: plan.total(name) for name in (*_FETCHED, *_SETTLED, *_OTHERS)},
        "groups": [_preview_of(group, numbers) for group in plan.groups if group.windows or group.other_kind],
    }


def _preview_of(group: GroupPlan, numbers: Mapping[date, int]) -> dict[str, Any]:
    days = [window.day for window in group.windows]
    places = [numbers[day] for day in days]
    breaks = [row + 1 for row, (one, other) in enumerate(pairwise(places)) if other != one + 1]
    runs = list(zip([0, *breaks], [*breaks, len(days)], strict=True)) if days else []
    counts = {name: group.count(name) for name in (*_FETCHED, *_SETTLED, *_OTHERS)}
    return {
        "symbol": group.symbol,
        "bar_size": group.bar_size,
        "days": len(days),
        "first": days[0].isoformat() if days else None,
        "last": days[-1].isoformat() if days else None,
        "ranges": [[days[start].isoformat(), days[end - 1].isoformat()] for start, end in runs[-_MOST_RANGES:]],
        "more_ranges": max(0, len(runs) - _MOST_RANGES),
        "requests": group.requests,
        **{name: count for name, count in counts.items() if count},
    }


def _days_of(scope: BarsScope) -> dict[str, list[date]] | None:
    """The days of each symbol; None for all."""
    if scope.pairs is None:
        return None
    found: dict[str, list[date]] = {}
    for symbol, day in scope.pairs:
        found.setdefault(symbol, []).append(day)
    return found


def _judge_of(root: DataRoot, scope: BarsScope, symbol: str, bar_size: BarSize, folders: Folders) -> GroupJudge:
    return GroupJudge(root, symbol, bar_size, what_to_show=scope.what_to_show, use_rth=scope.use_rth, folders=folders)


def _group_of(symbol: str, sessions: Sessions, judged: Judged) -> GroupPlan:
    counts = np.bincount(judged.verdicts, minlength=len(Verdict)).tolist()
    windows = sessions.windows
    rows = np.flatnonzero(judged.verdicts <= LAST_TO_FETCH).tolist()
    if judged.starts:
        windows = tuple(_window(windows[row], judged.starts.get(row)) for row in rows)
    elif len(rows) < len(windows):
        windows = tuple(map(windows.__getitem__, rows))
    days = [[sessions.windows[row].day for row in some] for some in (judged.resumed, judged.unlisted)]
    return GroupPlan(
        symbol=symbol,
        bar_size=sessions.bar_size,
        windows=windows,
        resumed=frozenset(days[0]),
        unlisted=frozenset(days[1]),
        other_kind={sessions.windows[row].day: kind for row, kind in sorted(judged.other_kind.items())},
        missing=counts[Verdict.MISSING],
        partial=counts[Verdict.PARTIAL],
        file_gone=counts[Verdict.FILE_GONE],
        forced=counts[Verdict.FORCED],
        present=counts[Verdict.PRESENT],
        known_empty=counts[Verdict.KNOWN_EMPTY],
        out_of_reach=counts[Verdict.OUT_OF_REACH],
        opened=tuple(judged.opened),
        seen=judged.seen,
    )


def _window(whole: DayWindow, start_ns: int | None) -> DayWindow:
    return whole if start_ns is None else replace(whole, start_ns=start_ns)

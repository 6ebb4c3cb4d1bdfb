"""From the parameters of a bars download, as the flow, its deployments and the CLI take them, to a checked job.

Nothing here connects, waits or writes; what is missing is found out by `bars_plan`, and `bars_run` downloads it.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from connectors.ibkr.bar_requests import WHAT_TO_SHOW
from connectors.store.guard import FreeSpaceGuard
from contracts.errors import ContractError
from contracts.sessions import ET, is_session, today_et
from contracts.symbols import canonical_symbol
from flows.backfill_request import LONGEST_RANGE_DAYS, find_list_tasks, unique
from flows.bar_sizes import bar_sizes_of
from flows.bars_plan import BarsScope
from flows.errors import ConfigurationError
from flows.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from contracts.layout import BarSize, DataRoot
    from flows.settings import Settings

logger = logging.getLogger(__name__)

_MOST_NAMES: Final = 4


@dataclass(frozen=True)
class BarsJob:
    """A download of bars ready to run.

    Attributes:
        settings: the environment.
        root: the data root it writes to.
        scope: symbols, days and kind.
        now_ns: the present when it was assembled, nanoseconds since 1970 UTC.
        dry_run: only show what would be done.
        strict: an ERROR makes the run fail.
        workers: requests that may be open at once, of small bars and of others.
        sandbox: it starts the bundled gateway for itself.
    """

    settings: Settings
    root: DataRoot
    scope: BarsScope
    now_ns: int
    dry_run: bool = False
    strict: bool = False
    workers: int = 4
    sandbox: bool = False

    @property
    def label(self) -> str:
        """Symbols, sizes and days, for the names of runs."""
        symbols, sizes, ranges = self.scope.symbols, list(self.scope.ranges), self.scope.ranges.values()
        names = (" ".join(symbols) or "no symbols") if len(symbols) <= _MOST_NAMES else f"{len(symbols)} symbols"
        first, last = min(start for start, _ in ranges), max(end for _, end in ranges)
        days = first.isoformat() if first == last else f"{first} to {last}"
        return f"{names}, {' + '.join(sizes)}, {days}"

    def free_space(self) -> FreeSpaceGuard:
        """The guard of the data root's disk."""
        return FreeSpaceGuard(self.root.path, self.settings.l2_min_free_gb)


def assemble(
    *,
    now_ns: int,
    symbols: Sequence[str] | None = None,
    bar_sizes: Sequence[str] | None = None,
    start: dt.date | None = None,
    end: dt.date | None = None,
    force: bool = False,
    dry_run: bool = False,
    strict: bool = False,
    what_to_show: str | None = None,
    extended_hours: bool | None = None,
    oldest_first: bool | None = None,
    pairs: Iterable[tuple[str, dt.date]] | None = None,
) -> BarsJob:
    """Check the parameters of a download; connects to nothing and writes nothing.

    Without `symbols`, those of the task list with a day in the range are taken, which may be none. Without dates, the
    look-backs of the settings count, each from its number of calendar days before the ET today until today.

    Args:
        now_ns: the present, nanoseconds since 1970 UTC.
        symbols: symbols in any spelling.
        bar_sizes: some of `1 hour`, `1 min`, `1 sec`; all three when None.
        start: first ET day.
        end: last ET day, included; the ET today when only `start` is given.
        force: download again what is there.
        dry_run: only show what would be done.
        strict: an ERROR makes the run fail.
        what_to_show: the broker's kind of bars; BARS_WHAT_TO_SHOW when None.
        extended_hours: bars of 04:00-20:00 ET; BARS_EXTENDED_HOURS when None.
        oldest_first: the oldest days first; BARS_OLDEST_FIRST when None.
        pairs: just these symbols and ET days, whatever size; then neither symbols nor dates are given.

    Raises:
        ConfigurationError: a parameter, a setting or the task list cannot be used.
    """
    settings = load_settings()
    root = settings.data_root
    kind = settings.bars_what_to_show if what_to_show is None else what_to_show.strip().upper()
    if kind not in WHAT_TO_SHOW:
        raise ConfigurationError(
            f"there are no bars of {what_to_show!r}; what_to_show can be {', '.join(WHAT_TO_SHOW)}"
        )
    sizes = bar_sizes_of(bar_sizes)
    today = dt.datetime.fromtimestamp(now_ns // 10**9, tz=ET).date()
    if pairs is not None:
        wanted, only = _pairs(pairs, symbols, start, end)
        days = [day for _, day in only] or [today]
        ranges: Mapping[BarSize, tuple[dt.date, dt.date]] = dict.fromkeys(sizes, (min(days), max(days)))
    else:
        only = None
        ranges = _ranges(settings, sizes, start, end, today)
        wanted = _canonical(symbols)
    _check_calendar(ranges.values())
    if pairs is None and not wanted:
        wanted = _listed(settings, ranges.values())
    extended = settings.bars_extended_hours if extended_hours is None else extended_hours
    oldest = settings.bars_oldest_first if oldest_first is None else oldest_first
    scope = BarsScope(
        symbols=wanted,
        ranges=ranges,
        what_to_show=kind,
        use_rth=not extended,
        force=force,
        newest_first=not oldest,
        pairs=only,
    )
    return BarsJob(
        settings=settings,
        root=root,
        scope=scope,
        now_ns=now_ns,
        dry_run=dry_run,
        strict=strict,
        workers=settings.max_workers,
        sandbox=settings.force_fake_ib,
    )


def _ranges(
    settings: Settings, sizes: Sequence[BarSize], start: dt.date | None, end: dt.date | None, today: dt.date
) -> dict[BarSize, tuple[dt.date, dt.date]]:
    if start is None:
        if end is not None:
            raise ConfigurationError("an end day needs a start day")
        back: dict[BarSize, int] = {
            "1 hour": settings.bar_lookback_days_hour_1,
            "1 min": settings.bar_lookback_days_min_1,
            "1 sec": settings.bar_lookback_days_sec_1,
        }
        return {size: (today - dt.timedelta(days=back[size]), today) for size in sizes}
    if start > today:
        raise ConfigurationError(f"the start day {start} is still to come; today is {today} in New York")
    last = today if end is None else end
    if last < start:
        raise ConfigurationError(f"the end day {last} lies before the start day {start}")
    if last - start > dt.timedelta(LONGEST_RANGE_DAYS):
        raise ConfigurationError(f"{start} to {last} is more than {LONGEST_RANGE_DAYS} days: split it")
    return dict.fromkeys(sizes, (start, min(last, today)))


def _check_calendar(ranges: Iterable[tuple[dt.date, dt.date]]) -> None:
    try:
        for day in {day for days in ranges for day in days}:
            is_session(day)
    except ContractError as error:
        raise ConfigurationError(str(error)) from error


def _pairs(
    pairs: Iterable[tuple[str, dt.date]],
    symbols: Sequence[str] | None,
    start: dt.date | None,
    end: dt.date | None,
) -> tuple[tuple[str, ...], frozenset[tuple[str, dt.date]]]:
    if symbols is not None or start is not None or end is not None:
        raise ConfigurationError("pairs of symbol and day stand for themselves: leave out symbols and dates")
    found = [(_symbol(symbol), day) for symbol, day in pairs]
    return tuple(unique(symbol for symbol, _ in found)), frozenset(found)


def _canonical(symbols: Sequence[str] | None) -> tuple[str, ...]:
    if symbols is None:
        return ()
    if not symbols:
        raise ConfigurationError("the list of symbols is empty: name at least one, or leave it out for the task list")
    return tuple(unique(_symbol(text) for text in symbols))


def _symbol(text: str) -> str:
    try:
        return canonical_symbol(text)
    except ContractError as error:
        raise ConfigurationError(str(error)) from error


def _listed(settings: Settings, ranges: Collection[tuple[dt.date, dt.date]]) -> tuple[str, ...]:
    """The symbols that the task list has for the days of the ranges."""
    first, last = min(start for start, _ in ranges), max(end for _, end in ranges)
    age_days = max(0, (today_et() - first).days)
    found = find_list_tasks(settings, since_days=age_days)
    symbols = tuple(unique(symbol for symbol, day in found if first <= day <= last))
    if not symbols:
        # A week without trades is no mistake of a nightly run.
        logger.warning("the task list has no symbol for %s to %s: nothing to download", first, last)
    return symbols

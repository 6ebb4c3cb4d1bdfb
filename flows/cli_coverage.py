"""What `trading-data coverage build|show|missing|why` do after their options are read.

What was asked for goes to stdout, what a person should know beside it to stderr. Only `build` writes; the others derive
the ledger for themselves when the coverage file is not there or not up to date.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.text import Text

from connectors.store.bars import kind_text
from connectors.store.coverage import refresh, skipped_lines
from connectors.store.errors import StoreError
from contracts.errors import ContractError, InvalidSymbol, NotAvailable, OutsideCalendar
from contracts.symbols import canonical_symbol
from flows.bar_sizes import bar_size_of, bar_sizes_of
from flows.coverage_days import NO_BARS
from flows.coverage_judge import DaysJudge
from flows.coverage_source import no_ledger, open_coverage
from flows.coverage_text import COLOURS, LEGEND, STATE_WORDS, calendar_lines, lacking_lines, printable, table_lines
from flows.coverage_why import explain
from flows.errors import ConfigurationError
from flows.settings import load_settings

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from contracts.coverage import CoverageReport
    from contracts.layout import BarSize, DataRoot
    from flows.coverage_days import GroupDays
    from flows.coverage_source import CoverageSource
    from flows.settings import Settings

OK, FAILED, USAGE = 0, 1, 2
_NARROWEST: Final = 80
_MOST_NAMES: Final = 8


class _ExitError(Exception):
    """Ends a command with a code, after its error was told."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def build(from_manifest: Path | None = None, out: Path | None = None) -> int:
    """Derive the coverage file and print `{"wrote": path, "entry_count": n}`, one line of JSON.

    Args:
        from_manifest: another ledger than the data root's.
        out: another place for the coverage file than the data root's; its folder must be there.

    Returns:
        The exit code: 2 when there is no ledger, or the coverage file cannot be where it was asked for.
    """

    def tell(report: CoverageReport, ledger: Path) -> None:
        for line in skipped_lines(report, ledger):
            _note("build", line)

    try:
        with _command("build") as settings:
            root = settings.data_root
            _check_places(root, from_manifest or root.bars_manifest, out or root.bars_coverage)
            result = refresh(root, backup=settings.ml_backup_path, manifest=from_manifest, out=out, on_skipped=tell)
    except _ExitError as end:
        return end.code
    _print([json.dumps({"wrote": str(result.path.absolute()), "entry_count": result.report.entries})])
    return OK


def show(
    symbols: Sequence[str] | str | None = None,
    bar_sizes: Sequence[str] | str | None = None,
    start: dt.date | None = None,
    end: dt.date | None = None,
    *,
    calendar: bool = False,
    as_json: bool = False,
    now_ns: int | None = None,
) -> int:
    """Print one line per symbol and bar size: first and last day with bars, days, missing, partial, rows.

    Args:
        symbols: symbols in any spelling; all that have bars when None.
        bar_sizes: `1 hour`, `1 min`, `1 sec`; all three when None.
        start: first ET day; the first that there are bars of when None.
        end: last ET day; the last that there are bars of when None, or today when that is before `start`.
        calendar: also print a calendar of each, month by month.
        as_json: print one JSON object.
        now_ns: the present, nanoseconds since 1970 UTC.

    Returns:
        The exit code.
    """
    try:
        with _command("show") as settings:
            asked = _Asked.read(settings, symbols, bar_sizes, start, end, now_ns)
            source, groups = asked.source, [asked.judge.group(*key, start, end) for key in asked.keys]
    except _ExitError as end_:
        return end_.code
    _remark("show", source)
    if as_json:
        documents = [_shown(group, calendar=calendar) for group in groups]
        _print([json.dumps({"from": source.origin, "groups": documents}, indent=2)])
        return OK
    width = _width()
    if groups:
        _print(table_lines(groups, width))
    if calendar and groups:
        _print_marked(["", LEGEND])
        for group in groups:
            _print_marked(["", *calendar_lines(group, width)])
    if nothing := sum(group.counts[NO_BARS] for group in groups):
        _note("show", f"of {nothing} missing days the vendor has no bars")
    for group in groups:
        if len(kinds := sorted(group.notes.kinds)) > 1:
            text = f"{group.symbol} {group.bar_size} was downloaded as {' and '.join(kinds)}"
            _note("show", f"{text}; `coverage why` tells which of them a day holds")
    return OK


def missing(
    symbols: Sequence[str] | str | None,
    bar_sizes: Sequence[str] | str | None = None,
    start: dt.date | None = None,
    end: dt.date | None = None,
    *,
    fail: bool = False,
    as_json: bool = False,
    now_ns: int | None = None,
) -> int:
    """Print one line per run of sessions that are missing or partial, with why; days to come are left out.

    Args:
        symbols: as in `show`.
        bar_sizes: as in `show`; when None, and `start` too, those that there are bars of.
        start: first ET day; when None the first that there are bars of, of each symbol and bar size.
        end: last ET day; the last session that is over when None.
        fail: return 1 when a day is missing or partial that can still be had.
        as_json: print one JSON object, with each day.
        now_ns: the present, nanoseconds since 1970 UTC.

    Returns:
        The exit code: 0 also when days are missing, unless `fail`; 2 when nothing says where to begin.
    """
    try:
        with _command("missing") as settings:
            asked = _Asked.read(settings, symbols, bar_sizes, start, end, now_ns)
            groups = _in_question(asked, start, end, settings.data_root)
            days = [day.to_document() for group in groups for day in group.lacking()] if as_json else []
            lines = [] if as_json else lacking_lines(groups, _width() if sys.stdout.isatty() else None)
    except _ExitError as end_:
        return end_.code
    _remark("missing", asked.source)
    to_fetch = sum(group.to_fetch for group in groups)
    if as_json:
        documents = {"groups": [group.to_document() for group in groups], "days": days}
        _print([json.dumps({"from": asked.source.origin, **documents}, indent=2)])
    else:
        _print(lines)
        if not lines:
            _note("missing", _nothing_missing(groups))
        elif fail and not to_fetch:
            _note("missing", "the vendor has no bars of these days, or keeps them no longer: that is no failure")
    return FAILED if fail and to_fetch else OK


def why(symbol: str, day: dt.date, *, as_json: bool = False, now_ns: int | None = None) -> int:
    """Print what there is of one symbol and day, Level 2 and bars, what is missing in it, why, and what to do.

    Args:
        symbol: in any spelling.
        day: the ET day.
        as_json: print one JSON object.
        now_ns: the present, nanoseconds since 1970 UTC.

    Returns:
        The exit code.
    """
    try:
        with _command("why") as settings:
            root = settings.data_root
            source = open_coverage(root)
            now_ns = time.time_ns() if now_ns is None else now_ns
            found = explain(root, source.index, canonical_symbol(symbol), day, now_ns=now_ns, kind=_kind(settings))
    except _ExitError as end:
        return end.code
    _remark("why", source)
    _print([json.dumps(found.to_document(), indent=2)] if as_json else found.lines(_width()))
    return OK


def _kind(settings: Settings) -> str:
    """What `trading-data bars` would ask for."""
    return kind_text(settings.bars_what_to_show, not settings.bars_extended_hours)


@contextmanager
def _command(name: str) -> Iterator[Settings]:
    """The settings and the log of a command; what goes wrong inside is one clear line on stderr.

    Raises:
        _ExitError: something went wrong.
    """
    try:
        settings = load_settings()
        logging.basicConfig(
            level=settings.log_level, stream=sys.stderr, format="%(levelname)s: %(message)s", force=True
        )
        yield settings
    except (ConfigurationError, InvalidSymbol, OutsideCalendar, NotAvailable) as error:
        _note(name, str(error))
        raise _ExitError(USAGE) from error
    except (ContractError, StoreError, OSError) as error:
        _note(name, str(error))
        raise _ExitError(FAILED) from error


def _check_places(root: DataRoot, ledger: Path, target: Path) -> None:
    """Refuse before any work what cannot be.

    Raises:
        ConfigurationError: there is no such ledger, or the coverage file cannot be there.
    """
    if not ledger.is_file():
        raise no_ledger(ledger)
    if not target.parent.is_dir():
        raise ConfigurationError(f"there is no folder {target.parent} for the coverage file; make it, or give --out")
    if target.is_dir():
        raise ConfigurationError(f"{target} is a folder; --out takes the name of a file")
    for kept in (ledger, root.bars_manifest):
        if target.exists() and kept.exists() and target.samefile(kept):
            raise ConfigurationError(f"{target} is the ledger, which the coverage must not replace; give another --out")


@dataclass(frozen=True)
class _Asked:
    """What was asked for, checked.

    Attributes:
        source: the coverage.
        keys: symbols, canonical, with bar sizes, in the order of the answer.
        named: whether symbols were named.
        sizes: the bar sizes; all when `all_sizes`.
        all_sizes: whether none were named.
        judge: judges the days.
    """

    source: CoverageSource
    keys: list[tuple[str, BarSize]]
    named: bool
    sizes: tuple[BarSize, ...]
    all_sizes: bool
    judge: DaysJudge

    @classmethod
    def read(
        cls,
        settings: Settings,
        symbols: Sequence[str] | str | None,
        bar_sizes: Sequence[str] | str | None,
        start: dt.date | None,
        end: dt.date | None,
        now_ns: int | None,
    ) -> _Asked:
        """Check what was asked for, and open the coverage."""
        sizes = bar_sizes_of(_listed(bar_sizes))
        if start is not None and end is not None and end < start:
            raise ConfigurationError(f"the range {start} to {end} ends before it starts")
        wanted = [canonical_symbol(symbol) for symbol in _listed(symbols) or ()]
        source = open_coverage(settings.data_root)
        keys = [(symbol, size) for symbol in dict.fromkeys(wanted) for size in sizes]
        if symbols is None:
            keys = [key for key in _there(source) if key[1] in sizes]
        now_ns = time.time_ns() if now_ns is None else now_ns
        judge = DaysJudge(settings.data_root, source.index, now_ns=now_ns, kind=_kind(settings))
        return cls(source, keys, symbols is not None, sizes, bar_sizes is None, judge)


def _in_question(asked: _Asked, start: dt.date | None, end: dt.date | None, root: DataRoot) -> list[GroupDays]:
    """The groups in which days can be missing, with the verdicts on them.

    Raises:
        ConfigurationError: there are no bars to tell where to begin, or no day to judge.
    """
    keys = asked.keys
    if start is None or not asked.named:
        there = set(_there(asked.source))
        keys = [key for key in keys if key in there]
        lost = [key for key in asked.keys if key not in there]
        if asked.all_sizes:
            # Of a symbol that has one bar size the others need not be there.
            lost = [key for key in lost if not any(symbol == key[0] for symbol, _ in keys)]
        if lost or not keys:
            raise ConfigurationError(_no_bars(asked, lost, root))
    until = asked.judge.last_over() if end is None else end
    if start is not None and until < start:
        raise ConfigurationError(f"no session from {start} on is over yet; give --end to look at days that are not")
    groups = [asked.judge.group(*key, start, until) for key in keys]
    late = [group for group in groups if group.end < group.start]
    if end is not None and late and (asked.named or late == groups):
        what = f"{late[0].symbol} {late[0].bar_size}"
        raise ConfigurationError(f"the first bars of {what} are of {late[0].start}, after --end {end}; give --start")
    return groups


def _no_bars(asked: _Asked, lost: list[tuple[str, BarSize]], root: DataRoot) -> str:
    """Why nothing says where to begin, and what to do."""
    there = _there(asked.source)
    if not there:
        why = "; ".join(asked.source.remarks) or f"the ledger {root.bars_manifest} names no bars"
        return f"{why}. To see what is missing give --symbol, --start and --end"
    if not lost:
        sizes = [size for size in bar_sizes_of(None) if any(size == each for _, each in there)]
        return f"there are no {' or '.join(asked.sizes)} bars; there are {', '.join(sizes)}"
    symbol, size = lost[0]
    if sizes := [each for name, each in there if name == symbol]:
        told = f"there are no {size} bars of {symbol}, only {', '.join(sizes)}"
    else:
        names = list(dict.fromkeys(name for name, _ in there))
        more = f" and {len(names) - _MOST_NAMES} more symbols" if len(names) > _MOST_NAMES else ""
        told = f"there are no bars of {symbol}; there are bars of {', '.join(names[:_MOST_NAMES])}{more}"
    return f"{told}. Nothing says where its days begin: give --start, and --end if need be"


def _there(source: CoverageSource) -> list[tuple[str, BarSize]]:
    """Symbols and bar sizes that there are bars of, sorted."""
    return [] if source.index is None else [(symbol, bar_size_of(size)) for symbol, size in source.index.keys]


def _nothing_missing(groups: list[GroupDays]) -> str:
    judged = [group for group in groups if group.start <= group.end]
    if not judged:
        return "no session since the first bars is over yet"
    first, last = min(group.start for group in judged), max(group.end for group in judged)
    return f"nothing is missing from {first} to {last}"


def _listed(given: Sequence[str] | str | None) -> Sequence[str] | None:
    return [given] if isinstance(given, str) else given


def _shown(group: GroupDays, *, calendar: bool) -> dict[str, Any]:
    document = group.to_document()
    if calendar:
        days = zip(group.days.astype(str).tolist(), group.state.tolist(), strict=True)
        document["calendar"] = {day: STATE_WORDS[state] for day, state in days}
    return document


def _width() -> int:
    return max(_NARROWEST, shutil.get_terminal_size((_NARROWEST, 24)).columns)


def _remark(command: str, source: CoverageSource) -> None:
    for remark in source.remarks:
        _note(command, remark)


def _note(command: str, text: str) -> None:
    print(f"trading-data coverage {command}: {printable(text)}", file=sys.stderr)  # noqa: T201 - for people


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        # A path can hold what no terminal takes.
        print(line.encode(errors="backslashreplace").decode())  # noqa: T201 - what was asked for


def _print_marked(lines: list[str]) -> None:
    """Print lines of a calendar, with colours where the terminal has some."""
    console = Console(highlight=False, soft_wrap=True)
    if console.color_system is None or console.no_color:
        _print(lines)
        return
    for line in lines:
        text = Text(line)
        for mark, style in COLOURS.items():
            text.highlight_regex(rf"(?<![A-Za-z]){re.escape(mark)}(?![A-Za-z])", style)
        console.print(text)

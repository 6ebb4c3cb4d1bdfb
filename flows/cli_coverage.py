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
from typing import TYPE_CHECKING, Any, Final, get_args

from rich.console import Console
from rich.text import Text

from connectors.store.coverage import refresh, skipped_lines
from connectors.store.errors import StoreError
from contracts.errors import ContractError, InvalidSymbol, NotAvailable, OutsideCalendar
from contracts.layout import BarSize
from contracts.symbols import canonical_symbol
from flows.coverage_days import NO_BARS
from flows.coverage_judge import DaysJudge
from flows.coverage_source import no_ledger, open_coverage
from flows.coverage_text import COLOURS, LEGEND, STATE_WORDS, calendar_lines, lacking_line, printable, table_lines
from flows.coverage_why import explain
from flows.errors import ConfigurationError
from flows.settings import load_settings

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from contracts.coverage import CoverageReport
    from contracts.layout import DataRoot
    from flows.coverage_days import GroupDays
    from flows.coverage_source import CoverageSource
    from flows.settings import Settings

OK, FAILED, USAGE = 0, 1, 2
_NARROWEST: Final = 80
_SIZES: Final[tuple[BarSize, ...]] = get_args(BarSize)


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
            source, groups = _judged(settings, symbols, bar_sizes, start, end, now_ns)
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
    return OK


def missing(
    symbols: Sequence[str] | str | None,
    bar_sizes: Sequence[str] | str | None = None,
    start: dt.date | None = None,
    end: dt.date | None = None,
    *,
    as_json: bool = False,
    now_ns: int | None = None,
) -> int:
    """Print one line per session that is missing or partial, with why; days to come are left out.

    Args:
        symbols: as in `show`.
        bar_sizes: as in `show`.
        start: as in `show`.
        end: as in `show`.
        as_json: print one JSON object.
        now_ns: the present, nanoseconds since 1970 UTC.

    Returns:
        The exit code; 0 also when days are missing.
    """
    try:
        with _command("missing") as settings:
            source, groups = _judged(settings, symbols, bar_sizes, start, end, now_ns)
            days = [day for group in groups for day in group.lacking()]
    except _ExitError as end_:
        return end_.code
    _remark("missing", source)
    if as_json:
        documents = {"groups": [group.to_document() for group in groups], "days": [day.to_document() for day in days]}
        _print([json.dumps({"from": source.origin, **documents}, indent=2)])
        return OK
    symbol_width, width = max((len(group.symbol) for group in groups), default=0), _width()
    _print(lacking_line(day, symbol_width, width) for day in days)
    if not days:
        _note("missing", "nothing is missing")
    return OK


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
            found = explain(root, source.index, canonical_symbol(symbol), day, now_ns=now_ns)
    except _ExitError as end:
        return end.code
    _remark("why", source)
    _print([json.dumps(found.to_document(), indent=2)] if as_json else found.lines(_width()))
    return OK


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


def _judged(
    settings: Settings,
    symbols: Sequence[str] | str | None,
    bar_sizes: Sequence[str] | str | None,
    start: dt.date | None,
    end: dt.date | None,
    now_ns: int | None,
) -> tuple[CoverageSource, list[GroupDays]]:
    """Every group that was asked for, with the verdicts on its days."""
    sizes = _sizes(bar_sizes)
    if start is not None and end is not None and end < start:
        raise ConfigurationError(f"the range {start} to {end} ends before it starts")
    wanted = None if symbols is None else [canonical_symbol(symbol) for symbol in _listed(symbols)]
    root = settings.data_root
    source = open_coverage(root)
    if wanted is None:
        keys = [] if source.index is None else [key for key in source.index.keys if key[1] in sizes]
    else:
        keys = [(symbol, size) for symbol in dict.fromkeys(wanted) for size in sizes]
    judge = DaysJudge(root, source.index, now_ns=time.time_ns() if now_ns is None else now_ns)
    return source, [judge.group(symbol, _size(size), start, end) for symbol, size in keys]


def _sizes(given: Sequence[str] | str | None) -> list[BarSize]:
    return list(_SIZES) if given is None else list(dict.fromkeys(_size(text) for text in _listed(given)))


def _size(text: str) -> BarSize:
    for size in _SIZES:
        if text == size:
            return size
    raise ConfigurationError(f"{text!r} is no bar size; there are {', '.join(map(repr, _SIZES))}")


def _listed(given: Sequence[str] | str) -> Sequence[str]:
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

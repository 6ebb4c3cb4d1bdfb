"""Everything that is known of one symbol and day, Level 2 and bars: state, files, holes, reasons, and what to do."""

from __future__ import annotations

import datetime as dt
import shlex
import textwrap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, get_args

from connectors.ibkr.bar_requests import REACH_DAYS
from connectors.store.bars import SANDBOX_SUFFIX, kind_text, load_notes
from contracts.availability import BarsDay, bars_availability, level2_coverage
from contracts.layout import BarSize
from contracts.sessions import Window, is_session, session_close_et
from contracts.v1.bars import CoverageEntry, CoverageTotal
from flows.coverage_days import et_day, notes_document
from flows.coverage_judge import footer_of, is_final, is_whole
from flows.coverage_text import WHY_WORDS, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from connectors.store.bars import EmptyNote, ErrorNote
    from contracts.availability import DayCoverage
    from contracts.coverage import CoverageIndex
    from contracts.layout import DataRoot
    from contracts.v1.bars import BarsMetadata

_OPEN: Final = dt.time(9, 30)
_LABEL: Final = 9
_WIDEST: Final = 100
_LIVE: Final = "ibkr"

_NOTHING_DUE: Final = {"closed": "closed", "not_yet": "still to come"}
"""By why a day is missing, of days for which there is nothing to have."""

_LEVEL2_WORDS: Final = {
    "never_tried": "never fetched",
    "empty": "the vendor has no rows",
    "error": "the last try failed",
    "file_gone": "its file is gone",
    "unreadable": "its files cannot be read",
    "no_rows": "its files have no row of the window",
}

_LEVEL2_ADVICE: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "never_tried": ("fetch it", ()),
    "empty": ("nothing, unless the vendor is to be asked once more", ("--force",)),
    "error": ("put right what the error says, then fetch it again", ()),
    "file_gone": ("fetch it again", ()),
    "unreadable": ("fetch it again", ("--force",)),
    "no_rows": ("fetch it again", ("--force",)),
    "partial": ("fetch it again", ("--force",)),
    "live": ("what live capture missed is gone for good; the historical vendor may have the day", ()),
}
"""By why a day is missing, or by what it is partial in: what to do, and switches of the command."""


@dataclass(frozen=True)
class Advice:
    """Something a person can do.

    Attributes:
        text: what and why.
        command: the command that does it, as arguments; empty when there is none.
    """

    text: str
    command: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """The advice as a JSON document."""
        return {"text": self.text, **({"command": shlex.join(self.command)} if self.command else {})}


@dataclass(frozen=True)
class BarsWhy:
    """What is known of the bars of one size.

    Attributes:
        symbol: canonical.
        bar_size: `1 hour`, `1 min` or `1 sec`.
        verdict: as `bars_availability` says, but present when the file has all that the vendor has.
        footer: what the footer of the file tells; None when it tells nothing, or there is no file.
        is_whole: the file has all that the vendor has, though bars do not reach from end to end.
        is_unlisted: a file lies in its place, but no line of the ledger tells of it.
        is_out_of_reach: the vendor does not keep bars of this size for so long.
        empty: that the vendor has no bars, if a download noted it.
        is_empty_final: that note is believed: downloads do not ask again.
        error: why the last download failed, if it did.
    """

    symbol: str
    bar_size: BarSize
    verdict: BarsDay
    footer: BarsMetadata | None
    is_whole: bool
    is_unlisted: bool
    is_out_of_reach: bool
    empty: EmptyNote | None
    is_empty_final: bool
    error: ErrorNote | None

    @property
    def why(self) -> str | None:
        """Why it is missing, as in `coverage missing`."""
        if self.verdict.why == "never_downloaded" and self.is_empty_final:
            return "vendor_has_none"
        return self.verdict.why

    @property
    def advice(self) -> Advice | None:
        """What to do; None when nothing is to be done."""
        day = self.verdict.day.isoformat()
        size = ("--bar-size", self.bar_size, "--start", day, "--end", day)
        command = ("trading-data", "bars", "--symbol", self.symbol, *size)
        if self.verdict.state == "present" or self.why in _NOTHING_DUE:
            return None
        if self.is_unlisted:
            return Advice("write the ledger line of the file, or download the day when the file is not whole", command)
        if self.is_out_of_reach:
            days = REACH_DAYS[self.bar_size]
            return Advice(f"nothing: the vendor keeps {self.bar_size} bars for {days} days, older ones are gone")
        if self.why == "vendor_has_none":
            return Advice("nothing, unless the vendor is to be asked once more", (*command, "--force-bars"))
        if self.verdict.state == "partial":
            return Advice("download what is missing", command)
        return Advice("download it", command)

    def to_document(self) -> dict[str, Any]:
        """The bars as a JSON document; what there is nothing to say about is left out."""
        document = {
            "bar_size": self.bar_size,
            **self.verdict.to_document(),
            "why": self.why,
            "kind": self._kind,
            "complete": None if self.footer is None else self.footer.complete,
            "vendor_has_no_more": self.is_whole or None,
            "file_without_line": self.is_unlisted or None,
            "out_of_reach": self.is_out_of_reach or None,
            **notes_document(self.empty, self.error),
            "to_do": None if self.advice is None else self.advice.to_document(),
        }
        del document["date"]
        return {key: value for key, value in document.items() if value is not None}

    def lines(self) -> Iterator[str]:
        """The state, then what is behind it."""
        day = self.verdict
        yield _state_text(day.state, self.why, WHY_WORDS)
        if day.files:
            ends = [f"{moment:%H:%M:%S}" if moment else "unknown" for moment in (day.time_start, day.time_end)]
            kind = "" if self._kind is None else f", {self._kind}"
            yield f"{day.rows} bars, the first {ends[0]}, the last {ends[1]}{kind}"
        if day.holes:
            why = ": the vendor has no bars of it" if self.is_whole else ""
            yield f"no data {', '.join(map(str, day.holes))}{why}"
        if self.footer is not None and self.footer.producer.endswith(SANDBOX_SUFFIX):
            yield "invented by the sandbox"
        if self.footer is not None and not self.footer.complete:
            yield "downloaded before the day was over"
        if self.is_unlisted:
            yield "a file lies in its place, but no line of the ledger tells of it"
        if self.empty is not None:
            yield f"the vendor had none of {self.empty.kind}, asked {_minute(self.empty.asked_at_ns)}"
        if self.error is not None:
            yield f"the last try failed {_minute(self.error.at_ns)}: {printable(self.error.text)}"

    @property
    def _kind(self) -> str | None:
        return None if self.footer is None else kind_text(self.footer.what_to_show, self.footer.use_rth)


@dataclass(frozen=True)
class DayWhy:
    """Everything that is known of one symbol and day.

    Attributes:
        symbol: canonical.
        day: the ET day.
        level2: as `level2_coverage` says.
        skipped: lines and folders that could not be read for it.
        bars: one of each bar size.
    """

    symbol: str
    day: dt.date
    level2: DayCoverage
    skipped: int
    bars: tuple[BarsWhy, ...]

    @property
    def session(self) -> str | None:
        """Regular trading hours, ET; None when the exchange is closed."""
        return f"{_OPEN:%H:%M}-{session_close_et(self.day):%H:%M}" if is_session(self.day) else None

    def to_document(self) -> dict[str, Any]:
        """All of it as one JSON document."""
        advice = _level2_advice(self.symbol, self.level2)
        level2 = self.level2.to_document()
        del level2["date"]
        return {
            "symbol": self.symbol,
            "date": self.day.isoformat(),
            "session_et": self.session,
            "level2": level2 | ({} if advice is None else {"to_do": advice.to_document()}),
            "bars": [size.to_document() for size in self.bars],
        }

    def lines(self, width: int) -> list[str]:
        """All of it as text for people; paths and commands are never cut."""
        width = min(width, _WIDEST)
        hours = "the exchange is closed" if self.session is None else f"regular hours {self.session} ET"
        lines = [f"{self.symbol} {self.day.isoformat()}, {self.day:%A}, {hours}"]
        paths = [str(path) for path in self.level2.files]
        lines += _block("Level 2", self._level2_lines(), paths, _level2_advice(self.symbol, self.level2), width)
        for size in self.bars:
            paths = [str(size.verdict.path)] if size.verdict.path is not None else []
            lines += _block(size.bar_size, size.lines(), paths, size.advice, width)
        return lines

    def _level2_lines(self) -> Iterator[str]:
        day = self.level2
        yield _state_text(day.state, day.why, _LEVEL2_WORDS, day.reason)
        yield from (printable(str(source)) for source in day.sources)
        if day.file_gone and day.why != "file_gone":
            yield f"the file of the {day.status} line of the manifest is gone"
        if day.vendor_condition is not None:
            yield f"the vendor calls the data {day.vendor_condition}"
        if day.error is not None:
            yield f"the last try failed: {printable(day.error)}"
        if day.gaps:
            yield f"gaps of live capture: {', '.join(map(str, day.gaps))}"
        if self.skipped:
            yield f"{self.skipped} lines of manifests, or folders, could not be read and may hide something"


def explain(
    root: DataRoot, index: CoverageIndex | None, symbol: str, day: dt.date, *, now_ns: int, kind: str
) -> DayWhy:
    """Find out everything about one symbol and day; writes nothing.

    Args:
        root: the data root.
        index: its coverage of bars; None when it has none.
        symbol: canonical.
        day: the ET day.
        now_ns: the present, nanoseconds since 1970 UTC.
        kind: of the bars that a download would ask for, as `kind_text` says it.

    Raises:
        OutsideCalendar: the exchange calendar does not know the day.
        InvalidDocument: the coverage of the symbol is damaged.
        StoreError: the notes of a group cannot be read.
    """
    level2 = level2_coverage([root], symbol, day)
    sizes: tuple[BarSize, ...] = get_args(BarSize)
    bars = tuple(_explain_bars(root, index, symbol, size, day, now_ns, kind) for size in sizes)
    return DayWhy(symbol, day, level2.day(day), len(level2.skipped), bars)


def _explain_bars(
    root: DataRoot, index: CoverageIndex | None, symbol: str, bar_size: BarSize, day: dt.date, now_ns: int, kind: str
) -> BarsWhy:
    listed = [] if index is None else index.files(symbol, bar_size, day, day)
    total = CoverageTotal(date_start=day, date_end=day)
    entries = [CoverageEntry(symbol=symbol, bar_size=bar_size, total=total, days=tuple(listed))] if listed else []
    verdict = bars_availability(entries, symbol, bar_size, day, roots=[root]).day(day)
    if verdict.why == "never_downloaded" and _opens_after(day, now_ns):
        verdict = replace(verdict, why="not_yet")
    path = verdict.path if verdict.files else None
    whole = verdict.state == "partial" and path is not None and is_whole(path, symbol, bar_size, day)
    notes = load_notes(root, bar_size, symbol)
    reach = REACH_DAYS.get(bar_size)
    return BarsWhy(
        symbol=symbol,
        bar_size=bar_size,
        verdict=replace(verdict, state="present") if whole else verdict,
        footer=None if path is None else footer_of(path),
        is_whole=whole,
        is_unlisted=not listed and root.bars_path(bar_size, symbol, day).is_file(),
        is_out_of_reach=reach is not None and day < et_day(now_ns) - dt.timedelta(days=reach),
        empty=(note := notes.empty.get(day)),
        is_empty_final=note is not None and is_final(note, day, kind),
        error=notes.errors.get(day),
    )


def _state_text(state: str, why: str | None, words: Mapping[str, str], reason: str | None = None) -> str:
    """The state and why; of a day without trading nothing is missing."""
    if why is None:
        return state
    return _NOTHING_DUE.get(why) or f"{state}: {words[why]}{f' ({reason})' if reason else ''}"


def _opens_after(day: dt.date, now_ns: int) -> bool:
    return is_session(day) and Window(_OPEN, session_close_et(day)).bounds_ns(day)[0] > now_ns


def _level2_advice(symbol: str, day: DayCoverage) -> Advice | None:
    if day.state == "present" or day.why in _NOTHING_DUE:
        return None
    is_live = bool(day.sources) and day.sources[0].source == _LIVE
    text, switch = _LEVEL2_ADVICE[day.why or ("live" if is_live else "partial")]
    return Advice(text, ("trading-data", "backfill", "--symbol", symbol, "--date", day.day.isoformat(), *switch))


def _block(label: str, told: Iterator[str], paths: list[str], advice: Advice | None, width: int) -> list[str]:
    """A label with its lines beside it; long ones go on below, indented."""
    lines = [""]
    indent = " " * _LABEL
    for number, text in enumerate(told):
        first = f"{label:<{_LABEL}}" if number == 0 else indent
        lines += textwrap.wrap(
            text,
            width,
            initial_indent=first,
            subsequent_indent=indent + "  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    lines += [f"{indent}{printable(path)}" for path in paths]
    if advice is not None:
        lines += textwrap.wrap(f"to do: {advice.text}", width, initial_indent=indent, subsequent_indent=indent + "  ")
        lines += _command_lines(advice.command, indent + "  ", width)
    return lines


def _command_lines(command: tuple[str, ...], indent: str, width: int) -> list[str]:
    """A command that can be pasted, over as many lines as it needs."""
    lines: list[str] = []
    for number, word in enumerate(map(shlex.quote, command)):
        # An option stays with its value.
        is_value = number > 0 and command[number - 1].startswith("--") and not word.startswith("--")
        room = width - len(" \\")
        coming = word if is_value or number + 1 == len(command) else f"{word} {shlex.quote(command[number + 1])}"
        if lines and (is_value or len(lines[-1]) + 1 + len(coming) <= room):
            lines[-1] += f" {word}"
        else:
            lines.append(f"{indent}{'  ' if lines else ''}{word}")
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _minute(ns: int) -> str:
    return f"{dt.datetime.fromtimestamp(ns // 10**9, dt.UTC):%Y-%m-%d %H:%M} UTC"

"""Checks of the bars manifest line by line and of the bars coverage; used through `contracts.validate`.

What both say about files and about each other is held against the data root in `promises_bars`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from contracts._validate.bars import PLACE_PARTS
from contracts._validate.documents import check_document, check_model, has_version, read_document
from contracts._validate.known import KnownParts
from contracts._validate.lines import check_lines
from contracts._validate.old_forms import renewed
from contracts.errors import InvalidDocument, shown
from contracts.layout import BAR_FOLDERS
from contracts.v1._model import with_canonical_symbol
from contracts.v1.bars import (
    BAR_SCHEMA,
    COVERAGE_VERSION,
    MANIFEST_VERSION,
    BarsCoverage,
    BarsManifestLine,
    CoverageDay,
    CoverageEntry,
)

if TYPE_CHECKING:
    from datetime import datetime

    from contracts._validate.findings import Collector
    from contracts._validate.seen import Target
    from contracts.layout import BarSize

_SMALL_BYTES: Final = 1 << 20
_TODAY: Final = "Write what contracts.coverage derives."
_ABSOLUTE: Final = re.compile(r"/|\\\\|[A-Za-z]:[\\/]")
_TIMES: Final = ("time_start", "time_end")


@dataclass(frozen=True, slots=True)
class BarsPromise:
    """What the newest line of a path says.

    Attributes:
        line: One-based number of the line.
        path: As the line has it.
        rows: Bars in the file.
        has_columns: The line names the columns of the contract.
        time_start: Start of the first bar, if the line says it.
        time_end: Start of the last bar, if the line says it.
    """

    line: int
    path: str
    rows: int
    has_columns: bool
    time_start: datetime | None
    time_end: datetime | None


class BarsPromises:
    """The newest line of each path, by its place below a data root: bar folder, symbol, file name.

    Attributes:
        of_place: A later line for the same place replaces earlier ones.
        unread: Lines that could not be read.
    """

    def __init__(self) -> None:
        self.of_place: dict[tuple[str, str, str], BarsPromise] = {}
        self.unread = 0

    def take(self, line: BarsManifestLine, number: int) -> None:
        """Remember a line and its one-based number."""
        place = place_of(line.path, line.bar_size, line.symbol)
        has_columns = list(line.columns) == BAR_SCHEMA.names
        self.of_place[place] = BarsPromise(number, line.path, line.rows, has_columns, line.time_start, line.time_end)


def place_of(path: str, bar_size: BarSize, symbol: str) -> tuple[str, str, str]:
    """Return bar folder, symbol folder and name of a file wherever its root was moved, of a path of either system."""
    parts = _parts(path)
    if len(parts) >= PLACE_PARTS and parts[-PLACE_PARTS] == "bars":
        return parts[-3], parts[-2], parts[-1]
    return BAR_FOLDERS[bar_size], symbol, parts[-1]


def _parts(path: str) -> list[str]:
    # Of a hundred thousand lines pathlib would take the most of the time.
    return path.replace("\\", "/").split("/")


def check_bars_manifest(target: Target) -> int:
    """Check `bars_download_manifest.jsonl`; returns its number of lines.

    Raises:
        OSError: The file cannot be read.
    """
    findings = target.findings
    promises = target.seen.bars[target.path] = BarsPromises()
    known = KnownParts(BarsManifestLine, ("written_at", "path", "rows"), _TIMES)

    def check(document: Any, number: int) -> None:
        line = _manifest_line(document, number, known, findings)
        check_path(line.path, line.filename, line.bar_size, line.symbol, findings, line=number)
        if line.rows == 0:
            hint = "A day without bars has no file and no line."
            findings.add("no-rows", "the file has no rows", hint, severity="warning", line=number, field="rows")
        if line.time_start and line.time_end and line.time_start.date() != line.time_end.date():
            message = f"the bars run from {line.time_start.date()} to {line.time_end.date()}"
            hint = "Read for one day only; write a file per ET day."
            findings.add("old-multi-day", message, hint, severity="warning", line=number, field="time_end")
        promises.take(line, number)

    lines, promises.unread = check_lines(target.path, findings, MANIFEST_VERSION, check)
    return lines


def _manifest_line(document: Any, number: int, known: KnownParts, findings: Collector) -> BarsManifestLine:
    """Read a line; old forms are looked for only where today's do not do, for that takes time."""
    if isinstance(document, dict) and all(document.get(key, "") is not None for key in _TIMES):
        try:
            line: BarsManifestLine = known.read(document)
        except InvalidDocument:
            pass
        else:
            return line
    return BarsManifestLine.from_document(renewed(document, findings, line=number))


def check_path(
    path: str,
    filename: str,
    bar_size: BarSize,
    symbol: str,
    findings: Collector,
    *,
    line: int | None = None,
    place: str = "",
) -> None:
    """Check that a path is absolute, ends in the file name and leads to this bar size and symbol, if it tells."""
    if _parts(path)[-1] != filename:
        message = f"filename {shown(filename)} is not the last part of the path"
        findings.add("filename", message, "It is the bare name of the file.", line=line, field=f"{place}filename")
    if not _ABSOLUTE.match(path):
        hint = "Write the absolute path; readers take the same place below their root when a root was moved."
        findings.add("path", f"{shown(path)} is not absolute", hint, line=line, field=f"{place}path")
    folder, of_symbol, _ = place_of(path, bar_size, symbol)
    if folder != BAR_FOLDERS[bar_size] or (of_symbol != symbol and with_canonical_symbol(of_symbol) != symbol):
        message = f"the path leads to {shown(f'{folder}/{of_symbol}')}, not to {BAR_FOLDERS[bar_size]}/{symbol}"
        findings.add("path", message, "Write the path of the file.", line=line, field=f"{place}path")


def check_bars_coverage(target: Target) -> int:
    """Check `bars_coverage_manifest.json`; returns how many days it lists.

    By its model, and a file of up to 1 MB by its JSON Schema too; jsonschema takes minutes for a large one.

    Raises:
        OSError: The file cannot be read.
    """
    findings = target.findings
    document = read_document(target.path, findings)
    if document is None or not has_version(document, COVERAGE_VERSION, findings, is_required=True):
        return 0
    document = _renewed_coverage(document, findings)
    is_small = target.path.stat().st_size <= _SMALL_BYTES
    coverage = (check_document if is_small else check_model)(document, COVERAGE_VERSION, findings)
    if not isinstance(coverage, BarsCoverage):
        return 0
    target.seen.coverages[target.path] = coverage
    _check_entries(coverage, findings)
    return sum(len(entry.days) for entry in coverage.entries)


def _renewed_coverage(document: Any, findings: Collector) -> Any:
    new = renewed(document, findings)
    if not isinstance(new, dict) or not isinstance(new.get("entries"), list):
        return new
    new["entries"] = [
        renewed(entry, findings, place=f"entries.{number}.") for number, entry in enumerate(new["entries"])
    ]
    for number, entry in enumerate(new["entries"]):
        if isinstance(entry, dict) and isinstance(entry.get("days"), list):
            entry["days"] = [
                renewed(day, findings, place=f"entries.{number}.days.{at}.") for at, day in enumerate(entry["days"])
            ]
    return new


def _check_entries(coverage: BarsCoverage, findings: Collector) -> None:
    for number, (one, two) in enumerate(pairwise(coverage.entries), 1):
        if (one.symbol, one.bar_size) >= (two.symbol, two.bar_size):
            message = f"{two.symbol} {two.bar_size} stands after {one.symbol} {one.bar_size}"
            hint = f"Entries are sorted by symbol and bar size, each once. {_TODAY}"
            findings.add("entry-order", message, hint, field=f"entries.{number}")
    for number, entry in enumerate(coverage.entries):
        _check_days(entry, f"entries.{number}.", findings)


def _check_days(entry: CoverageEntry, place: str, findings: Collector) -> None:
    says = f"{entry.symbol} {entry.bar_size}"
    if not entry.days:
        findings.add("no-days", f"{says} has no days", f"Leave the entry out. {_TODAY}", field=f"{place}days")
        return
    for at, (one, two) in enumerate(pairwise(entry.days), 1):
        if one.date >= two.date:
            message, hint = f"{says}: {two.date} stands after {one.date}", f"Days rise, each once. {_TODAY}"
            findings.add("day-order", message, hint, field=f"{place}days.{at}.date")
    days = [day.date for day in entry.days]
    if (entry.total.date_start, entry.total.date_end) != (min(days), max(days)):
        message = (
            f"{says}: total says {entry.total.date_start} to {entry.total.date_end}, "
            f"the days run from {min(days)} to {max(days)}"
        )
        findings.add("total", message, f"It is the first and the last of the days. {_TODAY}", field=f"{place}total")
    for at, day in enumerate(entry.days):
        _check_day(entry, day, f"{place}days.{at}.", findings)


def _check_day(entry: CoverageEntry, day: CoverageDay, place: str, findings: Collector) -> None:
    check_path(day.path, day.filename, entry.bar_size, entry.symbol, findings, place=place)
    if day.rows == 0:
        findings.add("no-rows", "the file has no rows", _TODAY, severity="warning", field=f"{place}rows")
    start, end = day.time_start or day.time_end, day.time_end or day.time_start
    if start is None or end is None:
        return
    if start > end:
        findings.add("time-order", f"time_start {start} is after time_end {end}", _TODAY, field=f"{place}time_start")
    elif not start.date() <= day.date <= end.date():
        message = f"{entry.symbol} {entry.bar_size}: {day.date} is not between {start.date()} and {end.date()}"
        findings.add("day", message, f"A file counts for the ET day of its bars. {_TODAY}", field=f"{place}date")

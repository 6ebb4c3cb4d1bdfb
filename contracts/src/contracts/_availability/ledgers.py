"""What the backfill manifest and the gaps file of data roots say about one symbol; files are not looked at here."""

from __future__ import annotations

import heapq
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Final, TypeVar

from contracts._follow_lines import Place, whole_lines
from contracts.errors import InvalidName, InvalidSymbol
from contracts.follow import Skipped, read_line
from contracts.layout import parse_level2_name
from contracts.symbols import canonical_symbol
from contracts.v1._model import Contract
from contracts.v1.backfill import BackfillManifestLine, parse_manifest_line
from contracts.v1.gaps import Gap, parse_gap_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from datetime import date
    from pathlib import Path

    from contracts.layout import DataRoot
    from contracts.v1.quality import Quality

LineT = TypeVar("LineT", BackfillManifestLine, Gap)

DEFAULT_SOURCE: Final = "databento"
"""The source of lines that name none."""

_SYMBOL_KEY: Final = re.compile(rb'"symbol"\s*:\s*"([^"]*)"')
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class DayRecord:
    """What the manifest says about one day.

    Attributes:
        holding: The newest line that is not ERROR.
        error: The newest ERROR line behind it; an ERROR changed no file, so `holding` still holds.
        quality: Of the holding line, or of the WRITE that a SKIP found.
        window_et: Likewise.
        interval_ms: Likewise.
    """

    holding: BackfillManifestLine | None = None
    error: BackfillManifestLine | None = None
    quality: Quality | None = None
    window_et: str | None = None
    interval_ms: int | None = None

    def followed_by(self, line: BackfillManifestLine) -> DayRecord:
        """Return the record after one more line."""
        if line.status == "ERROR":
            return DayRecord(self.holding, line, self.quality, self.window_et, self.interval_ms)
        if line.status != "SKIP":
            return DayRecord(line, None, line.quality, line.window_et, line.interval_ms)
        # A SKIP left the file as it was.
        interval_ms = self.interval_ms if line.interval_ms is None else line.interval_ms
        return DayRecord(line, None, line.quality or self.quality, line.window_et or self.window_et, interval_ms)


def day_records(
    lines: Iterable[BackfillManifestLine], symbol: str, sources: Collection[str] | None
) -> dict[date, DayRecord]:
    """Return what lines of one or more symbols, oldest first, say about the days of a canonical symbol."""
    records: defaultdict[date, DayRecord] = defaultdict(DayRecord)
    for line in lines:
        if line.symbol == symbol and (sources is None or source_of(line) in sources):
            records[line.date] = records[line.date].followed_by(line)
    return records


def source_of(line: BackfillManifestLine) -> str:
    """Return the source tag of the file that a line is about."""
    if line.path is not None:
        try:
            # Takes the separators of both systems: a root can be filled on one and read on the other.
            tag = parse_level2_name(PureWindowsPath(line.path).name).source_tag
        except InvalidName:
            tag = None
        if tag is not None:
            return tag
    return line.source or DEFAULT_SOURCE


def manifest_lines(roots: Sequence[DataRoot], symbol: str) -> tuple[list[BackfillManifestLine], list[Skipped]]:
    """Return the backfill lines of a canonical symbol in all manifests, oldest first, and the lines that are damaged.

    Lines of one manifest keep their order. Between manifests the newer `written_at` is later, and what the better root
    says when that does not tell. Damaged lines that are surely about other symbols may not be told.
    """
    lines, skipped = _read((root.backfill_manifest for root in roots), symbol, parse_manifest_line)
    by_day: defaultdict[date, list[list[BackfillManifestLine]]] = defaultdict(list)
    for one_file in reversed(lines):
        days: defaultdict[date, list[BackfillManifestLine]] = defaultdict(list)
        for line in one_file:
            days[line.date].append(line)
        for day, of_day in days.items():
            by_day[day].append(of_day)
    merged: list[BackfillManifestLine] = []
    for files in by_day.values():
        merged += heapq.merge(*files, key=lambda line: line.written_at or _LONG_AGO)
    return merged, skipped


def gap_records(roots: Sequence[DataRoot], symbol: str) -> tuple[list[Gap], list[Skipped]]:
    """Return the gap records of a canonical symbol in all gaps files, and the lines that are damaged, as above."""
    gaps, skipped = _read((root.gaps for root in roots), symbol, parse_gap_line)
    return list(dict.fromkeys(gap for one_file in gaps for gap in one_file)), skipped


def _read(
    paths: Iterable[Path], symbol: str, parse: Callable[[bytes], LineT]
) -> tuple[list[list[LineT]], list[Skipped]]:
    """Return the symbol's lines of each file, and what could not be read; one file reached twice is read once."""
    skipped: list[Skipped] = []
    files = []
    for path in {os.path.realpath(path): path for path in reversed(list(paths))}.values():
        lines = []
        try:
            for line in _lines_of(path, symbol, parse):
                if isinstance(line, Skipped):
                    skipped.append(line)
                else:
                    lines.append(line)
        except OSError as error:
            skipped.append(Skipped(path, 0, 0, f"cannot be read: {error.strerror or error}"))
        files.append(lines)
    return files[::-1], skipped


def _lines_of(path: Path, symbol: str, parse: Callable[[bytes], LineT]) -> Iterator[LineT | Skipped]:
    with whole_lines(path, Place()) as reader:
        for raw in reader or ():
            if raw.text is not None and _is_of_another(raw.text, symbol.encode()):
                continue
            line = read_line(path, raw, parse)
            if isinstance(line, Skipped) or (isinstance(line, Contract) and line.symbol == symbol):
                yield line


def _is_of_another(text: bytes, symbol: bytes) -> bool:
    """Tell whether a line is surely about another symbol, without parsing it; a manifest holds thousands of symbols."""
    if b"\\" in text or not (text.startswith(b"{") and text.rstrip().endswith(b"}")):
        return False
    symbols = _SYMBOL_KEY.findall(text)
    return len(symbols) == 1 and symbols[0] != symbol and _canonical(symbols[0]) not in (None, symbol)


@lru_cache(maxsize=4096)
def _canonical(symbol: bytes) -> bytes | None:
    try:
        return canonical_symbol(symbol.decode()).encode()
    except (InvalidSymbol, UnicodeDecodeError):
        return None

"""Whether a bars coverage is what its manifest gives, derived in memory; used through `contracts.validate`."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Final

from contracts._coverage.file import HEAD, LONGEST_HEAD, file_head, is_same
from contracts._coverage.full import derive
from contracts._coverage.ledger_columns import LinesBuilder
from contracts._coverage.ledger_reader import LedgerReader
from contracts._coverage.report import CoverageReport
from contracts.errors import shown
from contracts.v1.bars import parse_bars_coverage

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from contracts._coverage.full import Derived
    from contracts._validate.findings import Collector
    from contracts.v1.bars import BarsCoverage, CoverageDay

_DERIVE: Final = "Derive the coverage again with contracts.coverage.build_coverage."
_KEYS: Final = ("path", "rows", "time_start", "time_end", "filename")
_Key = tuple[str, str]
_Place = tuple[str, "CoverageDay"]


def check_derivation(manifest: Path, path: Path, coverage: BarsCoverage, findings: Collector) -> None:
    """Report each day in which a coverage is not what the lines of the manifest give.

    Args:
        manifest: The manifest of the same data root.
        path: The coverage file.
        coverage: What is in it.
        findings: Where to put what is wrong.

    Raises:
        OSError: One of them cannot be read any more.
    """
    derived = _derive(manifest)
    # The bytes are equal where this package wrote them; only otherwise a model of each day is needed.
    if _has_bytes(path, derived):
        return
    expected = parse_bars_coverage(b"".join((file_head(datetime.now(UTC)), *derived.parts())))
    ours, theirs = _days(coverage), _days(expected)
    for key in sorted(ours.keys() | theirs.keys()):
        _compare(key, ours.get(key, {}), theirs.get(key, {}), findings)


def _derive(manifest: Path) -> Derived:
    builder = LinesBuilder()
    with manifest.open("rb", buffering=0) as file:
        reader = LedgerReader(builder, CoverageReport())
        reader.read_file(file.fileno(), os.fstat(file.fileno()).st_size)
    return derive(builder.build(), builder.entries.keys())


def _has_bytes(path: Path, derived: Derived) -> bool:
    with path.open("rb") as file:
        head = HEAD.match(file.read(LONGEST_HEAD))
    return head is not None and is_same(path, chain((head[0],), derived.parts()))


def _days(coverage: BarsCoverage) -> dict[_Key, dict[date, _Place]]:
    """Return the days of each entry with their place in the document."""
    return {
        (entry.symbol, entry.bar_size): {
            day.date: (f"entries.{number}.days.{at}", day) for at, day in enumerate(entry.days)
        }
        for number, entry in enumerate(coverage.entries)
    }


def _compare(key: _Key, ours: dict[date, _Place], theirs: dict[date, _Place], findings: Collector) -> None:
    says = " ".join(key)
    for day in sorted(ours.keys() | theirs.keys()):
        place, found = ours.get(day, (None, None))
        _, expected = theirs.get(day, (None, None))
        message = None
        if found is None:
            message = f"{says} {day} is not listed, the manifest has a line for it"
        elif expected is None:
            message = f"{says} {day} is listed, the manifest gives no such day"
        else:
            name = next((name for name in _KEYS if getattr(found, name) != getattr(expected, name)), None)
            if name is not None:
                says_value, gives = (shown(str(getattr(day, name))) for day in (found, expected))
                message = f"{says} {day}: {name} is {says_value}, the manifest gives {gives}"
                place = f"{place}.{name}"
        if message is not None:
            findings.add("derivation", message, _DERIVE, field=place)

"""What the bars manifest and the coverage say, held against the bars files of their data root and each other."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from contracts._validate.bars import PLACE_PARTS
from contracts._validate.bars_documents import place_of
from contracts._validate.findings import MOST_PER_RULE, Collector
from contracts.errors import shown
from contracts.timestamps import iso_utc_from_ns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contracts._validate.bars_documents import BarsPromise, BarsPromises
    from contracts._validate.findings import Report
    from contracts._validate.seen import FileFacts, Place
    from contracts.v1.bars import BarsCoverage

_AGAIN: Final = "Download the bars of that day again."
_DERIVE: Final = "Derive the coverage again with contracts.coverage.build_coverage."
_INVISIBLE: Final = "Readers find bars by the manifest only: download the day again, or remove the file."
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BarsPlace = tuple[str, str, str]


class BarsFiles:
    """The bars files of one data root that were seen, by bar folder, symbol folder and name.

    Args:
        root: The data root; paths in documents are absolute, but a root can be moved, so files are looked up by their
            place below it.
        seen: All files of the validation.
    """

    def __init__(self, root: Path, seen: Mapping[Place, FileFacts]) -> None:
        self.root = root
        self._seen = seen
        self._folders: dict[tuple[str, str], str] = {}

    def at(self, place: _BarsPlace) -> FileFacts | None:
        """Return the file at a place, or None."""
        folder, symbol, name = place
        if (folder, symbol) not in self._folders:
            self._folders[folder, symbol] = os.path.realpath(self.root / "bars" / folder / symbol)
        return self._seen.get((self._folders[folder, symbol], name))

    def unlisted(self, promises: BarsPromises | None) -> list[FileFacts]:
        """Return the files of this root that no line of the manifest names, in the order of their paths."""
        listed = promises.of_place if promises is not None else {}
        depth = len(self.root.parts)
        return [
            facts
            for facts in self._seen.values()
            if len(facts.path.parts) == depth + PLACE_PARTS
            and facts.path.parts[depth] == "bars"
            and facts.path.parts[:depth] == self.root.parts
            and facts.path.parts[depth + 1 :] not in listed
        ]


def check_bars_promises(promises: BarsPromises, files: BarsFiles, findings: Collector) -> None:
    """Report where the newest line of a path and the file differ."""
    for place, promise in promises.of_place.items():
        facts = files.at(place)
        name = shown("/".join(place))
        if facts is None:
            if not _exists(promise.path):
                message = f"the line names {name}, which this data root has not"
                findings.add("missing-file", message, f"Bring it back. {_AGAIN}", line=promise.line, field="path")
            else:
                message = f"{shown(promise.path)} lies outside this data root"
                hint = "It is read as long as that place exists: bring it into the root."
                findings.add("outside-root", message, hint, severity="warning", line=promise.line, field="path")
            continue
        _check_file(promise, facts, name, findings)


def _check_file(promise: BarsPromise, facts: FileFacts, name: str, findings: Collector) -> None:
    changed = f"The file was changed after the line was written. {_AGAIN}"
    if facts.rows is not None and facts.rows != promise.rows:
        message = f"the line says {promise.rows} rows, but {name} has {facts.rows}"
        findings.add("row-count", message, changed, line=promise.line, field="rows")
    if not facts.is_sound:
        return
    if not promise.has_columns:
        message = f"the line names other columns than {name} has"
        findings.add("columns", message, changed, line=promise.line, field="columns")
    for field, said, ns in (
        ("time_start", promise.time_start, facts.first_ns),
        ("time_end", promise.time_end, facts.last_ns),
    ):
        if said is not None and ns is not None and (said - _EPOCH) // timedelta(microseconds=1) != ns // 1000:
            text = iso_utc_from_ns(np.array([ns], np.int64))[0].as_py()
            message = f"the line says {said.isoformat()}, but in {name} it is {text}"
            findings.add("time-span", message, changed, line=promise.line, field=field)


def check_coverage_files(coverage: BarsCoverage, files: BarsFiles, findings: Collector) -> None:
    """Report each listed file that is not there, or has another number of rows."""
    for number, entry in enumerate(coverage.entries):
        for at, day in enumerate(entry.days):
            where = f"entries.{number}.days.{at}"
            place = place_of(day.path, entry.bar_size, entry.symbol)
            facts, name = files.at(place), shown("/".join(place))
            if facts is None:
                if not _exists(day.path):
                    message = f"{entry.symbol} {entry.bar_size} {day.date}: this data root has no {name}"
                    findings.add("missing-file", message, f"Bring it back. {_AGAIN}", field=f"{where}.path")
            elif facts.rows is not None and facts.rows != day.rows:
                message = f"{entry.symbol} {entry.bar_size} {day.date}: {day.rows} rows, but {name} has {facts.rows}"
                findings.add("row-count", message, _DERIVE, field=f"{where}.rows")


def check_unlisted(files: BarsFiles, promises: BarsPromises | None, report: Report) -> None:
    """Warn about bars files that no line names."""
    unlisted = files.unlisted(promises)
    for facts in unlisted[:MOST_PER_RULE]:
        findings = Collector(facts.path, report, "bars")
        message = "no line of the bars manifest names it" if promises else "this data root has no bars manifest"
        findings.add("unlisted", message, _INVISIBLE, severity="warning")
    if len(unlisted) > MOST_PER_RULE:
        findings = Collector(files.root / "bars", report, "bars")
        message = f"{len(unlisted) - MOST_PER_RULE} more files that the bars manifest does not name are not listed"
        findings.add("unlisted", message, _INVISIBLE, severity="warning")


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        # Names that the system cannot take are in documents too.
        return False

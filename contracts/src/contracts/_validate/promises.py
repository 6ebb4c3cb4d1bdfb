"""What a backfill manifest and summary say, held against each other and against the files of their data root.

What the bars manifest and the coverage say is in `promises_bars`, what live sessions say in `promises_live`.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, get_args

from contracts.errors import InvalidName, shown
from contracts.layout import Level2Name
from contracts.v1.backfill import BackfillStatus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from contracts._validate.findings import Collector
    from contracts._validate.seen import FileFacts, Place
    from contracts.v1.backfill import BackfillManifestLine, BackfillSummary


@dataclass(frozen=True, slots=True)
class _Promise:
    line: int
    status: str
    filename: str
    rows: int | None


class BackfillPromises:
    """The last line of each symbol and day that says something about a file, and the last run as a whole.

    A WRITE or SKIP promises a file, an EMPTY promises none; an ERROR changed no file: the line before it still holds.

    Attributes:
        unread: Lines that could not be read.
    """

    def __init__(self) -> None:
        self.unread = 0
        self._last: dict[tuple[str, date], _Promise] = {}
        self._runs: set[str] = set()
        self._run_id: str | None = None
        self._counts: Counter[str] = Counter()
        self._empty: list[tuple[str, date]] = []

    def take(self, line: BackfillManifestLine, number: int) -> None:
        """Remember a line and its one-based number."""
        task = (line.symbol, line.date)
        if line.run_id is not None:
            if line.run_id != self._run_id:
                # Runs do not interleave, and the summary is that of the last one that came to its end.
                self._runs.add(line.run_id)
                self._run_id, self._counts, self._empty = line.run_id, Counter(), []
            self._counts[line.status] += 1
            if line.status == "EMPTY":
                self._empty.append(task)
        if line.status != "ERROR":
            self._last[task] = _Promise(number, line.status, _filename(line), line.rows)

    def check_files(self, root: Path, seen: Mapping[Place, FileFacts], findings: Collector) -> None:
        """Report each promised file that is not there, or has another number of rows, and files of EMPTY days.

        Paths in the lines are absolute, but a root can be moved or mounted elsewhere: a file is looked up by symbol and
        name in the folders of this root, whatever the Level-2 folder is called.

        Raises:
            OSError: The root cannot be listed any more.
        """
        subfolders = sorted(path for path in root.iterdir() if path.is_dir())
        folders: dict[str, list[str]] = {}
        for (symbol, day), promise in self._last.items():
            if symbol not in folders:
                folders[symbol] = [os.path.realpath(folder / symbol) for folder in subfolders]
            places = [place for folder in folders[symbol] if (place := (folder, promise.filename)) in seen]
            says = f"{promise.status} for {symbol} {day.isoformat()}"
            if promise.status == "EMPTY":
                if places:
                    message = f"{says}, but this data root has {shown(promise.filename)} of {symbol}"
                    hint = "An older file is left over: see which of the two is right, and remove it or run again."
                    findings.add("file-of-empty", message, hint, severity="warning", line=promise.line, field="status")
                continue
            if not places:
                message = f"{says}, but this data root has no {shown(promise.filename)} of {symbol}"
                hint = "Bring the file back, or run the backfill of that day again."
                findings.add("missing-file", message, hint, line=promise.line, field="path")
                continue
            found = [rows for place in places if (rows := seen[place].rows) is not None]
            if promise.rows is not None and found and promise.rows not in found:
                message = f"{says} with {promise.rows} rows, but {shown(promise.filename)} has {found[0]}"
                hint = "The file was changed after the line was written: run the backfill of that day with --force."
                findings.add("row-count", message, hint, line=promise.line, field="rows")

    def check_summary(self, summary: BackfillSummary, findings: Collector) -> None:
        """Report where the summary of the last run differs from its lines.

        Nothing is said when lines could not be read, or when another run has begun since.
        """
        if summary.run_id is None or self.unread:
            return
        if summary.run_id != self._run_id and summary.run_id in self._runs:
            return
        has_run = summary.run_id == self._run_id
        counts, empty = (self._counts, self._empty) if has_run else (Counter[str](), list[tuple[str, date]]())
        hint = "One line per task and run: the manifest or the summary lacks some, run the tasks again."
        says = f"such lines of run {shown(summary.run_id)}"
        for status in get_args(BackfillStatus):
            told, counted = getattr(summary.counts, status), counts[status]
            if told != counted:
                message = f"{told} tasks ended {status}, the manifest has {counted} {says}"
                findings.add("run-count", message, hint, field=f"counts.{status}")
        if sorted(summary.zero_row_tasks) != sorted(empty):
            message = f"{len(summary.zero_row_tasks)} tasks without rows, not those of the manifest's EMPTY lines"
            findings.add("run-count", message, hint, field="zero_row_tasks")


def _filename(line: BackfillManifestLine) -> str:
    """Return the name of the file of a line; one without a path means the usual name."""
    if line.path is not None:
        # Takes the separators of both systems: a root can be filled on one and read on the other.
        return PureWindowsPath(line.path).name
    try:
        return Level2Name("snapshots", line.date, source_tag=line.source or "databento").filename
    except InvalidName:
        return Level2Name("snapshots", line.date, source_tag="databento").filename

"""What the lines of a backfill manifest say about files, held against the files of the data root it lies in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING

from contracts.errors import InvalidName, shown
from contracts.layout import Level2Name

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from contracts._findings import Collector
    from contracts.v1.backfill import BackfillManifestLine

FileRows = dict[tuple[str, str], int | None]
"""Real path of the folder and file name of every Level-2 file seen, to its rows; None when its footer is unreadable."""


@dataclass(frozen=True)
class _Promise:
    line: int
    status: str
    filename: str
    rows: int | None


class Promises:
    """The last line of each symbol and day that says something about a file.

    A WRITE or SKIP promises one, an EMPTY promises none; an ERROR changed no file, so the line before it still holds.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, date], _Promise | None] = {}

    def take(self, line: BackfillManifestLine, number: int) -> None:
        """Remember a line and its one-based number."""
        if line.status == "ERROR":
            return
        task = (line.symbol, line.date)
        self._last[task] = None if line.status == "EMPTY" else _Promise(number, line.status, _filename(line), line.rows)

    def check(self, root: Path, seen: FileRows, findings: Collector) -> None:
        """Report each promised file that is not there, or has another number of rows.

        Paths in the lines are absolute, but a root can be moved or mounted elsewhere: a file is looked up by symbol and
        name in the folders of this root, whatever the Level-2 folder is called.

        Raises:
            OSError: The root cannot be listed any more.
        """
        subfolders = sorted(path for path in root.iterdir() if path.is_dir())
        folders: dict[str, list[str]] = {}
        for (symbol, day), promise in self._last.items():
            if promise is None:
                continue
            if symbol not in folders:
                folders[symbol] = [os.path.realpath(folder / symbol) for folder in subfolders]
            places = [place for folder in folders[symbol] if (place := (folder, promise.filename)) in seen]
            says = f"{promise.status} for {symbol} {day.isoformat()}"
            if not places:
                message = f"{says}, but this data root has no {shown(promise.filename)} of {symbol}"
                hint = "Bring the file back, or run the backfill of that day again."
                findings.add("missing-file", message, hint, line=promise.line, field="path")
                continue
            found = [rows for place in places if (rows := seen[place]) is not None]
            if promise.rows is not None and found and promise.rows not in found:
                message = f"{says} with {promise.rows} rows, but {shown(promise.filename)} has {found[0]}"
                hint = "The file was changed after the line was written: run the backfill of that day with --force."
                findings.add("row-count", message, hint, line=promise.line, field="rows")


def _filename(line: BackfillManifestLine) -> str:
    """Return the name of the file of a line; one without a path means the usual name."""
    if line.path is not None:
        # Takes the separators of both systems: a root can be filled on one and read on the other.
        return PureWindowsPath(line.path).name
    try:
        return Level2Name("snapshots", line.date, source_tag=line.source or "databento").filename
    except InvalidName:
        return Level2Name("snapshots", line.date, source_tag="databento").filename

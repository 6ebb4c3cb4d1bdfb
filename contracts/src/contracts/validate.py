"""Check a file or a whole data root against the contract and report what is wrong; nothing is changed or raised.

Here lies the walk and the choice of the check by file name. The checks of Level-2 parquet files are in
`_validate_level2`, those of JSON documents in `_validate_json`, those of the manifest against the files in `_promises`.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contracts._findings import Collector, Finding, Report
from contracts._promises import FileRows, Promises
from contracts._validate_json import check_backfill_manifest, check_backfill_summary, check_symbol_mapping
from contracts._validate_level2 import check_level2_file
from contracts.errors import InvalidName
from contracts.layout import DataRoot, Level2Name, parse_bars_path, parse_level2_name
from contracts.v1.symbol_mapping import FILENAME as SYMBOL_MAPPING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Finding", "Report", "validate_path"]

_NAMES: Final = DataRoot(Path())
_MANIFEST: Final = _NAMES.backfill_manifest.name
_DOCUMENTS: Final[dict[str, Callable[[Path, Collector], int]]] = {
    _NAMES.backfill_summary.name: check_backfill_summary,
    SYMBOL_MAPPING: check_symbol_mapping,
}


def validate_path(path: str | Path, *, full: bool = True) -> Report:
    """Check one file, or every file below a folder that this version knows.

    Known: Level-2 snapshots and events (parquet), the backfill manifest, the backfill summary and
    `symbol_mapping.json`, told by name; a single parquet file of another name is checked as a Level-2 file. Temporary
    files of writers (`.name.tmp`) and, in a folder, files of other artifacts are passed over. In a folder each backfill
    manifest is also held against the files of its data root, the folder it lies in. Memory stays bounded whatever the
    size of a file.

    Args:
        path: A file or a folder; links are followed.
        full: Check every row; otherwise footers, names and JSON documents only.

    Returns:
        The report; a path that does not exist or cannot be read is a finding in it.
    """
    root = Path(path)
    walk = _Walk(full=full)
    if not root.is_dir():
        walk.check_file(root, named=True)
        return walk.report
    for file in _files(root, walk.report):
        walk.check_file(file, named=False)
    walk.check_promises()
    return walk.report


class _Walk:
    """One validation: its report, and what must be remembered until the last file was seen."""

    def __init__(self, *, full: bool) -> None:
        self.report = Report()
        self._full = full
        self._rows: FileRows = {}
        self._promises: dict[Path, Promises] = {}

    def check_file(self, path: Path, *, named: bool) -> None:
        """Check a file if it is a known one; one that the caller named must be."""
        collector = Collector(path, self.report)
        name = _level2_name(path)
        is_level2 = path.suffix == ".parquet" and (name is not None or named or not _is_bars(path))
        if path.name != _MANIFEST and path.name not in _DOCUMENTS and not is_level2:
            if named:
                known = ", ".join((_MANIFEST, *_DOCUMENTS, "YYYY-MM-DD_snapshots_SOURCE.parquet"))
                collector.add("unknown-kind", "not a file this version can check", f"It checks {known}.")
            return
        with _closing(collector):
            if not stat.S_ISREG(path.stat().st_mode):
                collector.add("not-a-file", "not a regular file", "Remove it from the data root.")
                return
            self.report.files += 1
            self.report.rows += self._check_kind(path, name, collector)

    def check_promises(self) -> None:
        """Hold the manifests against the files that were seen."""
        for manifest, promises in self._promises.items():
            collector = Collector(manifest, self.report)
            with _closing(collector):
                promises.check(manifest.parent, self._rows, collector)

    def _check_kind(self, path: Path, name: Level2Name | None, collector: Collector) -> int:
        if path.name == _MANIFEST:
            return check_backfill_manifest(path, collector, self._promises.setdefault(path, Promises()))
        if path.name in _DOCUMENTS:
            return _DOCUMENTS[path.name](path, collector)
        place = os.path.realpath(path.parent), path.name
        self._rows[place] = None
        self._rows[place] = check_level2_file(path, name, collector, full=self._full)
        return self._rows[place] or 0


@contextmanager
def _closing(collector: Collector) -> Iterator[None]:
    """Close a collector; what cannot be read, also because it vanished since it was listed, is a finding of it."""
    try:
        yield
    except OSError as error:
        collector.add(
            "unreadable", f"cannot be read: {error.strerror or error}", "Check that it exists and may be read."
        )
    finally:
        collector.close()


def _level2_name(path: Path) -> Level2Name | None:
    try:
        return parse_level2_name(path.name)
    except InvalidName:
        return None


def _is_bars(path: Path) -> bool:
    try:
        parse_bars_path(path)
    except InvalidName:
        return False
    return True


def _files(root: Path, report: Report) -> Iterator[Path]:
    """Yield the files below a folder in a stable order; every folder once, even when links make a circle."""

    def unreadable(error: OSError) -> None:
        hint = "Check that it exists and may be read."
        message = f"cannot be listed: {error.strerror or error}"
        report.findings.append(Finding(Path(error.filename or root), "unreadable", message, hint))

    visited = {os.path.realpath(root)}
    for folder, subfolders, names in os.walk(root, onerror=unreadable, followlinks=True):
        fresh = []
        for name in sorted(subfolders):
            real = os.path.realpath(Path(folder, name))
            if real not in visited:
                visited.add(real)
                fresh.append(name)
        subfolders[:] = fresh
        yield from (Path(folder, name) for name in sorted(names) if not _is_temporary(name))


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")

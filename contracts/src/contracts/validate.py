"""Check a file or a whole data root against the contract and report what is wrong; nothing is changed or raised.

Here lies the walk. The table of all kinds of files with their checks is in `_validate.kinds`; how files of one data
root are held against each other is in `_validate.promises`, `_validate.promises_bars` and `_validate.promises_live`.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contracts._validate.bars import PLACE_PARTS, is_bars_place
from contracts._validate.findings import Collector, Finding, KindCount, Report
from contracts._validate.kinds import KINDS, kind_by_content, kind_by_name
from contracts._validate.promises_bars import BarsFiles, check_bars_promises, check_coverage_files, check_unlisted
from contracts._validate.promises_live import check_live
from contracts._validate.seen import Seen, Target, root_above

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Finding", "KindCount", "Report", "validate_path"]

_LEFTOVER_AFTER_S: Final = 86_400
_NOT_A_FILE: Final = "Remove it from the data root, or give it another name."


def validate_path(path: str | Path, *, full: bool = True) -> Report:
    """Check one file, or every file below a folder that this version knows.

    Known is every artifact of the contract: Level-2 snapshots and events, depth messages, session stats, backfill
    manifest and summary, gaps, bars files, bars manifest and coverage, and `symbol_mapping.json`. A kind is told by
    name and place, that of a single file of another name by its content, that of any parquet file by its columns.
    Temporary files of writers (`.name.tmp`) are passed over until they are a day old; so is, in a folder, any other
    file.

    In a folder files are also held against each other: what manifests, summary, coverage and session stats promise,
    wherever the root was moved to, and whether live snapshots are what their messages give. What lies in a data root is
    known of roots that the folder is or contains.

    Memory stays bounded whatever the size of a parquet or messages file.

    Args:
        path: A file or a folder; links are followed.
        full: Check every row; otherwise footers, names and JSON documents only, and of messages files of more than
            128 KiB the beginning and the end. A damaged page behind an intact footer is found by reading it: when it
            carries a checksum or cannot be decoded, and else only where its values break a rule.

    Returns:
        The report; a path that does not exist or cannot be read is a finding in it.
    """
    root = Path(path)
    walk = _Walk(root, full=full)
    if os.path.isdir(root) and kind_by_name(root) is None:  # noqa: PTH112 - Path.is_dir raises for odd paths
        walk.check_folder()
    else:
        walk.check_file(root, _real(root.parent), named=True)
    return walk.report


class _Walk:
    """One validation: its report, and what must be remembered until the last file was seen."""

    def __init__(self, top: Path, *, full: bool) -> None:
        self.report = Report()
        self._top = top
        self._full = full
        self._seen = Seen()
        self._real: dict[Path, str] = {}

    def check_folder(self) -> None:
        """Check all files below the top, then what they say about each other."""
        for folder, names in self._folders():
            for name in names:
                self.check_file(folder / name, self._real[folder], named=False)
        self._check_backfills()
        self._check_bars()
        check_live(self._seen, self._real, self._top, self.report, full=self._full)

    def check_file(self, path: Path, real_folder: str, *, named: bool) -> None:
        """Check a file if it is a known one; one that the caller named must be."""
        kind = kind_by_name(path)
        if kind is None and not named and path.suffix != ".parquet":
            self._check_leftover(path)
            return
        collector = Collector(path, self.report, "other" if kind is None else kind.name)
        with _closing(collector):
            if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - ten thousand files are many
                collector.add("not-a-file", "not a regular file", _NOT_A_FILE)
                return
            if kind is None:
                kind = kind_by_content(path)
            if kind is None:
                known = ", ".join(kind.place for kind in KINDS)
                collector.add("unknown-kind", "not a file this version can check", f"It checks {known}.")
                return
            collector.kind = kind.name
            self.report.count(kind.name, files=1)
            target = Target(path, (real_folder, path.name), collector, self._full, self._seen)
            self.report.count(kind.name, rows=kind.check(target))

    def _check_leftover(self, path: Path) -> None:
        """Warn about a temporary file that no writer can be busy with any more."""
        if not _is_temporary(path.name):
            return
        collector = Collector(path, self.report)
        with _closing(collector):
            age_s = time.time() - os.stat(path).st_mtime  # noqa: PTH116 - as above
            if age_s > _LEFTOVER_AFTER_S:
                message = f"a temporary file of a writer that ended {age_s / _LEFTOVER_AFTER_S:.0f} days ago"
                collector.add("leftover", message, "Remove it; no reader sees it.", severity="warning")

    def _check_backfills(self) -> None:
        seen = self._seen
        for path, promises in seen.backfills.items():
            collector = Collector(path, self.report, "backfill_manifest")
            with _closing(collector):
                promises.check_files(path.parent, seen.files, collector)
        for path, summary in seen.summaries.items():
            of_root = next((found for at, found in seen.backfills.items() if at.parent == path.parent), None)
            if of_root is not None:
                collector = Collector(path, self.report, "backfill_summary")
                with _closing(collector):
                    of_root.check_summary(summary, collector)

    def _check_bars(self) -> None:
        seen = self._seen
        manifests = {path.parent: (path, promises) for path, promises in seen.bars.items()}
        coverages = {path.parent: (path, coverage) for path, coverage in seen.coverages.items()}
        files_below = [facts.path for facts in seen.files.values() if is_bars_place(facts.path)]
        roots = {root_above(path, PLACE_PARTS, self._top) for path in files_below}
        for root in sorted({*manifests, *coverages, *(root for root in roots if root is not None)}):
            files = BarsFiles(root, seen.files)
            manifest, promises = manifests.get(root, (None, None))
            if manifest is not None and promises is not None:
                collector = Collector(manifest, self.report, "bars_manifest")
                with _closing(collector):
                    check_bars_promises(promises, files, collector)
            if root in coverages:
                path, coverage = coverages[root]
                collector = Collector(path, self.report, "bars_coverage")
                with _closing(collector):
                    check_coverage_files(coverage, files, collector)
                    if manifest is not None:
                        # It brings pyarrow.compute, which takes long to import.
                        from contracts._validate.derivation import check_derivation  # noqa: PLC0415

                        check_derivation(manifest, path, coverage, collector)
            check_unlisted(files, promises, self.report)

    def _folders(self) -> Iterator[tuple[Path, list[str]]]:
        """Yield folders and the names of their files in a stable order; each once, also when links make a circle."""
        self._real[self._top] = _real(self._top)
        visited = set(self._real.values())
        for folder, subfolders, names in os.walk(self._top, onerror=self._unreadable, followlinks=True):
            at = Path(folder)
            fresh = []
            for name in sorted(subfolders):
                path = at / name
                real = _real(path)
                if kind_by_name(path) is not None:
                    # A folder where a file should be; it holds nothing that a reader looks for.
                    names.append(name)
                elif real not in visited:
                    visited.add(real)
                    self._real[path] = real
                    fresh.append(name)
            subfolders[:] = fresh
            yield at, sorted(names)

    def _unreadable(self, error: OSError) -> None:
        path = Path(error.filename or self._top)
        message = f"cannot be listed: {error.strerror or error}"
        self.report.findings.append(Finding(path, "unreadable", message, "Check that it exists and may be read."))


@contextmanager
def _closing(collector: Collector) -> Iterator[None]:
    """Close a collector; what cannot be read, also because it vanished since it was listed, is a finding of it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        collector.add("unreadable", f"cannot be read: {reason}", "Check that it exists and may be read.")
    except ValueError as error:
        # A path with a NUL character never reaches the system.
        collector.add("unreadable", f"cannot be read: {error}", "Correct the path.")
    finally:
        collector.close()


def _real(folder: Path) -> str:
    try:
        return os.path.realpath(folder)
    except ValueError:
        return str(folder)


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")

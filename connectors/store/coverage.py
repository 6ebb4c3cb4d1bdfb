"""Bringing the bars coverage of a data root up to date, with the second copy of it and of its ledger.

What coverage means and how it is derived is in `contracts.coverage`; here is what a producer does around it: errors
that say what to do, the lines that do not count, and the mirror.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from connectors.store.errors import store_errors
from connectors.store.mirror import mirror
from contracts.coverage import CoverageResult, build_coverage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from contracts.coverage import CoverageReport
    from contracts.layout import DataRoot

_log = logging.getLogger(__name__)


def refresh(
    root: DataRoot,
    *,
    backup: Path | None,
    manifest: Path | None = None,
    out: Path | None = None,
    full: bool = False,
    on_skipped: Callable[[CoverageReport, Path], None] | None = None,
) -> CoverageResult:
    """Derive the coverage file from the ledger as far as it is not up to date, and mirror both.

    Several at a time wait for each other.

    Args:
        root: The data root; nothing is created but the coverage file and what `build_coverage` keeps beside it.
        backup: `ML_BACKUP_PATH`, or None for no mirror; trouble with it is told in the log, never raised.
        manifest: Another ledger; the root's own in another spelling is not one.
        out: Another place for the coverage file, likewise; its folder must be there. Neither this file nor another
            ledger is mirrored, for they have no place in a copy of the root.
        full: Read the whole ledger, not only what is new.
        on_skipped: Told when lines of the ledger do not count; by default that is one warning in the log.

    Raises:
        NotAvailable: There is no ledger.
        StoreError: The disk refuses; the coverage file is the old or the new one.
    """
    ledger = _own(manifest, root.bars_manifest)
    target = _own(out, root.bars_coverage)
    with store_errors("derive", target):
        result = build_coverage(root, full=full, manifest=ledger, out=target)
    if result.report.skipped:
        (on_skipped or _log_skipped)(result.report, ledger)
    mirror([path for path in (ledger, target) if path in (root.bars_manifest, root.bars_coverage)], root.path, backup)
    return result


def skipped_lines(report: CoverageReport, ledger: Path) -> list[str]:
    """Return what a derivation passed over as text: how many lines and why, then the first of them with their places.

    Args:
        report: With something in `skipped`.
        ledger: The ledger, for the text.
    """
    count = sum(report.skipped.values())
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(report.skipped.items()))
    head = f"{count} {'line does' if count == 1 else 'lines do'} not count in {ledger}: {reasons}"
    places = [f"line {each.line} at byte {each.offset}: {each.reason}: {each.detail}" for each in report.examples]
    return [head, *places]


def _log_skipped(report: CoverageReport, ledger: Path) -> None:
    head, *places = skipped_lines(report, ledger)
    _log.warning("%s; first: %s", head, places[0] if places else "unknown")


def _own(given: Path | None, own: Path) -> Path:
    """Return the root's own path when that is meant: for it alone a state is kept, and the next time is fast."""
    if given is None or given.resolve() == own.resolve():
        return own
    return given

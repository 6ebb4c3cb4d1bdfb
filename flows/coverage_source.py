"""Opening the bars coverage of a data root to answer a question, without writing anything below it.

The coverage file serves while it is what the ledger says; otherwise the ledger is derived once more, for this answer.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from contracts.coverage import build_coverage, is_current, load_coverage
from contracts.errors import InvalidDocument, UnknownSchemaVersion
from flows.errors import ConfigurationError

if TYPE_CHECKING:
    from contracts.coverage import CoverageIndex
    from contracts.layout import DataRoot

Origin = Literal["file", "ledger", "none"]


@dataclass(frozen=True)
class CoverageSource:
    """The coverage of a data root, as far as there is one.

    Attributes:
        index: the opened coverage; None when the root has neither ledger nor coverage file.
        origin: where it comes from: the coverage file, the ledger, or nowhere.
        remarks: what a person should know about it.
    """

    index: CoverageIndex | None
    origin: Origin
    remarks: tuple[str, ...] = ()


def open_coverage(root: DataRoot) -> CoverageSource:
    """Open the coverage of a data root as its ledger has it now; writes nothing below the root.

    Raises:
        ContractError: there is a coverage file and no ledger, and the file cannot be read.
        OSError: the disk refuses.
    """
    if not root.bars_manifest.is_file():
        if root.bars_coverage.is_file():
            remark = f"there is no ledger {root.bars_manifest}; the coverage file beside it is believed"
            return CoverageSource(load_coverage(root.bars_coverage), "file", (remark,))
        remark = (
            f"no bars were ever downloaded to {root.path}, there is no ledger; is that the data root "
            "(DATA_PATH_OVERRIDE, ML_BASE_PATH)?"
        )
        return CoverageSource(None, "none", (remark,))
    if not root.bars_coverage.is_file():
        return _derived(root, "there is no coverage file")
    if not is_current(root):
        return _derived(root, "the coverage file is not known to be up to date")
    try:
        return CoverageSource(load_coverage(root.bars_coverage), "file")
    except (InvalidDocument, UnknownSchemaVersion) as error:
        return _derived(root, f"the coverage file cannot be read ({error})")


def no_ledger(ledger: Path) -> ConfigurationError:
    """Return the error for a ledger that is not there."""
    return ConfigurationError(
        f"there is no bars ledger {ledger}: `trading-data bars` writes it with the first file. If it lies "
        "elsewhere, set DATA_PATH_OVERRIDE or ML_BASE_PATH."
    )


def _derived(root: DataRoot, why: str) -> CoverageSource:
    """Derive the ledger into a folder that lies elsewhere and goes away at once."""
    with tempfile.TemporaryDirectory(prefix="trading-data-") as folder:
        target = Path(folder, root.bars_coverage.name)
        report = build_coverage(root, out=target).report
        index = load_coverage(target)
    remarks = [f"{why}: the ledger was read for this answer; `trading-data coverage build` makes that quick"]
    if skipped := sum(report.skipped.values()):
        remarks.append(f"{skipped} lines of the ledger do not count; `trading-data coverage build` says which")
    return CoverageSource(index, "ledger", tuple(remarks))

"""What a check is given, and what one validation remembers of the files it saw, to hold them against each other later.

The checks themselves are in the other modules here; `kinds` says which is for which file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from contracts._validate.bars_documents import BarsPromises
    from contracts._validate.findings import Collector
    from contracts._validate.lines import GapCounts
    from contracts._validate.promises import BackfillPromises
    from contracts.v1.backfill import BackfillSummary
    from contracts.v1.bars import BarsCoverage
    from contracts.v1.level2 import SnapshotMetadata
    from contracts.v1.session_stats import SessionStats

Place = tuple[str, str]
"""Real path of the folder and file name: a root can be reached by several ways."""


@dataclass(slots=True)
class FileFacts:
    """What one parquet or messages file turned out to be.

    Attributes:
        path: The file.
        rows: Rows by the footer, or records; None when they could not be counted.
        is_sound: No error was found in it, and every row was looked at.
        first_ns: Time of the first row, nanoseconds since 1970 UTC; of bars files whose rows were read.
        last_ns: Time of the last row, likewise.
        metadata: The footer's metadata; of live snapshots files.
    """

    path: Path
    rows: int | None = None
    is_sound: bool = False
    first_ns: int | None = None
    last_ns: int | None = None
    metadata: SnapshotMetadata | None = None


@dataclass
class Seen:
    """What one validation saw; documents that could not be read are not in it. Keys are paths as they were walked."""

    files: dict[Place, FileFacts] = field(default_factory=dict)
    backfills: dict[Path, BackfillPromises] = field(default_factory=dict)
    summaries: dict[Path, BackfillSummary] = field(default_factory=dict)
    stats: dict[Path, SessionStats] = field(default_factory=dict)
    gaps: dict[Path, GapCounts] = field(default_factory=dict)
    bars: dict[Path, BarsPromises] = field(default_factory=dict)
    coverages: dict[Path, BarsCoverage] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """One file to check.

    Attributes:
        path: The file, a regular one when its check began.
        place: Where it really lies.
        findings: Where to put what is wrong.
        full: Look at every row, not only at footers.
        seen: Where to put what other files will be held against.
    """

    path: Path
    place: Place
    findings: Collector
    full: bool
    seen: Seen


def root_above(path: Path, parts: int, top: Path) -> Path | None:
    """Return the data root of a file that lies so many parts below it; None when the root is not in the walk.

    Args:
        path: A file below `top`.
        parts: Parts of the file's path below its data root.
        top: The folder that is walked.
    """
    return path.parents[parts - 1] if len(path.parts) - len(top.parts) >= parts else None

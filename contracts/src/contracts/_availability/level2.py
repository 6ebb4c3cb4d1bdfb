"""What a coverage report of Level 2 says of each day and source; how it is found out is in `judge`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from contracts._availability.days import DaysReport, DayState, Hole, clock_text, day_text
from contracts._availability.files import LIVE_SOURCE

if TYPE_CHECKING:
    from datetime import date, datetime, time
    from pathlib import Path

    from contracts.follow import Skipped
    from contracts.sessions import Window
    from contracts.v1.backfill import BackfillStatus
    from contracts.v1.quality import VendorCondition

MissingWhy = Literal["closed", "not_yet", "never_tried", "empty", "error", "file_gone", "unreadable", "no_rows"]
"""Why nothing can be loaded. closed: no session of XNYS. never_tried: no line in the manifest. empty: the vendor has no
rows. error: the last try failed and none before had a result. file_gone: the manifest says there is a file. unreadable:
there are files, but none that can be read. no_rows: there are files, but no row of them is in the window asked for.
not_yet: a day to come."""


@dataclass(frozen=True)
class SourceDay:
    """One day of one source.

    Attributes:
        source: `ibkr` for live files, else the source tag.
        state: As a day's; `missing` when no file can be read.
        files: The readable files in time order; a live day has one per segment.
        unreadable: Files that cannot be loaded, or not with the others, with what is wrong.
        rows: Rows of the readable files.
        window: The window this was held against: the one asked for, else the widest that the files' footers and the
            manifest line tell; None when nobody tells.
        first: First timestamp, aware, New York time.
        last: Last timestamp, likewise.
        starts_late: ET wall clock of the first row when rows before it are missing in the window only because the book
            was not known yet; that alone does not make a day partial.
        holes: What is missing, in order of time, then gap records. Minutes after the close of a half day are not.
        missing_s: Seconds in at least one hole.
    """

    source: str
    state: DayState
    files: tuple[Path, ...]
    unreadable: tuple[tuple[Path, str], ...]
    rows: int
    window: Window | None = None
    first: datetime | None = None
    last: datetime | None = None
    starts_late: time | None = None
    holes: tuple[Hole, ...] = ()
    missing_s: float = 0.0

    def __str__(self) -> str:
        parts = [f"{self.source} {self.rows} rows"]
        if self.window is not None:
            parts.append(f"window {self.window}")
        if self.holes:
            parts.append("no data " + ", ".join(map(str, self.holes)))
        if self.starts_late is not None:
            parts.append(f"starts late {clock_text(self.starts_late)}")
        parts += [f"{path.name}: {reason}" for path, reason in self.unreadable]
        return ", ".join(parts)

    def to_document(self) -> dict[str, Any]:
        """Return it as a JSON document."""
        return {
            "source": self.source,
            "state": self.state,
            "files": [str(path) for path in self.files],
            "unreadable": [{"path": str(path), "reason": reason} for path, reason in self.unreadable],
            "rows": self.rows,
            "window_et": None if self.window is None else str(self.window),
            "first": None if self.first is None else self.first.isoformat(),
            "last": None if self.last is None else self.last.isoformat(),
            "starts_late": None if self.starts_late is None else self.starts_late.isoformat(),
            "holes": [hole.to_document() for hole in self.holes],
            "missing_s": self.missing_s,
        }


@dataclass(frozen=True)
class DayCoverage:
    """One ET day of a symbol.

    Attributes:
        day: The day.
        state: That of its best source.
        why: Why it is missing, else None.
        sources: What each source has, the best first.
        status: Status of the newest manifest line that is not ERROR.
        reason: Reason of that line, such as `no rows`.
        error: What the last try said when it was an ERROR after that line: its reason and its text.
        vendor_condition: What the vendor said about the data when it did not call them available.
        file_gone: Whether that line is WRITE or SKIP, and its source has no file here.
        gaps: Gap records of live capture that overlap the window, or the day when no window is known.
    """

    day: date
    state: DayState
    why: MissingWhy | None = None
    sources: tuple[SourceDay, ...] = ()
    status: BackfillStatus | None = None
    reason: str | None = None
    error: str | None = None
    vendor_condition: VendorCondition | None = None
    file_gone: bool = False
    gaps: tuple[Hole, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The readable files of all sources."""
        return tuple(path for source in self.sources for path in source.files)

    @property
    def rows(self) -> int:
        """Rows of these files."""
        return sum(source.rows for source in self.sources)

    @property
    def holes(self) -> tuple[Hole, ...]:
        """What is missing in the best source."""
        return self.sources[0].holes if self.sources else ()

    @property
    def starts_late(self) -> time | None:
        """As in the best source."""
        return self.sources[0].starts_late if self.sources else None

    def __str__(self) -> str:
        parts = [str(source) for source in self.sources]
        if self.why is not None:
            parts.insert(0, self.why + (f" ({self.reason})" if self.reason else ""))
        if self.file_gone and self.why != "file_gone":
            parts.append(f"the file of the {self.status} line is gone")
        if self.vendor_condition is not None:
            parts.append(f"the vendor calls the data {self.vendor_condition}")
        if self.error is not None:
            parts.append(f"last try ERROR {self.error}")
        if self.gaps and not any(source.source == LIVE_SOURCE for source in self.sources):
            parts.append("gaps " + ", ".join(map(str, self.gaps)))
        return day_text(self.day, self.state, parts)

    def to_document(self) -> dict[str, Any]:
        """Return the day as a JSON document; what there is nothing to say about is left out."""
        document = {
            "date": self.day.isoformat(),
            "state": self.state,
            "why": self.why,
            "sources": [source.to_document() for source in self.sources],
            "status": self.status,
            "reason": self.reason,
            "error": self.error,
            "vendor_condition": self.vendor_condition,
            "file_gone": self.file_gone or None,
            "gaps": [gap.to_document() for gap in self.gaps],
        }
        return {key: value for key, value in document.items() if value not in (None, [])}


@dataclass(frozen=True, repr=False)
class Level2Coverage(DaysReport[DayCoverage]):
    """Which days of Level 2 a symbol has; `print` it for a table.

    Attributes:
        window: The window asked for; None when each day was held against its own.
        sources: The sources asked for; None for all.
        skipped: Damaged lines of manifests and gaps files, and folders that could not be listed. They may hide
            something; the good lines beside them count.
    """

    window: Window | None = None
    sources: tuple[str, ...] | None = None
    skipped: tuple[Skipped, ...] = ()

    @property
    def files(self) -> list[Path]:
        """The readable files of all days, by day; what `fingerprint` hashes."""
        return [path for day in self.days for path in day.files]

    def __str__(self) -> str:
        table = self._lines(f"{self.symbol} level2{'' if self.window is None else f' {self.window} ET'}")
        return table + (f"\n  {len(self.skipped)} lines or folders could not be read" if self.skipped else "")

    def to_document(self) -> dict[str, Any]:
        """Return the report as a JSON document."""
        return {
            "symbol": self.symbol,
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "window_et": None if self.window is None else str(self.window),
            "sources": None if self.sources is None else list(self.sources),
            "counts": self.counts,
            "days": [day.to_document() for day in self.days],
            "skipped": [
                {"path": str(skip.path), "line": skip.line, "offset": skip.offset, "reason": skip.reason}
                for skip in self.skipped
            ],
        }

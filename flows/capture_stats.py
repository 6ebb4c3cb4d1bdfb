"""The running totals of one symbol of a session, and the stats file and result that say them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contracts.v1.session_stats import SessionStats
from flows.capture_spec import SymbolResult
from flows.capture_time import utc_datetime

if TYPE_CHECKING:
    from pathlib import Path

    from connectors.store.live import PublishedSegment
    from flows.capture_spec import SessionSpec


@dataclass
class Totals:
    """What a session has of one symbol on disk.

    Attributes:
        symbol: Canonical symbol.
        messages: Records of its messages files.
        snapshots: Rows of its snapshots files.
        segments: Segments that left files.
        files: Names of its files, in the order of the segments.
        anomalies: Ignored messages of these segments, by kind.
        gaps: Records in `l2_gaps.jsonl`.
        max_lag_ms: Longest time from receipt to journal.
        stats_path: The stats file; None before it has a name.
    """

    symbol: str
    messages: int = 0
    snapshots: int = 0
    segments: int = 0
    files: dict[int, tuple[str, ...]] = field(default_factory=dict)
    anomalies: Counter[str] = field(default_factory=Counter)
    gaps: int = 0
    max_lag_ms: float = 0.0
    stats_path: Path | None = None

    def add(self, segment: PublishedSegment) -> None:
        """Count a published segment; again is fine."""
        if segment.number in self.files:
            return
        self.files[segment.number] = segment.files
        self.messages += segment.messages
        self.snapshots += segment.rows
        self.segments += bool(segment.files)
        self.anomalies.update(segment.anomalies)

    def names(self) -> tuple[str, ...]:
        """Return the names of all files."""
        return tuple(name for _, names in sorted(self.files.items()) for name in names)

    def stats(self, spec: SessionSpec, *, ended_ns: int | None = None, end_reason: str | None = None) -> SessionStats:
        """Return the stats as of now; `ended_ns` and `end_reason` are given once the session is over."""
        return SessionStats(
            symbol=self.symbol,
            levels=spec.levels,
            interval_ms=spec.interval_ms,
            num_snapshots=self.snapshots,
            num_messages=self.messages,
            paper_mode=spec.paper_mode,
            recording_date=utc_datetime(spec.start_ns),
            session_id=spec.session_id,
            files=self.names(),
            started_at=utc_datetime(spec.start_ns),
            ended_at=None if ended_ns is None else utc_datetime(ended_ns),
            end_reason=end_reason,
            gaps=self.gaps,
            anomalies=dict(sorted(self.anomalies.items())),
            max_lag_ms=round(self.max_lag_ms, 3),
        )

    def result(self, end_reason: str) -> SymbolResult:
        """Return what the session left of the symbol."""
        return SymbolResult(
            messages=self.messages,
            snapshots=self.snapshots,
            gaps=self.gaps,
            anomalies=dict(sorted(self.anomalies.items())),
            segments=self.segments,
            files=self.names(),
            stats_path=self.stats_path,
            max_lag_ms=round(self.max_lag_ms, 3),
            end_reason=end_reason,
        )

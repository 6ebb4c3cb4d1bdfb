"""What a live capture session is told before it starts, and the plain records it gives back.

Nothing is recorded here: the recorder is `capture_recorder`, the files of a segment are made by `capture_close`.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from contracts.symbols import canonical_symbol
from contracts.v1.level2 import BookScope, SnapshotMetadata
from flows.capture_time import session_window
from flows.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from pathlib import Path

    from contracts.layout import DataRoot
    from contracts.v1.gaps import GapCause

SOURCE: Final = "ibkr"

_SESSION_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LONGEST_NS: Final = 48 * 3_600_000_000_000
_SHORTEST_ROTATION_MINUTES: Final = 0.0005


@dataclass(frozen=True)
class SessionSpec:
    """One capture session.

    Attributes:
        session_id: Name of the session in stats, gap records and its folder; letters, digits, `-` and `_`.
        symbols: Canonical, unique, at least one.
        levels: N, rows per side of the snapshots.
        interval_ms: Milliseconds between snapshots; 0 is one row per message that changed the book.
        start_ns: When it begins, nanoseconds since 1970 UTC.
        planned_end_ns: When it ends at the latest; messages from then on are not taken. At most two days later.
        paper_mode: The account is a paper trading one.
        producer: Name and version of the writing program.
        exchange: `SMART`, or the one exchange whose book is recorded.
        rotate_minutes: Length of a segment; segments begin at its multiples since midnight in New York.
        flush_s: Seconds after which what was written is flushed to the disk, and a sign of life is written.
        queue_messages: Most messages that wait to be written; one more is refused.

    Raises:
        ConfigurationError: On construction, a value cannot be used.
        InvalidSymbol: On construction, a symbol has no canonical form.
    """

    session_id: str
    symbols: tuple[str, ...]
    levels: int
    interval_ms: int
    start_ns: int
    planned_end_ns: int
    paper_mode: bool
    producer: str
    exchange: str = "SMART"
    rotate_minutes: float = 15.0
    flush_s: float = 1.0
    queue_messages: int = 200_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", tuple(self.symbols))
        for is_wrong, problem in (
            (
                not _SESSION_ID.fullmatch(self.session_id),
                f"session_id {self.session_id!r} must be up to 64 letters, digits, - and _, a letter or digit first",
            ),
            (not self.symbols, "symbols is empty, a session needs at least one"),
            (
                tuple(dict.fromkeys(canonical_symbol(symbol) for symbol in self.symbols)) != self.symbols,
                f"symbols {self.symbols} must be canonical and unique",
            ),
            (self.levels < 1, f"levels is {self.levels}, a book has at least one"),
            (self.interval_ms < 0, f"interval_ms is {self.interval_ms}, it cannot be negative"),
            (
                not 0 < self.planned_end_ns - self.start_ns <= _LONGEST_NS,
                f"the session from {self.start_ns} to {self.planned_end_ns} must end after its start, within 48 hours",
            ),
            (not self.producer or not self.exchange, "producer and exchange cannot be empty"),
            (
                not self.rotate_minutes >= _SHORTEST_ROTATION_MINUTES,
                f"rotate_minutes is {self.rotate_minutes}, below {_SHORTEST_ROTATION_MINUTES} (L2_ROTATE_MINUTES)",
            ),
            (not self.flush_s > 0, f"flush_s is {self.flush_s}, it must be above 0 (L2_FLUSH_SECONDS)"),
            (
                self.queue_messages < 2,  # noqa: PLR2004 - half of it must be a message
                f"queue_messages is {self.queue_messages}, give at least 2 (L2_QUEUE_MESSAGES)",
            ),
        ):
            if is_wrong:
                raise ConfigurationError(problem)

    def to_document(self) -> dict[str, Any]:
        """Return the JSON object; `from_document` is the inverse."""
        return {**dataclasses.asdict(self), "symbols": list(self.symbols)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read the JSON object; keys of a later version are passed over.

        Raises:
            ConfigurationError: It lacks a key, or a value cannot be used.
        """
        names = {item.name for item in dataclasses.fields(cls)}
        try:
            return cls(**{name: value for name, value in document.items() if name in names})
        except TypeError as error:
            raise ConfigurationError(f"the session's description cannot be read: {error}") from None

    def metadata(self, symbol: str, day: date) -> SnapshotMetadata:
        """Return the footer of the snapshots files of a symbol on one of the session's days in New York.

        The window is the same for all segments of the day: their rows share one grid, and replay as one.
        """
        return SnapshotMetadata(
            symbol=symbol,
            source=SOURCE,
            levels=self.levels,
            interval_ms=self.interval_ms,
            session_date=day,
            window_et=str(session_window(self.start_ns, self.planned_end_ns, day)),
            book_scope=BookScope(
                venues=(self.exchange,), odd_lots="excluded", time_basis="receive", levels=self.levels
            ),
            producer=self.producer,
        )


def session_document(spec: SessionSpec, root: DataRoot) -> dict[str, Any]:
    """Return what a session's folder says about it: the spec, and where below the root its files are."""
    return {**spec.to_document(), "level2_dirname": root.level2_dirname}


@dataclass(frozen=True)
class BookTop:
    """The best row of each side; a price of 0.0 with size 0 is a missing one."""

    bid_price: float = 0.0
    bid_size: int = 0
    ask_price: float = 0.0
    ask_size: int = 0


@dataclass(frozen=True)
class SymbolProgress:
    """What was recorded of a symbol so far.

    Attributes:
        messages: Records journaled.
        top: The best rows of the book.
        open_gap: Cause of the gap that is open, None when the book is seen.
        gaps: Gap records appended.
        segments: Segments whose files are in place.
        anomalies: Ignored messages, by kind.
    """

    messages: int = 0
    top: BookTop = BookTop()
    open_gap: GapCause | None = None
    gaps: int = 0
    segments: int = 0
    anomalies: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RecorderProgress:
    """How a recorder does at this moment.

    Attributes:
        symbols: By symbol, in the order of the session.
        queued: Events that wait for the writer.
        messages: Records journaled, of all symbols.
        lag_ms: Receipt to journal of the oldest message of the last batch.
        max_lag_ms: The longest such time of the session.
        failed: Why the journal cannot be written, None when it can.
    """

    symbols: Mapping[str, SymbolProgress]
    queued: int
    messages: int
    lag_ms: float
    max_lag_ms: float
    failed: str | None


@dataclass(frozen=True)
class SymbolResult:
    """What a session left of one symbol; counts are those of the files on disk.

    Attributes:
        messages: Records of all messages files.
        snapshots: Rows of all snapshots files.
        gaps: Records in `l2_gaps.jsonl`.
        anomalies: Ignored messages, by kind.
        segments: Segments that left files.
        files: Names of the files in the symbol's folder.
        stats_path: The session's stats file; None when it could not be written at all.
        max_lag_ms: Longest time from receipt to journal.
        end_reason: As in the stats.
    """

    messages: int
    snapshots: int
    gaps: int
    anomalies: Mapping[str, int]
    segments: int
    files: tuple[str, ...]
    stats_path: Path | None
    max_lag_ms: float
    end_reason: str


@dataclass(frozen=True)
class SessionResult:
    """What a session left.

    Attributes:
        session_id: The session.
        symbols: By symbol, in the order of the session.
        problems: What could not be done, and what to do about it; empty when all is on disk.
    """

    session_id: str
    symbols: Mapping[str, SymbolResult]
    problems: tuple[str, ...] = ()

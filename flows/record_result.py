"""What a live capture gives back: one result, whose lines go to stdout and whose document goes to Prefect."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

WISHES: Final = ("sigint", "sigterm")
"""The end reasons of a capture that somebody asked to end."""


@dataclass(frozen=True)
class SymbolRecord:
    """What a capture left of one symbol; counts are those of its files.

    Attributes:
        symbol: canonical symbol.
        messages: records of its messages files.
        snapshots: rows of its snapshots files.
        gaps: its records in `l2_gaps.jsonl`.
        segments: segments that left files.
        end: one word: why its capture ended.
        files: names in the symbol's folder.
    """

    symbol: str
    messages: int
    snapshots: int
    gaps: int
    segments: int
    end: str
    files: tuple[str, ...]

    @property
    def line(self) -> str:
        """Its line of stdout."""
        return (
            f"RECORDED {self.symbol} messages={self.messages} snapshots={self.snapshots} gaps={self.gaps} "
            f"segments={self.segments} end={self.end}"
        )


@dataclass(frozen=True)
class RecordResult:
    """A capture that has ended.

    Attributes:
        session_id: as in the stats; None when it was stopped before it began.
        end_reason: as in the stats.
        symbols: in the order asked for; empty when it never began.
        failures: what did not go as asked, and what to do about it; empty when all is well.
    """

    session_id: str | None
    end_reason: str
    symbols: tuple[SymbolRecord, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def is_stopped(self) -> bool:
        """Whether somebody asked it to end."""
        return self.end_reason in WISHES

    def to_document(self) -> dict[str, Any]:
        """The result as a JSON document; `from_document` is the inverse."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> RecordResult:
        """Read what `to_document` returned."""
        symbols = tuple(SymbolRecord(**{**row, "files": tuple(row["files"])}) for row in document["symbols"])
        return cls(**{**document, "symbols": symbols, "failures": tuple(document["failures"])})

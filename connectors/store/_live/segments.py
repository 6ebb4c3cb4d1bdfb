"""What a session remembers of its published segments: one line of `segments.jsonl` each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from contracts.layout import DataRoot


@dataclass(frozen=True)
class PublishedSegment:
    """A segment whose files are in place.

    Attributes:
        symbol: Canonical symbol.
        number: Of the segment, as in its journal's name.
        files: Names of its files in the symbol's folder: none, the messages file, or messages and snapshots file.
        messages: Records of the messages file; 0 without files.
        rows: Rows of the snapshots file; 0 without one.
        anomalies: What the replay counted, by kind.
        extra: What else the recorder wants to know of the segment later; values that JSON has.
        torn: Why and where its journal was not readable to the end, None when it was.
    """

    symbol: str
    number: int
    files: tuple[str, ...] = ()
    messages: int = 0
    rows: int = 0
    anomalies: Mapping[str, int] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    torn: str | None = None

    def paths(self, root: DataRoot) -> list[Path]:
        """Return where its files are, messages first."""
        return [root.symbol_dir(self.symbol) / name for name in self.files]

    def to_document(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "symbol": self.symbol,
            "number": self.number,
            "files": list(self.files),
            "messages": self.messages,
            "rows": self.rows,
            "anomalies": dict(self.anomalies),
            "extra": dict(self.extra),
            "torn": self.torn,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_document` returned.

        Raises:
            KeyError: Something is missing.
            TypeError: It is something else.
        """
        return cls(**{**document, "files": tuple(document["files"])})

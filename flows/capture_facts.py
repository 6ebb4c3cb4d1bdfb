"""What a journal says besides its records: where its segment begins and ends, the book it began with, its gaps.

The other side of `capture_tape`, which writes all this; read by who publishes a segment and by the recovery.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Self

from contracts.timestamps import ns_from_text
from flows.capture_gaps import ClosedGap, GapState, OpenGap
from flows.capture_time import utc_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.store.journal import Journal
    from connectors.store.live import PublishedSegment


@dataclass(frozen=True)
class SegmentEnd:
    """How a segment ended; kept with the published segment, when its journal is gone.

    Attributes:
        end_ns: Where it ends, exclusive.
        last_ns: Last moment of which the journal knows; after it nothing was seen.
        reason: Why the session ended with it; None when it did not.
        gap: The hole that was open at its end; None at the end of the session.
        max_lag_ms: Longest time from receipt to journal up to its end; 0 when its recorder died.
    """

    end_ns: int
    last_ns: int
    reason: str | None
    gap: OpenGap | None
    max_lag_ms: float

    def to_document(self) -> dict[str, Any]:
        """Return the JSON object."""
        gap = None if self.gap is None else self.gap.to_document()
        return {
            "end_ns": self.end_ns,
            "last_ns": self.last_ns,
            "reason": self.reason,
            "gap": gap,
            "max_lag_ms": self.max_lag_ms,
        }

    @classmethod
    def of(cls, segment: PublishedSegment) -> Self:
        """Read what was kept with a published segment."""
        extra = segment.extra
        gap = None if extra["gap"] is None else OpenGap.from_document(extra["gap"])
        return cls(extra["end_ns"], extra["last_ns"], extra["reason"], gap, extra["max_lag_ms"])


@dataclass(frozen=True)
class JournalFacts:
    """A journal without its records.

    Attributes:
        symbol: Canonical symbol.
        day: Its day in New York.
        start_ns: Where the segment begins, inclusive.
        book: The messages that give the book it began with, none when that was not known.
        end: How it ended.
        gaps: The holes that ended in it.
        notes: What was counted besides messages, by kind.
    """

    symbol: str
    day: date
    start_ns: int
    book: tuple[Mapping[str, Any], ...]
    end: SegmentEnd
    gaps: tuple[ClosedGap, ...]
    notes: Mapping[str, int]


def read_facts(journal: Journal) -> JournalFacts:
    """Read the header and the control lines of a journal.

    Raises:
        StoreError: It cannot be read.
        KeyError: The header lacks a key.
    """
    header = journal.header
    state = GapState(None if header["gap"] is None else OpenGap.from_document(header["gap"]))
    gaps: list[ClosedGap | None] = []
    notes: Counter[str] = Counter()
    last_ns: int = header["start_ns"]
    ended: dict[str, Any] | None = None
    for control in journal.controls():
        last_ns = max(last_ns, control["ns"])
        kind = control["control"]
        if kind == "gap":
            gaps.append(state.lost(control["since_ns"], control["cause"], control["detail"], clear=control["clear"]))
        elif kind == "seen":
            gaps.append(state.seen(control["ns"]))
        elif kind == "note":
            notes[control["kind"]] += control["count"]
        elif kind == "end":
            ended = control
            if "reason" in control:
                gaps.append(state.seen(control["ns"]))
    if journal.last_record is not None:
        last_ns = max(last_ns, ns_from_text(journal.last_record["timestamp"]))
    return JournalFacts(
        symbol=header["symbol"],
        day=date.fromisoformat(header["day"]),
        start_ns=header["start_ns"],
        book=_book_messages(header),
        end=SegmentEnd(
            # Without an end the last moment belongs to the segment, so that it may have a row.
            end_ns=last_ns + 1 if ended is None else ended["ns"],
            last_ns=last_ns,
            reason=None if ended is None else ended.get("reason"),
            gap=state.current,
            max_lag_ms=0.0 if ended is None else ended["max_lag_ms"],
        ),
        gaps=tuple(gap for gap in gaps if gap is not None),
        notes=dict(notes),
    )


def _book_messages(header: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    book = header["book"]
    if not book["is_known"]:
        return ()
    common = {"timestamp": utc_text(header["start_ns"] - 1), "symbol": header["symbol"]}
    messages = [
        {**common, "operation": "add", "side": side, "level": level, "price": price, "size": size}
        for side in ("bid", "ask")
        for level, (price, size) in enumerate(book[side])
    ]
    if not messages:
        # A book that is known to be empty: something was there and has gone.
        row = {**common, "side": "bid", "level": 0, "price": 1.0, "size": 1}
        messages = [{**row, "operation": "add"}, {**row, "operation": "remove"}]
    return tuple(messages)

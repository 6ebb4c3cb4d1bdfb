"""Which holes a symbol's capture has: the rules by which incidents become gap records. Pure; nothing is written here.

The recorder and the recovery put the same incidents through the same rules, so that both give the same records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from contracts.v1.gaps import Gap
from flows.capture_time import utc_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contracts.v1.gaps import GapCause


@dataclass(frozen=True)
class OpenGap:
    """A hole that goes on.

    Attributes:
        start_ns: Last moment that was seen, nanoseconds since 1970 UTC.
        cause: Why.
        detail: More for people; may be empty.
        clear: Whether the book was emptied; one that was not may still turn out to be whole.
    """

    start_ns: int
    cause: GapCause
    detail: str
    clear: bool

    def to_document(self) -> dict[str, Any]:
        """Return the JSON object; `from_document` is the inverse."""
        return {"start_ns": self.start_ns, "cause": self.cause, "detail": self.detail, "clear": self.clear}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read the JSON object.

        Raises:
            KeyError: It lacks a key.
        """
        return cls(document["start_ns"], document["cause"], document["detail"], document["clear"])


@dataclass(frozen=True)
class ClosedGap:
    """A hole with its end.

    Attributes:
        start_ns: Last moment that was seen.
        end_ns: First moment that was seen again.
        cause: Why.
        detail: More for people; may be empty.
    """

    start_ns: int
    end_ns: int
    cause: GapCause
    detail: str

    def record(self, symbol: str, session_id: str) -> Gap:
        """Return the record as it is appended to `l2_gaps.jsonl`."""
        return Gap(
            symbol=symbol,
            session_id=session_id,
            gap_start=utc_text(self.start_ns),
            gap_end=utc_text(self.end_ns),
            cause=self.cause,
            detail=self.detail or None,
        )


class GapState:
    """The hole that a symbol is in, if any; one at a time.

    Holes stay contiguous: while one is open, the next incident ends it where it begins itself. Only a lost connection
    whose book was kept is no incident of its own yet: what is learned after it takes over its start, one record in all.
    So does a better reason why a session never saw its book.

    Args:
        current: The hole that is open from before.

    Attributes:
        current: The hole that is open, None when the book is seen.
    """

    def __init__(self, current: OpenGap | None = None) -> None:
        self.current = current

    def lost(self, since_ns: int, cause: GapCause, detail: str, *, clear: bool) -> ClosedGap | None:
        """Begin a hole.

        Returns:
            The one that it ends; None when there was none, or when it had no length.
        """
        before = self.current
        if before is None:
            self.current = OpenGap(since_ns, cause, detail, clear)
            return None
        is_learned = before.cause == "disconnect" and not before.clear
        # Nothing was ever seen: why not is all that is new.
        if is_learned or before.cause == cause == "connect":
            self.current = OpenGap(before.start_ns, cause, detail, clear)
            return None
        start_ns = max(since_ns, before.start_ns)
        self.current = OpenGap(start_ns, cause, detail, clear)
        return None if start_ns == before.start_ns else self._closed(before, start_ns)

    def seen(self, ns: int) -> ClosedGap | None:
        """End the hole; returns it, None when there was none."""
        before, self.current = self.current, None
        return None if before is None else self._closed(before, ns)

    def cut(self, ns: int) -> ClosedGap | None:
        """End the hole where another one follows that is not an incident; returns it unless it had no length."""
        before, self.current = self.current, None
        return None if before is None or before.start_ns >= ns else self._closed(before, ns)

    def _closed(self, gap: OpenGap, end_ns: int) -> ClosedGap:
        return ClosedGap(gap.start_ns, max(end_ns, gap.start_ns), gap.cause, gap.detail)

"""What a download of bars gives back: one outcome per piece while it goes on, one result at its end.

The result's one line goes to stdout, its document to Prefect. Nothing here reads or writes a file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from contracts.layout import BarSize

Status = Literal["WRITE", "SKIP", "EMPTY", "ERROR"]
STATUSES: Final[tuple[Status, ...]] = ("WRITE", "SKIP", "EMPTY", "ERROR")


@dataclass(frozen=True)
class PieceOutcome:
    """What became of one (symbol, bar size, ET day).

    Attributes:
        symbol: canonical.
        bar_size: `1 hour`, `1 min` or `1 sec`.
        day: the ET day.
        status: WRITE, SKIP (nothing new), EMPTY (the broker has none) or ERROR (no file was changed).
        rows: bars in the file; 0 without one.
        path: the file that was written; None when none was.
        error: what went wrong, without symbol and day; None but for ERROR.
    """

    symbol: str
    bar_size: BarSize
    day: dt.date
    status: Status
    rows: int = 0
    path: Path | None = None
    error: str | None = None

    @property
    def label(self) -> str:
        """Symbol, size and day, for messages."""
        return f"{self.symbol} {self.bar_size} {self.day.isoformat()}"


@dataclass(frozen=True)
class BarsResult:
    """A download that has ended.

    Attributes:
        counts: pieces by status; all four keys.
        rows: bars in the files that were written.
        files: files that were written.
        requests: requests that were sent to the gateway.
        answers_kept: answers that an earlier, interrupted run had left on the shelf; they were not asked for again.
        pacing_wait_s: seconds that requests waited for the broker's pacing rules, added up.
        errors: one text for each reason and group, with symbol, size and days.
        remaining: pieces that nothing was found out about.
        remaining_groups: of them, symbol, bar size, number of days, first and last day.
        stopped: why the run ended early; None when it did not.
        failures: what failed besides pieces: the gateway, the disk, the coverage. Not empty: the run failed.
        out_of_reach: days of `1 sec` that are older than the broker keeps; never asked for.
        coverage: what deriving the coverage index came to; None when there is no ledger yet.
        duration_sec: seconds.
        concurrency: requests that could be open at once, of small bars and of others.
        strict: an ERROR fails the run.
    """

    counts: Mapping[str, int]
    rows: int = 0
    files: int = 0
    requests: int = 0
    answers_kept: int = 0
    pacing_wait_s: float = 0.0
    errors: tuple[str, ...] = ()
    remaining: int = 0
    remaining_groups: tuple[dict[str, Any], ...] = ()
    stopped: str | None = None
    failures: tuple[str, ...] = ()
    out_of_reach: int = 0
    coverage: dict[str, Any] | None = None
    duration_sec: float = 0.0
    concurrency: int = 1
    strict: bool = False

    @property
    def total(self) -> int:
        """Pieces that something was found out about; the sum of the counts."""
        return sum(self.counts.values())

    @property
    def summary_line(self) -> str:
        """The one line of a batch's stdout."""
        counts = " ".join(f"{status}={self.counts[status]}" for status in STATUSES)
        return f"SUMMARY {counts} total={self.total} concurrency={self.concurrency} duration={self.duration_sec:.3f}s"

    @property
    def problem(self) -> str | None:
        """Why the run counts as failed, None when it does not: a failure, or an ERROR in a strict run."""
        if self.failures:
            return "; ".join(self.failures)
        if self.strict and self.counts["ERROR"]:
            more = f" (and {len(self.errors) - 1} more)" if len(self.errors) > 1 else ""
            return f"{self.counts['ERROR']} of {self.total} days ended with ERROR: {self.errors[0]}{more}"
        return None

    def to_document(self) -> dict[str, Any]:
        """The result as a JSON document; `from_document` is the inverse."""
        document = asdict(self) | {
            "counts": dict(self.counts),
            "errors": list(self.errors),
            "failures": list(self.failures),
            "remaining_groups": list(self.remaining_groups),
        }
        return {"counts": document.pop("counts"), "total": self.total, **document}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> BarsResult:
        """Read what `to_document` returned."""
        known = {key: value for key, value in document.items() if key != "total"}
        for key in ("errors", "failures", "remaining_groups"):
            known[key] = tuple(known[key])
        return cls(**known)


def days_text(days: Iterable[dt.date]) -> str:
    """Days for a message: `2025-09-05`, or first and last with their number."""
    listed = list(days)
    if len(listed) == 1:
        return listed[0].isoformat()
    return f"{min(listed)} to {max(listed)} ({len(listed)} days)"

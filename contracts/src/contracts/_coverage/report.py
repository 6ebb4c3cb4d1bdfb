"""What a derivation of coverage says about the ledger it read: counts, and examples of the lines it passed over."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

MOST_EXAMPLES: Final = 20
"""Skipped lines that are told one by one; the others are counted."""

TORN: Final = "torn"
"""Reason of a last line without its line end; it is left for next time, so it is no line of the ledger yet."""


@dataclass(frozen=True)
class SkippedLine:
    """A line of the ledger that does not count, where it is and why.

    Attributes:
        line: One-based line number.
        offset: Byte at which the line begins.
        reason: A stable word for programs; see `CoverageReport.skipped`.
        detail: What is wrong, for people.
        text: How the line begins, printable.
    """

    line: int
    offset: int
    reason: str
    detail: str
    text: str


@dataclass
class CoverageReport:
    """The outcome of a derivation, of the whole ledger whatever the mode; the same ledger gives the same counts.

    Attributes:
        mode: `incremental` when only new bytes were read, else `full`.
        why: Why it was full, or empty.
        lines: Whole lines of the ledger.
        new_lines: Those read this time.
        taken: Lines that count; `taken == replaced + not_best + days`.
        replaced: Taken lines whose path came again later (rule 1).
        not_best: Taken lines that lost against another file of their times or their day (rules 2 and 3).
        entries: Entries of the coverage, one per symbol and bar size.
        days: Days of all entries.
        skipped: Lines that do not count, by reason: `not-json`, `not-json/bom`, `not-json/utf8`, `not-json/nan`,
            `not-json/duplicate-key`, `not-an-object`, `version` (missing or unknown), `model`, `symbol` (no canonical
            form), `no-day` (no times and no day in the file name), `too-long` (over 1 MiB), `blank`; and `torn`, which
            is not in `lines`.
        examples: The first skipped lines, at most 20.
        crlf: Lines that end with CR LF; they count.
        bom: Whether the ledger begins with a byte order mark; its first line counts all the same.
    """

    mode: Literal["full", "incremental"] = "full"
    why: str = ""
    lines: int = 0
    new_lines: int = 0
    taken: int = 0
    replaced: int = 0
    not_best: int = 0
    entries: int = 0
    days: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: list[SkippedLine] = field(default_factory=list)
    crlf: int = 0
    bom: bool = False

    def skip(self, example: SkippedLine) -> None:
        """Count a skipped line, and keep it as an example while there are few."""
        self.skipped[example.reason] += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(example)

    def to_document(self) -> dict[str, Any]:
        """Return the report as a JSON document; reasons are sorted."""
        document = asdict(self)
        document["skipped"] = dict(sorted(self.skipped.items()))
        return document

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> CoverageReport:
        """Read what `to_document` gave.

        Raises:
            TypeError: The keys are not those of a report.
        """
        report = cls(**document)
        report.skipped = Counter(document["skipped"])
        report.examples = [SkippedLine(**example) for example in document["examples"]]
        return report

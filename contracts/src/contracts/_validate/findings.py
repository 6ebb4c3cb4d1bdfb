"""What a validation says: findings, the report that holds them, and the collector that checks fill."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from pathlib import Path

Severity = Literal["error", "warning"]

MOST_PER_RULE: Final = 20
"""Findings of one rule in one file that are listed one by one; the rest is counted in one more finding."""

OTHER: Final = "other"
"""The kind of a finding about a folder, or about a file whose kind cannot be told."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, where it is, and what to do.

    Attributes:
        path: The file or folder.
        rule: A stable word for programs, such as `timestamp-order`.
        message: What is wrong.
        hint: What to do.
        severity: An `error` breaks the contract; a `warning` is legal but probably not meant.
        row: Zero-based row of a parquet file, or record of a messages file.
        line: One-based line of a text file.
        field: Column or key.
        kind: The kind of the file, a stable word such as `snapshots`; `other` when it has none.
    """

    path: Path
    rule: str
    message: str
    hint: str
    severity: Severity = "error"
    row: int | None = None
    line: int | None = None
    field: str | None = None
    kind: str = OTHER

    def __str__(self) -> str:
        place = "".join(
            f", {name} {value}"
            for name, value in (("line", self.line), ("row", self.row), ("field", self.field))
            if value is not None
        )
        return f"{self.severity}: {self.path}{place}: {self.message} [{self.rule}] {self.hint}"


@dataclass
class KindCount:
    """What was seen of one kind of file.

    Attributes:
        files: Files checked.
        rows: Rows of parquet files, records of messages files, lines of manifests; 0 for other documents.
        errors: Findings that break the contract.
        warnings: Findings that are legal but probably not meant.
    """

    files: int = 0
    rows: int = 0
    errors: int = 0
    warnings: int = 0


@dataclass
class Report:
    """The outcome of a validation.

    Attributes:
        findings: In the order of the files, then of the checks; empty when all is well.
        files: Files checked.
        rows: Rows of parquet files, records of messages files and lines of manifests in them.
    """

    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    rows: int = 0
    _seen: dict[str, KindCount] = field(default_factory=dict, repr=False)

    @property
    def errors(self) -> list[Finding]:
        """The findings that break the contract."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """The findings that are legal but probably not meant."""
        return [finding for finding in self.findings if finding.severity == "warning"]

    @property
    def ok(self) -> bool:
        """Whether nothing breaks the contract; warnings are allowed."""
        return not self.errors

    @property
    def kinds(self) -> dict[str, KindCount]:
        """What was seen of each kind, in the order of the first file of each; `other` is last."""
        kinds = {kind: KindCount(seen.files, seen.rows) for kind, seen in self._seen.items()}
        for finding in sorted(self.findings, key=lambda finding: finding.kind == OTHER):
            count = kinds.setdefault(finding.kind, KindCount())
            if finding.severity == "error":
                count.errors += 1
            else:
                count.warnings += 1
        return kinds

    def count(self, kind: str, *, files: int = 0, rows: int = 0) -> None:
        """Add what was seen of a kind."""
        seen = self._seen.setdefault(kind, KindCount())
        for counted in (self, seen):
            counted.files += files
            counted.rows += rows

    def add(self, other: Report) -> None:
        """Add another report to this one."""
        self.findings += other.findings
        for kind, seen in other._seen.items():
            self.count(kind, files=seen.files, rows=seen.rows)

    def to_document(self) -> dict[str, Any]:
        """Return the report as a JSON document."""
        return {
            "files": self.files,
            "rows": self.rows,
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "kinds": {kind: asdict(count) for kind, count in self.kinds.items()},
            "findings": [{**asdict(finding), "path": str(finding.path)} for finding in self.findings],
        }


class Collector:
    """Takes the findings of one file and keeps their number in bounds.

    Args:
        path: The file.
        report: Where the findings go.
        kind: The kind of the file.
    """

    def __init__(self, path: Path, report: Report, kind: str = OTHER) -> None:
        self.path = path
        self.kind = kind
        self._report = report
        self._seen: Counter[tuple[str, Severity]] = Counter()

    def add(
        self,
        rule: str,
        message: str,
        hint: str,
        *,
        severity: Severity = "error",
        row: int | None = None,
        line: int | None = None,
        field: str | None = None,
    ) -> None:
        """Record a finding of this file."""
        self._seen[rule, severity] += 1
        if self._seen[rule, severity] <= MOST_PER_RULE:
            self._report.findings.append(Finding(self.path, rule, message, hint, severity, row, line, field, self.kind))

    @property
    def errors(self) -> int:
        """How many errors were recorded, listed or not."""
        return sum(count for (_, severity), count in self._seen.items() if severity == "error")

    def close(self) -> None:
        """Record how many findings were not listed."""
        for (rule, severity), count in self._seen.items():
            if count > MOST_PER_RULE:
                message = f"{count - MOST_PER_RULE} more of the same are not listed"
                hint = "Correct the first ones and look again."
                self._report.findings.append(Finding(self.path, rule, message, hint, severity, kind=self.kind))

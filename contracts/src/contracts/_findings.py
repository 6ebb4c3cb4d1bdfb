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


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, where it is, and what to do.

    Attributes:
        path: The file or folder.
        rule: A stable word for programs, such as `timestamp-order`.
        message: What is wrong.
        hint: What to do.
        severity: An `error` breaks the contract; a `warning` is legal but probably not meant.
        row: Zero-based row of a parquet file.
        line: One-based line of a text file.
        field: Column or key.
    """

    path: Path
    rule: str
    message: str
    hint: str
    severity: Severity = "error"
    row: int | None = None
    line: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        place = "".join(
            f", {name} {value}"
            for name, value in (("line", self.line), ("row", self.row), ("field", self.field))
            if value is not None
        )
        return f"{self.severity}: {self.path}{place}: {self.message} [{self.rule}] {self.hint}"


@dataclass
class Report:
    """The outcome of a validation.

    Attributes:
        findings: In the order of the files, then of the checks; empty when all is well.
        files: Files checked.
        rows: Rows of parquet files and lines of manifests in them.
    """

    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    rows: int = 0

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

    def to_document(self) -> dict[str, Any]:
        """Return the report as a JSON document."""
        return {
            "files": self.files,
            "rows": self.rows,
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "findings": [{**asdict(finding), "path": str(finding.path)} for finding in self.findings],
        }


class Collector:
    """Takes the findings of one file and keeps their number in bounds.

    Args:
        path: The file.
        report: Where the findings go.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self.path = path
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
            finding = Finding(self.path, rule, message, hint, severity, row, line, field)
            self._report.findings.append(finding)

    def close(self) -> None:
        """Record how many findings were not listed."""
        for (rule, severity), count in self._seen.items():
            if count > MOST_PER_RULE:
                message = f"{count - MOST_PER_RULE} more of the same are not listed"
                hint = "Correct the first ones and look again."
                self._report.findings.append(Finding(self.path, rule, message, hint, severity))

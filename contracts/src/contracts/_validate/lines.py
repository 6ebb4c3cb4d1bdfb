"""Checks of the JSON Lines artifacts, line by line: backfill manifest and gaps; used through `contracts.validate`.

The bars manifest shares the loop and is in `bars_documents`.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from contracts._json import NotJson, loads
from contracts._validate.documents import BOM, INSTALL, JSON_HINTS
from contracts._validate.known import KnownParts
from contracts._validate.promises import BackfillPromises
from contracts.errors import InvalidDocument, UnknownSchemaVersion
from contracts.v1 import gaps
from contracts.v1.backfill import MANIFEST_VERSION, OLD_STATUS_WORDS, BackfillManifestLine, with_new_words
from contracts.v1.gaps import Gap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import date
    from pathlib import Path

    from contracts._validate.findings import Collector
    from contracts._validate.seen import Target

_LONGEST_LINE: Final = 1 << 20


@dataclass
class GapCounts:
    """How many gap records a file has.

    Attributes:
        of_session: By session id and symbol.
        unread: Lines that could not be read.
    """

    of_session: Counter[tuple[str, str]] = field(default_factory=Counter)
    unread: int = 0


def check_backfill_manifest(target: Target) -> int:
    """Check `backfill_l2_manifest.jsonl`; returns its number of lines.

    Raises:
        OSError: The file cannot be read.
    """
    findings = target.findings
    promises = target.seen.backfills[target.path] = BackfillPromises()
    known = KnownParts(BackfillManifestLine, ("path", "rows", "written_at", "cost_usd", "quality", "error", "reason"))
    run: str | None = None
    tasks: set[tuple[str, date]] = set()

    def check(document: Any, number: int) -> None:
        nonlocal run, tasks
        line = _backfill_line(document, number, known, findings)
        promises.take(line, number)
        if line.run_id is None:
            return
        if line.run_id != run:
            # Runs do not interleave (one writer at a time), so one run's tasks are all that must be remembered.
            run, tasks = line.run_id, set()
        task = (line.symbol, line.date)
        if task in tasks:
            message = f"{line.symbol} {line.date.isoformat()} comes twice in run {run}"
            findings.add("duplicate-task", message, "Write one line per task and run.", line=number)
        tasks.add(task)

    lines, promises.unread = check_lines(target.path, findings, MANIFEST_VERSION, check)
    return lines


def check_gaps(target: Target) -> int:
    """Check `l2_gaps.jsonl`; returns its number of lines.

    Raises:
        OSError: The file cannot be read.
    """
    counts = target.seen.gaps[target.path] = GapCounts()

    def check(document: Any, number: int) -> None:  # noqa: ARG001 - a gap says all by itself
        gap = Gap.from_document(document)
        counts.of_session[gap.session_id, gap.symbol] += 1

    lines, counts.unread = check_lines(target.path, target.findings, gaps.SCHEMA_VERSION, check)
    return lines


def check_lines(path: Path, findings: Collector, version: str, check: Callable[[Any, int], None]) -> tuple[int, int]:
    """Check each line of a JSON Lines file.

    Args:
        path: The file; what is appended while it is read is not looked at.
        findings: Where to put what is wrong.
        version: What the lines are.
        check: Gets the parsed document of a line and its one-based number, and raises what readers of it raise.

    Returns:
        How many lines there are, and how many of them no reader takes.

    Raises:
        OSError: The file cannot be read.
    """
    number = unread = 0
    for number, line in enumerate(_lines(path), 1):
        document = _document(line, number, findings)
        if document is _NOTHING:
            unread += bool(line.strip())
            continue
        try:
            check(document, number)
        except UnknownSchemaVersion as error:
            unread += 1
            message = f"schema_version {error.found!a} is unknown"
            if error.found is None and "schema_version" not in document:
                message = "schema_version is missing"
            findings.add("schema-version", message[:200], INSTALL, line=number, field="schema_version")
        except InvalidDocument as error:
            unread += 1
            findings.add("model", error.reason, f"Write {version}.", line=number, field=error.field)
    return number, unread


_NOTHING: Final = object()


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines with their ends; of one that is too long only the beginning, so that memory stays bounded."""
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while line := file.readline(min(_LONGEST_LINE + 1, left)):
            left -= len(line)
            yield line
            tail = line
            while len(tail) > _LONGEST_LINE and not tail.endswith(b"\n"):
                tail = file.readline(min(_LONGEST_LINE + 1, left))
                left -= len(tail)


def _document(line: bytes, number: int, findings: Collector) -> Any:
    """Return the parsed document of a line, or `_NOTHING`."""
    if len(line) > _LONGEST_LINE:
        findings.add("line-too-long", "longer than 1 MB", "Check what wrote it; lines are short.", line=number)
        return _NOTHING
    if not line.endswith(b"\n"):
        findings.add(
            "torn-line",
            "the last line has no line end, its writer was interrupted",
            "The next append of a producer repairs it; readers take whole lines only.",
            line=number,
        )
    if line.endswith(b"\r\n"):
        findings.add("crlf", "the line ends with CR LF", "End lines with LF.", severity="warning", line=number)
    if line.startswith(BOM):
        findings.add("bom", "it starts with a byte order mark", JSON_HINTS["bom"], line=number)
        line = line.removeprefix(BOM)
    if not line.strip():
        findings.add("blank-line", "the line is blank", "Remove it.", severity="warning", line=number)
        return _NOTHING
    try:
        return loads(line)
    except NotJson as error:
        findings.add(error.rule, str(error), JSON_HINTS[error.rule], line=number)
        return _NOTHING


def _backfill_line(document: Any, number: int, known: KnownParts, findings: Collector) -> BackfillManifestLine:
    status = document.get("status") if isinstance(document, dict) else None
    if isinstance(status, str) and status in OLD_STATUS_WORDS:
        findings.add(
            "old-word",
            f"{status} is an old word, read as {OLD_STATUS_WORDS[status]}",
            "Nothing to do for old lines; new ones must not say it.",
            severity="warning",
            line=number,
            field="status",
        )
    line: BackfillManifestLine = known.read(with_new_words(document))
    return line

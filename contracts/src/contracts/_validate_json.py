"""Checks of the JSON artifacts of a backfill and of the symbol mapping; used through `contracts.validate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from contracts._json import NotJson, loads
from contracts.errors import InvalidDocument, UnknownSchemaVersion
from contracts.schemas import MODELS, schema_validator
from contracts.v1 import symbol_mapping
from contracts.v1.backfill import (
    MANIFEST_VERSION,
    OLD_STATUS_WORDS,
    SUMMARY_VERSION,
    BackfillManifestLine,
    with_new_words,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date
    from pathlib import Path

    from contracts._findings import Collector
    from contracts._promises import Promises

_LONGEST_LINE: Final = 1 << 20
_LARGEST_DOCUMENT: Final = 1 << 28
_BOM: Final = b"\xef\xbb\xbf"
_HINTS: Final = {
    "bom": "Write UTF-8 without a byte order mark.",
    "duplicate-key": "Write each key once; readers differ in which one they take.",
    "json": "Write one JSON object.",
    "nan": "Leave the key out or write a finite number.",
    "utf8": "Write UTF-8.",
}
_INSTALL: Final = "Install a marketdata-contracts that reads this version, or correct schema_version."


def check_backfill_manifest(path: Path, findings: Collector, promises: Promises) -> int:
    """Check `backfill_l2_manifest.jsonl`; returns its number of lines.

    Args:
        path: The file.
        findings: Where to put what is wrong.
        promises: Filled with what the lines say about files.

    Raises:
        OSError: The file cannot be read.
    """
    number = 0
    run: str | None = None
    tasks: set[tuple[str, date]] = set()
    for number, line in enumerate(_lines(path), 1):
        checked = _check_line(line, number, findings)
        if checked is None:
            continue
        promises.take(checked, number)
        if checked.run_id is None:
            continue
        if checked.run_id != run:
            # Runs do not interleave (one writer at a time), so one run's tasks are all that must be remembered.
            run, tasks = checked.run_id, set()
        task = (checked.symbol, checked.date)
        if task in tasks:
            findings.add(
                "duplicate-task",
                f"{checked.symbol} {checked.date.isoformat()} comes twice in run {run}",
                "Write one line per task and run.",
                line=number,
            )
        tasks.add(task)
    return number


def check_backfill_summary(path: Path, findings: Collector) -> int:
    """Check `backfill_l2_summary.json` by its model and by its JSON Schema; returns 0, it has no rows.

    Raises:
        OSError: The file cannot be read.
    """
    document = _read(path, findings)
    if document is None:
        return 0
    found = document.get("schema_version", SUMMARY_VERSION) if isinstance(document, dict) else SUMMARY_VERSION
    if found != SUMMARY_VERSION:
        message = f"schema_version {found!a} is unknown"
        findings.add("schema-version", message[:200], _INSTALL, field="schema_version")
    else:
        _check_document(document, SUMMARY_VERSION, f"Write {SUMMARY_VERSION}.", findings)
    return 0


def check_symbol_mapping(path: Path, findings: Collector) -> int:
    """Check `symbol_mapping.json` by its model and by its JSON Schema; returns 0, it has no rows.

    Raises:
        OSError: The file cannot be read.
    """
    document = _read(path, findings, takes_bom=True)
    if document is not None:
        hint = 'Write a JSON object such as {"BRK-B": "BRK.B"}.'
        _check_document(document, symbol_mapping.SCHEMA_VERSION, hint, findings)
    return 0


def _read(path: Path, findings: Collector, *, takes_bom: bool = False) -> Any:
    """Return the JSON document of a small file; None when there is none to check."""
    with path.open("rb") as file:
        text = file.read(_LARGEST_DOCUMENT + 1)
    if len(text) > _LARGEST_DOCUMENT:
        findings.add("too-large", "larger than 256 MB", "Check what wrote it; such a document is small.")
        return None
    if takes_bom and text.startswith(_BOM):
        findings.add("bom", "it starts with a byte order mark", _HINTS["bom"], severity="warning")
        text = text.removeprefix(_BOM)
    try:
        document = loads(text)
    except NotJson as error:
        findings.add(error.rule, str(error), _HINTS[error.rule])
        return None
    if document is None:
        findings.add("json", "it is null", _HINTS["json"])
    return document


def _check_document(document: Any, version: str, hint: str, findings: Collector) -> None:
    from jsonschema.exceptions import best_match  # noqa: PLC0415 - a heavy import that reading data does not need

    fits_schema = True
    for failure in schema_validator(version).iter_errors(document):
        fits_schema = False
        # Of alternatives only the one that was meant says something of use.
        told = best_match([failure]) or failure
        where = ".".join(str(part) for part in told.absolute_path) or None
        findings.add("schema", told.message[:200], hint, field=where)
    if fits_schema:
        try:
            MODELS[version].from_document(document)
        except InvalidDocument as error:
            findings.add("model", error.reason, hint, field=error.field)


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines with their ends; of one that is too long only the beginning, so that memory stays bounded."""
    with path.open("rb") as file:
        while line := file.readline(_LONGEST_LINE + 1):
            yield line
            tail = line
            while len(tail) > _LONGEST_LINE and not tail.endswith(b"\n"):
                tail = file.readline(_LONGEST_LINE + 1)


def _check_line(line: bytes, number: int, findings: Collector) -> BackfillManifestLine | None:
    if len(line) > _LONGEST_LINE:
        findings.add("line-too-long", "longer than 1 MB", "Check what wrote it; lines are short.", line=number)
        return None
    if not line.endswith(b"\n"):
        findings.add(
            "torn-line",
            "the last line has no line end, its writer was interrupted",
            "The next append of a producer repairs it; readers take whole lines only.",
            line=number,
        )
    if line.endswith(b"\r\n"):
        findings.add("crlf", "the line ends with CR LF", "End lines with LF.", severity="warning", line=number)
    if line.startswith(_BOM):
        findings.add("bom", "it starts with a byte order mark", _HINTS["bom"], line=number)
        line = line.removeprefix(_BOM)
    if not line.strip():
        findings.add("blank-line", "the line is blank", "Remove it.", severity="warning", line=number)
        return None
    try:
        document = loads(line)
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
        return BackfillManifestLine.from_document(with_new_words(document))
    except NotJson as error:
        findings.add(error.rule, str(error), _HINTS[error.rule], line=number)
    except UnknownSchemaVersion as error:
        message = f"schema_version {error.found!a} is unknown"
        findings.add("schema-version", message[:200], _INSTALL, line=number, field="schema_version")
    except InvalidDocument as error:
        findings.add("model", error.reason, f"Write {MANIFEST_VERSION}.", line=number, field=error.field)
    return None

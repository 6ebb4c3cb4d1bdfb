"""Checks of the small JSON documents: backfill summary, session stats, symbol mapping; and what all documents share.

Used through `contracts.validate`. Bars coverage is in `bars_documents`, depth messages in `messages`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from contracts._json import NotJson, loads
from contracts._validate.level2 import check_symbol_folder, level2_name
from contracts.errors import InvalidDocument, InvalidName
from contracts.layout import parse_level2_name
from contracts.schemas import MODELS, schema_validator
from contracts.sessions import ET
from contracts.v1 import session_stats, symbol_mapping
from contracts.v1.backfill import SUMMARY_VERSION, BackfillSummary
from contracts.v1.session_stats import SessionStats

if TYPE_CHECKING:
    from pathlib import Path

    from contracts._validate.findings import Collector
    from contracts._validate.seen import Target

BOM: Final = b"\xef\xbb\xbf"
INSTALL: Final = "Install a marketdata-contracts that reads this version, or correct schema_version."
JSON_HINTS: Final = {
    "bom": "Write UTF-8 without a byte order mark.",
    "duplicate-key": "Write each key once; readers differ in which one they take.",
    "json": "Write standard JSON.",
    "nan": "Leave the key out or write a finite number.",
    "utf8": "Write UTF-8.",
}
_LARGEST_DOCUMENT: Final = 1 << 28


def check_backfill_summary(target: Target) -> int:
    """Check `backfill_l2_summary.json` by its model and by its JSON Schema; returns 0, it has no rows.

    Raises:
        OSError: The file cannot be read.
    """
    document = read_document(target.path, target.findings)
    if document is not None and has_version(document, SUMMARY_VERSION, target.findings):
        summary = check_document(document, SUMMARY_VERSION, target.findings)
        if isinstance(summary, BackfillSummary):
            target.seen.summaries[target.path] = summary
    return 0


def check_session_stats(target: Target) -> int:
    """Check a session stats file by its model and by its JSON Schema; returns 0, it has no rows.

    Raises:
        OSError: The file cannot be read.
    """
    findings = target.findings
    document = read_document(target.path, findings)
    if document is None or not has_version(document, session_stats.SCHEMA_VERSION, findings):
        return 0
    stats = check_document(document, session_stats.SCHEMA_VERSION, findings)
    if not isinstance(stats, SessionStats):
        return 0
    target.seen.stats[target.path] = stats
    rename = "Give the file the name and the folder of its session."
    folder, name = check_symbol_folder(target.path, findings), level2_name(target.path)
    if folder is not None and folder != stats.symbol:
        findings.add("folder", f"the folder is {folder}, the stats say {stats.symbol}", rename, field="symbol")
    if name is None:
        findings.add("name", "the file name is not in the grammar", "See contracts.layout.", severity="warning")
    elif name.day != stats.recording_date.astimezone(ET).date():
        message = f"the name says {name.day.isoformat()}, recording_date {stats.recording_date.isoformat()}"
        findings.add("name", message, rename, severity="warning", field="recording_date")
    for number, file in enumerate(stats.files or ()):
        try:
            kind = parse_level2_name(file).kind
        except InvalidName:
            kind = None
        if kind not in ("snapshots", "messages"):
            message = f"{file[:80]!a} is no name of a snapshots or messages file"
            findings.add("filename", message, "List bare names of the folder.", field=f"files.{number}")
    return 0


def check_symbol_mapping(target: Target) -> int:
    """Check `symbol_mapping.json` by its model and by its JSON Schema; returns 0, it has no rows.

    Raises:
        OSError: The file cannot be read.
    """
    document = read_document(target.path, target.findings, by_people=True)
    if document is not None:
        hint = 'Write a JSON object such as {"BRK-B": "BRK.B"}.'
        check_document(document, symbol_mapping.SCHEMA_VERSION, target.findings, hint=hint)
    return 0


def read_document(path: Path, findings: Collector, *, by_people: bool = False) -> Any:
    """Return the JSON document of a file of at most 256 MB; None when there is none to check, which is a finding.

    Args:
        path: The file.
        findings: Where to put what is wrong.
        by_people: People write it: their editors' byte order mark and line ends are no errors.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        text = b"" if size > _LARGEST_DOCUMENT else file.read(size)
    if size > _LARGEST_DOCUMENT:
        findings.add("too-large", "larger than 256 MB", "Check what wrote it; such a document is smaller.")
        return None
    if not text:
        findings.add("json", "the file has no bytes", "Remove it; its writer was interrupted.")
        return None
    if by_people and text.startswith(BOM):
        findings.add("bom", "it starts with a byte order mark", JSON_HINTS["bom"], severity="warning")
        text = text.removeprefix(BOM)
    if not by_people and b"\r\n" in text:
        findings.add("crlf", "lines end with CR LF", "End lines with LF.", severity="warning")
    try:
        document = loads(text)
    except NotJson as error:
        findings.add(error.rule, str(error), JSON_HINTS[error.rule])
        return None
    if document is None:
        findings.add("json", "it is null", JSON_HINTS["json"])
    return document


def has_version(
    document: Any, version: str, findings: Collector, *, is_required: bool = False, row: int | None = None
) -> bool:
    """Tell whether a document is of this version; another one is a finding. Without `is_required` missing means v1."""
    if not isinstance(document, dict):
        # What it is instead is for the model to say.
        return True
    found = document.get("schema_version", None if is_required else version)
    if found == version:
        return True
    message = f"schema_version {found!a} is unknown" if "schema_version" in document else "schema_version is missing"
    findings.add("schema-version", message[:200], INSTALL, row=row, field="schema_version")
    return False


def check_document(document: Any, version: str, findings: Collector, *, hint: str | None = None) -> Any:
    """Check a document by its JSON Schema and its model; returns the model, or None with findings."""
    from jsonschema.exceptions import best_match  # noqa: PLC0415 - a heavy import that reading data does not need

    hint = hint or f"Write {version}."
    fits_schema = True
    for failure in schema_validator(version).iter_errors(document):
        fits_schema = False
        # Of alternatives only the one that was meant says something of use.
        told = best_match([failure]) or failure
        where = ".".join(str(part) for part in told.absolute_path) or None
        findings.add("schema", told.message[:200], hint, field=where)
    return check_model(document, version, findings, hint=hint) if fits_schema else None


def check_model(document: Any, version: str, findings: Collector, *, hint: str | None = None) -> Any:
    """Check a document by its model; returns it, or None with the first field at fault as a finding."""
    try:
        return MODELS[version].from_document(document)
    except InvalidDocument as error:
        findings.add("model", error.reason, hint or f"Write {version}.", field=error.field)
        return None

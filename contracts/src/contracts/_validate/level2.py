"""Checks of a Level-2 parquet file: footer, columns, name and folder; used through `contracts.validate`.

Every row is checked by `snapshot_rows` or `event_rows`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from contracts._validate.event_rows import EventRows
from contracts._validate.parquet import check_columns, check_parquet, day_bounds_ns
from contracts._validate.rows import REWRITE, check_rows
from contracts._validate.seen import FileFacts
from contracts._validate.snapshot_rows import SnapshotRows
from contracts.errors import InvalidDocument, InvalidName, InvalidSymbol, InvalidWindow, UnknownSchemaVersion
from contracts.layout import Level2Name, parse_level2_name
from contracts.sessions import parse_window
from contracts.symbols import canonical_symbol
from contracts.v1.level2 import SNAPSHOT_SCHEMA, SnapshotMetadata
from contracts.v1.level2_events import EVENTS_SCHEMA, EventsMetadata

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.parquet as pq

    from contracts._validate.findings import Collector
    from contracts._validate.seen import Target

_Metadata = SnapshotMetadata | EventsMetadata
_SCHEMAS: Final[dict[type[_Metadata], pa.Schema]] = {SnapshotMetadata: SNAPSHOT_SCHEMA, EventsMetadata: EVENTS_SCHEMA}


def check_snapshots(target: Target) -> int:
    """Check a snapshots file; returns its number of rows as the footer has it.

    Raises:
        OSError: The file cannot be read.
    """
    return _check(target, SnapshotMetadata)


def check_events(target: Target) -> int:
    """Check an events file; returns its number of rows as the footer has it.

    Raises:
        OSError: The file cannot be read.
    """
    return _check(target, EventsMetadata)


def level2_name(path: Path) -> Level2Name | None:
    """Return the parsed name of a Level-2 file; None when it is not in the grammar."""
    try:
        return parse_level2_name(path.name)
    except InvalidName:
        return None


def _check(target: Target, model: type[_Metadata]) -> int:
    facts = target.seen.files[target.place] = FileFacts(target.path)
    check_parquet(target, lambda file, source: _check_open(file, source, target, model, facts))
    return facts.rows or 0


def _check_open(
    file: pq.ParquetFile, source: pa.NativeFile, target: Target, model: type[_Metadata], facts: FileFacts
) -> None:
    findings, name = target.findings, level2_name(target.path)
    facts.rows = int(file.metadata.num_rows)
    if facts.rows == 0:
        findings.add("no-rows", "the file has no rows", "A day without rows has no file.")
    schema = file.schema_arrow
    has_columns = check_columns(schema, _SCHEMAS[model], findings)
    metadata = _check_footer(schema, model, findings)
    symbol = _check_place(target.path, name, metadata, findings)
    snapshots_metadata = metadata if isinstance(metadata, SnapshotMetadata) else None
    if name is not None and name.stamp is not None:
        facts.metadata = snapshots_metadata
    if target.full and facts.rows and has_columns:
        bounds = _bounds(metadata, name)
        if model is EventsMetadata:
            check_rows(lambda: EventRows(symbol, bounds), file, source, findings)
        else:
            check_rows(lambda: SnapshotRows(snapshots_metadata, bounds), file, source, findings)
        facts.is_sound = not findings.errors


def _check_footer(schema: pa.Schema, model: type[_Metadata], findings: Collector) -> _Metadata | None:
    try:
        metadata = model.from_footer(schema.metadata)
    except UnknownSchemaVersion as error:
        message = f"schema_version {error.found!a} is not {error.known[0]}, which the name asks for"
        hint = "Install a marketdata-contracts that reads it, or give the file the name of its kind."
        findings.add("schema-version", message[:200], hint, field="schema_version")
        return None
    except InvalidDocument as error:
        findings.add("footer", error.reason, REWRITE, field=error.field)
        return None
    if metadata is None:
        findings.add(
            "no-footer",
            "the footer has no metadata of this contract",
            "Legal for old files; new ones say what they contain.",
            severity="warning",
        )
    return metadata


def _check_place(path: Path, name: Level2Name | None, metadata: _Metadata | None, findings: Collector) -> str | None:
    """Check name and folder; returns the symbol of the file as the folder, else the footer, says."""
    rename = "Give the file the name and the folder of what it contains."
    if name is None:
        findings.add("name", "the file name is not in the grammar", "See contracts.layout.", severity="warning")
    folder = check_symbol_folder(path, findings)
    if metadata is not None:
        if folder is not None and folder != metadata.symbol:
            findings.add("folder", f"the folder is {folder}, the footer says {metadata.symbol}", rename, field="symbol")
        if name is not None and name.day != metadata.session_date:
            message = f"the name says {name.day.isoformat()}, the footer {metadata.session_date.isoformat()}"
            findings.add("name", message, rename, field="session_date")
    if folder is not None:
        return folder
    return None if metadata is None else metadata.symbol


def check_symbol_folder(path: Path, findings: Collector) -> str | None:
    """Return the folder of a Level-2 file if it is a canonical symbol; warn if it is not."""
    folder = path.absolute().parent.name
    try:
        if canonical_symbol(folder) == folder:
            return folder
    except InvalidSymbol:
        pass
    message = f"the folder {folder[:60]!a} is not a canonical symbol"
    findings.add("folder", message, "Files lie in level2/SYMBOL/.", severity="warning")
    return None


def _bounds(metadata: _Metadata | None, name: Level2Name | None) -> tuple[int, int] | None:
    """Return the ns range of the rows: the window if the footer says it, else the ET day of the name."""
    if metadata is not None:
        try:
            if isinstance(metadata, SnapshotMetadata):
                return metadata.bounds_ns()
            return parse_window(metadata.window_et).bounds_ns(metadata.session_date)
        except InvalidWindow:
            return None
    return None if name is None else day_bounds_ns(name.day)

"""Checks of a Level-2 parquet file: footer, columns, name and folder; used through `contracts.validate`.

Every row is checked by `_snapshot_rows` or `_event_rows`.
"""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from contracts._event_rows import EventRows
from contracts._rows import REWRITE, first_line
from contracts._snapshot_rows import SnapshotRows
from contracts.errors import InvalidDocument, InvalidSymbol, InvalidWindow, UnknownSchemaVersion
from contracts.sessions import ET, parse_window
from contracts.symbols import canonical_symbol
from contracts.v1.level2 import SNAPSHOT_SCHEMA, SnapshotMetadata
from contracts.v1.level2_events import EVENTS_SCHEMA, EventsMetadata

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from contracts._findings import Collector
    from contracts.layout import Level2Name

_Metadata = SnapshotMetadata | EventsMetadata
_SCHEMAS: Final[dict[type[_Metadata], pa.Schema]] = {SnapshotMetadata: SNAPSHOT_SCHEMA, EventsMetadata: EVENTS_SCHEMA}


def check_level2_file(path: Path, name: Level2Name | None, findings: Collector, *, full: bool) -> int | None:
    """Check a snapshots or events file.

    Args:
        path: The file.
        name: Its parsed name, or None when the name is not in the grammar; then its columns tell what it is.
        findings: Where to put what is wrong.
        full: Check every row, not only the footer.

    Returns:
        Its number of rows as the footer has it, or None when there is no footer to read.

    Raises:
        OSError: The file cannot be read.
    """
    if path.stat().st_size == 0:
        findings.add("empty-file", "the file has no bytes", "Remove it; its writer was interrupted.")
        return None
    try:
        with pq.ParquetFile(path) as file:
            rows = int(file.metadata.num_rows)
            if rows == 0:
                findings.add("no-rows", "the file has no rows", "A day without rows has no file.")
            schema = file.schema_arrow
            model = _model(schema, name)
            sound = _check_columns(schema, _SCHEMAS[model], findings)
            metadata = _check_footer(schema, model, findings)
            symbol = _check_place(path, name, metadata, findings)
            if full and rows and sound:
                bounds = _bounds(metadata, name)
                if model is EventsMetadata:
                    EventRows(symbol, bounds).run(file, findings)
                else:
                    SnapshotRows(metadata if isinstance(metadata, SnapshotMetadata) else None, bounds).run(
                        file, findings
                    )
            return rows
    except (pa.ArrowException, UnicodeDecodeError) as error:
        findings.add("not-parquet", f"not a readable parquet file: {first_line(error)}", REWRITE)
        return None


def _model(schema: pa.Schema, name: Level2Name | None) -> type[_Metadata]:
    is_events = schema.names == EVENTS_SCHEMA.names if name is None else name.kind == "events"
    return EventsMetadata if is_events else SnapshotMetadata


def _check_columns(schema: pa.Schema, wanted: pa.Schema, findings: Collector) -> bool:
    """Tell whether the columns are exactly those of the contract, and report what differs."""
    if schema.names != wanted.names:
        names, hint = ", ".join(schema.names)[:200], f"They must be exactly {', '.join(wanted.names)}; no index column."
        findings.add("columns", f"the columns are {names}", hint)
        return False
    differing = [field for field in schema if field.type != wanted.field(field.name).type]
    for field in differing:
        message = f"the type is {field.type}, not {wanted.field(field.name).type}"
        findings.add("type", message, REWRITE, field=field.name)
    return not differing


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
    folder = path.absolute().parent.name
    try:
        is_symbol = canonical_symbol(folder) == folder
    except InvalidSymbol:
        is_symbol = False
    if not is_symbol:
        message = f"the folder {folder[:60]!a} is not a canonical symbol"
        findings.add("folder", message, "Files lie in level2/SYMBOL/.", severity="warning")
    if metadata is not None:
        if is_symbol and folder != metadata.symbol:
            findings.add("folder", f"the folder is {folder}, the footer says {metadata.symbol}", rename, field="symbol")
        if name is not None and name.day != metadata.session_date:
            message = f"the name says {name.day.isoformat()}, the footer {metadata.session_date.isoformat()}"
            findings.add("name", message, rename, field="session_date")
    if is_symbol:
        return folder
    return None if metadata is None else metadata.symbol


def _bounds(metadata: _Metadata | None, name: Level2Name | None) -> tuple[int, int] | None:
    """Return the ns range of the rows: the window if the footer says it, else the ET day of the name."""
    if metadata is not None:
        try:
            return parse_window(metadata.window_et).bounds_ns(metadata.session_date)
        except InvalidWindow:
            return None
    return None if name is None else _day_bounds(name.day)


def _day_bounds(day: date) -> tuple[int, int] | None:
    try:
        midnights = (datetime.combine(at, time(), tzinfo=ET) for at in (day, day + timedelta(days=1)))
        start, end = (int(midnight.timestamp()) * 1_000_000_000 for midnight in midnights)
    except OverflowError:
        return None
    return start, end

"""Checks of a bars parquet file: footer, columns, name and folder; used through `contracts.validate`.

Every row is checked by `bar_rows`, the manifest and the coverage by `bars_documents`.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Final

from contracts._validate.bar_rows import BarRows
from contracts._validate.parquet import check_columns, check_parquet, day_bounds_ns
from contracts._validate.rows import REWRITE, check_rows
from contracts._validate.seen import FileFacts
from contracts.errors import InvalidDocument, InvalidName, UnknownSchemaVersion
from contracts.layout import BarsName, parse_bars_path
from contracts.sessions import ET
from contracts.timestamps import ns_from_text
from contracts.v1.bars import BAR_SCHEMA, BarsMetadata

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.parquet as pq

    from contracts._validate.findings import Collector
    from contracts._validate.seen import Target

PLACE_PARTS: Final = 4
"""Parts of `bars/minute/AAPL/2025-09-15.parquet`."""


def is_bars_place(path: Path) -> bool:
    """Tell whether a file lies where bars files lie: `bars/SIZE/SYMBOL/NAME.parquet`, whatever these are."""
    # A folder can be named from inside the data root.
    return path.suffix == ".parquet" and path.absolute().parts[-PLACE_PARTS:-3] == ("bars",)


def check_bars(target: Target) -> int:
    """Check a bars file; returns its number of rows as the footer has it.

    Raises:
        OSError: The file cannot be read.
    """
    facts = target.seen.files[target.place] = FileFacts(target.path)
    name = _name(target)
    check_parquet(target, lambda file, source: _check_open(file, source, target, name, facts))
    return facts.rows or 0


def _check_open(
    file: pq.ParquetFile, source: pa.NativeFile, target: Target, name: BarsName | None, facts: FileFacts
) -> None:
    findings = target.findings
    facts.rows = int(file.metadata.num_rows)
    if facts.rows == 0:
        findings.add("no-rows", "the file has no rows", "A day without bars has no file.")
    has_columns = check_columns(file.schema_arrow, BAR_SCHEMA, findings)
    _check_footer(file.schema_arrow, name, findings)
    if target.full and facts.rows and has_columns:
        day = _day_of_first_bar(file) if name is None else name.day
        bar_size, bounds = None if name is None else name.bar_size, None if day is None else day_bounds_ns(day)
        rows = check_rows(lambda: BarRows(bar_size, bounds), file, source, findings)
        facts.first_ns, facts.last_ns = rows.first_ns, rows.last_ns
        facts.is_sound = not findings.errors


def _check_footer(schema: pa.Schema, name: BarsName | None, findings: Collector) -> None:
    """Check what a footer says against the name; files without our metadata are as good."""
    try:
        metadata = BarsMetadata.from_footer(schema.metadata)
    except UnknownSchemaVersion as error:
        message = f"schema_version {error.found!a} is not {error.known[0]}"
        findings.add("schema-version", message[:200], "Install a newer marketdata-contracts.", field="schema_version")
        return
    except InvalidDocument as error:
        findings.add("footer", error.reason, REWRITE, field=error.field)
        return
    if metadata is None or name is None:
        return
    said = {"symbol": metadata.symbol, "bar_size": metadata.bar_size, "session_date": metadata.session_date}
    named = {"symbol": name.symbol, "bar_size": name.bar_size, "session_date": name.day}
    for field, value in said.items():
        if value != named[field]:
            hint = "Give the file the name and the folder of what it contains."
            findings.add("footer", f"the footer says {value}, the place {named[field]}", hint, field=field)


def _name(target: Target) -> BarsName | None:
    try:
        return parse_bars_path(target.path.absolute())
    except InvalidName as error:
        hint = "Bars lie in bars/{hour|minute|second}/SYMBOL/YYYY-MM-DD.parquet."
        target.findings.add("name", error.reason, hint, severity="warning")
        return None


def _day_of_first_bar(file: pq.ParquetFile) -> date | None:
    """Return the ET day that all bars of a file must share when its name does not say it."""
    batch = next(file.iter_batches(batch_size=1, columns=["timestamp"]), None)
    try:
        ns = ns_from_text(str(batch.column(0)[0].as_py())) if batch is not None else 0
        return datetime.fromtimestamp(ns // 1_000_000_000, UTC).astimezone(ET).date()
    except (InvalidDocument, ValueError, OverflowError, OSError):
        # The check of all rows says what is wrong with it.
        return None

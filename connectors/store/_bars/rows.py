"""Rows of a bars file: what they must be before they are written, two tables made one, their bytes and their kind."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.store.errors import InvalidRows
from contracts.errors import InvalidDocument
from contracts.sessions import ET
from contracts.timestamps import ns_from_iso_utc
from contracts.v1.bars import BAR_SCHEMA

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

_Int64 = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]

_NS: Final = 1_000_000_000
_PRICES: Final = ("open", "high", "low", "close")
_ALL_IN_ONE_GROUP: Final = 1 << 20
# Dictionaries would make no file smaller: neighbouring prices differ, and times are unique.
_WRITER_OPTIONS: Final = {
    "version": "2.6",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": False,
    "store_schema": True,
    "write_page_checksum": True,
    "row_group_size": _ALL_IN_ONE_GROUP,
}


def merge(old: pa.Table | None, new: pa.Table) -> pa.Table:
    """Put two tables of bars together by time; where both have a bar, that of `new` stays.

    Args:
        old: `BAR_SCHEMA`, or None.
        new: `BAR_SCHEMA`; may have no rows.

    Returns:
        `BAR_SCHEMA` without metadata, strictly increasing in time, each column in one piece.

    Raises:
        InvalidDocument: A timestamp is not of the fixed layout.
    """
    tables = [with_bar_schema(table) for table in (old, new) if table is not None]
    both = pa.concat_tables(tables)
    ns = ns_from_iso_utc(both.column("timestamp"))
    # Of equal times the last one is that of `new`: the sort is stable.
    order = np.argsort(ns, kind="stable")
    is_last = np.append(ns[order][1:] != ns[order][:-1], np.True_)[: len(ns)]
    return both.take(pa.array(order[is_last])).combine_chunks()


def with_bar_schema(table: pa.Table) -> pa.Table:
    """Return a table that `has_bar_columns` with exactly `BAR_SCHEMA`: nullable fields, no metadata."""
    return table.cast(BAR_SCHEMA)


def has_bar_columns(schema: pa.Schema) -> bool:
    """Tell whether columns have the names, order and types of bars; what else fields say does not matter."""
    return bool(schema.names == BAR_SCHEMA.names and schema.types == BAR_SCHEMA.types)


def check_rows(table: pa.Table, day: date | None, where: str, path: Path) -> _Int64:
    """Check what readers and the validator rely on; returns the times, nanoseconds since 1970 UTC.

    Args:
        table: The rows.
        day: The ET day of all bars; None when it is that of the first.
        where: Begins the message of an error.
        path: The file, for the error.

    Raises:
        InvalidRows: Other columns, no row, a null outside `WAP`, times that are not fixed-width UTC, not strictly
            increasing or of another ET day, a number that is not finite, prices that are not
            `low <= open, close <= high`, a negative volume or count.
    """
    if not has_bar_columns(table.schema):
        columns = ", ".join(f"{field.name} {field.type}" for field in table.schema)
        raise InvalidRows(f"{where}: the columns are {columns}; bars have {', '.join(BAR_SCHEMA.names)}.", path=path)
    if table.num_rows == 0:
        raise InvalidRows(f"{where}: there is no bar; a day without bars has no file.", path=path)
    for name in BAR_SCHEMA.names:
        if name != "WAP" and table.column(name).null_count:
            raise InvalidRows(f"{where}: {name} has nulls; only WAP may.", path=path)
    try:
        ns = ns_from_iso_utc(table.column("timestamp"))
    except InvalidDocument as error:
        raise InvalidRows(f"{where}: row {error.row}: {error.reason}.", path=path) from error
    _refuse(np.append(np.False_, ns[1:] <= ns[:-1]), "the time is not after that of the row above", where, path)
    start_ns, end_ns = day_bounds_ns(_et_day(int(ns[0])) if day is None else day)
    outside = (ns < start_ns) | (ns >= end_ns)
    _refuse(outside, f"the bar is not of the ET day {day or 'of the first'}", where, path)
    _check_numbers(table, where, path)
    return ns


def kind_text(what_to_show: str, use_rth: bool) -> str:
    """Return the kind of a download as text, such as `TRADES/regular` or `MIDPOINT/extended`."""
    return f"{what_to_show}/{'regular' if use_rth else 'extended'}"


def encode(table: pa.Table, schema: pa.Schema) -> bytes:
    """Return the parquet file of some bars; the same rows and metadata give the same bytes with the same pyarrow.

    Args:
        table: Rows that `check_rows` let pass, a day at most.
        schema: `BAR_SCHEMA` with the footer's metadata.
    """
    sink = pa.BufferOutputStream()
    # Pages end where pieces end, so the pieces' number would show in the bytes.
    pq.write_table(table.cast(schema).combine_chunks(), sink, **_WRITER_OPTIONS)
    return bytes(sink.getvalue())


def day_bounds_ns(day: date) -> tuple[int, int]:
    """Return the midnights in which an ET day lies, nanoseconds since 1970 UTC, the end exclusive."""
    start, end = (datetime.combine(at, time(), ET).timestamp() for at in (day, day + timedelta(days=1)))
    return int(start) * _NS, int(end) * _NS


def _check_numbers(table: pa.Table, where: str, path: Path) -> None:
    column = {name: table.column(name).to_numpy() for name in BAR_SCHEMA.names[1:]}
    for name in (*_PRICES, "volume"):
        _refuse(~np.isfinite(column[name]), f"{name} is not finite", where, path)
    _refuse(np.isinf(column["WAP"]), "WAP is infinite", where, path)
    for name in ("open", "close"):
        wrong = (column[name] < column["low"]) | (column[name] > column["high"])
        _refuse(wrong, f"{name} is not between low and high", where, path)
    for name in ("volume", "barCount"):
        _refuse(column[name] < 0, f"{name} is negative", where, path)


def _refuse(wrong: npt.NDArray[Any], reason: str, where: str, path: Path) -> None:
    if wrong.any():
        raise InvalidRows(f"{where}: row {int(np.argmax(wrong))}: {reason}.", path=path)


def _et_day(ns: int) -> date:
    return datetime.fromtimestamp(ns // _NS, ET).date()

"""Kinds of damage to Level-2 files: snapshots, depth messages, session stats."""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import ContractError, InvalidDocument, InvalidSnapshotFile, NotAvailable, UnknownSchemaVersion
from contracts.layout import Level2Name
from contracts.testing._backfill import SAMPLE_DAY, SAMPLE_INTERVAL_MS, SAMPLE_SYMBOL, sample_metadata
from contracts.testing._damage import (
    Artifact,
    Columns,
    Damage,
    break_page,
    edit_bytes,
    edit_columns,
    edit_json,
    edit_records,
    edit_table,
    put_bytes,
    remove,
    write_table,
)
from contracts.testing._live import LIVE_SEGMENTS, LIVE_SYMBOL
from contracts.timestamps import iso_utc_from_ns, ns_from_iso_utc
from contracts.v1.level2 import DEFAULT_LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from contracts.layout import DataRoot

_ROW: Final = 301
"""The row that is damaged, in the middle of the file; none of its levels is missing."""


def _historical(root: DataRoot) -> Path:
    return root.snapshots_path(SAMPLE_SYMBOL, SAMPLE_DAY)


def _live_snapshots(root: DataRoot) -> Path:
    return root.level2_path(LIVE_SYMBOL, Level2Name("snapshots", SAMPLE_DAY, LIVE_SEGMENTS[0]))


def _messages(root: DataRoot) -> Path:
    return root.level2_path(LIVE_SYMBOL, Level2Name("messages", SAMPLE_DAY, LIVE_SEGMENTS[0]))


def _stats(root: DataRoot) -> Path:
    return root.level2_path(LIVE_SYMBOL, Level2Name("session_stats", SAMPLE_DAY, LIVE_SEGMENTS[0]))


_PATHS: Final[dict[Artifact, Callable[[DataRoot], Path]]] = {
    "snapshots": _historical,
    "messages": _messages,
    "session_stats": _stats,
}


def _file(
    artifact: Artifact,
    name: str,
    description: str,
    rule: str,
    edit: Callable[[Path], Path],
    error: type[ContractError] | None = None,
) -> Damage:
    """Return a damage to the file of an artifact; without `error` only the validator tells."""
    return Damage(
        name=f"{artifact.replace('_', '-')}-{name}",
        artifact=artifact,
        description=description,
        rule=rule,
        apply=lambda root: edit(_PATHS[artifact](root)),
        outcome="reads" if error is None else "raises",
        error=error,
    )


def _values(
    name: str,
    description: str,
    rule: str,
    edit: Callable[[Columns], None],
    error: type[ContractError] | None = None,
) -> Damage:
    """Return a damage to values of the historical snapshots file."""
    return _file("snapshots", name, description, rule, lambda path: edit_columns(path, edit), error)


def _table(
    name: str,
    description: str,
    rule: str,
    edit: Callable[[pa.Table], pa.Table],
    error: type[ContractError] | None = None,
) -> Damage:
    """Return a damage to columns or footer of the historical snapshots file."""
    return _file("snapshots", name, description, rule, lambda path: edit_table(path, edit), error)


def _document(
    artifact: Artifact,
    name: str,
    description: str,
    rule: str,
    edit: Callable[[Any], object],
    error: type[ContractError] | None = None,
) -> Damage:
    """Return a damage to a messages or session stats document, by its parsed form."""
    edit_document = edit_records if artifact == "messages" else edit_json
    return _file(artifact, name, description, rule, lambda path: edit_document(path, edit), error)


def _null_in_list(columns: Columns) -> None:
    columns["ask_sizes"][_ROW][3] = None


def _null_time(columns: Columns) -> None:
    columns["timestamp"][_ROW] = None


def _short_list(columns: Columns) -> None:
    columns["ask_prices"][_ROW].pop()


def _nan_price(columns: Columns) -> None:
    columns["bid_prices"][_ROW][4] = float("nan")


def _negative_size(columns: Columns) -> None:
    columns["ask_sizes"][_ROW][0] = -100


def _missing_inside(columns: Columns) -> None:
    columns["bid_prices"][_ROW][4] = 0.0
    columns["bid_sizes"][_ROW][4] = 0


def _no_size(columns: Columns) -> None:
    columns["ask_sizes"][_ROW][-1] = 0


def _worst_first(columns: Columns) -> None:
    columns["bid_prices"][_ROW].reverse()


def _swap_times(columns: Columns) -> None:
    times = columns["timestamp"]
    times[_ROW], times[_ROW + 1] = times[_ROW + 1], times[_ROW]


def _off_grid(columns: Columns) -> None:
    columns["timestamp"][_ROW] = columns["timestamp"][_ROW].replace("000+00:00", "007+00:00")


def _short_time(columns: Columns) -> None:
    columns["timestamp"][_ROW] = "2025-09-04T13:30:30.1Z"


def _late(table: pa.Table) -> pa.Table:
    later = iso_utc_from_ns(ns_from_iso_utc(table.column("timestamp")) + SAMPLE_INTERVAL_MS * 1_000_000)
    return table.set_column(0, table.schema.field(0), later)


def _with_footer(**changes: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.replace_schema_metadata(sample_metadata().model_copy(update=changes).to_footer())


def _other_version(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata({**table.schema.metadata, b"schema_version": b"level2_snapshot.v2"})


def _narrow_sizes(table: pa.Table) -> pa.Table:
    return table.set_column(2, "bid_sizes", table.column("bid_sizes").cast(pa.list_(pa.int32())))


def _index_column(table: pa.Table) -> pa.Table:
    return table.append_column("__index_level_0__", pa.array(range(table.num_rows), pa.int64()))


def _not_shifted(root: DataRoot) -> Path:
    """Write the first live segment as the system before did, in whose book an `add` overwrote its level."""
    from contracts.book import replay  # noqa: PLC0415 - most users of the kit break something else

    path = _live_snapshots(root)
    table = pq.read_table(path)
    first_ns, last_ns = ns_from_iso_utc(table.column("timestamp"))[[0, -1]].tolist()
    messages = json.loads(_messages(root).read_bytes())
    for message in messages:
        if message["operation"] == "add":
            message["operation"] = "update"
    rows = replay(messages, DEFAULT_LEVELS, SAMPLE_INTERVAL_MS, start_ns=first_ns, end_ns=last_ns + 1)
    return write_table(path, rows.replace_schema_metadata(table.schema.metadata))


def _lose_one(messages: list[dict[str, Any]]) -> None:
    half = len(messages) // 2
    lost = next(n for n in range(half, len(messages)) if messages[n]["operation"] == "add")
    del messages[lost]


def _swap_messages(messages: list[dict[str, Any]]) -> None:
    messages[200], messages[201] = messages[201], messages[200]


def _fractional_size(messages: list[dict[str, Any]]) -> None:
    messages[200]["size"] = 1.5


def _other_symbol(messages: list[dict[str, Any]]) -> None:
    messages[200]["symbol"] = SAMPLE_SYMBOL


def _add_to(key: str) -> Callable[[dict[str, Any]], None]:
    def edit(stats: dict[str, Any]) -> None:
        stats[key] += 1

    return edit


def _list_another_file(stats: dict[str, Any]) -> None:
    stats["files"].append("2025-09-04_messages_094500.json")


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    def edit(document: dict[str, Any]) -> None:
        del document[key]

    return edit


def _cut(path: Path) -> Path:
    return edit_bytes(path, lambda content: content[: len(content) // 2])


def _nan_message(path: Path) -> Path:
    return edit_bytes(path, lambda content: content.replace(b'"price":500.0', b'"price":NaN', 1))


_BROKEN: Final = InvalidSnapshotFile

LEVEL2_DAMAGES: Final = (
    _file(
        "snapshots",
        "text",
        "a text under the name of a parquet file",
        "not-parquet",
        lambda path: put_bytes(path, b"timestamp,bid_prices\n"),
        _BROKEN,
    ),
    _file("snapshots", "zero-bytes", "no bytes at all", "empty-file", lambda path: put_bytes(path, b""), _BROKEN),
    _file("snapshots", "truncated", "the second half is gone, and the footer with it", "not-parquet", _cut, _BROKEN),
    _file(
        "snapshots", "broken-page", "bits of a page flipped behind a sound footer", "unreadable", break_page, _BROKEN
    ),
    _file("snapshots", "gone", "the manifest says WRITE, the file is gone", "missing-file", remove, NotAvailable),
    _table("wrong-type", "sizes of 32 bits", "type", _narrow_sizes, _BROKEN),
    _table("missing-column", "no ask_sizes", "columns", lambda table: table.drop_columns("ask_sizes"), _BROKEN),
    _table("index-column", "an index column, as pandas writes it", "columns", _index_column, _BROKEN),
    _table("no-rows", "a file without rows", "no-rows", lambda table: table[:0], _BROKEN),
    _table("fewer-rows", "500 rows, the manifest says 600", "row-count", lambda table: table[:500]),
    _table("outside-window", "the last row is at the end of the window, which is exclusive", "window", _late),
    _table("other-symbol", "the footer is that of another symbol", "folder", _with_footer(symbol="NVDA"), _BROKEN),
    _table(
        "other-day", "the footer is that of another day", "name", _with_footer(session_date=date(2025, 9, 5)), _BROKEN
    ),
    _table("other-version", "the footer says v2", "schema-version", _other_version, UnknownSchemaVersion),
    _values("null-in-list", "a null in a list", "null", _null_in_list, _BROKEN),
    _values("null-time", "a null timestamp", "null", _null_time, _BROKEN),
    _values("short-list", "a list of nine levels among lists of ten", "length", _short_list, _BROKEN),
    _values("nan-price", "a NaN as price", "not-finite", _nan_price),
    _values("negative-size", "a negative size", "negative-size", _negative_size),
    _values("missing-inside", "a missing level before a present one", "missing-inside", _missing_inside),
    _values("price-without-size", "a price without a size", "missing-level", _no_size),
    _values("worst-first", "bids that rise from level to level", "price-order", _worst_first),
    _values("unsorted", "two rows in the wrong order", "timestamp-order", _swap_times, _BROKEN),
    _values("off-grid", "a time between two grid points", "grid", _off_grid),
    _values("short-time", "a timestamp of another layout", "timestamp", _short_time, _BROKEN),
    Damage(
        name="snapshots-not-shifted",
        artifact="snapshots",
        description="rows of a book in which an add overwrites its level, so that the messages replay to others",
        rule="replay",
        apply=_not_shifted,
    ),
    _document("messages", "lost", "a message in the middle is lost", "replay", _lose_one),
    _document("messages", "unsorted", "two messages in the wrong order", "timestamp-order", _swap_messages),
    _document("messages", "other-symbol", "a message of another symbol", "symbol", _other_symbol),
    _document("messages", "fractional-size", "a size of 1.5", "model", _fractional_size, InvalidDocument),
    _document("messages", "object", "an object, not an array", "model", lambda found: found[0], InvalidDocument),
    _file("messages", "torn", "the second half is gone", "json", _cut, InvalidDocument),
    _file("messages", "nan", "a NaN as price", "nan", _nan_message, InvalidDocument),
    _file("messages", "gone", "the snapshots are there, their messages are not", "pair", remove),
    _document("session_stats", "snapshots-count", "one snapshot too many", "row-count", _add_to("num_snapshots")),
    _document("session_stats", "messages-count", "one message too many", "row-count", _add_to("num_messages")),
    _document("session_stats", "gaps-count", "a gap record too many", "gap-count", _add_to("gaps")),
    _document("session_stats", "file-gone", "a file that is not there", "missing-file", _list_another_file),
    _document("session_stats", "no-symbol", "no symbol", "schema", _without("symbol"), InvalidDocument),
    _file("session_stats", "torn", "the second half is gone", "json", _cut, InvalidDocument),
)

"""Kinds of damage to bars files and to the coverage."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from contracts.errors import ContractError, InvalidBarsFile, InvalidDocument, UnknownSchemaVersion
from contracts.testing._backfill import SAMPLE_SYMBOL
from contracts.testing._bars import BARS_DAY, BARS_HALF_DAY, sample_bars
from contracts.testing._damage import (
    Columns,
    Damage,
    break_page,
    edit_bytes,
    edit_columns,
    edit_json,
    edit_table,
    put_bytes,
    remove,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_ROW: Final = 100
"""The bar that is damaged, in the middle of the file; it has trades."""


def _file(
    name: str,
    description: str,
    rule: str,
    edit: Callable[[Path], Path],
    error: type[ContractError] | None = None,
) -> Damage:
    """Return a damage to the minute bars of `BARS_DAY`; without `error` only the validator tells."""
    return Damage(
        name=f"bars-{name}",
        artifact="bars",
        description=description,
        rule=rule,
        apply=lambda root: edit(root.bars_path("1 min", SAMPLE_SYMBOL, BARS_DAY)),
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
    return _file(name, description, rule, lambda path: edit_columns(path, edit), error)


def _table(
    name: str,
    description: str,
    rule: str,
    edit: Callable[[pa.Table], pa.Table],
    error: type[ContractError] | None = None,
) -> Damage:
    return _file(name, description, rule, lambda path: edit_table(path, edit), error)


def _coverage(
    name: str,
    description: str,
    rule: str,
    edit: Callable[[Any], object],
    error: type[ContractError] | None = None,
    *,
    is_old_form: bool = False,
) -> Damage:
    """Return a damage to the coverage, by its parsed form."""
    return Damage(
        name=f"bars-coverage-{name}",
        artifact="bars_coverage",
        description=description,
        rule=rule,
        apply=lambda root: edit_json(root.bars_coverage, edit),
        severity="warning" if is_old_form else "error",
        outcome="reads" if error is None else "raises",
        error=error,
    )


def _set(column: str, value: float | None) -> Callable[[Columns], None]:
    def edit(columns: Columns) -> None:
        columns[column][_ROW] = value

    return edit


def _footer(key: bytes, value: bytes) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.replace_schema_metadata({**table.schema.metadata, key: value})


def _swap_times(columns: Columns) -> None:
    times = columns["timestamp"]
    times[_ROW], times[_ROW + 1] = times[_ROW + 1], times[_ROW]


def _narrow_count(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("barCount")
    return table.set_column(at, "barCount", table.column("barCount").cast(pa.int32()))


def _two_days(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table[:-1], sample_bars("1 min", BARS_HALF_DAY, rows=1)])


def _cut(path: Path) -> Path:
    return edit_bytes(path, lambda content: content[: len(content) // 2])


def _reverse_entries(coverage: dict[str, Any]) -> None:
    coverage["entries"].reverse()


def _reverse_days(coverage: dict[str, Any]) -> None:
    coverage["entries"][1]["days"].reverse()


def _more_in_total(coverage: dict[str, Any]) -> None:
    coverage["entries"][1]["total"]["rows"] = 600


def _wrong_total(coverage: dict[str, Any]) -> None:
    coverage["entries"][1]["total"]["date_end"] = "2025-12-31"


def _another_day(coverage: dict[str, Any]) -> None:
    """List a file of the day between the two, Thanksgiving, of which there is none."""
    days = coverage["entries"][1]["days"]
    first, missing = BARS_DAY.isoformat(), "2025-11-27"
    more = {key: value.replace(first, missing) if isinstance(value, str) else value for key, value in days[0].items()}
    days.insert(1, more)


def _lose_day(coverage: dict[str, Any]) -> None:
    entry = coverage["entries"][1]
    entry["total"]["date_end"] = entry["total"]["date_start"]
    del entry["days"][1]


def _naive(coverage: dict[str, Any]) -> None:
    coverage["generated_at"] = "2025-11-28T21:02:03"


def _version(version: str | None) -> Callable[[dict[str, Any]], None]:
    def edit(coverage: dict[str, Any]) -> None:
        del coverage["schema_version"]
        if version is not None:
            coverage["schema_version"] = version

    return edit


_BROKEN: Final = InvalidBarsFile

BARS_DAMAGES: Final = (
    _file(
        "text",
        "a text under the name of a parquet file",
        "not-parquet",
        lambda path: put_bytes(path, b"time,open\n"),
        _BROKEN,
    ),
    _file("zero-bytes", "no bytes at all", "empty-file", lambda path: put_bytes(path, b""), _BROKEN),
    _file("truncated", "the second half is gone, and the footer with it", "not-parquet", _cut, _BROKEN),
    _file("broken-page", "bits of a page flipped behind a sound footer", "unreadable", break_page, _BROKEN),
    _file("gone", "manifest and coverage list the file, it is gone", "missing-file", remove, _BROKEN),
    _table("wrong-type", "barCount of 32 bits", "type", _narrow_count, _BROKEN),
    _table("missing-column", "no WAP", "columns", lambda table: table.drop_columns("WAP"), _BROKEN),
    _table("fewer-rows", "300 bars, the manifest says 390", "row-count", lambda table: table[:300], _BROKEN),
    _table("other-symbol", "a footer of another symbol", "footer", _footer(b"symbol", b"ZZZZ")),
    _table("odd-footer", "a footer that is no yes or no", "footer", _footer(b"complete", b"perhaps")),
    _table(
        "other-version",
        "it says v2",
        "schema-version",
        _footer(b"schema_version", b"bars.v2"),
        UnknownSchemaVersion,
    ),
    replace(_table("two-days", "the last bar is one of another day", "day", _two_days), outcome="leaves out"),
    _values("null-close", "a null close", "null", _set("close", None), _BROKEN),
    _values("nan-open", "a NaN open", "not-finite", _set("open", float("nan"))),
    _values("high-below-low", "a high below open, close and low", "ohlc", _set("high", 1.0)),
    _values("negative-volume", "a negative volume", "negative-volume", _set("volume", -1.0)),
    _values("unsorted", "two bars in the wrong order", "timestamp-order", _swap_times, _BROKEN),
)

COVERAGE_DAMAGES: Final = (
    _coverage("unsorted", "entries not sorted by symbol and bar size", "entry-order", _reverse_entries),
    _coverage("days-unsorted", "days not sorted by date", "day-order", _reverse_days),
    _coverage("total-more-keys", "a key too many in a total", "schema", _more_in_total, InvalidDocument),
    _coverage("total-wrong", "a total that ends after the last day", "total", _wrong_total),
    _coverage("file-gone", "a day whose file is not there; the other days load", "missing-file", _another_day),
    _coverage("unlike-ledger", "a day of the manifest is not listed", "derivation", _lose_day),
    _coverage("naive-time", "a time without zone, as old ones have it", "old-time", _naive, is_old_form=True),
    _coverage("other-version", "it says v2", "schema-version", _version("bars_coverage.v2"), UnknownSchemaVersion),
    _coverage("no-version", "it says no version", "schema-version", _version(None), UnknownSchemaVersion),
    Damage(
        name="bars-coverage-torn",
        artifact="bars_coverage",
        description="the second half is gone",
        rule="json",
        apply=lambda root: _cut(root.bars_coverage),
        outcome="raises",
        error=InvalidDocument,
    ),
)

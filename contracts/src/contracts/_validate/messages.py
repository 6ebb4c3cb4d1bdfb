"""Checks of a depth messages file, in bounded memory whatever its size; used through `contracts.validate`.

The array is read as `contracts.book` reads it. A block of records whose columns are plainly sound passes at once; any
other one is checked record by record through the model, which names the fault.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
from pydantic import ValidationError

from contracts._json import NotJson
from contracts._replay.file import read_records
from contracts._validate.documents import BOM, JSON_HINTS, has_version
from contracts._validate.level2 import check_symbol_folder, level2_name
from contracts._validate.parquet import day_bounds_ns
from contracts._validate.seen import FileFacts
from contracts.errors import InvalidDocument, shown
from contracts.timestamps import ns_from_iso_utc, ns_from_text
from contracts.v1._model import invalid_document, json_type
from contracts.v1.depth_messages import SCHEMA_VERSION, DepthMessage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from contracts._validate.findings import Collector
    from contracts._validate.seen import Target

_READ_BYTES: Final = 1 << 20
_SMALL_BYTES: Final = 1 << 17
_BLOCK_RECORDS: Final = 4096
_MOST: Final = 2**63 - 1
_HINT: Final = f"Write {SCHEMA_VERSION}."


def check_messages(target: Target) -> int:
    """Check a messages file; returns its number of records, 0 when they were not counted.

    Without `full` a file of more than 128 KiB is looked at only at its beginning and end.

    Raises:
        OSError: The file cannot be read.
    """
    findings = target.findings
    facts = target.seen.files[target.place] = FileFacts(target.path)
    name = level2_name(target.path)
    if name is None:
        findings.add("name", "the file name is not in the grammar", "See contracts.layout.", severity="warning")
    folder = check_symbol_folder(target.path, findings)
    if target.path.stat().st_size == 0:
        findings.add("json", "the file has no bytes", "Remove it; its writer was interrupted.")
        return 0
    if not target.full and target.path.stat().st_size > _SMALL_BYTES:
        _check_ends(target.path, findings)
        return 0
    records = _Records(folder, None if name is None else day_bounds_ns(name.day), findings)
    for block in _blocks(target.path, findings):
        records.check(block)
    if not findings.errors:
        _check_layout(target.path, records.count, findings)
        facts.rows = records.count
        facts.is_sound = True
    return records.count


def _blocks(path: Path, findings: Collector) -> Iterator[list[Any]]:
    """Yield the records in blocks up to the first place that is not standard JSON, which is a finding."""
    with path.open("rb") as file:
        head = file.read(_READ_BYTES)
    if not _begins_array(head, findings):
        return
    records = read_records(path, SCHEMA_VERSION)
    block: list[Any] = []
    try:
        for record in records:
            block.append(record)
            if len(block) == _BLOCK_RECORDS:
                yield block
                block = []
    except InvalidDocument as error:
        if block:
            yield block
        # What the parser met tells more than the reader's error does.
        cause = error.__context__
        rule = cause.rule if isinstance(cause, NotJson) else "utf8" if isinstance(cause, UnicodeDecodeError) else "json"
        findings.add(rule, f"{error.reason}; the rest is not looked at", JSON_HINTS[rule], row=error.row)
    else:
        if block:
            yield block


class _Records:
    """The checks of all records of one file.

    Args:
        symbol: Of the folder; None: that of the first record.
        bounds: Nanoseconds since 1970 in which the records lie, end exclusive; None when nothing says.
        findings: Where to put what is wrong.

    Attributes:
        count: Records seen.
    """

    def __init__(self, symbol: str | None, bounds: tuple[int, int] | None, findings: Collector) -> None:
        self.count = 0
        self._symbol = symbol
        self._bounds = bounds
        self._findings = findings
        self._last_ns = -(2**63)

    def check(self, block: list[Any]) -> None:
        """Check the next records."""
        ns = self._sound_times(block)
        if ns is None or not self._in_order(ns):
            for record in block:
                self._check_record(record)
                self.count += 1
            return
        self._last_ns = int(ns[-1])
        self.count += len(block)

    def _sound_times(self, block: list[Any]) -> npt.NDArray[np.int64] | None:
        """Return the times of a block, ns; None when a record is not plainly sound: then the model must judge."""
        try:
            if any("schema_version" in record for record in block):
                return None
            texts, operations, sides, levels, prices, sizes, symbols = (
                [record[key] for record in block]
                for key in ("timestamp", "operation", "side", "level", "price", "size", "symbol")
            )
            plain = (
                set(operations) <= {"add", "update", "remove"}
                and set(sides) <= {"bid", "ask"}
                and set(symbols) == {self._symbol}
                and set(map(type, levels)) == set(map(type, sizes)) == {int}
                and set(map(type, prices)) <= {float, int}
                and min(levels) >= 0
                and min(sizes) >= 0
                and max(levels) <= _MOST
                and max(sizes) <= _MOST
                and max(prices) <= _MOST
                and min(prices) >= -_MOST
            )
            return ns_from_iso_utc(pa.array(texts, pa.string())) if plain else None
        except (KeyError, TypeError, InvalidDocument, pa.ArrowException, UnicodeError):
            return None

    def _in_order(self, ns: npt.NDArray[np.int64]) -> bool:
        if self._bounds is not None and (int(ns.min()) < self._bounds[0] or int(ns.max()) >= self._bounds[1]):
            return False
        return int(ns[0]) >= self._last_ns and bool((ns[1:] >= ns[:-1]).all())

    def _check_record(self, record: Any) -> None:
        row, findings = self.count, self._findings
        if not isinstance(record, dict):
            findings.add("model", f"it is a JSON {json_type(record)}, not an object", _HINT, row=row)
            return
        # A message need not name its version; null is that too.
        if record.get("schema_version") is not None and not has_version(record, SCHEMA_VERSION, findings, row=row):
            return
        try:
            message = DepthMessage.model_validate(record)
        except ValidationError as error:
            fault = invalid_document(SCHEMA_VERSION, error)
            findings.add("model", fault.reason, _HINT, row=row, field=fault.field)
            return
        self._symbol = self._symbol or message.symbol
        if message.symbol != self._symbol:
            text = f"the symbol is {message.symbol}, not {self._symbol}"
            findings.add("symbol", text, "One symbol per file, that of the folder.", row=row, field="symbol")
        ns = ns_from_text(message.timestamp)
        if ns < self._last_ns:
            text = f"{shown(message.timestamp)} is before the record above"
            findings.add("timestamp-order", text, "Records stand in the order of receipt.", row=row, field="timestamp")
        if self._bounds is not None and not self._bounds[0] <= ns < self._bounds[1]:
            text = f"{shown(message.timestamp)} is not on the ET day of the name"
            findings.add("day", text, "A file holds one ET day.", row=row, field="timestamp")
        self._last_ns = max(self._last_ns, ns)


def _check_ends(path: Path, findings: Collector) -> None:
    """Look at the beginning and the end of a large file only: whether the array was opened and closed."""
    with path.open("rb") as file:
        head = file.read(_SMALL_BYTES)
        file.seek(-min(_SMALL_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
        tail = file.read(_SMALL_BYTES)
    if _begins_array(head, findings) and not tail.rstrip(b" \t\r\n").endswith(b"]"):
        findings.add("json", "the file ends in the array", "Its writer was interrupted: recover the session.")


def _begins_array(head: bytes, findings: Collector) -> bool:
    if head.startswith(BOM):
        findings.add("bom", "it starts with a byte order mark", JSON_HINTS["bom"])
        return False
    if not head.lstrip(b" \t\r\n").startswith(b"["):
        findings.add("model", "it is not a JSON array", _HINT)
        return False
    return True


def _check_layout(path: Path, records: int, findings: Collector) -> None:
    """Warn when records and lines are not the same, or lines end as on Windows."""
    lines = 0
    has_crlf = False
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            lines += block.count(b"\n")
            has_crlf = has_crlf or b"\r\n" in block
    if has_crlf:
        findings.add("crlf", "lines end with CR LF", "End lines with LF.", severity="warning")
    # An opening line, one per record, and a closing one that may be without its end.
    if records > 1 and not records + 1 <= lines <= records + 2:
        message, hint = f"{records} records on {lines} lines", "Write one record per line inside the array."
        findings.add("layout", message, hint, severity="warning")

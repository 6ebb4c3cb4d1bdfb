"""Every kind of file that can be checked: what it is called, where it lies, and which function checks it.

This is the table to begin with. A file's kind is told by its name and place, and that of a single file of another name
by its content.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from contracts._validate.bars import check_bars, is_bars_place
from contracts._validate.bars_documents import check_bars_coverage, check_bars_manifest
from contracts._validate.documents import BOM, check_backfill_summary, check_session_stats, check_symbol_mapping
from contracts._validate.level2 import check_events, check_snapshots, level2_name
from contracts._validate.lines import check_backfill_manifest, check_gaps
from contracts._validate.messages import check_messages
from contracts.errors import InvalidDocument
from contracts.v1 import backfill, bars, depth_messages, gaps, level2, level2_events, session_stats, symbol_mapping
from contracts.v1.bars import BAR_SCHEMA
from contracts.v1.level2_events import EVENTS_SCHEMA
from contracts.v1.symbol_mapping import SymbolMapping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from contracts._validate.seen import Target


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: A stable word for programs; those of Level-2 files are the words of their names.
        place: Where such files lie below a data root.
        version: The `schema_version` of the documents, lines or footers.
        check: Checks one file; returns its rows, records or lines, raises OSError when it cannot be read.
        keys: Keys that only documents or lines of this kind have together.
    """

    name: str
    place: str
    version: str
    check: Callable[[Target], int]
    keys: frozenset[str] = frozenset()


_LEVEL2: Final = "level2/SYMBOL/"

KINDS: Final = (
    Kind("snapshots", f"{_LEVEL2}YYYY-MM-DD_snapshots_HHMMSS|source.parquet", level2.SCHEMA_VERSION, check_snapshots),
    Kind("events", f"{_LEVEL2}YYYY-MM-DD_events_source.parquet", level2_events.SCHEMA_VERSION, check_events),
    Kind("messages", f"{_LEVEL2}YYYY-MM-DD_messages_HHMMSS.json", depth_messages.SCHEMA_VERSION, check_messages),
    Kind(
        "session_stats",
        f"{_LEVEL2}session_stats_YYYYMMDD_HHMMSS.json",
        session_stats.SCHEMA_VERSION,
        check_session_stats,
        frozenset({"num_snapshots", "num_messages"}),
    ),
    Kind(
        "backfill_manifest",
        "backfill_l2_manifest.jsonl",
        backfill.MANIFEST_VERSION,
        check_backfill_manifest,
        frozenset({"symbol", "date", "status"}),
    ),
    Kind(
        "backfill_summary",
        "backfill_l2_summary.json",
        backfill.SUMMARY_VERSION,
        check_backfill_summary,
        frozenset({"counts", "total_tasks"}),
    ),
    Kind("gaps", "l2_gaps.jsonl", gaps.SCHEMA_VERSION, check_gaps, frozenset({"gap_start", "gap_end"})),
    Kind("bars", "bars/hour|minute|second/SYMBOL/YYYY-MM-DD.parquet", "", check_bars),
    Kind(
        "bars_manifest",
        "bars_download_manifest.jsonl",
        bars.MANIFEST_VERSION,
        check_bars_manifest,
        frozenset({"bar_size", "path", "rows"}),
    ),
    Kind(
        "bars_coverage",
        "bars_coverage_manifest.json",
        bars.COVERAGE_VERSION,
        check_bars_coverage,
        frozenset({"generated_at", "entries"}),
    ),
    Kind("symbol_mapping", symbol_mapping.FILENAME, symbol_mapping.SCHEMA_VERSION, check_symbol_mapping),
)
"""All kinds. Cross-checks of whole data roots, which need more than one file, are in the `promises` modules."""

_OF_NAME: Final = {kind.name: kind for kind in KINDS}
_OF_FILENAME: Final = {kind.place: kind for kind in KINDS}
_READ_BYTES: Final = 1 << 20
_LARGEST_BYTES: Final = 1 << 28
_FIRST_LINES: Final = 20


def kind_by_name(path: Path) -> Kind | None:
    """Tell the kind of a file by its name and place alone; nothing is read."""
    kind = _OF_FILENAME.get(path.name)
    if kind is not None:
        return kind
    if is_bars_place(path):
        return _OF_NAME["bars"]
    name = level2_name(path)
    return None if name is None else _OF_NAME[name.kind]


def kind_by_content(path: Path) -> Kind | None:
    """Tell the kind of a file of a foreign name by what is in it; None when it is of no kind.

    Parquet by its columns, and as snapshots when they are of no kind or cannot be read; `.json` as messages when it is
    an array, else by `schema_version` or its keys; `.jsonl` likewise by its first whole lines.

    Raises:
        OSError: The file cannot be read.
    """
    if path.suffix == ".parquet":
        return _OF_NAME[_kind_of_columns(path)]
    if path.suffix == ".jsonl":
        return _of_texts(_first_lines(path))
    if path.suffix == ".json":
        with path.open("rb") as file:
            head = file.read(_READ_BYTES)
            if head.removeprefix(BOM).lstrip(b" \t\r\n").startswith(b"["):
                return _OF_NAME["messages"]
            return _of_texts([head + file.read(_LARGEST_BYTES)])
    return None


def _kind_of_columns(path: Path) -> str:
    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return "snapshots"
    kinds = (("events", EVENTS_SCHEMA), ("bars", BAR_SCHEMA))
    return next((kind for kind, schema in kinds if names == schema.names), "snapshots")


def _of_texts(texts: Iterable[bytes]) -> Kind | None:
    """Return the kind of the first text that is a JSON object of one."""
    for text in texts:
        try:
            document = json.loads(text.removeprefix(BOM))
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict) and (kind := _of_document(document)) is not None:
            return kind
    return None


def _of_document(document: dict[str, Any]) -> Kind | None:
    # A version that is not known yet still names the artifact; the check then says that it is unknown.
    artifact = str(document.get("schema_version", "")).rpartition(".v")[0]
    for kind in KINDS:
        if artifact and artifact == kind.version.rpartition(".v")[0]:
            return kind
    if not artifact:
        for kind in KINDS:
            if kind.keys and kind.keys <= document.keys():
                return kind
        try:
            return _OF_NAME["symbol_mapping"] if SymbolMapping.from_document(document).root else None
        except InvalidDocument:
            return None
    return None


def _first_lines(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        lines = file.read(_READ_BYTES).splitlines(keepends=True)
    return [line for line in lines if line.endswith(b"\n")][:_FIRST_LINES]

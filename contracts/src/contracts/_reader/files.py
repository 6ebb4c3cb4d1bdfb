"""The snapshots files of a data root: found by name, known by their footers, and kept apart when they differ.

No row is read here; that is `rows`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import time
from itertools import groupby
from typing import TYPE_CHECKING, Final

from contracts._reader.parquet import FileIdentity, identity_of, opened
from contracts.errors import (
    InvalidDataRoot,
    InvalidDocument,
    InvalidName,
    InvalidSnapshotFile,
    InvalidSymbol,
    MixedData,
    UnknownSchemaVersion,
    shown,
)
from contracts.layout import Level2Name, parse_level2_name
from contracts.symbols import canonical_symbol
from contracts.v1.level2 import SNAPSHOT_SCHEMA, SnapshotMetadata

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import date
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.parquet as pq

    from contracts.layout import DataRoot

LIVE_SOURCE: Final = "ibkr"
"""The source of files with a time stamp in their name; the others have their source there."""

LIST_COLUMNS: Final = tuple(SNAPSHOT_SCHEMA.names[1:])
_UNKNOWN: Final = "unknown"
_MOST_LEVELS: Final = 1000
"""Up to here the footer is believed until rows are read; memory for more is taken only when they are there."""


@dataclass(frozen=True)
class SnapshotsFile:
    """One Level-2 snapshots file, as its name and its footer say.

    Attributes:
        path: Where.
        symbol: Canonical symbol.
        day: The ET trading day.
        source: `ibkr` for a live file, else the source tag of the name, such as `databento`.
        stamp: ET wall clock of the first row, whole seconds; None for historical files.
        rows: Number of rows.
        metadata: The footer's metadata; None in old files, which have none.
        levels: N, price levels per side.
        identity: Which state of the file this is about; reading another one is refused.
    """

    path: Path
    symbol: str
    day: date
    source: str
    stamp: time | None
    rows: int
    metadata: SnapshotMetadata | None = field(repr=False)
    levels: int
    identity: FileIdentity = field(repr=False)


@dataclass(frozen=True)
class FoundName:
    """A file that is a snapshots file by its name.

    Attributes:
        path: Where.
        symbol: Canonical symbol.
        name: The parsed name.
    """

    path: Path
    symbol: str
    name: Level2Name

    @property
    def source(self) -> str:
        """Where its rows come from."""
        return self.name.source_tag or LIVE_SOURCE

    @property
    def sort_key(self) -> tuple[date, str, time]:
        """By day, then source, then time."""
        return self.name.day, self.source, self.name.stamp or time()


def find_names(roots: Sequence[DataRoot], symbol: str) -> list[FoundName]:
    """Return the snapshots files of a symbol by their names, sorted by day, source and time.

    A file that is reached by several ways comes once; of files with one name in several Level-2 folders the one of the
    best root counts. Temporary files of writers and names outside the grammar are passed over.

    Raises:
        InvalidDataRoot: A folder is there but cannot be listed.
    """
    found: dict[str, FoundName] = {}
    places = set()
    for root in roots:
        for path in _listing(root.level2_dir / symbol):
            name = _snapshots_name(path.name)
            if name is None or path.name in found:
                continue
            place = os.path.realpath(path)
            if place not in places:
                places.add(place)
                found[path.name] = FoundName(path, symbol, name)
    return sorted(found.values(), key=lambda file: file.sort_key)


def find_symbols(roots: Sequence[DataRoot]) -> list[str]:
    """Return the symbols that have a folder with at least one snapshots file by its name, sorted.

    Raises:
        InvalidDataRoot: As `find_names`.
    """
    names = {path.name for root in roots for path in _listing(root.level2_dir) if _is_symbol_folder(path)}
    folders = ((name, root.level2_dir / name) for name in names for root in roots)
    return sorted({name for name, folder in folders if any(_snapshots_name(path.name) for path in _listing(folder))})


class Footers:
    """Reads footers, each state of a file once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Path], SnapshotsFile] = {}

    def describe(self, found: FoundName) -> SnapshotsFile:
        """Return what the footer says.

        Raises:
            InvalidSnapshotFile: It is no snapshots file, or one of another symbol or day.
            UnknownSchemaVersion: It is of a version this package does not read.
        """
        key = found.symbol, found.path
        known = self._known.get(key)
        if known is None or known.identity != identity_of(found.path, InvalidSnapshotFile):
            known = self._known[key] = describe(found)
        return known

    def readable(self, found: Collection[FoundName]) -> list[SnapshotsFile]:
        """Return those that are snapshots files of a version this package reads."""
        files = []
        for name in found:
            try:
                files.append(self.describe(name))
            except (InvalidSnapshotFile, UnknownSchemaVersion):
                continue
        return files


def differences(files: Sequence[SnapshotsFile]) -> dict[str, list[str]]:
    """Return what must not be mixed unasked, and the values found where there is more than one.

    What an old file without metadata does not say is a value of its own: old files go together, but not with new ones.
    """
    values = {
        "source": [file.source for file in files],
        "book_scope": [_scope(file.metadata) for file in files],
        "interval_ms": [_UNKNOWN if file.metadata is None else str(file.metadata.interval_ms) for file in files],
        "levels": [str(file.levels) for file in files],
    }
    distinct = {name: sorted(set(found)) for name, found in values.items()}
    return {name: found for name, found in distinct.items() if len(found) > 1}


def refuse_mixed(files: Sequence[SnapshotsFile], *, sources_asked: bool) -> None:
    """Refuse files whose rows mean different things.

    Args:
        files: What is to be loaded as one.
        sources_asked: The caller named the sources, so several of them are meant.

    Raises:
        MixedData: They differ; says in what.
    """
    differing = differences(files)
    if sources_asked:
        differing.pop("source", None)
    if differing:
        raise MixedData(differing)


def by_day_and_source(files: Sequence[SnapshotsFile]) -> Iterator[list[SnapshotsFile]]:
    """Yield the segments of each day and source."""
    for _, group in groupby(files, key=lambda file: (file.day, file.source)):
        yield list(group)


def _scope(metadata: SnapshotMetadata | None) -> str:
    if metadata is None:
        return _UNKNOWN
    return json.dumps(metadata.book_scope.to_document(), sort_keys=True, separators=(",", ":"))


def _listing(folder: Path) -> list[Path]:
    """Return what lies in a folder; nothing when there is no such folder."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InvalidDataRoot(folder, f"it cannot be listed ({error.strerror or error})") from error


def _is_symbol_folder(path: Path) -> bool:
    try:
        return canonical_symbol(path.name) == path.name and path.is_dir()
    except InvalidSymbol:
        return False


def _snapshots_name(filename: str) -> Level2Name | None:
    try:
        name = parse_level2_name(filename)
    except InvalidName:
        return None
    return name if name.kind == "snapshots" else None


def describe(found: FoundName) -> SnapshotsFile:
    """Return what the footer of a file says.

    Raises:
        InvalidSnapshotFile: It is no snapshots file, or one of another symbol or day.
        UnknownSchemaVersion: It is of a version this package does not read.
    """
    path = found.path
    identity = identity_of(path, InvalidSnapshotFile)
    with opened(path, identity, InvalidSnapshotFile) as file:
        rows = _check_footer(path, file)
        metadata = _metadata(path, file.schema_arrow)
        told = 0 if metadata is None else metadata.levels
        levels = told if 0 < told <= _MOST_LEVELS else _first_length(file)
    if metadata is not None:
        _check_place(found, metadata)
    if levels < 1 or told not in (0, levels):
        raise InvalidSnapshotFile(path, f"row 0, field bid_prices: the list has {levels} values")
    return SnapshotsFile(
        path, found.symbol, found.name.day, found.source, found.name.stamp, rows, metadata, levels, identity
    )


def _check_footer(path: Path, file: pq.ParquetFile) -> int:
    """Check the columns; returns the number of rows, of which there is at least one."""
    schema, footer = file.schema_arrow, file.metadata
    if schema.names != SNAPSHOT_SCHEMA.names:
        names = ", ".join(SNAPSHOT_SCHEMA.names)
        raise InvalidSnapshotFile(path, f"the columns are {shown(', '.join(schema.names))}, not {names}")
    for column in schema:
        wanted = SNAPSHOT_SCHEMA.field(column.name).type
        if column.type != wanted:
            raise InvalidSnapshotFile(path, f"field {column.name}: the type is {column.type}, not {wanted}")
    rows = int(footer.num_rows)
    if rows == 0:
        raise InvalidSnapshotFile(path, "it has no rows")
    # Nothing is asked about the column chunks: pyarrow ends the process when their metadata are damaged.
    if rows != sum(footer.row_group(group).num_rows for group in range(footer.num_row_groups)):
        raise InvalidSnapshotFile(path, "its footer contradicts itself about the number of rows")
    return rows


def _metadata(path: Path, schema: pa.Schema) -> SnapshotMetadata | None:
    try:
        return SnapshotMetadata.from_footer(schema.metadata)
    except UnknownSchemaVersion as error:
        raise UnknownSchemaVersion(error.found, error.known, path=path) from None
    except InvalidDocument as error:
        place = f"field {error.field} of " if error.field else ""
        raise InvalidSnapshotFile(path, f"{place}the footer's metadata: {error.reason}") from error


def _first_length(file: pq.ParquetFile) -> int:
    """Return the length of the first list; the others are held against it when they are read."""
    for batch in file.iter_batches(1, columns=["bid_prices"], use_threads=False):
        return len(batch.column(0)[0].as_py() or ())
    return 0


def _check_place(found: FoundName, metadata: SnapshotMetadata) -> None:
    if metadata.symbol != found.symbol:
        raise InvalidSnapshotFile(found.path, f"its footer says {metadata.symbol}, it lies with {found.symbol}")
    if metadata.session_date != found.name.day:
        raise InvalidSnapshotFile(found.path, f"its footer says the day is {metadata.session_date.isoformat()}")

"""What the snapshots files of a symbol hold, for judging days; found and opened as the reader does."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from contracts._reader.files import LIVE_SOURCE, FoundName, describe, find_names
from contracts._reader.parquet import opened
from contracts.errors import (
    InvalidDataRoot,
    InvalidDocument,
    InvalidSnapshotFile,
    UnknownSchemaVersion,
    shown,
)
from contracts.follow import Skipped
from contracts.layout import DataRoot
from contracts.sessions import ET
from contracts.timestamps import ns_from_iso_utc

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import date, time

    import pyarrow.parquet as pq

    from contracts._reader.files import SnapshotsFile
    from contracts.v1.level2 import SnapshotMetadata

__all__ = ["LIVE_SOURCE", "SnapshotsFacts", "find_snapshots"]

_STYLES: Final = ("level2", "Level2")


@dataclass(frozen=True)
class SnapshotsFacts:
    """A snapshots file as its name and footer describe it.

    Attributes:
        path: Where it lies.
        day: The ET trading day of its name.
        source: `ibkr` for live files, else the source tag of its name.
        stamp: ET wall clock of the name, for live files.
        rows: Rows by the footer.
        metadata: The footer's metadata; None when it has none, as old files.
        first_ns: Earliest timestamp, nanoseconds since 1970-01-01 UTC; None when `fault` is set.
        last_ns: Latest timestamp, likewise.
        holes_ns: Times without rows inside a sampled file, start and end in nanoseconds, where its grid has points.
        fault: Why it cannot be read as a snapshots file of that symbol and day, or None.
    """

    path: Path
    day: date
    source: str
    stamp: time | None = None
    rows: int = 0
    metadata: SnapshotMetadata | None = None
    first_ns: int | None = None
    last_ns: int | None = None
    holes_ns: tuple[tuple[int, int], ...] = ()
    fault: str | None = None


def find_snapshots(
    roots: Sequence[DataRoot], symbol: str, start: date, end: date, sources: Collection[str] | None
) -> tuple[list[SnapshotsFacts], list[Skipped]]:
    """Return the snapshots files of a canonical symbol from `start` to `end`, sorted by name, and what hid some.

    Looks in `level2`, `Level2` and the root's own Level-2 folder of each root. One file that is reached in several ways
    comes once; of files with the same name in several folders only the one of the best root does, the others are
    copies.
    """
    places = [DataRoot(root.path, name) for root in roots for name in (root.level2_dirname, *_STYLES)]
    troubles: list[Skipped] = []
    while True:
        try:
            names = find_names(places, symbol)
            break
        except InvalidDataRoot as error:
            folder = Path(error.value)
            troubles.append(Skipped(folder, 0, 0, error.reason))
            places = [place for place in places if place.level2_dir / symbol != folder]
    asked = [
        found for found in names if start <= found.name.day <= end and (sources is None or found.source in sources)
    ]
    facts = (read_facts(found) for found in sorted(asked, key=lambda found: found.path.name))
    return [fact for fact in facts if fact is not None], troubles


def read_facts(found: FoundName) -> SnapshotsFacts | None:
    """Return what a file's footer and its first and last row say; None when the file is gone."""
    facts = SnapshotsFacts(found.path, found.name.day, found.source, found.name.stamp)
    try:
        file = describe(found)
        with opened(file.path, file.identity, InvalidSnapshotFile) as parquet:
            _check_first_list(file.path, parquet, file.levels)
            ends = _first_and_last_ns(parquet)
            holes = _grid_holes(parquet, file, ends)
    except InvalidSnapshotFile as error:
        return replace(facts, fault=error.reason) if os.path.lexists(found.path) else None
    except UnknownSchemaVersion as error:
        return replace(facts, fault=f"schema_version {shown(error.found)} is unknown")
    except InvalidDocument as error:
        return replace(facts, fault=f"timestamps: {error.reason}")
    if ends[0] > ends[1]:
        return replace(facts, fault="its last row is before its first")
    for ns in ends:
        day = datetime.fromtimestamp(ns // 10**9, ET).date()
        if day != facts.day:
            return replace(facts, fault=f"it has a row of {day.isoformat()} (ET)")
    return replace(facts, rows=file.rows, metadata=file.metadata, first_ns=ends[0], last_ns=ends[1], holes_ns=holes)


def _check_first_list(path: Path, file: pq.ParquetFile, levels: int) -> None:
    for batch in file.iter_batches(1, columns=["bid_prices"], use_threads=False):
        found = len(batch.column(0)[0].as_py() or ())
        if found != levels:
            raise InvalidSnapshotFile(path, f"the footer says levels {levels}, the first list has {found}")
        break


def _grid_holes(file: pq.ParquetFile, told: SnapshotsFile, ends: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Return where a sampled file has no rows between its ends; times are read only when their number says so.

    Raises:
        InvalidDocument: A timestamp is not one.
    """
    step = 0 if told.metadata is None else told.metadata.interval_ms * 1_000_000
    if step == 0 or told.rows >= (ends[1] - ends[0]) // step + 1:
        return ()
    ns = ns_from_iso_utc(file.read(columns=["timestamp"]).column(0))
    before = np.flatnonzero(np.diff(ns) > step)
    return tuple((int(ns[at]) + step, int(ns[at + 1])) for at in before)


def _first_and_last_ns(file: pq.ParquetFile) -> tuple[int, int]:
    """Return the first and the last timestamp, read from the rows: pyarrow dies of damaged statistics.

    Raises:
        InvalidDocument: A timestamp is not one.
    """
    groups = [group for group in range(file.num_row_groups) if file.metadata.row_group(group).num_rows]
    ends = []
    for group, row in ((groups[0], 0), (groups[-1], -1)):
        column = file.read_row_group(group, columns=["timestamp"]).column(0)
        at = len(column) + row if row < 0 else row
        ends.append(int(ns_from_iso_utc(column.slice(at, 1))[0]))
    return ends[0], ends[1]

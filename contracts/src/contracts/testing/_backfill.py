"""Builders of what a Level-2 backfill leaves: snapshots, events, manifest lines, summary. Nothing is written here."""

from __future__ import annotations

from datetime import UTC, date, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from contracts.sessions import parse_window
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.backfill import BackfillCounts, BackfillManifestLine, BackfillSummary
from contracts.v1.level2 import DEFAULT_LEVELS, BookScope, SnapshotMetadata, snapshot_schema
from contracts.v1.level2_events import EventsMetadata, events_schema
from contracts.v1.quality import Quality

if TYPE_CHECKING:
    from pathlib import Path

    from contracts.v1._footer import Source

SAMPLE_DAY: Final = date(2025, 9, 4)
"""The ET day of the Level-2 samples, a Thursday."""

SAMPLE_SYMBOL: Final = "AAPL"
"""The symbol of the historical samples and of the bars."""

EMPTY_SYMBOL: Final = "BRK-B"
"""The symbol for which the sample run found no rows."""

SAMPLE_WINDOW: Final = "09:30-09:31"
SAMPLE_INTERVAL_MS: Final = 100
PRODUCER: Final = f"marketdata-contracts {version('marketdata-contracts')}"
WRITTEN_AT: Final = datetime(2025, 9, 5, 1, 2, 3, tzinfo=UTC)
RUN_ID: Final = "sample"


def sample_metadata(
    symbol: str = SAMPLE_SYMBOL,
    day: date = SAMPLE_DAY,
    *,
    window_et: str = SAMPLE_WINDOW,
    levels: int = DEFAULT_LEVELS,
    interval_ms: int = SAMPLE_INTERVAL_MS,
    source: Source = "databento",
) -> SnapshotMetadata:
    """Return the footer metadata of a snapshots file, with the book scope that the source has.

    Args:
        symbol: Canonical symbol.
        day: The ET day.
        window_et: ET wall clock of the rows, `HH:MM-HH:MM`.
        levels: N, levels per side.
        interval_ms: Milliseconds between rows; 0 is one row per event.
        source: `databento` or, for live capture, `ibkr`.
    """
    live = source == "ibkr"
    return SnapshotMetadata(
        symbol=symbol,
        source=source,
        levels=levels,
        interval_ms=interval_ms,
        session_date=day,
        window_et=window_et,
        book_scope=BookScope(
            venues=("SMART",) if live else ("XNAS",),
            odd_lots="excluded" if live else "included",
            time_basis="receive",
            levels=levels if live else DEFAULT_LEVELS,
        ),
        producer=PRODUCER,
    )


def sample_snapshots(metadata: SnapshotMetadata, rows: int | None = None) -> pa.Table:
    """Return a plausible book on every grid point of the metadata's window; events stand 100 ms apart.

    The last level of the bids is missing on every tenth row, as when a book is shallow; the spread is one cent.

    Args:
        metadata: What the file shall be; it comes with the table's schema.
        rows: Only so many rows from the start of the window; all by default.

    Returns:
        A table with the contract's columns, sorted by time.
    """
    start, end = parse_window(metadata.window_et).bounds_ns(metadata.session_date)
    ns = np.arange(start, end, (metadata.interval_ms or SAMPLE_INTERVAL_MS) * 1_000_000, dtype=np.int64)[:rows]
    steps = np.arange(metadata.levels)
    middle = 23_000 + (50 * np.sin(np.arange(len(ns)) / 40)).round().astype(np.int64)
    bids = (middle[:, None] - steps) / 100
    asks = (middle[:, None] + 1 + steps) / 100
    sizes = np.broadcast_to(100 * (steps + 1), bids.shape).astype(np.int64)
    bid_sizes = sizes.copy()
    bids[::10, -1] = 0.0
    bid_sizes[::10, -1] = 0
    columns = [iso_utc_from_ns(ns), list_column(bids), list_column(bid_sizes), list_column(asks), list_column(sizes)]
    return pa.table(columns, schema=snapshot_schema(metadata))


def sample_events_metadata(
    symbol: str = SAMPLE_SYMBOL, day: date = SAMPLE_DAY, *, window_et: str = SAMPLE_WINDOW
) -> EventsMetadata:
    """Return the footer metadata of an events file."""
    return EventsMetadata(symbol=symbol, source="databento", session_date=day, window_et=window_et, producer=PRODUCER)


def sample_events(metadata: EventsMetadata) -> pa.Table:
    """Return one event per second of the metadata's window, the first of them a clear, which has no price."""
    start, end = parse_window(metadata.window_et).bounds_ns(metadata.session_date)
    recv_ns = np.arange(start, end, 1_000_000_000, dtype=np.int64)
    rows = len(recv_ns)
    # Events happen at the venue a little before they are received.
    event_ns = recv_ns - 150_000
    price = 230 + np.arange(rows) % 7 / 100
    size = 100.0 * (1 + np.arange(rows) % 3)
    actions = ["R", *(("A", "M", "C", "T")[n % 4] for n in range(rows - 1))]
    sides = ["N", *(("B", "A")[n % 2] for n in range(rows - 1))]
    price[0] = size[0] = 0.0
    columns = [event_ns, actions, sides, price, size, np.arange(rows) % 10]
    columns += [["XNAS"] * rows, [metadata.symbol] * rows, [metadata.source] * rows, event_ns, recv_ns]
    schema = events_schema(metadata)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


def sample_manifest_line(target: Path, snapshots: pa.Table, run_id: str = RUN_ID) -> BackfillManifestLine:
    """Return the WRITE line of a snapshots file.

    Args:
        target: Where the file lies.
        snapshots: Its rows, at least one, with the footer metadata in the schema.
        run_id: The run that is said to have written it.

    Raises:
        ValueError: The schema has no footer metadata.
    """
    metadata = SnapshotMetadata.from_footer(snapshots.schema.metadata)
    if metadata is None:
        raise ValueError("the table's schema has no footer metadata: make it with snapshot_schema(metadata)")
    timestamps = snapshots.column("timestamp")
    quality = Quality(
        vendor_condition="available",
        rows=snapshots.num_rows,
        events=snapshots.num_rows,
        crossed=0,
        locked=0,
        one_sided=0,
        maybe_bad_book=0,
        max_gap_ms=float(metadata.interval_ms or SAMPLE_INTERVAL_MS),
        first_ts=timestamps[0].as_py(),
        last_ts=timestamps[-1].as_py(),
    )
    return BackfillManifestLine(
        symbol=metadata.symbol,
        date=metadata.session_date,
        status="WRITE",
        run_id=run_id,
        written_at=WRITTEN_AT,
        source=metadata.source,
        path=str(target.absolute()),
        rows=snapshots.num_rows,
        interval_ms=metadata.interval_ms,
        window_et=metadata.window_et,
        cost_usd=0.0,
        quality=quality,
    )


def sample_manifest_lines(target: Path, snapshots: pa.Table) -> list[BackfillManifestLine]:
    """Return the manifest lines of the sample run: the file that was written, and a symbol without rows."""
    empty = BackfillManifestLine(
        symbol=EMPTY_SYMBOL,
        date=SAMPLE_DAY,
        status="EMPTY",
        run_id=RUN_ID,
        written_at=WRITTEN_AT,
        source="databento",
        window_et=SAMPLE_WINDOW,
        reason="no rows",
    )
    return [sample_manifest_line(target, snapshots), empty]


def sample_summary() -> BackfillSummary:
    """Return the summary of the sample run."""
    return BackfillSummary(
        counts=BackfillCounts(WRITE=1, SKIP=0, EMPTY=1, ERROR=0),
        zero_row_tasks=((EMPTY_SYMBOL, SAMPLE_DAY),),
        errors=(),
        total_tasks=2,
        duration_sec=0.532,
        strict=False,
        force=False,
        max_tasks=None,
        concurrency=4,
        run_id=RUN_ID,
        started_at=WRITTEN_AT,
        window_et=SAMPLE_WINDOW,
        cost_usd=0.0,
    )


def list_column(matrix: np.ndarray[tuple[int, int], np.dtype[np.float64 | np.int64]]) -> pa.ListArray:
    """Return shape (rows, levels) as a list column over the same memory."""
    rows, levels = matrix.shape
    offsets = pa.array(np.arange(0, rows * levels + 1, levels, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(matrix).ravel()))

"""A small valid data root for tests of producers and consumers; needs no vendor and no network."""

from __future__ import annotations

from datetime import UTC, date, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.layout import DataRoot
from contracts.sessions import parse_window
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.backfill import BackfillCounts, BackfillManifestLine, BackfillSummary
from contracts.v1.level2 import DEFAULT_LEVELS, BookScope, SnapshotMetadata, snapshot_schema
from contracts.v1.level2_events import EventsMetadata, events_schema
from contracts.v1.quality import Quality

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE_DAY: Final = date(2025, 9, 4)
SAMPLE_SYMBOL: Final = "AAPL"
_WINDOW: Final = "09:30-09:31"
_INTERVAL_MS: Final = 100
_WRITTEN_AT: Final = datetime(2025, 9, 5, 1, 2, 3, tzinfo=UTC)


def sample_metadata(symbol: str = SAMPLE_SYMBOL, day: date = SAMPLE_DAY) -> SnapshotMetadata:
    """Return the footer metadata of the sample file."""
    return SnapshotMetadata(
        symbol=symbol,
        source="databento",
        levels=DEFAULT_LEVELS,
        interval_ms=_INTERVAL_MS,
        session_date=day,
        window_et=_WINDOW,
        book_scope=BookScope(venues=("XNAS",), odd_lots="included", time_basis="receive", levels=DEFAULT_LEVELS),
        producer=f"marketdata-contracts {version('marketdata-contracts')}",
    )


def sample_snapshots(metadata: SnapshotMetadata) -> pa.Table:
    """Return a plausible book on every grid point of the metadata's window; events stand 100 ms apart.

    The last level of the bids is missing on every tenth row, as when a book is shallow; the spread is one cent.
    """
    start, end = parse_window(metadata.window_et).bounds_ns(metadata.session_date)
    ns = np.arange(start, end, (metadata.interval_ms or _INTERVAL_MS) * 1_000_000, dtype=np.int64)
    steps = np.arange(metadata.levels)
    middle = 23_000 + (50 * np.sin(np.arange(len(ns)) / 40)).round().astype(np.int64)
    bids = (middle[:, None] - steps) / 100
    asks = (middle[:, None] + 1 + steps) / 100
    sizes = np.broadcast_to(100 * (steps + 1), bids.shape).astype(np.int64)
    bid_sizes = sizes.copy()
    bids[::10, -1] = 0.0
    bid_sizes[::10, -1] = 0
    columns = [iso_utc_from_ns(ns), _lists(bids), _lists(bid_sizes), _lists(asks), _lists(sizes)]
    return pa.table(columns, schema=snapshot_schema(metadata))


def sample_events_metadata(symbol: str = SAMPLE_SYMBOL, day: date = SAMPLE_DAY) -> EventsMetadata:
    """Return the footer metadata of the sample events file."""
    return EventsMetadata(
        symbol=symbol, source="databento", session_date=day, window_et=_WINDOW, producer=sample_metadata().producer
    )


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


def write_sample_root(path: Path) -> DataRoot:
    """Write a snapshots and an events file, the manifest and the summary of a run with one written and one empty task.

    Args:
        path: The data root, made if it is not there.

    Returns:
        The root; the same call writes the same bytes.

    Raises:
        OSError: It cannot be written.
    """
    root = DataRoot(path)
    metadata = sample_metadata()
    snapshots = sample_snapshots(metadata)
    target = root.snapshots_path(metadata.symbol, metadata.session_date)
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(snapshots, target, compression="zstd", use_dictionary=False)
    events = root.events_path(metadata.symbol, metadata.session_date)
    pq.write_table(sample_events(sample_events_metadata()), events, compression="zstd")
    lines = sample_manifest_lines(target, snapshots)
    root.backfill_manifest.write_text("".join(line.to_json_line() for line in lines), encoding="utf-8", newline="\n")
    root.backfill_summary.write_text(sample_summary().to_json() + "\n", encoding="utf-8", newline="\n")
    return root


def sample_manifest_lines(target: Path, snapshots: pa.Table) -> list[BackfillManifestLine]:
    """Return the manifest lines of the sample run."""
    timestamps = snapshots.column("timestamp")
    quality = Quality(
        vendor_condition="available",
        rows=snapshots.num_rows,
        events=snapshots.num_rows,
        crossed=0,
        locked=0,
        one_sided=0,
        maybe_bad_book=0,
        max_gap_ms=float(_INTERVAL_MS),
        first_ts=timestamps[0].as_py(),
        last_ts=timestamps[-1].as_py(),
    )
    written = BackfillManifestLine(
        symbol=SAMPLE_SYMBOL,
        date=SAMPLE_DAY,
        status="WRITE",
        run_id="sample",
        written_at=_WRITTEN_AT,
        source="databento",
        path=str(target.absolute()),
        rows=snapshots.num_rows,
        interval_ms=_INTERVAL_MS,
        window_et=_WINDOW,
        cost_usd=0.0,
        quality=quality,
    )
    empty = BackfillManifestLine(
        symbol="BRK-B",
        date=SAMPLE_DAY,
        status="EMPTY",
        run_id="sample",
        written_at=_WRITTEN_AT,
        source="databento",
        window_et=_WINDOW,
        reason="no rows",
    )
    return [written, empty]


def sample_summary() -> BackfillSummary:
    """Return the summary of the sample run."""
    return BackfillSummary(
        counts=BackfillCounts(WRITE=1, SKIP=0, EMPTY=1, ERROR=0),
        zero_row_tasks=(("BRK-B", SAMPLE_DAY),),
        errors=(),
        total_tasks=2,
        duration_sec=0.532,
        strict=False,
        force=False,
        max_tasks=None,
        concurrency=4,
        run_id="sample",
        started_at=_WRITTEN_AT,
        window_et=_WINDOW,
        cost_usd=0.0,
    )


def _lists(matrix: np.ndarray[tuple[int, int], np.dtype[np.float64 | np.int64]]) -> pa.ListArray:
    """Return shape (rows, levels) as a list column over the same memory."""
    rows, levels = matrix.shape
    offsets = pa.array(np.arange(0, rows * levels + 1, levels, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(matrix).ravel()))

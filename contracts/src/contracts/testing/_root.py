"""Writing samples to disk: single files, days of snapshots, a whole data root."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from contracts.layout import DataRoot
from contracts.testing._backfill import (
    SAMPLE_DAY,
    SAMPLE_INTERVAL_MS,
    SAMPLE_SYMBOL,
    SAMPLE_WINDOW,
    sample_events,
    sample_events_metadata,
    sample_manifest_line,
    sample_manifest_lines,
    sample_metadata,
    sample_snapshots,
    sample_summary,
)
from contracts.testing._bars import (
    BARS_DAY,
    BARS_HALF_DAY,
    BARS_WRITTEN_AT,
    sample_bars,
    sample_bars_manifest_line,
    sample_bars_metadata,
    sample_coverage,
)
from contracts.testing._live import Capture, sample_capture
from contracts.v1.level2 import DEFAULT_LEVELS, SnapshotMetadata

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date
    from pathlib import Path

    import pyarrow as pa

    from contracts.layout import BarSize
    from contracts.v1._footer import Source
    from contracts.v1.bars import BarsManifestLine


def write_sample_root(path: Path, *, live: bool = True, bars: bool = True) -> DataRoot:
    """Write a small data root with every artifact of the contract; a validation of it finds nothing.

    A backfill of `SAMPLE_DAY` that wrote `SAMPLE_SYMBOL` (600 rows, 09:30-09:31, and the vendor's events) and found no
    rows of BRK-B. A capture of `LIVE_SYMBOL` on the same day in two segments with their messages, stats and one gap
    record. Bars of `SAMPLE_SYMBOL` in three sizes on `BARS_DAY` and `BARS_HALF_DAY`, their manifest, in which one file
    was written twice, and the coverage.

    Args:
        path: The data root, made if it is not there.
        live: Write the capture.
        bars: Write the bars.

    Returns:
        The root; the same call writes the same bytes.

    Raises:
        OSError: It cannot be written.
    """
    root = DataRoot(path)
    # Records are appended to it below; a second call at the same place must not add to the first.
    root.gaps.unlink(missing_ok=True)
    snapshots = sample_snapshots(sample_metadata())
    target = write_snapshots(root, snapshots)
    pq.write_table(
        sample_events(sample_events_metadata()), root.events_path(SAMPLE_SYMBOL, SAMPLE_DAY), compression="zstd"
    )
    _write_text(
        root.backfill_manifest, "".join(line.to_json_line() for line in sample_manifest_lines(target, snapshots))
    )
    _write_text(root.backfill_summary, sample_summary().to_json() + "\n")
    if live:
        write_capture(root, _default_capture())
    if bars:
        _write_sample_bars(root)
    return root


def write_snapshots(root: DataRoot, snapshots: pa.Table, source_tag: str = "databento") -> Path:
    """Write a historical snapshots file where the metadata of the table's schema says it belongs.

    Raises:
        ValueError: The schema has no footer metadata.
        OSError: It cannot be written.
    """
    metadata = SnapshotMetadata.from_footer(snapshots.schema.metadata)
    if metadata is None:
        raise ValueError("the table's schema has no footer metadata: make it with snapshot_schema(metadata)")
    target = root.snapshots_path(metadata.symbol, metadata.session_date, source_tag)
    _write_table(target, snapshots)
    return target


def write_sample_days(
    root: DataRoot,
    symbol: str,
    days: Iterable[date],
    *,
    window_et: str = SAMPLE_WINDOW,
    levels: int = DEFAULT_LEVELS,
    interval_ms: int = SAMPLE_INTERVAL_MS,
    source: Source = "databento",
) -> list[Path]:
    """Write one historical snapshots file per day and append their lines to the backfill manifest, as of another run.

    Args:
        root: The data root, made if it is not there.
        symbol: Canonical symbol.
        days: ET days; whether they are sessions is not asked.
        window_et: ET wall clock of the rows, `HH:MM-HH:MM`.
        levels: N, levels per side.
        interval_ms: Milliseconds between rows.
        source: What the footer says; the file name has it as its tag.

    Returns:
        The files, one per day.

    Raises:
        OSError: It cannot be written.
    """
    targets = []
    run_id = f"sample-{symbol}"
    for day in days:
        metadata = sample_metadata(
            symbol, day, window_et=window_et, levels=levels, interval_ms=interval_ms, source=source
        )
        snapshots = sample_snapshots(metadata)
        target = write_snapshots(root, snapshots, source)
        _append_text(root.backfill_manifest, sample_manifest_line(target, snapshots, run_id).to_json_line())
        targets.append(target)
    return targets


def write_capture(root: DataRoot, capture: Capture) -> list[Path]:
    """Write the files of a capture and append its gap record.

    Returns:
        The files: messages and snapshots per segment, then the stats.

    Raises:
        OSError: It cannot be written.
    """
    symbol = capture.stats.symbol
    written = []
    for segment in capture.segments:
        messages = root.level2_path(symbol, segment.messages_name)
        _write_text(messages, segment.messages_text)
        snapshots = root.level2_path(symbol, segment.snapshots_name)
        _write_table(snapshots, segment.snapshots)
        written += [messages, snapshots]
    stats = root.level2_path(symbol, capture.stats_name)
    _write_text(stats, capture.stats.to_json() + "\n")
    _append_text(root.gaps, capture.gap.to_json_line())
    return [*written, stats]


def write_bars(root: DataRoot, bars: pa.Table, bar_size: BarSize, symbol: str, day: date) -> Path:
    """Write a bars file in its place; `sample_bars_manifest_line` is its line.

    Raises:
        OSError: It cannot be written.
    """
    target = root.bars_path(bar_size, symbol, day)
    _write_table(target, bars)
    return target


@cache
def _default_capture() -> Capture:
    """The replay takes longer than all else of a sample root, of which tests write many."""
    return sample_capture()


def _write_sample_bars(root: DataRoot) -> None:
    lines: list[BarsManifestLine] = []
    windows: dict[BarSize, tuple[str, str]] = {
        "1 hour": ("09:30-16:00", "09:30-13:00"),
        "1 min": ("09:30-16:00", "09:30-13:00"),
        "1 sec": ("09:30-09:32", "09:30-09:32"),
    }
    for bar_size, of_days in windows.items():
        for day, window_et in zip((BARS_DAY, BARS_HALF_DAY), of_days, strict=True):
            table = sample_bars(bar_size, day, window_et=window_et)
            footer = sample_bars_metadata(SAMPLE_SYMBOL, bar_size, day).to_footer()
            write_bars(root, table.replace_schema_metadata(footer), bar_size, SAMPLE_SYMBOL, day)
            if (bar_size, day) == ("1 min", BARS_HALF_DAY):
                # Downloaded once while the day went on, and replaced after it.
                early = BARS_WRITTEN_AT - timedelta(hours=8)
                lines.append(
                    sample_bars_manifest_line(root, table[:100], bar_size, day, written_at=early, complete=False)
                )
            lines.append(sample_bars_manifest_line(root, table, bar_size, day))
    _write_text(root.bars_manifest, "".join(line.to_json_line() for line in lines))
    _write_text(root.bars_coverage, sample_coverage(lines).to_json() + "\n")


def _write_table(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", use_dictionary=False)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _append_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(text)

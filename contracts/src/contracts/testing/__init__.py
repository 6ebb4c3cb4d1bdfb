"""A testing kit for producers and consumers of the data root; it needs no vendor and no network.

Write a small root with every artifact, or a day of your own:

    root = write_sample_root(tmp_path)
    write_sample_days(root, "NVDA", [date(2025, 9, 4), date(2025, 9, 5)], window_et="08:30-11:00")

Build one artifact, with sizes of your own, and write it or not:

    table = sample_snapshots(sample_metadata("NVDA", levels=3), rows=50)
    messages = sample_messages("NVDA", window_et="10:00-10:02")

Break a root on purpose, in each of the ways of `DAMAGES`, and see what your code makes of it:

    damaged = damaged_root(tmp_path, "snapshots-short-list")
    assert not validate_path(damaged.root.path).ok

`contracts.testing.pytest_plugin` has fixtures of these, `contracts.testing.strategies` has Hypothesis strategies of
everything in the contract; both need `pip install marketdata-contracts[testing]`, this module does not.
"""

from contracts.testing._backfill import (
    EMPTY_SYMBOL,
    SAMPLE_DAY,
    SAMPLE_SYMBOL,
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
    sample_bars,
    sample_bars_manifest_line,
    sample_bars_metadata,
    sample_coverage,
)
from contracts.testing._damage import Artifact, Damage, DamagedRoot, Outcome
from contracts.testing._damaged import DAMAGES, apply_damage, damaged_root
from contracts.testing._live import (
    LIVE_SYMBOL,
    Capture,
    Segment,
    sample_capture,
    sample_gap,
    sample_messages,
    sample_session_stats,
)
from contracts.testing._root import (
    write_bars,
    write_capture,
    write_sample_days,
    write_sample_root,
    write_snapshots,
)

__all__ = [
    "BARS_DAY",
    "BARS_HALF_DAY",
    "DAMAGES",
    "EMPTY_SYMBOL",
    "LIVE_SYMBOL",
    "SAMPLE_DAY",
    "SAMPLE_SYMBOL",
    "Artifact",
    "Capture",
    "Damage",
    "DamagedRoot",
    "Outcome",
    "Segment",
    "apply_damage",
    "damaged_root",
    "sample_bars",
    "sample_bars_manifest_line",
    "sample_bars_metadata",
    "sample_capture",
    "sample_coverage",
    "sample_events",
    "sample_events_metadata",
    "sample_gap",
    "sample_manifest_line",
    "sample_manifest_lines",
    "sample_messages",
    "sample_metadata",
    "sample_session_stats",
    "sample_snapshots",
    "sample_summary",
    "write_bars",
    "write_capture",
    "write_sample_days",
    "write_sample_root",
    "write_snapshots",
]

"""Live capture on the disk: the folder of a session with its lock, and the files that come out of its journals.

```
<root>/.capture/
  .sessions.lock                    held for milliseconds while sessions begin, are looked at, or go
  AAPL.lock                         held while a file name of the symbol is taken
  <session_id>/
    session.json                    what the session is, as the recorder wrote it; its first file
    lock                            held by the recorder, or by who recovers for it
    AAPL-000001.journal             truth, one file per symbol and segment, until the segment is published
    AAPL-000001.claim.json          the names that a segment's files have or will have, and their digests
    AAPL.stats.json                 the name of the symbol's stats file
    segments.jsonl                  one line per published segment
```

A kill or a power cut at any moment leaves a session from which recovery makes the same files as if nothing had
happened. A segment is published in this order, and every step is on the disk before the next: whole temps, the claim,
the messages file, the snapshots file, the line in `segments.jsonl`; then its journal and claim are removed. Names are
taken only when free: nothing is ever overwritten. What journals and stats say is decided in `flows`.
"""

from __future__ import annotations

from connectors.store._live.folder import CaptureFolder, JournalFile, dead_sessions, living_sessions
from connectors.store._live.publish import SegmentRows, publish_segment
from connectors.store._live.segments import PublishedSegment
from connectors.store._live.stats import claim_stats, stats_path, write_stats

__all__ = [
    "CaptureFolder",
    "JournalFile",
    "PublishedSegment",
    "SegmentRows",
    "claim_stats",
    "dead_sessions",
    "living_sessions",
    "publish_segment",
    "stats_path",
    "write_stats",
]

"""Bars on the disk: one file per symbol, bar size and ET day, each followed by its line in the download ledger.

```
<root>/
  bars/minute/AAPL/2025-09-15.parquet     replaced whole; the last ledger line of its path describes it
  bars_download_manifest.jsonl            one line per file written, appended after the file is in place
  .bars/minute/
    AAPL.claim                            held by the batch that works on the group, says who it is
    AAPL.lock                             held for milliseconds while a file or the notes of the group are written
    AAPL.intent                           the file that is being published, with its digest and its line
    AAPL.json                             notes: what no ledger line can say (days without bars, the last errors), and
                                          what would take opening files to know (kinds, whole days, days cut short)
```

A file is published in this order, and every step is on the disk before the next: the intent, the file, the line; then
the intent is removed. So a kill between file and line leaves an intent, and `repair`, or the next file of the group,
appends the line that is missing. When the line cannot be appended the old file comes back.

What is downloaded, and when a day is complete, is decided in `flows`; coverage is derived by `contracts.coverage`.
"""

from __future__ import annotations

from connectors.store._bars.files import BarsFooter, ExistingBars, existing, footer, listing, read_day
from connectors.store._bars.group import claim
from connectors.store._bars.notes import (
    ALL_DAYS,
    BarsNotes,
    EmptyNote,
    ErrorNote,
    load_notes,
    note_days,
    note_files,
)
from connectors.store._bars.publish import SANDBOX_SUFFIX, PublishedBars, publish_day, repair
from connectors.store._bars.rows import kind_text, merge
from connectors.store._bars.whole import WholeDays, WholeNote

__all__ = [
    "ALL_DAYS",
    "SANDBOX_SUFFIX",
    "BarsFooter",
    "BarsNotes",
    "EmptyNote",
    "ErrorNote",
    "ExistingBars",
    "PublishedBars",
    "WholeDays",
    "WholeNote",
    "claim",
    "existing",
    "footer",
    "kind_text",
    "listing",
    "load_notes",
    "merge",
    "note_days",
    "note_files",
    "publish_day",
    "read_day",
    "repair",
]

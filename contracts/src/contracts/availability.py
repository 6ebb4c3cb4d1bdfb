"""Which days can be trained on: what is present, missing or partial, and why; and a fingerprint of what was used.

`level2_coverage` looks into data roots; `assess_level2` judges facts that were read elsewhere and touches no disk.
The parts are in `_availability`: files, ledgers, the verdict, bars, the fingerprint. Loading rows is
`contracts.reader`, checking them `contracts.validate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from contracts._availability.bars import BarsAvailability, BarsDay, BarsMissingWhy, bars_availability
from contracts._availability.days import DayState, Hole, HoleKind
from contracts._availability.files import SnapshotsFacts, find_snapshots
from contracts._availability.fingerprint import fingerprint
from contracts._availability.judge import assess_level2, sources_asked
from contracts._availability.ledgers import gap_records, manifest_lines
from contracts._availability.level2 import DayCoverage, Level2Coverage, MissingWhy, SourceDay
from contracts.symbols import canonical_symbol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from contracts.layout import DataRoot
    from contracts.sessions import Window

__all__ = [
    "BarsAvailability",
    "BarsDay",
    "BarsMissingWhy",
    "DayCoverage",
    "DayState",
    "Hole",
    "HoleKind",
    "Level2Coverage",
    "MissingWhy",
    "SnapshotsFacts",
    "SourceDay",
    "assess_level2",
    "bars_availability",
    "fingerprint",
    "level2_coverage",
]


def level2_coverage(
    roots: Sequence[DataRoot],
    symbol: str,
    start: date,
    end: date | None = None,
    *,
    source: str | Sequence[str] | None = None,
    window: Window | str | None = None,
) -> Level2Coverage:
    """Tell for each ET day whether a symbol's Level-2 snapshots are there, what is missing in them, and why.

    Reads footers of files, manifests and gaps files; nothing that is wrong with them stops it. A day is held against
    the exchange calendar XNYS and against a window: the one asked for, else the widest that footers and manifest tell.
    On a grid the last row must be the last grid point of the window. A historical file whose first row comes later
    than its window began `starts_late`: the book was not known. Live files have no such excuse beyond a minute, and
    neither have old files whose window nobody tells.

    Args:
        roots: Data roots, best first; each is searched in every folder style. Files reached twice count once, of
            copies with the same name the best root's. Files and manifests that are not there are fine.
        symbol: Any spelling.
        start: First ET day.
        end: Last ET day, inclusive; None for one day.
        source: Only this source or these: `ibkr` for live files, or a source tag such as `databento`.
        window: What is needed of each day, a `Window` or text such as `09:30-10:00`, New York time.

    Raises:
        InvalidName: A day is no date, or a source is no tag.
        InvalidSymbol: The symbol has no canonical form.
        InvalidWindow: The window cannot be parsed.
        OutsideCalendar: The exchange calendar does not know the days.
    """
    name, last = canonical_symbol(symbol), start if end is None else end
    # Judging nothing first refuses what cannot be asked before any file is opened.
    assess_level2(name, start, last, source=source, window=window)
    files, hidden = find_snapshots(roots, name, start, last, sources_asked(source))
    lines, damaged = manifest_lines(roots, name)
    gaps, torn = gap_records(roots, name)
    return assess_level2(
        name,
        start,
        last,
        files=files,
        lines=lines,
        gaps=gaps,
        skipped=(*hidden, *damaged, *torn),
        source=source,
        window=window,
    )

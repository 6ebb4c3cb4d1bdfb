"""What live files of one folder say about each other: pairs by stamp, session stats, gap records, and the replay."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date, time
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contracts._validate.findings import Collector
from contracts._validate.level2 import level2_name
from contracts._validate.replay import BookReplay, Segment
from contracts._validate.seen import root_above
from contracts.errors import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from contracts._validate.findings import Report
    from contracts._validate.lines import GapCounts
    from contracts._validate.replay import Difference
    from contracts._validate.seen import FileFacts, Place, Seen
    from contracts.v1.level2 import SnapshotMetadata
    from contracts.v1.session_stats import SessionStats

_RECOVER: Final = "Recover the session from its messages."
_PARTS: Final = 3
"""Parts of `level2/AAPL/session_stats_20250904_093000.json`."""

_Stamp = tuple[date, time]


@dataclass
class _Pair:
    messages: FileFacts | None = None
    snapshots: FileFacts | None = None

    def can_be_replayed(self, metadata: SnapshotMetadata) -> bool:
        """Tell whether every row of both files is sound; a segment without a row has no snapshots file."""
        if self.messages is None or not self.messages.is_sound:
            return False
        return self.snapshots is None or (self.snapshots.is_sound and self.snapshots.metadata == metadata)


@dataclass
class _Folder:
    pairs: dict[_Stamp, _Pair] = field(default_factory=lambda: defaultdict(_Pair))
    sessions: list[tuple[Path, SessionStats]] = field(default_factory=list)


def check_live(seen: Seen, real_folders: Mapping[Path, str], top: Path, report: Report, *, full: bool) -> None:
    """Report where live files of one folder contradict each other.

    Args:
        seen: What was seen.
        real_folders: Folders as walked, to their real path.
        top: The folder that was asked for; the gaps of a root are known when the root is in it.
        report: Where the findings go.
        full: Replay the messages.
    """
    folders: dict[str, _Folder] = defaultdict(_Folder)
    for (real, _), facts in seen.files.items():
        _take(folders, real, facts)
    for path, stats in seen.stats.items():
        folders[real_folders[path.parent]].sessions.append((path, stats))
        _check_files(path, stats, real_folders[path.parent], seen.files, report)
        _check_gaps(path, stats, seen.gaps, top, report)
    for folder in folders.values():
        _check_pairs(folder, report)
        if full:
            _check_replays(folder, report)


def _take(folders: dict[str, _Folder], real: str, facts: FileFacts) -> None:
    name = level2_name(facts.path)
    if name is None or name.stamp is None:
        return
    pair = folders[real].pairs[name.day, name.stamp]
    if name.kind == "messages":
        pair.messages = facts
    elif name.kind == "snapshots":
        pair.snapshots = facts


def _check_files(path: Path, stats: SessionStats, real: str, files: Mapping[Place, FileFacts], report: Report) -> None:
    """Check that the listed files are there, and that they hold what the stats say."""
    if stats.files is None:
        return
    findings = Collector(path, report, "session_stats")
    totals: dict[str, int | None] = {"num_snapshots": 0, "num_messages": 0}
    for number, filename in enumerate(stats.files):
        facts = files.get((real, filename))
        if facts is None:
            hint = f"Bring it back. {_RECOVER}"
            findings.add("missing-file", f"{shown(filename)} is not in the folder", hint, field=f"files.{number}")
            totals = dict.fromkeys(totals)
            continue
        name = "num_messages" if filename.endswith(".json") else "num_snapshots"
        before = totals[name]
        totals[name] = None if before is None or facts.rows is None else before + facts.rows
        if facts.metadata is not None:
            for part in ("levels", "interval_ms"):
                said, found = getattr(stats, part), getattr(facts.metadata, part)
                if said != found:
                    message = f"{part} is {said}, the footer of {filename} says {found}"
                    findings.add("session", message, _RECOVER, field=part)
    for name, total in totals.items():
        said = getattr(stats, name)
        if total is not None and said != total:
            findings.add("row-count", f"{name} is {said}, the files hold {total}", _RECOVER, field=name)
    findings.close()


def _check_gaps(path: Path, stats: SessionStats, gaps: Mapping[Path, GapCounts], top: Path, report: Report) -> None:
    """Check the number of gap records, if the data root is known: what the stats of a lone folder say cannot be."""
    if stats.gaps is None or stats.session_id is None:
        return
    root = root_above(path, _PARTS, top)
    if root is None:
        return
    counts = next((counts for file, counts in gaps.items() if file.parent == root), None)
    found = 0 if counts is None else counts.of_session[stats.session_id, stats.symbol]
    if not found <= stats.gaps <= found + (0 if counts is None else counts.unread):
        findings = Collector(path, report, "session_stats")
        message = f"gaps is {stats.gaps}, l2_gaps.jsonl has {found} records of session {shown(stats.session_id)}"
        findings.add("gap-count", message, "A hole without a gap record is a bug of the recorder.", field="gaps")


def _check_pairs(folder: _Folder, report: Report) -> None:
    listed = {name for _, stats in folder.sessions for name in stats.files or ()}
    for _, pair in sorted(folder.pairs.items()):
        if pair.messages is None and pair.snapshots is not None:
            findings = Collector(pair.snapshots.path, report, "snapshots")
            message = "there is no messages file of the same stamp"
            findings.add("pair", message, "Bring it back; live snapshots are derived from their messages.")
        # A segment without a row has no snapshots file, but then its session must say so.
        messages = pair.messages
        if pair.snapshots is None and messages is not None and messages.rows != 0 and messages.path.name not in listed:
            findings = Collector(messages.path, report, "messages")
            findings.add("pair", "there is no snapshots file of the same stamp", _RECOVER)


def _check_replays(folder: _Folder, report: Report) -> None:
    """Replay each session as a whole, day by day, then the segments of no session, each alone or after the last one."""
    alone = dict(folder.pairs)
    replay: BookReplay | None = None
    for _, stats in folder.sessions:
        stamps = sorted({stamp for name in stats.files or () if (stamp := _stamp(name)) in folder.pairs})
        for stamp in stamps:
            alone.pop(stamp, None)
        replay = None
        for number, (_, of_day) in enumerate(groupby(stamps, key=itemgetter(0))):
            segments = [folder.pairs[stamp] for stamp in of_day]
            if number and replay is None:
                # The book at midnight is not known.
                break
            replay = _check_replay(segments, replay, report, only_after=number > 0)
    replay = None
    day: date | None = None
    for stamp in sorted(alone):
        replay = _check_replay([alone[stamp]], replay if stamp[0] == day else None, report)
        day = stamp[0]


def _stamp(filename: str) -> _Stamp | None:
    name = level2_name(Path(filename))
    return None if name is None or name.stamp is None else (name.day, name.stamp)


def _check_replay(
    pairs: Sequence[_Pair], before: BookReplay | None, report: Report, *, only_after: bool = False
) -> BookReplay | None:
    """Replay segments of one day that belong together from an empty book, else from the book before them.

    Args:
        pairs: The segments in order.
        before: The book that may live on in them.
        report: Where a difference goes.
        only_after: They go on with the book before them, which may be another day's.

    Returns:
        The book after them; None when they differ or cannot be compared.
    """
    metadata = next((pair.snapshots.metadata for pair in pairs if pair.snapshots is not None), None)
    if metadata is None or not all(pair.can_be_replayed(metadata) for pair in pairs):
        return None
    segments = [
        Segment(pair.messages.path, None if pair.snapshots is None else pair.snapshots.path)
        for pair in pairs
        if pair.messages is not None
    ]
    found: list[Difference] = []
    books = [before.on(metadata)] if before is not None and only_after else [BookReplay(metadata)]
    if before is not None and before.metadata == metadata:
        books.append(copy.deepcopy(before))
    for book in books:
        difference = book.first_difference(segments)
        if difference is None:
            return book
        found.append(difference)
    # The book that went further is the one that was meant.
    told = max(found, key=lambda difference: -1 if difference.row is None else difference.row)
    kind = "messages" if told.path in {segment.messages for segment in segments} else "snapshots"
    findings = Collector(told.path, report, kind)
    findings.add("replay", told.message, _RECOVER, row=told.row, field=told.field)
    return None

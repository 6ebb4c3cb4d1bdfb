"""Turns what a dead recorder left into the files, gap records and stats that it would have made itself.

`python -m flows.capture_recover ROOT` prints one JSON line per session. A recovery that dies too is simply repeated;
of two at once one does the work. Which sessions are dead is known by `connectors.store.live`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from connectors.store.atomic import append_line
from connectors.store.errors import StoreBusy, StoreError, store_errors
from connectors.store.journal import read_journal
from connectors.store.live import CaptureFolder, claim_stats, dead_sessions, stats_path
from contracts.errors import ContractError
from contracts.layout import DataRoot, parse_level2_name
from contracts.timestamps import ns_from_text
from contracts.v1.gaps import parse_gap_line
from contracts.v1.session_stats import SessionStats
from flows.capture_close import publish
from flows.capture_facts import SegmentEnd, read_facts
from flows.capture_gaps import ClosedGap, GapState, OpenGap
from flows.capture_spec import SessionResult, SessionSpec
from flows.capture_stats import Totals
from flows.capture_time import day_of, ns_of_datetime, utc_datetime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flows.capture_spec import SymbolResult

_log = logging.getLogger(__name__)

CRASH: Final = "crash"
"""The `end_reason` of a session whose recorder died."""

_NEVER: Final = 2**63 - 1
_DETAIL: Final = "the recorder ended without warning"

RecoveredSession: TypeAlias = SessionResult
"""A session that was recovered, wholly or, with `problems`, as far as possible."""


def recover(root: DataRoot, *, now_ns: Callable[[], int] = time.time_ns) -> list[RecoveredSession]:
    """Recover every session below a root whose recorder is dead; those of living ones are left alone.

    What was journaled becomes segments, holes that were open become gap records, and from the last sign of life to the
    planned end there is a `crash` gap, which ends earlier where the symbol's next session began, or now. A session's
    folder goes when all that is done.

    Args:
        root: The data root.
        now_ns: The clock, nanoseconds since 1970 UTC.

    Returns:
        What was done, oldest session first. A session with problems keeps its folder, and can be recovered again.

    Raises:
        StoreError: The sessions cannot be listed.
    """
    recovered = []
    for session_id in dead_sessions(root):
        folder = CaptureFolder(root, session_id)
        try:
            with folder.open_dead():
                recovered.append(_recover(folder, now_ns()))
        except StoreBusy:
            _log.info("somebody else recovers session %s", session_id)
        except Exception as error:  # noqa: BLE001 - the other sessions must still be recovered
            # Another recovery may have been faster.
            if folder.path.exists():
                recovered.append(RecoveredSession(session_id, {}, (_problem(f"session {session_id}", error),)))
    return recovered


def _recover(folder: CaptureFolder, now_ns: int) -> RecoveredSession:
    document = folder.spec()
    spec = SessionSpec.from_document(document)
    # The session knows best in which folder its files are.
    root = DataRoot(folder.root.path, document.get("level2_dirname", folder.root.level2_dirname))
    folder = CaptureFolder(root, spec.session_id)
    gaps = _GapFile(root, spec.session_id)
    results: dict[str, SymbolResult] = {}
    problems: list[str] = []
    for symbol in spec.symbols:
        results[symbol] = _recover_symbol(folder, spec, symbol, gaps, now_ns, problems)
    if not problems:
        folder.remove()
    return RecoveredSession(spec.session_id, results, tuple(problems))


def _recover_symbol(
    folder: CaptureFolder, spec: SessionSpec, symbol: str, gaps: _GapFile, now_ns: int, problems: list[str]
) -> SymbolResult:
    before = _earlier_stats(folder, symbol)
    is_whole = _publish_all(folder, spec, symbol, gaps, problems)
    totals = Totals(symbol)
    # A recorder that died before its first journal has seen nothing.
    end = SegmentEnd(spec.start_ns, spec.start_ns, None, OpenGap(spec.start_ns, "connect", "", clear=True), 0.0)
    for segment in folder.segments(symbol):
        totals.add(segment)
        end = SegmentEnd.of(segment)
        totals.max_lag_ms = max(totals.max_lag_ms, end.max_lag_ms)
    ended_ns, reason = end.end_ns, end.reason
    if reason is None:
        ended_ns, reason = end.last_ns, CRASH
        if is_whole:
            until_ns = min(spec.planned_end_ns, now_ns, _next_start_ns(folder, symbol, end.last_ns))
            _append_crash(gaps, symbol, end, until_ns)
    totals.gaps = gaps.count(symbol)
    if before is not None:
        totals.max_lag_ms = max(totals.max_lag_ms, before.max_lag_ms or 0.0)
        # One that came to its end, and only could not publish all, has said how.
        reason = before.end_reason or reason
    stats = totals.stats(spec, ended_ns=ended_ns, end_reason=reason)
    if before is not None and before.ended_at is not None:
        stats = stats.model_copy(update={"ended_at": before.ended_at})
    totals.stats_path = claim_stats(folder, stats)
    return totals.result(reason)


def _publish_all(folder: CaptureFolder, spec: SessionSpec, symbol: str, gaps: _GapFile, problems: list[str]) -> bool:
    """Publish the journals of a symbol that are left; returns whether all could be."""
    is_whole = True
    for file in folder.journals():
        if file.symbol != symbol:
            continue
        try:
            # The records come first: afterwards the journal that tells of them is gone.
            for gap in read_facts(read_journal(file.path)).gaps:
                gaps.append(symbol, gap)
            publish(folder, spec, symbol, file.number)
        except Exception as error:  # noqa: BLE001 - a damaged journal must not hold up the others
            problems.append(_problem(f"segment {file.number} of {symbol} in session {spec.session_id}", error))
            is_whole = False
    return is_whole


def _append_crash(gaps: _GapFile, symbol: str, end: SegmentEnd, until_ns: int) -> None:
    open_gap = GapState(end.gap).cut(end.last_ns)
    if open_gap is not None:
        gaps.append(symbol, open_gap)
    # A recorder whose disk refused ends with a record of its own from there on.
    if not gaps.has_end_from(symbol, end.last_ns):
        # A clock that was set back can be behind what the recorder saw; that it died must be told all the same.
        gaps.append(symbol, ClosedGap(end.last_ns, max(until_ns, end.last_ns), "crash", _DETAIL))


def _next_start_ns(folder: CaptureFolder, symbol: str, last_ns: int) -> int:
    """Return when the symbol's next session began, as its stats say; beyond all time when there is none."""
    last, found_ns = utc_datetime(last_ns), _NEVER
    for path in folder.root.symbol_dir(symbol).glob("session_stats_*.json"):
        try:
            if parse_level2_name(path.name).day < day_of(last_ns):
                continue
            stats = SessionStats.from_json(path.read_bytes())
        except (OSError, ContractError):
            continue
        if stats.session_id != folder.session_id and stats.recording_date > last:
            # The stats are cut to microseconds; no moment between the two sessions must be left out.
            found_ns = min(found_ns, ns_of_datetime(stats.recording_date) + 999)
    return found_ns


def _earlier_stats(folder: CaptureFolder, symbol: str) -> SessionStats | None:
    """Return the stats as the recorder, or an earlier recovery, left them; None when they cannot be read."""
    try:
        path = stats_path(folder, symbol)
        stats = None if path is None else SessionStats.from_json(path.read_bytes())
    except (OSError, StoreError, ContractError):
        return None
    return stats if stats is not None and stats.session_id == folder.session_id else None


class _GapFile:
    """The gap records of one session, each appended once.

    Raises:
        StoreError: The file cannot be read.
    """

    def __init__(self, root: DataRoot, session_id: str) -> None:
        self._path = root.gaps
        self._session_id = session_id
        self._known: set[tuple[str, int, str]] = set()
        self._counts: dict[str, int] = {}
        needle = session_id.encode()
        with store_errors("read", self._path):
            try:
                with self._path.open("rb") as file:
                    for line in file:
                        if needle in line:
                            self._remember(line)
            except FileNotFoundError:
                pass

    def append(self, symbol: str, gap: ClosedGap) -> None:
        """Append a record unless one of its symbol, start and cause is there.

        Raises:
            StoreError: The disk refuses.
        """
        if (symbol, gap.start_ns, gap.cause) not in self._known:
            line = gap.record(symbol, self._session_id).to_json_line()
            append_line(self._path, line)
            self._remember(line.encode())

    def has_end_from(self, symbol: str, start_ns: int) -> bool:
        """Tell whether there is a record of the session's last hole, from a moment on."""
        return any((symbol, start_ns, cause) in self._known for cause in (CRASH, "queue_drop"))

    def count(self, symbol: str) -> int:
        """Return how many records there are of a symbol."""
        return self._counts.get(symbol, 0)

    def _remember(self, line: bytes) -> None:
        try:
            gap = parse_gap_line(line)
        except ContractError:
            return
        if gap.session_id == self._session_id:
            self._known.add((gap.symbol, ns_from_text(gap.gap_start), gap.cause))
            self._counts[gap.symbol] = self._counts.get(gap.symbol, 0) + 1


def _problem(what: str, error: Exception) -> str:
    return f"{what} could not be recovered, its journals are kept: {type(error).__name__}: {error}"


def _document(session: RecoveredSession) -> dict[str, Any]:
    symbols = {
        symbol: {**dataclasses.asdict(result), "stats_path": str(result.stats_path)}
        for symbol, result in session.symbols.items()
    }
    return {"session_id": session.session_id, "symbols": symbols, "problems": list(session.problems)}


def main(arguments: Sequence[str]) -> int:
    """Recover the sessions of the root that is named; prints one JSON line each.

    Returns:
        0, or 1 when something could not be recovered.
    """
    (root,) = arguments
    os.nice(10)
    try:
        recovered = recover(DataRoot(Path(root)))
    except StoreError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for session in recovered:
        sys.stdout.write(json.dumps(_document(session)) + "\n")
    return 1 if any(session.problems for session in recovered) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

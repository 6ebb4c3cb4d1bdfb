"""From a journal to the files of its segment, under names that are free, such that a redo ends in the same files."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from connectors.store._live.claims import Claim
from connectors.store._live.folder import claims_of
from connectors.store._live.segments import PublishedSegment
from connectors.store._live.stamps import et_second, seconds_of_the_day
from connectors.store.atomic import append_line, make_folder
from connectors.store.errors import StoreError, store_errors
from connectors.store.journal import read_journal, write_messages
from connectors.store.locks import locked_file
from connectors.store.raw_cache import fingerprint
from connectors.store.snapshots import publish
from connectors.store.temps import new_temp_path, sweep_stale_temps
from contracts.layout import Level2Name
from contracts.timestamps import ns_from_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import date, time
    from pathlib import Path

    import pyarrow as pa

    from connectors.store._live.claims import Digest
    from connectors.store._live.folder import CaptureFolder
    from connectors.store.journal import Journal


@dataclass(frozen=True)
class SegmentRows:
    """The snapshots of a segment, and what was learned by making them.

    Attributes:
        schema: `SNAPSHOT_SCHEMA` with the footer's metadata.
        batches: The rows, consumed once, in order.
        anomalies: Called after the last batch: what the replay counted, by kind.
        extra: Called after the last batch: what `PublishedSegment.extra` is to have.
    """

    schema: pa.Schema
    batches: Iterable[pa.RecordBatch]
    anomalies: Callable[[], Mapping[str, int]] = dict
    extra: Callable[[], Mapping[str, Any]] = dict


def publish_segment(
    folder: CaptureFolder,
    symbol: str,
    number: int,
    rows: Callable[[Journal, Path], SegmentRows],
    *,
    timeout_s: float = 60.0,
) -> PublishedSegment:
    """Turn a closed journal into the segment's files, and remove it; once, however often it is tried.

    The stamp of both names is the ET second of the first row, else of the first message; when a file of either name
    exists, or a segment that is not published yet has claimed it, the next second of that day that is free. A segment
    without message and row leaves no file, one without rows a messages file only, one without messages an empty
    messages file beside its snapshots.

    Any number of processes may publish on the same root at once. When the segment was published before, nothing is
    written, and what is left of its journal goes. After a kill at any point the same call completes the work: the
    stamp stays as claimed, and a file of that name is kept if it has the bytes that were claimed. Should another
    program have put a different file there, that one stays and the segment gets another stamp.

    Args:
        folder: The session; its lock is not needed.
        symbol: Canonical symbol.
        number: Of the segment.
        rows: Called with the journal and the written messages file (a temp of the same contents as the published
            one; it is there until the batches are consumed). What it returns must follow from these alone, so that
            a redo gives the same. Not called when the files are in place already.
        timeout_s: Seconds to wait for a process that still writes or publishes this journal.

    Returns:
        The segment, as in `segments.jsonl`.

    Raises:
        StoreBusy: Somebody held the journal for `timeout_s`.
        StoreError: There is neither such a journal nor such a published segment, the journal has no header, or the
            disk refuses; the journal stays.
        InvalidRows: As `snapshots.publish`; the journal stays. Errors of `rows` pass unchanged.
        ValueError: The symbol is not canonical.
    """
    journal_path = folder.journal_path(symbol, number)
    claim_path = folder.claim_path(symbol, number)
    with ExitStack() as held:
        with store_errors("lock", journal_path):
            try:
                held.enter_context(locked_file(journal_path, os.O_RDWR, timeout_s=timeout_s))
            except FileNotFoundError:
                is_there = False
            else:
                is_there = True
        # Asked only now: another process may have published it while we waited.
        done = next((segment for segment in folder.segments(symbol) if segment.number == number), None)
        if done is None:
            if not is_there:
                raise StoreError(
                    f"there is no journal {journal_path} and no segment that was published from it.", path=journal_path
                )
            done = _publish(folder, symbol, number, rows)
            append_line(folder.segments_path, json.dumps(done.to_document(), allow_nan=False))
        with store_errors("remove", journal_path):
            journal_path.unlink(missing_ok=True)
            claim_path.unlink(missing_ok=True)
    return done


def _publish(
    folder: CaptureFolder, symbol: str, number: int, rows: Callable[[Journal, Path], SegmentRows]
) -> PublishedSegment:
    symbol_dir = folder.root.symbol_dir(symbol)
    claim = Claim.read(folder.claim_path(symbol, number))
    if claim is not None and all(claim.holds(path) for path in claim.segment.paths(folder.root)):
        return claim.segment
    make_folder(symbol_dir)
    # A recorder or its child that was killed may have left a temp as large as a segment.
    sweep_stale_temps(symbol_dir)
    journal = read_journal(folder.journal_path(symbol, number))
    name = f"{folder.session_id}-{symbol}-{number}"
    temps = [new_temp_path(symbol_dir / f"{name}.{kind}") for kind in ("json", "parquet")]
    try:
        messages = write_messages(journal, temps[0])
        made = rows(journal, temps[0])
        first_rows: list[str] = []
        published = publish(temps[1], made.schema, _noting_the_first(made.batches, first_rows))
        segment = PublishedSegment(
            symbol=symbol,
            number=number,
            messages=messages,
            rows=0 if published is None else published.rows,
            anomalies=made.anomalies(),
            extra=made.extra(),
            torn=None if journal.torn is None else str(journal.torn),
        )
        if first_rows:
            first, files = first_rows[0], temps
        elif journal.first_record is not None:
            first, files = str(journal.first_record["timestamp"]), temps[:1]
        else:
            return segment
        # Others must not wait for the reading of large files.
        digests = [fingerprint(file) for file in files]
        with folder.names_lock(symbol):
            return _place(
                folder, segment, dict(zip(files, digests, strict=True)), et_second(ns_from_text(first)), claim
            )
    finally:
        for temp in temps:
            with suppress(OSError):
                temp.unlink()


def _place(
    folder: CaptureFolder,
    segment: PublishedSegment,
    temps: Mapping[Path, Digest],
    wanted: tuple[date, time],
    old: Claim | None,
) -> PublishedSegment:
    """Give the temps their names: those of the old claim if they can be had, else the first that are free."""
    symbol_dir = folder.root.symbol_dir(segment.symbol)
    claim_path = folder.claim_path(segment.symbol, segment.number)
    while True:
        day, stamp = _free_second(folder, segment.symbol, claim_path, *wanted) if old is None else (old.day, old.stamp)
        names = _names(day, stamp)[: len(temps)]
        known = {} if old is None else old.digests
        claim = Claim(
            replace(segment, files=tuple(names)),
            day,
            stamp,
            {
                name: tuple(dict.fromkeys([*known.get(name, ()), digest]))
                for name, digest in zip(names, temps.values(), strict=True)
            },
        )
        claim.write(claim_path)
        targets = [symbol_dir / name for name in names]
        if all(claim.put(temp, target) for temp, target in zip(temps, targets, strict=True)):
            return claim.segment
        claim.withdraw(targets)
        old = None


def _free_second(folder: CaptureFolder, symbol: str, claim_path: Path, day: date, wanted: time) -> tuple[date, time]:
    symbol_dir = folder.root.symbol_dir(symbol)
    others = [Claim.read(path) for path in claims_of(folder, symbol) if path != claim_path]
    claimed = {(other.day, other.stamp) for other in others if other is not None and other.segment.symbol == symbol}
    for stamp in seconds_of_the_day(wanted):
        if (day, stamp) not in claimed and not any(os.path.lexists(symbol_dir / name) for name in _names(day, stamp)):
            return day, stamp
    raise StoreError(f"every second of {day} is taken in {symbol_dir}; move old files away.", path=symbol_dir)


def _names(day: date, stamp: time) -> list[str]:
    return [Level2Name("messages", day, stamp).filename, Level2Name("snapshots", day, stamp).filename]


def _noting_the_first(batches: Iterable[pa.RecordBatch], first: list[str]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if not first and batch.num_rows:
            first.append(batch.column("timestamp")[0].as_py())
        yield batch

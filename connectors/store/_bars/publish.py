"""Publishing a day of bars: intent, file, ledger line; and the repair of what a kill left in between."""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from connectors.store._bars.group import INTENT_SUFFIX, Group, working_folder
from connectors.store._bars.intents import Intent, complete_intent, drop_intent, ledger_end
from connectors.store._bars.notes import change_notes
from connectors.store._bars.rows import check_rows, encode, kind_text
from connectors.store._bars.whole import WholeDays, WholeNote
from connectors.store.atomic import append_line, atomic_path, fsync_folder, make_folder
from connectors.store.errors import StoreBusy, StoreError, store_errors
from connectors.store.temps import new_temp_path, sweep_stale_temps
from contracts.errors import InvalidSymbol
from contracts.layout import BAR_FOLDERS
from contracts.sessions import ET
from contracts.v1.bars import BAR_SCHEMA, MANIFEST_VERSION, BarsManifestLine, bars_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import date
    from pathlib import Path

    import pyarrow as pa

    from connectors.store._bars.notes import BarsNotes
    from contracts.layout import BarSize, DataRoot
    from contracts.v1.bars import BarsMetadata

_log = logging.getLogger(__name__)

SANDBOX_SUFFIX: Final = "(sandbox)"
"""How the producer of what a sandbox invented ends."""

_Note = TypeVar("_Note")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class PublishedBars:
    """A bars file that is in place, with its line in the ledger.

    Attributes:
        path: Where, absolute.
        rows: How many bars it has, at least one.
        line: What the ledger says about it.
    """

    path: Path
    rows: int
    line: BarsManifestLine


def publish_day(
    root: DataRoot,
    metadata: BarsMetadata,
    table: pa.Table,
    *,
    written_at: datetime | None = None,
    is_sparse: bool = False,
) -> PublishedBars:
    """Write or replace the bars file of a day, then append its ledger line; both are on the disk when this returns.

    The same rows and metadata give the same bytes, whenever and however often they are published. Any number of threads
    and processes may publish on one root; those of one group come one after the other, each file directly followed by
    its line. The kind is noted before the file appears, and that the day is cut short if it is; what was noted of the
    day before is cleared.

    Args:
        root: The data root; made if missing.
        metadata: Says which file it is, and goes into its footer.
        table: `BAR_SCHEMA`, all bars of the day, at least one.
        written_at: For the line, aware; now, if not given.
        is_sparse: The bars do not reach from end to end of the hours that were asked for. A complete day is then noted
            as whole, for its ledger line cannot tell it.

    Returns:
        The file and its line.

    Raises:
        InvalidRows: The rows break a rule of bars files, see `check_rows`; nothing was changed.
        StoreBusy: Somebody held the group's lock or the ledger for a minute; the day is as it was.
        StoreError: The disk refuses; the day is as it was. Only where not even that can be restored, the file is in
            place and `repair` appends its line.
        ValueError: `written_at` has no zone.
    """
    group = Group(root, metadata.bar_size, metadata.symbol)
    target = root.bars_path(group.bar_size, group.symbol, metadata.session_date).absolute()
    ns = check_rows(table, metadata.session_date, f"nothing was written to {target}", target)
    data = encode(table, bars_schema(metadata))
    with group.locked():
        complete_intent(group)
        change_notes(group, lambda notes: _about_to_publish(notes, metadata))
        line = _line(target, metadata, table.num_rows, (int(ns[0]), int(ns[-1])), written_at or datetime.now(UTC))
        intent = Intent(line, len(data), hashlib.sha256(data).hexdigest(), ledger_end(root))
        make_folder(target.parent)
        intent.write(group)
        with _old_file_kept(group, intent, target):
            with atomic_path(target) as temp:
                temp.write_bytes(data)
            append_line(root.bars_manifest, line.to_json_line())
        # The day is published: what cannot be tidied up now does no harm.
        with suppress(StoreError):
            drop_intent(group)
            change_notes(group, lambda notes: _as_published(notes, metadata, line.rows if is_sparse else None))
    return PublishedBars(target, table.num_rows, line)


def repair(root: DataRoot, *, timeout_s: float = 5.0) -> list[Path]:
    """Finish what writers that died left behind: ledger lines that are missing, intents, temporary files.

    Safe at any time, also while others publish. A second equal line, which a kill during a repair can leave, is
    harmless.

    Args:
        root: The data root; nothing is created when it has no bars.
        timeout_s: Seconds to wait for somebody who publishes in a group; then the group is passed over and logged: the
            next file that is published there completes it first.

    Returns:
        The bars files whose ledger line was appended.

    Raises:
        StoreError: The disk refuses; what is not repaired stays for the next time.
    """
    repaired = []
    for bar_size in BAR_FOLDERS:
        folder = working_folder(root, bar_size)
        for group in _groups_with_intent(root, bar_size, folder):
            try:
                with group.locked(timeout_s=timeout_s):
                    path = complete_intent(group)
            except StoreBusy as error:
                _log.warning("%s %s is not repaired now: %s", group.symbol, bar_size, error)
                continue
            if path is not None:
                repaired.append(path)
        sweep_stale_temps(folder)
    return repaired


def _groups_with_intent(root: DataRoot, bar_size: BarSize, folder: Path) -> list[Group]:
    groups = []
    with store_errors("list", folder):
        try:
            names = sorted(name for name in os.listdir(folder) if name.endswith(INTENT_SUFFIX))  # noqa: PTH208 - names only
        except FileNotFoundError:
            return []
    for name in names:
        symbol = name.removesuffix(INTENT_SUFFIX)
        with suppress(InvalidSymbol):
            group = Group(root, bar_size, symbol)
            if group.symbol == symbol:
                groups.append(group)
    return groups


def _about_to_publish(notes: BarsNotes, metadata: BarsMetadata) -> BarsNotes:
    """What has to be known before the file is there, for the writer may die right after."""
    day = metadata.session_date
    return replace(
        notes,
        kinds=notes.kinds | {kind_text(metadata.what_to_show, metadata.use_rth)},
        whole=WholeDays(_without(notes.whole, day)) if day in notes.whole else notes.whole,
        invented=notes.invented or metadata.producer.endswith(SANDBOX_SUFFIX),
        # A file that is cut short stays so until the complete one is in its place.
        cut=notes.cut if metadata.complete else notes.cut | {day},
    )


def _as_published(notes: BarsNotes, metadata: BarsMetadata, sparse_rows: int | None) -> BarsNotes:
    day = metadata.session_date
    whole = notes.whole
    if metadata.complete and sparse_rows is not None:
        kind = kind_text(metadata.what_to_show, metadata.use_rth)
        whole = WholeDays({**whole, day: WholeNote(kind, sparse_rows)})
    return replace(
        notes,
        empty=_without(notes.empty, day),
        errors=_without(notes.errors, day),
        whole=whole,
        cut=notes.cut - {day} if metadata.complete else notes.cut,
    )


def _without(notes: Mapping[date, _Note], day: date) -> Mapping[date, _Note]:
    return {other: note for other, note in notes.items() if other != day} if day in notes else notes


def _line(
    target: Path, metadata: BarsMetadata, rows: int, span_ns: tuple[int, int], written_at: datetime
) -> BarsManifestLine:
    if written_at.utcoffset() is None:
        raise ValueError(f"written_at {written_at} has no zone, give datetime.now(UTC)")
    first, last = ((_EPOCH + timedelta(microseconds=ns // 1000)).astimezone(ET) for ns in span_ns)
    return BarsManifestLine(
        schema_version=MANIFEST_VERSION,
        written_at=written_at.astimezone(UTC),
        vendor="IBKR",
        file_format="parquet",
        symbol=metadata.symbol,
        bar_size=metadata.bar_size,
        path=str(target),
        filename=target.name,
        rows=rows,
        columns=tuple(BAR_SCHEMA.names),
        time_start=first,
        time_end=last,
        what_to_show=metadata.what_to_show,
        use_rth=metadata.use_rth,
        price_adjustment=metadata.price_adjustment,
        complete=metadata.complete,
    )


@contextmanager
def _old_file_kept(group: Group, intent: Intent, target: Path) -> Iterator[None]:
    """Bring the old file back, or take the new one away, when the block fails and its line is not in the ledger."""
    kept = new_temp_path(target)
    try:
        os.link(target, kept)
        was_there, is_kept = True, True
    except FileNotFoundError:
        was_there, is_kept = False, False
    except OSError:
        # A disk without hard links; then the intent stays, and the line is appended later.
        was_there, is_kept = True, False
    try:
        yield
    except StoreError:
        # Whatever fails here leaves the intent, and `repair` decides by what is on the disk then.
        with suppress(StoreError, OSError):
            if not intent.is_recorded(group.root):
                if is_kept:
                    kept.replace(target)
                elif not was_there:
                    target.unlink(missing_ok=True)
                if is_kept or not was_there:
                    fsync_folder(target.parent)
                    drop_intent(group)
        raise
    finally:
        with suppress(OSError):
            kept.unlink(missing_ok=True)

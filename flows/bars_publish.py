"""What a download of bars does on the disk: days published and noted, answers put on the shelf and taken from it.

Everything here blocks and is called in threads; one group's days may be published by several at once. What is whole,
and when something is asked, is decided in `bars_run`.
"""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from connectors.ibkr.bar_requests import BAR_SECONDS, REACH_DAYS, day_window
from connectors.store.bars import (
    EmptyNote,
    ErrorNote,
    existing,
    kind_text,
    merge,
    note_days,
    note_files,
    publish_day,
    read_day,
)
from connectors.store.errors import StorageGuardHit, StoreError
from contracts.errors import ContractError
from contracts.timestamps import ns_from_iso_utc
from contracts.v1.bars import BarsMetadata
from flows.bars_pieces import Part
from flows.bars_result import PieceOutcome, days_text
from flows.gateway import producer

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Sequence

    from connectors.ibkr.bar_requests import BarsRequest, DayWindow
    from connectors.store.bars import ExistingBars
    from connectors.store.bars_shelf import AnswerShelf
    from contracts.layout import DataRoot
    from flows.bars_job import BarsJob
    from flows.bars_pieces import Group, Piece
    from flows.bars_plan import BarsPlan, GroupPlan

logger = logging.getLogger(__name__)

FORGOTTEN: Final = "passed out of the broker's reach while the run went on"
"""Why a day that was to be asked for is not asked for any more."""

_NS: Final = 1_000_000_000
_FORCED_KEEP_NS: Final = 86_400 * _NS
"""An answer that was forced longer ago is none to somebody who forces again."""

_ASKED_AT: Final = b"asked_at_ns"
_SANDBOX: Final = b"is_sandbox"
_DISK_IS_LOST: Final = frozenset(
    [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOLCK, errno.EMFILE, errno.ENFILE]
)
"""The system's numbers for a disk on which the next day would fail too."""


@dataclass(frozen=True)
class Published:
    """What became of some whole days.

    Attributes:
        outcomes: of the days that something became of.
        trouble: why the others were left alone, and why no other day should be tried; None when all is well.
    """

    outcomes: list[PieceOutcome]
    trouble: StoreError | None = None


class _CannotPublishError(Exception):
    """A day that must not be written; the text says why and what to do."""


class BarsDisk:
    """The data root and the shelf of one download.

    Args:
        job: the download.
        shelf: keeps answers until their day is published.
        now_ns: the present, nanoseconds since 1970 UTC.
    """

    def __init__(self, job: BarsJob, shelf: AnswerShelf, now_ns: Callable[[], int]) -> None:
        self._job = job
        self._scope = job.scope
        self._root = job.root
        self._shelf = shelf
        self._now_ns = now_ns
        self._space = job.free_space()

    def shelved(
        self, group: Group, request: BarsRequest, *, is_sandbox: bool | None
    ) -> tuple[list[Part], list[DayWindow]]:
        """The parts of a request that an earlier run had been answered, and the windows that are still to be asked for.

        Args:
            group: whose request it is.
            request: what is wanted.
            is_sandbox: the gateway of this run is a sandbox; None while nobody knows.
        """
        found, rest = [], []
        for window in request.windows:
            if not group.needs([window.day]):
                continue
            part = self._take(group, window)
            if part is None or is_sandbox not in (None, part.is_sandbox):
                rest.append(window)
            else:
                found.append(part)
        return found, rest

    def shelve(self, parts: Iterable[Part]) -> None:
        """Keep answers to which nothing more can come, and that can be relied on."""
        for part in parts:
            if part.is_settled and part.is_proof:
                metadata = {_ASKED_AT: b"%d" % part.asked_at_ns, _SANDBOX: b"%d" % part.is_sandbox}
                self._shelf.put(part.key, part.table.replace_schema_metadata(metadata))

    def publish(self, group: Group, pieces: Sequence[Piece]) -> Published:
        """Publish whole days, or note that there is nothing of them."""
        outcomes: list[PieceOutcome] = []
        trouble: StoreError | None = None
        for piece in pieces:
            try:
                self._space.check()
                outcomes.append(self._publish(group, piece))
            except (StorageGuardHit, StoreError) as error:
                if self._is_lost(error):
                    trouble = error
                    break
                outcomes.append(_error(group, piece.day, str(error)))
            except (ContractError, pa.ArrowException) as error:
                outcomes.append(_error(group, piece.day, f"its bars cannot be published: {error}"))
            except _CannotPublishError as error:
                self._shelf.drop(part.key for part in piece.parts)
                outcomes.append(_error(group, piece.day, str(error)))
        known = {outcome.day: outcome for outcome in outcomes}
        self._note(group, pieces, known)
        _log(group, outcomes)
        for piece in pieces:
            outcome = known.get(piece.day)
            if outcome is None:
                piece.is_over = False
                continue
            if outcome.status != "ERROR":
                self._shelf.drop(part.key for part in piece.parts)
            piece.parts.clear()
        return Published(outcomes, trouble)

    def fail(self, group: Group, days: Sequence[dt.date], text: str) -> list[PieceOutcome]:
        """Note that days could not be downloaded."""
        note = ErrorNote(text, self._now_ns())
        try:
            note_days(self._root, group.bar_size, group.symbol, errors=dict.fromkeys(days, note))
        except StoreError as error:
            logger.warning("%s: the errors are not noted: %s", group.label, error)
        return [_error(group, day, text) for day in days]

    def _is_lost(self, error: StoreError) -> bool:
        return (
            isinstance(error, StorageGuardHit) or error.errno in _DISK_IS_LOST or error.path == self._root.bars_manifest
        )

    def _take(self, group: Group, window: DayWindow) -> Part | None:
        key = group.shelf_key(window)
        table = self._shelf.get(key)
        if table is None:
            return None
        metadata = table.schema.metadata or {}
        try:
            asked_at_ns, is_sandbox = int(metadata[_ASKED_AT]), metadata[_SANDBOX] == b"1"
        except (KeyError, ValueError):
            return None
        if self._scope.force and asked_at_ns < self._now_ns() - _FORCED_KEEP_NS:
            return None
        return Part(group.bar_size, window, table.replace_schema_metadata(None), asked_at_ns, key, is_sandbox)

    def _publish(self, group: Group, piece: Piece) -> PieceOutcome:
        new = pa.concat_tables([part.table.replace_schema_metadata(None) for part in piece.parts])
        is_proof = all(part.is_proof for part in piece.parts)
        if not new.num_rows and not is_proof:
            raise _CannotPublishError(
                f"the broker has no bars of it, but it lies at the edge of the {REACH_DAYS[group.bar_size]} days for "
                "which it keeps them: that proves nothing"
            )
        old = self._old(group, piece)
        before = None if old is None else read_day(old.path)
        bars = merge(before, new)
        if not bars.num_rows:
            return PieceOutcome(group.symbol, group.bar_size, piece.day, "EMPTY")
        whole = day_window(piece.day, use_rth=self._scope.use_rth)
        metadata = BarsMetadata(
            symbol=group.symbol,
            bar_size=group.bar_size,
            source="ibkr",
            session_date=piece.day,
            what_to_show=self._scope.what_to_show,
            use_rth=self._scope.use_rth,
            price_adjustment="raw",
            complete=(
                is_proof and piece.window.end_ns >= whole.end_ns and all(part.is_settled for part in piece.parts)
            ),
            producer=producer(sandbox=self._is_sandbox(piece, old)),
        )
        if old is not None and old.metadata == metadata and bars.equals(before):
            return PieceOutcome(group.symbol, group.bar_size, piece.day, "SKIP", old.rows)
        first_ns, last_ns = ns_from_iso_utc(bars.column("timestamp"))[[0, -1]].tolist()
        published = publish_day(self._root, metadata, bars, is_sparse=_is_sparse(metadata, first_ns, last_ns))
        return PieceOutcome(group.symbol, group.bar_size, piece.day, "WRITE", published.rows, published.path)

    def _old(self, group: Group, piece: Piece) -> ExistingBars | None:
        if not piece.is_resumed:
            return None
        old = existing(self._root, group.bar_size, group.symbol, piece.day)
        if old is None:
            raise _CannotPublishError("the file to be completed has gone meanwhile; run again")
        return old

    @staticmethod
    def _is_sandbox(piece: Piece, old: ExistingBars | None) -> bool:
        invented = {part.is_sandbox for part in piece.parts}
        if old is not None and old.metadata is not None:
            invented.add(old.metadata.producer.endswith("(sandbox)"))
        if len(invented) > 1:
            raise _CannotPublishError(
                "one part of the day was invented by the sandbox, the other was not: download it as a whole "
                "(--force-bars), or use another data root for the sandbox"
            )
        return invented.pop()

    def _note(self, group: Group, pieces: Iterable[Piece], known: dict[dt.date, PieceOutcome]) -> None:
        kind = kind_text(self._scope.what_to_show, self._scope.use_rth)
        empty = {
            piece.day: EmptyNote(kind, piece.asked_at_ns)
            for piece in pieces
            if (outcome := known.get(piece.day)) is not None and outcome.status == "EMPTY"
        }
        errors = {day: ErrorNote(each.error, self._now_ns()) for day, each in known.items() if each.error is not None}
        same = [day for day, each in known.items() if each.status == "SKIP"]
        if not empty and not errors and not same:
            return
        try:
            note_days(self._root, group.bar_size, group.symbol, empty=empty, errors=errors, cleared=same)
        except StoreError as error:
            logger.warning("%s: days without bars are not noted and will be asked for again: %s", group.label, error)


def remember(root: DataRoot, plan: BarsPlan) -> None:
    """Note what a plan had to open files for, so that the next one need not."""
    for group in plan.groups:
        if not group.opened and group.seen is None:
            continue
        try:
            note_files(root, group.bar_size, group.symbol, group.opened, seen=group.seen)
        except StoreError as error:
            logger.warning("%s %s: what its files are is not noted: %s", group.symbol, group.bar_size, error)


def list_again(root: DataRoot, plan: GroupPlan, *, is_stopping: Callable[[], bool]) -> None:
    """Write the ledger lines of files of ours that have none; for whoever has claimed the group."""
    for day in sorted(plan.unlisted):
        if is_stopping():
            return
        known = existing(root, plan.bar_size, plan.symbol, day)
        if known is None or known.metadata is None:
            continue
        is_sparse = _is_sparse(known.metadata, known.first_ns, known.last_ns)
        try:
            publish_day(root, known.metadata, read_day(known.path), is_sparse=is_sparse)
        except StoreError as error:
            logger.warning("%s has no ledger line, and none could be written: %s", known.path, error)
        else:
            logger.warning("%s had no ledger line; one was written", known.path)


def _is_sparse(metadata: BarsMetadata, first_ns: int, last_ns: int) -> bool:
    """Whether the first and last bar do not tell that a day is complete."""
    whole = day_window(metadata.session_date, use_rth=metadata.use_rth)
    bar_ns = BAR_SECONDS[metadata.bar_size] * _NS
    return first_ns > whole.start_ns + bar_ns or last_ns < whole.end_ns - bar_ns


def _log(group: Group, outcomes: Iterable[PieceOutcome]) -> None:
    written, empty = [], []
    for outcome in outcomes:
        if outcome.error is not None:
            logger.warning("%s: %s", outcome.label, outcome.error)
        elif outcome.status == "WRITE":
            written.append(outcome)
        elif outcome.status == "EMPTY":
            empty.append(outcome.day)
    if written:
        rows = sum(outcome.rows for outcome in written)
        logger.info("%s %s: %d bars written", group.label, days_text(outcome.day for outcome in written), rows)
    if empty:
        logger.info("%s %s: the broker has none", group.label, days_text(empty))


def _error(group: Group, day: dt.date, text: str) -> PieceOutcome:
    return PieceOutcome(group.symbol, group.bar_size, day, "ERROR", error=text)

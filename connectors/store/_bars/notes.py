"""Notes of a group: what no ledger line can say, and what would take opening files to know.

Which days the vendor has no bars for, the last errors, the kinds of bars, which days are whole or cut short.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from connectors.store._bars.group import Group
from connectors.store._bars.whole import WholeDays, WholeNote
from connectors.store.atomic import atomic_path
from connectors.store.errors import store_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from connectors.store._bars.files import BarsFooter
    from contracts.layout import BarSize, DataRoot

_log = logging.getLogger(__name__)

ALL_DAYS: Final = (date.min, date.max)
"""`seen` of a group whose first file was published with its notes."""

_NEIGHBOURS: Final = timedelta(days=5)


class EmptyNote(NamedTuple):
    """The vendor has no bars of a day.

    Attributes:
        kind: What was asked for, see `kind_text`.
        asked_at_ns: When, nanoseconds since 1970 UTC.
    """

    kind: str
    asked_at_ns: int


class ErrorNote(NamedTuple):
    """Why a day could not be downloaded the last time.

    Attributes:
        text: The reason, without secrets and account numbers.
        at_ns: When, nanoseconds since 1970 UTC.
    """

    text: str
    at_ns: int


@dataclass(frozen=True)
class BarsNotes:
    """The notes of one symbol and bar size.

    Attributes:
        kinds: Every kind of bars that was ever published or found in the group, see `kind_text`.
        empty: Days without bars at the vendor.
        errors: Days whose last try failed.
        whole: Complete days of which the times of the first and last bar do not tell it.
        cut: Days that were published before all of their bars could be had.
        seen: First and last of the days whose files are known to be of `kinds`; `cut` names those of them that are cut
            short. Files of other days were put there by others, or are older than the notes. None: all of them.
        invented: A sandbox gateway's bars were published in the group.
    """

    kinds: frozenset[str] = frozenset()
    empty: Mapping[date, EmptyNote] = field(default_factory=dict)
    errors: Mapping[date, ErrorNote] = field(default_factory=dict)
    whole: WholeDays = field(default_factory=WholeDays)
    cut: frozenset[date] = frozenset()
    seen: tuple[date, date] | None = None
    invented: bool = False


def load_notes(root: DataRoot, bar_size: BarSize, symbol: str) -> BarsNotes:
    """Read the notes of a symbol and bar size; none, and a log line, when the file is damaged.

    Raises:
        StoreError: They cannot be read.
        InvalidName: There is no such bar size.
        InvalidSymbol: The symbol has no canonical form.
    """
    return read_notes(Group(root, bar_size, symbol))


def note_days(
    root: DataRoot,
    bar_size: BarSize,
    symbol: str,
    *,
    empty: Mapping[date, EmptyNote] | None = None,
    errors: Mapping[date, ErrorNote] | None = None,
    cleared: Iterable[date] = (),
) -> BarsNotes:
    """Change the notes of many days with one write; no write when nothing changes.

    What `publish_day` publishes is noted and cleared by itself.

    Args:
        root: The data root.
        bar_size: `1 hour`, `1 min` or `1 sec`.
        symbol: In any spelling.
        empty: Days found without bars; their error is forgotten.
        errors: Days that failed; that the vendor had none before stays noted.
        cleared: Days that are neither empty nor failed, unless `empty` or `errors` have them.

    Returns:
        The notes as they are now.

    Raises:
        StoreBusy: Somebody held the group's lock for a minute.
        StoreError: The disk refuses; the notes are as they were.
        InvalidName: There is no such bar size.
        InvalidSymbol: The symbol has no canonical form.
    """
    new_empty, new_errors, gone = empty or {}, errors or {}, set(cleared)

    def change(old: BarsNotes) -> BarsNotes:
        kept = {day: note for day, note in old.errors.items() if day not in gone and day not in new_empty}
        return replace(
            old,
            empty={**{day: note for day, note in old.empty.items() if day not in gone}, **new_empty},
            errors={**kept, **new_errors},
        )

    group = Group(root, bar_size, symbol)
    with group.locked():
        return change_notes(group, change)


def note_files(
    root: DataRoot,
    bar_size: BarSize,
    symbol: str,
    footers: Iterable[BarsFooter],
    *,
    seen: tuple[date, date] | None = None,
) -> BarsNotes:
    """Note what footers say, so that the files need not be opened again; no write when nothing changes.

    Args:
        root: The data root.
        bar_size: `1 hour`, `1 min` or `1 sec`.
        symbol: In any spelling.
        footers: As `footer` found them; those of files that were replaced meanwhile are passed over.
        seen: First and last of the days whose files need not be looked at for their kind any more; joined to what was
            seen before where they touch, else in place of it.

    Returns:
        The notes as they are now.

    Raises:
        StoreBusy: Somebody held the group's lock for a minute.
        StoreError: The disk refuses; the notes are as they were.
        InvalidName: There is no such bar size.
        InvalidSymbol: The symbol has no canonical form.
    """
    group = Group(root, bar_size, symbol)
    with group.locked():
        same = [each for each in footers if each.is_unchanged(root.bars_path(bar_size, group.symbol, each.day))]
        kinds = {each.kind for each in same if each.kind is not None}
        whole = {each.day: WholeNote(each.kind, each.rows) for each in same if each.kind is not None and each.complete}
        cut = {each.day for each in same if each.kind is not None and not each.complete}

        def change(old: BarsNotes) -> BarsNotes:
            return replace(
                old,
                kinds=old.kinds | kinds,
                whole=WholeDays({**{day: note for day, note in old.whole.items() if day not in cut}, **whole}),
                cut=(old.cut | cut) - whole.keys(),
                seen=_joined(old.seen, seen),
            )

        return change_notes(group, change)


def read_notes(group: Group) -> BarsNotes:
    """As `load_notes`."""
    path = group.notes_path
    with store_errors("read", path):
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return BarsNotes()
    try:
        return _of_document(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        # Written atomically, so the damage is not ours; the files are looked at once more.
        _log.warning("the notes %s are damaged and count as none: %s", path, error)
        return BarsNotes()


def change_notes(group: Group, change: Callable[[BarsNotes], BarsNotes]) -> BarsNotes:
    """Change the notes, with the group's lock held; no write when nothing changes.

    Raises:
        StoreError: The disk refuses; the notes are as they were.
    """
    old = read_notes(group)
    new = change(old)
    if new == old:
        return old
    if new.seen is None and not _has_files(group):
        new = replace(new, seen=ALL_DAYS)
    text = json.dumps(_to_document(new), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    with atomic_path(group.notes_path) as temp:
        temp.write_bytes(text.encode() + b"\n")
    return new


def _has_files(group: Group) -> bool:
    with store_errors("list", group.days_folder):
        try:
            with os.scandir(group.days_folder) as entries:
                return any(entry.name.endswith(".parquet") for entry in entries)
        except FileNotFoundError:
            return False


def _joined(old: tuple[date, date] | None, new: tuple[date, date] | None) -> tuple[date, date] | None:
    if old is None or new is None:
        return new or old
    apart = max(old[0], new[0]).toordinal() - min(old[1], new[1]).toordinal()
    # A long weekend lies between days that follow each other.
    return new if timedelta(apart) > _NEIGHBOURS else (min(old[0], new[0]), max(old[1], new[1]))


def _to_document(notes: BarsNotes) -> dict[str, Any]:
    return {
        "kinds": sorted(notes.kinds),
        "empty": {day.isoformat(): notes.empty[day] for day in sorted(notes.empty)},
        "errors": {day.isoformat(): notes.errors[day] for day in sorted(notes.errors)},
        "whole": notes.whole.to_document(),
        "cut": [day.isoformat() for day in sorted(notes.cut)],
        "seen": None if notes.seen is None else [day.isoformat() for day in notes.seen],
        "invented": notes.invented,
    }


def _of_document(document: Any) -> BarsNotes:
    kinds = frozenset(document["kinds"])
    empty = {_day(text): EmptyNote(*note) for text, note in document["empty"].items()}
    errors = {_day(text): ErrorNote(*note) for text, note in document["errors"].items()}
    # The first notes of this system had no more.
    whole = WholeDays.of_document(document.get("whole", {}))
    cut = frozenset(map(_day, document.get("cut", ())))
    seen = document.get("seen")
    if not all(isinstance(kind, str) for kind in kinds):
        raise TypeError("a kind is not a text")
    for note in (*empty.values(), *errors.values()):
        if not isinstance(note[0], str) or type(note[1]) is not int:
            raise TypeError(f"{note!r} is not a text and a number")
    if seen is not None:
        first, last = map(_day, seen)
        seen = first, last
    return BarsNotes(kinds, empty, errors, whole, cut, seen, document.get("invented") is True)


def _day(text: str) -> date:
    return date.fromisoformat(text)

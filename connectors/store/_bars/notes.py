"""Notes of a group: what no ledger line can say. Which days the vendor has no bars for, the last errors, the kinds."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from connectors.store._bars.group import Group
from connectors.store.atomic import atomic_path
from connectors.store.errors import store_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from contracts.layout import BarSize, DataRoot

_log = logging.getLogger(__name__)


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
        kinds: Every kind of bars that was ever published in the group, see `kind_text`.
        empty: Days without bars at the vendor.
        errors: Days whose last try failed.
    """

    kinds: frozenset[str] = frozenset()
    empty: Mapping[date, EmptyNote] = field(default_factory=dict)
    errors: Mapping[date, ErrorNote] = field(default_factory=dict)


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
    kind: str | None = None,
) -> BarsNotes:
    """Change the notes of many days with one write; no write when nothing changes.

    What `publish_day` publishes is noted and cleared by itself.

    Args:
        root: The data root.
        bar_size: `1 hour`, `1 min` or `1 sec`.
        symbol: In any spelling.
        empty: Days found without bars; their error is forgotten.
        errors: Days that failed; that the vendor had none before stays noted.
        cleared: Days of which nothing is to be noted, unless `empty` or `errors` have them.
        kind: A kind that is published in this group.

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
        return change_notes(group, empty=empty or {}, errors=errors or {}, cleared=cleared, kind=kind)


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
        # Written atomically, so the damage is not ours; at worst some days are asked for once more.
        _log.warning("the notes %s are damaged and count as none: %s", path, error)
        return BarsNotes()


def change_notes(
    group: Group,
    *,
    empty: Mapping[date, EmptyNote] | None = None,
    errors: Mapping[date, ErrorNote] | None = None,
    cleared: Iterable[date] = (),
    kind: str | None = None,
) -> BarsNotes:
    """As `note_days`, with the group's lock held."""
    old = read_notes(group)
    gone = set(cleared)
    new = BarsNotes(
        old.kinds if kind is None else old.kinds | {kind},
        {**{day: note for day, note in old.empty.items() if day not in gone}, **(empty or {})},
        {
            **{day: note for day, note in old.errors.items() if day not in gone and day not in (empty or {})},
            **(errors or {}),
        },
    )
    if new != old:
        text = json.dumps(_to_document(new), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        with atomic_path(group.notes_path) as temp:
            temp.write_bytes(text.encode() + b"\n")
    return new


def _to_document(notes: BarsNotes) -> dict[str, Any]:
    return {
        "kinds": sorted(notes.kinds),
        "empty": {day.isoformat(): notes.empty[day] for day in sorted(notes.empty)},
        "errors": {day.isoformat(): notes.errors[day] for day in sorted(notes.errors)},
    }


def _of_document(document: Any) -> BarsNotes:
    kinds = frozenset(document["kinds"])
    empty = {_day(text): EmptyNote(*note) for text, note in document["empty"].items()}
    errors = {_day(text): ErrorNote(*note) for text, note in document["errors"].items()}
    if not all(isinstance(kind, str) for kind in kinds):
        raise TypeError("a kind is not a text")
    for note in (*empty.values(), *errors.values()):
        if not isinstance(note[0], str) or type(note[1]) is not int:
            raise TypeError(f"{note!r} is not a text and a time in nanoseconds")
    return BarsNotes(kinds, empty, errors)


def _day(text: str) -> date:
    return date.fromisoformat(text)

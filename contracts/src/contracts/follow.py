"""Follow a JSON Lines file of the data root: what is new since a cursor, as checked models.

For the backfill manifest, the bars manifest and the gaps file. Only bytes behind the cursor are read, and whole lines
only. How lines are found and a file is known again is in `_follow_lines`; what the lines say is in `contracts.v1`.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, get_args

from contracts._follow_lines import NOTHING, NotAFileError, Place, RawLine, whole_lines
from contracts.errors import ContractError, InvalidDocument, UnknownSchemaVersion, shown
from contracts.layout import BarSize
from contracts.symbols import canonical_symbol
from contracts.v1._model import Contract, parse_json
from contracts.v1.backfill import (
    MANIFEST_VERSION,
    OLD_STATUS_WORDS,
    BackfillManifestLine,
    BackfillStatus,
    parse_manifest_line,
)
from contracts.v1.bars import MANIFEST_VERSION as BARS_VERSION
from contracts.v1.bars import BarsManifestLine, parse_bars_manifest_line
from contracts.v1.gaps import SCHEMA_VERSION as GAP_VERSION
from contracts.v1.gaps import Gap, parse_gap_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable

__all__ = ["Cursor", "Followed", "Skipped", "follow_backfill", "follow_bars", "follow_gaps"]

LineT = TypeVar("LineT", bound=Contract)

_CURSOR_VERSION: Final = "follow_cursor.v1"
_KINDS: Final = (MANIFEST_VERSION, BARS_VERSION, GAP_VERSION)
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Cursor:
    """How far a file was read, and by what it is known again; to be kept as text between runs.

    Attributes:
        kind: What the file holds: `backfill_l2_manifest.v1`, `bars_manifest.v1` or `l2_gap.v1`.
        offset: Bytes read, whole lines.
        line: Lines read.
        head: SHA-256 of the first 4 KiB, or of all bytes read when they are fewer.
        tail: SHA-256 of the last 4 KiB read, likewise.

    Raises:
        InvalidDocument: The parts make no cursor.
    """

    kind: str
    offset: int = 0
    line: int = 0
    head: str = NOTHING
    tail: str = NOTHING

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise _bad_cursor(f"{shown(self.kind)} is none of {', '.join(_KINDS)}", "kind")
        for name in ("offset", "line"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < 2**63:
                raise _bad_cursor(f"{shown(value)} is not a whole number from 0", name)
        if self.line > self.offset:
            raise _bad_cursor(f"{self.line} lines do not fit into {self.offset} bytes", "line")
        for name in ("head", "tail"):
            value = getattr(self, name)
            if not isinstance(value, str) or not _HASH.fullmatch(value):
                raise _bad_cursor(f"{shown(value)} is not a SHA-256 in hex", name)

    def to_json(self) -> str:
        """Return the cursor as one line of ASCII JSON without a line end."""
        return json.dumps({"schema_version": _CURSOR_VERSION, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote.

        Raises:
            UnknownSchemaVersion: It is a cursor of another version of this package.
            InvalidDocument: It is not a cursor.
        """
        document = parse_json(text, _CURSOR_VERSION)
        if not isinstance(document, dict):
            raise _bad_cursor("it is not a JSON object")
        found = document.pop("schema_version", None)
        if found != _CURSOR_VERSION:
            raise UnknownSchemaVersion(found, [_CURSOR_VERSION])
        names = set(cls.__dataclass_fields__)
        if set(document) != names:
            raise _bad_cursor(f"its keys are not schema_version, {', '.join(sorted(names))}")
        return cls(**document)


@dataclass(frozen=True)
class Skipped:
    """A line that could not be read and was passed over.

    Attributes:
        path: The file.
        offset: Where the line begins, in bytes.
        line: Its number, from 1; 0 when the whole file could not be read.
        reason: What is wrong with it.
    """

    path: Path
    offset: int
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line} at byte {self.offset}: {self.reason}"


@dataclass(frozen=True)
class Followed(Generic[LineT]):
    """What was new.

    Attributes:
        lines: The lines that passed the filters, in the order of the file.
        cursor: Give it to the next call.
        skipped: Lines that could not be read; blank ones are not told.
        restarted: Why the cursor did not fit the file, so that it was read from its beginning: what earlier calls gave
            is to be forgotten. None when all is as it should be.
        more: Whether whole lines are left because `most_lines` was reached.
    """

    lines: list[LineT]
    cursor: Cursor
    skipped: list[Skipped]
    restarted: str | None = None
    more: bool = False


def follow_backfill(
    path: str | Path,
    cursor: Cursor | None = None,
    *,
    status: str | Collection[str] | None = None,
    symbol: str | None = None,
    newest: bool = False,
    most_lines: int | None = None,
) -> Followed[BackfillManifestLine]:
    """Return the lines of a backfill manifest behind a cursor.

    A last line without its line end is left for the next call. Torn, foreign and other damaged lines are skipped and
    told; a byte order mark at the beginning of the file and CRLF line ends are survived. A file that was truncated,
    replaced or rewritten is noticed by its content (the first 4 KiB and the last 4 KiB before the cursor) and read
    from its beginning. One that does not exist has no lines and the cursor at its beginning. Time and memory go with
    the bytes read; with `most_lines` memory is bounded.

    Args:
        path: The manifest.
        cursor: What the last call returned; None reads from the beginning.
        status: Only lines of this status or these; `WRITTEN` and `SKIPPED` mean WRITE and SKIP.
        symbol: Only lines of this symbol, in any spelling.
        newest: Only the last line of each symbol and day among those that pass the other filters in this call.
        most_lines: Stop after so many lines of the file, whether they pass or not; call again while `more` is true.

    Raises:
        InvalidDocument: The cursor is of another kind of file, the path is no regular file, or `status` is no status.
        InvalidSymbol: `symbol` has no canonical form.
        OSError: The file exists but cannot be read.
    """
    statuses = None if status is None else _statuses([status] if isinstance(status, str) else status)
    wanted = None if symbol is None else canonical_symbol(symbol)

    def passes(line: BackfillManifestLine) -> bool:
        return (statuses is None or line.status in statuses) and wanted in (None, line.symbol)

    key = (lambda line: (line.symbol, line.date)) if newest else None
    return _follow(Path(path), cursor, MANIFEST_VERSION, parse_manifest_line, passes, key, most_lines)


def follow_bars(
    path: str | Path,
    cursor: Cursor | None = None,
    *,
    symbol: str | None = None,
    bar_size: BarSize | None = None,
    newest: bool = False,
    most_lines: int | None = None,
) -> Followed[BarsManifestLine]:
    """Return the lines of a bars download manifest behind a cursor; old forms are read as `contracts.v1.bars` says.

    Args:
        path: The manifest.
        cursor: As `follow_backfill`.
        symbol: Only lines of this symbol, in any spelling.
        bar_size: Only lines of this bar size.
        newest: Only the last line of each symbol, bar size and path among those that pass, in this call.
        most_lines: As `follow_backfill`.

    Raises:
        InvalidDocument: As `follow_backfill`, or `bar_size` is none.
        InvalidSymbol: `symbol` has no canonical form.
        OSError: The file exists but cannot be read.
    """
    if bar_size is not None and bar_size not in get_args(BarSize):
        raise InvalidDocument(BARS_VERSION, f"{shown(bar_size)} is none of {', '.join(get_args(BarSize))}")
    wanted = None if symbol is None else canonical_symbol(symbol)

    def passes(line: BarsManifestLine) -> bool:
        return wanted in (None, line.symbol) and bar_size in (None, line.bar_size)

    key = (lambda line: (line.symbol, line.bar_size, line.path)) if newest else None
    return _follow(Path(path), cursor, BARS_VERSION, parse_bars_manifest_line, passes, key, most_lines)


def follow_gaps(
    path: str | Path, cursor: Cursor | None = None, *, symbol: str | None = None, most_lines: int | None = None
) -> Followed[Gap]:
    """Return the records of a gaps file behind a cursor.

    Args:
        path: The gaps file.
        cursor: As `follow_backfill`.
        symbol: Only records of this symbol, in any spelling.
        most_lines: As `follow_backfill`.

    Raises:
        InvalidDocument: As `follow_backfill`.
        InvalidSymbol: `symbol` has no canonical form.
        OSError: The file exists but cannot be read.
    """
    wanted = None if symbol is None else canonical_symbol(symbol)
    return _follow(
        Path(path), cursor, GAP_VERSION, parse_gap_line, lambda gap: wanted in (None, gap.symbol), None, most_lines
    )


def read_line(path: Path, raw: RawLine, parse: Callable[[bytes], LineT]) -> LineT | Skipped | None:
    """Return the model of a line, why it has none, or None for a blank line."""
    if raw.text is None:
        return Skipped(path, raw.offset, raw.number, "longer than 1 MB")
    if not raw.text.strip():
        return None
    try:
        return parse(raw.text)
    except InvalidDocument as error:
        reason = error.reason if error.field is None else f"{error.field}: {error.reason}"
    except UnknownSchemaVersion as error:
        reason = f"schema_version {shown(error.found)} is unknown"
    except ContractError as error:
        reason = str(error)
    return Skipped(path, raw.offset, raw.number, reason)


def _follow(
    path: Path,
    cursor: Cursor | None,
    kind: str,
    parse: Callable[[bytes], LineT],
    passes: Callable[[LineT], bool],
    key: Callable[[LineT], Hashable] | None,
    most_lines: int | None,
) -> Followed[LineT]:
    at = Cursor(kind) if cursor is None else cursor
    if not isinstance(at, Cursor):
        raise _bad_cursor(f"it is a {type(at).__name__}, not a Cursor; a kept text is read by Cursor.from_json")
    if at.kind != kind:
        raise _bad_cursor(f"it is a cursor of {at.kind}, the file is to be read as {kind}", "kind")
    if most_lines is not None and most_lines < 1:
        raise ValueError(f"most_lines must be at least 1, not {most_lines}")
    place = Place(at.offset, at.line, at.head, at.tail)
    kept: dict[Any, LineT] = {}
    skipped: list[Skipped] = []
    try:
        with whole_lines(path, place) as reader:
            if reader is None:
                gone = "the file is not there any more" if at.offset else None
                return Followed([], Cursor(kind), [], gone)
            stop_line = None if most_lines is None else reader.place.line + most_lines
            for raw in reader:
                line = read_line(path, raw, parse)
                if isinstance(line, Skipped):
                    skipped.append(line)
                elif line is not None and passes(line):
                    name = raw.offset if key is None else key(line)
                    kept.pop(name, None)
                    kept[name] = line
                if raw.number == stop_line:
                    break
            more = stop_line is not None and reader.has_more()
            end = reader.place
            return Followed(
                list(kept.values()),
                Cursor(kind, end.offset, end.line, end.head, end.tail),
                skipped,
                reader.restarted,
                more,
            )
    except NotAFileError:
        raise InvalidDocument(kind, f"{path} is not a regular file") from None


def _statuses(words: Collection[str]) -> frozenset[str]:
    found = frozenset(OLD_STATUS_WORDS.get(word, word) for word in words)
    unknown = sorted(found - set(get_args(BackfillStatus)))
    if unknown:
        known = ", ".join(get_args(BackfillStatus))
        raise InvalidDocument(MANIFEST_VERSION, f"{shown(unknown[0])} is none of {known}", field="status")
    return found


def _bad_cursor(reason: str, field: str | None = None) -> InvalidDocument:
    return InvalidDocument(_CURSOR_VERSION, reason, field=field)

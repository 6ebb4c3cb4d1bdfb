"""The folder of a capture session: made, locked, listed and removed; segments and stats are in the other modules."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from connectors.store._live.segments import PublishedSegment
from connectors.store.atomic import fsync_folder, make_folder, write_json_atomic
from connectors.store.errors import StoreError, store_errors
from connectors.store.locks import lock_file, try_lock_path, unlock
from contracts.symbols import canonical_symbol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from contracts.layout import DataRoot

_log = logging.getLogger(__name__)

CAPTURE_DIRNAME: Final = ".capture"
LOCK_TIMEOUT_S: Final = 60.0
"""The locks of names and sessions are held for milliseconds: whoever holds one this long is stopped."""

_SPEC: Final = "session.json"
_LOCK: Final = "lock"
_SEGMENTS: Final = "segments.jsonl"
_SESSIONS_LOCK: Final = ".sessions.lock"
_SESSION_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_JOURNAL_NAME: Final = re.compile(r"(?P<symbol>[A-Z][A-Z0-9-]{0,14})-(?P<number>[0-9]{6,})\.journal")
_DISCARDED: Final = re.compile(r"\.[A-Za-z0-9_-]+\.[0-9a-f]{8}\.discarded")
# What a recorder has written when it dies before its first journal.
_FIRST_FILES: Final = re.compile(r"session\.json|lock|\.session\.json\..+\.tmp|\..+\.journal\..+\.tmp")


@dataclass(frozen=True)
class JournalFile:
    """A journal that waits for publication, or is still written.

    Attributes:
        symbol: Canonical symbol.
        number: Of the segment.
        path: Where.
    """

    symbol: str
    number: int
    path: Path


class CaptureFolder:
    """`<root>/.capture/<session_id>`; nothing is created by making this object.

    Whoever runs the session holds its lock (`create`, or `open_dead` for a session whose recorder died). A child
    process that publishes segments for it uses the object without the lock.

    Args:
        root: The data root.
        session_id: Letters, digits, `-` and `_`, 1 to 64, a letter or digit first.

    Attributes:
        root: The data root.
        session_id: As given.
        path: The folder.

    Raises:
        ValueError: The session id is not of that form.
    """

    def __init__(self, root: DataRoot, session_id: str) -> None:
        if not _SESSION_ID.fullmatch(session_id):
            raise ValueError(
                f"the session id {session_id!r} is none: 1 to 64 letters, digits, - and _, a letter or digit first"
            )
        self.root = root
        self.session_id = session_id
        self.path = _capture_dir(root) / session_id

    @contextmanager
    def create(self, spec: Mapping[str, Any]) -> Iterator[CaptureFolder]:
        """Begin a session: make the folder, take its lock, write `session.json`; free the lock when the block ends.

        The folder stays until `remove`.

        Args:
            spec: What the session is; values that JSON has.

        Yields:
            This object.

        Raises:
            StoreError: A session of this id exists, or the disk refuses.
            ValueError: The spec has NaN.
        """
        json.dumps(spec, allow_nan=False)
        with ExitStack() as held:
            with _sessions_lock(self.root):
                if os.path.lexists(self.path):
                    raise StoreError(
                        f"the capture session {self.path} exists already and stays as it is; take another id.",
                        path=self.path,
                    )
                make_folder(self.path)
                try:
                    held.enter_context(self._lock())
                    write_json_atomic(self.path / _SPEC, spec)
                except StoreError:
                    _discard(self.path)
                    raise
            yield self

    @contextmanager
    def open_dead(self) -> Iterator[CaptureFolder]:
        """Take over a session whose recorder died: hold its lock for the block.

        Yields:
            This object.

        Raises:
            StoreBusy: Its recorder lives, or somebody else recovers it.
            StoreError: There is no such session (it was recovered meanwhile), or the disk refuses.
        """
        with ExitStack() as held:
            with _sessions_lock(self.root):
                if not self.path.is_dir():
                    raise StoreError(f"there is no capture session {self.path}; nothing was done.", path=self.path)
                held.enter_context(self._lock())
            yield self

    def spec(self) -> dict[str, Any]:
        """Read `session.json`.

        Raises:
            StoreError: It cannot be read or is damaged.
        """
        path = self.path / _SPEC
        with store_errors("read", path):
            text = path.read_bytes()
        spec = _json_object(text)
        if spec is None:
            raise StoreError(
                f"{path} is damaged ({text[:60]!r}), so this session cannot be recovered by itself; its journals stay. "
                "Restore the file from a backup, or move the folder away.",
                path=path,
            )
        return spec

    def journal_path(self, symbol: str, number: int) -> Path:
        """Return where the journal of a segment lies: `<SYMBOL>-<number>.journal`, six digits or more.

        Raises:
            ValueError: The symbol is not canonical, or the number is negative.
        """
        return self.path / f"{_segment_name(symbol, number)}.journal"

    def claim_path(self, symbol: str, number: int) -> Path:
        """Return where the names that a segment claimed are remembered.

        Raises:
            ValueError: As `journal_path`.
        """
        return self.path / f"{_segment_name(symbol, number)}.claim.json"

    def journals(self) -> list[JournalFile]:
        """List the journals that are not published yet, by symbol and number.

        Raises:
            StoreError: The folder cannot be read.
        """
        with store_errors("list", self.path):
            return _journals(self.path)

    def segments(self, symbol: str | None = None) -> list[PublishedSegment]:
        """List the published segments, of one symbol if given, by symbol and number.

        Raises:
            StoreError: The list cannot be read.
        """
        path = self.segments_path
        try:
            with store_errors("read", path):
                text = path.read_bytes()
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return []
            raise
        found: dict[tuple[str, int], PublishedSegment] = {}
        # What follows the last line end is the torn line of a crash; its journal is still there.
        for line in text.split(b"\n")[:-1]:
            try:
                segment = PublishedSegment.from_document(json.loads(line))
            except (ValueError, KeyError, TypeError):
                _log.warning("a line of %s is damaged and ignored: %r", path, line[:60])
                continue
            if symbol in (None, segment.symbol):
                found[segment.symbol, segment.number] = segment
        return [found[key] for key in sorted(found)]

    def remove(self) -> None:
        """Remove the folder; after a kill in between, the next `dead_sessions` does the rest. Needs the lock.

        Raises:
            StoreError: A journal is not published yet, or the disk refuses.
        """
        with _sessions_lock(self.root):
            left = self.journals()
            if left:
                raise StoreError(
                    f"{self.path} stays: {len(left)} journals are not published yet, the first is {left[0].path.name}.",
                    path=self.path,
                )
            _discard(self.path)

    @property
    def segments_path(self) -> Path:
        """The list of published segments."""
        return self.path / _SEGMENTS

    def stats_claim_path(self, symbol: str) -> Path:
        """Return where the name of a symbol's stats file is remembered.

        Raises:
            ValueError: The symbol is not canonical.
        """
        return self.path / f"{_checked(symbol)}.stats.json"

    @contextmanager
    def names_lock(self, symbol: str) -> Iterator[None]:
        """Be the only one below this root who takes names in the symbol's folder.

        Raises:
            StoreBusy: Another process held it for a minute.
            StoreError: The disk refuses.
            ValueError: The symbol is not canonical.
        """
        with lock_file(
            self.path.with_name(f"{_checked(symbol)}.lock"), run_id=self.session_id, timeout_s=LOCK_TIMEOUT_S
        ):
            yield

    def _lock(self) -> AbstractContextManager[None]:
        return lock_file(self.path / _LOCK, run_id=self.session_id, timeout_s=0)


def dead_sessions(root: DataRoot) -> list[str]:
    """List the sessions below a root whose recorder died, oldest first; what is none is left alone.

    A folder without a readable `session.json` and without a journal that has a line, as a kill right at the start
    leaves it, is removed and logged. One that has a journal is listed, and its `spec` says what is wrong. A folder
    that this user may not look at is logged.

    Raises:
        StoreError: The folders cannot be listed or locked.
    """
    capture = _capture_dir(root)
    if not capture.is_dir():
        return []
    dead: list[tuple[float, str]] = []
    with _sessions_lock(root), store_errors("list", capture):
        for entry in sorted(capture.iterdir()):
            if entry.is_symlink() or not entry.is_dir():
                continue
            if _DISCARDED.fullmatch(entry.name):
                shutil.rmtree(entry, ignore_errors=True)
            if not _SESSION_ID.fullmatch(entry.name):
                continue
            try:
                if _is_dead(entry) and _holds_something(entry):
                    dead.append((_begun_s(entry), entry.name))
            except OSError as error:
                _log.warning("cannot look at the capture session %s: %s", entry, error.strerror)
    return [name for _, name in sorted(dead)]


def living_sessions(root: DataRoot, *, besides: str, symbols: Collection[str]) -> list[tuple[str, list[str]]]:
    """List the sessions below a root whose recorder lives and which have one of these symbols; never raises.

    Args:
        root: The data root.
        besides: A session to leave out.
        symbols: Canonical symbols.

    Returns:
        Session and the symbols that it shares, sorted.
    """
    found: list[tuple[str, list[str]]] = []
    with suppress(OSError, StoreError):
        for entry in sorted(_capture_dir(root).iterdir()):
            if entry.name == besides or not _SESSION_ID.fullmatch(entry.name):
                continue
            with suppress(OSError, ValueError, TypeError, AttributeError):
                if not _is_dead(entry):
                    told = json.loads((entry / _SPEC).read_bytes()).get("symbols", [])
                    if shared := sorted(set(symbols) & set(told)):
                        found.append((entry.name, shared))
    return found


def claims_of(folder: CaptureFolder, symbol: str) -> Iterator[Path]:
    """Yield where the sessions below the folder's root remember names that they claimed for the symbol.

    Raises:
        StoreError: The sessions cannot be listed.
    """
    with store_errors("list", folder.path.parent):
        sessions = [entry for entry in folder.path.parent.iterdir() if _SESSION_ID.fullmatch(entry.name)]
    for session in sessions:
        # Sessions end meanwhile.
        with suppress(OSError):
            # BRK-* finds those of BRK-B too: the claim itself says whose it is.
            yield from [path for path in session.iterdir() if fnmatchcase(path.name, f"{symbol}-*.claim.json")]


def _capture_dir(root: DataRoot) -> Path:
    return root.path / CAPTURE_DIRNAME


@contextmanager
def _sessions_lock(root: DataRoot) -> Iterator[None]:
    # Without it, a folder that is just being made would look like that of a dead recorder.
    capture = _capture_dir(root)
    make_folder(capture)
    with lock_file(capture / _SESSIONS_LOCK, timeout_s=LOCK_TIMEOUT_S):
        yield


def _is_dead(path: Path) -> bool:
    try:
        fd = try_lock_path(path / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return True
    if fd is None:
        return False
    unlock(fd)
    return True


def _holds_something(path: Path) -> bool:
    """Tell a session from what a kill at its very start leaves, and remove the latter."""
    spec = path / _SPEC
    has_spec = spec.is_file() and _json_object(spec.read_bytes()) is not None
    if has_spec or _journals(path) or (path / _SEGMENTS).exists():
        return True
    if all(_FIRST_FILES.fullmatch(child.name) for child in path.iterdir()):
        _log.warning("removed the capture session %s: its recorder was killed before it began", path)
        _discard(path)
    return False


def _begun_s(path: Path) -> float:
    spec = path / _SPEC
    return (spec if spec.exists() else path).stat().st_mtime


def _journals(path: Path) -> list[JournalFile]:
    found = []
    for child in path.iterdir():
        parts = _JOURNAL_NAME.fullmatch(child.name)
        # On a disk without hard links a kill can leave a name with nothing behind it.
        if parts is not None and child.stat().st_size:
            found.append(JournalFile(parts["symbol"], int(parts["number"]), child))
    return sorted(found, key=lambda journal: (journal.symbol, journal.number))


def _discard(path: Path) -> None:
    """Remove a folder: the rename decides, and what a kill leaves of the rest is swept later."""
    with store_errors("remove", path):
        if path.exists():
            away = path.rename(path.with_name(f".{path.name}.{secrets.token_hex(4)}.discarded"))
            fsync_folder(path.parent)
            shutil.rmtree(away)


def _segment_name(symbol: str, number: int) -> str:
    if number < 0:
        raise ValueError(f"the segment number is {number}, it must be 0 or more")
    return f"{_checked(symbol)}-{number:06d}"


def _checked(symbol: str) -> str:
    if canonical_symbol(symbol) != symbol:
        raise ValueError(f"the symbol {symbol!r} is not canonical, write {canonical_symbol(symbol)}")
    return symbol


def _json_object(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None

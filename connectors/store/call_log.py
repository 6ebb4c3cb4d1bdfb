"""A log of calls that all processes of this machine share, and exact sliding windows over it; a small SQLite file.

`CallLog.enter` asks whether a call fits into all windows that it counts in, and enters it if so: one step, whoever
else does the same. What is limited and how much says the caller (`flows.limits`, `connectors.ibkr.pacing`). The log
survives a kill -9, a boot of the machine and damage; its folder must be on a local disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
import weakref
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import psutil

from connectors.store import _call_tables as tables
from connectors.store._call_tables import Counted
from connectors.store.atomic import make_folder
from connectors.store.errors import StoreBusy, StoreError
from connectors.store.locks import locked_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BUSY", "CallLog", "Clock", "Counted", "SystemClock"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_BUSY_NS: Final = 5 * 10**6
_LOOK_TIMEOUT_S: Final = 1.0
_NOT_OURS_TO_REPAIR: Final = frozenset(
    [
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
    ]
)
"""SQLite's codes for a disk that refuses; every other trouble is cured by a new file."""

BUSY: Final = "the log itself"
"""The name in a refusal when another process is at the file."""


class Clock(Protocol):
    """The time as limits see it; tests have their own."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds on a clock that never steps and is the same in all processes of this machine."""

    def wall_ns(self) -> int:
        """Return nanoseconds since the epoch."""

    def boot_id(self) -> str:
        """Return what tells this run of the machine from the one before, whose monotonic clock was another."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""


class SystemClock:
    """The machine's clocks.

    Args:
        speed: How much faster than the machine's this clock runs, for rehearsals against a sandbox that runs as fast;
            its seconds are that much shorter. The wall clock stays as it is.

    Raises:
        ValueError: The speed is not above 0.
    """

    def __init__(self, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError(f"a clock's speed must be above 0, not {speed}")
        self._speed = speed

    def monotonic_ns(self) -> int:
        """Return the system-wide monotonic clock."""
        now_ns = time.monotonic_ns()
        return now_ns if self._speed == 1 else int(now_ns * self._speed)

    def wall_ns(self) -> int:
        """Return the wall clock."""
        return time.time_ns()

    def boot_id(self) -> str:
        """Return the kernel's boot id, or the boot time where there is none."""
        with suppress(OSError):
            return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return str(round(psutil.boot_time()))

    def sleep(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds / self._speed)

    async def pause(self, seconds: float) -> None:
        """Sleep, and let the event loop go on."""
        await asyncio.sleep(seconds / self._speed)


class CallLog:
    """The log of all threads and processes that use the same file.

    Nothing is created before the first `enter`. When the file cannot be written, the log is kept in this process
    alone, and that is logged once. A damaged file is made anew, and for as long as a window is, that window counts as
    full: so even then no limit is passed.

    A lock file beside the SQLite file goes around every change: so a damaged file can be replaced while others wait,
    and a connection is never carried over a fork or kept on a file that is gone.

    Args:
        path: The SQLite file, in the cache folder; None keeps the log in memory.
        clock: The time.
        patience_s: When our own processes keep the file locked this long, it cannot be used; when another program
            does, it counts as damaged.
        blocks: Whether `enter` waits while somebody is at the file (less than a millisecond, as a rule), or refuses
            with `BUSY` so that the caller waits.
    """

    def __init__(
        self, path: Path | None, *, clock: Clock | None = None, patience_s: float = 10.0, blocks: bool = True
    ) -> None:
        self.path = path
        self.clock: Clock = clock or SystemClock()
        self._patience_s = patience_s
        self._blocks = blocks
        self._was_used = False
        self._busy_since_s: float | None = None
        self._is_file = path is not None
        self._memory: sqlite3.Connection | None = None
        self._guard = threading.Lock()

    def enter(self, uses: Sequence[Counted], *, ticket: str = "", since_ns: int = 0) -> dict[str, int]:
        """Enter a call if all its windows allow it.

        Args:
            uses: The windows it counts in, each name once.
            ticket: Keeps the place of a waiting call: what becomes free in the window that made it wait longest is not
                given to calls that came later. It ends when the call is entered or withdrawn, or a second after it
                should have asked again. Unique; of calls of one moment the lower goes first. Empty for none.
            since_ns: When the waiting call came, on the clock's monotonic time.

        Returns:
            Empty when it was entered. Else nothing was, and for each window or mark that refuses: the nanoseconds
            until it is worth asking again.
        """

        def act(base: sqlite3.Connection) -> dict[str, int]:
            return tables.enter(base, uses, ticket, since_ns, self.clock.monotonic_ns(), self.clock.wall_ns())

        try:
            return self._change(act, may_block=self._blocks)
        except StoreBusy:
            return {BUSY: _BUSY_NS}

    def withdraw(self, ticket: str) -> None:
        """Give up the place of a call that waits no longer."""
        # A busy file is not waited for: a ticket ends by itself.
        with suppress(StoreBusy):
            self._change(lambda base: tables.withdraw(base, ticket), may_block=self._blocks)

    def mark(self, name: str, lengths_ns: Sequence[int], *, calm_ns: int = 0) -> int:
        """Set a mark that holds for a while; one that holds already stays as it is.

        Args:
            name: Of the mark.
            lengths_ns: How long it holds: the first time, the second time in a row, ...; then always the last.
            calm_ns: When the mark last held longer ago than this, the row begins anew.

        Returns:
            The nanoseconds that it holds from now.
        """

        def act(base: sqlite3.Connection) -> int:
            return tables.mark(base, name, lengths_ns, calm_ns, self.clock.monotonic_ns(), self.clock.wall_ns())

        return self._change(act, may_block=True)

    def marked_ns(self, name: str) -> int:
        """Return for how long a mark holds; 0 when it does not, or cannot be read. Writes nothing."""
        return self._look(lambda base: tables.mark_left_ns(base, name, self.clock.monotonic_ns())) or 0

    def in_window(self, use: Counted) -> list[tuple[int, int]]:
        """Return what counts in a window now, as (nanoseconds until it counts no more, cost), first to leave first.

        Writes nothing. A log that cannot be read counts as full.
        """
        found = self._look(lambda base: tables.in_window(base, use, self.clock.monotonic_ns()))
        return [(use.window_ns, use.limit)] if found is None else found

    def _change(self, act: Callable[[sqlite3.Connection], _T], *, may_block: bool) -> _T:
        """Run one change on the tables: in the file as long as it can be used, then in memory.

        Raises:
            StoreBusy: Somebody is at the file, not yet for `patience_s`, and `may_block` is False.
        """
        path = self.path
        if path is not None and self._is_file:
            try:
                make_folder(path.parent)
                lock = path.with_name(f".{path.name}.lock")
                with locked_file(lock, os.O_RDWR | os.O_CREAT, timeout_s=self._patience_s if may_block else 0):
                    found = self._change_file(path, act, may_block)
            except (sqlite3.Error, StoreError, OSError) as error:
                if isinstance(error, StoreBusy) and not may_block and not self._is_out_of_patience():
                    raise
                _log.warning("limits now hold in this process alone, %s cannot be used: %s", path, error)
                self._is_file = False
            else:
                self._was_used = True
                self._busy_since_s = None
                return found
        with self._guard:
            return act(self._memory_base())

    def _change_file(self, path: Path, act: Callable[[sqlite3.Connection], _T], may_block: bool) -> _T:
        if self._was_used and not path.exists():
            self._replace(path, "it is gone")
        try:
            return self._change_once(path, act, self._patience_s if may_block else 0)
        except (sqlite3.Error, tables.UnknownLayoutError) as error:
            # The low byte is the kind of error, the rest its details.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            if code in _NOT_OURS_TO_REPAIR:
                raise
            if code == sqlite3.SQLITE_BUSY and not may_block and not self._is_out_of_patience():
                raise StoreBusy(path, "another program", 0) from error
            self._replace(path, str(error))
            return self._change_once(path, act, self._patience_s)

    def _change_once(self, path: Path, act: Callable[[sqlite3.Connection], _T], timeout_s: float) -> _T:
        with closing(_connect(path, timeout_s)) as base, base:
            base.execute("BEGIN IMMEDIATE")
            self._prepare(base)
            return act(base)

    def _replace(self, path: Path, reason: str) -> None:
        _log.warning("%s is made anew, and every limit counts as used up: %s", path, reason)
        for suffix in ("", "-journal", "-wal", "-shm"):
            path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
        self._change_once(path, self._count_as_full, self._patience_s)

    def _look(self, act: Callable[[sqlite3.Connection], _T]) -> _T | None:
        """Run a question on the tables and leave them as they are; None when they cannot be read."""
        path = self.path
        if path is None or not self._is_file:
            with self._guard:
                return act(self._memory_base())
        try:
            copy = sqlite3.connect(":memory:", isolation_level=None)
            with closing(copy):
                if path.exists():
                    # In a copy the rows can be brought onto this boot's clock.
                    name = f"{path.absolute().as_uri()}?mode=rw"
                    with closing(sqlite3.connect(name, uri=True, timeout=_LOOK_TIMEOUT_S)) as base:
                        base.backup(copy)
                self._prepare(copy)
                return act(copy)
        except (sqlite3.Error, tables.UnknownLayoutError) as error:
            _log.warning("%s cannot be read, its limits count as used up: %s", path, error)
            return None

    def _memory_base(self) -> sqlite3.Connection:
        if self._memory is None:
            self._memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            # Python 3.13 warns of a connection that is left to the garbage collector.
            weakref.finalize(self, self._memory.close)
            self._prepare(self._memory)
            if self._was_used:
                self._count_as_full(self._memory)
        return self._memory

    def _prepare(self, base: sqlite3.Connection) -> None:
        tables.prepare(base, self.clock.boot_id(), self.clock.monotonic_ns(), self.clock.wall_ns())

    def _count_as_full(self, base: sqlite3.Connection) -> None:
        tables.count_as_full(base, self.clock.monotonic_ns(), self.clock.wall_ns())

    def _is_out_of_patience(self) -> bool:
        now_s = time.monotonic()
        if self._busy_since_s is None:
            self._busy_since_s = now_s
        return now_s - self._busy_since_s >= self._patience_s


def _connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    base = sqlite3.connect(path, timeout=timeout_s, isolation_level=None)
    try:
        # A kill -9 is survived by the journal; a power cut may cost the file, whose calls are old by then.
        base.execute("PRAGMA synchronous = OFF")
        base.execute("PRAGMA journal_mode = TRUNCATE")
    except BaseException:
        base.close()
        raise
    return base

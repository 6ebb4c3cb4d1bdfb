"""What the vendors allow, and keeping to it across all processes of this machine; no Prefect here.

`LIMITS` is the one table. Request rates are exact sliding windows over a log of timestamps in a small SQLite file in
the cache folder (`RequestWindows`); things held for long, such as streams, are numbered lock files (`Slots`). Both
survive a kill -9. The cache folder must be on a local disk.
"""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import threading
import time
from collections import deque
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import psutil

from connectors.store.atomic import make_folder
from connectors.store.errors import StoreError
from connectors.store.locks import locked_file, try_lock_path, unlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Self

_log = logging.getLogger(__name__)

_NS: Final = 10**9
_LAYOUT: Final = 1
_POLL_S: Final = 0.05
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


@dataclass(frozen=True)
class Limit:
    """One thing a vendor limits.

    Attributes:
        name: How code asks for it.
        vendor: Whose limit it is.
        limit: What we keep to: calls in any window, or things held at once.
        window_s: Length of the window in seconds, or None for things held.
        vendor_limit: What the vendor says; ours is lower, since calls may bunch up on their way.
        source: Where the vendor says so.
        kept_by: What keeps it.
    """

    name: str
    vendor: str
    limit: int
    window_s: float | None
    vendor_limit: int
    source: str
    kept_by: str


_DATABENTO_SOURCE: Final = "Databento API reference, Historical, Rate limits"

LIMITS: Final[tuple[Limit, ...]] = (
    Limit("databento.timeseries", "databento", 80, 1.0, 100, _DATABENTO_SOURCE, "RequestWindows"),
    Limit("databento.symbology", "databento", 80, 1.0, 100, _DATABENTO_SOURCE, "RequestWindows"),
    Limit("databento.metadata", "databento", 12, 1.0, 20, _DATABENTO_SOURCE, "RequestWindows"),
    Limit("databento.streams", "databento", 10, None, 100, f"{_DATABENTO_SOURCE}: concurrent connections", "Slots"),
)
"""Every limit this project keeps."""


def limit_named(name: str) -> Limit:
    """Return a row of `LIMITS`.

    Raises:
        KeyError: There is none of this name.
    """
    for row in LIMITS:
        if row.name == name:
            return row
    raise KeyError(f"no limit is called {name!r}; there are {', '.join(row.name for row in LIMITS)}")


class LimitTimeout(TimeoutError):  # noqa: N818 - named after what happened
    """A limit did not let us through in time.

    Attributes:
        name: The limit.
        waited_s: Seconds waited.
    """

    def __init__(self, name: str, waited_s: float) -> None:
        super().__init__(
            f"the limit {name} did not let a call through in {waited_s:.1f} s: "
            "other runs of this machine use it up; wait for them, or use fewer workers."
        )
        self.name = name
        self.waited_s = waited_s


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
    """The machine's clocks."""

    def monotonic_ns(self) -> int:
        """Return the system-wide monotonic clock."""
        return time.monotonic_ns()

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
        time.sleep(seconds)


@dataclass(frozen=True)
class _Rule:
    limit: int
    window_ns: int

    def wait_ns(self, nth_last_ns: int | None, now_ns: int) -> int:
        """Return how long to wait when the `limit`-th last call was at `nth_last_ns`.

        The window counts as closed: calls exactly one window apart are still in it together.
        """
        return 0 if nth_last_ns is None else max(0, nth_last_ns + self.window_ns + 1 - now_ns)


class _UnknownLayoutError(Exception):
    """A SQLite file of another layout than ours."""


class RequestWindows:
    """Exact sliding windows: never more than N calls in any window of the given length.

    All threads and all processes that use the same file count together. Nothing is created before the first call. When
    the file cannot be written, the limits hold in this process alone, and that is logged once. A damaged file is made
    anew and counts as used up, so that even then no limit is passed.

    Args:
        path: The SQLite file, in the cache folder; None keeps the log in memory (`in_memory`).
        rules: Rows with a window; others are ignored.
        clock: The time.
        patience_s: A file that somebody else keeps locked this long counts as damaged.
    """

    def __init__(
        self,
        path: Path | None,
        rules: Iterable[Limit] = LIMITS,
        *,
        clock: Clock | None = None,
        patience_s: float = 10.0,
    ) -> None:
        self._clock = clock or SystemClock()
        self._rules = {
            row.name: _Rule(row.limit, round(row.window_s * _NS)) for row in rules if row.window_s is not None
        }
        self._memory = _MemoryLog(self._rules, self._clock)
        self._file = None if path is None else _FileLog(path, self._rules, self._clock, patience_s)

    @classmethod
    def in_memory(cls, rules: Iterable[Limit] = LIMITS, *, clock: Clock | None = None) -> RequestWindows:
        """Return windows that hold in this process alone and touch no file."""
        return cls(None, rules, clock=clock)

    def acquire(self, name: str, timeout_s: float | None = None) -> float:
        """Wait until one more call is allowed, and enter it.

        Args:
            name: A rule's name.
            timeout_s: Seconds to wait; None waits as long as it takes, 0 does not wait.

        Returns:
            The seconds waited.

        Raises:
            LimitTimeout: It is not allowed in time; known and raised at once, and nothing is entered.
            KeyError: There is no such rule.
        """
        if name not in self._rules:
            raise KeyError(f"no request rate is called {name!r}; there are {', '.join(self._rules)}")
        began_ns = self._clock.monotonic_ns()
        while True:
            wait_ns = self._enter(name)
            waited_ns = self._clock.monotonic_ns() - began_ns
            if not wait_ns:
                return waited_ns / _NS
            if timeout_s is not None and waited_ns + wait_ns > timeout_s * _NS:
                raise LimitTimeout(name, waited_ns / _NS)
            self._clock.sleep(wait_ns / _NS)

    def _enter(self, name: str) -> int:
        file = self._file
        if file is not None:
            try:
                return file.enter(name)
            except (sqlite3.Error, StoreError, OSError) as error:
                _log.warning("vendor limits now hold in this process alone, %s cannot be used: %s", file.path, error)
                if file.was_used:
                    self._memory.use_up()
                self._file = None
        return self._memory.enter(name)


class _MemoryLog:
    """The log of one process."""

    def __init__(self, rules: dict[str, _Rule], clock: Clock) -> None:
        self._rules = rules
        self._clock = clock
        self._lock = threading.Lock()
        self._calls: dict[str, deque[int]] = {name: deque(maxlen=rule.limit) for name, rule in rules.items()}

    def enter(self, name: str) -> int:
        """Enter a call and return 0, or return the nanoseconds until it may be tried again."""
        rule, calls = self._rules[name], self._calls[name]
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            wait_ns = rule.wait_ns(calls[0] if len(calls) == rule.limit else None, now_ns)
            if not wait_ns:
                calls.append(now_ns)
            return wait_ns

    def use_up(self) -> None:
        """Count every window as full from now on."""
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            for name, rule in self._rules.items():
                self._calls[name].extend([now_ns] * rule.limit)


class _FileLog:
    """The log of all processes, a SQLite file.

    A lock file beside it goes around every use: so a damaged file can be replaced while others wait, and a connection
    is never carried over a fork or kept on a file that is gone.
    """

    def __init__(self, path: Path, rules: dict[str, _Rule], clock: Clock, patience_s: float) -> None:
        self.path = path
        self.was_used = False
        self._rules = rules
        self._clock = clock
        self._patience_s = patience_s

    def enter(self, name: str) -> int:
        """Enter a call and return 0, or return the nanoseconds until it may be tried again.

        Raises:
            sqlite3.Error: The file cannot be used, nor replaced.
            StoreError: Its folder cannot be used, or somebody keeps the lock.
            OSError: As StoreError.
        """
        make_folder(self.path.parent)
        lock = self.path.with_name(f".{self.path.name}.lock")
        with locked_file(lock, os.O_RDWR | os.O_CREAT, timeout_s=self._patience_s):
            if self.was_used and not self.path.exists():
                self._replace("it is gone")
            try:
                wait_ns = self._enter_once(name)
            except (sqlite3.Error, _UnknownLayoutError) as error:
                # The low byte is the kind of error, the rest its details.
                code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
                if code in _NOT_OURS_TO_REPAIR:
                    raise
                self._replace(str(error))
                wait_ns = self._enter_once(name)
        self.was_used = True
        return wait_ns

    def _enter_once(self, name: str) -> int:
        rule = self._rules[name]
        with closing(self._connect()) as base, base:
            base.execute("BEGIN IMMEDIATE")
            self._prepare(base)
            now_ns = self._clock.monotonic_ns()
            # No clock of this boot was ever later than now: such a row would block for ever.
            base.execute("UPDATE calls SET at_ns = ? WHERE name = ? AND at_ns > ?", (now_ns, name, now_ns))
            nth_last = base.execute(
                "SELECT at_ns FROM calls WHERE name = ? ORDER BY at_ns DESC LIMIT 1 OFFSET ?", (name, rule.limit - 1)
            ).fetchone()
            wait_ns = rule.wait_ns(nth_last[0] if nth_last else None, now_ns)
            if not wait_ns:
                self._insert(base, name, 1, now_ns)
                base.execute("DELETE FROM calls WHERE name = ? AND at_ns < ?", (name, now_ns - rule.window_ns))
            return wait_ns

    def _connect(self) -> sqlite3.Connection:
        base = sqlite3.connect(self.path, timeout=self._patience_s, isolation_level=None)
        # A kill -9 is survived by the journal; a power cut may cost the file, whose calls are old by then.
        base.execute("PRAGMA synchronous = OFF")
        base.execute("PRAGMA journal_mode = TRUNCATE")
        return base

    def _prepare(self, base: sqlite3.Connection) -> None:
        """Make the tables of a new file; after a boot, bring the calls onto this boot's clock."""
        boot_id = self._clock.boot_id()
        layout = base.execute("PRAGMA user_version").fetchone()[0]
        if layout == 0:
            base.execute("CREATE TABLE calls (name TEXT NOT NULL, at_ns INTEGER NOT NULL, wall_ns INTEGER NOT NULL)")
            base.execute("CREATE INDEX calls_by_time ON calls (name, at_ns)")
            base.execute("CREATE TABLE boot (id TEXT NOT NULL)")
            base.execute("INSERT INTO boot VALUES (?)", (boot_id,))
            base.execute(f"PRAGMA user_version = {_LAYOUT}")
        elif layout != _LAYOUT:
            raise _UnknownLayoutError(f"it has layout {layout}")
        elif base.execute("SELECT id FROM boot").fetchone() != (boot_id,):
            now_ns, wall_ns = self._clock.monotonic_ns(), self._clock.wall_ns()
            base.execute("UPDATE calls SET at_ns = ? - max(0, ? - wall_ns)", (now_ns, wall_ns))
            base.execute("UPDATE boot SET id = ?", (boot_id,))

    def _replace(self, reason: str) -> None:
        _log.warning("%s is made anew, and every limit counts as used up: %s", self.path, reason)
        for suffix in ("", "-journal", "-wal", "-shm"):
            self.path.with_name(f"{self.path.name}{suffix}").unlink(missing_ok=True)
        with closing(self._connect()) as base, base:
            base.execute("BEGIN IMMEDIATE")
            self._prepare(base)
            now_ns = self._clock.monotonic_ns()
            for name, rule in self._rules.items():
                self._insert(base, name, rule.limit, now_ns)

    def _insert(self, base: sqlite3.Connection, name: str, count: int, now_ns: int) -> None:
        base.executemany("INSERT INTO calls VALUES (?, ?, ?)", [(name, now_ns, self._clock.wall_ns())] * count)


class Slots:
    """At most `count` holders at once, in all threads and processes that use the same folder.

    A slot is a lock file; the kernel frees it when its process dies. Nothing is created before the first `acquire`.
    When the folder cannot be written, the limit holds in this process alone, and that is logged.

    Args:
        folder: In the cache folder; None counts in memory (`in_memory`).
        name: What is held, such as `databento.streams`.
        count: How many may be held at once.
    """

    def __init__(self, folder: Path | None, name: str, count: int) -> None:
        if count < 1:
            raise ValueError(f"{name}: there must be at least one slot, not {count}")
        self.name = name
        self.count = count
        self._folder = folder
        self._memory = threading.BoundedSemaphore(count)

    @classmethod
    def in_memory(cls, name: str, count: int) -> Slots:
        """Return slots that count in this process alone and touch no file."""
        return cls(None, name, count)

    def acquire(self, timeout_s: float | None = None) -> Slot:
        """Wait for a free slot and hold it.

        Args:
            timeout_s: Seconds to wait; None waits as long as it takes, 0 does not wait.

        Returns:
            The slot: use it in a `with` block, or call its `release`.

        Raises:
            LimitTimeout: All were held until the time was over.
        """
        began = time.monotonic()
        while True:
            slot = self._try()
            waited_s = time.monotonic() - began
            if slot is not None:
                return slot
            if timeout_s is not None and waited_s >= timeout_s:
                raise LimitTimeout(self.name, waited_s)
            # Unequal steps, so that waiting processes do not march together.
            time.sleep(_POLL_S * random.uniform(0.5, 1.5))  # noqa: S311 - no secret

    def _try(self) -> Slot | None:
        folder = self._folder
        if folder is not None:
            try:
                return self._try_files(folder)
            except (StoreError, OSError) as error:
                _log.warning("%s is limited in this process alone, %s cannot be used: %s", self.name, folder, error)
                self._folder = None
        return Slot(self._memory.release) if self._memory.acquire(blocking=False) else None

    def _try_files(self, folder: Path) -> Slot | None:
        make_folder(folder)
        for number in range(self.count):
            fd = try_lock_path(folder / f".{self.name}.slot-{number:03d}.lock")
            if fd is not None:
                return Slot(partial(unlock, fd))
        return None


class Slot:
    """One held slot."""

    def __init__(self, free: Callable[[], None]) -> None:
        self._free: Callable[[], None] | None = free

    def release(self) -> None:
        """Let another have it; a second time does nothing."""
        free, self._free = self._free, None
        if free is not None:
            free()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

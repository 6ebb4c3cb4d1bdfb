"""Things of which only so many may be held at once, by all processes of this machine: numbered lock files.

What is held, and how many, says the caller (`flows.limits`). The kernel frees a slot when its process dies.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from connectors.store.atomic import make_folder
from connectors.store.errors import StoreError
from connectors.store.locks import try_lock_path, unlock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

_log = logging.getLogger(__name__)

_POLL_S: Final = 0.05


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


class Slots:
    """At most `count` holders at once, in all threads and processes that use the same folder.

    Nothing is created before the first `acquire`. When the folder cannot be written, the limit holds in this process
    alone, and that is logged.

    Args:
        folder: In the cache folder; None counts in memory (`in_memory`).
        name: What is held, such as `databento.streams`; part of a file name.
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
            slot = self.try_acquire()
            waited_s = time.monotonic() - began
            if slot is not None:
                return slot
            if timeout_s is not None and waited_s >= timeout_s:
                raise LimitTimeout(self.name, waited_s)
            # Unequal steps, so that waiting processes do not march together.
            time.sleep(_POLL_S * random.uniform(0.5, 1.5))  # noqa: S311 - no secret

    def try_acquire(self) -> Slot | None:
        """Hold a free slot, or return None at once when there is none."""
        folder = self._folder
        if folder is not None:
            try:
                return self._try_files(folder)
            except (StoreError, OSError) as error:
                _log.warning("%s is limited in this process alone, %s cannot be used: %s", self.name, folder, error)
                self._folder = None
        return Slot(self._memory.release) if self._memory.acquire(blocking=False) else None

    def in_use(self) -> int:
        """Count what is held now, by all processes; creates nothing.

        A look takes each free slot for some microseconds; who wants one just then tries the next, or again.

        Raises:
            OSError: The lock files cannot be opened.
        """
        if self._folder is None:
            free = 0
            while self._memory.acquire(blocking=False):
                free += 1
            if free:
                self._memory.release(free)
            return self.count - free
        held = 0
        for number in range(self.count):
            try:
                fd = try_lock_path(self._path(self._folder, number), os.O_RDWR)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if fd is None:
                held += 1
            else:
                unlock(fd)
        return held

    def _try_files(self, folder: Path) -> Slot | None:
        make_folder(folder)
        for number in range(self.count):
            fd = try_lock_path(self._path(folder, number))
            if fd is not None:
                return Slot(partial(unlock, fd))
        return None

    def _path(self, folder: Path, number: int) -> Path:
        return folder / f".{self.name}.slot-{number:03d}.lock"


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

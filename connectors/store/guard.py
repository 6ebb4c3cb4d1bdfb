"""Guards that stop a run before it fills the disk or writes more than it was allowed to.

They measure and refuse; whether a refusal pauses or ends a run is decided in `flows`. A GB is 10^9 bytes.
"""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING, Final

from connectors.store.errors import StorageGuardHit, store_errors

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

GB: Final = 10**9
MIN_FREE_KEY: Final = "L2_MIN_FREE_GB"
MAX_RUN_KEY: Final = "L2_MAX_RUN_GB"


class FreeSpaceGuard:
    """Keeps some space free on the disk of a folder.

    Args:
        path: The folder; it need not exist yet, then the nearest folder above it is measured.
        min_free_gb: GB to leave free for other users; 0 turns the guard off.
    """

    def __init__(self, path: Path, min_free_gb: float) -> None:
        self._path = path
        self._min_free_bytes = _bytes_of(min_free_gb, MIN_FREE_KEY)

    def free_bytes(self) -> int:
        """Return the space this user may still fill.

        Raises:
            StoreError: The disk cannot be asked.
        """
        with store_errors("measure the free space of", self._path):
            return shutil.disk_usage(_nearest_existing(self._path)).free

    def check(self, needed_bytes: int = 0) -> None:
        """Refuse when writing `needed_bytes` would leave too little.

        Raises:
            StorageGuardHit: Less than `needed_bytes` above the minimum is free.
            StoreError: The disk cannot be asked.
        """
        if not self._min_free_bytes:
            return
        free = self.free_bytes()
        left = free - self._min_free_bytes
        if needed_bytes > left or left < 0:
            raise StorageGuardHit(
                f"{self._path}: {_gb(free)} free, {_gb(needed_bytes)} needed and {_gb(self._min_free_bytes)} to stay "
                f"free; free some space, or lower {MIN_FREE_KEY}.",
                path=self._path,
                key=MIN_FREE_KEY,
                needed_bytes=needed_bytes,
                left_bytes=left,
            )


class RunBudget:
    """Counts what one run writes, against a ceiling; safe to use from several threads.

    Args:
        max_run_gb: GB that the run may write; 0 turns the budget off.
        path: Where the run writes, for the message.
    """

    def __init__(self, max_run_gb: float, path: Path) -> None:
        self._max_bytes = _bytes_of(max_run_gb, MAX_RUN_KEY)
        self._path = path
        self._lock = threading.Lock()
        self._written = 0
        self._reserved = 0

    @property
    def written_bytes(self) -> int:
        """What the run has written so far."""
        return self._written

    def reserve(self, expected_bytes: int) -> Reservation:
        """Set aside what a task is expected to write; use the result in a `with` block.

        Raises:
            StorageGuardHit: Written, reserved and expected bytes together pass the ceiling.
        """
        with self._lock:
            left = self._max_bytes - self._written - self._reserved
            if self._max_bytes and (expected_bytes > left or left <= 0):
                raise StorageGuardHit(
                    f"{self._path}: this run may write {_gb(self._max_bytes)}, has written {_gb(self._written)}, has "
                    f"set aside {_gb(self._reserved)} and now needs {_gb(expected_bytes)}; run again for the rest, or "
                    f"raise {MAX_RUN_KEY}.",
                    path=self._path,
                    key=MAX_RUN_KEY,
                    needed_bytes=expected_bytes,
                    left_bytes=left,
                )
            self._reserved += expected_bytes
        return Reservation(self, expected_bytes)

    def count(self, written_bytes: int) -> None:
        """Count bytes that nothing was set aside for; never refuses, for they are written."""
        self._settle(0, written_bytes)

    def _settle(self, expected_bytes: int, written_bytes: int) -> None:
        with self._lock:
            self._reserved -= expected_bytes
            self._written += written_bytes


class Reservation:
    """A part of a run's budget; what is not committed when the block ends is given back."""

    def __init__(self, budget: RunBudget, expected_bytes: int) -> None:
        self._budget = budget
        self._expected = expected_bytes
        self._written = 0
        self._open = True

    def commit(self, written_bytes: int) -> None:
        """Count bytes that were really written, as often as there are files."""
        self._written += written_bytes

    def close(self) -> None:
        """Give back what was set aside and count what was written; once."""
        if self._open:
            self._open = False
            self._budget._settle(self._expected, self._written)  # noqa: SLF001 - one class in two parts

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _nearest_existing(path: Path) -> Path:
    for place in (path, *path.absolute().parents):
        if place.exists():
            return place
    return path.absolute()


def _bytes_of(gb: float, key: str) -> int:
    if not 0 <= gb < float("inf"):
        raise ValueError(f"{key} must be 0 (off) or a positive number of GB, not {gb!r}")
    return int(gb * GB)


def _gb(count: int) -> str:
    return f"{count / GB:.3f} GB"

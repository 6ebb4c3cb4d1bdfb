"""A group, all days of one symbol and bar size: where its files lie, and its two locks."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from connectors.store.atomic import make_folder
from connectors.store.errors import store_errors
from connectors.store.locks import lock_file, locked_file
from contracts.errors import InvalidName
from contracts.layout import BAR_FOLDERS, BarSize, DataRoot
from contracts.symbols import canonical_symbol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOCK_TIMEOUT_S: Final = 60.0  # a publication takes milliseconds: whoever holds the lock this long is stopped

INTENT_SUFFIX: Final = ".intent"


def working_folder(root: DataRoot, bar_size: BarSize) -> Path:
    """Return the folder of a bar size's intents, notes and locks; nothing is created."""
    return root.path / ".bars" / BAR_FOLDERS[bar_size]


@dataclass(frozen=True)
class Group:
    """All days of one symbol and bar size.

    Attributes:
        root: The data root.
        bar_size: `1 hour`, `1 min` or `1 sec`.
        symbol: In any spelling; canonical afterwards.

    Raises:
        InvalidName: There is no such bar size.
        InvalidSymbol: The symbol has no canonical form.
    """

    root: DataRoot
    bar_size: BarSize
    symbol: str

    def __post_init__(self) -> None:
        if self.bar_size not in BAR_FOLDERS:
            raise InvalidName(self.bar_size, f"the bar size must be one of {', '.join(BAR_FOLDERS)}")
        object.__setattr__(self, "symbol", canonical_symbol(self.symbol))

    @property
    def days_folder(self) -> Path:
        """The folder of its bars files."""
        return self.root.path / "bars" / BAR_FOLDERS[self.bar_size] / self.symbol

    @property
    def folder(self) -> Path:
        """The folder of its intent, notes and locks, shared with the other symbols of the bar size."""
        return working_folder(self.root, self.bar_size)

    @property
    def intent_path(self) -> Path:
        """The intent of the file that is being published."""
        return self.folder / f"{self.symbol}{INTENT_SUFFIX}"

    @property
    def notes_path(self) -> Path:
        """Its notes."""
        return self.folder / f"{self.symbol}.json"

    @contextmanager
    def locked(self, *, timeout_s: float = _LOCK_TIMEOUT_S) -> Iterator[None]:
        """Be the only one, in all threads and processes, who publishes or notes something of this group.

        Raises:
            StoreBusy: Somebody held it for `timeout_s`.
            StoreError: The disk refuses.
        """
        make_folder(self.folder)
        path = self.folder / f"{self.symbol}.lock"
        with ExitStack() as held:
            with store_errors("lock", path):
                held.enter_context(locked_file(path, os.O_RDWR | os.O_CREAT, timeout_s=timeout_s))
            yield


@contextmanager
def claim(
    root: DataRoot, bar_size: BarSize, symbol: str, *, timeout_s: float = 0.0, run_id: str | None = None
) -> Iterator[None]:
    """Be the only batch that works on a symbol and bar size; the kernel frees it when the process dies.

    Two threads of one process exclude each other too. Publishing, notes and repair need no claim.

    Args:
        root: The data root; made if missing.
        bar_size: `1 hour`, `1 min` or `1 sec`.
        symbol: In any spelling.
        timeout_s: Seconds to wait for another batch; 0 does not wait.
        run_id: Who we are, for others who find it claimed.

    Raises:
        StoreBusy: Another batch works on it; says which.
        StoreError: The disk refuses.
        InvalidName: There is no such bar size.
        InvalidSymbol: The symbol has no canonical form.
    """
    group = Group(root, bar_size, symbol)
    make_folder(group.folder)
    with lock_file(group.folder / f"{group.symbol}.claim", run_id=run_id, timeout_s=timeout_s):
        yield

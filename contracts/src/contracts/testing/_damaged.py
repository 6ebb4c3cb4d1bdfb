"""The kinds of damage by name, and doing them to a sample root."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from contracts.testing._damage import Damage, DamagedRoot
from contracts.testing._damages_bars import BARS_DAMAGES, COVERAGE_DAMAGES
from contracts.testing._damages_ledgers import LEDGER_DAMAGES, SUMMARY_DAMAGES
from contracts.testing._damages_level2 import LEVEL2_DAMAGES
from contracts.testing._root import write_sample_root

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from contracts.layout import DataRoot

_ALL: Final = (*LEVEL2_DAMAGES, *BARS_DAMAGES, *COVERAGE_DAMAGES, *LEDGER_DAMAGES, *SUMMARY_DAMAGES)

DAMAGES: Final[Mapping[str, Damage]] = MappingProxyType({damage.name: damage for damage in _ALL})
"""Every kind of damage by its name."""


def apply_damage(root: DataRoot, name: str) -> Path:
    """Do one kind of damage to a root that `write_sample_root` wrote, and to which nothing was done yet.

    Args:
        root: The root.
        name: One of `DAMAGES`.

    Returns:
        The file it was done to; it may be gone.

    Raises:
        LookupError: There is no damage of that name.
        OSError: The file cannot be read or written.
    """
    return _damage(name).apply(root)


def damaged_root(path: Path, name: str) -> DamagedRoot:
    """Write a sample root and do one kind of damage to it.

    Args:
        path: The data root, made if it is not there.
        name: One of `DAMAGES`.

    Raises:
        LookupError: There is no damage of that name.
        OSError: It cannot be written.
    """
    damage = _damage(name)
    root = write_sample_root(path)
    return DamagedRoot(root, damage, damage.apply(root))


def _damage(name: str) -> Damage:
    try:
        return DAMAGES[name]
    except KeyError:
        raise LookupError(f"no damage {name!a}, there are {', '.join(DAMAGES)}") from None

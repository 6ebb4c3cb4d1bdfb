"""A finished temp gets a name that is free; whatever has the name already stays as it is."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from connectors.store.atomic import fsync_folder

if TYPE_CHECKING:
    from pathlib import Path

_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def publish_new(temp: Path, target: Path) -> bool:
    """Rename a finished temp unless the name is taken; the name is on the disk when this returns.

    On a disk without hard links the name is taken by an empty file first, which a kill right then leaves there.

    Args:
        temp: A file in the target's folder whose contents are on the disk; gone afterwards.
        target: Its final name.

    Returns:
        False when something has the name; the temp stays then.

    Raises:
        OSError: The disk refuses; the temp stays.
    """
    try:
        os.link(temp, target)
    except FileExistsError:
        # A network disk may answer so to a repeated request that it had carried out already.
        if not _is_same_file(temp, target):
            return False
        temp.unlink()
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not _claim(target):
            return False
        try:
            temp.replace(target)
        except OSError:
            target.unlink()
            raise
    else:
        temp.unlink()
    fsync_folder(target.parent)
    return True


def _claim(target: Path) -> bool:
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except FileExistsError:
        return False
    return True


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(one.lstat(), other.lstat())
    except FileNotFoundError:
        return False

"""The exceptions of the store; nothing else lives here.

```
StoreError                      a file or folder cannot be read or written; keeps the errno of the system
├── StoreBusy                   somebody else holds the lock, and the wait for it has ended
├── StorageGuardHit             too little free space, or the run would write more than it may
├── InvalidLine  (ValueError)   a text that cannot be one line of a manifest
├── InvalidRows  (ValueError)   record batches that are not of the schema they are to be published under
└── InvalidEntry (ValueError)   a raw-cache key or entry that contradicts itself or its file
```

Every message says what failed, where, and what to do; the data is in the attributes too.
"""
# ruff: noqa: N818 - the public names say what is the matter; "StoreBusyError" would say it twice

from __future__ import annotations

import errno as codes
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_WHAT_TO_DO: Final[dict[int, str]] = {
    codes.ENOSPC: "free some space on this disk, or move the folder to a larger one",
    codes.EDQUOT: "the disk quota of this user is used up: free some space or have it raised",
    codes.EFBIG: "the file would pass the largest size allowed here: raise the limit (ulimit -f)",
    codes.EROFS: "the disk is mounted read-only: mount it writable, or configure another folder",
    codes.EACCES: "this user may not do that there: change the owner or mode, or configure another folder",
    codes.EPERM: "the system does not allow it: change the owner or attributes, or configure another folder",
    codes.ENAMETOOLONG: "the path is too long for this file system: use a shorter folder",
    codes.ENOTDIR: "a part of the path is a file, not a folder: move that file away, or configure another folder",
    codes.EEXIST: "something that is not a folder lies where a folder must be: move it away",
    codes.EISDIR: "a folder lies where the file must be: move it away",
    codes.ENOTEMPTY: "a folder lies where the file must be: move it away",
    codes.ENOENT: "a folder of the path has gone: make sure that the disk is mounted, then run again",
    codes.ELOOP: "symbolic links lead in a circle: correct them",
    codes.EIO: "the disk reports an error: check its health before the next run",
    codes.EMFILE: "too many files are open: raise the limit (ulimit -n) or use fewer workers",
    codes.ENFILE: "the system has too many files open: close some programs",
    codes.ESTALE: "the network folder has been remounted: run again",
    codes.EBUSY: "the system itself uses this path (a mount point?): configure another folder",
    codes.ENOLCK: "this file system has no locks left: check the network file system's lock service",
    codes.EOPNOTSUPP: "this file system lacks the operation: use a local disk",
    codes.ENOSYS: "this file system lacks the operation: use a local disk",
    codes.EINVAL: "the path is not valid on this file system: use a plain folder name",
}


class StoreError(Exception):
    """A file or folder cannot be read or written.

    Attributes:
        path: Where.
        errno: The system's number for the cause, or None when the store itself refuses.
    """

    def __init__(self, message: str, *, path: Path, errno: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.errno = errno


class StoreBusy(StoreError):
    """Somebody else holds a lock, and did so until the wait for it ended.

    Attributes:
        path: The lock file, or the locked file itself.
        holder: Who holds it, as far as known.
        waited_s: Seconds waited.
    """

    def __init__(self, path: Path, holder: str, waited_s: float) -> None:
        super().__init__(
            f"{path} is held by {holder}; waited {waited_s:.1f} s. "
            "Wait until that run has ended (or end it), then run again.",
            path=path,
        )
        self.holder = holder
        self.waited_s = waited_s


class StorageGuardHit(StoreError):
    """A run stops before it fills the disk or writes more than it may.

    Attributes:
        path: Where the run writes.
        key: The environment key that moves the guard.
        needed_bytes: What the next step asks for.
        left_bytes: What the guard still allows it; negative when it is passed already.
    """

    def __init__(self, message: str, *, path: Path, key: str, needed_bytes: int, left_bytes: int) -> None:
        super().__init__(message, path=path)
        self.key = key
        self.needed_bytes = needed_bytes
        self.left_bytes = left_bytes


class InvalidLine(StoreError, ValueError):
    """A text that cannot be one line of a manifest: empty, with a line end inside, or not encodable."""


class InvalidRows(StoreError, ValueError):
    """Rows that are not of the schema they are to be published under, hold nulls, or break a rule of their file."""


class InvalidEntry(StoreError, ValueError):
    """A raw-cache key or entry that contradicts itself or its file."""


def from_os_error(error: OSError, action: str, path: Path) -> StoreError:
    """Turn an error of the system into one that says what to do.

    Args:
        error: What the system reported.
        action: What was tried, such as `write`.
        path: Where, used when the error names no file itself.
    """
    named = error.filename
    where = Path(os.fsdecode(named)) if isinstance(named, str | bytes) and named else path
    code = error.errno
    reason = os.strerror(code) if code is not None else str(error)
    hint = _WHAT_TO_DO.get(code, "see the reason") if code is not None else "see the reason"
    # A temp of ours lies beside its target and says nothing to a reader.
    about = "" if where == path or where.parent == path.parent else f" (at {where})"
    return StoreError(f"cannot {action} {path}{about}: {reason}; {hint}.", path=path, errno=code)


def is_storage_error(error: OSError) -> bool:
    """Tell an error of the disk from other errors of the system (HTTP clients raise OSError too)."""
    return error.errno in _WHAT_TO_DO


@contextmanager
def store_errors(action: str, path: Path) -> Iterator[None]:
    """Raise the block's errors of the system as StoreError.

    Raises:
        StoreError: The block met an OSError.
    """
    try:
        yield
    except OSError as error:
        raise from_os_error(error, action, path) from error

"""The optional second copy of manifests and summaries; nothing here can fail a run."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from connectors.store.atomic import atomic_path
from connectors.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_log = logging.getLogger(__name__)

_BLOCK_BYTES: Final = 1 << 20
_LINES_SUFFIX: Final = ".jsonl"


@dataclass(frozen=True)
class MirrorProblem:
    """One file that was not mirrored.

    Attributes:
        path: The file below the data root.
        reason: Why.
    """

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def mirror(files: Iterable[Path], root: Path, backup: Path | None) -> list[MirrorProblem]:
    """Copy files of a data root into a backup folder, under the same relative path.

    Each copy appears whole or not at all. Of a JSON Lines file, which may grow meanwhile, whole lines are copied. Files
    that do not exist are left out. What goes wrong is told in one warning and in the result, never raised.

    Args:
        files: Paths below `root`.
        root: The data root.
        backup: `ML_BACKUP_PATH`, or None for no mirror; made if missing.

    Returns:
        What was not mirrored; empty when all is well.
    """
    if backup is None:
        return []
    problems = []
    for path in files:
        try:
            _copy(path, root, backup)
        except StoreError as error:
            problems.append(MirrorProblem(path, str(error)))
        except (OSError, ValueError) as error:
            problems.append(MirrorProblem(path, str(error)))
    if problems:
        _log.warning("%d files were not mirrored to %s; first: %s", len(problems), backup, problems[0])
    return problems


def _copy(path: Path, root: Path, backup: Path) -> None:
    target = backup / path.relative_to(root)
    try:
        source = path.open("rb")
    except FileNotFoundError:
        return
    with source:
        size = os.fstat(source.fileno()).st_size
        if target.exists() and target.samefile(path):
            raise ValueError("the backup folder is the data root itself: set ML_BACKUP_PATH to another folder")
        if path.suffix == _LINES_SUFFIX:
            size = _end_of_last_line(source, size)
        with atomic_path(target) as temp, temp.open("xb") as copy:
            left = size
            while left and (block := source.read(min(_BLOCK_BYTES, left))):
                copy.write(block)
                left -= len(block)


def _end_of_last_line(source: BinaryIO, size: int) -> int:
    """Return the offset after the last line end; leaves the file at its start."""
    end = size
    while end > 0:
        begin = max(0, end - _BLOCK_BYTES)
        source.seek(begin)
        at = source.read(end - begin).rfind(b"\n")
        if at >= 0:
            end = begin + at + 1
            break
        end = begin
    source.seek(0)
    return end

"""What a run has finished and perhaps not yet recorded: `<root>/.backfill/<run_id>.jsonl`, one line per day.

The manifest has one writer and an order; days finish in another order, on other threads, processes and machines. A
day's outcome is appended here, on the disk, before it is handed on, so that whoever dies loses nothing: the next run
on the root records what a dead one had finished (`record_unfinished`). A run that ends by itself removes its file.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from connectors.store.atomic import append_line, fsync_folder, make_folder
from connectors.store.errors import store_errors
from connectors.store.locks import locked_file
from connectors.store.manifests import append_backfill_line
from contracts.errors import ContractError
from contracts.v1.backfill import BackfillManifestLine, parse_manifest_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contracts.layout import DataRoot

_log = logging.getLogger(__name__)

FOLDER_NAME: Final = ".backfill"
_SUFFIX: Final = ".jsonl"
_LOCK_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True)
class Checkpoint:
    """One finished day of a run.

    Attributes:
        position: its place in the run's input, from 0 on.
        line: its manifest line.
        bytes_written: bytes of the files that were published.
        duration_ms: wall clock.
    """

    position: int
    line: BackfillManifestLine
    bytes_written: int = 0
    duration_ms: float = 0.0

    def to_json_line(self) -> str:
        """The line as it is appended."""
        facts = {"position": self.position, "bytes_written": self.bytes_written, "duration_ms": self.duration_ms}
        return json.dumps(facts | {"line": self.line.to_document()})


class Checkpoints:
    """The checkpoints of one run; safe to use from several threads, processes and machines. Making one writes nothing.

    Args:
        root: the data root.
        run_id: the run's id.
    """

    def __init__(self, root: DataRoot, run_id: str) -> None:
        self.run_id = run_id
        self._folder = root.path / FOLDER_NAME
        self._path = self._folder / f"{run_id}{_SUFFIX}"
        self._stop = self._folder / f"{run_id}.stop"

    def add(self, checkpoint: Checkpoint) -> None:
        """Append one; it is on the disk when this returns.

        Raises:
            StoreError: the disk refuses.
        """
        append_line(self._path, checkpoint.to_json_line())

    def begin(self, batch: int) -> bool:
        """Note that a worker begins a batch; False when one has begun it before, and so has died.

        Raises:
            StoreError: the disk refuses.
        """
        if self.has_begun(batch):
            return False
        append_line(self._path, json.dumps({"batch": batch}))
        return True

    def has_begun(self, batch: int) -> bool:
        """Whether a worker has begun a batch.

        Raises:
            StoreError: the file cannot be read.
        """
        return any(document.get("batch") == batch for document in _documents(self._path))

    def read(self) -> dict[int, Checkpoint]:
        """All that are there, by position; a torn last line counts as not written.

        Raises:
            StoreError: the file cannot be read.
        """
        return _checkpoints(self._path)

    def ask_to_stop(self) -> None:
        """Let workers in other processes end soon.

        Raises:
            StoreError: the disk refuses.
        """
        make_folder(self._folder)
        with store_errors("write", self._stop):
            self._stop.touch()

    @property
    def stop_asked(self) -> bool:
        """Whether the run is ending."""
        return self._stop.exists()

    def remove(self) -> None:
        """Remove them: all is recorded.

        Raises:
            StoreError: the disk refuses.
        """
        _remove(self._path)
        with suppress(FileNotFoundError):
            self._stop.unlink()
        _remove_folder(self._folder)


def record_unfinished(root: DataRoot) -> tuple[BackfillManifestLine, ...]:
    """Append the manifest lines of what dead runs had finished, in their input order; then remove their checkpoints.

    Only for who holds the run lock of the root, so that no other run is alive. Twice is as good as once: a line that
    the manifest has is not appended again.

    Returns:
        The lines appended, which say that they were written now.

    Raises:
        StoreError: the disk refuses; what is not recorded yet keeps its checkpoint.
    """
    folder = root.path / FOLDER_NAME
    appended: list[BackfillManifestLine] = []
    for path in sorted(folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime):
        run_id = path.name.removesuffix(_SUFFIX)
        # A worker that outlived its run appends under this lock: before it and is read, or after it to a new file.
        with store_errors("read", path), locked_file(path, os.O_RDWR, timeout_s=_LOCK_TIMEOUT_S):
            found = _checkpoints(path)
            recorded = _recorded(root.backfill_manifest, run_id) if found else frozenset()
            lines = [found[position].line for position in sorted(found)]
            new = [line for line in lines if (line.symbol, line.date) not in recorded]
            for line in new:
                now = line.model_copy(update={"written_at": datetime.now(UTC)})
                append_backfill_line(root, now)
                appended.append(now)
            _remove(path)
        if new:
            _log.warning("recorded %d days that run %s had finished when it died", len(new), run_id)
    for leftover in folder.glob("*.stop"):
        leftover.unlink(missing_ok=True)
    _remove_folder(folder)
    return tuple(appended)


def _checkpoints(path: Path) -> dict[int, Checkpoint]:
    found: dict[int, Checkpoint] = {}
    for document in _documents(path):
        if "line" not in document:
            continue
        try:
            line = parse_manifest_line(json.dumps(document["line"]))
            found[int(document["position"])] = Checkpoint(
                int(document["position"]), line, int(document["bytes_written"]), float(document["duration_ms"])
            )
        except (ContractError, KeyError, TypeError, ValueError) as error:
            _log.warning("%s: a line that cannot be read is left out: %s", path, error)
    return found


def _documents(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file."""
    data = b""
    with store_errors("read", path), suppress(FileNotFoundError):
        data = path.read_bytes()
    for text in data.splitlines():
        try:
            document = json.loads(text)
        except ValueError:
            continue
        if isinstance(document, dict):
            yield document


def _recorded(manifest: Path, run_id: str) -> frozenset[tuple[str, object]]:
    """Symbol and day of the lines that a manifest has of a run; a torn last line is none."""
    if not manifest.exists():
        return frozenset()
    mark = run_id.encode()
    found = set()
    with store_errors("read", manifest), manifest.open("rb") as lines:
        for text in lines:
            # Whole manifests are not parsed for the few lines of one run.
            if mark not in text:
                continue
            with suppress(ContractError):
                line = parse_manifest_line(text)
                if line.run_id == run_id:
                    found.add((line.symbol, line.date))
    return frozenset(found)


def _remove(path: Path) -> None:
    with store_errors("remove", path):
        for each in (path, path.with_name(f"{path.name}.torn")):
            with suppress(FileNotFoundError):
                each.unlink()


def _remove_folder(folder: Path) -> None:
    # A data root shows no folder of ours that holds nothing; other runs may still have something in it.
    with suppress(OSError):
        folder.rmdir()
        fsync_folder(folder.parent)

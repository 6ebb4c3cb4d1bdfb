"""Names that a segment has claimed for its files, remembered with their digests before the files appear."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, time
from typing import TYPE_CHECKING, Self, TypeAlias

from connectors.store._exclusive import publish_new
from connectors.store._live.segments import PublishedSegment
from connectors.store.atomic import fsync_folder, write_json_atomic
from connectors.store.errors import store_errors
from connectors.store.raw_cache import fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Digest: TypeAlias = tuple[int, str]
"""Size in bytes and SHA-256 of a file."""


@dataclass(frozen=True)
class Claim:
    """The names of a segment's files, and how its files are told from others of the same name.

    Attributes:
        segment: What is published when the files are in place.
        day: ET day of the names.
        stamp: ET second of the names.
        digests: By name; more than one when a redo made other bytes, as another version of the parquet library does.
    """

    segment: PublishedSegment
    day: date
    stamp: time
    digests: Mapping[str, tuple[Digest, ...]]

    def write(self, path: Path) -> None:
        """Remember it, replacing an earlier claim of the segment.

        Raises:
            StoreError: The disk refuses.
        """
        write_json_atomic(
            path,
            {
                "segment": self.segment.to_document(),
                "day": self.day.isoformat(),
                "stamp": self.stamp.isoformat(),
                "digests": {name: [list(digest) for digest in known] for name, known in self.digests.items()},
            },
        )

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return what a segment claimed, None when it claimed nothing.

        Raises:
            StoreError: It cannot be read.
        """
        with store_errors("read", path):
            try:
                text = path.read_bytes()
            except FileNotFoundError:
                return None
        # Written atomically, so damage is not ours; the names are then taken anew.
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            document = json.loads(text)
            return cls(
                PublishedSegment.from_document(document["segment"]),
                date.fromisoformat(document["day"]),
                time.fromisoformat(document["stamp"]),
                {
                    name: tuple((int(size), str(digest)) for size, digest in known)
                    for name, known in document["digests"].items()
                },
            )
        return None

    def holds(self, path: Path) -> bool:
        """Tell whether a file is there and is the one that was claimed.

        Raises:
            StoreError: It cannot be read.
        """
        return path.is_file() and fingerprint(path) in self.digests.get(path.name, ())

    def put(self, temp: Path, target: Path) -> bool:
        """Give a finished temp its claimed name, unless the claimed file has it already.

        Args:
            temp: The file; it may stay when the name has it already.
            target: The claimed name.

        Returns:
            False when something else has the name; that stays.

        Raises:
            StoreError: The disk refuses.
        """
        with store_errors("write", target):
            if publish_new(temp, target) or self.holds(target):
                return True
            if target.is_file() and not target.is_symlink() and target.stat().st_size == 0:
                # On a disk without hard links a kill leaves the claimed name with nothing behind it.
                temp.replace(target)
                fsync_folder(target.parent)
                return True
            return False

    def withdraw(self, targets: list[Path]) -> None:
        """Remove those files that appeared under names which the others cannot get.

        Raises:
            StoreError: The disk refuses.
        """
        # An empty messages file is like any other: it could be somebody else's, and it does no harm.
        for target in targets if self.segment.messages else []:
            if self.holds(target):
                with store_errors("remove", target):
                    target.unlink()
                    fsync_folder(target.parent)

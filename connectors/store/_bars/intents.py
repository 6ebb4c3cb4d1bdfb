"""An intent: what is about to be published, written before the file, so that a kill cannot lose the ledger line."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from connectors.store.atomic import append_line, fsync_folder, write_json_atomic
from connectors.store.errors import store_errors
from connectors.store.raw_cache import fingerprint
from connectors.store.temps import sweep_stale_temps
from contracts.errors import ContractError
from contracts.layout import parse_bars_path
from contracts.v1.bars import BarsManifestLine, parse_bars_manifest_line

if TYPE_CHECKING:
    from connectors.store._bars.group import Group
    from contracts.layout import DataRoot

_log = logging.getLogger(__name__)

# A torn tail of the ledger is cut away by the next append, so that a line can begin before the end that was seen.
_LONGEST_TORN_TAIL: Final = 1 << 16


@dataclass(frozen=True)
class Intent:
    """A file that is being published.

    Attributes:
        line: What the ledger is to say.
        size_bytes: Size of the file.
        sha256: Its digest, hexadecimal.
        ledger_end: Bytes of the ledger when the intent was made: the line comes after them.
    """

    line: BarsManifestLine
    size_bytes: int
    sha256: str
    ledger_end: int

    def write(self, group: Group) -> None:
        """Put it on the disk, replacing an earlier one; with the group's lock held.

        Raises:
            StoreError: The disk refuses.
        """
        write_json_atomic(
            group.intent_path,
            {
                "line": self.line.to_document(),
                "size_bytes": self.size_bytes,
                "sha256": self.sha256,
                "ledger_end": self.ledger_end,
            },
        )

    @classmethod
    def of_bytes(cls, text: bytes, group: Group) -> Self:
        """Read one.

        Raises:
            ValueError: It is damaged, or not of this group.
        """
        try:
            document = json.loads(text)
            line = parse_bars_manifest_line(json.dumps(document["line"]))
            name = parse_bars_path(Path(line.path))
            intent = cls(line, int(document["size_bytes"]), str(document["sha256"]), int(document["ledger_end"]))
        except (ContractError, KeyError, TypeError) as error:
            raise ValueError(str(error)) from error
        if not (line.symbol == name.symbol == group.symbol and line.bar_size == name.bar_size == group.bar_size):
            raise ValueError(f"it is for {line.symbol} {line.bar_size}")
        return intent

    def target(self, group: Group) -> Path:
        """The file below the root as it is now: a root can be moved."""
        return (group.root.path / parse_bars_path(Path(self.line.path)).relative_path).absolute()

    def is_recorded(self, root: DataRoot) -> bool:
        """Tell whether the ledger has the line.

        Raises:
            StoreError: The ledger cannot be read.
        """
        wanted = self.line.to_json_line().encode().rstrip(b"\n")
        with store_errors("read", root.bars_manifest):
            try:
                with root.bars_manifest.open("rb") as ledger:
                    size = os.fstat(ledger.fileno()).st_size
                    # A ledger that is shorter than it was has been replaced.
                    ledger.seek(max(0, self.ledger_end - _LONGEST_TORN_TAIL) if size >= self.ledger_end else 0)
                    return any(line.rstrip(b"\n") == wanted for line in ledger)
            except FileNotFoundError:
                return False


def ledger_end(root: DataRoot) -> int:
    """Return the size of the ledger; 0 when there is none.

    Raises:
        StoreError: It cannot be looked at.
    """
    with store_errors("read", root.bars_manifest):
        try:
            return root.bars_manifest.stat().st_size
        except FileNotFoundError:
            return 0


def drop_intent(group: Group) -> None:
    """Remove the group's intent; with the group's lock held.

    Raises:
        StoreError: The disk refuses.
    """
    with store_errors("remove", group.intent_path):
        # Should a power cut bring it back, it says nothing that is not in the ledger by then.
        group.intent_path.unlink(missing_ok=True)


def complete_intent(group: Group) -> Path | None:
    """Finish what a dead writer of the group left: its line when its file is in place, else nothing of it.

    With the group's lock held: whoever wrote the intent is dead, or gave up.

    Returns:
        The file whose line was appended, None when nothing was.

    Raises:
        StoreError: The disk refuses; the intent stays.
    """
    with store_errors("read", group.intent_path):
        try:
            text = group.intent_path.read_bytes()
        except FileNotFoundError:
            return None
    # Temps of the group's days are written under an intent only, so no other folder needs to be looked at.
    sweep_stale_temps(group.days_folder)
    appended = None
    try:
        intent = Intent.of_bytes(text, group)
    except ValueError as error:
        _log.warning("%s is damaged and is dropped: %s", group.intent_path, error)
    else:
        target = intent.target(group)
        is_in_place = target.is_file() and fingerprint(target) == (intent.size_bytes, intent.sha256)
        if is_in_place and not intent.is_recorded(group.root):
            # The rename may have reached the memory only.
            with store_errors("write", target):
                fsync_folder(target.parent)
            append_line(group.root.bars_manifest, intent.line.to_json_line())
            _log.warning("%s was in place without its ledger line, which is appended now", target)
            appended = target
    drop_intent(group)
    return appended

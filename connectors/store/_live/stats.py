"""The stats file of a session and symbol: a name for the whole session, replaced as the session goes on."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from connectors.store._exclusive import publish_new
from connectors.store._live.stamps import et_second, seconds_of_the_day
from connectors.store.atomic import make_folder, write_json_atomic
from connectors.store.errors import StoreError, store_errors
from connectors.store.temps import new_temp_path
from contracts.errors import InvalidDocument, UnknownSchemaVersion
from contracts.layout import Level2Name, parse_level2_name
from contracts.v1.session_stats import SessionStats

if TYPE_CHECKING:
    from pathlib import Path

    from connectors.store._live.folder import CaptureFolder


def claim_stats(folder: CaptureFolder, stats: SessionStats) -> Path:
    """Write a session's stats for the first time, under a name that nobody else has; again is fine.

    The name is that of the ET second of `recording_date`, or the next one that is free. The session remembers it, so
    that recovery, which may call this too, gets the same file; it is then replaced by `stats`.

    Args:
        folder: The session.
        stats: With the `session_id` of the session.

    Returns:
        Where the file is, whole.

    Raises:
        StoreError: The disk refuses.
        ValueError: The stats are of another session.
    """
    if stats.session_id != folder.session_id:
        raise ValueError(f"stats of the session {stats.session_id!r} cannot be those of {folder.session_id!r}")
    symbol_dir = folder.root.symbol_dir(stats.symbol)
    make_folder(symbol_dir)
    with folder.names_lock(stats.symbol):
        target = stats_path(folder, stats.symbol)
        if target is not None and _is_ours(target, folder.session_id):
            write_stats(target, stats)
            return target
        return _publish_under_a_free_name(folder, stats, symbol_dir, target)


def stats_path(folder: CaptureFolder, symbol: str) -> Path | None:
    """Return where the stats of a session and symbol are or will be, None before `claim_stats`.

    After a kill the file may be missing, or be somebody else's; `claim_stats` finds that out.

    Raises:
        StoreError: The session cannot be read.
        ValueError: The symbol is not canonical.
    """
    path = folder.stats_claim_path(symbol)
    with store_errors("read", path):
        try:
            name = str(json.loads(path.read_bytes())["file"])
            parse_level2_name(name)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
    return folder.root.symbol_dir(symbol) / name


def write_stats(path: Path, stats: SessionStats) -> None:
    """Replace a stats file atomically.

    Args:
        path: As `claim_stats` returned it.
        stats: The new contents.

    Raises:
        StoreError: The disk refuses; the old file stays.
    """
    write_json_atomic(path, stats.to_document())


def _publish_under_a_free_name(
    folder: CaptureFolder, stats: SessionStats, symbol_dir: Path, remembered: Path | None
) -> Path:
    day, wanted = et_second(int(stats.recording_date.timestamp()) * 1_000_000_000)
    names = (Level2Name("session_stats", day, stamp).filename for stamp in seconds_of_the_day(wanted))
    candidates = (symbol_dir / name for name in names)
    for target in candidates if remembered is None else chain([remembered], candidates):
        if os.path.lexists(target):
            continue
        write_json_atomic(folder.stats_claim_path(stats.symbol), {"file": target.name})
        temp = new_temp_path(target)
        try:
            write_stats(temp, stats)
            with store_errors("write", target):
                if publish_new(temp, target):
                    return target
        finally:
            with suppress(OSError):
                temp.unlink()
    raise StoreError(f"every second of {day} is taken in {symbol_dir}; move old files away.", path=symbol_dir)


def _is_ours(path: Path, session_id: str) -> bool:
    """Tell our own file, or the nothing that a kill leaves under its name on a disk without hard links."""
    with store_errors("read", path):
        if not path.is_file() or path.is_symlink():
            return False
        text = path.read_bytes()
    try:
        return not text or SessionStats.from_json(text).session_id == session_id
    except (InvalidDocument, UnknownSchemaVersion):
        return False

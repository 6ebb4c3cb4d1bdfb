"""One hash for the files that a training used, wherever the data root lies and whenever they were copied."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contracts._availability.bars import BarsAvailability
from contracts._availability.level2 import Level2Coverage
from contracts.errors import InvalidName, NotAvailable
from contracts.layout import parse_bars_path, parse_level2_name
from contracts.symbols import canonical_symbol

if TYPE_CHECKING:
    from collections.abc import Iterable

_VERSION: Final = "slice_fingerprint.v1"
_HINT: Final = "bring it back, or take the fingerprint of what there is"


def fingerprint(files: Level2Coverage | BarsAvailability | str | Path | Iterable[str | Path]) -> str:
    """Return a SHA-256, 64 hex digits, of the files of a slice: of their symbols, days, sources, names and bytes.

    Equal on a copied or moved data root and after their times were touched; different when a byte, a file or a day
    differs. A coverage report counts as its `files`. The order does not matter; memory stays bounded.

    Args:
        files: A coverage report, or paths of Level-2 files (`.../SYMBOL/2025-09-04_snapshots_databento.parquet`) and
            bars files (`.../bars/minute/SYMBOL/2025-09-04.parquet`).

    Raises:
        InvalidName: A path is not in the grammar of the data root.
        InvalidSymbol: The folder of a file is no symbol.
        NotAvailable: A file is gone, cannot be read, or changed while it was read.
    """
    if isinstance(files, str | Path):
        files = [files]
    paths = files.files if isinstance(files, Level2Coverage | BarsAvailability) else map(Path, files)
    parts = sorted([*_name(path.absolute()), _content(path)] for path in set(paths))
    return hashlib.sha256(json.dumps([_VERSION, parts], separators=(",", ":")).encode()).hexdigest()


def _name(path: Path) -> tuple[str, str, str, str]:
    """Return symbol, day, source and file name."""
    try:
        bars = parse_bars_path(path)
    except InvalidName:
        name = parse_level2_name(path.name)
        return canonical_symbol(path.parent.name), name.day.isoformat(), name.source_tag or "ibkr", path.name
    return bars.symbol, bars.day.isoformat(), bars.bar_size, path.name


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
    except OSError as error:
        raise NotAvailable(str(path), f"{error.strerror or error}; {_HINT}") from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise NotAvailable(str(path), "it changed while it was read; try again when its writer is done")
    return digest

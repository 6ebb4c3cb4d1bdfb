"""What a kind of damage is, and the edits of files that damages are made of; the kinds are in `_damages_*`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from contracts.errors import ContractError
    from contracts.layout import DataRoot

_ZSTD: Final = b"\x28\xb5\x2f\xfd"

Artifact = Literal[
    "snapshots",
    "messages",
    "session_stats",
    "gaps",
    "backfill_manifest",
    "backfill_summary",
    "bars",
    "bars_manifest",
    "bars_coverage",
]
"""What a damage is done to."""

Outcome = Literal["raises", "leaves out", "reads"]


@dataclass(frozen=True)
class Damage:
    """One kind of damage to a sample root.

    Attributes:
        name: What to ask for, such as `snapshots-short-list`.
        artifact: What is damaged.
        description: What is wrong then.
        rule: The rule of the finding that `contracts.validate.validate_path` makes of it, with `full=True`.
        severity: How severe that finding is.
        outcome: What reading the artifact does. `raises`: `error` comes out of `MarketData.snapshots`, out of
            `MarketData.bars` (also for the coverage), out of the model's `from_json` for JSON documents. `leaves out`:
            it reads without the damaged line (`contracts.follow`) or row. `reads`: nothing tells but the validator.
        error: What is raised, else None.
        apply: Does it and returns the changed file.
    """

    name: str
    artifact: Artifact
    description: str
    rule: str
    apply: Callable[[DataRoot], Path] = field(repr=False)
    severity: Literal["error", "warning"] = "error"
    outcome: Outcome = "reads"
    error: type[ContractError] | None = None


@dataclass(frozen=True)
class DamagedRoot:
    """A sample root in which one thing is wrong.

    Attributes:
        root: The data root.
        damage: What was done to it.
        path: The file it was done to; it may be gone.
    """

    root: DataRoot
    damage: Damage
    path: Path


Columns = dict[str, list[Any]]


def edit_columns(path: Path, edit: Callable[[Columns], None]) -> Path:
    """Change values of a parquet file; columns, types and footer stay."""
    table = pq.read_table(path)
    columns = {name: table.column(name).to_pylist() for name in table.schema.names}
    edit(columns)
    return write_table(path, pa.table(columns, schema=table.schema))


def edit_table(path: Path, edit: Callable[[pa.Table], pa.Table]) -> Path:
    """Replace the table of a parquet file by another."""
    return write_table(path, edit(pq.read_table(path)))


def write_table(path: Path, table: pa.Table) -> Path:
    """Write a parquet file as the samples are written."""
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    return path


def edit_bytes(path: Path, edit: Callable[[bytes], bytes]) -> Path:
    """Change the content of any file."""
    path.write_bytes(edit(path.read_bytes()))
    return path


def put_bytes(path: Path, content: bytes) -> Path:
    """Replace the content of any file."""
    path.write_bytes(content)
    return path


def remove(path: Path) -> Path:
    """Take a file away."""
    path.unlink()
    return path


def break_page(path: Path) -> Path:
    """Flip bits where the first page of a parquet file begins to be compressed; its footer stays sound."""

    def flip(content: bytes) -> bytes:
        at = content.index(_ZSTD)
        return content[:at] + bytes(byte ^ 0xFF for byte in _ZSTD) + content[at + len(_ZSTD) :]

    return edit_bytes(path, flip)


def edit_line(path: Path, edit: Callable[[bytes], bytes]) -> Path:
    """Change the first line of a text file; it is given and taken without its line end."""
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(edit(first) + b"\n" + rest)
    return path


def edit_json(path: Path, edit: Callable[[Any], object]) -> Path:
    """Change a JSON document; what `edit` returns, if it is not None, takes its place."""
    return edit_bytes(path, lambda content: _edited(content, edit) + b"\n")


def edit_json_line(path: Path, edit: Callable[[Any], object]) -> Path:
    """Change the JSON document in the first line of a text file, likewise."""
    return edit_line(path, lambda line: _edited(line, edit))


def edit_records(path: Path, edit: Callable[[Any], object]) -> Path:
    """Change a JSON array that has one record per line; it stays so when `edit` returns None, or a list."""
    records = json.loads(path.read_bytes())
    replacement = edit(records)
    if not isinstance(replacement, list | None):
        return put_bytes(path, json.dumps(replacement).encode() + b"\n")
    lines = ",\n".join(json.dumps(record, separators=(",", ":")) for record in replacement or records)
    return put_bytes(path, f"[\n{lines}\n]\n".encode())


def _edited(content: bytes, edit: Callable[[Any], object]) -> bytes:
    document = json.loads(content)
    replacement = edit(document)
    return json.dumps(document if replacement is None else replacement, separators=(",", ":")).encode()

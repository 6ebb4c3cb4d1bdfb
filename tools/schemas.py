"""Generate the JSON Schemas from the models into the wheel and into `schemas/`, and guard the released ones.

    python tools/schemas.py                  write what is new or changed
    python tools/schemas.py --check          write nothing, fail on drift
    python tools/schemas.py --release 0.1.0  mark everything unreleased as released in that version: frozen from now on

New: written. Same: nothing. Different from a released one: refused, the version must be bumped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from contracts.schemas import MODELS, schema_filename, schema_id

REPOSITORY = Path(__file__).resolve().parent.parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"
Index = dict[str, dict[str, Any]]


class SchemaError(Exception):
    """The schemas cannot be written as they are; the message says why and what to do."""


def folders(root: Path, major: str) -> tuple[Path, Path]:
    """Return the published folder and the wheel's, which hold equal files."""
    return root / "schemas" / major, root / "contracts" / "src" / "contracts" / major / "schemas"


def generate() -> dict[str, dict[str, str]]:
    """Return the text of every schema: major version -> file name -> text."""
    generated: dict[str, dict[str, str]] = {}
    for version, model in MODELS.items():
        schema = {"$schema": DIALECT, "$id": schema_id(version), **model.model_json_schema()}
        text = json.dumps(schema, indent=2, ensure_ascii=True) + "\n"
        generated.setdefault(version.rpartition(".")[2], {})[schema_filename(version)] = text
    return generated


def read_index(root: Path, major: str) -> Index:
    """Return the published index by file name; empty when there is none yet."""
    path = folders(root, major)[0] / "index.json"
    if not path.exists():
        return {}
    return {entry["file"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))["schemas"]}


def new_index(old: Index, texts: dict[str, str]) -> Index:
    """Return the index of these texts.

    Raises:
        SchemaError: A released schema would change or vanish.
    """
    index: Index = {}
    for file, text in sorted(texts.items()):
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        released_in = old.get(file, {}).get("released_in")
        if released_in is not None and old[file]["sha256"] != sha256:
            raise SchemaError(
                f"{file} was released in {released_in} and would change: released schemas are frozen. "
                "Bump the version: leave this model as it is and write the next one beside it."
            )
        index[file] = {"file": file, "$id": json.loads(text)["$id"], "sha256": sha256, "released_in": released_in}
    for file, entry in old.items():
        if file not in index and entry["released_in"] is not None:
            raise SchemaError(f"{file} was released in {entry['released_in']} and must stay: released schemas are kept")
    return index


def wanted_files(root: Path, release: str | None = None) -> dict[Path, str]:
    """Return every file that must exist and its text.

    Raises:
        SchemaError: As `new_index`.
    """
    wanted: dict[Path, str] = {}
    for major, texts in generate().items():
        index = new_index(read_index(root, major), texts)
        for entry in index.values():
            entry["released_in"] = entry["released_in"] or release
        index_text = json.dumps({"schemas": list(index.values())}, indent=2) + "\n"
        for folder in folders(root, major):
            wanted |= {folder / file: text for file, text in {**texts, "index.json": index_text}.items()}
    return wanted


def drift(root: Path, wanted: dict[Path, str]) -> list[str]:
    """Return what differs between the disk and what must be there."""
    found = [f"{path.relative_to(root)} is not what the models say" for path in wanted if _read(path) != wanted[path]]
    for folder in {path.parent for path in wanted}:
        found += [f"{path.relative_to(root)} belongs to no model" for path in folder.glob("*") if path not in wanted]
    return sorted(found)


def _read(path: Path) -> str | None:
    return path.read_bytes().decode(errors="replace") if path.exists() else None


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 fine, 1 drift or refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on drift")
    parser.add_argument("--release", metavar="VERSION", help="freeze everything unreleased as of this version")
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="the repository")
    options = parser.parse_args(arguments)
    try:
        wanted = wanted_files(options.root, options.release)
    except SchemaError as error:
        print(error, file=sys.stderr)
        return 1
    differences = drift(options.root, wanted)
    if options.check:
        for difference in differences:
            print(f"{difference}: run `python tools/schemas.py` and commit the result", file=sys.stderr)
        return 1 if differences else 0
    for path, text in wanted.items():
        if _read(path) != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
            print(f"wrote {path.relative_to(options.root)}")
    for folder in {path.parent for path in wanted}:
        for path in folder.glob("*"):
            if path not in wanted:
                path.unlink()
                print(f"removed {path.relative_to(options.root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Generate the JSON Schemas from the models into the wheel and into `schemas/`, and keep every release for ever.

    python tools/schemas.py                  write what is new or changed
    python tools/schemas.py --check          write nothing, fail on drift and on a damaged release
    python tools/schemas.py --release 0.1.0  keep the schemas and the valid documents of the corpora as that release

`schemas/v1` and the wheel's copy are the current state. `schemas/releases/<package version>` holds what a release
promised, with hashes, and is never touched again. A schema that differs from a released one needs a later minor of the
package (`contracts/pyproject.toml`) and must break no rule of `tools/compatibility.py` against any release; one that
does is the next major version, a new model beside the old one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, Final, NamedTuple

from contracts.schemas import MODELS, schema_filename, schema_id
from tools.compatibility import compare

REPOSITORY: Final = Path(__file__).resolve().parent.parent
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
CORPORA: Final = Path("tests", "conformance", "corpora")
RELEASES: Final = Path("schemas", "releases")
_VERSION: Final = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)")


class SchemaError(Exception):
    """The schemas cannot be written as they are; the message says why and what to do."""


class Release(NamedTuple):
    """One kept release.

    Attributes:
        version: The package's version.
        schemas: Text of every schema by `v1/<file name>`.
        documents: Text of every document that was valid then, by `<schema version>/<file name>`.
    """

    version: str
    schemas: dict[str, str]
    documents: dict[str, str]


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


def package_version(root: Path) -> str:
    """Return the version of the contracts package.

    Raises:
        SchemaError: There is none, or it is not MAJOR.MINOR.PATCH.
    """
    path = root / "contracts" / "pyproject.toml"
    try:
        version = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"]
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise SchemaError(f"{path}: the package's version cannot be read ({error!r})") from None
    _numbers(version)
    return str(version)


def read_releases(root: Path) -> list[Release]:
    """Return every kept release, the oldest first.

    Raises:
        SchemaError: A file of a release was changed, removed or added; names all of them.
    """
    top = root / RELEASES
    known: dict[str, str] = json.loads(_read(top / "index.json") or '{"releases": {}}')["releases"]
    damage = [f"{RELEASES / name}: no release of the index" for name in _names(top) - known.keys() - {"index.json"}]
    releases = []
    for version in sorted(known, key=_numbers):
        index = _read(top / version / "index.json")
        if index is None or _sha256(index) != known[version]:
            damage.append(f"{RELEASES / version / 'index.json'}: not what was released")
            continue
        hashes: dict[str, str] = json.loads(index)["files"]
        there = {path.relative_to(top / version).as_posix(): path for path in _files(top / version)}
        texts = {name: _read(path) or "" for name, path in there.items() if name != "index.json"}
        damage += [
            f"{RELEASES / version / name}: not what was released"
            for name in sorted(hashes.keys() | texts.keys())
            if name not in hashes or name not in texts or _sha256(texts[name]) != hashes[name]
        ]
        documents = {
            name.removeprefix("documents/"): text for name, text in texts.items() if name not in _schemas(texts)
        }
        releases.append(Release(version, _schemas(texts), documents))
    if damage:
        raise SchemaError("\n".join([*damage, "Releases are kept for ever as they are: bring the files back."]))
    return releases


def check_releases(root: Path, generated: dict[str, dict[str, str]], releases: list[Release]) -> None:
    """Hold the schemas of today against every release.

    Raises:
        SchemaError: One may not be as it is; says which and what to do.
    """
    if not releases:
        return
    version, newest = package_version(root), releases[-1].version
    today = {f"{major}/{file}": text for major, texts in generated.items() for file, text in texts.items()}
    problems = []
    for name in sorted({name for release in releases for name in release.schemas} - today.keys()):
        first = next(release.version for release in releases if name in release.schemas)
        problems.append(f"{name} was released in {first} and must stay: bring its model back.")
    if today != releases[-1].schemas and _numbers(version)[:2] <= _numbers(newest)[:2]:
        names = today.keys() | releases[-1].schemas.keys()
        changed = sorted(name for name in names if today.get(name) != releases[-1].schemas.get(name))
        problems.append(
            f"{', '.join(changed)}: not as released in {newest}, and the package is {version}: released schemas are "
            "frozen. Bump the version in contracts/pyproject.toml to a later minor."
        )
    for release in releases:
        for name in sorted(release.schemas.keys() & today.keys()):
            violations = compare(json.loads(release.schemas[name]), json.loads(today[name]))
            problems += [f"{name} breaks release {release.version}: {violation}" for violation in violations]
            if violations:
                problems.append(
                    f"{name} needs a new major: leave its model as it was and write the next one beside it."
                )
    if problems:
        raise SchemaError("\n".join(problems))


def wanted_files(root: Path, release: str | None = None) -> dict[Path, str]:
    """Return every file that must exist and its text.

    Args:
        root: The repository.
        release: Version to keep what there is as, None for no release.

    Raises:
        SchemaError: As `read_releases` and `check_releases`; or a release that is not the package's version or exists.
    """
    releases, generated = read_releases(root), generate()
    check_releases(root, generated, releases)
    wanted: dict[Path, str] = {}
    if release is not None:
        releases.append(_new_release(root, release, generated, releases))
        wanted |= _release_files(root, releases[-1])
    for major, texts in generated.items():
        index_text = json.dumps({"schemas": _index(root, major, texts, releases)}, indent=2) + "\n"
        for folder in folders(root, major):
            wanted |= {folder / file: text for file, text in {**texts, "index.json": index_text}.items()}
    return wanted


def _index(root: Path, major: str, texts: dict[str, str], releases: list[Release]) -> list[dict[str, Any]]:
    """Return the index of a major: each file, its `$id` and hash, and the first release that holds exactly it."""
    known = {release.version for release in releases}
    published = json.loads(_read(folders(root, major)[0] / "index.json") or '{"schemas": []}')["schemas"]
    lost = sorted({entry["released_in"] for entry in published} - known - {None})
    if lost:
        raise SchemaError(f"{RELEASES / lost[0]} is gone: releases are kept for ever, bring the folder back.")
    index = []
    for file, text in sorted(texts.items()):
        holds = (release.version for release in releases if release.schemas.get(f"{major}/{file}") == text)
        entry = {
            "file": file,
            "$id": json.loads(text)["$id"],
            "sha256": _sha256(text),
            "released_in": next(holds, None),
        }
        index.append(entry)
    return index


def _new_release(root: Path, version: str, generated: dict[str, dict[str, str]], releases: list[Release]) -> Release:
    if version != package_version(root):
        raise SchemaError(f"{version} is not the package's version {package_version(root)}: release that one.")
    if any(release.version == version for release in releases):
        raise SchemaError(f"{version} is released already: bump the version in contracts/pyproject.toml.")
    if releases and _numbers(version) < _numbers(releases[-1].version):
        raise SchemaError(f"{version} is older than the release {releases[-1].version}: bump the version.")
    valid = sorted((root / CORPORA).glob("*/valid-*.json"))
    missing = sorted(MODELS.keys() - {path.parent.name for path in valid})
    if missing:
        raise SchemaError(f"{CORPORA} has no valid document of {', '.join(missing)}: write some.")
    schemas = {f"{major}/{file}": text for major, texts in generated.items() for file, text in texts.items()}
    return Release(version, schemas, {f"{path.parent.name}/{path.name}": _read(path) or "" for path in valid})


def _release_files(root: Path, release: Release) -> dict[Path, str]:
    top = root / RELEASES
    files = {**release.schemas, **{f"documents/{name}": text for name, text in release.documents.items()}}
    hashes = {name: _sha256(text) for name, text in sorted(files.items())}
    index = json.dumps({"version": release.version, "files": hashes}, indent=2) + "\n"
    known: dict[str, str] = json.loads(_read(top / "index.json") or '{"releases": {}}')["releases"]
    known = {**known, release.version: _sha256(index)}
    wanted = {top / release.version / name: text for name, text in files.items()}
    wanted[top / release.version / "index.json"] = index
    wanted[top / "index.json"] = json.dumps({"releases": known}, indent=2) + "\n"
    return wanted


def drift(root: Path, wanted: dict[Path, str]) -> list[str]:
    """Return what differs between the disk and what must be there."""
    found = [f"{path.relative_to(root)} is not what the models say" for path in wanted if _read(path) != wanted[path]]
    found += [f"{path.relative_to(root)} belongs to no model" for path in _foreign(root, wanted)]
    return sorted(found)


def _foreign(root: Path, wanted: dict[Path, str]) -> list[Path]:
    """Return the files in the folders of the current state that no model wants; releases are judged by their hashes."""
    current = {path.parent for path in wanted if not path.is_relative_to(root / RELEASES)}
    return [path for folder in current for path in folder.glob("*") if path not in wanted]


def _schemas(texts: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in texts.items() if not name.startswith("documents/")}


def _numbers(version: str) -> tuple[int, ...]:
    match = _VERSION.fullmatch(version)
    if match is None:
        raise SchemaError(f"{version!r} is no version: write MAJOR.MINOR.PATCH.")
    return tuple(int(number) for number in match.groups())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


def _read(path: Path) -> str | None:
    # Bytes, for a changed line end is a change.
    return path.read_bytes().decode(errors="replace") if path.is_file() else None


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 fine, 1 drift or refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on drift")
    parser.add_argument("--release", metavar="VERSION", help="keep the current state for ever as this version")
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="the repository")
    options = parser.parse_args(arguments)
    try:
        wanted = wanted_files(options.root, options.release)
    except SchemaError as error:
        print(error, file=sys.stderr)
        return 1
    if options.check:
        differences = drift(options.root, wanted)
        for difference in differences:
            print(f"{difference}: run `python tools/schemas.py` and commit the result", file=sys.stderr)
        return 1 if differences else 0
    for path, text in wanted.items():
        if _read(path) != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
            print(f"wrote {path.relative_to(options.root)}")
    for path in _foreign(options.root, wanted):
        path.unlink()
        print(f"removed {path.relative_to(options.root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

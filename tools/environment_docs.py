"""Generates docs/ENVIRONMENT.md from the settings model; `--check` fails when the file is another."""

from __future__ import annotations

import sys
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from flows.settings import Settings

TARGET = Path(__file__).resolve().parent.parent / "docs" / "ENVIRONMENT.md"

HEAD = """# Environment keys

Generated from `flows/settings.py` by `make docs`; do not edit.

The process environment beats `.env` in the current folder, which beats the defaults.
An empty value counts as unset. Unknown keys are ignored, because two repositories share one `.env`.
`~` and `$VAR` are expanded in paths.
Switches take `1/0`, `true/false`, `yes/no` or `on/off` in any case; a value that cannot be used is an error that names
the key.

| key | type | default | meaning |
|---|---|---|---|
"""


def type_name(annotation: Any) -> str:
    """A word for what a key takes."""
    if typing.get_origin(annotation) is typing.Annotated:
        return type_name(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return type_name(next(part for part in typing.get_args(annotation) if part is not type(None)))
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(f"`{value}`" for value in typing.get_args(annotation))
    names = {bool: "switch", int: "integer", float: "number", str: "text", Path: "path", SecretStr: "secret"}
    return names[annotation]


def default_text(value: Any) -> str:
    """The default as a person would write it into `.env`."""
    if value is None or value is PydanticUndefined:
        return "unset"
    if isinstance(value, SecretStr) or value == "":
        return "empty"
    return f"`{int(value) if isinstance(value, bool) else value}`"


def document() -> str:
    """The whole page."""
    rows = [
        f"| {name.upper()} | {type_name(field.annotation)} | {default_text(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return HEAD + "\n".join(rows) + "\n"


def main() -> int:
    """Write the page, or check it."""
    text = document()
    if "--check" in sys.argv[1:]:
        if TARGET.read_text(encoding="utf-8") != text:
            print(f"{TARGET.name} is not what flows/settings.py says: run `make docs` and commit the result")
            return 1
        return 0
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

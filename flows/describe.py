"""`--describe`: what a command takes, gives and needs, generated from its real options; imports nothing heavy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

import typer


@dataclass(frozen=True)
class Notes:
    """What the options of a command cannot say.

    Attributes:
        outputs: what it writes and prints.
        dependencies: what must be there.
        examples: command lines.
    """

    outputs: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


NOTES: dict[str, Notes] = {}
"""By command path below the program (`sandbox databento`)."""


def describe_command(command: Any, path: str) -> dict[str, Any]:
    """The description of one command.

    Args:
        command: the click command; typer brings its own click, so there is no type to name.
        path: its path below the program.
    """
    notes = NOTES.get(path, Notes())
    hints = {name: hint for name, hint in get_type_hints(command.callback).items() if not name.startswith("_")}
    return {
        "name": path,
        "description": " ".join((command.help or "").split("\n\n")[0].split()),
        "inputs": [_input(parameter, hints) for parameter in command.params if parameter.name in hints],
        "outputs": list(notes.outputs),
        "dependencies": list(notes.dependencies),
        "examples": list(notes.examples),
    }


def all_commands(group: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every leaf command below a group, with its path."""
    children: dict[str, Any] = getattr(group, "commands", {})
    if not children:
        return [(path, group)]
    return [
        found for name, child in sorted(children.items()) for found in all_commands(child, f"{path} {name}".strip())
    ]


_TYPE_NAMES = {"date": "day", "Path": "path", "str": "text", "int": "integer", "float": "number", "bool": "flag"}


def _input(parameter: Any, hints: dict[str, Any]) -> dict[str, Any]:
    default = parameter.default
    repeatable, type_name = _type(hints[parameter.name])
    return {
        "name": max(parameter.opts, key=len) if parameter.opts else parameter.name,
        "type": type_name,
        "required": parameter.required,
        "repeatable": repeatable,
        "default": default if isinstance(default, str | int | float | bool) else None,
        "description": getattr(parameter, "help", None) or "",
    }


def _type(hint: Any) -> tuple[bool, str]:
    """Whether an option may be repeated, and a word for what it takes."""
    inner = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) is list:
        return True, _type(inner[0])[1]
    if inner:
        return _type(inner[0])
    return False, _TYPE_NAMES.get(hint.__name__, hint.__name__)


def _show(context: typer.Context, _: typer.CallbackParam, value: bool) -> None:
    if not value:
        return
    path = context.command_path.partition(" ")[2]
    typer.echo(json.dumps(describe_command(context.command, path), indent=2))
    raise typer.Exit


DescribeOption = typer.Option(
    "--describe", help="Print one JSON object about this command and end.", is_eager=True, callback=_show
)

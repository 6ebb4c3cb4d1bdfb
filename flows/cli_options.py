"""What the commands share: exit codes, and the options that every command has.

The commands themselves are in `cli` and the `commands_*` modules.
"""

from __future__ import annotations

import datetime as dt
from importlib.metadata import version
from typing import Annotated, Any

import typer

from flows.describe import DescribeOption

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 130

Describe = Annotated[bool, DescribeOption]


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a day; write it as 2025-09-05") from None


def day_option(name: str, text: str) -> Any:
    """An option that takes a day."""
    return typer.Option(name, parser=_day, metavar="YYYY-MM-DD", help=text)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"trading-data {version('trading-data')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_print_version)
]

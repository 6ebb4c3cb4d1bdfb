"""What `trading-data doctor` does after its options are read: look at everything, print it, say whether it is well."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import shutil
import sys
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.doctor import (
    Report,
    Section,
    broken_settings,
    dead_section,
    limits_table,
    settings_section,
    storage_section,
)
from flows.errors import ConfigurationError
from flows.settings import Settings, load_settings
from flows.vendor_checks import CHECKS, CheckContext, run_checks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

WELL, WRONG = 0, 1
_COLOURS: Final = {"ok": "green", "warning": "yellow", "wrong": "bold red", "skipped": "dim"}
_NARROWEST: Final = 80
_PIPED: Final = 200
# Shown with --json only.
_LEFT_OUT: Final = "source"


def doctor(as_json: bool, vendors: bool) -> int:
    """Look at everything and print it.

    Args:
        as_json: print one JSON object.
        vendors: ask the vendors, too; buys nothing.

    Returns:
        The exit code: 1 when something is wrong.
    """
    # What it finds is in the table; the log of those who look would say it twice.
    logging.getLogger().setLevel(logging.ERROR)
    report = examine(vendors=vendors)
    if as_json:
        sys.stdout.write(json.dumps(report.to_document(), indent=2) + "\n")
    else:
        _print(report)
    return WRONG if report.is_wrong else WELL


def examine(*, vendors: bool) -> Report:
    """Look at everything.

    Args:
        vendors: ask the vendors, too; buys nothing.
    """
    now = dt.datetime.now(dt.UTC)
    report = Report()
    settings: Settings | None = None
    try:
        settings = load_settings()
        # Whether they go together shows only when they are put together.
        _ = settings.data_root
        report.sections.append(settings_section(settings))
    except ConfigurationError as error:
        settings = None
        report.sections.append(broken_settings(error))
    if settings is not None:
        report.sections += [storage_section(settings, now), dead_section(settings)]
    section, shared = _prefect(settings, now)
    report.sections.append(section)
    if settings is not None:
        report.limits = limits_table(settings, shared)
        if vendors:
            report.sections.append(_vendors(settings, now))
    return report


def _prefect(settings: Settings | None, now: dt.datetime) -> tuple[Section, dict[str, str]]:
    # Before the first import, which reads it.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    from flows.doctor_prefect import prefect_section  # noqa: PLC0415 - takes seconds

    return prefect_section(settings, now)


def _vendors(settings: Settings, now: dt.datetime) -> Section:
    """What `check-vendors` asks, without Prefect; folders have been looked at already."""
    asked = {check.name for check in CHECKS if check.vendor is not None or not check.is_folder}
    results = run_checks(CheckContext(settings, now))
    return Section("vendors", tuple(result for result in results if result.check in asked))


def _print(report: Report) -> None:
    width = max(shutil.get_terminal_size().columns, _NARROWEST) if sys.stdout.isatty() else _PIPED
    console = Console(width=width, highlight=False)
    for section in report.sections:
        console.print(_table(section.name, (row.row() for row in section.rows)))
    if report.limits:
        rows = [{key: text for key, text in use.row().items() if key != _LEFT_OUT} for use in report.limits]
        console.print(_table("limits", rows))
    counts = ", ".join(f"{count} {state}" for state, count in report.counts.items())
    console.print(Text(f"{'something is wrong' if report.is_wrong else 'all is well'}: {counts}"))


def _table(title: str, rows: Iterable[Mapping[str, str]]) -> Table:
    listed = list(rows)
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in listed[0]:
        table.add_column(name, overflow="fold")
    for row in listed:
        table.add_row(
            *(Text(text, style=_COLOURS.get(text, "") if name == "state" else "") for name, text in row.items())
        )
    return table

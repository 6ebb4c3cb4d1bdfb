"""The command `marketdata-contracts`: validate files, list the schemas, write a sample root."""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from contracts._validate.findings import Report
from contracts.errors import UnknownSchemaVersion
from contracts.schemas import MODELS, schema_filename, schema_id, schema_text
from contracts.validate import validate_path

if TYPE_CHECKING:
    from collections.abc import Sequence

OK, FOUND, USAGE = 0, 1, 2
INTERRUPTED, CUT_OFF = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Without the program's name; default is the command line.

    Returns:
        The exit code: 0 fine, 1 findings (warnings too with `--strict`), 2 a usage error, 130 interrupted, 141 the
        reader of the output went away.
    """
    options = _parser().parse_args(arguments)
    commands = {"validate": _validate, "schemas": _schemas, "sample": _sample}
    try:
        code = commands[options.command](options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Such as `| head`. Python would flush once more at its exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CUT_OFF
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="marketdata-contracts", description="What the market-data files mean.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('marketdata-contracts')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    validate = commands.add_parser(
        "validate",
        help="check files or whole data roots",
        description="Check files or whole data roots. Exit code: 0 fine, 1 findings, 2 usage error.",
    )
    validate.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file or a folder")
    validate.add_argument("--strict", action="store_true", help="warnings count as findings in the exit code")
    validate.add_argument("--json", action="store_true", help="print one JSON object")
    validate.add_argument("--quick", action="store_true", help="footers, names and JSON documents only, no rows")
    schemas = commands.add_parser("schemas", help="list the JSON Schemas in this package, or print one")
    schemas.add_argument("name", nargs="?", metavar="NAME", help="such as backfill_l2_manifest.v1; prints that schema")
    sample = commands.add_parser("sample", help="write a tiny valid data root")
    sample.add_argument("directory", type=Path, metavar="DIR", help="a folder that is empty or not there yet")
    return parser


def _validate(options: argparse.Namespace) -> int:
    absent = [path for path in options.paths if not os.path.lexists(path)]
    if absent:
        return _usage_error(f"{absent[0]} does not exist or cannot be reached: name files or folders")
    report = Report()
    for path in options.paths:
        report.add(validate_path(path, full=not options.quick))
    failed = report.findings if options.strict else report.errors
    _show(report, as_json=options.json)
    return FOUND if failed else OK


def _show(report: Report, *, as_json: bool) -> None:
    if as_json:
        _print(json.dumps(report.to_document(), indent=2))
        return
    for finding in report.findings:
        # A file name can hold bytes that no terminal shows.
        _print(str(finding).encode(errors="backslashreplace").decode())
    kinds = report.kinds
    if kinds:
        _print(f"{'kind':<17} {'files':>7} {'rows':>11} {'errors':>7} {'warnings':>9}")
    for kind, count in kinds.items():
        _print(f"{kind:<17} {count.files:>7} {count.rows:>11} {count.errors:>7} {count.warnings:>9}")
    _print(f"{report.files} files, {report.rows} rows: {len(report.errors)} errors, {len(report.warnings)} warnings")


def _schemas(options: argparse.Namespace) -> int:
    if options.name is None:
        for name in sorted(MODELS):
            _print(f"{name}  {schema_filename(name)}  {schema_id(name)}")
        return OK
    try:
        _print(schema_text(options.name).rstrip("\n"))
    except UnknownSchemaVersion as error:
        return _usage_error(f"no schema {options.name!a}, there are {', '.join(sorted(error.known))}")
    return OK


def _sample(options: argparse.Namespace) -> int:
    from contracts.testing import write_sample_root  # noqa: PLC0415 - only this command writes

    directory: Path = options.directory
    try:
        if directory.exists() and any(directory.iterdir()):
            return _usage_error(f"{directory} is not empty: name a new folder")
        root = write_sample_root(directory)
    except OSError as error:
        return _usage_error(f"cannot write {directory}: {error.strerror or error}")
    _print(f"wrote a sample data root, try: marketdata-contracts validate {root.path}")
    return OK


def _usage_error(message: str) -> int:
    sys.stderr.write(f"marketdata-contracts: {message}\n")
    return USAGE


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())

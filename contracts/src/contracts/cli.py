"""The command `marketdata-contracts`: validate files, list the schemas, write a sample root."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from contracts._findings import Report
from contracts.errors import UnknownSchemaVersion
from contracts.schemas import MODELS, schema_filename, schema_id, schema_text
from contracts.validate import validate_path

if TYPE_CHECKING:
    from collections.abc import Sequence

OK, FOUND, USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Without the program's name; default is the command line.

    Returns:
        The exit code: 0 fine, 1 findings (warnings too with `--strict`), 2 a usage error.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "validate":
        return _validate(options)
    if options.command == "schemas":
        return _schemas(options)
    return _sample(options)


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
    absent = [path for path in options.paths if not path.exists()]
    if absent:
        return _usage_error(f"{absent[0]} does not exist: name files or folders that do")
    report = Report()
    for path in options.paths:
        one = validate_path(path, full=not options.quick)
        report.findings += one.findings
        report.files += one.files
        report.rows += one.rows
    if options.json:
        _print(json.dumps(report.to_document(), indent=2))
    else:
        for finding in report.findings:
            # A file name can hold bytes that no terminal shows.
            _print(str(finding).encode(errors="backslashreplace").decode())
        _print(
            f"{report.files} files, {report.rows} rows: {len(report.errors)} errors, {len(report.warnings)} warnings"
        )
    failed = report.findings if options.strict else report.errors
    return FOUND if failed else OK


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

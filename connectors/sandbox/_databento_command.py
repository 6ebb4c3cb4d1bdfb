"""The arguments of `python -m connectors.sandbox databento`."""

from __future__ import annotations

import argparse
import os
from datetime import date, datetime
from pathlib import Path
from typing import Any

from connectors.sandbox.databento_server import (
    DEFAULT_API_KEY,
    DEFAULT_RECORDS_PER_HOUR,
    DEFAULT_USD_PER_GB,
    run_forever,
)
from connectors.sandbox.faults import KINDS


def _moment(text: str) -> datetime | date:
    return date.fromisoformat(text) if len(text) == len("2025-09-05") else datetime.fromisoformat(text)


def add_parser(vendors: Any) -> argparse.ArgumentParser:
    """Add the command to argparse's subparsers."""
    kinds = "\n".join(f"  {name:21} {kind.meaning}" for name, kind in KINDS.items())
    parser: argparse.ArgumentParser = vendors.add_parser(
        "databento",
        help="Databento Historical over HTTPS on 127.0.0.1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"faults, as KIND[:NAME=VALUE,...] with endpoint, symbol, day, times and those shown:\n{kinds}",
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="0 takes a free one")
    add("--replay", type=Path, metavar="DIR", help="serve the .dbn and .dbn.zst files of this folder")
    add("--fault", action="append", default=[], metavar="SPEC", help="may be repeated; see below")
    add("--records-per-hour", type=float, default=DEFAULT_RECORDS_PER_HOUR, help="mean of a symbol's session")
    add("--usd-per-gb", type=float, default=DEFAULT_USD_PER_GB)
    add("--request-log", type=Path, metavar="FILE", help="one JSON line per request")
    add("--now", type=_moment, help="a fixed present, as an ISO date or datetime with offset")
    return parser


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    return run_forever(
        port=options.port,
        api_key=os.environ.get("SANDBOX_API_KEY") or DEFAULT_API_KEY,
        replay_dir=options.replay,
        faults=options.fault,
        records_per_hour=options.records_per_hour,
        usd_per_gb=options.usd_per_gb,
        request_log=options.request_log,
        now=options.now,
        announce=options.announce,
        parent_pid=options.parent_pid,
        until_stdin_ends=options.until_stdin_ends,
    )

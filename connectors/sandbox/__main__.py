"""`python -m connectors.sandbox databento`: a sandbox vendor as a process of its own."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import date, datetime
from pathlib import Path

from connectors.sandbox.databento_server import (
    DEFAULT_API_KEY,
    DEFAULT_RECORDS_PER_HOUR,
    DEFAULT_USD_PER_GB,
    run_forever,
)
from connectors.sandbox.faults import KINDS


def _moment(text: str) -> datetime | date:
    return date.fromisoformat(text) if len(text) == len("2025-09-05") else datetime.fromisoformat(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m connectors.sandbox", description=__doc__)
    vendors = parser.add_subparsers(dest="vendor", required=True)
    kinds = "\n".join(f"  {name:21} {kind.meaning}" for name, kind in KINDS.items())
    databento = vendors.add_parser(
        "databento",
        help="Databento Historical over HTTPS on 127.0.0.1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"faults, as KIND[:NAME=VALUE,...] with endpoint, symbol, day, times and those shown:\n{kinds}",
    )
    add = databento.add_argument
    add("--port", type=int, default=0, help="0 takes a free one")
    add("--replay", type=Path, metavar="DIR", help="serve the .dbn and .dbn.zst files of this folder")
    add("--fault", action="append", default=[], metavar="SPEC", help="may be repeated; see below")
    add("--records-per-hour", type=float, default=DEFAULT_RECORDS_PER_HOUR, help="mean of a symbol's session")
    add("--usd-per-gb", type=float, default=DEFAULT_USD_PER_GB)
    add("--request-log", type=Path, metavar="FILE", help="one JSON line per request")
    add("--now", type=_moment, help="a fixed present, as an ISO date or datetime with offset")
    add("--announce", default="-", metavar="FILE", help="where the JSON line goes when ready; - is stdout")
    add("--parent-pid", type=int, metavar="PID", help="end when this process is gone")
    add("--until-stdin-ends", action="store_true", help="end when stdin is closed at the other side")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
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
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())

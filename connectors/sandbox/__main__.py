"""`python -m connectors.sandbox databento|ib-gateway`: a sandbox vendor as a process of its own."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any, Final

_COMMANDS: Final = {
    "databento": "connectors.sandbox._databento_command",
    "ib-gateway": "connectors.sandbox._ib_command",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    # Only the vendor that is asked for is loaded: the others' libraries take longer than its start.
    wanted = [name for name in _COMMANDS if name in given[:1]] or list(_COMMANDS)
    commands: dict[str, Any] = {name: importlib.import_module(_COMMANDS[name]) for name in wanted}
    parser = argparse.ArgumentParser(prog="python -m connectors.sandbox", description=__doc__)
    vendors = parser.add_subparsers(dest="vendor", required=True)
    for command in commands.values():
        add = command.add_parser(vendors).add_argument
        add("--announce", default="-", metavar="FILE", help="where the JSON line goes when ready; - is stdout")
        add("--parent-pid", type=int, metavar="PID", help="end when this process is gone")
        add("--until-stdin-ends", action="store_true", help="end when stdin is closed at the other side")
    options = parser.parse_args(given)
    try:
        return int(commands[options.vendor].run(options))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())

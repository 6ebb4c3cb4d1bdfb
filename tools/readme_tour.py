"""Run the tour in a README: its Python blocks in one namespace, its console blocks against their shown output.

    python tools/readme_tour.py contracts/README.md

Runs in the current folder, which the tour writes to. Needs nothing but the standard library and what the tour uses.
"""

from __future__ import annotations

import io
import re
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


class TourError(Exception):
    """A block does not do what the README shows."""


def run_tour(text: str, name: str, commands: Mapping[str, Callable[[Sequence[str]], int]]) -> int:
    """Run every block in order; returns how many there are.

    Args:
        text: The README.
        name: Its name in tracebacks.
        commands: The functions behind the programs that console blocks call; each returns an exit code.

    Raises:
        TourError: A command failed or printed something else than is shown.
    """
    names: dict[str, Any] = {}
    blocks = BLOCK.findall(text)
    for language, block in blocks:
        if language == "python":
            exec(compile(block, name, "exec"), names)  # noqa: S102 - the README is ours
        else:
            _run_console(block, commands)
    return len(blocks)


def _run_console(block: str, commands: Mapping[str, Callable[[Sequence[str]], int]]) -> None:
    printed = ""
    for line in block.splitlines():
        if not line.startswith("$ "):
            continue
        program, *arguments = shlex.split(line.removeprefix("$ "))
        output = io.StringIO()
        with redirect_stdout(output):
            code = commands[program](arguments)
        if code != 0:
            raise TourError(f"{line} ended with exit code {code}:\n{output.getvalue()}")
        printed += f"{line}\n{output.getvalue()}"
    if printed != block:
        raise TourError(f"the README shows\n{block}\nbut this is printed\n{printed}")


def main(path: Path) -> int:
    """Run the tour of the contracts README in the current folder."""
    from contracts.cli import main as marketdata_contracts  # noqa: PLC0415 - the tour may be another one's

    blocks = run_tour(path.read_text(encoding="utf-8"), path.name, {"marketdata-contracts": marketdata_contracts})
    print(f"{blocks} blocks of {path.name} run as written")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))

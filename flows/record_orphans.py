"""What dead recorders left on a data root, put right beside a new session: temp files swept, sessions recovered.

Recovery runs in a child process, so that its work shares neither the interpreter nor the patience of the capture.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from typing import IO, TYPE_CHECKING, Self

from connectors.store.errors import StoreError
from connectors.store.live import dead_sessions
from connectors.store.temps import sweep_stale_temps

if TYPE_CHECKING:
    from contracts.layout import DataRoot

logger = logging.getLogger(__name__)


class Orphans:
    """The recovery that runs beside a session.

    Args:
        child: the recovering process, None when there is nothing to recover.
        output: what it prints.
    """

    def __init__(self, child: subprocess.Popen[bytes] | None, output: IO[bytes] | None) -> None:
        self._child = child
        self._output = output

    @classmethod
    def recover(cls, root: DataRoot) -> Self:
        """Sweep the root and start the recovery of its dead sessions; nothing that goes wrong here is raised."""
        sweep_stale_temps(root.path)
        try:
            dead = dead_sessions(root)
        except StoreError as error:
            logger.warning("dead sessions cannot be looked for, `trading-data recover` can be tried later: %s", error)
            dead = []
        if not dead:
            return cls(None, None)
        logger.warning("recovering %d sessions of dead recorders: %s", len(dead), ", ".join(dead))
        try:
            output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `finish`
            child = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-P", "-m", "flows.capture_recover", str(root.path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A Ctrl-C in the terminal is the parent's to handle.
                start_new_session=True,
            )
        except OSError as error:
            logger.warning("the recovery cannot be started, try `trading-data recover` later: %s", error)
            return cls(None, None)
        return cls(child, output)

    def finish(self) -> None:
        """Wait for the recovery and log what it says."""
        child, output = self._child, self._output
        if child is None or output is None:
            return
        code = child.wait()
        output.seek(0)
        with output:
            for line in output.read().decode(errors="replace").splitlines():
                logger.log(logging.INFO if code == 0 else logging.WARNING, "recovery: %s", line)
        if code:
            logger.warning("the recovery ended with exit code %d; try `trading-data recover`", code)

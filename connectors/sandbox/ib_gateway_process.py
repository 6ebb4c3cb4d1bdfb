"""The sandbox IB gateway in a process of its own, so that making messages does not share the GIL with their reader.

`IbGatewayProcess` starts and steers it from Python; `run_forever` is what the child, and a person, runs:
`python -m connectors.sandbox ib-gateway`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import IO, TYPE_CHECKING, Any, Final, Self

from connectors.sandbox._ib_control import ControlClient
from connectors.sandbox._ib_controls import GatewayControls
from connectors.sandbox._process import (
    SandboxDidNotStartError,
    announce,
    end_child,
    read_announcement,
    serve_until_told,
)
from connectors.sandbox.ib_gateway import DEFAULT_SERVER_VERSION, SANDBOX_ACCOUNT, IbGateway

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from connectors.sandbox._ib_market import Overflow

_SWITCH_S: Final = 0.0005  # requests are read when they arrive, also while bars are made

__all__ = ["IbGatewayProcess", "SandboxDidNotStartError", "run_forever"]


class IbGatewayProcess(GatewayControls):
    """`IbGateway` in a child process, alive inside a `with` block; it ends with its parent, even a killed one.

    Args are those of `ib_gateway.IbGateway`, and

    Args:
        port: see there, like those below it.
        accounts: see there.
        depth_lines: see there.
        rate_per_s: see there.
        rows: see there.
        overflow: see there.
        seed: see there.
        unknown: see there.
        refused: see there.
        busy_client_ids: see there.
        server_version: see there.
        log: see there.
        answer_delay_s: see there.
        now: see there.
        pacing: see there.
        pacing_speed: see there.
        pacing_slack_s: see there.
        bars_delay_s: see there.
        calendar_durations: see there.
        faults: see there.
        start_within_s: how long the start may take.

    Attributes:
        host: `127.0.0.1`.
        port: where it listens.
        control_port: where it takes controls.
        pid: of the child.
        seed: as given.

    Raises:
        SandboxDidNotStartError: on entering, when the child does not announce itself in time.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        accounts: Sequence[str] = (SANDBOX_ACCOUNT,),
        depth_lines: int = 3,
        rate_per_s: float = 50.0,
        rows: int | None = None,
        overflow: Overflow = "explicit",
        seed: int = 0,
        unknown: Collection[str] = ("GONE",),
        refused: Mapping[str, int] | None = None,
        busy_client_ids: Collection[int] = (),
        server_version: int = DEFAULT_SERVER_VERSION,
        log: Path | None = None,
        answer_delay_s: float = 0.0,
        now: str | None = None,
        pacing: bool = True,
        pacing_speed: float = 1.0,
        pacing_slack_s: float = 0.0,
        bars_delay_s: float = 0.0,
        calendar_durations: bool = False,
        faults: Iterable[str] = (),
        start_within_s: float = 30.0,
    ) -> None:
        self.host = ""
        self.port = 0
        self.control_port = 0
        self.pid = 0
        self.seed = seed
        self._start_within_s = start_within_s
        once = {
            "--port": port,
            "--depth-lines": depth_lines,
            "--rate": rate_per_s,
            "--rows": rows,
            "--overflow": overflow,
            "--seed": seed,
            "--server-version": server_version,
            "--log": log,
            "--answer-delay": answer_delay_s,
            "--now": now,
            "--pacing-speed": pacing_speed,
            "--pacing-slack": pacing_slack_s,
            "--bars-delay": bars_delay_s,
        }
        repeated = {
            "--account": accounts,
            "--unknown": unknown or [""],
            "--refuse": [f"{symbol}={code}" for symbol, code in (refused or {}).items()],
            "--busy-client-id": busy_client_ids,
            "--fault": faults,
        }
        self._arguments = [f"{name}={value}" for name, value in once.items() if value is not None]
        self._arguments += [f"{name}={value}" for name, values in repeated.items() for value in values]
        self._arguments += [] if pacing else ["--no-pacing"]
        self._arguments += ["--calendar-durations"] if calendar_durations else []
        self._child: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._control: ControlClient | None = None

    def __enter__(self) -> Self:
        self._stderr = tempfile.TemporaryFile()
        self._child = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", "connectors.sandbox", "ib-gateway", *self._arguments, "--until-stdin-ends"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,  # a Ctrl-C in the terminal is the parent's to handle
        )
        try:
            said = read_announcement(self._child, self._stderr, self._start_within_s)
            self.host, self.port, self.pid = said["host"], said["port"], said["pid"]
            self.control_port = said["control_port"]
            self._control = ControlClient(self.control_port)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the child and wait for it; harmless when it is gone."""
        if self._control is not None:
            self._control.close()
            self._control = None
        child, self._child = self._child, None
        if child is not None:
            end_child(child)
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def _do(self, control: str, **arguments: Any) -> Any:
        if self._control is None:
            raise RuntimeError("the sandbox gateway is not running; use it inside its `with` block")
        return self._control.ask(control, arguments)


def run_forever(
    *,
    announce_to: str = "-",
    control_port: int = 0,
    parent_pid: int | None = None,
    until_stdin_ends: bool = False,
    **options: Any,
) -> int:
    """Serve until SIGINT, SIGTERM or the end of the parent; for a main thread.

    Writes one JSON line `{host, port, control_port, pid}` when ready, and how to use it on stderr.

    Args:
        announce_to: file that gets the JSON line (written whole, under its name at once), `-` for stdout.
        control_port: 0 takes a free one.
        parent_pid: end when this process is gone.
        until_stdin_ends: end when stdin is closed at the other side.
        options: as for `IbGateway`.

    Returns:
        The exit code, 0.

    Raises:
        ValueError: an option or fault that cannot be used.
        OSError: a port is taken, or the log cannot be written.
    """
    sys.setswitchinterval(_SWITCH_S)
    with IbGateway(**options) as gateway:
        opened = gateway.open_control(control_port)
        ready = {"host": gateway.host, "port": gateway.port, "control_port": opened, "pid": os.getpid()}

        def announced() -> None:
            announce(ready, announce_to)
            exports = "\n".join(f"  export {name}='{value}'" for name, value in gateway.env().items())
            print(  # noqa: T201 - help for a person
                f"Sandbox IB gateway (TWS API protocol, invented data) on {gateway.host}:{gateway.port}\n{exports}\n"
                f"  controls, a JSON line each, on port {opened}: "
                '{"control": "reset", "arguments": {"symbol": "AAPL"}}\n'
                "Ctrl-C ends it.",
                file=sys.stderr,
                flush=True,
            )

        serve_until_told(announced, parent_pid=parent_pid, until_stdin_ends=until_stdin_ends)
    return 0

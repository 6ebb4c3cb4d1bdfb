"""The control port of a sandbox gateway in another process: one JSON line asks, one answers.

`{"control": "reset", "arguments": {"symbol": "AAPL"}}` is answered with `{"answer": ...}` or `{"error": "..."}`. The
controls are the public methods of `_ib_actions.GatewayActions`. It listens on loopback alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from typing import IO, Any, Final

from connectors.sandbox._ib_core import LOOPBACK, GatewayCore

_LONGEST_LINE: Final = 64 << 20
_CALL_S: Final = 30.0


class ControlServer:
    """Answers controls in the gateway's loop.

    Args:
        core: the gateway.
    """

    def __init__(self, core: GatewayCore) -> None:
        self._core = core
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self, port: int) -> int:
        """Bind a port, 0 for a free one; returns which."""
        self._server = await asyncio.start_server(self._serve, LOOPBACK, port, limit=_LONGEST_LINE)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Close everything."""
        if self._server:
            self._server.close()
        for writer in list(self._writers):
            writer.close()
        for serving in list(self._serving):
            with contextlib.suppress(asyncio.CancelledError):
                await serving

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if task := asyncio.current_task():
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        try:
            while line := await reader.readline():
                writer.write(json.dumps(self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):  # the other side is gone, or its line is longer than any
            pass
        finally:
            writer.close()
            self._writers.discard(writer)

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            return {"answer": self._core.actions.call(asked["control"], asked.get("arguments", {}))}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return {"error": str(error) or repr(error)}


class ControlClient:
    """Asks a gateway's control port; safe to use from several threads.

    Args:
        port: on loopback.

    Raises:
        OSError: nothing answers there; also later.
    """

    def __init__(self, port: int) -> None:
        self._lock = threading.Lock()
        self._socket = socket.create_connection((LOOPBACK, port), timeout=_CALL_S)
        self._lines: IO[bytes] = self._socket.makefile("rb")

    def ask(self, control: str, arguments: dict[str, Any]) -> Any:
        """Have the gateway do something.

        Raises:
            ValueError: it cannot be done; the message is the gateway's.
            ConnectionError: the gateway is gone.
        """
        with self._lock:
            self._socket.sendall(json.dumps({"control": control, "arguments": arguments}).encode() + b"\n")
            line = self._lines.readline()
        if not line:
            raise ConnectionError("the sandbox gateway's process is gone")
        said = json.loads(line)
        if "error" in said:
            raise ValueError(said["error"])
        return said["answer"]

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()

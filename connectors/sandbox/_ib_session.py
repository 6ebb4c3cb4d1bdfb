"""One client's connection to the sandbox gateway: bytes in, messages out, nothing of what they mean."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from connectors.sandbox._ib_records import RateWatch
from connectors.sandbox._ib_wire import FrameReader, Greeting, WireError, error_frame, frame

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Gateway(Protocol):
        """What a connection tells its gateway."""

        def connected(self, session: Session) -> None:
            """A client is there."""

        def greeted(self, session: Session, greeting: Greeting) -> None:
            """It said which versions it speaks."""

        def received(self, session: Session, fields: list[str]) -> None:
            """It sent a message."""

        def unreadable(self, session: Session, what: str) -> None:
            """It sent what is no TWS API."""

        def closed(self, session: Session) -> None:
            """It is gone."""


_LONGEST_BUFFER: Final = 64 << 20
_NEXT_S: Final = 1e-6


class Session(asyncio.Protocol):
    """A connection.

    Args:
        gateway: who is told.
        number: of the connection, counted from 1.
        delay_s: how late everything written is to arrive, asked at each write.

    Attributes:
        number: as given.
        version: agreed on in the handshake; 0 before.
        client_id: -1 before startApi.
        rate: its messages per second.
    """

    def __init__(self, gateway: Gateway, number: int, delay_s: Callable[[], float]) -> None:
        self.number = number
        self.version = 0
        self.client_id = -1
        self.rate = RateWatch()
        self._gateway = gateway
        self._delay_s = delay_s
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._last_due_s = 0.0
        self._late = 0
        self._is_closing = False

    @property
    def is_open(self) -> bool:
        """Whether the client can still be written to."""
        return self._transport is not None and not self._is_closing

    def write(self, data: bytes, written: Callable[[int], None] | None = None) -> None:
        """Send bytes, late if the gateway is slow; `written` is told the time when they go to the socket."""
        delay_s = self._delay_s()
        now = self._loop.time()
        if delay_s <= 0 and not self._late:
            self._write(data, written)
        else:
            # Never before what was written earlier, whatever the delay was then.
            self._last_due_s = max(now + delay_s, self._last_due_s + _NEXT_S)
            self._late += 1
            self._loop.call_at(self._last_due_s, self._write_late, data, written)

    def _write_late(self, data: bytes, written: Callable[[int], None] | None) -> None:
        self._late -= 1
        self._write(data, written)

    def _write(self, data: bytes, written: Callable[[int], None] | None) -> None:
        if self._transport is None or self._is_closing:
            return
        at_ns = time.time_ns()
        self._transport.write(data)
        if written:
            written(at_ns)
        if self._transport.get_write_buffer_size() > _LONGEST_BUFFER:
            self.abort()  # the client takes nothing any more

    def send(self, *fields: object) -> None:
        """Send one message."""
        self.write(frame(*fields))

    def error(self, request_id: int, code: int, text: str) -> None:
        """Send an error or a notice; request id -1 when it belongs to none."""
        self.write(error_frame(self.version, request_id, code, text))

    def close(self, *, last_bytes: bytes = b"") -> None:
        """End the connection after what was written, and after these bytes."""
        if self._transport is not None and not self._is_closing:
            if last_bytes:
                self._transport.write(last_bytes)
            self._is_closing = True
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._is_closing = True
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = transport  # type: ignore[assignment] # a TCP server's transport can be written to
        self._gateway.connected(self)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        try:
            for item in self._reader.feed(data):
                if self._is_closing:
                    return
                if isinstance(item, Greeting):
                    self._gateway.greeted(self, item)
                else:
                    self._gateway.received(self, item)
        except WireError as error:
            self._gateway.unreadable(self, str(error))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Called by the loop."""
        self._transport = None
        self._gateway.closed(self)

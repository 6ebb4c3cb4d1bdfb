"""A wish to end a run that works in an event loop, from any thread or from a signal; what it ends is not known here."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)


class Stop:
    """A wish to end a run, from any thread; the first one counts.

    Attributes:
        reason: why it shall end; None while nobody asked.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event: asyncio.Event | None = None

    def ask(self, reason: str) -> None:
        """Let the run end cleanly.

        Args:
            reason: a word; in case of trouble a colon follows, and more for people.
        """
        if self.reason is None:
            self.reason = reason
        loop, event = self._loop, self._event
        if loop is not None and event is not None:
            # The loop may be gone: then there is nothing to stop.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)

    def bind(self) -> asyncio.Event:
        """The wish as an event of the running loop."""
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self.reason is not None:
            self._event.set()
        return self._event


@contextmanager
def stop_on_signals(stop: Stop, *, what: str, kept: str) -> Iterator[None]:
    """SIGINT and SIGTERM ask for a clean end; again they change nothing, for then it is under way.

    Does nothing outside the main thread. Only inside a running loop.

    Args:
        stop: is asked, with the name of the signal in small letters.
        what: what ends, such as `the download`.
        kept: what becomes of the work so far, such as `what is complete is published`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def ask(number: signal.Signals) -> None:
        if stop.reason is None:
            logger.warning("%s: ending %s; %s", number.name, what, kept)
        else:
            logger.warning("%s: %s is ending already; please wait", number.name, what)
        stop.ask(number.name.lower())

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        loop.add_signal_handler(number, ask, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            # None: it was not set by Python, and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

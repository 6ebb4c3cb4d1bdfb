"""What a run tells Prefect besides its state leaves through here: by a thread, so that the run never waits for it.

The API may be slow, gone or back. Who has something to tell leaves it in an outbox; its thread writes it as soon as the
API takes it. Nothing here raises, and only `flush` waits, for no longer than it is told.
"""

from __future__ import annotations

import atexit
import contextvars
import logging
import threading
import time
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import httpx

from flows.prefect_api import patient_client

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

logger = logging.getLogger(__name__)

FLUSH_S: Final = 5.0
_API_TIMEOUT_S: Final = 5.0
_READ_S: Final = 10.0
"""A server on SQLite stands still now and then; who gives up too soon makes it do the same work again."""

_AGAIN_S: Final = 3.0
_AGAIN_HURRIED_S: Final = 0.5
_IDLE_S: Final = 20.0
_GONE_PATIENCE_S: Final = 1.0
_LAST_WRITE_S: Final = 1.0
_TOO_MANY: Final = frozenset({408, 429})


class Outbox(ABC):
    """Something that waits to be written to the API of the flow run in whose context it was made.

    Args:
        what: what is missing while it cannot be written, for the log.
        every_s: seconds between writes, so that what changes often is not written each time.
    """

    def __init__(self, what: str, every_s: float = 0.0) -> None:
        self._what = what
        self._every_s = every_s
        self._context = contextvars.copy_context()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._flushing = 0
        self._is_over = False
        _all.add(self)

    @abstractmethod
    def waiting(self) -> int:
        """How many writes are to be made; called with the lock of the outbox held."""

    @abstractmethod
    def write_next(self, client: SyncPrefectClient) -> None:
        """Make one of them; called by the thread, one call at a time.

        Raises:
            Exception: whatever the API answers; what was not written waits on.
        """

    @abstractmethod
    def drop_next(self) -> None:
        """Forget what `write_next` tried, for the API will never take it; called like it."""

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until all is written; whether it was. A second at most when the API is gone."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            if not self.waiting():
                return True
            self._flushing += 1
            self._work()
            is_late = False
            while self.waiting() and (left_s := deadline - time.monotonic()) > 0:
                if isinstance(self._failure, httpx.TransportError) and not is_late:
                    is_late, left_s = True, min(left_s, _GONE_PATIENCE_S)
                    deadline = time.monotonic() + left_s
                self._changed.wait(left_s)
            self._flushing -= 1
            return not self.waiting()

    def close(self, timeout_s: float) -> None:
        """End the thread after the write that is under way; what waits is not written any more."""
        with self._changed:
            self._is_over = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(timeout_s)

    def _work(self) -> None:
        """See that the thread is at work; with the lock held."""
        if self._is_over:
            return
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._context.copy().run, args=(self._run,), name="prefect-outbox", daemon=True
            )
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while self._wait_for_work():
            failure = self._attempt()
            with self._changed:
                # Said once until a write succeeds.
                if failure is not None and self._failure is None:
                    logger.warning("%s: Prefect's API does not take it now, the run goes on: %s", self._what, failure)
                self._failure = failure
                self._changed.notify_all()
                self._pause()

    def _wait_for_work(self) -> bool:
        with self._changed:
            if self._changed.wait_for(lambda: self.waiting() or self._is_over, _IDLE_S) and not self._is_over:
                return True
            self._thread = None
            return False

    def _attempt(self) -> Exception | None:
        try:
            with patient_client(_API_TIMEOUT_S, read_s=_READ_S) as client:
                # What comes meanwhile is left to the next time, or that would never be.
                for _ in range(self._count()):
                    self._write(client)
        except Exception as error:  # noqa: BLE001 - whatever a client, a server or a network can come up with
            return error
        return None

    def _count(self) -> int:
        with self._changed:
            return self.waiting()

    def _write(self, client: SyncPrefectClient) -> None:
        if self._is_over:
            return
        try:
            self.write_next(client)
        except Exception as error:
            if not _is_refused(error):
                raise
            logger.warning("%s: Prefect's API does not take a part of it: %s", self._what, error)
            self.drop_next()

    def _pause(self) -> None:
        """Leave the API alone for a while; with the lock held."""
        if self._flushing:
            if self._failure is not None:
                self._changed.wait(_AGAIN_HURRIED_S)
            return
        pause_s = self._every_s if self._failure is None else _AGAIN_S
        self._changed.wait_for(lambda: self._flushing or self._is_over, pause_s)


def _is_refused(error: Exception) -> bool:
    """Whether trying again is of no use."""
    if isinstance(error, httpx.HTTPStatusError):
        code = error.response.status_code
        return 400 <= code < 500 and code not in _TOO_MANY  # noqa: PLR2004 - the client's fault
    return not isinstance(error, httpx.HTTPError)


_all: Final[weakref.WeakSet[Outbox]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Let no thread be inside a library when the interpreter ends: that would abort the process."""
    deadline = time.monotonic() + _LAST_WRITE_S
    for outbox in list(_all):
        outbox.close(max(0.0, deadline - time.monotonic()))

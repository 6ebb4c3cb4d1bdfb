"""Work in a thread of its own while the thread that called waits for it, and for signals.

Prefect raises its word for SIGTERM wherever the main thread of a flow is; in an event loop that would tear everything
down. So the loop runs elsewhere, and a signal only asks it to end.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from typing import TYPE_CHECKING, TypeVar

from prefect.exceptions import TerminationSignal

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.stopping import Stop

logger = logging.getLogger(__name__)

T = TypeVar("T")


def attended(work: Callable[[], T], stop: Stop, *, name: str, saying: str) -> tuple[T, BaseException | None]:
    """Do something in a thread, and wait for it whatever happens here meanwhile.

    Args:
        work: what to do; it has the context of the run, so that its log lines find its page.
        stop: asked to end the work when a signal comes.
        name: of the thread.
        saying: what a signal ends and what becomes of it, for the log.

    Returns:
        What the work returned, and the signal that ended it, if one did.

    Raises:
        BaseException: what the work raised.
    """
    done = threading.Event()
    is_first = threading.Lock()
    outcome: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        if not is_first.acquire(blocking=False):
            return
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
            errors.append(error)
        finally:
            done.set()

    signalled: BaseException | None = None
    while not done.is_set():
        try:
            # A signal may come while the thread is started; then a second one finds the work taken.
            if not is_first.locked():
                threading.Thread(target=contextvars.copy_context().run, args=(run,), name=name).start()
            done.wait()
        except (KeyboardInterrupt, TerminationSignal) as signal_error:
            stop.ask("sigint" if isinstance(signal_error, KeyboardInterrupt) else "sigterm")
            signalled = signalled or signal_error
            logger.warning("%s", saying)
        except asyncio.CancelledError:
            # Prefect ends a run whose deployment's slot it could not renew for minutes; the work needs no API.
            logger.warning("Prefect could not keep this run's place; the work goes on")
    if errors:
        raise errors[0]
    return outcome[0], signalled

"""What `trading-data record-depth --serve` does: hold the captures of the deployments of `record-depth`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final

from flows.errors import ConfigurationError
from flows.server_settings import client_env
from flows.settings import load_settings

if TYPE_CHECKING:
    from types import FrameType

OK, USAGE = 0, 2
DEPLOYMENTS: Final = ("record-depth/session", "record-depth/on-demand")
_API_POLL_S: Final = 1.0

logger = logging.getLogger(__name__)


def serve_captures(limit: int) -> int:
    """Serve scheduled and on-demand captures until SIGTERM or Ctrl-C; those under way are ended cleanly then.

    Args:
        limit: so many captures at once; the limits of the deployments count as well.

    Returns:
        The exit code.
    """
    for key, value in client_env().items():
        os.environ.setdefault(key, value)
    try:
        settings = load_settings()
        # With handlers before Prefect is imported: seconds in which a signal would kill.
        stop = _stop_on_signals()
        _log_to_stderr(settings.log_level)
        return _serve(limit, stop)
    except ConfigurationError as error:
        print(f"trading-data record-depth --serve: {error}", file=sys.stderr)  # noqa: T201 - the one clear error
        return USAGE


def _serve(limit: int, stop: threading.Event) -> int:
    from prefect.settings import get_current_settings  # noqa: PLC0415 - Prefect takes seconds to import

    from flows.serving import RunServer  # noqa: PLC0415 - likewise

    prefect = get_current_settings()
    if not prefect.api.url:
        raise ConfigurationError("PREFECT_API_URL is not set; start `trading-data server` and set what it prints")
    server = RunServer(DEPLOYMENTS, limit=limit, poll_s=prefect.runner.poll_frequency)
    said = False
    while not stop.is_set():
        try:
            server.check()
            break
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a client, a server or a network can come up with
            # Services of a machine start in any order.
            if not said:
                logger.warning("Prefect's API at %s does not answer and is waited for: %s", prefect.api.url, error)
            said = True
            stop.wait(_API_POLL_S)
    if not stop.is_set():
        logger.info(
            "serving %s of %s; SIGTERM or Ctrl-C ends captures cleanly", ", ".join(DEPLOYMENTS), prefect.api.url
        )
    server.serve(stop)
    logger.info("ended")
    return OK


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def ask(number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        # Not the logger: the signal may have come while it holds its lock.
        text = f"{name}: ending already; captures are being written" if stop.is_set() else f"{name}: ending"
        os.write(sys.stderr.fileno(), f"trading-data record-depth --serve: {text}\n".encode())
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return stop


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    for noisy in ("asyncio", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))

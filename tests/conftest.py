"""One Prefect server for all tests of a process that only use it; who kills servers starts one of their own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from support.prefect_server import PrefectServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _own_loggers_stay_as_they_were() -> Iterator[None]:
    """A flow or a command in this process sets levels for good, by the LOG_LEVEL of its test."""
    loggers = [logging.getLogger(name) for name in (None, "flows", "connectors")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A running server; tests keep their runs apart by names and ids."""
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    try:
        server.start()
        yield server
    finally:
        _send_what_waits()
        server.kill()


def _send_what_waits() -> None:
    """Prefect's senders would go on trying when the server is gone."""
    from prefect.events.worker import EventsWorker  # noqa: PLC0415 - takes seconds
    from prefect.logging.handlers import APILogWorker  # noqa: PLC0415 - likewise

    APILogWorker.drain_all(timeout=5)
    EventsWorker.drain_all(timeout=5)


@pytest.fixture
def prefect_api(prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrefectServer]:
    """This process, and those it starts, use the shared server."""
    from prefect.events.worker import EventsWorker  # noqa: PLC0415 - takes seconds
    from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: PLC0415 - likewise

    # Prefect has one sender of events per process, which keeps to the first server it saw.
    EventsWorker.drain_all(timeout=5)
    for key, value in prefect_server.env.items():
        monkeypatch.setenv(key, value)
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        yield prefect_server

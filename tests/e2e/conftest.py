"""One installation for the whole target: it takes half a minute to start, and is what a user has."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from e2e.installation import Installation
from e2e.netlog import NetLog
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from connectors.sandbox.databento_server import DatabentoSandbox
from connectors.sandbox.ib_gateway import IbGateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect.events import Event

KEY = "db-e2e-tests-2718281828459045235"


class Subscriber:
    """What a program on the other side would get: this project's events, as they come."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._loop = asyncio.new_event_loop()
        self._is_there = threading.Event()
        # With the settings of this test: another server would be started otherwise.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="subscriber", daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._is_there.wait(60)

    def named(self, name: str, **labels: str) -> list[Event]:
        return [
            event
            for event in list(self.events)
            if event.event == name and labels.items() <= event.resource.model_dump().items()
        ]

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(30)

    def _run(self) -> None:
        self._task = self._loop.create_task(self._listen())
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _listen(self) -> None:
        ours = EventFilter(
            event=EventNameFilter(prefix=["level2.", "bars.", "coverage."]),
            occurred=EventOccurredFilter(since=dt.datetime.now(dt.UTC)),
        )
        async with get_events_subscriber(filter=ours) as subscriber:
            self._is_there.set()
            async for event in subscriber:
                self.events.append(event)


@pytest.fixture(scope="session")
def vendor() -> Iterator[DatabentoSandbox]:
    with DatabentoSandbox(api_key=KEY, now=dt.date(2025, 12, 1), records_per_hour=2_000) as running:
        yield running


@pytest.fixture(scope="session")
def gateway() -> Iterator[IbGateway]:
    with IbGateway(rate_per_s=50) as running:
        yield running


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> NetLog:
    return NetLog(tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="session")
def place(
    tmp_path_factory: pytest.TempPathFactory, vendor: DatabentoSandbox, gateway: IbGateway, net: NetLog
) -> Iterator[Installation]:
    """Server, deployments, worker and server of captures."""
    installation = Installation(
        tmp_path_factory.mktemp("installation"),
        **vendor.env(),
        **gateway.env(),
        **net.env,
        L2_BACKFILL_WINDOW_ET="09:30-09:40",
        L2_SNAPSHOT_INTERVAL_MS=1_000,
        L2_MIN_FREE_GB=0,
        L2_FLUSH_SECONDS=0.2,
    )
    home = installation.env["PREFECT_HOME"]
    try:
        installation.start_server()
        deployed = installation.trading_data("deploy")
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        installation.start_worker()
        installation.start_serving()
        with pytest.MonkeyPatch.context() as patch:
            for key, value in installation.env.items():
                if key.startswith("PREFECT") or key == "DO_NOT_TRACK":
                    patch.setenv(key, value)
            with temporary_settings({PREFECT_API_URL: installation.url, PREFECT_HOME: home}):
                yield installation
    finally:
        installation.end()


@pytest.fixture(scope="session")
def subscriber(place: Installation) -> Iterator[Subscriber]:
    running = Subscriber()
    running.start()
    yield running
    running.end()

"""One sandbox vendor for the wire tests of a process, and the product's client pointed at it."""

from __future__ import annotations

import threading
import time
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from connectors.databento.client import DatabentoClient, RetryPolicy
from connectors.databento.fetch import RawDay, fetch_day
from connectors.databento.plan import VendorPlan
from connectors.databento.request import DayRequest
from connectors.databento.spend import SpendCeiling
from connectors.sandbox.databento_server import DatabentoSandbox
from flows.raw_shelf import RawShelf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from connectors.sandbox.databento_server import LoggedRequest

KEY = "db-wire-tests-2718281828459045235"
DAY = date(2025, 9, 5)
TODAY = date(2025, 10, 1)


class Wire:
    """The vendor as one test sees it: this test's requests, this test's bill, and the product's client."""

    key = KEY
    day = DAY

    def __init__(self, sandbox: DatabentoSandbox, folder: Path) -> None:
        self.sandbox = sandbox
        self.folder = folder
        self.new_bill()

    def new_bill(self) -> None:
        """Count requests and money from here on."""
        self._before = len(self.sandbox.requests)
        self._before_usd = self.sandbox.billed_usd

    @property
    def requests(self) -> list[LoggedRequest]:
        return self.sandbox.requests[self._before :]

    @property
    def endpoints(self) -> list[str]:
        """What was asked, in order, without the family."""
        return [entry.endpoint.partition(".")[2] for entry in self.requests]

    @property
    def billed_usd(self) -> float:
        return self.sandbox.billed_usd - self._before_usd

    def client(self, *, retries: int = 2, timeout_s: int = 10, **options: Any) -> DatabentoClient:
        options.setdefault("retry", RetryPolicy(retries=retries, base_ms=1, max_ms=2))
        options.setdefault("gateway", self.sandbox.gateway_url)
        return DatabentoClient(KEY, timeout_s=timeout_s, **options)

    def request(self, symbol: str = "AAPL", day: date = DAY, *, minutes: int = 10, **changes: Any) -> DayRequest:
        """Minutes from 09:30 ET on."""
        start = datetime(day.year, day.month, day.day, 9, 30, tzinfo=ZoneInfo("America/New_York"))
        end = start + timedelta(minutes=minutes)
        return DayRequest(
            **{
                "symbol": symbol,
                "day": day,
                "vendor_symbol": symbol,
                "dataset": "XNAS.ITCH",
                "schema": "mbp-10",
                "start_ns": int(start.timestamp()) * 10**9,
                "end_ns": int(end.timestamp()) * 10**9,
                **changes,
            }
        )

    def fetch(
        self,
        request: DayRequest | None = None,
        *,
        client: DatabentoClient | None = None,
        ceiling: SpendCeiling | None = None,
        retries: int = 2,
        **options: Any,
    ) -> RawDay:
        """One day as a run brings it, with a client, a ceiling and look-ups of its own unless given."""
        client = client or self.client(retries=retries)
        request = request or self.request()
        options.setdefault("plan", VendorPlan(client, request.day, request.day))
        return fetch_day(
            client,
            request=request,
            shelf=RawShelf(self.folder, keep=True),
            ceiling=ceiling or SpendCeiling(None, client.circuit),
            **options,
        )

    def price_usd(self, request: DayRequest | None = None) -> float:
        """What the vendor asks for one download; not counted as this test's request."""
        price = self.client().cost_usd(request or self.request())
        self.new_bill()
        return price

    def files(self) -> list[str]:
        """Vendor files in the cache, finished or not; sidecars and locks left out."""
        return sorted(
            path.name
            for path in self.folder.rglob("*")
            if path.is_file() and not path.name.endswith((".json", ".lock"))
        )

    @staticmethod
    def until(condition: Callable[[], object], within_s: float = 20.0) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.005)

    @staticmethod
    def in_thread(work: Callable[[], object]) -> Callable[[float], object]:
        """Start work; the result is a function that waits for its end and returns what it returned or raised."""
        outcome: list[object] = []

        def run() -> None:
            try:
                outcome.append(work())
            except BaseException as error:  # noqa: BLE001 - handed to the test
                outcome.append(error)

        thread = threading.Thread(target=run)
        thread.start()

        def join(within_s: float) -> object:
            thread.join(within_s)
            assert not thread.is_alive(), f"still running after {within_s} s"
            return outcome[0]

        return join


@pytest.fixture(scope="session")
def wire_vendor() -> Iterator[DatabentoSandbox]:
    with DatabentoSandbox(api_key=KEY, strict_api_key=True, now=TODAY, records_per_hour=2_000) as sandbox:
        yield sandbox


@pytest.fixture
def wire(wire_vendor: DatabentoSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(wire_vendor.ca_file))
    yield Wire(wire_vendor, tmp_path / "cache")
    wire_vendor.clear_faults()

"""What all days of one backfill share: the vendor with its one circuit, the limits, the budgets, the places."""

from __future__ import annotations

import datetime as dt
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from connectors.databento.client import Circuit, DatabentoClient, RetryPolicy
from connectors.databento.mapping import MappingFileError, day_request, read_mapping
from connectors.databento.plan import VendorPlan
from connectors.databento.request import canonical_dataset
from connectors.databento.spend import SpendCeiling
from connectors.store.guard import FreeSpaceGuard, RunBudget
from flows.errors import ConfigurationError
from flows.raw_shelf import RawShelf
from flows.vendor_gate import DatabentoGate

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from connectors.databento.request import DayRequest
    from connectors.store.errors import StoreError
    from flows.backfill_request import DayTask
    from flows.settings import Settings

SOURCE = "databento"
PLACEHOLDER_KEY = "YOUR_API_KEY"
"""What the vendor's documentation writes for a key; its client refuses it."""


@dataclass(frozen=True)
class DayOptions:
    """How every day of a run is made.

    Attributes:
        force: write again what exists; on failure the old file stays.
        interval_ms: grid distance; 0 for one row per event.
        with_events: also write the vendor's events.
        max_cost_usd: spend ceiling of the run, None for none.
        read_only: a preview: nothing is written anywhere.
    """

    force: bool = False
    interval_ms: int = 100
    with_events: bool = False
    max_cost_usd: float | None = None
    read_only: bool = False


class BackfillContext:
    """Everything the days of one run share. Making one does no work and writes nothing.

    Args:
        settings: the environment.
        options: how days are made.

    Attributes:
        days: the run's ET days, set once they are known.
        pause: what stopped the run for want of space, None while there is room.

    Raises:
        ConfigurationError: the data root, window or symbol mapping cannot be used.
    """

    def __init__(self, settings: Settings, options: DayOptions, days: Iterable[dt.date] = ()) -> None:
        self.settings = settings
        self.options = options
        self.root = settings.data_root
        self.window = settings.window
        self.days = frozenset(days)
        try:
            self._mapping = read_mapping(
                settings.symbol_mapping_file, required="symbol_mapping_file" in settings.model_fields_set
            )
        except MappingFileError as error:
            raise ConfigurationError(str(error)) from error
        self.circuit = Circuit()
        self.gateway_host = _host(settings.databento_gateway)
        # What another gateway served must never pass for the vendor's own.
        cache_path = settings.cache_path / "gateways" / self.gateway_host if self.gateway_host else settings.cache_path
        self.shelf = RawShelf(cache_path, keep=settings.l2_keep_raw)
        self.ceiling = SpendCeiling(options.max_cost_usd, self.circuit)
        self.budget = RunBudget(settings.l2_max_run_gb, self.root.path)
        self._free_space = [
            FreeSpaceGuard(path, settings.l2_min_free_gb) for path in (self.root.path, settings.cache_path)
        ]
        self.pause: StoreError | None = None
        self._largest_task_bytes = 0
        self._making = threading.Lock()
        self._client: DatabentoClient | None = None
        self._plan: VendorPlan | None = None

    def require_vendor(self) -> None:
        """Make sure that the vendor may be asked.

        Raises:
            ConfigurationError: it is switched off, or there is no key.
        """
        if self.settings.databento_enable_backfill is False:
            raise ConfigurationError("DATABENTO_ENABLE_BACKFILL=0 switches Databento off; set it to 1 to buy data")
        if self.settings.databento_api_key.get_secret_value().strip() in ("", PLACEHOLDER_KEY):
            raise ConfigurationError(
                "DATABENTO_API_KEY is empty or a placeholder; set it in the environment or in .env, or use --sandbox"
            )

    @property
    def client(self) -> DatabentoClient:
        """The vendor; one for the run, so that its circuit and its Retry-After hold for all."""
        with self._making:
            if self._client is None:
                self._client = self._new_client()
            return self._client

    @property
    def plan(self) -> VendorPlan:
        """The run's look-ups; one for the run, so that each is asked once."""
        client = self.client
        with self._making:
            if self._plan is None:
                first = self.window.bounds_utc(min(self.days))[0]
                last = self.window.bounds_utc(max(self.days))[1] - dt.timedelta(microseconds=1)
                self._plan = VendorPlan(client, first.date(), last.date())
            return self._plan

    def _new_client(self) -> DatabentoClient:
        self.require_vendor()
        settings = self.settings
        return DatabentoClient(
            settings.databento_api_key.get_secret_value().strip(),
            gateway=settings.databento_gateway,
            gate=DatabentoGate(None if self.options.read_only else settings.cache_path),
            retry=RetryPolicy(
                settings.retry_attempts, settings.l2_task_backoff_base_ms, settings.l2_task_backoff_max_ms
            ),
            timeout_s=settings.databento_timeout_s,
            circuit=self.circuit,
        )

    def request(self, task: DayTask) -> DayRequest:
        """What a task asks the vendor for."""
        return day_request(
            task.symbol,
            task.day,
            self.window.bounds_ns(task.day),
            dataset=canonical_dataset(self.settings.databento_dataset),
            schema=self.settings.databento_schema,
            mapping=self._mapping,
        )

    def target(self, task: DayTask) -> Path:
        """The snapshots file of a task."""
        return self.root.snapshots_path(task.symbol, task.day, SOURCE)

    def guard(self) -> None:
        """Check the storage guards before a task.

        Raises:
            StorageGuardHit: too little space is free, or the run has written what it may.
        """
        for disk in self._free_space:
            disk.check(self._largest_task_bytes)
        self.budget.reserve(self._largest_task_bytes).close()

    def count_written(self, size_bytes: int) -> None:
        """Count bytes a task wrote against the run's budget."""
        self._largest_task_bytes = max(self._largest_task_bytes, size_bytes)
        self.budget.count(size_bytes)


def _host(gateway: str) -> str:
    """The host of DATABENTO_GATEWAY, empty for the vendor's own; the port of a sandbox changes with every start."""
    if not gateway.strip():
        return ""
    text = gateway if "//" in gateway else f"https://{gateway}"
    try:
        parts = urlsplit(text.strip())
        host = parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:
        host = None
    if not host or not re.fullmatch(r"[A-Za-z0-9.:-]+", host):
        raise ConfigurationError(f"DATABENTO_GATEWAY: {gateway!r} is not a base URL such as https://host:port")
    return host.replace(":", "_")

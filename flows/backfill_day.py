"""One (symbol, day) of a Level-2 backfill, without Prefect: look, fetch, shape, publish.

`BackfillContext` holds what all days of a run share: the vendor with its one circuit, the limits, the budgets. A day
ends in a `DayOutcome` whatever happens to vendor or disk; only what concerns the whole run (a storage guard, a wish to
stop) is raised.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from connectors.databento.client import Circuit, DatabentoClient, RetryPolicy, Stopped
from connectors.databento.errors import TerminalError, VendorError, VerificationFailed
from connectors.databento.fetch import RawDay, fetch_day
from connectors.databento.mapping import MappingFileError, day_request, read_mapping
from connectors.databento.plan import VendorPlan
from connectors.databento.request import SCHEMA_LEVELS, canonical_dataset
from connectors.databento.shape import BookCounts, event_batches, snapshot_batches
from connectors.databento.spend import SpendCeiling
from connectors.store.errors import StorageGuardHit, StoreError
from connectors.store.guard import FreeSpaceGuard, RunBudget
from connectors.store.snapshots import ExistingSnapshots, existing, publish
from contracts.errors import ContractError, InvalidWindow
from contracts.sessions import parse_window
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.level2 import BookScope, SnapshotMetadata, snapshot_schema
from contracts.v1.level2_events import EVENTS_SCHEMA
from contracts.v1.quality import Quality
from flows.backfill_request import session_on
from flows.errors import ConfigurationError
from flows.raw_shelf import RawShelf
from flows.vendor_gate import DatabentoGate

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import pyarrow as pa

    from connectors.databento.request import DayRequest
    from contracts.v1.backfill import BackfillStatus
    from flows.backfill_request import DayTask
    from flows.settings import Settings

logger = logging.getLogger(__name__)

SOURCE = "databento"
MARKET_CLOSED = "market closed"
NO_RECORDS = "no records"


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


@dataclass(frozen=True)
class DayOutcome:
    """What became of one task.

    Attributes:
        task: the task.
        status: manifest word.
        rows: rows of the file; 0 without one.
        path: the file, None without one.
        interval_ms: interval of the file, None when unknown or without one.
        window_et: window of the file or of the attempt.
        cost_usd: spent by this task in this run; None when the vendor gave no price.
        quality: how trustworthy the rows are; None when nothing was read.
        reason: short word for programs, None when all went as usual.
        error: sentence for people, None without one.
        bytes_written: bytes of published files.
        duration_ms: wall clock.
    """

    task: DayTask
    status: BackfillStatus
    rows: int = 0
    path: Path | None = None
    interval_ms: int | None = None
    window_et: str | None = None
    cost_usd: float | None = None
    quality: Quality | None = None
    reason: str | None = None
    error: str | None = None
    bytes_written: int = 0
    duration_ms: float = field(default=0.0, compare=False)


class BackfillContext:
    """Everything the days of one run share. Making one does no work and writes nothing.

    Args:
        settings: the environment.
        options: how days are made.
        days: the run's ET days, in any order.

    Raises:
        ConfigurationError: the data root, window or symbol mapping cannot be used.
    """

    def __init__(self, settings: Settings, options: DayOptions, days: Iterable[dt.date]) -> None:
        self.settings = settings
        self.options = options
        self.root = settings.data_root
        self.window = settings.window
        self._days = frozenset(days)
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
        self.guard_hit: StorageGuardHit | None = None
        self._largest_task_bytes = 0

    def require_vendor(self) -> None:
        """Make sure that the vendor may be asked.

        Raises:
            ConfigurationError: it is switched off, or there is no key.
        """
        if self.settings.databento_enable_backfill is False:
            raise ConfigurationError("DATABENTO_ENABLE_BACKFILL=0 switches Databento off; set it to 1 to buy data")
        if not self.settings.databento_api_key.get_secret_value().strip():
            raise ConfigurationError(
                "DATABENTO_API_KEY is empty; set it in the environment or in .env, or use --sandbox"
            )

    @cached_property
    def client(self) -> DatabentoClient:
        """The vendor; one for the run, so that its circuit opens for all."""
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

    @cached_property
    def plan(self) -> VendorPlan:
        """The run's look-ups."""
        return VendorPlan(self.client, min(self._days), max(self._days))

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
        with self.budget.reserve(0) as reservation:
            reservation.commit(size_bytes)


def without_vendor(context: BackfillContext, task: DayTask) -> DayOutcome | None:
    """The outcome of a task that needs no data: the exchange was closed, or the file is there. None otherwise."""
    if not session_on(task.day):
        return DayOutcome(task, "EMPTY", reason=MARKET_CLOSED, window_et=str(context.window))
    if context.options.force:
        return None
    found = existing(context.target(task))
    if found is None or not _answers(found, context):
        return None
    if context.options.with_events and not context.root.events_path(task.symbol, task.day, SOURCE).is_file():
        return None
    meta = found.metadata
    return DayOutcome(
        task,
        "SKIP",
        rows=found.rows,
        path=found.path,
        interval_ms=meta.interval_ms if meta else None,
        window_et=meta.window_et if meta else None,
    )


def fetch(context: BackfillContext, task: DayTask) -> RawDay:
    """The verified vendor file of a task, kept or bought."""
    return fetch_day(
        context.client,
        context.plan,
        context.request(task),
        shelf=context.shelf,
        ceiling=context.ceiling,
        max_records=context.settings.l2_max_rows_per_task,
        deadline_s=context.settings.databento_deadline_s,
    )


def write(context: BackfillContext, task: DayTask, raw: RawDay) -> DayOutcome:
    """Shape a vendor file and publish the result.

    Raises:
        VerificationFailed: the file is broken; nothing was published.
        StoreError: the disk refuses; the old file is untouched.
        TerminalError: more rows than L2_MAX_ROWS_PER_TASK.
    """
    target = context.target(task)
    if raw.path is None:
        if context.options.force and existing(target) is not None:
            raise TerminalError(
                f"{task.label}: the vendor has no records, yet {target} holds rows; it was left alone "
                "[remove it by hand if the vendor is right]",
                reason="empty_but_file_exists",
            )
        return _empty(context, task, raw, BookCounts())
    counts = BookCounts()
    levels, interval_ms = context.settings.l2_levels, context.options.interval_ms
    bounds_ns = context.window.bounds_ns(task.day)
    schema = snapshot_schema(_metadata(context, task, raw.request))
    batches = snapshot_batches(
        raw.path,
        schema=schema,
        window_ns=bounds_ns,
        levels=levels,
        interval_ms=interval_ms,
        records=raw.records,
        counts=counts,
    )
    cap = context.settings.l2_max_rows_per_task
    published = publish(target, schema, _capped(batches, cap, task) if cap else batches)
    if published is None:
        # A kept file may be wider than the window, and the window hold nothing.
        return _empty(context, task, raw, counts)
    size_bytes = published.size_bytes
    if context.options.with_events:
        events = publish(
            context.root.events_path(task.symbol, task.day, SOURCE),
            EVENTS_SCHEMA,
            event_batches(
                raw.path,
                symbol=task.symbol,
                exchange=_venue(raw.request),
                window_ns=bounds_ns,
                records=raw.records,
            ),
        )
        size_bytes += events.size_bytes if events else 0
    context.count_written(size_bytes + (raw.path.stat().st_size if not raw.reused else 0))
    return DayOutcome(
        task,
        "WRITE",
        rows=published.rows,
        path=published.path,
        interval_ms=interval_ms,
        window_et=str(context.window),
        cost_usd=raw.cost_usd,
        quality=_quality(counts, raw),
        bytes_written=size_bytes,
    )


def run_day(
    context: BackfillContext,
    task: DayTask,
    *,
    fetch_with: Callable[[BackfillContext, DayTask], RawDay] = fetch,
) -> DayOutcome:
    """Process one task; trouble with vendor or disk becomes an ERROR outcome.

    Args:
        context: what the run shares.
        task: symbol and day.
        fetch_with: how raw data is brought; a flow hands in a Prefect task.

    Raises:
        StorageGuardHit: a guard was hit before the task began; the run should pause.
        Stopped: the run was asked to stop; the task left nothing behind.
    """
    began = time.perf_counter()
    paid_usd: float | None = None

    def done(outcome: DayOutcome) -> DayOutcome:
        elapsed_ms = round((time.perf_counter() - began) * 1_000, 3)
        return DayOutcome(**{**outcome.__dict__, "duration_ms": elapsed_ms})

    try:
        if (early := without_vendor(context, task)) is not None:
            return done(early)
        context.guard()
        return done(_fetch_and_write(context, task, fetch_with))
    except (StorageGuardHit, Stopped):
        raise
    except VendorError as error:
        reason, text, paid_usd = error.reason, str(error), error.paid_usd
    except (StoreError, OSError) as error:
        reason, text = "storage", str(error)
    except (ContractError, ConfigurationError) as error:
        reason, text = "configuration", str(error)
    except Exception as error:
        # One task must not take the run's other days with it; the log has the traceback.
        logger.exception("%s: unexpected failure", task.label)
        reason, text = "internal", f"{type(error).__name__}: {error}"
    text = text if task.label in text else f"{task.label}: {text}"
    return done(
        DayOutcome(
            task,
            "ERROR",
            reason=reason,
            error=" ".join(text.split()),
            window_et=str(context.window),
            cost_usd=paid_usd,
        )
    )


def _fetch_and_write(
    context: BackfillContext, task: DayTask, fetch_with: Callable[[BackfillContext, DayTask], RawDay]
) -> DayOutcome:
    raw = fetch_with(context, task)
    try:
        return write(context, task, raw)
    except VerificationFailed as error:
        if not raw.reused:
            raise
        context.shelf.discard(raw, str(error))
    finally:
        context.shelf.release(raw)
    raw = fetch_with(context, task)
    try:
        return write(context, task, raw)
    finally:
        context.shelf.release(raw)


def _empty(context: BackfillContext, task: DayTask, raw: RawDay, counts: BookCounts) -> DayOutcome:
    return DayOutcome(
        task,
        "EMPTY",
        reason=NO_RECORDS,
        window_et=str(context.window),
        cost_usd=raw.cost_usd,
        quality=_quality(counts, raw),
    )


def _capped(batches: Iterable[pa.RecordBatch], cap: int, task: DayTask) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in batches:
        rows += len(batch)
        if rows > cap:
            raise TerminalError(
                f"{task.label}: more than L2_MAX_ROWS_PER_TASK={cap} rows [raise it, or sample more coarsely]",
                reason="row_cap",
            )
        yield batch


def _answers(found: ExistingSnapshots, context: BackfillContext) -> bool:
    """Whether a file is what this run would write: a file that says nothing of itself is taken as it is."""
    meta = found.metadata
    if meta is None:
        return True
    try:
        window = parse_window(meta.window_et)
    except InvalidWindow:
        return False
    covers = window.start <= context.window.start and context.window.end <= window.end
    same = (meta.interval_ms, meta.levels) == (context.options.interval_ms, context.settings.l2_levels)
    if not (covers and same):
        logger.info(
            "%s holds interval %d ms, %d levels, window %s: it is written again as asked",
            found.path,
            meta.interval_ms,
            meta.levels,
            meta.window_et,
        )
    return covers and same


def _metadata(context: BackfillContext, task: DayTask, request: DayRequest) -> SnapshotMetadata:
    return SnapshotMetadata(
        symbol=task.symbol,
        source=SOURCE,
        levels=context.settings.l2_levels,
        interval_ms=context.options.interval_ms,
        session_date=task.day,
        window_et=str(context.window),
        book_scope=BookScope(
            venues=(_venue(request),),
            odd_lots="included",
            time_basis="receive",
            levels=SCHEMA_LEVELS[request.schema],
        ),
        producer=_producer(context.gateway_host),
    )


def _producer(gateway_host: str) -> str:
    """Name and version of the writer, and the gateway when it is not the vendor's own: a sandbox's rows say so."""
    name = f"trading-data {version('trading-data')}"
    return f"{name} (gateway {gateway_host})" if gateway_host else name


def _host(gateway: str) -> str:
    """The host of DATABENTO_GATEWAY, empty for the vendor's own; the port of a sandbox changes with every start."""
    if not gateway.strip():
        return ""
    text = gateway if "//" in gateway else f"//{gateway}"
    try:
        host = urlsplit(text).hostname
    except ValueError:
        host = None
    if not host or not re.fullmatch(r"[A-Za-z0-9.:-]+", host):
        raise ConfigurationError(f"DATABENTO_GATEWAY: {gateway!r} is not a base URL such as https://host:port")
    return host.replace(":", "_")


def _venue(request: DayRequest) -> str:
    """The venue's code: a dataset is named after its venue and feed (`XNAS.ITCH`)."""
    return request.dataset.partition(".")[0]


def _quality(counts: BookCounts, raw: RawDay) -> Quality:
    return Quality(
        vendor_condition=raw.condition,
        rows=counts.rows,
        events=counts.events,
        crossed=counts.crossed,
        locked=counts.locked,
        one_sided=counts.one_sided,
        maybe_bad_book=counts.maybe_bad_book,
        max_gap_ms=counts.max_gap_ns / 1e6 if counts.events > 1 else None,
        first_ts=_iso(counts.first_row_ns),
        last_ts=_iso(counts.last_row_ns),
    )


def _iso(ns: int | None) -> str | None:
    return None if ns is None else str(iso_utc_from_ns(np.array([ns]))[0])

"""What is noted of a day beside its rows: footer metadata and quality."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from connectors.databento.request import SCHEMA_LEVELS
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.level2 import BookScope, SnapshotMetadata
from contracts.v1.level2_events import EventsMetadata
from contracts.v1.quality import Quality
from flows.backfill_context import SOURCE

if TYPE_CHECKING:
    from connectors.databento.fetch import RawDay
    from connectors.databento.request import DayRequest
    from connectors.databento.shape import BookCounts
    from flows.backfill_context import BackfillContext
    from flows.backfill_request import DayTask


def snapshot_metadata(context: BackfillContext, task: DayTask, request: DayRequest) -> SnapshotMetadata:
    """Footer of a snapshots file."""
    return SnapshotMetadata(
        symbol=task.symbol,
        source=SOURCE,
        levels=context.settings.l2_levels,
        interval_ms=context.options.interval_ms,
        session_date=task.day,
        window_et=str(context.window),
        book_scope=BookScope(
            venues=(venue(request),),
            odd_lots="included",
            time_basis="receive",
            levels=SCHEMA_LEVELS[request.schema],
        ),
        producer=producer(context.gateway_host),
    )


def producer(gateway_host: str) -> str:
    """Name and version of the writer, and the gateway when it is not the vendor's own: a sandbox's rows say so."""
    name = f"trading-data {version('trading-data')}"
    return f"{name} (gateway {gateway_host})" if gateway_host else name


def venue(request: DayRequest) -> str:
    """The venue's code: a dataset is named after its venue and feed (`XNAS.ITCH`)."""
    return request.dataset.partition(".")[0]


def quality(counts: BookCounts, raw: RawDay) -> Quality:
    """How trustworthy the rows of a day are."""
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


def events_metadata(context: BackfillContext, task: DayTask) -> EventsMetadata:
    """Footer of an events file."""
    return EventsMetadata(
        symbol=task.symbol,
        source=SOURCE,
        session_date=task.day,
        window_et=str(context.window),
        producer=producer(context.gateway_host),
    )

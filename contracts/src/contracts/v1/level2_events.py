"""Level-2 events, `level2_events.v1`: the vendor's event stream for consumers that build their own books; opt-in.

The columns are those that consumers of the earlier platform read as `Level2`. One row per vendor record in vendor
order; unlike a snapshots file it holds no book.
"""

from __future__ import annotations

from typing import Final, Literal

import pyarrow as pa
from pydantic import ConfigDict, Field

from contracts.v1._footer import FooterMetadata, Source
from contracts.v1._model import FilledText, IsoDate, Symbol, WindowText  # noqa: TC001 - pydantic needs them

SCHEMA_VERSION: Final = "level2_events.v1"

ACTIONS: Final = ("A", "C", "M", "T", "R", "F", "N")
"""Add, cancel, modify, trade, clear, fill and none: exactly Databento's `Action` (databento_dbn.Action)."""

SIDES: Final = ("B", "A", "N")
"""Bid, ask and none: exactly Databento's `Side` (databento_dbn.Side)."""

EVENTS_SCHEMA: Final[pa.Schema] = pa.schema(
    [
        pa.field("timestamp_ns", pa.int64()),
        pa.field("action", pa.string()),
        pa.field("side", pa.string()),
        pa.field("price", pa.float64()),
        pa.field("size", pa.float64()),
        pa.field("level", pa.int64()),
        pa.field("exchange", pa.string()),
        pa.field("symbol", pa.string()),
        pa.field("source", pa.string()),
        pa.field("ts_utc", pa.timestamp("ns", tz="UTC")),
        pa.field("ts_recv", pa.timestamp("ns", tz="UTC")),
    ]
)
"""Exactly these columns in this order, no nulls, although Arrow would allow them.

`timestamp_ns` and `ts_utc` are the venue's clock (`ts_event`) and equal. `ts_recv` is the receive clock: the rows are
ordered by it, and it lies in the window of the file. `action` is one of `ACTIONS`, `side` one of `SIDES`. `price` is
0.0 where the record has none (a clear). `level` is the book level that the event touched, 0 is the best. `symbol` is
canonical, the folder's.
"""


class EventsMetadata(FooterMetadata):
    """Key-value metadata in the footer of a Level-2 events file, decoded; additive, readers must not need it."""

    model_config = ConfigDict(title="Level-2 events, footer metadata")

    schema_version: Literal["level2_events.v1"] = Field(
        default=SCHEMA_VERSION,
        title="Schema version",
        description="Names the major version of the file; missing means v1.",
        examples=[SCHEMA_VERSION],
    )
    symbol: Symbol = Field(title="Symbol", description="Canonical symbol.", examples=["BRK-B"])
    source: Source = Field(title="Source", description="Where the events come from.", examples=["databento"])
    session_date: IsoDate = Field(
        title="Session date", description="The ET trading day of every row.", examples=["2025-09-04"]
    )
    window_et: WindowText = Field(
        title="Window",
        description="ET wall clock of `ts_recv`, start inclusive, end exclusive.",
        examples=["08:30-11:00"],
    )
    producer: FilledText = Field(
        title="Producer", description="Name and version of the writing program.", examples=["trading-data 0.1.0"]
    )


def events_schema(metadata: EventsMetadata) -> pa.Schema:
    """Return the Arrow schema of a file with this metadata in its footer."""
    return EVENTS_SCHEMA.with_metadata(metadata.to_footer())

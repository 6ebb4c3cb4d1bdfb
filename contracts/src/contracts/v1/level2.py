"""Level-2 snapshots, `level2_snapshot.v1`: the Arrow schema of the columns and the model of the footer's metadata.

The same columns hold live and historical files, on a grid or with one row per book event (`interval_ms` 0). The
vendor's event stream is another artifact, `level2_events`.
"""

from __future__ import annotations

from datetime import time
from typing import ClassVar, Final, Literal

import pyarrow as pa
from pydantic import ConfigDict, Field

from contracts.sessions import parse_window
from contracts.v1._footer import FooterMetadata, Source
from contracts.v1._model import Contract, Count, FilledText, IsoDate, Positive, Symbol, WindowText

SCHEMA_VERSION: Final = "level2_snapshot.v1"

DEFAULT_LEVELS: Final = 10

_LAST_MINUTE: Final = time(23, 59)
_MINUTE_NS: Final = 60_000_000_000

SNAPSHOT_SCHEMA: Final[pa.Schema] = pa.schema(
    [
        pa.field("timestamp", pa.string()),
        pa.field("bid_prices", pa.list_(pa.float64())),
        pa.field("bid_sizes", pa.list_(pa.int64())),
        pa.field("ask_prices", pa.list_(pa.float64())),
        pa.field("ask_sizes", pa.list_(pa.int64())),
    ]
)
"""Exactly these columns in this order; no index column, no nulls although Arrow would allow them."""


class BookScope(Contract):
    """What the book of a file contains; books of different scope must not be mixed unasked."""

    model_config = ConfigDict(title="Book scope")

    venues: tuple[FilledText, ...] = Field(
        title="Venues",
        description="The venues whose orders are in the book, as the source names them.",
        examples=[["XNAS"]],
        min_length=1,
    )
    odd_lots: Literal["included", "excluded", "unknown"] = Field(
        title="Odd lots",
        description="Whether orders below a round lot are in the book. IBKR leaves them out, Databento has them.",
        examples=["included"],
    )
    time_basis: Literal["receive"] = Field(
        title="Time basis",
        description="Which clock `timestamp` is: the receive clock, Databento's `ts_recv` or, live, ours.",
        examples=["receive"],
    )
    levels: Positive = Field(
        title="Levels of the source",
        description="Price levels per side that the source delivers; a file can hold fewer or pad them.",
        examples=[10],
    )


class SnapshotMetadata(FooterMetadata):
    """Key-value metadata in the footer of a Level-2 snapshots file, decoded; additive, readers must not need it."""

    model_config = ConfigDict(title="Level-2 snapshots, footer metadata")
    json_fields: ClassVar[frozenset[str]] = frozenset({"levels", "interval_ms", "book_scope"})

    schema_version: Literal["level2_snapshot.v1"] = Field(
        default=SCHEMA_VERSION,
        title="Schema version",
        description="Names the major version of the file; missing means v1.",
        examples=[SCHEMA_VERSION],
    )
    symbol: Symbol = Field(title="Symbol", description="Canonical symbol.", examples=["BRK-B"])
    source: Source = Field(title="Source", description="Where the book comes from.", examples=["databento"])
    levels: Positive = Field(
        title="Levels", description="N, the length of every list in the file.", examples=[DEFAULT_LEVELS]
    )
    interval_ms: Count = Field(
        title="Interval", description="Milliseconds between rows; 0 is one row per book event.", examples=[100]
    )
    session_date: IsoDate = Field(
        title="Session date", description="The ET trading day of every row.", examples=["2025-09-04"]
    )
    window_et: WindowText = Field(
        title="Window",
        description="ET wall clock of the rows, start inclusive, end exclusive.",
        examples=["08:30-11:00"],
    )
    book_scope: BookScope = Field(
        title="Book scope",
        description="What the book contains.",
        examples=[{"venues": ["XNAS"], "odd_lots": "included", "time_basis": "receive", "levels": 10}],
    )
    producer: FilledText = Field(
        title="Producer", description="Name and version of the writing program.", examples=["trading-data 0.1.0"]
    )

    def bounds_ns(self) -> tuple[int, int]:
        """Return where the rows lie: start, inclusive, and end, exclusive, in nanoseconds since 1970 UTC.

        That is the window on the session's day; but a window cannot end at 24:00, so the window of a live file that
        ends at its last possible minute, 23:59, goes to midnight.
        """
        window = parse_window(self.window_et)
        start_ns, end_ns = window.bounds_ns(self.session_date)
        if self.source == "ibkr" and window.end == _LAST_MINUTE:
            # Clocks never change in the last minute of a New York day.
            end_ns += _MINUTE_NS
        return start_ns, end_ns


def snapshot_schema(metadata: SnapshotMetadata) -> pa.Schema:
    """Return the Arrow schema of a file with this metadata in its footer."""
    return SNAPSHOT_SCHEMA.with_metadata(metadata.to_footer())

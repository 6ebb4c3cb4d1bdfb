"""Bars: columns and footer of a bars file, the line of the download manifest, and the coverage index derived from it.

How coverage is derived is in `contracts.coverage`; here is only what the documents look like.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal, Self

import pyarrow as pa
from pydantic import ConfigDict, Field, model_validator

from contracts.layout import BarSize  # noqa: TC001 - pydantic needs it to build the model
from contracts.v1._footer import FooterMetadata
from contracts.v1._model import (
    Contract,
    Count,
    EtDatetime,
    FilledText,
    Flag,
    IsoDate,
    Symbol,
    UtcDatetime,
    parse_json,
    with_canonical_symbol,
    with_et,
    with_utc,
)

SCHEMA_VERSION: Final = "bars.v1"
MANIFEST_VERSION: Final = "bars_manifest.v1"
COVERAGE_VERSION: Final = "bars_coverage.v1"

BAR_SCHEMA: Final[pa.Schema] = pa.schema(
    [
        pa.field("timestamp", pa.string()),
        pa.field("open", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("close", pa.float64()),
        pa.field("volume", pa.float64()),
        pa.field("barCount", pa.int64()),
        pa.field("WAP", pa.float64()),
    ]
)
"""Exactly these columns in this order; no index column, nulls in `WAP` only although Arrow would allow them.

`timestamp` is the start of the bar, text as in Level-2 snapshots (ISO 8601 UTC, 35 characters), strictly increasing,
all of one ET day. Prices are raw, not adjusted, and finite: `low <= open, close <= high`. `volume` is in shares,
`barCount` in trades. `WAP`, the volume-weighted average price, is null (or NaN, as old files have it) where the vendor
gave none.
"""


class BarsMetadata(FooterMetadata):
    """Key-value metadata in the footer of a bars file, decoded; additive, readers must not need it.

    Files of the system before have none. It tells what neither the name nor the ledger's times can: which hours were
    asked for, and whether a day that ends early is cut short or simply had no later trade.
    """

    model_config = ConfigDict(title="Bars, footer metadata")
    json_fields: ClassVar[frozenset[str]] = frozenset({"complete", "use_rth"})

    schema_version: Literal["bars.v1"] = Field(
        default=SCHEMA_VERSION,
        title="Schema version",
        description="Names the major version of the file; missing means v1.",
        examples=[SCHEMA_VERSION],
    )
    symbol: Symbol = Field(title="Symbol", description="Canonical symbol.", examples=["BRK-B"])
    bar_size: BarSize = Field(title="Bar size", description="Length of a bar.", examples=["1 min"])
    source: Literal["ibkr"] = Field(title="Source", description="Where the bars come from.", examples=["ibkr"])
    session_date: IsoDate = Field(
        title="Session date", description="The ET trading day of every bar.", examples=["2025-09-15"]
    )
    what_to_show: FilledText = Field(title="What to show", description="IBKR's kind of data.", examples=["TRADES"])
    use_rth: Flag = Field(
        title="Regular hours",
        description="Only bars of regular trading hours, 09:30 to the close; else also those of 04:00 to 20:00.",
        examples=[True],
    )
    price_adjustment: FilledText = Field(
        title="Price adjustment",
        description="How prices were adjusted for splits and dividends; `raw` is not at all.",
        examples=["raw"],
    )
    complete: Flag = Field(
        title="Complete",
        description="All of the day's hours were asked for after they were over; false while the day was not over.",
        examples=[True],
    )
    producer: FilledText = Field(
        title="Producer", description="Name and version of the writing program.", examples=["trading-data 0.3.0"]
    )


def bars_schema(metadata: BarsMetadata) -> pa.Schema:
    """Return the Arrow schema of a file with this metadata in its footer."""
    return BAR_SCHEMA.with_metadata(metadata.to_footer())


class BarsManifestLine(Contract):
    """One bars file written: a symbol, a bar size, an ET day. A later line for the same path replaces earlier ones."""

    model_config = ConfigDict(title="Bars download manifest, one line")

    schema_version: Literal["bars_manifest.v1"] = Field(
        title="Schema version",
        description="Names the major version; a line without it is not read.",
        examples=[MANIFEST_VERSION],
    )
    written_at: UtcDatetime = Field(
        title="Written at", description="When the line was written, UTC.", examples=["2025-09-15T20:05:01+00:00"]
    )
    vendor: Literal["IBKR"] = Field(title="Vendor", description="Who was asked.", examples=["IBKR"])
    file_format: Literal["parquet"] = Field(
        title="File format", description="Format of the file.", examples=["parquet"]
    )
    symbol: Symbol = Field(title="Symbol", description="Canonical symbol.", examples=["AAPL"])
    bar_size: BarSize = Field(title="Bar size", description="Length of a bar.", examples=["1 min"])
    path: FilledText = Field(
        title="Path",
        description="Absolute path of the file when it was written.",
        examples=["/data/bars/minute/AAPL/2025-09-15.parquet"],
    )
    filename: FilledText = Field(title="File name", description="Last part of `path`.", examples=["2025-09-15.parquet"])
    rows: Count = Field(title="Rows", description="Bars in the file.", examples=[390])
    columns: tuple[FilledText, ...] = Field(
        title="Columns",
        description="Names of the columns in their order.",
        examples=[BAR_SCHEMA.names],
        min_length=1,
    )
    time_start: EtDatetime | None = Field(
        default=None,
        title="First bar",
        description="Start of the first bar in New York time with its offset; the first ten characters are the ET day.",
        examples=["2025-09-15T09:30:00-04:00"],
    )
    time_end: EtDatetime | None = Field(
        default=None,
        title="Last bar",
        description="Start of the last bar in New York time with its offset.",
        examples=["2025-09-15T15:59:00-04:00"],
    )
    what_to_show: FilledText | None = Field(
        default=None, title="What to show", description="IBKR's kind of data.", examples=["TRADES"]
    )
    use_rth: Flag | None = Field(
        default=None, title="Regular hours", description="Only bars of regular trading hours.", examples=[True]
    )
    price_adjustment: FilledText | None = Field(
        default=None,
        title="Price adjustment",
        description="How prices were adjusted for splits and dividends; `raw` is not at all.",
        examples=["raw"],
    )
    complete: Flag | None = Field(
        default=None,
        title="Complete",
        description="The file holds the whole of what was asked for that day; false while the day was not over.",
        examples=[True],
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        # Datetimes of one zone compare by wall clock, which runs twice through an hour of autumn.
        moments = [moment.timestamp() for moment in (self.time_start, self.time_end) if moment is not None]
        if moments != sorted(moments):
            raise ValueError(f"time_start {self.time_start} is after time_end {self.time_end}")
        return self

    def to_json_line(self) -> str:
        r"""Return the line as it is appended: one line of ASCII JSON that ends with `\n`."""
        return self.to_json() + "\n"


class CoverageTotal(Contract):
    """First and last day of an entry; exactly these two keys."""

    model_config = ConfigDict(title="Total", extra="forbid")

    date_start: IsoDate = Field(title="First day", description="First ET day.", examples=["2025-09-10"])
    date_end: IsoDate = Field(title="Last day", description="Last ET day.", examples=["2025-09-15"])


class CoverageDay(Contract):
    """The best file of one ET day."""

    model_config = ConfigDict(title="Day")

    date: IsoDate = Field(title="Date", description="The ET trading day.", examples=["2025-09-15"])
    time_start: EtDatetime | None = Field(
        default=None, title="First bar", description="As in the manifest line.", examples=["2025-09-15T09:30:00-04:00"]
    )
    time_end: EtDatetime | None = Field(
        default=None, title="Last bar", description="As in the manifest line.", examples=["2025-09-15T15:59:00-04:00"]
    )
    path: FilledText = Field(
        title="Path",
        description="Absolute path of the file when it was written.",
        examples=["/data/bars/minute/AAPL/2025-09-15.parquet"],
    )
    filename: FilledText = Field(title="File name", description="Last part of `path`.", examples=["2025-09-15.parquet"])
    rows: Count = Field(title="Rows", description="Bars in the file.", examples=[390])


class CoverageEntry(Contract):
    """All days of one symbol and bar size, sorted by date."""

    model_config = ConfigDict(title="Entry")

    symbol: Symbol = Field(title="Symbol", description="Canonical symbol.", examples=["AAPL"])
    bar_size: BarSize = Field(title="Bar size", description="Length of a bar.", examples=["1 min"])
    total: CoverageTotal = Field(
        title="Total",
        description="First and last of `days`.",
        examples=[{"date_start": "2025-09-10", "date_end": "2025-09-15"}],
    )
    days: tuple[CoverageDay, ...] = Field(
        title="Days",
        description="The best file of each ET day, sorted by date; each day once.",
        examples=[
            [
                {
                    "date": "2025-09-15",
                    "time_start": "2025-09-15T09:30:00-04:00",
                    "time_end": "2025-09-15T15:59:00-04:00",
                    "path": "/data/bars/minute/AAPL/2025-09-15.parquet",
                    "filename": "2025-09-15.parquet",
                    "rows": 390,
                }
            ]
        ],
    )


class BarsCoverage(Contract):
    """Which bars there are, derived from the manifest alone. Entries are sorted by symbol, then bar size (as text)."""

    model_config = ConfigDict(title="Bars coverage")

    schema_version: Literal["bars_coverage.v1"] = Field(
        title="Schema version",
        description="Names the major version; a document without it is not read.",
        examples=[COVERAGE_VERSION],
    )
    generated_at: UtcDatetime = Field(
        title="Generated at", description="When it was derived, UTC.", examples=["2025-09-16T02:10:00+00:00"]
    )
    entries: tuple[CoverageEntry, ...] = Field(
        title="Entries",
        description="One per symbol and bar size, sorted by both.",
        examples=[[]],
    )


def parse_bars_manifest_line(text: str | bytes) -> BarsManifestLine:
    """Read one manifest line, with or without its line end, of today or of the system before.

    In old lines times without zone are New York wall clock, null times are none, and symbols may be in another
    spelling; a line can span several days.

    Raises:
        UnknownSchemaVersion: The line is of another version, or names none.
        InvalidDocument: The line is torn, not standard JSON, or breaks the model.
    """
    return BarsManifestLine.from_document(with_new_forms(parse_json(text, MANIFEST_VERSION)))


def parse_bars_coverage(text: str | bytes) -> BarsCoverage:
    """Read a coverage document of today or of the system before, whose times without zone are New York wall clock.

    Raises:
        UnknownSchemaVersion: It is of another version, or names none.
        InvalidDocument: It is not standard JSON, or breaks the model.
    """
    document = parse_json(text, COVERAGE_VERSION)
    if isinstance(document, dict):
        document = {**document, "generated_at": with_utc(document.get("generated_at"))}
        if isinstance(document.get("entries"), list):
            document["entries"] = [_entry_with_new_forms(entry) for entry in document["entries"]]
    return BarsCoverage.from_document(document)


def with_new_forms(document: Any) -> Any:
    """Return a manifest document with old forms replaced; anything else as it is."""
    if not isinstance(document, dict):
        return document
    new = _with_new_times(document)
    if "written_at" in new:
        new["written_at"] = with_utc(new["written_at"])
    if "symbol" in new:
        new["symbol"] = with_canonical_symbol(new["symbol"])
    return new


def _entry_with_new_forms(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    new = dict(entry)
    if "symbol" in new:
        new["symbol"] = with_canonical_symbol(new["symbol"])
    if isinstance(days := new.get("days"), list):
        new["days"] = [_with_new_times(day) if isinstance(day, dict) else day for day in days]
    return new


def _with_new_times(document: dict[str, Any]) -> dict[str, Any]:
    new = dict(document)
    for key in ("time_start", "time_end"):
        if key in new:
            new[key] = with_et(new[key])
    return new

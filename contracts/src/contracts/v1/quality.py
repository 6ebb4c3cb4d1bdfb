"""Quality of one backfilled file, `l2_quality.v1`; it travels inside the backfill manifest line."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import ConfigDict, Field

from contracts.v1._model import Amount, Contract, Count, TimestampText

SCHEMA_VERSION: Final = "l2_quality.v1"

VendorCondition = Literal["available", "degraded", "pending", "missing"]


class Quality(Contract):
    """What was seen while one day of one symbol was written; counts are of rows of the file unless said otherwise.

    `rows`, `events`, `crossed`, `locked`, `one_sided` and `maybe_bad_book` are always known and required. The others
    are absent (or null) when there is nothing to say: no answer from the vendor, no rows, no second event.
    """

    model_config = ConfigDict(title="Level-2 quality")

    schema_version: Literal["l2_quality.v1"] = Field(
        default=SCHEMA_VERSION,
        title="Schema version",
        description="Names the major version; missing means v1.",
        examples=[SCHEMA_VERSION],
    )
    vendor_condition: VendorCondition | None = Field(
        default=None,
        title="Vendor condition",
        description="What the vendor says about the data of that day; absent when it did not answer.",
        examples=["available"],
    )
    rows: Count = Field(title="Rows", description="Rows of the file.", examples=[90000])
    events: Count = Field(
        title="Events", description="Book events of the vendor inside the window.", examples=[1234567]
    )
    crossed: Count = Field(title="Crossed", description="Rows whose best bid is above the best ask.", examples=[0])
    locked: Count = Field(title="Locked", description="Rows whose best bid equals the best ask.", examples=[3])
    one_sided: Count = Field(title="One-sided", description="Rows with levels on exactly one side.", examples=[12])
    maybe_bad_book: Count = Field(
        title="Maybe bad book",
        description="Events inside the window that the vendor flags as possibly leaving a wrong book.",
        examples=[0],
    )
    max_gap_ms: Amount | None = Field(
        default=None,
        title="Longest gap",
        description="Longest time between two successive events inside the window, in milliseconds.",
        examples=[1873.25],
    )
    first_ts: TimestampText | None = Field(
        default=None,
        title="First timestamp",
        description="`timestamp` of the first row.",
        examples=["2025-09-04T12:30:00.000000000+00:00"],
    )
    last_ts: TimestampText | None = Field(
        default=None,
        title="Last timestamp",
        description="`timestamp` of the last row.",
        examples=["2025-09-04T14:59:59.900000000+00:00"],
    )

"""What is asked of Databento for one (symbol, day): plain values, no vendor code, no network."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

SCHEMA_LEVELS = {"mbp-10": 10, "mbp-1": 1}
"""Levels per side of the vendor schemas this project reads."""

RECORD_BYTES = {"mbp-10": 368, "mbp-1": 80}
"""Bytes of one uncompressed record, which is what streaming is billed by."""

DATASET_ALIASES = {"NASDAQ.ITCH": "XNAS.ITCH", "NYSE.PILLAR": "XNYS.PILLAR"}
"""Names people use for datasets, and the vendor's."""


def canonical_dataset(name: str) -> str:
    """The vendor's spelling of a dataset code."""
    code = name.strip().upper()
    return DATASET_ALIASES.get(code, code)


@dataclass(frozen=True)
class DayRequest:
    """One symbol's records between two instants of one ET day.

    Attributes:
        symbol: canonical symbol, as in file names.
        day: ET trading day.
        vendor_symbol: raw symbol in the dataset's own spelling.
        dataset: vendor dataset code.
        schema: `mbp-10` or `mbp-1`.
        start_ns: first nanosecond, UTC since the epoch, on `ts_recv`.
        end_ns: first nanosecond no longer asked for.
    """

    symbol: str
    day: dt.date
    vendor_symbol: str
    dataset: str
    schema: str
    start_ns: int
    end_ns: int

    @property
    def label(self) -> str:
        """Symbol and day, for messages."""
        return f"{self.symbol} {self.day.isoformat()}"

    @property
    def start(self) -> dt.datetime:
        """First instant, UTC; windows lie on whole seconds."""
        return dt.datetime.fromtimestamp(self.start_ns // 1_000_000_000, dt.UTC)

    @property
    def end(self) -> dt.datetime:
        """First instant no longer asked for, UTC."""
        return dt.datetime.fromtimestamp(self.end_ns // 1_000_000_000, dt.UTC)

    @property
    def last_utc_day(self) -> dt.date:
        """UTC date of the last nanosecond asked for; differs from `day` in a winter evening."""
        return dt.datetime.fromtimestamp((self.end_ns - 1) // 1_000_000_000, dt.UTC).date()

    @property
    def first_utc_day(self) -> dt.date:
        """UTC date of the first nanosecond asked for."""
        return self.start.date()

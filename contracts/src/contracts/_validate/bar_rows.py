"""The checks of every row of a bars file, column by column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from contracts._validate.rows import RowChecks, Rules, mask
from contracts.errors import InvalidDocument
from contracts.timestamps import ns_from_iso_utc

if TYPE_CHECKING:
    import pyarrow as pa

    from contracts.layout import BarSize

_NS: Final = 1_000_000_000
# IBKR's first hour of a session begins at 09:30; offsets of New York are whole hours, so UTC does for the rest.
_STEP_NS: Final[dict[BarSize, int]] = {"1 hour": 1800 * _NS, "1 min": 60 * _NS, "1 sec": _NS}
_PRICES: Final = ("open", "high", "low", "close")


class BarRows(RowChecks):
    """The checks of all rows of one bars file.

    Args:
        bar_size: Of the folder; None when it does not tell.
        bounds: The ET day of the name, see `RowChecks`; None: the ET day must only be one.
    """

    rules: ClassVar[Rules] = {
        "null": ("a value is null", "Only WAP may be null; leave a bar out rather than write half of it.", "error"),
        "not-finite": ("a number is NaN or infinite", "Only WAP may be NaN; leave the bar out.", "error"),
        "negative-price": ("a price is negative", "Legal for spreads only; check the decoder.", "warning"),
        "negative-volume": ("the volume is negative", "Bars of trades have none; write 0 for no trades.", "error"),
        "negative-count": ("the bar count is negative", "Bars of trades have none; write 0 for no trades.", "error"),
        "ohlc": ("not low <= open, close <= high", "Check the decoder; prices are raw, not adjusted.", "error"),
        "timestamp-order": ("the time is not after that of the row above", "Bars rise in time, each once.", "error"),
        "day": ("the bar is not on the ET day of the file", "A file holds one ET day.", "error"),
        "alignment": ("the bar does not begin on a multiple of its size", "Write the start of the bar.", "warning"),
    }
    outside: ClassVar[str] = "day"

    def __init__(self, bar_size: BarSize | None, bounds: tuple[int, int] | None) -> None:
        super().__init__(bounds)
        self._step_ns = None if bar_size is None else _STEP_NS[bar_size]
        self._timestamps_parse = True

    def check_batch(self, batch: pa.RecordBatch) -> None:
        """Check the rows of a batch; a column with nulls is not looked at further."""
        if self._timestamps_parse:
            self._check_timestamps(batch.column(0))
        numbers: dict[str, npt.NDArray[Any]] = {}
        for name in (*_PRICES, "volume", "barCount"):
            column = batch.column(name)
            if column.null_count:
                self.note("null", name, mask(column.is_null()))
            else:
                numbers[name] = _numbers(column, np.int64 if name == "barCount" else np.float64)
        # NaN fails every comparison, which some processors tell.
        with np.errstate(invalid="ignore"):
            self._check_numbers(numbers)
            wap = _numbers(batch.column("WAP"), np.float64)
            self.note("not-finite", "WAP", np.isinf(wap) & ~mask(batch.column("WAP").is_null()))

    def check_seam(self, before: Self, row: int) -> None:
        """Check the first row against the last one before it."""
        if self.first_ns is not None and before.last_ns is not None and self.first_ns <= before.last_ns:
            self.note_row("timestamp-order", "timestamp", row)

    def _check_timestamps(self, column: pa.Array) -> None:
        try:
            ns = ns_from_iso_utc(column)
        except InvalidDocument as error:
            self._timestamps_parse = False
            rule = "null" if column.null_count else "timestamp"
            row = self.row + (error.row or 0)
            self.give_up(rule, error.reason, "Write contracts.iso_utc_from_ns.", row, "timestamp")
            return
        is_first = self.first_ns is None
        previous = self.check_order("timestamp", ns)
        same = ns == previous
        same[0] &= not is_first
        self.note("timestamp-order", "timestamp", same)
        if self._step_ns is not None:
            self.note("alignment", "timestamp", ns % self._step_ns != 0)

    def _check_numbers(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        for name, values in columns.items():
            if name != "barCount":
                self.note("not-finite", name, ~np.isfinite(values))
            if name in _PRICES:
                self.note("negative-price", name, values < 0)
        if "volume" in columns:
            self.note("negative-volume", "volume", columns["volume"] < 0)
        if "barCount" in columns:
            self.note("negative-count", "barCount", columns["barCount"] < 0)
        if all(name in columns for name in _PRICES):
            low, high = columns["low"], columns["high"]
            for name in ("open", "close"):
                # Told once where low is above high, which no open can repair.
                self.note("ohlc", name, ((columns[name] < low) | (columns[name] > high)) & (low <= high))
            self.note("ohlc", "high", low > high)


def _numbers(column: pa.Array, dtype: type[np.float64 | np.int64]) -> npt.NDArray[Any]:
    """Return a column of 8-byte values as numpy, a view; what is null has any value."""
    return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * 8)

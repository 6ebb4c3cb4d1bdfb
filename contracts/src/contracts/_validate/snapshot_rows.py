"""The checks of every row of a snapshots file, in blocks that stay in the processor's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from contracts._validate.rows import Mask, RowChecks, Rules, mask
from contracts.errors import InvalidDocument
from contracts.timestamps import ns_from_iso_utc

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from contracts.v1.level2 import SnapshotMetadata

_BLOCK_ROWS: Final = 2048

_Int64 = npt.NDArray[np.int64]
_Float64 = npt.NDArray[np.float64]


class SnapshotRows(RowChecks):
    """The checks of all rows of one snapshots file."""

    rules: ClassVar[Rules] = {
        "null": ("a value is null", "Write missing levels as price 0.0 and size 0.", "error"),
        "length": ("a list is not N long, or is empty", "Fill every list with missing levels up to N.", "error"),
        "not-finite": ("a price is NaN or infinite", "Write missing levels as price 0.0 and size 0.", "error"),
        "negative-size": ("a size is negative", "Check the decoder.", "error"),
        "negative-price": ("a price is negative", "Legal for spreads only; check the decoder.", "warning"),
        "missing-level": (
            "a level has a price without a size, or a size without a price",
            "A missing level has price 0.0 and size 0 together.",
            "error",
        ),
        "missing-inside": (
            "a missing level stands before a present one",
            "Missing levels stand at the end only.",
            "error",
        ),
        "price-order": (
            "prices do not run strictly away from the best one",
            "Best first: bids falling, asks rising, each price once.",
            "error",
        ),
        "price-order-live": (
            "prices of a live book do not run away from the best one",
            "The broker moves rows one message at a time; rare rows are in between, many mean a wrong book.",
            "warning",
        ),
        "timestamp-order": ("the time is before that of the row above", "Rows stand in the order of receipt.", "error"),
        "grid-twice": ("the time is that of the row above", "A sampled file has one row per grid point.", "error"),
        "grid-hole": (
            "grid points are missing before it",
            "A sampled file has a row for every grid point from its first to its last.",
            "error",
        ),
        "grid": ("the time is not on the grid", "Grid points are window start plus n times interval_ms.", "error"),
        "window": ("the time is outside the window of the file's day", "Start is inclusive, end exclusive.", "error"),
    }

    follows: ClassVar[dict[str, frozenset[str]]] = {"grid-hole": frozenset({"grid", "grid-twice", "timestamp-order"})}

    def __init__(self, metadata: SnapshotMetadata | None, bounds: tuple[int, int] | None) -> None:
        super().__init__(bounds)
        self._levels = None if metadata is None else metadata.levels
        self._interval_ns = 0 if metadata is None else metadata.interval_ms * 1_000_000
        self._is_live = metadata is not None and metadata.source == "ibkr"
        self._timestamps_parse = True

    def check_batch(self, batch: pa.RecordBatch) -> None:
        """Check the rows of a batch."""
        if self._timestamps_parse:
            self._check_timestamps(batch.column(0))
        for side in ("bid", "ask"):
            prices = self._matrix(batch, f"{side}_prices", np.float64)
            sizes = self._matrix(batch, f"{side}_sizes", np.int64)
            if prices is None or sizes is None:
                continue
            for at in range(0, batch.num_rows, _BLOCK_ROWS):
                block = slice(at, at + _BLOCK_ROWS)
                for rule, field, rows in _level_faults(side, prices[block], sizes[block], self._is_live):
                    self.note(rule, field, rows, at)

    def check_seam(self, before: Self, row: int) -> None:
        """Check the first row against the last one before it, and that N is the same."""
        if self.first_ns is not None and before.last_ns is not None:
            if self.first_ns < before.last_ns:
                self.note_row("timestamp-order", "timestamp", row)
            elif self.first_ns == before.last_ns and self._interval_ns:
                self.note_row("grid-twice", "timestamp", row)
            elif self._interval_ns and self.first_ns - before.last_ns > self._interval_ns:
                self.note_row("grid-hole", "timestamp", row)
        if self._levels is not None and before._levels not in (None, self._levels):
            self.note_row("length", "bid_prices", row)

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
        if self._interval_ns:
            same = ns == previous
            same[0] &= not is_first
            self.note("grid-twice", "timestamp", same)
            self.note("grid-hole", "timestamp", ns - previous > self._interval_ns)
            if self.bounds is not None:
                self.note("grid", "timestamp", (ns - self.bounds[0]) % self._interval_ns != 0)

    def _matrix(self, batch: pa.RecordBatch, name: str, dtype: type[np.float64 | np.int64]) -> npt.NDArray[Any] | None:
        """Return a list column as shape (rows, levels), a view; None when its lists are not all of that length."""
        column = batch.column(name)
        rows = len(column)
        if column.null_count:
            self.note("null", name, mask(column.is_null()))
            return None
        offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + rows + 1]
        lengths = np.diff(offsets)
        if self._levels is None:
            self._levels = int(lengths[0])
        wrong = lengths != self._levels
        if wrong.any() or self._levels == 0:
            self.note("length", name, wrong | (lengths == 0))
            return None
        first, last = int(offsets[0]), int(offsets[-1])
        values = column.values.slice(first, last - first)
        if values.null_count:
            self.note("null", name, _rows_with(mask(values.is_null()).reshape(rows, self._levels)))
            return None
        flat = np.frombuffer(values.buffers()[1], dtype, len(values), values.offset * 8)
        return flat.reshape(rows, self._levels)


def _level_faults(side: str, prices: _Float64, sizes: _Int64, is_live: bool) -> Iterator[tuple[str, str, Mask]]:
    """Yield rule, column and the rows of a block that break it.

    A live book is kept as its messages make it: each venue of a consolidated book has a row of its own, so that
    neighbours may have one price, and a change of several rows comes in several messages.
    """
    better, worse = prices[:, :-1], prices[:, 1:]
    ordered = better > worse if side == "bid" else better < worse
    if is_live:
        ordered |= better == worse
    # Nearly every block is of full, sound books: two passes and the ends of ordered prices tell, and NaN fails each
    # comparison.
    low, high = (prices[:, -1], prices[:, 0]) if side == "bid" else (prices[:, 0], prices[:, -1])
    with np.errstate(invalid="ignore"):
        if ordered.all() and sizes.min() > 0 and low.min() > 0 and high.max() < np.inf:
            return
    price_field, size_field = f"{side}_prices", f"{side}_sizes"
    yield "not-finite", price_field, _rows_with(~np.isfinite(prices))
    yield "negative-size", size_field, _rows_with(sizes < 0)
    yield "negative-price", price_field, _rows_with(prices < 0)
    no_price, no_size = prices == 0, sizes == 0
    yield "missing-level", price_field, _rows_with(no_price != no_size)
    missing = no_price & no_size
    yield "missing-inside", price_field, _rows_with(missing[:, :-1] & ~missing[:, 1:])
    both = ~missing[:, :-1] & ~missing[:, 1:] & np.isfinite(better) & np.isfinite(worse)
    yield "price-order-live" if is_live else "price-order", price_field, _rows_with(both & ~ordered)


def _rows_with(faults: npt.NDArray[np.bool_]) -> Mask:
    """Return which rows of shape (rows, levels) have any fault."""
    return np.asarray(faults.any(axis=1), np.bool_)

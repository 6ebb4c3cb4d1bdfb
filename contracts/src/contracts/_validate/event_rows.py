"""The checks of every row of an events file, column by column."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from contracts._validate.rows import Mask, RowChecks, Rules, mask
from contracts.v1.level2_events import ACTIONS, SIDES

_WORDS: Final = {"action": ACTIONS, "side": SIDES}


class EventRows(RowChecks):
    """The checks of all rows of one events file.

    Args:
        symbol: What the column `symbol` must say; None when neither folder nor footer tells.
        bounds: See `RowChecks`; of `ts_recv`.
    """

    rules: ClassVar[Rules] = {
        "null": ("a value is null", "Every record has every column; a price it does not have is 0.0.", "error"),
        "action": (f"the action is not one of {' '.join(ACTIONS)}", "Write the vendor's action as it is.", "error"),
        "side": (f"the side is not one of {' '.join(SIDES)}", "Write the vendor's side as it is.", "error"),
        "not-finite": ("a number is NaN or infinite", "Write a price that a record does not have as 0.0.", "error"),
        "negative-size": ("a size is negative", "Check the decoder.", "error"),
        "negative-level": ("a level is negative", "Levels count from 0, the best.", "error"),
        "symbol": ("the symbol is not that of the folder", "Write the canonical symbol, one per file.", "error"),
        "no-source": ("the source is empty", "Name the vendor, such as databento.", "error"),
        "clock": ("ts_utc is not the moment of timestamp_ns", "Both are the venue's clock, ts_event.", "error"),
        "timestamp-order": ("the time is before that of the row above", "Rows stand in the order of receipt.", "error"),
        "window": ("the time is outside the window of the file's day", "Start is inclusive, end exclusive.", "error"),
    }

    def __init__(self, symbol: str | None, bounds: tuple[int, int] | None) -> None:
        super().__init__(bounds)
        self._symbol = symbol

    def check_batch(self, batch: pa.RecordBatch) -> None:
        """Check the rows of a batch; a column with nulls is not looked at further."""
        texts, numbers = {}, {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if column.null_count:
                self.note("null", name, mask(column.is_null()))
            elif column.type == pa.string():
                texts[name] = column
            else:
                numbers[name] = _numbers(column)
        self._check_texts(texts)
        # NaN fails every comparison, which some processors tell.
        with np.errstate(invalid="ignore"):
            self._check_numbers(numbers)

    def check_seam(self, before: Self, row: int) -> None:
        """Check the first row against the last one before it."""
        if self.first_ns is not None and before.last_ns is not None and self.first_ns < before.last_ns:
            self.note_row("timestamp-order", "ts_recv", row)

    def _check_texts(self, columns: dict[str, pa.Array]) -> None:
        for name, words in _WORDS.items():
            if name in columns:
                self.note(name, name, ~_is_one_of(columns[name], words))
        if "symbol" in columns and self._symbol is not None:
            self.note("symbol", "symbol", ~_is_one_of(columns["symbol"], (self._symbol,)))
        if "source" in columns:
            self.note("no-source", "source", np.diff(_offsets(columns["source"])) == 0)

    def _check_numbers(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        for name in ("price", "size"):
            if name in columns:
                self.note("not-finite", name, ~np.isfinite(columns[name]))
        for name in ("size", "level"):
            if name in columns:
                self.note(f"negative-{name}", name, columns[name] < 0)
        if "timestamp_ns" in columns and "ts_utc" in columns:
            self.note("clock", "ts_utc", columns["timestamp_ns"] != columns["ts_utc"])
        if "ts_recv" in columns:
            self.check_order("ts_recv", columns["ts_recv"])


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    """Return a column of 8-byte values without nulls as numpy, times as nanoseconds; a view."""
    dtype = np.float64 if column.type == pa.float64() else np.int64
    return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * 8)


def _offsets(column: pa.Array) -> npt.NDArray[np.int32]:
    """Return where each text of a column begins, and the end of the last one."""
    return np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]


def _is_one_of(column: pa.Array, words: tuple[str, ...]) -> Mask:
    """Return which texts are one of these words; pyarrow.compute takes long to import and brings pandas."""
    offsets = _offsets(column)
    starts, lengths = offsets[:-1], np.diff(offsets)
    found = np.zeros(len(column), np.bool_)
    characters = np.frombuffer(column.buffers()[2] or b"", np.uint8)
    for word in words:
        letters = np.frombuffer(word.encode(), np.uint8)
        rows = np.flatnonzero((lengths == len(letters)) & ~found)
        found[rows] = (characters[starts[rows][:, None] + np.arange(len(letters))] == letters).all(axis=1)
    return found

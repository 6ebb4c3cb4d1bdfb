"""The columns of a snapshots file out of books that each hold for a run of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from contracts.timestamps import iso_utc_from_ns
from contracts.v1.level2 import SNAPSHOT_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contracts.book import Book, BookRow

_INT64: TypeAlias = npt.NDArray[np.int64]


@dataclass
class _Block:
    """Runs of rows: run i holds `counts[i]` rows of one book, an interval apart, beginning at `first_ns[i]`."""

    first_ns: _INT64
    counts: _INT64
    columns: list[npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.first_ns)

    def part(self, runs: slice) -> Self:
        return type(self)(self.first_ns[runs], self.counts[runs].copy(), [column[runs] for column in self.columns])


class RowBuffer:
    """Rows in the order of time that wait to be taken.

    Args:
        levels: N, values per list.
        interval_ns: Distance of the rows of one run.
        batch_rows: Most rows of one batch, and how many runs are collected before they become arrays.
    """

    def __init__(self, levels: int, interval_ns: int, batch_rows: int) -> None:
        self._levels = levels
        self._interval_ns = interval_ns
        self._batch_rows = batch_rows
        self._blocks: list[_Block] = []
        self._renew()

    def _renew(self) -> None:
        self._first_ns: list[int] = []
        self._counts: list[int] = []
        # One flat list per column becomes an array several times as fast as a list of lists.
        self._columns: BookRow = ([], [], [], [])

    @property
    def is_full(self) -> bool:
        """Whether a batch, or more, is waiting."""
        return bool(self._blocks)

    def append(self, first_ns: int, count: int, book: Book) -> None:
        """Add a run of `count` rows of a book as it is now."""
        self._first_ns.append(first_ns)
        self._counts.append(count)
        book.append_to(self._columns)
        if len(self._first_ns) == self._batch_rows:
            self._seal()

    def drop(self) -> None:
        """Forget the rows that wait."""
        self._blocks.clear()
        self._renew()

    def take(self, end_ns: int | None) -> Iterator[pa.RecordBatch]:
        """Remove the rows before a moment, or all, at once; their batches are made as they are asked for."""
        self._seal()
        taken: list[_Block] = []
        left: list[_Block] = []
        for block in self._blocks:
            before, after = (block, None) if end_ns is None else self._cut(block, end_ns)
            if before is not None:
                taken.append(before)
            if after is not None:
                left.append(after)
        self._blocks = left
        return (batch for block in taken for batch in self._batches(block))

    def _seal(self) -> None:
        if not self._first_ns:
            return
        shape = len(self._first_ns), self._levels
        columns = [
            np.array(values, dtype).reshape(shape)
            for values, dtype in zip(self._columns, (np.float64, np.int64, np.float64, np.int64), strict=True)
        ]
        self._blocks.append(_Block(np.array(self._first_ns, np.int64), np.array(self._counts, np.int64), columns))
        self._renew()

    def _cut(self, block: _Block, end_ns: int) -> tuple[_Block | None, _Block | None]:
        """Return the rows of a block before a moment and those from it on."""
        # The moment comes from a caller and may be beyond 64 bits, where rows never are.
        end_ns = min(max(end_ns, -(2**63)), 2**63 - 1)
        runs = int(np.searchsorted(block.first_ns, end_ns))
        if runs == 0:
            return None, block
        before, after = block.part(slice(runs)), block.part(slice(runs, None))
        if self._interval_ns:
            rows = -((int(block.first_ns[runs - 1]) - end_ns) // self._interval_ns)
            over = int(block.counts[runs - 1]) - rows
            if over > 0:
                before.counts[-1] = rows
                after = block.part(slice(runs - 1, None))
                after.first_ns = after.first_ns.copy()
                after.first_ns[0] += rows * self._interval_ns
                after.counts[0] = over
        return before, after if len(after) else None

    def _batches(self, block: _Block) -> Iterator[pa.RecordBatch]:
        ends = np.cumsum(block.counts)
        # Of the rows of a run, the first is the one that begins it.
        zero_ns = block.first_ns - (ends - block.counts) * self._interval_ns
        for at in range(0, int(ends[-1]), self._batch_rows):
            rows = np.arange(at, min(at + self._batch_rows, int(ends[-1])))
            runs = np.searchsorted(ends, rows, side="right")
            columns = [_lists(column.take(runs, axis=0)) for column in block.columns]
            timestamps = iso_utc_from_ns(zero_ns[runs] + rows * self._interval_ns)
            yield pa.RecordBatch.from_arrays([timestamps, *columns], schema=SNAPSHOT_SCHEMA)


def _lists(matrix: npt.NDArray[Any]) -> pa.ListArray:
    """Lay a list column over a matrix, without a copy."""
    rows, levels = matrix.shape
    value_type = pa.from_numpy_dtype(matrix.dtype)
    values = pa.Array.from_buffers(value_type, matrix.size, [None, pa.py_buffer(matrix)])
    offsets = np.arange(0, (rows + 1) * levels, levels, dtype=np.int32)
    return pa.Array.from_buffers(pa.list_(value_type), rows, [None, pa.py_buffer(offsets)], children=[values])

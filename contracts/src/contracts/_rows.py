"""What the checks of all rows of a parquet file share: reading ahead in bounded memory, and telling each fault once.

The checks themselves are in `_snapshot_rows` and `_event_rows`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow.parquet as pq

    from contracts._findings import Collector, Severity

REWRITE: Final = "Write the file again with a producer of this contract."

Mask = npt.NDArray[np.bool_]
Rules = dict[str, tuple[str, str, "Severity"]]
"""Rule to message, hint and severity."""

_BATCH_ROWS: Final = 32_768


@dataclass
class _Fault:
    row: int
    count: int


class RowChecks(ABC):
    """The checks of all rows of one file; each rule is told once per column, with the first row and how many there are.

    Args:
        bounds: Nanoseconds since 1970 in which the rows lie, end exclusive; None when nothing says.
    """

    rules: ClassVar[Rules]

    def __init__(self, bounds: tuple[int, int] | None) -> None:
        self.bounds = bounds
        self.row = 0
        self._last_ns: int | None = None
        self._faults: dict[tuple[str, str], _Fault] = {}

    @abstractmethod
    def check_batch(self, batch: pa.RecordBatch, findings: Collector) -> None:
        """Check the rows of a batch, which is not empty and begins at `self.row`."""

    def run(self, file: pq.ParquetFile, findings: Collector) -> None:
        """Read the whole file in bounded memory and report."""
        try:
            for batch in _read_ahead(file.iter_batches(batch_size=_BATCH_ROWS)):
                self.check_batch(batch, findings)
                self.row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            findings.add("unreadable", f"rows cannot be read: {first_line(error)}", REWRITE, row=self.row)
        for (rule, field), fault in self._faults.items():
            message, hint, severity = self.rules[rule]
            if fault.count > 1:
                message += f" ({fault.count} rows, the first is told)"
            findings.add(rule, message, hint, severity=severity, row=fault.row, field=field)

    def note(self, rule: str, field: str, rows: Mask, at: int = 0) -> None:
        """Remember the rows at fault; `at` is where they begin in the batch."""
        count = int(np.count_nonzero(rows))
        if count:
            fault = self._faults.setdefault((rule, field), _Fault(self.row + at + int(np.argmax(rows)), 0))
            fault.count += count

    def check_order(self, field: str, ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Check that times do not run backwards and lie in the bounds.

        Returns:
            The time of the row above each row; of the file's first row its own.
        """
        previous = np.concatenate((ns[:1] if self._last_ns is None else [self._last_ns], ns[:-1]))
        self.note("timestamp-order", field, ns < previous)
        if self.bounds is not None:
            start, end = self.bounds
            self.note("window", field, (ns < start) | (ns >= end))
        self._last_ns = int(ns[-1])
        return previous


def mask(array: pa.Array) -> Mask:
    """Return a boolean array without nulls as numpy, without the pandas import that `to_numpy` brings."""
    numbers = array.cast(pa.uint8())
    return np.frombuffer(numbers.buffers()[1], np.uint8, len(numbers), numbers.offset).astype(np.bool_)


def first_line(error: Exception) -> str:
    """Return the message in one short line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _read_ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the batches while the next one is read by another thread; decoding releases the interpreter's lock."""
    with ThreadPoolExecutor(1, "validate-read") as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            if batch.num_rows:
                yield batch

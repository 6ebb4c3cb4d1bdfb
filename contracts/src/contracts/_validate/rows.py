"""What the checks of all rows of a parquet file share: reading in bounded memory, and telling each fault once.

A large file is checked in shards of whole row groups, one per core; each shard is checked by itself, then its first row
against the last row of the shard before. The checks themselves are in `snapshot_rows`, `event_rows` and `bar_rows`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contracts._validate.findings import Collector, Severity

REWRITE: Final = "Write the file again with a producer of this contract."

Mask = npt.NDArray[np.bool_]
Rules = dict[str, tuple[str, str, "Severity"]]
"""Rule to message, hint and severity."""

_BATCH_ROWS: Final = 16_384
_SHARD_ROWS: Final = 131_072
"""Rows that are worth a thread."""

_MOST_SHARDS: Final = 4
"""Each takes the memory of a few batches."""


@dataclass
class _Fault:
    row: int
    count: int


@dataclass(frozen=True)
class _Problem:
    """What ended the reading of some column, or of all."""

    rule: str
    message: str
    hint: str
    row: int
    field: str | None


class RowChecks(ABC):
    """The checks of the rows of one file, or of a shard of it.

    Each rule is told once per column, with the first row and how many there are.

    Args:
        bounds: Nanoseconds since 1970 in which the rows lie, end exclusive; None when nothing says.

    Attributes:
        row: The row of the file that is read next.
        first_ns: Time of the first row, nanoseconds since 1970 UTC; None before it was read.
        last_ns: Time of the last row, likewise.
    """

    rules: ClassVar[Rules]
    outside: ClassVar[str] = "window"
    """The rule that rows out of bounds break."""
    follows: ClassVar[dict[str, frozenset[str]]] = {}
    """A rule that is not told when one of these is: it is then only what comes of it."""

    def __init__(self, bounds: tuple[int, int] | None) -> None:
        self.bounds = bounds
        self.row = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self._faults: dict[tuple[str, str], _Fault] = {}
        self._problems: list[_Problem] = []

    @abstractmethod
    def check_batch(self, batch: pa.RecordBatch) -> None:
        """Check the rows of a batch, which is not empty and begins at `self.row`."""

    @abstractmethod
    def check_seam(self, before: Self, row: int) -> None:
        """Check the first row of this shard, `row`, against the rows before it."""

    def read(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Check all rows of these batches."""
        try:
            for batch in batches:
                if batch.num_rows:
                    self.check_batch(batch)
                self.row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            self.give_up("unreadable", f"rows cannot be read: {first_line(error)}", REWRITE, self.row)

    def report(self, findings: Collector) -> None:
        """Tell what was found."""
        for problem in self._problems:
            findings.add(problem.rule, problem.message, problem.hint, row=problem.row, field=problem.field)
        broken = {rule for rule, _ in self._faults}
        for (rule, field), fault in self._faults.items():
            if self.follows.get(rule, frozenset()) & broken:
                continue
            message, hint, severity = self.rules[rule]
            if fault.count > 1:
                message += f" ({fault.count} rows, the first is told)"
            findings.add(rule, message, hint, severity=severity, row=fault.row, field=field)

    def absorb(self, after: Self, row: int) -> None:
        """Take in what was found in the next shard, which begins at `row`."""
        after.check_seam(self, row)
        self._problems += after._problems
        for (rule, field), fault in after._faults.items():
            own = self._faults.setdefault((rule, field), _Fault(fault.row, 0))
            own.row, own.count = min(own.row, fault.row), own.count + fault.count
        self.first_ns = after.first_ns if self.first_ns is None else self.first_ns
        self.last_ns = self.last_ns if after.last_ns is None else after.last_ns

    def give_up(self, rule: str, message: str, hint: str, row: int, field: str | None = None) -> None:
        """Remember what makes it impossible to look further."""
        self._problems.append(_Problem(rule, message, hint, row, field))

    def note(self, rule: str, field: str, rows: Mask, at: int = 0) -> None:
        """Remember the rows at fault; `at` is where they begin in the batch."""
        count = int(np.count_nonzero(rows))
        if count:
            self.note_row(rule, field, self.row + at + int(np.argmax(rows)), count)

    def note_row(self, rule: str, field: str, row: int, count: int = 1) -> None:
        """Remember a row at fault, and that there are so many from there on."""
        fault = self._faults.setdefault((rule, field), _Fault(row, 0))
        fault.row, fault.count = min(fault.row, row), fault.count + count

    def check_order(self, field: str, ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Check that times do not run backwards and lie in the bounds.

        Returns:
            The time of the row above each row; of the first row its own.
        """
        previous = np.concatenate((ns[:1] if self.last_ns is None else [self.last_ns], ns[:-1]))
        self.note("timestamp-order", field, ns < previous)
        if self.bounds is not None:
            start, end = self.bounds
            self.note(self.outside, field, (ns < start) | (ns >= end))
        if self.first_ns is None:
            self.first_ns = int(ns[0])
        self.last_ns = int(ns[-1])
        return previous


def check_rows(
    make: Callable[[], RowChecks], file: pq.ParquetFile, source: pa.NativeFile, findings: Collector
) -> RowChecks:
    """Check all rows of a file and report.

    Args:
        make: Makes the checks of one shard.
        file: The file, open.
        source: Its bytes, which several threads may read.
        findings: Where to put what is wrong.

    Returns:
        The checks of the whole file.
    """
    footer = file.metadata
    shards = _shards(footer)
    if len(shards) == 1:
        checks = [make()]
        checks[0].read(_read_ahead(file.iter_batches(batch_size=_BATCH_ROWS)))
    else:
        with ThreadPoolExecutor(len(shards), "validate-rows") as pool:
            checks = list(pool.map(partial(_check_shard, make, source, footer), *zip(*shards, strict=True)))
    whole = checks[0]
    for check, (_, row) in zip(checks[1:], shards[1:], strict=True):
        whole.absorb(check, row)
    whole.report(findings)
    return whole


def _shards(footer: pq.FileMetaData) -> list[tuple[range, int]]:
    """Return row groups that belong together, with the row they begin at; at least one shard."""
    wanted = max(1, min(pa.cpu_count(), _MOST_SHARDS, footer.num_rows // _SHARD_ROWS))
    edges, row = [(0, 0)], 0
    for group in range(footer.num_row_groups):
        if row >= footer.num_rows * len(edges) / wanted and len(edges) < wanted:
            edges.append((group, row))
        row += footer.row_group(group).num_rows
    edges.append((footer.num_row_groups, row))
    return [(range(group, end), row) for (group, row), (end, _) in pairwise(edges)]


def _check_shard(
    make: Callable[[], RowChecks], source: pa.NativeFile, footer: pq.FileMetaData, groups: range, row: int
) -> RowChecks:
    checks = make()
    checks.row = row
    with pq.ParquetFile(source, metadata=footer, page_checksum_verification=True) as file:
        checks.read(file.iter_batches(batch_size=_BATCH_ROWS, row_groups=list(groups), use_threads=False))
    return checks


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
            yield batch

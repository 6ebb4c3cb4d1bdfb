"""The rows of snapshots files: cut by a window, checked, and handed on as batches or as matrices.

Times are read first: they tell which rows are asked for, so that memory for them is taken once and row groups outside
are never decoded. Which files there are is `files`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import time
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from contracts._reader.days import day_bounds_ns
from contracts._reader.files import LIST_COLUMNS, SnapshotsFile, by_day_and_source
from contracts._reader.parquet import opened
from contracts._validate.rows import mask
from contracts.errors import InvalidDocument, InvalidSnapshotFile, MixedData
from contracts.timestamps import iso_utc_from_ns, ns_from_iso_utc
from contracts.v1.level2 import SCHEMA_VERSION, SNAPSHOT_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow.parquet as pq

    from contracts.sessions import Window

_Int64 = npt.NDArray[np.int64]
_Float64 = npt.NDArray[np.float64]
_Map = Callable[..., Iterable[Any]]
"""The built-in `map`, or that of a pool."""

_BATCH_ROWS: Final = 65_536
_TASK_ROWS: Final = 262_144
"""Rows that one thread reads at least before it takes another piece."""

_DTYPES: Final[dict[str, type[np.float64 | np.int64]]] = {
    name: np.float64 if name.endswith("prices") else np.int64 for name in LIST_COLUMNS
}
SOURCED_SCHEMA: Final[pa.Schema] = SNAPSHOT_SCHEMA.append(pa.field("source", pa.string()))


@dataclass(frozen=True)
class Part:
    """The rows of a load that come from one file.

    Attributes:
        file: The file.
        start: The first of its rows in the arrays of the load.
        stop: One after the last.
    """

    file: SnapshotsFile
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class BookMatrices:
    """Books as arrays, one row per snapshot.

    Attributes:
        ts_ns: Shape (rows,), int64, nanoseconds since 1970-01-01 UTC of the receive clock.
        bid_prices: Shape (rows, levels), float64, C-contiguous; best first. A missing level is price 0.0 and size 0.
        bid_sizes: Shape (rows, levels), int64.
        ask_prices: Shape (rows, levels), float64.
        ask_sizes: Shape (rows, levels), int64.
        parts: Which rows come from which file, in the order of the rows.
    """

    ts_ns: _Int64
    bid_prices: _Float64
    bid_sizes: _Int64
    ask_prices: _Float64
    ask_sizes: _Int64
    parts: tuple[Part, ...] = ()

    @property
    def rows(self) -> int:
        """Number of snapshots."""
        return len(self.ts_ns)

    @property
    def levels(self) -> int:
        """Price levels per side."""
        return int(self.bid_prices.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in (self.ts_ns, *(getattr(self, name) for name in LIST_COLUMNS)))

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        size = f"{self.rows:,} rows x {self.levels} levels, {self.nbytes / 1e6:,.1f} MB"
        if not self.rows:
            return f"BookMatrices({size})"
        first, last = (
            text[: len("2025-09-04T13:30:00.100")] for text in iso_utc_from_ns(self.ts_ns[[0, -1]]).to_pylist()
        )
        return f"BookMatrices({size}, {first} to {last} UTC)"


@dataclass(frozen=True)
class Cut:
    """The rows of a file that are asked for.

    Attributes:
        file: The file.
        footer: Its footer.
        start: First row.
        stop: One after the last row.
        ts_ns: Their times, shape (stop - start,).
    """

    file: SnapshotsFile
    footer: pq.FileMetaData
    start: int
    stop: int
    ts_ns: _Int64

    @property
    def rows(self) -> int:
        """How many rows are asked for."""
        return self.stop - self.start


@dataclass(frozen=True)
class _Run:
    """Neighbouring row groups, read by one thread: the groups, and the rows they hold."""

    groups: range
    start: int
    stop: int


def batches(
    files: Sequence[SnapshotsFile], window: Window | None, batch_rows: int, *, with_source: bool, allow_overlap: bool
) -> Iterator[pa.RecordBatch]:
    """Yield the rows in order as record batches of at most `batch_rows` rows, in bounded memory.

    Raises:
        InvalidSnapshotFile: A file breaks the contract where matrices rely on it.
        MixedData: Segments of a day overlap in time.
    """
    for segments in by_day_and_source(files):
        for cut in _cuts(segments, window, map, allow_overlap=allow_overlap):
            yield from _batches_of(cut, batch_rows, with_source=with_source)


def matrices(files: Sequence[SnapshotsFile], window: Window | None, *, allow_overlap: bool) -> BookMatrices:
    """Return the rows in order as arrays; peak memory is that of the arrays and a few batches.

    Raises:
        InvalidSnapshotFile: As `batches`.
        MixedData: As `batches`.
    """
    with ThreadPoolExecutor(max(1, pa.cpu_count()), "read-snapshots") as pool:
        cuts = [cut for cut in _cuts(files, window, pool.map, allow_overlap=allow_overlap) if cut.rows]
        stops = np.cumsum([0, *(cut.rows for cut in cuts)]).tolist()
        parts = tuple(Part(cut.file, start, stop) for cut, (start, stop) in zip(cuts, pairwise(stops), strict=True))
        group = _only_group(cuts)
        if group is None:
            arrays = _fill(cuts, parts, max(file.levels for file in files), pool)
        else:
            views = pool.map(partial(_view, cuts[0], group), LIST_COLUMNS)
            arrays = dict(zip(LIST_COLUMNS, views, strict=True))
    times = [cut.ts_ns for cut in cuts]
    ts_ns = times[0] if len(times) == 1 else np.concatenate([np.empty(0, np.int64), *times])
    return BookMatrices(ts_ns, **arrays, parts=parts)


def _cuts(files: Sequence[SnapshotsFile], window: Window | None, run_all: _Map, *, allow_overlap: bool) -> list[Cut]:
    """Read the times of files and return what is asked for of each, the segments of a day in the order of time."""
    footers = {file.path: _footer(file) for file in files}
    tasks = [(file, footers[file.path], run) for file in files for run in _runs(footers[file.path], 0, file.rows)]
    pieces: dict[Path, list[_Int64]] = {file.path: [] for file in files}
    for (file, _, _), ns in zip(tasks, run_all(_read_times, tasks), strict=True):
        pieces[file.path].append(ns)
    cuts = []
    for segments in by_day_and_source(files):
        timed = [(file, _in_order(file, pieces.pop(file.path))) for file in segments]
        timed.sort(key=lambda segment: (int(segment[1][0]), segment[0].stamp or time()))
        if not allow_overlap:
            _refuse_overlap(timed)
        cuts += [_cut(file, footers[file.path], ns, window) for file, ns in timed]
    return cuts


def _footer(file: SnapshotsFile) -> pq.FileMetaData:
    with opened(file.path, file.identity, InvalidSnapshotFile) as parquet:
        return parquet.metadata


def _runs(footer: pq.FileMetaData, start: int, stop: int, least_rows: int = _TASK_ROWS) -> list[_Run]:
    """Return the row groups that hold rows from `start` to `stop`, in pieces of at least so many rows."""
    runs = []
    row = first_row = first_group = 0
    for group in range(footer.num_row_groups):
        end = row + footer.row_group(group).num_rows
        if end <= start:
            first_row, first_group = end, group + 1
        elif end - first_row >= least_rows or end >= stop:
            runs.append(_Run(range(first_group, group + 1), first_row, end))
            first_row, first_group = end, group + 1
        row = end
        if row >= stop:
            break
    return runs


@contextmanager
def _reading(file: SnapshotsFile, footer: pq.FileMetaData) -> Iterator[pq.ParquetFile]:
    """Open a file for the block; rows that break the contract are a refusal of the file."""
    with opened(file.path, file.identity, InvalidSnapshotFile, footer=footer) as parquet:
        try:
            yield parquet
        except InvalidDocument as error:
            reason = f"row {error.row}, field {error.field}: {error.reason}"
            raise InvalidSnapshotFile(file.path, reason) from error


def _read_times(task: tuple[SnapshotsFile, pq.FileMetaData, _Run]) -> _Int64:
    file, footer, run = task
    pieces = []
    row = run.start
    with _reading(file, footer) as parquet:
        for batch in parquet.iter_batches(
            _BATCH_ROWS, row_groups=list(run.groups), columns=["timestamp"], use_threads=False
        ):
            try:
                pieces.append(ns_from_iso_utc(batch.column(0)))
            except InvalidDocument as error:
                row += error.row or 0
                raise InvalidDocument(SCHEMA_VERSION, error.reason, field="timestamp", row=row) from None
            row += batch.num_rows
    _check_rows(file, run, row)
    return np.concatenate(pieces)


def _check_rows(file: SnapshotsFile, run: _Run, row: int) -> None:
    if row != run.stop:
        raise InvalidSnapshotFile(file.path, f"row {row}: the footer says {run.stop - row} more rows")


def _in_order(file: SnapshotsFile, pieces: list[_Int64]) -> _Int64:
    """Return the times of a file, which a binary search relies on: sorted, and of the day that the name says."""
    ns = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    backwards = ns[1:] < ns[:-1]
    if backwards.any():
        row = int(np.argmax(backwards)) + 1
        raise InvalidSnapshotFile(file.path, f"row {row}, field timestamp: the time is before that of the row above")
    start, stop = day_bounds_ns(file.day)
    for row in (0, len(ns) - 1):
        if not start <= int(ns[row]) < stop:
            raise InvalidSnapshotFile(
                file.path, f"row {row}, field timestamp: the time is not of the ET day in the name"
            )
    return ns


def _refuse_overlap(timed: Sequence[tuple[SnapshotsFile, _Int64]]) -> None:
    for (earlier, ns), (later, later_ns) in pairwise(timed):
        if later_ns[0] < ns[-1]:
            end, begin = iso_utc_from_ns(np.array([ns[-1], later_ns[0]])).to_pylist()
            raise MixedData({"time": [f"{earlier.path.name} ends {end}", f"{later.path.name} begins {begin}"]})


def _cut(file: SnapshotsFile, footer: pq.FileMetaData, ns: _Int64, window: Window | None) -> Cut:
    if window is None:
        return Cut(file, footer, 0, len(ns), ns)
    start, stop = np.searchsorted(ns, window.bounds_ns(file.day)).tolist()
    # A copy, so that the times of the other rows are not kept alive.
    return Cut(file, footer, start, stop, ns[start:stop].copy())


def _batches_of(cut: Cut, batch_rows: int, *, with_source: bool) -> Iterator[pa.RecordBatch]:
    if not cut.rows:
        return
    (run,) = _runs(cut.footer, cut.start, cut.stop, least_rows=cut.file.rows)
    row = run.start
    with _reading(cut.file, cut.footer) as parquet:
        for batch in parquet.iter_batches(batch_rows, row_groups=list(run.groups)):
            for name in LIST_COLUMNS:
                _values(batch.column(name), cut.file.levels, name, row)
            first, last = max(cut.start - row, 0), min(cut.stop - row, batch.num_rows)
            row += batch.num_rows
            if first < last:
                yield _shaped(batch.slice(first, last - first), cut.file.source if with_source else None)
    _check_rows(cut.file, run, row)


def _shaped(batch: pa.RecordBatch, source: str | None) -> pa.RecordBatch:
    # Files of other writers call the inside of a list "item".
    columns = batch.cast(SNAPSHOT_SCHEMA).columns
    if source is None:
        return pa.RecordBatch.from_arrays(columns, schema=SNAPSHOT_SCHEMA)
    return pa.RecordBatch.from_arrays([*columns, pa.repeat(source, batch.num_rows)], schema=SOURCED_SCHEMA)


def _only_group(cuts: Sequence[Cut]) -> _Run | None:
    """Return the row group that holds all rows asked for, if there is one of which not much else is kept in memory."""
    if len(cuts) != 1:
        return None
    cut = cuts[0]
    groups = _runs(cut.footer, cut.start, cut.stop, least_rows=1)
    if len(groups) != 1 or groups[0].stop - groups[0].start > min(2 * cut.rows, _TASK_ROWS):
        return None
    return groups[0]


def _view(cut: Cut, run: _Run, name: str) -> npt.NDArray[Any]:
    """Return the rows of a cut as they were decoded, without a copy."""
    with _reading(cut.file, cut.footer) as parquet:
        column = parquet.read_row_groups(list(run.groups), columns=[name], use_threads=False).column(name)
        _check_rows(cut.file, run, run.start + len(column))
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        values = _values(column, cut.file.levels, name, run.start)[cut.start - run.start : cut.stop - run.start]
    # As all other arrays of a load these are the caller's, to change too.
    return values if values.flags.writeable else values.copy()


def _fill(
    cuts: Sequence[Cut], parts: Sequence[Part], levels: int, pool: ThreadPoolExecutor
) -> dict[str, npt.NDArray[Any]]:
    """Read the lists of all cuts into arrays that are allocated once."""
    rows = parts[-1].stop if parts else 0
    arrays: dict[str, npt.NDArray[Any]] = {name: np.empty((rows, levels), _DTYPES[name]) for name in LIST_COLUMNS}
    tasks = [
        (cut, run, name, arrays[name][part.start : part.stop])
        for cut, part in zip(cuts, parts, strict=True)
        for run in _runs(cut.footer, cut.start, cut.stop)
        for name in LIST_COLUMNS
    ]
    for _ in pool.map(_read_lists, tasks):
        pass
    return arrays


def _read_lists(task: tuple[Cut, _Run, str, npt.NDArray[Any]]) -> None:
    cut, run, name, target = task
    levels = cut.file.levels
    row = run.start
    with _reading(cut.file, cut.footer) as parquet:
        for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=list(run.groups), columns=[name], use_threads=False):
            values = _values(batch.column(0), levels, name, row)
            first, last = max(cut.start, row), min(cut.stop, row + len(values))
            if first < last:
                rows = target[first - cut.start : last - cut.start]
                rows[:, :levels] = values[first - row : last - row]
                rows[:, levels:] = 0
            row += len(values)
    _check_rows(cut.file, run, row)


def _values(column: pa.ListArray, levels: int, name: str, row: int) -> npt.NDArray[Any]:
    """Return a list column as shape (rows, levels), a view.

    Args:
        column: The lists.
        levels: How long each of them must be.
        name: The column's name.
        row: The row of the file with which it begins.

    Raises:
        InvalidDocument: A list is null, of another length or has a null; names the first such row.
    """
    rows = len(column)
    if column.null_count:
        raise _bad_list("the list is null", name, row, mask(column.is_null()))
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + rows + 1]
    wrong = np.diff(offsets) != levels
    if wrong.any():
        length = int(np.diff(offsets)[np.argmax(wrong)])
        raise _bad_list(f"the list has {length} values, not {levels}", name, row, wrong)
    values = column.values.slice(int(offsets[0]), rows * levels)
    if values.null_count:
        nulls = mask(values.is_null()).reshape(rows, levels)
        raise _bad_list("a value is null", name, row, np.asarray(nulls.any(axis=1)))
    dtype = _DTYPES[name]
    return np.frombuffer(values.buffers()[1], dtype, len(values), values.offset * 8).reshape(rows, levels)


def _bad_list(reason: str, name: str, row: int, wrong: npt.NDArray[np.bool_]) -> InvalidDocument:
    return InvalidDocument(SCHEMA_VERSION, reason, field=name, row=row + int(np.argmax(wrong)))

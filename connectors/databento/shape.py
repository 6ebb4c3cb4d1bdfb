"""From vendor records to the contract's columns: one row per grid point, or one row per record.

Why it is fast: sampling picks rows with `searchsorted` before anything is converted; conversion runs over blocks that
stay in cache; a level is tested for absence only through the largest price of a block; Arrow arrays are laid over
numpy memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from connectors.databento.decode import UNDEF_PRICE, DbnFile
from connectors.databento.errors import VerificationFailed
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.level2_events import EVENTS_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

PRICE_SCALE = 1e9
"""Wire prices are integers in 1e-9 units. Dividing gives the exact double; multiplying by 1e-9 does not."""

FLAG_MAYBE_BAD_BOOK = 4

BATCH_ROWS = 16_384
"""Rows of one Arrow batch: 5 MB at ten levels."""

BLOCK_ROWS = 1_024
"""Rows converted at a time: 80 kB per column, which stays in a core's cache."""

_UNDEF_AS_DOUBLE = UNDEF_PRICE / PRICE_SCALE


@dataclass
class BookCounts:
    """How trustworthy a shaped day is; counted while it passes.

    Attributes:
        rows: snapshot rows made.
        events: vendor records inside the window.
        crossed: rows whose best bid is above the best ask.
        locked: rows whose best bid equals the best ask.
        one_sided: rows with exactly one empty side.
        maybe_bad_book: records the vendor flags as perhaps wrong.
        late_ts: records whose `ts_recv` ran backwards; they take the time of the record before.
        max_gap_ns: longest silence between two records, in nanoseconds.
        first_ts_ns: `ts_recv` of the first record inside the window, None without one.
        last_ts_ns: `ts_recv` of the last record inside the window, None without one.
        first_row_ns: time of the first row, None without one.
        last_row_ns: time of the last row, None without one.
    """

    rows: int = 0
    events: int = 0
    crossed: int = 0
    locked: int = 0
    one_sided: int = 0
    maybe_bad_book: int = 0
    late_ts: int = 0
    max_gap_ns: int = 0
    first_ts_ns: int | None = None
    last_ts_ns: int | None = None
    first_row_ns: int | None = None
    last_row_ns: int | None = None


def snapshot_batches(
    path: Path,
    *,
    schema: pa.Schema,
    window_ns: tuple[int, int],
    levels: int,
    interval_ms: int,
    records: int,
    counts: BookCounts,
) -> Iterator[pa.RecordBatch]:
    """The snapshot rows of one day.

    Args:
        path: a DBN file of one symbol.
        schema: the contract's snapshot schema with the file's footer metadata.
        window_ns: first nanosecond, and first no longer inside, UTC on `ts_recv`.
        levels: N of the contract; absent vendor levels are padded as missing.
        interval_ms: grid distance in milliseconds; 0 gives one row per record.
        records: records the file must hold, as verified when it was bought.
        counts: filled while batches are taken; whole when the iterator is exhausted.

    Yields:
        Batches of at most `BATCH_ROWS` rows. Sampled: the book after the last record at or before each grid point,
        from the first grid point with a known book to the end of the window.

    Raises:
        VerificationFailed: when the file is broken; what was yielded before must then not be published.
    """
    columns = _Columns(schema, levels, counts)
    passing = _inside(DbnFile(path).chunks(ahead=interval_ms > 0), path.name, window_ns, records, counts)
    if interval_ms == 0:
        for ts_ns, chunk in passing:
            yield from columns.append(ts_ns, chunk)
    else:
        yield from _sampled(passing, window_ns, interval_ms * 1_000_000, columns)
    yield from columns.flush()


def event_batches(
    path: Path, *, symbol: str, exchange: str, window_ns: tuple[int, int], records: int
) -> Iterator[pa.RecordBatch]:
    """The vendor's events of one day, in the columns of `contracts.v1.level2_events`.

    Args:
        path: a DBN file of one symbol.
        symbol: canonical symbol.
        exchange: venue code written to every row.
        window_ns: first nanosecond, and first no longer inside, UTC on `ts_recv`.
        records: records the file must hold.

    Yields:
        One batch per chunk of records.

    Raises:
        VerificationFailed: as `snapshot_batches`.
    """
    for ts_ns, chunk in _inside(DbnFile(path).chunks(), path.name, window_ns, records, BookCounts()):
        count = len(chunk)
        price = chunk["price"] / PRICE_SCALE
        price[chunk["price"] == UNDEF_PRICE] = 0.0
        event_ns = chunk["ts_event"].astype(np.int64)
        yield pa.RecordBatch.from_arrays(
            [
                pa.array(event_ns),
                pa.array(chunk["action"].astype("U1")),
                pa.array(chunk["side"].astype("U1")),
                pa.array(price),
                pa.array(chunk["size"].astype(np.float64)),
                pa.array(chunk["depth"].astype(np.int64)),
                pa.array(np.repeat(exchange, count)),
                pa.array(np.repeat(symbol, count)),
                pa.array(np.repeat("databento", count)),
                pa.array(event_ns).cast(EVENTS_SCHEMA.field("ts_utc").type),
                pa.array(ts_ns).cast(EVENTS_SCHEMA.field("ts_recv").type),
            ],
            schema=EVENTS_SCHEMA,
        )


def _sampled(
    passing: Iterator[tuple[NDArray[np.int64], NDArray[np.void]]],
    window_ns: tuple[int, int],
    interval_ns: int,
    columns: _Columns,
) -> Iterator[pa.RecordBatch]:
    start_ns, end_ns = window_ns
    next_point = -1
    last: NDArray[np.void] | None = None

    def take(upto_ns: int, ts_ns: NDArray[np.int64], records: NDArray[np.void]) -> Iterator[pa.RecordBatch]:
        """Rows for the grid points before `upto_ns`; what precedes the first of `records` shows `last`."""
        nonlocal next_point
        stop = -(-(upto_ns - start_ns) // interval_ns)
        while next_point < stop:
            upper = min(stop, next_point + BATCH_ROWS)
            grid_ns = start_ns + np.arange(next_point, upper, dtype=np.int64) * interval_ns
            index = np.searchsorted(ts_ns, grid_ns, side="right") - 1
            earlier = int(np.searchsorted(index, 0))
            if earlier and last is not None:
                yield from columns.append(grid_ns[:earlier], np.repeat(last, earlier))
            # `take` copies whole records, many times as fast as an index does.
            yield from columns.append(grid_ns[earlier:], records.take(index[earlier:]))
            next_point = upper

    for ts_ns, records in passing:
        if next_point < 0:
            next_point = -(-(int(ts_ns[0]) - start_ns) // interval_ns)
        # Ties: the next chunk may hold more records of the last instant, so points from there on wait.
        yield from take(int(ts_ns[-1]), ts_ns, records)
        last = records[-1:].copy()
    if last is not None:
        yield from take(end_ns, np.empty(0, np.int64), last[:0])


def _inside(
    chunks: Iterator[NDArray[np.void]], name: str, window_ns: tuple[int, int], expected: int, counts: BookCounts
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.void]]]:
    """Records inside the window with their non-decreasing receive times; counts what passes.

    What lies outside has no say, so a wider file gives the same as the one the vendor would cut at the window.
    """
    start_ns, end_ns = window_ns
    seen = 0
    for chunk in chunks:
        seen += len(chunk)
        records, recv_ns = chunk, chunk["ts_recv"].astype(np.int64)
        inside = (recv_ns >= start_ns) & (recv_ns < end_ns)
        if not inside.all():
            records, recv_ns = chunk[inside], recv_ns[inside]
        if not len(records):
            continue
        before_ns = int(recv_ns[0]) if counts.last_ts_ns is None else counts.last_ts_ns
        ts_ns = np.maximum(np.maximum.accumulate(recv_ns), before_ns)
        counts.late_ts += int(np.count_nonzero(ts_ns != recv_ns))
        counts.events += len(records)
        counts.maybe_bad_book += int(np.count_nonzero(records["flags"] & FLAG_MAYBE_BAD_BOOK))
        first_gap_ns, inner_gaps_ns = int(ts_ns[0]) - before_ns, ts_ns[1:] - ts_ns[:-1]
        counts.max_gap_ns = max(counts.max_gap_ns, first_gap_ns, int(inner_gaps_ns.max(initial=0)))
        if counts.first_ts_ns is None:
            counts.first_ts_ns = int(ts_ns[0])
        counts.last_ts_ns = int(ts_ns[-1])
        yield ts_ns, records
    if seen != expected:
        raise VerificationFailed(
            f"{name}: holds {seen} records, {expected} were verified when it was bought",
            reason="record_count",
        )


class _Columns:
    """Column buffers that fill up row by row and turn into Arrow batches without a copy."""

    def __init__(self, schema: pa.Schema, levels: int, counts: BookCounts) -> None:
        self._schema = schema
        self._levels = levels
        self._counts = counts
        self._offsets = pa.py_buffer(np.arange(BATCH_ROWS + 1, dtype=np.int32) * np.int32(levels))
        self._renew()

    def _renew(self) -> None:
        shape = (BATCH_ROWS, self._levels)
        self._rows = 0
        self._ts_ns = np.empty(BATCH_ROWS, np.int64)
        # zeros: levels the vendor does not have are missing levels.
        self._prices = {side: np.zeros(shape, np.float64) for side in ("bid", "ask")}
        self._sizes = {side: np.zeros(shape, np.int64) for side in ("bid", "ask")}

    def append(self, ts_ns: NDArray[np.int64], records: NDArray[np.void]) -> Iterator[pa.RecordBatch]:
        """Convert and keep rows; yields a batch whenever one is full."""
        done = 0
        while done < len(records):
            count = min(BLOCK_ROWS, len(records) - done, BATCH_ROWS - self._rows)
            rows = slice(self._rows, self._rows + count)
            block = records[done : done + count]
            self._ts_ns[rows] = ts_ns[done : done + count]
            for side in ("bid", "ask"):
                _convert(block["levels"], side, self._prices[side][rows], self._sizes[side][rows])
            self._rows += count
            done += count
            if self._rows == BATCH_ROWS:
                yield from self.flush()

    def flush(self) -> Iterator[pa.RecordBatch]:
        """The rows kept so far, as one batch."""
        if not self._rows:
            return
        rows = self._rows
        self._count(rows)
        arrays = [iso_utc_from_ns(self._ts_ns[:rows])]
        for side in ("bid", "ask"):
            arrays += [self._lists(self._prices[side][:rows]), self._lists(self._sizes[side][:rows])]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        # The batch keeps the buffers: new rows need new ones.
        self._renew()
        yield batch

    def _lists(self, matrix: NDArray[Any]) -> pa.ListArray:
        flat = matrix.reshape(-1)
        value_type = pa.from_numpy_dtype(flat.dtype)
        values = pa.Array.from_buffers(value_type, len(flat), [None, pa.py_buffer(flat)])
        return pa.Array.from_buffers(pa.list_(value_type), len(matrix), [None, self._offsets], children=[values])

    def _count(self, rows: int) -> None:
        bid, ask = self._prices["bid"][:rows, 0], self._prices["ask"][:rows, 0]
        has_bid = self._sizes["bid"][:rows, 0] > 0
        has_ask = self._sizes["ask"][:rows, 0] > 0
        both = has_bid & has_ask
        self._counts.rows += rows
        if self._counts.first_row_ns is None:
            self._counts.first_row_ns = int(self._ts_ns[0])
        self._counts.last_row_ns = int(self._ts_ns[rows - 1])
        self._counts.one_sided += int(np.count_nonzero(has_bid != has_ask))
        self._counts.crossed += int(np.count_nonzero(both & (bid > ask)))
        self._counts.locked += int(np.count_nonzero(both & (bid == ask)))


def _convert(levels: NDArray[np.void], side: str, prices: NDArray[np.float64], sizes: NDArray[np.int64]) -> None:
    """Write one side of a block of records into rows of the columns.

    Args:
        levels: shape (rows, vendor levels), the wire structs.
        side: `bid` or `ask`.
        prices: shape (rows, N), zeros; receives prices in currency units.
        sizes: shape (rows, N), zeros; receives sizes in shares.
    """
    used = min(levels.shape[1], prices.shape[1])
    wire = levels[f"{side}_px"][:, :used]
    prices, sizes = prices[:, :used], sizes[:, :used]
    np.divide(wire, PRICE_SCALE, out=prices)
    sizes[...] = levels[f"{side}_sz"][:, :used]
    if prices.max() < _UNDEF_AS_DOUBLE and sizes.min() > 0:
        return
    wire, wire_sizes = levels[f"{side}_px"], levels[f"{side}_sz"]
    missing = (wire == UNDEF_PRICE) | (wire_sizes == 0)
    prices[missing[:, :used]] = 0.0
    sizes[missing[:, :used]] = 0
    holes = (missing[:, :-1] & ~missing[:, 1:]).any(axis=1)
    if holes.any():
        # The contract has missing levels only at the end: levels from further back move up.
        rows = np.flatnonzero(holes)
        order = np.argsort(missing[rows], axis=1, kind="stable")[:, :used]
        absent = np.take_along_axis(missing[rows], order, axis=1)
        prices[rows] = np.where(absent, 0.0, np.take_along_axis(wire[rows], order, axis=1) / PRICE_SCALE)
        sizes[rows] = np.where(absent, 0, np.take_along_axis(wire_sizes[rows], order, axis=1))

"""The book that depth messages describe, and the snapshots that replaying them gives.

`Book` applies one message at a time. `replay` and `replay_batches` turn the messages of one symbol into the columns of
a snapshots file, and `Replayer` does it for messages that come in parts, such as the segments of a live day. Live
capture and consumers share this code, so a session's messages give its snapshots row for row. Reading a messages file
is in `_replay.file`, checking a message in `_replay.records`, building columns in `_replay.rows`.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import pyarrow as pa

from contracts._replay.file import read_records
from contracts._replay.records import Checked
from contracts._replay.rows import RowBuffer
from contracts.errors import InvalidDocument
from contracts.v1.depth_messages import SCHEMA_VERSION, DepthMessage, DepthMessages, Operation, Side
from contracts.v1.level2 import DEFAULT_LEVELS, SNAPSHOT_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["DEFAULT_INTERVAL_MS", "Book", "BookRow", "Messages", "Replayer", "replay", "replay_batches"]

DEFAULT_INTERVAL_MS: Final = 100
"""Milliseconds between sampled rows."""

BATCH_ROWS: Final = 16_384
"""Rows of one batch: 5 MB at ten levels."""

BookRow: TypeAlias = tuple[list[float], list[int], list[float], list[int]]
"""Bid prices, bid sizes, ask prices, ask sizes, N values each."""

Messages: TypeAlias = "str | os.PathLike[str] | DepthMessages | Iterable[DepthMessage | Mapping[str, object]]"
"""A messages file, or the messages in order: models, or mappings as parsed from JSON."""

_NEVER: Final = 2**63
_DAY_NS: Final = 86_400_000_000_000
_LONGEST_SILENCE_NS: Final = 7 * _DAY_NS


class Book:
    """One symbol's book of N levels per side, as depth messages build it.

    A message names a row by its level, 0 the best:

    - `add` inserts at the level, or at the end, and shifts the rows below down; what is shifted beyond N is gone;
    - `remove` deletes the row and shifts the rows below up; its price and size do not matter;
    - `update` replaces the row; at the end, the first level without a row, it appends.

    An operation that cannot be carried out leaves the book as it is and is counted in `anomalies`: `add_hole` (an add
    below the end, which would leave a hole), `update_missing` and `remove_missing` (there is no such row), and
    `beyond_levels` (level N or more, or below 0, whatever the operation). An add at level N of a full book is
    `beyond_levels` too: a source may send the row below the last one that was asked for, and it can neither be shown
    nor shift anything.

    Prices and sizes are kept as received. Locked, crossed and unordered books are not corrected, for the order of the
    rows is the source's and later messages count on it.

    Args:
        levels: N, rows kept per side.

    Attributes:
        levels: N.
        anomalies: How many messages were ignored, by kind.
        is_known: Whether a message was ever applied; a book that was emptied again is known.

    Raises:
        ValueError: `levels` is less than 1.
    """

    def __init__(self, levels: int = DEFAULT_LEVELS) -> None:
        if levels < 1:
            raise ValueError(f"levels is {levels}, a book has at least one")
        self.levels = levels
        self.anomalies: Counter[str] = Counter()
        self.is_known = False
        self._bid: tuple[list[float], list[int]] = ([], [])
        self._ask: tuple[list[float], list[int]] = ([], [])
        self._zero_seen = False

    def apply(  # noqa: C901, PLR0912 - a call per operation would cost a quarter of the speed
        self, operation: Operation, side: Side, level: int, price: float, size: int
    ) -> bool:
        """Carry out one message.

        Args:
            operation: `add`, `update` or `remove`.
            side: `bid` or `ask`.
            level: Row of the side, 0 is the best.
            price: Price of the row; ignored by `remove`.
            size: Size of the row; ignored by `remove`.

        Returns:
            Whether the message was applied; False is counted in `anomalies`.

        Raises:
            ValueError: The operation or the side is none of those words.
        """
        if side == "bid":
            prices, sizes = self._bid
        elif side == "ask":
            prices, sizes = self._ask
        else:
            raise ValueError(f"the side is {side!r}, not bid or ask")
        length = len(prices)
        if operation == "update":
            if 0 <= level < length:
                prices[level] = price
                sizes[level] = size
            elif level == length < self.levels:
                prices.append(price)
                sizes.append(size)
            else:
                return self._ignore("update_missing", level)
        elif operation == "add":
            if not (0 <= level <= length and level < self.levels):
                return self._ignore("add_hole", level)
            if length == self.levels:
                prices.pop()
                sizes.pop()
            prices.insert(level, price)
            sizes.insert(level, size)
        elif operation == "remove":
            if not 0 <= level < length:
                return self._ignore("remove_missing", level)
            del prices[level]
            del sizes[level]
            self.is_known = True
            return True
        else:
            raise ValueError(f"the operation is {operation!r}, not add, update or remove")
        if not price or not size:
            self._zero_seen = True
        self.is_known = True
        return True

    def clear(self) -> list[tuple[Operation, Side, int, float, int]]:
        """Empty the book and return the removes that say so, as a depth reset is written to the messages file.

        Each side is taken away from its end, so that every book in between is a true one with fewer levels.

        Returns:
            Operation, side, level, price and size of each removed row. Applied in order to the book as it was, they
            empty it; applied to one that lacks a row, they are counted there as anomalies.
        """
        removes: list[tuple[Operation, Side, int, float, int]] = []
        for side in ("bid", "ask"):
            prices, sizes = self._bid if side == "bid" else self._ask
            while prices:
                removes.append(("remove", side, len(prices) - 1, prices.pop(), sizes.pop()))
        self._zero_seen = False
        return removes

    def row(self) -> BookRow:
        """Return the book as a row of a snapshots file: new lists of bid prices, bid sizes, ask prices, ask sizes.

        Each list has N values; missing levels at the end are price 0.0 and size 0. A row of the book whose price or
        size is 0 has no form of its own in the file: it is left out here and those below it move up, while in the book
        it keeps its place.
        """
        columns: BookRow = ([], [], [], [])
        self.append_to(columns)
        return columns

    def append_to(self, columns: BookRow) -> None:
        """Append the values of `row` to the lists of longer columns."""
        bid_prices, bid_sizes, ask_prices, ask_sizes = columns
        self._append_side(self._bid, bid_prices, bid_sizes)
        self._append_side(self._ask, ask_prices, ask_sizes)

    def _append_side(
        self, side: tuple[list[float], list[int]], price_column: list[float], size_column: list[int]
    ) -> None:
        prices, sizes = side
        if self._zero_seen and not (all(prices) and all(sizes)):
            present = [(price, size) for price, size in zip(prices, sizes, strict=True) if price and size]
            prices, sizes = [price for price, _ in present], [size for _, size in present]
        price_column += prices
        size_column += sizes
        if missing := self.levels - len(prices):
            price_column += [0.0] * missing
            size_column += [0] * missing

    def _ignore(self, kind: str, level: int) -> bool:
        self.anomalies[kind if 0 <= level < self.levels else "beyond_levels"] += 1
        return False


class Replayer:
    """Turns the messages of one symbol into snapshot rows, part by part; the book lives on from part to part.

    Rows are those of `replay`. Wherever the stream is cut, the parts give the same rows as the whole:

        replayer = Replayer(10, 100)
        for path, end_ns in segments:
            replayer.feed(path)
            table = replayer.rows_until(end_ns)
        rest = replayer.finish()

    Args:
        levels: N of the contract.
        interval_ms: Milliseconds between rows; 0 gives one row per message that was applied.
        start_ns: Where the grid begins, nanoseconds since 1970 UTC; rows before it are not given, while messages
            before it are applied. None: the grid is the multiples of the interval since 1970 UTC, and rows begin with
            the first applied message.

    Attributes:
        book: The book after the last message; its `anomalies` count over all parts.

    Raises:
        ValueError: `levels` is less than 1, or `interval_ms` less than 0.
    """

    def __init__(
        self, levels: int = DEFAULT_LEVELS, interval_ms: int = DEFAULT_INTERVAL_MS, start_ns: int | None = None
    ) -> None:
        if interval_ms < 0:
            raise ValueError(f"interval_ms is {interval_ms}, it cannot be negative")
        self.book = Book(levels)
        self._interval_ns = interval_ms * 1_000_000
        self._start_ns = start_ns
        self._checked = Checked()
        self._rows = RowBuffer(levels, self._interval_ns, BATCH_ROWS)
        self._next_ns = _NEVER
        self._last_ns: int | None = None
        self._earliest_ns = -_NEVER

    @property
    def symbol(self) -> str | None:
        """The symbol of the messages; None before the first one."""
        return self._checked.symbol

    def feed(self, messages: Messages) -> None:
        """Apply the next part of the messages.

        Args:
            messages: See `replay`. Messages before one that is refused were applied.

        Raises:
            InvalidDocument: See `replay`; also a message from before the end of rows that were already given. `row`
                counts from the first message of this part.
            UnknownSchemaVersion: A message names another version.
            OSError: The file cannot be read.
        """
        for _ in self._steps(messages):
            pass

    def rows_until(self, end_ns: int) -> pa.Table:
        """Return the rows before a moment that were not given yet; messages from then on must not be earlier.

        Args:
            end_ns: Nanoseconds since 1970 UTC, exclusive. On a grid, rows go on with the last book up to here.

        Returns:
            Columns of `SNAPSHOT_SCHEMA`.

        Raises:
            ValueError: On a grid: `end_ns` is more than 7 days after the last row or message.
        """
        return _table(self._until(end_ns))

    def finish(self) -> pa.Table:
        """Return the remaining rows; on a grid through the first grid point at or after the last message.

        Returns:
            Columns of `SNAPSHOT_SCHEMA`.

        Raises:
            ValueError: On a grid: `start_ns` is more than 7 days after the last message.
        """
        return _table(self._rest())

    def _steps(self, messages: Messages) -> Iterator[None]:
        """Apply messages; pauses whenever so many rows wait that a batch can be made of them."""
        what, records = _opened(messages)
        book, rows, start_ns = self.book, self._rows, self._start_ns
        for at, (ns, operation, side, level, price, size) in enumerate(self._checked.read(records, what)):
            if ns < self._earliest_ns or ns - self._next_ns > _LONGEST_SILENCE_NS:
                raise InvalidDocument(what, self._fault(ns), field="timestamp", row=at)
            if self._next_ns < ns:
                self._sample(ns)
            self._earliest_ns = self._last_ns = ns
            if book.apply(operation, side, level, price, size):
                if self._interval_ns == 0:
                    if start_ns is None or ns >= start_ns:
                        rows.append(ns, 1, book)
                elif self._next_ns == _NEVER:
                    self._next_ns = self._grid_point(ns)
            if rows.is_full:
                yield

    def _fault(self, ns: int) -> str:
        if self._last_ns is not None and ns < self._last_ns:
            return "the time is before that of the message above"
        if ns < self._earliest_ns:
            return "the time is before the end of the rows already given"
        return "it comes more than 7 days after the one above; replay each session by itself"

    def _grid_point(self, ns: int) -> int:
        """Return the first grid point at or after a moment."""
        start_ns = self._start_ns or 0
        point_ns = start_ns - (start_ns - ns) // self._interval_ns * self._interval_ns
        return point_ns if self._start_ns is None else max(point_ns, self._start_ns)

    def _sample(self, end_ns: int) -> None:
        """Put the book on the grid points before a moment."""
        count = -((self._next_ns - end_ns) // self._interval_ns)
        if count > 0:
            self._rows.append(self._next_ns, count, self.book)
            self._next_ns += count * self._interval_ns

    def _until(self, end_ns: int) -> Iterator[pa.RecordBatch]:
        if self._next_ns != _NEVER:
            if end_ns - self._next_ns > _LONGEST_SILENCE_NS:
                raise ValueError(f"rows up to {end_ns} are asked for, more than 7 days after the last message or row")
            self._sample(end_ns)
        self._earliest_ns = max(self._earliest_ns, end_ns)
        return self._rows.take(end_ns)

    def _rest(self) -> Iterator[pa.RecordBatch]:
        if self._next_ns != _NEVER and self._last_ns is not None:
            end_ns = self._grid_point(self._last_ns) + 1
            if end_ns > self._next_ns:
                return self._until(end_ns)
        return self._rows.take(None)


def replay(
    messages: Messages,
    levels: int = DEFAULT_LEVELS,
    interval_ms: int = DEFAULT_INTERVAL_MS,
    *,
    start_ns: int | None = None,
    end_ns: int | None = None,
) -> pa.Table:
    """Return the snapshots that depth messages describe.

    Sampled: one row per grid point with the book after the last message at or before it, from the first grid point with
    a known book to `end_ns`, or without one through the first grid point at or after the last message, so that every
    message is seen. With `interval_ms` 0: one row per message that was applied, also when it changed no number.

    A book that was emptied gives rows of missing levels only. Messages that cannot be applied are ignored; to have them
    counted, use `Replayer` and its `book.anomalies`.

    Args:
        messages: Of one symbol, in the order of arrival: a messages file (any JSON array, read in bounded memory), or
            an iterable of `DepthMessage` or of mappings as parsed from JSON.
        levels: N of the contract.
        interval_ms: Milliseconds between rows; 0 gives one row per message that was applied.
        start_ns: Where the grid begins, nanoseconds since 1970 UTC; rows before it are not given, while messages
            before it are applied. None: the grid is the multiples of the interval since 1970 UTC.
        end_ns: End of the rows, nanoseconds since 1970 UTC, exclusive.

    Returns:
        Columns of `SNAPSHOT_SCHEMA`, without metadata.

    Raises:
        InvalidDocument: A message breaks its model, is of another symbol than the first, runs backwards in time, lies
            outside the years 1678 to 2261, or, on a grid, comes more than 7 days after the one above; or the file is
            no JSON array. Names the row, and the file if there is one.
        UnknownSchemaVersion: A message names another version.
        ValueError: `levels` is less than 1, or `interval_ms` less than 0; or, on a grid, `end_ns` is more than 7 days
            after the last message.
        OSError: The file cannot be read.
    """
    return _table(replay_batches(messages, levels, interval_ms, start_ns=start_ns, end_ns=end_ns))


def replay_batches(
    messages: Messages,
    levels: int = DEFAULT_LEVELS,
    interval_ms: int = DEFAULT_INTERVAL_MS,
    *,
    start_ns: int | None = None,
    end_ns: int | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `replay` in batches of at most 16,384 rows, in bounded memory.

    Arguments and errors are those of `replay`; errors come while the batches are taken, after rows that were sound.
    """
    replayer = Replayer(levels, interval_ms, start_ns)
    rows = replayer._rows  # noqa: SLF001 - one module; the buffer is no business of callers
    for _ in replayer._steps(messages):  # noqa: SLF001 - likewise
        yield from rows.take(end_ns)
        # What is left lies after the end and would only pile up.
        rows.drop()
    yield from replayer._rest() if end_ns is None else replayer._until(end_ns)  # noqa: SLF001 - likewise


def _opened(messages: Messages) -> tuple[str, Iterable[object]]:
    """Return how errors name the messages, and the messages one by one."""
    if isinstance(messages, (str, os.PathLike)):
        path = Path(messages)
        what = f"{SCHEMA_VERSION} {path}"
        return what, read_records(path, what)
    return SCHEMA_VERSION, messages.root if isinstance(messages, DepthMessages) else messages


def _table(batches: Iterator[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches, SNAPSHOT_SCHEMA)

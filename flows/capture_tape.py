"""What the recorder keeps of one symbol: its book, its journal and its gaps, changed only together.

All of it belongs to the recorder's writer thread. Lines are made in memory and written by `flush`, in order; what a
disk refuses waits and is tried again. Publishing what was journaled is the work of `capture_keeper`.
"""

from __future__ import annotations

import copy
import json
import math
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from connectors.store.journal import JournalWriter
from contracts.book import Book
from flows.capture_gaps import ClosedGap, GapState, OpenGap
from flows.capture_spec import BookTop
from flows.capture_time import day_of, utc_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from contracts.v1.depth_messages import Operation, Side
    from contracts.v1.gaps import GapCause
    from flows.capture_spec import SessionSpec

Message: TypeAlias = "tuple[str, int, int, int, int, float, float, str]"
"""Symbol, nanoseconds since 1970 UTC, operation, side, level, price, size, market maker, in the codes of the wire."""

_NS: Final = 1_000_000_000
_INF: Final = math.inf
_MOST: Final = 2**63 - 1
_MOST_TEXTS: Final = 8192
_SECOND_END: Final = len("2025-09-04T13:30:00.")
_OPERATIONS: Final[tuple[Operation, ...]] = ("add", "update", "remove")
_SIDES: Final[tuple[Side, ...]] = ("ask", "bid")


def _words(operation: Operation, side: Side) -> tuple[Operation, Side, str]:
    return operation, side, f'+00:00", "operation": "{operation}", "side": "{side}", "level": '


_WORDS: Final = {
    (code, side_code): _words(operation, side)
    for code, operation in enumerate(_OPERATIONS)
    for side_code, side in enumerate(_SIDES)
}


class Tape:
    """One symbol of a session.

    Args:
        spec: The session.
        symbol: Which of its symbols.
        journal_path: Says where the journal of a numbered segment lies.
        on_gap: Called when the end of a gap is journaled, or the gap will never be.

    Attributes:
        book: After the last journaled message.
        gaps: The hole that is open.
        seq: Records journaled.
        number: Of the segment, from 0.
        last_ns: Time of the last thing taken; nothing earlier follows.
        journaled_ns: Time of the last thing that is in the journal.
        max_lag_ms: Longest time from receipt to journal, as the recorder measures it.
        top: The best rows at the last flush.
        counted: Ignored messages at the last flush, by kind.
        is_unsynced: The disk refused to flush what it had taken.
    """

    def __init__(
        self,
        spec: SessionSpec,
        symbol: str,
        journal_path: Callable[[str, int], Path],
        on_gap: Callable[[str, ClosedGap], None],
    ) -> None:
        self.symbol = symbol
        self.book = Book(spec.levels)
        self.gaps = GapState(OpenGap(spec.start_ns, "connect", "not connected yet", clear=True))
        self.seq = 0
        self.number = 0
        self.last_ns = self.journaled_ns = spec.start_ns
        self.top = BookTop()
        self.counted: Mapping[str, int] = {}
        self._noted: Counter[str] = Counter()
        self._session_id = spec.session_id
        self._journal_path = journal_path
        self._on_gap = on_gap
        self._writer: JournalWriter | None = None
        self._lines: list[str] = []
        self._steps: deque[Callable[[], None]] = deque()
        self._unsent: deque[ClosedGap] = deque()
        self._notes: Counter[str] = Counter()
        # Texts of what comes again and again.
        self._tails: dict[str, str] = {}
        self._prices: dict[float, str] = {}
        self._second = -1
        self._prefix = ""
        self._seq_at_beat = self._seq_at_flush = 0
        self.max_lag_ms = 0.0
        self._must_sync = False
        self.is_unsynced = False
        self._begin(spec.start_ns)

    # --- what the session says -------------------------------------------------------------------------------------

    def message(self, item: Message) -> None:
        """Take one message of the book, in the codes of the wire."""
        _, ns, operation, side, level, price, size, market_maker = item
        # One that was stamped just before a sign of life and came after it must not go back in time.
        if ns < self.last_ns:  # noqa: PLR1730 - the call of max would cost a tenth of the whole
            ns = self.last_ns
        try:
            operation_word, side_word, words = _WORDS[operation, side]
            shares = round(size)
            price = float(price)
        except (KeyError, TypeError, ValueError, OverflowError):
            self.note("unreadable")
            return
        if not (0 <= shares <= _MOST and 0 <= level <= _MOST and -_INF < price < _INF):
            self.note("unreadable")
            return
        second = ns // _NS
        if second != self._second:
            self._new_second(second)
        tail = self._tails.get(market_maker) or self._new_tail(market_maker)
        price_text = self._prices.get(price) or self._new_price(price)
        fraction = "%09d" % (ns - second * _NS)  # noqa: UP031 - twice as fast as the format of an f-string
        self._lines.append(
            f'{self._prefix}{fraction}{words}{level}, "price": {price_text}, "size": {shares}{tail}{self.seq}}}\n'
        )
        self.seq += 1
        self.last_ns = ns
        self.book.apply(operation_word, side_word, level, price, shares)

    def lost(self, ns: int, cause: GapCause, detail: str, *, since_ns: int, clear: bool) -> None:
        """Take that the book is not, or not wholly, seen since a moment."""
        ns = max(ns, self.last_ns)
        since_ns = min(since_ns, ns)
        self._control("gap", ns, since_ns=since_ns, cause=cause, detail=detail, clear=clear)
        self._closed(self.gaps.lost(since_ns, cause, detail, clear=clear))
        if clear:
            self._clear(ns, cause)

    def seen(self, ns: int) -> None:
        """Take that the book is seen from a moment on."""
        if self.gaps.current is not None:
            ns = max(ns, self.last_ns)
            self._control("seen", ns)
            self._closed(self.gaps.seen(ns))

    def note(self, kind: str, count: int = 1) -> None:
        """Count something that is no message of the book."""
        self._notes[kind] += count

    def alive(self, ns: int) -> None:
        """Say that the recorder lives, unless a record since the last time says so."""
        if self.seq == self._seq_at_beat and ns > self.last_ns:
            self._control("alive", ns)
        self._seq_at_beat = self.seq

    # --- segments --------------------------------------------------------------------------------------------------

    def rotate(self, boundary_ns: int, on_closed: Callable[[str, int], None]) -> None:
        """End the segment at a moment and begin the next one.

        Args:
            boundary_ns: First moment of the next segment.
            on_closed: Called when the old segment can be published.
        """
        number = self.number
        self._end(boundary_ns)
        self.number += 1
        self._begin(boundary_ns)
        # Only now: until the next journal is there, the old one is all that tells of the session.
        self._steps.append(partial(on_closed, self.symbol, number))

    def end(self, end_ns: int, reason: str, on_closed: Callable[[str, int], None]) -> None:
        """End the session, and the hole that is open."""
        self._end(end_ns, reason=reason)
        self._closed(self.gaps.seen(end_ns))
        self._steps.append(partial(on_closed, self.symbol, self.number))

    def flush(self) -> bool:
        """Write what is waiting, in order.

        Returns:
            Whether there were records among it.

        Raises:
            StoreError: The disk refuses; what was not written waits for the next flush.
        """
        self._seal()
        while self._steps:
            self._steps[0]()
            self._steps.popleft()
        if self.seq == self._seq_at_flush:
            return False
        self._seq_at_flush = self.seq
        bid_prices, bid_sizes, ask_prices, ask_sizes = self.book.row()
        self.top = BookTop(bid_prices[0], bid_sizes[0], ask_prices[0], ask_sizes[0])
        self.counted = self._noted + self.book.anomalies
        return True

    def sync(self) -> None:
        """Flush what was written to the disk.

        Raises:
            StoreError: The disk refuses.
        """
        if self._must_sync and self._writer is not None:
            self.is_unsynced = True
            self._writer.sync()
            self.is_unsynced = self._must_sync = False

    def give_up(self, end_ns: int, detail: str) -> None:
        """Forget what could not be written; from the last moment that is in the journal on there is a hole."""
        last_ns = self.journaled_ns
        self._steps.clear()
        self._lines.clear()
        self.close()
        open_gap = GapState(self.gaps.current).cut(last_ns)
        for gap in (*self._unsent, *([] if open_gap is None else [open_gap])):
            if gap.start_ns < last_ns:
                self._on_gap(self.symbol, ClosedGap(gap.start_ns, min(gap.end_ns, last_ns), gap.cause, gap.detail))
        self._unsent.clear()
        self.gaps.current = None
        self._on_gap(self.symbol, ClosedGap(last_ns, max(end_ns, last_ns), "queue_drop", detail))

    def close(self) -> None:
        """Let go of the journal, whatever waits."""
        if self._writer is not None:
            self._writer.close()

    # --- lines -----------------------------------------------------------------------------------------------------

    def _control(self, control: str, ns: int, **more: object) -> None:
        self.last_ns = ns
        self._lines.append(json.dumps({"control": control, "ns": ns, **more}) + "\n")

    def _clear(self, ns: int, cause: GapCause) -> None:
        if ns // _NS != self._second:
            self._new_second(ns // _NS)
        for operation, side, level, price, size in self.book.clear():
            _, _, words = _words(operation, side)
            self._lines.append(
                f'{self._prefix}{ns % _NS:09d}{words}{level}, "price": {price!r}, "size": {size}, '
                f'"symbol": "{self.symbol}", "reset": "{cause}", "seq": {self.seq}}}\n'
            )
            self.seq += 1

    def _new_second(self, second: int) -> None:
        self._second = second
        self._prefix = f'{{"timestamp": "{utc_text(second * _NS)[:_SECOND_END]}'

    def _new_tail(self, market_maker: str) -> str:
        if len(self._tails) >= _MOST_TEXTS:
            self._tails.clear()
        maker = f', "market_maker": {json.dumps(market_maker)}' if market_maker else ""
        tail = self._tails[market_maker] = f', "symbol": "{self.symbol}"{maker}, "seq": '
        return tail

    def _new_price(self, price: float) -> str:
        if len(self._prices) >= _MOST_TEXTS:
            self._prices.clear()
        text = self._prices[price] = repr(price)
        return text

    def _closed(self, gap: ClosedGap | None) -> None:
        if gap is not None:
            self._seal()
            self._unsent.append(gap)
            self._steps.append(self._send_gap)

    # --- steps of a flush: each can be tried again after it failed --------------------------------------------------

    def _seal(self) -> None:
        if self._notes:
            for kind, count in self._notes.items():
                self._control("note", self.last_ns, kind=kind, count=count)
            self._noted.update(self._notes)
            self._notes.clear()
        if self._lines:
            self._steps.append(partial(self._write, self._lines, self.last_ns))
            self._lines = []

    def _write(self, lines: list[str], last_ns: int) -> None:
        if self._writer is None:
            raise RuntimeError(f"the journal of {self.symbol} is not open")
        self._writer.write(lines)
        self._must_sync = True
        self.journaled_ns = last_ns

    def _send_gap(self) -> None:
        self._on_gap(self.symbol, self._unsent[0])
        self._unsent.popleft()

    def _end(self, end_ns: int, **more: object) -> None:
        self._seal()
        self._control("end", end_ns, max_lag_ms=round(self.max_lag_ms, 3), **more)
        self._seal()
        self._steps.append(self._close)

    def _close(self) -> None:
        self.sync()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _begin(self, start_ns: int) -> None:
        bid, ask = self._book_rows()
        gap = self.gaps.current
        header: dict[str, Any] = {
            "session_id": self._session_id,
            "symbol": self.symbol,
            "number": self.number,
            "day": day_of(start_ns).isoformat(),
            "start_ns": start_ns,
            "seq": self.seq,
            "book": {"bid": bid, "ask": ask, "is_known": self.book.is_known},
            "gap": None if gap is None else gap.to_document(),
        }
        self._steps.append(partial(self._open, header))

    def _open(self, header: dict[str, Any]) -> None:
        self._writer = JournalWriter(self._journal_path(self.symbol, header["number"]), header)
        self._must_sync = False

    def _book_rows(self) -> tuple[list[list[float]], list[list[float]]]:
        """Return price and size of each row as the book has it, best first; `Book.row` leaves some out."""
        bid: list[list[float]] = []
        ask: list[list[float]] = []
        for _, side, _, price, size in copy.deepcopy(self.book).clear():
            (bid if side == "bid" else ask).insert(0, [price, size])
        return bid, ask

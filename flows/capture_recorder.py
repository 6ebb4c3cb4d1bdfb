"""The recorder of a live capture session: takes what the gateway says and loses none of it without saying so.

Whoever receives messages calls the methods of `DepthSink`, which do no more than put them into a bounded queue. The
writer thread journals them, keeps the books and rotates segments; what follows from that is in `capture_keeper`. What
was received and why something was not is decided in `connectors.ibkr.depth`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from connectors.store.errors import StoreError
from connectors.store.live import CaptureFolder
from flows.capture_keeper import Keeper
from flows.capture_spec import RecorderProgress, SessionResult, SymbolProgress, session_document
from flows.capture_tape import Tape
from flows.capture_time import next_boundary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from contracts.layout import DataRoot
    from contracts.v1.gaps import GapCause
    from flows.capture_spec import SessionSpec
    from flows.capture_tape import Message

_log = logging.getLogger(__name__)

GRACE_NS: Final = 100_000_000
"""What was stamped this long ago is in the queue: the clock alone ends segments and shows life only up to there."""

_WAKE_S: Final = 0.05
_BATCH: Final = 4096
_RETRY_S: Final = 0.2
_GIVE_UP_S: Final = 5.0
_NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class _Control:
    """What is no message: what to do with the tape of a symbol, and when; 0 is any time.

    Attributes:
        symbol: Which tape.
        ns: When it was told.
        since_ns: From when it holds; what holds only from the session's end on is nothing.
        act: What to do.
    """

    symbol: str
    ns: int
    since_ns: int
    act: Callable[[Tape, int], None]


class Recorder:
    """Records one session; implements `connectors.ibkr.depth.DepthSink`.

    The methods of the sink are called from one thread, with moments that never decrease. As a context manager it
    starts, and ends the session if nobody did.

    Args:
        root: The data root.
        spec: What the session is.
        now_ns: The clock that stamps the messages, nanoseconds since 1970 UTC; called from the writer thread too.
    """

    def __init__(self, root: DataRoot, spec: SessionSpec, *, now_ns: Callable[[], int]) -> None:
        self._spec = spec
        self._now_ns = now_ns
        self._folder = CaptureFolder(root, spec.session_id)
        self._keeper = Keeper(self._folder, spec, self._max_lag_of)
        self._queue: deque[Message | _Control] = deque()
        self._limit = spec.queue_messages
        self._notes: Counter[tuple[str, str]] = Counter()
        self._notes_lock = threading.Lock()
        self._tapes: dict[str, Tape] = {}
        self._closed: list[tuple[str, int]] = []
        self._boundary_ns = self._boundary_after(spec.start_ns)
        self._taken_ns = 0
        self._lag_ms = 0.0
        self._failed: str | None = None
        self._stuck_since_s: float | None = None
        self._beat_s = 0.0
        self._problems: list[str] = []
        self._stopping = threading.Event()
        self._end: tuple[int, str] = (spec.planned_end_ns, "interrupted")
        self._reasons: dict[str, str] = {}
        self._result: SessionResult | None = None
        self._resources = contextlib.ExitStack()
        self._writer = threading.Thread(target=self._run, name="capture-writer", daemon=True)

    # --- the session -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the session: its folder, the first journals and the first stats are on the disk when this returns.

        Raises:
            StoreError: The disk refuses, or a session of this id exists; nothing is left of this one.
        """
        with contextlib.ExitStack() as held:
            held.enter_context(self._folder.create(session_document(self._spec, self._folder.root)))
            try:
                for symbol in self._spec.symbols:
                    tape = self._tapes[symbol] = Tape(self._spec, symbol, self._folder.journal_path, self._keeper.gap)
                    tape.flush()
                self._keeper.start()
            except StoreError:
                self._undo_start()
                raise
            self._resources = held.pop_all()
        self._beat_s = time.monotonic()
        self._writer.start()

    def _undo_start(self) -> None:
        """Leave nothing behind that would look like a session that died."""
        self._keeper.undo_start()
        for tape in self._tapes.values():
            tape.close()
        with contextlib.suppress(StoreError, OSError):
            for file in self._folder.journals():
                file.path.unlink()
            self._folder.remove()

    def finish(self, end_ns: int, reason: str, reasons: Mapping[str, str] | None = None) -> SessionResult:
        """End the session: journal what waits, publish all, close what is open; blocks until all is on the disk.

        No method of the sink may be called meanwhile or later.

        Args:
            end_ns: When it ended: at most the planned end, and not before what was taken.
            reason: Why, in a few words.
            reasons: Why by symbol, for those of which something else is to be said.

        Returns:
            What it left. What could not be done stays in its folder, and `trading-data recover` does it later. Again
            gives the same.

        Raises:
            RuntimeError: It was not started.
        """
        if self._result is None:
            if not self._writer.ident:
                raise RuntimeError("the recorder was not started")
            self._end = min(end_ns, self._spec.planned_end_ns), reason
            self._reasons = dict(reasons or {})
            self._stopping.set()
            self._writer.join()
            self._result = self._keeper.finish(*self._end, self._problems, self._reasons)
            self._resources.close()
        return self._result

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(self._now_ns(), "interrupted" if kind is None else kind.__name__)

    # --- the sink --------------------------------------------------------------------------------------------------

    def message(
        self, symbol: str, ns: int, operation: int, side: int, level: int, price: float, size: float, market_maker: str
    ) -> bool:
        """Take one message in the codes of the wire: operation 0 add, 1 update, 2 remove; side 0 ask, 1 bid.

        Returns:
            False when the queue is full: the message was not taken.
        """
        queue = self._queue
        if len(queue) >= self._limit:
            return False
        queue.append((symbol, ns, operation, side, level, price, size, market_maker))
        return True

    def lost(self, symbol: str, ns: int, cause: GapCause, detail: str, *, since_ns: int, clear: bool) -> None:
        """Take that a book is not, or not wholly, seen from a moment on; always taken.

        Args:
            symbol: Which.
            ns: Now.
            cause: Why.
            detail: More for people.
            since_ns: Last moment that was seen.
            clear: Empty the book, with `remove` messages at `ns`.
        """

        def act(tape: Tape, at_ns: int) -> None:
            tape.lost(at_ns, cause, detail, since_ns=since_ns, clear=clear)

        self._queue.append(_Control(symbol, ns, since_ns, act))

    def seen(self, symbol: str, ns: int) -> None:
        """Take that a book is seen again from a moment on; always taken."""
        self._queue.append(_Control(symbol, ns, ns, Tape.seen))

    def note(self, symbol: str, kind: str) -> None:
        """Count an anomaly that is no message of the book; always taken."""
        key = symbol, kind
        with self._notes_lock:
            self._notes[key] += 1
            if self._notes[key] > 1:
                # One that waits counts for all: a gateway that is slow to obey must not fill the memory.
                return

        def act(tape: Tape, _: int) -> None:
            with self._notes_lock:
                count = self._notes.pop(key, 0)
            tape.note(kind, count)

        self._queue.append(_Control(symbol, 0, 0, act))

    def has_room(self) -> bool:
        """Tell whether at least half of the queue is free."""
        return 2 * len(self._queue) <= self._limit

    # --- how it does -----------------------------------------------------------------------------------------------

    @property
    def failed(self) -> str | None:
        """Why the journal cannot be written: the run must end; None while it can."""
        return self._failed

    def progress(self) -> RecorderProgress:
        """Return how it does at this moment; for any thread."""
        symbols = {}
        for symbol, tape in self._tapes.items():
            totals, gap = self._keeper.totals[symbol], tape.gaps.current
            symbols[symbol] = SymbolProgress(
                messages=tape.seq,
                top=tape.top,
                open_gap=None if gap is None else gap.cause,
                gaps=totals.gaps,
                segments=totals.segments,
                anomalies=tape.counted,
            )
        return RecorderProgress(
            symbols=symbols,
            queued=len(self._queue),
            messages=sum(shown.messages for shown in symbols.values()),
            lag_ms=self._lag_ms,
            max_lag_ms=max(map(self._max_lag_of, self._tapes), default=0.0),
            failed=self._failed,
        )

    def _max_lag_of(self, symbol: str) -> float:
        tape = self._tapes.get(symbol)
        return 0.0 if tape is None else tape.max_lag_ms

    # --- the writer thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self._turn()):
                pass
            self._drain_all()
        except Exception as error:  # noqa: BLE001 - the run must learn that nothing is recorded any more
            _log.exception("the recorder stops")
            self._fail(f"the recorder met an error of its own: {type(error).__name__}: {error}")
            self._stopping.wait()
            self._give_up()

    def _turn(self) -> float:
        """Do what there is to do; returns the seconds until the next turn."""
        if self._stuck_since_s is not None:
            # What waits must reach the journal before anything new is taken.
            return _WAKE_S if self._flush(None) else _RETRY_S
        # Read before the queue: what is not in it then was stamped later, or at most a moment before.
        settled_ns = self._now_ns() - GRACE_NS
        is_empty = self._take_batch()
        if is_empty:
            self._rotate_to(settled_ns)
        if self._is_beat_due():
            self._beat(max(settled_ns, self._taken_ns) if is_empty else self._taken_ns)
        return _WAKE_S if is_empty else 0.0

    def _take_batch(self) -> bool:
        """Journal what waits, up to a batch; returns whether the queue is empty now."""
        queue, tapes, planned_end_ns = self._queue, self._tapes, self._spec.planned_end_ns
        first_ns: int | None = None
        ns = 0
        is_empty = False
        for _ in range(_BATCH):
            try:
                item = queue.popleft()
            except IndexError:
                is_empty = True
                break
            if isinstance(item, tuple):
                ns = item[1]
                if ns >= self._boundary_ns:
                    self._rotate_to(ns)
                    if ns >= planned_end_ns:
                        continue
                tapes[item[0]].message(item)
                first_ns = first_ns or ns
            else:
                self._rotate_to(item.ns)
                if item.since_ns < planned_end_ns:
                    # A clock that jumped past the end tells afterwards of a hole before it.
                    item.act(tapes[item.symbol], min(item.ns, planned_end_ns - 1))
        self._taken_ns = max(self._taken_ns, ns)
        self._flush(first_ns)
        return is_empty

    def _flush(self, first_ns: int | None) -> bool:
        """Write what was journaled; returns whether the disk took it.

        Args:
            first_ns: Receipt of the oldest message among it.
        """
        error: StoreError | None = None
        written: list[Tape] = []
        for tape in self._tapes.values():
            try:
                if tape.flush():
                    written.append(tape)
            except StoreError as refused:
                error = refused
                if tape.is_unsynced:
                    # What such a disk has taken may be lost already: trying again could succeed and prove nothing.
                    self._fail(str(refused))
        if error is not None:
            self._stuck(error)
            return False
        self._stuck_since_s = None
        if self._closed:
            # Together, so that one child does them all.
            self._keeper.publish(self._closed)
            self._closed = []
        if first_ns is not None:
            self._lag_ms = max(0.0, (self._now_ns() - first_ns) / _NS_PER_MS)
            for tape in written:
                tape.max_lag_ms = max(tape.max_lag_ms, self._lag_ms)
        return True

    def _stuck(self, error: StoreError) -> None:
        now_s = time.monotonic()
        if self._stuck_since_s is None:
            self._stuck_since_s = now_s
            _log.warning("the journal waits: %s", error)
        elif now_s - self._stuck_since_s > _GIVE_UP_S:
            self._fail(str(error))

    def _fail(self, why: str) -> None:
        if self._failed is None:
            self._failed = why
            self._problems.append(why)

    def _is_beat_due(self) -> bool:
        return time.monotonic() - self._beat_s >= self._spec.flush_s

    def _beat(self, settled_ns: int) -> None:
        """Show life where nothing else did, and flush everything to the disk."""
        self._beat_s = time.monotonic()
        for tape in self._tapes.values():
            tape.alive(min(settled_ns, self._spec.planned_end_ns - 1))
        if self._flush(None):
            try:
                for tape in self._tapes.values():
                    tape.sync()
            except StoreError as error:
                # What such a disk has taken may be lost already: trying again could succeed and prove nothing.
                self._fail(str(error))

    def _rotate_to(self, ns: int) -> None:
        """End every segment that ends at or before a moment."""
        while self._boundary_ns <= ns and self._boundary_ns < self._spec.planned_end_ns:
            for tape in self._tapes.values():
                tape.rotate(self._boundary_ns, self._note_closed)
            self._boundary_ns = self._boundary_after(self._boundary_ns)

    def _note_closed(self, symbol: str, number: int) -> None:
        self._closed.append((symbol, number))

    def _boundary_after(self, ns: int) -> int:
        return min(next_boundary(ns, self._spec.rotate_minutes), self._spec.planned_end_ns)

    def _drain_all(self) -> None:
        if self._stuck_since_s is None or self._flush(None):
            while self._stuck_since_s is None and not self._take_batch():
                pass
        end_ns, reason = self._end
        # What was taken in the last nanosecond belongs to the session.
        end_ns = max(end_ns, *(tape.last_ns + 1 for tape in self._tapes.values()))
        self._end = end_ns, reason
        if self._stuck_since_s is None:
            self._rotate_to(end_ns - 1)
            for symbol, tape in self._tapes.items():
                tape.end(end_ns, self._reasons.get(symbol, reason), self._note_closed)
            if self._flush(None):
                return
        if self._failed is None:
            self._fail("the journal could not be written to its end")
        self._give_up()

    def _give_up(self) -> None:
        for tape in self._tapes.values():
            with contextlib.suppress(Exception):
                tape.flush()
            tape.give_up(self._end[0], self._failed or "")

"""What follows from the journal while a session goes on: gap records, published segments, the stats files.

All of it happens in one thread of the recorder, in the order in which the writer thread reports; segments are published
by a child process, one at a time. Nothing here can hold the writer up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from functools import partial
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING, Any, Final

from connectors.store.atomic import append_line
from connectors.store.errors import StoreError
from connectors.store.live import PublishedSegment, claim_stats, write_stats
from flows.capture_spec import SessionResult
from flows.capture_stats import Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connectors.store.live import CaptureFolder
    from flows.capture_gaps import ClosedGap
    from flows.capture_spec import SessionSpec

_log = logging.getLogger(__name__)

_MOST_AT_ONCE: Final = 32
_LONGEST_SILENCE_S: Final = 1800.0
_POLL_S: Final = 1.0
_NICENESS: Final = 10
_MOST_STRIKES: Final = 10
_ADVICE: Final = "Free the disk or put right what is named, then run `trading-data recover`."
_SHOWN: Final = 400

_Segment = tuple[str, int]


class Keeper:
    """Appends gap records, has segments published and keeps the stats of a session.

    Args:
        folder: The session, whose lock the caller holds.
        spec: What the session is.
        max_lag_ms: Asked for the longest time from receipt to journal of a symbol so far.

    Attributes:
        totals: By symbol.
    """

    def __init__(self, folder: CaptureFolder, spec: SessionSpec, max_lag_ms: Callable[[str], float]) -> None:
        self.totals = {symbol: Totals(symbol) for symbol in spec.symbols}
        self._folder = folder
        self._spec = spec
        self._max_lag_ms = max_lag_ms
        self._events: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._gaps: deque[tuple[str, ClosedGap]] = deque()
        self._waiting: deque[_Segment] = deque()
        self._child: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._doing: set[_Segment] = set()
        self._failed: dict[_Segment, str] = {}
        self._problems: dict[str, None] = {}
        self._heard_s = 0.0
        self._ending: tuple[int, str] | None = None
        self._reasons: Mapping[str, str] = {}
        self._retried = False
        self._thread = threading.Thread(target=self._run, name="capture-keeper", daemon=True)

    def start(self) -> None:
        """Write the first stats of every symbol, and begin.

        Raises:
            StoreError: The disk refuses.
        """
        for totals in self.totals.values():
            totals.stats_path = claim_stats(self._folder, totals.stats(self._spec))
        self._thread.start()

    def undo_start(self) -> None:
        """Remove the stats of a session that could not begin."""
        for totals in self.totals.values():
            if totals.stats_path is not None:
                with contextlib.suppress(OSError):
                    totals.stats_path.unlink()

    def gap(self, symbol: str, gap: ClosedGap) -> None:
        """Append a gap record; called when its end is journaled."""
        self._events.put(partial(self._take_gap, symbol, gap))

    def publish(self, segments: list[tuple[str, int]]) -> None:
        """Have segments published, each symbol and number; called when their journals are closed, after the gaps."""
        self._events.put(partial(self._waiting.extend, segments))

    def finish(self, end_ns: int, reason: str, problems: list[str], reasons: Mapping[str, str]) -> SessionResult:
        """Do all that is left, and wait for it.

        Args:
            end_ns: End of the session.
            reason: Why it ended.
            problems: What went wrong before.
            reasons: Why by symbol, where it is not `reason`.

        Returns:
            What the session left. What is not done yet stays in its folder, for the recovery.
        """
        self._problems.update(dict.fromkeys(problems))
        self._reasons = reasons
        self._events.put(partial(self._take_end, end_ns, reason))
        self._thread.join()
        return SessionResult(
            session_id=self._spec.session_id,
            symbols={symbol: totals.result(reasons.get(symbol, reason)) for symbol, totals in self.totals.items()},
            problems=tuple(self._problems),
        )

    # --- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        strikes = 0
        while strikes < _MOST_STRIKES:
            try:
                if self._is_done():
                    return
                try:
                    event = self._events.get(timeout=_POLL_S)
                except Empty:
                    event = self._watch
                event()
                self._write_gaps()
                self._start_child()
            except Exception as error:  # noqa: BLE001 - the session must come to its end
                _log.exception("the capture goes on, but its files may be incomplete")
                self._problems[f"an error of the recorder itself: {type(error).__name__}: {error}. {_ADVICE}"] = None
                strikes += self._ending is not None

    def _is_done(self) -> bool:
        if self._ending is None or self._child is not None or self._waiting:
            return False
        if self._failed and not self._retried and not self._gaps:
            self._retried = True
            self._waiting.extend(self._failed)
            self._failed.clear()
            self._start_child()
            return False
        self._end(*self._ending)
        return True

    def _take_gap(self, symbol: str, gap: ClosedGap) -> None:
        self._gaps.append((symbol, gap))

    def _take_end(self, end_ns: int, reason: str) -> None:
        self._ending = end_ns, reason
        known = {*self._waiting, *self._doing, *self._failed}
        try:
            # After a disk refused, journals can be there of which nobody reported.
            found = [(file.symbol, file.number) for file in self._folder.journals()]
        except StoreError as error:
            self._problems[str(error)] = None
        else:
            self._waiting.extend(segment for segment in found if segment not in known)

    def _write_gaps(self) -> None:
        while self._gaps:
            symbol, gap = self._gaps[0]
            try:
                append_line(self._folder.root.gaps, gap.record(symbol, self._spec.session_id).to_json_line())
            except StoreError as error:
                # Tried again with the next event; until then no journal that tells of it is removed.
                _log.warning("a gap record of %s waits: %s", symbol, error)
                break
            self._gaps.popleft()
            self.totals[symbol].gaps += 1
            self._write_stats(self.totals[symbol])

    def _write_stats(self, totals: Totals, ended_ns: int | None = None, end_reason: str | None = None) -> bool:
        totals.max_lag_ms = self._max_lag_ms(totals.symbol)
        if totals.stats_path is None:
            return False
        try:
            write_stats(totals.stats_path, totals.stats(self._spec, ended_ns=ended_ns, end_reason=end_reason))
        except StoreError as error:
            _log.warning("the stats of %s wait: %s", totals.symbol, error)
            if ended_ns is not None:
                self._problems[f"the stats of {totals.symbol} are not up to date: {error}"] = None
            return False
        return True

    # --- the child -------------------------------------------------------------------------------------------------

    def _start_child(self) -> None:
        if self._child is not None or not self._waiting:
            return
        if self._gaps:
            if self._ending is not None:
                self._fail_waiting("its gap records cannot be written")
            return
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_AT_ONCE))]
        root = self._folder.root
        try:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the child has ended
            self._child = subprocess.Popen(  # noqa: S603 - our own module
                [
                    *(sys.executable, "-P", "-m", "flows.capture_close"),
                    # At the end somebody waits, and nothing is captured that it could disturb.
                    str(_NICENESS if self._ending is None else 0),
                    *(str(root.path.absolute()), root.level2_dirname, self._spec.session_id),
                    *(f"{symbol}:{number}" for symbol, number in batch),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                # A Ctrl-C in the terminal is the recorder's to handle; what is being published is finished.
                start_new_session=True,
            )
        except OSError as error:
            if self._errors is not None:
                self._errors.close()
                self._errors = None
            self._failed.update(dict.fromkeys(batch, f"its process cannot be started: {error}"))
            return
        self._doing = set(batch)
        self._heard_s = time.monotonic()
        threading.Thread(target=self._listen, args=(self._child,), name="capture-child", daemon=True).start()

    def _listen(self, child: subprocess.Popen[bytes]) -> None:
        """Report the lines of a child, and its end, to the keeper's thread."""
        if child.stdout is not None:
            with child.stdout:
                for line in child.stdout:
                    self._events.put(partial(self._take_line, line))
        status = child.wait()
        self._events.put(partial(self._take_child_end, status))

    def _take_line(self, line: bytes) -> None:
        self._heard_s = time.monotonic()
        document: dict[str, Any] = json.loads(line)
        key = (document["symbol"], document["number"])
        self._doing.discard(key)
        if "error" in document:
            _log.warning("segment %d of %s waits in its journal: %s", key[1], key[0], document["error"])
            self._failed[key] = document["error"]
            return
        segment = PublishedSegment.from_document(document)
        if segment.torn is not None:
            self._problems[
                f"the journal of segment {segment.number} of {segment.symbol} was damaged: {segment.torn}"
            ] = None
        totals = self.totals[segment.symbol]
        totals.add(segment)
        self._write_stats(totals)

    def _take_child_end(self, status: int) -> None:
        said = ""
        if self._errors is not None:
            with self._errors as errors:
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip()[-_SHOWN:]
        self._child = self._errors = None
        if self._doing:
            reason = f"its process ended with status {status}" + (f": {said}" if said else "")
            _log.warning("%d segments wait in their journals: %s", len(self._doing), reason)
            self._failed.update(dict.fromkeys(sorted(self._doing), reason))
            self._doing = set()

    def _watch(self) -> None:
        if self._child is not None and time.monotonic() - self._heard_s > _LONGEST_SILENCE_S:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()

    # --- the end ---------------------------------------------------------------------------------------------------

    def _fail_waiting(self, reason: str) -> None:
        self._failed.update(dict.fromkeys(self._waiting, reason))
        self._waiting.clear()

    def _end(self, end_ns: int, reason: str) -> None:
        advice = _ADVICE
        for (symbol, number), why in self._failed.items():
            self._problems[f"segment {number} of {symbol} is not published, its journal is kept: {why} {advice}"] = None
        if self._gaps:
            self._problems[f"{len(self._gaps)} gap records are not written. {advice}"] = None
        has_stats = [
            self._write_stats(totals, end_ns, self._reasons.get(symbol, reason))
            for symbol, totals in self.totals.items()
        ]
        if all(has_stats) and not self._failed and not self._gaps:
            try:
                self._folder.remove()
            except StoreError as error:
                self._problems[str(error)] = None

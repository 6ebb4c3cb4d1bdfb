"""Load mode of the sandbox gateway: messages encoded beforehand, sent at an even pace, up to 20,000 a second and more.

A load is a cycle of operations that ends with the rows it began with, repeated as often as needed. Every few
milliseconds the messages that are due go out in one write, so that the client can have the processor.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final

from connectors.sandbox._ib_depth import SHORTEST_TICK_S
from connectors.sandbox._ib_market import Market, Rows, cycle, replayed
from connectors.sandbox._ib_records import SentBatch

if TYPE_CHECKING:
    import asyncio

    from connectors.sandbox._ib_depth import DepthLines, Subscription
    from connectors.sandbox._ib_records import Records

_LONGEST_CYCLE: Final = 20_000


class EncodedCycle:
    """A cycle of operations on a subscription, as bytes. Making it takes a quarter of a second, in any thread.

    Args:
        line: the subscription; its market is stepped.
        market: of the subscription.
        wanted: messages that are to be sent in all.
    """

    def __init__(self, line: Subscription, market: Market, wanted: int) -> None:
        self.begin = market.shown().inserts()
        self.operations = cycle(market, min(wanted, _LONGEST_CYCLE))
        frames = line.encode(self.operations)
        self.data = memoryview(b"".join(frames))
        self.ends = [0, *accumulate(map(len, frames))]

    def __len__(self) -> int:
        return len(self.operations)

    def rows_after(self, count: int, limit: int) -> Rows:
        """What a client that asked for `limit` rows holds after so many messages."""
        return replayed([*self.begin, *self.operations[: count % len(self)]], limit)


class Load:
    """One load, running on one subscription until all is sent or it is stopped.

    Attributes:
        sent: messages so far.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        lines: DepthLines,
        records: Records,
        line: Subscription,
        encoded: EncodedCycle,
        messages_per_s: float,
        total: int,
    ) -> None:
        self._loop = loop
        self._lines = lines
        self._records = records
        self._line = line
        self._encoded = encoded
        self._rate = messages_per_s
        self._total = total
        self.sent = 0
        self._began_s = loop.time()
        self._timer: asyncio.Handle | None = loop.call_soon(self._tick)

    def settle(self) -> None:
        """Make the rows of the subscription those its client must hold now."""
        self._line.rows = self._encoded.rows_after(self.sent, self._line.rows.limit)

    def stop(self) -> None:
        """No more messages; harmless when it has ended."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
            self.settle()
            self._line.load = None
            self._line.is_loading = False

    def _tick(self) -> None:
        now = self._loop.time()
        if not self._lines.is_flowing(self._line):
            self._began_s = now - self.sent / self._rate  # what was due meanwhile is not sent later
        due = min(self._total, int((now - self._began_s) * self._rate)) - self.sent
        if due > 0:
            self._write(due)
        if self.sent < self._total:
            self._timer = self._loop.call_later(SHORTEST_TICK_S, self._tick)
        else:
            self.stop()
            self._lines.start_flow(self._line)

    def _write(self, count: int) -> None:
        encoded, line, first = self._encoded, self._line, self.sent
        self.sent += count
        parts: list[memoryview] = []
        at = first % len(encoded)
        left = count
        while left:
            end = min(len(encoded), at + left)
            parts.append(encoded.data[encoded.ends[at] : encoded.ends[end]])
            left -= end - at
            at = end % len(encoded)

        def written(at_ns: int) -> None:
            self._records.batch(SentBatch(line.symbol, line.request_id, first, count, at_ns))

        line.session.write(b"".join(parts), written)

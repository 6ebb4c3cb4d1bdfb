"""A live capture a person can watch: a table on a terminal, a line every half minute elsewhere. All of it on stderr.

Whoever watches asks for a `CaptureStatus` from a thread of his own; nothing here can hold the capture up.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Watcher = Callable[[Callable[[], "CaptureStatus"]], AbstractContextManager[None]]
    """Watches a capture inside a `with` block; may ask for its status at any time and from any thread."""

logger = logging.getLogger(__name__)

LINE_EVERY_S: Final = 30.0
_DRAWN_PER_S: Final = 2.0
_RATE_OVER_S: Final = 5.0


@dataclass(frozen=True)
class SymbolStatus:
    """How one symbol stands.

    Attributes:
        symbol: canonical symbol.
        state: its line at the gateway, such as `live` or `queued`.
        messages: journaled so far.
        bid: best bid, None when there is none.
        ask: best ask, None when there is none.
        gap: cause of the gap that is open, None when the book is seen.
        segments: published so far.
    """

    symbol: str
    state: str
    messages: int
    bid: float | None
    ask: float | None
    gap: str | None
    segments: int


@dataclass(frozen=True)
class CaptureStatus:
    """How a capture stands.

    Attributes:
        symbols: in the order asked for.
        waiting: it has not begun, and perhaps waits for its window.
        queue: messages received and not yet journaled.
        lag_ms: longest time from receipt to journal lately.
        elapsed_s: since it started.
        left_s: until it ends.
        reconnects: connections made after the first.
    """

    symbols: tuple[SymbolStatus, ...]
    waiting: bool
    queue: int
    lag_ms: float
    elapsed_s: float
    left_s: float
    reconnects: int

    @property
    def messages(self) -> int:
        """Of all symbols."""
        return sum(row.messages for row in self.symbols)

    @property
    def share(self) -> float:
        """The part that is done, from 0 to 1."""
        whole_s = self.elapsed_s + self.left_s
        return min(1.0, self.elapsed_s / whole_s) if whole_s > 0 else 1.0


class Rates:
    """Messages per second, over the last few seconds."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._now = monotonic_s
        self._seen: dict[str, list[tuple[float, int]]] = {}

    def of(self, row: SymbolStatus) -> float:
        """The rate of a symbol, from this and earlier calls."""
        now = self._now()
        seen = self._seen.setdefault(row.symbol, [])
        while len(seen) > 1 and now - seen[1][0] >= _RATE_OVER_S:
            del seen[0]
        seen.append((now, row.messages))
        (first_s, first), (last_s, last) = seen[0], seen[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0


def describe(status: CaptureStatus, rates: Rates) -> str:
    """One line about a capture."""
    parts = []
    for row in status.symbols:
        gap = f", gap {row.gap}" if row.gap else ""
        parts.append(
            f"{row.symbol} {row.state} {row.messages} ({rates.of(row):.0f}/s) {_price(row.bid)}/{_price(row.ask)}{gap}"
        )
    return (
        f"{'not begun; ' if status.waiting else ''}{'; '.join(parts)}; queue {status.queue}, "
        f"lag {status.lag_ms:.0f} ms, {_clock(status.elapsed_s)} done, {_clock(status.left_s)} left, "
        f"{status.reconnects} reconnects"
    )


def rows(status: CaptureStatus, rates: Rates) -> list[dict[str, str]]:
    """One row per symbol, every cell a text, for a table of any kind."""
    return [
        {
            "symbol": row.symbol,
            "state": row.state,
            "messages": str(row.messages),
            "per second": f"{rates.of(row):.1f}",
            "bid": _price(row.bid),
            "ask": _price(row.ask),
            "open gap": row.gap or "",
            "segments": str(row.segments),
        }
        for row in status.symbols
    ]


def totals(status: CaptureStatus) -> str:
    """What is true of the capture as a whole, in one line."""
    begun = "not begun" if status.waiting else f"{_clock(status.elapsed_s)} done"
    return (
        f"{begun}, {_clock(status.left_s)} left; {status.messages} messages; queue {status.queue}, "
        f"lag {status.lag_ms:.0f} ms; {status.reconnects} reconnects"
    )


@contextmanager
def on_stderr(status: Callable[[], CaptureStatus], *, line_every_s: float = LINE_EVERY_S) -> Iterator[None]:
    """Show a capture on stderr, as a table that redraws itself or as log lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        with _repeating(_lines(status), line_every_s, "capture-lines"):
            yield
        return
    with Live(
        console=console,
        get_renderable=_drawing(status),
        refresh_per_second=_DRAWN_PER_S,
        redirect_stdout=False,
        transient=True,
    ):
        yield


def _drawing(status: Callable[[], CaptureStatus]) -> Callable[[], RenderableType]:
    rates = Rates()

    def draw() -> RenderableType:
        try:
            return _table(status(), rates)
        except Exception as error:  # noqa: BLE001 - rich draws in a thread of its own, where nobody would see it
            return Text(f"the progress of the capture cannot be shown; the capture goes on ({error})")

    return draw


def _lines(status: Callable[[], CaptureStatus]) -> Callable[[], None]:
    rates = Rates()
    return lambda: logger.info("%s", describe(status(), rates))


@contextmanager
def _repeating(action: Callable[[], None], every_s: float, name: str) -> Iterator[None]:
    """Do something again and again in a thread; its failures end nothing."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(every_s):
            try:
                action()
            except Exception as error:  # noqa: BLE001 - a line that cannot be shown is no reason to end anything
                logger.warning("the progress of the capture cannot be shown now, the capture goes on: %s", error)

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _table(status: CaptureStatus, rates: Rates) -> Group:
    table = Table(expand=False)
    cells = rows(status, rates)
    for name in cells[0] if cells else ():
        table.add_column(name, justify="left" if name in ("symbol", "state", "open gap") else "right", no_wrap=True)
    for cell in cells:
        table.add_row(*cell.values(), style="yellow" if cell["open gap"] else None)
    return Group(table, Text(totals(status)))


def _price(price: float | None) -> str:
    return "-" if price is None else f"{price:.10g}"


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"

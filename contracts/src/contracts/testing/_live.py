"""Builders of what a live capture leaves: depth messages, the snapshots they replay to, session stats, a gap record.

Nothing is written here. A capture is that of one symbol over one window: in its middle the recorder begins a new
segment, and after two thirds the broker resets the book.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from contracts.layout import Level2Name
from contracts.sessions import ET, parse_window
from contracts.testing._backfill import SAMPLE_DAY, SAMPLE_INTERVAL_MS, SAMPLE_WINDOW, sample_metadata
from contracts.timestamps import iso_utc_from_ns, ns_from_iso_utc
from contracts.v1.depth_messages import DepthMessage, DepthMessages, Operation, Side
from contracts.v1.gaps import Gap
from contracts.v1.level2 import DEFAULT_LEVELS
from contracts.v1.session_stats import SessionStats

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    import pyarrow as pa

LIVE_SYMBOL: Final = "MSFT"
"""The symbol of the live samples."""

LIVE_SEGMENTS: Final = (time(9, 30), time(9, 30, 30))
"""The stamps of the two segments of the live sample, ET wall clock."""

SESSION_ID: Final = "sample-live"

_NS: Final = 1_000_000_000
_EVERY_NS: Final = 100_000_000
_FIRST_NS: Final = 37_000_000
_STEP: Final = 30
_QUIET: Final = 10
_BEST_ASK_CENTS: Final = 50_000

_SIDES: Final[tuple[Side, Side]] = ("bid", "ask")

_Change = tuple[Operation, Side, int, int, int]
"""Operation, side, level, price in cents, size."""


@dataclass(frozen=True)
class Segment:
    """One rotated part of a capture.

    Attributes:
        day: The ET day.
        stamp: ET wall clock of the first row, whole seconds, as in the names of both files.
        messages: The messages received in its time.
        snapshots: The rows of its time; the first ones still show the book of the segment before.
    """

    day: date
    stamp: time
    messages: DepthMessages
    snapshots: pa.Table

    @cached_property
    def messages_text(self) -> str:
        """The content of the messages file."""
        return self.messages.to_json()

    @property
    def messages_name(self) -> Level2Name:
        """The name of the messages file."""
        return Level2Name("messages", self.day, self.stamp)

    @property
    def snapshots_name(self) -> Level2Name:
        """The name of the snapshots file."""
        return Level2Name("snapshots", self.day, self.stamp)


@dataclass(frozen=True)
class Capture:
    """Everything one capture session of one symbol leaves.

    Attributes:
        segments: Two parts, in time order.
        stats: The session's stats; the counts are those of the segments.
        stats_name: The name of the stats file.
        gap: The record of the second after the reset.
    """

    segments: tuple[Segment, ...]
    stats: SessionStats
    stats_name: Level2Name
    gap: Gap


def sample_messages(
    symbol: str = LIVE_SYMBOL, day: date = SAMPLE_DAY, *, window_et: str = SAMPLE_WINDOW, levels: int = DEFAULT_LEVELS
) -> DepthMessages:
    """Return the depth messages of a window as a broker sends them, every 100 ms one change.

    First the whole book; then sizes change and the price rises a cent every three seconds, and falls from the middle of
    the window on. After two thirds of the window the broker resets the book: it is removed, nothing comes for one
    second, and the whole book comes again. `sample_gap` is the record of that second.

    Args:
        symbol: Canonical symbol.
        day: The ET day.
        window_et: ET wall clock of the messages, `HH:MM-HH:MM`; 600 and some messages per minute.
        levels: Levels per side.
    """
    start, end = parse_window(window_et).bounds_ns(day)
    timed = list(_timed_changes(start, end, levels))
    texts = iso_utc_from_ns(np.array([ns for ns, _ in timed], np.int64)).to_pylist()
    return DepthMessages(
        tuple(
            DepthMessage(
                timestamp=text,
                operation=operation,
                side=side,
                level=level,
                price=cents / 100,
                size=size,
                symbol=symbol,
            )
            for text, (_, (operation, side, level, cents, size)) in zip(texts, timed, strict=True)
        )
    )


def sample_gap(symbol: str = LIVE_SYMBOL, day: date = SAMPLE_DAY, *, window_et: str = SAMPLE_WINDOW) -> Gap:
    """Return the record of the hole in `sample_messages` of the same arguments."""
    start, end = parse_window(window_et).bounds_ns(day)
    reset = _reset(start, end)
    hole = np.array([_message_ns(start, reset), _message_ns(start, reset + _QUIET)], np.int64)
    gap_start, gap_end = iso_utc_from_ns(hole).to_pylist()
    return Gap(
        symbol=symbol,
        session_id=SESSION_ID,
        gap_start=gap_start,
        gap_end=gap_end,
        cause="reset_317",
        detail="error 317, the book was sent again",
    )


def sample_session_stats(
    segments: Sequence[Segment],
    *,
    symbol: str = LIVE_SYMBOL,
    window_et: str = SAMPLE_WINDOW,
    levels: int = DEFAULT_LEVELS,
    interval_ms: int = SAMPLE_INTERVAL_MS,
) -> SessionStats:
    """Return the stats of a session that left these segments, at least one, and one gap record."""
    started_at, ended_at = parse_window(window_et).bounds_utc(segments[0].day)
    names = [name.filename for one in segments for name in (one.messages_name, one.snapshots_name)]
    return SessionStats(
        symbol=symbol,
        levels=levels,
        interval_ms=interval_ms,
        num_snapshots=sum(one.snapshots.num_rows for one in segments),
        num_messages=sum(len(one.messages.root) for one in segments),
        paper_mode=True,
        recording_date=started_at,
        session_id=SESSION_ID,
        files=tuple(sorted(names)),
        started_at=started_at,
        ended_at=ended_at,
        end_reason="duration",
        gaps=1,
        anomalies={},
        max_lag_ms=0.4,
    )


def sample_capture(
    symbol: str = LIVE_SYMBOL,
    day: date = SAMPLE_DAY,
    *,
    window_et: str = SAMPLE_WINDOW,
    levels: int = DEFAULT_LEVELS,
    interval_ms: int = SAMPLE_INTERVAL_MS,
) -> Capture:
    """Return a capture of `sample_messages`, its snapshots replayed by `contracts.book`.

    Args:
        symbol: Canonical symbol.
        day: The ET day.
        window_et: ET wall clock of the capture, `HH:MM-HH:MM`; the second segment begins in its middle.
        levels: Levels per side.
        interval_ms: Milliseconds between snapshots; 0 is one per message.
    """
    from contracts.book import replay  # noqa: PLC0415 - samples of a backfill need no book

    start, end = parse_window(window_et).bounds_ns(day)
    metadata = sample_metadata(symbol, day, window_et=window_et, levels=levels, interval_ms=interval_ms, source="ibkr")
    messages = sample_messages(symbol, day, window_et=window_et, levels=levels).root
    table = replay(messages, levels, interval_ms, start_ns=start, end_ns=end)
    table = table.replace_schema_metadata(metadata.to_footer())
    rows_ns = ns_from_iso_utc(table.column("timestamp"))
    middle = (start + end) // 2
    at_row = int(np.searchsorted(rows_ns, middle))
    boundary = iso_utc_from_ns(np.array([middle], np.int64))[0].as_py()
    at_message = sum(message.timestamp < boundary for message in messages)
    segments = tuple(
        Segment(day, _stamp(begin), DepthMessages(part), rows)
        for begin, part, rows in (
            (start, messages[:at_message], table.slice(0, at_row)),
            (middle, messages[at_message:], table.slice(at_row)),
        )
    )
    stats = sample_session_stats(segments, symbol=symbol, window_et=window_et, levels=levels, interval_ms=interval_ms)
    stats_name = Level2Name("session_stats", day, _stamp(start))
    return Capture(segments, stats, stats_name, sample_gap(symbol, day, window_et=window_et))


def _timed_changes(start: int, end: int, levels: int) -> Iterator[tuple[int, _Change]]:
    """Yield nanoseconds and change; what belongs to one event of the market stands a microsecond apart."""
    reset = _reset(start, end)
    best_ask, is_known = _BEST_ASK_CENTS, False
    for number in range(_count(start, end)):
        ns = _message_ns(start, number)
        changes: list[_Change]
        if reset <= number < reset + _QUIET:
            changes = [("remove", side, 0, 0, 0) for side in _SIDES for _ in range(levels)] if is_known else []
            is_known = False
        elif not is_known:
            changes = [("add", "bid", level, best_ask - 1 - level, 100 * (level + 1)) for level in range(levels)]
            changes += [("add", "ask", level, best_ask + level, 100 * (level + 1)) for level in range(levels)]
            is_known = True
        elif number % _STEP:
            level = number % _STEP // 2 % levels
            size = 100 * (1 + number * 7 % 9)
            is_bid = number % 2 == 1
            price = best_ask - 1 - level if is_bid else best_ask + level
            changes = [("update", "bid" if is_bid else "ask", level, price, size)]
        elif ns < (start + end) // 2:
            changes = [
                ("remove", "ask", 0, 0, 0),
                ("add", "bid", 0, best_ask, 100),
                ("add", "ask", levels - 1, best_ask + levels, 100),
            ]
            best_ask += 1
        else:
            changes = [
                ("remove", "bid", 0, 0, 0),
                ("add", "ask", 0, best_ask - 1, 100),
                ("add", "bid", levels - 1, best_ask - 1 - levels, 100),
            ]
            best_ask -= 1
        for late, change in enumerate(changes):
            yield ns + 1000 * late, change


def _count(start: int, end: int) -> int:
    return (end - start) // _EVERY_NS


def _message_ns(start: int, number: int) -> int:
    # The last digits differ, as those of a clock do.
    return start + _FIRST_NS + number * _EVERY_NS + number * 137 % 1000


def _reset(start: int, end: int) -> int:
    return _count(start, end) * 2 // 3


def _stamp(ns: int) -> time:
    return datetime.fromtimestamp(ns // _NS, UTC).astimezone(ET).time()

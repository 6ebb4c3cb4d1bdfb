"""Whatever a gateway says, the files tell it: held against a little book and rules of gaps of the test's own."""

from __future__ import annotations

import json
import math
import random
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.layout import DataRoot
from contracts.validate import validate_path
from flows.capture_keeper import Keeper
from flows.capture_recorder import Recorder
from flows.capture_recover import recover
from flows.capture_spec import BookTop, SessionSpec

S = 10**9
# Where there is such a disk, flushing it costs nothing.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder of its own is made in it
ET = ZoneInfo("America/New_York")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SYMBOLS = ("AAPL", "BRK-B")
OPERATIONS = ("add", "update", "remove")
SIDES = ("ask", "bid")


def at(text: str) -> int:
    """Nanoseconds of a wall clock in New York."""
    moment = datetime.fromisoformat(text).replace(tzinfo=ET)
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000


def text_of(ns: int) -> str:
    return f"{(EPOCH + timedelta(seconds=ns // S)):%Y-%m-%dT%H:%M:%S}.{ns % S:09d}+00:00"


@dataclass
class Truth:
    """What the files of a symbol must say, worked out here alone."""

    levels: int
    start_ns: int
    sides: dict = field(default_factory=lambda: {"bid": [], "ask": []})
    is_known: bool = False
    records: list = field(default_factory=list)
    books: list = field(default_factory=list)  # (ns, shown book or None), one per record that changed the book
    gaps: list = field(default_factory=list)
    open: tuple | None = None
    anomalies: Counter = field(default_factory=Counter)

    def __post_init__(self):
        self.open = (self.start_ns, "connect", True)

    def message(self, ns, code, side_code, level, price, size, maker):
        operation, side, shares = OPERATIONS[code], SIDES[side_code], round(size)
        record = {"operation": operation, "side": side, "level": level, "price": price, "size": shares}
        self._put(ns, record, {"market_maker": maker} if maker else {})
        rows = self.sides[side]
        if operation == "add":
            possible, kind = level <= len(rows), "add_hole"
        elif operation == "update":
            possible, kind = level <= len(rows), "update_missing"
        else:
            possible, kind = level < len(rows), "remove_missing"
        if level >= self.levels or not possible:
            self.anomalies["beyond_levels" if level >= self.levels else kind] += 1
            return
        if operation == "remove":
            rows.pop(level)
        elif operation == "add":
            rows.insert(level, (price, shares))
        else:
            rows[level : level + 1] = [(price, shares)]
        del rows[self.levels :]
        self._changed(ns)

    def lost(self, ns, cause, since_ns, clear):
        since_ns = min(since_ns, ns)
        start_ns, old, was_cleared = self.open or (None, None, None)
        if old is None:
            self.open = (since_ns, cause, clear)
        elif old == "disconnect" and not was_cleared:
            self.open = (start_ns, cause, clear)
        else:
            end_ns = max(start_ns, since_ns)
            if end_ns > start_ns:
                self.gaps.append((start_ns, end_ns, old))
            self.open = (end_ns, cause, clear)
        if clear:
            for side in ("bid", "ask"):
                rows = self.sides[side]
                while rows:
                    price, size = rows[-1]
                    record = {"operation": "remove", "side": side, "level": len(rows) - 1, "price": price, "size": size}
                    self._put(ns, record, {"reset": cause})
                    rows.pop()
                    self._changed(ns)

    def seen(self, ns):
        if self.open is not None:
            self.gaps.append((self.open[0], max(ns, self.open[0]), self.open[1]))
            self.open = None

    def rows(self, interval_ms, end_ns):
        """Time and book of every row."""
        if not interval_ms:
            return [row for row in self.books if row[0] < end_ns]
        found, waiting, book = [], iter(self.books), None
        following = next(waiting, None)
        # Every day has a grid of its own: it begins with the window, which is told in minutes.
        first_ns, begins_ns = self.start_ns // (60 * S) * (60 * S), self.start_ns
        if f"{datetime.fromtimestamp(begins_ns // S, ET):%H:%M}" == "23:59":
            # A window cannot begin where the last one ends.
            first_ns -= 60 * S
        while begins_ns < end_ns:
            midnight_ns = at(f"{datetime.fromtimestamp(begins_ns // S, ET).date() + timedelta(days=1)}T00:00")
            for ns in range(first_ns, min(end_ns, midnight_ns), interval_ms * 1_000_000):
                while following is not None and following[0] <= ns:
                    book, following = following[1], next(waiting, None)
                if book is not None and ns >= begins_ns:
                    found.append((ns, book))
            first_ns = begins_ns = midnight_ns
        return found

    def _put(self, ns, record, more):
        self.records.append((ns, {"timestamp": text_of(ns), **record, **more, "seq": len(self.records)}))

    def _changed(self, ns):
        self.is_known = True
        shown = {}
        for side, rows in self.sides.items():
            full = [row for row in rows if row[0] and row[1]]
            full += [(0.0, 0)] * (self.levels - len(full))
            shown[side] = ([price for price, _ in full], [size for _, size in full])
        self.books.append((ns, shown))


def wait_for(condition, timeout_s=30.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to that in time"
        time.sleep(0.01)


class Clock:
    def __init__(self, ns):
        self.ns = ns

    def __call__(self):
        return self.ns


def without_children(recorder: Recorder) -> None:
    """End a session as a recorder does that dies when all is journaled; the rest is done by the recovery."""
    recorder._stopping.set()
    recorder._writer.join()
    recorder._resources.close()


class IdleKeeper(Keeper):
    """Leaves everything to the recovery, which publishes in this process and so many times faster."""

    def start(self):
        self._thread.start = lambda: None
        super().start()


def record(root, spec, events, *, finish, clock=None):
    """Put events through a recorder; returns the truth of each symbol and where the session ended."""
    clock = clock or Clock(spec.start_ns)
    truths = {symbol: Truth(spec.levels, spec.start_ns) for symbol in spec.symbols}
    recorder = Recorder(DataRoot(root), spec, now_ns=clock)
    if not finish:
        recorder._keeper = IdleKeeper(recorder._folder, spec, recorder._max_lag_of)
    recorder.start()
    for event in events:
        kind, symbol, later_ns, *rest = event
        clock.ns += later_ns
        truth = truths[symbol]
        if kind == "message":
            assert recorder.message(symbol, clock.ns, *rest)
            truth.message(clock.ns, *rest)
        elif kind == "lost":
            cause, back_ns, clear = rest
            recorder.lost(symbol, clock.ns, cause, "as told", since_ns=clock.ns - back_ns, clear=clear)
            truth.lost(clock.ns, cause, clock.ns - back_ns, clear)
        elif kind == "seen":
            recorder.seen(symbol, clock.ns)
            truth.seen(clock.ns)
        else:
            recorder.note(symbol, "late")
            truth.anomalies["late"] += 1
    end_ns = clock.ns + 1
    if finish:
        result = recorder.finish(end_ns, "duration")
        assert result.problems == ()
    else:
        recorder._end = end_ns, "duration"
        without_children(recorder)
        (recovered,) = recover(DataRoot(root), now_ns=clock)
        assert recovered.problems == ()
    for truth in truths.values():
        truth.seen(end_ns)
    return truths, end_ns


def segment_of(ns, spec):
    """Which segment a moment belongs to."""
    day = datetime.fromtimestamp(ns // S, ET).date()
    return day, (ns - at(f"{day}T00:00")) // round(spec.rotate_minutes * 60 * S)


def check(root, spec, truths, end_ns):
    """Hold all files of a session against the truth."""
    report = validate_path(root)
    assert [finding for finding in report.findings if finding.severity == "error"] == []
    gaps = defaultdict(list)
    if (root / "l2_gaps.jsonl").exists():
        for line in (root / "l2_gaps.jsonl").read_text().splitlines():
            gap = json.loads(line)
            gaps[gap["symbol"]].append((gap["gap_start"], gap["gap_end"], gap["cause"]))
    for symbol, truth in truths.items():
        folder = root / "level2" / symbol
        (stats_path,) = folder.glob("session_stats_*.json")
        stats = json.loads(stats_path.read_text())
        messages = {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*_messages_*.json"))}
        snapshots = {path.name: pq.read_table(path) for path in sorted(folder.glob("*_snapshots_*.parquet"))}
        expected = [{**said, "symbol": symbol} for _, said in truth.records]
        assert [message for name in messages for message in messages[name]] == expected
        rows = truth.rows(spec.interval_ms, end_ns)
        written = [row for name in snapshots for row in snapshots[name].to_pylist()]
        assert [row["timestamp"] for row in written] == [text_of(ns) for ns, _ in rows]
        for row, (_, book) in zip(written, rows, strict=True):
            assert (row["bid_prices"], row["bid_sizes"]) == book["bid"]
            assert (row["ask_prices"], row["ask_sizes"]) == book["ask"]
        # One segment, one pair of files, each with what belongs to its time.
        parts = {segment_of(ns, spec) for ns, _ in (*truth.records, *rows)}
        assert len(messages) == len(parts)
        for part, records in zip(sorted(parts), messages.values(), strict=True):
            assert len(records) == sum(segment_of(ns, spec) == part for ns, _ in truth.records)
        assert gaps[symbol] == [(text_of(start), text_of(end), cause) for start, end, cause in truth.gaps]
        assert stats["num_messages"] == len(expected)
        assert stats["num_snapshots"] == len(rows)
        assert sorted(stats["files"]) == sorted([*messages, *snapshots])
        assert stats["gaps"] == len(truth.gaps)
        assert stats["anomalies"] == dict(truth.anomalies)
        assert stats["end_reason"] == "duration"
    assert not (root / ".capture" / spec.session_id).exists()


@st.composite
def sessions(draw, most_events=30):
    """A session and what happens in it; times are told in parts of a segment."""
    rotate_minutes = draw(st.sampled_from([0.05, 1 / 30, 0.1]))
    length_ns = round(rotate_minutes * 60 * S)
    start_ns = at(draw(st.sampled_from(["2025-09-04T09:30:00", "2025-09-04T09:30:59.9", "2025-09-04T23:59:55"])))
    levels = draw(st.sampled_from([1, 2, 3, 20]))
    spec = SessionSpec(
        session_id="s-1",
        symbols=SYMBOLS[: draw(st.integers(1, 2))],
        levels=levels,
        interval_ms=draw(st.sampled_from([0, 100, 700, 1000])),
        start_ns=start_ns + draw(st.sampled_from([0, 123_456_789])),
        planned_end_ns=start_ns + 3600 * S,
        paper_mode=True,
        producer="test 1",
        rotate_minutes=rotate_minutes,
        flush_s=draw(st.sampled_from([0.001, 1])),
    )
    later = st.sampled_from(
        [0, 0, 1, 1_000_000, 100_000_000, 250_000_000, length_ns // 3, length_ns, 2 * length_ns + 1]
    )
    level = st.integers(0, min(levels + 1, 4))
    message = st.tuples(
        st.just("message"),
        st.sampled_from(spec.symbols),
        later,
        st.sampled_from([0, 0, 1, 2]),
        st.integers(0, 1),
        level,
        st.sampled_from([100.0, 100.01, 99.5, 0.0001, 230.0]),
        st.sampled_from([100.0, 100.5, 101.5, 3e9, 0.0, 2.0**53]),
        st.sampled_from(["", "ARCA", 'A"\\']),
    )
    causes = st.sampled_from(["disconnect", "data_lost", "reset_317", "halt_316", "queue_drop", "clock"])
    back = st.sampled_from([0, 1, 500_000_000, 5 * S])
    lost = st.tuples(st.just("lost"), st.sampled_from(spec.symbols), later, causes, back, st.booleans())
    seen = st.tuples(st.just("seen"), st.sampled_from(spec.symbols), later)
    note = st.tuples(st.just("note"), st.sampled_from(spec.symbols), st.just(0))
    event = st.one_of(*[message] * 6, lost, lost, seen, note)
    return spec, draw(st.lists(event, min_size=draw(st.sampled_from([0, 15])), max_size=most_events))


@given(session=sessions())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_files_tell_whatever_the_gateway_said(session):
    spec, events = session
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        truths, end_ns = record(Path(folder), spec, events, finish=False)
        check(Path(folder), spec, truths, end_ns)


def make_spec(start="2025-09-04T09:30:00", **changed):
    start_ns = at(start) if isinstance(start, str) else start
    told = {
        "session_id": "s-1",
        "symbols": ("AAPL",),
        "levels": 3,
        "interval_ms": 100,
        "start_ns": start_ns,
        "planned_end_ns": start_ns + 3600 * S,
        "paper_mode": True,
        "producer": "test 1",
        "rotate_minutes": 0.05,
    }
    return SessionSpec(**{**told, **changed})


def add(symbol, later_ns, side, level, price, size=100.0, maker="ARCA"):
    return ("message", symbol, later_ns, 0, side, level, price, size, maker)


@pytest.mark.parametrize("interval_ms", [0, 100, 700, 1000])
def test_a_session_over_midnight_has_files_of_both_days(tmp_path, interval_ms):
    spec = make_spec("2025-09-04T23:59:55", interval_ms=interval_ms)
    events = [("seen", "AAPL", 0), add("AAPL", S // 10, 1, 0, 100.0), add("AAPL", 9 * S, 0, 0, 100.5)]
    truths, end_ns = record(tmp_path, spec, events, finish=False)
    check(tmp_path, spec, truths, end_ns)
    days = {path.name[:10] for path in tmp_path.glob("level2/AAPL/*.json") if path.name[0] == "2"}
    assert "2025-09-05" in days
    # With a row for every message alone, the first day is told by its one message.
    assert "2025-09-04" in days


def test_quiet_segments_go_on_with_the_last_book(tmp_path):
    """Rows without messages: the book of the segment before, under an empty messages file."""
    spec = make_spec(rotate_minutes=0.05)
    events = [("seen", "AAPL", 0), add("AAPL", S, 1, 0, 100.0), ("note", "AAPL", 10 * S)]
    truths, end_ns = record(tmp_path, spec, events, finish=False)
    check(tmp_path, spec, truths, end_ns)
    files = sorted(tmp_path.glob("level2/AAPL/*_messages_*"))
    assert [path.name[-11:-5] for path in files] == ["093001", "093003", "093006", "093009"]
    assert [path.read_text() for path in files[1:]] == ["[]\n"] * 3


@pytest.mark.parametrize("interval_ms", [0, 100])
def test_a_message_at_the_boundary_belongs_to_the_next_segment(tmp_path, interval_ms):
    events = [
        *[("seen", "AAPL", 0), add("AAPL", S, 1, 0, 100.0), add("AAPL", 2 * S - 1, 1, 0, 101.0)],
        *[add("AAPL", 1, 1, 0, 102.0), add("AAPL", 0, 0, 0, 103.0)],
    ]
    spec = make_spec(interval_ms=interval_ms)
    truths, end_ns = record(tmp_path, spec, events, finish=False)
    check(tmp_path, spec, truths, end_ns)
    files = sorted(tmp_path.glob("level2/AAPL/*_messages_*"))
    assert [len(json.loads(path.read_text())) for path in files] == [2, 2]


def test_rows_that_snapshots_cannot_show_keep_their_place_over_a_boundary(tmp_path):
    """A size of 0 is no level in a file, but later messages count on its row."""
    events = [
        *[
            ("seen", "AAPL", 0),
            add("AAPL", S, 1, 0, 100.0),
            add("AAPL", 0, 1, 1, 99.0, 0.0),
            add("AAPL", 0, 1, 2, 98.0),
        ],
        ("message", "AAPL", 3 * S, 2, 1, 2, 0.0, 0.0, ""),
    ]
    spec = make_spec()
    truths, end_ns = record(tmp_path, spec, events, finish=False)
    check(tmp_path, spec, truths, end_ns)
    assert truths["AAPL"].anomalies == {}


def test_a_book_that_was_emptied_stays_known_in_the_next_segment(tmp_path):
    events = [
        *[("seen", "AAPL", 0), add("AAPL", S, 1, 0, 100.0)],
        ("lost", "AAPL", S, "reset_317", 0, True),
        ("seen", "AAPL", 6 * S),
    ]
    spec = make_spec()
    truths, end_ns = record(tmp_path, spec, events, finish=False)
    check(tmp_path, spec, truths, end_ns)
    assert len(list(tmp_path.glob("level2/AAPL/*_snapshots_*"))) == 3


def test_a_session_without_messages_leaves_stats_and_the_gap(tmp_path):
    spec = make_spec(symbols=("AAPL", "MSFT"))
    truths, end_ns = record(tmp_path, spec, [("seen", "AAPL", 20 * S)], finish=True)
    check(tmp_path, spec, truths, end_ns)
    assert [path.name for path in (tmp_path / "level2" / "MSFT").iterdir()] == ["session_stats_20250904_093000.json"]


def random_events(seed, symbols, count):
    source = random.Random(seed)  # noqa: S311 - not for secrets
    for number in range(count):
        symbol = source.choice(symbols)
        if source.random() < 0.03:
            yield ("lost", symbol, 1, source.choice(["disconnect", "reset_317"]), source.randrange(S), number % 2 == 0)
        elif source.random() < 0.05:
            yield ("seen", symbol, 1)
        else:
            price = 100 + source.randrange(100) / 100
            yield (
                *("message", symbol, source.randrange(40_000_000), source.choice([0, 1, 1, 2])),
                *(source.randrange(2), source.randrange(4), price, float(source.randrange(1, 9) * 100), "ARCA"),
            )


def test_the_recorder_and_the_recovery_write_the_same_files(tmp_path):
    """With its child processes the recorder does what the recovery does from the journals."""
    spec = make_spec(symbols=("AAPL", "MSFT"))
    events = list(random_events(7, spec.symbols, 800))
    found = []
    for name, finish in (("one", True), ("two", False)):
        root = tmp_path / name
        truths, end_ns = record(root, spec, events, finish=finish)
        check(root, spec, truths, end_ns)
        files = {
            path.relative_to(root): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and ".capture" not in path.parts and "session_stats" not in path.name
        }
        gaps = files.pop(Path("l2_gaps.jsonl"))
        found.append((files, sorted(gaps.splitlines())))
    assert found[0] == found[1]
    assert len(found[0][0]) == 20


def test_two_recorders_in_one_second_keep_apart(tmp_path):
    root = DataRoot(tmp_path)
    clock = Clock(at("2025-09-04T09:30:00.2"))
    specs = [make_spec(clock.ns, session_id=name) for name in ("one", "two")]
    with ExitStack() as both:
        recorders = [both.enter_context(Recorder(root, spec, now_ns=clock)) for spec in specs]
        truths = [Truth(spec.levels, spec.start_ns) for spec in specs]
        for _ in range(200):
            clock.ns += 20_000_000
            for number, (recorder, truth) in enumerate(zip(recorders, truths, strict=True)):
                recorder.seen("AAPL", clock.ns)
                truth.seen(clock.ns)
                assert recorder.message("AAPL", clock.ns, 0, 1, 0, 100.0 + number, 100.0, "")
                truth.message(clock.ns, 0, 1, 0, 100.0 + number, 100.0, "")
        results = [recorder.finish(clock.ns + 1, "duration") for recorder in recorders]
    assert validate_path(tmp_path).ok
    assert [result.problems for result in results] == [(), ()]
    assert sorted(path.name for path in tmp_path.glob("level2/AAPL/session_stats_*")) == [
        "session_stats_20250904_093000.json",
        "session_stats_20250904_093001.json",
    ]
    for result, truth in zip(results, truths, strict=True):
        left = result.symbols["AAPL"]
        files = sorted(name for name in left.files if name.endswith(".json"))
        written = [message for name in files for message in json.loads((tmp_path / "level2/AAPL" / name).read_text())]
        assert written == [{**said, "symbol": "AAPL"} for _, said in truth.records]
        assert left.messages == 200


def test_stats_and_files_agree_while_the_session_goes_on(tmp_path):
    clock = Clock(at("2025-09-04T09:30:00"))
    with Recorder(DataRoot(tmp_path), make_spec(), now_ns=clock) as recorder:
        (stats_path,) = tmp_path.glob("level2/AAPL/session_stats_*.json")
        first = json.loads(stats_path.read_text())
        assert (first["num_messages"], first["num_snapshots"], first["files"]) == (0, 0, [])
        assert "ended_at" not in first
        recorder.seen("AAPL", clock.ns)
        for number in range(10):
            clock.ns += S // 10
            recorder.message("AAPL", clock.ns, 0, number % 2, 0, 100.0, 100.0, "")
        clock.ns += 10 * S
        # The clock alone ends a segment.
        wait_for(lambda: recorder.progress().symbols["AAPL"].segments == 3)
        wait_for(lambda: json.loads(stats_path.read_text())["num_snapshots"] == 89)
        now = json.loads(stats_path.read_text())
        assert (now["num_messages"], now["gaps"], len(now["files"])) == (10, 1, 6)
        assert validate_path(tmp_path).findings == []
        shown = recorder.progress()
        assert (shown.messages, shown.queued, shown.failed) == (10, 0, None)
        assert shown.symbols["AAPL"].top == BookTop(100.0, 100, 100.0, 100)
        assert shown.symbols["AAPL"].open_gap is None
        # Somebody else's recovery leaves a living session alone.
        assert recover(DataRoot(tmp_path), now_ns=clock) == []
        result = recorder.finish(clock.ns, "window")
    assert json.loads(stats_path.read_text())["end_reason"] == "window"
    assert result.symbols["AAPL"].stats_path == stats_path


def test_messages_that_no_file_can_hold_are_counted(tmp_path):
    clock = Clock(at("2025-09-04T09:30:00"))
    odd = [
        *[(0, 0, 0, math.nan, 1.0), (0, 0, 0, math.inf, 1.0), (0, 0, 0, 1.0, math.nan), (0, 0, 0, 1.0, math.inf)],
        *[(0, 0, 0, 1.0, -1.0), (0, 0, 0, 1.0, 1.7976931348623157e308), (3, 0, 0, 1.0, 1.0), (0, 2, 0, 1.0, 1.0)],
        *[(0, 0, -1, 1.0, 1.0), (-1, 0, 0, 1.0, 1.0)],
    ]
    with Recorder(DataRoot(tmp_path), make_spec(), now_ns=clock) as recorder:
        recorder.seen("AAPL", clock.ns)
        for operation, side, level, price, size in odd:
            assert recorder.message("AAPL", clock.ns, operation, side, level, price, size, "")
        assert recorder.message("AAPL", clock.ns, 0, 0, 0, 230, 100, "")
        result = recorder.finish(clock.ns + S, "duration")
    assert result.symbols["AAPL"].anomalies == {"unreadable": len(odd)}
    assert result.symbols["AAPL"].messages == 1
    assert validate_path(tmp_path).findings == []


def test_a_full_queue_refuses_and_the_gap_says_so(tmp_path):
    clock = Clock(at("2025-09-04T09:30:00"))
    recorder = Recorder(DataRoot(tmp_path), make_spec(queue_messages=10), now_ns=clock)
    recorder.seen("AAPL", clock.ns)
    taken = [recorder.message("AAPL", clock.ns + number, 0, 0, 0, 1.0, 1.0, "") for number in range(12)]
    # What is no message is always taken, and in its order.
    assert taken == [True] * 9 + [False] * 3
    assert not recorder.has_room()
    recorder.lost("AAPL", clock.ns + 20, "queue_drop", "10 wait", since_ns=clock.ns + 9, clear=True)
    recorder.start()
    wait_for(recorder.has_room)
    clock.ns += S
    recorder.seen("AAPL", clock.ns)
    assert recorder.message("AAPL", clock.ns, 0, 1, 0, 2.0, 1.0, "")
    result = recorder.finish(clock.ns + S, "duration")
    left = result.symbols["AAPL"]
    assert (left.messages, left.gaps) == (9 + 3 + 1, 2)
    drop = json.loads((tmp_path / "l2_gaps.jsonl").read_text().splitlines()[1])
    start_ns = at("2025-09-04T09:30:00")
    assert (drop["cause"], drop["gap_start"], drop["gap_end"]) == (
        *("queue_drop", text_of(start_ns + 9)),
        text_of(start_ns + S),
    )
    assert validate_path(tmp_path).findings == []


def test_messages_after_the_planned_end_are_not_taken(tmp_path):
    start_ns = at("2025-09-04T09:30:00")
    clock = Clock(start_ns)
    spec = make_spec(planned_end_ns=start_ns + 5 * S)
    with Recorder(DataRoot(tmp_path), spec, now_ns=clock) as recorder:
        recorder.seen("AAPL", start_ns)
        for second in (1, 4, 5, 6):
            recorder.message("AAPL", start_ns + second * S, 0, 0, 0, float(second), 1.0, "")
        recorder.lost("AAPL", start_ns + 6 * S, "disconnect", "late", since_ns=start_ns + 6 * S, clear=True)
        result = recorder.finish(start_ns + 7 * S, "duration")
    left = result.symbols["AAPL"]
    assert (left.messages, left.snapshots, left.gaps) == (2, 40, 1)
    assert json.loads(left.stats_path.read_text())["ended_at"] == "2025-09-04T13:30:05+00:00"


def test_an_interrupted_block_still_ends_its_session(tmp_path):
    clock = Clock(at("2025-09-04T09:30:00"))

    def interrupted():
        with Recorder(DataRoot(tmp_path), make_spec(), now_ns=clock) as recorder:
            recorder.message("AAPL", clock.ns, 0, 0, 0, 1.0, 1.0, "")
            clock.ns += S
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    (stats_path,) = tmp_path.glob("level2/AAPL/session_stats_*.json")
    stats = json.loads(stats_path.read_text())
    assert (stats["num_messages"], stats["end_reason"]) == (1, "KeyboardInterrupt")
    assert recover(DataRoot(tmp_path), now_ns=clock) == []

"""The book of depth messages and its replay: hand-made examples, and a slow model that shares nothing with it."""

import itertools
from collections import Counter
from datetime import UTC, date, datetime

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contracts.book
from contracts.book import Book, Replayer, replay, replay_batches
from contracts.errors import InvalidDocument
from contracts.sessions import parse_window
from contracts.testing import sample_metadata
from contracts.v1.depth_messages import DepthMessage, DepthMessages
from contracts.v1.level2 import SNAPSHOT_SCHEMA, snapshot_schema
from contracts.validate import validate_path

T0 = 1_756_992_600_000_000_000  # 2025-09-04 09:30 ET
MS = 1_000_000
SECOND = 1_000 * MS
DAY = 86_400 * SECOND


def iso(ns):
    seconds, fraction = divmod(ns, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}+00:00"


def message(ns, operation, side, level, price=0.0, size=0, symbol="AAPL"):
    """A depth message as parsed from JSON."""
    return {
        "timestamp": iso(ns),
        "operation": operation,
        "side": side,
        "level": level,
        "price": price,
        "size": size,
        "symbol": symbol,
    }


def times(steps_ns, start_ns=T0):
    """Strategy: a list of times that never run backwards, `steps_ns` apart."""
    return st.lists(steps_ns, max_size=40).map(
        lambda steps: [start_ns + sum(steps[: n + 1]) for n in range(len(steps))]
    )


def any_messages(max_levels=4, steps_ns=None):
    """Strategy: messages that are well-formed and otherwise anything: holes, missing rows, locked and crossed books."""
    if steps_ns is None:
        steps_ns = st.one_of(st.just(0), st.integers(0, 300 * MS), st.sampled_from([50 * MS, 100 * MS]))
    one = st.tuples(
        st.sampled_from(["add", "add", "update", "remove"]),
        st.sampled_from(["bid", "ask"]),
        st.integers(0, max_levels + 1),
        st.integers(0, 30).map(lambda ticks: ticks / 100),
        st.one_of(st.integers(0, 5), st.just(2**40)),
    )
    return times(steps_ns).flatmap(
        lambda at: st.lists(one, min_size=len(at), max_size=len(at)).map(
            lambda parts: [message(ns, *part) for ns, part in zip(at, parts, strict=True)]
        )
    )


@st.composite
def plausible_messages(draw, levels=4, count=60):
    """Strategy: messages that keep both sides ordered and apart, as a broker sends them."""
    middle = 10_000
    sides = {"bid": [], "ask": []}
    ns, messages = T0, []
    for _ in range(draw(st.integers(0, count))):
        ns += draw(st.sampled_from([0, 1, 999_999, 40 * MS, 100 * MS, 350 * MS]))
        side = draw(st.sampled_from(["bid", "ask"]))
        rows = sides[side]
        what = draw(st.sampled_from(["new", "new", "size", "gone"]))
        size = draw(st.integers(1, 900))
        if what == "new" or not rows:
            away = draw(st.integers(1, 12).filter(lambda away, rows=rows: away not in rows))
            rows.append(away)
            rows.sort()
            level = rows.index(away)
            if level < levels:
                operation = draw(st.sampled_from(["add", "update"])) if level == len(rows) - 1 else "add"
                ticks = middle - away if side == "bid" else middle + away
                messages.append(message(ns, operation, side, level, ticks / 100, size))
            del rows[levels:]
        else:
            level = draw(st.integers(0, len(rows) - 1))
            ticks = middle - rows[level] if side == "bid" else middle + rows[level]
            operation = "update" if what == "size" else "remove"
            messages.append(message(ns, operation, side, level, ticks / 100, size))
            if what == "gone":
                del rows[level]
    return messages


def model_apply(sides, m, levels):
    """The sides after a message, and the kind of anomaly or None; tuples are cut and joined, nothing is changed."""
    rows, level = sides[m["side"]], m["level"]
    before, after, new = rows[:level], rows[level:], ((m["price"], m["size"]),)
    if level >= levels:
        return sides, "beyond_levels"
    if m["operation"] == "add":
        kind, rows = ("add_hole", rows) if level > len(rows) else (None, (before + new + after)[:levels])
    elif m["operation"] == "remove":
        kind, rows = (None, before + after[1:]) if after else ("remove_missing", rows)
    else:
        kind, rows = ("update_missing", rows) if level > len(rows) else (None, before + new + after[1:])
    return {**sides, m["side"]: rows}, kind


def model_states(messages, levels):
    """(ns, sides after the message, kind of anomaly or None) of each message."""
    sides, states = {"bid": (), "ask": ()}, []
    for m in messages:
        sides, kind = model_apply(sides, m, levels)
        seconds = datetime.fromisoformat(m["timestamp"][:19] + "+00:00")
        states.append((int(seconds.timestamp()) * SECOND + int(m["timestamp"][20:29]), sides, kind))
    return states


def model_row(ns, sides, levels):
    row = {"timestamp": iso(ns)}
    for side in ("bid", "ask"):
        there = [pair for pair in sides[side] if 0 not in pair]
        there += [(0.0, 0)] * (levels - len(there))
        row[f"{side}_prices"], row[f"{side}_sizes"] = ([pair[n] for pair in there] for n in (0, 1))
    return row


def model_rows(messages, levels, interval_ms, start_ns=None, end_ns=None):
    """The rows as the contract words them: for each grid point, every message is looked at."""
    states = model_states(messages, levels)
    applied = [(ns, sides) for ns, sides, kind in states if kind is None]
    if interval_ms == 0:
        after, before = start_ns or 0, end_ns or 2**63
        return [model_row(ns, sides, levels) for ns, sides in applied if after <= ns < before]
    if not applied:
        return []
    step, origin = interval_ms * MS, start_ns or 0
    first, stop = applied[0][0], end_ns
    if stop is None:
        last = states[-1][0]
        stop = max(last + (origin - last) % step, origin) + 1
    first = max(first + (origin - first) % step, origin)
    return [
        model_row(point, [sides for ns, sides in applied if ns <= point][-1], levels)
        for point in range(first, stop, step)
    ]


def rows_of(table):
    assert table.schema == SNAPSHOT_SCHEMA
    return table.to_pylist()


def apply(book, m):
    return book.apply(m["operation"], m["side"], m["level"], m["price"], m["size"])


def book_of(*bids, levels=3):
    """A book with these bids, (price, size), best first."""
    book = Book(levels)
    for level, (price, size) in enumerate(bids):
        assert book.apply("add", "bid", level, price, size)
    return book


def bids(book):
    prices, sizes, _, _ = book.row()
    return list(zip(prices, sizes, strict=True))


A, B, C, X, NONE = (10.3, 1), (10.2, 2), (10.1, 3), (10.25, 9), (0.0, 0)


def test_a_new_book_is_unknown_and_its_row_is_all_missing_levels():
    book = Book(2)
    assert not book.is_known
    assert book.row() == ([0.0, 0.0], [0, 0], [0.0, 0.0], [0, 0])


@pytest.mark.parametrize(
    ("before", "operation", "level", "after"),
    [
        ([A, B], "add", 0, [X, A, B]),
        ([A, B], "add", 1, [A, X, B]),
        ([A, B], "add", 2, [A, B, X]),
        ([], "add", 0, [X, NONE, NONE]),
        ([A, B, C], "add", 0, [X, A, B]),
        ([A, B, C], "add", 1, [A, X, B]),
        ([A, B, C], "add", 2, [A, B, X]),
        ([A, B, C], "remove", 0, [B, C, NONE]),
        ([A, B, C], "remove", 1, [A, C, NONE]),
        ([A, B, C], "remove", 2, [A, B, NONE]),
        ([A], "remove", 0, [NONE, NONE, NONE]),
        ([A, B, C], "update", 0, [X, B, C]),
        ([A, B, C], "update", 2, [A, B, X]),
        ([A, B], "update", 2, [A, B, X]),
        ([], "update", 0, [X, NONE, NONE]),
    ],
)
def test_add_shifts_down_remove_shifts_up_update_replaces_or_appends(before, operation, level, after):
    book = book_of(*before)
    assert book.apply(operation, "bid", level, *X)
    assert bids(book) == after
    assert book.row()[2:] == ([0.0] * 3, [0] * 3)
    assert not book.anomalies


def test_an_add_does_not_overwrite_nor_a_remove_leave_a_hole():
    """The book of the system before set rows in place: wrong from the first insert on."""
    book = book_of(A, C)
    book.apply("add", "bid", 1, *B)
    assert bids(book) == [A, B, C]
    book.apply("remove", "bid", 0, 0.0, 0)
    assert bids(book) == [B, C, NONE]
    book.apply("update", "bid", 1, *X)
    assert bids(book) == [B, X, NONE]


@pytest.mark.parametrize(
    ("rows", "operation", "level", "kind"),
    [
        ([A], "add", 2, "add_hole"),
        ([], "add", 1, "add_hole"),
        ([A], "update", 2, "update_missing"),
        ([A], "remove", 1, "remove_missing"),
        ([], "remove", 0, "remove_missing"),
        ([A, B, C], "add", 3, "beyond_levels"),
        ([A, B, C], "update", 3, "beyond_levels"),
        ([A, B, C], "remove", 3, "beyond_levels"),
        ([A], "add", 10**30, "beyond_levels"),
        ([A, B, C], "remove", -1, "beyond_levels"),
        ([A, B, C], "update", -1, "beyond_levels"),
        ([A, B, C], "add", -1, "beyond_levels"),
    ],
)
def test_what_is_impossible_is_counted_by_kind_and_changes_nothing(rows, operation, level, kind):
    book = book_of(*rows)
    known = book.is_known
    before = book.row()
    assert not book.apply(operation, "bid", level, *X)
    assert (book.row(), book.is_known, dict(book.anomalies)) == (before, known, {kind: 1})


def test_a_word_that_is_no_operation_or_side_is_refused():
    with pytest.raises(ValueError, match="'insert'"):
        Book().apply("insert", "bid", 0, 1.0, 1)
    with pytest.raises(ValueError, match="'B'"):
        Book().apply("add", "B", 0, 1.0, 1)


@pytest.mark.parametrize(("levels", "interval_ms"), [(0, 100), (-1, 100), (10, -1)])
def test_no_levels_and_negative_intervals_are_refused(levels, interval_ms):
    with pytest.raises(ValueError, match=r"levels is|interval_ms is"):
        replay([], levels, interval_ms)


def test_locked_crossed_and_unordered_books_are_kept_as_received():
    book = book_of((10.0, 1), (10.5, 2), (10.5, 3))
    book.apply("add", "ask", 0, 9.0, 4)
    assert book.row() == ([10.0, 10.5, 10.5], [1, 2, 3], [9.0, 0.0, 0.0], [4, 0, 0])


def test_a_row_without_size_keeps_its_place_in_the_book_but_is_no_level_of_the_file():
    book = book_of(A, (10.2, 0), C)
    assert bids(book) == [A, C, NONE]
    book.apply("update", "bid", 1, *B)
    assert bids(book) == [A, B, C]


@given(any_messages(), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_the_book_is_that_of_the_model_after_every_message(messages, levels):
    book, anomalies = Book(levels), Counter()
    for m, (ns, sides, kind) in zip(messages, model_states(messages, levels), strict=True):
        before = book.row()
        assert apply(book, m) == (kind is None)
        if kind is not None:
            anomalies[kind] += 1
            assert book.row() == before
        row = model_row(ns, sides, levels)
        assert book.row() == (row["bid_prices"], row["bid_sizes"], row["ask_prices"], row["ask_sizes"])
        assert {len(column) for column in book.row()} == {levels}
        assert book.anomalies == anomalies


@given(any_messages(), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_a_cleared_book_can_be_written_as_removes_that_replay_to_an_empty_one(messages, levels):
    book, again = Book(levels), Book(levels)
    for m in messages:
        apply(book, m)
        apply(again, m)
    anomalies, known = again.anomalies.copy(), book.is_known
    removes = book.clear()
    assert [again.apply(*remove) for remove in removes] == [True] * len(removes)
    assert book.row() == again.row() == Book(levels).row()
    assert book.is_known == again.is_known == known
    assert book.anomalies == again.anomalies == anomalies
    assert book.clear() == []


def test_a_side_is_cleared_from_its_end_so_that_the_best_level_goes_last():
    book = book_of(A, B)
    book.apply("add", "ask", 0, 10.4, 7)
    assert book.clear() == [("remove", "bid", 1, *B), ("remove", "bid", 0, *A), ("remove", "ask", 0, 10.4, 7)]


def test_sampled_rows_hold_the_book_after_the_last_message_at_or_before_the_grid_point():
    messages = [
        message(T0 + 1, "add", "bid", 0, *A),
        message(T0 + 100 * MS, "add", "bid", 0, *B),
        message(T0 + 100 * MS, "update", "bid", 0, *C),
        message(T0 + 100 * MS + 1, "remove", "bid", 0),
        message(T0 + 350 * MS, "remove", "bid", 0),
    ]
    table = replay(messages, 2, 100)
    assert [(row["timestamp"], row["bid_prices"]) for row in rows_of(table)] == [
        (iso(T0 + 100 * MS), [C[0], A[0]]),
        (iso(T0 + 200 * MS), [A[0], 0.0]),
        (iso(T0 + 300 * MS), [A[0], 0.0]),
        (iso(T0 + 400 * MS), [0.0, 0.0]),
    ]


def test_the_grid_counts_from_start_ns_and_earlier_messages_shape_the_first_row():
    messages = [message(T0 - 5 * SECOND, "add", "bid", 0, *A), message(T0 + 150 * MS, "add", "ask", 0, *C)]
    table = replay(messages, 1, 100, start_ns=T0 + 7, end_ns=T0 + 300 * MS + 7)
    assert [(row["timestamp"], row["bid_prices"], row["ask_prices"]) for row in rows_of(table)] == [
        (iso(T0 + 7), [A[0]], [0.0]),
        (iso(T0 + 100 * MS + 7), [A[0]], [0.0]),
        (iso(T0 + 200 * MS + 7), [A[0]], [C[0]]),
    ]


def test_messages_that_were_not_applied_make_no_book_known_and_no_event_row():
    messages = [message(T0, "remove", "bid", 0), message(T0 + SECOND, "add", "ask", 3, *A)]
    assert replay(messages, 3, 100).num_rows == replay(messages, 3, 0).num_rows == 0
    assert rows_of(replay([], 3, 100)) == []


bounds = st.one_of(st.none(), st.integers(-400 * MS, 2 * SECOND).map(lambda after: T0 + after))


@given(any_messages(), st.integers(1, 4), st.sampled_from([0, 1, 7, 100, 250]), bounds, bounds)
@settings(max_examples=100, deadline=None)
def test_replayed_rows_are_those_of_the_model(messages, levels, interval_ms, start_ns, end_ns):
    if interval_ms < 7:
        messages = messages[:8]
    table = replay(messages, levels, interval_ms, start_ns=start_ns, end_ns=end_ns)
    assert rows_of(table) == model_rows(messages, levels, interval_ms, start_ns, end_ns)


@given(any_messages(), st.integers(1, 4), st.sampled_from([50, 100]))
@settings(max_examples=50, deadline=None)
def test_a_sampled_row_is_the_last_event_row_at_or_before_it_and_the_last_one_is_the_book(
    messages, levels, interval_ms
):
    book = Book(levels)
    for m in messages:
        apply(book, m)
    events, sampled = (rows_of(replay(messages, levels, interval)) for interval in (0, interval_ms))
    assert bool(sampled) == bool(events) == book.is_known
    for row in sampled:
        before = [event for event in events if event["timestamp"] <= row["timestamp"]]
        assert row == {**before[-1], "timestamp": row["timestamp"]}
    for rows in (events, sampled):
        if rows:
            assert tuple(rows[-1].values())[1:] == book.row()


@given(
    any_messages(),
    st.sampled_from([0, 100]),
    bounds,
    st.lists(st.integers(0, 40), max_size=4).map(sorted),
    st.data(),
)
@settings(max_examples=100, deadline=None)
def test_messages_in_parts_give_the_rows_of_the_whole_wherever_they_are_cut(
    messages, interval_ms, start_ns, cuts, data
):
    times_ns = [ns for ns, _, _ in model_states(messages, 3)]
    replayer, rows, fed = Replayer(3, interval_ms, start_ns), [], 0
    for cut in [min(cut, len(messages)) for cut in cuts]:
        replayer.feed(messages[fed:cut])
        fed = cut
        # Rows may be asked for up to the next message, which must not be earlier.
        latest = times_ns[cut] if cut < len(messages) else T0 + 60 * SECOND
        earliest = times_ns[0] if times_ns else T0
        rows += rows_of(replayer.rows_until(data.draw(st.integers(earliest - SECOND, max(latest, earliest)))))
    replayer.feed(messages[fed:])
    rows += rows_of(replayer.finish())
    whole = rows_of(replay(messages, 3, interval_ms, start_ns=start_ns))
    assert rows[: len(whole)] == whole
    # On a grid rows may have been asked for beyond the last message: the book stays.
    for row, following in zip(rows[len(whole) - 1 :], rows[len(whole) :], strict=False):
        assert {**row, "timestamp": following["timestamp"]} == following
    assert interval_ms or len(rows) == len(whole)
    kinds = Counter(kind for _, _, kind in model_states(messages, 3) if kind is not None)
    assert replayer.book.anomalies == kinds
    assert rows_of(replayer.finish()) == []


@pytest.mark.parametrize("interval_ms", [0, 100])
@given(any_messages(), st.lists(st.integers(-SECOND, 6 * SECOND), max_size=5).map(sorted))
@settings(max_examples=50, deadline=None)
def test_rows_can_be_taken_in_slices_after_all_messages_were_fed(interval_ms, messages, ends):
    replayer = Replayer(3, interval_ms)
    replayer.feed(messages)
    whole = model_rows(messages, 3, interval_ms, end_ns=T0 + 10 * SECOND)
    starts = [T0 - 2 * SECOND, *(T0 + end for end in ends)]
    for start_ns, end_ns in itertools.pairwise([*starts, T0 + 10 * SECOND]):
        expected = [row for row in whole if iso(start_ns) <= row["timestamp"] < iso(end_ns)]
        assert rows_of(replayer.rows_until(end_ns)) == expected


def test_a_quiet_stretch_can_be_cut_anywhere():
    messages = [message(T0, "add", "bid", 0, *A), message(T0 + SECOND, "update", "bid", 0, *B)]
    replayer = Replayer(2, 100)
    replayer.feed(messages)
    parts = [rows_of(replayer.rows_until(T0 + ms * MS)) for ms in (0, 1, 250, 251, 300, 301, 2000)]
    assert [len(part) for part in parts] == [0, 1, 2, 0, 0, 1, 16]
    assert [row for part in parts for row in part] == model_rows(messages, 2, 100, end_ns=T0 + 2 * SECOND)
    assert rows_of(replay(messages, 2, 100, end_ns=T0 + 201 * MS)) == parts[0] + parts[1] + parts[2]


def test_the_segments_of_a_rotated_day_continue_one_book():
    """Segment 2 holds no add of its own, yet its rows know the bid of segment 1, from the rotation on."""
    replayer = Replayer(2, 100)
    replayer.feed([message(T0, "add", "bid", 0, *A)])
    first = rows_of(replayer.rows_until(T0 + 300 * MS))
    replayer.feed([message(T0 + 310 * MS, "update", "bid", 0, *B)])
    second = rows_of(replayer.rows_until(T0 + 500 * MS))
    assert [row["timestamp"] for row in first] == [iso(T0 + n * 100 * MS) for n in (0, 1, 2)]
    assert [(row["timestamp"], row["bid_sizes"]) for row in second] == [
        (iso(T0 + 300 * MS), [1, 0]),
        (iso(T0 + 400 * MS), [2, 0]),
    ]
    assert replayer.symbol == "AAPL"


def test_after_rows_were_given_an_earlier_message_is_refused():
    replayer = Replayer(2, 100)
    replayer.feed([message(T0, "add", "bid", 0, *A)])
    replayer.rows_until(T0 + SECOND)
    with pytest.raises(InvalidDocument, match="rows already given") as caught:
        replayer.feed([message(T0 + SECOND, "add", "bid", 0, *B), message(T0 + SECOND - 1, "add", "bid", 0, *C)][::-1])
    assert (caught.value.row, caught.value.field) == (0, "timestamp")


def test_times_that_run_backwards_are_refused_with_the_row():
    messages = [message(T0 + ns, "add", "bid", 0, *A) for ns in (5, 5, 4)]
    with pytest.raises(InvalidDocument, match="before that of the message above") as caught:
        replay(messages)
    assert (caught.value.row, caught.value.field) == (2, "timestamp")


def test_two_symbols_in_one_stream_are_refused():
    with pytest.raises(InvalidDocument, match="MSFT among messages of AAPL") as caught:
        replay([message(T0, "add", "bid", 0, *A), message(T0, "add", "bid", 0, *A, symbol="MSFT")])
    assert (caught.value.row, caught.value.field) == (1, "symbol")


def test_a_silence_of_days_is_refused_on_a_grid_instead_of_filling_memory():
    messages = [message(T0, "add", "bid", 0, *A), message(T0 + 8 * DAY, "add", "bid", 0, *B)]
    assert replay(messages, interval_ms=0).num_rows == 2
    with pytest.raises(InvalidDocument, match="7 days") as caught:
        replay(messages)
    assert caught.value.row == 1
    with pytest.raises(ValueError, match="7 days"):
        replay(messages[:1], end_ns=2**70)
    assert replay(messages[:1], interval_ms=0, end_ns=2**70).num_rows == 1
    assert replay(messages[:1], interval_ms=0, end_ns=-(2**70)).num_rows == 0


def test_models_mappings_and_parsed_files_give_the_same_rows():
    messages = [message(T0, "add", "bid", 0, *A), message(T0 + SECOND, "add", "ask", 0, *C)]
    models = [DepthMessage.from_document({**m, "market_maker": "ARCA"}) for m in messages]
    expected = replay(messages)
    assert replay(models) == expected
    assert replay(iter(models)) == expected
    assert replay(DepthMessages(tuple(models))) == expected


@pytest.mark.parametrize("interval_ms", [0, 100])
@given(plausible_messages())
@settings(max_examples=30, deadline=None)
def test_the_rows_of_an_ordered_book_pass_the_validator(tmp_path_factory, interval_ms, messages):
    metadata = sample_metadata().model_copy(update={"levels": 4, "interval_ms": interval_ms})
    start_ns, end_ns = parse_window(metadata.window_et).bounds_ns(date(2025, 9, 4))
    replayer = Replayer(4, interval_ms, start_ns)
    replayer.feed(messages)
    table = replayer.rows_until(end_ns)
    assert not replayer.book.anomalies
    if table.num_rows:
        path = tmp_path_factory.mktemp("root") / "AAPL" / "2025-09-04_snapshots_databento.parquet"
        path.parent.mkdir()
        pq.write_table(table.replace_schema_metadata(snapshot_schema(metadata).metadata), path)
        assert validate_path(path).findings == []


def test_batches_are_bounded_and_come_while_messages_are_read():
    taken = 0

    def stream():
        nonlocal taken
        for n in range(60_000):
            taken += 1
            yield message(T0 + n * MS, "update", "bid", 0, 1.0 + n, 1)

    batches = replay_batches(stream(), 2, 0)
    first = next(batches)
    assert taken == first.num_rows == contracts.book.BATCH_ROWS
    rest = list(batches)
    assert max(batch.num_rows for batch in rest) == contracts.book.BATCH_ROWS
    assert first.num_rows + sum(batch.num_rows for batch in rest) == taken == 60_000
    assert rest[-1].to_pylist()[-1]["bid_prices"] == [60_000.0, 0.0]


def test_after_the_end_rows_are_dropped_while_messages_are_still_read():
    messages = (message(T0 + n * MS, "update", "bid", 0, 1.0 + n, 1) for n in range(40_000))
    assert sum(batch.num_rows for batch in replay_batches(messages, 2, 0, end_ns=T0 + 20_000 * MS)) == 20_000
    assert next(messages, None) is None


def test_a_quiet_hour_is_one_row_per_grid_point_in_several_batches():
    messages = [message(T0, "add", "bid", 0, *A), message(T0 + 3600 * SECOND, "remove", "bid", 0)]
    batches = list(replay_batches(messages, 2, 100))
    assert [batch.num_rows for batch in batches] == [16_384, 16_384, 36_001 - 2 * 16_384]
    seen = [row for batch in batches for row in batch.to_pylist()]
    assert [row["timestamp"] for row in seen] == [iso(T0 + n * 100 * MS) for n in range(36_001)]
    assert {tuple(row["bid_sizes"]) for row in seen[:-1]} == {(1, 0)}
    assert seen[-1]["bid_sizes"] == [0, 0]

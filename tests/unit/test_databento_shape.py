"""Snapshot rows are what the contract asks for, held against the vendor's own dataframe and a slow model."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.databento import decode, shape
from connectors.databento.shape import BookCounts, snapshot_batches
from connectors.store.snapshots import publish
from contracts.v1.level2 import SNAPSHOT_SCHEMA, BookScope, SnapshotMetadata, snapshot_schema
from contracts.validate import validate_path

MS = 1_000_000
TICK = 10_000_000
SUB_TICK = 100_000
EVENT_MODE = 0
METADATA = SnapshotMetadata(
    symbol="AAPL",
    source="databento",
    levels=10,
    interval_ms=100,
    session_date="2025-09-05",
    window_et="08:30-11:00",
    book_scope=BookScope(venues=("XNAS",), odd_lots="included", time_basis="receive", levels=10),
    producer="tests 1",
)


def top(row):
    """Best bid and ask of a row as ((price, size), (price, size))."""
    return (row["bid_prices"][0], row["bid_sizes"][0]), (row["ask_prices"][0], row["ask_sizes"][0])


@pytest.fixture
def one_row(dbn, tmp_path):
    """Shapes a single book, in event mode, to its row."""

    def row(bids, asks, *, levels=10, schema="mbp-10"):
        records = dbn.records([dbn.open_ns], schema=schema)
        dbn.set_book(records, 0, bids, asks)
        path = dbn.write(tmp_path / "one.dbn.zst", records, schema=schema)
        shaped = dbn.shape(path, (dbn.open_ns, dbn.open_ns + 1), records=1, levels=levels)
        assert len(shaped.rows) == 1
        return shaped.rows[0]

    return row


@pytest.mark.parametrize("schema", ["mbp-10", "mbp-1"])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_event_mode_is_the_vendors_dataframe_row_for_row(dbn, tmp_path, vendor_rows, schema, version):
    rng = np.random.default_rng(version)
    times_ns = np.sort(dbn.open_ns + rng.integers(0, 50_000, 2_500))
    records = dbn.random_books(dbn.records(times_ns, schema=schema), rng, tick=SUB_TICK)
    path = dbn.write(tmp_path / "day.dbn.zst", records, schema=schema, version=version)
    levels = dbn.levels(records)
    shaped = dbn.shape(path, (dbn.open_ns, dbn.open_ns + 50_000), records=len(records), levels=levels)
    assert shaped.rows == vendor_rows(path)


def steps(step_ns):
    """Distances between events: ties, neighbours, whole and broken grid steps, long silence."""
    return st.one_of(
        st.just(0),
        st.integers(0, 3),
        st.sampled_from([step_ns - 1, step_ns, step_ns + 1]),
        st.integers(0, 2 * step_ns),
        st.integers(0, 9 * step_ns),
    )


@st.composite
def days(draw):
    """Event times around a window, how they are to be shaped, and how the reader is to cut them."""
    interval_ms = draw(st.sampled_from([0, 1, 10, 100, 1_000]))
    step_ns = (interval_ms or 10) * MS
    # Mostly in order; a negative distance is a clock that ran backwards.
    distance = st.one_of(steps(step_ns), steps(step_ns), steps(step_ns).map(lambda ns: -ns // 3))
    distances = draw(st.lists(distance, max_size=40))
    first = draw(st.one_of(st.just(0), st.integers(-2 * step_ns, 3 * step_ns)))
    return {
        "offsets": np.cumsum([first, *distances])[1:],
        "window": draw(st.one_of(st.integers(1, 30).map(lambda n: n * step_ns), st.integers(1, 30 * step_ns))),
        "interval_ms": interval_ms,
        "levels": draw(st.integers(1, 12)),
        "schema": draw(st.sampled_from(["mbp-10", "mbp-1"])),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "chunk_records": draw(st.sampled_from([1, 2, 5, 8_192])),
        "batch_rows": draw(st.sampled_from([1, 3, 16_384])),
        "block_rows": draw(st.sampled_from([1, 2, 1_024])),
    }


@contextlib.contextmanager
def sized(day):
    """The module's sizes as the drawn day wants them."""
    with pytest.MonkeyPatch.context() as sizes:
        sizes.setattr(decode, "CHUNK_RECORDS", day["chunk_records"])
        sizes.setattr(shape, "BATCH_ROWS", day["batch_rows"])
        sizes.setattr(shape, "BLOCK_ROWS", day["block_rows"])
        yield


def books_with_holes(dbn, records, rng):
    """Random books, some with levels that are absent, empty or priced without a size in the middle."""
    dbn.random_books(records, rng, tick=SUB_TICK)
    for index in np.flatnonzero(rng.random(len(records)) < 0.3):
        for side in ("bid", "ask"):
            levels = dbn.book(records, index, side)
            for level in np.flatnonzero(rng.random(len(levels)) < 0.4):
                levels[level] = [(dbn.no_price, 0), (dbn.no_price, 7), (TICK, 0)][rng.integers(0, 3)]
            other = "ask" if side == "bid" else "bid"
            kept = dbn.book(records, index, other)
            dbn.set_book(records, index, *((levels, kept) if side == "bid" else (kept, levels)))
    return records


@given(day=days())
@settings(max_examples=150, deadline=None)
def test_rows_and_counts_equal_the_plain_python_model(dbn, model, tmp_path_factory, day):
    rng = np.random.default_rng(day["seed"])
    records = books_with_holes(dbn, dbn.records(dbn.open_ns + day["offsets"], schema=day["schema"]), rng)
    records["flags"] = rng.integers(0, 256, len(records))
    window_ns = (dbn.open_ns, dbn.open_ns + day["window"])
    path = dbn.write(tmp_path_factory.mktemp("day") / "day.dbn.zst", records, schema=day["schema"])
    wanted = {"levels": day["levels"], "interval_ms": day["interval_ms"]}
    expected = model(dbn, records, window_ns, **wanted)
    with sized(day):
        shaped = dbn.shape(path, window_ns, records=len(records), **wanted)

    assert shaped.rows == expected.rows
    assert max((batch.num_rows for batch in shaped.batches), default=0) <= day["batch_rows"]
    counts = dataclasses.asdict(shaped.counts)
    assert {name: counts[name] for name in expected.counts()} == expected.counts()
    inside = (records["ts_recv"] >= window_ns[0]) & (records["ts_recv"] < window_ns[1])
    assert counts["maybe_bad_book"] == np.count_nonzero(records["flags"][inside] & 4)
    if day["interval_ms"]:
        edges = [dbn.open_ns + day["interval_ms"] * MS * n for n in range(31)]
        assert counts["first_row_ns"] in {*edges, None}
        assert counts["last_row_ns"] in {*edges, None}
    else:
        assert (counts["first_row_ns"], counts["last_row_ns"]) == (counts["first_ts_ns"], counts["last_ts_ns"])


@given(day=days())
@settings(max_examples=40, deadline=None)
def test_a_wider_file_gives_the_same_bytes_and_counts_as_one_cut_at_the_window(dbn, tmp_path_factory, day):
    folder = tmp_path_factory.mktemp("wide")
    records = dbn.random_books(dbn.records(dbn.open_ns + day["offsets"]), np.random.default_rng(day["seed"]))
    window_ns = (dbn.open_ns, dbn.open_ns + day["window"])
    inside = (records["ts_recv"] >= window_ns[0]) & (records["ts_recv"] < window_ns[1])
    schema = snapshot_schema(METADATA)
    written = []
    for name, kept, context in (("wide", records, sized(day)), ("cut", records[inside], contextlib.nullcontext())):
        path = dbn.write(folder / f"{name}.dbn.zst", kept)
        with context:
            shaped = dbn.shape(path, window_ns, records=len(kept), interval_ms=day["interval_ms"], schema=schema)
            target = folder / f"{name}.parquet"
            published = publish(target, schema, shaped.batches)
        written.append((shaped.counts, target.read_bytes() if published else None))
    assert written[0] == written[1]


def test_a_published_day_is_valid_under_the_contract(dbn, tmp_path):
    rng = np.random.default_rng(3)
    times_ns = np.sort(dbn.open_ns + rng.integers(0, 60 * 10**9, 5_000))
    records = books_with_holes(dbn, dbn.records(times_ns), rng)
    path = dbn.write(tmp_path / "day.dbn.zst", records)
    schema = snapshot_schema(METADATA)
    counts = BookCounts()
    target = tmp_path / "level2" / "AAPL" / "2025-09-05_snapshots_databento.parquet"
    target.parent.mkdir(parents=True)
    batches = snapshot_batches(
        path,
        schema=schema,
        window_ns=(dbn.open_ns, dbn.open_ns + 60 * 10**9),
        levels=10,
        interval_ms=100,
        records=len(records),
        counts=counts,
    )
    published = publish(target, schema, batches)
    assert published.rows == counts.rows == pq.read_metadata(target).num_rows
    assert [finding for finding in validate_path(target).findings if finding.severity == "error"] == []


def test_the_first_row_is_the_first_grid_point_with_a_known_book(dbn, tmp_path):
    records = dbn.records([dbn.open_ns - 1, dbn.open_ns + 250 * MS])
    dbn.set_book(records, 0, [(TICK, 1)], [])
    dbn.set_book(records, 1, [(2 * TICK, 2)], [])
    path = dbn.write(tmp_path / "day.dbn.zst", records)
    window_ns = (dbn.open_ns, dbn.open_ns + 500 * MS)
    shaped = dbn.shape(path, window_ns, records=2, interval_ms=100)
    assert [row["timestamp"] for row in shaped.rows] == [
        "2025-09-05T12:30:00.300000000+00:00",
        "2025-09-05T12:30:00.400000000+00:00",
    ]
    assert {top(row) for row in shaped.rows} == {((0.02, 2), (0.0, 0))}


def test_an_event_on_a_grid_point_is_already_in_its_row_and_the_last_of_a_tie_wins(dbn, tmp_path):
    records = dbn.records([dbn.open_ns, dbn.open_ns, dbn.open_ns + 100 * MS])
    for index, price in enumerate((1, 2, 3)):
        dbn.set_book(records, index, [(price * TICK, 1)], [])
    path = dbn.write(tmp_path / "day.dbn.zst", records)
    shaped = dbn.shape(path, (dbn.open_ns, dbn.open_ns + 101 * MS), records=3, interval_ms=100)
    assert [row["bid_prices"][0] for row in shaped.rows] == [0.02, 0.03]


def test_an_event_at_the_end_of_the_window_is_outside(dbn, tmp_path):
    records = dbn.records([dbn.open_ns, dbn.open_ns + 100 * MS])
    path = dbn.write(tmp_path / "day.dbn.zst", records)
    shaped = dbn.shape(path, (dbn.open_ns, dbn.open_ns + 100 * MS), records=2)
    assert (shaped.counts.events, len(shaped.rows)) == (1, 1)


@pytest.mark.parametrize("interval_ms", [EVENT_MODE, 100])
def test_no_event_in_the_window_gives_no_row(dbn, tmp_path, interval_ms):
    path = dbn.write(tmp_path / "day.dbn.zst", dbn.records([dbn.open_ns - 5, dbn.open_ns + 10**9]))
    shaped = dbn.shape(path, (dbn.open_ns, dbn.open_ns + 10**9), records=2, interval_ms=interval_ms)
    assert shaped.batches == []
    assert shaped.counts == BookCounts()


def test_a_clear_empties_the_book_and_a_trade_leaves_it(dbn, tmp_path):
    records = dbn.records(dbn.open_ns + np.arange(4) * 100 * MS)
    records["action"] = [b"A", b"T", b"R", b"A"]
    for index in (0, 1, 3):
        dbn.set_book(records, index, [(100 * TICK, 5)], [(101 * TICK, 6)])
    path = dbn.write(tmp_path / "day.dbn.zst", records)
    window_ns = (dbn.open_ns, dbn.open_ns + 400 * MS)
    for interval_ms in (EVENT_MODE, 100):
        rows = dbn.shape(path, window_ns, records=4, interval_ms=interval_ms).rows
        full, empty = ((1.0, 5), (1.01, 6)), ((0.0, 0), (0.0, 0))
        assert [top(row) for row in rows] == [full, full, empty, full]
    assert rows[2]["bid_prices"] == rows[2]["ask_prices"] == [0.0] * 10


def test_missing_levels_are_zero_at_the_end_whatever_the_vendors_order(one_row):
    no_price = 2**63 - 1
    row = one_row([(no_price, 0), (99 * TICK, 3), (no_price, 9), (98 * TICK, 0), (97 * TICK, 4)], [])
    assert row["bid_prices"] == [0.99, 0.97, *[0.0] * 8]
    assert row["bid_sizes"] == [3, 4, *[0] * 8]


def test_a_level_from_behind_moves_up_into_a_hole_of_a_shallow_file(one_row):
    no_price = 2**63 - 1
    row = one_row([(99 * TICK, 3), (no_price, 0), (97 * TICK, 4), (96 * TICK, 5)], [], levels=2)
    assert (row["bid_prices"], row["bid_sizes"]) == ([0.99, 0.97], [3, 4])


@pytest.mark.parametrize(
    ("levels", "schema", "there"), [(1, "mbp-10", 1), (3, "mbp-10", 3), (12, "mbp-10", 10), (10, "mbp-1", 1)]
)
def test_every_list_is_n_long_whatever_the_vendor_has(one_row, levels, schema, there):
    row = one_row(
        [((100 - n) * TICK, n + 1) for n in range(10)],
        [((101 + n) * TICK, n + 1) for n in range(10)],
        levels=levels,
        schema=schema,
    )
    assert row["bid_sizes"] == row["ask_sizes"] == [*range(1, there + 1), *[0] * (levels - there)]
    assert row["ask_prices"] == [*[(101 + n) / 100 for n in range(there)], *[0.0] * (levels - there)]


def test_sizes_above_2_31_are_exact(one_row):
    assert top(one_row([(TICK, 2**32 - 1)], [(2 * TICK, 2**31 + 1)])) == ((0.01, 2**32 - 1), (0.02, 2**31 + 1))


@given(cents=st.lists(st.integers(1, 10**9), min_size=10, max_size=10), per_unit=st.sampled_from([100, 10_000]))
@settings(max_examples=60, deadline=None)
def test_prices_are_the_doubles_a_person_writes(dbn, tmp_path_factory, cents, per_unit):
    records = dbn.records([dbn.open_ns])
    dbn.set_book(records, 0, [(n * 10**9 // per_unit, 1) for n in cents], [])
    path = dbn.write(tmp_path_factory.mktemp("px") / "one.dbn", records, compressed=False)
    row = dbn.shape(path, (dbn.open_ns, dbn.open_ns + 1), records=1).rows[0]
    decimals = len(str(per_unit)) - 1
    assert row["bid_prices"] == [float(f"{n // per_unit}.{n % per_unit:0{decimals}d}") for n in cents]


def test_a_negative_price_is_kept(one_row):
    assert top(one_row([(-37_630_000_000, 2)], [(TICK, 1)])) == ((-37.63, 2), (0.01, 1))


def test_crossed_locked_and_one_sided_books_are_kept_and_counted(dbn, tmp_path):
    books = [
        ([(100, 1)], [(101, 1)]),
        ([(102, 1)], [(101, 1)]),
        ([(103, 1)], [(101, 1)]),
        ([(101, 1)], [(101, 1)]),
        ([(101, 1)], []),
        ([], [(101, 1)]),
        ([], []),
    ]
    records = dbn.records(dbn.open_ns + np.arange(len(books)) * MS)
    for index, (bids, asks) in enumerate(books):
        dbn.set_book(records, index, [(px * TICK, sz) for px, sz in bids], [(px * TICK, sz) for px, sz in asks])
    records["flags"][2] |= 4
    path = dbn.write(tmp_path / "day.dbn.zst", records)
    shaped = dbn.shape(path, (dbn.open_ns, dbn.open_ns + 10 * MS), records=len(books))
    assert [top(row) for row in shaped.rows[1:4]] == [
        ((1.02, 1), (1.01, 1)),
        ((1.03, 1), (1.01, 1)),
        ((1.01, 1), (1.01, 1)),
    ]
    last_ns = dbn.open_ns + 6 * MS
    assert shaped.counts == BookCounts(
        rows=7,
        events=7,
        crossed=2,
        locked=1,
        one_sided=2,
        maybe_bad_book=1,
        late_ts=0,
        max_gap_ns=MS,
        first_ts_ns=dbn.open_ns,
        last_ts_ns=last_ns,
        first_row_ns=dbn.open_ns,
        last_row_ns=last_ns,
    )


def test_a_receive_time_that_runs_backwards_takes_the_time_of_the_record_before(dbn, tmp_path, monkeypatch):
    offsets = np.array([0, 50, 20, 60, 10, 10, 70])
    path = dbn.write(tmp_path / "day.dbn.zst", dbn.records(dbn.open_ns + offsets))
    for chunk_records in (8_192, 1):
        monkeypatch.setattr(decode, "CHUNK_RECORDS", chunk_records)
        shaped = dbn.shape(path, (dbn.open_ns, dbn.open_ns + 100), records=7)
        assert [int(row["timestamp"][20:29]) for row in shaped.rows] == [0, 50, 50, 60, 60, 60, 70]
        assert (shaped.counts.late_ts, shaped.counts.max_gap_ns) == (3, 50)


def test_the_batches_have_exactly_the_schema_and_no_nulls(dbn, tmp_path):
    schema = snapshot_schema(METADATA)
    path = dbn.write(
        tmp_path / "day.dbn.zst", dbn.random_books(dbn.records(dbn.open_ns + np.arange(50)), np.random.default_rng(1))
    )
    table = pa.Table.from_batches(dbn.shape(path, (dbn.open_ns, dbn.open_ns + 99), records=50, schema=schema).batches)
    assert table.schema.equals(schema, check_metadata=True)
    assert table.schema.equals(SNAPSHOT_SCHEMA)
    table.validate(full=True)
    assert all(
        column.null_count == 0 and (n == 0 or column.combine_chunks().flatten().null_count == 0)
        for n, column in enumerate(table.columns)
    )


def test_batches_stay_as_they_were_when_later_ones_are_made(dbn, tmp_path, monkeypatch):
    """Buffers are handed over, not reused: a batch that is kept does not change."""
    monkeypatch.setattr(shape, "BATCH_ROWS", 7)
    records = dbn.random_books(dbn.records(dbn.open_ns + np.arange(100)), np.random.default_rng(8))
    path = dbn.write(tmp_path / "day.dbn.zst", records)
    early, kept = [], []
    for batch in snapshot_batches(
        path,
        schema=SNAPSHOT_SCHEMA,
        window_ns=(dbn.open_ns, dbn.open_ns + 100),
        levels=10,
        interval_ms=0,
        records=100,
        counts=BookCounts(),
    ):
        kept.append(batch)
        early.append(batch.to_pylist())
    assert [batch.to_pylist() for batch in kept] == early

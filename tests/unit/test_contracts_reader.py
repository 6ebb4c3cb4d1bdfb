"""What an ML engineer sees: which data there are, and the rows of days, ranges, windows and sources."""

import datetime as dt
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date, time

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from contracts.errors import (
    InvalidDataRoot,
    InvalidName,
    InvalidSymbol,
    InvalidWindow,
    MixedData,
    NotAvailable,
)
from contracts.layout import DataRoot, Level2Name
from contracts.reader import MarketData, SnapshotsFile
from contracts.sessions import Window
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.level2 import SNAPSHOT_SCHEMA, BookScope, SnapshotMetadata, snapshot_schema

DAY, NEXT = date(2025, 9, 4), date(2025, 9, 5)
OPEN_NS = int(dt.datetime(2025, 9, 4, 13, 30, tzinfo=dt.UTC).timestamp()) * 10**9
SECOND = 10**9
DAY_NS = 86_400 * SECOND


def metadata_of(symbol, day, source, **changes):
    """The footer of a file; live books are of another scope than historical ones."""
    is_live = source == "ibkr"
    scope = BookScope(
        venues=("SMART",) if is_live else ("XNAS",),
        odd_lots="excluded" if is_live else "included",
        time_basis="receive",
        levels=10,
    )
    fields = {
        "symbol": symbol,
        "source": "ibkr" if is_live else "databento",
        "levels": 2,
        "interval_ms": 0,
        "session_date": day,
        "window_et": "08:30-11:00",
        "book_scope": scope,
        "producer": "test",
    }
    return SnapshotMetadata(**(fields | changes))


def table_of(ns, metadata, levels=2):
    """Books whose numbers tell the row and the level."""
    cells = np.arange(len(ns) * levels).reshape(len(ns), levels)
    lists = [(cells + 0.25).tolist(), (cells + 1).tolist(), (cells + 0.75).tolist(), (cells + 2).tolist()]
    schema = SNAPSHOT_SCHEMA if metadata is None else snapshot_schema(metadata)
    return pa.table([iso_utc_from_ns(np.asarray(ns, np.int64)), *lists], schema=schema)


def write(root, symbol, day, ns, source="databento", stamp=None, *, footer=True, levels=2, **changes):
    """Write a file; changes are of its footer."""
    name = Level2Name("snapshots", day, stamp, None if stamp else source)
    path = root.level2_path(symbol, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = metadata_of(symbol, day, source, levels=levels, **changes) if footer else None
    pq.write_table(table_of(ns, metadata, levels), path, row_group_size=3)
    return path


@pytest.fixture
def root(tmp_path):
    """Two historical days of AAPL, one live day of BRK-B in two segments."""
    root = DataRoot(tmp_path)
    write(root, "AAPL", DAY, OPEN_NS + np.arange(10) * SECOND)
    write(root, "AAPL", NEXT, OPEN_NS + DAY_NS + np.arange(4) * SECOND)
    write(root, "BRK-B", DAY, OPEN_NS + np.arange(5, 8) * SECOND, "ibkr", time(9, 30, 5))
    write(root, "BRK-B", DAY, OPEN_NS + np.arange(5) * SECOND, "ibkr", time(9, 30))
    return root


@pytest.fixture
def data(root):
    return MarketData(root.path)


def test_a_root_lists_its_symbols_days_and_sources(data):
    assert data.symbols() == ["AAPL", "BRK-B"]
    assert data.days("aapl") == [DAY, NEXT]
    assert data.days("AAPL", "ibkr") == []
    assert data.sources("BRK.B") == ["ibkr"]
    assert data.sources("AAPL", "2025-09-05") == ["databento"]
    assert (data.days("MSFT"), data.sources("MSFT")) == ([], [])


def test_files_tell_source_stamp_rows_and_footer(data, root):
    first, second = data.files("BRK B", DAY)
    assert isinstance(first, SnapshotsFile)
    assert (first.source, first.stamp, first.rows, first.levels) == ("ibkr", time(9, 30), 5, 2)
    assert second.stamp == time(9, 30, 5)
    assert first.metadata == metadata_of("BRK-B", DAY, "ibkr")
    (historical,) = data.files("AAPL", DAY)
    assert (historical.path, historical.source, historical.stamp) == (
        root.snapshots_path("AAPL", DAY),
        "databento",
        None,
    )
    assert data.files("AAPL", "2024-01-01", "2024-12-31") == []


@pytest.mark.parametrize("dirname", ["level2", "Level2", "books"])
def test_a_root_given_by_hand_is_read_in_every_style_of_folder(tmp_path, dirname):
    write(DataRoot(tmp_path, dirname), "AAPL", DAY, [OPEN_NS])
    extra = {"level2_dirname": dirname} if dirname == "books" else {}
    data = MarketData(str(tmp_path), **extra)
    assert data.days("AAPL") == [DAY]
    assert DataRoot(tmp_path, dirname) in data.roots


def test_an_environment_is_read_in_every_base_path_style(tmp_path):
    override, base = tmp_path / "override", tmp_path / "base"
    write(DataRoot(override, "Level2"), "AAPL", DAY, [OPEN_NS])
    write(DataRoot(base, "books"), "MSFT", DAY, [OPEN_NS])
    write(DataRoot(base, "level2"), "NVDA", DAY, [OPEN_NS])
    env = {"DATA_PATH_OVERRIDE": str(override), "ML_BASE_PATH": str(base), "LEVEL2_DIRNAME": "books"}
    data = MarketData.from_env(env)
    assert data.symbols() == ["AAPL", "MSFT", "NVDA"]
    assert data.roots[0].path == override


def test_reading_settings_makes_no_folder_and_a_root_that_is_not_there_is_refused(tmp_path):
    for open_it in (MarketData, lambda path: MarketData.from_env({"ML_BASE_PATH": str(path)})):
        with pytest.raises(InvalidDataRoot, match="no such folder"):
            open_it(tmp_path / "nowhere")
        with pytest.raises(InvalidDataRoot, match=r"no such folder|cannot look at"):
            open_it(tmp_path / ("x" * 5000))
    assert list(tmp_path.iterdir()) == []


def test_a_root_may_be_filled_after_it_was_opened(tmp_path):
    data = MarketData(tmp_path)
    assert data.symbols() == []
    write(DataRoot(tmp_path), "AAPL", DAY, [OPEN_NS])
    assert data.snapshots("AAPL", DAY).num_rows == 1
    write(DataRoot(tmp_path), "AAPL", DAY, [OPEN_NS, OPEN_NS])
    assert data.snapshots("AAPL", DAY).num_rows == 2


def test_one_file_reached_in_two_ways_is_loaded_once(root):
    (root.path / "Level2").symlink_to(root.level2_dir)
    segment = Level2Name("snapshots", DAY, time(9, 30))
    root.level2_path("BRK-B", Level2Name("snapshots", DAY, time(9, 31))).symlink_to(root.level2_path("BRK-B", segment))
    data = MarketData(root.path)
    assert data.snapshots("AAPL", DAY).num_rows == 10
    assert data.snapshots("BRK-B", DAY).num_rows == 8


def test_of_copies_with_one_name_that_of_the_best_root_is_loaded(root):
    write(DataRoot(root.path, "Level2"), "AAPL", DAY, [OPEN_NS])
    assert MarketData(root.path).snapshots("AAPL", DAY).num_rows == 10
    assert MarketData(root.path, level2_dirname="Level2").snapshots("AAPL", DAY).num_rows == 1


def test_temporary_files_other_kinds_and_foreign_names_are_passed_over(root):
    folder = root.symbol_dir("AAPL")
    for name in (".2025-09-08_snapshots_databento.parquet.1-2.tmp", "copy.parquet", "2025-09-31_snapshots_x.parquet"):
        (folder / name).write_bytes(b"half")
    (folder / "2025-09-04_messages_093000.json").write_text("[]")
    (root.level2_dir / "not a symbol").mkdir()
    (root.level2_dir / "EMPTY").mkdir()
    (root.level2_dir / "FILE").write_text("")
    data = MarketData(root.path)
    assert data.symbols() == ["AAPL", "BRK-B"]
    assert data.days("AAPL") == [DAY, NEXT]
    assert len(data.files("AAPL", date.min, date.max)) == 2


def test_a_day_is_loaded_as_the_table_that_was_written(data):
    table = data.snapshots("AAPL", DAY)
    expected = table_of(OPEN_NS + np.arange(10) * SECOND, None)
    assert table.schema.equals(SNAPSHOT_SCHEMA, check_metadata=True)
    assert table == expected


def test_a_range_goes_day_by_day_and_segments_follow_each_other_in_time(data):
    both = data.matrices("AAPL", "2025-09-01", "2025-09-30")
    assert both.ts_ns.tolist() == [
        *(OPEN_NS + np.arange(10) * SECOND),
        *(OPEN_NS + DAY_NS + np.arange(4) * SECOND),
    ]
    assert [(part.file.day, part.start, part.stop) for part in both.parts] == [(DAY, 0, 10), (NEXT, 10, 14)]
    live = data.matrices("BRK-B", DAY)
    assert live.ts_ns.tolist() == (OPEN_NS + np.arange(8) * SECOND).tolist()


def test_segments_are_ordered_by_their_rows_when_the_clock_went_back_between_them(tmp_path):
    """01:50 EDT comes before 01:10 EST on the day on which summer time ends."""
    day = date(2025, 11, 2)
    summer, winter = (
        int(dt.datetime(2025, 11, 2, *at, tzinfo=dt.UTC).timestamp()) * 10**9 for at in ((5, 50), (6, 10))
    )
    write(DataRoot(tmp_path), "AAPL", day, [winter], "ibkr", time(1, 10))
    write(DataRoot(tmp_path), "AAPL", day, [summer], "ibkr", time(1, 50))
    assert MarketData(tmp_path).matrices("AAPL", day).ts_ns.tolist() == [summer, winter]


def test_matrices_are_contiguous_writable_and_typed(data):
    books = data.matrices("AAPL", DAY)
    assert (books.rows, books.levels, len(books)) == (10, 2, 10)
    assert books.ts_ns.dtype == np.int64
    for name, dtype in (("bid_prices", "f8"), ("bid_sizes", "i8"), ("ask_prices", "f8"), ("ask_sizes", "i8")):
        array = getattr(books, name)
        assert (array.shape, array.dtype) == ((10, 2), np.dtype(dtype))
        assert array.flags.c_contiguous
        assert array.flags.writeable
    assert books.bid_prices[3].tolist() == [6.25, 7.25]
    assert books.ask_sizes[9].tolist() == [20, 21]
    assert books.nbytes == 10 * 8 * (1 + 4 * 2)


@pytest.mark.parametrize("window", ["09:30-09:31", Window(time(9, 30), time(9, 31))])
def test_a_window_cuts_every_day_its_start_inclusive_its_end_exclusive(tmp_path, window):
    root = DataRoot(tmp_path)
    for day, open_ns in ((DAY, OPEN_NS), (NEXT, OPEN_NS + DAY_NS)):
        write(root, "AAPL", day, open_ns + np.array([-1, 0, 30 * SECOND, 60 * SECOND - 1, 60 * SECOND, 90 * SECOND]))
    data = MarketData(tmp_path)
    books = data.matrices("AAPL", DAY, NEXT, window=window)
    inside = np.array([0, 30 * SECOND, 60 * SECOND - 1])
    assert books.ts_ns.tolist() == [*(OPEN_NS + inside), *(OPEN_NS + DAY_NS + inside)]
    assert books.bid_sizes[:, 0].tolist() == [3, 5, 7] * 2
    assert data.snapshots("AAPL", DAY, NEXT, window=window).num_rows == 6
    assert [part.stop for part in books.parts] == [3, 6]


def test_a_window_is_new_york_time_before_and_after_the_clocks_change(tmp_path):
    for day, hour in ((date(2025, 3, 7), 14), (date(2025, 3, 10), 13)):
        ns = int(dt.datetime(day.year, day.month, day.day, hour, 30, tzinfo=dt.UTC).timestamp()) * 10**9
        write(DataRoot(tmp_path), "AAPL", day, [ns - 1, ns])
        assert MarketData(tmp_path).matrices("AAPL", day, window="09:30-10:00").ts_ns.tolist() == [ns]


def test_a_window_without_rows_gives_empty_results_of_the_right_shape(data):
    books = data.matrices("AAPL", DAY, window="10:00-11:00")
    assert (books.ts_ns.shape, books.bid_prices.shape, books.parts) == ((0,), (0, 2), ())
    assert data.snapshots("AAPL", DAY, window="10:00-11:00").num_rows == 0
    assert list(data.batches("AAPL", DAY, window="10:00-11:00")) == []


def test_batches_are_the_table_in_pieces_and_can_be_given_up(data):
    batches = list(data.batches("AAPL", DAY, NEXT, batch_rows=4))
    assert max(batch.num_rows for batch in batches) == 4
    assert pa.Table.from_batches(batches) == data.snapshots("AAPL", DAY, NEXT)
    stream = data.batches("AAPL", DAY, NEXT, batch_rows=4)
    next(stream)
    stream.close()
    with pytest.raises(ValueError, match="at least 1"):
        data.batches("AAPL", DAY, batch_rows=0)


def test_paths_can_be_scanned_lazily(data):
    paths = data.paths("AAPL", DAY, NEXT)
    assert [path.name[:10] for path in paths] == ["2025-09-04", "2025-09-05"]
    scanned = pa.dataset.dataset(paths).scanner(filter=pa.dataset.field("timestamp") >= "2025-09-05")
    assert scanned.count_rows() == 4


def test_nothing_there_says_what_there_is(data):
    with pytest.raises(NotAvailable, match=r"AAPL has 2 days from 2025-09-04 to 2025-09-05, of databento"):
        data.snapshots("AAPL", "2024-01-02")
    with pytest.raises(NotAvailable, match=r"no file of MSFT; here are 2 Level-2 symbols \(AAPL, BRK-B\)"):
        data.matrices("MSFT", DAY)
    with pytest.raises(NotAvailable, match="from ibkr"):
        data.batches("AAPL", DAY, source="ibkr")


def test_what_cannot_be_asked_is_refused(data):
    with pytest.raises(InvalidSymbol):
        data.snapshots("../AAPL", DAY)
    for day in ("20250904", "2025-W36-4", "yesterday", 20250904, dt.datetime(2025, 9, 4, tzinfo=dt.UTC)):
        with pytest.raises(InvalidName):
            data.snapshots("AAPL", day)
    with pytest.raises(InvalidWindow):
        data.snapshots("AAPL", DAY, window="9.30-10")


DIFFERENCES = {
    "source": ({}, {"source": "other"}),
    "interval_ms": ({"interval_ms": 0}, {"interval_ms": 100}),
    "levels": ({"levels": 2}, {"levels": 3}),
    "book_scope": (
        {},
        {"book_scope": BookScope(venues=("XNYS",), odd_lots="unknown", time_basis="receive", levels=10)},
    ),
}


@pytest.mark.parametrize(("field", "changes"), DIFFERENCES.items(), ids=DIFFERENCES)
def test_files_that_differ_are_not_mixed_unasked(tmp_path, field, changes):
    root = DataRoot(tmp_path)
    for day, open_ns, change in zip((DAY, NEXT), (OPEN_NS, OPEN_NS + DAY_NS), changes, strict=True):
        write(root, "AAPL", day, [open_ns], **change)
    data = MarketData(tmp_path)
    for load in (data.snapshots, data.matrices, data.batches):
        with pytest.raises(MixedData) as refused:
            load("AAPL", DAY, NEXT)
        assert list(refused.value.differing) == [field]
        assert len(refused.value.differing[field]) == 2
    assert data.snapshots("AAPL", DAY).num_rows == data.snapshots("AAPL", NEXT).num_rows == 1
    mixed = data.snapshots("AAPL", DAY, NEXT, allow_mixed=True)
    sources = ["databento", "other" if field == "source" else "databento"]
    assert mixed.column("source").to_pylist() == sources


def test_several_sources_that_are_asked_for_are_told_apart_by_a_column(root):
    write(root, "AAPL", DAY, OPEN_NS + np.arange(3), "other")
    data = MarketData(root.path)
    with pytest.raises(MixedData, match=r"source: databento, other"):
        data.snapshots("AAPL", DAY)
    table = data.snapshots("AAPL", DAY, NEXT, source=["other", "databento"])
    assert table.column("source").to_pylist() == ["databento"] * 10 + ["other"] * 3 + ["databento"] * 4
    assert data.snapshots("AAPL", NEXT, source=["other", "databento"]).column_names[-1] == "source"
    assert data.snapshots("AAPL", DAY, source="other").column_names == SNAPSHOT_SCHEMA.names
    books = data.matrices("AAPL", DAY, source=["databento", "other"])
    assert [part.file.source for part in books.parts] == ["databento", "other"]


def test_live_and_historical_books_are_not_mixed_by_naming_both(root):
    write(root, "AAPL", DAY, [OPEN_NS], "ibkr", time(9, 30))
    data = MarketData(root.path)
    with pytest.raises(MixedData, match="book_scope"):
        data.snapshots("AAPL", DAY, source=("ibkr", "databento"))
    assert data.snapshots("AAPL", DAY, source=("ibkr", "databento"), allow_mixed=True).num_rows == 11


def test_narrower_books_loaded_with_wider_ones_get_missing_levels(tmp_path):
    root = DataRoot(tmp_path)
    write(root, "AAPL", DAY, [OPEN_NS, OPEN_NS], levels=1)
    write(root, "AAPL", NEXT, [OPEN_NS + DAY_NS], levels=3)
    books = MarketData(tmp_path).matrices("AAPL", DAY, NEXT, allow_mixed=True)
    assert books.bid_prices.tolist() == [[0.25, 0, 0], [1.25, 0, 0], [0.25, 1.25, 2.25]]
    assert books.bid_sizes.tolist() == [[1, 0, 0], [2, 0, 0], [1, 2, 3]]


def test_old_files_without_footer_go_together_but_not_with_new_ones(tmp_path):
    root = DataRoot(tmp_path)
    write(root, "AAPL", DAY, [OPEN_NS], footer=False)
    write(root, "AAPL", NEXT, [OPEN_NS + DAY_NS], footer=False)
    data = MarketData(tmp_path)
    assert data.files("AAPL", DAY)[0].metadata is None
    assert data.matrices("AAPL", DAY, NEXT).rows == 2
    write(root, "AAPL", NEXT, [OPEN_NS + DAY_NS])
    with pytest.raises(MixedData, match="unknown"):
        data.matrices("AAPL", DAY, NEXT)


def test_segments_that_overlap_in_time_are_not_joined_unasked(tmp_path):
    root = DataRoot(tmp_path)
    write(root, "AAPL", DAY, [OPEN_NS, OPEN_NS + 2 * SECOND], "ibkr", time(9, 30))
    write(root, "AAPL", DAY, [OPEN_NS + SECOND], "ibkr", time(9, 30, 1))
    data = MarketData(tmp_path)
    for load in (data.snapshots, data.matrices, lambda *args: list(data.batches(*args))):
        with pytest.raises(MixedData, match=r"093000\.parquet ends 2025-09-04T13:30:02\.0*\+00:00, .*begins .*:01"):
            load("AAPL", DAY)
    assert data.matrices("AAPL", DAY, allow_mixed=True).ts_ns.tolist() == [
        OPEN_NS,
        OPEN_NS + 2 * SECOND,
        OPEN_NS + SECOND,
    ]


def test_files_of_other_writers_are_read_whatever_they_call_the_inside_of_a_list(tmp_path):
    path = write(DataRoot(tmp_path), "AAPL", DAY, [OPEN_NS, OPEN_NS])
    table = pq.read_table(path)
    pq.write_table(table, path, store_schema=False, use_compliant_nested_type=False)
    loaded = MarketData(tmp_path).snapshots("AAPL", DAY)
    assert loaded.schema == SNAPSHOT_SCHEMA
    assert loaded.to_pylist() == table.to_pylist()


@pytest.mark.parametrize(
    ("row_group_rows", "window"), [(7_000, None), (32_768, "09:00-11:00"), (1_000_000, "09:00-11:00")]
)
def test_a_large_day_comes_out_as_it_went_in_whatever_its_row_groups(tmp_path, row_group_rows, window):
    """Several threads fill the arrays piece by piece; a cut begins and ends inside of row groups."""
    rows, levels = 300_000, 2
    start_ns = OPEN_NS - 3600 * SECOND
    ns = start_ns + np.arange(rows, dtype=np.int64) * (9000 * SECOND // rows)
    cells = np.arange(rows * levels)
    offsets = np.arange(0, rows * levels + 1, levels, dtype=np.int32)
    lists = [pa.ListArray.from_arrays(offsets, pa.array(cells * factor)) for factor in (0.5, 1, 1.5, 2)]
    metadata = metadata_of("AAPL", DAY, "databento")
    table = pa.table([iso_utc_from_ns(ns), *lists], schema=snapshot_schema(metadata))
    path = DataRoot(tmp_path).snapshots_path("AAPL", DAY)
    path.parent.mkdir(parents=True)
    pq.write_table(table, path, row_group_size=row_group_rows, compression="lz4")
    data = MarketData(tmp_path)
    books = data.matrices("AAPL", DAY, window=window)
    first = 0 if window is None else rows * 1800 // 9000
    assert np.array_equal(books.ts_ns, ns[first:])
    for name, factor in (("bid_prices", 0.5), ("bid_sizes", 1), ("ask_prices", 1.5), ("ask_sizes", 2)):
        assert np.array_equal(getattr(books, name), (cells * factor).reshape(rows, levels)[first:])
    assert data.snapshots("AAPL", DAY, window=window) == table.slice(first).replace_schema_metadata(None)


def test_objects_show_what_they_hold(data, root):
    assert repr(data) == f"MarketData({root.path}: 2 Level-2 symbols (AAPL, BRK-B))"
    assert repr(data.matrices("AAPL", DAY)) == (
        "BookMatrices(10 rows x 2 levels, 0.0 MB, 2025-09-04T13:30:00.000 to 2025-09-04T13:30:09.000 UTC)"
    )
    assert repr(data.matrices("AAPL", DAY, window="10:00-11:00")) == "BookMatrices(0 rows x 2 levels, 0.0 MB)"
    shutil.rmtree(root.level2_dir)
    assert repr(data) == f"MarketData({root.path}: no Level-2 symbols)"


def test_coverage_and_missing_tell_of_the_days_that_are_not_in_a_load(data):
    report = data.coverage("AAPL", "2025-09-03", "2025-09-06", window="09:30-09:31")
    assert report.missing_days == [date(2025, 9, 3)]
    assert report.closed_days == [date(2025, 9, 6)]
    (missing,) = data.missing("aapl", "2025-09-03", "2025-09-06")
    assert (missing.day, missing.why) == (date(2025, 9, 3), "never_tried")


def test_a_fingerprint_stays_with_the_bytes_wherever_they_lie(data, root, tmp_path_factory):
    moved = tmp_path_factory.mktemp("moved")
    shutil.copytree(root.level2_dir, moved / "Level2")
    before = data.fingerprint("AAPL", DAY, NEXT)
    assert MarketData(moved).fingerprint("AAPL", DAY, NEXT) == before
    assert data.fingerprint("AAPL", DAY) != before
    write(root, "AAPL", NEXT, [OPEN_NS + DAY_NS])
    assert data.fingerprint("AAPL", DAY, NEXT) != before
    with pytest.raises(NotAvailable):
        data.fingerprint("MSFT", DAY)


def test_new_lines_of_the_manifests_are_followed(data, root):
    assert data.new_lines().lines == []
    line = '{"symbol":"AAPL","date":"2025-09-04","status":"WRITE","schema_version":"backfill_l2_manifest.v1"}\n'
    root.backfill_manifest.write_text(line)
    first = data.new_lines(status="WRITE")
    assert [found.symbol for found in first.lines] == ["AAPL"]
    with root.backfill_manifest.open("a") as manifest:
        manifest.write(line.replace("AAPL", "MSFT"))
    assert [found.symbol for found in data.new_lines(first.cursor).lines] == ["MSFT"]
    assert data.new_bars_lines().lines == []


def test_one_object_can_be_used_by_several_threads(data):
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(data.matrices, "AAPL", day) for _ in range(10) for day in (DAY, NEXT)]
    assert [load.result().rows for load in loads] == [10, 4] * 10


def test_memory_is_that_of_the_arrays_and_for_batches_does_not_grow_with_the_file(tmp_path):
    """In a process of its own, so that the peak is the reader's; the whole file takes 66 MB in arrays of 10 levels."""
    rows, levels = 200_000, 10
    offsets = np.arange(0, rows * levels + 1, levels, dtype=np.int32)
    lists = [pa.ListArray.from_arrays(offsets, pa.array(np.arange(rows * levels) * n)) for n in (1.0, 1, 2.0, 2)]
    metadata = metadata_of("AAPL", DAY, "databento", levels=levels)
    table = pa.table([iso_utc_from_ns(OPEN_NS + np.arange(rows)), *lists], schema=snapshot_schema(metadata))
    path = DataRoot(tmp_path).snapshots_path("AAPL", DAY)
    path.parent.mkdir(parents=True)
    pq.write_table(table, path, row_group_size=10_000, compression="lz4", use_dictionary=False)
    program = (
        "import pyarrow\nfrom contracts.reader import MarketData\n"
        f"data = MarketData({str(tmp_path)!r})\n"
        "rows = sum(batch.num_rows for batch in data.batches('AAPL', '2025-09-04', batch_rows=5_000))\n"
        "streamed = pyarrow.default_memory_pool().max_memory()\n"
        "books = data.matrices('AAPL', '2025-09-04')\n"
        "loaded = pyarrow.default_memory_pool().max_memory()\n"
        "print(rows, books.rows, books.nbytes >> 20, streamed >> 20, loaded >> 20)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    streamed, loaded, arrays, while_streamed, while_loaded = map(int, done.stdout.split())
    assert (streamed, loaded, arrays) == (rows, rows, 62)
    # numpy holds the arrays; what Arrow holds is the batches on the way.
    assert while_streamed < 16
    assert while_loaded < 48


def test_loading_matrices_does_not_import_pandas(root):
    program = (
        "import sys\nfrom contracts.reader import MarketData\n"
        f"data = MarketData({str(root.path)!r})\n"
        "books = data.matrices('AAPL', '2025-09-04', '2025-09-05', window='09:30-10:00')\n"
        "print(books.rows, 'pandas' in sys.modules, 'exchange_calendars' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.split() == ["14", "False", "False"]

"""Parquet files: the same bytes for the same rows, whole or not at all, found again by their footer."""

import datetime as dt
import itertools
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.store.errors import InvalidRows
from connectors.store.snapshots import ROW_GROUP_ROWS, existing, publish
from contracts.v1.level2 import SNAPSHOT_SCHEMA, BookScope, SnapshotMetadata, snapshot_schema

METADATA = SnapshotMetadata(
    symbol="AAPL",
    source="databento",
    levels=1,
    interval_ms=0,
    session_date=dt.date(2025, 9, 4),
    window_et="08:30-11:00",
    book_scope=BookScope(venues=("XNAS",), odd_lots="included", time_basis="receive", levels=10),
    producer="trading-data 0.1.0",
)
SCHEMA = snapshot_schema(METADATA)


def rows(count, levels=1, seed=1):
    rng = np.random.default_rng(seed)
    ends = pa.array(np.arange(0, count * levels + 1, levels, dtype=np.int32))
    stamps = pa.array([f"2025-09-04T13:30:{n // 10**6 % 60:02d}.{n % 10**6:06d}000+00:00" for n in range(count)])
    prices = [pa.array(rng.integers(9000, 9100, count * levels) / 100.0) for _ in "ba"]
    sizes = [pa.array(rng.integers(1, 2**40, count * levels)) for _ in "ba"]
    lists = [pa.ListArray.from_arrays(ends, part) for pair in zip(prices, sizes, strict=True) for part in pair]
    return pa.record_batch([stamps, *lists], schema=SNAPSHOT_SCHEMA)


ROWS = rows(ROW_GROUP_ROWS + 1000, levels=4)
"""Columns of several pages, whose ends depend on how the rows come."""


def test_what_is_published_is_read_back_with_its_metadata(tmp_path):
    target = tmp_path / "AAPL" / "f.parquet"
    batch = rows(10, levels=3)
    published = publish(target, SCHEMA, [batch])
    assert (published.path, published.rows, published.size_bytes) == (target, 10, target.stat().st_size)
    table = pq.read_table(target)
    assert table.schema.equals(SNAPSHOT_SCHEMA, check_metadata=False)
    assert table.to_pylist() == batch.to_pylist()
    found = existing(target)
    assert (found.path, found.rows, found.metadata) == (target, 10, METADATA)
    assert [path.name for path in target.parent.iterdir()] == ["f.parquet"]


@settings(max_examples=12, deadline=None)
@example(cuts=[1])
@example(cuts=list(range(0, ROWS.num_rows, 777)))
@given(
    cuts=st.lists(st.integers(0, ROWS.num_rows) | st.sampled_from([1, ROW_GROUP_ROWS, ROW_GROUP_ROWS + 1]), max_size=6)
)
def test_the_bytes_do_not_depend_on_how_the_rows_are_cut_into_batches(tmp_path_factory, cuts):
    folder = tmp_path_factory.mktemp("cuts")
    edges = [0, *sorted(cuts), ROWS.num_rows]
    pieces = [ROWS.slice(begin, end - begin) for begin, end in itertools.pairwise(edges)]
    # A copy of a slice starts at offset 0, the slice does not: neither may show.
    pieces = [
        pa.RecordBatch.from_pylist(piece.to_pylist(), schema=SNAPSHOT_SCHEMA)
        if n % 2 and 0 < piece.num_rows < 100
        else piece
        for n, piece in enumerate(pieces)
    ]
    publish(folder / "many", SCHEMA, iter(pieces))
    publish(folder / "one", SCHEMA, [ROWS])
    assert (folder / "many").read_bytes() == (folder / "one").read_bytes()


def test_row_groups_are_of_one_size_but_the_last(tmp_path):
    publish(tmp_path / "f", SCHEMA, [ROWS])
    footer = pq.read_metadata(tmp_path / "f")
    counts = [footer.row_group(n).num_rows for n in range(footer.num_row_groups)]
    assert counts == [ROW_GROUP_ROWS, 1000]
    column = footer.row_group(0).column(1)
    assert column.compression == "ZSTD"
    assert not column.has_dictionary_page
    assert footer.format_version == "2.6"


def test_the_footer_names_no_place_time_or_host(tmp_path):
    publish(tmp_path / "f.parquet", SCHEMA, [rows(1)])
    data = (tmp_path / "f.parquet").read_bytes()
    assert str(tmp_path).encode() not in data
    assert os.uname().nodename.encode() not in data
    assert set(pq.read_schema(tmp_path / "f.parquet").metadata) == set(METADATA.to_footer())


@pytest.mark.parametrize("batches", [[], [rows(0)], [rows(0), rows(0)]])
def test_without_rows_there_is_no_file_and_an_old_one_stays(tmp_path, batches):
    assert publish(tmp_path / "new" / "f", SCHEMA, batches) is None
    assert list(tmp_path.iterdir()) == []
    publish(tmp_path / "f", SCHEMA, [rows(3)])
    assert publish(tmp_path / "f", SCHEMA, batches) is None
    assert existing(tmp_path / "f").rows == 3


@pytest.mark.parametrize(
    "batch",
    [
        rows(1).select(["timestamp"]),
        rows(1).select(list(reversed(SNAPSHOT_SCHEMA.names))),
        rows(1).set_column(2, "bid_sizes", pa.array([[1]], pa.list_(pa.int32()))),
        rows(1).set_column(0, "timestamp", pa.array([None], pa.string())),
        rows(1).set_column(1, "bid_prices", pa.array([[None]], pa.list_(pa.float64()))),
    ],
    ids=["missing columns", "another order", "another type", "null", "null level"],
)
def test_rows_of_another_schema_or_with_nulls_are_refused(tmp_path, batch):
    publish(tmp_path / "f", SCHEMA, [rows(3)])
    with pytest.raises(InvalidRows, match="nothing was written"):
        publish(tmp_path / "f", SCHEMA, [ROWS, batch])
    assert existing(tmp_path / "f").rows == 3
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("error", [RuntimeError("decoder"), FileNotFoundError(2, "raw file gone"), OSError("no errno")])
@pytest.mark.parametrize("before", [[], [ROWS]], ids=["at once", "after some rows"])
def test_errors_of_the_producer_pass_unchanged(tmp_path, error, before):
    def producer():
        yield from before
        raise error

    with pytest.raises(type(error)) as caught:
        publish(tmp_path / "f", SCHEMA, producer())
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def parquet(path, table):
    pq.write_table(table, path)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.touch(),
        lambda path: path.write_bytes(b"PAR1"),
        lambda path: path.write_text("no parquet at all, but long enough to have a footer"),
        lambda path: publish(path, SCHEMA, [rows(50)]) and path.write_bytes(path.read_bytes()[:-20]),
        lambda path: publish(path, SCHEMA, [rows(50)]) and path.write_bytes(path.read_bytes()[:100]),
        lambda path: publish(path, SCHEMA, [rows(50)]) and path.write_bytes(b"\0" * path.stat().st_size),
        lambda path: parquet(path, pa.table({"x": [1]})),
        lambda path: parquet(path, pa.Table.from_batches([rows(1)]).append_column("__index_level_0__", pa.array([1]))),
        lambda path: parquet(path, pa.Table.from_batches([rows(1).select(["timestamp"])])),
        lambda path: parquet(path, SNAPSHOT_SCHEMA.empty_table()),
        lambda path: parquet(
            path,
            pa.Table.from_batches([rows(1)]).set_column(2, "bid_sizes", pa.array([[1]], pa.list_(pa.int32()))),
        ),
        lambda path: parquet(
            path, pa.Table.from_batches([rows(1)]).replace_schema_metadata({"schema_version": "level2_snapshot.v2"})
        ),
        lambda path: parquet(
            path, pa.Table.from_batches([rows(1)]).replace_schema_metadata({"schema_version": "level2_snapshot.v1"})
        ),
    ],
    ids=[
        "absent",
        "zero bytes",
        "four bytes",
        "text",
        "torn footer",
        "torn early",
        "zeros",
        "foreign columns",
        "index column",
        "missing columns",
        "no rows",
        "int32 sizes",
        "unknown version",
        "our version and nothing else",
    ],
)
def test_a_file_that_cannot_be_read_as_snapshots_does_not_exist(tmp_path, write):
    write(tmp_path / "f.parquet")
    assert existing(tmp_path / "f.parquet") is None


@pytest.mark.parametrize("metadata", [None, {"symbol": "AAPL", "pandas": "{}"}], ids=["none", "foreign"])
def test_a_file_without_our_metadata_exists(tmp_path, metadata):
    parquet(tmp_path / "f.parquet", pa.Table.from_batches([rows(7)]).replace_schema_metadata(metadata))
    found = existing(tmp_path / "f.parquet")
    assert (found.rows, found.metadata) == (7, None)


MEASURE = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa
from connectors.store.snapshots import publish
from contracts.v1.level2 import SNAPSHOT_SCHEMA
n, levels = 4096, 10
ends = pa.array(np.arange(0, n * levels + 1, levels, dtype=np.int32))
rng = np.random.default_rng(1)
lists = [pa.ListArray.from_arrays(ends, pa.array(rng.integers(0, 99, n * levels).astype(t))) for t in "dldl"]
batch = pa.record_batch([pa.array(["2025-09-04T13:30:00.100000000+00:00"] * n), *lists], schema=SNAPSHOT_SCHEMA)
target = Path(sys.argv[1])
publish(target, SNAPSHOT_SCHEMA, [batch] * 40)
def peak_kb():  # ru_maxrss would count the parent's pages at the fork as well
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak_kb()
publish(target, SNAPSHOT_SCHEMA, (batch for _ in range(250)))
print(peak_kb() - before, before)
"""


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """1,000,000 rows of ten levels, 375 MB in memory, need little more than 160,000 rows."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "f")], check=True, capture_output=True, text=True
    )
    grown_kb, before_kb = map(int, done.stdout.split())
    assert grown_kb < 40_000
    assert before_kb < 300_000

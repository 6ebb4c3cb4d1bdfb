"""What breaks the contract is refused by name, row and field: never loaded, never a crash."""

import os
from datetime import date, time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import ContractError, InvalidDataRoot, InvalidSnapshotFile, UnknownSchemaVersion
from contracts.layout import DataRoot, Level2Name
from contracts.reader import MarketData
from contracts.testing import sample_metadata, sample_snapshots
from contracts.timestamps import iso_utc_from_ns, ns_from_iso_utc
from contracts.v1.level2 import SNAPSHOT_SCHEMA

DAY = date(2025, 9, 4)
ROW = 300
"""The row that is damaged, in the middle of the file."""


@pytest.fixture
def root(tmp_path):
    return DataRoot(tmp_path)


@pytest.fixture
def path(root):
    path = root.snapshots_path("AAPL", DAY)
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def data(root):
    return MarketData(root.path)


def sample():
    return sample_snapshots(sample_metadata())


def write(path, table):
    pq.write_table(table, path, row_group_size=100)


def loads(data):
    return (
        lambda: data.matrices("AAPL", DAY),
        lambda: data.snapshots("AAPL", DAY),
        lambda: list(data.batches("AAPL", DAY)),
    )


def not_a_file(path):
    path.mkdir()


def leads_nowhere(path):
    path.symlink_to(path.with_name("gone"))


FILES = {
    "no bytes": (lambda path: path.write_bytes(b""), "no bytes"),
    "text": (lambda path: path.write_bytes(b"x" * 100), "not a readable parquet file"),
    "a magic word only": (lambda path: path.write_bytes(b"PAR1" * 100), "not a readable parquet file"),
    "a folder": (not_a_file, "not a regular file"),
    "a pipe": (os.mkfifo, "not a regular file"),
    "a link that leads nowhere": (leads_nowhere, "cannot be looked at"),
    "no rows": (lambda path: write(path, sample().slice(0, 0)), "no rows"),
    "other columns": (lambda path: write(path, sample().drop_columns("ask_sizes")), "the columns are"),
    "an index column": (lambda path: write(path, sample().append_column("i", pa.array(range(600)))), "the columns are"),
    "other types": (
        lambda path: write(path, sample().set_column(2, "bid_sizes", sample().column(2).cast(pa.list_(pa.int32())))),
        r"field bid_sizes: the type is list<.*int32>, not",
    ),
    "another symbol": (lambda path: write(path, sample_snapshots(sample_metadata("MSFT"))), "says MSFT"),
    "another day": (
        lambda path: write(path, sample_snapshots(sample_metadata(day=date(2025, 9, 5)))),
        "says the day is 2025-09-05",
    ),
    "a damaged footer": (
        lambda path: write(path, sample().replace_schema_metadata(sample_metadata().to_footer() | {b"levels": b"ten"})),
        "field levels of the footer's metadata",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), FILES.values(), ids=FILES)
def test_what_is_no_snapshots_file_of_its_place_is_not_a_day_and_named_when_asked_for(data, path, damage, reason):
    good = path.with_name("2025-09-05_snapshots_databento.parquet")
    write(good, sample_snapshots(sample_metadata(day=date(2025, 9, 5))))
    damage(path)
    assert data.days("AAPL") == [date(2025, 9, 5)]
    assert data.sources("AAPL", DAY) == []
    for ask in (lambda: data.files("AAPL", DAY, "2025-09-05"), lambda: data.paths("AAPL", DAY), *loads(data)):
        with pytest.raises(InvalidSnapshotFile, match=reason) as refused:
            ask()
        assert refused.value.path == path
    assert data.matrices("AAPL", "2025-09-05").rows == 600


def test_a_file_of_another_version_is_refused_and_named(data, path):
    footer = sample_metadata().to_footer() | {b"schema_version": b"level2_snapshot.v2"}
    write(path, sample().replace_schema_metadata(footer))
    assert data.days("AAPL") == []
    for load in loads(data):
        with pytest.raises(UnknownSchemaVersion) as refused:
            load()
        assert (refused.value.found, refused.value.known) == ("level2_snapshot.v2", ("level2_snapshot.v1",))
        assert refused.value.path == path
        assert str(path) in str(refused.value)


def set_value(name, value):
    return lambda columns: columns[name].__setitem__(ROW, value)


def in_list(name, change):
    return lambda columns: change(columns[name][ROW])


def short_and_long(columns):
    columns["ask_prices"][ROW].pop()
    columns["ask_prices"][ROW + 7].append(1.0)


ROWS = {
    "a null list": (set_value("bid_prices", None), "bid_prices", "the list is null"),
    "a null in a list": (
        in_list("ask_sizes", lambda sizes: sizes.__setitem__(3, None)),
        "ask_sizes",
        "a value is null",
    ),
    "a short list": (in_list("bid_sizes", list.pop), "bid_sizes", "9 values, not 10"),
    "a long list": (in_list("bid_prices", lambda prices: prices.append(1.0)), "bid_prices", "11 values, not 10"),
    "an empty list": (in_list("ask_prices", list.clear), "ask_prices", "0 values, not 10"),
    "a short list and a long one": (short_and_long, "ask_prices", "9 values, not 10"),
    "a null time": (set_value("timestamp", None), "timestamp", "the value is null"),
    "a time of another width": (set_value("timestamp", "2025-09-04T13:30:30Z"), "timestamp", "not 35 characters long"),
    "a time that is not": (
        set_value("timestamp", "2025-09-31T13:30:30.000000000+00:00"),
        "timestamp",
        "no such date or time",
    ),
    "a time that runs backwards": (
        set_value("timestamp", "2025-09-04T13:30:29.899999999+00:00"),
        "timestamp",
        "before that of the row above",
    ),
}


@pytest.mark.parametrize("row_group_rows", [100, 1000])
@pytest.mark.parametrize(("damage", "field", "reason"), ROWS.values(), ids=ROWS)
def test_a_row_that_breaks_what_matrices_rely_on_is_named(data, path, damage, field, reason, row_group_rows):
    table = sample()
    columns = {name: table.column(name).to_pylist() for name in table.schema.names}
    damage(columns)
    pq.write_table(pa.table(columns, schema=table.schema), path, row_group_size=row_group_rows)
    for load in loads(data):
        with pytest.raises(InvalidSnapshotFile, match=rf"row {ROW}, field {field}: .*{reason}") as refused:
            load()
        assert refused.value.path == path


@pytest.mark.parametrize("levels", [9, 2**40])
def test_a_footer_that_lies_about_the_levels_is_refused_before_memory_is_taken_for_them(data, path, levels):
    footer = sample_metadata().to_footer() | {b"levels": str(levels).encode()}
    write(path, sample().replace_schema_metadata(footer))
    for load in loads(data):
        with pytest.raises(InvalidSnapshotFile, match="row 0, field bid_prices: the list has 10 values"):
            load()


@pytest.mark.parametrize("shift_hours", [-10, 15])
def test_a_row_of_another_day_than_the_name_says_is_refused(data, path, shift_hours):
    table = sample()
    ns = ns_from_iso_utc(table.column("timestamp")) + shift_hours * 3600 * 10**9
    write(path, table.set_column(0, table.schema.field(0), iso_utc_from_ns(ns)))
    for load in loads(data):
        with pytest.raises(InvalidSnapshotFile, match="not of the ET day in the name"):
            load()


def test_old_files_whose_lists_are_all_empty_are_refused(data, path):
    times = sample().column("timestamp").slice(0, 5)
    lists = [pa.array([[]] * 5, kind) for kind in SNAPSHOT_SCHEMA.types[1:]]
    write(path, pa.table([times, *lists], schema=SNAPSHOT_SCHEMA))
    for load in loads(data):
        with pytest.raises(InvalidSnapshotFile):
            load()


def test_a_segment_that_is_unreadable_is_not_left_out_of_its_day(root, data):
    metadata = sample_metadata().model_copy(update={"source": "ibkr"})
    good, bad = (root.level2_path("AAPL", Level2Name("snapshots", DAY, time(9, at))) for at in (30, 45))
    good.parent.mkdir(parents=True)
    write(good, sample_snapshots(metadata))
    bad.write_bytes(b"")
    assert data.days("AAPL") == [DAY]
    for load in loads(data):
        with pytest.raises(InvalidSnapshotFile) as refused:
            load()
        assert refused.value.path == bad


def vanish(path):
    path.unlink()


def grow(path):
    with path.open("ab") as raw:
        raw.write(b"more")


def shrink(path):
    os.truncate(path, path.stat().st_size // 2)


def replace(path):
    other = path.with_name("other")
    write(other, sample().slice(0, 50))
    other.replace(path)


@pytest.mark.parametrize("change", [vanish, grow, shrink, replace])
def test_a_file_that_changes_after_it_was_found_or_while_it_is_read_is_refused(data, path, change):
    for rows_before in (0, 1):
        write(path, sample())
        stream = data.batches("AAPL", DAY, batch_rows=50)
        for _ in range(rows_before):
            next(stream)
        change(path)
        with pytest.raises(InvalidSnapshotFile, match=r"changed since|cannot be looked at") as refused:
            list(stream)
        assert refused.value.path == path


def test_a_cut_file_is_refused_wherever_it_is_cut(data, path):
    write(path, sample())
    content = path.read_bytes()
    for size in range(0, len(content), len(content) // 15):
        path.write_bytes(content[:size])
        with pytest.raises(InvalidSnapshotFile):
            data.matrices("AAPL", DAY)


def test_flipped_bytes_never_crash_a_load(data, path):
    """Most are refused; one inside of a number is another number, which only the vendor could tell."""
    write(path, sample())
    content = path.read_bytes()
    refused = 0
    for at in np.random.default_rng(0).integers(0, len(content), 100):
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        try:
            assert data.matrices("AAPL", DAY).bid_prices.shape == (600, 10)
        except ContractError:
            refused += 1
    assert refused


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_listed_is_an_error_not_an_empty_root(root, data, path):
    write(path, sample())
    path.parent.chmod(0)
    try:
        with pytest.raises(InvalidDataRoot, match="cannot be listed"):
            data.days("AAPL")
    finally:
        path.parent.chmod(0o755)


def test_a_level2_folder_that_is_a_file_holds_nothing(tmp_path):
    (tmp_path / "level2").write_text("")
    assert MarketData(tmp_path).symbols() == []
    with pytest.raises(InvalidDataRoot, match="one plain folder name"):
        MarketData(tmp_path, level2_dirname="../level2")
    with pytest.raises(InvalidDataRoot):
        MarketData("~nobody-of-this-name/data")

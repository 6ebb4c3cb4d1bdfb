"""The validator on Level-2 files: each damage is found, with its row, and nothing else is."""

import os
import subprocess
import sys
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import SNAPSHOT_SCHEMA, iso_utc_from_ns, parse_window, validate_path
from contracts.testing import sample_metadata, sample_snapshots, write_sample_root
from contracts.timestamps import ns_from_iso_utc

NAME = "2025-09-04_snapshots_databento.parquet"
ROW = 300
"""The row that is damaged, in the middle of the file."""


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "level2" / "AAPL"
    folder.mkdir(parents=True)
    return folder / NAME


def columns_of(table):
    """The columns as lists that a test can damage."""
    return {name: table.column(name).to_pylist() for name in table.schema.names}


def write(path, columns, schema):
    pq.write_table(pa.table(columns, schema=schema), path, row_group_size=100)


def found(path, **options):
    report = validate_path(path, **options)
    return [(finding.rule, finding.severity, finding.row, finding.field) for finding in report.findings]


def test_a_sound_root_has_no_findings(tmp_path):
    root = write_sample_root(tmp_path, live=False, bars=False)
    report = validate_path(root.path)
    assert (report.findings, report.files, report.rows) == ([], 4, 662)
    assert report.ok


def test_the_sample_is_the_same_bytes_each_time(tmp_path):
    one = write_sample_root(tmp_path / "a").snapshots_path("AAPL", date(2025, 9, 4))
    two = write_sample_root(tmp_path / "b").snapshots_path("AAPL", date(2025, 9, 4))
    assert one.read_bytes() == two.read_bytes()


DAMAGES = {
    "a null list": (lambda c: c["bid_prices"].__setitem__(ROW, None), "null", "bid_prices"),
    "a null in a list": (lambda c: c["ask_sizes"][ROW].__setitem__(3, None), "null", "ask_sizes"),
    "a null time": (lambda c: c["timestamp"].__setitem__(ROW, None), "null", "timestamp"),
    "a short list": (lambda c: c["ask_prices"][ROW].pop(), "length", "ask_prices"),
    "a long list": (lambda c: c["bid_sizes"][ROW].append(1), "length", "bid_sizes"),
    "an empty list": (lambda c: c["bid_sizes"][ROW].clear(), "length", "bid_sizes"),
    "a NaN": (lambda c: c["bid_prices"][ROW].__setitem__(4, float("nan")), "not-finite", "bid_prices"),
    "an infinite price": (lambda c: c["ask_prices"][ROW].__setitem__(9, float("inf")), "not-finite", "ask_prices"),
    "a negative size": (lambda c: c["ask_sizes"][ROW].__setitem__(0, -1), "negative-size", "ask_sizes"),
    "a price without size": (lambda c: c["ask_sizes"][ROW].__setitem__(9, 0), "missing-level", "ask_prices"),
    "a size without price": (lambda c: c["bid_prices"][ROW + 1].__setitem__(9, 0.0), "missing-level", "bid_prices"),
    "bids that tie": (
        lambda c: c["bid_prices"][ROW].__setitem__(1, c["bid_prices"][ROW][0]),
        "price-order",
        "bid_prices",
    ),
    "bids that rise": (lambda c: c["bid_prices"][ROW].__setitem__(0, 1.0), "price-order", "bid_prices"),
    "asks that fall": (lambda c: c["ask_prices"][ROW].__setitem__(0, 999.0), "price-order", "ask_prices"),
    "a short time": (lambda c: c["timestamp"].__setitem__(ROW, "2025-09-04T13:30:30Z"), "timestamp", "timestamp"),
    "a time that is not": (
        lambda c: c["timestamp"].__setitem__(ROW, "2025-09-31T13:30:30.000000000+00:00"),
        "timestamp",
        "timestamp",
    ),
    "a time twice": (
        lambda c: c["timestamp"].__setitem__(ROW, c["timestamp"][ROW - 1]),
        "grid-twice",
        "timestamp",
    ),
    "a row left out": (
        lambda c: [column.__delitem__(ROW) for column in c.values()],
        "grid-hole",
        "timestamp",
    ),
    "a time off the grid": (
        lambda c: c["timestamp"].__setitem__(ROW, c["timestamp"][ROW].replace(".000000000", ".000000001")),
        "grid",
        "timestamp",
    ),
}


@pytest.mark.parametrize(("damage", "rule", "field"), DAMAGES.values(), ids=DAMAGES)
def test_each_damage_is_found_once_at_its_row(path, damage, rule, field):
    table = sample_snapshots(sample_metadata())
    columns = columns_of(table)
    damage(columns)
    write(path, columns, table.schema)
    row = ROW + 1 if rule == "missing-level" and field == "bid_prices" else ROW
    assert found(path) == [(rule, "error", row, field)]
    assert found(path, full=False) == []


def test_a_missing_level_before_a_present_one_is_found(path):
    table = sample_snapshots(sample_metadata())
    columns = columns_of(table)
    columns["bid_prices"][ROW + 1][4] = 0.0
    columns["bid_sizes"][ROW + 1][4] = 0
    write(path, columns, table.schema)
    assert found(path) == [("missing-inside", "error", ROW + 1, "bid_prices")]


def test_times_that_run_backwards_are_found_across_row_groups_and_batches(path):
    metadata = sample_metadata().model_copy(update={"interval_ms": 0})
    start, _ = parse_window(metadata.window_et).bounds_ns(metadata.session_date)
    rows = 70_000
    ns = start + np.arange(rows, dtype=np.int64) // 3
    for at in (100, 32_768, 65_536):
        ns[at] = ns[at - 1] - 1
    one = sample_snapshots(sample_metadata()).slice(1, 1)
    lists = [pa.concat_arrays([one.column(i).combine_chunks()] * rows) for i in range(1, 5)]
    table = pa.table([iso_utc_from_ns(ns), *lists], schema=one.schema.with_metadata(metadata.to_footer()))
    pq.write_table(table, path, row_group_size=32_768)
    report = validate_path(path)
    assert [(finding.rule, finding.row) for finding in report.findings] == [("timestamp-order", 100)]
    assert "3 rows" in report.findings[0].message
    assert report.rows == rows


def many_rows(path, ns, levels, metadata=None, row_group_size=None):
    """Write a book of so many levels at each of these times."""
    lists = [pa.array([[100.0 - n for n in range(levels)]]), pa.array([[1] * levels])]
    lists += [pa.array([[101.0 + n for n in range(levels)]]), lists[1]]
    repeated = [pa.concat_arrays([one] * 1000) for one in lists]
    columns = [iso_utc_from_ns(ns), *(pa.chunked_array([one] * (len(ns) // 1000)) for one in repeated)]
    table = pa.table(columns, schema=SNAPSHOT_SCHEMA)
    if metadata is not None:
        table = table.replace_schema_metadata(metadata.to_footer())
    return table if row_group_size is None else pq.write_table(table, path, row_group_size=row_group_size)


def test_a_large_file_is_checked_in_parts_and_faults_where_they_meet_are_found(path):
    rows, group = 400_000, 50_000
    metadata = sample_metadata().model_copy(update={"interval_ms": 1, "window_et": "08:30-11:00", "levels": 1})
    start, _ = parse_window(metadata.window_et).bounds_ns(metadata.session_date)
    sound = start + np.arange(rows, dtype=np.int64) * 1_000_000
    many_rows(path, sound, 1, metadata, group)
    assert found(path) == []
    for rule, back in (("grid-twice", 1_000_000), ("timestamp-order", 2_000_000)):
        ns = sound.copy()
        ns[group::group] -= back
        many_rows(path, ns, 1, metadata, group)
        assert found(path) == [(rule, "error", group, "timestamp")]
        assert f"({rows // group - 1} rows" in validate_path(path).findings[0].message


def test_lists_that_change_their_length_where_parts_meet_are_found(path):
    ns = 1_756_992_600_000_000_000 + np.arange(300_000, dtype=np.int64)
    halves = [many_rows(path, ns[:150_000], 2), many_rows(path, ns[150_000:], 1)]
    pq.write_table(pa.concat_tables(halves), path, row_group_size=150_000)
    assert ("length", "error", 150_000, "bid_prices") in found(path)


def test_pages_that_cannot_be_read_are_found_in_each_part(path):
    metadata = sample_metadata().model_copy(update={"interval_ms": 0, "window_et": "08:30-11:00", "levels": 1})
    start, _ = parse_window(metadata.window_et).bounds_ns(metadata.session_date)
    many_rows(path, start + np.arange(300_000, dtype=np.int64), 1, metadata, 150_000)
    footer = pq.read_metadata(path)
    damaged = bytearray(path.read_bytes())
    for number in range(2):
        at = footer.row_group(number).column(0).data_page_offset
        damaged[at : at + 40] = bytes(40)
    path.write_bytes(damaged)
    assert found(path, full=False) == []
    assert {rule for rule, *_ in found(path)} == {"unreadable"}


def test_the_end_of_the_window_is_exclusive_and_its_start_inclusive(path):
    metadata = sample_metadata().model_copy(update={"window_et": "09:30-09:31"})
    table = sample_snapshots(metadata)
    assert table.num_rows == 600
    ns = ns_from_iso_utc(table.column("timestamp"))
    late = table.set_column(0, table.schema.field(0), iso_utc_from_ns(ns + 100_000_000))
    pq.write_table(late, path)
    assert found(path) == [("window", "error", 599, "timestamp")]
    early = table.set_column(0, table.schema.field(0), iso_utc_from_ns(ns - 100_000_000))
    pq.write_table(early, path)
    assert found(path) == [("window", "error", 0, "timestamp")]


def test_without_a_footer_rows_must_lie_on_the_et_day_of_the_name(path):
    table = sample_snapshots(sample_metadata()).replace_schema_metadata(None)
    pq.write_table(table, path)
    assert found(path) == [("no-footer", "warning", None, None)]
    other = path.with_name("2025-09-03_snapshots_databento.parquet")
    path.rename(other)
    assert ("window", "error", 0, "timestamp") in found(other)


@pytest.mark.parametrize("interval_ms", [0, 100])
def test_locked_crossed_one_sided_and_empty_books_are_legal(path, interval_ms):
    metadata = sample_metadata().model_copy(update={"interval_ms": interval_ms})
    columns = columns_of(sample_snapshots(metadata))
    columns["bid_prices"][1][0] = columns["ask_prices"][1][0]
    columns["bid_prices"][2][0] = columns["ask_prices"][2][0] + 5
    for row in (3, 4):
        columns["ask_prices"][row] = [0.0] * 10
        columns["ask_sizes"][row] = [0] * 10
    columns["bid_prices"][4] = [0.0] * 10
    columns["bid_sizes"][4] = [0] * 10
    columns["bid_sizes"][5] = [2**40] * 10
    write(path, columns, SNAPSHOT_SCHEMA.with_metadata(metadata.to_footer()))
    assert found(path) == []


def test_negative_prices_of_spreads_are_a_warning(path):
    table = sample_snapshots(sample_metadata())
    columns = columns_of(table)
    columns["bid_prices"][ROW + 1] = [-0.25 * (n + 1) for n in range(10)]
    write(path, columns, table.schema)
    assert found(path) == [("negative-price", "warning", ROW + 1, "bid_prices")]
    assert validate_path(path).ok


def test_rows_per_book_event_may_share_a_time_and_lie_off_the_grid(path):
    metadata = sample_metadata().model_copy(update={"interval_ms": 0})
    table = sample_snapshots(sample_metadata())
    columns = columns_of(table)
    columns["timestamp"][1] = columns["timestamp"][0].replace("000+", "001+")
    columns["timestamp"][2] = columns["timestamp"][1]
    write(path, columns, table.schema.with_metadata(metadata.to_footer()))
    assert found(path) == []


def test_other_levels_than_ten_are_read_from_the_footer_or_the_first_row(path):
    metadata = sample_metadata().model_copy(update={"levels": 3})
    table = sample_snapshots(metadata)
    pq.write_table(table, path)
    assert found(path) == []
    pq.write_table(table.replace_schema_metadata(None), path)
    assert [rule for rule, *_ in found(path)] == ["no-footer"]
    pq.write_table(table.replace_schema_metadata(sample_metadata().to_footer()), path)
    assert {rule for rule, *_ in found(path)} == {"length"}


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(
    ("content", "rule"),
    [(b"", "empty-file"), (b"x", "not-parquet"), (b"PAR1" * 100, "not-parquet"), (b"\0" * 10_000, "not-parquet")],
)
def test_what_is_no_parquet_is_a_finding(path, content, rule, full):
    path.write_bytes(content)
    assert [rule for rule, *_ in found(path, full=full)] == [rule]


def test_a_cut_file_is_a_finding_wherever_it_is_cut(path):
    pq.write_table(sample_snapshots(sample_metadata()), path)
    content = path.read_bytes()
    for size in range(1, len(content), len(content) // 20):
        path.write_bytes(content[:size])
        assert not validate_path(path).ok


def test_flipped_bytes_never_crash_the_validator(path):
    pq.write_table(sample_snapshots(sample_metadata()), path, write_page_checksum=False)
    content = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        validate_path(path)


def test_a_file_without_rows_is_a_finding(path):
    pq.write_table(sample_snapshots(sample_metadata()).slice(0, 0), path)
    assert [rule for rule, *_ in found(path)] == ["no-rows"]


def test_other_columns_are_a_finding_without_reading_rows(path):
    table = sample_snapshots(sample_metadata())
    index = table.append_column("__index_level_0__", pa.array(range(table.num_rows)))
    for wrong in (table.drop_columns("ask_sizes"), table.select(table.schema.names[::-1]), index):
        pq.write_table(wrong, path)
        assert [rule for rule, *_ in found(path)] == ["columns"]
        assert [rule for rule, *_ in found(path, full=False)] == ["columns"]


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("timestamp", pa.large_string()),
        ("bid_sizes", pa.list_(pa.int32())),
        ("bid_prices", pa.list_(pa.float32())),
        ("ask_sizes", pa.list_(pa.float64())),
        ("ask_prices", pa.large_list(pa.float64())),
    ],
)
def test_other_types_are_a_finding_by_field(path, field, wrong):
    table = sample_snapshots(sample_metadata())
    at = table.schema.get_field_index(field)
    pq.write_table(table.set_column(at, field, table.column(field).cast(wrong)), path)
    assert found(path) == [("type", "error", None, field)]


def test_a_file_written_without_the_arrow_schema_is_judged_by_its_parquet_types(path):
    """Its lists have other inner names; its footer went with the Arrow schema."""
    pq.write_table(sample_snapshots(sample_metadata()), path, store_schema=False)
    assert found(path) == [("no-footer", "warning", None, None)]


def test_the_name_and_the_folder_must_be_those_of_the_content(path):
    pq.write_table(sample_snapshots(sample_metadata("MSFT")), path)
    assert found(path) == [("folder", "error", None, "symbol")]
    pq.write_table(sample_snapshots(sample_metadata(day=date(2025, 9, 5))), path)
    assert found(path, full=False) == [("name", "error", None, "session_date")]


def test_a_folder_or_name_outside_the_grammar_is_a_warning(tmp_path):
    folder = tmp_path / "aapl"
    folder.mkdir()
    pq.write_table(sample_snapshots(sample_metadata()), folder / "copy.parquet")
    assert found(folder) == [("name", "warning", None, None), ("folder", "warning", None, None)]


def test_a_damaged_or_unknown_footer_is_a_finding(path):
    table = sample_snapshots(sample_metadata())
    footer = sample_metadata().to_footer()
    pq.write_table(table.replace_schema_metadata({**footer, b"schema_version": b"level2_snapshot.v2"}), path)
    assert found(path) == [("schema-version", "error", None, "schema_version")]
    pq.write_table(table.replace_schema_metadata({**footer, b"levels": b"ten"}), path)
    assert found(path) == [("footer", "error", None, "levels")]


def test_temporary_and_foreign_files_are_passed_over(tmp_path):
    root = write_sample_root(tmp_path)
    files = validate_path(tmp_path).files
    folder = root.symbol_dir("AAPL")
    (folder / f".{NAME}.1-2.abc.tmp").write_bytes(b"half")
    (folder / "notes.json").write_text("{")
    (tmp_path / "WarriorTrading_Trades.csv").write_text("ticker,date\n")
    (tmp_path / "other.jsonl").write_text("{")
    report = validate_path(tmp_path)
    assert (report.findings, report.files) == ([], files)


def test_a_temporary_file_that_no_writer_can_be_busy_with_is_a_warning(tmp_path):
    root = write_sample_root(tmp_path)
    left = root.symbol_dir("AAPL") / f".{NAME}.1-2.abc.tmp"
    left.write_bytes(b"half")
    two_days_ago = left.stat().st_mtime - 2 * 86_400
    os.utime(left, (two_days_ago, two_days_ago))
    report = validate_path(tmp_path)
    assert [(finding.path, finding.rule, finding.severity) for finding in report.findings] == [
        (left, "leftover", "warning")
    ]


def test_a_folder_reached_by_two_ways_is_checked_once_and_a_circle_ends(tmp_path):
    root = write_sample_root(tmp_path)
    files = validate_path(tmp_path).files
    (root.level2_dir / "circle").symlink_to(tmp_path)
    (tmp_path / "Level2").symlink_to(root.level2_dir)
    report = validate_path(tmp_path)
    assert (report.findings, report.files) == ([], files)


def test_a_path_that_is_not_there_or_no_file_is_a_finding(tmp_path):
    assert [rule for rule, *_ in found(tmp_path / NAME)] == ["unreadable"]
    os.mkfifo(tmp_path / NAME)
    assert [rule for rule, *_ in found(tmp_path / NAME)] == ["not-a-file"]
    (tmp_path / "x.txt").write_text("x")
    assert [rule for rule, *_ in found(tmp_path / "x.txt")] == ["unknown-kind"]


def test_a_large_file_is_checked_in_bounded_memory(tmp_path):
    """In a process of its own, so that the peak is the validator's; pandas must not be dragged in."""
    metadata = sample_metadata().model_copy(update={"interval_ms": 0, "window_et": "08:30-11:00"})
    start, end = parse_window(metadata.window_et).bounds_ns(metadata.session_date)
    block = sample_snapshots(sample_metadata())
    path = tmp_path / "AAPL" / NAME
    path.parent.mkdir()
    block = pa.concat_tables([block] * 100).combine_chunks()
    schema = block.schema.with_metadata(metadata.to_footer())
    with pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as writer:
        for n in range(10):
            ns = start + (end - start) // 10 * n + np.arange(block.num_rows, dtype=np.int64)
            part = block.set_column(0, block.schema.field(0), iso_utc_from_ns(ns))
            writer.write_table(part.replace_schema_metadata(metadata.to_footer()), row_group_size=300_000)
    program = (
        "import sys, contracts, pyarrow\n"
        "def peak_kb(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "base = peak_kb()\n"
        f"report = contracts.validate_path({str(path)!r})\n"
        "peak = peak_kb()\n"
        "arrow = pyarrow.default_memory_pool().max_memory()\n"
        "print(report.ok, report.rows, arrow >> 20, (peak - base) >> 10, 'pandas' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    ok, rows, arrow_megabytes, megabytes, pandas = done.stdout.split()
    assert (ok, rows, pandas) == ("True", "600000", "False")
    # The whole file takes 234 MB.
    assert int(arrow_megabytes) < 100
    assert int(megabytes) < 200

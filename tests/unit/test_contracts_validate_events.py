"""The validator on Level-2 events files: each damage is found, with its row, and nothing else is."""

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import (
    EVENTS_SCHEMA,
    EventsMetadata,
    InvalidDocument,
    UnknownSchemaVersion,
    events_schema,
    validate_path,
)
from contracts.testing import sample_events, sample_events_metadata, sample_metadata, sample_snapshots
from contracts.v1.level2_events import ACTIONS, SIDES

NAME = "2025-09-04_events_databento.parquet"
ROW = 30
"""The row that is damaged, in the middle of the file."""
SECOND_NS = 1_000_000_000


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "level2" / "AAPL"
    folder.mkdir(parents=True)
    return folder / NAME


def columns_of(table):
    """The columns as lists that a test can damage; times as nanoseconds."""
    return {
        name: (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
        for name, column in zip(table.schema.names, table.columns, strict=True)
    }


def write(path, columns, schema):
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    pq.write_table(pa.table(arrays, schema), path, row_group_size=20)


def found(path, **options):
    report = validate_path(path, **options)
    return [(finding.rule, finding.severity, finding.row, finding.field) for finding in report.findings]


def put(name, value):
    return lambda columns: columns[name].__setitem__(ROW, value)


def shift(name, by_ns):
    return lambda columns: columns[name].__setitem__(ROW, columns[name][ROW] + by_ns)


DAMAGES = {
    **{f"a null {name}": (put(name, None), "null", name) for name in EVENTS_SCHEMA.names},
    "an unknown action": (put("action", "X"), "action", "action"),
    "a lower-case action": (put("action", "a"), "action", "action"),
    "an action in words": (put("action", "ADD"), "action", "action"),
    "an empty action": (put("action", ""), "action", "action"),
    "an action of another alphabet": (put("action", "А"), "action", "action"),  # noqa: RUF001 - Cyrillic on purpose
    "an unknown side": (put("side", "S"), "side", "side"),
    "a price that is no number": (put("price", float("nan")), "not-finite", "price"),
    "an infinite price": (put("price", float("-inf")), "not-finite", "price"),
    "an infinite size": (put("size", float("inf")), "not-finite", "size"),
    "a negative size": (put("size", -1.0), "negative-size", "size"),
    "a negative level": (put("level", -1), "negative-level", "level"),
    "another symbol": (put("symbol", "MSFT"), "symbol", "symbol"),
    "a symbol in another spelling": (put("symbol", "aapl"), "symbol", "symbol"),
    "a longer symbol": (put("symbol", "AAPLX"), "symbol", "symbol"),
    "an empty source": (put("source", ""), "no-source", "source"),
    "clocks that differ": (shift("ts_utc", 1), "clock", "ts_utc"),
    "receipt that runs backwards": (shift("ts_recv", -2 * SECOND_NS), "timestamp-order", "ts_recv"),
}


@pytest.mark.parametrize(("damage", "rule", "field"), DAMAGES.values(), ids=DAMAGES)
def test_each_damage_is_found_once_at_its_row(path, damage, rule, field):
    table = sample_events(sample_events_metadata())
    columns = columns_of(table)
    damage(columns)
    write(path, columns, table.schema)
    assert found(path) == [(rule, "error", ROW, field)]
    assert found(path, full=False) == []


def test_every_action_and_side_of_the_vendor_and_events_at_one_moment_are_legal(path):
    table = sample_events(sample_events_metadata())
    columns = columns_of(table)
    columns["action"] = [ACTIONS[n % len(ACTIONS)] for n in range(table.num_rows)]
    columns["side"] = [SIDES[n % len(SIDES)] for n in range(table.num_rows)]
    columns["ts_recv"][ROW] = columns["ts_recv"][ROW - 1]
    # The venue's clock may run backwards, only that of receipt orders the rows.
    columns["timestamp_ns"][ROW] -= 5 * SECOND_NS
    columns["ts_utc"][ROW] -= 5 * SECOND_NS
    columns["price"][ROW] = -0.25
    columns["exchange"][ROW] = ""
    write(path, columns, table.schema)
    assert found(path) == []


def test_receipt_lies_in_the_window_of_the_footer_end_exclusive(path):
    table = sample_events(sample_events_metadata())
    for by_ns, row in ((SECOND_NS, table.num_rows - 1), (-1, 0)):
        columns = columns_of(table)
        columns["ts_recv"] = [ns + by_ns for ns in columns["ts_recv"]]
        write(path, columns, table.schema)
        assert found(path) == [("window", "error", row, "ts_recv")]


def test_without_a_footer_receipt_lies_on_the_et_day_of_the_name(path):
    table = sample_events(sample_events_metadata()).replace_schema_metadata(None)
    pq.write_table(table, path)
    assert found(path) == [("no-footer", "warning", None, None)]
    path = path.rename(path.with_name("2025-09-05_events_databento.parquet"))
    assert ("window", "error", 0, "ts_recv") in found(path)


def test_faults_are_found_across_row_groups_and_batches(path):
    rows = 70_000
    one = sample_events(sample_events_metadata()).slice(1, 1)
    table = pa.concat_tables([one] * rows).combine_chunks()
    start_ns = one["ts_recv"].cast(pa.int64())[0].as_py()
    ns = start_ns + np.arange(rows, dtype=np.int64) // 3
    for at in (32_768, 65_536):
        ns[at] = ns[at - 1] - 1
    at = table.schema.get_field_index("ts_recv")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(ns).cast(pa.timestamp("ns", "UTC"))), path)
    (finding,) = validate_path(path).findings
    assert (finding.rule, finding.row) == ("timestamp-order", 32_768)
    assert "2 rows" in finding.message


def test_snapshots_in_an_events_file_and_events_in_a_snapshots_file_are_found(path):
    pq.write_table(sample_snapshots(sample_metadata()), path)
    assert {rule for rule, *_ in found(path)} == {"columns", "schema-version"}
    other = path.with_name("2025-09-04_snapshots_databento.parquet")
    pq.write_table(sample_events(sample_events_metadata()), other)
    assert {rule for rule, *_ in found(other)} == {"columns", "schema-version"}


def test_a_file_of_another_name_is_told_by_its_columns(path):
    other = path.with_name("copy.parquet")
    pq.write_table(sample_events(sample_events_metadata()), other)
    assert found(other) == [("name", "warning", None, None)]


@pytest.mark.parametrize("full", [True, False])
def test_other_columns_or_another_order_are_a_finding(path, full):
    table = sample_events(sample_events_metadata())
    extra = table.append_column("sequence", pa.array(range(table.num_rows)))
    for wrong in (extra, table.drop_columns("exchange"), table.select(table.schema.names[::-1])):
        pq.write_table(wrong, path)
        assert found(path, full=full) == [("columns", "error", None, None)]


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("timestamp_ns", pa.timestamp("ns", "UTC")),
        ("size", pa.int64()),
        ("price", pa.float32()),
        ("symbol", pa.large_string()),
        ("ts_recv", pa.timestamp("ns")),
        ("ts_recv", pa.timestamp("us", "UTC")),
        ("ts_utc", pa.timestamp("ns", "America/New_York")),
    ],
)
def test_another_type_is_a_finding_by_field(path, field, wrong):
    table = sample_events(sample_events_metadata())
    at = table.schema.get_field_index(field)
    pq.write_table(table.set_column(at, field, table.column(field).cast(wrong, safe=False)), path)
    assert found(path) == [("type", "error", None, field)]


def test_folder_and_name_must_be_those_of_the_footer(path):
    pq.write_table(sample_events(sample_events_metadata("MSFT")), path)
    assert found(path) == [("folder", "error", None, "symbol"), ("symbol", "error", 0, "symbol")]
    pq.write_table(sample_events(sample_events_metadata(day=date(2025, 9, 5))), path)
    assert found(path, full=False) == [("name", "error", None, "session_date")]


def test_outside_a_symbol_folder_the_footer_says_the_symbol(tmp_path):
    table = sample_events(sample_events_metadata("BRK-B"))
    pq.write_table(table, tmp_path / NAME)
    assert found(tmp_path / NAME) == [("folder", "warning", None, None)]
    at = table.schema.get_field_index("symbol")
    pq.write_table(table.set_column(at, "symbol", [["AAPL"] * table.num_rows]), tmp_path / NAME)
    assert ("symbol", "error", 0, "symbol") in found(tmp_path / NAME)


def test_a_file_without_rows_is_a_finding(path):
    pq.write_table(sample_events(sample_events_metadata()).slice(0, 0), path)
    assert found(path) == [("no-rows", "error", None, None)]


def test_flipped_bytes_never_crash_the_validator(path):
    pq.write_table(sample_events(sample_events_metadata()), path)
    content = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        validate_path(path)


def test_the_arrow_schema_is_the_eleven_columns_and_carries_the_footer():
    schema = events_schema(sample_events_metadata())
    assert schema.equals(EVENTS_SCHEMA)
    assert EVENTS_SCHEMA.metadata is None
    assert EventsMetadata.from_footer(schema.metadata) == sample_events_metadata()


def test_batches_without_the_footer_can_be_written_under_the_schema_with_it(path):
    batches = sample_events(sample_events_metadata()).replace_schema_metadata(None).to_batches()
    with pq.ParquetWriter(path, events_schema(sample_events_metadata())) as writer:
        for batch in batches:
            writer.write_batch(batch)
    assert found(path) == []


def test_the_footer_is_sorted_plain_text():
    metadata = EventsMetadata(
        symbol="AAPL", source="databento", session_date=date(2025, 9, 4), window_et="08:30-11:00", producer="x 1"
    )
    assert list(metadata.to_footer().items()) == [
        (b"producer", b"x 1"),
        (b"schema_version", b"level2_events.v1"),
        (b"session_date", b"2025-09-04"),
        (b"source", b"databento"),
        (b"symbol", b"AAPL"),
        (b"window_et", b"08:30-11:00"),
    ]


def test_a_foreign_or_damaged_footer_is_refused():
    assert EventsMetadata.from_footer({b"pandas": b"{}"}) is None
    with pytest.raises(UnknownSchemaVersion):
        EventsMetadata.from_footer(sample_metadata().to_footer())
    footer = sample_events_metadata().to_footer()
    with pytest.raises(InvalidDocument) as caught:
        EventsMetadata.from_footer({**footer, b"producer": b"\xff"})
    assert caught.value.field == "producer"
    assert caught.value.what == "level2_events.v1"

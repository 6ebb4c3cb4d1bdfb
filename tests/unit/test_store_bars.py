"""One bars file per day with its ledger line: what is written, what is refused, and what is found again."""

import datetime as dt
import json
import logging
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contracts
from connectors.store.bars import ExistingBars, existing, kind_text, listing, load_notes, merge, publish_day, read_day
from connectors.store.errors import InvalidRows, StoreError
from contracts.coverage import build_coverage
from contracts.errors import InvalidName, InvalidSymbol
from contracts.layout import DataRoot
from contracts.sessions import ET
from contracts.testing import BARS_DAY, BARS_HALF_DAY, sample_bars, sample_bars_metadata
from contracts.testing.strategies import bar_tables
from contracts.timestamps import iso_utc_from_ns, ns_from_iso_utc
from contracts.v1.bars import BAR_SCHEMA, bars_schema
from contracts.validate import validate_path

NOON = dt.datetime(2025, 11, 29, 12, tzinfo=dt.UTC)


@pytest.fixture
def root(tmp_path):
    return DataRoot(tmp_path / "not" / "yet")


def lines_of(root):
    return [json.loads(line) for line in root.bars_manifest.read_text().splitlines()]


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def with_column(table, name, values):
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))


def changed(name, row, value, rows=5):
    table = sample_bars(rows=rows)
    values = table.column(name).to_pylist()
    values[row] = value
    return with_column(table, name, values)


def test_a_consumer_reads_what_was_published(root):
    days = {"1 hour": BARS_DAY, "1 min": BARS_HALF_DAY, "1 sec": BARS_DAY}
    for bar_size, day in days.items():
        table = sample_bars(bar_size, day)
        published = publish_day(root, sample_bars_metadata("BRK-B", bar_size, day), table)
        assert (published.path, published.rows) == (root.bars_path(bar_size, "BRK-B", day), table.num_rows)
    build_coverage(root)
    consumer = contracts.MarketData(root.path)
    for bar_size, day in days.items():
        assert consumer.bars("BRK-B", bar_size, day).equals(sample_bars(bar_size, day))
    report = validate_path(root.path)
    assert [str(finding) for finding in report.findings] == []
    assert report.kinds["bars"].files == 3


def test_the_line_says_what_the_file_is(root):
    metadata = sample_bars_metadata("AAPL", "1 min", BARS_HALF_DAY, complete=False)
    published = publish_day(root, metadata, sample_bars("1 min", BARS_HALF_DAY, rows=10), written_at=NOON)
    path = root.path / "bars" / "minute" / "AAPL" / "2025-11-28.parquet"
    assert lines_of(root) == [
        {
            "schema_version": "bars_manifest.v1",
            "written_at": "2025-11-29T12:00:00+00:00",
            "vendor": "IBKR",
            "file_format": "parquet",
            "symbol": "AAPL",
            "bar_size": "1 min",
            "path": str(path),
            "filename": "2025-11-28.parquet",
            "rows": 10,
            "columns": BAR_SCHEMA.names,
            "time_start": "2025-11-28T09:30:00-05:00",
            "time_end": "2025-11-28T09:39:00-05:00",
            "what_to_show": "TRADES",
            "use_rth": True,
            "price_adjustment": "raw",
            "complete": False,
        }
    ]
    assert published.line.to_json_line() == root.bars_manifest.read_text()
    assert published.path == path


def test_the_line_is_made_now_in_utc_unless_told(root):
    before = dt.datetime.now(dt.UTC)
    publish_day(root, sample_bars_metadata(), sample_bars(rows=2))
    publish_day(root, sample_bars_metadata(), sample_bars(rows=2), written_at=NOON.astimezone(ET))
    first, second = (line["written_at"] for line in lines_of(root))
    assert before <= dt.datetime.fromisoformat(first) <= dt.datetime.now(dt.UTC)
    assert second == "2025-11-29T12:00:00+00:00"
    with pytest.raises(ValueError, match="has no zone"):
        publish_day(root, sample_bars_metadata(), sample_bars(rows=2), written_at=NOON.replace(tzinfo=None))
    assert len(lines_of(root)) == 2


def test_a_relative_root_gives_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published = publish_day(DataRoot(Path("data")), sample_bars_metadata(), sample_bars(rows=2))
    assert published.path.is_relative_to(tmp_path)
    assert lines_of(DataRoot(tmp_path / "data"))[0]["path"] == str(published.path)


def test_a_partial_day_is_completed_into_the_same_path(root):
    part, rest = sample_bars(rows=100), sample_bars().slice(90)
    publish_day(root, sample_bars_metadata(complete=False), part, written_at=NOON)
    path = root.bars_path("1 min", "AAPL", BARS_DAY)
    whole = merge(read_day(path), rest)
    # The clock went back: the order of the lines counts, not their times.
    publish_day(root, sample_bars_metadata(), whole, written_at=NOON - dt.timedelta(hours=1))
    assert whole.equals(sample_bars())
    build_coverage(root)
    (day,) = contracts.load_coverage(root.bars_coverage).entry("AAPL", "1 min").days
    assert (day.rows, day.path) == (390, str(path))
    assert [line["complete"] for line in lines_of(root)] == [False, True]
    assert validate_path(root.path).findings == []


def test_the_same_rows_give_the_same_bytes(root):
    table, metadata = sample_bars("1 sec"), sample_bars_metadata(bar_size="1 sec")
    path = publish_day(root, metadata, table).path
    expected = path.read_bytes()
    cut = pa.concat_tables([table.slice(0, 7), table.slice(7, 5000), table.slice(5007)])
    noted = table.replace_schema_metadata({"somebody": "else"})
    required = table.cast(pa.schema([field.with_nullable(field.name == "WAP") for field in BAR_SCHEMA]))
    for same in (cut, noted, required, read_day(path)):
        publish_day(root, metadata, same)
        assert path.read_bytes() == expected
    publish_day(root, sample_bars_metadata(bar_size="1 sec", complete=False), table)
    assert path.read_bytes() != expected


REFUSED = {
    "no rows": (sample_bars(rows=0), "no bar"),
    "other columns": (sample_bars(rows=3).drop_columns(["WAP"]), "the columns are"),
    "other order": (sample_bars(rows=3).select([*BAR_SCHEMA.names[:-2], "WAP", "barCount"]), "the columns are"),
    "other type": (
        sample_bars(rows=3).cast(BAR_SCHEMA.set(6, pa.field("barCount", pa.float64()))),
        "barCount double",
    ),
    "null price": (changed("open", 2, None), "open has nulls"),
    "null count": (changed("barCount", 2, None), "barCount has nulls"),
    "null time": (changed("timestamp", 2, None), "timestamp has nulls"),
    "NaN price": (changed("close", 3, float("nan")), "row 3: close is not finite"),
    "infinite volume": (changed("volume", 1, float("inf")), "row 1: volume is not finite"),
    "infinite average": (changed("WAP", 1, float("-inf")), "row 1: WAP is infinite"),
    "low above close": (changed("low", 4, 10_000.0), "row 4: open is not between"),
    "high below close": (changed("high", 0, 1.0), "row 0: open is not between"),
    "negative volume": (changed("volume", 2, -1.0), "row 2: volume is negative"),
    "negative count": (changed("barCount", 2, -1), "row 2: barCount is negative"),
    "time in another form": (changed("timestamp", 1, "2025-11-26T14:31:00Z"), "row 1: .*35 characters"),
    "twice": (pa.concat_tables([sample_bars(rows=3).slice(0, 2), sample_bars(rows=3).slice(1)]), "row 2: the time"),
    "back in time": (pa.concat_tables([sample_bars(rows=3).slice(1), sample_bars(rows=3).slice(0, 1)]), "row 2"),
    "another day": (sample_bars(day=BARS_HALF_DAY, rows=3), "row 0: the bar is not of the ET day 2025-11-26"),
    "two days": (pa.concat_tables([sample_bars(rows=3), sample_bars(day=BARS_HALF_DAY, rows=3)]), "row 3: the bar"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_the_validator_would_refuse_are_refused_before_anything_is_written(root, name):
    table, reason = REFUSED[name]
    with pytest.raises(InvalidRows, match=reason) as caught:
        publish_day(root, sample_bars_metadata(), table)
    assert str(root.bars_path("1 min", "AAPL", BARS_DAY)) in str(caught.value)
    assert not root.path.exists()


def test_bars_of_the_whole_et_day_are_of_that_day(root):
    """Half an hour after New York's midnight, on the day when clocks go back."""
    day = dt.date(2025, 11, 2)
    edges = [dt.datetime.combine(day, dt.time(0, 0), ET), dt.datetime.combine(day, dt.time(23, 59), ET)]
    ns = np.array([int(edge.timestamp()) * 10**9 for edge in edges], np.int64)
    assert ns[1] - ns[0] == (25 * 60 - 1) * 60 * 10**9
    table = with_column(sample_bars(rows=2), "timestamp", iso_utc_from_ns(ns))
    publish_day(root, sample_bars_metadata(day=day), table)
    assert [lines_of(root)[0][key] for key in ("time_start", "time_end")] == [
        "2025-11-02T00:00:00-04:00",
        "2025-11-02T23:59:00-05:00",
    ]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_published_bars_are_read_again_as_they_were(tmp_path_factory, data):
    root = DataRoot(tmp_path_factory.mktemp("root"))
    bar_size = data.draw(st.sampled_from(["1 hour", "1 min", "1 sec"]))
    table = data.draw(bar_tables(bar_size, BARS_DAY))
    metadata = sample_bars_metadata(bar_size=bar_size)
    path = publish_day(root, metadata, table).path
    ns = ns_from_iso_utc(table.column("timestamp")).tolist()
    assert read_day(path).equals(table)
    assert existing(root, bar_size, "aapl", BARS_DAY) == ExistingBars(path, len(ns), metadata, ns[0], ns[-1])
    build_coverage(root)
    assert validate_path(root.path).errors == []


@settings(max_examples=60, deadline=None)
@given(
    old=st.none() | bar_tables("1 min", BARS_DAY, max_rows=12),
    new=bar_tables("1 min", BARS_DAY, max_rows=12) | st.just(sample_bars(rows=0)),
)
def test_merged_bars_are_those_of_both_and_new_ones_win(old, new):
    def by_time(table):
        return {} if table is None else {row["timestamp"]: row for row in table.to_pylist()}

    merged = merge(old, new)
    expected = by_time(old) | by_time(new)
    assert merged.schema.equals(BAR_SCHEMA, check_metadata=True)
    assert merged.to_pylist() == [expected[time] for time in sorted(expected)]
    assert merge(merged, new).equals(merged)


def test_merging_into_old_bars_with_nan_averages_keeps_them():
    old = with_column(sample_bars(rows=3), "WAP", [float("nan"), None, 1.0])
    merged = merge(old, sample_bars(rows=4).slice(3))
    assert merged.column("WAP").null_count == 1
    assert np.isnan(merged.column("WAP")[0].as_py())


def foreign(path, table, *, damaged=False, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    if damaged:
        whole = bytearray(path.read_bytes())
        whole[50] ^= 0xFF
        path.write_bytes(whole)


def two_versions(table):
    footer = sample_bars_metadata().to_footer()
    return table.replace_schema_metadata({**footer, b"schema_version": b"bars.v2"})


def half_footer(table):
    return table.replace_schema_metadata({b"schema_version": b"bars.v1", b"symbol": b"AAPL"})


def other_symbol(table):
    return table.cast(bars_schema(sample_bars_metadata("MSFT")))


UNUSABLE = {
    "no bytes": (lambda path: path.write_bytes(b""), None),
    "no parquet": (lambda path: path.write_bytes(b"PAR1 or not"), None),
    "torn": (lambda path: (foreign(path, sample_bars()), path.write_bytes(path.read_bytes()[:-100])), None),
    "no rows": (lambda path: foreign(path, sample_bars(rows=0)), "it has no rows"),
    "other columns": (lambda path: foreign(path, sample_bars().drop_columns(["WAP"])), "its columns"),
    "other day": (lambda path: foreign(path, sample_bars(day=BARS_HALF_DAY)), "other ET days"),
    "no order": (
        lambda path: foreign(path, pa.concat_tables([sample_bars(rows=9).slice(5), sample_bars(rows=5)])),
        "do not rise",
    ),
    "damaged page": (lambda path: foreign(path, sample_bars(), write_page_checksum=True, damaged=True), "CRC"),
    "two days": (
        lambda path: foreign(path, pa.concat_tables([sample_bars(), sample_bars(day=BARS_HALF_DAY)])),
        "other ET days",
    ),
    "version to come": (lambda path: foreign(path, two_versions(sample_bars())), "bars.v2"),
    "broken footer": (lambda path: foreign(path, half_footer(sample_bars())), "bars.v1"),
    "other symbol": (lambda path: foreign(path, other_symbol(sample_bars())), "MSFT"),
    "folder": (lambda path: path.mkdir(), "directory"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_is_not_the_bars_file_of_its_place_counts_as_absent_and_is_replaced(root, name, caplog):
    put, reason = UNUSABLE[name]
    path = root.bars_path("1 min", "AAPL", BARS_DAY)
    path.parent.mkdir(parents=True)
    put(path)
    with caplog.at_level(logging.WARNING):
        assert existing(root, "1 min", "AAPL", BARS_DAY) is None
    assert f"{path} counts as absent" in caplog.text
    assert (reason or "") in caplog.text
    if name == "folder":
        with pytest.raises(StoreError, match="folder lies where the file must be"):
            publish_day(root, sample_bars_metadata(), sample_bars())
        assert not root.bars_manifest.exists()
    else:
        publish_day(root, sample_bars_metadata(), sample_bars())
        assert existing(root, "1 min", "AAPL", BARS_DAY).rows == 390


def test_files_of_other_writers_are_found_without_metadata(root, caplog):
    """The system before wrote dictionaries, other compression, NaN averages and no footer of ours."""
    path = root.bars_path("1 min", "AAPL", BARS_DAY)
    table = with_column(sample_bars(), "WAP", [float("nan")] * 390)
    ns = ns_from_iso_utc(table.column("timestamp")).tolist()
    for options in (
        {"compression": "snappy"},
        {"write_statistics": False},
        {"row_group_size": 100, "use_dictionary": True},
        {"compression": "none", "version": "1.0", "data_page_size": 100},
    ):
        foreign(path, table, **options)
        assert existing(root, "1 min", "AAPL", BARS_DAY) == ExistingBars(path, 390, None, ns[0], ns[-1])
        assert read_day(path).drop_columns(["WAP"]).equals(table.drop_columns(["WAP"]))
    assert caplog.text == ""


def test_nothing_is_found_where_nothing_is(root, caplog):
    assert existing(root, "1 min", "AAPL", BARS_DAY) is None
    assert listing(root, "1 min", "AAPL") == set()
    assert not root.path.exists()
    assert caplog.text == ""
    with pytest.raises(StoreError, match="cannot read"):
        read_day(root.bars_path("1 min", "AAPL", BARS_DAY))


@pytest.mark.parametrize("damage", ["page", "torn", "columns", "order", "no parquet"])
def test_rows_that_cannot_be_trusted_are_not_continued(root, damage):
    path = publish_day(root, sample_bars_metadata(), sample_bars()).path
    if damage == "page":
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 3] ^= 0xFF
        path.write_bytes(whole)
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "columns":
        foreign(path, sample_bars().drop_columns(["WAP"]))
    elif damage == "order":
        foreign(path, pa.concat_tables([sample_bars(rows=9).slice(5), sample_bars(rows=5)]))
    else:
        path.write_bytes(b"")
    with pytest.raises(InvalidRows, match=r"--force-bars") as caught:
        read_day(path)
    assert str(path) in str(caught.value)


def test_the_listing_has_the_days_that_have_a_file(root):
    for day in (BARS_DAY, BARS_HALF_DAY):
        publish_day(root, sample_bars_metadata(day=day), sample_bars(day=day, rows=3))
    folder = root.path / "bars" / "minute" / "AAPL"
    for name in ("notes.txt", "2025-11-31.parquet", "20251125.parquet", "2025-W48-2.parquet", ".2025-11-25.parquet"):
        (folder / name).touch()
    (folder / "2025-11-24.parquet").mkdir()
    (folder / "2025-11-21.parquet").symlink_to(folder / "2025-11-26.parquet")
    (folder / "2025-11-20.parquet").symlink_to(folder / "gone")
    assert listing(root, "1 min", "aapl") == {BARS_DAY, BARS_HALF_DAY, dt.date(2025, 11, 21)}
    assert listing(root, "1 hour", "AAPL") == set()


@pytest.mark.parametrize(
    ("bar_size", "symbol", "error"), [("1 min", "../x", InvalidSymbol), ("5 mins", "AAPL", InvalidName)]
)
def test_names_that_are_none_are_refused_before_the_disk_is_touched(root, bar_size, symbol, error):
    for call in (
        lambda: existing(root, bar_size, symbol, BARS_DAY),
        lambda: listing(root, bar_size, symbol),
        lambda: load_notes(root, bar_size, symbol),
    ):
        with pytest.raises(error):
            call()
    assert not root.path.exists()


def test_kinds_have_one_text():
    assert [kind_text("TRADES", True), kind_text("MIDPOINT", False)] == ["TRADES/regular", "MIDPOINT/extended"]


def test_files_are_readable_as_the_umask_allows(root):
    old = os.umask(0o027)
    try:
        path = publish_day(root, sample_bars_metadata(), sample_bars(rows=3)).path
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640
    assert files_below(root.path) == [
        ".bars/minute/AAPL.json",
        ".bars/minute/AAPL.lock",
        "bars/minute/AAPL/2025-11-26.parquet",
        "bars_download_manifest.jsonl",
    ]

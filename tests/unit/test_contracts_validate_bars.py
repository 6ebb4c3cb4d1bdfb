"""The validator on bars files: each damage is found, with its row, and nothing else is."""

from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import DataRoot, validate_path
from contracts.testing import BARS_DAY, BARS_HALF_DAY, sample_bars, write_bars

ROW = 30
"""The row that is damaged, in the middle of the file."""


@pytest.fixture
def root(tmp_path):
    return DataRoot(tmp_path / "root")


def write(root, columns, bar_size="1 min", day=BARS_DAY):
    return write_bars(root, pa.table(columns, schema=sample_bars(rows=1).schema), bar_size, "AAPL", day)


def columns_of(table):
    return {name: table.column(name).to_pylist() for name in table.schema.names}


def found(path, **options):
    report = validate_path(path, **options)
    return [(finding.rule, finding.severity, finding.row, finding.field) for finding in report.findings]


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("bar_size", ["1 hour", "1 min", "1 sec"])
@pytest.mark.parametrize(("day", "window"), [(BARS_DAY, "09:30-16:00"), (BARS_HALF_DAY, "04:00-20:00")])
def test_sound_bars_have_no_findings(root, bar_size, day, window, full):
    bars = sample_bars(bar_size, day, window_et=window, rows=1000)
    path = write_bars(root, bars, bar_size, "AAPL", day)
    report = validate_path(path, full=full)
    assert (report.findings, report.rows) == ([], bars.num_rows)
    assert list(report.kinds) == ["bars"]


def put(name, value):
    return lambda columns: columns[name].__setitem__(ROW, value)


DAMAGES = {
    **{f"a null {name}": (put(name, None), "null", name) for name in sample_bars(rows=1).schema.names if name != "WAP"},
    **{f"a NaN {name}": (put(name, float("nan")), "not-finite", name) for name in ("open", "high", "low", "volume")},
    "an infinite close": (put("close", float("inf")), "not-finite", "close"),
    "an infinite WAP": (put("WAP", float("-inf")), "not-finite", "WAP"),
    "an open below the low": (put("open", 1.0), "ohlc", "open"),
    "a close above the high": (put("close", 999.0), "ohlc", "close"),
    "a high below the low": (put("high", 1.0), "ohlc", "high"),
    "a negative volume": (put("volume", -1.0), "negative-volume", "volume"),
    "a negative count": (put("barCount", -1), "negative-count", "barCount"),
    "a time of another layout": (put("timestamp", "2025-11-26T15:00:00Z"), "timestamp", "timestamp"),
    "a time twice": (
        lambda columns: columns["timestamp"].__setitem__(ROW, columns["timestamp"][ROW - 1]),
        "timestamp-order",
        "timestamp",
    ),
}


@pytest.mark.parametrize(("damage", "rule", "field"), DAMAGES.values(), ids=DAMAGES)
def test_each_damage_is_found_at_its_row(root, damage, rule, field):
    columns = columns_of(sample_bars())
    damage(columns)
    path = write(root, columns)
    told = found(path)
    assert (rule, "error", ROW, field) in told
    # An infinite close is above its high too.
    assert {told_rule for told_rule, *_ in told} <= {rule, "ohlc"}
    assert found(path, full=False) == []


def test_a_price_below_zero_is_a_warning_and_a_wap_may_be_missing_in_both_forms(root):
    columns = columns_of(sample_bars())
    columns["WAP"][3:5] = [None, float("nan")]
    assert found(write(root, columns)) == []
    for name, price in (("open", -2.0), ("high", -1.0), ("low", -3.0), ("close", -2.0)):
        columns[name][ROW] = price
    assert found(write(root, columns)) == [
        ("negative-price", "warning", ROW, name) for name in ("open", "high", "low", "close")
    ]


def test_a_bar_of_another_et_day_is_found_whatever_its_utc_day(root):
    late = sample_bars("1 min", BARS_DAY, window_et="19:00-19:50")
    assert late.column("timestamp")[0].as_py().startswith("2025-11-27T00:00")
    assert found(write_bars(root, late, "1 min", "AAPL", BARS_DAY)) == []
    path = write_bars(root, late, "1 min", "AAPL", date(2025, 11, 27))
    assert found(path) == [("day", "error", 0, "timestamp")]
    assert "(50 rows" in validate_path(path).findings[0].message
    two_days = pa.concat_tables([sample_bars(), sample_bars(day=BARS_HALF_DAY, rows=5)])
    assert found(write_bars(root, two_days, "1 min", "AAPL", BARS_DAY)) == [("day", "error", 390, "timestamp")]


def test_bars_that_do_not_begin_on_a_multiple_of_their_size_are_a_warning(root):
    seconds = sample_bars("1 sec", rows=100)
    assert found(write_bars(root, seconds, "1 min", "AAPL", BARS_DAY)) == [("alignment", "warning", 1, "timestamp")]
    assert found(write_bars(root, seconds, "1 sec", "AAPL", BARS_DAY)) == []


def test_rows_are_checked_across_batches(root):
    bars = sample_bars("1 sec", window_et="04:00-20:00")
    columns = columns_of(bars)
    for row in (32_767, 32_768, 50_000):
        columns["volume"][row] = -1.0
    (finding,) = validate_path(write(root, columns, "1 sec")).findings
    assert (finding.rule, finding.row) == ("negative-volume", 32_767)
    assert "3 rows" in finding.message


@pytest.mark.parametrize("full", [True, False])
def test_other_columns_types_and_no_rows_are_found_without_reading_rows(root, full):
    bars = sample_bars()
    index = bars.append_column("__index_level_0__", pa.array(range(bars.num_rows)))
    for wrong in (bars.drop_columns("WAP"), bars.select(bars.schema.names[::-1]), index):
        path = write_bars(root, wrong, "1 min", "AAPL", BARS_DAY)
        assert found(path, full=full) == [("columns", "error", None, None)]
    narrow = bars.set_column(6, "barCount", bars.column("barCount").cast(pa.int32()))
    path = write_bars(root, narrow, "1 min", "AAPL", BARS_DAY)
    assert found(path, full=full) == [("type", "error", None, "barCount")]
    path = write_bars(root, bars[:0], "1 min", "AAPL", BARS_DAY)
    assert found(path, full=full) == [("no-rows", "error", None, None)]


@pytest.mark.parametrize("place", ["bars/daily/AAPL", "bars/minute/aapl", "bars/minute/AAPL", "elsewhere"])
def test_bars_in_another_place_or_of_another_name_are_checked_with_a_warning(tmp_path, place):
    path = tmp_path / place / "november.parquet"
    path.parent.mkdir(parents=True)
    two_days = pa.concat_tables([sample_bars(), sample_bars(day=BARS_HALF_DAY, rows=5)])
    pq.write_table(two_days, path)
    expected = [("name", "warning", None, None), ("day", "error", 390, "timestamp")]
    assert found(path) == expected
    if place != "elsewhere":
        expected.append(("unlisted", "warning", None, None))
    assert found(tmp_path) == expected


def test_a_folder_can_be_named_from_inside_the_data_root(root, monkeypatch):
    write_bars(root, sample_bars(), "1 min", "AAPL", BARS_DAY)
    for folder in ("bars", "bars/minute", "bars/minute/AAPL"):
        monkeypatch.chdir(root.path / folder)
        assert found(".") == []
    monkeypatch.chdir(root.path / "bars/minute")
    assert found("AAPL") == []
    assert found(f"AAPL/{BARS_DAY}.parquet") == []

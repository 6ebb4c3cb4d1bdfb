"""Bars are found through the coverage index alone and come out day by day; what it promises must be there."""

import json
import os
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import (
    InvalidBarsFile,
    InvalidDocument,
    InvalidName,
    InvalidSymbol,
    MixedData,
    NotAvailable,
    UnknownSchemaVersion,
)
from contracts.layout import DataRoot
from contracts.reader import MarketData
from contracts.testing import sample_bars_metadata
from contracts.timestamps import ns_from_iso_utc
from contracts.v1.bars import BAR_SCHEMA

DAY, NEXT = date(2025, 9, 4), date(2025, 9, 5)


def bars_of(day, rows, first_hour_utc=14):
    start = datetime(day.year, day.month, day.day, first_hour_utc, tzinfo=UTC)
    times = [f"{start + timedelta(minutes=at):%Y-%m-%dT%H:%M:%S}.000000000+00:00" for at in range(rows)]
    price = [10.0 + at for at in range(rows)]
    wap = [None, *price[1:]]
    return pa.table([times, price, price, price, price, [100.0] * rows, [1] * rows, wap], schema=BAR_SCHEMA)


def write_bars(root, day, rows, bar_size="1 min", symbol="AAPL"):
    """Write a file; returns its day in the coverage."""
    path = root.bars_path(bar_size, symbol, day)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(bars_of(day, rows), path)
    return {
        "date": day.isoformat(),
        "time_start": f"{day}T10:00:00-04:00",
        "time_end": f"{day}T10:{rows - 1:02}:00-04:00",
        "path": str(path),
        "filename": path.name,
        "rows": rows,
    }


def entry_of(days, symbol="AAPL", bar_size="1 min"):
    total = {"date_start": days[0]["date"], "date_end": days[-1]["date"]}
    return {"symbol": symbol, "bar_size": bar_size, "total": total, "days": days}


def write_coverage(root, *entries, **changes):
    document = {
        "schema_version": "bars_coverage.v1",
        "generated_at": "2025-09-16T02:10:00+00:00",
        "entries": list(entries),
    }
    root.bars_coverage.write_text(json.dumps(document | changes))


@pytest.fixture
def root(tmp_path):
    root = DataRoot(tmp_path / "data")
    minutes = [write_bars(root, DAY, 5), write_bars(root, NEXT, 3)]
    hours = [write_bars(root, DAY, 1, "1 hour", "BRK-B")]
    write_coverage(root, entry_of(minutes), entry_of(hours, "BRK-B", "1 hour"))
    return root


@pytest.fixture
def data(root):
    return MarketData(root.path)


def test_bars_are_listed_and_loaded_through_the_coverage(data):
    assert data.symbols("bars") == ["AAPL", "BRK-B"]
    assert data.bars_days("aapl", "1 min") == [DAY, NEXT]
    assert data.bars_days("BRK.B", "1 hour") == [DAY]
    assert data.bars_days("AAPL", "1 sec") == []
    expected = pa.concat_tables([bars_of(DAY, 5), bars_of(NEXT, 3)])
    assert data.bars("AAPL", "1 min", "2025-09-01", "2025-09-30") == expected
    assert data.bars("AAPL", "1 min", NEXT) == bars_of(NEXT, 3)


def test_files_that_are_not_in_the_coverage_are_not_found(data, root):
    write_bars(root, date(2025, 9, 8), 4)
    assert data.bars_days("AAPL", "1 min") == [DAY, NEXT]
    with pytest.raises(NotAvailable, match="2 days from 2025-09-04 to 2025-09-05"):
        data.bars("AAPL", "1 min", "2025-09-08")


def test_a_moved_root_is_read_in_its_new_place(root, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.move(root.path, moved)
    assert MarketData(moved).bars("AAPL", "1 min", DAY, NEXT).num_rows == 8


def test_a_copied_root_gives_its_own_files_while_the_original_is_still_there(root, tmp_path):
    original = DataRoot(tmp_path / "original")
    day = write_bars(original, DAY, 5)
    write_coverage(root, entry_of([day]))
    own = root.bars_path("1 min", "AAPL", DAY)
    assert MarketData(root.path).bars("AAPL", "1 min", DAY).equals(pq.read_table(own))
    assert MarketData(root.path).bars_coverage("AAPL", "1 min", DAY).files == [own]


def test_a_path_outside_the_grammar_is_taken_as_it_is(root, tmp_path):
    day = write_bars(DataRoot(tmp_path / "other"), DAY, 2)
    odd = tmp_path / "old-AAPL-bars.parquet"
    Path(day["path"]).rename(odd)
    write_coverage(root, entry_of([day | {"path": str(odd), "filename": odd.name}]))
    assert MarketData(root.path).bars("AAPL", "1 min", DAY).num_rows == 2


@pytest.mark.parametrize("filename", ["../../../../secret.parquet", "..\\secret.parquet", "..", ""])
def test_a_listed_name_never_leads_out_of_its_folder(root, tmp_path, filename):
    shutil.copy(root.bars_path("1 min", "AAPL", DAY), tmp_path / "secret.parquet")
    day = write_bars(root, DAY, 5) | {"path": "/gone/x.parquet", "filename": filename}
    write_coverage(root, entry_of([day]))
    with pytest.raises((InvalidBarsFile, InvalidDocument, NotAvailable)) as refused:
        MarketData(root.path).bars("AAPL", "1 min", DAY)
    assert getattr(refused.value, "path", root.path).is_relative_to(root.path)


def test_a_new_coverage_is_seen_by_an_open_reader(data, root):
    assert data.bars_days("AAPL", "1 min") == [DAY, NEXT]
    write_coverage(
        root, entry_of([write_bars(root, DAY, 5), write_bars(root, NEXT, 3), write_bars(root, date(2025, 9, 8), 9)])
    )
    assert data.bars_days("AAPL", "1 min")[-1] == date(2025, 9, 8)
    assert data.bars("AAPL", "1 min", DAY, "2025-09-08").num_rows == 17


def test_of_several_roots_the_best_one_that_has_the_bars_gives_them(root, tmp_path):
    base = DataRoot(tmp_path / "base")
    write_coverage(
        base_made(base),
        entry_of([write_bars(base, DAY, 2)]),
        entry_of([write_bars(base, DAY, 7, symbol="MSFT")], "MSFT"),
    )
    data = MarketData.from_env({"DATA_PATH_OVERRIDE": str(root.path), "ML_BASE_PATH": str(base.path)})
    assert data.bars("AAPL", "1 min", DAY).num_rows == 5
    assert data.bars("MSFT", "1 min", DAY).num_rows == 7
    assert data.symbols("bars") == ["AAPL", "BRK-B", "MSFT"]


def base_made(root):
    root.path.mkdir()
    return root


def test_without_coverage_or_bars_the_error_says_what_to_do(data, root):
    with pytest.raises(NotAvailable, match="the coverage has 1 hour bars of BRK-B"):
        data.bars("BRK-B", "1 min", DAY)
    with pytest.raises(NotAvailable, match="the coverage has no bars of MSFT"):
        data.bars("MSFT", "1 min", DAY)
    root.bars_coverage.unlink()
    for ask in (
        lambda: data.bars("AAPL", "1 min", DAY),
        lambda: data.bars_days("AAPL", "1 min"),
        lambda: data.symbols("bars"),
    ):
        with pytest.raises(NotAvailable, match="trading-data coverage build"):
            ask()


def test_an_entry_without_days_has_no_bars(root):
    total = {"date_start": "2025-09-04", "date_end": "2025-09-04"}
    write_coverage(root, {"symbol": "AAPL", "bar_size": "1 min", "total": total, "days": []})
    data = MarketData(root.path)
    assert data.bars_days("AAPL", "1 min") == []
    with pytest.raises(NotAvailable, match="has 0 days"):
        data.bars("AAPL", "1 min", DAY)


def test_what_cannot_be_asked_is_refused(data):
    with pytest.raises(InvalidName, match="1 hour, 1 min, 1 sec"):
        data.bars("AAPL", "5 mins", DAY)
    with pytest.raises(InvalidSymbol):
        data.bars_days("../AAPL", "1 min")
    with pytest.raises(InvalidName):
        data.bars("AAPL", "1 min", "4.9.2025")


def null_price(table):
    return table.set_column(2, "high", pa.array([1.0, None, 1.0, 1.0, 1.0]))


def backwards(table):
    return table.take([0, 2, 1, 3, 4])


FILES = {
    "gone": (lambda path: path.unlink(), "cannot be looked at"),
    "no bytes": (lambda path: path.write_bytes(b""), "no bytes"),
    "no parquet": (lambda path: path.write_bytes(b"PAR1" * 9), "not a readable parquet file"),
    "other columns": (lambda path: pq.write_table(bars_of(DAY, 5).drop_columns("WAP"), path), "the columns are"),
    "other types": (
        lambda path: pq.write_table(bars_of(DAY, 5).set_column(6, "barCount", pa.array([1.0] * 5)), path),
        "field barCount: the type is double, not int64",
    ),
    "other rows": (lambda path: pq.write_table(bars_of(DAY, 4), path), "4 rows, the coverage says 5"),
    "a null": (lambda path: pq.write_table(null_price(bars_of(DAY, 5)), path), "row 1, field high: the value is null"),
    "times that run backwards": (
        lambda path: pq.write_table(backwards(bars_of(DAY, 5)), path),
        "row 2, field timestamp: the time is not after",
    ),
    "times of another form": (
        lambda path: pq.write_table(
            bars_of(DAY, 5).set_column(0, "timestamp", pa.array(["2025-09-04 10:00:00-04:00"] * 5)), path
        ),
        "row 0, field timestamp",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), FILES.values(), ids=FILES)
def test_a_listed_file_that_is_not_what_was_promised_is_refused_and_named(data, root, damage, reason):
    path = root.bars_path("1 min", "AAPL", DAY)
    damage(path)
    with pytest.raises(InvalidBarsFile, match=reason) as refused:
        data.bars("AAPL", "1 min", DAY, NEXT)
    assert refused.value.path == path
    assert data.bars("AAPL", "1 min", NEXT).num_rows == 3


def test_of_an_old_file_of_several_days_the_listed_day_is_loaded(root):
    day = write_bars(root, DAY, 5)
    both = pa.concat_tables([bars_of(DAY, 5), bars_of(NEXT, 3)])
    pq.write_table(both, day["path"])
    write_coverage(root, entry_of([day | {"rows": 8}]))
    assert MarketData(root.path).bars("AAPL", "1 min", DAY) == bars_of(DAY, 5)


def test_old_coverage_is_read_with_its_naive_times_and_spellings(root):
    old = write_bars(root, DAY, 2, symbol="BRK-B") | {"time_start": f"{DAY}T10:00:00", "time_end": None}
    write_coverage(root, entry_of([old], "BRK.B"), generated_at="2025-09-16T02:10:00")
    data = MarketData(root.path)
    table = data.bars("BRK/B", "1 min", DAY)
    assert (
        ns_from_iso_utc(table.column("timestamp"))[0] == int(datetime(2025, 9, 4, 14, tzinfo=UTC).timestamp()) * 10**9
    )


DOCUMENTS = {
    "torn": (lambda text: text[: len(text) // 2], InvalidDocument),
    "no object": (lambda text: f"[{text}]", InvalidDocument),
    "another version": (lambda text: text.replace("coverage.v1", "coverage.v2"), UnknownSchemaVersion),
    "no version": (lambda text: text.replace("schema_version", "version"), UnknownSchemaVersion),
    "no entries": (lambda text: text.replace("entries", "rows"), InvalidDocument),
    "rows as text": (lambda text: text.replace('"rows": 5', '"rows": "5"'), InvalidDocument),
    "days that do not rise": (
        lambda text: text.replace('"date": "2025-09-05"', '"date": "2025-09-04"'),
        InvalidDocument,
    ),
    "an entry twice": (lambda text: text.replace("BRK-B", "AAPL").replace("1 hour", "1 min"), InvalidDocument),
    "an entry without symbol": (lambda text: text.replace('"symbol": "BRK-B"', '"symbol": 7'), InvalidDocument),
    "a key twice": (lambda text: text.replace('"filename"', '"path"'), InvalidDocument),
    "not a number": (lambda text: text.replace('"rows": 5', '"rows": NaN'), InvalidDocument),
    "no text": (lambda text: "", InvalidDocument),
}


@pytest.mark.parametrize(("damage", "error"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_damaged_coverage_is_refused(data, root, damage, error):
    root.bars_coverage.write_text(damage(root.bars_coverage.read_text()))
    with pytest.raises(error):
        data.bars("AAPL", "1 min", DAY)


def test_a_coverage_that_is_no_file_is_refused(data, root):
    root.bars_coverage.unlink()
    os.mkfifo(root.bars_coverage)
    with pytest.raises(InvalidDocument, match="not a regular file"):
        data.bars("AAPL", "1 min", DAY)


def test_bars_coverage_tells_of_days_that_are_missing_or_cut_short(data):
    report = data.bars_coverage("AAPL", "1 min", "2025-09-03", "2025-09-06")
    assert report.missing_days == [date(2025, 9, 3)]
    assert report.partial_days == [DAY, NEXT]
    assert data.bars_coverage("MSFT", "1 min", DAY).missing_days == [DAY]


@pytest.mark.parametrize(
    ("other", "differing"),
    [
        ({"what_to_show": "MIDPOINT"}, {"what_to_show": ["MIDPOINT", "TRADES"]}),
        ({"use_rth": False}, {"hours": ["extended", "regular"]}),
        ({"price_adjustment": "split"}, {"price_adjustment": ["raw", "split"]}),
    ],
)
def test_days_of_unlike_bars_are_one_series_only_when_that_is_asked_for(root, other, differing):
    days = [write_bars(root, DAY, 3), write_bars(root, NEXT, 2)]
    write_coverage(root, entry_of(days))
    for day, changes in ((DAY, {}), (NEXT, other)):
        path = root.bars_path("1 min", "AAPL", day)
        footer = sample_bars_metadata("AAPL", "1 min", day).model_copy(update=changes).to_footer()
        pq.write_table(pq.read_table(path).replace_schema_metadata(footer), path)
    data = MarketData(root.path)

    with pytest.raises(MixedData) as refused:
        data.bars("AAPL", "1 min", DAY, NEXT)

    assert refused.value.differing == differing
    assert "allow_mixed=True" in str(refused.value)
    assert data.bars("AAPL", "1 min", DAY, NEXT, allow_mixed=True).num_rows == 5
    assert data.bars("AAPL", "1 min", NEXT).num_rows == 2


def test_a_file_that_does_not_say_what_it_is_goes_with_every_other(root):
    days = [write_bars(root, DAY, 3), write_bars(root, NEXT, 2)]
    write_coverage(root, entry_of(days))
    path = root.bars_path("1 min", "AAPL", NEXT)
    pq.write_table(
        pq.read_table(path).replace_schema_metadata(sample_bars_metadata("AAPL", "1 min", NEXT).to_footer()), path
    )

    assert MarketData(root.path).bars("AAPL", "1 min", DAY, NEXT).num_rows == 5

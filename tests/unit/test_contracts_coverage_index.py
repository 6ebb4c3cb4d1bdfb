"""Looking days up in a coverage file, of this package and of the system before, sound and damaged."""

import json
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import ContractError, DataRoot, InvalidDocument, InvalidSymbol, NotAvailable, UnknownSchemaVersion
from contracts.coverage import build_coverage, load_coverage
from contracts.v1.bars import parse_bars_coverage

STAMP = datetime(2025, 9, 16, 2, 10, tzinfo=UTC)
FIRST = date(2025, 9, 1)

LEGACY = {
    "schema_version": "bars_coverage.v1",
    "generated_at": "2025-09-15T22:10:00",
    "entries": [
        {
            "symbol": "BRK.B",
            "bar_size": "1 min",
            "total": {"date_start": "2025-09-10", "date_end": "2025-09-15"},
            "days": [
                {
                    "date": day,
                    "time_start": f"{day}T09:30:00",
                    "time_end": f"{day}T16:00:00",
                    "path": f"/data/ML/bars/minute/BRK.B/{day}.parquet",
                    "filename": f"{day}.parquet",
                    "rows": 389,
                }
                for day in ("2025-09-15", "2025-09-10")
            ],
        }
    ],
}
"""Naive times, another spelling, days that are not sorted, no line ends where we have them."""


def line(symbol, bar_size, day, **changes):
    document = {
        "schema_version": "bars_manifest.v1",
        "written_at": "2025-09-30T20:05:01+00:00",
        "vendor": "IBKR",
        "file_format": "parquet",
        "symbol": symbol,
        "bar_size": bar_size,
        "path": f"/data/{symbol}/{bar_size}/{day}.parquet",
        "filename": f"{day}.parquet",
        "rows": 389,
        "columns": ["timestamp"],
        "time_start": f"{day}T09:30:00-04:00",
        "time_end": f"{day}T15:59:00-04:00",
        **changes,
    }
    return json.dumps(document) + "\n"


@pytest.fixture
def path(tmp_path):
    """The coverage file of two symbols with five days each, and a third with one."""
    root = DataRoot(tmp_path)
    days = [FIRST + timedelta(number) for number in range(5)]
    lines = [line(symbol, "1 min", day) for symbol in ("AAPL", "MSFT") for day in days]
    lines.append(line("BRK.B", "1 sec", FIRST, path='/d/"days":[\\é{"date":"', time_start=None, time_end=None))
    root.bars_manifest.write_text("".join(lines))
    build_coverage(root, generated_at=STAMP)
    return root.bars_coverage


def test_days_are_found_by_symbol_in_any_spelling_and_bar_size(path):
    index = load_coverage(path)
    assert index.generated_at == STAMP
    assert index.keys == [("AAPL", "1 min"), ("BRK-B", "1 sec"), ("MSFT", "1 min")]
    days = index.days("aapl", "1 min")
    assert days.dtype == np.dtype("datetime64[D]")
    assert days.tolist() == [FIRST + timedelta(number) for number in range(5)]
    assert index.days("brk.b", "1 sec").tolist() == [FIRST]
    assert index.days("AAPL", "1 sec").tolist() == []
    with pytest.raises(InvalidSymbol):
        index.days("../x", "1 min")


@pytest.mark.parametrize(
    ("start", "end", "numbers"),
    [
        (None, None, range(5)),
        (1, 3, range(1, 4)),
        (None, 0, [0]),
        (4, 99, [4]),
        (5, None, []),
        (3, 2, []),
        (-9, -1, []),
    ],
)
def test_files_of_a_range_include_both_ends(path, start, end, numbers):
    bounds = [None if number is None else FIRST + timedelta(number) for number in (start, end)]
    files = load_coverage(path).files("MSFT", "1 min", *bounds)
    assert [file.date for file in files] == [FIRST + timedelta(number) for number in numbers]
    for file in files:
        assert (file.path, file.rows) == (f"/data/MSFT/1 min/{file.date}.parquet", 389)
        assert file.time_start.isoformat() == f"{file.date}T09:30:00-04:00"


def test_a_whole_entry_is_that_of_the_model(path):
    coverage = parse_bars_coverage(path.read_bytes())
    index = load_coverage(path)
    assert [index.entry(symbol, bar_size) for symbol, bar_size in index.keys] == list(coverage.entries)
    assert index.files("BRK-B", "1 sec")[0].path == '/d/"days":[\\é{"date":"'


def test_what_is_not_there_says_what_is(path):
    index = load_coverage(path)
    with pytest.raises(NotAvailable, match="of AAPL there are 1 min"):
        index.entry("AAPL", "1 sec")
    with pytest.raises(NotAvailable, match="nothing of QQQ"):
        index.entry("QQQ", "1 sec")
    with pytest.raises(NotAvailable, match="coverage build"):
        load_coverage(path.with_name("x.json"))


def test_a_coverage_without_entries_has_no_days(tmp_path):
    root = DataRoot(tmp_path)
    root.bars_manifest.touch()
    build_coverage(root)
    assert load_coverage(root.bars_coverage).keys == []


@pytest.mark.parametrize("indent", [None, 2])
def test_the_file_of_the_system_before_is_read(tmp_path, indent):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(LEGACY, indent=indent))
    index = load_coverage(path)
    assert index.generated_at == datetime(2025, 9, 16, 2, 10, tzinfo=UTC)
    assert index.keys == [("BRK-B", "1 min")]
    assert index.days("BRK.B", "1 min").tolist() == [date(2025, 9, 10), date(2025, 9, 15)]
    assert [file.time_end.isoformat() for file in index.files("BRK B", "1 min", date(2025, 9, 11))] == [
        "2025-09-15T16:00:00-04:00"
    ]


def test_every_layout_of_the_same_document_gives_the_same_answers(path):
    ours = load_coverage(path)
    document = json.loads(path.read_bytes())
    for text in (json.dumps(document), json.dumps(document, indent=1), json.dumps(document, separators=(",", ":"))):
        path.write_text(text)
        other = load_coverage(path)
        assert other.keys == ours.keys
        for key in ours.keys:
            assert other.entry(*key) == ours.entry(*key)
            assert other.days(*key).tolist() == ours.days(*key).tolist()


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b"bars_coverage.v1", b"bars_coverage.v2", UnknownSchemaVersion),
        (b'"schema_version":"bars_coverage.v1",', b"", UnknownSchemaVersion),
        (b"bars_coverage.v1", b"bars_coverage.v10", UnknownSchemaVersion),
        (b'"generated_at":"2025', b'"generated_at":"x025', InvalidDocument),
        (b'"symbol":"AAPL"', b'"symbol":"MSFT"', InvalidDocument),
        (b'"symbol":"AAPL"', b'"symbol":["A"]', InvalidDocument),
        (b'"bar_size":"1 min"', b'"bar_size":"1 day"', InvalidDocument),
        (b"]},\n", b"]}\n", InvalidDocument),
        (b'"days":[\n', b'"days":{\n', InvalidDocument),
        (b"\n]}\n", b"", InvalidDocument),
    ],
)
def test_a_frame_that_is_not_right_is_refused_at_once(path, old, new, error):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1) if old != b"\n]}\n" else content.removesuffix(old))
    with pytest.raises(error):
        load_coverage(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'{"date":"2025-09-02"', b'{"date":"2025-09-32"'),
        (b'{"date":"2025-09-02"', b'{"date":"2025-09-01"'),
        (b'{"date":"2025-09-02"', b'{"date":"2025-09-09"'),
        (b'{"date":"2025-09-02"', b'{"date":"2025-09-2"'),
        (b'{"date":"2025-09-02"', b'{"Date":"2025-09-02"'),
        (b'{"date":"2025-09-02"', b'{ "date":"2025-09-02"'),
        (b'{"date":"2025-09-05"', b'{"date'),
    ],
)
def test_days_that_are_not_right_are_refused_when_they_are_asked_for(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    index = load_coverage(path)
    with pytest.raises(InvalidDocument):
        index.days("AAPL", "1 min")
    assert len(index.days("MSFT", "1 min")) == 5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"rows":389', b'"rows":"389"'),
        (b'"rows":389', b'"rows":NaN'),
        (b'"path":', b'"rows":1,"path":'),
        (b'"path":', b'"x":'),
    ],
)
def test_values_that_are_not_right_are_refused_when_they_are_asked_for(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    index = load_coverage(path)
    with pytest.raises(InvalidDocument):
        index.files("AAPL", "1 min")
    with pytest.raises(InvalidDocument):
        index.entry("AAPL", "1 min")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_damage_makes_it_crash(tmp_path_factory, data):
    root = DataRoot(tmp_path_factory.mktemp("root"))
    root.bars_manifest.write_text(line("AAPL", "1 min", FIRST) + line("MSFT", "1 sec", FIRST))
    build_coverage(root)
    content = bytearray(root.bars_coverage.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    root.bars_coverage.write_bytes(content)
    try:
        index = load_coverage(root.bars_coverage)
        for key in index.keys:
            index.days(*key)
            index.files(*key)
            index.entry(*key)
    except ContractError:
        pass

"""What Databento is asked for: the symbol mapping file first, else the dataset's spelling; a bad file never passes."""

from __future__ import annotations

import datetime as dt
import json
import logging

import pytest

from connectors.databento.mapping import MappingFileError, day_request, read_mapping, vendor_spelling
from connectors.databento.request import DayRequest, canonical_dataset
from contracts.v1.symbol_mapping import SymbolMapping

DAY = dt.date(2025, 9, 5)
WINDOW_NS = (1_757_075_400_000_000_000, 1_757_084_400_000_000_000)  # 2025-09-05 12:30 to 15:00 UTC


@pytest.fixture
def mapping(tmp_path):
    """Writes a mapping file and reads it."""

    def read(content):
        path = tmp_path / "symbol_mapping.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return read_mapping(path, required=True)

    return read


def ask(symbol, mapping=None, day=DAY, dataset="XNAS.ITCH", schema="mbp-10"):
    mapping = mapping or SymbolMapping({})
    return day_request(symbol, day, WINDOW_NS, dataset=dataset, schema=schema, mapping=mapping)


def test_without_an_entry_the_defaults_are_asked_for():
    assert ask("AAPL") == DayRequest("AAPL", DAY, "AAPL", "XNAS.ITCH", "mbp-10", *WINDOW_NS)


@pytest.mark.parametrize(
    ("dataset", "spelling"),
    [
        ("XNAS.ITCH", "BRK.B"),
        ("XNAS.BASIC", "BRK.B"),
        ("XBOS.ITCH", "BRK.B"),
        ("XPSX.ITCH", "BRK.B"),
        ("EQUS.MINI", "BRK.B"),
        ("IEXG.TOPS", "BRK.B"),
        ("EPRL.DOM", "BRK.B"),
        ("BATS.PITCH", "BRK.B"),
        ("EDGX.PITCH", "BRK.B"),
        ("NASDAQ.ITCH", "BRK.B"),
        ("XNYS.PILLAR", "BRK B"),
        ("NYSE.PILLAR", "BRK B"),
        ("ARCX.PILLAR", "BRK B"),
        ("MEMX.MEMOIR", "BRK B"),
    ],
)
def test_a_share_class_is_spelled_as_the_dataset_does(dataset, spelling):
    assert ask("BRK-B", dataset=dataset).vendor_symbol == spelling
    assert vendor_spelling("AAPL", canonical_dataset(dataset)) == "AAPL"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("NASDAQ.ITCH", "XNAS.ITCH"),
        ("NYSE.PILLAR", "XNYS.PILLAR"),
        (" nasdaq.itch ", "XNAS.ITCH"),
        ("xnas.itch", "XNAS.ITCH"),
        ("EQUS.MINI", "EQUS.MINI"),
    ],
)
def test_people_names_of_datasets_become_the_vendors(mapping, name, code):
    assert ask("AAPL", dataset=name).dataset == code
    assert ask("AAPL", mapping({"AAPL": {"dataset": name}}), dataset="ARCX.PILLAR").dataset == code


def test_a_text_entry_names_the_vendor_symbol(mapping):
    found = ask("BRK-B", mapping({"BRK-B": "BRK.B"}), dataset="XNYS.PILLAR")
    assert (found.symbol, found.vendor_symbol, found.dataset) == ("BRK-B", "BRK.B", "XNYS.PILLAR")


def test_every_part_of_an_object_entry_is_optional(mapping):
    read = mapping({"AA": {"symbol": "AA.X"}, "BB": {"dataset": "XNYS.PILLAR"}, "CC": {"schema": "mbp-1"}, "DD": {}})
    asked = [ask(symbol, read) for symbol in ("AA", "BB", "CC", "DD")]
    assert [(r.vendor_symbol, r.dataset, r.schema) for r in asked] == [
        ("AA.X", "XNAS.ITCH", "mbp-10"),
        ("BB", "XNYS.PILLAR", "mbp-10"),
        ("CC", "XNAS.ITCH", "mbp-1"),
        ("DD", "XNAS.ITCH", "mbp-10"),
    ]


def test_an_entry_that_sends_a_symbol_elsewhere_spells_it_as_there(mapping):
    assert ask("BRK-B", mapping({"BRK-B": {"dataset": "NYSE.PILLAR"}})).vendor_symbol == "BRK B"


@pytest.mark.parametrize("key", ["BRK-B", "BRK.B", "brk.b", "BRK/B", " BRK B "])
def test_an_entry_is_found_by_the_canonical_and_by_any_other_spelling(mapping, key):
    assert ask("BRK-B", mapping({key: "BRKB"})).vendor_symbol == "BRKB"


def test_two_spellings_of_a_symbol_may_share_the_calendar_but_not_a_day(mapping):
    read = mapping(
        {
            "BRK.B": {"symbol": "OLD", "valid_to": "2024-12-31"},
            "BRK-B": {"symbol": "NEW", "valid_from": "2025-01-01"},
        }
    )
    assert ask("BRK-B", read).vendor_symbol == "NEW"
    assert ask("BRK-B", read, day=dt.date(2024, 12, 31)).vendor_symbol == "OLD"


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (dt.date(2022, 6, 8), "FB"),
        (dt.date(2022, 6, 9), "META"),
        (dt.date(2012, 5, 17), "META"),
        (dt.date(2012, 5, 18), "FB"),
    ],
)
def test_an_entry_holds_from_its_first_to_its_last_day(mapping, day, expected):
    read = mapping({"META": {"symbol": "FB", "valid_from": "2012-05-18", "valid_to": "2022-06-08"}})
    assert ask("META", read, day=day).vendor_symbol == expected


def test_the_mapping_changes_nothing_but_the_vendor_request(mapping):
    found = ask("BRK-B", mapping({"BRK-B": {"symbol": "X", "dataset": "XNYS.PILLAR", "schema": "mbp-1"}}))
    assert (found.symbol, found.day, found.start_ns, found.end_ns) == ("BRK-B", DAY, *WINDOW_NS)
    assert found.label == "BRK-B 2025-09-05"


def test_a_file_with_a_byte_order_mark_is_read(mapping):
    assert ask("BRK-B", mapping(b'\xef\xbb\xbf{"BRK-B": "BRKB"}')).vendor_symbol == "BRKB"


def test_an_empty_object_is_an_empty_mapping(mapping):
    assert mapping({}).root == {}


def test_a_missing_file_is_an_empty_mapping_unless_it_was_named(tmp_path):
    path = tmp_path / "symbol_mapping.json"
    assert read_mapping(path, required=False).root == {}
    with pytest.raises(MappingFileError, match="no such file") as failed:
        read_mapping(path, required=True)
    assert failed.value.path == path


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"AAPL": "AAPL.X",}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"A": "A1", "A": "A2"}', "stands twice"),
        (b'{"A": {"symbol": "A1", "symbol": "A2"}}', "stands twice"),
        (b"\xff\xfe{\x00}\x00", "cannot be read"),
        (b"[]", "the whole file"),
        (b"null", "the whole file"),
        (b'"AAPL"', "the whole file"),
        (b'{"AAPL": 5}', "AAPL"),
        (b'{"AAPL": null}', "AAPL"),
        (b'{"AAPL": ""}', "AAPL"),
        (b'{"AAPL": ["X"]}', "AAPL"),
        (b'{"AAPL": "X,Y"}', "AAPL"),
        (b'{"AAPL": {"symbl": "X"}}', "symbl"),
        (b'{"AAPL": {"schema": "mbo"}}', "mbo"),
        (b'{"AAPL": {"valid_from": "tomorrow"}}', "valid_from"),
        (b'{"AAPL": {"valid_from": "2025-02-01", "valid_to": "2025-01-01"}}', "valid_from 2025-02-01 is after"),
        (b'{"BRK.B": "X", "BRK-B": "Y"}', "both BRK-B"),
        (b'{"../x": "X"}', "whole file"),
        (b'{"": "X"}', "whole file"),
    ],
)
def test_a_malformed_file_is_an_error_that_names_file_and_fault(tmp_path, content, problem, required):
    path = tmp_path / "symbol_mapping.json"
    path.write_bytes(content)
    with pytest.raises(MappingFileError) as failed:
        read_mapping(path, required=required)
    assert failed.value.path == path
    for words in ("SYMBOL_MAPPING_FILE", str(path), problem, "Correct the file"):
        assert words in str(failed.value)


def test_a_folder_in_the_files_place_is_an_error(tmp_path):
    with pytest.raises(MappingFileError, match="cannot be read"):
        read_mapping(tmp_path, required=False)


def test_each_identity_entry_warns_once(mapping, caplog):
    with caplog.at_level(logging.WARNING):
        read = mapping({"AAPL": "AAPL", "MSFT": {"symbol": "MSFT"}, "WFI": {"symbol": "WFI", "dataset": "XNYS.PILLAR"}})
        for _ in range(3):
            ask("AAPL", read)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert ("AAPL" in texts[0], "MSFT" in texts[1]) == (True, True)


def test_a_request_knows_the_utc_days_it_touches():
    evening = DayRequest(
        "AAPL", dt.date(2025, 1, 15), "AAPL", "XNAS.ITCH", "mbp-10", 1_736_935_200 * 10**9, 1_736_989_200 * 10**9
    )
    assert (evening.start, evening.end) == (
        dt.datetime(2025, 1, 15, 10, 0, tzinfo=dt.UTC),
        dt.datetime(2025, 1, 16, 1, 0, tzinfo=dt.UTC),
    )
    assert (evening.first_utc_day, evening.last_utc_day) == (dt.date(2025, 1, 15), dt.date(2025, 1, 16))
    to_midnight = DayRequest("AAPL", dt.date(2025, 1, 15), "AAPL", "XNAS.ITCH", "mbp-10", 0, 86_400 * 10**9)
    assert to_midnight.last_utc_day == to_midnight.first_utc_day == dt.date(1970, 1, 1)

"""The symbol mapping: which entry holds for a symbol and a day, and what is no mapping."""

import json
import re
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts import InvalidDocument, InvalidSymbol, SymbolMapping, SymbolMappingEntry, canonical_symbol, validate_path
from contracts.symbols import SPELLING_PATTERN

DAY = date(2025, 9, 4)


def read(document):
    return SymbolMapping.from_document(document)


@pytest.mark.parametrize("key", ["BRK-B", "BRK.B", "brk.b", " BRK/B ", "Brk B"])
@pytest.mark.parametrize("asked", ["BRK-B", "brk.b"])
def test_a_key_and_a_question_in_any_spelling_are_the_same_symbol(key, asked):
    assert read({key: "BRK.B"}).entry(asked, DAY).symbol == "BRK.B"


def test_a_symbol_that_no_key_names_has_no_entry():
    assert read({"BRK-B": "BRK.B"}).entry("BRK-A", DAY) is None
    assert read({}).entry("AAPL", DAY) is None
    with pytest.raises(InvalidSymbol):
        read({}).entry("../x", DAY)


def test_a_text_is_short_for_an_entry_with_only_the_symbol():
    assert read({"A": " B "}).root["A"] == SymbolMappingEntry(symbol="B")
    assert read({"A": "B"}) == read({"A": {"symbol": "B", "dataset": None}})


def test_every_part_of_an_entry_is_read():
    entry = read(
        {"WFI": {"dataset": "XNYS.PILLAR", "schema": "mbp-1", "valid_from": "2025-09-04", "valid_to": "2025-09-05"}}
    ).entry("WFI", DAY)
    assert (entry.symbol, entry.dataset, entry.schema_) == (None, "XNYS.PILLAR", "mbp-1")
    assert (entry.valid_from, entry.valid_to) == (date(2025, 9, 4), date(2025, 9, 5))


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (date.min, "FB"),
        (date(2022, 6, 8), "FB"),
        (date(2022, 6, 9), None),
        (date(2022, 6, 10), "META"),
        (date(2024, 12, 31), "META"),
        (date(2025, 1, 1), None),
    ],
)
def test_both_ends_of_the_validity_are_included(day, expected):
    mapping = read(
        {
            "META": {"symbol": "META", "valid_from": "2022-06-10", "valid_to": "2024-12-31"},
            "meta": {"symbol": "FB", "valid_to": "2022-06-08"},
        }
    )
    entry = mapping.entry("META", day)
    assert (entry and entry.symbol) == expected


@pytest.mark.parametrize("keys", [["BRK.B", "BRK-B"], ["BRK-B", "BRK.B"]])
def test_the_key_that_is_spelled_canonically_comes_first(keys):
    until = {"BRK-B": "2030-01-01", "BRK.B": "2040-01-01"}
    mapping = read({key: {"symbol": "BRK.B", "valid_to": until[key]} for key in keys})
    assert mapping.entry("BRK-B", DAY) is mapping.root["BRK-B"]
    assert mapping.entry("BRK-B", date(2035, 1, 1)) is mapping.root["BRK.B"]


@pytest.mark.parametrize(
    "entries",
    [
        ("X", "Y"),
        ({"symbol": "X", "valid_to": "2025-01-01"}, {"symbol": "Y", "valid_from": "2025-01-01"}),
        ({"symbol": "X"}, {"symbol": "X", "dataset": "XNYS.PILLAR"}),
        ({"symbol": "X"}, {"symbol": "X", "schema": "mbp-1", "valid_from": "2025-01-01"}),
    ],
)
def test_two_keys_of_one_symbol_that_hold_on_one_day_and_differ_are_refused_by_name(entries):
    for keys in (("BRK-B", "brk.b"), ("BRK B", "BRK/B")):
        with pytest.raises(InvalidDocument) as caught:
            read(dict(zip(keys, entries, strict=True)))
        assert all(repr(key) in caught.value.reason for key in keys)
        assert "both BRK-B" in caught.value.reason


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"AAPL": {"symbol": ""}}, "AAPL.symbol"),
        ({"AAPL": {"symbol": 5}}, "AAPL.symbol"),
        ({"AAPL": {"dataset": "A,B"}}, "AAPL.dataset"),
        ({"AAPL": {"schema": "x" * 65}}, "AAPL.schema"),
        ({"AAPL": {"valid_from": "yesterday"}}, "AAPL.valid_from"),
        ({"AAPL": {"valid_from": "2025-01-02", "valid_to": "2025-01-01"}}, "AAPL"),
        ({"AAPL": {"vendor": "AAPL"}}, "AAPL.vendor"),
        ({"AAPL": None}, "AAPL"),
        ({"../x": "AAPL"}, None),
        (["AAPL"], None),
    ],
)
def test_what_is_no_mapping_is_refused_with_its_place(document, field):
    with pytest.raises(InvalidDocument) as caught:
        read(document)
    assert caught.value.field == field
    assert caught.value.what == "symbol_mapping.v1"


@pytest.mark.parametrize("text", ["", "{", '{"A":"B","A":"C"}', '{"A":NaN}', b"\xff"])
def test_a_text_that_is_no_json_is_refused(text):
    with pytest.raises(InvalidDocument):
        SymbolMapping.from_json(text)


def test_a_mapping_in_code_is_checked_as_a_file_is():
    assert SymbolMapping({"A": SymbolMappingEntry(symbol="B")}).entry("A", DAY).symbol == "B"
    with pytest.raises(ValidationError):
        SymbolMapping({"A": "X", "a": "Y"})


def test_a_mapping_survives_json():
    mapping = read({"brk.b": "BRK B", "WFI": {"dataset": "XNYS.PILLAR", "schema": "mbp-10", "valid_to": "2025-01-01"}})
    assert SymbolMapping.from_json(mapping.to_json()) == mapping
    assert json.loads(mapping.to_json()) == mapping.to_document()
    assert mapping.to_document()["WFI"] == {"dataset": "XNYS.PILLAR", "schema": "mbp-10", "valid_to": "2025-01-01"}


@settings(max_examples=100)
@given(
    st.text(max_size=4)
    | st.from_regex(r"[ \t\n]?[A-Za-z0-9./ -]{0,17}[ \n]?", fullmatch=True)
    | st.sampled_from(["con", " LPT1\n", "Com9 ", "COM.1", "CONN", "nul", "Prn\t"])
)
def test_the_json_schema_takes_exactly_the_keys_that_have_a_canonical_form(text):
    try:
        canonical_symbol(text)
    except InvalidSymbol:
        accepted = False
    else:
        accepted = True
    assert bool(re.search(SPELLING_PATTERN, text)) == accepted


@pytest.fixture
def path(tmp_path):
    return tmp_path / "symbol_mapping.json"


def test_a_sound_file_has_no_findings_and_an_editors_byte_order_mark_is_a_warning(path):
    path.write_text('{"BRK-B": "BRK.B"}')
    assert validate_path(path).findings == []
    path.write_text('{"BRK-B": "BRK.B"}', encoding="utf-8-sig")
    report = validate_path(path)
    assert [(finding.rule, finding.severity) for finding in report.findings] == [("bom", "warning")]


@pytest.mark.parametrize(
    ("content", "rule", "field"),
    [
        ("", "json", None),
        ("null", "json", None),
        ('{"A":"B","A":"C"}', "duplicate-key", None),
        ('{"A":{"dataset":5}}', "schema", "A.dataset"),
        ('{"A":{"sym":"B"}}', "schema", "A"),
        ('{"A":""}', "schema", "A"),
        ('{"A":"X","a":"Y"}', "model", None),
    ],
)
def test_a_fault_in_a_file_is_a_finding_with_its_place(path, content, rule, field):
    path.write_text(content)
    assert [(finding.rule, finding.field) for finding in validate_path(path).findings] == [(rule, field)]


def test_a_file_in_a_folder_is_recognised_by_its_name(path):
    path.write_text('{"A":5}')
    report = validate_path(path.parent)
    assert (report.files, len(report.errors)) == (1, 1)

"""The canonical spelling of symbols."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import InvalidSymbol, canonical_symbol
from contracts.symbols import SYMBOL_PATTERN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AAPL", "AAPL"),
        ("  aapl\t", "AAPL"),
        ("BRK.B", "BRK-B"),
        ("brk/b", "BRK-B"),
        ("BRK B", "BRK-B"),
        ("NA", "NA"),
        ("TRUE", "TRUE"),
        ("A", "A"),
        ("CONN", "CONN"),
        ("COM", "COM"),
        ("A" * 15, "A" * 15),
    ],
)
def test_each_spelling_has_one_canonical_form(text, expected):
    assert canonical_symbol(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "../x",
        "/etc",
        "..",
        "\uff21\uff21\uff30\uff2c",
        "\u00df",
        "\u017f",
        "\u0131BM",
        "A\u00a0B",
        "AAPL\x00",
        "AA\nPL",
        "A\\B",
        "A:B",
        "1A",
        "-A",
        "A" * 16,
        "CON",
        "con",
        "nul",
        "PRN",
        "AUX",
        "com1",
        "LPT9",
        "A_B",
        "A*",
    ],
)
def test_anything_else_is_refused_and_named(text):
    with pytest.raises(InvalidSymbol) as caught:
        canonical_symbol(text)
    assert caught.value.text == text
    assert caught.value.reason
    assert str(caught.value).isascii()


@pytest.mark.parametrize("value", [None, 5, float("nan"), b"AAPL"])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(InvalidSymbol, match="not a text"):
        canonical_symbol(value)


@settings(max_examples=60)
@given(st.text(max_size=20) | st.from_regex(r"[A-Za-z][A-Za-z0-9./ -]{0,16}", fullmatch=True))
def test_the_canonical_form_is_a_safe_folder_name_and_its_own_canonical_form(text):
    try:
        symbol = canonical_symbol(text)
    except InvalidSymbol:
        return
    assert re.fullmatch(r"[A-Z][A-Z0-9-]{0,14}", symbol, re.ASCII)
    assert canonical_symbol(symbol) == symbol
    assert re.search(SYMBOL_PATTERN, symbol)


@settings(max_examples=60)
@given(st.text(max_size=20) | st.from_regex(r"[A-Z][A-Z0-9-]{0,16}\n?", fullmatch=True))
def test_the_json_schema_pattern_accepts_exactly_the_canonical_forms(text):
    try:
        canonical = canonical_symbol(text) == text
    except InvalidSymbol:
        canonical = False
    assert bool(re.search(SYMBOL_PATTERN, text)) == canonical

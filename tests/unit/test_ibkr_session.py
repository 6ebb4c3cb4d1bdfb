"""Addresses, ports, pauses, the table of codes, and what may be asked for."""

from __future__ import annotations

import asyncio
import re

import pytest

from connectors.ibkr import library
from connectors.ibkr.depth import DepthRequest
from connectors.ibkr.errors import (
    CODES,
    IbkrError,
    InstrumentUnknown,
    InvalidRequest,
    LibraryMissing,
    NoPermission,
    redact_accounts,
    refusal,
    rule_for,
)
from connectors.ibkr.session import Backoff, GatewayAddress, port_for


@pytest.mark.parametrize(
    ("port", "paper", "use_tws", "expected"),
    [
        (None, True, False, 4002),
        (None, False, False, 4001),
        (None, True, True, 7497),
        (None, False, True, 7496),
        (4711, False, True, 4711),
    ],
)
def test_the_port_follows_the_mode_unless_one_is_set(port, paper, use_tws, expected):
    assert port_for(port=port, paper=paper, use_tws=use_tws) == expected


def test_the_ports_of_the_modes_can_be_set():
    ports = {"live": 1, "paper_tws": 2, "gateway_live": 3, "gateway_paper": 4}
    assert [
        port_for(port=None, paper=paper, use_tws=use_tws, **ports)
        for paper in (False, True)
        for use_tws in (True, False)
    ] == [1, 3, 2, 4]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({"host": " "}, "IB_HOST"),
        ({"port": 0}, "IB_PORT"),
        ({"port": 65_536}, "IB_PORT"),
        ({"client_id": -1}, "IB_CLIENT_ID"),
        ({"client_id": 2**31}, "IB_CLIENT_ID"),
        ({"connect_timeout_s": 0.0}, "CONNECTION_TIMEOUT"),
        ({"connect_timeout_s": float("inf")}, "CONNECTION_TIMEOUT"),
    ],
)
def test_an_address_that_cannot_be_names_the_key_to_correct(words, named):
    with pytest.raises(InvalidRequest, match=named):
        GatewayAddress(**{"host": "127.0.0.1", "port": 4002, "client_id": 1, **words})


@pytest.mark.parametrize(
    "words",
    [
        {"symbols": []},
        {"symbols": ["AAPL", "AAPL"]},
        {"symbols": ["aapl"]},
        {"symbols": ["../x"]},
        {"levels": 0},
        {"max_lines": 0},
        {"silence_s": 0.0},
        {"silence_s": float("nan")},
        {"exchange": ""},
        {"currency": ""},
    ],
)
def test_a_capture_that_cannot_be_is_refused_before_any_work(words):
    with pytest.raises(InvalidRequest):
        DepthRequest(**{"symbols": ["AAPL"], "levels": 10, **words})


def test_only_the_consolidated_book_is_smart():
    assert DepthRequest(["AAPL"], 10).is_smart
    assert not DepthRequest(["AAPL"], 10, exchange="ISLAND").is_smart


def test_pauses_double_from_half_a_second_to_thirty_and_begin_again():
    backoff = Backoff()
    pauses_s = [backoff.next_s() for _ in range(12)]
    for pause_s, most_s in zip(pauses_s, [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30], strict=True):
        assert 0.75 * most_s <= pause_s <= most_s
    backoff.reset()
    assert backoff.next_s() <= 0.5


def test_every_code_of_the_table_says_what_it_means_and_what_is_done():
    for code, rule in CODES.items():
        assert rule.meaning, code
        assert rule.action, code
        assert rule_for(code) is rule


@pytest.mark.parametrize(("code", "kind"), [(2199, "info"), (2100, "info"), (2200, "refused"), (10999, "refused")])
def test_codes_outside_the_table_are_warnings_or_refusals(code, kind):
    assert rule_for(code).kind == kind


@pytest.mark.parametrize(
    ("code", "error"), [(200, InstrumentUnknown), (None, InstrumentUnknown), (354, NoPermission), (10092, NoPermission)]
)
def test_a_refusal_is_typed_and_names_symbol_and_code(code, error):
    refused = refusal("AAPL", code, "the gateway's text")
    assert type(refused) is error
    assert isinstance(refused, IbkrError)
    assert (refused.symbol, refused.code) == ("AAPL", code)
    assert "AAPL" in str(refused)
    assert "the gateway's text" in str(refused)


@pytest.mark.parametrize("account", ["DU1234567", "U7654321", "DF998877", "F12345", "DUSANDBOX"])
def test_account_numbers_are_cut_out_of_texts(account):
    text = redact_accounts(f"Account {account}\nhas no\tpermission", ["DUSANDBOX"])
    assert text == "Account *** has no permission"


def test_ordinary_words_stay():
    text = "No market data permissions for ISLAND STK. UVXY DUK F1 U.S. 354"
    assert redact_accounts(text) == text


def test_the_library_is_chosen_by_name_inside_the_loop():
    async def choose(name):
        return library.load(name).name

    assert asyncio.run(choose(None)) in library.NAMES
    with pytest.raises(InvalidRequest, match=re.escape("'ibapi'")):
        asyncio.run(choose("ibapi"))
    with pytest.raises(RuntimeError, match="event loop"):
        library.load()


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    async def choose():
        monkeypatch.setattr(library.importlib.util, "find_spec", lambda _: None)
        library.load("ib_async")

    with pytest.raises(LibraryMissing, match="pip install ib_async"):
        asyncio.run(choose())

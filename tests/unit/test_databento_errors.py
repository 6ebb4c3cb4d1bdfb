"""What each of the vendor's failures means for the run is decided by a table, and no text holds the API key."""

from __future__ import annotations

import base64
import datetime as dt
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.databento import errors
from connectors.databento.errors import (
    ERROR_TABLE,
    CeilingReached,
    CircuitOpen,
    NotYetAvailable,
    RetryableError,
    TerminalError,
    UnresolvedSymbol,
    VendorError,
    VerificationFailed,
    WrongContent,
    from_http,
    parse_retry_after,
    redact,
    rule_for,
)

KEY = "db-0123456789abcdefghijklmnopqrs"
NOW = dt.datetime(2025, 9, 5, 12, 0, 0, tzinfo=dt.UTC)

ANSWERS = [
    (401, None, CircuitOpen, "unauthorized"),
    (401, "auth_authentication_failed", CircuitOpen, "unauthorized"),
    (402, None, CircuitOpen, "payment_required"),
    (402, "account_insufficient_funds", CircuitOpen, "payment_required"),
    (403, "license_not_found_unauthorized", NotYetAvailable, "licence"),
    (403, "auth_something_else", CircuitOpen, "forbidden"),
    (403, None, CircuitOpen, "forbidden"),
    (422, "data_end_after_available_end", NotYetAvailable, "too_recent"),
    (422, "dataset_unavailable_range", NotYetAvailable, "too_recent"),
    (422, "symbology_invalid_request", UnresolvedSymbol, "unresolved_symbol"),
    (400, "symbology_invalid_symbol", UnresolvedSymbol, "unresolved_symbol"),
    (408, None, RetryableError, "request_timeout"),
    (429, None, RetryableError, "rate_limited"),
    (429, "rate_limit_exceeded", RetryableError, "rate_limited"),
    (500, None, RetryableError, "server_error"),
    (502, None, RetryableError, "server_error"),
    (503, None, RetryableError, "server_error"),
    (504, None, RetryableError, "server_error"),
    # Not in the table: any other 4xx is final, any other 5xx may pass.
    (400, None, TerminalError, "refused"),
    (400, "data_end_after_available_end", TerminalError, "refused"),
    (404, None, TerminalError, "refused"),
    (405, None, TerminalError, "refused"),
    (418, "teapot", TerminalError, "refused"),
    (422, None, TerminalError, "refused"),
    (422, "data_time_range_start_on_or_after_end", TerminalError, "refused"),
    (501, None, RetryableError, "server_error"),
    (520, "cdn", RetryableError, "server_error"),
    (599, None, RetryableError, "server_error"),
]


def answer(status=400, body=None, message=None, headers=None, secret=KEY):
    return from_http(
        what="get_range AAPL 2025-09-05",
        status=status,
        body=body,
        message=message,
        headers=headers or {},
        secret=secret,
    )


def detail(case=None, message="no", **payload):
    return {"detail": {"case": case, "message": message, "status_code": 0, "docs": "", "payload": payload or None}}


@pytest.mark.parametrize(("status", "case", "error", "reason"), ANSWERS)
def test_an_answer_becomes_the_error_of_its_row(status, case, error, reason):
    found = answer(status, detail(case))
    assert type(found) is error
    assert (found.reason, found.status, found.case) == (reason, status, case)
    assert found.kind == error.kind
    assert str(found).startswith(f"get_range AAPL 2025-09-05: the vendor answered {status}")
    assert str(found).endswith(f"[{rule_for(status, case).hint}]")


def test_every_row_of_the_table_is_tried_above():
    tried = {id(rule_for(status, case)) for status, case, _, _ in ANSWERS}
    assert [rule for rule in ERROR_TABLE if id(rule) not in tried] == []


def test_no_row_is_hidden_behind_an_earlier_one():
    for index, rule in enumerate(ERROR_TABLE):
        earlier = [r for r in ERROR_TABLE[:index] if r.status == rule.status and r.case in (None, rule.case)]
        assert earlier == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CircuitOpen, "circuit"),
        (CeilingReached, "circuit"),
        (TerminalError, "terminal"),
        (UnresolvedSymbol, "terminal"),
        (NotYetAvailable, "not_yet_available"),
        (RetryableError, "retryable"),
        (VerificationFailed, "retryable"),
        (WrongContent, "retryable"),
    ],
)
def test_every_error_says_what_it_means_for_the_run(error, kind):
    assert error.kind == kind
    assert issubclass(error, VendorError)


def test_the_tree_at_the_top_of_the_module_names_every_error():
    drawn = errors.__doc__
    classes = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, VendorError)]
    assert [error.__name__ for error in classes if f"{error.__name__}" not in drawn] == []


@pytest.mark.parametrize(
    ("body", "message", "said"),
    [
        (detail("x", "the vendor's\n  own words"), "client words", "(x) - the vendor's own words ["),
        ({"detail": "plain text"}, "client words", "400 - plain text ["),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "client words", "400 - client words ["),
        ({"detail": {"message": None}}, "client words", "400 - client words ["),
        ({"error": "other"}, "client words", "400 - client words ["),
        (["a list"], "client words", "400 - client words ["),
        (None, "<html>\n502</html>", "400 - <html> 502</html> ["),
        (None, None, "answered 400 [read"),
    ],
)
def test_the_best_words_there_are_reach_the_message_on_one_line(body, message, said):
    text = str(answer(400, body, message))
    assert said in text
    assert "\n" not in text


@pytest.mark.parametrize("header", ["Request-ID", "request-id", "REQUEST-ID"])
def test_the_request_id_is_kept_for_the_support_desk(header):
    assert answer(500, headers={header: "abc-1"}).request_id == "abc-1"
    assert answer(500).request_id is None


def test_the_available_end_is_kept_as_the_vendor_wrote_it():
    body = detail("data_end_after_available_end", available_end="2025-09-05T10:00:00Z")
    assert answer(422, body).available_end == "2025-09-05T10:00:00Z"
    assert answer(422, detail("dataset_unavailable_range")).available_end is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("1.5", 1.5),
        (" 12 ", 12.0),
        ("-3", 0.0),
        ("Fri, 05 Sep 2025 12:00:30 GMT", 30.0),
        ("Friday, 05-Sep-25 12:01:00 GMT", 60.0),
        ("Fri, 05 Sep 2025 14:00:30 +0200", 30.0),
        ("Fri, 05 Sep 2025 12:00:30", 30.0),
        ("Fri, 05 Sep 2025 11:59:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("Fri, 05 Sep 99999999999999999999 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms(value, seconds):
    assert parse_retry_after({"Retry-After": value}, now=NOW) == seconds


@pytest.mark.parametrize("name", ["Retry-After", "retry-after", "RETRY-AFTER"])
def test_the_wait_the_vendor_asks_for_reaches_the_error(name):
    assert answer(429, headers={name: "4"}).retry_after_s == 4.0
    assert answer(503, headers={name: "4"}).retry_after_s == 4.0
    assert answer(429).retry_after_s is None


def test_a_date_to_retry_at_is_measured_from_now():
    later = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=90)
    wait_s = parse_retry_after({"Retry-After": later.strftime("%a, %d %b %Y %H:%M:%S GMT")})
    assert 80 < wait_s <= 90


@given(st.text())
def test_no_header_breaks_the_parsing(value):
    seconds = parse_retry_after({"Retry-After": value}, now=NOW)
    assert seconds is None or seconds >= 0.0


def texts_of(error):
    return [str(error), repr(error), *[str(value) for value in vars(error).values()], *map(str, error.args)]


@pytest.mark.parametrize("status", [400, 401, 403, 422, 429, 500])
@pytest.mark.parametrize(
    "body",
    [
        detail(f"case {KEY}", f"bad key {KEY}, I said {KEY}"),
        detail("data_end_after_available_end", KEY, available_end=f"never, {KEY}"),
        {"detail": KEY},
        None,
    ],
)
def test_the_key_is_in_no_text_of_an_error(status, body):
    headers = {"Request-Id": f"id-{KEY}", "Retry-After": KEY, "WWW-Authenticate": KEY}
    error = answer(status, body, message=f"client says {KEY}", headers=headers)
    assert [text for text in texts_of(error) if KEY in text] == []


def test_the_key_is_cut_out_in_any_case_and_in_its_http_basic_form():
    basic = base64.b64encode(f"{KEY}:".encode()).decode()
    longer = base64.b64encode(f"{KEY}:password".encode()).decode()
    text = redact(f"{KEY.upper()} Basic {basic} Basic {longer} {KEY}", KEY)
    assert KEY.lower() not in text.lower()
    assert basic.rstrip("=")[:-2] not in text


def test_redact_leaves_other_text_alone_and_needs_a_secret():
    assert redact(f"a {KEY} b{KEY}", KEY) == "a *** b***"
    assert redact("nothing here", KEY) == "nothing here"
    assert redact("nothing here", "") == "nothing here"


def test_an_error_survives_the_way_to_another_process():
    sent = answer(422, detail("data_end_after_available_end", available_end="2025-09-05"), headers={"request-id": "r1"})
    sent.paid_usd = 1.25
    got = pickle.loads(pickle.dumps(sent))  # noqa: S301 - our own bytes
    assert type(got) is type(sent)
    assert (str(got), vars(got)) == (str(sent), vars(sent))

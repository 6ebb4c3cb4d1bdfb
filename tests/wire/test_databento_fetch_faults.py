"""Every way the vendor can fail, and what a day's fetch makes of it: error, attempts, money, and what stays on disk."""

from __future__ import annotations

import logging
import traceback
from base64 import b64encode
from dataclasses import dataclass

import pytest

from connectors.databento.errors import (
    CircuitOpen,
    NotYetAvailable,
    RetryableError,
    UnresolvedSymbol,
    VendorError,
    VerificationFailed,
    WrongContent,
)
from connectors.databento.spend import SpendCeiling
from connectors.sandbox.faults import CONDITION_KINDS, KINDS

ATTEMPTS = 3  # the first and two retries


@dataclass(frozen=True)
class Case:
    """A fault of the download and what it must become; `sent` downloads are paid for."""

    fault: str
    error: type[VendorError]
    reason: str
    status: int | None = None
    attempts: int = ATTEMPTS
    sent: int = 0

    def __str__(self) -> str:
        return self.fault


REFUSALS = [
    Case("unauthorized", CircuitOpen, "unauthorized", 401, attempts=1),
    Case("payment-required", CircuitOpen, "payment_required", 402, attempts=1),
    Case("licence", NotYetAvailable, "licence", 403, attempts=1),
    Case("unknown-symbol", UnresolvedSymbol, "unresolved_symbol", 422, attempts=1),
    Case("too-recent", NotYetAvailable, "too_recent", 422, attempts=1),
    Case("unavailable-range", NotYetAvailable, "too_recent", 422, attempts=1),
    Case("rate-limit:retry_after=0", RetryableError, "rate_limited", 429),
    Case("server-error", RetryableError, "server_error", 500),
    Case("server-error:status=502,body=html", RetryableError, "server_error", 502),
    Case("server-error:status=503", RetryableError, "server_error", 503),
    Case("server-error:status=504", RetryableError, "server_error", 504),
    Case("server-error:status=529", RetryableError, "server_error", 529),
    Case("disconnect", RetryableError, "connection"),
]
BROKEN_STREAMS = [
    Case("cut-mid-stream", RetryableError, "stream_cut", sent=ATTEMPTS),
    Case("cut-on-record", VerificationFailed, "record_count", sent=ATTEMPTS),
    Case("corrupt-byte", VerificationFailed, "not_dbn", sent=ATTEMPTS),
    Case("zero-rows", VerificationFailed, "record_count", sent=ATTEMPTS),
    # Perhaps damage; else every further attempt would bring, and cost, the same.
    Case("wrong-instrument-id", WrongContent, "unmapped_instrument", attempts=2, sent=2),
]
ELSEWHERE = {"slow", "stall", "stall-before-headers", "drip", "count-mismatch"} | CONDITION_KINDS


def on(endpoint: str, fault: str) -> str:
    return f"{fault}{',' if ':' in fault else ':'}endpoint={endpoint}"


def test_every_fault_of_the_sandbox_has_its_test():
    tested = {case.fault.partition(":")[0] for case in REFUSALS + BROKEN_STREAMS}
    assert tested | ELSEWHERE == set(KINDS)


@pytest.mark.parametrize("case", REFUSALS + BROKEN_STREAMS, ids=str)
def test_a_failing_download_ends_in_its_typed_error_after_its_attempts(wire, case, caplog):
    price = wire.price_usd()
    wire.sandbox.add_fault(on("get_range", case.fault))
    client = wire.client()
    ceiling = SpendCeiling(None, client.circuit)
    caplog.set_level(logging.DEBUG)

    with pytest.raises(VendorError) as caught:
        wire.fetch(client=client, ceiling=ceiling)

    error = caught.value
    assert (type(error), error.reason, error.status) == (case.error, case.reason, case.status)
    assert "AAPL" in str(error)
    assert "2025-09-05" in str(error)
    assert wire.endpoints.count("get_range") == case.attempts
    # What the vendor has begun to send it bills, and the ledger takes the whole price for it.
    assert ceiling.spent_usd == pytest.approx(case.sent * price)
    assert error.paid_usd == pytest.approx(case.sent * price)
    assert wire.billed_usd <= ceiling.spent_usd + 1e-12
    assert wire.files() == []
    assert (client.circuit.reason is not None) == issubclass(case.error, CircuitOpen)
    # The key is nowhere, in no form.
    told = "".join(traceback.format_exception(error)) + repr(vars(error)) + caplog.text + repr(client)
    assert wire.key not in told
    assert b64encode(f"{wire.key}:".encode()).decode() not in told


@pytest.mark.parametrize("case", REFUSALS, ids=str)
def test_a_refused_record_count_ends_the_day_before_anything_is_bought(wire, case):
    wire.sandbox.add_fault(on("get_record_count", case.fault))

    with pytest.raises(case.error) as caught:
        wire.fetch()

    assert (caught.value.reason, caught.value.status) == (case.reason, case.status)
    assert wire.endpoints.count("get_record_count") == case.attempts
    assert "get_range" not in wire.endpoints
    assert (caught.value.paid_usd, wire.billed_usd) == (0.0, 0.0)


@pytest.mark.parametrize(
    "case", [case for case in REFUSALS + BROKEN_STREAMS if case.error.kind == "retryable"], ids=str
)
def test_a_passing_failure_is_overcome_by_the_next_attempt(wire, case):
    price = wire.price_usd()
    wire.sandbox.add_fault(on("get_range", f"{case.fault}{',' if ':' in case.fault else ':'}times=1"))

    raw = wire.fetch()

    assert wire.endpoints.count("get_range") == 2
    assert raw.records == wire.requests[-1].records > 0
    assert raw.cost_usd == pytest.approx(price * (1 + (case.sent > 0)))
    assert [raw.path.name] == wire.files()


def test_a_refusal_carries_what_the_vendors_support_asks_for(wire):
    wire.sandbox.add_fault("too-recent:endpoint=get_range")

    with pytest.raises(NotYetAvailable) as caught:
        wire.fetch()

    error = caught.value
    assert error.case == "data_end_after_available_end"
    assert len(error.request_id) == 32
    assert error.available_end == "2025-09-30T00:00:00.000000000Z"
    assert error.kind == "not_yet_available"


def test_a_wrong_byte_deep_in_a_stream_is_found(wire):
    wire.sandbox.add_fault("corrupt-byte:records=4000")

    with pytest.raises(VerificationFailed) as caught:
        wire.fetch(wire.request(minutes=150), retries=0)

    assert (caught.value.reason, wire.requests[-1].finished, wire.files()) == ("corrupt", True, [])


def test_a_slow_answer_is_waited_for(wire):
    wire.sandbox.add_fault("slow:endpoint=get_range,seconds=0.3")
    assert wire.fetch().records > 0


@pytest.mark.parametrize("condition", ["degraded", "missing"])
def test_the_vendors_doubt_about_a_day_is_kept_with_it_and_logged(wire, caplog, condition):
    wire.sandbox.add_fault(condition)

    raw = wire.fetch()

    assert raw.condition == condition
    assert "Databento warns: BentoWarning: The streaming request" in caplog.text
    assert f"reduced quality: 2025-09-05 ({condition})." in caplog.text


def test_a_key_the_vendor_does_not_know_opens_the_circuit(wire):
    client = wire.client()
    client._key = client._api._key = "db-some-other-key-0000000000000000"
    client._api.metadata._key = client._key

    with pytest.raises(CircuitOpen) as caught:
        wire.fetch(client=client)

    assert (caught.value.reason, wire.endpoints) == ("unauthorized", ["get_dataset_range"])
    assert client._key not in str(caught.value)

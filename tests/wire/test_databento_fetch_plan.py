"""What is asked before anything is bought, what a run may spend, and what a kept file saves."""

from __future__ import annotations

from datetime import date

import pytest

from connectors.databento.errors import (
    CeilingReached,
    CircuitOpen,
    NotYetAvailable,
    TerminalError,
    UnresolvedSymbol,
    VendorError,
)
from connectors.databento.plan import VendorPlan
from connectors.databento.spend import SpendCeiling

WHOLE_DAY = ["get_dataset_range", "get_dataset_condition", "get_record_count", "get_cost", "get_range"]


def test_a_day_costs_four_look_ups_and_one_download(wire):
    price = wire.price_usd()

    raw = wire.fetch()

    assert wire.endpoints == WHOLE_DAY
    assert raw.records == wire.requests[-1].records
    assert (raw.condition, raw.reused) == ("available", False)
    assert raw.cost_usd == pytest.approx(price) == pytest.approx(wire.billed_usd)


def test_look_ups_of_a_dataset_are_asked_once_for_all_days_of_a_run(wire):
    client = wire.client()
    days = [date(2025, 9, 4), date(2025, 9, 5)]
    plan = VendorPlan(client, days[0], days[-1])

    for day in days:
        for symbol in ("AAPL", "MSFT"):
            wire.fetch(wire.request(symbol, day), client=client, plan=plan)

    asked = wire.endpoints
    assert (asked.count("get_dataset_range"), asked.count("get_dataset_condition")) == (1, 1)
    assert asked.count("get_range") == 4


def test_a_known_symbol_without_records_is_an_empty_day_not_an_error(wire):
    wire.sandbox.add_fault("zero-rows:symbol=QUIET")

    raw = wire.fetch(wire.request("QUIET"))

    assert (raw.path, raw.records, raw.cost_usd) == (None, 0, 0.0)
    assert "resolve" in wire.endpoints
    assert (wire.billed_usd, wire.files()) == (0.0, [])


@pytest.mark.parametrize(
    "fault",
    ["unknown-symbol:symbol=GONE", "unknown-symbol:symbol=GONE,endpoint=symbology.resolve"],
    ids=["the count refuses it", "only the symbology tells"],
)
def test_an_unknown_symbol_is_an_error_and_never_an_empty_day(wire, fault):
    wire.sandbox.add_fault(fault)
    if "resolve" in fault:
        wire.sandbox.add_fault("zero-rows:symbol=GONE")

    with pytest.raises(UnresolvedSymbol) as caught:
        wire.fetch(wire.request("GONE"))

    assert caught.value.reason == "unresolved_symbol"
    assert "SYMBOL_MAPPING_FILE" in str(caught.value)
    assert "get_range" not in wire.endpoints


def test_a_partly_resolved_answer_is_refused_though_the_vendor_calls_it_a_success(wire):
    # A mapping that names two instruments for one symbol: status 206, the missing one only in the file's metadata.
    request = wire.request(vendor_symbol="AAPL,NOSUCH")

    with pytest.raises(UnresolvedSymbol, match="does not know NOSUCH"):
        wire.fetch(request)

    assert wire.requests[-1].status == 206
    assert (wire.endpoints.count("get_range"), wire.files()) == (1, [])


@pytest.mark.parametrize("fault", [None, "server-error:endpoint=get_dataset_range"], ids=["by range", "by count"])
def test_a_day_the_vendor_has_not_published_is_not_yet_available(wire, fault):
    if fault:
        wire.sandbox.add_fault(fault)

    with pytest.raises(NotYetAvailable) as caught:
        wire.fetch(wire.request(day=date(2025, 9, 30)), retries=0)

    assert (caught.value.reason, caught.value.available_end) == ("too_recent", "2025-09-30T00:00:00.000000000Z")
    assert "get_range" not in wire.endpoints


def test_a_pending_day_is_not_yet_available_and_its_count_is_not_trusted(wire):
    wire.sandbox.add_fault("pending:day=2025-09-05")

    with pytest.raises(NotYetAvailable) as caught:
        wire.fetch()

    assert caught.value.reason == "pending"
    assert wire.endpoints == ["get_dataset_range", "get_dataset_condition"]


@pytest.mark.parametrize("endpoint", ["get_dataset_range", "get_dataset_condition", "get_cost"])
def test_a_look_up_that_only_informs_may_fail(wire, endpoint, caplog):
    wire.sandbox.add_fault(f"server-error:endpoint={endpoint}")

    raw = wire.fetch(retries=0)

    assert raw.records > 0
    assert raw.condition == (None if endpoint == "get_dataset_condition" else "available")
    assert (raw.cost_usd is None) == (endpoint == "get_cost")
    assert "unknown" in caplog.text


@pytest.mark.parametrize("endpoint", ["get_dataset_range", "get_dataset_condition", "get_cost"])
def test_a_refused_key_ends_the_run_at_whatever_look_up_it_shows(wire, endpoint):
    wire.sandbox.add_fault(f"unauthorized:endpoint={endpoint}")
    client = wire.client()

    with pytest.raises(CircuitOpen):
        wire.fetch(client=client)

    assert wire.endpoints[-1] == endpoint
    assert client.circuit.reason is not None


def test_without_a_price_a_ceiling_cannot_be_kept_and_nothing_is_bought(wire):
    wire.sandbox.add_fault("server-error:endpoint=get_cost")
    client = wire.client(retries=0)

    with pytest.raises(TerminalError) as caught:
        wire.fetch(client=client, ceiling=SpendCeiling(10.0, client.circuit))

    assert caught.value.reason == "cost_unknown"
    assert "get_range" not in wire.endpoints
    # Another day may have a price.
    assert client.circuit.reason is None


def test_a_price_above_the_ceiling_buys_nothing_and_ends_the_run(wire):
    price = wire.price_usd()
    client = wire.client()

    with pytest.raises(CeilingReached):
        wire.fetch(client=client, ceiling=SpendCeiling(price * 0.99, client.circuit))
    with pytest.raises(CeilingReached):
        wire.fetch(wire.request("MSFT"), client=client)

    assert "get_range" not in wire.endpoints
    assert wire.endpoints.count("get_record_count") == 1


def test_a_ceiling_of_exactly_the_price_is_enough(wire):
    price = wire.price_usd()
    client = wire.client()
    ceiling = SpendCeiling(price, client.circuit)

    assert wire.fetch(client=client, ceiling=ceiling).cost_usd == pytest.approx(price)
    assert ceiling.spent_usd == pytest.approx(price)


def test_retries_count_against_the_ceiling(wire):
    price = wire.price_usd()
    wire.sandbox.add_fault("cut-mid-stream:times=1")
    client = wire.client()
    ceiling = SpendCeiling(price * 1.5, client.circuit)

    with pytest.raises(CeilingReached) as caught:
        wire.fetch(client=client, ceiling=ceiling)

    assert wire.endpoints.count("get_range") == 1
    assert ceiling.spent_usd == pytest.approx(price)
    assert caught.value.paid_usd == pytest.approx(price)
    assert wire.files() == []


def test_workers_together_never_pass_the_ceiling(wire):
    symbols = ["AAPL", "AMD", "MSFT", "NVDA", "TSLA", "INTC"]
    prices = [wire.price_usd(wire.request(symbol)) for symbol in symbols]
    client = wire.client()
    ceiling = SpendCeiling(sum(prices) / 2, client.circuit)
    plan = VendorPlan(client, wire.day, wire.day)
    wire.sandbox.add_fault("slow:endpoint=get_range,seconds=0.2")

    fetches = [
        wire.in_thread(lambda s=s: wire.fetch(wire.request(s), client=client, ceiling=ceiling, plan=plan))
        for s in symbols
    ]
    outcomes = [fetch(30) for fetch in fetches]

    bought = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    assert {type(outcome) for outcome in outcomes if isinstance(outcome, Exception)} == {CeilingReached}
    assert bought
    assert wire.billed_usd == pytest.approx(ceiling.spent_usd) == pytest.approx(sum(raw.cost_usd for raw in bought))
    assert wire.billed_usd <= ceiling.max_usd


def test_a_count_other_than_what_was_sent_is_asked_again(wire):
    wire.sandbox.add_fault("count-mismatch:times=1")

    raw = wire.fetch()

    assert wire.endpoints.count("get_record_count") == 2
    assert wire.endpoints.count("get_range") == 2
    assert raw.records == wire.requests[-1].records


def test_a_count_that_never_fits_is_an_error_and_never_a_short_day(wire):
    wire.sandbox.add_fault("count-mismatch")

    with pytest.raises(VendorError) as caught:
        wire.fetch()

    assert caught.value.reason == "record_count"
    assert wire.files() == []


def test_what_was_paid_is_known_when_asking_the_count_again_fails(wire):
    price = wire.price_usd()
    wire.sandbox.add_fault("cut-on-record:times=1")
    client = wire.client(retries=1)
    ceiling = SpendCeiling(None, client.circuit)

    class LosesItsWay(VendorPlan):
        def day(self, request, *, max_records=0):
            found = super().day(request, max_records=max_records)
            wire.sandbox.add_fault("payment-required:endpoint=get_record_count")
            return found

    with pytest.raises(CircuitOpen) as caught:
        wire.fetch(client=client, ceiling=ceiling, plan=LosesItsWay(client, wire.day, wire.day))

    assert ceiling.spent_usd == pytest.approx(price)
    assert caught.value.paid_usd == pytest.approx(price)


def test_more_records_than_the_cap_are_not_bought(wire):
    with pytest.raises(TerminalError) as caught:
        wire.fetch(max_records=10)

    assert caught.value.reason == "row_cap"
    assert "get_range" not in wire.endpoints


@pytest.mark.parametrize("minutes", [10, 4], ids=["the same window", "a window inside"])
def test_a_kept_file_answers_without_a_single_request(wire, minutes):
    bought = wire.fetch()
    wire.new_bill()

    kept = wire.fetch(wire.request(minutes=minutes))

    assert wire.requests == []
    assert (kept.path, kept.records, kept.cost_usd, kept.reused) == (bought.path, bought.records, 0.0, True)


def test_a_wider_window_is_bought(wire):
    wire.fetch(wire.request(minutes=4))
    wire.new_bill()

    assert wire.fetch().reused is False
    assert wire.endpoints == WHOLE_DAY

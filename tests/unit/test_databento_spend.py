"""A run never spends more than its ceiling, whatever is under way at once and however often a day is tried again."""

from __future__ import annotations

import threading

import pytest

from connectors.databento.client import Circuit
from connectors.databento.errors import CeilingReached, TerminalError
from connectors.databento.spend import SpendCeiling


@pytest.fixture
def circuit():
    return Circuit()


def spend(ceiling, cost_usd, *, billed=True):
    """One attempt from reservation to bill."""
    reservation = ceiling.reserve("AAPL 2025-09-05", cost_usd)
    if billed:
        reservation.bill()
    return reservation.close()


def test_attempts_are_paid_up_to_the_ceiling_and_not_beyond(circuit):
    ceiling = SpendCeiling(1.0, circuit)
    assert [spend(ceiling, 0.4), spend(ceiling, 0.6)] == [0.4, 0.6]
    assert ceiling.spent_usd == pytest.approx(1.0)
    with pytest.raises(
        CeilingReached, match=r"AAPL 2025-09-05: 0\.0001 USD more .*DATABENTO_MAX_COST_USD=1 "
    ) as failed:
        spend(ceiling, 0.0001)
    assert failed.value.reason == "cost_ceiling"
    assert ceiling.spent_usd == pytest.approx(1.0)


def test_sums_of_doubles_do_not_stop_a_run_that_fits(circuit):
    ceiling = SpendCeiling(1.0, circuit)
    assert sum(spend(ceiling, 0.1) for _ in range(10)) == pytest.approx(1.0)


def test_each_attempt_counts_also_the_failed_ones_that_were_billed(circuit):
    ceiling = SpendCeiling(1.0, circuit)
    for _ in range(3):
        spend(ceiling, 0.3)
    with pytest.raises(CeilingReached):
        spend(ceiling, 0.3)
    assert ceiling.spent_usd == pytest.approx(0.9)


def test_an_attempt_that_never_reached_the_vendor_costs_nothing(circuit):
    ceiling = SpendCeiling(1.0, circuit)
    assert [spend(ceiling, 0.9, billed=False) for _ in range(5)] == [0.0] * 5
    assert ceiling.spent_usd == 0.0
    assert spend(ceiling, 1.0) == 1.0


def test_what_is_under_way_is_held_back(circuit):
    ceiling = SpendCeiling(1.0, circuit)
    under_way = ceiling.reserve("AAPL 2025-09-05", 0.7)
    assert ceiling.spent_usd == 0.0
    with pytest.raises(CeilingReached, match=r"0\.7000 spent or under way"):
        ceiling.reserve("MSFT 2025-09-05", 0.4)
    under_way.close()


def test_reaching_the_ceiling_stops_the_whole_run(circuit):
    ceiling = SpendCeiling(0.5, circuit)
    circuit.check()
    with pytest.raises(CeilingReached) as failed:
        ceiling.reserve("AAPL 2025-09-05", 0.6)
    with pytest.raises(CeilingReached, match="raise the ceiling and run again") as later:
        circuit.check()
    assert later.value is not failed.value
    assert later.value.reason == "cost_ceiling"


@pytest.mark.parametrize("max_usd", [0.0, 0.5])
def test_with_a_ceiling_an_unknown_price_is_refused_and_stops_only_its_day(circuit, max_usd):
    ceiling = SpendCeiling(max_usd, circuit)
    with pytest.raises(TerminalError, match="gave no price") as failed:
        ceiling.reserve("AAPL 2025-09-05", None)
    assert failed.value.reason == "cost_unknown"
    circuit.check()


def test_a_price_that_is_no_number_does_not_pass_a_ceiling(circuit):
    with pytest.raises(CeilingReached):
        SpendCeiling(1.0, circuit).reserve("AAPL 2025-09-05", float("nan"))


def test_without_a_ceiling_everything_passes_and_is_counted(circuit):
    ceiling = SpendCeiling(None, circuit)
    assert [spend(ceiling, 1e6), spend(ceiling, None)] == [1e6, 0.0]
    assert ceiling.spent_usd == 1e6


def test_a_ceiling_of_zero_lets_what_is_free_pass(circuit):
    ceiling = SpendCeiling(0.0, circuit)
    assert spend(ceiling, 0.0) == 0.0
    with pytest.raises(CeilingReached):
        spend(ceiling, 0.01)


def test_workers_at_once_never_pass_the_ceiling_together(circuit):
    """Sixteen workers buy as fast as they can; a hundred of their thousand attempts fit."""
    ceiling = SpendCeiling(1.0, circuit)
    start = threading.Barrier(16)
    paid = []

    def work():
        start.wait()
        for attempt in range(64):
            try:
                paid.append(spend(ceiling, 0.01, billed=attempt % 4 > 0))
            except CeilingReached:
                return

    workers = [threading.Thread(target=work) for _ in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert ceiling.spent_usd == pytest.approx(sum(paid))
    # A worker may meet the ceiling through attempts under way that then cost nothing: 16 at most.
    assert 0.84 - 1e-9 <= ceiling.spent_usd <= 1.0 + 1e-9

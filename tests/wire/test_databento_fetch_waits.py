"""How long a fetch waits, for whom, and what ends it: Retry-After, time-outs, deadlines, a wish to stop, the circuit.

Times are taken from the vendor's own request log; it shares this process's clock.
"""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

from connectors.databento.client import LONGEST_RETRY_AFTER_S, RetryPolicy, Stopped
from connectors.databento.errors import CircuitOpen, RetryableError

RETRY_AFTER_S = 1.2


def starts(wire) -> list[float]:
    return sorted(entry.started_monotonic for entry in wire.requests)


def test_retry_after_keeps_every_worker_away_for_that_long(wire):
    client = wire.client()
    wire.sandbox.add_fault(f"rate-limit:times=1,symbol=MSFT,retry_after={RETRY_AFTER_S}")

    def ask(symbol: str) -> list[int]:
        return [client.record_count(wire.request(symbol)) for _ in range(25)]

    workers = [wire.in_thread(lambda symbol=symbol: ask(symbol)) for symbol in ("AAPL", "MSFT", "NVDA", "TSLA")]
    counts = [worker(30) for worker in workers]

    assert all(isinstance(count, list) and len(count) == 25 for count in counts)
    assert len(wire.requests) == 101
    silences = sorted(after - before for before, after in pairwise(starts(wire)))
    # What was on its way when the answer came still arrives; then there is one silence, for all.
    assert silences[-1] > RETRY_AFTER_S * 0.9
    assert silences[-2] < RETRY_AFTER_S * 0.5
    refused = next(entry for entry in wire.requests if entry.status == 429)
    later = [at for at in starts(wire) if at > refused.started_monotonic + RETRY_AFTER_S * 0.9]
    assert len(later) > 4


def test_the_vendors_retry_after_wins_over_the_backoff(wire):
    client = wire.client(retry=RetryPolicy(retries=1, base_ms=60_000, max_ms=60_000))
    wire.sandbox.add_fault("rate-limit:endpoint=get_range,times=1,retry_after=0.3")

    wire.fetch(client=client)

    first, second = (entry.started_monotonic for entry in wire.requests if entry.endpoint == "timeseries.get_range")
    assert 0.3 <= second - first < 10


def test_a_vendor_that_asks_for_hours_ends_the_task_instead_of_holding_a_worker(wire):
    wire.sandbox.add_fault(f"rate-limit:endpoint=get_range,retry_after={LONGEST_RETRY_AFTER_S + 1}")
    client = wire.client()
    began = time.monotonic()

    with pytest.raises(RetryableError) as caught:
        wire.fetch(client=client)

    assert caught.value.retry_after_s == LONGEST_RETRY_AFTER_S + 1
    assert wire.endpoints.count("get_range") == 1
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("status", ["unauthorized", "payment-required"])
def test_the_circuit_opens_once_for_all_workers_and_lets_no_further_request_out(wire, status):
    client = wire.client()
    wire.sandbox.add_fault(f"{status}:endpoint=get_range,times=1")
    with pytest.raises(CircuitOpen) as first:
        wire.fetch(client=client)
    wire.new_bill()

    workers = [wire.in_thread(lambda s=s: wire.fetch(wire.request(s), client=client)) for s in ("MSFT", "NVDA", "TSLA")]
    errors = [worker(10) for worker in workers]

    assert {(type(error), str(error)) for error in errors} == {(CircuitOpen, str(first.value))}
    assert len({id(error) for error in errors}) == 3
    assert wire.requests == []
    assert str(client.circuit.reason) == str(first.value)


def test_workers_that_are_refused_at_once_keep_the_first_reason(wire):
    client = wire.client()
    wire.sandbox.add_fault("payment-required:endpoint=get_record_count")
    together = threading.Barrier(4)

    def ask() -> int:
        together.wait()
        return client.record_count(wire.request())

    errors = [worker(10) for worker in [wire.in_thread(ask) for _ in range(4)]]

    assert {error.reason for error in errors} == {"payment_required"}
    assert len(wire.requests) <= 4
    before = len(wire.requests)
    with pytest.raises(CircuitOpen):
        client.schemas("XNAS.ITCH")
    assert len(wire.requests) == before


@pytest.mark.parametrize(("fault", "reason"), [("stall-before-headers", "timeout"), ("stall:records=20", "stream_cut")])
def test_a_silent_vendor_is_given_up_after_the_timeout(wire, fault, reason):
    wire.sandbox.add_fault(fault)
    client = wire.client(retries=0, timeout_s=1)
    began = time.monotonic()

    with pytest.raises(RetryableError) as caught:
        client.download(wire.request(), wire_file(wire), deadline_s=60)

    assert 0.9 < time.monotonic() - began < 4
    assert caught.value.reason == reason


def test_a_dripping_stream_is_given_up_at_the_deadline(wire):
    wire.sandbox.add_fault("drip:seconds=0.05")
    client = wire.client(timeout_s=30)

    with pytest.raises(RetryableError) as caught:
        client.download(wire.request(), wire_file(wire), deadline_s=1.0)

    elapsed_s = time.monotonic() - wire.requests[-1].started_monotonic
    assert caught.value.reason == "deadline"
    assert "did not end within 1 s" in str(caught.value)
    assert 0.9 < elapsed_s < 2.2


def test_a_day_that_drips_every_time_ends_by_its_deadlines_and_leaves_no_file(wire):
    wire.sandbox.add_fault("drip:seconds=0.05")

    with pytest.raises(RetryableError, match="given up") as caught:
        wire.fetch(retries=1, deadline_s=0.4)

    assert (caught.value.reason, wire.endpoints.count("get_range"), wire.files()) == ("deadline", 2, [])


@pytest.mark.parametrize("fault", ["stall:records=20", "drip:seconds=0.02", "stall-before-headers:endpoint=get_range"])
def test_a_wish_to_stop_ends_a_download_at_once_and_leaves_no_file(wire, fault):
    wire.sandbox.add_fault(fault)
    client = wire.client(timeout_s=60)
    fetching = wire.in_thread(lambda: wire.fetch(client=client))
    wire.until(lambda: "get_range" in wire.endpoints and ("headers" in fault or wire.files()))

    began = time.monotonic()
    client.circuit.stopping.set()
    outcome = fetching(5)

    assert isinstance(outcome, Stopped)
    assert time.monotonic() - began < 1.5
    assert wire.files() == []
    wire.new_bill()
    with pytest.raises(Stopped):
        wire.fetch(client=client)
    assert wire.requests == []


@pytest.mark.parametrize(
    "fault",
    ["server-error:endpoint=get_range", "rate-limit:endpoint=get_range,retry_after=600"],
    ids=["backoff", "429"],
)
def test_a_wish_to_stop_ends_a_pause_between_attempts_at_once(wire, fault):
    wire.sandbox.add_fault(fault)
    client = wire.client(retry=RetryPolicy(retries=3, base_ms=600_000, max_ms=600_000))
    fetching = wire.in_thread(lambda: wire.fetch(client=client))
    wire.until(lambda: any(entry.endpoint == "timeseries.get_range" and entry.finished for entry in wire.requests))

    client.circuit.stopping.set()

    assert isinstance(fetching(2), Stopped)
    assert (wire.endpoints.count("get_range"), wire.files()) == (1, [])


def wire_file(wire):
    wire.folder.mkdir(exist_ok=True)
    return wire.folder / "download.dbn.zst"

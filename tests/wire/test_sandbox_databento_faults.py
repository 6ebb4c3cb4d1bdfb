"""Every fault of the sandbox vendor, as the real client shows it (the table in the vendor facts)."""

from __future__ import annotations

import gc
import json
import threading
import time
import warnings
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import databento
import pytest
import requests
import zstandard
from databento import BentoClientError, BentoError, BentoServerError
from databento.common.error import BentoWarning

from connectors.sandbox.databento_server import DatabentoSandbox
from connectors.sandbox.faults import KINDS, Fault, FaultBook, fault_from_mapping, parse_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AAPL: dict[str, Any] = {
    "dataset": "XNAS.ITCH",
    "symbols": ["AAPL"],
    "schema": "mbp-10",
    "start": "2025-09-05T13:30",
    "end": "2025-09-05T14:00",
}
MSFT = {**AAPL, "symbols": ["MSFT"]}


@pytest.fixture(scope="module")
def shared() -> Iterator[DatabentoSandbox]:
    with DatabentoSandbox(now=date(2025, 10, 1)) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.env().items():
            patch.setenv(name, value)
        yield running


@pytest.fixture
def sandbox(shared: DatabentoSandbox) -> Iterator[DatabentoSandbox]:
    yield shared
    shared.clear_faults()


@pytest.fixture
def client(sandbox: DatabentoSandbox) -> databento.Historical:
    return databento.Historical(gateway=sandbox.gateway_url)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("unauthorized", (BentoClientError, 401, "auth_authentication_failed")),
        ("payment-required", (BentoClientError, 402, "account_insufficient_funds")),
        ("licence", (BentoClientError, 403, "license_not_found_unauthorized")),
        ("unknown-symbol:symbol=AAPL", (BentoClientError, 422, "symbology_invalid_request")),
        ("too-recent", (BentoClientError, 422, "data_end_after_available_end")),
        ("unavailable-range", (BentoClientError, 422, "dataset_unavailable_range")),
        ("rate-limit", (BentoClientError, 429, "rate_limit_exceeded")),
        ("server-error", (BentoServerError, 500, "internal_server_error")),
        ("server-error:status=503", (BentoServerError, 503, "internal_server_error")),
        ("server-error:status=504", (BentoServerError, 504, "internal_server_error")),
    ],
)
def test_a_refusal_has_the_vendors_status_and_case_on_every_data_call(client, sandbox, spec, expected):
    error, status, case = expected
    sandbox.add_fault(spec)
    for call in (client.timeseries.get_range, client.metadata.get_record_count, client.metadata.get_cost):
        with pytest.raises(error) as caught:
            call(**AAPL)
        assert caught.value.http_status == status
        assert caught.value.json_body["detail"]["case"] == case
    sandbox.clear_faults()
    assert client.metadata.get_record_count(**AAPL) > 0


def test_too_recent_by_fault_also_tells_the_available_end(client, sandbox):
    sandbox.add_fault("too-recent")
    with pytest.raises(BentoClientError) as caught:
        client.timeseries.get_range(**AAPL)
    assert caught.value.json_body["detail"]["payload"]["available_end"] == "2025-09-30T00:00:00.000000000Z"


def test_429_carries_retry_after(client, sandbox):
    sandbox.add_fault("rate-limit:retry_after=0.5,times=1")
    with pytest.raises(BentoClientError) as caught:
        client.metadata.get_record_count(**AAPL)
    assert caught.value.headers["Retry-After"] == "0.5"
    assert client.metadata.get_record_count(**AAPL) > 0


def test_a_5xx_may_have_a_body_that_is_no_json(client, sandbox):
    sandbox.add_fault("server-error:status=503,body=html")
    with pytest.raises(BentoServerError) as caught:
        client.timeseries.get_range(**AAPL)
    assert caught.value.json_body is None
    assert "<html>" in caught.value.http_body


def test_an_unknown_symbol_in_a_list_leaves_the_others(client, sandbox):
    sandbox.add_fault("unknown-symbol:symbol=MSFT")
    store = client.timeseries.get_range(**{**AAPL, "symbols": ["AAPL", "MSFT"]})
    assert store.metadata.not_found == ["MSFT"]
    assert set(store.metadata.mappings) == {"AAPL"}
    answer = client.symbology.resolve("XNAS.ITCH", ["MSFT"], "raw_symbol", "instrument_id", "2025-09-05")
    assert answer["not_found"] == ["MSFT"]


@pytest.mark.filterwarnings(
    # The vendor's client drops its file writer, open, when a stream fails.
    "ignore:Exception ignored in.*_io.FileIO:pytest.PytestUnraisableExceptionWarning"
)
def test_a_stream_cut_inside_leaves_a_short_file_and_a_plain_bento_error(client, sandbox, tmp_path):
    whole = client.timeseries.get_range(**AAPL).raw
    sandbox.add_fault("cut-mid-stream")
    target = tmp_path / "cut.dbn.zst"
    with pytest.raises(BentoError, match="Response ended prematurely") as caught:
        client.timeseries.get_range(**AAPL, path=target)
    assert type(caught.value) is BentoError
    left = target.read_bytes()
    assert 0 < len(left) < len(whole)
    assert sandbox.requests[-1].finished is False
    assert sandbox.requests[-1].records == client.metadata.get_record_count(**AAPL) // 2
    with pytest.raises(FileExistsError):
        client.timeseries.get_range(**AAPL, path=target)
    del caught
    gc.collect()  # the writer is dropped here, not in a test that has nothing to do with it


@pytest.mark.parametrize(("spec", "kept"), [("cut-on-record:records=1234", 1234), ("cut-on-record", None)])
def test_a_stream_cut_on_a_record_is_silent(client, sandbox, spec, kept):
    whole = client.timeseries.get_range(**AAPL).to_ndarray()
    sandbox.add_fault(spec)
    short = client.timeseries.get_range(**AAPL).to_ndarray()
    assert len(short) == (len(whole) // 2 if kept is None else kept)
    assert short.tobytes() == whole[: len(short)].tobytes()
    assert client.metadata.get_record_count(**AAPL) == len(whole)
    assert sandbox.requests[-2].dbn_bytes == len(short) * 368


@pytest.mark.parametrize("spec", ["corrupt-byte", "corrupt-byte:records=1", "corrupt-byte:symbol=MSFT"])
def test_a_corrupt_byte_is_found_when_decoding(client, sandbox, spec):
    sandbox.add_fault(spec)
    with pytest.raises(zstandard.ZstdError):
        client.timeseries.get_range(**(MSFT if "MSFT" in spec else AAPL)).to_ndarray()


def test_a_wrong_instrument_id_is_in_no_mapping(client, sandbox):
    sandbox.add_fault("wrong-instrument-id")
    store = client.timeseries.get_range(**AAPL)
    mapped = {int(interval["symbol"]) for interval in store.metadata.mappings["AAPL"]}
    assert mapped.isdisjoint(store.to_ndarray()["instrument_id"])
    sandbox.clear_faults()
    assert set(client.timeseries.get_range(**AAPL).to_ndarray()["instrument_id"]) == mapped


def test_zero_rows_are_an_empty_success(client, sandbox):
    sandbox.add_fault("zero-rows:symbol=AAPL")
    assert client.metadata.get_record_count(**AAPL) == 0
    assert client.metadata.get_cost(**AAPL) == 0
    store = client.timeseries.get_range(**AAPL)
    assert store.to_ndarray().shape == (0, 1)
    assert set(store.metadata.mappings) == {"AAPL"}
    assert client.metadata.get_record_count(**MSFT) > 0


def test_a_count_can_promise_more_than_is_sent(client, sandbox):
    right = client.metadata.get_record_count(**AAPL)
    sandbox.add_fault("count-mismatch:records=7")
    assert client.metadata.get_record_count(**AAPL) == right + 7
    assert len(client.timeseries.get_range(**AAPL).to_ndarray()) == right


@pytest.mark.parametrize("condition", ["degraded", "pending", "missing"])
def test_a_bad_day_shows_in_the_conditions_and_as_a_warning(client, sandbox, condition):
    sandbox.add_fault(f"{condition}:day=2025-09-05")
    rows = client.metadata.get_dataset_condition("XNAS.ITCH", "2025-09-04", "2025-09-05")
    assert [row["condition"] for row in rows] == ["available", condition]
    with pytest.warns(BentoWarning, match=rf"reduced quality: 2025-09-05 \({condition}\)"):
        client.timeseries.get_range(**AAPL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.timeseries.get_range(**{**AAPL, "start": "2025-09-04T13:30", "end": "2025-09-04T13:31"})


def test_a_connection_closed_before_the_answer_is_not_a_bento_error(client, sandbox):
    sandbox.add_fault("disconnect")
    with pytest.raises(requests.exceptions.ConnectionError):
        client.timeseries.get_range(**AAPL)


def test_a_stall_before_the_headers_times_out_at_the_client(client, sandbox, monkeypatch):
    sandbox.add_fault("stall-before-headers")
    monkeypatch.setattr(client.metadata, "TIMEOUT", 0.3)
    with pytest.raises(requests.exceptions.ReadTimeout):
        client.metadata.get_record_count(**AAPL)
    assert sandbox.requests[-1].status is None


def test_a_stall_inside_the_body_times_out_at_the_client(client, sandbox, monkeypatch):
    sandbox.add_fault("stall:records=100")
    monkeypatch.setattr(client.timeseries, "TIMEOUT", 0.3)
    with pytest.raises(BentoError, match="Read timed out"):
        client.timeseries.get_range(**AAPL)
    assert (sandbox.requests[-1].status, sandbox.requests[-1].records) == (200, 100)


@pytest.mark.parametrize("kind", ["stall", "stall-before-headers", "drip", "slow"])
def test_stopping_the_sandbox_ends_what_hangs(kind, monkeypatch):
    running = DatabentoSandbox(now=date(2025, 10, 1), faults=[Fault(kind, seconds=3600)])
    outcome: list[BaseException] = []

    def ask() -> None:
        try:
            databento.Historical("key", running.gateway_url).timeseries.get_range(**AAPL)
        except (BentoError, requests.exceptions.RequestException) as error:
            outcome.append(error)

    with running:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(running.ca_file))
        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: bool(running.requests and running.requests[0].faults))
    asking.join(20)
    assert not asking.is_alive()
    if kind != "slow":  # a slow answer may still be sent whole while the server ends
        assert outcome


def test_a_client_that_leaves_a_stall_frees_its_thread(sandbox):
    sandbox.add_fault("stall-before-headers")
    before = threading.active_count()
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.get(f"{sandbox.gateway_url}/v0/metadata.list_datasets", auth=("key", ""), timeout=0.2)
    until(lambda: threading.active_count() <= before)


def test_drip_sends_a_byte_at_a_time(sandbox):
    sandbox.add_fault("drip:seconds=0.001")
    form = {**AAPL, "symbols": "AAPL", "limit": "1", "encoding": "dbn", "compression": "zstd"}
    with requests.post(
        f"{sandbox.gateway_url}/v0/timeseries.get_range", data=form, auth=("key", ""), timeout=10, stream=True
    ) as answer:
        pieces = list(answer.iter_content(chunk_size=None))
    assert len(pieces) == len(b"".join(pieces)) > 100
    assert sandbox.requests[-1].records == 1


def test_slow_waits_and_then_answers(client, sandbox):
    sandbox.add_fault("slow:seconds=0.3,endpoint=get_record_count")
    started = time.monotonic()
    client.metadata.list_datasets()
    between = time.monotonic()
    assert client.metadata.get_record_count(**AAPL) > 0
    assert time.monotonic() - between >= 0.3
    assert between - started < 0.3


def test_a_fault_meets_only_its_endpoint_symbol_day_and_times(client, sandbox):
    sandbox.add_fault("server-error:endpoint=get_record_count,symbol=MSFT,day=2025-09-05,times=2")
    count = client.metadata.get_record_count
    assert client.metadata.get_cost(**MSFT) > 0
    assert count(**AAPL) > 0
    assert count(**{**MSFT, "start": "2025-09-04T13:30", "end": "2025-09-04T14:00"}) > 0
    for _ in range(2):
        with pytest.raises(BentoServerError):
            count(**MSFT)
    assert count(**MSFT) > 0


def test_the_day_of_a_fault_is_the_et_day(client, sandbox):
    evening = {**AAPL, "start": "2025-01-11T00:10", "end": "2025-01-11T00:20"}  # Friday the 10th in New York
    sandbox.add_fault("payment-required:day=2025-01-11")
    assert client.metadata.get_record_count(**evening) >= 0
    sandbox.add_fault("payment-required:day=2025-01-10")
    with pytest.raises(BentoClientError):
        client.metadata.get_record_count(**evening)


def test_faults_are_set_read_and_cleared_over_https(client, sandbox):
    url = f"{sandbox.gateway_url}/sandbox/faults"
    wanted = ["rate-limit:times=1", {"kind": "zero-rows", "symbol": "AAPL", "day": "2025-09-05"}]
    answer = requests.post(url, json=wanted, timeout=10)
    assert [fault["kind"] for fault in answer.json()] == ["rate-limit", "zero-rows"]
    with pytest.raises(BentoClientError):
        client.metadata.get_record_count(**AAPL)
    assert client.metadata.get_record_count(**AAPL) == 0
    assert [fault["kind"] for fault in requests.get(url, timeout=10).json()] == ["zero-rows"]
    assert requests.delete(url, timeout=10).json() == []
    asked = requests.get(f"{sandbox.gateway_url}/sandbox/requests", timeout=10).json()
    assert asked[-1]["endpoint"] == "metadata.get_record_count"
    billing = requests.get(f"{sandbox.gateway_url}/sandbox/billing", timeout=10).json()
    assert billing == {"billed_bytes": sandbox.billed_bytes, "billed_usd": sandbox.billed_usd}


@pytest.mark.parametrize("body", [b"{", b'{"kind": "slow"}', b'["nonsense"]', b'[{"kind": 1}]', b"[7]"])
def test_bad_faults_over_https_are_400_and_change_nothing(sandbox, body):
    answer = requests.post(f"{sandbox.gateway_url}/sandbox/faults", data=body, timeout=10)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert requests.get(f"{sandbox.gateway_url}/sandbox/faults", timeout=10).json() == []
    assert requests.get(f"{sandbox.gateway_url}/sandbox/nothing", timeout=10).status_code == 404


def test_a_written_fault_reads_back_to_the_same_fault():
    fault = parse_fault("cut-mid-stream:symbol=MSFT,day=2025-09-05,times=1,records=10,endpoint=get_range")
    assert fault == Fault(
        "cut-mid-stream",
        endpoint="timeseries.get_range",
        symbol="MSFT",
        day=date(2025, 9, 5),
        times=1,
        records=10,
    )
    assert fault_from_mapping(json.loads(json.dumps(vars(fault), default=str))) == fault


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("explode", "known are .*cut-mid-stream.*zero-rows"),
        ("", "unknown fault ''"),
        ("slow:seconds", "'seconds' is not NAME=VALUE"),
        ("slow:seconds=soon", "cannot read seconds='soon'"),
        ("slow:hours=1", "a fault has no hours; it has kind, endpoint"),
        ("zero-rows:day=Friday", "cannot read day='Friday'"),
        ("zero-rows:times=0", "times must be 1 or more"),
        ("server-error:status=404", "status must be 500 to 599"),
        ("server-error:body=xml", "body must be json or html"),
        ("slow:seconds=-1", "must not be negative"),
        ("cut-mid-stream:endpoint=get_cost", "cannot meet 'metadata.get_cost'; it can meet timeseries.get_range"),
        ("slow:endpoint=get_everything", "cannot meet 'get_everything'"),
    ],
)
def test_a_badly_written_fault_says_what_is_wrong(spec, says):
    with pytest.raises(ValueError, match=says):
        parse_fault(spec)


def test_every_kind_can_be_written_alone():
    assert [parse_fault(kind).kind for kind in KINDS] == list(KINDS)


def test_times_are_counted_one_by_one_whoever_asks():
    book = FaultBook([Fault("slow", times=50)])
    taken: list[Fault] = []

    def take() -> None:
        for _ in range(20):
            taken.extend(book.take("metadata.list_datasets", (), ()))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == [replace(Fault("slow"), times=50)] * 50

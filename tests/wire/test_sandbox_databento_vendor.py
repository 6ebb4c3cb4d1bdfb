"""The sandbox vendor answers the real client as the vendor does: listings, symbols, windows, prices, refusals."""

from __future__ import annotations

import json
import socket
import threading
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import databento
import databento_dbn
import pytest
import requests
from databento import BentoClientError

from connectors.sandbox.databento_server import DEFAULT_API_KEY, DatabentoSandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

MORNING = {"start": "2025-09-05T12:30", "end": "2025-09-05T15:00"}
AAPL: dict[str, Any] = {"dataset": "XNAS.ITCH", "symbols": ["AAPL"], "schema": "mbp-10", **MORNING}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[DatabentoSandbox]:
    now = datetime(2025, 10, 1, 12, 0, 30, tzinfo=UTC)
    with DatabentoSandbox(now=now, usd_per_gb=2.5) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.env().items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(scope="module")
def client(sandbox: DatabentoSandbox) -> databento.Historical:
    return databento.Historical(gateway=sandbox.gateway_url)


def refusal(error: BentoClientError) -> tuple[int, str]:
    detail = error.json_body["detail"]
    assert set(detail) == {"case", "message", "status_code", "docs", "payload"}
    assert detail["status_code"] == error.http_status
    return error.http_status, detail["case"]


def test_listings_name_datasets_schemas_publishers_and_prices(client):
    assert "XNAS.ITCH" in client.metadata.list_datasets()
    assert client.metadata.list_schemas("XNAS.ITCH") == ["mbp-1", "mbp-10"]
    assert client.metadata.list_schemas("EQUS.MINI") == ["mbp-1"]
    nasdaq = next(p for p in client.metadata.list_publishers() if p["dataset"] == "XNAS.ITCH")
    assert (nasdaq["publisher_id"], nasdaq["venue"]) == (2, "XNAS")
    prices = {row["mode"]: row["unit_prices"] for row in client.metadata.list_unit_prices("XNAS.ITCH")}
    assert prices["historical-streaming"] == {"mbp-1": 2.5, "mbp-10": 2.5}


def test_the_available_range_ends_a_day_before_now(client):
    answer = client.metadata.get_dataset_range("XNAS.ITCH")
    assert answer["start"] == "2018-05-01T00:00:00.000000000Z"
    assert answer["end"] == "2025-09-30T12:00:00.000000000Z"
    assert answer["schema"]["mbp-10"] == {"start": answer["start"], "end": answer["end"]}


def test_conditions_are_listed_for_sessions_only_and_not_after_the_available_end(client):
    rows = client.metadata.get_dataset_condition("XNAS.ITCH", "2025-08-29", "2025-09-02")
    assert [row["date"] for row in rows] == ["2025-08-29", "2025-09-02"]  # Labor Day weekend between
    assert {row["condition"] for row in rows} == {"available"}
    assert client.metadata.get_dataset_condition("XNAS.ITCH", date(2025, 9, 30))[-1]["date"] == "2025-09-30"
    assert client.metadata.get_dataset_condition("XNAS.ITCH", "2025-10-01", "2025-10-02") == []


def test_count_size_cost_and_ledger_agree_with_the_stream(client, sandbox):
    billed_before = sandbox.billed_bytes
    count = client.metadata.get_record_count(**AAPL)
    size = client.metadata.get_billable_size(**AAPL)
    cost = client.metadata.get_cost(**AAPL)
    assert sandbox.billed_bytes == billed_before
    records = client.timeseries.get_range(**AAPL).to_ndarray()
    assert len(records) == count > 10_000
    assert size == count * 368 == records.nbytes
    assert cost == pytest.approx(size * 2.5 / 2**30)
    assert sandbox.billed_bytes - billed_before == size
    assert sandbox.billed_usd == pytest.approx(sandbox.billed_bytes * 2.5 / 2**30)


def test_mbp_1_is_billed_at_80_bytes_a_record(client):
    query = {**AAPL, "schema": "mbp-1"}
    count = client.metadata.get_record_count(**query)
    assert client.metadata.get_billable_size(**query) == count * 80
    assert len(client.timeseries.get_range(**query).to_ndarray()) == count > 0


def test_limit_cuts_counts_and_streams(client):
    query = {**AAPL, "limit": 17}
    store = client.timeseries.get_range(**query)
    everything = client.timeseries.get_range(**AAPL).to_ndarray()
    assert client.metadata.get_record_count(**query) == 17
    assert store.limit == 17
    assert (store.to_ndarray() == everything[:17]).all()


def test_the_header_says_what_was_asked_and_how_symbols_map(client):
    store = client.timeseries.get_range(**{**AAPL, "symbols": ["AAPL", "NOSUCH"]})
    meta = store.metadata
    assert (meta.version, meta.dataset, str(meta.schema)) == (3, "XNAS.ITCH", "mbp-10")
    assert meta.start == 1_757_075_400_000_000_000
    assert meta.end == 1_757_084_400_000_000_000
    assert (str(meta.stype_in), str(meta.stype_out)) == ("raw_symbol", "instrument_id")
    assert meta.symbols == ["AAPL", "NOSUCH"]
    assert (meta.partial, meta.not_found, meta.limit) == ([], ["NOSUCH"], None)
    (interval,) = meta.mappings["AAPL"]
    assert (interval["start_date"], interval["end_date"]) == (date(2025, 9, 5), date(2025, 9, 6))
    assert set(store.to_ndarray()["instrument_id"]) == {int(interval["symbol"])}


@pytest.mark.parametrize("schema", ["mbp-10", "mbp-1"])
def test_records_have_the_vendor_packages_layout(client, schema):
    record = next(iter(client.timeseries.get_range(**{**AAPL, "schema": schema, "limit": 1})))
    expected = {"mbp-10": databento_dbn.MBP10Msg, "mbp-1": databento_dbn.MBP1Msg}[schema]
    assert isinstance(record, expected)
    assert record.publisher_id == 2
    assert record.size_hint == {"mbp-10": 368, "mbp-1": 80}[schema]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2025-09-05T12:30:00+00:00", "2025-09-05T15:00:00Z"),
        ("2025-09-05T08:30:00-04:00", "2025-09-05T11:00:00-04:00"),
        (1_757_075_400_000_000_000, 1_757_084_400_000_000_000),
        (datetime(2025, 9, 5, 12, 30, tzinfo=UTC).isoformat(), "2025-09-05T15:00:00.000000000"),
    ],
)
def test_times_are_read_in_every_form_the_client_sends(client, start, end):
    query = {**AAPL, "start": start, "end": end}
    assert client.metadata.get_record_count(**query) == client.metadata.get_record_count(**AAPL)


def test_without_an_end_the_start_is_filled_forward(client):
    day = client.metadata.get_record_count(**{**AAPL, "start": "2025-09-05", "end": None})
    whole = client.metadata.get_record_count(**{**AAPL, "start": "2025-09-05", "end": "2025-09-06"})
    assert day == whole > 0


def test_start_is_inclusive_and_end_exclusive_on_ts_recv(client):
    times = client.timeseries.get_range(**AAPL).to_ndarray()["ts_recv"]
    first, last = int(times[100]), int(times[200])
    part = client.timeseries.get_range(**{**AAPL, "start": first, "end": last}).to_ndarray()["ts_recv"]
    assert part[0] == first
    assert part[-1] < last
    assert len(part) == ((times >= first) & (times < last)).sum()


def test_symbology_resolves_with_one_interval_per_utc_day(client):
    answer = client.symbology.resolve(
        "XNAS.ITCH", ["AAPL", "NOSUCH"], "raw_symbol", "instrument_id", "2025-09-04", "2025-09-06"
    )
    days = answer["result"]["AAPL"]
    assert [(d["d0"], d["d1"]) for d in days] == [("2025-09-04", "2025-09-05"), ("2025-09-05", "2025-09-06")]
    assert days[0]["s"] != days[1]["s"]
    assert (answer["not_found"], answer["partial"], answer["status"]) == (["NOSUCH"], [], 1)


def test_a_share_class_is_spelt_as_on_the_venue(client):
    def known(dataset: str, symbol: str) -> bool:
        answer = client.symbology.resolve(dataset, [symbol], "raw_symbol", "instrument_id", "2025-09-05")
        return symbol in answer["result"]

    assert known("XNAS.ITCH", "BRK.B")
    assert not known("XNAS.ITCH", "BRK-B")
    assert not known("XNAS.ITCH", "BRK B")
    assert known("XNYS.PILLAR", "BRK B")
    assert not known("XNYS.PILLAR", "BRK.B")


def test_a_partly_resolved_list_is_a_success_with_status_206(client, sandbox):
    query = {**AAPL, "symbols": ["AAPL", "BRK-B"]}
    store = client.timeseries.get_range(**query)
    assert store.metadata.not_found == ["BRK-B"]
    assert len(store.to_ndarray()) == client.metadata.get_record_count(**AAPL)
    assert [r.status for r in sandbox.requests if r.params.get("symbols") == "AAPL,BRK-B"] == [206]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"symbols": ["BRK-B"]}, (422, "symbology_invalid_request")),
        ({"start": "2025-09-06", "end": "2025-09-07"}, (422, "symbology_invalid_request")),  # a Saturday
        ({"start": "2025-09-01", "end": "2025-09-02"}, (422, "symbology_invalid_request")),  # Labor Day
        # Winter, when the evening before reaches into the UTC day: a special closure and a Saturday.
        ({"start": "2025-01-09T13:30", "end": "2025-01-09T16:00"}, (422, "symbology_invalid_request")),
        ({"start": "2025-01-11T13:30", "end": "2025-01-11T16:00"}, (422, "symbology_invalid_request")),
        ({"symbols": ["1ABC"]}, (400, "symbology_invalid_symbol")),
        ({"symbols": ["../X"]}, (400, "symbology_invalid_symbol")),
        ({"symbols": ["AAPL", "$X"]}, (400, "symbology_invalid_symbol")),
        ({"end": "2025-10-01T12:00"}, (422, "data_end_after_available_end")),
        ({"start": "2017-01-03", "end": "2017-01-04"}, (422, "data_start_before_available_start")),
        ({"start": "2025-09-05T15:00"}, (422, "data_time_range_start_on_or_after_end")),
        ({"start": "yesterday"}, (422, "data_time_range_invalid")),
        ({"dataset": "NOPE.NOPE"}, (422, "data_dataset_not_found")),
        ({"dataset": "EQUS.MINI"}, (422, "data_schema_not_found")),
        ({"schema": "trades"}, (422, "data_schema_not_found")),
        ({"limit": 0}, (422, "data_limit_invalid")),
    ],
)
@pytest.mark.parametrize("method", ["get_range", "get_record_count", "get_cost", "get_billable_size"])
def test_what_cannot_be_served_is_refused_with_the_vendors_case(client, changes, expected, method):
    call = client.timeseries.get_range if method == "get_range" else getattr(client.metadata, method)
    with pytest.raises(BentoClientError) as caught:
        call(**{**AAPL, **changes})
    assert refusal(caught.value) == expected


def test_too_recent_tells_the_available_end(client):
    with pytest.raises(BentoClientError) as caught:
        client.timeseries.get_range(**{**AAPL, "start": "2025-09-30T11:00", "end": "2025-09-30T12:00:01"})
    assert caught.value.json_body["detail"]["payload"]["available_end"] == "2025-09-30T12:00:00.000000000Z"
    client.timeseries.get_range(**{**AAPL, "start": "2025-09-30T11:59", "end": "2025-09-30T12:00"})


def test_outside_session_hours_a_known_symbol_has_zero_rows(client):
    night = {**AAPL, "start": "2025-09-05T05:00", "end": "2025-09-05T06:00"}
    assert client.metadata.get_record_count(**night) == 0
    assert client.timeseries.get_range(**night).to_ndarray().shape == (0, 1)


@pytest.mark.parametrize("credentials", [None, ("", ""), (" ", "")])
def test_a_missing_or_empty_key_is_401(sandbox, credentials):
    answer = requests.get(
        f"{sandbox.gateway_url}/v0/metadata.list_datasets",
        auth=credentials,
        verify=str(sandbox.ca_file),
        timeout=10,
    )
    assert (answer.status_code, answer.json()["detail"]["case"]) == (401, "auth_authentication_failed")


def test_any_key_opens_the_door_unless_told_otherwise(client, sandbox, monkeypatch):
    assert databento.Historical(key="db-anything", gateway=sandbox.gateway_url).metadata.list_datasets()
    with DatabentoSandbox(strict_api_key=True) as strict:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(strict.ca_file))
        assert databento.Historical(DEFAULT_API_KEY, strict.gateway_url).metadata.list_datasets()
        with pytest.raises(BentoClientError) as caught:
            databento.Historical("db-other", strict.gateway_url).metadata.list_datasets()
    assert refusal(caught.value) == (401, "auth_authentication_failed")


def test_the_ledger_shows_what_was_asked_and_never_the_key(client, sandbox, tmp_path, monkeypatch):
    log = tmp_path / "requests.jsonl"
    key = "db-secret-secret-secret"
    with DatabentoSandbox(now=date(2025, 10, 1), request_log=log) as logged:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(logged.ca_file))
        asking = databento.Historical(key, logged.gateway_url)
        asking.metadata.get_record_count(**AAPL)
        asking.timeseries.get_range(**{**AAPL, "limit": 5})
        entries = logged.requests
    assert [(e.endpoint, e.status, e.records, e.dbn_bytes) for e in entries] == [
        ("metadata.get_record_count", 200, 0, 0),
        ("timeseries.get_range", 200, 5, 5 * 368),
    ]
    assert entries[1].params["symbols"] == "AAPL"
    lines = log.read_text().splitlines()
    assert [json.loads(line)["endpoint"] for line in lines] == [e.endpoint for e in entries]
    assert key not in repr(entries) + log.read_text()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v0/metadata.nothing", 404), ("GET", "/elsewhere", 404), ("GET", "/v0/timeseries.get_range", 405)],
)
def test_unknown_paths_and_methods_are_refused(sandbox, method, path, status):
    answer = requests.request(
        method, sandbox.gateway_url + path, auth=("key", ""), verify=str(sandbox.ca_file), timeout=10
    )
    assert answer.status_code == status


def test_only_loopback_is_served_and_only_its_own_ca_is_trusted(sandbox):
    assert sandbox.gateway_url.startswith("https://127.0.0.1:")
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(sandbox.gateway_url, verify=certifi.where(), timeout=10)


def test_a_client_that_never_finishes_tls_holds_up_nobody(client, sandbox):
    with socket.create_connection(("127.0.0.1", int(sandbox.gateway_url.rsplit(":", 1)[1]))):
        assert client.metadata.list_datasets()


def test_stop_ends_threads_and_port_and_removes_the_ca(monkeypatch):
    before = set(threading.enumerate())
    with DatabentoSandbox() as running:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(running.ca_file))
        session = requests.Session()  # keeps its connection open beyond the end
        session.get(running.gateway_url + "/sandbox/billing", timeout=10)
        assert running.ca_file.stat().st_mode
        assert running.ca_file.parent.stat().st_mode & 0o077 == 0
    assert set(threading.enumerate()) <= before
    assert not running.ca_file.parent.exists()
    port = int(running.gateway_url.rsplit(":", 1)[1])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    session.close()
    again = DatabentoSandbox(port=port)
    with again:
        assert again.gateway_url == running.gateway_url


def test_a_taken_port_and_a_bad_density_are_clear_errors(sandbox):
    with pytest.raises(OSError, match="in use"):
        DatabentoSandbox(port=int(sandbox.gateway_url.rsplit(":", 1)[1])).start()
    with pytest.raises(ValueError, match="records_per_hour"):
        DatabentoSandbox(records_per_hour=0)
    with pytest.raises(ValueError, match=r"no \*\.dbn"):
        DatabentoSandbox(replay_dir=Path(__file__).parent)

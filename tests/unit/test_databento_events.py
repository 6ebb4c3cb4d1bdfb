"""The opt-in event rows are the vendor's records, one for one, in the columns of `level2_events.v1`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from connectors.databento import decode
from connectors.databento.errors import VerificationFailed
from connectors.databento.shape import event_batches
from connectors.store.snapshots import publish
from contracts.v1.level2_events import EVENTS_SCHEMA
from contracts.validate import validate_path

COUNT = 500


@pytest.fixture
def records(dbn):
    rng = np.random.default_rng(9)
    made = dbn.records(np.sort(dbn.open_ns + rng.integers(0, 10**9, COUNT)))
    made["action"] = rng.choice([b"A", b"C", b"M", b"T"], COUNT)
    made["side"] = rng.choice([b"A", b"B", b"N"], COUNT)
    made["price"] = rng.integers(1, 10**9, COUNT) * 100_000
    made["size"] = rng.integers(0, 2**32, COUNT)
    made["depth"] = rng.integers(0, 10, COUNT)
    made["action"][7], made["side"][7], made["price"][7], made["size"][7] = b"R", b"N", dbn.no_price, 0
    # The venue's clock need not rise with the receive clock.
    made["ts_event"] = made["ts_recv"] - rng.integers(5_000, 90_000, COUNT)
    return made


def table(dbn, path, window=10**9, count=COUNT):
    batches = event_batches(
        path, symbol="BRK-B", exchange="XNAS", window_ns=(dbn.open_ns, dbn.open_ns + window), records=count
    )
    return pa.Table.from_batches(batches, EVENTS_SCHEMA)


@pytest.mark.parametrize("chunk_records", [1, 33, 8_192])
def test_every_record_is_a_row_in_vendor_order(dbn, tmp_path, monkeypatch, records, chunk_records):
    monkeypatch.setattr(decode, "CHUNK_RECORDS", chunk_records)
    found = table(dbn, dbn.write(tmp_path / "day.dbn.zst", records))
    assert found.schema.equals(EVENTS_SCHEMA)
    found.validate(full=True)
    columns = found.to_pydict()
    assert columns["timestamp_ns"] == records["ts_event"].tolist()
    assert columns["action"] == [action.decode() for action in records["action"]]
    assert columns["side"] == [side.decode() for side in records["side"]]
    assert columns["price"] == [0.0 if n == 7 else int(price) / 10**9 for n, price in enumerate(records["price"])]
    assert columns["size"] == [float(size) for size in records["size"]]
    assert columns["level"] == records["depth"].tolist()
    assert {*columns["exchange"]} == {"XNAS"}
    assert {*columns["symbol"]} == {"BRK-B"}
    assert {*columns["source"]} == {"databento"}
    assert found["ts_utc"].cast(pa.int64()).to_pylist() == records["ts_event"].tolist()
    assert found["ts_recv"].cast(pa.int64()).to_pylist() == records["ts_recv"].tolist()


def test_events_outside_the_window_are_left_out(dbn, tmp_path, records):
    path = dbn.write(tmp_path / "day.dbn.zst", records)
    inside = records["ts_recv"] < dbn.open_ns + 10**8
    assert 0 < np.count_nonzero(inside) < COUNT
    assert table(dbn, path, window=10**8)["timestamp_ns"].to_pylist() == records["ts_event"][inside].tolist()


def test_receive_times_never_fall(dbn, tmp_path):
    path = dbn.write(tmp_path / "day.dbn.zst", dbn.records(dbn.open_ns + np.array([0, 9, 4, 9, 10])))
    times_ns = table(dbn, path, count=5)["ts_recv"].cast(pa.int64()).to_pylist()
    assert [ns - dbn.open_ns for ns in times_ns] == [0, 9, 9, 9, 10]


def test_published_events_are_valid_under_the_contract(dbn, tmp_path, records):
    path = dbn.write(tmp_path / "day.dbn.zst", records)
    target = tmp_path / "level2" / "BRK-B" / "2025-09-05_events_databento.parquet"
    target.parent.mkdir(parents=True)
    assert publish(target, EVENTS_SCHEMA, table(dbn, path).to_batches()).rows == COUNT
    assert [finding for finding in validate_path(target).findings if finding.severity == "error"] == []


def test_a_kept_file_that_lost_records_is_refused(dbn, tmp_path, records):
    path = dbn.write(tmp_path / "day.dbn.zst", records[1:])
    with pytest.raises(VerificationFailed) as failed:
        table(dbn, path)
    assert failed.value.reason == "record_count"

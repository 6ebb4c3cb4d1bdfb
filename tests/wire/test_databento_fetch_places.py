"""Trouble that is not the vendor's: no trust, nobody there, a wrong address, a full disk."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from connectors.databento.errors import CircuitOpen, RetryableError

FULL_DISK = """
import json, resource, sys
from datetime import date
from pathlib import Path
from connectors.databento.client import DatabentoClient
from connectors.databento.fetch import fetch_day
from connectors.databento.plan import VendorPlan
from connectors.databento.request import DayRequest
from connectors.databento.spend import SpendCeiling
from flows.raw_shelf import RawShelf

given = json.loads(sys.argv[1])
client = DatabentoClient(given["key"], gateway=given["gateway"])
day = date.fromisoformat(given["request"]["day"])
request = DayRequest(**{**given["request"], "day": day})
resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, 4_096))
try:
    fetch_day(
        client, VendorPlan(client, day, day), request,
        shelf=RawShelf(Path(given["folder"]), keep=True), ceiling=SpendCeiling(None, client.circuit),
    )
except Exception as error:
    print(json.dumps({"bases": [c.__name__ for c in type(error).__mro__], "text": str(error)}))
"""


def test_a_server_that_is_not_trusted_ends_the_run_and_says_how_to_trust_it(wire, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    client = wire.client()

    with pytest.raises(CircuitOpen, match="REQUESTS_CA_BUNDLE") as caught:
        wire.fetch(client=client)

    assert caught.value.reason == "tls"
    assert client.circuit.reason is not None
    assert wire.requests == []


def test_nobody_there_is_tried_again_and_then_an_error(wire, caplog):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # never listens: connections are refused
        client = wire.client(retries=2, gateway=f"https://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(RetryableError) as caught:
            client.record_count(wire.request())

    assert caught.value.reason == "connection"
    assert [record.message.partition(":")[0][:12] for record in caplog.records] == ["retry 1 of 2", "retry 2 of 2"]
    assert wire.key not in caplog.text


def test_a_full_disk_is_the_disks_fault_and_the_vendor_is_not_asked_again(wire):
    request = wire.request()
    given = {
        "key": wire.key,
        "gateway": wire.sandbox.gateway_url,
        "folder": str(wire.folder),
        "request": {**vars(request), "day": request.day.isoformat()},
    }

    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, json.dumps(given)], env=os.environ, capture_output=True, check=True, text=True
    )

    error = json.loads(done.stdout)
    assert "OSError" in error["bases"] or "StoreError" in error["bases"], error
    assert "VendorError" not in error["bases"]
    assert "File too large" in error["text"]
    assert wire.endpoints.count("get_range") == 1
    assert wire.files() == []

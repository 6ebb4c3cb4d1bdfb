"""The vendor's request rates with several worker processes at once, in the vendor's own log."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from datetime import date
from pathlib import Path

from connectors.sandbox.databento_server import DatabentoSandbox, parse_fault
from flows.limits import limit_named

COMMAND = Path(sys.executable).with_name("trading-data")
TIMEOUT_S = 200
SYMBOLS = [
    "AAPL",
    "AMD",
    "AMZN",
    "AVGO",
    "CSCO",
    "GOOG",
    "INTC",
    "META",
    "MSFT",
    "NFLX",
    "NVDA",
    "ORCL",
    "QCOM",
    "TSLA",
    "TXN",
]


def most_in_a_second(times_s):
    return max((sum(start <= other < start + 1 for other in times_s) for start in times_s), default=0)


def test_runs_at_once_stay_together_within_the_vendors_rates(place):
    """Two roots, so that the runs do not wait for each other; one cache, where their requests are counted."""
    with DatabentoSandbox(api_key=place.key, now=date(2025, 12, 1), faults=[parse_fault("zero-rows")]) as vendor:
        runs = [
            subprocess.Popen(
                [COMMAND, "backfill", *(part for symbol in SYMBOLS for part in ("--symbol", symbol)),
                 "--date", str(place.day), "--max-workers", "8"],
                cwd=place.folder,
                env={**os.environ, **vendor.env(), "DATA_PATH_OVERRIDE": str(place.folder / f"data-{number}")},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(2)
        ]  # fmt: skip
        ended = [(*run.communicate(timeout=TIMEOUT_S), run.returncode) for run in runs]
        requests = vendor.requests

    assert [code for _, _, code in ended] == [0, 0], ended
    assert all(" EMPTY=15 ERROR=0 " in out for out, _, _ in ended), ended
    times_s = defaultdict(list)
    for request in requests:
        assert request.status != 429
        times_s[request.endpoint.partition(".")[0]].append(request.started_monotonic)
    metadata = limit_named("databento.metadata")
    assert len(times_s["metadata"]) > 2 * metadata.limit, "too few requests to say anything"
    for family, times in times_s.items():
        row = limit_named(f"databento.{family}")
        # Requests bunch up on their way; the margin to the vendor's figure is for that.
        assert most_in_a_second(times) <= row.vendor_limit, family

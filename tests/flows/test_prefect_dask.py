"""`backfill-l2` on a Dask cluster of this machine: a worker is killed, and the run neither repeats nor loses a day."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil
import pytest
from support.prefect_server import until

if TYPE_CHECKING:
    import subprocess

pytestmark = [
    pytest.mark.scale,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

SYMBOLS = ("AAPL", "AMD", "INTC", "MSFT", "NVDA", "TSLA")
CEILING_USD = 0.05
"""Ten times what the days cost: a worker that dies counts as having spent its share."""


def busy_workers(place, run: subprocess.Popen[str]) -> list[psutil.Process]:
    """Processes of a run, its own not included, that talk to the vendor."""
    port = urlsplit(place.vendor.gateway_url).port
    return [
        each
        for each in psutil.Process(run.pid).children(recursive=True)
        if any(
            talk.raddr and talk.raddr.port == port for talk in each.net_connections() if talk.status == "ESTABLISHED"
        )
    ]


def test_a_worker_killed_in_mid_run_costs_one_more_download_at_most(place, prefect_api, tmp_path):
    pytest.importorskip("prefect_dask")
    place.set(TASK_RUNNER="dask")
    place.vendor.add_fault("slow:symbol=INTC,endpoint=get_range,seconds=120,times=1")
    symbols = [part for symbol in SYMBOLS for part in ("--symbol", symbol)]
    log = tmp_path / "run.log"
    with log.open("w") as stderr:
        run = place.start_command(
            *("backfill", *symbols, "--date", place.day),
            *("--max-workers", 2, "--max-cost-usd", CEILING_USD, "--prefect"),
            stderr=stderr,
        )
    try:
        # Only the worker at INTC has something to do; a busy machine takes a minute to start them.
        until(lambda: len(place.downloads) == len(SYMBOLS) and len(busy_workers(place, run)) == 1, 240)
        busy_workers(place, run)[0].kill()
        out, _ = run.communicate(timeout=200)
    finally:
        run.kill()

    assert run.returncode == 0, log.read_text()
    assert out.startswith("SUMMARY WRITE=6 ")
    assert [(line.symbol, line.status) for line in place.lines] == [(symbol, "WRITE") for symbol in SYMBOLS]
    assert Counter(place.downloads) == Counter((*SYMBOLS, "INTC"))
    assert place.billed_usd <= place.summary["cost_usd"] <= CEILING_USD
    assert "its worker died, 1 days are given out again" in log.read_text()
    assert place.key not in log.read_text() + json.dumps(place.summary)

    place.vendor.clear_faults()
    place.unset("TASK_RUNNER")
    place.forget_requests()
    assert place.backfill(*SYMBOLS).summary["counts"]["SKIP"] == len(SYMBOLS)
    assert place.downloads == []
    assert not (place.root / ".backfill").exists()
    place.check()

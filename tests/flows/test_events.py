"""Events of this project: they arrive, also from a short process, with what a reader needs to load the day."""

from __future__ import annotations

import datetime as dt
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter
from support.prefect_server import until

from contracts.layout import DataRoot
from contracts.testing import write_sample_root
from contracts.v1.quality import Quality
from flows import events
from flows.events import quality_word

EXAMPLE = Path(__file__).parents[2] / "examples" / "follow_days.py"

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SCRIPT = """
import datetime as dt, sys
from pathlib import Path
from prefect import flow
from contracts.layout import DataRoot
from contracts.v1.quality import Quality
from flows import events
from flows.backfill_day import DayOutcome
from flows.backfill_request import DayTask
from flows.bars_result import PieceOutcome

ROOT, DAY, RUN = DataRoot(sys.argv[1]), dt.date(2025, 9, 4), sys.argv[2]
BARS_DAY = dt.date(2025, 11, 28)
DEGRADED = Quality(vendor_condition="degraded", rows=1, events=2, crossed=0, locked=0, one_sided=0, maybe_bad_book=0)

def day(symbol, status, **facts):
    events.level2_day(DayOutcome(DayTask(symbol, DAY), status, **facts), run_id=RUN, root=ROOT)

@flow(name="short", flow_run_name="a short run")
def short():
    day("AAPL", "WRITE", rows=1, interval_ms=100, window_et="09:30-11:00", cost_usd=0.5, quality=DEGRADED,
        path=ROOT.snapshots_path("AAPL", DAY))
    day("MSFT", "EMPTY", reason="no records")
    day("NVDA", "ERROR", reason="cut", error="NVDA 2025-09-04: cut")
    day("TSLA", "SKIP", rows=1, path=ROOT.snapshots_path("TSLA", DAY))
    day("AMD", "EMPTY", reason="market closed")
    path = ROOT.bars_path("1 min", "AAPL", BARS_DAY)
    events.bars_day(PieceOutcome("AAPL", "1 min", BARS_DAY, "WRITE", 390, path), root=ROOT)
    events.bars_day(PieceOutcome("AAPL", "1 sec", DAY, "ERROR", error="refused"), root=ROOT)
    events.bars_day(PieceOutcome("AAPL", "1 hour", DAY, "EMPTY"), root=ROOT)
    events.coverage_refreshed({"changed": True, "entry_count": 1, "days": 1, "lines": 1, "skipped": {}}, root=ROOT)
    assert events.drain()

short()
"""


def arrived(run: str) -> list[Any]:
    """The events of a flow run that the server has, by the label that only this test knows."""
    names = EventNameFilter(prefix=["level2.day.", "bars.day.", "coverage.refreshed"])
    since = EventOccurredFilter(since=dt.datetime.now(dt.UTC) - dt.timedelta(hours=1))
    with get_client(sync_client=True) as client:
        page = client.read_events(EventFilter(event=names, occurred=since), limit=50)
    ours = {
        related.id
        for event in page.events
        if event.payload.get("run_id") == run
        for related in event.related
        if related.role == "flow-run"
    }
    return [event for event in page.events if ours & {related.id for related in event.related}]


def test_the_events_of_a_short_run_arrive_with_what_a_reader_needs(prefect_api, tmp_path):
    run, root = uuid.uuid4().hex, tmp_path / "data"
    done = subprocess.run([sys.executable, "-c", SCRIPT, root, run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    until(lambda: len(arrived(run)) == 6)
    found = {event.resource.id: event for event in arrived(run)}
    assert {key: event.event for key, event in found.items()} == {
        "trading-data.level2.AAPL.2025-09-04": "level2.day.written",
        "trading-data.level2.MSFT.2025-09-04": "level2.day.empty",
        "trading-data.level2.NVDA.2025-09-04": "level2.day.failed",
        "trading-data.bars.AAPL.1-min.2025-11-28": "bars.day.written",
        "trading-data.bars.AAPL.1-sec.2025-09-04": "bars.day.failed",
        "trading-data.coverage": "coverage.refreshed",
    }
    written = found["trading-data.level2.AAPL.2025-09-04"]
    labels = {key: written.resource.get(key) for key in ("symbol", "date", "status", "quality", "source")}
    assert labels == {
        "symbol": "AAPL",
        "date": "2025-09-04",
        "status": "WRITE",
        "quality": "degraded",
        "source": "databento",
    }
    payload = written.payload
    assert payload["path"] == "level2/AAPL/2025-09-04_snapshots_databento.parquet"
    assert payload["absolute_path"] == str(root / payload["path"])
    assert (payload["rows"], payload["interval_ms"], payload["window_et"]) == (1, 100, "09:30-11:00")
    assert (payload["cost_usd"], payload["run_id"], payload["reason"]) == (0.5, run, None)
    assert {related.role: related.name for related in written.related} == {"flow-run": "a short run", "flow": "short"}
    assert found["trading-data.bars.AAPL.1-min.2025-11-28"].payload["rows"] == 390
    assert found["trading-data.coverage"].payload["entry_count"] == 1


def test_a_reader_follows_events_and_loads_what_they_name(prefect_api, tmp_path):
    root = DataRoot(tmp_path / "data")
    write_sample_root(root.path)
    with subprocess.Popen(
        [sys.executable, EXAMPLE, root.path],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PREFECT_LOGGING_LEVEL": "ERROR"},
    ) as reader:
        try:
            subprocess.run([sys.executable, "-c", SCRIPT, root.path, uuid.uuid4().hex], check=True)
            assert reader.stdout is not None
            # Events of the last minute come first, and the server is not this test's alone.
            for wanted in ("AAPL 2025-09-04: .* books, mean spread 0[.]0", "AAPL 2025-11-28: .* bars of 1 min"):
                assert any(re.match(wanted, line) for line in iter(reader.stdout.readline, ""))
        finally:
            reader.kill()


def test_the_quality_of_a_day_is_one_word():
    facts = {"rows": 1, "events": 1, "crossed": 0, "locked": 0, "one_sided": 0, "maybe_bad_book": 0}
    words = [quality_word(Quality(vendor_condition=each, **facts)) for each in ("available", "pending", None)]
    assert [quality_word(None), *words] == ["unknown", "ok", "pending", "unknown"]


def test_events_outside_of_a_flow_run_go_nowhere():
    events.coverage_refreshed({"changed": False}, root=DataRoot("/data"))
    assert events.drain()

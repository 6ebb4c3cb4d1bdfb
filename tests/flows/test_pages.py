"""The pages of flow runs: what a person sees on them, and that nothing about them holds a run up."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_API_URL, temporary_settings
from support.prefect_server import until

from contracts.layout import DataRoot
from contracts.v1.quality import Quality
from flows import events, outbox
from flows.backfill_day import DayOutcome
from flows.backfill_page import ROWS_PER_TABLE, BackfillPage, day_rows, spend_rows
from flows.backfill_request import DayTask
from flows.pages import KEY_CHARS, Page, artifact_key, plain

if TYPE_CHECKING:
    from pathlib import Path

DAY = dt.date(2025, 9, 5)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def artifacts_of(flow_run_id: Any) -> dict[str, Any]:
    run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(flow_run_filter=run)
    assert len({each.key for each in found}) == len(found), "each is one that is brought up to date"
    return {each.key: each for each in found}


def an_outcome(number: int, status: str = "WRITE", **facts: Any) -> DayOutcome:
    return DayOutcome(DayTask("AAPL" if number % 2 else "MSFT", DAY + dt.timedelta(number)), status, **facts)


def a_summary(outcomes: list[DayOutcome], **facts: Any) -> dict[str, Any]:
    statuses = [each.status for each in outcomes]
    return {
        "counts": {status: statuses.count(status) for status in ("WRITE", "SKIP", "EMPTY", "ERROR")},
        "zero_row_tasks": [[each.task.symbol, str(each.task.day)] for each in outcomes if each.status == "EMPTY"],
        "errors": [each.error for each in outcomes if each.status == "ERROR"],
        "total_tasks": len(outcomes),
        "duration_sec": 61.25,
        "concurrency": 4,
        "run_id": "6f9c2f2e",
        "window_et": "09:30-11:00",
        "cost_usd": 0.75,
        "bytes_written": 3_400_000,
        **facts,
    }


def test_a_key_says_flow_kind_and_label():
    assert artifact_key("backfill-l2", "summary", "AAPL 2025-09-05") == "backfill-l2-summary-aapl-2025-09-05"


@given(st.text(), st.text(), st.text())
@settings(max_examples=50)
def test_every_key_is_one_that_prefect_takes(flow_name, kind, label):
    key = artifact_key(flow_name, f"x{kind}", label)
    assert re.fullmatch(r"[a-z0-9-]+", key)
    assert len(key) <= KEY_CHARS
    assert key == artifact_key(flow_name, f"x{kind}", label)


def test_long_labels_that_differ_at_their_ends_have_different_keys():
    keys = {artifact_key("backfill-l2", "days", "AAPL " * 50 + end) for end in ("2025-09-05", "2025-09-08")}
    assert len(keys) == 2


def test_what_others_wrote_is_text_in_markdown():
    assert plain("a|b <img src=x>\n# `c` [d](e)") == r"a\|b \<img src=x\> \# \`c\` \[d\](e)"


def test_artifacts_are_created_once_and_then_brought_up_to_date(prefect_api):
    @flow(name="a-page")
    def run() -> None:
        page = Page("a-page", "AAPL 2025-09-05")
        for share in (-1, 33.33, 250):
            page.progress(share, f"{share} percent")
            page.table("days", [{"symbol": "AAPL", "day": DAY}], "one day")
            assert page.finish(60)
        page.markdown("summary", "**fine**", "how it went")
        page.link("report", "file:///data/summary.json", "the [summary]")
        assert page.finish(60)

    found = artifacts_of(run(return_state=True).state_details.flow_run_id)
    label = "aapl-2025-09-05"
    assert {key: (each.type, each.description) for key, each in found.items()} == {
        f"a-page-progress-{label}": ("progress", "250 percent"),
        f"a-page-days-{label}": ("table", "one day"),
        f"a-page-summary-{label}": ("markdown", "how it went"),
        f"a-page-report-{label}": ("markdown", "the [summary]"),
    }
    assert found[f"a-page-progress-{label}"].data == 100
    assert json.loads(found[f"a-page-days-{label}"].data) == [{"symbol": "AAPL", "day": "2025-09-05"}]
    assert found[f"a-page-report-{label}"].data == r"[the \[summary\]](<file:///data/summary.json>)"


def test_what_the_api_refuses_is_told_and_lets_the_rest_pass(prefect_api, caplog):
    class Odd(Page):
        def spoil(self) -> None:
            self._outbox.put("Not A Key", next(iter(self._outbox._waiting.values())))

    @flow(name="a-page")
    def run() -> None:
        page = Odd("a-page", "odd")
        with page._outbox._changed:
            page.progress(10, "ten")
            page.spoil()
            page.markdown("summary", "text", "text")
        assert page.finish(60)

    found = artifacts_of(run(return_state=True).state_details.flow_run_id)
    assert set(found) == {"a-page-progress-odd", "a-page-summary-odd"}
    assert "does not take a part of it" in caplog.text


def test_outside_of_a_run_nothing_happens():
    page = Page("a-page", "nobody")
    page.progress(50, "half")
    events.level2_day(an_outcome(1), run_id="r", root=DataRoot("/data"))
    before = time.monotonic()
    assert page.finish()
    assert events.drain()
    assert time.monotonic() - before < 1


def test_a_run_is_neither_held_up_nor_failed_by_an_api_that_has_gone(prefect_api, tmp_path, caplog):
    seen: dict[str, float] = {}

    @flow(name="a-page")
    def run() -> str:
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
            page = BackfillPage("AAPL", 200, root=DataRoot(tmp_path), max_cost_usd=1.0)
            began = time.monotonic()
            outcomes = [an_outcome(number) for number in range(200)]
            for outcome in outcomes:
                page.recorded(outcome)
            seen["recorded"] = time.monotonic() - began
            page.finish(a_summary(outcomes), outcomes)
            seen["finished"] = time.monotonic() - began
        return "done"

    assert run() == "done"
    # A second each for page and events, with some to spare on a busy machine; with Prefect's own patience a minute.
    assert seen["recorded"] < 5
    assert seen["finished"] < 15
    assert caplog.text.count("the run's page: Prefect's API does not take it now, the run goes on") == 1
    assert caplog.text.count("events: Prefect's API does not take it now, the run goes on") == 1


def test_what_waits_is_written_when_the_api_comes_back(prefect_api):
    class Numbers(outbox.Outbox):
        left, tries = 3, 0

        def waiting(self) -> int:
            return self.left

        def write_next(self, client: Any) -> None:
            self.tries += 1
            if self.tries < 3:
                raise httpx.ConnectError("nobody listens")
            client.request("GET", "/health")
            self.drop_next()

        def drop_next(self) -> None:
            with self._changed:
                self.left -= 1
                self._changed.notify_all()

    numbers = Numbers("numbers")
    with numbers._changed:
        numbers._work()
    until(lambda: not numbers.left)
    assert numbers.tries == 5


def test_the_page_of_a_backfill_says_what_became_of_every_day_and_what_it_cost(prefect_api, tmp_path):
    quality = Quality(rows=10, events=70, crossed=0, locked=0, one_sided=0, maybe_bad_book=0)
    root = DataRoot(tmp_path)
    outcomes = [
        an_outcome(
            1,
            rows=10,
            cost_usd=0.25,
            bytes_written=2_000_000,
            path=root.snapshots_path("AAPL", DAY),
            quality=quality.model_copy(update={"vendor_condition": "degraded"}),
        ),
        an_outcome(2, "EMPTY", cost_usd=0.0, reason="no records"),
        an_outcome(3, "ERROR", cost_usd=0.5, reason="cut", error="AAPL 2025-09-08: cut | <b>"),
    ]

    @flow(name="backfill-l2")
    def run() -> None:
        page = BackfillPage("AAPL MSFT 2025-09-05", 4, root=root, run_id="6f9c2f2e", max_cost_usd=2.0)
        for outcome in outcomes:
            page.recorded(outcome)
        summary = a_summary(outcomes, stopped="no credit", remaining=[["NVDA", "2025-09-09"]])
        page.finish(summary, outcomes)

    found = artifacts_of(run(return_state=True).state_details.flow_run_id)
    label = "aapl-msft-2025-09-05"
    progress = found[f"backfill-l2-progress-{label}"]
    assert (progress.data, progress.description) == (
        75,
        "3 of 4 days: WRITE 1, SKIP 0, EMPTY 1, ERROR 1; stopped early",
    )
    text = found[f"backfill-l2-summary-{label}"].data
    for line in (
        "| days | 3 of 4 |",
        "| spent | 0.7500 USD of at most 2.00 USD |",
        "**Stopped early**: no credit",
        "1 days remain: NVDA 2025-09-09",
        r"- AAPL 2025-09-08: cut \| \<b\>",
        "**Without rows**: MSFT 2025-09-07",
        f"]({root.backfill_manifest.as_uri()})".replace("(", "(<").replace(")", ">)"),
    ):
        assert line in text
    days = json.loads(found[f"backfill-l2-days-{label}"].data)
    assert [(row["status"], row["symbol"], row["quality"]) for row in days] == [
        ("ERROR", "AAPL", ""),
        ("EMPTY", "MSFT", ""),
        ("WRITE", "AAPL", "degraded"),
    ]
    assert days[2]["file"] == "level2/AAPL/2025-09-05_snapshots_databento.parquet"
    spend = json.loads(found[f"backfill-l2-spend-{label}"].data)
    assert [(row["symbol"], row["days"], row["USD"], row["vendor events"], row["degraded"]) for row in spend] == [
        ("AAPL", 2, "0.7500", 70, 1),
        ("MSFT", 1, "0.0000", 0, 0),
        ("all", 3, "0.7500", 70, 1),
    ]


def test_large_tables_come_in_pages_with_the_errors_first(tmp_path: Path):
    outcomes = [an_outcome(number, "ERROR" if number == 1_500 else "SKIP") for number in range(2_001)]
    rows = day_rows(outcomes, DataRoot(tmp_path))
    assert rows[0]["status"] == "ERROR"
    assert len(rows) == 2_001 > 2 * ROWS_PER_TABLE
    assert spend_rows(outcomes)[-1]["days"] == 2_001


def test_the_spend_of_all_is_that_of_the_symbols_the_dearest_first():
    outcomes = [an_outcome(number, cost_usd=number * 0.01 if number % 7 else None) for number in range(50)]
    *symbols, everything = spend_rows(outcomes)
    assert everything["days"] == sum(row["days"] for row in symbols) == 50
    assert everything["without a price"] == 8
    usd = [float(row["USD"]) for row in symbols]
    assert usd == sorted(usd, reverse=True)
    assert (
        float(everything["USD"]) == pytest.approx(sum(usd)) == pytest.approx(sum(n * 0.01 for n in range(50) if n % 7))
    )


def test_a_slow_api_does_not_slow_a_run_that_reports_often(prefect_api):
    @flow(name="a-page")
    def run() -> float:
        page = Page("a-page", "often")
        began = time.perf_counter()
        for number in range(2_000):
            page.progress(number / 20, f"{number} of 2000")
        spent_s = time.perf_counter() - began
        page.finish(60)
        return spent_s

    assert run() < 2

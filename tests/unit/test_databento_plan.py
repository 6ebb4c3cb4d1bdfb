"""What the vendor's look-ups say about a day; the wire tests follow the same look-ups through a whole fetch."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest

from connectors.databento.client import DatabentoClient, RetryPolicy
from connectors.databento.errors import NotYetAvailable
from connectors.databento.plan import VendorPlan, _instant
from connectors.databento.request import RECORD_BYTES, DayRequest
from connectors.sandbox.databento_server import DatabentoSandbox

ET = ZoneInfo("America/New_York")
WINTER_EVENING = dt.date(2025, 1, 15)
NOW = dt.datetime(2025, 2, 1, tzinfo=dt.UTC)


def ask(day, start="18:50", end="19:10", **changes):
    """A request between two ET times of a day."""
    bounds = [dt.datetime.combine(day, dt.time.fromisoformat(text), ET) for text in (start, end)]
    start_ns, end_ns = (int(moment.timestamp()) * 10**9 for moment in bounds)
    fields = {"symbol": "AAPL", "vendor_symbol": "AAPL", "dataset": "XNAS.ITCH", "schema": "mbp-10"} | changes
    return DayRequest(day=day, start_ns=start_ns, end_ns=end_ns, **fields)


@pytest.fixture
def sandbox(monkeypatch):
    with DatabentoSandbox(now=NOW, usd_per_gb=3.0) as running:
        for name, value in running.env().items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def plan(sandbox):
    client = DatabentoClient(sandbox.api_key, gateway=sandbox.gateway_url, retry=RetryPolicy(retries=0))
    return VendorPlan(client, WINTER_EVENING, WINTER_EVENING + dt.timedelta(days=16))


def test_a_day_has_its_records_their_price_and_its_condition(plan):
    day = plan.day(ask(WINTER_EVENING, "09:30", "09:40"))
    assert day.records > 0
    assert day.cost_usd == pytest.approx(day.records * RECORD_BYTES["mbp-10"] / 2**30 * 3.0)
    assert day.condition == "available"


@pytest.mark.parametrize(
    ("faults", "condition"),
    [
        ([], "available"),
        (["degraded:day=2025-01-15"], "degraded"),
        (["degraded:day=2025-01-16"], "degraded"),
        (["degraded:day=2025-01-15", "missing:day=2025-01-16"], "missing"),
        (["missing:day=2025-01-17"], "available"),
    ],
)
def test_the_condition_is_the_worst_of_the_utc_days_the_window_touches(sandbox, plan, faults, condition):
    for fault in faults:
        sandbox.add_fault(fault)
    assert plan.condition(ask(WINTER_EVENING)) == condition


def test_a_pending_second_utc_day_holds_the_evening_back(sandbox, plan):
    sandbox.add_fault("pending:day=2025-01-16")
    assert plan.day(ask(WINTER_EVENING, "18:00", "18:59")).condition == "available"
    with pytest.raises(NotYetAvailable) as failed:
        plan.day(ask(WINTER_EVENING))
    assert failed.value.reason == "pending"


def test_a_window_may_end_exactly_where_the_dataset_does(plan):
    """The sandbox offers data up to a day before now: midnight UTC, 19:00 ET."""
    last = dt.date(2025, 1, 30)
    assert plan.day(ask(last, "18:50", "19:00")).records >= 0
    with pytest.raises(NotYetAvailable, match="AAPL 2025-01-30") as failed:
        plan.day(ask(last, "18:50", "19:01"))
    assert failed.value.reason == "too_recent"
    assert failed.value.available_end.startswith("2025-01-31T00:00:00")


def test_an_informing_look_up_that_failed_leaves_the_condition_unknown(sandbox, plan, caplog):
    sandbox.add_fault("server-error:endpoint=metadata.get_dataset_condition")
    assert plan.condition(ask(WINTER_EVENING)) is None
    assert "the condition of its days is unknown" in caplog.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-09-05T10:00:00.123456789Z", dt.datetime(2025, 9, 5, 10, 0, 0, 123_456, tzinfo=dt.UTC)),
        ("2025-09-05T10:00:00+00:00", dt.datetime(2025, 9, 5, 10, tzinfo=dt.UTC)),
        ("2025-09-05T10:00:00", dt.datetime(2025, 9, 5, 10, tzinfo=dt.UTC)),
        ("2025-09-05", dt.datetime(2025, 9, 5, tzinfo=dt.UTC)),
        ("soon", None),
        ("", None),
        (None, None),
        (5, None),
    ],
)
def test_the_vendors_spellings_of_an_instant_are_read(text, expected):
    assert _instant(text) == expected

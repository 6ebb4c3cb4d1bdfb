"""Days not yet available are asked for again: what is due when, and the scheduled runs of a real Prefect server."""

from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.sessions import parse_window
from flows.backfill_day import DayOutcome
from flows.backfill_request import DayTask
from flows.followup import GIVEN_UP_AFTER, REASONS, SOONEST, FollowUp, due, follow_up, parameters_of

if TYPE_CHECKING:
    from support.prefect_server import PrefectServer

WINDOW = parse_window("08:30-11:00")
FRIDAY = dt.date(2025, 9, 5)
FRIDAYS_END = dt.datetime(2025, 9, 5, 15, tzinfo=dt.UTC)
GIVEN: dict[str, Any] = {
    "symbols": None,
    "start": None,
    "end": None,
    "since_days": 7,
    "last": None,
    "tasks_file": Path("list.csv"),
    "max_tasks": 40,
    "max_cost_usd": 5.0,
    "interval_ms": 1_000,
    "fetch_bars": True,
    "dry_run": False,
}


def failed(symbol: str, reason: str | None, day: dt.date = FRIDAY) -> DayOutcome:
    return DayOutcome(DayTask(symbol, day), "ERROR", reason=reason, error=f"{symbol}: {reason}")


def test_a_day_of_today_is_due_when_its_window_is_a_day_past_whatever_the_season():
    now = FRIDAYS_END + dt.timedelta(hours=5)
    winter = dt.date(2025, 12, 5)
    winters_end = dt.datetime(2025, 12, 5, 16, tzinfo=dt.UTC)

    assert due([failed("AAPL", "licence"), failed("MSFT", "too_recent")], WINDOW, now) == [
        FollowUp(FRIDAY, ("AAPL", "MSFT"), FRIDAYS_END + dt.timedelta(hours=24, minutes=30))
    ]
    assert [found.at for found in due([failed("AAPL", "licence", winter)], WINDOW, winters_end)] == [
        winters_end + dt.timedelta(hours=24, minutes=30)
    ]


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_a_day_that_should_be_there_is_due_at_the_next_mark_the_same_for_every_run(reason):
    now = dt.datetime(2025, 9, 7, 3, 59, tzinfo=dt.UTC)

    at = {due([failed("AAPL", reason)], WINDOW, now + dt.timedelta(minutes=n))[0].at for n in range(0, 360, 30)}

    assert at == {dt.datetime(2025, 9, 7, 6, tzinfo=dt.UTC), dt.datetime(2025, 9, 7, 12, tzinfo=dt.UTC)}


def test_only_what_is_not_yet_available_is_due_and_a_week_later_nothing_is(caplog):
    outcomes = [
        failed("A", "unresolved_symbol"),
        failed("B", "server_error"),
        failed("C", None),
        DayOutcome(DayTask("D", FRIDAY), "WRITE", rows=1),
        DayOutcome(DayTask("E", FRIDAY), "EMPTY", reason="no records"),
    ]

    assert due(outcomes, WINDOW, FRIDAYS_END) == []
    assert due([failed("AAPL", "pending")], WINDOW, FRIDAYS_END + GIVEN_UP_AFTER - dt.timedelta(hours=9)) != []
    assert due([failed("AAPL", "pending")], WINDOW, FRIDAYS_END + GIVEN_UP_AFTER) == []
    assert "AAPL 2025-09-05: not there a week later" in caplog.text


@settings(max_examples=50, deadline=None)
@given(
    now=st.integers(0, 365 * 24 * 60).map(lambda n: FRIDAYS_END + dt.timedelta(minutes=n)),
    age=st.integers(-3, 10),
    reason=st.sampled_from(sorted(REASONS)),
)
def test_what_is_due_lies_ahead_and_never_before_the_vendor_may_give_it(now, age, reason):
    day = now.date() - dt.timedelta(age)

    for found in due([failed("AAPL", reason, day)], WINDOW, now):
        end = WINDOW.bounds_utc(day)[1]
        assert now < found.at <= end + GIVEN_UP_AFTER
        assert found.at - now >= SOONEST or found.at >= end + dt.timedelta(hours=24)


def test_the_run_that_asks_again_is_told_the_day_and_not_how_the_first_one_chose_it():
    wanted = FollowUp(FRIDAY, ("AAPL", "MSFT"), FRIDAYS_END)

    assert parameters_of(wanted, GIVEN) == {
        "symbols": ["AAPL", "MSFT"],
        "start": "2025-09-05",
        "end": "2025-09-05",
        "since_days": None,
        "last": None,
        "tasks_file": None,
        "max_tasks": None,
        "max_cost_usd": 5.0,
        "interval_ms": 1_000,
        "fetch_bars": False,
        "dry_run": False,
    }


def test_without_prefect_it_is_said_when_to_run_it_again(caplog):
    tomorrow = dt.datetime.now(dt.UTC).date() + dt.timedelta(1)
    caplog.set_level(logging.INFO)

    (found,) = follow_up([failed("AAPL", "licence", tomorrow)], WINDOW, {})

    assert f"AAPL {tomorrow}: not yet available; run it again after {found.at:%Y-%m-%d %H:%M} UTC" in caplog.text


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_deployed_run_schedules_one_run_of_its_deployment_however_often_it_meets_the_day(
    prefect_api: PrefectServer, caplog
):
    from prefect import flow  # noqa: PLC0415 - takes seconds, which the other tests need not
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId  # noqa: PLC0415
    from prefect.flow_engine import run_flow  # noqa: PLC0415

    tomorrow = dt.datetime.now(dt.UTC).date() + dt.timedelta(1)
    outcomes = [failed("AAPL", "licence", tomorrow), failed("MSFT", "licence", tomorrow)]
    made: list[list[FollowUp]] = []

    @flow(name="backfill-that-comes-too-early")
    def too_early(
        symbols: list[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        since_days: int | None = None,
        last: int | None = None,
        tasks_file: str | None = None,
        max_tasks: int | None = None,
        dry_run: bool = False,
        fetch_bars: bool = False,
        max_cost_usd: float | None = None,
    ) -> None:
        given = {"since_days": since_days, "fetch_bars": fetch_bars, "max_cost_usd": 10.0}
        # Each run has spent another part of its ceiling.
        made.append(follow_up(outcomes, WINDOW, given, rest_usd=7.508 - len(made)))

    deployment_id = too_early.to_deployment("nightly", parameters={"since_days": 7, "fetch_bars": True}).apply()
    with get_client(sync_client=True) as client:
        for _ in range(2):
            run_flow(too_early, flow_run=client.create_flow_run_from_deployment(deployment_id))
        runs = client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id])))

    (again,) = [run for run in runs if run.state_type == "SCHEDULED"]
    assert len(runs) == 3
    assert [each.at for each in made[0]] == [again.expected_start_time]
    assert again.name == f"AAPL, MSFT {tomorrow} again"
    # The deployment's own choice of days must not come back.
    assert (again.parameters["since_days"], again.parameters["fetch_bars"]) == (None, False)
    assert (again.parameters["symbols"], again.parameters["start"]) == (["AAPL", "MSFT"], str(tomorrow))
    assert again.parent_task_run_id is None
    # Not the whole ceiling once more.
    assert again.parameters["max_cost_usd"] == 7.50


def test_nothing_is_scheduled_when_nothing_is_left_to_spend(caplog):
    tomorrow = dt.datetime.now(dt.UTC).date() + dt.timedelta(1)
    assert follow_up([failed("AAPL", "licence", tomorrow)], WINDOW, {}, rest_usd=0.009)
    assert "run it again after" in caplog.text


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_api_that_refuses_fails_no_run(prefect_api: PrefectServer, caplog):
    from prefect import flow  # noqa: PLC0415 - takes seconds, which the other tests need not
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.flow_engine import run_flow  # noqa: PLC0415

    tomorrow = dt.datetime.now(dt.UTC).date() + dt.timedelta(1)

    @flow(name="backfill-of-a-deployment-that-goes-away")
    def orphaned() -> str:
        with get_client(sync_client=True) as inner:
            inner.delete_deployment(deployment_id)
        follow_up([failed("AAPL", "licence", tomorrow)], WINDOW, {})
        return "done"

    deployment_id = orphaned.to_deployment("nightly").apply()
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment_id)

    assert run_flow(orphaned, flow_run=run) == "done"
    assert "could not be scheduled" in caplog.text
    assert f"AAPL {tomorrow}: not yet available; run it again after" in caplog.text

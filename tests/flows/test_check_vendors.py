"""The checks before the night, against the sandbox vendors and a real Prefect server: nothing may be bought."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import pytest

from connectors.databento.errors import CircuitOpen, NotYetAvailable, RetryableError, TerminalError
from connectors.ibkr.errors import ClientIdsInUse, GatewayTooOld, GatewayUnreachable
from connectors.sandbox.databento_server import DatabentoSandbox
from connectors.sandbox.ib_gateway import IbGateway
from contracts.sessions import sessions_between, today_et
from flows.retries import is_retryable
from flows.settings import load_settings
from flows.vendor_checks import (
    CACHE,
    COST,
    CREDENTIALS,
    ENTITLEMENT,
    GATEWAY,
    LIST,
    RANGE,
    ROOT,
    CheckContext,
    CheckResult,
    run_checks,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from conftest import Place
    from support.prefect_server import PrefectServer

KEY = "db-check-tests-5772156649015328606065"
WRONG_KEY = "db-check-tests-0000000000000000000000"
# Ended more than a day ago whenever the test runs, and young enough for the nightly backfill.
DAY = sessions_between(today_et() - dt.timedelta(6), today_et() - dt.timedelta(2))[-1]


@pytest.fixture(scope="module")
def vendor() -> Iterator[DatabentoSandbox]:
    """A vendor of today."""
    with DatabentoSandbox(api_key=KEY, strict_api_key=True, records_per_hour=2_000, usd_per_gb=1_000_000) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def gateway() -> Iterator[IbGateway]:
    with IbGateway() as running:
        yield running


@pytest.fixture
def ready(place: Place, vendor: DatabentoSandbox, gateway: IbGateway) -> Iterator[Place]:
    """Everything as it should be before a night."""
    place.set(**vendor.env(), IB_HOST=gateway.host, IB_PORT=gateway.port, CONNECTION_TIMEOUT=5)
    place.root.mkdir()
    listed(place, "AAPL", "MSFT")
    yield place
    vendor.clear_faults()


def listed(place: Place, *symbols: str, day: dt.date = DAY) -> None:
    lines = "".join(f"{symbol},{day.isoformat()}\n" for symbol in symbols)
    (place.root / "WarriorTrading_Trades.csv").write_text(f"ticker,date\n{lines}")


def asked(now: dt.datetime | None = None, **changes: Any) -> dict[str, CheckResult]:
    context = CheckContext(load_settings(**changes), now or dt.datetime.now(dt.UTC))
    return {result.check: result for result in run_checks(context)}


def states(results: dict[str, CheckResult]) -> dict[str, str]:
    return {name: result.state for name, result in results.items()}


def test_when_all_is_well_every_check_says_what_it_saw_and_nothing_is_bought(ready, vendor):
    before, billed_usd, tree = len(vendor.requests), vendor.billed_usd, set(ready.tree())

    results = asked()

    assert set(states(results).values()) == {"ok"}
    assert list(results) == [ROOT, CACHE, LIST, CREDENTIALS, ENTITLEMENT, RANGE, COST, GATEWAY]
    assert "2 (symbol, day) pairs" in results[LIST].detail
    assert "XNAS.ITCH mbp-10" in results[ENTITLEMENT].detail
    assert " h behind" in results[RANGE].detail
    assert "2 tasks: 2 to buy for " in results[COST].detail
    assert "no ceiling is set" in results[COST].detail
    assert "API version 176, client id 2011, the sandbox; its clock differs by" in results[GATEWAY].detail
    assert verdict(list(results.values())) is None
    assert vendor.billed_usd == billed_usd
    assert {entry.endpoint.partition(".")[0] for entry in vendor.requests[before:]} == {"metadata"}
    # The log of requests, by which the rates are kept over all processes, and nothing else.
    assert {name for name in set(ready.tree()) - tree if "limits" not in name} == {"cache"}


def test_what_is_there_or_kept_costs_nothing_and_a_cost_above_the_ceiling_is_wrong(ready, vendor):
    result = ready.backfill("AAPL", "MSFT", start=DAY)
    assert result.summary["counts"]["WRITE"] == 2
    ready.snapshots("MSFT", DAY).unlink()
    listed(ready, "AAPL", "MSFT", "TSLA")
    billed, downloads = vendor.billed_usd, len(vendor.requests)

    cost = asked()[COST]
    too_dear = asked(databento_max_cost_usd=0.001)

    assert "3 tasks: 1 to buy for " in cost.detail
    assert ", 1 kept, 1 there already, 0 not yet available, 0 closed" in cost.detail
    assert (cost.state, too_dear[COST].state) == ("ok", "wrong")
    assert "DATABENTO_MAX_COST_USD=0.001" in too_dear[COST].detail
    assert (verdict(list(too_dear.values())) or "").startswith(f"1 of 8 checks are wrong: {COST}: ")
    assert vendor.billed_usd == billed
    assert not [entry for entry in vendor.requests[downloads:] if entry.endpoint == "timeseries.get_range"]


@pytest.mark.parametrize(
    ("changes", "wrong", "told"),
    [
        ({"databento_api_key": WRONG_KEY}, CREDENTIALS, "check DATABENTO_API_KEY"),
        ({"databento_api_key": ""}, CREDENTIALS, "DATABENTO_API_KEY is empty"),
        ({"databento_dataset": "XXXX.NONE"}, CREDENTIALS, "XXXX.NONE"),
        ({"warrior_trades_filename": "gone.csv"}, LIST, "gone.csv"),
        ({"l2_min_free_gb": 10**6}, ROOT, "free some space"),
        ({"ib_port": 1}, GATEWAY, "Connection refused"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do_and_what_hangs_on_it_is_not_asked(ready, changes, wrong, told):
    results = asked(**changes)

    assert results[wrong].state == "wrong"
    assert told in f"{results[wrong].detail} {results[wrong].todo}"
    assert results[wrong].todo
    if wrong == CREDENTIALS:
        assert {states(results)[name] for name in (ENTITLEMENT, RANGE, COST)} == {"skipped"}
        assert states(results)[GATEWAY] == "ok"
    assert KEY not in str(results)
    assert WRONG_KEY not in str(results)


def test_a_folder_that_cannot_be_written_is_wrong_and_one_that_is_still_to_be_made_is_not(ready):
    (ready.folder / "file").write_text("in the way")

    results = asked(cache_path=ready.folder / "file" / "cache")
    later = asked(cache_path=ready.folder / "a" / "b")

    assert (results[CACHE].state, later[CACHE].state) == ("wrong", "ok")
    assert f"it will be made in {ready.folder}" in later[CACHE].detail


def test_switched_off_databento_is_not_asked(ready, vendor):
    before = len(vendor.requests)

    results = asked(databento_enable_backfill=False)

    assert {states(results)[name] for name in (CREDENTIALS, ENTITLEMENT, RANGE, COST)} == {"skipped"}
    assert verdict(list(results.values())) is None
    assert len(vendor.requests) == before


@pytest.mark.parametrize(
    ("now", "state", "told"),
    [
        # The vendor of these tests has all up to 2025-11-30 00:00 UTC.
        ("2025-12-01T12:00:00+00:00", "ok", "the last session, 2025-11-28, is there and available"),
        ("2025-12-01T20:00:00+00:00", "ok", "the last session, 2025-12-01, is expected by 2025-12-02 15:10 UTC"),
        ("2025-12-02T15:30:00+00:00", "warning", "of 2025-12-01 should be there and is not (1 sessions late)"),
        ("2025-12-03T16:00:00+00:00", "wrong", "of 2025-12-01 should be there and is not (2 sessions late)"),
    ],
)
def test_how_far_the_vendor_is_behind_is_judged_by_the_sessions_that_should_be_there(place, now, state, told):
    found = asked(dt.datetime.fromisoformat(now))[RANGE]

    assert (found.state, told in found.detail) == (state, True)


def test_the_vendors_word_on_the_last_day_is_handed_on(place, flows_vendor):
    flows_vendor.add_fault("degraded:day=2025-11-28")

    found = asked(dt.datetime(2025, 12, 1, 12, tzinfo=dt.UTC))[RANGE]

    assert (found.state, found.detail.endswith("2025-11-28, is there and degraded")) == ("warning", True)


def test_a_gateway_of_another_kind_or_another_time_is_a_warning_and_busy_ids_are_wrong(ready):
    with IbGateway(accounts=("U1234567",)) as live:
        other_kind = asked(ib_port=live.port)[GATEWAY]
    with IbGateway(now="2025-01-01T00:00:00+00:00") as late:
        other_time = asked(ib_port=late.port)[GATEWAY]
    with IbGateway(busy_client_ids=range(2011, 2019)) as full:
        busy = asked(ib_port=full.port)[GATEWAY]
        free = asked(ib_port=full.port, ib_client_id=3000)[GATEWAY]

    assert (other_kind.state, "a live account" in other_kind.detail) == ("warning", True)
    assert "U1234567" not in str(other_kind)
    assert (other_time.state, "synchronise the clocks" in other_time.todo) == ("warning", True)
    assert (busy.state, "IB_CLIENT_ID" in busy.todo, free.state) == ("wrong", True, "ok")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CircuitOpen("no", reason="unauthorized"), False),
        (TerminalError("no", reason="refused"), False),
        (NotYetAvailable("later", reason="licence"), False),
        (RetryableError("again", reason="server_error"), True),
        (RetryableError("again", reason="rate_limited", retry_after_s=30), True),
        (RetryableError("again, in an hour", reason="rate_limited", retry_after_s=3_600), False),
        (GatewayUnreachable("nobody listens"), True),
        (ClientIdsInUse("eight in a row"), False),
        (GatewayTooOld("very"), False),
        (ValueError("our own"), False),
        (None, False),
    ],
)
def test_the_class_of_an_error_decides_about_another_try(error, expected):
    assert is_retryable(error) is expected


# --- as a flow -------------------------------------------------------------------------------------------------------

on_prefect = pytest.mark.filterwarnings("ignore::ResourceWarning")


def of_run(flow_run_id: Any) -> tuple[Any, dict[str, Any], list[dict[str, Any]], Sequence[Any]]:
    """The run, its task runs by name, the rows of its table, its log."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - takes seconds
    from prefect.client.schemas.filters import (  # noqa: PLC0415
        ArtifactFilter,
        ArtifactFilterFlowRunId,
        FlowRunFilter,
        FlowRunFilterId,
        LogFilter,
        LogFilterFlowRunId,
    )
    from support.prefect_server import until  # noqa: PLC0415

    mine = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:

        def tasks() -> dict[str, Any]:
            return {run.name: run for run in client.read_task_runs(flow_run_filter=mine)}

        # Task runs are recorded a moment after they end.
        until(lambda: tasks() and all(run.state and run.state.is_final() for run in tasks().values()), 30)
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
        )
        log = client.read_logs(log_filter=LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])))
        run = client.read_flow_run(flow_run_id)
        return run, tasks(), json.loads(str(found[0].data)) if found else [], log


@on_prefect
def test_a_run_shows_each_check_as_a_task_and_all_of_them_in_a_table(prefect_api: PrefectServer, ready, vendor):
    from flows.check_vendors import check_vendors  # noqa: PLC0415 - takes seconds

    before, billed_usd = len(vendor.requests), vendor.billed_usd
    vendor.add_fault("rate-limit:retry_after=1,times=1")

    state = check_vendors(return_state=True)

    run, tasks, rows, _ = of_run(state.state_details.flow_run_id)
    assert (state.name, state.message) == ("Completed", "8 ok")
    assert run.name == f"check databento, ibkr {today_et()}"
    assert sorted(tasks) == sorted(f"check {row['check']}" for row in rows)
    assert [row["state"] for row in rows] == ["ok"] * 8
    assert set(rows[0]) == {"check", "state", "detail", "what to do"}
    # The vendor asked for one second; the task waited and asked again, the others needed one try.
    assert {name: task.run_count for name, task in tasks.items() if task.run_count > 1} == {f"check {CREDENTIALS}": 2}
    first, second = (entry for entry in vendor.requests[before : before + 2])
    assert (first.status, second.status) == (429, 200)
    assert vendor.billed_usd == billed_usd


@on_prefect
def test_a_run_that_found_something_wrong_is_red_and_says_what_in_one_message(
    prefect_api: PrefectServer, ready, vendor
):
    from flows.check_vendors import check_vendors  # noqa: PLC0415 - takes seconds

    before = len(vendor.requests)
    ready.set(DATABENTO_API_KEY=WRONG_KEY)

    state = check_vendors(["databento"], return_state=True)

    run, tasks, rows, log = of_run(state.state_details.flow_run_id)
    assert state.is_failed()
    assert (state.message or "").startswith(f"1 of 7 checks are wrong: {CREDENTIALS}: ")
    assert (state.message or "").endswith("[check DATABENTO_API_KEY]")
    assert tasks[f"check {CREDENTIALS}"].state.is_failed()
    assert tasks[f"check {CREDENTIALS}"].run_count == 1
    assert len(vendor.requests) == before + 1
    assert [row["state"] for row in rows] == ["ok", "ok", "ok", "wrong", "skipped", "skipped", "skipped"]
    assert WRONG_KEY not in f"{run} {tasks} {rows} {[line.message for line in log]}"


@on_prefect
def test_a_vendor_that_does_not_exist_is_refused_before_the_run_starts(prefect_api: PrefectServer, ready):
    from prefect.exceptions import ParameterTypeError  # noqa: PLC0415 - takes seconds

    from flows.check_vendors import check_vendors  # noqa: PLC0415

    with pytest.raises(ParameterTypeError):
        check_vendors(["bloomberg"])

"""The same flows on a server with PostgreSQL and Redis, and two workers on one data root; see `make test-scale`."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from itertools import groupby
from typing import TYPE_CHECKING

import pytest
from e2e.conftest import KEY
from e2e.installation import Installation, ended, flow_run, task_runs_of
from e2e.services import missing, postgres, redis
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from support.prefect_server import until

from connectors.sandbox.databento_server import DatabentoSandbox
from contracts.validate import validate_path
from flows.held import LEASE_S
from flows.limits import limit_named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connectors.sandbox.databento_server import LoggedRequest
    from connectors.sandbox.ib_gateway import IbGateway

pytestmark = [
    pytest.mark.scale,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(missing()), reason=f"not here: {', '.join(missing())}"),
    # Prefect's own client code raises these inside its threads.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SYMBOLS = ("AAPL", "MSFT", "NVDA", "TSLA")
DAYS = tuple(f"2025-09-{day:02}" for day in (2, 3, 4, 5, 8, 9, 10, 11, 12))
WORKERS = ("worker-1", "worker-2")
HOLDER = """
import time
from flows.held import held
with held({"ibkr.sessions": 3}, what="a program that dies"):
    time.sleep(600)
"""


def held(name: str) -> int:
    """How many slots of a limit the server counts now."""
    with get_client(sync_client=True) as client:
        return int(client.read_global_concurrency_limit_by_name(name).active_slots)


def check_rates(requests: list[LoggedRequest]) -> None:
    """No second has more calls than the vendor allows."""
    started = defaultdict(list)
    for request in requests:
        started[request.endpoint.partition(".")[0]].append(request.started_monotonic)
    assert {"metadata", "timeseries"} <= set(started)
    for family, times in started.items():
        allowed = limit_named(f"databento.{family}").vendor_limit
        times.sort()
        assert all(later - earlier >= 1 for earlier, later in zip(times, times[allowed:], strict=False)), family


@pytest.fixture(scope="module")
def crowd_vendor() -> Iterator[DatabentoSandbox]:
    with DatabentoSandbox(api_key=KEY, records_per_hour=500) as running:
        yield running


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, crowd_vendor: DatabentoSandbox, gateway: IbGateway
) -> Iterator[Installation]:
    with postgres() as database, redis() as redis_port:
        installation = Installation(
            tmp_path_factory.mktemp("installation"),
            **crowd_vendor.env(),
            **gateway.env(),
            L2_BACKFILL_WINDOW_ET="09:30-09:35",
            L2_SNAPSHOT_INTERVAL_MS=1_000,
            L2_MIN_FREE_GB=0,
            PREFECT_MESSAGING_BROKER="prefect_redis.messaging",
            PREFECT_MESSAGING_CACHE="prefect_redis.messaging",
            PREFECT_SERVER_EVENTS_CAUSAL_ORDERING="prefect_redis.ordering",
            PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE="prefect_redis.lease_storage",
            PREFECT_REDIS_MESSAGING_HOST="127.0.0.1",
            PREFECT_REDIS_MESSAGING_PORT=redis_port,
        )
        home = installation.env["PREFECT_HOME"]
        try:
            installation.start_server("--database", database)
            deployed = installation.trading_data("deploy")
            assert deployed.returncode == 0, deployed.stdout + deployed.stderr
            for name in WORKERS:
                # One run each: neither takes both.
                installation.start_worker(name, "--limit", 1)
            with pytest.MonkeyPatch.context() as patch:
                for key, value in installation.env.items():
                    if key.startswith("PREFECT") or key == "DO_NOT_TRACK":
                        patch.setenv(key, value)
                with temporary_settings({PREFECT_API_URL: installation.url, PREFECT_HOME: home}):
                    yield installation
        finally:
            installation.end()


def test_two_workers_on_one_root_lose_nothing_and_keep_to_the_rates(
    place: Installation, crowd_vendor: DatabentoSandbox
):
    half = len(SYMBOLS) // 2
    span = {"start": DAYS[0], "end": DAYS[-1]}
    wanted = {"backfill-l2/on-demand": SYMBOLS[:half], "backfill-l2/nightly": SYMBOLS[half:]}
    runs = [
        run_deployment(name, parameters={"symbols": symbols, "since_days": None, **span}, timeout=0)
        for name, symbols in wanted.items()
    ]
    # Redis keeps what they hold.
    until(lambda: held("databento.streams") > 0, 120)
    assert [ended(run, 400).is_completed() for run in runs] == [True, True]
    until(lambda: held("databento.streams") == 0)

    # Neither worker did it alone, and neither waited until the other had done.
    assert [place.log(name).count("Beginning flow run") for name in WORKERS] == [1, 1]
    first, second = (flow_run(run.id) for run in runs)
    assert max(first.start_time, second.start_time) < min(first.end_time, second.end_time)

    lines = place.manifest_lines
    assert sorted((line["symbol"], line["date"], line["status"]) for line in lines) == sorted(
        (symbol, day, "WRITE") for symbol in SYMBOLS for day in DAYS
    )
    assert len([run_id for run_id, _ in groupby(line["run_id"] for line in lines)]) == len(runs)
    assert [str(finding) for finding in validate_path(place.root).findings] == []
    for run, symbols in zip(runs, wanted.values(), strict=True):
        named = {f"{symbol} {day}" for symbol in symbols for day in DAYS}
        until(lambda run=run, named=named: named <= {task.name for task in task_runs_of(run)})
        until(lambda run=run: all(task.state.is_completed() for task in task_runs_of(run)))

    check_rates(crowd_vendor.requests)


def test_two_runs_that_ask_the_vendor_at_the_same_time_share_the_rates(
    place: Installation, crowd_vendor: DatabentoSandbox
):
    """With a data root each, so that neither waits for the other."""
    before = len(crowd_vendor.requests)
    half = len(SYMBOLS) // 2
    wanted = {"backfill-l2/on-demand": SYMBOLS[:half], "backfill-l2/nightly": SYMBOLS[half:]}
    runs = [
        run_deployment(
            name,
            parameters={"symbols": symbols, "since_days": None, "start": "2025-08-04", "end": "2025-08-29"},
            job_variables={"env": {"DATA_PATH_OVERRIDE": str(place.folder / symbols[0])}},
            timeout=0,
        )
        for name, symbols in wanted.items()
    ]
    assert [ended(run, 400).is_completed() for run in runs] == [True, True]

    requests = crowd_vendor.requests[before:]
    check_rates(requests)
    bought = [request for request in requests if request.endpoint == "timeseries.get_range"]
    assert len(bought) == len(SYMBOLS) * 20
    times = [[each.started_monotonic for each in bought if each.params["symbols"] in part] for part in wanted.values()]
    assert max(map(min, times)) < min(map(max, times))


def test_slots_that_redis_keeps_outlive_their_lease_and_are_free_a_minute_after_a_kill(place: Installation):
    holder = place.start("holder", sys.executable, "-c", HOLDER)
    until(lambda: held("ibkr.sessions") == 3)
    taken_at = time.monotonic()
    until(lambda: time.monotonic() - taken_at > LEASE_S + 10, 120)
    assert held("ibkr.sessions") == 3
    told = json.loads(place.trading_data("doctor", "--json").stdout)
    (row,) = [row for row in told["limits"] if row["limit"] == "ibkr.sessions"]
    assert row["all machines"].startswith("3 of ")
    holder.kill()
    killed_at = time.monotonic()
    until(lambda: held("ibkr.sessions") == 0, 150)
    # Less when it was renewed some time ago.
    assert LEASE_S - 20 < time.monotonic() - killed_at < LEASE_S + 60

"""What is asked of Prefect's API: whether it is there, and the limits that it counts; a real server throughout."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.prefect_api import ApiAway, api_answers, ensure_limits, is_supervised, limit_states, wait_for_api
from flows.settings import Settings

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NOBODY = "http://127.0.0.1:9/api"
NAMES = ["databento.streams", "ibkr.depth-lines", "ibkr.sessions"]


@pytest.fixture
def no_limits(prefect_api):
    """The shared server without our limits, before and after."""

    def clear():
        with get_client(sync_client=True) as client:
            for name in NAMES:
                with suppress(ObjectNotFound):
                    client.delete_global_concurrency_limit_by_name(name)

    clear()
    yield
    clear()


def update(name, **values):
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(**values))


def test_limits_are_created_once_with_the_values_of_the_table_and_the_settings(no_limits):
    settings = Settings(ib_max_depth_lines=5)
    assert [state.drift for state in limit_states(settings)] == [
        "missing, 10 wanted: run `trading-data deploy`",
        "missing, 5 wanted: run `trading-data deploy`",
        "missing, 8 wanted: run `trading-data deploy`",
    ]

    first, second = ensure_limits(settings), ensure_limits(settings)

    assert [(state.name, state.configured) for state in first] == [*zip(NAMES, [10, 5, 8], strict=True)]
    assert [state.created for state in first] == [True, True, True]
    assert [state.created for state in second] == [False, False, False]
    assert [state.drift for state in limit_states(settings)] == [None, None, None]


def test_limits_created_by_many_at_once_are_created_once(no_limits):
    barrier = threading.Barrier(6)

    def create():
        barrier.wait()
        return ensure_limits(Settings())

    # A thread knows the address only by its context.
    contexts = [copy_context() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda context: context.run(create), contexts))

    assert sum(state.created for states in found for state in states) == len(NAMES)
    assert {state.configured for states in found for state in states} == {10, 3, 8}


def test_what_an_operator_changed_stays_and_shows(no_limits):
    ensure_limits(Settings())
    update("databento.streams", limit=4)
    update("ibkr.sessions", active=False)

    states = {state.name: state for state in ensure_limits(Settings())}

    assert states["databento.streams"].configured == 4
    assert states["databento.streams"].drift == "4 instead of 10"
    assert states["ibkr.sessions"].drift == "switched off: nothing is counted"
    assert states["ibkr.depth-lines"].drift is None


def test_an_api_that_is_not_there_is_told_at_once_and_starts_no_server(monkeypatch, caplog):
    for url in (NOBODY, None):
        with temporary_settings({PREFECT_API_URL: url}):
            began = time.monotonic()
            assert not api_answers()
            assert not wait_for_api(patience_s=0.1)
            with pytest.raises(ApiAway):
                limit_states(Settings())
            assert time.monotonic() - began < 10
    # Where none is set there is nothing to wait for, and nothing to say.
    assert [record.message for record in caplog.records if record.name == "flows.prefect_api"] == [
        "Prefect's API does not answer; the files are on disk, its return is waited for",
        "Prefect's API did not come back within 0 s",
    ]


def test_an_api_that_is_there_answers_and_a_plain_flow_run_is_not_supervised(prefect_api):
    @flow
    def ask():
        return api_answers(), wait_for_api(), is_supervised()

    assert ask() == (True, True, False)
    assert not is_supervised()

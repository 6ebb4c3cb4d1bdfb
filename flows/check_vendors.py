"""The flow `check-vendors`: each question of `vendor_checks` as a task; red, with one message, when something is wrong.

Nothing is bought, subscribed or written but the page of the run. A vendor that fails in a way that may pass is asked
again, by the class of its error (`retries`).
"""

# No `from __future__ import annotations`: `serve()` loads this file under a name at which pydantic cannot find the
# types of the parameters again.
import datetime as dt
import logging
from collections import Counter
from typing import Any, Literal

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from contracts.sessions import today_et
from flows.pages import Page
from flows.prefect_api import wait_for_api
from flows.retries import retry_by_class
from flows.run_log import show_own_lines
from flows.settings import load_settings
from flows.vendor_checks import (
    VENDORS,
    Check,
    CheckContext,
    CheckResult,
    ChecksFailed,
    checks_for,
    from_error,
    run_check,
    skipped,
    verdict,
)

logger = logging.getLogger(__name__)


class _Wrong(Exception):  # noqa: N818 - says what was found
    """Carries a bad answer through Prefect's failed state."""

    def __init__(self, result: CheckResult) -> None:
        super().__init__(result.detail)
        self.result = result


def _run_name() -> str:
    """Vendors and ET day of the run."""
    vendors = flow_run.parameters.get("vendors") or VENDORS
    return f"check {', '.join(vendors)} {today_et().isoformat()}"


@task(
    name="vendor-check",
    task_run_name="check {check.name}",
    description="Ask one question and judge the answer; nothing is bought.",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=[2, 8],
    retry_jitter_factor=0.5,
    retry_condition_fn=retry_by_class,
)
def vendor_check(check: Check, context: CheckContext) -> State[Any]:
    """Ask one question."""
    try:
        result = run_check(check, context)
    except Exception as error:  # noqa: BLE001 - as a state, which shows its message and not our code
        result = from_error(check, error)
        if result.state == "wrong":
            return Failed(message=result.detail, data=error)
    if result.state == "wrong":
        return Failed(message=result.detail, data=_Wrong(result))
    return Completed(name="Warning" if result.state == "warning" else None, message=result.detail, data=result)


@flow(name="check-vendors", flow_run_name=_run_name, validate_parameters=True, log_prints=False)
def check_vendors(vendors: list[Literal["databento", "ibkr"]] | None = None) -> dict[str, Any] | State[Any]:
    """Check that the next runs can work: folders, task list, Databento, gateway. Buys nothing.

    Args:
        vendors: Whom to ask; both when empty. Folders and task list are looked at in any case.

    Returns:
        `checks`: rows of `check, state, detail, what to do`; `counts` of `ok, warning, wrong, skipped`.

    Raises:
        ConfigurationError: settings cannot be used; nothing was asked.
        ChecksFailed: something is wrong that would fail the next runs; the message names it.
    """
    settings = load_settings()
    show_own_lines(settings.log_level)
    # The task tries again, where it can be seen.
    context = CheckContext(settings.model_copy(update={"retry_attempts": 0}), dt.datetime.now(dt.UTC))
    for check in checks_for(vendors or None):
        result = skipped(check, context)
        if result is None:
            result = _result(check, vendor_check(check, context, return_state=True))
        context.found[check.name] = result
        told = f" [{result.todo}]" if result.todo else ""
        logger.log(_LEVELS[result.state], "%s: %s: %s%s", check.name, result.state, result.detail, told)
    results = list(context.found.values())
    rows = [result.row() for result in results]
    counts = dict(Counter(result.state for result in results))
    text = ", ".join(f"{count} {state}" for state, count in counts.items())
    page = Page("check-vendors", " ".join(vendors or VENDORS))
    page.table("checks", rows, text)
    wait_for_api()
    page.finish()
    document = {"checks": rows, "counts": counts}
    wrong = verdict(results)
    if wrong is not None:
        return Failed(message=wrong, data=ChecksFailed(wrong, rows=rows))
    return Completed(message=text, data=document)


_LEVELS = {"ok": logging.INFO, "skipped": logging.INFO, "warning": logging.WARNING, "wrong": logging.ERROR}


def _result(check: Check, state: State[Any]) -> CheckResult:
    """The answer in a task run's state."""
    found = state.result(raise_on_failure=False)
    if isinstance(found, _Wrong):
        return found.result
    return found if isinstance(found, CheckResult) else from_error(check, found)

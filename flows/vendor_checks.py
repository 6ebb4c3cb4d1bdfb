"""Whether the next nightly runs can work: places, task list, Databento, gateway. Asks and looks; buys nothing.

Each check is one question with one answer (`CheckResult`). The flow `check-vendors` runs each as a Prefect task,
`trading-data doctor --vendors` runs them here (`run_checks`). No Prefect in this module.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

from connectors.databento.errors import CircuitOpen, NotYetAvailable, RetryableError, VendorError
from connectors.databento.request import canonical_dataset
from connectors.ibkr.errors import ClientIdsInUse, GatewayTooOld, GatewayUnreachable, LibraryMissing
from connectors.ibkr.library import load
from connectors.ibkr.session import connect
from connectors.store.errors import StoreError
from connectors.store.guard import GB, FreeSpaceGuard
from contracts.sessions import ET, sessions_between
from flows.backfill_context import BackfillContext, DayOptions
from flows.backfill_day import without_vendor
from flows.backfill_request import BackfillRequest, find_list_tasks, plan_tasks
from flows.errors import ConfigurationError, FlowError
from flows.followup import LIVE_FOR, MARGIN
from flows.gateway import gateway_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from connectors.databento.client import DatabentoClient
    from flows.settings import Settings

logger = logging.getLogger(__name__)

Vendor = Literal["databento", "ibkr"]
CheckState = Literal["ok", "warning", "wrong", "skipped"]

VENDORS: Final[tuple[Vendor, ...]] = ("databento", "ibkr")
NIGHTLY_SINCE_DAYS: Final = 7
"""How far back the deployment `backfill-l2/nightly` looks in the task list."""
CLOCK_TOLERANCE_S: Final = 2.0
"""The gateway tells its time in whole seconds."""

_LONGEST_CLOSURE: Final = dt.timedelta(days=14)
_LATENESS_SHOWN: Final = 2


class ChecksFailed(FlowError):  # noqa: N818 - says what happened
    """Something is wrong that would fail the next runs; the message names it.

    Attributes:
        rows: the results, as `CheckResult.row`.
    """

    def __init__(self, message: str, *, rows: list[dict[str, str]]) -> None:
        super().__init__(message)
        self.rows = rows


@dataclass(frozen=True)
class CheckResult:
    """The answer to one question.

    Attributes:
        check: the question.
        state: `ok`; `warning`, runs work but look at it; `wrong`, runs will fail; `skipped`, not asked.
        detail: what was found.
        todo: what to do; empty when nothing is.
    """

    check: str
    state: CheckState
    detail: str
    todo: str = ""

    def row(self) -> dict[str, str]:
        """A row of a table."""
        return {"check": self.check, "state": self.state, "detail": self.detail, "what to do": self.todo}


@dataclass
class CheckContext:
    """What the checks of one run share: one client of the vendor, and what was found so far.

    Attributes:
        settings: the environment.
        now: the time, aware.
        found: results by check.
    """

    settings: Settings
    now: dt.datetime
    found: dict[str, CheckResult] = field(default_factory=dict)

    @cached_property
    def backfill(self) -> BackfillContext:
        """The vendor, places and ceiling of the next nightly backfill."""
        options = DayOptions(
            interval_ms=self.settings.l2_snapshot_interval_ms, max_cost_usd=self.settings.databento_max_cost_usd
        )
        return BackfillContext(self.settings, options)

    @property
    def client(self) -> DatabentoClient:
        """The vendor."""
        return self.backfill.client

    @property
    def dataset(self) -> str:
        """The vendor's code of the dataset."""
        return canonical_dataset(self.settings.databento_dataset)

    @cached_property
    def range(self) -> dict[str, Any]:
        """What the vendor offers of the dataset."""
        return self.client.dataset_range(self.dataset)


@dataclass(frozen=True)
class Check:
    """One question.

    Attributes:
        name: the question, as people read it.
        ask: finds the answer; raises a vendor's error as it comes.
        vendor: whom it concerns; None for this machine.
        needs: checks whose answer must not be bad for this one to make sense.
    """

    name: str
    ask: Callable[[CheckContext], tuple[CheckState, str, str]]
    vendor: Vendor | None = None
    needs: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether it looks at a folder, as `trading-data doctor` does in any case."""
        return self.name in (ROOT, CACHE)


def checks_for(vendors: Iterable[Vendor] | None = None) -> list[Check]:
    """The checks of this machine and of some vendors, in order; all vendors when None."""
    wanted = VENDORS if vendors is None else tuple(vendors)
    return [check for check in CHECKS if check.vendor is None or check.vendor in wanted]


def skipped(check: Check, context: CheckContext) -> CheckResult | None:
    """Why a check is not to be run; None when it is."""
    if check.vendor == "databento" and context.settings.databento_enable_backfill is False:
        return CheckResult(check.name, "skipped", "DATABENTO_ENABLE_BACKFILL=0 switches Databento off")
    for name in check.needs:
        found = context.found.get(name)
        if found is not None and found.state in ("wrong", "skipped"):
            return CheckResult(check.name, "skipped", f"not asked, for another check is {found.state}: {name}")
    return None


def run_check(check: Check, context: CheckContext) -> CheckResult:
    """Run a check.

    Raises:
        VendorError: the vendor refuses or does not answer.
        IbkrError: the gateway refuses or does not answer.
        ConfigurationError, StoreError: what was looked at cannot be used.
    """
    state, detail, todo = check.ask(context)
    return CheckResult(check.name, state, detail, todo)


def from_error(check: Check, error: BaseException) -> CheckResult:
    """The answer of a check that failed."""
    text, hint = split_hint(str(error))
    if isinstance(error, NotYetAvailable):
        return CheckResult(check.name, "warning", text, hint)
    for kinds, todo in _TODO:
        if isinstance(error, kinds):
            return CheckResult(check.name, "wrong", text, todo or hint)
    if isinstance(error, VendorError | ConfigurationError | StoreError | OSError | FlowError | ValueError):
        return CheckResult(check.name, "wrong", text, hint)
    logger.error("%s: the check itself failed", check.name, exc_info=error)
    return CheckResult(check.name, "wrong", f"{type(error).__name__}: {text}", "report this: the check itself failed")


def run_checks(context: CheckContext, vendors: Iterable[Vendor] | None = None) -> list[CheckResult]:
    """Run checks one after the other; never raises."""
    for check in checks_for(vendors):
        result = skipped(check, context)
        if result is None:
            try:
                result = run_check(check, context)
            except Exception as error:  # noqa: BLE001 - one answer must not take the others with it
                result = from_error(check, error)
        context.found[check.name] = result
    return list(context.found.values())


def verdict(results: Sequence[CheckResult]) -> str | None:
    """One sentence that says what is wrong; None when nothing is."""
    wrong = [result for result in results if result.state == "wrong"]
    if not wrong:
        return None
    told = "; ".join(
        f"{result.check}: {result.detail}" + (f" [{result.todo}]" if result.todo else "") for result in wrong
    )
    return f"{len(wrong)} of {len(results)} checks are wrong: {told}"


# --- this machine ----------------------------------------------------------------------------------------------------


def _data_root(context: CheckContext) -> tuple[CheckState, str, str]:
    return _place(context.settings.data_root.path, context.settings, "DATA_PATH_OVERRIDE or ML_BASE_PATH")


def _cache(context: CheckContext) -> tuple[CheckState, str, str]:
    return _place(context.settings.cache_path, context.settings, "CACHE_PATH")


def _place(path: Path, settings: Settings, key: str) -> tuple[CheckState, str, str]:
    """Whether a folder can be written and has room; it need not exist yet, and nothing is left in it."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    made = "" if there == path else f"; it will be made in {there}"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return "wrong", f"{there} cannot be written", f"let this user write there, or set {key}"
    if there == path:
        try:
            with tempfile.TemporaryFile(dir=path) as file:
                file.write(b"\0")
        except OSError as error:
            return "wrong", f"{path} cannot be written: {error.strerror}", f"mend the disk, or set {key}"
    guard = FreeSpaceGuard(path, settings.l2_min_free_gb)
    free_gb = guard.free_bytes() / GB
    detail = f"{path}: {free_gb:.1f} GB free, L2_MIN_FREE_GB={settings.l2_min_free_gb:g}{made}"
    if free_gb < settings.l2_min_free_gb:
        return "wrong", detail, "free some space: runs pause below L2_MIN_FREE_GB"
    if free_gb < 2 * settings.l2_min_free_gb:
        return "warning", detail, "free some space soon: runs pause below L2_MIN_FREE_GB"
    return "ok", detail, ""


def _task_list(context: CheckContext) -> tuple[CheckState, str, str]:
    tasks = find_list_tasks(context.settings)
    recent = plan_tasks(BackfillRequest(since_days=NIGHTLY_SINCE_DAYS), context.settings)
    last = f", the last day {max(day for _, day in tasks)}" if tasks else ""
    detail = f"{len(tasks)} (symbol, day) pairs{last}; {len(recent)} in the last {NIGHTLY_SINCE_DAYS} days"
    if not recent:
        return "warning", detail, "the nightly backfill has nothing to do: bring the task list up to date"
    return "ok", detail, ""


# --- Databento -------------------------------------------------------------------------------------------------------


def _credentials(context: CheckContext) -> tuple[CheckState, str, str]:
    try:
        context.backfill.require_vendor()
    except ConfigurationError as error:
        return "wrong", str(error), "set DATABENTO_API_KEY, or DATABENTO_ENABLE_BACKFILL=0 where Databento is not used"
    offered = context.client.schemas(context.dataset)
    return "ok", f"the key is accepted; {context.dataset} has {len(offered)} schemas", ""


def _entitlement(context: CheckContext) -> tuple[CheckState, str, str]:
    schema = context.settings.databento_schema
    offered = context.client.schemas(context.dataset)
    if schema not in offered:
        return (
            "wrong",
            f"{context.dataset} has no {schema}; it has {', '.join(offered)}",
            "set DATABENTO_DATASET or DATABENTO_SCHEMA to what the vendor has",
        )
    by_schema = context.range.get("schema")
    if isinstance(by_schema, dict) and schema not in by_schema:
        return (
            "wrong",
            f"this account has no {schema} of {context.dataset}",
            "check the account's entitlements at the vendor",
        )
    return "ok", f"{context.dataset} {schema} from {context.range.get('start', 'an unknown day')}", ""


def _range(context: CheckContext) -> tuple[CheckState, str, str]:
    by_schema = context.range.get("schema")
    mine = by_schema.get(context.settings.databento_schema) if isinstance(by_schema, dict) else None
    end = _instant((mine if isinstance(mine, dict) else context.range).get("end"))
    if end is None:
        return "warning", f"the vendor does not say up to when {context.dataset} reaches", ""
    sessions = _finished_sessions(context)
    window = context.settings.window
    late = [
        day
        for day in sessions
        if window.bounds_utc(day)[1] > end and window.bounds_utc(day)[1] + LIVE_FOR + MARGIN <= context.now
    ]
    behind_h = (context.now - end).total_seconds() / 3600
    detail = f"{context.dataset} reaches to {end:%Y-%m-%d %H:%M} UTC, {behind_h:.1f} h behind"
    if late:
        return (
            "wrong" if len(late) >= _LATENESS_SHOWN else "warning",
            f"{detail}; window {window} of {late[0]} should be there and is not ({len(late)} sessions late)",
            "look at the vendor's status page; days not yet available are asked for again by themselves",
        )
    last = sessions[-1]
    last_end = window.bounds_utc(last)[1]
    if last_end > end:
        at = last_end + LIVE_FOR + MARGIN
        return "ok", f"{detail}; the last session, {last}, is expected by {at:%Y-%m-%d %H:%M} UTC", ""
    condition = context.client.conditions(context.dataset, last, last).get(last, "unknown")
    detail = f"{detail}; the last session, {last}, is there and {condition}"
    if condition in ("degraded", "pending", "missing"):
        return "warning", detail, "the vendor says so of its own data; the day is marked when it is downloaded"
    return "ok", detail, ""


def _cost(context: CheckContext) -> tuple[CheckState, str, str]:
    backfill, ceiling = context.backfill, context.settings.databento_max_cost_usd
    tasks = plan_tasks(BackfillRequest(since_days=NIGHTLY_SINCE_DAYS), context.settings)
    backfill.days = frozenset(task.day for task in tasks)
    counts: Counter[str] = Counter()
    total_usd = 0.0
    problems: list[str] = []
    for task in tasks:
        try:
            early = without_vendor(backfill, task)
            if early is not None:
                counts["there" if early.status == "SKIP" else "closed"] += 1
            elif backfill.shelf.find(request := backfill.request(task)) is not None:
                counts["kept"] += 1
            else:
                day = backfill.plan.day(request, max_records=context.settings.l2_max_rows_per_task)
                counts["buy"] += 1
                counts["unpriced"] += day.cost_usd is None
                total_usd += day.cost_usd or 0.0
        except NotYetAvailable:
            counts["later"] += 1
        except (CircuitOpen, RetryableError):
            raise
        except (VendorError, StoreError, OSError) as error:
            problems.append(str(error))
    limit = "no ceiling is set" if ceiling is None else f"DATABENTO_MAX_COST_USD={ceiling:g}"
    detail = (
        f"{len(tasks)} tasks: {counts['buy']} to buy for {total_usd:.2f} USD ({limit}), {counts['kept']} kept, "
        f"{counts['there']} there already, {counts['later']} not yet available, {counts['closed']} closed"
    )
    if ceiling is not None and total_usd > ceiling:
        return "wrong", detail, "raise DATABENTO_MAX_COST_USD or shorten the task list: the run stops at the ceiling"
    if problems:
        return "warning", f"{detail}; {len(problems)} cannot be had, first: {problems[0]}", "correct those tasks"
    if counts["unpriced"]:
        return "warning", f"{detail}; {counts['unpriced']} without a price", "look again later"
    return "ok", detail, ""


def _finished_sessions(context: CheckContext) -> list[dt.date]:
    """Sessions of the last days whose window is over, in order."""
    today = context.now.astimezone(ET).date()
    days = sessions_between(today - _LONGEST_CLOSURE, today)
    return [day for day in days if context.settings.window.bounds_utc(day)[1] <= context.now]


# --- Interactive Brokers ---------------------------------------------------------------------------------------------


def _gateway(context: CheckContext) -> tuple[CheckState, str, str]:
    settings = context.settings
    # In a thread of its own: the caller may have an event loop already.
    with ThreadPoolExecutor(1, "check-gateway") as pool:
        address, info, behind_s = pool.submit(asyncio.run, _handshake(settings)).result()
    kind = {True: "a paper account", False: "a live account", None: "no account named"}[info.accounts_are_paper]
    if info.is_sandbox:
        kind = "the sandbox"
    clock = "its clock was not told" if behind_s is None else f"its clock differs by {behind_s:+.1f} s"
    detail = f"{address}: API version {info.server_version}, client id {info.client_id}, {kind}; {clock}"
    if info.accounts_are_paper is not None and info.accounts_are_paper != settings.ib_paper_trading:
        said = "1" if settings.ib_paper_trading else "0"
        return "warning", detail, f"IB_PAPER_TRADING={said} says otherwise: correct it, or the port"
    if behind_s is not None and abs(behind_s) > CLOCK_TOLERANCE_S:
        return "warning", detail, "synchronise the clocks (NTP) of this machine and of the gateway's"
    return "ok", detail, ""


async def _handshake(settings: Settings) -> tuple[str, Any, float | None]:
    """Connect, ask the time, disconnect; nothing else is asked for.

    Returns:
        Where, what the gateway said of itself, and how many seconds its clock is ahead of ours.
    """
    async with gateway_of(settings, sandbox=settings.force_fake_ib) as address:
        connection = await connect(load(settings.ib_library), address, now_ns=time.time_ns)
        try:
            try:
                told = await asyncio.wait_for(connection.ib.reqCurrentTimeAsync(), address.connect_timeout_s)
                # Whole seconds: on average half a second is cut off.
                ahead_s = told.timestamp() + 0.5 - time.time()
            except (TimeoutError, ConnectionError):
                ahead_s = None
            return str(address), connection.info, ahead_s
        finally:
            await connection.close()


# --- all of them -----------------------------------------------------------------------------------------------------

ROOT, CACHE, LIST = "data root", "cache", "task list"
CREDENTIALS, ENTITLEMENT = "Databento credentials", "Databento dataset and schema"
RANGE, COST, GATEWAY = "Databento range", "cost of the next nightly backfill", "gateway handshake"

CHECKS: Final = (
    Check(ROOT, _data_root),
    Check(CACHE, _cache),
    Check(LIST, _task_list),
    Check(CREDENTIALS, _credentials, "databento"),
    Check(ENTITLEMENT, _entitlement, "databento", (CREDENTIALS,)),
    Check(RANGE, _range, "databento", (CREDENTIALS, ENTITLEMENT)),
    Check(COST, _cost, "databento", (CREDENTIALS, ENTITLEMENT, LIST)),
    Check(GATEWAY, _gateway, "ibkr"),
)
"""Every check, in the order in which they are run."""

_TODO: Final[tuple[tuple[tuple[type[Exception], ...], str], ...]] = (
    ((GatewayUnreachable,), "start TWS or IB Gateway, log in, enable its API; check IB_HOST and IB_PORT"),
    ((ClientIdsInUse,), "end the programs that hold them, or set IB_CLIENT_ID"),
    ((GatewayTooOld,), "update TWS or IB Gateway"),
    ((LibraryMissing,), "pip install ib_insync"),
    ((RetryableError,), "try again later; look at the vendor's status page"),
    ((StoreError,), "free space, or let this user write there"),
    ((ConfigurationError,), "correct the setting or the file that it names"),
)


def split_hint(message: str) -> tuple[str, str]:
    """A message, and the hint in square brackets at its end."""
    text = " ".join(message.split())
    if text.endswith("]") and " [" in text:
        text, _, hint = text[:-1].rpartition(" [")
        return text, hint
    return text, ""


def _instant(text: object) -> dt.datetime | None:
    try:
        moment = dt.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)

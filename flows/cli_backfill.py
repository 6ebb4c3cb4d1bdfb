"""What `trading-data backfill` does after its options are read: sandbox, signals, log, run, exit code."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import signal
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from connectors.ibkr.errors import IbkrError
from connectors.store.errors import StoreError
from flows.backfill_job import BackfillJob, assemble
from flows.backfill_preview import preview
from flows.backfill_run import RunResult, check_ready, run_backfill
from flows.bars_progress import on_stderr
from flows.bars_result import BarsResult
from flows.bars_run import download, preview_job
from flows.errors import BackfillFailed, ConfigurationError
from flows.progress import watching
from flows.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from flows.bars_job import BarsJob

OK, FAILED, USAGE, STOPPED = 0, 1, 2, 130

logger = logging.getLogger(__name__)


def run(parameters: dict[str, Any], *, sandbox: bool, as_flow: bool | None) -> int:
    """Run a backfill and print its one line.

    Args:
        parameters: parameters of the flow `backfill-l2`.
        sandbox: start the bundled vendor for this run.
        as_flow: run as a Prefect flow; None decides by PREFECT_API_URL.

    Returns:
        The exit code.
    """
    try:
        with ExitStack() as stack:
            if sandbox:
                stack.enter_context(_sandbox())
            _log_to_stderr(load_settings().log_level)
            if as_flow or (as_flow is None and os.environ.get("PREFECT_API_URL")):
                return _run_as_flow(parameters)
            return _run_here(parameters)
    except ConfigurationError as error:
        return _fail(error, USAGE)
    except (StoreError, OSError) as error:
        return _fail(error, FAILED)


def _run_here(parameters: dict[str, Any]) -> int:
    job = assemble(**parameters)
    if parameters["dry_run"]:
        document = preview(job.context, job.tasks)
        if job.bars is not None:
            document["bars"] = preview_job(job.bars)
        return _print_preview(document, strict=parameters["strict"])
    with _stop_on_signals(job), watching(len(job.tasks)) as progress:
        result = run_backfill(job.context, job.tasks, job.options, progress=progress)
    code = _finish(result.summary, strict=parameters["strict"])
    if job.bars is None or code == STOPPED:
        return code
    return max(code, _fetch_bars(job.bars))


def _fetch_bars(job: BarsJob) -> int:
    """Download the bars that go with a backfill; stdout has its one line already."""
    try:
        with on_stderr() as progress:
            result = download(job, progress=progress)
    except (ConfigurationError, IbkrError) as error:
        # Level 2 is there: that nothing was done would be wrong.
        return _fail(f"Level 2 is done, but bars are not: {error}", FAILED)
    return _tell_bars(result)


def _tell_bars(result: BarsResult) -> int:
    logger.log(logging.WARNING if result.counts["ERROR"] else logging.INFO, "bars: %s", result.summary_line)
    if result.problem is not None:
        return _fail(f"Level 2 is done, but not all bars are: {result.problem}", FAILED)
    return STOPPED if result.stopped else OK


def _run_as_flow(parameters: dict[str, Any]) -> int:
    # Nothing leaves the machine but the vendor's requests.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # The temporary API takes 10 s and more to start; Prefect gives up after 20.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    # What a person gave is checked before Prefect is asked for a run; the flow does it again, and then it is logged.
    logging.disable(logging.WARNING)
    try:
        job = assemble(**parameters)
        if not parameters["dry_run"]:
            check_ready(job.context, job.tasks)
    finally:
        logging.disable(logging.NOTSET)
    from prefect.exceptions import TerminationSignal  # noqa: PLC0415 - Prefect takes seconds to import

    from flows.backfill_l2 import backfill_l2  # noqa: PLC0415 - likewise

    # Prefect turns SIGTERM into an exception and afterwards hands it to the handler that was there before: this one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = dt.datetime.now(dt.UTC)
    try:
        outcome = backfill_l2(**parameters)
    except BackfillFailed as error:
        code = _finish(summary, strict=True) if (summary := _summary_since(began)) else FAILED
        return _fail(error, STOPPED if code == STOPPED else FAILED)
    except (KeyboardInterrupt, TerminationSignal):
        # The flow has recorded what was done, if it had begun.
        return _finish(summary, strict=False) if (summary := _summary_since(began)) else STOPPED
    if parameters["dry_run"]:
        return _print_preview(outcome, strict=parameters["strict"])
    code = _finish(outcome, strict=parameters["strict"])
    return max(code, _tell_bars(BarsResult.from_document(outcome["bars"]))) if "bars" in outcome else code


def _summary_since(began: dt.datetime) -> dict[str, Any] | None:
    """The summary a run that ended by an exception has written, None when it came to none."""
    try:
        document: dict[str, Any] = json.loads(load_settings().data_root.backfill_summary.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return document if dt.datetime.fromisoformat(document["started_at"]) >= began else None


def _finish(summary: dict[str, Any], *, strict: bool) -> int:
    result = RunResult(summary, (), summary.get("stopped"))
    print(result.summary_line, flush=True)  # noqa: T201 - the batch's one line of stdout
    if result.stopped:
        return STOPPED
    return FAILED if strict and summary["counts"]["ERROR"] else OK


def _print_preview(document: dict[str, Any], *, strict: bool) -> int:
    print(json.dumps(document, indent=2))  # noqa: T201 - what was asked for
    return FAILED if strict and document["totals"]["error"] else OK


def _fail(error: object, code: int) -> int:
    print(f"trading-data backfill: {error}", file=sys.stderr)  # noqa: T201 - the one clear error
    return code


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.captureWarnings(True)
    for handler in logging.getLogger().handlers:
        # A failed day has its own line already; Prefect's would add a traceback to each.
        handler.addFilter(lambda record: not record.name.startswith("prefect.task_runs"))
    for noisy in ("databento", "urllib3", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))


@contextmanager
def _stop_on_signals(job: BackfillJob) -> Iterator[None]:
    """The first SIGINT or SIGTERM lets what is under way end; the second one interrupts."""

    def stop(signum: int, _frame: FrameType | None) -> None:
        if job.context.circuit.stopping.is_set():
            raise KeyboardInterrupt
        logger.warning("%s: stopping; what was done is recorded", signal.Signals(signum).name)
        job.context.circuit.stopping.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _sandbox() -> Iterator[None]:
    """Vendors of our own for this process; the certificate is trusted by this process only."""
    from connectors.sandbox.databento_process import SandboxProcess  # noqa: PLC0415 - only when asked for

    with SandboxProcess() as vendor:
        # The gateway is started by the download of bars, if there is one.
        env = {**vendor.env(), "FORCE_FAKE_IB": "1"}
        before = {key: os.environ.get(key) for key in env}
        os.environ.update(env)
        try:
            yield
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value

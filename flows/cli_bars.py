"""What `trading-data bars` does after its options are read: sandbox, log, run or preview, exit code."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from connectors.ibkr.errors import IbkrError
from connectors.store.errors import StoreError
from flows.bars_job import assemble
from flows.bars_progress import on_stderr
from flows.bars_result import BarsResult
from flows.bars_run import download, preview_job
from flows.errors import BarsFailed, ConfigurationError
from flows.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

OK, FAILED, USAGE, STOPPED = 0, 1, 2, 130

_SANDBOX_KEY: Final = "FORCE_FAKE_IB"

logger = logging.getLogger(__name__)


class _CurrentStderr:
    """Whatever stderr is at the moment: a live bar takes its place for a while."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def run(parameters: dict[str, Any], *, sandbox: bool, as_flow: bool | None) -> int:
    """Download bars and print the batch's one line, or with `dry_run` one JSON object.

    Args:
        parameters: parameters of the flow `download-bars`; those that are left out count as not given.
        sandbox: start the bundled gateway for this run.
        as_flow: run as a Prefect flow; None decides by PREFECT_API_URL.

    Returns:
        The exit code: 0 fine, 1 failed or strict with an ERROR, 2 nothing was done, 130 stopped early.
    """
    try:
        with _sandbox(wanted=sandbox):
            _log_to_stderr(load_settings().log_level)
            if as_flow or (as_flow is None and os.environ.get("PREFECT_API_URL")):
                return _run_as_flow(parameters)
            return _run_here(parameters)
    except ConfigurationError as error:
        return _fail(error, USAGE)
    except (IbkrError, StoreError, OSError) as error:
        return _fail(error, FAILED)


def _run_here(parameters: dict[str, Any]) -> int:
    job = assemble(now_ns=time.time_ns(), **parameters)
    if job.dry_run:
        return _print_preview(preview_job(job, now_ns=time.time_ns))
    with on_stderr() as progress:
        result = download(job, progress=progress, now_ns=time.time_ns)
    return _finish(result)


def _run_as_flow(parameters: dict[str, Any]) -> int:
    # Nothing leaves the machine but the requests to the gateway.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # The temporary API takes 10 s and more to start; Prefect gives up after 20.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    # What a person gave is checked before Prefect is asked for a run; the flow does it again, and then it is logged.
    logging.disable(logging.WARNING)
    try:
        job = assemble(now_ns=time.time_ns(), **parameters)
    finally:
        logging.disable(logging.NOTSET)
    from prefect.exceptions import TerminationSignal  # noqa: PLC0415 - Prefect takes seconds to import

    from flows.download_bars import download_bars  # noqa: PLC0415 - likewise

    # Prefect turns SIGTERM into an exception and afterwards hands it to the handler that was there before: this one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        document = download_bars(**parameters)
    except BarsFailed as error:
        if error.summary is None:
            raise
        return _finish(BarsResult.from_document(error.summary))
    except (KeyboardInterrupt, TerminationSignal):
        logger.warning("interrupted; what was downloaded is on disk")
        return STOPPED
    return _print_preview(document) if job.dry_run else _finish(BarsResult.from_document(document))


def _finish(result: BarsResult) -> int:
    print(result.summary_line, flush=True)  # noqa: T201 - the batch's one line of stdout
    if result.problem is not None:
        return _fail(result.problem, FAILED)
    return STOPPED if result.stopped else OK


def _print_preview(document: dict[str, Any]) -> int:
    print(json.dumps(document, indent=2))  # noqa: T201 - what was asked for
    return OK


def _fail(problem: object, code: int) -> int:
    print(f"trading-data bars: {problem}", file=sys.stderr)  # noqa: T201 - the one clear error
    return code


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=level, stream=_CurrentStderr(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.captureWarnings(True)
    for handler in logging.getLogger().handlers:
        # A failed download has its own line already; Prefect's would add a traceback.
        handler.addFilter(lambda record: not record.name.startswith("prefect.task_runs"))
    for noisy in ("asyncio", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))


@contextmanager
def _sandbox(*, wanted: bool) -> Iterator[None]:
    """What the command line says of the gateway beats the settings, for this process and its children."""
    if not wanted:
        yield
        return
    before = os.environ.get(_SANDBOX_KEY)
    os.environ[_SANDBOX_KEY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SANDBOX_KEY]
        else:
            os.environ[_SANDBOX_KEY] = before

"""The flow `record-depth`: one bounded run per capture session, which survives that Prefect's API goes away.

It names the steps; what they do lies in `record_job` and `record_run`, which run and are tested without Prefect. The
capture has a thread of its own, so that Prefect's signals reach this one, which waits, and never the event loop.
"""

# No `from __future__ import annotations`: `serve()` loads this file under a name at which pydantic cannot find the
# types of the parameters again.
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Final

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed
from pydantic import Field

from connectors.ibkr.tasks import capture_level2
from flows.attended import attended
from flows.capture_progress import CaptureStatus, Rates, on_stderr, rows, totals
from flows.errors import CaptureFailed, ConfigurationError
from flows.held import LimitBusy, held
from flows.pages import Page
from flows.parameters import Exchange, Symbols, WindowText
from flows.prefect_api import is_supervised, wait_for_api
from flows.record_job import LONGEST_INTERVAL_MS, LONGEST_MINUTES, MOST_LEVELS, RecordJob, assemble, check_ready
from flows.record_result import RecordResult
from flows.record_run import record
from flows.run_log import show_own_lines
from flows.stopping import Stop

logger = logging.getLogger(__name__)

PAGE_EVERY_S: Final = 10.0
_FREED_S: Final = 120.0
"""In so many seconds the slots of a session that was killed are free again, with some to spare."""

_CLOSED: Final = "Closed"
_STOPPED: Final = "Stopped"
_MOST_NAMED: Final = 10


def _run_name() -> str:
    """Symbols and day of the run, as far as its parameters tell."""
    try:
        return assemble(now_ns=time.time_ns(), **flow_run.parameters).label
    except ConfigurationError:
        return "record-depth that cannot begin"


@flow(name="record-depth", flow_run_name=_run_name, validate_parameters=True, log_prints=False)
def record_depth(
    symbols: Symbols | None = None,
    minutes: Annotated[float, Field(gt=0, le=LONGEST_MINUTES)] | None = None,
    levels: Annotated[int, Field(ge=1, le=MOST_LEVELS)] | None = None,
    interval_ms: Annotated[int, Field(ge=0, le=LONGEST_INTERVAL_MS)] | None = None,
    window: WindowText | None = None,
    exchange: Exchange | None = None,
) -> dict[str, Any] | State[Any]:
    """Capture live Level-2 books from Interactive Brokers to the data root.

    Args:
        symbols: Symbols in any spelling; those of the task list for today when empty.
        minutes: Length from now on, fractions allowed, at most a day; the window when empty.
        levels: Levels per side; L2_LEVELS when empty.
        interval_ms: Milliseconds between snapshots, 0 for every message; L2_SNAPSHOT_INTERVAL_MS when empty.
        window: Part of today in New York, such as 09:30-16:00; the effective L2 window when empty.
        exchange: SMART, or one exchange such as ISLAND; IB_EXCHANGE when empty.

    Returns:
        What was captured, as a `RecordResult` document.

    Raises:
        ConfigurationError: something given cannot be used, or others hold the broker's lines; nothing was captured.
        CaptureFailed: there was no connection, a symbol was refused, or the disk failed; what was captured is kept.
    """
    job = assemble(
        now_ns=time.time_ns(),
        symbols=symbols,
        minutes=minutes,
        levels=levels,
        interval_ms=interval_ms,
        window=window,
        exchange=exchange,
    )
    if job.closed:
        return Completed(name=_CLOSED, message=f"the exchange is closed on {job.day}")
    check_ready(job)
    show_own_lines(job.settings.log_level)
    page = _CapturePage(job.label)
    try:
        with held(_share(job), what=job.label, timeout_s=_patience_s(job), settings=job.settings):
            result, signalled = capture_level2(partial(_capture, job, page), label=job.label)
    except LimitBusy as error:
        raise ConfigurationError(f"nothing was captured: {error}") from error
    finally:
        page.finish()
    if isinstance(signalled, TerminationSignal) and is_supervised():
        # Whoever runs it asked. Raised, the signal would make the run Crashed first, and alert somebody.
        return Cancelled(message=f"ended by {result.end_reason}; {counts_text(result)}", data=result.to_document())
    if result.is_stopped:
        return Completed(
            name=_STOPPED, message=f"ended by {result.end_reason}; {counts_text(result)}", data=result.to_document()
        )
    return Completed(message=counts_text(result), data=result.to_document())


def counts_text(result: RecordResult) -> str:
    """What was captured, in one line for the state of the run."""
    totals = [sum(getattr(row, name) for row in result.symbols) for name in ("messages", "snapshots", "gaps")]
    text = "{} messages, {} snapshots, {} gaps".format(*totals)
    named = [f"{row.symbol} {row.messages}" for row in result.symbols[:_MOST_NAMED]]
    more = f" and {len(result.symbols) - _MOST_NAMED} more" if len(result.symbols) > _MOST_NAMED else ""
    return f"{text}: {', '.join(named)}{more}" if named else text


def _share(job: RecordJob) -> dict[str, int]:
    """What of the broker's limits a capture holds; a sandbox gateway of its own has limits of its own."""
    if job.sandbox:
        return {}
    return {"ibkr.depth-lines": min(len(job.symbols), job.settings.ib_max_depth_lines), "ibkr.sessions": 1}


def _patience_s(job: RecordJob) -> float:
    """How long to wait for others: until a dead session's slots are free, or until the window is half begun."""
    if job.start_ns is None:
        return _FREED_S
    return max(_FREED_S, job.start_ns / 1e9 - time.time() + _FREED_S)


def _capture(job: RecordJob, page: "_CapturePage") -> tuple[RecordResult, BaseException | None]:
    """Capture, and see that the API is there to be told.

    Returns:
        What was captured, and the signal that ended it, if one did.

    Raises:
        CaptureFailed: it failed, or a part of it.
        ConfigurationError: it could not begin.
    """
    stop = Stop()
    try:
        found, signalled = attended(
            lambda: record(job, stop=stop, watchers=(on_stderr, page.watching)),
            stop,
            name="record-depth",
            saying="ending the capture; what was captured is written",
        )
    except Exception:
        wait_for_api()
        raise
    page.show_result(found)
    if signalled is None:
        # What a run reports while the API is away is lost.
        wait_for_api()
    if found.failures:
        raise CaptureFailed("; ".join(found.failures), summary=found.to_document())
    return found, signalled


class _CapturePage:
    """A progress bar and a table of books while a capture goes on; then a table of what it left."""

    def __init__(self, label: str) -> None:
        self._page = Page("record-depth", label)
        self._rates = Rates()

    @contextmanager
    def watching(self, status: Callable[[], CaptureStatus]) -> Iterator[None]:
        """Watch a capture."""
        done = threading.Event()

        def repeat() -> None:
            while not done.is_set():
                self._show(status)
                done.wait(PAGE_EVERY_S)

        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(repeat,), name="record-depth-page", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self._show(status)

    def show_result(self, result: RecordResult) -> None:
        """Show what a capture left."""
        table = [
            {
                "symbol": row.symbol,
                "messages": row.messages,
                "snapshots": row.snapshots,
                "gaps": row.gaps,
                "segments": row.segments,
                "end": row.end,
            }
            for row in result.symbols
        ]
        self._page.table("result", table, counts_text(result))

    def finish(self) -> None:
        """Wait until all is shown, as far as the API is there."""
        self._page.finish()

    def _show(self, status: Callable[[], CaptureStatus]) -> None:
        try:
            now = status()
        except Exception as error:  # noqa: BLE001 - what cannot be shown is no reason to end a capture
            logger.debug("the state of the capture cannot be shown now: %s", error)
            return
        self._page.progress(100 * now.share, totals(now))
        self._page.table("books", rows(now, self._rates), totals(now))

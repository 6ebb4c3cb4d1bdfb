"""The flow `download-bars`: plan, one task that holds the gateway session, then what became of it.

It names the steps; what they do lies in `bars_job` and `bars_run`, which run and are tested without Prefect. The
download has a thread of its own, so that Prefect's signals reach this one, which waits, and never the event loop.
"""

# No `from __future__ import annotations`: `serve()` loads this file under a name at which pydantic cannot find the
# types of the parameters again.
import contextvars
import datetime as dt
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final
from uuid import UUID  # noqa: TC003 - like the flow's own types

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from connectors.ibkr.tasks import download_historical_bars
from flows.bars_job import BarsJob, assemble
from flows.bars_progress import Watcher, on_stderr
from flows.bars_result import BarsResult, PieceOutcome
from flows.bars_run import download, preview_job
from flows.errors import BarsFailed, ConfigurationError
from flows.run_log import show_own_lines
from flows.stopping import Stop

logger = logging.getLogger(__name__)

ARTIFACT_EVERY_S: Final = 10.0
_API_TIMEOUT_S: Final = 5.0
_LAST_ARTIFACT_S: Final = 5.0
_ARTIFACT_KEY: Final = "download-bars-progress"
_STOPPED: Final = "Stopped"


def _run_name() -> str:
    """Symbols, sizes and days of the run, as far as its parameters tell."""
    try:
        return assemble(now_ns=time.time_ns(), **flow_run.parameters).label
    except ConfigurationError:
        return "download-bars that cannot begin"


@flow(name="download-bars", flow_run_name=_run_name, validate_parameters=True, log_prints=False)
def download_bars(
    symbols: list[str] | None = None,
    bar_sizes: list[str] | None = None,
    start: dt.date | None = None,
    end: dt.date | None = None,
    force: bool = False,
    dry_run: bool = False,
    strict: bool = False,
    what_to_show: str | None = None,
    extended_hours: bool | None = None,
    oldest_first: bool | None = None,
) -> dict[str, Any] | State[Any]:
    """Download historical bars from Interactive Brokers to the data root: only what is missing.

    Args:
        symbols: Symbols in any spelling; those of the task list with a day in the range when empty.
        bar_sizes: Some of `1 hour`, `1 min`, `1 sec`; all three when empty.
        start: First ET day; the look-backs of the settings, until today, when empty.
        end: Last ET day, included; today when empty.
        force: Download again what is there.
        dry_run: Return what is missing, with requests and the time that pacing needs; write nothing.
        strict: Fail the run when a day ends with ERROR.
        what_to_show: TRADES, MIDPOINT, BID, ASK or BID_ASK; BARS_WHAT_TO_SHOW when empty.
        extended_hours: 04:00-20:00 ET instead of regular hours; BARS_EXTENDED_HOURS when empty.
        oldest_first: The oldest days first; BARS_OLDEST_FIRST when empty.

    Returns:
        What became of it, as a `BarsResult` document, or the preview of a dry run.

    Raises:
        ConfigurationError: something given cannot be used; nothing was downloaded.
        BarsFailed: the gateway or the disk failed, or a strict run met an ERROR; what was downloaded is kept.
    """
    job = assemble(
        now_ns=time.time_ns(),
        symbols=symbols,
        bar_sizes=bar_sizes,
        start=start,
        end=end,
        force=force,
        dry_run=dry_run,
        strict=strict,
        what_to_show=what_to_show,
        extended_hours=extended_hours,
        oldest_first=oldest_first,
    )
    show_own_lines(job.settings.log_level)
    if job.dry_run:
        return preview_job(job, now_ns=time.time_ns)
    result = bring_bars(job)
    if result.problem is not None:
        # A state, not an exception, whose trace nobody would need on the page of the run.
        failure = BarsFailed(result.problem, summary=result.to_document())
        return Failed(message=result.problem, data=failure)
    return Completed(
        name=_STOPPED if result.stopped else None,
        message=f"{result.stopped}; {result.remaining} days remain" if result.stopped else _counts(result),
        data=result.to_document(),
    )


def bring_bars(job: BarsJob) -> BarsResult:
    """Download as a task of the flow run that is going on, with a progress bar on its page.

    Raises:
        ConfigurationError: nothing was downloaded.
        TerminationSignal: a runner ended the run; what is complete is published.
    """
    page = _Page()
    state: State[Any] = download_historical_bars(partial(_session, job, page), label=job.label, return_state=True)
    ended = state.result(raise_on_failure=False)
    page.finish()
    if not isinstance(ended, _Ended):
        raise ended
    result, signalled = ended.result, ended.signalled
    if isinstance(signalled, TerminationSignal) and _is_supervised():
        # A runner asked, for a cancellation or its own end: it knows which state that makes.
        raise signalled
    return result


class _Ended(Exception):  # noqa: N818 - says what happened
    """A session has ended; an exception, so that a failed state of the task can carry it, too."""

    def __init__(self, result: BarsResult, signalled: BaseException | None) -> None:
        super().__init__(result.problem or _counts(result))
        self.result = result
        self.signalled = signalled


def _session(job: BarsJob, page: "_Page") -> State[Any]:
    """The task of a run: its state says how the download went."""
    ended = _Ended(*_download(job, page))
    text = str(ended)
    return Failed(message=text, data=ended) if ended.result.problem else Completed(message=text, data=ended)


def _counts(result: BarsResult) -> str:
    return ", ".join(f"{status} {count}" for status, count in result.counts.items())


def _download(job: BarsJob, page: "_Page") -> tuple[BarsResult, BaseException | None]:
    """Download in a thread, and wait for it whatever happens here meanwhile.

    Returns:
        What became of it, and the signal that ended it, if one did.

    Raises:
        ConfigurationError: it could not begin.
    """
    stop = Stop()
    done = threading.Event()
    outcome: list[BarsResult | BaseException] = []

    def work() -> None:
        try:
            with on_stderr() as shown, page.watching(shown) as watcher:
                outcome.append(download(job, stop=stop, progress=watcher, now_ns=time.time_ns))
        except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
            outcome.append(error)
        finally:
            done.set()

    # With the context of the run, so that its log lines find its page.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="download-bars")
    thread.start()
    signalled: BaseException | None = None
    while not done.is_set():
        try:
            done.wait()
        except (KeyboardInterrupt, TerminationSignal) as signal_error:
            signalled = signalled or signal_error
            logger.warning("ending the download; what is complete is published")
            stop.ask("sigint" if isinstance(signal_error, KeyboardInterrupt) else "sigterm")
    thread.join()
    (found,) = outcome
    if isinstance(found, BaseException):
        raise found
    return found, signalled


def _is_supervised() -> bool:
    """Whether a runner or a worker started this process for the run."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None


class _Page:
    """A progress bar on the page of the run, brought up to date by a thread.

    The API may be slow, gone or back: the thread waits for it, nobody waits for the thread.
    """

    def __init__(self) -> None:
        self._flow_run_id: str | None = flow_run.id
        self._id: UUID | None = None
        self._finished = 0
        self._total = 0
        self._using_api = threading.Lock()
        self._said = False

    def begin(self, pieces: int, requests: int, pacing_s: float) -> None:
        """See `Watcher`."""
        del requests, pacing_s
        self._total = pieces

    def done(self, outcome: PieceOutcome | None, finished: int, total: int) -> None:
        """See `Watcher`."""
        del outcome
        self._finished, self._total = finished, total

    @contextmanager
    def watching(self, other: Watcher) -> Iterator[Watcher]:
        """Watch a download together with somebody else."""
        done = threading.Event()

        def repeat() -> None:
            while not done.wait(ARTIFACT_EVERY_S):
                self._publish()

        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(repeat,), name="download-bars-page", daemon=True).start()
        try:
            yield _Both(self, other)
        finally:
            done.set()

    def finish(self) -> None:
        """Show how it ended."""
        if self._total and self._using_api.acquire(timeout=_LAST_ARTIFACT_S):
            self._using_api.release()
            self._publish()

    def _publish(self) -> None:
        if not self._total:
            return
        share, text = round(100 * self._finished / self._total, 1), f"{self._finished} of {self._total} days"
        with self._using_api:
            try:
                with get_client(sync_client=True, httpx_settings={"timeout": _API_TIMEOUT_S}) as client:
                    if self._id is not None:
                        client.update_artifact(self._id, ArtifactUpdate(data=share, description=text))
                        return
                    created = client.create_artifact(
                        ArtifactCreate(
                            key=_ARTIFACT_KEY,
                            type="progress",
                            data=share,
                            description=text,
                            flow_run_id=self._flow_run_id,
                        )
                    )
                    self._id = created.id
            except Exception as error:  # noqa: BLE001 - whatever a client, a server or a network can come up with
                if not self._said:
                    logger.warning("the run's page is not up to date, the download goes on: %s", error)
                self._said = True


class _Both:
    """Two watchers as one."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def begin(self, pieces: int, requests: int, pacing_s: float) -> None:
        """See `Watcher`."""
        for watcher in self._watchers:
            watcher.begin(pieces, requests, pacing_s)

    def done(self, outcome: PieceOutcome | None, finished: int, total: int) -> None:
        """See `Watcher`."""
        for watcher in self._watchers:
            watcher.done(outcome, finished, total)

"""The flow `record-depth`: one bounded run per capture session, which survives that Prefect's API goes away.

It names the steps; what they do lies in `record_job` and `record_run`, which run and are tested without Prefect. The
capture has a thread of its own, so that Prefect's signals reach this one, which waits, and never the event loop.
"""

# No `from __future__ import annotations`: `serve()` loads this file under a name at which pydantic cannot find the
# types of the parameters again.
import contextvars
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Annotated, Any, Final
from uuid import UUID  # noqa: TC003 - like the flow's own types

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from connectors.ibkr.tasks import capture_level2
from flows.capture_progress import CaptureStatus, Rates, on_stderr, rows, totals
from flows.errors import CaptureFailed, ConfigurationError
from flows.record_job import RecordJob, assemble, check_ready
from flows.record_result import RecordResult
from flows.record_run import record
from flows.run_log import show_own_lines
from flows.stopping import Stop

logger = logging.getLogger(__name__)

ARTIFACT_EVERY_S: Final = 10.0
API_PATIENCE_S: Final = 300.0
_API_POLL_S: Final = 1.0
_API_TIMEOUT_S: Final = 5.0
_LAST_ARTIFACT_S: Final = 5.0
_CLOSED: Final = "Closed"
_STOPPED: Final = "Stopped"


def _run_name() -> str:
    """Symbols and day of the run, as far as its parameters tell."""
    try:
        return assemble(now_ns=time.time_ns(), **flow_run.parameters).label
    except ConfigurationError:
        return "record-depth that cannot begin"


@flow(name="record-depth", flow_run_name=_run_name, validate_parameters=True, log_prints=False)
def record_depth(
    symbols: list[str] | None = None,
    minutes: Annotated[float, Field(gt=0, le=1440)] | None = None,
    levels: Annotated[int, Field(ge=1, le=50)] | None = None,
    interval_ms: Annotated[int, Field(ge=0, le=3_600_000)] | None = None,
    window: str | None = None,
    exchange: str | None = None,
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
        ConfigurationError: something given cannot be used; nothing was captured.
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
    artifacts = _Artifacts()
    result, signalled = capture_level2(partial(_capture, job, artifacts), label=job.label)
    if isinstance(signalled, TerminationSignal) and _is_supervised():
        artifacts.finish()
        # A runner asked, for a cancellation or its own end: it knows which state that makes.
        raise signalled
    artifacts.finish()
    if result.is_stopped:
        return Completed(name=_STOPPED, message=f"ended by {result.end_reason}", data=result.to_document())
    return result.to_document()


def _capture(job: RecordJob, artifacts: "_Artifacts") -> tuple[RecordResult, BaseException | None]:
    """Capture in a thread, and wait for it whatever happens here meanwhile.

    Returns:
        What was captured, and the signal that ended it, if one did.

    Raises:
        CaptureFailed: it failed, or a part of it.
        ConfigurationError: it could not begin.
    """
    stop = Stop()
    done = threading.Event()
    outcome: list[RecordResult | BaseException] = []

    def capture() -> None:
        try:
            outcome.append(record(job, stop=stop, watchers=(on_stderr, artifacts.watching)))
        except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
            outcome.append(error)
        finally:
            done.set()

    # With the context of the run, so that its log lines find its page.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(capture,), name="record-depth")
    thread.start()
    signalled: BaseException | None = None
    while not done.is_set():
        try:
            done.wait()
        except (KeyboardInterrupt, TerminationSignal) as signal_error:
            signalled = signalled or signal_error
            logger.warning("ending the capture; what was captured is written")
            stop.ask("sigint" if isinstance(signal_error, KeyboardInterrupt) else "sigterm")
    thread.join()
    if signalled is None:
        # What a run reports while the API is away is lost.
        _wait_for_api()
    (found,) = outcome
    if isinstance(found, BaseException):
        raise found
    if found.failures:
        raise CaptureFailed("; ".join(found.failures), summary=found.to_document())
    return found, signalled


def _is_supervised() -> bool:
    """Whether a runner or a worker started this process for the run."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None


class _Artifacts:
    """A progress bar and a table on the page of the run, brought up to date by a thread.

    The API may be slow, gone or back: the thread waits for it, nobody waits for the thread.
    """

    def __init__(self) -> None:
        self._flow_run_id: str | None = flow_run.id
        self._key = "record-depth"
        self._ids: dict[str, UUID] = {}
        self._rates = Rates()
        self._last: CaptureStatus | None = None
        self._using_api = threading.Lock()
        self._said = False

    @contextmanager
    def watching(self, status: Callable[[], CaptureStatus]) -> Iterator[None]:
        """Watch a capture."""
        done = threading.Event()

        def repeat() -> None:
            while not done.is_set():
                self._last = status()
                self._publish(self._last)
                done.wait(ARTIFACT_EVERY_S)

        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(repeat,), name="record-depth-artifacts", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._last = status()
            done.set()

    def finish(self) -> None:
        """Show how it ended; for when the API is there."""
        if self._last is not None and self._using_api.acquire(timeout=_LAST_ARTIFACT_S):
            self._using_api.release()
            self._publish(self._last)

    def _publish(self, status: CaptureStatus) -> None:
        with self._using_api:
            try:
                self._show("progress", round(100 * status.share, 1), totals(status))
                self._show("table", json.dumps(rows(status, self._rates)), totals(status))
                self._said = False
            except Exception as error:  # noqa: BLE001 - whatever a client, a server or a network can come up with
                if not self._said:
                    logger.warning("the run's page is not up to date, the capture goes on: %s", error)
                self._said = True

    def _show(self, kind: str, data: Any, description: str) -> None:
        with get_client(sync_client=True, httpx_settings={"timeout": _API_TIMEOUT_S}) as client:
            if (known := self._ids.get(kind)) is not None:
                client.update_artifact(known, ArtifactUpdate(data=data, description=description))
                return
            created = client.create_artifact(
                ArtifactCreate(
                    key=f"{self._key}-{kind}",
                    type=kind,
                    data=data,
                    description=description,
                    flow_run_id=self._flow_run_id,
                )
            )
            self._ids[kind] = created.id


def _wait_for_api() -> None:
    """Wait until the API answers, so that the state of the run can be told; the files are on disk already."""
    until = time.monotonic() + API_PATIENCE_S
    said = False
    while not _api_answers():
        if not said:
            logger.warning("Prefect's API does not answer; the files are on disk, its return is waited for")
            said = True
        if time.monotonic() > until:
            logger.warning("Prefect's API did not come back within %.0f s", API_PATIENCE_S)
            return
        time.sleep(_API_POLL_S)


def _api_answers() -> bool:
    with suppress(Exception), get_client(sync_client=True, httpx_settings={"timeout": _API_TIMEOUT_S}) as client:
        return client.api_healthcheck() is None
    return False

"""The flow `download-bars`: plan, one task that holds the gateway session, then what became of it.

It names the steps; what they do lies in `bars_job` and `bars_run`, which run and are tested without Prefect. The
download has a thread of its own, so that Prefect's signals reach this one, which waits, and never the event loop.
"""

# No `from __future__ import annotations`: `serve()` loads this file under a name at which pydantic cannot find the
# types of the parameters again.
import logging
import time
from functools import partial
from typing import Any, Final

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from connectors.ibkr.tasks import download_historical_bars
from flows import events
from flows.attended import attended
from flows.bars_job import BarsJob, assemble
from flows.bars_progress import Watcher, on_stderr, span_text
from flows.bars_result import STATUSES, BarsResult, PieceOutcome
from flows.bars_run import download, preview_job
from flows.coverage_rows import coverage_rows
from flows.errors import BarsFailed, ConfigurationError
from flows.held import held
from flows.pages import Page, plain
from flows.parameters import BarSizes, Day, Symbols, WhatToShow
from flows.prefect_api import is_supervised, wait_for_api
from flows.run_log import show_own_lines
from flows.stopping import Stop

logger = logging.getLogger(__name__)

_STOPPED: Final = "Stopped"
_MOST_ROWS: Final = 500
_MOST_NAMED: Final = 20


def _run_name() -> str:
    """Symbols, sizes and days of the run, as far as its parameters tell."""
    try:
        return assemble(now_ns=time.time_ns(), **flow_run.parameters).label
    except ConfigurationError:
        return "download-bars that cannot begin"


@flow(name="download-bars", flow_run_name=_run_name, validate_parameters=True, log_prints=False)
def download_bars(
    symbols: Symbols | None = None,
    bar_sizes: BarSizes | None = None,
    start: Day | None = None,
    end: Day | None = None,
    force: bool = False,
    dry_run: bool = False,
    strict: bool = False,
    what_to_show: WhatToShow | None = None,
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
    try:
        result = bring_bars(job)
    except TerminationSignal:
        # Whoever runs it asked. Raised, the signal would make the run Crashed first, and alert somebody.
        return Cancelled(message="ended by sigterm; what is complete is published")
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
    """Download as a task of the flow run that is going on; its page and its events say how it went.

    Raises:
        ConfigurationError: nothing was downloaded.
        TerminationSignal: a runner ended the run; what is complete is published.
    """
    page = _BarsPage(job)
    # A sandbox gateway of its own has connections of its own.
    with held({} if job.sandbox else {"ibkr.sessions": 1}, what=f"bars of {job.label}", settings=job.settings):
        state: State[Any] = download_historical_bars(partial(_session, job, page), label=job.label, return_state=True)
    ended = state.result(raise_on_failure=False)
    if not isinstance(ended, _Ended):
        page.finish(None)
        raise ended
    result, signalled = ended.result, ended.signalled
    page.finish(result)
    if isinstance(signalled, TerminationSignal) and is_supervised():
        # A runner asked, for a cancellation or its own end: it knows which state that makes.
        raise signalled
    return result


class _Ended(Exception):  # noqa: N818 - says what happened
    """A session has ended; an exception, so that a failed state of the task can carry it, too."""

    def __init__(self, result: BarsResult, signalled: BaseException | None) -> None:
        super().__init__(result.problem or _counts(result))
        self.result = result
        self.signalled = signalled


def _session(job: BarsJob, page: "_BarsPage") -> State[Any]:
    """The task of a run: its state says how the download went."""
    result, signalled = _download(job, page)
    if signalled is None:
        # What a run reports while the API is away is lost.
        wait_for_api()
    ended = _Ended(result, signalled)
    text = str(ended)
    return Failed(message=text, data=ended) if result.problem else Completed(message=text, data=ended)


def _counts(result: BarsResult) -> str:
    return ", ".join(f"{status} {count}" for status, count in result.counts.items())


def _download(job: BarsJob, page: "_BarsPage") -> tuple[BarsResult, BaseException | None]:
    """Download in a thread; the result, and the signal that ended it, if one did.

    Raises:
        ConfigurationError: it could not begin.
    """
    stop = Stop()

    def work() -> BarsResult:
        with on_stderr() as shown:
            return download(job, stop=stop, progress=_Both(page, shown), now_ns=time.time_ns)

    return attended(work, stop, name="download-bars", saying="ending the download; what is complete is published")


class _BarsPage:
    """A progress bar while a download goes on, then what became of it and the coverage; a `Watcher`."""

    def __init__(self, job: BarsJob) -> None:
        self._job = job
        self._page = Page("download-bars", job.label)

    def begin(self, pieces: int, requests: int, pacing_s: float) -> None:
        """See `Watcher`."""
        text = f"{pieces} days to bring by {requests} requests, for which the pacing rules need {span_text(pacing_s)}"
        self._page.progress(0, text)

    def done(self, outcome: PieceOutcome | None, finished: int, total: int) -> None:
        """See `Watcher`; the ledger line of the day is on disk."""
        if outcome is not None:
            events.bars_day(outcome, root=self._job.root)
        self._page.progress(100 * finished / total if total else 100, f"{finished} of {total} days")

    def finish(self, result: BarsResult | None) -> None:
        """Show how it ended, and see that page and events leave; a second at most when the API is gone."""
        if result is not None:
            self._page.markdown("summary", _summary(self._job, result), "What became of the download")
            if result.coverage is not None:
                events.coverage_refreshed(result.coverage, root=self._job.root)
                rows, count = coverage_rows(
                    self._job.settings,
                    now_ns=time.time_ns(),
                    symbols=frozenset(self._job.scope.symbols),
                    most=_MOST_ROWS,
                )
                if rows:
                    text = f"Coverage of {count} series of this run's symbols, until the last day with bars"
                    self._page.table("coverage", rows, text if count <= len(rows) else f"{text}; {len(rows)} shown")
        self._page.finish()
        events.drain()


def _summary(job: BarsJob, result: BarsResult) -> str:
    facts: dict[str, str] = {status: str(result.counts[status]) for status in STATUSES}
    facts |= {
        "bars written": str(result.rows),
        "requests": str(result.requests),
        "answers kept from an earlier run": str(result.answers_kept),
        "waited for pacing": span_text(result.pacing_wait_s),
        "duration": span_text(result.duration_sec),
        "days out of the broker's reach": str(result.out_of_reach),
    }
    lines = ["| | |", "|---|---|", *(f"| {name} | {plain(fact)} |" for name, fact in facts.items())]
    for title, texts in (("Failed", result.failures), ("Errors", result.errors)):
        if texts:
            lines += ["", f"**{title}**", "", *(f"- {plain(text)}" for text in texts[:_MOST_NAMED])]
            lines += [f"- and {len(texts) - _MOST_NAMED} more"] if len(texts) > _MOST_NAMED else []
    if result.stopped:
        lines += ["", f"**Stopped early**: {plain(result.stopped)}; {result.remaining} days remain", ""]
        lines += [
            plain(f"- {group['symbol']} {group['bar_size']}: {group['days']} days, {group['first']} to {group['last']}")
            for group in result.remaining_groups[:_MOST_NAMED]
        ]
    lines += ["", f"Ledger: [{plain(job.root.bars_manifest.name)}](<{job.root.bars_manifest.absolute().as_uri()}>)"]
    return "\n".join(lines)


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

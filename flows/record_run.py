"""A whole live capture, without Prefect: a job in, files on the data root, one result out.

One event loop for the gateway, the recorder's threads beside it, and around both what ends a session: its planned end,
a wish to stop, a full disk, a journal that cannot be written. Whatever ends it, what was captured is on disk when
`record` returns.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
import uuid
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from connectors.ibkr.clock import ReceiptClock
from connectors.ibkr.depth import DepthCapture, DepthRequest
from connectors.ibkr.errors import GatewayUnreachable, IbkrError
from connectors.ibkr.library import load
from connectors.store.atomic import write_json_atomic
from connectors.store.errors import StorageGuardHit, StoreError
from connectors.store.live import CaptureFolder, living_sessions
from connectors.store.mirror import mirror
from contracts.sessions import ET
from flows.capture_progress import CaptureStatus, SymbolStatus
from flows.capture_recorder import Recorder
from flows.capture_spec import RecorderProgress, SessionSpec, SymbolProgress
from flows.errors import ConfigurationError
from flows.gateway import gateway_of, producer
from flows.record_orphans import Orphans
from flows.record_result import RecordResult, SymbolRecord
from flows.stopping import Stop, stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.ibkr.depth import CaptureOutcome
    from connectors.ibkr.session import GatewayAddress, GatewayInfo
    from flows.capture_progress import Watcher
    from flows.capture_spec import SessionResult
    from flows.record_job import RecordJob

logger = logging.getLogger(__name__)

DISK_EVERY_S: Final = 30.0
_RECORDER_EVERY_S: Final = 0.25
_LONGEST_NAP_S: Final = 1.0
_NS: Final = 10**9


def record(job: RecordJob, *, stop: Stop | None = None, watchers: Sequence[Watcher] = ()) -> RecordResult:
    """Wait for a job's window and capture until it ends, or until somebody asks to stop.

    In the main thread SIGINT and SIGTERM ask; elsewhere only `stop` does. Dead sessions of the data root are recovered
    meanwhile by a child process.

    Args:
        job: a job with symbols, checked by `check_ready`.
        stop: asked from other threads.
        watchers: watch from the first wait to the last file.

    Raises:
        ConfigurationError: the client library or the data root cannot be used; nothing was captured.
    """
    return asyncio.run(_Run(job, stop or Stop(), watchers).run())


class _Run:
    """One run; `status` may be asked from any thread."""

    def __init__(self, job: RecordJob, stop: Stop, watchers: Sequence[Watcher]) -> None:
        self._job = job
        self._stop = stop
        self._watchers = watchers
        self._spec: SessionSpec | None = None
        self._recorder: Recorder | None = None
        self._capture: DepthCapture | None = None
        self._told_of_sandbox = job.sandbox
        self._orphans: list[Orphans] = []
        self._is_over = False

    async def run(self) -> RecordResult:
        stopping = self._stop.bind()
        settings = self._job.settings
        lines = settings.ib_max_depth_lines
        with (
            stop_on_signals(self._stop, what="the capture", kept="what was captured is written"),
            ExitStack() as watched,
        ):
            for watch in self._watchers:
                watched.enter_context(watch(self.status))
            try:
                await self._wait_for_window(stopping)
                if self._stop.reason is not None:
                    return RecordResult(None, self._stop.reason)
                async with gateway_of(settings, sandbox=self._job.sandbox, depth_lines=lines) as address:
                    return await self._record(address, stopping)
            finally:
                for orphans in self._orphans:
                    await asyncio.to_thread(orphans.finish)

    async def _recover_orphans(self) -> None:
        self._orphans.append(await asyncio.to_thread(Orphans.recover, self._job.root))

    async def _wait_for_window(self, stopping: asyncio.Event) -> None:
        start_ns = self._job.start_ns
        if start_ns is None or time.time_ns() >= start_ns:
            return
        logger.info("waiting for the window %s ET", self._job.window)
        # In short naps by the wall clock: the machine may sleep, and its clock may be set.
        while (left_s := (start_ns - time.time_ns()) / _NS) > 0 and not stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), min(left_s, _LONGEST_NAP_S))
        if time.time_ns() >= self._job.end_ns(start_ns):
            raise ConfigurationError(f"nothing was captured: the window {self._job.window} ET went by during the wait")

    async def _record(self, address: GatewayAddress, stopping: asyncio.Event) -> RecordResult:
        job = self._job
        try:
            # It takes a while to import; nothing is captured yet.
            load(job.settings.ib_library)
            clock = ReceiptClock()
            self._spec = spec = _spec(job, clock.now_ns())
            recorder = Recorder(job.root, spec, now_ns=clock.now_ns)
            capture = DepthCapture(
                address,
                DepthRequest(
                    symbols=job.symbols,
                    levels=job.levels,
                    exchange=job.exchange,
                    max_lines=job.settings.ib_max_depth_lines,
                    silence_s=job.settings.l2_silence_seconds,
                ),
                recorder,
                clock=clock,
                end_ns=spec.planned_end_ns,
                stop=stopping,
                library=job.settings.ib_library,
                on_connected=self._on_connected,
            )
            recorder.start()
        except (IbkrError, StoreError) as error:
            raise ConfigurationError(f"nothing was captured: {error}") from error
        logger.info(
            "session %s of %s, until %s", spec.session_id, " ".join(spec.symbols), _wall_clock(spec.planned_end_ns)
        )
        self._recorder, self._capture = recorder, capture
        for other, shared in living_sessions(job.root, besides=spec.session_id, symbols=job.symbols):
            logger.warning(
                "session %s captures %s at the same time: each session has files and rows of its own, and readers "
                "refuse to mix them",
                *(other, " ".join(shared)),
            )
        try:
            # Not before the start: the hole of a session that died goes to the start of this one.
            await self._recover_orphans()
            outcome, failure = await self._capture_until_it_ends(capture)
        except BaseException:
            recorder.finish(clock.now_ns(), "interrupted")
            raise
        reason, failures = self._verdict(outcome, failure)
        logger.info("the capture ends (%s); what waits is written and published", reason)
        session = await asyncio.to_thread(recorder.finish, clock.now_ns(), reason, _own_reasons(outcome))
        self._is_over = True
        return await asyncio.to_thread(self._result, session, reason, failures)

    async def _capture_until_it_ends(self, capture: DepthCapture) -> tuple[CaptureOutcome | None, Exception | None]:
        watches = [asyncio.create_task(watch) for watch in (self._watch_disk(), self._watch_recorder())]
        try:
            return await capture.run(), None
        except IbkrError as error:
            return None, error
        except Exception as error:
            logger.exception("the capture failed; what was captured is kept")
            return None, error
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _watch_disk(self) -> None:
        guard = self._job.free_space()
        while True:
            try:
                await asyncio.to_thread(guard.check)
            except StorageGuardHit as hit:
                self._stop.ask(f"storage: {hit}")
            except StoreError as error:
                logger.warning("the free space is not known: %s", error)
            await asyncio.sleep(DISK_EVERY_S)

    async def _watch_recorder(self) -> None:
        while self._recorder is not None:
            if self._recorder.failed is not None:
                self._stop.ask(f"journal: {self._recorder.failed}")
            await asyncio.sleep(_RECORDER_EVERY_S)

    def _on_connected(self, info: GatewayInfo) -> None:
        paper = self._job.settings.ib_paper_trading
        if info.accounts_are_paper is not None and info.accounts_are_paper != paper:
            logger.warning(
                "the gateway's accounts are %s ones, the stats will say %s as configured (IB_PAPER_TRADING, --paper)",
                *(("paper", "live") if info.accounts_are_paper else ("live", "paper")),
            )
        if info.is_sandbox and not self._told_of_sandbox and self._spec is not None:
            self._told_of_sandbox = True
            # Whoever publishes the segments reads it there; it is small, and no message has come yet.
            folder = CaptureFolder(self._job.root, self._spec.session_id)
            document = folder.spec() | {"producer": producer(sandbox=True)}
            write_json_atomic(folder.path / "session.json", document)

    def _verdict(self, outcome: CaptureOutcome | None, failure: Exception | None) -> tuple[str, list[str]]:
        """Why it ended, for the stats, and what failed."""
        reason = self._stop.reason
        if failure is not None:
            word = "unreachable" if isinstance(failure, GatewayUnreachable) else type(failure).__name__.lower()
            return reason or f"{word}: {failure}", [str(failure) or type(failure).__name__]
        failures = list(outcome.refusals.values()) if outcome else []
        if reason is not None:
            # A wish is one word; trouble says more.
            return reason, [reason, *failures] if ":" in reason else failures
        if outcome is not None and outcome.gateway is None:
            return "unreachable: there was no connection to the gateway", ["there was no connection to the gateway"]
        return "duration" if self._job.window is None else "window", failures

    def _result(self, session: SessionResult, reason: str, failures: list[str]) -> RecordResult:
        root = self._job.root
        stats = [root.path / found.stats_path for found in session.symbols.values() if found.stats_path]
        mirror([*stats, root.gaps], root.path, self._job.settings.ml_backup_path)
        rows = tuple(
            SymbolRecord(
                symbol=symbol,
                messages=found.messages,
                snapshots=found.snapshots,
                gaps=found.gaps,
                segments=found.segments,
                end=found.end_reason.partition(":")[0].lower(),
                files=found.files,
            )
            for symbol, found in session.symbols.items()
        )
        # What ended the session is often a problem of the recorder too.
        more = [problem for problem in session.problems if not any(problem in failure for failure in failures)]
        return RecordResult(session.session_id, reason, rows, (*failures, *more))

    def _state_of(self, state: str) -> str:
        return "ended" if self._is_over and state not in ("refused", "queued") else state

    def status(self) -> CaptureStatus:
        """How it stands."""
        spec, recorder, capture, now_ns = self._spec, self._recorder, self._capture, time.time_ns()
        progress = _progress(recorder) if recorder is not None else None
        states = capture.states() if capture is not None else {}
        shown = progress.symbols if progress is not None else {}
        start_ns = spec.start_ns if spec else self._job.start_ns or now_ns
        end_ns = spec.planned_end_ns if spec else self._job.end_ns(start_ns)
        return CaptureStatus(
            symbols=tuple(
                _symbol_status(
                    symbol, self._state_of(states.get(symbol, "waiting")), shown.get(symbol, SymbolProgress())
                )
                for symbol in self._job.symbols
            ),
            waiting=spec is None,
            queue=progress.queued if progress else 0,
            lag_ms=progress.lag_ms if progress else 0.0,
            elapsed_s=max(0.0, (min(now_ns, end_ns) - start_ns) / _NS),
            left_s=max(0.0, (end_ns - now_ns) / _NS),
            reconnects=capture.reconnects if capture is not None else 0,
        )


def _own_reasons(outcome: CaptureOutcome | None) -> dict[str, str]:
    """Why symbols ended for which there is more to say than why the session did."""
    if outcome is None:
        return {}
    queued = [symbol for symbol, state in outcome.states.items() if state == "queued"]
    return dict.fromkeys(queued, "queued: no depth line was free") | {
        symbol: f"refused: {why}" for symbol, why in outcome.refusals.items()
    }


def _spec(job: RecordJob, now_ns: int) -> SessionSpec:
    settings = job.settings
    return SessionSpec(
        session_id=uuid.uuid4().hex[:12],
        symbols=job.symbols,
        levels=job.levels,
        interval_ms=job.interval_ms,
        start_ns=now_ns,
        planned_end_ns=job.end_ns(now_ns),
        paper_mode=settings.ib_paper_trading,
        producer=producer(sandbox=job.sandbox),
        exchange=job.exchange,
        rotate_minutes=settings.l2_rotate_minutes,
        flush_s=settings.l2_flush_seconds,
        queue_messages=settings.l2_queue_messages,
    )


def _progress(recorder: Recorder) -> RecorderProgress | None:
    # Its counters grow in another thread; a look at the wrong moment fails, and is tried again next time.
    with suppress(RuntimeError):
        return recorder.progress()
    return None


def _symbol_status(symbol: str, state: str, found: SymbolProgress) -> SymbolStatus:
    return SymbolStatus(
        symbol=symbol,
        state=state,
        messages=found.messages,
        bid=found.top.bid_price if found.top.bid_size else None,
        ask=found.top.ask_price if found.top.ask_size else None,
        gap=found.open_gap,
        segments=found.segments,
    )


def _wall_clock(ns: int) -> str:
    return f"{dt.datetime.fromtimestamp(ns // _NS, tz=ET):%H:%M:%S} ET"

"""A whole download of bars, without Prefect: a job in, files and ledger lines on the data root, one result out.

One event loop asks and waits; everything that touches the disk is done in threads. Small bars and others go in lanes of
their own, so that what waits for the pacing budget holds up nothing else. Whatever ends the run, what was complete is
published and the coverage is brought up to date when `download` returns.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from connectors.ibkr.bar_requests import BAR_SECONDS, SMALL_BAR_S
from connectors.ibkr.bars import BarsSession
from connectors.ibkr.errors import (
    BadAnswer,
    BarsError,
    BarsTimeout,
    BarsUnavailable,
    IbkrError,
    InstrumentRefused,
    InstrumentUnknown,
    InvalidRequest,
    LibraryMissing,
)
from connectors.store.bars import claim, repair
from connectors.store.errors import StorageGuardHit, StoreBusy, StoreError
from flows.bars_lanes import GroupBusy, Lane
from flows.bars_pieces import Group, parts_of, reason_of
from flows.bars_plan import replan
from flows.bars_prepare import address_of_job, estimated_s, pacer_of, planned, preview_job, refreshed, shelf_of
from flows.bars_publish import FORGOTTEN, BarsDisk, list_again, remember
from flows.bars_result import days_text
from flows.bars_tally import Tally
from flows.bars_watch import keep_coverage, tell_gateway
from flows.errors import ConfigurationError
from flows.gateway import gateway_of
from flows.stopping import Stop, stop_on_signals

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Sequence

    from connectors.ibkr.bar_requests import BarsRequest
    from connectors.ibkr.bars import BarsAnswer
    from connectors.ibkr.pacing import Pacer
    from contracts.layout import BarSize
    from flows.bars_job import BarsJob
    from flows.bars_pieces import Piece
    from flows.bars_plan import BarsPlan, GroupPlan
    from flows.bars_progress import Watcher
    from flows.bars_result import BarsResult

__all__ = ["SILENT_REQUESTS", "download", "preview_job"]

logger = logging.getLogger(__name__)

SILENT_REQUESTS: Final = 12
"""So many requests in a row that were not answered in spite of all attempts end a run: the next one would not be."""

_Key = tuple[str, "BarSize"]


def download(
    job: BarsJob,
    *,
    stop: Stop | None = None,
    progress: Watcher | None = None,
    pacer: Pacer | None = None,
    now_ns: Callable[[], int] = time.time_ns,
) -> BarsResult:
    """Download what is missing, publish it day by day, and bring the coverage up to date.

    In the main thread SIGINT and SIGTERM ask for an end; elsewhere only `stop` does. Nothing is connected when nothing
    is missing.

    Args:
        job: what to bring.
        stop: asked from other threads.
        progress: told of every day.
        pacer: in place of that of the job.
        now_ns: the time, nanoseconds since 1970 UTC.

    Returns:
        The result, also when the run ended early or failed.

    Raises:
        ConfigurationError: nothing was downloaded: the client library, the gateway's address or the disk cannot be
            used.
    """
    return asyncio.run(_Run(job, stop or Stop(), progress, pacer, now_ns).run())


class _Run:
    """One run, in its event loop."""

    def __init__(
        self, job: BarsJob, stop: Stop, progress: Watcher | None, pacer: Pacer | None, now_ns: Callable[[], int]
    ) -> None:
        self._job = job
        self._stop = stop
        self._progress = progress
        self._pacer = pacer
        self._now_ns = now_ns
        self._run_id = uuid.uuid4().hex[:12]
        self._groups: dict[_Key, Group] = {}
        self._halted: str | None = None
        self._failures: list[str] = []
        self._silent = 0
        self._unknown: dict[str, str] = {}
        self._told_busy: set[_Key] = set()
        self._requests = 0
        self._answers_kept = 0
        self._waited_s = 0.0

    async def run(self) -> BarsResult:
        began = time.perf_counter()
        self._stopping = self._stop.bind()
        with stop_on_signals(self._stop, what="the download", kept="what is complete is published"):
            try:
                plan = await asyncio.to_thread(self._prepare)
            except StoreError as error:
                raise ConfigurationError(f"nothing was downloaded: {error}") from error
            try:
                await self._list_again(plan)
                if plan.to_fetch and not self._stopping.is_set():
                    await self._download(plan)
            finally:
                coverage = await asyncio.to_thread(self._refresh)
        result = self._tally.result(
            why=self._halted or self._stop.reason,
            failures=tuple(self._failures),
            requests=self._requests,
            answers_kept=self._answers_kept,
            pacing_wait_s=round(self._waited_s, 3),
            coverage=coverage,
            duration_sec=round(time.perf_counter() - began, 3),
            concurrency=self._job.workers,
            strict=self._job.strict,
        )
        if result.stopped:
            logger.warning("the download stopped early (%s), %d days remain", result.stopped, result.remaining)
        return result

    # --- before and after ------------------------------------------------------------------------------------------

    def _prepare(self) -> BarsPlan:
        for path in repair(self._job.root):
            logger.warning("%s: its writer died before the ledger line; it was written", path)
        plan = planned(self._job, now_ns=self._now_ns())
        remember(self._job.root, plan)
        self._tally = Tally(plan, self._progress)
        if plan.to_fetch:
            self._check_room(plan)
        return plan

    def _check_room(self, plan: BarsPlan) -> None:
        try:
            self._job.free_space().check()
        except StorageGuardHit as guard:
            raise ConfigurationError(f"{guard} Nothing was downloaded; {plan.pieces} days remain.") from guard

    async def _list_again(self, plan: BarsPlan) -> None:
        """Bring ledger lines that are missing; those of the groups to download come with their claims."""
        for group in plan.groups:
            if group.unlisted and not group.windows and not self._stopping.is_set():
                try:
                    await self._open(group)
                except GroupBusy:
                    continue
                except StoreError as error:
                    self._halt(str(error), is_failure=True)

    def _refresh(self) -> dict[str, Any] | None:
        try:
            return refreshed(self._job)
        except StoreError as error:
            self._failures.append(f"the coverage is not up to date: {error}")
            return None

    # --- the gateway -----------------------------------------------------------------------------------------------

    async def _download(self, plan: BarsPlan) -> None:
        settings = self._job.settings
        address_of_job(self._job)
        async with AsyncExitStack() as held:
            address = await held.enter_async_context(gateway_of(settings, sandbox=self._job.sandbox))
            pacer = self._pacer or pacer_of(self._job, address)
            if self._progress is not None:
                self._progress.begin(plan.pieces, plan.requests, estimated_s(plan, pacer))
            shelf = shelf_of(self._job, address)
            await asyncio.to_thread(shelf.sweep)
            self._disk = BarsDisk(self._job, shelf, self._now_ns)
            try:
                self._session = await held.enter_async_context(
                    BarsSession(
                        address,
                        pacer,
                        library=settings.ib_library,
                        timeout_s=settings.bars_timeout_s,
                        attempts=settings.retry_attempts + 1,
                        on_connected=partial(tell_gateway, self._job),
                        now_ns=self._now_ns,
                    )
                )
            except (LibraryMissing, InvalidRequest) as error:
                raise ConfigurationError(f"nothing was downloaded: {error}") from error
            try:
                await self._work(plan)
            finally:
                self._requests = self._session.requests_sent
                self._waited_s = self._session.pacing_wait_s
                for group in list(self._groups.values()):
                    await self._close(group)

    async def _work(self, plan: BarsPlan) -> None:
        small = [group for group in plan.to_fetch if BAR_SECONDS[group.bar_size] <= SMALL_BAR_S]
        others = [group for group in plan.to_fetch if BAR_SECONDS[group.bar_size] > SMALL_BAR_S]
        coverage = keep_coverage(self._job, lambda: self._tally.files)
        besides = [asyncio.create_task(each) for each in (self._cancel_when_stopping(), coverage)]
        try:
            async with asyncio.TaskGroup() as workers:
                for plans in (small, others):
                    if plans:
                        lane = Lane(plans, self._job.workers, self._open, self._close, self._stopping)
                        for _ in range(self._job.workers):
                            workers.create_task(self._worker(lane))
        finally:
            for each in besides:
                each.cancel()
            await asyncio.wait(besides)

    async def _cancel_when_stopping(self) -> None:
        await self._stopping.wait()
        for group in self._groups.values():
            for fetch in group.fetches:
                fetch.cancel()

    async def _worker(self, lane: Lane) -> None:
        while (found := await self._next(lane)) is not None:
            group, request = found
            try:
                await self._bring(group, request)
            finally:
                group.open -= 1
            if not group.open and group.is_done:
                await self._close(group)

    async def _next(self, lane: Lane) -> tuple[Group, BarsRequest] | None:
        try:
            return await lane.next()
        except StoreError as error:
            self._halt(str(error), is_failure=True)
            return None

    # --- a group ---------------------------------------------------------------------------------------------------

    async def _open(self, plan: GroupPlan) -> Group | None:
        """Claim a group and look again at what it needs, for another batch may have brought it meanwhile.

        Raises:
            GroupBusy: another batch works on it.
            StoreError: the disk refuses.
        """
        key = plan.symbol, plan.bar_size
        try:
            group = await asyncio.to_thread(self._claim, plan)
        except StoreBusy as error:
            if key not in self._told_busy:
                self._told_busy.add(key)
                logger.info("%s %s is left to the end: %s", *key, error.holder)
            raise GroupBusy from error
        self._tally.opened(group)
        if group.symbol in self._unknown:
            await self._give_up(group, None, self._unknown[group.symbol])
        self._groups[key] = group
        if group.is_done:
            await self._close(group)
            return None
        return group

    def _claim(self, plan: GroupPlan) -> Group:
        root, scope = self._job.root, self._job.scope
        held = ExitStack()
        try:
            held.enter_context(claim(root, plan.bar_size, plan.symbol, run_id=self._run_id))
            found = replan(root, scope, plan.symbol, plan.bar_size, now_ns=self._now_ns(), planned=plan)
            list_again(root, found, is_stopping=self._stopping.is_set)
            return Group(found, scope, held.close)
        except BaseException:
            held.close()
            raise

    async def _close(self, group: Group) -> None:
        """Give a group's claim back; what it left stays in mind."""
        if self._groups.pop((group.symbol, group.bar_size), None) is not None:
            self._tally.closed(group)
            await asyncio.to_thread(group.release)

    # --- a request -------------------------------------------------------------------------------------------------

    async def _bring(self, group: Group, request: BarsRequest) -> None:
        gateway = self._session.gateway
        is_sandbox = None if gateway is None else gateway.is_sandbox
        kept, rest = await asyncio.to_thread(self._disk.shelved, group, request, is_sandbox=is_sandbox)
        self._answers_kept += len(kept)
        await self._publish(group, group.add(kept))
        todo = deque([request] if len(rest) == len(request.windows) else group.requests(rest))
        while todo and not self._stopping.is_set():
            part_of_it = todo.popleft()
            if not group.needs(part_of_it.days):
                continue
            if group.forgotten(part_of_it.days, self._now_ns()):
                await self._give_up(group, part_of_it.days, FORGOTTEN)
                continue
            answer = await self._ask(group, part_of_it, todo)
            if answer is None:
                continue
            invented = self._session.gateway is not None and self._session.gateway.is_sandbox
            parts = parts_of(group, answer, is_sandbox=invented)
            await asyncio.to_thread(self._disk.shelve, parts)
            await self._publish(group, group.add(parts))

    async def _ask(self, group: Group, request: BarsRequest, todo: deque[BarsRequest]) -> BarsAnswer | None:
        """The answer to a request; None when there is none, and then what follows from it is done, or is in `todo`."""
        try:
            answer = await self._fetch(group, request)
        except InstrumentRefused as error:
            text = reason_of(error, request)
            if isinstance(error, InstrumentUnknown):
                self._unknown[group.symbol] = text
                for other in [each for each in self._groups.values() if each.symbol == group.symbol]:
                    await self._give_up(other, None, text)
            else:
                await self._give_up(group, None, text)
        except BarsError as error:
            if isinstance(error, BadAnswer) and len(request.windows) > 1:
                # One impossible bar must not cost the days beside it.
                todo.extend(each for window in request.windows for each in group.requests([window]))
                return None
            await self._give_up(group, request.days, reason_of(error, request))
            if isinstance(error, BarsTimeout | BarsUnavailable):
                self._silent += 1
                if self._silent >= SILENT_REQUESTS:
                    self._halt(f"the gateway did not answer {self._silent} requests in a row", is_failure=True)
        except IbkrError as error:
            self._halt(str(error), is_failure=True)
        else:
            self._silent = 0
            return answer
        return None

    async def _fetch(self, group: Group, request: BarsRequest) -> BarsAnswer | None:
        """The answer; None when the request was taken back."""
        fetch = asyncio.create_task(self._session.fetch(request))
        group.fetches.add(fetch)
        try:
            await asyncio.wait({fetch})
        finally:
            group.fetches.discard(fetch)
            fetch.cancel()
        return None if fetch.cancelled() else fetch.result()

    async def _give_up(self, group: Group, days: Sequence[dt.date] | None, text: str) -> None:
        """End days of a group, or all, with an ERROR, and take back what is asked for them."""
        gone = group.give_up(days)
        if days is None:
            for fetch in group.fetches:
                fetch.cancel()
        if gone:
            logger.warning("%s %s: %s", group.label, days_text(gone), text)
            for outcome in await asyncio.to_thread(self._disk.fail, group, gone, text):
                self._tally.count(outcome)

    async def _publish(self, group: Group, pieces: Sequence[Piece]) -> None:
        if not pieces:
            return
        published = await asyncio.to_thread(self._disk.publish, group, pieces)
        for outcome in published.outcomes:
            self._tally.count(outcome)
        if published.trouble is not None:
            self._halt(str(published.trouble), is_failure=not isinstance(published.trouble, StorageGuardHit))

    def _halt(self, text: str, *, is_failure: bool) -> None:
        """End the run, once, because it cannot go on."""
        if self._halted is None:
            self._halted = text
            if is_failure:
                self._failures.append(text)
        self._stopping.set()

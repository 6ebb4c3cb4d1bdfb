"""What a download of bars keeps an eye on besides its requests: that the coverage follows, and which gateway it is."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from connectors.store.errors import StoreError
from flows.bars_prepare import refreshed

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.ibkr.session import GatewayInfo
    from flows.bars_job import BarsJob

logger = logging.getLogger(__name__)

COVERAGE_EVERY_S: Final = 60.0


async def keep_coverage(job: BarsJob, files: Callable[[], int]) -> None:
    """Let the coverage follow the files till cancelled: readers refuse a day with rows it does not know.

    When it is cancelled, it ends after the refresh that is under way.

    Args:
        job: the download.
        files: how many were written so far.
    """
    known = 0
    while True:
        await asyncio.sleep(COVERAGE_EVERY_S)
        if (written := files()) <= known:
            continue
        known = written
        work = asyncio.create_task(asyncio.to_thread(refreshed, job))
        try:
            with suppress(StoreError):
                # At the end of the run it is tried again, and then it counts.
                await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work})
            raise


def tell_gateway(job: BarsJob, info: GatewayInfo) -> None:
    """Warn when the gateway is not the one that a person believes it to be."""
    paper = job.settings.ib_paper_trading
    if info.accounts_are_paper is not None and info.accounts_are_paper != paper:
        logger.warning(
            "the gateway's accounts are %s ones, configured is the other (IB_PAPER_TRADING)",
            "paper" if info.accounts_are_paper else "live",
        )
    if info.is_sandbox and not job.sandbox:
        logger.warning("the gateway is this project's sandbox: the bars are invented, and their files say so")

"""What a download of bars does before it connects and after it has ended: plan, time that pacing needs, coverage."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from connectors.ibkr.bar_requests import BAR_SECONDS
from connectors.ibkr.errors import InvalidRequest
from connectors.ibkr.pacing import PacedRequest
from connectors.store.bars_shelf import AnswerShelf
from connectors.store.coverage import refresh
from connectors.store.errors import StoreError, store_errors
from contracts.coverage import build_coverage, is_current, load_coverage
from contracts.errors import InvalidDocument
from flows.bars_plan import make_plan, preview
from flows.bars_progress import tell_plan
from flows.errors import ConfigurationError
from flows.gateway import address_of
from flows.limits import bars_pacer

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.ibkr.pacing import Pacer
    from connectors.ibkr.session import GatewayAddress
    from contracts.coverage import CoverageIndex
    from contracts.layout import DataRoot
    from flows.bars_job import BarsJob
    from flows.bars_plan import BarsPlan

EXCHANGE: Final = "SMART"
_NO_FILE_NAME: Final = re.compile(r"[^A-Za-z0-9.]+")


def planned(job: BarsJob, *, now_ns: int) -> BarsPlan:
    """Bring the coverage up to date, find out what is missing, and say so where it is not plain.

    Raises:
        StoreError: the disk refuses.
    """
    try:
        plan = make_plan(job.root, job.scope, now_ns=now_ns, coverage=_coverage(job.root))
    except InvalidDocument:
        # Somebody else wrote into the coverage file; the ledger knows it all.
        plan = make_plan(job.root, job.scope, now_ns=now_ns, coverage=_coverage(job.root, full=True))
    tell_plan(job.root, plan, sandbox=job.sandbox)
    return plan


def preview_job(
    job: BarsJob, *, pacer: Pacer | None = None, now_ns: Callable[[], int] = time.time_ns
) -> dict[str, Any]:
    """What a download would do, as a JSON document; connects to nothing and writes nothing below root and cache.

    Args:
        job: the download.
        pacer: in place of that of the job.
        now_ns: the time, nanoseconds since 1970 UTC.

    Raises:
        ConfigurationError: the gateway's address or the data root cannot be used.
    """
    address = address_of_job(job)
    try:
        plan = make_plan(job.root, job.scope, now_ns=now_ns(), coverage=_coverage_read(job.root))
    except StoreError as error:
        raise ConfigurationError(str(error)) from error
    return {
        "data_root": str(job.root.path),
        "gateway": "sandbox" if job.sandbox else str(address),
        **preview(plan, estimated_s(plan, pacer or pacer_of(job, address))),
    }


def refreshed(job: BarsJob) -> dict[str, Any] | None:
    """Bring the coverage up to date, and the mirror of it and of the ledger.

    Returns:
        What it came to, for the result; None when there is no ledger yet.

    Raises:
        StoreError: the disk refuses.
    """
    if not job.root.bars_manifest.is_file():
        return None
    result = refresh(job.root, backup=job.settings.ml_backup_path)
    report = result.report
    return {
        "wrote": str(result.path),
        "changed": result.written,
        "entry_count": report.entries,
        "days": report.days,
        "lines": report.lines,
        "skipped": report.lines - report.taken,
    }


def address_of_job(job: BarsJob) -> GatewayAddress:
    """The gateway that the settings name.

    Raises:
        ConfigurationError: it cannot be.
    """
    try:
        return address_of(job.settings)
    except InvalidRequest as error:
        raise ConfigurationError(str(error)) from error


def pacer_of(job: BarsJob, address: GatewayAddress) -> Pacer:
    """The pacer of a download; a sandbox gateway of its own has counted nothing yet."""
    cache = None if job.sandbox else job.settings.cache_path
    return bars_pacer(cache, str(address), all_sizes=job.settings.bars_pace_all_sizes)


def shelf_of(job: BarsJob, address: GatewayAddress) -> AnswerShelf:
    """Where answers wait until their day is published; a sandbox gateway of its own leaves none."""
    if job.sandbox:
        return AnswerShelf(None)
    return AnswerShelf(job.settings.cache_path / "bars" / _NO_FILE_NAME.sub("-", str(address)))


def estimated_s(plan: BarsPlan, pacer: Pacer) -> float:
    """How long the pacing rules need for the requests of a plan, from what is used now."""
    what = plan.scope.what_to_show
    return pacer.estimate_s(
        {
            PacedRequest(group.symbol, EXCHANGE, what, BAR_SECONDS[group.bar_size], ""): group.requests
            for group in plan.to_fetch
        }
    )


def _coverage(root: DataRoot, *, full: bool = False) -> CoverageIndex | None:
    if not root.bars_manifest.is_file():
        return None
    with store_errors("derive", root.bars_coverage):
        build_coverage(root, full=full)
        return load_coverage(root.bars_coverage)


def _coverage_read(root: DataRoot) -> CoverageIndex | None:
    """The coverage as it would be, without writing it."""
    if not root.bars_manifest.is_file():
        return None
    with store_errors("read", root.bars_coverage):
        if is_current(root):
            try:
                return load_coverage(root.bars_coverage)
            except InvalidDocument:
                pass
        with tempfile.TemporaryDirectory(prefix="bars-coverage-") as folder:
            out = Path(folder) / root.bars_coverage.name
            build_coverage(root, out=out)
            return load_coverage(out)

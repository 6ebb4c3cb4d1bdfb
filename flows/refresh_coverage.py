"""The flow `refresh-coverage`: the bars coverage of the data root, brought up to date with its ledger.

It reads only what the ledger has more than last time, so that it may run as often as one likes. The work is in
`connectors.store.coverage`, which runs and is tested without Prefect.
"""

# No `from __future__ import annotations`: `serve()` loads this file under a name at which pydantic cannot find the
# types of the parameters again.
import logging
import time
from typing import Any, Final

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from connectors.store.coverage import refresh
from contracts.errors import NotAvailable
from contracts.sessions import today_et
from flows import events
from flows.coverage_rows import coverage_rows
from flows.coverage_source import no_ledger
from flows.pages import Page, plain
from flows.prefect_api import wait_for_api
from flows.run_log import show_own_lines
from flows.settings import Settings, load_settings

logger = logging.getLogger(__name__)

_MOST_ROWS: Final = 1_000


def _run_name() -> str:
    """What is refreshed, and the ET day."""
    return f"bars coverage {today_et()}"


@flow(name="refresh-coverage", flow_run_name=_run_name, validate_parameters=True, log_prints=False)
def refresh_coverage() -> dict[str, Any] | State[Any]:
    """Derive the bars coverage of the data root from its download ledger, and mirror both.

    Returns:
        `wrote` (the coverage file), `entry_count`, and of the ledger `lines`, `new_lines`, `days`, `skipped` by reason;
        `changed` says whether the file was replaced, `mode` whether only new lines were read.

    Raises:
        ConfigurationError: there is no ledger, or a setting cannot be used.
        StoreError: the disk refuses.
    """
    settings = load_settings()
    root = settings.data_root
    show_own_lines(settings.log_level)
    try:
        result = refresh(root, backup=settings.ml_backup_path)
    except NotAvailable:
        raise no_ledger(root.bars_manifest) from None
    report = result.report
    document = {
        "wrote": str(result.path),
        "changed": result.written,
        "entry_count": report.entries,
        "days": report.days,
        "lines": report.lines,
        "new_lines": report.new_lines,
        "skipped": dict(sorted(report.skipped.items())),
        "mode": report.mode,
    }
    message = f"{report.entries} entries, {report.days} days of {report.lines} lines; {report.new_lines} lines were new"
    logger.info("coverage: %s", message)
    events.coverage_refreshed(document, root=root)
    # What a run reports while the API is away is lost.
    wait_for_api()
    _show(settings, document, message)
    events.drain()
    return Completed(message=message, data=document)


def _show(settings: Settings, document: dict[str, Any], message: str) -> None:
    """Show the coverage on the page of the run."""
    page = Page("refresh-coverage", "bars")
    rows, count = coverage_rows(settings, now_ns=time.time_ns(), most=_MOST_ROWS)
    if rows:
        text = f"Coverage of {count} series, each until its last day with bars"
        page.table("coverage", rows, text if count <= len(rows) else f"{text}; the first {len(rows)}")
    lines = [plain(message), ""]
    if document["skipped"]:
        lines += ["**Lines that do not count**", ""]
        lines += [f"- {plain(reason)}: {number}" for reason, number in document["skipped"].items()]
    root = settings.data_root
    lines += [
        "",
        *(f"- [{plain(path.name)}](<{path.absolute().as_uri()}>)" for path in (root.bars_coverage, root.bars_manifest)),
    ]
    page.markdown("summary", "\n".join(lines), "What the coverage was derived from")
    page.finish()

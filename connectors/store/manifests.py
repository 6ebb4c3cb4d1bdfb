"""The backfill's records in a data root: one manifest line per task, the run's summary, and the lock of one run.

What the lines and the summary mean is in `contracts.v1.backfill`; when they are written is decided in `flows`.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from connectors.store.atomic import append_line, make_folder, write_json_atomic
from connectors.store.locks import Holder, lock_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from contracts.layout import DataRoot
    from contracts.v1.backfill import BackfillManifestLine, BackfillSummary

_log = logging.getLogger(__name__)

RUN_LOCK_NAME: Final = ".trading-data.lock"


def append_backfill_line(root: DataRoot, line: BackfillManifestLine) -> None:
    """Append one line to the backfill manifest; it is on the disk when this returns.

    Raises:
        StoreError: The disk refuses; the manifest has its earlier lines.
    """
    append_line(root.backfill_manifest, line.to_json_line())


def write_backfill_summary(root: DataRoot, summary: BackfillSummary) -> None:
    """Replace the summary of the last run.

    Raises:
        StoreError: The disk refuses; the old summary stays.
    """
    write_json_atomic(root.backfill_summary, summary.to_document())


@contextmanager
def run_lock(
    root: DataRoot,
    *,
    run_id: str | None = None,
    timeout_s: float | None = None,
    on_wait: Callable[[Holder | None], None] | None = None,
    while_waiting: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Be the only run on a data root; freed by the kernel when the process dies.

    The lock file `.trading-data.lock` in the root says who holds it. The root is made if missing.

    Args:
        root: The data root.
        run_id: Who we are, for others who wait.
        timeout_s: Seconds to wait for another run; None waits until it ends, 0 does not wait.
        on_wait: Called once when there is somebody to wait for; by default that is logged.
        while_waiting: Called now and then during the wait; may raise to give up.

    Raises:
        StoreBusy: Another run held it until the time was over; says which.
        StoreError: The disk refuses.
    """
    make_folder(root.path)
    path = root.path / RUN_LOCK_NAME
    with lock_file(
        path, run_id=run_id, timeout_s=timeout_s, on_wait=on_wait or _log_wait(path), while_waiting=while_waiting
    ):
        yield


def _log_wait(path: Path) -> Callable[[Holder | None], None]:
    def log(holder: Holder | None) -> None:
        _log.warning("waiting: one run at a time writes to %s, and %s does", path.parent, holder or "another process")

    return log

"""One (symbol, day) of vendor data on disk, verified, from the raw cache or bought.

The steps: the shelf of kept files, then the plan, then attempts to download and verify until one is whole or none can
be. Where kept files lie is the caller's (`RawShelf`); connectors do not import each other.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from connectors.databento.decode import verify
from connectors.databento.errors import VendorError, VerificationFailed
from connectors.databento.request import RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from connectors.databento.client import DatabentoClient
    from connectors.databento.plan import DayPlan, VendorPlan
    from connectors.databento.request import DayRequest
    from connectors.databento.spend import SpendCeiling

logger = logging.getLogger(__name__)

SLOWEST_BYTES_PER_S = 1_000_000
"""Uncompressed bytes per second below which a download is given up: 5 Mbit/s of compressed stream is far above it."""

DEADLINE_FLOOR_S = 120.0


@dataclass(frozen=True)
class RawDay:
    """A verified vendor file.

    Attributes:
        request: what it answers; the file may cover more.
        path: the DBN file, None when the vendor truly has no records.
        records: records in the file.
        cost_usd: what this run paid for it, US dollars, attempts included; 0.0 for a kept file, None when unknown.
        condition: the vendor's word on the day when it was bought; None when it did not say.
        reused: whether it was kept from an earlier run.
    """

    request: DayRequest
    path: Path | None
    records: int
    cost_usd: float | None
    condition: str | None
    reused: bool


class RawShelf(Protocol):
    """Where vendor files are kept."""

    def find(self, request: DayRequest) -> RawDay | None:
        """A kept file that covers the request."""

    def claim(self, request: DayRequest, while_waiting: Callable[[], None]) -> AbstractContextManager[None]:
        """Be the only one to bring this file; `while_waiting` is called now and then and may raise."""

    def new_path(self, request: DayRequest) -> Path:
        """A path for a download that does not exist yet."""

    def keep(self, request: DayRequest, download: Path, plan: DayPlan, paid_usd: float | None) -> RawDay:
        """Take a verified download over."""


def fetch_day(
    client: DatabentoClient,
    plan: VendorPlan,
    request: DayRequest,
    *,
    shelf: RawShelf,
    ceiling: SpendCeiling,
    max_records: int = 0,
    deadline_s: float = 0.0,
) -> RawDay:
    """Bring one (symbol, day) to disk.

    Args:
        client: the vendor.
        plan: the run's look-ups.
        request: what is wanted.
        shelf: kept files; a hit makes no call at all.
        ceiling: what the run may spend.
        max_records: cap on the records of one day, 0 for none.
        deadline_s: wall-clock limit of one attempt in seconds; 0 derives it from the record count.

    Raises:
        VendorError: of the kind the error table gives; after the last retry of a retryable one.
        OSError: the disk failed.
    """
    # Two runs that want the same day at once must not both pay for it.
    with shelf.claim(request, client.circuit.check_stopping):
        if (kept := shelf.find(request)) is not None:
            logger.debug("%s: using the kept vendor file %s", request.label, kept.path)
            return kept
        return _bought(client, plan, request, shelf, ceiling, max_records, deadline_s)


def _bought(
    client: DatabentoClient,
    plan: VendorPlan,
    request: DayRequest,
    shelf: RawShelf,
    ceiling: SpendCeiling,
    max_records: int,
    deadline_s: float,
) -> RawDay:
    day = plan.day(request, max_records=max_records)
    paid_usd: float | None = 0.0
    retry = 0
    while True:
        path = shelf.new_path(request)
        with _having_paid(paid_usd):
            reservation = ceiling.reserve(request.label, day.cost_usd)
        failure: Exception | None = None
        try:
            client.download(
                request,
                path,
                deadline_s=deadline_s or deadline_for(request, day.records),
                on_accepted=reservation.bill,
            )
            verify(path, request, expected_records=day.records)
        except Exception as error:  # noqa: BLE001 - sorted below, after the attempt is paid for
            failure = error
        finally:
            attempt_usd = reservation.close()
            paid_usd = None if paid_usd is None or day.cost_usd is None else paid_usd + attempt_usd
        if failure is None and day.records:
            return _kept(shelf, request, path, day, paid_usd)
        path.unlink(missing_ok=True)
        if failure is None:
            return RawDay(request, None, 0, paid_usd, day.condition, reused=False)
        retry += 1
        with _having_paid(paid_usd):
            client.pause_or_raise(failure, retry)
            if isinstance(failure, VerificationFailed) and failure.reason == "record_count":
                # The vendor may just be publishing the day: ask again how much there is.
                day = plan.day(request, max_records=max_records)


@contextmanager
def _having_paid(paid_usd: float | None) -> Iterator[None]:
    """Whatever ends the day between two attempts, a ceiling or a look-up too, knows what the attempts cost."""
    try:
        yield
    except VendorError as error:
        error.paid_usd = paid_usd
        raise


def _kept(shelf: RawShelf, request: DayRequest, path: Path, day: DayPlan, paid_usd: float | None) -> RawDay:
    try:
        return shelf.keep(request, path, day, paid_usd)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def deadline_for(request: DayRequest, records: int) -> float:
    """Longest time a download of so many records may take, in seconds."""
    return DEADLINE_FLOOR_S + records * RECORD_BYTES[request.schema] / SLOWEST_BYTES_PER_S

"""What the vendor says before anything is bought: is the day there, how good, how many records, what does it cost.

Look-ups that concern a whole dataset are asked once per run. A look-up that only informs (range, condition, cost) may
fail without failing the task; the record count may not, for without it a short download could not be told from a whole
one.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from connectors.databento.errors import CircuitOpen, NotYetAvailable, TerminalError, UnresolvedSymbol, VendorError

if TYPE_CHECKING:
    from connectors.databento.client import DatabentoClient
    from connectors.databento.request import DayRequest

logger = logging.getLogger(__name__)

_WORST_FIRST = ("pending", "missing", "degraded", "available")


@dataclass(frozen=True)
class DayPlan:
    """What a download will bring.

    Attributes:
        records: records the vendor counts.
        cost_usd: price in US dollars, None when the vendor did not answer.
        condition: `available`, `degraded`, `pending` or `missing`; None when the vendor did not answer.
    """

    records: int
    cost_usd: float | None
    condition: str | None


class VendorPlan:
    """The look-ups of one run.

    Args:
        client: the vendor.
        first: first UTC day of the run, for one condition look-up over all its days.
        last: last UTC day of the run.
    """

    def __init__(self, client: DatabentoClient, first: dt.date, last: dt.date) -> None:
        self._client = client
        self._first = first
        self._last = last
        self._lock = threading.Lock()
        self._ranges: dict[str, dict[str, Any]] = {}
        self._conditions: dict[str, dict[dt.date, str]] = {}

    def day(self, request: DayRequest, *, max_records: int = 0) -> DayPlan:
        """Look one (symbol, day) up.

        Args:
            request: the day.
            max_records: most records a task may bring; 0 for no cap.

        Raises:
            NotYetAvailable: the window ends after what the vendor offers, or the day is still pending.
            UnresolvedSymbol: the vendor has no records and does not know the symbol either.
            TerminalError: more records than `max_records`.
            VendorError: any other failure of the record count.
        """
        self._check_range(request)
        condition = self.condition(request)
        if condition == "pending":
            raise NotYetAvailable(
                f"{request.label}: {request.dataset} is still pending at the vendor [run again when it is published]",
                reason="pending",
            )
        records = self._client.record_count(request)
        if records == 0 and not self._client.resolves(request):
            raise UnresolvedSymbol(
                f"{request.label}: {request.dataset} has no instrument {request.vendor_symbol!r} "
                "[correct the symbol or add it to SYMBOL_MAPPING_FILE]",
                reason="unresolved_symbol",
            )
        if max_records and records > max_records:
            raise TerminalError(
                f"{request.label}: {records} records, more than L2_MAX_ROWS_PER_TASK={max_records} "
                "[raise it or narrow the window]",
                reason="row_cap",
            )
        return DayPlan(records, self.cost_usd(request) if records else 0.0, condition)

    def condition(self, request: DayRequest) -> str | None:
        """The worst condition of the UTC days the request touches; None when the vendor did not answer."""
        with self._lock:
            if request.dataset not in self._conditions:
                self._conditions[request.dataset] = self._asked_conditions(request.dataset)
            known = self._conditions[request.dataset]
        words = {known[day] for day in (request.first_utc_day, request.last_utc_day) if day in known}
        return next((word for word in _WORST_FIRST if word in words), None)

    def cost_usd(self, request: DayRequest) -> float | None:
        """The vendor's price for the request in US dollars, None when it did not say."""
        try:
            return self._client.cost_usd(request)
        except CircuitOpen:
            raise
        except VendorError as error:
            logger.warning("%s: the price is unknown: %s", request.label, error)
            return None

    def _asked_conditions(self, dataset: str) -> dict[dt.date, str]:
        try:
            return self._client.conditions(dataset, self._first, self._last)
        except CircuitOpen:
            raise
        except VendorError as error:
            logger.warning("%s: the condition of its days is unknown: %s", dataset, error)
            return {}

    def _check_range(self, request: DayRequest) -> None:
        with self._lock:
            if request.dataset not in self._ranges:
                self._ranges[request.dataset] = self._asked_range(request.dataset)
            found = self._ranges[request.dataset]
        start = _instant(found.get("start"))
        if start is not None and request.end <= start:
            raise TerminalError(
                f"{request.label}: {request.dataset} begins at {found['start']} [ask for a later day]",
                reason="before_dataset",
            )
        by_schema = found.get("schema")
        mine = by_schema.get(request.schema) if isinstance(by_schema, dict) else None
        end_text = (mine if isinstance(mine, dict) else found).get("end")
        end = _instant(end_text)
        if end is not None and end < request.end:
            raise NotYetAvailable(
                f"{request.label}: {request.dataset} reaches to {end_text}, the window to {request.end.isoformat()} "
                "[run again when the vendor has published the day]",
                reason="too_recent",
                available_end=str(end_text),
            )

    def _asked_range(self, dataset: str) -> dict[str, Any]:
        try:
            return self._client.dataset_range(dataset)
        except CircuitOpen:
            raise
        except VendorError as error:
            logger.warning("%s: its range is unknown: %s", dataset, error)
            return {}


def _instant(text: object) -> dt.datetime | None:
    """An instant in the vendor's spelling (nanoseconds, `Z`, or a bare UTC date); None when there is none."""
    try:
        moment = dt.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)

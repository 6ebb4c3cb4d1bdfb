"""The vendor's answers: what each endpoint says to a request that was understood, faults included.

No sockets here. An answer is a JSON value, or a stream that `_stream` sends.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from connectors.sandbox._dbn import RECORD_BYTES, DbnHeader, Interval, encode_header
from connectors.sandbox._generated import PUBLISHERS
from connectors.sandbox._market import Query, day_start_ns, ns_of, utc_day, utc_days
from connectors.sandbox._request import ApiError, Request, iso_ns
from connectors.sandbox.faults import CONDITION, CONDITION_KINDS, PRICED, RESOLVE, STREAM_KINDS, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from connectors.sandbox._market import Market

GB: Final = 2**30
LIVE_SPAN: Final = timedelta(hours=24)  # the last 24 hours need a live licence at the vendor
_MODES: Final = ("historical", "historical-streaming", "live")


@dataclass(frozen=True)
class JsonAnswer:
    """A JSON body and its status."""

    body: Any
    status: int = 200


@dataclass(frozen=True)
class StreamAnswer:
    """A DBN stream: the encoded header, `count` records in `blocks`, and the fault that spoils it, if any."""

    status: int
    headers: dict[str, str]
    dbn_header: bytes
    blocks: Iterator[NDArray[np.void]]
    count: int
    record_bytes: int
    fault: Fault | None


@dataclass(frozen=True)
class _Resolution:
    """Which symbols are known when; `partial` ones miss a day on which the dataset has data."""

    known: dict[str, list[Interval]] = field(default_factory=dict)
    partial: list[str] = field(default_factory=list)
    not_found: list[str] = field(default_factory=list)

    @property
    def status(self) -> int:
        return 206 if self.partial or self.not_found else 200


def refuse(faults: Sequence[Fault], request: Request, available_end_ns: int) -> None:
    """Raise the first of `faults` that is a refusal."""
    end = iso_ns(available_end_ns)
    for fault in faults:
        match fault.kind:
            case "unauthorized":
                raise ApiError(401, "auth_authentication_failed", "Authentication failed.")
            case "payment-required":
                raise ApiError(402, "account_insufficient_funds", "Insufficient funds; update your payment method.")
            case "licence":
                raise ApiError(
                    403,
                    "license_not_found_unauthorized",
                    f"A live data license is required to access {request.dataset} data after {end}.",
                )
            case "too-recent":
                raise too_recent(request, available_end_ns)
            case "unavailable-range":
                raise ApiError(
                    422,
                    "dataset_unavailable_range",
                    f"Part or all of your request for dataset '{request.dataset}' requires a subscription and/or "
                    f"license to access. Try again with an end time before {end}.",
                )
            case "rate-limit":
                after = f"{fault.retry_after:g}"
                raise ApiError(429, "rate_limit_exceeded", "API rate limit exceeded.", headers={"Retry-After": after})
            case "server-error":
                raise ApiError(fault.status, "internal_server_error", "The server could not process the request.")
            case _:
                pass


def too_recent(request: Request, available_end_ns: int) -> ApiError:
    """The refusal of a time range that reaches behind the available end."""
    end_ns = request.query.end_ns if request.query else available_end_ns
    return ApiError(
        422,
        "data_end_after_available_end",
        f"The dataset {request.dataset} has data available up to '{_spaced(available_end_ns)}'. The `end` in the "
        f"query ('{_spaced(end_ns)}') is after the available range. Try requesting with an earlier `end`.",
        payload={"dataset": request.dataset, "available_end": iso_ns(available_end_ns)},
    )


def _spaced(ns: int) -> str:
    return iso_ns(ns).replace("T", " ").replace("Z", "+00:00")


class VendorApi:
    """Answers requests from a market.

    Args:
        market: where the records come from.
        usd_per_gb: the price of 2^30 uncompressed bytes, for every schema.
        clock: the present moment, aware; data end 24 hours before it.
    """

    def __init__(self, market: Market, usd_per_gb: float, clock: Callable[[], datetime]) -> None:
        self.market = market
        self.usd_per_gb = usd_per_gb
        self._clock = clock

    def available_end_ns(self) -> int:
        """The instant, in ns, before which data can be had; whole minutes."""
        moment = self._clock().astimezone(UTC) - LIVE_SPAN
        return ns_of(moment.replace(second=0, microsecond=0))

    def answer(self, request: Request, faults: Sequence[Fault]) -> JsonAnswer | StreamAnswer:
        """What the vendor says.

        Raises:
            ApiError: the vendor refuses, by itself or because a fault says so.
        """
        refuse(faults, request, self.available_end_ns())
        if request.query is not None:
            return self._data(request, request.query, faults)
        if request.endpoint == RESOLVE:
            return self._resolve(request, faults)
        if request.endpoint == CONDITION:
            return JsonAnswer(self._condition(request, faults))
        return JsonAnswer(self._listing(request))

    def _listing(self, request: Request) -> Any:
        match request.endpoint.removeprefix("metadata."):
            case "list_publishers":
                return [one for one in PUBLISHERS if one["dataset"] in self.market.datasets()]
            case "list_datasets":
                return self.market.datasets()
            case "list_schemas":
                return self.market.schemas(request.dataset)
            case "list_unit_prices":
                prices = dict.fromkeys(self.market.schemas(request.dataset), self.usd_per_gb)
                return [{"mode": mode, "unit_prices": prices} for mode in _MODES]
            case _:
                return self._range(request.dataset)

    def _range(self, dataset: str) -> dict[str, Any]:
        span = {
            "start": iso_ns(day_start_ns(self.market.first_day(dataset))),
            "end": iso_ns(self.available_end_ns()),
        }
        return {**span, "schema": dict.fromkeys(self.market.schemas(dataset), span)}

    def _condition(self, request: Request, faults: Sequence[Fault]) -> list[dict[str, str | None]]:
        last = min(request.end_date or date.max, utc_day(self.available_end_ns()))
        first = max(request.start_date or date.min, self.market.first_day(request.dataset))
        if first > last:
            return []
        rows: list[dict[str, str | None]] = []
        for day in self.market.condition_days(request.dataset, first, last):
            told = (f.kind for f in faults if f.kind in CONDITION_KINDS and f.day in (None, day))
            condition = next(told, "available")
            modified = None if condition in ("missing", "pending") else (day + timedelta(days=1)).isoformat()
            rows.append({"date": day.isoformat(), "condition": condition, "last_modified_date": modified})
        return rows

    def _resolution(self, request: Request, start_ns: int, end_ns: int, faults: Sequence[Fault]) -> _Resolution:
        unknown = {f.symbol for f in faults if f.kind == "unknown-symbol"}
        result = _Resolution()
        days = utc_days(start_ns, end_ns)
        open_days = set(self.market.condition_days(request.dataset, days[0], days[-1]))
        for symbol in request.symbols:
            found = self.market.resolve(request.dataset, symbol, start_ns, end_ns)
            if not found or not unknown.isdisjoint({symbol, None}):
                result.not_found.append(symbol)
                continue
            result.known[symbol] = found
            covered = {day for day in days for i in found if i.start_date <= day < i.end_date}
            if not open_days <= covered:
                result.partial.append(symbol)
        return result

    def _resolve(self, request: Request, faults: Sequence[Fault]) -> JsonAnswer:
        first, after = request.start_date, request.end_date
        if first is None or after is None:
            raise ApiError(422, "missing_parameter", "The `start_date` parameter is required.")
        found = self._resolution(request, day_start_ns(first), day_start_ns(after), faults)
        status, message = (0, "OK") if found.status == 200 else (1, "Partially resolved")  # noqa: PLR2004 - HTTP
        if not found.known:
            status, message = 2, "Not found"
        body = {
            "result": {
                symbol: [
                    {
                        "d0": i.start_date.isoformat(),
                        "d1": i.end_date.isoformat(),
                        "s": str(i.instrument_id),
                    }
                    for i in intervals
                ]
                for symbol, intervals in found.known.items()
            },
            "symbols": list(request.symbols),
            "stype_in": "raw_symbol",
            "stype_out": "instrument_id",
            "start_date": first.isoformat(),
            "end_date": after.isoformat(),
            "partial": found.partial,
            "not_found": found.not_found,
            "message": message,
            "status": status,
        }
        return JsonAnswer(body, found.status)

    def _data(self, request: Request, query: Query, faults: Sequence[Fault]) -> JsonAnswer | StreamAnswer:
        available_end_ns = self.available_end_ns()
        if query.end_ns > available_end_ns:
            raise too_recent(request, available_end_ns)
        found = self._resolution(request, query.start_ns, query.end_ns, faults)
        if not found.known:
            raise ApiError(422, "symbology_invalid_request", "None of the symbols could be resolved")
        kinds = {fault.kind: fault for fault in faults}
        count = 0 if "zero-rows" in kinds else self.market.count(query, found.known)
        count = min(count, query.limit or count)
        record_bytes = RECORD_BYTES[query.schema]
        if request.endpoint in PRICED:
            too_many = kinds.get("count-mismatch")
            asked: dict[str, int | float] = {
                PRICED[0]: count + ((too_many.records or 1) if too_many else 0),
                PRICED[1]: count * record_bytes * self.usd_per_gb / GB,
                PRICED[2]: count * record_bytes,
            }
            return JsonAnswer(asked[request.endpoint], found.status)
        header = DbnHeader(
            dataset=query.dataset,
            schema=query.schema,
            start_ns=query.start_ns,
            end_ns=query.end_ns,
            limit=query.limit or 0,
            symbols=query.symbols,
            partial=tuple(found.partial),
            not_found=tuple(found.not_found),
            mappings={symbol: tuple(intervals) for symbol, intervals in found.known.items()},
        )
        return StreamAnswer(
            status=found.status,
            headers=self._warnings(request, faults),
            dbn_header=encode_header(header),
            blocks=self._first(count, self.market.blocks(query, found.known)),
            count=count,
            record_bytes=record_bytes,
            fault=next((fault for fault in faults if fault.kind in STREAM_KINDS), None),
        )

    @staticmethod
    def _first(count: int, blocks: Iterator[NDArray[np.void]]) -> Iterator[NDArray[np.void]]:
        left = count
        while left > 0 and (block := next(blocks, None)) is not None:
            yield block[:left]
            left -= len(block)

    @staticmethod
    def _warnings(request: Request, faults: Sequence[Fault]) -> dict[str, str]:
        days = [
            f"{day} ({fault.kind})"
            for fault in faults
            if fault.kind in CONDITION_KINDS
            for day in request.et_days()
            if fault.day in (None, day)
        ]
        if not days:
            return {}
        text = "The streaming request contained one or more days which have reduced quality: "
        return {"X-Warning": json.dumps([f"BentoWarning: {text}{', '.join(days)}."])}

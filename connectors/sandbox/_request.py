"""What a client asked, read from its form or query fields, and the vendor's way to refuse.

Field names and formats are those that databento 0.87 sends (`databento/historical/api`). The error envelope and the
cases come from the vendor's documentation and published reports; cases that no report shows are marked below.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from connectors.sandbox._generated import ET
from connectors.sandbox._market import Query, day_start_ns, ns_of
from connectors.sandbox.faults import CONDITION, GET_RANGE, PRICED, RESOLVE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.sandbox._market import Market

ALL_SYMBOLS: Final = "ALL_SYMBOLS"
_MOST_SYMBOLS: Final = 2_000
_DOCS: Final = "https://databento.com/docs/api-reference-historical/basics/errors"
_ISO: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?)?(Z|[+-]\d\d:?\d\d)?")


class ApiError(Exception):
    """A refusal: status, machine-readable case and payload of the vendor's error envelope."""

    def __init__(
        self,
        status: int,
        case: str,
        message: str,
        *,
        payload: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.case = case
        self.payload = payload
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {
            "detail": {
                "case": self.case,
                "message": str(self),
                "status_code": self.status,
                "docs": _DOCS,
                "payload": self.payload,
            }
        }


@dataclass(frozen=True)
class Request:
    """A call as understood: the query of data calls, the dates of the others."""

    endpoint: str
    params: dict[str, str] = field(default_factory=dict)
    dataset: str = ""
    symbols: tuple[str, ...] = ()
    query: Query | None = None
    start_date: date | None = None
    end_date: date | None = None

    def et_days(self) -> list[date]:
        """The dates a fault's `day` is held against: ET dates of instants, plain dates as they are."""
        if self.query is not None:
            first = _et_day(self.query.start_ns)
            last = _et_day(self.query.end_ns - 1)
        elif self.start_date is not None:
            first = self.start_date
            last = (self.end_date or first + timedelta(days=1)) - timedelta(days=1)
            if self.endpoint == CONDITION:  # its end is inclusive
                last = self.end_date or first
        else:
            return []
        return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _et_day(ns: int) -> date:
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).astimezone(ET).date()


def iso_ns(ns: int) -> str:
    """An instant as the vendor writes it: `2025-09-05T12:30:00.000000000Z`."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def parse_instant(name: str, text: str) -> tuple[int, int]:
    """An instant in ns and the length in ns of what `text` spells out (a day, an hour, a minute, ...).

    Accepts ns since the epoch, and ISO 8601 down to nanoseconds; without an offset it is UTC.

    Raises:
        ApiError: 422, the text is neither.
    """
    if text.isdecimal() and len(text) > len("20250905"):
        return int(text), 1
    match = _ISO.fullmatch(text)
    try:
        day, hour, minute, second, fraction, offset = match.groups() if match else (text, *[None] * 5)
        zone = (offset or "Z").replace("Z", "+00:00")
        moment = datetime.fromisoformat(f"{day}T{hour or '00'}:{minute or '00'}:{second or '00'}{zone}")
        ns = ns_of(moment)
    except (ValueError, OverflowError):
        raise ApiError(422, "data_time_range_invalid", f"Could not parse `{name}` from '{text}'.") from None
    unit_s = 86_400 if hour is None else 3_600 if minute is None else 60 if second is None else 1
    return ns + int((fraction or "0").ljust(9, "0")), unit_s * 1_000_000_000


def _parse_date(name: str, text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        raise ApiError(422, "data_time_range_invalid", f"Could not parse `{name}` from '{text}'.") from None


def parse_request(endpoint: str, params: Mapping[str, str], market: Market) -> Request:
    """Read the fields of one call.

    Raises:
        ApiError: a field is missing or malformed, or names a dataset, schema or symbol that cannot be.
    """
    params = dict(params)
    if endpoint in ("metadata.list_publishers", "metadata.list_datasets"):
        return Request(endpoint, params)
    dataset = _dataset(params, market)
    if endpoint in (GET_RANGE, *PRICED):
        symbols = _symbols(dataset, params, market)
        return Request(endpoint, params, dataset, symbols, _query(dataset, symbols, params, market))
    if endpoint == RESOLVE:
        symbols = _symbols(dataset, params, market)
        start = _parse_date("start_date", params.get("start_date"))
        if start is None:
            raise ApiError(422, "missing_parameter", "The `start_date` parameter is required.")
        end = _parse_date("end_date", params.get("end_date")) or start + timedelta(days=1)
        if end <= start:
            raise ApiError(422, "data_time_range_start_on_or_after_end", "`start_date` must be before `end_date`.")
        return Request(endpoint, params, dataset, symbols, None, start, end)
    return Request(
        endpoint,
        params,
        dataset,
        start_date=_parse_date("start_date", params.get("start_date")),
        end_date=_parse_date("end_date", params.get("end_date")),
    )


def _dataset(params: Mapping[str, str], market: Market) -> str:
    dataset = params.get("dataset", "")
    if dataset not in market.datasets():
        # The vendor's own case for this was not seen in any report.
        raise ApiError(
            422, "data_dataset_not_found", f"Dataset '{dataset}' is not one of {', '.join(market.datasets())}."
        )
    return dataset


def _symbols(dataset: str, params: Mapping[str, str], market: Market) -> tuple[str, ...]:
    for name, only in (("stype_in", "raw_symbol"), ("stype_out", "instrument_id")):
        if params.get(name, only) != only:
            raise ApiError(422, "symbology_invalid_request", f"The sandbox maps {name}={only}, not {params[name]}.")
    names = [name.strip() for name in params.get("symbols", ALL_SYMBOLS).split(",")]
    if names == [ALL_SYMBOLS]:
        return tuple(market.all_symbols(dataset))
    if len(names) > _MOST_SYMBOLS:
        raise ApiError(400, "symbology_invalid_request", f"At most {_MOST_SYMBOLS:,} symbols, not {len(names):,}.")
    for name in names:
        if market.malformed(dataset, name):
            raise ApiError(400, "symbology_invalid_symbol", f"Invalid format for `raw_symbol` symbol '{name}'.")
    return tuple(dict.fromkeys(names))


def _query(dataset: str, symbols: tuple[str, ...], params: Mapping[str, str], market: Market) -> Query:
    schema = params.get("schema", "trades")
    if schema not in market.schemas(dataset):
        # The vendor's own case for this was not seen in any report.
        raise ApiError(
            422,
            "data_schema_not_found",
            f"Schema '{schema}' is not available for {dataset}; use one of {', '.join(market.schemas(dataset))}.",
        )
    if "start" not in params:
        raise ApiError(422, "missing_parameter", "The `start` parameter is required.")
    start_ns, unit_ns = parse_instant("start", params["start"])
    end_ns = parse_instant("end", params["end"])[0] if "end" in params else start_ns + unit_ns
    if start_ns >= end_ns:
        raise ApiError(422, "data_time_range_start_on_or_after_end", "`start` cannot be on or after `end`.")
    if start_ns < day_start_ns(market.first_day(dataset)):
        raise ApiError(
            422,
            "data_start_before_available_start",
            f"The dataset {dataset} has data available from '{market.first_day(dataset)}'.",
            payload={"available_start": iso_ns(day_start_ns(market.first_day(dataset)))},
        )
    limit = params.get("limit")
    if limit is not None and (not limit.isdecimal() or int(limit) == 0):
        raise ApiError(422, "data_limit_invalid", f"`limit` must be a positive integer, not '{limit}'.")
    return Query(dataset, schema, symbols, start_ns, end_ns, int(limit) if limit else None)

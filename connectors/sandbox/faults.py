"""Faults that a sandbox vendor shows on request: what they are, how they are written, which request they meet.

A fault is data; carrying it out is the server's work. Written form: `KIND[:NAME=VALUE[,NAME=VALUE]...]`, for example
`cut-mid-stream:symbol=MSFT,day=2025-09-05,times=1`.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, fields
from datetime import date
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GET_RANGE: Final = "timeseries.get_range"
RESOLVE: Final = "symbology.resolve"
CONDITION: Final = "metadata.get_dataset_condition"
RECORD_COUNT: Final = "metadata.get_record_count"
PRICED: Final = (RECORD_COUNT, "metadata.get_cost", "metadata.get_billable_size")
ENDPOINTS: Final = (
    GET_RANGE,
    *PRICED,
    RESOLVE,
    CONDITION,
    "metadata.get_dataset_range",
    "metadata.list_schemas",
    "metadata.list_datasets",
    "metadata.list_publishers",
    "metadata.list_unit_prices",
)


@dataclass(frozen=True)
class _Kind:
    meaning: str
    endpoints: tuple[str, ...] = ENDPOINTS


_STREAM: Final = (GET_RANGE,)
_DATA: Final = (GET_RANGE, *PRICED)
_DAY: Final = (GET_RANGE, CONDITION)
KINDS: Final = {
    "unauthorized": _Kind("401 auth_authentication_failed"),
    "payment-required": _Kind("402 account_insufficient_funds"),
    "licence": _Kind("403 license_not_found_unauthorized"),
    "unknown-symbol": _Kind("the symbol does not resolve (alone: 422, in a list: 206)", (*_DATA, RESOLVE)),
    "too-recent": _Kind("422 data_end_after_available_end", _DATA),
    "unavailable-range": _Kind("422 dataset_unavailable_range", _DATA),
    "rate-limit": _Kind("429 with Retry-After (retry_after=1)"),
    "server-error": _Kind("5xx (status=500), JSON or not (body=json|html)"),
    "disconnect": _Kind("the connection closes before any answer"),
    "stall-before-headers": _Kind("the request is read and never answered"),
    "slow": _Kind("the answer comes late (seconds=1)"),
    "cut-mid-stream": _Kind("the connection breaks inside the body (records=N before it)", _STREAM),
    "cut-on-record": _Kind("a short body that ends properly, on a record (records=N)", _STREAM),
    "corrupt-byte": _Kind("one byte of the compressed body is wrong (records=N before it)", _STREAM),
    "stall": _Kind("headers and a part of the body, then nothing (records=N before it)", _STREAM),
    "drip": _Kind("the body comes byte by byte (seconds=1 between two)", _STREAM),
    "zero-rows": _Kind("the symbol is known and has no record", _DATA),
    "wrong-instrument-id": _Kind("records carry an id that no mapping names", _STREAM),
    "count-mismatch": _Kind("the count is higher than what get_range sends (records=1)", (RECORD_COUNT,)),
    "degraded": _Kind("the day's condition is degraded, with a warning on get_range", _DAY),
    "pending": _Kind("the day's condition is pending, with a warning on get_range", _DAY),
    "missing": _Kind("the day's condition is missing, with a warning on get_range", _DAY),
}
STREAM_KINDS: Final = frozenset(kind for kind, about in KINDS.items() if about.endpoints == _STREAM)
CONDITION_KINDS: Final = frozenset({"degraded", "pending", "missing"})


@dataclass(frozen=True)
class Fault:
    """One fault and the requests it meets.

    Attributes:
        kind: one of `KINDS`.
        endpoint: only this endpoint, `family.method`; None: every endpoint the kind can meet.
        symbol: only requests that name this vendor symbol.
        day: only requests whose time touches this date; instants count as the ET date they fall on.
        times: so often, then never again; None: always.
        status: status of `server-error`.
        retry_after: seconds in the Retry-After header of `rate-limit`.
        seconds: wait of `slow` and `drip`.
        records: records before the fault; None: half of them. For `count-mismatch`: how many too many.
        body: `json` or `html`, the body of `server-error`.

    Raises:
        ValueError: the kind, the endpoint or a value is not one of those above; the message lists the known ones.
    """

    kind: str
    endpoint: str | None = None
    symbol: str | None = None
    day: date | None = None
    times: int | None = None
    status: int = 500
    retry_after: float = 1.0
    seconds: float = 1.0
    records: int | None = None
    body: str = "json"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault {self.kind!r}; known are {', '.join(sorted(KINDS))}")
        possible = KINDS[self.kind].endpoints
        if self.endpoint is not None and self.endpoint not in possible:
            raise ValueError(f"fault {self.kind!r} cannot meet {self.endpoint!r}; it can meet {', '.join(possible)}")
        if self.times is not None and self.times < 1:
            raise ValueError(f"fault {self.kind!r}: times must be 1 or more, not {self.times}")
        if not 500 <= self.status <= 599:  # noqa: PLR2004 - the 5xx range
            raise ValueError(f"fault {self.kind!r}: status must be 500 to 599, not {self.status}")
        if self.body not in ("json", "html"):
            raise ValueError(f"fault {self.kind!r}: body must be json or html, not {self.body!r}")
        if min(self.seconds, self.retry_after, self.records or 0) < 0:
            raise ValueError(f"fault {self.kind!r}: seconds, retry_after and records must not be negative")

    def meets(self, endpoint: str, symbols: Iterable[str], days: Iterable[date]) -> bool:
        """Whether a request to `endpoint` for these vendor symbols and dates is one this fault is for."""
        return (
            endpoint in ((self.endpoint,) if self.endpoint else KINDS[self.kind].endpoints)
            and (self.symbol is None or self.symbol in symbols)
            and (self.day is None or self.day in days)
        )


_NUMBERS: Final[Mapping[str, type]] = {
    "times": int,
    "status": int,
    "records": int,
    "retry_after": float,
    "seconds": float,
}


def parse_fault(spec: str) -> Fault:
    """The fault that `spec` writes, such as `rate-limit:times=2,retry_after=0.5`.

    Raises:
        ValueError: not of that form; the message says what is wrong and lists what is known.
    """
    kind, _, rest = spec.strip().partition(":")
    values: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise ValueError(f"fault {spec!r}: {part!r} is not NAME=VALUE")
        values[name.strip().replace("-", "_")] = value.strip()
    return fault_from_mapping({"kind": kind, **values})


def fault_from_mapping(values: Mapping[str, Any]) -> Fault:
    """The fault that a JSON object writes: the names of `Fault`'s attributes, numbers and dates also as text.

    Raises:
        ValueError: an unknown name or a value that cannot be read.
    """
    known = [field.name for field in fields(Fault)]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"a fault has no {', '.join(unknown)}; it has {', '.join(known)}")
    read: dict[str, Any] = {}
    for name, value in values.items():
        try:
            if name == "day":
                read[name] = date.fromisoformat(str(value)) if value is not None else None
            elif name in _NUMBERS and value is not None:
                read[name] = _NUMBERS[name](value)
            else:
                read[name] = value
        except (ValueError, TypeError) as error:
            raise ValueError(f"fault {values.get('kind')!r}: cannot read {name}={value!r} ({error})") from None
    if "endpoint" in read and read["endpoint"] and "." not in read["endpoint"]:
        wanted = str(read["endpoint"])
        read["endpoint"] = next((name for name in ENDPOINTS if name.endswith(f".{wanted}")), wanted)
    return Fault(**read)


def faults_from_json(body: bytes) -> list[Fault]:
    """The faults of a JSON list, each in written form or as an object.

    Raises:
        ValueError: not such a list.
    """
    wanted = json.loads(body or b"[]")
    if not isinstance(wanted, list) or not all(isinstance(one, str | dict) for one in wanted):
        raise ValueError("faults come as a JSON list of texts and objects")
    return [parse_fault(one) if isinstance(one, str) else fault_from_mapping(one) for one in wanted]


class FaultBook:
    """The faults now in force; safe to use from several threads."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._left: list[list[Any]] = [[fault, fault.times] for fault in faults]

    def add(self, fault: Fault) -> None:
        """Put one more fault in force."""
        with self._lock:
            self._left.append([fault, fault.times])

    def clear(self) -> None:
        """No more faults."""
        with self._lock:
            self._left.clear()

    def now(self) -> list[Fault]:
        """The faults that can still meet a request."""
        with self._lock:
            return [fault for fault, left in self._left if left != 0]

    def take(self, endpoint: str, symbols: Iterable[str], days: Iterable[date]) -> list[Fault]:
        """Every fault that meets this request; each loses one of its `times`."""
        symbols, days = tuple(symbols), tuple(days)
        met: list[Fault] = []
        with self._lock:
            for entry in self._left:
                fault, left = entry
                if left != 0 and fault.meets(endpoint, symbols, days):
                    met.append(fault)
                    if left is not None:
                        entry[1] = left - 1
        return met

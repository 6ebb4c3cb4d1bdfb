"""Databento's historical API as this project uses it: typed errors, retries, request rates, one circuit for a run.

Every call passes three gates in this order: the run's circuit, the moment before which the vendor asked us to stay away
(`Retry-After`), and the request-rate limiter the caller hands in. Nothing here knows where files lie or what they mean.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import random
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import requests
from databento import Historical
from databento.common.error import BentoError, BentoHttpError

from connectors.databento._timeseries import DeadlinePassed, DeadlineTimeseries
from connectors.databento.errors import (
    CircuitOpen,
    RetryableError,
    TerminalError,
    VendorError,
    from_http,
    redact,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from connectors.databento.request import DayRequest

logger = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_RETRY_AFTER_S = 900.0
"""A vendor that asks us to stay away longer ends the task instead of holding a worker."""


class RequestGate(Protocol):
    """Blocks until one more request of a family may be sent."""

    def acquire(self, family: str) -> None:
        """Wait for `metadata`, `symbology` or `timeseries`."""

    def stream(self) -> contextlib.AbstractContextManager[None]:
        """Hold one of the streams the account may have open at once."""


class OpenGate:
    """A gate without limits, for a single request by hand."""

    def acquire(self, family: str) -> None:
        """Return at once."""

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """Hold nothing."""
        yield


@dataclass(frozen=True)
class RetryPolicy:
    """Jittered exponential backoff.

    Attributes:
        retries: attempts after the first.
        base_ms: wait before the first retry, in milliseconds, before jitter.
        max_ms: longest wait, in milliseconds.
    """

    retries: int = 3
    base_ms: int = 250
    max_ms: int = 2_000

    def delay_s(self, retry: int, retry_after_s: float | None) -> float:
        """Seconds to wait before retry number `retry` (1 is the first); the vendor's own wish wins."""
        if retry_after_s is not None:
            return retry_after_s
        ceiling_ms: int = min(self.max_ms, self.base_ms * 2 ** (retry - 1))
        jitter: float = random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, guards no secret
        return ceiling_ms * jitter / 1_000


class Stopped(Exception):  # noqa: N818 - a person's wish, not an error
    """The run was asked to stop while this call waited."""


@dataclass
class Circuit:
    """Opens once, for every worker of the run."""

    reason: CircuitOpen | None = None
    stopping: threading.Event = field(default_factory=threading.Event)

    def open(self, reason: CircuitOpen) -> None:
        """Keep the first reason."""
        if self.reason is None:
            self.reason = reason

    def check_stopping(self) -> None:
        """Raise when the run is stopping."""
        if self.stopping.is_set():
            raise Stopped

    def check(self) -> None:
        """Raise when the circuit is open or the run is stopping."""
        self.check_stopping()
        if self.reason is not None:
            # A new exception each time: threads must not share one traceback.
            raise type(self.reason)(str(self.reason), reason=self.reason.reason, status=self.reason.status)


class DatabentoClient:
    """The calls this project makes, on the vendor's own client.

    Args:
        key: API key; it appears in no message.
        gateway: base URL of the vendor or of a compatible server, https; empty for the vendor's default.
        gate: request rates and stream slots.
        retry: backoff between attempts.
        timeout_s: longest wait to connect, for a first byte and between two reads, in seconds.
        circuit: the run's circuit; a new one by default.
    """

    def __init__(
        self,
        key: str,
        *,
        gateway: str = "",
        gate: RequestGate | None = None,
        retry: RetryPolicy | None = None,
        timeout_s: int = 30,
        circuit: Circuit | None = None,
    ) -> None:
        self._key = key
        self._api = Historical(key, gateway.rstrip("/")) if gateway else Historical(key)
        self._api.metadata.TIMEOUT = timeout_s
        self._api.symbology.TIMEOUT = timeout_s
        self._gate = gate or OpenGate()
        self._timeout_s = timeout_s
        self._not_before = 0.0
        self.retry = retry or RetryPolicy()
        self.circuit = circuit or Circuit()

    def __repr__(self) -> str:
        return f"DatabentoClient(gateway={self._api.gateway!r})"

    def dataset_range(self, dataset: str) -> dict[str, Any]:
        """What the dataset offers this account: `start`, `end` and per-schema ranges, UTC."""
        return dict(
            self._call(
                f"get_dataset_range {dataset}",
                "metadata",
                lambda: self._api.metadata.get_dataset_range(dataset),
            )
        )

    def conditions(self, dataset: str, first: dt.date, last: dt.date) -> dict[dt.date, str]:
        """The vendor's word on each UTC day from `first` to `last`, both included."""
        rows = self._call(
            f"get_dataset_condition {dataset} {first} to {last}",
            "metadata",
            lambda: self._api.metadata.get_dataset_condition(dataset, first, last),
        )
        return {dt.date.fromisoformat(str(row["date"])): str(row["condition"]) for row in rows}

    def schemas(self, dataset: str) -> list[str]:
        """The schemas the dataset offers."""
        return list(self._call(f"list_schemas {dataset}", "metadata", lambda: self._api.metadata.list_schemas(dataset)))

    def record_count(self, request: DayRequest) -> int:
        """Records the vendor holds for the request."""
        count = self._call(
            f"get_record_count {request.label}",
            "metadata",
            lambda: self._api.metadata.get_record_count(**_span(request)),
        )
        return int(count)

    def cost_usd(self, request: DayRequest) -> float:
        """What the vendor would bill for the request, in US dollars."""
        cost = self._call(
            f"get_cost {request.label}",
            "metadata",
            lambda: self._api.metadata.get_cost(**_span(request)),
        )
        return float(cost)

    def resolves(self, request: DayRequest) -> bool:
        """Whether the symbol names an instrument on any UTC day of the request."""
        answer = self._call(
            f"resolve {request.label}",
            "symbology",
            lambda: self._api.symbology.resolve(
                dataset=request.dataset,
                symbols=[request.vendor_symbol],
                stype_in="raw_symbol",
                stype_out="instrument_id",
                start_date=request.first_utc_day,
                end_date=request.last_utc_day + dt.timedelta(days=1),
            ),
        )
        intervals = dict(answer.get("result") or {}).get(request.vendor_symbol) or []
        return any(interval.get("s") for interval in intervals)

    def download(
        self,
        request: DayRequest,
        path: Path,
        *,
        deadline_s: float,
        on_accepted: Callable[[], None] = lambda: None,
    ) -> None:
        """One attempt to stream the request's records into a new file.

        Args:
            request: what to ask for.
            path: a file that does not exist yet.
            deadline_s: longest time for the whole stream, in seconds.
            on_accepted: called when the vendor begins to send, and so to bill.

        Raises:
            VendorError: of the kind the error table gives. The file may exist and be torn.
        """

        def stream() -> None:
            api = DeadlineTimeseries(
                self._key,
                self._api.gateway,
                timeout_s=self._timeout_s,
                deadline_s=deadline_s,
                on_accepted=on_accepted,
                stopping=self.circuit.stopping,
            )
            api.get_range(**_span(request), path=path)

        with self._gate.stream():
            self._once(f"get_range {request.label}", "timeseries", stream)

    def pause_or_raise(self, error: Exception, retry: int) -> None:
        """Wait before another attempt, or raise `error` when there should be none.

        Args:
            error: what ended the last attempt.
            retry: number of the attempt to come, 1 for the first retry.
        """
        if not isinstance(error, RetryableError) or retry > min(self.retry.retries, error.most_retries):
            raise error
        delay_s = self.retry.delay_s(retry, error.retry_after_s)
        if delay_s > LONGEST_RETRY_AFTER_S:
            raise error
        logger.warning("retry %d of %d in %.2f s: %s", retry, self.retry.retries, delay_s, error)
        if self.circuit.stopping.wait(delay_s):
            raise Stopped

    def _call(self, what: str, family: str, send: Callable[[], T]) -> T:
        retry = 0
        while True:
            try:
                return self._once(what, family, send)
            except RetryableError as error:
                retry += 1
                self.pause_or_raise(error, retry)

    def _once(self, what: str, family: str, send: Callable[[], T]) -> T:
        self._wait_turn()
        self._gate.acquire(family)
        self.circuit.check()
        try:
            return send()
        except (BentoError, requests.exceptions.RequestException, ValueError, KeyError, TypeError) as exc:
            if self.circuit.stopping.is_set():
                raise Stopped from None
            error = self._typed(what, exc)
        if isinstance(error, CircuitOpen):
            self.circuit.open(error)
        if error.retry_after_s is not None and error.retry_after_s <= LONGEST_RETRY_AFTER_S:
            self._not_before = max(self._not_before, time.monotonic() + error.retry_after_s)
        raise error

    def _wait_turn(self) -> None:
        """Honour a `Retry-After` that any worker of this run was given."""
        while (wait_s := self._not_before - time.monotonic()) > 0:
            if self.circuit.stopping.wait(wait_s):
                raise Stopped
        self.circuit.check()

    def _typed(self, what: str, exc: Exception) -> VendorError:
        """What a failed call means; the order goes from the particular to the general."""
        if isinstance(exc, BentoHttpError):
            return from_http(
                what=what,
                status=exc.http_status,
                body=exc.json_body,
                message=exc.message if isinstance(exc.message, str) else None,
                headers=exc.headers,
                secret=self._key,
            )
        text = redact(" ".join(str(exc).split()), self._key)
        if _is_trust_problem(exc):
            return CircuitOpen(
                f"{what}: the server's certificate is not trusted: {text} "
                "[set REQUESTS_CA_BUNDLE to the CA of DATABENTO_GATEWAY]",
                reason="tls",
            )
        for failure in _FAILURES:
            if isinstance(exc, failure.raised):
                return failure.error(f"{what}: {failure.meaning}: {text}", reason=failure.reason)
        return TerminalError(f"{what}: refused by the client library: {text}", reason="invalid_request")


@dataclass(frozen=True)
class _Failure:
    """What an exception of the client library that carries no HTTP status means; first match wins."""

    raised: tuple[type[Exception], ...]
    error: type[VendorError]
    reason: str
    meaning: str


_http = requests.exceptions
_FAILURES = (
    _Failure((DeadlinePassed,), RetryableError, "deadline", "given up"),
    _Failure((BentoError,), RetryableError, "stream_cut", "the stream broke"),
    _Failure((_http.InvalidURL, _http.MissingSchema), CircuitOpen, "bad_gateway_url", "correct DATABENTO_GATEWAY"),
    _Failure((_http.Timeout,), RetryableError, "timeout", "no answer in time"),
    _Failure((_http.JSONDecodeError, KeyError, TypeError), RetryableError, "bad_answer", "not what the API promises"),
    _Failure((_http.RequestException,), RetryableError, "connection", "no connection"),
)


def _is_trust_problem(exc: Exception) -> bool:
    """Whether a connection failed because the certificate was not trusted, which no retry mends."""
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        reason = getattr(seen, "reason", None) or next(
            (arg for arg in seen.args if isinstance(arg, BaseException)), None
        )
        seen = reason if isinstance(reason, BaseException) else None
    return False


def _span(request: DayRequest) -> dict[str, Any]:
    return {
        "dataset": request.dataset,
        "symbols": [request.vendor_symbol],
        "schema": request.schema,
        "stype_in": "raw_symbol",
        "start": request.start,
        "end": request.end,
    }

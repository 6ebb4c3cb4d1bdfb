"""What can go wrong with Databento, and what each failure means for the run.

    VendorError
    ├── CircuitOpen             nothing in this run can succeed: 401, 402, other 403, no TLS trust
    │   └── CeilingReached      the run may spend no more
    ├── TerminalError           this (symbol, day) cannot succeed as asked: 400, 404, 422
    │   └── UnresolvedSymbol    the vendor does not know the symbol on that day
    ├── NotYetAvailable         it will be there later: too recent, condition pending
    └── RetryableError          the next attempt may succeed: 408, 429, 5xx, cut, stall, corrupt
        └── VerificationFailed  the download ended well and is still not what was asked for
            └── WrongContent    it is something else altogether: one more attempt, no others are paid for

The class decides (`ERROR_TABLE`), never the text of a message. No message holds the key: every text passes `redact`.
"""

from __future__ import annotations

import base64
import copyreg
import datetime as dt
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["circuit", "terminal", "not_yet_available", "retryable"]


class VendorError(Exception):
    """A failed exchange with Databento.

    Attributes:
        kind: what the failure means for the run.
        reason: short machine-readable word, kept in the manifest line (`rate_limited`, `stream_cut`).
        status: HTTP status, None when there was no answer.
        case: the vendor's error case (`symbology_invalid_request`), None when it sent none.
        request_id: the vendor's request id, for its support desk.
        retry_after_s: seconds that the vendor asked us to wait, None when it did not.
        paid_usd: what the attempts up to here cost, US dollars; None when the vendor gave no price.
    """

    kind: ClassVar[Kind]

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        status: int | None = None,
        case: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.case = case
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.paid_usd: float | None = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process builds it without __init__, whose keywords exceptions do not carry.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # not in typeshed


class CircuitOpen(VendorError):  # noqa: N818 - the state it reports, as the pattern calls it
    """Nothing in this run can succeed until a person changes something."""

    kind: ClassVar[Kind] = "circuit"


class CeilingReached(CircuitOpen):
    """One more download would pass the run's spend ceiling."""


class TerminalError(VendorError):
    """This request can never succeed as it is."""

    kind: ClassVar[Kind] = "terminal"


class UnresolvedSymbol(TerminalError):  # noqa: N818 - the vendor's word for it
    """The vendor has no instrument of that name on that day."""


class NotYetAvailable(VendorError):  # noqa: N818 - a state of the data, not of the program
    """The data exist or will exist, but cannot be had yet: never EMPTY.

    Attributes:
        available_end: end of what the vendor offers now, as it wrote it; None when it did not say.
    """

    kind: ClassVar[Kind] = "not_yet_available"

    def __init__(self, message: str, *, available_end: str | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.available_end = available_end


class RetryableError(VendorError):
    """The same request may succeed on the next attempt.

    Attributes:
        most_retries: retries that make sense, however many are configured.
    """

    most_retries: ClassVar[int] = 1_000

    kind: ClassVar[Kind] = "retryable"


class VerificationFailed(RetryableError):  # noqa: N818 - names what happened
    """A download that ended without an error and is not what was asked for."""


class WrongContent(VerificationFailed):
    """Another schema, foreign records or unmapped instruments: perhaps damage, else paid for again to no avail."""

    most_retries = 1


@dataclass(frozen=True)
class Rule:
    """One row of the error table; None matches anything."""

    status: int | None
    case: str | None
    error: type[VendorError]
    reason: str
    hint: str


# First match wins. Sources: the vendor's error pages and what its client was seen to raise.
ERROR_TABLE: tuple[Rule, ...] = (
    Rule(401, None, CircuitOpen, "unauthorized", "check DATABENTO_API_KEY"),
    Rule(402, None, CircuitOpen, "payment_required", "settle the account at the vendor"),
    # The last 24 hours count as live data and need a live licence; older days of the dataset may be free to read.
    Rule(
        403,
        "license_not_found_unauthorized",
        NotYetAvailable,
        "licence",
        "wait until the day is older than 24 h, or buy the dataset's licence",
    ),
    Rule(403, None, CircuitOpen, "forbidden", "check the account's entitlements at the vendor"),
    Rule(
        422,
        "data_end_after_available_end",
        NotYetAvailable,
        "too_recent",
        "run again when the vendor has published the day",
    ),
    Rule(
        422,
        "dataset_unavailable_range",
        NotYetAvailable,
        "too_recent",
        "run again when the vendor has published the day",
    ),
    Rule(
        422,
        "symbology_invalid_request",
        UnresolvedSymbol,
        "unresolved_symbol",
        "correct the symbol or add it to SYMBOL_MAPPING_FILE",
    ),
    Rule(
        400,
        "symbology_invalid_symbol",
        UnresolvedSymbol,
        "unresolved_symbol",
        "correct the symbol or add it to SYMBOL_MAPPING_FILE",
    ),
    Rule(408, None, RetryableError, "request_timeout", "it is tried again"),
    Rule(429, None, RetryableError, "rate_limited", "it is tried again when the vendor allows"),
    Rule(500, None, RetryableError, "server_error", "it is tried again"),
    Rule(502, None, RetryableError, "server_error", "it is tried again"),
    Rule(503, None, RetryableError, "server_error", "it is tried again"),
    Rule(504, None, RetryableError, "server_error", "it is tried again"),
)
_OTHER_CLIENT_ERROR = Rule(None, None, TerminalError, "refused", "read the vendor's message")
_OTHER_SERVER_ERROR = Rule(None, None, RetryableError, "server_error", "it is tried again")


def rule_for(status: int, case: str | None) -> Rule:
    """The row of the error table that an HTTP answer falls under."""
    for rule in ERROR_TABLE:
        if rule.status == status and rule.case in (None, case):
            return rule
    return _OTHER_SERVER_ERROR if status >= 500 else _OTHER_CLIENT_ERROR  # noqa: PLR2004 - HTTP's own border


def redact(text: str, secret: str) -> str:
    """The text without the secret, in any case, and without its HTTP Basic form."""
    if not secret:
        return text
    # The last character group of base64 changes with what follows the key.
    basic = base64.b64encode(f"{secret}:".encode()).decode().rstrip("=")
    forms = [form for form in (basic, basic[:-2]) if len(form) > len(secret)] + [secret]
    hidden = "|".join(re.escape(form) for form in forms)
    return re.sub(hidden, "***", text, flags=re.IGNORECASE)


def parse_retry_after(headers: Mapping[str, Any], *, now: dt.datetime | None = None) -> float | None:
    """Seconds of a `Retry-After` header in either of its two forms (RFC 9110 10.2.3); None without one."""
    value = next((str(v) for k, v in headers.items() if k.lower() == "retry-after"), None)
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return max(0.0, (moment - (now or dt.datetime.now(dt.UTC))).total_seconds())


def from_http(
    *,
    what: str,
    status: int,
    body: object,
    message: str | None,
    headers: Mapping[str, Any],
    secret: str,
) -> VendorError:
    """The typed error of an HTTP answer of 400 and above.

    Args:
        what: what was being done, with symbol and day (`get_range AAPL 2025-09-05`).
        status: the HTTP status.
        body: the parsed JSON body, or None when it was not JSON.
        message: the client's own message, used when the body has none.
        headers: the answer's headers.
        secret: the API key, cut out of every text.
    """
    detail = body.get("detail") if isinstance(body, dict) else None
    case: str | None = None
    payload: object = None
    if isinstance(detail, dict):
        case = redact(str(detail["case"]), secret) if detail.get("case") else None
        message = str(detail.get("message") or message or "")
        payload = detail.get("payload")
    elif isinstance(detail, str):
        message = detail
    rule = rule_for(status, case)
    request_id = next((redact(str(v), secret) for k, v in headers.items() if k.lower() == "request-id"), None)
    words = [f"{what}: the vendor answered {status}"]
    if case:
        words.append(f"({case})")
    if message:
        words.append(f"- {' '.join(str(message).split())}")
    words.append(f"[{rule.hint}]")
    details: dict[str, Any] = {
        "reason": rule.reason,
        "status": status,
        "case": case,
        "request_id": request_id,
        "retry_after_s": parse_retry_after(headers),
    }
    if issubclass(rule.error, NotYetAvailable) and isinstance(payload, dict):
        details["available_end"] = redact(str(payload.get("available_end") or ""), secret) or None
    return rule.error(redact(" ".join(words), secret), **details)

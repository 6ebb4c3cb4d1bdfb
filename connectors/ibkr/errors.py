"""What can go wrong at a gateway, and what each of its codes means for a capture and for a request for bars.

    IbkrError
    ├── InvalidRequest     (ValueError)  asked for something that cannot be: no gateway was contacted
    ├── LibraryMissing                   neither ib_insync nor ib_async is installed
    ├── GatewayUnreachable               no connection came about
    ├── ClientIdsInUse                   eight client ids in a row are in use
    ├── GatewayTooOld                    it speaks a protocol older than the client library's oldest
    ├── InstrumentRefused                the gateway will not give this instrument's data
    │   ├── InstrumentUnknown            it knows no such instrument, or several
    │   └── NoPermission                 the account may not see it
    └── BarsError                        one request for bars failed; another may succeed
        ├── BarsRefused                  it will be refused each time; the gateway's text says why
        ├── BarsTimeout                  the gateway did not answer, several times
        ├── BarsUnavailable              the gateway could not answer now, several times
        └── BadAnswer                    the answer cannot be true, several times

The code decides (`CODES`), with one exception: the gateway reports most troubles with historical data under the code
162, where only its text tells them apart (`HISTORICAL_TEXTS`). No message holds an account number: every text of the
gateway passes `redact_accounts`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

CodeKind = Literal[
    "reset",
    "halt",
    "outage",
    "restored_lost",
    "restored_kept",
    "farm_broken",
    "farm_ok",
    "no_line",
    "again",
    "unknown",
    "no_permission",
    "refused",
    "busy_client_id",
    "too_old",
    "warning",
    "info",
    "by_text",
    "no_data",
    "pacing",
]


class IbkrError(Exception):
    """A failed exchange with a gateway."""


class InvalidRequest(IbkrError, ValueError):  # noqa: N818 - says what is the matter
    """An address, a symbol or a number that cannot be; nothing was sent."""


class LibraryMissing(IbkrError):  # noqa: N818 - says what is the matter
    """The client library is not installed."""


class GatewayUnreachable(IbkrError):  # noqa: N818 - says what is the matter
    """No connection to the gateway came about."""


class ClientIdsInUse(IbkrError):  # noqa: N818 - says what is the matter
    """The client id and those after it are in use by other programs."""


class GatewayTooOld(IbkrError):  # noqa: N818 - says what is the matter
    """TWS or the gateway is too old for the client library."""


class InstrumentRefused(IbkrError):  # noqa: N818 - says what is the matter
    """The gateway refuses the book or the bars of a symbol.

    Attributes:
        symbol: Canonical.
        code: The gateway's code; None when it sent none.
    """

    def __init__(self, message: str, *, symbol: str, code: int | None) -> None:
        super().__init__(message)
        self.symbol = symbol
        self.code = code


class InstrumentUnknown(InstrumentRefused):
    """The gateway knows no such instrument, or more than one."""


class NoPermission(InstrumentRefused):
    """The account has no permission for the instrument's data."""


class BarsError(IbkrError):
    """One request for bars failed; the message names symbol, bar size, day and span.

    Attributes:
        symbol: Canonical.
        code: The gateway's code; None when it sent none.
    """

    def __init__(self, message: str, *, symbol: str, code: int | None = None) -> None:
        super().__init__(message)
        self.symbol = symbol
        self.code = code


class BarsRefused(BarsError):  # noqa: N818 - says what is the matter
    """The gateway refuses this request and would do so again; its text is in the message."""


class BarsTimeout(BarsError):  # noqa: N818 - says what is the matter
    """The gateway did not answer in time, as often as was tried."""


class BarsUnavailable(BarsError):  # noqa: N818 - says what is the matter
    """The gateway could not answer now, as often as was tried: another session, no way to the broker."""


class BadAnswer(BarsError):  # noqa: N818 - says what is the matter
    """The gateway's bars cannot be true: times without a zone, prices out of order, what is no number."""


@dataclass(frozen=True)
class CodeRule:
    """One row of the table of codes."""

    kind: CodeKind
    meaning: str
    action: str


# Sources: the broker's page of message codes, the client libraries' code, and behaviour seen with them.
CODES: Final[dict[int, CodeRule]] = {
    101: CodeRule("no_line", "too many data lines in use", "the symbol waits until a line is free"),
    200: CodeRule("unknown", "no such instrument", "correct the symbol"),
    309: CodeRule("no_line", "too many depth lines in use", "the symbol waits until a line is free"),
    310: CodeRule("info", "there is no such depth request to cancel", "nothing"),
    316: CodeRule("halt", "the book is halted", "subscribed anew"),
    317: CodeRule("reset", "the book is reset", "emptied, waiting for the new one"),
    321: CodeRule("refused", "the request is not valid", "read the gateway's text"),
    326: CodeRule("busy_client_id", "the client id is in use", "the next id is tried"),
    354: CodeRule("no_permission", "no market-data subscription", "subscribe to the exchange's depth at the broker"),
    502: CodeRule("again", "the gateway cannot be reached", "tried again"),
    503: CodeRule("too_old", "the gateway is out of date", "update TWS or IB Gateway"),
    504: CodeRule("again", "the gateway is not connected", "tried again"),
    507: CodeRule("warning", "the gateway could not read a message", "tried again"),
    1100: CodeRule("outage", "the gateway lost the broker", "waiting for 1101 or 1102"),
    1101: CodeRule("restored_lost", "the broker is back, subscriptions are lost", "all are subscribed anew"),
    1102: CodeRule("restored_kept", "the broker is back, subscriptions are kept", "the books go on"),
    1300: CodeRule("warning", "the gateway's port has changed, it drops this connection", "connected anew"),
    2103: CodeRule("farm_broken", "a market-data farm is disconnected", "watched until it is back"),
    2104: CodeRule("farm_ok", "a market-data farm is connected", "books silent since it broke are subscribed anew"),
    2105: CodeRule("info", "a historical-data farm is disconnected", "nothing"),
    2106: CodeRule("info", "a historical-data farm is connected", "nothing"),
    2107: CodeRule("info", "a historical-data farm is idle", "nothing"),
    2108: CodeRule("info", "a market-data farm is idle", "nothing"),
    2110: CodeRule("outage", "TWS lost its server", "waiting for 1101 or 1102"),
    2119: CodeRule("info", "a market-data farm is connecting", "nothing"),
    2152: CodeRule("warning", "some exchanges' depth is not subscribed", "the other exchanges' depth is captured"),
    2158: CodeRule("info", "the security-definition farm is connected", "nothing"),
    10089: CodeRule(
        "no_permission", "more subscriptions are needed", "subscribe to the exchange's depth at the broker"
    ),
    10090: CodeRule("no_permission", "a part is not subscribed", "subscribe to the exchange's depth at the broker"),
    10092: CodeRule("no_permission", "no depth for this exchange", "try SMART, or subscribe at the broker"),
    10167: CodeRule("info", "delayed data instead of live", "nothing"),
    10186: CodeRule(
        "no_permission", "not subscribed, no delayed data", "subscribe to the exchange's depth at the broker"
    ),
    10197: CodeRule("again", "another session of this user gets the data", "tried again; end the other session"),
}
_SUBSCRIBE: Final = "subscribe to the exchange's market data at the broker"

BARS_CODES: Final[dict[int, CodeRule]] = {
    100: CodeRule("again", "too many messages a second", "tried again"),
    162: CodeRule("by_text", "trouble with historical data", "its text decides"),
    165: CodeRule("info", "news of the historical-data service", "nothing"),
    # Also the code for more than 50 open requests; other texts refuse.
    322: CodeRule("by_text", "the request cannot be processed", "its text decides"),
    354: CodeRule("no_permission", "no market-data subscription", _SUBSCRIBE),
    366: CodeRule("info", "there is no such historical request to cancel", "nothing"),
    2105: CodeRule("warning", "a historical-data farm is disconnected", "answers come late, or are asked for again"),
    10089: CodeRule("no_permission", "more subscriptions are needed", _SUBSCRIBE),
    10090: CodeRule("no_permission", "a part is not subscribed", _SUBSCRIBE),
    10092: CodeRule("no_permission", "no data of this exchange", _SUBSCRIBE),
    10186: CodeRule("no_permission", "not subscribed, no delayed data", _SUBSCRIBE),
    10187: CodeRule("no_permission", "no permission for historical data", _SUBSCRIBE),
}
"""What differs from `CODES` when the code answers a request for bars."""

HISTORICAL_TEXTS: Final[tuple[tuple[str, CodeRule], ...]] = (
    ("returned no data", CodeRule("no_data", "the broker has none", "nothing")),
    ("pacing", CodeRule("pacing", "asked too often", "waits and asks again")),
    ("simultaneous api historical", CodeRule("pacing", "too many requests are open", "waits and asks again")),
    ("permission", CodeRule("no_permission", "no market-data permission", _SUBSCRIBE)),
    ("subscri", CodeRule("no_permission", "no market-data subscription", _SUBSCRIBE)),
    ("different ip", CodeRule("again", "another session of this user gets the data", "tried again")),
    ("query cancelled", CodeRule("again", "the gateway gave the request up", "tried again")),
    ("disconnect", CodeRule("again", "the gateway lost the historical-data service", "tried again")),
    ("connection attempt failed", CodeRule("again", "the gateway lost the historical-data service", "tried again")),
)
"""The texts of the codes 162 and 322 that are known, in lower case; what holds none of them refuses.

The first row that fits counts. The gateway translates the beginning of a text into its user's language, and some texts
whole; those refuse.
"""
_WARNINGS: Final = range(2100, 2200)
_OTHER_WARNING: Final = CodeRule("info", "a warning", "nothing")
_OTHER: Final = CodeRule("refused", "an error", "read the gateway's text")
_ACCOUNT: Final = re.compile(r"\b(?:DU|DF|DI|U|F|I)\d{4,}[A-Z]?\b")


def rule_for(code: int) -> CodeRule:
    """The row of the table that a code falls under; 2100 to 2199 are warnings, other unknown codes refuse."""
    return CODES.get(code) or (_OTHER_WARNING if code in _WARNINGS else _OTHER)


def bars_rule_for(code: int, text: str) -> CodeRule:
    """The row that a code falls under when it answers a request for bars; its text counts for 162 and 322 only."""
    rule = BARS_CODES.get(code) or rule_for(code)
    if rule.kind != "by_text":
        return rule
    lowered = text.lower()
    return next((row for known, row in HISTORICAL_TEXTS if known in lowered), _OTHER)


def redact_accounts(text: str, accounts: Iterable[str] = ()) -> str:
    """The text in one line and without account numbers: those given, and whatever looks like one."""
    for account in accounts:
        text = text.replace(account, "***")
    return " ".join(_ACCOUNT.sub("***", text).split())


def refusal(symbol: str, code: int | None, text: str) -> InstrumentRefused:
    """The error that says why a symbol's book is refused.

    Args:
        symbol: Canonical.
        code: The gateway's; None when it merely knows nothing.
        text: The gateway's, without account numbers.
    """
    rule = CODES[200] if code is None else rule_for(code)
    kinds: dict[str, type[InstrumentRefused]] = {"unknown": InstrumentUnknown, "no_permission": NoPermission}
    number = "" if code is None else f" {code}"
    message = f"{symbol}: the gateway refuses its depth: {rule.meaning}{number} ({text}); {rule.action}"
    return kinds.get(rule.kind, InstrumentRefused)(message, symbol=symbol, code=code)


def bars_refusal(asked: str, symbol: str, code: int, text: str) -> IbkrError:
    """The error that says why a request for bars is refused.

    Args:
        asked: The request in words; begins with the symbol.
        symbol: Canonical.
        code: The gateway's.
        text: The gateway's, without account numbers.
    """
    rule = bars_rule_for(code, text)
    message = f"{asked}: the gateway refuses its bars: {rule.meaning} {code} ({text}); {rule.action}"
    if rule.kind == "unknown":
        return InstrumentUnknown(message, symbol=symbol, code=code)
    if rule.kind == "no_permission":
        return NoPermission(message, symbol=symbol, code=code)
    return BarsRefused(message, symbol=symbol, code=code)

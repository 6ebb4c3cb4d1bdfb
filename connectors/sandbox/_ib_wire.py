"""The TWS API on the wire: frames, the handshake, names of requests, texts of errors.

A frame is a 4-byte big-endian length and fields, each ended by a NUL byte. The first thing a client sends is `API`, NUL
and a frame with the versions it speaks. Numbers of messages and the order of their fields are those that ib_insync
0.9.86 and ib_async 2.1 send and decode. What is answered to which request is not here.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST_CLIENT: Final = 157
"""A client that ends below this version is refused; encodings older than that are not known here."""

NEWEST_VERSION: Final = 178
"""Nothing newer is spoken, whatever a client offers."""

_LENGTH: Final = struct.Struct(">I")
_LONGEST_FRAME: Final = 1 << 20
_GREETING: Final = b"API\0"
_VERSIONS: Final = re.compile(r"v(\d+)(?:\.\.(\d+))?(?: .*)?")
_ADVANCED_REJECT_VERSION: Final = 166

REQUEST_NAMES: Final = {
    1: "reqMktData",
    2: "cancelMktData",
    3: "placeOrder",
    4: "cancelOrder",
    5: "reqOpenOrders",
    6: "reqAccountUpdates",
    7: "reqExecutions",
    8: "reqIds",
    9: "reqContractDetails",
    10: "reqMktDepth",
    11: "cancelMktDepth",
    12: "reqNewsBulletins",
    13: "cancelNewsBulletins",
    14: "setServerLogLevel",
    15: "reqAutoOpenOrders",
    16: "reqAllOpenOrders",
    17: "reqManagedAccts",
    18: "requestFA",
    19: "replaceFA",
    20: "reqHistoricalData",
    21: "exerciseOptions",
    22: "reqScannerSubscription",
    23: "cancelScannerSubscription",
    24: "reqScannerParameters",
    25: "cancelHistoricalData",
    49: "reqCurrentTime",
    50: "reqRealTimeBars",
    51: "cancelRealTimeBars",
    52: "reqFundamentalData",
    53: "cancelFundamentalData",
    54: "calculateImpliedVolatility",
    55: "calculateOptionPrice",
    56: "cancelCalculateImpliedVolatility",
    57: "cancelCalculateOptionPrice",
    58: "reqGlobalCancel",
    59: "reqMarketDataType",
    61: "reqPositions",
    62: "reqAccountSummary",
    63: "cancelAccountSummary",
    64: "cancelPositions",
    67: "queryDisplayGroups",
    71: "startApi",
    74: "reqPositionsMulti",
    75: "cancelPositionsMulti",
    76: "reqAccountUpdatesMulti",
    77: "cancelAccountUpdatesMulti",
    78: "reqSecDefOptParams",
    79: "reqSoftDollarTiers",
    80: "reqFamilyCodes",
    81: "reqMatchingSymbols",
    82: "reqMktDepthExchanges",
    83: "reqSmartComponents",
    84: "reqNewsArticle",
    85: "reqNewsProviders",
    86: "reqHistoricalNews",
    87: "reqHeadTimeStamp",
    88: "reqHistogramData",
    89: "cancelHistogramData",
    90: "cancelHeadTimeStamp",
    91: "reqMarketRule",
    92: "reqPnL",
    93: "cancelPnL",
    94: "reqPnLSingle",
    95: "cancelPnLSingle",
    96: "reqHistoricalTicks",
    97: "reqTickByTickData",
    98: "cancelTickByTickData",
    99: "reqCompletedOrders",
    100: "reqWshMetaData",
    101: "cancelWshMetaData",
    102: "reqWshEventData",
    103: "cancelWshEventData",
    104: "reqUserInfo",
}

# Where the request id stands; from 78 on, and in orders and historical data, there is no version before it.
_ID_AT_1: Final = frozenset({3, 20, 22, *range(78, 80), 81, 83, 84, *range(86, 91), *range(92, 99), *range(100, 105)})
_ID_AT_2: Final = frozenset({1, 2, 4, 7, 9, 10, 11, 21, 23, 25, *range(50, 58), 62, 63, 67, *range(74, 78)})

ERROR_TEXTS: Final = {
    100: "Max rate of messages per second has been exceeded.",
    102: "Duplicate ticker ID.",
    200: "No security definition has been found for the request",
    309: "Max number ({lines}) of market depth requests has been reached",
    310: "Can't find the subscribed market depth with tickerId:{request_id}",
    316: "Market depth data has been HALTED. Please re-subscribe.",
    317: "Market depth data has been RESET. Please empty deep book contents before applying any new entries.",
    321: "Error validating request.-'bZ' : cause - the sandbox gateway does not answer {name}",
    322: "Error processing request.-'bR' : cause - Duplicate ticker id",
    326: "Unable to connect as the client id is already in use. Retry with a unique client id.",
    354: "Requested market data is not subscribed.",
    366: "No historical data query found for ticker id:{request_id}",
    505: "Fatal Error: Unknown message id.",
    506: "Unsupported version",
    1100: "Connectivity between IB and Trader Workstation has been lost.",
    1101: "Connectivity between IB and Trader Workstation has been restored - data lost.",
    1102: "Connectivity between IB and Trader Workstation has been restored - data maintained. "
    "All data farms are connected: usfarm; ushmds; secdefnj.",
    2103: "Market data farm connection is broken:usfarm",
    2104: "Market data farm connection is OK:usfarm",
    2105: "HMDS data farm connection is broken:ushmds",
    2106: "HMDS data farm connection is OK:ushmds",
    2108: "Market data farm connection is inactive but should be available upon demand.usfarm",
    2110: "Connectivity between Trader Workstation and server is broken. It will be restored automatically.",
    2152: "Exchanges - Depth: IEX; Top: BYX; AMEX; PEARL; MEMX; LTSE; Need additional market data permissions - "
    "Depth: NYSE; BATS; ARCA;",
    2158: "Sec-def data farm connection is OK:secdefnj",
    10092: "Deep market data is not supported for this combination of security type/exchange",
    10167: "Requested market data is not subscribed. Displaying delayed market data.",
    10186: "Requested market data is not subscribed. Delayed market data is not enabled.",
    10197: "No market data during competing live session",
}
WARNING_CODES: Final = frozenset({10167, *range(2100, 2200)})


class WireError(ValueError):
    """Bytes that are no TWS API; the message says which."""


class Greeting(NamedTuple):
    """The versions a client speaks, both inclusive."""

    oldest: int
    newest: int


def frame(*fields: object) -> bytes:
    """One message: its fields as text, each ended by NUL, after their length."""
    body = "".join(f"{field}\0" for field in fields).encode()
    return _LENGTH.pack(len(body)) + body


def error_frame(version: int, request_id: int, code: int, text: str) -> bytes:
    """Message 4 as a server of that version sends it; warnings and farm messages come with request id -1."""
    more = ("",) if version >= _ADVANCED_REJECT_VERSION else ()
    return frame(4, 2, request_id, code, text, *more)


def error_text(code: int, **values: object) -> str:
    """The vendor's words for a code."""
    return ERROR_TEXTS.get(code, f"Sandbox error {code}").format(**{"lines": "", "request_id": "", "name": ""} | values)


def request_id_of(fields: list[str]) -> int:
    """The request id of a client's message, -1 when it has none or it cannot be read."""
    kind = number(fields, 0)
    at = 1 if kind in _ID_AT_1 else 2 if kind in _ID_AT_2 else None
    return -1 if at is None else number(fields, at)


def number(fields: list[str], at: int, default: int = -1) -> int:
    """A field as a whole number, `default` when it is missing, empty or none."""
    try:
        return int(fields[at])
    except (IndexError, ValueError):
        return default


class FrameReader:
    """Cuts a client's bytes into its greeting and its messages, however they are chopped."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._greeted = False

    def feed(self, data: bytes) -> Iterator[Greeting | list[str]]:
        """Yield the greeting, then the fields of each message that is complete.

        Raises:
            WireError: the bytes are no TWS API; nothing after them can be read.
        """
        rest = self._rest
        rest += data
        if not self._greeted:
            if rest[:4] != _GREETING[: len(rest)]:
                raise WireError(f"the first bytes are {bytes(rest[:4])!r}, not {_GREETING!r}")
            if (body := self._body(4)) is None:
                return
            self._greeted = True
            match = _VERSIONS.fullmatch(body)
            if match is None:
                raise WireError(f"the greeting is {body[:40]!r}, not v100..176")
            yield Greeting(int(match[1]), int(match[2] or match[1]))
        while (body := self._body(0)) is not None:
            if not body.endswith("\0"):
                raise WireError(f"a message of {len(body)} characters does not end with NUL")
            yield body[:-1].split("\0")

    def _body(self, start: int) -> str | None:
        """Take the frame at `start`, with all before it, from what has come; None while it is incomplete."""
        rest = self._rest
        if len(rest) < start + 4:
            return None
        (length,) = _LENGTH.unpack_from(rest, start)
        if length > _LONGEST_FRAME:
            raise WireError(f"a message of {length} bytes is announced, more than {_LONGEST_FRAME}")
        end = start + 4 + length
        if len(rest) < end:
            return None
        body = rest[start + 4 : end].decode(errors="replace")
        del rest[:end]
        return body

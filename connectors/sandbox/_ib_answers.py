"""What the sandbox gateway answers to each request: a function per message number.

Requests that are not in `ANSWERS` get error 321 when they carry a request id, so that a client's wait ends, and nothing
otherwise; unknown numbers get 505. Another kind of request is added by a function here and a line in the table.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from connectors.sandbox._ib_instruments import (
    MIN_TICK,
    PRICE_RULE,
    details_frame,
    exchanges_frame,
    matches_frame,
)
from connectors.sandbox._ib_records import DepthRequest
from connectors.sandbox._ib_wire import REQUEST_NAMES, WARNING_CODES, error_text, number, request_id_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.sandbox._ib_core import GatewayCore
    from connectors.sandbox._ib_session import Session

    Answer = Callable[[GatewayCore, Session, list[str]], None]

FIRST_ORDER_ID: Final = 1
_FARMS: Final = (2104, 2106, 2158)
_UNREADABLE: Final = 320
_UNKNOWN: Final = 505
_REFUSED: Final = 321
_SUMMARY: Final = (("NetLiquidation", "100000.00", "USD"), ("TotalCashValue", "100000.00", "USD"))


def answer(core: GatewayCore, session: Session, fields: list[str]) -> None:
    """Answer one message; one that cannot be read is error 320, as the vendor's server does, and never a crash."""
    kind = number(fields, 0)
    request_id = request_id_of(fields)
    try:
        if kind in ANSWERS:
            ANSWERS[kind](core, session, fields)
        elif kind not in REQUEST_NAMES:
            session.error(request_id, _UNKNOWN, error_text(_UNKNOWN))
        elif request_id >= 0:
            session.error(request_id, _REFUSED, error_text(_REFUSED, name=REQUEST_NAMES[kind]))
    except (IndexError, ValueError) as error:
        core.records.violation("protocol", f"{REQUEST_NAMES.get(kind, kind)} cannot be read: {error}")
        session.error(request_id, _UNREADABLE, f"Server error when reading an API client request. {error}")


def welcome(core: GatewayCore, session: Session) -> None:
    """What a client hears after startApi: its accounts, its first order id, the state of the farms."""
    _accounts(core, session, [])
    session.send(9, 1, FIRST_ORDER_ID)
    for code in _FARMS:
        session.error(-1, code, error_text(code))


def _accounts(core: GatewayCore, session: Session, _fields: list[str]) -> None:
    session.send(15, 1, ",".join(core.accounts))


def _next_id(_core: GatewayCore, session: Session, _fields: list[str]) -> None:
    session.send(9, 1, FIRST_ORDER_ID)


def _current_time(core: GatewayCore, session: Session, _fields: list[str]) -> None:
    session.send(49, 1, core.now_ns() // 10**9)


def _open_orders(_core: GatewayCore, session: Session, _fields: list[str]) -> None:
    session.send(53, 1)


def _completed_orders(_core: GatewayCore, session: Session, _fields: list[str]) -> None:
    session.send(102)


def _executions(_core: GatewayCore, session: Session, fields: list[str]) -> None:
    session.send(55, 1, int(fields[2]))


def _positions(_core: GatewayCore, session: Session, _fields: list[str]) -> None:
    session.send(62, 1)


def _positions_multi(_core: GatewayCore, session: Session, fields: list[str]) -> None:
    session.send(72, 1, int(fields[2]))


def _account_updates(core: GatewayCore, session: Session, fields: list[str]) -> None:
    if fields[2] != "1":
        return
    account = fields[3] or core.accounts[0]
    session.send(6, 2, "AccountReady", "true", "", account)
    for tag, value, currency in _SUMMARY:
        session.send(6, 2, tag, value, currency, account)
    session.send(8, 1, time.strftime("%H:%M", time.gmtime()))
    session.send(54, 1, account)


def _account_updates_multi(core: GatewayCore, session: Session, fields: list[str]) -> None:
    request_id, account = int(fields[2]), fields[3] or core.accounts[0]
    for tag, value, currency in _SUMMARY:
        session.send(73, 1, request_id, account, fields[4], tag, value, currency)
    session.send(74, 1, request_id)


def _account_summary(core: GatewayCore, session: Session, fields: list[str]) -> None:
    request_id = int(fields[2])
    for account in core.accounts:
        for tag, value, currency in _SUMMARY:
            if tag in fields[4].split(","):
                session.send(63, 1, request_id, account, tag, value, currency)
    session.send(64, 1, request_id)


def _instrument_details(core: GatewayCore, session: Session, fields: list[str]) -> None:
    request_id = int(fields[2])
    instrument = core.instruments.find(fields, 3)
    if instrument is None:
        session.error(request_id, 200, error_text(200))
    else:
        session.write(details_frame(session.version, request_id, instrument))
        session.send(52, 1, request_id)


def _matching_symbols(core: GatewayCore, session: Session, fields: list[str]) -> None:
    found = core.instruments.named(fields[2].strip().upper())
    session.write(matches_frame(session.version, int(fields[1]), found))


def _depth_exchanges(_core: GatewayCore, session: Session, _fields: list[str]) -> None:
    session.write(exchanges_frame())


def _price_rule(_core: GatewayCore, session: Session, fields: list[str]) -> None:
    session.send(93, fields[1] or PRICE_RULE, 1, 0, MIN_TICK)


def _no_families(_core: GatewayCore, session: Session, _fields: list[str]) -> None:
    session.send(78, 0)


def _no_tiers(_core: GatewayCore, session: Session, fields: list[str]) -> None:
    session.send(77, int(fields[1]), 0)


def _no_news(_core: GatewayCore, session: Session, _fields: list[str]) -> None:
    session.send(85, 0)


def _no_components(_core: GatewayCore, session: Session, fields: list[str]) -> None:
    session.send(82, int(fields[1]), 0)


def _user(_core: GatewayCore, session: Session, fields: list[str]) -> None:
    session.send(107, int(fields[1]), "")


def _no_orders(_core: GatewayCore, session: Session, fields: list[str]) -> None:
    text = "Error validating request.-'bZ' : cause - The API interface is currently in Read-Only mode."
    session.error(request_id_of(fields), _REFUSED, text)


def _nothing(_core: GatewayCore, _session: Session, _fields: list[str]) -> None:
    """Taken without an answer, as the vendor's server does."""


def _subscribe_depth(core: GatewayCore, session: Session, fields: list[str]) -> None:
    request_id, exchange, rows, is_smart = int(fields[2]), fields[10] or "SMART", int(fields[15]), fields[16] == "1"
    instrument = core.instruments.find(fields, 3)
    symbol = instrument.symbol if instrument else fields[4]
    code = 0
    values: dict[str, object] = {}
    if core.lines.get(session, request_id):
        code = 102
        core.records.violation("duplicate_id", f"ticker id {request_id} is in use")
    elif instrument is None:
        code = 200
    elif rows < 1:
        code = _REFUSED
        values = {"name": f"market depth with {rows} rows"}
    elif (exchange == "SMART") != is_smart:
        code = 10092  # SMART depth and only it is asked for with isSmartDepth; not seen on the real one
    elif core.faults.refusal_of(symbol) not in (0, *WARNING_CODES):
        code = core.faults.refusal_of(symbol)
    elif len(core.lines) >= core.faults.depth_lines:
        code = 309
        values = {"lines": core.faults.depth_lines}
        if len(core.lines) >= core.depth_lines:
            core.records.violation("depth_limit", f"{symbol} would be line {len(core.lines) + 1}")
    request = DepthRequest(
        "subscribe", request_id, symbol, exchange, rows, is_smart, session.client_id, code, time.time_ns()
    )
    core.records.depth_request(request)
    if code:
        session.error(request_id, code, error_text(code, **values))
        return
    if warning := core.faults.refusal_of(symbol):
        session.error(request_id, warning, error_text(warning))
    core.lines.open(session, request_id, symbol, exchange, rows, is_smart=is_smart)
    core.faults.subscribed(symbol)


def _cancel_depth(core: GatewayCore, session: Session, fields: list[str]) -> None:
    request_id, is_smart = int(fields[2]), fields[3] == "1"
    line = core.lines.get(session, request_id)
    code = 0 if line and line.is_smart == is_smart else 310
    symbol, exchange = (line.symbol, line.exchange) if line else ("", "")
    core.records.depth_request(
        DepthRequest("cancel", request_id, symbol, exchange, 0, is_smart, session.client_id, code, time.time_ns())
    )
    if line is None:
        core.records.violation("unknown_cancel", f"ticker id {request_id} has no market depth")
    elif code:
        core.records.violation("cancel_mismatch", f"{symbol} was asked for with isSmartDepth {line.is_smart}")
    else:
        core.lines.cancel(line, core.faults.late_messages)
    if code:
        session.error(request_id, code, error_text(code, request_id=request_id))


def _historical(core: GatewayCore, session: Session, fields: list[str]) -> None:
    core.bars.ask(session, fields)


def _cancel_historical(core: GatewayCore, session: Session, fields: list[str]) -> None:
    core.bars.cancel(session, request_id_of(fields), is_head=fields[0] == "90")


ANSWERS: Final[dict[int, Answer]] = {
    3: _no_orders,
    4: _no_orders,
    5: _open_orders,
    6: _account_updates,
    7: _executions,
    8: _next_id,
    9: _instrument_details,
    10: _subscribe_depth,
    11: _cancel_depth,
    12: _nothing,
    13: _nothing,
    14: _nothing,
    15: _nothing,
    16: _open_orders,
    17: _accounts,
    20: _historical,
    25: _cancel_historical,
    49: _current_time,
    58: _no_orders,
    59: _nothing,
    61: _positions,
    62: _account_summary,
    63: _nothing,
    64: _nothing,
    74: _positions_multi,
    75: _nothing,
    76: _account_updates_multi,
    77: _nothing,
    79: _no_tiers,
    80: _no_families,
    81: _matching_symbols,
    82: _depth_exchanges,
    83: _no_components,
    85: _no_news,
    87: _historical,
    90: _cancel_historical,
    91: _price_rule,
    99: _completed_orders,
    104: _user,
}

"""The instruments the sandbox gateway knows: any plausible US stock, with details as message 10 carries them.

An instrument id is made from the symbol and is the same in every run. Trading hours are those of a weekday; holidays
are not known here. Nothing about a symbol resembles its real details.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple
from zoneinfo import ZoneInfo

from connectors.sandbox._ib_wire import frame, number

if TYPE_CHECKING:
    from collections.abc import Collection

EXCHANGES: Final = ("SMART", "AMEX", "NYSE", "ARCA", "BATS", "BYX", "DRCTEDGE", "EDGEA", "IEX", "ISLAND", "NASDAQ")
"""Exchanges an instrument can be asked for on."""

MORE_EXCHANGES: Final = ("MEMX", "PEARL")
MIN_TICK: Final = "0.01"
PRICE_RULE: Final = 26

_SYMBOL: Final = re.compile(r"[A-Z][A-Z0-9]{0,7}(?: [A-Z]{1,2})?")
_HOURS_DAYS: Final = 6
_NEW_YORK: Final = ZoneInfo("America/New_York")
_DECIMAL_SIZES: Final = 164
_SIZE_INCREMENT_ONLY: Final = 163


class Instrument(NamedTuple):
    """A stock as a client names it and the gateway knows it."""

    con_id: int
    symbol: str
    exchange: str
    primary_exchange: str

    @property
    def trading_class(self) -> str:
        """The venue's class, invented from the listing."""
        return "NMS" if self.primary_exchange == "NASDAQ" else self.symbol


def con_id_of(symbol: str) -> int:
    """The instrument id of a symbol, the same in every run."""
    return 100_000_000 + int.from_bytes(hashlib.sha256(symbol.encode()).digest()[:4], "big") % 800_000_000


class Instruments:
    """Finds the instrument that a request names.

    Args:
        unknown: symbols that exist on no exchange.
    """

    def __init__(self, unknown: Collection[str] = ()) -> None:
        self._unknown = frozenset(symbol.upper() for symbol in unknown)
        self._symbols: dict[int, str] = {}

    def find(self, fields: list[str], at: int) -> Instrument | None:
        """The instrument of the twelve fields from `at` on (id, symbol, type ... trading class), None when unknown."""
        named = [field.strip() for field in fields[at : at + 12]]
        if len(named) < 12:  # noqa: PLR2004 - the fields of an instrument on the wire
            return None
        con_id = number(named, 0, 0)
        symbol, kind, exchange, primary, currency = named[1], named[2], named[7], named[8], named[9]
        symbol = symbol or self._symbols.get(con_id, "") or named[10]
        if not _SYMBOL.fullmatch(symbol) or symbol in self._unknown:
            return None
        if con_id not in (0, con_id_of(symbol)):
            return None
        known = (*EXCHANGES, *MORE_EXCHANGES)
        if kind not in ("STK", "") or currency not in ("USD", "") or {exchange, primary} - {"", *known}:
            return None
        self._symbols[con_id_of(symbol)] = symbol
        listed = primary if primary not in ("", "SMART") else _listing(symbol)
        return Instrument(con_id_of(symbol), symbol, exchange or "SMART", listed)

    def named(self, symbol: str) -> Instrument | None:
        """The stock of a symbol, None when unknown."""
        return self.find(["0", symbol, "STK", *[""] * 9], 0)


def details_frame(version: int, request_id: int, instrument: Instrument, now: datetime | None = None) -> bytes:
    """Message 10 for an instrument as a server of that version sends it."""
    regular, extended = trading_hours(now or datetime.now(UTC))
    old = version < _DECIMAL_SIZES
    sizes: tuple[str, ...] = ("0.0001", "0.0001", "100")
    if old:
        sizes = ("100",) if version == _SIZE_INCREMENT_ONLY else ()
    return frame(
        10,
        *(("8",) if old else ()),
        request_id,
        instrument.symbol,
        "STK",
        "",  # last trade date
        "0",
        "",  # right
        instrument.exchange,
        "USD",
        instrument.symbol,
        instrument.trading_class,
        instrument.trading_class,
        instrument.con_id,
        MIN_TICK,
        *(("100",) if old else ()),
        "",  # multiplier
        "ACTIVETIM,ADJUST,ALERT,ALLOC,CASHQTY,CONDORDER,DAY,GTC,LMT,LOC,MKT,MOC,STP,STPLMT,TRAIL",
        ",".join((*EXCHANGES, *MORE_EXCHANGES)),
        "1",
        "0",
        f"SANDBOX {instrument.symbol} INC",
        instrument.primary_exchange,
        "",  # month
        "Technology",
        "Invented",
        "Sandbox",
        "US/Eastern",
        extended,
        regular,
        "",  # economic value rule
        "0",
        "0",  # no secondary ids
        "1",
        "",  # underlying symbol
        "",
        ",".join([str(PRICE_RULE)] * len((*EXCHANGES, *MORE_EXCHANGES))),
        "",  # expiration
        "COMMON",
        *sizes,
    )


def exchanges_frame() -> bytes:
    """Message 80: the exchanges that give depth."""
    rows = [(name, "STK", "", "Deep2" if name in ("ISLAND", "NASDAQ") else "Deep", "1") for name in EXCHANGES[1:]]
    rows += [(name, "STK", "", "Deep", "1") for name in MORE_EXCHANGES]
    return frame(80, len(rows), *(field for row in rows for field in row))


def matches_frame(version: int, request_id: int, instrument: Instrument | None) -> bytes:
    """Message 79: what a search for a symbol finds, one instrument or none."""
    if instrument is None:
        return frame(79, request_id, 0)
    issuer = (f"SANDBOX {instrument.symbol} INC", "") if version >= 176 else ()  # noqa: PLR2004 - two fields since then
    return frame(
        79, request_id, 1, instrument.con_id, instrument.symbol, "STK", instrument.primary_exchange, "USD", 0, *issuer
    )


def trading_hours(now: datetime) -> tuple[str, str]:
    """Regular and extended hours of today and the days after it, as `YYYYMMDD:HHMM-YYYYMMDD:HHMM;...` in ET."""
    first = now.astimezone(_NEW_YORK).date()
    days = [first + timedelta(days=ahead) for ahead in range(_HOURS_DAYS)]
    regular, extended = (
        ";".join(
            f"{day:%Y%m%d}:CLOSED" if day.weekday() > 4 else f"{day:%Y%m%d}:{opens}-{day:%Y%m%d}:{closes}"  # noqa: PLR2004 - Friday
            for day in days
        )
        for opens, closes in (("0930", "1600"), ("0400", "2000"))
    )
    return regular, extended


def _listing(symbol: str) -> str:
    return ("NASDAQ", "NYSE", "AMEX")[con_id_of(symbol) % 3]

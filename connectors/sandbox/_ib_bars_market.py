"""The invented market behind the sandbox gateway's bars: every second of every session, and the bars made of them.

A symbol's seconds are a function of seed, symbol and day alone, computed with whole numbers and basic arithmetic, so
that every process makes the same bars. Bars of any size are made of the seconds: open of the first, close of the last,
highest, lowest, sums of volume and count, the average weighted by volume. Prices are whole cents, times whole seconds
since 1970 UTC. Nothing here knows sockets, requests or the present. No symbol's numbers resemble its real ones.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from connectors.sandbox._ib_bars_calendar import AFTER, BEFORE, REGULAR, sessions_back
from connectors.sandbox._ib_bars_truth import BarRow

if TYPE_CHECKING:
    from datetime import date

    from numpy.typing import NDArray

    from connectors.sandbox._ib_bars_calendar import Part, SessionDay

    Whole = NDArray[np.int64]
    Real = NDArray[np.float64]

THIN: Final = "THIN"
"""Symbols that begin so are illiquid: minutes without a trade, the first one after 09:45, none in extended hours."""

_KEPT_PARTS: Final = 16  # two megabytes each
_LOWEST_CENTS: Final = 100
_ODDS: Final = {BEFORE: 0.22, REGULAR: 0.985, AFTER: 0.18}  # that a liquid symbol trades in a second
_SWING: Final = {BEFORE: 0.3, REGULAR: 1.0, AFTER: 0.25}  # of the price within a second, part of the usual one
_THIN_ODDS: Final = 1 / 300
_THIN_FROM_S: Final = 900  # 09:45
_STEP_DEVIATION: Final = 37_837.0  # of the sum of four numbers below 65536


@dataclass(frozen=True)
class Bars:
    """Columns of bars in order of time; prices in USD, `start_s` and `end_s` in seconds since 1970 UTC."""

    start_s: Whole
    end_s: Whole
    open: Real
    high: Real
    low: Real
    close: Real
    volume: Whole
    wap: Real
    count: Whole

    def __len__(self) -> int:
        return len(self.start_s)

    def rows(self) -> list[BarRow]:
        """The bars one by one."""
        columns = (self.open, self.high, self.low, self.close, self.volume, self.wap, self.count)
        return [
            BarRow(*row) for row in zip((self.start_s * 10**9).tolist(), *(c.tolist() for c in columns), strict=True)
        ]


@dataclass(frozen=True)
class _Seconds:
    """A part's seconds; prices in cents.

    `bid` and `ask` are known for every second and the moment before the first; the others are of seconds with a trade.
    `money` is price times volume in hundredths of a cent.
    """

    start_s: int
    at: Whole
    open: Whole
    high: Whole
    low: Whole
    close: Whole
    volume: Whole
    money: Whole
    count: Whole
    bid: Whole
    ask: Whole


class BarsMarket:
    """Makes bars. For one thread at a time; keeps some tens of megabytes of seconds at most.

    Args:
        seed: with the same one the bars are the same.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._parts: OrderedDict[tuple[str, int], _Seconds] = OrderedDict()

    def bars(
        self, symbol: str, bar_s: int, start_s: int, end_s: int, *, use_rth: bool, what: str, forming: bool = False
    ) -> Bars:
        """The bars that begin at or after `start_s` and have ended at `end_s`.

        Args:
            symbol: of the stock.
            bar_s: seconds of a bar, a divisor of an hour.
            start_s: seconds since 1970 UTC.
            end_s: likewise.
            use_rth: of regular hours alone; a bar that would begin before them begins with them.
            what: `TRADES`, `MIDPOINT`, `BID`, `ASK` or `BID_ASK`.
            forming: also the bar that has not ended, as far as it has come.

        Returns:
            In order of time; of trades without bars in which there was none.
        """
        made: list[Bars] = []
        for session in sessions_back(end_s, use_rth=use_rth):
            opens, closes = session.hours(use_rth=use_rth)
            if closes <= start_s:
                break
            wanted = [part for part in session.parts if opens <= part.start_s < min(closes, end_s)]
            made.append(self._day(symbol, session, wanted, bar_s, end_s, opens, what))
        if not made:
            made = [_no_bars()]
        columns = {name: np.concatenate([getattr(bars, name) for bars in reversed(made)]) for name in _COLUMNS}
        chosen = (columns["start_s"] >= start_s) & (columns["start_s"] < end_s)
        if not forming:
            chosen &= columns["end_s"] <= end_s
        return Bars(**{name: column[chosen] for name, column in columns.items()})

    def _day(
        self, symbol: str, session: SessionDay, parts: list[Part], bar_s: int, end_s: int, opens_s: int, what: str
    ) -> Bars:
        seconds = [self._seconds(symbol, session, part) for part in parts]
        if what == "TRADES":
            table = {name: np.concatenate([getattr(part, name) for part in seconds]) for name in _TRADES}
        else:
            quoted = [_quotes(part, what) for part in seconds]
            table = {name: np.concatenate([part[name] for part in quoted]) for name in quoted[0]}
        table = {name: column[: np.searchsorted(table["at"], end_s)] for name, column in table.items()}
        return _bars_of(table, what, session.midnight_s, bar_s, opens_s)

    def _seconds(self, symbol: str, session: SessionDay, part: Part) -> _Seconds:
        key = (symbol, part.start_s)
        known = self._parts.get(key)
        if known is None:
            known = self._parts[key] = self._made(symbol, session, part)
            while len(self._parts) > _KEPT_PARTS:
                self._parts.popitem(last=False)
        self._parts.move_to_end(key)
        return known

    def _made(self, symbol: str, session: SessionDay, part: Part) -> _Seconds:
        about = _about(self._seed, symbol)
        length = part.end_s - part.start_s
        key = _hash(f"{self._seed}:{symbol}:{session.day}:{part.kind}")
        steps, dice, more = (_random(key + stream, length + 1) for stream in range(3))
        from_cents, to_cents = about.ends(session.day, part.kind)
        deviation = max(about.usual_cents * 0.00011 * _SWING[part.kind], 0.05)
        path = _walk(steps, from_cents, to_cents, deviation)
        bid = np.maximum(path - about.spread_cents // 2, 1)
        trades = np.flatnonzero(_is_trading(about, part.kind, dice[1:]))
        dice, more = dice[1:][trades], more[1:][trades]
        opened = np.maximum(path[trades] + _bits(dice, 0, 2) // 2 - _bits(dice, 2, 1), 1)
        closed = path[trades + 1]
        high = np.maximum(opened, closed) + (_bits(dice, 3, 2) == 0)
        low = np.maximum(np.minimum(opened, closed) - (_bits(dice, 5, 2) == 0), 1)
        # Trading is heavier near the open and the close.
        edge = np.maximum(0, 1_800 - np.minimum(trades, length - 1 - trades))
        heavy = (about.usual_volume * (1_800 + 3 * edge)) // 1_800
        volume = 1 + (_bits(more, 0, 10) * _bits(more, 10, 10) * heavy >> 18)
        count = 1 + volume // (20 + _bits(more, 20, 6))
        average = low * 100 + (high - low) * 100 * _bits(more, 26, 8) // 256
        return _Seconds(
            part.start_s,
            part.start_s + trades,
            opened,
            high,
            low,
            closed,
            volume,
            average * volume,
            count,
            bid,
            bid + about.spread_cents,
        )


class _About(NamedTuple):
    """A symbol's habits."""

    seed: int
    symbol: str
    usual_cents: int
    usual_volume: int
    spread_cents: int
    odds: float
    is_thin: bool

    def close_cents(self, day: date) -> int:
        """The price at the close of a day, sessions or not: two slow waves and a daily surprise."""
        number = day.toordinal()
        key = _hash(f"{self.seed}:{self.symbol}:close")
        slow = _wave(number + key % 900, 900) * 0.35 + _wave(number + key % 170, 170) * 0.12
        surprise = (_hash(f"{key}:{number}") % 2001 - 1000) / 1000 * 0.012
        return max(_LOWEST_CENTS, round(self.usual_cents * (1 + slow + surprise)))

    def ends(self, day: date, kind: int) -> tuple[int, int]:
        """Prices where a part of a session begins and ends."""
        close, before = self.close_cents(day), self.close_cents(day - timedelta(days=1))
        opens = max(_LOWEST_CENTS, before + (close - before) // 3)
        return {BEFORE: (before, opens), REGULAR: (opens, close), AFTER: (close, close)}[kind]


@lru_cache(maxsize=4_096)
def _about(seed: int, symbol: str) -> _About:
    key = _hash(f"{seed}:{symbol}:about")
    is_thin = symbol.startswith(THIN)
    return _About(
        seed,
        symbol,
        1_500 + key % 50_000,
        2 if is_thin else 60 + (key >> 20) % 400,
        8 if is_thin else 1 + (key >> 32) % 3,
        0.97 + (key >> 40) % 25 / 1000,
        is_thin,
    )


def _is_trading(about: _About, kind: int, dice: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether there is a trade, second by second of a part."""
    chance = _bits(dice, 40, 20)
    if about.is_thin:
        is_trading = chance < int(_THIN_ODDS * 2**20)
        first = _THIN_FROM_S + 60 + int(dice[0] % np.uint64(600))
        is_trading[:first] = False
        is_trading[first] = True
        return is_trading & (kind == REGULAR)
    is_trading = chance < int(_ODDS[kind] * (about.odds if kind == REGULAR else 1.0) * 2**20)
    if kind == REGULAR:
        is_trading[[0, -1]] = True  # the auctions
    return is_trading


def _walk(steps: NDArray[np.uint64], from_cents: int, to_cents: int, deviation: float) -> Whole:
    """A random walk from one price to another, a price before each step and after the last."""
    four = sum((_bits(steps, at, 16) for at in (0, 16, 32, 48)), start=np.zeros(len(steps), np.int64))
    four[0] = 131_070  # no step before the first price
    walked = np.cumsum(four - 131_070)
    part = np.arange(len(steps)) / (len(steps) - 1)
    drawn = (walked - part * walked[-1]) * (deviation / _STEP_DEVIATION)
    path: Whole = np.rint(from_cents + part * (to_cents - from_cents) + drawn).astype(np.int64)
    return np.maximum(path, _LOWEST_CENTS)


def _quotes(part: _Seconds, what: str) -> dict[str, Whole]:
    """Open, high, low and close of every second, in half cents; of BID_ASK the averages and extremes."""
    at = part.start_s + np.arange(len(part.bid) - 1)
    if what == "BID_ASK":
        bid, ask = 2 * part.bid, 2 * part.ask
        return {
            "at": at,
            "open": (bid[:-1] + bid[1:]) // 2,
            "high": np.maximum(ask[:-1], ask[1:]),
            "low": np.minimum(bid[:-1], bid[1:]),
            "close": (ask[:-1] + ask[1:]) // 2,
        }
    price = {"BID": 2 * part.bid, "ASK": 2 * part.ask, "MIDPOINT": part.bid + part.ask}[what]
    first, last = price[:-1], price[1:]
    return {"at": at, "open": first, "high": np.maximum(first, last), "low": np.minimum(first, last), "close": last}


_TRADES: Final = ("at", "open", "high", "low", "close", "volume", "money", "count")
_COLUMNS: Final = ("start_s", "end_s", "open", "high", "low", "close", "volume", "wap", "count")


def _bars_of(seconds: dict[str, Whole], what: str, midnight_s: int, bar_s: int, opens_s: int) -> Bars:
    """Bars of one session's seconds."""
    at = seconds["at"]
    if not len(at):
        return _no_bars()
    begins = midnight_s + (at - midnight_s) // bar_s * bar_s
    first = np.flatnonzero(np.diff(begins, prepend=begins[0] - 1))
    last = np.append(first[1:], len(at)) - 1
    opened, closed = seconds["open"][first], seconds["close"][last]
    per_usd = 100 if what == "TRADES" else 200
    nothing = np.full(len(first), -1, np.int64)
    volume = count = nothing
    wap = nothing.astype(np.float64)
    if what == "TRADES":
        volume, count = np.add.reduceat(seconds["volume"], first), np.add.reduceat(seconds["count"], first)
        wap = np.round(np.add.reduceat(seconds["money"], first) / volume) / 10_000
    open_usd, close_usd = opened / per_usd, closed / per_usd
    if what == "BID_ASK":
        lengths = last - first + 1
        open_usd = np.round(np.add.reduceat(seconds["open"], first) / lengths * 50) / 10_000
        close_usd = np.round(np.add.reduceat(seconds["close"], first) / lengths * 50) / 10_000
    return Bars(
        start_s=np.maximum(begins[first], opens_s),
        end_s=begins[first] + bar_s,
        open=open_usd,
        high=np.maximum.reduceat(seconds["high"], first) / per_usd,
        low=np.minimum.reduceat(seconds["low"], first) / per_usd,
        close=close_usd,
        volume=volume,
        wap=wap,
        count=count,
    )


def _no_bars() -> Bars:
    none, nothing = np.zeros(0, np.int64), np.zeros(0)
    return Bars(none, none, nothing, nothing, nothing, nothing, none, nothing, none)


def _hash(text: str) -> int:
    """63 bits that are the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _random(key: int, count: int) -> NDArray[np.uint64]:
    """So many random words of 64 bits: splitmix64, the same wherever it runs."""
    words = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(_hash(str(key)))
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _bits(words: NDArray[np.uint64], at: int, count: int) -> Whole:
    """Some bits of each word as a number."""
    return ((words >> np.uint64(at)) & np.uint64((1 << count) - 1)).astype(np.int64)


def _wave(at: int, length: int) -> float:
    """A triangle between -1 and 1."""
    place = at % length / length
    return 4 * abs(place - 0.5) - 1

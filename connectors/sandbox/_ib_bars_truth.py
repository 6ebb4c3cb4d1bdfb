"""What the sandbox gateway's bars must be, for tests and for people who compare: needs no gateway."""

from __future__ import annotations

from typing import NamedTuple


class BarRow(NamedTuple):
    """One bar.

    Attributes:
        start_ns: its start, nanoseconds since 1970 UTC.
        open: USD, like the prices below.
        high: highest.
        low: lowest.
        close: last.
        volume: shares; -1 for quotes.
        wap: average weighted by volume; -1 for quotes.
        trades: how many; -1 for quotes.
    """

    start_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: int
    wap: float
    trades: int


def bars_truth(
    symbol: str,
    bar_size: str,
    start_ns: int,
    end_ns: int,
    *,
    use_rth: bool = True,
    what: str = "TRADES",
    seed: int = 0,
) -> list[BarRow]:
    """The bars of the invented market from `start_ns` to `end_ns` that lie wholly inside, in order of time.

    Faults, the day of a symbol's listing and the gateway's present are no part of it.

    Args:
        symbol: in the vendor's spelling.
        bar_size: `1 sec`, `1 min`, `1 hour` or another of the vendor's spellings.
        start_ns: nanoseconds since 1970 UTC.
        end_ns: likewise.
        use_rth: regular hours alone.
        what: `TRADES`, `MIDPOINT`, `BID`, `ASK` or `BID_ASK`.
        seed: of the gateway.

    Raises:
        ValueError: there are no such bars here.
    """
    # numpy, which a gateway without historical requests need not load
    from connectors.sandbox._ib_bars_market import BarsMarket  # noqa: PLC0415
    from connectors.sandbox._ib_bars_request import WHAT_TO_SHOW, bar_size_s  # noqa: PLC0415 - with it

    if what not in WHAT_TO_SHOW:
        raise ValueError(f"what is {what!r}, none of {', '.join(WHAT_TO_SHOW)}")
    second = 10**9
    start_s, end_s = -(-start_ns // second), end_ns // second
    return BarsMarket(seed).bars(symbol, bar_size_s(bar_size), start_s, end_s, use_rth=use_rth, what=what).rows()

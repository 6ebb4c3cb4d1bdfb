"""What every MBP record must be like, whatever the market did: a flipped bit seldom passes all of it.

zstd frames may come without a checksum, and the wire has none either; then only the records themselves can tell that a
download is damaged. Sizes cannot be checked: any number is a size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from connectors.databento.errors import VerificationFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from connectors.databento.request import DayRequest

FLAG_BAD_TS_RECV = 8
"""The vendor's own mark of a record whose receive time may be wrong."""

US_EQUITY_TICK = 100_000
"""Smallest price step of US equities, 0.0001 USD, in the wire's 1e-9 units (Reg NMS rule 612)."""

US_EQUITY_VENUES = frozenset(
    {
        *("ARCX", "BATS", "BATY", "DBEQ", "EDGA", "EDGX", "EPRL", "EQUS", "IEXG"),
        *("MEMX", "XASE", "XBOS", "XCHI", "XCIS", "XNAS", "XNYS", "XPSX"),
    }
)

_UNDEF_PRICE = np.iinfo(np.int64).max
_ACTIONS = np.zeros(256, bool)
_ACTIONS[list(b"ACMTRFN")] = True
_SIDES = np.zeros(256, bool)
_SIDES[list(b"ABN")] = True


class RecordCheck:
    """Checks chunks of one download in order.

    Args:
        request: what was asked for.
    """

    def __init__(self, request: DayRequest) -> None:
        self._request = request
        self._tick = US_EQUITY_TICK if request.dataset.partition(".")[0] in US_EQUITY_VENUES else 1
        self._last_ns = request.start_ns
        self._seen = 0

    def check(self, chunk: NDArray[np.void]) -> None:
        """Check the next chunk.

        Raises:
            VerificationFailed: with reason `corrupt`, naming what a record holds that none can.
        """
        self._refuse(chunk["length"] != chunk.dtype.itemsize // 4, "has a wrong length")
        self._refuse(~_ACTIONS[chunk["action"].view("u1")], "has an unknown action")
        self._refuse(~_SIDES[chunk["side"].view("u1")], "has an unknown side")
        recv_ns = chunk["ts_recv"].astype(np.int64)
        late = np.diff(recv_ns, prepend=self._last_ns) < 0
        self._refuse(late & (chunk["flags"] & FLAG_BAD_TS_RECV == 0), "goes back in time")
        outside = (recv_ns < self._request.start_ns) | (recv_ns >= self._request.end_ns)
        self._refuse(outside, "lies outside the time asked for")
        levels = chunk["levels"]
        for side, falling in (("bid", True), ("ask", False)):
            prices = levels[f"{side}_px"]
            nearer, farther = prices[:, :-1], prices[:, 1:]
            # An absent level is the largest price there is, so one comparison finds every pair out of order.
            if falling:
                wrong = (farther >= nearer) & (farther != _UNDEF_PRICE)
            else:
                wrong = (nearer >= farther) & (nearer != _UNDEF_PRICE)
            self._refuse(wrong.any(axis=1), f"has {side} levels out of order")
            absent = prices == _UNDEF_PRICE
            self._refuse((absent & (levels[f"{side}_sz"] != 0)).any(axis=1), f"has a {side} size without a price")
            if self._tick > 1:
                self._refuse(((prices % self._tick != 0) & ~absent).any(axis=1), f"has a {side} price off every tick")
        self._last_ns = int(recv_ns[-1])
        self._seen += len(chunk)

    def _refuse(self, wrong: NDArray[np.bool_], what: str) -> None:
        if wrong.any():
            number = self._seen + int(np.argmax(wrong))
            raise VerificationFailed(f"{self._request.label}: record {number} {what}", reason="corrupt")

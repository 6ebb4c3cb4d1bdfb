"""The spend ceiling of one run: every attempt is paid for, so every attempt is reserved before it is made."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from connectors.databento.errors import CeilingReached, TerminalError

if TYPE_CHECKING:
    from connectors.databento.client import Circuit


class SpendCeiling:
    """Counts what a run spends at the vendor and stops it before it would pass its ceiling.

    Args:
        max_usd: ceiling in US dollars; None for none.
        circuit: opened when the ceiling is reached, so that no later task buys either.
    """

    def __init__(self, max_usd: float | None, circuit: Circuit) -> None:
        self.max_usd = max_usd
        self._circuit = circuit
        self._lock = threading.Lock()
        self._spent_usd = 0.0
        self._all_priced = True
        self._held_usd = 0.0

    @property
    def spent_usd(self) -> float:
        """What the attempts so far cost, in US dollars, each at the vendor's full price for its request."""
        return self._spent_usd

    @property
    def total_usd(self) -> float | None:
        """As `spent_usd`, or None when an attempt was billed whose price the vendor had not given."""
        return self._spent_usd if self._all_priced else None

    def reserve(self, label: str, cost_usd: float | None) -> Reservation:
        """Set one attempt's price aside.

        Raises:
            CeilingReached: the run would pass its ceiling.
            TerminalError: the price is unknown and there is a ceiling.
        """
        if cost_usd is None and self.max_usd is not None:
            raise TerminalError(
                f"{label}: the vendor gave no price, so DATABENTO_MAX_COST_USD={self.max_usd:g} cannot be kept "
                "[run again, or unset the ceiling]",
                reason="cost_unknown",
            )
        cost = cost_usd or 0.0
        with self._lock:
            total = self._spent_usd + self._held_usd + cost
            # A cent's billionth of slack: sums of doubles.
            # Not `>`: a price that is no number must not pass either.
            if self.max_usd is not None and not total <= self.max_usd + 1e-9:
                error = CeilingReached(
                    f"{label}: {cost:.4f} USD more would pass DATABENTO_MAX_COST_USD={self.max_usd:g} "
                    f"({self._spent_usd + self._held_usd:.4f} spent or under way) [raise the ceiling and run again]",
                    reason="cost_ceiling",
                )
                self._circuit.open(error)
                raise error
            self._held_usd += cost
        return Reservation(self, cost_usd)

    def _settle(self, cost_usd: float | None, *, billed: bool) -> None:
        with self._lock:
            self._held_usd -= cost_usd or 0.0
            if billed:
                self._spent_usd += cost_usd or 0.0
                self._all_priced = self._all_priced and cost_usd is not None


class Reservation:
    """One attempt's price; billed as soon as the vendor begins to send, whatever comes of it."""

    def __init__(self, ceiling: SpendCeiling, cost_usd: float | None) -> None:
        self._ceiling = ceiling
        self._cost_usd = cost_usd
        self.billed = False

    def bill(self) -> None:
        """The vendor has begun to send."""
        self.billed = True

    def close(self) -> float:
        """End the attempt; what it cost, in US dollars."""
        self._ceiling._settle(self._cost_usd, billed=self.billed)  # noqa: SLF001 - two halves of one ledger
        return (self._cost_usd or 0.0) if self.billed else 0.0

"""The clock that stamps what arrives: UTC nanoseconds that never run backwards. What a jump means is not known here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

JUMP_NS: Final = 250_000_000
"""The wall clock has jumped when it moves by more than this against the monotonic clock."""

_UNDISTURBED_NS: Final = 50_000_000
_TRIES: Final = 3


@dataclass(frozen=True)
class Jump:
    """The wall clock moved against the monotonic clock, e.g. it was set, or the machine slept.

    Attributes:
        old_ns: Our time just before it was noticed, nanoseconds since 1970 UTC.
        new_ns: Our time from now on; equal to `old_ns` when the wall clock is behind it, for ours never goes back.
        by_ns: How far the wall clock moved; negative is back.
    """

    old_ns: int
    new_ns: int
    by_ns: int


class ReceiptClock:
    """UTC by the wall clock of the moment it was made, carried on by the monotonic clock.

    Setting the wall clock therefore moves nothing until `check` is asked, and then only forward. Network time that is
    merely slewed moves both clocks alike.

    Args:
        wall_ns: Nanoseconds since 1970 UTC.
        monotonic_ns: Nanoseconds since any moment, never decreasing.
    """

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._offset_ns = wall_ns() - monotonic_ns()
        self._ahead_ns = 0
        self._last_ns = 0

    def now_ns(self) -> int:
        """Return nanoseconds since 1970 UTC, never less than before."""
        now_ns = self._monotonic_ns() + self._offset_ns
        if now_ns < self._last_ns:
            return self._last_ns
        self._last_ns = now_ns
        return now_ns

    def check(self) -> Jump | None:
        """Compare with the wall clock; ask about once a second.

        A jump forward is followed at once. After one back our time goes on as it was, ahead of the wall clock, until
        that has passed it.

        Returns:
            The jump since the last question, or None when there was none.
        """
        read = self._read_both()
        if read is None:
            return None
        wall_ns, ours_ns = read
        ahead_ns = ours_ns - wall_ns
        by_ns = self._ahead_ns - ahead_ns
        if abs(by_ns) <= JUMP_NS:
            return None
        old_ns = self.now_ns()
        self._ahead_ns = max(0, ahead_ns)
        if ahead_ns >= 0:
            return Jump(old_ns, old_ns, by_ns)
        self._offset_ns -= ahead_ns
        return Jump(old_ns, self.now_ns(), by_ns)

    def _read_both(self) -> tuple[int, int] | None:
        for _ in range(_TRIES):
            before_ns = self._monotonic_ns()
            wall_ns = self._wall_ns()
            after_ns = self._monotonic_ns()
            # A pause of the process between the readings would look like a jump.
            if after_ns - before_ns <= _UNDISTURBED_NS:
                return wall_ns, after_ns + self._offset_ns
        return None

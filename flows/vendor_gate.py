"""The vendor's limits as the Databento connector wants them: one gate before every request and around every stream."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from flows.limits import LIMITS, RequestWindows, Slots, limit_named

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STREAMS = "databento.streams"


class DatabentoGate:
    """Keeps request rates and open streams within `flows.limits.LIMITS`.

    Args:
        cache_path: CACHE_PATH, where all processes of this machine meet; None keeps the limits in this process only
            and writes nothing.
    """

    def __init__(self, cache_path: Path | None) -> None:
        rules = [row for row in LIMITS if row.vendor == "databento" and row.window_s is not None]
        streams = limit_named(STREAMS).limit
        if cache_path is None:
            self._windows = RequestWindows.in_memory(rules)
            self._slots = Slots.in_memory(STREAMS, streams)
        else:
            folder = cache_path / "limits"
            self._windows = RequestWindows(folder / "requests.sqlite", rules)
            self._slots = Slots(folder, STREAMS, streams)

    def acquire(self, family: str) -> None:
        """Wait until one more request of `metadata`, `symbology` or `timeseries` may be sent."""
        self._windows.acquire(f"databento.{family}")

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Hold one of the streams that may be open at once."""
        with self._slots.acquire():
            yield

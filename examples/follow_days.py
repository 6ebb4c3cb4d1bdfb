"""Follow new days of market data as they come, the way an ML project does: wait for an event, then load its day.

Run it beside the platform's Prefect server; the data root may be mounted elsewhere than on the machine that wrote it:

    PREFECT_API_URL=http://127.0.0.1:4200/api python examples/follow_days.py /mnt/data

It needs `prefect` and the wheel `marketdata-contracts`, nothing else of the platform. An event says that a day is on
disk; the manifest says it too, so a program that was away first reads the manifest and follows events from there.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter

import contracts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LEVEL2, BARS, COVERAGE = "level2.day.written", "bars.day.written", "coverage.refreshed"
FROM_THE_COMMAND_LINE = 1


async def news() -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yield name and facts of each event from now on, and of those of the last minute."""
    wanted = EventFilter(event=EventNameFilter(name=[LEVEL2, BARS, COVERAGE]))
    async with get_events_subscriber(filter=wanted, reconnect_on_clean_close=True) as events:
        async for event in events:
            yield event.event, event.payload


async def days() -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yield the facts of each day that can be loaded."""
    waiting: list[dict[str, Any]] = []
    async for name, facts in news():
        if name == LEVEL2:
            yield name, facts
        elif name == BARS:
            waiting.append(facts)
        else:
            for each in waiting:
                yield BARS, each
            waiting.clear()


def load(data: contracts.MarketData, name: str, facts: dict[str, Any]) -> str:
    """Load a day; one line about it."""
    what = f"{facts['symbol']} {facts['date']}"
    if name == BARS:
        bars = data.bars(facts["symbol"], facts["bar_size"], facts["date"])
        return f"{what}: {bars.num_rows} bars of {facts['bar_size']}"
    book = data.matrices(facts["symbol"], facts["date"], source=facts["source"])
    spread = (book.ask_prices[:, 0] - book.bid_prices[:, 0]).mean()
    return f"{what}: {len(book.ts_ns)} books, mean spread {spread:.4f} USD"


async def main(root: str) -> None:
    """Print a line per day, until interrupted."""
    data = contracts.MarketData(root)
    async for name, facts in days():
        try:
            print(load(data, name, facts), flush=True)
        except contracts.ContractError as error:
            # Another data root, perhaps; one day that cannot be read must not end the watch.
            print(f"not loaded: {error}", file=sys.stderr, flush=True)
        except KeyError as error:
            # Anybody may send events to the server.
            print(f"not loaded: the event does not say {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[FROM_THE_COMMAND_LINE]))

"""What a test or a person can do with a sandbox gateway, whether it runs in a thread or in a process of its own."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from connectors.sandbox._ib_bars_truth import BarRow, bars_truth
from connectors.sandbox._ib_market import Row
from connectors.sandbox._ib_records import BarsRequest, DepthRequest, SentBatch, SentDepth, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Self

    Operation = tuple[int, int, int, float, float] | tuple[int, int, int, float, float, str]

_POLL_S: Final = 0.005


class GatewayBook(NamedTuple):
    """The rows that a client must hold when it has everything that was sent, best first."""

    bid: list[Row]
    ask: list[Row]


class GatewayControls(ABC):
    """The controls. All of them are safe to call from any thread; none waits for a client.

    Those that name a symbol mean all of its depth subscriptions, and raise ValueError when there is none.

    Attributes:
        host: where the gateway listens.
        port: likewise.
        seed: of the invented market.
    """

    host: str
    port: int
    seed: int

    def env(self) -> dict[str, str]:
        """The environment in which a client of this project finds the gateway."""
        return {"IB_HOST": self.host, "IB_PORT": str(self.port)}

    @abstractmethod
    def _do(self, control: str, **arguments: Any) -> Any:
        """Have the gateway do it; the controls are the public methods of `_ib_actions.GatewayActions`."""

    def wait_for(self, condition: Callable[[Self], object], timeout_s: float = 10.0) -> None:
        """Wait until a condition holds. Blocks: inside a client's event loop call it with `asyncio.to_thread`.

        Raises:
            TimeoutError: it did not become true in time.
        """
        deadline = time.monotonic() + timeout_s
        while not condition(self):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the sandbox gateway's condition did not become true within {timeout_s:g} s")
            time.sleep(_POLL_S)

    # What flows.

    def send_depth(self, symbol: str, operations: Iterable[Operation]) -> None:
        """Send scripted depth messages: (position, operation, side, price, size[, market maker]).

        Operation 0 adds, 1 updates, 2 removes; side 0 is ask, 1 is bid. They are sent as given, also impossible ones.
        Generated messages would mix with them: use `rate_per_s=0`.
        """
        self._do("send_depth", symbol=symbol, operations=[tuple(operation) for operation in operations])

    def set_rate(self, rate_per_s: float, symbol: str | None = None) -> None:
        """Another rate of generated messages, of one symbol or of all; 0 stops them."""
        self._do("set_rate", rate_per_s=rate_per_s, symbol=symbol)

    def load(self, symbol: str, messages_per_s: float, seconds: float) -> None:
        """Begin load mode on a symbol; `is_loading` says when it has ended.

        Messages are encoded beforehand and sent at an even pace, so that 20,000 a second in all cost little. They are
        counted (`sent_counts`, `batches`), not kept in `sent`.
        """
        self._do("load", symbol=symbol, messages_per_s=messages_per_s, seconds=seconds)

    def is_loading(self) -> bool:
        """Whether a load is running or being prepared."""
        return bool(self._do("is_loading"))

    # What goes wrong.

    def error(self, code: int, text: str = "", symbol: str | None = None) -> None:
        """Send a code, to a symbol's requests or to every client with request id -1.

        Of all codes only 316 and 317 for a symbol do more than be sent: the client's rows are gone; after 316 nothing
        flows; after 317 generated messages begin a fresh book.

        Args:
            code: of an error or a notice.
            text: empty: the vendor's.
            symbol: whose requests.
        """
        self._do("error", code=code, text=text, symbol=symbol)

    def reset(self, symbol: str) -> None:
        """317, then the book afresh."""
        self._do("reset", symbol=symbol)

    def halt(self, symbol: str) -> None:
        """316: nothing more flows, and the line stays used until it is cancelled."""
        self._do("halt", symbol=symbol)

    def lose(self) -> None:
        """1100: nothing flows until `restore`."""
        self._do("lose")

    def restore(self, *, data_lost: bool) -> None:
        """1101 and every subscription and historical request is forgotten, or 1102 and they go on."""
        self._do("restore", data_lost=data_lost)

    def farm(self, for_s: float, dead: Sequence[str] = (), *, flowing: bool = False) -> None:
        """2103, and 2104 after `for_s`.

        Args:
            for_s: seconds between them.
            dead: symbols whose subscriptions never speak again.
            flowing: messages go on in between; otherwise nothing flows.
        """
        self._do("farm", for_s=for_s, dead=list(dead), flowing=flowing)

    def hmds_farm(self, for_s: float) -> None:
        """2105, and 2106 after `for_s`; historical requests are taken and answered afterwards."""
        self._do("hmds_farm", for_s=for_s)

    def set_now(self, now: str | None) -> None:
        """Make it another moment, from which time goes on: ISO 8601 with an offset; None: the real time."""
        self._do("set_now", now=now)

    def drop(self, *, mid_message: bool = False, refuse_for_s: float = 0.0) -> None:
        """Close every connection, inside a message if so wished, and refuse new ones for a while."""
        self._do("drop", mid_message=mid_message, refuse_for_s=refuse_for_s)

    def silence(self, symbol: str | None = None, on: bool = True) -> None:
        """No depth messages, of one symbol or of all; everything else is answered."""
        self._do("silence", symbol=symbol, on=on)

    def hang(self, on: bool = True) -> None:
        """Answer and send nothing at all on open connections; what came meanwhile is answered at the end."""
        self._do("hang", on=on)

    def slow(self, delay_s: float) -> None:
        """Everything comes so much later, in order; 0 ends it."""
        self._do("slow", delay_s=delay_s)

    def late_after_cancel(self, count: int) -> None:
        """So many messages of the request follow each cancel."""
        self._do("late_after_cancel", count=count)

    def add_fault(self, fault: str) -> None:
        """Put a fault in force, in its written form.

        Raises:
            ValueError: it cannot be read; the message lists what is known.
        """
        self._do("add_fault", fault=fault)

    def clear_faults(self) -> None:
        """No more faults; what is going on, such as a lost connection, comes to its own end."""
        self._do("clear_faults")

    # What was seen.

    def book(self, symbol: str) -> GatewayBook:
        """The rows that the client of the symbol's newest subscription must hold when it has everything."""
        rows = self._do("book", symbol=symbol)
        return GatewayBook(*([Row(*row) for row in rows[side]] for side in ("bid", "ask")))

    @property
    def violations(self) -> list[Violation]:
        """Rules that clients broke, oldest first."""
        return [Violation(*row) for row in self._pages("violations")]

    @property
    def sent(self) -> list[SentDepth]:
        """Every depth message outside load mode, oldest first."""
        return [SentDepth(*row) for row in self._pages("sent")]

    @property
    def batches(self) -> list[SentBatch]:
        """What load mode sent, write by write."""
        return [SentBatch(*row) for row in self._pages("batches")]

    @property
    def requests(self) -> list[DepthRequest]:
        """Depth subscriptions and cancels as they came, oldest first."""
        return [DepthRequest(*row) for row in self._pages("requests")]

    @property
    def bars_requests(self) -> list[BarsRequest]:
        """Historical requests and their cancels as they came, oldest first."""
        return [BarsRequest(*row) for row in self._pages("bars_requests")]

    def bars_truth(
        self,
        symbol: str,
        bar_size: str,
        start_ns: int,
        end_ns: int,
        use_rth: bool = True,
        what: str = "TRADES",
    ) -> list[BarRow]:
        """The bars that a client must hold of a symbol, see `_ib_bars_truth.bars_truth`; made in this process."""
        return bars_truth(symbol, bar_size, start_ns, end_ns, use_rth=use_rth, what=what, seed=self.seed)

    @property
    def bars_open(self) -> int:
        """Historical requests that have no answer now."""
        return int(self._do("bars_open"))

    @property
    def request_names(self) -> dict[str, int]:
        """How often each kind of client message came, by the name of the client's method."""
        return dict(self._do("request_names"))

    @property
    def sent_counts(self) -> dict[str, int]:
        """Depth messages by symbol, those of load mode included."""
        return dict(self._do("sent_counts"))

    @property
    def depth_lines_used(self) -> int:
        """Depth lines in use now."""
        return int(self._do("depth_lines_used"))

    @property
    def clients(self) -> list[int]:
        """Client ids that are connected now."""
        return list(self._do("clients"))

    def _pages(self, control: str) -> list[Any]:
        rows: list[Any] = []
        while page := self._do(control, start=len(rows)):
            rows += page
        return rows

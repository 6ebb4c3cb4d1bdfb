"""What a test or a person can have a sandbox gateway do, and what it tells about itself.

Every public method of `GatewayActions` is a control: it is called in the gateway's loop, from another thread by
`ib_gateway` or from another process by `_ib_control`, and its arguments and answers are plain JSON values. What they
mean is said in `_ib_controls`, where callers meet them.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from connectors.sandbox._ib_depth import operation_of
from connectors.sandbox._ib_faults import moment_of, parse_gateway_fault
from connectors.sandbox._ib_load import EncodedCycle, Load
from connectors.sandbox._ib_wire import error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from connectors.sandbox._ib_core import GatewayCore
    from connectors.sandbox._ib_depth import Subscription
    from connectors.sandbox._ib_faults import GatewayFault

_HALTED: Final = 316
_RESET: Final = 317
_MOST_PER_S: Final = 1_000_000
_PAGE: Final = 50_000


class GatewayActions:
    """The controls of one gateway.

    Args:
        core: the gateway.
    """

    def __init__(self, core: GatewayCore) -> None:
        self._core = core

    @classmethod
    def names(cls) -> list[str]:
        """The controls there are."""
        inner = {"names", "carry_out", "call"}
        return sorted(name for name in vars(cls) if not name.startswith("_") and name not in inner)

    def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Carry out a control.

        Raises:
            ValueError: there is no such control, or it cannot be carried out.
            TypeError: it takes other arguments.
        """
        if name not in self.names():
            raise ValueError(f"there is no control {name!r}; there are {', '.join(self.names())}")
        return getattr(self, name)(**arguments)

    # What was seen.

    def clients(self) -> list[int]:
        """Client ids that are connected."""
        return self._core.clients()

    def depth_lines_used(self) -> int:
        """Depth lines in use."""
        return len(self._core.lines)

    def violations(self, start: int = 0) -> list[Any]:
        """Broken rules from number `start` on."""
        return list(self._core.records.violations[start : start + _PAGE])

    def sent(self, start: int = 0) -> list[Any]:
        """Depth messages from number `start` on, at most 50,000."""
        return list(self._core.records.sent[start : start + _PAGE])

    def batches(self, start: int = 0) -> list[Any]:
        """Load batches from number `start` on, at most 50,000."""
        return list(self._core.records.batches[start : start + _PAGE])

    def requests(self, start: int = 0) -> list[Any]:
        """Depth requests from number `start` on, at most 50,000."""
        return list(self._core.records.depth_requests[start : start + _PAGE])

    def bars_requests(self, start: int = 0) -> list[Any]:
        """Historical requests from number `start` on, at most 50,000."""
        return list(self._core.records.bars_requests[start : start + _PAGE])

    def bars_open(self) -> int:
        """Historical requests without an answer."""
        return len(self._core.bars)

    def request_names(self) -> dict[str, int]:
        """Every client message by name."""
        return dict(self._core.records.requests)

    def sent_counts(self) -> dict[str, int]:
        """Every depth message by symbol."""
        return dict(self._core.records.sent_counts)

    def book(self, symbol: str) -> dict[str, list[Any]]:
        """The rows of the symbol's newest subscription."""
        rows = self._core.lines.held(self._core.lines.of(symbol)[-1])
        return {"bid": list(rows.bid), "ask": list(rows.ask)}

    def is_loading(self) -> bool:
        """Whether a load runs or is being prepared."""
        return self._core.is_working or any(line.load for line in self._core.lines)

    # What flows.

    def send_depth(self, symbol: str, operations: Iterable[Iterable[object]]) -> None:
        """Scripted operations."""
        self._core.lines.script(symbol, [operation_of(operation) for operation in operations])

    def set_rate(self, rate_per_s: float, symbol: str | None = None) -> None:
        """Another rate of generated messages."""
        if not 0 <= rate_per_s <= _MOST_PER_S:
            raise ValueError(f"rate_per_s is {rate_per_s}, not from 0 to {_MOST_PER_S}")
        self._core.lines.set_rate(rate_per_s, symbol)

    def load(self, symbol: str, messages_per_s: float, seconds: float) -> None:
        """Load mode on every line of a symbol that is not loaded yet."""
        if not (0 < messages_per_s <= _MOST_PER_S and seconds > 0):
            raise ValueError(f"a load of {messages_per_s} messages/s for {seconds} s is none that can be sent")
        for line in self._core.lines.of(symbol):
            if not line.is_loading:
                line.is_loading = True
                self._core.lines.stop_flow(line)
                self._core.run(self._load(line, messages_per_s, round(messages_per_s * seconds)))

    async def _load(self, line: Subscription, messages_per_s: float, total: int) -> None:
        core = self._core
        market = core.lines.show_market(line)
        encoded = await asyncio.to_thread(EncodedCycle, line, market, total)
        if line in core.lines and not line.is_halted:
            line.load = Load(core.loop, core.lines, core.records, line, encoded, messages_per_s, total)

    # What goes wrong.

    def add_fault(self, fault: str) -> None:
        """Put a fault in force."""
        self._core.faults.add(parse_gateway_fault(fault))

    def clear_faults(self) -> None:
        """No more faults."""
        self._core.faults.clear()

    def error(self, code: int, text: str = "", symbol: str | None = None) -> None:
        """Send a code."""
        lines = [] if symbol is None else self._core.lines.of(symbol)
        self._log("error", code=code, symbol=symbol)
        if symbol is None:
            self._core.tell_all(code, text)
        for line in lines:
            if code == _RESET:
                self._core.lines.reset(line, refill=False)
            elif code == _HALTED:
                self._core.lines.halt(line)
            else:
                line.session.error(line.request_id, code, text or error_text(code))

    def reset(self, symbol: str) -> None:
        """317 and the book afresh."""
        lines = self._core.lines.of(symbol)
        self._log("reset-317", symbol=symbol)
        for line in lines:
            self._core.lines.reset(line)

    def halt(self, symbol: str) -> None:
        """316."""
        lines = self._core.lines.of(symbol)
        self._log("halt-316", symbol=symbol)
        for line in lines:
            self._core.lines.halt(line)

    def lose(self) -> None:
        """1100."""
        self._log("lose")
        self._core.pause("lose")
        self._core.tell_all(1100)

    def restore(self, *, data_lost: bool) -> None:
        """1101 or 1102."""
        self._log("restore", data_lost=data_lost)
        if data_lost:
            self._core.lines.close_all()
            self._core.bars.forget()
        self._core.tell_all(1101 if data_lost else 1102)
        self._core.resume("lose")

    def farm(self, for_s: float, dead: Sequence[str] = (), *, flowing: bool = False) -> None:
        """2103, and 2104 after a while."""
        self._log("farm", for_s=for_s, dead=list(dead), flowing=flowing)
        self._core.tell_all(2103)
        if not flowing:
            self._core.pause("farm")
        for line in self._core.lines:
            line.is_dead = line.is_dead or line.symbol in dead

        def mended() -> None:
            self._core.tell_all(2104)
            self._core.resume("farm")

        self._core.loop.call_later(for_s, mended)

    def hmds_farm(self, for_s: float) -> None:
        """2105, and 2106 after a while."""
        self._log("bars-farm", for_s=for_s)
        self._core.tell_all(2105)
        self._core.bars.pause("hmds")

        def mended() -> None:
            self._core.tell_all(2106)
            self._core.bars.resume("hmds")

        self._core.loop.call_later(for_s, mended)

    def set_now(self, now: str | None) -> None:
        """Another moment."""
        self._core.set_now(None if now is None else moment_of(now))

    def drop(self, *, mid_message: bool = False, refuse_for_s: float = 0.0) -> None:
        """Close every connection, refuse new ones for a while."""
        self._log("drop", mid_message=mid_message, refuse_for_s=refuse_for_s)
        if refuse_for_s > 0:
            self._core.refuse_connections(refuse_for_s)
        self._core.close_all(mid_message=mid_message)

    def silence(self, symbol: str | None = None, *, on: bool = True) -> None:
        """No depth messages."""
        self._log("silence", symbol=symbol, on=on)
        lines = self._core.lines
        if symbol is None:
            lines.all_silent = on
        elif on:
            lines.silent.add(symbol)
        else:
            lines.silent.discard(symbol)

    def hang(self, *, on: bool = True) -> None:
        """Nothing is read or sent."""
        self._log("hang", on=on)
        if on:
            self._core.pause("hang")
        else:
            self._core.resume("hang")

    def slow(self, delay_s: float) -> None:
        """Everything comes late."""
        self._log("slow", delay_s=delay_s)
        self._core.delay_s = delay_s

    def late_after_cancel(self, count: int) -> None:
        """Messages follow each cancel."""
        self._core.faults.late_after_cancel = count

    def carry_out(self, fault: GatewayFault, symbol: str | None) -> None:
        """What an event fault says, now; its end is set here too. Its symbol may not be subscribed at this moment."""
        values = fault.values
        with contextlib.suppress(ValueError):
            if fault.kind == "reset-317" and symbol is not None:
                self.reset(symbol)
            elif fault.kind == "halt-316" and symbol is not None:
                self.halt(symbol)
            elif fault.kind == "lose":
                self.lose()
                self._end_after(values["for_s"], lambda: self.restore(data_lost=values["data_lost"]))
            elif fault.kind == "farm":
                self.farm(values["for_s"], values["dead"], flowing=values["flowing"])
            elif fault.kind == "drop":
                self.drop(mid_message=values["mid_message"], refuse_for_s=values["refuse_for_s"])
            elif fault.kind == "error":
                self.error(values["code"], values["text"], symbol)
            else:
                self._begin_spell(fault, symbol)

    def _begin_spell(self, fault: GatewayFault, symbol: str | None) -> None:
        values = fault.values
        if fault.kind == "bars-farm":
            self.hmds_farm(values["for_s"])
        elif fault.kind == "silence":
            self.silence(symbol)
            self._end_after(values["for_s"], lambda: self.silence(symbol, on=False))
        elif fault.kind == "hang":
            self.hang()
            self._end_after(values["for_s"], lambda: self.hang(on=False))
        elif fault.kind == "slow":
            self.slow(values["delay_s"])
            self._end_after(values["for_s"], lambda: self.slow(0.0))

    def _end_after(self, for_s: float | None, end: Callable[[], None]) -> None:
        if for_s is not None:
            self._core.loop.call_later(for_s, end)

    def _log(self, fault: str, **values: object) -> None:
        self._core.records.log(fault=fault, **values)

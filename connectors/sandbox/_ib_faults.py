"""Faults of the sandbox gateway in written form, and those in force.

Written form: `KIND[:NAME=VALUE[,NAME=VALUE]...]`, several values joined by `+`, for example
`lose:after_s=3,for_s=2,data_lost=1`. Carrying out what happens at a moment is `_ib_core`'s work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Mapping

_YES_NO: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _truth(text: str) -> bool:
    if text.lower() not in _YES_NO:
        raise ValueError("it is neither 1 nor 0")
    return _YES_NO[text.lower()]


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1e6:  # noqa: PLR2004 - about eleven days
        raise ValueError("it is not from 0 to 1000000 seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError("it is negative")
    return value


def _symbols(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.upper().split("+")))


def _ids(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+"))


_Readers: TypeAlias = "dict[str, tuple[Callable[[str], Any], Any]]"
_WHEN: Final[_Readers] = {"after_s": (_seconds, 0.0), "times": (_count, 1), "every_s": (_seconds, 5.0)}
_SYMBOL: Final[_Readers] = {"symbol": (str.upper, None)}


@dataclass(frozen=True)
class Kind:
    """A kind of fault: what it means, how each value is read and its default, whether it happens at a time."""

    meaning: str
    values: _Readers
    is_event: bool = True


KINDS: Final[dict[str, Kind]] = {
    "reset-317": Kind("317, then the book afresh", {**_SYMBOL, **_WHEN}),
    "halt-316": Kind("316; nothing more flows until a new request", {**_SYMBOL, **_WHEN}),
    "lose": Kind(
        "1100, nothing flows for_s=2, then 1102, or with data_lost=1 1101 and every subscription is forgotten",
        {**_WHEN, "for_s": (_seconds, 2.0), "data_lost": (_truth, False)},
    ),
    "farm": Kind(
        "2103, nothing flows (unless flowing=1) for_s=2, then 2104; dead=A+B never speak again",
        {**_WHEN, "for_s": (_seconds, 2.0), "dead": (_symbols, ()), "flowing": (_truth, False)},
    ),
    "drop": Kind(
        "every connection closes, with mid_message=1 inside a message; new ones are refused for refuse_for_s",
        {**_WHEN, "mid_message": (_truth, False), "refuse_for_s": (_seconds, 0.0)},
    ),
    "silence": Kind(
        "no depth messages (of symbol) for_s, for ever without it", {**_SYMBOL, **_WHEN, "for_s": (_seconds, None)}
    ),
    "hang": Kind(
        "the connection stays open and nothing is read or sent for_s, for ever without it",
        {**_WHEN, "for_s": (_seconds, None)},
    ),
    "slow": Kind(
        "everything comes delay_s=1 late for_s, for ever without it",
        {**_WHEN, "delay_s": (_seconds, 1.0), "for_s": (_seconds, None)},
    ),
    "error": Kind(
        "any message: code, text; to symbol's requests or with request id -1",
        {**_SYMBOL, **_WHEN, "code": (_count, 2110), "text": (str, "")},
    ),
    "busy-client-id": Kind("326 and the end for these client ids", {"ids": (_ids, None)}, is_event=False),
    "no-permission": Kind(
        "depth of symbol is refused with code=354 (a warning, such as 2152, is sent and it is not refused)",
        {**_SYMBOL, "code": (_count, 354)},
        is_event=False,
    ),
    "depth-lines": Kind("309 above so many lines=2", {"lines": (_count, 2)}, is_event=False),
    "late-after-cancel": Kind("count=5 messages follow each cancel", {"count": (_count, 5)}, is_event=False),
    "no-answer": Kind("connections are taken and never answered", {}, is_event=False),
}


@dataclass(frozen=True)
class GatewayFault:
    """One fault; `values` holds everything its kind has, defaults included."""

    kind: str
    values: Mapping[str, Any]

    @property
    def symbol(self) -> str | None:
        """The symbol it is for; None: every one, or it is for none."""
        symbol: str | None = self.values.get("symbol")
        return symbol


def parse_gateway_fault(spec: str) -> GatewayFault:
    """The fault that `spec` writes, such as `reset-317:symbol=AAPL,after_s=5`.

    Raises:
        ValueError: not of that form; the message says what is wrong and lists what is known.
    """
    name, _, rest = spec.strip().partition(":")
    kind = KINDS.get(name)
    if kind is None:
        raise ValueError(f"unknown fault {name!r}; known are {', '.join(sorted(KINDS))}")
    values = {name: default for name, (_, default) in kind.values.items()}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = part.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not value:
            raise ValueError(f"fault {spec!r}: {part!r} is not NAME=VALUE")
        if key not in kind.values:
            raise ValueError(f"fault {name!r} has no {key}; it has {', '.join(kind.values) or 'no values'}")
        try:
            values[key] = kind.values[key][0](value.strip())
        except ValueError as error:
            raise ValueError(f"fault {spec!r}: cannot read {part!r}: {error}") from None
    if name == "busy-client-id" and values["ids"] is None:
        raise ValueError(f"fault {spec!r} needs ids=N[+N...]")
    return GatewayFault(name, values)


@dataclass
class FaultBook:
    """The faults in force. Times count from the first depth subscription, of the fault's symbol if it has one.

    Args:
        loop: the gateway's.
        carry_out: does what an event fault of a symbol says; the symbol is None for faults of the whole gateway.
        depth_lines: lines of the account.
        refused: symbols and the code that refuses them.
        busy_client_ids: ids that are in use elsewhere.
    """

    loop: asyncio.AbstractEventLoop
    carry_out: Callable[[GatewayFault, str | None], None]
    depth_lines: int
    refused: Mapping[str, int]
    busy_client_ids: Collection[int]
    standing: list[GatewayFault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._usual_lines = self.depth_lines
        self.late_after_cancel = 0
        self._waiting: list[GatewayFault] = []
        self._seen: set[str] = set()
        self._timers: set[asyncio.TimerHandle] = set()

    def add(self, fault: GatewayFault) -> None:
        """Put a fault in force."""
        if not KINDS[fault.kind].is_event:
            self.standing.append(fault)
            if fault.kind == "depth-lines":
                self.depth_lines = fault.values["lines"]
            return
        self._waiting.append(fault)
        for symbol in sorted(self._seen):
            self._begin(fault, symbol)

    def clear(self) -> None:
        """No more faults; what is going on, such as a lost connection, comes to its own end."""
        self.standing.clear()
        self._waiting.clear()
        self.late_after_cancel = 0
        self.depth_lines = self._usual_lines
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def subscribed(self, symbol: str) -> None:
        """A depth subscription was made: the faults that waited for it begin to count."""
        if symbol not in self._seen:
            self._seen.add(symbol)
            for fault in list(self._waiting):
                self._begin(fault, symbol)

    def _begin(self, fault: GatewayFault, symbol: str) -> None:
        per_symbol = "symbol" in fault.values
        if fault not in self._waiting or fault.symbol not in (None, symbol):
            return
        if not per_symbol or fault.symbol is not None or fault.kind in ("silence", "error"):
            self._waiting.remove(fault)
        for time_number in range(fault.values["times"]):
            after_s = fault.values["after_s"] + time_number * fault.values["every_s"]
            target = symbol if fault.kind in ("reset-317", "halt-316") else fault.symbol
            self._later(after_s, self.carry_out, fault, target)

    def _later(self, after_s: float, call: Callable[..., None], *arguments: object) -> None:
        """Call something later, unless the faults are cleared first."""

        def run() -> None:
            self._timers.discard(timer)
            call(*arguments)

        timer = self.loop.call_later(after_s, run)
        self._timers.add(timer)

    def refusal_of(self, symbol: str) -> int:
        """The code with which depth of a symbol is refused, 0 when it is not."""
        for fault in self.standing:
            if fault.kind == "no-permission" and fault.symbol in (None, symbol):
                return int(fault.values["code"])
        return self.refused.get(symbol, 0)

    def is_busy(self, client_id: int) -> bool:
        """Whether a client id is in use elsewhere."""
        more = [fault.values["ids"] for fault in self.standing if fault.kind == "busy-client-id"]
        return client_id in self.busy_client_ids or any(client_id in ids for ids in more)

    @property
    def late_messages(self) -> int:
        """Messages that follow each cancel."""
        more: list[int] = [fault.values["count"] for fault in self.standing if fault.kind == "late-after-cancel"]
        return self.late_after_cancel + sum(more)

    @property
    def is_mute(self) -> bool:
        """Whether connections are taken and never answered."""
        return any(fault.kind == "no-answer" for fault in self.standing)

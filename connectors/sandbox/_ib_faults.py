"""Faults of the sandbox gateway in written form, and those in force.

Written form: `KIND[:NAME=VALUE[,NAME=VALUE]...]`, several values joined by `+`, for example
`lose:after_s=3,for_s=2,data_lost=1`. Carrying out what happens at a moment is `_ib_core`'s work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from connectors.sandbox._ib_bars_calendar import midnight_s
from connectors.sandbox._ib_bars_request import bar_size_s

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Mapping

    from connectors.sandbox._ib_bars_request import BarsQuery

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


def moment_of(text: str) -> datetime:
    """The moment that ISO 8601 text with an offset writes.

    Raises:
        ValueError: it writes none, or has no offset.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no offset, such as -04:00 or Z")
    return moment


_Readers: TypeAlias = "dict[str, tuple[Callable[[str], Any], Any]]"
_WHEN: Final[_Readers] = {"after_s": (_seconds, 0.0), "times": (_count, 1), "every_s": (_seconds, 5.0)}
_SYMBOL: Final[_Readers] = {"symbol": (str.upper, None)}
_BARS: Final[_Readers] = {
    **_SYMBOL,
    "size": (bar_size_s, None),
    "day": (date.fromisoformat, None),
    "times": (_count, None),
    "after": (_count, 0),
}


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
    "bars-farm": Kind(
        "2105, no historical answers for_s=2, then 2106 and the answers", {**_WHEN, "for_s": (_seconds, 2.0)}
    ),
    "bars-none": Kind("162, HMDS query returned no data", _BARS, is_event=False),
    "bars-no-answer": Kind("a historical request is never answered", _BARS, is_event=False),
    "bars-slow": Kind("the answer takes delay_s=1 longer", {**_BARS, "delay_s": (_seconds, 1.0)}, is_event=False),
    "bars-pacing": Kind("162, pacing violation, although the request is allowed", _BARS, is_event=False),
    "bars-permission": Kind("162, no market data permissions", _BARS, is_event=False),
    "bars-error": Kind("an error: code=162, text", {**_BARS, "code": (_count, 162), "text": (str, "")}, is_event=False),
    "bars-drop": Kind("the connection closes inside the answer", _BARS, is_event=False),
    "bars-duplicates": Kind("some bars come twice", _BARS, is_event=False),
    "bars-outside": Kind("bars from before and after what was asked for come too", _BARS, is_event=False),
    "bars-unordered": Kind("the bars come in no order", _BARS, is_event=False),
    "bars-bad": Kind("one bar's low is above its high", _BARS, is_event=False),
    "bars-naive": Kind("times come as text without a zone, whatever format is asked for", _BARS, is_event=False),
    "bars-forming": Kind("the bar that has not ended comes too", _BARS, is_event=False),
    "listed": Kind("symbol was not traded before day", {**_SYMBOL, "day": (date.fromisoformat, None)}, is_event=False),
}
_NEEDED: Final = {"busy-client-id": ("ids",), "listed": ("symbol", "day")}


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
    if missing := [needed for needed in _NEEDED.get(name, ()) if values[needed] is None]:
        raise ValueError(f"fault {spec!r} needs {' and '.join(f'{needed}=' for needed in missing)}")
    return GatewayFault(name, values)


@dataclass
class FaultBook:
    """The faults in force. Times count from the first depth subscription, of the fault's symbol if it has one.

    The times of those of the whole gateway count from the first historical request too.

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
        self._has_bars = False
        self._timers: set[asyncio.TimerHandle] = set()
        self._met: dict[int, int] = {}

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
        if self._has_bars:
            self._begin_for_bars(fault)

    def clear(self) -> None:
        """No more faults; what is going on, such as a lost connection, comes to its own end."""
        self.standing.clear()
        self._met.clear()
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

    def historical(self) -> None:
        """A historical request came: the faults of the whole gateway begin to count."""
        if not self._has_bars:
            self._has_bars = True
            for fault in list(self._waiting):
                self._begin_for_bars(fault)

    def _begin_for_bars(self, fault: GatewayFault) -> None:
        if "symbol" not in fault.values:
            self._begin(fault, "")

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

    def meeting(self, query: BarsQuery, now_s: int) -> dict[str, GatewayFault]:
        """The faults that a historical request meets, by kind; it is counted on each."""
        found: dict[str, GatewayFault] = {}
        for fault in self.standing:
            values = fault.values
            if not fault.kind.startswith("bars-") or fault.symbol not in (None, query.instrument.symbol):
                continue
            if values["size"] not in (None, query.bar_s):
                continue
            if values["day"] is not None and (query.is_head or not query.touches(values["day"], now_s)):
                continue
            # The book holds its faults for as long as it counts them, so that an id means one of them.
            number = self._met[id(fault)] = self._met.get(id(fault), 0) + 1
            if values["after"] < number and (values["times"] is None or number <= values["after"] + values["times"]):
                found.setdefault(fault.kind, fault)
        return found

    def listed_s(self, symbol: str) -> int:
        """When trading of a symbol began, seconds since 1970 UTC; 0: with the market."""
        days = [fault.values["day"] for fault in self.standing if fault.kind == "listed" and fault.symbol == symbol]
        return max((midnight_s(day) for day in days), default=0)

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

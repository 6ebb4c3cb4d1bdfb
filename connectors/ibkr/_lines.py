"""What happens to the depth lines: asked for, live, blind, asked for again, refused.

A state machine without a socket and without a loop: it is told what the gateway sent and what time has passed, tells
the sink what was seen and what was not, and asks its wire for requests. The session around it is in `depth`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from connectors.ibkr._steps import NS_PER_S, LineSteps
from connectors.ibkr.errors import CodeRule, redact_accounts, rule_for

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from connectors.ibkr._line import DepthSink, Line, Wire
    from connectors.ibkr.clock import Jump

_log = logging.getLogger("connectors.ibkr.depth")

_LIMIT_HOLDS_NS: Final = 300 * NS_PER_S
_LONGEST_OUTAGE_NS: Final = 120 * NS_PER_S
_STRAGGLERS_NS: Final = 5 * NS_PER_S
_LONGEST_SILENCE_S: Final = 1800.0


class DepthLines(LineSteps):
    """The lines of one session, over all of its connections; arguments and attributes are those of `LineSteps`."""

    def __init__(self, symbols: Sequence[str], sink: DepthSink, **options: Any) -> None:
        super().__init__(symbols, sink, **options)
        self._on_connection: dict[str, Callable[[int, int, str], None]] = {
            "outage": self._outage,
            "restored_lost": self._restored_lost,
            "restored_kept": self._restored_kept,
            "farm_broken": self._farm_broken,
            "farm_ok": self._farm_ok,
        }

    def error(self, request_id: int, code: int, text: str) -> None:
        """A message of the gateway with a code, about a request or (id -1) about itself."""
        if self._closed:
            return
        now_ns = self._now_ns()
        rule = rule_for(code)
        text = redact_accounts(text, self._accounts)
        line = self._by_request.get(request_id) or self._by_details.get(request_id)
        if rule.kind in self._on_connection:
            is_news = rule.kind != "farm_ok" or _farm(text) in self._farms
            _log.log(logging.WARNING if is_news else logging.DEBUG, "%s", _said(code, rule, text))
            self._on_connection[rule.kind](now_ns, code, text)
        elif line is not None:
            self._line_error(line, now_ns, code, rule, text)
        elif request_id in self._retired:
            _log.debug("%s: after its end: %s", self._retired[request_id].symbol, _said(code, rule, text))
        else:
            _log.log(logging.DEBUG if rule.kind == "info" else logging.WARNING, "%s", _said(code, rule, text))

    def details(self, request_id: int, instruments: Sequence[Any]) -> None:
        """The gateway's answer to a question for an instrument."""
        line = self._by_details.pop(request_id, None)
        if line is None:
            return
        line.details_id = None
        if len(instruments) == 1:
            line.instrument = instruments[0]
            line.tries = 0
            line.retry_at_ns = 0
            line.yields = False
        else:
            found = f"{len(instruments)} instruments have that name" if instruments else "it knows none of that name"
            self._refuse(line, self._now_ns(), None, found)
        self._pump(self._now_ns())

    # The connection and the time.

    def attach(self, wire: Wire, accounts: Collection[str] = ()) -> None:
        """A connection is ready. `accounts` are cut out of what is logged."""
        self._wire = wire
        self._accounts = accounts
        self._was_connected = True
        self.limit = self._max_lines
        now_ns = self._now_ns()
        self._watch_from_ns = now_ns
        self._last_id = self._unjudged_id = 0
        for line in self._lines:
            line.stale_id = line.details_id = None
        self._pump(now_ns)

    def detach(self, since_ns: int, detail: str) -> None:
        """The connection is gone; `since_ns` is when it last brought anything."""
        if self._wire is None or self._closed:
            return
        now_ns = self._now_ns()
        self._wire = None
        self._outage_ns = None
        self._farms.clear()
        lines = list(self._by_request.values())
        self._by_request.clear()
        self._by_details.clear()
        self._retired.clear()
        for line in lines:
            line.request_id = None
            line.state = "lost"
            self._lose(line, now_ns, "disconnect", detail, since_ns=since_ns)

    def tick(self) -> None:
        """See to everything that is due; call it several times a second."""
        now_ns = self._now_ns()
        for details_id, line in list(self._by_details.items()):
            if now_ns >= line.details_until_ns:
                self._details_late(details_id, line, now_ns)
        if self._wire is None:
            return
        if self._outage_ns is not None:
            self._end_silent_outage(self._outage_ns, now_ns)
        else:
            self._watch_silence(now_ns)
        if self.limit < self._max_lines and now_ns >= self._probe_at_ns:
            self.limit = self._max_lines
        if any(line.needs_room for line in self._lines) and self._sink.has_room():
            for line in self._lines:
                line.needs_room = False
        self._pump(now_ns)

    def jump(self, jump: Jump) -> None:
        """The clock jumped: books that are seen get a gap over it, and nothing is due earlier for it."""
        now_ns = self._now_ns()
        moved_ns = jump.new_ns - jump.old_ns
        self._watch_from_ns = now_ns
        self._probe_at_ns += moved_ns
        if self._outage_ns is not None:
            self._outage_ns += moved_ns
        detail = f"the wall clock went {'on' if jump.by_ns > 0 else 'back'} by {abs(jump.by_ns) / NS_PER_S:.3f} s"
        _log.warning("%s", detail)
        for line in self._lines:
            line.retry_at_ns += moved_ns
            line.details_until_ns += moved_ns
            if not line.is_blind:
                # When our time did not move the hole has no length.
                since_ns = jump.old_ns if moved_ns else now_ns
                self._sink.lost(line.symbol, now_ns, "clock", detail, since_ns=since_ns, clear=False)
                self._sink.seen(line.symbol, now_ns)
                line.seen_ns = now_ns

    # What the gateway's codes mean for one line.

    def _line_error(self, line: Line, now_ns: int, code: int, rule: CodeRule, text: str) -> None:
        said = _said(code, rule, text)
        detail = f"error {code}: {text}"
        if rule.kind in ("info", "warning"):
            is_new = (line.symbol, code) not in self._warned
            self._warned.add((line.symbol, code))
            _log.log(
                logging.WARNING if is_new and rule.kind == "warning" else logging.DEBUG, "%s: %s", line.symbol, said
            )
        elif line.details_id is not None and line.request_id is None:
            self._details_error(line, now_ns, code, rule, text)
        elif rule.kind == "reset":
            self._lose(line, now_ns, "reset_317", detail, since_ns=now_ns)
        elif rule.kind == "halt":
            self._release(line, cancel=True)
            self._lose(line, now_ns, "halt_316", detail, since_ns=now_ns)
            self._retry_later(line, now_ns)
        elif rule.kind == "no_line":
            self._no_line(line, now_ns, said)
        elif rule.kind == "again":
            line.stale_id = line.request_id
            self._release(line, cancel=False)
            self._lose(line, now_ns, "data_lost", detail, since_ns=now_ns)
            self._retry_later(line, now_ns, least_tries=1)
        else:
            self._refuse(line, now_ns, code, text)
        self._pump(now_ns)

    def _details_error(self, line: Line, now_ns: int, code: int, rule: CodeRule, text: str) -> None:
        if line.details_id is None:
            return
        if rule.kind in ("again", "no_line", "halt", "reset"):
            self._details_late(line.details_id, line, now_ns)
            return
        del self._by_details[line.details_id]
        line.details_id = None
        self._refuse(line, now_ns, code, text)

    def _details_late(self, details_id: int, line: Line, now_ns: int) -> None:
        _log.warning("%s: the gateway does not tell its instrument, it is asked again", line.symbol)
        del self._by_details[details_id]
        line.details_id = None
        line.yields = True
        self._retry_later(line, now_ns, least_tries=1)
        if self._wire is not None:
            self._wire.forget_details(details_id)

    def _no_line(self, line: Line, now_ns: int, said: str) -> None:
        request_id = line.request_id or 0
        self._release(line, cancel=False)
        if not line.is_blind:
            self._lose(line, now_ns, "data_lost", said, since_ns=now_ns)
        # Perhaps it still has what it was believed to have dropped.
        stale = [each for each in self._lines if each.stale_id is not None and each.is_blind and not each.is_refused]
        if stale and self._wire is not None:
            for each in stale:
                if each.stale_id is not None:
                    self._wire.cancel(each.stale_id)
                each.stale_id = None
            # What was asked for before this was refused for want of the same lines.
            self._unjudged_id = self._last_id
            return
        if request_id <= self._unjudged_id:
            return
        self.limit = len(self._by_request)
        self._probe_at_ns = now_ns + _LIMIT_HOLDS_NS
        line.state = "queued"
        _log.warning("%s: %s; in use here: %d", line.symbol, said, self.limit)

    # What they mean for all lines.

    def _outage(self, now_ns: int, code: int, text: str) -> None:
        is_new = self._outage_ns is None
        # Told again, what came before it does not show that the broker is back.
        self._outage_ns = now_ns
        if is_new:
            for line in self._by_request.values():
                self._lose(line, now_ns, "disconnect", f"error {code}: {text}", since_ns=now_ns, clear=False)

    def _restored_lost(self, now_ns: int, code: int, text: str) -> None:
        self._outage_ns = None
        for line in list(self._by_request.values()):
            line.stale_id = line.request_id
            self._release(line, cancel=False)
            self._lose(line, now_ns, "data_lost", f"error {code}: {text}", since_ns=now_ns)
        self._pump(now_ns)

    def _restored_kept(self, now_ns: int, _code: int, _text: str) -> None:
        self._outage_ns = None
        for line in self._by_request.values():
            # The next message ends the gap: a feed can stay dead although it is said to be back.
            line.is_held = False
        self._pump(now_ns)

    def _farm_broken(self, now_ns: int, _code: int, text: str) -> None:
        self._farms.setdefault(_farm(text), now_ns)

    def _farm_ok(self, now_ns: int, code: int, text: str) -> None:
        since_ns = self._farms.pop(_farm(text), None)
        if since_ns is None or self._outage_ns is not None:
            return
        for line in list(self._by_request.values()):
            if line.last_ns <= since_ns:
                self._ask_again(line, now_ns, f"silent since error 2103; error {code}: {text}", since_ns=since_ns)
        self._pump(now_ns)

    def _end_silent_outage(self, outage_ns: int, now_ns: int) -> None:
        """An outage whose end was not told, though messages come: what was missed is unknown, so all starts afresh."""
        lines = list(self._by_request.values())
        if any(line.is_held and line.last_ns > outage_ns + _STRAGGLERS_NS for line in lines):
            self._outage_ns = None
            for line in lines:
                self._ask_again(line, now_ns, "messages came without error 1101 or 1102", since_ns=outage_ns)
        elif not any(line.is_held for line in lines) and now_ns - outage_ns > _LONGEST_OUTAGE_NS:
            # Nothing is open by which its end could be noticed, so it is tried.
            self._outage_ns = None

    def _watch_silence(self, now_ns: int) -> None:
        for line in list(self._by_request.values()):
            limit_s = min(self._silence_s * 2.0 ** min(line.silences, 20), max(self._silence_s, _LONGEST_SILENCE_S))
            limit_ns = int(limit_s * NS_PER_S)
            silent_ns = now_ns - max(line.last_ns, line.asked_ns, self._watch_from_ns)
            if silent_ns >= limit_ns and self._is_market_open(now_ns) and self._is_market_open(now_ns - limit_ns):
                line.silences += 1
                if line.is_blind and not line.is_kept:
                    # Nothing came since the last incident: the same hole.
                    self._release(line, cancel=True)
                else:
                    self._ask_again(line, now_ns, f"silent for {limit_s:g} s", since_ns=line.last_ns)
            elif line.silences and now_ns - line.asked_ns > _LONGEST_SILENCE_S * NS_PER_S:
                line.silences = 0


def _said(code: int, rule: CodeRule, text: str) -> str:
    return f"code {code}, {rule.meaning}: {text}; {rule.action}"


def _farm(text: str) -> str:
    """The farm's name, e.g. usfarm, out of `Market data farm connection is OK:usfarm`."""
    return text.rpartition(":")[2].strip()

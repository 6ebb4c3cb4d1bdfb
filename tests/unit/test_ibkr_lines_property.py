"""Random incidents against the depth lines, with a small gateway that keeps the vendor's rules and a strict sink."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from connectors.ibkr._lines import DepthLines
from connectors.ibkr.clock import Jump

S = 1_000_000_000
START = 1_757_000_000 * S
SYMBOLS = ("A", "B", "C", "D")
MAX_LINES = 3

symbols = st.sampled_from(SYMBOLS)


class StrictSink:
    """Believes in its contract: times never decrease, no message in a hole, holes open and close in turn."""

    def __init__(self):
        self.taken = {symbol: [] for symbol in SYMBOLS}
        self.gap = dict.fromkeys(SYMBOLS, "cleared")
        self.seen_ns = dict.fromkeys(SYMBOLS, START)
        self.losses = dict.fromkeys(SYMBOLS, 0)
        self.last_ns = START
        self.room = 10**9

    def at(self, ns):
        assert ns >= self.last_ns
        self.last_ns = ns

    def message(self, symbol, ns, operation, side, level, price, size, market_maker):
        self.at(ns)
        assert self.gap[symbol] != "cleared", "a message in a hole"
        if self.room <= 0:
            return False
        self.room -= 1
        self.taken[symbol].append(int(size))
        return True

    def lost(self, symbol, ns, cause, detail, *, since_ns, clear):
        self.at(ns)
        assert self.seen_ns[symbol] <= since_ns <= ns
        assert clear or self.gap[symbol] in ("", "cleared"), "an outage in an outage"
        self.losses[symbol] += 1
        # A book that is already gone stays gone, whatever happens next.
        self.gap[symbol] = "cleared" if clear or self.gap[symbol] == "cleared" else "kept"

    def seen(self, symbol, ns):
        self.at(ns)
        assert self.gap[symbol], "it was seen"
        self.gap[symbol] = ""
        self.seen_ns[symbol] = ns

    def note(self, symbol, kind):
        assert kind in ("late", "unreadable")

    def has_room(self):
        return self.room > 100


class Gateway(RuleBasedStateMachine):
    """The gateway's side; it refuses what the real one would count as a violation."""

    def __init__(self):
        super().__init__()
        self.sink = StrictSink()
        self.now = START
        self.last_id = 0
        self.number = 0
        self.expected = {symbol: [] for symbol in SYMBOLS}
        self.incidents = dict.fromkeys(SYMBOLS, 0)
        self.refused = set()
        self.subscriptions = {}
        self.dead = {}
        self.asked_details = {}
        self.used_ids = set()
        self.limit = MAX_LINES
        self.is_up = False
        self.is_out = False
        self.out_ns = START
        self.unanswered = []
        self.forgotten = set()
        self.is_refusing_line = False
        self.lines = DepthLines(
            SYMBOLS,
            self.sink,
            max_lines=MAX_LINES,
            silence_s=60,
            now_ns=lambda: self.now,
            is_market_open=lambda _: True,
        )
        self.hook = self.lines.depth_hook()

    # The wire.

    def new_id(self):
        self.last_id += 1
        return self.last_id

    def request_details(self, request_id, symbol):
        assert self.is_up
        assert request_id not in self.used_ids
        self.used_ids.add(request_id)
        self.asked_details[request_id] = symbol

    def forget_details(self, request_id):
        self.asked_details.pop(request_id)

    def subscribe(self, request_id, instrument):
        assert self.is_up
        # After a long outage of which nothing more is heard it may be tried.
        assert not self.is_out or self.now > self.out_ns + 120 * S
        assert request_id not in self.used_ids
        self.used_ids.add(request_id)
        assert len(self.subscriptions) < MAX_LINES, "more lines than the account has"
        assert instrument not in self.subscriptions.values() or self.limit < MAX_LINES
        assert instrument not in self.refused
        if len(self.subscriptions) >= self.limit:
            self.unanswered.append(request_id)
        else:
            self.subscriptions[request_id] = instrument

    def cancel(self, request_id):
        if self.is_refusing_line and request_id in self.forgotten:
            # Whether 1101 dropped it cannot be known, and 309 says otherwise.
            self.forgotten.discard(request_id)
            return
        assert request_id in self.subscriptions, "the gateway has no such request"
        self.dead[request_id] = self.subscriptions.pop(request_id)

    def answer(self):
        while self.unanswered:
            self.is_refusing_line = True
            self.lines.error(self.unanswered.pop(0), 309, "Max number of market depth requests")
            self.is_refusing_line = False

    # What the gateway does.

    def request_of(self, symbol):
        return next((number for number, name in self.subscriptions.items() if name == symbol), None)

    def incident(self, *names):
        for symbol in names or SYMBOLS:
            self.incidents[symbol] += 1

    @precondition(lambda self: not self.is_up)
    @rule()
    def connects(self):
        self.is_up, self.is_out = True, False
        # A symbol without a line says so.
        self.incident()
        self.lines.attach(self)
        self.answer()

    @precondition(lambda self: self.is_up)
    @rule()
    def disconnects(self):
        self.incident()
        self.is_up = self.is_out = False
        self.subscriptions.clear()
        self.dead.clear()
        self.forgotten.clear()
        self.unanswered.clear()
        self.asked_details.clear()
        self.used_ids.clear()
        self.last_id = 0
        self.lines.detach(self.now - S // 2, "closed")

    @precondition(lambda self: self.asked_details)
    @rule(is_known=st.sampled_from([True] * 9 + [False]))
    def tells_instrument(self, is_known):
        request_id, symbol = self.asked_details.popitem()
        if not is_known:
            self.incident(symbol)
            self.refused.add(symbol)
        self.lines.details(request_id, [symbol] if is_known else [])
        self.answer()

    @rule(symbol=symbols, count=st.integers(1, 5))
    def sends(self, symbol, count):
        request_id = self.request_of(symbol)
        if self.is_out and request_id is not None:
            self.incident(symbol)
            # After a while a flow means that the broker is back, whatever was said.
            self.is_out = self.now <= self.out_ns + 4 * S
        for _ in range(count):
            self.now += 1000
            if request_id not in self.subscriptions:
                return
            self.number += 1
            if self.sink.room > 0:
                self.expected[symbol].append(self.number)
            else:
                self.incident(symbol)
            self.hook(request_id, 0, "", 0, 1, 1.0, float(self.number))

    @precondition(lambda self: self.dead)
    @rule()
    def sends_late(self):
        self.hook(next(iter(self.dead)), 0, "", 0, 1, 1.0, 1.0)

    @rule(symbol=symbols, size=st.sampled_from([-1.0, float("nan")]))
    def sends_garbage(self, symbol, size):
        request_id = self.request_of(symbol)
        if request_id is not None:
            self.hook(request_id, 0, "", 0, 1, 1.0, size)

    @rule(symbol=symbols, code=st.sampled_from([316, 317, 2152, 10167]))
    def says(self, symbol, code):
        request_id = self.request_of(symbol)
        if request_id is not None:
            self.incident(symbol)
            self.lines.error(request_id, code, "text")
            self.answer()

    @rule(symbol=symbols, code=st.sampled_from([354, 10092, 200, 321, 99999]))
    def refuses(self, symbol, code):
        request_id = self.request_of(symbol)
        if request_id is not None and len(self.refused) < 2:
            self.incident(symbol)
            self.refused.add(symbol)
            del self.subscriptions[request_id]
            self.lines.error(request_id, code, "text")
            self.answer()

    @precondition(lambda self: self.is_up and not self.is_out)
    @rule()
    def loses_broker(self):
        self.incident()
        self.is_out = True
        self.out_ns = self.now
        self.lines.error(-1, 1100, "text")

    @precondition(lambda self: self.is_out)
    @rule(is_lost=st.booleans())
    def regains_broker(self, is_lost):
        self.is_out = False
        if is_lost:
            self.incident()
            self.forgotten |= set(self.subscriptions)
            self.subscriptions.clear()
        self.lines.error(-1, 1101 if is_lost else 1102, "text")
        self.answer()

    @precondition(lambda self: self.is_up)
    @rule(is_ok=st.booleans())
    def speaks_of_farm(self, is_ok):
        self.incident()
        self.lines.error(-1, 2104 if is_ok else 2103, "text:usfarm")
        self.answer()

    @rule(limit=st.integers(0, MAX_LINES))
    def shares_lines(self, limit):
        # Other programs take lines when these are free.
        self.limit = max(limit, len(self.subscriptions))

    @rule(room=st.sampled_from([0, 3, 10**9]))
    def queue(self, room):
        self.sink.room = room

    @rule(seconds=st.sampled_from([0.1, 1, 7, 70, 400]))
    def time_passes(self, seconds):
        # Silence is an incident that may come to every symbol once a minute.
        for symbol in SYMBOLS:
            self.incidents[symbol] += 1 + int(seconds / 60)
        end = self.now + int(seconds * S)
        while self.now < end:
            self.now = min(end, self.now + S)
            self.lines.tick()
            self.answer()

    @rule(seconds=st.sampled_from([-5, 5, 4000]))
    def clock_jumps(self, seconds):
        self.incident()
        old = self.now
        self.now += max(0, seconds) * S
        self.out_ns += max(0, seconds) * S
        self.lines.jump(Jump(old, self.now, seconds * S))

    @invariant()
    def every_message_was_taken_once_and_in_order(self):
        assert self.lines.failure is None
        assert self.sink.taken == self.expected

    @invariant()
    def no_gap_without_an_incident(self):
        for symbol in SYMBOLS:
            assert self.sink.losses[symbol] <= self.incidents[symbol]

    @invariant()
    def states_say_what_is(self):
        states = self.lines.states()
        for symbol in SYMBOLS:
            assert (states[symbol] == "refused") == (symbol in self.refused)
            if states[symbol] in ("live", "subscribing"):
                assert symbol in self.subscriptions.values()

    def teardown(self):
        """When all is well again, every symbol that may have a line gets one, and the end leaves none."""
        self.limit = MAX_LINES
        self.sink.room = 10**9
        if not self.is_up:
            self.connects()
        if self.is_out:
            self.regains_broker(is_lost=False)
        for _ in range(400):
            while self.asked_details:
                self.tells_instrument(is_known=True)
            self.now += S
            self.lines.tick()
            self.answer()
        wanted = [symbol for symbol in SYMBOLS if symbol not in self.refused][:MAX_LINES]
        got = set(self.subscriptions.values())
        assert len(got) == len(wanted) == len(self.subscriptions)
        self.lines.close()
        assert self.subscriptions == {}


Gateway.TestCase.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)
TestRandomIncidents = Gateway.TestCase

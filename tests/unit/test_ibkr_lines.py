"""The depth lines, told by hand what the gateway sends: gaps, requests, refusals, limits, retries."""

from __future__ import annotations

import pytest

from connectors.ibkr._lines import DepthLines
from connectors.ibkr.clock import Jump

S = 1_000_000_000
START = 1_757_000_000 * S


class Desk:
    """The lines between a sink and a wire that write everything down; time moves by hand.

    `told` has what the sink was told as short tuples; `asked` what the gateway was asked.
    """

    def __init__(self, symbols=("AAPL",), *, max_lines=3, silence_s=60.0, knows=True):
        self.now = START
        self.is_open = True
        self.told = []
        self.asked = []
        self.details = {}
        self.room = 10**9
        self.has_half = True
        self.lines = DepthLines(
            symbols,
            self,
            max_lines=max_lines,
            silence_s=silence_s,
            now_ns=lambda: self.now,
            is_market_open=lambda _: self.is_open,
        )
        self.hook = self.lines.depth_hook()
        self.last_id = 100
        self.knows = knows
        self.ids = {}
        self.lines.attach(self)
        if knows:
            self.answer_details()

    # The sink.

    def message(self, symbol, ns, operation, side, level, price, size, market_maker):
        if not self.room:
            return False
        self.room -= 1
        self.told.append(("message", symbol, self.s(ns), size))
        assert (operation, side, level, price, market_maker) == (0, 1, 0, 230.01, "ARCA")
        return True

    def lost(self, symbol, ns, cause, detail, *, since_ns, clear):
        assert detail
        self.told.append(("lost", symbol, self.s(ns), cause, self.s(since_ns), clear))

    def seen(self, symbol, ns):
        self.told.append(("seen", symbol, self.s(ns)))

    def note(self, symbol, kind):
        self.told.append(("note", symbol, kind))

    def has_room(self):
        return self.has_half

    # The wire.

    def new_id(self):
        self.last_id += 1
        return self.last_id

    def request_details(self, request_id, symbol):
        self.details[symbol] = request_id

    def forget_details(self, request_id):
        self.asked.append(("forget", request_id))

    def subscribe(self, request_id, instrument):
        self.ids[instrument] = request_id
        self.asked.append(("subscribe", instrument, request_id))

    def cancel(self, request_id):
        self.asked.append(("cancel", request_id))

    # The gateway and the time.

    @staticmethod
    def s(ns):
        return (ns - START) / S

    def answer_details(self):
        for symbol, request_id in list(self.details.items()):
            del self.details[symbol]
            self.lines.details(request_id, [symbol])

    def send(self, symbol, size=100.0, request_id=None):
        self.hook(request_id or self.ids[symbol], 0, "ARCA", 0, 1, 230.01, size, True)

    def error(self, code, symbol=None, text="text"):
        self.lines.error(-1 if symbol is None else self.ids[symbol], code, text)

    def wait(self, seconds):
        """Time passes, with ticks."""
        end = self.now + int(seconds * S)
        while self.now < end:
            self.now = min(self.now + S // 10, end)
            self.lines.tick()

    def taken(self, what="told"):
        """What was written down since the last question."""
        taken, log = getattr(self, what), []
        setattr(self, what, log)
        return taken


def live(symbols=("AAPL",), **options):
    """A desk whose symbols have lines and have been seen; one second after the start."""
    made = Desk(symbols, **options)
    made.now += S
    for symbol in symbols:
        if symbol in made.ids:
            made.send(symbol)
    made.taken()
    made.taken("asked")
    return made


def test_the_first_message_ends_the_session_s_first_gap():
    desk = Desk()
    assert desk.asked == [("subscribe", "AAPL", 102)]
    assert desk.lines.states() == {"AAPL": "subscribing"}
    desk.now += S
    desk.send("AAPL", 1.0)
    desk.send("AAPL", 2.0)
    assert desk.told == [("seen", "AAPL", 1), ("message", "AAPL", 1, 1.0), ("message", "AAPL", 1, 2.0)]
    assert desk.lines.states() == {"AAPL": "live"}


def test_a_reset_empties_the_book_and_the_same_request_goes_on():
    desk = live()
    desk.error(317, "AAPL")
    assert desk.taken() == [("lost", "AAPL", 1, "reset_317", 1, True)]
    desk.now += S
    desk.send("AAPL")
    assert desk.taken() == [("seen", "AAPL", 2), ("message", "AAPL", 2, 100.0)]
    assert desk.asked == []


def test_a_halt_is_cancelled_and_asked_for_anew_with_another_id():
    desk = live()
    old = desk.ids["AAPL"]
    desk.error(316, "AAPL")
    assert desk.taken() == [("lost", "AAPL", 1, "halt_316", 1, True)]
    assert desk.taken("asked") == [("cancel", old), ("subscribe", "AAPL", old + 1)]
    desk.send("AAPL", request_id=old)
    assert desk.taken() == [("note", "AAPL", "late")]
    desk.send("AAPL")
    assert desk.taken() == [("seen", "AAPL", 1), ("message", "AAPL", 1, 100.0)]


def test_repeated_halts_are_one_gap_and_are_tried_at_growing_intervals():
    desk = live()
    pauses = []
    for _ in range(9):
        desk.error(316, "AAPL")
        begun = desk.now
        while desk.asked[-1][0] != "subscribe":
            desk.wait(0.1)
        pauses.append(round((desk.now - begun) / S, 1))
        desk.taken("asked")
    assert pauses == [0, 1, 2, 4, 8, 16, 30, 30, 30]
    assert desk.taken() == [("lost", "AAPL", 1, "halt_316", 1, True)]


@pytest.mark.parametrize("code", [1100, 2110])
def test_an_outage_with_data_kept_keeps_the_book(code):
    desk = live()
    desk.error(code)
    assert desk.taken() == [("lost", "AAPL", 1, "disconnect", 1, False)]
    desk.wait(40)
    desk.error(1102)
    assert desk.taken() == [], "a feed can stay dead although it is said to be back"
    desk.wait(4)
    desk.send("AAPL")
    assert desk.taken() == [("seen", "AAPL", 45), ("message", "AAPL", 45, 100.0)]
    assert desk.asked == []


@pytest.mark.parametrize("what", ["silent", "closed", "reset"])
def test_a_kept_book_of_which_nothing_comes_is_cleared_by_what_happens_next(what):
    desk = live()
    desk.error(1100)
    desk.error(1102)
    desk.taken()
    if what == "silent":
        desk.wait(61)
        assert [asked for asked, *_ in desk.asked] == ["cancel", "subscribe"]
    elif what == "closed":
        desk.lines.detach(desk.now, "closed")
    else:
        desk.error(317, "AAPL")
    cause = {"silent": "data_lost", "closed": "disconnect", "reset": "reset_317"}[what]
    assert [(entry[0], entry[3], entry[5]) for entry in desk.taken()] == [("lost", cause, True)]


def test_messages_on_their_way_during_an_outage_are_kept_and_do_not_end_its_gap():
    desk = live()
    desk.error(1100)
    desk.now += S // 2
    desk.send("AAPL", 7.0)
    desk.error(1102)
    assert desk.taken()[1:] == [("message", "AAPL", 1.5, 7.0)]
    desk.wait(1)
    desk.send("AAPL", 8.0)
    assert desk.taken() == [("seen", "AAPL", 2.5), ("message", "AAPL", 2.5, 8.0)]


def test_a_flow_that_returns_without_word_is_asked_for_anew():
    desk = live()
    desk.error(1100)
    desk.wait(6)
    desk.send("AAPL")
    desk.wait(0.1)
    assert desk.taken()[-1] == ("lost", "AAPL", 7.1, "data_lost", 1, True)
    assert [what for what, *_ in desk.asked] == ["cancel", "subscribe"]


def test_after_data_lost_all_are_asked_for_without_cancelling():
    desk = live(("AAPL", "MSFT"))
    desk.error(1100)
    desk.taken()
    desk.wait(2)
    desk.error(1101)
    assert desk.taken() == [("lost", symbol, 3, "data_lost", 3, True) for symbol in ("AAPL", "MSFT")]
    assert [what for what, *_ in desk.asked] == ["subscribe", "subscribe"]
    desk.send("AAPL")
    assert desk.taken() == [("seen", "AAPL", 3), ("message", "AAPL", 3, 100.0)]


def test_a_gateway_that_kept_the_old_requests_after_all_has_them_cancelled():
    desk = live(("AAPL", "MSFT"))
    old = dict(desk.ids)
    desk.error(1101)
    desk.taken("asked")
    desk.error(309, "AAPL")
    assert desk.asked[:2] == [("cancel", old["AAPL"]), ("cancel", old["MSFT"])]
    assert desk.asked[2][:2] == ("subscribe", "AAPL")
    desk = live()
    old = desk.ids["AAPL"]
    desk.error(1101)
    desk.taken("asked")
    desk.taken()
    desk.send("AAPL", request_id=old)
    desk.send("AAPL", request_id=old)
    assert desk.asked == [("cancel", old)]
    assert desk.taken() == [("note", "AAPL", "late")] * 2


def test_refusals_for_want_of_lines_that_were_kept_teach_nothing():
    """All three are asked for at once, and the gateway still has the old three."""
    desk = live(("AAPL", "MSFT", "NVDA"))
    old = set(desk.ids.values())
    desk.error(1101)
    asked = list(desk.ids.values())
    desk.taken("asked")
    for request_id in asked:
        desk.lines.error(request_id, 309, "Max number of market depth requests")
    assert {number for what, number, *_ in desk.asked if what == "cancel"} == old
    desk.wait(0.1)
    assert desk.lines.limit == 3
    assert sorted(name for what, name, *_ in desk.asked if what == "subscribe") == ["AAPL", "MSFT", "NVDA"]


def test_an_outage_of_which_nothing_more_is_heard_is_tried_in_the_end():
    desk = live()
    desk.error(1100)
    desk.error(316, "AAPL")
    desk.taken("asked")
    desk.wait(119)
    assert desk.asked == []
    desk.wait(2)
    assert [what for what, *_ in desk.asked] == ["subscribe"]


def test_a_farm_that_returns_has_only_the_silent_books_asked_for_anew():
    desk = live(("AAPL", "MSFT"))
    desk.error(2103, text="Market data farm connection is broken:usfarm")
    desk.wait(3)
    desk.send("MSFT")
    desk.taken()
    desk.error(2104, text="Market data farm connection is OK:eufarm")
    assert desk.taken() == []
    desk.error(2104, text="Market data farm connection is OK:usfarm")
    assert desk.taken() == [("lost", "AAPL", 4, "data_lost", 1, True)]
    assert [what for what, *_ in desk.asked] == ["cancel", "subscribe"]
    desk.error(2104, text="Market data farm connection is OK:usfarm")
    assert desk.taken() == []


def test_a_lost_connection_is_a_gap_since_the_last_data_and_the_books_return():
    desk = live(("AAPL", "MSFT"))
    desk.wait(5)
    desk.lines.detach(START + 4 * S, "closed")
    assert desk.taken() == [("lost", symbol, 6, "disconnect", 4, True) for symbol in ("AAPL", "MSFT")]
    assert desk.lines.states() == {"AAPL": "lost", "MSFT": "lost"}
    desk.wait(1)
    assert desk.asked == []
    desk.lines.attach(desk)
    assert [what for what, *_ in desk.asked] == ["subscribe", "subscribe"], "the instruments are known by now"
    desk.send("AAPL")
    assert desk.taken() == [("seen", "AAPL", 7), ("message", "AAPL", 7, 100.0)]


def test_an_outage_that_ends_in_a_lost_connection_empties_the_book():
    desk = live()
    desk.error(1100)
    desk.wait(2)
    desk.taken()
    desk.lines.detach(START + 3 * S, "closed")
    assert desk.taken() == [("lost", "AAPL", 3, "disconnect", 3, True)]
    desk.lines.attach(desk)
    desk.error(1102)
    assert desk.taken() == [], "nothing was kept"


def test_silence_in_regular_hours_is_asked_anew_at_doubling_intervals():
    desk = live(silence_s=60)
    desk.wait(59.9)
    assert desk.asked == []
    desk.wait(0.1)
    assert desk.taken() == [("lost", "AAPL", 61, "data_lost", 1, True)]
    assert [what for what, *_ in desk.taken("asked")] == ["cancel", "subscribe"]
    desk.wait(119.9)
    assert desk.asked == []
    desk.wait(0.2)
    assert [what for what, *_ in desk.taken("asked")] == ["cancel", "subscribe"]
    assert desk.taken() == [], "still the same hole"
    desk.send("AAPL")
    assert desk.taken()[0][0] == "seen"


def test_silence_outside_regular_hours_and_in_an_outage_is_no_incident():
    desk = live(silence_s=60)
    desk.is_open = False
    desk.wait(500)
    desk.is_open = True
    desk.error(1100)
    desk.wait(500)
    assert desk.asked == []


def test_symbols_beyond_the_lines_wait_and_move_up_when_one_is_refused():
    desk = live(("A", "B", "C"), max_lines=2)
    assert desk.lines.states() == {"A": "live", "B": "live", "C": "queued"}
    desk.error(354, "A", "No permission for U1234567")
    assert desk.taken() == [("lost", "A", 1, "data_lost", 1, True)]
    assert desk.asked == [("subscribe", "C", desk.ids["C"])], "a refused request is not cancelled"
    assert desk.lines.states() == {"A": "refused", "B": "live", "C": "subscribing"}
    assert "354" in desk.lines.refusals["A"]
    assert "U1234567" not in desk.lines.refusals["A"]


def test_a_halted_symbol_keeps_its_place():
    desk = live(("A", "B"), max_lines=1)
    for _ in range(3):
        desk.error(316, "A")
        desk.wait(5)
    assert "B" not in desk.ids


def test_too_many_lines_are_learned_and_tried_again():
    desk = Desk(("A", "B", "C"), silence_s=9e9)
    desk.error(309, "C")
    assert desk.lines.limit == 2
    assert desk.lines.states()["C"] == "queued"
    desk.taken("asked")
    desk.wait(299)
    assert desk.asked == []
    desk.wait(2)
    assert [what for what, *_ in desk.taken("asked")] == ["subscribe"], "after five minutes"
    desk.error(309, "C")
    desk.error(200, "A")
    assert [entry[:2] for entry in desk.taken("asked")] == [("subscribe", "C")], "when one of ours is free"
    desk.error(309, "C")
    desk.lines.detach(desk.now, "closed")
    desk.lines.attach(desk)
    assert {entry[1] for entry in desk.taken("asked")} == {"B", "C"}, "after a reconnect"


def test_no_line_at_all_is_not_asked_for_in_a_circle():
    desk = Desk(("A", "B"), silence_s=9e9)
    desk.taken("asked")
    desk.error(309, "A")
    desk.error(309, "B")
    assert desk.lines.limit == 0
    desk.wait(299)
    assert desk.asked == []
    desk.wait(2)
    assert len(desk.asked) == 2


def test_a_competing_session_is_waited_for():
    desk = live()
    desk.error(10197, "AAPL")
    assert desk.taken() == [("lost", "AAPL", 1, "data_lost", 1, True)]
    assert desk.asked == []
    desk.wait(1.1)
    desk.error(10197, "AAPL")
    assert desk.taken() == []
    desk.wait(2.1)
    desk.send("AAPL")
    assert desk.taken()[0] == ("seen", "AAPL", 4.2)


def test_a_full_queue_is_a_gap_until_there_is_room():
    desk = live()
    desk.room = 0
    old = desk.ids["AAPL"]
    desk.send("AAPL")
    desk.send("AAPL", request_id=old)
    assert desk.taken() == [("lost", "AAPL", 1, "queue_drop", 1, True), ("note", "AAPL", "late")]
    assert desk.asked == [("cancel", old)]
    desk.has_half = False
    desk.wait(3)
    desk.room, desk.has_half = 9, True
    desk.wait(0.1)
    assert desk.taken("asked")[1:] == [("subscribe", "AAPL", desk.ids["AAPL"])]
    desk.send("AAPL")
    assert desk.taken() == [("seen", "AAPL", 4.1), ("message", "AAPL", 4.1, 100.0)]


@pytest.mark.parametrize(
    "bad",
    [
        {"operation": 3},
        {"operation": -1},
        {"side": 2},
        {"side": -1},
        {"position": -1},
        {"price": float("nan")},
        {"price": float("inf")},
        {"size": -1.0},
        {"size": float("inf")},
        {"size": float("nan")},
    ],
)
def test_what_cannot_be_a_record_is_counted_and_not_handed_on(bad):
    desk = live()
    desk.error(317, "AAPL")
    desk.taken()
    words = {"position": 0, "market_maker": "ARCA", "operation": 0, "side": 1, "price": 230.01, "size": 1.0, **bad}
    desk.hook(desk.ids["AAPL"], *words.values())
    assert desk.taken() == [("note", "AAPL", "unreadable")]


def test_messages_of_requests_that_were_never_made_are_only_counted():
    desk = live()
    desk.send("AAPL", request_id=4711)
    assert desk.taken() == []
    assert desk.lines.unknown_messages == 1


@pytest.mark.parametrize("code", [310, 2105, 2106, 2107, 2108, 2119, 2152, 2158, 2199, 10167])
def test_notices_change_nothing(code, caplog):
    desk = live()
    for _ in range(3):
        desk.error(code, "AAPL")
        desk.error(code)
    assert (desk.told, desk.asked) == ([], [])
    warnings = [record for record in caplog.records if record.levelname == "WARNING" and "AAPL" in record.message]
    assert len(warnings) == (1 if code == 2152 else 0)


def test_a_symbol_the_gateway_does_not_know_or_knows_twice_is_refused():
    desk = Desk(("GONE", "TWICE", "AAPL"), max_lines=1, knows=False)
    desk.lines.error(desk.details.pop("GONE"), 200, "No security definition")
    desk.lines.details(desk.details.pop("TWICE"), ["x", "y"])
    desk.answer_details()
    assert desk.lines.states() == {"GONE": "refused", "TWICE": "refused", "AAPL": "subscribing"}
    assert "2 instruments" in desk.lines.refusals["TWICE"]


def test_a_symbol_whose_instrument_is_not_told_gives_way_and_is_asked_again():
    desk = Desk(("SLOW", "AAPL"), max_lines=1, knows=False)
    first = desk.details.pop("SLOW")
    desk.answer_details()
    assert desk.asked == [], "its place is kept"
    desk.wait(15.1)
    assert ("forget", first) in desk.asked
    assert "AAPL" in desk.ids
    desk.wait(1.1)
    assert desk.details["SLOW"] != first
    desk.lines.details(first, ["SLOW"])
    assert "SLOW" not in desk.ids, "an answer that nobody waits for"


def test_a_jump_of_the_clock_is_a_gap_of_seen_books_and_makes_nothing_due():
    desk = live(("AAPL", "MSFT"))
    desk.error(317, "MSFT")
    desk.taken()
    desk.now += 3600 * S
    desk.lines.jump(Jump(START + 2 * S, desk.now, 3599 * S))
    assert desk.taken() == [("lost", "AAPL", 3601, "clock", 2, False), ("seen", "AAPL", 3601)]
    desk.lines.tick()
    assert desk.asked == []
    desk.lines.jump(Jump(desk.now, desk.now, -5 * S))
    assert desk.taken() == [("lost", "AAPL", 3601, "clock", 3601, False), ("seen", "AAPL", 3601)]


def test_the_end_cancels_everything_and_is_silent():
    desk = live(("A", "B"))
    desk.lines.close()
    assert desk.asked == [("cancel", desk.ids["A"]), ("cancel", desk.ids["B"])]
    desk.send("A")
    desk.error(317, "A")
    desk.error(1100)
    desk.lines.detach(START, "closed")
    assert desk.told == []


def test_what_the_sink_raises_is_kept_for_the_session_and_never_raised_at_the_library(monkeypatch):
    desk = live()

    def broken(*_):
        raise OSError("disk")

    desk.lines._sink = desk
    monkeypatch.setattr(desk, "seen", broken)
    desk.error(317, "AAPL")
    desk.send("AAPL")
    assert isinstance(desk.lines.failure, OSError)


def test_before_any_connection_every_symbol_says_so():
    lines = DepthLines(["A", "B"], None, max_lines=1, silence_s=1, now_ns=lambda: START, is_market_open=lambda _: True)
    lines.tick()
    lines.detach(START, "never")
    assert lines.states() == {"A": "never_connected", "B": "never_connected"}

"""The receipt clock: never backwards, follows a wall clock that goes on, and says so."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from connectors.ibkr.clock import JUMP_NS, ReceiptClock

S = 1_000_000_000
NOW = 1_757_000_000 * S


class Times:
    """A wall clock and a monotonic one, moved by hand."""

    def __init__(self):
        self.wall_ns = NOW
        self.mono_ns = 5 * S

    def clock(self):
        return ReceiptClock(lambda: self.wall_ns, lambda: self.mono_ns)

    def pass_(self, ns):
        self.wall_ns += ns
        self.mono_ns += ns


def test_it_is_utc_carried_on_by_the_monotonic_clock():
    times = Times()
    clock = times.clock()
    assert clock.now_ns() == NOW
    times.pass_(1_234_567_891)
    assert clock.now_ns() == NOW + 1_234_567_891
    assert clock.check() is None


def test_a_wall_clock_set_forward_is_followed_from_the_next_check_on():
    times = Times()
    clock = times.clock()
    times.pass_(S)
    times.wall_ns += 7 * S
    assert clock.now_ns() == NOW + S
    jump = clock.check()
    assert (jump.old_ns, jump.new_ns, jump.by_ns) == (NOW + S, NOW + 8 * S, 7 * S)
    assert clock.now_ns() == NOW + 8 * S
    assert clock.check() is None


def test_a_wall_clock_set_back_is_said_once_and_not_followed():
    times = Times()
    clock = times.clock()
    times.pass_(10 * S)
    times.wall_ns -= 3 * S
    jump = clock.check()
    assert (jump.old_ns, jump.new_ns, jump.by_ns) == (NOW + 10 * S, NOW + 10 * S, -3 * S)
    times.pass_(S)
    assert clock.check() is None
    assert clock.now_ns() == NOW + 11 * S
    times.wall_ns += 2 * S
    jump = clock.check()
    assert (jump.new_ns, jump.by_ns) == (NOW + 11 * S, 2 * S), "ours is still ahead"
    times.wall_ns += 4 * S
    assert clock.check().new_ns == NOW + 14 * S
    assert clock.now_ns() == times.wall_ns


def test_a_quarter_of_a_second_is_no_jump():
    times = Times()
    clock = times.clock()
    times.wall_ns += JUMP_NS
    assert clock.check() is None
    times.wall_ns += 1
    assert clock.check() is not None


def test_a_pause_between_the_readings_is_no_jump():
    times = Times()

    def slow_wall():
        times.pass_(S)
        return times.wall_ns - S

    clock = ReceiptClock(slow_wall, lambda: times.mono_ns)
    assert clock.check() is None


def test_with_the_machine_s_own_clocks():
    clock = ReceiptClock()
    stamps = [clock.now_ns() for _ in range(1000)]
    assert stamps == sorted(stamps)
    assert clock.check() is None


@given(st.lists(st.tuples(st.integers(0, 10 * S), st.integers(-20 * S, 20 * S), st.booleans()), max_size=40))
def test_it_never_runs_backwards_and_every_jump_begins_where_it_was(steps):
    times = Times()
    clock = times.clock()
    last_ns = clock.now_ns()
    for passed_ns, set_by_ns, is_checked in steps:
        times.pass_(passed_ns)
        times.wall_ns += set_by_ns
        before_ns = clock.now_ns()
        assert before_ns >= last_ns
        jump = clock.check() if is_checked else None
        after_ns = clock.now_ns()
        if jump is not None:
            assert (jump.old_ns, jump.new_ns) == (before_ns, after_ns)
            assert after_ns == max(before_ns, times.wall_ns)
        else:
            assert after_ns == before_ns
        if is_checked:
            assert after_ns >= times.wall_ns - JUMP_NS
        last_ns = after_ns

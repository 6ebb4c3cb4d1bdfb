"""Pacing of historical requests on a simulated clock: never a breach, no time lost, fair, and kept across restarts."""

import asyncio
import fcntl
import math
import os
import re
import selectors
import sqlite3
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.ibkr.pacing import PacedRequest, PacingRules
from connectors.store.call_log import BUSY, CallLog, SystemClock
from flows.limits import bars_pacer

S = 10**9
GATEWAY = "127.0.0.1:4002"
W = 605 + 1e-9


class _JumpSelector(selectors.DefaultSelector):
    """When there is nothing to do, the time jumps to when there is."""

    def __init__(self):
        super().__init__()
        self.now_ns = 5_000 * S

    def select(self, timeout=None):
        events = super().select(0)
        if not events and timeout != 0:
            if timeout is None:
                raise RuntimeError("everybody waits for somebody, for ever")
            self.now_ns += max(1, math.ceil(timeout * S))
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.jumps = _JumpSelector()
        super().__init__(self.jumps)

    def time(self):
        return self.jumps.now_ns / S


class World:
    """The running loop's time as a machine's clocks; the machine can boot anew, its wall clock can step."""

    def __init__(self):
        self.booted_ns = 0
        self.boots = 0
        self.wall_step_ns = 10**18

    @property
    def true_ns(self):
        return asyncio.get_running_loop().jumps.now_ns

    @property
    def now_s(self):
        return (self.true_ns - 5_000 * S) / S

    def monotonic_ns(self):
        return self.true_ns - self.booted_ns

    def wall_ns(self):
        return self.true_ns + self.wall_step_ns

    def boot_id(self):
        return f"boot-{self.boots}"

    def sleep(self, seconds):
        raise AssertionError("the loop would stand still")

    async def pause(self, seconds):
        await asyncio.sleep(seconds)

    def boot(self):
        self.booted_ns = self.true_ns - 1
        self.boots += 1


def play(scene):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(scene)


numbers = iter(range(10**9))


def ask(instrument="AAPL", what="TRADES", bar_s=1, identity=None):
    return PacedRequest(instrument, "SMART", what, bar_s, identity or f"{instrument} {what} {bar_s} {next(numbers)}")


def ask_many(count, **about):
    """Requests for as many instruments, so that only the budget counts."""
    return [ask(f"S{number}", **about) for number in range(count)]


async def send(pacer, request, world, sent, answer_s=0.0):
    async with pacer.admit(request):
        sent.append((world.now_s, request))
        await asyncio.sleep(answer_s)


async def send_all(pacer, requests, world, answer_s=0.0):
    sent = []
    await asyncio.gather(*(send(pacer, request, world, sent, answer_s) for request in requests))
    return sent


def times(sent):
    return [at_s for at_s, _ in sent]


async def left_waiting(*waiting):
    """Start what has to wait, and let it come so far."""
    tasks = []
    for each in waiting:
        tasks.append(asyncio.ensure_future(each))
        for _ in range(5):
            await asyncio.sleep(0)
    return tasks


# What the vendor says, written another way than the pacer: a sweep over beginnings and ends.


def most_at_once(costs, window_ns):
    """How much is ever in one window, both ends included: `costs` are (time, cost)."""
    steps = sorted([(at, 0, cost) for at, cost in costs] + [(at + window_ns, 1, -cost) for at, cost in costs])
    level = worst = 0
    for _, _, change in steps:
        level += change
        worst = max(worst, level)
    return worst


def breaches(arrivals, *, budget=60, window_s=600.0, identical_s=15.0, burst=5, burst_s=2.0, per_s=50, counting=None):
    """What a gateway that counts arrivals, (ns, request), would complain about."""
    counting = counting or (lambda request: request.bar_s <= 30)
    budget_of, identical, bursts = [], defaultdict(list), defaultdict(list)
    for at, request in arrivals:
        cost = 2 if request.what_to_show == "BID_ASK" else 1
        if counting(request):
            budget_of.append((at, cost))
        identical[request.identity].append((at, 1))
        bursts[request.instrument, request.exchange, request.what_to_show].append((at, cost))
    found = []
    if most_at_once(budget_of, round(window_s * S)) > budget:
        found.append("budget")
    if any(most_at_once(same, round(identical_s * S)) > 1 for same in identical.values()):
        found.append("identical")
    if any(most_at_once(same, round(burst_s * S)) > burst for same in bursts.values()):
        found.append("burst")
    if most_at_once([(at, 1) for at, _ in arrivals], S) > per_s:
        found.append("messages")
    return found


def test_the_checker_finds_each_breach():
    far = [(1000 * S * number, ask(f"F{number}")) for number in range(3)]
    same = ask()
    assert breaches(far) == []
    assert breaches([(number * 10 * S, ask(f"S{number}")) for number in range(60)]) == []
    assert breaches([(number * 10 * S, ask(f"S{number}")) for number in range(61)]) == ["budget"]
    assert breaches([(number * 10 * S, ask(f"S{number}", "BID_ASK")) for number in range(31)]) == ["budget"]
    assert breaches([(0, same), (15 * S, same)]) == ["identical"]
    assert breaches([(number * S // 3, ask()) for number in range(6)]) == ["burst"]
    assert breaches([(0, ask(f"S{number}", bar_s=60)) for number in range(51)]) == ["messages"]


SMALL = PacingRules(
    budget=6,
    budget_window_s=20.5,
    identical_window_s=5.5,
    burst=3,
    burst_window_s=2.5,
    messages=10,
    messages_window_s=1.5,
    open_requests=6,
    open_per_process=4,
)
asked = st.lists(
    st.tuples(
        st.integers(0, 3000),  # ms before it is asked
        st.sampled_from(["A", "B", "C", "D"]),
        st.sampled_from(["TRADES", "TRADES", "BID_ASK", "MIDPOINT"]),
        st.sampled_from([0, 1, 1, 30, 60, 3600]),
        st.integers(0, 8),  # identity
        st.integers(0, 4000),  # ms until it is answered
        st.one_of(st.none(), st.none(), st.integers(0, 20_000)),  # cancelled after ms
        st.integers(0, 3),  # which process
        st.integers(0, 499),  # ms on the way, below the margins
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(asked=asked, users=st.integers(0, 3), violations=st.sets(st.integers(0, 39), max_size=3))
def test_no_rule_is_ever_broken_whatever_is_asked(tmp_path_factory, asked, users, violations):
    """By several processes (as many pacers on one file) or, with 0, by one in memory; nobody waits for ever."""
    cache = tmp_path_factory.mktemp("cache")

    async def scene():
        world = World()
        pacers = [bars_pacer(cache if users else None, GATEWAY, rules=SMALL, clock=world) for _ in range(max(1, users))]
        arrivals, opened, sent = [], [], set()

        async def one(number, instrument, what, bar_s, identity, answer_ms, user, way_ms):
            request = ask(instrument, what, bar_s, f"{instrument} {what} {bar_s} {identity}")
            pacer = pacers[user % len(pacers)]
            async with pacer.admit(request):
                sent.add(number)
                began_ns = world.true_ns
                arrivals.append((began_ns + way_ms * 10**6, request))
                try:
                    await asyncio.sleep(answer_ms / 1000)
                    if number in violations:
                        pacer.violated(request)
                finally:
                    opened.append((began_ns, world.true_ns))

        async def until(task, cancel_ms):
            done, _ = await asyncio.wait({task}, timeout=None if cancel_ms is None else cancel_ms / 1000)
            if not done:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        tasks = []
        for number, (wait_ms, instrument, what, bar_s, identity, answer_ms, cancel_ms, user, way_ms) in enumerate(
            asked
        ):
            await asyncio.sleep(wait_ms / 1000)
            task = asyncio.ensure_future(one(number, instrument, what, bar_s, identity, answer_ms, user, way_ms))
            tasks.append(asyncio.ensure_future(until(task, cancel_ms)))
        await asyncio.gather(*tasks)
        assert {number for number, each in enumerate(asked) if each[6] is None} <= sent
        return arrivals, opened

    arrivals, opened = play(scene())
    assert breaches(arrivals, budget=6, window_s=20, identical_s=5, burst=3, burst_s=2, per_s=10) == []
    open_changes = sorted([(began, 1) for began, _ in opened] + [(end, -1) for _, end in opened])
    level = 0
    for _, change in open_changes:
        level += change
        assert level <= 6


@pytest.mark.parametrize("processes", [1, 3])
def test_the_vendors_figures_hold_and_hardly_any_of_the_budget_is_lost(tmp_path, processes):
    async def scene():
        world = World()
        pacers = [bars_pacer(tmp_path, GATEWAY, clock=world) for _ in range(processes)]
        requests = [ask(f"S{number // 13}") for number in range(400)]
        sent = []

        async def worker(pacer, share):
            for request in share:
                await send(pacer, request, world, sent, answer_s=1.5)

        shares = [requests[number :: 4 * processes] for number in range(4 * processes)]
        await asyncio.gather(*(worker(pacers[number % processes], share) for number, share in enumerate(shares)))
        return sent

    sent = play(scene())
    for way_s in (0.0, 1.9):
        # The slowest way for the odd ones, none for the even: that is the worst that bunches up.
        arrivals = [(round((at_s + way_s * (number % 2)) * S), request) for number, (at_s, request) in enumerate(sent)]
        assert "budget" not in breaches(arrivals)
    assert breaches([(round((at_s + 0.24 * (number % 2)) * S), each) for number, (at_s, each) in enumerate(sent)]) == []
    # A perfect pacer sends the 400th in the seventh window, after six whole ones.
    assert 6 * 600 / times(sent)[-1] > 0.95


def test_what_the_budget_allows_goes_at_once_and_the_rest_no_later_than_needed(tmp_path):
    async def scene():
        world = World()
        pacer = bars_pacer(tmp_path, GATEWAY, clock=world, rules=PacingRules(messages=1000))
        return await send_all(pacer, ask_many(150), world), pacer

    sent, pacer = play(scene())
    assert times(sent) == pytest.approx([0.0] * 60 + [W] * 60 + [2 * W] * 30, abs=1e-6)
    assert (pacer.waits, pacer.waited_s) == (142, pytest.approx(2 * W))


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([ask(identity="x"), ask(identity="x"), ask(identity="x")], [0, 15.5, 31]),
        ([ask(bar_s=3600, identity="x"), ask(bar_s=3600, identity="x")], [0, 15.5]),
        ([ask() for _ in range(11)], [0] * 5 + [2.25] * 5 + [4.5]),
        ([ask(bar_s=60) for _ in range(6)], [0] * 5 + [2.25]),
        ([ask(what="BID_ASK") for _ in range(5)], [0, 0, 2.25, 2.25, 4.5]),
        ([ask("A"), *[ask("B") for _ in range(6)], ask("C")], [0] * 7 + [2.25]),
        ([ask("A", "TRADES") for _ in range(5)] + [ask("A", "MIDPOINT")], [0] * 6),
        (ask_many(31, what="BID_ASK"), [0] * 20 + [0] * 10 + [605]),
        (ask_many(61, bar_s=30), [0] * 40 + [1.25] * 20 + [605]),
        (ask_many(61, bar_s=0), [0] * 40 + [1.25] * 20 + [605]),
        (ask_many(81, bar_s=31), [0] * 40 + [1.25] * 40 + [2.5]),
    ],
    ids=["identical", "identical-large", "burst", "burst-large", "burst-twice", "others-pass", "by-kind", "twice",
         "30s-counts", "head-counts", "31s-does-not"],
)  # fmt: skip
def test_each_rule_waits_just_as_long_as_it_says(requests, expected):
    async def scene():
        world = World()
        return await send_all(bars_pacer(None, GATEWAY, clock=world), requests, world)

    assert times(play(scene())) == pytest.approx(expected, abs=1e-3)


def test_all_sizes_count_when_told():
    async def scene():
        world = World()
        return await send_all(bars_pacer(None, GATEWAY, clock=world, all_sizes=True), ask_many(61, bar_s=3600), world)

    assert times(play(scene()))[-1] == pytest.approx(605, abs=1e-3)


def test_a_request_that_waits_for_the_budget_holds_up_no_larger_bar(tmp_path):
    async def scene():
        world = World()
        pacer = bars_pacer(tmp_path, GATEWAY, clock=world)
        await send_all(pacer, ask_many(60), world)
        sent = []
        waiting = await left_waiting(*(send(pacer, request, world, sent) for request in ask_many(20)))
        began_s = world.now_s
        await send_all(pacer, ask_many(10, bar_s=60), world)
        assert world.now_s - began_s < 0.01
        assert sent == []
        await asyncio.gather(*waiting)

    play(scene())


def test_an_identical_request_waits_alone():
    async def scene():
        world = World()
        pacer = bars_pacer(None, GATEWAY, clock=world)
        return await send_all(pacer, [ask("A", identity="x"), ask("A", identity="x"), ask("A"), ask("B")], world)

    sent = play(scene())
    assert [request.identity == "x" for _, request in sent] == [True, False, False, True]
    assert times(sent) == pytest.approx([0, 0, 0, 15.5], abs=1e-3)


def test_who_came_first_goes_first_also_across_processes(tmp_path):
    """One after the other, in turns by two processes, while the budget becomes free one by one."""

    async def scene():
        world = World()
        pacers = [bars_pacer(tmp_path, GATEWAY, clock=world, rules=PacingRules(open_per_process=48)) for _ in range(2)]
        for request in ask_many(60):
            await send(pacers[0], request, world, [])
            await asyncio.sleep(2)
        sent, requests = [], ask_many(30)
        tasks = []
        for number, request in enumerate(requests):
            tasks += await left_waiting(send(pacers[number % 2], request, world, sent))
            await asyncio.sleep(0.1)
        await asyncio.gather(*tasks)
        return [request for _, request in sent], requests, times(sent)

    went, requests, at_s = play(scene())
    assert went == requests
    assert at_s == pytest.approx([605 + 2 * number for number in range(30)], abs=1e-3)


def test_whole_windows_are_shared_with_another_process(tmp_path):
    """Also when all of the budget becomes free at once: who is there first takes no more than his turn."""

    async def scene():
        world = World()
        rules = PacingRules(messages=1000)
        pacers = [bars_pacer(tmp_path, GATEWAY, clock=world, rules=rules) for _ in range(2)]
        sent = {pacer: [] for pacer in pacers}

        async def worker(pacer):
            for request in ask_many(45):
                await send(pacer, request, world, sent[pacer])

        await asyncio.gather(*(worker(pacer) for pacer in pacers for _ in range(4)))
        return [sum(605 < at_s < 1800 for at_s in times(each)) for each in sent.values()]

    assert play(scene()) == pytest.approx([60, 60], abs=12)


def test_a_request_that_counts_twice_is_not_starved_by_another_process(tmp_path):
    async def scene():
        world = World()
        first, second = (bars_pacer(tmp_path, GATEWAY, clock=world) for _ in range(2))
        for request in ask_many(60):
            await send(first, request, world, [])
            await asyncio.sleep(2)
        sent = []
        (twice,) = await left_waiting(send(first, ask("X", "BID_ASK"), world, sent))
        await asyncio.sleep(0.1)
        others = await left_waiting(*(send(second, request, world, sent) for request in ask_many(8)))
        await asyncio.gather(twice, *others)
        return sent

    sent = play(scene())
    assert sent[0][1].what_to_show == "BID_ASK"
    assert times(sent)[:2] == pytest.approx([607, 609], abs=1e-3)


def test_the_place_of_a_process_that_died_ends_a_second_after_it_was_due():
    async def scene():
        world = World()
        log = CallLog(None, clock=world)
        once, twice = (PacingRules().budget_use(cost) for cost in (1, 2))
        for _ in range(60):
            assert log.enter([once]) == {}
            await asyncio.sleep(2)
        # Two are due to the dead at 607 s, the third to the living; by then the dead should have asked again.
        assert log.enter([twice], ticket="who died", since_ns=1) == {"ibkr.bars": pytest.approx(487 * S)}
        await asyncio.sleep(607.5 - world.now_s)
        assert log.enter([once], ticket="who lives", since_ns=2) == {"ibkr.bars": pytest.approx(1.5 * S)}
        await asyncio.sleep(0.6)
        assert log.enter([once], ticket="who lives", since_ns=2) == {}

    play(scene())


@pytest.mark.parametrize("cache", [True, False])
def test_a_cancelled_wait_leaves_nothing_and_the_next_goes_in_its_place(tmp_path, cache):
    async def scene():
        world = World()
        pacer = bars_pacer(tmp_path if cache else None, GATEWAY, clock=world)
        other = bars_pacer(tmp_path, GATEWAY, clock=world) if cache else pacer
        for request in ask_many(60):
            await send(pacer, request, world, [])
            await asyncio.sleep(2)
        sent = []
        given_up = await left_waiting(*(send(pacer, request, world, sent) for request in ask_many(8, what="BID_ASK")))
        (behind,) = await left_waiting(send(pacer, ask("Y"), world, sent))
        await asyncio.sleep(100)
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        (last,) = await left_waiting(send(other, ask("Z"), world, sent))
        assert pacer.usage().used == 60
        await asyncio.gather(behind, last)
        return [(request.instrument, at_s) for at_s, request in sent]

    assert play(scene()) == [("Y", pytest.approx(605, abs=1e-3)), ("Z", pytest.approx(607, abs=1e-3))]


@pytest.mark.parametrize("users", [1, 2])
def test_a_request_that_may_not_go_yet_for_another_reason_leaves_the_budget_to_others(tmp_path, users):
    async def scene():
        world = World()
        pacers = [bars_pacer(tmp_path, GATEWAY, clock=world) for _ in range(users)]
        requests = [*ask_many(59), ask("X", identity="x")]
        for request in requests:
            await send(pacers[0], request, world, [])
            await asyncio.sleep(10)
        sent = []
        (same,) = await left_waiting(send(pacers[0], ask("X", identity="x"), world, sent))
        await asyncio.sleep(1)
        await asyncio.gather(same, send(pacers[-1], ask("Y"), world, sent))
        return [(request.instrument, at_s) for at_s, request in sent]

    # The identical one may go 15.5 s after 590 s, the first of the budget is free at 605 s.
    assert play(scene()) == [("Y", pytest.approx(605, abs=1e-3)), ("X", pytest.approx(615, abs=1e-3))]


def test_a_cancelled_block_frees_its_slot():
    async def scene():
        world = World()
        pacer = bars_pacer(None, GATEWAY, clock=world, rules=PacingRules(open_per_process=1))
        (task,) = await left_waiting(send(pacer, ask("A"), world, [], answer_s=1000))
        (waiting,) = await left_waiting(send(pacer, ask("B"), world, sent := []))
        await asyncio.sleep(10)
        assert sent == []
        task.cancel()
        await waiting
        return times(sent)

    assert play(scene()) == pytest.approx([10], abs=1e-3)


@pytest.mark.parametrize(("users", "most", "rounds"), [(1, 4, 8), (2, 6, 5)])
def test_so_many_are_open_at_once_and_no_more(tmp_path, users, most, rounds):
    async def scene():
        world = World()
        rules = PacingRules(open_requests=6, open_per_process=4, messages=1000)
        pacers = [bars_pacer(tmp_path, GATEWAY, clock=world, rules=rules) for _ in range(users)]
        level, levels = 0, []

        async def one(pacer, request):
            nonlocal level
            async with pacer.admit(request):
                level += 1
                levels.append(level)
                await asyncio.sleep(5)
                level -= 1

        requests = ask_many(30, bar_s=60)
        await asyncio.gather(*(one(pacers[number % users], request) for number, request in enumerate(requests)))
        return max(levels), world.now_s

    # A slot that another process leaves is noticed a moment later.
    assert play(scene()) == (most, pytest.approx(rounds * 5, abs=1))


def test_a_restart_knows_what_was_used(tmp_path):
    async def scene():
        world = World()
        await send_all(bars_pacer(tmp_path, GATEWAY, clock=world), ask_many(60), world)
        await asyncio.sleep(300)
        again = bars_pacer(tmp_path, "localhost:4002", clock=world)
        assert again.usage().used == 60
        assert again.usage().free_in_s == pytest.approx(305, abs=2)
        elsewhere = bars_pacer(tmp_path, "127.0.0.1:7497", clock=world)
        assert elsewhere.usage().used == 0
        return await send_all(again, ask_many(1), world)

    assert times(play(scene())) == [pytest.approx(605, abs=1e-3)]


def test_a_boot_of_the_machine_forgets_nothing(tmp_path):
    async def scene():
        world = World()
        pacer = bars_pacer(tmp_path, GATEWAY, clock=world)
        await send_all(pacer, ask_many(60), world)
        pacer.violated(ask())
        await asyncio.sleep(5)
        world.boot()
        again = bars_pacer(tmp_path, GATEWAY, clock=world)
        assert again.usage().used == 60
        assert again.usage().held_s == pytest.approx(10, abs=2)
        return await send_all(again, ask_many(1), world)

    assert times(play(scene())) == [pytest.approx(605, abs=2)]


DAMAGE = {
    "zeros": lambda path: path.write_bytes(bytes(8192)),
    "text": lambda path: path.write_text("this is no database" * 100),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "gone": lambda path: path.unlink(),
    "an older layout": lambda path: sqlite3.connect(path).execute("PRAGMA user_version = 1").connection.close(),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_counts_as_used_up(tmp_path, caplog, name):
    async def scene():
        world = World()
        pacer = bars_pacer(tmp_path, GATEWAY, clock=world)
        sent = await send_all(pacer, ask_many(30), world)
        DAMAGE[name](tmp_path / "limits" / "ibkr-127.0.0.1-4002.sqlite")
        sent += await send_all(pacer, ask_many(61), world)
        return sent

    sent = play(scene())
    assert breaches([(round(at_s * S), request) for at_s, request in sent]) == []
    assert times(sent)[30] == pytest.approx(605, abs=1e-3)
    assert "made anew" in caplog.text
    assert "in this process alone" not in caplog.text


def test_a_file_that_cannot_be_read_is_reported_as_used_up_and_stays(tmp_path):
    path = tmp_path / "limits" / "ibkr-127.0.0.1-4002.sqlite"
    path.parent.mkdir()
    path.write_text("this is no database")

    async def scene():
        pacer = bars_pacer(tmp_path, GATEWAY, clock=World())
        return pacer.usage().used, pacer.estimate_s(ask_many(1))

    assert play(scene()) == (60, pytest.approx(605))
    assert path.read_text() == "this is no database"


def test_a_folder_that_cannot_be_used_leaves_the_rules_to_this_process(tmp_path, caplog):
    (tmp_path / "limits").touch()

    async def scene():
        world = World()
        return await send_all(bars_pacer(tmp_path, GATEWAY, clock=world), ask_many(61), world)

    assert times(play(scene()))[-1] == pytest.approx(605, abs=1e-3)
    assert "in this process alone" in caplog.text


def test_another_process_at_the_file_is_waited_for_without_stopping_the_loop(tmp_path):
    async def scene():
        world = World()
        pacer = bars_pacer(tmp_path, GATEWAY, clock=world)
        await send_all(pacer, ask_many(1), world)
        fd = os.open(tmp_path / "limits" / ".ibkr-127.0.0.1-4002.sqlite.lock", os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            (task,) = await left_waiting(send(pacer, ask("B"), world, sent := []))
            await asyncio.sleep(1)
            assert sent == []
        finally:
            os.close(fd)
        await task
        return times(sent)

    assert play(scene()) == [pytest.approx(1, abs=0.01)]


def test_a_file_that_stays_locked_leaves_the_rules_to_this_process_and_counts_as_used_up(tmp_path, caplog):
    log = CallLog(tmp_path / "l.sqlite", patience_s=0.05, blocks=False)
    use = PacingRules().budget_use()
    assert log.enter([use]) == {}
    fd = os.open(tmp_path / ".l.sqlite.lock", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        while (waits := log.enter([use])).keys() == {BUSY}:
            pass
    finally:
        os.close(fd)
    assert waits == {"ibkr.bars": pytest.approx(605 * S, rel=1e-3)}
    assert "in this process alone" in caplog.text


def test_violations_in_a_row_wait_longer_each_time_and_calm_begins_anew():
    async def scene():
        world = World()
        pacer = bars_pacer(None, GATEWAY, clock=world)
        holds, went_s = [], []
        for _ in range(9):
            request = ask()
            async with pacer.admit(request) as waited_s:
                went_s.append(waited_s)
                holds.append(pacer.violated(request))
        await asyncio.sleep(600 + 599)
        holds.append(pacer.violated(ask()))
        await asyncio.sleep(600 + 601)
        holds.append(pacer.violated(ask()))
        return holds, went_s

    holds, went_s = play(scene())
    assert holds == [15, 30, 60, 120, 240, 480, 600, 600, 600, 600, 15]
    assert went_s == pytest.approx([0, 15, 30, 60, 120, 240, 480, 600, 600], abs=1e-3)


def test_a_violation_holds_up_all_that_counts_in_all_processes_and_nothing_else(tmp_path):
    async def scene():
        world = World()
        first, second = (bars_pacer(tmp_path, GATEWAY, clock=world) for _ in range(2))
        first.violated(ask())
        assert second.usage().held_s == pytest.approx(15)
        large = await send_all(second, ask_many(2, bar_s=60), world)
        small = await send_all(second, ask_many(1), world)
        return times(large), times(small)

    large, small = play(scene())
    assert large == pytest.approx([0, 0], abs=1e-3)
    assert small == pytest.approx([15], abs=1e-3)


def test_several_answers_at_once_are_one_violation_and_then_one_asks_at_a_time(tmp_path):
    """The gateway would end the connection if all asked again at once, and all in vain."""

    async def scene():
        world = World()
        pacer = bars_pacer(tmp_path, GATEWAY, clock=world)
        asked_s = []

        async def one(request):
            while True:
                async with pacer.admit(request):
                    asked_s.append(round(world.now_s, 2))
                    await asyncio.sleep(1)
                    # Until 40 s the gateway counts what some other program asked.
                    if world.now_s > 40:
                        return
                    pacer.violated(request)

        await asyncio.gather(*(one(request) for request in ask_many(4)))
        return asked_s

    # All at 0, violated at 1; one at 16, violated at 17; one at 47, answered at 48; then the rest.
    assert play(scene()) == [0, 0, 0, 0, 16, 47, 48, 48, 48]


def test_a_violation_by_a_larger_bar_counts_all_sizes_for_an_hour(tmp_path, caplog):
    async def scene():
        world = World()
        first, second = (bars_pacer(tmp_path, GATEWAY, clock=world) for _ in range(2))
        first.violated(ask(bar_s=60))
        assert second.usage().all_sizes
        assert second.estimate_s(ask_many(61, bar_s=3600)) == pytest.approx(620, abs=2)
        paced = await send_all(second, ask_many(61, bar_s=3600), world)
        await asyncio.sleep(3600)
        assert not second.usage().all_sizes
        before_s = world.now_s
        await send_all(second, ask_many(61, bar_s=3600), world)
        return times(paced), world.now_s - before_s

    paced, free_s = play(scene())
    assert paced[0] == pytest.approx(15, abs=1e-3)
    assert paced[-1] == pytest.approx(620, abs=1)
    assert free_s < 2
    assert "the next 60 min bars of all sizes count" in caplog.text


@pytest.mark.parametrize("used", [0, 7, 60])
@pytest.mark.parametrize(
    "requests",
    [
        [ask() for _ in range(5)],
        [ask() for _ in range(13)],
        [ask(f"S{number // 13}") for number in range(130)],
        [ask(f"S{number // 13}", "BID_ASK") for number in range(70)],
        [ask(f"S{number}", bar_s=60) for number in range(100)],
        [ask(f"S{number // 60}", bar_s=60) for number in range(120)],
        [],
    ],
    ids=["few", "a day", "many", "twice", "minutes", "weeks", "none"],
)
def test_the_estimate_is_what_it_takes(tmp_path, used, requests):
    async def scene():
        world = World()
        pacer = bars_pacer(tmp_path, GATEWAY, clock=world)
        await send_all(pacer, ask_many(used), world)
        await asyncio.sleep(100)
        before = pacer.estimate_s(requests)
        by_kind = defaultdict(int)
        for request in requests:
            by_kind[PacedRequest(request.instrument, "SMART", request.what_to_show, request.bar_s, "")] += 1
        assert pacer.estimate_s(by_kind) == pytest.approx(before)
        began_s = world.now_s
        sent = await send_all(pacer, requests, world)
        return before, (times(sent)[-1] if sent else began_s) - began_s

    before, took = play(scene())
    assert before == pytest.approx(took, rel=0.02, abs=0.1)


def test_looking_writes_nothing(tmp_path):
    async def scene():
        world = World()
        pacer = bars_pacer(tmp_path, GATEWAY, clock=world)
        assert pacer.usage().used == pacer.estimate_s(ask_many(3)) == 0
        assert list(tmp_path.iterdir()) == []
        await send_all(pacer, ask_many(3), world)
        path = tmp_path / "limits" / "ibkr-127.0.0.1-4002.sqlite"
        before = path.read_bytes()
        world.boot()
        assert pacer.usage().used == 3
        assert pacer.estimate_s(ask_many(58)) == pytest.approx(605, abs=1e-3)
        assert path.read_bytes() == before
        memory = bars_pacer(None, GATEWAY, clock=world)
        await send_all(memory, ask_many(3), world)
        assert memory.usage().used == 3

    play(scene())


def test_an_estimate_of_very_many_is_quick():
    async def scene():
        pacer = bars_pacer(None, GATEWAY, clock=World())
        return pacer.estimate_s({ask(f"S{number}"): 1500 for number in range(200)})

    assert play(scene()) == pytest.approx(300_000 / 60 * 605, rel=0.01)


def test_rules_under_which_nothing_could_go_are_refused():
    with pytest.raises(ValueError, match="BID_ASK"):
        PacingRules(budget=1)
    with pytest.raises(ValueError, match="at least one"):
        PacingRules(open_per_process=0)
    with pytest.raises(ValueError, match="hold_s"):
        PacingRules(hold_s=())
    with pytest.raises(ValueError, match="speed"):
        SystemClock(speed=0)


def test_a_fast_clock_waits_so_much_shorter():
    rules = PacingRules(budget=2, budget_window_s=10)

    async def scene():
        clock = SystemClock(speed=100)
        pacer = bars_pacer(None, GATEWAY, clock=clock, rules=rules)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for request in ask_many(5):
            async with pacer.admit(request):
                pass
        return loop.time() - began_s

    assert 0.2 <= asyncio.run(scene()) < 5


def test_a_long_wait_is_told_once_when_it_begins(caplog):
    async def scene():
        world = World()
        pacer = bars_pacer(None, GATEWAY, clock=world)
        await asyncio.gather(*(send(pacer, request, world, []) for request in ask_many(70)))

    with caplog.at_level("INFO", "connectors.ibkr.pacing"):
        play(scene())

    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert re.fullmatch(r"the pacing rules let the next request through in 60[0-5] s", told[0])

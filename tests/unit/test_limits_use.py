"""What is used of the limits now: told from the files that all processes share, without making any."""

import asyncio
import subprocess
import sys

import pytest

from connectors.ibkr.pacing import PacedRequest
from flows.limits import RequestWindows, Slots, bars_pacer
from flows.limits_use import slots_in_use, window_use

S = 10**9

HOLD = """
import sys
from pathlib import Path
from flows.limits import Slots
with Slots(Path(sys.argv[1]), "databento.streams", 10).acquire(30):
    print("held", flush=True)
    sys.stdin.readline()
"""


class StillClock:
    """Time that passes only when told."""

    def __init__(self):
        self.now_ns = 5_000 * S

    def monotonic_ns(self):
        return self.now_ns

    def wall_ns(self):
        return self.now_ns + 10**18

    def boot_id(self):
        return "boot"

    def sleep(self, seconds):
        raise AssertionError("nothing waits here")

    async def pause(self, seconds):
        raise AssertionError("nothing waits here")


def by_name(uses):
    return {(use.name, use.gateway): use for use in uses}


def tree(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_looking_makes_no_file_and_an_empty_place_is_unused(tmp_path):
    cache = tmp_path / "cache"
    assert {(use.name, use.used, use.free_in_s) for use in window_use(cache)} == {
        ("databento.timeseries", 0, 0.0),
        ("databento.symbology", 0, 0.0),
        ("databento.metadata", 0, 0.0),
    }
    assert [(use.name, use.limit, use.used, use.free_in_s) for use in slots_in_use(cache)] == [
        ("databento.streams", 10, 0, 0.0)
    ]
    assert tree(tmp_path) == []


def test_a_window_tells_what_counts_and_when_one_more_may_go(tmp_path):
    clock = StillClock()
    windows = RequestWindows(tmp_path / "limits" / "requests.sqlite", clock=clock)
    for _ in range(12):
        windows.acquire("databento.metadata")
        clock.now_ns += S // 100
    made = tree(tmp_path)

    uses = by_name(window_use(tmp_path, clock=clock))

    full = uses["databento.metadata", ""]
    assert (full.limit, full.used) == (12, 12)
    # The oldest was 0.12 s ago, in a window of a second.
    assert full.free_in_s == pytest.approx(0.88, abs=1e-6)
    assert uses["databento.timeseries", ""].used == 0
    assert tree(tmp_path) == made
    clock.now_ns += S
    assert by_name(window_use(tmp_path, clock=clock))["databento.metadata", ""].used == 0


def test_each_gateway_tells_its_budget_its_open_requests_and_what_a_violation_holds_up(tmp_path):
    clock = StillClock()

    async def ask():
        pacer = bars_pacer(tmp_path, "127.0.0.1:4002", clock=clock)
        request = PacedRequest("AAPL", "SMART", "BID_ASK", 1, "one")
        async with pacer.admit(request):
            pacer.violated(request)
            return by_name([*window_use(tmp_path, clock=clock), *slots_in_use(tmp_path)])

    uses = asyncio.run(ask())

    budget = uses["ibkr.bars", "127.0.0.1-4002"]
    assert (budget.used, budget.limit, budget.free_in_s, budget.held_s) == (2, 60, 15.0, 15.0)
    assert uses["ibkr.open", "127.0.0.1-4002"].used == 1
    assert by_name(slots_in_use(tmp_path))["ibkr.open", "127.0.0.1-4002"].used == 0


def test_slots_of_other_processes_count_until_they_die(tmp_path):
    folder = tmp_path / "limits"
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        assert [holder.stdout.readline() for holder in holders] == [b"held\n"] * 2
        assert [use.used for use in slots_in_use(tmp_path)] == [2]
        holders[0].kill()
        holders[0].wait()
        assert [use.used for use in slots_in_use(tmp_path)] == [1]
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


def test_slots_that_are_all_held_are_free_nobody_knows_when(tmp_path):
    slots = Slots(tmp_path / "limits", "databento.streams", 10)
    held = [slots.acquire(0) for _ in range(10)]
    (use,) = slots_in_use(tmp_path)
    assert (use.used, use.free_in_s) == (10, None)
    for slot in held:
        slot.release()


def test_slots_in_memory_are_counted_and_stay_as_they_are():
    slots = Slots.in_memory("streams", 3)
    with slots.acquire(0), slots.acquire(0):
        assert slots.in_use() == 2
        with slots.acquire(0):
            assert slots.in_use() == 3
    assert slots.in_use() == 0

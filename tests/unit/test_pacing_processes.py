"""Pacing by several real processes on one file: they count together, and one that is killed holds up nobody."""

import asyncio
import signal
import subprocess
import sys
import time

import pytest

from connectors.ibkr.pacing import PacedRequest, PacingRules
from flows.limits import bars_pacer

S = 10**9
GATEWAY = "127.0.0.1:4002"
WINDOW_S = 1.0

CHILD = """
import asyncio, os, sys, time
from pathlib import Path
from connectors.ibkr.pacing import PacedRequest, PacingRules
from flows.limits import bars_pacer

folder, count, answer_s, options = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), eval(sys.argv[4])
times = os.open(folder / "times", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

async def one(pacer, number):
    async with pacer.admit(PacedRequest(f"{os.getpid()}-{number}", "SMART", "TRADES", 1, f"{os.getpid()}-{number}")):
        # After it was let through: what the gateway would see.
        os.write(times, b"%d %d\\n" % (time.monotonic_ns(), os.getpid()))
        await asyncio.sleep(answer_s)

async def main():
    pacer = bars_pacer(folder, "127.0.0.1:4002", rules=PacingRules(**options))
    print("ready", flush=True)
    sys.stdin.readline()
    numbers = iter(range(count))

    async def worker():
        for number in numbers:
            await one(pacer, number)

    await asyncio.gather(*(worker() for _ in range(4)))

asyncio.run(main())
"""

OPTIONS = {"budget": 10, "budget_window_s": WINDOW_S, "messages": 1000}


@pytest.fixture
def start():
    children = []

    def start(folder, count, answer_s=0.0, **options):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), str(count), str(answer_s), repr(OPTIONS | options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        assert child.stdout.readline() == "ready\n"
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def go(child):
    child.stdin.write("go\n")
    child.stdin.flush()


def sent(folder):
    path = folder / "times"
    lines = path.read_text().splitlines() if path.exists() else []
    return sorted(tuple(map(int, line.split())) for line in lines)


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ask(name, *, bar_s=1):
    return PacedRequest(name, "SMART", "TRADES", bar_s, name)


def admit_all(folder, names, **options):
    """Ask as one more process; return when each was let through."""
    bar_s = options.pop("bar_s", 1)

    async def main():
        pacer = bars_pacer(folder, GATEWAY, rules=PacingRules(**OPTIONS | options))
        times = []
        for name in names:
            async with asyncio.timeout(30), pacer.admit(ask(name, bar_s=bar_s)):
                times.append(time.monotonic_ns())
        return times

    return asyncio.run(main())


def most_in_any_window(times_ns, window_ns):
    return max(sum(start <= at <= start + window_ns for at in times_ns) for start in times_ns)


def test_three_processes_share_one_budget_fairly(tmp_path, start):
    children = [start(tmp_path, 20) for _ in range(3)]
    for child in children:
        go(child)
    for child in children:
        child.communicate(timeout=60)
        assert child.returncode == 0
    times = sent(tmp_path)
    assert len(times) == 60
    # A process may be held up between its permission and its request: half a second is the margin here.
    assert most_in_any_window([at for at, _ in times], round(WINDOW_S * S / 2)) <= 10
    assert times[-1][0] - times[0][0] > 4.9 * WINDOW_S * S
    # Once all were waiting, each got its share.
    later = [pid for at, pid in times if at > times[0][0] + 1.5 * WINDOW_S * S][:30]
    assert all(later.count(child.pid) > 3 for child in children)


def test_a_process_killed_with_an_open_request_frees_its_slot_but_not_its_budget(tmp_path, start):
    child = start(tmp_path, 3, answer_s=1000, open_requests=3, budget_window_s=600)
    go(child)
    wait_until(lambda: len(sent(tmp_path)) == 3)

    async def main():
        pacer = bars_pacer(tmp_path, GATEWAY, rules=PacingRules(**OPTIONS | {"open_requests": 3}))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), pacer.admit(ask("A", bar_s=60)):
                pass
        child.send_signal(signal.SIGKILL)
        child.wait()
        async with asyncio.timeout(30), pacer.admit(ask("A", bar_s=60)):
            pass

    asyncio.run(main())
    again = bars_pacer(tmp_path, GATEWAY, rules=PacingRules(budget=10, budget_window_s=600))
    assert again.usage().used == 3


def test_processes_killed_at_any_moment_leave_a_log_that_works_and_no_one_in_the_way(tmp_path, start, caplog):
    for number in range(4):
        child = start(tmp_path, 2000)
        before = len(sent(tmp_path))
        go(child)
        # It is killed while it waits, enters or writes.
        wait_until(lambda before=before: len(sent(tmp_path)) > before)
        admit_all(tmp_path, [f"{number}-a"])
        child.kill()
        child.communicate()
        began = time.monotonic()
        admit_all(tmp_path, [f"{number}-b", f"{number}-c"])
        # The places of its waiting requests end a second after they were due.
        assert time.monotonic() - began < 2 * WINDOW_S + 5
    times = [at for at, _ in sent(tmp_path)]
    assert most_in_any_window(times, round(WINDOW_S * S / 2)) <= 10
    assert caplog.records == []


def test_a_restart_waits_for_what_the_process_before_used(tmp_path, start):
    child = start(tmp_path, 10, budget_window_s=3.0)
    go(child)
    child.communicate(timeout=30)
    first_ns = sent(tmp_path)[0][0]
    (next_ns,) = admit_all(tmp_path, ["A"], budget_window_s=3.0)
    assert next_ns - first_ns > 2.9 * S

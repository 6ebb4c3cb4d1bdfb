"""Request rates: never more than N calls in any window, across threads, processes, kills and damaged files."""

import logging
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.limits import LIMITS, Limit, LimitTimeout, RequestWindows, limit_named

S = 10**9


def rule(limit, window_s, name="x"):
    return Limit(name, "vendor", limit, window_s, limit, "test", "test")


class FakeClock:
    """Time that passes only when told; the wall clock can step and the machine can boot anew."""

    def __init__(self):
        self.true_ns = 5_000 * S
        self.booted_ns = 0
        self.wall_step_ns = 10**18
        self.boots = 0
        self.slept_s = 0.0

    def monotonic_ns(self):
        return self.true_ns - self.booted_ns

    def wall_ns(self):
        return self.true_ns + self.wall_step_ns

    def boot_id(self):
        return f"boot-{self.boots}"

    def sleep(self, seconds):
        assert seconds > 0
        self.slept_s += seconds
        self.true_ns += max(1, round(seconds * S))

    def boot(self):
        self.booted_ns = self.true_ns - 1
        self.boots += 1


def most_in_any_window(times_ns, window_ns):
    """Count by looking at every pair, knowing nothing of how the limit is kept."""
    return max((sum(start <= t <= start + window_ns for t in times_ns) for start in times_ns), default=0)


steps = st.lists(
    st.tuples(st.sampled_from(["call", "call", "call", "try", "pass", "step clock"]), st.integers(0, 3 * S)),
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(limit=st.integers(1, 5), window_ms=st.integers(1, 2000), users=st.integers(0, 3), steps=steps)
def test_no_window_ever_holds_more_calls_than_allowed(tmp_path_factory, limit, window_ms, users, steps):
    """Several processes (as many objects on one file) or, with 0, one in memory; the wall clock steps at will."""
    clock = FakeClock()
    rules = [rule(limit, window_ms / 1000)]
    path = tmp_path_factory.mktemp("cache") / "limits.sqlite"
    windows = [RequestWindows(path, rules, clock=clock) for _ in range(users)] or [
        RequestWindows.in_memory(rules, clock=clock)
    ]
    times = []
    for number, (action, amount) in enumerate(steps):
        user = windows[number % len(windows)]
        if action == "call":
            user.acquire("x")
            times.append(clock.true_ns)
        elif action == "try":
            try:
                user.acquire("x", timeout_s=0)
                times.append(clock.true_ns)
            except LimitTimeout:
                pass
        elif action == "pass":
            clock.true_ns += amount
        else:
            clock.wall_step_ns += amount * 1000 - 10**12
    assert most_in_any_window(times, window_ms * 10**6) <= limit


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(st.sampled_from(["call", "call", "boot", "pass"]), max_size=30))
def test_a_boot_of_the_machine_neither_forgets_calls_nor_blocks(tmp_path_factory, steps):
    clock = FakeClock()
    path = tmp_path_factory.mktemp("cache") / "limits.sqlite"
    times = []
    for action in steps:
        if action == "call":
            RequestWindows(path, [rule(2, 1.0)], clock=clock).acquire("x", timeout_s=1.1)
            times.append(clock.true_ns)
        elif action == "boot":
            clock.boot()
        else:
            clock.true_ns += S // 3
    assert most_in_any_window(times, S) <= 2


def test_calls_within_the_limit_do_not_wait_and_the_next_waits_no_longer_than_needed(tmp_path):
    clock = FakeClock()
    windows = RequestWindows(tmp_path / "l.sqlite", [rule(3, 1.0)], clock=clock)
    assert [windows.acquire("x") for _ in range(3)] == [0, 0, 0]
    clock.true_ns += S // 4
    assert windows.acquire("x") == pytest.approx(0.75, abs=1e-6)


def test_limits_of_different_names_do_not_touch(tmp_path):
    clock = FakeClock()
    windows = RequestWindows(tmp_path / "l.sqlite", [rule(1, 60, "a"), rule(1, 60, "b")], clock=clock)
    assert windows.acquire("a") == windows.acquire("b") == 0


def test_a_time_out_is_told_at_once_and_enters_nothing(tmp_path):
    clock = FakeClock()
    windows = RequestWindows(tmp_path / "l.sqlite", [rule(1, 60)], clock=clock)
    windows.acquire("x")
    for _ in range(3):
        with pytest.raises(LimitTimeout) as caught:
            windows.acquire("x", timeout_s=59)
        assert caught.value.name == "x"
    assert clock.slept_s == 0
    assert windows.acquire("x", timeout_s=61) == pytest.approx(60, abs=1e-6)


@pytest.mark.parametrize("name", ["nobody", "ibkr.identical"])
def test_an_unknown_name_is_refused(name):
    """And the windows of a pacer, which mean nothing without the request."""
    with pytest.raises(KeyError, match="no request rate"):
        RequestWindows.in_memory().acquire(name)


def test_nothing_is_made_before_the_first_call_and_never_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RequestWindows(tmp_path / "cache" / "l.sqlite")
    RequestWindows.in_memory().acquire("databento.metadata")
    assert list(tmp_path.iterdir()) == []


def test_old_calls_are_forgotten_so_that_the_file_stays_small(tmp_path):
    clock = FakeClock()
    windows = RequestWindows(tmp_path / "l.sqlite", [rule(3, 1.0)], clock=clock)
    for _ in range(50):
        windows.acquire("x")
    with sqlite3.connect(tmp_path / "l.sqlite") as base:
        assert base.execute("SELECT count(*) FROM calls").fetchone()[0] <= 4
    base.close()


def another_database(path):
    path.unlink()
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE other (x)")
    base.execute("PRAGMA user_version = 77")
    base.commit()
    base.close()


DAMAGE = {
    "zeros": lambda path: path.write_bytes(bytes(8192)),
    "text": lambda path: path.write_text("this is no database" * 100),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "torn pages": lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096)),
    "gone": lambda path: path.unlink(),
    "another database": another_database,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_made_anew_and_the_limit_holds(tmp_path, caplog, name):
    clock = FakeClock()
    path = tmp_path / "l.sqlite"
    windows = RequestWindows(path, [rule(3, 1.0)], clock=clock)
    times = []
    for number in range(12):
        if number in (2, 7):
            DAMAGE[name](path)
        windows.acquire("x")
        times.append(clock.true_ns)
    assert most_in_any_window(times, S) <= 3
    assert "made anew" in caplog.text
    assert "in this process alone" not in caplog.text


def test_an_empty_file_is_a_new_one(tmp_path):
    (tmp_path / "l.sqlite").touch()
    assert RequestWindows(tmp_path / "l.sqlite", [rule(3, 1.0)], clock=FakeClock()).acquire("x") == 0


def test_a_file_that_somebody_keeps_locked_is_set_aside(tmp_path, caplog):
    clock = FakeClock()
    path = tmp_path / "l.sqlite"
    windows = RequestWindows(path, [rule(2, 1.0)], clock=clock, patience_s=0.05)
    windows.acquire("x")
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        assert windows.acquire("x") >= 1.0
    finally:
        other.close()
    assert "locked" in caplog.text
    assert windows.acquire("x") == 0


def test_a_folder_that_cannot_be_used_leaves_the_limit_to_this_process(tmp_path, caplog):
    (tmp_path / "file").touch()
    clock = FakeClock()
    windows = RequestWindows(tmp_path / "file" / "l.sqlite", [rule(2, 1.0)], clock=clock)
    with caplog.at_level(logging.WARNING):
        waits = [windows.acquire("x") for _ in range(3)]
    assert waits[:2] == [0, 0]
    assert waits[2] == pytest.approx(1.0, abs=1e-6)
    assert len(caplog.records) == 1
    assert "in this process alone" in caplog.text


def test_a_folder_lost_on_the_way_does_not_open_the_window_anew(tmp_path):
    clock = FakeClock()
    folder = tmp_path / "cache"
    windows = RequestWindows(folder / "l.sqlite", [rule(2, 1.0)], clock=clock)
    windows.acquire("x")
    windows.acquire("x")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.touch()
    assert windows.acquire("x") >= 1.0


def test_threads_share_one_window(tmp_path):
    windows = RequestWindows(tmp_path / "l.sqlite", [rule(5, 0.2)])
    entered = []

    def work():
        for _ in range(5):
            windows.acquire("x")
            entered.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entered) == 20
    assert time.monotonic() - began >= 3 * 0.2


CALLER = """
import os, sys, time
from pathlib import Path
from flows.limits import Limit, RequestWindows
windows = RequestWindows(Path(sys.argv[1]) / "l.sqlite", [Limit("x", "v", 10, 0.3, 10, "", "")])
times = os.open(Path(sys.argv[1]) / "times", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    windows.acquire("x")
    # After the call was let through: what the vendor would see.
    os.write(times, b"%d\\n" % time.monotonic_ns())
"""


def start_caller(folder, calls):
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(folder), str(calls)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert caller.stdout.readline() == "ready\n"
    caller.stdin.write("go\n")
    caller.stdin.flush()
    return caller


def log_of_calls(folder):
    with sqlite3.connect(folder / "l.sqlite") as base:
        times = [row[0] for row in base.execute("SELECT at_ns FROM calls ORDER BY at_ns")]
    base.close()
    return times


def test_two_processes_share_one_window(tmp_path):
    went_ns = time.monotonic_ns()
    callers = [start_caller(tmp_path, 25) for _ in range(2)]
    for caller in callers:
        caller.communicate()
        assert caller.returncode == 0
    times = sorted(int(line) for line in (tmp_path / "times").read_bytes().split())
    assert len(times) == 50
    assert times[-1] - went_ns > 4 * 0.3 * S
    # Each process may be held up between a permission and its call: that is what our margin to the vendor's is for.
    assert most_in_any_window(times, round(0.3 * S)) <= 10 + len(callers)


def test_processes_killed_at_any_moment_leave_a_log_that_works(tmp_path, caplog):
    windows = RequestWindows(tmp_path / "l.sqlite", [rule(10, 0.3)])
    for _ in range(6):
        caller = start_caller(tmp_path, 10_000)
        # As soon as the child is at work: it is killed while it waits, enters or writes.
        while not (tmp_path / "times").exists() or not (tmp_path / "times").stat().st_size:
            threading.Event().wait(0.001)
        windows.acquire("x", timeout_s=30)
        caller.kill()
        caller.communicate()
        windows.acquire("x", timeout_s=30)
        assert most_in_any_window(log_of_calls(tmp_path), round(0.3 * S)) <= 10
    assert caplog.records == []


def test_the_table_says_for_each_limit_what_the_vendor_and_what_we_allow():
    assert len({row.name for row in LIMITS}) == len(LIMITS)
    for row in LIMITS:
        assert 0 < row.limit <= row.vendor_limit
        # Calls bunch up on their way: fewer of them, or a longer window, is the room for that.
        assert row.limit < row.vendor_limit or row.window_s > row.vendor_window_s
        assert row.source
        if row.window_s is None:
            assert set(row.kept_by.split(", ")) <= {"Slots", "Prefect"}
        else:
            assert row.kept_by == {"databento": "RequestWindows", "ibkr": "Pacer"}[row.vendor]
    assert limit_named("databento.metadata").vendor_limit == 20
    assert limit_named("ibkr.bars").vendor_limit == 60
    with pytest.raises(KeyError, match=r"databento\.metadata"):
        limit_named("nobody")

"""Things held: at most so many at once, in all processes, and free again when a holder is killed."""

import subprocess
import sys
import threading

import pytest

from flows.limits import LimitTimeout, Slots

HOLD = """
import sys
from pathlib import Path
from flows.limits import Slots
with Slots(Path(sys.argv[1]), "streams", 2).acquire(timeout_s=30):
    print("held", flush=True)
    sys.stdin.readline()
"""


def start_holder(folder):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    return holder


@pytest.fixture(params=["files", "memory"])
def slots(request, tmp_path):
    return Slots.in_memory("streams", 2) if request.param == "memory" else Slots(tmp_path / "cache", "streams", 2)


def test_no_more_than_the_count_are_held(slots):
    with slots.acquire(0), slots.acquire(0) as second:
        with pytest.raises(LimitTimeout, match="streams"):
            slots.acquire(0.05)
        second.release()
        second.release()
        with slots.acquire(0), pytest.raises(LimitTimeout):
            slots.acquire(0)
    with slots.acquire(0), slots.acquire(0):
        pass


def test_an_error_in_the_block_frees_the_slot(slots):
    for _ in range(3):
        with pytest.raises(RuntimeError), slots.acquire(0):
            raise RuntimeError
    with slots.acquire(0), slots.acquire(0):
        pass


def test_a_waiting_thread_goes_on_when_a_slot_is_free(slots):
    first, second = slots.acquire(0), slots.acquire(0)
    waiting, done = threading.Event(), threading.Event()

    def wait():
        waiting.set()
        with slots.acquire(30):
            done.set()

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    assert not done.is_set()
    first.release()
    thread.join(30)
    assert done.is_set()
    second.release()


def test_processes_share_the_slots_and_a_killed_one_frees_its_own(tmp_path):
    slots = Slots(tmp_path, "streams", 2)
    holders = [start_holder(tmp_path), start_holder(tmp_path)]
    try:
        with pytest.raises(LimitTimeout):
            slots.acquire(0)
        holders[0].kill()
        holders[0].wait()
        with slots.acquire(5), pytest.raises(LimitTimeout):
            slots.acquire(0)
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


def test_slots_of_different_names_do_not_touch(tmp_path):
    with Slots(tmp_path, "a", 1).acquire(0), Slots(tmp_path, "b", 1).acquire(0):
        pass


def test_nothing_is_made_before_the_first_slot_is_taken(tmp_path):
    Slots(tmp_path / "cache", "streams", 2)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_used_leaves_the_limit_to_this_process(tmp_path, caplog):
    (tmp_path / "file").touch()
    slots = Slots(tmp_path / "file", "streams", 1)
    with slots.acquire(0), pytest.raises(LimitTimeout):
        slots.acquire(0)
    assert len(caplog.records) == 1
    assert "in this process alone" in caplog.text


def test_fewer_than_one_slot_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        Slots(tmp_path, "streams", 0)

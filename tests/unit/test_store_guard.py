"""Guards stop a run before the disk is full or the budget spent."""

import shutil
import threading

import pytest

from connectors.store.errors import StorageGuardHit
from connectors.store.guard import GB, FreeSpaceGuard, RunBudget


def test_a_guard_works_for_a_folder_that_does_not_exist_yet_and_makes_nothing(tmp_path):
    guard = FreeSpaceGuard(tmp_path / "not" / "yet", 0.000001)
    guard.check()
    assert guard.free_bytes() > 0
    assert list(tmp_path.iterdir()) == []


def test_a_hit_says_free_needed_where_and_which_key(tmp_path):
    free_gb = shutil.disk_usage(tmp_path).free / GB
    with pytest.raises(StorageGuardHit, match=r"free, 1\.500 GB needed .*L2_MIN_FREE_GB") as caught:
        FreeSpaceGuard(tmp_path, free_gb * 2).check(1_500_000_000)
    hit = caught.value
    assert (hit.path, hit.key, hit.needed_bytes) == (tmp_path, "L2_MIN_FREE_GB", 1_500_000_000)
    assert hit.left_bytes < 0
    assert str(tmp_path) in str(hit)


def test_what_is_needed_counts_on_top_of_the_minimum(tmp_path):
    guard = FreeSpaceGuard(tmp_path, 0.001)
    guard.check(0)
    with pytest.raises(StorageGuardHit):
        guard.check(guard.free_bytes())


def test_zero_turns_guards_off(tmp_path):
    FreeSpaceGuard(tmp_path, 0).check(10**18)
    RunBudget(0, tmp_path).reserve(10**18).close()


@pytest.mark.parametrize("gb", [-1, float("nan"), float("inf")])
def test_a_guard_that_cannot_be_meant_is_refused(tmp_path, gb):
    with pytest.raises(ValueError, match="L2_MIN_FREE_GB"):
        FreeSpaceGuard(tmp_path, gb)
    with pytest.raises(ValueError, match="L2_MAX_RUN_GB"):
        RunBudget(gb, tmp_path)


def test_a_budget_counts_what_was_written_and_gives_back_the_rest(tmp_path):
    budget = RunBudget(1, tmp_path)
    with budget.reserve(900_000_000) as part:
        part.commit(100_000_000)
        part.commit(200_000_000)
    assert budget.written_bytes == 300_000_000
    with budget.reserve(700_000_000), pytest.raises(StorageGuardHit, match="L2_MAX_RUN_GB") as caught:
        budget.reserve(1)
    assert (caught.value.needed_bytes, caught.value.left_bytes) == (1, 0)
    assert budget.written_bytes == 300_000_000


def test_a_failed_task_gives_its_part_back(tmp_path):
    budget = RunBudget(1, tmp_path)
    for _ in range(3):
        with pytest.raises(RuntimeError), budget.reserve(GB):
            raise RuntimeError
    assert budget.written_bytes == 0


def test_threads_never_pass_the_ceiling_together(tmp_path):
    budget = RunBudget(0.000001, tmp_path)
    hits = []

    def work():
        for _ in range(100):
            try:
                with budget.reserve(10) as part:
                    part.commit(10)
            except StorageGuardHit as hit:
                hits.append(hit)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.written_bytes == 1000
    assert len(hits) == 300

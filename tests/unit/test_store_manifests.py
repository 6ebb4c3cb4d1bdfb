"""One run at a time on a data root, its lines and its summary."""

import logging
import os
import subprocess
import sys
import threading

import pytest

from connectors.store.errors import StoreBusy
from connectors.store.locks import read_holder
from connectors.store.manifests import RUN_LOCK_NAME, append_backfill_line, run_lock, write_backfill_summary
from contracts.layout import DataRoot
from contracts.v1.backfill import (
    BackfillCounts,
    BackfillManifestLine,
    BackfillSummary,
    parse_manifest_line,
    parse_summary,
)

HOLD = """
import sys
from pathlib import Path
from connectors.store.manifests import run_lock
from contracts.layout import DataRoot
with run_lock(DataRoot(Path(sys.argv[1])), run_id="the-other"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def root(tmp_path):
    return DataRoot(tmp_path / "not" / "yet")


@pytest.fixture
def other_run(root):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_lines_are_appended_and_the_root_is_made(root):
    lines = [
        BackfillManifestLine(symbol="AAPL", date="2025-09-04", status="EMPTY", reason="market closed"),
        BackfillManifestLine(symbol="BRK-B", date="2025-09-05", status="WRITE", rows=3),
    ]
    for line in lines:
        append_backfill_line(root, line)
    read = [parse_manifest_line(text) for text in root.backfill_manifest.read_text().splitlines()]
    assert read == lines


def test_the_summary_is_replaced(root):
    for total in (1, 2):
        counts = BackfillCounts(WRITE=total, SKIP=0, EMPTY=0, ERROR=0)
        summary = BackfillSummary(
            counts=counts,
            zero_row_tasks=(),
            errors=(),
            total_tasks=total,
            duration_sec=0.5,
            strict=False,
            force=False,
            max_tasks=None,
            concurrency=4,
        )
        write_backfill_summary(root, summary)
    text = root.backfill_summary.read_text()
    assert parse_summary(text) == summary
    assert '"max_tasks": null' in text
    assert [path.name for path in root.path.iterdir()] == ["backfill_l2_summary.json"]


def test_a_second_run_is_told_who_holds_the_root(root, other_run):
    with pytest.raises(StoreBusy) as caught, run_lock(root, timeout_s=0.05):
        pass
    text = str(caught.value)
    assert f"process {other_run.pid} on" in text
    assert "the-other" in text
    assert "since 20" in text
    assert caught.value.waited_s >= 0.05


def test_a_waiting_run_says_so_once_and_goes_on_when_the_other_ends(root, other_run, caplog):
    told = []

    def on_wait(holder):
        told.append(holder)
        other_run.stdin.write("end\n")
        other_run.stdin.flush()

    with run_lock(root, run_id="mine", on_wait=on_wait, timeout_s=30):
        assert read_holder(root.path / RUN_LOCK_NAME).run_id == "mine"
    assert [holder.pid for holder in told] == [other_run.pid]


def test_by_default_the_wait_is_logged(root, other_run, caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(StoreBusy), run_lock(root, timeout_s=0.1):
        pass
    assert len(caplog.records) == 1
    assert "the-other" in caplog.text


def test_threads_of_one_process_exclude_each_other_too(root):
    refused = []

    def try_it():
        try:
            with run_lock(root, timeout_s=0):
                pass
        except StoreBusy as error:
            refused.append(error)

    with run_lock(root, run_id="first"):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert str(os.getpid()) in refused[0].holder
    try_it()
    assert len(refused) == 1


def test_the_lock_is_freed_by_an_error_and_names_nobody_then(root):
    with pytest.raises(ZeroDivisionError), run_lock(root):
        _ = 1 / 0
    assert read_holder(root.path / RUN_LOCK_NAME) is None
    with run_lock(root, timeout_s=0):
        pass
    assert [path.name for path in root.path.iterdir()] == [RUN_LOCK_NAME]


def test_a_lock_file_with_garbage_inside_can_be_taken(root):
    root.path.mkdir(parents=True)
    (root.path / RUN_LOCK_NAME).write_bytes(b"\xff\0 garbage that is much longer than what a holder writes" * 20)
    with run_lock(root, run_id="mine", timeout_s=0):
        assert read_holder(root.path / RUN_LOCK_NAME).run_id == "mine"


def test_a_lock_file_removed_while_held_does_not_leave_a_waiter_with_a_lock_on_nothing(root):
    """Whoever waits gets the lock of the name, not of the removed file."""
    with run_lock(root, run_id="first"):
        (root.path / RUN_LOCK_NAME).unlink()
        with (
            run_lock(root, run_id="second", timeout_s=0),
            pytest.raises(StoreBusy, match="second"),
            run_lock(root, timeout_s=0),
        ):
            pass

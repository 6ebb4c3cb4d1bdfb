"""Answers that are kept until their day is published."""

import logging
import os
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.store.bars_shelf import AnswerShelf
from contracts.testing import sample_bars
from contracts.v1.bars import BAR_SCHEMA

KEY = "AAPL|1 sec|SMART|TRADES|regular|20251126 15:00:00 UTC|1800 S"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "bars"


@pytest.fixture
def shelf(folder):
    return AnswerShelf(folder)


def kept(folder):
    return sorted(path for path in folder.iterdir() if path.is_file())


def test_an_answer_comes_back_as_it_was_put(shelf, folder):
    answer = sample_bars("1 sec", rows=1800)
    assert shelf.get(KEY) is None
    assert not folder.exists()
    shelf.put(KEY, answer)
    shelf.put("another", answer.slice(0, 0))
    again = AnswerShelf(folder)
    assert again.get(KEY).equals(answer)
    assert again.get(KEY).schema.metadata is None
    assert again.get("another").num_rows == 0
    assert again.get("another").schema.equals(BAR_SCHEMA)
    assert again.get(KEY + " ") is None


def test_what_was_said_about_an_answer_is_kept_with_it(shelf):
    shelf.put(KEY, sample_bars(rows=0).replace_schema_metadata({"asked_at_ns": "17", "is_no_data": "1"}))
    assert shelf.get(KEY).schema.metadata == {b"asked_at_ns": b"17", b"is_no_data": b"1"}


def test_a_later_answer_replaces_the_earlier_one(shelf, folder):
    shelf.put(KEY, sample_bars(rows=3))
    shelf.put(KEY, sample_bars(rows=5))
    assert shelf.get(KEY).num_rows == 5
    assert len(kept(folder)) == 1


def test_dropped_answers_are_gone(shelf, folder):
    for key in ("a", "b", "c"):
        shelf.put(key, sample_bars(rows=3))
    shelf.drop(["a", "never put", "c"])
    assert [shelf.get(key) is None for key in ("a", "b", "c")] == [True, False, True]
    assert len(kept(folder)) == 1


@pytest.mark.parametrize("damage", ["byte", "torn", "no bytes", "foreign", "other key", "folder"])
def test_a_damaged_answer_is_as_none(shelf, folder, damage, caplog):
    shelf.put(KEY, sample_bars("1 sec", rows=1800))
    (path,) = kept(folder)
    whole = bytearray(path.read_bytes())
    if damage == "byte":
        whole[-len(whole) // 3] ^= 0x01
        path.write_bytes(whole)
    elif damage == "torn":
        path.write_bytes(whole[:-10])
    elif damage == "no bytes":
        path.write_bytes(b"")
    elif damage == "foreign":
        pq.write_table(pa.table({"x": [1]}), path)
    elif damage == "other key":
        shelf.put("other", sample_bars(rows=3))
        (other,) = [found for found in kept(folder) if found != path]
        other.replace(path)
    else:
        path.unlink()
        path.mkdir()
    with caplog.at_level(logging.WARNING):
        assert shelf.get(KEY) is None
    assert f"{path} counts as none" in caplog.text
    if damage != "folder":
        shelf.put(KEY, sample_bars(rows=3))
        assert shelf.get(KEY).num_rows == 3


def test_without_a_folder_nothing_is_kept():
    shelf = AnswerShelf(None)
    shelf.put(KEY, sample_bars(rows=3))
    shelf.drop([KEY])
    assert shelf.get(KEY) is None
    assert shelf.sweep() == []


def test_a_disk_that_refuses_costs_only_the_answer(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"precious")
    shelf = AnswerShelf(tmp_path / "file" / "deeper")
    with caplog.at_level(logging.WARNING):
        shelf.put(KEY, sample_bars(rows=3))
        shelf.put("another", sample_bars(rows=3))
        shelf.drop([KEY])
        assert shelf.get(KEY) is None
        assert shelf.sweep() == []
    assert caplog.text.count("answers are not kept") == 1


PUT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from connectors.store.temps import new_temp_path
from connectors.store.bars_shelf import AnswerShelf
new_temp_path(Path(sys.argv[1]) / "answer.parquet").touch()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_sweep_removes_what_nobody_takes_any_more(shelf, folder):
    day_s = 86_400
    shelf.put("old", sample_bars(rows=3))
    (old,) = kept(folder)
    shelf.put("young", sample_bars(rows=3))
    for path in kept(folder):
        os.utime(path, times=(time.time() - 6.9 * day_s,) * 2)
    (folder / "README.txt").write_text("mine")
    for path in (old, folder / "README.txt"):
        os.utime(path, times=(time.time() - 7.1 * day_s,) * 2)
    subprocess.run([sys.executable, "-c", PUT_AND_DIE, str(folder)], check=False)
    (temp,) = folder.glob(".*.tmp")
    assert shelf.sweep() == sorted([old, temp])
    assert shelf.get("old") is None
    assert shelf.get("young").num_rows == 3
    assert (folder / "README.txt").exists()

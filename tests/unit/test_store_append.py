"""Manifests: whole lines, one writer at a time, torn tails repaired before they can glue."""

import fcntl
import json
import logging
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.store.atomic import append_line
from connectors.store.errors import InvalidLine


def test_lines_follow_each_other_and_folders_are_made(tmp_path):
    path = tmp_path / "new" / "m.jsonl"
    append_line(path, '{"n":1}')
    append_line(path, '{"n":2}\n')
    assert path.read_bytes() == b'{"n":1}\n{"n":2}\n'
    assert [entry.name for entry in path.parent.iterdir()] == ["m.jsonl"]


@pytest.mark.parametrize("line", ["", "\n", "  ", '{"a":1}\n{"b":2}', "a\n\n", "a\r", "\ud800"])
def test_what_is_not_one_line_is_refused_and_nothing_is_made(tmp_path, line):
    with pytest.raises(InvalidLine, match="nothing was appended"):
        append_line(tmp_path / "new" / "m.jsonl", line)
    assert list(tmp_path.iterdir()) == []


def test_a_whole_object_without_its_line_end_stays(tmp_path, caplog):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"n":1}\n{"n":2}')
    append_line(path, '{"n":3}')
    assert path.read_bytes() == b'{"n":1}\n{"n":2}\n{"n":3}\n'
    assert not (tmp_path / "m.jsonl.torn").exists()
    assert "lacked its line end" in caplog.text


@pytest.mark.parametrize("tail", [b'{"n":2', b'{"n":2}x', b"12", b"\0\0\0", b"\xff\xfe{", b'["n"]', b" "])
def test_a_torn_tail_is_moved_aside_and_logged(tmp_path, caplog, tail):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"n":1}\n' + tail)
    with caplog.at_level(logging.WARNING):
        append_line(path, '{"n":3}')
    assert path.read_bytes() == b'{"n":1}\n{"n":3}\n'
    assert (tmp_path / "m.jsonl.torn").read_bytes() == tail + b"\n"
    assert "m.jsonl.torn" in caplog.text


def test_a_second_torn_tail_does_not_erase_the_first(tmp_path):
    path = tmp_path / "m.jsonl"
    for tail in (b"one", b"two"):
        with path.open("ab") as file:
            file.write(tail)
        append_line(path, "{}")
    assert (tmp_path / "m.jsonl.torn").read_bytes() == b"one\ntwo\n"


def test_a_torn_tail_longer_than_a_block_is_found_whole(tmp_path):
    path = tmp_path / "m.jsonl"
    tail = b"x" * 200_000
    path.write_bytes(b"{}\n" + tail)
    append_line(path, '{"n":1}')
    assert path.read_bytes() == b'{}\n{"n":1}\n'
    assert (tmp_path / "m.jsonl.torn").read_bytes() == tail + b"\n"


@given(cut=st.integers(min_value=0, max_value=60), lines=st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_wherever_a_write_was_cut_nothing_is_glued_and_nothing_is_lost(tmp_path_factory, cut, lines):
    path = tmp_path_factory.mktemp("cut") / "m.jsonl"
    written = b"".join(json.dumps({"n": n}).encode() + b"\n" for n in lines)
    path.write_bytes(written[: len(written) - min(cut, len(written))])
    before = path.read_bytes()
    append_line(path, '{"new": true}')
    parsed = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert parsed[-1] == {"new": True}
    assert parsed[:-1] == [{"n": n} for n in lines[: len(parsed) - 1]]
    torn = path.with_name("m.jsonl.torn")
    kept = path.read_bytes().removesuffix(b'{"new": true}\n') + (torn.read_bytes() if torn.exists() else b"")
    assert kept in (before, before + b"\n")


def test_a_reader_is_not_disturbed_by_the_lock(tmp_path):
    path = tmp_path / "m.jsonl"
    append_line(path, "{}")
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert path.read_bytes() == b"{}\n"
    finally:
        os.close(fd)


WRITER = """
import sys
from pathlib import Path
from connectors.store.atomic import append_line
name, path = sys.argv[1], Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for n in range(150):
    append_line(path, '{"writer": "%s", "n": %d, "filler": "%s"}' % (name, n, name * 3000))
"""


def test_processes_that_append_at_once_leave_whole_lines_in_their_order(tmp_path):
    path = tmp_path / "m.jsonl"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, name, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in "ab"
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert len(lines) == 300
    for name in "ab":
        assert [line["n"] for line in lines if line["writer"] == name] == list(range(150))
    assert not (tmp_path / "m.jsonl.torn").exists()

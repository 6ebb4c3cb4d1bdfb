"""Journals: whole lines whatever happens, read as far as they are whole, turned into messages files as they are."""

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
import tracemalloc
from collections import deque

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.store import journal as journal_module
from connectors.store.errors import InvalidLine, StoreError
from connectors.store.journal import JournalWriter, read_journal, write_messages
from contracts.v1.depth_messages import DepthMessages

HEADER = {"symbol": "AAPL", "number": 1, "book": {"bid": [[230.01, 300]], "ask": [], "is_known": True}}


def record(seq, **more):
    return (
        json.dumps(
            {
                "timestamp": f"2025-09-04T13:30:00.{seq:09d}+00:00",
                "operation": "add",
                "side": "bid",
                "level": seq % 10,
                "price": 230.01,
                "size": 300,
                "symbol": "AAPL",
                "seq": seq,
                **more,
            },
            ensure_ascii=False,
        )
        + "\n"
    )


def control(kind, **more):
    return json.dumps({"control": kind, "ns": 1, **more}) + "\n"


def write(path, lines):
    with JournalWriter(path, HEADER) as writer:
        writer.write(lines)
    return path


def contents(journal):
    return [json.loads(line) for line, is_control in journal.lines() if not is_control], list(journal.controls())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "AAPL-000001.journal"


@pytest.fixture
def small_reads(monkeypatch):
    """Reads of a few bytes, so that lines lie across them."""
    monkeypatch.setattr(journal_module, "READ_BYTES", 97)


def test_what_was_written_is_read(path, small_reads):
    lines = [record(0), control("alive"), record(1, market_maker="ARCA"), record(2), control("end", reason="duration")]
    with JournalWriter(path, HEADER) as writer:
        writer.write(lines[:2])
        writer.write([])
        writer.write(lines[2:])
        writer.sync()
        assert writer.size_bytes == path.stat().st_size
    journal = read_journal(path)
    assert journal.header == {"control": "header", **HEADER}
    assert (journal.records, journal.torn, journal.end) == (3, None, path.stat().st_size)
    assert (journal.first_record["seq"], journal.last_record["seq"]) == (0, 2)
    assert [(line.decode() + "\n", is_control) for line, is_control in journal.lines()] == [
        (line, '"control"' in line) for line in lines
    ]
    assert [line["control"] for line in journal.controls()] == ["alive", "end"]


def test_a_journal_can_be_read_while_it_is_written(path):
    with JournalWriter(path, HEADER) as writer:
        assert read_journal(path).records == 0
        writer.write([record(0)])
        assert read_journal(path).last_record["seq"] == 0


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([], "[]\n"),
        ([control("alive")], "[]\n"),
        ([control("alive"), record(0)], f"[\n{record(0)}]\n"),
        (
            [record(0), record(1), control("gap"), control("seen"), record(2, market_maker="Ünï")],
            "[\n" + ",\n".join(line[:-1] for line in (record(0), record(1), record(2, market_maker="Ünï"))) + "\n]\n",
        ),
    ],
    ids=["nothing", "controls", "one", "several"],
)
def test_a_messages_file_is_the_records_as_they_are(path, tmp_path, small_reads, lines, text):
    journal = read_journal(write(path, lines))
    target = tmp_path / "messages.json"
    count = write_messages(journal, target)
    assert target.read_text(encoding="utf-8") == text
    assert len(DepthMessages.from_json(target.read_bytes()).root) == count == journal.records


def test_a_messages_file_never_replaces_another(path, tmp_path):
    target = tmp_path / "messages.json"
    target.write_text("mine")
    with pytest.raises(StoreError, match=r"messages\.json"):
        write_messages(read_journal(write(path, [record(0)])), target)
    assert target.read_text() == "mine"


@pytest.mark.parametrize("reads", [61, 1 << 20])
def test_a_journal_cut_at_any_byte_gives_the_lines_before_the_cut(path, tmp_path, monkeypatch, reads):
    monkeypatch.setattr(journal_module, "READ_BYTES", reads)
    lines = [record(0), control("alive"), record(1, market_maker="É"), record(2)]
    whole = write(path, lines).read_bytes()
    start = whole.index(b"\n") + 1
    cut_path = tmp_path / "cut.journal"
    for size in range(start, len(whole) + 1):
        cut_path.write_bytes(whole[:size])
        journal = read_journal(cut_path)
        records, controls = contents(journal)
        # A line that lacks only its line end is whole.
        seen = whole[start : size + 1] if whole[size : size + 1] == b"\n" else whole[start:size]
        expected = lines[: seen.count(b"\n")]
        assert [*controls, *records] == sorted(map(json.loads, expected), key=lambda line: "control" not in line)
        assert journal.records == len(records)
        if journal.torn is None:
            assert size == journal.end
        else:
            assert (journal.torn.offset, journal.torn.size_bytes) == (journal.end, size - journal.end)
            assert f"{size - journal.end} bytes from byte {journal.end} on are ignored" in str(journal.torn)
        target = tmp_path / f"{size}.json"
        assert write_messages(journal, target) == len(records)
        assert json.loads(target.read_bytes()) == records


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (bytes(4096), "NUL"),
        (record(1).encode()[:60] + bytes(50) + b"}\n" + record(2).encode(), "NUL"),
        (b"\xff\xfe\n", "no line"),
        (record(1, market_maker="X").encode().replace(b"X", b"\xe9") + record(2).encode(), "no line"),
        (record(1).encode()[:60] + record(2).encode() + record(3).encode(), "no line"),
        (record(1).encode()[:60] + control("alive").encode() + record(3).encode(), "cut off"),
        (b'{"timestamp": "2025-09-04T13:30', "cut off"),
        (b'{"timestamp": 1, }\n', "no line"),
        (b'{"control": }\n' + record(2).encode(), "no line"),
        (b"\n" + record(2).encode(), "no line"),
        (b"[1]\n", "no line"),
        (b'{"a": 1}\n', "no line"),
    ],
)
@pytest.mark.parametrize("reads", [83, 1 << 20])
def test_reading_stops_at_the_first_line_that_is_none(path, monkeypatch, garbage, reason, reads):
    monkeypatch.setattr(journal_module, "READ_BYTES", reads)
    whole = write(path, [control("alive"), record(0)]).read_bytes()
    path.write_bytes(whole + garbage)
    journal = read_journal(path)
    assert contents(journal) == ([json.loads(record(0))], [json.loads(control("alive"))])
    assert (journal.torn.offset, journal.torn.size_bytes) == (len(whole), len(garbage))
    assert reason in journal.torn.reason


@given(
    lines=st.lists(
        st.one_of(
            st.builds(record, st.integers(0, 10**8), market_maker=st.text(max_size=6)),
            st.builds(control, st.sampled_from(["gap", "alive"]), detail=st.text(max_size=20)),
        ),
        max_size=30,
    ),
    reads=st.integers(1, 2000),
    damage=st.one_of(st.none(), st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=40))),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_lies_before_any_damage_is_read(tmp_path, lines, reads, damage):
    path = tmp_path / "AAPL-000001.journal"
    path.unlink(missing_ok=True)
    whole = write(path, lines).read_bytes()
    start = whole.index(b"\n") + 1
    before = len(whole)
    if damage is not None:
        before = start + damage[0] % (len(whole) - start + 1)
        # The power fails: what was written last is there in part, and then something else.
        path.write_bytes(whole[:before] + damage[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "READ_BYTES", reads)
        journal = read_journal(path)
        found = [(line, is_control) for line, is_control in journal.lines()]
        target = tmp_path / "m.json"
        target.unlink(missing_ok=True)
        count = write_messages(journal, target)
    sure = whole[start:before].count(b"\n")
    assert [line.decode() + "\n" for line, _ in found[:sure]] == lines[:sure]
    assert len(found) <= len(lines) + damage[1].count(b"\n") + 1 if damage else len(found) == len(lines)
    records = [json.loads(line) for line, is_control in found if not is_control]
    assert json.loads(target.read_bytes()) == records
    assert count == journal.records == len(records)
    assert (journal.torn is None) == (journal.end == path.stat().st_size)


@pytest.mark.parametrize(
    "text", [b"", b"\n", b'{"control": "hea', b'{"control": "alive"}\n', record(0).encode(), bytes(9)]
)
def test_a_file_without_a_whole_header_is_no_journal(path, text):
    path.write_bytes(text)
    with pytest.raises(StoreError, match="first line is no whole header") as caught:
        read_journal(path)
    assert caught.value.path == path


def test_a_journal_that_is_not_there_is_one_clear_error(path):
    with pytest.raises(StoreError, match=r"cannot read .*AAPL-000001\.journal"):
        read_journal(path)
    with pytest.raises(StoreError, match="cannot write"):
        JournalWriter(path.parent / "no" / path.name, HEADER)


def test_an_existing_journal_is_never_touched(path):
    before = write(path, [record(0)]).read_bytes()
    with pytest.raises(StoreError, match="exists already and stays as it is"):
        JournalWriter(path, HEADER)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("header", [{"control": "end"}, {"x": float("nan")}])
def test_a_header_that_cannot_be_one_leaves_nothing_behind(path, header):
    with pytest.raises(ValueError, match=r"control|JSON"):
        JournalWriter(path, header)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("lines", [["{}"], ["{}\n{}\n"], ["{}\n", "{}"], ["\n\n", "x"], ["\ud800\n"]])
def test_what_is_not_one_line_each_is_refused_before_anything_is_written(path, lines):
    with JournalWriter(path, HEADER) as writer:
        before = path.read_bytes()
        with pytest.raises(InvalidLine, match="nothing was appended"):
            writer.write(lines)
        assert path.read_bytes() == before
        writer.write([record(0)])
    assert read_journal(path).records == 1


def test_a_closed_journal_is_not_written(path):
    writer = JournalWriter(path, HEADER)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write([record(0)])
    with pytest.raises(ValueError, match="closed"):
        writer.sync()


def test_a_new_journal_has_the_mode_that_the_umask_gives(path):
    old = os.umask(0o027)
    try:
        write(path, [])
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


@contextlib.contextmanager
def file_size_limit(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_disk_takes_in_part_is_cut_back(path):
    with JournalWriter(path, HEADER) as writer:
        writer.write([record(0)])
        before = path.read_bytes()
        with (
            file_size_limit(len(before) + 100),
            pytest.raises(StoreError, match=r"cannot append to .*ulimit") as caught,
        ):
            writer.write([record(1), record(2)])
        assert caught.value.errno == errno.EFBIG
        assert path.read_bytes() == before
        writer.write([record(1), record(2)])
        assert writer.size_bytes == path.stat().st_size
    assert contents(read_journal(path))[0] == [json.loads(record(seq)) for seq in range(3)]


def test_a_full_disk_is_said_and_cut_back(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],  # noqa: S607 - found on the PATH
        check=False,
        capture_output=True,
    )
    if os.geteuid() != 0 or mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        with JournalWriter(folder / "AAPL-000001.journal", HEADER) as writer:
            with pytest.raises(StoreError, match="free some space"):
                deque(writer.write([record(seq)]) for seq in range(10_000))
            journal = read_journal(writer.path)
            assert (journal.last_record["seq"], journal.torn) == (journal.records - 1, None)
            assert journal.end == writer.size_bytes
            with pytest.raises(StoreError, match="free some space"):
                write_messages(journal, folder / "m.json")
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607 - likewise


KILLED = """
import os, signal, sys
from pathlib import Path
from connectors.store.journal import JournalWriter
writer = JournalWriter(Path(sys.argv[1]), {"symbol": "AAPL"})
print("ready", flush=True)
number = 0
while True:
    writer.write(['{"timestamp": "t", "seq": %d, "filler": "%s"}\\n' % (number + k, "x" * 500) for k in range(40)])
    number += 40
    print(number, flush=True)
"""


def test_kill_9_loses_nothing_that_was_written(path):
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    told = [child.stdout.readline() for _ in range(200)]
    child.kill()
    told += child.communicate()[0].splitlines()
    written = int([line for line in told if line.strip().isdigit()][-1])
    journal = read_journal(path)
    assert journal.records >= written
    assert [json.loads(line)["seq"] for line, _ in journal.lines()] == list(range(journal.records))


def test_memory_is_bounded_however_long_the_journal(path, tmp_path):
    lines = [record(seq) for seq in range(1000)]
    with JournalWriter(path, HEADER) as writer:
        for _ in range(150):
            writer.write(lines)
            writer.write([control("alive")])
    size = path.stat().st_size
    assert size > 20 << 20
    tracemalloc.start()
    journal = read_journal(path)
    assert sum(is_control for _, is_control in journal.lines()) == len(list(journal.controls())) == 150
    assert write_messages(journal, tmp_path / "m.json") == 150_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_file_of_nuls_is_not_read_into_memory(path):
    write(path, [record(0)])
    with path.open("r+b") as file:
        file.truncate(1 << 30)
    tracemalloc.start()
    journal = read_journal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (journal.records, journal.torn.reason) == (1, "NUL bytes, as a power cut leaves them")
    assert peak < 64 << 20

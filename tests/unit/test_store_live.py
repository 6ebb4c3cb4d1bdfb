"""Capture folders and what is published from them: locks, names, redos, and the files of others."""

import datetime as dt
import json
import os
import subprocess
import sys
from contextlib import ExitStack

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.store import live
from connectors.store._exclusive import publish_new
from connectors.store._live.claims import Claim
from connectors.store._live.stamps import et_second, seconds_of_the_day
from connectors.store.errors import StoreBusy, StoreError
from connectors.store.journal import JournalWriter, read_journal
from connectors.store.live import (
    CaptureFolder,
    PublishedSegment,
    SegmentRows,
    claim_stats,
    dead_sessions,
    publish_segment,
    stats_path,
    write_stats,
)
from connectors.store.raw_cache import fingerprint
from contracts.layout import DataRoot
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.depth_messages import DepthMessages
from contracts.v1.level2 import SNAPSHOT_SCHEMA
from contracts.v1.session_stats import SessionStats

START_NS = 1_756_992_600 * 10**9  # 2025-09-04T13:30:00Z, 09:30 in New York
SPEC = {"session_id": "s1", "symbols": ["AAPL"]}


def record(ns, seq=0, symbol="AAPL"):
    text = iso_utc_from_ns(pa.array([ns]).to_numpy())[0].as_py()
    message = {"timestamp": text, "operation": "add", "side": "bid", "level": 0, "price": 1.5, "size": 3}
    return json.dumps({**message, "symbol": symbol, "seq": seq}) + "\n"


def snapshots(times_ns, levels=2):
    prices, sizes = [[0.0] * levels] * len(times_ns), [[0] * levels] * len(times_ns)
    return pa.record_batch(
        [iso_utc_from_ns(pa.array(times_ns, pa.int64()).to_numpy()), prices, sizes, prices, sizes],
        schema=SNAPSHOT_SCHEMA,
    )


def rows_at(*times_ns, anomalies=None, extra=None, schema=SNAPSHOT_SCHEMA):
    """What `publish_segment` asks for, with rows at these times."""

    def rows(journal, messages):
        assert json.loads(messages.read_bytes()) == [json.loads(line) for line, is_c in journal.lines() if not is_c]
        return SegmentRows(schema, [snapshots([ns]) for ns in times_ns], lambda: anomalies or {}, lambda: extra or {})

    return rows


def never(journal, messages):
    raise AssertionError("the files are in place")


def write_journal(folder, number=1, symbol="AAPL", *, times_ns=(START_NS + 10**8,)):
    with JournalWriter(folder.journal_path(symbol, number), {"symbol": symbol}) as writer:
        writer.write([record(ns, seq, symbol) for seq, ns in enumerate(times_ns)])
    return writer.path


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def left(folder):
    """What a session folder has besides what belongs to the whole session."""
    return [name for name in names(folder.path) if name not in ("lock", "session.json", "segments.jsonl")]


@pytest.fixture
def root(tmp_path):
    return DataRoot(tmp_path / "data")


@pytest.fixture
def session(root):
    """Make sessions that are held until the test ends."""
    with ExitStack() as held:
        yield lambda session_id="s1": held.enter_context(CaptureFolder(root, session_id).create(SPEC))


@pytest.fixture
def aapl(root):
    return root.symbol_dir("AAPL")


def test_the_public_names_are_there():
    assert {name for name in live.__all__ if hasattr(live, name)} == set(live.__all__)


# Sessions


def test_a_session_is_alive_until_its_lock_is_free(root):
    folder = CaptureFolder(root, "s1")
    with folder.create(SPEC) as created:
        assert created is folder
        assert folder.spec() == SPEC
        assert dead_sessions(root) == []
        with pytest.raises(StoreBusy, match="s1"), folder.open_dead():
            pass
    assert dead_sessions(root) == ["s1"]
    with folder.open_dead():
        assert dead_sessions(root) == []
        with pytest.raises(StoreBusy), CaptureFolder(root, "s1").open_dead():
            pass
        folder.remove()
    assert dead_sessions(root) == []
    with pytest.raises(StoreError, match="no capture session"), folder.open_dead():
        pass
    assert names(root.path / ".capture") == [".sessions.lock"]


def test_a_session_id_is_used_once(root, session):
    session("s1")
    with pytest.raises(StoreError, match="exists already"), CaptureFolder(root, "s1").create(SPEC):
        pass
    assert CaptureFolder(root, "s1").spec() == SPEC


@pytest.mark.parametrize("session_id", ["", ".", "..", "../x", "a/b", "-x", "a b", "x" * 65, "AAPL.lock", "ü"])
def test_a_session_id_is_a_plain_name(root, session_id):
    with pytest.raises(ValueError, match="session id"):
        CaptureFolder(root, session_id)


@pytest.mark.parametrize("symbol", ["aapl", "BRK.B", "../x", ""])
def test_symbols_are_canonical(root, symbol):
    folder = CaptureFolder(root, "s1")
    with pytest.raises(ValueError, match=r"symbol|canonical"):
        folder.journal_path(symbol, 1)
    with pytest.raises(ValueError, match="-1"):
        folder.journal_path("AAPL", -1)


def test_journals_are_listed_by_symbol_and_number(session):
    folder = session()
    for symbol, number in (("BRK-B", 2), ("BRK-B", 1), ("A", 1_000_000), ("A-1", 1)):
        write_journal(folder, number, symbol)
    (folder.path / "AAPL-000001.journal.bak").touch()
    (folder.path / "AAPL-000001.journal").touch()
    assert [(journal.symbol, journal.number) for journal in folder.journals()] == [
        ("A", 1_000_000),
        ("A-1", 1),
        ("BRK-B", 1),
        ("BRK-B", 2),
    ]
    assert all(read_journal(journal.path).header["symbol"] == journal.symbol for journal in folder.journals())


def test_a_session_with_journals_is_not_removed(root, session):
    folder = session()
    write_journal(folder)
    with pytest.raises(StoreError, match=r"1 journals are not published yet.*AAPL-000001"):
        folder.remove()
    publish_segment(folder, "AAPL", 1, rows_at(START_NS))
    folder.remove()
    assert not folder.path.exists()


def test_what_is_no_session_is_left_alone(root, session):
    session("alive")
    capture = root.path / ".capture"
    (capture / "notes.txt").write_text("mine")
    (capture / "photos").mkdir()
    (capture / "photos" / "cat.jpg").write_bytes(b"cat")
    (capture / "with.dot").mkdir()
    (capture / "link").symlink_to(capture / "photos")
    before = names(capture)
    assert dead_sessions(root) == []
    assert names(capture) == before
    assert names(capture / "photos") == ["cat.jpg"]


def test_a_root_without_sessions_is_not_touched(root):
    assert dead_sessions(root) == []
    assert not root.path.exists()


@pytest.mark.parametrize("files", [{}, {"lock": b""}, {"lock": b"", "session.json": b'{"sym'}, {"lock": bytes(40)}])
def test_what_a_kill_at_the_start_leaves_is_removed_and_said(root, caplog, files):
    folder = root.path / ".capture" / "s1"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_bytes(text)
    assert dead_sessions(root) == []
    assert not folder.exists()
    assert "killed before it began" in caplog.text


def test_a_damaged_session_with_a_journal_is_kept_and_says_what_is_wrong(root):
    folder = CaptureFolder(root, "s1")
    with folder.create(SPEC):
        write_journal(folder)
    (folder.path / "session.json").write_bytes(bytes(20))
    assert dead_sessions(root) == ["s1"]
    with pytest.raises(StoreError, match=r"session\.json is damaged.*journals stay"):
        folder.spec()
    assert len(folder.journals()) == 1


def test_the_rest_of_a_removal_that_was_killed_is_swept(root, session):
    session("alive")
    rest = root.path / ".capture" / ".s1.0123abcd.discarded"
    rest.mkdir()
    (rest / "lock").touch()
    dead_sessions(root)
    assert not rest.exists()


def test_dead_sessions_come_oldest_first(root):
    for age, session_id in enumerate(["c", "a", "b"]):
        with CaptureFolder(root, session_id).create(SPEC):
            pass
        os.utime(root.path / ".capture" / session_id / "session.json", (1000 + age, 1000 + age))
    assert dead_sessions(root) == ["c", "a", "b"]


def test_a_spec_that_json_lacks_leaves_no_session(root):
    with pytest.raises(ValueError, match="JSON"), CaptureFolder(root, "s1").create({"x": float("nan")}):
        pass
    assert not root.path.exists()


# Segments


def test_a_segment_gets_the_second_of_its_first_row(root, session, aapl):
    folder = session()
    # The first message came a second before the first row: the row decides.
    journal = write_journal(folder, times_ns=[START_NS - 10**9, START_NS + 1])
    rows = rows_at(START_NS, START_NS + 10**8, anomalies={"remove_missing": 2}, extra={"max_lag_ms": 1.5})
    segment = publish_segment(folder, "AAPL", 1, rows)
    files = ("2025-09-04_messages_093000.json", "2025-09-04_snapshots_093000.parquet")
    assert segment == PublishedSegment(
        "AAPL", 1, files, messages=2, rows=2, anomalies={"remove_missing": 2}, extra={"max_lag_ms": 1.5}
    )
    assert names(aapl) == list(files)
    assert segment.paths(root) == [aapl / name for name in files]
    assert len(DepthMessages.from_json((aapl / files[0]).read_bytes()).root) == 2
    assert pq.read_table(aapl / files[1])["timestamp"][0].as_py().startswith("2025-09-04T13:30:00.000000000")
    assert not journal.exists()
    assert left(folder) == []
    assert folder.segments() == [segment]
    assert publish_segment(folder, "AAPL", 1, never) == segment


def test_files_have_the_mode_that_the_umask_gives(session, aapl):
    folder = session()
    write_journal(folder)
    old = os.umask(0o027)
    try:
        publish_segment(folder, "AAPL", 1, rows_at(START_NS))
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in aapl.iterdir()} == {0o640}


def test_without_rows_there_is_a_messages_file_only(session, aapl):
    folder = session()
    write_journal(folder, times_ns=[START_NS + 5 * 10**9])
    segment = publish_segment(folder, "AAPL", 1, rows_at())
    assert (segment.messages, segment.rows) == (1, 0)
    assert names(aapl) == ["2025-09-04_messages_093005.json"]


def test_without_messages_there_is_an_empty_messages_file_beside_the_rows(session, aapl):
    folder = session()
    write_journal(folder, times_ns=[])
    segment = publish_segment(folder, "AAPL", 1, rows_at(START_NS))
    assert (segment.messages, segment.rows) == (0, 1)
    assert (aapl / "2025-09-04_messages_093000.json").read_bytes() == b"[]\n"
    assert (aapl / "2025-09-04_snapshots_093000.parquet").exists()


def test_without_messages_and_rows_there_is_no_file(session, aapl):
    folder = session()
    journal = write_journal(folder, times_ns=[])
    segment = publish_segment(folder, "AAPL", 1, rows_at(extra={"gaps": 1}))
    assert segment == PublishedSegment("AAPL", 1, extra={"gaps": 1})
    assert names(aapl) == []
    assert folder.segments("AAPL") == [segment]
    assert not journal.exists()


def test_segments_are_listed_by_symbol_and_number(session):
    folder = session()
    for symbol, number in (("MSFT", 1), ("AAPL", 2), ("AAPL", 1)):
        write_journal(folder, number, symbol)
        publish_segment(folder, symbol, number, rows_at(START_NS))
    assert [(segment.symbol, segment.number) for segment in folder.segments()] == [
        ("AAPL", 1),
        ("AAPL", 2),
        ("MSFT", 1),
    ]
    assert [segment.number for segment in folder.segments("AAPL")] == [1, 2]
    assert CaptureFolder(folder.root, "other").segments() == []


def test_a_torn_line_of_the_list_of_segments_is_no_segment(session):
    folder = session()
    write_journal(folder)
    publish_segment(folder, "AAPL", 1, rows_at(START_NS))
    with folder.segments_path.open("ab") as file:
        file.write(b'{"symbol": "AAPL", "number": 2, "fi')
    write_journal(folder, 2)
    assert [segment.number for segment in folder.segments()] == [1]
    publish_segment(folder, "AAPL", 2, rows_at(START_NS))
    assert [segment.number for segment in folder.segments()] == [1, 2]


def test_a_torn_journal_is_published_as_far_as_it_is_whole(session, aapl):
    folder = session()
    with write_journal(folder).open("ab") as file:
        file.write(b'{"timestamp": "2025-09-0')
    segment = publish_segment(folder, "AAPL", 1, rows_at(START_NS))
    assert segment.messages == 1
    assert "24 bytes from byte" in segment.torn
    assert folder.segments()[0].torn == segment.torn


@pytest.mark.parametrize("taken", ["2025-09-04_messages_093000.json", "2025-09-04_snapshots_093000.parquet"])
def test_a_name_that_is_taken_moves_both_files_to_the_next_second(session, aapl, taken):
    folder = session()
    write_journal(folder)
    aapl.mkdir(parents=True)
    (aapl / taken).write_text("mine")
    (aapl / "2025-09-04_messages_093001.json").symlink_to("nowhere")
    segment = publish_segment(folder, "AAPL", 1, rows_at(START_NS))
    assert segment.files == ("2025-09-04_messages_093002.json", "2025-09-04_snapshots_093002.parquet")
    assert (aapl / taken).read_text() == "mine"
    assert len(names(aapl)) == 4


def test_the_next_free_second_stays_on_the_day(session, aapl):
    folder = session()
    last_ns = START_NS + (14 * 3600 + 30 * 60 - 1) * 10**9
    for number in range(3):
        write_journal(folder, number, times_ns=[last_ns])
        publish_segment(folder, "AAPL", number, rows_at())
    assert names(aapl) == [f"2025-09-04_messages_2359{second}.json" for second in (57, 58, 59)]


@given(st.times())
@settings(max_examples=25)
def test_every_second_of_a_day_comes_once_the_wanted_one_first(wanted):
    seconds = list(seconds_of_the_day(wanted))
    assert seconds[0] == wanted.replace(microsecond=0)
    assert len(seconds) == len(set(seconds)) == 86_400


@given(st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2200, 1, 1), timezones=st.just(dt.UTC)))  # noqa: DTZ001 - hypothesis wants them so
@settings(max_examples=50)
def test_names_are_the_clock_of_new_york(moment):
    whole = moment.replace(microsecond=0)
    day, stamp = et_second(int(whole.timestamp()) * 10**9 + 999_999_999)
    # Another opinion, with its own rules of time zones.
    local = pd.Timestamp(whole).tz_convert("America/New_York")
    assert (day.isoformat(), stamp.isoformat()) == (f"{local:%Y-%m-%d}", f"{local:%H:%M:%S}")


def test_a_journal_that_is_still_written_is_not_published(session, aapl):
    folder = session()
    with JournalWriter(folder.journal_path("AAPL", 1), {}) as writer:
        writer.write([record(START_NS)])
        with pytest.raises(StoreBusy, match="AAPL-000001"):
            publish_segment(folder, "AAPL", 1, rows_at(START_NS), timeout_s=0)
    assert names(aapl) == []
    assert publish_segment(folder, "AAPL", 1, rows_at(START_NS)).messages == 1


def test_a_segment_that_never_was_is_an_error(session):
    with pytest.raises(StoreError, match=r"no journal .*AAPL-000007"):
        publish_segment(session(), "AAPL", 7, rows_at(START_NS))


def test_rows_that_cannot_be_made_leave_the_journal_and_nothing_else(session, aapl):
    folder = session()
    journal = write_journal(folder)

    def breaking(_journal, _messages):
        def batches():
            yield snapshots([START_NS])
            raise RuntimeError("out of ideas")

        return SegmentRows(SNAPSHOT_SCHEMA, batches())

    with pytest.raises(RuntimeError, match="out of ideas"):
        publish_segment(folder, "AAPL", 1, breaking)
    assert journal.exists()
    assert (names(aapl), left(folder), folder.segments()) == ([], [journal.name], [])
    assert publish_segment(folder, "AAPL", 1, rows_at(START_NS)).rows == 1


# Redos


class Killed(BaseException):
    """Stands for a kill right after a step."""


@pytest.fixture
def publish_until(monkeypatch):
    """Publish AAPL 1 and stop when as many files have appeared in the symbol's folder."""

    def run(folder, rows, appeared):
        with monkeypatch.context() as patch:
            count = 0

            def counting(temp, target):
                nonlocal count
                if count == appeared:
                    raise Killed
                count += 1
                return publish_new(temp, target)

            patch.setattr("connectors.store._live.claims.publish_new", counting)
            with pytest.raises(Killed):
                publish_segment(folder, "AAPL", 1, rows)

    return run


@pytest.mark.parametrize("appeared", [0, 1])
def test_a_redo_ends_in_the_claimed_names_and_the_same_bytes(root, session, aapl, publish_until, appeared):
    folder = session()
    write_journal(folder)
    rows = rows_at(START_NS)
    publish_until(folder, rows, appeared)
    assert len(names(aapl)) == appeared
    # Meanwhile another session takes what looks free: never the claimed second.
    other = session("s2")
    write_journal(other, times_ns=[START_NS + 7])
    assert publish_segment(other, "AAPL", 1, rows).files[0] == "2025-09-04_messages_093001.json"
    segment = publish_segment(folder, "AAPL", 1, rows)
    assert segment.files == ("2025-09-04_messages_093000.json", "2025-09-04_snapshots_093000.parquet")
    assert len(names(aapl)) == 4
    assert json.loads((aapl / segment.files[0]).read_bytes()) == [json.loads(record(START_NS + 10**8))]
    assert left(folder) == left(other) == []


def test_files_that_are_in_place_are_not_made_again(session, aapl):
    folder = session()
    journal = write_journal(folder)
    segment = publish_segment(folder, "AAPL", 1, rows_at(START_NS))
    before = {path: path.stat().st_ino for path in aapl.iterdir()}
    # As a kill before the list of segments was written leaves it.
    folder.segments_path.unlink()
    write_journal(folder)
    claim(folder, segment, aapl)
    assert publish_segment(folder, "AAPL", 1, never) == segment
    assert {path: path.stat().st_ino for path in aapl.iterdir()} == before
    assert not journal.exists()


def claim(folder, segment, symbol_dir):
    digests = {name: (fingerprint(symbol_dir / name),) for name in segment.files}
    Claim(segment, dt.date(2025, 9, 4), dt.time(9, 30), digests).write(folder.claim_path("AAPL", 1))


def test_a_file_of_somebody_else_under_the_claimed_name_stays_and_the_segment_moves(session, aapl, publish_until):
    folder = session()
    write_journal(folder)
    rows = rows_at(START_NS)
    publish_until(folder, rows, 1)
    foreign = aapl / "2025-09-04_snapshots_093000.parquet"
    foreign.write_bytes(b"mine")
    segment = publish_segment(folder, "AAPL", 1, rows)
    assert segment.files == ("2025-09-04_messages_093001.json", "2025-09-04_snapshots_093001.parquet")
    assert foreign.read_bytes() == b"mine"
    # Its messages had appeared already: there must not be two copies of one segment.
    assert names(aapl) == sorted([*segment.files, foreign.name])
    assert left(folder) == []


def test_a_messages_file_of_somebody_else_under_the_claimed_name_stays(session, aapl, publish_until):
    folder = session()
    write_journal(folder)
    publish_until(folder, rows_at(START_NS), 0)
    foreign = aapl / "2025-09-04_messages_093000.json"
    foreign.write_bytes(b"[]\n")
    segment = publish_segment(folder, "AAPL", 1, rows_at(START_NS))
    assert segment.files[0] == "2025-09-04_messages_093001.json"
    assert foreign.read_bytes() == b"[]\n"


def test_a_redo_with_another_parquet_library_keeps_what_is_in_place(session, aapl, publish_until):
    folder = session()
    write_journal(folder)
    publish_until(folder, rows_at(START_NS), 1)
    # Other bytes for the same rows, as another version writes them.
    schema = SNAPSHOT_SCHEMA.with_metadata({"producer": "newer"})
    segment = publish_segment(folder, "AAPL", 1, rows_at(START_NS, schema=schema))
    assert names(aapl) == list(segment.files)
    assert segment.files[1] == "2025-09-04_snapshots_093000.parquet"


def test_a_damaged_claim_is_taken_for_none(session, aapl):
    folder = session()
    write_journal(folder)
    folder.claim_path("AAPL", 1).write_bytes(b'{"segment": 3}')
    assert publish_segment(folder, "AAPL", 1, rows_at(START_NS)).rows == 1
    assert left(folder) == []


# Disks without hard links


@pytest.fixture
def no_links(monkeypatch):
    def refuse(*_paths, **_options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def test_without_hard_links_names_are_taken_only_when_free(no_links, session, aapl):
    folder = session()
    write_journal(folder)
    aapl.mkdir(parents=True)
    (aapl / "2025-09-04_messages_093000.json").write_text("mine")
    segment = publish_segment(folder, "AAPL", 1, rows_at(START_NS))
    assert segment.files[0] == "2025-09-04_messages_093001.json"
    assert (aapl / "2025-09-04_messages_093000.json").read_text() == "mine"
    write_journal(folder, 2)
    with pytest.raises(StoreError, match="exists already"):
        JournalWriter(folder.journal_path("AAPL", 2), {})
    temp = aapl / "temp"
    temp.write_text("new")
    assert not publish_new(temp, aapl / segment.files[0])
    assert temp.exists()


def test_without_hard_links_an_empty_claimed_name_is_filled(no_links, session, aapl, publish_until):
    folder = session()
    write_journal(folder)
    publish_until(folder, rows_at(START_NS), 0)
    # As a kill between taking the name and the rename leaves it.
    (aapl / "2025-09-04_messages_093000.json").touch()
    segment = publish_segment(folder, "AAPL", 1, rows_at(START_NS))
    assert names(aapl) == list(segment.files)
    assert segment.files[0] == "2025-09-04_messages_093000.json"
    assert (aapl / segment.files[0]).stat().st_size > 0


def test_a_link_that_the_network_disk_asked_for_twice_is_ours(tmp_path):
    temp, target = tmp_path / "temp", tmp_path / "target"
    temp.write_text("ours")
    os.link(temp, target)
    assert publish_new(temp, target)
    assert names(tmp_path) == ["target"]


# Stats


def stats(session_id="s1", *, messages=0, second=0):
    return SessionStats(
        symbol="AAPL",
        levels=10,
        interval_ms=100,
        num_snapshots=0,
        num_messages=messages,
        paper_mode=True,
        recording_date=dt.datetime(2025, 9, 4, 13, 30, second, 999_999, tzinfo=dt.UTC),
        session_id=session_id,
    )


def test_stats_have_one_name_for_the_whole_session(session, aapl):
    folder, other = session("s1"), session("s2")
    assert stats_path(folder, "AAPL") is None
    path = claim_stats(folder, stats())
    assert path == stats_path(folder, "AAPL") == aapl / "session_stats_20250904_093000.json"
    assert SessionStats.from_json(path.read_bytes()) == stats()
    assert claim_stats(other, stats("s2")) == aapl / "session_stats_20250904_093001.json"
    write_stats(path, stats(messages=5))
    assert SessionStats.from_json(path.read_bytes()).num_messages == 5
    assert claim_stats(folder, stats(messages=7)) == path
    assert SessionStats.from_json(path.read_bytes()).num_messages == 7
    assert len(names(aapl)) == 2


def test_stats_of_others_are_never_replaced(session, aapl):
    folder = session()
    aapl.mkdir(parents=True)
    for second, text in enumerate(["{}", stats("s9").to_json(), "torn {", ""]):
        (aapl / f"session_stats_20250904_09300{second}.json").write_text(text)
    # Remembered, then killed; somebody else took the name.
    (folder.path / "AAPL.stats.json").write_text('{"file": "session_stats_20250904_093001.json"}')
    path = claim_stats(folder, stats())
    assert path.name == "session_stats_20250904_093004.json"
    assert (aapl / "session_stats_20250904_093001.json").read_text() == stats("s9").to_json()
    assert claim_stats(folder, stats()) == path


@pytest.mark.parametrize("before", [None, ""])
def test_a_remembered_name_is_used_again(session, aapl, before):
    folder = session()
    aapl.mkdir(parents=True)
    path = aapl / "session_stats_20250904_093007.json"
    (folder.path / "AAPL.stats.json").write_text(json.dumps({"file": path.name}))
    if before is not None:
        path.write_text(before)
    assert claim_stats(folder, stats(second=3)) == path
    assert SessionStats.from_json(path.read_bytes()) == stats(second=3)
    assert names(aapl) == [path.name]


def test_a_remembered_name_that_is_no_stats_name_is_not_followed(session, aapl, root):
    folder = session()
    (folder.path / "AAPL.stats.json").write_text('{"file": "../../x.json"}')
    assert claim_stats(folder, stats()).parent == aapl
    assert not (root.path / "x.json").exists()


def test_stats_of_another_session_are_refused(session):
    with pytest.raises(ValueError, match="s2"):
        claim_stats(session("s1"), stats("s2"))


# Several processes in one second

RACE = """
import datetime as dt, json, sys
from pathlib import Path
import pyarrow as pa
from connectors.store.journal import JournalWriter
from connectors.store.live import CaptureFolder, SegmentRows, claim_stats, publish_segment
from contracts.layout import DataRoot
from contracts.v1.level2 import SNAPSHOT_SCHEMA
from contracts.v1.session_stats import SessionStats

session_id = sys.argv[2]
batch = pa.record_batch([["2025-09-04T13:30:00.000000000+00:00"], *[[[0]]] * 4], schema=SNAPSHOT_SCHEMA)
stats = SessionStats(
    symbol="AAPL", levels=1, interval_ms=100, num_snapshots=0, num_messages=0, paper_mode=True, session_id=session_id,
    recording_date=dt.datetime(2025, 9, 4, 13, 30, tzinfo=dt.UTC),
)
folder = CaptureFolder(DataRoot(Path(sys.argv[1])), session_id)
with folder.create({}):
    for number in range(4):
        with JournalWriter(folder.journal_path("AAPL", number), {}) as writer:
            writer.write([json.dumps({"timestamp": "2025-09-04T13:30:00.1Z", "who": session_id + str(number)}) + "\\n"])
    print("ready", flush=True)
    sys.stdin.readline()
    print(claim_stats(folder, stats).name)
    for number in range(4):
        print(*publish_segment(folder, "AAPL", number, lambda *_: SegmentRows(SNAPSHOT_SCHEMA, [batch])).files)
"""


def test_sessions_of_one_second_get_distinct_files_and_lose_nothing(root, aapl):
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RACE, str(root.path), f"s{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    assert [child.stdout.readline() for child in children] == ["ready\n"] * 4
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    told = [child.communicate(timeout=60)[0].split() for child in children]
    files = [name for names_of_one in told for name in names_of_one]
    assert len(files) == len(set(files)) == 4 * (1 + 4 * 2)
    assert names(aapl) == sorted(files)
    messages = [json.loads(path.read_bytes())[0]["who"] for path in aapl.glob("*_messages_*")]
    assert sorted(messages) == [f"s{number}{segment}" for number in range(4) for segment in range(4)]
    for path in aapl.glob("*_messages_*"):
        assert path.with_name(path.name.replace("messages", "snapshots").replace("json", "parquet")).exists()
    # They used the first 16 seconds without a hole.
    assert {path.stem[-6:] for path in aapl.glob("*_messages_*")} == {f"0930{second:02d}" for second in range(16)}


@given(
    times=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    taken=st.sets(st.integers(0, 8), max_size=4),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_there_every_segment_gets_the_first_free_second(tmp_path_factory, times, taken):
    root = DataRoot(tmp_path_factory.mktemp("claims"))
    aapl = root.symbol_dir("AAPL")
    aapl.mkdir(parents=True)
    for second in taken:
        (aapl / f"2025-09-04_snapshots_09300{second}.parquet").write_bytes(b"mine")
    free = sorted(set(range(100)) - taken)
    with CaptureFolder(root, "s1").create(SPEC) as folder:
        for number, second in enumerate(times):
            write_journal(folder, number, times_ns=[START_NS + second * 10**9])
            expected = next(candidate for candidate in free if candidate >= second)
            free.remove(expected)
            segment = publish_segment(folder, "AAPL", number, rows_at())
            assert segment.files == (f"2025-09-04_messages_0930{expected:02d}.json",)
    for second in taken:
        assert (aapl / f"2025-09-04_snapshots_09300{second}.parquet").read_bytes() == b"mine"

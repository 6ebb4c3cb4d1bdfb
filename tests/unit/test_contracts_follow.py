"""Following a manifest: what is new since a cursor, whole lines only, whatever others do to the file."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidDocument, InvalidSymbol, UnknownSchemaVersion
from contracts.follow import Cursor, follow_backfill, follow_bars, follow_gaps
from contracts.v1.backfill import BackfillManifestLine
from contracts.v1.bars import BarsManifestLine
from contracts.v1.gaps import Gap

DAY = date(2025, 9, 4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "backfill_l2_manifest.jsonl"


def line(status="WRITE", symbol="AAPL", day=DAY, **parts):
    return BackfillManifestLine(symbol=symbol, date=day, status=status, **parts)


def append(path, *texts):
    with path.open("ab") as file:
        for text in texts:
            file.write(text if isinstance(text, bytes) else text.to_json_line().encode())


def test_each_call_gives_what_was_appended_since_the_last_one(path):
    append(path, line(run_id="a"), line(run_id="b"))
    first = follow_backfill(path)
    assert [found.run_id for found in first.lines] == ["a", "b"]
    assert (first.skipped, first.restarted, first.more) == ([], None, False)
    assert first.cursor.offset == path.stat().st_size
    append(path, line(run_id="c"))
    second = follow_backfill(str(path), first.cursor)
    assert ([found.run_id for found in second.lines], second.restarted) == (["c"], None)
    assert follow_backfill(path, second.cursor).lines == []
    assert follow_backfill(path, second.cursor).cursor == second.cursor


def test_a_torn_last_line_is_left_until_it_is_whole(path):
    text = line(run_id="b").to_json_line().encode()
    append(path, line(run_id="a"), text[:30])
    first = follow_backfill(path)
    assert ([found.run_id for found in first.lines], first.skipped) == (["a"], [])
    append(path, text[30:-1])
    assert follow_backfill(path, first.cursor).cursor == first.cursor, "a line end is missing still"
    append(path, b"\n")
    assert [found.run_id for found in follow_backfill(path, first.cursor).lines] == ["b"]


DAMAGES = {
    "torn": (b'{"symbol":"AA\n', "not JSON"),
    "a list": (b"[1]\n", "array"),
    "a number": (b"1\n", "number"),
    "not UTF-8": (b'{"symbol":"\xff"}\n', "not UTF-8 at byte 11"),
    "a key twice": (b'{"symbol":"AAPL","symbol":"MSFT"}\n', "comes twice"),
    "NaN": (b'{"symbol":"AAPL","date":"2025-09-04","status":"SKIP","cost_usd":NaN}\n', "NaN"),
    "a huge number": (b'{"symbol":"AAPL","date":"2025-09-04","status":"SKIP","rows":' + b"9" * 9000 + b"}\n", "JSON"),
    "rows as text": (b'{"symbol":"AAPL","date":"2025-09-04","status":"SKIP","rows":"5"}\n', "rows: "),
    "another version": (
        b'{"schema_version":"backfill_l2_manifest.v2","symbol":"AAPL"}\n',
        "schema_version 'backfill_l2_manifest.v2' is unknown",
    ),
    "a mark of UTF-8 inside": (b'\xef\xbb\xbf{"symbol":"AAPL"}\n', "byte order mark"),
    "nested beyond sense": (b"[" * 200_000 + b"\n", "nested too deeply"),
    "zeros": (b"\0" * 4096 + b"\n", "JSON"),
    "too long": (b'{"symbol":"' + b"A" * (3 << 20) + b'"}\n', "longer than 1 MB"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_line_is_skipped_and_told_and_hides_no_other(path, damage, reason):
    good = line(run_id="a").to_json_line().encode()
    append(path, good, damage, line(run_id="b"))
    found = follow_backfill(path)
    assert [good.run_id for good in found.lines] == ["a", "b"]
    (skipped,) = found.skipped
    assert (skipped.path, skipped.offset, skipped.line) == (path, len(good), 2)
    assert reason in skipped.reason
    assert str(path) in str(skipped)
    append(path, line(run_id="c"))
    later = follow_backfill(path, found.cursor)
    assert ([good.run_id for good in later.lines], later.skipped, later.restarted) == (["c"], [], None)


def test_a_mark_at_the_beginning_crlf_and_blank_lines_are_survived(path):
    text = line(run_id="a").to_json_line().encode()
    append(path, b"\xef\xbb\xbf", text.replace(b"\n", b"\r\n"), b"\r\n", b"\n", text)
    found = follow_backfill(path)
    assert (len(found.lines), found.skipped, found.cursor.line) == (2, [], 4)


def test_numbers_of_lines_go_on_behind_a_cursor(path):
    append(path, line(), b"\n", line())
    first = follow_backfill(path)
    size = path.stat().st_size
    append(path, line(), b"torn\n")
    (skipped,) = follow_backfill(path, first.cursor).skipped
    assert skipped.line == 5
    assert skipped.offset == size + len(line().to_json_line())


def test_a_file_that_is_not_there_has_no_lines(path):
    first = follow_backfill(path)
    assert (first.lines, first.cursor, first.restarted) == ([], Cursor("backfill_l2_manifest.v1"), None)
    append(path, line())
    second = follow_backfill(path, first.cursor)
    assert (len(second.lines), second.restarted) == (1, None)
    path.unlink()
    gone = follow_backfill(path, second.cursor)
    assert (gone.lines, gone.cursor.offset) == ([], 0)
    assert "not there any more" in gone.restarted


def test_truncation_is_told_and_the_file_is_read_from_its_beginning(path):
    append(path, line(run_id="a"), line(run_id="b"))
    cursor = follow_backfill(path).cursor
    os.truncate(path, len(line(run_id="a").to_json_line()))
    found = follow_backfill(path, cursor)
    assert [found.run_id for found in found.lines] == ["a"]
    assert "truncated" in found.restarted
    assert follow_backfill(path, found.cursor).restarted is None


@pytest.mark.parametrize("lines", [3, 100], ids=["below 4 KiB", "above 4 KiB"])
def test_a_replacement_of_the_same_or_a_greater_size_is_told(path, lines):
    append(path, *(line(run_id=f"old-{n:03}") for n in range(lines)))
    cursor = follow_backfill(path).cursor
    new = path.with_name("new")
    append(new, *(line(run_id=f"new-{n:03}") for n in range(lines)))
    assert new.stat().st_size == path.stat().st_size
    new.replace(path)
    found = follow_backfill(path, cursor)
    assert "another file" in found.restarted
    assert [found.run_id for found in found.lines] == [f"new-{n:03}" for n in range(lines)]


def test_a_rewritten_end_behind_the_same_head_is_told(path):
    append(path, *(line(run_id=f"old-{n:03}") for n in range(200)))
    cursor = follow_backfill(path).cursor
    one = len(line(run_id="old-000").to_json_line())
    os.truncate(path, one * 150)
    append(path, *(line(run_id=f"new-{n:03}") for n in range(60)))
    found = follow_backfill(path, cursor)
    assert "rewritten" in found.restarted
    assert [line.run_id for line in found.lines][149:151] == ["old-149", "new-000"]


def test_a_copy_of_the_file_elsewhere_is_the_same_file(path, tmp_path):
    append(path, *(line(run_id=str(n)) for n in range(100)))
    cursor = follow_backfill(path).cursor
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(path.read_bytes())
    append(copy, line(run_id="new"))
    found = follow_backfill(copy, cursor)
    assert ([line.run_id for line in found.lines], found.restarted) == (["new"], None)


def test_filters_and_old_words(path):
    append(
        path,
        line("WRITE"),
        line("ERROR", symbol="BRK-B", reason="storage"),
        b'{"symbol":"BRK-B","date":"2025-09-04","status":"WRITTEN"}\n',
        line("EMPTY"),
    )

    def statuses(**filters):
        return [(line.symbol, line.status) for line in follow_backfill(path, **filters).lines]

    assert statuses(status="WRITE") == [("AAPL", "WRITE"), ("BRK-B", "WRITE")]
    assert statuses(status="WRITTEN") == statuses(status="WRITE")
    assert statuses(status=["EMPTY", "ERROR"]) == [("BRK-B", "ERROR"), ("AAPL", "EMPTY")]
    assert statuses(symbol=" brk.b ") == [("BRK-B", "ERROR"), ("BRK-B", "WRITE")]
    assert statuses(symbol="brk/b", status="ERROR") == [("BRK-B", "ERROR")]
    assert statuses(status=[]) == []
    filtered, whole = follow_backfill(path, symbol="NONE"), follow_backfill(path)
    assert (filtered.lines, filtered.cursor) == ([], whole.cursor), "filters do not move the cursor"
    with pytest.raises(InvalidDocument, match=r"'DONE' is none of WRITE, SKIP, EMPTY, ERROR"):
        follow_backfill(path, status="DONE")
    with pytest.raises(InvalidSymbol):
        follow_backfill(path, symbol="../x")


def test_the_newest_line_of_each_symbol_and_day_among_those_that_pass(path):
    other = date(2025, 9, 5)
    append(path, line(run_id="1"), line(day=other, run_id="1"), line("ERROR", run_id="2"), line(day=other, run_id="3"))
    newest = follow_backfill(path, newest=True).lines
    assert [(line.date, line.status, line.run_id) for line in newest] == [(DAY, "ERROR", "2"), (other, "WRITE", "3")]
    written = follow_backfill(path, newest=True, status="WRITE").lines
    assert [(line.date, line.run_id) for line in written] == [(DAY, "1"), (other, "3")]


def test_most_lines_gives_a_great_file_in_pieces(path):
    append(path, *(line(run_id=str(n)) for n in range(10)), b"torn")
    cursor, sizes, found = None, [], []
    more = True
    while more:
        piece = follow_backfill(path, cursor, most_lines=4)
        cursor, more = piece.cursor, piece.more
        sizes.append(len(piece.lines))
        found += piece.lines
    assert (sizes, [line.run_id for line in found]) == ([4, 4, 2], [str(n) for n in range(10)])
    assert not follow_backfill(path, most_lines=10).more, "a torn line is not more"
    with pytest.raises(ValueError, match="at least 1"):
        follow_backfill(path, most_lines=0)


def bars_line(path="/data/bars/minute/AAPL/2025-09-04.parquet", bar_size="1 min", rows=390):
    return BarsManifestLine(
        schema_version="bars_manifest.v1",
        written_at=datetime(2025, 9, 4, 20, tzinfo=UTC),
        vendor="IBKR",
        file_format="parquet",
        symbol="AAPL",
        bar_size=bar_size,
        path=path,
        filename=path.rsplit("/", 1)[-1],
        rows=rows,
        columns=("timestamp",),
    )


OLD_BARS_LINE = (
    b'{"schema_version":"bars_manifest.v1","written_at":"2025-09-15T16:05:01","vendor":"IBKR","file_format":"parquet",'
    b'"symbol":"BRK.B","bar_size":"1 sec","path":"/old/2025-09-15.parquet","filename":"2025-09-15.parquet","rows":389,'
    b'"columns":["time"],"time_start":"2025-09-15T09:30:00","time_end":null}\n'
)


def test_the_bars_manifest_is_followed_likewise(tmp_path):
    path = tmp_path / "bars_download_manifest.jsonl"
    append(path, bars_line(rows=1), bars_line(path="/other/2025-09-04.parquet"), OLD_BARS_LINE, bars_line(rows=2))
    append(path, b'{"symbol":"AAPL"}\n')
    found = follow_bars(path)
    assert [line.rows for line in found.lines] == [1, 390, 389, 2]
    assert found.lines[2].time_start.isoformat() == "2025-09-15T09:30:00-04:00"
    assert [skipped.reason for skipped in found.skipped] == ["schema_version None is unknown"]
    assert [line.rows for line in follow_bars(path, newest=True).lines] == [390, 389, 2]
    assert [line.symbol for line in follow_bars(path, symbol="brk b").lines] == ["BRK-B"]
    assert [line.rows for line in follow_bars(path, bar_size="1 sec").lines] == [389]
    assert follow_bars(path, found.cursor).lines == []
    with pytest.raises(InvalidDocument, match="'5 min' is none of 1 hour, 1 min, 1 sec"):
        follow_bars(path, bar_size="5 min")


def test_the_gaps_file_is_followed_likewise(tmp_path):
    path = tmp_path / "l2_gaps.jsonl"
    times = {"gap_start": "2025-09-04T13:31:02Z", "gap_end": "2025-09-04T13:31:09.000000001+00:00"}
    gaps = [Gap(symbol=symbol, session_id="s", cause="disconnect", **times) for symbol in ("AAPL", "BRK-B")]
    append(path, gaps[0], b"[]\n", gaps[1])
    found = follow_gaps(path)
    assert (found.lines, len(found.skipped)) == (gaps, 1)
    assert follow_gaps(path, symbol="BRK.B").lines == [gaps[1]]
    assert follow_gaps(path, found.cursor).lines == []


def test_a_cursor_goes_through_text(path):
    append(path, line(), line())
    cursor = follow_backfill(path).cursor
    text = cursor.to_json()
    assert Cursor.from_json(text) == cursor == Cursor.from_json(text.encode())
    assert text.isascii()
    assert "\n" not in text


GOOD = json.loads(Cursor("l2_gap.v1", 100, 2).to_json())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "[]",
        "{",
        "null",
        b"\xff",
        json.dumps({**GOOD, "offset": -1}),
        json.dumps({**GOOD, "offset": True}),
        json.dumps({**GOOD, "offset": 1.5}),
        json.dumps({**GOOD, "offset": 2**70}),
        json.dumps({**GOOD, "line": 101}),
        json.dumps({**GOOD, "line": "2"}),
        json.dumps({**GOOD, "kind": "level2_snapshot.v1"}),
        json.dumps({**GOOD, "kind": []}),
        json.dumps({**GOOD, "head": "0" * 63}),
        json.dumps({**GOOD, "tail": None}),
        json.dumps({**GOOD, "more": 1}),
        json.dumps({key: value for key, value in GOOD.items() if key != "tail"}),
    ],
)
def test_a_text_that_is_no_cursor_is_refused(text):
    with pytest.raises(InvalidDocument, match=r"follow_cursor\.v1"):
        Cursor.from_json(text)


def test_a_cursor_of_another_version_is_refused():
    with pytest.raises(UnknownSchemaVersion) as caught:
        Cursor.from_json(json.dumps({**GOOD, "schema_version": "follow_cursor.v2"}))
    assert caught.value.found == "follow_cursor.v2"


def test_a_cursor_of_another_kind_of_file_is_refused(path):
    append(path, line())
    cursor = follow_backfill(path).cursor
    with pytest.raises(InvalidDocument, match=r"a cursor of backfill_l2_manifest\.v1.*read as bars_manifest\.v1"):
        follow_bars(path, cursor)


def test_a_cursor_of_another_file_is_noticed(path, tmp_path):
    other = tmp_path / "other.jsonl"
    append(path, line(run_id="a"))
    append(other, line(run_id="b"), line(run_id="c"))
    found = follow_backfill(other, follow_backfill(path).cursor)
    assert "another file" in found.restarted
    assert [line.run_id for line in found.lines] == ["b", "c"]


def test_what_is_no_file_is_refused_at_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (tmp_path, pipe):
        with pytest.raises(InvalidDocument, match="not a regular file"):
            follow_backfill(place)


class Consumer:
    """Keeps what the contract says a consumer should have: it forgets all when told of a restart."""

    def __init__(self, path):
        self.path, self.cursor, self.lines = path, None, []

    def step(self, **options):
        found = follow_backfill(self.path, self.cursor, **options)
        if found.restarted is not None:
            self.lines = []
        self.cursor = Cursor.from_json(found.cursor.to_json())
        self.lines += found.lines
        return found


TEXTS = st.one_of(
    st.just("line"),
    st.just("line"),
    st.just("half"),
    st.just("long"),
    st.sampled_from([b"\n", b"junk\n", b"{}", b"\r\n"]),
)
STEPS = st.one_of(
    st.tuples(st.just("append"), st.lists(TEXTS, min_size=1, max_size=4)),
    st.tuples(st.just("truncate"), st.floats(0, 1)),
    st.tuples(st.just("replace"), st.lists(TEXTS, max_size=4)),
    st.tuples(st.just("remove"), st.none()),
    st.tuples(st.just("follow"), st.sampled_from([None, 1, 3])),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=20))
def test_what_a_follower_was_given_is_what_a_full_read_gives(tmp_path, steps):
    """Whatever is appended, cut, replaced or removed: no line twice, none lost."""
    path = tmp_path / "manifest.jsonl"
    path.unlink(missing_ok=True)
    count = iter(range(10**6))

    def text_of(part):
        if isinstance(part, bytes):
            return part
        text = line(run_id=f"{next(count)}", error="x" * (1900 if part == "long" else 1)).to_json_line().encode()
        return text[: len(text) // 2] if part == "half" else text

    consumer = Consumer(path)
    for what, how in steps:
        if what == "append":
            append(path, *map(text_of, how))
        elif what == "truncate" and path.exists():
            os.truncate(path, int(path.stat().st_size * how))
        elif what == "replace":
            new = path.with_name("new")
            new.write_bytes(b"".join(map(text_of, how)))
            new.replace(path)
        elif what == "remove":
            path.unlink(missing_ok=True)
        elif what == "follow":
            consumer.step(most_lines=how)
    last = consumer.step()
    fresh = follow_backfill(path)
    assert consumer.lines == fresh.lines
    assert last.cursor == fresh.cursor
    whole = [text for text in (path.read_bytes() if path.exists() else b"").split(b"\n")[:-1] if text.strip()]
    assert len(fresh.lines) + len(fresh.skipped) == len(whole)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.lists(st.binary(max_size=80).map(lambda text: text.replace(b"\n", b"")), max_size=6))
def test_no_bytes_make_a_follower_fail_or_lose_the_line_behind_them(tmp_path, noise):
    for follow, good in ((follow_backfill, line()), (follow_bars, bars_line())):
        path = tmp_path / "noise.jsonl"
        path.write_bytes(b"".join(text + b"\n" for text in noise) + good.to_json_line().encode())
        found = follow(path)
        assert found.lines == [good]
        blank = sum(not text.removeprefix(b"\xef\xbb\xbf" * (at == 0)).strip() for at, text in enumerate(noise))
        assert len(found.skipped) == len(noise) - blank


WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
text = sys.argv[2].encode()
for n in range(3000):
    whole = text.replace(b"NUMBER", b"%d" % n) + b"\\n"
    cut = n * 7 % len(whole)
    os.write(fd, whole[:cut])
    os.write(fd, whole[cut:])
    if n == 1500:
        sys.stdin.readline()
"""


def test_a_writer_at_work_is_followed_without_loss(path):
    """A real process appends lines in two halves each while we read as fast as we can."""
    command = [sys.executable, "-c", WRITER, str(path), line(run_id="NUMBER").to_json()]
    consumer, calls = Consumer(path), 0
    with subprocess.Popen(command, stdin=subprocess.PIPE) as writer:
        while writer.poll() is None:
            found = consumer.step(most_lines=50 if calls % 2 else None)
            assert (found.skipped, found.restarted) == ([], None)
            calls += 1
            if consumer.lines and not writer.stdin.closed:
                writer.stdin.close()  # it waits in the middle until it was seen at work
    assert writer.returncode == 0
    consumer.step()
    assert [line.run_id for line in consumer.lines] == [str(n) for n in range(3000)]


def test_only_new_bytes_are_parsed(path):
    """The old lines are not looked at again: even their damage, beyond the marks, is not."""
    append(path, *(line(run_id=str(n)) for n in range(300)))
    cursor = follow_backfill(path).cursor
    with path.open("r+b") as file:
        file.seek(cursor.offset // 2)
        file.write(b"?")
    append(path, line(run_id="new"))
    found = follow_backfill(path, cursor)
    assert ([line.run_id for line in found.lines], found.skipped) == (["new"], [])


def test_cursors_are_values():
    cursor = Cursor("l2_gap.v1", 5, 1)
    assert replace(cursor, offset=6) != cursor
    assert len({cursor, Cursor("l2_gap.v1", 5, 1)}) == 1

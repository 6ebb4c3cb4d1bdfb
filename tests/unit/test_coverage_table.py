"""All days of a coverage entry as columns: the same as its days one by one; and whether a coverage file is current."""

import json
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts import DataRoot, InvalidDocument, InvalidSymbol
from contracts.coverage import UNKNOWN_NS, build_coverage, is_current, load_coverage
from contracts.symbols import canonical_symbol

FIRST = date(2025, 3, 3)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def line(day, symbol="AAPL", bar_size="1 min", **changes):
    folder = {"1 hour": "hour", "1 min": "minute", "1 sec": "second"}[bar_size]
    offset = "-05:00" if day < date(2025, 3, 9) else "-04:00"
    document = {
        "schema_version": "bars_manifest.v1",
        "written_at": "2025-09-30T20:05:01+00:00",
        "vendor": "IBKR",
        "file_format": "parquet",
        "symbol": symbol,
        "bar_size": bar_size,
        "path": f"/data/ML/bars/{folder}/{symbol}/{day}.parquet",
        "filename": f"{day}.parquet",
        "rows": 390,
        "columns": ["timestamp"],
        "time_start": f"{day}T09:30:00{offset}",
        "time_end": f"{day}T15:59:00{offset}",
        **changes,
    }
    return json.dumps({key: value for key, value in document.items() if value is not None}) + "\n"


def built(folder, lines):
    root = DataRoot(folder)
    root.bars_manifest.write_text("".join(lines))
    build_coverage(root)
    return root


def nanoseconds(moment):
    """As the table has it: no time, and one beyond 64 bits, are unknown."""
    ns = UNKNOWN_NS if moment is None else (moment - EPOCH) // timedelta(microseconds=1) * 1000
    return ns if abs(ns) < 2**63 else UNKNOWN_NS


def assert_says_what_files_say(index, symbol, bar_size):
    table, files = index.table(symbol, bar_size), index.files(symbol, bar_size)
    assert table.days.tolist() == [file.date for file in files] == index.days(symbol, bar_size).tolist()
    assert table.start_ns.tolist() == [nanoseconds(file.time_start) for file in files]
    assert table.end_ns.tolist() == [nanoseconds(file.time_end) for file in files]
    assert table.rows.tolist() == [file.rows for file in files]
    assert table.paths(range(len(table))) == [file.path for file in files]
    assert [table.filename(row) for row in range(len(table))] == [file.filename for file in files]
    folder = {"1 hour": "hour", "1 min": "minute", "1 sec": "second"}[bar_size]
    places = [f"/bars/{folder}/{canonical_symbol(symbol)}/{file.date}.parquet" for file in files]
    assert table.in_place.tolist() == [
        file.path.endswith(place) and place.endswith(f"/{file.filename}")
        for file, place in zip(files, places, strict=True)
    ]
    found = {}
    for name, rows in table.folders().items():
        for row in np.flatnonzero(rows).tolist():
            assert row not in found
            found[row] = name
    assert {row: f"{name}/{files[row].date}.parquet" for row, name in found.items()} == {
        row: file.path for row, file in enumerate(files) if table.in_place[row]
    }


def test_a_table_has_the_days_of_an_entry_in_order(tmp_path):
    days = [FIRST + timedelta(number) for number in range(10)]
    root = built(tmp_path, [line(day, rows=380 + number) for number, day in enumerate(days)])
    table = load_coverage(root.bars_coverage).table("aapl", "1 min")
    assert len(table) == 10
    assert table.days.tolist() == days
    assert table.rows.tolist() == list(range(380, 390))
    # 09:30 in New York is 14:30 UTC in winter and 13:30 in summer.
    assert [str(ns)[11:16] for ns in table.start_ns.view("datetime64[ns]")] == ["14:30"] * 6 + ["13:30"] * 4
    assert table.path(3) == "/data/ML/bars/minute/AAPL/2025-03-06.parquet"
    assert table.in_place.all()
    assert {name: rows.tolist() for name, rows in table.folders().items()} == {"/data/ML/bars/minute/AAPL": [True] * 10}


def test_what_is_not_there_is_an_empty_table(tmp_path):
    index = load_coverage(built(tmp_path, [line(FIRST)]).bars_coverage)
    table = index.table("AAPL", "1 sec")
    assert (len(table), table.paths([]), table.folders()) == (0, [], {})
    with pytest.raises(InvalidSymbol):
        index.table("../x", "1 min")


def test_what_the_coverage_does_not_tell_is_unknown(tmp_path):
    name = "bars_2025-03-03.parquet"
    lines = [line(FIRST, time_start=None, time_end=None, filename=name, path=f"/x/{name}"), line(FIRST + timedelta(1))]
    index = load_coverage(built(tmp_path, lines).bars_coverage)
    assert (index.table("AAPL", "1 min").start_ns == UNKNOWN_NS).tolist() == [True, False]
    assert_says_what_files_say(index, "AAPL", "1 min")


ODD_PATHS = [
    '/d/"path":"/{day}.parquet',
    "/dé/bars/minute/AAPL/{day}.parquet",
    "/d\\u12025/bars/minute/AAPL/{day}.parquet",
    "/d\u1202{day}/bars/minute/AAPL/{day}.parquet",
    "/ሂ{day}/bars/minute/AAPL/{day}.parquet",
    "C:\\data\\bars\\minute\\AAPL\\{day}.parquet",
    "/runs/{day}/bars/minute/AAPL/{day}.parquet",
    "/runs/2025-03-03/bars/minute/AAPL/{day}.parquet",
    "/x/bars/second/AAPL/{day}.parquet",
    "/bars/minute/AAPL/{day}.parquet",
    "bars/minute/AAPL/{day}.parquet",
    "/no/date.parquet",
    "{day}",
    "😀{day}.parquet",
    "/tab\there/{day}.parquet",
]
"""Texts in which quotes, escapes, and dates stand where they could mislead."""


@pytest.mark.parametrize("path", ODD_PATHS)
def test_any_path_is_read_as_it_is(tmp_path, path):
    days = [FIRST + timedelta(number) for number in range(8)]
    lines = [line(day, path=path.format(day=day) + str(number) * (number % 3)) for number, day in enumerate(days)]
    lines += [line(day + timedelta(20), path=path.format(day=day + timedelta(20))) for day in days]
    assert_says_what_files_say(load_coverage(built(tmp_path, lines).bars_coverage), "AAPL", "1 min")


CLOCKS = st.times().map(lambda clock: clock.isoformat(timespec="auto"))
WHOLE_CLOCKS = st.times().map(lambda clock: clock.replace(microsecond=0).isoformat())


@st.composite
def ledger_lines(draw):
    """Lines of one entry, mostly alike, some odd in one way or another."""
    day = draw(st.dates(date(2025, 2, 1), date(2025, 12, 31)))
    lines = []
    for _ in range(draw(st.integers(1, 12))):
        day += timedelta(draw(st.integers(1, 3)))
        changes = {"rows": draw(st.integers(0, 500) | st.integers(0, 2**63 - 1))}
        kind = draw(st.integers(0, 9))
        if kind == 0:
            changes |= {"path": draw(st.sampled_from(ODD_PATHS)).format(day=day), "filename": f"{day}.parquet"}
        elif kind == 1:
            changes |= {"filename": draw(st.text(min_size=1, max_size=8))}
        elif kind == 2:
            changes |= {"time_end": None}
        elif kind <= 5:
            clocks = sorted(draw(st.tuples(*[CLOCKS if kind == 3 else WHOLE_CLOCKS] * 2)))
            changes |= dict(zip(("time_start", "time_end"), (f"{day}T{clock}" for clock in clocks), strict=True))
        lines.append(line(day, **changes))
    return lines


@settings(max_examples=50, deadline=None)
@given(ledger_lines())
def test_a_table_says_what_files_say(tmp_path_factory, lines):
    index = load_coverage(built(tmp_path_factory.mktemp("root"), lines).bars_coverage)
    for key in index.keys:
        assert_says_what_files_say(index, *key)


def sound(work):
    try:
        return work()
    except InvalidDocument:
        return False


@settings(max_examples=50, deadline=None)
@given(st.data())
@example(None)
def test_a_damaged_line_is_refused_by_both_or_neither(tmp_path_factory, data):
    root = built(tmp_path_factory.mktemp("root"), [line(FIRST + timedelta(number)) for number in range(4)])
    content = bytearray(root.bars_coverage.read_bytes())
    start = content.index(b"\n", content.index(b'"days"')) + 1
    if data is not None:
        end = content.index(b"\n]}", start)
        at = data.draw(st.integers(start, end - 1))
        new = data.draw(st.binary(max_size=2) | st.sampled_from([b"0", b"9", b"00", b'"', b"\\", b",", b"5", b"\n"]))
        content[at : at + data.draw(st.integers(0, 2))] = new
    root.bars_coverage.write_bytes(content)
    try:
        index = load_coverage(root.bars_coverage)
    except InvalidDocument:
        return
    # With two days on one line they disagree.
    is_sound = sound(lambda: index.days("AAPL", "1 min").tolist() == [day.date for day in index.files("AAPL", "1 min")])
    assert sound(lambda: index.table("AAPL", "1 min") is not None) == is_sound
    if is_sound:
        assert_says_what_files_say(index, "AAPL", "1 min")


def tree(root):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.path.iterdir()}


def test_a_coverage_file_is_current_until_the_ledger_grows(tmp_path):
    root = DataRoot(tmp_path)
    assert not is_current(root)
    root.bars_manifest.write_text(line(FIRST))
    assert not is_current(root)
    build_coverage(root)
    before = tree(root)
    assert is_current(root)
    assert tree(root) == before
    with root.bars_manifest.open("a") as ledger:
        ledger.write(line(FIRST + timedelta(1)).removesuffix("\n"))
        ledger.flush()
        # A line without its end is none yet.
        assert is_current(root)
        ledger.write("\n")
    assert not is_current(root)
    build_coverage(root)
    assert is_current(root)


@pytest.mark.parametrize(
    "harm", ["other ledger", "shorter ledger", "other coverage", "no coverage", "no state", "torn state"]
)
def test_a_coverage_file_that_cannot_be_vouched_for_is_not_current(tmp_path, harm):
    root = built(tmp_path, [line(FIRST), line(FIRST + timedelta(1))])
    state = root.bars_coverage.with_name(".bars_coverage_state")
    assert is_current(root)
    if harm == "other ledger":
        root.bars_manifest.write_text(line(FIRST, rows=7) + line(FIRST + timedelta(1)))
    elif harm == "shorter ledger":
        root.bars_manifest.write_text(line(FIRST))
    elif harm == "other coverage":
        root.bars_coverage.write_bytes(root.bars_coverage.read_bytes().replace(b"390", b"391"))
    elif harm == "no coverage":
        root.bars_coverage.unlink()
    elif harm == "no state":
        state.unlink()
    else:
        state.write_bytes(state.read_bytes()[:-3])
    assert not is_current(root)

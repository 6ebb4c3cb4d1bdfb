"""Every nasty line of the bars ledger and every order of lines, against a plain second implementation."""

import json
import os
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import ContractError, DataRoot
from contracts._coverage.ledger_columns import LinesBuilder
from contracts._coverage.ledger_reader import LedgerReader
from contracts._coverage.report import CoverageReport
from contracts.coverage import build_coverage, coverage_from_lines
from contracts.v1.bars import parse_bars_coverage, parse_bars_manifest_line

ET = ZoneInfo("America/New_York")
STAMP = datetime(2025, 9, 16, 2, 10, tzinfo=UTC)


def line(**changes):
    """A line as the producer writes it; a change to `...` leaves the key out."""
    document = {
        "schema_version": "bars_manifest.v1",
        "written_at": "2025-09-15T20:05:01+00:00",
        "vendor": "IBKR",
        "file_format": "parquet",
        "symbol": "AAPL",
        "bar_size": "1 min",
        "path": "/data/bars/minute/AAPL/2025-09-15.parquet",
        "filename": "2025-09-15.parquet",
        "rows": 389,
        "columns": ["timestamp", "open"],
        "time_start": "2025-09-15T09:30:00-04:00",
        "time_end": "2025-09-15T15:59:00-04:00",
        **changes,
    }
    return json.dumps({key: value for key, value in document.items() if value is not ...}, separators=(",", ":"))


# ---- the second implementation: one line after the other, plain dictionaries


def oracle(lines):
    """Entries and the count of lines that count, from whole lines without line ends."""
    by_path = {}
    taken = 0
    for number, text in enumerate(lines):
        try:
            parsed = parse_bars_manifest_line(text.removeprefix(b"\xef\xbb\xbf") if number == 0 else text)
        except ContractError:
            continue
        day = oracle_day(parsed)
        if day is None:
            continue
        taken += 1
        by_path[parsed.path] = (number, day, parsed)
    kept = []
    for number, day, parsed in by_path.values():
        rivals = [
            (other.written_at, n)
            for n, _, other in by_path.values()
            if None not in (other.time_start, other.time_end) and times_of(other) == times_of(parsed)
        ]
        if not rivals or (parsed.written_at, number) == max(rivals):
            kept.append((day, parsed))
    entries = {}
    for day, parsed in kept:
        days = entries.setdefault((parsed.symbol, parsed.bar_size), {})
        if day not in days or oracle_merit(parsed) < oracle_merit(days[day]):
            days[day] = parsed
    return [
        (*key, [oracle_day_document(day, best) for day, best in sorted(entries[key].items())])
        for key in sorted(entries)
    ], taken


def times_of(parsed):
    moments = (parsed.time_start, parsed.time_end)
    return parsed.symbol, parsed.bar_size, *(moment and moment.astimezone(UTC) for moment in moments)


def oracle_merit(parsed):
    both = parsed.time_start is not None and parsed.time_end is not None
    span = parsed.time_end.astimezone(UTC) - parsed.time_start.astimezone(UTC) if both else timedelta()
    return -parsed.rows, -span, -parsed.written_at.timestamp(), parsed.path


def oracle_day(parsed):
    named = None
    for at in range(len(parsed.filename) - 9):
        text = parsed.filename[at : at + 10]
        around = parsed.filename[at - 1 : at] + parsed.filename[at + 10 : at + 11]
        plain = text[:4] + text[5:7] + text[8:]
        is_plain = text[4] == text[7] == "-" and plain.isascii() and plain.isdigit()
        if named is None and is_plain and not any(character in "0123456789" for character in around):
            try:
                named = date.fromisoformat(text)
            except ValueError:
                continue
    days = [moment.date() for moment in (parsed.time_start, parsed.time_end) if moment is not None]
    if not days:
        return named
    return named if named is not None and days[0] <= named <= days[-1] else days[0]


def oracle_day_document(day, parsed):
    times = {"time_start": parsed.time_start, "time_end": parsed.time_end}
    return {
        "date": str(day),
        **{key: moment.isoformat() for key, moment in times.items() if moment is not None},
        "path": parsed.path,
        "filename": parsed.filename,
        "rows": parsed.rows,
    }


def entries_of(text):
    document = json.loads(text)
    for entry in document["entries"]:
        first, last = entry["days"][0]["date"], entry["days"][-1]["date"]
        assert entry["total"] == {"date_start": first, "date_end": last}
    return [(entry["symbol"], entry["bar_size"], entry["days"]) for entry in document["entries"]]


# ---- strategies: lines that are nearly right


TIMES = [
    "2025-09-15T09:30:00-04:00",
    "2025-09-15T09:30:00",
    "2025-09-15T13:30:00Z",
    "2025-09-15T13:30:00+00:00",
    "2025-09-15T15:59:00-04:00",
    "2025-09-15T19:59:00+00:00",
    "2025-09-15T15:59:00-05:00",
    "2025-09-15T15:59:00.5-04:00",
    "2025-09-16T04:00:00+08:00",
    "2025-09-15T19:00:00+05:30",
    "2025-09-16T15:59:00-04:00",
    "2025-09-16T01:30:00Z",
    "2025-11-02T01:30:00-04:00",
    "2025-11-02T01:15:00-05:00",
    "2025-11-02T01:30:00",
    "2025-03-09T02:30:00",
    "2025-09-15T09:60:00-04:00",
    "2025-09-15T09:30:60-04:00",
    "2025-09-31T09:30:00-04:00",
    "2025-09-15T24:00:00-04:00",
    "2025-09-15 09:30:00-04:00",
    "2025-09-15T09:3a:00-04:00",
    "2025-09-15T09:30:00-0400",
    "2025-09-15T09:30",
    "1700-01-01T00:00:00-05:00",
    "0001-01-01T00:00:00+00:00",
    "9999-12-31T23:59:59-04:00",
    "",
]
NUMBERS = ["0", "7", "389", "390", "5.0", "1e3", "1E2", "-0", "-1", "0.5", "007", "1e400", "NaN", "9223372036854775807"]
NUMBERS += ["9223372036854775808", "1" + "0" * 5000, "true", "null", '"5"', "[]", "123456789012345678", "- 1", "+1"]
SYMBOLS = [
    "AAPL",
    "MSFT",
    "BRK.B",
    "brk-b",
    " aapl ",
    "aapl\\t",
    "ÅPL",
    "CON",
    "",
    "A" * 16,
    "A" * 15,
    "\\u0041APL",
    "A\tB",
]
PATHS = [
    "/d/1.parquet",
    "/d/2.parquet",
    "/d/2025-09-16.parquet",
    "/d/é.parquet",
    "/d/\\u00e9.parquet",
    "/d/\\/x",
    "/d/\\ud800",
]
PATHS += [
    "",
    "/d/\x7f",
    "/d/\x01",
    "/d/\x00",
    "C:\\\\d",
    "/d/" + "x" * 1100,
    "/d/\U0001f600",
    "/d/\\ud83d\\ude00",
    "/d/'{}[]:,",
]
NAMES = [
    "2025-09-15.parquet",
    "2025-09-16.parquet",
    "a_2025-09-14_2025-09-16.parquet",
    "12025-09-15.parquet",
    "x.parquet",
]
NAMES += ["2025-13-01_2025-09-15.parquet", ""]
EXTRAS = [
    "1",
    '"x"',
    '""',
    "true",
    "null",
    "NaN",
    "-Infinity",
    "1e999",
    "[[1],{}]",
    '{"rows":1}',
    '{"a":1,"a":2}',
    '"\\ud800"',
]
EXTRAS += ['"é"', "1.5", "00", "{", '"a\x02"', '"' + "x" * 1100 + '"', '"\\x"']


def texts(values):
    return st.sampled_from([f'"{value}"' for value in values])


# Usual value and odd ones of each key; times can be left out.
VALUES = {
    "schema_version": ('"bars_manifest.v1"', st.sampled_from(['"bars_manifest.v2"', "1", '"bars_manifest.v1 "'])),
    "written_at": ('"2025-09-15T20:05:01+00:00"', texts(TIMES)),
    "vendor": ('"IBKR"', st.sampled_from(['"X"', "null"])),
    "file_format": ('"parquet"', st.sampled_from(['"csv"', "1"])),
    "symbol": ('"AAPL"', texts(SYMBOLS)),
    "bar_size": ('"1 min"', st.sampled_from(['"1 sec"', '"1 hour"', '"1 day"', "1"])),
    "path": ('"/d/1.parquet"', texts(PATHS)),
    "filename": ('"2025-09-15.parquet"', texts(NAMES)),
    "rows": ("389", st.sampled_from(NUMBERS)),
    "columns": ('["a","b"]', st.sampled_from(["[]", '["a"]', '"a"', '["a",1]', '[ "a", "b"]'])),
    "time_start": ('"2025-09-15T09:30:00-04:00"', st.one_of(texts(TIMES), st.sampled_from(["null", None]))),
    "time_end": ('"2025-09-15T15:59:00-04:00"', st.one_of(texts(TIMES), st.sampled_from(["null", None]))),
}
KEYS = [*VALUES, "run", "complete", "use_rth", "what_to_show", "r\\u006fws"]
SEPARATORS = [(",", ":"), (",", ":"), (", ", ": "), (" ,\t", ":"), (",,", ":")]


@st.composite
def odd_lines(draw):
    """A line as bytes that is right but for a few things: values, keys, spaces, the frame."""
    odd = draw(st.sets(st.sampled_from(list(VALUES)), max_size=2))
    pairs = [(key, draw(values) if key in odd else usual) for key, (usual, values) in VALUES.items()]
    pairs = [(key, value) for key, value in pairs if value is not None]
    if draw(st.booleans()):
        pairs.insert(
            draw(st.sampled_from([0, 5, len(pairs)])), (draw(st.sampled_from(KEYS)), draw(st.sampled_from(EXTRAS)))
        )
    if not draw(st.integers(0, 7)):
        pairs.pop(draw(st.integers(0, len(pairs) - 1)))
    comma, colon = draw(st.sampled_from(SEPARATORS))
    text = ("{" + comma.join(f'"{key}"{colon}{value}' for key, value in pairs) + "}").encode()
    frame = draw(st.integers(0, 40))
    return (FRAMES[frame](text) if frame < len(FRAMES) else text).replace(b"\n", b"")


FRAMES = [
    lambda text: text + b"\r",
    lambda text: b" " + text + b" ",
    lambda text: text[: len(text) // 2],
    lambda text: b"\xef\xbb\xbf" + text,
    lambda text: text.replace(b"parquet", b"p\xff", 1),
    lambda text: b"[" + text + b"]",
    lambda text: text + b"x",
    lambda text: b"",
    lambda text: b"\x00" * 40,
]
LEDGERS = st.lists(
    st.one_of(odd_lines(), st.sampled_from([line().encode(), line(rows=390, symbol="MSFT").encode()])), max_size=14
)


# ---- what counts


@settings(max_examples=50, deadline=None)
@given(lines=LEDGERS, repeats=st.integers(1, 3), block_bytes=st.sampled_from([7, 300, 1 << 22]))
def test_what_the_strict_parser_of_one_line_takes_is_exactly_what_counts(tmp_path_factory, lines, repeats, block_bytes):
    """The vectorised reader agrees with the parser line by line, whatever stands in the neighbourhood."""
    path = tmp_path_factory.mktemp("ledger") / "l.jsonl"
    lines = lines * repeats
    path.write_bytes(b"".join(text + b"\n" for text in lines))
    builder, report = LinesBuilder(), CoverageReport()
    with path.open("rb") as file:
        reader = LedgerReader(builder, report, block_bytes=block_bytes)
        reader.read_file(file.fileno(), os.fstat(file.fileno()).st_size)
    read = builder.build()
    keys = builder.entries.keys()
    found = {}
    for row, offset in enumerate(read.offset.tolist()):
        text = json.loads(read.texts[row].as_py().removesuffix(b",\n"))
        found[offset] = (*keys[read.entry[row]], read.paths[row].as_py().decode(), int(read.written_us[row]), text)
    expected = {}
    offset = 0
    for number, text in enumerate(lines):
        shift = 3 if number == 0 and text.startswith(b"\xef\xbb\xbf") else 0
        entries, taken = oracle([text] if number == 0 else [b"", text])
        if taken:
            parsed = parse_bars_manifest_line(text[shift:])
            written_us = (parsed.written_at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
            expected[offset + shift] = (*entries[0][:2], parsed.path, written_us, entries[0][2][0])
        offset += len(text) + 1
    assert found == expected
    assert report.taken == len(expected)
    assert report.lines == len(lines) == report.taken + sum(report.skipped.values())


@settings(max_examples=50, deadline=None)
@given(lines=LEDGERS)
def test_coverage_is_what_the_plain_implementation_says(lines):
    expected, taken = oracle(lines)
    coverage, report = coverage_from_lines(lines, generated_at=STAMP)
    assert entries_of(coverage.to_json()) == expected
    assert report.taken == taken == report.replaced + report.not_best + report.days
    assert report.lines == len(lines)


# ---- the rules, with few values so that lines meet

RIVALS = st.builds(
    line,
    symbol=st.sampled_from(["AAPL", "BRK.B", "BRK-B"]),
    bar_size=st.sampled_from(["1 min", "1 sec"]),
    path=st.sampled_from(["/d/a", "/d/b", "/d/c", "/e/a", "/e/é"]),
    filename=st.sampled_from(["2025-09-15.parquet", "2025-09-16.parquet", "x"]),
    rows=st.integers(1, 3),
    written_at=st.sampled_from(["2025-09-15T20:05:01+00:00", "2025-09-15T16:05:01", "2025-09-16T20:05:01Z"]),
    time_start=st.sampled_from([..., None, "2025-09-15T09:30:00-04:00", "2025-09-15T13:30:00Z", "2025-09-14T09:30:00"]),
    time_end=st.sampled_from([..., None, "2025-09-15T15:59:00-04:00", "2025-09-16T15:59:00", "2025-09-17T01:00:00Z"]),
).map(str.encode)


@settings(max_examples=50, deadline=None)
@given(lines=st.lists(RIVALS, max_size=25))
def test_the_rules_hold_among_lines_that_meet(lines):
    expected, _ = oracle(lines)
    coverage, _ = coverage_from_lines(lines, generated_at=STAMP)
    assert entries_of(coverage.to_json()) == expected


@settings(max_examples=40, deadline=None)
@given(
    lines=st.lists(st.one_of(RIVALS, RIVALS, RIVALS, odd_lines()), max_size=30),
    cuts=st.lists(st.integers(0, 10_000), max_size=6),
    lost=st.lists(st.sampled_from(["state", "older state", "coverage"]), max_size=1),
)
def test_refreshing_after_any_appends_is_deriving_all(tmp_path_factory, lines, cuts, lost):
    """Also when an append tears a line, and when a run died between the coverage file and the state."""
    root = DataRoot(tmp_path_factory.mktemp("root"))
    ledger = b"".join(text + b"\n" for text in lines)
    before = None
    for cut in [*sorted(min(cut, len(ledger)) for cut in cuts), len(ledger)]:
        root.bars_manifest.write_bytes(ledger[:cut])
        result = build_coverage(root, generated_at=STAMP)
        whole = ledger[:cut].split(b"\n")[:-1]
        expected, taken = oracle(whole)
        assert entries_of(root.bars_coverage.read_bytes()) == expected
        assert (result.report.taken, result.report.lines) == (taken, len(whole))
        state = root.path / ".bars_coverage_state"
        newest, written = state.read_bytes(), root.bars_coverage.read_bytes()
        if "state" in lost:
            state.unlink()
        elif "older state" in lost and before is not None:
            state.write_bytes(before)
        elif "coverage" in lost:
            root.bars_coverage.write_bytes(b"{}")
        else:
            assert result.report.mode == "incremental" or before is None
        before = newest
    root.bars_coverage.unlink()
    full = build_coverage(root, full=True, generated_at=STAMP)
    assert root.bars_coverage.read_bytes() == written
    same = {"mode": "", "why": "", "new_lines": 0}
    assert {**full.report.to_document(), **same} == {**result.report.to_document(), **same}
    assert entries_of(parse_bars_coverage(written).to_json()) == expected

"""Coverage of a data root on the disk: the file, the state beside it, and what goes wrong with both."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from hashlib import blake2b

import jsonschema
import pytest

from contracts import DataRoot, NotAvailable
from contracts._coverage.file import atomic_file
from contracts.coverage import build_coverage, coverage_from_lines
from contracts.schemas import schema_validator
from contracts.v1.bars import parse_bars_coverage

STAMP = datetime(2025, 9, 16, 2, 10, tzinfo=UTC)
LATER = STAMP + timedelta(hours=1)
STATE = ".bars_coverage_state"
COLUMNS = ["timestamp", "open", "high", "low", "close", "volume", "barCount", "WAP"]
FOLDERS = {"1 min": "minute", "1 sec": "second", "1 hour": "hour"}


def line(symbol="AAPL", bar_size="1 min", day="2025-09-15", **changes):
    """A line as the producer writes it, with its line end."""
    document = {
        "schema_version": "bars_manifest.v1",
        "written_at": f"{day}T20:05:01+00:00",
        "vendor": "IBKR",
        "file_format": "parquet",
        "symbol": symbol,
        "bar_size": bar_size,
        "path": f"/data/ML/bars/{FOLDERS[bar_size]}/{symbol}/{day}.parquet",
        "filename": f"{day}.parquet",
        "rows": 389,
        "columns": COLUMNS,
        "time_start": f"{day}T09:30:00-04:00",
        "time_end": f"{day}T15:59:00-04:00",
        **changes,
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def many(symbols, days):
    first = date(2025, 6, 2)
    return [
        line(symbol, bar_size, str(first + timedelta(day)))
        for day in range(days)
        for symbol in symbols
        for bar_size in FOLDERS
    ]


@pytest.fixture
def root(tmp_path):
    return DataRoot(tmp_path)


def append(root, *lines):
    with root.bars_manifest.open("ab") as file:
        file.write(b"".join(lines))


def build(root, **options):
    return build_coverage(root, **{"generated_at": STAMP, **options})


def document(root):
    return json.loads(root.bars_coverage.read_bytes())


def derived(root):
    """What the same lines give in memory."""
    lines = root.bars_manifest.read_bytes().split(b"\n")[:-1]
    return json.loads(coverage_from_lines(lines, generated_at=STAMP)[0].to_json())


# ---- the file


def test_the_file_is_exactly_what_the_contract_says(root):
    """Lines of the system before: naive times are New York wall clock and are written with their offset."""
    old = {"written_at": "2025-09-15T16:05:01", "time_start": "2025-09-15T09:30:00", "time_end": "2025-09-15T16:00:00"}
    nothing = {"time_start": None, "time_end": None}
    append(root, line("MSFT", **nothing), line(**old), line(bar_size="1 sec", rows=23450), line(day="2025-09-12"))
    result = build(root)
    assert (result.written, result.path, result.state_saved) == (True, root.bars_coverage, True)
    assert root.bars_coverage.read_bytes() == (
        b'{"schema_version":"bars_coverage.v1","generated_at":"2025-09-16T02:10:00+00:00","entries":[\n'
        b'{"symbol":"AAPL","bar_size":"1 min","total":{"date_start":"2025-09-12","date_end":"2025-09-15"},"days":[\n'
        b'{"date":"2025-09-12","time_start":"2025-09-12T09:30:00-04:00","time_end":"2025-09-12T15:59:00-04:00",'
        b'"path":"/data/ML/bars/minute/AAPL/2025-09-12.parquet","filename":"2025-09-12.parquet","rows":389},\n'
        b'{"date":"2025-09-15","time_start":"2025-09-15T09:30:00-04:00","time_end":"2025-09-15T16:00:00-04:00",'
        b'"path":"/data/ML/bars/minute/AAPL/2025-09-15.parquet","filename":"2025-09-15.parquet","rows":389}\n'
        b"]},\n"
        b'{"symbol":"AAPL","bar_size":"1 sec","total":{"date_start":"2025-09-15","date_end":"2025-09-15"},"days":[\n'
        b'{"date":"2025-09-15","time_start":"2025-09-15T09:30:00-04:00","time_end":"2025-09-15T15:59:00-04:00",'
        b'"path":"/data/ML/bars/second/AAPL/2025-09-15.parquet","filename":"2025-09-15.parquet","rows":23450}\n'
        b"]},\n"
        b'{"symbol":"MSFT","bar_size":"1 min","total":{"date_start":"2025-09-15","date_end":"2025-09-15"},"days":[\n'
        b'{"date":"2025-09-15",'
        b'"path":"/data/ML/bars/minute/MSFT/2025-09-15.parquet","filename":"2025-09-15.parquet","rows":389}\n'
        b"]}\n"
        b"]}\n"
    )


LEGACY_TIME = {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:Z|[+-]\d{2}:\d{2})?$"}
LEGACY_DATE = {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}
LEGACY_DAY = {
    "type": "object",
    "required": ["date", "path", "filename", "rows"],
    "properties": {
        "date": LEGACY_DATE,
        "time_start": LEGACY_TIME,
        "time_end": LEGACY_TIME,
        "path": {"type": "string"},
        "filename": {"type": "string"},
        "rows": {"type": "integer", "minimum": 0},
    },
}
LEGACY_ENTRY = {
    "type": "object",
    "required": ["symbol", "bar_size", "total", "days"],
    "properties": {
        "bar_size": {"enum": ["1 hour", "1 min", "1 sec"]},
        "total": {
            "type": "object",
            "required": ["date_start", "date_end"],
            "properties": {"date_start": LEGACY_DATE, "date_end": LEGACY_DATE},
            "additionalProperties": False,
        },
        "days": {"type": "array", "items": LEGACY_DAY},
    },
}
LEGACY = {
    "type": "object",
    "required": ["schema_version", "generated_at", "entries"],
    "properties": {
        "schema_version": {"const": "bars_coverage.v1"},
        "generated_at": LEGACY_TIME,
        "entries": {"type": "array", "items": LEGACY_ENTRY},
    },
}


def test_the_file_passes_our_schema_and_that_of_the_system_before(root):
    nothing = {"time_start": None, "time_end": None}
    append(root, *many(["AAPL", "BRK.B"], 3), line("MSFT", path='/d/é"\\.parquet', **nothing))
    build(root, generated_at=None)
    text = root.bars_coverage.read_text("ascii")
    jsonschema.Draft7Validator(LEGACY).validate(json.loads(text))
    schema_validator("bars_coverage.v1").validate(json.loads(text))
    assert parse_bars_coverage(text).generated_at.utcoffset() == timedelta(0)
    assert [entry["symbol"] for entry in json.loads(text)["entries"]] == ["AAPL"] * 3 + ["BRK-B"] * 3 + ["MSFT"]


def test_the_file_may_be_read_as_the_umask_allows(root):
    append(root, line())
    before = os.umask(0o022)
    try:
        build(root)
    finally:
        os.umask(before)
    assert stat.S_IMODE(root.bars_coverage.stat().st_mode) == 0o644


def test_the_time_of_generation_is_written_in_utc(root):
    append(root, line())
    build(root, generated_at=datetime(2025, 9, 15, 22, 10, tzinfo=timezone(timedelta(hours=-4))))
    assert document(root)["generated_at"] == "2025-09-16T02:10:00+00:00"


def test_an_empty_ledger_gives_an_empty_coverage(root):
    append(root)
    assert build(root).written
    assert parse_bars_coverage(root.bars_coverage.read_bytes()).entries == ()


@pytest.mark.parametrize("what", ["nothing", "a folder", "no root"])
def test_without_a_ledger_nothing_is_created(tmp_path, what):
    root = DataRoot(tmp_path / "root")
    if what != "no root":
        root.path.mkdir()
    if what == "a folder":
        root.bars_manifest.mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(NotAvailable, match="bars_download_manifest"):
        build(root)
    assert sorted(tmp_path.rglob("*")) == before


def test_another_ledger_and_another_place_leave_no_state(tmp_path):
    ledger, out = tmp_path / "in" / "l.jsonl", tmp_path / "out" / "c.json"
    ledger.parent.mkdir()
    out.parent.mkdir()
    ledger.write_bytes(line())
    result = build(DataRoot(tmp_path / "root"), manifest=ledger, out=out)
    assert (result.path, result.written, result.state_saved) == (out, True, False)
    assert [entry["symbol"] for entry in json.loads(out.read_bytes())["entries"]] == ["AAPL"]
    assert not (tmp_path / "root").exists()


# ---- again


@pytest.mark.parametrize("full", [False, True])
def test_deriving_twice_leaves_the_file_untouched(root, full):
    append(root, *many(["AAPL", "MSFT"], 3), b"{\n")
    build(root)
    before = root.bars_coverage.stat()
    result = build(root, full=full, generated_at=LATER)
    after = root.bars_coverage.stat()
    assert not result.written
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert result.report.mode == ("full" if full else "incremental")
    assert (result.report.days, result.report.skipped) == (18, {"not-json": 1})


def test_lines_that_change_nothing_leave_the_file_untouched_and_are_not_read_again(root):
    append(root, *many(["AAPL"], 3))
    build(root)
    append(
        root,
        line(day="2025-06-03", path="/worse", rows=1, time_end="2025-06-03T12:00:00-04:00"),
        line(schema_version="x"),
    )
    result = build(root, generated_at=LATER)
    assert (result.written, result.report.new_lines, result.report.mode) == (False, 2, "incremental")
    assert build(root, generated_at=LATER).report.new_lines == 0


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"schema_version":"bars_coverage.v1"'])
def test_a_missing_or_damaged_file_is_written_again(root, content):
    append(root, *many(["AAPL"], 3))
    build(root)
    if content is None:
        root.bars_coverage.unlink()
    else:
        root.bars_coverage.write_bytes(content)
    result = build(root)
    assert result.written
    assert document(root) == derived(root)


def test_a_byte_changed_in_the_file_is_put_right(root):
    append(root, *many(["AAPL"], 3))
    build(root)
    right = root.bars_coverage.read_bytes()
    root.bars_coverage.write_bytes(right.replace(b'"rows":389', b'"rows":388', 1))
    assert build(root).written
    assert root.bars_coverage.read_bytes() == right


def test_new_symbols_sizes_and_days_find_their_places(root):
    """Before, between and after what is there, and lines that take over a path of another symbol."""
    append(root, *many(["BBB", "DDD"], 4))
    build(root)
    steps = [
        [line("AAA")],
        [line("CCC", "1 sec"), line("EEE")],
        [line("DDD", day="2025-01-02"), line("DDD", day="2025-12-30"), line("BBB", "1 hour", "2025-06-03", rows=7)],
        [line("ZZZ", path="/data/ML/bars/minute/AAA/2025-09-15.parquet")],
        [
            line("BBB", day="2025-06-02", path="/better", rows=390),
            line("BBB", day="2025-06-02", path="/better", rows=1),
        ],
        [line("FFF", path=f"/data/ML/bars/minute/DDD/2025-06-0{day}.parquet") for day in (2, 3, 4, 5)],
    ]
    for step in steps:
        append(root, *step)
        result = build(root)
        assert result.report.mode == "incremental"
        assert document(root) == derived(root)
    symbols = {entry["symbol"] for entry in document(root)["entries"]}
    assert symbols == {"BBB", "CCC", "DDD", "EEE", "FFF", "ZZZ"}


def test_a_file_that_loses_by_its_times_can_come_back(root):
    """The path that beat it is written again with other times; its day is another one."""
    times = {"time_start": "2025-09-15T09:30:00-04:00", "time_end": "2025-09-16T15:59:00-04:00"}
    append(root, line(path="/a", filename="2025-09-15.parquet", **times))
    append(root, line(path="/b", day="2025-09-16", **times))
    build(root)
    assert [day["path"] for day in document(root)["entries"][0]["days"]] == ["/b"]
    append(root, line(path="/b", day="2025-09-17"))
    assert build(root).report.mode == "incremental"
    assert [day["path"] for day in document(root)["entries"][0]["days"]] == ["/a", "/b"]


def test_a_torn_last_line_is_left_for_the_next_time(root):
    whole = line("MSFT")
    append(root, line(), whole[:50])
    report = build(root).report
    assert (report.lines, dict(report.skipped)) == (1, {"torn": 1})
    assert [(example.line, example.offset, example.reason) for example in report.examples] == [(2, len(line()), "torn")]
    append(root, whole[50:])
    report = build(root).report
    assert (report.mode, report.lines, report.new_lines, dict(report.skipped)) == ("incremental", 2, 1, {})
    assert document(root) == derived(root)


def test_many_new_lines_are_read_all_at_once(root):
    append(root, *many(["AAPL"], 3))
    build(root)
    append(root, *(line("MSFT", day="2025-09-15", path=f"/{number}") for number in range(20_001)))
    report = build(root).report
    assert (report.mode, report.why) == ("full", "many lines are new")
    assert (report.taken, report.days, report.not_best) == (20_010, 10, 20_000)
    assert document(root) == derived(root)


def test_lines_across_blocks_and_shapes_are_read_as_one_by_one(root):
    """More than a block of lines, of two writers, with odd ones in between."""
    usual = many(["AAPL", "MSFT", "BRK.B", "QQQ", "SPY"], 700)
    for at in range(0, len(usual), 97):
        usual[at] = json.dumps(json.loads(usual[at])).encode() + b"\n"
    for at in range(0, len(usual), 1009):
        usual[at] = usual[at].replace(b'"rows":389', b'"rows":389.0')
    for at in range(0, len(usual), 2003):
        usual[at] = b"\xff\n"
    append(root, *usual)
    report = build(root).report
    assert root.bars_manifest.stat().st_size > 4 << 20
    assert (report.lines, report.taken, dict(report.skipped)) == (10_500, 10_494, {"not-json/utf8": 6})
    assert document(root) == derived(root)


# ---- the state


def states_of(root):
    """The state of a root with some lines, and the lines that come next."""
    append(root, *many(["AAPL", "MSFT"], 3))
    build(root)
    return (root.path / STATE).read_bytes()


def test_a_damaged_state_never_does_harm(root):
    state = states_of(root)
    path = root.path / STATE
    right_coverage, ledger = root.bars_coverage.read_bytes(), root.bars_manifest.read_bytes()
    damaged = [state[:size] for size in range(0, len(state), 97)]
    damaged += [state[:at] + bytes([state[at] ^ 1]) + state[at + 1 :] for at in range(0, len(state), 13)]
    damaged += [b"", b"ARROW1", b"\n" * 100, b"\0" * len(state), state + b"\0", state + state]
    append(root, line("AAPL", day="2025-06-03", rows=390), line("NEW"))
    expected = derived(root)
    modes = set()
    for content in damaged:
        path.write_bytes(content)
        modes.add(build(root).report.mode)
        assert document(root) == expected
        root.bars_coverage.write_bytes(right_coverage)
    assert "full" in modes
    assert root.bars_manifest.read_bytes().startswith(ledger)


def rewritten(state, change):
    """A state that is sound in itself but says something else."""
    _, text, columns = state.split(b"\n", 2)
    described = json.loads(text)
    change(described)
    text = json.dumps(described).encode()
    return b"\n".join([blake2b(text, digest_size=16).hexdigest().encode(), text, columns])


CHANGES = {
    "a future format": (lambda found: found.update(format="bars_coverage_state.2"), "another version"),
    "too few entries": (lambda found: found["entries"].pop(), "damaged"),
    "another count": (lambda found: found["entries"][0].__setitem__(2, 2), "damaged"),
    "no report": (lambda found: found.pop("report"), "damaged"),
    "a report with unknown keys": (lambda found: found["report"].update(x=1), "damaged"),
    "another ledger": (lambda found: found["ledger"].__setitem__(1, "0"), "not the one that was read"),
    "a longer ledger": (lambda found: found["ledger"].__setitem__(0, 1 << 40), "shorter"),
    "another coverage file": (lambda found: found["coverage"].__setitem__(0, 1), "not the one that was written"),
}


@pytest.mark.parametrize(("change", "why"), CHANGES.values(), ids=CHANGES)
def test_a_state_that_does_not_fit_is_passed_over_and_told(root, change, why):
    (root.path / STATE).write_bytes(rewritten(states_of(root), change))
    append(root, line("NEW"))
    report = build(root).report
    assert report.mode == "full"
    assert why in report.why
    assert document(root) == derived(root)
    append(root, line("NEXT"))
    assert build(root).report.mode == "incremental"


def test_the_state_of_another_root_is_passed_over(root, tmp_path_factory):
    other = DataRoot(tmp_path_factory.mktemp("other"))
    append(other, *many(["QQQ"], 4))
    build(other)
    states_of(root)
    shutil.copy(other.path / STATE, root.path / STATE)
    append(root, line("NEW"))
    assert build(root).report.mode == "full"
    assert document(root) == derived(root)


def test_a_root_that_was_copied_is_derived_again_and_goes_on(root, tmp_path_factory):
    states_of(root)
    copy = DataRoot(tmp_path_factory.mktemp("copy") / "root")
    shutil.copytree(root.path, copy.path)
    append(copy, line("NEW"))
    assert build(copy).report.mode == "full"
    append(copy, line("NEXT"))
    assert build(copy).report.mode == "incremental"
    assert document(copy) == derived(copy)


LEDGERS = {
    "cut": lambda lines: lines[:-5],
    "emptied": lambda _: [],
    "replaced by a longer one": lambda lines: many(["QQQ"], 9) + lines,
    "rewritten at the begin": lambda lines: [lines[0].replace(b"389", b"388"), *lines[1:], line("NEW")],
    "rewritten at the end": lambda lines: [*lines[:-1], lines[-1].replace(b"389", b"388"), line("NEW")],
    "rewritten where the new line looks": lambda lines: [
        *(text.replace(b'"rows":389', b'"rows":3890') if b"2025-06-20" in text else text for text in lines),
        line("AAPL", day="2025-06-20", path="/new"),
    ],
}


@pytest.mark.parametrize("change", LEDGERS.values(), ids=LEDGERS)
def test_a_ledger_that_is_not_the_one_that_was_read_is_read_again(root, change):
    lines = many(["AAPL", "MSFT"], 60)
    append(root, *lines)
    build(root)
    root.bars_manifest.write_bytes(b"".join(change(lines)))
    report = build(root).report
    assert report.mode == "full"
    assert "ledger" in report.why
    assert document(root) == derived(root)


def test_a_ledger_rewritten_unseen_where_nothing_looks_needs_a_full_derivation(root):
    """The price of reading new bytes only: in the middle, beyond the first and before the last 4 KiB, nobody looks."""
    lines = many(["AAPL", "MSFT"], 60)
    append(root, *lines)
    build(root)
    lines[180] = lines[180].replace(b'"rows":389', b'"rows":390')
    root.bars_manifest.write_bytes(b"".join(lines))
    assert not build(root).written
    assert build(root, full=True).written
    assert document(root) == derived(root)


# ---- disks, deaths and others


LIMITED = """
import resource, signal, sys
from pathlib import Path
from contracts import DataRoot
from contracts.coverage import build_coverage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    result = build_coverage(DataRoot(Path(sys.argv[1])))
    print("written", result.written, "state", result.state_saved)
except OSError as error:
    print("refused", error.errno is not None)
"""


@pytest.mark.parametrize(("limit", "outcome"), [(100, "refused True"), (2000, "written True state False")])
def test_a_disk_that_refuses_leaves_the_old_file_or_only_costs_time(root, limit, outcome):
    """The second limit lets the coverage pass but not the state, which knows of many skipped lines."""
    append(root, line(), *[b"{\n"] * 20)
    build(root)
    before = document(root)["entries"]
    append(root, line("MSFT"))
    command = [sys.executable, "-c", LIMITED, str(root.path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == outcome
    assert document(root)["entries"] == (before if limit == 100 else derived(root)["entries"])
    assert not [path for path in root.path.iterdir() if path.suffix == ".tmp"]
    build(root)
    assert document(root)["entries"] == derived(root)["entries"]


WORKER = """
import sys
from pathlib import Path
from contracts import DataRoot
from contracts.coverage import build_coverage
root = DataRoot(Path(sys.argv[1]))
line = Path(sys.argv[2]).read_bytes()
for number in range(int(sys.argv[4])):
    with root.bars_manifest.open("ab", buffering=0) as file:
        file.write(line.replace(b"AAPL", b"%b%d" % (sys.argv[3].encode(), number)))
    build_coverage(root)
    print(number, flush=True)
"""


def workers(root, names, count):
    (root.path / "line").write_bytes(line())
    command = [sys.executable, "-c", WORKER, str(root.path), str(root.path / "line")]
    return [subprocess.Popen([*command, name, str(count)], stdout=subprocess.PIPE, text=True) for name in names]


def test_several_builds_at_once_leave_a_valid_file_and_no_litter(root):
    running = workers(root, ["A", "B", "C"], 4)
    for worker in running:
        for _ in worker.stdout:
            parse_bars_coverage(root.bars_coverage.read_bytes())
        worker.stdout.close()
    assert [worker.wait() for worker in running] == [0, 0, 0]
    result = build(root)
    assert (result.report.mode, result.written, result.report.entries) == ("incremental", False, 12)
    assert document(root)["entries"] == derived(root)["entries"]
    names = {path.name for path in root.path.iterdir()}
    assert names == {
        "line",
        ".bars_coverage.lock",
        STATE,
        "bars_coverage_manifest.json",
        "bars_download_manifest.jsonl",
    }


def test_a_build_killed_at_any_moment_does_no_harm(root):
    for number, builds in enumerate((1, 6)):
        (worker,) = workers(root, ["ABC"[number]], 1_000_000)
        for _ in range(builds):
            worker.stdout.readline()
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
        parse_bars_coverage(root.bars_coverage.read_bytes())
        build(root)
        assert document(root)["entries"] == derived(root)["entries"]
    assert not [path for path in root.path.iterdir() if path.suffix == ".tmp"]


def test_what_a_killed_build_left_is_removed_and_nothing_else(root):
    append(root, line())
    litter = [f".bars_coverage_manifest.json.{'0f' * 8}.tmp", f".{STATE}.{'a1' * 8}.tmp"]
    others = [".bars_coverage_manifest.json.host-1-2.0a0b0c0d.tmp", ".other.json.0f0f0f0f0f0f0f0f.tmp"]
    for name in litter + others:
        (root.path / name).touch()
    build(root)
    assert {path.name for path in root.path.iterdir() if path.suffix == ".tmp"} == set(others)


def test_systems_without_copies_in_the_kernel_write_the_same_bytes(root, monkeypatch):
    append(root, *many(["AAPL", "MSFT"], 60))
    build(root)
    append(root, line("LLL"))
    for name in ("copy_file_range", "posix_fallocate", "fdatasync"):
        monkeypatch.delattr(os, name)
    assert build(root).report.mode == "incremental"
    assert document(root) == derived(root)


def test_large_files_are_written_whole(tmp_path):
    data = os.urandom(1 << 20)
    with atomic_file(tmp_path / "a", 40 << 20) as sink:
        for _ in range(20):
            sink.write(data)
    with (tmp_path / "a").open("rb") as source, atomic_file(tmp_path / "b", 40 << 20) as sink:
        sink.copy(source.fileno(), 1, (20 << 20) - 1)
        with pytest.raises(OSError, match="shorter"):
            sink.copy(source.fileno(), 20 << 20, 1)
    assert (tmp_path / "a").read_bytes() == data * 20
    assert (tmp_path / "b").read_bytes() == (data * 20)[1:]

"""The validator on the bars manifest and the coverage, by themselves and against the bars files of their root."""

import json
import shutil

import pytest

from contracts import DataRoot, validate_path
from contracts.coverage import build_coverage
from contracts.testing import (
    BARS_DAY,
    BARS_HALF_DAY,
    sample_bars,
    sample_bars_manifest_line,
    sample_coverage,
    write_bars,
)

MANIFEST, COVERAGE = "bars_download_manifest.jsonl", "bars_coverage_manifest.json"


@pytest.fixture
def root(tmp_path):
    """Minutes and hours of two days, one of them downloaded twice; sound."""
    root = DataRoot(tmp_path / "root")
    lines = []
    for bar_size in ("1 min", "1 hour"):
        for day, window in ((BARS_DAY, "09:30-16:00"), (BARS_HALF_DAY, "09:30-13:00")):
            bars = sample_bars(bar_size, day, window_et=window)
            write_bars(root, bars, bar_size, "AAPL", day)
            lines += [sample_bars_manifest_line(root, part, bar_size, day) for part in (bars[:2], bars)]
    write_documents(root, [line.to_document() for line in lines], sample_coverage(lines).to_document())
    return root


def write_documents(root, lines, coverage):
    if lines is not None:
        root.bars_manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if coverage is not None:
        root.bars_coverage.write_text(json.dumps(coverage))


def lines_of(root):
    return [json.loads(line) for line in root.bars_manifest.read_text().splitlines()]


def coverage_of(root):
    return json.loads(root.bars_coverage.read_text())


def found(path, **options):
    report = validate_path(path, **options)
    return [
        (finding.path.name, finding.rule, finding.severity, finding.line, finding.field) for finding in report.findings
    ]


@pytest.mark.parametrize("full", [True, False])
def test_a_sound_root_has_no_findings_wherever_it_was_moved_to(root, tmp_path, full):
    assert found(root.path, full=full) == []
    moved = shutil.move(root.path, tmp_path / "elsewhere")
    assert found(moved, full=full) == []
    assert found(tmp_path, full=full) == []
    assert validate_path(tmp_path).kinds["bars_coverage"].rows == 4


LINES = {
    "text rows": ({"rows": "390"}, "model", "error", "rows"),
    "true rows": ({"rows": True}, "model", "error", "rows"),
    "half a row": ({"rows": 1.5}, "model", "error", "rows"),
    "huge rows": ({"rows": 2**63}, "model", "error", "rows"),
    "another vendor": ({"vendor": "DATABENTO"}, "model", "error", "vendor"),
    "another bar size": ({"bar_size": "5 mins"}, "model", "error", "bar_size"),
    "no path": ({"path": None}, "model", "error", "path"),
    "times the wrong way": ({"time_start": "2025-11-26T15:59:01-05:00"}, "model", "error", None),
    "a time of nobody": ({"time_start": "2025-11-26T25:00:00-05:00"}, "model", "error", "time_start"),
    "a symbol of nobody": ({"symbol": "../AAPL"}, "model", "error", "symbol"),
    "another version": ({"schema_version": "bars_manifest.v2"}, "schema-version", "error", "schema_version"),
    "another file name": ({"filename": "x.parquet"}, "filename", "error", "filename"),
    "a relative path": ({"path": f"bars/minute/AAPL/{BARS_DAY}.parquet"}, "path", "error", "path"),
    "the path of another symbol": ({"path": f"/d/bars/minute/MSFT/{BARS_DAY}.parquet"}, "path", "error", "path"),
    "the path of another size": ({"path": f"/d/bars/hour/AAPL/{BARS_DAY}.parquet"}, "path", "error", "path"),
    "a naive time": ({"time_start": "2025-11-26T09:30:00"}, "old-time", "warning", "time_start"),
    "a naive written_at": ({"written_at": "2025-11-28T20:00:00"}, "old-time", "warning", "written_at"),
    "a UTC time": ({"time_end": "2025-11-26T20:59:00Z"}, "old-time", "warning", "time_end"),
    "a null time": ({"time_end": None}, "old-null", "warning", "time_end"),
    "another spelling": ({"symbol": " aapl"}, "old-symbol", "warning", "symbol"),
    "several days": ({"time_start": "2025-11-25T09:30:00-05:00"}, "old-multi-day", "warning", "time_end"),
    "no rows": ({"rows": 0}, "no-rows", "warning", "rows"),
}


@pytest.mark.parametrize(("change", "rule", "severity", "field"), LINES.values(), ids=LINES)
def test_each_odd_line_is_told_once_by_its_number(root, change, rule, severity, field):
    line = lines_of(root)[1]
    write_documents(root, [line, {**line, **change}, line], None)
    assert found(root.bars_manifest) == [(MANIFEST, rule, severity, 2, field)]


def test_a_line_without_a_version_is_refused(root):
    line = lines_of(root)[0]
    del line["schema_version"]
    write_documents(root, [line], None)
    (finding,) = validate_path(root.bars_manifest).findings
    assert (finding.rule, finding.message) == ("schema-version", "schema_version is missing")


@pytest.mark.parametrize("path", ["C:\\data\\bars\\minute\\AAPL\\{}", "\\\\host\\share\\{}", "/data/else/{}"])
def test_absolute_paths_of_either_system_are_fine(root, path):
    line = lines_of(root)[1]
    write_documents(root, [{**line, "path": path.format(line["filename"])}], None)
    assert found(root.bars_manifest) == []


def test_an_old_line_of_the_system_before_has_warnings_only(tmp_path):
    line = (
        '{"schema_version":"bars_manifest.v1","written_at":"2025-09-15T16:05:01","vendor":"IBKR","file_format":"parquet",'
        '"symbol":"BRK.B","bar_size":"1 min","path":"/data/ML/bars/minute/BRK.B/2025-09-15.parquet",'
        '"filename":"2025-09-15.parquet","rows":389,"columns":["time","open"],"time_start":"2025-09-14T09:30:00",'
        '"time_end":null}\n'
    )
    (tmp_path / MANIFEST).write_text(line)
    assert found(tmp_path / MANIFEST) == [
        (MANIFEST, rule, "warning", 1, field)
        for rule, field in (("old-null", "time_end"), ("old-time", "time_start"), ("old-symbol", "symbol"))
    ]


def test_a_file_that_a_line_names_must_be_there_with_its_rows_columns_and_times(root):
    lines = lines_of(root)
    root.bars_path("1 hour", "AAPL", BARS_DAY).unlink()
    bars = sample_bars(day=BARS_HALF_DAY, window_et="09:31-12:59")
    write_bars(root, bars, "1 min", "AAPL", BARS_HALF_DAY)
    lines[1]["columns"] = ["time", "open"]
    write_documents(root, lines, None)
    told = [place for place in found(root.path) if place[0] == MANIFEST]
    assert sorted(told) == sorted(
        [
            (MANIFEST, "columns", "error", 2, "columns"),
            (MANIFEST, "row-count", "error", 4, "rows"),
            (MANIFEST, "time-span", "error", 4, "time_start"),
            (MANIFEST, "time-span", "error", 4, "time_end"),
            (MANIFEST, "missing-file", "error", 6, "path"),
        ]
    )
    quick = [rule for name, rule, *_ in found(root.path, full=False) if name == MANIFEST]
    assert sorted(quick) == ["missing-file", "row-count"]


def test_the_newest_line_of_a_path_counts(root):
    lines = lines_of(root)
    write_documents(root, [lines[1], lines[0], *lines[2:]], None)
    assert (MANIFEST, "row-count", "error", 2, "rows") in found(root.path, full=False)


def test_a_file_outside_the_root_is_a_warning_as_long_as_it_is_there(root, tmp_path):
    lines = lines_of(root)
    away = tmp_path / "away.parquet"
    shutil.move(root.bars_path("1 min", "AAPL", BARS_DAY), away)
    for line in lines[:2]:
        line.update(path=str(away), filename=away.name)
    write_documents(root, lines, sample_coverage([]).to_document())
    told = [place for place in found(root.path) if place[0] == MANIFEST]
    assert told == [(MANIFEST, "outside-root", "warning", 2, "path")]
    away.unlink()
    told = [place for place in found(root.path) if place[0] == MANIFEST]
    assert told == [(MANIFEST, "missing-file", "error", 2, "path")]


def test_bars_that_no_line_names_are_a_warning(root):
    write_documents(root, lines_of(root)[2:], None)
    told = [(name, rule, severity) for name, rule, severity, *_ in found(root.path) if name != COVERAGE]
    assert told == [(f"{BARS_DAY}.parquet", "unlisted", "warning")]
    root.bars_manifest.unlink()
    messages = [finding.message for finding in validate_path(root.path).findings if finding.rule == "unlisted"]
    assert messages == ["this data root has no bars manifest"] * 4
    assert found(root.path / "bars") == []


def edit(**parts):
    return lambda document: document.update(parts)


def swap_days(document):
    document["entries"][0]["days"].reverse()


def first_day(**parts):
    return lambda document: document["entries"][0]["days"][0].update(parts)


COVERAGES = {
    "another version": (edit(schema_version="bars_coverage.v2"), "schema-version", "error"),
    "a naive moment": (edit(generated_at="2025-11-28T20:00:00"), "old-time", "warning"),
    "entries that are none": (edit(entries={}), "schema", "error"),
    "entries unsorted": (lambda document: document["entries"].reverse(), "entry-order", "error"),
    "an entry twice": (lambda document: document["entries"].append(document["entries"][-1]), "entry-order", "error"),
    "days unsorted": (swap_days, "day-order", "error"),
    "a key too many in total": (lambda document: document["entries"][0]["total"].update(rows=1), "schema", "error"),
    "a total that starts early": (
        lambda document: document["entries"][0]["total"].update(date_start="2025-01-02"),
        "total",
        "error",
    ),
    "an entry without days": (lambda document: document["entries"][0].update(days=[]), "no-days", "error"),
    "another spelling": (lambda document: document["entries"][0].update(symbol="aapl"), "old-symbol", "warning"),
    "a null time": (first_day(time_start=None), "old-null", "warning"),
    "a naive time": (first_day(time_start="2025-11-26T09:30:00"), "old-time", "warning"),
    "times the wrong way": (first_day(time_start="2025-11-26T15:59:01-05:00"), "time-order", "error"),
    "the times of another day": (
        first_day(time_start="2025-11-25T09:30:00-05:00", time_end="2025-11-25T15:00:00-05:00"),
        "day",
        "error",
    ),
    "another file name": (first_day(filename="x.parquet"), "filename", "error"),
    "a relative path": (first_day(path=f"bars/hour/AAPL/{BARS_DAY}.parquet"), "path", "error"),
    "the path of another size": (first_day(path=f"/bars/minute/AAPL/{BARS_DAY}.parquet"), "path", "error"),
    "rows as text": (first_day(rows="7"), "schema", "error"),
    "no rows": (first_day(rows=0), "no-rows", "warning"),
}


@pytest.mark.parametrize(("damage", "rule", "severity"), COVERAGES.values(), ids=COVERAGES)
@pytest.mark.parametrize("is_large", [False, True])
def test_each_fault_of_a_coverage_is_told_whether_the_file_is_small_or_large(root, damage, rule, severity, is_large):
    document = coverage_of(root)
    damage(document)
    if is_large:
        document["note"] = "x" * (1 << 20)
        rule = "model" if rule == "schema" else rule
    write_documents(root, None, document)
    assert [(rule, severity) for _, rule, severity, *_ in found(root.bars_coverage)] == [(rule, severity)]


def test_a_coverage_without_a_version_is_refused(root):
    document = coverage_of(root)
    del document["schema_version"]
    write_documents(root, None, document)
    assert [rule for _, rule, *_ in found(root.bars_coverage)] == ["schema-version"]


def test_the_coverage_of_the_system_before_has_warnings_but_for_its_total(tmp_path):
    day = {
        "date": "2025-09-15",
        "time_start": "2025-09-15T09:30:00",
        "time_end": None,
        "path": "/data/ML/bars/minute/AAPL/2025-09-15.parquet",
        "filename": "2025-09-15.parquet",
        "rows": 389,
    }
    total = {"date_start": "2025-09-10", "date_end": "2025-09-15"}
    entry = {"symbol": "AAPL", "bar_size": "1 min", "total": total, "days": [day]}
    document = {"schema_version": "bars_coverage.v1", "generated_at": "2025-09-16T02:10:00", "entries": [entry]}
    (tmp_path / COVERAGE).write_text(json.dumps(document))
    report = validate_path(tmp_path / COVERAGE)
    assert {finding.rule for finding in report.warnings} == {"old-time", "old-null"}
    assert [finding.rule for finding in report.errors] == ["total"]


def test_listed_files_must_be_there_with_their_rows(root):
    document = coverage_of(root)
    document["entries"][0]["days"][0]["rows"] = 5
    document["entries"][1]["days"][1].update(
        path=f"/d/bars/minute/AAPL/{BARS_DAY}x.parquet", filename=f"{BARS_DAY}x.parquet"
    )
    write_documents(root, None, document)
    told = [(rule, field) for name, rule, _, _, field in found(root.path, full=False) if name == COVERAGE]
    assert told[:2] == [("row-count", "entries.0.days.0.rows"), ("missing-file", "entries.1.days.1.path")]


def derivation(root, **options):
    report = validate_path(root.path, **options)
    return [(finding.severity, finding.field) for finding in report.findings if finding.rule == "derivation"]


@pytest.mark.parametrize("full", [True, False])
def test_the_coverage_must_be_what_the_manifest_gives_day_by_day(root, full):
    assert build_coverage(root).written
    assert found(root.path, full=full) == []
    sound = coverage_of(root)
    assert [entry["bar_size"] for entry in sound["entries"]] == ["1 hour", "1 min"]

    one_day_less = json.loads(json.dumps(sound))
    del one_day_less["entries"][0]["days"][1]
    write_documents(root, None, one_day_less)
    assert derivation(root, full=full) == [("error", None)]

    one_entry_less = {**sound, "entries": sound["entries"][1:]}
    write_documents(root, None, one_entry_less)
    assert derivation(root, full=full) == [("error", None)] * 2

    other_rows = json.loads(json.dumps(sound))
    other_rows["entries"][1]["days"][0]["rows"] = 2
    write_documents(root, None, other_rows)
    assert derivation(root, full=full) == [("error", "entries.1.days.0.rows")]

    write_documents(root, lines_of(root)[2:], sound)
    assert derivation(root, full=full) == [("error", "entries.1.days.0")]


def test_another_layout_or_moment_of_the_same_coverage_is_fine(root):
    build_coverage(root)
    document = coverage_of(root)
    document["generated_at"] = "2030-01-02T03:04:05Z"
    root.bars_coverage.write_text(json.dumps(document, indent=2))
    assert found(root.path) == []


def test_lines_that_do_not_count_are_left_out_of_the_derivation_too(root):
    build_coverage(root)
    with root.bars_manifest.open("a") as file:
        file.write('{"schema_version":"bars_manifest.v2"}\n[]\n{"torn')
    assert {rule for _, rule, *_ in found(root.path)} == {"schema-version", "model", "torn-line", "json"}


def test_a_validation_writes_nothing(root):
    build_coverage(root)
    before = {path: path.stat().st_mtime_ns for path in root.path.rglob("*")}
    validate_path(root.path)
    assert {path: path.stat().st_mtime_ns for path in root.path.rglob("*")} == before

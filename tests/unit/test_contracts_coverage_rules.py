"""What the bars ledger means, by example: which lines count, for which day, and which file of a day is the best."""

import json
from datetime import UTC, datetime

import pytest

from contracts import InvalidDocument, UnknownSchemaVersion
from contracts.coverage import coverage_from_lines
from contracts.v1.bars import parse_bars_coverage

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


def days_of(lines):
    coverage, report = coverage_from_lines(lines, generated_at=STAMP)
    return {
        (entry.symbol, str(day.date)): (day.path, day.rows) for entry in coverage.entries for day in entry.days
    }, report


def test_a_later_line_for_the_same_path_replaces_the_earlier_even_when_it_has_fewer_rows():
    found, report = days_of([line(rows=389), line(rows=5)])
    assert found == {("AAPL", "2025-09-15"): ("/data/bars/minute/AAPL/2025-09-15.parquet", 5)}
    assert (report.taken, report.replaced, report.not_best, report.days) == (2, 1, 0, 1)


def test_of_equal_times_the_newest_written_stays_even_when_it_has_fewer_rows():
    older = line(path="/a", rows=389, written_at="2025-09-15T20:00:00+00:00")
    newer = line(path="/b", rows=5, written_at="2025-09-15T16:30:00")
    assert days_of([newer, older])[0] == {("AAPL", "2025-09-15"): ("/b", 5)}


def test_times_are_compared_as_instants():
    utc = line(path="/b", time_start="2025-09-15T13:30:00Z", time_end="2025-09-15T15:59:00", rows=1)
    assert days_of([line(path="/a"), utc])[0] == {("AAPL", "2025-09-15"): ("/b", 1)}


def test_the_best_of_a_day_has_most_rows_then_the_longest_span_then_the_newest_line_then_the_smallest_path():
    def candidate(path, rows, end, written):
        return line(path=path, rows=rows, time_end=f"2025-09-15T{end}:00-04:00", written_at=f"2025-09-15T{written}:00Z")

    lines = [candidate("/b", 5, "15:00", "21:00")]
    for better in (
        candidate("/c", 6, "14:00", "20:00"),
        candidate("/d", 6, "15:30", "20:00"),
        line(path="/z", rows=6, time_start="2025-09-15T10:30:00-04:00", time_end="2025-09-15T16:30:00-04:00"),
        line(
            path="/y",
            rows=6,
            time_start="2025-09-15T10:00:00-04:00",
            time_end="2025-09-15T16:00:00-04:00",
            written_at="2025-09-15T20:05:01Z",
        ),
    ):
        lines.append(better)
        assert days_of(lines)[0] == {("AAPL", "2025-09-15"): (json.loads(better)["path"], 6)}
        assert days_of(lines[::-1])[0] == {("AAPL", "2025-09-15"): (json.loads(better)["path"], 6)}


def test_without_times_the_span_is_zero_and_equal_lines_do_not_replace_each_other():
    none = {"time_start": ..., "time_end": ..., "rows": 7}
    lines = [
        line(path="/b", **none),
        line(path="/a", **none),
        line(path="/c", written_at="2025-01-01T00:00:00Z", **none),
    ]
    found, report = days_of(lines)
    assert found == {("AAPL", "2025-09-15"): ("/a", 7)}
    assert (report.replaced, report.not_best) == (0, 2)


@pytest.mark.parametrize(
    ("filename", "day"),
    [
        ("2025-09-16.parquet", "2025-09-16"),
        ("2025-09-18.parquet", "2025-09-15"),
        ("x.parquet", "2025-09-15"),
        ("AAPL_2025-09-17_final.parquet", "2025-09-17"),
    ],
)
def test_a_line_of_several_days_counts_for_the_day_in_the_file_name_if_it_lies_in_the_span(filename, day):
    found, _ = days_of([line(filename=filename, time_end="2025-09-17T15:59:00-04:00")])
    assert list(found) == [("AAPL", day)]


def test_a_single_time_stands_for_both():
    assert list(days_of([line(time_start=..., filename="2025-09-01.parquet")])[0]) == [("AAPL", "2025-09-15")]
    assert list(days_of([line(time_end=None, filename="2025-09-01.parquet")])[0]) == [("AAPL", "2025-09-15")]


def test_the_day_is_that_of_new_york_whatever_the_offset():
    found, _ = days_of([line(time_start="2025-09-16T01:00:00Z", time_end="2025-09-16T03:59:00Z", filename="x")])
    assert list(found) == [("AAPL", "2025-09-15")]


REASONS = {
    "not-json": "{",
    "not-json/utf8": b'{"a":"\xff"}',
    "not-json/bom": "\ufeff" + line(),
    "not-json/nan": line(extra=float("nan")),
    "not-json/duplicate-key": line()[:-1] + ',"rows":1}',
    "not-an-object": "[1]",
    "version": line(schema_version="bars_manifest.v2"),
    "model": line(rows="5"),
    "symbol": line(symbol="../x"),
    "no-day": line(time_start=None, time_end=None, filename="x"),
    "too-long": line(extra="x" * (1 << 20)),
    "blank": " ",
}


@pytest.mark.parametrize(("reason", "text"), REASONS.items(), ids=REASONS)
def test_a_line_that_does_not_count_is_counted_and_shown(reason, text):
    first = line()
    found, report = days_of([first, text])
    assert len(found) == 1
    assert dict(report.skipped) == {reason: 1}
    (example,) = report.examples
    assert (example.line, example.offset, example.reason) == (2, len(first) + 1, reason)
    assert example.detail
    assert example.text.isprintable()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema_version": ...}, "version"),
        ({"vendor": "X"}, "model"),
        ({"bar_size": "1 day"}, "model"),
        ({"rows": True}, "model"),
        ({"rows": 1.5}, "model"),
        ({"rows": -1}, "model"),
        ({"rows": 2**63}, "model"),
        ({"columns": []}, "model"),
        ({"path": ""}, "model"),
        ({"filename": ...}, "model"),
        ({"symbol": 5}, "model"),
        ({"time_start": "yesterday"}, "model"),
        ({"time_start": "2025-09-15T16:00:00-04:00"}, "model"),
        ({"written_at": None}, "model"),
    ],
)
def test_lines_that_break_the_model_say_so(changes, reason):
    _, report = days_of([line(**changes)])
    assert dict(report.skipped) == {reason: 1}


@pytest.mark.parametrize("rows", [5, 5.0])
def test_json_has_one_number_type(rows):
    assert days_of([line(rows=rows)])[0] == {("AAPL", "2025-09-15"): ("/data/bars/minute/AAPL/2025-09-15.parquet", 5)}


def test_a_mark_at_the_begin_of_the_file_and_crlf_are_survived_and_counted():
    found, report = days_of(["\ufeff" + line() + "\r\n", line(symbol="MSFT", path="/b") + "\r\n"])
    assert [symbol for symbol, _ in found] == ["AAPL", "MSFT"]
    assert (report.bom, report.crlf, dict(report.skipped)) == (True, 2, {})


def test_at_most_twenty_examples_are_shown_and_all_are_counted():
    _, report = days_of(["{"] * 25 + [line()])
    assert dict(report.skipped) == {"not-json": 25}
    assert [example.line for example in report.examples] == list(range(1, 21))
    assert json.loads(json.dumps(report.to_document()))["skipped"] == {"not-json": 25}


def test_a_time_of_generation_needs_a_zone():
    with pytest.raises(ValueError, match="no zone"):
        coverage_from_lines([], generated_at=datetime(2025, 9, 16))  # noqa: DTZ001 - that is what is refused


def test_the_result_reads_back_exactly():
    coverage, _ = coverage_from_lines([line(), line(path="/b", symbol="BRK.B", rows=1)], generated_at=STAMP)
    assert parse_bars_coverage(coverage.to_json()) == coverage
    with pytest.raises(UnknownSchemaVersion):
        parse_bars_coverage(coverage.to_json().replace("bars_coverage.v1", "bars_coverage.v2"))
    with pytest.raises(InvalidDocument):
        parse_bars_coverage(coverage.to_json()[:-1])

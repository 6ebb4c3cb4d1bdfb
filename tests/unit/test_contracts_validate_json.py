"""The validator on the manifest and the summary: torn, foreign and odd lines are findings, never a crash."""

import json
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import BackfillManifestLine, validate_path
from contracts.testing import sample_summary

GOOD = '{"symbol":"AAPL","date":"2025-09-04","status":"WRITE"}'


@pytest.fixture
def manifest(tmp_path):
    return tmp_path / "backfill_l2_manifest.jsonl"


@pytest.fixture
def summary(tmp_path):
    return tmp_path / "backfill_l2_summary.json"


def found(path):
    return [(finding.rule, finding.severity, finding.line) for finding in validate_path(path).findings]


@pytest.mark.parametrize(
    ("line", "rule", "severity"),
    [
        (b"\xef\xbb\xbf" + GOOD.encode(), "bom", "error"),
        (GOOD.encode() + b"\r", "crlf", "warning"),
        (b"", "blank-line", "warning"),
        (b'{"symbol":"\xff"}', "utf8", "error"),
        (b"[1]", "model", "error"),
        (b"5", "model", "error"),
        (b"null", "model", "error"),
        (b'{"symbol":"AAPL","da', "json", "error"),
        (GOOD[:-1].encode() + b',"symbol":"MSFT"}', "duplicate-key", "error"),
        (GOOD[:-1].encode() + b',"rows":NaN}', "nan", "error"),
        (GOOD[:-1].encode() + b',"cost_usd":-Infinity}', "nan", "error"),
        (GOOD[:-1].encode() + b',"rows":' + b"9" * 5000 + b"}", "json", "error"),
        (GOOD[:-1].encode() + b',"rows":"5"}', "model", "error"),
        (GOOD[:-1].encode() + b',"schema_version":"backfill_l2_manifest.v2"}', "schema-version", "error"),
        (GOOD[:-1].encode() + b',"schema_version":7}', "schema-version", "error"),
        (GOOD.replace("WRITE", "WRITTEN").encode(), "old-word", "warning"),
        (GOOD[:-1].encode() + b',"error":"' + b"x" * (1 << 21) + b'"}', "line-too-long", "error"),
        (b"[" * 100_000, "json", "error"),
    ],
)
def test_each_odd_line_is_a_finding_with_its_number_and_the_others_are_read(manifest, line, rule, severity):
    manifest.write_bytes(GOOD.encode() + b"\n" + line + b"\n" + GOOD.encode() + b"\n")
    assert found(manifest) == [(rule, severity, 2)]
    assert validate_path(manifest).rows == 3


@pytest.mark.parametrize("tail", [GOOD.encode(), b'{"symbol":"AAPL","da'])
def test_a_last_line_without_end_is_torn_whether_or_not_it_reads(manifest, tail):
    manifest.write_bytes(GOOD.encode() + b"\n" + tail)
    assert ("torn-line", "error", 2) in found(manifest)


def test_an_empty_manifest_is_sound(manifest):
    manifest.write_bytes(b"")
    assert found(manifest) == []


def test_one_task_twice_in_one_run_is_a_finding_and_again_in_the_next_run_is_not(manifest):
    def line(run_id):
        return BackfillManifestLine(symbol="AAPL", date=date(2025, 9, 4), status="SKIP", run_id=run_id).to_json_line()

    manifest.write_text(line("one") + line("two") + line("two"))
    assert found(manifest) == [("duplicate-task", "error", 3)]


def test_a_finding_names_the_field_and_says_what_to_do(manifest):
    manifest.write_text(GOOD[:-1] + ',"quality":{"rows":1}}\n')
    (finding,) = validate_path(manifest).findings
    assert finding.field == "quality.events"
    assert finding.hint
    assert str(manifest) in str(finding)
    assert "line 1" in str(finding)


def test_thousands_of_findings_of_one_kind_are_counted_not_listed(manifest):
    manifest.write_text("[]\n" * 5000)
    report = validate_path(manifest)
    assert len(report.findings) == 21
    assert report.findings[-1].message.startswith("4980 more")


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_crash_the_validator(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("backfill_l2_manifest.jsonl", "backfill_l2_summary.json"):
        (folder / name).write_bytes(b"\n".join(lines))
    validate_path(folder)


def test_a_sound_summary_has_no_findings(summary):
    summary.write_text(sample_summary().to_json())
    assert found(summary) == []


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "json"),
        (b"{", "json"),
        (b"\xff", "utf8"),
        (b"\xef\xbb\xbf{}", "bom"),
        (b'{"counts":1,"counts":2}', "duplicate-key"),
        (b'{"duration_sec":NaN}', "nan"),
        (b"[]", "schema"),
        (b'{"schema_version":"backfill_l2_summary.v2"}', "schema-version"),
        (b'{"schema_version":null}', "schema-version"),
    ],
)
def test_what_is_no_summary_is_a_finding(summary, content, rule):
    summary.write_bytes(content)
    assert [rule for rule, *_ in found(summary)] == [rule]


def test_every_fault_of_a_summary_is_listed_by_field(summary):
    document = {**sample_summary().to_document(), "concurrency": 0, "errors": [5]}
    del document["strict"]
    summary.write_text(json.dumps(document))
    fields = {(finding.rule, finding.field) for finding in validate_path(summary).findings}
    assert fields == {("schema", "concurrency"), ("schema", "errors.0"), ("schema", None)}


def test_a_total_that_is_not_the_sum_is_found_although_the_schema_cannot_say_so(summary):
    summary.write_text(json.dumps({**sample_summary().to_document(), "total_tasks": 7}))
    (finding,) = validate_path(summary).findings
    assert finding.rule == "model"
    assert "add up to 2" in finding.message

"""The validator on a whole data root: what the backfill manifest says about files must be so."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from contracts import BackfillManifestLine, DataRoot, validate_path
from contracts.testing import SAMPLE_DAY, sample_metadata, sample_snapshots, write_sample_root

NAME = "2025-09-04_snapshots_databento.parquet"


@pytest.fixture
def root(tmp_path):
    return write_sample_root(tmp_path / "root", live=False, bars=False)


def append(root, status, **parts):
    line = BackfillManifestLine(symbol="AAPL", date=SAMPLE_DAY, status=status, **parts)
    with root.backfill_manifest.open("a") as file:
        file.write(line.to_json_line())


def found(path, **options):
    report = validate_path(path, **options)
    return [(finding.path.name, finding.rule, finding.severity, finding.line) for finding in report.findings]


@pytest.mark.parametrize("full", [True, False])
def test_a_file_that_a_line_names_and_that_is_not_there_is_an_error(root, full):
    root.snapshots_path("AAPL", SAMPLE_DAY).unlink()
    (finding,) = validate_path(root.path, full=full).findings
    assert (finding.path, finding.rule, finding.severity) == (root.backfill_manifest, "missing-file", "error")
    assert (finding.line, finding.field) == (1, "path")
    assert "WRITE for AAPL 2025-09-04" in finding.message
    assert NAME in finding.message


@pytest.mark.parametrize("full", [True, False])
def test_another_number_of_rows_than_the_line_says_is_an_error(root, full):
    table = sample_snapshots(sample_metadata()).slice(0, 500)
    pq.write_table(table, root.snapshots_path("AAPL", SAMPLE_DAY))
    (finding,) = validate_path(root.path, full=full).findings
    assert (finding.rule, finding.severity, finding.line, finding.field) == ("row-count", "error", 1, "rows")
    assert "600 rows" in finding.message
    assert "500" in finding.message


@pytest.mark.parametrize("status", ["WRITE", "SKIP"])
def test_the_last_line_of_a_symbol_and_day_counts(root, status):
    path = root.snapshots_path("AAPL", SAMPLE_DAY)
    append(root, status, path=str(path), rows=500)
    assert found(root.path) == [("backfill_l2_manifest.jsonl", "row-count", "error", 3)]
    pq.write_table(sample_snapshots(sample_metadata()).slice(0, 500), path)
    assert found(root.path) == []


def test_an_error_changed_no_file_and_an_empty_promises_none(root):
    path = root.snapshots_path("AAPL", SAMPLE_DAY)
    append(root, "ERROR", error="the stream was cut")
    assert found(root.path) == []
    path.unlink()
    assert found(root.path) == [("backfill_l2_manifest.jsonl", "missing-file", "error", 1)]
    append(root, "EMPTY")
    assert found(root.path) == []


def test_a_file_of_a_day_whose_last_line_is_empty_is_warned_about(root):
    append(root, "EMPTY", reason="no rows")
    assert found(root.path) == [("backfill_l2_manifest.jsonl", "file-of-empty", "warning", 3)]


def test_a_root_that_was_moved_or_has_another_level2_folder_is_sound(root, tmp_path):
    moved = root.path.rename(tmp_path / "elsewhere")
    (moved / "level2").rename(moved / "Order books")
    assert found(moved) == []
    assert found(tmp_path) == []


def test_a_level2_folder_reached_by_a_link_is_sound(root, tmp_path):
    (root.path / "level2").rename(tmp_path / "disk2")
    (root.path / "level2").symlink_to(tmp_path / "disk2")
    assert found(root.path) == []
    (root.path / "Level2").symlink_to(tmp_path / "disk2")
    assert found(root.path) == []


def test_a_path_of_the_other_system_is_taken_by_its_name(root):
    text = root.backfill_manifest.read_text()
    path = json.dumps("D:\\data\\level2\\AAPL\\" + NAME)
    old = json.dumps(str(root.snapshots_path("AAPL", SAMPLE_DAY).absolute()))
    root.backfill_manifest.write_text(text.replace(old, path))
    assert found(root.path) == []


def test_the_file_of_another_symbol_or_root_does_not_stand_in(root, tmp_path):
    write_sample_root(tmp_path / "other", live=False, bars=False)
    path = root.snapshots_path("AAPL", SAMPLE_DAY)
    other = root.snapshots_path("MSFT", SAMPLE_DAY)
    other.parent.mkdir()
    path.rename(other)
    pq.write_table(sample_snapshots(sample_metadata("MSFT")), other)
    assert found(tmp_path) == [("backfill_l2_manifest.jsonl", "missing-file", "error", 1)]


def test_an_old_line_without_a_path_means_the_usual_name(tmp_path):
    root = DataRoot(tmp_path)
    root.backfill_manifest.write_text('{"symbol":"AAPL","date":"2025-09-04","status":"WRITTEN"}\n')
    assert [rule for _, rule, severity, _ in found(tmp_path) if severity == "error"] == ["missing-file"]
    path = root.snapshots_path("AAPL", SAMPLE_DAY)
    path.parent.mkdir(parents=True)
    pq.write_table(sample_snapshots(sample_metadata()), path)
    assert validate_path(tmp_path).ok


def test_a_damaged_file_is_told_once_not_as_missing(root):
    root.snapshots_path("AAPL", SAMPLE_DAY).write_bytes(b"")
    assert found(root.path) == [(NAME, "empty-file", "error", None)]


def test_a_manifest_by_itself_is_not_held_against_files(root):
    root.snapshots_path("AAPL", SAMPLE_DAY).unlink()
    assert found(root.backfill_manifest) == []


@pytest.mark.parametrize("name", ["..", ".", "/", "\u0000", "x\ny", "\ud800", "C:", NAME.upper()])
def test_an_odd_path_is_a_missing_file_and_never_a_crash(tmp_path, name):
    line = {"symbol": "AAPL", "date": "2025-09-04", "status": "WRITE", "path": f"/data/{name}"}
    Path(tmp_path, "backfill_l2_manifest.jsonl").write_text(json.dumps(line) + "\n")
    assert found(tmp_path) == [("backfill_l2_manifest.jsonl", "missing-file", "error", 1)]

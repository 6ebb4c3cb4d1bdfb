"""The coverage file is brought up to date, mirrored, and what was passed over is told."""

from __future__ import annotations

import json
import logging

import pytest

from connectors.store.coverage import refresh, skipped_lines
from connectors.store.errors import StoreError
from contracts.coverage import load_coverage
from contracts.errors import NotAvailable
from contracts.layout import DataRoot
from contracts.testing import BARS_DAY, BARS_HALF_DAY, sample_bars, sample_bars_manifest_line
from contracts.validate import validate_path


def line_of(root: DataRoot, day=BARS_DAY, **changes) -> str:
    return sample_bars_manifest_line(root, sample_bars(day=day), day=day, **changes).to_json_line()


@pytest.fixture
def root(tmp_path):
    found = DataRoot(tmp_path / "data")
    found.path.mkdir()
    found.bars_manifest.write_text(line_of(found))
    return found


def test_the_file_is_written_and_both_are_mirrored(root, tmp_path):
    result = refresh(root, backup=tmp_path / "backup")

    assert (result.written, result.path, result.report.entries) == (True, root.bars_coverage, 1)
    assert validate_path(root.bars_coverage).ok
    for path in (root.bars_manifest, root.bars_coverage):
        assert (tmp_path / "backup" / path.name).read_bytes() == path.read_bytes()


def test_the_next_time_only_new_lines_are_read(root):
    refresh(root, backup=None)
    before = root.bars_coverage.read_bytes()
    again = refresh(root, backup=None)
    assert (again.written, again.report.mode, again.report.new_lines) == (False, "incremental", 0)
    assert root.bars_coverage.read_bytes() == before

    with root.bars_manifest.open("a") as file:
        file.write(line_of(root, BARS_HALF_DAY))
    more = refresh(root, backup=None)
    assert (more.written, more.report.mode, more.report.new_lines) == (True, "incremental", 1)
    assert len(load_coverage(root.bars_coverage).days("AAPL", "1 min")) == 2
    assert refresh(root, backup=None, full=True).report.mode == "full"


def test_the_own_ledger_in_another_spelling_is_the_own_ledger(root, tmp_path, monkeypatch):
    """Otherwise the fast way would be lost, and the mirror too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(root.path)
    refresh(root, backup=None)
    for folder in (tmp_path / "link", root.path / ".." / "data", root.path.relative_to(tmp_path)):
        result = refresh(
            root,
            backup=tmp_path / "backup",
            manifest=folder / root.bars_manifest.name,
            out=folder / root.bars_coverage.name,
        )
        assert (result.report.mode, result.path) == ("incremental", root.bars_coverage)
    assert sorted(path.name for path in (tmp_path / "backup").iterdir()) == [
        root.bars_coverage.name,
        root.bars_manifest.name,
    ]


def test_another_ledger_and_another_place_leave_the_root_alone(root, tmp_path):
    other = tmp_path / "old.jsonl"
    other.write_text(line_of(root, BARS_HALF_DAY, symbol="MSFT"))
    before = sorted(path.name for path in root.path.iterdir())

    result = refresh(root, backup=tmp_path / "backup", manifest=other, out=tmp_path / "coverage.json")

    assert load_coverage(result.path).keys == [("MSFT", "1 min")]
    assert sorted(path.name for path in root.path.iterdir()) == before
    assert not (tmp_path / "backup").exists()


def test_without_a_ledger_nothing_is_created(tmp_path):
    with pytest.raises(NotAvailable, match=r"bars_download_manifest\.jsonl"):
        refresh(DataRoot(tmp_path / "nowhere"), backup=tmp_path / "backup")
    assert list(tmp_path.iterdir()) == []


def test_a_backup_that_cannot_be_written_fails_nothing(root, tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        assert refresh(root, backup=tmp_path / "file").written
    assert "2 files were not mirrored" in caplog.text


def test_a_disk_that_refuses_says_where_and_what_to_do(root, tmp_path):
    with pytest.raises(StoreError, match=r"cannot derive .*nowhere.*run again"):
        refresh(root, backup=None, out=tmp_path / "nowhere" / "coverage.json")


@pytest.fixture
def spoilt(root):
    """A ledger of which three lines do not count."""
    old = json.loads(line_of(root)) | {"schema_version": "bars_manifest.v9"}
    with root.bars_manifest.open("a") as file:
        file.write("}{\n" + json.dumps(old) + "\n" + line_of(root, BARS_HALF_DAY) + '{"schema_version": "bars')
    return root


def test_lines_that_do_not_count_are_one_warning(spoilt, caplog):
    with caplog.at_level(logging.WARNING):
        refresh(spoilt, backup=None)
    (record,) = caplog.records
    assert "3 lines do not count" in record.getMessage()
    assert "1 not-json, 1 torn, 1 version" in record.getMessage()
    assert "line 2 at byte" in record.getMessage()


def test_or_are_told_to_who_wants_to_know(spoilt, caplog):
    told = []
    refresh(spoilt, backup=None, on_skipped=lambda report, ledger: told.extend(skipped_lines(report, ledger)))
    assert caplog.records == []
    assert told[0].startswith(f"3 lines do not count in {spoilt.bars_manifest}: ")
    first = len(line_of(spoilt).encode())
    assert told[1].startswith(f"line 2 at byte {first}: not-json: ")
    assert [line.split(": ")[1] for line in told[1:]] == ["not-json", "version", "torn"]

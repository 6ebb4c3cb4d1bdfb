"""The mirror copies manifests and never fails a run."""

import logging

import pytest

from connectors.store.mirror import mirror


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    (folder / "level2").mkdir(parents=True)
    (folder / "m.jsonl").write_bytes(b'{"n":1}\n{"n":2}\n')
    (folder / "level2" / "stats.json").write_bytes(b"{}")
    return folder


def test_files_are_copied_to_the_same_relative_path(root, tmp_path):
    backup = tmp_path / "new" / "backup"
    assert mirror([root / "m.jsonl", root / "level2" / "stats.json"], root, backup) == []
    assert (backup / "m.jsonl").read_bytes() == b'{"n":1}\n{"n":2}\n'
    assert (backup / "level2" / "stats.json").read_bytes() == b"{}"
    assert sorted(p.name for p in backup.rglob("*") if p.is_file()) == ["m.jsonl", "stats.json"]


@pytest.mark.parametrize(
    ("content", "copied"),
    [(b'{"n":1}\n{"n"', b'{"n":1}\n'), (b'{"n":1', b""), (b"", b""), (b"{}\n" + b"x" * 3_000_000, b"{}\n")],
)
def test_a_manifest_is_copied_up_to_its_last_whole_line(root, tmp_path, content, copied):
    (root / "m.jsonl").write_bytes(content)
    assert mirror([root / "m.jsonl"], root, tmp_path / "backup") == []
    assert (tmp_path / "backup" / "m.jsonl").read_bytes() == copied


def test_a_large_manifest_is_copied_whole(root, tmp_path):
    content = b'{"n":1}\n' * 300_000
    (root / "m.jsonl").write_bytes(content)
    mirror([root / "m.jsonl"], root, tmp_path / "backup")
    assert (tmp_path / "backup" / "m.jsonl").read_bytes() == content


def test_without_a_backup_folder_nothing_happens(root, tmp_path, caplog):
    assert mirror([root / "m.jsonl"], root, None) == []
    assert caplog.records == []
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_files_that_do_not_exist_are_left_out(root, tmp_path, caplog):
    assert mirror([root / "none.json"], root, tmp_path / "backup") == []
    assert caplog.records == []


def test_an_unwritable_backup_is_one_warning_and_the_run_goes_on(root, tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        problems = mirror([root / "m.jsonl", root / "level2" / "stats.json"], root, tmp_path / "file")
    assert [problem.path for problem in problems] == [root / "m.jsonl", root / "level2" / "stats.json"]
    assert len(caplog.records) == 1
    assert "2 files were not mirrored" in caplog.text


def test_a_backup_that_is_the_root_itself_destroys_nothing(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    for backup in (root, tmp_path / "link"):
        problems = mirror([root / "m.jsonl"], root, backup)
        assert "ML_BACKUP_PATH" in str(problems[0])
    assert (root / "m.jsonl").read_bytes() == b'{"n":1}\n{"n":2}\n'


def test_a_file_outside_the_root_is_a_problem_and_the_others_are_copied(root, tmp_path):
    (tmp_path / "outside").touch()
    problems = mirror([tmp_path / "outside", root / "m.jsonl"], root, tmp_path / "backup")
    assert [problem.path.name for problem in problems] == ["outside"]
    assert (tmp_path / "backup" / "m.jsonl").exists()

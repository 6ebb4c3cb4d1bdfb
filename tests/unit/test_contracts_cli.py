"""The command `marketdata-contracts`: what it prints and how it ends; one test runs it as a person runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import contracts
from contracts.cli import main
from contracts.schemas import MODELS, load_schema
from contracts.testing import write_sample_root

COMMAND = Path(sys.executable).with_name("marketdata-contracts")


SOUND = "4 files, 662 rows: 0 errors, 0 warnings\n"


@pytest.fixture
def run(capsys):
    """Runs the command in this process; exit code, output and errors."""

    def command(*arguments):
        try:
            code = main(arguments)
        except SystemExit as end:
            # argparse ends so: usage errors, --version.
            code = end.code
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, shown.out, shown.err)

    return command


@pytest.fixture
def sample(tmp_path):
    write_sample_root(tmp_path / "root")
    return tmp_path / "root"


def test_the_installed_command_writes_a_sample_root_that_is_sound_even_when_strict(tmp_path):
    def command(*arguments):
        return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)

    assert command("sample", "root").returncode == 0
    done = command("validate", "root", "--strict")
    assert (done.returncode, done.stdout, done.stderr) == (0, SOUND, "")
    refused = command("validate", "not/there")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Traceback" not in refused.stderr


def test_findings_are_shown_with_place_and_hint_and_exit_with_1(run, sample):
    with (sample / "backfill_l2_manifest.jsonl").open("a") as file:
        file.write('{"symbol":"AAPL"')
    done = run("validate", str(sample))
    assert done.returncode == 1
    assert "backfill_l2_manifest.jsonl, line 3" in done.stdout
    assert "[torn-line]" in done.stdout
    assert done.stdout.splitlines()[-1] == "4 files, 663 rows: 2 errors, 0 warnings"


def test_warnings_exit_with_0_and_when_strict_with_1(run, sample):
    with (sample / "backfill_l2_manifest.jsonl").open("a") as file:
        file.write('{"symbol":"AAPL","date":"2025-09-04","status":"WRITTEN"}\n')
    assert run("validate", str(sample)).returncode == 0
    assert run("validate", str(sample), "--strict").returncode == 1


def test_json_is_one_document_that_a_program_reads(run, sample):
    (sample / "backfill_l2_summary.json").write_text("{")
    done = run("validate", str(sample), "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert (document["files"], document["errors"], document["warnings"]) == (4, 1, 0)
    (finding,) = document["findings"]
    assert finding["rule"] == "json"
    assert finding["path"] == str(sample / "backfill_l2_summary.json")


def test_quick_does_not_look_at_rows(run, sample):
    (file,) = sample.rglob("*_snapshots_*.parquet")
    damaged = bytearray(file.read_bytes())
    damaged[100:1000] = bytes(900)
    file.write_bytes(damaged)
    assert run("validate", str(sample), "--quick").returncode == 0
    assert run("validate", str(sample)).returncode == 1


def test_several_paths_are_one_report(run, sample):
    files = [str(path) for path in sample.rglob("*") if path.is_file()]
    assert run("validate", *files).stdout == SOUND


@pytest.mark.parametrize(
    "arguments", [(), ("validate",), ("validate", "not/there"), ("check",), ("schemas", "l2_quality.v9"), ("sample",)]
)
def test_a_usage_error_exits_with_2_and_says_so_on_stderr(run, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


def test_a_sample_is_never_written_over_something(run, sample, tmp_path):
    before = sorted(sample.rglob("*"))
    assert run("sample", str(sample)).returncode == 2
    assert sorted(sample.rglob("*")) == before
    assert run("sample", str(tmp_path / "new")).returncode == 0
    assert run("validate", str(tmp_path / "new")).stdout == SOUND
    (tmp_path / "file").write_text("x")
    assert run("sample", str(tmp_path / "file")).returncode == 2


def test_schemas_are_listed_and_printed(run):
    assert [line.split()[0] for line in run("schemas").stdout.splitlines()] == sorted(MODELS)
    assert json.loads(run("schemas", "l2_quality.v1").stdout) == load_schema("l2_quality.v1")


def test_version_is_that_of_the_package(run):
    assert run("--version").stdout == f"marketdata-contracts {contracts.__version__}\n"

"""The command `marketdata-contracts`, run as a person runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import contracts
from contracts.schemas import MODELS, load_schema

COMMAND = Path(sys.executable).with_name("marketdata-contracts")


def run(*arguments, cwd=None):
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture
def sample(tmp_path):
    assert run("sample", "root", cwd=tmp_path).returncode == 0
    return tmp_path / "root"


def test_a_sample_root_is_sound_even_when_strict(sample):
    done = run("validate", str(sample), "--strict")
    assert (done.returncode, done.stdout) == (0, "3 files, 602 rows: 0 errors, 0 warnings\n")


def test_findings_are_shown_with_place_and_hint_and_exit_with_1(sample):
    with (sample / "backfill_l2_manifest.jsonl").open("a") as file:
        file.write('{"symbol":"AAPL"')
    done = run("validate", str(sample))
    assert done.returncode == 1
    assert "backfill_l2_manifest.jsonl, line 3" in done.stdout
    assert "[torn-line]" in done.stdout
    assert done.stdout.splitlines()[-1] == "3 files, 603 rows: 2 errors, 0 warnings"


def test_warnings_exit_with_0_and_when_strict_with_1(sample):
    with (sample / "backfill_l2_manifest.jsonl").open("a") as file:
        file.write('{"symbol":"AAPL","date":"2025-09-04","status":"WRITTEN"}\n')
    assert run("validate", str(sample)).returncode == 0
    assert run("validate", str(sample), "--strict").returncode == 1


def test_json_is_one_document_that_a_program_reads(sample):
    (sample / "backfill_l2_summary.json").write_text("{")
    done = run("validate", str(sample), "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert (document["files"], document["errors"], document["warnings"]) == (3, 1, 0)
    (finding,) = document["findings"]
    assert finding["rule"] == "json"
    assert finding["path"] == str(sample / "backfill_l2_summary.json")


def test_quick_does_not_look_at_rows(sample):
    (file,) = sample.rglob("*.parquet")
    damaged = bytearray(file.read_bytes())
    damaged[100:1000] = bytes(900)
    file.write_bytes(damaged)
    assert run("validate", str(sample), "--quick").returncode == 0
    assert run("validate", str(sample)).returncode == 1


def test_several_paths_are_one_report(sample):
    files = [str(path) for path in sample.rglob("*") if path.is_file()]
    assert run("validate", *files).stdout == "3 files, 602 rows: 0 errors, 0 warnings\n"


@pytest.mark.parametrize(
    "arguments", [(), ("validate",), ("validate", "not/there"), ("check",), ("schemas", "l2_quality.v9"), ("sample",)]
)
def test_a_usage_error_exits_with_2_and_says_so_on_stderr(arguments, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_a_sample_is_never_written_over_something(sample, tmp_path):
    before = sorted(sample.rglob("*"))
    assert run("sample", str(sample)).returncode == 2
    assert sorted(sample.rglob("*")) == before
    (tmp_path / "file").write_text("x")
    assert run("sample", str(tmp_path / "file")).returncode == 2


def test_schemas_are_listed_and_printed():
    assert [line.split()[0] for line in run("schemas").stdout.splitlines()] == sorted(MODELS)
    assert json.loads(run("schemas", "l2_quality.v1").stdout) == load_schema("l2_quality.v1")


def test_version_is_that_of_the_package():
    assert run("--version").stdout == f"marketdata-contracts {contracts.__version__}\n"

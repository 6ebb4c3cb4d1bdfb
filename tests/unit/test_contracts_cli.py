"""The command `marketdata-contracts`: what it prints and how it ends; some tests run it as a person runs it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import contracts
from contracts.cli import main
from contracts.schemas import MODELS, load_schema
from contracts.testing import write_sample_root

COMMAND = Path(sys.executable).with_name("marketdata-contracts")

SOUND = """\
kind                files        rows  errors  warnings
backfill_manifest       1           2       0         0
backfill_summary        1           0       0         0
events                  1          60       0         0
snapshots               1         600       0         0
4 files, 662 rows: 0 errors, 0 warnings
"""


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
    write_sample_root(tmp_path / "root", live=False, bars=False)
    return tmp_path / "root"


def last_line(done):
    return done.stdout.splitlines()[-1]


def test_the_installed_command_writes_a_sample_root_that_is_sound_even_when_strict(tmp_path):
    def command(*arguments):
        return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)

    assert command("sample", "root").returncode == 0
    done = command("validate", "root", "--strict")
    assert (done.returncode, done.stderr) == (0, "")
    assert last_line(done).endswith(" rows: 0 errors, 0 warnings")
    refused = command("validate", "not/there")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Traceback" not in refused.stderr


def test_a_table_of_the_kinds_and_a_line_of_totals_come_last(run, sample):
    assert run("validate", str(sample)).stdout == SOUND
    (sample / "l2_gaps.jsonl").write_text("{}\n")
    shown = run("validate", str(sample)).stdout.splitlines()
    assert shown[0].startswith("error: ")
    assert "gaps                    1           1       1         0" in shown
    assert shown[-1] == "5 files, 663 rows: 1 errors, 0 warnings"


def test_a_folder_without_files_of_the_contract_has_no_table(run, tmp_path):
    assert run("validate", str(tmp_path)).stdout == "0 files, 0 rows: 0 errors, 0 warnings\n"


def test_findings_are_shown_with_place_and_hint_and_exit_with_1(run, sample):
    with (sample / "backfill_l2_manifest.jsonl").open("a") as file:
        file.write('{"symbol":"AAPL"')
    done = run("validate", str(sample))
    assert done.returncode == 1
    assert "backfill_l2_manifest.jsonl, line 3" in done.stdout
    assert "[torn-line]" in done.stdout
    assert last_line(done) == "4 files, 663 rows: 2 errors, 0 warnings"


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
    assert (finding["rule"], finding["kind"]) == ("json", "backfill_summary")
    assert finding["path"] == str(sample / "backfill_l2_summary.json")
    assert document["kinds"]["backfill_summary"] == {"files": 1, "rows": 0, "errors": 1, "warnings": 0}
    assert sum(kind["rows"] for kind in document["kinds"].values()) == document["rows"]


def test_quick_does_not_look_at_rows(run, sample):
    (file,) = sample.rglob("*_snapshots_*.parquet")
    damaged = bytearray(file.read_bytes())
    damaged[100:1000] = bytes(900)
    file.write_bytes(damaged)
    assert run("validate", str(sample), "--quick").returncode == 0
    assert run("validate", str(sample)).returncode == 1


def test_several_paths_are_one_report(run, sample):
    files = [str(path) for path in sorted(sample.rglob("*")) if path.is_file()]
    assert run("validate", *files).stdout == SOUND


@pytest.mark.parametrize(
    "arguments", [(), ("validate",), ("validate", "not/there"), ("check",), ("schemas", "l2_quality.v9"), ("sample",)]
)
def test_a_usage_error_exits_with_2_and_says_so_on_stderr(run, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_path_that_cannot_be_is_a_usage_error(run, name):
    done = run("validate", name)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_reader_that_goes_away_ends_the_command_quietly(tmp_path):
    """As `| head -1` does; the report is longer than a pipe holds."""
    for number in range(600):
        (tmp_path / f"{'folder' * 20}-{number}").mkdir()
        (tmp_path / f"{'folder' * 20}-{number}" / "backfill_l2_manifest.jsonl").write_text("[]\n")
    with subprocess.Popen(
        [COMMAND, "validate", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().startswith("error: ")
        process.stdout.close()
        errors = process.stderr.read()
        assert (process.wait(60), errors) == (128 + signal.SIGPIPE, "")


def test_an_interrupt_ends_the_command_quietly_with_130(run, tmp_path):
    (tmp_path / "backfill_l2_manifest.jsonl").write_text('{"symbol":"AAPL"}\n' * 200_000)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        # The manifest takes seconds.
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        done = run("validate", str(tmp_path))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_sample_is_never_written_over_something(run, sample, tmp_path):
    before = sorted(sample.rglob("*"))
    assert run("sample", str(sample)).returncode == 2
    assert sorted(sample.rglob("*")) == before
    assert run("sample", str(tmp_path / "new")).returncode == 0
    assert last_line(run("validate", str(tmp_path / "new"))).endswith(": 0 errors, 0 warnings")
    (tmp_path / "file").write_text("x")
    assert run("sample", str(tmp_path / "file")).returncode == 2


def test_schemas_are_listed_and_printed(run):
    assert [line.split()[0] for line in run("schemas").stdout.splitlines()] == sorted(MODELS)
    assert json.loads(run("schemas", "l2_quality.v1").stdout) == load_schema("l2_quality.v1")


def test_version_is_that_of_the_package(run):
    assert run("--version").stdout == f"marketdata-contracts {contracts.__version__}\n"

"""What the commands say of themselves."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib.metadata import version

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import app
from flows.describe import all_commands

COMMANDS = dict(all_commands(typer.main.get_command(app)))


def run(*arguments: str):
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("path", COMMANDS)
def test_a_description_is_one_json_object_made_of_the_real_options(path):
    told = json.loads(run(*path.split(), "--describe"))

    assert list(told) == ["name", "description", "inputs", "outputs", "dependencies", "examples"]
    assert told["name"] == path
    assert told["description"]
    assert told["outputs"]
    assert told["examples"]
    hidden = {"--describe", "--help", "--version"}
    real = {
        max(parameter.opts, key=len) if parameter.opts[0].startswith("-") else parameter.name
        for parameter in COMMANDS[path].params
    }
    assert {item["name"] for item in told["inputs"]} == real - hidden
    assert all(item["description"] and item["type"] for item in told["inputs"])


def test_describe_all_is_every_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = json.loads(run("describe", "--all"))
    assert [item["name"] for item in told] == list(COMMANDS)
    assert told == [json.loads(run(*path.split(), "--describe")) for path in COMMANDS]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", COMMANDS)
def test_the_examples_name_options_that_exist(path):
    for example in json.loads(run(*path.split(), "--describe"))["examples"]:
        program, *words = shlex.split(example)
        assert program == "trading-data"
        assert " ".join(words).startswith(path)
        known = {
            option for parameter in COMMANDS[path].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        assert {word for word in words if word.startswith("--")} <= known


def test_types_defaults_and_repetition_are_told():
    inputs = {item["name"]: item for item in json.loads(run("backfill", "--describe"))["inputs"]}
    assert (inputs["--symbol"]["type"], inputs["--symbol"]["repeatable"]) == ("text", True)
    assert (inputs["--date"]["type"], inputs["--date"]["required"]) == ("day", False)
    assert (inputs["--force"]["type"], inputs["--force"]["default"]) == ("flag", False)
    assert inputs["--tasks"]["type"] == "path"
    assert inputs["--max-cost-usd"]["type"] == "number"


def test_the_options_of_the_contract_are_there():
    inputs = {item["name"] for item in json.loads(run("backfill", "--describe"))["inputs"]}
    assert inputs >= {
        "--date", "--start", "--end", "--symbol", "--tasks", "--since", "--last", "--max-tasks", "--max-workers",
        "--interval-ms", "--with-events", "--max-cost-usd", "--force", "--strict", "--dry-run", "--sandbox",
    }  # fmt: skip


def test_a_description_imports_nothing_heavy(tmp_path):
    script = (
        "import sys, json\n"
        "sys.argv = ['trading-data', 'backfill', '--describe']\n"
        "from flows.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = {'pandas', 'pyarrow', 'numpy', 'prefect', 'databento', 'exchange_calendars', 'requests'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["name"] == "backfill"
    assert json.loads(done.stderr) == []
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_is_refused_with_those_there_are():
    done = CliRunner().invoke(app, ["describe", "nothing"])
    assert done.exit_code == 2
    assert "backfill" in done.stderr


def test_the_version():
    assert run("--version") == f"trading-data {version('trading-data')}\n"


def test_without_arguments_help_is_shown_and_nothing_done():
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 2
    assert "backfill" in done.output


@pytest.mark.parametrize("options", [[], ["--quick"], ["--strict"]], ids=str)
def test_validate_answers_like_the_contracts_own_command(tmp_path, options):
    (tmp_path / "backfill_l2_manifest.jsonl").write_text('{"symbol": "AAPL", "date": "2025-09-05", "status": "GOOD"}\n')

    done = CliRunner().invoke(app, ["validate", *options, "--json", str(tmp_path)])

    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert "GOOD" in json.dumps(told) or "status" in json.dumps(told)


def test_validate_accepts_a_root_without_faults(tmp_path):
    done = CliRunner().invoke(app, ["validate", str(tmp_path)])
    assert done.exit_code == 0

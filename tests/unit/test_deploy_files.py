"""What operators copy: the files in deploy/ and the commands in the documents name only what exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from flows.cli import app
from flows.describe import all_commands
from flows.server_settings import SETTINGS
from flows.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
COMMANDS = dict(all_commands(typer.main.get_command(app)))
KEYS = {name.upper() for name in Settings.model_fields}
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def check_command(words: list[str]) -> None:
    """A command line of ours, without the program: the command exists, and so do its options."""
    path = next((" ".join(words[:size]) for size in (2, 1) if " ".join(words[:size]) in COMMANDS), None)
    assert path is not None, f"no command {words}"
    known = {option for parameter in COMMANDS[path].params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, words


def is_known_key(key: str) -> bool:
    return key in KEYS or key.startswith(("PREFECT_", "POSTGRES_")) or key in {"DO_NOT_TRACK", "DATA_FOLDER"}


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_of_the_compose_file_runs_what_there_is(name):
    service = COMPOSE["services"][name]
    if service["image"] == "trading-data" and service.get("entrypoint", [""])[0] != "prefect":
        check_command(service["command"])
    assert all(is_known_key(key) for key in service.get("environment", {}))
    # Nothing is open to more than this machine.
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    named = [volume.split(":")[0] for volume in service.get("volumes", []) if not volume.startswith("$")]
    assert set(named) <= set(COMPOSE["volumes"])


def test_the_variables_of_the_compose_file_are_in_the_example():
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    wanted = set(re.findall(r"\$\{([A-Z_]+)", text))
    given = set(re.findall(r"^([A-Z_]+)=", (DEPLOY / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
    assert wanted == given


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("systemd/*.service")), ids=lambda path: path.stem)
def test_a_unit_starts_and_stops_with_commands_that_exist(path):
    text = path.read_text(encoding="utf-8")
    started = re.findall(r"^Exec(?:Start|Stop)=\S+/(\S+) (.*)$", text, re.MULTILINE)
    assert started
    for program, arguments in started:
        if program == "trading-data":
            check_command(shlex.split(arguments))
    # The run's children are ended by the process that started them.
    assert "KillMode=mixed" in text or "server" in path.stem


def test_the_capture_of_the_cluster_is_one_and_has_time_to_end():
    document = yaml.safe_load((DEPLOY / "kubernetes" / "capture.yaml").read_text(encoding="utf-8"))
    pod = document["spec"]["template"]["spec"]
    check_command(pod["containers"][0]["args"])
    assert document["spec"]["replicas"] == 1
    assert document["spec"]["strategy"] == {"type": "Recreate"}
    assert pod["terminationGracePeriodSeconds"] >= 120


@pytest.mark.parametrize("name", ["README.md", "docs/OPERATIONS.md"])
def test_the_commands_in_the_documents_exist(name):
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    found = [
        line.split("#")[0].strip(" &")
        for block in blocks
        for line in block.splitlines()
        if re.match(r"^(\.venv/bin/)?trading-data ", line)
    ]
    assert found
    for line in found:
        words = shlex.split(line.split(";")[0])[1:]
        if "..." not in words:
            check_command(words)


def test_every_server_setting_is_one_that_prefect_knows():
    from prefect.settings.legacy import _get_settings_fields  # noqa: PLC0415 - takes seconds
    from prefect.settings.models.root import Settings as PrefectSettings  # noqa: PLC0415

    known = {field.name for field in _get_settings_fields(PrefectSettings).values()}
    assert {setting.name for setting in SETTINGS if setting.name.startswith("PREFECT_")} <= known

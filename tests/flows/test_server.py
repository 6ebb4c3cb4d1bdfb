"""`trading-data server`: what it starts, what it refuses, and that it keeps a password to itself."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from support.prefect_server import until

from flows.cli_server import DATABASE_KEY, environment, serve_api, shell_lines
from flows.errors import ConfigurationError
from flows.server_settings import server_env

COMMAND = Path(sys.executable).with_name("trading-data")
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is refused


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started(*arguments: object, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen([COMMAND, "server", *map(str, arguments)], stdout=file, stderr=file)


# `make test-e2e` starts one, too.
@pytest.mark.slow
def test_a_server_has_our_settings_and_its_home_and_ends_cleanly(clean_environment, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_SERVER_LOGGING_LEVEL", "INFO")
    port, home, log = free_port(), tmp_path / "not" / "yet" / "there", tmp_path / "log"
    url = f"http://127.0.0.1:{port}/api"
    process = started("--port", port, "--home", home, log=log)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:  # noqa: S310 - our own server
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        until(answers, 120)
        with urllib.request.urlopen(f"{url}/admin/settings", timeout=10) as answer:  # noqa: S310 - likewise
            settings = json.load(answer)["server"]
        assert url in log.read_text()
        second = subprocess.run([COMMAND, "server", "--port", str(port)], capture_output=True, text=True, check=False)
    finally:
        process.terminate()
        code = process.wait(60)
    assert settings["concurrency"]["lease_storage"] == "prefect.server.concurrency.lease_storage.filesystem"
    assert settings["services"]["task_run_recorder"]["batch_size"] == 200
    assert settings["analytics_enabled"] is False
    assert (second.returncode, second.stdout) == (2, "")
    assert f"port {port}" in second.stderr
    assert "--port" in second.stderr
    # uvicorn shuts down in order, and then dies of the signal as a service should.
    assert code == -signal.SIGTERM
    assert "Application shutdown complete" in log.read_text()
    assert (home / "prefect.db").exists()


def test_the_lines_for_a_shell_set_what_the_server_would_get(clean_environment, capsys):
    assert serve_api("127.0.0.1", 4300, None, None, True) == 0
    lines = capsys.readouterr().out
    # As a shell reads them.
    out = subprocess.run(["/bin/sh", "-c", f"{lines}\nenv"], capture_output=True, text=True, check=True).stdout
    given = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    assert server_env().items() <= given.items()
    assert given["PREFECT_API_URL"] == "http://127.0.0.1:4300/api"


def test_a_password_is_neither_printed_nor_in_the_process_list(clean_environment, tmp_path, capsys):
    assert serve_api("127.0.0.1", 4300, "postgresql://me:s3cret%20x@db/prefect", None, True) == 0
    shown = capsys.readouterr()
    assert "s3cret" not in shown.out + shown.err
    assert f"# {DATABASE_KEY} holds a password" in shown.out

    log = tmp_path / "log"
    process = started("--port", free_port(), "--database", "postgresql://me:s3cret%20x@127.0.0.1:1/prefect", log=log)
    command = Path(f"/proc/{process.pid}/cmdline")
    try:
        until(lambda: b"prefect\0server\0start" in command.read_bytes())
        assert b"s3cret" not in command.read_bytes()
        environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    finally:
        process.terminate()
        process.wait(60)
    assert f"{DATABASE_KEY}=postgresql+asyncpg://me:s3cret%20x@127.0.0.1:1/prefect".encode() in environ
    assert "s3cret" not in log.read_text()
    assert DATABASE_KEY in log.read_text()


@pytest.mark.parametrize("url", ["postgres://h/x", "postgresql://h/x", "postgresql+asyncpg://h/x"])
def test_every_usual_spelling_of_a_database_gets_the_driver_that_prefect_has(url):
    assert environment("127.0.0.1", 4200, url, None)[DATABASE_KEY] == "postgresql+asyncpg://h/x"


@pytest.mark.parametrize(
    "url", ["mysql://me:s3cret@h/x", "me:s3cret@h/x", "postgresql://me:s3cret@h", "postgresql://me:s3cret@h:port/x", ""]
)
def test_another_database_is_refused_without_showing_what_may_be_a_password(url):
    with pytest.raises(ConfigurationError, match="postgresql://user@host/") as caught:
        environment("127.0.0.1", 4200, url, None)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.0.2.7", "desk.example.com"])
def test_an_address_that_others_reach_is_refused_unless_it_is_meant(host, capsys):
    assert serve_api(host, 4300, None, None, False) == 2
    error = capsys.readouterr().err
    assert host in error
    assert "--open-to-network" in error
    assert environment(host, 4300, None, None, open_to_network=True)["PREFECT_API_URL"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_an_address_of_this_machine_is_fine(host):
    shown = f"[{host}]" if host == "::1" else host
    assert environment(host, 4300, None, None)["PREFECT_API_URL"] == f"http://{shown}:4300/api"


def test_a_server_for_all_sends_browsers_back_to_where_they_came_from():
    env = environment(EVERYWHERE, 4300, None, None, open_to_network=True)
    assert (env["PREFECT_SERVER_UI_API_URL"], env["PREFECT_API_URL"]) == ("/api", "http://127.0.0.1:4300/api")


def test_a_home_that_cannot_be_made_is_said(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert serve_api("127.0.0.1", free_port(), None, tmp_path / "file" / "home", False) == 2
    assert "--home" in capsys.readouterr().err


def test_a_value_is_quoted_for_the_shell(tmp_path):
    env = environment("127.0.0.1", 4300, None, tmp_path / "a 'home'; true")
    line = next(line for line in shell_lines(env).splitlines() if line.startswith("export PREFECT_HOME="))
    assert shlex.split(line) == ["export", f"PREFECT_HOME={env['PREFECT_HOME']}"]
    assert os.path.isabs(env["PREFECT_HOME"])  # noqa: PTH117 - a string here


def test_what_the_environment_says_of_the_server_is_meant_but_telemetry_stays_off(
    clean_environment, monkeypatch, capsys
):
    monkeypatch.setenv("PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE", "prefect_redis.lease_storage")
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "true")
    assert serve_api("127.0.0.1", 4300, None, None, True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "export PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect_redis.lease_storage" in lines
    assert "export PREFECT_SERVER_ANALYTICS_ENABLED=false" in lines

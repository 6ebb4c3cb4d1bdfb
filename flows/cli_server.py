"""What `trading-data server` does after its options are read: check the place, then become Prefect's own server.

The process is replaced by `prefect server start`, so that signals, exit code and log are those of the server, and a
password that stood on our command line is on nobody's any more.
"""

from __future__ import annotations

import ipaddress
import os
import shlex
import socket
import sys
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit, urlunsplit

from flows.errors import ConfigurationError
from flows.server_settings import SETTINGS, server_env

OK, USAGE = 0, 2
DATABASE_KEY: Final = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
_DRIVER: Final = "postgresql+asyncpg"
_DRIVERS: Final = {"postgres": _DRIVER, "postgresql": _DRIVER, _DRIVER: _DRIVER}


def serve_api(
    host: str,
    port: int,
    database: str | None,
    home: Path | None,
    print_env: bool,
    *,
    open_to_network: bool = False,
) -> int:
    """Run a Prefect server with the settings of this project until a signal ends it.

    Args:
        host: address to listen on.
        port: port to listen on.
        database: URL of a PostgreSQL database; SQLite in the home when None.
        home: folder of Prefect's own files; PREFECT_HOME, else that of Prefect when None.
        print_env: print the settings as lines for a shell, and end.
        open_to_network: another address than loopback is meant; Prefect asks nobody for a password.

    Returns:
        The exit code; only when no server was started.
    """
    try:
        env = environment(host, port, database, home, open_to_network=open_to_network)
        kept = _of_the_operator(env)
        env |= kept
        if print_env:
            print(shell_lines(env))  # noqa: T201 - the lines of stdout
            return OK
        _check_port(host, port)
        _make_home(env)
    except ConfigurationError as error:
        print(f"trading-data server: {error}", file=sys.stderr)  # noqa: T201 - the one clear error
        return USAGE
    for warning in [*_warnings(host, database), *(f"{name} stays as the environment has it" for name in kept)]:
        print(f"trading-data server: {warning}", file=sys.stderr)  # noqa: T201 - likewise
    return _become_server(host, port, env)


def _of_the_operator(env: dict[str, str]) -> dict[str, str]:
    """What the environment says otherwise of the server alone, such as leases in Redis: it is meant."""
    return {
        setting.name: os.environ[setting.name]
        for setting in SETTINGS
        if setting.place == "server" and os.environ.get(setting.name, env[setting.name]) != env[setting.name]
    }


def _become_server(host: str, port: int, env: dict[str, str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    os.execve(sys.executable, command, {**os.environ, **env})  # noqa: S606 - no shell is the point


def environment(
    host: str, port: int, database: str | None, home: Path | None, *, open_to_network: bool = False
) -> dict[str, str]:
    """The environment of a server at an address; see `serve_api` for the arguments.

    Raises:
        ConfigurationError: the address is open to the network though nobody said so, or the database is no PostgreSQL.
    """
    if not open_to_network and not _is_loopback(host):
        raise ConfigurationError(
            f"{host} is no loopback address, and Prefect asks nobody for a password: whoever reaches the port can run "
            "and change everything. If a firewall or a proxy with a log-in guards it, say --open-to-network"
        )
    shown = f"[{host}]" if ":" in host else host
    env = {**server_env(), "PREFECT_API_URL": f"http://{shown}:{port}/api"}
    if _is_any(host):
        # A browser elsewhere finds the API where it found the page.
        env |= {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_SERVER_UI_API_URL": "/api"}
    if home is not None:
        env["PREFECT_HOME"] = str(home.expanduser().absolute())
    if database is not None:
        env[DATABASE_KEY] = _database(database)
    return env


def shell_lines(env: dict[str, str]) -> str:
    """An environment as lines for a shell, each with the reason for it; a password is left out, and that is said."""
    why = {setting.name: setting.why for setting in SETTINGS}
    lines = []
    for name, value in env.items():
        if name == DATABASE_KEY and urlsplit(value).password:
            lines.append(f"# {name} holds a password: set it yourself, from where your secrets are kept")
            continue
        if name in why:
            lines.append(f"# {why[name]}")
        lines.append(f"export {name}={shlex.quote(value)}")
    return "\n".join(lines)


def _database(url: str) -> str:
    """The URL as Prefect's database driver wants it; no error shows what may be a password."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises when it is no number
    except ValueError:
        raise ConfigurationError("--database cannot be read as a URL such as postgresql://user@host/prefect") from None
    driver = _DRIVERS.get(parts.scheme)
    if driver is None or not parts.path.strip("/"):
        raise ConfigurationError(
            f"--database wants postgresql://user@host/name, not a {parts.scheme or 'nameless'} one; "
            "without it SQLite in the home is used"
        )
    return urlunsplit(parts._replace(scheme=driver))


def _warnings(host: str, database: str | None) -> list[str]:
    found = []
    if not _is_loopback(host):
        found.append(f"WARNING: {host} is open to the network, and Prefect asks nobody for a password")
    if database is not None and urlsplit(database).password:
        found.append(f"WARNING: a shell keeps what it was given: set {DATABASE_KEY} instead of --database")
    return found


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise ConfigurationError(f"there is no address {host} on this machine") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {host} port {port} ({error.strerror}); end what is there, or choose another --port"
            ) from None


def _make_home(env: dict[str, str]) -> None:
    """Make the folder: Prefect makes it, but not the one above."""
    home = env.get("PREFECT_HOME") or os.environ.get("PREFECT_HOME")
    if home is None:
        return
    try:
        Path(home).expanduser().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"cannot make Prefect's home {home} ({error.strerror}); choose another --home"
        ) from None

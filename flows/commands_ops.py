"""The commands that run Prefect for this project: `server`, `deploy`, `stop`, `doctor`; their work is in `cli_*`."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from flows.cli_options import Describe, Version  # noqa: TC001 - typer reads the annotations
from flows.describe import NOTES, Notes

_NEEDS_API = "PREFECT_API_URL of a running server (`trading-data server` prints it)"

NOTES["server"] = Notes(
    outputs=(
        "a Prefect server on loopback until interrupted; its page and its API URL are on the first lines",
        "stdout with --print-env: shell lines, export KEY=value with the reason, for a server started by other means",
    ),
    dependencies=("a folder that PREFECT_HOME may be made in; PostgreSQL only with --database",),
    examples=(
        "trading-data server",
        "trading-data server --port 4300 --home prefect-home",
        "trading-data server --print-env",
    ),
)


def server(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 4200,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            help="postgresql+asyncpg://user@host/name; the password belongs into PGPASSWORD or into "
            "PREFECT_SERVER_DATABASE_CONNECTION_URL. Default: SQLite in the home.",
        ),
    ] = None,
    home: Annotated[Path | None, typer.Option("--home", help="Folder of Prefect's own files [PREFECT_HOME].")] = None,
    open_to_network: Annotated[
        bool,
        typer.Option(
            "--open-to-network", help="Another host than loopback is meant: Prefect asks nobody for a password."
        ),
    ] = False,
    print_env: Annotated[bool, typer.Option("--print-env", help="Print the settings and end.")] = False,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """Run a Prefect server that holds: leases in files, larger batches, nothing reported to anybody."""
    from flows.cli_server import serve_api  # noqa: PLC0415 - heavy

    raise typer.Exit(serve_api(host, port, database, home, print_env, open_to_network=open_to_network))


NOTES["deploy"] = Notes(
    outputs=(
        "in Prefect: work pools, concurrency limits, deployments with their schedules, automations",
        "stdout: one line per thing: created, changed (what), same; with --json one JSON object",
    ),
    dependencies=(_NEEDS_API,),
    examples=("trading-data deploy --dry-run", "trading-data deploy"),
)


def deploy(
    file: Annotated[
        Path | None, typer.Option("--file", help="Another prefect.yaml than the one that comes with this version.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change; change nothing.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """Bring Prefect to what this version wants: pools, limits, deployments, automations. Can be repeated."""
    from flows.cli_deploy import deploy as deploy_all  # noqa: PLC0415 - heavy

    raise typer.Exit(deploy_all(file, dry_run, json_output))


NOTES["stop"] = Notes(
    outputs=(
        "pools and the deployment of captures are paused: nothing new starts; what runs may end, or is cancelled",
        "stderr: what is still running; exit code 0 when nothing is, 1 when something still runs after --timeout",
    ),
    dependencies=(_NEEDS_API,),
    examples=(
        "trading-data stop",
        "trading-data stop --cancel --timeout 120 --pool trading-data",
        "trading-data stop --resume",
    ),
)


def stop(
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            min=0,
            help="Seconds to wait; default: as long as it takes. With --resume: for an API that is being started.",
        ),
    ] = None,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Cancel what runs; what is complete is published first.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Let the pools go on that this command paused.")] = False,
    pool: Annotated[
        list[str] | None, typer.Option("--pool", help="This pool only; can be repeated. Default: both pools.")
    ] = None,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """Pause the work pools and let what runs come to its end, so that workers and server can be stopped."""
    from flows.cli_stop import stop as stop_pools  # noqa: PLC0415 - heavy

    if resume and cancel:
        raise typer.BadParameter("--resume and --cancel exclude each other")
    raise typer.Exit(stop_pools(timeout, cancel, resume, pool or None))


NOTES["doctor"] = Notes(
    outputs=(
        "stdout: settings, disks, limits with their use, Prefect's state and what differs from this version",
        "exit code 1 when something is wrong; with --json one JSON object",
    ),
    dependencies=("none; what cannot be reached is said",),
    examples=("trading-data doctor", "trading-data doctor --vendors --json"),
)


def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    vendors: Annotated[
        bool, typer.Option("--vendors", help="Ask the vendors, too, as `check-vendors` does; buys nothing.")
    ] = False,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """Show whether everything is as it should be: limits, use, drift, disks, runs that died."""
    from flows.cli_doctor import doctor as examine  # noqa: PLC0415 - heavy

    raise typer.Exit(examine(json_output, vendors))

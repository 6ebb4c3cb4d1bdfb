"""The commands `trading-data sandbox ...`: vendors on loopback, for demos, tests and training."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from flows.cli_options import EXIT_USAGE, Describe, Version
from flows.describe import NOTES, Notes

sandbox_app = typer.Typer(
    help="Vendors on loopback that speak the real protocols; no account needed.", no_args_is_help=True
)

NOTES["sandbox databento"] = Notes(
    outputs=("stdout: one JSON line {gateway_url, ca_file, api_key, pid} when ready",),
    examples=(
        "trading-data sandbox databento --port 8443",
        "trading-data sandbox databento --fault cut-mid-stream:symbol=MSFT,times=1",
    ),
)


@sandbox_app.command("databento")
def sandbox_databento(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0: a free one.")] = 0,
    replay: Annotated[Path | None, typer.Option("--replay", help="Serve the DBN files of this folder.")] = None,
    fault: Annotated[list[str] | None, typer.Option("--fault", help="A fault to show; may be repeated.")] = None,
    records_per_hour: Annotated[
        float, typer.Option("--records-per-hour", min=1, help="Mean density of invented books.")
    ] = 3_600.0,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """Serve a Databento-compatible vendor on loopback until interrupted."""
    from connectors.sandbox.databento_server import run_forever  # noqa: PLC0415 - heavy

    try:
        code = run_forever(port=port, replay_dir=replay, faults=fault or (), records_per_hour=records_per_hour)
    except (ValueError, OSError) as error:
        typer.echo(f"trading-data sandbox databento: {error}", err=True)
        raise typer.Exit(EXIT_USAGE) from None
    raise typer.Exit(code)


NOTES["sandbox ib-gateway"] = Notes(
    outputs=("stdout: one JSON line {host, port, control_port, pid} when ready",),
    examples=(
        "trading-data sandbox ib-gateway --port 4002",
        "trading-data sandbox ib-gateway --rate 200 --fault reset-317:symbol=AAPL,after_s=5",
        "trading-data sandbox ib-gateway --now 2025-09-05T16:30:00-04:00 --fault bars-none:symbol=MSFT,times=1",
    ),
)


@sandbox_app.command("ib-gateway")
def sandbox_ib_gateway(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0: a free one.")] = 0,
    rate: Annotated[float, typer.Option("--rate", min=0, help="Depth messages per second and symbol.")] = 50.0,
    depth_lines: Annotated[int, typer.Option("--depth-lines", min=1, help="Depth lines of the account.")] = 3,
    now: Annotated[
        str | None, typer.Option("--now", help="Its clock at the start, for bars: 2025-09-05T16:30:00-04:00.")
    ] = None,
    pacing: Annotated[
        bool, typer.Option("--pacing/--no-pacing", help="Enforce the broker's pacing rules for bars.")
    ] = True,
    pacing_speed: Annotated[
        float, typer.Option("--pacing-speed", min=0.001, help="The windows of these rules are so many times shorter.")
    ] = 1.0,
    bars_delay: Annotated[
        float, typer.Option("--bars-delay", min=0, help="Seconds that an answer to a request for bars takes.")
    ] = 0.0,
    fault: Annotated[list[str] | None, typer.Option("--fault", help="A fault to show; may be repeated.")] = None,
    log: Annotated[Path | None, typer.Option("--log", help="One JSON line per client request and fault.")] = None,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """Serve an IB gateway with invented books and bars on loopback until interrupted."""
    from connectors.sandbox.ib_gateway_process import run_forever  # noqa: PLC0415 - heavy

    try:
        code = run_forever(
            port=port,
            rate_per_s=rate,
            depth_lines=depth_lines,
            now=now,
            pacing=pacing,
            pacing_speed=pacing_speed,
            bars_delay_s=bars_delay,
            faults=fault or (),
            log=log,
        )
    except (ValueError, OSError) as error:
        typer.echo(f"trading-data sandbox ib-gateway: {error}", err=True)
        raise typer.Exit(EXIT_USAGE) from None
    raise typer.Exit(code)

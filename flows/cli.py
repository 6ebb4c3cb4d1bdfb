"""The command `trading-data`. Commands import what they need when they run, so `--help` and `--describe` are quick.

Exit codes: 0 fine, 1 a strict run with an ERROR, a failed capture or a failure on the way, 2 usage or configuration
error before any work, 130 a backfill stopped early (a signal or a storage guard) with what was done recorded.
"""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - typer reads the annotations
import json
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from flows.cli_options import EXIT_STOPPED, Describe, Version, day_option
from flows.commands_bars import bars, coverage_app
from flows.commands_ops import deploy, doctor, server, stop
from flows.commands_sandbox import sandbox_app
from flows.describe import NOTES, Notes, all_commands, describe_command

app = typer.Typer(
    name="trading-data",
    help="Level-2 market data from the vendors to a data root that TF_1 reads.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def _root(_version: Version = False) -> None:
    pass


NOTES["backfill"] = Notes(
    outputs=(
        "<root>/level2/<SYMBOL>/<date>_snapshots_databento.parquet per day (and _events_ with --with-events)",
        "<root>/backfill_l2_manifest.jsonl: one line per task; <root>/backfill_l2_summary.json",
        "stdout: one line SUMMARY WRITE=.. SKIP=.. EMPTY=.. ERROR=.. total=.. concurrency=.. duration=..s",
        "with --fetch-bars: what `bars` writes for the same symbols and days; its counts are in the log",
        "stdout with --dry-run: one JSON object; the log goes to stderr",
    ),
    dependencies=("DATABENTO_API_KEY, or --sandbox", "settings: docs/ENVIRONMENT.md"),
    examples=(
        "trading-data backfill --sandbox --symbol AAPL --date 2025-09-05",
        "trading-data backfill --symbol AAPL --symbol MSFT --start 2025-09-01 --end 2025-09-05 --max-cost-usd 20",
        "trading-data backfill --tasks trades.csv --since 30 --dry-run",
    ),
)


@app.command()
def backfill(
    date: Annotated[dt.date | None, day_option("--date", "One ET day.")] = None,
    start: Annotated[dt.date | None, day_option("--start", "First ET day.")] = None,
    end: Annotated[dt.date | None, day_option("--end", "Last ET day, included.")] = None,
    symbol: Annotated[list[str] | None, typer.Option("--symbol", help="A symbol; may be repeated.")] = None,
    tasks: Annotated[Path | None, typer.Option("--tasks", help="Task list, .csv or .xlsx.")] = None,
    since: Annotated[int | None, typer.Option("--since", min=0, help="Of the list, the last so many days.")] = None,
    last: Annotated[int | None, typer.Option("--last", min=1, help="Of the list, its last so many dates.")] = None,
    max_tasks: Annotated[int | None, typer.Option("--max-tasks", min=0, help="Process at most so many.")] = None,
    max_workers: Annotated[
        int | None, typer.Option("--max-workers", min=1, help="Tasks at a time [L2_MAX_WORKERS].")
    ] = None,
    interval_ms: Annotated[
        int | None,
        typer.Option("--interval-ms", min=0, help="Grid distance, 0: every event [L2_SNAPSHOT_INTERVAL_MS]."),
    ] = None,
    with_events: Annotated[bool, typer.Option("--with-events", help="Also write the vendor's events.")] = False,
    max_cost_usd: Annotated[
        float | None, typer.Option("--max-cost-usd", min=0, help="Spend ceiling [DATABENTO_MAX_COST_USD].")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write again what exists.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when a task ends with ERROR.")] = False,
    fetch_bars: Annotated[
        bool, typer.Option("--fetch-bars", help="Then download bars of the same symbols and days from IBKR.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done and its cost as JSON.")] = False,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Use the bundled sandbox vendors.")] = False,
    prefect: Annotated[
        bool | None,
        typer.Option("--prefect/--no-prefect", help="Run as a Prefect flow. Default: when PREFECT_API_URL is set."),
    ] = None,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """Bring Level-2 snapshots of (symbol, day) pairs from Databento to the data root.

    With symbols and dates: these pairs. Otherwise the task list, narrowed by what is given.
    """
    from flows.cli_backfill import run  # noqa: PLC0415 - heavy

    if date is not None and (start is not None or end is not None):
        raise typer.BadParameter("--date stands for --start and --end on one day: give one or the other")
    parameters = {
        "symbols": symbol,
        "start": date or start,
        "end": date or end,
        "since_days": since,
        "last": last,
        "tasks_file": tasks,
        "force": force,
        "strict": strict,
        "max_tasks": max_tasks,
        "max_workers": max_workers,
        "interval_ms": interval_ms,
        "with_events": with_events,
        "max_cost_usd": max_cost_usd,
        "dry_run": dry_run,
        "fetch_bars": fetch_bars,
    }
    raise typer.Exit(run(parameters, sandbox=sandbox, as_flow=prefect))


NOTES["record-depth"] = Notes(
    outputs=(
        "<root>/level2/<SYMBOL>/<date>_messages_<HHMMSS>.json and _snapshots_<HHMMSS>.parquet per segment",
        "<root>/level2/<SYMBOL>/session_stats_<YYYYMMDD_HHMMSS>.json; <root>/l2_gaps.jsonl: every hole",
        "stdout: one line per symbol, RECORDED <SYMBOL> messages=.. snapshots=.. gaps=.. segments=.. end=..",
        "the live view and the log go to stderr; SIGINT and SIGTERM end a capture cleanly, exit code 0",
        "with --serve: holds the runs of the deployment record-depth/session until SIGINT or SIGTERM",
    ),
    dependencies=("TWS or IB Gateway with its API switched on, or --sandbox", "settings: docs/ENVIRONMENT.md"),
    examples=(
        "trading-data record-depth --sandbox --symbol AAPL --symbol MSFT --duration 1",
        "trading-data record-depth --symbol AAPL --levels 20 --interval 50 --window 09:30-16:00 --live",
        "trading-data record-depth --symbol AAPL --exchange ISLAND --duration 30 --output captures",
        "trading-data record-depth --serve",
    ),
)


@app.command("record-depth")
def record_depth(
    symbol: Annotated[
        list[str] | None, typer.Option("--symbol", help="A symbol; may be repeated. Default: today's of the task list.")
    ] = None,
    levels: Annotated[int | None, typer.Option("--levels", min=1, max=50, help="Levels per side [L2_LEVELS].")] = None,
    interval: Annotated[
        int | None,
        typer.Option(
            "--interval", min=0, help="Milliseconds between snapshots, 0: one per message [L2_SNAPSHOT_INTERVAL_MS]."
        ),
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", help="Minutes from now, fractions allowed. Default: the window.")
    ] = None,
    window: Annotated[
        str | None, typer.Option("--window", metavar="HH:MM-HH:MM", help="ET window of today. Default: the L2 window.")
    ] = None,
    exchange: Annotated[
        str | None, typer.Option("--exchange", help="SMART, or one exchange such as ISLAND [IB_EXCHANGE].")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Data root [DATA_PATH_OVERRIDE].")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Host of the gateway [IB_HOST].")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Its API port. Default: IB_PORT, else by mode.")
    ] = None,
    client_id: Annotated[int | None, typer.Option("--client-id", min=1, help="API client id [IB_CLIENT_ID].")] = None,
    paper: Annotated[
        bool | None, typer.Option("--paper/--live", help="Paper or live account [IB_PAPER_TRADING].")
    ] = None,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Use the bundled sandbox gateway.")] = False,
    prefect: Annotated[
        bool | None,
        typer.Option("--prefect/--no-prefect", help="Run as a Prefect flow. Default: when PREFECT_API_URL is set."),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Hold the scheduled captures of record-depth/session here; no worker does.")
    ] = False,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """Capture live Level-2 books from Interactive Brokers: every message, and snapshots on a grid."""
    from flows.cli_record import run  # noqa: PLC0415 - heavy

    parameters = {
        "symbols": symbol,
        "minutes": duration,
        "levels": levels,
        "interval_ms": interval,
        "window": window,
        "exchange": exchange,
        "host": host,
        "port": port,
        "client_id": client_id,
        "paper": paper,
        "output": output,
    }
    if serve:
        from flows.cli_serve import serve_captures  # noqa: PLC0415 - heavy

        if sandbox or any(value is not None for value in (*parameters.values(), prefect)):
            raise typer.BadParameter("--serve stands alone: what is captured is said by the deployment and its runs")
        # More than one may be asked for: the deployment's own limit decides, and cancels the second.
        raise typer.Exit(serve_captures(10))
    raise typer.Exit(run(parameters, sandbox=sandbox, as_flow=prefect))


NOTES["recover"] = Notes(
    outputs=(
        "the segments, stats and gap records of captures that died, from their journals",
        "stdout: one line per session and symbol, RECOVERED <SYMBOL> ..",
    ),
    examples=("trading-data recover", "trading-data recover --output captures"),
)


@app.command()
def recover(
    output: Annotated[Path | None, typer.Option("--output", help="Data root [DATA_PATH_OVERRIDE].")] = None,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """Bring in what captures that died had journaled; captures that are running are left alone."""
    from flows.cli_record import recover as recover_root  # noqa: PLC0415 - heavy

    raise typer.Exit(recover_root(output))


NOTES["validate"] = Notes(
    outputs=("stdout: one line per finding, then totals; with --json one JSON object",),
    examples=("trading-data validate data", "trading-data validate --quick --json data/level2/AAPL"),
)


@app.command()
def validate(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders.")],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Read footers only.")] = False,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """Check files against the contract, as `marketdata-contracts validate` does."""
    from contracts.cli import main as contracts_main  # noqa: PLC0415 - heavy

    switches = [("--strict", strict), ("--json", json_output), ("--quick", quick)]
    arguments = ["validate", *(name for name, on in switches if on), "--", *map(str, paths)]
    raise typer.Exit(contracts_main(arguments))


NOTES["describe"] = Notes(
    outputs=("stdout: one JSON array, an object per command",), examples=("trading-data describe --all",)
)


@app.command()
def describe(
    context: typer.Context,
    command: Annotated[list[str] | None, typer.Argument(help="A command, such as `backfill`.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Describe every command.")] = False,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """Print what commands take and give, as JSON."""
    found = dict(all_commands(context.find_root().command))
    wanted = " ".join(command or ())
    if all_ or not wanted:
        typer.echo(json.dumps([describe_command(found[path], path) for path in found], indent=2))
        return
    if wanted not in found:
        raise typer.BadParameter(f"there is no command {wanted!r}; there are {', '.join(found)}")
    typer.echo(json.dumps(describe_command(found[wanted], wanted), indent=2))


# In the order in which `--help` shows them.
app.command("bars")(bars)
app.command("server")(server)
app.command("deploy")(deploy)
app.command("doctor")(doctor)
app.command("stop")(stop)
app.add_typer(coverage_app, name="coverage")
app.add_typer(sandbox_app, name="sandbox")


def main() -> None:
    """Entry point of `trading-data`."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_STOPPED)


if __name__ == "__main__":
    main()

"""The commands `trading-data bars` and `trading-data coverage ...`; their work is in `cli_bars` and `cli_coverage`."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - typer reads the annotations
from pathlib import Path  # noqa: TC003 - likewise
from typing import Annotated

import typer

from flows.cli_options import Describe, Version, day_option
from flows.describe import NOTES, Notes

coverage_app = typer.Typer(help="Which bars there are, which are missing, and why.", no_args_is_help=True)

NOTES["bars"] = Notes(
    outputs=(
        "<root>/bars/{hour|minute|second}/<SYMBOL>/<date>.parquet per symbol, bar size and day",
        "<root>/bars_download_manifest.jsonl: one line per file; <root>/bars_coverage_manifest.json",
        "stdout: one line SUMMARY WRITE=.. SKIP=.. EMPTY=.. ERROR=.. total=.. concurrency=.. duration=..s",
        "stdout with --dry-run: one JSON object, with requests and the time that the broker's pacing needs",
        "the log goes to stderr",
    ),
    dependencies=("TWS or IB Gateway with its API switched on, or --sandbox", "settings: docs/ENVIRONMENT.md"),
    examples=(
        "trading-data bars --sandbox --symbol AAPL --bar-size '1 min' --start 2025-11-24 --end 2025-11-28",
        "trading-data bars --symbol AAPL --symbol MSFT --bar-size '1 min' --start 2025-09-01 --dry-run",
        "trading-data bars --symbol AAPL --extended-hours",
    ),
)


def bars(
    symbol: Annotated[
        list[str] | None, typer.Option("--symbol", help="A symbol; may be repeated. Default: those of the task list.")
    ] = None,
    bar_size: Annotated[
        list[str] | None,
        typer.Option("--bar-size", help="`1 hour`, `1 min` or `1 sec`; may be repeated. Default: all three."),
    ] = None,
    start: Annotated[dt.date | None, day_option("--start", "First ET day. Default: BAR_LOOKBACK_DAYS_...")] = None,
    end: Annotated[dt.date | None, day_option("--end", "Last ET day, included. Default: today.")] = None,
    what_to_show: Annotated[
        str | None,
        typer.Option("--what-to-show", help="TRADES, MIDPOINT, BID, ASK or BID_ASK. Default: BARS_WHAT_TO_SHOW."),
    ] = None,
    extended_hours: Annotated[
        bool | None,
        typer.Option("--extended-hours/--regular-hours", help="04:00-20:00 or 09:30 to the close."),
    ] = None,
    oldest_first: Annotated[
        bool | None, typer.Option("--oldest-first/--newest-first", help="Which days come first.")
    ] = None,
    force_bars: Annotated[
        bool, typer.Option("--force-bars", help="Download again what is there, whatever coverage says.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when a day ends with ERROR.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what is missing, requests and time as JSON; write nothing.")
    ] = False,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Use the bundled sandbox gateway.")] = False,
    prefect: Annotated[
        bool | None,
        typer.Option("--prefect/--no-prefect", help="Run as a Prefect flow. Default: when PREFECT_API_URL is set."),
    ] = None,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """Download historical bars from Interactive Brokers: only what is missing, inside the pacing rules.

    Without dates each bar size goes back as many days as its BAR_LOOKBACK_DAYS_... says.
    """
    from flows.cli_bars import run  # noqa: PLC0415 - heavy

    parameters = {
        "symbols": symbol,
        "bar_sizes": bar_size,
        "start": start,
        "end": end,
        "force": force_bars,
        "dry_run": dry_run,
        "strict": strict,
        "what_to_show": what_to_show,
        "extended_hours": extended_hours,
        "oldest_first": oldest_first,
    }
    raise typer.Exit(run(parameters, sandbox=sandbox, as_flow=prefect))


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

NOTES["coverage build"] = Notes(
    outputs=('stdout: one JSON line {"wrote": path, "entry_count": n}; lines that do not count are told on stderr',),
    examples=(
        "trading-data coverage build",
        "trading-data coverage build --from-manifest old.jsonl --out coverage.json",
    ),
)


@coverage_app.command()
def build(
    from_manifest: Annotated[Path | None, typer.Option("--from-manifest", help="Another ledger.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Another place for the index.")] = None,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """Derive the coverage index from the download ledger."""
    from flows import cli_coverage  # noqa: PLC0415 - heavy

    raise typer.Exit(cli_coverage.build(from_manifest, out))


NOTES["coverage show"] = Notes(
    outputs=("stdout: a table, with --calendar a calendar per symbol and bar size; with --json one JSON object",),
    examples=("trading-data coverage show", "trading-data coverage show --symbol AAPL --bar-size '1 min' --calendar"),
)


@coverage_app.command()
def show(
    symbol: Annotated[
        list[str] | None, typer.Option("--symbol", help="A symbol; may be repeated. Default: all.")
    ] = None,
    bar_size: Annotated[
        list[str] | None, typer.Option("--bar-size", help="A bar size; may be repeated. Default: all.")
    ] = None,
    start: Annotated[dt.date | None, day_option("--start", "First ET day. Default: the first there is.")] = None,
    end: Annotated[dt.date | None, day_option("--end", "Last ET day, included. Default: the last there is.")] = None,
    calendar: Annotated[bool, typer.Option("--calendar", help="Show every day.")] = False,
    json_output: Json = False,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """Show which bars there are."""
    from flows import cli_coverage  # noqa: PLC0415 - heavy

    raise typer.Exit(cli_coverage.show(symbol, bar_size, start, end, calendar=calendar, as_json=json_output))


NOTES["coverage missing"] = Notes(
    outputs=(
        "stdout: one line per run of days that are missing or partial, and why; with --json one JSON object, each day",
        "exit code 0 also when days are missing, unless --fail; 2 when there is nothing to begin with and no --start",
    ),
    examples=(
        "trading-data coverage missing --symbol AAPL --bar-size '1 min' --start 2025-09-01 --end 2025-09-30",
        "trading-data coverage missing --bar-size '1 min' --fail",
    ),
)


@coverage_app.command()
def missing(
    symbol: Annotated[
        list[str] | None, typer.Option("--symbol", help="A symbol; may be repeated. Default: all there are.")
    ] = None,
    bar_size: Annotated[
        list[str] | None,
        typer.Option("--bar-size", help="A bar size; may be repeated. Default: all; without --start those there are."),
    ] = None,
    start: Annotated[
        dt.date | None, day_option("--start", "First ET day. Default: the first there is of each.")
    ] = None,
    end: Annotated[
        dt.date | None, day_option("--end", "Last ET day, included. Default: the last session over.")
    ] = None,
    fail: Annotated[
        bool, typer.Option("--fail", help="Exit with 1 when a day is missing or partial that can still be had.")
    ] = False,
    json_output: Json = False,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """List the days of a range that are missing or partial, and why."""
    from flows import cli_coverage  # noqa: PLC0415 - heavy

    raise typer.Exit(cli_coverage.missing(symbol, bar_size, start, end, fail=fail, as_json=json_output))


NOTES["coverage why"] = Notes(
    outputs=("stdout: Level 2 and every bar size of that day: state, file, reason; with --json one JSON object",),
    examples=("trading-data coverage why --symbol AAPL --date 2025-09-05",),
)


@coverage_app.command()
def why(
    symbol: Annotated[str, typer.Option("--symbol", help="A symbol.")],
    date: Annotated[dt.date, day_option("--date", "The ET day.")],
    json_output: Json = False,
    _describe: Describe = False,
    _version: Version = False,
) -> None:
    """Tell what there is of a symbol and day, and why something is not there."""
    from flows import cli_coverage  # noqa: PLC0415 - heavy

    raise typer.Exit(cli_coverage.why(symbol, date, as_json=json_output))

"""The arguments of `python -m connectors.sandbox ib-gateway`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from connectors.sandbox._ib_faults import KINDS
from connectors.sandbox.ib_gateway import DEFAULT_SERVER_VERSION, SANDBOX_ACCOUNT
from connectors.sandbox.ib_gateway_process import run_forever


def _refusal(text: str) -> tuple[str, int]:
    symbol, _, code = text.partition("=")
    return symbol.upper(), int(code or "354")


def add_parser(vendors: Any) -> argparse.ArgumentParser:
    """Add the command to argparse's subparsers."""
    kinds = "\n".join(
        f"  {name:18} {kind.meaning}; {', '.join(kind.values) or 'no values'}" for name, kind in KINDS.items()
    )
    parser: argparse.ArgumentParser = vendors.add_parser(
        "ib-gateway",
        help="Interactive Brokers' TWS API on 127.0.0.1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="faults, as KIND[:NAME=VALUE,...], several values joined by +; after_s counts from the first depth\n"
        "subscription, of the fault's symbol if it has one, those without one from the first historical request too,\n"
        "and it happens times=1, every_s=5; a bars fault meets historical requests of symbol, size (as in 1 min) and\n"
        "day: all of them, or only so many times after so many:\n"
        f"{kinds}",
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="0 takes a free one")
    add("--control-port", type=int, default=0, help="for controls from other processes; 0 takes a free one")
    add("--account", action="append", default=[], metavar="NAME", help=f"may be repeated; {SANDBOX_ACCOUNT} by default")
    add("--depth-lines", type=int, default=3, help="depth subscriptions at once")
    add("--rate", type=float, default=50.0, help="depth messages per second and symbol; 0: only those sent by control")
    add("--rows", type=int, help="rows per side whatever is asked for")
    add("--overflow", choices=("explicit", "implicit"), default="explicit", help="how an add into a full side is told")
    add("--seed", type=int, default=0, help="of the invented market")
    add("--unknown", action="append", default=[], metavar="SYMBOL", help="may be repeated; error 200; GONE by default")
    add("--refuse", action="append", default=[], type=_refusal, metavar="SYMBOL[=CODE]", help="refuse its depth, 354")
    add("--busy-client-id", action="append", default=[], type=int, metavar="N", help="may be repeated; error 326")
    add("--server-version", type=int, default=DEFAULT_SERVER_VERSION, help="the newest spoken")
    add("--log", type=Path, metavar="FILE", help="one JSON line per client request and per fault")
    add("--answer-delay", type=float, default=0.0, metavar="S", help="every request is carried out so much later")
    add("--now", metavar="TIME", help="the moment at the start, ISO 8601 with an offset; the real time by default")
    add("--no-pacing", action="store_true", help="do not enforce the pacing rules of historical data")
    add("--pacing-speed", type=float, default=1.0, help="the rules' windows are so many times shorter")
    add("--pacing-slack", type=float, default=0.0, metavar="S", help="real seconds by which they are shorter still")
    add("--bars-delay", type=float, default=0.0, metavar="S", help="how long every historical answer takes at least")
    add("--calendar-durations", action="store_true", help="durations count calendar time, not trading time")
    add("--fault", action="append", default=[], metavar="SPEC", help="may be repeated; see below")
    return parser


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    return run_forever(
        port=options.port,
        control_port=options.control_port,
        accounts=options.account or (SANDBOX_ACCOUNT,),
        depth_lines=options.depth_lines,
        rate_per_s=options.rate,
        rows=options.rows,
        overflow=options.overflow,
        seed=options.seed,
        unknown=[symbol for symbol in options.unknown or ["GONE"] if symbol],
        refused=dict(options.refuse),
        busy_client_ids=options.busy_client_id,
        server_version=options.server_version,
        log=options.log,
        answer_delay_s=options.answer_delay,
        now=options.now,
        pacing=not options.no_pacing,
        pacing_speed=options.pacing_speed,
        pacing_slack_s=options.pacing_slack,
        bars_delay_s=options.bars_delay,
        calendar_durations=options.calendar_durations,
        faults=options.fault,
        announce_to=options.announce,
        parent_pid=options.parent_pid,
        until_stdin_ends=options.until_stdin_ends,
    )

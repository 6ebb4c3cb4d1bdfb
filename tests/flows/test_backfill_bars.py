"""`backfill --fetch-bars`: one run brings Level 2 and bars of the same symbols and days, from two vendors."""

from __future__ import annotations

import json
import socket
from datetime import date

import pytest
from typer.testing import CliRunner

from connectors.sandbox.ib_gateway import IbGateway
from contracts import MarketData
from flows.backfill_l2 import backfill_l2
from flows.cli import app
from flows.errors import ConfigurationError


@pytest.fixture(scope="module")
def gateway():
    with IbGateway(pacing=False) as running:
        yield running


@pytest.fixture
def both(place, gateway, restored_logging):
    place.set(IB_HOST=gateway.host, IB_PORT=gateway.port, CONNECTION_TIMEOUT=5)
    return place


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["backfill", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def nobody() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_one_run_brings_level_2_and_bars_of_the_same_days(both, gateway):
    listed = both.folder / "trades.csv"
    listed.write_text("ticker,date\nAAPL,2025-09-05\nMSFT,2025-09-04\n")

    code, out, err = run("--tasks", listed, "--fetch-bars")

    assert code == 0
    assert out.startswith("SUMMARY WRITE=2 ")
    assert out.count("\n") == 1
    assert "bars: SUMMARY WRITE=4 " in err
    written = sorted(path.relative_to(both.root / "bars").as_posix() for path in both.root.glob("bars/*/*/*.parquet"))
    assert written == [
        "hour/AAPL/2025-09-05.parquet",
        "hour/MSFT/2025-09-04.parquet",
        "minute/AAPL/2025-09-05.parquet",
        "minute/MSFT/2025-09-04.parquet",
    ]
    both.check()
    data = MarketData(both.root)
    day = date(2025, 9, 5)
    assert data.bars("AAPL", "1 min", day, day).num_rows == 390
    assert both.root.joinpath("level2/AAPL/2025-09-05_snapshots_databento.parquet").exists()

    asked = len(gateway.bars_requests)
    assert run("--tasks", listed, "--fetch-bars")[1].startswith("SUMMARY WRITE=0 SKIP=2 ")
    assert len(gateway.bars_requests) == asked


def test_a_dry_run_tells_both_and_does_neither(both, gateway):
    asked = len(gateway.bars_requests)

    code, out, _ = run("--symbol", "AAPL", "--date", both.day, "--fetch-bars", "--dry-run")

    assert code == 0
    bars = json.loads(out)["bars"]
    assert (bars["pieces"], bars["requests"], bars["out_of_reach"]) == (2, 2, 1)
    assert not both.root.exists()
    assert len(gateway.bars_requests) == asked


def test_level_2_stands_when_the_gateway_is_away(both):
    both.set(IB_PORT=nobody(), CONNECTION_TIMEOUT=0.5)

    code, out, err = run("--symbol", "AAPL", "--date", both.day, "--fetch-bars")

    assert code == 1
    assert out.startswith("SUMMARY WRITE=1 ")
    assert "Level 2 is done, but not all bars are" in err
    assert both.root.joinpath("level2/AAPL/2025-09-05_snapshots_databento.parquet").exists()
    both.check()


def test_what_is_wrong_with_the_bars_is_said_before_any_work(both):
    both.set(BARS_WHAT_TO_SHOW="PIZZA")

    code, out, err = run("--symbol", "AAPL", "--date", both.day, "--fetch-bars")

    assert (code, out) == (2, "")
    assert "BARS_WHAT_TO_SHOW" in err
    assert not both.root.exists()
    with pytest.raises(ConfigurationError, match="BARS_WHAT_TO_SHOW"):
        backfill_l2.fn(symbols=["AAPL"], start=both.day, fetch_bars=True)


def test_a_client_library_that_is_not_there_fails_the_bars_alone(both):
    both.set(IB_LIBRARY="ib_async")

    code, out, err = run("--symbol", "AAPL", "--date", both.day, "--fetch-bars")

    assert code == 1
    assert out.startswith("SUMMARY WRITE=1 ")
    assert "Level 2 is done, but bars are not" in err

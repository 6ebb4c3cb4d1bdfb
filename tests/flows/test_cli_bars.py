"""`trading-data bars` as a person runs it: one line or one JSON object on stdout, everything else on stderr."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
import time
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from connectors.sandbox.ib_gateway import IbGateway
from contracts.sessions import sessions_between, today_et
from contracts.validate import validate_path
from flows.cli import app
from flows.limits import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The command believes in the real time.
DAY = sessions_between(today_et() - dt.timedelta(10), today_et() - dt.timedelta(1))[-1]
OF_DAY = ("--start", DAY, "--end", DAY)
SUMMARY = re.compile(
    r"SUMMARY WRITE=(\d+) SKIP=(\d+) EMPTY=(\d+) ERROR=(\d+) total=(\d+) concurrency=(\d+) duration=\d+\.\d{3}s\n"
)


@pytest.fixture(scope="module")
def gateway() -> Iterator[IbGateway]:
    with IbGateway(pacing=False) as running:
        yield running


class Place:
    """A data root and an environment of one test."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, gateway: IbGateway) -> None:
        self.folder = folder
        self.root = folder / "data"
        self._patch = patch
        self.set(
            DATA_PATH_OVERRIDE=self.root,
            CACHE_PATH=folder / "cache",
            L2_MIN_FREE_GB=0,
            IB_HOST=gateway.host,
            IB_PORT=gateway.port,
            CONNECTION_TIMEOUT=5,
            RETRY_ATTEMPTS=0,
        )

    def set(self, **values: object) -> None:
        for name, value in values.items():
            self._patch.setenv(name, str(value))

    def run(self, *arguments: object) -> tuple[int, str, str]:
        """A command in this process: (exit code, stdout, stderr)."""
        done = CliRunner().invoke(app, ["bars", *map(str, arguments)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr


class FastClock(SystemClock):
    """The machine's clock, so much faster that the pacing rules cost nothing; the gateway of this module has none."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns() * 1_000

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 1_000)


@pytest.fixture
def place(
    clean_environment: None,
    restored_logging: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gateway: IbGateway,
) -> Iterator[Place]:
    monkeypatch.setattr("flows.limits.SystemClock", FastClock)
    yield Place(tmp_path, monkeypatch, gateway)
    gateway.clear_faults()


def figures(out: str) -> tuple[int, ...]:
    match = SUMMARY.fullmatch(out)
    assert match, out
    return tuple(int(text) for text in match.groups())


@pytest.mark.parametrize("level", ["DEBUG", "CRITICAL"])
def test_stdout_is_one_line_whatever_the_log_says(place, level):
    place.set(LOG_LEVEL=level, MAX_WORKERS=2)
    code, out, err = place.run("--symbol", "AAPL", "--bar-size", "1 min", "--bar-size", "1 hour", *OF_DAY)
    assert (code, figures(out)) == (0, (2, 0, 0, 0, 2, 2))
    assert ("bars written" in err) == (level == "DEBUG")
    assert [str(finding) for finding in validate_path(place.root).findings] == []
    code, out, _ = place.run("--symbol", "AAPL", "--bar-size", "1 min", "--bar-size", "1 hour", *OF_DAY)
    assert (code, figures(out)) == (0, (0, 2, 0, 0, 2, 2))


def test_the_bundled_gateway_needs_nothing(place):
    place.set(IB_PORT=1)
    code, out, err = place.run("--sandbox", "--symbol", "AAPL", "--bar-size", "1 hour", *OF_DAY)
    assert (code, figures(out)[0]) == (0, 1), err
    # It has counted nothing before, and what it invents waits on no shelf.
    assert not (place.folder / "cache").exists()


def test_errors_are_exit_code_0_and_with_strict_1(place):
    code, out, err = place.run("--symbol", "GONE", "--symbol", "AAPL", "--bar-size", "1 hour", *OF_DAY)
    assert (code, figures(out)[:4]) == (0, (1, 0, 0, 1))
    assert "GONE 1 hour" in err
    code, out, err = place.run("--strict", "--symbol", "GONE", "--symbol", "AAPL", "--bar-size", "1 hour", *OF_DAY)
    assert (code, figures(out)[:4]) == (1, (0, 1, 0, 1))
    assert err.splitlines()[-1].startswith("trading-data bars: 1 of 2 days ended with ERROR: GONE 1 hour")


def test_a_gateway_that_is_not_there_is_exit_code_1_and_says_what_to_do(place):
    place.set(IB_PORT=1, CONNECTION_TIMEOUT=0.2)
    code, out, err = place.run("--symbol", "AAPL", "--bar-size", "1 hour", *OF_DAY)
    assert (code, figures(out)) == (1, (0, 0, 0, 0, 0, 4))
    assert "Is TWS or IB Gateway running" in err
    assert err.splitlines()[-1].startswith("trading-data bars: ")


@pytest.mark.parametrize(
    ("arguments", "env", "named"),
    [
        (("--symbol", "../x"), {}, "x"),
        (("--symbol", "AAPL", "--bar-size", "5 mins"), {}, "5 mins"),
        (("--symbol", "AAPL", "--end", "2025-09-05"), {}, "start"),
        (("--symbol", "AAPL", "--what-to-show", "NEWS"), {}, "NEWS"),
        ((), {}, "WarriorTrading_Trades"),
        (("--symbol", "AAPL"), {"IB_PORT": "many"}, "IB_PORT"),
        (("--symbol", "AAPL"), {"IB_HOST": " "}, "IB_HOST"),
        (("--symbol", "AAPL"), {"BAR_LOOKBACK_DAYS_MIN_1": "-1"}, "BAR_LOOKBACK_DAYS_MIN_1"),
        (("--symbol", "AAPL"), {"L2_MIN_FREE_GB": "1e9"}, "L2_MIN_FREE_GB"),
    ],
    ids=str,
)
def test_what_cannot_be_is_exit_code_2_before_any_work(place, gateway, arguments, env, named):
    place.set(**env)
    asked = len(gateway.bars_requests)
    code, out, err = place.run(*arguments)
    assert (code, out) == (2, "")
    assert named in err.splitlines()[-1]
    assert not place.root.exists()
    assert len(gateway.bars_requests) == asked


def test_a_dry_run_prints_one_object_and_writes_nothing(place, gateway):
    asked = len(gateway.bars_requests)
    code, out, _ = place.run("--dry-run", "--symbol", "AAPL", "--symbol", "MSFT", *OF_DAY)
    document = json.loads(out)
    assert code == 0
    assert document["pieces"] == 6
    assert document["gateway"] == f"{gateway.host}:{gateway.port}"
    assert len(gateway.bars_requests) == asked
    assert list(place.folder.iterdir()) == []


def test_force_downloads_again(place, gateway):
    place.run("--symbol", "AAPL", "--bar-size", "1 hour", *OF_DAY)
    asked = len(gateway.bars_requests)
    code, out, _ = place.run("--force-bars", "--symbol", "AAPL", "--bar-size", "1 hour", *OF_DAY)
    assert (code, figures(out)[0]) == (0, 1)
    assert len(gateway.bars_requests) == asked + 1

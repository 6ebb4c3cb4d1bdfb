"""`trading-data backfill`: one line on stdout, exit codes, a dry run that writes nothing."""

from __future__ import annotations

import json
import logging
import re

import pytest
from typer.testing import CliRunner

from contracts.validate import validate_path
from flows.cli import app

SUMMARY = re.compile(
    r"SUMMARY WRITE=(\d+) SKIP=(\d+) EMPTY=(\d+) ERROR=(\d+) total=(\d+) concurrency=(\d+) duration=\d+\.\d{3}s\n"
)


@pytest.fixture
def run(place, restored_logging):
    """A command in this process: (exit code, stdout, stderr)."""

    def invoke(*arguments: object):
        done = CliRunner().invoke(app, ["backfill", *map(str, arguments)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return invoke


def counts(stdout: str) -> tuple[int, ...]:
    match = SUMMARY.fullmatch(stdout)
    assert match, stdout
    return tuple(map(int, match.groups()))


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "ERROR"])
def test_stdout_is_exactly_one_summary_line_whatever_the_log_level(place, run, level):
    place.set(LOG_LEVEL=level)
    place.vendor.add_fault("degraded")

    code, out, err = run("--symbol", "AAPL", "--symbol", "msft", "--date", place.day, "--max-workers", 2)

    assert (code, counts(out)) == (0, (2, 0, 0, 0, 2, 2))
    assert ("WRITE AAPL 2025-09-05" in err) == (level != "ERROR")
    assert place.key not in out + err


def test_a_real_process_says_one_line_and_keeps_its_log_on_stderr(place):
    place.set(LOG_LEVEL="DEBUG")

    done = place.command("backfill", "--symbol", "AAPL", "--start", place.day, "--end", place.day)

    assert (done.returncode, counts(done.stdout)) == (0, (1, 0, 0, 0, 1, 4))
    assert "WRITE AAPL 2025-09-05" in done.stderr
    assert place.key not in done.stderr
    place.check()


def test_errors_are_exit_code_0_unless_strict(place, run):
    place.vendor.add_fault("unknown-symbol:symbol=GONE")
    arguments = ("--symbol", "GONE", "--symbol", "AAPL", "--date", place.day)

    code, out, err = run(*arguments)
    assert (code, counts(out)) == (0, (1, 0, 0, 1, 2, 4))
    assert "GONE 2025-09-05" in err

    code, out, _ = run(*arguments, "--strict")
    assert (code, counts(out)) == (1, (0, 1, 0, 1, 2, 4))
    assert place.summary["strict"] is True


@pytest.mark.parametrize(
    "arguments",
    [
        ["--date", "05.09.2025", "--symbol", "AAPL"],
        ["--date", "2025-09-05", "--start", "2025-09-05", "--symbol", "AAPL"],
        ["--date", "2025-09-05", "--symbol", "../x"],
        ["--date", "2025-09-05", "--symbol", "AAPL", "--last", "1"],
        ["--date", "2025-09-05", "--symbol", "AAPL", "--max-workers", "0"],
        ["--date", "2025-09-05", "--symbol", "AAPL", "--max-tasks", "-1"],
        ["--date", "2025-09-05", "--symbol", "AAPL", "--max-cost-usd", "nan"],
        ["--end", "2025-09-05", "--symbol", "AAPL"],
        ["--last", "0"],
        ["--tasks", "nowhere.csv"],
        [],
        ["--unheard-of"],
    ],
    ids=" ".join,
)
def test_usage_errors_are_exit_code_2_before_any_work(place, run, arguments):
    code, out, err = run(*arguments)

    assert (code, out) == (2, "")
    assert err
    assert "Traceback" not in err
    assert not place.root.exists()
    assert place.requests == []


@pytest.mark.parametrize(
    ("env", "key"),
    [
        ({"DATABENTO_API_KEY": ""}, "DATABENTO_API_KEY"),
        ({"DATABENTO_ENABLE_BACKFILL": "off"}, "DATABENTO_ENABLE_BACKFILL"),
        ({"L2_LEVELS": "ten"}, "L2_LEVELS"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL"),
        ({"L2_TRADING_WINDOW_ET": "12:00-13:00"}, "L2_TRADING_WINDOW_ET"),
        ({"L2_MIN_FREE_GB": "1e9"}, "L2_MIN_FREE_GB"),
        ({"SYMBOL_MAPPING_FILE": "nowhere.json"}, "SYMBOL_MAPPING_FILE"),
    ],
    ids=str,
)
def test_configuration_errors_are_exit_code_2_and_name_the_key(place, run, env, key):
    place.set(**env)

    code, out, err = run("--symbol", "AAPL", "--date", place.day)

    assert (code, out) == (2, "")
    assert key in err
    assert not place.root.exists()


def test_a_storage_guard_in_mid_run_is_exit_code_130(place, run):
    place.set(L2_MAX_RUN_GB=0.000_001)

    code, out, err = run("--symbol", "AAPL", "--symbol", "MSFT", "--date", place.day, "--max-workers", 1)

    assert (code, counts(out)) == (130, (1, 0, 0, 0, 1, 1))
    assert "remains: MSFT 2025-09-05" in err


def test_a_root_that_cannot_be_written_is_refused(place, run):
    place.root.mkdir()
    (place.root / ".trading-data.lock").mkdir()

    code, out, err = run("--symbol", "AAPL", "--date", place.day)

    assert (code, out) == (2, "")
    assert "nothing was done" in err


@pytest.fixture
def half_done(place, run, tmp_path):
    """A place in which everything a dry run can say is true of some task."""
    (tmp_path / "list.csv").write_text(
        "ticker,date\nAAPL,2025-09-05\nMSFT,2025-09-05\nNVDA,2025-09-05\nGONE,2025-09-05\n"
    )
    run("--symbol", "AAPL", "--symbol", "MSFT", "--date", place.day)
    place.snapshots("MSFT").unlink()
    place.vendor.add_fault("unknown-symbol:symbol=GONE")
    place.forget_requests()
    return place


def test_a_dry_run_tells_what_would_be_done_and_its_cost_and_writes_nothing(half_done, run, tmp_path):
    before = half_done.tree()

    code, out, _ = run("--tasks", tmp_path / "list.csv", "--dry-run", "--max-cost-usd", "0.5")

    assert code == 0
    assert half_done.tree() == before
    assert half_done.downloads == []
    told = json.loads(out)
    assert [(task["symbol"], task["action"]) for task in told["tasks"]] == [
        ("AAPL", "skip"),
        ("GONE", "error"),
        ("MSFT", "reuse"),
        ("NVDA", "download"),
    ]
    download = told["tasks"][3]
    assert download["path"] == str(half_done.snapshots("NVDA"))
    assert told["totals"]["cost_usd"] == pytest.approx(download["cost_usd"], abs=1e-8) != 0
    assert told["totals"] | {"cost_usd": 0} == {
        "skip": 1,
        "closed": 0,
        "reuse": 1,
        "download": 1,
        "error": 1,
        "tasks": 4,
        "records": download["records"],
        "cost_usd": 0,
        "max_cost_usd": 0.5,
        "within_ceiling": True,
    }
    assert told["vendor"] == {"enabled": True, "problem": None}
    assert (told["window_et"], told["interval_ms"]) == ("09:30-09:40", 1_000)
    assert half_done.key not in out

    # What it said is what a run then does and pays.
    assert run("--tasks", tmp_path / "list.csv", "--dry-run", "--strict")[0] == 1
    run("--symbol", "NVDA", "--date", half_done.day)
    assert half_done.lines[-1].cost_usd == pytest.approx(download["cost_usd"])


def test_a_dry_run_works_without_a_key_and_says_that_it_could_not_ask(half_done, run):
    half_done.set(DATABENTO_API_KEY="")
    before = half_done.tree()

    code, out, _ = run("--symbol", "AAPL", "--symbol", "NVDA", "--date", half_done.day, "--dry-run")

    told = json.loads(out)
    assert code == 0
    assert told["vendor"]["enabled"] is False
    assert "DATABENTO_API_KEY" in told["vendor"]["problem"]
    assert [task["action"] for task in told["tasks"]] == ["skip", "download"]
    assert told["totals"]["cost_usd"] is None
    assert half_done.requests == []
    assert half_done.tree() == before


def test_a_dry_run_of_an_untouched_place_creates_nothing(place, run):
    before = place.tree()
    code, out, _ = run("--symbol", "AAPL", "--date", "2025-09-06", "--dry-run")
    assert (code, json.loads(out)["tasks"][0]["action"]) == (0, "closed")
    assert run("--symbol", "AAPL", "--date", place.day, "--dry-run")[0] == 0
    assert place.tree() == before


def test_options_reach_the_files(place, run):
    run("--symbol", "AAPL", "--date", place.day, "--interval-ms", 500, "--with-events")
    assert place.lines[0].interval_ms == 500
    assert place.events("AAPL").exists()

    code, out, _ = run("--symbol", "AAPL", "--date", place.day, "--interval-ms", 500, "--force", "--max-tasks", 0)
    assert (code, counts(out)[4]) == (0, 0)
    code, out, _ = run("--symbol", "AAPL", "--date", place.day, "--interval-ms", 500, "--force")
    assert counts(out)[0] == 1
    assert place.summary["force"] is True


def test_the_bundled_vendor_serves_a_run_that_knows_no_other(place):
    place.unset("DATABENTO_API_KEY", "DATABENTO_GATEWAY", "REQUESTS_CA_BUNDLE")

    done = place.command("backfill", "--sandbox", "--symbol", "AAPL", "--date", place.day)

    assert (done.returncode, counts(done.stdout)) == (0, (1, 0, 0, 0, 1, 4)), done.stderr
    assert validate_path(place.root).findings == []
    assert place.requests == []


def test_the_log_of_a_run_goes_nowhere_else(place, run):
    logging.getLogger().handlers.clear()
    _, out, err = run("--symbol", "AAPL", "--date", place.day)
    assert out.count("\n") == 1
    assert "[1/1] WRITE AAPL 2025-09-05" in err

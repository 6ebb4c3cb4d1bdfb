"""`trading-data coverage`: what it prints, on which stream, with which exit code; and that looking writes nothing."""

from __future__ import annotations

import datetime as dt
import json
import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from connectors.store.bars import EmptyNote, note_days, publish_day
from contracts.layout import DataRoot
from contracts.sessions import ET
from contracts.testing import (
    sample_bars,
    sample_bars_manifest_line,
    sample_bars_metadata,
    write_bars,
    write_sample_root,
)
from contracts.v1.bars import parse_bars_coverage
from contracts.validate import validate_path
from flows.cli import app

COMMAND = Path(sys.executable).with_name("trading-data")
RANGE = ("--start", "2025-11-24", "--end", "2025-12-02")
NOON_NS = round(dt.datetime(2025, 12, 3, 12, tzinfo=ET).timestamp()) * 10**9

OLD = (
    '{"schema_version":"bars_manifest.v1","written_at":"2025-09-15T16:05:01","vendor":"IBKR","file_format":"parquet",'
    '"symbol":"brk.b","bar_size":"1 min","path":"/data/ML/bars/minute/BRK.B/2025-09-15.parquet",'
    '"filename":"2025-09-15.parquet","rows":389,"columns":["time","open","high","low","close","volume"],'
    '"time_start":"2025-09-15T09:30:00","time_end":"2025-09-15T16:00:00"}\n'
)


@pytest.fixture
def run(clean_environment, restored_logging):
    """A command in this process: (exit code, stdout, stderr)."""

    def invoke(*arguments: object):
        done = CliRunner().invoke(app, ["coverage", *map(str, arguments)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return invoke


@pytest.fixture
def root(run, tmp_path):
    """The root of the settings, where nothing is yet."""
    return DataRoot(tmp_path / "data")


@pytest.fixture
def sample(root):
    """Bars of two sessions around Thanksgiving, with a ledger and no coverage."""
    write_sample_root(root.path)
    root.bars_coverage.unlink()
    return root


def tree(root: DataRoot) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root.path)): path.read_bytes() if path.is_file() else None for path in root.path.rglob("*")
    }


def is_narrow(text: str) -> bool:
    """80 columns, no escapes; a path may be as long as it is."""
    return all(len(line) <= 80 or "/" in line for line in text.splitlines()) and "\x1b" not in text


def test_build_prints_exactly_one_json_line(sample, run, monkeypatch, tmp_path):
    monkeypatch.setenv("ML_BACKUP_PATH", str(tmp_path / "backup"))
    for _ in range(2):
        code, out, err = run("build")
        assert (code, err) == (0, "")
        assert out == json.dumps({"wrote": str(sample.bars_coverage), "entry_count": 3}) + "\n"
    assert [str(finding) for finding in validate_path(sample.path).findings] == []
    assert (tmp_path / "backup" / sample.bars_coverage.name).read_bytes() == sample.bars_coverage.read_bytes()


def test_build_reads_lines_of_the_system_before(root, run):
    root.path.mkdir()
    root.bars_manifest.write_text(OLD)
    assert run("build")[0] == 0
    (entry,) = parse_bars_coverage(root.bars_coverage.read_bytes()).entries
    (day,) = entry.days
    assert (entry.symbol, str(day.date), str(day.time_end)) == ("BRK-B", "2025-09-15", "2025-09-15 16:00:00-04:00")


def test_build_of_another_ledger_to_another_place(root, run, tmp_path):
    (tmp_path / "old.jsonl").write_text(OLD)
    code, out, _ = run("build", "--from-manifest", "old.jsonl", "--out", "coverage.json")
    assert (code, json.loads(out)) == (0, {"wrote": str(tmp_path / "coverage.json"), "entry_count": 1})
    assert not root.path.exists()


def test_build_warns_of_lines_that_do_not_count(sample, run):
    size = sample.bars_manifest.stat().st_size
    with sample.bars_manifest.open("a") as file:
        file.write(
            "}{\n" + OLD.replace("manifest.v1", "manifest.v9") + OLD.replace('"rows":389', '"rows":"many"') + "{"
        )
    code, out, err = run("build")
    assert (code, json.loads(out)["entry_count"]) == (0, 3)
    first, *places = err.splitlines()
    assert "4 lines do not count in " in first
    assert "1 model, 1 not-json, 1 torn, 1 version" in first
    assert f"line 8 at byte {size}: not-json: " in places[0]
    assert len(places) == 4


def test_build_without_a_ledger_says_what_to_do(root, run):
    code, out, err = run("build")
    assert (code, out) == (2, "")
    assert str(root.bars_manifest) in err
    assert "trading-data bars" in err
    assert "DATA_PATH_OVERRIDE" in err
    assert not root.path.exists()
    code, _, err = run("build", "--from-manifest", "nowhere.jsonl")
    assert code == 2
    assert "nowhere.jsonl" in err


@pytest.mark.parametrize(
    ("out", "named"),
    [
        ("data/bars_download_manifest.jsonl", "is the ledger"),
        ("link.json", "is the ledger"),
        ("nowhere/c.json", "no folder nowhere"),
        ("data", "data is a folder"),
    ],
)
def test_build_refuses_a_place_that_cannot_be_meant(sample, run, tmp_path, out, named):
    (tmp_path / "link.json").hardlink_to(sample.bars_manifest)
    before = tree(sample)
    code, told, err = run("build", "--out", out)
    assert (code, told) == (2, "")
    assert named in err
    assert tree(sample) == before


def test_build_on_a_disk_that_refuses_is_exit_code_1(sample, run):
    # What lies in the way of the lock is no file that anyone could open for writing.
    (sample.path / ".bars_coverage.lock").mkdir()
    code, out, err = run("build")
    assert (code, out) == (1, "")
    assert "move it away" in err


TABLE = """\
symbol  size    first       last        days  missing  partial  rows
AAPL    1 hour  2025-11-26  2025-11-28     2        0        0    11
AAPL    1 min   2025-11-26  2025-11-28     2        0        0   600
AAPL    1 sec   2025-11-26  2025-11-28     2        0        0   240
"""


def test_show_is_a_table_that_fits(sample, run):
    run("build")
    assert run("show") == (0, TABLE, "")


@pytest.mark.parametrize("damage", ["absent", "stale", "torn", "foreign"])
def test_show_tells_what_the_ledger_says_now_and_writes_nothing(sample, run, damage):
    if damage != "absent":
        kept = sample.bars_manifest.read_bytes()
        sample.bars_manifest.write_bytes(b"".join(kept.splitlines(keepends=True)[:2]))
        run("build")
        sample.bars_manifest.write_bytes(kept)
    if damage in ("torn", "foreign"):
        run("build")
        text = sample.bars_coverage.read_bytes()
        new = text[:-40] if damage == "torn" else text.replace(b"coverage.v1", b"coverage.v7")
        sample.bars_coverage.write_bytes(new)
    before = tree(sample)
    code, out, err = run("show")
    assert (code, out) == (0, TABLE)
    assert "the ledger was read for this answer" in err
    assert "trading-data coverage build" in err
    assert tree(sample) == before


def test_show_believes_a_coverage_file_without_ledger(sample, run):
    run("build")
    sample.bars_manifest.unlink()
    code, out, err = run("show")
    assert (code, out) == (0, TABLE)
    assert "there is no ledger" in err
    sample.bars_coverage.write_text("{}")
    code, out, err = run("show")
    assert (code, out) == (1, "")
    assert "schema_version" in err


def test_show_of_a_root_without_bars_says_which_root(root, run):
    code, out, err = run("show")
    assert (code, out) == (0, "")
    assert str(root.path) in err
    assert "DATA_PATH_OVERRIDE" in err
    code, out, _ = run("show", "--symbol", "brk.b", "--bar-size", "1 min", *RANGE)
    assert out.splitlines()[1].split() == ["BRK-B", "1", "min", "-", "-", "0", "6", "0", "0"]
    assert not root.path.exists()


def test_show_counts_a_range_that_was_asked_for(sample, run):
    code, out, _ = run("show", "--symbol", "aapl", "--symbol", "MSFT", "--bar-size", "1 sec", *RANGE)
    assert code == 0
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["AAPL", "1", "sec", "2025-11-26", "2025-11-28", "2", "4", "0", "240"],
        ["MSFT", "1", "sec", "-", "-", "0", "6", "0", "0"],
    ]


CALENDAR = """\
   November 2025         December 2025
Mo  Tu  We  Th  Fr    Mo  Tu  We  Th  Fr
24! 25o 26~ 27. 28!    1#  2!
"""


def test_a_calendar_marks_every_day_without_colour(root, run):
    for day, window in ((dt.date(2025, 11, 26), "09:30-12:00"), (dt.date(2025, 12, 1), "09:30-16:00")):
        bars = sample_bars(day=day, window_et=window)
        write_bars(root, bars, "1 min", "AAPL", day)
        line = sample_bars_manifest_line(root, bars, day=day, complete=False)
        with root.bars_manifest.open("a") as file:
            file.write(line.to_json_line())
    note_days(root, "1 min", "AAPL", empty={dt.date(2025, 11, 25): EmptyNote("TRADES/regular", 2_000_000_000 * 10**9)})

    code, out, err = run("show", "--symbol", "AAPL", "--bar-size", "1 min", *RANGE, "--calendar")

    assert code == 0
    assert out.endswith(f"\nAAPL 1 min\n\n{CALENDAR}")
    assert "# present  ~ partial  ! missing  o the vendor has none  > to come  . closed" in out
    assert "of 1 missing days the vendor has no bars" in err
    assert is_narrow(out)


def test_a_year_is_rows_of_months_that_fit(sample, run):
    _, out, _ = run("show", "--symbol", "AAPL", "--bar-size", "1 min", "--start", "2025-01-01", "--calendar")
    assert is_narrow(out)
    assert out.count("Mo  Tu  We  Th  Fr") == 11
    assert " 9." in next(line for line in out.splitlines() if " 8! " in line), "the market was closed that day"


def test_show_as_json(sample, run):
    code, out, _ = run("show", "--json", "--calendar", "--symbol", "AAPL", "--bar-size", "1 min")
    assert code == 0
    told = json.loads(out)
    assert told["from"] == "ledger"
    (group,) = told["groups"]
    assert group == {
        "symbol": "AAPL",
        "bar_size": "1 min",
        "start": "2025-11-26",
        "end": "2025-11-28",
        "first": "2025-11-26",
        "last": "2025-11-28",
        "days": 2,
        "present": 2,
        "partial": 0,
        "missing": 0,
        "vendor_has_none": 0,
        "to_come": 0,
        "rows": 600,
        "kinds": [],
        "calendar": {"2025-11-26": "present", "2025-11-28": "present"},
    }


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["missing", "--symbol", "../x", "--bar-size", "1 min", *RANGE], "../x"),
        (
            ["missing", "--symbol", "AAPL", "--bar-size", "1 week", *RANGE],
            "no bar size '1 week'; there are 1 hour, 1 min, 1 sec",
        ),
        (
            ["missing", "--symbol", "AAPL", "--bar-size", "1 min", "--start", "2025-12-02", "--end", "2025-12-01"],
            "ends",
        ),
        (
            ["missing", "--symbol", "AAPL", "--bar-size", "1 min", "--start", "1980-01-02", "--end", "2025-12-01"],
            "1980",
        ),
        (["show", "--bar-size", "5 min"], "5 min"),
        (["show", "--end", "2999-01-01"], "2999"),
        (["why", "--symbol", "CON", "--date", "2025-12-01"], "CON"),
        (["why", "--symbol", "AAPL", "--date", "1980-12-01"], "1980"),
        (["why", "--symbol", "AAPL", "--date", "yesterday"], "yesterday"),
    ],
    ids=" ".join,
)
def test_usage_errors_are_exit_code_2(sample, run, arguments, named):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert named in err
    assert "Traceback" not in err


def test_a_setting_that_cannot_be_used_is_exit_code_2(sample, run, monkeypatch):
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    code, _, err = run("show")
    assert code == 2
    assert "LOG_LEVEL" in err


def test_a_reader_that_goes_away_leaves_no_traceback(sample):
    whole = (COMMAND, "coverage", "missing", "--symbol", "AAPL", "--bar-size", "1 min")
    command = shlex.join(map(str, (*whole, "--start", "1995-01-01", "--json")))
    shell = ["/bin/sh", "-c", f"{command} | head -1"]
    done = subprocess.run(shell, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "{\n"
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


def test_a_terminal_gets_colours(sample):
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [COMMAND, "coverage", "show", "--symbol", "AAPL", "--bar-size", "1 min", "--calendar"],
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(theirs)
        told = b""
        try:
            while some := os.read(ours, 4096):
                told += some
        except OSError:
            # The other end has closed.
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0
    assert b"\x1b[32m#" in told


def test_who_wants_no_colours_gets_none(sample, run, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    arguments = ("show", "--symbol", "AAPL", "--bar-size", "1 min", "--calendar")
    assert "\x1b[" in run(*arguments)[1]
    monkeypatch.setenv("NO_COLOR", "1")
    code, out, _ = run(*arguments)
    assert (code, "\x1b[" in out) == (0, False)
    assert "26# 27. 28#" in out


def test_show_says_when_kinds_were_mixed(sample, run):
    for day, kind, is_told in ((dt.date(2025, 12, 1), "TRADES", False), (dt.date(2025, 12, 2), "MIDPOINT", True)):
        metadata = sample_bars_metadata(day=day).model_copy(update={"what_to_show": kind})
        publish_day(sample, metadata, sample_bars(day=day))
        err = run("show")[2]
        assert ("AAPL 1 min was downloaded as MIDPOINT/regular and TRADES/regular" in err) == is_told

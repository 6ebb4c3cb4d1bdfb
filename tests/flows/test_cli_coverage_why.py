"""`trading-data coverage missing` and `why`: each day with its reason, and a command that puts it right."""

from __future__ import annotations

import datetime as dt
import json
import shlex

import pytest
from typer.testing import CliRunner

from connectors.store.bars import EmptyNote, ErrorNote, note_days
from contracts.layout import DataRoot
from contracts.sessions import ET
from contracts.testing import SAMPLE_DAY, sample_bars, sample_bars_manifest_line, write_bars, write_sample_root
from flows import cli_coverage
from flows.cli import app

RANGE = ("--start", "2025-11-24", "--end", "2025-12-02")
NOON_NS = round(dt.datetime(2025, 12, 3, 12, tzinfo=ET).timestamp()) * 10**9


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


def is_narrow(text: str) -> bool:
    """80 columns, no escapes; a path may be as long as it is."""
    return all(len(line) <= 80 or "/" in line for line in text.splitlines()) and "\x1b" not in text


def test_missing_has_a_line_per_day_with_why(sample, run):
    day, gone, cut = dt.date(2025, 12, 1), dt.date(2025, 11, 26), dt.date(2025, 11, 25)
    sample.bars_path("1 min", "AAPL", gone).unlink()
    bars = sample_bars(day=cut, window_et="09:47-12:00")
    write_bars(sample, bars, "1 min", "AAPL", cut)
    with sample.bars_manifest.open("a") as file:
        file.write(sample_bars_manifest_line(sample, bars, day=cut, complete=False).to_json_line())
    error = "no market data permissions\nfor NYSE STK, and a great many more words than fit"
    note_days(sample, "1 min", "AAPL", empty={day: EmptyNote("TRADES/regular", NOON_NS)})
    note_days(sample, "1 min", "AAPL", errors={dt.date(2025, 12, 2): ErrorNote(error, NOON_NS)})

    code, out, _ = run("missing", "--symbol", "AAPL", "--bar-size", "1 min", *RANGE)

    assert code == 0
    assert out.splitlines() == [
        "AAPL 1 min   2025-11-24  missing  never downloaded",
        "AAPL 1 min   2025-11-25  partial  no data 09:30-09:47, 12:00-16:00",
        "AAPL 1 min   2025-11-26  missing  its file is gone",
        "AAPL 1 min   2025-12-01  missing  the vendor has none, asked 2025-12-03",
        "AAPL 1 min   2025-12-02  missing  never downloaded; last try: no market data...",
    ]
    code, out, _ = run("missing", "--symbol", "AAPL", "--bar-size", "1 min", *RANGE, "--json")
    told = json.loads(out)
    assert [(day["date"], day["state"], day.get("why")) for day in told["days"]] == [
        ("2025-11-24", "missing", "never_downloaded"),
        ("2025-11-25", "partial", None),
        ("2025-11-26", "missing", "file_gone"),
        ("2025-12-01", "missing", "vendor_has_none"),
        ("2025-12-02", "missing", "never_downloaded"),
    ]
    assert told["days"][1]["holes"][0]["end"] == "2025-11-25T09:47:00-05:00"
    assert told["days"][4]["last_error"]["text"] == error
    assert told["groups"][0]["missing"] == 4


def test_missing_says_so_when_nothing_is(sample, run):
    run("build")
    day = ("--start", "2025-11-26", "--end", "2025-11-28")
    code, out, err = run("missing", "--symbol", "AAPL", "--bar-size", "1 min", *day)
    assert (code, out, err) == (0, "", "trading-data coverage missing: nothing is missing\n")


def test_why_tells_each_part_of_a_day_and_what_to_do(sample, run):
    note_days(sample, "1 sec", "AAPL", errors={SAMPLE_DAY: ErrorNote("connection lost", NOON_NS)})
    code, out, _ = run("why", "--symbol", "aapl", "--date", SAMPLE_DAY)
    assert code == 0
    assert is_narrow(out)
    blocks = out.split("\n\n")
    assert blocks[0] == "AAPL 2025-09-04, Thursday, regular hours 09:30-16:00 ET"
    assert [block.split(maxsplit=2)[:2] for block in blocks[1:]] == [
        ["Level", "2"],
        ["1", "hour"],
        ["1", "min"],
        ["1", "sec"],
    ]
    assert "present" in blocks[1]
    assert "databento 600 rows" in blocks[1]
    assert str(sample.snapshots_path("AAPL", SAMPLE_DAY)) in blocks[1]
    assert "missing: never downloaded" in blocks[2]
    command = blocks[2].partition("to do: download it\n")[2]
    assert shlex.split(command.replace("\\\n", "")) == [
        *("trading-data", "bars", "--symbol", "AAPL", "--bar-size", "1 hour"),
        *("--start", "2025-09-04", "--end", "2025-09-04"),
    ]
    assert "connection lost" in blocks[4]
    assert "183 days" in blocks[4]


def test_why_as_json(sample, run):
    code, out, _ = run("why", "--symbol", "AAPL", "--date", "2025-11-26", "--json")
    told = json.loads(out)
    assert (code, told["symbol"], told["date"], told["session_et"]) == (0, "AAPL", "2025-11-26", "09:30-16:00")
    assert (told["level2"]["state"], told["level2"]["why"]) == ("missing", "never_tried")
    assert told["level2"]["to_do"]["command"] == "trading-data backfill --symbol AAPL --date 2025-11-26"
    hour, minute, second = told["bars"]
    assert (hour["state"], hour["rows"], hour["kind"], hour["complete"]) == ("present", 7, "TRADES/regular", True)
    assert minute["path"] == str(sample.bars_path("1 min", "AAPL", dt.date(2025, 11, 26)))
    # Its bars end after two minutes, and its footer says that the whole day was asked for.
    assert (second["state"], second["vendor_has_no_more"]) == ("present", True)
    assert second["holes"][0]["start"] == "2025-11-26T09:32:00-05:00"
    assert "to_do" not in second


def test_why_of_a_day_the_exchange_is_closed(root, run):
    code, out, _ = run("why", "--symbol", "AAPL", "--date", "2025-11-27")
    assert code == 0
    assert out.startswith("AAPL 2025-11-27, Thursday, the exchange is closed\n")
    assert out.count("missing: the exchange is closed") == 4
    assert "to do" not in out
    assert not root.path.exists()


@pytest.mark.parametrize(
    ("line", "spoil", "words", "switch"),
    [
        ('"status":"EMPTY","reason":"no rows"', None, "missing: the vendor has no rows (no rows)", "--force"),
        ('"status":"ERROR","reason":"vendor","error":"503"', None, "missing: the last try failed", None),
        ('"status":"WRITE","rows":5', None, "missing: its file is gone", None),
        ('"status":"WRITE","rows":5', "zero", "missing: its files cannot be read", "--force"),
        (None, None, "missing: never fetched", None),
    ],
    ids=str,
)
def test_why_of_level_2(root, run, line, spoil, words, switch):
    root.path.mkdir()
    if line:
        root.backfill_manifest.write_text(f'{{"symbol":"AAPL","date":"2025-09-04",{line}}}\n')
    if spoil:
        path = root.snapshots_path("AAPL", SAMPLE_DAY)
        path.parent.mkdir(parents=True)
        path.touch()
    _, out, _ = run("why", "--symbol", "AAPL", "--date", SAMPLE_DAY)
    block = out.split("\n\n")[1]
    assert words in " ".join(block.split())
    command = "trading-data backfill --symbol AAPL --date 2025-09-04"
    assert block.splitlines()[-1].strip() == (f"{command} {switch}" if switch else command)


def test_why_finds_a_file_without_a_ledger_line_and_one_that_is_not_whole(root, run):
    day = dt.date(2025, 12, 1)
    write_bars(root, sample_bars(day=day), "1 min", "AAPL", day)
    cut = sample_bars("1 hour", day, window_et="09:30-12:00")
    write_bars(root, cut, "1 hour", "AAPL", day)
    root.bars_manifest.write_text(sample_bars_manifest_line(root, cut, "1 hour", day, complete=False).to_json_line())
    note_days(root, "1 sec", "AAPL", empty={day: EmptyNote("TRADES/regular", NOON_NS)})
    _, out, _ = run("why", "--symbol", "AAPL", "--date", day)
    _, _, hour, minute, second = out.split("\n\n")
    assert hour.split()[2] == "partial"
    assert "no data 12:00-16:00" in hour
    assert "to do: download what is missing" in hour
    assert "no line of the ledger tells of it" in minute
    assert "the vendor had none of TRADES/regular, asked 2025-12-03 17:00 UTC" in second


def test_a_session_of_today_that_has_not_opened_is_still_to_come(root, run, capsys):
    opening = round(dt.datetime(2025, 12, 1, 9, 29, tzinfo=ET).timestamp()) * 10**9
    for now_ns, words in ((opening, "still to come"), (opening + 60 * 10**9, "never downloaded")):
        assert cli_coverage.why("AAPL", dt.date(2025, 12, 1), now_ns=now_ns) == 0
        assert capsys.readouterr().out.count(f"missing: {words}") == 3

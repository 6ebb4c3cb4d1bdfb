"""`trading-data coverage missing` and `why`: each day with its reason, and a command that puts it right."""

from __future__ import annotations

import datetime as dt
import json
import shlex

import pytest
from typer.testing import CliRunner

from connectors.ibkr.bar_requests import REACH_DAYS
from connectors.store.bars import EmptyNote, ErrorNote, note_days
from contracts.layout import DataRoot
from contracts.sessions import ET
from contracts.testing import SAMPLE_DAY, sample_bars, sample_bars_manifest_line, write_bars, write_sample_root
from flows import cli_coverage
from flows.cli import app
from flows.coverage_why import explain

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


def test_missing_has_a_line_per_run_of_days_with_why(sample, run):
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
        f"AAPL 1 min   2025-12-02  missing  never downloaded; last try: {error.replace(chr(10), chr(92) + 'n')}",
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
    told = "trading-data coverage missing: nothing is missing from 2025-11-26 to 2025-11-28\n"
    assert (code, out, err) == (0, "", told)


def test_days_in_a_row_that_lack_the_same_are_one_line(sample, run):
    note_days(
        sample, "1 min", "AAPL", empty={dt.date(2025, 12, 4): EmptyNote("TRADES/regular", NOON_NS + 9 * 86_400 * 10**9)}
    )
    dates = ("--start", "2025-11-20", "--end", "2025-12-05")
    _, out, _ = run("missing", "--symbol", "AAPL", "--symbol", "BRK.B", "--bar-size", "1min", *dates)
    assert out.splitlines() == [
        "AAPL  1 min   2025-11-20 to 2025-11-25  missing  never downloaded (4 days)",
        "AAPL  1 min   2025-12-01 to 2025-12-03  missing  never downloaded (3 days)",
        "AAPL  1 min   2025-12-04                missing  the vendor has none, asked 2025-12-12",
        "AAPL  1 min   2025-12-05                missing  never downloaded",
        "BRK-B 1 min   2025-11-20 to 2025-12-05  missing  never downloaded (11 days)",
    ]
    _, out, _ = run("missing", "--symbol", "AAPL", "--bar-size", "1 min", *dates, "--json")
    assert len(json.loads(out)["days"]) == 9


@pytest.mark.parametrize(
    ("now", "last"),
    [
        ("2025-12-03T15:59", "2025-12-02"),
        ("2025-12-03T16:00", "2025-12-03"),
        ("2025-11-28T12:59", None),
        ("2025-12-06T12:00", "2025-12-05"),
    ],
)
def test_without_dates_missing_looks_from_the_first_day_to_the_last_session_over(sample, run, capsys, now, last):
    now_ns = round(dt.datetime.fromisoformat(now).replace(tzinfo=ET).timestamp()) * 10**9
    assert cli_coverage.missing(["AAPL"], ["1 min"], now_ns=now_ns, fail=True) == (last is not None)
    told = capsys.readouterr()
    if last is None:
        assert told.out == ""
        assert "nothing is missing from 2025-11-26 to 2025-11-26" in told.err
    else:
        assert told.out.startswith("AAPL 1 min   2025-12-01 to ")
        assert f"to {last}  missing  never downloaded" in told.out


def test_fail_is_for_days_that_can_still_be_had(sample, run):
    day = dt.date(2025, 12, 1)
    note_days(sample, "1 min", "AAPL", empty={day: EmptyNote("TRADES/regular", NOON_NS)})
    for size, dates, wanted in (
        ("1 min", ("--start", "2025-11-26", "--end", "2025-11-28"), 0),
        ("1 min", ("--start", day, "--end", day), 0),
        ("1 sec", ("--start", "2025-03-03", "--end", "2025-03-03"), 0),
        ("1 min", ("--start", day, "--end", "2025-12-02"), 1),
        ("1 min", ("--start", day, "--end", "2025-12-02", "--json"), 1),
    ):
        arguments = ("missing", "--symbol", "AAPL", "--bar-size", size, *dates)
        assert run(*arguments)[0] == 0
        assert run(*arguments, "--fail")[0] == wanted, arguments


def test_missing_of_something_that_never_was_is_an_error_without_a_start(sample, run):
    code, out, err = run("missing", "--symbol", "AAPL", "--symbol", "ZZZZ")
    assert (code, out) == (2, "")
    assert "there are no bars of ZZZZ; there are bars of AAPL. " in err
    assert "give --start" in err
    assert run("missing", "--symbol", "ZZZZ", "--bar-size", "1 min", *RANGE)[1].count("never downloaded (6 days)") == 1

    kept = [line for line in sample.bars_manifest.read_text().splitlines(keepends=True) if '"1 sec"' not in line]
    sample.bars_manifest.write_text("".join(kept))
    code, _, err = run("missing", "--symbol", "AAPL", "--bar-size", "1 sec")
    assert code == 2
    assert "there are no 1 sec bars of AAPL, only 1 hour, 1 min" in err
    code, _, err = run("missing", "--bar-size", "1 sec")
    assert code == 2
    assert "there are no 1 sec bars; there are 1 hour, 1 min" in err
    # Who names no bar size means those that there are.
    code, out, _ = run("missing", "--symbol", "AAPL")
    assert (code, {line.split()[2] for line in out.splitlines()}) == (0, {"hour", "min"})


def test_missing_of_an_empty_root_or_an_empty_range_is_an_error(root, run):
    code, _, err = run("missing")
    assert code == 2
    assert f"no bars were ever downloaded to {root.path}" in err
    write_sample_root(root.path)
    for dates, named in (
        (("--end", "2025-11-25"), "the first bars of AAPL 1 hour are of 2025-11-26"),
        (("--start", "2099-01-01"), "no session from 2099-01-01 on is over yet"),
    ):
        code, out, err = run("missing", "--symbol", "AAPL", *dates)
        assert (code, out) == (2, "")
        assert named in err


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
    assert f"{REACH_DAYS['1 sec']} days" in blocks[4]


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
    assert [block.split()[2] for block in out.split("\n\n")[1:]] == ["closed"] * 4
    assert "missing" not in out
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
    for now_ns, words in ((opening, " still to come\n"), (opening + 60 * 10**9, "missing: never downloaded")):
        assert cli_coverage.why("AAPL", dt.date(2025, 12, 1), now_ns=now_ns) == 0
        assert capsys.readouterr().out.count(words) == 3


@pytest.mark.parametrize(
    "note",
    [EmptyNote("MIDPOINT/regular", 2_000_000_000 * 10**9), EmptyNote("TRADES/regular", NOON_NS - 30 * 86_400 * 10**9)],
    ids=["of another kind", "asked too early"],
)
def test_that_there_is_none_is_believed_of_the_same_kind_and_after_the_day_alone(sample, note):
    day = dt.date(2025, 12, 4)
    note_days(sample, "1 min", "AAPL", empty={day: note})

    found = explain(sample, None, "AAPL", day, now_ns=NOON_NS + 30 * 86_400 * 10**9, kind="TRADES/regular")

    (minutes,) = (each for each in found.bars if each.bar_size == "1 min")
    assert minutes.why == "never_downloaded"
    assert any("the vendor had none of" in line for line in minutes.lines())

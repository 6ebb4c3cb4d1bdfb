"""The verdicts on days of bars are those of `bars_availability`; beyond that footers and notes count."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.ibkr.bar_requests import REACH_DAYS
from connectors.store.bars import EmptyNote, ErrorNote, note_days
from contracts.availability import bars_availability
from contracts.coverage import build_coverage, load_coverage
from contracts.layout import BAR_FOLDERS, DataRoot
from contracts.sessions import ET, sessions_between
from contracts.testing import sample_bars, sample_bars_manifest_line, sample_bars_metadata
from contracts.v1.bars import bars_schema
from flows.coverage_days import NO_BARS, PARTIAL, PRESENT, TO_COME
from flows.coverage_judge import DaysJudge
from flows.coverage_text import lacking_lines

START, END = dt.date(2025, 11, 24), dt.date(2025, 12, 3)
"""With Thanksgiving, a half day and a weekend."""

NOON_NS = round(dt.datetime(2025, 12, 8, 12, tzinfo=ET).timestamp()) * 10**9
MARGIN_S = {"1 hour": 3600, "1 min": 60, "1 sec": 1}


def line(root: DataRoot, bar_size: str, day: dt.date, first: str | None, last: str | None, **changes) -> str:
    """A line of the system before: naive ET times, other columns."""
    path = root.path / "bars" / BAR_FOLDERS[bar_size] / "AAPL" / f"{day}.parquet"
    document = {
        "schema_version": "bars_manifest.v1",
        "written_at": "2025-12-04T16:05:01",
        "vendor": "IBKR",
        "file_format": "parquet",
        "symbol": "AAPL",
        "bar_size": bar_size,
        "path": str(path),
        "filename": path.name,
        "rows": 389,
        "columns": ["time", "open", "high", "low", "close", "volume"],
        "time_start": first and f"{day}T{first}",
        "time_end": last and f"{day}T{last}",
    }
    return json.dumps(document | changes) + "\n"


def judge(root: DataRoot, now_ns: int = NOON_NS) -> DaysJudge:
    index = None
    if root.bars_manifest.exists():
        build_coverage(root)
        index = load_coverage(root.bars_coverage)
    return DaysJudge(root, index, now_ns=now_ns)


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


CLOCKS = st.sampled_from(
    [
        *(None, "04:00:00", "09:30:00", "09:30:01", "09:30:02", "09:31:00", "09:31:01", "10:30:00", "10:30:01"),
        *("11:59:59", "12:00:00", "12:58:59", "12:59:00", "12:59:59", "14:59:59", "15:00:00", "15:58:59"),
        *("15:59:00", "15:59:58", "15:59:59", "16:00:00", "19:59:00"),
    ]
)


@given(
    bar_size=st.sampled_from(["1 hour", "1 min", "1 sec"]),
    drawn=st.lists(
        st.tuples(
            st.dates(START, END),
            CLOCKS,
            CLOCKS,
            st.sampled_from([0, 1, 389]),
            st.sampled_from(["in place", "there", "elsewhere", "nowhere", "gone", "both"]),
        ),
        unique_by=lambda each: each[0],
        max_size=8,
    ),
)
@settings(max_examples=30, deadline=None)
def test_each_day_is_what_bars_availability_says(bar_size, drawn):
    with tempfile.TemporaryDirectory() as folder:
        root, old = DataRoot(Path(folder, "data")), DataRoot(Path(folder, "old"))
        root.path.mkdir()
        lines = []
        for day, one, other, rows, where in drawn:
            first, last = sorted((one, other)) if one and other else (one, other)
            home = root if where in ("in place", "gone") else old
            own = home.bars_path(bar_size, "AAPL", day)
            path = Path(folder, "odd", f"{day}.parquet") if where == "elsewhere" else own
            lines.append(line(root, bar_size, day, first, last, rows=rows, path=str(path)))
            if where not in ("nowhere", "gone"):
                put(path)
            if where == "both":
                put(root.bars_path(bar_size, "AAPL", day))
        root.bars_manifest.write_text("".join(lines))
        found = judge(root).group("AAPL", bar_size, START, END)
        index = load_coverage(root.bars_coverage)
        entries = [index.entry("AAPL", bar_size)] if lines else []
        wanted = bars_availability(entries, "AAPL", bar_size, START, END, roots=[root])

        told = found.to_document()
        counts = {key: told[key] for key in ("present", "partial", "missing")}
        assert counts == {key: wanted.counts[key] for key in counts}
        assert told["rows"] == sum(day.rows for day in wanted.days if day.files)
        lacking = {each.day: each.to_document() for each in found.lacking()}
        named = {day.day: day.to_document() for day in wanted.days if day.state != "present" and day.why != "closed"}
        assert lacking.keys() == named.keys()
        for day, document in named.items():
            if document["state"] == "missing":
                # Of a day that cannot be loaded nobody needs the rows.
                document.pop("rows", None)
            ours = {key: value for key, value in lacking[day].items() if key not in ("symbol", "bar_size")}
            ours.pop("out_of_reach", None)
            ours.pop("file_without_line", None)
            assert ours == document


@pytest.fixture
def root(tmp_path):
    found = DataRoot(tmp_path / "data")
    found.path.mkdir()
    return found


def state_of(root: DataRoot, day: dt.date, now_ns: int = NOON_NS, bar_size: str = "1 min") -> int:
    (state,) = judge(root, now_ns).group("AAPL", bar_size, day, day).state.tolist()
    return state


@pytest.mark.parametrize(("complete", "state"), [(True, PRESENT), (False, PARTIAL)])
def test_a_day_whose_hours_were_all_asked_for_is_whole_though_its_bars_end_early(root, complete, state):
    day = dt.date(2025, 12, 1)
    bars = sample_bars(day=day, window_et="09:47-12:00")
    path = root.bars_path("1 min", "AAPL", day)
    path.parent.mkdir(parents=True)
    metadata = sample_bars_metadata(day=day, complete=complete)
    pq.write_table(bars.cast(bars_schema(metadata)), path)
    root.bars_manifest.write_text(sample_bars_manifest_line(root, bars, day=day, complete=complete).to_json_line())
    assert state_of(root, day) == state
    # A copy of another day's file proves nothing.
    other = root.bars_path("1 min", "AAPL", dt.date(2025, 12, 2))
    other.write_bytes(path.read_bytes())
    with root.bars_manifest.open("a") as file:
        file.write(line(root, "1 min", dt.date(2025, 12, 2), "09:47:00", "11:59:00", path=str(other)))
    assert state_of(root, dt.date(2025, 12, 2)) == PARTIAL


def test_notes_of_downloads_say_why_a_day_is_missing(root):
    empty, failed = dt.date(2025, 12, 1), dt.date(2025, 12, 2)
    note_days(
        root,
        "1 min",
        "AAPL",
        empty={empty: EmptyNote("TRADES/regular", NOON_NS)},
        errors={failed: ErrorNote("no permission", NOON_NS)},
    )
    group = judge(root).group("AAPL", "1 min", empty, failed)
    assert group.state.tolist()[0] == NO_BARS
    first, second = group.lacking()
    assert first.to_document() == {
        "symbol": "AAPL",
        "bar_size": "1 min",
        "date": "2025-12-01",
        "state": "missing",
        "why": "vendor_has_none",
        "vendor_has_none": {"kind": "TRADES/regular", "asked_at": "2025-12-08T12:00:00-05:00"},
    }
    assert (second.why, second.error.text) == ("never_downloaded", "no permission")


@pytest.mark.parametrize(
    ("now", "today", "tomorrow"),
    [("09:29:59", TO_COME, TO_COME), ("09:30:00", 2, TO_COME), ("17:00:00", 2, TO_COME)],
)
def test_a_day_is_missing_from_its_opening_on(root, now, today, tomorrow):
    now_ns = round(dt.datetime.fromisoformat(f"2025-12-08T{now}").replace(tzinfo=ET).timestamp()) * 10**9
    assert state_of(root, dt.date(2025, 12, 8), now_ns) == today
    assert state_of(root, dt.date(2025, 12, 9), now_ns) == tomorrow


def test_seconds_older_than_the_vendor_keeps_are_marked(root):
    edge = dt.date(2025, 12, 8) - dt.timedelta(REACH_DAYS["1 sec"])
    around = sessions_between(edge - dt.timedelta(4), edge + dt.timedelta(4))
    for bar_size, gone in (("1 sec", [day for day in around if day < edge]), ("1 min", [])):
        days = list(judge(root).group("AAPL", bar_size, around[0], around[-1]).lacking())
        assert [each.day for each in days] == around
        assert [each.day for each in days if each.is_out_of_reach] == gone


def test_a_file_that_no_line_names_is_told(root):
    day = dt.date(2025, 12, 1)
    put(root.bars_path("1 min", "AAPL", day))
    (told,) = judge(root).group("AAPL", "1 min", day, day).lacking()
    assert (told.why, told.is_unlisted) == ("never_downloaded", True)


def test_without_dates_a_group_goes_from_its_first_day_to_its_last(root):
    days = [dt.date(1985, 5, 6), dt.date(2025, 11, 26), dt.date(2025, 12, 1)]
    root.bars_manifest.write_text("".join(line(root, "1 min", day, "09:30:00", "15:59:00") for day in days[1:]))
    group = judge(root).group("AAPL", "1 min", None, None)
    assert (group.start, group.end, len(group.days)) == (days[1], days[2], 3)
    # From a day on that comes after all of them: until today.
    assert judge(root).group("AAPL", "1 min", dt.date(2025, 12, 4), None).end == dt.date(2025, 12, 8)
    assert len(judge(root).group("MSFT", "1 min", None, None).days) == 0
    # A ledger can name a day that the exchange calendar does not know.
    with root.bars_manifest.open("a") as file:
        file.write(line(root, "1 min", days[0], "09:30:00", "15:59:00"))
    assert judge(root).group("AAPL", "1 min", None, None).start == dt.date(1990, 1, 1)


def test_lines_of_many_groups_tell_of_every_day_that_is_missing(root):
    days = sessions_between(dt.date(2025, 10, 1), dt.date(2025, 10, 31))
    lines = []
    for number, symbol in enumerate(("A", "BB", "CCCCC")):
        for bar_size in BAR_FOLDERS:
            for day in days:
                path = root.bars_path(bar_size, symbol, day)
                lines.append(line(root, bar_size, day, "09:30:00", "15:59:59", symbol=symbol, path=str(path)))
                if day.day % 10 != number:
                    put(path)
    root.bars_manifest.write_text("".join(lines))
    counted = judge(root)
    groups = [
        counted.group(symbol, bar_size, None, None) for symbol, bar_size in load_coverage(root.bars_coverage).keys
    ]
    told = lacking_lines(groups)
    assert len(told) == sum(day.day % 10 == number for day in days for number in range(3)) * 3
    assert told[0] == "A     1 hour  2025-10-10  missing  its file is gone"


def test_reasons_are_cut_for_a_terminal_and_counts_are_not(root):
    days = sessions_between(START, END)
    note_days(root, "1 min", "AAPL", errors={day: ErrorNote("word " * 30, NOON_NS) for day in days[:4]})
    told = lacking_lines([judge(root).group("AAPL", "1 min", days[0], days[4])], 80)
    assert [len(each) for each in told] == [80, 64]
    assert told[0].endswith("never downloaded; la... (4 days)")


@given(st.lists(st.sampled_from(["there", "missing", "none", "error"]), min_size=1, max_size=8))
@settings(max_examples=20, deadline=None)
def test_runs_are_the_days_one_by_one_joined(kinds):
    days = sessions_between(START, END)[: len(kinds)]
    with tempfile.TemporaryDirectory() as folder:
        root = DataRoot(Path(folder))
        named = {kind: [day for day, each in zip(days, kinds, strict=False) if each == kind] for kind in set(kinds)}
        there = [line(root, "1 min", day, "09:30:00", "15:59:00") for day in named.get("there", ())]
        root.bars_manifest.write_text("".join(there))
        for day in named.get("there", ()):
            put(root.bars_path("1 min", "AAPL", day))
        empty = {day: EmptyNote("TRADES/regular", NOON_NS) for day in named.get("none", ())}
        note_days(root, "1 min", "AAPL", empty=empty)
        note_days(root, "1 min", "AAPL", errors={day: ErrorNote("gone", NOON_NS) for day in named.get("error", ())})
        told = lacking_lines([judge(root).group("AAPL", "1 min", days[0], days[-1])])
    wanted = [(kind, len(list(run))) for kind, run in groupby(kinds[: len(days)]) if kind != "there"]
    assert [int(each.rpartition("(")[2].split()[0]) if "days)" in each else 1 for each in told] == [
        n for _, n in wanted
    ]
    words = {"missing": "never downloaded", "none": "the vendor has none", "error": "last try: gone"}
    assert all(words[kind] in each for (kind, _), each in zip(wanted, told, strict=True))

"""What a bars download has to bring: each case of a day that is there, cut short, gone, empty or in the way."""

import json
import shutil
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.ibkr.bar_requests import requests_for
from connectors.store.bars import EmptyNote, ErrorNote, note_days, publish_day
from contracts import BAR_SCHEMA, DataRoot
from contracts.coverage import build_coverage, load_coverage
from contracts.errors import OutsideCalendar
from contracts.sessions import ET, sessions_between
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.bars import BarsManifestLine, BarsMetadata
from flows.bars_plan import BarsScope, make_plan, preview, replan
from flows.bars_publish import remember

NS = 1_000_000_000
MONDAY = date(2025, 9, 15)
TUESDAY, WEDNESDAY = MONDAY + timedelta(1), MONDAY + timedelta(2)
BLACK_FRIDAY = date(2025, 11, 28)
COUNTS = ("missing", "partial", "file_gone", "forced", "present", "known_empty", "out_of_reach", "other_kind")


def at(day, clock):
    """Nanoseconds of New York wall clock."""
    return int(datetime.combine(day, time.fromisoformat(clock), ET).timestamp()) * NS


NOW = at(date(2025, 12, 20), "12:00")


def bars(day, *clocks):
    count = len(clocks)
    ns = pa.array([at(day, clock) for clock in clocks], pa.int64())
    columns = [iso_utc_from_ns(ns.to_numpy()), *[[1.0] * count] * 5, [1] * count, [1.0] * count]
    return pa.table(columns, schema=BAR_SCHEMA)


class Shelf:
    """A data root, and how days come into it."""

    def __init__(self, path):
        self.root = DataRoot(path)

    def publish(
        self, day, *clocks, size="1 min", symbol="AAPL", complete=True, what="TRADES", use_rth=True, is_sparse=False
    ):
        metadata = BarsMetadata(
            symbol=symbol,
            bar_size=size,
            source="ibkr",
            session_date=day,
            what_to_show=what,
            use_rth=use_rth,
            price_adjustment="raw",
            complete=complete,
            producer="trading-data 0",
        )
        return publish_day(self.root, metadata, bars(day, *clocks), is_sparse=is_sparse).path

    def old_file(self, day, *clocks, path=None, listed=True):
        """A file as the system before wrote it: nothing in its footer."""
        target = path or self.root.bars_path("1 min", "AAPL", day)
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(bars(day, *clocks), target)
        if listed:
            times = [datetime.combine(day, time.fromisoformat(clock), ET) for clock in (clocks[0], clocks[-1])]
            line = BarsManifestLine(
                schema_version="bars_manifest.v1",
                written_at=datetime(2025, 9, 30, tzinfo=UTC),
                vendor="IBKR",
                file_format="parquet",
                symbol="AAPL",
                bar_size="1 min",
                path=str(target),
                filename=target.name,
                rows=len(clocks),
                columns=tuple(BAR_SCHEMA.names),
                time_start=times[0],
                time_end=times[1],
            )
            self.root.path.mkdir(parents=True, exist_ok=True)
            with self.root.bars_manifest.open("a") as ledger:
                ledger.write(line.to_json_line())
        return target

    def coverage(self):
        if not self.root.bars_manifest.exists():
            return None
        build_coverage(self.root)
        return load_coverage(self.root.bars_coverage)

    def plan(self, first=MONDAY, last=None, *, size="1 min", now=NOW, symbols=("AAPL",), **scope):
        asked = BarsScope(symbols, {size: (first, last or first)}, **scope)
        return make_plan(self.root, asked, now_ns=now, coverage=self.coverage())

    def group(self, *args, **kwargs):
        return self.plan(*args, **kwargs).groups[0]

    def remembered(self, *args, **kwargs):
        """A plan of a run, which notes what it had to open files for."""
        plan = self.plan(*args, **kwargs)
        remember(self.root, plan)
        return plan.groups[0]

    def move_without_notes(self):
        """As a root that is copied without its hidden folders."""
        shutil.rmtree(self.root.path / ".bars")


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "data")


@pytest.fixture
def opened(monkeypatch):
    """The days of the files that were opened since it was called the last time."""
    found = []
    open_file = pq.ParquetFile

    def noted(source, **options):
        found.append(date.fromisoformat(Path(source.name).stem))
        return open_file(source, **options)

    def told():
        days = set(found)
        found.clear()
        return days

    monkeypatch.setattr(pq, "ParquetFile", noted)
    return told


def counts(group):
    return {name: group.count(name) for name in COUNTS if group.count(name)}


def spans(group):
    """Day and wall clock of each window."""
    clocks = [
        [f"{datetime.fromtimestamp(ns // NS, ET):%H:%M:%S}" for ns in (w.start_ns, w.end_ns)] for w in group.windows
    ]
    return [(window.day, *clock) for window, clock in zip(group.windows, clocks, strict=True)]


def test_without_a_ledger_every_session_is_missing_and_no_other_day(shelf):
    group = shelf.group(date(2025, 11, 26), date(2025, 12, 1))
    # Thanksgiving, its half day, a weekend.
    assert spans(group) == [
        (date(2025, 11, 26), "09:30:00", "16:00:00"),
        (BLACK_FRIDAY, "09:30:00", "13:00:00"),
        (date(2025, 12, 1), "09:30:00", "16:00:00"),
    ]
    assert counts(group) == {"missing": 3}
    assert not shelf.root.path.exists()


def test_extended_hours_are_those_of_every_session(shelf):
    assert spans(shelf.group(BLACK_FRIDAY, use_rth=False)) == [(BLACK_FRIDAY, "04:00:00", "20:00:00")]


@pytest.mark.parametrize(
    ("size", "day", "clocks"),
    [
        ("1 min", MONDAY, ("09:30", "15:59")),
        ("1 min", MONDAY, ("09:31", "15:59")),
        ("1 min", BLACK_FRIDAY, ("09:30", "12:59")),
        ("1 hour", MONDAY, ("09:30", "10:00", "15:00")),
        ("1 hour", BLACK_FRIDAY, ("09:30", "12:00")),
        ("1 sec", BLACK_FRIDAY, ("09:30:01", "12:59:59")),
    ],
)
def test_a_day_from_end_to_end_is_there(shelf, size, day, clocks):
    shelf.publish(day, *clocks, size=size)
    assert counts(shelf.group(day, size=size)) == {"present": 1}


def test_an_illiquid_day_is_there_when_its_footer_says_that_all_was_asked_for(shelf):
    shelf.publish(MONDAY, "09:47", "14:10")
    shelf.publish(TUESDAY, "09:47", "14:10", complete=False)
    group = shelf.group(MONDAY, TUESDAY)
    assert counts(group) == {"present": 1, "partial": 1}
    # It was asked for from 09:30 on, so only what follows its last bar is open.
    assert spans(group) == [(TUESDAY, "14:10:00", "16:00:00")]
    assert group.resumed == {TUESDAY}


def test_an_old_file_is_completed_at_its_end_and_fetched_whole_when_its_start_is_missing(shelf):
    shelf.old_file(MONDAY, "09:30", "12:00")
    shelf.old_file(TUESDAY, "11:00", "15:59")
    shelf.old_file(WEDNESDAY, "09:30", "15:59")
    group = shelf.group(MONDAY, WEDNESDAY)
    assert counts(group) == {"partial": 2, "present": 1}
    assert spans(group) == [(MONDAY, "12:00:00", "16:00:00"), (TUESDAY, "09:30:00", "16:00:00")]
    assert group.resumed == {MONDAY, TUESDAY}


def test_a_file_that_is_gone_or_cannot_be_read_is_fetched_whole(shelf):
    shelf.publish(MONDAY, "09:30", "15:59").unlink()
    shelf.publish(TUESDAY, "09:30", "12:00").write_bytes(b"torn")
    group = shelf.group(MONDAY, TUESDAY)
    assert counts(group) == {"file_gone": 2}
    assert [start for _, start, _ in spans(group)] == ["09:30:00"] * 2
    assert group.resumed == set()


def test_files_are_found_in_a_moved_root_at_their_old_place_and_under_other_names(shelf, tmp_path):
    shelf.publish(MONDAY, "09:30", "15:59")
    shelf.old_file(TUESDAY, "09:30", "15:59", path=tmp_path / "elsewhere" / "t.parquet")
    shelf.old_file(WEDNESDAY, "09:30", "15:59", path=shelf.root.bars_path("1 min", "AAPL", WEDNESDAY).with_name("w.pq"))
    assert counts(shelf.group(MONDAY, WEDNESDAY)) == {"present": 3}
    copy = Shelf(tmp_path / "copy")
    shutil.copytree(shelf.root.path, copy.root.path)
    copy.root.bars_path("1 min", "AAPL", MONDAY).unlink()
    assert counts(copy.group(MONDAY, WEDNESDAY)) == {"present": 3}
    shutil.rmtree(shelf.root.path)
    assert counts(copy.group(MONDAY, WEDNESDAY)) == {"present": 2, "file_gone": 1}


def test_a_part_that_lies_elsewhere_is_not_completed_but_fetched_whole(shelf, tmp_path):
    shelf.old_file(MONDAY, "09:30", "12:00", path=tmp_path / "elsewhere" / "2025-09-15.parquet")
    group = shelf.group()
    assert (counts(group), group.resumed) == ({"partial": 1}, set())
    assert spans(group) == [(MONDAY, "09:30:00", "16:00:00")]


def test_what_the_vendor_has_none_of_is_asked_again_for_a_day_and_then_no_more(shelf):
    end_ns = at(MONDAY, "16:00")
    for asked_ns, kind, expected in [
        (end_ns + 86_400 * NS - 1, "TRADES/regular", "missing"),
        (end_ns + 86_400 * NS, "TRADES/regular", "known_empty"),
        (end_ns + 86_400 * NS, "MIDPOINT/regular", "missing"),
    ]:
        note_days(shelf.root, "1 min", "AAPL", empty={MONDAY: EmptyNote(kind, asked_ns)})
        assert counts(shelf.group()) == {expected: 1}
    note_days(shelf.root, "1 min", "AAPL", empty={MONDAY: EmptyNote("TRADES/regular", end_ns + 86_400 * NS)})
    assert counts(shelf.group(force=True)) == {"forced": 1}
    # A file is more than a note.
    shelf.publish(MONDAY, "09:30", "12:00", complete=False)
    note_days(shelf.root, "1 min", "AAPL", empty={MONDAY: EmptyNote("TRADES/regular", end_ns + 86_400 * NS)})
    assert counts(shelf.group()) == {"partial": 1}


@pytest.mark.parametrize(
    ("size", "clocks", "there", "asked", "expected"),
    [
        ("1 min", ("09:30", "15:59"), ("MIDPOINT", True), ("TRADES", True), "other_kind"),
        ("1 min", ("09:30", "12:00"), ("MIDPOINT", True), ("TRADES", True), "other_kind"),
        ("1 min", ("04:00", "19:59"), ("TRADES", False), ("TRADES", True), "present"),
        ("1 sec", ("04:40", "17:00"), ("TRADES", False), ("TRADES", True), "present"),
        ("1 min", ("04:00", "19:59"), ("MIDPOINT", False), ("TRADES", True), "other_kind"),
        ("1 hour", ("04:00", "19:00"), ("TRADES", False), ("TRADES", True), "other_kind"),
        ("1 min", ("09:30", "15:59"), ("TRADES", True), ("TRADES", False), "other_kind"),
        ("1 min", ("09:30", "15:59"), ("TRADES", True), ("TRADES", True), "present"),
    ],
)
def test_a_file_of_another_kind_is_left_alone_unless_it_serves(shelf, size, clocks, there, asked, expected):
    shelf.publish(MONDAY, *clocks, size=size, what=there[0], use_rth=there[1])
    group = shelf.group(size=size, what_to_show=asked[0], use_rth=asked[1])
    assert counts(group) == {expected: 1}
    assert group.windows == ()
    if expected == "other_kind":
        assert group.other_kind == {MONDAY: f"{there[0]}/{'regular' if there[1] else 'extended'}"}
    forced = shelf.group(size=size, what_to_show=asked[0], use_rth=asked[1], force=True)
    assert (counts(forced), forced.resumed) == ({"forced": 1}, set())


def test_a_cut_extended_day_serves_only_when_it_has_the_regular_hours(shelf):
    shelf.publish(MONDAY, "04:00", "15:59", use_rth=False, complete=False)
    shelf.publish(TUESDAY, "04:00", "12:00", use_rth=False, complete=False)
    assert counts(shelf.group(MONDAY, TUESDAY)) == {"present": 1, "other_kind": 1}


def test_today_is_needed_up_to_the_last_whole_bar(shelf):
    for size, clock, end in [
        ("1 sec", "11:07:13", "11:07:13"),
        ("1 min", "11:07:13", "11:07:00"),
        ("1 hour", "11:07:13", "11:00:00"),
        ("1 hour", "10:00:00", "10:00:00"),
        ("1 min", "16:00:00", "16:00:00"),
        ("1 min", "23:59:00", "16:00:00"),
    ]:
        assert spans(shelf.group(MONDAY, TUESDAY, size=size, now=at(MONDAY, clock))) == [(MONDAY, "09:30:00", end)]
    for size, clock in [("1 min", "09:30:59"), ("1 hour", "09:59:59"), ("1 sec", "09:30:00"), ("1 min", "03:00:00")]:
        assert counts(shelf.group(MONDAY, TUESDAY, size=size, now=at(MONDAY, clock))) == {}
    # In New York it is still Monday.
    assert counts(shelf.group(MONDAY, TUESDAY, now=at(TUESDAY, "00:00") - NS)) == {"missing": 1}


def test_a_day_is_resumed_while_it_goes_on_and_once_more_after_it_has_settled(shelf):
    shelf.publish(MONDAY, "09:30", "11:06", complete=False)
    assert counts(shelf.group(now=at(MONDAY, "11:07:13"))) == {"present": 1}
    assert spans(shelf.group(now=at(MONDAY, "11:09"))) == [(MONDAY, "11:06:00", "11:09:00")]
    shelf.publish(MONDAY, "09:30", "15:59", complete=False)
    assert counts(shelf.group(now=at(MONDAY, "16:02"))) == {"present": 1}
    for settled_ns in (at(MONDAY, "16:05"), NOW):
        assert spans(shelf.group(now=settled_ns)) == [(MONDAY, "15:59:00", "16:00:00")]
    shelf.publish(MONDAY, "09:30", "15:59")
    assert counts(shelf.group(now=at(MONDAY, "16:05"))) == {"present": 1}


@pytest.mark.parametrize("older", [0, 60])
def test_a_day_that_was_cut_short_is_completed_in_a_root_that_was_copied_without_its_notes(shelf, older):
    days = sessions_between(MONDAY - timedelta(100), MONDAY)[-older - 1 :]
    for day in days[:-1]:
        shelf.publish(day, "09:30", "15:59")
    shelf.publish(MONDAY, "09:30", "15:59", complete=False)
    shelf.move_without_notes()
    first = shelf.remembered(days[0], MONDAY, now=at(TUESDAY, "12:00"))
    assert spans(first) == [(MONDAY, "15:59:00", "16:00:00")]
    # The run that noted this may have been interrupted.
    assert shelf.group(days[0], MONDAY, now=at(WEDNESDAY, "12:00")) == first


def test_an_illiquid_day_is_opened_once_and_then_known(shelf, opened):
    shelf.publish(MONDAY, "09:47", "14:10")
    shelf.publish(TUESDAY, "04:47", "19:10", use_rth=False, is_sparse=True)
    assert counts(shelf.remembered(MONDAY, TUESDAY)) == {"present": 2}
    assert opened() == {MONDAY}
    assert counts(shelf.group(MONDAY, TUESDAY)) == {"present": 2}
    assert opened() == set()
    # What is noted holds for that file alone.
    shelf.publish(MONDAY, "09:47", "14:10", "14:11", complete=False)
    shelf.root.bars_path("1 min", "AAPL", TUESDAY).unlink()
    assert counts(shelf.group(MONDAY, TUESDAY)) == {"partial": 1, "file_gone": 1}
    shelf.old_file(TUESDAY, "09:47", "10:00", "14:10")
    assert counts(shelf.group(MONDAY, TUESDAY)) == {"partial": 2}


def test_no_times_are_read_of_a_file_whose_footer_says_that_it_is_complete(shelf):
    path = shelf.publish(MONDAY, "09:47", "14:10")
    data = bytearray(path.read_bytes())
    # Column chunks lie at the front of the file.
    data[4:200] = bytes(196)
    path.write_bytes(data)
    assert counts(shelf.group()) == {"present": 1}


def test_days_of_another_kind_are_opened_once_and_then_known(shelf, opened):
    shelf.publish(MONDAY, "09:30", "15:59")
    shelf.publish(TUESDAY, "09:30", "15:59", what="MIDPOINT")
    for files in ({MONDAY, TUESDAY}, set()):
        group = shelf.remembered(MONDAY, TUESDAY)
        assert (counts(group), group.other_kind) == ({"present": 1, "other_kind": 1}, {TUESDAY: "MIDPOINT/regular"})
        assert opened() == files
    assert counts(shelf.group(MONDAY, TUESDAY, what_to_show="MIDPOINT")) == {"present": 1, "other_kind": 1}
    shelf.publish(TUESDAY, "09:30", "15:59")
    assert counts(shelf.group(MONDAY, TUESDAY)) == {"present": 2}


@pytest.mark.parametrize("how", ["gone", "damaged", "replaced"])
def test_without_notes_a_file_of_another_kind_is_not_taken_for_what_is_asked_for(shelf, how, opened):
    shelf.publish(MONDAY, "09:30", "15:59")
    shelf.publish(TUESDAY, "09:30", "15:59", what="MIDPOINT")
    shelf.publish(WEDNESDAY, "09:30", "15:59")
    shelf.move_without_notes()
    if how != "gone":
        path = shelf.root.path / ".bars" / "minute" / "AAPL.json"
        path.parent.mkdir(parents=True)
        path.write_text("{")
    if how == "replaced":
        note_days(shelf.root, "1 min", "AAPL", errors={WEDNESDAY: ErrorNote("no answer", NOW)})
    # A short look before does not stand for the days that it did not see.
    assert counts(shelf.remembered(WEDNESDAY)) == {"present": 1}
    assert opened() == {WEDNESDAY}
    for files in ({MONDAY, TUESDAY}, set()):
        assert counts(shelf.remembered(MONDAY, WEDNESDAY)) == {"present": 2, "other_kind": 1}
        assert opened() == files


def test_of_many_files_without_notes_some_are_opened_and_all_when_one_is_of_another_kind(shelf, opened):
    days = sessions_between(MONDAY - timedelta(100), MONDAY)
    for day in days:
        shelf.publish(day, "09:30", "15:59")
    shelf.move_without_notes()
    assert counts(shelf.remembered(days[0], MONDAY)) == {"present": len(days)}
    files = opened()
    assert len(files) == 30
    assert {days[0], days[-1], days[len(days) // 2]} <= files
    shelf.remembered(days[0], MONDAY)
    assert opened() == set()

    shelf.publish(days[1], "09:30", "15:59", what="MIDPOINT")
    shelf.publish(days[0], "09:30", "15:59", what="MIDPOINT")
    shelf.move_without_notes()
    assert counts(shelf.group(days[0], MONDAY)) == {"present": len(days) - 2, "other_kind": 2}
    assert opened() == set(days)


def test_old_seconds_are_out_of_reach_and_never_asked_for(shelf):
    # 180 days before Tuesday the 16th of December is the 19th of June, a holiday.
    first, last, now = date(2025, 6, 17), date(2025, 6, 20), at(date(2025, 12, 16), "23:00")
    shelf.publish(first, "09:30", "15:59:59", size="1 sec")
    group = shelf.group(first, last, size="1 sec", now=now)
    assert counts(group) == {"present": 1, "out_of_reach": 1, "missing": 1}
    assert spans(group) == [(last, "09:30:00", "16:00:00")]
    assert counts(shelf.group(first, last, size="1 sec", now=now, force=True)) == {"out_of_reach": 2, "forced": 1}
    assert counts(shelf.group(first, last, size="1 min", now=now)) == {"missing": 3}
    day = date(2025, 6, 18)
    assert counts(shelf.group(day, size="1 sec", now=at(day + timedelta(180), "23:00"))) == {"missing": 1}
    assert counts(shelf.group(day, size="1 sec", now=at(day + timedelta(181), "00:00"))) == {"out_of_reach": 1}


def test_a_part_at_the_edge_of_the_reach_is_not_continued_but_asked_for_as_a_whole(shelf):
    shelf.publish(MONDAY, "09:30", "12:00", size="1 sec", complete=False)
    for days, start in [(170, "12:00:00"), (171, "09:30:00"), (180, "09:30:00")]:
        group = shelf.group(size="1 sec", now=at(MONDAY + timedelta(days), "12:00"))
        assert spans(group) == [(MONDAY, start, "16:00:00")]
        assert group.resumed == {MONDAY}
    assert counts(shelf.group(size="1 sec", now=at(MONDAY + timedelta(181), "12:00"))) == {"out_of_reach": 1}
    shelf.publish(MONDAY, "09:47", "12:00", size="1 sec", is_sparse=True)
    assert counts(shelf.group(size="1 sec", now=at(MONDAY + timedelta(181), "12:00"))) == {"present": 1}


def test_only_the_pairs_that_are_asked_for(shelf):
    pairs = frozenset({("AAPL", TUESDAY), ("MSFT", MONDAY), ("MSFT", date(2025, 9, 30)), ("QQQ", MONDAY)})
    plan = shelf.plan(MONDAY, WEDNESDAY, symbols=("AAPL", "MSFT", "TSLA"), pairs=pairs)
    assert [(group.symbol, [day for day, *_ in spans(group)]) for group in plan.groups] == [
        ("AAPL", [TUESDAY]),
        ("MSFT", [MONDAY]),
        ("TSLA", []),
    ]


def test_files_that_no_ledger_line_names_are_told(shelf):
    shelf.publish(MONDAY, "09:30", "15:59")
    shelf.publish(TUESDAY, "09:30", "12:00", complete=False)
    shelf.old_file(WEDNESDAY, "09:30", "15:59", listed=False)
    shelf.root.bars_manifest.unlink()
    plan = shelf.plan(MONDAY, WEDNESDAY)
    (group,) = plan.groups
    assert counts(group) == {"present": 1, "partial": 1, "missing": 1}
    assert group.unlisted == {MONDAY, TUESDAY, WEDNESDAY}
    # Of a file without our footer nobody knows the kind: fetched anew, its rows kept where the vendor has none.
    assert spans(group) == [(TUESDAY, "12:00:00", "16:00:00"), (WEDNESDAY, "09:30:00", "16:00:00")]
    assert group.resumed == {TUESDAY, WEDNESDAY}
    assert replan(shelf.root, plan.scope, "AAPL", "1 min", now_ns=NOW, planned=group) == group


def test_after_a_claim_only_what_is_still_needed_remains(shelf):
    shelf.publish(MONDAY, "09:30", "15:59")
    plan = shelf.plan(date(2025, 9, 12), WEDNESDAY)
    (group,) = plan.groups
    assert counts(group) == {"missing": 3, "present": 1}
    # Another batch brings one day, finds another empty, and begins the third.
    shelf.publish(TUESDAY, "09:30", "15:59")
    note_days(shelf.root, "1 min", "AAPL", empty={date(2025, 9, 12): EmptyNote("TRADES/regular", NOW)})
    shelf.publish(WEDNESDAY, "09:30", "10:00", complete=False)
    again = replan(shelf.root, plan.scope, "AAPL", "1 min", now_ns=NOW, planned=group)
    assert counts(again) == {"present": 2, "known_empty": 1, "partial": 1}
    assert spans(again) == [(WEDNESDAY, "10:00:00", "16:00:00")]
    assert again == replan(shelf.root, plan.scope, "AAPL", "1 min", now_ns=NOW)
    assert again == shelf.group(date(2025, 9, 12), WEDNESDAY)


def test_a_forced_group_stays_forced_after_its_claim(shelf):
    shelf.publish(MONDAY, "09:30", "15:59")
    plan = shelf.plan(force=True)
    again = replan(shelf.root, plan.scope, "AAPL", "1 min", now_ns=NOW, planned=plan.groups[0])
    assert again == plan.groups[0]
    assert counts(again) == {"forced": 1}


def test_a_plan_is_made_without_writing_anything(shelf):
    shelf.publish(MONDAY, "09:30", "12:00", complete=False)
    coverage = shelf.coverage()
    before = {path: path.stat().st_mtime_ns for path in shelf.root.path.rglob("*")}
    scope = BarsScope(("AAPL", "MSFT"), {"1 min": (MONDAY, WEDNESDAY), "1 sec": (MONDAY, TUESDAY)})
    plan = make_plan(shelf.root, scope, now_ns=NOW, coverage=coverage)
    replan(shelf.root, scope, "AAPL", "1 min", now_ns=NOW)
    preview(plan, 1.0)
    assert {path: path.stat().st_mtime_ns for path in shelf.root.path.rglob("*")} == before


def test_days_outside_the_calendar_are_refused(shelf):
    with pytest.raises(OutsideCalendar):
        shelf.plan(date(1989, 1, 1), MONDAY)


def test_a_preview_tells_requests_runs_of_days_and_reasons(shelf):
    shelf.publish(TUESDAY, "09:30", "15:59")
    shelf.publish(WEDNESDAY, "09:30", "15:59", what="MIDPOINT")
    sizes = dict.fromkeys(("1 hour", "1 min", "1 sec"), (date(2025, 9, 11), date(2025, 9, 18)))
    plan = make_plan(shelf.root, BarsScope(("AAPL",), sizes), now_ns=NOW, coverage=shelf.coverage())
    found = preview(plan, 12.34)
    assert json.loads(json.dumps(found)) == found
    asked = [len(list(requests_for(group.symbol, group.bar_size, group.windows))) for group in plan.groups]
    assert [group["requests"] for group in found["groups"]] == asked
    assert (found["requests"], found["pieces"], found["pacing_seconds"]) == (sum(asked), 16, 12.3)
    assert (found["present"], found["missing"], found["other_kind"]) == (1, 16, 1)
    assert sum(plan.requests_by_size.values()) == plan.requests
    minutes = found["groups"][1]
    assert minutes["ranges"] == [["2025-09-11", "2025-09-15"], ["2025-09-18", "2025-09-18"]]
    assert (minutes["days"], minutes["first"], minutes["last"], minutes["missing"]) == (
        4,
        "2025-09-11",
        "2025-09-18",
        4,
    )


def test_a_preview_of_many_groups_and_holes_stays_short(shelf):
    days = [date(2025, 1, 2) + timedelta(number) for number in range(0, 340, 2)]
    pairs = frozenset((f"S{number}", day) for number in range(200) for day in days)
    sizes = dict.fromkeys(("1 hour", "1 min", "1 sec"), (days[0], days[-1]))
    scope = BarsScope(tuple(f"S{number}" for number in range(200)), sizes, pairs=pairs)
    found = preview(make_plan(shelf.root, scope, now_ns=NOW, coverage=None), None)
    assert len(found["groups"]) == 600
    assert len(json.dumps(found)) < 600 * 600
    assert found["groups"][0]["more_ranges"] > 50
    assert found["pacing_seconds"] is None

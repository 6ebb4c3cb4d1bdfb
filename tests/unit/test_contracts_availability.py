"""Which days of Level 2 can be trained on: each state and each reason, from real files, manifests and gap records."""

import json
import shutil
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.availability import SnapshotsFacts, assess_level2, level2_coverage
from contracts.errors import InvalidName, InvalidSymbol, InvalidWindow, OutsideCalendar
from contracts.layout import DataRoot
from contracts.sessions import ET, Window, parse_window, sessions_between, today_et
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.backfill import BackfillManifestLine
from contracts.v1.gaps import Gap
from contracts.v1.level2 import SNAPSHOT_SCHEMA, BookScope, SnapshotMetadata, snapshot_schema
from contracts.v1.quality import Quality

THU, FRI = date(2025, 9, 4), date(2025, 9, 5)
HALF_DAY = date(2024, 11, 29)
WINDOW = "09:30-10:30"
STEP_MS = 1000
MINUTE = 60 * 10**9


@pytest.fixture
def root(tmp_path):
    return DataRoot(tmp_path / "root")


def metadata_of(day=THU, window=WINDOW, interval_ms=STEP_MS, symbol="AAPL", source="databento"):
    scope = BookScope(venues=("XNAS",), odd_lots="included", time_basis="receive", levels=1)
    return SnapshotMetadata(
        symbol=symbol,
        source=source,
        levels=1,
        interval_ms=interval_ms,
        session_date=day,
        window_et=window,
        book_scope=scope,
        producer="test 1",
    )


def table_of(ns, schema=SNAPSHOT_SCHEMA):
    rows = len(ns)
    lists = [pa.array([[value]] * rows, pa.list_(kind)) for value, kind in ((1.0, pa.float64()), (1, pa.int64()))]
    return pa.table([iso_utc_from_ns(np.asarray(ns, np.int64)), *lists, *lists], schema=schema)


def write(path, rows_et, day=THU, metadata=None, step_ms=STEP_MS, **options):
    """Write a file with rows on a grid over an ET window such as 09:30-10:00."""
    start, end = parse_window(rows_et).bounds_ns(day)
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = SNAPSHOT_SCHEMA if metadata is None else snapshot_schema(metadata)
    pq.write_table(table_of(range(start, end, step_ms * 10**6), schema), path, row_group_size=1000, **options)
    return path


def historical(root, day=THU, rows_et=WINDOW, tag="databento", **parts):
    return write(root.snapshots_path("AAPL", day, tag), rows_et, day, metadata_of(day, **parts))


def live(root, stamp, rows_et, day=THU, **parts):
    path = root.symbol_dir("AAPL") / f"{day}_snapshots_{stamp}.parquet"
    return write(path, rows_et, day, metadata_of(day, **{"source": "ibkr", "window": "09:30-10:30", **parts}))


def line(status, day=THU, symbol="AAPL", **parts):
    return BackfillManifestLine(symbol=symbol, date=day, status=status, **parts)


def append(path, *texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for text in texts:
            file.write(text if isinstance(text, bytes) else text.to_json_line().encode())


def gap(start, end, cause="disconnect", symbol="AAPL", day=THU):
    times = (datetime.combine(day, time.fromisoformat(clock), ET).astimezone(UTC) for clock in (start, end))
    first, last = (moment.isoformat() for moment in times)
    return Gap(symbol=symbol, session_id="s", gap_start=first, gap_end=last, cause=cause)


def quality(condition):
    return Quality(vendor_condition=condition, rows=1, events=1, crossed=0, locked=0, one_sided=0, maybe_bad_book=0)


def one_day(root, day=THU, **options):
    coverage = level2_coverage([root], "AAPL", day, **options)
    json.dumps(coverage.to_document(), allow_nan=False)
    assert str(coverage)
    return coverage.days[0]


def holes(day):
    return [(hole.kind, str(hole)) for hole in day.holes]


def test_a_range_is_told_day_by_day(root):
    """Thursday is whole, Friday was never tried, the weekend is closed, Monday is empty."""
    path = historical(root)
    append(root.backfill_manifest, line("WRITE"), line("EMPTY", date(2025, 9, 8), reason="no rows"))
    coverage = level2_coverage([root], " aapl ", THU, date(2025, 9, 8))
    assert (coverage.symbol, [day.day.day for day in coverage.days]) == ("AAPL", [4, 5, 6, 7, 8])
    assert [(day.state, day.why) for day in coverage.days] == [
        ("present", None),
        ("missing", "never_tried"),
        ("missing", "closed"),
        ("missing", "closed"),
        ("missing", "empty"),
    ]
    assert coverage.present_days == [THU]
    assert coverage.missing_days == [FRI, date(2025, 9, 8)]
    assert coverage.closed_days == [date(2025, 9, 6), date(2025, 9, 7)]
    assert coverage.partial_days == []
    assert coverage.counts == {"present": 1, "partial": 0, "missing": 2, "closed": 2}
    assert coverage.missing_by_why == {"never_tried": 1, "closed": 2, "empty": 1}
    assert coverage.files == [path]
    assert coverage.day(FRI).why == "never_tried"
    with pytest.raises(KeyError, match="2025-09-09"):
        coverage.day(date(2025, 9, 9))
    assert str(coverage).splitlines() == [
        "AAPL level2 2025-09-04 to 2025-09-08: 1 present, 0 partial, 2 missing, 2 closed",
        "  2025-09-04  present  databento 3600 rows, window 09:30-10:30",
        "  2025-09-05  missing  never_tried",
        "  2025-09-08  missing  empty (no rows)",
    ]
    assert "1 present" in repr(coverage)
    document = coverage.to_document()
    assert document["days"][1] == {"date": "2025-09-05", "state": "missing", "why": "never_tried"}


def test_nothing_at_all_is_never_tried_and_nothing_is_made(tmp_path):
    coverage = level2_coverage([DataRoot(tmp_path / "none")], "AAPL", THU)
    assert (coverage.days[0].why, coverage.skipped) == ("never_tried", ())
    assert list(tmp_path.iterdir()) == []


def test_why_a_day_is_missing(root):
    days = [date(2025, 9, 8 + n) for n in range(5)]
    append(
        root.backfill_manifest,
        line("EMPTY", days[0], reason="no records"),
        line("ERROR", days[1], reason="row_cap", error="more than 5 rows"),
        line("WRITE", days[2]),
        b'{"symbol":"AAPL","date":"2025-09-11","status":"WRITTEN"}\n',
        line("ERROR", days[4], reason="storage"),
        line("SKIP", days[4]),
    )
    historical(root, days[3]).write_bytes(b"")
    coverage = level2_coverage([root], "AAPL", days[0], days[-1])
    assert [day.why for day in coverage.days] == ["empty", "error", "file_gone", "unreadable", "file_gone"]
    empty, error, gone, unreadable, again = coverage.days
    assert empty.reason == "no records"
    assert error.error == "row_cap: more than 5 rows"
    assert (gone.status, gone.file_gone) == ("WRITE", True)
    assert unreadable.sources[0].unreadable[0][1] == "the file has no bytes, its writer was interrupted"
    assert (unreadable.status, unreadable.file_gone) == ("WRITE", False), "WRITTEN is read as WRITE"
    assert again.error is None, "an ERROR before the line that holds is history"


def test_an_error_changes_nothing_but_is_told(root):
    historical(root)
    append(root.backfill_manifest, line("WRITE"), line("ERROR", reason="stream_cut", error="cut after 5 of 9"))
    append(root.backfill_manifest, line("EMPTY", FRI, reason="no rows"), line("ERROR", FRI, reason="storage"))
    present, empty = level2_coverage([root], "AAPL", THU, FRI).days
    assert (present.state, present.status, present.error) == ("present", "WRITE", "stream_cut: cut after 5 of 9")
    assert (empty.why, empty.reason, empty.error) == ("empty", "no rows", "storage")
    assert "last try ERROR storage" in str(empty)


@pytest.mark.parametrize("condition", ["degraded", "pending", "missing", "available"])
def test_what_the_vendor_says_of_its_data_is_told_on_present_and_missing_days(root, condition):
    historical(root)
    told = quality(condition)
    append(root.backfill_manifest, line("WRITE", quality=told), line("SKIP"), line("EMPTY", FRI, quality=told))
    append(root.backfill_manifest, line("ERROR", date(2025, 9, 8), quality=told))
    days = level2_coverage([root], "AAPL", THU, date(2025, 9, 8)).days
    expected = None if condition == "available" else condition
    assert [days[n].vendor_condition for n in (0, 1, 4)] == [expected] * 3
    assert ("the vendor calls" in str(days[0])) == (expected is not None)


def test_minutes_missing_at_both_ends_of_the_window_asked_for_are_told(root):
    historical(root)
    day = one_day(root, window="09:00-11:00")
    assert (day.state, holes(day)) == ("partial", [("start", "09:00-09:30"), ("end", "10:30-11:00")])
    assert day.sources[0].missing_s == 3600
    assert one_day(root, window=Window(time(9, 45), time(10, 30))).state == "present"


def test_a_file_that_ends_before_its_window_is_partial_to_the_row(root):
    historical(root, rows_et="09:30-10:29")
    assert holes(one_day(root)) == [("end", "10:29-10:30")]
    assert one_day(root, window="09:30-10:29").state == "present"
    start, end = parse_window(WINDOW).bounds_ns(THU)
    path = root.snapshots_path("AAPL", THU)
    pq.write_table(table_of(range(start, end - 10**9, 10**9), snapshot_schema(metadata_of())), path)
    assert holes(one_day(root)) == [("end", "10:29:59-10:30")]


def test_a_book_not_known_at_first_starts_late_and_that_alone_is_no_hole(root):
    historical(root, rows_et="09:47-10:30")
    day = one_day(root)
    assert (day.state, day.holes, day.starts_late) == ("present", (), time(9, 47))
    assert "starts late 09:47" in str(day)
    assert one_day(root, window="09:47-10:30").starts_late is None
    before = one_day(root, window="09:00-10:30")
    assert (holes(before), before.starts_late) == ([("start", "09:00-09:30")], time(9, 47))
    nothing = one_day(root, window="09:30-09:40")
    assert (nothing.state, nothing.why, holes(nothing)) == ("missing", "no_rows", [("no_rows", "09:30-09:40")])


def test_the_manifest_tells_the_window_when_the_file_is_narrower_or_silent(root):
    historical(root)
    append(root.backfill_manifest, line("WRITE", window_et="09:30-11:00"))
    assert holes(one_day(root)) == [("end", "10:30-11:00")]
    write(root.snapshots_path("AAPL", FRI), "09:40-10:30", FRI)
    append(root.backfill_manifest, line("WRITE", FRI, window_et=WINDOW, interval_ms=STEP_MS), line("SKIP", FRI))
    old = one_day(root, FRI)
    assert (old.state, old.starts_late, str(old.sources[0].window)) == ("present", time(9, 40), WINDOW)


def test_an_old_file_of_unknown_window_is_held_against_the_one_asked_for_only(root):
    write(root.snapshots_path("AAPL", THU), "09:40-10:29")
    day = one_day(root)
    assert (day.state, day.sources[0].window) == ("present", None)
    assert (str(day.sources[0].first.time()), day.rows) == ("09:40:00", 49 * 60)
    asked = one_day(root, window=WINDOW)
    assert [kind for kind, _ in holes(asked)] == ["start", "end"]


def test_files_without_a_grid_may_be_quiet(root):
    historical(root, rows_et="09:40-10:15", interval_ms=0)
    day = one_day(root)
    assert (day.state, day.starts_late) == ("present", time(9, 40))
    assert holes(one_day(root, window="09:00-11:00")) == [("start", "09:00-09:30"), ("end", "10:30-11:00")]


def test_segments_of_a_live_day_are_one_and_holes_between_them_are_told(root):
    live(root, "093000", "09:30-09:45")
    live(root, "094500", "09:45-10:00")
    live(root, "100500", "10:05-10:30")
    day = one_day(root)
    assert (day.state, holes(day)) == ("partial", [("between", "10:00-10:05")])
    assert [path.name[-14:-8] for path in day.files] == ["093000", "094500", "100500"]
    assert day.rows == 55 * 60
    assert one_day(root, window="09:30-10:00").state == "present"
    assert holes(one_day(root, window="10:02-10:30")) == [("between", "10:02-10:05")]
    assert holes(one_day(root, window="10:01-10:04")) == [("no_rows", "10:01-10:04")]


def test_a_live_capture_that_began_or_ended_inside_the_window_is_partial(root):
    live(root, "094500", "09:45-10:20")
    assert holes(one_day(root)) == [("start", "09:30-09:45"), ("end", "10:20-10:30")]
    assert one_day(root).starts_late is None, "the hole says it"
    start, end = parse_window(WINDOW).bounds_ns(FRI)
    schema = snapshot_schema(metadata_of(FRI, source="ibkr"))
    path = root.symbol_dir("AAPL") / "2025-09-05_snapshots_093020.parquet"
    pq.write_table(table_of(range(start + 20 * 10**9, end, 10**9), schema), path)
    assert (one_day(root, FRI).state, one_day(root, FRI).starts_late) == ("present", time(9, 30, 20))


def test_connecting_within_the_first_minute_is_a_late_start_and_no_hole(root):
    """A session begins with its window; until its first message there is always a gap record."""
    live(root, "093000", "09:30-10:30")
    append(root.gaps, gap("09:30", "09:30:02.5", "connect"))
    day = one_day(root)
    assert (day.state, holes(day), day.sources[0].missing_s) == ("present", [], 0)
    assert [str(hole) for hole in day.gaps] == ["09:30-09:30:02.500 (connect)"]
    append(root.gaps, gap("10:00", "10:00:02.5", "connect"))
    assert one_day(root).state == "partial", "a second session within the window"


def test_a_live_session_that_ends_within_the_last_minute_of_its_own_window_is_whole(root):
    live(root, "093000", "09:30-10:29", window="09:30-10:30")
    assert holes(one_day(root)) == [("end", "10:29-10:30")]
    live(root, "093000", "09:30-10:29", window="09:30-10:29")
    assert one_day(root).state == "present"
    path = root.symbol_dir("AAPL") / f"{THU}_snapshots_093000.parquet"
    start, end = parse_window("09:30-10:30").bounds_ns(THU)
    schema = snapshot_schema(metadata_of(THU, source="ibkr", window="09:30-10:30"))
    pq.write_table(table_of(range(start, end - 20 * 10**9, 10**9), schema), path)
    assert one_day(root).state == "present"
    assert holes(one_day(root, window="09:30-10:30")) == [("end", "10:29:40-10:30")], "asked for, it lacks"


def test_gap_records_inside_the_window_make_a_live_day_partial(root):
    live(root, "093000", "09:30-10:30")
    append(
        root.gaps,
        gap("09:59:50", "10:00:05.250"),
        gap("08:00", "09:31", "connect"),
        gap("10:30", "10:45", "crash"),
        gap("10:00", "10:01", symbol="MSFT"),
        gap("10:00", "10:01", day=FRI),
        b"torn\n",
    )
    day = one_day(root)
    assert day.state == "partial"
    assert holes(day) == [("gap", "09:30-09:31 (connect)"), ("gap", "09:59:50-10:00:05.250 (disconnect)")]
    assert day.sources[0].missing_s == 75.25
    assert len(level2_coverage([root], "AAPL", THU).skipped) == 1
    assert one_day(root, window="09:31-09:50").state == "present"
    assert [str(hole) for hole in one_day(root, FRI).gaps] == ["10:00-10:01 (disconnect)"]
    assert "gaps 10:00-10:01" in str(one_day(root, FRI))


def test_gap_records_are_of_live_capture_only(root):
    historical(root)
    append(root.gaps, gap("10:00", "10:01"))
    assert (one_day(root).state, len(one_day(root).gaps)) == ("present", 1)
    assert one_day(root, source="databento").gaps == ()


def test_overlapping_and_zero_length_gap_records_count_their_time_once(root):
    live(root, "093000", "09:30-10:30")
    append(root.gaps, *[gap("10:00", "10:02"), gap("10:01", "10:03"), gap("10:10", "10:10", "reset_317")] * 2)
    source = one_day(root).sources[0]
    assert (len(source.holes), source.missing_s) == (3, 180)


def test_minutes_after_the_close_of_a_half_day_are_not_missing(root):
    historical(root, HALF_DAY, rows_et="12:00-13:00", window="12:00-14:00")
    assert one_day(root, HALF_DAY).state == "present"
    assert one_day(root, HALF_DAY, window="12:00-16:00").state == "present"
    assert holes(one_day(root, HALF_DAY, window="11:00-16:00")) == [("start", "11:00-12:00")]
    assert one_day(root, HALF_DAY, window="14:00-15:00").why == "no_rows"
    historical(root, HALF_DAY, rows_et="12:00-12:50", window="12:00-14:00")
    assert holes(one_day(root, HALF_DAY)) == [("end", "12:50-13:00")]


def test_data_of_a_day_on_which_the_exchange_is_closed_are_told(root):
    saturday = date(2025, 9, 6)
    live(root, "093000", "09:30-10:30", saturday)
    coverage = level2_coverage([root], "AAPL", saturday)
    assert (coverage.present_days, coverage.closed_days) == ([saturday], [])
    closed = one_day(root, date(2025, 1, 9))
    assert closed.why == "closed"
    append(root.backfill_manifest, line("EMPTY", date(2025, 1, 9), reason="market closed"))
    assert (one_day(root, date(2025, 1, 9)).why, one_day(root, date(2025, 1, 9)).reason) == ("closed", "market closed")


def test_sources_are_judged_apart_and_the_best_one_counts(root):
    historical(root)
    live(root, "094500", "09:45-10:30")
    day = one_day(root)
    assert (day.state, [(source.source, source.state) for source in day.sources]) == (
        "present",
        [("databento", "present"), ("ibkr", "partial")],
    )
    assert len(day.files) == 2
    assert one_day(root, source="ibkr").state == "partial"
    assert one_day(root, source=["ibkr", "databento"]).state == "present"
    assert one_day(root, source="other").why == "never_tried"


def test_a_lost_file_of_one_source_is_told_beside_the_other(root):
    live(root, "093000", "09:30-10:30")
    append(root.backfill_manifest, line("WRITE", path="C:\\data\\2025-09-04_snapshots_databento.parquet"))
    day = one_day(root)
    assert (day.state, day.file_gone) == ("present", True)
    assert "the file of the WRITE line is gone" in str(day)
    assert not one_day(root, source="ibkr").file_gone
    assert one_day(root, source="databento").why == "file_gone"


def test_an_unreadable_segment_makes_a_day_partial(root):
    live(root, "093000", "09:30-10:00")
    live(root, "100000", "10:00-10:30")
    live(root, "101500", "10:15-10:30").write_bytes(b"PAR1 and no more")
    day = one_day(root)
    assert (day.state, day.holes, len(day.sources[0].unreadable)) == ("partial", (), 1)


def foreign_columns(path):
    pq.write_table(pa.table({"a": [1]}), path)


def no_rows(path):
    pq.write_table(table_of([]), path)


def other_version(path):
    schema = SNAPSHOT_SCHEMA.with_metadata({"schema_version": "level2_snapshot.v2"})
    pq.write_table(table_of([0], schema), path)


def other_symbol(path):
    write(path, WINDOW, THU, metadata_of(symbol="MSFT"))


def other_day(path):
    write(path, WINDOW, FRI)


def half_a_footer(path):
    pq.write_table(
        table_of([0], SNAPSHOT_SCHEMA.with_metadata({"symbol": "AAPL", "schema_version": "level2_snapshot.v1"})), path
    )


def other_levels(path):
    metadata = metadata_of().model_copy(update={"levels": 2})
    write(path, WINDOW, THU, metadata)


def bad_times(path):
    texts = pa.array(["2025-09-04T13:30:00.000000000+00:00", "2025-09-31T13:30:00.000000000+00:00"])
    pq.write_table(table_of([0, 0]).set_column(0, "timestamp", texts), path)


def null_times(path):
    texts = pa.array([None, None], pa.string())
    pq.write_table(table_of([0, 0]).set_column(0, "timestamp", texts), path)


def torn(path):
    write(path, WINDOW)
    path.write_bytes(path.read_bytes()[:-20])


def folder(path):
    path.mkdir()


UNUSABLE = {
    "not a readable parquet": torn,
    "not a regular file": folder,
    "columns": foreign_columns,
    "no rows": no_rows,
    "schema_version 'level2_snapshot.v2' is unknown": other_version,
    "its footer says MSFT": other_symbol,
    "a row of 2025-09-05": other_day,
    "footer's metadata: ": half_a_footer,
    "the footer says levels 2": other_levels,
    "timestamps: '2025-09-31": bad_times,
    "timestamps: the value is null": null_times,
}


@pytest.mark.parametrize(("reason", "damage"), UNUSABLE.items(), ids=[damage.__name__ for damage in UNUSABLE.values()])
def test_a_file_that_no_reader_would_load_is_missing_with_its_reason(root, reason, damage):
    path = root.snapshots_path("AAPL", THU)
    path.parent.mkdir(parents=True)
    damage(path)
    day = one_day(root)
    assert (day.state, day.why, day.files) == ("missing", "unreadable", ())
    ((place, told),) = day.sources[0].unreadable
    assert place == path
    assert reason in told


def test_files_without_statistics_are_read_for_their_times(root):
    path = root.snapshots_path("AAPL", THU)
    write(path, "09:30-10:29", THU, metadata_of(), write_statistics=False)
    assert holes(one_day(root)) == [("end", "10:29-10:30")]


def test_a_link_that_leads_nowhere_is_unreadable_as_it_is_to_the_reader(root):
    path = historical(root)
    append(root.backfill_manifest, line("WRITE"))
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))
    assert one_day(root).why == "unreadable"
    path.unlink()
    assert one_day(root).why == "file_gone"


def test_minutes_that_lack_inside_a_sampled_file_are_told(root):
    path = historical(root)
    table = pq.read_table(path)
    third = table.num_rows // 3
    pq.write_table(pa.concat_tables([table.slice(0, third), table.slice(2 * third)]), path)
    day = one_day(root)
    assert (day.state, [hole.kind for hole in day.holes]) == ("partial", ["between"])
    assert day.sources[0].missing_s == third * STEP_MS / 1000


def test_segments_that_overlap_are_told_because_they_are_not_loaded_as_one(root):
    live(root, "093000", "09:30-10:00")
    live(root, "094500", "09:45-10:30")
    day = one_day(root)
    assert day.state == "partial"
    ((path, told),) = day.sources[0].unreadable
    assert path.name == "2025-09-04_snapshots_094500.parquet"
    assert "overlap" in told


def test_a_day_to_come_is_not_yet_missed(root):
    tomorrow = today_et() + timedelta(days=1)
    session = sessions_between(tomorrow, tomorrow + timedelta(days=10))[0]
    assert one_day(root, session).why == "not_yet"


def test_foreign_names_and_temporary_files_are_passed_over(root):
    path = historical(root)
    for name in (".2025-09-05_snapshots_databento.parquet.1.tmp", "2025-09-05_snapshots_X.parquet", "notes.txt"):
        shutil.copy(path, path.with_name(name))
    shutil.copy(path, path.with_name("2025-09-05_events_databento.parquet"))
    coverage = level2_coverage([root], "AAPL", THU, FRI)
    assert (coverage.present_days, coverage.missing_days) == ([THU], [FRI])


def test_roots_in_every_style_are_one_and_nothing_counts_twice(tmp_path):
    one, two = DataRoot(tmp_path / "one"), DataRoot(tmp_path / "two", "books")
    historical(one)
    historical(DataRoot(one.path, "Level2"), FRI)
    historical(two, date(2025, 9, 8))
    (tmp_path / "link").symlink_to(one.path)
    copy = two.snapshots_path("AAPL", THU)
    shutil.copy(one.snapshots_path("AAPL", THU), copy)
    (one.path / "level2" / "AAPL" / "2025-09-04_snapshots_other.parquet").symlink_to(one.snapshots_path("AAPL", THU))
    roots = [one, DataRoot(one.path, "Level2"), DataRoot(tmp_path / "link"), two]
    append(one.backfill_manifest, b"torn\n")
    coverage = level2_coverage(roots, "AAPL", THU, date(2025, 9, 8))
    assert coverage.present_days == [THU, FRI, date(2025, 9, 8)]
    assert len(coverage.files) == 3
    assert coverage.files[0] == one.snapshots_path("AAPL", THU)
    assert len(coverage.skipped) == 1


def test_of_two_manifests_the_newer_line_counts_whatever_the_order_of_roots(tmp_path):
    one, two = DataRoot(tmp_path / "one"), DataRoot(tmp_path / "two")
    append(one.backfill_manifest, line("EMPTY", written_at=datetime(2025, 9, 5, tzinfo=UTC)))
    append(two.backfill_manifest, line("WRITE", written_at=datetime(2025, 9, 6, tzinfo=UTC)))
    for roots in ([one, two], [two, one]):
        assert level2_coverage(roots, "AAPL", THU).days[0].why == "file_gone"
    append(one.backfill_manifest, line("EMPTY", FRI))
    append(two.backfill_manifest, line("WRITE", FRI))
    assert level2_coverage([one, two], "AAPL", FRI).days[0].why == "empty", "without times the better root counts"
    assert level2_coverage([two, one], "AAPL", FRI).days[0].why == "file_gone"


def test_damaged_manifest_lines_are_counted_and_hide_nothing(root):
    good = line("EMPTY", reason="no rows")
    append(
        root.backfill_manifest,
        b"\xef\xbb\xbf" + good.to_json_line().encode().replace(b"\n", b"\r\n"),
        b'{"symbol":"AAPL","da' + line("WRITE", symbol="MSFT").to_json_line().encode(),
        b'{"symbol":"AAPL","date":"2025-09-04","status":"WRITE","rows":"5"}\n',
        b'{"symbol":"AAPL","date":"2025-09-04","status":"WRITE","schema_version":"v9"}\n',
        line("WRITE", symbol="MSFT"),
        line("ERROR", error='a "quoted" text with \\ in it', symbol="MSFT"),
        b'{"symbol":"AAPL","date":"2025-09-04","status":"WRI',
    )
    coverage = level2_coverage([root], "AAPL", THU)
    assert (coverage.days[0].why, coverage.days[0].reason) == ("empty", "no rows")
    assert [skip.line for skip in coverage.skipped] == [2, 3, 4]
    assert "3 lines or folders could not be read" in str(coverage)
    assert [skip["line"] for skip in coverage.to_document()["skipped"]] == [2, 3, 4]


def test_what_cannot_be_read_at_all_is_told_too(root):
    historical(root)
    root.backfill_manifest.mkdir()
    (skip,) = level2_coverage([root], "AAPL", THU).skipped
    assert (skip.path, skip.line) == (root.backfill_manifest, 0)
    assert "cannot be read" in skip.reason
    assert one_day(root).state == "present"


def test_what_cannot_be_asked_is_refused(root):
    with pytest.raises(InvalidSymbol):
        level2_coverage([root], "../x", THU)
    with pytest.raises(InvalidWindow):
        level2_coverage([root], "AAPL", THU, window="10:00-09:00")
    with pytest.raises(OutsideCalendar):
        level2_coverage([root], "AAPL", THU, date(2999, 1, 4))
    with pytest.raises(OutsideCalendar):
        level2_coverage([root], "AAPL", date(1989, 12, 29), THU)
    with pytest.raises(InvalidName, match="ET trading day"):
        level2_coverage([root], "AAPL", datetime(2025, 9, 4, tzinfo=UTC))
    with pytest.raises(InvalidName, match="ET trading day"):
        level2_coverage([root], "AAPL", "2025-09-04")
    for source in ("Databento", "../x", "", ["ibkr", 5]):
        with pytest.raises(InvalidName, match="source"):
            level2_coverage([root], "AAPL", THU, source=source)
    assert level2_coverage([root], "AAPL", FRI, THU).days == ()


def test_days_on_which_clocks_change_are_days(root):
    """2025-03-09 has 23 hours, 2025-11-02 has 25; both are Sundays, the windows beside them are right."""
    for day in (date(2025, 3, 7), date(2025, 3, 10), date(2025, 10, 31), date(2025, 11, 3)):
        historical(root, day)
        assert one_day(root, day).state == "present"
    assert level2_coverage([root], "AAPL", date(2025, 3, 9)).days[0].why == "closed"


SEGMENTS = st.lists(st.tuples(st.integers(0, 59), st.integers(1, 20)), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(segments=SEGMENTS, start=st.integers(0, 50), length=st.integers(1, 30))
def test_rows_and_holes_of_live_segments_fill_the_window_exactly(tmp_path, segments, start, length):
    """Minute by minute: in the window each minute either has rows or lies in a hole, never both."""
    base, _ = parse_window("09:00-10:00").bounds_ns(THU)
    stop = start + length
    window = Window(time(9, start), time(9 + stop // 60, stop % 60))
    files, covered = [], set()
    for begin, minutes in segments:
        metadata = metadata_of(window=str(window), interval_ms=60_000, source="ibkr")
        last = begin + minutes - 1
        name = tmp_path / f"{begin}-{minutes}"
        span = base + begin * MINUTE, base + last * MINUTE
        files.append(SnapshotsFacts(name, THU, "ibkr", time(9, begin), minutes, metadata, *span))
        covered |= set(range(begin, last + 1))
    (day,) = assess_level2("AAPL", THU, THU, files=files, window=window).days
    missing = set()
    for hole in day.holes:
        first, end = (int(moment.timestamp() * 10**9 - base) // MINUTE for moment in (hole.start, hole.end))
        assert first < end
        assert not missing & set(range(first, end)), "holes of files do not overlap"
        missing |= set(range(first, end))
    asked = set(range(start, stop))
    assert missing == asked - covered
    assert day.sources[0].missing_s == 60 * len(missing)
    overlap = sum(minutes for _, minutes in segments) > len(covered)
    assert (day.state == "present") == (not missing and not overlap)


WORDS = st.sampled_from(["WRITE", "SKIP", "EMPTY", "ERROR"])


@settings(max_examples=50, deadline=None)
@given(statuses=st.lists(WORDS, max_size=6), has_file=st.booleans())
def test_the_last_line_that_is_not_an_error_holds(statuses, has_file):
    start, end = parse_window(WINDOW).bounds_ns(THU)
    facts = SnapshotsFacts(Path("a"), THU, "databento", None, 1, metadata_of(), start, end - 10**9)
    lines = [line(status, reason=str(n)) for n, status in enumerate(statuses)]
    (day,) = assess_level2("AAPL", THU, THU, lines=lines, files=[facts] if has_file else []).days
    settled = [(n, status) for n, status in enumerate(statuses) if status != "ERROR"]
    errors = [n for n, status in enumerate(statuses) if status == "ERROR"]
    assert day.status == (settled[-1][1] if settled else None)
    assert (day.error is not None) == bool(errors and (not settled or errors[-1] > settled[-1][0]))
    expected = {"WRITE": "file_gone", "SKIP": "file_gone", "EMPTY": "empty", None: "error" if errors else "never_tried"}
    assert day.why == (None if has_file else expected[day.status])

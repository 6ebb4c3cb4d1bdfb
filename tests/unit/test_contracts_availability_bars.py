"""Which days of bars can be trained on, and the fingerprint of a slice of files, Level 2 or bars."""

import json
import os
import shutil
from datetime import UTC, date, datetime, time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.availability import assess_level2, bars_availability, fingerprint, level2_coverage
from contracts.errors import InvalidName, InvalidSymbol, NotAvailable, OutsideCalendar
from contracts.layout import DataRoot
from contracts.sessions import ET
from contracts.v1.bars import BarsCoverage, CoverageDay, CoverageEntry, CoverageTotal, parse_bars_coverage

THU, FRI = date(2025, 9, 4), date(2025, 9, 5)
HALF_DAY = date(2024, 11, 29)


def listed(day, first="09:30", last="15:59", rows=390, root=Path("/data")):
    times = {}
    if first is not None:
        times = {
            name: datetime.combine(day, time.fromisoformat(clock), ET)
            for name, clock in (("time_start", first), ("time_end", last))
        }
    name = f"{day}.parquet"
    return CoverageDay(date=day, path=str(root / "bars" / "minute" / "AAPL" / name), filename=name, rows=rows, **times)


def entry(*days, bar_size="1 min", symbol="AAPL"):
    total = CoverageTotal(date_start=days[0].date, date_end=days[-1].date)
    return CoverageEntry(symbol=symbol, bar_size=bar_size, total=total, days=days)


def one_day(day, *, bar_size="1 min", **parts):
    report = bars_availability([entry(listed(day, **parts), bar_size=bar_size)], "AAPL", bar_size, day)
    json.dumps(report.to_document(), allow_nan=False)
    (only,) = report.days
    return only.state, [(hole.kind, str(hole)) for hole in only.holes]


def test_days_of_bars_are_told_through_the_index(tmp_path):
    entries = (entry(listed(FRI, symbol) if symbol == "x" else listed(FRI), symbol=symbol) for symbol in ("MSFT",))
    coverage = BarsCoverage(
        schema_version="bars_coverage.v1",
        generated_at=datetime(2025, 9, 9, tzinfo=UTC),
        entries=(
            entry(listed(THU), listed(date(2025, 9, 8), last="12:00")),
            *entries,
            entry(listed(FRI), bar_size="1 sec"),
        ),
    )
    report = bars_availability(coverage, "aapl", "1 min", THU, date(2025, 9, 9))
    assert (report.present_days, report.partial_days) == ([THU], [date(2025, 9, 8)])
    assert report.missing_days == [FRI, date(2025, 9, 9)]
    assert report.closed_days == [date(2025, 9, 6), date(2025, 9, 7)]
    assert report.missing_by_why == {"never_downloaded": 2, "closed": 2}
    assert report.files == [Path(f"/data/bars/minute/AAPL/{day}.parquet") for day in (THU, "2025-09-08")]
    assert str(report).splitlines() == [
        "AAPL 1 min bars 2025-09-04 to 2025-09-09: 1 present, 1 partial, 2 missing, 2 closed",
        "  2025-09-04  present  390 rows; first bar 09:30, last bar 15:59",
        "  2025-09-05  missing  never_downloaded",
        "  2025-09-08  partial  390 rows; first bar 09:30, last bar 12:00; no data 12:01-16:00",
        "  2025-09-09  missing  never_downloaded",
    ]


@pytest.mark.parametrize(
    ("bar_size", "first", "last", "expected"),
    [
        ("1 min", "09:30", "15:59", []),
        ("1 min", "04:00", "19:59", []),
        ("1 min", "09:31", "15:59", []),
        ("1 min", "09:32", "15:59", [("start", "09:30-09:32")]),
        ("1 min", "09:30", "15:58", [("end", "15:59-16:00")]),
        ("1 hour", "09:30", "15:00", []),
        ("1 hour", "10:00", "15:00", []),
        ("1 hour", "11:00", "14:00", [("start", "09:30-11:00"), ("end", "15:00-16:00")]),
        ("1 sec", "09:30:01", "15:59:59", []),
        ("1 sec", "09:30:02", "15:59:57", [("start", "09:30-09:30:02"), ("end", "15:59:58-16:00")]),
        ("1 min", "04:00", "08:00", [("end", "09:30-16:00")]),
        ("1 min", "17:00", "19:00", [("start", "09:30-16:00")]),
    ],
)
def test_regular_hours_must_be_covered_to_one_bar(bar_size, first, last, expected):
    state, holes = one_day(THU, bar_size=bar_size, first=first, last=last)
    assert (state, holes) == ("partial" if expected else "present", expected)


def test_a_half_day_is_complete_at_one(tmp_path):
    assert one_day(HALF_DAY, last="12:59", rows=210) == ("present", [])
    assert one_day(HALF_DAY, last="12:00")[1] == [("end", "12:01-13:00")]


def test_days_of_unknown_times_and_closed_days_with_bars_count_as_present():
    assert one_day(THU, first=None) == ("present", [])
    assert one_day(date(2025, 9, 6), first="09:30", last="09:40") == ("present", [])


def test_a_day_without_rows_is_missing():
    report = bars_availability([entry(listed(THU, rows=0))], "AAPL", "1 min", THU)
    assert (report.days[0].why, report.files) == ("empty", [])


def test_old_coverage_with_naive_times_is_read():
    document = {
        "schema_version": "bars_coverage.v1",
        "generated_at": "2025-09-16T02:10:00",
        "entries": [
            {
                "symbol": "BRK.B",
                "bar_size": "1 min",
                "total": {"date_start": "2025-09-15", "date_end": "2025-09-15"},
                "days": [
                    {
                        "date": "2025-09-15",
                        "time_start": "2025-09-15T09:30:00",
                        "time_end": "2025-09-15T16:00:00",
                        "path": "/data/2025-09-15.parquet",
                        "filename": "2025-09-15.parquet",
                        "rows": 389,
                    }
                ],
            }
        ],
    }
    report = bars_availability(parse_bars_coverage(json.dumps(document)), "BRK B", "1 min", date(2025, 9, 15))
    assert report.present_days == [date(2025, 9, 15)]


def test_with_roots_the_files_must_be_there_and_may_have_moved(tmp_path):
    old, new = DataRoot(tmp_path / "old"), DataRoot(tmp_path / "new")
    coverage = [entry(listed(THU, root=old.path), listed(FRI, root=old.path))]
    place = old.bars_path("1 min", "AAPL", THU)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"bars")
    report = bars_availability(coverage, "AAPL", "1 min", THU, FRI, roots=[new, old])
    assert [(day.state, day.why) for day in report.days] == [("present", None), ("missing", "file_gone")]
    shutil.move(old.path, new.path)
    moved = bars_availability(coverage, "AAPL", "1 min", THU, FRI, roots=[old, new])
    assert moved.files == [new.bars_path("1 min", "AAPL", THU)]


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(InvalidSymbol):
        bars_availability([], "", "1 min", THU)
    with pytest.raises(InvalidName, match="1 hour, 1 min, 1 sec"):
        bars_availability([], "AAPL", "5 min", THU)
    with pytest.raises(OutsideCalendar):
        bars_availability([], "AAPL", "1 min", date(1980, 1, 2))
    with pytest.raises(InvalidName):
        bars_availability([], "AAPL", "1 min", datetime(2025, 9, 4, tzinfo=UTC))


def files_below(root):
    """Files of all kinds, whose contents need no meaning for a fingerprint."""
    paths = [
        root.snapshots_path("AAPL", THU),
        root.snapshots_path("AAPL", FRI),
        root.snapshots_path("AAPL", THU, "other"),
        root.symbol_dir("AAPL") / "2025-09-04_snapshots_093000.parquet",
        root.symbol_dir("BRK-B") / "2025-09-04_snapshots_databento.parquet",
        root.bars_path("1 min", "AAPL", THU),
        root.bars_path("1 sec", "AAPL", THU),
    ]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content %d" % number * 1000)
    return paths


def test_a_fingerprint_is_of_names_and_bytes_not_of_place_time_or_order(tmp_path):
    paths = files_below(DataRoot(tmp_path / "a" / "root"))
    told = fingerprint(paths)
    assert len(told) == 64
    assert fingerprint(map(str, reversed(paths))) == told
    os.utime(paths[0], (1, 1))
    assert fingerprint(paths) == told
    shutil.copytree(tmp_path / "a" / "root", tmp_path / "copy")
    copied = [tmp_path / "copy" / path.relative_to(tmp_path / "a" / "root") for path in paths]
    assert fingerprint(copied) == told
    shutil.move(tmp_path / "copy" / "level2", tmp_path / "copy" / "Level2")
    moved = [Path(str(path).replace("/level2/", "/Level2/")) for path in copied]
    assert fingerprint(moved) == told


def test_a_fingerprint_stands_for_one_content(tmp_path, monkeypatch):
    paths = files_below(DataRoot(tmp_path))
    told = {fingerprint(paths), fingerprint([]), *(fingerprint([*paths[:n], *paths[n + 1 :]]) for n in range(7))}
    assert len(told) == 9
    content = bytearray(paths[2].read_bytes())
    content[-1] ^= 1
    paths[2].write_bytes(content)
    assert fingerprint(paths) not in told
    monkeypatch.chdir(paths[0].parent)
    assert fingerprint([paths[0].name]) == fingerprint(paths[:1])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10**6), flip=st.integers(1, 255), which=st.integers(0, 6))
def test_any_byte_of_any_file_counts(tmp_path, at, flip, which):
    paths = files_below(DataRoot(tmp_path))
    told = fingerprint(paths)
    content = bytearray(paths[which].read_bytes())
    content[at % len(content)] ^= flip
    paths[which].write_bytes(content)
    assert fingerprint(paths) != told


def test_equal_bytes_under_another_day_or_symbol_are_another_slice(tmp_path):
    root = DataRoot(tmp_path)
    places = [root.snapshots_path("AAPL", THU), root.snapshots_path("AAPL", FRI), root.snapshots_path("MSFT", THU)]
    places += [root.snapshots_path("AAPL", THU, "other"), root.bars_path("1 min", "AAPL", THU)]
    places += [root.bars_path("1 sec", "AAPL", THU)]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"same")
    assert len({fingerprint([place]) for place in places}) == len(places)


def test_a_report_has_the_fingerprint_of_its_files(tmp_path):
    root = DataRoot(tmp_path)
    (path, *_, bars, _) = files_below(root)
    path.unlink()
    report = level2_coverage([root], "AAPL", FRI)
    assert fingerprint(report) == fingerprint([]), "what cannot be loaded is not part of a slice"
    assert fingerprint(assess_level2("AAPL", THU, FRI)) == fingerprint([])
    found = bars_availability([entry(listed(THU, root=root.path))], "AAPL", "1 min", THU, FRI)
    assert fingerprint(found) == fingerprint([bars])


def test_what_has_no_fingerprint_is_refused(tmp_path):
    paths = files_below(DataRoot(tmp_path))
    with pytest.raises(NotAvailable, match=r"2025-09-08.*No such file"):
        fingerprint([paths[0].with_name("2025-09-08_snapshots_databento.parquet")])
    with pytest.raises(InvalidName):
        fingerprint([tmp_path / "AAPL" / "notes.txt"])
    with pytest.raises(InvalidSymbol):
        fingerprint([tmp_path / "No Symbol Of Any Kind" / paths[0].name])
    folder = paths[0].with_name("2025-09-09_snapshots_databento.parquet")
    folder.mkdir()
    with pytest.raises(NotAvailable):
        fingerprint([folder])

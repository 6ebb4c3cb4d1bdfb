"""What lies there already: taken as it is, written again without paying, replaced, or kept when the new one fails."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.v1.level2 import SNAPSHOT_SCHEMA, SnapshotMetadata


def footer(path) -> SnapshotMetadata:
    return SnapshotMetadata.from_footer(pq.read_schema(path).metadata)


def statuses(place) -> list[str]:
    return [line.status for line in place.lines]


def vendor_files(place) -> list:
    return [path for path in place.cache.rglob("*.dbn.zst*") if path.suffix != ".json"]


def test_a_file_that_answers_is_left_alone_and_nobody_is_asked(place):
    place.backfill("AAPL")
    before = place.snapshots("AAPL").stat()
    place.forget_requests()

    place.backfill("AAPL")

    assert statuses(place) == ["WRITE", "SKIP"]
    assert place.requests == []
    assert (place.snapshots("AAPL").stat().st_ino, place.snapshots("AAPL").stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )
    assert (place.lines[1].rows, place.lines[1].path) == (place.lines[0].rows, place.lines[0].path)
    assert place.lines[1].cost_usd is None


def test_a_file_that_answers_needs_no_key(place):
    place.backfill("AAPL")
    place.unset("DATABENTO_API_KEY")
    assert place.backfill("AAPL").summary["counts"]["SKIP"] == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"L2_SNAPSHOT_INTERVAL_MS": 500}, (500, 10, "09:30-09:40")),
        ({"L2_SNAPSHOT_INTERVAL_MS": 0}, (0, 10, "09:30-09:40")),
        ({"L2_LEVELS": 5}, (1_000, 5, "09:30-09:40")),
    ],
    ids=str,
)
def test_another_interval_or_depth_is_made_from_the_kept_vendor_file_for_nothing(place, change, told):
    place.backfill("AAPL")
    place.forget_requests()
    place.set(**change)

    place.backfill("AAPL")

    assert statuses(place) == ["WRITE", "WRITE"]
    meta = footer(place.snapshots("AAPL"))
    assert (meta.interval_ms, meta.levels, meta.window_et) == told
    assert place.requests == []
    assert place.lines[1].cost_usd == 0
    place.check()


def test_a_window_inside_the_files_window_is_a_skip_that_says_what_the_file_holds(place):
    place.backfill("AAPL")
    place.set(L2_BACKFILL_WINDOW_ET="09:32-09:35")

    place.backfill("AAPL")

    assert statuses(place) == ["WRITE", "SKIP"]
    assert place.lines[1].window_et == "09:30-09:40"


def test_force_cuts_a_narrower_window_out_of_the_kept_vendor_file(place):
    place.backfill("AAPL")
    place.forget_requests()
    place.set(L2_BACKFILL_WINDOW_ET="09:32-09:35")

    place.backfill("AAPL", force=True)

    assert statuses(place) == ["WRITE", "WRITE"]
    assert footer(place.snapshots("AAPL")).window_et == "09:32-09:35"
    assert place.requests == []
    place.check()


def test_a_wider_window_is_bought_and_replaces_the_file(place):
    place.backfill("AAPL")
    place.set(L2_BACKFILL_WINDOW_ET="09:30-09:45")

    place.backfill("AAPL")

    assert statuses(place) == ["WRITE", "WRITE"]
    assert footer(place.snapshots("AAPL")).window_et == "09:30-09:45"
    assert place.downloads == ["AAPL", "AAPL"]


def foreign(path) -> None:
    pq.write_table(pa.table({"close": [1.0]}), path)


def torn(path) -> None:
    path.write_bytes(b"PAR1 and then the machine stopped")


def no_rows(path) -> None:
    pq.write_table(SNAPSHOT_SCHEMA.empty_table(), path)


@pytest.mark.parametrize("leave", [lambda path: path.touch(), foreign, torn, no_rows])
def test_what_is_no_readable_snapshots_file_does_not_count_as_there(place, leave):
    place.snapshots("AAPL").parent.mkdir(parents=True)
    leave(place.snapshots("AAPL"))

    place.backfill("AAPL")

    assert statuses(place) == ["WRITE"]
    place.check()


def test_a_file_of_another_writer_that_says_nothing_of_itself_is_taken_as_it_is(place):
    place.backfill("AAPL")
    table = pq.read_table(place.snapshots("AAPL")).replace_schema_metadata(None)
    pq.write_table(table, place.snapshots("AAPL"))

    place.backfill("AAPL", interval_ms=500)

    assert statuses(place) == ["WRITE", "SKIP"]
    assert place.lines[1].rows == len(table)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("cut-mid-stream", "stream_cut"),
        ("unknown-symbol", "unresolved_symbol"),
        ("too-recent", "too_recent"),
        ("unauthorized", "unauthorized"),
        ("zero-rows", "empty_but_file_exists"),
    ],
)
@pytest.mark.parametrize("asked", ["force", "another interval"])
def test_when_the_new_file_fails_the_old_one_stays_byte_for_byte(place, fault, reason, asked):
    place.set(L2_KEEP_RAW=0)
    place.backfill("AAPL")
    before = place.snapshots("AAPL").read_bytes()
    place.vendor.add_fault(fault)

    place.backfill("AAPL", **({"force": True} if asked == "force" else {"interval_ms": 500}))

    assert (place.lines[1].status, place.lines[1].reason) == ("ERROR", reason)
    assert place.snapshots("AAPL").read_bytes() == before
    place.check()


def test_events_that_are_missing_are_made_and_then_skipped(place):
    place.backfill("AAPL")
    place.forget_requests()

    place.backfill("AAPL", with_events=True)
    place.backfill("AAPL", with_events=True)

    assert statuses(place) == ["WRITE", "WRITE", "SKIP"]
    assert place.events("AAPL").exists()
    assert place.requests == []


@pytest.mark.parametrize("leave", [lambda path: path.write_bytes(b""), torn])
def test_an_events_file_that_cannot_be_read_is_made_again(place, leave):
    place.backfill("AAPL", with_events=True)
    leave(place.events("AAPL"))

    place.backfill("AAPL", with_events=True)

    assert statuses(place) == ["WRITE", "WRITE"]
    place.check()


def test_an_error_with_the_events_leaves_the_snapshots_unchanged(place):
    place.backfill("AAPL")
    before = place.snapshots("AAPL").read_bytes()
    (place.events("AAPL") / "in the way").mkdir(parents=True)

    place.backfill("AAPL", with_events=True, interval_ms=500)

    assert (place.lines[1].status, place.lines[1].reason) == ("ERROR", "storage")
    assert place.snapshots("AAPL").read_bytes() == before


def test_nothing_raw_is_kept_when_so_asked_and_the_next_force_pays_again(place):
    place.set(L2_KEEP_RAW=0)
    place.backfill("AAPL", "MSFT")
    assert vendor_files(place) == []

    place.backfill("AAPL", force=True)

    assert vendor_files(place) == []
    assert sorted(place.downloads) == ["AAPL", "AAPL", "MSFT"]
    place.check()


def test_what_another_gateway_served_never_passes_for_the_vendors_own(place):
    place.backfill("AAPL")
    assert {path.relative_to(place.cache).parts[:2] for path in vendor_files(place)} == {("gateways", "127.0.0.1")}


def test_a_kept_file_that_went_bad_is_put_aside_and_bought_again(place, caplog):
    place.backfill("AAPL")
    (kept,) = vendor_files(place)
    data = bytearray(kept.read_bytes())
    data[len(data) * 2 // 3] ^= 0x55
    kept.write_bytes(data)
    before = place.snapshots("AAPL").read_bytes()
    place.forget_requests()

    place.backfill("AAPL", force=True)

    assert statuses(place) == ["WRITE", "WRITE"]
    assert place.downloads == ["AAPL"]
    assert place.lines[1].cost_usd > 0
    assert place.snapshots("AAPL").read_bytes() == before
    assert [path.name for path in kept.parent.glob("*.dbn.zst.bad")] == [f"{kept.name}.bad"]
    assert "out of the cache" in caplog.text
    place.forget_requests()
    place.backfill("AAPL", force=True)
    assert place.requests == []


def test_a_kept_file_of_another_length_than_noted_is_bought_again(place):
    place.backfill("AAPL")
    (kept,) = vendor_files(place)
    kept.write_bytes(kept.read_bytes()[:-100])
    place.forget_requests()

    place.backfill("AAPL", force=True)

    assert statuses(place) == ["WRITE", "WRITE"]
    assert place.downloads == ["AAPL"]

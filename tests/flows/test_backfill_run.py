"""A run as its user sees it: statuses, manifest lines in input order as soon as they may be, the summary, the money."""

from __future__ import annotations

from datetime import date

import pyarrow.parquet as pq
import pytest

from contracts.v1.backfill import parse_summary
from contracts.v1.level2 import SNAPSHOT_SCHEMA, SnapshotMetadata
from contracts.v1.level2_events import EVENTS_SCHEMA
from flows.backfill_job import assemble
from flows.backfill_run import run_backfill
from flows.errors import ConfigurationError

SATURDAY = date(2025, 9, 6)


class Watcher:
    """Notes the order in which tasks finish, and how many manifest lines there are just then."""

    def __init__(self, place):
        self.place = place
        self.order: list[str] = []
        self.lines: list[int] = []

    def done(self, outcome, finished, total):
        self.order.append(outcome.task.symbol)
        self.lines.append(len(self.place.lines))
        assert finished == len(self.order) <= total


def test_every_status_in_one_run(place):
    place.vendor.add_fault("zero-rows:symbol=QUIET")
    place.vendor.add_fault("unknown-symbol:symbol=GONE")
    place.backfill("MSFT")

    result = place.backfill("AAPL", "QUIET", "GONE", "MSFT")

    lines = place.lines[1:]
    assert [(line.symbol, line.status, line.reason) for line in lines] == [
        ("AAPL", "WRITE", None),
        ("QUIET", "EMPTY", "no records"),
        ("GONE", "ERROR", "unresolved_symbol"),
        ("MSFT", "SKIP", None),
    ]
    assert [bool(line.path) for line in lines] == [True, False, False, True]
    assert [line.rows for line in lines] == [len(pq.read_table(place.snapshots("AAPL"))), 0, 0, lines[3].rows]
    assert lines[3].rows == pq.read_metadata(place.snapshots("MSFT")).num_rows > 500
    assert {line.run_id for line in lines} == {result.summary["run_id"]}
    assert not place.snapshots("QUIET").exists()
    assert not place.snapshots("GONE").exists()
    assert place.summary == result.summary
    summary = parse_summary((place.root / "backfill_l2_summary.json").read_bytes())
    assert summary.to_document()["counts"] == {"WRITE": 1, "SKIP": 1, "EMPTY": 1, "ERROR": 1}
    assert summary.zero_row_tasks == (("QUIET", place.day),)
    assert summary.total_tasks == 4
    assert len(summary.errors) == 1
    assert "GONE 2025-09-05" in summary.errors[0]
    assert (summary.strict, summary.force, summary.max_tasks, summary.concurrency) == (False, False, None, 4)
    assert (summary.stopped, summary.remaining) == (None, None)
    assert place.key not in place.manifest.read_text() + (place.root / "backfill_l2_summary.json").read_text()
    place.check()


def test_the_file_is_the_contracts_and_says_where_it_comes_from(place):
    place.backfill("BRK.B")

    table = pq.read_table(place.snapshots("BRK-B"))
    assert table.schema.equals(SNAPSHOT_SCHEMA, check_metadata=False)
    meta = SnapshotMetadata.from_footer(table.schema.metadata)
    assert (meta.symbol, meta.source, meta.session_date) == ("BRK-B", "databento", place.day)
    assert (meta.levels, meta.interval_ms, meta.window_et) == (10, 1_000, "09:30-09:40")
    assert meta.book_scope.venues == ("XNAS",)
    assert "gateway 127.0.0.1" in meta.producer
    first, last = table["timestamp"][0].as_py(), table["timestamp"][-1].as_py()
    assert "2025-09-05T13:30:" in first
    assert last == "2025-09-05T13:39:59.000000000+00:00"
    assert place.downloads == ["BRK.B"]
    quality = place.lines[0].quality
    assert (quality.rows, quality.first_ts, quality.last_ts) == (len(table), first, last)
    assert quality.vendor_condition == "available"
    assert quality.events == place.requests[-1].records


def test_lines_stand_in_input_order_and_appear_as_soon_as_all_before_them_are_done(place):
    place.vendor.add_fault("slow:symbol=AAPL,endpoint=get_range,seconds=1.5")
    watcher = Watcher(place)

    place.backfill("AAPL", "MSFT", "NVDA", max_workers=3, progress=watcher)

    assert watcher.order[-1] == "AAPL"
    assert watcher.lines == [0, 0, 3]
    assert [line.symbol for line in place.lines] == ["AAPL", "MSFT", "NVDA"]


def test_a_line_does_not_wait_for_later_tasks(place):
    watcher = Watcher(place)

    place.backfill("AAPL", "MSFT", "NVDA", max_workers=1, progress=watcher)

    assert (watcher.order, watcher.lines) == (["AAPL", "MSFT", "NVDA"], [1, 2, 3])


def test_money_is_told_by_task_and_by_run_retries_included(place):
    place.vendor.add_fault("cut-mid-stream:symbol=MSFT,times=1")

    result = place.backfill("AAPL", "MSFT", "NOSUCH")

    aapl, msft, gone = place.lines
    assert place.downloads.count("MSFT") == 2
    assert aapl.cost_usd > 0
    assert gone.cost_usd == 0
    assert result.summary["cost_usd"] == pytest.approx(aapl.cost_usd + msft.cost_usd, abs=2e-9)
    # The vendor's bill holds what it really sent of the cut stream.
    assert aapl.cost_usd + msft.cost_usd / 2 < place.billed_usd < result.summary["cost_usd"]


def test_a_ceiling_ends_the_buying_with_one_reason_and_leaves_the_rest_for_the_next_run(place):
    place.backfill("AAPL")
    price = place.lines[0].cost_usd
    place.forget_requests()

    result = place.backfill("MSFT", "NVDA", "TSLA", max_workers=1, max_cost_usd=price * 1.6)

    assert [(line.status, line.reason) for line in place.lines[1:]] == [("WRITE", None), ("ERROR", "cost_ceiling")]
    assert result.summary["remaining"] == [["TSLA", "2025-09-05"]]
    assert "NVDA 2025-09-05" in result.stopped
    assert "raise the ceiling" in result.stopped
    assert place.downloads == ["MSFT"]
    assert place.billed_usd <= price * 1.6
    assert result.summary["cost_usd"] == pytest.approx(place.billed_usd, abs=2e-9)

    again = place.backfill("MSFT", "NVDA", "TSLA")

    assert again.summary["counts"] == {"WRITE": 2, "SKIP": 1, "EMPTY": 0, "ERROR": 0}
    assert (again.stopped, again.summary.get("remaining")) == (None, None)


def test_a_refused_key_costs_one_request_and_the_rest_is_left(place):
    place.vendor.add_fault("unauthorized")

    result = place.backfill("AAPL", "MSFT", "NVDA", max_workers=1)

    assert [(line.status, line.reason) for line in place.lines] == [("ERROR", "unauthorized")]
    assert result.summary["remaining"] == [["MSFT", "2025-09-05"], ["NVDA", "2025-09-05"]]
    assert "check DATABENTO_API_KEY" in result.stopped
    assert len(place.requests) == 1
    assert place.key not in place.manifest.read_text()


def test_a_refused_key_met_by_the_last_day_is_told_too(place):
    place.vendor.add_fault("payment-required")

    result = place.backfill("AAPL")

    assert place.lines[0].reason == "payment_required"
    assert "settle the account" in result.stopped
    assert place.summary["stopped"] == result.stopped


def test_what_needs_no_vendor_is_done_although_the_vendor_refuses(place):
    place.backfill("MSFT", "TSLA")
    place.snapshots("TSLA").unlink()  # its vendor file is kept
    place.vendor.add_fault("unauthorized")

    place.backfill("AAPL", "NVDA", "MSFT", "TSLA", "AMD", max_workers=1)

    assert [(line.symbol, line.status) for line in place.lines[2:]] == [
        ("AAPL", "ERROR"),
        ("MSFT", "SKIP"),
        ("TSLA", "WRITE"),
    ]
    assert [symbol for symbol, _ in place.summary["remaining"]] == ["NVDA", "AMD"]
    place.check()


def test_days_are_told_of_once_their_line_is_on_disk(place):
    told = []
    job = assemble(symbols=["AAPL", "NOSUCH", "MSFT"], start=place.day, max_workers=2)

    def recorded(outcome):
        told.append((outcome.task.symbol, [line.symbol for line in place.lines][-1]))
        raise RuntimeError("a listener in trouble stops no run")

    run_backfill(job.context, job.tasks, job.options, recorded=recorded)

    assert told == [("AAPL", "AAPL"), ("NOSUCH", "NOSUCH"), ("MSFT", "MSFT")]


def test_a_run_that_dies_before_its_lines_leaves_them_to_the_next_one(place):
    """The first day is still under way when the run dies; the others are done and paid for."""
    place.vendor.add_fault("slow:symbol=AAPL,endpoint=get_range,seconds=60,times=1")
    run = place.start_command(
        "backfill", "--symbol", "AAPL", "--symbol", "NOSUCH", "--symbol", "MSFT", "--date", place.day
    )
    checkpoints = place.root / ".backfill"
    place.until(lambda: sum(path.read_bytes().count(b"\n") for path in checkpoints.glob("*.jsonl")) == 2)
    run.kill()
    run.communicate()
    assert place.lines == []

    result = place.backfill("NVDA")

    assert [(line.symbol, line.status) for line in place.lines] == [
        ("NOSUCH", "ERROR"),
        ("MSFT", "WRITE"),
        ("NVDA", "WRITE"),
    ]
    dead, alive = place.lines[0].run_id, place.lines[2].run_id
    assert place.lines[1].run_id == dead != alive
    assert place.lines[1].cost_usd > 0
    assert [(run_id, outcome.task.symbol) for run_id, outcome in result.recovered] == [(dead, "NOSUCH"), (dead, "MSFT")]
    assert result.summary["counts"] == {"WRITE": 1, "SKIP": 0, "EMPTY": 0, "ERROR": 0}
    assert not checkpoints.exists()
    place.check()


def test_closed_days_cost_nothing_and_say_why(place):
    result = place.backfill("AAPL", start=SATURDAY)

    assert [(line.status, line.reason) for line in place.lines] == [("EMPTY", "market closed")]
    assert result.summary["zero_row_tasks"] == [["AAPL", "2025-09-06"]]
    assert place.requests == []


def test_no_tasks_make_a_summary_of_zeros_and_leave_the_manifest_alone(place):
    result = place.backfill("AAPL", start=SATURDAY, end=date(2025, 9, 7))

    assert place.summary["counts"] == {"WRITE": 0, "SKIP": 0, "EMPTY": 0, "ERROR": 0}
    assert (place.summary["total_tasks"], place.summary["errors"]) == (0, [])
    assert result.summary_line.startswith("SUMMARY WRITE=0 SKIP=0 EMPTY=0 ERROR=0 total=0 concurrency=4 duration=")
    assert not place.manifest.exists()
    assert place.requests == []


def test_events_stand_beside_the_snapshots_in_the_contracts_columns(place):
    place.backfill("AAPL", with_events=True)

    events = pq.read_table(place.events("AAPL"))
    assert events.schema.equals(EVENTS_SCHEMA, check_metadata=False)
    assert len(events) == place.requests[-1].records
    assert set(events["symbol"].to_pylist()) == {"AAPL"}
    received = events["ts_recv"].cast("int64").to_numpy()
    assert (received[1:] >= received[:-1]).all()
    assert place.summary["bytes_written"] == sum(
        path.stat().st_size for path in (place.events("AAPL"), place.snapshots("AAPL"))
    )
    place.check()


def test_one_row_per_event_with_interval_zero(place):
    place.backfill("AAPL", interval_ms=0)

    assert pq.read_metadata(place.snapshots("AAPL")).num_rows == place.requests[-1].records
    assert place.lines[0].interval_ms == 0
    place.check()


def test_the_top_of_the_book_alone_is_padded_and_says_so(place):
    place.set(DATABENTO_SCHEMA="mbp-1", L2_LEVELS=3)
    place.backfill("AAPL")

    table = pq.read_table(place.snapshots("AAPL"))
    assert table["bid_prices"][5].as_py()[1:] == [0.0, 0.0]
    assert SnapshotMetadata.from_footer(table.schema.metadata).book_scope.levels == 1
    place.check()


def test_two_places_get_the_same_bytes_whatever_the_number_of_workers(place, tmp_path):
    trees = []
    for name, workers in (("one", 1), ("two", 3)):
        place.set(DATA_PATH_OVERRIDE=tmp_path / name, CACHE_PATH=tmp_path / f"cache-{name}")
        place.backfill("AAPL", "MSFT", "NVDA", with_events=True, max_workers=workers)
        folder = tmp_path / name / "level2"
        trees.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.parquet")})
    assert len(trees[0]) == 6
    assert trees[0] == trees[1]


def test_the_mirror_gets_manifest_and_summary(place, tmp_path):
    place.set(ML_BACKUP_PATH=tmp_path / "backup")
    place.backfill("AAPL")
    place.backfill("AAPL", "MSFT")

    for name in ("backfill_l2_manifest.jsonl", "backfill_l2_summary.json"):
        assert (tmp_path / "backup" / name).read_bytes() == (place.root / name).read_bytes()


def test_a_mirror_that_cannot_be_written_fails_nothing_and_is_logged(place, tmp_path, caplog):
    (tmp_path / "backup").write_text("a file stands where the folder should be")
    place.set(ML_BACKUP_PATH=tmp_path / "backup")

    result = place.backfill("AAPL")

    assert result.summary["counts"]["WRITE"] == 1
    assert "not mirrored" in caplog.text


def test_a_mapping_changes_only_what_the_vendor_is_asked(place, tmp_path):
    (tmp_path / "map.json").write_text('{"OLDCO": {"symbol": "NEWCO", "dataset": "XNYS.PILLAR"}}')
    place.set(SYMBOL_MAPPING_FILE=tmp_path / "map.json")

    place.backfill("OLDCO")

    asked = place.requests[-1].params
    assert (asked["symbols"], asked["dataset"]) == ("NEWCO", "XNYS.PILLAR")
    meta = SnapshotMetadata.from_footer(pq.read_schema(place.snapshots("OLDCO")).metadata)
    assert (meta.symbol, meta.book_scope.venues) == ("OLDCO", ("XNYS",))


@pytest.mark.parametrize("text", ["{", "[]", '{"A": 1}', '{"A": "X", "A": "Y"}', '{"A": {"schema": "trades"}}'])
def test_a_malformed_mapping_is_refused_and_never_an_empty_one(place, tmp_path, text):
    (tmp_path / "map.json").write_text(text)
    place.set(SYMBOL_MAPPING_FILE=tmp_path / "map.json")

    with pytest.raises(ConfigurationError, match=r"map\.json"):
        place.backfill("AAPL")

    assert not place.root.exists()


def test_one_broken_day_does_not_take_the_others_with_it(place):
    place.snapshots("MSFT").mkdir(parents=True)

    place.backfill("AAPL", "MSFT", "NVDA")

    assert [(line.status, line.reason) for line in place.lines] == [
        ("WRITE", None),
        ("ERROR", "storage"),
        ("WRITE", None),
    ]


def test_a_symbol_without_data_leaves_no_folder(place):
    """Readers list symbols by their folders."""
    place.backfill("NOSUCH", "AAPL")
    assert [line.status for line in place.lines] == ["ERROR", "WRITE"]
    assert not place.snapshots("NOSUCH").parent.exists()


def test_what_finishes_while_an_interrupted_run_winds_down_is_recorded(place):
    """A Ctrl-C in a program that calls us: nobody listens to the workers any more, yet they end what they are at."""

    class Impatient:
        def done(self, outcome, finished, total):
            raise KeyboardInterrupt

    result = place.backfill("AAPL", "MSFT", "NVDA", "AMZN", max_workers=4, progress=Impatient())

    written = sorted(path.parent.name for path in place.root.glob("level2/*/*.parquet"))
    assert sorted(line.symbol for line in place.lines if line.status == "WRITE") == written
    assert result.summary["counts"]["WRITE"] == len(written) >= 1
    assert not (place.root / ".backfill").exists()
    place.check()

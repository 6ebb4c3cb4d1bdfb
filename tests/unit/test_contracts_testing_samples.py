"""The testing kit's whole roots and single samples: valid, complete, the same each time, of the size asked for."""

import subprocess
import sys
from datetime import date, datetime

import pyarrow.parquet as pq
import pytest

import contracts
from contracts import (
    ET,
    BarsCoverage,
    DataRoot,
    DepthMessages,
    SessionStats,
    SnapshotMetadata,
    ns_from_iso_utc,
    ns_from_text,
    parse_bars_coverage,
    parse_bars_manifest_line,
    parse_gap_line,
    parse_manifest_line,
    parse_summary,
    parse_window,
    validate_path,
)
from contracts import testing as kit
from contracts.book import Replayer, replay
from contracts.reader import MarketData


@pytest.fixture
def root(tmp_path):
    return kit.write_sample_root(tmp_path / "root")


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("full", [True, False])
def test_a_sample_root_has_no_finding_not_even_a_warning(root, full):
    assert validate_path(root.path, full=full).findings == []


def test_a_sample_root_has_every_artifact_of_the_contract(root):
    assert sorted(contents(root.path)) == [
        "backfill_l2_manifest.jsonl",
        "backfill_l2_summary.json",
        "bars/hour/AAPL/2025-11-26.parquet",
        "bars/hour/AAPL/2025-11-28.parquet",
        "bars/minute/AAPL/2025-11-26.parquet",
        "bars/minute/AAPL/2025-11-28.parquet",
        "bars/second/AAPL/2025-11-26.parquet",
        "bars/second/AAPL/2025-11-28.parquet",
        "bars_coverage_manifest.json",
        "bars_download_manifest.jsonl",
        "l2_gaps.jsonl",
        "level2/AAPL/2025-09-04_events_databento.parquet",
        "level2/AAPL/2025-09-04_snapshots_databento.parquet",
        "level2/MSFT/2025-09-04_messages_093000.json",
        "level2/MSFT/2025-09-04_messages_093030.json",
        "level2/MSFT/2025-09-04_snapshots_093000.parquet",
        "level2/MSFT/2025-09-04_snapshots_093030.parquet",
        "level2/MSFT/session_stats_20250904_093000.json",
    ]


def test_the_same_call_writes_the_same_bytes(tmp_path):
    kit.write_sample_root(tmp_path / "root")
    first = contents(tmp_path / "root")
    (tmp_path / "root").rename(tmp_path / "before")
    kit.write_sample_root(tmp_path / "root")
    assert contents(tmp_path / "root") == first


def test_capture_and_bars_can_be_left_out(tmp_path):
    root = kit.write_sample_root(tmp_path, live=False, bars=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "backfill_l2_manifest.jsonl",
        "backfill_l2_summary.json",
        "level2",
    ]
    assert [folder.name for folder in root.level2_dir.iterdir()] == ["AAPL"]
    assert validate_path(tmp_path).findings == []


def test_every_document_reads_with_its_model(root):
    lines = [parse_manifest_line(line) for line in root.backfill_manifest.read_text().splitlines()]
    assert [(line.symbol, line.status) for line in lines] == [("AAPL", "WRITE"), (kit.EMPTY_SYMBOL, "EMPTY")]
    assert parse_summary(root.backfill_summary.read_text()).total_tasks == len(lines)
    bars = [parse_bars_manifest_line(line) for line in root.bars_manifest.read_text().splitlines()]
    assert len(bars) == 7
    assert len({line.path for line in bars}) == 6
    assert [line.complete for line in bars].count(False) == 1
    assert isinstance(parse_bars_coverage(root.bars_coverage.read_text()), BarsCoverage)
    assert parse_gap_line(root.gaps.read_text()).cause == "reset_317"


def test_a_reader_sees_both_sources_and_all_bars(root):
    data = MarketData(root.path)
    assert data.symbols() == ["AAPL", "MSFT"]
    assert data.sources("AAPL") == ["databento"]
    assert data.sources("MSFT") == ["ibkr"]
    assert data.snapshots("AAPL", kit.SAMPLE_DAY).num_rows == 600
    live = data.snapshots("MSFT", kit.SAMPLE_DAY)
    # The first grid point has no book yet.
    assert live.num_rows == 599
    assert data.bars("AAPL", "1 min", kit.BARS_DAY, kit.BARS_HALF_DAY).num_rows == 390 + 210
    assert data.bars_days("AAPL", "1 hour") == [kit.BARS_DAY, kit.BARS_HALF_DAY]


def test_the_live_snapshots_are_what_the_messages_on_disk_replay_to(root):
    """Segment by segment: the second one goes on with the book of the first."""
    folder = root.symbol_dir(kit.LIVE_SYMBOL)
    start, end = parse_window("09:30-09:31").bounds_ns(kit.SAMPLE_DAY)
    replayer = Replayer(10, 100, start)
    for stamp, end_ns in (("093000", (start + end) // 2), ("093030", end)):
        replayer.feed(folder / f"2025-09-04_messages_{stamp}.json")
        replayed = replayer.rows_until(end_ns)
        with pq.ParquetFile(folder / f"2025-09-04_snapshots_{stamp}.parquet") as file:
            assert file.read().equals(replayed)
            assert SnapshotMetadata.from_footer(file.schema_arrow.metadata).source == "ibkr"
    assert replayer.book.anomalies == {}


def test_the_stats_count_what_is_on_disk(root):
    folder = root.symbol_dir(kit.LIVE_SYMBOL)
    (path,) = folder.glob("session_stats_*.json")
    stats = SessionStats.from_json(path.read_bytes())
    assert set(stats.files) == {file.name for file in folder.iterdir()} - {path.name}
    messages = [DepthMessages.from_json((folder / name).read_bytes()) for name in stats.files if "messages" in name]
    assert stats.num_messages == sum(len(part.root) for part in messages)
    rows = [pq.read_metadata(folder / name).num_rows for name in stats.files if "snapshots" in name]
    assert stats.num_snapshots == sum(rows)
    gaps = [parse_gap_line(line) for line in root.gaps.read_text().splitlines()]
    assert stats.gaps == [gap.session_id for gap in gaps].count(stats.session_id) == 1


def test_the_gap_is_the_time_in_which_no_message_came_and_no_book_was_known(root):
    gap = parse_gap_line(root.gaps.read_text())
    start, end = ns_from_text(gap.gap_start), ns_from_text(gap.gap_end)
    table = MarketData(root.path).snapshots(kit.LIVE_SYMBOL, kit.SAMPLE_DAY)
    ns = ns_from_iso_utc(table.column("timestamp"))
    empty = [best[0] == 0 for best in table.column("bid_prices").to_pylist()]
    assert sum(empty) == 10
    # The books went one microsecond after another from the moment at which the gap begins.
    assert [bool(start + 100_000 < at < end) for at in ns] == empty
    received = [ns_from_text(message.timestamp) for message in kit.sample_messages().root]
    assert not [at for at in received if start + 100_000 < at < end]
    assert end in received


@pytest.mark.parametrize(("levels", "interval_ms", "window_et"), [(3, 250, "10:00-10:02"), (1, 0, "15:59-16:00")])
def test_a_capture_of_any_shape_is_valid_on_disk(tmp_path, levels, interval_ms, window_et):
    root = DataRoot(tmp_path)
    day = date(2025, 3, 7)
    capture = kit.sample_capture("TSLA", day, levels=levels, interval_ms=interval_ms, window_et=window_et)
    written = kit.write_capture(root, capture)
    assert all(path.parent == root.symbol_dir("TSLA") for path in written)
    assert validate_path(tmp_path).findings == []
    table = MarketData(tmp_path).snapshots("tsla", day)
    assert {len(row) for row in table.column("bid_prices").to_pylist()} == {levels}
    start, end = parse_window(window_et).bounds_ns(day)
    messages = kit.sample_messages("TSLA", day, window_et=window_et, levels=levels)
    assert table.equals(replay(messages, levels, interval_ms, start_ns=start, end_ns=end))


def test_days_of_ones_own_are_written_with_their_manifest_lines(tmp_path):
    root = DataRoot(tmp_path / "new" / "root")
    days = [date(2025, 3, 7), date(2025, 3, 10)]
    paths = kit.write_sample_days(root, "NVDA", days, window_et="08:30-08:35", levels=5, interval_ms=1000)
    assert paths == [root.snapshots_path("NVDA", day) for day in days]
    assert validate_path(root.path).findings == []
    data = MarketData(root.path)
    assert data.days("NVDA") == days
    assert [(line.date, line.rows) for line in data.new_lines().lines] == [(day, 300) for day in days]
    # 08:30 in New York is another hour of UTC after the change of clocks between the two.
    first = [data.snapshots("NVDA", day).column("timestamp")[0].as_py()[11:16] for day in days]
    assert first == ["13:30", "12:30"]


def test_days_of_ones_own_can_be_added_to_a_sample_root(root):
    kit.write_sample_days(root, "NVDA", [kit.SAMPLE_DAY])
    assert validate_path(root.path).findings == []
    assert MarketData(root.path).symbols() == ["AAPL", "MSFT", "NVDA"]


def test_snapshots_have_as_many_rows_as_asked_for(tmp_path):
    table = kit.sample_snapshots(kit.sample_metadata("F", levels=2), rows=7)
    assert table.num_rows == 7
    path = kit.write_snapshots(DataRoot(tmp_path), table)
    assert validate_path(path).findings == []
    bare = table.replace_schema_metadata(None)
    with pytest.raises(ValueError, match="no footer metadata"):
        kit.write_snapshots(DataRoot(tmp_path), bare)
    with pytest.raises(ValueError, match="no footer metadata"):
        kit.sample_manifest_line(path, bare)


@pytest.mark.parametrize(
    ("bar_size", "day", "window_et", "rows", "last"),
    [
        ("1 hour", kit.BARS_DAY, "09:30-16:00", 7, "15:00:00"),
        ("1 hour", kit.BARS_HALF_DAY, "09:30-13:00", 4, "12:00:00"),
        ("1 min", date(2025, 9, 15), "04:00-20:00", 960, "19:59:00"),
        ("1 sec", kit.BARS_DAY, "09:30-09:31", 60, "09:30:59"),
    ],
)
def test_bars_of_any_size_and_session_are_valid_and_listed(tmp_path, bar_size, day, window_et, rows, last):
    root = DataRoot(tmp_path)
    bars = kit.sample_bars(bar_size, day, window_et=window_et)
    assert bars.num_rows == rows
    assert kit.sample_bars(bar_size, day, window_et=window_et, rows=2).equals(bars[:2])
    kit.write_bars(root, bars, bar_size, "IBM", day)
    line = kit.sample_bars_manifest_line(root, bars, bar_size, day, symbol="IBM")
    root.bars_manifest.write_text(line.to_json_line())
    assert line.time_end == datetime.combine(day, datetime.strptime(last, "%H:%M:%S").time(), ET)  # noqa: DTZ007 - combined with its zone
    root.bars_coverage.write_text(kit.sample_coverage([line]).to_json())
    assert validate_path(tmp_path).findings == []
    assert MarketData(tmp_path).bars("IBM", bar_size, day).equals(bars)


def test_the_kit_itself_needs_neither_pytest_nor_hypothesis_nor_pandas_to_be_imported():
    program = "import sys, contracts.testing; print(*{'pytest', 'hypothesis', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(("module", "needs"), [("pytest_plugin", "pytest"), ("strategies", "hypothesis")])
def test_without_the_extra_the_import_says_what_to_install(module, needs):
    program = f"import sys; sys.modules[{needs!r}] = None; import contracts.testing.{module}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: contracts.testing.{module} needs {needs}: pip install marketdata-contracts[testing]"
    )


def test_every_public_name_is_there_and_says_what_it_is():
    for name in kit.__all__:
        value = getattr(kit, name)
        assert not callable(value) or name in ("Artifact", "Outcome") or value.__doc__, name
    assert contracts.__name__ not in kit.__all__

"""The Hypothesis strategies make only what models, schemas and the file validator accept, and more than plain cases."""

import contextlib
from datetime import date, time

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from contracts import (
    DataRoot,
    SnapshotMetadata,
    canonical_symbol,
    is_session,
    iso_utc_from_ns,
    parse_bars_coverage,
    parse_bars_manifest_line,
    parse_bars_path,
    parse_gap_line,
    parse_level2_name,
    parse_manifest_line,
    parse_summary,
    parse_window,
    validate_path,
)
from contracts.book import Replayer
from contracts.schemas import schema_validator
from contracts.testing import sample_metadata, strategies, write_bars, write_snapshots
from contracts.v1.depth_messages import DepthMessages
from contracts.v1.level2 import snapshot_schema
from contracts.v1.quality import Quality
from contracts.v1.session_stats import SessionStats

# The folder of a test is shared by its examples, each of which writes the same file anew.
on_disk = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
quick = settings(max_examples=25, deadline=None)

DOCUMENTS = {
    "backfill_l2_manifest.v1": (strategies.manifest_lines, parse_manifest_line),
    "backfill_l2_summary.v1": (strategies.summaries, parse_summary),
    "bars_coverage.v1": (strategies.coverage, parse_bars_coverage),
    "bars_manifest.v1": (strategies.bars_manifest_lines, parse_bars_manifest_line),
    "l2_gap.v1": (strategies.gaps, parse_gap_line),
    "l2_quality.v1": (strategies.qualities, Quality.from_json),
    "level2_messages.v1": (strategies.depth_messages, DepthMessages.from_json),
    "level2_session_stats.v1": (strategies.session_stats, SessionStats.from_json),
    "level2_snapshot.v1": (strategies.snapshot_metadata, SnapshotMetadata.from_json),
}


@pytest.mark.parametrize("version", DOCUMENTS)
@quick
@given(data=st.data())
def test_documents_fit_their_schema_and_read_back_as_they_were(version, data):
    strategy, parse = DOCUMENTS[version]
    model = data.draw(strategy())
    assert [error.message for error in schema_validator(version).iter_errors(model.to_document())] == []
    assert parse(model.to_json()) == model


@quick
@given(symbol=strategies.symbols(), day=strategies.days(), window=strategies.windows())
def test_symbols_are_canonical_days_are_sessions_and_windows_parse(symbol, day, window):
    assert canonical_symbol(symbol) == symbol
    assert is_session(day)
    assert parse_window(str(window)) == window


@quick
@given(ns=strategies.timestamps_ns(date(2025, 9, 4), date(2025, 9, 4)))
def test_times_lie_on_the_days_asked_for(ns):
    assert iso_utc_from_ns(np.array([ns]))[0].as_py().startswith("2025-09-04T")


@quick
@given(name=strategies.level2_names(), bars=strategies.bars_names())
def test_names_parse_back(name, bars):
    assert parse_level2_name(name.filename) == name
    assert parse_bars_path(bars.relative_path) == bars


@on_disk
@given(table=strategies.snapshot_tables())
def test_a_written_snapshots_table_has_no_finding(tmp_path, table):
    assert table.num_rows >= 1
    path = write_snapshots(DataRoot(tmp_path), table)
    assert validate_path(path).findings == []
    path.unlink()


@on_disk
@given(table=strategies.snapshot_tables(levels=4, interval_ms=250, max_rows=3))
def test_snapshots_have_the_shape_asked_for(table):
    metadata = SnapshotMetadata.from_footer(table.schema.metadata)
    assert (metadata.levels, metadata.interval_ms) == (4, 250)
    assert 1 <= table.num_rows <= 3
    assert {len(row) for row in table.column("ask_sizes").to_pylist()} == {4}


@on_disk
@given(day=strategies.days(), data=st.data())
@pytest.mark.parametrize("bar_size", ["1 hour", "1 min", "1 sec"])
def test_a_written_bars_table_has_no_finding(tmp_path, bar_size, day, data):
    table = data.draw(strategies.bar_tables(bar_size, day))
    path = write_bars(DataRoot(tmp_path), table, bar_size, "AAPL", day)
    assert validate_path(path).findings == []
    path.unlink()


@on_disk
@given(data=st.data(), levels=st.integers(1, 4), interval_ms=st.sampled_from([0, 100]))
def test_plausible_messages_all_apply_and_replay_to_valid_snapshots(tmp_path, data, levels, interval_ms):
    day = date(2025, 9, 4)
    start, _ = parse_window("09:30-16:00").bounds_ns(day)
    messages = data.draw(strategies.depth_messages("AAPL", levels=levels, start_ns=start, max_size=30))
    replayer = Replayer(levels, interval_ms, start)
    replayer.feed(messages)
    rows = replayer.finish()
    assert replayer.book.anomalies == {}
    if rows.num_rows:
        metadata = sample_metadata(
            "AAPL", day, window_et="09:30-16:00", levels=levels, interval_ms=interval_ms, source="ibkr"
        )
        path = tmp_path / "AAPL" / "2025-09-04_snapshots_093000.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(rows.cast(snapshot_schema(metadata)), path)
        assert validate_path(path).findings == []


@quick
@given(messages=strategies.depth_messages(levels=3, wild=True))
def test_wild_messages_are_valid_documents_that_a_book_survives(messages):
    replayer = Replayer(3, 0)
    replayer.feed(messages)
    replayer.finish()


def made(strategy, is_wanted):
    """Whether the strategy makes such a value within some hundred examples."""
    found = []

    @settings(max_examples=250, deadline=None, database=None, phases=[Phase.generate], derandomize=True)
    @given(strategy)
    def look(value):
        if is_wanted(value):
            found.append(value)
            raise StopIteration

    with contextlib.suppress(StopIteration):
        look()
    return bool(found)


def has_anomaly(messages):
    replayer = Replayer(3, 0)
    replayer.feed(messages)
    return bool(replayer.book.anomalies)


def is_crossed(book):
    bids, bid_sizes, asks, ask_sizes = book
    return bid_sizes[0] and ask_sizes[0] and bids[0] > asks[0]


NOVEMBER = strategies.days(date(2025, 11, 1), date(2025, 11, 30))
WANTED = {
    "wild messages that cannot be applied": (strategies.depth_messages(levels=3, wild=True), has_anomaly),
    "adds": (strategies.depth_messages(), lambda it: "add" in {message.operation for message in it.root}),
    "updates": (strategies.depth_messages(), lambda it: "update" in {message.operation for message in it.root}),
    "removes": (strategies.depth_messages(), lambda it: "remove" in {message.operation for message in it.root}),
    "crossed books": (strategies.books(3), is_crossed),
    "one-sided books": (strategies.books(3), lambda it: it[1][0] and not it[3][0]),
    "empty books": (strategies.books(3), lambda it: not it[1][0] and not it[3][0]),
    "full books": (strategies.books(3), lambda it: it[1][2] and it[3][2]),
    "sizes beyond 32 bits": (strategies.books(3), lambda it: max(it[1]) > 2**32),
    "half days": (NOVEMBER, lambda it: it == date(2025, 11, 28)),
    "windows of the evening": (strategies.windows(), lambda it: it.start > time(20)),
    "lines without times": (strategies.bars_manifest_lines(), lambda it: it.time_start is None),
    "bars without trades": (strategies.bar_tables("1 min"), lambda it: it.column("WAP").null_count > 0),
    "rows per event": (strategies.snapshot_tables(), lambda it: it.schema.metadata[b"interval_ms"] == b"0"),
    "errors with a text": (strategies.manifest_lines(), lambda it: it.status == "ERROR" and it.error),
    "coverage of several entries": (strategies.coverage(), lambda it: len(it.entries) > 1),
}


@pytest.mark.parametrize("what", WANTED)
def test_strategies_reach_the_cases_that_consumers_get_wrong(what):
    assert made(*WANTED[what])

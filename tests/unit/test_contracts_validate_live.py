"""The validator on live files of one folder: pairs, session stats, gap records, and the replay of the messages."""

import json
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import DataRoot, Level2Name, parse_window, validate_path
from contracts.book import replay
from contracts.testing import LIVE_SYMBOL, SAMPLE_DAY, sample_capture, write_capture

CAPTURE = sample_capture()
FIRST, SECOND = CAPTURE.segments
SNAPSHOTS = [segment.snapshots_name.filename for segment in CAPTURE.segments]
MESSAGES = [segment.messages_name.filename for segment in CAPTURE.segments]
STATS = CAPTURE.stats_name.filename


@pytest.fixture
def root(tmp_path):
    root = DataRoot(tmp_path / "root")
    write_capture(root, CAPTURE)
    return root


@pytest.fixture
def folder(root):
    return root.symbol_dir(LIVE_SYMBOL)


def found(path, **options):
    report = validate_path(path, **options)
    return [(finding.path.name, finding.rule, finding.row, finding.field) for finding in report.findings]


def edit_json(path, edit):
    document = json.loads(path.read_text())
    edit(document)
    if isinstance(document, list):
        path.write_text("[\n" + ",\n".join(map(json.dumps, document)) + "\n]\n")
    else:
        path.write_text(json.dumps(document))


def edit_table(path, edit):
    table = pq.read_table(path)
    columns = {name: table.column(name).to_pylist() for name in table.schema.names}
    edit(columns)
    pq.write_table(pa.table(columns, schema=table.schema), path)


@pytest.mark.parametrize("full", [True, False])
def test_a_sound_capture_has_no_findings(root, folder, full):
    assert found(root.path, full=full) == []
    assert found(folder, full=full) == []


def test_event_rows_and_other_levels_and_windows_replay_too(tmp_path):
    for number, parts in enumerate(
        ({"interval_ms": 0}, {"levels": 3}, {"interval_ms": 7}, {"window_et": "10:00-10:02", "interval_ms": 1000})
    ):
        root = DataRoot(tmp_path / str(number))
        write_capture(root, sample_capture(**parts))
        assert found(root.path) == []


def test_each_snapshots_file_has_its_messages_and_each_messages_file_its_snapshots(root, folder):
    (folder / STATS).unlink()
    (folder / MESSAGES[0]).unlink()
    (folder / SNAPSHOTS[1]).unlink()
    assert found(root.path) == [(SNAPSHOTS[0], "pair", None, None), (MESSAGES[1], "pair", None, None)]
    (folder / MESSAGES[1]).write_text("[]\n")
    assert found(root.path) == [(SNAPSHOTS[0], "pair", None, None)]


def test_counts_and_files_of_a_session_are_those_on_disk(root, folder):
    edit_json(folder / STATS, lambda stats: stats.update(num_snapshots=1, num_messages=2))
    assert found(root.path) == [(STATS, "row-count", None, name) for name in ("num_snapshots", "num_messages")]
    edit_json(folder / STATS, lambda stats: stats["files"].append("2025-09-04_messages_101010.json"))
    assert found(root.path) == [(STATS, "missing-file", None, "files.4")]


def test_levels_and_interval_of_a_session_are_those_of_its_footers(root, folder):
    edit_json(folder / STATS, lambda stats: stats.update(levels=5, interval_ms=50))
    assert set(found(root.path)) == {(STATS, "session", None, "levels"), (STATS, "session", None, "interval_ms")}


@pytest.mark.parametrize(
    ("change", "rule", "field"),
    [
        ({"symbol": "AAPL"}, "folder", "symbol"),
        ({"files": ["../x.parquet"]}, "filename", "files.0"),
        ({"num_snapshots": -1}, "schema", "num_snapshots"),
        ({"num_messages": "5"}, "schema", "num_messages"),
        ({"recording_date": "2025-09-04T13:30:00"}, "schema", "recording_date"),
        ({"recording_date": "2025-09-05T13:30:00+00:00"}, "name", "recording_date"),
        ({"ended_at": "2025-09-04T13:00:00+00:00"}, "model", None),
        ({"schema_version": "level2_session_stats.v2"}, "schema-version", "schema_version"),
    ],
)
def test_each_fault_of_a_stats_file_is_told_by_field(folder, change, rule, field):
    edit_json(folder / STATS, lambda stats: stats.update(change))
    assert found(folder / STATS) == [(STATS, rule, None, field)]


def test_gaps_of_a_session_are_the_records_of_the_root_if_the_root_is_known(root, folder):
    edit_json(folder / STATS, lambda stats: stats.update(gaps=3))
    assert found(root.path) == [(STATS, "gap-count", None, "gaps")]
    assert found(folder) == []
    assert found(root.level2_dir) == []
    root.gaps.unlink()
    edit_json(folder / STATS, lambda stats: stats.update(gaps=0))
    assert found(root.path) == []
    edit_json(folder / STATS, lambda stats: stats.update(gaps=1))
    assert found(root.path) == [(STATS, "gap-count", None, "gaps")]


def test_a_gap_record_that_cannot_be_read_is_told_once(root):
    document = json.loads(root.gaps.read_text())
    document["gap_start"], document["gap_end"] = document["gap_end"], document["gap_start"]
    root.gaps.write_text(json.dumps(document) + "\n")
    assert found(root.path) == [("l2_gaps.jsonl", "model", None, None)]


def test_a_row_that_its_messages_do_not_give_is_told_by_file_row_and_column(root, folder):
    edit_table(folder / SNAPSHOTS[1], lambda columns: columns["ask_sizes"][100].__setitem__(9, 12_345))
    assert found(root.path) == [(SNAPSHOTS[1], "replay", 100, "ask_sizes")]
    assert found(root.path, full=False) == []


def test_the_first_row_that_differs_is_told_when_a_message_is_lost(root, folder):
    edit_json(folder / MESSAGES[0], lambda messages: messages.pop(300))
    edit_json(folder / STATS, lambda stats: stats.update(num_messages=stats["num_messages"] - 1))
    ((name, rule, row, _),) = found(root.path)
    assert (name, rule) == (SNAPSHOTS[0], "replay")
    table = replay(json.loads((folder / MESSAGES[0]).read_text()))
    written = FIRST.snapshots.to_pylist()
    assert row == next(n for n, given in enumerate(table.to_pylist()) if given != written[n])


def test_a_book_that_does_not_shift_is_told(root, folder):
    """The system before wrote an insertion over the row that was there."""

    def overwrite(columns):
        first = columns["bid_prices"][0]
        for row, prices in enumerate(columns["bid_prices"]):
            columns["bid_prices"][row] = [prices[0], *first[1:]]

    edit_table(folder / SNAPSHOTS[0], overwrite)
    assert [(name, rule) for name, rule, *_ in found(root.path)] == [(SNAPSHOTS[0], "replay")]


@pytest.mark.parametrize("drop", [slice(0, 5), slice(-5, None), slice(100, 101)])
def test_rows_that_are_missing_are_told_wherever_they_are(root, folder, drop):
    def cut(columns):
        for column in columns.values():
            del column[drop]

    edit_table(folder / SNAPSHOTS[1], cut)
    (folder / STATS).unlink()
    # A hole inside shows in the file alone, missing ends only against the messages.
    assert [rule for _, rule, *_ in found(root.path)] == ["grid-hole" if drop.start == 100 else "replay"]


def test_rows_may_go_on_with_the_last_book_to_the_end_of_the_window_but_need_not(root, folder):
    quiet = [message.to_document() for message in SECOND.messages.root[:200]]
    (folder / MESSAGES[1]).write_text(json.dumps(quiet))
    messages = [*FIRST.messages.root, *SECOND.messages.root[:200]]
    start, end = parse_window("09:30-09:31").bounds_ns(SAMPLE_DAY)
    rows = replay(messages, start_ns=start, end_ns=end)[FIRST.snapshots.num_rows :]
    (folder / STATS).unlink()
    needed = replay(messages, start_ns=start)[FIRST.snapshots.num_rows :].num_rows - 1
    for count in (rows.num_rows, needed + 7, needed):
        table = rows[:count].replace_schema_metadata(SECOND.snapshots.schema.metadata)
        pq.write_table(table, folder / SNAPSHOTS[1])
        assert [rule for _, rule, *_ in found(folder)] == ["layout"]
    pq.write_table(table[: needed - 1], folder / SNAPSHOTS[1])
    assert [rule for _, rule, *_ in found(folder)] == ["layout", "replay"]


def test_a_segment_of_no_session_replays_after_the_one_before_it_or_from_an_empty_book(root, folder):
    (folder / STATS).unlink()
    assert found(root.path) == []
    for name in (SNAPSHOTS[0], MESSAGES[0]):
        (folder / name).unlink()
    assert [(name, rule, row) for name, rule, row, _ in found(root.path)] == [(SNAPSHOTS[1], "replay", 0)]
    later = sample_capture(window_et="10:00-10:01")
    write_capture(root, later)
    root.gaps.unlink()
    (folder / later.stats_name.filename).unlink()
    assert [(name, rule, row) for name, rule, row, _ in found(root.path)] == [(SNAPSHOTS[1], "replay", 0)]


def test_two_sessions_of_one_folder_are_replayed_each_by_itself(root, folder):
    second = sample_capture(window_et="10:00-10:01")
    write_capture(root, second)
    edit_json(folder / second.stats_name.filename, lambda stats: stats.update(session_id="two"))
    edit_json(folder / STATS, lambda stats: stats.update(gaps=2))
    edit_json(folder / second.stats_name.filename, lambda stats: stats.update(gaps=0))
    assert found(root.path) == []


def test_a_damaged_file_is_told_once_and_not_replayed(root, folder):
    (folder / MESSAGES[0]).write_bytes((folder / MESSAGES[0]).read_bytes()[:5000])
    (folder / STATS).unlink()
    assert [(name, rule) for name, rule, *_ in found(root.path)] == [(MESSAGES[0], "json"), (SNAPSHOTS[1], "replay")]


def test_old_live_files_without_a_footer_are_not_replayed(root, folder):
    for name in SNAPSHOTS:
        pq.write_table(pq.read_table(folder / name).replace_schema_metadata(None), folder / name)
    edit_json(folder / MESSAGES[0], lambda messages: messages.pop())
    assert {rule for _, rule, *_ in found(root.path)} == {"no-footer", "row-count"}


def test_a_stamp_of_another_day_is_another_segment(root, folder):
    name = Level2Name("messages", date(2025, 9, 5), FIRST.stamp)
    (folder / name.filename).write_text("[]\n")
    assert found(root.path) == []
    assert name.day != SAMPLE_DAY

"""The validator on what only live books have: rows of one price, rows in between two messages, and midnight."""

import json
from datetime import date, time

import numpy as np
import pyarrow.parquet as pq
import pytest

from contracts import DataRoot, Level2Name, SnapshotMetadata, validate_path
from contracts.book import Replayer
from contracts.sessions import ET, parse_window
from contracts.testing import sample_metadata
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.session_stats import SessionStats

SYMBOL = "AAPL"
DAY, NEXT_DAY = date(2025, 9, 4), date(2025, 9, 5)
SECOND_NS = 1_000_000_000


def text(ns):
    return iso_utc_from_ns(np.array([ns], np.int64))[0].as_py()


def record(ns, operation, side, level, price, size=100):
    return {
        "timestamp": text(ns),
        "operation": operation,
        "side": side,
        "level": level,
        "price": price,
        "size": size,
        "symbol": SYMBOL,
    }


def metadata(day, window_et):
    parts = sample_metadata(SYMBOL, day, window_et=window_et, levels=3, interval_ms=1000, source="ibkr").to_document()
    return SnapshotMetadata.from_document(parts)


def write_segment(root, name_time, about, messages, replayer, end_ns):
    folder = root.symbol_dir(SYMBOL)
    folder.mkdir(parents=True, exist_ok=True)
    names = [Level2Name(kind, about.session_date, name_time) for kind in ("messages", "snapshots")]
    records = ",\n".join(map(json.dumps, messages))
    (folder / names[0].filename).write_text(f"[\n{records}\n]\n" if messages else "[]\n")
    replayer.feed(messages)
    table = replayer.rows_until(end_ns).replace_schema_metadata(about.to_footer())
    pq.write_table(table, folder / names[1].filename)
    return [name.filename for name in names], len(messages), table.num_rows


def findings(root):
    return [(finding.rule, finding.severity, finding.row) for finding in validate_path(root.path).findings]


@pytest.mark.parametrize(
    ("second_price", "expected"),
    [
        pytest.param(230.0, [], id="two venues at one price"),
        pytest.param(230.5, [("price-order-live", "warning", 0)], id="a row that is not in its place yet"),
    ],
)
def test_a_live_book_is_kept_as_its_messages_make_it(tmp_path, second_price, expected):
    about = metadata(DAY, "10:00-10:01")
    start_ns, _ = about.bounds_ns()
    messages = [record(start_ns, "add", "bid", 0, 230.0), record(start_ns, "add", "bid", 1, second_price)]
    root = DataRoot(tmp_path)
    write_segment(root, time(10), about, messages, Replayer(3, 1000, start_ns), start_ns + 3 * SECOND_NS)
    assert findings(root) == expected


def midnight_session(root, *, second_day_price=None):
    """A session from 23:58:59.5 to 00:00:02, its second day without a message."""
    first, second = metadata(DAY, "23:58-23:59"), metadata(NEXT_DAY, "00:00-00:01")
    midnight_ns = second.bounds_ns()[0]
    assert first.bounds_ns()[1] == midnight_ns
    begin_ns = midnight_ns - 61 * SECOND_NS + SECOND_NS // 2
    messages = [record(begin_ns, "add", "bid", 0, 230.0), record(begin_ns, "add", "ask", 0, 231.0)]
    parts = [
        write_segment(root, time(23, 58, 59), first, messages, Replayer(3, 1000, first.bounds_ns()[0]), midnight_ns)
    ]
    carried = Replayer(3, 1000, midnight_ns)
    carried.feed([record(midnight_ns - 1, "add", "bid", 0, second_day_price or 230.0)])
    carried.feed([record(midnight_ns - 1, "add", "ask", 0, 231.0)])
    parts.append(write_segment(root, time(0), second, [], carried, midnight_ns + 2 * SECOND_NS))
    stats = SessionStats.from_document(
        {
            "symbol": SYMBOL,
            "levels": 3,
            "interval_ms": 1000,
            "num_messages": sum(part[1] for part in parts),
            "num_snapshots": sum(part[2] for part in parts),
            "paper_mode": True,
            "recording_date": text(begin_ns),
            "files": [name for part in parts for name in part[0]],
        }
    )
    name = Level2Name("session_stats", DAY, time(23, 58, 59))
    (root.symbol_dir(SYMBOL) / name.filename).write_text(stats.to_json())


def test_a_session_goes_on_over_midnight_with_its_book(tmp_path):
    root = DataRoot(tmp_path)
    midnight_session(root)
    assert findings(root) == []


def test_another_book_after_midnight_is_found(tmp_path):
    root = DataRoot(tmp_path)
    midnight_session(root, second_day_price=229.0)
    assert findings(root) == [("replay", "error", 0)]


def test_only_the_last_minute_of_a_live_day_goes_to_midnight():
    live, earlier = metadata(DAY, "20:00-23:59"), metadata(DAY, "20:00-23:58")
    historical = SnapshotMetadata.from_document({**live.to_document(), "source": "databento"})
    midnight_ns = int(parse_window("00:00-00:01").bounds_utc(NEXT_DAY)[0].astimezone(ET).timestamp()) * SECOND_NS
    assert live.bounds_ns()[1] == midnight_ns
    assert earlier.bounds_ns()[1] == midnight_ns - 120 * SECOND_NS
    assert historical.bounds_ns()[1] == midnight_ns - 60 * SECOND_NS

"""Whatever lies in a root, each way to load it gives what a slow, plain reading of the files gives."""

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.reader import MarketData
from contracts.sessions import Window
from contracts.v1.level2 import SNAPSHOT_SCHEMA

DAYS = [date(2025, 3, 7), date(2025, 3, 10), date(2025, 11, 3)]
NEW_YORK = ZoneInfo("America/New_York")
COLUMNS = SNAPSHOT_SCHEMA.names


def text_of(day, clock_us):
    """The timestamp of a moment so many microseconds after 09:00 ET, made without the package."""
    moment = datetime.combine(day, time(9), NEW_YORK) + timedelta(microseconds=clock_us)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000+00:00"


@st.composite
def roots(draw):
    """Files of one or two sources: name, row group size and rows; a live day is cut into segments."""
    levels = draw(st.integers(1, 5))
    price = st.lists(st.floats(allow_nan=False), min_size=levels, max_size=levels)
    size = st.lists(st.integers(0, 2**63 - 1), min_size=levels, max_size=levels)
    # Few distinct minutes, so that rows share times and windows begin and end at them.
    clock_us = st.one_of(st.sampled_from([0, 60_000_000, 120_000_000]), st.integers(0, 240_000_000))
    row = st.tuples(clock_us, price, size, price, size)
    files = {}
    for day in draw(st.lists(st.sampled_from(DAYS), min_size=1, max_size=3, unique=True)):
        for source in draw(st.lists(st.sampled_from(["ibkr", "databento"]), min_size=1, unique=True)):
            rows = sorted(draw(st.lists(row, min_size=1, max_size=12)), key=lambda row: row[0])
            cuts = draw(st.sets(st.integers(1, 11), max_size=3)) if source == "ibkr" else set()
            edges = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
            for number, (start, stop) in enumerate(pairwise(edges)):
                suffix = f"0900{number:02}" if source == "ibkr" else source
                columns = list(zip(*rows[start:stop], strict=True))
                texts = [text_of(day, clock) for clock in columns[0]]
                table = pa.table([texts, *map(list, columns[1:])], schema=SNAPSHOT_SCHEMA)
                files[f"{day}_snapshots_{suffix}.parquet"] = (source, table, draw(st.integers(1, 6)))
    return levels, files


def plainly(files, sources, window):
    """The rows asked for, by sorting names and comparing New York clocks row by row."""

    def order(item):
        name, (source, _, _) = item
        return name[:10], source, name

    for _, (source, table, _) in sorted(files.items(), key=order):
        if source not in sources:
            continue
        for row in table.to_pylist():
            moment = datetime.fromisoformat(row["timestamp"][:26] + "+00:00").astimezone(NEW_YORK)
            if window is None or window.start <= moment.time() < window.end:
                yield source, row


windows = st.none() | st.tuples(st.integers(0, 3), st.integers(1, 3)).map(
    lambda minutes: Window(time(9, minutes[0]), time(9, minutes[0] + minutes[1]))
)


@settings(max_examples=60, deadline=None)
@given(
    root=roots(),
    sources=st.sampled_from([["ibkr"], ["databento"], ["databento", "ibkr"]]),
    window=windows,
    batch_rows=st.integers(1, 7),
)
def test_tables_matrices_and_batches_are_what_the_files_hold(root, sources, window, batch_rows):
    levels, files = root
    expected = list(plainly(files, sources, window))
    with TemporaryDirectory() as folder:
        for name, (_, table, row_group_rows) in files.items():
            path = Path(folder, "level2", "AAPL", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path, row_group_size=row_group_rows)
        data = MarketData(folder)
        if not any(source in sources for source, _, _ in files.values()):
            assert data.files("AAPL", DAYS[0], DAYS[-1], source=sources) == []
            return
        asked = {"source": sources, "window": window}
        table = data.snapshots("AAPL", DAYS[0], DAYS[-1], **asked)
        books = data.matrices("AAPL", DAYS[0], DAYS[-1], **asked)
        batches = list(data.batches("AAPL", DAYS[0], DAYS[-1], **asked, batch_rows=batch_rows))

    assert table.select(COLUMNS).to_pylist() == [row for _, row in expected]
    if len(sources) > 1:
        assert table.column("source").to_pylist() == [source for source, _ in expected]
    assert pa.Table.from_batches(batches, table.schema) == table
    assert all(1 <= batch.num_rows <= batch_rows for batch in batches)
    assert books.levels == levels
    for name in COLUMNS[1:]:
        assert getattr(books, name).tolist() == [row[name] for _, row in expected]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    moments = [datetime.fromisoformat(row["timestamp"][:26] + "+00:00") for _, row in expected]
    assert books.ts_ns.tolist() == [(moment - epoch) // timedelta(microseconds=1) * 1000 for moment in moments]
    in_parts = [part.file.source for part in books.parts for _ in range(part.start, part.stop)]
    assert in_parts == [source for source, _ in expected]

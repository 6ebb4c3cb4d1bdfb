"""What is noted of days and files, and who may work on a symbol and bar size."""

import datetime as dt
import json
import logging
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.store.bars import (
    ALL_DAYS,
    BarsNotes,
    EmptyNote,
    ErrorNote,
    WholeDays,
    WholeNote,
    claim,
    footer,
    load_notes,
    note_days,
    note_files,
    publish_day,
)
from connectors.store.errors import StoreBusy, StoreError
from contracts.layout import DataRoot
from contracts.testing import BARS_DAY, BARS_HALF_DAY, sample_bars, sample_bars_metadata

EMPTY = EmptyNote("TRADES/regular", 1_764_000_000_000_000_000)
FAILED = ErrorNote("AAPL 1 min 2025-11-26: no answer in 60 s", 1_764_000_001_000_000_000)
NOTED = ("1 min", "AAPL")
DAYS = st.dates(dt.date(2004, 1, 1), dt.date(2030, 12, 31))
WHEN = st.integers(0, 2**63 - 1)


@pytest.fixture
def root(tmp_path):
    return DataRoot(tmp_path / "not" / "yet")


def notes_file(root):
    return root.path / ".bars" / "minute" / "AAPL.json"


def notes(kinds=(), empty=None, errors=None, whole=None, cut=()):
    """Notes of a group that had them from its first file on."""
    return BarsNotes(frozenset(kinds), empty or {}, errors or {}, WholeDays(whole), frozenset(cut), ALL_DAYS)


def publish(root, day=BARS_DAY, *, is_sparse=False, rows=390, **metadata):
    changed = sample_bars_metadata(day=day).model_copy(update=metadata)
    return publish_day(root, changed, sample_bars(day=day, rows=rows), is_sparse=is_sparse)


def forget(root):
    """As a root that is copied without its hidden folders."""
    shutil.rmtree(root.path / ".bars")


def test_there_are_no_notes_before_something_is_noted(root):
    assert load_notes(root, *NOTED) == BarsNotes(frozenset(), {}, {})
    assert not root.path.exists()


@settings(max_examples=25, deadline=None)
@given(
    empty=st.dictionaries(DAYS, st.builds(EmptyNote, st.text(), WHEN), max_size=5),
    errors=st.dictionaries(DAYS, st.builds(ErrorNote, st.text(), WHEN), min_size=1, max_size=5),
)
def test_notes_are_read_again_as_they_were(tmp_path_factory, empty, errors):
    root = DataRoot(tmp_path_factory.mktemp("root"))
    expected = notes((), empty, errors)
    assert note_days(root, "1 min", "aapl", empty=empty, errors=errors) == expected
    assert load_notes(root, *NOTED) == expected
    assert load_notes(root, "1 sec", "AAPL") == BarsNotes()


def test_a_later_note_of_a_day_replaces_the_earlier_one(root):
    note_days(root, *NOTED, errors={BARS_DAY: FAILED, BARS_HALF_DAY: FAILED})
    note_days(root, *NOTED, empty={BARS_DAY: EMPTY})
    assert load_notes(root, *NOTED) == notes((), {BARS_DAY: EMPTY}, {BARS_HALF_DAY: FAILED})
    # A failed second look does not undo that the vendor had none.
    note_days(root, *NOTED, errors={BARS_DAY: FAILED}, cleared=[BARS_HALF_DAY])
    assert load_notes(root, *NOTED) == notes((), {BARS_DAY: EMPTY}, {BARS_DAY: FAILED})
    note_days(root, *NOTED, cleared=iter([BARS_DAY]))
    assert load_notes(root, *NOTED) == notes()


def test_nothing_is_written_when_nothing_changes(root):
    note_days(root, *NOTED, empty={BARS_DAY: EMPTY})
    before = notes_file(root).stat()
    note_days(root, *NOTED, empty={BARS_DAY: EMPTY}, cleared=[BARS_HALF_DAY])
    assert notes_file(root).stat().st_ino == before.st_ino
    note_days(root, "1 min", "MSFT")
    assert not notes_file(root).with_name("MSFT.json").exists()


def test_a_published_day_has_its_kind_noted_and_nothing_else(root):
    note_days(root, *NOTED, empty={BARS_DAY: EMPTY, BARS_HALF_DAY: EMPTY}, errors={BARS_DAY: FAILED})
    publish(root)
    assert load_notes(root, *NOTED) == notes(["TRADES/regular"], {BARS_HALF_DAY: EMPTY})
    publish(root, BARS_HALF_DAY, what_to_show="MIDPOINT", use_rth=False, rows=5)
    assert load_notes(root, *NOTED) == notes(["TRADES/regular", "MIDPOINT/extended"])


def test_a_day_is_noted_as_whole_when_its_bars_cannot_tell_and_as_cut_when_it_is(root):
    publish(root, rows=300, is_sparse=True)
    assert load_notes(root, *NOTED) == notes(["TRADES/regular"], whole={BARS_DAY: WholeNote("TRADES/regular", 300)})
    publish(root, rows=301, is_sparse=True, use_rth=False)
    kinds = ["TRADES/regular", "TRADES/extended"]
    assert load_notes(root, *NOTED) == notes(kinds, whole={BARS_DAY: WholeNote("TRADES/extended", 301)})
    publish(root, rows=302, is_sparse=True, complete=False)
    note_days(root, *NOTED, errors={BARS_DAY: FAILED}, cleared=[BARS_DAY])
    assert load_notes(root, *NOTED) == notes(kinds, errors={BARS_DAY: FAILED}, cut=[BARS_DAY])
    publish(root)
    assert load_notes(root, *NOTED) == notes(kinds)


def test_what_footers_say_is_noted_for_files_that_came_without_notes(root):
    publish(root, use_rth=False)
    publish(root, BARS_HALF_DAY, complete=False, rows=9)
    forget(root)
    # Whatever is noted of such a group, its files stay unknown.
    note_days(root, *NOTED, errors={BARS_DAY: FAILED})
    publish(root, BARS_HALF_DAY, what_to_show="BID", rows=9)
    assert load_notes(root, *NOTED) == BarsNotes(frozenset(["BID/regular"]), errors={BARS_DAY: FAILED})
    found = [footer(root, *NOTED, day) for day in (BARS_DAY, BARS_HALF_DAY)]
    assert [each.kind for each in found] == ["TRADES/extended", "BID/regular"]
    # One is replaced before it is noted: nothing is known of it.
    publish(root, BARS_HALF_DAY, rows=9)
    note_files(root, *NOTED, found, seen=(BARS_HALF_DAY, BARS_DAY))
    assert load_notes(root, *NOTED) == BarsNotes(
        frozenset(["BID/regular", "TRADES/regular", "TRADES/extended"]),
        errors={BARS_DAY: FAILED},
        whole=WholeDays({BARS_DAY: WholeNote("TRADES/extended", 390)}),
        seen=(BARS_HALF_DAY, BARS_DAY),
    )
    publish(root, BARS_HALF_DAY, complete=False, rows=9)
    note_files(root, *NOTED, [footer(root, *NOTED, BARS_HALF_DAY)])
    assert load_notes(root, *NOTED).cut == {BARS_HALF_DAY}


@given(st.dictionaries(st.dates(), st.builds(WholeNote, st.sampled_from(["a", "b"]), WHEN), max_size=9))
def test_whole_days_are_read_again_as_they_were(expected):
    found = WholeDays.of_document(json.loads(json.dumps(WholeDays(expected).to_document())))
    assert found == expected == dict(found)
    assert len(found) == len(expected)
    assert {(day, kind) for kind, (days, _) in found.columns for day in days.tolist()} == {
        (day, note.kind) for day, note in expected.items()
    }


def test_the_days_that_were_seen_grow_together_where_they_touch(root):
    publish(root)
    forget(root)
    friday = dt.date(2025, 9, 5)
    for (first, last), expected in [
        ((0, 4), (0, 4)),
        ((-7, -3), (-7, 4)),
        ((2, 7), (-7, 7)),
        ((-2, 0), (-7, 7)),
        ((70, 80), (70, 80)),
    ]:
        seen = friday + dt.timedelta(first), friday + dt.timedelta(last)
        found = note_files(root, *NOTED, [], seen=seen).seen
        assert tuple((day - friday).days for day in found) == expected
    assert note_files(root, *NOTED, []).seen == found


def test_the_first_notes_of_this_system_are_read_and_their_files_unknown(root):
    publish(root)
    document = json.loads(notes_file(root).read_text())
    old = {key: document[key] for key in ("kinds", "empty", "errors")}
    notes_file(root).write_text(json.dumps(old))
    assert load_notes(root, *NOTED) == BarsNotes(frozenset(["TRADES/regular"]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "{}",
        '{"kinds":[],"empty":{"2025-11-31":["a",1]},"errors":{}}',
        '{"kinds":[],"empty":{"2025-11-26":["a","b"]},"errors":{}}',
        '{"kinds":[],"empty":{"2025-11-26":["a",true]},"errors":{}}',
        '{"kinds":[],"empty":{},"errors":{"2025-11-26":["a"]}}',
        '{"kinds":[1],"empty":{},"errors":{}}',
        '{"kinds":[],"empty":[],"errors":{}}',
        '{"kinds":[],"empty":{},"errors":{},"whole":{"a":[20251126,"b"]}}',
        '{"kinds":[],"empty":{},"errors":{},"whole":{"a":[20251126]}}',
        '{"kinds":[],"empty":{},"errors":{},"whole":{"a":[20251326,7]}}',
        '{"kinds":[],"empty":{},"errors":{},"whole":{"a":[20251126,7,20251125,7]}}',
        '{"kinds":[],"empty":{},"errors":{},"whole":[1]}',
        '{"kinds":[],"empty":{},"errors":{},"cut":["2025-11-31"]}',
        '{"kinds":[],"empty":{},"errors":{},"seen":["2025-11-26"]}',
    ],
)
def test_damaged_notes_count_as_none_and_are_replaced(root, text, caplog):
    notes_file(root).parent.mkdir(parents=True)
    notes_file(root).write_text(text)
    with caplog.at_level(logging.WARNING):
        assert load_notes(root, *NOTED) == BarsNotes()
    assert f"{notes_file(root)} are damaged" in caplog.text
    note_days(root, *NOTED, empty={BARS_DAY: EMPTY})
    assert load_notes(root, *NOTED) == notes(empty={BARS_DAY: EMPTY})


def test_notes_that_cannot_be_read_are_not_taken_for_none(root):
    notes_file(root).mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot read"):
        load_notes(root, *NOTED)
    with pytest.raises(StoreError, match="cannot read"):
        publish_day(root, sample_bars_metadata(), sample_bars())
    assert not root.bars_manifest.exists()


def test_notes_of_many_writers_at_once_are_all_there(root):
    days = [BARS_DAY - dt.timedelta(days=n) for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda day: note_days(root, *NOTED, empty={day: EMPTY}), days))
    assert load_notes(root, *NOTED).empty == dict.fromkeys(days, EMPTY)


HOLD = """
import sys
from pathlib import Path
from connectors.store.bars import claim
from contracts.layout import DataRoot
with claim(DataRoot(Path(sys.argv[1])), "1 min", "AAPL", run_id="run-7"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other_batch(root):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_one_batch_at_a_time_works_on_a_symbol_and_bar_size(root, other_batch):
    with pytest.raises(StoreBusy, match="run-7"), claim(root, "1 min", "aapl"):
        pass
    with claim(root, "1 hour", "AAPL"), claim(root, "1 min", "MSFT"):
        # Neither publishing nor noting needs the claim.
        publish_day(root, sample_bars_metadata(), sample_bars(rows=3))
        note_days(root, *NOTED, empty={BARS_HALF_DAY: EMPTY})
    other_batch.kill()
    other_batch.wait()
    with claim(root, *NOTED):
        pass


def test_a_claim_is_waited_for(root):
    has_it, may_go = threading.Event(), threading.Event()

    def work():
        with claim(root, *NOTED):
            has_it.set()
            may_go.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    assert has_it.wait(30)
    with pytest.raises(StoreBusy), claim(root, *NOTED, timeout_s=0.05):
        pass
    may_go.set()
    with claim(root, *NOTED, timeout_s=30):
        thread.join(30)
    assert not thread.is_alive()

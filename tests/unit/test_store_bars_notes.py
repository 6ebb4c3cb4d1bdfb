"""What is noted of days without a file, and who may work on a symbol and bar size."""

import datetime as dt
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.store.bars import BarsNotes, EmptyNote, ErrorNote, claim, load_notes, note_days, publish_day
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


def test_there_are_no_notes_before_something_is_noted(root):
    assert load_notes(root, *NOTED) == BarsNotes(frozenset(), {}, {})
    assert not root.path.exists()


@settings(max_examples=40, deadline=None)
@given(
    empty=st.dictionaries(DAYS, st.builds(EmptyNote, st.text(), WHEN), max_size=5),
    errors=st.dictionaries(DAYS, st.builds(ErrorNote, st.text(), WHEN), max_size=5),
    kind=st.none() | st.text(min_size=1),
)
def test_notes_are_read_again_as_they_were(tmp_path_factory, empty, errors, kind):
    root = DataRoot(tmp_path_factory.mktemp("root"))
    expected = BarsNotes(frozenset() if kind is None else frozenset([kind]), empty, errors)
    assert note_days(root, "1 min", "aapl", empty=empty, errors=errors, kind=kind) == expected
    assert load_notes(root, *NOTED) == expected
    assert load_notes(root, "1 sec", "AAPL") == BarsNotes()


def test_a_later_note_of_a_day_replaces_the_earlier_one(root):
    note_days(root, *NOTED, errors={BARS_DAY: FAILED, BARS_HALF_DAY: FAILED}, kind="TRADES/regular")
    note_days(root, *NOTED, empty={BARS_DAY: EMPTY}, kind="BID/extended")
    kinds = frozenset(["TRADES/regular", "BID/extended"])
    assert load_notes(root, *NOTED) == BarsNotes(kinds, {BARS_DAY: EMPTY}, {BARS_HALF_DAY: FAILED})
    # A failed second look does not undo that the vendor had none.
    note_days(root, *NOTED, errors={BARS_DAY: FAILED}, cleared=[BARS_HALF_DAY])
    assert load_notes(root, *NOTED) == BarsNotes(kinds, {BARS_DAY: EMPTY}, {BARS_DAY: FAILED})
    note_days(root, *NOTED, cleared=iter([BARS_DAY]))
    assert load_notes(root, *NOTED) == BarsNotes(kinds)


def test_nothing_is_written_when_nothing_changes(root):
    note_days(root, *NOTED, empty={BARS_DAY: EMPTY}, kind="TRADES/regular")
    before = notes_file(root).stat()
    note_days(root, *NOTED, empty={BARS_DAY: EMPTY}, cleared=[BARS_HALF_DAY], kind="TRADES/regular")
    assert notes_file(root).stat().st_ino == before.st_ino
    note_days(root, "1 min", "MSFT")
    assert not notes_file(root).with_name("MSFT.json").exists()


def test_a_published_day_has_its_kind_noted_and_nothing_else(root):
    note_days(root, *NOTED, empty={BARS_DAY: EMPTY, BARS_HALF_DAY: EMPTY}, errors={BARS_DAY: FAILED})
    publish_day(root, sample_bars_metadata(), sample_bars())
    expected = BarsNotes(frozenset(["TRADES/regular"]), {BARS_HALF_DAY: EMPTY})
    assert load_notes(root, *NOTED) == expected
    other = sample_bars_metadata(day=BARS_HALF_DAY).model_copy(update={"what_to_show": "MIDPOINT", "use_rth": False})
    publish_day(root, other, sample_bars(day=BARS_HALF_DAY))
    assert load_notes(root, *NOTED) == BarsNotes(frozenset(["TRADES/regular", "MIDPOINT/extended"]))


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
    ],
)
def test_damaged_notes_count_as_none_and_are_replaced(root, text, caplog):
    notes_file(root).parent.mkdir(parents=True)
    notes_file(root).write_text(text)
    with caplog.at_level(logging.WARNING):
        assert load_notes(root, *NOTED) == BarsNotes()
    assert f"{notes_file(root)} are damaged" in caplog.text
    note_days(root, *NOTED, empty={BARS_DAY: EMPTY})
    assert load_notes(root, *NOTED) == BarsNotes(empty={BARS_DAY: EMPTY})


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

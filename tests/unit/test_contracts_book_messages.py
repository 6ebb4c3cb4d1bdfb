"""What `contracts.book.replay` takes as messages and what it refuses: files in any layout, damage of every kind."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts._replay.file import read_records
from contracts.book import Replayer, replay, replay_batches
from contracts.errors import InvalidDocument, UnknownSchemaVersion
from contracts.timestamps import iso_utc_from_ns, ns_from_iso_utc
from contracts.v1.depth_messages import DepthMessage, DepthMessages

GOOD = {
    "timestamp": "2025-09-04T13:30:00.100000000+00:00",
    "operation": "add",
    "side": "bid",
    "level": 0,
    "price": 230.01,
    "size": 300,
    "symbol": "AAPL",
}


def records(count):
    """Messages a millisecond apart with a key of the source's own that holds what a careless reader stumbles on."""
    return [
        {
            **GOOD,
            "timestamp": f"2025-09-04T13:{n // 60_000:02}:{n // 1000 % 60:02}.{n % 1000:03}000001+00:00",
            "price": n / 4,
        }
        | ({"note": ["},\n{", {"a": "]"}]} if n % 1000 == 7 else {})
        for n in range(count)
    ]


LAYOUTS = {
    "one record per line": lambda documents: "[\n" + ",\n".join(map(json.dumps, documents)) + "\n]\n",
    "CRLF": lambda documents: "[\r\n" + ",\r\n".join(map(json.dumps, documents)) + "\r\n]\r\n",
    "one line": json.dumps,
    "no blanks": lambda documents: json.dumps(documents, separators=(",", ":")),
    "indented": lambda documents: json.dumps(documents, indent=4),
    "commas first": lambda documents: " [ " + "\n , ".join(map(json.dumps, documents)) + "\t]",
    "as the model writes": lambda documents: DepthMessages.from_document(documents).to_json(),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_file_in_any_layout_replays_like_its_records(tmp_path, layout):
    documents = records(12_000)
    path = tmp_path / "2025-09-04_messages_093000.json"
    path.write_text(layout(documents), encoding="utf-8", newline="")
    assert path.stat().st_size > 1_500_000
    expected = replay(documents, 3, 0)
    assert expected.num_rows == 12_000
    assert replay(path, 3, 0) == expected
    assert replay(str(path), 3, 0) == expected
    replayer = Replayer(3, 0)
    replayer.feed(path)
    assert replayer.finish() == expected


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.sampled_from('{}[],:"\\\n x\u00e9'), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab},{"), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(values, max_size=8),
    st.sampled_from([None, 1]),
    st.sampled_from([(",", ":"), (", ", ": "), (",\n", ":"), ("\n,", "\t:")]),
    st.booleans(),
    st.integers(1, 40),
)
@settings(max_examples=100, deadline=None)
def test_any_json_array_is_read_as_json_reads_it_however_little_is_read_at_a_time(
    tmp_path_factory, array, indent, separators, ascii_only, read_characters
):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(array, indent=indent, separators=separators, ensure_ascii=ascii_only), encoding="utf-8")
    assert list(read_records(path, "any", read_characters=read_characters)) == array


@given(st.lists(values, min_size=1, max_size=4), st.integers(1, 40), st.data())
@settings(max_examples=100, deadline=None)
def test_an_array_that_is_cut_anywhere_is_refused(tmp_path_factory, array, read_characters, data):
    path = tmp_path_factory.getbasetemp() / "torn.json"
    text = json.dumps(array, ensure_ascii=False)
    path.write_text(text[: data.draw(st.integers(0, len(text) - 1))], encoding="utf-8")
    with pytest.raises(InvalidDocument):
        list(read_records(path, "torn", read_characters=read_characters))


def lines(*records):
    return ("[\n" + ",\n".join(records) + "\n]\n").encode()


ONE = json.dumps(GOOD)
DAMAGED_FILES = {
    "zero bytes": (b"", "not a JSON array", None),
    "an object": (b"{}", "not a JSON array", None),
    "JSON lines": (f"{ONE}\n{ONE}\n".encode(), "not a JSON array", None),
    "not UTF-8": (lines(ONE, ONE).replace(b"AAPL", b"AAP\xff"), "not UTF-8", None),
    "a byte order mark": (b"\xef\xbb\xbf" + lines(ONE), "byte order mark", None),
    "torn in a record": (lines(ONE, ONE)[:-40], "not JSON", 1),
    "torn after a record": (lines(ONE, ONE)[:-3], "the file ends", 2),
    "torn after a comma": (lines(ONE, ONE)[: len(ONE) + 3], "the file ends", 1),
    "a trailing comma": (f"[{ONE},]".encode(), "not JSON", 1),
    "no comma": (f"[{ONE} {ONE}]".encode(), "a comma or the end", 1),
    "two arrays": (lines(ONE) + lines(ONE), "something follows", None),
    "a NaN": (lines(ONE, ONE.replace("230.01", "NaN"), ONE), "NaN is not JSON", 1),
    "a number too large": (lines(ONE, ONE.replace("230.01", "1e999"), ONE), "too large", 1),
    "a key twice": (lines(ONE, ONE, ONE[:-1] + ', "size": 1}', ONE), "comes twice", 2),
    "an integer of thousands of digits": (lines(ONE, ONE.replace("300", "3" * 5000), ONE), "not JSON", 1),
    "nested beyond sense": (lines(ONE, "[" * 100_000), "nested too deeply", 1),
    "a record without end": (b'[{"note": "' + b"x" * (1 << 25), "too long", 0),
    "a list as record": (lines(ONE, "[1]", ONE), "a JSON array, not an object", 1),
    "a number as record": (lines(ONE, "17"), "a JSON number, not an object", 1),
    "a record without price": (lines(ONE, "{}"), "required", 1),
}


@pytest.mark.parametrize(("content", "reason", "row"), DAMAGED_FILES.values(), ids=DAMAGED_FILES)
def test_a_damaged_file_is_refused_with_its_name_and_the_row(tmp_path, content, reason, row):
    path = tmp_path / "2025-09-04_messages_093000.json"
    path.write_bytes(content)
    with pytest.raises(InvalidDocument, match=reason) as caught:
        replay(path)
    assert caught.value.row == row
    assert str(path) in str(caught.value)


def test_messages_before_a_tear_were_applied_so_that_a_crash_can_be_repaired(tmp_path):
    path = tmp_path / "torn.json"
    path.write_bytes(lines(*map(json.dumps, records(5)))[:-30])
    replayer = Replayer(2, 0)
    with pytest.raises(InvalidDocument):
        replayer.feed(path)
    assert replayer.finish() == replay(records(4), 2, 0)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        replay(tmp_path / "none.json")


DAMAGED_RECORDS = {
    "a missing key": ({"size": ...}, "size"),
    "an unknown operation": ({"operation": "insert"}, "operation"),
    "an operation that is a list": ({"operation": ["add"]}, "operation"),
    "an unknown side": ({"side": "B"}, "side"),
    "a negative level": ({"level": -1}, "level"),
    "a level as text": ({"level": "0"}, "level"),
    "half a level": ({"level": 0.5}, "level"),
    "true as level": ({"level": True}, "level"),
    "a level beyond 64 bits": ({"level": 2**63}, "level"),
    "NaN": ({"price": float("nan")}, "price"),
    "an infinite price": ({"price": float("-inf")}, "price"),
    "a price as text": ({"price": "230.01"}, "price"),
    "no price": ({"price": None}, "price"),
    "a negative size": ({"size": -1}, "size"),
    "a size beyond 64 bits": ({"size": 2**63}, "size"),
    "half a share": ({"size": 0.5}, "size"),
    "another spelling of the symbol": ({"symbol": "aapl"}, "symbol"),
    "no symbol": ({"symbol": None}, "symbol"),
    "a time without zone": ({"timestamp": "2025-09-04T13:30:00.100000000"}, "timestamp"),
    "another zone": ({"timestamp": "2025-09-04T13:30:00.100000000-04:00"}, "timestamp"),
    "a time as number": ({"timestamp": 1_756_992_600}, "timestamp"),
    "ten digits": ({"timestamp": "2025-09-04T13:30:00.1000000001+00:00"}, "timestamp"),
    "digits of another script": ({"timestamp": "2025-09-04T13:30:00.10000000\u0661+00:00"}, "timestamp"),
    "an underscore among digits": ({"timestamp": "2025-09-04T13:30:00.1000_0000+00:00"}, "timestamp"),
    "a sign among digits": ({"timestamp": "2025-09-04T13:30:00.+10000000+00:00"}, "timestamp"),
    "a day that is not": ({"timestamp": "2025-02-29T13:30:00.100000000+00:00"}, "timestamp"),
    "a year that timestamps do not have": ({"timestamp": "2262-01-01T00:00:00+00:00"}, "timestamp"),
}


@pytest.mark.parametrize(("change", "field"), DAMAGED_RECORDS.values(), ids=DAMAGED_RECORDS)
@pytest.mark.parametrize("row", [0, 1])
def test_a_damaged_record_is_refused_with_row_and_field(change, field, row):
    damaged = {key: value for key, value in {**GOOD, **change}.items() if value is not ...}
    with pytest.raises(InvalidDocument) as caught:
        replay([GOOD] * row + [damaged, GOOD])
    assert (caught.value.row, caught.value.field) == (row, field)


def test_a_message_of_another_version_is_refused():
    assert replay([{**GOOD, "schema_version": "level2_messages.v1"}] * 2) == replay([GOOD] * 2)
    for before in ([], [GOOD]):
        with pytest.raises(UnknownSchemaVersion, match="v2"):
            replay([*before, {**GOOD, "schema_version": "level2_messages.v2"}])


def test_what_is_no_message_at_all_is_refused():
    for wrong in ("text", 5, None, [GOOD]):
        with pytest.raises(InvalidDocument, match="not an object"):
            replay([wrong])


@pytest.mark.parametrize("side", ["bid", "ask"])
def test_numbers_as_json_may_write_them_are_exact(side):
    changes = {"side": side, "level": 0.0, "price": 230, "size": 2**53 + 1}
    row = replay([GOOD, {**GOOD, **changes}], 1, 0).to_pylist()[-1]
    assert (row[f"{side}_prices"], row[f"{side}_sizes"]) == ([230.0], [2**53 + 1])


@pytest.mark.parametrize("end", ["Z", "+00:00"])
@pytest.mark.parametrize("fraction", ["", ".1", ".123456", ".12345678", ".000000001", ".999999999"])
def test_times_of_any_precision_are_exact(fraction, end):
    second = "2025-09-04T13:30:00"
    digits = fraction[1:].ljust(9, "0")
    first = {**GOOD, "timestamp": f"{second}+00:00"}
    table = replay([first, {**GOOD, "timestamp": f"{second}{fraction}{end}"}], 1, 0)
    assert table["timestamp"].to_pylist() == [f"{second}.000000000+00:00", f"{second}.{digits}+00:00"]


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=20).map(sorted))
@settings(max_examples=50, deadline=None)
def test_written_times_come_back_as_they_were(ns):

    texts = iso_utc_from_ns(np.array(ns, np.int64)).to_pylist()
    table = replay([{**GOOD, "timestamp": text} for text in texts], 1, 0)
    assert ns_from_iso_utc(table["timestamp"]).tolist() == ns


def test_a_model_that_was_made_without_checks_is_checked():
    with pytest.raises(InvalidDocument) as caught:
        replay([DepthMessage.model_construct(**{**GOOD, "size": -5})])
    assert caught.value.field == "size"


def test_batches_before_the_fault_are_sound_ones(tmp_path):
    path = tmp_path / "messages.json"
    path.write_bytes(lines(*map(json.dumps, records(20_000)), "{}"))
    batches = replay_batches(path, 2, 0)
    assert next(batches).to_pylist() == replay(records(16_384), 2, 0).to_pylist()
    with pytest.raises(InvalidDocument) as caught:
        list(batches)
    assert caught.value.row == 20_000

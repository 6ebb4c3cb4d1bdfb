"""The validator on depth messages: each odd record is told by its number, whatever the layout and size of the file."""

import json
import subprocess
import sys

import pytest

from contracts import DepthMessages, validate_path
from contracts.testing import LIVE_SYMBOL, SAMPLE_DAY, sample_messages

NAME = f"{SAMPLE_DAY}_messages_093000.json"
GOOD = {
    "timestamp": "2025-09-04T13:30:00.100000000+00:00",
    "operation": "add",
    "side": "bid",
    "level": 0,
    "price": 230.01,
    "size": 300,
    "symbol": LIVE_SYMBOL,
}


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "level2" / LIVE_SYMBOL
    folder.mkdir(parents=True)
    return folder / NAME


def write(path, records):
    path.write_text("[\n" + ",\n".join(json.dumps(record) for record in records) + "\n]\n")
    return path


def found(path, **options):
    report = validate_path(path, **options)
    return [(finding.rule, finding.severity, finding.row, finding.field) for finding in report.findings]


def test_sound_messages_have_no_findings_and_are_counted(path):
    messages = sample_messages()
    path.write_text(messages.to_json())
    report = validate_path(path)
    assert (report.findings, report.rows) == ([], len(messages.root))
    path.write_text(DepthMessages(()).to_json())
    assert found(path) == []


RECORDS = {
    "a list": ([1], "model", None),
    "a number": (5, "model", None),
    "null": (None, "model", None),
    "no price": ({k: v for k, v in GOOD.items() if k != "price"}, "model", "price"),
    "another operation": ({**GOOD, "operation": "insert"}, "model", "operation"),
    "an operation that is a list": ({**GOOD, "operation": ["add"]}, "model", "operation"),
    "another side": ({**GOOD, "side": "b"}, "model", "side"),
    "a level below 0": ({**GOOD, "level": -1}, "model", "level"),
    "a level that is true": ({**GOOD, "level": True}, "model", "level"),
    "half a share": ({**GOOD, "size": 0.5}, "model", "size"),
    "a size as text": ({**GOOD, "size": "300"}, "model", "size"),
    "a size beyond 64 bits": ({**GOOD, "size": 2**63}, "model", "size"),
    "a price as text": ({**GOOD, "price": "230.01"}, "model", "price"),
    "a time without zone": ({**GOOD, "timestamp": "2025-09-04T13:30:00.100000000"}, "model", "timestamp"),
    "a day that is none": ({**GOOD, "timestamp": "2025-02-30T13:30:00.100000000+00:00"}, "model", "timestamp"),
    "a symbol in another spelling": ({**GOOD, "symbol": "msft"}, "model", "symbol"),
    "another symbol": ({**GOOD, "symbol": "AAPL"}, "symbol", "symbol"),
    "another ET day": ({**GOOD, "timestamp": "2025-09-05T04:00:00.000000000+00:00"}, "day", "timestamp"),
    "a time that runs backwards": (
        {**GOOD, "timestamp": "2025-09-04T13:30:00.099999999+00:00"},
        "timestamp-order",
        "timestamp",
    ),
    "another version": ({**GOOD, "schema_version": "level2_messages.v2"}, "schema-version", "schema_version"),
    "a version that is a number": ({**GOOD, "schema_version": 2}, "schema-version", "schema_version"),
}


@pytest.mark.parametrize(("record", "rule", "field"), RECORDS.values(), ids=RECORDS)
@pytest.mark.parametrize("before", [0, 1, 5000])
def test_each_odd_record_is_told_by_its_number(path, record, rule, field, before):
    if before == 0 and rule == "timestamp-order":
        before = 2
    write(path, [GOOD] * before + [record])
    assert found(path) == [(rule, "error", before, field)]


@pytest.mark.parametrize(
    "record",
    [
        {**GOOD, "price": 230, "size": 300.0, "level": 1.0},
        {**GOOD, "price": -0.25},
        {**GOOD, "timestamp": "2025-09-04T13:30:00.1Z"},
        {**GOOD, "schema_version": "level2_messages.v1"},
        {**GOOD, "schema_version": None},
        {**GOOD, "market_maker": "ARCA", "seq": 7, "more": {"a": [1, None]}},
        {**GOOD, "size": 2**63 - 1, "level": 2**63 - 1},
    ],
)
def test_other_forms_of_the_model_are_fine(path, record):
    write(path, [GOOD, record, {**GOOD, "timestamp": "2025-09-04T13:30:00.200000000+00:00"}])
    assert found(path) == []


def test_thousands_of_faults_are_counted_and_the_records_between_are_checked(path):
    write(path, [GOOD, {**GOOD, "size": -1}] * 3000 + [5])
    report = validate_path(path)
    assert len(report.findings) == 21
    assert report.findings[-1].message.startswith("2981 more")
    assert report.rows == 6001


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "json"),
        (b"{}", "model"),
        (b"hello", "model"),
        (b"\xef\xbb\xbf[]", "bom"),
        (b"[", "json"),
        (b"[]]", "json"),
        (f"[{json.dumps(GOOD)},]".encode(), "json"),
        (b"[\xff]", "utf8"),
        (b'[{"price":NaN}]', "nan"),
        (b'[{"price":1e999}]', "nan"),
        (b'[{"size":1,"size":2}]', "duplicate-key"),
        (b"[" + b"9" * 5000 + b"]", "json"),
        (b"[" * 100_000, "json"),
    ],
)
def test_what_is_no_array_of_standard_json_is_told(path, content, rule):
    path.write_bytes(content)
    assert [rule for rule, *_ in found(path)] == [rule]


@pytest.mark.parametrize("record", [3, 4999])
def test_a_file_that_ends_in_the_middle_is_told_by_its_record(path, record):
    write(path, [GOOD] * 5000)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\n") + record * (len(json.dumps(GOOD)) + 2) + 50])
    ((rule, _, row, _),) = found(path)
    assert (rule, row) == ("json", record)
    assert validate_path(path).rows == record


def test_one_record_per_line_is_asked_for_by_a_warning(path):
    for indent in (None, 1):
        path.write_text(json.dumps([GOOD] * 5, indent=indent))
        assert found(path) == [("layout", "warning", None, None)]
    path.write_bytes(write(path, [GOOD] * 5).read_bytes().replace(b"\n", b"\r\n"))
    assert found(path) == [("crlf", "warning", None, None)]


def test_quick_looks_at_the_ends_of_a_large_file_only(path):
    write(path, [GOOD, 5] + [GOOD] * 10_000)
    assert path.stat().st_size > 1 << 20
    assert found(path, full=False) == []
    assert found(path) == [("model", "error", 1, None)]
    path.write_bytes(path.read_bytes()[:-10])
    assert found(path, full=False) == [("json", "error", None, None)]
    write(path, [GOOD, 5])
    assert found(path, full=False) == [("model", "error", 1, None)]


def test_name_folder_and_symbol_are_those_of_the_content(tmp_path):
    folder = tmp_path / "AAPL"
    folder.mkdir()
    assert found(write(folder / NAME, [GOOD])) == [("symbol", "error", 0, "symbol")]
    copy = write(tmp_path / "copy.json", [GOOD, {**GOOD, "symbol": "AAPL"}])
    assert found(copy)[2:] == [("symbol", "error", 1, "symbol")]
    assert [rule for rule, *_ in found(copy)] == ["name", "folder", "symbol"]


def test_a_large_file_is_checked_in_bounded_memory(path):
    """In a process of its own, so that the peak is the validator's."""
    line = json.dumps(GOOD)
    with path.open("w") as file:
        file.write("[\n" + f"{line},\n" * 300_000 + f"{line}\n]\n")
    assert path.stat().st_size > 40e6
    program = (
        "import contracts, contracts.book\n"
        "def peak_kb(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "base = peak_kb()\n"
        f"report = contracts.validate_path({str(path)!r})\n"
        "print(report.ok, report.rows, (peak_kb() - base) >> 10)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    ok, rows, megabytes = done.stdout.split()
    assert (ok, rows) == ("True", "300001")
    # Parsed at once the records take over 200 MB.
    assert int(megabytes) < 100

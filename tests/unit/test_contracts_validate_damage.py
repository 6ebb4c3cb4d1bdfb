"""Every kind of file damaged in every way: a finding, never a crash, and nothing waits for a pipe."""

import json
import os
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import validate_path
from contracts.testing import write_sample_root

LINES, DOCUMENT, ARRAY, PARQUET = "lines", "document", "array", "parquet"
KINDS = {
    "snapshots": ("level2/AAPL/2025-09-04_snapshots_databento.parquet", PARQUET),
    "events": ("level2/AAPL/2025-09-04_events_databento.parquet", PARQUET),
    "bars": ("bars/minute/AAPL/2025-11-26.parquet", PARQUET),
    "messages": ("level2/MSFT/2025-09-04_messages_093000.json", ARRAY),
    "session_stats": ("level2/MSFT/session_stats_20250904_093000.json", DOCUMENT),
    "backfill_summary": ("backfill_l2_summary.json", DOCUMENT),
    "bars_coverage": ("bars_coverage_manifest.json", DOCUMENT),
    "symbol_mapping": ("symbol_mapping.json", DOCUMENT),
    "backfill_manifest": ("backfill_l2_manifest.jsonl", LINES),
    "bars_manifest": ("bars_download_manifest.jsonl", LINES),
    "gaps": ("l2_gaps.jsonl", LINES),
}
MAPPING = {"BRK-B": {"symbol": "BRK.B"}}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    write_sample_root(root)
    (root / "symbol_mapping.json").write_text(json.dumps(MAPPING))
    return root


@pytest.fixture
def copy(sample, tmp_path):
    """A sound root that may be damaged."""
    return Path(shutil.copytree(sample, tmp_path / "root"))


def rules(path, **options):
    return {finding.rule for finding in validate_path(path, **options).findings}


def test_the_undamaged_root_has_every_kind_and_no_finding(sample):
    report = validate_path(sample)
    assert report.findings == []
    assert set(report.kinds) == set(KINDS)


def first_line(change):
    """Change the first line; the rest stays."""

    def damage(content):
        line, end, rest = content.partition(b"\n")
        return change(line) + end + rest

    return damage


def key(text):
    """Add one more key to the first object."""
    return lambda content: content.replace(b"{", b"{" + text + b",", 1)


def version(found):
    """Let the first object say another version."""

    def damage(content):
        start = content.index(b"{")
        document, length = json.JSONDecoder().raw_decode(content[start:].decode())
        document["schema_version"] = found
        return content[:start] + json.dumps(document).encode() + content[start + length :]

    return damage


BYTES = {
    "no bytes": (lambda content: b"", {PARQUET: "empty-file", DOCUMENT: "json", ARRAY: "json", LINES: None}),
    "half of it": (
        lambda content: content[: len(content) // 2],
        {PARQUET: "not-parquet", DOCUMENT: "json", ARRAY: "json", LINES: "torn-line"},
    ),
    "zeros": (
        lambda content: bytes(1000),
        {PARQUET: "not-parquet", DOCUMENT: "json", ARRAY: "model", LINES: "json"},
    ),
    "text": (
        lambda content: b"hello\n",
        {PARQUET: "not-parquet", DOCUMENT: "json", ARRAY: "model", LINES: "json"},
    ),
    "a mark in front": (
        lambda content: b"\xef\xbb\xbf" + content,
        {PARQUET: "not-parquet", DOCUMENT: "bom", ARRAY: "bom", LINES: "bom"},
    ),
    "CR LF": (
        lambda content: content.rstrip(b"\n").replace(b"\n", b"\r\n") + b"\r\n",
        {DOCUMENT: "crlf", ARRAY: "crlf", LINES: "crlf"},
    ),
    "no UTF-8": (key(b'"detail":"\xff"'), {DOCUMENT: "utf8", ARRAY: "utf8", LINES: "utf8"}),
    "a list": (first_line(lambda line: b"[[]]"), {LINES: "model", ARRAY: "json"}),
    "an empty list": (lambda content: b"[]\n", {DOCUMENT: "schema", LINES: "model", ARRAY: None}),
    "a number": (lambda content: b"7\n", {DOCUMENT: "schema", ARRAY: "model", LINES: "model"}),
    "null": (lambda content: b"null\n", {DOCUMENT: "json", ARRAY: "model", LINES: "model"}),
    "two documents": (lambda content: content + content, {DOCUMENT: "json", ARRAY: "json"}),
    "a key twice": (key(b'"note":1,"note":1'), dict.fromkeys((DOCUMENT, ARRAY, LINES), "duplicate-key")),
    "a NaN": (key(b'"note":NaN'), dict.fromkeys((DOCUMENT, ARRAY, LINES), "nan")),
    "an endless number": (key(b'"note":1e999'), dict.fromkeys((DOCUMENT, ARRAY, LINES), "nan")),
    "a huge integer": (key(b'"note":' + b"9" * 5000), dict.fromkeys((DOCUMENT, ARRAY, LINES), "json")),
    "nested beyond sense": (key(b'"note":' + b"[" * 20_000), dict.fromkeys((DOCUMENT, ARRAY, LINES), "json")),
    "another version": (version("x.v9"), dict.fromkeys((DOCUMENT, ARRAY, LINES), "schema-version")),
    "a version that is a number": (version(1), dict.fromkeys((DOCUMENT, ARRAY, LINES), "schema-version")),
}
CASES = [
    pytest.param(kind, damage, expected[form], id=f"{kind}-{name}")
    for kind, (_, form) in KINDS.items()
    for name, (damage, expected) in BYTES.items()
    if form in expected
    # It names no version, is written by people, and one line of it is all of it.
    and not (kind == "symbol_mapping" and ("version" in name or name == "CR LF"))
]


@pytest.fixture(scope="module")
def shared(sample, tmp_path_factory):
    """A copy of the sound root for tests that put back what they change."""
    return Path(shutil.copytree(sample, tmp_path_factory.mktemp("shared") / "root"))


@contextmanager
def holding(path, content):
    """Give a file other content for a while."""
    sound = path.read_bytes()
    path.write_bytes(content(sound))
    try:
        yield
    finally:
        path.write_bytes(sound)


@pytest.mark.parametrize(("kind", "damage", "rule"), CASES)
def test_damaged_content_is_told_by_its_rule_in_the_file_and_in_the_root(shared, kind, damage, rule):
    path = shared / KINDS[kind][0]
    with holding(path, damage):
        told = [rules(path), rules(path, full=False), rules(shared, full=False)]
    if rule is None:
        assert told[:2] == [set(), set()]
    else:
        assert all(rule in each for each in told)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("full", [True, False])
def test_what_is_no_readable_file_is_told_and_nothing_waits_for_it(copy, kind, full):
    path = copy / KINDS[kind][0]
    path.unlink()
    assert rules(path, full=full) == {"unreadable"}
    makers = {
        "not-a-file": (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")),
        "unreadable": (lambda: path.symlink_to(path), lambda: path.symlink_to("nowhere")),
    }
    for rule, made in makers.items():
        for make in made:
            make()
            assert rules(path, full=full) == {rule}
            told = [finding.rule for finding in validate_path(copy, full=full).findings if finding.path == path]
            assert told == [rule]
            path.rmdir() if path.is_dir() else path.unlink()


@contextmanager
def without_privileges():
    """Everything is readable to root, so root looks as nobody does."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65_534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_and_a_folder_that_may_not_be_read_are_told(copy, kind, monkeypatch):
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755)
    monkeypatch.chdir(copy)
    path = Path(KINDS[kind][0])
    assert rules(path) == set()
    path.chmod(0)
    with without_privileges():
        assert rules(path) == {"unreadable"}
        told = [finding.rule for finding in validate_path(".").findings if finding.path == path]
    assert told == ["unreadable"]
    Path("level2").chmod(0)
    with without_privileges():
        assert "unreadable" in rules(".")
        assert rules("level2/AAPL") == {"unreadable"}
    Path("level2").chmod(0o755)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "x" * 300 + ".parquet", "\ud800.parquet", "", "/dev/null"])
def test_an_odd_path_is_a_finding(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = validate_path(path)
    assert [finding.severity for finding in report.findings] == ([] if path == "" else ["error"])


def test_of_lines_that_are_appended_while_reading_only_the_last_may_be_torn(copy):
    """The validator looks at what was there when it began; a write may be seen half."""
    path = copy / "l2_gaps.jsonl"
    line = path.read_bytes()

    def append():
        with path.open("ab", buffering=0) as file:
            for _ in range(500):
                file.write(line * 3)

    writer = threading.Thread(target=append)
    writer.start()
    counts = []
    while writer.is_alive() or not counts:
        report = validate_path(path)
        assert {finding.line for finding in report.findings} <= {report.rows}
        counts.append(report.rows)
    writer.join()
    assert counts == sorted(counts)
    report = validate_path(path)
    assert (report.findings, report.rows) == ([], 1501)


@pytest.mark.parametrize("kind", ["snapshots", "bars", "messages", "backfill_summary", "backfill_manifest"])
def test_a_file_that_comes_and_goes_and_is_cut_while_reading_is_never_a_crash(copy, kind):
    path = copy / KINDS[kind][0]
    content = path.read_bytes()
    stop = threading.Event()

    def meddle():
        while not stop.is_set():
            path.write_bytes(content)
            os.truncate(path, len(content) // 3)
            path.unlink()

    meddler = threading.Thread(target=meddle)
    meddler.start()
    try:
        for _ in range(40):
            validate_path(path)
            if path.parent != copy:
                validate_path(path.parent)
    finally:
        stop.set()
        meddler.join()


def flip(content, edits):
    damaged = bytearray(content)
    for at, what in edits:
        place = at % (len(damaged) + 1)
        damaged[place : place + (0 if len(what) == 3 else len(what))] = what
    return bytes(damaged)


EDITS = st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=3)), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(edits=EDITS, cut=st.none() | st.integers(0, 2**20))
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_flipped_or_are_gone_never_crash_the_validator(sample, tmp_path_factory, kind, edits, cut):
    relative = KINDS[kind][0]
    content = flip((sample / relative).read_bytes(), edits)
    path = tmp_path_factory.getbasetemp() / "flipped" / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if cut is None else content[: cut % (len(content) + 1)])
    validate_path(path)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "AAPL", "brk.b", "../x", "\ud800", "\0", "2025-09-04", "9999-12-31", "0001-01-01T00:00:00"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def replace_one(document, draw):
    """Replace one value somewhere in a document, add one, or take one away."""
    if isinstance(document, dict) and document and draw(st.integers(0, 5)):
        at = draw(st.sampled_from(sorted(document)))
        if draw(st.integers(0, 5)) == 0:
            del document[at]
        else:
            document[at] = replace_one(document[at], draw)
        return document
    if isinstance(document, list) and document and draw(st.integers(0, 5)):
        at = draw(st.integers(0, len(document) - 1))
        document[at] = replace_one(document[at], draw)
        return document
    return draw(VALUES)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", [kind for kind, (_, form) in KINDS.items() if form != PARQUET])
def test_odd_values_in_a_document_never_crash_the_validation_of_a_root(shared, kind, data):
    path = shared / KINDS[kind][0]

    def edit(sound):
        if KINDS[kind][1] == LINES:
            lines = [replace_one(json.loads(line), data.draw) for line in sound.splitlines()]
            return "".join(json.dumps(line) + "\n" for line in lines).encode()
        return json.dumps(replace_one(json.loads(sound), data.draw)).encode()

    with holding(path, edit):
        report = validate_path(shared, full=False)
    # Both forms of the report can be made of whatever was found.
    json.dumps(report.to_document())
    assert all(str(finding) for finding in report.findings)

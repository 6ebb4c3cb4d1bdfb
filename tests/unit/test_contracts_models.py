"""The models of the backfill's artifacts and of the snapshots' footer."""

import json
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts import (
    BackfillCounts,
    BackfillManifestLine,
    BackfillSummary,
    BookScope,
    InvalidDocument,
    Quality,
    SnapshotMetadata,
    UnknownSchemaVersion,
    Window,
    parse_manifest_line,
    parse_summary,
    parse_window,
    snapshot_schema,
)
from contracts.schemas import schema_validator
from contracts.testing import sample_metadata, sample_summary
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.level2 import SNAPSHOT_SCHEMA

DAY = date(2025, 9, 4)
LINE = {"symbol": "AAPL", "date": DAY, "status": "WRITE"}

SYMBOLS = st.from_regex(r"[A-Z][A-Z0-9-]{4,14}", fullmatch=True)
COUNTS = st.integers(0, 2**63 - 1)
AMOUNTS = st.floats(0, 1e15)
FILLED = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
UTC_MOMENTS = st.datetimes(timezones=st.just(UTC))
WINDOWS = st.sampled_from(["08:30-11:00", "00:00-23:59"])
TIMESTAMPS = st.integers(0, 2**62).map(lambda ns: iso_utc_from_ns(np.array([ns]))[0].as_py())


def maybe(strategy):
    return st.none() | strategy


QUALITIES = st.builds(
    Quality,
    vendor_condition=maybe(st.sampled_from(["available", "degraded", "pending", "missing"])),
    rows=COUNTS,
    events=COUNTS,
    crossed=COUNTS,
    locked=COUNTS,
    one_sided=COUNTS,
    maybe_bad_book=COUNTS,
    max_gap_ms=maybe(AMOUNTS),
    first_ts=maybe(TIMESTAMPS),
    last_ts=maybe(TIMESTAMPS),
)
LINES = st.builds(
    BackfillManifestLine,
    symbol=SYMBOLS,
    date=st.dates(),
    status=st.sampled_from(["WRITE", "SKIP", "EMPTY", "ERROR"]),
    run_id=maybe(FILLED),
    written_at=maybe(UTC_MOMENTS),
    source=maybe(FILLED),
    path=maybe(FILLED),
    rows=maybe(COUNTS),
    interval_ms=maybe(COUNTS),
    window_et=maybe(WINDOWS),
    cost_usd=maybe(AMOUNTS),
    quality=maybe(QUALITIES),
    error=maybe(st.text()),
    reason=maybe(st.text()),
)
TASKS = st.lists(st.tuples(SYMBOLS, st.dates()), max_size=3)


@st.composite
def summaries(draw):
    counts = BackfillCounts(**{key: draw(st.integers(0, 10**6)) for key in ("WRITE", "SKIP", "EMPTY", "ERROR")})
    return BackfillSummary(
        counts=counts,
        zero_row_tasks=draw(TASKS),
        errors=draw(st.lists(st.text(), max_size=3)),
        total_tasks=counts.total,
        duration_sec=draw(AMOUNTS),
        strict=draw(st.booleans()),
        force=draw(st.booleans()),
        max_tasks=draw(maybe(COUNTS)),
        concurrency=draw(st.integers(1, 64)),
        started_at=draw(maybe(UTC_MOMENTS)),
        window_et=draw(maybe(WINDOWS)),
        remaining=draw(maybe(TASKS)),
        stopped=draw(maybe(st.text())),
    )


@settings(max_examples=25)
@given(LINES)
def test_a_manifest_line_survives_json_and_fits_its_schema(line):
    text = line.to_json_line()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert text.isascii()
    assert parse_manifest_line(text) == line
    assert schema_validator("backfill_l2_manifest.v1").is_valid(json.loads(text))


@settings(max_examples=25)
@given(summaries())
def test_a_summary_survives_json_and_fits_its_schema(summary):
    text = summary.to_json()
    assert parse_summary(text) == summary
    assert schema_validator("backfill_l2_summary.v1").is_valid(json.loads(text))


def test_the_keys_of_a_line_stand_in_model_order_and_empty_ones_are_left_out():
    line = BackfillManifestLine(**LINE, rows=5, error=None, written_at=datetime(2025, 9, 5, 1, 2, 3, tzinfo=UTC))
    assert line.to_json_line() == (
        '{"symbol":"AAPL","date":"2025-09-04","status":"WRITE","schema_version":"backfill_l2_manifest.v1",'
        '"written_at":"2025-09-05T01:02:03+00:00","rows":5}\n'
    )


def test_a_summary_keeps_its_required_null():
    document = sample_summary().to_document()
    assert document["max_tasks"] is None
    assert "stopped" not in document


@pytest.mark.parametrize("word", ["WRITTEN", "SKIPPED", "write", "", None, "OK"])
def test_a_producer_can_write_only_the_four_words(word):
    with pytest.raises(ValidationError, match="status"):
        BackfillManifestLine(**{**LINE, "status": word})


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2025, 9, 5, 1, 2, 3),  # noqa: DTZ001 - on purpose
        datetime(2025, 9, 5, 1, 2, 3, tzinfo=timezone(timedelta(hours=-4))),
        1_757_000_000,
    ],
)
def test_a_producer_writes_moments_in_aware_utc(moment):
    with pytest.raises(ValidationError, match="written_at"):
        BackfillManifestLine(**LINE, written_at=moment)


@pytest.mark.parametrize(
    "fault",
    [
        {"symbol": "brk.b"},
        {"date": datetime(2025, 9, 4, tzinfo=UTC)},
        {"rows": -1},
        {"rows": True},
        {"cost_usd": float("nan")},
        {"cost_usd": float("inf")},
        {"window_et": "11:00-08:30"},
        {"window_et": 5},
        {"interval_ms": 1.5},
        {"schema_version": "backfill_l2_manifest.v2"},
    ],
)
def test_a_producer_cannot_write_what_readers_refuse(fault):
    with pytest.raises(ValidationError):
        BackfillManifestLine(**{**LINE, **fault})


def test_a_window_is_taken_as_it_is():
    window = parse_window("8:30-11:00")
    assert isinstance(window, Window)
    assert BackfillManifestLine(**LINE, window_et=window).window_et == "08:30-11:00"


def test_an_error_text_with_undecodable_bytes_can_be_written():
    name = b"caf\xe9".decode(errors="surrogateescape")
    line = BackfillManifestLine(**LINE, error=f"cannot write {name}")
    assert parse_manifest_line(line.to_json_line()) == line


@pytest.mark.parametrize(
    "fault",
    [
        {"counts": {"WRITE": 1, "SKIP": 0, "EMPTY": 1}},
        {"counts": {"WRITE": 1, "SKIP": 0, "EMPTY": 1, "ERROR": 0, "LATE": 0}},
        {"total_tasks": 3},
        {"errors": [5]},
        {"zero_row_tasks": [["BRK-B"]]},
    ],
)
def test_a_producer_cannot_write_a_summary_that_does_not_add_up(fault):
    document = {name: getattr(sample_summary(), name) for name in BackfillSummary.model_fields}
    with pytest.raises(ValidationError):
        BackfillSummary(**{**document, **fault})


def test_models_do_not_change_once_made():
    with pytest.raises(ValidationError, match="frozen"):
        sample_summary().strict = True


def test_keys_of_a_later_minor_version_are_read_and_kept():
    line = parse_manifest_line('{"symbol":"AAPL","date":"2025-09-04","status":"SKIP","attempts":null,"x":{"y":null}}')
    assert line.model_extra == {"attempts": None, "x": {"y": None}}
    assert json.loads(line.to_json_line())["x"] == {"y": None}


def test_another_version_is_refused_with_what_is_known():
    with pytest.raises(UnknownSchemaVersion, match="install a marketdata-contracts") as caught:
        parse_manifest_line('{"schema_version":"backfill_l2_manifest.v2","whatever":1}')
    assert caught.value.found == "backfill_l2_manifest.v2"
    assert caught.value.known == ("backfill_l2_manifest.v1",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"symbol":"AAPL","da', "not JSON"),
        ("", "not JSON"),
        (b'{"symbol":"\xff"}', "not UTF-8"),
        ('\ufeff{"symbol":"AAPL"}', "byte order mark"),
        ('{"symbol":"AAPL","symbol":"MSFT"}', "comes twice"),
        ('{"rows":NaN}', "NaN"),
        ('{"cost_usd":1e999}', "too large"),
        ('{"rows":' + "9" * 5000 + "}", "not JSON"),
        ("[" * 100_000, "not JSON|nested too deeply"),
        ("[1]", "array, not an object"),
        ("5", "number, not an object"),
        ("null", "null, not an object"),
        ('{"symbol":"AAPL","status":"WRITE"}', "Field required"),
    ],
)
def test_what_is_no_line_is_refused_with_its_reason(text, reason):
    with pytest.raises(InvalidDocument, match=reason):
        parse_manifest_line(text)


def test_a_refusal_names_the_field():
    with pytest.raises(InvalidDocument) as caught:
        parse_manifest_line('{"symbol":"AAPL","date":"2025-09-04","status":"WRITE","quality":{"rows":-1}}')
    assert caught.value.field == "quality.rows"
    assert caught.value.what == "backfill_l2_manifest.v1"


def test_the_arrow_schema_is_the_five_columns_and_carries_the_footer():
    by_hand = pa.schema(
        [
            ("timestamp", pa.string()),
            ("bid_prices", pa.list_(pa.float64())),
            ("bid_sizes", pa.list_(pa.int64())),
            ("ask_prices", pa.list_(pa.float64())),
            ("ask_sizes", pa.list_(pa.int64())),
        ]
    )
    assert SNAPSHOT_SCHEMA.equals(by_hand)
    schema = snapshot_schema(sample_metadata())
    assert schema.equals(by_hand)
    assert SnapshotMetadata.from_footer(schema.metadata) == sample_metadata()


def test_the_footer_is_sorted_and_the_same_for_the_same_metadata():
    footer = sample_metadata().to_footer()
    assert list(footer) == sorted(footer)
    assert footer == sample_metadata().to_footer()
    assert footer[b"book_scope"] == b'{"levels":10,"odd_lots":"included","time_basis":"receive","venues":["XNAS"]}'
    assert footer[b"interval_ms"] == b"100"


def test_a_footer_without_our_keys_has_no_metadata():
    assert SnapshotMetadata.from_footer(None) is None
    assert SnapshotMetadata.from_footer({b"ARROW:schema": b"x", b"pandas": b"{}"}) is None


def test_a_footer_is_read_with_the_keys_of_others_and_without_a_version():
    footer = {**sample_metadata().to_footer(), b"pandas": b"{}"}
    del footer[b"schema_version"]
    assert SnapshotMetadata.from_footer(footer) == sample_metadata()


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"levels", b"ten"), (b"levels", b"0"), (b"book_scope", b"{"), (b"symbol", b"\xff"), (b"session_date", b"today")],
)
def test_a_damaged_footer_is_refused_by_field(key, value):
    with pytest.raises(InvalidDocument) as caught:
        SnapshotMetadata.from_footer({**sample_metadata().to_footer(), key: value})
    assert caught.value.field == key.decode()


def test_a_footer_of_ours_with_only_some_of_the_keys_is_refused():
    with pytest.raises(InvalidDocument, match="Field required"):
        SnapshotMetadata.from_footer({b"symbol": b"AAPL", b"schema_version": b"level2_snapshot.v1"})


def test_keys_that_others_write_too_are_no_metadata_of_ours():
    """Old and foreign writers leave a symbol or a source in the footer; their files are read as those without."""
    assert SnapshotMetadata.from_footer({b"symbol": b"AAPL", b"source": b"another vendor"}) is None


def test_a_footer_of_another_version_is_refused():
    with pytest.raises(UnknownSchemaVersion):
        SnapshotMetadata.from_footer({**sample_metadata().to_footer(), b"schema_version": b"level2_snapshot.v2"})


def test_a_book_has_at_least_one_venue():
    with pytest.raises(ValidationError, match="venues"):
        BookScope(venues=(), odd_lots="included", time_basis="receive", levels=10)

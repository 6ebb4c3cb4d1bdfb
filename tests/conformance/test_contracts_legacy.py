"""The past: what this project writes passes the schemas that consumers already have, and their old documents are read.

`legacy/` holds the files that consumers of the system before published, unchanged: two draft-07 schemas of the bars
documents with samples, the listing of raw columns, the data collection policy and a symbol mapping.
"""

import json
from datetime import UTC, date, datetime, time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jsonschema import Draft7Validator

from contracts.coverage import build_coverage
from contracts.errors import InvalidDocument, UnknownSchemaVersion
from contracts.layout import DataRoot
from contracts.sessions import ET, effective_window, is_session, named_session, parse_window, session_close_et
from contracts.symbols import canonical_symbol
from contracts.timestamps import iso_utc_from_ns
from contracts.v1.backfill import parse_manifest_line
from contracts.v1.bars import BAR_SCHEMA, BarsCoverage, BarsManifestLine, parse_bars_coverage, parse_bars_manifest_line
from contracts.v1.level2_events import EVENTS_SCHEMA
from contracts.v1.symbol_mapping import SymbolMapping
from contracts.validate import validate_path

LEGACY = Path(__file__).parent / "legacy"
CORPORA = Path(__file__).parent / "corpora"
ARROW = {
    "string": pa.string(),
    "float64": pa.float64(),
    "int64": pa.int64(),
    "datetime64[ns, UTC]": pa.timestamp("ns", tz="UTC"),
}
BASE = {
    "schema_version": "bars_manifest.v1",
    "written_at": "2025-09-15T16:05:01",
    "vendor": "IBKR",
    "file_format": "parquet",
    "symbol": "AAPL",
    "bar_size": "1 min",
    "path": "/data/ML/bars/minute/AAPL/2025-09-15.parquet",
    "filename": "2025-09-15.parquet",
    "rows": 389,
    "columns": ["time", "open", "high", "low", "close", "volume"],
}


def legacy(name):
    return json.loads((LEGACY / name).read_text(encoding="utf-8"))


def schema(name):
    Draft7Validator.check_schema(legacy(name))
    return Draft7Validator(legacy(name))


LINE_SCHEMA = schema("bars_download_manifest.schema.v1.json")
COVERAGE_SCHEMA = schema("bars_coverage_manifest.schema.v1.json")
SAMPLE_LINES = (LEGACY / "bars_download_manifest.sample.jsonl").read_bytes().splitlines(keepends=True)
SAMPLE_COVERAGE = (LEGACY / "bars_coverage_manifest.sample.json").read_bytes()


def line(**fields):
    return parse_bars_manifest_line(json.dumps({**BASE, **fields}))


def readable(version):
    """The documents of a corpus that readers take, new and old."""
    return [path for kind in ("valid", "old") for path in sorted((CORPORA / version).glob(f"{kind}-*.json"))]


# --- what this project writes passes the old schemas -----------------------------------------------------------------


@pytest.mark.parametrize("path", readable("bars_manifest.v1"), ids=lambda path: path.stem)
def test_every_manifest_line_written_passes_the_legacy_schema(path):
    written = parse_bars_manifest_line(path.read_bytes()).to_json_line()
    assert LINE_SCHEMA.is_valid(json.loads(written))
    # The old schema has no null: a time that is not known is left out.
    assert "null" not in written


@pytest.mark.parametrize("path", readable("bars_coverage.v1"), ids=lambda path: path.stem)
def test_every_coverage_written_passes_the_legacy_schema(path):
    assert COVERAGE_SCHEMA.is_valid(json.loads(parse_bars_coverage(path.read_bytes()).to_json()))


def test_the_legacy_schemas_judge_at_all():
    assert not LINE_SCHEMA.is_valid({**BASE, "time_start": None})
    assert not COVERAGE_SCHEMA.is_valid({"schema_version": "bars_coverage.v1", "generated_at": "today", "entries": []})


def test_the_coverage_derived_from_old_and_new_lines_passes_and_reads_as_it_was_derived(tmp_path):
    root = DataRoot(tmp_path)
    new = line(time_start="2025-09-16T09:30:00", time_end="2025-09-16T15:59:00", filename="2025-09-16.parquet")
    old = [
        {"time_start": None, "time_end": None, "filename": "2025-09-17.parquet", "path": "/old/2025-09-17.parquet"},
        # Several days in a file: the day in its name lies in the span.
        {"time_start": "2025-09-10T09:30:00", "time_end": "2025-09-12T16:00:00", "filename": "2025-09-11.parquet"},
        # Several days in a file: the day in its name does not, so the day of the first bar counts.
        {"time_start": "2025-09-08T09:30:00", "time_end": "2025-09-09T16:00:00", "filename": "AAPL_2024-01-02.parquet"},
        {"time_start": "2025-09-15T09:30:00", "time_end": "2025-09-15T16:00:00", "symbol": "brk.b"},
    ]
    texts = [json.dumps({**BASE, "path": f"/old/{number}.parquet", **fields}) for number, fields in enumerate(old)]
    unread = ['{"schema_version": "bars_manifest.v2"}', json.dumps({**BASE, "schema_version": None}), "[]", '{"torn": ']
    root.bars_manifest.write_text("\n".join([*texts, new.to_json(), *unread]))

    result = build_coverage(root, generated_at=datetime(2025, 9, 18, tzinfo=UTC))

    document = json.loads(root.bars_coverage.read_bytes())
    assert COVERAGE_SCHEMA.is_valid(document)
    coverage = BarsCoverage.from_document(document)
    days = {entry.symbol: [day.date.isoformat() for day in entry.days] for entry in coverage.entries}
    assert days == {"AAPL": ["2025-09-08", "2025-09-11", "2025-09-16", "2025-09-17"], "BRK-B": ["2025-09-15"]}
    assert document["entries"][0]["total"] == {"date_start": days["AAPL"][0], "date_end": days["AAPL"][-1]}
    assert coverage.entries[1].days[0].time_start.isoformat() == "2025-09-15T09:30:00-04:00"
    assert "time_start" not in document["entries"][0]["days"][-1]
    assert sum(result.report.skipped.values()) == len(unread)


# --- their documents are read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "bar_size"), [(SAMPLE_LINES[0], "1 min"), (SAMPLE_LINES[1], "1 sec")])
def test_the_sample_lines_read_as_new_york_wall_clock(text, bar_size):
    found = parse_bars_manifest_line(text)
    assert LINE_SCHEMA.is_valid(json.loads(text))
    assert (found.symbol, found.bar_size, found.vendor) == ("AAPL", bar_size, "IBKR")
    assert found.time_start.isoformat() == "2025-09-15T09:30:00-04:00"
    assert found.time_end == datetime(2025, 9, 15, 20, tzinfo=UTC)
    assert found.written_at.astimezone(ET).time() >= time(16, 5, 1)
    assert found.written_at.tzinfo is UTC
    assert LINE_SCHEMA.is_valid(found.to_document())


def test_the_sample_coverage_reads_although_it_contradicts_itself(tmp_path):
    found = parse_bars_coverage(SAMPLE_COVERAGE)
    assert COVERAGE_SCHEMA.is_valid(json.loads(SAMPLE_COVERAGE))
    assert found.generated_at == datetime(2025, 9, 16, 6, 10, tzinfo=UTC)
    assert [(entry.bar_size, len(entry.days)) for entry in found.entries] == [("1 min", 1), ("1 sec", 1)]
    assert found.entries[1].days[0].time_end.isoformat() == "2025-09-15T15:59:57-04:00"
    (tmp_path / "bars_coverage_manifest.json").write_bytes(SAMPLE_COVERAGE)
    report = validate_path(tmp_path / "bars_coverage_manifest.json")
    assert {finding.rule for finding in report.errors} == {"total"}
    assert {finding.rule for finding in report.warnings} == {"old-time"}


def test_the_sample_lines_pass_the_validator_with_warnings_only(tmp_path):
    path = tmp_path / "bars_download_manifest.jsonl"
    path.write_bytes(b"".join(SAMPLE_LINES))
    report = validate_path(path)
    assert report.errors == []
    assert {finding.rule for finding in report.warnings} == {"old-time"}


def test_old_status_words_are_read_and_never_written():
    for old, new in {"WRITTEN": "WRITE", "SKIPPED": "SKIP"}.items():
        found = parse_manifest_line(f'{{"symbol": "AAPL", "date": "2025-09-04", "status": "{old}"}}\n')
        assert found.status == new
        assert old not in found.to_json_line()
    with pytest.raises(InvalidDocument, match="status"):
        parse_manifest_line('{"symbol": "AAPL", "date": "2025-09-04", "status": "written"}')


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-09-15T09:30:00", "2025-09-15T09:30:00-04:00"),
        ("2025-01-15T09:30:00", "2025-01-15T09:30:00-05:00"),
        ("2025-09-15T09:30:00.250", "2025-09-15T09:30:00.250000-04:00"),
        ("2025-09-15T13:30:00Z", "2025-09-15T09:30:00-04:00"),
        ("2025-09-15T15:30:00+02:00", "2025-09-15T09:30:00-04:00"),
        # Written with the winter's offset in summer: the moment counts, not the clock.
        ("2025-09-15T09:30:00-05:00", "2025-09-15T10:30:00-04:00"),
        # Late in the evening UTC is a day ahead; the ET day is what counts.
        ("2025-09-16T00:30:00Z", "2025-09-15T20:30:00-04:00"),
        # The hour that comes twice: a naive time is taken as the first.
        ("2025-11-02T01:30:00", "2025-11-02T01:30:00-04:00"),
    ],
)
def test_old_times_become_new_york_times_with_their_offset(text, moment):
    assert line(time_start=text).to_document()["time_start"] == moment
    day = {"date": "2025-09-15", "time_end": text, "path": "/d/x.parquet", "filename": "x.parquet", "rows": 1}
    total = {"date_start": "2025-09-15", "date_end": "2025-09-15"}
    entry = {"symbol": "AAPL", "bar_size": "1 hour", "total": total, "days": [day]}
    coverage = {"schema_version": "bars_coverage.v1", "generated_at": "2025-09-16T02:10:00", "entries": [entry]}
    assert parse_bars_coverage(json.dumps(coverage)).to_document()["entries"][0]["days"][0]["time_end"] == moment


def test_null_and_missing_times_are_none_and_written_as_nothing():
    for fields in ({"time_start": None, "time_end": None}, {}):
        found = line(**fields)
        assert (found.time_start, found.time_end) == (None, None)
        assert not {"time_start", "time_end"} & found.to_document().keys()


def test_times_in_the_hour_that_comes_twice_are_compared_as_moments():
    found = line(time_start="2025-11-02T01:50:00-04:00", time_end="2025-11-02T01:10:00-05:00")
    assert found.time_end.timestamp() - found.time_start.timestamp() == 20 * 60
    with pytest.raises(InvalidDocument, match="after"):
        line(time_start="2025-11-02T01:10:00-05:00", time_end="2025-11-02T01:50:00-04:00")


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59", "9999-12-31T23:59:59-05:00"])
@pytest.mark.parametrize("key", ["time_start", "time_end"])
def test_a_time_that_has_no_day_in_both_zones_is_refused_and_named(key, text):
    with pytest.raises(InvalidDocument, match=key):
        line(**{key: text})


def test_old_spellings_of_symbols_are_made_canonical_on_reading():
    assert {line(symbol=text).symbol for text in ("BRK.B", "brk-b", " BRK/B ", "BRK B")} == {"BRK-B"}
    with pytest.raises(InvalidDocument, match="symbol"):
        line(symbol="../AAPL")


@pytest.mark.parametrize(
    "version", ["bars_manifest.v2", "bars_manifest.v1.0", "bars_manifest", "BARS_MANIFEST.V1", None, 1]
)
def test_bars_documents_of_any_other_version_and_of_none_are_unknown(version):
    with pytest.raises(UnknownSchemaVersion) as refused:
        line(schema_version=version)
    assert (refused.value.found, refused.value.known) == (version, ("bars_manifest.v1",))
    document = {key: value for key, value in BASE.items() if key != "schema_version"}
    with pytest.raises(UnknownSchemaVersion):
        parse_bars_manifest_line(json.dumps(document))
    with pytest.raises(UnknownSchemaVersion):
        parse_bars_coverage('{"generated_at": "2025-09-16T02:10:00", "entries": []}')


# --- the raw columns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frequency", ["Seconds", "Minutes", "Hourly"])
def test_bar_files_have_exactly_the_raw_columns_of_the_listing(frequency):
    listing = legacy("raw_market_data_v1.json")["frequencies"][frequency]
    columns = listing["columns"]
    assert [(field.name, field.type) for field in BAR_SCHEMA] == [(k, ARROW[v["dtype"]]) for k, v in columns.items()]
    assert len(BAR_SCHEMA) == listing["total_columns"]
    assert not set(BAR_SCHEMA.names) & set(listing["repair_adds_columns"])


def test_event_files_have_exactly_the_raw_columns_of_the_listing():
    listing = legacy("raw_market_data_v1.json")["frequencies"]["Level2"]
    expected = [(name, ARROW[column["dtype"]]) for name, column in listing["columns"].items()]
    assert [(field.name, field.type) for field in EVENTS_SCHEMA] == expected


@pytest.mark.parametrize("name", BAR_SCHEMA.names)
@pytest.mark.parametrize("frequency", ["Seconds", "Minutes", "Hourly"])
def test_a_column_may_be_null_where_the_listing_says_so_and_nowhere_else(tmp_path, frequency, name):
    folder, step_s = {"Seconds": ("second", 1), "Minutes": ("minute", 60), "Hourly": ("hour", 3600)}[frequency]
    start_s = int(datetime(2025, 9, 15, 13, 30, tzinfo=UTC).timestamp())
    times = iso_utc_from_ns(np.array([(start_s + row * step_s) * 10**9 for row in range(3)]))
    prices = {key: [230.0] * 3 for key in ("open", "high", "low", "close", "WAP")}
    values = {"timestamp": times.to_pylist(), **prices, "volume": [100.0] * 3, "barCount": [5] * 3}
    values[name][1] = None
    path = tmp_path / "bars" / folder / "AAPL" / "2025-09-15.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(values, BAR_SCHEMA), path)

    nullable = legacy("raw_market_data_v1.json")["frequencies"][frequency]["columns"][name]["nullable"]

    assert nullable == (name == "WAP")
    assert validate_path(path).ok == nullable


# --- policy and mapping ----------------------------------------------------------------------------------------------


def test_the_collection_policy_holds():
    policy = legacy("data_collection_policy_v1.json")
    assert policy["session_timezone"] == ET.key
    window = effective_window("08:00-11:30", "08:30-11:00", enforce=True)
    assert str(window) == policy["l2_window_default"] == str(parse_window(policy["l2_window_default"]))
    day = date(2025, 9, 15)
    assert named_session("l2", day, window) == (
        datetime(2025, 9, 15, 12, 30, tzinfo=UTC),
        datetime(2025, 9, 15, 15, 0, tzinfo=UTC),
    )
    for example in policy["symbol_policy"]["examples"]:
        vendor, canonical = example.split("→")
        assert canonical_symbol(vendor) == canonical
        assert canonical_symbol(canonical) == canonical


def test_the_calendar_of_the_policy_is_the_one_asked():
    assert legacy("data_collection_policy_v1.json")["calendar_id"] == "XNYS"
    # Mourning for a president, Good Friday, Juneteenth; days on which other calendars are open.
    closed = [date(2025, 1, 9), date(2025, 4, 18), date(2025, 6, 19)]
    assert [is_session(day) for day in closed] == [False] * 3
    # Columbus Day and Veterans Day, on which bonds rest and XNYS opens.
    assert [is_session(day) for day in (date(2025, 10, 13), date(2025, 11, 11))] == [True] * 2
    assert session_close_et(date(2025, 11, 28)) == time(13)


def test_the_symbol_mapping_of_the_consumer_reads_and_validates(tmp_path):
    text = (LEGACY / "symbol_mapping.json").read_text()
    mapping = SymbolMapping.from_json(text)
    entry = mapping.entry("WFI", date(2025, 9, 4))
    assert (entry.symbol, entry.dataset, entry.schema_) == ("WFI", "XNYS.PILLAR", "mbp-10")
    (tmp_path / "symbol_mapping.json").write_text(text)
    assert validate_path(tmp_path / "symbol_mapping.json").findings == []


def test_the_model_and_the_legacy_schema_agree_on_what_must_be_there():
    """What the old schema requires ours requires; nothing else may be required, for old lines do not have it."""
    assert set(BarsManifestLine.model_json_schema()["required"]) == set(LINE_SCHEMA.schema["required"])
    assert set(BarsCoverage.model_json_schema()["required"]) == set(COVERAGE_SCHEMA.schema["required"])
    ours = BarsCoverage.model_json_schema()["$defs"]
    for name, part in {"CoverageEntry": "entry", "CoverageDay": "day", "CoverageTotal": "total"}.items():
        theirs = COVERAGE_SCHEMA.schema["$defs"][part]
        assert set(ours[name]["required"]) == set(theirs["required"])
        assert ours[name]["additionalProperties"] == theirs["additionalProperties"]

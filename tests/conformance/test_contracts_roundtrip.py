"""Round trips of every model with any content: model, JSON, valid under the JSON Schema, the same model again."""

import json
import re
from datetime import UTC, date, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.dispatch import READERS, parse_document
from contracts.errors import ContractError
from contracts.schemas import MODELS, schema_validator
from contracts.sessions import ET
from contracts.symbols import SPELLING_PATTERN, SYMBOL_PATTERN, canonical_symbol
from contracts.timestamps import ns_from_text
from contracts.v1.bars import BarsMetadata
from contracts.v1.level2 import SnapshotMetadata
from contracts.v1.level2_events import EventsMetadata

MOST = 2**63 - 1
LINES = {"backfill_l2_manifest.v1", "bars_manifest.v1", "l2_gap.v1"}
# Three trips by three judges take a while on a busy machine.
steady = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])

counts = st.integers(0, MOST) | st.sampled_from([0, 1, MOST])
positives = st.integers(1, MOST)
amounts = st.floats(0, 1e15)
filled = st.text(min_size=1)
free = st.text(st.characters() | st.characters(categories=["Cs"]))
days = st.dates()
utc = st.datetimes(timezones=st.just(UTC))
# New York has a zone in whole hours since 1883; the last day of the calendar has no UTC for its evening.
new_york = st.datetimes(datetime(1884, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)).map(  # noqa: DTZ001 - `timezones`
    lambda moment: moment.astimezone(ET)
)
symbols = st.from_regex(r"[A-Z][A-Z0-9-]{0,14}", fullmatch=True).filter(lambda text: re.match(SYMBOL_PATTERN, text))
digits = st.text("0123456789", min_size=1, max_size=9).map(".{}".format) | st.just("")
seconds = st.datetimes().map(lambda moment: moment.isoformat(timespec="seconds"))
utc_texts = st.builds("{}{}{}".format, seconds, digits, st.sampled_from(["Z", "+00:00"]))
timestamps = st.builds("{}.{:09d}+00:00".format, seconds, st.integers(0, 10**9 - 1))
clocks = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.integers(0, 59))
windows = st.lists(clocks, min_size=2, max_size=2, unique=True).map(sorted).map("-".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def documents(required, optional, *, unknown=True):
    """Keyword arguments of a model, some optional ones missing or None, and keys that no model knows."""
    names = required.keys() | optional.keys() | {"schema_version"}
    fields = st.fixed_dictionaries(required, optional={name: value | st.none() for name, value in optional.items()})
    extra = st.dictionaries(st.text().filter(lambda name: name not in names), json_values, max_size=3)
    return st.builds(lambda own, more: {**more, **own}, fields, extra if unknown else st.just({}))


def in_order(strategy, first, last, key=None):
    """Two values of a document, put into order when both are there."""

    def ordered(document):
        if document.get(first) is None or document.get(last) is None:
            return document
        low, high = sorted((document[first], document[last]), key=key)
        return {**document, first: low, last: high}

    return strategy.map(ordered)


quality = documents(
    dict.fromkeys(["rows", "events", "crossed", "locked", "one_sided", "maybe_bad_book"], counts),
    {
        "vendor_condition": st.sampled_from(["available", "degraded", "pending", "missing"]),
        "max_gap_ms": amounts,
        "first_ts": timestamps,
        "last_ts": timestamps,
    },
)
manifest = documents(
    {"symbol": symbols, "date": days, "status": st.sampled_from(["WRITE", "SKIP", "EMPTY", "ERROR"])},
    {
        **dict.fromkeys(["run_id", "source", "path"], filled),
        **dict.fromkeys(["error", "reason"], free),
        **dict.fromkeys(["rows", "interval_ms"], counts),
        "written_at": utc,
        "window_et": windows,
        "cost_usd": amounts,
        "quality": quality,
    },
)
tasks = st.lists(st.tuples(symbols, days), max_size=3)
four_counts = st.fixed_dictionaries(dict.fromkeys(["WRITE", "SKIP", "EMPTY", "ERROR"], st.integers(0, 2**60)))
summary = documents(
    {
        "counts": four_counts,
        "zero_row_tasks": tasks,
        "errors": st.lists(free, max_size=3),
        "duration_sec": amounts,
        "strict": st.booleans(),
        "force": st.booleans(),
        "max_tasks": counts | st.none(),
        "concurrency": positives,
    },
    {
        "run_id": filled,
        "started_at": utc,
        "window_et": windows,
        "cost_usd": amounts,
        "bytes_written": counts,
        "remaining": tasks,
        "stopped": free,
    },
).map(lambda document: {**document, "total_tasks": sum(document["counts"].values())})
footer = {"symbol": symbols, "source": st.sampled_from(["ibkr", "databento"]), "session_date": days, "producer": filled}
events = documents({**footer, "window_et": windows}, {})
snapshot = documents(
    {
        **footer,
        "window_et": windows,
        "levels": positives,
        "interval_ms": counts,
        "book_scope": documents(
            {
                "venues": st.lists(filled, min_size=1, max_size=3),
                "odd_lots": st.sampled_from(["included", "excluded", "unknown"]),
                "time_basis": st.just("receive"),
                "levels": positives,
            },
            {},
        ),
    },
    {},
)
bar_sizes = st.sampled_from(["1 hour", "1 min", "1 sec"])
bars_footer = documents(
    {
        **{key: strategy for key, strategy in footer.items() if key != "source"},
        "source": st.just("ibkr"),
        "bar_size": bar_sizes,
        **dict.fromkeys(["what_to_show", "price_adjustment"], filled),
        **dict.fromkeys(["use_rth", "complete"], st.booleans()),
    },
    {},
)
file = {"path": filled, "filename": filled, "rows": counts}
times = {"time_start": new_york, "time_end": new_york}
bars_line = in_order(
    documents(
        {
            "schema_version": st.just("bars_manifest.v1"),
            "written_at": utc,
            "vendor": st.just("IBKR"),
            "file_format": st.just("parquet"),
            "symbol": symbols,
            "bar_size": bar_sizes,
            **file,
            "columns": st.lists(filled, min_size=1, max_size=9),
        },
        {
            **times,
            **dict.fromkeys(["what_to_show", "price_adjustment"], filled),
            **dict.fromkeys(["use_rth", "complete"], st.booleans()),
        },
    ),
    "time_start",
    "time_end",
    key=datetime.timestamp,
)
coverage_day = in_order(documents({"date": days, **file}, times), "time_start", "time_end", key=datetime.timestamp)
coverage_entry = documents(
    {
        "symbol": symbols,
        "bar_size": bar_sizes,
        "total": st.fixed_dictionaries({"date_start": days, "date_end": days}),
        "days": st.lists(coverage_day, max_size=3),
    },
    {},
)
coverage = documents(
    {
        "schema_version": st.just("bars_coverage.v1"),
        "generated_at": utc,
        "entries": st.lists(coverage_entry, max_size=3),
    },
    {},
)
causes = ["connect", "disconnect", "data_lost", "reset_317", "halt_316", "queue_drop", "crash", "clock"]
gap = in_order(
    documents(
        {
            "symbol": symbols,
            "session_id": filled,
            "gap_start": utc_texts,
            "gap_end": utc_texts,
            "cause": st.sampled_from(causes),
        },
        {"detail": free},
    ),
    "gap_start",
    "gap_end",
    key=ns_from_text,
)
stats = in_order(
    documents(
        {
            "symbol": symbols,
            "levels": positives,
            **dict.fromkeys(["interval_ms", "num_snapshots", "num_messages"], counts),
            "paper_mode": st.booleans(),
            "recording_date": utc,
        },
        {
            **dict.fromkeys(["session_id", "end_reason"], filled),
            "files": st.lists(filled, max_size=3),
            **dict.fromkeys(["started_at", "ended_at"], utc),
            "gaps": counts,
            "anomalies": st.dictionaries(st.text(), counts, max_size=3),
            "max_lag_ms": amounts,
        },
    ),
    "started_at",
    "ended_at",
)
messages = st.lists(
    documents(
        {
            "timestamp": utc_texts,
            "operation": st.sampled_from(["add", "update", "remove"]),
            "side": st.sampled_from(["bid", "ask"]),
            "level": counts,
            "price": st.floats(allow_nan=False, allow_infinity=False),
            "size": counts,
            "symbol": symbols,
        },
        {},
    ),
    max_size=4,
)
vendor_texts = st.from_regex(r"[ -+\--~]{1,64}", fullmatch=True).filter(lambda text: text.strip(" "))
mapping_entry = in_order(
    documents(
        {},
        {
            **dict.fromkeys(["symbol", "dataset", "schema"], vendor_texts),
            **dict.fromkeys(["valid_from", "valid_to"], days),
        },
        unknown=False,
    ),
    "valid_from",
    "valid_to",
)
spellings = st.from_regex(r"[ \t]?[A-Za-z][A-Za-z0-9./ -]{0,13}[ \n]?", fullmatch=True).filter(
    lambda text: re.match(SPELLING_PATTERN, text)
)
pairs = st.tuples(spellings, mapping_entry | vendor_texts)
mapping = st.lists(pairs, max_size=4, unique_by=lambda pair: canonical_symbol(pair[0])).map(dict)

CONTENT = {
    "bars.v1": bars_footer,
    "backfill_l2_manifest.v1": manifest,
    "backfill_l2_summary.v1": summary,
    "bars_coverage.v1": coverage,
    "bars_manifest.v1": bars_line,
    "l2_gap.v1": gap,
    "l2_quality.v1": quality,
    "level2_events.v1": events,
    "level2_messages.v1": messages,
    "level2_session_stats.v1": stats,
    "level2_snapshot.v1": snapshot,
    "symbol_mapping.v1": mapping,
}


def test_no_model_is_forgotten_here():
    assert CONTENT.keys() == MODELS.keys()


@pytest.mark.parametrize("version", MODELS)
@steady
@given(data=st.data())
def test_a_model_written_and_read_is_the_same_and_fits_its_schema(version, data):
    content = data.draw(CONTENT[version])
    model = MODELS[version].model_validate(content)

    text = model.to_json()

    assert text.isascii()
    document = json.loads(text)
    assert schema_validator(version).is_valid(document)
    assert document == model.to_document()
    assert MODELS[version].from_json(text) == model
    assert READERS[version](text.encode()) == model
    # Written again, not a byte is another.
    assert MODELS[version].from_json(text).to_json() == text
    if isinstance(content, dict) and version != "symbol_mapping.v1":
        # What no model knows is kept as it was.
        assert {key: document[key] for key in content.keys() - type(model).model_fields.keys()} == {
            key: value for key, value in content.items() if key not in type(model).model_fields
        }
    if version in LINES:
        assert model.to_json_line() == text + "\n"
        assert "\n" not in text


@pytest.mark.parametrize("version", MODELS)
@steady
@given(data=st.data())
def test_a_damaged_document_is_refused_alike_by_model_and_schema_or_read_alike(version, data):
    """One value of a real document replaced: the model never crashes, and takes nothing that the schema refuses."""
    document = json.loads(MODELS[version].model_validate(data.draw(CONTENT[version])).to_json())
    places = [(holder, key) for holder in nested(document) for key in keys(holder)]
    if places:
        holder, key = data.draw(st.sampled_from(places))
        holder[key] = data.draw(json_values)
    try:
        MODELS[version].from_document(document)
    except ContractError:
        return
    assert schema_validator(version).is_valid(document)


def nested(value):
    """Every object and array of a document."""
    if isinstance(value, dict | list):
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from nested(part)


def keys(holder):
    return list(holder) if isinstance(holder, dict) else range(len(holder))


@pytest.mark.parametrize("model", [SnapshotMetadata, EventsMetadata, BarsMetadata])
@steady
@given(data=st.data())
def test_footers_survive_parquets_key_value_form(model, data):
    content = {**data.draw(CONTENT[model.version()])}
    own = model.model_validate({key: value for key, value in content.items() if key in model.model_fields})
    found = model.from_footer(own.to_footer())
    assert found == own
    assert found.to_footer() == own.to_footer()


def test_parse_document_chooses_the_reader_by_the_version_that_stands_in_the_text():
    day = date(2025, 9, 4)
    line = MODELS["backfill_l2_manifest.v1"](symbol="AAPL", date=day, status="WRITE")
    assert parse_document(line.to_json_line()) == line
    assert (
        parse_document('{"symbol": "AAPL", "date": "2025-09-04", "status": "WRITTEN"}', "backfill_l2_manifest") == line
    )
    assert parse_document(b"[]\n", "level2_messages").root == ()

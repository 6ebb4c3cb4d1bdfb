"""The six compatibility rules, on the real schemas with one thing changed, and on changes that nobody thought of."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from contracts.schemas import MODELS, load_schema
from tools.compatibility import Violation, compare

CORPORA = Path(__file__).parents[1] / "conformance" / "corpora"
SCHEMAS = {version: load_schema(version) for version in MODELS}
VALID = {
    version: [json.loads(path.read_bytes()) for path in (CORPORA / version).glob("valid-*.json")] for version in MODELS
}
NEW_FIELD = {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None, "title": "New"}
GONE = object()


def changed(schema, *edits):
    """A copy with the value at each JSON pointer replaced, or removed."""
    schema = copy.deepcopy(schema)
    for pointer, value in edits:
        *way, last = [part.replace("~1", "/") for part in pointer.split("/")[1:]]
        place = schema
        for part in way:
            place = place[int(part) if isinstance(place, list) else part]
        key = int(last) if isinstance(place, list) else last
        if value is GONE:
            del place[key]
        elif isinstance(place, list) and key == len(place):
            place.append(value)
        else:
            place[key] = value
    return schema


def rules(version, *edits):
    return {violation.rule for violation in compare(SCHEMAS[version], changed(SCHEMAS[version], *edits))}


MANIFEST, SUMMARY, QUALITY = "backfill_l2_manifest.v1", "backfill_l2_summary.v1", "l2_quality.v1"
BARS, COVERAGE, STATS, MAPPING = "bars_manifest.v1", "bars_coverage.v1", "level2_session_stats.v1", "symbol_mapping.v1"
MESSAGES, SNAPSHOT = "level2_messages.v1", "level2_snapshot.v1"
DATE = {"type": "string", "format": "date"}
ROWS = SCHEMAS[QUALITY]["properties"]["rows"]
LATE = {"x": {"type": "integer", "minimum": 9}}

BREAKING = [
    ("FIELD_NO_DELETE", MANIFEST, [("/properties/run_id", GONE)]),
    ("FIELD_NO_DELETE", MANIFEST, [("/$defs/Quality/properties/crossed", GONE)]),
    ("FIELD_NO_DELETE", COVERAGE, [("/$defs/CoverageDay/properties/rows", GONE)]),
    ("FIELD_NO_DELETE", MESSAGES, [("/$defs/DepthMessage/properties/side", GONE)]),
    ("FIELD_NO_DELETE", MAPPING, [("/$defs/SymbolMappingEntry/properties/dataset", GONE)]),
    ("FIELD_SAME_TYPE", MANIFEST, [("/properties/symbol/type", "integer")]),
    ("FIELD_SAME_TYPE", MANIFEST, [("/properties/rows/anyOf/0/type", "number")]),
    ("FIELD_SAME_TYPE", MANIFEST, [("/properties/rows/anyOf/1", GONE)]),
    ("FIELD_SAME_TYPE", MANIFEST, [("/properties/rows/anyOf/2", {"type": "string"})]),
    ("FIELD_SAME_TYPE", MANIFEST, [("/$defs/Quality/properties/rows/type", "number")]),
    ("FIELD_SAME_TYPE", SUMMARY, [("/properties/errors/items/type", "object")]),
    ("FIELD_SAME_TYPE", SUMMARY, [("/properties/zero_row_tasks/items/prefixItems/1", {"type": "integer"})]),
    ("FIELD_SAME_TYPE", SUMMARY, [("/properties/zero_row_tasks/type", "object")]),
    ("FIELD_SAME_TYPE", STATS, [("/properties/anomalies/anyOf/0/additionalProperties/type", "string")]),
    ("FIELD_SAME_TYPE", MESSAGES, [("/type", "object")]),
    ("FIELD_SAME_TYPE", MAPPING, [("/additionalProperties/anyOf/0", GONE)]),
    ("FIELD_SAME_TYPE", SNAPSHOT, [("/properties/book_scope", {"type": "string"})]),
    ("REQUIRED_NO_ADD", MANIFEST, [("/required/3", "run_id")]),
    ("REQUIRED_NO_ADD", MANIFEST, [("/$defs/Quality/required/6", "first_ts")]),
    ("REQUIRED_NO_ADD", MAPPING, [("/$defs/SymbolMappingEntry/required", ["symbol"])]),
    ("REQUIRED_NO_ADD", MANIFEST, [("/properties/halts", {"type": "integer"}), ("/required/3", "halts")]),
    ("ENUM_VALUE_NO_DELETE", MANIFEST, [("/properties/status/enum/3", GONE)]),
    ("ENUM_VALUE_NO_DELETE", MANIFEST, [("/properties/status/enum/3", "FAILED")]),
    ("ENUM_VALUE_NO_DELETE", QUALITY, [("/properties/vendor_condition/anyOf/0/enum/1", GONE)]),
    ("ENUM_VALUE_NO_DELETE", BARS, [("/properties/bar_size", {"const": "1 min", "type": "string"})]),
    ("ENUM_VALUE_NO_DELETE", "l2_gap.v1", [("/properties/cause/enum/0", GONE)]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/vendor/const", "TWS")]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/path/const", "/data")]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/path/enum", ["/data", "/other"])]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/path/minLength", 2)]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/path/maxLength", 255)]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/rows/minimum", 1)]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/rows/exclusiveMinimum", 0)]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/rows/maximum", 86_400)]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/rows/exclusiveMaximum", 2**63 - 1)]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/rows/multipleOf", 2)]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/columns/minItems", 8)]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/columns/maxItems", 8)]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/columns/items/minLength", 2)]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/columns/uniqueItems", True)]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/symbol/pattern", "^[A-Z]{1,4}$")]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/path/pattern", "^/")]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/path/format", "uri")]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/additionalProperties", False)]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/additionalProperties", {"type": "string"})]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/propertyNames", {"pattern": "^[a-z_]+$"})]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/maxProperties", 16)]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/patternProperties", {"^x": {"type": "string"}})]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/allOf", [{"required": ["time_start"]}])]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/dependentRequired", {"time_start": ["time_end"]})]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/not", {"required": ["source"]})]),
    ("CONSTRAINT_NO_TIGHTEN", MANIFEST, [("/properties/path/anyOf/0/minLength", 2)]),
    ("CONSTRAINT_NO_TIGHTEN", MANIFEST, [("/$defs/Quality/additionalProperties", False)]),
    ("CONSTRAINT_NO_TIGHTEN", MANIFEST, [("/$defs/Quality/properties/rows/maximum", 10**9)]),
    ("CONSTRAINT_NO_TIGHTEN", SUMMARY, [("/properties/zero_row_tasks/items/prefixItems/0/maxLength", 4)]),
    ("CONSTRAINT_NO_TIGHTEN", SUMMARY, [("/properties/zero_row_tasks/items/minItems", 3)]),
    ("CONSTRAINT_NO_TIGHTEN", MAPPING, [("/propertyNames/pattern", "^[A-Z]+$")]),
    ("CONSTRAINT_NO_TIGHTEN", MAPPING, [("/propertyNames/maxLength", 15)]),
    ("CONSTRAINT_NO_TIGHTEN", MAPPING, [("/additionalProperties/anyOf/0/maxLength", 32)]),
    ("FIELD_SAME_TYPE", MAPPING, [("/properties", {"AAPL": {"type": "string"}})]),
    ("CONSTRAINT_NO_TIGHTEN", STATS, [("/properties/anomalies/anyOf/0/properties", LATE)]),
    ("CONSTRAINT_NO_TIGHTEN", MESSAGES, [("/items", False)]),
    ("CONSTRAINT_NO_TIGHTEN", MESSAGES, [("/$defs/DepthMessage/properties/level/maximum", 9)]),
    ("ID_UNCHANGED", BARS, [("/$id", "urn:marketdata-contracts:bars_manifest.v2")]),
    ("ID_UNCHANGED", BARS, [("/$schema", "http://json-schema.org/draft-07/schema#")]),
    ("ID_UNCHANGED", BARS, [("/properties/schema_version/const", "bars_manifest.v1.1")]),
    ("ID_UNCHANGED", BARS, [("/properties/schema_version", {"type": "string"})]),
    ("ID_UNCHANGED", BARS, [("/properties/schema_version", GONE)]),
    ("ID_UNCHANGED", COVERAGE, [("/properties/schema_version", {})]),
    ("ID_UNCHANGED", COVERAGE, [("/properties/schema_version", True)]),
    ("FIELD_SAME_TYPE", BARS, [("/properties/rows", True)]),
    ("CONSTRAINT_NO_TIGHTEN", BARS, [("/properties/rows", False)]),
]

ALLOWED = {
    "an optional field": [(BARS, [("/properties/halts", NEW_FIELD)])],
    "an optional field of a nested object": [(MANIFEST, [("/$defs/Quality/properties/halts", NEW_FIELD)])],
    "an optional field of an object in an array": [(COVERAGE, [("/$defs/CoverageDay/properties/sha256", NEW_FIELD)])],
    "a field of a closed object": [(SUMMARY, [("/$defs/BackfillCounts/properties/LATE", NEW_FIELD)])],
    "a field less required": [(BARS, [("/required/9", GONE)]), (SUMMARY, [("/required", GONE)])],
    "a field that may be null": [(BARS, [("/properties/rows", {"anyOf": [{"type": "integer"}, {"type": "null"}]})])],
    "a value in an enum": [(MANIFEST, [("/properties/status/enum/4", "LATE")])],
    "an enum instead of a const": [(BARS, [("/properties/vendor", {"enum": ["IBKR", "TWS"], "type": "string"})])],
    "a looser bound": [
        (BARS, [("/properties/rows/maximum", 2**64)]),
        (BARS, [("/properties/rows/minimum", -1)]),
        (BARS, [("/properties/rows/minimum", GONE)]),
        (BARS, [("/properties/path/minLength", 0)]),
        (BARS, [("/properties/columns/minItems", GONE)]),
        (SUMMARY, [("/properties/zero_row_tasks/items/maxItems", 3)]),
        (MAPPING, [("/additionalProperties/anyOf/0/maxLength", 128)]),
    ],
    "no pattern or format": [(BARS, [("/properties/symbol/pattern", GONE), ("/properties/written_at/format", GONE)])],
    "an open object": [(SUMMARY, [("/$defs/BackfillCounts/additionalProperties", True)])],
    "names of any kind": [(MAPPING, [("/propertyNames", GONE)])],
    "another wording": [
        (BARS, [("/title", "Bars"), ("/description", "Bars."), ("/properties/rows/title", "Number of rows")]),
        (BARS, [("/properties/rows/examples", [1]), ("/properties/rows/description", "How many.")]),
    ],
    "a definition instead of its text": [
        (BARS, [("/$defs", {"Day": DATE}), ("/properties/day", {"$ref": "#/$defs/Day", "title": "Day"})]),
        (QUALITY, [("/$defs", {"Rows": ROWS}), ("/properties/rows", {"$ref": "#/$defs/Rows"})]),
    ],
    "oneOf for anyOf": [(BARS, [("/properties/use_rth", {"oneOf": [{"type": "null"}, {"type": "boolean"}]})])],
    "a list of types for anyOf": [(BARS, [("/properties/use_rth", {"type": ["null", "boolean"]})])],
}  # fmt: skip


@pytest.mark.parametrize("version", MODELS)
def test_a_schema_may_follow_itself(version):
    assert compare(SCHEMAS[version], copy.deepcopy(SCHEMAS[version])) == []


@pytest.mark.parametrize(
    ("rule", "version", "edits"), BREAKING, ids=lambda value: value if isinstance(value, str) else ""
)
def test_each_breaking_change_is_caught_by_its_rule(rule, version, edits):
    found = rules(version, *edits)
    # What changes the version breaks other rules too; any other change is one thing and has one name.
    assert rule in found if rule == "ID_UNCHANGED" else found == {rule}


@pytest.mark.parametrize(
    ("version", "edits"),
    [pytest.param(*change, id=name) for name, changes in ALLOWED.items() for change in changes],
)
def test_what_only_adds_or_loosens_is_no_false_alarm(version, edits):
    assert compare(SCHEMAS[version], changed(SCHEMAS[version], *edits)) == []


def test_a_violation_says_where_in_the_released_schema_and_what():
    new = changed(SCHEMAS[MANIFEST], ("/$defs/Quality/properties/rows", GONE), ("/properties/status/enum/0", GONE))
    assert compare(SCHEMAS[MANIFEST], new) == [
        Violation("ENUM_VALUE_NO_DELETE", "/properties/status/enum", '["WRITE"] is not taken any more'),
        Violation("FIELD_NO_DELETE", "/$defs/Quality/properties/rows", "the field rows is gone"),
    ]
    assert str(compare(SCHEMAS[MANIFEST], new)[1]) == (
        "FIELD_NO_DELETE at /$defs/Quality/properties/rows: the field rows is gone"
    )


def test_schemas_that_refer_to_themselves_are_compared_to_the_end():
    kids = {"type": "array", "items": {"$ref": "#/$defs/Node"}}
    tree = {"$defs": {"Node": {"type": "object", "properties": {"kids": kids}}}, "$ref": "#/$defs/Node"}
    assert compare(tree, copy.deepcopy(tree)) == []
    broken = changed(tree, ("/$defs/Node/properties/kids/maxItems", 2))
    assert [violation.pointer for violation in compare(tree, broken)] == ["/$defs/Node/properties/kids/maxItems"]


def test_what_cannot_be_judged_is_said_and_not_guessed():
    for target, reason in {
        "https://example.org/rows.json": "leaves its document",
        "#/$defs/None": "names nothing",
    }.items():
        lost = changed(SCHEMAS[BARS], ("/properties/rows", {"$ref": target}))
        with pytest.raises(ValueError, match=reason):
            compare(SCHEMAS[BARS], lost)
    rows = {"$ref": "#/$defs/Rows", "minimum": 5}
    twice = changed(SCHEMAS[BARS], ("/$defs", {"Rows": {"type": "integer", "minimum": 0}}), ("/properties/rows", rows))
    with pytest.raises(ValueError, match="minimum is said twice"):
        compare(SCHEMAS[BARS], twice)


# --- changes that nobody thought of ----------------------------------------------------------------------------------

names = st.text("abcdefghij_~/é", min_size=1, max_size=8).map("new_{}".format)
plain_schemas = st.sampled_from([
    *({"type": "string", "minLength": 3}, {"type": "integer", "maximum": 5}, {"enum": ["a", "b"]}, {"const": 1}, {}),
    *({"type": "array", "items": {"type": "number"}}, {"type": "object", "required": ["x"]}, NEW_FIELD, True),
])  # fmt: skip


def places(schema, pointer=""):
    """Every JSON pointer of a document and its value."""
    yield pointer, schema
    items = schema.items() if isinstance(schema, dict) else enumerate(schema) if isinstance(schema, list) else ()
    for key, value in items:
        yield from places(value, f"{pointer}/{str(key).replace('/', '~1')}")


def is_schema(pointer):
    """Whether a pointer leads to a schema and not to a map of them, an example or a value."""
    *way, last = ["", *pointer.split("/")[1:]]
    if "examples" in way or "default" in way:
        return False
    parent = way[-1] if way else ""
    return pointer == "" or parent in {"properties", "$defs", "anyOf"} or last in {"items", "additionalProperties"}


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.data())
def test_no_additive_change_is_ever_a_violation(version, data):
    schema = SCHEMAS[version]
    for _ in range(data.draw(st.integers(1, 4))):
        objects = [
            pointer
            for pointer, part in places(schema)
            if is_schema(pointer) and isinstance(part, dict) and "properties" in part
        ]
        enums = [pointer for pointer, _ in places(schema) if pointer.endswith("/enum")]
        limits = {"maximum", "minLength", "pattern"}
        bounds = [pointer for pointer, _ in places(schema) if pointer.rpartition("/")[2] in limits]
        kind = data.draw(st.sampled_from(["field", "value", "bound", "required"]))
        if kind == "field" and objects:
            pointer = data.draw(st.sampled_from(objects))
            name = data.draw(names).replace("~", "")
            edit = (f"{pointer}/properties/{name.replace('/', '~1')}", data.draw(plain_schemas))
        elif kind == "value" and enums:
            pointer = data.draw(st.sampled_from(enums))
            edit = (pointer, [*dict(places(schema))[pointer], data.draw(names)])
        elif kind == "bound" and bounds:
            edit = (data.draw(st.sampled_from(bounds)), GONE)
        else:
            pointers = [pointer for pointer, _ in places(schema) if pointer.endswith("/required")]
            assume(pointers)
            pointer = data.draw(st.sampled_from(pointers))
            edit = (pointer, dict(places(schema))[pointer][1:])
        schema = changed(schema, edit)
    assert compare(SCHEMAS[version], schema) == []


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.sampled_from(sorted(MODELS)), st.data())
def test_what_the_rules_let_pass_still_accepts_every_valid_document(version, data):
    """Whatever single thing is changed in a schema: no violation means that no document of the corpora is lost."""
    pointers = [pointer for pointer, _ in places(SCHEMAS[version]) if pointer.count("/") > 1]
    pointer = data.draw(st.sampled_from(pointers))
    values = [GONE, 0, 1, 7, "AAPL", True, False, {"type": "string"}, {"type": "integer"}, [], {}]
    new = changed(SCHEMAS[version], (pointer, data.draw(st.sampled_from(values))))
    try:
        Draft202012Validator.check_schema(new)
        violations = compare(SCHEMAS[version], new)
    except (SchemaError, ValueError):
        # Many such edits make no schema at all, or one with a dangling reference.
        assume(False)
    judge = Draft202012Validator(new)
    assert violations or all(judge.is_valid(document) for document in VALID[version])

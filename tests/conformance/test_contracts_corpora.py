"""Each document of the corpora through every judge that ships: the model, the JSON Schema and the file validator.

`corpora/<schema_version>/` holds one document per file, named by what must become of it:
`valid-*` accepted by all; `invalid-*` refused by all; `beyond-schema-*` refused by the model and the file validator,
accepted by the JSON Schema, which cannot say the rule; `beyond-model-*` refused by the file validator only, which knows
the file's name, or holds parts of a document against each other; `old-*` documents of the system before, refused by the
model and the schema, read (with a warning of the validator) by the reader.
"""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from jsonschema import Draft202012Validator

from contracts.dispatch import READERS
from contracts.errors import ContractError
from contracts.schemas import MODELS, load_schema, schema_validator
from contracts.testing import sample_bars, sample_events, sample_events_metadata, sample_metadata, sample_snapshots
from contracts.validate import validate_path

CORPORA = Path(__file__).parent / "corpora"
CASES = sorted(path for version in MODELS for path in (CORPORA / version).glob("*.json"))
# The footer checks need no rows; what the rows of the artifact hold is tested elsewhere.
FOOTERS = {
    "bars.v1": ("bars/minute/BRK-B/2025-11-26.parquet", sample_bars(rows=1)),
    "level2_snapshot.v1": (
        "BRK-B/2025-09-04_snapshots_databento.parquet",
        sample_snapshots(sample_metadata("BRK-B")).slice(0, 1),
    ),
    "level2_events.v1": (
        "BRK-B/2025-09-04_events_databento.parquet",
        sample_events(sample_events_metadata("BRK-B")).slice(0, 1),
    ),
}
DOCUMENTS = {
    "backfill_l2_summary.v1": "backfill_l2_summary.json",
    "bars_coverage.v1": "bars_coverage_manifest.json",
    "level2_messages.v1": "level2/BRK-B/2025-09-04_messages_093000.json",
    "level2_session_stats.v1": "level2/BRK-B/session_stats_20250904_093000.json",
    "symbol_mapping.v1": "symbol_mapping.json",
}
LINES = {
    "backfill_l2_manifest.v1": "backfill_l2_manifest.jsonl",
    "bars_manifest.v1": "bars_download_manifest.jsonl",
    "l2_gap.v1": "l2_gaps.jsonl",
    "l2_quality.v1": "backfill_l2_manifest.jsonl",
}
KINDS = ("valid", "invalid", "beyond-schema", "beyond-model", "old")


def kind_of(path):
    return next(kind for kind in KINDS if path.name.startswith(f"{kind}-"))


def model_accepts(version, document):
    try:
        MODELS[version].from_document(document)
    except ContractError:
        return False
    return True


def write_artifact(version, document, folder):
    """Write the artifact that carries a document and return its path."""
    if version in DOCUMENTS:
        path = folder / DOCUMENTS[version]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
    elif version in FOOTERS:
        place, table = FOOTERS[version]
        path = folder / place
        path.parent.mkdir(parents=True)
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in document.items()}
        pq.write_table(table.replace_schema_metadata(texts), path)
    else:
        line = {"symbol": "AAPL", "date": "2025-09-04", "status": "WRITE", "quality": document}
        path = folder / LINES[version]
        path.write_text(json.dumps(line if version == "l2_quality.v1" else document) + "\n")
    return path


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_model_schema_and_file_validator_agree_on_each_document(path, tmp_path):
    version, kind = path.parent.name, kind_of(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    report = validate_path(write_artifact(version, document, tmp_path), full=False)
    judged = (model_accepts(version, document), schema_validator(version).is_valid(document), report.ok)
    expected = {
        "valid": (True, True, True),
        "invalid": (False, False, False),
        "beyond-schema": (False, True, False),
        "beyond-model": (True, True, False),
        "old": (False, False, True),
    }
    assert judged == expected[kind], report.findings


@pytest.mark.parametrize("path", [path for path in CASES if kind_of(path) == "valid"], ids=lambda path: path.stem)
def test_valid_documents_survive_a_round_trip_through_the_model(path):
    version = path.parent.name
    model = MODELS[version].from_json(path.read_bytes())
    written = json.loads(model.to_json())
    assert MODELS[version].from_document(written) == model
    assert schema_validator(version).is_valid(written)


@pytest.mark.parametrize("path", [path for path in CASES if kind_of(path) == "old"], ids=lambda path: path.stem)
def test_old_documents_are_read_as_new_ones_and_warned_about(path, tmp_path):
    version = path.parent.name
    read = READERS[version](path.read_bytes())
    # What was read can be written again, as today's documents are.
    assert schema_validator(version).is_valid(json.loads(read.to_json()))
    assert MODELS[version].from_json(read.to_json()) == read
    report = validate_path(write_artifact(version, json.loads(path.read_text()), tmp_path))
    assert report.ok
    assert {finding.rule.partition("-")[0] for finding in report.warnings} == {"old"}


@pytest.mark.parametrize("version", MODELS)
def test_every_schema_has_a_valid_and_an_invalid_corpus(version):
    kinds = [kind_of(path) for path in CASES if path.parent.name == version]
    assert kinds.count("valid") >= 5
    assert kinds.count("invalid") >= 10


def test_no_corpus_lies_about_unused():
    assert {path.name for path in CORPORA.iterdir()} == set(MODELS)
    assert {path for path in CORPORA.rglob("*") if path.is_file()} == set(CASES)
    assert all(path.read_bytes().endswith(b"\n") for path in CASES)


@pytest.mark.parametrize("version", MODELS)
def test_valid_documents_pass_a_plain_validator_of_another_maker_too(version):
    """Draft 2020-12 without format assertion, as other languages run it by default."""
    plain = Draft202012Validator(load_schema(version))
    for path in CASES:
        if path.parent.name == version and kind_of(path) == "valid":
            assert plain.is_valid(json.loads(path.read_text())), path


@pytest.mark.parametrize("version", MODELS)
def test_every_example_in_a_schema_is_valid_where_it_stands(version):
    schema = load_schema(version)
    Draft202012Validator.check_schema(schema)
    whole = Draft202012Validator(schema)
    assert all(whole.is_valid(example) for example in schema.get("examples", []))
    for part in (schema, *schema.get("$defs", {}).values()):
        for name, field in part.get("properties", {}).items():
            # Pydantic leaves the title of a nested model to the definition referred to.
            assert "title" in field or "$ref" in field, name
            assert field["description"], name
            assert field["examples"], name
            judge = Draft202012Validator({**field, "$defs": schema.get("$defs", {})})
            assert all(judge.is_valid(example) for example in field["examples"]), name

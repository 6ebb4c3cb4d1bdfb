"""A rehearsal of the next major: a v2 of the backfill manifest that breaks v1, with everything that must then hold.

The model below is no plan. It renames a field, requires one that was optional and splits a status, which are the
things that no minor version may do.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ConfigDict, Field

from contracts.dispatch import READERS, parse_document
from contracts.errors import InvalidDocument, UnknownSchemaVersion
from contracts.schemas import MODELS, load_schema, schema_id
from contracts.testing import write_sample_root
from contracts.v1._model import Contract, FilledText, IsoDate, Symbol, UtcDatetime
from contracts.v1.backfill import BackfillManifestLine, parse_manifest_line
from contracts.validate import validate_path
from tools import schemas as tool
from tools.compatibility import compare

KIND, V1, V2 = "backfill_l2_manifest", "backfill_l2_manifest.v1", "backfill_l2_manifest.v2"
OUTCOMES = {"WRITE": "written", "SKIP": "kept", "EMPTY": "no_rows", "ERROR": "failed"}


class ManifestLineV2(Contract):
    """One task of one run; `outcome` says what `status` said, and a run is always named."""

    model_config = ConfigDict(title="Level-2 backfill manifest, one line")

    schema_version: Literal["backfill_l2_manifest.v2"] = Field(title="Version", description="v2.", examples=[V2])
    symbol: Symbol = Field(title="Symbol", description="Canonical symbol.", examples=["AAPL"])
    session_date: IsoDate = Field(title="Session date", description="ET trading day.", examples=["2025-09-04"])
    outcome: Literal["written", "kept", "no_rows", "failed"] = Field(
        title="Outcome", description="What became of it.", examples=["written"]
    )
    run_id: FilledText = Field(title="Run", description="The run.", examples=["6f9c2f2e"])
    written_at: UtcDatetime | None = Field(
        default=None, title="At", description="UTC.", examples=["2025-09-05T01:02:03Z"]
    )


def v1_to_v2(line: BackfillManifestLine) -> ManifestLineV2:
    """Upgrade a line: old names become new ones, a run that is not named is `unknown`, unknown keys stay."""
    document = line.to_document()
    return ManifestLineV2.from_document(
        {
            **{key: value for key, value in document.items() if key not in ("date", "status")},
            "schema_version": V2,
            "session_date": document["date"],
            "outcome": OUTCOMES[line.status],
            "run_id": line.run_id or "unknown",
        }
    )


V1_LINE = '{"symbol":"AAPL","date":"2025-09-04","status":"WRITTEN","rows":90000,"note":"by hand"}\n'
V2_LINE = ManifestLineV2(
    schema_version=V2, symbol="AAPL", session_date=datetime(2025, 9, 5, tzinfo=UTC).date(), outcome="kept", run_id="7"
).to_json() + "\n"  # fmt: skip
BOTH = {**READERS, V2: ManifestLineV2.from_json}
AS_V2 = {V1: lambda text: v1_to_v2(parse_manifest_line(text)), V2: ManifestLineV2.from_json}


# --- readers ---------------------------------------------------------------------------------------------------------


def test_a_reader_of_both_picks_by_the_exact_version_and_a_line_without_one_is_v1():
    first, second = parse_document(V1_LINE, KIND, readers=BOTH), parse_document(V2_LINE, KIND, readers=BOTH)
    assert (type(first), first.status) == (BackfillManifestLine, "WRITE")
    assert (type(second), second.outcome) == (ManifestLineV2, "kept")
    assert parse_document(V2_LINE, readers=BOTH) == second


@pytest.mark.parametrize(
    "found", ["backfill_l2_manifest.v3", "backfill_l2_manifest.v2.1", "backfill_l2_manifest", 2, None, [V2]]
)
def test_a_reader_of_both_refuses_every_other_version_and_says_which_it_knows(found):
    text = json.dumps({**json.loads(V2_LINE), "schema_version": found})
    with pytest.raises(UnknownSchemaVersion) as refused:
        parse_document(text, KIND, readers=BOTH)
    assert (refused.value.found, refused.value.known) == (found, (V1, V2))


def test_a_document_of_another_kind_is_refused_even_when_its_version_is_known():
    with pytest.raises(UnknownSchemaVersion) as refused:
        parse_document('{"schema_version": "l2_quality.v1"}', KIND, readers=BOTH)
    assert refused.value.known == (V1, V2)


def test_without_a_kind_a_document_must_name_its_version():
    with pytest.raises(InvalidDocument, match="names no schema_version"):
        parse_document(V1_LINE, readers=BOTH)
    with pytest.raises(UnknownSchemaVersion, match="backfill_manifest"):
        parse_document(V1_LINE, "backfill_manifest")
    with pytest.raises(InvalidDocument, match="not JSON"):
        parse_document(V2_LINE[:20], KIND, readers=BOTH)


def test_a_reader_of_v2_reads_the_whole_past_through_an_explicit_upgrade():
    first, second = (parse_document(line, KIND, readers=AS_V2) for line in (V1_LINE, V2_LINE))
    assert {type(first), type(second)} == {ManifestLineV2}
    assert (first.outcome, first.run_id, first.session_date.isoformat()) == ("written", "unknown", "2025-09-04")
    # What v2 does not know either is not lost.
    assert (first.model_extra["rows"], first.model_extra["note"]) == (90000, "by hand")
    assert ManifestLineV2.from_json(first.to_json()) == first


def test_a_reader_of_v1_refuses_v2_and_says_what_was_found_and_what_it_knows():
    with pytest.raises(UnknownSchemaVersion) as refused:
        parse_manifest_line(V2_LINE)
    assert (refused.value.found, refused.value.known) == (V2, (V1,))
    assert "install a marketdata-contracts" in str(refused.value)
    # A v2 line without its version would be a broken v1 line, never a half-read one.
    with pytest.raises(InvalidDocument, match=r"field (date|status)"):
        parse_manifest_line(json.dumps({k: v for k, v in json.loads(V2_LINE).items() if k != "schema_version"}))


def test_the_validator_of_today_names_the_line_of_tomorrow_and_still_checks_the_others(tmp_path):
    root = write_sample_root(tmp_path)
    lines = root.backfill_manifest.read_text().splitlines(keepends=True)
    broken = lines[0].replace('"WRITE"', '"DONE"')
    root.backfill_manifest.write_text("".join([*lines, V2_LINE, broken]))

    findings = validate_path(root.backfill_manifest).errors

    version = next(finding for finding in findings if finding.rule == "schema-version")
    assert (version.line, version.field) == (len(lines) + 1, "schema_version")
    assert V2 in version.message
    assert "marketdata-contracts" in version.hint
    assert {finding.line for finding in findings} == {len(lines) + 1, len(lines) + 2}


# --- schemas ---------------------------------------------------------------------------------------------------------


def run(root: Path, *arguments: str) -> int:
    return tool.main([*arguments, "--root", str(root)])


@pytest.fixture
def released(tmp_path):
    """A repository whose v1 is released."""
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "pyproject.toml").write_text('[project]\nversion = "0.1.0"\n')
    for version in MODELS:
        folder = tmp_path / "tests" / "conformance" / "corpora" / version
        folder.mkdir(parents=True)
        (folder / "valid-one.json").write_text("{}\n")
    assert run(tmp_path, "--release", "0.1.0") == 0
    return tmp_path


def test_v2_is_a_folder_of_its_own_and_v1_stays_as_it_was_released(released, monkeypatch, capsys):
    v1 = {path: path.read_bytes() for path in released.rglob("v1/**/*.json")}
    assert len(v1) > 2 * len(MODELS)
    (released / "contracts" / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\n')
    corpus = released / "tests" / "conformance" / "corpora" / V2
    corpus.mkdir()
    (corpus / "valid-one.json").write_text(V2_LINE)
    monkeypatch.setattr(tool, "MODELS", {**MODELS, V2: ManifestLineV2})

    assert run(released, "--release", "0.2.0") == 0

    assert {path: path.read_bytes() for path in v1} == v1
    published, wheel = tool.folders(released, "v2")
    for folder in (published, wheel):
        assert {path.name for path in folder.iterdir()} == {"backfill_l2_manifest.schema.json", "index.json"}
    schema = json.loads((published / "backfill_l2_manifest.schema.json").read_text())
    assert schema["$id"] == schema_id(V2) == "urn:marketdata-contracts:backfill_l2_manifest.v2"
    (entry,) = json.loads((published / "index.json").read_text())["schemas"]
    assert (entry["$id"], entry["released_in"]) == (schema["$id"], "0.2.0")
    kept = [release.schemas.keys() for release in tool.read_releases(released)]
    assert kept[1] - kept[0] == {"v2/backfill_l2_manifest.schema.json"}
    assert run(released, "--check") == 0
    capsys.readouterr()


def test_under_its_old_name_v2_is_refused_with_the_reasons(released, monkeypatch, capsys):
    (released / "contracts" / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\n')
    monkeypatch.setattr(tool, "MODELS", {**MODELS, V1: ManifestLineV2})
    assert run(released) == 1
    told = capsys.readouterr().err
    assert "needs a new major" in told
    for reason in ("ID_UNCHANGED", "FIELD_NO_DELETE at /properties/status", "REQUIRED_NO_ADD at /required: run_id"):
        assert reason in told
    found = {
        violation.rule
        for violation in compare(load_schema(V1), json.loads(tool.generate()["v1"][f"{KIND}.schema.json"]))
    }
    assert {"ID_UNCHANGED", "FIELD_NO_DELETE", "REQUIRED_NO_ADD"} <= found

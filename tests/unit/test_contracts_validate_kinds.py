"""What kind a file is: by name and place, a single one of another name by content; and reading many lines fast."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import validate_path
from contracts._validate.kinds import KINDS
from contracts._validate.known import KnownParts
from contracts.errors import ContractError
from contracts.testing import (
    sample_bars,
    sample_bars_manifest_line,
    sample_manifest_lines,
    sample_metadata,
    sample_snapshots,
    write_sample_root,
)
from contracts.v1.backfill import BackfillManifestLine
from contracts.v1.bars import BarsManifestLine

PLACES = {
    "snapshots": "level2/AAPL/2025-09-04_snapshots_databento.parquet",
    "events": "level2/AAPL/2025-09-04_events_databento.parquet",
    "messages": "level2/MSFT/2025-09-04_messages_093000.json",
    "session_stats": "level2/MSFT/session_stats_20250904_093000.json",
    "backfill_manifest": "backfill_l2_manifest.jsonl",
    "backfill_summary": "backfill_l2_summary.json",
    "gaps": "l2_gaps.jsonl",
    "bars": "bars/hour/AAPL/2025-11-26.parquet",
    "bars_manifest": "bars_download_manifest.jsonl",
    "bars_coverage": "bars_coverage_manifest.json",
    "symbol_mapping": "symbol_mapping.json",
}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    write_sample_root(root)
    (root / PLACES["symbol_mapping"]).write_text('{"BRK-B": "BRK.B"}')
    return root


def test_the_table_has_every_kind_once():
    assert {kind.name for kind in KINDS} == set(PLACES)
    assert len({kind.place for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", PLACES)
def test_a_kind_is_told_by_name_and_place_and_for_a_foreign_name_by_content(sample, tmp_path, kind):
    path = sample / PLACES[kind]
    assert list(validate_path(path).kinds) == [kind]
    foreign = tmp_path / f"of another name{path.suffix}"
    shutil.copy(path, foreign)
    report = validate_path(foreign)
    assert list(report.kinds) == [kind]
    assert report.ok
    assert report.rows == validate_path(path).rows


@pytest.mark.parametrize("kind", PLACES)
def test_without_schema_version_the_keys_tell(sample, tmp_path, kind):
    path = sample / PLACES[kind]
    if path.suffix == ".parquet" or kind in {"messages", "symbol_mapping"}:
        # Their kind is never told by a version.
        return
    foreign = tmp_path / f"foreign{path.suffix}"
    text = path.read_text()
    documents = [json.loads(part) for part in ([text] if path.suffix == ".json" else text.splitlines())]
    for document in documents:
        document.pop("schema_version", None)
    foreign.write_text("".join(json.dumps(document) + "\n" for document in documents))
    assert set(validate_path(foreign).kinds) == {kind}


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("x.jsonl", b'{"torn\n{"schema_version":"l2_gap.v9"}\n', "gaps"),
        ("x.json", b'\xef\xbb\xbf {"schema_version":"backfill_l2_summary.v2"}', "backfill_summary"),
        ("x.json", b"  [\n]", "messages"),
        ("x.parquet", b"hello", "snapshots"),
    ],
)
def test_damaged_files_and_unknown_versions_of_a_kind_are_still_of_it(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    assert list(validate_path(tmp_path / name).kinds) == [kind]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.json", b""),
        ("x.json", b"{}"),
        ("x.json", b'{"schema_version":"other.v1"}'),
        ("x.json", b'{"schema_version":7}'),
        ("x.json", b"7"),
        ("x.jsonl", b""),
        ("x.jsonl", b'{"symbol":"AAPL","date":"2025-09-04","status":"WRITE"}'),
        ("x.txt", b"[]"),
    ],
)
def test_a_named_file_of_no_kind_is_a_finding_and_in_a_folder_it_is_passed_over(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    report = validate_path(tmp_path / name)
    assert [finding.rule for finding in report.findings] == ["unknown-kind"]
    assert list(report.kinds) == ["other"]
    assert validate_path(tmp_path).findings == []


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-1, 2)
    | st.just(1.0)
    | st.text(max_size=3)
    | st.lists(st.text(), max_size=2)
)


def readers(tmp_path):
    from contracts import DataRoot  # noqa: PLC0415 - for this helper only

    bars = sample_bars_manifest_line(DataRoot(tmp_path), sample_bars()).to_document()
    backfill = sample_manifest_lines(tmp_path / "x.parquet", sample_snapshots(sample_metadata()))[0].to_document()
    times = ("time_start", "time_end")
    return (
        (bars, KnownParts(BarsManifestLine, ("written_at", "path", "rows"), times), BarsManifestLine),
        (backfill, KnownParts(BackfillManifestLine, ("path", "rows", "quality", "error")), BackfillManifestLine),
    )


def outcome(read, model, document):
    """The fields with their types, or the error."""
    try:
        found = read(document)
    except ContractError as error:
        return type(error), str(error)
    return [(name, type(getattr(found, name)), getattr(found, name)) for name in model.model_fields]


@settings(max_examples=50)
@given(data=st.data())
def test_reading_known_parts_is_reading_by_the_model(tmp_path_factory, data):
    """Whatever was read before: the same documents are refused, and the fields of the others are the model's."""
    for sound, known, model in readers(tmp_path_factory.getbasetemp()):
        documents = [dict(sound)]
        for _ in range(6):
            document = dict(data.draw(st.sampled_from(documents)))
            key = data.draw(st.sampled_from([*sorted(sound), "more"]))
            other = data.draw(st.sampled_from(sorted(sound)))
            value = data.draw(VALUES | st.just(sound.get(other)) | st.sampled_from([True, 1, 1.0]))
            if data.draw(st.integers(0, 4)):
                document[key] = value
            else:
                document.pop(key, None)
            documents.append(document)
        for document in [*documents, *documents]:
            assert outcome(known.read, model, document) == outcome(model.from_document, model, document)

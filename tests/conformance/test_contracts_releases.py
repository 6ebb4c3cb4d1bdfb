"""Every release is kept: its documents are read by today's code, and today's documents fit its schemas.

Both directions, for each release below `schemas/releases` and for a rehearsed one made of what is there today, so that
the checks are seen to work before there is a first release and after.
"""

import json
import shutil
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from contracts.dispatch import READERS
from contracts.errors import ContractError
from contracts.schemas import MODELS, schema_filename, schema_validator
from tools import schemas as tool
from tools.compatibility import compare

REPOSITORY = Path(__file__).parents[2]
CORPORA = Path(__file__).parent / "corpora"
TODAY = {
    version: {path.name: path.read_text() for path in (CORPORA / version).glob("valid-*.json")} for version in MODELS
}


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """A repository in which today's schemas and corpora are released."""
    root = tmp_path_factory.mktemp("repository")
    (root / "contracts").mkdir()
    (root / "contracts" / "pyproject.toml").write_text('[project]\nversion = "7.0.0"\n')
    shutil.copytree(CORPORA, root / "tests" / "conformance" / "corpora")
    assert tool.main(["--release", "7.0.0", "--root", str(root)]) == 0
    return root


@pytest.fixture(params=["published", "rehearsed"])
def releases(request, rehearsed):
    return tool.read_releases(REPOSITORY if request.param == "published" else rehearsed)


def unread(release):
    """The documents of a release that today's readers or schemas refuse."""
    refused = []
    for name, text in release.documents.items():
        version = name.partition("/")[0]
        try:
            model = READERS[version](text)
        except (ContractError, KeyError):
            refused.append(name)
            continue
        # Written again it is a document of today.
        if not (
            schema_validator(version).is_valid(json.loads(text)) and MODELS[version].from_json(model.to_json()) == model
        ):
            refused.append(name)
    return refused


def misfits(release, documents):
    """Today's documents that a schema of the release refuses; artifacts that it did not have are passed over."""
    found = []
    for version, texts in documents.items():
        text = release.schemas.get(f"{version.rpartition('.')[2]}/{schema_filename(version)}")
        if text is not None:
            judge = Draft202012Validator(json.loads(text))
            found += [
                f"{version}/{name}" for name, document in texts.items() if not judge.is_valid(json.loads(document))
            ]
    return found


def test_documents_of_every_release_are_read_by_todays_code(releases):
    for release in releases:
        assert len(release.documents) >= len(release.schemas)
        assert unread(release) == []


def test_todays_documents_are_valid_under_every_released_schema(releases):
    for release in releases:
        assert misfits(release, TODAY) == []


def test_no_released_schema_is_broken_by_todays(releases):
    today = {f"{major}/{file}": text for major, texts in tool.generate().items() for file, text in texts.items()}
    for release in releases:
        for name, text in release.schemas.items():
            assert compare(json.loads(text), json.loads(today[name])) == []


def test_a_rehearsed_release_holds_every_valid_document_of_today(rehearsed):
    (release,) = tool.read_releases(rehearsed)
    assert release.version == "7.0.0"
    assert release.documents.keys() == {f"{version}/{name}" for version, texts in TODAY.items() for name in texts}
    assert all(len(texts) >= 5 for texts in TODAY.values())


def test_a_release_whose_documents_are_no_longer_read_is_noticed(rehearsed):
    (release,) = tool.read_releases(rehearsed)
    document = '{"symbol": "AAPL", "date": "2025-09-04", "status": "DONE"}'
    older = release._replace(documents={**release.documents, "backfill_l2_manifest.v1/valid-done.json": document})
    assert unread(older) == ["backfill_l2_manifest.v1/valid-done.json"]


def test_a_value_added_to_an_enum_is_noticed_as_soon_as_a_document_uses_it(rehearsed):
    """The named rules let it pass, for new code reads old documents; a reader of the old schema refuses this one."""
    (release,) = tool.read_releases(rehearsed)
    document = json.loads(TODAY["l2_gap.v1"]["valid-minimal.json"])
    later = {"l2_gap.v1": {"valid-cause-new.json": json.dumps({**document, "cause": "maintenance"})}}
    assert misfits(release, later) == ["l2_gap.v1/valid-cause-new.json"]

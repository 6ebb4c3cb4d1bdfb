"""The schema generator, run on real folders: what it writes, what it keeps for ever, and what it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ConfigDict, Field

from contracts.errors import UnknownSchemaVersion
from contracts.schemas import MODELS, load_schema, schema_filename, schema_id
from contracts.v1.quality import Quality
from tools import compatibility
from tools import schemas as tool

REPOSITORY = Path(__file__).parents[2]
PUBLISHED = Path("schemas/v1")
WHEEL = Path("contracts/src/contracts/v1/schemas")
RELEASES = Path("schemas/releases")
VERSIONLESS = {"symbol_mapping.v1", "level2_messages.v1"}
VERSION_REQUIRED = {"bars_manifest.v1", "bars_coverage.v1"}


class GrownQuality(Quality):
    """A later minor: one optional field more."""

    model_config = ConfigDict(title="Level-2 quality")

    halts: int | None = Field(default=None, title="Halts", description="Trading halts.", examples=[0])


class BrokenQuality(Quality):
    """What no minor may be: one required field more."""

    model_config = ConfigDict(title="Level-2 quality")

    halts: int = Field(title="Halts", description="Trading halts.", examples=[0])


@pytest.fixture
def run(capsys):
    """Runs the tool's command; exit code, output and errors."""

    def command(root, *arguments, main=tool.main):
        code = main([*arguments, "--root", str(root)])
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, shown.out, shown.err)

    return command


@pytest.fixture
def root(run, tmp_path):
    """A repository with the schemas as they are now, a few documents, and package version 0.1.0."""
    (tmp_path / "contracts").mkdir()
    set_version(tmp_path, "0.1.0")
    for version in MODELS:
        folder = tmp_path / "tests" / "conformance" / "corpora" / version
        folder.mkdir(parents=True)
        (folder / "valid-one.json").write_text('{"one": 1}\n')
        (folder / "invalid-two.json").write_text("2\n")
    assert run(tmp_path).returncode == 0
    return tmp_path


def set_version(root, version):
    (root / "contracts" / "pyproject.toml").write_text(
        f'[project]\nname = "marketdata-contracts"\nversion = "{version}"\n'
    )


def use(monkeypatch, version, model):
    """Let the tool see another model of a version."""
    monkeypatch.setattr(tool, "MODELS", {**MODELS, version: model})


def index(root, folder=PUBLISHED):
    return {entry["file"]: entry for entry in json.loads((root / folder / "index.json").read_text())["schemas"]}


def tree(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


# --- the current state -----------------------------------------------------------------------------------------------


def test_the_committed_schemas_are_what_the_models_say(run):
    done = run(REPOSITORY, "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_wheel_and_the_published_folder_are_equal(root):
    names = {path.name for path in (root / PUBLISHED).iterdir()}
    assert names == {path.name for path in (root / WHEEL).iterdir()}
    assert names == {"index.json", *(schema_filename(version) for version in MODELS)}
    for name in names:
        assert (root / PUBLISHED / name).read_bytes() == (root / WHEEL / name).read_bytes()


def test_a_second_run_writes_nothing(run, root):
    assert run(root).stdout == ""


@pytest.mark.parametrize("folder", [PUBLISHED, WHEEL])
def test_check_fails_on_an_edited_a_missing_and_a_foreign_file_and_repairs_nothing(run, root, folder):
    (root / folder / "l2_quality.schema.json").write_text("{}")
    (root / folder / "level2_snapshot.schema.json").unlink()
    (root / folder / "other.schema.json").write_text("{}")
    done = run(root, "--check")
    assert done.returncode == 1
    for name in ("l2_quality", "level2_snapshot", "other"):
        assert f"{name}.schema.json" in done.stderr
    assert (root / folder / "l2_quality.schema.json").read_text() == "{}"


def test_an_unreleased_schema_follows_its_model_wherever_it_goes(run, root, monkeypatch):
    use(monkeypatch, "l2_quality.v1", BrokenQuality)
    assert run(root, "--check").returncode == 1
    assert "l2_quality.schema.json" in run(root).stdout
    assert run(root, "--check").returncode == 0
    assert {entry["released_in"] for entry in index(root).values()} == {None}


def test_an_unreleased_schema_whose_model_is_gone_goes_too(run, root, monkeypatch):
    monkeypatch.setattr(
        tool, "MODELS", {version: model for version, model in MODELS.items() if "quality" not in version}
    )
    assert "removed schemas/v1/l2_quality.schema.json" in run(root).stdout
    assert run(root, "--check").returncode == 0


# --- releasing -------------------------------------------------------------------------------------------------------


def test_a_release_keeps_every_schema_and_every_valid_document(run, root):
    assert run(root, "--release", "0.1.0").returncode == 0

    kept = root / RELEASES / "0.1.0"
    assert {path.name for path in (kept / "v1").iterdir()} == {schema_filename(version) for version in MODELS}
    for path in (kept / "v1").iterdir():
        assert path.read_bytes() == (root / PUBLISHED / path.name).read_bytes()
    documents = {path.relative_to(kept / "documents").as_posix() for path in (kept / "documents").rglob("*.json")}
    assert documents == {f"{version}/valid-one.json" for version in MODELS}
    assert {entry["released_in"] for entry in index(root).values()} == {"0.1.0"}
    assert index(root) == index(root, WHEEL)
    assert run(root, "--check").returncode == 0
    assert run(root).stdout == ""


def test_a_release_is_the_packages_version_and_is_made_once(run, root):
    refused = run(root, "--release", "0.2.0")
    assert refused.returncode == 1
    assert "0.2.0 is not the package's version 0.1.0" in refused.stderr
    run(root, "--release", "0.1.0")
    before = tree(root)
    again = run(root, "--release", "0.1.0")
    assert again.returncode == 1
    assert "released already" in again.stderr
    assert tree(root) == before


def test_a_release_needs_a_valid_document_of_every_artifact(run, root):
    (root / "tests" / "conformance" / "corpora" / "l2_gap.v1" / "valid-one.json").unlink()
    refused = run(root, "--release", "0.1.0")
    assert refused.returncode == 1
    assert "l2_gap.v1" in refused.stderr
    assert not (root / RELEASES).exists()


def test_releases_follow_each_other_and_say_which_one_first_held_a_schema(run, root, monkeypatch):
    run(root, "--release", "0.1.0")
    set_version(root, "0.2.0")
    use(monkeypatch, "l2_quality.v1", GrownQuality)
    assert run(root, "--release", "0.2.0").returncode == 0

    found = {file: entry["released_in"] for file, entry in index(root).items()}
    assert found.pop("l2_quality.schema.json") == "0.2.0"
    # The manifest line holds the class that did not grow.
    assert set(found.values()) == {"0.1.0"}
    assert "halts" in (root / RELEASES / "0.2.0" / "v1" / "l2_quality.schema.json").read_text()
    assert "halts" not in (root / RELEASES / "0.1.0" / "v1" / "l2_quality.schema.json").read_text()
    assert run(root, "--check").returncode == 0

    set_version(root, "0.1.5")
    late = run(root, "--release", "0.1.5")
    assert late.returncode == 1
    assert "older" in late.stderr


def test_versions_are_compared_as_numbers(run, root):
    for version in ("0.1.0", "0.2.0", "0.10.0"):
        set_version(root, version)
        assert run(root, "--release", version).returncode == 0
    assert [release.version for release in tool.read_releases(root)] == ["0.1.0", "0.2.0", "0.10.0"]
    set_version(root, "next")
    refused = run(root, "--release", "next")
    assert refused.returncode == 1
    assert "MAJOR.MINOR.PATCH" in refused.stderr


# --- what is released stays ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.1.0", "0.1.1"])
@pytest.mark.parametrize("arguments", [(), ("--check",)])
def test_a_released_schema_does_not_change_without_a_later_minor(run, root, monkeypatch, version, arguments):
    run(root, "--release", "0.1.0")
    set_version(root, version)
    use(monkeypatch, "l2_quality.v1", GrownQuality)
    before = tree(root)
    done = run(root, *arguments)
    assert done.returncode == 1
    assert "v1/l2_quality.schema.json" in done.stderr
    assert "ump the version" in done.stderr
    assert tree(root) == before


def test_an_artifact_that_is_new_needs_a_later_minor_too(run, root, monkeypatch):
    run(root, "--release", "0.1.0")
    monkeypatch.setattr(tool, "MODELS", {**MODELS, "l2_halts.v1": GrownQuality})
    assert "ump the version" in run(root).stderr
    set_version(root, "0.2.0")
    assert run(root).returncode == 0


def test_with_a_later_minor_a_schema_may_grow_but_not_break_any_release(run, root, monkeypatch):
    run(root, "--release", "0.1.0")
    set_version(root, "0.2.0")
    use(monkeypatch, "l2_quality.v1", GrownQuality)
    assert run(root, "--release", "0.2.0").returncode == 0
    set_version(root, "0.3.0")

    use(monkeypatch, "l2_quality.v1", BrokenQuality)
    broken = run(root)
    assert broken.returncode == 1
    assert "needs a new major" in broken.stderr
    assert "breaks release 0.1.0: REQUIRED_NO_ADD at /required" in broken.stderr
    assert "breaks release 0.2.0: FIELD_SAME_TYPE at /properties/halts" in broken.stderr

    # Fine by the first release, but not by the second, which had the field.
    use(monkeypatch, "l2_quality.v1", Quality)
    shrunk = run(root)
    assert shrunk.returncode == 1
    assert "0.1.0" not in shrunk.stderr
    assert "breaks release 0.2.0: FIELD_NO_DELETE at /properties/halts" in shrunk.stderr


def test_a_released_schema_cannot_vanish(run, root, monkeypatch):
    run(root, "--release", "0.1.0")
    set_version(root, "0.2.0")
    monkeypatch.setattr(tool, "MODELS", {version: model for version, model in MODELS.items() if version != "l2_gap.v1"})
    done = run(root)
    assert done.returncode == 1
    assert "v1/l2_gap.schema.json was released in 0.1.0 and must stay" in done.stderr
    assert (root / PUBLISHED / "l2_gap.schema.json").exists()


def edit(path):
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def add(path):
    (path.parent / "added.json").write_text("{}")


@pytest.mark.parametrize("harm", [edit, Path.unlink, add], ids=["edited", "deleted", "added"])
@pytest.mark.parametrize("name", ["v1/l2_gap.schema.json", "documents/l2_gap.v1/valid-one.json", "index.json"])
def test_any_change_below_a_release_is_refused_and_named(run, root, harm, name):
    run(root, "--release", "0.1.0")
    harm(root / RELEASES / "0.1.0" / name)
    before = tree(root)
    for arguments in (("--check",), ()):
        done = run(root, *arguments)
        assert done.returncode == 1
        place = Path(name).with_name("added.json") if harm is add else Path(name)
        assert str(RELEASES / "0.1.0" / place) in done.stderr
        assert "kept for ever" in done.stderr
    assert run(root, main=compatibility.main).returncode == 1
    assert tree(root) == before


def test_a_release_that_is_gone_with_its_index_entry_or_foreign_is_refused(run, root):
    run(root, "--release", "0.1.0")
    shutil.copytree(root / RELEASES / "0.1.0", root / RELEASES / "0.0.9")
    assert "0.0.9" in run(root, "--check").stderr
    shutil.rmtree(root / RELEASES)
    done = run(root, "--check")
    assert done.returncode == 1
    assert "schemas/releases/0.1.0 is gone" in done.stderr


def test_the_compatibility_command_names_each_violation_against_each_release(run, root, monkeypatch):
    nothing = run(root, main=compatibility.main)
    assert (nothing.returncode, nothing.stdout) == (0, f"{len(MODELS)} schemas against 0 releases: no violations\n")
    run(root, "--release", "0.1.0")
    use(monkeypatch, "l2_quality.v1", GrownQuality)
    fine = run(root, main=compatibility.main)
    assert (fine.returncode, fine.stdout) == (0, f"{len(MODELS)} schemas against 1 releases: no violations\n")
    use(monkeypatch, "l2_quality.v1", BrokenQuality)
    broken = run(root, main=compatibility.main)
    assert broken.returncode == 1
    assert "v1/l2_quality.schema.json against release 0.1.0: REQUIRED_NO_ADD at /required: halts" in broken.stdout


# --- the schemas themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", MODELS)
def test_a_schema_says_who_it_is_and_is_open(version):
    schema = load_schema(version)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == schema_id(version) == f"urn:marketdata-contracts:{version}"
    assert schema["title"]
    assert schema["description"]
    if version in VERSIONLESS:
        return
    assert schema["additionalProperties"] is True
    assert ("schema_version" in schema["required"]) == (version in VERSION_REQUIRED)


def test_closed_are_only_the_objects_that_the_contract_closes():
    closed = {
        name
        for version in MODELS
        for name, part in load_schema(version).get("$defs", {}).items()
        if part.get("additionalProperties") is False
    }
    # Four counts, two dates, and an entry that people write, in which an unknown key is a slip.
    assert closed == {"BackfillCounts", "CoverageTotal", "SymbolMappingEntry"}


def test_an_unknown_schema_is_refused_by_name():
    with pytest.raises(UnknownSchemaVersion, match=r"l2_quality\.v9"):
        load_schema("l2_quality.v9")


def test_the_tool_finds_the_repository_from_its_own_place_not_from_the_current_folder(tmp_path):
    shutil.copytree(REPOSITORY / "tools", tmp_path / "tools")
    done = subprocess.run(
        [sys.executable, tmp_path / "tools" / "schemas.py"], capture_output=True, text=True, check=False, cwd="/"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / PUBLISHED / "index.json").exists()

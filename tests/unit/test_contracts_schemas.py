"""The schema generator and its freeze, run on real folders."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.errors import UnknownSchemaVersion
from contracts.schemas import MODELS, load_schema, schema_filename, schema_id

REPOSITORY = Path(__file__).parents[2]
TOOL = REPOSITORY / "tools" / "schemas.py"
PUBLISHED = Path("schemas/v1")
WHEEL = Path("contracts/src/contracts/v1/schemas")


_SPEC = importlib.util.spec_from_file_location("schemas_tool", TOOL)
tool = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tool)


@pytest.fixture
def run(capsys):
    """Runs the tool's command; exit code, output and errors."""

    def command(*arguments):
        code = tool.main(list(arguments))
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, shown.out, shown.err)

    return command


@pytest.fixture
def root(run, tmp_path):
    """A repository with the schemas as they are now."""
    assert run("--root", str(tmp_path)).returncode == 0
    return tmp_path


def rewrite(root, change):
    """Change one schema and its index entry in both places, as if the models had once said so."""
    for folder in (root / PUBLISHED, root / WHEEL):
        index = json.loads((folder / "index.json").read_text())
        change(index["schemas"])
        (folder / "index.json").write_text(json.dumps(index))


def test_the_committed_schemas_are_what_the_models_say(run):
    done = run("--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_wheel_and_the_published_folder_are_equal(root):
    names = {path.name for path in (root / PUBLISHED).iterdir()}
    assert names == {path.name for path in (root / WHEEL).iterdir()}
    assert names == {"index.json", *(schema_filename(version) for version in MODELS)}
    for name in names:
        assert (root / PUBLISHED / name).read_bytes() == (root / WHEEL / name).read_bytes()


def test_a_second_run_writes_nothing(run, root):
    assert run("--root", str(root)).stdout == ""


@pytest.mark.parametrize("folder", [PUBLISHED, WHEEL])
def test_check_fails_on_an_edited_a_missing_and_a_foreign_file_and_repairs_nothing(run, root, folder):
    (root / folder / "l2_quality.schema.json").write_text("{}")
    (root / folder / "level2_snapshot.schema.json").unlink()
    (root / folder / "other.schema.json").write_text("{}")
    done = run("--root", str(root), "--check")
    assert done.returncode == 1
    for name in ("l2_quality", "level2_snapshot", "other"):
        assert f"{name}.schema.json" in done.stderr
    assert (root / folder / "l2_quality.schema.json").read_text() == "{}"


def test_an_unreleased_schema_follows_its_model(run, root):
    def older(entries):
        entries[0]["sha256"] = "0" * 64

    rewrite(root, older)
    assert run("--root", str(root)).returncode == 0
    assert run("--root", str(root), "--check").returncode == 0


def test_a_released_schema_is_frozen(run, root):
    assert run("--root", str(root), "--release", "0.1.0").returncode == 0
    released = json.loads((root / PUBLISHED / "index.json").read_text())["schemas"]
    assert {entry["released_in"] for entry in released} == {"0.1.0"}
    assert run("--root", str(root), "--check").returncode == 0

    def older(entries):
        entries[0]["sha256"] = "0" * 64

    rewrite(root, older)
    before = {path: path.read_bytes() for path in root.rglob("*.json")}
    for arguments in ((), ("--check",)):
        done = run("--root", str(root), *arguments)
        assert done.returncode == 1
        assert "ump the version" in done.stderr
    assert {path: path.read_bytes() for path in root.rglob("*.json")} == before


def test_a_released_schema_cannot_vanish(run, root):
    def one_more(entries):
        entries.append({"file": "gone.schema.json", "$id": "urn:gone", "sha256": "0" * 64, "released_in": "0.1.0"})

    rewrite(root, one_more)
    done = run("--root", str(root))
    assert done.returncode == 1
    assert "gone.schema.json" in done.stderr


def test_a_later_release_does_not_change_what_an_earlier_one_released(run, root):
    run("--root", str(root), "--release", "0.1.0")
    run("--root", str(root), "--release", "0.2.0")
    index = json.loads((root / PUBLISHED / "index.json").read_text())["schemas"]
    assert {entry["released_in"] for entry in index} == {"0.1.0"}


@pytest.mark.parametrize("version", MODELS)
def test_a_schema_says_who_it_is_and_is_open(version):
    schema = load_schema(version)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == schema_id(version) == f"urn:marketdata-contracts:{version}"
    assert schema["title"]
    assert schema["description"]
    if version == "symbol_mapping.v1":
        # People write it: an unknown key is a slip, and the file has no place for a version.
        assert schema["$defs"]["SymbolMappingEntry"]["additionalProperties"] is False
        return
    assert schema["additionalProperties"] is True
    assert "schema_version" not in schema["required"]


def test_an_unknown_schema_is_refused_by_name():
    with pytest.raises(UnknownSchemaVersion, match=r"l2_quality\.v9"):
        load_schema("l2_quality.v9")


def test_the_tool_needs_nothing_but_the_repository(tmp_path):
    """The root is found from the tool's own place, not from the current folder."""
    (tmp_path / "tools").mkdir()
    copy = shutil.copy(TOOL, tmp_path / "tools" / "schemas.py")
    done = subprocess.run([sys.executable, copy], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0
    assert (tmp_path / PUBLISHED / "index.json").exists()

"""Files that appear whole or not at all."""

import json
import os
import stat
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.store.atomic import atomic_path, write_json_atomic
from connectors.store.errors import StoreError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_target_appears_only_when_the_block_has_ended(tmp_path):
    target = tmp_path / "a" / "b" / "file.bin"
    with atomic_path(target) as temp:
        temp.write_bytes(b"new")
        assert not target.exists()
        assert temp.parent == target.parent
        assert temp.name.startswith(".file.bin.")
        assert temp.name.endswith(".tmp")
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["file.bin"]


def test_each_temp_is_another_one(tmp_path):
    with atomic_path(tmp_path / "f") as one, atomic_path(tmp_path / "f") as two:
        assert one != two
        assert not one.exists()
        one.touch()
        two.write_bytes(b"first out")
    assert (tmp_path / "f").read_bytes() == b""


def write_half_and_raise(target, error):
    with atomic_path(target) as temp:
        temp.write_bytes(b"half")
        raise error


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), ConnectionResetError(104, "peer")])
def test_an_error_in_the_block_leaves_the_old_file_and_no_temp(tmp_path, error):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(type(error)) as caught:
        write_half_and_raise(target, error)
    assert caught.value is error
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="cannot write"), atomic_path(tmp_path / "file"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_published_files_can_be_read_as_the_umask_allows(tmp_path, umask):
    """Also when the block's writer makes its file private, as tempfile does."""
    target = tmp_path / "file"
    old = os.umask(umask)
    try:
        with atomic_path(target) as temp:
            os.close(os.open(temp, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(old)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


def test_a_reader_with_the_old_file_open_keeps_it(tmp_path):
    target = tmp_path / "doc.json"
    write_json_atomic(target, {"n": 1})
    with target.open() as reader:
        write_json_atomic(target, {"n": 2})
        assert json.load(reader) == {"n": 1}
    assert json.loads(target.read_text()) == {"n": 2}


def test_json_is_standard_and_keeps_the_order_of_keys(tmp_path):
    target = tmp_path / "doc.json"
    write_json_atomic(target, {"b": 1, "a": "ß"})
    assert target.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "ß"\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(target, {"b": float("nan")})
    assert json.loads(target.read_text(encoding="utf-8"))["b"] == 1


@given(document=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_what_is_written_is_read_back(tmp_path_factory, document):
    target = tmp_path_factory.mktemp("json") / "doc.json"
    try:
        write_json_atomic(target, {"x": document})
    except UnicodeEncodeError:
        assert names(target.parent) == []
    else:
        assert json.loads(target.read_text(encoding="utf-8")) == {"x": document}


def test_a_folder_in_the_way_is_one_clear_error(tmp_path):
    target = tmp_path / "file"
    (target / "inner").mkdir(parents=True)
    with pytest.raises(StoreError, match="move it away") as caught:
        write_json_atomic(target, {})
    assert caught.value.path == target
    assert names(tmp_path) == ["file"]


def test_importing_the_package_is_light():
    script = "import sys, connectors.store; assert 'pyarrow' not in sys.modules and 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)

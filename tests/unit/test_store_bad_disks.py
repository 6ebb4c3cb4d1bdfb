"""Disks that refuse: one clear error each, nothing lost, nothing left behind."""

import contextlib
import errno
import os
import resource
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from connectors.store.atomic import append_line, atomic_path, write_json_atomic
from connectors.store.errors import StoreError
from connectors.store.manifests import run_lock
from connectors.store.raw_cache import RawCache, RawKey
from connectors.store.snapshots import existing, publish
from contracts.layout import DataRoot

SCHEMA = pa.schema([("x", pa.int64())])
KEY = RawKey(dataset="XNAS.ITCH", schema="mbp-10", symbol="AAPL", vendor_symbol="AAPL", start_ns=1, end_ns=2)
OPERATIONS = {
    "publish": lambda folder: publish(folder / "f.parquet", SCHEMA, batches(1)),
    "json": lambda folder: write_json_atomic(folder / "f.json", {}),
    "append": lambda folder: append_line(folder / "f.jsonl", "{}"),
    "run_lock": lambda folder: run_lock(DataRoot(folder)).__enter__(),
    "raw_cache": lambda folder: RawCache(folder).new_download_path(KEY),
}


def batches(count):
    rng = np.random.default_rng(1)
    for _ in range(count):
        yield pa.record_batch([pa.array(rng.integers(0, 2**62, 70_000))], schema=SCHEMA)


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def mount(folder, *options):
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    with contextlib.suppress(OSError):
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    return False


def unmount(folder):
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S607 - found on the PATH, as mount was


@pytest.fixture
def readonly_folder(tmp_path):
    """A folder nobody can write to: a read-only mount, a mode that forbids it, or a folder of the kernel's."""
    folder = tmp_path / "readonly"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
    elif mount(folder, "ro"):
        yield folder
        unmount(folder)
    else:
        yield Path("/sys/kernel")


@pytest.fixture
def small_disk(tmp_path):
    """A folder, and a context in which about 300 kB fit into a file there: a tiny disk, else a limit of file sizes."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() == 0 and mount(folder, "size=400k"):
        (folder / "ballast").write_bytes(bytes(100_000))
        yield folder, contextlib.nullcontext
        unmount(folder)
    else:
        (folder / "ballast").touch()
        yield folder, file_size_limit


@contextlib.contextmanager
def file_size_limit():
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_parent_that_is_a_file_is_one_clear_error(tmp_path, name):
    (tmp_path / "file").write_bytes(b"precious")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(StoreError, match=r"cannot .*file.*move (it|that file) away") as caught:
            OPERATIONS[name](folder)
        assert caught.value.errno in {errno.ENOTDIR, errno.EEXIST}
    assert (tmp_path / "file").read_bytes() == b"precious"
    assert files_below(tmp_path) == ["file"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_read_only_disk_is_one_clear_error(readonly_folder, name):
    with pytest.raises(StoreError, match="configure another folder") as caught:
        OPERATIONS[name](readonly_folder)
    assert caught.value.errno in {errno.EROFS, errno.EACCES, errno.EPERM}
    assert str(caught.value.path).startswith(str(readonly_folder))


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in ("run_lock", "raw_cache")])
def test_a_path_that_is_too_long_is_one_clear_error(tmp_path, name):
    with pytest.raises(StoreError, match="shorter") as caught:
        OPERATIONS[name](tmp_path / ("x" * 300))
    assert caught.value.errno == errno.ENAMETOOLONG
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("disk", ["small_disk", "limit"])
def test_a_full_disk_leaves_the_old_parquet_file_and_no_temp(small_disk, tmp_path, disk):
    folder, limit = small_disk if disk == "small_disk" else (tmp_path, file_size_limit)
    target = folder / "f.parquet"
    published = publish(target, SCHEMA, [pa.record_batch([pa.array([1, 2])], schema=SCHEMA)])
    before = target.read_bytes()
    with limit(), pytest.raises(StoreError) as caught:
        publish(target, SCHEMA, batches(3))
    assert caught.value.errno in {errno.ENOSPC, errno.EFBIG}
    assert str(target) in str(caught.value)
    assert published.rows == 2
    assert target.read_bytes() == before
    assert [name for name in files_below(folder) if name.endswith(".tmp")] == []


def append_many(path, line):
    for _ in range(20):
        append_line(path, line)


@pytest.mark.parametrize("disk", ["small_disk", "limit"])
def test_a_full_disk_leaves_the_manifest_as_it_was(small_disk, tmp_path, disk):
    """The line that does not fit is cut away again; once there is space, appending goes on."""
    folder, limit = small_disk if disk == "small_disk" else (tmp_path, file_size_limit)
    path = folder / "m.jsonl"
    line = '{"x":"' + "y" * 40_000 + '"}'
    with limit():
        with pytest.raises(StoreError) as caught:
            append_many(path, line)
        whole = path.read_bytes()
        assert caught.value.errno in {errno.ENOSPC, errno.EFBIG}
    assert whole == (line + "\n").encode() * (len(whole) // (len(line) + 1))
    assert len(whole) > 100_000
    (folder / "ballast").unlink(missing_ok=True)
    append_line(path, line)
    assert path.read_bytes() == whole + (line + "\n").encode()


def test_errors_of_the_writers_block_tell_about_the_target(tmp_path):
    def write(temp):
        with file_size_limit():
            temp.write_bytes(bytes(400_000))

    with pytest.raises(StoreError, match="ulimit") as caught, atomic_path(tmp_path / "f") as temp:
        write(temp)
    assert caught.value.errno == errno.EFBIG
    assert files_below(tmp_path) == []


def test_what_cannot_be_read_is_not_taken_for_absent(tmp_path):
    """Otherwise it would be bought and written again."""
    (tmp_path / "f.parquet").mkdir()
    with pytest.raises(StoreError, match="cannot read"):
        existing(tmp_path / "f.parquet")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StoreError, match="circle"):
        existing(tmp_path / "loop")

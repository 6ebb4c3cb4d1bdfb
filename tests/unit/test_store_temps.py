"""The sweep removes the temps of dead processes, and nothing else."""

import os
import subprocess
import sys
import time

import pytest

from connectors.store.temps import new_temp_path, sweep_stale_temps

PRINT_TEMP = """
import sys
from pathlib import Path
from connectors.store.temps import new_temp_path
temp = new_temp_path(Path(sys.argv[1]))
temp.write_text("half")
print(temp, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def writer(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", PRINT_TEMP, str(tmp_path / "deep" / "file.parquet")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_a_temp_stays_while_its_process_lives_and_goes_when_it_is_killed(tmp_path, writer):
    (tmp_path / "deep").mkdir()
    temp = tmp_path / writer.stdout.readline().strip()
    assert sweep_stale_temps(tmp_path) == []
    writer.kill()
    writer.wait()
    assert sweep_stale_temps(tmp_path) == [temp]
    assert not temp.exists()


def test_our_own_temp_stays(tmp_path):
    temp = new_temp_path(tmp_path / "file")
    temp.touch()
    assert sweep_stale_temps(tmp_path) == []
    assert temp.exists()


def test_a_pid_that_now_belongs_to_a_later_process_is_dead(tmp_path):
    own = new_temp_path(tmp_path / "file")
    pid = str(os.getpid())
    head, tail = own.name.split(f"-{pid}-")
    start, token, suffix = tail.split(".")
    stale = own.with_name(f"{head}-{pid}-{max(0, int(start) - 60_000)}.{token}.{suffix}")
    stale.touch()
    assert sweep_stale_temps(tmp_path) == [stale]


def foreign_temp(folder):
    own = new_temp_path(folder / "file")
    host = own.name.removeprefix(".file.").split("-")[0]
    other = "0" * 8 if host != "0" * 8 else "1" * 8
    temp = own.with_name(own.name.replace(host, other, 1).replace(f"-{os.getpid()}-", "-999999999-"))
    temp.touch()
    return temp


def test_a_temp_of_another_host_goes_only_after_a_day(tmp_path):
    temp = foreign_temp(tmp_path)
    assert sweep_stale_temps(tmp_path) == []
    yesterday = time.time() - 25 * 3600
    os.utime(temp, (yesterday, yesterday))
    assert sweep_stale_temps(tmp_path) == [temp]


def test_what_does_not_look_like_our_temp_stays(tmp_path):
    for name in ("x.tmp", ".x.tmp", ".file.abc-1-1.12345678.tmp", "file", ".file.00000000-1-1.0000000g.tmp"):
        (tmp_path / name).touch()
    stale = new_temp_path(tmp_path / "dir").name.replace(f"-{os.getpid()}-", "-999999999-")
    (tmp_path / stale).mkdir()
    before = sorted(tmp_path.iterdir())
    assert sweep_stale_temps(tmp_path) == []
    assert sorted(tmp_path.iterdir()) == before


def test_links_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    root = tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    stale = outside / new_temp_path(outside / "file").name.replace(f"-{os.getpid()}-", "-999999999-")
    stale.touch()
    (root / "link").symlink_to(outside)
    (root / stale.name).symlink_to(stale)
    assert sweep_stale_temps(root) == []
    assert stale.exists()


def test_a_folder_that_does_not_exist_has_no_temps(tmp_path):
    assert sweep_stale_temps(tmp_path / "none") == []


def test_a_forked_child_has_its_own_name(tmp_path):
    parent = new_temp_path(tmp_path / "f").name
    code = (
        "import os\nfrom pathlib import Path\nfrom connectors.store.temps import new_temp_path as n\nn(Path('/x/f'))\n"
    )
    code += "pid = os.fork()\nif not pid: print(n(Path('/x/f')).name, os.getpid(), flush=True); os._exit(0)\nos.wait()"
    name, pid = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert f"-{pid}-" in name
    assert f"-{pid}-" not in parent

"""The sandbox vendor as a process of its own: it announces itself, ends when told or orphaned, and stays small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import databento
import psutil
import pytest
import requests
from databento import BentoClientError

from connectors.sandbox.databento_process import SandboxDidNotStartError, SandboxProcess
from connectors.sandbox.databento_server import DatabentoSandbox

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = [sys.executable, "-m", "connectors.sandbox", "databento"]
AAPL: dict[str, Any] = {
    "dataset": "XNAS.ITCH",
    "symbols": "AAPL",
    "schema": "mbp-10",
    "start": "2025-09-05T13:30",
    "end": "2025-09-05T13:40",
}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_child_serves_counts_and_takes_faults_and_is_gone_afterwards(monkeypatch):
    with SandboxProcess(now=date(2025, 10, 1), usd_per_gb=2.0, faults=["rate-limit:times=1"]) as sandbox:
        for name, value in sandbox.env().items():
            monkeypatch.setenv(name, value)
        client = databento.Historical(gateway=sandbox.gateway_url)
        with pytest.raises(BentoClientError):
            client.metadata.get_record_count(**AAPL)
        size = client.timeseries.get_range(**AAPL).to_ndarray().nbytes
        assert sandbox.billed_bytes == size > 0
        assert sandbox.billed_usd == pytest.approx(size * 2.0 / 2**30)
        assert [r["status"] for r in sandbox.requests] == [429, 200]
        sandbox.add_fault("payment-required")
        with pytest.raises(BentoClientError):
            client.metadata.get_record_count(**AAPL)
        sandbox.clear_faults()
        assert client.metadata.get_record_count(**AAPL) == size // 368
        with pytest.raises(urllib.error.HTTPError) as refused:
            sandbox.add_fault("explode")
        refused.value.close()
        pid, folder = sandbox.pid, sandbox.ca_file.parent
        assert pid != os.getpid()
    assert gone(pid)
    assert not folder.exists()


def test_a_child_and_a_thread_send_the_same_records(monkeypatch):
    streams = []
    for sandbox in (SandboxProcess(now=date(2025, 10, 1)), DatabentoSandbox(now=date(2025, 10, 1))):
        with sandbox:
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(sandbox.ca_file))
            streams.append(databento.Historical("key", sandbox.gateway_url).timeseries.get_range(**AAPL).raw)
    assert streams[0] == streams[1]


def test_a_child_that_cannot_start_says_why():
    with pytest.raises(SandboxDidNotStartError, match=r"known are .*zero-rows"), SandboxProcess(faults=["explode"]):
        pass
    with (
        pytest.raises(SandboxDidNotStartError, match=r"did not start within 0\.01 s"),
        SandboxProcess(start_within_s=0.01),
    ):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(number, tmp_path):
    announce = tmp_path / "ready.json"
    child = subprocess.Popen(
        [*COMMAND, "--announce", str(announce)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    until(announce.exists)
    ready = json.loads(announce.read_text())
    assert set(ready) == {"gateway_url", "ca_file", "api_key", "pid"}
    assert ready["pid"] == child.pid
    assert requests.get(f"{ready['gateway_url']}/sandbox/requests", verify=ready["ca_file"], timeout=10).json() == []
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert child.returncode == 0
    assert out == ""
    assert f"export DATABENTO_GATEWAY='{ready['gateway_url']}'" in err
    assert "Traceback" not in err
    assert not Path(ready["ca_file"]).exists()


@pytest.mark.parametrize("watch", ["stdin", "pid"])
def test_it_ends_when_its_parent_is_killed(watch):
    arguments = {"stdin": ["--until-stdin-ends"], "pid": ["--parent-pid", "MINE"]}[watch]
    program = (
        "import os, subprocess, sys\n"
        f"command = {[*COMMAND, *arguments]!r}\n"
        "command = [str(os.getpid()) if part == 'MINE' else part for part in command]\n"
        f"child = subprocess.Popen(command, stdin={'subprocess.PIPE' if watch == 'stdin' else 'subprocess.DEVNULL'})\n"
        "child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        pid = json.loads(parent.stdout.readline())["pid"]
        parent.kill()
        parent.wait()
        until(lambda: gone(pid))


def test_bad_arguments_are_one_clear_line_and_exit_code_2(tmp_path):
    for arguments, says in (
        (["--fault", "explode"], "unknown fault 'explode'"),
        (["--replay", str(tmp_path)], "nothing to replay"),
        (["--records-per-hour", "-1"], "records_per_hour"),
        (["--now", "soon"], "--now"),
    ):
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 2
        assert says in done.stderr
        assert "Traceback" not in done.stderr


def test_help_lists_every_fault():
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=30, check=True)
    assert "cut-mid-stream" in done.stdout
    assert "stall-before-headers" in done.stdout


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_stream_and_two_streams_share_the_server(monkeypatch, tmp_path):
    def peak_mb(pid: int) -> float:
        (line,) = [x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM")]
        return int(line.split()[1]) / 1024

    def download(query: dict[str, Any]) -> int:
        # Straight to the bit bucket: the vendor's client would keep it all.
        form = {**query, "encoding": "dbn", "compression": "zstd"}
        with requests.post(
            f"{sandbox.gateway_url}/v0/timeseries.get_range", data=form, auth=("key", ""), timeout=60, stream=True
        ) as answer:
            return sum(len(piece) for piece in answer.iter_content(1 << 16))

    with SandboxProcess(now=date(2025, 10, 1), records_per_hour=300_000) as sandbox:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(sandbox.ca_file))
        client = databento.Historical("key", sandbox.gateway_url)
        short = {**AAPL, "start": "2025-09-05T13:30", "end": "2025-09-05T13:45"}
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(download, [short, {**short, "symbols": "MSFT"}]))
        after_short = peak_mb(sandbox.pid)
        long = [{**AAPL, "symbols": symbol, "end": "2025-09-05T14:30"} for symbol in ("AAPL", "MSFT")]
        counts = [client.metadata.get_record_count(**query) for query in long]
        with ThreadPoolExecutor(2) as pool:
            sizes = list(pool.map(download, long))
        assert min(counts) > 1_000_000
        assert min(sizes) > 10_000_000
        assert sandbox.billed_bytes > sum(counts) * 368
        assert peak_mb(sandbox.pid) < after_short + 64
        assert peak_mb(sandbox.pid) < 500

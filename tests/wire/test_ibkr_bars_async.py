"""Those tests of historical bars that lean on the library's ways, run again with ib_async in a process of its own.

Where it is looked for, and why it is not in the environment: see `test_ibkr_async`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(sys.prefix) / "ib_async"
FILE = Path(__file__).with_name("test_ibkr_bars.py")
TESTS = (
    "class_share",
    "quotes",
    "no_data_is_no_error",
    "bars-permission",
    "321",
    "bad_answer",
    "not_answered_is_cancelled",
    "comes_too_late",
    "nothing_is_connected",
    "many_at_once",
    "lost_inside_an_answer",
    "loses_the_broker",
    "cancelled_fetch",
    "closed_ends",
    "waited_out",
    "has_no_account",
)


@pytest.mark.skipif(not FOLDER.is_dir(), reason="ib_async is not installed beside the environment (pip install -t)")
def test_with_ib_async(tmp_path):
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'inner'}"),
            *(str(FILE), "-k", " or ".join(TESTS)),
        ],
        env={**os.environ, "PYTHONPATH": str(FOLDER), "TRADING_DATA_IB_LIBRARY": "ib_async"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert " passed" in ended.stdout

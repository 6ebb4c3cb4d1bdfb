"""Those tests of live capture that lean on the library's ways, run again with ib_async in a process of its own.

Its event package has the module name of ib_insync's, so that both cannot be in one environment: it is looked for in
the folder `ib_async` beside the interpreter's environment. TRADING_DATA_IB_LIBRARY=ib_async runs all of them so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(sys.prefix) / "ib_async"
HERE = Path(__file__).parent
TESTS = (
    "session.py::test_client_ids_in_use_are_passed_over_at_once",
    "session.py::test_a_gateway_that_never_answers_cannot_hang_a_session",
    "session.py::test_a_connection_that_is_reset_is_seen_and_made_anew",
    "session.py::test_a_message_that_the_library_cannot_read_is_counted_and_its_contents_are_not_logged",
    "depth.py::test_every_message_is_handed_on_once_and_gives_the_gateway_s_own_book[explicit]",
    "depth.py::test_depth_of_one_exchange_is_asked_for_and_cancelled_as_such",
    "depth.py::test_a_reset_among_messages_comes_in_its_place",
    "depth.py::test_a_halt",
    "depth.py::test_a_lost_broker_who_kept_the_data",
    "depth.py::test_a_lost_broker_who_lost_the_data",
    "depth.py::test_a_dropped_connection[True]",
    "depth.py::test_four_symbols_on_three_lines_with_one_refused",
    "depth.py::test_a_cancelled_capture_leaves_nothing[live]",
    "depth.py::test_the_log_says_things_once_and_no_account_number",
)


@pytest.mark.skipif(not FOLDER.is_dir(), reason="ib_async is not installed beside the environment (pip install -t)")
def test_with_ib_async(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'inner'}"]
        + [f"{HERE}/test_ibkr_{test}" for test in TESTS],
        env={**os.environ, "PYTHONPATH": str(FOLDER), "TRADING_DATA_IB_LIBRARY": "ib_async"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert " passed" in ended.stdout

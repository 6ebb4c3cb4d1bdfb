"""The pytest plugin as a consumer's own test suite would load it, in a process of its own."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from contracts.testing import DAMAGES

CONFTEST = 'pytest_plugins = ["contracts.testing.pytest_plugin"]\n'
TESTS = """
import pytest
from contracts import InvalidSnapshotFile
from contracts.reader import MarketData


def test_the_loader_gives_every_row(marketdata_root, marketdata_symbol, marketdata_day):
    assert MarketData(marketdata_root.path).snapshots(marketdata_symbol, marketdata_day).num_rows == 600


@pytest.mark.parametrize("damaged_marketdata_root", ["snapshots-short-list", "snapshots-text"], indirect=True)
def test_the_loader_refuses_what_is_broken(damaged_marketdata_root, marketdata_symbol, marketdata_day):
    with pytest.raises(InvalidSnapshotFile) as caught:
        MarketData(damaged_marketdata_root.root.path).snapshots(marketdata_symbol, marketdata_day)
    assert caught.value.path == damaged_marketdata_root.path


def test_each_test_has_a_root_of_its_own(marketdata_root, tmp_path):
    marketdata_root.backfill_manifest.unlink()
    assert marketdata_root.path.parent == tmp_path


@pytest.mark.parametrize("damaged_marketdata_root", ["no-such"], indirect=True)
def test_a_misspelt_damage_is_told(damaged_marketdata_root): ...
"""


def run(folder, *options):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", "-W", "error", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    return tmp_path


def test_a_consumer_gets_whole_and_damaged_roots_from_fixtures(project):
    (project / "test_loader.py").write_text(TESTS)
    done = run(project, f"--basetemp={project / 'temp'}")
    assert "4 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "LookupError: no damage 'no-such', there are snapshots-text, " in done.stdout


def test_a_test_that_names_no_damage_runs_once_for_each(project):
    (project / "test_all.py").write_text("def test_whatever_happens(damaged_marketdata_root): ...\n")
    done = run(project, "--collect-only")
    found = {line.partition("[")[2].rstrip("]") for line in done.stdout.splitlines() if "::" in line}
    assert found == set(DAMAGES)


def test_the_fixtures_are_not_there_unasked():
    """No entry point: a consumer's pytest is not changed by installing the wheel."""
    assert not [entry for entry in entry_points(group="pytest11") if entry.module.startswith("contracts")]

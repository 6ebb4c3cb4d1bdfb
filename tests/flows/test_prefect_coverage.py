"""The flow `refresh-coverage` as Prefect runs it, against a real temporary API."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from contracts.layout import DataRoot
from contracts.testing import write_sample_root
from contracts.validate import validate_path
from flows.errors import ConfigurationError
from flows.refresh_coverage import refresh_coverage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Prefect's own client and server code raises these inside its threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:prefect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DO_NOT_TRACK", "1")
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        with prefect_test_harness(server_startup_timeout=120):
            yield


@pytest.fixture
def root(prefect_api: None, clean_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataRoot:
    monkeypatch.setenv("ML_BACKUP_PATH", str(tmp_path / "backup"))
    return DataRoot(tmp_path / "data")


def test_a_run_derives_the_coverage_mirrors_it_and_says_what_it_found(root: DataRoot, tmp_path: Path) -> None:
    write_sample_root(root.path)
    root.bars_coverage.unlink()

    state = refresh_coverage(return_state=True)

    assert state.result() == {
        "wrote": str(root.bars_coverage),
        "changed": True,
        "entry_count": 3,
        "days": 6,
        "lines": 7,
        "new_lines": 7,
        "skipped": {},
        "mode": "full",
    }
    assert validate_path(root.path).ok
    assert (tmp_path / "backup" / root.bars_coverage.name).read_bytes() == root.bars_coverage.read_bytes()
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(state.state_details.flow_run_id)
    assert (run.name, run.state.message) == (
        "refresh-coverage",
        "3 entries, 6 days of 7 lines; 7 lines were new",
    )


def test_the_next_run_reads_what_is_new_and_warns_of_what_does_not_count(
    root: DataRoot, caplog: pytest.LogCaptureFixture
) -> None:
    write_sample_root(root.path)
    refresh_coverage()
    with root.bars_manifest.open("a") as file:
        file.write("}{\n")
    with caplog.at_level(logging.WARNING, "connectors"):
        document = refresh_coverage()
    assert (document["mode"], document["new_lines"], document["changed"]) == ("incremental", 1, False)
    assert document["skipped"] == {"not-json": 1}
    assert "1 line does not count" in caplog.text


def test_a_run_without_a_ledger_fails_and_creates_nothing(root: DataRoot) -> None:
    state = refresh_coverage(return_state=True)
    assert state.is_failed()
    error = state.result(raise_on_failure=False)
    assert isinstance(error, ConfigurationError)
    assert str(root.bars_manifest) in str(error)
    assert not root.path.exists()

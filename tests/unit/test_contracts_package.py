"""The package as others meet it: public names, a light import, the changelog and the tour in the README."""

import ast
import importlib.metadata
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import contracts
from contracts import errors
from contracts.cli import main

PACKAGE = Path(__file__).parents[2] / "contracts"
TOUR = Path(__file__).parents[2] / "tools" / "readme_tour.py"
PUBLIC = """
BAR_SCHEMA BackfillCounts BackfillManifestLine BackfillStatus BackfillSummary BarsAvailability BarsCoverage BarsDay
BarsManifestLine BarsMetadata BarsName Book BookMatrices BookScope ContractError CoverageDay CoverageEntry CoverageIndex
CoverageReport CoverageResult CoverageTotal Cursor DataRoot DayCoverage DepthMessage DepthMessages ET EVENTS_SCHEMA
EventsMetadata Finding Followed Gap GapCause Hole InvalidBarsFile InvalidDataRoot InvalidDocument InvalidName
InvalidSnapshotFile InvalidSymbol InvalidWindow KindCount Level2Coverage Level2Name MarketData MixedData NotASession
NotAvailable OutsideCalendar Part Quality READERS Replayer Report SNAPSHOT_SCHEMA SessionStats Skipped SkippedLine
SnapshotMetadata SnapshotsFile SourceDay SymbolMapping SymbolMappingEntry UnknownSchemaVersion Window __version__
bars_availability bars_schema build_coverage canonical_symbol check_data_root coverage_from_lines effective_window
events_schema fingerprint follow_backfill follow_bars follow_gaps is_session iso_utc_from_ns level2_candidates
level2_coverage
load_coverage named_session ns_from_iso_utc ns_from_text parse_bars_coverage parse_bars_manifest_line parse_bars_path
parse_document parse_gap_line parse_level2_name parse_manifest_line parse_summary parse_window replay replay_batches
resolve_data_root session_close_et sessions_between snapshot_schema today_et validate_path
"""


def test_public_names_are_exactly_these():
    assert sorted(contracts.__all__) == PUBLIC.split()


def test_every_public_name_exists_and_documents_itself():
    for name in contracts.__all__:
        value = getattr(contracts, name)
        if isinstance(value, type) or inspect.isfunction(value):
            assert value.__doc__, name


def test_every_error_is_a_contract_error_in_the_tree_at_the_top_of_its_file():
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    for error in found:
        assert issubclass(error, errors.ContractError)
        assert error.__name__ in errors.__doc__
        assert error.__name__ in contracts.__all__


def test_importing_contracts_is_light_and_imports_nothing_of_the_producer():
    program = "import sys, contracts, contracts.cli, contracts.testing; print(*{n.split('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "contracts" in imported
    assert not imported & {"pandas", "exchange_calendars", "jsonschema"}
    assert not imported & {"connectors", "flows", "prefect", "databento"}


def test_contracts_reads_no_environment():
    for path in (PACKAGE / "src").rglob("*.py"):
        names = {getattr(node, "attr", getattr(node, "id", None)) for node in ast.walk(ast.parse(path.read_bytes()))}
        assert not names & {"environ", "environb", "getenv"}, path


def test_the_version_is_that_of_the_distribution_and_of_the_changelogs_top_entry():
    assert contracts.__version__ == importlib.metadata.version("marketdata-contracts")
    top = re.search(r"^## (\S+)", (PACKAGE / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert top is not None
    assert top[1] == contracts.__version__


def test_types_are_published():
    assert (PACKAGE / "src" / "contracts" / "py.typed").exists()


@pytest.fixture
def tour():
    spec = importlib.util.spec_from_file_location("readme_tour", TOUR)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tour_in_the_readme_runs_as_it_stands(tour, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    assert tour.run_tour(text, "README.md", {"marketdata-contracts": main}) >= 10


@pytest.mark.parametrize(
    "text", ["```console\n$ marketdata-contracts --version\nanother text\n```\n", "```python\nassert 1 == 2\n```\n"]
)
def test_a_tour_that_shows_something_else_is_noticed(tour, text):
    with pytest.raises((tour.TourError, AssertionError)):
        tour.run_tour(text, "README.md", {"marketdata-contracts": lambda _: 0})


def test_how_to_pin_names_the_version_of_the_package():
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    assert f"marketdata_contracts-{contracts.__version__}-py3-none-any.whl" in text
    assert f"@contracts-v{contracts.__version__}#subdirectory=contracts" in text

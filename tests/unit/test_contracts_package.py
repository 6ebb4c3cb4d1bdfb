"""The package as others meet it: public names, a light import, the changelog and the tour in the README."""

import importlib.metadata
import re
import shlex
import subprocess
import sys
from pathlib import Path

import contracts
from contracts import errors
from contracts.cli import main

PACKAGE = Path(__file__).parents[2] / "contracts"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_public_names_are_exactly_these():
    assert set(contracts.__all__) == {
        "BackfillCounts",
        "BackfillManifestLine",
        "BackfillStatus",
        "BackfillSummary",
        "BarsName",
        "BookScope",
        "ContractError",
        "DataRoot",
        "ET",
        "EVENTS_SCHEMA",
        "EventsMetadata",
        "Finding",
        "InvalidDataRoot",
        "InvalidDocument",
        "InvalidName",
        "InvalidSnapshotFile",
        "InvalidSymbol",
        "InvalidWindow",
        "Level2Name",
        "NotASession",
        "OutsideCalendar",
        "Quality",
        "Report",
        "SNAPSHOT_SCHEMA",
        "SnapshotMetadata",
        "SymbolMapping",
        "SymbolMappingEntry",
        "UnknownSchemaVersion",
        "Window",
        "__version__",
        "canonical_symbol",
        "check_data_root",
        "effective_window",
        "events_schema",
        "is_session",
        "iso_utc_from_ns",
        "level2_candidates",
        "named_session",
        "ns_from_iso_utc",
        "parse_bars_path",
        "parse_level2_name",
        "parse_manifest_line",
        "parse_summary",
        "parse_window",
        "resolve_data_root",
        "session_close_et",
        "sessions_between",
        "snapshot_schema",
        "today_et",
        "validate_path",
    }


def test_every_public_name_exists_and_documents_itself():
    for name in contracts.__all__:
        value = getattr(contracts, name)
        if callable(value) and name != "BackfillStatus":
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
    sources = "".join(path.read_text() for path in (PACKAGE / "src").rglob("*.py"))
    assert "environ" not in sources.replace("environment", "")


def test_the_version_is_that_of_the_distribution_and_of_the_changelogs_top_entry():
    assert contracts.__version__ == importlib.metadata.version("marketdata-contracts")
    top = re.search(r"^## (\S+)", (PACKAGE / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert top is not None
    assert top[1] == contracts.__version__


def test_types_are_published():
    assert (PACKAGE / "src" / "contracts" / "py.typed").exists()


def test_the_tour_in_the_readme_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((PACKAGE / "README.md").read_text(encoding="utf-8"))
    assert len(blocks) >= 5
    names = {}
    for language, text in blocks:
        if language == "python":
            exec(compile(text, "contracts/README.md", "exec"), names)  # noqa: S102 - the README is ours
            continue
        shown = ""
        for line in text.splitlines():
            if line.startswith("$ "):
                command = shlex.split(line.removeprefix("$ "))
                assert command[0] == "marketdata-contracts"
                assert main(command[1:]) == 0
                shown += f"{line}\n{capsys.readouterr().out}"
        assert shown == text

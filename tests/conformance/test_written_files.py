"""The files that backfills really write, with every status, before each judge: validator, model and JSON Schema."""

import json
from datetime import date

import pyarrow.parquet as pq
import pytest
from jsonschema import Draft202012Validator

from connectors.sandbox.databento_server import DatabentoSandbox
from contracts.dispatch import parse_document
from contracts.schemas import load_schema, schema_validator
from contracts.v1.level2 import SNAPSHOT_SCHEMA, SnapshotMetadata
from contracts.v1.level2_events import EVENTS_SCHEMA, EventsMetadata
from contracts.validate import validate_path
from flows.backfill_job import assemble
from flows.backfill_run import run_backfill
from flows.settings import Settings

DAY = date(2025, 9, 5)
KEY = "db-written-files-3141592653589793"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root after three runs against the sandbox vendor: every status; sampled, by event, and with events."""
    folder = tmp_path_factory.mktemp("written")
    faults = ("zero-rows:symbol=QUIET", "unknown-symbol:symbol=GONE")
    with pytest.MonkeyPatch.context() as patch, DatabentoSandbox(
        api_key=KEY, now=date(2025, 12, 1), records_per_hour=2_000
    ) as vendor:  # fmt: skip
        for name in (*Settings.model_fields, "prefect_api_url"):
            patch.delenv(name.upper(), raising=False)
        patch.chdir(folder)
        values = {
            **vendor.env(),
            "HOME": folder / "home",
            "DATA_PATH_OVERRIDE": folder / "data",
            "CACHE_PATH": folder / "cache",
            "L2_BACKFILL_WINDOW_ET": "09:30-09:40",
            "L2_TRADING_WINDOW_ET": "09:30-11:00",
            "L2_SNAPSHOT_INTERVAL_MS": 1_000,
            "L2_MIN_FREE_GB": 0,
            "RETRY_ATTEMPTS": 1,
        }
        for name, value in values.items():
            patch.setenv(name, str(value))
        for fault in faults:
            vendor.add_fault(fault)
        for symbols, options in (
            (["AAPL", "BRK.B", "QUIET", "GONE"], {"with_events": True}),
            (["NVDA"], {"interval_ms": 0}),
            (["AAPL", "MSFT"], {}),
        ):
            job = assemble(symbols=symbols, start=DAY, **options)
            run_backfill(job.context, job.tasks, job.options)
    return folder / "data"


def test_the_validator_finds_nothing_in_the_root_and_nothing_in_any_single_file(root):
    report = validate_path(root)
    assert report.findings == []
    # The lock of the last run is hidden; it is no artifact.
    files = [path for path in root.rglob("[!.]*") if path.is_file()]
    assert report.files == len(files) >= 7
    for path in files:
        assert [str(finding) for finding in validate_path(path).findings] == [], path


def test_every_manifest_line_fits_schema_and_model_and_is_written_as_the_model_would(root):
    lines = (root / "backfill_l2_manifest.jsonl").read_text().splitlines()
    judge = schema_validator("backfill_l2_manifest.v1")
    for line in lines:
        assert judge.is_valid(json.loads(line))
        assert parse_document(line).to_json() == line
    statuses = [json.loads(line)["status"] for line in lines]
    assert statuses == ["WRITE", "WRITE", "EMPTY", "ERROR", "WRITE", "SKIP", "WRITE"]


def test_the_summary_fits_schema_and_model_and_names_its_version(root):
    text = (root / "backfill_l2_summary.json").read_text()
    assert schema_validator("backfill_l2_summary.v1").is_valid(json.loads(text))
    summary = parse_document(text)
    assert json.loads(text) == summary.to_document()
    assert summary.counts.to_document() == {"WRITE": 1, "SKIP": 1, "EMPTY": 0, "ERROR": 0}


def test_what_is_written_passes_a_plain_validator_of_another_maker_too(root):
    """Draft 2020-12 without format assertion, as consumers in other languages run it."""
    judge = Draft202012Validator(load_schema("backfill_l2_manifest.v1"))
    for line in (root / "backfill_l2_manifest.jsonl").read_bytes().splitlines():
        assert judge.is_valid(json.loads(line))


def test_every_parquet_file_has_the_arrow_schema_and_a_footer_that_fits_its_json_schema(root):
    expected = {"snapshots": (SNAPSHOT_SCHEMA, SnapshotMetadata), "events": (EVENTS_SCHEMA, EventsMetadata)}
    kinds = []
    for path in sorted(root.rglob("*.parquet")):
        kind = path.name.split("_")[1]
        columns, model = expected[kind]
        found = pq.read_schema(path)
        assert found.equals(columns, check_metadata=False), path
        metadata = model.from_footer(found.metadata)
        assert schema_validator(model.version()).is_valid(metadata.to_document())
        assert (metadata.symbol, metadata.session_date) == (path.parent.name, DAY)
        kinds.append((path.parent.name, kind))
    assert kinds == [
        ("AAPL", "events"),
        ("AAPL", "snapshots"),
        ("BRK-B", "events"),
        ("BRK-B", "snapshots"),
        ("MSFT", "snapshots"),
        ("NVDA", "snapshots"),
    ]


def test_nothing_that_was_written_holds_the_key(root):
    for path in root.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path

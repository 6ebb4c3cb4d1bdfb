"""Vendor captures replayed by the sandbox through the whole run become the books the vendor's own `to_df` shows."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from pathlib import Path
from zoneinfo import ZoneInfo

import databento
import numpy as np
import pyarrow.parquet as pq
import pytest

from connectors.databento.client import DatabentoClient
from connectors.databento.request import SCHEMA_LEVELS, DayRequest
from connectors.sandbox.databento_server import DatabentoSandbox
from contracts.sessions import is_session, parse_window
from contracts.validate import validate_path
from flows.backfill_job import assemble
from flows.backfill_run import run_backfill

ET = ZoneInfo("America/New_York")
SAMPLES = Path(os.environ.get("TRADING_DATA_DBN_SAMPLES") or Path(__file__).parents[3] / "shared" / "data" / "dbn")


def captures() -> list[str]:
    """Real captures where they lie beside the project; always one of our own."""
    found = sorted(path.name for path in SAMPLES.glob("*.dbn.zst")) if SAMPLES.is_dir() else []
    return ["made here", *found]


@pytest.fixture
def capture(request, tmp_path):
    folder = tmp_path / "replay"
    folder.mkdir()
    if request.param != "made here":
        shutil.copy(SAMPLES / request.param, folder)
        return folder / request.param
    window_ns = parse_window("09:30-09:35").bounds_ns(dt.date(2025, 9, 5))
    with DatabentoSandbox() as vendor, pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(vendor.ca_file))
        client = DatabentoClient(vendor.api_key, gateway=vendor.gateway_url)
        wanted = DayRequest("AAPL", dt.date(2025, 9, 5), "AAPL", "XNAS.ITCH", "mbp-10", *window_ns)
        client.download(wanted, folder / "made.dbn.zst", deadline_s=60)
    return folder / "made.dbn.zst"


def as_the_vendor_shows(path: Path, side: str, column: str, levels: int) -> np.ndarray:
    frame = databento.DBNStore.from_file(path).to_df()
    return frame[[f"{side}_{column}_{level:02d}" for level in range(levels)]].fillna(0.0).to_numpy()


# pandas deprecates an argument the vendor's to_df uses, and its store keeps the file open until it is collected.
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.set_index")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("capture", captures(), indirect=True)
def test_a_replayed_capture_becomes_the_books_the_vendor_shows(capture, tmp_path, monkeypatch):
    store = databento.DBNStore.from_file(capture)
    vendor_symbol, schema = store.symbols[0], str(store.schema)
    first = dt.datetime.fromtimestamp(int(store.to_ndarray()["ts_recv"][0]) / 1e9, ET)
    symbol = vendor_symbol.split()[0]
    (tmp_path / "mapping.json").write_text(json.dumps({symbol: {"symbol": vendor_symbol}}))
    settings = {
        "DATA_PATH_OVERRIDE": str(tmp_path / "data"),
        "CACHE_PATH": str(tmp_path / "cache"),
        "SYMBOL_MAPPING_FILE": str(tmp_path / "mapping.json"),
        "DATABENTO_DATASET": store.dataset,
        "DATABENTO_SCHEMA": schema,
        "L2_BACKFILL_WINDOW_ET": f"{first:%H:%M}-{first + dt.timedelta(minutes=30):%H:%M}",
        "L2_ENFORCE_TRADING_WINDOW": "0",
        "L2_MIN_FREE_GB": "0",
    }
    with DatabentoSandbox(replay_dir=capture.parent) as vendor:
        for name, value in {**settings, **vendor.env()}.items():
            monkeypatch.setenv(name, value)
        job = assemble(symbols=[symbol], start=first.date(), interval_ms=0)
        result = run_backfill(job.context, job.tasks, job.options)
    if not is_session(first.date()):
        # A Sunday evening of a future: the exchange of this contract is closed.
        assert result.summary["counts"]["EMPTY"] == 1
        return
    assert result.summary["counts"]["WRITE"] == 1, result.summary["errors"]
    table = pq.read_table(result.outcomes[0].path)
    levels = SCHEMA_LEVELS[schema]
    for side in ("bid", "ask"):
        prices = np.array(table[f"{side}_prices"].to_pylist())[:, :levels]
        sizes = np.array(table[f"{side}_sizes"].to_pylist())[:, :levels]
        assert np.array_equal(prices, as_the_vendor_shows(capture, side, "px", levels))
        assert np.array_equal(sizes, as_the_vendor_shows(capture, side, "sz", levels))
    assert validate_path(tmp_path / "data").ok

"""The sandbox serves DBN files of a folder as the vendor would, and its own DBN code agrees with the vendor's."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import databento
import databento_dbn
import numpy as np
import pytest
import zstandard
from databento import BentoClientError
from hypothesis import given
from hypothesis import strategies as st

from connectors.sandbox._dbn import (
    RECORD_DTYPE,
    DbnFormatError,
    DbnHeader,
    Interval,
    encode_header,
    read_blocks,
    read_header,
)
from connectors.sandbox.databento_server import DatabentoSandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

NS = 10**9
DAY_NS = int(datetime(2024, 1, 18, tzinfo=UTC).timestamp()) * NS
NEXT_DAY_NS = DAY_NS + 86_400 * NS
BRENT, GAS = "BRN FMJ0024!", "TFM FMH0024!"


def records(schema: str, times_ns: list[int], instrument_ids: list[int], *, size: int = 1) -> NDArray[np.void]:
    made = np.zeros(len(times_ns), RECORD_DTYPE[schema])
    made["length"] = made.itemsize // 4
    made["rtype"] = 10 if schema == "mbp-10" else 1
    made["publisher_id"] = 57
    made["instrument_id"] = instrument_ids
    made["ts_recv"] = times_ns
    made["ts_event"] = made["ts_recv"] - 1_000
    made["action"], made["side"], made["flags"] = b"A", b"B", 128
    made["size"] = size
    made["bid_px_00"] = 77 * NS
    made["sequence"] = np.arange(len(times_ns))
    return made


def vendor_header(version: int, schema: str, mappings: dict[str, list[tuple[date, date, int]]], **more: Any) -> bytes:
    """A header written by the vendor's own encoder."""
    return bytes(
        databento_dbn.Metadata(
            dataset="IFEU.IMPACT",
            start=more.pop("start", DAY_NS),
            end=more.pop("end", NEXT_DAY_NS),
            stype_in=databento_dbn.SType.RAW_SYMBOL,
            stype_out=databento_dbn.SType.INSTRUMENT_ID,
            schema=databento_dbn.Schema(schema),
            symbols=list(mappings),
            mappings=[
                SimpleNamespace(
                    raw_symbol=symbol,
                    intervals=[
                        SimpleNamespace(start_date=first, end_date=after, symbol=str(number))
                        for first, after, number in intervals
                    ],
                )
                for symbol, intervals in mappings.items()
            ],
            version=version,
            **more,
        )
    )


ONE_DAY = {BRENT: [(date(2024, 1, 18), date(2024, 1, 19), 501)]}
TWO_SYMBOLS = {**ONE_DAY, GAS: [(date(2024, 1, 18), date(2024, 1, 19), 502)]}


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., databento.Historical]]:
    """Write files into a folder, serve it, hand out a client."""
    running: list[DatabentoSandbox] = []

    def start(**files: bytes) -> databento.Historical:
        for name, raw in files.items():
            compressed = name.endswith("_zst")
            target = tmp_path / (name.removesuffix("_zst") + (".dbn.zst" if compressed else ".dbn"))
            target.write_bytes(zstandard.compress(raw) if compressed else raw)
        (tmp_path / "README.txt").write_text("not a capture")
        running.append(DatabentoSandbox(replay_dir=tmp_path, now=date(2024, 6, 3)))
        running[0].start()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(running[0].ca_file))
        return databento.Historical("key", running[0].gateway_url)

    yield start
    for sandbox in running:
        sandbox.stop()


def ask(symbols: Any, **changes: Any) -> dict[str, Any]:
    query = {"dataset": "IFEU.IMPACT", "schema": "mbp-10", "start": DAY_NS, "end": NEXT_DAY_NS}
    return {**query, "symbols": symbols, **changes}


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("schema", ["mbp-10", "mbp-1"])
@pytest.mark.parametrize("suffix", ["", "_zst"])
def test_records_of_every_dbn_version_go_out_unchanged(serve, version, schema, suffix):
    made = records(schema, [DAY_NS + n * NS for n in range(50)], [501] * 50)
    client = serve(**{f"a{suffix}": vendor_header(version, schema, ONE_DAY) + made.tobytes()})
    store = client.timeseries.get_range(**ask(BRENT, schema=schema))
    assert store.to_ndarray().tobytes() == made.tobytes()
    assert store.metadata.version == 3
    assert client.metadata.get_record_count(**ask(BRENT, schema=schema)) == 50
    assert client.metadata.list_datasets() == ["IFEU.IMPACT"]
    assert client.metadata.list_schemas("IFEU.IMPACT") == [schema]


def test_two_symbols_of_one_file_are_told_apart_by_their_ids(serve):
    made = records("mbp-10", [DAY_NS + n * NS for n in range(40)], [501, 502] * 20)
    client = serve(both=vendor_header(3, "mbp-10", TWO_SYMBOLS) + made.tobytes())
    for symbol, number in ((BRENT, 501), (GAS, 502)):
        store = client.timeseries.get_range(**ask(symbol))
        assert store.to_ndarray().tobytes() == made[made["instrument_id"] == number].tobytes()
        assert set(store.metadata.mappings) == {symbol}
    assert client.timeseries.get_range(**ask([BRENT, GAS])).to_ndarray().tobytes() == made.tobytes()
    assert client.timeseries.get_range(**ask(None)).to_ndarray().tobytes() == made.tobytes()


def test_the_window_is_cut_out_of_the_file(serve):
    made = records("mbp-10", [DAY_NS + n * NS for n in range(100)], [501] * 100)
    client = serve(a_zst=vendor_header(3, "mbp-10", ONE_DAY) + made.tobytes())
    query = ask(BRENT, start=DAY_NS + 10 * NS, end=DAY_NS + 20 * NS)
    assert client.timeseries.get_range(**query).to_ndarray().tobytes() == made[10:20].tobytes()
    assert client.metadata.get_record_count(**query) == 10
    assert client.metadata.get_billable_size(**{**query, "limit": 3}) == 3 * 368


def test_an_id_counts_only_on_the_dates_its_mapping_names(serve):
    made = records("mbp-10", [DAY_NS + NS, DAY_NS + 2 * NS, NEXT_DAY_NS + NS, NEXT_DAY_NS + 2 * NS], [501, 7, 501, 7])
    mappings = {
        BRENT: [(date(2024, 1, 18), date(2024, 1, 19), 501), (date(2024, 1, 19), date(2024, 1, 20), 7)],
    }
    client = serve(a=vendor_header(3, "mbp-10", mappings, end=NEXT_DAY_NS + 86_400 * NS) + made.tobytes())
    store = client.timeseries.get_range(**ask(BRENT, end=NEXT_DAY_NS + 86_400 * NS))
    assert store.to_ndarray().tobytes() == made[[0, 3]].tobytes()
    assert [int(interval["symbol"]) for interval in store.metadata.mappings[BRENT]] == [501, 7]
    answer = client.symbology.resolve("IFEU.IMPACT", [BRENT], "raw_symbol", "instrument_id", "2024-01-18", "2024-01-21")
    assert [(i["d0"], i["s"]) for i in answer["result"][BRENT]] == [("2024-01-18", "501"), ("2024-01-19", "7")]


def test_a_symbol_that_misses_one_of_the_datasets_days_is_partial(serve):
    mappings = {
        BRENT: [(date(2024, 1, 18), date(2024, 1, 20), 501)],
        GAS: [(date(2024, 1, 18), date(2024, 1, 19), 502)],
    }
    made = records("mbp-10", [DAY_NS + NS, DAY_NS + 2 * NS, NEXT_DAY_NS], [501, 502, 501])
    client = serve(a=vendor_header(3, "mbp-10", mappings, end=NEXT_DAY_NS + NS) + made.tobytes())
    store = client.timeseries.get_range(**ask([BRENT, GAS], end=NEXT_DAY_NS + NS))
    assert (store.metadata.partial, store.metadata.not_found) == ([GAS], [])
    assert len(store.to_ndarray()) == 3


def test_what_no_file_maps_is_unknown(serve):
    made = records("mbp-10", [DAY_NS + NS], [501])
    client = serve(a=vendor_header(3, "mbp-10", ONE_DAY) + made.tobytes())
    after = {"start": NEXT_DAY_NS, "end": NEXT_DAY_NS + NS}
    for query in (ask("AAPL"), ask(GAS), ask(BRENT, **after)):
        with pytest.raises(BentoClientError) as caught:
            client.timeseries.get_range(**query)
        assert caught.value.json_body["detail"]["case"] == "symbology_invalid_request"
    for query in (ask(BRENT, dataset="XNAS.ITCH"), ask(BRENT, schema="mbp-1")):
        with pytest.raises(BentoClientError, match=r"not (one of|available)"):
            client.timeseries.get_range(**query)


def test_files_are_merged_by_time_and_the_same_time_is_served_once(serve):
    first = records("mbp-10", [DAY_NS + n * NS for n in range(0, 20, 2)], [501] * 10)
    other = records("mbp-10", [DAY_NS + n * NS for n in range(1, 20, 2)], [502] * 10)
    # A capture with a record limit speaks for the time up to its last record, whatever its header's end says.
    limited = records("mbp-10", [DAY_NS + 30 * NS, DAY_NS + 31 * NS], [501] * 2, size=9)
    again = records("mbp-10", [DAY_NS + 30 * NS, DAY_NS + 40 * NS], [501] * 2, size=8)
    gas = {GAS: TWO_SYMBOLS[GAS]}
    client = serve(
        a=vendor_header(1, "mbp-10", ONE_DAY, end=DAY_NS + 20 * NS) + first.tobytes(),
        b_zst=vendor_header(2, "mbp-10", gas) + other.tobytes(),
        c=vendor_header(3, "mbp-10", ONE_DAY, start=DAY_NS + 30 * NS, limit=2) + limited.tobytes(),
        d=vendor_header(3, "mbp-10", ONE_DAY, start=DAY_NS + 30 * NS) + again.tobytes(),
    )
    got = client.timeseries.get_range(**ask([BRENT, GAS])).to_ndarray()
    assert got["ts_recv"].tolist() == [DAY_NS + n * NS for n in (*range(20), 30, 31, 40)]
    assert got["size"].tolist() == [1] * 20 + [9, 9, 8]
    assert client.metadata.get_record_count(**ask([BRENT, GAS])) == 23


def test_conditions_and_range_come_from_the_files(serve):
    made = records("mbp-10", [DAY_NS + NS], [501])
    client = serve(a=vendor_header(3, "mbp-10", ONE_DAY) + made.tobytes())
    assert client.metadata.get_dataset_range("IFEU.IMPACT")["start"] == "2024-01-18T00:00:00.000000000Z"
    rows = client.metadata.get_dataset_condition("IFEU.IMPACT")
    assert [(row["date"], row["condition"]) for row in rows] == [("2024-01-18", "available")]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"not DBN at all", "does not begin with 'DBN'"),
        (b"DBN\x09\0\0\0\0", "version 9"),
        (vendor_header(3, "mbp-10", ONE_DAY)[:-30], "cut off"),
        (vendor_header(3, "trades", ONE_DAY), "schema number 4"),
    ],
)
def test_a_file_that_cannot_be_replayed_is_named(tmp_path, raw, says):
    (tmp_path / "bad.dbn").write_bytes(raw)
    with pytest.raises(ValueError, match=rf"cannot replay .*bad\.dbn: .*{says}"):
        DatabentoSandbox(replay_dir=tmp_path)


def test_a_torn_or_foreign_record_is_refused():
    torn = records("mbp-10", [DAY_NS], [1]).tobytes()[:-1]
    with pytest.raises(DbnFormatError, match="inside a record"):
        list(read_blocks(io.BytesIO(torn), "mbp-10"))
    foreign = records("mbp-1", [DAY_NS] * 23, [1] * 23).tobytes()
    with pytest.raises(DbnFormatError, match="not mbp-10"):
        list(read_blocks(io.BytesIO(foreign), "mbp-10"))


NAMES = st.lists(st.from_regex(r"[A-Z][A-Z0-9.]{0,19}", fullmatch=True), max_size=3, unique=True).map(tuple)
DATES = st.dates(date(2018, 1, 1), date(2030, 1, 1))
HEADERS = st.builds(
    DbnHeader,
    dataset=st.sampled_from(["XNAS.ITCH", "GLBX.MDP3", "A"]),
    schema=st.sampled_from(["mbp-1", "mbp-10"]),
    start_ns=st.integers(0, 2**63),
    end_ns=st.none() | st.integers(1, 2**63),
    limit=st.integers(0, 2**63),
    symbols=NAMES,
    partial=NAMES,
    not_found=NAMES,
    mappings=st.dictionaries(
        st.from_regex(r"[A-Z]{1,21}", fullmatch=True),
        st.lists(st.builds(Interval, DATES, DATES, st.integers(0, 2**32 - 1)), max_size=3).map(tuple),
        max_size=3,
    ),
    version=st.sampled_from([1, 2, 3]),
)


@given(header=HEADERS)
def test_the_vendors_decoder_reads_our_header_and_we_read_what_it_writes(header):
    raw = encode_header(header)
    decoded = databento_dbn.Metadata.decode(raw, upgrade_policy=databento_dbn.VersionUpgradePolicy.AS_IS)
    assert (decoded.version, decoded.dataset, str(decoded.schema)) == (header.version, header.dataset, header.schema)
    assert (decoded.start, decoded.end, decoded.limit or 0) == (header.start_ns, header.end_ns, header.limit)
    assert tuple(decoded.symbols) == header.symbols
    assert (tuple(decoded.partial), tuple(decoded.not_found)) == (header.partial, header.not_found)
    assert {
        symbol: [(i["start_date"], i["end_date"], i["symbol"]) for i in intervals]
        for symbol, intervals in decoded.mappings.items()
    } == {
        symbol: [(i.start_date, i.end_date, str(i.instrument_id)) for i in intervals]
        for symbol, intervals in header.mappings.items()
    }
    assert bytes(decoded) == raw
    assert read_header(io.BytesIO(raw)) == header


def test_record_layouts_are_the_vendor_packages():
    for schema, message in (("mbp-10", databento_dbn.MBP10Msg), ("mbp-1", databento_dbn.MBP1Msg)):
        assert RECORD_DTYPE[schema] == np.dtype(message._dtypes)


def test_a_symbol_too_long_for_an_old_header_is_an_error():
    with pytest.raises(DbnFormatError, match="22 bytes"):
        encode_header(DbnHeader("XNAS.ITCH", "mbp-10", 0, 1, symbols=("A" * 22,), version=1))

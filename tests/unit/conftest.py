"""DBN files for the tests of `connectors.databento`, made of the vendor's own record layout and metadata encoder."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import databento
import databento_dbn
import numpy as np
import pytest
import zstandard

from connectors.databento.shape import BookCounts, snapshot_batches
from contracts.v1.level2 import SNAPSHOT_SCHEMA

if TYPE_CHECKING:
    import pyarrow as pa

NS_PER_S = 1_000_000_000
NS_PER_DAY = 86_400 * NS_PER_S
EPOCH = dt.date(1970, 1, 1)
NO_PRICE = 2**63 - 1
MESSAGES = {"mbp-10": databento_dbn.MBP10Msg, "mbp-1": databento_dbn.MBP1Msg}


@dataclass
class Shaped:
    """What came out of `snapshot_batches`: rows of plain Python values, the batches, and the counts."""

    batches: list[pa.RecordBatch]
    counts: BookCounts
    rows: list[dict] = field(init=False)

    def __post_init__(self):
        self.rows = [row for batch in self.batches for row in batch.to_pylist()]


class Dbn:
    """Makes records, books and files; 2025-09-05, instrument id 4242, raw symbol `AAPL`, unless told otherwise."""

    day = dt.date(2025, 9, 5)
    open_ns = (day - EPOCH).days * NS_PER_DAY + 12 * 3_600 * NS_PER_S + 1_800 * NS_PER_S
    instrument_id = 4242
    no_price = NO_PRICE

    def records(self, ts_recv, *, schema="mbp-10", instrument_id=instrument_id):
        """Records with these receive times and empty books, in the vendor's own layout."""
        records = np.zeros(len(ts_recv), np.dtype(MESSAGES[schema]._dtypes))
        records["length"] = records.dtype.itemsize // 4
        records["rtype"] = 10 if schema == "mbp-10" else 1
        records["publisher_id"] = 2
        records["instrument_id"] = instrument_id
        records["ts_recv"] = ts_recv
        records["ts_event"] = records["ts_recv"] - 20_000
        records["price"] = NO_PRICE
        records["action"] = b"A"
        records["side"] = b"N"
        records["flags"] = 128
        for name in records.dtype.names:
            if name.startswith(("bid_px", "ask_px")):
                records[name] = NO_PRICE
        return records

    def levels(self, records):
        """How many levels the records' layout has."""
        return sum(name.startswith("bid_px") for name in records.dtype.names)

    def set_book(self, records, index, bids, asks):
        """Give a record its levels as (price in 1e-9, size) pairs, best first."""
        for side, book in (("bid", bids), ("ask", asks)):
            for level in range(self.levels(records)):
                price, size = book[level] if level < len(book) else (NO_PRICE, 0)
                records[f"{side}_px_{level:02d}"][index] = price
                records[f"{side}_sz_{level:02d}"][index] = size
                records[f"{side}_ct_{level:02d}"][index] = min(size, 3)

    def book(self, records, index, side):
        """The (price in 1e-9, size) pairs of one side as they stand in the record."""
        row = records[index]
        return [
            (int(row[f"{side}_px_{level:02d}"]), int(row[f"{side}_sz_{level:02d}"]))
            for level in range(self.levels(records))
        ]

    def random_books(self, records, rng, tick=10_000_000):
        """Fill every record with a plausible book; some sides are thin or empty, some books locked or crossed."""
        levels = self.levels(records)
        for index in range(len(records)):
            best = int(rng.integers(500, 60_000)) * tick
            spread = int(rng.integers(-1, 4)) * tick
            depths = np.where(rng.random(2) < 0.5, levels, rng.integers(0, levels + 1, 2))
            bids = [(best - level * tick, int(rng.integers(1, 2**32))) for level in range(depths[0])]
            asks = [(best + spread + level * tick, int(rng.integers(1, 2**32))) for level in range(depths[1])]
            self.set_book(records, index, bids, asks)
        return records

    def metadata(
        self,
        records=None,
        *,
        schema="mbp-10",
        dataset="XNAS.ITCH",
        version=3,
        intervals=None,
        not_found=(),
        ts_out=False,
    ):
        """Encoded metadata; without `intervals` (start, end, id) the records' ids are allowed on all their days."""
        if intervals is None and records is not None and len(records):
            days = [
                EPOCH + dt.timedelta(days=int(ns) // NS_PER_DAY)
                for ns in (records["ts_recv"].min(), records["ts_recv"].max())
            ]
            intervals = [(days[0], days[1] + dt.timedelta(days=1), int(i)) for i in np.unique(records["instrument_id"])]
        mapping = SimpleNamespace(
            raw_symbol="AAPL",
            intervals=[
                SimpleNamespace(start_date=start, end_date=end, symbol=str(number))
                for start, end, number in intervals or [(self.day, self.day + dt.timedelta(days=1), self.instrument_id)]
            ],
        )
        return databento_dbn.Metadata(
            dataset=dataset,
            start=self.open_ns,
            stype_in=databento_dbn.SType.RAW_SYMBOL,
            stype_out=databento_dbn.SType.INSTRUMENT_ID,
            schema=None if schema is None else databento_dbn.Schema.from_str(schema),
            symbols=["AAPL"],
            not_found=list(not_found),
            mappings=[mapping],
            end=self.open_ns + 3_600 * NS_PER_S,
            ts_out=ts_out,
            version=version,
        ).encode()

    def write(self, path, records, *, compressed=True, cuts=(), **metadata):
        """A whole file; `cuts` are byte offsets of the plain stream at which a new zstd frame begins."""
        raw = self.metadata(records, **metadata) + records.tobytes()
        if compressed:
            edges = [0, *sorted(cuts), len(raw)]
            compressor = zstandard.ZstdCompressor(level=1)
            raw = b"".join(compressor.compress(raw[a:b]) for a, b in itertools.pairwise(edges))
        path.write_bytes(raw)
        return path

    def shape(self, path, window_ns, *, records, levels=10, interval_ms=0, schema=SNAPSHOT_SCHEMA):
        """All snapshot rows of a file."""
        counts = BookCounts()
        batches = list(
            snapshot_batches(
                path,
                schema=schema,
                window_ns=window_ns,
                levels=levels,
                interval_ms=interval_ms,
                records=records,
                counts=counts,
            )
        )
        return Shaped(batches, counts)


class Model:
    """What the contract asks for, row by row in plain Python; slow, and shares nothing with the code under test."""

    def __init__(self, dbn, records, window_ns, *, levels, interval_ms):
        start_ns, end_ns = window_ns
        self.events = []
        latest = 0
        self.late_ts = 0
        for index in range(len(records)):
            recv_ns = int(records["ts_recv"][index])
            if not start_ns <= recv_ns < end_ns:
                continue
            self.late_ts += recv_ns < latest
            latest = max(latest, recv_ns)
            sides = [self.side(dbn.book(records, index, side), levels) for side in ("bid", "ask")]
            self.events.append((latest, sides))
        self.rows = []
        if interval_ms == 0:
            self.rows = [self.row(ns, sides) for ns, sides in self.events]
        else:
            for point_ns in range(start_ns, end_ns, interval_ms * 1_000_000):
                known = [sides for ns, sides in self.events if ns <= point_ns]
                if known:
                    self.rows.append(self.row(point_ns, known[-1]))

    @staticmethod
    def side(book, levels):
        there = [(price, size) for price, size in book if price != NO_PRICE and size > 0][:levels]
        there += [(0, 0)] * (levels - len(there))
        # Python divides integers to the nearest double.
        return [price / 10**9 for price, _ in there], [size for _, size in there]

    @staticmethod
    def row(ns, sides):
        seconds, fraction = divmod(ns, NS_PER_S)
        text = dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
        (bid_prices, bid_sizes), (ask_prices, ask_sizes) = sides
        return {
            "timestamp": f"{text}.{fraction:09d}+00:00",
            "bid_prices": bid_prices,
            "bid_sizes": bid_sizes,
            "ask_prices": ask_prices,
            "ask_sizes": ask_sizes,
        }

    def counts(self):
        """The counts as `BookCounts` must have them."""
        tops = [
            (row["bid_prices"][0], row["ask_prices"][0], row["bid_sizes"][0] > 0, row["ask_sizes"][0] > 0)
            for row in self.rows
        ]
        times = [ns for ns, _ in self.events]
        return {
            "rows": len(self.rows),
            "events": len(self.events),
            "crossed": sum(has_bid and has_ask and bid > ask for bid, ask, has_bid, has_ask in tops),
            "locked": sum(has_bid and has_ask and bid == ask for bid, ask, has_bid, has_ask in tops),
            "one_sided": sum(has_bid != has_ask for _, _, has_bid, has_ask in tops),
            "late_ts": self.late_ts,
            "max_gap_ns": max((b - a for a, b in itertools.pairwise(times)), default=0),
            "first_ts_ns": times[0] if times else None,
            "last_ts_ns": times[-1] if times else None,
        }


def vendor_rows(path):
    """The contract's rows of a file out of the vendor's own `to_df`; for books without holes."""
    store = databento.DBNStore.from_file(path)
    with warnings.catch_warnings():
        # The vendor's code, with pandas 3.1.
        warnings.filterwarnings("ignore", message="The inplace keyword", category=DeprecationWarning)
        frame = store.to_df()
    store.reader.close()
    columns = {
        f"{side}_{kind}": frame[[c for c in frame.columns if c.startswith(f"{side}_{short}_")]]
        .fillna(0)
        .to_numpy()
        .tolist()
        for side in ("bid", "ask")
        for kind, short in (("prices", "px"), ("sizes", "sz"))
    }
    times_ns = frame.index.as_unit("ns").asi8.tolist()
    return [
        Model.row(ns, [(bid_px, bid_sz), (ask_px, ask_sz)])
        for ns, bid_px, bid_sz, ask_px, ask_sz in zip(times_ns, *columns.values(), strict=True)
    ]


def _samples():
    """Real vendor files where there are some; otherwise files of each kind that are built when a test asks."""
    named = os.environ.get("TRADING_DATA_DBN_SAMPLES")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared" / "data" / "dbn"
    files = sorted(folder.glob("*.dbn*")) if folder.is_dir() else []
    return files or [(schema, version) for schema in ("mbp-10", "mbp-1") for version in (1, 2, 3)]


@pytest.fixture(params=_samples(), ids=str)
def dbn_sample(request, tmp_path):
    """A DBN file: one of the folder TRADING_DATA_DBN_SAMPLES, or one of the test's own making."""
    if isinstance(request.param, Path):
        return request.param
    schema, version = request.param
    made = Dbn()
    records = made.records(made.open_ns + np.arange(50) * 1_000_003, schema=schema)
    made.random_books(records, np.random.default_rng(version))
    return made.write(tmp_path / "sample.dbn.zst", records, schema=schema, version=version)


@pytest.fixture(scope="session")
def dbn():
    return Dbn()


@pytest.fixture(scope="session")
def model():
    return Model


@pytest.fixture(scope="session", name="vendor_rows")
def _vendor_rows():
    return vendor_rows

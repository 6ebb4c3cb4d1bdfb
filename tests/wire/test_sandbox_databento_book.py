"""The invented market: the same records every time, books that make sense, sessions that follow the calendar."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import databento
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.sandbox.databento_server import DatabentoSandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

UNDEF_PRICE = 2**63 - 1
OPEN_NS = int(datetime(2025, 9, 5, 8, tzinfo=UTC).timestamp()) * 10**9
CLOSE_NS = OPEN_NS + 16 * 3600 * 10**9
DAY: dict[str, Any] = {"dataset": "XNAS.ITCH", "schema": "mbp-10", "start": OPEN_NS, "end": CLOSE_NS}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[DatabentoSandbox]:
    with DatabentoSandbox(now=date(2025, 10, 1)) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.env().items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(scope="module")
def client(sandbox: DatabentoSandbox) -> databento.Historical:
    return databento.Historical(gateway=sandbox.gateway_url)


@pytest.fixture(scope="module")
def day(client: databento.Historical) -> np.ndarray:
    return client.timeseries.get_range(symbols="NVDA", **DAY).to_ndarray()


def side(records: np.ndarray, what: str) -> np.ndarray:
    """One quantity of all ten levels, as (records, 10)."""
    return np.stack([records[f"{what}_{level:02d}"] for level in range(10)], axis=1)


def test_a_second_server_sends_the_same_bytes(client, day, monkeypatch):
    with DatabentoSandbox(now=date(2025, 9, 20)) as other:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other.ca_file))
        again = databento.Historical("key", other.gateway_url).timeseries.get_range(symbols="NVDA", **DAY)
    assert again.to_ndarray().tobytes() == day.tobytes()


def test_symbols_and_days_differ(client, day):
    other = client.timeseries.get_range(symbols="AMD", **DAY).to_ndarray()
    before = {**DAY, "start": OPEN_NS - 86_400 * 10**9, "end": CLOSE_NS - 86_400 * 10**9}
    thursday = client.timeseries.get_range(symbols="NVDA", **before).to_ndarray()
    assert len({other.tobytes(), thursday.tobytes(), day.tobytes()}) == 3
    assert set(thursday["instrument_id"]) != set(day["instrument_id"])


@settings(max_examples=25, deadline=None)
@given(
    edges=st.tuples(
        st.integers(OPEN_NS - 10**12, CLOSE_NS + 10**12), st.integers(OPEN_NS - 10**12, CLOSE_NS + 10**12)
    ).filter(lambda pair: pair[0] != pair[1]),
    schema=st.sampled_from(["mbp-10", "mbp-1"]),
)
def test_any_window_is_that_part_of_the_day_and_is_counted_exactly(client, day, edges, schema):
    query = {**DAY, "symbols": "NVDA", "schema": schema, "start": min(edges), "end": max(edges)}
    part = client.timeseries.get_range(**query).to_ndarray()
    assert client.metadata.get_record_count(**query) == part.size
    if schema == "mbp-10":
        inside = day[(day["ts_recv"] >= min(edges)) & (day["ts_recv"] < max(edges))]
        assert part.tobytes() == inside.tobytes()


def test_mbp_1_is_the_best_level_of_the_mbp_10_records_that_concern_it(client, day):
    top = client.timeseries.get_range(symbols="NVDA", **{**DAY, "schema": "mbp-1"}).to_ndarray()
    expected = day[day["depth"] == 0]
    assert set(top["rtype"]) == {1}
    for name in ("ts_recv", "price", "action", "bid_px_00", "ask_px_00", "bid_sz_00", "ask_ct_00", "sequence"):
        assert (top[name] == expected[name]).all()


def test_books_are_ordered_and_missing_levels_are_undefined_and_empty(day):
    for what, sign in (("bid", -1), ("ask", 1)):
        prices, sizes, counts = (side(day, f"{what}_{q}") for q in ("px", "sz", "ct"))
        missing = prices == UNDEF_PRICE
        assert (missing == (sizes == 0)).all()
        assert (missing == (counts == 0)).all()
        assert (counts <= sizes).all()
        assert (missing[:, 1:] >= missing[:, :-1]).all()  # only at the end
        both = ~missing[:, 1:]
        assert (sign * np.diff(prices, axis=1)[both] > 0).all()
        assert (prices[~missing] % 10_000_000 == 0).all()
        assert missing.any()
    bid, ask = day["bid_px_00"], day["ask_px_00"]
    two_sided = (bid != UNDEF_PRICE) & (ask != UNDEF_PRICE)
    assert (bid[two_sided] < ask[two_sided]).all()
    assert (~two_sided).any()


def test_times_never_fall_tie_sometimes_and_follow_their_events(day):
    recv, event = day["ts_recv"].astype(np.int64), day["ts_event"].astype(np.int64)
    steps = np.diff(recv)
    assert (steps >= 0).all()
    assert (steps == 0).any()
    assert (event <= recv).all()
    assert (np.diff(event) < 0).any()
    assert (day["ts_in_delta"] == recv - event).all()
    assert (np.diff(day["sequence"].astype(np.int64)) == 1).all()
    assert (day["flags"][:-1][steps == 0] == 0).all()
    assert (day["flags"][:-1][steps > 0] == 128).all()


def test_every_action_does_to_the_book_what_it_says(client):
    ten_minutes = {**DAY, "start": OPEN_NS + 5 * 3600 * 10**9, "end": OPEN_NS + 5 * 3600 * 10**9 + 600 * 10**9}
    seen = set()
    for symbol in ("NVDA", "AMD", "AAPL", "MSFT", "TSLA", "BRK.B"):
        records = client.timeseries.get_range(symbols=symbol, **ten_minutes).to_ndarray()
        books = np.concatenate(
            [side(records, f"{s}_{q}").astype(np.int64) for s in ("bid", "ask") for q in ("px", "sz")], axis=1
        )
        changed = (books[1:] != books[:-1]).sum(axis=1)
        for before, after, record, changes in zip(books[:-1], books[1:], records[1:], changed, strict=True):
            action, offset = record["action"], 0 if record["side"] == b"B" else 20
            at = int(record["depth"]) + offset
            seen.add(action)
            if action == b"T":
                assert changes == 0
            elif action == b"R":
                assert (after[:10] == UNDEF_PRICE).all()
                assert (after[20:30] == UNDEF_PRICE).all()
            elif action == b"M" or before[at] == after[at] == record["price"]:
                assert changes <= 1
                assert after[at] == record["price"]
                grown = after[at + 10] - before[at + 10]
                assert grown == {b"A": 1, b"C": -1}.get(action, 0) * int(record["size"]) or action == b"M"
            elif action == b"A":  # a better price, or a level that comes back after a clear
                assert after[at] == record["price"]
                assert after[at + 10] == record["size"]
            else:  # the best price goes away whole
                assert action == b"C"
                assert (before[at], before[at + 10]) == (record["price"], record["size"])
    assert seen >= {b"A", b"C", b"M", b"T"}


def test_a_clear_empties_the_book_and_one_side_comes_back_first(day):
    (at, *_) = np.flatnonzero(day["action"] == b"R")
    assert day["side"][at] == b"N"
    assert day["price"][at] == UNDEF_PRICE
    assert day["bid_px_00"][at] == day["ask_px_00"][at] == UNDEF_PRICE
    assert day["bid_px_00"][at + 1] != UNDEF_PRICE
    assert day["ask_px_00"][at + 1] == UNDEF_PRICE
    assert day["ask_px_00"][at + 25] != UNDEF_PRICE


def test_each_morning_window_holds_a_clear_so_that_readers_meet_one(client):
    query = {**DAY, "start": OPEN_NS + int(4.5 * 3600) * 10**9, "end": OPEN_NS + 7 * 3600 * 10**9}
    for symbol in ("AAPL", "MSFT", "BRK.B"):
        records = client.timeseries.get_range(symbols=symbol, **query).to_ndarray()
        assert (records["action"] == b"R").any()
        assert 15_000 < len(records) < 26_000


def test_prices_wander_without_jumps(day):
    two_sided = (day["bid_px_00"] != UNDEF_PRICE) & (day["ask_px_00"] != UNDEF_PRICE)
    ticks = day["bid_px_00"][two_sided] // 10_000_000
    assert np.abs(np.diff(ticks)).max() <= 1
    assert len(np.unique(ticks)) > 5
    assert ticks.min() > 500


def test_the_open_is_busier_than_lunch_and_the_early_morning(day):
    hours = (day["ts_recv"].astype(np.int64) - OPEN_NS) / 3.6e12
    per_hour = np.histogram(hours, bins=np.arange(17))[0]
    assert per_hour[5] > 2 * per_hour[9] > 4 * per_hour[0] > 0


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.set_index")  # inside the vendor's to_df
def test_the_vendors_data_frame_shows_the_symbol_and_prices_in_usd(client):
    frame = client.timeseries.get_range(symbols="NVDA", **{**DAY, "limit": 2_000}).to_df()
    assert set(frame["symbol"]) == {"NVDA"}
    known = frame[["bid_px_00", "bid_px_01", "ask_px_00", "ask_px_01"]].dropna()
    assert (known["bid_px_01"] < known["bid_px_00"]).all()
    assert (known["bid_px_00"] < known["ask_px_00"]).all()
    assert (known["ask_px_00"] < known["ask_px_01"]).all()
    assert known["bid_px_00"].between(5, 1_000).all()


def test_a_winter_evening_crosses_utc_midnight_with_two_instrument_ids(client):
    query = {**DAY, "symbols": "NVDA", "start": "2025-01-10T20:00", "end": "2025-01-11T01:00"}  # a Friday
    store = client.timeseries.get_range(**query)
    records = store.to_ndarray()
    midnight = int(datetime(2025, 1, 11, tzinfo=UTC).timestamp()) * 10**9
    by_day = [set(records["instrument_id"][m]) for m in (records["ts_recv"] < midnight, records["ts_recv"] >= midnight)]
    assert [len(ids) for ids in by_day] == [1, 1]
    assert by_day[0] != by_day[1]
    intervals = store.metadata.mappings["NVDA"]
    assert [{int(i["symbol"])} for i in intervals] == by_day
    assert [i["start_date"] for i in intervals] == [date(2025, 1, 10), date(2025, 1, 11)]
    assert client.metadata.get_record_count(**query) == len(records)
    assert store.metadata.partial == []


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        ("2025-09-05", "2025-09-06", "2025-09-05T08:00", "2025-09-06T00:00"),  # summer: 04:00-20:00 ET
        ("2025-01-10", "2025-01-12", "2025-01-10T09:00", "2025-01-11T01:00"),  # winter
        ("2025-07-03", "2025-07-04", "2025-07-03T08:00", "2025-07-03T21:00"),  # half day: to 17:00 ET
        ("2025-09-05", "2025-09-09", "2025-09-05T08:00", "2025-09-09T00:00"),  # over a weekend
    ],
)
def test_records_lie_inside_the_extended_session(client, start, end, first, last):
    records = client.timeseries.get_range(**{**DAY, "symbols": "NVDA", "start": start, "end": end}).to_ndarray()
    bounds = [int(datetime.fromisoformat(f"{text}+00:00").timestamp()) * 10**9 for text in (first, last)]
    slack = 1_800 * 10**9
    assert bounds[0] <= records["ts_recv"][0] < bounds[0] + slack
    assert bounds[1] - slack < records["ts_recv"][-1] < bounds[1]


def test_a_half_day_closes_busily_at_13_00_et(client):
    records = client.timeseries.get_range(
        **{**DAY, "symbols": "NVDA", "start": "2025-07-03", "end": "2025-07-04"}
    ).to_ndarray()
    close = int(datetime(2025, 7, 3, 17, tzinfo=UTC).timestamp()) * 10**9
    times = records["ts_recv"].astype(np.int64)
    before = ((times >= close - 1_800 * 10**9) & (times < close)).sum()
    after = ((times >= close) & (times < close + 1_800 * 10**9)).sum()
    assert before > 3 * after > 0


def test_several_symbols_are_merged_by_time_and_nothing_is_lost(client, day):
    store = client.timeseries.get_range(symbols=["NVDA", "AMD", "MSFT"], **DAY)
    merged = store.to_ndarray()
    assert (np.diff(merged["ts_recv"].astype(np.int64)) >= 0).all()
    assert client.metadata.get_record_count(symbols=["NVDA", "AMD", "MSFT"], **DAY) == len(merged)
    (nvda,) = store.metadata.mappings["NVDA"]
    assert merged[merged["instrument_id"] == int(nvda["symbol"])].tobytes() == day.tobytes()


def test_streams_run_side_by_side_and_do_not_mix(client, day):
    with ThreadPoolExecutor(2) as pool:
        stores = list(pool.map(lambda s: client.timeseries.get_range(symbols=s, **DAY), ["NVDA", "AMD"]))
    assert stores[0].to_ndarray().tobytes() == day.tobytes()
    assert set(stores[0].to_ndarray()["instrument_id"]).isdisjoint(stores[1].to_ndarray()["instrument_id"])


def test_density_is_as_asked(monkeypatch):
    with DatabentoSandbox(now=date(2025, 10, 1), records_per_hour=300_000) as dense:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(dense.ca_file))
        asking = databento.Historical("key", dense.gateway_url)
        assert asking.metadata.get_record_count(symbols="NVDA", **DAY) == pytest.approx(4_800_000, rel=0.1)
        minute = {**DAY, "symbols": "NVDA", "start": "2025-09-05T15:00", "end": "2025-09-05T15:01"}
        assert len(asking.timeseries.get_range(**minute).to_ndarray()) == asking.metadata.get_record_count(**minute)


def test_one_frame_or_many_decode_to_the_same_records(client, day, monkeypatch):
    def frames(compressed: bytes) -> list[bytes]:
        found = []
        while compressed:
            frame = zstandard.ZstdDecompressor().decompressobj()
            found.append(frame.decompress(compressed))
            compressed = frame.unused_data
        return found

    (whole,) = frames(client.timeseries.get_range(symbols="NVDA", **DAY).raw)
    with DatabentoSandbox(now=date(2025, 10, 1), multi_frame=True) as many:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(many.ca_file))
        parts = frames(databento.Historical("key", many.gateway_url).timeseries.get_range(symbols="NVDA", **DAY).raw)
    assert len(parts) > 10
    assert b"".join(parts) == whole
    assert whole.endswith(day.tobytes())

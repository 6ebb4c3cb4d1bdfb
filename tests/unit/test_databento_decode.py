"""A DBN file is read whole in every form the vendor writes, and refused with a reason in every form it does not."""

from __future__ import annotations

import datetime as dt
import io
import threading

import numpy as np
import pytest
import zstandard
from databento import DBNStore
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.databento import decode
from connectors.databento.decode import DbnFile, record_dtype, verify
from connectors.databento.errors import UnresolvedSymbol, VerificationFailed, WrongContent
from connectors.databento.request import DayRequest
from connectors.databento.shape import BookCounts, snapshot_batches
from contracts.v1.level2 import SNAPSHOT_SCHEMA

RECORDS = 300


@pytest.fixture
def records(dbn):
    made = dbn.records(dbn.open_ns + np.arange(RECORDS) * 1_000_003)
    return dbn.random_books(made, np.random.default_rng(5))


def read(path):
    """All records of a file as one array."""
    return np.concatenate([chunk.copy() for chunk in DbnFile(path).chunks()])


def refusal(path):
    """Why a file is refused."""
    with pytest.raises(VerificationFailed) as failed:
        for _ in DbnFile(path).chunks():
            pass
    assert path.name in str(failed.value)
    return failed.value.reason


def outcome(path):
    """How many records a file holds, or why it is refused."""
    try:
        return sum(len(chunk) for chunk in DbnFile(path).chunks())
    except VerificationFailed as failed:
        return failed.reason


def day_request(dbn, **changes):
    fields = {
        "symbol": "AAPL",
        "day": dbn.day,
        "vendor_symbol": "AAPL",
        "dataset": "XNAS.ITCH",
        "schema": "mbp-10",
        "start_ns": dbn.open_ns,
        "end_ns": dbn.open_ns + 3_600 * 10**9,
    }
    return DayRequest(**fields | changes)


@pytest.mark.parametrize("schema", ["mbp-10", "mbp-1"])
def test_the_record_layout_is_the_vendors(dbn, schema):
    vendors = dbn.records([dbn.open_ns], schema=schema).dtype
    ours = record_dtype(schema)
    assert ours.itemsize == vendors.itemsize
    names = [name for name in ours.names if name != "levels"]
    assert [(n, ours.fields[n]) for n in names] == [(n, vendors.fields[n]) for n in vendors.names[: len(names)]]
    level, at = ours["levels"].base, ours.fields["levels"][1]
    flat = [
        (f"{name}_{number:02d}", at + number * level.itemsize + level.fields[name][1], level.fields[name][0])
        for number in range(ours["levels"].shape[0])
        for name in level.names
    ]
    assert flat == [(n, vendors.fields[n][1], vendors.fields[n][0]) for n in vendors.names[len(names) :]]


@pytest.mark.parametrize("compressed", [True, False], ids=["zstd", "plain"])
@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("schema", ["mbp-10", "mbp-1"])
def test_every_version_and_compression_gives_the_records(dbn, tmp_path, version, compressed, schema):
    written = dbn.random_books(dbn.records(dbn.open_ns + np.arange(40), schema=schema), np.random.default_rng(1))
    path = dbn.write(tmp_path / "day.dbn", written, version=version, compressed=compressed, schema=schema)
    facts = DbnFile(path).facts
    assert (facts.dataset, facts.schema, facts.version) == ("XNAS.ITCH", schema, version)
    assert (facts.not_found, facts.limit) == ((), None)
    assert read(path).tobytes() == written.tobytes()


@given(cuts=st.lists(st.integers(0, 2_000), max_size=6))
@settings(max_examples=40, deadline=None)
def test_zstd_frames_may_begin_anywhere_even_inside_the_metadata_or_be_empty(dbn, tmp_path_factory, cuts):
    path = tmp_path_factory.mktemp("frames") / "day.dbn.zst"
    written = dbn.random_books(dbn.records(dbn.open_ns + np.arange(8)), np.random.default_rng(2))
    dbn.write(path, written, cuts=cuts)
    assert read(path).tobytes() == written.tobytes()


def test_a_sample_file_gives_what_the_vendors_library_reads(dbn_sample):
    store = DBNStore.from_file(dbn_sample)
    expected = store.to_ndarray()
    store.reader.close()
    file = DbnFile(dbn_sample)
    assert (file.facts.dataset, file.facts.schema) == (store.dataset, str(store.schema))
    assert file.facts.version == store.metadata.version
    assert read(dbn_sample).tobytes() == expected.tobytes()


def test_a_sample_file_shapes_to_the_rows_of_the_vendors_dataframe(dbn, dbn_sample, vendor_rows):
    file = DbnFile(dbn_sample)
    times = [int(ns) for chunk in file.chunks() for ns in chunk["ts_recv"]]
    window_ns = (min(times), max(times) + 1)
    levels = 10 if file.facts.schema == "mbp-10" else 1
    shaped = dbn.shape(dbn_sample, window_ns, records=len(times), levels=levels)
    assert shaped.rows == vendor_rows(dbn_sample)
    assert times == sorted(times)


def test_a_file_without_records_has_no_chunks(dbn, tmp_path):
    path = dbn.write(tmp_path / "none.dbn.zst", dbn.records([]))
    assert list(DbnFile(path).chunks()) == []


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("chunk_records", [1, 7, RECORDS - 1, RECORDS, RECORDS + 1])
def test_no_record_is_lost_or_doubled_at_the_edge_of_a_chunk(dbn, tmp_path, monkeypatch, records, chunk_records, ahead):
    monkeypatch.setattr(decode, "CHUNK_RECORDS", chunk_records)
    monkeypatch.setattr(decode, "AHEAD_CHUNKS", 1)
    path = dbn.write(tmp_path / "day.dbn.zst", records)
    chunks = [chunk.copy() for chunk in DbnFile(path).chunks(ahead=ahead)]
    assert max(len(chunk) for chunk in chunks) <= chunk_records
    assert np.concatenate(chunks).tobytes() == records.tobytes()


def test_a_reader_that_is_left_alone_ends_its_thread(dbn, tmp_path, monkeypatch, records):
    monkeypatch.setattr(decode, "CHUNK_RECORDS", 8)
    before = threading.active_count()
    chunks = DbnFile(dbn.write(tmp_path / "day.dbn.zst", records)).chunks(ahead=True)
    next(chunks)
    assert threading.active_count() == before + 1
    chunks.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"D",
        b"DBN",
        b"timestamp,price\n2025-09-05,1.0\n",
        b"PAR1" + bytes(40),
        zstandard.compress(b"some text, at length"),
    ],
    ids=["empty", "one byte", "magic only", "text", "parquet", "compressed text"],
)
def test_a_file_that_is_no_dbn_file_is_refused(tmp_path, content):
    path = tmp_path / "day.dbn.zst"
    path.write_bytes(content)
    assert refusal(path) in {"not_dbn", "stream_cut"}


def test_a_missing_file_stays_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        DbnFile(tmp_path / "absent.dbn.zst")


def test_a_cut_anywhere_is_refused_or_seen_in_the_count(dbn, tmp_path, monkeypatch):
    """No prefix of a file passes for the whole one."""
    monkeypatch.setattr(decode, "CHUNK_RECORDS", 2)
    written = dbn.records(dbn.open_ns + np.arange(3))
    raw = dbn.metadata(written) + written.tobytes()
    path = tmp_path / "cut.dbn"
    outcomes = []
    for end in range(len(raw)):
        path.write_bytes(raw[:end])
        outcomes.append(outcome(path))
    assert set(outcomes) == {"stream_cut", 0, 1, 2}
    assert outcomes[len(raw) - written.nbytes :: written.itemsize] == [0, 1, 2]
    assert len([found for found in outcomes if found != "stream_cut"]) == 3


def test_a_cut_of_the_compressed_file_is_refused_or_seen_in_the_count(dbn, tmp_path, records):
    raw = dbn.write(tmp_path / "day.dbn.zst", records).read_bytes()
    path = tmp_path / "cut.dbn.zst"
    for end in range(0, len(raw), 101):
        path.write_bytes(raw[:end])
        with pytest.raises(VerificationFailed) as failed:
            verify(path, day_request(dbn), expected_records=RECORDS)
        assert failed.value.reason in {"not_dbn", "stream_cut", "record_count"}


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_a_damaged_header_is_refused_or_read_but_never_crashes(dbn, tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    written = dbn.records(dbn.open_ns + np.arange(2))
    header = bytearray(dbn.metadata(written))
    for at in rng.integers(0, len(header), 3):
        header[at] = rng.integers(0, 256)
    path = tmp_path_factory.mktemp("damaged") / "day.dbn"
    path.write_bytes(bytes(header) + written.tobytes())
    assert outcome(path) in {2, "not_dbn", "stream_cut", "wrong_schema", "foreign_record", "unmapped_instrument"}


def test_corrupt_compressed_bytes_are_refused(dbn, tmp_path, records):
    path = dbn.write(tmp_path / "day.dbn.zst", records, cuts=[4_000])
    raw = bytearray(path.read_bytes())
    second = raw.rindex(zstandard.FRAME_HEADER)
    raw[second + 4 : second + 12] = b"\xff" * 8
    path.write_bytes(raw)
    assert refusal(path) == "corrupt"


def test_junk_after_the_last_frame_is_refused(dbn, tmp_path, records):
    path = dbn.write(tmp_path / "day.dbn.zst", records)
    path.write_bytes(path.read_bytes() + b"<html>502</html>")
    assert refusal(path) == "corrupt"


@pytest.mark.parametrize("extra", [1, 367])
def test_bytes_after_the_last_whole_record_are_refused(dbn, tmp_path, records, extra):
    path = dbn.write(tmp_path / "day.dbn", records, compressed=False)
    path.write_bytes(path.read_bytes() + bytes(extra))
    assert refusal(path) == "stream_cut"


@pytest.mark.parametrize("schema", ["trades", "mbo", "ohlcv-1s", None])
def test_another_schema_is_refused(dbn, tmp_path, schema):
    path = tmp_path / "day.dbn"
    path.write_bytes(dbn.metadata(schema=schema))
    with pytest.raises(VerificationFailed, match=schema or "mixed") as failed:
        DbnFile(path)
    assert failed.value.reason == "wrong_schema"


@pytest.mark.parametrize("at", [0, RECORDS // 2, RECORDS - 1])
def test_a_record_of_another_type_is_refused(dbn, tmp_path, records, at):
    records["rtype"][at] = 22
    assert refusal(dbn.write(tmp_path / "day.dbn.zst", records)) == "foreign_record"


def test_records_with_send_times_appended_are_refused(dbn, tmp_path, records):
    path = tmp_path / "live.dbn"
    with_times = b"".join(row.tobytes() + bytes(8) for row in records)
    path.write_bytes(dbn.metadata(records, ts_out=True) + with_times)
    assert refusal(path) in {"foreign_record", "stream_cut", "unmapped_instrument"}


def test_an_instrument_id_that_no_mapping_names_is_refused(dbn, tmp_path, records):
    records["instrument_id"][-1] = 99
    path = dbn.write(tmp_path / "day.dbn.zst", records, intervals=[(dbn.day, dbn.day + dt.timedelta(days=1), 4242)])
    assert refusal(path) == "unmapped_instrument"


def test_the_right_instrument_id_on_the_wrong_utc_day_is_refused(dbn, tmp_path, records):
    yesterday = dbn.day - dt.timedelta(days=1)
    path = dbn.write(tmp_path / "day.dbn.zst", records, intervals=[(yesterday, dbn.day, dbn.instrument_id)])
    assert refusal(path) == "unmapped_instrument"


def evening(dbn, ids=(11, 22)):
    """Records around a UTC midnight, each day with its own id."""
    midnight_ns = dbn.open_ns // (86_400 * 10**9) * 86_400 * 10**9 + 86_400 * 10**9
    made = dbn.records(midnight_ns + np.arange(-5, 5))
    made["instrument_id"][:5], made["instrument_id"][5:] = ids
    return made


def test_a_session_over_utc_midnight_has_two_instrument_ids(dbn, tmp_path):
    made = evening(dbn)
    next_day = dbn.day + dt.timedelta(days=1)
    intervals = [(dbn.day, next_day, 11), (next_day, next_day + dt.timedelta(days=1), 22)]
    path = dbn.write(tmp_path / "evening.dbn.zst", made, intervals=intervals)
    assert DbnFile(path).facts.mapped == ((20336, 20337, 11), (20337, 20338, 22))
    assert read(path).tobytes() == made.tobytes()


def test_two_ids_that_change_at_the_wrong_midnight_are_refused(dbn, tmp_path):
    next_day = dbn.day + dt.timedelta(days=1)
    intervals = [(dbn.day, next_day, 22), (next_day, next_day + dt.timedelta(days=1), 11)]
    assert refusal(dbn.write(tmp_path / "evening.dbn.zst", evening(dbn), intervals=intervals)) == "unmapped_instrument"


def test_an_interval_without_an_end_in_sight_holds_on_the_days_of_the_file(dbn, tmp_path, records):
    intervals = [(dt.date(2019, 1, 1), dt.date(9999, 12, 31), dbn.instrument_id)]
    assert len(read(dbn.write(tmp_path / "day.dbn.zst", records, intervals=intervals))) == RECORDS


def test_foreign_content_is_told_from_damage_that_another_download_mends(dbn, tmp_path, records):
    whole = dbn.write(tmp_path / "day.dbn", records, compressed=False)
    foreign = records.copy()
    foreign["instrument_id"] = 99
    errors = {}
    for name, raw in {
        "torn": whole.read_bytes()[:-1],
        "text": b"<html>",
        "foreign": whole.read_bytes()[: -records.nbytes] + foreign.tobytes(),
        "trades": dbn.metadata(schema="trades"),
    }.items():
        path = tmp_path / name
        path.write_bytes(raw)
        with pytest.raises(VerificationFailed, match="AAPL 2025-09-05") as failed:
            verify(path, day_request(dbn), expected_records=RECORDS)
        errors[name] = type(failed.value)
    assert errors == {
        "torn": VerificationFailed,
        "text": VerificationFailed,
        "foreign": WrongContent,
        "trades": WrongContent,
    }


def test_verify_returns_the_facts_of_a_whole_download(dbn, tmp_path, records):
    path = dbn.write(tmp_path / "day.dbn.zst", records)
    facts = verify(path, day_request(dbn), expected_records=RECORDS)
    assert (facts.dataset, facts.schema, facts.version, facts.not_found) == ("XNAS.ITCH", "mbp-10", 3, ())


def test_verify_refuses_a_download_whose_symbol_did_not_resolve(dbn, tmp_path):
    path = dbn.write(tmp_path / "day.dbn.zst", dbn.records([]), not_found=["NOSUCH"])
    with pytest.raises(UnresolvedSymbol, match="NOSUCH"):
        verify(path, day_request(dbn), expected_records=0)


@pytest.mark.parametrize("counted", [0, RECORDS - 1, RECORDS + 1])
def test_verify_refuses_another_number_of_records_than_the_vendor_counts(dbn, tmp_path, records, counted):
    path = dbn.write(tmp_path / "day.dbn.zst", records)
    with pytest.raises(VerificationFailed, match=f"AAPL 2025-09-05.* {counted} records.* {RECORDS}") as failed:
        verify(path, day_request(dbn), expected_records=counted)
    assert failed.value.reason == "record_count"


@pytest.mark.parametrize("asked", [{"dataset": "XNYS.PILLAR"}, {"schema": "mbp-1"}])
def test_verify_refuses_another_dataset_or_schema_than_was_asked_for(dbn, tmp_path, records, asked):
    path = dbn.write(tmp_path / "day.dbn.zst", records)
    with pytest.raises(VerificationFailed) as failed:
        verify(path, day_request(dbn, **asked), expected_records=RECORDS)
    assert failed.value.reason == "wrong_schema"


def test_shaping_refuses_a_kept_file_that_lost_records(dbn, tmp_path, records):
    path = dbn.write(tmp_path / "day.dbn.zst", records[:-1])
    batches = snapshot_batches(
        path,
        schema=SNAPSHOT_SCHEMA,
        window_ns=(dbn.open_ns, dbn.open_ns + 10**10),
        levels=10,
        interval_ms=0,
        records=RECORDS,
        counts=BookCounts(),
    )
    with pytest.raises(VerificationFailed) as failed:
        list(batches)
    assert failed.value.reason == "record_count"


def test_reading_leaves_no_file_open(dbn, tmp_path, records):
    """A half-read file can be removed and its reader forgotten without a warning."""
    path = dbn.write(tmp_path / "day.dbn.zst", records)
    chunks = DbnFile(path).chunks()
    next(chunks)
    chunks.close()
    path.write_bytes(io.BytesIO(b"DBN\x03\xff\xff\xff\xff").getvalue())
    assert refusal(path) == "not_dbn"

"""Vendor files are found again, for the window they cover, and never torn."""

from datetime import UTC, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors.store.errors import InvalidEntry
from connectors.store.raw_cache import (
    RawCache,
    RawEntry,
    RawKey,
    decode_vendor_symbol,
    encode_vendor_symbol,
    fingerprint,
)

S = 10**9
DAY_S = 86_400
START_S = int(datetime(2025, 9, 4, 12, 30, tzinfo=UTC).timestamp())


def key(start_s=START_S, end_s=START_S + 9000, **changes):
    parts = {"dataset": "XNAS.ITCH", "schema": "mbp-10", "symbol": "BRK-B", "vendor_symbol": "BRK.B"}
    return RawKey(**{**parts, "start_ns": round(start_s * S), "end_ns": round(end_s * S), **changes})


def put(cache, wanted, data=b"dbn"):
    temp = cache.new_download_path(wanted)
    with temp.open("xb") as file:
        file.write(data)
    size, digest = fingerprint(temp)
    entry = RawEntry(
        **wanted.model_dump(),
        records=3,
        size_bytes=size,
        sha256=digest,
        vendor_condition="available",
        cost_usd=0.25,
        fetched_at=datetime(2025, 9, 5, tzinfo=UTC),
        client_versions={"databento": "0.87.0"},
    )
    return cache.commit(temp, entry)


@pytest.fixture
def cache(tmp_path):
    return RawCache(tmp_path / "cache")


def test_nothing_is_made_before_the_first_download(cache, tmp_path):
    assert cache.find(key()) is None
    assert cache.sweep() == []
    assert list(tmp_path.iterdir()) == []


def test_a_committed_file_is_found_with_all_that_is_known_about_it(cache, tmp_path):
    stored = put(cache, key())
    assert stored.path.relative_to(tmp_path / "cache").as_posix() == (
        "databento/XNAS.ITCH/mbp-10/BRK-B/2025-09-04_123000Z-150000Z_BRK_2eB.dbn.zst"
    )
    found = cache.find(key())
    assert found == stored
    assert cache.is_intact(found)
    assert found.entry.cost_usd == 0.25
    assert '"schema": "mbp-10"' in (stored.path.parent / f"{stored.path.name}.json").read_text()


def test_the_smallest_window_that_covers_the_asked_one_is_taken(cache):
    put(cache, key(START_S - 3600, START_S + 20_000))
    smaller = put(cache, key(START_S - 60, START_S + 10_000))
    put(cache, key(START_S + 1, START_S + 10_000))
    put(cache, key(START_S, START_S + 8999))
    assert cache.find(key()) == smaller
    exact = put(cache, key())
    assert cache.find(key()) == exact


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "XNYS.PILLAR"},
        {"schema": "mbp-1"},
        {"vendor_symbol": "BRK B"},
        {"vendor_symbol": "brk.b"},
        {"symbol": "BRK-A"},
    ],
)
def test_files_of_something_else_are_not_taken(cache, other):
    put(cache, key(**other))
    assert cache.find(key()) is None


def test_a_window_over_midnight_and_one_of_nanoseconds_are_told_apart(cache):
    whole = put(cache, key(), b"1")
    longer = put(cache, key(START_S, START_S + 9000 + DAY_S), b"22")
    later = put(cache, key(start_ns=START_S * S + 1), b"333")
    assert len({whole.path, longer.path, later.path}) == 3
    assert [cache.find(stored.entry).entry.size_bytes for stored in (whole, longer, later)] == [1, 2, 3]


windows = st.integers(0, 2**62).flatmap(lambda a: st.tuples(st.just(a), st.integers(a + 1, 2**63 - 1)))


@given(one=windows, two=windows, symbols=st.tuples(*[st.text("AB.b_ /!", min_size=1, max_size=4)] * 2))
def test_no_two_windows_or_vendor_symbols_share_a_file(tmp_path_factory, one, two, symbols):
    cache = RawCache(tmp_path_factory.getbasetemp())
    keys = [key(start_ns=w[0], end_ns=w[1], vendor_symbol=v) for w, v in zip((one, two), symbols, strict=True)]
    same = keys[0] == keys[1]
    paths = [str(cache.path_of(k)).casefold() for k in keys]
    assert (paths[0] == paths[1]) == same


@given(window=windows)
def test_what_is_put_is_found(tmp_path_factory, window):
    cache = RawCache(tmp_path_factory.mktemp("cache"))
    wanted = key(start_ns=window[0], end_ns=window[1])
    stored = put(cache, wanted)
    assert cache.find(wanted) == stored


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_vendor_symbols_are_plain_file_names_and_decode_to_themselves(text):
    encoded = encode_vendor_symbol(text)
    assert decode_vendor_symbol(encoded) == text
    assert set(encoded) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_abcdef")


@given(one=st.text("aAbB.-_ /2e", max_size=5), two=st.text("aAbB.-_ /2e", max_size=5))
def test_no_two_spellings_share_a_name_even_where_case_is_ignored(one, two):
    assume(one != two)
    assert encode_vendor_symbol(one).casefold() != encode_vendor_symbol(two).casefold()


@pytest.mark.parametrize("text", ["a", "_2", "_2E", "../x", "A B"])
def test_what_encodes_nothing_does_not_decode(text):
    with pytest.raises(ValueError, match="no encoded"):
        decode_vendor_symbol(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "../x"},
        {"dataset": ""},
        {"schema": "mbp/10"},
        {"symbol": "brk.b"},
        {"symbol": "../x"},
        {"vendor_symbol": ""},
        {"start_ns": -1},
        {"end_ns": START_S * S},
    ],
)
def test_a_key_that_contradicts_itself_or_leads_elsewhere_is_refused(changes):
    with pytest.raises(ValidationError):
        key(**changes)


def test_a_file_without_its_sidecar_or_of_another_size_is_no_entry(cache, caplog):
    stored = put(cache, key(), b"whole")
    stored.path.write_bytes(b"cut")
    assert cache.find(key()) is None
    assert "its sidecar says 5" in caplog.text
    stored.path.unlink()
    assert cache.find(key()) is None
    stored = put(cache, key(), b"whole")
    (stored.path.parent / f"{stored.path.name}.json").unlink()
    assert cache.find(key()) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_a_damaged_sidecar_is_no_entry_and_a_new_download_heals_it(cache, text):
    stored = put(cache, key())
    (stored.path.parent / f"{stored.path.name}.json").write_text(text)
    assert cache.find(key()) is None
    assert cache.find(put(cache, key()).entry) is not None


def test_a_damaged_exact_entry_does_not_hide_a_wider_one(cache):
    wider = put(cache, key(START_S - 1, START_S + 9001))
    put(cache, key()).path.write_bytes(b"")
    assert cache.find(key()) == wider


def test_a_sidecar_copied_to_another_name_is_not_believed(cache):
    stored = put(cache, key())
    other = cache.path_of(key(START_S, START_S + 9001))
    other.write_bytes(b"dbn")
    (other.parent / f"{other.name}.json").write_bytes((stored.path.parent / f"{stored.path.name}.json").read_bytes())
    assert cache.find(key(START_S, START_S + 9001)) is None


def test_a_discarded_entry_is_gone_but_kept_as_bad(cache, caplog):
    stored = put(cache, key(), b"corrupt")
    cache.discard(stored, "frame checksum is wrong")
    assert cache.find(key()) is None
    assert stored.path.with_name(f"{stored.path.name}.bad").read_bytes() == b"corrupt"
    assert "frame checksum is wrong" in caplog.text
    cache.discard(stored, "again")
    again = put(cache, key(), b"good")
    assert cache.find(key()) == again


def test_same_size_but_other_bytes_are_seen_by_the_full_check(cache):
    stored = put(cache, key(), b"abc")
    stored.path.write_bytes(b"abd")
    assert not cache.is_intact(cache.find(key()))


def test_an_entry_must_fit_its_file(cache):
    wanted = key()
    temp = cache.new_download_path(wanted)
    temp.write_bytes(b"four")
    entry = RawEntry(**wanted.model_dump(), records=1, size_bytes=5, sha256="0" * 64, fetched_at=datetime.now(UTC))
    with pytest.raises(InvalidEntry, match="5 bytes"):
        cache.commit(temp, entry)
    temp.unlink()
    with pytest.raises(InvalidEntry, match="download it again"):
        cache.commit(temp, entry)
    assert cache.find(wanted) is None


def test_fetched_at_must_be_aware():
    with pytest.raises(ValidationError, match="timezone"):
        RawEntry(
            **key().model_dump(),
            records=1,
            size_bytes=5,
            sha256="0" * 64,
            fetched_at=datetime(2025, 1, 1),  # noqa: DTZ001 - what is refused
        )

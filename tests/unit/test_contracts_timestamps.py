"""Fixed-width timestamps, both ways."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import InvalidDocument, iso_utc_from_ns, ns_from_iso_utc

YEAR_2200 = 7_258_118_400 * 10**9
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
GOOD = "2025-09-04T13:30:00.100000000+00:00"
MANY = 40_000
"""More rows than one block of the conversion."""

NS_LISTS = st.lists(st.integers(0, YEAR_2200 - 1), max_size=50)


@settings(max_examples=40)
@given(NS_LISTS)
def test_nanoseconds_survive_the_way_to_text_and_back(values):
    ns = np.array(values, np.int64)
    texts = iso_utc_from_ns(ns)
    assert texts.type == pa.string()
    texts.validate(full=True)
    assert ns_from_iso_utc(texts).tolist() == values


@settings(max_examples=40)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_texts_are_those_of_numpy_over_all_of_int64(values):
    ns = np.array(values, np.int64)
    # numpy takes the smallest integer for "not a time".
    ns = ns[ns != np.iinfo(np.int64).min]
    expected = [f"{text}+00:00" for text in np.datetime_as_string(ns.view("M8[ns]"))]
    assert iso_utc_from_ns(ns).to_pylist() == expected


@settings(max_examples=40)
@given(st.lists(st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31)), min_size=1, max_size=20))  # noqa: DTZ001 - naive bounds are what hypothesis takes
def test_whole_microseconds_equal_datetime(moments):
    moments = [moment.replace(tzinfo=UTC) for moment in moments]
    ns = np.array([(moment - EPOCH) // timedelta(microseconds=1) * 1000 for moment in moments], np.int64)
    texts = iso_utc_from_ns(ns).to_pylist()
    assert [datetime.fromisoformat(text) for text in texts] == moments
    assert all(len(text) == 35 for text in texts)


def test_the_example_of_the_contract():
    assert iso_utc_from_ns(np.array([1_756_992_600_100_000_000])).to_pylist() == [GOOD]
    assert ns_from_iso_utc(pa.array([GOOD])).tolist() == [1_756_992_600_100_000_000]


@pytest.mark.parametrize("spread_ns", [10**9 * 7200, 10**18 * 5])
def test_many_rows_in_and_out_of_order_convert_across_blocks(spread_ns):
    ns = np.random.default_rng(0).integers(1_700_000_000 * 10**9, 1_700_000_000 * 10**9 + spread_ns, MANY)
    for values in (ns, np.sort(ns)):
        texts = iso_utc_from_ns(values)
        assert (ns_from_iso_utc(texts) == values).all()
        assert texts[MANY - 1].as_py() == f"{np.datetime64(int(values[-1]), 'ns')}+00:00"


def test_unsigned_nanoseconds_are_taken_and_the_vendors_undefined_is_refused():
    ns = np.array([5, 2**63 - 1], np.uint64)
    assert ns_from_iso_utc(iso_utc_from_ns(ns[:1])).tolist() == [5]
    with pytest.raises(InvalidDocument, match="row 2") as caught:
        iso_utc_from_ns(np.array([1, 2, 2**64 - 1], np.uint64))
    assert caught.value.row == 2


@pytest.mark.parametrize("values", [np.zeros((2, 2), np.int64), np.zeros(2), np.array(["x"])])
def test_other_arrays_are_refused(values):
    with pytest.raises(ValueError, match="one-dimensional integer"):
        iso_utc_from_ns(values)


def test_strided_input_converts_as_its_copy():
    ns = np.arange(20, dtype=np.int64)[::3]
    assert iso_utc_from_ns(ns).equals(iso_utc_from_ns(ns.copy()))


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, YEAR_2200 - 1), min_size=1, max_size=30),
    st.integers(0, 30),
    st.integers(0, 30),
    st.sampled_from([pa.string(), pa.large_string()]),
)
def test_slices_and_chunks_of_either_string_type_read_the_same(values, start, length, string_type):
    texts = iso_utc_from_ns(np.array(values, np.int64)).cast(string_type)
    part = texts.slice(min(start, len(values)), length)
    expected = values[start : start + length]
    assert ns_from_iso_utc(part).tolist() == expected
    chunked = pa.chunked_array([texts.slice(0, 0), part, texts.slice(0, 1)], type=string_type)
    assert ns_from_iso_utc(chunked).tolist() == [*expected, values[0]]


def test_no_rows_are_no_rows():
    assert ns_from_iso_utc(pa.array([], pa.string())).tolist() == []
    assert ns_from_iso_utc(pa.chunked_array([], pa.string())).tolist() == []
    assert len(iso_utc_from_ns(np.array([], np.int64))) == 0


@pytest.mark.parametrize(
    "bad",
    [
        "2025-13-04T13:30:00.100000000+00:00",
        "2025-00-04T13:30:00.100000000+00:00",
        "2025-02-30T13:30:00.100000000+00:00",
        "2025-02-29T13:30:00.100000000+00:00",
        "2025-09-00T13:30:00.100000000+00:00",
        "2025-09-04T24:00:00.000000000+00:00",
        "2025-09-04T13:60:00.100000000+00:00",
        "2025-09-04T13:30:60.100000000+00:00",
        "1677-09-04T13:30:00.100000000+00:00",
        "2262-09-04T13:30:00.100000000+00:00",
        "0000-09-04T13:30:00.100000000+00:00",
        "2025-09-04 13:30:00.100000000+00:00",
        "2025-09-04T13:30:00.100000000-00:00",
        "2025-09-04T13:30:00.100000000+01:00",
        "2025-09-04T13:30:00,100000000+00:00",
        "2025-09-04T13:30:00.10000000a+00:00",
        "2025-09-04T13:30:00.1+00:00",
        "2025-09-04T13:30:00.100000000Z",
        "2025-09-04T13:30:00+00:00",
        "2025-09-04T13:30:00.100000000+00:0é",
        "",
        " " * 35,
    ],
)
@pytest.mark.parametrize("before", [0, MANY])
def test_a_bad_text_is_refused_and_its_row_named(bad, before):
    texts = pa.chunked_array([iso_utc_from_ns(np.arange(before)), pa.array([GOOD, bad, GOOD])])
    with pytest.raises(InvalidDocument) as caught:
        ns_from_iso_utc(texts)
    assert caught.value.row == before + 1


def test_a_leap_day_is_read():
    assert ns_from_iso_utc(pa.array(["2024-02-29T00:00:00.000000000+00:00"])).tolist() == [1_709_164_800 * 10**9]


def test_a_null_is_refused_and_its_row_named():
    with pytest.raises(InvalidDocument, match="null") as caught:
        ns_from_iso_utc(pa.array([GOOD, GOOD, None]).slice(1))
    assert caught.value.row == 1


def test_another_column_type_is_refused():
    with pytest.raises(InvalidDocument, match="int64"):
        ns_from_iso_utc(pa.array([1]))

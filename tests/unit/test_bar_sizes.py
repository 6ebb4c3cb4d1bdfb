"""Bar sizes are understood as people write them."""

import pytest

from flows.bar_sizes import BAR_SIZES, bar_size_of, bar_sizes_of
from flows.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        *((size, size) for size in BAR_SIZES),
        ("1 HOUR", "1 hour"),
        ("1 hours", "1 hour"),
        ("1min", "1 min"),
        ("1 Mins", "1 min"),
        (" 1  minute ", "1 min"),
        ("1 secs", "1 sec"),
        ("1seconds", "1 sec"),
    ],
)
def test_a_spelling_means_one_size(text, meant):
    assert bar_size_of(text) == meant


@pytest.mark.parametrize(
    "text", ["", "min", "5 mins", "11 min", "1 week", "1 m", "1M", "1 min 1 sec", "1 \u017fec", "\u0661 min"]
)
def test_anything_else_is_an_error_that_says_what_there_is(text):
    with pytest.raises(ConfigurationError, match=r"there is no bar size .*; there are 1 hour, 1 min, 1 sec"):
        bar_size_of(text)


def test_each_size_comes_once_and_in_one_order():
    assert bar_sizes_of(["1 secs", "1hour", "1 sec"]) == ("1 hour", "1 sec")
    assert bar_sizes_of(None) == BAR_SIZES
    with pytest.raises(ConfigurationError, match="empty"):
        bar_sizes_of([])

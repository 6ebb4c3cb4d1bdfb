"""Bar sizes as people write them, for every command and flow that takes some."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, get_args

from contracts.layout import BarSize
from flows.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

BAR_SIZES: Final[tuple[BarSize, ...]] = get_args(BarSize)

_UNITS: Final[dict[str, BarSize]] = {
    "hour": "1 hour",
    "min": "1 min",
    "minute": "1 min",
    "sec": "1 sec",
    "second": "1 sec",
}
# The broker's own spelling is `1 secs`.
_SPELLING: Final = re.compile(rf"\s*1\s*({'|'.join(_UNITS)})s?\s*", re.IGNORECASE | re.ASCII)


def bar_size_of(text: str) -> BarSize:
    """The bar size that a text means: `1 min`, `1min`, `1 Mins`, `1 minute` are one.

    Raises:
        ConfigurationError: it means none.
    """
    match = _SPELLING.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"there is no bar size {text!r}; there are {', '.join(BAR_SIZES)}")
    return _UNITS[match[1].lower()]


def bar_sizes_of(texts: Sequence[str] | None) -> tuple[BarSize, ...]:
    """The bar sizes that texts mean, each once, from the longest to the shortest; all for None.

    Raises:
        ConfigurationError: one means none, or the list is empty.
    """
    if texts is None:
        return BAR_SIZES
    if not texts:
        raise ConfigurationError(
            f"the list of bar sizes is empty: name some of {', '.join(BAR_SIZES)}, or leave it out"
        )
    wanted = {bar_size_of(text) for text in texts}
    return tuple(size for size in BAR_SIZES if size in wanted)

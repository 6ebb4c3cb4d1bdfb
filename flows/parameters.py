"""Types of flow parameters as forms and APIs see them: a deployment's JSON schema refuses what no run could use.

The schemas are stricter than the flows, which also take other spellings from Python and from the command line, and
which say better what is wrong. No Prefect here.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Final

from pydantic import Field

from connectors.ibkr.bar_requests import WHAT_TO_SHOW
from contracts.symbols import SPELLING_PATTERN
from flows.bar_sizes import BAR_SIZES

DAY_PATTERN: Final = r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"
WINDOW_PATTERN: Final = r"^([01]?[0-9]|2[0-3]):[0-5][0-9]-([01]?[0-9]|2[0-3]):[0-5][0-9]$"
EXCHANGE_PATTERN: Final = r"^\s*[A-Za-z][A-Za-z0-9.]{0,15}\s*$"


def _shown(**schema: Any) -> Any:
    """A field about which only the schema says more."""
    return Field(json_schema_extra=schema)


Day = Annotated[dt.date, _shown(pattern=DAY_PATTERN)]
"""A day; the pattern is there because the API does not check the format `date`."""

Symbols = Annotated[list[Annotated[str, _shown(pattern=SPELLING_PATTERN)]], _shown(minItems=1)]
"""Symbols in any spelling."""

BarSizes = Annotated[list[Annotated[str, _shown(enum=list(BAR_SIZES))]], _shown(minItems=1, uniqueItems=True)]
"""Bar sizes; a form shows those that there are."""

WhatToShow = Annotated[str, _shown(enum=list(WHAT_TO_SHOW))]
"""A kind of bars."""

WindowText = Annotated[str, _shown(pattern=WINDOW_PATTERN)]
"""A part of a day in New York."""

Exchange = Annotated[str, _shown(pattern=EXCHANGE_PATTERN)]
"""SMART, or one exchange."""

"""One line of the bars ledger, read strictly: whether it counts, for which ET day, and its text in the coverage file.

This is the meaning of the ledger. `ledger_template` reads many lines of one shape at once and must agree with it line
by line; which of several files of a day is the best is in `rules`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from contracts._json import NotJson, loads
from contracts.errors import InvalidDocument, InvalidSymbol, UnknownSchemaVersion
from contracts.symbols import canonical_symbol
from contracts.v1.bars import BarsManifestLine, with_new_forms

if TYPE_CHECKING:
    from contracts.layout import BarSize

LONGEST_LINE: Final = 1 << 20
"""Bytes; a longer line is skipped, so that memory stays bounded whatever was appended."""

DAY_SEPARATOR: Final = b",\n"
"""What stands between two days of the coverage file."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY: Final = _EPOCH.date()
_MICROSECOND: Final = timedelta(microseconds=1)
_DAY_IN_NAME: Final = re.compile(r"(?<![0-9])[0-9]{4}-[0-9]{2}-[0-9]{2}(?![0-9])")


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """A line that counts.

    Attributes:
        symbol: Canonical symbol.
        bar_size: Bar size.
        day: Days from 1970-01-01 to the ET day that the line counts for.
        path: The path as text.
        rows: Bars in the file.
        start_us: Microseconds from 1970-01-01 UTC to the first bar, or None.
        end_us: The same for the last bar.
        written_us: The same for `written_at`.
        text: The line as a day of the coverage file: ASCII JSON and `DAY_SEPARATOR`.
    """

    symbol: str
    bar_size: BarSize
    day: int
    path: str
    rows: int
    start_us: int | None
    end_us: int | None
    written_us: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a line does not count.

    Attributes:
        reason: A stable word, see `CoverageReport.skipped`.
        detail: What is wrong, for people.
    """

    reason: str
    detail: str


def read_line(line: bytes) -> LedgerLine | Refusal:
    """Read one line, with or without its line end."""
    if len(line) > LONGEST_LINE or not line.strip():
        too_long = len(line) > LONGEST_LINE
        return Refusal("too-long", "longer than 1 MiB") if too_long else Refusal("blank", "nothing on the line")
    document: Any = None
    try:
        document = loads(line)
        if not isinstance(document, dict):
            return Refusal("not-an-object", "the line is JSON but not an object")
        return of_model(BarsManifestLine.from_document(with_new_forms(document)))
    except NotJson as error:
        return Refusal("not-json" if error.rule == "json" else f"not-json/{error.rule}", str(error))
    except UnknownSchemaVersion as error:
        return Refusal("version", str(error))
    except InvalidDocument as error:
        reason = "symbol" if error.field == "symbol" and _has_no_canonical_form(document.get("symbol")) else "model"
        return Refusal(reason, str(error))


def of_model(line: BarsManifestLine) -> LedgerLine | Refusal:
    """Find the day of a parsed line and write its text."""
    day = _day(line)
    if day is None:
        return Refusal("no-day", "there are no times, and no day in the file name")
    return LedgerLine(
        symbol=line.symbol,
        bar_size=line.bar_size,
        day=day_number(day),
        path=line.path,
        rows=line.rows,
        start_us=None if line.time_start is None else microseconds(line.time_start),
        end_us=None if line.time_end is None else microseconds(line.time_end),
        written_us=microseconds(line.written_at),
        text=_text(line, day),
    )


def microseconds(moment: datetime) -> int:
    """Return microseconds since 1970-01-01 UTC of an aware moment."""
    return (moment - _EPOCH) // _MICROSECOND


def day_number(day: date) -> int:
    """Return days since 1970-01-01."""
    return (day - _EPOCH_DAY).days


def _day(line: BarsManifestLine) -> date | None:
    """Return the ET day a line counts for.

    The day of `time_start`. Of a line that spans several days the day in the file name if it lies in the span. Of one
    without times the day in the file name. A single time stands for both.
    """
    first, last = line.time_start or line.time_end, line.time_end or line.time_start
    named = _day_in(line.filename)
    if first is None or last is None:
        return named
    if named is not None and first.date() <= named <= last.date():
        return named
    return first.date()


def _day_in(filename: str) -> date | None:
    """Return the first `YYYY-MM-DD` in a file name that is a date."""
    for match in _DAY_IN_NAME.finditer(filename):
        try:
            return date.fromisoformat(match[0])
        except ValueError:
            continue
    return None


def _text(line: BarsManifestLine, day: date) -> bytes:
    document: dict[str, Any] = {"date": day.isoformat()}
    for key, moment in (("time_start", line.time_start), ("time_end", line.time_end)):
        if moment is not None:
            document[key] = moment.isoformat()
    document |= {"path": line.path, "filename": line.filename, "rows": line.rows}
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.encode() + DAY_SEPARATOR


def _has_no_canonical_form(symbol: object) -> bool:
    if not isinstance(symbol, str):
        return False
    try:
        canonical_symbol(symbol)
    except InvalidSymbol:
        return True
    return False

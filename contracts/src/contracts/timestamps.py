"""Fixed-width ISO 8601 UTC texts from and to nanoseconds since 1970, vectorised.

The contract's `timestamp` columns are texts of 35 characters (`2025-09-04T13:30:00.100000000+00:00`). Both ways work on
the raw characters in blocks that stay in the processor's cache; no Python object is made per row.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from contracts.errors import InvalidDocument, shown

WIDTH: Final = 35
"""Characters of every timestamp."""

_NS: Final = 1_000_000_000
_BLOCK: Final = 16_384
_MOST_ROWS: Final = (2**31 - 1) // WIDTH
_TEMPLATE: Final = np.frombuffer(b"0000-00-00T00:00:00.000000000+00:00", np.uint8)
_PUNCTUATION: Final = np.flatnonzero((ord("0") != _TEMPLATE) | (np.arange(WIDTH) > 29))  # noqa: PLR2004 - the offset
_DIGITS: Final = np.setdiff1d(np.arange(WIDTH), _PUNCTUATION)
_TWO: Final = np.frombuffer(b"".join(b"%02d" % n for n in range(100)), np.uint8).reshape(100, 2)
_TWO_PACKED: Final = _TWO.copy().view(np.uint16).ravel()
_FOUR_PACKED: Final = np.frombuffer(b"".join(b"%04d" % n for n in range(10_000)), np.uint32)
_WHOLE: Final = np.dtype(f"V{WIDTH}")
# Several digits are stored with one write; each is taken from a table of packed characters.
_ROW: Final = np.dtype(
    {
        "names": ["second", "high", "middle", "last"],
        "formats": [np.uint16, np.uint32, np.uint32, np.uint8],
        "offsets": [17, 20, 24, 28],
        "itemsize": WIDTH,
    }
)
_WHAT: Final = "timestamp"
_ISO_UTC: Final = re.compile(
    r"(?P<seconds>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.(?P<fraction>[0-9]{1,9}))?(?:Z|\+00:00)"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)

_UInt8 = npt.NDArray[np.uint8]
_Int64 = npt.NDArray[np.int64]


def iso_utc_from_ns(ns: npt.NDArray[np.int64] | npt.NDArray[np.uint64]) -> pa.StringArray:
    """Write nanoseconds as fixed-width ISO 8601 UTC texts.

    Args:
        ns: Shape (rows,), nanoseconds since 1970-01-01 UTC, at most 61 million rows at once.

    Returns:
        `rows` texts such as `2025-09-04T13:30:00.100000000+00:00`, none null.

    Raises:
        InvalidDocument: A value is above 2**63 - 1, as a vendor's "undefined" is; names the row.
        ValueError: Not a one-dimensional integer array, or too many rows for one Arrow array.
    """
    if ns.ndim != 1 or ns.dtype.kind not in "iu":
        raise ValueError(f"expected a one-dimensional integer array, got {ns.dtype} with shape {ns.shape}")
    rows = len(ns)
    if rows > _MOST_ROWS:
        raise ValueError(f"{rows} rows do not fit into one Arrow string array, convert {_MOST_ROWS} at a time")
    if ns.dtype == np.uint64 and rows and int(ns.max()) >= 2**63:
        raise InvalidDocument(_WHAT, "the value is beyond the year 2262", row=int(np.argmax(ns >= 2**63)))
    text = np.empty(rows, _ROW)
    for at in range(0, rows, _BLOCK):
        _write_block(ns[at : at + _BLOCK].astype(np.int64, copy=False), text[at : at + _BLOCK])
    offsets = np.arange(0, (rows + 1) * WIDTH, WIDTH, dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(text.view(np.uint8)))


def ns_from_iso_utc(texts: pa.Array | pa.ChunkedArray) -> _Int64:
    """Read fixed-width ISO 8601 UTC texts as nanoseconds.

    Args:
        texts: `string` or `large_string`, whole, sliced or chunked.

    Returns:
        Shape (rows,), nanoseconds since 1970-01-01 UTC.

    Raises:
        InvalidDocument: A row is null, is not of the fixed layout, or names a date or time that does not exist or does
            not fit into 64 bits (before 1678 or after 2261); names the first such row.
    """
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    ns = np.empty(len(texts), np.int64)
    row = 0
    for chunk in chunks:
        characters = _characters(chunk, row)
        for at in range(0, len(chunk), _BLOCK):
            block = characters[at : at + _BLOCK]
            _read_block(block, ns[row + at : row + at + len(block)], row + at)
        row += len(chunk)
    return ns


def ns_from_text(text: str) -> int:
    """Read one ISO 8601 UTC text with up to nine digits of a second, ending in `+00:00` or `Z`, as nanoseconds.

    Exact, no float in between; any year that Python's calendar has.

    Raises:
        InvalidDocument: It is not of that layout, or names a date or time that does not exist.
    """
    match = _ISO_UTC.fullmatch(text)
    if match is None:
        raise InvalidDocument(_WHAT, f"{shown(text)} is not ISO 8601 in UTC such as 2025-09-04T13:30:00+00:00")
    try:
        moment = datetime.fromisoformat(match["seconds"]).replace(tzinfo=UTC)
    except ValueError as error:
        raise InvalidDocument(_WHAT, f"{shown(text)} names no date or time ({error})") from None
    return int((moment - _EPOCH) // _SECOND) * _NS + int((match["fraction"] or "").ljust(9, "0"))


def _write_block(ns: _Int64, rows: npt.NDArray[np.void]) -> None:
    seconds = ns // _NS
    fraction = (ns - seconds * _NS).astype(np.uint32)
    minutes = seconds // 60
    starts, lengths = _runs(minutes)
    rows.view(_WHOLE)[:] = np.repeat(_minute_rows(minutes[starts]), lengths)
    rows["second"] = _TWO_PACKED[seconds - minutes * 60]
    high = fraction // 100_000
    rest = fraction - high * 100_000
    middle = rest // 10
    rows["high"] = _FOUR_PACKED[high]
    rows["middle"] = _FOUR_PACKED[middle]
    rows["last"] = rest - middle * 10 + ord("0")


def _runs(values: _Int64) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return starts and lengths of runs of equal values; sorted times have few minutes in a block."""
    starts = np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1))
    return starts, np.diff(starts, append=len(values))


def _minute_rows(minutes: _Int64) -> npt.NDArray[np.void]:
    """Return whole texts, one per minute, with seconds and fraction still zero."""
    days = minutes // 1440
    of_day = minutes - days * 1440
    year, month, day = _civil_from_days(days)
    text = np.empty((len(minutes), WIDTH), np.uint8)
    text[:] = _TEMPLATE
    text[:, 0:2] = _TWO[year // 100]
    text[:, 2:4] = _TWO[year % 100]
    text[:, 5:7] = _TWO[month]
    text[:, 8:10] = _TWO[day]
    text[:, 11:13] = _TWO[of_day // 60]
    text[:, 14:16] = _TWO[of_day % 60]
    return text.view(_WHOLE).ravel()


def _civil_from_days(days: _Int64) -> tuple[_Int64, _Int64, _Int64]:
    months = days.astype("datetime64[D]").astype("datetime64[M]")
    month_index = months.astype(np.int64)
    day = days - months.astype("datetime64[D]").astype(np.int64) + 1
    return month_index // 12 + 1970, month_index % 12 + 1, day


def _characters(chunk: pa.Array, row: int) -> _UInt8:
    """Return shape (rows, 35), a view of the chunk's characters; refuse nulls and other widths."""
    if pa.types.is_large_string(chunk.type):
        offset_type: type[np.int32 | np.int64] = np.int64
    elif pa.types.is_string(chunk.type):
        offset_type = np.int32
    else:
        raise InvalidDocument(_WHAT, f"the column is {chunk.type}, not string")
    rows = len(chunk)
    if rows == 0:
        return np.empty((0, WIDTH), np.uint8)
    if chunk.null_count:
        is_null = np.frombuffer(chunk.is_null().cast(pa.uint8()).buffers()[1], np.uint8, rows)
        raise InvalidDocument(_WHAT, "the value is null", row=row + int(np.argmax(is_null)))
    _, offset_buffer, data = chunk.buffers()
    offsets = np.frombuffer(offset_buffer, offset_type)[chunk.offset : chunk.offset + rows + 1]
    wrong = np.diff(offsets) != WIDTH
    if wrong.any():
        at = int(np.argmax(wrong))
        raise _bad_text(chunk[at].as_py(), row + at, f"not {WIDTH} characters long")
    return np.frombuffer(data, np.uint8, rows * WIDTH, int(offsets[0])).reshape(rows, WIDTH)


def _read_block(text: _UInt8, ns: _Int64, row: int) -> None:
    columns = np.ascontiguousarray(text.T)
    digits = columns[_DIGITS] - np.uint8(ord("0"))
    if (columns[_PUNCTUATION] != _TEMPLATE[_PUNCTUATION, None]).any() or (digits > 9).any():  # noqa: PLR2004 - a digit
        wrong = (columns[_PUNCTUATION] != _TEMPLATE[_PUNCTUATION, None]).any(axis=0) | (digits > 9).any(axis=0)  # noqa: PLR2004 - a digit
        at = int(np.argmax(wrong))
        raise _bad_text(text[at].tobytes().decode(errors="replace"), row + at, "not of the fixed layout")
    # Rows are cheap to compare and dates dear to compute: only where one of YYYYMMDDHHMM changes.
    changed = (digits[:12, 1:] != digits[:12, :-1]).any(axis=0)
    starts = np.concatenate(([0], np.flatnonzero(changed) + 1))
    minutes, possible = _minutes(digits[:12, starts].astype(np.int64))
    second = digits[12] * np.uint8(10) + digits[13]
    lengths = np.diff(starts, append=len(text))
    if not possible.all() or (second > 59).any():  # noqa: PLR2004 - seconds of a minute
        at = int(np.argmax(~np.repeat(possible, lengths) | (second > 59)))  # noqa: PLR2004 - seconds of a minute
        raise _bad_text(text[at].tobytes().decode(), row + at, "no such date or time")
    fraction = digits[14].astype(np.uint32)
    for digit in digits[15:]:
        fraction *= np.uint32(10)
        fraction += digit
    ns[:] = np.repeat(minutes * (60 * _NS), lengths)
    ns += second.astype(np.int64) * _NS
    ns += fraction


def _minutes(digits: _Int64) -> tuple[_Int64, npt.NDArray[np.bool_]]:
    """Return minutes since 1970 from shape (12, n) digits of YYYYMMDDHHMM, and which of them exist."""
    year = digits[0] * 1000 + digits[1] * 100 + digits[2] * 10 + digits[3]
    month, day, hour, minute = (digits[i] * 10 + digits[i + 1] for i in (4, 6, 8, 10))
    # Whole years only: 64 bits of nanoseconds end within 1677 and 2262.
    possible = (year >= 1678) & (year <= 2261) & (month >= 1) & (month <= 12) & (hour <= 23) & (minute <= 59)  # noqa: PLR2004 - the calendar
    months = (year - 1970) * 12 + month - 1
    first = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    following = (months + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    possible &= (day >= 1) & (first + day <= following)
    return ((first + day - 1) * 24 + hour) * 60 + minute, possible


def _bad_text(text: str | None, row: int, reason: str) -> InvalidDocument:
    return InvalidDocument(
        _WHAT, f"{(text or '')[:60]!a} is {reason}, expected 2025-09-04T13:30:00.100000000+00:00", row=row
    )

"""Looking days up in a coverage file without building a model of each of its days."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from contracts._coverage.file import ENTRY_END, ENTRY_SEPARATOR, FILE_END, HEAD, entry_head
from contracts._coverage.ledger_line import DAY_SEPARATOR
from contracts._coverage.table import CoverageTable, table_of
from contracts.errors import ContractError, InvalidDocument, NotAvailable
from contracts.layout import BAR_FOLDERS
from contracts.symbols import canonical_symbol
from contracts.v1._model import parse_json
from contracts.v1.bars import COVERAGE_VERSION, parse_bars_coverage

if TYPE_CHECKING:
    from datetime import date, datetime
    from pathlib import Path

    from contracts.layout import BarSize
    from contracts.v1.bars import CoverageDay, CoverageEntry

Days = npt.NDArray[np.datetime64]
_Entries = dict[tuple[str, str], memoryview]

_ENTRY_START: Final = b'\n{"symbol":"'
_DAYS_START: Final = b'"days":[\n'
_DAY_START: Final = b'{"date":"'
_LONGEST_HEAD: Final = 512
# Every line goes on for more than whole words of this.
_BEGIN: Final = np.frombuffer(_DAY_START + b'0000-00-00"....', np.uint8)
_DIGITS: Final = np.flatnonzero(ord("0") == _BEGIN)
_IS_CONSTANT: Final = np.where((ord("0") == _BEGIN) | (ord(".") == _BEGIN), 0, 255).astype(np.uint8).view(np.uint64)
_NO_DAYS: Final = np.empty(0, "datetime64[D]")


class CoverageIndex:
    """An opened coverage file; made by `load_coverage`.

    What is asked for is checked against the model when it is asked for, the frame of the file at once.

    Attributes:
        generated_at: When the coverage was derived, UTC.
    """

    def __init__(self, generated_at: datetime, entries: _Entries) -> None:
        self.generated_at = generated_at
        self._entries = entries
        self._days: dict[tuple[str, str], Days] = {}
        self._last: tuple[bytes, Days] = b"", _NO_DAYS

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Symbol and bar size of every entry, sorted."""
        return sorted(self._entries)

    def days(self, symbol: str, bar_size: BarSize) -> Days:
        """Return the ET days there are bars for, sorted, `datetime64[D]`; empty without an entry.

        Raises:
            InvalidSymbol: The symbol has no canonical form.
            InvalidDocument: The entry is damaged.
        """
        key = canonical_symbol(symbol), bar_size
        if key not in self._days:
            lines = _halves(self._entries[key])[1] if key in self._entries else b""
            self._days[key] = self._days_of(lines)[0]
        return self._days[key]

    def table(self, symbol: str, bar_size: BarSize) -> CoverageTable:
        """Return what is known of all days as columns; of length 0 without an entry.

        The same as `files` tells day by day, in a small part of its time.

        Raises:
            InvalidSymbol: The symbol has no canonical form.
            InvalidDocument: The entry is damaged.
        """
        key = canonical_symbol(symbol), bar_size
        head, lines = _halves(self._entries[key]) if key in self._entries else (b"", b"")
        days, starts = self._days_of(lines)
        self._days[key] = days
        return table_of(lines, days, starts, *key, lambda some: _parsed(head + some + ENTRY_END).days)

    def entry(self, symbol: str, bar_size: BarSize) -> CoverageEntry:
        """Return a whole entry.

        Raises:
            NotAvailable: There is none.
            InvalidSymbol: The symbol has no canonical form.
            InvalidDocument: The entry is damaged.
        """
        key = canonical_symbol(symbol), bar_size
        if key not in self._entries:
            sizes = [size for name, size in self.keys if name == key[0]]
            there = f"of {key[0]} there are {', '.join(sizes)}" if sizes else f"there is nothing of {key[0]}"
            raise NotAvailable(f"coverage of {key[0]} {bar_size}", there)
        return _parsed(self._entries[key])

    def files(
        self, symbol: str, bar_size: BarSize, start: date | None = None, end: date | None = None
    ) -> list[CoverageDay]:
        """Return the best file of each ET day.

        Args:
            symbol: Any spelling.
            bar_size: `1 hour`, `1 min` or `1 sec`.
            start: First day, or None for the first there is.
            end: Last day, inclusive, or None for the last there is.

        Raises:
            InvalidSymbol: The symbol has no canonical form.
            InvalidDocument: The entry is damaged.
        """
        days = self.days(symbol, bar_size)
        first = 0 if start is None else int(np.searchsorted(days, np.datetime64(start, "D")))
        last = len(days) if end is None else int(np.searchsorted(days, np.datetime64(end, "D"), side="right"))
        if first >= last:
            return []
        head, lines = _split(self._entries[canonical_symbol(symbol), bar_size])
        wanted = b"\n".join(lines[first:last]).removesuffix(DAY_SEPARATOR.strip())
        return list(_parsed(head + wanted + ENTRY_END).days)

    def _days_of(self, lines: bytes) -> tuple[Days, npt.NDArray[np.intp]]:
        """Return the day of each line of an entry, and where the line begins."""
        if not lines:
            return _NO_DAYS, np.empty(0, np.intp)
        characters = np.frombuffer(lines, np.uint8)
        places = np.concatenate(([0], np.flatnonzero(characters == ord("\n")) + 1))
        try:
            # A line that is shorter than its begin reaches beyond the last one.
            windows = np.ndarray((len(characters) - len(_BEGIN) + 1,), f"V{len(_BEGIN)}", characters, strides=(1,))
            begins = windows[places].tobytes()
            if begins != self._last[0]:
                # Most entries have the days of the entry before.
                self._last = begins, _days_at(begins)
        except (ValueError, IndexError):
            raise InvalidDocument(COVERAGE_VERSION, "a day does not begin with its date", field="days") from None
        return self._last[1], places


def load_coverage(path: Path) -> CoverageIndex:
    """Open a coverage file.

    Files that this package wrote are opened in the time of reading their bytes, others are parsed as a whole.

    Args:
        path: `bars_coverage_manifest.json`.

    Raises:
        NotAvailable: There is no such file.
        UnknownSchemaVersion: It is of another version, or names none.
        InvalidDocument: It is damaged.
        OSError: It cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotAvailable(str(path), "derive it from the ledger with `trading-data coverage build`") from None
    head = HEAD.match(data)
    entries = None if head is None else _own_entries(data, head.end())
    if head is None or entries is None:
        return _open_foreign(data)
    return CoverageIndex(parse_bars_coverage(head[0] + FILE_END).generated_at, entries)


def _own_entries(data: bytes, start: int) -> _Entries | None:
    """Return the bytes of each entry of a file of our layout; None when it is not quite that."""
    entries: _Entries = {}
    if not data.endswith(FILE_END):
        return None
    view = memoryview(data)
    end_of_all = len(data) - len(FILE_END)
    while start < end_of_all:
        found = data.find(_ENTRY_START, start)
        end = end_of_all if found < 0 else found + 1 - len(ENTRY_SEPARATOR)
        head_end = data.find(_DAYS_START, start, start + _LONGEST_HEAD)
        ends_well = data.startswith(ENTRY_END, end - len(ENTRY_END)) and (
            found < 0 or data.startswith(ENTRY_SEPARATOR, end)
        )
        if head_end < 0 or not ends_well:
            return None
        try:
            frame = parse_json(data[start:head_end] + b'"days":[]}', COVERAGE_VERSION)
            key = canonical_symbol(frame["symbol"]), frame["bar_size"]
            is_plain = key[0] == frame["symbol"] and key[1] in BAR_FOLDERS and key not in entries
        except (ContractError, KeyError, TypeError):
            is_plain = False
        if not is_plain:
            return None
        entries[key] = view[start:end]
        start = end + len(ENTRY_SEPARATOR)
    return entries


def _open_foreign(data: bytes) -> CoverageIndex:
    """Parse a file of any layout and bring its entries into ours."""
    document = parse_json(data, COVERAGE_VERSION)
    listed = document.get("entries") if isinstance(document, dict) else None
    if isinstance(listed, list):
        # Without its days a frame is small; they are checked when they are asked for.
        frames = [{**entry, "days": []} if isinstance(entry, dict) else entry for entry in listed]
        document = {**document, "entries": frames}
    coverage = parse_bars_coverage(json.dumps(document))
    entries: _Entries = {}
    for entry, raw in zip(coverage.entries, listed or (), strict=True):
        key = entry.symbol, entry.bar_size
        if key in entries:
            raise InvalidDocument(COVERAGE_VERSION, f"{key[0]} {key[1]} comes twice", field="entries")
        head = entry_head(key, str(entry.total.date_start), str(entry.total.date_end))
        days = DAY_SEPARATOR.join(json.dumps(day, separators=(",", ":")).encode() for day in _sorted_days(raw))
        entries[key] = memoryview(head + days + ENTRY_END)
    return CoverageIndex(coverage.generated_at, entries)


def _sorted_days(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the days of a parsed entry by date, the date first in each."""
    days = entry.get("days")
    if not isinstance(days, list) or not all(
        isinstance(day, dict) and isinstance(day.get("date"), str) for day in days
    ):
        raise InvalidDocument(COVERAGE_VERSION, "it is no list of days with a date each", field="entries.days")
    return sorted(({"date": day["date"], **day} for day in days), key=lambda day: day["date"])


def _parsed(entry: bytes | memoryview) -> CoverageEntry:
    head = b'{"schema_version":"%b","generated_at":"2025-01-01T00:00:00+00:00","entries":[' % COVERAGE_VERSION.encode()
    return parse_bars_coverage(b"".join((head, entry, b"]}"))).entries[0]


def _split(entry: bytes | memoryview) -> tuple[bytes, list[bytes]]:
    """Return the head of an entry and the lines of its days."""
    head, days = _halves(entry)
    return head, days.split(b"\n") if days else []


def _halves(entry: bytes | memoryview) -> tuple[bytes, bytes]:
    """Return the head of an entry and its days."""
    start = bytes(entry[:_LONGEST_HEAD]).index(_DAYS_START) + len(_DAYS_START)
    return bytes(entry[:start]), bytes(entry[start : -len(ENTRY_END)])


def _days_at(begins: bytes) -> Days:
    """Return the days of lines, given how each begins.

    Raises:
        ValueError: One does not begin with its date.
        InvalidDocument: They are not sorted.
    """
    words = np.frombuffer(begins, np.uint64).reshape(-1, len(_IS_CONSTANT))
    digits = words.view(np.uint8)[:, _DIGITS] - np.uint8(ord("0"))
    if ((words ^ _BEGIN.view(np.uint64)) & _IS_CONSTANT).any() or (digits > 9).any():  # noqa: PLR2004 - a digit
        raise ValueError("a day does not begin with its date")
    days = _dates(digits.T.astype(np.int64))
    if (days[1:] <= days[:-1]).any():
        raise InvalidDocument(COVERAGE_VERSION, "the days are not sorted, or one comes twice", field="days")
    return days


def _dates(digits: npt.NDArray[np.int64]) -> Days:
    """Return the dates of shape (8, days), digits of YYYYMMDD.

    Raises:
        ValueError: A date does not exist. numpy's own reading of bytes can crash then.
    """
    month, day = digits[4] * 10 + digits[5], digits[6] * 10 + digits[7]
    months = (digits[0] * 1000 + digits[1] * 100 + digits[2] * 10 + digits[3] - 1970) * 12 + month - 1
    first, following = (number.astype("datetime64[M]").astype("datetime64[D]") for number in (months, months + 1))
    days: Days = first + (day - 1)
    if (month < 1).any() or (month > 12).any() or (day < 1).any() or (days >= following).any():  # noqa: PLR2004 - a year
        raise ValueError("no such date")
    return days

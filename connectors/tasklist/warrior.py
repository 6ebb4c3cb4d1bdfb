"""The Warrior Trading task list: finding it, reading it, and choosing from it.

A list names one symbol and one day per row, in CSV or Excel, under headers that people chose. What is clear is taken, a
row that is not is dropped and counted, and a list whose columns are not clear is refused: nothing is guessed. Whether
the exchange was open on a day is not known here.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from connectors.tasklist import _sheets
from connectors.tasklist.errors import TaskListError
from contracts.errors import InvalidSymbol
from contracts.symbols import canonical_symbol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["DroppedRow", "Task", "TaskList", "TaskListError", "find_list", "parse_day", "read_tasks", "select"]

_log = logging.getLogger(__name__)

Task = tuple[str, date]
"""A canonical symbol and an ET trading day."""

BEST_SYMBOL_HEADER: Final = "ticker"
BEST_DATE_HEADER: Final = "date"
SYMBOL_HEADERS: Final = ("symbol", "ticker", "sym", "stock", "instrument", "code", "ticker symbol")
DATE_HEADERS: Final = (
    "date",
    "trading_day",
    "trading day",
    "trade_date",
    "execution_date",
    "date executed",
    "exec_date",
    "day",
)

_SAMPLE_ROWS: Final = 5
_SHOWN_CHARS: Final = 60
_TIME_PART: Final = (
    r"(?:[T ] *[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?(?: ?[AaPp][Mm])?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_ISO_DAY: Final = re.compile(
    rf"(?P<y>[0-9]{{4}})(?P<sep>[-/])(?P<m>[0-9]{{1,2}})(?P=sep)(?P<d>[0-9]{{1,2}}){_TIME_PART}"
)
_COMPACT_DAY: Final = re.compile(r"(?P<y>[0-9]{4})(?P<m>[0-9]{2})(?P<d>[0-9]{2})")
_US_DAY: Final = re.compile(
    rf"(?P<m>[0-9]{{1,2}})(?P<sep>[-/])(?P<d>[0-9]{{1,2}})(?P=sep)(?P<y>[0-9]{{4}}|[0-9]{{2}}){_TIME_PART}"
)
_FIRST_YEAR_OF_TWO_DIGITS: Final = 69


@dataclass(frozen=True)
class DroppedRow:
    """A row that could not be used.

    Attributes:
        row_number: The number a person sees beside it, from 1.
        reason: Why.
        value: The cell at fault, shortened.
    """

    row_number: int
    reason: str
    value: str

    def __str__(self) -> str:
        return f"row {self.row_number}: {self.reason} ({self.value})"


@dataclass(frozen=True)
class TaskList:
    """What a list says.

    Attributes:
        tasks: Unique, sorted by (day, symbol).
        dropped: The rows that could not be used, in the list's order.
        duplicates: How many rows said what an earlier row had said.
        source: The file.
    """

    tasks: list[Task]
    dropped: list[DroppedRow]
    duplicates: int
    source: Path


@dataclass(frozen=True)
class _Columns:
    symbol: int
    day: int


class _BadCellError(Exception):
    """One cell that cannot be used."""

    def __init__(self, reason: str, value: object) -> None:
        super().__init__(reason)
        self.reason = reason
        self.value = value


def read_tasks(path: Path) -> TaskList:
    """Read a list.

    CSV is UTF-8 (with or without byte order mark) or UTF-16 with one, delimited by comma, semicolon or tab, whichever
    makes sense of the header row. Of a workbook the first sheet is read. The header row is the first that is not empty.
    The columns are `ticker` and `date`, else the first present of `SYMBOL_HEADERS` and of `DATE_HEADERS`, trimmed and
    in any case. Symbols become canonical; for days see `parse_day`. Rows that cannot be used are dropped, logged with
    a sample, and listed in the result.

    Args:
        path: A `.csv` (`.tsv`, `.txt`) or `.xlsx` (`.xlsm`) file.

    Raises:
        TaskListError: The file cannot be opened, or its columns are missing or named twice.
    """
    data = _sheets.read_bytes(path)
    if _sheets.is_excel(path, data):
        columns, rows = _after_header(path, iter(_sheets.excel_rows(path, data)))
    else:
        columns, rows = _text_table(path, _sheets.decode(path, data))
    found: set[Task] = set()
    dropped: list[DroppedRow] = []
    duplicates = 0
    for number, cells in rows:
        if all(_is_empty(cell) for cell in cells):
            continue
        try:
            task = (_symbol(_cell(cells, columns.symbol)), _day(_cell(cells, columns.day)))
        except _BadCellError as error:
            dropped.append(DroppedRow(number, error.reason, _shown(error.value)))
            continue
        duplicates += task in found
        found.add(task)
    if dropped:
        sample = "; ".join(str(row) for row in dropped[:_SAMPLE_ROWS])
        _log.warning("%s: dropped %d rows that cannot be used, such as %s", path, len(dropped), sample)
    return TaskList(sorted(found, key=_by_day), dropped, duplicates, path)


def find_list(data_root: Path, ml_base: Path | None, filename: str) -> Path:
    """Find the list: in the data root, else in the ML base folder, or exactly where `filename` says.

    In each place the name as configured comes first, then the same name with `.csv`. A name with a folder in it is used
    as it is, with `~` and `$VAR` expanded; a relative one counts from the current folder.

    Args:
        data_root: The resolved data root.
        ml_base: `ML_BASE_PATH`, if set.
        filename: `WARRIOR_TRADES_FILENAME`.

    Returns:
        An existing file.

    Raises:
        TaskListError: There is none; says where it was looked for.
    """
    # os.path leaves an unknown ~user or $VAR as it is, and then the error shows it.
    named = Path(os.path.expanduser(os.path.expandvars(filename.strip())))  # noqa: PTH111 - Path raises
    if not named.name:
        raise TaskListError(f"WARRIOR_TRADES_FILENAME is {filename!r}: set it to the name of the task list.")
    folders = [data_root, *([] if ml_base is None else [ml_base])]
    places = [named] if len(named.parts) > 1 or named.is_absolute() else [folder / named for folder in folders]
    looked_at: list[Path] = []
    for place in places:
        for candidate in dict.fromkeys((place, place.with_suffix(".csv"))):
            if os.path.isfile(candidate):  # noqa: PTH113 - Path raises for a folder it may not look into
                return candidate
            looked_at.append(candidate)
    raise TaskListError(
        f"no task list found; looked at {', '.join(str(path) for path in looked_at)}. Put one there, "
        "or set WARRIOR_TRADES_FILENAME.",
        looked_at=tuple(looked_at),
    )


def select(
    tasks: Iterable[Task], *, since_days: int | None = None, last: int | None = None, today_et: date
) -> list[Task]:
    """Choose tasks by day; days after today are never chosen, and logged.

    Args:
        tasks: Any tasks, in any order.
        since_days: Only days from `today_et` less this many on; 0 is today alone.
        last: Only the last so many distinct days of what is left.
        today_et: Today in New York.

    Returns:
        Unique tasks, sorted by (day, symbol).

    Raises:
        ValueError: `since_days` is negative or `last` is not positive.
    """
    if since_days is not None and since_days < 0:
        raise ValueError(f"since_days must not be negative, it is {since_days}")
    if last is not None and last < 1:
        raise ValueError(f"last must be at least 1, it is {last}")
    known = set(tasks)
    chosen = {task for task in known if task[1] <= today_et}
    if len(chosen) < len(known):
        first = min(known - chosen, key=_by_day)
        _log.warning("left out %d tasks after today (%s), such as %s %s", len(known) - len(chosen), today_et, *first)
    if since_days is not None:
        # A date before year 1 is not a date; "all of them" is meant.
        first_day = today_et - timedelta(days=min(since_days, (today_et - date.min).days))
        chosen = {task for task in chosen if task[1] >= first_day}
    if last is not None:
        days = set(sorted({day for _, day in chosen})[-last:])
        chosen = {task for task in chosen if task[1] in days}
    return sorted(chosen, key=_by_day)


def parse_day(text: str) -> date:
    """Parse a day as people and programs in the US write it.

    ISO order `2025-09-05`, `2025/9/5`, `20250905`, or US order, month first, `9/5/2025`, `09-05-2025`, `9/5/25` (69 to
    99 are 19xx, as in POSIX). A time of day after it, with or without zone, is not looked at: the day is the one
    written.
    A first number above 12 is no month: `13/05/2025` is refused, not read as day first.

    Raises:
        ValueError: It is none of these, or no day of the calendar.
    """
    trimmed = text.strip()
    for pattern in (_ISO_DAY, _COMPACT_DAY, _US_DAY):
        if found := pattern.fullmatch(trimmed):
            year = int(found["y"])
            if len(found["y"]) == 2:  # noqa: PLR2004 - two digits
                year += 1900 if year >= _FIRST_YEAR_OF_TWO_DIGITS else 2000
            return date(year, int(found["m"]), int(found["d"]))
    raise ValueError("neither ISO (2025-09-05) nor US order (9/5/2025)")


def _text_table(path: Path, text: str) -> tuple[_Columns, Iterator[_sheets.Row]]:
    """Choose the one delimiter under which the header row has the columns."""
    refusals: list[TaskListError] = []
    tables = []
    for delimiter in _sheets.DELIMITERS:
        try:
            tables.append(_after_header(path, _sheets.text_rows(path, text, delimiter)))
        except TaskListError as error:
            refusals.append(error)
    if len(tables) == 1:
        return tables[0]
    if tables:
        raise TaskListError(f"{path}: the header row makes sense with several delimiters: use commas.", source=path)
    # The delimiter that finds most headers shows best what is in the row.
    raise max(refusals, key=lambda error: len(error.headers))


def _after_header(path: Path, rows: Iterator[_sheets.Row]) -> tuple[_Columns, Iterator[_sheets.Row]]:
    for _, cells in rows:
        if not all(_is_empty(cell) for cell in cells):
            return _columns(path, cells), rows
    raise TaskListError(f"the task list {path} has no rows: it needs a header row.", source=path)


def _columns(path: Path, cells: Sequence[object]) -> _Columns:
    headers = tuple("" if cell is None else str(cell).strip() for cell in cells)
    names = [header.casefold() for header in headers]
    if BEST_SYMBOL_HEADER in names and BEST_DATE_HEADER in names:
        symbol_name, day_name = BEST_SYMBOL_HEADER, BEST_DATE_HEADER
    else:
        symbol_name = next((name for name in SYMBOL_HEADERS if name in names), "")
        day_name = next((name for name in DATE_HEADERS if name in names), "")
    if not symbol_name or not day_name:
        missing = " and ".join(
            f"{what} column (one of: {', '.join(accepted)})"
            for what, name, accepted in (
                ("symbol", symbol_name, SYMBOL_HEADERS),
                ("date", day_name, DATE_HEADERS),
            )
            if not name
        )
        shown = ", ".join(_shown(header) for header in headers if header)
        raise TaskListError(f"{path} has no {missing}; its headers are {shown}.", source=path, headers=headers)
    for name in (symbol_name, day_name):
        if names.count(name) > 1:
            raise TaskListError(
                f"{path} has {names.count(name)} columns headed {name!r}: remove or rename all but one.",
                source=path,
                headers=headers,
            )
    return _Columns(names.index(symbol_name), names.index(day_name))


def _symbol(cell: object) -> str:
    if _is_empty(cell):
        raise _BadCellError("no symbol", cell)
    if isinstance(cell, bool):
        # Excel takes the ticker TRUE for a truth value.
        return str(cell).upper()
    if isinstance(cell, int | float):
        raise _BadCellError("the symbol is a number", cell)
    if not isinstance(cell, str):
        raise _BadCellError("the symbol was turned into a date or time by Excel", cell)
    try:
        return canonical_symbol(cell.strip())
    except InvalidSymbol as error:
        raise _BadCellError(f"not a symbol: {error.reason}", cell) from None


def _day(cell: object) -> date:
    if _is_empty(cell):
        raise _BadCellError("no date", cell)
    if isinstance(cell, datetime):
        return cell.date()
    if isinstance(cell, date):
        return cell
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, str) or (isinstance(cell, int) and not isinstance(cell, bool)):
        try:
            return parse_day(str(cell))
        except ValueError as error:
            reason = f"not a date: {error}"
            if not isinstance(cell, str):
                reason = "a number, not a date: format the column as a date"
            raise _BadCellError(reason, cell) from None
    raise _BadCellError("not a date", cell)


def _cell(cells: Sequence[object], index: int) -> object:
    return cells[index] if index < len(cells) else None


def _is_empty(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 3]}..."


def _by_day(task: Task) -> tuple[date, str]:
    return task[1], task[0]

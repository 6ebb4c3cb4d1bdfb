"""The coverage of bars as text: a table, a calendar, a line per run of days. It fits 80 columns and needs no colour."""

from __future__ import annotations

import calendar
import datetime as dt
from itertools import groupby
from typing import TYPE_CHECKING, Final

from flows.coverage_days import MISSING, NO_BARS, PARTIAL, PRESENT, TO_COME, LackingDay

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flows.coverage_days import GroupDays

MARKS: Final = {PRESENT: "#", PARTIAL: "~", MISSING: "!", NO_BARS: "o", TO_COME: ">"}
"""What stands behind a day of the calendar; ASCII, so that it is legible everywhere."""

CLOSED_MARK: Final = "."

LEGEND: Final = "# present  ~ partial  ! missing  o the vendor has none  > to come  . closed"

COLOURS: Final = {"#": "green", "~": "yellow", "!": "bold red", "o": "cyan", ">": "dim", ".": "dim"}
"""Styles of the marks, for terminals that have colours."""

STATE_WORDS: Final = {
    PRESENT: "present",
    PARTIAL: "partial",
    MISSING: "missing",
    NO_BARS: "vendor_has_none",
    TO_COME: "to_come",
}
"""What programs read for a state."""

WHY_WORDS: Final = {
    "never_downloaded": "never downloaded",
    "vendor_has_none": "the vendor has none",
    "empty": "its file has no rows",
    "file_gone": "its file is gone",
}
"""Why a day is missing, in words."""

_HEADS: Final = ("symbol", "size", "first", "last", "days", "missing", "partial", "rows")
_TEXT_COLUMNS: Final = 4
_GAP: Final = "   "
_WEEKDAYS: Final = ("Mo", "Tu", "We", "Th", "Fr", "Sa", "Su")
_WORKDAYS: Final = 5
_CELL: Final = 4
_SHORTEST: Final = 8


def table_lines(groups: Iterable[GroupDays], width: int) -> list[str]:
    """A head and one line per group; columns are as wide as they must be.

    Args:
        groups: in the order of the lines.
        width: columns of the terminal; a table that is wider gets narrower gaps.
    """
    rows: list[tuple[str, ...]] = [_HEADS]
    for group in groups:
        told = group.to_document()
        asked = told["start"] is not None
        counts = [str(told["days"]), *(str(told[key]) if asked else "-" for key in ("missing", "partial"))]
        rows.append(
            (group.symbol, group.bar_size, told["first"] or "-", told["last"] or "-", *counts, str(told["rows"]))
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= width else " "
    return [
        gap.join(
            text.ljust(size) if number < _TEXT_COLUMNS else text.rjust(size)
            for number, (text, size) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def calendar_lines(group: GroupDays, width: int) -> list[str]:
    """A group's days, month by month, as many months beside each other as the width has room for."""
    title = f"{group.symbol} {group.bar_size}"
    if group.end < group.start:
        return [f"{title}: no bars"]
    marks = {day: MARKS[state] for day, state in zip(group.days.tolist(), group.state.tolist(), strict=True)}
    columns = 7 if any(day.weekday() >= _WORKDAYS for day in marks) else _WORKDAYS
    months = [_month(month, marks, group.start, group.end, columns) for month in _months(group.start, group.end)]
    beside = max(1, (width + len(_GAP)) // (columns * _CELL - 1 + len(_GAP)))
    lines = [title]
    for begin in range(0, len(months), beside):
        row = months[begin : begin + beside]
        height = max(map(len, row))
        lines.append("")
        for number in range(height):
            cells = (month[number] if number < len(month) else "" for month in row)
            lines.append(_GAP.join(cell.ljust(columns * _CELL - 1) for cell in cells).rstrip())
    return lines


def lacking_lines(groups: Iterable[GroupDays], width: int | None = None) -> list[str]:
    """One line per run of sessions that follow each other and are missing or partial for one reason.

    Args:
        groups: in the order of the lines.
        width: columns of the terminal, at which reasons are cut, for `coverage why` tells all; None cuts nothing.
    """
    runs = [run for group in groups for run in _runs(group)]
    symbol_width = max((len(first.group.symbol) for first, *_ in runs), default=0)
    when_width = max((len(_when(first, last)) for first, last, *_ in runs), default=0)
    lines = []
    for first, last, count, told in runs:
        head = f"{first.group.symbol:<{symbol_width}} {first.group.bar_size:<6}  "
        head += f"{_when(first, last):<{when_width}}  {first.state:<7}  "
        tail = f" ({count} days)" if count > 1 else ""
        room = len(told) if width is None else max(_SHORTEST, width - len(head) - len(tail))
        lines.append(head + clipped(told, room) + tail)
    return lines


def _runs(group: GroupDays) -> Iterator[tuple[LackingDay, LackingDay, int, str]]:
    """Yield the first and the last day of each run, how many there are, and why."""

    def alike(numbered: tuple[int, LackingDay]) -> tuple[int, bool, str]:
        # Rows that follow each other stay ahead of their numbers by the same.
        number, day = numbered
        return day.row - number, day.is_partial, "; ".join(reasons(day))

    for (_, _, told), numbered in groupby(enumerate(group.lacking()), alike):
        days = [day for _, day in numbered]
        yield days[0], days[-1], len(days), told


def _when(first: LackingDay, last: LackingDay) -> str:
    return first.day.isoformat() if first is last else f"{first.day.isoformat()} to {last.day.isoformat()}"


def reasons(day: LackingDay) -> list[str]:
    """Why a day is missing or partial, in words."""
    told = []
    if day.holes:
        told.append(f"no data {', '.join(map(str, day.holes))}")
    if day.why == "vendor_has_none" and day.empty is not None:
        told.append(f"the vendor has none, asked {_day_of(day.empty.asked_at_ns)}")
    elif day.is_unlisted:
        told.append("a file without a ledger line")
    elif day.why is not None:
        told.append(WHY_WORDS[day.why])
    if day.is_out_of_reach:
        told.append(f"too old for {day.group.bar_size} bars")
    if day.error is not None:
        told.append(f"last try: {printable(day.error.text)}")
    return told


def clipped(text: str, width: int) -> str:
    """The text, cut to a width with three dots."""
    return text if len(text) <= width else f"{text[: width - 3].rstrip()}..."


def printable(text: str) -> str:
    """The text with everything escaped that would break a line or a terminal."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _day_of(ns: int) -> str:
    return dt.datetime.fromtimestamp(ns // 10**9, dt.UTC).date().isoformat()


def _months(start: dt.date, end: dt.date) -> list[tuple[int, int]]:
    count = (end.year - start.year) * 12 + end.month - start.month + 1
    return [divmod(start.year * 12 + start.month - 1 + number, 12) for number in range(count)]


def _month(month: tuple[int, int], marks: dict[dt.date, str], start: dt.date, end: dt.date, columns: int) -> list[str]:
    """A month's name, its weekdays, its weeks."""
    year, number = month
    width = columns * _CELL - 1
    lines = [
        f"{calendar.month_name[number + 1]} {year}".center(width),
        " ".join(f"{day} " for day in _WEEKDAYS[:columns]),
    ]
    for week in calendar.Calendar().monthdatescalendar(year, number + 1):
        cells = [
            f"{day.day:>2}{marks.get(day, CLOSED_MARK)}" if day.month == number + 1 and start <= day <= end else "   "
            for day in week[:columns]
        ]
        if any(cell.strip() for cell in cells):
            lines.append(" ".join(cells))
    return lines

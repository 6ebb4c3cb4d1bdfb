"""Opening a task list: from a CSV or Excel file to numbered rows of cells, before their meaning is known."""

from __future__ import annotations

import csv
import io
import warnings
from typing import TYPE_CHECKING, Final

from connectors.tasklist.errors import TaskListError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from openpyxl.workbook import Workbook

Row = tuple[int, tuple[object, ...]]
"""The number a person sees beside the row (Excel) or line (CSV), from 1, and the row's cells."""

DELIMITERS: Final = {",": "comma", ";": "semicolon", "\t": "tab"}
TEXT_SUFFIXES: Final = frozenset({".csv", ".tsv", ".txt"})
EXCEL_SUFFIXES: Final = frozenset({".xlsx", ".xlsm"})

_ZIP_MAGIC: Final = b"PK\x03\x04"
_OLE_MAGIC: Final = b"\xd0\xcf\x11\xe0"
_BYTE_ORDER_MARKS: Final = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_SEPARATOR_LINE: Final = "sep="  # Excel's own first line, `sep=;`


def read_bytes(path: Path) -> bytes:
    """Read a list.

    Raises:
        TaskListError: It is missing, a folder, empty or cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise TaskListError(f"there is no task list {path}: check the name.", source=path) from None
    except IsADirectoryError:
        raise TaskListError(f"{path} is a folder: name the task list inside it.", source=path) from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise TaskListError(
            f"cannot read the task list {path}: {reason}; close it elsewhere and check who may read it.", source=path
        ) from error
    if not data:
        raise TaskListError(f"the task list {path} is empty (0 bytes): save it again.", source=path)
    return data


def is_excel(path: Path, data: bytes) -> bool:
    """Tell an Excel workbook from a text by its name and its first bytes, which must agree.

    Raises:
        TaskListError: They do not, or it is neither.
    """
    suffix = path.suffix.lower()
    if data.startswith(_OLE_MAGIC):
        raise TaskListError(
            f"{path} is an old .xls workbook or one with a password: save it as .xlsx or .csv without a password.",
            source=path,
        )
    if suffix in EXCEL_SUFFIXES:
        if not data.startswith(_ZIP_MAGIC):
            raise TaskListError(f"{path} is not an Excel workbook: save it again as .xlsx or .csv.", source=path)
        return True
    if suffix in TEXT_SUFFIXES:
        if data.startswith(_ZIP_MAGIC):
            raise TaskListError(f"{path} is an Excel workbook: rename it to .xlsx.", source=path)
        return False
    raise TaskListError(f"{path} is no task list: expected a .csv or .xlsx file.", source=path)


def decode(path: Path, data: bytes) -> str:
    """Decode a text list: UTF-8, or UTF-8/UTF-16 with a byte order mark.

    Raises:
        TaskListError: It is in another encoding.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise TaskListError(
            f"{path} is not {encoding.upper()} text (byte {error.start}): save it as 'CSV UTF-8'.", source=path
        ) from None
    if "\0" in text:
        raise TaskListError(
            f"{path} holds NUL characters, so it is no plain text: save it as 'CSV UTF-8'.", source=path
        )
    return text


def text_rows(path: Path, text: str, delimiter: str) -> Iterator[Row]:
    """Yield the rows of a CSV text, empty ones too.

    Raises:
        TaskListError: A quote is not closed or a field goes on after its closing quote: rows would be lost.
    """
    # newline="" leaves the line ends to the reader, which knows those inside quotes.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            is_separator_line = (
                reader.line_num == 1
                and delimiter.join(cells).strip().lower()[: len(_SEPARATOR_LINE)] == _SEPARATOR_LINE
            )
            yield reader.line_num, () if is_separator_line else tuple(cells)
    except csv.Error as error:
        raise TaskListError(
            f"{path} line {reader.line_num}: {error}; correct the quotes in this line or the ones before.", source=path
        ) from error


def excel_rows(path: Path, data: bytes) -> list[Row]:
    """Return the rows of a workbook's first sheet that are not empty: values as Excel last computed them.

    Raises:
        TaskListError: The workbook is damaged or has no sheet with cells.
    """
    import openpyxl  # noqa: PLC0415 - takes a third of a second, and most lists are CSV

    try:
        with warnings.catch_warnings():
            # About styles and extensions that do not touch the values.
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            try:
                return _first_sheet(book)
            finally:
                book.close()
    except Exception as error:  # openpyxl lets through whatever zip, XML and number parsing raise
        raise TaskListError(
            f"the workbook {path} is damaged ({type(error).__name__}): open it in Excel and save it again.", source=path
        ) from error


def _first_sheet(book: Workbook) -> list[Row]:
    if not book.worksheets:
        return []
    sheet = book.worksheets[0]
    # Some exporters write a wrong size, and cells outside it would be left out.
    sheet.reset_dimensions()
    rows = enumerate(sheet.iter_rows(values_only=True), start=1)
    return [(number, cells) for number, cells in rows if any(cell is not None for cell in cells)]

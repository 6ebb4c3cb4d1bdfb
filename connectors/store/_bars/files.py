"""Bars files that are there: which days have one, what a footer says, and the rows."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.store._bars.group import Group
from connectors.store._bars.rows import check_rows, day_bounds_ns, has_bar_columns, kind_text, with_bar_schema
from connectors.store.errors import InvalidRows, from_os_error, store_errors
from contracts.errors import ContractError
from contracts.timestamps import ns_from_iso_utc
from contracts.v1.bars import BarsMetadata

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from contracts.layout import BarSize, DataRoot

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_SUFFIX: Final = ".parquet"
_AGAIN: Final = "Download the day again as a whole (--force-bars)."


@dataclass(frozen=True)
class ExistingBars:
    """A readable bars file that was found.

    Attributes:
        path: Where.
        rows: How many bars its footer says, at least one.
        metadata: What its footer says about it, None when it says nothing (old and foreign writers).
        first_ns: Start of the first bar, nanoseconds since 1970 UTC.
        last_ns: Start of the last bar, likewise.
    """

    path: Path
    rows: int
    metadata: BarsMetadata | None
    first_ns: int
    last_ns: int


class BarsFooter(NamedTuple):
    """What the footer of a bars file says; no bar was read.

    Attributes:
        day: The ET day of its place.
        kind: What its bars are, see `kind_text`; None when it does not say (old and foreign writers).
        complete: It says that all of the day was asked for.
        rows: How many bars it says, at least one.
        stamp: Inode and time of the last change of the file, which tell whether it was replaced.
    """

    day: date
    kind: str | None
    complete: bool
    rows: int
    stamp: tuple[int, int]

    def is_unchanged(self, path: Path) -> bool:
        """Whether the file in its place is still the one that was opened."""
        return _stamp_of(path) == self.stamp


class _UnusableError(Exception):
    """A file that is not the bars file of its place; the text says why."""


def existing(root: DataRoot, bar_size: BarSize, symbol: str, day: date) -> ExistingBars | None:
    """Look up a bars file by its footer and its times, in a millisecond or so; its other columns are not read.

    Returns:
        The file in its place below the root, or None when there is none that can be used: absent, empty, torn, without
        rows, with other columns than `BAR_SCHEMA`, with times that do not rise or are of other ET days, or with a
        footer of an unknown version, of ours but broken, or of another symbol, bar size or day. What counts as absent
        although something is there is logged with its reason.

    Raises:
        InvalidName: There is no such bar size.
        InvalidSymbol: The symbol has no canonical form.
    """
    group = Group(root, bar_size, symbol)
    path = root.bars_path(bar_size, symbol, day)

    def look(file: pq.ParquetFile) -> ExistingBars:
        rows, metadata = _checked_footer(file, group, day)
        first_ns, last_ns = _span_of(file, rows)
        start_ns, end_ns = day_bounds_ns(day)
        if not start_ns <= first_ns <= last_ns < end_ns:
            raise _UnusableError("it has bars of other ET days")
        return ExistingBars(path, rows, metadata, first_ns, last_ns)

    return _looked_at(path, look)


def footer(root: DataRoot, bar_size: BarSize, symbol: str, day: date) -> BarsFooter | None:
    """Look up a bars file by its footer alone, in a third of a millisecond or so.

    Returns:
        What it says, or None as `existing`, but that damages of the bars, and times that are wrong, are not seen.

    Raises:
        InvalidName: There is no such bar size.
        InvalidSymbol: The symbol has no canonical form.
    """
    group = Group(root, bar_size, symbol)
    path = root.bars_path(bar_size, symbol, day)
    # Before it is opened: of a file that is replaced in between, the stamp is then that of the old one.
    stamp = _stamp_of(path)

    def look(file: pq.ParquetFile) -> BarsFooter:
        rows, metadata = _checked_footer(file, group, day)
        kind = None if metadata is None else kind_text(metadata.what_to_show, metadata.use_rth)
        return BarsFooter(day, kind, metadata is not None and metadata.complete, rows, stamp)

    return _looked_at(path, look)


def read_day(path: Path) -> pa.Table:
    """Read all bars of a file, checked.

    Returns:
        `BAR_SCHEMA` without metadata, at least one row, strictly increasing, of one ET day.

    Raises:
        InvalidRows: It is no parquet file, is damaged, or breaks a rule of bars files; says to download it anew.
        StoreError: It is not there or cannot be opened.
    """
    try:
        with path.open("rb") as raw, pq.ParquetFile(raw, page_checksum_verification=True) as file:
            if not has_bar_columns(file.schema_arrow):
                raise InvalidRows(f"{path} has other columns than bars files. {_AGAIN}", path=path)
            table = with_bar_schema(file.read(use_threads=False)).combine_chunks()
            if table.num_rows != file.metadata.num_rows:
                raise InvalidRows(f"{path} has not the rows that its footer says. {_AGAIN}", path=path)
    except OSError as error:
        # pyarrow reports some damages as OSError; those have no errno.
        if error.errno is not None:
            raise from_os_error(error, "read", path) from error
        raise InvalidRows(f"{path} cannot be read ({_first_line(error)}). {_AGAIN}", path=path) from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InvalidRows(f"{path} cannot be read ({_first_line(error)}). {_AGAIN}", path=path) from error
    try:
        check_rows(table, None, str(path), path)
    except InvalidRows as error:
        raise InvalidRows(f"{error} {_AGAIN}", path=path) from error
    return table


def listing(root: DataRoot, bar_size: BarSize, symbol: str) -> set[date]:
    """Return the ET days that have a file in its place, by one look at the folder; whether it is sound is not seen.

    Raises:
        StoreError: The folder cannot be read.
        InvalidName: There is no such bar size.
        InvalidSymbol: The symbol has no canonical form.
    """
    folder = Group(root, bar_size, symbol).days_folder
    with store_errors("list", folder):
        try:
            with os.scandir(folder) as entries:
                days = {_day_of(entry.name) for entry in entries if entry.is_file()}
        except FileNotFoundError:
            return set()
    return {day for day in days if day is not None}


# The same days come again in the folder of every symbol and bar size.
@lru_cache(maxsize=1 << 16)
def _day_of(name: str) -> date | None:
    text = name.removesuffix(_SUFFIX)
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if name == f"{day.isoformat()}{_SUFFIX}" else None


def _looked_at(path: Path, look: Callable[[pq.ParquetFile], _T]) -> _T | None:
    """Open a file and look at it; None, with a log line, when it cannot be used."""
    try:
        # pyarrow opening the path itself would report a folder there like a broken file.
        with path.open("rb") as raw, pq.ParquetFile(raw, page_checksum_verification=True) as file:
            return look(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (_UnusableError, ContractError, pa.ArrowException, OSError, UnicodeDecodeError) as error:
        _log.warning("%s counts as absent: %s", path, error)
        return None


def _checked_footer(file: pq.ParquetFile, group: Group, day: date) -> tuple[int, BarsMetadata | None]:
    """Rows and metadata of the bars file of a place; the statistics of its columns are never touched."""
    schema, rows = file.schema_arrow, file.metadata.num_rows
    if rows == 0:
        raise _UnusableError("it has no rows")
    if not has_bar_columns(schema):
        raise _UnusableError("its columns are not those of a bars file")
    metadata = BarsMetadata.from_footer(schema.metadata)
    place = (group.symbol, group.bar_size, day)
    if metadata is not None and (metadata.symbol, metadata.bar_size, metadata.session_date) != place:
        said = f"{metadata.symbol}, {metadata.bar_size}, {metadata.session_date}"
        raise _UnusableError(f"its footer says {said}: it was made for another place")
    return rows, metadata


def _stamp_of(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def _span_of(file: pq.ParquetFile, rows: int) -> tuple[int, int]:
    """Return the first and last time, by the whole column: on damaged statistics pyarrow ends the process."""
    ns = ns_from_iso_utc(file.read(["timestamp"], use_threads=False).column(0))
    if len(ns) != rows or (ns[1:] <= ns[:-1]).any():
        raise _UnusableError("its times do not rise, or are not as many as its footer says")
    return int(ns[0]), int(ns[-1])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]

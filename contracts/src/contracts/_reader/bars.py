"""Bars found through the coverage index, never by walking folders, and the rows of their files.

How coverage is derived from the download manifest is `contracts.coverage`.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, get_args

import numpy as np

from contracts._coverage.index import CoverageIndex, load_coverage
from contracts._reader.days import day_bounds_ns
from contracts._reader.parquet import FileIdentity, identity_of, opened
from contracts._validate.rows import mask
from contracts.errors import InvalidBarsFile, InvalidDocument, InvalidName, MixedData, NotAvailable, shown
from contracts.layout import BarSize, DataRoot
from contracts.timestamps import ns_from_iso_utc
from contracts.v1.bars import BAR_SCHEMA, COVERAGE_VERSION, BarsMetadata, CoverageDay

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    import pyarrow as pa


class CoverageFiles:
    """Opens coverage files, each state of one once."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[FileIdentity, CoverageIndex]] = {}

    def index(self, root: DataRoot) -> CoverageIndex | None:
        """Return the coverage of a root; None when it has none.

        Raises:
            UnknownSchemaVersion: It is of another version, or names none.
            InvalidDocument: It cannot be read as a coverage file.
        """
        path = root.bars_coverage
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise InvalidDocument(COVERAGE_VERSION, f"{path} is not a regular file")
            identity = FileIdentity.of(status)
            known = self._known.get(path)
            if known is None or known[0] != identity:
                # Taken before it is read: what replaces it meanwhile is read again the next time.
                known = self._known[path] = identity, load_coverage(path)
        except (FileNotFoundError, NotADirectoryError, NotAvailable):
            return None
        except OSError as error:
            raise InvalidDocument(COVERAGE_VERSION, f"{path} cannot be read ({error.strerror or error})") from error
        return known[1]


def check_bar_size(bar_size: BarSize) -> BarSize:
    """Return a bar size.

    Raises:
        InvalidName: There is no such one.
    """
    if bar_size not in get_args(BarSize):
        raise InvalidName(bar_size, f"the bar size must be one of {', '.join(get_args(BarSize))}")
    return bar_size


def place_of(listed: CoverageDay, root: DataRoot, symbol: str, bar_size: BarSize) -> Path:
    """Return where a listed file lies: in its place below this root, else at its path.

    A root can be moved or copied; a copy has files of its own, also while the original is there. A path outside the
    grammar of a data root is taken as it is when it is there.
    """
    told = Path(listed.path)
    # The last part only, by the separators of both systems: no name leads out of the folder.
    filename = PureWindowsPath(listed.filename).name or f"{listed.date.isoformat()}.parquet"
    here = root.bars_path(bar_size, symbol, listed.date).with_name(filename)
    is_ours = PureWindowsPath(listed.path).parts[-4:] == here.parts[-4:]
    # Path.is_file raises for names that no disk takes.
    if (is_ours and os.path.isfile(here)) or not os.path.isfile(told):  # noqa: PTH113 - see above
        return here
    return told


def refuse_mixed_bars(footers: Iterable[BarsMetadata | None]) -> None:
    """Refuse files whose bars mean different things; those of files without metadata are not known.

    Args:
        footers: Of the files that are to be loaded as one.

    Raises:
        MixedData: They differ; says in what.
    """
    values: dict[str, set[str]] = {"what_to_show": set(), "hours": set(), "price_adjustment": set()}
    for footer in footers:
        if footer is not None:
            values["what_to_show"].add(footer.what_to_show)
            values["hours"].add("regular" if footer.use_rth else "extended")
            values["price_adjustment"].add(footer.price_adjustment)
    differing = {name: sorted(found) for name, found in values.items() if len(found) > 1}
    if differing:
        raise MixedData(differing)


def read_bars(path: Path, listed: CoverageDay) -> tuple[pa.Table, BarsMetadata | None]:
    """Return the bars of a listed day, checked for what readers rely on, and what the footer says of them.

    Old files can hold several ET days; the rows of the listed one are returned. A footer that is absent or damaged says
    nothing.

    Raises:
        InvalidBarsFile: It is not there, is no bars file, has another number of rows than listed, or breaks the
            contract at a row.
        UnknownSchemaVersion: Its footer names another version.
    """
    with opened(path, identity_of(path, InvalidBarsFile), InvalidBarsFile) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        footer = None
        with suppress(InvalidDocument):
            # Rows of a version to come could mean something else.
            footer = BarsMetadata.from_footer(schema.metadata)
        if schema.names != BAR_SCHEMA.names:
            names = ", ".join(BAR_SCHEMA.names)
            raise InvalidBarsFile(path, f"the columns are {shown(', '.join(schema.names))}, not {names}")
        for column in schema:
            wanted = BAR_SCHEMA.field(column.name).type
            if column.type != wanted:
                raise InvalidBarsFile(path, f"field {column.name}: the type is {column.type}, not {wanted}")
        if rows != listed.rows:
            raise InvalidBarsFile(
                path, f"it has {rows} rows, the coverage says {listed.rows}: build the coverage again"
            )
        table = file.read()
    if table.num_rows != rows:
        raise InvalidBarsFile(path, f"its footer says {rows} rows, there are {table.num_rows}")
    return _rows_of_day(path, table.cast(BAR_SCHEMA), listed.date), footer


def _rows_of_day(path: Path, table: pa.Table, day: date) -> pa.Table:
    for name in BAR_SCHEMA.names:
        column = table.column(name)
        if column.null_count and name != "WAP":
            row = int(np.argmax(mask(column.is_null().combine_chunks())))
            raise InvalidBarsFile(path, f"row {row}, field {name}: the value is null")
    try:
        ns = ns_from_iso_utc(table.column("timestamp"))
    except InvalidDocument as error:
        raise InvalidBarsFile(path, f"row {error.row}, field timestamp: {error.reason}") from error
    stale = ns[1:] <= ns[:-1]
    if stale.any():
        row = int(np.argmax(stale)) + 1
        raise InvalidBarsFile(path, f"row {row}, field timestamp: the time is not after that of the row above")
    start, stop = np.searchsorted(ns, day_bounds_ns(day)).tolist()
    if start == stop:
        raise InvalidBarsFile(path, f"it has no bar of {day.isoformat()}, the day it is listed for")
    return table.slice(start, stop - start)

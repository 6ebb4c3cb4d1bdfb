"""What the checks of all parquet artifacts share: opening, and the comparison of columns with the contract."""

from __future__ import annotations

import os
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from contracts._validate.rows import REWRITE, first_line
from contracts.sessions import ET

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from contracts._validate.findings import Collector
    from contracts._validate.seen import Target


_MAGIC: Final = b"PAR1"


def check_parquet(target: Target, check: Callable[[pq.ParquetFile, pa.NativeFile], None]) -> None:
    """Open a parquet file and check it; what is no parquet file, also if only the check notices, is a finding.

    Args:
        target: The file.
        check: Gets the open file, and its bytes, which several threads may read.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        # A memory map would be faster, but kills the process when the file is cut while it is read.
        with pa.OSFile(os.fspath(target.path)) as source:
            if source.size() == 0:
                target.findings.add("empty-file", "the file has no bytes", "Remove it; its writer was interrupted.")
                return
            if source.read(len(_MAGIC)) != _MAGIC:
                # The parser looks at the end only; what stands before the first page shifts all pages.
                target.findings.add("not-parquet", "it does not begin as a parquet file does", REWRITE)
                return
            with pq.ParquetFile(source, page_checksum_verification=True) as file:
                check(file, source)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # Without a number the error is the parser's, not the system's.
        target.findings.add("not-parquet", f"not a readable parquet file: {first_line(error)}", REWRITE)


def check_columns(schema: pa.Schema, wanted: pa.Schema, findings: Collector) -> bool:
    """Tell whether the columns are exactly those of the contract, and report what differs."""
    if schema.names != wanted.names:
        names, hint = ", ".join(schema.names)[:200], f"They must be exactly {', '.join(wanted.names)}; no index column."
        findings.add("columns", f"the columns are {names}", hint)
        return False
    differing = [field for field in schema if field.type != wanted.field(field.name).type]
    for field in differing:
        message = f"the type is {field.type}, not {wanted.field(field.name).type}"
        findings.add("type", message, REWRITE, field=field.name)
    return not differing


def day_bounds_ns(day: date) -> tuple[int, int] | None:
    """Return start and end of an ET day, nanoseconds since 1970 UTC; None beyond the calendar."""
    try:
        midnights = (datetime.combine(at, time(), tzinfo=ET) for at in (day, day + timedelta(days=1)))
        start, end = (int(midnight.timestamp()) * 1_000_000_000 for midnight in midnights)
    except OverflowError:
        return None
    return start, end

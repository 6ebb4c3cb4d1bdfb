"""The coverage of a data root as rows of a table: one per symbol and bar size, with what is missing and partial.

For the pages of flow runs; it opens the coverage file as it is and writes nothing. No Prefect here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from connectors.store.bars import kind_text
from connectors.store.errors import StoreError
from contracts.coverage import load_coverage
from contracts.errors import ContractError
from flows.bar_sizes import bar_size_of
from flows.coverage_judge import DaysJudge

if TYPE_CHECKING:
    from collections.abc import Collection

    from flows.settings import Settings

logger = logging.getLogger(__name__)

_COLUMNS = ("first", "last", "days", "missing", "partial", "vendor_has_none", "rows")


def coverage_rows(
    settings: Settings, *, now_ns: int, symbols: Collection[str] | None = None, most: int
) -> tuple[list[dict[str, object]], int]:
    """The rows, and how many groups of symbol and bar size there are.

    Args:
        settings: name the data root, and the kind of bars that downloads ask for.
        now_ns: the present, nanoseconds since 1970 UTC.
        symbols: canonical symbols; all when None.
        most: so many rows at most, for judging days takes time.

    Returns:
        Nothing when there is no coverage, or it cannot be read; the log says why.
    """
    root = settings.data_root
    kind = kind_text(settings.bars_what_to_show, not settings.bars_extended_hours)
    rows: list[dict[str, object]] = []
    try:
        if not root.bars_coverage.is_file():
            return [], 0
        index = load_coverage(root.bars_coverage)
        judge = DaysJudge(root, index, now_ns=now_ns, kind=kind)
        keys = [(symbol, bar_size_of(size)) for symbol, size in index.keys if symbols is None or symbol in symbols]
        for symbol, size in keys[:most]:
            told = judge.group(symbol, size, None, None).to_document()
            rows.append({"symbol": symbol, "bar size": size, **{_name(key): told[key] or 0 for key in _COLUMNS}})
    except (ContractError, StoreError, OSError, ValueError) as error:
        logger.warning("the coverage cannot be shown: %s", error)
        return [], 0
    return rows, len(keys)


def _name(column: str) -> str:
    return column.replace("_", " ")

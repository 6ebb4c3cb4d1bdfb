"""From a canonical symbol to what Databento calls it: symbol mapping file first, the dataset's own convention else."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from pydantic import ValidationError

from connectors.databento.request import SCHEMA_LEVELS, DayRequest, canonical_dataset
from contracts.v1.symbol_mapping import SymbolMapping

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path

logger = logging.getLogger(__name__)

NASDAQ_SPELLING = frozenset(
    {
        "BATS.PITCH",
        "BATY.PITCH",
        "EDGA.PITCH",
        "EDGX.PITCH",
        "EPRL.DOM",
        "EQUS.MINI",
        "IEXG.TOPS",
        "XBOS.ITCH",
        "XNAS.BASIC",
        "XNAS.ITCH",
        "XPSX.ITCH",
    }
)
"""Datasets that write `BRK.B` (vendor's dataset pages, "Symbol convention"); the others (CMS) write `BRK B`."""


class MappingFileError(ValueError):
    """The symbol mapping file cannot be used.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"SYMBOL_MAPPING_FILE {path}: {problem}. Correct the file: a JSON object such as "
            '{"BRK-B": "BRK.B"} or {"WFI": {"symbol": "WFI", "dataset": "XNYS.PILLAR"}}.'
        )
        self.path = path


def read_mapping(path: Path, *, required: bool) -> SymbolMapping:
    """Read a symbol mapping file.

    Args:
        path: the file.
        required: whether a missing file is an error; the default path may be absent.

    Raises:
        MappingFileError: missing though required, unreadable, not the documented form, or naming a schema that is not
            read here. A malformed file is never an empty mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if required:
            raise MappingFileError(path, "there is no such file") from None
        return SymbolMapping({})
    except (OSError, UnicodeDecodeError) as exc:
        raise MappingFileError(path, f"it cannot be read ({exc})") from exc
    try:
        mapping = SymbolMapping.model_validate(json.loads(text, object_pairs_hook=_unique))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise MappingFileError(path, f"{where}: {first['msg']}") from exc
    except (ValueError, RecursionError) as exc:
        raise MappingFileError(path, f"it is not JSON ({exc})") from exc
    for key, entry in mapping.root.items():
        if entry.schema_ is not None and entry.schema_ not in SCHEMA_LEVELS:
            raise MappingFileError(path, f"{key}: schema {entry.schema_!r} is not one of {', '.join(SCHEMA_LEVELS)}")
        if entry.symbol == key and entry.dataset is None and entry.schema_ is None:
            logger.warning("symbol mapping: %s maps to itself; remove the entry or write the vendor's symbol", key)
    return mapping


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; a key that stands twice would silently lose one of its values."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result


def vendor_spelling(symbol: str, dataset: str) -> str:
    """The dataset's spelling of a canonical symbol that no mapping names (`BRK-B` -> `BRK.B` or `BRK B`)."""
    return symbol.replace("-", "." if dataset in NASDAQ_SPELLING else " ")


def day_request(
    symbol: str,
    day: dt.date,
    window_ns: tuple[int, int],
    *,
    dataset: str,
    schema: str,
    mapping: SymbolMapping,
) -> DayRequest:
    """What to ask the vendor for.

    Args:
        symbol: canonical symbol.
        day: ET day.
        window_ns: the day's window, UTC nanoseconds, end exclusive.
        dataset: dataset of symbols the mapping does not send elsewhere.
        schema: likewise.
        mapping: the symbol mapping.
    """
    entry = mapping.entry(symbol, day)
    chosen = canonical_dataset((entry.dataset if entry else None) or dataset)
    return DayRequest(
        symbol=symbol,
        day=day,
        vendor_symbol=(entry.symbol if entry else None) or vendor_spelling(symbol, chosen),
        dataset=chosen,
        schema=(entry.schema_ if entry else None) or schema,
        start_ns=window_ns[0],
        end_ns=window_ns[1],
    )

"""The JSON Schemas in this wheel, and which model each was generated from.

`tools/schemas.py` writes them; here they are only read. A copy for other languages lies in the repository's `schemas/`.
"""

from __future__ import annotations

import json
import re
from datetime import date, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from contracts.errors import UnknownSchemaVersion
from contracts.v1 import (
    backfill,
    bars,
    depth_messages,
    gaps,
    level2,
    level2_events,
    quality,
    session_stats,
    symbol_mapping,
)

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

    from contracts.v1._model import Contract

MODELS: Final[dict[str, type[Contract | depth_messages.DepthMessages | symbol_mapping.SymbolMapping]]] = {
    backfill.MANIFEST_VERSION: backfill.BackfillManifestLine,
    backfill.SUMMARY_VERSION: backfill.BackfillSummary,
    bars.COVERAGE_VERSION: bars.BarsCoverage,
    bars.MANIFEST_VERSION: bars.BarsManifestLine,
    bars.SCHEMA_VERSION: bars.BarsMetadata,
    gaps.SCHEMA_VERSION: gaps.Gap,
    level2.SCHEMA_VERSION: level2.SnapshotMetadata,
    level2_events.SCHEMA_VERSION: level2_events.EventsMetadata,
    depth_messages.SCHEMA_VERSION: depth_messages.DepthMessages,
    session_stats.SCHEMA_VERSION: session_stats.SessionStats,
    quality.SCHEMA_VERSION: quality.Quality,
    symbol_mapping.SCHEMA_VERSION: symbol_mapping.SymbolMapping,
}
"""The model of each version. Of parquet files (`bars.v1`, `level2_...`) it is the footer's metadata, decoded."""

_SECONDS_END: Final = len("2025-09-04T13:30:00")


def schema_filename(version: str) -> str:
    """Return the file name of a schema: `backfill_l2_manifest.v1` is in `backfill_l2_manifest.schema.json`."""
    return f"{re.sub(r'[.]v[0-9]+$', '', version)}.schema.json"


def schema_id(version: str) -> str:
    """Return the `$id`, which never changes within a major version and needs no host to exist."""
    return f"urn:marketdata-contracts:{version}"


def schema_text(version: str) -> str:
    """Return a schema as it lies in the wheel.

    Raises:
        UnknownSchemaVersion: There is none of that name.
    """
    if version not in MODELS:
        raise UnknownSchemaVersion(version, MODELS)
    folder = files("contracts") / version.rpartition(".")[2] / "schemas"
    return (folder / schema_filename(version)).read_text(encoding="utf-8")


def load_schema(version: str) -> dict[str, Any]:
    """Return a schema as a new dictionary.

    Raises:
        UnknownSchemaVersion: There is none of that name.
    """
    schema: dict[str, Any] = json.loads(schema_text(version))
    return schema


@cache
def schema_validator(version: str) -> Validator:
    """Return a jsonschema validator that checks days against the calendar too, which a pattern cannot.

    Raises:
        UnknownSchemaVersion: There is no schema of that name.
    """
    import jsonschema  # noqa: PLC0415 - a heavy import that reading data does not need

    checker = jsonschema.FormatChecker(formats=())
    checker.checks("date", raises=ValueError)(_is_date)
    checker.checks("date-time", raises=ValueError)(_is_datetime)
    return jsonschema.Draft202012Validator(load_schema(version), format_checker=checker)


# The layout of both is in the pattern beside the format; only whether the day exists is left to ask.
def _is_date(value: object) -> bool:
    return not isinstance(value, str) or bool(date.fromisoformat(value))


def _is_datetime(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.fromisoformat(value[:_SECONDS_END]))

"""What the market-data files mean: names, models, Arrow schemas, sessions, validation.

This module re-exports the public names and nothing else. Importing it needs neither pandas nor exchange_calendars nor
jsonschema; what needs them imports them at its first use.
"""

from importlib.metadata import version as _version

from contracts.errors import (
    ContractError,
    InvalidDataRoot,
    InvalidDocument,
    InvalidName,
    InvalidSnapshotFile,
    InvalidSymbol,
    InvalidWindow,
    NotASession,
    OutsideCalendar,
    UnknownSchemaVersion,
)
from contracts.layout import (
    BarsName,
    DataRoot,
    Level2Name,
    check_data_root,
    level2_candidates,
    parse_bars_path,
    parse_level2_name,
    resolve_data_root,
)
from contracts.sessions import (
    ET,
    Window,
    effective_window,
    is_session,
    named_session,
    parse_window,
    session_close_et,
    sessions_between,
    today_et,
)
from contracts.symbols import canonical_symbol
from contracts.timestamps import iso_utc_from_ns, ns_from_iso_utc
from contracts.v1.backfill import (
    BackfillCounts,
    BackfillManifestLine,
    BackfillStatus,
    BackfillSummary,
    parse_manifest_line,
    parse_summary,
)
from contracts.v1.level2 import SNAPSHOT_SCHEMA, BookScope, SnapshotMetadata, snapshot_schema
from contracts.v1.level2_events import EVENTS_SCHEMA, EventsMetadata, events_schema
from contracts.v1.quality import Quality
from contracts.v1.symbol_mapping import SymbolMapping, SymbolMappingEntry
from contracts.validate import Finding, Report, validate_path

__version__ = _version("marketdata-contracts")

__all__ = [
    "ET",
    "EVENTS_SCHEMA",
    "SNAPSHOT_SCHEMA",
    "BackfillCounts",
    "BackfillManifestLine",
    "BackfillStatus",
    "BackfillSummary",
    "BarsName",
    "BookScope",
    "ContractError",
    "DataRoot",
    "EventsMetadata",
    "Finding",
    "InvalidDataRoot",
    "InvalidDocument",
    "InvalidName",
    "InvalidSnapshotFile",
    "InvalidSymbol",
    "InvalidWindow",
    "Level2Name",
    "NotASession",
    "OutsideCalendar",
    "Quality",
    "Report",
    "SnapshotMetadata",
    "SymbolMapping",
    "SymbolMappingEntry",
    "UnknownSchemaVersion",
    "Window",
    "__version__",
    "canonical_symbol",
    "check_data_root",
    "effective_window",
    "events_schema",
    "is_session",
    "iso_utc_from_ns",
    "level2_candidates",
    "named_session",
    "ns_from_iso_utc",
    "parse_bars_path",
    "parse_level2_name",
    "parse_manifest_line",
    "parse_summary",
    "parse_window",
    "resolve_data_root",
    "session_close_et",
    "sessions_between",
    "snapshot_schema",
    "today_et",
    "validate_path",
]

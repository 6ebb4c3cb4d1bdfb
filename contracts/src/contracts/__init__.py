"""What the market-data files mean, and how to read them: models, schemas, sessions, book, coverage, reader, validator.

This module re-exports the public names and nothing else. Importing it needs neither pandas nor exchange_calendars nor
jsonschema; what needs them imports them at its first use.
"""

from importlib.metadata import version as _version

from contracts.availability import (
    BarsAvailability,
    BarsDay,
    DayCoverage,
    Hole,
    Level2Coverage,
    SourceDay,
    bars_availability,
    fingerprint,
    level2_coverage,
)
from contracts.book import Book, Replayer, replay, replay_batches
from contracts.coverage import (
    CoverageIndex,
    CoverageReport,
    CoverageResult,
    SkippedLine,
    build_coverage,
    coverage_from_lines,
    load_coverage,
)
from contracts.dispatch import READERS, parse_document
from contracts.errors import (
    ContractError,
    InvalidBarsFile,
    InvalidDataRoot,
    InvalidDocument,
    InvalidName,
    InvalidSnapshotFile,
    InvalidSymbol,
    InvalidWindow,
    MixedData,
    NotASession,
    NotAvailable,
    OutsideCalendar,
    UnknownSchemaVersion,
)
from contracts.follow import Cursor, Followed, Skipped, follow_backfill, follow_bars, follow_gaps
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
from contracts.reader import BookMatrices, MarketData, Part, SnapshotsFile
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
from contracts.timestamps import iso_utc_from_ns, ns_from_iso_utc, ns_from_text
from contracts.v1.backfill import (
    BackfillCounts,
    BackfillManifestLine,
    BackfillStatus,
    BackfillSummary,
    parse_manifest_line,
    parse_summary,
)
from contracts.v1.bars import (
    BAR_SCHEMA,
    BarsCoverage,
    BarsManifestLine,
    BarsMetadata,
    CoverageDay,
    CoverageEntry,
    CoverageTotal,
    bars_schema,
    parse_bars_coverage,
    parse_bars_manifest_line,
)
from contracts.v1.depth_messages import DepthMessage, DepthMessages
from contracts.v1.gaps import Gap, GapCause, parse_gap_line
from contracts.v1.level2 import SNAPSHOT_SCHEMA, BookScope, SnapshotMetadata, snapshot_schema
from contracts.v1.level2_events import EVENTS_SCHEMA, EventsMetadata, events_schema
from contracts.v1.quality import Quality
from contracts.v1.session_stats import SessionStats
from contracts.v1.symbol_mapping import SymbolMapping, SymbolMappingEntry
from contracts.validate import Finding, KindCount, Report, validate_path

__version__ = _version("marketdata-contracts")

__all__ = [
    "BAR_SCHEMA",
    "ET",
    "EVENTS_SCHEMA",
    "READERS",
    "SNAPSHOT_SCHEMA",
    "BackfillCounts",
    "BackfillManifestLine",
    "BackfillStatus",
    "BackfillSummary",
    "BarsAvailability",
    "BarsCoverage",
    "BarsDay",
    "BarsManifestLine",
    "BarsMetadata",
    "BarsName",
    "Book",
    "BookMatrices",
    "BookScope",
    "ContractError",
    "CoverageDay",
    "CoverageEntry",
    "CoverageIndex",
    "CoverageReport",
    "CoverageResult",
    "CoverageTotal",
    "Cursor",
    "DataRoot",
    "DayCoverage",
    "DepthMessage",
    "DepthMessages",
    "EventsMetadata",
    "Finding",
    "Followed",
    "Gap",
    "GapCause",
    "Hole",
    "InvalidBarsFile",
    "InvalidDataRoot",
    "InvalidDocument",
    "InvalidName",
    "InvalidSnapshotFile",
    "InvalidSymbol",
    "InvalidWindow",
    "KindCount",
    "Level2Coverage",
    "Level2Name",
    "MarketData",
    "MixedData",
    "NotASession",
    "NotAvailable",
    "OutsideCalendar",
    "Part",
    "Quality",
    "Replayer",
    "Report",
    "SessionStats",
    "Skipped",
    "SkippedLine",
    "SnapshotMetadata",
    "SnapshotsFile",
    "SourceDay",
    "SymbolMapping",
    "SymbolMappingEntry",
    "UnknownSchemaVersion",
    "Window",
    "__version__",
    "bars_availability",
    "bars_schema",
    "build_coverage",
    "canonical_symbol",
    "check_data_root",
    "coverage_from_lines",
    "effective_window",
    "events_schema",
    "fingerprint",
    "follow_backfill",
    "follow_bars",
    "follow_gaps",
    "is_session",
    "iso_utc_from_ns",
    "level2_candidates",
    "level2_coverage",
    "load_coverage",
    "named_session",
    "ns_from_iso_utc",
    "ns_from_text",
    "parse_bars_coverage",
    "parse_bars_manifest_line",
    "parse_bars_path",
    "parse_document",
    "parse_gap_line",
    "parse_level2_name",
    "parse_manifest_line",
    "parse_summary",
    "parse_window",
    "replay",
    "replay_batches",
    "resolve_data_root",
    "session_close_et",
    "sessions_between",
    "snapshot_schema",
    "today_et",
    "validate_path",
]

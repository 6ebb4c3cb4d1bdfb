"""What a consumer calls to read a data root: `MarketData` lists, loads and scans what lies there.

Only reads, and only what the contract describes: a file that breaks it is refused by name, never read half. How files
are found is in `_reader.files`, how rows are read in `_reader.rows`, bars in `_reader.bars`; what is missing and why is
`contracts.availability`, what is new `contracts.follow`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self

import pyarrow as pa

from contracts._availability.judge import sources_asked
from contracts._reader.bars import CoverageFiles, check_bar_size, place_of, read_bars, refuse_mixed_bars
from contracts._reader.days import to_range
from contracts._reader.files import (
    Footers,
    FoundName,
    SnapshotsFile,
    differences,
    find_names,
    find_symbols,
    refuse_mixed,
)
from contracts._reader.rows import SOURCED_SCHEMA, BookMatrices, Part, batches, matrices
from contracts.availability import bars_availability, fingerprint, level2_coverage
from contracts.errors import ContractError, InvalidDataRoot, InvalidWindow, NotAvailable
from contracts.follow import follow_backfill, follow_bars, follow_gaps
from contracts.layout import DataRoot, level2_candidates
from contracts.sessions import Window, parse_window
from contracts.symbols import canonical_symbol
from contracts.v1.level2 import SNAPSHOT_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import date

    from contracts._coverage.index import CoverageIndex
    from contracts.availability import BarsAvailability, DayCoverage, Level2Coverage
    from contracts.follow import Cursor, Followed
    from contracts.layout import BarSize
    from contracts.v1.backfill import BackfillManifestLine
    from contracts.v1.bars import BarsManifestLine
    from contracts.v1.gaps import Gap

__all__ = ["BookMatrices", "MarketData", "Part", "SnapshotsFile"]

_STYLES: Final = ("level2", "Level2")
_SHOWN: Final = 5
_TABLE_BATCH_ROWS: Final = 131_072


class MarketData:
    """The data that lies below a root, for reading.

    Days are ET trading days, given as `datetime.date` or `YYYY-MM-DD`; ranges include both ends, and without an end are
    one day. Symbols are taken in any spelling. A range may have days without data: they are not in the result and no
    error; `coverage` and `missing` tell about them. Footers are read once per file and state; an object may be used by
    several threads.

    Args:
        path: The data root, the folder in which `level2` and `bars` lie; `~` is expanded.
        level2_dirname: Name of one more Level-2 folder to look in first, besides `level2` and `Level2`.

    Raises:
        InvalidDataRoot: There is no such folder, or `level2_dirname` is not one plain folder name.
    """

    def __init__(self, path: str | Path, *, level2_dirname: str | None = None) -> None:
        try:
            root = Path(path).expanduser().absolute()
        except RuntimeError as error:
            raise InvalidDataRoot(path, str(error)) from None
        names = (*(() if level2_dirname is None else (level2_dirname,)), *_STYLES)
        self._take(tuple(DataRoot(root, name) for name in dict.fromkeys(names)))

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Open the data roots that an environment names, in every base-path style.

        Args:
            env: The process environment merged over `.env`, such as `os.environ`; nothing else is asked.

        Raises:
            InvalidDataRoot: A root cannot be used, or none of them is there.
        """
        self = cls.__new__(cls)
        self._take(tuple(DataRoot(folder.parent, folder.name) for folder in level2_candidates(env)))
        return self

    def _take(self, roots: tuple[DataRoot, ...]) -> None:
        if not any(os.path.isdir(root.path) for root in roots):  # noqa: PTH112 - Path.is_dir raises for odd names
            raise InvalidDataRoot(roots[0].path, "there is no such folder; give the one in which level2 or bars lie")
        first = roots[0].path
        if first.name in _STYLES and not any(os.path.isdir(root.level2_dir) for root in roots):  # noqa: PTH112 - as above
            raise InvalidDataRoot(first, "it looks like the Level-2 folder; give the folder it lies in")
        self._roots = roots
        self._footers = Footers()
        self._coverages = CoverageFiles()

    @property
    def roots(self) -> tuple[DataRoot, ...]:
        """Every place that is looked in, best first, existing or not."""
        return self._roots

    def __repr__(self) -> str:
        paths = ", ".join(str(path) for path in dict.fromkeys(root.path for root in self._roots))
        try:
            symbols = self.symbols()
        except ContractError as error:
            return f"MarketData({paths}: {error})"
        return f"MarketData({paths}: {_listed(symbols, 'Level-2 symbol')})"

    def symbols(self, kind: Literal["level2", "bars"] = "level2") -> list[str]:
        """Return the symbols that there are, sorted.

        Args:
            kind: `level2`: symbols with a snapshots file, by name. `bars`: symbols in the bars coverage.

        Raises:
            InvalidDataRoot: A folder cannot be listed.
            NotAvailable: There is no bars coverage.
            ContractError: The bars coverage cannot be read.
        """
        if kind == "level2":
            return find_symbols(self._roots)
        return sorted({symbol for _, index in self._indexes() for symbol, _ in index.keys})

    def days(self, symbol: str, source: str | Sequence[str] | None = None) -> list[date]:
        """Return the days with a readable snapshots file, sorted.

        Raises:
            InvalidSymbol: `symbol` has no canonical form.
            InvalidDataRoot: A folder cannot be listed.
        """
        return sorted({file.day for file in self._footers.readable(self._names(symbol, source=source))})

    def sources(self, symbol: str, day: date | str | None = None) -> list[str]:
        """Return the sources with a readable snapshots file, of a day or of any, sorted; `ibkr` is live capture.

        Raises:
            InvalidSymbol: `symbol` has no canonical form.
            InvalidName: `day` is none.
            InvalidDataRoot: A folder cannot be listed.
        """
        names = self._names(symbol, *(() if day is None else (day,)))
        return sorted({file.source for file in self._footers.readable(names)})

    def files(
        self,
        symbol: str,
        start: date | str,
        end: date | str | None = None,
        *,
        source: str | Sequence[str] | None = None,
    ) -> list[SnapshotsFile]:
        """Return the snapshots files of a range, sorted by day, source and time; none when there is nothing.

        A live day has one file per segment.

        Args:
            symbol: Any spelling.
            start: First day.
            end: Last day, inclusive; None is `start`.
            source: `ibkr`, a source tag such as `databento`, or several; None is any.

        Raises:
            InvalidSnapshotFile: One of the files is no snapshots file, or one of another symbol or day.
            UnknownSchemaVersion: One is of a version this package does not read.
            InvalidSymbol: `symbol` has no canonical form.
            InvalidName: A day is none.
            InvalidDataRoot: A folder cannot be listed.
        """
        first, last = to_range(start, end)
        return [self._footers.describe(name) for name in self._names(symbol, first, last, source=source)]

    def paths(
        self,
        symbol: str,
        start: date | str,
        end: date | str | None = None,
        *,
        source: str | Sequence[str] | None = None,
    ) -> list[Path]:
        """Return the paths of `files`, for `polars.scan_parquet`, duckdb or `pyarrow.dataset.dataset`.

        Footers are checked, rows are not, and nothing is refused for being mixed.

        Raises:
            ContractError: As `files`.
        """
        return [file.path for file in self.files(symbol, start, end, source=source)]

    def snapshots(
        self,
        symbol: str,
        start: date | str,
        end: date | str | None = None,
        *,
        source: str | Sequence[str] | None = None,
        window: Window | str | None = None,
        allow_mixed: bool = False,
    ) -> pa.Table:
        """Load the snapshots of a range.

        Rows stand by day, then source, then time; the segments of a live day follow each other. Every row was checked
        for what readers rely on: times of the fixed form, sorted, of the file's day, and lists of one length without
        nulls.

        Args:
            symbol: Any spelling.
            start: First day.
            end: Last day, inclusive; None is `start`.
            source: `ibkr`, a source tag such as `databento`, or several; None is the only one there is.
            window: Only rows of this part of every day, ET, start inclusive, end exclusive; `09:30-10:00`.
            allow_mixed: Load files of different source, book scope, interval or levels, and segments that overlap in
                time, as they are.

        Returns:
            The columns of `SNAPSHOT_SCHEMA`; when several sources were asked for or the files are mixed, one more,
            `source`.

        Raises:
            NotAvailable: There is no file in the range; says what there is.
            MixedData: The files differ in what their rows mean, or two segments overlap; see `allow_mixed`.
            InvalidSnapshotFile: A file breaks the contract; says at which row and field.
            ContractError: As `files`; also InvalidWindow.
        """
        load = self._load(symbol, start, end, source, window, allow_mixed=allow_mixed)
        return pa.Table.from_batches(load.batches(_TABLE_BATCH_ROWS), load.schema)

    def batches(
        self,
        symbol: str,
        start: date | str,
        end: date | str | None = None,
        *,
        source: str | Sequence[str] | None = None,
        window: Window | str | None = None,
        allow_mixed: bool = False,
        batch_rows: int = 65_536,
    ) -> Iterator[pa.RecordBatch]:
        """Load as `snapshots` does, in record batches of at most `batch_rows` rows and in bounded memory.

        What there is and whether it is mixed is checked at once; rows are checked as they are read, so a damaged file
        is refused when the iteration reaches it.

        Raises:
            ContractError: As `snapshots`.
        """
        if batch_rows < 1:
            raise ValueError(f"batch_rows must be at least 1, not {batch_rows}")
        return self._load(symbol, start, end, source, window, allow_mixed=allow_mixed).batches(batch_rows)

    def matrices(
        self,
        symbol: str,
        start: date | str,
        end: date | str | None = None,
        *,
        source: str | Sequence[str] | None = None,
        window: Window | str | None = None,
        allow_mixed: bool = False,
    ) -> BookMatrices:
        """Load as `snapshots` does, as numpy arrays of shape (rows, levels); no pandas, no Python object per row.

        Peak memory is that of the arrays and a few batches. Rows of one row group are not copied at all. Of files with
        different levels, loaded together by `allow_mixed`, the narrower ones are filled with missing levels.

        Raises:
            ContractError: As `snapshots`.
        """
        load = self._load(symbol, start, end, source, window, allow_mixed=allow_mixed)
        return matrices(load.files, load.window, allow_overlap=allow_mixed)

    def coverage(
        self,
        symbol: str,
        start: date | str,
        end: date | str | None = None,
        *,
        source: str | Sequence[str] | None = None,
        window: Window | str | None = None,
    ) -> Level2Coverage:
        """Tell for each day of a range whether Level 2 is there, what is missing in it, and why.

        See `contracts.availability.level2_coverage`.

        Raises:
            ContractError: As there.
        """
        return level2_coverage(self._roots, symbol, *to_range(start, end), source=source, window=window)

    def missing(
        self,
        symbol: str,
        start: date | str,
        end: date | str | None = None,
        *,
        source: str | Sequence[str] | None = None,
        window: Window | str | None = None,
    ) -> list[DayCoverage]:
        """Return the sessions of a range without Level 2; each says why. Days on which XNYS is closed are not missed.

        Raises:
            ContractError: As `coverage`.
        """
        report = self.coverage(symbol, start, end, source=source, window=window)
        return [report.day(day) for day in report.missing_days]

    def fingerprint(
        self,
        symbol: str,
        start: date | str,
        end: date | str | None = None,
        *,
        source: str | Sequence[str] | None = None,
    ) -> str:
        """Return a SHA-256 of the snapshots files of a range, to be kept with what was trained on them.

        The same on a copied or moved root, another one when any byte, file or day of the range differs. See
        `contracts.availability.fingerprint`.

        Raises:
            NotAvailable: There is no file in the range, or one vanished.
            ContractError: As `files`.
        """
        paths = self.paths(symbol, start, end, source=source)
        if not paths:
            raise self._nothing(symbol, start, end, source)
        return fingerprint(paths)

    def new_lines(
        self,
        cursor: Cursor | None = None,
        *,
        status: str | Collection[str] | None = None,
        symbol: str | None = None,
        newest: bool = False,
    ) -> Followed[BackfillManifestLine]:
        """Return the lines of the backfill manifest behind a cursor, and the next cursor.

        Of several roots the best one with a manifest is followed. See `contracts.follow.follow_backfill`.

        Raises:
            ContractError: As there; also OSError.
        """
        manifests = [root.backfill_manifest for root in self._roots]
        return follow_backfill(_first_file(manifests), cursor, status=status, symbol=symbol, newest=newest)

    def new_bars_lines(
        self,
        cursor: Cursor | None = None,
        *,
        symbol: str | None = None,
        bar_size: BarSize | None = None,
        newest: bool = False,
    ) -> Followed[BarsManifestLine]:
        """Return the lines of the bars download manifest behind a cursor, and the next cursor.

        As `new_lines`; see `contracts.follow.follow_bars`.

        Raises:
            ContractError: As there; also OSError.
        """
        manifests = [root.bars_manifest for root in self._roots]
        return follow_bars(_first_file(manifests), cursor, symbol=symbol, bar_size=bar_size, newest=newest)

    def new_gaps(self, cursor: Cursor | None = None, *, symbol: str | None = None) -> Followed[Gap]:
        """Return the gap records of live capture behind a cursor, and the next cursor.

        As `new_lines`; see `contracts.follow.follow_gaps`.

        Raises:
            ContractError: As there; also OSError.
        """
        return follow_gaps(_first_file([root.gaps for root in self._roots]), cursor, symbol=symbol)

    def bars_days(self, symbol: str, bar_size: BarSize) -> list[date]:
        """Return the days with bars by the bars coverage, in order; none when the symbol is not in it.

        Args:
            symbol: Any spelling.
            bar_size: `1 hour`, `1 min` or `1 sec`.

        Raises:
            NotAvailable: There is no bars coverage.
            UnknownSchemaVersion: It is of a version this package does not read.
            InvalidDocument: It is damaged, or its entry is.
            InvalidSymbol: `symbol` has no canonical form.
            InvalidName: There is no such bar size.
        """
        found = self._bars_index(symbol, bar_size)
        return [] if found is None else found[1].days(symbol, bar_size).tolist()

    def bars(
        self,
        symbol: str,
        bar_size: BarSize,
        start: date | str,
        end: date | str | None = None,
        *,
        allow_mixed: bool = False,
    ) -> pa.Table:
        """Load the bars of a range, in order, each listed day from the file that the bars coverage names for it.

        Paths in the coverage are absolute; of a root that moved the same place below it is taken.

        Args:
            symbol: Any spelling.
            bar_size: `1 hour`, `1 min` or `1 sec`.
            start: First ET day.
            end: Last ET day, inclusive; None for one day.
            allow_mixed: Load days of trades and of quotes, or of regular and of extended hours, as one. Files of the
                system before do not say what they are.

        Returns:
            The columns of `BAR_SCHEMA`, raw prices.

        Raises:
            MixedData: The files say that their bars mean different things; see `allow_mixed`.
            NotAvailable: There is no bars coverage, or no listed day in the range; says what there is.
            InvalidBarsFile: A listed file is not there, or is not what the coverage and the contract say.
            ContractError: As `bars_days`.
        """
        first, last = to_range(start, end)
        found = self._bars_index(symbol, bar_size)
        name = canonical_symbol(symbol)
        what = f"{bar_size} bars of {name} for {first.isoformat()} to {last.isoformat()}"
        if found is None:
            have = ", ".join(sorted({size for _, index in self._indexes() for key, size in index.keys if key == name}))
            raise NotAvailable(what, f"the coverage has {have or 'no'} bars of {name}")
        root, index = found
        listed = index.files(name, bar_size, first, last)
        if not listed:
            days = index.days(name, bar_size)
            span = f" from {days[0]} to {days[-1]}" if len(days) else ""
            raise NotAvailable(what, f"the coverage has {len(days)} days{span}")
        read = [read_bars(place_of(day, root, name, bar_size), day) for day in listed]
        if not allow_mixed:
            refuse_mixed_bars(footer for _, footer in read)
        return pa.concat_tables([table for table, _ in read])

    def bars_coverage(
        self, symbol: str, bar_size: BarSize, start: date | str, end: date | str | None = None
    ) -> BarsAvailability:
        """Tell which days of bars are there, which are missing or cut short, and why.

        See `contracts.availability.bars_availability`.

        Raises:
            ContractError: As there, and as `bars_days`.
        """
        found = self._bars_index(symbol, bar_size)
        entries = [] if found is None else [found[1].entry(symbol, bar_size)]
        return bars_availability(entries, symbol, bar_size, *to_range(start, end), roots=self._roots)

    def _bars_index(self, symbol: str, bar_size: BarSize) -> tuple[DataRoot, CoverageIndex] | None:
        """Return the coverage with a symbol and bar size, and its root; of several roots the best."""
        key = canonical_symbol(symbol), check_bar_size(bar_size)
        return next(((root, index) for root, index in self._indexes() if key in index.keys), None)

    def _indexes(self) -> list[tuple[DataRoot, CoverageIndex]]:
        roots = {root.path: root for root in self._roots}.values()
        found = [(root, index) for root in roots if (index := self._coverages.index(root)) is not None]
        if not found:
            places = ", ".join(str(root.bars_coverage) for root in roots)
            raise NotAvailable("the bars coverage", f"there is no {places}; `trading-data coverage build` writes it")
        return found

    def _names(
        self,
        symbol: str,
        start: date | str | None = None,
        end: date | str | None = None,
        *,
        source: str | Sequence[str] | None = None,
    ) -> list[FoundName]:
        found = find_names(self._roots, canonical_symbol(symbol))
        if source is not None:
            sources = _sources(source)
            found = [name for name in found if name.source in sources]
        if start is not None:
            first, last = to_range(start, end)
            found = [name for name in found if first <= name.name.day <= last]
        return found

    def _load(
        self,
        symbol: str,
        start: date | str,
        end: date | str | None,
        source: str | Sequence[str] | None,
        window: Window | str | None,
        *,
        allow_mixed: bool,
    ) -> _Load:
        files = self.files(symbol, start, end, source=source)
        if not files:
            raise self._nothing(symbol, start, end, source)
        if not allow_mixed:
            refuse_mixed(files, sources_asked=source is not None)
        several = source is not None and len(_sources(source)) > 1
        parsed = parse_window(window) if isinstance(window, str) else window
        if not isinstance(parsed, Window | None):
            raise InvalidWindow(str(window), "it is neither a text nor a Window")
        return _Load(files, parsed, with_source=several or bool(differences(files)), allow_overlap=allow_mixed)

    def _nothing(
        self, symbol: str, start: date | str, end: date | str | None, source: str | Sequence[str] | None
    ) -> NotAvailable:
        """Say that a range is empty, and what is there instead."""
        name = canonical_symbol(symbol)
        days = f"{start}" if end is None or end == start else f"{start} to {end}"
        what = f"Level 2 of {name} for {days}" + (
            "" if source is None else f" from {', '.join(sorted(_sources(source)))}"
        )
        there = [found.name.day for found in self._names(symbol)]
        if not there:
            return NotAvailable(
                what, f"there is no file of {name}; here are {_listed(self.symbols(), 'Level-2 symbol')}"
            )
        sources = ", ".join(self.sources(symbol))
        span = f"{there[0].isoformat()} to {there[-1].isoformat()}"
        return NotAvailable(what, f"{name} has {len(set(there))} days from {span}, of {sources}; `coverage` says why")


@dataclass(frozen=True)
class _Load:
    """What a call asked for, after it was found."""

    files: list[SnapshotsFile]
    window: Window | None
    with_source: bool
    allow_overlap: bool

    @property
    def schema(self) -> pa.Schema:
        return SOURCED_SCHEMA if self.with_source else SNAPSHOT_SCHEMA

    def batches(self, batch_rows: int) -> Iterator[pa.RecordBatch]:
        return batches(
            self.files, self.window, batch_rows, with_source=self.with_source, allow_overlap=self.allow_overlap
        )


def _sources(source: str | Sequence[str]) -> frozenset[str]:
    return frozenset(sources_asked(source) or ())


def _first_file(paths: Sequence[Path]) -> Path:
    """Return the first that is there, or else the first."""
    return next((path for path in paths if path.exists()), paths[0])


def _listed(names: Sequence[str], what: str) -> str:
    """Return how many there are and the first few."""
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names) or 'no'} {what}{'' if len(names) == 1 else 's'}" + (f" ({shown})" if names else "")

"""Bars coverage: which bars there are, derived from the download ledger alone.

`build_coverage` keeps `bars_coverage_manifest.json` of a data root up to date, `is_current` tells whether it is,
`coverage_from_lines` derives the same from lines in memory, and `load_coverage` opens a coverage file to look days up.
What a line means is in `_coverage.ledger_line`, which file of a day is the best in `_coverage.rules`; here is only the
order of the steps.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Final

from contracts._coverage.file import FILE_END, HEAD, LONGEST_HEAD, atomic_file, file_head, is_same, remove_temps
from contracts._coverage.full import derive
from contracts._coverage.index import CoverageIndex, load_coverage
from contracts._coverage.ledger_columns import LinesBuilder
from contracts._coverage.ledger_reader import LedgerReader
from contracts._coverage.refresh import refresh
from contracts._coverage.report import CoverageReport, SkippedLine
from contracts._coverage.splice import Splice
from contracts._coverage.state import Identity, NoState, State, load_state, save_state
from contracts._coverage.table import UNKNOWN_NS, CoverageTable
from contracts.errors import ContractError, NotAvailable
from contracts.v1.bars import BarsCoverage, parse_bars_coverage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from contracts._coverage.full import Derived
    from contracts.layout import DataRoot

__all__ = [
    "UNKNOWN_NS",
    "CoverageIndex",
    "CoverageReport",
    "CoverageResult",
    "CoverageTable",
    "SkippedLine",
    "build_coverage",
    "coverage_from_lines",
    "is_current",
    "load_coverage",
]

STATE_NAME: Final = ".bars_coverage_state"
"""What is remembered for the next derivation, beside the coverage file; can be deleted at any time."""

LOCK_NAME: Final = ".bars_coverage.lock"
"""Held during a derivation, beside the coverage file; empty, and left where it is."""


_BATCH_BYTES: Final = 4 << 20


@dataclass(frozen=True)
class CoverageResult:
    """The outcome of `build_coverage`.

    Attributes:
        report: What was read, and what was skipped and why.
        written: Whether the coverage file was replaced; not when its entries are what they were.
        path: The coverage file.
        state_saved: Whether the next derivation can be incremental; otherwise it is slower, never wrong.
    """

    report: CoverageReport
    written: bool
    path: Path
    state_saved: bool


def build_coverage(
    root: DataRoot,
    *,
    full: bool = False,
    generated_at: datetime | None = None,
    manifest: Path | None = None,
    out: Path | None = None,
) -> CoverageResult:
    """Derive `bars_coverage_manifest.json` of a data root from its download ledger.

    Reads only what was appended since the last time when the state of that time fits the ledger and the coverage file,
    else everything; the entries are the same either way. Files are replaced atomically, first the coverage, then the
    state. Several derivations of one root at a time wait for each other.

    A line counts if `contracts.v1.bars.parse_bars_manifest_line` reads it; for which ET day is told in
    `contracts._coverage.ledger_line`, the rules of the best file of a day are in `contracts._coverage.rules`.

    Args:
        root: The data root; nothing is created but the coverage file, the state and the lock.
        full: Read everything.
        generated_at: Aware; now, if not given. A file whose entries do not change keeps its own.
        manifest: Another ledger; no state is kept then.
        out: Another place for the coverage file, in a folder that exists; no state is kept then.

    Raises:
        NotAvailable: There is no ledger.
        ValueError: `generated_at` has no zone.
        OSError: The disk refuses; the coverage file is the old or the new one.
    """
    stamp = datetime.now(UTC) if generated_at is None else generated_at
    if stamp.utcoffset() is None:
        raise ValueError(f"generated_at {stamp} has no zone, give datetime.now(UTC)")
    ledger, target = manifest or root.bars_manifest, out or root.bars_coverage
    if not ledger.is_file():
        raise NotAvailable(str(ledger), "the first download of bars writes it")
    state = target.with_name(STATE_NAME)
    with _only_one(target.parent):
        remove_temps(target)
        remove_temps(state)
        keeps_state = ledger == root.bars_manifest and target == root.bars_coverage
        fd = os.open(ledger, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _Build(fd, target, state if keeps_state else None, stamp.astimezone(UTC)).run(full=full)
        finally:
            os.close(fd)


def is_current(root: DataRoot) -> bool:
    """Tell whether the coverage file of a data root is derived from the ledger as it is now.

    Quick, from what the last derivation left; nothing is written. False without a ledger, without a coverage file, and
    when it cannot be told: then `build_coverage` finds out.
    """
    try:
        fd = os.open(root.bars_manifest, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        size = os.fstat(fd).st_size
        _, identity, _ = load_state(root.bars_coverage.with_name(STATE_NAME), fd, size, root.bars_coverage)
        return not _has_line(fd, identity.offset, size)
    except (NoState, OSError):
        return False
    finally:
        os.close(fd)


def coverage_from_lines(
    lines: Iterable[str | bytes], *, generated_at: datetime | None = None
) -> tuple[BarsCoverage, CoverageReport]:
    """Derive the coverage of ledger lines that are in memory; the same rules as `build_coverage`.

    Args:
        lines: Whole lines in the order of the ledger, with or without line ends. Offsets in the report are those of the
            lines written one after the other.
        generated_at: Aware; now, if not given.

    Raises:
        ValueError: `generated_at` has no zone.
    """
    stamp = datetime.now(UTC) if generated_at is None else generated_at
    if stamp.utcoffset() is None:
        raise ValueError(f"generated_at {stamp} has no zone, give datetime.now(UTC)")
    report = CoverageReport()
    builder = LinesBuilder()
    reader = LedgerReader(builder, report)
    for some in _batches(lines):
        reader.read_lines(b"".join(some))
    derived = derive(builder.build(), builder.entries.keys())
    _count(report, derived.state)
    report.new_lines = report.lines
    return parse_bars_coverage(b"".join((file_head(stamp.astimezone(UTC)), *derived.parts()))), report


class _Build:
    """One derivation, with the lock held and the ledger open."""

    def __init__(self, ledger: int, target: Path, state: Path | None, stamp: datetime) -> None:
        self._ledger = ledger
        self._size = os.fstat(ledger).st_size
        self._target = target
        self._state = state
        self._head = file_head(stamp)

    def run(self, *, full: bool) -> CoverageResult:
        try:
            if full or self._state is None:
                raise NoState("it was asked for")  # noqa: TRY301 - one way to a full derivation
            return self._incremental(self._state)
        except NoState as reason:
            return self._full(str(reason))

    def _incremental(self, path: Path) -> CoverageResult:
        old, identity, report = load_state(path, self._ledger, self._size, self._target)
        lines_before = report.lines
        builder = LinesBuilder()
        reader = LedgerReader(builder, report, identity.offset)
        reader.read_file(self._ledger, self._size)
        report.new_lines = report.lines - lines_before
        if reader.offset == identity.offset:
            _count(report, old)
            return CoverageResult(report, written=False, path=self._target, state_saved=True)
        refreshed = refresh(old, self._ledger, builder.build(), builder.entries)
        _count(report, refreshed.state)
        with ExitStack() as last:
            source = last.enter_context(self._target.open("rb"))
            head = HEAD.match(source.read(LONGEST_HEAD))
            if head is None:
                raise NoState("the coverage file is not the one that was written")
            splice = Splice(refreshed, source.fileno(), head.end())
            if not splice.is_empty:
                with atomic_file(self._target, len(self._head) + splice.size) as sink:
                    sink.write(self._head)
                    splice.write(sink)
                    if sink.taken != len(self._head) + splice.size:
                        raise NoState("the coverage file is not the one that was written")
                # The old file vanishes with its last reader; for a large one that takes as long as saving the state.
                closing = threading.Thread(target=source.close, name="coverage-close")
                closing.start()
                last.callback(closing.join)
            saved = self._save(refreshed.state, reader.offset, report)
        return CoverageResult(report, written=not splice.is_empty, path=self._target, state_saved=saved)

    def _full(self, why: str) -> CoverageResult:
        report = CoverageReport(why=why)
        builder = LinesBuilder()
        reader = LedgerReader(builder, report)
        reader.read_file(self._ledger, self._size)
        report.new_lines = report.lines
        derived = derive(builder.build(), builder.entries.keys())
        _count(report, derived.state)
        is_new = not self._stands(derived)
        if is_new:
            with atomic_file(self._target, len(self._head) + derived.size) as sink:
                sink.write(self._head)
                for part in derived.parts():
                    sink.write(part)
        saved = self._save(derived.state, reader.offset, report)
        return CoverageResult(report, written=is_new, path=self._target, state_saved=saved)

    def _stands(self, derived: Derived) -> bool:
        """Whether the coverage file has these entries already."""
        try:
            with self._target.open("rb") as file:
                head = HEAD.match(file.read(LONGEST_HEAD))
                size = os.fstat(file.fileno()).st_size
            if head is None or size != head.end() + derived.size:
                return False
            parse_bars_coverage(head[0] + FILE_END)
            return is_same(self._target, chain((head[0],), derived.parts()))
        except (OSError, ContractError):
            return False

    def _save(self, state: State, offset: int, report: CoverageReport) -> bool:
        """Remember for the next time; a disk that refuses costs only time then."""
        if self._state is None:
            return False
        try:
            save_state(self._state, state, Identity.of(self._ledger, offset), self._target, report)
        except OSError:
            with suppress(OSError):
                self._state.unlink(missing_ok=True)
            return False
        return True


def _batches(lines: Iterable[str | bytes]) -> Iterator[list[bytes]]:
    """Yield the lines, all with line end, in lists of a few thousand."""
    some: list[bytes] = []
    size = 0
    for line in lines:
        # A text that is not Unicode is not UTF-8 either: it is refused as such.
        data = line.encode(errors="surrogatepass") if isinstance(line, str) else line
        some.append(data.removesuffix(b"\n") + b"\n")
        size += len(data)
        if size > _BATCH_BYTES:
            yield some
            some, size = [], 0
    yield some


def _has_line(fd: int, start: int, end: int) -> bool:
    """Whether a line ends within some bytes of a file; a torn one does not count yet."""
    while start < end and (data := os.pread(fd, min(_BATCH_BYTES, end - start), start)):
        if b"\n" in data:
            return True
        start += len(data)
    return False


def _count(report: CoverageReport, state: State) -> None:
    report.replaced = report.taken - len(state.day)
    report.days = int((state.size > 0).sum())
    report.not_best = len(state.day) - report.days
    report.entries = len(state.keys)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Wait until no other derivation works in a folder; the kernel frees the lock of one that dies."""
    import fcntl  # noqa: PLC0415 - POSIX only, and reading coverage works everywhere

    fd = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)

"""What a derivation leaves for the next one, so that only new bytes of the ledger need to be read.

The state file lies hidden beside the coverage file. It knows of every path its last line: where that line begins in the
ledger, the day it counts for, hashes to find it by, and how many bytes it takes in the coverage file. All else is in
the ledger and in the coverage file, and the state fits only these two. It can be deleted at any time.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from contracts._coverage.file import atomic_file
from contracts._coverage.report import TORN, CoverageReport

if TYPE_CHECKING:
    from pathlib import Path

    from contracts._coverage.ledger_columns import Int64, Key

FORMAT: Final = "bars_coverage_state.1"
"""Another text, another format: a state of another version is passed over."""

_LOOK_BYTES: Final = 4096
_HASH_WIDTH: Final = 32

COLUMNS: Final = {"offset": "<i8", "day": "<i4", "size": "<u4", "path": "<u4", "times": "<u4"}
"""The arrays of `State`, as they stand in the file."""


class NoState(Exception):  # noqa: N818 - not an error: everything is derived from the ledger then
    """There is no state that fits; the message says why."""


@dataclass(frozen=True)
class Identity:
    """The file that a state speaks of: a ledger up to a byte, told by its content, not by its name or inode.

    Attributes:
        offset: Bytes read.
        head: Hash of the first 4 KiB of them.
        tail: Hash of the last 4 KiB of them.
    """

    offset: int
    head: str
    tail: str

    @classmethod
    def of(cls, fd: int, offset: int) -> Identity:
        """Look at an open file."""
        size = min(offset, _LOOK_BYTES)
        return cls(offset, _hash(os.pread(fd, size, 0)), _hash(os.pread(fd, size, offset - size)))


@dataclass(frozen=True)
class State:
    """The last line of each path, sorted by symbol, bar size and day; arrays of shape (paths,).

    Attributes:
        keys: Symbol and bar size of each entry, sorted.
        counts: Paths of each entry.
        day: int32, days from 1970-01-01.
        size: uint32, bytes in the coverage file with separator; 0 for one that is not the best of its day.
        path: uint32, hash of the path.
        times: uint32, hash of the times, 0 without both times.
        offset: int64, where the line begins in the ledger.
    """

    keys: list[Key]
    counts: Int64
    day: npt.NDArray[np.int32]
    size: npt.NDArray[np.uint32]
    path: npt.NDArray[np.uint32]
    times: npt.NDArray[np.uint32]
    offset: Int64


def coverage_identity(path: Path) -> list[int]:
    """Return what tells a coverage file from another one of the same name: inode, size and time of the last change.

    Raises:
        OSError: It cannot be looked at.
    """
    status = path.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def save_state(path: Path, state: State, ledger: Identity, coverage: Path, report: CoverageReport) -> None:
    """Write the state file atomically: a line with the hash of the next, a line of JSON, then the columns.

    Raises:
        OSError: The disk refuses.
    """
    columns = [np.ascontiguousarray(getattr(state, name), dtype) for name, dtype in COLUMNS.items()]
    described = {
        "format": FORMAT,
        "ledger": [ledger.offset, ledger.head, ledger.tail],
        "coverage": coverage_identity(coverage),
        "entries": [[*key, count] for key, count in zip(state.keys, state.counts.tolist(), strict=True)],
        "report": _lasting(report).to_document(),
        "sums": [_sums(column.view(np.uint8)) for column in columns],
    }
    text = json.dumps(described).encode()
    # The columns begin at whole words.
    text += b" " * (-(_HASH_WIDTH + 1 + len(text) + 1) % 8)
    head = b"%b\n%b\n" % (_hash(text).encode(), text)
    # A state that a power cut leaves torn is noticed by its sums.
    with atomic_file(path, len(head) + sum(column.nbytes for column in columns), durable=False) as sink:
        sink.write(head)
        for column in columns:
            sink.write(column.view(np.uint8).data)


def load_state(path: Path, ledger: int, ledger_size: int, coverage: Path) -> tuple[State, Identity, CoverageReport]:
    """Read the state if it fits the ledger and the coverage file.

    Args:
        path: The state file.
        ledger: The ledger, open for reading.
        ledger_size: Its size.
        coverage: The coverage file.

    Raises:
        NoState: It is absent, damaged, of another format, or of other files.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NoState("there is no state of an earlier derivation") from None
    except OSError as error:
        raise NoState(f"the state cannot be read ({error.strerror})") from None
    try:
        return _fitting(data, ledger, ledger_size, coverage)
    except (ValueError, TypeError, KeyError, IndexError, OSError, RecursionError):
        # Whatever is wrong with a file that can be made again.
        raise NoState("the state is damaged") from None


def _fitting(data: bytes, ledger: int, ledger_size: int, coverage: Path) -> tuple[State, Identity, CoverageReport]:
    digest, text = data[: data.index(b"\n", _HASH_WIDTH + 1)].split(b"\n")
    if digest != _hash(text).encode():
        raise NoState("the state is damaged")
    described: dict[str, Any] = json.loads(text)
    if described["format"] != FORMAT:
        raise NoState("the state is of another version")
    counts = np.array([count for _, _, count in described["entries"]], np.int64)
    rows, place = int(counts.sum()), len(digest) + len(text) + 2
    columns: dict[str, npt.NDArray[Any]] = {}
    for name, dtype in COLUMNS.items():
        columns[name] = np.frombuffer(data, dtype, rows, place)
        place += columns[name].nbytes
    if place != len(data) or [_sums(column.view(np.uint8)) for column in columns.values()] != described["sums"]:
        raise NoState("the state is damaged")
    identity = Identity(*described["ledger"])
    if identity.offset > ledger_size:
        raise NoState("the ledger is shorter than it was")
    if Identity.of(ledger, identity.offset) != identity:
        raise NoState("the ledger is not the one that was read")
    try:
        if coverage_identity(coverage) != described["coverage"]:
            raise NoState("the coverage file is not the one that was written")
    except OSError:
        raise NoState("there is no coverage file") from None
    keys: list[Any] = [(symbol, size) for symbol, size, _ in described["entries"]]
    return State(keys, counts, **columns), identity, CoverageReport.from_document(described["report"])


def _lasting(report: CoverageReport) -> CoverageReport:
    """Return the report without what is of this derivation only."""
    lasting = CoverageReport.from_document(report.to_document())
    lasting.mode, lasting.why, lasting.new_lines = "incremental", "", 0
    lasting.skipped.pop(TORN, None)
    lasting.examples = [example for example in lasting.examples if example.reason != TORN]
    return lasting


def _hash(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def _sums(data: npt.NDArray[np.uint8]) -> list[int]:
    """Return sums in which a single damage shows, much faster than a hash."""
    whole = len(data) - len(data) % 8
    words = data[:whole].view(np.uint64)
    return [int(words.sum(dtype=np.uint64)), int(np.bitwise_xor.reduce(words)), int.from_bytes(data[whole:].tobytes())]

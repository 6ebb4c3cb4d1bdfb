"""Journals of live capture: append-only JSON Lines that a kill -9 or a power cut leaves readable.

A journal has a header line, then record lines and control lines in the order in which they happened. A record line is
one record of a messages file, character for character, so that a messages file is the record lines joined. What the
headers and control lines say is the recorder's matter; where journals lie and what becomes of them is in `live`.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Self

from connectors.store._exclusive import publish_new
from connectors.store.atomic import fsync_folder
from connectors.store.errors import InvalidLine, StoreError, store_errors
from connectors.store.locks import try_lock_path, unlock
from connectors.store.temps import new_temp_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO

READ_BYTES: Final = 1 << 20
"""Bytes read at a time, and about what is held in memory."""

RECORD_START: Final = b'{"timestamp"'
"""How every record line begins; no JSON text has this inside, since quotes are escaped there."""

CONTROL_START: Final = b'{"control"'
"""How every control line begins."""

_HEADER: Final = "header"
_BETWEEN_RECORDS: Final = b"}\n" + RECORD_START
_LONGEST_LINE: Final = 1 << 24
# macOS has no fdatasync.
_sync_data: Final = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True)
class Torn:
    """Where a journal stops being readable.

    Attributes:
        offset: Bytes before it, all of them whole lines.
        size_bytes: Bytes from there to the end of the file, which are ignored.
        reason: What is there instead of a line.
    """

    offset: int
    size_bytes: int
    reason: str

    def __str__(self) -> str:
        return f"{self.size_bytes} bytes from byte {self.offset} on are ignored: {self.reason}"


@dataclass(frozen=True)
class Journal:
    """A journal that was read through once, as far as it is whole.

    Attributes:
        path: Where.
        header: Its first line, with `"control": "header"`.
        records: How many record lines it has.
        first_record: The first of them, None when there is none.
        last_record: The last of them, None when there is none.
        torn: Where and why reading stopped before the end of the file; None when all of it is whole.
        start: Bytes of the header line.
        end: Bytes that are whole lines.
    """

    path: Path
    header: Mapping[str, Any]
    records: int
    first_record: Mapping[str, Any] | None
    last_record: Mapping[str, Any] | None
    torn: Torn | None
    start: int
    end: int

    def lines(self) -> Iterator[tuple[bytes, bool]]:
        """Yield every line after the header as raw bytes without its line end, and whether it is a control line.

        Memory stays bounded, whatever the length of the journal.

        Raises:
            StoreError: It cannot be read.
        """
        for region in self.regions():
            if CONTROL_START in region:
                for line in _split(region):
                    yield line, line.startswith(CONTROL_START)
            else:
                for line in _split(region):
                    yield line, False

    def controls(self) -> Iterator[dict[str, Any]]:
        """Yield every control line after the header, parsed; records are skipped at the speed of a text search.

        Raises:
            StoreError: It cannot be read.
        """
        for region in self.regions():
            if CONTROL_START in region:
                for line in _split(region):
                    if line.startswith(CONTROL_START):
                        yield json.loads(line)

    def regions(self) -> Iterator[bytes]:
        """Yield the bytes after the header in pieces of whole lines, about a megabyte each.

        Raises:
            StoreError: It cannot be read.
        """
        with store_errors("read", self.path), self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            yield from _regions(file, self.end - self.start)


class JournalWriter:
    """Appends whole lines to a new journal; holds the journal's lock, so that nobody publishes it meanwhile.

    The file appears under its name with its whole header. Not thread-safe, except that `sync` may run in another
    thread than `write`. As a context manager it closes.

    Args:
        path: The journal; its folder must exist, the file must not.
        header: The first line; `"control": "header"` is put in front. Values that JSON has.

    Attributes:
        path: Where.
        size_bytes: Its size, the header included.

    Raises:
        StoreError: The file exists, or the disk refuses; nothing is left behind.
        ValueError: The header has NaN or another `control` than `header`.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        if header.get("control", _HEADER) != _HEADER:
            raise ValueError(f"the header of {path} has the control {header['control']!r}, it must be {_HEADER!r}")
        text = json.dumps({"control": _HEADER, **header}, allow_nan=False)
        self.path = path
        self.size_bytes = 0
        self._fd: int | None = None
        self._must_cut = False
        temp = new_temp_path(path)
        try:
            with store_errors("write", path):
                self._fd = try_lock_path(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND)
                self.write([text + "\n"])
                self.sync()
                if not publish_new(temp, path):
                    raise StoreError(  # noqa: TRY301 - cleaned up like the others
                        f"the journal {path} exists already and stays as it is; recover its session, then start again.",
                        path=path,
                        errno=errno.EEXIST,
                    )
        except BaseException:
            with suppress(OSError):
                temp.unlink()
            self.close()
            raise

    def write(self, lines: Sequence[str]) -> None:
        """Append lines with one write; they survive a kill of this process, and after `sync` a power cut.

        Args:
            lines: Record and control lines, each with its line end; none is fine.

        Raises:
            InvalidLine: They are not one line each, or not encodable; nothing was written.
            StoreError: The disk refuses; the journal has its earlier lines, and writing may be tried again.
            ValueError: It is closed.
        """
        if not lines:
            return
        fd = self._open_fd()
        payload = self._payload(lines)
        with store_errors("append to", self.path):
            if self._must_cut:
                self._cut_back(fd)
            try:
                _write_all(fd, payload)
            except OSError:
                self._must_cut = True
                with suppress(OSError):
                    self._cut_back(fd)
                raise
        self.size_bytes += len(payload)

    def sync(self) -> None:
        """Flush what was written to the disk.

        Raises:
            StoreError: The disk refuses; what was written since the last sync may be lost in a power cut.
            ValueError: It is closed.
        """
        fd = self._open_fd()
        with store_errors("flush", self.path):
            _sync_data(fd)

    def close(self) -> None:
        """Free the journal for publication, without flushing it; again is fine."""
        fd, self._fd = self._fd, None
        if fd is not None:
            unlock(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_fd(self) -> int:
        if self._fd is None:
            raise ValueError(f"the journal {self.path} is closed")
        return self._fd

    def _payload(self, lines: Sequence[str]) -> bytes:
        try:
            payload = "".join(lines).encode()
        except UnicodeEncodeError as error:
            raise InvalidLine(
                f"cannot be written as UTF-8, nothing was appended to {self.path}: {error}", path=self.path
            ) from error
        if payload.count(b"\n") != len(lines) or not payload.endswith(b"\n"):
            raise InvalidLine(
                f"not one line each with its line end, nothing was appended to {self.path}: {payload[:80]!r}",
                path=self.path,
            )
        return payload

    def _cut_back(self, fd: int) -> None:
        os.ftruncate(fd, self.size_bytes)
        self._must_cut = False


def read_journal(path: Path) -> Journal:
    """Read a journal through once, and find out how far it is whole.

    Reading stops at the first line that its writer did not write as it is: cut off, with NULs, not UTF-8, or not a
    JSON object that begins as records and control lines do. Control lines, the first record and the last are parsed;
    of the other records the beginning and the end are looked at. A last line that lacks only its line end counts.

    Args:
        path: The journal.

    Returns:
        What it has; `torn` says where reading stopped.

    Raises:
        StoreError: It cannot be read, or has no whole header and so never was a journal.
    """
    with store_errors("read", path), path.open("rb", buffering=0) as file:
        return _Scan(path, file).journal()


def write_messages(journal: Journal, temp: Path) -> int:
    """Write the messages file of a journal: its records as they are, one on a line inside a JSON array.

    Args:
        journal: As read.
        temp: A path that does not exist; it is on the disk when this returns.

    Returns:
        How many records.

    Raises:
        StoreError: The disk refuses; a part of the file may be there.
    """
    before = b"[\n"
    with store_errors("write", temp), temp.open("xb") as file:
        for region in journal.regions():
            records = region
            if CONTROL_START in region:
                records = b"\n".join(line for line in _split(region) if not line.startswith(CONTROL_START))
            if records:
                file.write(before)
                file.write(records.removesuffix(b"\n").replace(b"\n", b",\n"))
                before = b",\n"
        file.write(b"\n]\n" if journal.records else b"[]\n")
        file.flush()
        os.fsync(file.fileno())
    fsync_folder(temp.parent)
    return journal.records


class _Scan:
    """One pass over a journal: counts its records and stops at the first line that is none."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._offset = 0
        self._records = 0
        self._first: bytes | None = None
        self._last: bytes | None = None
        self._reason: str | None = None

    def journal(self) -> Journal:
        size_bytes = os.fstat(self._file.fileno()).st_size
        regions = _regions(self._file, size_bytes)
        line, line_end, rest = next(regions, b"").partition(b"\n")
        header = _parsed(line)
        if header is None or header.get("control") != _HEADER or not line_end:
            raise StoreError(
                f"{self._path} is no journal: its first line is no whole header ({line[:60]!r}). "
                "Nothing can be recovered from it; move it away.",
                path=self._path,
            )
        start = self._offset = len(line) + 1
        for region in chain([rest], regions):
            if region and self._reason is None:
                self._take(region)
            if self._reason is not None:
                break
        return Journal(
            path=self._path,
            header=header,
            records=self._records,
            first_record=_parsed(self._first),
            last_record=_parsed(self._last),
            torn=None if self._reason is None else Torn(self._offset, size_bytes - self._offset, self._reason),
            start=start,
            end=self._offset,
        )

    def _take(self, region: bytes) -> None:
        start = 0
        while start < len(region) and self._reason is None:
            # Records between control lines are looked at as a whole, which is several times as fast as one by one.
            end = region.find(CONTROL_START, start)
            if end == start:
                end = region.find(b"\n", start) + 1
            run = region[start:end] if end > 0 else region[start:]
            if not self._is_whole_run(run):
                self._take_lines(run)
            start += len(run)

    def _is_whole_run(self, run: bytes) -> bool:
        """Count a run of records if it is plainly nothing else."""
        count = run.count(b"\n")
        if not (
            run.startswith(RECORD_START)
            and run.endswith(b"}\n")
            and run.count(_BETWEEN_RECORDS) == count - 1
            # A line in which another one begins was overwritten.
            and run.count(RECORD_START) == count
            and run.isascii()
            and b"\0" not in run
        ):
            return False
        first = run[: run.find(b"\n")]
        last = run[run.rfind(b"\n", 0, -1) + 1 : -1]
        if _parsed(first) is None or _parsed(last) is None:
            return False
        self._first = self._first or first
        self._last = last
        self._records += count
        self._offset += len(run)
        return True

    def _take_lines(self, run: bytes) -> None:
        is_plain = run.isascii() and b"\0" not in run
        lines = _split(run)
        for number, line in enumerate(lines, start=1):
            is_last = number == len(lines)
            has_end = not is_last or run.endswith(b"\n")
            if not _is_line(line, strictly=is_last or self._first is None or not is_plain):
                self._reason = _fault(line, has_end=has_end)
                return
            if line.startswith(RECORD_START):
                self._first = self._first or line
                self._last = line
                self._records += 1
            self._offset += len(line) + has_end


def _is_line(line: bytes, *, strictly: bool) -> bool:
    if not line.startswith((RECORD_START, CONTROL_START)) or not line.endswith(b"}"):
        return False
    if line.find(RECORD_START, 1) >= 0:
        return False
    # Control lines are few.
    return _parsed(line) is not None if strictly or line.startswith(CONTROL_START) else True


def _fault(line: bytes, *, has_end: bool) -> str:
    if b"\0" in line:
        return "NUL bytes, as a power cut leaves them"
    return f"{'no line of a journal' if has_end else 'a line that was cut off'}: {line[:60]!r}"


def _parsed(line: bytes | None) -> dict[str, Any] | None:
    """Return the JSON object of a line, None when it is none."""
    try:
        found = json.loads((line or b"").decode())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _regions(file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    """Yield whole lines in pieces of about `READ_BYTES`; the last piece has no line end when the file has none."""
    left = b""
    while size_bytes > 0 and (block := file.read(min(READ_BYTES, size_bytes))):
        size_bytes -= len(block)
        cut = block.rfind(b"\n") + 1
        if cut:
            yield left + block[:cut]
            left = b""
        left += block[cut:]
        if len(left) > _LONGEST_LINE:
            break
    if left:
        yield left


def _split(region: bytes) -> list[bytes]:
    return region.removesuffix(b"\n").split(b"\n")


def _write_all(fd: int, payload: bytes) -> None:
    rest = memoryview(payload)
    while rest:
        # A full disk writes a part and reports itself with the next try.
        written = os.write(fd, rest)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rest = rest[written:]

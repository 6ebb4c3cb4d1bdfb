"""The vendor's own DBN files, kept so that nothing is paid for twice.

`<cache>/databento/<dataset>/<schema>/<SYMBOL>/<YYYY-MM-DD>_<HHMMSS>Z-<HHMMSS>Z_<vendor symbol>.dbn.zst`, all times UTC,
with a `.json` sidecar that says what the file holds. Downloading and decoding is in `connectors.databento`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from connectors.store.atomic import atomic_path, fsync_folder, make_folder, publish_temp
from connectors.store.errors import InvalidEntry, store_errors
from connectors.store.locks import locked_file, try_lock_path, unlock
from connectors.store.temps import new_temp_path, sweep_stale_temps
from contracts.symbols import canonical_symbol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

_log = logging.getLogger(__name__)

_VENDOR: Final = "databento"
_DATA_SUFFIX: Final = ".dbn.zst"
_ENTRY_SUFFIX: Final = ".dbn.zst.json"
_BAD_SUFFIX: Final = ".bad"
_LOCK_NAME: Final = ".raw-cache.lock"
_CLAIMS: Final = ".claims"
_CLAIM_POLL_S: Final = 0.05
_LOCK_TIMEOUT_S: Final = 60.0  # held for two renames
_NS: Final = 10**9

_UNSAFE: Final = re.compile(r"[^A-Z0-9-]")
_ESCAPE: Final = re.compile(r"_([0-9a-f]{2})")
_SAFE_TEXT: Final = re.compile(r"(?:[A-Z0-9-]|_[0-9a-f]{2})*")
_FOLDER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_ENTRY_NAME: Final = re.compile(
    r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})_(?P<start>[0-9]{6})(?:\.(?P<start_ns>[0-9]{9}))?Z"
    r"-(?:(?P<end_day>[0-9]{8})T)?(?P<end>[0-9]{6})(?:\.(?P<end_ns>[0-9]{9}))?Z"
    r"_(?P<vendor>(?:[A-Z0-9-]|_[0-9a-f]{2})+)\.dbn\.zst\.json"
)

UtcNs = Annotated[int, Field(ge=0, lt=2**63)]


class RawKey(BaseModel):
    """What a vendor file was, or would be, asked for.

    Attributes:
        dataset: The vendor's dataset, such as `XNAS.ITCH`.
        schema_: The vendor's schema, such as `mbp-10`; `schema` in JSON.
        symbol: Our canonical symbol.
        vendor_symbol: The vendor's spelling.
        start_ns: Start of the window on `ts_recv`, UTC nanoseconds since the epoch, inclusive.
        end_ns: End of the window, exclusive.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True, extra="ignore")

    dataset: str
    schema_: str = Field(alias="schema")
    symbol: str
    vendor_symbol: str = Field(min_length=1)
    start_ns: UtcNs
    end_ns: UtcNs

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in (self.dataset, self.schema_):
            if not _FOLDER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be a folder name: expected letters, digits, '.' and '-'")
        if canonical_symbol(self.symbol) != self.symbol:
            raise ValueError(f"{self.symbol!r} is not canonical: expected {canonical_symbol(self.symbol)!r}")
        if self.start_ns >= self.end_ns:
            raise ValueError("the window is empty: start_ns must be before end_ns")
        return self


class RawEntry(RawKey):
    """What the sidecar says about a vendor file.

    Attributes:
        records: Number of records in the file, as verified with the vendor's count.
        size_bytes: Size of the compressed file.
        sha256: Of the compressed file, hexadecimal.
        vendor_condition: The vendor's word on the day (`available`, `degraded`, ...), if asked.
        cost_usd: What it cost, if known.
        fetched_at: When it was downloaded, UTC.
        client_versions: Versions of the client libraries, such as `{"databento": "0.87.0"}`.
    """

    records: int = Field(ge=0)
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    vendor_condition: str | None = None
    cost_usd: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    fetched_at: AwareDatetime
    client_versions: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class CachedFile:
    """A vendor file that is in the cache.

    Attributes:
        path: The DBN file.
        entry: What it holds; its window may be wider than the one asked for.
    """

    path: Path
    entry: RawEntry


class RawCache:
    """The cache of vendor files; several processes may use one.

    Nothing is created before the first download.

    Args:
        cache_path: `CACHE_PATH`.
    """

    def __init__(self, cache_path: Path) -> None:
        self.folder = cache_path / _VENDOR

    def path_of(self, key: RawKey) -> Path:
        """Return where the file of exactly this key lies, or would lie."""
        return self._symbol_folder(key) / f"{_stem(key)}{_DATA_SUFFIX}"

    def new_download_path(self, key: RawKey) -> Path:
        """Return a unique path to download to, beside the final place; its folder exists, the file does not.

        Raises:
            StoreError: The disk refuses.
        """
        final = self.path_of(key)
        make_folder(final.parent)
        return new_temp_path(final)

    def commit(self, temp: Path, entry: RawEntry) -> CachedFile:
        """Make a finished download an entry of the cache; it replaces an older one of the same key.

        First the file gets its name, then the sidecar: a kill -9 in between leaves no entry, never a wrong one.

        Args:
            temp: A closed file at a path from `new_download_path`; it is gone afterwards.
            entry: What it holds.

        Raises:
            InvalidEntry: The file is missing or has another size than the entry says; it stays where it is.
            StoreError: The disk refuses.
        """
        final = self.path_of(entry)
        with store_errors("cache", final):
            if not temp.is_file() or temp.stat().st_size != entry.size_bytes:
                raise InvalidEntry(
                    f"{temp} is not a file of {entry.size_bytes} bytes, it was not cached: download it again.",
                    path=temp,
                )
            with self._lock(final.parent):
                _sidecar(final).unlink(missing_ok=True)
                publish_temp(temp, final)
                with atomic_path(_sidecar(final)) as sidecar:
                    sidecar.write_text(entry.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return CachedFile(final, entry)

    def find(self, key: RawKey) -> CachedFile | None:
        """Look for a file that covers a window: the exact one, else the smallest that holds it whole.

        An entry counts when its file exists with the size the sidecar says. Whether the bytes are the same is not
        read here: see `is_intact`.

        Raises:
            StoreError: The cache exists but cannot be read.
        """
        folder = self._symbol_folder(key)
        vendor = encode_vendor_symbol(key.vendor_symbol)
        candidates = []
        with store_errors("read", folder):
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        for name in names:
            found = _ENTRY_NAME.fullmatch(name)
            window = None if found is None or found["vendor"] != vendor else _window_ns(found)
            if window is not None and window[0] <= key.start_ns and key.end_ns <= window[1]:
                candidates.append((window[1] - window[0], name))
        for _, name in sorted(candidates):
            path = folder / name.removesuffix(".json")
            entry = _read_entry(path)
            if entry is not None and self.path_of(entry) == path and entry.vendor_symbol == key.vendor_symbol:
                return CachedFile(path, entry)
        return None

    @contextmanager
    def claim(self, key: RawKey, while_waiting: Callable[[], None]) -> Iterator[None]:
        """Be the only one, in all threads and processes, to bring the file of a key; freed when the process dies.

        Args:
            key: The file.
            while_waiting: Called before every look at a claim that somebody else holds; may raise to give up.

        Raises:
            StoreError: The disk refuses.
        """
        name = hashlib.sha256(self.path_of(key).name.encode() + key.symbol.encode() + key.dataset.encode()).hexdigest()
        path = self.folder / _CLAIMS / f"{key.symbol}-{name[:16]}.lock"
        make_folder(path.parent)
        with store_errors("claim", path):
            while (fd := try_lock_path(path)) is None:
                while_waiting()
                time.sleep(_CLAIM_POLL_S)
        try:
            yield
        finally:
            # Whoever waits for the file that goes notices that it is another one now.
            path.unlink(missing_ok=True)
            unlock(fd)

    def discard(self, cached: CachedFile, reason: str) -> None:
        """Take a corrupt entry out of the cache; its file is kept as `.bad` beside it, and that is logged.

        Raises:
            StoreError: The disk refuses.
        """
        path = cached.path
        with store_errors("discard", path), self._lock(path.parent):
            for victim in (_sidecar(path), path):
                if victim.exists():
                    victim.replace(victim.with_name(f"{victim.name}{_BAD_SUFFIX}"))
            fsync_folder(path.parent)
        _log.warning("%s is out of the cache (kept as %s): %s", path, f"{path.name}{_BAD_SUFFIX}", reason)

    def is_intact(self, cached: CachedFile) -> bool:
        """Read the whole file and compare it with its entry; a gigabyte takes about a second.

        Raises:
            StoreError: The file cannot be read.
        """
        return fingerprint(cached.path) == (cached.entry.size_bytes, cached.entry.sha256)

    def sweep(self) -> list[Path]:
        """Remove downloads whose process is dead; returns their paths."""
        return sweep_stale_temps(self.folder)

    def _symbol_folder(self, key: RawKey) -> Path:
        return self.folder / key.dataset / key.schema_ / key.symbol

    @staticmethod
    def _lock(folder: Path) -> AbstractContextManager[int]:
        # Two processes that cache the same key must not mix one's file with the other's sidecar.
        return locked_file(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT, timeout_s=_LOCK_TIMEOUT_S)


def fingerprint(path: Path) -> tuple[int, str]:
    """Return the size in bytes and the SHA-256, hexadecimal, of a file.

    Raises:
        StoreError: The file cannot be read.
    """
    with store_errors("read", path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def encode_vendor_symbol(text: str) -> str:
    """Return a vendor's spelling as a part of a file name; no two spellings share one, also where case is ignored.

    Upper-case ASCII letters, digits and `-` stay; every other byte of the UTF-8 text becomes `_` and two hex digits:
    `BRK.B` is `BRK_2eB`.
    """
    return _UNSAFE.sub(lambda found: "".join(f"_{byte:02x}" for byte in found[0].encode()), text)


def decode_vendor_symbol(encoded: str) -> str:
    """Return the spelling that `encode_vendor_symbol` encoded.

    Raises:
        ValueError: It encoded no spelling to this.
    """
    if not _SAFE_TEXT.fullmatch(encoded):
        raise ValueError(f"{encoded!r} is no encoded vendor symbol")
    raw = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), encoded)
    return raw.encode("latin-1").decode()


def _stem(key: RawKey) -> str:
    start_day, start = _utc_parts(key.start_ns)
    end_day, end = _utc_parts(key.end_ns)
    # The end's day is told only where it is not the start's, so that usual names stay short.
    end_text = end if end_day == start_day else f"{end_day.replace('-', '')}T{end}"
    return f"{start_day}_{start}Z-{end_text}Z_{encode_vendor_symbol(key.vendor_symbol)}"


def _utc_parts(at_ns: int) -> tuple[str, str]:
    seconds, fraction_ns = divmod(at_ns, _NS)
    at = datetime.fromtimestamp(seconds, UTC)
    return f"{at:%Y-%m-%d}", f"{at:%H%M%S}" + (f".{fraction_ns:09d}" if fraction_ns else "")


def _window_ns(found: re.Match[str]) -> tuple[int, int] | None:
    start_day = found["day"].replace("-", "")
    try:
        return (
            _utc_ns(start_day, found["start"], found["start_ns"]),
            _utc_ns(found["end_day"] or start_day, found["end"], found["end_ns"]),
        )
    except ValueError:
        return None


def _utc_ns(day: str, clock: str, fraction_ns: str | None) -> int:
    at = datetime.strptime(f"{day}{clock}+0000", "%Y%m%d%H%M%S%z")
    return int(at.timestamp()) * _NS + int(fraction_ns or 0)


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_entry(path: Path) -> RawEntry | None:
    """Return the entry of a data file, None when the file or a readable sidecar is missing or they disagree."""
    sidecar = _sidecar(path)
    with store_errors("read", sidecar):
        try:
            entry = RawEntry.model_validate_json(sidecar.read_bytes())
            size_bytes = path.stat().st_size
        except FileNotFoundError:
            return None
        except ValidationError as error:
            _log.warning("%s counts as absent: %d errors in its sidecar", path, error.error_count())
            return None
    if size_bytes != entry.size_bytes:
        _log.warning("%s counts as absent: %d bytes, its sidecar says %d", path, size_bytes, entry.size_bytes)
        return None
    return entry

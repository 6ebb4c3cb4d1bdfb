"""The market of a folder: its `.dbn` and `.dbn.zst` files, served as the vendor would serve them.

Files of DBN 1, 2 and 3 are read; the records of MBP schemas are the same bytes in all three, so they go out unchanged.
A symbol exists on the dates that some file maps, and nowhere else. Where two files hold the same time of the same
symbol, the one that starts first (then the first by name) is served.
"""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import zstandard

from connectors.sandbox._dbn import DbnHeader, Interval, open_dbn, read_blocks, read_header
from connectors.sandbox._market import NS_PER_DAY, ids_by_day_number, merge_by_ts_recv, utc_day, utc_days

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from connectors.sandbox._market import Query

_WELL_FORMED: Final = re.compile(r"[A-Z][ -~]{0,69}")


_FAR_NS: Final = 2**63 - 1


@dataclass(frozen=True)
class _File:
    """One file; it speaks for `start_ns <= ts_recv < end_ns`, which a record limit may have cut short."""

    path: Path
    header: DbnHeader
    end_ns: int


class ReplayMarket:
    """A market made of the DBN files directly inside `folder`.

    Args:
        folder: where the files lie; read once, at the start.

    Raises:
        ValueError: the folder holds no DBN file, or one that cannot be read; the message names it.
    """

    def __init__(self, folder: Path) -> None:
        paths = sorted(path for path in folder.glob("*") if path.name.endswith((".dbn", ".dbn.zst")))
        if not paths:
            raise ValueError(f"no *.dbn or *.dbn.zst file in {folder}: nothing to replay")
        self._files = [self._index(path) for path in paths]
        self._files.sort(key=lambda file: (file.header.start_ns, file.path.name))

    @staticmethod
    def _index(path: Path) -> _File:
        try:
            with closing(open_dbn(path)) as stream:
                header = read_header(stream)
                end_ns = header.end_ns or _FAR_NS
                if header.limit:
                    records, last_ns = 0, header.start_ns
                    for block in read_blocks(stream, header.schema):
                        records, last_ns = records + len(block), int(block["ts_recv"].max())
                    end_ns = last_ns + 1 if records >= header.limit else end_ns
        except (ValueError, OSError, zstandard.ZstdError) as error:
            raise ValueError(f"cannot replay {path}: {error}") from error
        return _File(path, header, end_ns)

    def _of(self, dataset: str, schema: str | None = None) -> list[_File]:
        return [file for file in self._files if file.header.dataset == dataset and schema in (None, file.header.schema)]

    def datasets(self) -> list[str]:
        """Codes of the datasets that have a file."""
        return sorted({file.header.dataset for file in self._files})

    def schemas(self, dataset: str) -> list[str]:
        """Schemas of the dataset's files."""
        return sorted({file.header.schema for file in self._of(dataset)})

    def first_day(self, dataset: str) -> date:
        """The UTC date on which the earliest file starts."""
        return utc_day(min(file.header.start_ns for file in self._of(dataset)))

    def condition_days(self, dataset: str, first: date, last: date) -> list[date]:
        """Mapped dates between `first` and `last`, both inclusive."""
        days = {
            interval.start_date + timedelta(days=n)
            for file in self._of(dataset)
            for intervals in file.header.mappings.values()
            for interval in intervals
            for n in range((interval.end_date - interval.start_date).days)
        }
        return sorted(day for day in days if first <= day <= last)

    def all_symbols(self, dataset: str) -> list[str]:
        """Every mapped symbol."""
        return sorted({symbol for file in self._of(dataset) for symbol in file.header.mappings})

    def malformed(self, dataset: str, symbol: str) -> bool:  # noqa: ARG002 - the same for all
        """Whether no venue could have such a symbol."""
        return not _WELL_FORMED.fullmatch(symbol)

    def resolve(self, dataset: str, symbol: str, start_ns: int, end_ns: int) -> list[Interval]:
        """Instrument ids on the dates that some file maps; dates in a row with one id are one interval."""
        days = utc_days(start_ns, end_ns)
        ids: dict[date, int] = {}
        for file in self._of(dataset):
            for interval in file.header.mappings.get(symbol, ()):
                for day in days:
                    if interval.start_date <= day < interval.end_date:
                        ids[day] = interval.instrument_id
        found: list[Interval] = []
        for day in sorted(ids):
            after = day + timedelta(days=1)
            if found and found[-1].end_date == day and found[-1].instrument_id == ids[day]:
                found[-1] = Interval(found[-1].start_date, after, ids[day])
            else:
                found.append(Interval(day, after, ids[day]))
        return found

    def count(self, query: Query, resolved: dict[str, list[Interval]]) -> int:
        """How many records `blocks` yields; reads the files."""
        return sum(len(block) for block in self.blocks(query, resolved))

    def blocks(self, query: Query, resolved: dict[str, list[Interval]]) -> Iterator[NDArray[np.void]]:
        """The records of the files, filtered by time and by the instrument ids of the resolved symbols."""
        files = self._of(query.dataset, query.schema)
        parts: dict[Path, list[_Part]] = {file.path: [] for file in files}
        for symbol, intervals in resolved.items():
            taken: list[tuple[int, int]] = []
            for file in files:
                if symbol not in file.header.mappings:
                    continue
                for span in _outside(taken, file.header.start_ns, file.end_ns):
                    clipped = max(span[0], query.start_ns), min(span[1], query.end_ns)
                    if clipped[0] < clipped[1]:
                        parts[file.path].append(_Part(*clipped, ids_by_day_number(intervals)))
                taken.append((file.header.start_ns, file.end_ns))
        sources = [self._blocks_of(file, parts[file.path]) for file in files if parts[file.path]]
        if sources:
            yield from merge_by_ts_recv(sources)

    @staticmethod
    def _blocks_of(file: _File, parts: list[_Part]) -> Iterator[NDArray[np.void]]:
        with closing(open_dbn(file.path)) as stream:
            read_header(stream)
            for block in read_blocks(stream, file.header.schema):
                kept = np.zeros(len(block), bool)
                for part in parts:
                    kept |= part.holds(block)
                if kept.any():
                    yield block[kept]


@dataclass(frozen=True)
class _Part:
    """The records of one symbol in `[start_ns, end_ns)`, by its instrument id of each UTC day number."""

    start_ns: int
    end_ns: int
    ids: dict[int, int]

    def holds(self, block: NDArray[np.void]) -> NDArray[np.bool_]:
        """Which records of `block` are of this part."""
        ts_recv = block["ts_recv"]
        inside = (ts_recv >= self.start_ns) & (ts_recv < self.end_ns)
        day_numbers = ts_recv // NS_PER_DAY
        known = np.zeros(len(block), bool)
        for number, instrument_id in self.ids.items():
            known |= (day_numbers == number) & (block["instrument_id"] == instrument_id)
        return inside & known


def _outside(taken: list[tuple[int, int]], start_ns: int, end_ns: int) -> list[tuple[int, int]]:
    """What of `[start_ns, end_ns)` no span of `taken` covers, in order."""
    free = [(start_ns, end_ns)]
    for first, last in taken:
        free = [
            part
            for begin, end in free
            for part in ((begin, min(end, first)), (max(begin, last), end))
            if part[0] < part[1]
        ]
    return free

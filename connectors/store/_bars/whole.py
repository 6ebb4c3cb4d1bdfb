"""Which days of a group are whole, with the rows of their files: a mapping that is also columns, and quick to read.

A plan reads a thousand days of each of hundreds of groups, so they are kept as numbers, and no object is made of a day
before somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

_Days = npt.NDArray[np.datetime64]
_Int64 = npt.NDArray[np.int64]

_EPOCH_YEAR: Final = 1970
_MONTHS: Final = 12
_MOST_DAYS: Final = 31
_LAST: Final = 99_991_231


class WholeNote(NamedTuple):
    """A file's footer says that the day is complete.

    Attributes:
        kind: What its bars are, see `kind_text`.
        rows: How many it has; of a file with another number nothing is known.
    """

    kind: str
    rows: int


class WholeDays(Mapping[date, WholeNote]):
    """Notes of whole days.

    Args:
        notes: The note of each day.
    """

    def __init__(self, notes: Mapping[date, WholeNote] | None = None) -> None:
        by_kind: dict[str, list[tuple[date, int]]] = {}
        for day, note in sorted((notes or {}).items()):
            by_kind.setdefault(note.kind, []).append((day, note.rows))
        self._columns: dict[str, tuple[_Days, _Int64]] = {
            kind: (np.array([day for day, _ in some], "datetime64[D]"), np.array([rows for _, rows in some], np.int64))
            for kind, some in sorted(by_kind.items())
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_document` wrote.

        Raises:
            ValueError: It is damaged.
            TypeError: Likewise.
            AttributeError: Likewise.
        """
        found = cls()
        for kind, numbers in document.items():
            if not numbers:
                continue
            pairs = np.array(numbers)
            if pairs.dtype != np.int64 or pairs.ndim != 1:
                raise TypeError(f"the whole days of {kind} are not numbers")
            pairs = pairs.reshape(-1, 2)
            days = _days_of(pairs[:, 0])
            if (days[1:] <= days[:-1]).any():
                raise ValueError(f"the whole days of {kind} are not in order")
            found._columns[kind] = days, pairs[:, 1]
        return found

    def to_document(self) -> dict[str, list[int]]:
        """Return them as JSON: of each kind a list of day (20250915), rows, day, rows and so on."""
        return {
            kind: np.column_stack([_numbers_of(days), rows]).ravel().tolist() for kind, (days, rows) in self.columns
        }

    @property
    def columns(self) -> list[tuple[str, tuple[_Days, _Int64]]]:
        """Of each kind the days, `datetime64[D]`, in order, and the rows of each."""
        return list(self._columns.items())

    @cached_property
    def _notes(self) -> dict[date, WholeNote]:
        return {
            day: WholeNote(kind, rows)
            for kind, columns in self.columns
            for day, rows in zip(*(column.tolist() for column in columns), strict=True)
        }

    def __getitem__(self, day: date) -> WholeNote:
        return self._notes[day]

    def __iter__(self) -> Iterator[date]:
        return iter(self._notes)

    def __len__(self) -> int:
        return sum(len(days) for _, (days, _) in self.columns)

    def __repr__(self) -> str:
        return repr(self._notes)

    __hash__ = None  # type: ignore[assignment]  # as of every mapping that can be compared


def _days_of(numbers: _Int64) -> _Days:
    years, months, days = numbers // 10_000, numbers // 100 % 100, numbers % 100
    if ((months < 1) | (months > _MONTHS) | (days < 1) | (days > _MOST_DAYS) | (numbers < 1) | (numbers > _LAST)).any():
        raise ValueError("a day is none")
    firsts = ((years - _EPOCH_YEAR) * _MONTHS + months - 1).astype("datetime64[M]").astype("datetime64[D]")
    found: _Days = (firsts.astype(np.int64) + days - 1).astype("datetime64[D]")
    return found


def _numbers_of(days: _Days) -> _Int64:
    months = days.astype("datetime64[M]")
    since = months.astype(np.int64)
    of_month = days.astype(np.int64) - months.astype("datetime64[D]").astype(np.int64) + 1
    found: _Int64 = (since // _MONTHS + _EPOCH_YEAR) * 10_000 + (since % _MONTHS + 1) * 100 + of_month
    return found

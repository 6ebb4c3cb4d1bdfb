"""The exceptions of the contracts package; nothing else lives here.

```
ContractError
├── InvalidSymbol          (ValueError)  a text that is no symbol
├── InvalidName            (ValueError)  a file name or path outside the grammar
├── InvalidWindow          (ValueError)  a time window that cannot be meant
├── NotASession            (ValueError)  a day on which the exchange is closed
├── OutsideCalendar        (ValueError)  a day the exchange calendar cannot speak about
├── InvalidDataRoot                      a data root or Level-2 folder that cannot be used
├── UnknownSchemaVersion                 a document of a version this reader does not know
├── InvalidDocument        (ValueError)  JSON, metadata or a column that breaks its model
├── InvalidSnapshotFile                  a file that is no Level-2 snapshots file
├── InvalidBarsFile                      a file that is no bars file
├── MixedData              (ValueError)  files that must not be loaded as one unasked
└── NotAvailable           (LookupError) nothing to load where something was asked for
```

Every message says what is wrong, where, and what to do; the data is in the attributes too.
"""
# ruff: noqa: N818 - the public names say what is invalid; "InvalidSymbolError" would say it twice

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date
    from pathlib import Path

_SHOWN = 80


def shown(value: object) -> str:
    """Return a short, printable form of a value that came from outside."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


class ContractError(Exception):
    """Anything this package refuses."""


class InvalidSymbol(ContractError, ValueError):
    """A text that has no canonical symbol.

    Attributes:
        text: What was given.
        reason: Why it was refused.
    """

    def __init__(self, text: object, reason: str) -> None:
        super().__init__(
            f"{shown(text)} is not a symbol: {reason}. "
            "A symbol is a letter and up to 14 more letters, digits or '-', such as AAPL or BRK-B."
        )
        self.text = text
        self.reason = reason


class InvalidName(ContractError, ValueError):
    """A file name or path that is not in the grammar of the data root.

    Attributes:
        name: What was given.
        reason: Why it was refused.
    """

    def __init__(self, name: object, reason: str) -> None:
        super().__init__(f"{shown(name)} is not a name in the data root: {reason}.")
        self.name = name
        self.reason = reason


class InvalidWindow(ContractError, ValueError):
    """A time window that cannot be parsed, or that is empty.

    Attributes:
        text: What was given.
        reason: Why it was refused.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(
            f"window {shown(text)}: {reason}. Write it as HH:MM-HH:MM in New York time, such as 08:30-11:00."
        )
        self.text = text
        self.reason = reason


class NotASession(ContractError, ValueError):
    """A day on which the exchange does not open.

    Attributes:
        day: The day.
    """

    def __init__(self, day: date) -> None:
        super().__init__(f"{day.isoformat()} is not a session of XNYS: the market is closed. Ask is_session.")
        self.day = day


class OutsideCalendar(ContractError, ValueError):
    """A day before or after the days the exchange calendar knows.

    Attributes:
        day: The day.
        first: The first day that can be asked about.
        last: The last day that can be asked about.
    """

    def __init__(self, day: date, first: date, last: date) -> None:
        super().__init__(
            f"the XNYS calendar cannot tell about {day.isoformat()}: "
            f"ask about days from {first.isoformat()} to {last.isoformat()}."
        )
        self.day = day
        self.first = first
        self.last = last


class InvalidDataRoot(ContractError):
    """A data root or Level-2 folder that cannot be used.

    Attributes:
        key: The environment key to correct, or None when the root was given directly.
        value: What was given.
        reason: Why it was refused.
    """

    def __init__(self, value: str | Path, reason: str, *, key: str | None = None) -> None:
        where = "data root" if key is None else key
        super().__init__(f"{where} {shown(str(value))}: {reason}.")
        self.key = key
        self.value = value
        self.reason = reason


class UnknownSchemaVersion(ContractError):
    """A document whose `schema_version` this reader does not know; versions match exactly or not at all.

    Attributes:
        found: What the document says.
        known: What this reader reads.
        path: The file, when one was read.
    """

    def __init__(self, found: object, known: Iterable[str], *, path: Path | None = None) -> None:
        self.found = found
        self.known = tuple(known)
        self.path = path
        super().__init__(
            f"{'' if path is None else f'{path}: '}schema_version {shown(found)} is unknown, "
            f"this reader knows {', '.join(self.known)}: install a marketdata-contracts that reads it."
        )


class InvalidDocument(ContractError, ValueError):
    """A document, footer or column that breaks its model.

    Attributes:
        what: The artifact, such as `backfill_l2_manifest.v1`.
        reason: What is wrong.
        field: The field at fault, dotted, if one is.
        row: The zero-based row at fault, for columns.
    """

    def __init__(self, what: str, reason: str, *, field: str | None = None, row: int | None = None) -> None:
        place = "".join((f" row {row}" if row is not None else "", f" field {field}" if field else ""))
        super().__init__(f"{what}{place}: {reason}.")
        self.what = what
        self.reason = reason
        self.field = field
        self.row = row


class InvalidSnapshotFile(ContractError):
    """A file that is no readable Level-2 snapshots file.

    Attributes:
        path: The file.
        reason: What is wrong.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}. Run `marketdata-contracts validate` on it for the details.")
        self.path = path
        self.reason = reason


class InvalidBarsFile(ContractError):
    """A file that is no readable bars file.

    Attributes:
        path: The file.
        reason: What is wrong.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}. Run `marketdata-contracts validate` on it for the details.")
        self.path = path
        self.reason = reason


class MixedData(ContractError, ValueError):
    """Files that differ in what their rows mean, and so are not loaded as one unless asked.

    Attributes:
        differing: What differs (`book_scope`, `interval_ms`, `levels`, `source`; of bars `what_to_show`, `hours`,
            `price_adjustment`) to the values found.
    """

    def __init__(self, differing: Mapping[str, Sequence[str]]) -> None:
        found = "; ".join(f"{name}: {', '.join(values)}" for name, values in differing.items())
        super().__init__(
            f"the files differ in {found}: choose a shorter range, of Level 2 one source with source=..., "
            "or allow it with allow_mixed=True."
        )
        self.differing = {name: list(values) for name, values in differing.items()}


class NotAvailable(ContractError, LookupError):
    """Nothing to load where something was asked for.

    Attributes:
        what: What was asked for.
        hint: What is there instead, or what to do.
    """

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(f"{what} is not available: {hint}.")
        self.what = what
        self.hint = hint

"""What the models share: the open, immutable base, the field types, and reading with an exact version check.

No field type is laxer than its JSON Schema. Pydantic by itself would take `"5"` for 5 and a Unix time for a date; JSON
Schema would not, and two readers of one file must agree. A few rules are beyond a schema and checked here only: a
window's order, the offset of New York on a day, and those of the model validators.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)

from contracts._json import NotJson, loads
from contracts.errors import InvalidDocument, InvalidSymbol, UnknownSchemaVersion
from contracts.sessions import ET, Window, parse_window
from contracts.symbols import SYMBOL_PATTERN, canonical_symbol

# `(?!\n)`: in Python `$` would let a line end pass.
_DAY: Final = r"(?!0000)[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
_CLOCK: Final = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_END: Final = r"(?!\n)$"
_DATE: Final = rf"^{_DAY}{_END}"
_UTC: Final = rf"^{_DAY}T{_CLOCK}(?:\.[0-9]{{1,9}})?(?:Z|\+00:00){_END}"
_TIMESTAMP: Final = rf"^{_DAY}T{_CLOCK}\.[0-9]{{9}}\+00:00{_END}"
_WINDOW: Final = rf"^(?:[01][0-9]|2[0-3]):[0-5][0-9]-(?:[01][0-9]|2[0-3]):[0-5][0-9]{_END}"
_ET: Final = rf"^{_DAY}T{_CLOCK}(?:\.[0-9]{{1,9}})?-0[45]:00{_END}"
_LOOSE: Final = re.compile(rf"{_DAY}T{_CLOCK}(?:\.[0-9]+)?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])?")
_SECONDS_END: Final = len("2025-09-04T13:30:00")
_FIRST_ET_YEAR: Final = 1884


def _symbol(text: str) -> str:
    canonical = canonical_symbol(text)
    if canonical != text:
        raise ValueError(f"not canonical, write {canonical}")
    return text


def _date(value: object) -> object:
    if isinstance(value, str):
        if not re.match(_DATE, value):
            raise ValueError("expected a date as YYYY-MM-DD")
        return date.fromisoformat(value)
    # A datetime is a date too, but which day it means depends on its zone.
    if isinstance(value, datetime) or not isinstance(value, date):
        raise ValueError("expected a date, no time")  # noqa: TRY004 - pydantic collects ValueError only
    return value


def _utc(value: object) -> object:
    if isinstance(value, str):
        if not re.match(_UTC, value):
            raise ValueError("expected ISO 8601 in UTC such as 2025-09-04T13:30:00+00:00")
        return datetime.fromisoformat(value)
    if not isinstance(value, datetime) or value.utcoffset() != timedelta(0):
        raise ValueError("expected a datetime that is aware and UTC")
    return value.astimezone(UTC)


def _timestamp(text: str) -> str:
    if not re.match(_TIMESTAMP, text):
        raise ValueError("expected a timestamp such as 2025-09-04T13:30:00.100000000+00:00")
    datetime.fromisoformat(text[:_SECONDS_END])
    return text


def _utc_text(text: str) -> str:
    if not re.match(_UTC, text):
        raise ValueError("expected ISO 8601 in UTC such as 2025-09-04T13:30:00.100000000+00:00")
    datetime.fromisoformat(text[:_SECONDS_END])
    return text


def _et(value: object) -> object:
    if isinstance(value, str):
        if not re.match(_ET, value):
            raise ValueError("expected ISO 8601 in New York time with its offset such as 2025-09-15T09:30:00-04:00")
        moment = datetime.fromisoformat(value)
        if _to_et(moment).utcoffset() != moment.utcoffset():
            raise ValueError("the offset is not that of New York at this time")
        return _to_et(moment)
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ValueError("expected a datetime that is aware")
    return _to_et(value)


def _to_et(moment: datetime) -> datetime:
    try:
        local = moment.astimezone(ET)
    except OverflowError:
        raise ValueError("out of the range of the calendar") from None
    if local.year < _FIRST_ET_YEAR:
        raise ValueError("before New York had its zone")
    return local


def _window(value: object) -> object:
    text = str(value) if isinstance(value, Window) else value
    if isinstance(text, str) and str(parse_window(text)) != text:
        raise ValueError("hours have two digits")
    return text


def _integral(value: object) -> object:
    # JSON has one number type: 5.0 is an integer, to JSON Schema too.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _printable(value: object) -> object:
    # Operating-system errors can carry undecodable bytes; a line about a failure must not fail.
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


Symbol = Annotated[
    str,
    AfterValidator(_symbol),
    WithJsonSchema({"type": "string", "pattern": SYMBOL_PATTERN}),
]
"""A canonical symbol; another spelling is refused, not changed."""

IsoDate = Annotated[
    date,
    BeforeValidator(_date),
    WithJsonSchema({"type": "string", "format": "date", "pattern": _DATE}),
]
"""A calendar day, in JSON `YYYY-MM-DD`."""

UtcDatetime = Annotated[
    datetime,
    BeforeValidator(_utc),
    PlainSerializer(datetime.isoformat, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": _UTC}),
]
"""An aware UTC moment; in JSON written with `+00:00`, read with `Z` too."""

UtcText = Annotated[
    str,
    AfterValidator(_utc_text),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": _UTC}),
]
"""A UTC moment kept as text, so that up to nine digits of a second survive; written with nine and `+00:00`."""

EtDatetime = Annotated[
    datetime,
    BeforeValidator(_et),
    PlainSerializer(datetime.isoformat, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": _ET}),
]
"""An aware moment in New York; in JSON with its offset, so that the first ten characters are the ET day."""

TimestampText = Annotated[
    str,
    AfterValidator(_timestamp),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": _TIMESTAMP}),
]
"""A timestamp as in the snapshots' first column, kept as text to keep its nanoseconds."""

WindowText = Annotated[
    str,
    BeforeValidator(_window),
    WithJsonSchema({"type": "string", "pattern": _WINDOW}),
]
"""A window of ET wall clock as `HH:MM-HH:MM`, start before end; a `Window` is taken too."""

Count = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1), BeforeValidator(_integral)]
"""A whole number of things, from 0, that fits into 64 bits."""

Positive = Annotated[int, Field(strict=True, ge=1, le=2**63 - 1), BeforeValidator(_integral)]
"""A whole number from 1 that fits into 64 bits."""

Amount = Annotated[float, Field(strict=True, ge=0, le=1e15, allow_inf_nan=False)]
"""A finite number from 0: money, seconds, milliseconds."""

Price = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite number; spreads can have negative prices."""

Flag = Annotated[bool, Field(strict=True)]
"""True or false, not a number or a word."""

FreeText = Annotated[str, BeforeValidator(_printable)]
"""Text for people; undecodable bytes in it are shown escaped."""

FilledText = Annotated[str, Field(min_length=1), BeforeValidator(_printable)]
"""Text that is not empty."""


class Contract(BaseModel):
    """Base of all models: immutable, and open for keys that a later minor version adds."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def to_document(self) -> dict[str, Any]:
        """Return the JSON document: keys in model order, then unknown ones; empty optional keys are left out."""
        document = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, Contract):
                document[name] = value.to_document()
            elif isinstance(value, tuple) and value and isinstance(value[0], Contract):
                document[name] = [item.to_document() for item in value]
            elif value is None and not field.is_required():
                del document[name]
        return document

    def to_json(self) -> str:
        """Return the document as one line of ASCII JSON without a line end."""
        return json.dumps(self.to_document(), ensure_ascii=True, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_document(cls, document: object) -> Self:
        """Read a parsed JSON document.

        Raises:
            UnknownSchemaVersion: It names another version. One without `schema_version` is read as this version, unless
                the model requires it.
            InvalidDocument: It breaks the model; names the first field at fault.
        """
        version = cls.version()
        if not isinstance(document, dict):
            raise InvalidDocument(version, f"it is a JSON {json_type(document)}, not an object")
        missing = None if cls.model_fields["schema_version"].is_required() else version
        found = document.get("schema_version", missing)
        if found != version:
            raise UnknownSchemaVersion(found, [version])
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise invalid_document(version, error) from None

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a JSON text.

        Raises:
            UnknownSchemaVersion: As `from_document`.
            InvalidDocument: As `from_document`, or the text is not one document of standard JSON.
        """
        return cls.from_document(parse_json(text, cls.version()))

    @classmethod
    def version(cls) -> str:
        """Return the `schema_version` that documents of this model have."""
        (version,) = get_args(cls.model_fields["schema_version"].annotation)
        return str(version)


def parse_json(text: str | bytes, what: str) -> Any:
    """Parse standard JSON.

    Raises:
        InvalidDocument: It is not; `what` names the artifact.
    """
    try:
        return loads(text)
    except NotJson as error:
        raise InvalidDocument(what, str(error)) from None


def invalid_document(what: str, error: ValidationError) -> InvalidDocument:
    """Turn pydantic's error into ours: the first field at fault, and how many more there are."""
    first, *more = error.errors(include_url=False, include_context=False, include_input=False)
    field = ".".join(str(part) for part in first["loc"]) or None
    reason = first["msg"].removeprefix("Value error, ").rstrip(".")
    return InvalidDocument(what, reason + (f" (and {len(more)} more)" if more else ""), field=field)


def json_type(value: object) -> str:
    """Return what JSON calls the type of a parsed value."""
    names = {list: "array", str: "text", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def with_utc(value: Any) -> Any:
    """Return an old time text as UTC; one without zone is New York wall clock. Anything else as it is."""
    moment = _moment(value)
    return value if moment is None else moment.astimezone(UTC).isoformat()


def with_et(value: Any) -> Any:
    """Return an old time text as New York time; one without zone is New York wall clock. Anything else as it is."""
    moment = _moment(value)
    try:
        return value if moment is None else moment.astimezone(ET).isoformat()
    except OverflowError:
        return value


def with_canonical_symbol(value: Any) -> Any:
    """Return the canonical form of a symbol in any spelling; anything else as it is."""
    try:
        return canonical_symbol(value)
    except InvalidSymbol:
        return value


def _moment(value: Any) -> datetime | None:
    if not isinstance(value, str) or not _LOOSE.fullmatch(value):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=ET).astimezone(UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None

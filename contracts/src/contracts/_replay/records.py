"""Depth messages checked one by one, as strictly as their model does and several times as fast.

What is plainly sound is let through by type; everything else goes through the model, which decides and names the fault.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pydantic import ValidationError

from contracts.errors import InvalidDocument, UnknownSchemaVersion
from contracts.timestamps import WIDTH, ns_from_text
from contracts.v1._model import invalid_document, json_type
from contracts.v1.depth_messages import SCHEMA_VERSION, DepthMessage, Operation, Side

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Record: TypeAlias = tuple[int, Operation, Side, int, float, int]
"""Nanoseconds since 1970 UTC, operation, side, level, price, size."""

_values: Final = itemgetter("timestamp", "operation", "side", "level", "price", "size", "symbol")
_FIELDS: Final = 7
_MOST: Final = 2**63 - 1
_INF: Final = math.inf
_FRACTION: Final = len("2025-09-04T13:30:00.")
_OFFSET: Final = _FRACTION + 9
# The years that the contract's timestamps can say.
_FIRST_NS: Final = ns_from_text("1678-01-01T00:00:00Z")
_END_NS: Final = ns_from_text("2262-01-01T00:00:00Z")


class Checked:
    """Checks a stream of messages of one symbol, which may come in parts.

    Attributes:
        symbol: The symbol of the stream; None before its first message.
    """

    def __init__(self) -> None:
        self.symbol: str | None = None

    def read(self, messages: Iterable[object], what: str) -> Iterator[Record]:
        """Yield the messages, each checked.

        Args:
            messages: `DepthMessage` models, or mappings.
            what: How errors name the messages.

        Raises:
            InvalidDocument: A message breaks the model, is of another symbol than the first, or lies outside the years
                of the contract's timestamps.
            UnknownSchemaVersion: A message names another version.
        """
        symbol, second, second_ns = self.symbol, "", 0
        for row, message in enumerate(messages):
            fields: Any = message if type(message) is dict else _fields(message, what, row)
            try:
                text, operation, side, level, price, size, named = _values(fields)
            except KeyError:
                named = None
            if not (
                named == symbol
                and named is not None
                and operation in ("add", "update", "remove")
                and side in ("bid", "ask")
                and type(level) is int
                and 0 <= level <= _MOST
                and type(price) is float
                and -_INF < price < _INF
                and type(size) is int
                and 0 <= size <= _MOST
                and type(text) is str
                and (len(fields) == _FIELDS or fields.get("schema_version") is None)
            ):
                checked = _through_model(fields, what, row)
                text, operation, side = checked.timestamp, checked.operation, checked.side
                level, price, size = checked.level, checked.price, checked.size
                if symbol is None:
                    self.symbol = symbol = checked.symbol
                elif checked.symbol != symbol:
                    reason = f"{checked.symbol} among messages of {symbol}; a file holds one symbol"
                    raise InvalidDocument(what, reason, field="symbol", row=row)
            # Messages of one second share all but its fraction, so that the date is computed once for them.
            fraction = text[_FRACTION:_OFFSET]
            if text == f"{second}{fraction}+00:00" and fraction.isdigit() and fraction.isascii():
                ns = second_ns + int(fraction)
            else:
                ns = _ns(text, what, row)
                if len(text) == WIDTH:
                    second, second_ns = text[:_FRACTION], ns - int(fraction)
            yield ns, operation, side, level, price, size


def _fields(message: object, what: str, row: int) -> Mapping[str, Any]:
    if isinstance(message, DepthMessage):
        return vars(message)
    if not isinstance(message, Mapping):
        raise InvalidDocument(what, f"it is a JSON {json_type(message)}, not an object", row=row)
    return message


def _through_model(fields: Mapping[str, Any], what: str, row: int) -> DepthMessage:
    found = fields.get("schema_version")
    if found is not None and found != SCHEMA_VERSION:
        raise UnknownSchemaVersion(found, [SCHEMA_VERSION])
    try:
        return DepthMessage.model_validate(dict(fields))
    except ValidationError as error:
        fault = invalid_document(what, error)
        raise InvalidDocument(what, fault.reason, field=fault.field, row=row) from None


def _ns(text: str, what: str, row: int) -> int:
    try:
        ns = ns_from_text(text)
    except InvalidDocument as error:
        raise InvalidDocument(what, error.reason, field="timestamp", row=row) from None
    if not _FIRST_NS <= ns < _END_NS:
        raise InvalidDocument(what, f"{text} is outside the years 1678 to 2261", field="timestamp", row=row)
    return ns

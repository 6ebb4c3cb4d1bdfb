"""Depth messages of live capture, `level2_messages.v1`: what the broker said, message by message.

What a message does to a book is in `contracts.book`.
"""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import ConfigDict, Field, RootModel, ValidationError

from contracts.errors import InvalidDocument, UnknownSchemaVersion
from contracts.v1._model import Contract, Count, Price, Symbol, UtcText, invalid_document, json_type, parse_json

SCHEMA_VERSION: Final = "level2_messages.v1"

Operation = Literal["add", "update", "remove"]
Side = Literal["bid", "ask"]


class DepthMessage(Contract):
    """One message about one row of the book; keys of the source such as `market_maker` or `seq` may follow."""

    model_config = ConfigDict(title="Depth message")

    timestamp: UtcText = Field(
        title="Timestamp",
        description="When the message was received, UTC; written with nine digits of a second and `+00:00`.",
        examples=["2025-09-04T13:30:00.100000000+00:00"],
    )
    operation: Operation = Field(
        title="Operation",
        description="add: insert at `level` and shift down. remove: delete it and shift up. update: replace it, or "
        "append at the end.",
        examples=["add"],
    )
    side: Side = Field(title="Side", description="Side of the book.", examples=["bid"])
    level: Count = Field(title="Level", description="Row of the side, 0 is the best.", examples=[0])
    price: Price = Field(title="Price", description="Price of the level; as received for `remove`.", examples=[230.01])
    size: Count = Field(title="Size", description="Shares at the level; as received for `remove`.", examples=[300])
    symbol: Symbol = Field(title="Symbol", description="Canonical symbol.", examples=["AAPL"])
    schema_version: Literal["level2_messages.v1"] | None = Field(
        default=None,
        title="Schema version",
        description="Names the major version; usually left out, which means v1.",
        examples=[SCHEMA_VERSION],
    )

    @classmethod
    def version(cls) -> str:
        """Return the `schema_version` that a message has when it names one."""
        return SCHEMA_VERSION


class DepthMessages(RootModel[tuple[DepthMessage, ...]]):
    """A messages file: every message of one symbol in the order of arrival, standard JSON, one record per line."""

    model_config = ConfigDict(
        title="Depth messages",
        frozen=True,
        json_schema_extra={
            "examples": [
                [],
                [
                    {
                        "timestamp": "2025-09-04T13:30:00.100000000+00:00",
                        "operation": "add",
                        "side": "bid",
                        "level": 0,
                        "price": 230.01,
                        "size": 300,
                        "symbol": "AAPL",
                    }
                ],
            ]
        },
    )

    def to_document(self) -> list[dict[str, Any]]:
        """Return the JSON document."""
        return [message.to_document() for message in self.root]

    def to_json(self) -> str:
        """Return the file's text: an array with one record per line."""
        records = ",\n".join(message.to_json() for message in self.root)
        return f"[\n{records}\n]\n" if records else "[]\n"

    @classmethod
    def from_document(cls, document: object) -> Self:
        """Read a parsed JSON document.

        Raises:
            UnknownSchemaVersion: A message names another version.
            InvalidDocument: It breaks the model; names the first field at fault, such as `3.price`.
        """
        if not isinstance(document, list):
            raise InvalidDocument(SCHEMA_VERSION, f"it is a JSON {json_type(document)}, not an array")
        for message in document:
            if isinstance(message, dict) and (found := message.get("schema_version")) not in (None, SCHEMA_VERSION):
                raise UnknownSchemaVersion(found, [SCHEMA_VERSION])
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise invalid_document(SCHEMA_VERSION, error) from None

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a file's text.

        Raises:
            UnknownSchemaVersion: As `from_document`.
            InvalidDocument: As `from_document`, or the text is not one document of standard JSON.
        """
        return cls.from_document(parse_json(text, SCHEMA_VERSION))

"""Metadata in the footer of a parquet file: the base of its models, and their form as keys and values of bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from contracts.errors import InvalidDocument
from contracts.v1._model import Contract, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

Source = Literal["ibkr", "databento"]
"""Where the data of a file comes from."""


class FooterMetadata(Contract):
    """Base of the models of key-value metadata in a parquet footer, decoded; additive, readers must not need it."""

    json_fields: ClassVar[frozenset[str]] = frozenset()
    """The fields that are JSON in the footer; all others are plain text."""

    def to_footer(self) -> dict[bytes, bytes]:
        """Return the footer form: sorted keys, UTF-8 texts, other values as compact sorted JSON.

        The same metadata gives the same bytes.
        """
        document = self.to_document()
        return {key.encode(): _text(document[key]).encode() for key in sorted(document)}

    @classmethod
    def from_footer(cls, footer: Mapping[bytes, bytes] | None) -> Self | None:
        """Read the footer form; keys of others (`ARROW:schema`, `pandas`) are left alone.

        Returns:
            The metadata, or None when the footer has none: an old or foreign file is read without. Some of the keys
            without `schema_version` are no metadata of ours, for others write a `symbol` or `source` too.

        Raises:
            UnknownSchemaVersion: The file is of another version, or of another kind.
            InvalidDocument: It says it is of this version, but lacks keys or has values that the model does not allow.
        """
        texts = {name: (footer or {}).get(name.encode()) for name in cls.model_fields}
        present = {name: value for name, value in texts.items() if value is not None}
        if not present:
            return None
        try:
            return cls.from_document({name: cls._value(name, value) for name, value in present.items()})
        except InvalidDocument:
            if "schema_version" in present:
                raise
            return None

    @classmethod
    def _value(cls, name: str, value: bytes) -> Any:
        version = cls.version()
        if name in cls.json_fields:
            try:
                return parse_json(value, version)
            except InvalidDocument as error:
                raise InvalidDocument(version, error.reason, field=name) from None
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InvalidDocument(version, "it is not UTF-8", field=name) from None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))

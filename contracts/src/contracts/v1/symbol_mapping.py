"""The symbol mapping file: where a canonical symbol has another name, dataset or schema at the vendor.

It changes vendor requests and nothing else: names, folders and manifests keep the canonical symbol. Unlike the other
artifacts it is written by people, so an unknown key is a slip and is refused.
"""

from __future__ import annotations

import re
from datetime import date
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from contracts.errors import InvalidDocument
from contracts.symbols import SPELLING_PATTERN, canonical_symbol
from contracts.v1._model import IsoDate, invalid_document, json_type, parse_json

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

SCHEMA_VERSION: Final = "symbol_mapping.v1"
"""Names the major version; the file itself carries none, for the guide gave it none."""

FILENAME: Final = "symbol_mapping.json"
"""Name of the file at its default place; SYMBOL_MAPPING_FILE can name another."""

_LONGEST: Final = 64
_VENDOR_TEXT: Final = r"^(?=.*[^ ])[ -+\--~]+(?!\n)$"


def _vendor_text(text: str) -> str:
    if len(text) > _LONGEST:
        raise ValueError(f"longer than {_LONGEST} characters")
    if not re.match(_VENDOR_TEXT, text):
        raise ValueError("expected printable ASCII without a comma, not blank")
    return text.strip(" ")


VendorText = Annotated[
    str,
    AfterValidator(_vendor_text),
    WithJsonSchema({"type": "string", "pattern": _VENDOR_TEXT, "maxLength": _LONGEST}),
]
"""A name or code of the vendor: printable ASCII without a comma, which separates symbols in a request."""


class SymbolMappingEntry(BaseModel):
    """What to ask the vendor for instead; every part is optional.

    A plain text in the file is short for an entry with only `symbol`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, title="Symbol mapping entry")

    symbol: VendorText | None = Field(
        default=None, title="Vendor symbol", description="Raw symbol in the dataset's own spelling.", examples=["BRK.B"]
    )
    dataset: VendorText | None = Field(
        default=None, title="Dataset", description="Vendor dataset code.", examples=["XNYS.PILLAR"]
    )
    schema_: VendorText | None = Field(
        default=None, alias="schema", title="Schema", description="Vendor schema of the records.", examples=["mbp-10"]
    )
    valid_from: IsoDate | None = Field(
        default=None, title="Valid from", description="First ET day the entry holds for.", examples=["2024-01-02"]
    )
    valid_to: IsoDate | None = Field(
        default=None, title="Valid to", description="Last ET day the entry holds for.", examples=["2025-12-31"]
    )

    @model_validator(mode="before")
    @classmethod
    def _text_is_symbol(cls, value: Any) -> Any:
        return {"symbol": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.valid_from and self.valid_to and self.valid_from > self.valid_to:
            raise ValueError(f"valid_from {self.valid_from} is after valid_to {self.valid_to}")
        return self

    def holds_on(self, day: date) -> bool:
        """Whether the entry is valid on an ET day, both ends included."""
        return (self.valid_from or date.min) <= day <= (self.valid_to or date.max)

    def _clashes_with(self, other: SymbolMappingEntry) -> bool:
        """Whether both hold on some day and ask the vendor for different things."""
        start = max(self.valid_from or date.min, other.valid_from or date.min)
        end = min(self.valid_to or date.max, other.valid_to or date.max)
        asks = (self.symbol, self.dataset, self.schema_) != (other.symbol, other.dataset, other.schema_)
        return asks and start <= end


class _OrPlainText:
    """Tells the JSON Schema that a plain text may stand for an entry."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        text = {"type": "string", "pattern": _VENDOR_TEXT, "maxLength": _LONGEST}
        return {"anyOf": [text, handler(core_schema)]}


class SymbolMapping(RootModel[dict[str, Annotated[SymbolMappingEntry, _OrPlainText()]]]):
    """A symbol mapping file: local symbol, in any spelling, to vendor symbol or entry.

    Keys that are spellings of one symbol (`BRK.B`, `BRK-B`) may hold one after the other. Two that hold on the same
    day must ask for the same thing, else the mapping is refused: no rule of precedence could tell which one was meant.
    """

    model_config = ConfigDict(
        title="Symbol mapping",
        json_schema_extra={
            "propertyNames": {"pattern": SPELLING_PATTERN},
            "examples": [
                {"BRK-B": "BRK.B"},
                {"WFI": {"symbol": "WFI", "dataset": "XNYS.PILLAR"}},
                {
                    "META": {"symbol": "META", "valid_from": "2022-06-09"},
                    "meta": {"symbol": "FB", "valid_to": "2022-06-08"},
                },
            ],
        },
    )

    _keys: dict[str, list[str]] = PrivateAttr(default_factory=dict)
    """Canonical symbol to its keys, one that is spelled canonically first."""

    @model_validator(mode="after")
    def _index(self) -> Self:
        keys: dict[str, list[str]] = {}
        for key in self.root:
            keys.setdefault(canonical_symbol(key), []).append(key)
        for symbol, spellings in keys.items():
            for one, other in combinations(spellings, 2):
                if self.root[one]._clashes_with(self.root[other]):  # noqa: SLF001 - a class of this module
                    raise ValueError(
                        f"the keys {one!a} and {other!a} are both {symbol}, hold on the same day and differ: "
                        "keep one of them, or set valid_from and valid_to"
                    )
            spellings.sort(key=symbol.__ne__)
        self._keys = keys
        return self

    def entry(self, symbol: str, day: date) -> SymbolMappingEntry | None:
        """The entry for a symbol in any spelling on an ET day, or None.

        A key spelled canonically comes before one in another spelling.

        Raises:
            InvalidSymbol: The symbol has no canonical form.
        """
        keys = self._keys.get(canonical_symbol(symbol), ())
        return next((self.root[key] for key in keys if self.root[key].holds_on(day)), None)

    def to_document(self) -> dict[str, Any]:
        """Return the JSON document; every entry as an object, its empty parts left out."""
        document: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return document

    def to_json(self) -> str:
        """Return the document as one line of JSON without a line end."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    @classmethod
    def from_document(cls, document: object) -> Self:
        """Read a parsed JSON document.

        Raises:
            InvalidDocument: It breaks the model; names the first field at fault.
        """
        if not isinstance(document, dict):
            raise InvalidDocument(SCHEMA_VERSION, f"it is a JSON {json_type(document)}, not an object")
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise invalid_document(SCHEMA_VERSION, error) from None

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a JSON text.

        Raises:
            InvalidDocument: As `from_document`, or the text is not one document of standard JSON.
        """
        return cls.from_document(parse_json(text, SCHEMA_VERSION))

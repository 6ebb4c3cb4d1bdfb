"""Read a document by the `schema_version` it names, for programs that meet several artifacts or several majors.

Here is only the choice of the reader; what a document means is in its model, and whole files are read by
`contracts.reader` and `contracts.follow`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from contracts.errors import InvalidDocument, UnknownSchemaVersion
from contracts.schemas import MODELS
from contracts.v1 import backfill, bars
from contracts.v1._model import parse_json

if TYPE_CHECKING:
    from contracts.v1._model import Contract
    from contracts.v1.depth_messages import DepthMessages
    from contracts.v1.symbol_mapping import SymbolMapping

_T = TypeVar("_T")
Reader = Callable[[str | bytes], _T]
"""Takes a JSON text and returns its model, or raises UnknownSchemaVersion or InvalidDocument."""

READERS: Final[Mapping[str, Reader[Contract | DepthMessages | SymbolMapping]]] = MappingProxyType(
    {
        **{version: model.from_json for version, model in MODELS.items()},
        backfill.MANIFEST_VERSION: backfill.parse_manifest_line,
        bars.MANIFEST_VERSION: bars.parse_bars_manifest_line,
        bars.COVERAGE_VERSION: bars.parse_bars_coverage,
    }
)
"""The reader of each version; those of artifacts with a past read the documents of the system before too."""


@overload
def parse_document(text: str | bytes, kind: str | None = None) -> Contract | DepthMessages | SymbolMapping: ...


@overload
def parse_document(text: str | bytes, kind: str | None = None, *, readers: Mapping[str, Reader[_T]]) -> _T: ...


def parse_document(text: str | bytes, kind: str | None = None, *, readers: Mapping[str, Reader[Any]] = READERS) -> Any:
    """Read one JSON document or line with the reader of exactly the version it names.

    A program that is to read two majors of an artifact as one passes `readers` of its own, in which the older one
    upgrades: `{**READERS, "bars_manifest.v1": lambda text: v1_to_v2(parse_bars_manifest_line(text)), ...}`.

    Args:
        text: One document of standard JSON, with or without a line end.
        kind: The artifact, a version without its major, such as `bars_manifest`; other artifacts are then refused,
            and a document that names no version is read as v1, which itself may insist on one. None takes every
            artifact that names its version.
        readers: The versions that can be read and their readers.

    Returns:
        What the reader returns: the model of that version.

    Raises:
        UnknownSchemaVersion: There is no reader of that version, or of that kind.
        InvalidDocument: The text is not standard JSON, breaks its model, or names no version and no `kind` is given.
    """
    known = {version: read for version, read in readers.items() if kind is None or version.rpartition(".")[0] == kind}
    if not known:
        raise UnknownSchemaVersion(kind, readers)
    if len(known) == 1:
        # The only reader checks the version itself; a large document is parsed once.
        (read,) = known.values()
        return read(text)
    document = parse_json(text, kind or "document")
    if isinstance(document, dict) and "schema_version" in document:
        found = document["schema_version"]
    elif kind is not None:
        found = f"{kind}.v1"
    else:
        raise InvalidDocument("document", "it names no schema_version, say which kind it is", field="schema_version")
    if not isinstance(found, str) or found not in known:
        raise UnknownSchemaVersion(found, known)
    return known[found](text)

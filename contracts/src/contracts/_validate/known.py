"""Reading many documents of one model fast: what was sound in one document is not checked again in the next.

A field of a model is checked by itself, so a value that was sound once always is. Fields whose values differ from
document to document are checked one by one; fields that the model holds against each other are remembered together.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import TypeAdapter, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from contracts.v1._model import Contract

_MOST_KNOWN: Final = 200_000


class KnownParts:
    """Reads documents as `model.from_document` does.

    Args:
        model: The model.
        differing: Its fields whose values hardly come twice.
        together: Its fields that it holds against each other; none of them is in `differing`.
    """

    def __init__(self, model: type[Contract], differing: Collection[str], together: Collection[str] = ()) -> None:
        self._model = model
        fields = model.model_fields
        self._required = [name for name, field in fields.items() if field.is_required()]
        self._defaults = {name: field.default for name, field in fields.items() if not field.is_required()}
        self._checks: dict[str, Callable[[Any], Any]] = {}
        for name in differing:
            whole: Any = Annotated[fields[name].annotation, fields[name]]
            self._checks[name] = TypeAdapter(whole).validate_python
        self._names = frozenset(fields) - set(differing)
        self._together = tuple(together)
        self._known: dict[Any, Any] = {}

    def read(self, document: Any) -> Any:
        """Read a parsed JSON document.

        Returns:
            An object with the fields of the model; making a model of them would take longer than all else.

        Raises:
            UnknownSchemaVersion: As `model.from_document`.
            InvalidDocument: As `model.from_document`.
        """
        try:
            return self._read_known(document)
        except (AttributeError, KeyError, TypeError, ValidationError):
            model = self._model.from_document(document)
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        for name in self._names:
            if name in document:
                value = document[name]
                self._known[name, type(value), tuple(value) if type(value) is list else value] = getattr(model, name)
        self._known[self._pair(document)] = None
        return model

    def _read_known(self, document: Any) -> SimpleNamespace:
        """Read a document of known parts; any error means that it is not one."""
        known, checks, names = self._known, self._checks, self._names
        known[self._pair(document)]
        values = self._defaults.copy()
        for name, value in document.items():
            if name in names:
                # True equals 1, and a list has no hash.
                values[name] = known[name, type(value), tuple(value) if type(value) is list else value]
            elif name in checks:
                values[name] = checks[name](value)
        for name in self._required:
            values[name]
        return SimpleNamespace(**values)

    def _pair(self, document: Any) -> Any:
        return tuple(document.get(name) for name in self._together)

"""Judge by six named rules whether a JSON Schema may follow a released one under the same `$id`.

    python tools/compatibility.py    compare the models as they are now with every release below `schemas/releases`

The rules keep one promise: a document that a released schema accepts is accepted now, and means the same.

FIELD_NO_DELETE       a property that was described is described still
FIELD_SAME_TYPE       its JSON types are the same; only null may be added, which is how a field becomes optional here
REQUIRED_NO_ADD       nothing becomes required that was not
ENUM_VALUE_NO_DELETE  every value of an enum stays
CONSTRAINT_NO_TIGHTEN no bound, length, pattern, format, const or closed object is stricter or new; a pattern that is
                      only written differently counts as stricter, because nobody can prove that it is not
ID_UNCHANGED          `$schema`, `$id` and the value of `schema_version` are the same

Allowed, although a strict reader of the old schema refuses documents that make use of it: a field no longer required
(or null now), a value added to an enum, a looser constraint, a property added to an object that was closed. Reading
old documents with new code is safe all the same; that today's documents pass every released schema is tested apart,
with the valid corpora. A property added to an open object is seen by no old reader. Annotations (`title`,
`description`, `examples`, `default`) are not judged. Keywords that these rules do not know must not change.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

REPOSITORY: Final = Path(__file__).resolve().parent.parent

Rule = Literal[
    "FIELD_NO_DELETE",
    "FIELD_SAME_TYPE",
    "REQUIRED_NO_ADD",
    "ENUM_VALUE_NO_DELETE",
    "CONSTRAINT_NO_TIGHTEN",
    "ID_UNCHANGED",
]
Schema = dict[str, Any]

_TYPES: Final = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_NOT_JUDGED: Final = frozenset({
    *("$schema", "$id", "$defs", "$comment", "title", "description", "examples", "default", "deprecated"),
    *("readOnly", "writeOnly"),
})  # fmt: skip
_JUDGED: Final = frozenset({
    *("$ref", "type", "enum", "const", "anyOf", "oneOf", "properties", "required", "additionalProperties"),
    *("propertyNames", "items", "prefixItems", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"),
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
})  # fmt: skip
_SIZES: Final = ("Length", "Items", "Properties")


class Violation(NamedTuple):
    """One thing that a schema may not do to a released one.

    Attributes:
        rule: The name of the rule.
        pointer: JSON pointer of the place in the released schema.
        message: What was changed.
    """

    rule: Rule
    pointer: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.pointer or '/'}: {self.message}"


def compare(old_schema: Schema, new_schema: Schema) -> list[Violation]:
    """Return what a new schema of the same `$id` breaks of an old one; empty when it may follow.

    `oneOf` is judged as `anyOf`: what several alternatives accept is not refused here.

    Raises:
        ValueError: A `$ref` names nothing, leaves its document, or has siblings that constrain the same thing.
    """
    found = _identity(old_schema, new_schema)
    found += _Comparison(old_schema, new_schema).schemas(old_schema, new_schema, "")
    return list(dict.fromkeys(found))


def _identity(old: Schema, new: Schema) -> list[Violation]:
    found = [
        Violation("ID_UNCHANGED", f"/{key}", f"{old.get(key)!r} became {new.get(key)!r}")
        for key in ("$schema", "$id")
        if old.get(key) != new.get(key)
    ]
    fields = [schema.get("properties", {}).get("schema_version") for schema in (old, new)]
    before, after = (field.get("const") if isinstance(field, dict) else None for field in fields)
    if before != after:
        message = f"the version {before!r} became {after!r}"
        found.append(Violation("ID_UNCHANGED", "/properties/schema_version/const", message))
    return found


class _Place(NamedTuple):
    """A schema with its references followed, and where it really stands."""

    schema: Schema
    pointer: str


class _Comparison:
    """The walk through two documents; references are looked up in the one they stand in."""

    def __init__(self, old_root: Schema, new_root: Schema) -> None:
        self._old_root = old_root
        self._new_root = new_root
        self._open: set[tuple[str, str]] = set()

    def schemas(self, old: Schema | bool, new: Schema | bool, pointer: str) -> list[Violation]:
        """Compare two subschemas that stand for the same thing; `pointer` is the old one's."""
        if old is False or (_is_anything(old) and _is_anything(new)):
            return []
        if new is False:
            return [Violation("CONSTRAINT_NO_TIGHTEN", pointer, "what was taken here is refused")]
        before, after = _followed(old, self._old_root, pointer), _followed(new, self._new_root, "")
        step = (before.pointer, json.dumps(after.schema, sort_keys=True))
        if step in self._open:
            return []
        self._open.add(step)
        try:
            return self._alternatives(before, after)
        finally:
            self._open.discard(step)

    def _alternatives(self, old: _Place, new: _Place) -> list[Violation]:
        before, after = self._split(old, self._old_root), self._split(new, self._new_root)
        found = _types(before, after, old.pointer)
        if found:
            return found
        for place in before:
            kin = [other for other in after if _types_of(place.schema) <= _types_of(other.schema)]
            if kin:
                # Of several that could stand for it the one that fits best tells what is wrong.
                best = min((self._plain(place, other.schema) for other in kin), key=len)
                found += best
            else:
                types = ", ".join(sorted(_types_of(place.schema)))
                found.append(Violation("FIELD_SAME_TYPE", place.pointer, f"no alternative takes {types} any more"))
        return found

    def _split(self, place: _Place, root: Schema) -> list[_Place]:
        """Return the alternatives of a schema, each with what is said beside them; null stands alone."""
        for key in ("anyOf", "oneOf"):
            if key not in place.schema:
                continue
            beside = {name: value for name, value in place.schema.items() if name != key and name not in _NOT_JUDGED}
            places = []
            for number, choice in enumerate(place.schema[key]):
                followed = _followed(choice, root, f"{place.pointer}/{key}/{number}")
                places += self._split(_Place(_joined(followed.schema, beside), followed.pointer), root)
            return places
        types = place.schema.get("type")
        if isinstance(types, list) and len(types) > 1:
            return [_Place({**place.schema, "type": one}, place.pointer) for one in types]
        return [place]

    def _plain(self, old: _Place, new: Schema) -> list[Violation]:
        """Compare two schemas without alternatives, of the same type."""
        found = _values(old, new) + _bounds(old, new) + _others(old, new)
        types = _types_of(old.schema)
        if "object" in types:
            found += self._fields(old, new)
        if "array" in types:
            found += self._elements(old, new)
        return found

    def _fields(self, old: _Place, new: Schema) -> list[Violation]:
        found = []
        before: Schema = old.schema.get("properties", {})
        after: Schema = new.get("properties", {})
        for name, field in before.items():
            pointer = f"{old.pointer}/properties/{_escaped(name)}"
            if name in after:
                found += self.schemas(field, after[name], pointer)
            else:
                found.append(Violation("FIELD_NO_DELETE", pointer, f"the field {name} is gone"))
        rest_before, rest_after = (schema.get("additionalProperties", True) for schema in (old.schema, new))
        pointer = f"{old.pointer}/additionalProperties"
        if rest_before is not False:
            if rest_after is False or (_is_anything(rest_before) and not _is_anything(rest_after)):
                message = "keys that were taken are refused: the object was open"
                found.append(Violation("CONSTRAINT_NO_TIGHTEN", pointer, message))
            elif not _is_anything(rest_before):
                found += self.schemas(rest_before, rest_after, pointer)
                for name in after.keys() - before.keys():
                    found += self.schemas(rest_before, after[name], pointer)
        for name in sorted(set(new.get("required", ())) - set(old.schema.get("required", ()))):
            found.append(Violation("REQUIRED_NO_ADD", f"{old.pointer}/required", f"{name} became required"))
        if "propertyNames" in new:
            pointer = f"{old.pointer}/propertyNames"
            if "propertyNames" in old.schema:
                names_before, names_after = (
                    {"type": "string", **names} for names in (old.schema["propertyNames"], new["propertyNames"])
                )
                found += self.schemas(names_before, names_after, pointer)
            else:
                found.append(Violation("CONSTRAINT_NO_TIGHTEN", pointer, "keys of any name were taken"))
        return found

    def _elements(self, old: _Place, new: Schema) -> list[Violation]:
        found = []
        before, after = old.schema.get("prefixItems", []), new.get("prefixItems", [])
        rest_before, rest_after = old.schema.get("items", True), new.get("items", True)
        longest = old.schema.get("maxItems")
        for number in range(max(len(before), len(after))):
            if longest is not None and number >= longest:
                break
            place = f"prefixItems/{number}" if number < len(before) else "items"
            one = before[number] if number < len(before) else rest_before
            other = after[number] if number < len(after) else rest_after
            found += self.schemas(one, other, f"{old.pointer}/{place}")
        if longest is None or longest > max(len(before), len(after)):
            found += self.schemas(rest_before, rest_after, f"{old.pointer}/items")
        return found


def _followed(schema: Schema | bool, root: Schema, pointer: str) -> _Place:
    """Return a schema with `$ref` replaced by what it names; false stands for no value at all."""
    if isinstance(schema, bool):
        return _Place({} if schema else {"enum": []}, pointer)
    while "$ref" in schema:
        target: str = schema["$ref"]
        if not target.startswith("#/"):
            raise ValueError(f"the reference {target} leaves its document")
        named: Any = root
        for part in target[2:].split("/"):
            named = named.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(named, dict) else None
        if not isinstance(named, dict):
            raise ValueError(f"the reference {target} names nothing")  # noqa: TRY004 - the document is wrong, not a call
        schema = _joined(named, {key: value for key, value in schema.items() if key != "$ref"})
        pointer = target[1:]
    return _Place(schema, pointer)


def _joined(schema: Schema, beside: Schema) -> Schema:
    for key in beside.keys() & schema.keys() - _NOT_JUDGED:
        if beside[key] != schema[key]:
            raise ValueError(f"{key} is said twice, {schema[key]!r} and {beside[key]!r}: say it in one place")
    return {**schema, **beside}


def _types_of(schema: Schema) -> frozenset[str]:
    """Return the JSON types that a schema without alternatives can take."""
    types = schema.get("type")
    if types is not None:
        return frozenset([types] if isinstance(types, str) else types)
    if "const" in schema or "enum" in schema:
        return frozenset(map(_type_of, _values_of(schema) or []))
    return _TYPES


def _type_of(value: Any) -> str:
    names = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")


def _types(before: list[_Place], after: list[_Place], pointer: str) -> list[Violation]:
    """Judge FIELD_SAME_TYPE by all alternatives together."""
    old, new = (frozenset(name for place in places for name in _types_of(place.schema)) for places in (before, after))
    if old == new or old | {"null"} == new:
        return []
    names = [", ".join(sorted(types)) if types != _TYPES else "any" for types in (old, new)]
    return [Violation("FIELD_SAME_TYPE", pointer, f"the type {names[0]} became {names[1]}")]


def _values_of(schema: Schema) -> list[Any] | None:
    """Return the values that a schema enumerates, None when it does not."""
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _values(old: _Place, new: Schema) -> list[Violation]:
    before, after = _values_of(old.schema), _values_of(new)
    if after is None:
        return []
    rule: Rule = "ENUM_VALUE_NO_DELETE"
    key = "const" if "const" in old.schema else "enum"
    if before is None or key == "const":
        rule = "CONSTRAINT_NO_TIGHTEN"
    if before is None:
        return [Violation(rule, f"{old.pointer}/{key}", f"only {_shown(after)} is taken, other values were")]
    kept = {json.dumps(value, sort_keys=True) for value in after}
    gone = [value for value in before if json.dumps(value, sort_keys=True) not in kept]
    return [Violation(rule, f"{old.pointer}/{key}", f"{_shown(gone)} is not taken any more")] if gone else []


def _bounds(old: _Place, new: Schema) -> list[Violation]:
    found = []
    for end, sign in (("inimum", 1), ("aximum", -1)):
        before, after = (_bound(schema, end, sign) for schema in (old.schema, new))
        if after > before:
            message = f"{_bound_text(old.schema, end)} became {_bound_text(new, end)}"
            found.append(Violation("CONSTRAINT_NO_TIGHTEN", f"{old.pointer}/m{end}", message))
    for name in _SIZES:
        for key, sign, none in ((f"min{name}", 1, 0), (f"max{name}", -1, float("inf"))):
            before_size, after_size = old.schema.get(key, none), new.get(key, none)
            if sign * after_size > sign * before_size:
                message = f"{key} {before_size} became {after_size}"
                found.append(Violation("CONSTRAINT_NO_TIGHTEN", f"{old.pointer}/{key}", message))
    return found


def _bound(schema: Schema, end: str, sign: int) -> tuple[float, bool]:
    """Return a bound so that a greater one is stricter: the number, and whether it is itself excluded."""
    none = float("-inf")
    closed = sign * schema[f"m{end}"] if f"m{end}" in schema else none
    excluded = sign * schema[f"exclusiveM{end}"] if f"exclusiveM{end}" in schema else none
    return max((closed, False), (excluded, excluded != none))


def _bound_text(schema: Schema, end: str) -> str:
    said = [f"{key} {schema[key]}" for key in (f"m{end}", f"exclusiveM{end}") if key in schema]
    return " and ".join(said) or f"no m{end}"


def _others(old: _Place, new: Schema) -> list[Violation]:
    """Judge what can only be equal or dropped: patterns, formats, and every keyword not known here."""
    found = []
    for key in sorted(new.keys() - _NOT_JUDGED - _JUDGED):
        if key not in old.schema:
            message = f"{key} {_shown(new[key])} is new"
        elif old.schema[key] != new[key]:
            message = f"{key} {_shown(old.schema[key])} became {_shown(new[key])}"
        else:
            continue
        found.append(Violation("CONSTRAINT_NO_TIGHTEN", f"{old.pointer}/{_escaped(key)}", message))
    return found


def _is_anything(schema: Schema | bool) -> bool:
    return schema is True or (isinstance(schema, dict) and not schema.keys() - _NOT_JUDGED)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."  # noqa: PLR2004 - a line of text


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when every release is kept, 1 when not."""
    from tools.schemas import SchemaError, generate, read_releases  # noqa: PLC0415 - that module imports this one

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="the repository")
    options = parser.parse_args(arguments)
    current = {f"{major}/{file}": text for major, texts in generate().items() for file, text in texts.items()}
    try:
        releases = read_releases(options.root)
    except SchemaError as error:
        print(error, file=sys.stderr)
        return 1
    broken = 0
    for release in releases:
        for name, text in release.schemas.items():
            if name not in current:
                found = [Violation("FIELD_NO_DELETE", "", "the whole schema is gone")]
            else:
                found = compare(json.loads(text), json.loads(current[name]))
            for violation in found:
                print(f"{name} against release {release.version}: {violation}")
            broken += len(found)
    print(f"{len(current)} schemas against {len(releases)} releases: {broken or 'no'} violations")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

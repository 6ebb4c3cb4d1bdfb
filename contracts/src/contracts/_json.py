"""Standard JSON and nothing else: what Python's parser lets pass, and other readers do not, is refused here."""

from __future__ import annotations

import json
from typing import Any, NoReturn


class NotJson(ValueError):  # noqa: N818 - reads as what the text is
    """A text that is not one document of standard JSON; the message is the reason.

    Attributes:
        rule: A stable word for programs: `utf8`, `bom`, `duplicate-key`, `nan`, `json`.
    """

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule


def loads(text: str | bytes) -> Any:
    """Parse one JSON document.

    Raises:
        NotJson: Malformed, invalid UTF-8, a byte order mark, duplicate keys, `NaN`/`Infinity`, an integer of thousands
            of digits, or nested beyond sense.
    """
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise NotJson("utf8", f"not UTF-8 at byte {error.start}") from None
    if decoded.startswith("\ufeff"):
        raise NotJson("bom", "it starts with a byte order mark")
    try:
        return _DECODER.decode(decoded)
    except NotJson:
        raise
    except RecursionError:
        raise NotJson("json", "nested too deeply") from None
    except ValueError as error:
        raise NotJson("json", f"not JSON ({error})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise NotJson("duplicate-key", f"the key {twice[:60]!a} comes twice")
    return document


def _no_constant(text: str) -> NoReturn:
    raise NotJson("nan", f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise NotJson("nan", f"the number {text[:40]} is too large")
    return number


# json.loads would make a decoder for each call, which costs more than parsing a manifest line.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)

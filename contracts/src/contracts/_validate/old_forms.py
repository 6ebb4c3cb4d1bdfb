"""Old forms in the bars documents of the system before: each is a warning, and replaced by what it is read as."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from contracts.v1._model import with_canonical_symbol, with_et, with_utc

if TYPE_CHECKING:
    from collections.abc import Callable

    from contracts._validate.findings import Collector

_HINT: Final = "Nothing to do for old documents; new ones must not say it."


def renewed(document: Any, findings: Collector, *, line: int | None = None, place: str = "") -> Any:
    """Return an object of a bars document with old forms replaced; anything else as it is.

    Args:
        document: A manifest line, or the coverage, one of its entries or days.
        findings: Where to put what was found; each rule once per object.
        line: One-based line, of a manifest.
        place: Dotted place of the object in its document, ends in a dot.
    """
    if not isinstance(document, dict):
        return document
    new = dict(document)

    def tell(rule: str, key: str, message: str) -> None:
        findings.add(rule, message, _HINT, severity="warning", line=line, field=place + key)

    empty = [key for key in ("time_start", "time_end") if key in new and new[key] is None]
    if empty:
        tell("old-null", empty[0], "the time is null; the key is left out where there is none")
    for key in empty:
        del new[key]
    moments = (("time_start", with_et), ("time_end", with_et), ("written_at", with_utc), ("generated_at", with_utc))
    naive = [key for key, convert in moments if _replace(new, key, convert)]
    if naive:
        message = f"{str(document[naive[0]])[:40]!a} has not the offset of its clock; without one it is New York time"
        tell("old-time", naive[0], message)
    if "symbol" in new and (symbol := with_canonical_symbol(new["symbol"])) != new["symbol"]:
        tell("old-symbol", "symbol", f"{new['symbol']!a} is another spelling of {symbol}")
        new["symbol"] = symbol
    return new


def _replace(document: dict[str, Any], key: str, convert: Callable[[Any], Any]) -> bool:
    """Put the new form of a time in the place of the old one; tell whether it had another offset, or none."""
    old = document.get(key)
    new = convert(old)
    if new == old or not isinstance(old, str):
        return False
    document[key] = new
    offset = str(new)[-len("+00:00") :]
    return not old.endswith(offset) and not (offset == "+00:00" and old.endswith("Z"))

"""The canonical spelling of a symbol, as used in folders, file names and manifests.

Vendor spellings (`BRK.B`, `BRK B`) do not live here; they exist only in the symbol mapping of the producer.
"""

from __future__ import annotations

import re
from typing import Final

from contracts.errors import InvalidSymbol

_CANONICAL: Final = re.compile(r"[A-Z][A-Z0-9-]{0,14}")
_TO_DASH: Final = str.maketrans("./ ", "---")
_DEVICES: Final = frozenset(["AUX", "CON", "NUL", "PRN", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))])
"""Names that Windows gives to devices in every folder, so no folder of a shared data root can have them."""

SYMBOL_PATTERN: Final = r"^(?!(?:AUX|CON|NUL|PRN|COM[0-9]|LPT[0-9])$)[A-Z][A-Z0-9-]{0,14}(?!\n)$"
"""The same rule for JSON Schema. `(?!\\n)`: in Python `$` would let a line end pass."""

SPELLING_PATTERN: Final = (
    r"^[ \t\r\n]*(?!(?:[Aa][Uu][Xx]|[Cc][Oo][Nn]|[Nn][Uu][Ll]|[Pp][Rr][Nn]|[Cc][Oo][Mm][0-9]|[Ll][Pp][Tt][0-9])"
    r"[ \t\r\n]*$)[A-Za-z][A-Za-z0-9./ -]{0,14}[ \t\r\n]*$"
)
"""For JSON Schema: every spelling that has a canonical form."""


def canonical_symbol(text: str) -> str:
    """Return the canonical form of a symbol.

    Trimmed of ASCII blanks, upper case, each `.`, `/` and blank inside becomes `-`: ` brk.b ` is `BRK-B`. Only ASCII
    letters are upper-cased, so no other letter can turn into one (`'ß'.upper()` is `SS`). `NA` and `TRUE` are symbols.

    Args:
        text: Any spelling.

    Returns:
        A text that matches `^[A-Z][A-Z0-9-]{0,14}$`, is safe as a folder name everywhere and is its own canonical form.

    Raises:
        InvalidSymbol: There is no canonical form: empty, too long, another character, a path, or the name of a
            Windows device such as `CON`.
    """
    if not isinstance(text, str):
        raise InvalidSymbol(text, f"it is a {type(text).__name__}, not a text")
    trimmed = text.strip(" \t\r\n")
    if not trimmed:
        raise InvalidSymbol(text, "it is empty")
    if not trimmed.isascii():
        raise InvalidSymbol(text, "it has characters outside ASCII")
    symbol = trimmed.upper().translate(_TO_DASH)
    if not _CANONICAL.fullmatch(symbol):
        raise InvalidSymbol(text, f"{symbol[:40]!r} does not match ^[A-Z][A-Z0-9-]{{0,14}}$")
    if symbol in _DEVICES:
        raise InvalidSymbol(text, "it is the name of a device on Windows, where no folder can be called so")
    return symbol

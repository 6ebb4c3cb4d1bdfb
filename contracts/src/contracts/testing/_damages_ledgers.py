"""Kinds of damage to the three JSON Lines files, each to every file it can befall, and to the backfill summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from contracts.errors import InvalidDocument, UnknownSchemaVersion
from contracts.testing._damage import Damage, edit_bytes, edit_json, edit_json_line, edit_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from contracts.errors import ContractError
    from contracts.layout import DataRoot
    from contracts.testing._damage import Artifact, Outcome

_BOM: Final = b"\xef\xbb\xbf"

_LEDGERS: Final[dict[Artifact, Callable[[DataRoot], Path]]] = {
    "backfill_manifest": lambda root: root.backfill_manifest,
    "bars_manifest": lambda root: root.bars_manifest,
    "gaps": lambda root: root.gaps,
}


def _torn(path: Path) -> Path:
    """Cut the last line in its middle, as a writer that dies leaves it."""

    def cut(content: bytes) -> bytes:
        begin = content.rstrip(b"\n").rfind(b"\n") + 1
        return content[: (begin + len(content)) // 2]

    return edit_bytes(path, cut)


def _crlf(path: Path) -> Path:
    return edit_bytes(path, lambda content: content.replace(b"\n", b"\r\n"))


def _bom(path: Path) -> Path:
    return edit_bytes(path, lambda content: _BOM + content)


def _in_line(edit: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    return lambda path: edit_line(path, edit)


def _in_document(edit: Callable[[Any], object]) -> Callable[[Path], Path]:
    return lambda path: edit_json_line(path, edit)


def _with_key(text: bytes) -> Callable[[Path], Path]:
    """Append a key to the first line's object, as text, so that it can be one that no JSON writer writes."""
    return _in_line(lambda line: line[:-1] + b"," + text + b"}")


def _set(key: str, value: object) -> Callable[[Path], Path]:
    def edit(document: dict[str, Any]) -> None:
        document[key] = value

    return _in_document(edit)


def _without(key: str) -> Callable[[Path], Path]:
    def edit(document: dict[str, Any]) -> None:
        del document[key]

    return _in_document(edit)


def _end_before_start(document: dict[str, Any]) -> None:
    document["gap_start"], document["gap_end"] = document["gap_end"], document["gap_start"]


def _lines(artifact: Artifact) -> Iterator[Damage]:
    """Yield what can befall the lines of any ledger; where a line is damaged it is the first one."""

    def damage(
        name: str, description: str, rule: str, edit: Callable[[Path], Path], outcome: Outcome = "leaves out"
    ) -> Damage:
        return Damage(
            name=f"{artifact.replace('_', '-')}-{name}",
            artifact=artifact,
            description=description,
            rule=rule,
            apply=lambda root: edit(_LEDGERS[artifact](root)),
            severity="warning" if rule == "crlf" else "error",
            outcome=outcome,
        )

    yield damage("torn-line", "the last line is cut", "torn-line", _torn)
    yield damage("bom", "a byte order mark at the beginning", "bom", _bom, "reads")
    yield damage("crlf", "lines that end with CR LF", "crlf", _crlf, "reads")
    yield damage("not-utf8", "a line with a byte that is no UTF-8", "utf8", _with_key(b'"detail":"\xff"'))
    yield damage("list-line", "a line that is an array", "model", _in_line(lambda line: b"[" + line + b"]"))
    yield damage("number-line", "a line that is a number", "model", _in_line(lambda _: b"42"))
    yield damage("duplicate-key", "a key twice in one line", "duplicate-key", _with_key(b'"symbol":"NVDA"'))
    yield damage("nan", "a NaN in a line", "nan", _with_key(b'"cost":NaN'))
    yield damage("huge-number", "a number of 5,000 digits", "json", _with_key(b'"size":' + b"9" * 5000))
    yield damage("other-version", "a line that says v9", "schema-version", _set("schema_version", "x.v9"))
    yield damage("no-symbol", "a line without a symbol", "model", _without("symbol"))
    if artifact == "gaps":
        yield damage("end-before-start", "a gap that ends before it begins", "model", _in_document(_end_before_start))
        yield damage("cause-of-nobody", "a cause that nobody knows", "model", _set("cause", "sunspots"))
        return
    yield damage("rows-as-text", "rows as text", "model", _set("rows", "600"))
    yield damage("huge-rows", "rows beyond 64 bits", "model", _set("rows", 10**30))
    if artifact == "bars_manifest":
        yield damage("no-version", "a line that says no version", "schema-version", _without("schema_version"))
        yield damage("relative-path", "a path that is not absolute", "path", _set("path", "bars/x.parquet"), "reads")
    else:
        yield damage("status-of-nobody", "a status that nobody knows", "model", _set("status", "DONE"))


def _summary(
    name: str,
    description: str,
    rule: str,
    edit: Callable[[Path], Path],
    error: type[ContractError] | None = InvalidDocument,
) -> Damage:
    return Damage(
        name=f"backfill-summary-{name}",
        artifact="backfill_summary",
        description=description,
        rule=rule,
        apply=lambda root: edit(root.backfill_summary),
        outcome="reads" if error is None else "raises",
        error=error,
    )


def _in_summary(**changes: object) -> Callable[[Path], Path]:
    return lambda path: edit_json(path, lambda summary: {**summary, **changes})


_MORE_COUNTS: Final = {"WRITE": 2, "SKIP": 0, "EMPTY": 1, "ERROR": 0}

LEDGER_DAMAGES: Final = tuple(damage for artifact in _LEDGERS for damage in _lines(artifact))

SUMMARY_DAMAGES: Final = (
    _summary("total", "total_tasks is not the sum of counts", "model", _in_summary(total_tasks=7)),
    _summary(
        "unlike-manifest",
        "the manifest has other counts for that run",
        "run-count",
        _in_summary(counts=_MORE_COUNTS, total_tasks=3),
        None,
    ),
    _summary("list", "an array, not an object", "schema", lambda path: edit_json(path, lambda found: [found])),
    _summary(
        "torn", "the second half is gone", "json", lambda path: edit_bytes(path, lambda text: text[: len(text) // 2])
    ),
    _summary(
        "other-version",
        "it says v2",
        "schema-version",
        _in_summary(schema_version="backfill_l2_summary.v2"),
        UnknownSchemaVersion,
    ),
)

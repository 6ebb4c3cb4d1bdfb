"""Where files lie: the data root, its folders, and the grammar of file names, to build and to parse.

Nothing here creates or reads a file; the only question put to the disk is whether the root is a folder.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

from contracts.errors import InvalidDataRoot, InvalidName
from contracts.symbols import canonical_symbol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Level2Kind = Literal["snapshots", "events", "messages", "session_stats"]
BarSize = Literal["1 hour", "1 min", "1 sec"]

BAR_FOLDERS: Final[dict[BarSize, str]] = {"1 hour": "hour", "1 min": "minute", "1 sec": "second"}
_BAR_SIZES: Final[dict[str, BarSize]] = {folder: size for size, folder in BAR_FOLDERS.items()}

_DAY = r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})"
_STAMP = r"(?P<stamp>[0-9]{6})"
_TAG = r"(?P<tag>[a-z][a-z0-9]*)"
_GRAMMAR: Final[tuple[tuple[Level2Kind, re.Pattern[str]], ...]] = (
    ("snapshots", re.compile(rf"{_DAY}_snapshots_(?:{_STAMP}|{_TAG})\.parquet")),
    ("events", re.compile(rf"{_DAY}_events_{_TAG}\.parquet")),
    ("messages", re.compile(rf"{_DAY}_messages_{_STAMP}\.json")),
    ("session_stats", re.compile(rf"session_stats_(?P<day>[0-9]{{8}})_{_STAMP}\.json")),
)
_SOURCE_TAG: Final = re.compile(r"[a-z][a-z0-9]*")
_VARIABLE: Final = re.compile(r"\$(?:\{(?P<braced>[^}]*)\}|(?P<plain>[A-Za-z_][A-Za-z0-9_]*))")


@dataclass(frozen=True)
class Level2Name:
    """The name of one file in a symbol's Level-2 folder.

    Attributes:
        kind: What the file holds. `events` are the vendor's own events.
        day: The ET trading day.
        stamp: ET wall clock of the first row, whole seconds; for live files only.
        source_tag: `[a-z][a-z0-9]*`, such as `databento`; for historical files only.

    Raises:
        InvalidName: The parts make no name of the grammar.
    """

    kind: Level2Kind
    day: date
    stamp: time | None = None
    source_tag: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Level2Kind):
            raise InvalidName(self.kind, f"the kind must be one of {', '.join(get_args(Level2Kind))}")
        _check_day(self.day)
        if (self.stamp is None) == (self.source_tag is None):
            raise InvalidName(self.kind, "a file has either a time stamp (live) or a source tag (historical)")
        if self.stamp is not None and self.kind == "events":
            raise InvalidName(self.kind, "event files have a source tag")
        if self.source_tag is not None and self.kind in ("messages", "session_stats"):
            raise InvalidName(self.kind, "messages and session stats are live and have a time stamp")
        if self.stamp is not None and (self.stamp.microsecond or self.stamp.tzinfo is not None):
            raise InvalidName(str(self.stamp), "the time stamp is ET wall clock in whole seconds")
        if self.source_tag is not None and not _SOURCE_TAG.fullmatch(self.source_tag):
            raise InvalidName(self.source_tag, "a source tag is lower-case letters and digits, a letter first")

    @property
    def filename(self) -> str:
        """The file name; `parse_level2_name` is its inverse."""
        stamp = "" if self.stamp is None else f"{self.stamp:%H%M%S}"
        if self.kind == "session_stats":
            return f"session_stats_{self.day.isoformat().replace('-', '')}_{stamp}.json"
        if self.kind == "messages":
            return f"{self.day.isoformat()}_messages_{stamp}.json"
        return f"{self.day.isoformat()}_{self.kind}_{self.source_tag or stamp}.parquet"


@dataclass(frozen=True)
class BarsName:
    """The place of one bars file below the data root.

    Attributes:
        bar_size: `1 hour`, `1 min` or `1 sec`.
        symbol: The canonical symbol.
        day: The ET trading day.

    Raises:
        InvalidName: The parts make no name of the grammar.
        InvalidSymbol: The symbol has no canonical form.
    """

    bar_size: BarSize
    symbol: str
    day: date

    def __post_init__(self) -> None:
        if self.bar_size not in BAR_FOLDERS:
            raise InvalidName(self.bar_size, f"the bar size must be one of {', '.join(BAR_FOLDERS)}")
        object.__setattr__(self, "symbol", canonical_symbol(self.symbol))
        _check_day(self.day)

    @property
    def relative_path(self) -> Path:
        """The path below the data root; `parse_bars_path` is its inverse."""
        return Path("bars", BAR_FOLDERS[self.bar_size], self.symbol, f"{self.day.isoformat()}.parquet")


@dataclass(frozen=True)
class DataRoot:
    """The folder that a producer fills and a consumer reads, and every path below it.

    Attributes:
        path: The root; a text is taken too.
        level2_dirname: Name of the Level-2 folder, one plain folder name.

    Raises:
        InvalidDataRoot: `level2_dirname` is not one plain folder name.
    """

    path: Path
    level2_dirname: str = "level2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        _check_dirname(self.level2_dirname)

    @property
    def level2_dir(self) -> Path:
        """The folder of all Level-2 files."""
        return self.path / self.level2_dirname

    def symbol_dir(self, symbol: str) -> Path:
        """Return the Level-2 folder of a symbol in any spelling.

        Raises:
            InvalidSymbol: The symbol has no canonical form.
        """
        return self.level2_dir / canonical_symbol(symbol)

    def level2_path(self, symbol: str, name: Level2Name) -> Path:
        """Return the path of a named Level-2 file of a symbol in any spelling."""
        return self.symbol_dir(symbol) / name.filename

    def snapshots_path(self, symbol: str, day: date, source_tag: str = "databento") -> Path:
        """Return the path of a historical snapshots file of an ET day."""
        return self.level2_path(symbol, Level2Name("snapshots", day, source_tag=source_tag))

    def events_path(self, symbol: str, day: date, source_tag: str = "databento") -> Path:
        """Return the path of a file with the vendor's events of an ET day."""
        return self.level2_path(symbol, Level2Name("events", day, source_tag=source_tag))

    def bars_path(self, bar_size: BarSize, symbol: str, day: date) -> Path:
        """Return the path of a bars file of an ET day."""
        return self.path / BarsName(bar_size, symbol, day).relative_path

    @property
    def backfill_manifest(self) -> Path:
        """One JSON line per backfill task and run."""
        return self.path / "backfill_l2_manifest.jsonl"

    @property
    def backfill_summary(self) -> Path:
        """The outcome of the last backfill run."""
        return self.path / "backfill_l2_summary.json"

    @property
    def bars_manifest(self) -> Path:
        """One JSON line per bars file written."""
        return self.path / "bars_download_manifest.jsonl"

    @property
    def bars_coverage(self) -> Path:
        """The best bars file of each day, derived from the manifest."""
        return self.path / "bars_coverage_manifest.json"

    @property
    def gaps(self) -> Path:
        """One JSON line per known hole in live capture."""
        return self.path / "l2_gaps.jsonl"


def parse_level2_name(filename: str) -> Level2Name:
    """Parse the name of a file in a symbol's Level-2 folder.

    Args:
        filename: The bare name, no folders.

    Raises:
        InvalidName: It is not in the grammar; also for dates and times that do not exist.
    """
    for kind, pattern in _GRAMMAR:
        match = pattern.fullmatch(filename)
        if match is None:
            continue
        parts = match.groupdict()
        stamp = parts.get("stamp")
        try:
            day = date.fromisoformat(parts["day"])
            clock = None if stamp is None else time(int(stamp[:2]), int(stamp[2:4]), int(stamp[4:]))
        except ValueError as error:
            raise InvalidName(filename, f"no such date or time ({error})") from None
        return Level2Name(kind, day, clock, parts.get("tag"))
    raise InvalidName(
        filename,
        "expected YYYY-MM-DD_snapshots_HHMMSS.parquet, YYYY-MM-DD_snapshots_source.parquet, "
        "YYYY-MM-DD_events_source.parquet, YYYY-MM-DD_messages_HHMMSS.json or "
        "session_stats_YYYYMMDD_HHMMSS.json",
    )


def parse_bars_path(path: Path) -> BarsName:
    """Parse the path of a bars file from its last four parts, `bars/minute/AAPL/2025-09-15.parquet`.

    Raises:
        InvalidName: It is not in the grammar; a symbol folder that is not canonical is not either.
    """
    parts = path.parts[-4:]
    match = re.fullmatch(rf"{_DAY}\.parquet", path.name)
    if len(parts) != len(("bars", "size", "symbol", "file")) or parts[0] != "bars" or match is None:
        raise InvalidName(str(path), "expected bars/{hour|minute|second}/SYMBOL/YYYY-MM-DD.parquet")
    if parts[1] not in _BAR_SIZES:
        raise InvalidName(str(path), f"the bar folder must be one of {', '.join(_BAR_SIZES)}")
    try:
        name = BarsName(_BAR_SIZES[parts[1]], parts[2], date.fromisoformat(match["day"]))
    except ValueError as error:
        raise InvalidName(str(path), str(error).rstrip(".")) from None
    if name.symbol != parts[2]:
        raise InvalidName(str(path), f"the symbol folder must be {name.symbol}")
    return name


def resolve_data_root(env: Mapping[str, str]) -> DataRoot:
    """Find the data root that a process with this environment writes to; nothing is created.

    `DATA_PATH_OVERRIDE` if not empty, else `ML_BASE_PATH` if not empty, else `./data`. `$VAR`, `${VAR}` and `~` are
    expanded from the mapping; a variable that is not in it is an error, since a folder called `$VAR` is never meant.
    A relative root is made absolute against the current folder, so that a later change of folder cannot move it.

    Args:
        env: The process environment merged over `.env`.

    Raises:
        InvalidDataRoot: The root cannot be used: it is a file or lies below one, a variable is unknown, or
            `LEVEL2_DIRNAME` is set but is not one plain folder name.
    """
    style, root = next(_roots(env))
    dirname = env.get("LEVEL2_DIRNAME")
    found = DataRoot(root, _default_dirname(style) if dirname is None else dirname)
    check_data_root(found)
    return found


def check_data_root(root: DataRoot) -> None:
    """Refuse a root that cannot be a folder; a root that does not exist yet is fine, and nothing is created.

    Raises:
        InvalidDataRoot: The root, its Level-2 folder or a folder above is something else, or cannot be looked at.
    """
    for path in (root.level2_dir, root.path, *root.path.parents):
        try:
            if path.is_dir():
                return
            if not os.path.lexists(path):
                continue
            broken = path.is_symlink() and not path.exists()
        except (OSError, ValueError) as error:
            raise InvalidDataRoot(root.path, f"cannot look at {path} ({error})") from error
        reason = "a link that leads nowhere" if broken else "not a folder"
        raise InvalidDataRoot(root.path, f"{path} exists and is {reason}; name a folder or a place for a new one")


def level2_candidates(env: Mapping[str, str]) -> list[Path]:
    """Return every Level-2 folder a reader looks in, best first, existing or not.

    `<override>/level2`, `<override>/Level2`, `<base>/$LEVEL2_DIRNAME`, `<base>/level2`, and the folder that
    `resolve_data_root` names; without override and base the same styles below `./data`. Folders that are one and the
    same by real path (links, file systems that ignore case) come once.

    Raises:
        InvalidDataRoot: As `resolve_data_root`.
    """
    dirname = env.get("LEVEL2_DIRNAME")
    named = [] if dirname is None else [dirname]
    found: dict[object, Path] = {}
    for style, root in _roots(env):
        others = ["Level2", "level2"] if style == "ML_BASE_PATH" else ["level2", "Level2"]
        for name in named + others:
            folder = DataRoot(root, name).level2_dir
            found.setdefault(_identity(folder), folder)
    return list(found.values())


def _roots(env: Mapping[str, str]) -> Iterator[tuple[str | None, Path]]:
    """Yield the key and root of every style that is set, the writer's first."""
    nothing_set = True
    for key in ("DATA_PATH_OVERRIDE", "ML_BASE_PATH"):
        text = env.get(key, "").strip()
        if text:
            nothing_set = False
            yield key, _expand(text, env, key)
    if nothing_set:
        yield None, _expand("data", env, None)


def _default_dirname(style: str | None) -> str:
    return "Level2" if style == "ML_BASE_PATH" else "level2"


def _identity(folder: Path) -> object:
    try:
        status = folder.stat()
    except OSError:
        return os.path.realpath(folder)
    return status.st_dev, status.st_ino


def _expand(text: str, env: Mapping[str, str], key: str | None) -> Path:
    def value_of(match: re.Match[str]) -> str:
        name = match["braced"] if match["braced"] is not None else match["plain"]
        if name not in env:
            raise InvalidDataRoot(text, f"the variable {name} is not set", key=key)
        return env[name]

    expanded = _VARIABLE.sub(value_of, text)
    if "\0" in expanded:
        raise InvalidDataRoot(text, "it contains a NUL character", key=key)
    if expanded == "~" or expanded.startswith(("~/", "~\\")):
        home = env.get("HOME") or env.get("USERPROFILE") or os.path.expanduser("~")  # noqa: PTH111 - Path.home raises
        expanded = home + expanded[1:]
    elif expanded.startswith("~"):
        expanded = os.path.expanduser(expanded)  # noqa: PTH111 - leaves an unknown ~user as it is
    return Path(expanded).absolute()


def _check_dirname(name: str) -> None:
    plain = (
        name not in ("", ".", "..")
        and name == name.strip()
        and name.isprintable()
        and not any(separator in name for separator in "/\\:")
    )
    if not plain:
        raise InvalidDataRoot(
            name, "it must be one plain folder name such as level2, without separators", key="LEVEL2_DIRNAME"
        )


def _check_day(day: date) -> None:
    # A datetime is a date too, but which day it means depends on its zone.
    if isinstance(day, datetime) or not isinstance(day, date):
        raise InvalidName(str(day), "the day must be a datetime.date, the ET trading day")

"""What `trading-data doctor` finds on this machine: settings, folders, limits and their use, what died and waits.

Answers are `vendor_checks.CheckResult`s in sections. It looks; what it looks at stays as it is. What concerns Prefect
is in `doctor_prefect`; no Prefect here.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from connectors.ibkr.errors import InvalidRequest
from connectors.store.checkpoints import FOLDER_NAME as CHECKPOINTS
from connectors.store.errors import StoreError
from connectors.store.live import dead_sessions
from connectors.store.locks import read_holder, try_lock_path, unlock
from connectors.store.manifests import RUN_LOCK_NAME
from flows.backfill_context import PLACEHOLDER_KEY
from flows.errors import ConfigurationError
from flows.gateway import address_of
from flows.limits import LIMITS, Limit, shared_limits
from flows.limits_use import LimitUse, slots_in_use, window_use
from flows.vendor_checks import CACHE, ROOT, CheckContext, CheckResult, run_checks, split_hint

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from flows.settings import Settings

_EXISTING: Final = os.O_RDWR
_NAMED: Final = 5


@dataclass(frozen=True)
class Section:
    """Answers that belong together.

    Attributes:
        name: what they are about.
        rows: the answers.
    """

    name: str
    rows: tuple[CheckResult, ...]


@dataclass(frozen=True)
class LimitRow:
    """A limit of a vendor, and how much of it is used.

    Attributes:
        limit: the row of the table.
        ours: what we keep to, by the settings.
        uses: of this machine now, for each gateway that was asked from it; empty when nothing is counted here.
        shared: what Prefect counts over all machines, in words; None when it does not, or was not asked.
    """

    limit: Limit
    ours: int
    uses: tuple[LimitUse, ...] = ()
    shared: str | None = None

    def row(self) -> dict[str, str]:
        """A row of a table."""
        limit = self.limit
        vendor_window_s = limit.vendor_window_s or limit.window_s
        return {
            "limit": limit.name,
            "vendor": _rate(limit.vendor_limit, vendor_window_s),
            "ours": _rate(self.ours, limit.window_s),
            "kept by": limit.kept_by,
            "used now": ", ".join(f"{use.used} at {use.gateway}" if use.gateway else str(use.used) for use in self.uses)
            or "-",
            "all machines": self.shared or "-",
            "source": limit.source,
        }


@dataclass
class Report:
    """Everything that was found.

    Attributes:
        sections: the answers.
        limits: the table of limits; empty when the settings cannot be used.
    """

    sections: list[Section] = field(default_factory=list)
    limits: list[LimitRow] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """How many answers there are of each state."""
        return dict(Counter(row.state for section in self.sections for row in section.rows))

    @property
    def is_wrong(self) -> bool:
        """Whether something needs a person before the next runs can work."""
        return bool(self.counts.get("wrong"))

    def to_document(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "wrong": self.is_wrong,
            "counts": self.counts,
            "sections": {section.name: [row.row() for row in section.rows] for section in self.sections},
            "limits": [use.row() for use in self.limits],
        }


def settings_section(settings: Settings) -> Section:
    """The settings can be used; which vendors they are for."""
    key = settings.databento_api_key.get_secret_value().strip() not in ("", PLACEHOLDER_KEY)
    if settings.databento_enable_backfill is False:
        databento = CheckResult("Databento", "skipped", "DATABENTO_ENABLE_BACKFILL=0 switches it off")
    elif key:
        databento = CheckResult("Databento", "ok", f"DATABENTO_API_KEY is set; dataset {settings.databento_dataset}")
    else:
        databento = CheckResult(
            "Databento", "warning", "DATABENTO_API_KEY is not set", "set it, or DATABENTO_ENABLE_BACKFILL=0"
        )
    given = len(settings.model_fields_set)
    rows = [CheckResult("settings", "ok", f"{given} keys are set, {len(type(settings).model_fields) - given} default")]
    rows += [databento, _gateway(settings), _window(settings)]
    return Section("settings", tuple(rows))


def broken_settings(error: ConfigurationError) -> Section:
    """The settings cannot be used."""
    text, hint = split_hint(str(error))
    return Section("settings", (CheckResult("settings", "wrong", text, hint or "correct the environment or .env"),))


def storage_section(settings: Settings, now: dt.datetime) -> Section:
    """Folders, free space, and who holds the data root."""
    found = {result.check: result for result in run_checks(CheckContext(settings, now), vendors=())}
    return Section("storage", (found[ROOT], found[CACHE], _run_lock(settings)))


def dead_section(settings: Settings) -> Section:
    """What killed runs left behind, which nobody has taken up yet."""
    return Section("left behind", (_captures(settings), _checkpoints(settings)))


def limits_table(settings: Settings, shared: Mapping[str, str] | None = None) -> list[LimitRow]:
    """Every limit with its use.

    Args:
        settings: the environment.
        shared: by name, what Prefect counts over all machines.
    """
    wanted, uses = shared_limits(settings), _uses(settings)
    return [
        LimitRow(
            row,
            wanted.get(row.name, row.limit),
            tuple(use for use in uses if use.name == row.name),
            (shared or {}).get(row.name),
        )
        for row in LIMITS
    ]


def _gateway(settings: Settings) -> CheckResult:
    try:
        address = address_of(settings)
    except InvalidRequest as error:
        return CheckResult("gateway", "wrong", str(error), "correct IB_HOST, IB_PORT or IB_CLIENT_ID")
    if settings.force_fake_ib:
        return CheckResult("gateway", "warning", "FORCE_FAKE_IB=1: bars and books are invented", "unset FORCE_FAKE_IB")
    kind = "paper" if settings.ib_paper_trading else "live"
    return CheckResult("gateway", "ok", f"{address}, {kind} account, client id {address.client_id}")


def _window(settings: Settings) -> CheckResult:
    try:
        window = settings.window
    except ConfigurationError as error:
        return CheckResult("window", "wrong", str(error), "correct L2_BACKFILL_WINDOW_ET or L2_TRADING_WINDOW_ET")
    return CheckResult("window", "ok", f"{window} ET, a row every {settings.l2_snapshot_interval_ms} ms")


def _run_lock(settings: Settings) -> CheckResult:
    path = settings.data_root.path / RUN_LOCK_NAME
    if not _is_held(path):
        return CheckResult("run lock", "ok", "free: no run writes to the data root")
    return CheckResult("run lock", "ok", f"held by {read_holder(path) or 'a run that has not said its name'}")


def _captures(settings: Settings) -> CheckResult:
    try:
        dead = dead_sessions(settings.data_root)
    except StoreError as error:
        return CheckResult("dead captures", "wrong", str(error), "let this user read the data root")
    if not dead:
        return CheckResult("dead captures", "ok", "none")
    return CheckResult(
        "dead captures", "warning", f"{len(dead)} to recover: {_shown(dead)}", "run `trading-data recover`"
    )


def _checkpoints(settings: Settings) -> CheckResult:
    root = settings.data_root
    try:
        found = sorted(path.stem for path in (root.path / CHECKPOINTS).glob("*.jsonl"))
    except OSError as error:
        return CheckResult("dead backfills", "wrong", str(error), "let this user read the data root")
    if not found or _is_held(root.path / RUN_LOCK_NAME):
        return CheckResult("dead backfills", "ok", "none")
    return CheckResult(
        "dead backfills",
        "warning",
        f"{len(found)} ended before all was recorded: {_shown(found)}",
        "run it again: the next backfill records what they had finished",
    )


def _uses(settings: Settings) -> list[LimitUse]:
    """What this machine uses now; lock files that cannot be opened are told with the folders."""
    found = window_use(settings.cache_path)
    with suppress(OSError):
        found += slots_in_use(settings.cache_path)
    return found


def _is_held(path: Path) -> bool:
    """Whether somebody holds a lock file; it is not made."""
    try:
        fd = try_lock_path(path, _EXISTING)
    except OSError:
        return False
    if fd is None:
        return True
    unlock(fd)
    return False


def _rate(count: int, window_s: float | None) -> str:
    return f"{count} at once" if window_s is None else f"{count} in {window_s:g} s"


def _shown(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return f"{', '.join(listed[:_NAMED])}{more}"

"""Events of this project in Prefect's event feed: what a program on the other side of the disk waits for.

An event is sent after the line of the manifest or ledger that says the same, so that whoever gets one finds the file.
Each carries the facts that a reader needs, and labels that a trigger can match. It leaves by a thread; what the API
misses is in the manifest all the same. Outside of a flow run nothing is sent.
"""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from prefect.context import FlowRunContext

from flows.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from prefect.client.orchestration import SyncPrefectClient

    from contracts.layout import DataRoot
    from contracts.v1.quality import Quality
    from flows.backfill_day import DayOutcome
    from flows.bars_result import PieceOutcome

logger = logging.getLogger(__name__)

LEVEL2_WRITTEN: Final = "level2.day.written"
LEVEL2_EMPTY: Final = "level2.day.empty"
LEVEL2_FAILED: Final = "level2.day.failed"
BARS_WRITTEN: Final = "bars.day.written"
BARS_FAILED: Final = "bars.day.failed"
COVERAGE_REFRESHED: Final = "coverage.refreshed"

OK: Final = "ok"
UNKNOWN: Final = "unknown"

_LEVEL2: Final = {"WRITE": LEVEL2_WRITTEN, "EMPTY": LEVEL2_EMPTY, "ERROR": LEVEL2_FAILED}
_BARS: Final = {"WRITE": BARS_WRITTEN, "ERROR": BARS_FAILED}
_LEVEL2_SOURCE: Final = "databento"
_BARS_SOURCE: Final = "ibkr"
_CLOSED: Final = "market closed"
_PER_REQUEST: Final = 100
_DRAIN_S: Final = 60.0
_MOST_WAITING: Final = 50_000
_TEXT_CHARS: Final = 2_000


def level2_day(outcome: DayOutcome, *, run_id: str, root: DataRoot) -> None:
    """Tell of a day of Level 2 whose manifest line is on disk; a day that was there, or without a session, is no news.

    Args:
        outcome: what became of it.
        run_id: as in the manifest line.
        root: where the file lies.
    """
    name = _LEVEL2.get(outcome.status)
    if name is None or outcome.reason == _CLOSED:
        return
    day = outcome.task.day.isoformat()
    _send(
        name,
        resource={
            "prefect.resource.id": f"trading-data.level2.{outcome.task.symbol}.{day}",
            "prefect.resource.name": f"{outcome.task.symbol} {day}",
            "symbol": outcome.task.symbol,
            "date": day,
            "status": outcome.status,
            "quality": quality_word(outcome.quality),
            "source": _LEVEL2_SOURCE,
            "reason": outcome.reason or "",
        },
        payload={
            "symbol": outcome.task.symbol,
            "date": day,
            "status": outcome.status,
            "source": _LEVEL2_SOURCE,
            **_place(outcome.path, root),
            "rows": outcome.rows,
            "interval_ms": outcome.interval_ms,
            "window_et": outcome.window_et,
            "cost_usd": outcome.cost_usd,
            "quality": None if outcome.quality is None else outcome.quality.to_document(),
            "reason": outcome.reason,
            "error": _short(outcome.error),
            "run_id": run_id,
        },
    )


def bars_day(outcome: PieceOutcome, *, root: DataRoot) -> None:
    """Tell of a day of bars whose ledger line is on disk, or which failed; what was there, or is not, is no news.

    Args:
        outcome: what became of it.
        root: where the file lies.
    """
    name = _BARS.get(outcome.status)
    if name is None:
        return
    day = outcome.day.isoformat()
    _send(
        name,
        resource={
            "prefect.resource.id": f"trading-data.bars.{outcome.symbol}.{outcome.bar_size.replace(' ', '-')}.{day}",
            "prefect.resource.name": outcome.label,
            "symbol": outcome.symbol,
            "bar_size": outcome.bar_size,
            "date": day,
            "status": outcome.status,
            "source": _BARS_SOURCE,
        },
        payload={
            "symbol": outcome.symbol,
            "bar_size": outcome.bar_size,
            "date": day,
            "status": outcome.status,
            "source": _BARS_SOURCE,
            **_place(outcome.path, root),
            "rows": outcome.rows,
            "error": _short(outcome.error),
        },
    )


def coverage_refreshed(result: Mapping[str, Any], *, root: DataRoot) -> None:
    """Tell that the coverage of the bars is up to date with the ledger.

    Args:
        result: what was derived: `changed`, `entry_count`, `days`, `lines` and `skipped` (also by reason).
        root: whose coverage it is.
    """
    skipped = result.get("skipped", 0)
    _send(
        COVERAGE_REFRESHED,
        resource={
            "prefect.resource.id": "trading-data.coverage",
            "prefect.resource.name": "bars coverage",
            "changed": str(bool(result.get("changed"))).lower(),
        },
        payload={
            **_place(root.bars_coverage, root),
            **{key: result.get(key) for key in ("changed", "entry_count", "days", "lines")},
            "skipped": skipped if isinstance(skipped, int) else sum(skipped.values()),
        },
    )


def drain(timeout_s: float = _DRAIN_S) -> bool:
    """Wait until the events of this flow run have left, a second at most when the API is gone; whether they have."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return True
    outbox = _outboxes.get(context.flow_run.id)
    if outbox is None:
        return True
    if not outbox.flush(timeout_s):
        return False
    _outboxes.pop(context.flow_run.id, None)
    return True


def quality_word(quality: Quality | None) -> str:
    """`ok`, the vendor's word for anything else (`degraded`, `pending`, `missing`), `unknown` when it said nothing."""
    if quality is None or quality.vendor_condition is None:
        return UNKNOWN
    return OK if quality.vendor_condition == "available" else quality.vendor_condition


class _Events(Outbox):
    """Events that have not left yet, in their order."""

    def __init__(self, related: list[dict[str, str]]) -> None:
        super().__init__("events")
        self._related = related
        self._events: deque[dict[str, Any]] = deque()
        self._is_full = False

    def put(self, event: dict[str, Any]) -> None:
        """Send an event; when too many wait, none are added: the manifest has all."""
        with self._changed:
            if len(self._events) >= _MOST_WAITING:
                if not self._is_full:
                    logger.warning("%d events wait for Prefect's API; no more are kept", _MOST_WAITING)
                self._is_full = True
                return
            self._is_full = False
            self._events.append(event)
            self._work()

    def waiting(self) -> int:
        return -(-len(self._events) // _PER_REQUEST)

    def write_next(self, client: SyncPrefectClient) -> None:
        batch = self._next()
        client.request("POST", "/events", json=[{**event, "related": self._related} for event in batch])
        self._forget(len(batch))

    def drop_next(self) -> None:
        self._forget(len(self._next()))

    def _next(self) -> list[dict[str, Any]]:
        with self._changed:
            return [self._events[number] for number in range(min(_PER_REQUEST, len(self._events)))]

    def _forget(self, count: int) -> None:
        with self._changed:
            for _ in range(count):
                self._events.popleft()
            self._changed.notify_all()


_outboxes: Final[dict[uuid.UUID, _Events]] = {}
"""Of the flow runs of this process, by their ids."""


def _send(name: str, *, resource: dict[str, str], payload: dict[str, Any]) -> None:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    outbox = _outboxes.get(context.flow_run.id)
    if outbox is None:
        outbox = _outboxes.setdefault(context.flow_run.id, _Events(_related(context)))
    event = {"id": str(uuid.uuid4()), "event": name, "occurred": dt.datetime.now(dt.UTC).isoformat()}
    outbox.put({**event, "resource": resource, "payload": payload})


def _related(context: FlowRunContext) -> list[dict[str, str]]:
    """The flow run, its flow, deployment and tags, as Prefect's own events name them."""
    run = context.flow_run
    if run is None:
        return []
    found = [_role("flow-run", run.id, run.name), _role("flow", run.flow_id, context.flow.name if context.flow else "")]
    if run.deployment_id is not None:
        found.append(_role("deployment", run.deployment_id, ""))
    return found + [
        {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in sorted(run.tags)
    ]


def _role(role: str, of: uuid.UUID, name: str) -> dict[str, str]:
    named = {"prefect.resource.name": name} if name else {}
    return {"prefect.resource.id": f"prefect.{role}.{of}", "prefect.resource.role": role, **named}


def _place(path: Path | None, root: DataRoot) -> dict[str, str | None]:
    """Where a file lies, for readers on this machine and for those that see the data root somewhere else."""
    if path is None:
        return {"path": None, "absolute_path": None}
    whole = path.absolute()
    base = root.path.absolute()
    return {"path": str(whole.relative_to(base)) if whole.is_relative_to(base) else None, "absolute_path": str(whole)}


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= _TEXT_CHARS else f"{text[:_TEXT_CHARS]}..."

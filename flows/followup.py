"""Days that the vendor cannot give yet are asked for again when it will have them.

`due` says which of a run's outcomes those are and when, and needs no Prefect. `follow_up` has a run that a schedule or
a person started through a deployment create scheduled runs of the same deployment; elsewhere it says when to try again.
A day that is still not there a week later stays an ERROR.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from uuid import UUID

    from contracts.sessions import Window
    from flows.backfill_day import DayOutcome

logger = logging.getLogger(__name__)

LIVE_FOR: Final = dt.timedelta(hours=24)
"""So long after they happened, records are live data to Databento, which need a live licence."""
MARGIN: Final = dt.timedelta(minutes=30)
AGAIN_EVERY: Final = dt.timedelta(hours=6)
SOONEST: Final = dt.timedelta(hours=2)
GIVEN_UP_AFTER: Final = dt.timedelta(days=7)

_TOO_YOUNG: Final = frozenset({"licence", "too_recent"})
REASONS: Final = _TOO_YOUNG | {"pending"}
"""Reasons of outcomes that mean: not yet available (`connectors.databento.errors.NotYetAvailable`)."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NAMED: Final = 3
# What chose the days of the first run; None and not left out, for a deployment has defaults of its own.
_OTHER_CHOICE: Final = dict.fromkeys(("since_days", "last", "tasks_file", "max_tasks"))


@dataclass(frozen=True)
class FollowUp:
    """A day to be asked for again.

    Attributes:
        day: ET trading day.
        symbols: its symbols, in the order of the run.
        at: when, UTC.
    """

    day: dt.date
    symbols: tuple[str, ...]
    at: dt.datetime

    @property
    def label(self) -> str:
        """Symbols and day, for messages and names of runs."""
        shown = ", ".join(self.symbols[:_NAMED])
        more = f" and {len(self.symbols) - _NAMED} more" if len(self.symbols) > _NAMED else ""
        return f"{shown}{more} {self.day.isoformat()}"


def due(outcomes: Iterable[DayOutcome], window: Window, now: dt.datetime) -> list[FollowUp]:
    """The days to be asked for again, by time and day.

    A day that is too young comes up when its window is 24 hours past. A day that should be there and is not, or that
    the vendor still works on, comes up at the next 00:00, 06:00, 12:00 or 18:00 UTC that is two hours off: the marks
    are the same for every run, so that runs that meet the same day ask for the same thing.

    Args:
        outcomes: the outcomes of a run.
        window: the window that it filled.
        now: the time, aware.
    """
    symbols: dict[tuple[dt.datetime, dt.date], dict[str, None]] = {}
    for outcome in outcomes:
        if outcome.status != "ERROR" or outcome.reason not in REASONS:
            continue
        day = outcome.task.day
        past = window.bounds_utc(day)[1]
        at = past + LIVE_FOR + MARGIN
        if outcome.reason not in _TOO_YOUNG or at <= now:
            at = _next_mark(now)
        if at > past + GIVEN_UP_AFTER:
            logger.warning("%s: not there a week later; it is not asked for again", outcome.task.label)
            continue
        symbols.setdefault((at, day), {})[outcome.task.symbol] = None
    return [FollowUp(day, tuple(symbols[at, day]), at) for at, day in sorted(symbols)]


def schedule(
    follow_ups: Sequence[FollowUp], parameters: Mapping[str, Any], *, rest_usd: float | None = None
) -> list[UUID]:
    """Create a scheduled run of this run's deployment for each; what was created before is not created again.

    Args:
        follow_ups: what to ask for.
        parameters: those of this flow run; what chose its days is replaced, everything else is kept.
        rest_usd: what this run left of its spend ceiling, US dollars; they share it. None without a ceiling.

    Returns:
        The ids of the scheduled runs; none when no deployment started this run.

    Raises:
        Exception: Prefect's API does not answer or refuses.
    """
    from prefect.context import FlowRunContext  # noqa: PLC0415 - takes seconds, and `due` can do without
    from prefect.deployments import run_deployment  # noqa: PLC0415

    from flows.prefect_api import wait_for_api  # noqa: PLC0415 - likewise

    context = FlowRunContext.get()
    run = None if context is None else context.flow_run
    if run is None or run.deployment_id is None:
        return []
    wait_for_api()
    created: list[UUID] = []
    for wanted in follow_ups:
        again = parameters_of(wanted, parameters)
        if rest_usd is not None:
            again["max_cost_usd"] = _share(rest_usd, len(follow_ups))
        scheduled: Any = run_deployment(  # type: ignore[func-returns-value,unused-ignore]  # a coroutine only in async code
            run.deployment_id,
            parameters=again,
            scheduled_time=wanted.at,
            flow_run_name=f"{wanted.label} again",
            timeout=0,
            idempotency_key=_key(wanted, again),
            # Where this run reads and writes, so does that one.
            job_variables=run.job_variables,
            # No part of this run: it begins when this one is long over, and must not end with it.
            as_subflow=False,
        )
        created.append(scheduled.id)
        logger.info("%s: not yet available; a run is scheduled for %s", wanted.label, _text(wanted.at))
    return created


def parameters_of(wanted: FollowUp, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the run that asks again: this run's, for these symbols on this day, Level 2 only."""
    day = wanted.day.isoformat()
    return {
        **parameters,
        **_OTHER_CHOICE,
        "symbols": list(wanted.symbols),
        "start": day,
        "end": day,
        "dry_run": False,
        # The gateway was asked in the first run.
        "fetch_bars": False,
    }


def follow_up(
    outcomes: Iterable[DayOutcome],
    window: Window,
    parameters: Mapping[str, Any],
    *,
    rest_usd: float | None = None,
) -> list[FollowUp]:
    """See to it that days that are not yet available are asked for again. Call it at the end of a run; never raises.

    Args:
        outcomes: the outcomes of the run.
        window: the window that it filled.
        parameters: the parameters of the flow run.
        rest_usd: what it left of its spend ceiling, US dollars; None without one. With nothing left it is only said.

    Returns:
        The days to be asked for again, scheduled or only said.
    """
    follow_ups: list[FollowUp] = []
    try:
        follow_ups = due(outcomes, window, dt.datetime.now(dt.UTC))
        may_buy = rest_usd is None or bool(follow_ups and _share(rest_usd, len(follow_ups)))
        scheduled = bool(follow_ups) and may_buy and bool(schedule(follow_ups, parameters, rest_usd=rest_usd))
    except Exception as error:  # noqa: BLE001 - the run did its work, whatever an API can come up with
        logger.warning("not yet available days could not be scheduled: %s", error)
        scheduled = False
    if not scheduled:
        for wanted in follow_ups:
            logger.warning("%s: not yet available; run it again after %s", wanted.label, _text(wanted.at))
    return follow_ups


def _share(rest_usd: float, runs: int) -> float:
    """Whole cents for each, never more than there is together."""
    return max(0, math.floor(rest_usd * 100 / runs)) / 100


def _next_mark(now: dt.datetime) -> dt.datetime:
    """The first mark of the grid that is at least `SOONEST` off."""
    steps = -((_EPOCH - now - SOONEST) // AGAIN_EVERY)
    return _EPOCH + steps * AGAIN_EVERY


def _key(wanted: FollowUp, parameters: Mapping[str, Any]) -> str:
    """The same for the same request at the same time."""
    # A run may lack what another has as None; what is left to spend differs from run to run.
    given = {name: value for name, value in parameters.items() if value is not None and name != "max_cost_usd"}
    given["symbols"] = sorted(wanted.symbols)
    text = json.dumps([wanted.at.isoformat(), given], sort_keys=True, default=str)
    return f"follow-up-{wanted.day.isoformat()}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _text(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"

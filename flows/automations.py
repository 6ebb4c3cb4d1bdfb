"""What Prefect itself looks after for this project: runs that died, nights that failed or did not begin, thin data.

Each automation is found by its name and brought to what this version wants; one that somebody switched off stays off.
Alerts go to the notification block of ALERTS_BLOCK, or nowhere: then they are seen in Prefect's event feed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore, CompoundTrigger, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

from flows.deployments import SCHEDULED_TAG, TAG, Change, shortened
from flows.errors import ConfigurationError
from flows.events import LEVEL2_EMPTY, LEVEL2_WRITTEN, OK

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.actions import ActionTypes
    from prefect.events.schemas.automations import Automation
    from prefect.events.schemas.events import ResourceSpecification as Specification

DEAD_RUNS: Final = "trading-data: dead runs"
FAILED_NIGHTLY: Final = "trading-data: failed nightly"
LATE_NIGHTLY: Final = "trading-data: late nightly"
EMPTY_DAY: Final = "trading-data: empty or degraded day"

HEARTBEAT: Final = "prefect.flow-run.heartbeat"
_ENDED: Final = tuple(
    f"prefect.flow-run.{name}"
    # Stopped and Closed are this project's own names of completed runs.
    for name in ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut", "Stopped", "Closed")
)
LIMIT_REACHED: Final = "Deployment concurrency limit reached."
"""What Prefect says when it cancels a run because of the limit of its deployment."""
_FLOW_RUN: Final = {"prefect.resource.id": "prefect.flow-run.*"}


@dataclass(frozen=True)
class Patience:
    """How long is too long.

    Attributes:
        dead_s: Seconds without a sign of life after which a run is dead. Ours come every 30 s; those of a run whose
            environment somebody replaced, every 180 s. An API that is away for 30 s swallows two of ours.
        late_s: Seconds that a run may wait for a worker, from when the server calls it late (15 s after its time).
        quiet_s: Seconds from an alert about data to the next: a night may have hundreds of such days.
    """

    dead_s: float = 240
    late_s: float = 300
    quiet_s: float = 3_600


PATIENCE: Final = Patience()


def automations(alerts: UUID | None, patience: Patience = PATIENCE) -> list[AutomationCore]:
    """What this version wants.

    Args:
        alerts: Notification block that alerts go to; None for none.
        patience: How long is too long.
    """
    run = "{{ flow.name }}: {{ flow_run.name }}"
    return [
        AutomationCore(
            name=DEAD_RUNS,
            description="A run that gives no sign of life is marked Crashed, so that its place is free again.",
            trigger=EventTrigger(
                posture=Posture.Proactive,
                after={HEARTBEAT},
                expect={HEARTBEAT, *_ENDED},
                match=ResourceSpecification(_FLOW_RUN),
                match_related=_tagged(TAG),
                for_each={"prefect.resource.id"},
                within=timedelta(seconds=patience.dead_s),
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.CRASHED, message=f"no sign of life for {patience.dead_s:g} s: its process is gone"
                )
            ],
        ),
        AutomationCore(
            name=FAILED_NIGHTLY,
            description="A scheduled run has failed or crashed, or was cancelled because another one was running.",
            trigger=CompoundTrigger(
                require="any",
                triggers=[
                    _scheduled_run({"prefect.state-type": ["FAILED", "CRASHED"]}),
                    # A person's cancellation has another message, or none.
                    _scheduled_run({"prefect.state-type": "CANCELLED", "prefect.state-message": LIMIT_REACHED}),
                ],
                within=None,
            ),
            actions=[
                _alert(
                    alerts,
                    f"{run} {{{{ 'did not run' if flow_run.state.type == 'CANCELLED' else 'failed' }}}}",
                    "{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
                )
            ],
        ),
        AutomationCore(
            name=LATE_NIGHTLY,
            description="A scheduled run has not begun: no worker, or `record-depth --serve` does not run.",
            trigger=EventTrigger(
                posture=Posture.Proactive,
                after={"prefect.flow-run.Late"},
                expect={"prefect.flow-run.Pending", "prefect.flow-run.Running", *_ENDED},
                match=ResourceSpecification(_FLOW_RUN),
                match_related=[_tagged(TAG), _tagged(SCHEDULED_TAG)],
                for_each={"prefect.resource.id"},
                within=timedelta(seconds=patience.late_s),
            ),
            actions=[
                _alert(
                    alerts,
                    f"{run} has not begun",
                    "It was to begin at {{ flow_run.expected_start_time }}; does a worker run?\n{{ flow_run|ui_url }}",
                )
            ],
        ),
        AutomationCore(
            name=EMPTY_DAY,
            description="A day of Level 2 has no rows, or the vendor does not call its data good; one alert an hour.",
            trigger=CompoundTrigger(
                require="any",
                triggers=[
                    _days(LEVEL2_EMPTY, {}, patience),
                    _days(LEVEL2_WRITTEN, {"quality": f"!{OK}"}, patience),
                ],
                within=None,
            ),
            actions=[
                _alert(
                    alerts,
                    "Level 2 of {{ event.resource.labels.symbol }} {{ event.resource.labels.date }}: "
                    "{{ event.resource.labels.status }}, quality {{ event.resource.labels.quality }}",
                    "{{ event.payload.reason or '' }}\nOther days of the next hour are in the event feed only.",
                )
            ],
        ),
    ]


def alerts_block(client: SyncPrefectClient, name: str | None) -> UUID | None:
    """The block that alerts go to.

    Args:
        client: a client of the server.
        name: ALERTS_BLOCK, as TYPE/NAME.

    Raises:
        ConfigurationError: there is no such block.
    """
    if name is None:
        return None
    kind, _, block = name.partition("/")
    try:
        return client.read_block_document_by_name(block, kind, include_secrets=False).id
    except ObjectNotFound:
        raise ConfigurationError(
            f"ALERTS_BLOCK: Prefect has no block {name} [create it on the page of blocks, or unset the key]"
        ) from None


def apply_automation(
    client: SyncPrefectClient, wanted: AutomationCore, *, dry_run: bool, owner: UUID | None = None
) -> Change:
    """Create an automation, or change what differs; one that somebody switched off stays off.

    Args:
        client: a client of the server.
        wanted: what it should be.
        dry_run: change nothing.
        owner: the deployment whose trigger it is, which it goes with.
    """
    owned = None if owner is None else f"prefect.deployment.{owner}"
    found = (
        client.read_automations_by_name(wanted.name)
        if owned is None
        else [each for each in client.read_resource_related_automations(owned) if each.name == wanted.name]
    )
    if not found:
        if not dry_run:
            client.create_automation(wanted)
        return Change("automation", wanted.name, "created")
    kept, *others = found
    changes = [
        # What an action hands over, a run's environment among it, is not to be shown.
        f"{name} {shortened(before)} -> {shortened(after)}" if name == "description" else f"{name} differs"
        for name, before, after in _compared(kept, wanted)
        if before != after
    ]
    if changes and not dry_run:
        # The server refuses an owner here, even the one that it has.
        what = wanted.model_dump(exclude={"owner_resource"}) | {"enabled": kept.enabled}
        client.update_automation(kept.id, AutomationCore.model_validate(what))
    for other in others:
        changes.append("one of the same name removed")
        if not dry_run:
            client.delete_automation(other.id)
    notes = () if kept.enabled else ("switched off by somebody",)
    return Change("automation", wanted.name, "changed" if changes else "same", (*changes, *notes))


def _alert(block: UUID | None, subject: str, body: str) -> ActionTypes:
    if block is None:
        return DoNothing()
    return SendNotification(block_document_id=block, subject=subject, body=body)


def _scheduled_run(labels: dict[str, str | list[str]]) -> EventTrigger:
    """Fires with each scheduled run that comes to such an end."""
    return EventTrigger(
        posture=Posture.Reactive,
        expect={"prefect.flow-run.*"},
        match=ResourceSpecification({**_FLOW_RUN, **labels}),
        match_related=[_tagged(TAG), _tagged(SCHEDULED_TAG)],
    )


def _days(event: str, labels: dict[str, str], patience: Patience) -> EventTrigger:
    """Fires with the first such day, then not again until it was quiet for long enough."""
    return EventTrigger(
        posture=Posture.Reactive,
        expect={event},
        match=ResourceSpecification({"prefect.resource.id": "trading-data.level2.*", **labels}),
        within=timedelta(seconds=patience.quiet_s),
    )


def _tagged(tag: str) -> Specification:
    return ResourceSpecification({"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{tag}"})


def _compared(found: Automation, wanted: AutomationCore) -> list[tuple[str, Any, Any]]:
    """Parts of two automations that say what they do, in one form."""
    return [
        (name, _plain(getattr(found, name)), _plain(getattr(wanted, name)))
        for name in ("description", "trigger", "actions")
    ]


def _plain(value: Any) -> Any:
    """JSON without what the server adds, and with sets in one order."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in sorted(value.items()) if key != "id"}
    if isinstance(value, list):
        plain = [_plain(each) for each in value]
        return sorted(plain) if all(isinstance(each, str) for each in plain) else plain
    return value

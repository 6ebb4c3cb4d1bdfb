"""What `prefect.yaml` wants: read strictly, compared with what a Prefect server has, and brought there.

`prefect deploy --all` reads the same file; but it drops keys that it does not know, deploys `{{ $VAR }}` as it stands
when the variable is not set, and does not say what it changed. Here all of that is an error or a line of the report.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import yaml
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.schema_tools.validation import is_valid_schema, validate
from prefect.utilities.templating import apply_values
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from flows.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import DeploymentSchedule
    from prefect.client.schemas.responses import DeploymentResponse

POOL: Final = "trading-data"
CAPTURE_POOL: Final = "trading-data-capture"
TAG: Final = "trading-data"
"""Every deployment of this project has it, and by it every run that a worker or a serving process starts."""
SCHEDULED_TAG: Final = "scheduled"
"""Deployments that nobody watches when they run; automations do."""
HEARTBEAT_S: Final = 30
"""Seconds between the signs of life of a run."""

_HERE: Final = Path(__file__).resolve().parent
_TEXT_CHARS: Final = 60

What = Literal["created", "changed", "same", "drift"]


@dataclass(frozen=True)
class Change:
    """One thing in Prefect, and what became of it.

    Attributes:
        kind: pool, limit, deployment, automation.
        name: as Prefect shows it.
        what: created, changed (which it now is), same, or drift: it differs, and was left as a person made it.
        details: what was changed, from what to what; what somebody paused.
    """

    kind: str
    name: str
    what: What
    details: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"kind": self.kind, "name": self.name, "what": self.what, "details": list(self.details)}

    def __str__(self) -> str:
        text = f"{self.what:<8} {self.kind} {self.name}"
        return f"{text}: {'; '.join(self.details)}" if self.details else text


class _Strict(BaseModel):
    """Prefect drops what it does not know; a misspelt key would be lost."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


class WantedSchedule(_Strict):
    """One time of a deployment; its slug is what keeps a pause through the next deploy."""

    slug: str = Field(pattern=r"^[a-z0-9-]+$")
    cron: str
    timezone: str
    parameters: dict[str, Any] = Field(default_factory=dict)

    @property
    def schedule(self) -> CronSchedule:
        """As Prefect has it."""
        return CronSchedule(cron=self.cron, timezone=self.timezone)

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str) -> str:
        CronSchedule(cron=value)
        if len(value.split()) != 5:  # noqa: PLR2004 - minute, hour, day, month, weekday
            raise ValueError("give minute, hour, day, month and weekday")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        CronSchedule(cron="0 0 * * *", timezone=value)
        return value


class _Limit(_Strict):
    limit: int = Field(ge=1)
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"]


class _WorkPool(_Strict):
    name: str
    job_variables: dict[str, Any] = Field(default_factory=dict)


class WantedDeployment(_Strict):
    """One deployment as the file has it."""

    name: str
    description: str
    entrypoint: str
    work_pool: _WorkPool
    parameters: dict[str, Any]
    tags: list[str]
    concurrency_limit: _Limit
    schedules: list[WantedSchedule]
    triggers: list[DeploymentEventTrigger] = Field(default_factory=list)

    _flow: Flow[..., Any] | None = None

    @field_validator("triggers", mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        for spec in value:
            if unknown := set(spec) - set(DeploymentEventTrigger.model_fields):
                raise ValueError(f"a trigger has no {', '.join(sorted(unknown))}")
            if not spec.get("name"):
                raise ValueError("a trigger needs a name")
        return value

    @field_validator("schedules")
    @classmethod
    def _unique_slugs(cls, value: list[WantedSchedule]) -> list[WantedSchedule]:
        slugs = [schedule.slug for schedule in value]
        if len(set(slugs)) != len(slugs):
            raise ValueError(f"a slug is there twice: {', '.join(sorted(slugs))}")
        return value

    @property
    def flow(self) -> Flow[..., Any]:
        """The flow at the entry point.

        Raises:
            ConfigurationError: there is none, or it is no module's.
        """
        if self._flow is None:
            self._flow = _load_flow(self)
        return self._flow

    @property
    def full_name(self) -> str:
        """Flow and deployment, as `prefect deployment run` takes them."""
        return f"{self.flow.name}/{self.name}"

    def fields(self) -> dict[str, Any]:
        """What the server should have, apart from schedules and triggers."""
        return {
            "description": self.description,
            "entrypoint": self.entrypoint,
            "work_pool_name": self.work_pool.name,
            "job_variables": self.work_pool.job_variables,
            "parameters": self.parameters,
            "tags": self.tags,
            "concurrency_limit": self.concurrency_limit.limit,
            "collision_strategy": self.concurrency_limit.collision_strategy,
            "enforce_parameter_schema": True,
            "parameter_openapi_schema": self.flow.parameters.model_dump(exclude_unset=True),
            "pull_steps": [],
        }


class _File(_Strict):
    name: str
    pull: list[Any] = Field(max_length=0)
    definitions: Any = None
    deployments: list[WantedDeployment]


def find_prefect_yaml(file: Path | None = None) -> Path:
    """The file of this version: the one in the installed package, or that of the repository.

    Args:
        file: another one.

    Raises:
        ConfigurationError: there is none.
    """
    places = [file] if file is not None else [_HERE / "prefect.yaml", _HERE.parent / "prefect.yaml"]
    for place in places:
        if place.is_file():
            return place
    raise ConfigurationError(f"there is no {' and no '.join(map(str, places))} [give one with --file]")


def read_deployments(file: Path) -> list[WantedDeployment]:
    """Read a file, and check all that can be checked without a server.

    Raises:
        ConfigurationError: it cannot be used; says where and why.
    """
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from None
    document = apply_values(document, dict(os.environ), remove_notset=False)
    if not isinstance(document, dict):
        raise ConfigurationError(f"{file} has no deployments")
    if left := sorted(_templates(document.get("deployments"))):
        raise ConfigurationError(f"{file}: {', '.join(left)} has no value; set it in the environment")
    try:
        wanted = _File.model_validate(document).deployments
    except ValidationError as error:
        raise ConfigurationError(f"{file} cannot be used: {_problems(error, document)}") from None
    names = [each.full_name for each in wanted]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"{file} has {', '.join(twice)} more than once")
    for each in wanted:
        _check_parameters(each)
    return wanted


def apply_deployment(
    client: SyncPrefectClient, wanted: WantedDeployment, *, dry_run: bool
) -> tuple[Change, UUID | None]:
    """Create a deployment, or change what differs; schedules that somebody paused stay paused.

    Returns:
        What became of it, and its id; None when a dry run would create it.

    Raises:
        ConfigurationError: the server refuses it.
    """
    try:
        found = client.read_deployment_by_name(wanted.full_name)
    except ObjectNotFound:
        identity = None if dry_run else _create(client, wanted)
        details = tuple(f"{each.slug} at {each.cron} {each.timezone}" for each in wanted.schedules)
        return Change("deployment", wanted.full_name, "created", details), identity
    differing = {
        name: (there, value)
        for name, value in wanted.fields().items()
        if _plain(there := _field(found, name)) != _plain(value)
    }
    changes = [_difference(name, *values) for name, values in differing.items()]
    if differing and not dry_run:
        client.update_deployment(found.id, _update(wanted, set(differing)))
    by_slug = {each.slug: each for each in found.schedules if each.slug}
    for each in wanted.schedules:
        changes += _apply_schedule(client, found.id, each, by_slug.get(each.slug), dry_run=dry_run)
    notes = ["paused by somebody"] if found.paused else []
    for there in found.schedules:
        if there.slug not in {each.slug for each in wanted.schedules}:
            notes.append(f"schedule {there.slug or there.id} is somebody's own")
        elif not there.active:
            notes.append(f"schedule {there.slug} is paused by somebody")
    return Change("deployment", wanted.full_name, "changed" if changes else "same", (*changes, *notes)), found.id


def shortened(value: object) -> str:
    """A value in one line of a report."""
    text = " ".join(str(value).split())
    return text if len(text) <= _TEXT_CHARS else f"{text[:_TEXT_CHARS]}..."


def _create(client: SyncPrefectClient, wanted: WantedDeployment) -> UUID:
    fields = wanted.fields()
    options = ConcurrencyOptions(collision_strategy=fields.pop("collision_strategy"))
    schedules = [
        DeploymentScheduleCreate(schedule=each.schedule, active=True, parameters=each.parameters, slug=each.slug)
        for each in wanted.schedules
    ]
    return client.create_deployment(
        flow_id=client.create_flow_from_name(wanted.flow.name),
        name=wanted.name,
        version=wanted.flow.version,
        schedules=schedules,
        concurrency_options=options,
        **fields,
    )


def _update(wanted: WantedDeployment, names: set[str]) -> DeploymentUpdate:
    fields = wanted.fields()
    options = ConcurrencyOptions(collision_strategy=fields.pop("collision_strategy"))
    if "collision_strategy" in names:
        # The server keeps the limit only when both are given.
        names = names - {"collision_strategy"} | {"concurrency_options", "concurrency_limit"}
    fields["concurrency_options"] = options
    return DeploymentUpdate.model_validate({name: fields[name] for name in names})


def _apply_schedule(
    client: SyncPrefectClient,
    deployment: UUID,
    wanted: WantedSchedule,
    found: DeploymentSchedule | None,
    *,
    dry_run: bool,
) -> list[str]:
    """Bring one schedule there; whether it is active is a person's business once it exists."""
    if found is None:
        create = DeploymentScheduleCreate(
            schedule=wanted.schedule, active=True, parameters=wanted.parameters, slug=wanted.slug
        )
        if not dry_run:
            client.create_deployment_schedules(deployment, [create])
        return [f"schedule {wanted.slug} added, at {wanted.cron} {wanted.timezone}"]
    have = found.schedule
    before = (getattr(have, "cron", str(have)), getattr(have, "timezone", None), found.parameters)
    after = (wanted.cron, wanted.timezone, wanted.parameters)
    if before == after:
        return []
    if not dry_run:
        client.update_deployment_schedule(
            deployment, found.id, schedule=wanted.schedule, parameters=wanted.parameters, active=found.active
        )
    names = ("cron", "time zone", "parameters")
    return [
        _difference(f"schedule {wanted.slug} {name}", old, new)
        for name, old, new in zip(names, before, after, strict=True)
        if old != new
    ]


def _field(found: DeploymentResponse, name: str) -> Any:
    if name == "concurrency_limit":
        limit = found.global_concurrency_limit
        return None if limit is None else limit.limit
    if name == "collision_strategy":
        options = found.concurrency_options
        return None if options is None else options.collision_strategy.value
    if name == "pull_steps":
        return found.pull_steps or []
    return getattr(found, name)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else value


def _difference(name: str, before: object, after: object) -> str:
    if name == "parameter_openapi_schema":
        return "the form of the parameters"
    if name == "job_variables":
        # An operator may have put a key into the environment of a deployment.
        return f"job_variables differ in {', '.join(_differing_keys(before, after))}"
    return f"{name} {shortened(before)} -> {shortened(after)}"


def _differing_keys(before: object, after: object) -> list[str]:
    """Where two JSON objects differ, as `env.KEY`; not what is there."""
    old, new = _leaves(before), _leaves(after)
    return sorted(key for key in old.keys() | new.keys() if key and old.get(key) != new.get(key))


def _leaves(value: object, path: str = "") -> dict[str, object]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {
        place: leaf
        for key, each in value.items()
        for place, leaf in _leaves(each, f"{path}.{key}" if path else str(key)).items()
    }


def _load_flow(wanted: WantedDeployment) -> Flow[..., Any]:
    if ":" in wanted.entrypoint or "/" in wanted.entrypoint:
        raise ConfigurationError(f"{wanted.name}: {wanted.entrypoint} is a file; name a module, as in flows.x.x")
    try:
        return load_flow_from_entrypoint(wanted.entrypoint, use_placeholder_flow=False)
    except (ImportError, PrefectException) as error:
        raise ConfigurationError(f"{wanted.name}: {wanted.entrypoint} cannot be loaded: {error}") from error


def _check_parameters(wanted: WantedDeployment) -> None:
    """The server would refuse them only after what comes before them in the file is deployed."""
    schema = wanted.flow.parameters.model_dump(exclude_unset=True)
    is_valid_schema(schema, preprocess=False)
    for what, parameters in [
        ("parameters", wanted.parameters),
        *((f"schedule {each.slug}", each.parameters) for each in wanted.schedules),
    ]:
        if unknown := set(parameters) - set(wanted.flow.parameters.properties):
            raise ConfigurationError(f"{wanted.full_name}, {what}: the flow has no {', '.join(sorted(unknown))}")
        if problems := validate(parameters, schema, ignore_required=True):
            messages = "; ".join(f"{problem.json_path.removeprefix('$.')}: {problem.message}" for problem in problems)
            raise ConfigurationError(f"{wanted.full_name}, {what}: {messages}")


def _templates(value: Any) -> Iterable[str]:
    """Texts that still hold a place for a value; those of a trigger's parameters are filled when it fires."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key != "triggers":
                yield from _templates(each)
    elif isinstance(value, list):
        for each in value:
            yield from _templates(each)
    elif isinstance(value, str) and "{{" in value:
        yield value


def _problems(error: ValidationError, document: dict[str, Any]) -> str:
    """Each problem with the deployment it is in."""
    texts = []
    for item in error.errors(include_url=False, include_input=False):
        place = list(item["loc"])
        if place[:1] == ["deployments"] and len(place) > 1:
            given = document["deployments"][place[1]]
            entry = given.get("entrypoint", "") if isinstance(given, dict) else ""
            name = given.get("name", "") if isinstance(given, dict) else ""
            place = [f"{str(entry).rpartition('.')[2]}/{name}", *place[2:]]
        texts.append(f"{', '.join(map(str, place))}: {item['msg']}")
    return "; ".join(texts)

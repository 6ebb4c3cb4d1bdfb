"""The page of a flow run: progress, tables and texts as Prefect artifacts, which never hold the run up.

Every artifact is created once and then brought up to date, so that a page shows how things stand and not how they came
about. Its key says flow, kind and label, so that the artifacts of two runs about the same days are versions of one.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run

from flows.outbox import FLUSH_S, Outbox

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prefect.client.orchestration import SyncPrefectClient

EVERY_S: Final = 2.0
KEY_CHARS: Final = 100
_NOT_FOUND: Final = 404
_DIGEST_CHARS: Final = 8
_MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]<>|#])")


def artifact_key(flow_name: str, kind: str, label: str) -> str:
    """The key of an artifact: `backfill-l2-summary-aapl-2025-09-05`; letters, digits and dashes, at most 100.

    The same arguments have the same key always; what is cut off stands for itself in a digest.
    """
    text = re.sub(r"[^a-z0-9]+", "-", f"{flow_name} {kind} {label}".lower()).strip("-")
    if len(text) <= KEY_CHARS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{text[: KEY_CHARS - _DIGEST_CHARS - 1].rstrip('-')}-{digest}"


def plain(text: str) -> str:
    """The text on one line, with everything escaped that markdown would read as its own."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


@dataclass(frozen=True)
class _Artifact:
    """What an artifact shall say."""

    type: str
    data: Any
    description: str


class Page:
    """The artifacts of the flow run in whose context it is made; outside of one, nothing happens.

    Args:
        flow_name: such as `backfill-l2`.
        label: what the run is about, such as symbols and day.
    """

    def __init__(self, flow_name: str, label: str) -> None:
        self._name = flow_name
        self._label = label
        self._flow_run_id: str | None = flow_run.id
        self._outbox = _Artifacts(self._flow_run_id)

    def progress(self, share_percent: float, text: str) -> None:
        """A bar: how much is done, from 0 to 100, and a line about it."""
        self._put("progress", "progress", round(min(100.0, max(0.0, share_percent)), 1), text)

    def table(self, kind: str, rows: Iterable[Mapping[str, object]], text: str) -> None:
        """A table with the same columns in every row, and a line about it."""
        self._put(kind, "table", json.dumps([dict(row) for row in rows], default=str), text)

    def markdown(self, kind: str, text: str, description: str) -> None:
        """A text in markdown, and a line about it."""
        self._put(kind, "markdown", text, description)

    def link(self, kind: str, url: str, text: str) -> None:
        """A link, and a line about it."""
        self._put(kind, "markdown", f"[{plain(text)}](<{url}>)", text)

    def finish(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until all is written, a second at most when the API is gone; whether it was."""
        return self._outbox.flush(timeout_s)

    def _put(self, kind: str, kind_of_artifact: str, data: object, description: str) -> None:
        if self._flow_run_id is not None:
            key = artifact_key(self._name, kind, self._label)
            self._outbox.put(key, _Artifact(kind_of_artifact, data, description))


class _Artifacts(Outbox):
    """Artifacts by key, the latest of each."""

    def __init__(self, flow_run_id: str | None) -> None:
        super().__init__("the run's page", EVERY_S)
        self._flow_run_id = flow_run_id
        self._waiting: dict[str, _Artifact] = {}
        self._ids: dict[str, UUID] = {}

    def put(self, key: str, artifact: _Artifact) -> None:
        """Let an artifact say something from now on."""
        with self._changed:
            # At the end of the line, so that what changes often lets everything else pass.
            self._waiting.pop(key, None)
            self._waiting[key] = artifact
            self._work()

    def waiting(self) -> int:
        return len(self._waiting)

    def write_next(self, client: SyncPrefectClient) -> None:
        key, artifact = self._next()
        if key not in self._ids or not self._update(client, key, artifact):
            self._create(client, key, artifact)
        self._written(key, artifact)

    def drop_next(self) -> None:
        self._written(*self._next())

    def _next(self) -> tuple[str, _Artifact]:
        with self._changed:
            return next(iter(self._waiting.items()))

    def _written(self, key: str, artifact: _Artifact) -> None:
        with self._changed:
            if self._waiting.get(key) is artifact:
                del self._waiting[key]
            self._changed.notify_all()

    # The client's own methods send the whole artifact as an event besides, which may be too large for one.

    def _create(self, client: SyncPrefectClient, key: str, artifact: _Artifact) -> None:
        wanted = ArtifactCreate.model_validate(
            {
                "key": key,
                "type": artifact.type,
                "data": artifact.data,
                "description": artifact.description,
                "flow_run_id": self._flow_run_id,
            }
        )
        answer = client.request("POST", "/artifacts/", json=wanted.model_dump(mode="json", exclude_unset=True))
        self._ids[key] = UUID(answer.json()["id"])

    def _update(self, client: SyncPrefectClient, key: str, artifact: _Artifact) -> bool:
        """Whether there was something to update; a server with a new database has forgotten it."""
        wanted = ArtifactUpdate(data=artifact.data, description=artifact.description)
        try:
            client.request(
                "PATCH",
                "/artifacts/{id}",
                path_params={"id": self._ids[key]},
                json=wanted.model_dump(mode="json", exclude_unset=True),
            )
        except PrefectHTTPStatusError as error:
            if error.response.status_code != _NOT_FOUND:
                raise
            return False
        return True

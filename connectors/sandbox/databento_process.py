"""The sandbox vendor in a process of its own, so that making records does not share the GIL with their reader.

Nothing is served here; the child runs `python -m connectors.sandbox databento`.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

from connectors.sandbox._process import SandboxDidNotStartError, end_child, read_announcement
from connectors.sandbox.databento_server import (
    DEFAULT_API_KEY,
    DEFAULT_RECORDS_PER_HOUR,
    DEFAULT_USD_PER_GB,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date, datetime
    from types import TracebackType

__all__ = ["SandboxDidNotStartError", "SandboxProcess"]

_CALL_S: Final = 10.0


class SandboxProcess:
    """`DatabentoSandbox` in a child process, alive inside a `with` block; it ends with its parent, even a killed one.

    Args:
        port: 0 takes a free one.
        api_key: the key that `env` hands out.
        replay_dir: serve the DBN files of this folder.
        faults: in written form, see `faults.parse_fault`.
        records_per_hour: mean MBP-10 records per hour of a symbol's session.
        usd_per_gb: price of 2^30 uncompressed bytes.
        request_log: a file that gets one JSON line per finished request.
        now: a fixed present.
        start_within_s: how long the start may take.

    Attributes:
        gateway_url: `https://127.0.0.1:PORT`.
        ca_file: the certificate to trust.
        api_key: as given.
        pid: of the child.

    Raises:
        SandboxDidNotStartError: on entering, when the child does not announce itself in time.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        api_key: str = DEFAULT_API_KEY,
        replay_dir: Path | None = None,
        faults: Iterable[str] = (),
        records_per_hour: float = DEFAULT_RECORDS_PER_HOUR,
        usd_per_gb: float = DEFAULT_USD_PER_GB,
        request_log: Path | None = None,
        now: datetime | date | None = None,
        start_within_s: float = 30.0,
    ) -> None:
        self.api_key = api_key
        self.gateway_url = ""
        self.ca_file = Path()
        self.pid = 0
        self._start_within_s = start_within_s
        # The key goes by the environment: arguments are public on most machines.
        self._arguments = ["--port", str(port), "--records-per-hour", str(records_per_hour)]
        self._arguments += ["--usd-per-gb", str(usd_per_gb), "--until-stdin-ends"]
        for name, value in (("--replay", replay_dir), ("--request-log", request_log)):
            self._arguments += [name, str(value)] if value else []
        self._arguments += ["--now", now.isoformat()] if now else []
        for fault in faults:
            self._arguments += ["--fault", fault]
        self._child: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self._stderr = tempfile.TemporaryFile()
        self._child = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", "connectors.sandbox", "databento", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_child_environment(self.api_key),
            start_new_session=True,  # a Ctrl-C in the terminal is the parent's to handle
        )
        try:
            values = read_announcement(self._child, self._stderr, self._start_within_s)
        except BaseException:
            self.stop()
            raise
        self.gateway_url = values["gateway_url"]
        self.ca_file = Path(values["ca_file"])
        self.pid = values["pid"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the child and wait for it; harmless when it is gone."""
        child, self._child = self._child, None
        if child is not None:
            end_child(child)
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def env(self) -> dict[str, str]:
        """The environment in which the real client finds the server and trusts it."""
        return {
            "DATABENTO_GATEWAY": self.gateway_url,
            "REQUESTS_CA_BUNDLE": str(self.ca_file),
            "DATABENTO_API_KEY": self.api_key,
        }

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Every request so far, as JSON objects with the attributes of `LoggedRequest`."""
        return list(self._call("GET", "requests"))

    @property
    def billed_bytes(self) -> int:
        """Uncompressed bytes of all records streamed so far."""
        return int(self._call("GET", "billing")["billed_bytes"])

    @property
    def billed_usd(self) -> float:
        """What these bytes cost."""
        return float(self._call("GET", "billing")["billed_usd"])

    def add_fault(self, fault: str) -> None:
        """Put a fault in force, in its written form.

        Raises:
            urllib.error.HTTPError: 400, the fault cannot be read.
        """
        self._call("POST", "faults", [fault])

    def clear_faults(self) -> None:
        """No more faults."""
        self._call("DELETE", "faults")

    def _call(self, method: str, name: str, body: object = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - always our own https address
            f"{self.gateway_url}/sandbox/{name}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
        )
        trust = ssl.create_default_context(cafile=str(self.ca_file))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        )
        with opener.open(request, timeout=_CALL_S) as response:
            return json.load(response)


def _child_environment(api_key: str) -> dict[str, str]:
    return {**os.environ, "SANDBOX_API_KEY": api_key}

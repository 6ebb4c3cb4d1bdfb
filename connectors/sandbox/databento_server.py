"""The Databento-compatible sandbox vendor: start it, point the real client at it, look at what it was asked.

    with DatabentoSandbox() as sandbox:
        os.environ.update(sandbox.env())
        client = databento.Historical(key=sandbox.api_key, gateway=sandbox.gateway_url)

It serves in threads of this process; `databento_process.SandboxProcess` runs it in a process of its own. What the
package is and is not: see `connectors.sandbox`.
"""

from __future__ import annotations

import os
import shutil
import ssl
import sys
import tempfile
import threading
from datetime import UTC, date, datetime, time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import trustme

from connectors.sandbox._api import VendorApi
from connectors.sandbox._generated import DEFAULT_RECORDS_PER_HOUR, GeneratedMarket
from connectors.sandbox._http import LOOPBACK, LoggedRequest, SandboxHttpServer
from connectors.sandbox._process import announce as announce_to
from connectors.sandbox._process import serve_until_told
from connectors.sandbox._replay import ReplayMarket
from connectors.sandbox.faults import Fault, FaultBook, parse_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from connectors.sandbox._market import Market

__all__ = [
    "DEFAULT_API_KEY",
    "DEFAULT_RECORDS_PER_HOUR",
    "DEFAULT_USD_PER_GB",
    "DatabentoSandbox",
    "Fault",
    "LoggedRequest",
    "parse_fault",
    "run_forever",
]

DEFAULT_API_KEY: Final = "db-sandbox-0000000000000000000000"
DEFAULT_USD_PER_GB: Final = 1.0


class DatabentoSandbox:
    """A Databento-compatible HTTPS server on 127.0.0.1, alive inside a `with` block.

    Args:
        port: 0 takes a free one.
        api_key: the key that `env` hands out.
        strict_api_key: accept only `api_key`; otherwise any key that is not empty.
        replay_dir: serve the `.dbn` and `.dbn.zst` files of this folder instead of invented records.
        faults: in force from the start.
        records_per_hour: mean MBP-10 records per hour of a symbol's session from 04:00 to 20:00 ET.
        usd_per_gb: price of 2^30 uncompressed bytes.
        request_log: a file that gets one JSON line per finished request.
        now: a fixed present, which decides up to when data can be had; a date is its midnight UTC.
        multi_frame: send a zstd frame per block instead of one for all.

    Attributes:
        gateway_url: `https://127.0.0.1:PORT`.
        ca_file: the certificate to trust; it lies in a private folder that goes with the server.
        api_key: as given.

    Raises:
        ValueError: a density or a replay folder that cannot be used.
        OSError: the port is taken.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        api_key: str = DEFAULT_API_KEY,
        strict_api_key: bool = False,
        replay_dir: Path | None = None,
        faults: Iterable[Fault] = (),
        records_per_hour: float = DEFAULT_RECORDS_PER_HOUR,
        usd_per_gb: float = DEFAULT_USD_PER_GB,
        request_log: Path | None = None,
        now: datetime | date | None = None,
        multi_frame: bool = False,
    ) -> None:
        self.api_key = api_key
        self.usd_per_gb = usd_per_gb
        self._accepts_key = api_key if strict_api_key else None
        self._port = port
        self._faults = FaultBook(faults)
        market: Market = ReplayMarket(replay_dir) if replay_dir else GeneratedMarket(records_per_hour)
        self._api = VendorApi(market, usd_per_gb, _clock(now))
        self._request_log = request_log
        self._multi_frame = multi_frame
        self._folder: Path | None = None
        self._server: SandboxHttpServer | None = None
        self._thread: threading.Thread | None = None
        self.gateway_url = ""
        self.ca_file = Path()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Make the certificates, bind the port and serve."""
        if self._server is not None:
            raise RuntimeError("a DatabentoSandbox starts once; make another one")
        authority = trustme.CA(organization_name="Sandbox vendor, loopback only")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(LOOPBACK, "localhost").configure_cert(tls)
        self._server = SandboxHttpServer(
            port=self._port,
            tls=tls,
            api=self._api,
            faults=self._faults,
            accepts_key=self._accepts_key,
            multi_frame=self._multi_frame,
            request_log=self._request_log,
        )
        self._folder = Path(tempfile.mkdtemp(prefix="databento-sandbox-"))
        self.ca_file = self._folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.gateway_url = f"https://{LOOPBACK}:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="sandbox-accept", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End every connection and thread, free the port, remove the certificate; harmless when not running."""
        if self._server is not None and self._thread is not None:
            self._server.end()
            self._thread.join()
            self._thread = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def env(self) -> dict[str, str]:
        """The environment in which the real client finds this server and trusts it."""
        return {
            "DATABENTO_GATEWAY": self.gateway_url,
            "REQUESTS_CA_BUNDLE": str(self.ca_file),
            "DATABENTO_API_KEY": self.api_key,
        }

    @property
    def requests(self) -> list[LoggedRequest]:
        """Every request so far, oldest first, also after the end."""
        return self._server.requests() if self._server else []

    @property
    def billed_bytes(self) -> int:
        """Uncompressed bytes of all records streamed so far."""
        return sum(entry.dbn_bytes for entry in self.requests)

    @property
    def billed_usd(self) -> float:
        """What these bytes cost."""
        return float(self._server.billing()["billed_usd"]) if self._server else 0.0

    def add_fault(self, fault: Fault | str) -> None:
        """Put a fault in force, given as such or in its written form."""
        self._faults.add(parse_fault(fault) if isinstance(fault, str) else fault)

    def clear_faults(self) -> None:
        """No more faults."""
        self._faults.clear()


def _clock(now: datetime | date | None) -> Callable[[], datetime]:
    if now is None:
        return lambda: datetime.now(UTC)
    fixed = now if isinstance(now, datetime) else datetime.combine(now, time(), UTC)
    if fixed.tzinfo is None:
        raise ValueError("now must be an aware datetime or a date")
    return lambda: fixed


def run_forever(
    *,
    port: int = 0,
    api_key: str = DEFAULT_API_KEY,
    replay_dir: Path | None = None,
    faults: Iterable[Fault | str] = (),
    records_per_hour: float = DEFAULT_RECORDS_PER_HOUR,
    usd_per_gb: float = DEFAULT_USD_PER_GB,
    request_log: Path | None = None,
    now: datetime | date | None = None,
    announce: str = "-",
    parent_pid: int | None = None,
    until_stdin_ends: bool = False,
) -> int:
    """Serve until SIGINT, SIGTERM or the end of the parent; for a main thread.

    Writes one JSON line `{gateway_url, ca_file, api_key, pid}` when ready, and how to use it on stderr.

    Args:
        port: as for `DatabentoSandbox`, like the others that are named there.
        api_key: see there.
        replay_dir: see there.
        faults: see there; also in written form.
        records_per_hour: see there.
        usd_per_gb: see there.
        request_log: see there.
        now: see there.
        announce: file that gets the JSON line (written whole, under its name at once), `-` for stdout.
        parent_pid: end when this process is gone.
        until_stdin_ends: end when stdin is closed at the other side.

    Returns:
        The exit code, 0.

    Raises:
        ValueError: a fault, density or folder that cannot be used.
        OSError: the port is taken.
    """
    sandbox = DatabentoSandbox(
        port=port,
        api_key=api_key,
        replay_dir=replay_dir,
        faults=[parse_fault(f) if isinstance(f, str) else f for f in faults],
        records_per_hour=records_per_hour,
        usd_per_gb=usd_per_gb,
        request_log=request_log,
        now=now,
    )
    with sandbox:
        serve_until_told(
            partial(_announce, sandbox, announce), parent_pid=parent_pid, until_stdin_ends=until_stdin_ends
        )
    return 0


def _announce(sandbox: DatabentoSandbox, target: str) -> None:
    announce_to(
        {
            "gateway_url": sandbox.gateway_url,
            "ca_file": str(sandbox.ca_file),
            "api_key": sandbox.api_key,
            "pid": os.getpid(),
        },
        target,
    )
    exports = "\n".join(f"  export {name}='{value}'" for name, value in sandbox.env().items())
    print(  # noqa: T201 - help for a person
        f"Sandbox vendor (Databento protocol, invented data) on {sandbox.gateway_url}\n{exports}\n"
        "  what it was asked: GET /sandbox/requests, what that cost: GET /sandbox/billing,\n"
        "  faults: GET, POST, DELETE /sandbox/faults\n"
        "Ctrl-C ends it.",
        file=sys.stderr,
        flush=True,
    )

"""HTTPS on loopback: sockets, TLS, the vendor's paths, and the sandbox's own `/sandbox/...` paths.

The TLS handshake happens in the connection's own thread, so that a client that never finishes one holds up nobody.
What is answered is decided in `_api`; how a body is spoilt, in `_stream`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import logging
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

from connectors.sandbox._api import GB, JsonAnswer, StreamAnswer, VendorApi
from connectors.sandbox._request import ApiError, Request, parse_request
from connectors.sandbox._stream import Break, pieces
from connectors.sandbox.faults import ENDPOINTS, Fault, FaultBook, faults_from_json

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

LOOPBACK: Final = "127.0.0.1"
_POST_ENDPOINTS: Final = (
    "timeseries",
    "symbology",
    "metadata.get_record",
    "metadata.get_billable",
    "metadata.get_cost",
)
_IDLE_S: Final = 120.0
_HANDSHAKE_S: Final = 10.0
_POLL_S: Final = 0.05
_JOIN_S: Final = 10.0
_LOG: Final = logging.getLogger(__name__)


@dataclass
class LoggedRequest:
    """One call as the server saw it; the key is not in it.

    Attributes:
        endpoint: `family.method`.
        started_monotonic: `time.monotonic()` at the start.
        params: form or query fields.
        status: HTTP status, None while (or if) nothing was answered.
        records: records sent.
        dbn_bytes: uncompressed bytes of these records, which is what the vendor bills.
        faults: kinds of the faults that met the request.
        finished: the answer was sent to its proper end.
    """

    endpoint: str
    started_monotonic: float
    params: dict[str, str] = field(default_factory=dict)
    status: int | None = None
    records: int = 0
    dbn_bytes: int = 0
    faults: list[str] = field(default_factory=list)
    finished: bool = False


class ConnectionEnds(Exception):  # noqa: N818 - a signal, not an error
    """The connection is to be closed now, without another byte."""


class SandboxHttpServer(HTTPServer):
    """One thread per connection, all of them ended by `end`."""

    request_queue_size = 128

    def __init__(
        self,
        *,
        port: int,
        tls: ssl.SSLContext,
        api: VendorApi,
        faults: FaultBook,
        accepts_key: str | None,
        multi_frame: bool,
        request_log: Path | None,
    ) -> None:
        self.api = api
        self.faults = faults
        self.multi_frame = multi_frame
        self.stopping = threading.Event()
        self._tls = tls
        self._accepts_key = accepts_key
        self._request_log = request_log
        self._lock = threading.Lock()
        self._requests: list[LoggedRequest] = []
        self._connections: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        super().__init__((LOOPBACK, port), _Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host's full name, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    # --- connections --------------------------------------------------------------------------------------------

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand an accepted connection to its own thread (called by the accept loop)."""
        thread = threading.Thread(
            target=self._serve_connection, args=(request, client_address), name="sandbox-connection", daemon=True
        )
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _serve_connection(self, raw: socket.socket, client_address: Any) -> None:
        connection = raw
        try:
            raw.settimeout(_HANDSHAKE_S)
            with self._lock:
                self._connections.add(raw)
            secured = self._tls.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
            with self._lock:
                self._connections.discard(raw)
                self._connections.add(secured)
            connection = secured
            if not self.stopping.is_set():
                secured.do_handshake()
                _Handler(secured, client_address, self)
        except (ConnectionEnds, OSError):  # ssl.SSLError is an OSError: the client went, or does not trust us
            pass
        except Exception:  # noqa: BLE001 - a bug of ours must not die unseen in a thread
            _LOG.exception("the sandbox failed to serve a connection")
        finally:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            connection.close()
            with self._lock:
                self._connections.discard(connection)
                self._threads.discard(threading.current_thread())

    def end(self) -> None:
        """Stop accepting, break every connection, wait for every thread."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._lock:
            connections, threads = list(self._connections), list(self._threads)
        for connection in connections:
            with contextlib.suppress(OSError):  # below TLS: another thread may be inside it
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in threads:
            thread.join(_JOIN_S)

    # --- the ledger ---------------------------------------------------------------------------------------------

    def log(self, entry: LoggedRequest) -> None:
        """Note a request that begins."""
        with self._lock:
            self._requests.append(entry)

    def note_end(self, entry: LoggedRequest) -> None:
        """Note that a request is over."""
        if self._request_log is not None:
            with self._lock, self._request_log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(entry)) + "\n")

    def requests(self) -> list[LoggedRequest]:
        """All requests so far, oldest first."""
        with self._lock:
            return list(self._requests)

    def billing(self) -> dict[str, float]:
        """Bytes streamed and their price."""
        billed_bytes = sum(entry.dbn_bytes for entry in self.requests())
        return {"billed_bytes": billed_bytes, "billed_usd": billed_bytes * self.api.usd_per_gb / GB}

    def accepts(self, key: str) -> bool:
        """Whether `key` opens the vendor's door."""
        return bool(key) and self._accepts_key in (None, key)


class _Handler(BaseHTTPRequestHandler):
    """One connection; the methods' names are http.server's."""

    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S
    # Head and body go out in two writes: the second must not wait for the client's delayed acknowledgement (40 ms).
    disable_nagle_algorithm = True
    server: SandboxHttpServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: requests are kept in the ledger."""

    def do_GET(self) -> None:
        """Queries."""
        self._serve("GET")

    def do_POST(self) -> None:
        """Forms."""
        self._serve("POST")

    def do_DELETE(self) -> None:
        """Of the sandbox's own paths only."""
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if url.path.startswith("/sandbox/"):
            self._control(method, url.path.removeprefix("/sandbox/"), body)
            return
        text = body.decode("utf-8", "replace") if method == "POST" else url.query
        entry = LoggedRequest(
            endpoint=url.path.removeprefix("/v0/"),
            started_monotonic=time.monotonic(),
            params=dict(parse_qsl(text, keep_blank_values=True)),
        )
        self.server.log(entry)
        try:
            self._answer(method, entry)
        finally:
            self.server.note_end(entry)

    # --- the vendor ---------------------------------------------------------------------------------------------

    def _answer(self, method: str, entry: LoggedRequest) -> None:
        html = False
        try:
            request = self._understood(method, entry)
            faults = self.server.faults.take(request.endpoint, request.symbols, request.et_days())
            entry.faults = [fault.kind for fault in faults]
            html = any(fault.kind == "server-error" and fault.body == "html" for fault in faults)
            self._before_the_answer(faults)
            answer = self.server.api.answer(request, faults)
        except ApiError as error:
            entry.status = error.status
            if html:
                page = b"<html><body><h1>The server could not process the request</h1></body></html>"
                self._send(error.status, page, "text/html", error.headers)
            else:
                self._send_json(error.status, error.body(), error.headers)
            entry.finished = True
            return
        entry.status = answer.status
        if isinstance(answer, JsonAnswer):
            self._send_json(answer.status, answer.body)
        else:
            self._send_stream(answer, entry)
        entry.finished = True

    def _understood(self, method: str, entry: LoggedRequest) -> Request:
        if not self.server.accepts(self._key()):
            raise ApiError(401, "auth_authentication_failed", "Authentication failed.")
        if not self.path.startswith("/v0/") or entry.endpoint not in ENDPOINTS:
            raise ApiError(404, "not_found", f"There is no endpoint '{entry.endpoint}'.")
        expected = "POST" if entry.endpoint.startswith(_POST_ENDPOINTS) else "GET"
        if method != expected:
            raise ApiError(405, "method_not_allowed", f"'{entry.endpoint}' takes {expected}, not {method}.")
        return parse_request(entry.endpoint, entry.params, self.server.api.market)

    def _key(self) -> str:
        scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return ""
        try:
            return base64.b64decode(credentials, validate=True).decode().partition(":")[0].strip()
        except (binascii.Error, UnicodeDecodeError):
            return ""

    def _before_the_answer(self, faults: list[Fault]) -> None:
        for fault in faults:
            if fault.kind == "slow":
                self.server.stopping.wait(fault.seconds)
            elif fault.kind == "stall-before-headers":
                self._wait_until_the_client_goes()
            elif fault.kind == "disconnect":
                raise ConnectionEnds

    def _wait_until_the_client_goes(self) -> None:
        self.connection.settimeout(_POLL_S)
        while not self.server.stopping.is_set():
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        raise ConnectionEnds

    def _send(self, status: int, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("request-id", uuid.uuid4().hex)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), "application/json", headers)

    def _send_stream(self, answer: StreamAnswer, entry: LoggedRequest) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("request-id", uuid.uuid4().hex)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        drip_s = answer.fault.seconds if answer.fault and answer.fault.kind == "drip" else None
        body = pieces(answer, multi_frame=self.server.multi_frame)
        with contextlib.closing(cast("Any", body)):
            for piece in body:
                if isinstance(piece, Break):
                    if piece.kind == "stall":
                        self._wait_until_the_client_goes()
                    raise ConnectionEnds
                if piece.data:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece.data), piece.data))
                entry.records += piece.records
                entry.dbn_bytes += piece.records * answer.record_bytes
                if self.server.stopping.wait(drip_s) if drip_s else self.server.stopping.is_set():
                    raise ConnectionEnds
        self.wfile.write(b"0\r\n\r\n")

    # --- the sandbox itself -------------------------------------------------------------------------------------

    def _control(self, method: str, name: str, body: bytes) -> None:
        match method, name:
            case "GET", "requests":
                self._send_json(200, [asdict(entry) for entry in self.server.requests()])
            case "GET", "billing":
                self._send_json(200, self.server.billing())
            case "GET", "faults":
                self._send_faults()
            case "POST", "faults":
                try:
                    new = faults_from_json(body)
                except ValueError as error:
                    self._send_json(400, {"error": str(error)})
                    return
                for fault in new:
                    self.server.faults.add(fault)
                self._send_faults()
            case "DELETE", "faults":
                self.server.faults.clear()
                self._send_faults()
            case _:
                self._send_json(404, {"error": f"no {method} /sandbox/{name}; there are requests, billing, faults"})

    def _send_faults(self) -> None:
        self._send_json(200, json.loads(json.dumps([asdict(f) for f in self.server.faults.now()], default=str)))

"""The vendor client's `timeseries` API with a wall-clock deadline around the stream.

The client waits at most 100 s between reads and for ever in total, leaves its file open when a stream breaks, and
offers no way to end a read. Its request building, validation and error parsing are kept; only the copying of the body
is replaced.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import requests
from databento.common.error import BentoError
from databento.common.http import WARNING_HEADER_FIELD, check_http_error
from databento.historical.api.timeseries import TimeseriesHttpAPI
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

logger = logging.getLogger(__name__)

READ_SIZE = 1 << 18
_WATCH_S = 0.1


class DeadlinePassed(BentoError):  # noqa: N818 - says what happened
    """The stream was ended because its wall-clock deadline had passed."""


class DeadlineTimeseries(TimeseriesHttpAPI):
    """`TimeseriesHttpAPI` whose downloads end at a deadline, whatever the server does.

    Args:
        key: API key.
        gateway: base URL.
        timeout_s: longest wait to connect, for the first byte and between two reads, in seconds.
        deadline_s: longest time for a whole download, in seconds.
        on_accepted: called when the server has begun to answer with data: from here on it bills.
        stopping: ends the download at once when set.
    """

    def __init__(
        self,
        key: str,
        gateway: str,
        *,
        timeout_s: int,
        deadline_s: float,
        on_accepted: Callable[[], None],
        stopping: threading.Event,
    ) -> None:
        super().__init__(key=key, gateway=gateway)
        self.TIMEOUT = timeout_s
        self._deadline_s = deadline_s
        self._on_accepted = on_accepted
        self._stopping = stopping

    def _stream(
        self,
        url: str,
        data: dict[str, object | None],
        basic_auth: bool,
        path: PathLike[str] | str | None = None,
    ) -> Any:
        # The client would open the file here; what arrived is judged by the caller's `verify`, broken or not.
        if path is None:
            raise ValueError("a download needs a path: the body is never held in memory")
        self._check_api_key()
        expired, done = threading.Event(), threading.Event()
        with requests.Session() as session:
            adapter = _WatchedAdapter()
            session.mount("https://", adapter)
            watch = threading.Thread(target=self._watch, args=(adapter, done, expired), daemon=True)
            watch.start()
            try:
                self._send(session, url, data, basic_auth, Path(path), expired)
            except Exception:
                # A socket that is shut under a reader makes it raise almost anything.
                if not expired.is_set():
                    raise
            finally:
                done.set()
                watch.join()
        # A body without a length ends like a whole one when its socket is shut: the flag tells them apart.
        if expired.is_set():
            raise DeadlinePassed(f"the download did not end within {self._deadline_s:.0f} s")

    def _send(
        self,
        session: requests.Session,
        url: str,
        data: dict[str, object | None],
        basic_auth: bool,
        path: Path,
        expired: threading.Event,
    ) -> None:
        with session.post(
            url=url,
            data=data,
            headers=self._headers,
            auth=HTTPBasicAuth(username=self._key, password="") if basic_auth else None,
            timeout=(self.TIMEOUT, self.TIMEOUT),
            stream=True,
        ) as response:
            check_http_error(response)
            _log_warnings(response)
            self._on_accepted()
            with path.open("xb", buffering=0) as writer:
                _copy_body(response, writer, expired)

    def _watch(self, adapter: _WatchedAdapter, done: threading.Event, expired: threading.Event) -> None:
        """Shut the sockets when the deadline passes or the run stops, which ends a wait in the other thread."""
        ends = time.monotonic() + self._deadline_s
        while not done.wait(_WATCH_S):
            if time.monotonic() >= ends or self._stopping.is_set():
                expired.set()
                adapter.shut()


class _WatchedAdapter(HTTPAdapter):
    """Remembers the sockets it opens, so that another thread can end a read, before an answer has begun too."""

    def __init__(self) -> None:
        self._sockets: list[Any] = []
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of this adapter open watched connections."""
        super().init_poolmanager(*args, **kwargs)
        sockets = self._sockets

        class Connection(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        class Pool(HTTPSConnectionPool):
            ConnectionCls = Connection

        self.poolmanager.pool_classes_by_scheme = {**self.poolmanager.pool_classes_by_scheme, "https": Pool}

    def shut(self) -> None:
        """Shut every socket; those already closed are left alone."""
        for sock in list(self._sockets):
            with contextlib.suppress(OSError, ValueError):
                sock.shutdown(socket.SHUT_RDWR)


def _copy_body(response: requests.Response, writer: IO[bytes], expired: threading.Event) -> None:
    """Copy until the body ends; a failure to read is the vendor's, a failure to write (OSError) is the disk's."""
    chunks = response.iter_content(chunk_size=READ_SIZE)
    while True:
        try:
            chunk = next(chunks, b"")
        except Exception as exc:  # noqa: BLE001 - whatever urllib3, ssl or requests raise: the client does the same
            if expired.is_set():
                return
            raise BentoError(f"Error streaming response: {exc}") from None
        if not chunk:
            return
        view = memoryview(chunk)
        while view:
            view = view[writer.write(view) :]


def _log_warnings(response: requests.Response) -> None:
    """Log what the vendor warns of (a degraded day); the client would show each text once per process."""
    header: Any = response.headers.get(WARNING_HEADER_FIELD)
    if header is None:
        return
    try:
        texts = [str(text) for text in json.loads(header)]
    except (ValueError, TypeError):
        texts = [str(header)]
    for text in texts:
        logger.warning("Databento warns: %s", text)

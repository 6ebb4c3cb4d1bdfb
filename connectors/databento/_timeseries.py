"""The vendor client's `timeseries` API with a wall-clock deadline around the stream.

The client waits at most 100 s between reads and for ever in total, leaves its file open when a stream breaks, and
offers no way to end a read. Its request building, validation and error parsing are kept; only the copying of the body
is replaced.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from typing import IO, TYPE_CHECKING, Any

import requests
from databento import DBNStore
from databento.common.error import BentoError
from databento.common.http import WARNING_HEADER_FIELD, check_http_error
from databento.historical.api.timeseries import TimeseriesHttpAPI
from requests.auth import HTTPBasicAuth

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
    ) -> DBNStore:
        if path is None:
            raise ValueError("a download needs a path: the body is never held in memory")
        self._check_api_key()
        expired = threading.Event()
        with requests.post(
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
            done = threading.Event()
            watch = threading.Thread(target=self._watch, args=(response, done, expired), daemon=True)
            watch.start()
            try:
                with open(path, "xb", buffering=0) as writer:  # noqa: PTH123 - as the client opens it: exclusively
                    _copy_body(response, writer, expired)
            finally:
                done.set()
                watch.join()
        # A body without a length ends like a whole one when its socket is shut: the flag tells them apart.
        if expired.is_set():
            raise DeadlinePassed(f"the download did not end within {self._deadline_s:.0f} s")
        return DBNStore.from_file(path)

    def _watch(self, response: requests.Response, done: threading.Event, expired: threading.Event) -> None:
        """Shut the socket when the deadline passes or the run stops, which ends a read in the other thread."""
        ends = time.monotonic() + self._deadline_s
        while not done.wait(_WATCH_S):
            if time.monotonic() >= ends or self._stopping.is_set():
                expired.set()
                # The reader may just have finished: then there is no socket to shut any more.
                with contextlib.suppress(ValueError, RuntimeError, OSError):
                    response.raw.shutdown()
                return


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

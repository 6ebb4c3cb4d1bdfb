"""The one seam to the gateway's client library: ib_insync, or its maintained fork ib_async with the same names.

Nothing else imports either. Both must be imported inside the running event loop, because their event package binds to
the loop of the moment.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from connectors.ibkr.errors import InvalidRequest, LibraryMissing

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES: Final = ("ib_insync", "ib_async")
"""The libraries that can be used, the default first."""

MOST_REQUESTS_PER_S: Final = 40
"""Messages to the gateway in any second: it allows 50, the library's own default is 45."""

_log = logging.getLogger(__name__)
_silent: Final = logging.getLogger("connectors.ibkr.silent")
_silent.setLevel(logging.CRITICAL + 1)


class _Unread:
    """Stands where a decoder keeps its logger: told of messages it cannot read, whose contents must not be logged."""

    def __init__(self, heard: Callable[[list[str]], None] | None) -> None:
        self._heard = heard

    def exception(self, _text: str) -> None:
        """Called by the decoder while it handles the error."""
        trace = sys.exc_info()[2]
        fields = trace.tb_frame.f_locals.get("fields") if trace is not None else None
        kind = fields[0] if isinstance(fields, list) and fields else "unknown"
        _log.warning("a message of the gateway (type %s) could not be read: %r", kind, sys.exc_info()[0])
        if self._heard is not None and isinstance(fields, list):
            self._heard(fields)


@dataclass(frozen=True)
class Library:
    """A loaded client library.

    Attributes:
        name: `ib_insync` or `ib_async`.
        IB: Its class of a connection.
        Stock: Its class of a share.
    """

    name: str
    IB: Any
    Stock: Any

    def new_ib(self, unread: Callable[[list[str]], None] | None = None) -> Any:
        """Return an unconnected `IB` that logs nothing, asks nothing by itself, and keeps below the request rate.

        Args:
            unread: Gets the fields of every message that the library cannot read and would merely log.
        """
        ib = self.IB()
        # On 1102 it would ask for the account summary: we ask for no account data at all.
        ib.errorEvent.disconnect(ib._onError)  # noqa: SLF001 - the library offers no other way
        # Its log repeats our own, names accounts, and at DEBUG costs more than the messages.
        for part in (ib, ib.client, ib.wrapper):
            part._logger = _silent  # noqa: SLF001 - the library's logger is otherwise one per process
        ib.client.decoder.logger = _Unread(unread)
        ib.client.MaxRequests = MOST_REQUESTS_PER_S
        return ib


def load(name: str | None = None) -> Library:
    """Import a client library; call it inside the running loop.

    Args:
        name: `ib_insync` or `ib_async`; None takes the first of them that is installed.

    Raises:
        InvalidRequest: The name is another.
        LibraryMissing: It is not installed, or none is.
        RuntimeError: No event loop is running in this thread.
    """
    asyncio.get_running_loop()
    if name is not None and name not in NAMES:
        raise InvalidRequest(f"the client library is {name!r}, it can be {' or '.join(NAMES)}")
    wanted = [name] if name else list(NAMES)
    found = next((each for each in wanted if importlib.util.find_spec(each) is not None), None)
    if found is None:
        raise LibraryMissing(f"{' or '.join(wanted)} is not installed: run `pip install {wanted[0]}`")
    module = importlib.import_module(found)
    return Library(found, module.IB, module.Stock)

"""The depth lines' requests as the client library makes them."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from connectors.ibkr._lines import DepthLines
    from connectors.ibkr.depth import DepthRequest
    from connectors.ibkr.library import Library
    from connectors.ibkr.session import GatewayConnection


class DepthWire:
    """Implements `_line.Wire` over one connection.

    Args:
        connection: Open.
        library: Makes the instruments that are asked for.
        request: What is asked for.
        lines: Get the answers.
    """

    def __init__(
        self, connection: GatewayConnection, library: Library, request: DepthRequest, lines: DepthLines
    ) -> None:
        self._connection = connection
        self._client = connection.ib.client
        self._library = library
        self._request = request
        self._lines = lines
        self._answers: dict[int, asyncio.Future[Any]] = {}
        # All requests are ours; the library would not count while a connection is just ending.
        self._ids = count(int(self._client.getReqId()) if self._client.isReady() else 1)

    def new_id(self) -> int:
        """Return a request id that was never used on this connection."""
        return next(self._ids)

    def request_details(self, request_id: int, symbol: str) -> None:
        """Ask for the instrument of a symbol; `lines.details` gets the answer."""
        # The broker writes class shares with a blank.
        asked = self._library.Stock(symbol.replace("-", " "), self._request.exchange, self._request.currency)
        # What reqContractDetailsAsync does, with an id that we know: one library never answers after some errors.
        answer = self._connection.ib.wrapper.startReq(request_id)
        self._answers[request_id] = answer
        answer.add_done_callback(partial(self._answered, request_id))
        self._connection.send(self._client.reqContractDetails, request_id, asked)

    def forget_details(self, request_id: int) -> None:
        """Wait no longer for an instrument."""
        answer = self._answers.pop(request_id, None)
        if answer is not None:
            answer.cancel()

    def subscribe(self, request_id: int, instrument: Any) -> None:
        """Ask for the depth of an instrument."""
        request = self._request
        self._connection.send(self._client.reqMktDepth, request_id, instrument, request.levels, request.is_smart, None)

    def cancel(self, request_id: int) -> None:
        """End a depth request, as smart as it was made."""
        self._connection.send(self._client.cancelMktDepth, request_id, self._request.is_smart)

    def end(self) -> None:
        """Wait for no answer any more."""
        for request_id in list(self._answers):
            self.forget_details(request_id)

    def _answered(self, request_id: int, answer: asyncio.Future[Any]) -> None:
        self._answers.pop(request_id, None)
        if answer.cancelled() or answer.exception() is not None:
            return
        found = {details.contract.conId: details.contract for details in answer.result()}
        for instrument in found.values():
            instrument.exchange = self._request.exchange
        try:
            self._lines.details(request_id, list(found.values()))
        except Exception as error:  # noqa: BLE001 - the loop would only log it
            self._lines.fail(error)

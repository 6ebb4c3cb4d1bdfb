"""Holding vendor slots that all machines share, for the life of a run: `with held({"databento.streams": 4}, ...)`.

Prefect counts them (global concurrency limits, `flows.limits`). A slot is leased for 60 s, and a thread of ours renews
the lease: a killed run frees its slots in about a minute, and an outage of the API costs the run nothing, where
Prefect's own renewal gives up after some seconds and ends the run. A lease that was lost is taken again.
"""

from __future__ import annotations

import contextvars
import logging
import random
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from httpx import ConnectError, ConnectTimeout, HTTPError, HTTPStatusError, codes
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.client.schemas.responses import ConcurrencyLimitWithLeaseResponse
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL

from flows.errors import ConfigurationError, FlowError
from flows.limits import shared_limits
from flows.prefect_api import HOLDS, holders_of, make_limit, patient_client
from flows.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient

    from flows.settings import Settings

__all__ = ["LEASE_S", "LimitBusy", "held"]

logger = logging.getLogger(__name__)

LEASE_S: Final = 60.0
"""Prefect's shortest lease: what a killed holder keeps from others, and some seconds until the server looks."""

_RENEW_S: Final = 15.0
_RETRY_S: Final = 2.0
_REQUEST_S: Final = 5.0
# Not less: slots whose grant nobody waited for are only free when their lease is over.
_ANSWER_S: Final = 30.0
_NOT_THERE_S: Final = 5.0
_IN_TROUBLE_S: Final = 60.0
_GONE_WHILE_WAITING_S: Final = 300.0
_POLL_S: Final = 1.0
_LONGEST_POLL_S: Final = 5.0
_LOOK_UP_S: Final = 0.2
_RELEASE_S: Final = 5.0
_TRIES: Final = 3
_TEXT: Final = 120
_AWAY: Final = "Prefect's API does not answer"
_LOST: Final = "Prefect gave its slots away while the API could not be reached"


class LimitBusy(FlowError):  # noqa: N818 - says what happened
    """Others held a vendor's limit until the time to wait was over.

    Attributes:
        name: The limit.
        waited_s: Seconds waited.
        holders: Who holds it, as far as Prefect's API tells.
    """

    def __init__(self, name: str, wanted: int, waited_s: float, holders: tuple[str, ...], *, what: str) -> None:
        by = f"held by {'; '.join(holders)}" if holders else "the API does not tell by whom it is held"
        super().__init__(
            f"{what}: the limit {name} gave no {wanted} slot(s) in {waited_s:.0f} s; {by} "
            "[wait for those runs, or ask for fewer workers]"
        )
        self.name = name
        self.waited_s = waited_s
        self.holders = holders


@contextmanager
def held(
    wanted: Mapping[str, int], *, what: str, timeout_s: float | None = None, settings: Settings | None = None
) -> Iterator[None]:
    """Hold slots of shared limits during the block; wait until they are free.

    Without an API that answers, the run goes on, limited on this machine alone, and says so once; the slots are taken
    when the API is there. An API that goes away during the block changes nothing for the run.

    Args:
        wanted: How many slots by a limit's name; none or fewer than one is nothing.
        what: What they are for, such as `AAPL 2025-09-05`; for others who wait, and for the log.
        timeout_s: Seconds to wait for each limit; None waits as long as it takes, 0 does not wait.
        settings: Of this run; those of the process when None.

    Raises:
        LimitBusy: Others held it until the time was over.
        ConfigurationError: The limit is 0: somebody lets nothing through.
        KeyError: No shared limit has this name.
    """
    limits = shared_limits(settings or load_settings())
    counts = {name: count for name, count in sorted(wanted.items()) if count > 0}
    for name in counts:
        if name not in limits:
            raise KeyError(f"no shared limit is called {name!r}; there are {', '.join(limits)}")
    if not counts:
        yield
        return
    # Nobody else uses a temporary API, and nobody frees there what a killed run held.
    if not PREFECT_API_URL.value():
        logger.info("%s: no Prefect API is set, %s limited on this machine alone", what, ", ".join(counts))
        yield
        return
    keeper = _Keeper(counts, limits, what=what, timeout_s=timeout_s)
    keeper.start()
    try:
        # In short steps: an exception that Prefect sends to this thread is seen between two of them.
        while not keeper.is_decided.wait(_LOOK_UP_S):
            pass
        if keeper.error is not None:
            raise keeper.error
        yield
    finally:
        keeper.stop()


class _Keeper:
    """The thread that takes, renews and gives back the slots of one block; all requests are its own.

    So whatever ends the waiting thread, a request under way is finished, and what it brought is given back.

    Attributes:
        is_decided: The block may begin, or `error` says why not.
        error: Why the block cannot begin.
    """

    def __init__(
        self, wanted: Mapping[str, int], limits: Mapping[str, int], *, what: str, timeout_s: float | None
    ) -> None:
        self.is_decided = threading.Event()
        self.error: BaseException | None = None
        self._wanted = dict(wanted)
        self._limits = limits
        self._what = what
        self._timeout_s = timeout_s
        self._ended = threading.Event()
        self._leases: dict[str, UUID] = {}
        self._told: str | None = None
        self._renewed_s = 0.0
        context = FlowRunContext.get()
        self._run_id = None if context is None or context.flow_run is None else context.flow_run.id
        # With the run's context, so that the log lines find its page; a daemon, so that it holds up no exit.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._work,), name=f"holds {', '.join(wanted)}", daemon=True)

    def start(self) -> None:
        """Begin to take the slots."""
        self._thread.start()

    def stop(self) -> None:
        """Give the slots back, as far as the API is there; the leases end by themselves."""
        self._ended.set()
        self._thread.join(_RELEASE_S)

    def _work(self) -> None:
        try:
            with patient_client(_REQUEST_S, read_s=_ANSWER_S) as client:
                try:
                    self._take_all(client)
                    self.is_decided.set()
                    self._keep(client)
                finally:
                    self._give_back(client)
        except BaseException as error:
            if self.is_decided.is_set():
                logger.exception("%s: slots are no longer renewed", self._what)
            self.error = error
        finally:
            self.is_decided.set()

    # --- taking ----------------------------------------------------------------------------------------------------

    def _take_all(self, client: SyncPrefectClient) -> None:
        """Take every limit, in the order of their names so that no two runs wait for each other in a circle."""
        for name in self._wanted:
            if not self._take(client, name):
                return

    def _take(self, client: SyncPrefectClient, name: str) -> bool:
        """Wait for the slots of a limit.

        Returns:
            False when the block begins, or ends, without.
        """
        began_s = time.monotonic()
        away_since_s: float | None = None
        is_busy, poll_s = False, _POLL_S
        while not self._ended.is_set():
            try:
                if self._try(client, name):
                    return True
            except ConfigurationError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a client, a server or a network can come up with
                away_since_s = away_since_s or time.monotonic()
                patience_s = _GONE_WHILE_WAITING_S if is_busy else _patience_s(error)
                if time.monotonic() - away_since_s >= patience_s:
                    self._tell(_AWAY, f"with {', '.join(self._wanted)} limited on this machine alone", error)
                    return False
            else:
                away_since_s = None
                if not is_busy and self._timeout_s != 0:
                    by = "; ".join(self._holders(client, name)) or "others"
                    logger.warning("%s: waiting for %d of %s, held by %s", self._what, self._wanted[name], name, by)
                is_busy = True
            waited_s = time.monotonic() - began_s
            pause_s = poll_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret; so waiting runs do not march together
            if is_busy and self._timeout_s is not None:
                if waited_s >= self._timeout_s:
                    holders = self._holders(client, name)
                    raise LimitBusy(name, self._wanted[name], waited_s, holders, what=self._what)
                pause_s = min(pause_s, self._timeout_s - waited_s)
            poll_s = min(poll_s * 1.3, _LONGEST_POLL_S)
            self._ended.wait(pause_s)
        return False

    def _try(self, client: SyncPrefectClient, name: str) -> bool:
        """Take the slots of a limit if they are free; create the limit when it is missing.

        Raises:
            ConfigurationError: The limit allows none.
            HTTPError: The API refused, or did not answer.
        """
        holder = None if self._run_id is None else ConcurrencyLeaseHolder(type="flow_run", id=self._run_id)
        for _ in range(_TRIES):
            try:
                answer = client.increment_concurrency_slots_with_lease(
                    [name], self._wanted[name], "concurrency", LEASE_S, holder
                )
            except HTTPStatusError as error:
                if error.response.status_code == codes.LOCKED:
                    return False
                if error.response.status_code == codes.UNPROCESSABLE_ENTITY:
                    self._take_fewer(client, name, error)
                    continue
                raise
            lease = ConcurrencyLimitWithLeaseResponse.model_validate(answer.json())
            if lease.limits:
                self._leases[name] = lease.lease_id
                self._say_on_page(client, name, f"{self._wanted[name]} for {self._what}"[:_TEXT])
                return True
            # Prefect lets everything through a limit that it does not have.
            client.release_concurrency_slots_with_lease(lease.lease_id)
            make_limit(client, name, self._limits[name])
        raise ConfigurationError(f"{self._what}: Prefect's limit {name} is deleted as soon as it is made")

    def _take_fewer(self, client: SyncPrefectClient, name: str, error: HTTPStatusError) -> None:
        """Want only what a limit allows: a session of the day must not fail over a figure that nobody brought up."""
        allowed = client.read_global_concurrency_limit_by_name(name).limit
        if not 0 < allowed < self._wanted[name]:
            raise ConfigurationError(
                f"{self._what}: Prefect's limit {name} allows {allowed}, {self._wanted[name]} are wanted "
                f"[`prefect gcl update {name} --limit {self._limits[name]}`]"
            ) from error
        logger.warning(
            "%s: Prefect's limit %s allows %d, %d are wanted; those are all that is held [`prefect gcl update %s "
            "--limit %d`]",
            self._what,
            name,
            allowed,
            self._wanted[name],
            name,
            self._limits[name],
        )
        self._wanted[name] = allowed

    # --- keeping ---------------------------------------------------------------------------------------------------

    def _keep(self, client: SyncPrefectClient) -> None:
        self._renewed_s = time.monotonic()
        is_well = len(self._leases) == len(self._wanted)
        while not self._ended.wait(_RENEW_S if is_well else _RETRY_S):
            is_well = self._renew_all(client)

    def _renew_all(self, client: SyncPrefectClient) -> bool:
        """Renew every lease, and take again what was lost; tell once what others may notice.

        Returns:
            Whether all is held.
        """
        lost = []
        for name in self._wanted:
            try:
                if name in self._leases and not self._renew(client, name):
                    del self._leases[name]
                if name not in self._leases and not self._try(client, name):
                    lost.append(name)
            except ConfigurationError:
                lost.append(name)
            except Exception as error:  # noqa: BLE001 - likewise
                # Until then the leases hold, and nobody noticed anything.
                if time.monotonic() - self._renewed_s >= LEASE_S:
                    self._tell(_AWAY, f"and others may take its slots of {', '.join(self._wanted)}", error)
                return False
        self._renewed_s = time.monotonic()
        if lost:
            self._tell(_LOST, f"with more at once than {', '.join(lost)} allows")
        elif self._told is not None:
            logger.info("%s: Prefect counts %s again", self._what, ", ".join(self._wanted))
            self._told = None
        return not lost

    def _renew(self, client: SyncPrefectClient, name: str) -> bool:
        try:
            client.renew_concurrency_lease(self._leases[name], LEASE_S)
        except HTTPStatusError as error:
            if error.response.status_code == codes.GONE:
                return False
            raise
        return True

    def _give_back(self, client: SyncPrefectClient) -> None:
        for name, lease in self._leases.items():
            until_s = time.monotonic() + _RELEASE_S
            while True:
                try:
                    client.release_concurrency_slots_with_lease(lease)
                except HTTPStatusError:
                    # The database is busy for a moment.
                    if time.monotonic() < until_s:
                        time.sleep(_LOOK_UP_S)
                        continue
                    logger.debug("%s is not given back, its lease ends in a minute", name, exc_info=True)
                except HTTPError:
                    logger.debug("%s is not given back, its lease ends in a minute", name, exc_info=True)
                break
            self._say_on_page(client, name, "")

    # --- telling ---------------------------------------------------------------------------------------------------

    def _say_on_page(self, client: SyncPrefectClient, name: str, text: str) -> None:
        if self._run_id is not None:
            try:
                client.update_flow_run_labels(self._run_id, {f"{HOLDS}{name}": text})
            except HTTPError:
                # It only tells others who wait.
                logger.debug("the run's labels do not say that it holds %s", name, exc_info=True)

    def _holders(self, client: SyncPrefectClient, name: str) -> tuple[str, ...]:
        try:
            return holders_of(client).get(name, ())
        except HTTPError:
            return ()

    def _tell(self, trouble: str, effect: str, error: Exception | None = None) -> None:
        """Say once that the run goes on, and what that means for others."""
        if self._told != trouble:
            detail = "" if error is None else f" ({error})"
            logger.warning("%s: %s%s; the run goes on, %s until then", self._what, trouble, detail, effect)
        self._told = trouble


def _patience_s(error: Exception) -> float:
    """How long to wait for the first answer: nobody listens there, or there is one who is in trouble."""
    return _NOT_THERE_S if isinstance(error, ConnectError | ConnectTimeout) else _IN_TROUBLE_S

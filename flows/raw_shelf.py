"""The raw cache as the Databento connector wants it: a shelf of verified vendor files."""

from __future__ import annotations

import datetime as dt
from importlib.metadata import version
from typing import TYPE_CHECKING

from connectors.databento.fetch import RawDay
from connectors.store.raw_cache import RawCache, RawEntry, RawKey, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from connectors.databento.plan import DayPlan
    from connectors.databento.request import DayRequest


class RawShelf:
    """Finds and keeps vendor files in CACHE_PATH.

    Args:
        cache_path: CACHE_PATH.
        keep: L2_KEEP_RAW; False leaves a download under its temporary name for the caller to remove.
    """

    def __init__(self, cache_path: Path, *, keep: bool) -> None:
        self._cache = RawCache(cache_path)
        self._keep = keep

    def find(self, request: DayRequest) -> RawDay | None:
        """A kept file that covers the request; it costs nothing."""
        found = self._cache.find(_key(request))
        if found is None:
            return None
        entry = found.entry
        return RawDay(request, found.path, entry.records, 0.0, entry.vendor_condition, reused=True)

    def claim(self, request: DayRequest, while_waiting: Callable[[], None]) -> AbstractContextManager[None]:
        """Be the only one to bring this file, among all runs that share the cache."""
        return self._cache.claim(_key(request), while_waiting)

    def new_path(self, request: DayRequest) -> Path:
        """A path for a download that does not exist yet."""
        return self._cache.new_download_path(_key(request))

    def keep(self, request: DayRequest, download: Path, plan: DayPlan, paid_usd: float | None) -> RawDay:
        """Take a verified download into the cache, or leave it where it is when nothing is kept."""
        path = download
        if self._keep:
            size_bytes, sha256 = fingerprint(download)
            entry = RawEntry(
                **_key(request).model_dump(by_alias=False),
                records=plan.records,
                size_bytes=size_bytes,
                sha256=sha256,
                vendor_condition=plan.condition,
                cost_usd=plan.cost_usd,
                fetched_at=dt.datetime.now(dt.UTC),
                client_versions={"databento": version("databento")},
            )
            path = self._cache.commit(download, entry).path
        return RawDay(request, path, plan.records, paid_usd, plan.condition, reused=False)

    def discard(self, raw: RawDay, reason: str) -> None:
        """Take a kept file that proved corrupt out of the cache."""
        found = self._cache.find(_key(raw.request))
        if found is not None:
            self._cache.discard(found, reason)

    def release(self, raw: RawDay) -> None:
        """The caller is done with a file; without L2_KEEP_RAW a download is removed."""
        if not self._keep and not raw.reused and raw.path is not None:
            raw.path.unlink(missing_ok=True)

    def sweep(self) -> list[Path]:
        """Remove downloads of dead processes."""
        return self._cache.sweep()


def _key(request: DayRequest) -> RawKey:
    return RawKey(
        dataset=request.dataset,
        schema_=request.schema,
        symbol=request.symbol,
        vendor_symbol=request.vendor_symbol,
        start_ns=request.start_ns,
        end_ns=request.end_ns,
    )

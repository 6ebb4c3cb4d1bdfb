"""Databento's steps as Prefect tasks, so that a run page shows what was asked of the vendor and how it went.

Retries live in the client, where the error's kind and `Retry-After` are known; results are never cached, for the
manifest decides what is done. No tags: for each of them Prefect asks its API for a slot before every run, which takes
time and fails the task while the API is away.
"""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from connectors.databento.fetch import fetch_day

fetch_level2_day = task(
    name="fetch-level2-day",
    task_run_name="fetch {request.label}",
    description="Bring the vendor's records of one (symbol, day) to disk: kept file, or plan, download, verify.",
    cache_policy=NO_CACHE,
    persist_result=False,
)(fetch_day)

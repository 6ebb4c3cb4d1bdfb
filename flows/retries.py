"""Which failures of a vendor are worth another try, for Prefect tasks that talk to one; the class of the error decides.

Terminal errors and an open circuit: none. Not yet available: none, such a day is scheduled for later (`followup`).
Retryable: as often as the task says, with its jitter. Prefect knows no `Retry-After`, so the vendor's wish is slept off
before Prefect's own delay begins. No Prefect here.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from connectors.databento.client import LONGEST_RETRY_AFTER_S
from connectors.databento.errors import RetryableError
from connectors.ibkr.errors import BarsTimeout, BarsUnavailable, GatewayUnreachable

logger = logging.getLogger(__name__)

RETRYABLE: Final[tuple[type[Exception], ...]] = (RetryableError, GatewayUnreachable, BarsTimeout, BarsUnavailable)
"""Errors after which the same request may succeed."""


def is_retryable(error: object) -> bool:
    """Whether the same request may succeed soon; False too when the vendor wants us away for longer than we wait."""
    if not isinstance(error, RETRYABLE):
        return False
    return _retry_after_s(error) <= LONGEST_RETRY_AFTER_S


def retry_by_class(task: Any, task_run: Any, state: Any) -> bool:
    """A `retry_condition_fn`: waits as long as the vendor asked, then says whether to try again.

    Prefect asks only while retries are left, with the failed state, whose data is the exception.

    Args:
        task: the task.
        task_run: its run.
        state: the failed state.
    """
    del task
    error = state.data
    if not is_retryable(error):
        return False
    delay_s = _retry_after_s(error)
    if delay_s > 0:
        logger.warning("%s: the vendor asks to wait %.0f s", task_run.name, delay_s)
        time.sleep(delay_s)
    return True


def _retry_after_s(error: object) -> float:
    return getattr(error, "retry_after_s", None) or 0.0

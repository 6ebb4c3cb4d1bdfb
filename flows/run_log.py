"""What a flow run logs of this project's own work, so that its page shows the progress and not only the trouble."""

from __future__ import annotations

import logging
from typing import Final

OURS: Final = ("flows", "connectors")


def show_own_lines(level: str) -> None:
    """Let lines of this project through from a level on.

    Prefect hands the lines of PREFECT_LOGGING_EXTRA_LOGGERS on to the run's page, but leaves these loggers at the level
    of the root, WARNING.

    Args:
        level: LOG_LEVEL.
    """
    for name in OURS:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(level)

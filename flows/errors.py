"""Errors of the flows: what a person must put right before work can begin, and what stopped a run.

FlowError
├── ConfigurationError   settings, arguments or files given by a person; nothing was done (exit code 2)
├── BackfillFailed       a strict run met an ERROR (exit code 1)
├── BarsFailed           a download of bars could not do what was asked (exit code 1)
└── CaptureFailed        a live capture could not do what was asked (exit code 1)
"""

from __future__ import annotations

from typing import Any


class FlowError(Exception):
    """Base of this project's own run errors."""


class ConfigurationError(FlowError, ValueError):
    """Something a person gave cannot be used; says what, where and what to do. No work was done."""


class BackfillFailed(FlowError):  # noqa: N818 - says what happened
    """A strict call could not bring its day.

    Attributes:
        reason: short machine-readable word, as in the manifest line.
    """

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class BarsFailed(FlowError):  # noqa: N818 - says what happened
    """A download of bars stopped early, or a strict one met an ERROR; what was downloaded is on disk and recorded.

    Attributes:
        summary: the result of the run as a JSON document; None when it came to none.
    """

    def __init__(self, message: str, *, summary: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.summary = summary


class CaptureFailed(FlowError):  # noqa: N818 - says what happened
    """A live capture failed, or a part of it; what was captured is on disk and recorded.

    Attributes:
        summary: the result of the run as a JSON document; None when it came to none.
    """

    def __init__(self, message: str, *, summary: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.summary = summary

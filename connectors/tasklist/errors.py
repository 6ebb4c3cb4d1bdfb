"""The exception of the task lists; nothing else lives here.

```
TaskListError     a list cannot be found, opened, or understood without guessing
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class TaskListError(Exception):
    """A task list cannot be found, opened, or understood without guessing.

    Attributes:
        source: The list, or None when none was found.
        looked_at: Where it was looked for, in order; empty unless that is the matter.
        headers: The headers that were found; empty unless they are the matter.
    """

    def __init__(
        self,
        message: str,
        *,
        source: Path | None = None,
        looked_at: tuple[Path, ...] = (),
        headers: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.source = source
        self.looked_at = looked_at
        self.headers = headers

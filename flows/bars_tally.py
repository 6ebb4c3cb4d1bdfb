"""The counts of a download of bars while it goes on: what became of which day, and which days are left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.bars_result import STATUSES, BarsResult, PieceOutcome, days_text

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from contracts.layout import BarSize
    from flows.bars_pieces import Group
    from flows.bars_plan import BarsPlan, GroupPlan
    from flows.bars_progress import Watcher


class Tally:
    """Every day of a plan, each counted once; for one thread at a time.

    Args:
        plan: what the run begins with.
        progress: told of every day that is over.
    """

    def __init__(self, plan: BarsPlan, progress: Watcher | None) -> None:
        self._plan = plan
        self._progress = progress
        self._groups: dict[tuple[str, BarSize], GroupPlan] = {
            (group.symbol, group.bar_size): group for group in plan.groups
        }
        self._left: dict[tuple[str, BarSize], Sequence[dt.date]] = {
            key: [window.day for window in group.windows] for key, group in self._groups.items()
        }
        self._counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
        self._rows = 0
        self._errors: dict[tuple[str, BarSize, str], list[dt.date]] = {}
        self._finished = 0

    @property
    def files(self) -> int:
        """Files that were written."""
        return self._counts["WRITE"]

    def count(self, outcome: PieceOutcome | None) -> None:
        """One more day is over; with None somebody else had brought it."""
        self._finished += 1
        if outcome is not None:
            self._add(outcome)
        if self._progress is not None:
            self._progress.done(outcome, self._finished, self._plan.pieces)

    def opened(self, group: Group) -> None:
        """A group was claimed, and looked at again."""
        key = group.symbol, group.bar_size
        self._groups[key] = group.plan
        for _ in range(len(self._left[key]) - len(group.left)):
            self.count(None)
        self._left[key] = group.left

    def closed(self, group: Group) -> None:
        """Nobody works on a group any more."""
        self._left[group.symbol, group.bar_size] = group.left

    def result(self, *, why: str | None, **facts: Any) -> BarsResult:
        """The result of the run, which has ended.

        Args:
            why: what ended it, if something did.
            **facts: the fields that are not counted here.
        """
        for (symbol, size), group in self._groups.items():
            self._counts["SKIP"] += group.present
            self._counts["EMPTY"] += group.known_empty
            for day, kind in group.other_kind.items():
                self._add(PieceOutcome(symbol, size, day, "ERROR", error=_other_kind_text(kind)))
        remaining = sum(len(days) for days in self._left.values())
        return BarsResult(
            counts=self._counts,
            rows=self._rows,
            files=self.files,
            errors=tuple(
                f"{symbol} {size} {days_text(days)}: {error}" for (symbol, size, error), days in self._errors.items()
            ),
            remaining=remaining,
            remaining_groups=tuple(
                {
                    "symbol": symbol,
                    "bar_size": size,
                    "days": len(days),
                    "first": min(days).isoformat(),
                    "last": max(days).isoformat(),
                }
                for (symbol, size), days in self._left.items()
                if days
            ),
            stopped=(why or "for a reason unknown") if remaining else None,
            out_of_reach=self._plan.total("out_of_reach"),
            **facts,
        )

    def _add(self, outcome: PieceOutcome) -> None:
        self._counts[outcome.status] += 1
        if outcome.status == "WRITE":
            self._rows += outcome.rows
        if outcome.error is not None:
            self._errors.setdefault((outcome.symbol, outcome.bar_size, outcome.error), []).append(outcome.day)


def _other_kind_text(kind: str) -> str:
    return (
        f"the file there is of {kind}: a data root holds one kind per symbol, bar size and day; use another root, or "
        "replace it (--force-bars)"
    )

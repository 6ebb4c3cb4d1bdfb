"""The page of a backfill's flow run: how far it is, then what became of every day and what it cost.

`recorded` is called for every manifest line, as soon as it is on disk; it costs microseconds and never waits.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from flows import events
from flows.pages import Page, plain
from flows.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from contracts.layout import DataRoot
    from flows.backfill_day import DayOutcome

FLOW: Final = "backfill-l2"
ROWS_PER_TABLE: Final = 1_000
_STATUSES: Final = ("WRITE", "SKIP", "EMPTY", "ERROR")
_ORDER: Final = {"ERROR": 0, "EMPTY": 1, "WRITE": 2, "SKIP": 3}
_MOST_NAMED: Final = 20
_ERROR_CHARS: Final = 300
_MB: Final = 1e6


class BackfillPage:
    """The page of one backfill, in the flow run in whose context it is made.

    Args:
        label: what the run is about, as in its name.
        total: days to process.
        root: the data root; that of the settings when None.
        run_id: as in the manifest lines, for the events.
        max_cost_usd: spend ceiling of the run; that of the settings when None.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        root: DataRoot | None = None,
        run_id: str = "",
        max_cost_usd: float | None = None,
    ) -> None:
        if root is None or max_cost_usd is None:
            settings = load_settings()
            root = root or settings.data_root
            max_cost_usd = settings.databento_max_cost_usd if max_cost_usd is None else max_cost_usd
        self._root = root
        self._total = total
        self._run_id = run_id
        self._max_cost_usd = max_cost_usd
        self._page = Page(FLOW, label)
        self._began = time.monotonic()
        self._counts: Counter[str] = Counter()
        self._cost_usd = 0.0

    def recorded(self, outcome: DayOutcome) -> None:
        """One more manifest line is on disk."""
        self._counts[outcome.status] += 1
        self._cost_usd += outcome.cost_usd or 0.0
        events.level2_day(outcome, run_id=self._run_id, root=self._root)
        done = self._counts.total()
        self._page.progress(100 * done / max(self._total, done), self._line(done))

    def finish(self, summary: Mapping[str, Any], outcomes: Sequence[DayOutcome]) -> None:
        """Show what became of it, and see that page and events leave; a second at most when the API is gone.

        Args:
            summary: the summary document of the run.
            outcomes: of the days that were processed, in input order.
        """
        self._page.progress(100 * len(outcomes) / (self._total or 1) if self._total else 100, self._end_line(summary))
        self._page.markdown("summary", self._summary(summary), "What became of the run")
        for number, rows in enumerate(_pages(day_rows(outcomes, self._root)), start=1):
            kind = "days" if number == 1 else f"days-{number}"
            first = (number - 1) * ROWS_PER_TABLE + 1
            self._page.table(
                kind, rows, f"Days {first} to {first + len(rows) - 1} of {len(outcomes)}; what went wrong comes first"
            )
        if outcomes:
            self._page.table("spend", spend_rows(outcomes), "Spend by symbol, as the vendor charges it")
        self._page.finish()
        events.drain()

    def _line(self, done: int) -> str:
        text = f"{done} of {self._total} days: {_counts_text(self._counts)}; {self._cost_usd:.4f} USD"
        spent_s = time.monotonic() - self._began
        left_s = spent_s / done * (self._total - done)
        return text if left_s < 1 else f"{text}; about {_span(left_s)} left"

    def _end_line(self, summary: Mapping[str, Any]) -> str:
        text = f"{summary['total_tasks']} of {self._total} days: {_counts_text(summary['counts'])}"
        return f"{text}; stopped early" if summary.get("stopped") else text

    def _summary(self, summary: Mapping[str, Any]) -> str:
        lines = ["| | |", "|---|---|"]
        facts: dict[str, str] = {
            "days": f"{summary['total_tasks']} of {self._total}",
            **{status: str(summary["counts"][status]) for status in _STATUSES},
            "duration": _span(summary["duration_sec"]),
            "days at a time": str(summary["concurrency"]),
            "window": f"{summary.get('window_et', '-')} ET",
            "spent": _spend(summary.get("cost_usd"), self._max_cost_usd),
            "written": f"{(summary.get('bytes_written') or 0) / _MB:.1f} MB",
            "run": str(summary.get("run_id", "-")),
        }
        lines += [f"| {name} | {plain(fact)} |" for name, fact in facts.items()]
        if summary.get("stopped"):
            remaining = [" ".join(pair) for pair in summary.get("remaining") or ()]
            lines += ["", f"**Stopped early**: {plain(summary['stopped'])}", ""]
            lines += [f"{len(remaining)} days remain: {_named(remaining)}"] if remaining else []
        if summary["errors"]:
            lines += ["", "**Errors**", ""]
            lines += [f"- {plain(_clipped(text))}" for text in summary["errors"][:_MOST_NAMED]]
            if (more := len(summary["errors"]) - _MOST_NAMED) > 0:
                lines.append(f"- and {more} more, see the table of days")
        if summary["zero_row_tasks"]:
            lines += ["", f"**Without rows**: {_named([' '.join(pair) for pair in summary['zero_row_tasks']])}"]
        lines += ["", "**Files**", ""]
        lines += [
            f"- [{plain(path.name)}](<{path.absolute().as_uri()}>): {what}"
            for path, what in (
                (self._root.backfill_summary, "this summary, of the latest run"),
                (self._root.backfill_manifest, "one line per day and run"),
            )
        ]
        return "\n".join(lines)


def day_rows(outcomes: Iterable[DayOutcome], root: DataRoot) -> list[dict[str, object]]:
    """A row per day: errors first, then days without rows, then what was written; each in input order."""
    return [
        {
            "symbol": outcome.task.symbol,
            "day": outcome.task.day.isoformat(),
            "status": outcome.status,
            "rows": outcome.rows,
            "USD": "" if outcome.cost_usd is None else f"{outcome.cost_usd:.4f}",
            "quality": "" if outcome.quality is None else events.quality_word(outcome.quality),
            "seconds": f"{outcome.duration_ms / 1_000:.2f}",
            "reason": outcome.reason or "",
            "error": _clipped(outcome.error or ""),
            "file": _file(outcome, root),
        }
        for outcome in sorted(outcomes, key=lambda each: _ORDER[each.status])
    ]


def spend_rows(outcomes: Iterable[DayOutcome]) -> list[dict[str, object]]:
    """A row per symbol, the dearest first, and one for all."""
    by_symbol: dict[str, list[DayOutcome]] = {}
    for outcome in outcomes:
        by_symbol.setdefault(outcome.task.symbol, []).append(outcome)
    ranked = sorted(by_symbol.items(), key=lambda item: (-sum(each.cost_usd or 0 for each in item[1]), item[0]))
    everything = [each for _, group in ranked for each in group]
    return [_spend_row(name, group) for name, group in [*ranked, ("all", everything)]]


def _spend_row(name: str, outcomes: Sequence[DayOutcome]) -> dict[str, object]:
    return {
        "symbol": name,
        "days": len(outcomes),
        "USD": f"{sum(each.cost_usd or 0.0 for each in outcomes):.4f}",
        "without a price": sum(each.status == "WRITE" and each.cost_usd is None for each in outcomes),
        "vendor events": sum(each.quality.events for each in outcomes if each.quality is not None),
        "rows": sum(each.rows for each in outcomes),
        "MB written": f"{sum(each.bytes_written for each in outcomes) / _MB:.1f}",
        "degraded": sum(events.quality_word(each.quality) not in (events.OK, events.UNKNOWN) for each in outcomes),
    }


def _pages(rows: Sequence[dict[str, object]]) -> Iterable[Sequence[dict[str, object]]]:
    for begin in range(0, len(rows), ROWS_PER_TABLE):
        yield rows[begin : begin + ROWS_PER_TABLE]


def _file(outcome: DayOutcome, root: DataRoot) -> str:
    if outcome.path is None:
        return ""
    return str(outcome.path.relative_to(root.path)) if outcome.path.is_relative_to(root.path) else str(outcome.path)


def _counts_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{status} {counts[status]}" for status in _STATUSES)


def _spend(cost_usd: float | None, ceiling_usd: float | None) -> str:
    spent = "unknown, the vendor gave no price" if cost_usd is None else f"{cost_usd:.4f} USD"
    return spent if ceiling_usd is None else f"{spent} of at most {ceiling_usd:.2f} USD"


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(plain(name) for name in names[:_MOST_NAMED])
    return shown if len(names) <= _MOST_NAMED else f"{shown} and {len(names) - _MOST_NAMED} more"


def _clipped(text: str) -> str:
    return text if len(text) <= _ERROR_CHARS else f"{text[: _ERROR_CHARS - 3].rstrip()}..."


def _span(seconds: float) -> str:
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"

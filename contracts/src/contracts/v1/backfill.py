"""The two artifacts of a Level-2 backfill: the manifest line of each task and the summary of each run."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from contracts.v1._model import (
    Amount,
    Contract,
    Count,
    FilledText,
    Flag,
    FreeText,
    IsoDate,
    Positive,
    Symbol,
    UtcDatetime,
    WindowText,
    parse_json,
)
from contracts.v1.quality import Quality  # noqa: TC001 - pydantic needs it to build the model

MANIFEST_VERSION: Final = "backfill_l2_manifest.v1"
SUMMARY_VERSION: Final = "backfill_l2_summary.v1"

BackfillStatus = Literal["WRITE", "SKIP", "EMPTY", "ERROR"]
"""WRITE/SKIP: a readable file exists. EMPTY: the vendor has zero rows, no file. ERROR: no file was changed."""

OLD_STATUS_WORDS: Final[dict[str, BackfillStatus]] = {"WRITTEN": "WRITE", "SKIPPED": "SKIP"}
"""Words of old lines and what they are read as; they are never written."""


class BackfillManifestLine(Contract):
    """One task of one run: a symbol, a day, and what became of it. Lines stand in the order of the run's input."""

    model_config = ConfigDict(title="Level-2 backfill manifest, one line")

    symbol: Symbol = Field(title="Symbol", description="Canonical symbol.", examples=["AAPL"])
    date: IsoDate = Field(title="Date", description="The ET trading day.", examples=["2025-09-04"])
    status: BackfillStatus = Field(
        title="Status",
        description="WRITE or SKIP: a readable file exists. EMPTY: the vendor has zero rows, there is no file. "
        "ERROR: no file was changed, see `error` and `reason`.",
        examples=["WRITE"],
    )
    schema_version: Literal["backfill_l2_manifest.v1"] = Field(
        default=MANIFEST_VERSION,
        title="Schema version",
        description="Names the major version; missing means v1.",
        examples=[MANIFEST_VERSION],
    )
    run_id: FilledText | None = Field(
        default=None, title="Run", description="The same for all lines of one run.", examples=["6f9c2f2e"]
    )
    written_at: UtcDatetime | None = Field(
        default=None,
        title="Written at",
        description="When the line was written, UTC.",
        examples=["2025-09-05T01:02:03+00:00"],
    )
    source: FilledText | None = Field(
        default=None, title="Source", description="The vendor asked.", examples=["databento"]
    )
    path: FilledText | None = Field(
        default=None,
        title="Path",
        description="Absolute path of the file; absent when there is none.",
        examples=["/data/level2/AAPL/2025-09-04_snapshots_databento.parquet"],
    )
    rows: Count | None = Field(default=None, title="Rows", description="Rows of the file.", examples=[90000])
    interval_ms: Count | None = Field(
        default=None,
        title="Interval",
        description="Milliseconds between rows; 0 is one row per book event.",
        examples=[100],
    )
    window_et: WindowText | None = Field(
        default=None,
        title="Window",
        description="ET window asked for, start inclusive, end exclusive.",
        examples=["08:30-11:00"],
    )
    cost_usd: Amount | None = Field(
        default=None,
        title="Cost",
        description="US dollars the vendor charges for the downloads of this task, retries included.",
        examples=[0.42],
    )
    quality: Quality | None = Field(
        default=None,
        title="Quality",
        description="What was seen in the data.",
        examples=[{"rows": 90000, "events": 1234567, "crossed": 0, "locked": 3, "one_sided": 12, "maybe_bad_book": 0}],
    )
    error: FreeText | None = Field(
        default=None,
        title="Error",
        description="What went wrong, for people, without secrets.",
        examples=["the stream was cut after 1200 of 5000 records"],
    )
    reason: FreeText | None = Field(
        default=None,
        title="Reason",
        description="Why the status is EMPTY or ERROR, in a few stable words for programs.",
        examples=["market closed"],
    )

    def to_json_line(self) -> str:
        r"""Return the line as it is appended: one line of ASCII JSON that ends with `\n`."""
        return self.to_json() + "\n"


class BackfillCounts(Contract):
    """How many tasks ended with each status; exactly these four keys."""

    model_config = ConfigDict(title="Counts", extra="forbid")

    WRITE: Count = Field(title="WRITE", description="Files written.", examples=[2])
    SKIP: Count = Field(title="SKIP", description="Files that existed.", examples=[0])
    EMPTY: Count = Field(title="EMPTY", description="Days without rows.", examples=[1])
    ERROR: Count = Field(title="ERROR", description="Failed tasks.", examples=[0])

    @property
    def total(self) -> int:
        """All tasks."""
        return self.WRITE + self.SKIP + self.EMPTY + self.ERROR


class BackfillSummary(Contract):
    """The outcome of one run; replaced by the next one. `total_tasks` is the sum of `counts`."""

    model_config = ConfigDict(title="Level-2 backfill summary")

    counts: BackfillCounts = Field(
        title="Counts",
        description="Processed tasks by status.",
        examples=[{"WRITE": 2, "SKIP": 0, "EMPTY": 1, "ERROR": 0}],
    )
    zero_row_tasks: tuple[tuple[Symbol, IsoDate], ...] = Field(
        title="Tasks without rows",
        description="[symbol, date] of every task that ended EMPTY.",
        examples=[[["AAPL", "2025-09-04"]]],
    )
    errors: tuple[FreeText, ...] = Field(
        title="Errors",
        description="One text per failed task, naming symbol and date, without secrets.",
        examples=[["MSFT 2025-09-04: the stream was cut"]],
    )
    total_tasks: Count = Field(title="Tasks", description="Tasks processed, the sum of `counts`.", examples=[3])
    duration_sec: Amount = Field(title="Duration", description="Wall clock of the run, seconds.", examples=[0.532])
    strict: Flag = Field(
        title="Strict",
        description="An ERROR makes the run fail, exit code 1; all tasks are processed all the same.",
        examples=[False],
    )
    force: Flag = Field(title="Force", description="Existing files were written again.", examples=[False])
    max_tasks: Count | None = Field(
        title="Most tasks", description="Limit of the number of tasks, null for none.", examples=[None, 10]
    )
    concurrency: Positive = Field(title="Concurrency", description="Tasks at a time.", examples=[4])
    schema_version: Literal["backfill_l2_summary.v1"] = Field(
        default=SUMMARY_VERSION,
        title="Schema version",
        description="Names the major version; missing means v1.",
        examples=[SUMMARY_VERSION],
    )
    run_id: FilledText | None = Field(
        default=None, title="Run", description="As in the run's manifest lines.", examples=["6f9c2f2e"]
    )
    started_at: UtcDatetime | None = Field(
        default=None,
        title="Started at",
        description="When the run began, UTC.",
        examples=["2025-09-05T01:00:00+00:00"],
    )
    window_et: WindowText | None = Field(
        default=None, title="Window", description="The effective ET window.", examples=["08:30-11:00"]
    )
    cost_usd: Amount | None = Field(
        default=None, title="Cost", description="US dollars of all downloads of the run.", examples=[1.26]
    )
    bytes_written: Count | None = Field(
        default=None, title="Bytes written", description="Size of the files published.", examples=[3400000]
    )
    remaining: tuple[tuple[Symbol, IsoDate], ...] | None = Field(
        default=None,
        title="Remaining tasks",
        description="[symbol, date] of every task that was not processed because the run stopped.",
        examples=[[["NVDA", "2025-09-04"]]],
    )
    stopped: FreeText | None = Field(
        default=None,
        title="Stopped",
        description="Why the run stopped before its end; absent when it did not.",
        examples=["less than 2 GB free"],
    )

    @model_validator(mode="after")
    def _total_is_sum(self) -> Self:
        if self.total_tasks != self.counts.total:
            raise ValueError(f"total_tasks is {self.total_tasks}, the counts add up to {self.counts.total}")
        return self


def parse_manifest_line(text: str | bytes) -> BackfillManifestLine:
    """Read one manifest line, with or without its line end; `WRITTEN` and `SKIPPED` are read as WRITE and SKIP.

    Raises:
        UnknownSchemaVersion: The line is of another version; one that names none is v1.
        InvalidDocument: The line is torn, not standard JSON, or breaks the model.
    """
    document: Any = parse_json(text, MANIFEST_VERSION)
    return BackfillManifestLine.from_document(with_new_words(document))


def parse_summary(text: str | bytes) -> BackfillSummary:
    """Read a summary document.

    Raises:
        UnknownSchemaVersion: It is of another version; one that names none is v1.
        InvalidDocument: It is not standard JSON, or breaks the model.
    """
    return BackfillSummary.from_json(text)


def with_new_words(document: Any) -> Any:
    """Return a manifest document with an old status word replaced; anything else as it is."""
    if isinstance(document, dict) and isinstance(status := document.get("status"), str):
        return {**document, "status": OLD_STATUS_WORDS.get(status, status)}
    return document

"""Statistics of one live capture session, `level2_session_stats.v1`; written for sessions without messages too."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from contracts.v1._model import Amount, Contract, Count, FilledText, Flag, Positive, Symbol, UtcDatetime

SCHEMA_VERSION: Final = "level2_session_stats.v1"


class SessionStats(Contract):
    """What one capture session of one symbol left on disk; the counts equal the rows and records of its files."""

    model_config = ConfigDict(title="Level-2 session stats")

    symbol: Symbol = Field(title="Symbol", description="Canonical symbol.", examples=["AAPL"])
    levels: Positive = Field(title="Levels", description="N, levels per side of the snapshots.", examples=[10])
    interval_ms: Count = Field(
        title="Interval",
        description="Milliseconds between snapshots; 0 is one per message that changed the book.",
        examples=[100],
    )
    num_snapshots: Count = Field(
        title="Snapshots", description="Rows of all snapshots files of the session.", examples=[36000]
    )
    num_messages: Count = Field(
        title="Messages", description="Records of all messages files of the session.", examples=[1234567]
    )
    paper_mode: Flag = Field(
        title="Paper mode", description="The gateway was that of a paper trading account.", examples=[True]
    )
    recording_date: UtcDatetime = Field(
        title="Recording date", description="When the session began, UTC.", examples=["2025-09-04T13:30:00+00:00"]
    )
    schema_version: Literal["level2_session_stats.v1"] = Field(
        default=SCHEMA_VERSION,
        title="Schema version",
        description="Names the major version; missing means v1.",
        examples=[SCHEMA_VERSION],
    )
    session_id: FilledText | None = Field(
        default=None, title="Session", description="As in the session's gap records.", examples=["6f9c2f2e"]
    )
    files: tuple[FilledText, ...] | None = Field(
        default=None,
        title="Files",
        description="Names of the snapshots and messages files of the session, in the stats file's own folder.",
        examples=[["2025-09-04_messages_093000.json", "2025-09-04_snapshots_093000.parquet"]],
    )
    started_at: UtcDatetime | None = Field(
        default=None, title="Started at", description="When capture began, UTC.", examples=["2025-09-04T13:30:00+00:00"]
    )
    ended_at: UtcDatetime | None = Field(
        default=None,
        title="Ended at",
        description="When capture ended, UTC; absent while it goes on.",
        examples=["2025-09-04T15:00:00+00:00"],
    )
    end_reason: FilledText | None = Field(
        default=None, title="End reason", description="Why it ended, in a few words.", examples=["duration"]
    )
    gaps: Count | None = Field(
        default=None, title="Gaps", description="Gap records of the session in `l2_gaps.jsonl`.", examples=[0]
    )
    anomalies: dict[str, Count] | None = Field(
        default=None,
        title="Anomalies",
        description="What was ignored because it could not be applied to the book, by kind.",
        examples=[{"remove_missing": 2}],
    )
    max_lag_ms: Amount | None = Field(
        default=None,
        title="Longest lag",
        description="Longest time from receiving a message to its being taken into the journal, milliseconds.",
        examples=[12.5],
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.started_at is not None and self.ended_at is not None and self.started_at > self.ended_at:
            raise ValueError(f"started_at {self.started_at} is after ended_at {self.ended_at}")
        return self

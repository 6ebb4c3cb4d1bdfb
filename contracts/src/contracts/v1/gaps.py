"""Known holes in live capture, `l2_gap.v1`: one line of `l2_gaps.jsonl` each. A hole without a line is a bug."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from contracts.timestamps import ns_from_text
from contracts.v1._model import Contract, FilledText, FreeText, Symbol, UtcText

SCHEMA_VERSION: Final = "l2_gap.v1"

GapCause = Literal["connect", "disconnect", "data_lost", "reset_317", "halt_316", "queue_drop", "crash", "clock"]
"""Not yet connected; connection lost; the broker lost data (1101); book reset by the broker; trading halted; our own
queue overflowed; the recorder died; the clock jumped."""


class Gap(Contract):
    """A time in which a symbol's book was not, or not wholly, seen; start inclusive, end exclusive."""

    model_config = ConfigDict(title="Level-2 gap, one line")

    symbol: Symbol = Field(title="Symbol", description="Canonical symbol.", examples=["AAPL"])
    session_id: FilledText = Field(
        title="Session", description="The capture session, as in its stats file.", examples=["6f9c2f2e"]
    )
    gap_start: UtcText = Field(
        title="Start", description="Last moment that was seen, UTC.", examples=["2025-09-04T13:31:02.250000000+00:00"]
    )
    gap_end: UtcText = Field(
        title="End",
        description="First moment that was seen again, or the end of the session, UTC; not before the start.",
        examples=["2025-09-04T13:31:09.000000000+00:00"],
    )
    cause: GapCause = Field(
        title="Cause",
        description="connect: not yet connected. disconnect: connection lost. data_lost: the broker lost data (1101). "
        "reset_317: the broker reset the book. halt_316: trading halted. queue_drop: our queue overflowed. "
        "crash: the recorder died. clock: the clock jumped.",
        examples=["disconnect"],
    )
    detail: FreeText | None = Field(
        default=None, title="Detail", description="More for people.", examples=["error 1100, back after 6.75 s"]
    )
    schema_version: Literal["l2_gap.v1"] = Field(
        default=SCHEMA_VERSION,
        title="Schema version",
        description="Names the major version; missing means v1.",
        examples=[SCHEMA_VERSION],
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if ns_from_text(self.gap_start) > ns_from_text(self.gap_end):
            raise ValueError(f"gap_start {self.gap_start} is after gap_end {self.gap_end}")
        return self

    def to_json_line(self) -> str:
        r"""Return the line as it is appended: one line of ASCII JSON that ends with `\n`."""
        return self.to_json() + "\n"


def parse_gap_line(text: str | bytes) -> Gap:
    """Read one line, with or without its line end.

    Raises:
        UnknownSchemaVersion: The line is of another version; one that names none is v1.
        InvalidDocument: The line is torn, not standard JSON, or breaks the model.
    """
    return Gap.from_json(text)

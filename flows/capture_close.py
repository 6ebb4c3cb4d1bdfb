"""Publishes the segments of a capture session: messages file and snapshots from the journal, by replay.

Run as a child of the recorder, so that this work shares neither interpreter nor priority with the capture:
`python -m flows.capture_close NICENESS ROOT LEVEL2_DIRNAME SESSION_ID SYMBOL:NUMBER...` prints a JSON line per segment.
How files appear under their names is in `connectors.store.live`.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from connectors.store.live import CaptureFolder, SegmentRows, publish_segment
from contracts.book import Replayer
from contracts.layout import DataRoot
from contracts.timestamps import ns_from_text
from contracts.v1.level2 import snapshot_schema
from flows.capture_facts import read_facts
from flows.capture_spec import SessionSpec
from flows.capture_time import first_grid_point

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from connectors.store.journal import Journal
    from connectors.store.live import PublishedSegment
    from flows.capture_facts import JournalFacts

_READ_BYTES: Final = 1 << 20
_STEP_ROWS: Final = 16_384


def publish(folder: CaptureFolder, spec: SessionSpec, symbol: str, number: int) -> PublishedSegment:
    """Publish one closed segment, in bounded memory; again is fine.

    Args:
        folder: The session.
        spec: What the session is.
        symbol: Which of its symbols.
        number: Which of its segments.

    Returns:
        The segment; its `extra` is a `SegmentEnd`.

    Raises:
        StoreError: The disk refuses, or there is no such journal; a journal stays.
        ContractError: The messages cannot be replayed; the journal stays.
    """
    return publish_segment(folder, symbol, number, partial(_segment_rows, spec))


def _segment_rows(spec: SessionSpec, journal: Journal, messages: Path) -> SegmentRows:
    facts = read_facts(journal)
    metadata = spec.metadata(facts.symbol, facts.day)
    window_start_ns, _ = metadata.bounds_ns()
    start_ns = first_grid_point(facts.start_ns, window_start_ns, spec.interval_ms)
    replayer = Replayer(spec.levels, spec.interval_ms, start_ns)

    def anomalies() -> Counter[str]:
        return Counter(facts.notes) + replayer.book.anomalies

    return SegmentRows(
        schema=snapshot_schema(metadata),
        batches=_batches(replayer, facts, messages, spec.interval_ms),
        anomalies=anomalies,
        extra=facts.end.to_document,
    )


def _batches(replayer: Replayer, facts: JournalFacts, messages: Path, interval_ms: int) -> Iterator[pa.RecordBatch]:
    """Replay a segment; neither its messages nor its rows are ever held all at once."""
    replayer.feed(facts.book)
    done_ns = facts.start_ns
    for chunk in _chunks(messages):
        replayer.feed(chunk)
        last_ns = ns_from_text(chunk[-1]["timestamp"])
        yield from _rows(replayer, done_ns, last_ns, interval_ms)
        done_ns = last_ns
    yield from _rows(replayer, done_ns, facts.end.end_ns, interval_ms)


def _rows(replayer: Replayer, from_ns: int, to_ns: int, interval_ms: int) -> Iterator[pa.RecordBatch]:
    step_ns = _STEP_ROWS * interval_ms * 1_000_000
    # A quiet day in one step would be a million rows.
    for at_ns in range(from_ns + step_ns, to_ns, step_ns) if step_ns else ():
        yield from replayer.rows_until(at_ns).to_batches()
    yield from replayer.rows_until(to_ns).to_batches()


def _chunks(messages: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the records of a messages file as the store writes it: one on a line, brackets on lines of their own."""
    with messages.open("rb") as file:
        file.readline()
        while lines := file.readlines(_READ_BYTES):
            if lines[-1] == b"]\n":
                del lines[-1]
            if lines:
                yield json.loads(b"[%b]" % b"".join(lines).removesuffix(b"\n").removesuffix(b","))


def main(arguments: Sequence[str]) -> int:
    """Publish the segments named; one JSON line each on stdout, as it is done.

    A line is the published segment as a document, or `symbol`, `number` and `error`.

    Returns:
        0, or 1 when one could not be published.
    """
    niceness, root, level2_dirname, session_id, *named = arguments
    os.nice(int(niceness))
    folder = CaptureFolder(DataRoot(Path(root), level2_dirname), session_id)
    spec = SessionSpec.from_document(folder.spec())
    failures = 0
    for item in named:
        symbol, _, number = item.partition(":")
        try:
            document = publish(folder, spec, symbol, int(number)).to_document()
        except Exception as error:  # noqa: BLE001 - the other segments must still be published
            failures += 1
            document = {"symbol": symbol, "number": int(number), "error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

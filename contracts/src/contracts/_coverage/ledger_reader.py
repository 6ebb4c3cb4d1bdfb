"""Reading the bars ledger: whole lines from a byte on, in blocks, each by the fast way or else by the strict one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import numpy as np

from contracts._coverage.ledger_block import PADDING, Block
from contracts._coverage.ledger_line import LONGEST_LINE, Refusal, read_line
from contracts._coverage.ledger_template import Template
from contracts._coverage.report import TORN, CoverageReport, SkippedLine
from contracts.errors import shown

if TYPE_CHECKING:
    from contracts._coverage.ledger_columns import Bools, LinesBuilder

BOM: Final = b"\xef\xbb\xbf"

_BLOCK_BYTES: Final = 1 << 22
_LINE_END: Final = 10
_RETURN: Final = 13
_MOST_MISSES: Final = 6
_MOST_TEMPLATES: Final = 12
_WORTH_KEEPING: Final = 8


class LedgerReader:
    """Takes whole lines in the order of the ledger.

    Args:
        builder: Takes the lines that count.
        report: Takes the counts, and examples of what does not count.
        offset: Byte of the ledger at which the first line begins.
        block_bytes: Bytes that are read at a time.
    """

    def __init__(
        self, builder: LinesBuilder, report: CoverageReport, offset: int = 0, *, block_bytes: int = _BLOCK_BYTES
    ) -> None:
        self.offset = offset
        self._block_bytes = block_bytes
        self._builder = builder
        self._report = report
        self._templates: list[Template] = []

    def read_file(self, fd: int, end: int) -> None:
        """Read whole lines of a file from `offset` to `end`; what is torn there is reported and left.

        `offset` is then behind the last line read, also when the file turns out shorter than `end`.

        Raises:
            OSError: The file cannot be read.
        """
        waiting = b""
        position = self.offset
        while position < end and (data := os.pread(fd, min(self._block_bytes, end - position), position)):
            position += len(data)
            whole = data.rfind(b"\n") + 1
            if not whole:
                # Of a line that is too long only the begin is kept.
                waiting = (waiting + data)[: LONGEST_LINE + 1]
                continue
            if position - len(data) - self.offset > len(waiting):
                first = data.index(b"\n") + 1
                self._skip_long_line(waiting, position - len(data) + first)
                waiting, data, whole = b"", data[first:], whole - first
            self.read_lines(waiting + data[:whole])
            waiting = data[whole:]
        if self.offset < position:
            example = self._example(waiting, Refusal(TORN, "the last line has no line end yet"), self.offset)
            self._report.skip(example)

    def _skip_long_line(self, begin: bytes, next_offset: int) -> None:
        self._report.lines += 1
        self._report.skip(self._example(begin, Refusal("too-long", "longer than 1 MiB"), self.offset))
        self.offset = next_offset

    def read_lines(self, data: bytes) -> None:
        """Read bytes that end with a line end, or are empty."""
        if not data:
            return
        skip = 0
        if self.offset == 0 and data.startswith(BOM):
            self._report.bom = True
            skip = len(BOM)
        characters = np.frombuffer(data, np.uint8)
        line_ends = np.flatnonzero(characters == _LINE_END)
        starts = np.concatenate(([skip], line_ends[:-1] + 1))
        crlf = (characters[line_ends - 1] == _RETURN) & (line_ends > starts)
        ends = line_ends - crlf
        block = Block(data + PADDING, self.offset, starts, ends)
        short = ends - starts <= LONGEST_LINE
        self._report.crlf += int(np.count_nonzero(crlf & short))
        self._read_block(block, short)
        self._report.lines += len(starts)
        self.offset += len(data)

    def _read_block(self, block: Block, pending: Bools) -> None:
        """Read the lines; `pending`, shape (lines,), are those that templates may be tried on."""
        singly = ~pending
        for template in self._templates:
            if not pending.any():
                break
            self._read_with(template, block, pending)
        misses = 0
        while misses < _MOST_MISSES and pending.any():
            first = int(np.argmax(pending))
            line = block.data[block.starts[first] : block.ends[first]]
            new = None if isinstance(read_line(line), Refusal) else Template.of(line)
            if new is not None and self._read_with(new, block, pending) >= _WORTH_KEEPING:
                self._templates = [new, *self._templates][:_MOST_TEMPLATES]
            else:
                misses += 1
            if pending[first]:
                pending[first], singly[first] = False, True
        for number in np.flatnonzero(singly | pending).tolist():
            self._read_singly(block, number)

    def _read_with(self, template: Template, block: Block, pending: Bools) -> int:
        """Read what fits; returns how many lines did."""
        candidates = np.flatnonzero(pending)
        fits = template.read(block, candidates, self._builder)
        pending[candidates[fits]] = False
        taken = int(np.count_nonzero(fits))
        self._report.taken += taken
        return taken

    def _read_singly(self, block: Block, number: int) -> None:
        start = int(block.starts[number])
        line = block.data[start : int(block.ends[number])]
        offset = block.offset + start
        read = read_line(line)
        if isinstance(read, Refusal):
            self._report.skip(self._example(line, read, offset, number))
        else:
            self._builder.add_line(read, offset)
            self._report.taken += 1

    def _example(self, line: bytes, refusal: Refusal, offset: int, number: int = 0) -> SkippedLine:
        return SkippedLine(
            line=self._report.lines + number + 1,
            offset=offset,
            reason=refusal.reason,
            detail=refusal.detail[:200],
            text=shown(line[:80].decode(errors="backslashreplace")),
        )

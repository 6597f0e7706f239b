"""From chunks of any size to lines, in bounded memory: a line over the limit is reported and skipped, not kept."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A line without its end. `number` counts from 1, `offset` is in bytes from the start of the file.

    `data` is None for a line over the limit.
    """

    number: int
    offset: int
    data: bytes | None


class LineSplitter:
    """Splits at LF; a CR before it belongs to the line's end. A last line needs no LF, and after one none begins."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max_bytes = max_line_bytes
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._number = 1
        self._offset = 0

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that end in this chunk. Exhaust it before the next call."""
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._keep(chunk[start:end])
            yield self._end_line(1)
            start = end + 1
        self._keep(chunk[start:])

    def finish(self) -> Iterator[Line]:
        """The last line, when the file does not end in LF."""
        if self._pending_bytes:
            yield self._end_line(0)

    def _keep(self, piece: bytes) -> None:
        self._pending_bytes += len(piece)
        if self._pending_bytes > self._max_bytes:
            self._pending.clear()
        elif piece:
            self._pending.append(piece)

    def _end_line(self, end_bytes: int) -> Line:
        too_long = self._pending_bytes > self._max_bytes
        line = Line(self._number, self._offset, None if too_long else b"".join(self._pending).removesuffix(b"\r"))
        self._number += 1
        self._offset += self._pending_bytes + end_bytes
        self._pending.clear()
        self._pending_bytes = 0
        return line

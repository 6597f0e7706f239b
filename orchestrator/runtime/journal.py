"""What has an attempt reported so far? One append-only file of JSON lines, `seq` from 1 without holes.

A line counts once its newline is written. Whatever is cut or damaged at the end of the file is dropped when the journal
is opened again, and the numbers go on from the last whole line. Killing the process loses nothing that was appended;
only an outcome is also forced to the disk, because only the machine's death can take the rest.
"""

import fcntl
import os
import threading
import time
from array import array
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from orchestrator.domain.protocol import OUTCOME_KINDS, Entry, Report

MAX_ENTRIES = 500
"""Entries of one answer: about 100 KiB of ordinary log lines."""
MAX_BYTES = 1024 * 1024
"""Bytes of one answer, unless its first entry alone is longer."""


@dataclass(frozen=True, kw_only=True)
class JournalPage:
    """Entries in order of `seq`; `more` when the answer's limit cut them off."""

    entries: tuple[Entry, ...]
    more: bool


class Journal:
    """Thread-safe. Raises BlockingIOError, an OSError, when another holder has it open: two would mix their lines."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise
        self._starts = array("Q")
        self._end = 0
        self.outcome: str | None = None
        """Kind of the outcome that was reported, None before."""
        self._recover()

    @property
    def last_seq(self) -> int:
        return len(self._starts)

    def append(self, report: Report, *, at_unix: float | None = None) -> Entry:
        """Raises OSError when the disk refuses; then nothing was appended."""
        with self._lock:
            at = time.time() if at_unix is None else at_unix
            entry = Entry(seq=len(self._starts) + 1, at_unix=at, report=report)
            self._write(entry.model_dump_json().encode() + b"\n")
            if report.kind in OUTCOME_KINDS:
                self.outcome = report.kind
                # It is written; that the disk cannot promise it over a power cut is no reason to write it twice.
                with suppress(OSError):
                    os.fsync(self._file)
            return entry

    def read(self, cursor: int, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> JournalPage:
        """The entries after `cursor`; at least one when there is one, whatever its length."""
        with self._lock:
            count = len(self._starts)
            first = max(0, cursor)
            if first >= count or self._file < 0:
                return JournalPage(entries=(), more=False)
            stop = max(first + 1, min(self._fitting(first, max_bytes), first + max_entries))
            start = self._starts[first]
            data = os.pread(self._file, self._start_of(stop) - start, start)
        entries = tuple(Entry.model_validate_json(line) for line in data.split(b"\n")[:-1])
        return JournalPage(entries=entries, more=stop < count)

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _fitting(self, first: int, max_bytes: int) -> int:
        """Index after the last entry that ends within `max_bytes` of the start of entry `first`."""
        limit = self._starts[first] + max_bytes
        if self._end <= limit:
            return len(self._starts)
        return bisect_right(self._starts, limit) - 1

    def _start_of(self, index: int) -> int:
        return self._starts[index] if index < len(self._starts) else self._end

    def _write(self, line: bytes) -> None:
        """At a fixed offset, so that a write cut short by a full disk is overwritten by the next one."""
        if self._file < 0:
            raise OSError("the journal is closed")
        done = 0
        while done < len(line):
            done += os.pwrite(self._file, line[done:], self._end + done)
        self._starts.append(self._end)
        self._end += len(line)

    def _recover(self) -> None:
        with os.fdopen(os.dup(self._file), "rb") as stream:
            for line in stream:
                entry = _whole_entry(line)
                if entry is None or entry.seq != len(self._starts) + 1:
                    break
                self._starts.append(self._end)
                self._end += len(line)
                if entry.report.kind in OUTCOME_KINDS:
                    self.outcome = entry.report.kind
        os.ftruncate(self._file, self._end)


def _whole_entry(line: bytes) -> Entry | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return Entry.model_validate_json(line)
    except ValidationError:
        return None

"""How do reports and printed lines get into an attempt's journal? Everything that is written passes through here.

What is kept is safe to show: plain text, bounded, without the secrets of the attempt's spec, every number finite.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from orchestrator.domain.failures import FailureKind
from orchestrator.domain.protocol import (
    OUTCOME_KINDS,
    AttemptSpec,
    CheckpointStored,
    Failed,
    LogLine,
    Metric,
    Report,
    Succeeded,
    UploadGrant,
)
from orchestrator.runtime.child import read_chunks
from orchestrator.runtime.journal import Journal
from orchestrator.runtime.loglines import LINE_BYTES, FloodGate, LineSplitter, Redactor, cut_text, plain_text

REPORT_BYTES = 4 * 1024 * 1024
"""A longer report is dropped: the largest that workers make, a checkpoint's list of files, has a few KiB."""
DETAIL_BYTES = 64 * 1024
"""Of a traceback."""
RETRY_SECONDS = 30.0
"""How long a report waits for a disk that refuses to write. Printed lines do not wait: they are counted and dropped."""
_RETRY_INTERVAL_SECONDS = 0.5

Stream = Literal["stdout", "stderr"]


class ChildReport(BaseModel):
    """One line on the report pipe; the supervisor numbers it."""

    at_unix: float
    report: Report


class Recorder:
    """Thread-safe: each pipe of the child has its own reading thread."""

    def __init__(
        self,
        journal: Journal,
        spec: AttemptSpec,
        *,
        clock: Callable[[], float] = time.monotonic,
        retry_seconds: float = RETRY_SECONDS,
        holds_failures: bool = False,
    ) -> None:
        """`holds_failures`: several processes may tell of one failure, each in its own way; see `settle`."""
        self._journal = journal
        self._redactor = redactor_of(spec)
        self._gate = FloodGate(clock)
        self._lock = threading.Lock()
        self._lost_entries = 0
        self._retry_seconds = retry_seconds
        self._is_closed = False
        self._holds_failures = holds_failures
        self._held: list[tuple[Failed, float | None]] = []

    def add_secrets(self, grant: UploadGrant) -> None:
        self._redactor.add_form(grant.fields)

    def note(self, text: str, level: Literal["info", "warn", "error"] = "info") -> None:
        """A line of the supervisor's own in the attempt's log."""
        self._record(LogLine(stream="tunepool", level=level, text=text))

    def record(self, report: Report, at_unix: float | None = None) -> None:
        """Write down one report. A second outcome is refused: the first holds."""
        if self._holds_failures and isinstance(report, Failed):
            with self._lock:
                self._held.append((report, at_unix))
            return
        if report.kind in OUTCOME_KINDS and self._journal.outcome is not None:
            self.note(f"a second outcome, {report.kind}, was ignored", "warn")
            return
        self._record(_finite(self._clean(report)), at_unix)

    def pump_reports(self, handle: int) -> None:
        """Read the report pipe to its end."""
        line = bytearray()
        too_long = False
        for chunk in read_chunks(handle):
            *ended, rest = chunk.split(b"\n")
            for piece in ended:
                line += piece
                self._take_line(bytes(line), too_long=too_long)
                line.clear()
                too_long = False
            line += rest
            if len(line) > REPORT_BYTES:
                line.clear()
                too_long = True
        if line or too_long:
            self._take_line(bytes(line), too_long=too_long)

    def pump_output(self, handle: int, stream: Stream) -> None:
        """Read stdout or stderr to its end."""
        splitter = LineSplitter()
        for chunk in read_chunks(handle):
            for text in splitter.feed(chunk):
                self._take_output(text, stream)
        for text in splitter.finish():
            self._take_output(text, stream)

    def settle(self, *, was_killed: bool) -> None:
        """Write down which of the failures that were held back is the cause: want of memory in any process, else none
        when one was killed, because the others then fail for missing it, else the first."""
        with self._lock:
            held, self._held = self._held, []
            self._holds_failures = False
        short = [found for found in held if found[0].failure is FailureKind.OUT_OF_MEMORY]
        for report, at_unix in (short or ([] if was_killed else held))[:1]:
            self.record(report, at_unix)

    def finish(self) -> None:
        """Tell of lines that were dropped, and refuse whatever comes later: the journal is complete."""
        self._tell_dropped(self._gate.finish())
        with self._lock:
            self._is_closed = True

    def _take_line(self, line: bytes, *, too_long: bool) -> None:
        if too_long:
            self.note(f"a report longer than {REPORT_BYTES} bytes was dropped", "warn")
            return
        if not line.strip():
            return
        try:
            child_report = ChildReport.model_validate_json(line)
        except ValidationError as error:
            # Only where and why: the rejected text may hold anything.
            where = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['type']}" for e in error.errors()[:3])
            self.note(f"a report that cannot be read was dropped ({where})", "warn")
            return
        self.record(child_report.report, child_report.at_unix)

    def _take_output(self, text: str, stream: Stream) -> None:
        # Before anything costly is done with it, so that a flood costs little.
        passes, dropped = self._gate.admit(min(len(text), LINE_BYTES))
        self._tell_dropped(dropped)
        if passes and (text := cut_text(self._redactor.clean(plain_text(text))).rstrip()):
            self._record(LogLine(stream=stream, text=text))

    def _tell_dropped(self, lines: int) -> None:
        if lines:
            self.note(f"{lines} lines were dropped here: the process printed too much at once", "warn")

    def _record(self, report: Report, at_unix: float | None = None) -> None:
        deadline = time.monotonic() + self._retry_seconds
        at_unix = time.time() if at_unix is None or not math.isfinite(at_unix) else at_unix
        while not self._write(report, at_unix):
            if isinstance(report, LogLine) or time.monotonic() > deadline:
                with self._lock:
                    self._lost_entries += 1
                return
            time.sleep(_RETRY_INTERVAL_SECONDS)

    def _write(self, report: Report, at_unix: float) -> bool:
        with self._lock:
            if self._is_closed:
                return True
            try:
                if self._lost_entries:
                    text = f"{self._lost_entries} entries were lost here: the disk of the node refused to write"
                    self._journal.append(LogLine(stream="tunepool", level="error", text=text))
                    self._lost_entries = 0
                self._journal.append(report, at_unix=at_unix)
            except OSError:
                return False
            return True

    def _clean(self, report: Report) -> Report:
        if isinstance(report, LogLine):
            return report.model_copy(update={"text": self._clean_text(report.text)})
        if isinstance(report, Failed):
            detail = self._clean_lines(report.detail)
            return report.model_copy(update={"message": self._clean_text(report.message), "detail": detail})
        return report

    def _clean_text(self, text: str) -> str:
        return cut_text(self._redactor.clean(plain_text(text.replace("\n", " "))))

    def _clean_lines(self, text: str) -> str:
        lines = (self._redactor.clean(plain_text(line)) for line in text.split("\n"))
        return cut_text("\n".join(lines), DETAIL_BYTES)


def redactor_of(spec: AttemptSpec) -> Redactor:
    """Knows every presigned field and URL of the spec, and the hub token."""
    redactor = Redactor()
    redactor.add_form(spec.upload.fields)
    redactor.add([spec.model.hub_token])
    files = [spec.training_file, spec.validation_file, *spec.model.files]
    files += spec.resume_from.files if spec.resume_from else ()
    for file in files:
        if file is not None:
            redactor.add_url(file.url)
    return redactor


def _finite(report: Report) -> Report:
    """JSON has no word for a number that is not finite, and no store keeps one; the worker says in words when its loss
    is none."""
    if isinstance(report, Metric):
        return report.model_copy(update={"values": _finite_only(report.values)})
    if isinstance(report, CheckpointStored | Succeeded):
        return report.model_copy(update={"metrics": _finite_only(report.metrics)})
    return report


def _finite_only(values: dict[str, float]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if math.isfinite(value)}

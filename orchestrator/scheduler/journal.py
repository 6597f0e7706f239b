"""What a batch of journal entries means: pure, and the same however the journal is cut into batches.

Invariant: entries at or before the cursor are ignored, so a batch that comes twice counts once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.domain import outcomes
from orchestrator.domain.failures import Failure, FailureKind
from orchestrator.domain.outcomes import AttemptEnd
from orchestrator.domain.protocol import (
    CheckpointStored,
    Entry,
    Failed,
    LogLine,
    Metric,
    Peak,
    Phase,
    Progress,
    Pulled,
    Stopped,
    Succeeded,
)

SIGNAL_NAMES = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}
MEMORY_SIGNALS = frozenset({6, 7, 9, 11})
"""What ends a process that was refused memory (SIGABRT, SIGBUS, SIGSEGV); what the kernel sends when it has none."""
CRASH_SIGNALS = MEMORY_SIGNALS - {9}
"""Nobody sends these from outside: a library was refused memory and did not ask whether it got it."""
NEAR_RESERVATION = 0.9
"""A process that such a signal ended with a peak above this fraction of its reservation probably wanted memory."""


@dataclass(frozen=True, kw_only=True)
class Digest:
    """Newest `progress`, `phase` and `peak` of the batch; all of the rest. `cursor` is the last entry's seq.

    `timeline` is everything but log lines, for the attempt's pace.
    """

    cursor: int
    logs: tuple[Entry, ...]
    metrics: tuple[Entry, ...]
    checkpoints: tuple[Entry, ...]
    progress: Progress | None
    phase: str | None
    peak: Peak | None
    outcome: Succeeded | Failed | Stopped | None
    last_entry_at_unix: float | None
    timeline: tuple[Entry, ...] = ()


def digest_entries(entries: Sequence[Entry], *, cursor: int) -> Digest:
    """Sort the entries after `cursor` by kind. A failure's traceback becomes a log line under the failure's seq."""
    fresh = [entry for entry in entries if entry.seq > cursor]
    logs: list[Entry] = []
    metrics: list[Entry] = []
    checkpoints: list[Entry] = []
    progress, phase, peak = None, None, None
    outcome: Succeeded | Failed | Stopped | None = None
    for entry in fresh:
        match entry.report:
            case LogLine():
                logs.append(entry)
            case Metric():
                metrics.append(entry)
            case CheckpointStored():
                checkpoints.append(entry)
            case Progress() as report:
                progress = report
            case Phase(phase=name):
                phase = name
            case Peak() as report:
                peak = report if peak is None else _highest(peak, report)
            case Succeeded() | Stopped() as report:
                outcome = report
            case Failed() as report:
                outcome = report
                logs.extend(_traceback(entry, report))
    return Digest(
        cursor=fresh[-1].seq if fresh else cursor,
        logs=tuple(logs),
        metrics=tuple(metrics),
        checkpoints=tuple(checkpoints),
        progress=progress,
        phase=phase,
        peak=peak,
        outcome=outcome,
        last_entry_at_unix=fresh[-1].at_unix if fresh else None,
        timeline=tuple(entry for entry in fresh if not isinstance(entry.report, LogLine)),
    )


def decide_end(outcome: Failed | Stopped) -> AttemptEnd:
    """How an attempt ended that says so itself. A success is not an end yet: its adapter is verified first."""
    if isinstance(outcome, Failed):
        return outcomes.failed(outcome.failure, outcome.message)
    match outcome.reason:
        case "cancelled":
            return outcomes.cancelled()
        case "budget_exceeded":
            return outcomes.interrupted(over_budget(outcome.step))
        case "timeout":
            return outcomes.interrupted(over_time(outcome.step))
        case "paused" | "lease_expired" | "shutdown":
            return outcomes.interrupted()


def decide_silent_end(
    exit_code: int | None, *, stop_reason: str | None, peak_device_bytes: int, reserved_bytes: int
) -> AttemptEnd:
    """How an attempt ended whose process is gone and left no outcome. A stop that was asked for explains it; so does
    want of memory, when all that was reserved was used: not every library asks whether it got what it asked for.
    """
    match stop_reason:
        case "cancelled":
            return outcomes.cancelled()
        case "budget_exceeded":
            return outcomes.interrupted(over_budget(None))
        case "timeout":
            return outcomes.interrupted(over_time(None))
        case "preempted":
            return outcomes.interrupted()
    why = _explain_exit(exit_code, peak_device_bytes, reserved_bytes)
    number = _signal_of(exit_code)
    share = NEAR_RESERVATION if number in CRASH_SIGNALS else 1.0
    if number in MEMORY_SIGNALS and peak_device_bytes >= share * reserved_bytes:
        return outcomes.failed(FailureKind.OUT_OF_MEMORY, why)
    return outcomes.lost(why)


def over_budget(step: int | None) -> Failure:
    return Failure(kind=FailureKind.BUDGET, message=f"The job reached max_cost_usd{_at_step(step)} and was stopped.")


def over_time(step: int | None) -> Failure:
    message = f"The job reached resources.max_runtime_seconds{_at_step(step)} and was stopped."
    return Failure(kind=FailureKind.TIMEOUT, message=message)


def is_finished(pulled: Pulled) -> bool:
    """The process is gone and this batch is the journal's last."""
    return not pulled.alive and not pulled.more


def _at_step(step: int | None) -> str:
    return f" at step {step}" if step is not None else ""


def _signal_of(exit_code: int | None) -> int:
    """The signal that ended a process, by its own exit code or by a shell's; 0 for none."""
    if exit_code is None:
        return 0
    return -exit_code if exit_code < 0 else exit_code - 128 if exit_code > 128 else 0


def _explain_exit(exit_code: int | None, peak_device_bytes: int, reserved_bytes: int) -> str:
    if exit_code is None:
        return "The training process ended without saying why."
    number = _signal_of(exit_code)
    if not number:
        return f"The training process ended with exit code {exit_code} and without an outcome."
    name = SIGNAL_NAMES.get(number, f"signal {number}")
    message = f"The training process was ended by {name}."
    if number in MEMORY_SIGNALS and peak_device_bytes >= NEAR_RESERVATION * reserved_bytes:
        message += (
            f" Its memory had reached {peak_device_bytes / 2**30:.2f} GiB of {reserved_bytes / 2**30:.2f} GiB reserved,"
            " so running out of memory is a likely cause."
        )
    return message


def _highest(first: Peak, second: Peak) -> Peak:
    return Peak(
        allocated_bytes=max(first.allocated_bytes, second.allocated_bytes),
        reserved_bytes=max(first.reserved_bytes, second.reserved_bytes),
        device_bytes=max(first.device_bytes, second.device_bytes),
    )


def _traceback(entry: Entry, report: Failed) -> list[Entry]:
    if not report.detail:
        return []
    line = LogLine(stream="tunepool", level="error", text=report.detail)
    return [Entry(seq=entry.seq, at_unix=entry.at_unix, report=line)]

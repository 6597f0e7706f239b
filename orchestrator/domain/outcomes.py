"""What becomes of the job when an attempt ends: one pure decision, taken in the transaction that ends the attempt.

A cancel beats everything but a success that was already published; an interruption is not a failure. So an attempt is
ended as succeeded only by the publisher, in the transaction in which it saw, under the job's lock, no wish to cancel.
"""

from dataclasses import dataclass

from orchestrator.domain.failures import Blame, Failure, FailureKind
from orchestrator.domain.remedies import Remedy
from orchestrator.domain.retry import decide_retry
from orchestrator.domain.states import AttemptState, JobState


@dataclass(frozen=True, kw_only=True)
class AttemptEnd:
    """How an attempt ended. `failure` is set for failed and lost, and for interruptions that end the job."""

    state: AttemptState
    failure: Failure | None = None


def succeeded() -> AttemptEnd:
    return AttemptEnd(state=AttemptState.SUCCEEDED)


def failed(kind: FailureKind, message: str) -> AttemptEnd:
    return AttemptEnd(state=AttemptState.FAILED, failure=Failure(kind=kind, message=message))


def lost(message: str) -> AttemptEnd:
    return AttemptEnd(state=AttemptState.LOST, failure=Failure(kind=FailureKind.LOST, message=message))


def cancelled() -> AttemptEnd:
    return AttemptEnd(state=AttemptState.CANCELLED)


def interrupted(failure: Failure | None = None) -> AttemptEnd:
    """Stopped with a checkpoint: for a pause (no failure), or because a budget or a time limit was reached."""
    return AttemptEnd(state=AttemptState.INTERRUPTED, failure=failure)


@dataclass(frozen=True, kw_only=True)
class JobFacts:
    """What the decision needs to know of the job. `platform_failures` counts earlier ones, not this; `remedy` is the
    next one to try if this attempt ran out of memory, None when none is left."""

    state: JobState
    cancel_requested: bool
    pause_requested: bool
    platform_failures: int
    remedy: Remedy | None = None


@dataclass(frozen=True, kw_only=True)
class JobMove:
    """The job's next state. `failure` is shown as its error; `delay_seconds` holds a retry back; `remedy` changes what
    the next attempt runs."""

    state: JobState
    failure: Failure | None = None
    delay_seconds: int = 0
    counts_as_platform_failure: bool = False
    remedy: Remedy | None = None


def decide_job_move(end: AttemptEnd, job: JobFacts) -> JobMove:
    """The one place where an attempt's end turns into a job's state."""
    if end.state is AttemptState.SUCCEEDED:
        return JobMove(state=JobState.SUCCEEDED)
    if job.cancel_requested or end.state is AttemptState.CANCELLED:
        return JobMove(state=JobState.CANCELLED)
    if end.state is AttemptState.INTERRUPTED and end.failure is None:
        return JobMove(state=JobState.PAUSED if job.pause_requested else JobState.QUEUED)
    failure = end.failure
    assert failure is not None, "a failed, lost or limited attempt says why"
    if end.state is AttemptState.INTERRUPTED:
        return JobMove(state=JobState.FAILED, failure=failure)
    if failure.kind is FailureKind.OUT_OF_MEMORY:
        return _decide_shortage(failure, job)
    platform = failure.rule.blame is Blame.PLATFORM
    decision = decide_retry(failure.kind, job.platform_failures)
    if not decision.retry:
        return JobMove(state=JobState.FAILED, failure=failure, counts_as_platform_failure=platform)
    return JobMove(
        state=JobState.PAUSED if job.pause_requested else JobState.QUEUED,
        delay_seconds=decision.delay_seconds,
        counts_as_platform_failure=platform,
    )


def _decide_shortage(failure: Failure, job: JobFacts) -> JobMove:
    """Bounded by its own count of remedies, not by that of the platform's failures: the node is in order."""
    if job.remedy is None:
        return JobMove(state=JobState.FAILED, failure=failure)
    return JobMove(state=JobState.PAUSED if job.pause_requested else JobState.QUEUED, remedy=job.remedy)

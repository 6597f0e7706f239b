"""What a supervisor's answer means for its attempt: pure.

Invariants: entries up to an outcome are stored as they come; the outcome itself only together with its consequence, so
no crash can swallow it. A wish to cancel replaces every other reason to stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from orchestrator.domain.attempts import Attempt
from orchestrator.domain.jobs import Job
from orchestrator.domain.outcomes import AttemptEnd
from orchestrator.domain.protocol import OUTCOME_KINDS, Entry, Pulled, StopReason, Succeeded
from orchestrator.domain.states import AttemptState
from orchestrator.scheduler.journal import Digest, decide_end, decide_silent_end, digest_entries, is_finished
from orchestrator.scheduler.limits import RunLimit, Spent, latest_billed_at

OUTCOME_PATIENCE_SECONDS = 30.0
"""An outcome takes effect when the process is gone, so that its last lines come first, or after this long."""
RENEWALS_PER_LEASE = 6
"""Contact without news is written down this often per lease: a poll costs no write."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One attempt and what its supervisor answered. `known_seconds`: how long its outcome has been known here."""

    attempt: Attempt
    job: Job
    answer: Pulled
    limit: RunLimit | None
    spent: Spent
    now: datetime
    lease_seconds: int
    grace_seconds: int
    known_seconds: float


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Ask the worker to stop, and kill it after the grace."""

    reason: StopReason
    grace_seconds: float
    is_preemption: bool = False

    @property
    def name(self) -> str:
        """What is written down. To the worker, making room is a pause: it saves and ends."""
        return "preempted" if self.is_preemption else self.reason.reason


@dataclass(frozen=True, kw_only=True)
class News:
    """What is to be stored of one answer. `ended_at` is where the bill stops, given with `end` or `result`."""

    attempt: Attempt
    job: Job
    digest: Digest
    stop: Stop | None
    result: Succeeded | None
    end: AttemptEnd | None
    ended_at: datetime | None
    more: bool


def decide_news(all_seen: Sequence[Seen]) -> list[News]:
    """What each answer says that is not in the database yet; attempts that say nothing new are left out."""
    return [news for seen in all_seen if (news := _read_answer(seen)) is not None]


def _read_answer(seen: Seen) -> News | None:
    attempt, answer = seen.attempt, seen.answer
    fresh = [entry for entry in answer.entries if entry.seq > attempt.cursor]
    outcome_is_due = is_finished(answer) or not answer.alive or seen.known_seconds >= OUTCOME_PATIENCE_SECONDS
    if not outcome_is_due:
        fresh = before_outcome(fresh)
    digest = digest_entries(fresh, cursor=attempt.cursor)
    result = digest.outcome if isinstance(digest.outcome, Succeeded) else None
    end = None if result is not None else _decide_attempt_end(seen, digest)
    is_over = result is not None or end is not None
    stop = None if is_over or not answer.alive else decide_stop(seen)
    if not (is_over or stop or fresh or _is_due(seen)):
        return None
    return News(
        attempt=attempt,
        job=seen.job,
        digest=digest,
        stop=stop,
        result=result,
        end=end,
        ended_at=_choose_end_moment(seen, digest) if is_over else None,
        more=answer.more and not is_over,
    )


def before_outcome(entries: Sequence[Entry]) -> list[Entry]:
    """The entries up to the outcome, without it; all of them when there is none."""
    for index, entry in enumerate(entries):
        if entry.report.kind in OUTCOME_KINDS:
            return list(entries[:index])
    return list(entries)


def decide_stop(seen: Seen) -> Stop | None:
    """Why the worker must stop now, unless it was told so already."""
    attempt, job = seen.attempt, seen.job
    limit, started_at = seen.limit, attempt.started_at
    if job.cancel_requested_at is not None:
        if attempt.stop_reason == "cancelled":
            return None
        return Stop(reason=StopReason(reason="cancelled", save=False), grace_seconds=seen.grace_seconds)
    if attempt.stop_reason is not None:
        return None
    if limit is not None and started_at is not None and seen.now >= limit.stop_at(started_at):
        left = max(1.0, (limit.end_at(started_at) - seen.now).total_seconds())
        reason = StopReason(reason=limit.reason, save=True)
        return Stop(reason=reason, grace_seconds=min(left, seen.grace_seconds))
    if job.pause_requested_at is not None:
        return Stop(reason=StopReason(reason="paused", save=True), grace_seconds=seen.grace_seconds)
    if attempt.preempt_rule is not None:
        left = (attempt.grace_ends_at - seen.now).total_seconds() if attempt.grace_ends_at else seen.grace_seconds
        reason = StopReason(reason="paused", save=True)
        return Stop(reason=reason, grace_seconds=max(1.0, left), is_preemption=True)
    return None


def _decide_attempt_end(seen: Seen, digest: Digest) -> AttemptEnd | None:
    if digest.outcome is not None and not isinstance(digest.outcome, Succeeded):
        return decide_end(digest.outcome)
    if not is_finished(seen.answer):
        return None
    if seen.attempt.device_kind == "cuda":  # where the device's figure holds what others have there too
        peak = max(seen.attempt.peak_reserved_bytes, digest.peak.reserved_bytes if digest.peak else 0)
    else:
        peak = max(seen.attempt.peak_device_bytes, digest.peak.device_bytes if digest.peak else 0)
    return decide_silent_end(
        seen.answer.exit_code,
        stop_reason=seen.attempt.stop_reason,
        peak_device_bytes=peak,
        reserved_bytes=seen.attempt.reserved_bytes,
    )


def _is_due(seen: Seen) -> bool:
    """First contact, or a renewal that is due."""
    last = seen.attempt.last_contact_at
    if seen.attempt.state is AttemptState.LAUNCHING or last is None:
        return True
    return seen.now - last >= timedelta(seconds=seen.lease_seconds / RENEWALS_PER_LEASE)


def choose_moment(at_unix: float | None, *, attempt: Attempt, now: datetime) -> datetime:
    """When something happened by the worker's clock, held between our last contact and now.

    Without a moment of the worker's, the last contact: what came after it is not known.
    """
    earliest = attempt.last_contact_at or attempt.started_at or now
    if at_unix is None:
        return earliest
    limited = min(max(at_unix, earliest.timestamp()), now.timestamp())
    return max(earliest, datetime.fromtimestamp(limited, UTC))


def _choose_end_moment(seen: Seen, digest: Digest) -> datetime:
    """The last proof of life, and never over the budget."""
    attempt = seen.attempt
    return latest_billed_at(
        choose_moment(digest.last_entry_at_unix, attempt=attempt, now=seen.now),
        started_at=attempt.started_at,
        rate=attempt.whole_rate,
        spent=seen.spent,
        max_cost_usd_micros=seen.job.spec.max_cost_usd_micros,
    )

"""What the end of an attempt does to its bill and its job, inside the transaction that ends it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from orchestrator.domain.attempts import Attempt, LedgerEntry
from orchestrator.domain.failures import Blame, Failure, FailureKind
from orchestrator.domain.jobs import Job, JobError
from orchestrator.domain.observations import forget_plan, observe_attempt
from orchestrator.domain.outcomes import AttemptEnd, JobFacts, JobMove, decide_job_move
from orchestrator.domain.pricing import Interval, split_attempt
from orchestrator.domain.remedies import ShortJob, choose_remedy, describe_way_out
from orchestrator.domain.scheduling.actions import PREEMPTION_REASONS, PreemptionRule
from orchestrator.domain.scheduling.facts import WHOLE_DEVICE_MICROS
from orchestrator.domain.states import FINAL_JOB_STATES, AttemptState, JobState
from orchestrator.domain.usage import accrue, decay
from orchestrator.store.budgets import release_hold
from orchestrator.store.checkpoints import find_newest_moment
from orchestrator.store.events import Level
from orchestrator.store.jobs import apply_job_transition, get_job, lock_job
from orchestrator.store.ledger import append_entry
from orchestrator.store.models import find_model
from orchestrator.store.observations import insert_observation
from orchestrator.store.remedies import read_short_job
from orchestrator.store.session import WriteTx
from orchestrator.store.teams import lock_team, record_usage

UNKNOWN_FAMILY = ""
"""Of a base model that has left the registry while its job ran."""


def write_bill(tx: WriteTx, attempt: Attempt, end: AttemptEnd) -> None:
    """An attempt that was never launched costs nothing and has no entry."""
    if attempt.started_at is None:
        return
    parts = [(interval, device) for interval in _intervals(tx, attempt, end) for device in attempt.devices]
    for number, (interval, device) in enumerate(parts, start=1):
        entry = LedgerEntry(
            attempt_id=attempt.attempt_id,
            interval=number,
            job_id=attempt.job_id,
            team_id=attempt.team_id,
            device_id=device.device_id,
            device_type=device.device_type,
            started_at=interval.started_at,
            ended_at=interval.ended_at,
            rate=device.rate,
            amount_usd_micros=device.rate.amount_usd_micros(interval.ended_at - interval.started_at),
            billed=not interval.lost,
            created_at=tx.now(),
        )
        append_entry(tx, entry)


def settle_team(tx: WriteTx, attempt: Attempt, end: AttemptEnd) -> None:
    """The ledger has the bill now: give back what the job held of the budget, and remember what the team used.

    Time that was lost to the platform is not held against the team.
    """
    team = lock_team(tx, attempt.team_id)
    release_hold(tx, attempt.job_id)
    if attempt.started_at is None:
        return
    assert attempt.ended_at is not None
    kept = [interval for interval in _intervals(tx, attempt, end) if not interval.lost]
    usage, usage_at = team.usage, team.usage_at or attempt.ended_at
    for interval in kept:
        later = max(usage_at, interval.ended_at)
        ran = accrue(attempt.rate_micros / WHOLE_DEVICE_MICROS, interval.seconds)
        usage = decay(usage, (later - usage_at).total_seconds())
        usage += decay(ran, (later - interval.ended_at).total_seconds())
        usage_at = later
    if kept:
        record_usage(tx, team.team_id, usage=usage, usage_at=usage_at)


def _intervals(tx: WriteTx, attempt: Attempt, end: AttemptEnd) -> tuple[Interval, ...]:
    """What an attempt that made room did after its last checkpoint is done again: the pool's loss, not the team's."""
    assert attempt.started_at is not None
    assert attempt.ended_at is not None
    return split_attempt(
        attempt.started_at,
        attempt.ended_at,
        kept_until=find_newest_moment(tx, attempt.attempt_id),
        platform_fault=_is_lost_to_platform(attempt, end),
    )


def _is_lost_to_platform(attempt: Attempt, end: AttemptEnd) -> bool:
    if end.failure is not None:
        return end.failure.rule.blame is Blame.PLATFORM
    return attempt.preempt_rule is not None and end.state is AttemptState.INTERRUPTED


def record_observation(tx: WriteTx, attempt: Attempt, end: AttemptEnd) -> None:
    """Keep what was measured beside what was predicted; before the job moves, whose plan a retry may change."""
    job = get_job(tx, attempt.job_id)
    model = find_model(tx, job.model_name)
    observation = observe_attempt(job, attempt, end, family=model.facts.model_type if model else UNKNOWN_FAMILY)
    if observation is not None:
        insert_observation(tx, observation)


def move_job(tx: WriteTx, attempt: Attempt, end: AttemptEnd, *, changes: Mapping[str, Any]) -> JobMove:
    """Decide by the locked row what becomes of the job, and move it with one event.

    A job that has ended already stays as it is.
    """
    failure = end.failure
    job = lock_job(tx, attempt.job_id)
    if job.state in FINAL_JOB_STATES:
        return JobMove(state=job.state)
    short = read_short_job(tx, attempt, job) if failure and failure.kind is FailureKind.OUT_OF_MEMORY else None
    move = decide_job_move(
        end,
        JobFacts(
            state=job.state,
            cancel_requested=job.cancel_requested_at is not None,
            pause_requested=job.pause_requested_at is not None or job.state is JobState.PAUSING,
            platform_failures=job.platform_failures,
            remedy=choose_remedy(short) if short else None,
        ),
    )
    message, level = _describe(attempt, end, move, job)
    apply_job_transition(
        tx,
        job.job_id,
        move.state,
        message=message,
        level=level,
        data=_event_data(attempt, failure, move),
        changes={**_job_changes(tx, move, job, short), **changes},
    )
    return move


def _event_data(attempt: Attempt, failure: Failure | None, move: JobMove) -> dict[str, Any]:
    data: dict[str, Any] = {"attempt": attempt.number}
    if failure is not None:
        data["failure"] = failure.kind.value
    if move.remedy is not None:
        data |= {"remedy": move.remedy.kind, "settings": dict(move.remedy.settings)}
    return data


def _job_changes(tx: WriteTx, move: JobMove, job: Job, short: ShortJob | None) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if move.remedy is not None:
        changes |= {"plan": move.remedy.plan, "footprints": dict(move.remedy.footprints)}
        if move.remedy.plan != job.plan and job.estimate is not None:
            changes["estimate"] = forget_plan(job.estimate)
    if move.state is JobState.FAILED:
        assert move.failure is not None, "a job fails because an attempt failed"
        message = f"{move.failure.message.rstrip()} {_hint(tx, move.failure, short, job)}"
        changes["error"] = JobError(code=move.failure.kind.value, message=message)
    if move.counts_as_platform_failure:
        changes["platform_failures"] = job.platform_failures + 1
    if move.state is JobState.QUEUED:
        changes["not_before_at"] = tx.now() + timedelta(seconds=move.delay_seconds)
    return changes


def _hint(tx: WriteTx, failure: Failure, short: ShortJob | None, job: Job) -> str:
    """What the user can do. Out of memory with no remedy left, that depends on what was tried and measured."""
    model = find_model(tx, job.model_name) if short else None
    if short is None or model is None:
        return failure.rule.hint
    return describe_way_out(short, model)


def _describe(attempt: Attempt, end: AttemptEnd, move: JobMove, job: Job) -> tuple[str, Level]:
    """The event's sentence and level."""
    why = end.failure.message.rstrip().rstrip(".") if end.failure else "it was interrupted"
    if end.failure is None and attempt.preempt_rule is not None and move.state is JobState.QUEUED:
        return _describe_preempted(attempt, step=job.current_step), "warn"
    if move.remedy is not None:
        paused = " The job is paused, as was asked." if move.state is JobState.PAUSED else ""
        return move.remedy.sentence + paused, "warn"
    match move.state:
        case JobState.SUCCEEDED:
            return "The job has succeeded: its adapter is published.", "info"
        case JobState.CANCELLED:
            return "The job is cancelled.", "info"
        case JobState.PAUSED if end.failure is None:
            return f"The job is paused at step {job.current_step}; it holds no device and costs nothing.", "info"
        case JobState.PAUSED:
            return f"Attempt {attempt.number} ended: {why}. The job is paused, as was asked.", "warn"
        case JobState.QUEUED:
            later = f" in {move.delay_seconds} s" if move.delay_seconds else ""
            return f"Attempt {attempt.number} ended: {why}. The job is queued again and goes on{later}.", "warn"
        case _:
            return f"The job has failed: {why}.", "error"


def _describe_preempted(attempt: Attempt, *, step: int) -> str:
    whom = f" for {attempt.preempted_for}" if attempt.preempted_for else ""
    why = PREEMPTION_REASONS[PreemptionRule(attempt.preempt_rule or "")]
    where = f" from step {step}" if step else ""
    return f"Attempt {attempt.number} made room{whom}: {why}. The job keeps its place in the queue and goes on{where}."

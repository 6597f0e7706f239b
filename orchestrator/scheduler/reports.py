"""How the reports of one answer become rows: contact, log lines, metrics, progress, checkpoints, events.

Invariant: everything in the caller's one transaction, behind the guarded write that moves the cursor.
"""

from datetime import datetime

from orchestrator.domain.artifacts import Checkpoint
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.ids import new_checkpoint_id
from orchestrator.domain.pace import Pace, advance_pace
from orchestrator.domain.protocol import CheckpointStored, Entry, Metric
from orchestrator.domain.states import AttemptState
from orchestrator.scheduler.sentences import describe_checkpoint, describe_metric
from orchestrator.scheduler.watching import News, choose_moment
from orchestrator.store import attempts, checkpoints, events, jobs, logs, metrics
from orchestrator.store.session import WriteTx


def store_reports(tx: WriteTx, news: News, *, lease_seconds: float) -> None:
    """The guarded write comes first: without the lease, or behind the cursor, nothing else is tried."""
    attempt, digest = news.attempt, news.digest
    peak = digest.peak
    attempts.record_contact(
        tx,
        attempt.attempt_id,
        attempt.lease_token,
        cursor_before=attempt.cursor,
        cursor=digest.cursor,
        lease_seconds=lease_seconds,
        peaks=attempts.Peaks() if peak is None else attempts.Peaks(**peak.model_dump(exclude={"kind"})),
        phase=digest.phase,
        pace=advance_pace(attempt.pace or Pace(), digest.timeline) if digest.timeline else None,
        alive_at=news.ended_at,
    )
    if attempt.state is AttemptState.LAUNCHING:
        _welcome(tx, attempt)
    where = (attempt.job_id, attempt.attempt_id, attempt.number)
    logs.append_logs(tx, *where, digest.logs)
    metrics.append_metrics(tx, *where, digest.metrics)
    progress = digest.progress
    jobs.record_progress(
        tx,
        attempt.job_id,
        step=progress.step if progress else None,
        total_steps=progress.total_steps if progress else None,
        trained_tokens=progress.trained_tokens if progress else None,
        phase=digest.phase if news.job.cancel_requested_at is None else None,
    )
    for entry in sorted((*digest.checkpoints, *digest.metrics), key=lambda entry: entry.seq):
        _tell(tx, news, entry)


def _tell(tx: WriteTx, news: News, entry: Entry) -> None:
    """The event of a checkpoint, with its row, or of a metric: in the journal's order, however it was cut."""
    report, job_id = entry.report, news.attempt.job_id
    if isinstance(report, CheckpointStored):
        checkpoints.insert_checkpoint(tx, _checkpoint_of(news.attempt, report, entry.at_unix, now=tx.now()))
        data = {"step": report.step, "attempt": news.attempt.number}
        events.append_event(tx, job_id, message=describe_checkpoint(report), data=data)
    elif isinstance(report, Metric):
        progress = news.digest.progress
        total_steps = progress.total_steps if progress else news.job.total_steps
        said = describe_metric(report, total_steps=total_steps)
        if said is not None:
            events.append_event(tx, job_id, message=said[0], type="metrics", data=said[1])


def _welcome(tx: WriteTx, attempt: Attempt) -> None:
    attempts.apply_attempt_transition(tx, attempt.attempt_id, attempt.lease_token, AttemptState.RUNNING)
    waited = (tx.now() - attempt.started_at).total_seconds() if attempt.started_at else 0.0
    message = f"The worker of attempt {attempt.number} on {attempt.node_name} answers, {waited:.1f} s after its launch."
    events.append_event(tx, attempt.job_id, message=message)


def _checkpoint_of(attempt: Attempt, report: CheckpointStored, at_unix: float, *, now: datetime) -> Checkpoint:
    return Checkpoint(
        checkpoint_id=new_checkpoint_id(),
        job_id=attempt.job_id,
        attempt_id=attempt.attempt_id,
        attempt_number=attempt.number,
        step=report.step,
        key_prefix=report.key_prefix,
        files=report.files,
        metrics=report.metrics,
        created_at=choose_moment(at_unix, attempt=attempt, now=now),
    )

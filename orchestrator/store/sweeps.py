"""What a job that has ended still occupies, and how far it was swept.

Stages: 0 nothing yet, 1 objects that nobody needs any more are gone, 2 its logs, metrics and checkpoints are gone.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, select, update

from orchestrator.domain.states import FINAL_JOB_STATES
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.attempts import attempts, checkpoints
from orchestrator.store.tables.jobs import job_logs, job_metrics, jobs

LAST_STAGE = 2


def list_to_sweep(tx: ReadTx, *, stage: int, finished_before: datetime, limit: int) -> list[str]:
    """Ids of ended jobs that are not at `stage` yet and hold no device any more, oldest first.

    One that only keeps checkpoints for unfinished jobs has nothing to sweep; it would stand before others for as long
    as one of those is paused.
    """
    held = select(attempts.c.attempt_id).where(attempts.c.job_id == jobs.c.job_id, attempts.c.released_at.is_(None))
    query = select(jobs.c.job_id).where(
        jobs.c.state.in_(sorted(FINAL_JOB_STATES)),
        jobs.c.sweep_stage < stage,
        jobs.c.finished_at < finished_before,
        ~held.exists(),
    )
    if stage == LAST_STAGE:
        query = query.where(~_only_keeps_checkpoints())
    return [row["job_id"] for row in tx.rows(query.order_by(jobs.c.finished_at).limit(limit))]


def _only_keeps_checkpoints() -> ColumnElement[bool]:
    """Of a row of `jobs`: all that it has left are checkpoints that unfinished jobs go on from."""
    child = jobs.alias()
    continuing = select(child.c.job_id).where(
        child.c.parent_id == checkpoints.c.checkpoint_id, child.c.state.not_in(sorted(FINAL_JOB_STATES))
    )
    own = select(checkpoints.c.checkpoint_id).where(checkpoints.c.job_id == jobs.c.job_id)
    lines = select(job_logs.c.log_id).where(job_logs.c.job_id == jobs.c.job_id)
    figures = select(job_metrics.c.metric_id).where(job_metrics.c.job_id == jobs.c.job_id)
    return and_(
        own.exists(),
        ~own.where(~continuing.correlate(checkpoints).exists()).correlate(jobs).exists(),
        ~lines.exists(),
        ~figures.exists(),
    )


def record_sweep(tx: WriteTx, job_id: str, stage: int) -> None:
    """Safe to repeat; a stage never goes back."""
    tx.execute(update(jobs).where(jobs.c.job_id == job_id, jobs.c.sweep_stage < stage).values(sweep_stage=stage))


def delete_output(tx: WriteTx, job_id: str, limit: int) -> int:
    """Forget at most `limit` log lines and `limit` metrics of a job; returns how many rows went."""
    lines = select(job_logs.c.log_id).where(job_logs.c.job_id == job_id).limit(limit)
    figures = select(job_metrics.c.metric_id).where(job_metrics.c.job_id == job_id).limit(limit)
    gone = tx.execute(delete(job_logs).where(job_logs.c.log_id.in_(lines)))
    return gone + tx.execute(delete(job_metrics).where(job_metrics.c.metric_id.in_(figures)))

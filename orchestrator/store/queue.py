"""How waiting jobs stand in the queue, changed by people: class, priority, order among one's own, holds, size."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update

from orchestrator.domain.errors import IllegalTransitionError
from orchestrator.domain.jobs import Job
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.states import FINAL_JOB_STATES, JobState
from orchestrator.store.jobs import get_job, read_job
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.jobs import jobs


def record_spec(tx: WriteTx, job_id: str, spec: JobSpec) -> Job:
    """Replace what a job asks for, with what is kept of it in columns. Raises IllegalTransitionError once it ended."""
    values = {
        "spec": spec.model_dump(mode="json"),
        "priority": spec.priority,
        "priority_class": spec.priority_class,
    }
    return _change(tx, job_id, values)


def record_rank(tx: WriteTx, job_id: str, rank: float | None) -> Job:
    """Where the job stands among its user's own; None for where it was queued."""
    return _change(tx, job_id, {"rank": rank})


def record_held(tx: WriteTx, job_id: str, held_at: datetime | None) -> Job:
    return _change(tx, job_id, {"held_at": held_at})


def _change(tx: WriteTx, job_id: str, values: dict[str, Any]) -> Job:
    statement = update(jobs).where(jobs.c.job_id == job_id, jobs.c.state.not_in(sorted(FINAL_JOB_STATES)))
    row = tx.row(statement.values(values).returning(jobs))
    if row is None:
        raise IllegalTransitionError(f"The job is {get_job(tx, job_id).state}.")
    return read_job(row)


def list_waiting(tx: ReadTx, team_id: str | None = None) -> list[Job]:
    """Every queued job, of one team or of all, the longest queued first."""
    query = select(jobs).where(jobs.c.state == JobState.QUEUED).order_by(jobs.c.queued_at, jobs.c.job_id)
    return [read_job(row) for row in tx.rows(query if team_id is None else query.where(jobs.c.team_id == team_id))]


def list_versions(tx: ReadTx) -> dict[str, int]:
    """Every queued job's version, by id: what has changed since is found without reading the jobs themselves."""
    query = select(jobs.c.job_id, jobs.c.last_event_seq).where(jobs.c.state == JobState.QUEUED)
    return {row["job_id"]: row["last_event_seq"] for row in tx.rows(query)}


def count_due(tx: ReadTx, now: datetime) -> int:
    """Queued jobs whose retry was held back until some moment that is over."""
    query = select(func.count()).where(jobs.c.state == JobState.QUEUED, jobs.c.not_before_at <= now)
    return int(tx.scalar(query) or 0)


def list_jobs_of(tx: ReadTx, job_ids: Sequence[str]) -> list[Job]:
    """These jobs, those that exist."""
    return [read_job(row) for row in tx.rows(select(jobs).where(jobs.c.job_id.in_(job_ids)))]


def list_came_since(tx: ReadTx, since: datetime, *, most: int) -> list[Job]:
    """The newest jobs queued since that moment, whatever became of them, the oldest first; as many as this."""
    query = select(jobs).where(jobs.c.queued_at >= since).order_by(jobs.c.queued_at.desc(), jobs.c.job_id.desc())
    return [read_job(row) for row in tx.rows(query.limit(most))][::-1]

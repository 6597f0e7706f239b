"""Jobs: what users asked for, and the one guarded write that moves a job from state to state."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, case, func, insert, or_, select, update

from orchestrator.domain.errors import IllegalTransitionError, NotFoundError
from orchestrator.domain.jobs import Alternative, Job, JobError
from orchestrator.domain.parents import Parent
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.states import (
    ACTIVE_ATTEMPT_STATES,
    FINAL_JOB_STATES,
    IDLE_JOB_STATES,
    JobState,
    states_before_job,
)
from orchestrator.store.columns import bind_moment
from orchestrator.store.events import Level, insert_numbered_event
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.attempts import attempts
from orchestrator.store.tables.jobs import job_metadata, jobs

CHANGEABLE = frozenset(
    {
        "phase",
        "plan",
        "footprints",
        "estimate",
        "total_steps",
        "current_step",
        "trained_tokens",
        "platform_failures",
        "error",
        "fine_tuned_model",
        "result_files",
        "not_before_at",
        "alternatives",
        "rank",
        "held_at",
    }
)
"""Fields of a Job that a transition may set along with the state."""


KEPT_PREEMPTIONS = 20
"""Moments that are kept of each job: more than any rule counts."""


@dataclass(frozen=True, kw_only=True)
class NewJob:
    job_id: str
    team_id: str
    created_by: str
    spec: JobSpec
    seed: int
    model_name: str
    model_revision: str | None = None
    parent: Parent | None = None
    array_id: str | None = None


_INSERT = insert(jobs).returning(jobs)
_INSERT_PAIR = insert(job_metadata)


def insert_job(tx: WriteTx, job: NewJob, *, message: str) -> Job:
    """A new job in validating_files, and its first event. Its files must be locked (`files.lock_files`)."""
    spec = job.spec
    values = {
        "job_id": job.job_id,
        "team_id": job.team_id,
        "created_by": job.created_by,
        "spec": spec.model_dump(mode="json"),
        "seed": job.seed,
        "model_name": job.model_name,
        "model_revision": job.model_revision,
        "parent_id": job.parent and job.parent.parent_id,
        "parent": job.parent and job.parent.model_dump(mode="json"),
        "training_file": spec.training_file,
        "validation_file": spec.validation_file,
        "has_metadata": spec.metadata is not None,
        "priority": spec.priority,
        "priority_class": spec.priority_class,
        "array_id": job.array_id,
        "state": JobState.VALIDATING_FILES,
        "current_step": 0,
        "trained_tokens": 0,
        "platform_failures": 0,
        "attempts": 0,
        "last_event_seq": 1,
        "result_files": [],
        "created_at": tx.now(),
    }
    row = tx.row(_INSERT, values)
    assert row is not None
    if spec.metadata:
        pairs = [{"job_id": job.job_id, "key": key, "value": value} for key, value in spec.metadata.items()]
        tx.execute(_INSERT_PAIR, pairs)
    insert_numbered_event(tx, job.job_id, seq=1, message=message)
    return read_job(row)


def get_job(tx: ReadTx, job_id: str, team_id: str | None = None) -> Job:
    query = select(jobs).where(jobs.c.job_id == job_id)
    row = tx.row(query if team_id is None else query.where(jobs.c.team_id == team_id))
    if row is None:
        raise NotFoundError(f"No such job: {job_id}")
    return read_job(row)


def lock_job(tx: WriteTx, job_id: str) -> Job:
    """As `get_job`; no one else changes the job until the transaction ends."""
    row = tx.row(select(jobs).where(jobs.c.job_id == job_id).with_for_update())
    if row is None:
        raise NotFoundError(f"No such job: {job_id}")
    return read_job(row)


def list_ending_in(tx: ReadTx, end: str, team_id: str | None) -> list[Job]:
    """Jobs whose id ends in these characters, which are no wildcards; of one team, or of all."""
    query = select(jobs).where(jobs.c.job_id.like(f"%{end}"))
    return [read_job(row) for row in tx.rows(query if team_id is None else query.where(jobs.c.team_id == team_id))]


def find_continuing(tx: ReadTx, parent_id: str) -> str | None:
    """A job that goes on from this adapter or checkpoint and has not ended."""
    query = select(jobs.c.job_id).where(jobs.c.parent_id == parent_id, jobs.c.state.not_in(sorted(FINAL_JOB_STATES)))
    job_id: str | None = tx.scalar(query.limit(1))
    return job_id


def list_in_state(tx: ReadTx, states: Collection[JobState], limit: int) -> list[Job]:
    """Oldest first."""
    query = select(jobs).where(jobs.c.state.in_(sorted(states))).order_by(jobs.c.created_at, jobs.c.job_id)
    return [read_job(row) for row in tx.rows(query.limit(limit))]


def find_states(tx: ReadTx, job_ids: Collection[str]) -> dict[str, JobState]:
    """The state of each job that is there."""
    rows = tx.rows(select(jobs.c.job_id, jobs.c.state).where(jobs.c.job_id.in_(sorted(job_ids))))
    return {row["job_id"]: JobState(row["state"]) for row in rows}


def count_by_state(tx: ReadTx, team_id: str | None = None) -> dict[JobState, int]:
    query = select(jobs.c.state, func.count().label("number")).group_by(jobs.c.state)
    rows = tx.rows(query if team_id is None else query.where(jobs.c.team_id == team_id))
    return {JobState(row["state"]): row["number"] for row in rows}


def apply_job_transition(
    tx: WriteTx,
    job_id: str,
    to: JobState,
    *,
    message: str,
    level: Level = "info",
    data: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Job:
    """Move a job and append the event that says so. `changes` sets further fields of the Job (see CHANGEABLE).

    One guarded update: raises IllegalTransitionError when the job is not in a state from which it may enter `to`, when
    it would be queued or started against a wish to cancel, started against a wish to pause, or would wait (queued,
    paused) while an attempt of it is active.
    """
    now = tx.now()
    statement = (
        update(jobs)
        .where(jobs.c.job_id == job_id, jobs.c.state.in_(sorted(states_before_job(to))), *_unopposed(to))
        .values(state=to, last_event_seq=jobs.c.last_event_seq + 1, **_on_entry(to, now))
        .values(_columns_of(changes or {}))
    )
    row = tx.row(statement.returning(jobs))
    if row is None:
        state = get_job(tx, job_id).state
        raise IllegalTransitionError(f"The job is {state} and cannot become {to}.")
    insert_numbered_event(
        tx,
        job_id,
        seq=row["last_event_seq"],
        message=message,
        level=level,
        data={"state": to.value, **(data or {})},
    )
    return read_job(row)


def _unopposed(to: JobState) -> tuple[ColumnElement[bool], ...]:
    if to in IDLE_JOB_STATES:
        active = select(attempts.c.attempt_id).where(
            attempts.c.job_id == jobs.c.job_id, attempts.c.state.in_(sorted(ACTIVE_ATTEMPT_STATES))
        )
        opposed = (jobs.c.cancel_requested_at.is_(None),) if to is JobState.QUEUED else ()
        return (~active.exists(), *opposed)
    if to is JobState.RUNNING:
        return (jobs.c.cancel_requested_at.is_(None), jobs.c.pause_requested_at.is_(None))
    return ()


def _on_entry(to: JobState, now: datetime) -> dict[str, Any]:
    """A retried job keeps its place in the queue; a resumed one goes to the end. Claims are a queued job's only."""
    if to is JobState.QUEUED:
        waits_anew = or_(jobs.c.queued_at.is_(None), jobs.c.state == JobState.PAUSED)
        return {"queued_at": case((waits_anew, bind_moment(now)), else_=jobs.c.queued_at), "phase": None}
    if to is JobState.RUNNING:
        started_at = func.coalesce(jobs.c.started_at, bind_moment(now))
        return {"started_at": started_at, "not_before_at": None, "claims": None}
    if to is JobState.PAUSED:
        return {"pause_requested_at": None, "not_before_at": None, "phase": None, "claims": None}
    if to in FINAL_JOB_STATES:
        return {"finished_at": now, "not_before_at": None, "phase": None, "claims": None}
    return {"claims": None}


def request_cancel(tx: WriteTx, job_id: str) -> Job:
    """Write down the wish; the first moment stays. From now on the job is neither started nor queued again.

    The row is locked, so the returned state holds until the transaction ends: a caller may go on to move a job that
    holds no attempt. Raises IllegalTransitionError when the job has ended.
    """
    return _request(
        tx, job_id, {"cancel_requested_at": func.coalesce(jobs.c.cancel_requested_at, bind_moment(tx.now()))}
    )


def request_pause(tx: WriteTx, job_id: str) -> Job:
    """As `request_cancel`, for a pause: the job is not started again until it was resumed."""
    return _request(tx, job_id, {"pause_requested_at": func.coalesce(jobs.c.pause_requested_at, bind_moment(tx.now()))})


def clear_pause_request(tx: WriteTx, job_id: str) -> Job:
    """Take back the wish to pause. A wish to cancel is never taken back."""
    return _request(tx, job_id, {"pause_requested_at": None})


def _request(tx: WriteTx, job_id: str, values: Mapping[str, Any]) -> Job:
    statement = update(jobs).where(jobs.c.job_id == job_id, jobs.c.state.not_in(sorted(FINAL_JOB_STATES)))
    row = tx.row(statement.values(values).returning(jobs))
    if row is None:
        state = get_job(tx, job_id).state
        raise IllegalTransitionError(f"The job is {state}.")
    return read_job(row)


def record_preemption(tx: WriteTx, job_id: str) -> None:
    """Remember that the job made room now, so that it is not asked too often. The job's row must be locked."""
    row = tx.row(select(jobs.c.preemptions).where(jobs.c.job_id == job_id))
    earlier = list(row["preemptions"] or ()) if row is not None else []
    moments = [*earlier, tx.now().timestamp()][-KEPT_PREEMPTIONS:]
    tx.execute(update(jobs).where(jobs.c.job_id == job_id).values(preemptions=moments))


def record_progress(
    tx: WriteTx,
    job_id: str,
    *,
    step: int | None = None,
    total_steps: int | None = None,
    trained_tokens: int | None = None,
    phase: str | None = None,
) -> None:
    """Show how far the job is; None leaves a figure as it is. Does nothing once the job has ended."""
    given = {"current_step": step, "total_steps": total_steps, "trained_tokens": trained_tokens, "phase": phase}
    values = {name: value for name, value in given.items() if value is not None}
    if values:
        running = jobs.c.state.not_in(sorted(FINAL_JOB_STATES))
        tx.execute(update(jobs).where(jobs.c.job_id == job_id, running).values(values))


def _columns_of(changes: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(changes) - CHANGEABLE
    if unknown:
        raise ValueError(f"not changeable: {sorted(unknown)}")
    columns = dict(changes)
    if isinstance(plan := columns.get("plan"), TrainingPlan):
        columns["plan"] = plan.model_dump(mode="json")
    if "error" in columns:
        error: JobError | None = columns.pop("error")
        columns["error_code"] = error and error.code
        columns["error_message"] = error and error.message
        columns["error_param"] = error and error.param
    if "result_files" in columns:
        columns["result_files"] = list(columns["result_files"])
    if "alternatives" in columns:
        columns["alternatives"] = [_alternative_row(found) for found in columns["alternatives"]]
    return columns


def _alternative_row(found: Alternative) -> dict[str, Any]:
    plan = found.plan.model_dump(mode="json")
    return {"name": found.name, "plan": plan, "footprints": found.footprints, "seconds": found.seconds}


def read_job(row: RowMapping) -> Job:
    error = None
    if row["error_code"] is not None:
        error = JobError(code=row["error_code"], message=row["error_message"], param=row["error_param"])
    return Job(
        job_id=row["job_id"],
        team_id=row["team_id"],
        created_by=row["created_by"],
        spec=JobSpec.model_validate(row["spec"]),
        seed=row["seed"],
        model_name=row["model_name"],
        state=JobState(row["state"]),
        phase=row["phase"],
        plan=None if row["plan"] is None else TrainingPlan.model_validate(row["plan"]),
        footprints=row["footprints"],
        estimate=row["estimate"],
        total_steps=row["total_steps"],
        current_step=row["current_step"],
        trained_tokens=row["trained_tokens"],
        platform_failures=row["platform_failures"],
        attempts=row["attempts"],
        error=error,
        fine_tuned_model=row["fine_tuned_model"],
        result_files=tuple(row["result_files"]),
        created_at=row["created_at"],
        queued_at=row["queued_at"],
        not_before_at=row["not_before_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        cancel_requested_at=row["cancel_requested_at"],
        pause_requested_at=row["pause_requested_at"],
        model_revision=row["model_revision"],
        parent=None if row["parent"] is None else Parent.model_validate(row["parent"]),
        rank=row["rank"],
        held_at=row["held_at"],
        array_id=row["array_id"],
        preempted_at=tuple(datetime.fromtimestamp(at, UTC) for at in row["preemptions"] or ()),
        alternatives=tuple(
            Alternative(**{**item, "plan": TrainingPlan.model_validate(item["plan"])})
            for item in row["alternatives"] or ()
        ),
        held_usd_micros=row["held_usd_micros"],
        version=row["last_event_seq"],
    )

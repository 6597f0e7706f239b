"""Jobs: what users asked for, and the one guarded write that moves a job from state to state."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, RowMapping, case, func, insert, or_, select, update

from orchestrator.domain.errors import IllegalTransitionError, NotFoundError
from orchestrator.domain.jobs import Job, JobError
from orchestrator.domain.pages import Page
from orchestrator.domain.parents import Parent
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.queries import ALL_JOBS, JobQuery, JobSort
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.states import FINAL_JOB_STATES, JobState, states_before_job
from orchestrator.store.columns import bind_moment
from orchestrator.store.events import Level, insert_numbered_event
from orchestrator.store.keyset import Listing, read_page
from orchestrator.store.session import ReadTx, WriteTx
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
    }
)
"""Fields of a Job that a transition may set along with the state."""


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


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """All that is given must hold. `metadata` holds pairs that the job's metadata must contain."""

    team_id: str | None = None
    states: Collection[JobState] | None = None
    metadata: Mapping[str, str] | None = None
    metadata_is_null: bool = False
    model: str | None = None


_SORT_COLUMNS: Mapping[JobSort, tuple[Column[Any], ...]] = {
    "created": (),
    "model": (jobs.c.model_name,),
    "status": (jobs.c.state,),
    "tokens": (jobs.c.trained_tokens,),
}

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
    return _job(row)


def get_job(tx: ReadTx, job_id: str, team_id: str | None = None) -> Job:
    query = select(jobs).where(jobs.c.job_id == job_id)
    row = tx.row(query if team_id is None else query.where(jobs.c.team_id == team_id))
    if row is None:
        raise NotFoundError(f"No such job: {job_id}")
    return _job(row)


def lock_job(tx: WriteTx, job_id: str) -> Job:
    """As `get_job`; no one else changes the job until the transaction ends."""
    row = tx.row(select(jobs).where(jobs.c.job_id == job_id).with_for_update())
    if row is None:
        raise NotFoundError(f"No such job: {job_id}")
    return _job(row)


def list_jobs(
    tx: ReadTx,
    job_filter: JobFilter,
    *,
    limit: int = 20,
    after: str | None = None,
    which: JobQuery = ALL_JOBS,
) -> Page[Job]:
    """Newest first, unless `which` says otherwise."""
    order = (*_SORT_COLUMNS[which.sort], jobs.c.created_at, jobs.c.job_id)
    where = [*_matches(job_filter), *_matches_query(which)]
    listing = Listing(table=jobs, key=jobs.c.job_id, order_by=order, where=where)
    return read_page(tx, listing, _job, limit=limit, after=after, descending=which.descending)


def _matches(job_filter: JobFilter) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    if job_filter.team_id is not None:
        where.append(jobs.c.team_id == job_filter.team_id)
    if job_filter.states is not None:
        where.append(jobs.c.state.in_(sorted(job_filter.states)))
    if job_filter.model is not None:
        where.append(jobs.c.model_name == job_filter.model)
    if job_filter.metadata_is_null:
        where.append(jobs.c.has_metadata.is_(False))
    for key, value in (job_filter.metadata or {}).items():
        pair = job_metadata.alias()
        holds = select(pair.c.job_id).where(pair.c.job_id == jobs.c.job_id, pair.c.key == key, pair.c.value == value)
        where.append(holds.exists())
    return where


def _matches_query(which: JobQuery) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    if which.states is not None:
        where.append(jobs.c.state.in_(sorted(which.states)))
    if which.text:
        where.append(_contains(which.text))
    return where


def _contains(text: str) -> ColumnElement[bool]:
    columns = (jobs.c.job_id, jobs.c.model_name, jobs.c.fine_tuned_model)
    pair = job_metadata.alias()
    of_job = select(pair.c.job_id).where(pair.c.job_id == jobs.c.job_id, pair.c.value.icontains(text, autoescape=True))
    return or_(*(column.icontains(text, autoescape=True) for column in columns), of_job.exists())


def list_ending_in(tx: ReadTx, end: str, team_id: str | None) -> list[Job]:
    """Jobs whose id ends in these characters, which are no wildcards; of one team, or of all."""
    query = select(jobs).where(jobs.c.job_id.like(f"%{end}"))
    return [_job(row) for row in tx.rows(query if team_id is None else query.where(jobs.c.team_id == team_id))]


def find_continuing(tx: ReadTx, parent_id: str) -> str | None:
    """A job that goes on from this adapter or checkpoint and has not ended."""
    query = select(jobs.c.job_id).where(jobs.c.parent_id == parent_id, jobs.c.state.not_in(sorted(FINAL_JOB_STATES)))
    job_id: str | None = tx.scalar(query.limit(1))
    return job_id


def list_in_state(tx: ReadTx, states: Collection[JobState], limit: int) -> list[Job]:
    """Oldest first."""
    query = select(jobs).where(jobs.c.state.in_(sorted(states))).order_by(jobs.c.created_at, jobs.c.job_id)
    return [_job(row) for row in tx.rows(query.limit(limit))]


def list_placeable(tx: ReadTx, now: datetime, limit: int) -> list[Job]:
    """Queued jobs that may start now, in order of priority and age."""
    query = select(jobs).where(
        jobs.c.state == JobState.QUEUED,
        or_(jobs.c.not_before_at.is_(None), jobs.c.not_before_at <= now),
        jobs.c.cancel_requested_at.is_(None),
        jobs.c.pause_requested_at.is_(None),
    )
    return [_job(row) for row in tx.rows(query.order_by(*_PLACE_ORDER).limit(limit))]


_PLACE_ORDER = (jobs.c.priority.desc(), jobs.c.queued_at, jobs.c.job_id)


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
    it would be queued or started against a wish to cancel, or started against a wish to pause.
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
    return _job(row)


def _unopposed(to: JobState) -> tuple[ColumnElement[bool], ...]:
    if to is JobState.QUEUED:
        return (jobs.c.cancel_requested_at.is_(None),)
    if to is JobState.RUNNING:
        return (jobs.c.cancel_requested_at.is_(None), jobs.c.pause_requested_at.is_(None))
    return ()


def _on_entry(to: JobState, now: datetime) -> dict[str, Any]:
    """A retried job keeps its place in the queue; a resumed one goes to the end."""
    if to is JobState.QUEUED:
        waits_anew = or_(jobs.c.queued_at.is_(None), jobs.c.state == JobState.PAUSED)
        return {"queued_at": case((waits_anew, bind_moment(now)), else_=jobs.c.queued_at), "phase": None}
    if to is JobState.RUNNING:
        return {"started_at": func.coalesce(jobs.c.started_at, bind_moment(now)), "not_before_at": None}
    if to is JobState.PAUSED:
        return {"pause_requested_at": None, "not_before_at": None, "phase": None}
    if to in FINAL_JOB_STATES:
        return {"finished_at": now, "not_before_at": None, "phase": None}
    return {}


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
    return _job(row)


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
    return columns


def _job(row: RowMapping) -> Job:
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
    )

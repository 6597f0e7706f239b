"""The queue by hand: priority, class, holds, order among one's own jobs, and how much room a waiting job asks for.

Every change is an event of the job that names who made it, and an entry of the audit log.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.domain.errors import IllegalTransitionError, InvalidRequestError
from orchestrator.domain.jobs import Job
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.spec import AUTO, Auto, JobSpec
from orchestrator.domain.states import FINAL_JOB_STATES, IDLE_JOB_STATES, JobState
from orchestrator.domain.teams import Caller
from orchestrator.services.teams import require_member
from orchestrator.store import audit, events, jobs, queue
from orchestrator.store.session import Store, WriteTx


@dataclass(frozen=True, kw_only=True)
class QueueChange:
    """What is None stays. `before_job_id` moves the job directly before another of the same user's; the size settings
    keep the rows of an optimizer step, so that the result stays."""

    priority: int | None = None
    priority_class: PriorityClass | None = None
    is_held: bool | None = None
    before_job_id: str | None = None
    micro_batch_size: int | None = None
    gradient_checkpointing: bool | None = None
    device_type: Auto | str | None = None
    flexible: bool | None = None

    @property
    def changes_size(self) -> bool:
        return self.micro_batch_size is not None or self.gradient_checkpointing is not None or bool(self.device_type)


@dataclass(frozen=True)
class Queue:
    store: Store

    def change(self, caller: Caller, job_id: str, change: QueueChange) -> Job:
        """Apply all of it or nothing.

        Raises IllegalTransitionError for a job that has ended, or whose size is changed while it runs, and
        InvalidRequestError, naming the field, for what does not go together.
        """
        require_member(caller)
        with self.store.write() as tx:
            jobs.get_job(tx, job_id, caller.visible_team_id)
            job = jobs.lock_job(tx, job_id)
            _require_changeable(job, change)
            said: dict[str, Any] = {}
            job = _change_order(tx, job, change, said)
            job = _change_hold(tx, job, change, said)
            job = _change_size(tx, job, change, said)
            if said:
                message = f"{_describe(said)} by {caller.key_id}."
                events.append_event(tx, job_id, message=message, data={"changed": said, "by": caller.key_id})
                audit.append_entry(tx, caller, "job.queue", job_id, team_id=job.team_id, data=said)
            return jobs.get_job(tx, job_id)


def _require_changeable(job: Job, change: QueueChange) -> None:
    if job.state in FINAL_JOB_STATES or job.cancel_requested_at is not None:
        raise IllegalTransitionError(f"The job is {job.state.value}; its place in the queue cannot be changed.")
    if change.changes_size and job.state not in IDLE_JOB_STATES:
        raise IllegalTransitionError("The job runs; pause it before its size is changed.")


def _change_order(tx: WriteTx, job: Job, change: QueueChange, said: dict[str, Any]) -> Job:
    spec = job.spec
    if change.priority is not None and change.priority != spec.priority:
        said["priority"] = change.priority
    if change.priority_class is not None and change.priority_class != spec.priority_class:
        said["priority_class"] = change.priority_class.value
    if change.flexible is not None and change.flexible != spec.resources.flexible:
        said["resources.flexible"] = change.flexible
    if said:
        job = queue.record_spec(tx, job.job_id, _with(spec, said))
    if change.before_job_id is not None:
        job = queue.record_rank(tx, job.job_id, _rank_before(tx, job, change.before_job_id))
        said["before_job_id"] = change.before_job_id
    return job


def _rank_before(tx: WriteTx, job: Job, other_id: str) -> float:
    """Between the other job and the one that stands before it, among the same user's waiting jobs."""
    mine = [
        found
        for found in queue.list_waiting(tx, job.team_id)
        if found.created_by == job.created_by and found.job_id != job.job_id
    ]
    mine.sort(key=lambda found: (_rank(found), found.job_id))
    places = {found.job_id: place for place, found in enumerate(mine)}
    if other_id not in places:
        raise InvalidRequestError(
            f"{other_id} is not a waiting job of the same user, so {job.job_id} cannot be moved before it",
            param="before",
        )
    place = places[other_id]
    after = _rank(mine[place])
    before = _rank(mine[place - 1]) if place else after - 2.0
    return (before + after) / 2


def _rank(job: Job) -> float:
    assert job.queued_at is not None, "a queued job has a place in the queue"
    return job.queued_at.timestamp() if job.rank is None else job.rank


def _change_hold(tx: WriteTx, job: Job, change: QueueChange, said: dict[str, Any]) -> Job:
    if change.is_held is None or change.is_held == (job.held_at is not None):
        return job
    said["held"] = change.is_held
    return queue.record_held(tx, job.job_id, tx.now() if change.is_held else None)


def _change_size(tx: WriteTx, job: Job, change: QueueChange, said: dict[str, Any]) -> Job:
    """A validated job is validated again, because its bytes and times are other ones; its place in the queue stays."""
    sizes: dict[str, Any] = {}
    if change.micro_batch_size is not None:
        sizes |= _split_batch(job, change.micro_batch_size)
    if change.gradient_checkpointing is not None:
        sizes["training.gradient_checkpointing"] = change.gradient_checkpointing
    if change.device_type:
        sizes["resources.device_type"] = change.device_type
    if not sizes:
        return job
    said |= sizes
    job = queue.record_spec(tx, job.job_id, _with(job.spec, sizes))
    if job.state is JobState.QUEUED:
        message = "The job's size was changed; it is measured again and keeps its place."
        return jobs.apply_job_transition(tx, job.job_id, JobState.VALIDATING_FILES, message=message)
    return job


def _split_batch(job: Job, micro_rows: int) -> dict[str, Any]:
    """The same rows per optimizer step in micro-batches of another size."""
    rows = _batch_rows(job.spec, job.plan)
    if rows is None:
        return {"training.micro_batch_size": micro_rows, "training.gradient_accumulation": AUTO}
    devices = job.spec.resources.count
    if rows % (micro_rows * devices):
        of_each = f" on each of {devices} devices" if devices > 1 else ""
        raise InvalidRequestError(
            f"training.micro_batch_size {micro_rows}{of_each} does not divide the job's batch of {rows} rows",
            param="training.micro_batch_size",
        )
    return {
        "training.micro_batch_size": micro_rows,
        "training.gradient_accumulation": rows // (micro_rows * devices),
        "method.supervised.hyperparameters.batch_size": rows,
    }


def _batch_rows(spec: JobSpec, plan: TrainingPlan | None) -> int | None:
    if plan is not None:
        return plan.batch_rows
    asked = spec.method.supervised.hyperparameters.batch_size
    return None if asked == AUTO else asked


def _with(spec: JobSpec, changes: Mapping[str, Any]) -> JobSpec:
    """The spec with some fields, named by their path with dots, replaced and checked."""
    fields = spec.model_dump(mode="json")
    for path, value in changes.items():
        *parents, name = path.split(".")
        place = fields
        for parent in parents:
            place = place[parent]
        place[name] = value
    return JobSpec.model_validate(fields)


def _describe(said: Mapping[str, Any]) -> str:
    if said == {"held": True}:
        return "The job is held back"
    if said == {"held": False}:
        return "The job is released"
    parts = ", ".join(f"{name} = {value}" for name, value in said.items())
    return f"The job's place in the queue was changed ({parts})"

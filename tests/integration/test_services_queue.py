"""Changes to waiting jobs, on both engines: order, holds, size; each an event and an entry of the audit log."""

import pytest

from orchestrator.domain.errors import IllegalTransitionError, InvalidRequestError, NotFoundError
from orchestrator.domain.jobs import Job
from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.states import JobState
from orchestrator.domain.teams import Caller
from orchestrator.services.queue import Queue, QueueChange
from orchestrator.services.teams import Teams
from orchestrator.store import events, jobs, queue
from orchestrator.store.session import Store
from tests.support.callers import make_caller
from tests.support.rows import add_attempt, add_queued_job


@pytest.fixture
def caller(store: Store) -> Caller:
    return make_caller(store)


def add(store: Store, caller: Caller, **spec: object) -> Job:
    with store.write() as tx:
        return add_queued_job(tx, caller.team_id, **spec)


def change(store: Store, caller: Caller, job: Job, **changes: object) -> Job:
    return Queue(store).change(caller, job.job_id, QueueChange(**changes))  # type: ignore[arg-type]


def test_priority_and_class_are_what_the_job_asks_for_from_then_on(store: Store, caller: Caller) -> None:
    job = change(store, caller, add(store, caller), priority=7, priority_class=PriorityClass.IDLE)
    assert (job.spec.priority, job.spec.priority_class) == (7, "idle")
    with store.read() as tx:
        newest = events.list_events(tx, job.job_id, limit=1).items[0]
    assert newest.data == {"changed": {"priority": 7, "priority_class": "idle"}, "by": caller.key_id}
    entry = Teams(store).audit_log(caller).items[0]
    assert (entry.action, entry.subject, entry.data) == (
        "job.queue",
        job.job_id,
        {"priority": 7, "priority_class": "idle"},
    )


def test_a_change_that_changes_nothing_says_nothing(store: Store, caller: Caller) -> None:
    job = add(store, caller)
    assert change(store, caller, job, priority=0, is_held=False).version == job.version
    assert not Teams(store).audit_log(caller).items


def test_a_held_job_is_released_again(store: Store, caller: Caller) -> None:
    job = change(store, caller, add(store, caller), is_held=True)
    assert job.held_at is not None
    assert change(store, caller, job, is_held=True).held_at == job.held_at
    assert change(store, caller, job, is_held=False).held_at is None


def test_a_job_moves_directly_before_another_one(store: Store, caller: Caller) -> None:
    first, second, third = (add(store, caller) for _ in range(3))

    def order() -> list[str]:
        with store.read() as tx:
            waiting = queue.list_waiting(tx, caller.team_id)
        place = {j.job_id: j.queued_at.timestamp() if j.rank is None else j.rank for j in waiting if j.queued_at}
        return sorted(place, key=lambda job_id: place[job_id])

    change(store, caller, third, before_job_id=second.job_id)
    assert order() == [first.job_id, third.job_id, second.job_id]
    change(store, caller, second, before_job_id=first.job_id)
    assert order() == [second.job_id, first.job_id, third.job_id]
    with pytest.raises(InvalidRequestError) as refused:
        change(store, caller, first, before_job_id="ftjob-none")
    assert refused.value.param == "before"


def test_a_smaller_micro_batch_keeps_the_batch_and_the_place(store: Store, caller: Caller) -> None:
    method = {"supervised": {"hyperparameters": {"batch_size": 8}}}
    job = add(store, caller, method=method)
    changed = change(store, caller, job, micro_batch_size=2, gradient_checkpointing=True)
    training = changed.spec.training
    assert (training.micro_batch_size, training.gradient_accumulation) == (2, 4)
    assert training.gradient_checkpointing is True
    assert changed.state is JobState.VALIDATING_FILES
    with store.write() as tx:
        again = jobs.apply_job_transition(tx, job.job_id, JobState.QUEUED, message="Measured again.")
    assert again.queued_at == job.queued_at
    with pytest.raises(InvalidRequestError, match="does not divide"):
        change(store, caller, job, micro_batch_size=3)


def test_a_job_that_runs_keeps_its_size_and_takes_a_new_class(store: Store, caller: Caller) -> None:
    job = add(store, caller)
    with store.write() as tx:
        add_attempt(tx, job)
    with pytest.raises(IllegalTransitionError):
        change(store, caller, job, micro_batch_size=1)
    assert change(store, caller, job, priority_class=PriorityClass.IDLE).spec.priority_class == "idle"


def test_other_teams_jobs_and_ended_ones_are_out_of_reach(store: Store, caller: Caller) -> None:
    job = add(store, caller)
    with pytest.raises(NotFoundError):
        change(store, make_caller(store), job, priority=1)
    with store.write() as tx:
        jobs.request_cancel(tx, job.job_id)
    with pytest.raises(IllegalTransitionError):
        change(store, caller, job, priority=1)

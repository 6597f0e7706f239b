"""Arrays of jobs on both engines: all or none, once, limited, cancelled, and shown with what each job reached."""

from dataclasses import dataclass
from typing import Any

import pytest

from api.schemas.arrays import ArrayCreate
from orchestrator.domain.artifacts import FilePurpose, FileStatus
from orchestrator.domain.errors import ForbiddenError, IdempotencyMismatchError, InvalidRequestError, NotFoundError
from orchestrator.domain.protocol import Entry, Metric
from orchestrator.domain.states import JobState
from orchestrator.domain.teams import Caller, Role
from orchestrator.services.arrays import ArrayDetail, Arrays
from orchestrator.services.idempotency import Repeat
from orchestrator.services.submissions import Submissions
from orchestrator.services.teams import Teams
from orchestrator.store import jobs, metrics
from orchestrator.store.job_lists import JobFilter, list_jobs
from orchestrator.store.session import Store
from tests.support.callers import as_role, make_caller
from tests.support.registries import OneModel
from tests.support.rows import add_file, add_running_attempt
from tests.support.threads import run_together


@dataclass(frozen=True)
class World:
    store: Store
    service: Arrays
    caller: Caller
    file_id: str

    def submit(self, vary: dict[str, list[Any]], *, key: str | None = None, **terms: Any) -> ArrayDetail:
        job = {"model": "llama", "training_file": self.file_id}
        asked = ArrayCreate.model_validate({"job": job, "vary": vary, **terms})
        repeat = Repeat(fingerprint=repr((vary, terms)), key=key)
        return self.service.create(self.caller, asked.to_variants(), asked.to_terms(), repeat=repeat)

    def count_jobs(self) -> int:
        with self.store.read() as tx:
            return len(list_jobs(tx, JobFilter(team_id=self.caller.team_id), limit=100).items)

    def audited(self) -> list[tuple[str, Any]]:
        return [(entry.action, entry.data) for entry in Teams(self.store).audit_log(self.caller).items]


@pytest.fixture
def world(store: Store) -> World:
    caller = make_caller(store)
    with store.write() as tx:
        file = add_file(tx, caller.team_id, status=FileStatus.PROCESSED, report={"rows": 20})
    return World(store, Arrays(store, Submissions(store, OneModel(), min_rows=10)), caller, file.file_id)


def test_all_jobs_are_accepted_together(world: World) -> None:
    array = world.submit({"lora.r": [8, 16], "training.learning_rate": [1e-4, 2e-4]}, max_parallel=2, name="sweep")
    assert [member.varied for member in array.members] == [
        {"lora.r": r, "training.learning_rate": rate} for r in (8, 16) for rate in (1e-4, 2e-4)
    ]
    assert {member.job.array_id for member in array.members} == {array.array.array_id}
    assert array.counts == {JobState.VALIDATING_FILES: 4}
    assert (array.array.name, array.array.max_parallel) == ("sweep", 2)
    assert world.service.get(world.caller, array.array.array_id) == array
    assert world.audited() == [("array.create", {"name": "sweep", "jobs": 4, "max_parallel": 2})]


def test_one_job_that_is_refused_refuses_all(world: World) -> None:
    with world.store.write() as tx:
        other = add_file(tx, world.caller.team_id, purpose=FilePurpose.RESULTS)
    with pytest.raises(InvalidRequestError) as refused:
        world.submit({"training_file": [world.file_id, other.file_id]})
    assert (refused.value.param, refused.value.code) == ("vary.training_file[1]", "wrong_file_purpose")
    assert world.count_jobs() == 0
    assert world.service.list(world.caller).items == ()
    assert world.audited() == []


def test_the_same_request_many_times_at_once_makes_one_array(world: World) -> None:
    made = run_together([lambda: world.submit({"lora.r": [8, 16]}, key="k")] * 8)
    assert {found.array.array_id for found in made if isinstance(found, ArrayDetail)} == {made[0].array.array_id}  # type: ignore[union-attr]
    assert len([found for found in made if isinstance(found, ArrayDetail)]) == 8
    assert world.count_jobs() == 2
    with pytest.raises(IdempotencyMismatchError):
        world.submit({"lora.r": [8, 32]}, key="k")


def test_the_best_loss_is_the_least_of_each_job_that_was_kept(world: World) -> None:
    array = world.submit({"lora.r": [8, 16]})
    first = array.members[0].job
    with world.store.write() as tx:
        queued = jobs.apply_job_transition(tx, first.job_id, JobState.QUEUED, message="The files are valid.")
        attempt = add_running_attempt(tx, queued)
        values = [{"train_loss": 0.1}, {"eval_loss": 1.5}, {"eval_loss": 1.25}, {"eval_loss": 1.75}]
        reports = [
            Entry(seq=n, at_unix=1_790_000_000.0, report=Metric(step=n, values=found))
            for n, found in enumerate(values, 1)
        ]
        metrics.append_metrics(tx, first.job_id, attempt.attempt_id, 1, reports)
    found = world.service.get(world.caller, array.array.array_id)
    assert [member.best_eval_loss for member in found.members] == [1.25, None]
    assert found.counts == {JobState.RUNNING: 1, JobState.VALIDATING_FILES: 1}


def test_cancel_stops_what_has_not_ended_and_is_safe_to_repeat(world: World) -> None:
    array = world.submit({"lora.r": [8, 16, 32]})
    ended, runs, _ = (member.job for member in array.members)
    with world.store.write() as tx:
        jobs.apply_job_transition(tx, ended.job_id, JobState.QUEUED, message="The files are valid.")
        jobs.request_cancel(tx, ended.job_id)
        jobs.apply_job_transition(tx, ended.job_id, JobState.CANCELLED, message="The job is cancelled.")
        add_running_attempt(
            tx, jobs.apply_job_transition(tx, runs.job_id, JobState.QUEUED, message="The files are valid.")
        )
    for _ in range(2):
        found = world.service.cancel(world.caller, array.array.array_id)
        assert found.counts == {JobState.CANCELLED: 2, JobState.RUNNING: 1}
        assert [member.job.cancel_requested_at is not None for member in found.members] == [True, True, True]
    assert world.audited()[0] == ("array.cancel", {"jobs": 2})
    assert len(world.audited()) == 2


def test_a_new_limit_is_audited_once(world: World) -> None:
    array_id = world.submit({"lora.r": [8, 16]}, max_parallel=1).array.array_id
    for _ in range(2):
        assert world.service.set_max_parallel(world.caller, array_id, None).array.max_parallel is None
    assert world.audited()[0] == ("array.change", {"max_parallel": {"from": 1, "to": None}})
    assert len(world.audited()) == 2


def test_another_teams_array_is_as_if_it_were_not_there(world: World) -> None:
    array_id = world.submit({"lora.r": [8]}).array.array_id
    stranger, admin = make_caller(world.store), make_caller(world.store, Role.ADMIN)
    for call in (world.service.get, world.service.cancel):
        with pytest.raises(NotFoundError):
            call(stranger, array_id)
    with pytest.raises(NotFoundError):
        world.service.set_max_parallel(stranger, array_id, 2)
    assert world.service.list(stranger).items == ()
    assert [view.array.array_id for view in world.service.list(admin).items] == [array_id]
    viewer = as_role(world.caller, Role.VIEWER)
    assert world.service.get(viewer, array_id).members
    with pytest.raises(ForbiddenError):
        world.service.cancel(viewer, array_id)

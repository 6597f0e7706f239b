"""Use cases of jobs on both engines: accepted once, refused with the field at fault, stopped for good."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from orchestrator.domain.artifacts import FilePurpose, FileStatus
from orchestrator.domain.errors import (
    CannotFitError,
    ForbiddenError,
    IdempotencyMismatchError,
    IllegalTransitionError,
    InvalidRequestError,
    NotFoundError,
)
from orchestrator.domain.estimate import estimate_memory
from orchestrator.domain.jobs import Job
from orchestrator.domain.observations import name_kind
from orchestrator.domain.outcomes import interrupted, succeeded
from orchestrator.domain.plan import resolve_plan
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.states import AttemptState, JobState
from orchestrator.domain.teams import Caller, Role
from orchestrator.runtime.launcher import DeclaredDevice
from orchestrator.services.idempotency import Repeat
from orchestrator.services.jobs import Jobs
from orchestrator.services.submissions import Submissions
from orchestrator.store import attempts, devices, jobs, observations
from orchestrator.store.session import Store
from tests.support.observed import make_observation
from tests.support.registries import FACTS, OneModel
from tests.support.rows import add_attempt, add_file, add_key, add_queued_job, add_team
from tests.support.threads import run_together


@dataclass(frozen=True)
class World:
    store: Store
    service: Jobs
    caller: Caller
    file_id: str

    def submit(self, *, repeat: Repeat | None = None, caller: Caller | None = None, **spec: object) -> Job:
        asked = JobSpec.model_validate({"model": "llama", "training_file": self.file_id, **spec})
        return self.service.create(caller or self.caller, asked, repeat=repeat or Repeat(fingerprint="body"))

    def start(self, job: Job) -> str:
        """Give the job an attempt, as the scheduler would; returns its token."""
        with self.store.write() as tx:
            jobs.apply_job_transition(tx, job.job_id, JobState.QUEUED, message="The files are valid.")
            attempt = add_attempt(tx, job)
            for state in (AttemptState.LAUNCHING, AttemptState.RUNNING):
                attempts.apply_attempt_transition(tx, attempt.attempt_id, attempt.lease_token, state)
        return attempt.lease_token

    def messages(self, job: Job) -> list[str]:
        return [event.message for event in self.service.events(self.caller, job.job_id, descending=False).items]


@pytest.fixture
def world(store: Store) -> World:
    with store.write() as tx:
        team = add_team(tx, "vision")
        file = add_file(tx, team.team_id, status=FileStatus.PROCESSED, report={"rows": 20})
        key = add_key(tx, team.team_id)
    caller = Caller(key_id=key.key_id, team_id=team.team_id, team_name="vision", role=Role.MEMBER)
    return World(
        store=store,
        service=Jobs(store, Submissions(store, OneModel(), min_rows=10)),
        caller=caller,
        file_id=file.file_id,
    )


def test_a_job_is_accepted_with_its_first_event(world: World) -> None:
    job = world.submit(seed=None)
    assert job.state is JobState.VALIDATING_FILES
    assert 0 <= job.seed < 2**31
    assert world.service.get(world.caller, job.job_id) == job
    assert world.messages(job) == ["The job is created; its files are checked against llama."]


def test_fifty_requests_with_one_key_make_one_job(world: World) -> None:
    made = run_together([lambda: world.submit(repeat=Repeat(fingerprint="a", key="k"))] * 50)
    assert {job.job_id for job in made if isinstance(job, Job)} == {made[0].job_id}  # type: ignore[union-attr]
    assert len([job for job in made if isinstance(job, Job)]) == 50
    assert len(world.service.list(world.caller).items) == 1


def test_a_key_with_another_body_is_refused(world: World) -> None:
    world.submit(repeat=Repeat(fingerprint="a", key="k"))
    with pytest.raises(IdempotencyMismatchError):
        world.submit(repeat=Repeat(fingerprint="b", key="k"))


def test_a_retry_without_a_key_finds_the_first_job(world: World) -> None:
    first = world.submit(repeat=Repeat(fingerprint="a"))
    assert world.submit(repeat=Repeat(fingerprint="a", retries=1)).job_id == first.job_id
    assert world.submit(repeat=Repeat(fingerprint="a", retries=0)).job_id != first.job_id
    assert world.submit(repeat=Repeat(fingerprint="c", retries=2)).job_id != first.job_id


@pytest.mark.parametrize(
    ("spec", "param"),
    [
        ({"training_file": "file-nope"}, "training_file"),
        ({"validation_file": "file-nope"}, "validation_file"),
        ({"lora": {"target_modules": ["query"]}}, "lora.target_modules"),
        ({"training": {"max_seq_length": 8192}}, "training.max_seq_length"),
    ],
)
def test_a_wrong_field_is_named(world: World, spec: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        world.submit(**spec)
    assert refused.value.param == param
    assert world.service.list(world.caller).items == ()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"purpose": FilePurpose.RESULTS, "status": FileStatus.PROCESSED}, "wrong_file_purpose"),
        ({"status": FileStatus.ERROR, "status_details": "line 3: not JSON"}, "invalid_training_file"),
        ({"status": FileStatus.PROCESSED, "report": {"rows": 9}}, "too_few_examples"),
    ],
)
def test_an_unusable_file_is_refused(world: World, changes: dict[str, object], code: str) -> None:
    with world.store.write() as tx:
        file = add_file(tx, world.caller.team_id, **changes)
    with pytest.raises(InvalidRequestError) as refused:
        world.submit(training_file=file.file_id)
    assert refused.value.code == code


def test_a_model_without_a_chat_template_is_refused(world: World) -> None:
    models = OneModel(FACTS.model_copy(update={"has_chat_template": False}))
    service = Jobs(world.store, Submissions(world.store, models))
    spec = JobSpec(model="base", training_file=world.file_id)
    with pytest.raises(InvalidRequestError, match="no chat template"):
        service.create(world.caller, spec, repeat=Repeat(fingerprint="a"))


def test_a_job_that_no_device_could_hold_is_refused(world: World) -> None:
    small = DeclaredDevice(
        device_id="n/cpu:0", node_name="n", device_type="cpu", kind="cpu", index=0, total_bytes=2 * 2**30
    )
    with world.store.write() as tx:
        devices.record_devices(tx, [small])
    with pytest.raises(CannotFitError, match=r"2\.0 GiB"):
        world.submit()
    with pytest.raises(InvalidRequestError, match="no device of type"):
        world.submit(resources={"device_type": "nvidia-h100"})


def test_a_job_of_more_devices_than_a_node_has_is_refused_with_the_nearest_count(world: World) -> None:
    declared = [
        DeclaredDevice(
            device_id=f"{node}/cpu:{index}",
            node_name=node,
            device_type="cpu",
            kind="cpu",
            index=index,
            total_bytes=64 * 2**30,
        )
        for node, count in (("a", 2), ("b", 1))
        for index in range(count)
    ]
    with world.store.write() as tx:
        devices.record_devices(tx, declared)
    with pytest.raises(CannotFitError, match=r"no node has 3 devices .* nearest is resources\.count 2") as caught:
        world.submit(resources={"count": 3})
    assert caught.value.param == "resources.count"
    assert world.submit(resources={"count": 2}).spec.resources.count == 2


def test_a_job_is_refused_by_what_placement_would_reserve(world: World) -> None:
    """The device holds what is predicted and not what such jobs took; of other lengths nothing is known."""
    fixed = {"max_seq_length": 64}
    plan = resolve_plan(JobSpec(model="llama", training_file="f", training=fixed), FACTS, seed=1)
    raw = estimate_memory(plan, FACTS, "cpu").total_bytes
    enough = DeclaredDevice(
        device_id="n/cpu:0", node_name="n", device_type="cpu", kind="cpu", index=0, total_bytes=raw + 2**20
    )
    with world.store.write() as tx:
        devices.record_devices(tx, [enough])
    world.submit(training=fixed)
    for _ in range(3):
        with world.store.write() as tx:
            attempt = add_attempt(tx, add_queued_job(tx))
            kind = name_kind(plan, base_model="llama", family="llama", device_type="cpu")
            owner = {"attempt_id": attempt.attempt_id, "job_id": attempt.job_id, "team_id": attempt.team_id}
            observations.insert_observation(tx, make_observation(ratio=1.3, kind=kind, **owner))
    service = Jobs(world.store, Submissions(world.store, OneModel(), min_rows=10))
    taught = replace(world, service=service)
    with pytest.raises(CannotFitError, match=rf"needs {1.3 * 1.02 * raw / 2**30:.1f}"):
        taught.submit(training=fixed)
    assert taught.submit().state is JobState.VALIDATING_FILES


def test_viewers_read_and_strangers_see_nothing(world: World) -> None:
    job = world.submit()
    viewer = Caller(key_id="key-2", team_id=world.caller.team_id, team_name="vision", role=Role.VIEWER)
    stranger = Caller(key_id="key-3", team_id="team-other", team_name="other", role=Role.MEMBER)
    assert world.service.get(viewer, job.job_id).job_id == job.job_id
    for verb in (world.service.cancel, world.service.pause, world.service.resume):
        with pytest.raises(ForbiddenError):
            verb(viewer, job.job_id)
    reads: list[Callable[[Caller, str], object]] = [
        world.service.get,
        world.service.cancel,
        world.service.pause,
        world.service.resume,
        world.service.events,
        world.service.logs,
        world.service.metrics,
        world.service.attempts,
        world.service.checkpoints,
        world.service.bill,
    ]
    for verb in reads:
        with pytest.raises(NotFoundError):
            verb(stranger, job.job_id)
    with pytest.raises(ForbiddenError):
        world.submit(caller=viewer)


def test_a_job_that_holds_nothing_is_cancelled_at_once_and_again(world: World) -> None:
    job = world.submit()
    assert world.service.cancel(world.caller, job.job_id).state is JobState.CANCELLED
    assert world.service.cancel(world.caller, job.job_id).state is JobState.CANCELLED
    with pytest.raises(IllegalTransitionError):
        world.service.pause(world.caller, job.job_id)
    with pytest.raises(IllegalTransitionError):
        world.service.resume(world.caller, job.job_id)


def test_a_running_job_is_cancelling_until_its_attempt_ends(world: World) -> None:
    job = world.submit()
    world.start(job)
    cancelling = world.service.cancel(world.caller, job.job_id)
    assert (cancelling.state, cancelling.phase) == (JobState.RUNNING, "cancelling")
    assert cancelling.cancel_requested_at is not None
    again = world.service.cancel(world.caller, job.job_id)
    assert again.cancel_requested_at == cancelling.cancel_requested_at
    assert len([m for m in world.messages(job) if "Cancel was asked" in m]) == 1


def test_a_job_that_succeeded_cannot_be_cancelled(world: World) -> None:
    job = world.submit()
    token = world.start(job)
    with world.store.write() as tx:
        attempt = attempts.list_attempts(tx, job.job_id)[-1]
        attempts.apply_attempt_transition(tx, attempt.attempt_id, token, AttemptState.VERIFYING)
        attempts.end_attempt(tx, attempt.attempt_id, token, succeeded(), ended_at=tx.now())
    with pytest.raises(IllegalTransitionError, match="succeeded already"):
        world.service.cancel(world.caller, job.job_id)


def test_pause_and_resume_of_a_running_job(world: World) -> None:
    job = world.submit()
    token = world.start(job)
    assert world.service.pause(world.caller, job.job_id).state is JobState.PAUSING
    assert world.service.pause(world.caller, job.job_id).state is JobState.PAUSING
    with pytest.raises(IllegalTransitionError, match="still saving"):
        world.service.resume(world.caller, job.job_id)
    with world.store.write() as tx:
        attempt = attempts.list_attempts(tx, job.job_id)[-1]
        attempts.end_attempt(tx, attempt.attempt_id, token, interrupted(), ended_at=tx.now())
    assert world.service.get(world.caller, job.job_id).state is JobState.PAUSED
    resumed = world.service.resume(world.caller, job.job_id)
    assert resumed.state is JobState.VALIDATING_FILES
    assert resumed.pause_requested_at is None


def test_jobs_are_described_with_what_lives_elsewhere(world: World) -> None:
    idle, busy = world.submit(), world.submit()
    world.start(busy)
    found = [world.service.get(world.caller, job.job_id) for job in (idle, busy)]
    extras = world.service.describe(world.caller, found)
    assert extras[idle.job_id].attempt is None
    assert extras[idle.job_id].team_name == "vision"
    assert extras[busy.job_id].attempt is not None
    assert extras[busy.job_id].billed_usd_micros >= 0
